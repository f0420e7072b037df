//! The third promise at its hardest: several requests in flight to a target that is as strict as Prometheus, that is slow and fails at
//! random, while the relay is killed. No sample comes behind a newer one of its series, none is missing, and the sums add up.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::{Duration, Instant};

use support::relay::{Config, Relay};
use support::seed;
use support::strict::{Rules, Strict, Trouble};
use support::upstreams::{Plan, Upstreams};
use support::watch::Watch;

const SOON: Duration = Duration::from_secs(60);
const FAST: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];
/// Requests are small, so that there are many of them.
const NARROW: [&str; 2] = ["max_in_flight = 8", "max_samples_per_send = 20"];

fn config(strict: &Strict, lines: &[&str]) -> Config {
    let lines = [&FAST[..], lines].concat();
    Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"").target("a", &strict.url(), &lines)
}

/// Down for some requests, so that there is a backlog.
async fn away_for(strict: &Strict, upstreams: &Upstreams, requests: u64) {
    strict.sink.stop().await;
    upstreams.acknowledged(requests).await;
    strict.sink.start_again().await;
}

async fn drained_in_order(relay: &Relay, strict: &Strict, upstreams: Upstreams, watch: Watch) {
    let sent = upstreams.finish().await;
    strict.heal();
    relay.drained(SOON).await;
    watch.end().await;
    println!("{} samples sent, {:?}, refused: {:?}", sent.samples(), strict.seen(), relay.refused("a").await);
    sent.assert_all_at(strict);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_eight_requests_in_flight_a_slow_and_failing_target_gets_each_series_in_order_and_complete() {
    let mut random = fastrand::Rng::with_seed(seed());
    let troubles = vec![(0.05, Trouble::Status(500)), (0.03, Trouble::Status(429)), (0.05, Trouble::HangUp)];
    let rules = Rules { jitter: Duration::from_millis(40), troubles, ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    let relay = config(&strict, &NARROW).start().await;
    let watch = Watch::start(&relay);
    let upstreams = Upstreams::start(&relay.write_url(), &mut random, Plan { upstreams: 12, ..Plan::SMALL });
    for _ in 0..3 {
        away_for(&strict, &upstreams, 200).await;
        upstreams.acknowledged(100).await;
    }
    // V1-33, V2-81.
    drained_in_order(&relay, &strict, upstreams, watch).await;
    let ledger = relay.ledger("a").await;
    assert_eq!(
        ledger.delivered(),
        ledger.accepted,
        "no attempt was left without an answer that stored anything: {ledger:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_get_lost_after_the_data_was_stored_reorder_and_lose_nothing() {
    let mut random = fastrand::Rng::with_seed(seed());
    let troubles = vec![
        (0.04, Trouble::HangUpAfter),
        (0.02, Trouble::Late(Duration::from_secs(2))),
        (0.04, Trouble::HangUp),
        (0.04, Trouble::Status(503)),
    ];
    let rules = Rules { jitter: Duration::from_millis(10), troubles, ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    let relay = config(&strict, &[NARROW[0], NARROW[1], "remote_timeout = \"500ms\""]).start().await;
    let watch = Watch::start(&relay);
    let plan = Plan { samples: 2, ..Plan::SMALL };
    let upstreams = Upstreams::start(&relay.write_url(), &mut random, plan);
    away_for(&strict, &upstreams, 200).await;
    upstreams.acknowledged(150).await;
    drained_in_order(&relay, &strict, upstreams, watch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_with_requests_in_flight_nothing_is_reordered_or_lost() {
    const KILLS: usize = 12;

    let mut random = fastrand::Rng::with_seed(seed());
    let troubles = vec![(0.05, Trouble::Status(500)), (0.03, Trouble::HangUpAfter), (0.03, Trouble::HangUp)];
    let rules = Rules { jitter: Duration::from_millis(20), troubles, ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    let mut relay = config(&strict, &NARROW).start().await;
    let watch = Watch::start(&relay);
    let plan = Plan { upstreams: 10, noise: 2_000, ..Plan::SMALL };
    let upstreams = Upstreams::start(&relay.write_url(), &mut random, plan);
    for kill in 0..KILLS {
        if kill % 3 == 0 {
            away_for(&strict, &upstreams, 150).await;
        }
        upstreams.acknowledged(random.u64(1..60)).await;
        relay.kill_9().await;
        relay.start().await;
    }
    // V1-46.
    drained_in_order(&relay, &strict, upstreams, watch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_merged_batches_are_in_flight_nothing_is_reordered_or_lost() {
    const KILLS: usize = 8;

    let mut random = fastrand::Rng::with_seed(seed());
    let rules = Rules { jitter: Duration::from_millis(60), ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    strict.sink.stop().await;
    // Batches of some ten records, several samples of a series in each.
    let mut relay = config(&strict, &["max_in_flight = 8", "max_samples_per_send = 100"]).start().await;
    let watch = Watch::start(&relay);
    let upstreams = Upstreams::start(&relay.write_url(), &mut random, Plan { samples: 3, ..Plan::SMALL });
    upstreams.acknowledged(300).await;
    strict.sink.start_again().await;
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.u64(20..300))).await;
        relay.kill_9().await;
        relay.start().await;
    }
    drained_in_order(&relay, &strict, upstreams, watch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_culprit_in_a_backlog_makes_no_series_pass_itself_while_batches_are_split() {
    let mut random = fastrand::Rng::with_seed(seed());
    let rules = Rules { cursed: vec!["\"1-0\"".into()], jitter: Duration::from_millis(10), ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    strict.sink.stop().await;
    let relay = config(&strict, &["max_in_flight = 8", "max_samples_per_send = 60"]).start().await;
    let watch = Watch::start(&relay);
    let plan = Plan { samples: 2, pause: Duration::ZERO, ..Plan::SMALL };
    let sent = Upstreams::send_all(&relay.write_url(), &mut random, plan, 20).await;
    strict.sink.start_again().await;
    relay.drained(SOON).await;
    watch.end().await;
    strict.assert_in_order();
    let missing = sent.missing(&strict);
    assert_eq!(missing.keys().collect::<Vec<_>>(), ["numbered{series=\"1-0\"}"]);
    let ledger = relay.ledger("a").await;
    assert_eq!(
        (ledger.settled["refused"], ledger.delivered()),
        (40, sent.samples() - 40),
        "{:?}",
        relay.refused("a").await
    );
}

/// What arrives of a backlog within some seconds, at a target that takes 200 ms for each request.
async fn arrived_of_a_backlog(seed: u64, in_flight: &str) -> u64 {
    const TIME: Duration = Duration::from_secs(6);

    let mut random = fastrand::Rng::with_seed(seed);
    let strict = Strict::start(random.u64(..), Rules::default()).await;
    strict.sink.stop().await;
    let relay = config(&strict, &[in_flight, "max_samples_per_send = 4"]).start().await;
    let plan = Plan { upstreams: 24, pause: Duration::ZERO, ..Plan::SMALL };
    let sent = Upstreams::send_all(&relay.write_url(), &mut random, plan, 12).await;
    strict.change(|rules| rules.latency = Duration::from_millis(200));
    strict.sink.start_again().await;
    let start = Instant::now();
    while start.elapsed() < TIME && strict.seen().stored < sent.samples() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    strict.assert_in_order();
    strict.seen().requests
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_target_gets_a_backlog_much_faster_with_eight_requests_in_flight_than_with_one() {
    let seed = seed();
    let (one, eight) =
        tokio::join!(arrived_of_a_backlog(seed, "max_in_flight = 1"), arrived_of_a_backlog(seed, "max_in_flight = 8"));
    println!("{one} requests with one in flight, {eight} with eight");
    assert!(eight >= 2 * one, "V1-34, V2-82: {one} requests with one in flight, {eight} with eight");
}
