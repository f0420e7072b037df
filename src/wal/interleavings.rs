//! Tests of the log's threads against each other: a concurrency checker runs each scenario under thousands of schedules.
//!
//! ```text
//! cargo test --features shuttle --lib wal::interleavings
//! ```
//!
//! Every use of a primitive of [`super::sync`] and every call to the disk is a point at which another thread may go on. Half of the
//! schedules are random; in the other half a thread with priority runs until it waits, but for a few changes ("PCT"), which finds
//! what needs one thread to stand still for long. A deadlock, and going round in circles, are failures as well.
//!
//! What the checker does not see: weak memory (every atomic is as if `SeqCst`), and what happens within tokio's channels.
//!
//! A failure prints its schedule. The same again: `SCHEDULE=<what was printed> cargo test --features shuttle --lib <the test's name>`.
//! `SCHEDULES=<number>` tries more or fewer than usual.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64 as Count, Ordering::Relaxed};
use std::sync::{Arc, Mutex as Plain, Weak};
use std::time::Duration;

use bytes::Bytes;
use shuttle::future::block_on;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};
use tempfile::TempDir;

use super::directory::Directory;
use super::record::{Content, Counts, Kind, Meta, NewRecord, TimeRange};
use super::segment::DATA_START;
use super::shared::Shared;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Time, choice, thread};
use super::usage::DiskUsage;
use super::{
    AppendError, Appender, Closer, Cursor, Health, Log, Mark, Observer, Opened, Options, Place, Position, SegmentId,
    Step, Ticket, disk,
};

const SEGMENT: u64 = 20 << 10;
/// Three of them fit a segment.
const BODY: usize = 3600;
/// Three segments, and what is set aside for filesystems that take more than they are asked for.
const THREE_SEGMENTS: u64 = 4 * SEGMENT;
const ROOMY: u64 = 64 * SEGMENT;

// === running ===

/// Tries a scenario under many schedules.
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SCHEDULES").map_or(SCHEDULES, |number| number.parse().unwrap());
    let scenario = Arc::new(scenario);
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        let schedule: String = schedule.split_whitespace().collect();
        return run(ReplayScheduler::new_from_encoded(&schedule), scenario);
    }
    run(RandomScheduler::new(schedules), scenario.clone());
    run(PctScheduler::new(PRIORITY_CHANGES, schedules), scenario);
}

/// One schedule does not show everything that a test wants to have happened.
fn is_replay() -> bool {
    std::env::var_os("SCHEDULE").is_some()
}

/// Of each kind.
const SCHEDULES: usize = 500;
const PRIORITY_CHANGES: usize = 4;

fn run(scheduler: impl Scheduler + 'static, scenario: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = 512 << 10;
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || scenario());
}

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

/// Makes every call to the disk a point at which another thread may go on; refuses one sync, if that is wanted.
struct Disk {
    syncs_until_failure: Count,
}

/// Syncs, in all tests together.
static REFUSED: Count = Count::new(0);

impl disk::Monitor for Disk {
    fn before(&self, _: &Path, _: u64, call: disk::Call<'_>) -> io::Result<()> {
        choice();
        if matches!(call, disk::Call::SyncData) && self.syncs_until_failure.fetch_sub(1, Relaxed) == 1 {
            REFUSED.fetch_add(1, Relaxed);
            return Err(io::Error::other("the test refuses this sync"));
        }
        Ok(())
    }

    fn after(&self, _: &Path, _: u64, _: disk::Call<'_>, _: bool) {}
}

struct Fixture {
    _watch: disk::Watch,
    dir: TempDir,
    max_bytes: u64,
    log: Log,
    closer: Closer,
}

impl Fixture {
    fn open(time: Time, max_bytes: u64) -> (Fixture, Appender) {
        Fixture::open_on(time, max_bytes, Disk { syncs_until_failure: Count::new(0) })
    }

    fn open_on(time: Time, max_bytes: u64, disk: Disk) -> (Fixture, Appender) {
        time.set();
        // In memory, where there is such a place: nothing is asked of the disk but its order.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let watch = disk::watch(dir.path(), Arc::new(disk));
        let Opened { log, appender, closer, .. } = open(dir.path(), max_bytes);
        (Fixture { _watch: watch, dir, max_bytes, log, closer }, appender)
    }

    fn close(self) -> Closed {
        self.closer.close();
        Closed { _watch: self._watch, dir: self.dir, max_bytes: self.max_bytes }
    }
}

struct Closed {
    _watch: disk::Watch,
    dir: TempDir,
    max_bytes: u64,
}

impl Closed {
    /// Nobody may have anything of the log any more.
    fn records(self) -> Vec<(u64, u64)> {
        let Opened { log, appender, closer, .. } = open(self.dir.path(), self.max_bytes);
        let mut reader = Reader::new(&log);
        while reader.step().is_some() {}
        drop(appender);
        closer.close();
        reader.seen
    }
}

fn open(dir: &Path, max_bytes: u64) -> Opened {
    let directory = Directory::open(dir).unwrap();
    Log::open(directory, Options::new(SEGMENT, max_bytes), &[], Arc::new(Silent)).unwrap()
}

/// A record that says which one it is.
fn record(number: u64) -> NewRecord {
    let content = Content {
        kind: Kind::Write1,
        flags: 0,
        counts: Counts { samples: 1, series: 1, ..Counts::default() },
        times: TimeRange { min: 1, max: 2 },
        decoded_len: 100,
    };
    let mut body = vec![0; BODY];
    body[..8].copy_from_slice(&number.to_le_bytes());
    NewRecord::new(content, &Meta::default(), Bytes::from(body), 5)
}

fn append(appender: &Appender, number: u64) -> Ticket {
    appender.append(record(number), Box::new(()))
}

fn outcome(mut ticket: Ticket) -> Result<Position, AppendError> {
    block_on(ticket.outcome()).map(|appended| appended.position)
}

/// What was acknowledged: positions with the numbers of the records.
#[derive(Clone)]
struct Acknowledged {
    records: Arc<Plain<BTreeMap<u64, u64>>>,
    /// Not held: it must be gone when its files are opened again.
    log: Weak<Shared>,
}

impl Acknowledged {
    fn by(log: &Log) -> Acknowledged {
        Acknowledged { records: Arc::default(), log: Arc::downgrade(&log.shared) }
    }

    fn add(&self, position: Position, number: u64) {
        if let Some(log) = self.log.upgrade() {
            let durable = log.durable.load(Ordering::SeqCst);
            assert!(position.0 <= durable, "{position} is acknowledged, {durable} is durable");
        }
        let before = self.records.lock().unwrap().insert(position.0, number);
        assert_eq!(before, None, "a position is given out once");
    }

    fn all(&self) -> Vec<(u64, u64)> {
        self.records.lock().unwrap().iter().map(|(position, number)| (*position, *number)).collect()
    }
}

/// Follows the log; nothing may be missing, come twice, or come before it is readable.
struct Reader {
    log: Log,
    cursor: Cursor,
    seen: Vec<(u64, u64)>,
}

impl Reader {
    fn new(log: &Log) -> Reader {
        let start = log.start();
        Reader { log: log.clone(), cursor: log.cursor(start, Place::default()), seen: Vec::new() }
    }

    /// The next record, if there is one now.
    fn step(&mut self) -> Option<Position> {
        let expected = self.cursor.mark().position.next();
        match self.cursor.next_step() {
            Step::Record(record) => {
                // Not by way of the log: no other thread may go on before this is compared.
                let readable = self.log.subscribe().borrow().mark.position;
                let position = record.header.position;
                assert_eq!(position, expected, "each record comes once and in order");
                assert!(position <= readable, "{position} was read, {readable} is readable");
                let number = u64::from_le_bytes(record.body[..8].try_into().unwrap());
                self.seen.push((position.0, number));
                Some(position)
            }
            Step::End => None,
            other => panic!("{other:?}"),
        }
    }

    /// Reads so many records; `then` is done after each.
    fn follow(&mut self, records: usize, mut then: impl FnMut(&Log, Position)) {
        let mut more = self.log.subscribe();
        while self.seen.len() < records {
            more.borrow_and_update();
            match self.step() {
                Some(position) => then(&self.log, position),
                None => block_on(more.changed()).unwrap(),
            }
        }
    }
}

/// Every segment's end and the mark there belong together, whenever one looks, and never go back; one segment begins where the one
/// before it has ended.
fn look_at_extents(log: &Log, rounds: usize) {
    let mut ends: BTreeMap<SegmentId, (u64, bool)> = BTreeMap::new();
    for _ in 0..rounds {
        let segments: Vec<_> = log.shared.segments().values().cloned().collect();
        let mut before: Option<Mark> = None;
        for segment in segments {
            let begin = segment.header().before;
            assert!(before.is_none_or(|before| before == begin), "{before:?} ends where {begin:?} begins");
            let extent = log.shared.extent(&segment);
            let (mut offset, mut last) = (DATA_START, begin);
            while offset < extent.end {
                let header = segment.read_header(offset, extent.end).unwrap().expect("a record");
                last = Mark { position: header.position, total: header.total };
                offset += header.stored_len();
            }
            assert_eq!((offset, last), (extent.end, extent.last), "the end and the mark belong together");
            let known = ends.insert(segment.id(), (extent.end, extent.is_closed)).unwrap_or_default();
            assert!(known.0 <= extent.end, "an end never goes back");
            assert!(!known.1 || known == (extent.end, true), "what is closed stays as it is");
            before = Some(extent.last);
        }
        choice();
    }
}

/// What the log's files take.
fn bytes_in(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|metadata| metadata.blocks() * 512).sum()
}

// === scenarios ===

#[test]
fn a_reader_sees_each_acknowledged_record_once_and_in_order_while_segments_roll_over() {
    explore(|| {
        let (fixture, appender) = Fixture::open(Time::StandsStill, ROOMY);
        // Made before there is anything to read: `Log::start` must mean the first record.
        let mut reader = Reader::new(&fixture.log);
        let acknowledged = Acknowledged::by(&fixture.log);
        let appenders: Vec<_> = (0..2)
            .map(|who| {
                let (appender, acknowledged) = (appender.clone(), acknowledged.clone());
                thread::spawn(move || {
                    // Two at a time, so that there are groups of several sizes.
                    for pair in [[10 * who, 10 * who + 1], [10 * who + 2, 10 * who + 3]] {
                        let tickets = pair.map(|number| (number, append(&appender, number)));
                        for (number, ticket) in tickets {
                            acknowledged.add(outcome(ticket).unwrap(), number);
                        }
                    }
                })
            })
            .collect();
        drop(appender);
        let reader = thread::spawn(move || {
            reader.follow(8, |_, _| {});
            reader.seen
        });
        let looker = thread::spawn({
            let log = fixture.log.clone();
            move || look_at_extents(&log, 4)
        });
        let sealer = thread::spawn({
            let log = fixture.log.clone();
            move || log.seal_active()
        });
        for thread in appenders.into_iter().chain([looker, sealer]) {
            thread.join().unwrap();
        }
        let seen = reader.join().unwrap();
        assert_eq!(seen, acknowledged.all());
        assert_eq!(fixture.close().records(), seen, "the same is in the files");
    });
}

#[test]
fn a_reader_sees_what_was_acknowledged_and_nothing_else_when_a_sync_fails() {
    explore(|| {
        // The first is that of the first segment's header; later ones are of groups, headers and seals.
        let disk = Disk { syncs_until_failure: Count::new(shuttle::rand::thread_rng().gen_range(1..8)) };
        let (fixture, appender) = Fixture::open_on(Time::Passes, ROOMY, disk);
        let mut reader = Reader::new(&fixture.log);
        let acknowledged = Acknowledged::by(&fixture.log);
        let appenders: Vec<_> = (0..2)
            .map(|who| {
                let (appender, acknowledged) = (appender.clone(), acknowledged.clone());
                thread::spawn(move || {
                    for number in 10 * who..10 * who + 3 {
                        // As an upstream: what is not taken comes again.
                        loop {
                            match outcome(append(&appender, number)) {
                                Ok(position) => break acknowledged.add(position, number),
                                Err(AppendError::Unavailable { .. }) => {}
                                Err(error) => panic!("{error}"),
                            }
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(appender);
        let reader = thread::spawn(move || {
            reader.follow(6, |_, _| {});
            reader.seen
        });
        let looker = thread::spawn({
            let log = fixture.log.clone();
            move || look_at_extents(&log, 4)
        });
        for thread in appenders.into_iter().chain([looker]) {
            thread.join().unwrap();
        }
        let seen = reader.join().unwrap();
        assert_eq!(seen, acknowledged.all());
        assert_eq!(fixture.close().records(), seen, "the same is in the files");
    });
    assert!(is_replay() || REFUSED.load(Relaxed) > 0, "syncs have failed");
}

#[test]
fn a_full_log_goes_on_when_space_is_released_and_never_takes_more_than_its_limit() {
    static FULL: Count = Count::new(0);
    explore(|| {
        const RECORDS: u64 = 6;
        let (fixture, appender) = Fixture::open(Time::Passes, THREE_SEGMENTS);
        let mut reader = Reader::new(&fixture.log);
        let acknowledged = Acknowledged::by(&fixture.log);
        let appenders: Vec<_> = (0..2)
            .map(|who| {
                let (appender, acknowledged) = (appender.clone(), acknowledged.clone());
                thread::spawn(move || {
                    for number in 10 * who..10 * who + RECORDS {
                        loop {
                            match outcome(append(&appender, number)) {
                                Ok(position) => break acknowledged.add(position, number),
                                Err(AppendError::Full(_)) => FULL.fetch_add(1, Relaxed),
                                // The time-out of a wait for the next segment.
                                Err(AppendError::Unavailable { .. }) => 0,
                                Err(error) => panic!("{error}"),
                            };
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(appender);
        let reader = thread::spawn(move || {
            reader.follow(2 * RECORDS as usize, |log, settled| {
                if settled.0 % 4 == 0 {
                    log.seal_active();
                }
                if settled.0 % 2 == 0 {
                    log.release(settled);
                }
            });
            reader.seen
        });
        let is_over = Arc::new(AtomicBool::new(false));
        let meter = thread::spawn({
            let (log, is_over) = (fixture.log.clone(), is_over.clone());
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    let (taken, limit) = (bytes_in(log.shared.directory.path()), log.max_bytes());
                    assert!(taken <= limit, "{taken} of {limit}");
                    thread::yield_now();
                }
            }
        });
        for thread in appenders {
            thread.join().unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        meter.join().unwrap();
        assert_eq!(reader.join().unwrap(), acknowledged.all());
        fixture.close();
    });
    assert!(is_replay() || FULL.load(Relaxed) > 0, "the log has been full");
}

#[test]
fn looking_for_room_ends_whatever_the_writer_and_releases_do_meanwhile() {
    explore(|| look_for_room(Time::Passes));
}

/// No time-out helps here: whoever waits must be woken.
#[test]
fn looking_for_room_and_what_was_released_wait_for_no_time_out() {
    explore(|| look_for_room(Time::StandsStill));
}

fn look_for_room(time: Time) {
    let (fixture, appender) = Fixture::open(time, THREE_SEGMENTS);
    let writing = thread::spawn(move || {
        let mut last = Position(0);
        for number in 0..8 {
            match outcome(append(&appender, number)) {
                Ok(position) => last = position,
                Err(AppendError::Full(_) | AppendError::Unavailable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        (appender, last)
    });
    let looking = thread::spawn({
        let log = fixture.log.clone();
        move || {
            for _ in 0..2 {
                log.look_for_room();
            }
        }
    });
    for _ in 0..4 {
        fixture.log.release(fixture.log.readable().mark.position);
    }
    looking.join().unwrap();
    let (appender, last) = writing.join().unwrap();
    // Nobody else is there any more: what can be released is, and then there is room.
    fixture.log.release(last);
    let position = loop {
        fixture.log.look_for_room();
        match outcome(append(&appender, 100)) {
            Ok(position) => break position,
            Err(error) => assert_eq!(time, Time::Passes, "{error}"),
        }
        thread::yield_now();
    };
    assert_eq!(position, last.next());
    drop(appender);
    fixture.close();
}

#[test]
fn a_release_makes_room_in_a_full_log_without_being_asked() {
    explore(|| {
        let (fixture, appender) = Fixture::open(Time::StandsStill, THREE_SEGMENTS);
        // The last one opens the third segment, and there is no room for a fourth.
        for number in 1..=7 {
            while outcome(append(&appender, number)).is_err() {
                fixture.log.look_for_room();
            }
        }
        let mut lack = fixture.log.lack_of_room();
        block_on(lack.wait_for(Option::is_some)).unwrap();
        assert_eq!(fixture.log.release(Position(3)).len(), 1);
        block_on(lack.wait_for(Option::is_none)).unwrap();
        drop(appender);
        fixture.close();
    });
}

#[test]
fn each_ticket_gets_one_answer_and_what_was_ok_is_in_the_files_when_the_log_is_closed() {
    /// Counts records that are held.
    struct Kept(Arc<Count>);

    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    explore(|| {
        let (fixture, appender) = Fixture::open(Time::StandsStill, ROOMY);
        let acknowledged = Acknowledged::by(&fixture.log);
        let held = Arc::new(Count::new(0));
        let appenders: Vec<_> = (0..2)
            .map(|who| {
                let (appender, acknowledged, held) = (appender.clone(), acknowledged.clone(), held.clone());
                thread::spawn(move || {
                    let tickets = [10 * who, 10 * who + 1, 10 * who + 2].map(|number| {
                        held.fetch_add(1, Relaxed);
                        (number, appender.append(record(number), Box::new(Kept(held.clone()))))
                    });
                    drop(appender);
                    for (number, ticket) in tickets {
                        acknowledged.add(outcome(ticket).unwrap(), number);
                    }
                })
            })
            .collect();
        let sealer = thread::spawn({
            let log = fixture.log.clone();
            move || log.seal_active()
        });
        drop(appender);
        let closed = fixture.close();
        assert_eq!(held.load(Relaxed), 0, "nothing is held for a closed log");
        for thread in appenders.into_iter().chain([sealer]) {
            thread.join().unwrap();
        }
        assert_eq!(closed.records(), acknowledged.all());
    });
}

#[test]
fn a_record_is_withdrawn_or_appended_and_its_ticket_says_which() {
    static WITHDRAWN: Count = Count::new(0);
    static LATE: Count = Count::new(0);
    explore(|| {
        let (fixture, appender) = Fixture::open(Time::StandsStill, ROOMY);
        let acknowledged = Acknowledged::by(&fixture.log);
        let appenders: Vec<_> = (0..2)
            .map(|who| {
                let (appender, acknowledged) = (appender.clone(), acknowledged.clone());
                thread::spawn(move || {
                    for number in 10 * who..10 * who + 3 {
                        let ticket = append(&appender, number);
                        choice();
                        let is_withdrawn = ticket.withdraw();
                        assert_eq!(ticket.withdraw(), is_withdrawn, "the answer stays the same");
                        match outcome(ticket) {
                            Err(AppendError::Withdrawn) if is_withdrawn => WITHDRAWN.fetch_add(1, Relaxed),
                            Ok(position) if !is_withdrawn => {
                                acknowledged.add(position, number);
                                LATE.fetch_add(1, Relaxed)
                            }
                            other => panic!("withdrawn: {is_withdrawn}, and then {other:?}"),
                        };
                    }
                })
            })
            .collect();
        drop(appender);
        for thread in appenders {
            thread.join().unwrap();
        }
        assert_eq!(fixture.close().records(), acknowledged.all(), "what was withdrawn is nowhere");
    });
    let is_both = WITHDRAWN.load(Relaxed) > 0 && LATE.load(Relaxed) > 0;
    assert!(is_replay() || is_both, "both have happened");
}

#[test]
fn no_byte_is_counted_twice() {
    explore(|| {
        let usage = DiskUsage::default();
        let charge = usage.charge(SEGMENT);
        let sealing = thread::spawn(move || {
            charge.change_to(SEGMENT / 2);
            charge
        });
        let counted = usage.bytes();
        assert!(counted <= SEGMENT, "{counted} bytes of {SEGMENT}");
        sealing.join().unwrap();
    });
}

#[test]
fn the_log_starts_before_its_first_record_also_while_that_is_appended() {
    explore(|| {
        let (fixture, appender) = Fixture::open(Time::StandsStill, ROOMY);
        let appending = thread::spawn(move || outcome(append(&appender, 1)).unwrap());
        assert_eq!(fixture.log.start(), Mark::default());
        appending.join().unwrap();
        fixture.close();
    });
}

#[test]
fn a_log_that_takes_records_says_so_whatever_the_next_segment_comes_to() {
    explore(|| {
        let (fixture, appender) = Fixture::open(Time::Passes, THREE_SEGMENTS);
        // The last one opens the third segment, and there is no room for a fourth.
        for number in 1..=7 {
            while outcome(append(&appender, number)).is_err() {
                thread::yield_now();
            }
        }
        block_on(fixture.log.lack_of_room().wait_for(Option::is_some)).unwrap();
        let log = fixture.log.clone();
        drop(appender);
        // Ends the threads: whatever they had to say is said.
        fixture.close();
        assert_eq!(log.health(), Health::Working);
    });
}
