//! The write-ahead log: an append-only order of records in segment files. What targets are owed waits here (`V1-45`).
//!
//! # Promises
//! - A record whose append was acknowledged with [`SyncMode::Always`] survives the death of the process and of the machine.
//! - A record is read back byte for byte, or reported as a [gap](reader::Step::Gap) of exactly so many samples; never in part.
//! - A position is never given out twice to records that anybody has seen.
//! - Opening takes two small reads for each segment, and a scan of each that has no seal: mostly one.
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
pub mod disk;
pub mod findings;
mod health;
mod options;
pub mod position;
mod prefill;
mod quarantine;
pub mod reader;
pub mod record;
mod recovery;
pub mod segment;
mod shared;
pub mod survey;
mod sync;
pub mod usage;
pub mod writer;

#[cfg(test)]
pub(crate) mod faults;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
#[cfg(test)]
mod model;
#[cfg(test)]
mod numbered;
#[cfg(test)]
pub(crate) mod powercut;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wakeups;

use std::sync::Arc;
use std::time::Duration;

use allocator::Allocator;
use directory::Directory;
pub use findings::{Finding, Findings};
use health::Condition;
pub use health::{Health, Limit};
pub use options::{Options, Recovery, SyncMode};
pub use position::{Mark, Newest, Place, Position, Readable, SegmentId};
pub use prefill::Prefill;
use quarantine::Quarantine;
pub use reader::{Cursor, Record, Step};
pub use recovery::{RecoveryError, Report};
use segment::{DATA_START, Seal};
use shared::Shared;
use sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sync::thread::JoinHandle;
use sync::{Mutex, watch};
use usage::DiskUsage;
pub use writer::{AppendError, Appended, Appender, Ticket};
use writer::{Job, Writer};

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
    /// What it holds, if nothing will be added to it.
    pub closed: Option<Seal>,
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
        handle.shared().control.lock().expect("no holder of this lock panics").take();
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
        let recovered = recovery::recover(&directory, &usage, savepoints, options.segment_bytes, options.recovery)?;
        let (last, newest) = (recovered.last, recovered.newest);
        let is_new = recovered.is_empty;
        // A filesystem may need a block more for a file that was written in pieces.
        let overhead = options.overhead + options.max_bytes / options.segment_bytes * segment::PAGE;
        let quarantine = Quarantine::open(directory.quarantine_path(), options.max_bytes, &usage);
        let shared = Arc::new(Shared {
            directory,
            log_id: recovered.log_id.unwrap_or_else(random_id),
            options,
            segments: Mutex::default(),
            unreadable: Mutex::new(recovered.unreadable),
            findings: Mutex::default(),
            quarantine,
            readable: watch::Sender::new(Readable { mark: last, place: Place::default(), newest: Newest::default() }),
            durable: AtomicU64::new(last.position.0),
            condition: Condition::new(),
            control: Mutex::new(None),
            is_open: AtomicBool::new(false),
            lack: watch::Sender::new(None),
            _beside: recovered.left_alone.into_iter().chain([usage.charge(overhead)]).collect(),
            usage,
            observer,
        });
        let mut newest_data = Newest::default();
        for segment in recovered.segments {
            if let Some(seal) = segment.closed().filter(|seal| seal.records > 0) {
                newest_data.include(seal.received_ms.1, seal.times.max);
            }
            shared.add_segment(segment);
        }
        shared.readable.send_modify(|readable| readable.newest = newest_data);
        for (finding, segment) in recovered.findings {
            shared.found(finding, segment.as_deref());
        }
        let (allocator, allocator_thread) = Allocator::spawn(shared.clone(), SegmentId(newest.0 + 1))?;
        let writer = Writer::new(shared.clone(), allocator.clone(), last);
        // Readers must come to know that there is nothing up to `last`.
        let opens_at_once = recovered.is_beyond && !is_new;
        let (appender, writer_thread) =
            writer.spawn(Options::record_bytes_max(options.segment_bytes), opens_at_once)?;
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
        self.shared.condition.now()
    }

    /// A cursor behind `mark`; `place` is where the next record was when the mark was taken.
    #[must_use]
    pub fn cursor(&self, mark: Mark, place: Place) -> Cursor {
        Cursor::new(self.shared.clone(), mark, place)
    }

    /// The mark before the oldest record.
    #[must_use]
    pub fn start(&self) -> Mark {
        // Looked up first: with the first segment there is more to read than now.
        let readable = self.readable().mark;
        let first = self.shared.first_segment();
        let is_before = |id: SegmentId| first.as_ref().is_none_or(|first| id < first.id());
        if self.shared.unreadable().iter().any(|file| is_before(file.id)) {
            return Mark::BEGINNING;
        }
        first.map_or(readable, |segment| segment.header().before)
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
                closed: segment.closed().copied(),
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
        self.shared.options.max_bytes
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.shared.options.segment_bytes
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

    /// Samples between two points of the log, also where the totals in it do not tell.
    #[must_use]
    pub fn samples_between(&self, from: Mark, to: Mark) -> u64 {
        self.shared.samples_between(from, to)
    }

    /// The end of the oldest segment that could be released: the mark there, and where the next record is.
    #[must_use]
    pub fn oldest_closed_end(&self) -> Option<(Mark, Place)> {
        let segment = self.shared.first_segment()?;
        let seal = segment.closed()?;
        Some((seal.last, Place { segment: segment.id(), offset: seal.data_end }))
    }

    /// Gives up the segments whose records all lie at or below `settled`. The active segment stays.
    pub fn release(&self, settled: Position) -> Vec<SegmentInfo> {
        self.release_unless(settled, |_| false)
    }

    /// The same, up to the first one that somebody wants kept.
    pub fn release_unless(&self, settled: Position, mut is_kept: impl FnMut(&Seal) -> bool) -> Vec<SegmentInfo> {
        let mut released = Vec::new();
        let mut deleted = Vec::new();
        let mut segments = self.shared.segments();
        // From the oldest on: what is behind a segment that stays, stays.
        while let Some(oldest) = segments.first_entry() {
            let segment = oldest.get();
            let Some(seal) = segment.closed().copied() else { break };
            if seal.last.position > settled || is_kept(&seal) {
                break;
            }
            released.push(SegmentInfo {
                id: segment.id(),
                first: segment.header().before.position.next(),
                last: seal.last.position,
                bytes: segment.disk_bytes(),
                closed: Some(seal),
            });
            deleted.push(oldest.remove());
        }
        drop(segments);
        if !deleted.is_empty() {
            self.allocator.delete(deleted);
        }
        released
    }

    /// Closes the active segment, if there are records in it and none are waiting, so that it can be released. The next record opens
    /// another. Returns at once.
    pub fn seal_active(&self) {
        if let Some(writer) = &*self.shared.control.lock().expect("no holder of this lock panics") {
            let _ = writer.send(Job::Seal);
        }
    }

    /// What was released is deleted, and another segment allocated if there is room now. Blocks until that is tried; `false`: it takes
    /// long.
    pub fn look_for_room(&self) -> bool {
        self.shared.quarantine.recount();
        self.allocator.look_for_room()
    }

    /// Tells when there is no room for a segment ahead: the one at hand takes records until it is full, then the log is.
    #[must_use]
    pub fn lack_of_room(&self) -> watch::Receiver<Option<Limit>> {
        self.shared.lack.subscribe()
    }

    /// In a full log: deletes the oldest thing in quarantine. Whether there was one.
    pub fn drop_from_quarantine(&self) -> bool {
        self.shared.quarantine.drop_oldest()
    }

    /// What was found wrong so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.shared.findings().clone()
    }

    /// The point before the record at `place`, if there is one.
    #[must_use]
    pub fn mark_at(&self, place: Place) -> Option<Mark> {
        let segment = self.shared.segment(place.segment)?;
        let header = segment.read_header(place.offset, self.shared.extent(&segment).end).ok()??;
        Some(Mark { position: header.position.previous(), total: header.total_before() })
    }

    /// The point before the first record that was received at or after `received_ms`; the end, if there is none. Reads headers of one
    /// segment.
    #[must_use]
    pub fn mark_at_time(&self, received_ms: i64) -> (Mark, Place) {
        let end = self.readable();
        let segments: Vec<_> = self.shared.segments().values().cloned().collect();
        for segment in segments {
            if segment.closed().is_some_and(|seal| seal.records > 0 && seal.received_ms.1 < received_ms) {
                continue;
            }
            let extent = self.shared.extent(&segment);
            if let Some(found) = segment.first_record(extent.end, |header| header.received_ms >= received_ms) {
                return found;
            }
        }
        (end.mark, end.place)
    }

    /// The point before the record at `position`, or before the next one that there is; the end, if there is none. Reads headers of one
    /// segment.
    #[must_use]
    pub fn mark_before(&self, position: Position) -> (Mark, Place) {
        let end = self.readable();
        let holding = self.shared.segment_holding(position).or_else(|| self.shared.first_segment());
        let mut next = holding;
        while let Some(segment) = next {
            let extent = self.shared.extent(&segment);
            if let Some(found) = segment.first_record(extent.end, |header| header.position >= position) {
                return found;
            }
            next = self.shared.segment_after(segment.id());
        }
        (end.mark, end.place)
    }
}

fn random_id() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}
