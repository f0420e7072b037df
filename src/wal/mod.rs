//! The write-ahead log: an append-only order of records in segment files.
//!
//! # Promises
//! - A record whose append was acknowledged with [`SyncMode::Always`] survives the death of the process and of the machine.
//! - A record is read back byte for byte, or reported as a [gap](reader::Step::Gap) of exactly so many samples; never in part.
//! - A position is never given out twice to records that anybody has seen.
//! - Opening takes time and memory independent of the log's size: one segment is scanned.
//! - The files together never take more than `max_bytes`.
//!
//! # Left to others
//! What a record means (`receive`), who has read it (`savepoint`), what may be released (`relay`).
//!
//! # How it flows
//! ```text
//!  Appender ---> writer (thread): pwritev, fdatasync ---> Readable (watch) ---> Cursor: copies out of a mapping, verifies
//!                  ^  next segment                                                one per target
//!                  allocator (thread): fallocate ahead, delete
//!
//!  seg-..01.wal (sealed)     seg-..02.wal (sealed)     seg-..03.wal (active)      next-..04.tmp (allocated)
//!  positions 1-4000          4001-7777                 7778-...
//! ```
//! The formats are drawn where they are written: [`segment`] and [`record`].
//!
//! # Invariants
//! - `savepoint(t) <= read(t) <= readable <= appended` for every target `t`.
//! - What lies in a segment at or above the first position of a later one does not exist.
//! - No sync is retried after it failed.
//!
//! This module imports nothing of the crate.

mod allocator;
pub mod directory;
pub mod position;
pub mod reader;
pub mod record;
mod recovery;
pub mod segment;
pub mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use allocator::Allocator;
use directory::Directory;
pub use position::{Mark, Place, Position, Readable, SegmentId};
pub use reader::{Cursor, Record, Step};
pub use recovery::{RecoveryError, Report};
use segment::{DATA_START, DiskUsage, SEAL_LEN, Segment};
use writer::Writer;
pub use writer::{AppendError, Appended, Appender, Ticket};

/// When a record counts as appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// After a sync that covers it. Survives `kill -9`, a crash of the system and a power cut.
    Always,
    /// After it was written; a sync follows within this time. Survives `kill -9`; a crash of the system or a power cut takes
    /// what came in this time.
    Interval(Duration),
    /// After it was written; the system decides when it reaches the disk. Survives `kill -9`; a crash of the system or a power
    /// cut takes what the system had not written yet, mostly half a minute.
    Never,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Most bytes on disk, everything counted; at least twice a segment.
    pub max_bytes: u64,
    /// When a record counts as appended.
    pub sync: SyncMode,
}

impl Options {
    /// Most bytes that a record of a log with such segments can take.
    #[must_use]
    pub fn record_bytes_max(segment_bytes: u64) -> u64 {
        segment_bytes.saturating_sub(DATA_START + SEAL_LEN) / record::ALIGN * record::ALIGN
    }
}

/// What a savepoint asks of the log: to begin nothing at or below it.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// The log that it is of.
    pub log_id: [u8; 16],
    /// What is settled.
    pub settled: Mark,
    /// The segment that it names.
    pub segment: SegmentId,
}

/// Whether appends work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As far as known.
    Working,
    /// `max_bytes` is reached.
    Full,
    /// The disk does not take it.
    Failing(String),
}

/// Is told what the log does, on the log's own threads: be quick.
pub trait Observer: Send + Sync {
    /// A sync that covered `records` records succeeded.
    fn synced(&self, took: Duration, records: usize);
}

/// A segment as people and programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// The first position that it may hold.
    pub first: Position,
    /// The last readable record; before `first` when there is none.
    pub last: Position,
    /// Bytes on disk.
    pub bytes: u64,
}

/// How far a segment reaches for readers.
#[derive(Clone, Copy, Debug)]
struct Extent {
    end: u64,
    last: Mark,
    is_closed: bool,
}

/// After this time in one write or sync the disk is said to hang.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Since when the writer has been at work without waiting for records.
#[derive(Debug, Default)]
struct Busy(Mutex<Option<Instant>>);

impl Busy {
    fn begin(&self) {
        self.0.lock().expect("no holder of this lock panics").get_or_insert_with(Instant::now);
    }

    fn end(&self) {
        *self.0.lock().expect("no holder of this lock panics") = None;
    }

    fn since(&self) -> Option<Duration> {
        self.0.lock().expect("no holder of this lock panics").map(|since| since.elapsed())
    }
}

struct Shared {
    directory: Directory,
    log_id: [u8; 16],
    segment_bytes: u64,
    max_bytes: u64,
    segments: Mutex<BTreeMap<SegmentId, Arc<Segment>>>,
    readable: watch::Sender<Readable>,
    /// The last position that a sync covered.
    durable: AtomicU64,
    health: watch::Sender<Health>,
    busy: Busy,
    usage: DiskUsage,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Shared {
    fn segments(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Arc<Segment>>> {
        self.segments.lock().expect("no holder of this lock panics")
    }

    fn add_segment(&self, segment: Arc<Segment>) {
        self.segments().insert(segment.id(), segment);
    }

    fn remove_segment(&self, id: SegmentId) {
        self.segments().remove(&id);
    }

    fn segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments().get(&id).cloned()
    }

    fn first_segment(&self) -> Option<Arc<Segment>> {
        self.segments().values().next().cloned()
    }

    fn segment_after(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments().range((Bound::Excluded(id), Bound::Unbounded)).next().map(|(_, segment)| segment.clone())
    }

    /// The segment in which a record with this position would be; `None` if the log begins later.
    fn segment_holding(&self, position: Position) -> Option<Arc<Segment>> {
        self.segments().values().rev().find(|segment| segment.header().before.position < position).cloned()
    }

    fn readable(&self) -> Readable {
        *self.readable.borrow()
    }

    fn publish(&self, readable: Readable) {
        self.readable.send_modify(|now| {
            assert!(now.mark.position <= readable.mark.position, "the readable position only grows");
            *now = readable;
        });
    }

    /// One consistent view of a segment: its end and the mark at that end belong together.
    fn extent(&self, segment: &Segment) -> Extent {
        let closed = |segment: &Segment| {
            segment.closed().map(|closed| Extent { end: closed.end, last: closed.last, is_closed: true })
        };
        if let Some(extent) = closed(segment) {
            return extent;
        }
        let readable = self.readable();
        if readable.place.segment == segment.id() {
            return Extent { end: readable.place.offset, last: readable.mark, is_closed: false };
        }
        // Either nothing was published in it yet, or it was closed after the first look: the writer closes a segment before it
        // publishes anything in the next.
        closed(segment).unwrap_or(Extent { end: DATA_START, last: segment.header().before, is_closed: false })
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changed = *now != health;
            // The reason may change with every attempt; that it fails is said once.
            if std::mem::discriminant(now) != std::mem::discriminant(&health) {
                match &health {
                    Health::Working => tracing::info!("the log takes records again"),
                    Health::Full => tracing::error!(
                        max_bytes = self.max_bytes,
                        "the log is full: upstreams get 503 until targets have taken what they are owed"
                    ),
                    Health::Failing(reason) => {
                        tracing::error!(%reason, "the log cannot be written: upstreams get 503 until it can");
                    }
                }
            }
            if changed {
                *now = health;
            }
            changed
        });
    }
}

/// The reading side of the log, and what is known about it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    allocator: Arc<Allocator>,
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened {
    /// For reading.
    pub log: Log,
    /// For writing.
    pub appender: Appender,
    /// What was found.
    pub report: Report,
    /// No segment was there: positions go on above the floor.
    pub is_new: bool,
    /// For closing it.
    pub closer: Closer,
}

/// Ends the log's threads.
#[derive(Debug)]
pub struct Closer {
    writer: JoinHandle<()>,
    allocator: JoinHandle<()>,
    handle: Arc<Allocator>,
}

impl Closer {
    /// Waits until everything appended is synced and sealed. Every [`Appender`] must have been dropped, or this waits for ever.
    pub fn close(self) {
        let Closer { writer, allocator, handle } = self;
        let _ = writer.join();
        handle.stop();
        let _ = allocator.join();
    }
}

impl Log {
    /// Opens the log in a directory, whatever its state, and starts its threads.
    ///
    /// `savepoints` is what targets have settled. After a crash that took the end of the log,
    /// or when its segments were taken away, new positions start above them, so that no target takes a new record for one that it has
    /// settled. Those of another log mean nothing here, unless this one has just been made.
    ///
    /// # Errors
    /// [`RecoveryError`]: something cannot be read now. A disk that cannot be written is no error: see [`Health`].
    pub fn open(
        directory: Directory,
        options: Options,
        savepoints: &[Floor],
        observer: Arc<dyn Observer>,
    ) -> Result<Opened, RecoveryError> {
        let usage = DiskUsage::default();
        let recovered = recovery::recover(&directory, &usage, savepoints)?;
        let (mut last, mut newest) = (recovered.last, recovered.newest);
        for floor in savepoints.iter().filter(|floor| recovered.log_id.is_none_or(|ours| ours == floor.log_id)) {
            last.position = last.position.max(floor.settled.position);
            last.total = last.total.max(floor.settled.total);
            newest = newest.max(floor.segment);
        }
        let is_new = recovered.is_empty;
        let shared = Arc::new(Shared {
            directory,
            log_id: recovered.log_id.unwrap_or_else(random_id),
            segment_bytes: options.segment_bytes,
            max_bytes: options.max_bytes,
            segments: Mutex::default(),
            readable: watch::Sender::new(Readable { mark: last, place: Place::default() }),
            durable: AtomicU64::new(last.position.0),
            health: watch::Sender::new(Health::Working),
            busy: Busy::default(),
            usage,
            observer,
        });
        for segment in recovered.segments {
            shared.add_segment(segment);
        }
        let (allocator, allocator_thread) = Allocator::spawn(shared.clone(), SegmentId(newest.0 + 1))?;
        let writer = Writer::new(shared.clone(), allocator.clone(), options.sync, last);
        let (appender, writer_thread) = writer.spawn(Options::record_bytes_max(options.segment_bytes))?;
        let log = Log { shared, allocator: allocator.clone() };
        let closer = Closer { writer: writer_thread, allocator: allocator_thread, handle: allocator };
        Ok(Opened { log, appender, report: recovered.report, is_new, closer })
    }

    /// The end of what can be read.
    #[must_use]
    pub fn readable(&self) -> Readable {
        self.shared.readable()
    }

    /// The last record that a sync covered. With [`SyncMode::Never`] nothing since the start.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    /// Wakes whenever more can be read.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Readable> {
        self.shared.readable.subscribe()
    }

    /// Whether appends work.
    #[must_use]
    pub fn health(&self) -> Health {
        let health = self.shared.health.borrow().clone();
        match self.shared.busy.since() {
            Some(since) if health == Health::Working && since > HANGS_AFTER => {
                Health::Failing(format!("the disk has not answered for {} s", since.as_secs()))
            }
            _ => health,
        }
    }

    /// A cursor behind `mark`; `place` is where the next record was when the mark was taken.
    #[must_use]
    pub fn cursor(&self, mark: Mark, place: Place) -> Cursor {
        Cursor::new(self.shared.clone(), mark, place)
    }

    /// The mark before the oldest record.
    #[must_use]
    pub fn start(&self) -> Mark {
        self.shared.first_segment().map_or(self.readable().mark, |segment| segment.header().before)
    }

    /// Of this log and no other.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.shared.log_id
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments: Vec<_> = self.shared.segments().values().cloned().collect();
        segments
            .iter()
            .map(|segment| SegmentInfo {
                id: segment.id(),
                first: segment.header().before.position.next(),
                last: self.shared.extent(segment).last.position,
                bytes: segment.disk_bytes(),
            })
            .collect()
    }

    /// Bytes on disk: segments, the one prepared, and deleted ones that somebody still reads.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.shared.usage.bytes()
    }

    /// The limit of [`Log::disk_bytes`].
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.shared.max_bytes
    }

    /// Bytes of records from `place` on.
    #[must_use]
    pub fn bytes_from(&self, place: Place) -> u64 {
        let segments: Vec<_> =
            self.shared.segments().range(place.segment..).map(|(_, segment)| segment.clone()).collect();
        segments
            .iter()
            .map(|segment| {
                let start = if segment.id() == place.segment { place.offset.max(DATA_START) } else { DATA_START };
                self.shared.extent(segment).end.saturating_sub(start)
            })
            .sum()
    }

    /// The end of the oldest segment that could be released: the mark there, and where the next record is.
    #[must_use]
    pub fn oldest_closed_end(&self) -> Option<(Mark, Place)> {
        let segment = self.shared.first_segment()?;
        let closed = segment.closed()?;
        Some((closed.last, Place { segment: segment.id(), offset: closed.end }))
    }

    /// Gives up the segments whose records all lie at or below `settled`. The active segment stays.
    pub fn release(&self, settled: Position) -> Vec<SegmentInfo> {
        let mut released = Vec::new();
        let mut paths = Vec::new();
        self.shared.segments().retain(|_, segment| match segment.closed() {
            Some(closed) if closed.last.position <= settled => {
                released.push(SegmentInfo {
                    id: segment.id(),
                    first: segment.header().before.position.next(),
                    last: closed.last.position,
                    bytes: segment.disk_bytes(),
                });
                paths.push(segment.path().to_owned());
                false
            }
            _ => true,
        });
        if !paths.is_empty() {
            self.allocator.delete(paths);
        }
        released
    }
}

fn random_id() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}
