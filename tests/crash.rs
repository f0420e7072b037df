//! Durable, complete and ordered, when the relay is killed at any moment: `kill -9` again and again under load.
//!
//! 1. Senders, each with series of its own, send numbered requests one after the other and repeat each until it is
//!    acknowledged, as Prometheus does. Some speak 1.0, some 2.0.
//! 2. Two strict targets remember every sample: one answers at once, the other slowly, is overloaded at times, and is away
//!    for a while.
//! 3. The relay is killed at random moments, at times while it starts, and started again.
//! 4. In the end every acknowledged sample is at both targets, nothing out of order, the ledgers tell the same, and what a
//!    target got twice is what a crash makes unknowable: the requests in flight to it, as they were cut, and a request whose 2xx did not
//!    reach its sender.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use support::ledger::{self, Ledger};
use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Protocol, Request, noise};
use support::sink::{Answer, Received, Sink};
use support::{client, eventually, seed};

const SENDERS: usize = 6;
const SERIES_PER_SENDER: usize = 4;
/// With the one that carries the noise.
const SAMPLES_PER_REQUEST: u64 = SERIES_PER_SENDER as u64 + 1;

/// Requests to a target at a time, if nothing else is configured.
const IN_FLIGHT: usize = 8;

/// What is said to the targets about pauses: short ones, for a short test.
const TARGET: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];

/// What a sender knows when it is done.
#[derive(Debug, Default)]
struct Sent {
    /// Requests 0 up to this number were acknowledged.
    acknowledged: u64,
    /// How often a request was sent without an answer: it may be in the log once more.
    unanswered: HashMap<u64, u32>,
    /// Answers of 503.
    put_off: u64,
}

/// Senders under way.
struct Load {
    senders: Vec<JoinHandle<Sent>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// `noise_bytes` of each request do not compress.
    fn start(url: &str, random: &mut fastrand::Rng, noise_bytes: usize) -> Load {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..SENDERS).map(|sender| {
            let (url, acknowledged, stop) = (url.to_string(), acknowledged.clone(), stop.clone());
            let random = random.fork();
            tokio::spawn(async move { send(sender, &url, random, noise_bytes, &acknowledged, &stop).await })
        });
        Load { senders: senders.collect(), acknowledged, stop }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Each sender ends after its request has been acknowledged.
    async fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for sender in self.senders {
            sent.push(sender.await.unwrap());
        }
        sent
    }
}

async fn send(
    sender: usize,
    url: &str,
    mut random: fastrand::Rng,
    noise_bytes: usize,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> Sent {
    let client = client();
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.acknowledged;
        let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
        let names: Vec<String> = (0..SERIES_PER_SENDER).map(|series| format!("{sender}-{series}")).collect();
        let request = names.iter().fold(Request::new(), |request, series| request.numbered(series, number));
        let labels = [("__name__", "noise"), ("sender", &names[0]), ("noise", &noise(&mut random, noise_bytes))];
        let post = request.series(&labels, &[sample]).post(Protocol::ALL[sender % 2]);
        loop {
            match post.send(&client, url).await {
                Ok(answer) if answer.status() == 204 => break,
                // Full, starting or shutting down: it is not in the log and never will be.
                Ok(answer) if answer.status() == 503 => sent.put_off += 1,
                Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                // The relay does not run: nothing was sent.
                Err(error) if error.is_connect() => {}
                Err(_) => *sent.unanswered.entry(number).or_default() += 1,
            }
            tokio::time::sleep(Duration::from_millis(random.u64(5..30))).await;
        }
        sent.acknowledged += 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        // A sender has pauses; without them the test measures how fast it can compress.
        tokio::time::sleep(Duration::from_millis(random.u64(0..10))).await;
    }
    sent
}

/// Moments after which a target may get once more what it had in flight: numbers of its requests.
#[derive(Default)]
struct Marks(Vec<usize>);

impl Marks {
    /// The relay is down, or this target was: what arrives from now on came later.
    async fn set(&mut self, sink: &Sink) {
        sink.disconnected().await;
        self.0.push(sink.arrived());
    }

    /// The target got `next` right after `before`, except for what it did not take, and with such a moment in between.
    fn lie_between(&self, before: &Received, next: &Received) -> bool {
        self.0.iter().any(|mark| (before.number + 1..=next.number).contains(mark))
    }
}

/// A sender's own number in the name of a series: `numbered{series="3-1"}`.
fn sender_of(series: &str) -> Option<usize> {
    series.strip_prefix("numbered{series=\"")?.split('-').next()?.parse().ok()
}

/// Compares what was acknowledged with what one target has.
fn judge(target: &str, sink: &Sink, sent: &[Sent], marks: &Marks, ledger: &Ledger) {
    sink.assert_strict();
    let requests: Vec<Received> = sink.requests().into_iter().filter(|request| request.is_stored).collect();

    // Nothing is missing, nothing is there that was not acknowledged.
    let mut newest: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    for sample in requests.iter().flat_map(|request| &request.samples) {
        if let Some(sender) = sender_of(&sample.series).filter(|_| sample.copies == 0) {
            assert_eq!(sample.timestamp, FIRST_TIMESTAMP + sample.value as i64);
            let next = newest.entry((sender, &*sample.series)).or_default();
            let (number, expected) = (sample.value as u64, *next);
            assert_eq!(number, expected, "{target}: {} is there before {expected} of {}", number, sample.series);
            *next += 1;
        }
    }
    assert_eq!(newest.len(), SENDERS * SERIES_PER_SENDER, "{target}: some series never came");
    for ((sender, series), count) in newest {
        assert_eq!(count, sent[sender].acknowledged, "{target}: samples of {series}");
    }

    // What came twice was in flight when the relay was killed and came again as it was, before anything else; or its sender
    // had no answer and sent it again.
    let mut resent = 0;
    let mut resent_samples = 0;
    let mut copies: HashMap<(&str, u64), u32> = HashMap::new();
    for (at, request) in requests.iter().enumerate() {
        // (Several are in flight, of series that have nothing to do with each other: they may come again in another order.)
        let before = requests[..at].iter().rev().find(|before| before.body == request.body);
        if before.is_some_and(|before| marks.lie_between(before, request)) {
            resent += 1;
            resent_samples += request.samples.len() as u64;
            continue;
        }
        for sample in &request.samples {
            let Some(sender) = sender_of(&sample.series) else { continue };
            let number = sample.value as u64;
            let copies = copies.entry((&sample.series, number)).or_default();
            *copies += 1;
            let unanswered = sent[sender].unanswered.get(&number).copied().unwrap_or(0);
            assert!(
                *copies <= 1 + unanswered,
                "{target}: request {} has {sample:?} once more; {unanswered} times it was sent without an answer",
                request.number
            );
        }
    }

    let most = IN_FLIGHT * marks.0.len();
    assert!(resent <= most, "{target}: {resent} requests came again, {most} were in flight at the most");

    // The ledger counts each record once, however often it was sent.
    let unanswered: u64 = sent.iter().flat_map(|sent| sent.unanswered.values()).map(|count| u64::from(*count)).sum();
    let acknowledged: u64 = sent.iter().map(|sent| sent.acknowledged).sum();
    assert_eq!((ledger.delivered(), ledger.pending), (ledger.accepted, 0), "{target}: {ledger:?}");
    let records = ledger.accepted / SAMPLES_PER_REQUEST;
    assert!(
        (acknowledged..=acknowledged + unanswered).contains(&records),
        "{target}: {records} records of {acknowledged} acknowledged and {unanswered} unanswered requests"
    );
    let arrived = sink.counts().samples;
    assert!(
        (ledger.accepted..=ledger.accepted + resent_samples).contains(&arrived),
        "{target}: {arrived} samples arrived, {} accepted, {resent_samples} in requests sent again as they were",
        ledger.accepted
    );
    println!(
        "{target}: {acknowledged} requests acknowledged, {unanswered} unanswered, {records} records, {} requests stored, \
         {resent} of them again after {} kills",
        requests.len(),
        marks.0.len()
    );
}

/// The ledgers, compared with those of an earlier start.
async fn ledgers(relay: &Relay, earlier: &mut BTreeMap<String, Ledger>) {
    let now = ledger::of_metrics(&relay.metrics().await);
    for (target, before) in earlier.iter() {
        now[target].assert_grown_from(before, target);
    }
    *earlier = now;
}

fn ends_at_once(random: &mut fastrand::Rng) -> Answer {
    Answer::status(204).delay(Duration::from_millis(random.u64(0..4)))
}

fn ends_slowly(random: &mut fastrand::Rng) -> Answer {
    match random.u8(..20) {
        0 => Answer::status(503).delay(Duration::from_millis(random.u64(0..10))),
        1 => Answer::status(429),
        _ => Answer::status(204).delay(Duration::from_millis(random.u64(0..15))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_load_nothing_acknowledged_is_lost_reordered_or_sent_twice_without_need() {
    const KILLS: u64 = 24;
    const AWAY: std::ops::Range<u64> = 8..14;

    let mut random = fastrand::Rng::with_seed(seed());
    let (near, far) = (Sink::start().await, Sink::start().await);
    let (mut near_random, mut far_random) = (random.fork(), random.fork());
    near.script(move |_| ends_at_once(&mut near_random));
    far.script(move |_| ends_slowly(&mut far_random));
    let mut relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .wal("segment_size = \"1MiB\"")
        .target("near", &near.url(), &TARGET)
        .target("far", &far.url(), &TARGET)
        .start()
        .await;
    let load = Load::start(&relay.write_url(), &mut random, 40_000);
    let (mut near_marks, mut far_marks) = (Marks::default(), Marks::default());
    let mut earlier = BTreeMap::new();

    for kill in 0..KILLS {
        if kill == AWAY.start {
            far.stop().await;
            far_marks.set(&far).await;
        }
        if kill == AWAY.end {
            far.start_again().await;
        }
        // Killed in the middle of work, after some or a lot of it; every sixth time once more in the middle of starting.
        let enough = load.acknowledged() + random.u64(1..80);
        let what = format!("the load goes on after kill {kill}");
        eventually(&what, Duration::from_secs(20), async || (load.acknowledged() >= enough).then_some(())).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
        // What was told before the crash must hold after it.
        ledgers(&relay, &mut earlier).await;
        relay.kill_9().await;
        near_marks.set(&near).await;
        far_marks.set(&far).await;
        if kill % 6 == 5 {
            relay.spawn();
            tokio::time::sleep(Duration::from_micros(random.u64(0..60_000))).await;
            relay.kill_9().await;
            near_marks.set(&near).await;
            far_marks.set(&far).await;
        }
        relay.start().await;
        ledgers(&relay, &mut earlier).await;
    }

    let sent = load.finish().await;
    let status = relay.drained(Duration::from_secs(20)).await;
    let last = status["wal"]["segments"].as_array().unwrap().last().unwrap()["id"].as_u64().unwrap();
    let starts = near_marks.0.len() as u64 + 1;
    assert!(last > starts + 10, "only {last} segments after {starts} starts: the log hardly rolled over");
    let ledgers = ledger::of_status(&status);
    // V1-39, V1-45, V2-24: all that was acknowledged, also what the far one could not take for a while.
    judge("near", &near, &sent, &near_marks, &ledgers["near"]);
    judge("far", &far, &sent, &far_marks, &ledgers["far"]);
    println!("{last} segments, {} answers of 503", sent.iter().map(|sent| sent.put_off).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_as_delivered_is_still_so_after_kill_9_and_not_sent_again() {
    let sink = Sink::start().await;
    let mut relay = Config::new().target("only", &sink.url(), &TARGET).start().await;
    let http = client();
    let mut earlier = BTreeMap::new();
    for number in 0..10 {
        let post = Request::new().numbered("a", number).post(Protocol::ALL[number as usize % 2]);
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
        let status = relay.drained(Duration::from_secs(10)).await;
        relay.kill_9().await;
        assert_eq!(ledger::of_status(&status)["only"].delivered(), number + 1);
        earlier.extend(ledger::of_status(&status));
        relay.start().await;
        ledgers(&relay, &mut earlier).await;
    }
    relay.drained(Duration::from_secs(10)).await;
    sink.assert_strict();
    assert_eq!((sink.counts().samples, sink.counts().repeated), (10, 0));
}

/// Bytes that the files under a directory take on the disk.
fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let of_entry = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0, // deleted meanwhile
    };
    entries.map(of_entry).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_does_not_eat_the_disk_limit_and_a_full_log_says_503_drains_and_takes_data_again() {
    const LIMIT: u64 = 8 << 20;
    const CRASHES: u64 = 20;

    let mut random = fastrand::Rng::with_seed(seed());
    let sink = Sink::start().await;
    sink.stop().await;
    let mut relay = Config::new()
        .wal("max_size = \"8MiB\"")
        .wal("segment_size = \"1MiB\"")
        .target("away", &sink.url(), &TARGET)
        .start()
        .await;
    let http = client();
    let mut request = |number| {
        let noise = noise(&mut random, 40_000);
        Request::new()
            .numbered("a", number)
            .series(&[("__name__", "noise"), ("noise", &noise)], &[(1, 1.0)])
            .post(Protocol::V1)
    };

    // More starts than there are segments in the limit, with next to nothing in each.
    let mut number = 0;
    for _ in 0..CRASHES {
        assert_eq!(request(number).send(&http, &relay.write_url()).await.unwrap().status(), 204);
        number += 1;
        relay.kill_9().await;
        relay.start().await;
        assert!(disk_usage(&relay.wal_dir()) <= LIMIT);
    }

    // Full: put off, in time and with a word on when to come again. Nothing else is lost by it, not even by a crash.
    let put_off = loop {
        let answer = request(number).send(&http, &relay.write_url()).await.unwrap();
        if answer.status() != 204 {
            break answer;
        }
        number += 1;
        assert!(number < 1000, "the log has a limit");
        assert!(disk_usage(&relay.wal_dir()) <= LIMIT);
    };
    assert_eq!(put_off.status(), 503);
    assert!(put_off.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert!(number * 40_000 > LIMIT / 2, "the log was full after {number} requests");
    relay.kill_9().await;
    relay.spawn();
    let health = relay.url("/-/healthy");
    let healthy = async || http.get(&health).send().await.ok().filter(|answer| answer.status() == 200);
    eventually("the relay serves", Duration::from_secs(10), healthy).await;
    assert!(disk_usage(&relay.wal_dir()) <= LIMIT);

    sink.start_again().await;
    relay.drained(Duration::from_secs(20)).await;
    relay.wait_until_ready().await;
    assert_eq!(request(number).send(&http, &relay.write_url()).await.unwrap().status(), 204);
    number += 1;
    relay.drained(Duration::from_secs(10)).await;
    sink.assert_strict();
    let numbers: Vec<u64> = sink.samples("numbered{series=\"a\"}").iter().map(|(_, value)| *value as u64).collect();
    assert_eq!(numbers, (0..number).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_under_load_takes_less_than_two_seconds_and_nothing_is_sent_twice() {
    const STOPS: usize = 5;

    let mut random = fastrand::Rng::with_seed(seed());
    let sink = Sink::start().await;
    let mut sink_random = random.fork();
    sink.script(move |_| ends_slowly(&mut sink_random));
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("only", &sink.url(), &TARGET).start().await;
    let load = Load::start(&relay.write_url(), &mut random, 4_000);
    let mut earlier = BTreeMap::new();
    for stop in 0..STOPS {
        let enough = load.acknowledged() + random.u64(50..200);
        let what = format!("the load goes on after stop {stop}");
        eventually(&what, Duration::from_secs(20), async || (load.acknowledged() >= enough).then_some(())).await;
        let (status, took) = relay.terminate().await;
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(2), "the stop took {took:?}");
        relay.start().await;
        ledgers(&relay, &mut earlier).await;
    }
    let sent = load.finish().await;
    let status = relay.drained(Duration::from_secs(20)).await;
    // No marks: no request may come twice.
    judge("only", &sink, &sent, &Marks::default(), &ledger::of_status(&status)["only"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_while_a_target_hangs_takes_less_than_two_seconds_and_repeats_only_what_hung() {
    let sink = Sink::start().await;
    let mut with_samples = 0;
    sink.script(move |request| {
        with_samples += u32::from(!request.samples.is_empty());
        let hangs = with_samples == 2 && !request.samples.is_empty();
        Answer::status(204).delay(Duration::from_secs(if hangs { 60 } else { 0 }))
    });
    let mut relay = Config::new().target("hangs", &sink.url(), &TARGET).start().await;
    let http = client();
    for number in 0..20 {
        let post = Request::new().numbered("a", number).post(Protocol::V1);
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
    let hung = eventually("a request hangs", Duration::from_secs(10), async || {
        sink.requests().into_iter().filter(|request| !request.samples.is_empty()).nth(1)
    })
    .await;
    let (status, took) = relay.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2), "the stop took {took:?}");
    relay.start().await;
    let status = relay.drained(Duration::from_secs(10)).await;
    assert_eq!(ledger::of_status(&status)["hangs"].delivered(), 20);
    sink.assert_strict();
    let counts = sink.counts();
    assert_eq!((counts.samples - counts.repeated, counts.repeated), (20, hung.samples.len() as u64));
}
