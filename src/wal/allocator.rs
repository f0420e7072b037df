//! The helper's thread: allocates the next segment ahead of its use, deletes released ones.
//!
//! Both take long (allocating with a full journal, deleting on a disk that discards) and must not stop the writer. A disk that
//! is full, or a log that has reached its limit, is noticed here, a whole segment early, and tried again every second and
//! whenever something was released.
//!
//! Before a segment is allocated: what the log has on disk (deleted files that still are there or are read, and the quarantine,
//! included) and the new one must not exceed `max_bytes`, and the filesystem must have `min_free` left afterwards.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::position::SegmentId;
use super::prefill::{self, Prefill};
use super::segment::{Prepared, Segment};
use super::shared::Shared;
use super::sync::atomic::Ordering;
use super::sync::thread::{self, JoinHandle};
use super::sync::{Condvar, Mutex, MutexGuard};
use super::{Health, Limit, disk};

/// How long after a failure it is tried again, if nothing was released meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long the writer waits for a segment that is being allocated before it answers "unavailable".
const TAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// There is no segment to write to.
#[derive(Clone, Debug)]
pub(super) enum Unavailable {
    /// There is no room.
    Full(Limit),
    /// The system says no.
    Failed(String),
}

impl From<&Unavailable> for Health {
    fn from(error: &Unavailable) -> Health {
        match error {
            Unavailable::Full(limit) => Health::Full(limit.clone()),
            Unavailable::Failed(reason) => Health::Failing(reason.clone()),
        }
    }
}

/// A segment that can be taken into use.
#[derive(Debug)]
pub(super) struct PreparedSegment {
    pub id: SegmentId,
    pub file: Prepared,
}

#[derive(Debug)]
struct State {
    next_id: SegmentId,
    ready: Option<PreparedSegment>,
    failure: Option<Unavailable>,
    /// Released; each is counted until its file is gone.
    delete: Vec<Arc<Segment>>,
    /// Allocations that were begun, and those that have ended.
    begun: u64,
    ended: u64,
    /// Somebody asked for another try since the last one was begun.
    is_asked: bool,
    is_stopping: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Allocator {
    state: Mutex<State>,
    changed: Condvar,
    shared: Arc<Shared>,
}

impl Allocator {
    pub(super) fn spawn(shared: Arc<Shared>, next_id: SegmentId) -> io::Result<(Arc<Allocator>, JoinHandle<()>)> {
        let state = State {
            next_id,
            ready: None,
            failure: None,
            delete: Vec::new(),
            begun: 0,
            ended: 0,
            is_asked: false,
            is_stopping: false,
        };
        let allocator = Arc::new(Allocator { state: Mutex::new(state), changed: Condvar::new(), shared });
        let thread = thread::Builder::new().name("wal-allocator".into()).spawn({
            let allocator = allocator.clone();
            move || allocator.run()
        })?;
        Ok((allocator, thread))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits while a segment is being allocated.
    fn wait(&self) -> MutexGuard<'_, State> {
        let is_busy = |state: &mut State| state.ready.is_none() && state.failure.is_none();
        let waited = self.changed.wait_timeout_while(self.lock(), TAKE_TIMEOUT, is_busy);
        waited.expect("no holder of this lock panics").0
    }

    /// Whether there is a prepared segment; waits while one is being allocated.
    pub(super) fn is_ready(&self) -> bool {
        self.wait().ready.is_some()
    }

    /// The prepared segment; waits while one is being allocated.
    pub(super) fn take(&self) -> Result<PreparedSegment, Unavailable> {
        let mut state = self.wait();
        if let Some(ready) = state.ready.take() {
            // Before the next allocation can fail: as long as there is a segment to write to, that is no trouble.
            self.shared.is_open.store(true, Ordering::Release);
            self.changed.notify_all();
            return Ok(ready);
        }
        let failure = state.failure.clone().unwrap_or_else(|| {
            Unavailable::Failed(format!("allocating a segment takes more than {} s", TAKE_TIMEOUT.as_secs()))
        });
        // Still under the lock: a success that comes right after this must be what is seen in the end. And kept, so that the
        // success knows that it has something to say.
        state.failure.get_or_insert_with(|| failure.clone());
        self.shared.condition.set(Health::from(&failure));
        Err(failure)
    }

    /// Deletes segments, later.
    pub(super) fn delete(&self, segments: Vec<Arc<Segment>>) {
        self.lock().delete.extend(segments);
        self.changed.notify_all();
    }

    /// There may be room now: what was released is deleted, and an allocation tried. Returns when that is done; whether it was, in time.
    pub(super) fn look_for_room(&self) -> bool {
        let mut state = self.lock();
        state.is_asked = true;
        // One that is under way may have looked before there was room.
        let enough = state.begun + 1;
        self.changed.notify_all();
        let is_looking = |state: &mut State| state.ready.is_none() && state.ended < enough && !state.is_stopping;
        let waited = self.changed.wait_timeout_while(state, TAKE_TIMEOUT, is_looking);
        let (mut state, _) = waited.expect("no holder of this lock panics");
        !is_looking(&mut state)
    }

    /// Ends the thread after the deletions that are still to be done. The prepared segment is removed.
    pub(super) fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let shared = &*self.shared;
        let mut fills = match shared.options.prefill {
            Prefill::Never => Some(false),
            Prefill::Always => Some(true),
            Prefill::Auto => None,
        };
        let mut is_first = true;
        // What could not be deleted stays counted, and is tried again.
        let mut undeleted: Vec<Arc<Segment>> = Vec::new();
        let mut state = self.lock();
        loop {
            let delete = std::mem::take(&mut state.delete);
            if !delete.is_empty() {
                drop(state);
                undeleted.extend(delete);
                undeleted.retain(|segment| !is_deleted(segment));
                state = self.lock();
                continue;
            }
            if state.is_stopping {
                if let Some(ready) = state.ready.take() {
                    let _ = disk::remove(&shared.directory.prepared_path(ready.id));
                }
                return;
            }
            if state.ready.is_some() {
                state = if undeleted.is_empty() {
                    self.changed.wait(state).expect("no holder of this lock panics")
                } else {
                    self.changed.wait_timeout(state, RETRY_INTERVAL).expect("no holder of this lock panics").0
                };
                state.delete.append(&mut undeleted);
                continue;
            }
            let id = state.next_id;
            state.begun += 1;
            state.is_asked = false;
            drop(state);
            // The first one is waited for.
            let prepared = if std::mem::take(&mut is_first) {
                prepare(shared, id)
            } else {
                prepare(shared, id).and_then(|file| filled(shared, file, &mut fills))
            };
            state = self.lock();
            state.ended += 1;
            shared.lack.send_replace(match &prepared {
                Err(Unavailable::Full(limit)) => Some(limit.clone()),
                _ => None,
            });
            match prepared {
                Ok(file) => {
                    state.next_id = SegmentId(id.0 + 1);
                    state.ready = Some(PreparedSegment { id, file });
                    if state.failure.take().is_some() {
                        shared.condition.set(Health::Working);
                    }
                    self.changed.notify_all();
                }
                Err(failure) => {
                    // As long as there is a segment to write to, records are taken.
                    shared.condition.set_if(Health::from(&failure), || !shared.is_open.load(Ordering::Acquire));
                    state.failure = Some(failure);
                    self.changed.notify_all();
                    let is_idle = |state: &mut State| !state.is_asked && state.delete.is_empty() && !state.is_stopping;
                    (state, _) = self
                        .changed
                        .wait_timeout_while(state, RETRY_INTERVAL, is_idle)
                        .expect("no holder of this lock panics");
                    state.delete.append(&mut undeleted);
                }
            }
        }
    }
}

fn is_deleted(segment: &Segment) -> bool {
    match disk::remove(segment.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %segment.path().display(), %error, "cannot delete a released segment; it is tried again");
            false
        }
        _ => true,
    }
}

fn prepare(shared: &Shared, id: SegmentId) -> Result<Prepared, Unavailable> {
    let options = &shared.options;
    let len = options.segment_bytes;
    if shared.usage.bytes() + len > options.max_bytes {
        return Err(Unavailable::Full(Limit::MaxSize { bytes: options.max_bytes }));
    }
    // A filesystem that does not say what is free will say when it is full.
    if options.min_free > 0
        && let Ok(free) = disk::free_bytes(shared.directory.path())
        && free < options.min_free + len
    {
        return Err(Unavailable::Full(Limit::MinFree { bytes: options.min_free, free }));
    }
    let path = shared.directory.prepared_path(id);
    Prepared::create(path.clone(), len, &shared.usage)
        .map_err(|error| unavailable(&error, &format!("allocating {len} bytes as {}", path.display())))
}

/// Fills a segment with zeroes if that is wanted; finds out whether it is.
fn filled(shared: &Shared, file: Prepared, fills: &mut Option<bool>) -> Result<Prepared, Unavailable> {
    let fill = match *fills {
        Some(fill) => Ok(fill),
        None => prefill::pays(&file, shared.options.segment_bytes).inspect(|pays| {
            tracing::info!(pays, "measured whether segments filled ahead make syncs faster (wal.prefill = \"auto\")");
            *fills = Some(*pays);
        }),
    };
    match fill.and_then(|fill| if fill { file.fill() } else { Ok(()) }) {
        Ok(()) => Ok(file),
        Err(error) => {
            let failure = unavailable(&error, "filling a segment with zeroes");
            file.remove();
            Err(failure)
        }
    }
}

fn unavailable(error: &io::Error, what: &str) -> Unavailable {
    let reason = format!("{what}: {error}");
    if disk::is_full(error) { Unavailable::Full(Limit::Disk { reason }) } else { Unavailable::Failed(reason) }
}
