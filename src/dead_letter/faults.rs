//! Each call to the disk fails, alone and together with others: what was kept is there, what was removed is not.
//!
//! A scenario opens a ring, appends over several laps, removes, opens it again with another size, and goes on. It is played for each call
//! (of those that read, for some) refused once or five times in a row. After every step it is looked at what `kill -9` and a power cut would leave:
//!
//! - The last entry that was kept, and those before it as far as newer ones cannot have taken their place.
//! - Nothing that was removed, and nothing that was never handed in; no id with two contents.
//! - No file is synced again after a sync of it has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use rustix::io::Errno;

use super::tests::{SMALL, all, numbered};
use super::*;
use crate::wal::disk;
use crate::wal::faults::{Fault, FaultyDisk, Kind, play_all};
use crate::wal::powercut::{self, scratch};

struct Scenario {
    disk: Arc<FaultyDisk>,
    rng: Rng,
    /// What was handed in so far.
    next: u64,
    /// The numbers of what counts as kept, oldest first.
    kept: Vec<u64>,
    /// Those of what counts as removed.
    removed: BTreeSet<u64>,
}

fn len(number: u64) -> usize {
    (number as usize * 1777) % 6000
}

/// How many of the newest are there for sure in a ring of the least size, whatever lens they have.
const FOR_SURE: usize = 4;

impl Scenario {
    /// By their numbers, with their ids.
    fn check(&mut self) {
        let image = self.disk.tape.image(self.disk.tape.len());
        for (end, contents) in [("kill -9", image.killed()), ("a power cut", image.cut(&mut self.rng))] {
            let directory = scratch();
            powercut::write_to(directory.path(), &contents);
            self.check_in(directory.path(), end);
        }
    }

    fn check_in(&self, directory: &Path, end: &str) {
        let ring = Ring::open(directory, SMALL);
        let there = self.look(&ring);
        // What failed last may have damaged the oldest of them.
        let newest = self.kept.iter().rev().take(FOR_SURE).filter(|number| !self.removed.contains(number));
        for number in newest {
            assert!(there.contains_key(number), "after {end}: {number} is not among {there:?}");
        }
        for number in &self.removed {
            assert!(!there.contains_key(number), "after {end}: {number} is there again");
        }
    }

    /// Everything that is there is as it was handed in.
    fn look(&self, ring: &Ring) -> BTreeMap<u64, u64> {
        let mut numbers = BTreeMap::new();
        for (id, entry) in all(ring) {
            let number = entry.first.0;
            assert!(number < self.next && entry == numbered(number, len(number)), "{number} is another");
            numbers.insert(number, id);
        }
        numbers
    }

    fn append(&mut self, ring: &Ring, count: u64) {
        let numbers: Vec<u64> = (self.next..self.next + count).collect();
        self.next += count;
        let entries: Vec<_> = numbers.iter().map(|number| numbered(*number, len(*number))).collect();
        if ring.append(&entries).is_ok() {
            self.kept.extend(numbers);
        }
        self.check();
    }

    fn remove(&mut self, ring: &Ring, number: u64) {
        // It may be that the disk does not say.
        let Ok(listing) = ring.list(None, FOR_SURE) else { return };
        let entry = listing.entries.iter().find(|entry| entry.first == number);
        if let Some(id) = entry.map(|entry| entry.id) {
            match ring.remove(&[id]) {
                Ok(removed) => assert_eq!(removed, 1),
                // It may be there, or not.
                Err(_) => self.kept.retain(|kept| *kept != number),
            }
            if !self.kept.contains(&number) {
                return self.check();
            }
            self.removed.insert(number);
        }
        self.check();
    }
}

fn play(faults: Vec<Fault>) -> BTreeMap<Kind, usize> {
    let directory = scratch();
    let disk = Arc::new(FaultyDisk::new(directory.path(), faults));
    let _watch = disk::watch(directory.path(), disk.clone());
    let mut scenario =
        Scenario { disk: disk.clone(), rng: Rng::with_seed(7), next: 1, kept: Vec::new(), removed: BTreeSet::new() };
    for bytes in [SMALL.bytes, 2 * SMALL.bytes, SMALL.bytes] {
        let ring = Ring::open(directory.path(), Options { bytes, ..SMALL });
        scenario.check();
        for count in [3, 1, 4, 3] {
            scenario.append(&ring, count);
        }
        let last = scenario.kept.last().copied().unwrap_or(0);
        scenario.remove(&ring, last.saturating_sub(1));
        scenario.append(&ring, 2);
    }
    // Sooner or later the faults have passed.
    let kept = scenario.kept.len();
    for _ in 0..7 {
        let ring = Ring::open(directory.path(), SMALL);
        for _ in 0..2 {
            scenario.append(&ring, 1);
        }
    }
    assert!(scenario.kept.len() >= kept + 2, "it takes nothing any more");
    disk.assert_no_sync_was_retried();
    disk.calls()
}

#[test]
fn whatever_call_fails_what_was_kept_is_there_and_what_was_removed_is_not() {
    let mut faults = Fault::all(&play(Vec::new()));
    // Headers are read one after the other, in the same way.
    faults.retain(|fault| fault.kind != Kind::Read || fault.first.is_multiple_of(7));
    // Only an allocation tells a full disk from a bad one.
    faults.retain(|fault| fault.error == Errno::IO || fault.kind == Kind::Allocate);
    println!("{} faults", faults.len());
    play_all(&faults, |fault| {
        play(vec![fault]);
    });
}

#[test]
fn a_power_cut_at_any_time_leaves_what_was_kept_before() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let directory = scratch();
        let disk = Arc::new(FaultyDisk::new(directory.path(), Vec::new()));
        let _watch = disk::watch(directory.path(), disk.clone());
        let ring = Ring::open(directory.path(), SMALL);
        let mut scenario =
            Scenario { disk: disk.clone(), rng: rng.fork(), next: 1, kept: Vec::new(), removed: BTreeSet::new() };
        let mut milestones = vec![(0, Vec::new(), BTreeSet::new())];
        for _ in 0..rng.u64(1..30) {
            scenario.append_unchecked(&ring, rng.u64(1..4));
            milestones.push((disk.tape.len(), scenario.kept.clone(), scenario.removed.clone()));
        }
        for _ in 0..20 {
            let at = rng.usize(0..=disk.tape.len());
            let (_, kept, _) = milestones.iter().rev().find(|(len, ..)| *len <= at).unwrap();
            let contents = disk.tape.image(at).cut(&mut rng);
            let cut = scratch();
            powercut::write_to(cut.path(), &contents);
            scenario.kept.clone_from(kept);
            scenario.check_in(cut.path(), "a power cut");
            // And what comes next has ids of its own.
            let reopened = Ring::open(cut.path(), SMALL);
            let before = scenario.look(&reopened);
            reopened.append(&[numbered(1, len(1)), numbered(2, len(2))]).unwrap();
            let listed = reopened.list(None, usize::MAX).unwrap().entries;
            assert!(before.values().all(|id| *id < listed[listed.len() - 2].id));
        }
    }
}

impl Scenario {
    fn append_unchecked(&mut self, ring: &Ring, count: u64) {
        let numbers: Vec<u64> = (self.next..self.next + count).collect();
        self.next += count;
        let entries: Vec<_> = numbers.iter().map(|number| numbered(*number, len(*number))).collect();
        ring.append(&entries).unwrap();
        self.kept.extend(numbers);
    }
}
