//! Targets are moved, renamed and forgotten, from outside: on the files of a relay that is stopped and over the
//! interface of one that runs. What a move says is what happens: what is replayed comes again in order from exactly
//! there, what is skipped never comes and is counted as dropped, and the ledger adds up in every scrape meanwhile.
//! And a relay goes on whatever became of its savepoints while it was stopped.
//!
//! Each request has one sample, so in a new log number, position and count are the same.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::filesystem::taken_in;
use support::ledger::{self, Ledger};
use support::ran::Ran;
use support::relay::{Config, Relay};
use support::request::{Protocol, Request, noise, numbered};
use support::sink::{Answer, Sink};
use support::{client, eventually};

const SOON: Duration = Duration::from_secs(60);
const FAST: &[&str] = &["min_backoff = \"10ms\"", "max_backoff = \"50ms\""];
const PAGE: u64 = 4096;

/// What is delivered is kept, so that it can be replayed.
fn config(sink: &Sink) -> Config {
    Config::new().server("admin = true").wal("max_size = \"64MiB\"").wal("retain = \"1h\"").target(
        "a",
        &sink.url(),
        FAST,
    )
}

/// The same, and no two requests become one: so a request that is given up is one sample.
fn unmerged(sink: &Sink) -> Config {
    config(sink).target("a", &sink.url(), &[FAST, &["max_samples_per_send = 1"]].concat())
}

async fn send(relay: &Relay, numbers: std::ops::RangeInclusive<u64>) {
    let http = client();
    for number in numbers {
        let post = numbered(Protocol::ALL[number as usize % 2], "s", number);
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
}

/// A request that takes a tenth of a segment of 1 MiB.
fn large(random: &mut fastrand::Rng, number: u64) -> support::request::Post {
    let noise = noise(random, 130_000);
    Request::new()
        .series(&[("__name__", "large"), ("noise", &noise)], &[(number as i64, number as f64)])
        .post(Protocol::V1)
}

async fn send_large(relay: &Relay, numbers: std::ops::RangeInclusive<u64>) {
    let (http, mut random) = (client(), fastrand::Rng::new());
    for number in numbers {
        let answer = large(&mut random, number).send(&http, &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
}

/// The numbers that a sink has stored, in order of arrival.
fn stored(sink: &Sink) -> Vec<u64> {
    let requests = sink.requests().into_iter().filter(|request| request.is_stored);
    requests.flat_map(|request| request.samples).map(|sample| sample.value as u64).collect()
}

/// Requests of different series may pass each other.
fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

async fn is_in_state(relay: &Relay, name: &str, state: &str) {
    eventually(&format!("{name} is {state}"), SOON, async || {
        (of_target(&relay.status().await, name)["state"] == state).then_some(())
    })
    .await;
}

fn of_target<'a>(status: &'a Value, name: &str) -> &'a Value {
    let targets = status["targets"].as_array().unwrap();
    targets.iter().find(|target| target["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

fn names(status: &Value) -> Vec<String> {
    status["targets"].as_array().unwrap().iter().map(|target| target["name"].as_str().unwrap().to_owned()).collect()
}

async fn ledger(relay: &Relay, name: &str) -> Ledger {
    ledger::of_status(&relay.status().await).remove(name).unwrap_or_else(|| panic!("no target {name}"))
}

/// Accepted, delivered, dropped, lost, pending; nothing else may have happened.
async fn sums(relay: &Relay, name: &str) -> [u64; 5] {
    let Ledger { accepted, settled, pending } = ledger(relay, name).await;
    assert_eq!([settled["refused"], settled["filtered"], settled["expired"]], [0; 3]);
    [accepted, settled["delivered"], settled["dropped"], settled["lost"], pending]
}

/// `promrelay target ...`, with nobody at the terminal.
async fn target(relay: &Relay, args: &[&str]) -> Ran {
    target_answered(relay, args, "").await
}

/// The same, and somebody types `input`.
async fn target_answered(relay: &Relay, args: &[&str], input: &str) -> Ran {
    relay.command_answered(&[&["target"], args].concat(), input).await
}

/// Whether a command finds a relay that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relayed {
    Live,
    Stopped,
}

const BOTH: [Relayed; 2] = [Relayed::Live, Relayed::Stopped];

impl Relayed {
    async fn before(self, relay: &mut Relay) {
        if self == Relayed::Stopped {
            assert!(relay.terminate().await.0.success());
        }
    }

    async fn after(self, relay: &mut Relay) {
        if self == Relayed::Stopped {
            relay.start().await;
        }
    }
}

/// Moves target `a`; what the command says.
async fn seek(relay: &mut Relay, relayed: Relayed, to: &str) -> Value {
    relayed.before(relay).await;
    let ran = target(relay, &["seek", "a", "--to", to, "--yes", "--json"]).await;
    relayed.after(relay).await;
    ran.json()
}

fn plan(from: u64, to: u64) -> Value {
    json!({
        "target": "a", "from": from, "to": to, "records": from.abs_diff(to),
        "replayed_samples": from.saturating_sub(to), "skipped_samples": to.saturating_sub(from),
    })
}

/// Scrapes all the time: every ledger adds up, and no sum shrinks.
struct Watch {
    task: JoinHandle<u64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(relay: &Relay) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (metrics, status, stopped) = (relay.url("/metrics"), relay.url("/api/v1/status"), stop.clone());
        let task = tokio::spawn(async move {
            let http = client();
            let text = async |url: &str| http.get(url).send().await.ok()?.text().await.ok();
            let mut earlier: BTreeMap<String, Ledger> = BTreeMap::new();
            let mut scrapes = 0;
            while !stopped.load(Ordering::Relaxed) {
                // Meanwhile the relay may be stopped.
                let of_metrics = text(&metrics).await.map(|text| ledger::of_metrics(&text));
                let of_status = text(&status).await.map(|text| serde_json::from_str(&text).unwrap());
                for ledgers in [of_metrics, of_status.as_ref().map(ledger::of_status)].into_iter().flatten() {
                    for (target, ledger) in ledgers {
                        if let Some(before) = earlier.get(&target) {
                            ledger.assert_grown_from(before, &target);
                        }
                        earlier.insert(target, ledger);
                    }
                    scrapes += 1;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            scrapes
        });
        Watch { task, stop }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let scrapes = self.task.await.unwrap();
        assert!(scrapes > 0, "nothing was scraped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_caught_up_gets_again_exactly_what_lies_behind_where_it_is_moved_to() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).start().await;
    let watch = Watch::start(&relay);
    send(&relay, 1..=5).await;
    // A time that is after one request and before the next, by the clock that stamps them.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&relay, 6..=10).await;
    relay.drained(SOON).await;
    let mut expected: Vec<u64> = (1..=10).collect();

    for relayed in BOTH {
        let cases = [("oldest", 1), ("7", 7), ("0", 1), ("1", 1), ("10", 10), ("-2h", 1), (&*between, 6)];
        // Beyond the end is the end: there is nothing to be replayed or skipped.
        let nowhere = [("now", 11), ("11", 11), ("18446744073709551615", 11), ("2999-01-31T10:00:00Z", 11)];
        for (to, first) in cases.into_iter().chain(nowhere) {
            assert_eq!(seek(&mut relay, relayed, to).await, plan(10, first - 1), "{relayed:?} to {to}");
            expected.extend(first..=10);
            relay.drained(SOON).await;
            assert_eq!(stored(&sink), expected, "{relayed:?} to {to}");
            let count = expected.len() as u64;
            assert_eq!(sums(&relay, "a").await, [count, count, 0, 0, 0], "{relayed:?} to {to}");
        }
    }
    watch.end().await;
    assert_eq!(sink.faults(), Vec::<String>::new());
}

/// A target that answers `status` is moved forward, then back; then it takes everything.
async fn moved_while_it_answers(status: u16, state: &str) {
    for relayed in BOTH {
        let sink = Sink::start().await;
        sink.script(move |_| Answer::status(status));
        let mut relay = config(&sink).start().await;
        let watch = Watch::start(&relay);
        send(&relay, 1..=10).await;
        is_in_state(&relay, "a", state).await;

        assert_eq!(seek(&mut relay, relayed, "5").await, plan(0, 4));
        assert_eq!(sums(&relay, "a").await, [10, 0, 4, 0, 6]);
        // What was given up once and is sent after all is counted both times.
        assert_eq!(seek(&mut relay, relayed, "3").await, plan(4, 2));
        assert_eq!(sums(&relay, "a").await, [12, 0, 4, 0, 8]);
        assert_eq!(seek(&mut relay, relayed, "8").await, plan(2, 7));
        assert_eq!(sums(&relay, "a").await, [12, 0, 9, 0, 3]);

        sink.script(|_| Answer::status(204));
        relay.drained(SOON).await;
        assert_eq!(stored(&sink), [8, 9, 10], "{relayed:?}");
        assert_eq!(sums(&relay, "a").await, [12, 3, 9, 0, 0]);
        // All of the rest at once, and on with what comes then. Nothing is pending meanwhile, and nobody is called.
        sink.script(move |_| Answer::status(status));
        send(&relay, 11..=15).await;
        is_in_state(&relay, "a", state).await;
        assert_eq!(seek(&mut relay, relayed, "now").await, plan(10, 15));
        is_in_state(&relay, "a", "caught_up").await;
        sink.script(|_| Answer::status(204));
        send(&relay, 16..=16).await;
        relay.drained(SOON).await;
        assert_eq!(stored(&sink), [8, 9, 10, 16], "{relayed:?}");
        assert_eq!(sums(&relay, "a").await, [18, 4, 14, 0, 0]);
        watch.end().await;
        assert_eq!(sink.faults(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_backing_off_skips_and_replays_exactly_what_it_is_told() {
    moved_while_it_answers(503, "backing_off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_held_skips_and_replays_exactly_what_it_is_told() {
    moved_while_it_answers(401, "held").await;
}

/// A sink that takes its time for the first request with this number; says when it has answered.
fn answers_late(sink: &Sink, number: u64, delay: Duration) {
    let mut is_first = true;
    sink.script(move |request| {
        let is_late = is_first && request.samples.iter().any(|sample| sample.value as u64 == number);
        is_first &= !is_late;
        Answer::status(204).delay(if is_late { delay } else { Duration::ZERO })
    });
}

const LATE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_given_up_when_its_target_skips_it_and_its_late_answer_changes_nothing() {
    let sink = Sink::start().await;
    answers_late(&sink, 1, LATE);
    let mut relay = config(&sink).start().await;
    let watch = Watch::start(&relay);
    send(&relay, 1..=6).await;
    let late = eventually("the first is in flight", SOON, async || sink.requests().first().cloned()).await;
    assert_eq!(seek(&mut relay, Relayed::Live, "4").await, plan(0, 3));
    relay.drained(SOON).await;
    assert_eq!(sums(&relay, "a").await, [6, 3, 3, 0, 0]);
    tokio::time::sleep_until((late.at + LATE + Duration::from_millis(200)).into()).await;
    assert_eq!(sums(&relay, "a").await, [6, 3, 3, 0, 0]);
    assert_eq!(stored(&sink), [1, 4, 5, 6], "the target stored the first before it was given up");
    send(&relay, 7..=7).await;
    relay.drained(SOON).await;
    assert_eq!(sums(&relay, "a").await, [7, 4, 3, 0, 0]);
    watch.end().await;
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_sent_again_in_its_turn_when_its_target_goes_back() {
    let sink = Sink::start().await;
    answers_late(&sink, 6, LATE);
    let mut relay = config(&sink).start().await;
    let watch = Watch::start(&relay);
    send(&relay, 1..=6).await;
    let late = eventually("the sixth is in flight", SOON, async || sink.requests().get(5).cloned()).await;
    assert_eq!(seek(&mut relay, Relayed::Live, "3").await, plan(5, 2));
    relay.drained(SOON).await;
    let expected = [1, 2, 3, 4, 5, 6, 3, 4, 5, 6];
    assert_eq!(stored(&sink), expected);
    assert_eq!(sums(&relay, "a").await, [9, 9, 0, 0, 0]);
    tokio::time::sleep_until((late.at + LATE + Duration::from_millis(200)).into()).await;
    assert_eq!((stored(&sink), sums(&relay, "a").await), (expected.to_vec(), [9, 9, 0, 0, 0]));
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_answered_survives_kill_9_and_a_restart() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(503));
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=9).await;
    for (to, settled, sums_then) in [("6", 5, [9, 0, 5, 0, 4]), ("2", 1, [13, 0, 5, 0, 8]), ("9", 8, [13, 0, 12, 0, 1])]
    {
        seek(&mut relay, Relayed::Live, to).await;
        relay.kill_9().await;
        relay.start().await;
        assert_eq!(
            (of_target(&relay.status().await, "a")["settled"].as_u64(), sums(&relay, "a").await),
            (Some(settled), sums_then)
        );
        relay.restart().await;
        assert_eq!(sums(&relay, "a").await, sums_then, "after {to}");
    }
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), [9]);
    // And one made on files.
    seek(&mut relay, Relayed::Stopped, "4").await;
    relay.drained(SOON).await;
    relay.kill_9().await;
    relay.start().await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), [9, 4, 5, 6, 7, 8, 9]);
    assert_eq!(sums(&relay, "a").await, [19, 7, 12, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_under_load_keep_the_books_and_the_order() {
    const MOVES: [&str; 7] = ["now", "oldest", "-1h", "now", "1", "now", "oldest"];
    let sink = Sink::start().await;
    // There is always something in flight when it is moved.
    sink.script_for_data(|_| Answer::status(204).delay(Duration::from_millis(3)));
    let mut relay = config(&sink).start().await;
    let watch = Watch::start(&relay);
    let is_over = Arc::new(AtomicBool::new(false));
    let load = {
        let (url, http, is_over) = (relay.write_url(), client(), is_over.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                assert_eq!(numbered(Protocol::V1, "s", number).send(&http, &url).await.unwrap().status(), 204);
            }
            number
        })
    };
    let (mut replayed, mut skipped) = (0, 0);
    for to in MOVES {
        sink.stored(sink.counts().samples + 3, SOON).await;
        let said = seek(&mut relay, Relayed::Live, to).await;
        replayed += said["replayed_samples"].as_u64().unwrap();
        skipped += said["skipped_samples"].as_u64().unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let sent = load.await.unwrap();
    relay.drained(SOON).await;
    assert!(replayed > 0);
    assert_eq!(sums(&relay, "a").await, [sent + replayed, sent + replayed - skipped, skipped, 0, 0]);
    // The last replay brought everything, in order.
    let all = stored(&sink);
    assert_eq!(all[all.len() - sent as usize..], (1..=sent).collect::<Vec<u64>>());
    // Beside what is booked a target has at most what was in flight at a move: they share a series, so that is one request.
    let mut sizes: Vec<u64> = sink.requests().iter().map(|request| request.samples.len() as u64).collect();
    sizes.sort_unstable();
    let in_flight: u64 = sizes.iter().rev().take(MOVES.len()).sum();
    let delivered = sent + replayed - skipped;
    assert!((delivered..=delivered + in_flight).contains(&(all.len() as u64)), "{} of {delivered}", all.len());
    watch.end().await;
}

/// Every second record is too old to be sent, and the first one is not taken: more is settled in pieces than a savepoint has room for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_and_could_not_be_written_down_is_not_counted_twice_after_a_move() {
    const SENT: u64 = 300;
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(503));
    let lines = [FAST, &["sample_age_limit = \"1h\""]].concat();
    let mut relay = config(&sink).target("a", &sink.url(), &lines).start().await;
    let watch = Watch::start(&relay);
    let (http, now_ms) =
        (client(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64);
    for number in 1..=SENT {
        let age_ms = if number % 2 == 0 { 7_200_000 } else { 0 };
        let labels = [("__name__", "aged"), ("number", &*number.to_string())];
        let request = Request::new().series(&labels, &[(now_ms - age_ms, number as f64)]);
        assert_eq!(request.post(Protocol::V1).send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
    let expired = async || ledger(&relay, "a").await.settled["expired"];
    eventually("some are expired", SOON, async || (expired().await > 0).then_some(())).await;
    // Ahead, and back behind that.
    assert_eq!(seek(&mut relay, Relayed::Live, "100").await["to"], 99);
    let Ledger { accepted, settled, pending } = ledger(&relay, "a").await;
    assert_eq!(accepted, settled.values().sum::<u64>() + pending);
    seek(&mut relay, Relayed::Live, "oldest").await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    let mut came = stored(&sink);
    came.sort_unstable();
    came.dedup();
    assert_eq!(came, (1..=SENT).step_by(2).collect::<Vec<u64>>());
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_request_in_flight_after_a_move_ahead_is_not_mixed_with_what_is_new() {
    let sink = Sink::start().await;
    sink.script_for_data(|_| Answer::status(503));
    let lines = [FAST, &["remote_timeout = \"2h\""]].concat();
    let mut relay = config(&sink).target("a", &sink.url(), &lines).start().await;
    let relay_url = relay.write_url();
    // Of one protocol: they can be merged.
    let send_alike = async |numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers {
            let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay_url).await.unwrap();
            assert_eq!(answer.status(), 204);
        }
    };
    send_alike(1..=1).await;
    eventually("the first is tried", SOON, async || (sink.arrived() > 0).then_some(())).await;
    send_alike(2..=10).await;
    // The first is taken; the others, merged by now, are stored and not answered.
    let mut has_hung = false;
    sink.script_for_data(move |request| {
        let hangs = request.samples.len() > 1 && !std::mem::replace(&mut has_hung, true);
        Answer::status(204).delay(Duration::from_secs(if hangs { 3600 } else { 0 }))
    });
    sink.stored(10, SOON).await;
    send_alike(11..=15).await;
    assert_eq!(seek(&mut relay, Relayed::Live, "6").await, plan(1, 5));
    relay.drained(SOON).await;
    let requests = sink.requests().into_iter().filter(|request| request.is_stored);
    let came: Vec<Vec<u64>> =
        requests.map(|request| request.samples.iter().map(|sample| sample.value as u64).collect()).collect();
    let expected = [1..=1, 2..=10, 6..=10, 11..=15].map(|numbers| numbers.collect::<Vec<u64>>());
    assert_eq!(came, expected);
    assert_eq!(sums(&relay, "a").await, [15, 11, 4, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_by_several_people_at_once_are_made_one_after_the_other_and_all_are_booked() {
    const SENT: u64 = 200;
    let sink = Sink::start().await;
    let relay = unmerged(&sink).start().await;
    let watch = Watch::start(&relay);
    let url = relay.url("/api/v1/targets/a/seek");
    let people: Vec<_> = (0..4)
        .map(|_| {
            let (url, http) = (url.clone(), client());
            tokio::spawn(async move {
                let (mut replayed, mut skipped) = (0, 0);
                for _ in 0..12 {
                    let to = fastrand::u64(0..=SENT + 10).to_string();
                    let answer = http.post(&url).json(&json!({ "to": to })).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let said: Value = answer.json().await.unwrap();
                    replayed += said["replayed_samples"].as_u64().unwrap();
                    skipped += said["skipped_samples"].as_u64().unwrap();
                }
                (replayed, skipped)
            })
        })
        .collect();
    send(&relay, 1..=SENT).await;
    let (mut replayed, mut skipped) = (0, 0);
    for person in people {
        let (of_replayed, of_skipped) = person.await.unwrap();
        (replayed, skipped) = (replayed + of_replayed, skipped + of_skipped);
    }
    relay.drained(SOON).await;
    assert_eq!(sums(&relay, "a").await, [SENT + replayed, SENT + replayed - skipped, skipped, 0, 0]);
    let (came, delivered) = (stored(&sink).len() as u64, SENT + replayed - skipped);
    assert!((delivered..=delivered + 48).contains(&came), "{came} of {delivered}");
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_over_a_damaged_record_counts_it_as_lost_and_brings_everything_else() {
    for relayed in BOTH {
        let sink = Sink::start().await;
        let mut relay = config(&sink).start().await;
        send(&relay, 1..=9).await;
        relay.drained(SOON).await;
        // The log is closed, so that what is damaged is no torn tail.
        relay.restart().await;
        send(&relay, 10..=10).await;
        relay.drained(SOON).await;
        relayed.before(&mut relay).await;
        let segment = &segments(&relay)[0];
        let body = sink.requests()[4].body.clone();
        let bytes = fs::read(segment).unwrap();
        let at = bytes.windows(body.len()).position(|window| window == body).expect("the fifth request is in the log");
        overwrite(segment, &[bytes[at + 9] ^ 1], at as u64 + 9);
        relayed.after(&mut relay).await;
        assert_eq!(sums(&relay, "a").await, [10, 10, 0, 0, 0], "it has it already");
        let watch = Watch::start(&relay);
        assert_eq!(seek(&mut relay, relayed, "oldest").await, plan(10, 0));
        relay.drained(SOON).await;
        assert_eq!(stored(&sink), (1..=10).chain(1..=4).chain(6..=10).collect::<Vec<u64>>(), "{relayed:?}");
        assert_eq!(sums(&relay, "a").await, [20, 19, 0, 1, 0], "{relayed:?}");
        // To the damaged one itself, and behind it.
        assert_eq!(seek(&mut relay, relayed, "5").await["to"], 4);
        relay.drained(SOON).await;
        assert_eq!(sums(&relay, "a").await, [26, 24, 0, 2, 0], "{relayed:?}");
        assert_eq!(seek(&mut relay, relayed, "6").await, plan(10, 5));
        relay.drained(SOON).await;
        assert_eq!(sums(&relay, "a").await, [31, 29, 0, 2, 0], "{relayed:?}");
        watch.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_which_nothing_is_left_is_listed_and_moved_as_any_other() {
    let sink = Sink::start().await;
    let base = Config::new().server("admin = true").wal("max_size = \"64MiB\"");
    let mut relay = base.target("a", &sink.url(), FAST).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    relay.restart().await;
    eventually("the log is empty", SOON, async || {
        relay.status().await["wal"]["segments"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    for relayed in BOTH {
        for to in ["oldest", "now", "2", "4", "5", "-1h"] {
            assert_eq!(seek(&mut relay, relayed, to).await, plan(3, 3), "{relayed:?} to {to}");
        }
        relayed.before(&mut relay).await;
        let row = target(&relay, &["ls", "--json"]).await.json()[0].clone();
        assert_ne!(row["state"], "damaged");
        assert_eq!([&row["settled"], &row["pending_records"], &row["delivered"]], [3, 0, 3], "{relayed:?}");
        relayed.after(&mut relay).await;
    }
    send(&relay, 4..=4).await;
    relay.drained(SOON).await;
    assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3, 4], [4, 4, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_runs_and_is_not_where_the_configuration_says_is_not_moved_behind_its_back() {
    let sink = Sink::start().await;
    let relay = config(&sink).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    let text = fs::read_to_string(relay.config_path()).unwrap();
    let elsewhere = support::free_address().to_string();
    fs::write(relay.config_path(), text.replace(&relay.address().to_string(), &elsewhere)).unwrap();
    let changes = [&["seek", "a", "--to", "oldest", "--yes"][..], &["forget", "a", "--yes"], &["pause", "a"]];
    for command in changes.into_iter().chain([&["ls"][..], &["accept-refusals", "a"]]) {
        let ran = target(&relay, command).await;
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.err.contains("cannot reach") && ran.err.contains(&elsewhere), "{ran:?}");
    }
    assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3], [3, 3, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_or_an_end_is_asked_for_and_only_yes_does_it() {
    for relayed in BOTH {
        let sink = Sink::start().await;
        sink.script(|_| Answer::status(503));
        let mut relay = config(&sink).start().await;
        send(&relay, 1..=4).await;
        relayed.before(&mut relay).await;
        for command in [&["seek", "a", "--to", "3"][..], &["forget", "a"]] {
            for no in ["", "n\n", "\n", "maybe\n", "no\n"] {
                let ran = target_answered(&relay, command, no).await;
                assert_eq!((ran.code, &*ran.out), (1, ""), "{no:?}: {ran:?}");
                assert!(ran.err.contains("nothing was done") && ran.err.contains("Go on? [y/N]"), "{ran:?}");
                assert!(ran.err.contains("samples of"), "it says what would be: {ran:?}");
            }
        }
        let rows = target(&relay, &["ls", "--json"]).await.json();
        assert_eq!(
            [&rows[0]["name"], &rows[0]["settled"], &rows[0]["pending_samples"]],
            [&json!("a"), &json!(0), &json!(4)]
        );
        for (yes, to, settled) in [("y\n", "3", 2), ("yes\n", "4", 3)] {
            let ran = target_answered(&relay, &["seek", "a", "--to", to], yes).await;
            assert_eq!(ran.code, 0, "{ran:?}");
            assert!(ran.out.contains("are not sent"), "{ran:?}");
            assert_eq!(target(&relay, &["ls", "--json"]).await.json()[0]["settled"], settled);
        }
        // Where nothing changes, nothing is asked.
        let ran = target_answered(&relay, &["seek", "a", "--to", "4"], "").await;
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "a stays where it is: it begins after position 3\n", ""));
        relayed.after(&mut relay).await;
        assert_eq!(sums(&relay, "a").await, [4, 0, 3, 0, 1], "{relayed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_listed_for_people_and_for_programs_live_and_stopped() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).target("later", "http://127.0.0.1:9/", FAST).start().await;
    send(&relay, 1..=3).await;
    sink.stored(3, SOON).await;
    eventually("the third is settled", SOON, async || (ledger(&relay, "a").await.pending == 0).then_some(())).await;
    is_in_state(&relay, "later", "backing_off").await;
    for relayed in BOTH {
        relayed.before(&mut relay).await;
        let ran = target(&relay, &["ls"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
        let states = if relayed == Relayed::Live { ["caught_up", "backing_off"] } else { ["stopped"; 2] };
        assert_eq!(lines[0][0], "TARGET");
        let until = if relayed == Relayed::Live { "never" } else { "-" };
        assert_eq!(lines[1], ["a", states[0], "-", "3", "0", "0", "3", "0", "0", "0", "0", "0"]);
        assert_eq!(lines[2], ["later", states[1], until, "0", "3", "3", "0", "0", "0", "0", "0", "0"]);
        let rows = target(&relay, &["ls", "--json"]).await.json();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        let mut row = json!({
            "name": "a", "state": states[0], "settled": 3, "pending_records": 0, "pending_samples": 0,
            "delivered": 3, "refused": 0, "filtered": 0, "expired": 0, "dropped": 0, "lost": 0,
        });
        if relayed == Relayed::Live {
            row["catches_up_in_seconds"] = json!(0);
            assert_eq!(rows[1].get("catches_up_in_seconds"), Some(&Value::Null));
        }
        assert_eq!(rows[0], row);
        relayed.after(&mut relay).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_log_that_is_stopped_changes_nothing_and_after_a_crash_costs_nothing() {
    let sink = Sink::start().await;
    let mut relay = stopped_after_five(&sink).await;
    let before = tree(&relay.wal_dir());
    for look in [&["ls"][..], &["seek", "a", "--to", "2"], &["forget", "a"], &["seek", "b", "--to", "2", "--yes"]] {
        target(&relay, look).await;
        assert!(tree(&relay.wal_dir()) == before, "{look:?}");
    }
    sink.script(|_| Answer::status(503));
    relay.start().await;
    send(&relay, 6..=8).await;
    relay.kill_9().await;
    let row = target(&relay, &["ls", "--json"]).await.json()[0].clone();
    assert_eq!([&row["settled"], &row["pending_records"], &row["pending_samples"], &row["lost"]], [5, 3, 3, 0]);
    sink.script(|_| Answer::status(204));
    goes_on(&mut relay, &sink, 9, "after a look").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_there_ends_with_1_names_those_that_are_and_what_is_no_time_ends_with_2() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).target("other", &sink.url(), FAST).start().await;
    let mut unknown = Vec::new();
    for relayed in BOTH {
        relayed.before(&mut relay).await;
        let changes = [&["seek", "nobody", "--to", "now", "--yes"][..], &["forget", "nobody", "--yes"]];
        for command in changes.into_iter().chain([&["pause", "nobody"][..], &["resume", "nobody"]]) {
            let ran = target(&relay, command).await;
            assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{relayed:?}: {ran:?}");
            assert!(ran.err.contains("\"nobody\""), "{relayed:?}: {ran:?}");
            unknown.push((relayed, ran.err));
        }
        for wrong in
            ["yesterday", "2h", "", "-2", "2027-13-01T00:00:00Z", "18446744073709551616", "-99999999999999999999h"]
        {
            let ran = target(&relay, &["seek", "a", "--to", wrong, "--yes"]).await;
            assert_eq!(ran.code, 2, "{relayed:?} {wrong:?}: {ran:?}");
            assert!(ran.err.contains(&format!("{wrong:?} is not a place in the log")), "{ran:?}");
        }
        for wrong in [
            &["seek", "a"][..],
            &["seek"],
            &["forget"],
            &["rename", "a"],
            &["pause"],
            &["accept-refusals"],
            &["move"],
            &[],
        ] {
            assert_eq!(target(&relay, wrong).await.code, 2, "{wrong:?}");
        }
        relayed.after(&mut relay).await;
    }
    for (relayed, said) in unknown {
        assert!(said.contains("a, other"), "{relayed:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_one_moves_and_forgets_nobody() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    for relayed in BOTH {
        relayed.before(&mut relay).await;
        for name in ["a!", " a", "a/", "a?", "/a", "a#b"] {
            let changes = [&["seek", name, "--to", "oldest", "--yes"][..], &["forget", name, "--yes"]];
            for command in changes.into_iter().chain([&["pause", name][..], &["accept-refusals", name]]) {
                let ran = target(&relay, command).await;
                assert_ne!(ran.code, 0, "{relayed:?}: {command:?} did something: {ran:?}");
            }
        }
        relayed.after(&mut relay).await;
        assert_eq!(sums(&relay, "a").await, [3, 3, 0, 0, 0], "{relayed:?}");
    }
    assert_eq!(stored(&sink), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_the_command_says_so_and_makes_none() {
    let relay = Config::new().target("a", "http://127.0.0.1:9/", &[]).prepare();
    fs::write(
        relay.config_path(),
        format!("[wal]\ndir = {:?}\n[[target]]\nname = \"a\"\nurl = \"http://127.0.0.1:9/\"\n", relay.wal_dir()),
    )
    .unwrap();
    for command in
        [&["ls"][..], &["seek", "a", "--to", "now", "--yes"], &["forget", "a", "--yes"], &["rename", "a", "b"]]
    {
        let ran = target(&relay, command).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("there is no log in"), "{ran:?}");
    }
    assert!(!relay.wal_dir().exists());
}

async fn post(relay: &Relay, path: &str, body: &'static str) -> (u16, Value) {
    let request = client().post(relay.url(path)).header("content-type", "application/json").body(body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

async fn get(relay: &Relay, path: &str) -> (u16, Value) {
    let answer = client().get(relay.url(path)).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_without_admin_says_what_a_move_would_mean_and_makes_none() {
    let sink = Sink::start().await;
    let relay =
        Config::new().wal("max_size = \"64MiB\"").wal("retain = \"1h\"").target("a", &sink.url(), FAST).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    assert_eq!(get(&relay, "/api/v1/targets/a/seek?to=2").await, (200, plan(3, 1)));
    let bare = ["forget", "pause", "resume", "accept-refusals"].map(|path| (path, "{}"));
    for (path, body) in [("seek", "{\"to\": \"2\"}")].into_iter().chain(bare) {
        let (status, answer) = post(&relay, &format!("/api/v1/targets/a/{path}"), body).await;
        assert_eq!(status, 403);
        assert!(answer["error"].as_str().unwrap().contains("server.admin = true"), "{answer}");
    }
    for command in [["pause", "a"], ["resume", "a"], ["accept-refusals", "a"]] {
        let ran = target(&relay, &command).await;
        assert!(ran.code == 1 && ran.err.contains("server.admin = true"), "{ran:?}");
    }
    for command in [&["seek", "a", "--to", "2", "--yes"][..], &["forget", "a", "--yes"]] {
        let ran = target(&relay, command).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("server.admin = true"), "{ran:?}");
        let asked = target_answered(&relay, &command[..command.len() - 1], "y\n").await;
        assert!(asked.code == 1 && asked.err.contains("server.admin = true"), "{asked:?}");
    }
    assert_eq!(target(&relay, &["ls", "--json"]).await.json()[0]["settled"], 3);
    assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3], [3, 3, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_answers_every_mistake_with_its_status_and_an_error_in_json() {
    let sink = Sink::start().await;
    let relay = config(&sink).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    let path = "/api/v1/targets/a/seek";
    let answers = [
        (404, get(&relay, "/api/v1/targets/nobody/seek?to=now").await),
        (404, post(&relay, "/api/v1/targets/nobody/seek", "{\"to\": \"now\"}").await),
        (404, post(&relay, "/api/v1/targets/nobody/forget", "{}").await),
        (404, post(&relay, "/api/v1/targets/nobody/pause", "{}").await),
        (404, post(&relay, "/api/v1/targets/nobody/resume", "{}").await),
        (404, post(&relay, "/api/v1/targets/nobody/accept-refusals", "{}").await),
        (400, post(&relay, "/api/v1/targets/a/pause", "{").await),
        (400, get(&relay, "/api/v1/targets/a/seek?to=soon").await),
        (400, post(&relay, path, "{\"to\": \"soon\"}").await),
        (400, get(&relay, path).await),
        (400, post(&relay, path, "{\"to\": ").await),
        (400, post(&relay, path, "{}").await),
    ];
    let mut without_error = Vec::new();
    for (number, (status, (answered, json))) in answers.iter().enumerate() {
        // A body that is JSON but not what is asked for is 422 with many; either is a refusal that names the mistake.
        let is_right = answered == status || (*status == 400 && *answered == 422);
        assert!(is_right, "answer {number}: {answered}");
        if !json["error"].is_string() {
            without_error.push((number, answered));
        }
    }
    assert_eq!(without_error, [], "these have no error in JSON");
    assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3], [3, 3, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_of_another_site_can_send_moves_nothing() {
    let sink = Sink::start().await;
    let relay = config(&sink).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"] {
        for (path, body) in
            [("seek", "{\"to\": \"oldest\"}"), ("forget", "{}"), ("pause", "{}"), ("accept-refusals", "{}")]
        {
            let request = client().post(relay.url(&format!("/api/v1/targets/a/{path}")));
            let answer = request.header("content-type", kind).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 415, "{path} as {kind}");
        }
    }
    assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3], [3, 3, 0, 0, 0]));
}

/// Pauses target `a`, or lets it go on, as people do.
async fn pause(relay: &mut Relay, relayed: Relayed, is_paused: bool) {
    relayed.before(relay).await;
    let command = if is_paused { "pause" } else { "resume" };
    let ran = target(relay, &[command, "a", "--json"]).await;
    assert_eq!(ran.json(), json!({ "target": "a", "paused": is_paused }), "{relayed:?}");
    let ran = target(relay, &[command, "a"]).await;
    assert_eq!(ran.code, 0, "told twice is told once: {ran:?}");
    assert!(ran.out.contains(if is_paused { "a is paused" } else { "a goes on" }), "{ran:?}");
    relayed.after(relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_target_stays_so_over_restarts_and_moves_and_gets_everything_when_it_goes_on() {
    for relayed in BOTH {
        let sink = Sink::start().await;
        let mut relay = config(&sink).start().await;
        let watch = Watch::start(&relay);
        send(&relay, 1..=3).await;
        relay.drained(SOON).await;
        pause(&mut relay, relayed, true).await;
        send(&relay, 4..=8).await;
        is_in_state(&relay, "a", "paused").await;
        relay.restart().await;
        assert_eq!(of_target(&relay.status().await, "a")["state"], "paused", "{relayed:?}");
        relay.kill_9().await;
        let row = target(&relay, &["ls", "--json"]).await.json()[0].clone();
        assert_eq!([&row["state"], &row["pending_samples"]], [&json!("paused"), &json!(5)], "{relayed:?}");
        relay.start().await;

        // Ahead and back: it is moved, and stays paused.
        for (to, from, settled) in [("7", 3, 6), ("2", 6, 1)] {
            assert_eq!(seek(&mut relay, relayed, to).await, plan(from, settled), "{relayed:?}");
            is_in_state(&relay, "a", "paused").await;
            assert_eq!(of_target(&relay.status().await, "a")["settled"], settled);
        }
        assert_eq!(stored(&sink), [1, 2, 3], "{relayed:?}");
        pause(&mut relay, relayed, false).await;
        relay.drained(SOON).await;
        assert_eq!(stored(&sink), [1, 2, 3, 2, 3, 4, 5, 6, 7, 8], "{relayed:?}");
        assert_eq!(sums(&relay, "a").await, [13, 10, 3, 0, 0], "{relayed:?}");
        relay.restart().await;
        send(&relay, 9..=9).await;
        relay.drained(SOON).await;
        assert_eq!(stored(&sink).last(), Some(&9), "a resume survives a restart");
        watch.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_target_is_forgotten_as_any_other_and_is_not_paused_when_it_is_new() {
    for relayed in BOTH {
        let sink = Sink::start().await;
        let mut relay = config(&sink).start().await;
        pause(&mut relay, relayed, true).await;
        send(&relay, 1..=4).await;
        relayed.before(&mut relay).await;
        let ran = target(&relay, &["forget", "a", "--yes", "--json"]).await;
        assert_eq!(ran.json()["skipped_samples"], 4, "{relayed:?}");
        relayed.after(&mut relay).await;
        relay.restart().await;
        send(&relay, 5..=5).await;
        eventually("the new one gets what is new", SOON, async || stored(&sink).contains(&5).then_some(())).await;
        assert_eq!(stored(&sink), [5], "{relayed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_a_target_is_paused_resumed_and_believed() {
    let sink = Sink::start().await;
    let relay = config(&sink).start().await;
    let post = async |what: &str| post(&relay, &format!("/api/v1/targets/a/{what}"), "{}").await;
    for (what, paused) in [("pause", true), ("pause", true), ("resume", false), ("resume", false)] {
        assert_eq!(post(what).await, (200, json!({ "target": "a", "paused": paused })));
    }
    // Who is not suspect is believed already: what was said now would hold for trouble to come.
    assert_eq!(post("accept-refusals").await.0, 409);
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), [1, 2, 3]);
    sink.script(|_| Answer::status(400));
    send(&relay, 4..=5).await;
    relay.in_state("a", "suspect", SOON).await;
    let ran = target(&relay, &["accept-refusals", "a", "--json"]).await;
    assert_eq!(ran.json(), json!({ "target": "a", "accepts_refusals": true }));
    relay.drained(SOON).await;
    assert_eq!(ledger(&relay, "a").await.settled["refused"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_is_not_paused_and_nobody_is_believed_by_a_relay_that_is_stopped() {
    for relayed in BOTH {
        let (a, b) = (Sink::start().await, Sink::start().await);
        let both = config(&a).target("b", &b.url(), FAST);
        let mut relay = both.clone().start().await;
        relay.config = both.without_target("b");
        relay.restart().await;
        if relayed == Relayed::Live {
            for what in ["pause", "resume", "accept-refusals"] {
                let (status, answer) = post(&relay, &format!("/api/v1/targets/b/{what}"), "{}").await;
                assert!(status == 409 && answer["error"].as_str().unwrap().contains("b is an orphan"), "{answer}");
            }
        }
        relayed.before(&mut relay).await;
        for command in ["pause", "resume"] {
            let ran = target(&relay, &[command, "b"]).await;
            assert!(ran.code == 1 && ran.err.contains("b is an orphan"), "{relayed:?}: {ran:?}");
        }
        if relayed == Relayed::Stopped {
            let before = tree(&relay.wal_dir());
            let ran = target(&relay, &["accept-refusals", "a"]).await;
            assert!(ran.code == 1 && ran.err.contains("no promrelay runs on the log"), "{ran:?}");
            assert!(tree(&relay.wal_dir()) == before);
        }
    }
}

fn known(relay: &Relay) -> Vec<String> {
    let text = fs::read_to_string(relay.wal_dir().join("savepoints/known")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn savepoint(relay: &Relay, name: &str) -> PathBuf {
    relay.wal_dir().join(format!("savepoints/{name}.sp"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_target_goes_on_where_it_was_with_its_ledger_and_the_old_name_is_gone() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=4).await;
    relay.drained(SOON).await;
    sink.script(|_| Answer::status(503));
    send(&relay, 5..=6).await;
    relay.terminate().await;
    let ran = target(&relay, &["rename", "a", "b", "--json"]).await;
    assert_eq!(ran.json(), json!({ "target": "b", "was": "a" }));
    let rows = target(&relay, &["ls", "--json"]).await.json();
    assert_eq!(
        (rows.as_array().unwrap().len(), &rows[0]["name"], &rows[0]["state"]),
        (1, &json!("b"), &json!("orphan"))
    );
    assert_eq!([&rows[0]["settled"], &rows[0]["delivered"], &rows[0]["pending_samples"]], [4, 4, 2]);
    assert_eq!(known(&relay), ["b"]);
    assert!(!savepoint(&relay, "a").exists());

    sink.script(|_| Answer::status(204));
    relay.config = config(&sink).without_target("a").target("b", &sink.url(), FAST);
    relay.start().await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), [1, 2, 3, 4, 5, 6]);
    let status = relay.status().await;
    assert_eq!(names(&status), ["b"]);
    assert_eq!(sums(&relay, "b").await, [6, 6, 0, 0, 0]);
    relay.kill_9().await;
    relay.start().await;
    assert_eq!(sums(&relay, "b").await, [6, 6, 0, 0, 0]);
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_onto_a_name_that_is_there_is_refused_and_changes_nothing() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    b.script(|_| Answer::status(503));
    let mut relay = config(&a).target("b", &b.url(), FAST).start().await;
    send(&relay, 1..=4).await;
    eventually("a is done", SOON, async || (ledger(&relay, "a").await.pending == 0).then_some(())).await;
    relay.terminate().await;
    let ran = target(&relay, &["rename", "a", "b"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("\"b\"") && ran.err.contains("promrelay target forget b"), "{ran:?}");
    let ran = target(&relay, &["rename", "nobody", "c"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("\"nobody\""), "{ran:?}");
    for wrong in ["", "../c", ".c", "c d", "c/d", &"c".repeat(101)] {
        let ran = target(&relay, &["rename", "a", wrong]).await;
        assert_eq!(ran.code, 2, "{wrong:?}: {ran:?}");
    }
    assert_eq!(known(&relay), ["a", "b"]);
    b.script(|_| Answer::status(204));
    relay.start().await;
    relay.drained(SOON).await;
    assert_eq!((stored(&a), stored(&b)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_to_the_name_it_has_loses_nothing() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=4).await;
    relay.drained(SOON).await;
    relay.terminate().await;
    target(&relay, &["rename", "a", "a"]).await;
    let rows = target(&relay, &["ls", "--json"]).await.json();
    assert_eq!((&rows[0]["name"], &rows[0]["settled"]), (&json!("a"), &json!(4)), "{rows}");
    relay.start().await;
    assert_eq!(sums(&relay, "a").await, [4, 4, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_was_interrupted_can_be_done_again() {
    let sink = Sink::start().await;
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=4).await;
    relay.drained(SOON).await;
    relay.terminate().await;
    let old = fs::read(savepoint(&relay, "a")).unwrap();
    // It ended after the new file was there and before the old one was gone; or before the list was written.
    for left in ["a\nb\n", "b\n", "a\n"] {
        if !savepoint(&relay, "b").exists() {
            assert_eq!(target(&relay, &["rename", "a", "b"]).await.code, 0);
        }
        fs::write(savepoint(&relay, "a"), &old).unwrap();
        fs::write(relay.wal_dir().join("savepoints/known"), left).unwrap();
        assert_eq!(target(&relay, &["ls", "--json"]).await.json().as_array().unwrap().len(), 2);
        let ran = target(&relay, &["rename", "a", "b"]).await;
        assert_eq!(ran.code, 0, "{left:?}: {ran:?}");
        assert_eq!(known(&relay), ["b"], "{left:?}");
        assert!(!savepoint(&relay, "a").exists());
    }
    relay.config = config(&sink).without_target("a").target("b", &sink.url(), FAST);
    relay.start().await;
    send(&relay, 5..=5).await;
    relay.drained(SOON).await;
    assert_eq!((stored(&sink), sums(&relay, "b").await), (vec![1, 2, 3, 4, 5], [5, 5, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_is_not_renamed_under_and_says_what_to_do() {
    let sink = Sink::start().await;
    let relay = config(&sink).start().await;
    send(&relay, 1..=2).await;
    relay.drained(SOON).await;
    let ran = target(&relay, &["rename", "a", "b"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("stop it first"), "{ran:?}");
    assert_eq!(known(&relay), ["a"]);
    assert_eq!(sums(&relay, "a").await, [2, 2, 0, 0, 0]);
}

async fn bytes_on_disk(relay: &Relay) -> u64 {
    eventually("files neither come nor go", SOON, async || taken_in(&relay.wal_dir())).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_orphan_held_is_released_when_it_is_forgotten_and_its_name_is_new_when_it_comes_again() {
    for relayed in BOTH {
        let (a, b) = (Sink::start().await, Sink::start().await);
        let base = Config::new().server("admin = true").wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"");
        let base = base.target("a", &a.url(), FAST);
        let both = base.clone().target("b", &b.url(), FAST);
        let mut relay = both.clone().start().await;
        send_large(&relay, 1..=2).await;
        relay.drained(SOON).await;
        relay.config = base;
        relay.restart().await;
        send_large(&relay, 3..=40).await;
        a.stored(40, SOON).await;
        let before = relay.status().await;
        assert_eq!(of_target(&before, "b")["state"], "orphan");
        let (segments, bytes) = (before["wal"]["segments"].as_array().unwrap().len(), bytes_on_disk(&relay).await);
        assert!(segments >= 4, "{segments}");

        relayed.before(&mut relay).await;
        let said = target(&relay, &["forget", "b", "--yes", "--json"]).await.json();
        assert_eq!([&said["target"], &said["from"], &said["skipped_samples"]], [&json!("b"), &json!(2), &json!(38)]);
        let rows = target(&relay, &["ls", "--json"]).await.json();
        assert_eq!((rows.as_array().unwrap().len(), &rows[0]["name"]), (1, &json!("a")));
        relayed.after(&mut relay).await;
        assert_eq!((names(&relay.status().await), known(&relay)), (vec!["a".to_owned()], vec!["a".to_owned()]));
        assert!(!savepoint(&relay, "b").exists());
        eventually("the segments are gone", SOON, async || {
            let status = relay.status().await;
            (status["wal"]["segments"].as_array().unwrap().len() <= 2).then_some(())
        })
        .await;
        eventually("the files are gone", SOON, async || {
            (bytes_on_disk(&relay).await + (3 << 20) < bytes).then_some(())
        })
        .await;

        relay.config = both;
        relay.restart().await;
        assert_eq!(sums(&relay, "b").await, [0; 5]);
        send_large(&relay, 41..=42).await;
        relay.drained(SOON).await;
        assert_eq!(sorted(stored(&b)), [1, 2, 41, 42]);
        assert_eq!(sums(&relay, "b").await, [2, 2, 0, 0, 0]);
        assert_eq!(sorted(stored(&a)), (1..=42).collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_nothing_of_a_target_that_was_forgotten() {
    let sink = Sink::start().await;
    let relay = config(&sink).target("b", "http://127.0.0.1:9/", FAST).start().await;
    send(&relay, 1..=3).await;
    is_in_state(&relay, "b", "backing_off").await;
    assert_eq!(target(&relay, &["forget", "b", "--yes"]).await.code, 0);
    send(&relay, 4..=4).await;
    relay.drained(SOON).await;
    let metrics = relay.metrics().await;
    let told: Vec<&str> = metrics.lines().filter(|line| line.contains("target=\"b\"")).collect();
    assert_eq!(told, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_target_of_a_log_can_be_forgotten_and_is_new_then() {
    for relayed in BOTH {
        let sink = Sink::start().await;
        let mut relay = config(&sink).start().await;
        send(&relay, 1..=3).await;
        relay.drained(SOON).await;
        relayed.before(&mut relay).await;
        let ran = target(&relay, &["forget", "a", "--yes"]).await;
        assert_eq!(ran.code, 0, "{relayed:?}: {ran:?}");
        assert_eq!(target(&relay, &["ls", "--json"]).await.json(), json!([]), "{relayed:?}");
        relayed.after(&mut relay).await;
        relay.restart().await;
        send(&relay, 4..=4).await;
        relay.drained(SOON).await;
        assert_eq!((stored(&sink), sums(&relay, "a").await), (vec![1, 2, 3, 4], [1, 1, 0, 0, 0]), "{relayed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_target_that_is_configured_gets_nothing_more_and_is_new_at_the_next_start() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    b.script(|_| Answer::status(503));
    let mut relay = config(&a).target("b", &b.url(), FAST).start().await;
    send(&relay, 1..=3).await;
    is_in_state(&relay, "b", "backing_off").await;
    let said = target(&relay, &["forget", "b", "--yes", "--json"]).await.json();
    assert_eq!(said["skipped_samples"], 3);
    b.script(|_| Answer::status(204));
    let attempts = b.arrived();
    send(&relay, 4..=5).await;
    a.stored(5, SOON).await;
    relay.drained(SOON).await;
    assert_eq!(names(&relay.status().await), ["a"]);
    let again = target(&relay, &["forget", "b", "--yes"]).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert_eq!(b.arrived(), attempts, "it is sent something still");
    relay.kill_9().await;
    relay.start().await;
    send(&relay, 6..=6).await;
    relay.drained(SOON).await;
    assert_eq!((stored(&a), stored(&b)), (vec![1, 2, 3, 4, 5, 6], vec![6]));
    assert_eq!(sums(&relay, "b").await, [1, 1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_is_moved_live_and_goes_on_from_there_when_it_is_configured_again() {
    for relayed in BOTH {
        let (a, b) = (Sink::start().await, Sink::start().await);
        let both = config(&a).target("b", &b.url(), FAST);
        let mut relay = both.clone().start().await;
        send(&relay, 1..=2).await;
        relay.drained(SOON).await;
        relay.config = both.clone().without_target("b");
        relay.restart().await;
        send(&relay, 3..=8).await;
        a.stored(8, SOON).await;
        relayed.before(&mut relay).await;
        let said = target(&relay, &["seek", "b", "--to", "6", "--yes", "--json"]).await.json();
        assert_eq!([&said["from"], &said["to"], &said["skipped_samples"]], [2, 5, 3]);
        relayed.after(&mut relay).await;
        assert_eq!(sums(&relay, "b").await, [8, 2, 3, 0, 3]);
        relay.config = both;
        relay.restart().await;
        relay.drained(SOON).await;
        assert_eq!(stored(&b), [1, 2, 6, 7, 8]);
        assert_eq!(sums(&relay, "b").await, [8, 5, 3, 0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_from_is_for_names_that_are_new_and_for_no_others() {
    let (old, now, oldest) = (Sink::start().await, Sink::start().await, Sink::start().await);
    // The log is empty: whoever is new gets everything that comes.
    let mut relay = config(&old)
        .target("now", &now.url(), &["start_from = \"now\""])
        .target("oldest", &oldest.url(), &["start_from = \"oldest\""])
        .start()
        .await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    for sink in [&old, &now, &oldest] {
        assert_eq!(stored(sink), [1, 2, 3]);
    }
    // Known names go on where they are, whatever it says now.
    relay.config = config(&old)
        .target("a", &old.url(), &["start_from = \"oldest\""])
        .target("now", &now.url(), &["start_from = \"oldest\""])
        .target("oldest", &oldest.url(), &["start_from = \"now\""]);
    relay.restart().await;
    send(&relay, 4..=4).await;
    relay.drained(SOON).await;
    for sink in [&old, &now, &oldest] {
        assert_eq!(stored(sink), [1, 2, 3, 4]);
    }
}

fn overwrite(path: &Path, bytes: &[u8], offset: u64) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// A relay that delivered 1 to 5 and was stopped.
async fn stopped_after_five(sink: &Sink) -> Relay {
    let mut relay = config(sink).start().await;
    send(&relay, 1..=5).await;
    relay.drained(SOON).await;
    assert!(relay.terminate().await.0.success());
    relay
}

/// The relay goes on as if nothing had been.
async fn goes_on(relay: &mut Relay, sink: &Sink, numbers: u64, what: &str) {
    relay.start().await;
    send(relay, numbers..=numbers).await;
    relay.drained(SOON).await;
    assert_eq!(stored(sink), (1..=numbers).collect::<Vec<u64>>(), "{what}");
    assert_eq!(sums(relay, "a").await, [numbers, numbers, 0, 0, 0], "{what}");
    assert!(relay.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_torn_page_or_a_bad_list_of_names_costs_nothing() {
    let sink = Sink::start().await;
    let mut relay = stopped_after_five(&sink).await;
    for page in 0..3 {
        overwrite(&savepoint(&relay, "a"), &[0xff; 512], page * PAGE + 64);
        goes_on(&mut relay, &sink, 6 + page, &format!("page {page}")).await;
    }
    let list = relay.wal_dir().join("savepoints/known");
    fs::remove_file(&list).unwrap();
    goes_on(&mut relay, &sink, 9, "no list").await;
    fs::write(&list, b"\xff\xfe\0garbage\n../..\n\n a\n").unwrap();
    goes_on(&mut relay, &sink, 10, "garbage in the list").await;
    assert_eq!(names_listed(&relay).await, ["a"]);
}

async fn names_listed(relay: &Relay) -> Vec<String> {
    let rows = target(relay, &["ls", "--json"]).await.json();
    rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn quarantine(relay: &Relay) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(relay.wal_dir().join("quarantine")) else { return Vec::new() };
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Does something to a savepoint's file.
type Damage = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_that_cannot_be_used_means_everything_again_and_its_bytes_are_kept() {
    let damage: [(&str, Damage); 4] = [
        ("all pages torn", |path| (0..3).for_each(|page| overwrite(path, &[0xff; 512], page * PAGE + 64))),
        ("of a later version", |path| (0..3).for_each(|page| overwrite(path, &[9], page * PAGE + 8))),
        ("cut short", |path| fs::write(path, b"short").unwrap()),
        ("empty", |path| fs::write(path, b"").unwrap()),
    ];
    for (what, damage) in damage {
        let sink = Sink::start().await;
        let mut relay = stopped_after_five(&sink).await;
        damage(&savepoint(&relay, "a"));
        let bytes = fs::read(savepoint(&relay, "a")).unwrap();
        let row = target(&relay, &["ls", "--json"]).await.json()[0].clone();
        assert_eq!((&row["name"], &row["state"]), (&json!("a"), &json!("damaged")), "{what}");
        let moved = target(&relay, &["seek", "a", "--to", "now", "--yes"]).await;
        assert_eq!(moved.code, 1, "{what}: {moved:?}");
        assert_eq!(fs::read(savepoint(&relay, "a")).unwrap(), bytes, "{what}: a look has changed it");
        relay.start().await;
        relay.drained(SOON).await;
        assert_eq!(stored(&sink), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5], "{what}");
        assert_eq!(sums(&relay, "a").await, [5, 5, 0, 0, 0], "{what}");
        assert_eq!(quarantine(&relay), [bytes], "{what}");
        assert!(relay.log().contains("the savepoint is lost"), "{what}");
        relay.restart().await;
        send(&relay, 6..=6).await;
        relay.drained(SOON).await;
        assert_eq!(sums(&relay, "a").await, [6, 6, 0, 0, 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_strict_recovery_a_lost_or_foreign_savepoint_ends_the_start_and_changes_nothing() {
    let sink = Sink::start().await;
    let other = stopped_after_five(&Sink::start().await).await;
    let mut relay = stopped_after_five(&sink).await;
    let mine = fs::read(savepoint(&relay, "a")).unwrap();
    let foreign = fs::read(savepoint(&other, "a")).unwrap();
    let lenient = fs::read_to_string(relay.config_path()).unwrap();
    fs::write(relay.config_path(), lenient.replace("[wal]\n", "[wal]\nrecovery = \"strict\"\n")).unwrap();
    let mut changed = Vec::new();
    for (what, bytes) in [("lost", vec![0xff; mine.len()]), ("of another log", foreign)] {
        fs::write(savepoint(&relay, "a"), bytes).unwrap();
        let before = tree(&relay.wal_dir());
        let ran = relay.command(&[]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(&format!("is {what}, and wal.recovery = \"strict\"")), "{ran:?}");
        let after = tree(&relay.wal_dir());
        changed.extend(before.keys().filter(|path| before.get(*path) != after.get(*path)).cloned());
        changed.extend(after.keys().filter(|path| !before.contains_key(*path)).cloned());
    }
    assert_eq!(changed, Vec::<PathBuf>::new());
    fs::write(savepoint(&relay, "a"), mine).unwrap();
    goes_on(&mut relay, &sink, 6, "what was right is right").await;
}

/// All files with their content; of the lock, who holds it may change.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else if path.file_name().unwrap() != "LOCK" {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn segments(relay: &Relay) -> Vec<PathBuf> {
    let entries = fs::read_dir(relay.wal_dir()).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("seg-")).collect();
    segments.sort();
    segments
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_taken_away_goes_on_above_its_savepoints() {
    let sink = Sink::start().await;
    let mut relay = stopped_after_five(&sink).await;
    for segment in segments(&relay) {
        fs::remove_file(segment).unwrap();
    }
    goes_on(&mut relay, &sink, 6, "no segments").await;
    let rows = target(&relay, &["ls", "--json"]).await.json();
    assert_eq!(
        (&rows[0]["settled"], &rows[0]["lost"]),
        (&json!(6), &json!(0)),
        "the first new position is above the old ones"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_oldest_segment_that_was_taken_away_each_target_has_lost_exactly_what_it_was_owed() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    let base = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"").target("a", &a.url(), FAST);
    let mut relay = base.target("b", &b.url(), FAST).start().await;
    send_large(&relay, 1..=3).await;
    relay.drained(SOON).await;
    b.script(|_| Answer::status(503));
    send_large(&relay, 4..=40).await;
    a.stored(40, SOON).await;
    eventually("a is done", SOON, async || (ledger(&relay, "a").await.pending == 0).then_some(())).await;
    let status = relay.status().await;
    let oldest = &status["wal"]["segments"][0];
    let (first, last) = (oldest["first"].as_u64().unwrap(), oldest["last"].as_u64().unwrap());
    assert!(first == 1 && last > 3 && last < 20, "{oldest}");
    relay.terminate().await;
    fs::remove_file(&segments(&relay)[0]).unwrap();
    b.script(|_| Answer::status(204));
    relay.start().await;
    relay.drained(SOON).await;
    assert_eq!(sums(&relay, "a").await, [40, 40, 0, 0, 0]);
    assert_eq!(sums(&relay, "b").await, [40, 3 + 40 - last, 0, last - 3, 0]);
    // (They share no series, so they may pass each other.)
    let mut came = stored(&b);
    came.sort_unstable();
    assert_eq!(came, (1..=3).chain(last + 1..=40).collect::<Vec<u64>>());
    relay.restart().await;
    assert_eq!(sums(&relay, "b").await, [40, 3 + 40 - last, 0, last - 3, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_of_another_log_means_everything_of_this_one_and_its_ledger_goes_on() {
    let sink = Sink::start().await;
    let other = stopped_after_five(&Sink::start().await).await;
    let mut relay = config(&sink).start().await;
    send(&relay, 1..=3).await;
    relay.drained(SOON).await;
    relay.terminate().await;
    fs::copy(savepoint(&other, "a"), savepoint(&relay, "a")).unwrap();
    relay.start().await;
    relay.drained(SOON).await;
    assert!(relay.log().contains("the savepoint is of another log"));
    assert_eq!(stored(&sink), [1, 2, 3, 1, 2, 3]);
    assert_eq!(sums(&relay, "a").await, [8, 8, 0, 0, 0], "five there, three here");
    relay.kill_9().await;
    relay.start().await;
    send(&relay, 4..=4).await;
    relay.drained(SOON).await;
    assert_eq!(sums(&relay, "a").await, [9, 9, 0, 0, 0]);
    assert_eq!(stored(&sink), [1, 2, 3, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_renamed_by_hand_goes_on_under_its_new_name() {
    let sink = Sink::start().await;
    let mut relay = stopped_after_five(&sink).await;
    fs::rename(savepoint(&relay, "a"), savepoint(&relay, "b")).unwrap();
    relay.config = config(&sink).without_target("a").target("b", &sink.url(), FAST);
    relay.start().await;
    send(&relay, 6..=6).await;
    sink.stored(6, SOON).await;
    eventually("b is done", SOON, async || (ledger(&relay, "b").await.pending == 0).then_some(())).await;
    assert_eq!((stored(&sink), sums(&relay, "b").await), (vec![1, 2, 3, 4, 5, 6], [6, 6, 0, 0, 0]));
    // The list still has the old name; it can be given up.
    assert_eq!(names(&relay.status().await), ["b", "a"]);
    assert_eq!(target(&relay, &["forget", "a", "--yes"]).await.code, 0);
    assert_eq!(names(&relay.status().await), ["b"]);
}
