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
pub mod disk;
pub mod findings;
pub mod position;
mod prefill;
mod quarantine;
pub mod reader;
pub mod record;
mod recovery;
pub mod segment;
pub mod survey;
pub mod usage;
pub mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use allocator::Allocator;
use directory::Directory;
pub use findings::{Finding, Findings};
pub use position::{Mark, Place, Position, Readable, SegmentId};
pub use prefill::Prefill;
use quarantine::Quarantine;
pub use reader::{Cursor, Record, Step};
use recovery::Unreadable;
pub use recovery::{RecoveryError, Report};
use segment::{BadSegment, DATA_START, Seal, Segment, TRAILER_LEN};
use usage::{Charge, DiskUsage};
pub use writer::{AppendError, Appended, Appender, Ticket};
use writer::{Job, Writer};

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

/// What a start makes of a log that is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// It goes on with everything that can be read, and reports the rest.
    #[default]
    Tolerate,
    /// It ends with an error and changes nothing, if there is more to report than a torn tail.
    Strict,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Most bytes on disk, everything counted; at least twice a segment.
    pub max_bytes: u64,
    /// Bytes that others keep in the log's directory; they count towards `max_bytes`.
    pub overhead: u64,
    /// Bytes of the filesystem that are left to others: with less the log counts as full.
    pub min_free: u64,
    /// When a record counts as appended.
    pub sync: SyncMode,
    /// What is made of damage.
    pub recovery: Recovery,
    /// Whether segments are filled with zeroes ahead of their use.
    pub prefill: Prefill,
}

impl Options {
    /// The usual ones.
    #[must_use]
    pub const fn new(segment_bytes: u64, max_bytes: u64) -> Options {
        Options {
            segment_bytes,
            max_bytes,
            overhead: 0,
            min_free: 0,
            sync: SyncMode::Always,
            recovery: Recovery::Tolerate,
            prefill: Prefill::Never,
        }
    }

    /// Most bytes that a record of a log with such segments can take.
    #[must_use]
    pub fn record_bytes_max(segment_bytes: u64) -> u64 {
        segment_bytes.saturating_sub(DATA_START + TRAILER_LEN) / record::ALIGN * record::ALIGN
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
    /// There is no room for another segment.
    Full(Limit),
    /// The disk does not take it.
    Failing(String),
}

/// What there is no room by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Another segment would exceed [`Options::max_bytes`].
    MaxSize {
        /// The limit.
        bytes: u64,
    },
    /// The filesystem would be left with less than [`Options::min_free`].
    MinFree {
        /// The limit.
        bytes: u64,
        /// What is left.
        free: u64,
    },
    /// The filesystem is full, of bytes or files, or a quota is used up.
    Disk {
        /// What the system says.
        reason: String,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::MaxSize { bytes } => write!(f, "another segment would exceed wal.max_size, {bytes} bytes"),
            Limit::MinFree { bytes, free } => {
                write!(
                    f,
                    "the filesystem has {free} bytes left, and wal.min_free asks for {bytes} beside another segment"
                )
            }
            Limit::Disk { reason } => write!(f, "the filesystem has no room for another segment: {reason}"),
        }
    }
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
    options: Options,
    segments: Mutex<BTreeMap<SegmentId, Arc<Segment>>>,
    /// Files that may be part of the log and could not be read so far.
    unreadable: Mutex<Vec<Unreadable>>,
    findings: Mutex<Findings>,
    quarantine: Quarantine,
    readable: watch::Sender<Readable>,
    /// The last position that a sync covered.
    durable: AtomicU64,
    health: watch::Sender<Health>,
    said: Mutex<Said>,
    busy: Busy,
    /// To the writer; taken away when the log is closed.
    control: Mutex<Option<Sender<Job>>>,
    /// The writer has a segment to write to.
    is_open: AtomicBool,
    /// Why there is no segment allocated ahead, if for want of room.
    lack: watch::Sender<Option<Limit>>,
    /// Of files that are left where they are and are no segments, and of those of others.
    _beside: Vec<Charge>,
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
            segment.closed().map(|seal| Extent { end: seal.data_end, last: seal.last, is_closed: true })
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

    /// What is wrong, counted once; a copy of the bytes is kept if they are in `segment` and there is room.
    fn found(&self, mut finding: Finding, segment: Option<&Segment>) {
        if self.findings().knows(&finding) {
            return;
        }
        finding.kept = match (finding.kind, segment) {
            (findings::Kind::Damage, Some(segment)) => {
                // Two segments are what the log needs to go on.
                let room = self.options.max_bytes.saturating_sub(self.usage.bytes() + 2 * self.options.segment_bytes);
                self.quarantine.keep_range(segment, &finding, room)
            }
            (findings::Kind::Unusable, _) => self.quarantine.take_away(&finding),
            _ => None,
        };
        let mut findings = self.findings();
        if !findings.knows(&finding) {
            findings.add(finding);
        }
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().expect("no holder of this lock panics")
    }

    fn unreadable(&self) -> MutexGuard<'_, Vec<Unreadable>> {
        self.unreadable.lock().expect("no holder of this lock panics")
    }

    /// A file between two segments (or behind the last) that may be part of the log, and still cannot be read. If it can be read by
    /// now, it is a segment from here on.
    fn unreadable_between(&self, after: Option<SegmentId>, before: Option<SegmentId>) -> Option<io::Error> {
        let is_between =
            |id: SegmentId| after.is_none_or(|after| after < id) && before.is_none_or(|before| id < before);
        let file = self.unreadable().iter().find(|file| is_between(file.id)).cloned()?;
        match self.open_late(&file, false) {
            Ok(()) => None,
            Err(BadSegment::Io(error)) => {
                Some(io::Error::new(error.kind(), format!("{}: {error}", file.path.display())))
            }
            Err(why) => {
                self.forget_unreadable(&file, &why.to_string());
                None
            }
        }
    }

    /// Takes what cannot be read between two segments for damaged, as far as it still cannot.
    fn give_up_unreadable_between(&self, after: Option<SegmentId>, before: Option<SegmentId>) {
        let is_between =
            |id: SegmentId| after.is_none_or(|after| after < id) && before.is_none_or(|before| id < before);
        let files: Vec<_> = self.unreadable().iter().filter(|file| is_between(file.id)).cloned().collect();
        for file in files {
            if let Err(why) = self.open_late(&file, true) {
                self.forget_unreadable(&file, &why.to_string());
            }
        }
    }

    fn open_late(&self, file: &Unreadable, takes_unreadable_for_damage: bool) -> Result<(), BadSegment> {
        // One at a time: two readers must not make two segments of one file.
        let mut unreadable = self.unreadable();
        if !unreadable.iter().any(|other| other.id == file.id) {
            return Ok(());
        }
        let end = self.segment_after(file.id).map(|next| next.header().before.position);
        let (segment, found) = recovery::open_late(file, self.log_id, end, takes_unreadable_for_damage, &self.usage)?;
        tracing::info!(path = %file.path.display(), "a segment that could not be read can be read now");
        self.add_segment(segment.clone());
        unreadable.retain(|other| other.id != file.id);
        drop(unreadable);
        for finding in found {
            self.found(finding, Some(&segment));
        }
        Ok(())
    }

    fn forget_unreadable(&self, file: &Unreadable, reason: &str) {
        tracing::error!(path = %file.path.display(), %reason, "a file of the log is given up; nobody knows how much was in it");
        self.unreadable().retain(|other| other.id != file.id);
    }

    /// How much further the samples before `position` have been counted than the totals of records there say: a segment that could not
    /// be read when the next one was made, and can be read now, is not part of the totals of the later ones.
    fn uncounted(&self, position: Position) -> u64 {
        let segments = self.segments();
        let mut uncounted = 0;
        let mut last = Mark::default();
        for segment in segments.values() {
            let before = segment.header().before;
            if before.position > position {
                break;
            }
            uncounted += last.total.saturating_sub(before.total);
            last = segment.closed().map_or(before, |seal| seal.last);
        }
        uncounted
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changed = *now != health;
            // The reason may change with every attempt; that it fails is said once.
            if std::mem::discriminant(now) != std::mem::discriminant(&health) {
                self.say(&health);
            }
            if changed {
                *now = health;
            }
            changed
        });
    }

    /// A log at its limit is full and not full in turn, with every segment: that is said once a minute.
    fn say(&self, health: &Health) {
        let mut said = self.said.lock().expect("no holder of this lock panics");
        let is_quiet = said.since.is_some_and(|since| since.elapsed() < Duration::from_secs(60));
        match health {
            Health::Working if said.is_bad => tracing::info!("the log takes records again"),
            Health::Full(limit) if !is_quiet => tracing::error!(
                %limit,
                "the log is full: upstreams get 503 until targets have taken what they are owed, or something is given up"
            ),
            Health::Failing(reason) if !is_quiet => {
                tracing::error!(%reason, "the log cannot be written: upstreams get 503 until it can");
            }
            _ => {
                said.is_bad = false;
                return;
            }
        }
        let is_bad = *health != Health::Working;
        *said = Said { is_bad, since: if is_bad { Some(Instant::now()) } else { said.since } };
    }
}

/// What was said last about the log's health.
#[derive(Debug, Default)]
struct Said {
    is_bad: bool,
    /// Since something bad was said.
    since: Option<Instant>,
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
        let (mut last, mut newest, mut is_beyond) = (recovered.last, recovered.newest, recovered.is_beyond);
        for floor in savepoints.iter().filter(|floor| recovered.log_id.is_none_or(|ours| ours == floor.log_id)) {
            if floor.settled.position > last.position {
                // Totals of different lives are not compared: those of the log may have fallen behind where it could not be read.
                last = Mark { position: floor.settled.position, total: floor.settled.total.max(last.total) };
                is_beyond = true;
            }
            newest = newest.max(floor.segment);
        }
        let is_new = recovered.is_empty;
        let gone = recovered.last.position.up_to(last.position).filter(|_| !is_new);
        let gone = gone.zip(recovered.segments.last()).map(|(positions, newest)| Finding {
            kind: findings::Kind::Damage,
            segment: newest.id(),
            path: newest.path().to_owned(),
            offset: newest.closed().map_or(0, |seal| seal.data_end),
            bytes: 0,
            positions: Some(positions),
            samples: last.total.saturating_sub(recovered.last.total),
            reason: "savepoints have seen records behind the end of the log; they are gone".into(),
            found_ms: writer::now_ms(),
            kept: None,
        });
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
            readable: watch::Sender::new(Readable { mark: last, place: Place::default() }),
            durable: AtomicU64::new(last.position.0),
            health: watch::Sender::new(Health::Working),
            said: Mutex::default(),
            busy: Busy::default(),
            control: Mutex::new(None),
            is_open: AtomicBool::new(false),
            lack: watch::Sender::new(None),
            _beside: recovered.left_alone.into_iter().chain([usage.charge(overhead)]).collect(),
            usage,
            observer,
        });
        for segment in recovered.segments {
            shared.add_segment(segment);
        }
        for (finding, segment) in recovered.findings.into_iter().chain(gone.map(|finding| (finding, None))) {
            shared.found(finding, segment.as_deref());
        }
        let (allocator, allocator_thread) = Allocator::spawn(shared.clone(), SegmentId(newest.0 + 1))?;
        let writer = Writer::new(shared.clone(), allocator.clone(), last);
        // Readers must come to know that there is nothing up to `last`.
        let opens_at_once = is_beyond && !is_new;
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
        let counted = |mark: Mark| mark.total + self.shared.uncounted(mark.position);
        counted(to).saturating_sub(counted(from))
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

    /// What was released is deleted, and another segment allocated if there is room now. Blocks until that is tried.
    pub fn look_for_room(&self) {
        self.shared.quarantine.recount();
        self.allocator.look_for_room();
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
