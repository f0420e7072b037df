//! Each call to the disk fails, alone and together with each other: a savepoint that was written is there.
//!
//! A scenario opens a target's savepoint, writes and syncs it many times over, and opens it again. It is played for each call refused
//! once or five times in a row, and for each two calls of different kinds. After every step it is looked at what `kill -9` and a power
//! cut would leave:
//!
//! - After `kill -9`: the generation that was last written or synced without an error, or a later one.
//! - After a power cut: the one that was last synced without an error, or a later one.
//! - It is a content that was handed in as a whole, and its ledger adds up.
//! - No file is synced again after a sync of it has failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use rustix::io::Errno;

use super::{Ended, File, Found, Outcomes, Saved, Savepoint, Store, Synced};
use crate::wal::disk;
use crate::wal::faults::{Fault, FaultyDisk, Kind, play_all};
use crate::wal::powercut::{self, scratch};
use crate::wal::{Mark, Place, Position};

const LOG: [u8; 16] = [1; 16];
const NAME: &str = "a";

/// The content of a generation.
fn saved(generation: u64) -> Saved {
    let mut savepoint = Savepoint::default();
    let to = Mark { position: Position(generation), total: 10 * generation };
    savepoint.settle(Mark::default(), to, Place::default(), Outcomes::delivered(10 * generation)).unwrap();
    Saved { generation, epoch: 0, savepoint }
}

struct Scenario {
    disk: Arc<FaultyDisk>,
    rng: Rng,
    /// The newest content that was handed in.
    newest: u64,
    /// The newest that was written or synced without an error.
    written: u64,
    /// The newest that was synced without an error.
    synced: u64,
}

impl Scenario {
    fn find(directory: &Path) -> Found {
        Store::open(directory).unwrap().find(NAME, LOG)
    }

    /// What would be found by now.
    fn check(&mut self) {
        let image = self.disk.tape.image(self.disk.tape.len());
        let ends = [("kill -9", image.killed(), self.written), ("a power cut", image.cut(&mut self.rng), self.synced)];
        for (end, contents, at_least) in ends {
            let directory = scratch();
            powercut::write_to(directory.path(), &contents);
            match Scenario::find(directory.path()) {
                Found::Valid(found, _) => {
                    assert_eq!(found, saved(found.generation), "after {end}");
                    assert!(found.savepoint.ledger.adds_up(), "after {end}");
                    let expected = at_least..=self.newest;
                    assert!(
                        expected.contains(&found.generation),
                        "after {end}: {}, not {expected:?}",
                        found.generation
                    );
                }
                other => assert_eq!(at_least, 0, "after {end}: {other:?}"),
            }
        }
    }

    /// Opens the savepoint as a start does, again and again if that ends with an error.
    fn open(&mut self, directory: &Path) -> File {
        for _ in 0..12 {
            let Ok(mut store) = Store::open(directory) else { continue };
            let last = match store.find(NAME, LOG) {
                Found::Valid(last, _) => {
                    assert!(last.generation >= self.written, "{} was found, not {}", last.generation, self.written);
                    last
                }
                other => {
                    assert_eq!(self.written, 0, "what was written is not found: {other:?}");
                    saved(1)
                }
            };
            self.newest = self.newest.max(last.generation);
            let generation = last.generation;
            let opened = store.open_file(NAME, LOG, last);
            if let Ok(file) = &opened
                && file.was_synced()
            {
                (self.written, self.synced) = (generation, generation);
            }
            self.check();
            if let Ok(file) = opened {
                return file;
            }
        }
        panic!("the faults have passed, and the savepoint cannot be opened");
    }

    fn write_live(&mut self, file: &File) {
        self.newest += 1;
        if file.write_live(&saved(self.newest)).is_ok() {
            self.written = self.newest;
        }
        self.check();
    }

    /// Syncs the content that is `behind` generations old. A new file has it in all of its pages, so what is live is written again.
    fn sync(&mut self, file: &File, behind: u64) {
        let generation = self.newest - behind;
        if let Ok(synced) = file.sync(&saved(generation)) {
            self.synced = self.synced.max(generation);
            self.written = if synced == Synced::InNewFile { generation } else { self.written.max(generation) };
            if synced == Synced::InNewFile && file.write_live(&saved(self.newest)).is_ok() {
                self.written = self.newest;
            }
        }
        self.check();
    }
}

fn play(faults: Vec<Fault>) -> BTreeMap<Kind, usize> {
    let directory = scratch();
    let disk = Arc::new(FaultyDisk::new(directory.path(), faults));
    let _watch = disk::watch(directory.path(), disk.clone());
    let mut scenario = Scenario { disk: disk.clone(), rng: Rng::with_seed(7), newest: 1, written: 0, synced: 0 };
    for _ in 0..2 {
        let file = scenario.open(directory.path());
        scenario.write_live(&file);
        scenario.sync(&file, 0);
        scenario.write_live(&file);
        scenario.write_live(&file);
        // While it is synced it goes on.
        scenario.sync(&file, 1);
        scenario.write_live(&file);
        scenario.sync(&file, 0);
    }
    let file = scenario.open(directory.path());
    scenario.write_live(&file);
    scenario.sync(&file, 0);
    disk.assert_no_sync_was_retried();
    disk.calls()
}

#[test]
fn whatever_call_fails_a_savepoint_that_was_written_is_there() {
    let faults = Fault::all(&play(Vec::new()));
    println!("{} faults", faults.len());
    play_all(&faults, |fault| {
        play(vec![fault]);
    });
}

#[test]
fn whatever_two_calls_fail_a_savepoint_that_was_written_is_there() {
    let mut single = Fault::all(&play(Vec::new()));
    single.dedup_by_key(|fault| (fault.kind, fault.first));
    let is_of_writing =
        |fault: &&Fault| !matches!(fault.kind, Kind::Open | Kind::Read | Kind::List | Kind::CreateDirectory);
    let writing: Vec<Fault> = single.iter().filter(is_of_writing).map(|fault| Fault { count: 1, ..*fault }).collect();
    // A second fault of a call that is only made because of the first has a number that no call has without it.
    let seconds = [Kind::Create, Kind::Write, Kind::Sync, Kind::Rename, Kind::SyncDirectory];
    let pairs: Vec<Vec<Fault>> = writing
        .iter()
        .flat_map(|first| seconds.map(|kind| (first, kind)))
        .filter(|(first, kind)| first.kind != *kind)
        .flat_map(|(first, kind)| (0..4).map(move |number| vec![*first, Fault { kind, first: number, ..*first }]))
        .collect();
    println!("{} pairs of faults", pairs.len());
    play_all(&pairs, |pair| {
        play(pair);
    });
}

fn fault(kind: Kind, first: usize) -> Fault {
    Fault { kind, first, count: 1, error: Errno::IO }
}

fn found_after(contents: &powercut::Contents) -> Found {
    let directory = scratch();
    powercut::write_to(directory.path(), contents);
    Scenario::find(directory.path())
}

#[test]
fn a_savepoint_that_cannot_be_read_now_is_not_a_damaged_one() {
    for kind in [Kind::Open, Kind::List] {
        let directory = scratch();
        drop(Store::open(directory.path()).unwrap().open_file(NAME, LOG, saved(5)).unwrap());
        let disk = Arc::new(FaultyDisk::new(directory.path(), vec![fault(kind, 0)]));
        let _watch = disk::watch(directory.path(), disk);
        if let Ok(store) = Store::open(directory.path()) {
            assert_eq!(store.find(NAME, LOG), Found::Valid(saved(5), Ended::Killed), "{kind:?}");
        }
        assert_eq!(
            Scenario::find(directory.path()),
            Found::Valid(saved(5), Ended::Killed),
            "{kind:?}: and it is where it was"
        );
    }
}

#[test]
fn a_savepoint_that_was_synced_has_a_durable_name_whatever_failed_when_it_was_created() {
    let directory = scratch();
    // The first sync of a directory is that of the directory's own name.
    let disk = Arc::new(FaultyDisk::new(directory.path(), vec![fault(Kind::SyncDirectory, 1)]));
    let _watch = disk::watch(directory.path(), disk.clone());
    Store::open(directory.path()).unwrap().open_file(NAME, LOG, saved(1)).unwrap_err();
    let file = Store::open(directory.path()).unwrap().open_file(NAME, LOG, saved(1)).unwrap();
    file.sync(&saved(2)).unwrap();
    let image = disk.tape.image(disk.tape.len());
    for seed in 0..20 {
        let found = found_after(&image.cut(&mut Rng::with_seed(seed)));
        assert_eq!(found, Found::Valid(saved(2), Ended::Killed), "after a power cut");
    }
}

#[test]
fn what_is_live_goes_to_the_file_that_has_the_name_also_if_that_is_not_durable() {
    let directory = scratch();
    let file = Store::open(directory.path()).unwrap().open_file(NAME, LOG, saved(1)).unwrap();
    let faults = vec![fault(Kind::Sync, 0), fault(Kind::SyncDirectory, 0)];
    let _watch = disk::watch(directory.path(), Arc::new(FaultyDisk::new(directory.path(), faults)));
    file.sync(&saved(2)).unwrap_err();
    file.write_live(&saved(3)).unwrap();
    assert_eq!(Scenario::find(directory.path()), Found::Valid(saved(3), Ended::Killed));
}
