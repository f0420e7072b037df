//! `promrelay wal ls`, `verify` and `dump`: what they say is what was sent, and what is gone; and they change nothing.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use promrelay::protocol::messages::{v1, v2};
use prost::Message;
use serde_json::{Value, json};
use support::ran::Ran;
use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise, snappy};
use support::sink::Sink;
use support::{client, ledger};

const SOON: Duration = Duration::from_secs(30);
/// Nobody listens there.
const DOWN: &str = "http://127.0.0.1:9/";
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

fn wal(arguments: &[&str]) -> Ran {
    Ran::run(Command::new(env!("CARGO_BIN_EXE_promrelay")).arg("wal").args(arguments))
}

/// The tool, on a relay's directory.
fn on(relay: &Relay, arguments: &[&str]) -> Ran {
    let dir = relay.wal_dir();
    wal(&[arguments, &["--dir", dir.to_str().unwrap()]].concat())
}

fn with_small_segments(url: &str) -> Config {
    Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"").target("a", url, &[])
}

/// Request `number` has 1 to 3 samples.
fn samples_of(number: u64) -> u64 {
    number % 3 + 1
}

fn request(number: u64) -> Request {
    let samples: Vec<(i64, f64)> =
        (0..samples_of(number)).map(|n| (FIRST_TIMESTAMP + (10 * number + n) as i64, number as f64)).collect();
    let mut random = fastrand::Rng::with_seed(number);
    Request::new().series(&[("__name__", "tool"), ("noise", &noise(&mut random, 300))], &samples)
}

async fn send(relay: &Relay, post: &Post) {
    let answer = post.send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

async fn send_numbers(relay: &Relay, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        send(relay, &request(number).post(if number % 2 == 0 { Protocol::V1 } else { Protocol::V2 })).await;
    }
}

fn samples_in(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.map(samples_of).sum()
}

/// A relay that was stopped: its target was down, and each of its starts has received 20 requests. One segment each.
async fn stopped_with(segments: u64) -> Relay {
    let mut relay = with_small_segments(DOWN).prepare();
    for n in 0..segments {
        relay.start().await;
        send_numbers(&relay, 20 * n + 1..=20 * n + 20).await;
        relay.terminate().await;
    }
    relay
}

fn segment(relay: &Relay, n: usize) -> PathBuf {
    let mut paths: Vec<_> = fs::read_dir(relay.wal_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths.swap_remove(n)
}

/// File, offset and end of the checked bytes of each record, by position. (The tests' requests come without forwarded
/// headers: the sender's address takes seven bytes.)
fn places(relay: &Relay) -> BTreeMap<u64, (u64, u64, u64)> {
    let said = on(relay, &["dump", "--headers", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let place = |line: Value| {
        let number = |key: &str| line[key].as_u64().unwrap();
        let offset = number("offset");
        (number("position"), (number("segment"), offset, offset + 128 + 7 + number("bytes")))
    };
    said.lines().into_iter().map(place).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

/// The summary's numbers and the kinds of what was found.
fn verdict(said: &Ran) -> (i32, u64, u64, u64, Vec<String>) {
    let report = said.report();
    let sum = &report["summary"];
    let number = |key: &str| sum[key].as_u64().unwrap();
    assert_eq!(sum["is_whole"], said.code == 0);
    let findings = report["findings"].as_array().unwrap();
    let told = |key: &str| findings.iter().filter_map(|finding| finding[key].as_u64()).sum::<u64>();
    assert_eq!((told("records"), told("samples")), (number("lost_records"), number("lost_samples")));
    let kinds = findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect();
    (said.code, number("records"), number("lost_records"), number("lost_samples"), kinds)
}

/// Verify says that exactly these are gone, and a relay that is started then says the same.
#[track_caller]
fn assert_gone(relay: &Relay, sent: u64, gone: &[u64], kinds: &[&str]) {
    let said = on(relay, &["verify", "--json"]);
    let lost = gone.len() as u64;
    let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    let expected = (1, sent - lost, lost, samples_in(gone.iter().copied()), kinds);
    assert_eq!(verdict(&said), expected, "{}", said.out);
    // The text says it as well.
    let text = on(relay, &["verify"]);
    assert_eq!(text.code, 1);
    let records = if lost == 1 { "1 record".into() } else { format!("{lost} records") };
    let samples = samples_in(gone.iter().copied());
    let samples = if samples == 1 { "1 sample".into() } else { format!("{samples} samples") };
    assert!(text.out.contains(&format!("{records} with {samples} gone")), "{}", text.out);
}

/// What the relay itself counts as lost.
async fn lost_by_relay(relay: &mut Relay) -> u64 {
    let sink = Sink::start().await;
    relay.config = relay.config.clone().target("a", &sink.url(), &[]);
    relay.start().await;
    let status = relay.drained(SOON).await;
    ledger::of_status(&status)["a"].settled["lost"]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_says_what_each_segment_holds_and_who_needs_it() {
    let sink = Sink::start().await;
    let config = with_small_segments(DOWN).target("quick", &sink.url(), &[]).target("gone", DOWN, &[]);
    let mut relay = config.start().await;
    send_numbers(&relay, 1..=20).await;
    sink.stored(samples_in(1..=20), SOON).await;
    relay.terminate().await;
    relay.config = relay.config.clone().without_target("gone");
    relay.start().await;
    send_numbers(&relay, 21..=25).await;
    sink.stored(samples_in(1..=25), SOON).await;
    fs::write(relay.wal_dir().join("notes.txt"), "mine").unwrap();

    let said = on(&relay, &["ls", "--json"]);
    assert_eq!((said.code, &*said.err), (0, ""));
    let list = said.report();
    let pid: u64 = fs::read_to_string(relay.wal_dir().join("LOCK")).unwrap().trim().parse().unwrap();
    assert_eq!(list["holder"], pid);
    let of = |n: usize, key: &str| list["segments"][n][key].clone();
    let line = |n: usize| ["first", "last", "records", "samples", "state"].map(|key| of(n, key));
    assert_eq!(line(0), [json!(1), json!(20), json!(20), json!(samples_in(1..=20)), json!("sealed")]);
    assert_eq!(line(1), [json!(21), json!(25), json!(5), json!(samples_in(21..=25)), json!("active")]);
    assert_eq!(of(0, "timestamp_min"), FIRST_TIMESTAMP + 10);
    assert_eq!(of(0, "timestamp_max"), FIRST_TIMESTAMP + 200 + samples_of(20) as i64 - 1);
    assert!(of(0, "first_received_ms").as_i64() <= of(0, "last_received_ms").as_i64());
    assert!(of(0, "last_received_ms").as_i64() <= of(1, "first_received_ms").as_i64());
    assert_eq!((of(0, "needed_by"), of(1, "needed_by")), (json!(["a", "gone"]), json!(["a", "gone"])));
    assert_eq!((&list["totals"]["records"], &list["totals"]["samples"]), (&json!(25), &json!(samples_in(1..=25))));
    assert_eq!(list["foreign"][0]["file"], "notes.txt");

    let text = on(&relay, &["ls"]).out;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("POSITIONS") && lines[0].contains("NEEDED BY"), "{text}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1])[1..3], ["1-20", "20"], "{text}");
    assert!(lines[1].contains("KiB") && lines[1].ends_with("a,gone"), "{text}");
    assert!(lines[2].contains("1.0 MiB") && lines[2].contains("active"), "{text}");
    assert!(text.contains("2 segments: 25 records"), "{text}");
    assert!(text.contains("foreign: notes.txt (") && text.contains(&format!("in use by process {pid}")), "{text}");

    relay.kill_9().await;
    let said = on(&relay, &["ls", "--json"]).report();
    assert_eq!((&said["segments"][1]["state"], &said["holder"]), (&json!("unsealed"), &Value::Null));
    assert_eq!(said["segments"][1]["last"], 25, "an unsealed segment is stepped through");
    // The same by the configuration.
    let by_config = Ran::run(
        Command::new(env!("CARGO_BIN_EXE_promrelay"))
            .args(["wal", "ls", "--json", "--config"])
            .arg(relay.config_path()),
    );
    assert_eq!(by_config.report(), said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_and_what_cannot_be_used_is_listed_as_such() {
    let mut relay = stopped_with(3).await;
    let sink = Sink::start().await;
    relay.config = relay.config.clone().without_target("a").target("b", &sink.url(), &["start_from = \"now\""]);
    relay.start().await;
    relay.terminate().await;
    fs::remove_file(relay.wal_dir().join("savepoints/a.sp")).unwrap();
    fs::write(relay.wal_dir().join("savepoints/known"), "b\n").unwrap();
    fs::write(segment(&relay, 1), "rubbish").unwrap();
    let list = on(&relay, &["ls", "--json"]).report();
    let states: Vec<&Value> = list["segments"].as_array().unwrap().iter().map(|line| &line["state"]).collect();
    assert_eq!(states, ["sealed", "unusable", "missing", "sealed"]);
    let missing = &list["segments"][2];
    assert_eq!((&missing["first"], &missing["last"]), (&json!(21), &json!(40)));
    assert_eq!(missing["samples"], samples_in(21..=40));
    assert_eq!((&list["segments"][0]["needed_by"], &list["segments"][3]["needed_by"]), (&json!([]), &json!([])));
    let text = on(&relay, &["ls"]).out;
    assert!(text.contains("unusable: is not a segment of promrelay"), "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with("  -"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_log_is_found_whole_in_any_state() {
    let mut relay = stopped_with(2).await;
    let whole = |relay: &Relay, sent: u64| {
        let said = on(relay, &["verify", "--json"]);
        assert_eq!(verdict(&said), (0, sent, 0, 0, vec![]), "{}", said.out);
        let report = said.report();
        assert_eq!(report["summary"]["samples"], samples_in(1..=sent));
        assert_eq!(report["savepoints"][0]["state"], "valid");
        assert_eq!(report["savepoints"][0]["settled"], 0);
    };
    whole(&relay, 40);
    relay.start().await;
    whole(&relay, 40);
    send_numbers(&relay, 41..=45).await;
    whole(&relay, 45);
    relay.kill_9().await;
    whole(&relay, 45);
    let text = on(&relay, &["verify", "--progress"]);
    assert_eq!(text.code, 0);
    assert!(text.out.contains("nothing is damaged") && text.out.contains("the ledger adds up"), "{}", text.out);
    assert!(text.err.contains(" of ") && text.err.contains("/s\n"), "{}", text.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_being_written_and_released_is_never_called_damaged() {
    let sink = Sink::start().await;
    let relay = with_small_segments(&sink.url()).start().await;
    let url = relay.write_url();
    let sender = tokio::spawn(async move {
        let http = client();
        let mut random = fastrand::Rng::with_seed(7);
        for number in 1.. {
            // Two requests at a time, so that they share a sync.
            let post = || async {
                let labels = noise(&mut random.clone(), 40_000);
                let request = Request::new().series(&[("__name__", "load"), ("n", &labels)], &[(number, 1.0)]);
                assert_eq!(request.literal_post(Protocol::V1).send(&http, &url).await.unwrap().status(), 204);
            };
            tokio::join!(post(), post());
            random.u64(..);
        }
    });
    let dir = relay.wal_dir();
    let (mut segments, mut first) = (0, None);
    let start = std::time::Instant::now();
    // Until it has rolled over a few times and released, which the target may be slow to allow.
    let has_released = || !relay.wal_dir().join("seg-00000000000000000001.wal").exists();
    while segments < 6 || !has_released() {
        assert!(start.elapsed() < Duration::from_secs(120), "the log does not grow");
        for arguments in [&["verify"][..], &["ls"], &["dump", "--position", "1.."]] {
            let dir = dir.clone();
            let said = tokio::task::spawn_blocking(move || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_promrelay"));
                Ran::run(command.arg("wal").args(arguments).arg("--json").arg("--dir").arg(dir))
            });
            let said = said.await.unwrap();
            assert_eq!((said.code, &*said.err), (0, ""), "{}", &said.out[..said.out.len().min(4000)]);
        }
        let list = on(&relay, &["ls", "--json"]).report();
        // On a slow machine all of them may have been released before they were read.
        if let Some(newest) = list["segments"].as_array().unwrap().last() {
            let newest = newest["id"].as_u64().unwrap();
            segments = newest - *first.get_or_insert(newest);
        }
    }
    assert!(!sender.is_finished(), "every request was taken");
    sender.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_costs_one_record_and_verify_says_which() {
    let mut relay = stopped_with(2).await;
    let places = places(&relay);
    let (_, body, end) = places[&7];
    flip(&segment(&relay, 0), end - 9);
    assert_gone(&relay, 40, &[7], &["body"]);
    let (_, header, _) = places[&29];
    flip(&segment(&relay, 1), header + 20);
    assert_gone(&relay, 40, &[7, 29], &["body", "header"]);
    // Neighbours are one hole.
    flip(&segment(&relay, 1), places[&30].1 + 100);
    assert_gone(&relay, 40, &[7, 29, 30], &["body", "header"]);

    let report = on(&relay, &["verify", "--json"]).report();
    let (first, second) = (&report["findings"][0], &report["findings"][1]);
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!((&first["file"], &first["offset"]), (&json!(name(segment(&relay, 0))), &json!(body)));
    assert_eq!((&first["first"], &first["last"], &first["severity"]), (&json!(7), &json!(7), &json!("damaged")));
    assert_eq!((&second["file"], &second["offset"]), (&json!(name(segment(&relay, 1))), &json!(header)));
    assert_eq!(second["bytes"], places[&31].1 - header);
    assert_eq!((&second["first"], &second["last"]), (&json!(29), &json!(30)));

    // What was not asked for may be damaged.
    assert_eq!(on(&relay, &["dump", "--position", "8..28"]).code, 0);
    for (position, text) in [("7", "position 7 at offset"), ("29..", "positions 29-30 are damaged or missing")] {
        let said = on(&relay, &["dump", "--position", position, "--json"]);
        assert!(said.code == 1 && said.err.contains(text), "{}", said.err);
    }
    assert_eq!(on(&relay, &["dump", "--json"]).lines().len(), 37);
    assert_eq!(lost_by_relay(&mut relay).await, samples_in([7, 29, 30].into_iter()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_zeroes_costs_the_records_that_it_touches() {
    let mut relay = stopped_with(1).await;
    let places = places(&relay);
    let page = 8192..12288;
    let gone: Vec<u64> = places
        .iter()
        .filter(|(_, (_, from, to))| *from < page.end && *to > page.start)
        .map(|(position, _)| *position)
        .collect();
    assert!(gone.len() >= 3, "{places:?}");
    let file = OpenOptions::new().write(true).open(segment(&relay, 0)).unwrap();
    file.write_all_at(&[0; 4096], page.start).unwrap();
    let is_within = |position: &u64| places[position].1 >= page.start;
    let kinds: &[&str] = if is_within(&gone[0]) { &["header"] } else { &["body", "header"] };
    assert_gone(&relay, 20, &gone, kinds);
    assert_eq!(lost_by_relay(&mut relay).await, samples_in(gone.into_iter()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_counted_exactly_also_the_oldest() {
    for (removed, gone) in [(1, 21..=40), (0, 1..=20)] {
        let mut relay = stopped_with(3).await;
        fs::remove_file(segment(&relay, removed)).unwrap();
        assert_gone(&relay, 60, &gone.clone().collect::<Vec<_>>(), &["missing segment"]);
        let report = on(&relay, &["verify", "--json"]).report();
        assert_eq!(report["savepoints"][0]["behind"], removed == 0);
        assert_eq!(lost_by_relay(&mut relay).await, samples_in(gone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_segment_that_is_missing_shows_where_a_savepoint_is_ahead() {
    let sink = Sink::start().await;
    let mut relay = with_small_segments(DOWN).target("quick", &sink.url(), &[]).start().await;
    send_numbers(&relay, 1..=20).await;
    relay.restart().await;
    send_numbers(&relay, 21..=30).await;
    sink.stored(samples_in(1..=30), SOON).await;
    relay.terminate().await;
    fs::remove_file(segment(&relay, 1)).unwrap();
    let gone: Vec<u64> = (21..=30).collect();
    assert_gone(&relay, 30, &gone, &["missing records"]);
    let report = on(&relay, &["verify", "--json"]).report();
    let ahead = report["savepoints"].as_array().unwrap().iter().map(|savepoint| &savepoint["ahead"]);
    assert_eq!(ahead.collect::<Vec<_>>(), [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_file_costs_what_was_behind_the_cut() {
    let mut relay = stopped_with(2).await;
    let places = places(&relay);
    let path = segment(&relay, 0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // In the middle of record 12, whose body is gone then.
    file.set_len(places[&12].1 + 300).unwrap();
    let said = on(&relay, &["verify", "--json"]);
    let report = said.report();
    let lost = report["summary"]["lost_records"].as_u64().unwrap();
    // A seal needs room at the end of a file: a record there does not count, for the relay neither.
    assert!((9..=11).contains(&lost), "{report}");
    let gone: Vec<u64> = (21 - lost..=20).collect();
    let (code, whole, _, samples, _) = verdict(&said);
    assert_eq!((code, whole, samples), (1, 40 - lost, samples_in(gone.iter().copied())), "{report}");

    file.set_len(0).unwrap();
    assert_gone(&relay, 40, &(1..=20).collect::<Vec<_>>(), &["unusable file"]);
    file.set_len(5000).unwrap();
    assert_gone(&relay, 40, &(1..=20).collect::<Vec<_>>(), &["unusable file"]);
    assert_eq!(lost_by_relay(&mut relay).await, samples_in(1..=20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_file_of_a_killed_relay_costs_what_the_relay_counts() {
    let mut relay = stopped_with(2).await;
    let places = places(&relay);
    OpenOptions::new().write(true).open(segment(&relay, 0)).unwrap().set_len(places[&15].1 + 64).unwrap();
    let report = on(&relay, &["verify", "--json"]).report();
    let lost = report["summary"]["lost_samples"].as_u64().unwrap();
    assert!(lost >= samples_in(15..=20), "{report}");
    assert_eq!(lost_by_relay(&mut relay).await, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_killed_relay_is_damage_only_where_a_later_record_proves_it() {
    let mut relay = with_small_segments(DOWN).start().await;
    send_numbers(&relay, 1..=20).await;
    relay.kill_9().await;
    let places = places(&relay);
    let path = segment(&relay, 0);
    // Nothing proves that the last one was ever acknowledged.
    flip(&path, places[&20].2 - 1);
    let said = on(&relay, &["verify", "--json"]);
    assert_eq!(verdict(&said), (0, 19, 0, 0, vec!["torn tail".to_owned()]), "{}", said.out);
    let finding = &said.report()["findings"][0];
    assert_eq!((&finding["offset"], &finding["severity"]), (&json!(places[&20].1), &json!("note")));
    // Number 19 was sent after number 10 had been acknowledged.
    flip(&path, places[&10].2 - 1);
    flip(&path, places[&11].1 + 8);
    let said = on(&relay, &["verify", "--json"]);
    let kinds = ["body", "header", "torn tail"].map(str::to_owned).to_vec();
    assert_eq!(verdict(&said), (1, 17, 2, samples_in(10..=11), kinds), "{}", said.out);
    assert_eq!(lost_by_relay(&mut relay).await, samples_in(10..=11));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_what_is_not_a_record_costs_nothing_and_is_found() {
    let relay = stopped_with(2).await;
    let older = segment(&relay, 0);
    let seal = fs::metadata(&older).unwrap().len() - 192;
    flip(&older, seal + 16);
    let said = on(&relay, &["verify", "--json"]);
    assert_eq!(verdict(&said), (1, 40, 0, 0, vec!["seal damaged".to_owned()]), "{}", said.out);
    OpenOptions::new().write(true).open(&older).unwrap().write_all_at(&[0; 192], seal).unwrap();
    let said = on(&relay, &["verify", "--json"]);
    assert_eq!(verdict(&said), (1, 40, 0, 0, vec!["seal missing".to_owned()]), "{}", said.out);
    // A segment that was copied does not count twice; a stranger is a note.
    let relay = stopped_with(2).await;
    fs::copy(segment(&relay, 0), relay.wal_dir().join("seg-00000000000000000003.wal")).unwrap();
    let said = on(&relay, &["verify", "--json"]);
    let (_, records, lost, _, kinds) = verdict(&said);
    assert_eq!((records, lost, kinds.len()), (40, 0, 1), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_header_costs_nothing_while_its_copy_is_whole() {
    let mut relay = stopped_with(3).await;
    let path = segment(&relay, 1);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 4096], 0).unwrap();
    assert_gone(&relay, 60, &[], &["segment header"]);
    let list = on(&relay, &["ls", "--json"]).report();
    assert_eq!((&list["segments"][1]["state"], &list["segments"][1]["last"]), (&json!("damaged"), &json!(40)));
    let copy = 4096;
    flip(&path, copy + 30);
    assert_gone(&relay, 60, &(21..=40).collect::<Vec<_>>(), &["unusable file"]);
    assert_eq!(lost_by_relay(&mut relay).await, samples_in(21..=40));
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanged_names_are_no_damage() {
    let relay = stopped_with(3).await;
    let (one, two, between) = (segment(&relay, 0), segment(&relay, 1), relay.dir().join("between"));
    fs::rename(&one, &between).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(&between, &two).unwrap();
    let said = on(&relay, &["verify", "--json"]);
    assert_eq!(verdict(&said), (0, 60, 0, 0, vec![]), "{}", said.out);
    assert_eq!(places(&relay).len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_are_verified_too() {
    let sink = Sink::start().await;
    let mut relay = with_small_segments(&sink.url()).start().await;
    send_numbers(&relay, 1..=5).await;
    relay.drained(SOON).await;
    relay.terminate().await;
    let report = on(&relay, &["verify", "--json"]).report();
    let savepoint = &report["savepoints"][0];
    assert_eq!((&savepoint["settled"], &savepoint["settled_total"]), (&json!(5), &json!(samples_in(1..=5))));
    assert_eq!(savepoint["ledger"]["delivered"], samples_in(1..=5));
    let path = relay.wal_dir().join("savepoints/a.sp");
    flip(&path, 100);
    let said = on(&relay, &["verify", "--json"]);
    let report = said.report();
    assert_eq!((said.code, &report["savepoints"][0]["pages"][0]), (1, &json!("damaged")));
    assert_eq!(report["summary"]["damaged_savepoints"], 1);
    fs::remove_file(&path).unwrap();
    let said = on(&relay, &["verify"]);
    assert!(said.code == 1 && said.out.contains("savepoint of a: pages missing"), "{}", said.out);
}

/// Every file and directory below a directory: content, length, and when it was changed.
fn state(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        let bytes = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        if metadata.is_dir() {
            found.extend(state(&path));
        }
        found.insert(path, (metadata.modified().unwrap(), bytes));
    }
    found.insert(dir.to_owned(), (fs::metadata(dir).unwrap().modified().unwrap(), Vec::new()));
    found
}

/// Runs a tool where the directory is mounted read-only; `None` where that is not allowed.
fn on_a_read_only_mount(dir: &Path, tool: &[&str]) -> Option<Ran> {
    let script =
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && ! touch \"$0/x\" || exit 99; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(dir).args([env!("CARGO_BIN_EXE_promrelay"), "wal"]).args(tool);
    let output = command.arg("--dir").arg(dir).output().ok()?;
    let is_mounted = !matches!(output.status.code(), Some(99)) && !output.stdout.is_empty();
    is_mounted.then(|| Ran::of(output))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_and_reading_is_all_that_must_be_allowed() {
    let mut relay = stopped_with(2).await;
    relay.start().await;
    send_numbers(&relay, 41..=45).await;
    relay.kill_9().await;
    flip(&segment(&relay, 0), places(&relay)[&3].2 - 1);
    fs::write(relay.wal_dir().join("next-00000000000000000099.tmp"), "left over").unwrap();
    let before = state(&relay.wal_dir());
    let tools: [&[&str]; 4] = [&["ls"], &["verify"], &["dump"], &["dump", "--headers", "--json"]];
    let first: Vec<Ran> = tools.iter().map(|tool| on(&relay, tool)).collect();
    assert!(before == state(&relay.wal_dir()), "something was changed");
    assert_eq!(first.iter().map(|said| said.code).collect::<Vec<_>>(), [0, 1, 1, 0]);

    let without_time =
        |text: &str| text.lines().map(|line| line.split(" in ").next().unwrap().to_owned()).collect::<Vec<_>>();
    for (tool, first) in tools.iter().zip(&first) {
        let Some(said) = on_a_read_only_mount(&relay.wal_dir(), tool) else {
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), b"NOT TESTED: a read-only mount is not allowed\n");
            break;
        };
        assert_eq!((said.code, without_time(&said.out)), (first.code, without_time(&first.out)), "{}", said.err);
    }

    // As somebody who may only read.
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let binary = relay.dir().join("promrelay");
    fs::copy(env!("CARGO_BIN_EXE_promrelay"), &binary).unwrap();
    allow(&binary, 0o555);
    for path in before.keys() {
        allow(path, if path.is_dir() { 0o555 } else { 0o444 });
    }
    allow(relay.dir(), 0o755);
    for (tool, first) in tools.iter().zip(&first) {
        let mut command = Command::new(&binary);
        command.arg("wal").args(*tool).arg("--dir").arg(relay.wal_dir());
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        let said = Ran::run(&mut command);
        assert_eq!((said.code, &said.err), (first.code, &first.err));
        assert_eq!(without_time(&said.out), without_time(&first.out));
    }
    for path in before.keys() {
        allow(path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    assert!(before == state(&relay.wal_dir()), "something was changed");
    relay.start().await;
}

fn v1_content() -> v1::WriteRequest {
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| v1::Label { name: (*name).into(), value: (*value).into() }).collect()
    };
    let values = [0.5, -3.0, f64::NAN, STALE, f64::INFINITY, f64::NEG_INFINITY, 1e300];
    let sample = |(n, value): (usize, &f64)| v1::Sample { value: *value, timestamp: FIRST_TIMESTAMP + n as i64 };
    let floats = v1::TimeSeries {
        labels: labels(&[("__name__", "floats"), ("evil", "\u{1b}[31m\"\n\u{9b}")]),
        samples: values.iter().enumerate().map(sample).collect(),
        exemplars: vec![v1::Exemplar {
            labels: labels(&[("trace_id", "abc")]),
            value: 0.25,
            timestamp: FIRST_TIMESTAMP + 3,
        }],
        ..Default::default()
    };
    let span = |offset, length| v1::BucketSpan { offset, length };
    let integer = v1::Histogram {
        count: Some(v1::histogram::Count::CountInt(7)),
        sum: 12.5,
        schema: 1,
        zero_threshold: 0.001,
        zero_count: Some(v1::histogram::ZeroCount::ZeroCountInt(1)),
        negative_spans: vec![span(-1, 1)],
        negative_deltas: vec![2],
        positive_spans: vec![span(0, 1), span(2, 1)],
        positive_deltas: vec![1, 2],
        reset_hint: v1::histogram::ResetHint::No.into(),
        timestamp: FIRST_TIMESTAMP + 9,
        ..Default::default()
    };
    let histograms = v1::TimeSeries {
        labels: labels(&[("__name__", "sizes"), ("job", "x")]),
        histograms: vec![integer],
        ..Default::default()
    };
    let metadata = v1::MetricMetadata {
        r#type: v1::metric_metadata::MetricType::Counter.into(),
        metric_family_name: "floats".into(),
        help: "What \u{7}it is.".into(),
        unit: "seconds".into(),
    };
    v1::WriteRequest { timeseries: vec![floats, histograms], metadata: vec![metadata] }
}

fn v2_content() -> v2::Request {
    let symbols = ["", "__name__", "sizes", "job", "y", "trace_id", "def", "Helps.", "bytes", "http.code"];
    let float = v2::Histogram {
        count: Some(v2::histogram::Count::CountFloat(3.5)),
        sum: -0.5,
        schema: -53,
        positive_spans: vec![v2::BucketSpan { offset: 0, length: 2 }],
        positive_counts: vec![1.5, 2.0],
        custom_values: vec![1.0, 2.5],
        reset_hint: v2::histogram::ResetHint::Gauge.into(),
        timestamp: FIRST_TIMESTAMP + 20,
        start_timestamp: FIRST_TIMESTAMP,
        ..Default::default()
    };
    let histograms = v2::TimeSeries {
        labels_refs: vec![1, 2, 9, 4],
        histograms: vec![float],
        metadata: Some(v2::Metadata { r#type: v2::metadata::MetricType::Histogram.into(), help_ref: 7, unit_ref: 8 }),
        ..Default::default()
    };
    let samples = v2::TimeSeries {
        labels_refs: vec![1, 2, 3, 4],
        samples: vec![v2::Sample { value: 4.5, timestamp: FIRST_TIMESTAMP + 21, start_timestamp: FIRST_TIMESTAMP + 1 }],
        exemplars: vec![v2::Exemplar { labels_refs: vec![5, 6], value: 2.0, timestamp: FIRST_TIMESTAMP + 21 }],
        ..Default::default()
    };
    v2::Request { symbols: symbols.map(String::from).to_vec(), timeseries: vec![histograms, samples] }
}

/// A relay that has received one request of each version, with a tenant each.
async fn with_content() -> Relay {
    let relay = with_small_segments(DOWN).server("forward_headers = [\"X-Scope-OrgID\"]").start().await;
    let bodies = [(Protocol::V1, v1_content().encode_to_vec()), (Protocol::V2, v2_content().encode_to_vec())];
    for (protocol, body) in bodies {
        let request = client()
            .post(relay.write_url())
            .header("content-encoding", "snappy")
            .header("content-type", protocol.content_type())
            .header("x-prometheus-remote-write-version", protocol.version())
            .header("x-scope-orgid", "tenant-1");
        let answer = request.body(snappy(&body)).send().await.unwrap();
        let status = answer.status();
        assert_eq!(status, 204, "{}", answer.text().await.unwrap());
    }
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_in_json_is_what_was_sent() {
    let relay = with_content().await;
    let said = on(&relay, &["dump", "--json"]);
    assert_eq!((said.code, &*said.err), (0, ""));
    let lines = said.lines();
    assert_eq!(lines.len(), 2);
    let t = FIRST_TIMESTAMP;
    let sample = |n: i64, value: Value| json!({"timestamp": t + n, "value": value});
    assert_eq!(
        lines[0]["series"],
        json!([
            {
                "labels": {"__name__": "floats", "evil": "\u{1b}[31m\"\n\u{9b}"},
                "samples": [
                    sample(0, json!(0.5)), sample(1, json!(-3.0)), sample(2, json!("NaN")), sample(3, json!("stale")),
                    sample(4, json!("+Inf")), sample(5, json!("-Inf")), sample(6, json!(1e300)),
                ],
                "exemplars": [{"labels": {"trace_id": "abc"}, "timestamp": t + 3, "value": 0.25}],
            },
            {
                "labels": {"__name__": "sizes", "job": "x"},
                "histograms": [{
                    "timestamp": t + 9, "count": 7, "sum": 12.5, "schema": 1, "zero_threshold": 0.001, "zero_count": 1,
                    "negative_spans": [{"offset": -1, "length": 1}], "negative_deltas": [2],
                    "positive_spans": [{"offset": 0, "length": 1}, {"offset": 2, "length": 1}],
                    "positive_deltas": [1, 2],
                    "reset_hint": "no",
                }],
            },
        ])
    );
    assert_eq!(
        lines[0]["metadata"],
        json!([{"metric_family_name": "floats", "type": "counter", "help": "What \u{7}it is.", "unit": "seconds"}])
    );
    assert_eq!(
        lines[1]["series"],
        json!([
            {
                "labels": {"__name__": "sizes", "http.code": "y"},
                "histograms": [{
                    "timestamp": t + 20, "count": 3.5, "sum": -0.5, "schema": -53,
                    "zero_threshold": 0.0, "zero_count": 0,
                    "negative_spans": [], "positive_spans": [{"offset": 0, "length": 2}], "positive_counts": [1.5, 2.0],
                    "reset_hint": "gauge", "custom_values": [1.0, 2.5], "start_timestamp": t,
                }],
                "metadata": {"type": "histogram", "help": "Helps.", "unit": "bytes"},
            },
            {
                "labels": {"__name__": "sizes", "job": "y"},
                "samples": [{"timestamp": t + 21, "value": 4.5, "start_timestamp": t + 1}],
                "exemplars": [{"labels": {"trace_id": "def"}, "timestamp": t + 21, "value": 2.0}],
            },
        ])
    );
    for (n, line) in lines.iter().enumerate() {
        assert_eq!((&line["position"], &line["sender"]), (&json!(n + 1), &json!("127.0.0.1")));
        assert_eq!(line["forwarded"], json!([["x-scope-orgid", "tenant-1"]]));
        assert_eq!(line["protocol"], ["1.0", "2.0"][n]);
    }
    let counts = ["series_count", "samples", "histograms", "exemplars", "metadata_count"].map(|key| &lines[0][key]);
    assert_eq!(counts, [2, 7, 1, 1, 1]);
    assert_eq!((&lines[0]["total"], &lines[1]["total"]), (&json!(8), &json!(10)));
    assert!(!said.out.contains('\u{1b}') && !said.out.contains('\u{9b}'), "a terminal is safe");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_in_text_is_for_reading() {
    let relay = with_content().await;
    let text = on(&relay, &["dump"]).out;
    let is_safe = |c: char| c == '\n' || !c.is_control();
    assert!(text.chars().all(is_safe), "{text:?}");
    for line in [
        "    floats{evil=\"\\u{1b}[31m\\\"\\n\\u{9b}\"}",
        "        0.5  2026-01-31T09:00:00.000Z",
        "        stale  2026-01-31T09:00:00.003Z",
        "        exemplar {trace_id=\"abc\"}  0.25  2026-01-31T09:00:00.003Z",
        "    sizes{job=\"x\"}  histogram: count 7, sum 12.5, schema 1  2026-01-31T09:00:00.009Z",
        "    metadata of floats: counter, help \"What \\u{7}it is.\", unit \"seconds\"",
        "        4.5  2026-01-31T09:00:00.021Z  since 2026-01-31T09:00:00.001Z",
        "    sizes{\"http.code\"=\"y\"}",
        "        metadata: histogram, help \"Helps.\", unit \"bytes\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
    let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(heads[0].starts_with("1  20") && heads[1].starts_with("2  20"), "{text}");
    for word in
        ["1.0", "7 samples", "1 histogram", "1 exemplar", "1 metadata", "from 127.0.0.1", "x-scope-orgid=\"tenant-1\""]
    {
        assert!(heads[0].split("  ").any(|found| found == word), "{word}: {text}");
    }
    assert_eq!(on(&relay, &["dump", "--headers"]).out.lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_hold_together() {
    let mut relay = stopped_with(3).await;
    let positions = |relay: &Relay, arguments: &[&str]| -> Vec<u64> {
        let said = on(relay, &[&["dump", "--json"], arguments].concat());
        assert_eq!((said.code, &*said.err), (0, ""), "{arguments:?}");
        said.lines().iter().map(|line| line["position"].as_u64().unwrap()).collect()
    };
    let range = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
    assert_eq!(positions(&relay, &[]), range(1..=60));
    assert_eq!(positions(&relay, &["--position", "33"]), [33]);
    assert_eq!(positions(&relay, &["--position", "18..23"]), range(18..=23));
    assert_eq!(positions(&relay, &["--position", "58.."]), range(58..=60));
    assert_eq!(positions(&relay, &["--position", "..2"]), [1, 2]);
    assert_eq!(positions(&relay, &["--position", "61.."]), [0; 0]);
    assert_eq!(positions(&relay, &["--position", "19..", "--limit", "4"]), range(19..=22));
    assert_eq!(positions(&relay, &["--position", "30..40", "--headers"]), range(30..=40));

    let times: Vec<i64> = {
        let said = on(&relay, &["dump", "--json", "--headers"]);
        said.lines().iter().map(|line| line["received_ms"].as_i64().unwrap()).collect()
    };
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let (from, to) = (times[20], times[39]);
    let fits = |position: &u64| (from..=to).contains(&times[*position as usize - 1]);
    let expected: Vec<u64> = (1..=60).filter(fits).collect();
    assert!(expected.len() < 60, "starts take longer than a millisecond");
    assert_eq!(positions(&relay, &["--since", &seconds(from), "--until", &seconds(to)]), expected);
    let said = on(&relay, &["dump", "--json", "--position", "21"]);
    let received = said.lines()[0]["received"].as_str().unwrap().to_owned();
    let same: Vec<u64> = (1..=60).filter(|position| times[*position as usize - 1] == from).collect();
    assert_eq!(positions(&relay, &["--since", &received, "--until", &received]), same);
    assert_eq!(positions(&relay, &["--since", "-1h", "--until", "now"]), range(1..=60));
    assert_eq!(positions(&relay, &["--until", "-1h"]), [0; 0]);

    relay.start().await;
    let several = Request::new()
        .series(&[("__name__", "up"), ("job", "a b")], &[(1, 1.0)])
        .series(&[("__name__", "up"), ("job", "c")], &[(1, 2.0)])
        .series(&[("__name__", "down"), ("job", "c")], &[(1, 3.0)]);
    send(&relay, &several.post(Protocol::V2)).await;
    let series = |arguments: &[&str]| -> Vec<String> {
        let said = on(&relay, &[&["dump"], arguments].concat());
        assert_eq!(said.code, 0);
        let shown = said.out.lines().filter_map(|line| line.strip_prefix("    "));
        shown.map(|line| line.split("  ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(series(&["--metric", "up"]), ["up{job=\"a b\"}", "up{job=\"c\"}"]);
    assert_eq!(series(&["--match", "job=\"a b\""]), ["up{job=\"a b\"}"]);
    assert_eq!(series(&["--match", "job=c", "--metric", "down"]), ["down{job=\"c\"}"]);
    assert_eq!(series(&["--match", "job=c", "--match", "__name__=up"]), ["up{job=\"c\"}"]);
    assert_eq!(series(&["--metric", "none"]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_does_not_give_is_unreadable_and_not_damaged() {
    let relay = stopped_with(3).await;
    if !support::strace_is_here() {
        return;
    }
    // The first calls look at the segments' ends; what fails then is somewhere in the first segment, or all from there
    // on.
    for (when, lost) in [("when=20", 0..=1), ("when=20+", 40..=60)] {
        let inject = format!("inject=madvise:error=EIO:{when}");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=madvise", "-e", &inject]);
        command.arg(env!("CARGO_BIN_EXE_promrelay")).args(["wal", "verify", "--json", "--dir"]).arg(relay.wal_dir());
        let said = Ran::run(&mut command);
        let sum = said.report()["summary"].clone();
        let number = |key: &str| sum[key].as_u64().unwrap();
        assert_eq!((number("damages"), said.code), (0, i32::from(number("unreadable") > 0)), "{}", said.out);
        assert_eq!(number("records") + number("lost_records"), 60, "{}", said.out);
        assert!(lost.contains(&number("lost_records")), "{when}: {}", said.out);
        let findings = said.report()["findings"].as_array().unwrap().clone();
        let says_why = |finding: &Value| finding["why"].as_str().unwrap().contains("Input/output error");
        assert!(findings.iter().all(|finding| finding["kind"] == "unreadable" && says_why(finding)), "{}", said.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_match_is_not_read() {
    let relay = stopped_with(3).await;
    if !support::strace_is_here() {
        return;
    }
    let trace = relay.dir().join("trace");
    let bytes_read = |arguments: &[&str]| -> u64 {
        let strace = ["-f", "-qq", "-y", "-ttt", "-e", "trace=madvise", "-o", trace.to_str().unwrap()];
        let mut command = Command::new("strace");
        command.args(strace).arg(env!("CARGO_BIN_EXE_promrelay")).args(["wal", "dump", "--dir"]);
        let said = Ran::run(command.arg(relay.wal_dir()).args(arguments));
        assert_eq!(said.code, 0, "{}", said.err);
        let calls = support::trace::parse(&fs::read_to_string(&trace).unwrap());
        let populated =
            calls.iter().filter(|call| call.arguments.contains("POPULATE_READ") || call.arguments.ends_with("0x16"));
        populated.count() as u64
    };
    let (all, one, headers) = (bytes_read(&[]), bytes_read(&["--position", "45"]), bytes_read(&["--headers"]));
    assert!(all >= 120, "a header and a body of 60 records: {all}");
    assert!(one < 20, "headers up to record 45 of the third segment, one body, three seals: {one}");
    assert!(headers < all - 50, "{headers} of {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_tool_quietly() {
    let relay = with_small_segments(DOWN).start().await;
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..30 {
        let text = noise(&mut random, 20_000);
        send(
            &relay,
            &Request::new().series(&[("__name__", "long"), ("n", &text)], &[(number, 1.0)]).post(Protocol::V1),
        )
        .await;
    }
    for arguments in [&["dump"][..], &["dump", "--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_promrelay"));
        command.arg("wal").args(arguments).arg("--dir").arg(relay.wal_dir());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let output = process.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
    }
}

#[test]
fn mistakes_have_exit_codes_and_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let none = none.to_str().unwrap();
    for tool in ["ls", "verify", "dump"] {
        let said = wal(&[tool, "--dir", none]);
        assert!(said.code == 1 && said.err.contains("cannot read") && said.err.contains(none), "{}", said.err);
        let said = wal(&[tool, "--config", none]);
        assert!(said.code == 2 && said.err.contains(none), "{}", said.err);
        // A path with a mistake in it is no log without damage.
        let said = wal(&[tool, "--dir", dir.path().to_str().unwrap()]);
        assert!(said.code == 1 && said.err.contains("there is no log in"), "{}", said.err);
        let help = wal(&[tool, "--help"]);
        assert!(help.code == 0 && help.out.contains("--dir <DIR>") && help.out.contains("--json"), "{}", help.out);
    }
    for (arguments, text) in [
        (&["dump", "--position", "9..3"][..], "9 lies behind 3"),
        (&["dump", "--position", "x"], "is not a position"),
        (&["dump", "--position", ".."], "at least one end"),
        (&["dump", "--since", "yesterday"], "is not a time"),
        (&["dump", "--match", "job=~\".*\""], "only NAME=\"VALUE\" is understood"),
        (&["dump", "--limit", "0"], "--limit"),
        (&["dump", "--headers", "--metric", "up"], "cannot be used with"),
        (&["erase"], "unrecognized subcommand"),
    ] {
        let said = wal(arguments);
        assert!(said.code == 2 && said.err.contains(text), "{arguments:?}: {} {}", said.code, said.err);
    }
}
