//! Full logs, from outside: who loses what, who loses nothing, what upstreams are answered, and that the disk holds no
//! more than the limit at any moment.
//!
//! The logs are small: 8 MiB in segments of 1 MiB, requests of about 100 KB that do not compress, one sample in each.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use support::filesystem::{Filesystem, taken_in};
use support::ledger::{self, Ledger};
use support::relay::{Config, Relay};
use support::request::{Protocol, Request, noise};
use support::sink::{Answer, Sink};
use support::{client, eventually};

const SOON: Duration = Duration::from_secs(60);
const FAST: &[&str] = &["min_backoff = \"10ms\"", "max_backoff = \"50ms\""];
const BEST_EFFORT: &[&str] = &["min_backoff = \"10ms\"", "max_backoff = \"50ms\"", "required = false"];
const LIMIT: u64 = 8 << 20;
const SEGMENT: u64 = 1 << 20;
/// Requests to a target at a time, if nothing else is configured.
const IN_FLIGHT: usize = 8;
/// More than a log holds, twice.
const MANY: u64 = 160;

fn small() -> Config {
    Config::new().server("admin = true").wal("max_size = \"8MiB\"").wal("segment_size = \"1MiB\"")
}

fn request(random: &mut fastrand::Rng, number: u64) -> support::request::Post {
    let noise = noise(random, 100_000);
    let labels = [("__name__", "large"), ("noise", &*noise)];
    Request::new().series(&labels, &[(number as i64, number as f64)]).post(Protocol::V1)
}

/// Sends what has the next number; the status that it was answered.
struct Upstream {
    http: reqwest::Client,
    random: fastrand::Rng,
    number: u64,
    /// Answers of 503.
    put_off: u64,
    longest_put_off: Duration,
}

impl Upstream {
    fn new() -> Upstream {
        let random = fastrand::Rng::new();
        Upstream { http: client(), random, number: 0, put_off: 0, longest_put_off: Duration::ZERO }
    }

    async fn try_one(&mut self, relay: &Relay) -> (u16, String) {
        let answer = request(&mut self.random, self.number + 1).send(&self.http, &relay.write_url()).await.unwrap();
        let status = answer.status().as_u16();
        assert!(matches!(status, 204 | 503), "{status}");
        self.number += u64::from(status == 204);
        (status, answer.text().await.unwrap())
    }

    /// Sends so many, each until it is taken.
    async fn send(&mut self, relay: &Relay, count: u64) {
        for _ in 0..count {
            let start = Instant::now();
            loop {
                if self.try_one(relay).await.0 == 204 {
                    break;
                }
                self.put_off += 1;
                self.longest_put_off = self.longest_put_off.max(start.elapsed());
                assert!(start.elapsed() < SOON, "a request is put off for ever");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Sends until one is put off for good; the reason.
    async fn fill(&mut self, relay: &Relay) -> String {
        let mut put_off_since = None;
        loop {
            match self.try_one(relay).await {
                (204, _) => put_off_since = None,
                // For longer than it takes to free a segment.
                (_, reason) => {
                    let since = *put_off_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(4) {
                        return reason;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            assert!(self.number * 97_000 < 64 << 20, "{} requests, and it is not full", self.number);
        }
    }
}

/// Measures a directory all the time.
struct DiskWatch {
    stop: Sender<()>,
    thread: JoinHandle<u64>,
}

impl DiskWatch {
    fn start(dir: PathBuf) -> DiskWatch {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while stopped.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
                most = most.max(taken_in(&dir).map_or(0, |(_, all)| all));
            }
            most
        });
        DiskWatch { stop, thread }
    }

    /// The most that was there at any time; panics if that is more than the limit.
    fn end(self) -> u64 {
        drop(self.stop);
        let most = self.thread.join().unwrap();
        assert!(most > 0 && most <= LIMIT, "{most} bytes were on disk, and {LIMIT} is the limit");
        most
    }
}

/// What came, request by request. Each request of the upstream is a series of its own, so several may be under way and pass each other; in
/// a request to the target consecutive ones are merged.
fn stored(sink: &Sink) -> Vec<u64> {
    let mut all = Vec::new();
    for request in sink.requests().into_iter().filter(|request| request.is_stored) {
        let numbers: Vec<u64> = request.samples.iter().map(|sample| sample.value as u64).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "merged were {numbers:?}");
        all.extend(numbers);
    }
    all
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

async fn ledger(relay: &Relay, name: &str) -> Ledger {
    ledger::of_status(&relay.status().await).remove(name).unwrap_or_else(|| panic!("no target {name}"))
}

async fn dropped(relay: &Relay, name: &str) -> u64 {
    ledger(relay, name).await.settled["dropped"]
}

fn down(sink: &Sink) {
    sink.script(|_| Answer::status(503));
}

fn up(sink: &Sink) {
    sink.script(|_| Answer::status(204));
}

/// Everything that was accepted came, once, but for the oldest, which were dropped and counted; the newest came.
async fn judge_dropped(relay: &Relay, name: &str, sink: &Sink, accepted: u64) {
    let Ledger { accepted: booked, settled, pending } = ledger(relay, name).await;
    let came = stored(sink);
    assert_eq!((booked, pending, settled["lost"], settled["refused"]), (accepted, 0, 0, 0), "{name}");
    assert_eq!(settled["dropped"] + settled["delivered"], accepted, "{name}");
    assert!(settled["dropped"] > 0, "{name}: nothing was dropped");
    judge_came(came, &settled, accepted);
    sink.assert_strict();
}

/// All that is delivered came, and the newest did. (What lies between may have been delivered before older data was dropped; and what was in flight
/// when it was dropped may have come.)
fn judge_came(came: Vec<u64>, settled: &BTreeMap<String, u64>, accepted: u64) {
    let mut came = sorted(came);
    came.dedup();
    let (delivered, dropped) = (settled["delivered"], settled["dropped"]);
    assert!((delivered..=delivered + dropped).contains(&(came.len() as u64)), "{} came of {settled:?}", came.len());
    let newest = accepted.saturating_sub(20) + 1..=accepted;
    assert!(newest.clone().all(|number| came.contains(&number)), "{came:?} has not all of {newest:?}");
}

/// How many requests came a second time. They come as they were cut; nothing else comes twice.
fn comes_again(sink: &Sink) -> usize {
    let (mut seen, mut again) = (HashSet::new(), 0);
    for request in sink.requests().into_iter().filter(|request| request.is_stored) {
        let is_new = seen.insert(request.body.clone());
        let is_repeated = request.samples.iter().any(|sample| sample.copies > 0);
        assert_eq!(is_new, !is_repeated, "request {} mixes what had come with what had not", request.number);
        again += usize::from(!is_new);
    }
    again
}

/// Nothing more is given up now: there is a segment for what comes next.
async fn has_room_ahead(relay: &Relay) {
    let is_ahead = |entry: fs::DirEntry| {
        let is_large = entry.metadata().is_ok_and(|metadata| metadata.len() >= SEGMENT / 2);
        is_large && entry.file_name().to_str().is_some_and(|name| name.starts_with("next-"))
    };
    eventually("there is room ahead", SOON, async || {
        fs::read_dir(relay.wal_dir()).unwrap().filter_map(Result::ok).any(is_ahead).then_some(())
    })
    .await;
}

async fn judge_complete(relay: &Relay, name: &str, sink: &Sink, accepted: u64) {
    assert_eq!(sorted(stored(sink)), (1..=accepted).collect::<Vec<u64>>(), "{name}");
    let ledger = ledger(relay, name).await;
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.pending), (accepted, accepted, 0), "{name}");
    sink.assert_strict();
}

/// Whole segments were dropped: what goes first then is the first of a segment, as long as nothing else was released.
async fn is_at_the_start_of_a_segment(relay: &Relay, name: &str) {
    let status = relay.status().await;
    let target = status["targets"].as_array().unwrap().iter().find(|target| target["name"] == name).unwrap();
    let next = target["settled"].as_u64().unwrap() + 1;
    let firsts: Vec<u64> = segments(&status).iter().map(|segment| segment["first"].as_u64().unwrap()).collect();
    assert!(firsts.contains(&next), "{name} goes on with {next}, segments begin with {firsts:?}");
}

fn segments(status: &Value) -> &Vec<Value> {
    status["wal"]["segments"].as_array().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_required_loses_its_oldest_segments_and_nobody_else_loses_anything() {
    let (healthy, away) = (Sink::start().await, Sink::start().await);
    down(&away);
    let config = small().target("healthy", &healthy.url(), FAST).target("away", &away.url(), BEST_EFFORT);
    let mut relay = config.wal("when_full = \"reject\"").start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    healthy.stored(MANY, SOON).await;
    is_at_the_start_of_a_segment(&relay, "away").await;
    let before = dropped(&relay, "away").await;
    assert!(before > 0);
    assert!(relay.log().contains("dropped the oldest data"));
    println!("{} answers of 503, the longest for {:?}", upstream.put_off, upstream.longest_put_off);
    // What was given up is given up, also after a crash; and nothing more.
    relay.kill_9().await;
    relay.start().await;
    upstream.send(&relay, 1).await;
    assert!((before..before + 25).contains(&dropped(&relay, "away").await));
    has_room_ahead(&relay).await;
    up(&away);
    relay.drained(SOON).await;
    judge_dropped(&relay, "away", &away, MANY + 1).await;
    let Ledger { accepted, settled, .. } = ledger(&relay, "healthy").await;
    assert_eq!((accepted, settled["delivered"], settled["dropped"]), (MANY + 1, MANY + 1, 0));
    let mut came = sorted(stored(&healthy));
    came.dedup();
    assert_eq!(came, (1..=MANY + 1).collect::<Vec<u64>>());
    println!("at most {} bytes on disk", watch.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auto_the_required_target_that_is_down_loses_its_oldest_while_another_keeps_up() {
    let (healthy, away) = (Sink::start().await, Sink::start().await);
    down(&away);
    let relay = small().target("healthy", &healthy.url(), FAST).target("away", &away.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    is_at_the_start_of_a_segment(&relay, "away").await;
    println!("{} answers of 503, the longest for {:?}", upstream.put_off, upstream.longest_put_off);
    up(&away);
    relay.drained(SOON).await;
    judge_dropped(&relay, "away", &away, MANY).await;
    judge_complete(&relay, "healthy", &healthy, MANY).await;
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auto_nothing_is_dropped_while_all_required_targets_are_down_and_upstreams_get_503() {
    let (a, b, best_effort) = (Sink::start().await, Sink::start().await, Sink::start().await);
    down(&a);
    down(&b);
    let config = small().target("a", &a.url(), FAST).target("b", &b.url(), FAST);
    // That somebody keeps up for whom the log does not wait is no reason.
    let relay = config.target("best_effort", &best_effort.url(), BEST_EFFORT).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    let reason = upstream.fill(&relay).await;
    assert!(reason.contains("wal.max_size"), "{reason}");
    let ready = client().get(relay.url("/-/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("wal.max_size"));
    for name in ["a", "b", "best_effort"] {
        assert_eq!(dropped(&relay, name).await, 0, "{name}");
    }
    // One is back: all goes on, and only now the other one loses something.
    up(&a);
    upstream.send(&relay, 30).await;
    up(&b);
    relay.drained(SOON).await;
    judge_complete(&relay, "a", &a, upstream.number).await;
    judge_complete(&relay, "best_effort", &best_effort, upstream.number).await;
    judge_dropped(&relay, "b", &b, upstream.number).await;
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_reject_upstreams_get_503_even_while_one_target_keeps_up_and_nothing_is_dropped() {
    let (healthy, away) = (Sink::start().await, Sink::start().await);
    down(&away);
    let config = small().wal("when_full = \"reject\"").target("healthy", &healthy.url(), FAST);
    let relay = config.target("away", &away.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.fill(&relay).await;
    assert_eq!((dropped(&relay, "away").await, dropped(&relay, "healthy").await), (0, 0));
    healthy.stored(upstream.number, SOON).await;
    up(&away);
    upstream.send(&relay, 3).await;
    relay.drained(SOON).await;
    judge_complete(&relay, "away", &away, upstream.number).await;
    judge_complete(&relay, "healthy", &healthy, upstream.number).await;
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_drop_oldest_upstreams_are_taken_although_the_only_target_is_down_and_it_gets_the_newest() {
    let sink = Sink::start().await;
    sink.stop().await;
    let relay = small().wal("when_full = \"drop_oldest\"").target("only", &sink.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    println!("{} answers of 503, the longest for {:?}", upstream.put_off, upstream.longest_put_off);
    is_at_the_start_of_a_segment(&relay, "only").await;
    sink.start_again().await;
    relay.drained(SOON).await;
    judge_dropped(&relay, "only", &sink, MANY).await;
    // No more than it must: most of the log was there still.
    assert!(stored(&sink).len() as u64 * 97_000 > LIMIT / 2, "only {} came", stored(&sink).len());
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_whose_data_is_dropped_is_booked_once() {
    let sink = Sink::start().await;
    // Stored, and not answered before the log is full.
    let mut is_first = true;
    sink.script(move |_| {
        Answer::status(204).delay(Duration::from_secs(if std::mem::take(&mut is_first) { 3600 } else { 0 }))
    });
    let lines = [FAST, &["remote_timeout = \"2h\""]].concat();
    let relay = small().wal("when_full = \"drop_oldest\"").target("only", &sink.url(), &lines).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    relay.drained(SOON).await;
    let Ledger { accepted, settled, .. } = ledger(&relay, "only").await;
    let came = stored(&sink);
    assert_eq!((accepted, settled["lost"]), (MANY, 0));
    assert!(settled["dropped"] > 0);
    assert_eq!(settled["delivered"] + settled["dropped"], MANY, "what came and is dropped is booked as dropped, once");
    assert_eq!(came[0], 1);
    judge_came(came, &settled, MANY);
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_gives_up_first_and_required_targets_lose_nothing() {
    let (healthy, gone) = (Sink::start().await, Sink::start().await);
    down(&gone);
    let config = small().wal("when_full = \"reject\"").target("healthy", &healthy.url(), FAST);
    let mut relay = config.clone().target("gone", &gone.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.fill(&relay).await;
    let filled = upstream.number;
    assert_eq!(dropped(&relay, "gone").await, 0, "it is in the configuration, and nothing is given up");
    relay.config = config.clone();
    relay.terminate().await;
    relay.spawn();
    relay.wait_until_ready().await;
    upstream.send(&relay, MANY).await;
    assert!(dropped(&relay, "gone").await > 0);
    is_at_the_start_of_a_segment(&relay, "gone").await;
    relay.config = config.target("gone", &gone.url(), FAST);
    up(&gone);
    relay.restart().await;
    relay.drained(SOON).await;
    assert!(upstream.number == filled + MANY);
    judge_dropped(&relay, "gone", &gone, upstream.number).await;
    judge_complete(&relay, "healthy", &healthy, upstream.number).await;
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_while_a_full_log_gives_up_data_the_books_are_right() {
    const KILLS: u64 = 10;
    let (healthy, away) = (Sink::start().await, Sink::start().await);
    down(&away);
    let config = small().target("healthy", &healthy.url(), FAST).target("away", &away.url(), BEST_EFFORT);
    let mut relay = config.start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, 80).await;
    let mut earlier = ledger::of_metrics(&relay.metrics().await);
    for kill in 0..KILLS {
        // Enough that segments go, and then somewhere in the middle of it.
        upstream.send(&relay, 5 + kill * 2).await;
        let now = ledger::of_metrics(&relay.metrics().await);
        now.iter().for_each(|(target, ledger)| ledger.assert_grown_from(&earlier[target], target));
        relay.kill_9().await;
        relay.spawn();
        let healthy = async || upstream.http.get(relay.url("/-/healthy")).send().await.ok();
        eventually("the relay serves", SOON, healthy).await;
        earlier = ledger::of_metrics(&relay.metrics().await);
        now.iter().for_each(|(target, before)| earlier[target].assert_grown_from(before, target));
    }
    // (Before it is up: what is in flight when data is given up comes, and is booked as dropped.)
    upstream.send(&relay, 1).await;
    has_room_ahead(&relay).await;
    up(&away);
    relay.drained(SOON).await;
    judge_dropped(&relay, "away", &away, upstream.number).await;
    let Ledger { accepted, settled, .. } = ledger(&relay, "healthy").await;
    assert_eq!((accepted, settled["delivered"]), (upstream.number, upstream.number));
    let again = comes_again(&healthy);
    assert!(again <= KILLS as usize * IN_FLIGHT, "{again} requests came twice");
    let mut came = sorted(stored(&healthy));
    came.dedup();
    assert_eq!(came, (1..=upstream.number).collect::<Vec<u64>>());
    println!("at most {} bytes on disk", watch.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_a_targets_data_does_not_cut_short_the_pause_that_it_asked_for() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(503).header("retry-after", "3600"));
    let lines = [FAST, &["retry_after_max = \"2h\""]].concat();
    let relay = small().wal("when_full = \"drop_oldest\"").target("only", &sink.url(), &lines).start().await;
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    assert!(dropped(&relay, "only").await > 0);
    assert_eq!(sink.arrived(), 1, "it asked for an hour");
}

/// `promrelay target seek NAME --to TO` over the interface.
async fn seek(relay: &Relay, name: &str, to: &str) -> Value {
    let request = client().post(relay.url(&format!("/api/v1/targets/{name}/seek")));
    let answer = request.json(&serde_json::json!({ "to": to })).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn skipping_or_forgetting_what_nobody_will_take_makes_room_at_once() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    down(&a);
    down(&b);
    let relay = small().target("a", &a.url(), FAST).target("b", &b.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.fill(&relay).await;
    let filled = upstream.number;
    let request = client().post(relay.url("/api/v1/targets/b/forget")).json(&serde_json::json!({}));
    let forgotten: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(forgotten["skipped_samples"], filled);
    assert_eq!(upstream.try_one(&relay).await.0, 503, "a still holds it");
    let to = filled - 10;
    assert_eq!(seek(&relay, "a", &to.to_string()).await["skipped_samples"], to - 1);
    upstream.send(&relay, 30).await;
    assert_eq!(dropped(&relay, "a").await, to - 1, "nothing but what was asked for");
    up(&a);
    relay.drained(SOON).await;
    assert_eq!(sorted(stored(&a)), (to..=upstream.number).collect::<Vec<u64>>());
    judge_dropped(&relay, "a", &a, upstream.number).await;
    assert_eq!(stored(&b), Vec::<u64>::new());
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_that_is_stopped_is_helped_by_the_command_as_well() {
    let sink = Sink::start().await;
    down(&sink);
    let mut relay = small().target("a", &sink.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.fill(&relay).await;
    relay.terminate().await;
    let to = upstream.number - 4;
    relay.ordered(&["target", "seek", "a", "--yes", "--to", &to.to_string()]).await;
    relay.spawn();
    relay.wait_until_ready().await;
    upstream.send(&relay, 30).await;
    up(&sink);
    relay.drained(SOON).await;
    assert_eq!(sorted(stored(&sink)), (to..=upstream.number).collect::<Vec<u64>>());
    judge_dropped(&relay, "a", &sink, upstream.number).await;
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_is_there_to_be_replayed_until_its_time_is_over_and_goes_without_any_traffic() {
    let sink = Sink::start().await;
    let relay = small().wal("retain = \"30s\"").target("a", &sink.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    let start = Instant::now();
    upstream.send(&relay, 40).await;
    relay.drained(SOON).await;
    let said = seek(&relay, "a", "oldest").await;
    assert_eq!(said["replayed_samples"], 40, "{:?} after the first", start.elapsed());
    relay.drained(SOON).await;
    let came = stored(&sink);
    let (first, again) = came.split_at(40);
    let all: Vec<u64> = (1..=40).collect();
    assert_eq!([sorted(first.to_vec()), sorted(again.to_vec())], [all.clone(), all]);
    assert!(segments(&relay.status().await).len() >= 4);
    eventually("what was retained is gone, without traffic", Duration::from_secs(90), async || {
        segments(&relay.status().await).is_empty().then_some(())
    })
    .await;
    assert!(start.elapsed() > Duration::from_millis(29_900), "it was gone after {:?}", start.elapsed());
    let said = seek(&relay, "a", "oldest").await;
    assert_eq!((&said["replayed_samples"], &said["skipped_samples"]), (&0.into(), &0.into()));
    upstream.send(&relay, 1).await;
    relay.drained(SOON).await;
    assert_eq!(ledger(&relay, "a").await.delivered(), 81);
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_retained_is_given_up_first_in_a_full_log_and_nobody_loses_anything() {
    let sink = Sink::start().await;
    let relay =
        small().wal("retain = \"1h\"").wal("when_full = \"reject\"").target("a", &sink.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    upstream.send(&relay, MANY).await;
    relay.drained(SOON).await;
    println!("{} answers of 503, the longest for {:?}", upstream.put_off, upstream.longest_put_off);
    judge_complete(&relay, "a", &sink, MANY).await;
    // As much as fits is kept, the newest of it.
    let said = seek(&relay, "a", "oldest").await;
    let replayed = said["replayed_samples"].as_u64().unwrap();
    assert!(replayed * 97_000 > LIMIT / 2 && replayed < MANY, "{replayed} are there");
    relay.drained(SOON).await;
    let again = stored(&sink).split_off(MANY as usize);
    assert_eq!(sorted(again), (MANY - replayed + 1..=MANY).collect::<Vec<u64>>());
    assert_eq!(dropped(&relay, "a").await, 0);
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_free_space_that_is_asked_for_upstreams_get_503_that_says_so() {
    let sink = Sink::start().await;
    let mut relay = small().target("a", &sink.url(), FAST).start().await;
    let mut upstream = Upstream::new();
    upstream.send(&relay, 1).await;
    relay.drained(SOON).await;
    relay.terminate().await;
    let config = relay.config.clone();
    relay.config = config.clone().wal("min_free = \"1000000GiB\"");
    relay.spawn();
    let http = client();
    let ready = eventually("it says why it is not ready", SOON, async || {
        let answer = http.get(relay.url("/-/ready")).send().await.ok()?;
        (answer.status() == 503).then_some(answer)
    })
    .await;
    let text = ready.text().await.unwrap();
    assert!(text.contains("wal.min_free"), "{text}");
    let (status, reason) = upstream.try_one(&relay).await;
    assert_eq!(status, 503);
    assert!(reason.contains("wal.min_free"), "{reason}");
    let status = relay.status().await;
    assert_eq!(status["ready"], false);
    assert_eq!(client().get(relay.url("/-/healthy")).send().await.unwrap().status(), 200);
    relay.terminate().await;
    relay.config = config.wal("min_free = \"1MiB\"");
    relay.start().await;
    upstream.send(&relay, 2).await;
    relay.drained(SOON).await;
    judge_complete(&relay, "a", &sink, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_others_fill_the_filesystem_requests_are_put_off_and_taken_again_when_there_is_room() {
    let sink = Sink::start().await;
    down(&sink);
    let config = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"").wal("min_free = \"8MiB\"");
    let mut relay = config.target("a", &sink.url(), FAST).prepare();
    fs::create_dir(relay.wal_dir()).unwrap();
    let Some(_mounted) = Filesystem::tmpfs(&relay.wal_dir(), "size=32m") else { return };
    let at = relay.wal_dir();
    relay.start().await;
    let free = || {
        let stat = rustix::fs::statvfs(&at).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let mut upstream = Upstream::new();
    upstream.send(&relay, 20).await;
    // Somebody else takes what was free.
    let others = at.join("others/bytes");
    fs::write(&others, vec![1; (free() - (8 << 20)) as usize]).unwrap();
    let reason = upstream.fill(&relay).await;
    assert!(reason.contains("wal.min_free"), "{reason}");
    assert!(upstream.number < 60 && free() >= (8 << 20) - SEGMENT, "{} requests, {} free", upstream.number, free());
    let ready = client().get(relay.url("/-/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("wal.min_free"));
    assert_eq!(dropped(&relay, "a").await, 0);
    // Delivery goes on meanwhile, and needs no room.
    up(&sink);
    relay.drained(SOON).await;
    down(&sink);
    fs::remove_file(&others).unwrap();
    relay.wait_until_ready().await;
    // The limit of the log is beyond what is there: the filesystem ends it, with as much left as was asked for.
    let reason = upstream.fill(&relay).await;
    assert!(reason.contains("wal.min_free"), "{reason}");
    // (Beside a page or two of the savepoint.)
    assert!(free() >= (8 << 20) - (64 << 10), "{} free", free());
    up(&sink);
    upstream.send(&relay, 3).await;
    relay.drained(SOON).await;
    judge_complete(&relay, "a", &sink, upstream.number).await;
    relay.terminate().await;
}

/// How many files there are, and how many of them are as large as a segment. (The dead-letter ring takes half of one.)
fn files(dir: &Path) -> (usize, usize) {
    let (mut all, mut large) = (0, 0);
    for entry in fs::read_dir(dir).unwrap().filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let (inside, large_inside) = files(&entry.path());
            (all, large) = (all + inside, large + large_inside);
        } else {
            (all, large) = (all + 1, large + usize::from(metadata.len() > SEGMENT / 2));
        }
    }
    (all, large)
}

async fn is_idle(relay: &Relay) {
    eventually("the log is empty", SOON, async || {
        let is_empty = segments(&relay.status().await).is_empty();
        (is_empty && files(&relay.wal_dir()).1 <= 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_writes_to_holds_nothing_but_the_segment_for_the_next_request() {
    for count in [1, 35] {
        let sink = Sink::start().await;
        let mut relay = small().target("a", &sink.url(), FAST).start().await;
        let watch = DiskWatch::start(relay.wal_dir());
        let mut upstream = Upstream::new();
        upstream.send(&relay, count).await;
        relay.drained(SOON).await;
        let start = Instant::now();
        is_idle(&relay).await;
        println!("idle {:?} after {count} requests", start.elapsed());
        let (_, usage) = eventually("nothing changes", SOON, async || taken_in(&relay.wal_dir())).await;
        assert!(usage <= SEGMENT + SEGMENT / 2 + (128 << 10), "{usage} bytes on disk");
        let status = relay.status().await;
        assert_eq!(status["wal"]["durable"], upstream.number);
        assert!(status["wal"]["bytes"].as_u64().unwrap() >= usage, "{} told, {usage} there", status["wal"]["bytes"]);
        // The next one is taken as ever, and nothing of all this is forgotten in a restart, clean or not.
        upstream.send(&relay, 1).await;
        relay.drained(SOON).await;
        relay.restart().await;
        upstream.send(&relay, 1).await;
        relay.drained(SOON).await;
        is_idle(&relay).await;
        relay.kill_9().await;
        relay.start().await;
        upstream.send(&relay, 1).await;
        relay.drained(SOON).await;
        judge_complete(&relay, "a", &sink, count + 3).await;
        watch.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filled_and_drained_again_and_again_a_log_has_no_more_files_than_the_first_time() {
    const CYCLES: u64 = 30;
    let sink = Sink::start().await;
    let relay = small().target("a", &sink.url(), FAST).start().await;
    let watch = DiskWatch::start(relay.wal_dir());
    let mut upstream = Upstream::new();
    let mut most = 0;
    for cycle in 0..CYCLES {
        down(&sink);
        upstream.send(&relay, 30).await;
        up(&sink);
        relay.drained(SOON).await;
        eventually("all but the active segment is released", SOON, async || {
            (segments(&relay.status().await).len() <= 1 && files(&relay.wal_dir()).1 <= 2).then_some(())
        })
        .await;
        let (all, _) = files(&relay.wal_dir());
        if cycle == 0 {
            most = all + 1; // one more or less while a segment is exchanged
        }
        assert!(all <= most, "{all} files after cycle {cycle}");
    }
    judge_complete(&relay, "a", &sink, 30 * CYCLES).await;
    watch.end();
}

fn full_in(metrics: &str) -> f64 {
    let metric = ledger::parse(metrics).into_iter().find(|metric| metric.name == "promrelay_wal_full_in_seconds");
    metric.expect("it is told").value
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_log_will_be_full_is_told_while_it_fills_and_never_is_told_when_it_drains() {
    let sink = Sink::start().await;
    down(&sink);
    let relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .wal("segment_size = \"1MiB\"")
        .target("a", &sink.url(), FAST)
        .start()
        .await;
    assert_eq!(relay.status().await["wal"]["full_in_seconds"], Value::Null);
    assert_eq!(full_in(&relay.metrics().await), f64::INFINITY);
    let mut upstream = Upstream::new();
    let start = Instant::now();
    let told = loop {
        upstream.send(&relay, 1).await;
        if let Some(seconds) = relay.status().await["wal"]["full_in_seconds"].as_u64() {
            break seconds;
        }
        assert!(start.elapsed() < SOON, "not told");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    // Some of it is there, the rest comes as fast as that did: by an order of magnitude.
    let rate = upstream.number as f64 * 97_500.0 / start.elapsed().as_secs_f64();
    let expected = (62 << 20) as f64 / rate;
    assert!((expected / 10.0..expected * 10.0).contains(&(told as f64)), "{told} s told, {expected} s expected");
    let in_metrics = full_in(&relay.metrics().await);
    assert!((in_metrics - told as f64).abs() < told as f64, "{told} and {in_metrics}");
    up(&sink);
    relay.drained(SOON).await;
    eventually("never", SOON, async || {
        (relay.status().await["wal"]["full_in_seconds"].is_null() && full_in(&relay.metrics().await) == f64::INFINITY)
            .then_some(())
    })
    .await;
}
