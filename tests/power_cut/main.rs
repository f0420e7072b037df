//! Power cuts, from outside: a life of the relay is recorded, call by call; then for many of its moments the disk is
//! made that a power cut could have left, and a relay is started on it. Whatever was acknowledged before the cut must
//! have been at the target, or come to it now.
//!
//! ```text
//!  recording   one life under strace: every change of a file and every sync; what clients and the target knew when
//!  history     the trace as changes and syncs
//!  image       a moment of it + dice = a disk: what was synced, and any part of what was not
//!  check       a relay starts on it, delivers to an empty sink, goes on
//! ```
//!
//! `PROMRELAY_TEST_POWER_CUTS` says how many images are made with `sync = "always"` (1000; a fifth of it for other
//! modes). When one fails, the recording is kept: `PROMRELAY_TEST_RECORDING` and `PROMRELAY_TEST_SEED` show the same
//! run again.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod check;
mod history;
mod image;
mod places;
mod recording;
#[path = "../support/mod.rs"]
mod support;
mod tests;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use check::{Bench, Outcome, Then, report};
use history::{Change, History, Naming};
use image::{Cut, Syncs};
use recording::Recording;
use support::{seed, strace_is_here};

/// Relays that are started side by side.
const WORKERS: usize = 4;
/// After so many the rest of a run says nothing new.
const FAILURES_MAX: usize = 10;

fn images() -> usize {
    let text = std::env::var("PROMRELAY_TEST_POWER_CUTS");
    text.map_or(1000, |text| text.parse().expect("PROMRELAY_TEST_POWER_CUTS is a number"))
}

fn record(sync: &str) -> Recording {
    Runtime::new().unwrap().block_on(Recording::of(sync))
}

/// The recording with `sync = "always"`, made once.
fn always() -> &'static Recording {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    RECORDING.get_or_init(|| record("always"))
}

/// A moment: half of them any line on which something begins or ends, the other half lines around a kind of call that
/// is drawn first, so that what is rare has its share.
fn any_cut(history: &History, random: &mut fastrand::Rng) -> Cut {
    let lines = &history.lines;
    let mut place = random.usize(..lines.len());
    if random.bool() {
        let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for step in &history.steps {
            kinds.entry(&step.kind).or_default().extend([step.span.entered, step.span.left]);
        }
        let kinds: Vec<_> = kinds.values().collect();
        let of_kind = kinds[random.usize(..kinds.len())];
        place = lines.binary_search(&of_kind[random.usize(..of_kind.len())]).unwrap();
        place = (place + random.usize(..4)).saturating_sub(1).min(lines.len() - 1);
    }
    Cut { line: lines[place], seed: random.u64(..) }
}

/// What images have shown, all together.
#[derive(Debug, Default)]
struct Figures {
    images: usize,
    /// Some of what was not synced had not come through.
    cut_content: usize,
    cut_names: usize,
    out_of_order: usize,
    delivered: usize,
    sent_twice: usize,
    with_lost_samples: usize,
    /// What went wrong where names kept to their order, and where they did not.
    failures: [Vec<String>; 2],
}

impl Figures {
    fn add(&mut self, outcome: &Outcome) {
        self.images += 1;
        self.cut_content += usize::from(outcome.fate.lost_sectors > 0);
        self.cut_names += usize::from(outcome.fate.lost_names > 0);
        self.out_of_order += usize::from(outcome.fate.is_out_of_order);
        self.delivered += outcome.delivered;
        self.sent_twice += outcome.sent_twice;
        self.with_lost_samples += usize::from(outcome.lost_samples > 0);
    }
}

/// Cuts the power so many times.
fn cut_power(recording: &Recording, count: usize, seed: u64) -> Figures {
    let mut random = fastrand::Rng::with_seed(seed);
    let cuts: Vec<(Cut, Then)> =
        (0..count).map(|_| (any_cut(&recording.history, &mut random), Then::any(&mut random))).collect();
    let cuts = Mutex::new(cuts.into_iter());
    let figures = Mutex::new(Figures::default());
    let work = || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut bench = Bench::new();
        while let Some((cut, then)) = next(&cuts) {
            let checked = caught(|| runtime.block_on(bench.check(recording, cut, Syncs::All, then)));
            let complaint = match &checked {
                Ok(outcome) => outcome.complaint(&recording.sync),
                Err(said) => Some(said.clone()),
            };
            let complaint = complaint.map(|what| report(recording, cut, &what));
            let mut figures = figures.lock().unwrap();
            checked.into_iter().for_each(|outcome| figures.add(&outcome));
            if let Some((text, is_out_of_order)) = complaint {
                figures.failures[usize::from(is_out_of_order)].push(text);
            }
            if figures.failures.iter().map(Vec::len).sum::<usize>() >= FAILURES_MAX {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    figures.into_inner().unwrap()
}

/// The next one, without holding the lock meanwhile.
fn next<T>(of: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    of.lock().unwrap().next()
}

/// What comes of `work`, or what it panicked with.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic without words").to_string()
    })
}

/// Cuts the power, says what came of it, and fails if anything went wrong.
fn judge(recording: &Recording, count: usize) {
    let seed = seed();
    assert_lively(&recording.history);
    let start = Instant::now();
    let figures = cut_power(recording, count, seed);
    let [ordered, out_of_order] = &figures.failures;
    println!(
        "sync = {:?}: {} requests, {} calls recorded; {} images in {:.0?}; content was cut in {}, names in {} \
         ({} times out of order); {} requests delivered after a cut, {} of them a second time; \
         samples were lost in {}; {} failures with names in order, {} out of order",
        recording.sync,
        recording.sent.len(),
        recording.history.steps.len(),
        figures.images,
        start.elapsed(),
        figures.cut_content,
        figures.cut_names,
        figures.out_of_order,
        figures.delivered,
        figures.sent_twice,
        figures.with_lost_samples,
        ordered.len(),
        out_of_order.len(),
    );
    if !ordered.is_empty() || !out_of_order.is_empty() {
        let dir = recording.keep();
        panic!(
            "power cuts with sync = {:?}, PROMRELAY_TEST_SEED={seed} PROMRELAY_TEST_RECORDING={}\n\n\
             names in order:\n{}\n\nnames out of order:\n{}",
            recording.sync,
            dir.display(),
            ordered.join("\n"),
            out_of_order.join("\n")
        );
    }
    assert_eq!(figures.images, count);
    // A few images can be dull, hundreds cannot.
    let is_lively = figures.cut_content > count / 4 && figures.cut_names > 0 && figures.sent_twice > 0;
    assert!(is_lively || count < 100, "{figures:?}");
}

/// All that is interesting has happened, or the test would test less than it says.
fn assert_lively(history: &History) {
    let changes = || history.files.iter().flat_map(|file| &file.changes);
    let punched = changes().filter(|(_, change)| matches!(change, Change::Punch { .. })).count();
    let allocated = changes().filter(|(_, change)| matches!(change, Change::Allocate { .. })).count();
    let of = |wanted: fn(&Naming) -> bool| {
        history.directories.values().flat_map(|directory| &directory.namings).filter(|(_, it)| wanted(it)).count()
    };
    let removed = of(|naming| matches!(naming, Naming::Remove { .. }));
    let renamed = of(|naming| matches!(naming, Naming::Rename { .. }));
    let directory_syncs: usize = history.directories.values().map(|directory| directory.syncs.len()).sum();
    let segments = history.segments().count();
    let savepoint_syncs: usize =
        history.files.iter().filter(|file| file.name.ends_with(".sp")).map(|file| file.syncs.len()).sum();
    let seen = [segments, allocated, punched, removed, renamed, directory_syncs, savepoint_syncs];
    assert!(seen.iter().all(|count| *count >= 5), "{seen:?}");
}

#[test]
fn whatever_a_power_cut_leaves_what_was_acknowledged_is_delivered() {
    if !strace_is_here() {
        return;
    }
    judge(always(), images());
}

#[test]
fn with_an_interval_a_power_cut_takes_only_what_was_not_synced_and_garbles_nothing() {
    if !strace_is_here() {
        return;
    }
    judge(&record("100ms"), images() / 5);
}

#[test]
fn without_syncs_a_power_cut_takes_only_what_the_system_had_not_written_and_garbles_nothing() {
    if !strace_is_here() {
        return;
    }
    judge(&record("never"), images() / 5);
}

/// Cuts the power of a relay that syncs worse than ours, until something that was acknowledged is missing.
fn is_found_out(syncs: Syncs) {
    if !strace_is_here() {
        return;
    }
    const TRIES: usize = 200;
    let recording = always();
    let (runtime, mut bench) = (Runtime::new().unwrap(), Bench::new());
    let mut random = fastrand::Rng::with_seed(seed());
    for tried in 1..=TRIES {
        let cut = any_cut(&recording.history, &mut random);
        // On a disk as it never promised to bear a relay may also do worse than lose.
        let outcome = caught(|| runtime.block_on(bench.check(recording, cut, syncs, Then::Nothing)));
        if outcome.is_ok_and(|outcome| !outcome.missing.is_empty()) {
            println!("{syncs:?}: found by image {tried}");
            return;
        }
    }
    panic!("{syncs:?}: nothing was missing in {TRIES} images");
}

#[test]
fn a_relay_that_does_not_sync_its_files_would_be_found_out() {
    is_found_out(Syncs::NotOfFiles);
}

#[test]
fn a_relay_that_does_not_sync_its_directories_would_be_found_out() {
    is_found_out(Syncs::NotOfDirectories);
}

#[test]
fn a_relay_that_answers_before_its_last_sync_would_be_found_out() {
    is_found_out(Syncs::NotTheLast);
}
