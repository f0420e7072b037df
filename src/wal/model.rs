//! The log against a model of it that is a list of records: whatever is asked of it, and wherever it is cut off.
//!
//! A *run* is a number of *lives* of one log. In a life records are appended, read, released, segments closed; it ends with a clean
//! stop, a `kill -9` or a power cut, the last two at any call to the disk (see [`super::powercut`]). Now and then somebody damages a
//! sealed segment in between. Beside the end that is gone on from, each life is cut off at a few other calls, and what the log makes
//! of that is looked at too.
//!
//! The model says of each record whether it must be readable, may be, or must not be:
//!
//! | end of the life | must | may |
//! |---|---|---|
//! | clean stop, `kill -9` | what was acknowledged | what was not, and what was released |
//! | power cut, `sync = "always"` | what was acknowledged | the same |
//! | power cut, other modes | what was acknowledged before the last sync began | the same, and what was acknowledged since |
//!
//! What is not there is a gap of exactly its samples. `PROMRELAY_MODEL_RUNS` runs are made (a few by default) from
//! `PROMRELAY_MODEL_SEED` on; a failure names its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tempfile::TempDir;

use super::disk::{self, Watch};
use super::findings::Kind as Found;
use super::numbered::{Numbered, Silent, append_all};
use super::powercut::{self, Contents, Image, Tape, scratch};
use super::segment::SegmentHeader;
use super::*;

const SEGMENT: u64 = 64 << 10;
const MAX_BYTES: u64 = 16 * SEGMENT;
/// Other calls at which a life is cut off.
const OTHER_ENDS: usize = 2;

/// Whether a record is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Must,
    May,
    MustNot,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    record: Numbered,
    /// Samples of all records up to this one.
    total: u64,
    fate: Fate,
    /// Where it was read.
    found: Option<Place>,
}

/// What should be in the log.
#[derive(Clone, Debug, Default)]
struct Model {
    /// By their positions. Of a position that was given out again, the newest.
    entries: BTreeMap<u64, Entry>,
    log_id: Option<[u8; 16]>,
    /// Records up to here were released.
    released: u64,
    /// Where readers have been.
    marks: Vec<(Mark, Place)>,
    /// Segments that somebody has damaged: once is enough.
    damaged: BTreeSet<u64>,
}

impl Model {
    /// Samples of the records behind one position up to another.
    fn samples(&self, from: Position, to: Position) -> u64 {
        self.entries.range(from.0 + 1..=to.0).map(|(_, entry)| entry.record.samples()).sum()
    }

    fn has_mark(&self, mark: Mark) -> bool {
        mark.position.0 == 0 || self.entries.get(&mark.position.0).is_some_and(|entry| entry.total == mark.total)
    }

    /// One step of a reader that stood at `before`.
    fn check(&mut self, before: Mark, step: &Step, tally: &mut Tally) {
        match step {
            Step::Record(record) => {
                let position = record.header.position;
                assert!(position > before.position, "{position} comes after {}", before.position);
                assert_eq!(record.header.total_before(), before.total, "samples before {position} are nowhere");
                let entry =
                    self.entries.get_mut(&position.0).unwrap_or_else(|| panic!("nothing was put at {position}"));
                assert_eq!(Numbered::of(record), entry.record, "another record than was put at {position}");
                assert_eq!(record.header.total, entry.total, "the total at {position}");
                assert_ne!(entry.fate, Fate::MustNot, "{position} was gone");
                let len = record.header.stored_len();
                entry.found = Some(Place { offset: record.next.offset - len, ..record.next });
                tally.read += 1;
            }
            Step::Gap { from, to, reason, .. } => {
                assert_eq!(*from, before);
                let is_there = |entry: &Entry| entry.fate == Fate::Must;
                let missing: Vec<_> = self.entries.range(from.position.0 + 1..=to.position.0).collect();
                let must: Vec<_> = missing.iter().filter(|(_, entry)| is_there(entry)).collect();
                assert!(must.is_empty(), "{reason}: these must be there: {must:?}");
                assert_eq!(
                    to.total - from.total,
                    self.samples(from.position, to.position),
                    "{reason}: the gap's samples"
                );
                tally.gaps += 1;
            }
            Step::Unreadable(error) => panic!("nothing was unreadable: {error}"),
            Step::End => {}
        }
    }

    /// Reads to the end. The positions found.
    fn read(&mut self, cursor: &mut Cursor, tally: &mut Tally) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        loop {
            let before = cursor.mark();
            let step = cursor.next_step();
            self.check(before, &step, tally);
            match step {
                Step::Record(record) => found.insert(record.header.position.0),
                Step::End => return found,
                _ => continue,
            };
        }
    }

    /// Reads a log that was just opened, and knows afterwards what is left.
    fn reopened(&mut self, log: &Log, tally: &mut Tally) {
        let (start, end) = (log.start(), log.readable().mark);
        let mut cursor = log.cursor(start, Place::default());
        let found = self.read(&mut cursor, tally);
        if !log.segments().is_empty() {
            assert_eq!(cursor.mark(), end, "a reader at the end has seen everything");
        }
        let outside = |position: u64| position <= start.position.0 || position > end.position.0;
        for (position, entry) in &self.entries {
            assert!(
                !(entry.fate == Fate::Must && outside(*position)),
                "{position} is not in the log: {start:?} to {end:?}"
            );
        }
        // What is behind the end is as if it had never been: its positions are free.
        self.entries.retain(|position, _| *position <= end.position.0);
        for (position, entry) in &mut self.entries {
            if entry.fate == Fate::May && *position > self.released {
                entry.fate = if found.contains(position) { Fate::Must } else { Fate::MustNot };
            }
        }
        let mut marks = std::mem::take(&mut self.marks);
        marks.retain(|(mark, _)| mark.position <= end.position && self.has_mark(*mark));
        self.marks = marks;
    }

    /// New records, as they were answered.
    fn append(&mut self, records: &[Numbered], answers: &[Result<Appended, AppendError>], last: &mut Mark) -> Vec<u64> {
        let mut positions = Vec::new();
        for (record, answer) in records.iter().zip(answers) {
            match answer {
                Ok(Appended { position }) => {
                    assert_eq!(*position, last.position.next(), "positions are dense");
                    *last = Mark { position: *position, total: last.total + record.samples() };
                    let entry = Entry { record: *record, total: last.total, fate: Fate::Must, found: None };
                    self.entries.insert(position.0, entry);
                    positions.push(position.0);
                }
                Err(AppendError::Full(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        positions
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    PowerCut,
}

#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    lives: u64,
    kills: u64,
    power_cuts: u64,
    appended: u64,
    read: u64,
    gaps: u64,
    torn_tails: u64,
    damages: u64,
    floors: u64,
}

/// A log that is open, and what was noted of its life.
struct Life {
    log: Log,
    appender: Appender,
    closer: Closer,
    tape: Arc<Tape>,
    directory: TempDir,
    _watch: Watch,
    /// Events there were when it was open.
    opened: usize,
    /// The last record.
    last: Mark,
    /// More than the limit if a power cut has brought back what was released.
    bytes_max: u64,
    /// Positions with the number of events at their acknowledgement.
    acknowledged: Vec<(u64, usize)>,
}

impl Life {
    fn begin(contents: &Contents, base: Image, sync: SyncMode, floors: &[Floor], tally: &mut Tally) -> Life {
        let directory = scratch();
        powercut::write_to(directory.path(), contents);
        let tape = Arc::new(Tape::new(directory.path(), base));
        let watch = disk::watch(directory.path(), tape.clone());
        let options = Options { sync, ..Options::new(SEGMENT, MAX_BYTES) };
        let locked = Directory::open(directory.path()).unwrap();
        let opened = Log::open(locked, options, floors, Arc::new(Silent)).unwrap();
        tally.lives += 1;
        tally.torn_tails += u64::from(opened.report.torn_bytes > 0);
        let Opened { log, appender, closer, .. } = opened;
        let (last, at) = (log.readable().mark, tape.len());
        let bytes_max = log.disk_bytes().max(MAX_BYTES);
        Life {
            log,
            appender,
            closer,
            tape,
            directory,
            _watch: watch,
            opened: at,
            last,
            bytes_max,
            acknowledged: vec![],
        }
    }

    fn end(self) -> (Arc<Tape>, TempDir) {
        drop(self.appender);
        self.closer.close();
        (self.tape, self.directory)
    }
}

/// A run: the model, what chance says, and where the log is.
struct Run<'a> {
    rng: Rng,
    sync: SyncMode,
    model: Model,
    /// Of the next record.
    number: u64,
    tally: &'a mut Tally,
}

impl Run<'_> {
    fn go(&mut self) {
        let (mut contents, mut base) = (Contents::new(), Image::default());
        for _ in 0..self.rng.usize(3..8) {
            let floors = self.floors();
            let was_durable = base.is_durable();
            let mut life = Life::begin(&contents, base, self.sync, &floors, self.tally);
            self.look(&life.log, &floors);
            self.live(&mut life);
            let (log, acknowledged, opened) = (life.log.clone(), std::mem::take(&mut life.acknowledged), life.opened);
            let (tape, directory) = life.end();
            assert_eq!(tape.image(tape.len()).killed(), powercut::read_from(directory.path()), "the tape is not true");
            drop((log, directory));

            for _ in 0..OTHER_ENDS {
                let end = if self.rng.bool() { End::Kill } else { End::PowerCut };
                let (model, at) = (self.model.clone(), self.any_event(&tape, end, opened, was_durable));
                self.cut(&tape, at, end, &acknowledged);
                let (contents, base) = self.left(&tape, at, end);
                self.peek(&contents, base);
                self.model = model;
            }
            let end = [End::Stop, End::Kill, End::PowerCut, End::PowerCut][self.rng.usize(..4)];
            let at = self.any_event(&tape, end, opened, was_durable);
            self.cut(&tape, at, end, &acknowledged);
            (contents, base) = self.left(&tape, at, end);
            if base.is_durable() && self.rng.u8(..4) == 0 {
                self.damage(&mut contents);
                base = Image::durable(&contents);
            }
        }
        self.peek(&contents, base);
    }

    /// What a savepoint would ask for, sometimes.
    fn floors(&mut self) -> Vec<Floor> {
        let (Some(log_id), Some((settled, place))) = (self.model.log_id, self.rng.choice(self.model.marks.clone()))
        else {
            return Vec::new();
        };
        if self.rng.bool() {
            return Vec::new();
        }
        self.tally.floors += 1;
        vec![Floor { log_id, settled, segment: place.segment }]
    }

    /// A log that was just opened.
    fn look(&mut self, log: &Log, floors: &[Floor]) {
        self.model.log_id = Some(log.id());
        self.model.reopened(log, self.tally);
        for floor in floors {
            assert!(log.readable().mark.position >= floor.settled.position, "new positions start above the savepoint");
        }
        if self.sync == SyncMode::Always && self.model.damaged.is_empty() {
            let findings = log.findings().list;
            let damage = findings.iter().find(|finding| finding.kind != Found::Missing && finding.bytes > 0);
            assert!(damage.is_none(), "nobody damaged anything: {damage:?}");
        }
    }

    /// Looks at what was left, appends a record and looks again.
    fn peek(&mut self, contents: &Contents, base: Image) {
        let mut life = Life::begin(contents, base, self.sync, &[], self.tally);
        self.look(&life.log, &[]);
        self.append(&mut life, 1);
        let (_, directory) = life.end();
        let contents = powercut::read_from(directory.path());
        let life = Life::begin(&contents, Image::durable(&contents), self.sync, &[], self.tally);
        self.look(&life.log, &[]);
        life.end();
    }

    fn append(&mut self, life: &mut Life, count: usize) {
        let records: Vec<_> = (0..count)
            .map(|_| {
                self.number += 1;
                let len = match self.rng.u8(..10) {
                    0..5 => self.rng.usize(8..600),
                    5..9 => self.rng.usize(600..8000),
                    _ => self.rng.usize(8000..50_000),
                };
                Numbered { number: self.number, len }
            })
            .collect();
        let answers = append_all(&life.appender, &records);
        let positions = self.model.append(&records, &answers, &mut life.last);
        let bytes = life.log.disk_bytes();
        assert!(bytes <= life.bytes_max, "{bytes} bytes on disk");
        self.tally.appended += positions.len() as u64;
        let at = life.tape.len();
        life.acknowledged.extend(positions.into_iter().map(|position| (position, at)));
    }

    fn live(&mut self, life: &mut Life) {
        let mut kept = None;
        for _ in 0..self.rng.usize(2..25) {
            match self.rng.u8(..10) {
                0..5 => {
                    let count = self.rng.usize(1..6);
                    self.append(life, count);
                }
                5 | 6 => {
                    let cursor = kept.get_or_insert_with(|| life.log.cursor(life.log.start(), Place::default()));
                    for _ in 0..self.rng.usize(1..30) {
                        let before = cursor.mark();
                        let step = cursor.next_step();
                        self.model.check(before, &step, self.tally);
                        if let Step::Record(record) = step {
                            self.model.marks.push((record.mark(), record.next));
                        }
                    }
                }
                7 => {
                    let (mark, place) = self.rng.choice(self.model.marks.clone()).unwrap_or_default();
                    let place = if self.rng.bool() { place } else { Place::default() };
                    let end = life.log.readable().mark.position;
                    let mut cursor = life.log.cursor(mark, place);
                    self.model.read(&mut cursor, self.tally);
                    let is_told = cursor.mark().position >= end || life.log.segments().is_empty();
                    assert!(is_told, "a reader goes to the end");
                }
                8 => {
                    let (mark, _) = self.rng.choice(self.model.marks.clone()).unwrap_or_default();
                    for segment in life.log.release(mark.position) {
                        assert!(segment.last <= mark.position);
                        self.model.released = self.model.released.max(segment.last.0);
                        let gone = self.model.entries.range_mut(..=segment.last.0);
                        gone.filter(|(_, entry)| entry.fate == Fate::Must)
                            .for_each(|(_, entry)| entry.fate = Fate::May);
                    }
                }
                _ => life.log.seal_active(),
            }
        }
    }

    fn any_event(&mut self, tape: &Tape, end: End, opened: usize, was_durable: bool) -> usize {
        // Of what was found after a kill nobody knows what a power cut takes until it has been looked through.
        let first = if was_durable { 0 } else { opened };
        if end == End::Stop { tape.len() } else { self.rng.usize(first..=tape.len()) }
    }

    /// What must and what may be there after a life that ended so.
    fn cut(&mut self, tape: &Tape, at: usize, end: End, acknowledged: &[(u64, usize)]) {
        let must_before = match (end, self.sync) {
            (End::Stop | End::Kill, _) | (_, SyncMode::Always) => at,
            _ => tape.last_sync(at).unwrap_or(0),
        };
        for (position, event) in acknowledged {
            if *event > must_before {
                let entry = self.model.entries.get_mut(position).expect("it was appended in this life");
                entry.fate = Fate::May;
            }
        }
    }

    /// What is left of the directory.
    fn left(&mut self, tape: &Tape, at: usize, end: End) -> (Contents, Image) {
        let image = tape.image(at);
        match end {
            End::PowerCut => {
                self.tally.power_cuts += 1;
                let contents = image.cut(&mut self.rng);
                let base = Image::durable(&contents);
                (contents, base)
            }
            // With this mode nobody promises that what one process has written and another found is ever synced.
            End::Kill | End::Stop if self.sync == SyncMode::Never => {
                self.tally.kills += u64::from(end == End::Kill);
                let contents = image.killed();
                let base = Image::durable(&contents);
                (contents, base)
            }
            End::Kill | End::Stop => {
                self.tally.kills += u64::from(end == End::Kill);
                (image.killed(), image)
            }
        }
    }

    /// Does something to a segment that is not the newest.
    fn damage(&mut self, contents: &mut Contents) {
        let is_segment = |name: &PathBuf| name.extension().is_some_and(|extension| extension == "wal");
        let files = contents.iter().filter(|(name, _)| is_segment(name));
        let headers = files.filter_map(|(name, bytes)| Some((header(bytes)?, name.clone())));
        let mut segments: Vec<(SegmentHeader, PathBuf)> = headers.collect();
        segments.sort_by_key(|(header, _)| header.id);
        let older: Vec<_> = segments.windows(2).map(|pair| (pair[0].clone(), pair[1].0)).collect();
        let undamaged = older.into_iter().filter(|((header, _), _)| !self.model.damaged.contains(&header.id.0));
        let Some(((this, name), next)) = self.rng.choice(undamaged.collect::<Vec<_>>()) else { return };
        let inside = self.model.entries.range_mut(this.before.position.0 + 1..=next.before.position.0);
        let mut flip = |offset: usize| contents.get_mut(&name).unwrap()[offset] ^= 0x40;
        match self.rng.u8(..5) {
            // The header stands in two pages, and without the seal the records themselves say where they end.
            0 => flip(self.rng.usize(..96)),
            1 => flip((SEGMENT - self.rng.u64(1..=segment::SEAL_LEN)) as usize),
            2 => {
                let known = inside.filter(|(_, entry)| entry.found.is_some_and(|place| place.segment == this.id));
                let Some((_, entry)) = self.rng.choice(known.collect::<Vec<_>>()) else { return };
                let offset = entry.found.unwrap().offset as usize;
                flip(offset + self.rng.usize(..record::HEADER_LEN + entry.record.len));
                entry.fate = Fate::MustNot;
            }
            3 => {
                contents.remove(&name);
                inside.for_each(|(_, entry)| entry.fate = Fate::MustNot);
            }
            _ => {
                let other = segments.pop().unwrap().1;
                let bytes = contents.insert(name.clone(), contents[&other].clone()).unwrap();
                contents.insert(other, bytes);
            }
        }
        self.model.damaged.insert(this.id.0);
        self.tally.damages += 1;
    }
}

/// The header of a segment, or the copy of it.
fn header(bytes: &[u8]) -> Option<SegmentHeader> {
    let at = |offset: usize| SegmentHeader::decode(bytes.get(offset..)?.first_chunk()?).ok();
    at(0).or_else(|| at(segment::COPY_START as usize))
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn many_runs(name: &str, sync: impl Fn(&mut Rng) -> SyncMode) {
    let first = from_environment("PROMRELAY_MODEL_SEED", 1);
    let mut tally = Tally::default();
    for seed in first..first + from_environment("PROMRELAY_MODEL_RUNS", 30) {
        let mut rng = Rng::with_seed(seed);
        let sync = sync(&mut rng);
        let mut run = Run { rng, sync, model: Model::default(), number: 0, tally: &mut tally };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run.go())) {
            eprintln!("{name}, {sync:?}: failed with PROMRELAY_MODEL_SEED={seed} PROMRELAY_MODEL_RUNS=1");
            resume_unwind(panic);
        }
        tally.runs += 1;
    }
    println!("{name}: {tally:?}");
    assert!(tally.runs < 50 || (tally.torn_tails > 0 && tally.damages > 0), "what this is about has come up");
}

#[test]
fn what_was_synced_before_it_was_acknowledged_is_there_after_any_end() {
    many_runs("always", |_| SyncMode::Always);
}

#[test]
fn with_an_interval_what_was_acknowledged_before_the_last_sync_is_there_and_the_rest_is_counted() {
    many_runs("interval", |rng| SyncMode::Interval(Duration::from_millis(rng.choice([2, 60_000]).unwrap())));
}

#[test]
fn without_syncs_what_is_not_there_is_counted_and_nothing_is_garbled() {
    many_runs("never", |_| SyncMode::Never);
}
