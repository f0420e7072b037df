//! Single bytes are not what they were: every 97th of a sealed segment, of one without a seal, and of a savepoint.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use promrelay::savepoint::{Found, PAGE_LEN, Page, Store};

use crate::base::{Base, REQUESTS, SEGMENTS, TARGET};
use crate::expected::Expected;
use crate::image::{Image, segment_name, write_sparse};
use crate::opened::{cheap_dir, read};
use crate::support::eventually;
use crate::support::sink::{Answer, Sink};
use crate::visit::{Prelude, every, relay, visit};

const STRIDE: usize = 97;
const SAVEPOINT: &str = "savepoints/a.sp";

/// A base on a shelf: a changed segment is put there, looked at, and taken away, and the others need not be written each time.
pub struct Shelf<'a> {
    base: &'a Base,
    segment: u64,
    image: Image,
    dir: tempfile::TempDir,
}

impl<'a> Shelf<'a> {
    pub fn new(base: &'a Base, segment: u64) -> Shelf<'a> {
        let dir = cheap_dir();
        let mut others = base.image.clone();
        others.take(&segment_name(segment));
        others.write(&dir.path().join("others"));
        Shelf { base, segment, image: base.image.clone(), dir }
    }

    /// Opens the base with other bytes in the segment, and reads from there into the next segment; everything, if `reads_all`. Then once
    /// more, if `twice`: the second start says the same.
    pub fn look(&mut self, change: impl FnOnce(&mut [u8]), reads_all: bool, twice: bool, what: &str) {
        let name = segment_name(self.segment);
        let log = self.dir.path().join("log");
        let original = self.image.segment(self.segment).to_vec();
        change(self.image.edit_segment(self.segment));
        let expected = Expected::of(self.base, &self.image);
        let (from, first) = if reads_all {
            ((Default::default(), Default::default()), 1)
        } else {
            let from = self.base.before(self.segment);
            (from, from.0.position.0 + 1)
        };
        let next = self.base.of_segment(self.segment + 1).next().map_or(u64::MAX, |record| record.position);
        let until = if reads_all { u64::MAX } else { next };

        copy(&self.dir.path().join("others"), &log);
        write_sparse(&log.join(&name), self.image.bytes(&name));
        let positions: Vec<u64> =
            expected.positions.into_iter().filter(|position| (first..=until).contains(position)).collect();
        for start in 0..=u8::from(twice) {
            let seen = read(self.base, &log, from, until);
            let what = format!("{what}, start {start}");
            assert_eq!((&seen.positions, seen.lost), (&positions, expected.lost), "{what}: {:?}", seen.findings);
            assert_eq!(seen.findings.samples, expected.lost, "{what}: {:?}", seen.findings);
        }
        fs::remove_dir_all(&log).unwrap();
        *self.image.edit_segment(self.segment) = original;
    }
}

/// Sealed segments are never written, so another name for the same file will do; the newest may be.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(&name));
        } else if name.to_str().unwrap().ends_with(".wal") && !name.to_str().unwrap().ends_with(&segment_name(SEGMENTS))
        {
            fs::hard_link(entry.path(), to.join(&name)).unwrap();
        } else {
            fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// Turns over some bits of a byte: other ones at each place.
fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= [0x01, 0x80, 0xff, 0x10][at % 4];
}

async fn every_97th_byte(base: &Base, segment: u64) {
    let len = base.image.segment(segment).len();
    let places: Vec<usize> = (0..len).step_by(STRIDE).collect();
    tokio::task::block_in_place(|| {
        let mut shelf = Shelf::new(base, segment);
        for (number, &at) in places.iter().enumerate() {
            let what = format!("byte {at} of segment {segment} flipped");
            shelf.look(|bytes| flip(bytes, at), number % 100 == 0, number % 10 == 0, &what);
        }
    });
    let mut visits = 0;
    for &at in places.iter().skip(1).step_by(every()) {
        let mut image = base.image.clone();
        flip(image.edit_segment(segment), at);
        let prelude = if visits % 4 == 3 { Prelude::TwoCrashes } else { Prelude::Nothing };
        let seen = visit(&image, |_| {}, prelude, &[]).await;
        seen.assert(&Expected::of(base, &image), &format!("byte {at} of segment {segment} flipped, {prelude:?}"));
        visits += 1;
    }
    println!("{} images of segment {segment}, {visits} visits", places.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_97th_byte_of_a_sealed_segment_costs_the_record_that_it_is_in_and_it_is_counted() {
    every_97th_byte(&*Base::stopped().await, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_97th_byte_of_a_segment_without_a_seal_costs_the_record_that_it_is_in_and_it_is_counted() {
    every_97th_byte(&*Base::killed().await, SEGMENTS).await;
}

/// The pages of a savepoint, as far as they are valid.
fn pages(bytes: &[u8]) -> Vec<Option<Page>> {
    bytes.chunks_exact(PAGE_LEN).map(|page| Page::decode(page.try_into().unwrap())).collect()
}

/// A log of which the target has got a part, in three steps: its savepoint has three pages, each with another content.
async fn partly_settled(base: &Base) -> Image {
    const STEPS: [u64; 3] = [10, 20, 24];

    let sink = Sink::start().await;
    let allowed = Arc::new(AtomicUsize::new(0));
    let mut taken = 0;
    sink.script_for_data({
        let allowed = allowed.clone();
        move |_| {
            let takes = taken < allowed.load(Ordering::Relaxed);
            taken += usize::from(takes);
            Answer::status(if takes { 204 } else { 503 })
        }
    });
    // One record, one request.
    let lines = ["min_backoff = \"10ms\"", "max_backoff = \"20ms\"", "max_samples_per_send = 1", "max_in_flight = 1"];
    let mut relay = relay(&sink.url(), &lines);
    base.image.write(&relay.wal_dir());
    relay.start().await;
    let path = relay.wal_dir().join(SAVEPOINT);
    for (number, step) in STEPS.into_iter().enumerate() {
        allowed.store(step as usize, Ordering::Relaxed);
        // The first page is live, and the others are synced by turns.
        let is_saved = async || {
            let pages = pages(&fs::read(&path).unwrap());
            let says =
                |page: &Option<Page>| page.as_ref().is_some_and(|page| page.savepoint.settled.position.0 == step);
            let is_synced = number + 1 == STEPS.len() || pages[1..].iter().any(says);
            (says(&pages[0]) && is_synced).then_some(())
        };
        eventually("the savepoint says so", Duration::from_secs(20), is_saved).await;
        if number + 1 == STEPS.len() {
            relay.kill_9().await;
        }
    }
    Image::read(&relay.wal_dir())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_byte_of_a_savepoint_may_be_flipped_and_the_newest_of_its_other_pages_counts() {
    let base = Base::killed().await;
    let original = partly_settled(&base).await;
    let dir = cheap_dir();
    original.write(dir.path());
    let log_id = base.image.segment(1)[48..64].try_into().unwrap();
    let places: Vec<usize> = (0..original.bytes(SAVEPOINT).len()).step_by(STRIDE).collect();
    let mut counted = BTreeSet::new();
    let mut visits = 0;
    for (number, &at) in places.iter().enumerate() {
        let mut image = original.clone();
        flip(image.edit(SAVEPOINT), at);
        fs::write(dir.path().join(SAVEPOINT), image.bytes(SAVEPOINT)).unwrap();
        let left = pages(image.bytes(SAVEPOINT)).into_iter().flatten().max_by_key(|page| page.generation).unwrap();
        let found = Store::open(dir.path()).unwrap().find(TARGET, log_id);
        let Found::Valid(saved, _) = found else { panic!("byte {at}: {found:?}") };
        // (What was in flight is doubtful after a power cut, and so after a flip in the live page.)
        let (saved, left) = (saved.savepoint, left.savepoint);
        assert_eq!((saved.settled, saved.ledger), (left.settled, left.ledger), "byte {at}");
        assert_eq!(saved.ranges, left.ranges, "byte {at}");
        let settled = saved.settled.position.0;
        counted.insert(settled);
        if number % 10 == 0 {
            let what = format!("byte {at} of the savepoint flipped");
            let seen = visit(&image, |_| {}, Prelude::Nothing, &[]).await;
            seen.assert(&Expected { positions: (settled + 1..=REQUESTS).collect(), lost: 0 }, &what);
            seen.assert_damage(&[], 0, &what);
            visits += 1;
        }
    }
    assert!(counted.len() > 1, "only {counted:?}: the pages did not differ");
    println!("{} images of a savepoint, {visits} visits", places.len());
}
