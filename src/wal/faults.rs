//! Each call to the disk fails, one after the other: the log goes on, and what it acknowledged is there.
//!
//! A scenario is played once to count the calls of each kind. Then it is played again for every call, which is refused with an error of
//! the system: it alone, or it and the next four of its kind. In the scenario a log is opened, written to over several segments, read
//! along, released in part, closed, opened again and written to. Whatever fails:
//!
//! - Opening fails only where the directory cannot be listed.
//! - What was acknowledged is read exactly once, at its position, byte for byte: in the same process, after a clean restart and after a
//!   power cut.
//! - What was refused is not read in the same process; after a restart once at most.
//! - What cannot be read now is read when it can be again. There is no gap.
//! - No file is synced again after a sync of it has failed.
//! - The log takes records again by itself, and counts what it has on disk as the directory does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fastrand::Rng;
use rustix::io::Errno;

use super::disk::{self, Call, Monitor};
use super::numbered::{Numbered, Silent, append_all};
use super::powercut::{self, Image, Tape, scratch};
use super::segment;
use super::*;

const SEGMENT: u64 = 64 << 10;
const MAX_BYTES: u64 = 12 * SEGMENT;
/// What the log counts for the directory itself.
const BESIDE: u64 = MAX_BYTES / SEGMENT * segment::PAGE;
/// Upper limit of any wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// The calls that count as one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Create,
    Open,
    Allocate,
    Write,
    Read,
    Sync,
    Punch,
    Map,
    Populate,
    Rename,
    Remove,
    CreateDirectory,
    SyncDirectory,
    List,
    Free,
}

impl Kind {
    fn of(call: Call<'_>) -> Kind {
        match call {
            Call::Create => Kind::Create,
            Call::Open => Kind::Open,
            Call::Allocate { .. } => Kind::Allocate,
            Call::Write { .. } => Kind::Write,
            Call::Read => Kind::Read,
            Call::SyncData | Call::SyncAll => Kind::Sync,
            Call::Punch { .. } => Kind::Punch,
            Call::Map => Kind::Map,
            Call::Populate => Kind::Populate,
            Call::Rename { .. } => Kind::Rename,
            Call::Remove => Kind::Remove,
            Call::CreateDirectory => Kind::CreateDirectory,
            Call::SyncDirectory => Kind::SyncDirectory,
            Call::List => Kind::List,
            Call::Free => Kind::Free,
        }
    }

    /// What the system may say to it.
    fn errors(self) -> &'static [Errno] {
        match self {
            Kind::Create | Kind::Allocate | Kind::Write | Kind::Sync | Kind::CreateDirectory | Kind::Rename => {
                &[Errno::IO, Errno::NOSPC]
            }
            _ => &[Errno::IO],
        }
    }
}

/// Which calls are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub kind: Kind,
    /// From which of its kind on, the first being 0.
    pub first: usize,
    /// How many.
    pub count: usize,
    pub error: Errno,
}

impl Fault {
    /// All that there are for a scenario that makes so many calls.
    pub(crate) fn all(calls: &BTreeMap<Kind, usize>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (&kind, &calls) in calls {
            for first in 0..calls {
                for &error in kind.errors() {
                    faults.extend([1, 5].map(|count| Fault { kind, first, count, error }));
                }
            }
        }
        faults
    }
}

/// Refuses what the faults say, and keeps a tape of everything.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    pub tape: Tape,
    faults: Vec<Fault>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<Kind, usize>,
    failed_syncs: BTreeSet<u64>,
    synced_again: Vec<u64>,
}

impl FaultyDisk {
    pub(crate) fn new(directory: &Path, faults: Vec<Fault>) -> FaultyDisk {
        FaultyDisk { tape: Tape::new(directory, Image::default()), faults, state: Mutex::default() }
    }

    /// How many calls there were of each kind.
    pub(crate) fn calls(&self) -> BTreeMap<Kind, usize> {
        self.state.lock().unwrap().calls.clone()
    }

    pub(crate) fn assert_no_sync_was_retried(&self) {
        let synced_again = self.state.lock().unwrap().synced_again.clone();
        assert!(synced_again.is_empty(), "handles {synced_again:?} were synced after a sync of them had failed");
    }
}

impl Monitor for FaultyDisk {
    fn before(&self, path: &Path, file: u64, call: Call<'_>) -> io::Result<()> {
        let kind = Kind::of(call);
        let mut state = self.state.lock().unwrap();
        let number = state.calls.entry(kind).or_default();
        *number += 1;
        let number = *number - 1;
        if kind == Kind::Sync && state.failed_syncs.contains(&file) {
            state.synced_again.push(file);
        }
        let is_refused =
            |fault: &&Fault| fault.kind == kind && (fault.first..fault.first + fault.count).contains(&number);
        if let Some(fault) = self.faults.iter().find(is_refused) {
            if kind == Kind::Sync {
                state.failed_syncs.insert(file);
            }
            self.tape.refused(file, call);
            return Err(fault.error.into());
        }
        drop(state);
        self.tape.before(path, file, call)
    }

    fn after(&self, path: &Path, file: u64, call: Call<'_>, is_ok: bool) {
        self.tape.after(path, file, call, is_ok);
    }
}

/// Plays a scenario for each fault, on as many threads as there are processors; says which faults broke something.
pub(crate) fn play_all<F: Clone + Debug + Send + Sync>(faults: &[F], play: impl Fn(F) + Sync) {
    let next = AtomicU64::new(0);
    let broken = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if catch_unwind(AssertUnwindSafe(|| play(fault.clone()))).is_err() {
                        eprintln!("... broken by {fault:?}");
                        broken.lock().unwrap().push(fault.clone());
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{} of {} faults break something: {broken:?}", broken.len(), faults.len());
}

/// What the scenario knows of its records.
#[derive(Default)]
struct Book {
    next: u64,
    /// By their positions.
    acknowledged: BTreeMap<u64, Numbered>,
    /// By their numbers, with the process that refused them.
    refused: BTreeMap<u64, usize>,
    process: usize,
    /// Everything up to here was given up.
    released: Mark,
}

impl Book {
    fn append(&mut self, opened: &Opened, lens: &[usize]) -> bool {
        let records: Vec<_> = lens.iter().zip(self.next..).map(|(&len, number)| Numbered { number, len }).collect();
        self.next += records.len() as u64;
        let mut is_all = true;
        for (record, answer) in records.iter().zip(append_all(&opened.appender, &records)) {
            match answer {
                Ok(Appended { position }) => {
                    let newest = self.acknowledged.last_key_value().map_or(0, |(position, _)| *position);
                    assert!(position.0 > newest, "{position} was given out before");
                    self.acknowledged.insert(position.0, *record);
                }
                Err(_) => {
                    is_all = false;
                    self.refused.insert(record.number, self.process);
                }
            }
        }
        let bytes = opened.log.disk_bytes();
        assert!(bytes <= MAX_BYTES, "{bytes} bytes on disk");
        is_all
    }

    /// Reads from a cursor to the end; what it reads must be all that was acknowledged behind it.
    fn read(&self, cursor: &mut Cursor) {
        let from = cursor.mark().position.0;
        let mut found = BTreeMap::new();
        let mut came_up = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match cursor.next_step() {
                Step::Record(record) => {
                    let (position, record) = (record.header.position.0, Numbered::of(&record));
                    match self.refused.get(&record.number) {
                        None => assert_eq!(found.insert(position, record), None, "{position} was read twice"),
                        Some(process) => {
                            assert!(*process < self.process, "{position} was refused by this process");
                            assert!(came_up.insert(record.number), "{} came up twice", record.number);
                        }
                    }
                }
                Step::Gap { from, to, reason, .. } => {
                    assert_eq!(to.total.saturating_sub(from.total), 0, "samples are missing: {reason}");
                }
                Step::Unreadable(error) => assert!(Instant::now() < deadline, "still unreadable: {error}"),
                Step::End => break,
            }
        }
        let expected: BTreeMap<_, _> = self.acknowledged.range(from + 1..).map(|(at, record)| (*at, *record)).collect();
        assert_eq!(found, expected, "what was acknowledged is what is read behind {from}");
    }

    /// Gives up the oldest few.
    fn release(&mut self, log: &Log) {
        let behind = self.acknowledged.range(self.released.position.0 + 1..);
        let settled = behind.map(|(position, _)| *position).nth(4).unwrap_or_default();
        if let Some(segment) = log.release(Position(settled)).last() {
            self.released = segment.closed.unwrap().last;
        }
    }

    fn read_all(&self, log: &Log) {
        self.read(&mut log.cursor(self.released, Place::default()));
    }
}

/// Opens the log, again and again if only the directory's names cannot be had.
fn open(directory: &Path, fault: Option<Fault>, savepoint: Option<Floor>) -> Opened {
    for _ in 0..10 {
        let locked = match Directory::open(directory) {
            Ok(locked) => locked,
            Err(error) => {
                let kind = fault.expect("without a fault the directory can be used").kind;
                assert!(matches!(kind, Kind::CreateDirectory | Kind::SyncDirectory), "{error}");
                continue;
            }
        };
        match Log::open(locked, Options::new(SEGMENT, MAX_BYTES), savepoint.as_slice(), Arc::new(Silent)) {
            Ok(opened) => return opened,
            Err(error) => assert!(fault.is_some_and(|fault| fault.kind == Kind::List), "{error}"),
        }
    }
    panic!("the fault has passed, and the log cannot be opened");
}

/// Appends until it works.
fn recover(book: &mut Book, opened: &Opened) {
    let deadline = Instant::now() + PATIENCE;
    while !book.append(opened, &[100]) {
        assert!(Instant::now() < deadline, "the fault has passed, and nothing is taken: {:?}", opened.log.health());
        // It tries by itself each second; this is quicker.
        opened.log.look_for_room();
        std::thread::yield_now();
    }
    // Said right after the record was acknowledged.
    while opened.log.health() != Health::Working {
        assert!(Instant::now() < deadline, "{:?}", opened.log.health());
        std::thread::yield_now();
    }
}

fn close(opened: Opened) {
    drop(opened.appender);
    opened.closer.close();
}

/// Whether no file is in the directory that the log does not count. (Not by the system's count of blocks: in memory, a hole that was
/// read through a mapping takes room.)
fn counts_what_is_there(log: &Log, directory: &Path) -> Result<(), String> {
    let mut counted = BESIDE;
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut uncounted: Vec<String> = names.filter(|name| name != "LOCK").collect();
    for segment in log.segments() {
        counted += segment.bytes;
        let path = log.shared.segment(segment.id).map(|segment| segment.path().to_owned());
        uncounted.retain(|name| Some(directory.join(name)) != path);
    }
    if let Some(prepared) = uncounted.iter().position(|name| name.ends_with(".tmp")) {
        uncounted.remove(prepared);
        counted += SEGMENT;
    }
    if uncounted.is_empty() && counted == log.disk_bytes() {
        return Ok(());
    }
    Err(format!("{} bytes on disk, {counted} in segments; in no segment: {uncounted:?}", log.disk_bytes()))
}

fn play(fault: Option<Fault>) -> BTreeMap<Kind, usize> {
    let parent = scratch();
    let directory = parent.path().join("log");
    let disk = Arc::new(FaultyDisk::new(parent.path(), fault.into_iter().collect()));
    let watch = disk::watch(parent.path(), disk.clone());
    let mut book = Book::default();

    let opened = open(&directory, fault, None);
    let mut cursor = opened.log.cursor(Mark::default(), Place::default());
    for group in [&[10, 9000, 700][..], &[30_000], &[20_000, 20_000, 300], &[40_000, 50], &[25_000; 3]] {
        book.append(&opened, group);
        book.read(&mut cursor);
    }
    opened.log.seal_active();
    book.append(&opened, &[1000]);
    book.read(&mut cursor);
    book.release(&opened.log);
    let savepoint = Some(Floor { log_id: opened.log.id(), settled: book.released, segment: SegmentId(0) });
    drop(cursor);
    close(opened);

    book.process += 1;
    let opened = open(&directory, fault, savepoint);
    book.append(&opened, &[3000, 45_000]);
    book.read_all(&opened.log);
    book.release(&opened.log);
    recover(&mut book, &opened);
    book.read_all(&opened.log);
    let calls = disk.calls();
    disk.assert_no_sync_was_retried();
    let deadline = Instant::now() + PATIENCE;
    while let Err(difference) = counts_what_is_there(&opened.log, &directory) {
        assert!(Instant::now() < deadline, "{difference}");
        std::thread::yield_now();
    }
    drop(watch);
    let image = disk.tape.image(disk.tape.len());
    close(opened);

    book.process += 1;
    let after_power_cut = scratch();
    let mut rng = Rng::with_seed(fault.map_or(0, |fault| fault.first as u64));
    powercut::write_to(after_power_cut.path(), &image.cut(&mut rng));
    for directory in [directory, after_power_cut.path().join("log")] {
        let opened = open(&directory, None, savepoint);
        book.read_all(&opened.log);
        close(opened);
    }
    calls
}

#[test]
fn whatever_call_fails_the_log_goes_on_and_what_it_acknowledged_is_there() {
    let calls = play(None);
    let faults = Fault::all(&calls);
    println!("{} faults, {calls:?}", faults.len());
    play_all(&faults, |fault| {
        play(Some(fault));
    });
}

/// A log of three segments in `directory`, and what is in it.
fn three_segments(directory: &Path) -> Book {
    let mut book = Book::default();
    let opened = open(directory, None, None);
    for _ in 0..3 {
        assert!(book.append(&opened, &[50_000]));
    }
    close(opened);
    book.process += 1;
    book
}

#[test]
fn a_log_of_which_nothing_can_be_read_and_no_savepoint_tells_does_not_become_another_one() {
    let directory = scratch();
    let book = three_segments(directory.path());
    let all_maps = Fault { kind: Kind::Map, first: 0, count: 3, error: Errno::IO };
    let disk = Arc::new(FaultyDisk::new(directory.path(), vec![all_maps]));
    let watch = disk::watch(directory.path(), disk);
    let options = Options::new(SEGMENT, MAX_BYTES);
    let error = Log::open(Directory::open(directory.path()).unwrap(), options, &[], Arc::new(Silent)).unwrap_err();
    assert!(error.to_string().contains("no segment can be read"), "{error}");
    drop(watch);
    let opened = open(directory.path(), None, None);
    book.read_all(&opened.log);
}

#[test]
fn a_released_segment_that_cannot_be_deleted_is_counted_until_it_can() {
    let directory = scratch();
    let book = three_segments(directory.path());
    let opened = open(directory.path(), None, None);
    let once = Fault { kind: Kind::Remove, first: 0, count: 1, error: Errno::IO };
    let disk = Arc::new(FaultyDisk::new(directory.path(), vec![once]));
    let _watch = disk::watch(directory.path(), disk.clone());
    let first = *book.acknowledged.keys().next().unwrap();
    assert_eq!(opened.log.release(Position(first)).len(), 1);
    let deadline = Instant::now() + PATIENCE;
    while !disk.calls().contains_key(&Kind::Remove) {
        assert!(Instant::now() < deadline, "nothing is deleted");
    }
    while let Err(difference) = counts_what_is_there(&opened.log, directory.path()) {
        assert!(Instant::now() < deadline, "{difference}");
        std::thread::yield_now();
    }
}
