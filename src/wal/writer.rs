//! The writer's thread: takes requests in the order in which they come, writes them as a group, syncs once, acknowledges.
//!
//! ```text
//!  append ---> queue ---> group ---> pwritev ---> fdatasync ---> readable, acknowledged
//!                |         whatever came during     |
//!                |         the last sync            '--- fails ---> the segment is left as it is; the group goes to a fresh
//!                '--- withdrawn: never appended                     one with the same positions; fails again: 503
//! ```
//!
//! Group commit is natural: there is no delay to tune. While one group is being synced the next one gathers.
//!
//! Invariants: positions grow by one in the order of the queue; nothing is acknowledged with [`SyncMode::Always`] before a sync
//! that began after its write has returned without an error; a sync that failed is never tried again; nothing un-synced is
//! readable (with [`SyncMode::Never`]: nothing un-written).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::allocator::{Allocator, Unavailable};
use super::position::{Mark, Place, Position, Readable};
use super::record::{self, HEADER_LEN, Header, NewRecord};
use super::segment::{DATA_START, Seal, Segment, SegmentHeader};
use super::shared::Shared;
use super::sync::atomic::{AtomicU8, Ordering};
use super::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use super::sync::thread;
use super::{Health, Limit, SyncMode, disk};

/// A group is cut at this many bytes: it bounds the time of one sync and the memory that is held during it.
const GROUP_BYTES_MAX: u64 = 4 << 20;
/// ... and at this many records: four parts each, and the kernel takes 1024 parts a call.
const GROUP_RECORDS_MAX: usize = 256;
/// With an interval: a sync comes early when this many bytes wait for one, since their bodies are held until then.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// How long after a failure a fresh segment is tried, if no record comes before.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// A record has its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position.
    pub position: Position,
}

/// A record was not appended, and the log goes on working when it can. Nothing of it is delivered while this process runs; a record
/// whose sync failed may come up again at the next start, if the disk has it after all and did not let us take it back: then it
/// is delivered beside its upstream's repetition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no room: it comes back when targets have taken what they are owed.
    #[error("the log is full: {0}")]
    Full(Limit),
    /// The disk does not take it now.
    #[error("the log cannot be written: {reason}")]
    Unavailable {
        /// What the system says.
        reason: String,
    },
    /// It was withdrawn before the writer came to it.
    #[error("the record was withdrawn")]
    Withdrawn,
    /// Larger than a segment.
    #[error("the record takes {bytes} bytes, a segment holds {max}")]
    TooLarge {
        /// What it would take.
        bytes: u64,
        /// What there is room for.
        max: u64,
    },
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
}

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What the writer is asked for.
pub(super) enum Job {
    Append(Append),
    /// Close the active segment if nothing else is to be done.
    Seal,
}

pub(super) struct Append {
    record: NewRecord,
    claim: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    /// Whatever must live as long as the record's bytes are held: a permit, mostly.
    _keep: Box<dyn Send>,
}

/// Hands records to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Appender {
    queue: Sender<Job>,
    payload_max: u64,
}

impl Appender {
    /// Queues a record. `keep` is dropped when its bytes are no longer held.
    #[must_use]
    pub fn append(&self, record: NewRecord, keep: Box<dyn Send>) -> Ticket {
        let claim = Arc::new(AtomicU8::new(WAITING));
        let (reply, outcome) = oneshot::channel();
        let stored = record.stored_len();
        if stored > self.payload_max {
            let _ = reply.send(Err(AppendError::TooLarge { bytes: stored, max: self.payload_max }));
        } else {
            // A closed queue drops the job, and with it the reply: the ticket says Closed.
            let _ = self.queue.send(Job::Append(Append { record, claim: claim.clone(), reply, _keep: keep }));
        }
        Ticket { claim, outcome }
    }
}

/// A record that was handed to the writer. Dropping it changes nothing: the record is appended all the same.
#[derive(Debug)]
pub struct Ticket {
    claim: Arc<AtomicU8>,
    outcome: oneshot::Receiver<Result<Appended, AppendError>>,
}

impl Ticket {
    /// Takes the record back, if the writer has not come to it yet. After `true` it is never appended; after `false` it has
    /// been or will be, or failed: wait for [`Ticket::outcome`].
    #[must_use]
    pub fn withdraw(&self) -> bool {
        match self.claim.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == WITHDRAWN,
        }
    }

    /// What became of the record. Cancel-safe.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn outcome(&mut self) -> Result<Appended, AppendError> {
        (&mut self.outcome).await.unwrap_or(Err(AppendError::Closed))
    }
}

/// A record that has its position but is not yet known to be durable.
struct Entry {
    header: Header,
    record: NewRecord,
    /// Nobody waits any more when the mode acknowledges before the sync.
    reply: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    _keep: Option<Box<dyn Send>>,
}

/// What came while the last group was synced.
#[derive(Default)]
struct Group {
    records: Vec<Append>,
    seals: bool,
}

struct Active {
    segment: Arc<Segment>,
    /// Where the next record goes.
    offset: u64,
    /// Of what is readable.
    seal: Seal,
}

/// The thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    allocator: Arc<Allocator>,
    sync: SyncMode,
    active: Option<Active>,
    /// No segment is open because none is needed before the next record.
    is_idle: bool,
    /// The last record that was given a position.
    appended: Mark,
    /// The last record that was acknowledged: with [`SyncMode::Always`] a sync covered it.
    acknowledged: Position,
    /// `max_size` was reached: nothing is taken, also not what would still fit, until there is a fresh segment.
    is_full: bool,
    /// Written but not synced (with a failing disk also: not even written).
    unsynced: VecDeque<Entry>,
    unsynced_bytes: u64,
    unsynced_since: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, allocator: Arc<Allocator>, last: Mark) -> Writer {
        Writer {
            sync: shared.options.sync,
            shared,
            allocator,
            active: None,
            is_idle: true,
            appended: last,
            acknowledged: last.position,
            is_full: false,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            unsynced_since: None,
        }
    }

    /// Starts the thread. The first record opens a segment; where readers must learn at once that positions were skipped, it is opened
    /// now. A disk that does not allow it is no reason not to start: the log can be read, and each append tries again.
    pub(super) fn spawn(
        mut self,
        payload_max: u64,
        opens_at_once: bool,
    ) -> io::Result<(Appender, thread::JoinHandle<()>)> {
        let (queue, jobs) = mpsc::channel();
        if opens_at_once {
            self.is_idle = false;
            let _ = self.open_segment();
        } else {
            // So that it is known whether records can be taken.
            let _ = self.allocator.is_ready();
        }
        *self.shared.control.lock().expect("no holder of this lock panics") = Some(queue.clone());
        let thread = thread::Builder::new().name("wal-writer".into()).spawn(move || self.run(&jobs))?;
        Ok((Appender { queue, payload_max }, thread))
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        let _watch = DeathWatch(self.shared.clone());
        while let Some(group) = self.next_group(jobs) {
            self.shared.condition.begin();
            let Group { records, seals } = group;
            if !records.is_empty() {
                self.commit(records);
            } else if seals {
                self.seal_active();
            } else if self.active.is_none() && !self.is_idle {
                // Nobody may come while the log is said not to work.
                let _ = self.open_segment();
            }
            if self.sync_is_due() {
                self.sync_unsynced();
            }
            self.shared.condition.end();
        }
        self.finish();
    }

    /// Waits for the next records; `None` when no more will come. Without any when something else is to be done first.
    fn next_group(&mut self, jobs: &Receiver<Job>) -> Option<Group> {
        let first = match self.due_in() {
            None => jobs.recv().ok()?,
            Some(wait) => match jobs.recv_timeout(wait) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => return Some(Group::default()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut group = Group::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Seal => group.seals = true,
                Job::Append(job) => {
                    match job.claim.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => {
                            bytes += job.record.stored_len();
                            group.records.push(job);
                        }
                        Err(_) => {
                            let _ = job.reply.send(Err(AppendError::Withdrawn));
                        }
                    }
                }
            }
            if bytes >= GROUP_BYTES_MAX || group.records.len() >= GROUP_RECORDS_MAX {
                break;
            }
            next = jobs.try_recv().ok();
        }
        Some(group)
    }

    /// Closes the active segment so that it can be released, and opens none. Only if another one is there for the next record: the one at
    /// hand is worth more than the promise of one.
    fn seal_active(&mut self) {
        let has_records = self.active.as_ref().is_some_and(|active| active.seal.records > 0);
        if has_records && self.unsynced.is_empty() && self.allocator.is_ready() {
            let active = self.active.take().expect("there is one with records");
            self.is_idle = true;
            self.shared.is_open.store(false, Ordering::Release);
            self.retire(&active);
        }
    }

    /// Appends a group, a part for each segment that it reaches into.
    fn commit(&mut self, group: Vec<Append>) {
        let mut jobs = VecDeque::from(group);
        while !jobs.is_empty() {
            // After a failure the records that were acknowledged without a sync come first, or nothing comes.
            if self.active.is_none() && !self.unsynced.is_empty() && self.rescue().is_err() {
                return self.fail(jobs.into_iter().map(|job| job.reply), "an earlier write failed");
            }
            let room = self.active.as_ref().map_or(0, |active| active.segment.data_end_max() - active.offset);
            let mut needed = 0;
            let fitting = jobs
                .iter()
                .take_while(|job| {
                    needed += job.record.stored_len();
                    needed <= room
                })
                .count();
            if fitting == 0 || self.is_full {
                if let Err(error) = self.roll() {
                    let error = AppendError::from(error);
                    for job in jobs {
                        let _ = job.reply.send(Err(error.clone()));
                    }
                    return;
                }
                continue;
            }
            let first_new = self.unsynced.len();
            for job in jobs.drain(..fitting) {
                self.admit(job);
            }
            self.write_new(first_new);
        }
    }

    /// Gives a record its position.
    fn admit(&mut self, job: Append) {
        let Append { record, reply, _keep, .. } = job;
        self.appended = Mark {
            position: self.appended.position.next(),
            total: self.appended.total + record.counts.ledger_samples(),
        };
        let header = Header {
            kind: record.kind,
            flags: record.flags,
            position: self.appended.position,
            total: self.appended.total,
            body_len: u32::try_from(record.body.len()).expect("a record fits a segment"),
            meta_len: u32::try_from(record.meta.len()).expect("the fields are bounded"),
            body_crc: record.body_crc,
            received_ms: record.received_ms,
            counts: record.counts,
            times: record.times,
            unacknowledged: self.appended.position.0 - self.acknowledged.0,
            decoded_len: record.decoded_len,
        };
        self.unsynced_bytes += header.stored_len();
        self.unsynced.push_back(Entry { header, record, reply: Some(reply), _keep: Some(_keep) });
    }

    /// Writes the entries from `first` on, and with [`SyncMode::Always`] syncs them.
    fn write_new(&mut self, first: usize) {
        let written = self.write_entries(first);
        if let Err(error) = written {
            return self.poisoned(&error, "write");
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        match self.sync {
            SyncMode::Always => self.sync_unsynced(),
            SyncMode::Interval(_) => self.acknowledge_new(first),
            SyncMode::Never => self.published(),
        }
    }

    /// Writes the entries from `first` on behind what the active segment holds.
    fn write_entries(&mut self, first: usize) -> io::Result<()> {
        let Active { segment, offset, .. } = self.active.as_mut().expect("records are written to an open segment");
        let start = *offset;
        let mut at = start;
        let headers: Vec<[u8; HEADER_LEN]> = self
            .unsynced
            .range(first..)
            .map(|entry| {
                let bytes = segment.encode(&entry.header, at);
                at += entry.header.stored_len();
                bytes
            })
            .collect();
        const PADDING: [u8; record::ALIGN as usize] = [0; record::ALIGN as usize];
        let mut parts = Vec::with_capacity(headers.len() * 4);
        for (header, entry) in headers.iter().zip(self.unsynced.range(first..)) {
            let padding = entry.header.stored_len() - HEADER_LEN as u64 - entry.header.payload_len();
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&entry.record.meta));
            parts.push(IoSlice::new(&entry.record.body));
            parts.push(IoSlice::new(&PADDING[..usize::try_from(padding).expect("less than a cache line")]));
        }
        // Empty parts would count towards the kernel's limit.
        parts.retain(|part| !part.is_empty());
        segment.write(start, &mut parts)?;
        *offset = at;
        Ok(())
    }

    /// How long to wait for records before something else is to be done.
    fn due_in(&self) -> Option<Duration> {
        if self.active.is_none() {
            return (!self.is_idle).then_some(REOPEN_INTERVAL);
        }
        let SyncMode::Interval(interval) = self.sync else { return None };
        Some(interval.saturating_sub(self.unsynced_since?.elapsed()))
    }

    fn sync_is_due(&self) -> bool {
        self.active.is_some()
            && (self.due_in().is_some_and(|wait| wait.is_zero()) || self.unsynced_bytes >= UNSYNCED_BYTES_MAX)
    }

    /// One sync for everything that was written since the last one.
    fn sync_unsynced(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let Some(active) = &self.active else { return };
        let started = Instant::now();
        match active.segment.sync() {
            Ok(()) => {
                self.shared.observer.synced(started.elapsed(), self.unsynced.len());
                self.shared.durable.store(self.appended.position.0, Ordering::Release);
                self.published();
            }
            Err(error) => self.poisoned(&error, "sync"),
        }
    }

    /// Everything written is readable now, and acknowledged.
    fn published(&mut self) {
        let active = self.active.as_mut().expect("records were written to an open segment");
        let mut newest = self.shared.readable().newest;
        for entry in &self.unsynced {
            let data_end = active.seal.data_end + entry.header.stored_len();
            active.seal.include(&entry.header, data_end);
            newest.include(entry.header.received_ms, entry.header.times.max);
        }
        assert_eq!(active.seal.data_end, active.offset, "what was written is what is published");
        assert_eq!(active.seal.last, self.appended, "positions are given out and published in the same order");
        self.shared.publish(Readable {
            mark: active.seal.last,
            place: Place { segment: active.segment.id(), offset: active.offset },
            newest,
        });
        self.shared.condition.set(Health::Working);
        self.acknowledge_new(0);
        self.unsynced.clear();
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
    }

    fn acknowledge_new(&mut self, first: usize) {
        self.acknowledged = self.appended.position;
        for entry in self.unsynced.range_mut(first..) {
            if let Some(reply) = entry.reply.take() {
                let _ = reply.send(Ok(Appended { position: entry.header.position }));
            }
        }
    }

    /// A write or a sync failed: nobody knows what of it is on disk, and a second sync would lie. The segment ends where it was
    /// readable, and what was not goes to a fresh one under the same positions.
    fn poisoned(&mut self, error: &io::Error, what: &str) {
        let active = self.active.take().expect("only an open segment fails");
        self.shared.is_open.store(false, Ordering::Release);
        tracing::error!(
            path = %active.segment.path().display(), %error, records = self.unsynced.len(),
            "{what} of the log failed; the records that were not durable go to a fresh segment"
        );
        let has_acknowledged = self.unsynced.iter().any(|entry| entry.reply.is_none());
        active.segment.close(active.seal);
        let is_rescued = self.rescue().is_ok();
        // What was acknowledged before its sync is nowhere else on disk until then.
        if is_rescued || !has_acknowledged {
            self.abandon(&active);
        }
        active.segment.release_file();
    }

    /// Takes away what a segment holds beyond its durable records. Without any it is of no use to anybody.
    fn abandon(&self, failed: &Active) {
        failed.segment.abandon(failed.seal.data_end);
        if failed.seal.records == 0 {
            self.shared.remove_segment(failed.segment.id());
            // At once: after a crash its header would cut off what the segment before it holds beyond its durable records.
            let _ = disk::remove(failed.segment.path());
        }
    }

    /// After a failure: a fresh segment, with what was acknowledged before its sync, if there is any.
    fn open_segment(&mut self) -> Result<(), Unavailable> {
        if !self.unsynced.is_empty() {
            return self.rescue();
        }
        self.roll()?;
        self.shared.condition.set(Health::Working);
        Ok(())
    }

    /// Writes what is not durable to a fresh segment. If that does not work either, those who still wait are told, and their
    /// positions are given out anew; what was acknowledged before its sync stays in memory until it works.
    fn rescue(&mut self) -> Result<(), Unavailable> {
        assert!(self.active.is_none(), "a segment that failed was left");
        let result = self.roll().and_then(|()| {
            let attempt = self.write_entries(0).and_then(|()| match self.sync {
                SyncMode::Never => Ok(()),
                _ => self.active.as_ref().expect("just opened").segment.sync(),
            });
            attempt.map_err(|error| {
                let active = self.active.take().expect("just opened");
                self.shared.is_open.store(false, Ordering::Release);
                active.segment.close(active.seal);
                self.abandon(&active);
                active.segment.release_file();
                Unavailable::Failed(format!("writing to a fresh segment: {error}"))
            })
        });
        match result {
            Ok(()) => {
                if self.sync != SyncMode::Never {
                    self.shared.durable.store(self.appended.position.0, Ordering::Release);
                }
                self.published();
                Ok(())
            }
            Err(error) => {
                self.shared.condition.set(Health::from(&error));
                let reason = AppendError::from(error.clone());
                while let Some(last) = self.unsynced.back_mut()
                    && let Some(reply) = last.reply.take()
                {
                    let _ = reply.send(Err(reason.clone()));
                    self.unsynced_bytes -= last.header.stored_len();
                    self.unsynced.pop_back();
                }
                self.appended = match self.unsynced.back() {
                    Some(entry) => Mark { position: entry.header.position, total: entry.header.total },
                    None => self.shared.readable().mark,
                };
                Err(error)
            }
        }
    }

    /// Closes the active segment, if any, and takes the next one into use.
    fn roll(&mut self) -> Result<(), Unavailable> {
        if let Some(active) = &self.active
            && !self.unsynced.is_empty()
        {
            let before = active.segment.id();
            self.sync_unsynced();
            match &self.active {
                Some(active) if active.segment.id() == before => {}
                Some(_) => return Ok(()),
                None => return Err(Unavailable::Failed("a sync of the log failed".into())),
            }
        }
        let prepared = self.allocator.take().inspect_err(|error| {
            self.is_full = matches!(error, Unavailable::Full(_));
        })?;
        self.is_full = false;
        // The old segment ends before the header of the new one can exist: what lies in an older segment at or above the first
        // position of a newer one does not count, so the old one must not grow any more from here on, whatever fails.
        if let Some(old) = self.active.take() {
            self.retire(&old);
        }
        self.is_idle = false;
        let before = match self.unsynced.front() {
            // Positions that a failed segment did not make durable begin the next one.
            Some(entry) => Mark { position: entry.header.position.previous(), total: entry.header.total_before() },
            None => self.appended,
        };
        let header = SegmentHeader {
            id: prepared.id,
            before,
            salt: random_u64(),
            log_id: self.shared.log_id,
            created_ms: now_ms(),
            len: self.shared.options.segment_bytes,
        };
        let path = self.shared.directory.segment_path(prepared.id);
        let failed = |error: io::Error| Unavailable::Failed(format!("taking {} into use: {error}", path.display()));
        let taken = prepared.file.take_into_use(header, path.clone());
        // The name must be durable before anything behind it is acknowledged.
        let taken = taken.and_then(|segment| match self.shared.directory.sync() {
            Ok(()) => Ok(segment),
            Err(error) => {
                let _ = disk::remove(&path);
                Err(error)
            }
        });
        let taken = taken.map_err(failed);
        let segment = Arc::new(taken.inspect_err(|error| {
            self.shared.is_open.store(false, Ordering::Release);
            self.shared.condition.set(Health::from(error));
        })?);
        tracing::debug!(path = %path.display(), "opened a segment");
        self.shared.add_segment(segment.clone());
        self.active = Some(Active { segment, offset: DATA_START, seal: Seal::empty(before) });
        Ok(())
    }

    fn retire(&self, old: &Active) {
        if let Err(error) = old.segment.seal(&old.seal) {
            tracing::warn!(path = %old.segment.path().display(), %error, "cannot seal a segment; it will be scanned at the next start");
        }
        old.segment.close(old.seal);
        old.segment.release_file();
    }

    /// The last sync, and a seal so that the next start has nothing to scan.
    fn finish(mut self) {
        if self.active.is_none() && !self.unsynced.is_empty() {
            let _ = self.rescue();
        }
        self.sync_unsynced();
        if let Some(active) = self.active.take() {
            if active.seal.records > 0 {
                self.retire(&active);
            } else {
                // The next start makes its own.
                let _ = disk::remove(active.segment.path());
            }
        }
    }

    fn fail(&self, replies: impl Iterator<Item = oneshot::Sender<Result<Appended, AppendError>>>, reason: &str) {
        for reply in replies {
            let _ = reply.send(Err(AppendError::Unavailable { reason: reason.to_owned() }));
        }
    }
}

/// If the writer's thread dies of a mistake of ours, everybody must see that nothing is taken any more.
struct DeathWatch(Arc<Shared>);

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.condition.set(Health::Failing("internal error: the writer has stopped; restart promrelay".into()));
        }
    }
}

impl From<Unavailable> for AppendError {
    fn from(error: Unavailable) -> AppendError {
        match error {
            Unavailable::Full(limit) => AppendError::Full(limit),
            Unavailable::Failed(reason) => AppendError::Unavailable { reason },
        }
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    // A salt that can be guessed is still a salt; but there is no Linux on which this fails after boot.
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u64::from_le_bytes(bytes)
}

/// Milliseconds since 1970; a clock before that is 0.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
