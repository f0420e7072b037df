//! Files of the log and savepoints are missing, exchanged, foreign, unusable.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::base::{Base, REQUESTS, SEGMENTS, TARGET};
use crate::expected::Expected;
use crate::image::{Image, segment_name};
use crate::support::relay::Config;
use crate::support::request::{Protocol, numbered};
use crate::support::sink::Sink;
use crate::support::{client, eventually, ledger};
use crate::visit::{Prelude, Seen, relay, visit};

use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Visits an exhibit at once and after two crashes: the same comes out.
async fn both(image: &Image, prepare: impl Fn(&Path), expected: &Expected, kinds: &[&str], what: &str) -> Seen {
    let crashed = visit(image, &prepare, Prelude::TwoCrashes, &[]).await;
    crashed.assert(expected, &format!("{what}, after two crashes"));
    let seen = visit(image, &prepare, Prelude::Nothing, &[]).await;
    seen.assert(expected, what);
    seen.assert_damage(kinds, expected.lost, what);
    seen
}

/// A base and a copy of it to be spoilt.
async fn killed() -> (std::sync::Arc<Base>, Image) {
    let base = Base::killed().await;
    let image = base.image.clone();
    (base, image)
}

fn nothing(_: &Path) {}

#[tokio::test(flavor = "multi_thread")]
async fn an_unspoilt_log_gives_everything() {
    for base in [Base::killed().await, Base::stopped().await] {
        let everything = Expected::without(&base, &[]);
        assert_eq!(everything.positions, (1..=REQUESTS).collect::<Vec<_>>());
        both(&base.image, nothing, &everything, &[], "as it was").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_segment_is_counted_where_others_show_that_it_was_there() {
    let (base, mut image) = killed().await;
    image.take(&segment_name(2));
    both(&image, nothing, &Expected::without(&base, &[2]), &["missing"], "2 removed").await;
    image.take(&segment_name(3));
    both(&image, nothing, &Expected::without(&base, &[2, 3]), &["missing"], "2 and 3 removed").await;

    // The target's savepoint shows it.
    let (base, mut image) = killed().await;
    image.take(&segment_name(1));
    visit(&image, nothing, Prelude::Nothing, &[]).await.assert(&Expected::without(&base, &[1]), "1 removed");
    visit(&image, nothing, Prelude::TwoCrashes, &[]).await.assert(&Expected::without(&base, &[1]), "1 removed");

    // Nothing shows it.
    let (base, mut image) = killed().await;
    image.take(&segment_name(SEGMENTS));
    let expected = Expected { lost: 0, ..Expected::without(&base, &[SEGMENTS]) };
    both(&image, nothing, &expected, &[], "the newest removed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_segments_are_called_their_headers_count() {
    let (base, mut image) = killed().await;
    let (second, third) = (image.take(&segment_name(2)), image.take(&segment_name(3)));
    image.put(&segment_name(2), third);
    image.put(&segment_name(3), second);
    both(&image, nothing, &Expected::without(&base, &[]), &[], "2 and 3 swapped").await;

    for (from, to) in [(2, 77), (1, 1000), (SEGMENTS, 77)] {
        let (base, mut image) = killed().await;
        let bytes = image.take(&segment_name(from));
        image.put(&segment_name(to), bytes);
        both(&image, nothing, &Expected::without(&base, &[]), &[], &format!("{from} renamed to {to}")).await;
    }

    let (base, mut image) = killed().await;
    let bytes = image.take(&segment_name(2));
    image.put("seg-2.wal", bytes);
    both(&image, nothing, &Expected::without(&base, &[2]), &["missing"], "2 renamed to no name of a segment").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_of_a_segment_changes_nothing() {
    for (of, as_number) in [(2, 9), (SEGMENTS, 9), (1, 2000)] {
        let (base, mut image) = killed().await;
        image.put(&segment_name(as_number), base.image.segment(of).to_vec());
        let what = format!("a copy of {of} as {as_number}");
        let seen = both(&image, nothing, &Expected::without(&base, &[]), &["unusable"], &what).await;
        assert!(seen.relay.wal_dir().join("quarantine").join(segment_name(as_number)).exists(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_place_of_a_segment_that_is_none_goes_to_quarantine_and_the_segment_is_counted() {
    let noise: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    for (content, what) in
        [(vec![], "empty"), (b"# TYPE x".to_vec(), "short"), (noise, "noise"), (vec![0; 1 << 20], "zeroes")]
    {
        let (base, mut image) = killed().await;
        image.put(&segment_name(2), content.clone());
        let seen = both(&image, nothing, &Expected::without(&base, &[2]), &kinds_of(&content), what).await;
        assert!(seen.relay.wal_dir().join("quarantine").join(segment_name(2)).exists(), "{what}");

        // Behind the newest nothing is known of what it was.
        let (base, mut image) = killed().await;
        image.put(&segment_name(SEGMENTS + 1), content);
        both(&image, nothing, &Expected::without(&base, &[]), &["unusable"], &format!("{what}, behind the newest"))
            .await;
    }
}

/// A file without anything cannot have held records: what is missing is a finding of its own.
fn kinds_of(content: &[u8]) -> Vec<&'static str> {
    if content.is_empty() { vec!["missing", "unusable"] } else { vec!["unusable"] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_whose_headers_are_both_damaged_is_counted() {
    let (base, mut image) = killed().await;
    let bytes = image.edit_segment(2);
    let copy = 4096;
    bytes[30] ^= 1;
    bytes[copy + 30] ^= 1;
    both(&image, nothing, &Expected::of(&base, &image), &["unusable"], "both headers of 2 damaged").await;
    assert_eq!(Expected::of(&base, &image), Expected::without(&base, &[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_an_older_log_is_none_of_this_one() {
    let older = Base::stopped().await;
    let (base, mut image) = killed().await;
    image.put(&segment_name(2), older.image.segment(2).to_vec());
    both(&image, nothing, &Expected::without(&base, &[2]), &["missing", "unusable"], "an older 2").await;

    let (base, mut image) = killed().await;
    image.put(&segment_name(SEGMENTS), older.image.segment(SEGMENTS).to_vec());
    let expected = Expected { lost: 0, ..Expected::without(&base, &[SEGMENTS]) };
    both(&image, nothing, &expected, &["unusable"], "an older newest one").await;

    let (base, mut image) = killed().await;
    image.put(&segment_name(SEGMENTS + 1), older.image.segment(1).to_vec());
    both(&image, nothing, &Expected::without(&base, &[]), &["unusable"], "an older one behind the newest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_earlier_life_behind_the_last_one_are_none() {
    let (base, _) = killed().await;
    let last = base.records.last().unwrap();
    let end = usize::try_from(last.next.offset).unwrap();
    let room = base.image.segment(SEGMENTS).len() - 192 - end;
    // The sectors as another segment had them; records of this one and of another, put right behind the last one.
    let third = base.image.segment(3);
    let own = &base.image.segment(SEGMENTS)[8192..end];
    let older = Base::stopped().await;
    let fills = [
        ("the same sectors of another segment", third[end..end + room].to_vec()),
        ("records of another segment", third[8192..8192 + room].to_vec()),
        ("its own records", own.iter().copied().cycle().take(room).collect()),
        (
            "the same segment of another log",
            older.image.segment(SEGMENTS)[8192..].iter().copied().cycle().take(room).collect(),
        ),
    ];
    for (what, fill) in fills {
        let mut image = base.image.clone();
        image.edit_segment(SEGMENTS)[end..end + room].copy_from_slice(&fill);
        both(&image, nothing, &Expected::without(&base, &[]), &[], what).await;
    }
}

/// Sets the version of a segment's header, at both places, as a later program would: with a right checksum.
fn make_later(segment: &mut [u8]) {
    let copy = 4096;
    for at in [0, copy] {
        let header = &mut segment[at..at + 96];
        header[8..12].copy_from_slice(&2u32.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_a_later_version_is_counted_and_left_where_it_is() {
    for segment in [2, SEGMENTS] {
        let (base, mut image) = killed().await;
        make_later(image.edit_segment(segment));
        let later = image.segment(segment).to_vec();
        let mut expected = Expected::without(&base, &[segment]);
        if segment == SEGMENTS {
            expected.lost = 0;
        }
        let what = format!("{segment} of a later version");
        let seen = both(&image, nothing, &expected, &["unreadable"], &what).await;
        assert!(fs::read(seen.relay.wal_dir().join(segment_name(segment))).unwrap() == later, "{what}: it was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_as_a_segment_and_is_no_file_stops_nothing() {
    type Make = fn(&Path);
    let makes: [(&str, Make); 2] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a pipe", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
    ];
    for (what, make) in makes {
        let (base, mut image) = killed().await;
        image.take(&segment_name(2));
        let prepare = |dir: &Path| make(&dir.join(segment_name(2)));
        both(&image, prepare, &Expected::without(&base, &[2]), &["unusable"], &format!("{what} as 2")).await;
        let prepare = |dir: &Path| make(&dir.join(segment_name(SEGMENTS + 1)));
        let what = format!("{what} behind the newest");
        both(&base.image, prepare, &Expected::without(&base, &[]), &["unusable"], &what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_behind_a_symbolic_link_is_read() {
    let (base, _) = killed().await;
    for segment in [2, SEGMENTS] {
        let prepare = |dir: &Path| {
            let elsewhere = dir.parent().unwrap().join("elsewhere");
            fs::rename(dir.join(segment_name(segment)), &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, dir.join(segment_name(segment))).unwrap();
        };
        let what = format!("{segment} is a symbolic link");
        both(&base.image, prepare, &Expected::without(&base, &[]), &[], &what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_segment_that_is_not_there_yet_is_waited_for_and_takes_nothing_from_anybody() {
    let (base, mut image) = killed().await;
    let sink = Sink::start().await;
    let mut relay = relay(&sink.url(), &[]);
    let bytes = image.take(&segment_name(2));
    image.write(&relay.wal_dir());
    let elsewhere = relay.dir().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, relay.wal_dir().join(segment_name(2))).unwrap();
    relay.start().await;
    let answer = numbered(Protocol::V1, "a", REQUESTS).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
    let waits = async || {
        let status = relay.status().await;
        status["targets"][0]["reason"].as_str()?.contains("the log cannot be read").then_some(status)
    };
    let status = eventually("it waits", SOON, waits).await;
    assert_eq!(status["wal"]["damage"]["findings"][0]["kind"], "unreadable", "{status}");

    fs::write(&elsewhere, bytes).unwrap();
    let status = relay.drained(SOON).await;
    let ledger = &ledger::of_status(&status)[TARGET];
    assert_eq!((ledger.settled["lost"], ledger.accepted), (0, ledger.delivered()));
    let numbers: Vec<u64> = sink.samples(crate::base::SERIES).iter().map(|(_, value)| *value as u64).collect();
    assert_eq!(numbers, (0..=REQUESTS).collect::<Vec<_>>());
    assert!(base.samples(2) < ledger.delivered());
    sink.assert_strict();
}

/// Files that even root cannot change or delete; taken back when this is dropped.
struct Immutable(Vec<std::path::PathBuf>);

impl Immutable {
    /// `None` where that is not to be had.
    fn make(paths: Vec<std::path::PathBuf>) -> Option<Immutable> {
        let made = Immutable(paths);
        made.set("+i").then_some(made)
    }

    fn set(&self, what: &str) -> bool {
        Command::new("chattr")
            .arg(what)
            .args(&self.0)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.set("-i");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_nobody_may_change_are_delivered_and_stay() {
    let (_, image) = killed().await;
    let sink = Sink::start().await;
    let mut relay = relay(&sink.url(), &[]);
    image.write(&relay.wal_dir());
    let paths = [2, SEGMENTS].map(|id| relay.wal_dir().join(segment_name(id))).to_vec();
    let Some(immutable) = Immutable::make(paths.clone()) else {
        // Not by a macro: the harness shows what those print only when a test fails.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"NOT TESTED: files cannot be made immutable\n");
        return;
    };
    let mut delivered = 0;
    for start in 0..3 {
        relay.start().await;
        let answer = numbered(Protocol::V1, "a", REQUESTS + start).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204, "start {start}");
        let status = relay.drained(SOON).await;
        let ledger = &ledger::of_status(&status)[TARGET];
        // (Between segments that could not be deleted others are missing: the status says so, and nobody is owed them.)
        assert_eq!(ledger.settled["lost"], 0, "start {start}");
        delivered = ledger.delivered();
        relay.kill_9().await;
    }
    sink.assert_strict();
    assert_eq!(sink.counts().samples - sink.counts().repeated, delivered);
    let mut numbers: Vec<u64> = sink.samples(crate::base::SERIES).iter().map(|(_, value)| *value as u64).collect();
    numbers.dedup();
    assert_eq!(numbers, (0..REQUESTS + 3).collect::<Vec<_>>());
    assert!(paths.iter().all(|path| path.exists()));
    drop(immutable);
}

/// A log all of which its target has.
async fn settled() -> (Image, u64) {
    let sink = Sink::start().await;
    let mut relay = relay(&sink.url(), &[]);
    Base::killed().await.image.write(&relay.wal_dir());
    relay.start().await;
    let status = relay.drained(SOON).await;
    relay.terminate().await;
    (Image::read(&relay.wal_dir()), ledger::of_status(&status)[TARGET].delivered())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_segment_targets_go_on_with_what_is_new() {
    // Its target was owed everything, and nobody knows what that was.
    let (_, mut image) = killed().await;
    image.retain(|name| !name.ends_with(".wal"));
    let none = Expected::default();
    both(&image, nothing, &none, &[], "all segments of a backlog gone").await;

    let (mut image, delivered) = settled().await;
    image.retain(|name| !name.ends_with(".wal"));
    let seen = both(&image, nothing, &none, &[], "all segments gone, nothing was owed").await;
    assert!(delivered > 0 && seen.numbers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_savepoints_a_target_begins_as_it_is_told_and_one_that_had_some_with_the_oldest() {
    let everything = async |image: &Image, lines: &[&str], what: &str| {
        let seen = visit(image, nothing, Prelude::Nothing, lines).await;
        seen.assert(&Expected::without(&*Base::killed().await, &[]), what);
        seen.assert_damage(&[], 0, what);
    };
    let known = "savepoints/known";
    let savepoint = format!("savepoints/{TARGET}.sp");

    let (_, mut image) = killed().await;
    image.take(&savepoint);
    everything(&image, &[], "the savepoint gone").await;
    image.take(known);
    everything(&image, &["start_from = \"oldest\""], "all of them gone, told to begin with the oldest").await;
    let seen = visit(&image, nothing, Prelude::Nothing, &[]).await;
    seen.assert(&Expected::default(), "all of them gone, told nothing");

    let (_, mut image) = killed().await;
    image.take(known);
    everything(&image, &["start_from = \"now\""], "the list gone").await;
    image.put(known, vec![0xff; 100]);
    everything(&image, &["start_from = \"now\""], "the list is rubbish").await;

    for (content, what) in [(vec![], "empty"), (vec![0; 3 * 4096], "zeroes"), (b"x".to_vec(), "short")] {
        let (_, mut image) = killed().await;
        image.put(&savepoint, content);
        everything(&image, &["start_from = \"now\""], &format!("the savepoint is {what}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_of_another_log_means_nothing_here() {
    let (base, mut image) = killed().await;
    let other = Base::stopped().await;
    let name = format!("savepoints/{TARGET}.sp");
    image.put(&name, other.image.bytes(&name).to_vec());
    both(&image, nothing, &Expected::without(&base, &[]), &[], "a savepoint of another log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn left_overs_of_a_crash_are_taken_away() {
    let (base, mut image) = killed().await;
    let left_overs = [format!("next-{:020}.tmp", 5), format!("next-{:020}.tmp", 2), format!("next-{:020}.tmp", 90)];
    for (number, name) in left_overs.iter().enumerate() {
        image.put(name, vec![b'x'; number << 20]);
    }
    image.put(&format!("savepoints/{TARGET}.sp.tmp"), vec![b'x'; 5000]);
    image.put("savepoints/known.tmp", b"b\n".to_vec());
    let seen = both(&image, nothing, &Expected::without(&base, &[]), &[], "left-overs").await;
    for name in left_overs {
        assert!(!seen.relay.wal_dir().join(&name).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_quarantine_cannot_be_used_everything_goes_on_without() {
    let (base, mut image) = killed().await;
    // Damage in a sealed segment and in the one without a seal, and a file that cannot be used.
    let (first, newest) = (base.of_segment(1).nth(1).unwrap(), base.of_segment(SEGMENTS).next().unwrap());
    image.edit_segment(1)[first.offset + 20] ^= 1;
    image.edit_segment(SEGMENTS)[newest.offset + 200] ^= 1;
    let expected = Expected::of(&base, &image);
    assert_eq!(expected.lost, first.samples + newest.samples);
    image.put(&segment_name(SEGMENTS + 1), b"none".to_vec());
    image.put("quarantine", b"in the way".to_vec());
    let visited = visit(&image, nothing, Prelude::Nothing, &[]).await;
    visited.assert(&expected, "a file called quarantine");
    visited.assert_damage(&["damage", "unusable", "damage"], expected.lost, "a file called quarantine");
    assert_eq!(fs::read(visited.relay.wal_dir().join("quarantine")).unwrap(), b"in the way");
    visit(&image, nothing, Prelude::TwoCrashes, &[]).await.assert(&expected, "a file called quarantine");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_recovery_does_not_start_on_a_removed_segment_and_changes_nothing() {
    let (_, mut image) = killed().await;
    image.take(&segment_name(2));
    let config = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"").wal("recovery = \"strict\"");
    let mut relay = config.target(TARGET, "http://127.0.0.1:9/", &[]).prepare();
    image.write(&relay.wal_dir());
    relay.spawn();
    eventually("it says what is wrong", SOON, async || relay.log().contains("strict").then_some(())).await;
    let (status, _) = relay.terminate().await;
    assert!(!status.success());
    let after = Image::read(&relay.wal_dir());
    assert!(after.names().eq(image.names()) && after.names().all(|name| after.get(name) == image.get(name)));
}
