//! The ring by what it promises: what was kept comes back, what was removed does not, whatever the file looks like.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fastrand::Rng;
use proptest::prelude::*;

use super::*;
use crate::protocol::Protocol;
use crate::wal::Position;
use crate::wal::powercut::scratch;

pub(super) const SMALL: Options = Options { bytes: BYTES_MIN, leave_free: 0 };

/// An entry that is told by its number, with a body of so many bytes.
pub(super) fn numbered(number: u64, body_len: usize) -> NewEntry {
    let mut body = vec![0; body_len];
    Rng::with_seed(number).fill(&mut body);
    NewEntry {
        target: if number.is_multiple_of(3) { "b" } else { "a" }.to_owned(),
        time_ms: 1_769_850_000_000 + number as i64,
        reason: "status".to_owned(),
        status: Some(400),
        text: format!("out of bounds: {number}"),
        protocol: if number.is_multiple_of(2) { Protocol::V1 } else { Protocol::V2 },
        forwarded: vec![("x-scope-orgid".to_owned(), number.to_string().into_bytes())],
        first: Position(number),
        last: Position(number + 1),
        samples: 10 + number,
        series: format!("up{{n=\"{number}\"}}"),
        is_partial: number.is_multiple_of(5),
        body: Bytes::from(body),
    }
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("dead-letter/ring.dl")
}

/// Everything in it, read with bodies.
pub(super) fn all(ring: &Ring) -> BTreeMap<u64, NewEntry> {
    let listed = ring.list(None, usize::MAX).unwrap().entries;
    let read = listed.iter().filter_map(|summary| match ring.get(summary.id) {
        Ok(entry) => Some((entry.id, entry.content)),
        Err(RingError::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    read.collect()
}

fn ids(ring: &Ring) -> Vec<u64> {
    ring.list(None, usize::MAX).unwrap().entries.iter().map(|summary| summary.id).collect()
}

#[test]
fn what_was_kept_comes_back_after_the_process_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    ring.append(&[numbered(1, 1000), numbered(2, 0)]).unwrap();
    ring.append(&[numbered(3, 70)]).unwrap();
    let expected: BTreeMap<_, _> =
        [(1, numbered(1, 1000)), (2, numbered(2, 0)), (3, numbered(3, 70))].into_iter().collect();
    assert_eq!(all(&ring), expected);
    // Nothing is done at its end.
    std::mem::forget(ring);
    let ring = Ring::open(dir.path(), SMALL);
    assert_eq!(all(&ring), expected);
    assert_eq!(ring.stats().entries, 3);
    ring.append(&[numbered(4, 10)]).unwrap();
    assert_eq!(ids(&ring), [1, 2, 3, 4]);
}

#[test]
fn a_listing_says_what_is_to_be_known_without_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    ring.append(&[numbered(5, 300), numbered(6, 300)]).unwrap();
    let listing = ring.list(Some("a"), 10).unwrap();
    let expected = Summary {
        id: 1,
        target: "a".into(),
        time: "2026-01-31T09:00:00Z".into(),
        time_ms: 1_769_850_000_005,
        reason: "status".into(),
        status: Some(400),
        text: "out of bounds: 5".into(),
        protocol: "2.0".into(),
        first: 5,
        last: 6,
        samples: 15,
        series: "up{n=\"5\"}".into(),
        is_partial: true,
        body_bytes: 300,
        has_body: true,
    };
    assert_eq!(listing, Listing { entries: vec![expected], older: 0 });
    assert_eq!(ring.of_target("b"), [(2, 16)]);
    let newest = ring.list(None, 1).unwrap();
    assert_eq!((newest.entries[0].id, newest.older), (2, 1));
}

#[test]
fn what_was_removed_stays_removed_and_its_id_is_not_given_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    ring.append(&[numbered(1, 100), numbered(2, 100), numbered(3, 100)]).unwrap();
    assert_eq!(ring.remove(&[2, 3, 3, 99]).unwrap(), 2);
    assert_eq!(ids(&ring), [1]);
    assert!(matches!(ring.get(3), Err(RingError::Unknown { id: 3 })));
    drop(ring);
    let ring = Ring::open(dir.path(), SMALL);
    assert_eq!(ids(&ring), [1]);
    ring.append(&[numbered(4, 100)]).unwrap();
    assert_eq!(ids(&ring), [1, 4]);
}

#[test]
fn a_full_ring_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    let mut rng = Rng::with_seed(1);
    for number in 1..500 {
        let len = rng.usize(0..6000);
        ring.append(&[numbered(number, len)]).unwrap();
        let kept = ids(&ring);
        assert_eq!(kept.last(), Some(&number));
        assert!(ring.get(number).unwrap().content == numbered(number, len));
        if number.is_multiple_of(50) {
            let reopened = Ring::open(dir.path(), SMALL);
            assert_eq!(ids(&reopened), kept, "after entry {number}");
            assert_eq!(all(&reopened).len(), kept.len(), "none of them is damaged");
        }
    }
    let stats = ring.stats();
    assert_eq!(stats.entries + stats.overwritten, 499);
    assert!(stats.bytes <= BYTES_MIN && stats.bytes > BYTES_MIN / 2, "{stats:?}");
    assert_eq!(fs::metadata(path(dir.path())).unwrap().len(), BYTES_MIN);
}

#[test]
fn an_entry_larger_than_a_quarter_of_the_ring_is_kept_without_its_body() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    let mut large = numbered(1, 20_000);
    large.text = "é".repeat(2000);
    large.forwarded = vec![("x".into(), vec![b'y'; 8000]); 3];
    ring.append(&[large]).unwrap();
    let entry = ring.get(1).unwrap();
    assert!(!entry.has_body() && entry.content.body.is_empty() && entry.body_bytes == 20_000);
    assert_eq!((entry.content.text.len(), entry.content.forwarded.len()), (TEXT_LEN_MAX, 0));
    let listed = ring.list(None, 10).unwrap().entries.remove(0);
    assert_eq!((listed.has_body, listed.body_bytes), (false, 20_000));
    // And so after its ring was made larger.
    let ring = Ring::open(dir.path(), Options { bytes: 1 << 20, ..SMALL });
    assert!(!ring.get(1).unwrap().has_body());
}

#[test]
fn more_entries_at_a_time_than_the_ring_holds_leave_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    let entries: Vec<_> = (1..=100).map(|number| numbered(number, 3000)).collect();
    ring.append(&entries).unwrap();
    let kept = ids(&ring);
    assert!(kept.len() > 10 && kept.last() == Some(&100), "{kept:?}");
    assert_eq!(ids(&Ring::open(dir.path(), SMALL)), kept);
}

#[test]
fn another_size_keeps_the_newest_that_fit_with_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let large = Options { bytes: 1 << 20, leave_free: 0 };
    let ring = Ring::open(dir.path(), large);
    for number in 1..=40 {
        ring.append(&[numbered(number, 5000)]).unwrap();
    }
    ring.remove(&[38]).unwrap();
    drop(ring);
    let ring = Ring::open(dir.path(), SMALL);
    let kept = ids(&ring);
    assert_eq!(kept, [30, 31, 32, 33, 34, 35, 36, 37, 39, 40]);
    assert!(all(&ring).iter().all(|(id, entry)| *entry == numbered(*id, 5000)));
    assert_eq!(fs::metadata(path(dir.path())).unwrap().len(), BYTES_MIN);
    drop(ring);
    let ring = Ring::open(dir.path(), large);
    assert_eq!(ids(&ring), kept);
    assert_eq!(Ring::reserved_bytes(dir.path(), SMALL), (1 << 20) + 4096);
    ring.append(&[numbered(41, 5000)]).unwrap();
    assert_eq!(ids(&ring).last(), Some(&41));
    assert_eq!(fs::read_dir(dir.path().join("dead-letter")).unwrap().count(), 1);
}

#[test]
fn a_ring_that_is_turned_off_can_be_emptied_and_is_gone_then() {
    let dir = tempfile::tempdir().unwrap();
    let off = Options::default();
    let ring = Ring::open(dir.path(), off);
    assert!(matches!(ring.append(&[numbered(1, 1)]), Err(RingError::Off)));
    assert_eq!((Ring::reserved_bytes(dir.path(), off), fs::read_dir(dir.path()).unwrap().count()), (0, 0));
    Ring::open(dir.path(), SMALL).append(&[numbered(1, 1)]).unwrap();
    let ring = Ring::open(dir.path(), off);
    assert_eq!((ids(&ring), Ring::reserved_bytes(dir.path(), off)), (vec![1], BYTES_MIN + 4096));
    assert!(matches!(ring.append(&[numbered(1, 1)]), Err(RingError::Off)));
    ring.remove(&[1]).unwrap();
    let ring = Ring::open(dir.path(), off);
    assert!(ids(&ring).is_empty());
    assert!(!path(dir.path()).exists());
}

#[test]
fn without_room_there_is_no_ring_for_now() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), Options { bytes: BYTES_MIN, leave_free: u64::MAX });
    let error = ring.append(&[numbered(1, 1)]).unwrap_err();
    assert!(matches!(&error, RingError::Missing { reason } if reason.contains("no room")), "{error}");
    assert!(ids(&ring).is_empty());
    assert_eq!(ring.remove(&[1]).unwrap(), 0);
    assert!(!path(dir.path()).exists());
    assert_eq!(Ring::reserved_bytes(dir.path(), SMALL), BYTES_MIN + 4096, "it is expected to come");
}

#[test]
fn looking_creates_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ids(&Ring::open_existing(dir.path()).unwrap()).is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    Ring::open(dir.path(), SMALL).append(&[numbered(1, 100)]).unwrap();
    let before = fs::read(path(dir.path())).unwrap();
    let ring = Ring::open_existing(dir.path()).unwrap();
    assert_eq!(all(&ring).len(), 1);
    assert_eq!(fs::read(path(dir.path())).unwrap(), before);
    ring.remove(&[1]).unwrap();
    assert!(ids(&Ring::open(dir.path(), SMALL)).is_empty());
}

#[test]
fn something_else_in_its_place_is_moved_away() {
    for content in [&b""[..], b"not a ring", &[0; 70_000]] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dead-letter")).unwrap();
        fs::write(path(dir.path()), content).unwrap();
        assert!(Ring::open_existing(dir.path()).is_err());
        let ring = Ring::open(dir.path(), SMALL);
        ring.append(&[numbered(1, 100)]).unwrap();
        let kept = fs::read_dir(dir.path().join("quarantine")).unwrap().next().unwrap().unwrap();
        assert_eq!(fs::read(kept.path()).unwrap(), content);
    }
}

#[test]
fn a_body_that_was_damaged_is_told_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let ring = Ring::open(dir.path(), SMALL);
    ring.append(&[numbered(1, 1000)]).unwrap();
    ring.append(&[numbered(2, 1000)]).unwrap();
    let raw = fs::File::options().write(true).open(path(dir.path())).unwrap();
    raw.write_all_at(&[0xff; 8], 8192 + 600).unwrap();
    assert!(matches!(ring.get(1), Err(RingError::Damaged { id: 1 })));
    assert!(matches!(ring.get(1), Err(RingError::Unknown { id: 1 })));
    assert_eq!(ids(&ring), [2]);
}

#[test]
fn one_header_is_enough() {
    for offset in [0, 4096] {
        let dir = tempfile::tempdir().unwrap();
        Ring::open(dir.path(), SMALL).append(&[numbered(1, 100)]).unwrap();
        let raw = fs::File::options().write(true).open(path(dir.path())).unwrap();
        raw.write_all_at(&[0xff; 64], offset).unwrap();
        assert_eq!(ids(&Ring::open(dir.path(), SMALL)), [1]);
    }
}

#[test]
fn what_a_body_says_is_shown_up_to_a_limit() {
    use prost::Message;

    use crate::protocol::messages::{v1, v2};
    let snappy = |message: Vec<u8>| snap::raw::Encoder::new().compress_vec(&message).unwrap();
    let label = |name: &str, value: &str| v1::Label { name: name.into(), value: value.into() };
    let samples = (0..3).map(|n| v1::Sample { value: 0.5 * f64::from(n), timestamp: 7 + i64::from(n) }).collect();
    let entry =
        v1::TimeSeries { labels: vec![label("__name__", "up"), label("job", "a")], samples, ..Default::default() };
    let first = snappy(v1::WriteRequest { timeseries: vec![entry], metadata: vec![] }.encode_to_vec());
    let shown = content(Protocol::V1, &first, 2).unwrap();
    let lines = vec!["up{job=\"a\"} 0 @7".to_owned(), "up{job=\"a\"} 0.5 @8".to_owned()];
    assert_eq!(shown, Content { series: 1, samples: 3, lines });
    assert_eq!(describe_first(Protocol::V1, &first), "up{job=\"a\"}");

    let symbols = ["", "__name__", "h"].map(str::to_owned).to_vec();
    let histogram =
        v2::Histogram { count: Some(v2::histogram::Count::CountInt(3)), sum: 1.5, timestamp: 9, ..Default::default() };
    let entry = v2::TimeSeries { labels_refs: vec![1, 2, 77], histograms: vec![histogram], ..Default::default() };
    let second = snappy(v2::Request { symbols, timeseries: vec![entry] }.encode_to_vec());
    let shown = content(Protocol::V2, &second, 2).unwrap();
    assert_eq!(shown.lines, ["h{\"(no symbol)\"=\"(no symbol)\"} histogram count=3 sum=1.5 schema=0 @9"]);

    assert!(content(Protocol::V1, b"no snappy", 2).is_err());
    assert_eq!(describe_first(Protocol::V1, b"no snappy"), "");
}

/// What is done to a ring between two looks.
#[derive(Clone, Debug)]
enum Deed {
    Append(Vec<usize>),
    Remove(usize),
    Reopen,
    Resize(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => prop::collection::vec(0usize..9000, 1..4).prop_map(Deed::Append),
        2 => (0usize..20).prop_map(Deed::Remove),
        2 => Just(Deed::Reopen),
        1 => (64u64..200).prop_map(|kib| Deed::Resize(kib << 10)),
    ];
    prop::collection::vec(deed, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_ring_holds_the_newest_of_what_it_was_given_and_nothing_else(deeds in deeds()) {
        let dir = scratch();
        let mut options = SMALL;
        let mut ring = Ring::open(dir.path(), options);
        let mut given: BTreeMap<u64, NewEntry> = BTreeMap::new();
        let mut next = 1;
        for deed in deeds {
            match deed {
                Deed::Append(lens) => {
                    let entries: Vec<_> = (next..).zip(&lens).map(|(id, len)| numbered(id, *len)).collect();
                    ring.append(&entries).unwrap();
                    let newest = entries.last().unwrap().clone();
                    given.extend((next..).zip(entries));
                    next += lens.len() as u64;
                    let entry = ring.get(next - 1).unwrap();
                    prop_assert!(!entry.has_body() || entry.content == newest);
                }
                Deed::Remove(number) => {
                    let there = ids(&ring);
                    if let Some(id) = there.get(number) {
                        ring.remove(&[*id]).unwrap();
                        given.remove(id);
                    }
                }
                Deed::Reopen => ring = Ring::open(dir.path(), options),
                Deed::Resize(bytes) => {
                    options.bytes = bytes;
                    ring = Ring::open(dir.path(), options);
                }
            }
            for (id, entry) in all(&ring) {
                let expected = given.get(&id);
                let is_bare = entry.body.is_empty();
                let entry = NewEntry { body: if is_bare { expected.unwrap().body.clone() } else { entry.body }, ..entry };
                prop_assert_eq!(Some(&entry), expected);
            }
            prop_assert_eq!(all(&ring).len() as u64, ring.stats().entries);
        }
    }

    #[test]
    fn whatever_becomes_of_the_file_it_is_opened_and_what_comes_back_is_intact(
        lens in prop::collection::vec(prop::collection::vec(0usize..5000, 1..4), 1..30),
        flips in prop::collection::vec((0usize..(64 << 10), 1u8..), 0..20),
        early in any::<bool>(),
        cut in prop::option::of(0u64..(64 << 10)),
    ) {
        let dir = scratch();
        let ring = Ring::open(dir.path(), SMALL);
        let mut given = BTreeMap::new();
        let mut next = 1;
        for lens in lens {
            let entries: Vec<_> = (next..).zip(&lens).map(|(id, len)| numbered(id, *len)).collect();
            ring.append(&entries).unwrap();
            given.extend((next..).zip(entries));
            next += lens.len() as u64;
        }
        drop(ring);
        let mut bytes = fs::read(path(dir.path())).unwrap();
        for (offset, flip) in flips {
            // Most of what is there is at the beginning.
            bytes[if early { offset / 4 } else { offset }] ^= flip;
        }
        bytes.truncate(cut.map_or(usize::MAX, |cut| cut as usize));
        fs::write(path(dir.path()), bytes).unwrap();
        if let Ok(ring) = Ring::open_existing(dir.path()) {
            all(&ring);
        }
        for _ in 0..2 {
            let ring = Ring::open(dir.path(), SMALL);
            for (id, entry) in all(&ring) {
                prop_assert_eq!(Some(&entry), given.get(&id));
            }
            let fresh = numbered(1_000_000, 700);
            ring.append(std::slice::from_ref(&fresh)).unwrap();
            let newest = *ids(&ring).last().unwrap();
            prop_assert_eq!(&ring.get(newest).unwrap().content, &fresh);
            given.insert(newest, fresh);
        }
    }
}
