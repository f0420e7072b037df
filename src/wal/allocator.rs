//! The helper's thread: allocates the next segment ahead of its use, deletes released ones.
//!
//! Both take long (allocating with a full journal, deleting on a disk that discards) and must not stop the writer. A disk that
//! is full, or a log that has reached its limit, is noticed here, a whole segment early, and tried again every second and
//! whenever something was released.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::position::SegmentId;
use super::segment::Prepared;
use super::{Health, Shared};

/// How long after a failure it is tried again, if nothing was released meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long the writer waits for a segment that is being allocated before it answers "unavailable".
const TAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// There is no segment to write to.
#[derive(Clone, Debug)]
pub(super) enum Unavailable {
    /// Another segment would exceed `max_size`.
    Full { max_bytes: u64 },
    /// The system says no.
    Failed(String),
}

impl From<&Unavailable> for Health {
    fn from(error: &Unavailable) -> Health {
        match error {
            Unavailable::Full { .. } => Health::Full,
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
    delete: Vec<PathBuf>,
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
        let state = State { next_id, ready: None, failure: None, delete: Vec::new(), is_stopping: false };
        let allocator = Arc::new(Allocator { state: Mutex::new(state), changed: Condvar::new(), shared });
        let thread = std::thread::Builder::new().name("wal-allocator".into()).spawn({
            let allocator = allocator.clone();
            move || allocator.run()
        })?;
        Ok((allocator, thread))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// The prepared segment; waits while one is being allocated.
    pub(super) fn take(&self) -> Result<PreparedSegment, Unavailable> {
        let state = self.lock();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, TAKE_TIMEOUT, |state| state.ready.is_none() && state.failure.is_none())
            .expect("no holder of this lock panics");
        if let Some(ready) = state.ready.take() {
            self.changed.notify_all();
            return Ok(ready);
        }
        let failure = state.failure.clone().unwrap_or_else(|| {
            Unavailable::Failed(format!("allocating a segment takes more than {} s", TAKE_TIMEOUT.as_secs()))
        });
        // Still under the lock: a success that comes right after this must be what is seen in the end. And kept, so that the
        // success knows that it has something to say.
        state.failure.get_or_insert_with(|| failure.clone());
        self.shared.set_health(Health::from(&failure));
        Err(failure)
    }

    /// Deletes files, later.
    pub(super) fn delete(&self, paths: Vec<PathBuf>) {
        self.lock().delete.extend(paths);
        self.changed.notify_all();
    }

    /// Ends the thread after the deletions that are still to be done. The prepared segment is removed.
    pub(super) fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let shared = &*self.shared;
        let mut state = self.lock();
        loop {
            let delete = std::mem::take(&mut state.delete);
            if !delete.is_empty() {
                drop(state);
                for path in delete {
                    if let Err(error) = fs::remove_file(&path) {
                        tracing::warn!(path = %path.display(), %error, "cannot delete a released segment");
                    }
                }
                state = self.lock();
                continue;
            }
            if state.is_stopping {
                if let Some(ready) = state.ready.take() {
                    let _ = fs::remove_file(shared.directory.prepared_path(ready.id));
                }
                return;
            }
            if state.ready.is_some() {
                state = self.changed.wait(state).expect("no holder of this lock panics");
                continue;
            }
            let id = state.next_id;
            drop(state);
            let prepared = prepare(shared, id);
            state = self.lock();
            match prepared {
                Ok(file) => {
                    state.next_id = SegmentId(id.0 + 1);
                    state.ready = Some(PreparedSegment { id, file });
                    if state.failure.take().is_some() {
                        shared.set_health(Health::Working);
                    }
                    self.changed.notify_all();
                }
                Err(failure) => {
                    state.failure = Some(failure);
                    self.changed.notify_all();
                    (state, _) =
                        self.changed.wait_timeout(state, RETRY_INTERVAL).expect("no holder of this lock panics");
                }
            }
        }
    }
}

fn prepare(shared: &Shared, id: SegmentId) -> Result<Prepared, Unavailable> {
    let len = shared.segment_bytes;
    if shared.usage.bytes() + len > shared.max_bytes {
        return Err(Unavailable::Full { max_bytes: shared.max_bytes });
    }
    let path = shared.directory.prepared_path(id);
    Prepared::create(path.clone(), len, &shared.usage)
        .map_err(|error| Unavailable::Failed(format!("allocating {len} bytes as {}: {error}", path.display())))
}
