//! Everything at once, by chance: targets that fail in all ways, and operators who seek, pause, forget and restart, while upstreams
//! send. In the end the targets are healthy, everything drains, and what the ledgers tell is what the targets saw.
//!
//! ```text
//!  strict   as Prometheus; fails with statuses only, one of its series is always refused; nobody touches it
//!  wild     takes everything in any order; answers get lost; it is moved and paused all the time
//!  gone     can take little a second; it is forgotten, and is new after the next start
//!  filtered, in_1_0, in_2_0   as strict, but for what is sent: some series are filtered; everything in one protocol
//! ```
//! `CHAOS_SECONDS` says how long (20 if it is not set), `PROMRELAY_TEST_SEED` which chances.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::ledger::Ledger;
use support::relay::{Config, Relay};
use support::seed;
use support::sink::{Answer, Sink};
use support::strict::{Limit, Rules, Strict, Trouble};
use support::upstreams::{Plan, Sent, Upstreams};
use support::watch::Watch;

const SOON: Duration = Duration::from_secs(120);
const FAST: [&str; 3] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\"", "max_samples_per_send = 60"];
const PLAN: Plan = Plan { upstreams: 6, series: 4, samples: 1, pause: Duration::from_millis(30), noise: 500 };
const CURSED: &str = "numbered{series=\"0-1\"}";

/// Targets that do not get what was received as it came.
const REWRITTEN: [(&str, &str); 3] = [
    ("filtered", "write_relabel_configs = [{ source_labels = [\"__name__\"], regex = \"noise\", action = \"drop\" }]"),
    ("in_1_0", "protocol = \"1.0\""),
    ("in_2_0", "protocol = \"2.0\""),
];

fn duration() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").map_or(20, |text| text.parse().expect("CHAOS_SECONDS is a number"));
    Duration::from_secs(seconds)
}

/// What is done to the relay itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    IsKilledAndStopped,
}

struct World {
    relay: Relay,
    watch: Watch,
    random: fastrand::Rng,
    strict: Strict,
    wild: Sink,
    gone: Strict,
    rewritten: Vec<(&'static str, Strict)>,
    is_forgotten: bool,
    log: Vec<String>,
}

impl World {
    async fn start(mut random: fastrand::Rng) -> World {
        let troubles =
            [(0.01, 429), (0.05, 500), (0.05, 503)].map(|(chance, status)| (chance, Trouble::Status(status)));
        let rules = Rules {
            cursed: vec!["\"0-1\"".into()],
            jitter: Duration::from_millis(10),
            troubles: troubles.into(),
            ..Rules::default()
        };
        let strict = Strict::start(random.u64(..), rules).await;
        let wild = Sink::start().await;
        wild.script(wild_script(random.fork()));
        let limit = Some(Limit { samples_per_second: 300.0, retry_after: Some("1") });
        let rules = Rules { limit, troubles: vec![(0.02, Trouble::HangUp)], ..Rules::default() };
        let gone = Strict::start(random.u64(..), rules).await;
        let mut rewritten = Vec::new();
        let mut config = Config::new();
        for (name, line) in REWRITTEN {
            let rules = Rules {
                cursed: vec!["\"0-1\"".into()],
                troubles: vec![(0.03, Trouble::Status(500))],
                ..Rules::default()
            };
            let target = Strict::start(random.u64(..), rules).await;
            config = config.target(name, &target.url(), &[&FAST[..], &[line]].concat());
            rewritten.push((name, target));
        }
        let relay = config
            .server("admin = true")
            .wal("max_size = \"128MiB\"")
            .wal("segment_size = \"1MiB\"")
            .wal("retain = \"1h\"")
            .target("strict", &strict.url(), &FAST)
            .target("wild", &wild.url(), &[&FAST[..], &["remote_timeout = \"1s\""]].concat())
            .target("gone", &gone.url(), &FAST)
            .start()
            .await;
        let watch = Watch::start(&relay);
        World { relay, watch, random, strict, wild, gone, rewritten, is_forgotten: false, log: Vec::new() }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    /// Something by chance.
    async fn act(&mut self, process: Process) {
        let is_stopped_now_and_then = process == Process::IsKilledAndStopped;
        match self.random.u8(..20) {
            0..5 => self.seek().await,
            5..7 => self.order("pause").await,
            7..11 => self.order("resume").await,
            11..13 => self.outage().await,
            13 if !self.is_forgotten => self.forget().await,
            14..17 if is_stopped_now_and_then => {
                self.note("kill");
                self.relay.kill_9().await;
                self.start_again().await;
            }
            17 if is_stopped_now_and_then => {
                self.note("stop");
                let (status, took) = self.relay.terminate().await;
                assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
                self.start_again().await;
            }
            _ => {}
        }
    }

    async fn start_again(&mut self) {
        self.relay.start().await;
        self.is_forgotten = false;
    }

    async fn seek(&mut self) {
        let settled = self.relay.target("wild").await["settled"].as_u64().unwrap();
        let to = match self.random.u8(..6) {
            0 => "now".to_owned(),
            1 => "oldest".to_owned(),
            2 => "-2s".to_owned(),
            3 => (settled + self.random.u64(..20)).to_string(),
            _ => settled.saturating_sub(self.random.u64(..100)).to_string(),
        };
        self.note(format!("seek {to}"));
        let body = format!("{{\"to\":{to:?}}}");
        assert_eq!(self.relay.post("wild", "seek", &body).await.unwrap().status(), 200, "seek to {to}");
    }

    async fn order(&mut self, order: &str) {
        self.note(order);
        match self.random.bool() {
            true => assert_eq!(self.relay.post("wild", order, "{}").await.unwrap().status(), 200, "{order}"),
            false => drop(self.relay.ordered(&["target", order, "wild"]).await),
        }
    }

    /// For a moment a target answers nothing but 503.
    async fn outage(&mut self) {
        self.note("outage");
        let target = if self.random.bool() { &self.strict } else { &self.gone };
        let mut before = Vec::new();
        target.change(|rules| before = std::mem::replace(&mut rules.troubles, vec![(1.0, Trouble::Status(503))]));
        tokio::time::sleep(Duration::from_millis(self.random.u64(50..800))).await;
        target.change(|rules| rules.troubles = before);
    }

    async fn forget(&mut self) {
        self.note("forget");
        assert_eq!(self.relay.post("gone", "forget", "{}").await.unwrap().status(), 200);
        self.watch.forget("gone");
        self.is_forgotten = true;
    }

    /// Everybody is healthy, and nothing is pending any more.
    async fn drain(&mut self) {
        self.strict.heal();
        self.gone.heal();
        self.rewritten.iter().for_each(|(_, target)| target.heal());
        self.wild.script(|_| Answer::status(204));
        self.order("resume").await;
        self.relay.drained(SOON).await;
    }
}

/// Takes everything that it is sent, and often does not say so.
fn wild_script(mut random: fastrand::Rng) -> impl FnMut(&support::sink::Received) -> Answer + Send {
    move |_| match random.u8(..100) {
        0..4 => Answer::hang_up().storing(true),
        4..8 => Answer::hang_up(),
        8..10 => Answer::status(204).delay(Duration::from_secs(2)),
        10..14 => Answer::status(503),
        14 => Answer::status(401),
        15 => Answer::status(200).storing(false).header("content-type", "text/html"),
        _ => Answer::status(204).delay(Duration::from_millis(random.u64(..20))),
    }
}

async fn chaos(process: Process) -> (World, Sent) {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut world = World::start(random.fork()).await;
    let upstreams = Upstreams::start(&world.relay.write_url(), &mut random, PLAN);
    let start = Instant::now();
    while start.elapsed() < duration() {
        world.act(process).await;
        tokio::time::sleep(Duration::from_millis(world.random.u64(50..500))).await;
    }
    let sent = upstreams.finish().await;
    world.drain().await;
    println!("{} samples, {} requests without an answer; {}", sent.samples(), sent.unanswered, world.log.join(", "));
    (world, sent)
}

/// Nobody seeks it, so it is owed what was acknowledged, and once more what was sent again for want of an answer.
fn assert_accepted(ledger: &Ledger, sent: &Sent) {
    let most = sent.samples() + sent.unanswered * PLAN.samples_per_request();
    assert!((sent.samples()..=most).contains(&ledger.accepted), "{}..={most}: {ledger:?}", sent.samples());
}

/// Each sample that was acknowledged is there, except for those that a seek skipped.
async fn judge_wild(world: &World, sent: &Sent) {
    let ledger = world.relay.ledger("wild").await;
    let requests = world.wild.requests();
    let stored = requests.iter().flat_map(|request| &request.samples).filter(|sample| sample.is_stored);
    let stored: BTreeSet<_> = stored.map(|sample| (sample.series.clone(), sample.timestamp)).collect();
    let dropped = ledger.settled["dropped"];
    println!("wild: {} of {} samples, {dropped} dropped, {ledger:?}", stored.len(), sent.samples());
    assert!(stored.len() as u64 + dropped >= sent.samples(), "some are neither there nor counted");
    assert!(ledger.delivered() <= world.wild.counts().samples, "more is told than was ever stored");
    assert_eq!(ledger.settled["refused"], 0, "it refuses nothing");
    assert_eq!(world.wild.faults(), Vec::<String>::new());
}

/// What is filtered, and only that, is not there; the rest is as at any other target.
async fn judge_rewritten(world: &World, sent: &Sent, is_exact: bool) {
    for (name, target) in &world.rewritten {
        target.assert_in_order();
        let (seen, ledger) = (target.seen(), world.relay.ledger(name).await);
        println!("{name}: {seen:?}, {ledger:?}");
        assert_accepted(&ledger, sent);
        let requests = sent.acknowledged.iter().sum::<u64>();
        let filtered = ledger.settled["filtered"];
        match *name {
            "filtered" => {
                assert!((requests..=requests + sent.unanswered).contains(&filtered), "{requests}: {filtered}")
            }
            _ => assert_eq!(filtered, 0, "{name}"),
        }
        let missing = sent.missing(target);
        let count: u64 = missing.values().map(|numbers| numbers.len() as u64).sum();
        assert!(count <= ledger.settled["refused"], "{name}: {missing:?}");
        if is_exact {
            assert_eq!(missing.keys().collect::<Vec<_>>(), [CURSED], "{name}");
            assert_eq!((ledger.settled["refused"], ledger.delivered()), (count, seen.stored), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_chaos_without_crashes_each_sum_is_what_the_target_saw_sample_by_sample() {
    let (mut world, sent) = chaos(Process::Runs).await;
    assert_eq!(sent.unanswered, 0, "the relay ran all the time");
    world.strict.assert_in_order();
    let (seen, ledger) = (world.strict.seen(), world.relay.ledger("strict").await);
    println!("strict: {seen:?}, {ledger:?}, {:?}", world.relay.refused("strict").await);
    assert_accepted(&ledger, &sent);
    let missing = sent.missing(&world.strict);
    assert_eq!(missing.keys().collect::<Vec<_>>(), [CURSED], "only what it never takes is missing");
    assert_eq!(ledger.settled["refused"], missing[CURSED].len() as u64, "what was never stored is refused");
    assert_eq!(ledger.delivered(), seen.stored, "what is delivered was stored");
    assert_eq!(seen.repeated, 0, "nothing came twice");
    judge_wild(&world, &sent).await;
    judge_rewritten(&world, &sent, true).await;
    if world.is_forgotten {
        world.relay.restart().await;
        world.relay.drained(SOON).await;
    }
    world.gone.assert_in_order();
    world.watch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_chaos_with_crashes_nothing_is_lost_without_being_counted_nor_told_without_being_there() {
    let (world, sent) = chaos(Process::IsKilledAndStopped).await;
    world.strict.assert_in_order();
    let (seen, ledger) = (world.strict.seen(), world.relay.ledger("strict").await);
    let refused = world.relay.refused("strict").await;
    println!("strict: {seen:?}, {ledger:?}, {refused:?}");
    assert_accepted(&ledger, &sent);
    assert!(ledger.delivered() <= seen.stored + seen.repeated, "more is told than was ever stored");
    let mut missing = sent.missing(&world.strict);
    let cursed = missing.remove(CURSED).map_or(0, |numbers| numbers.len() as u64);
    let others = missing.values().map(|numbers| numbers.len() as u64).sum::<u64>();
    assert!(
        cursed + others <= ledger.settled["refused"],
        "{cursed} cursed and {others} others are missing: {missing:?}"
    );
    // Those that were stored without an answer came again, and were refused as known. Of a 2.0 request it is a partial write.
    let known =
        ["resent", "partial", "status"].map(|reason| refused.get(reason).unwrap_or(&0)).iter().copied().sum::<u64>();
    assert!(
        seen.stored.saturating_sub(ledger.delivered()) <= known,
        "stored, but neither delivered nor refused as known"
    );
    judge_wild(&world, &sent).await;
    judge_rewritten(&world, &sent, false).await;
    world.watch.end().await;
}
