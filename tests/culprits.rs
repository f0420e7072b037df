//! A target refuses a request for good: only what it will never take is given up, and it is counted; all the rest arrives. And a target
//! that refuses everything is not believed before it has shown that it is sane.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Protocol, Request, noise};
use support::sink::{Answer, Sink};
use support::strict::{Rules, Strict, Trouble};
use support::watch::Watch;
use support::{client, eventually};

const SOON: Duration = Duration::from_secs(60);
const FAST: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];

async fn relay_to(url: &str, lines: &[&str]) -> Relay {
    Config::new()
        .server("admin = true")
        .wal("max_size = \"256MiB\"")
        .target("a", url, &[&FAST[..], lines].concat())
        .start()
        .await
}

async fn send(relay: &Relay, protocol: Protocol, request: &Request) {
    assert_eq!(request.post(protocol).send(&client(), &relay.write_url()).await.unwrap().status(), 204);
}

/// One sample, the `number`th, of each of these series.
fn scrape(series: std::ops::Range<usize>, number: u64) -> Request {
    series.fold(Request::new(), |request, series| request.numbered(&series.to_string(), number))
}

fn name(series: usize) -> String {
    format!("numbered{{series=\"{series}\"}}")
}

/// Delivered and refused; nothing else may have happened.
async fn delivered_and_refused(relay: &Relay) -> (u64, u64) {
    let ledger = relay.ledger("a").await;
    assert_eq!(ledger.accepted, ledger.delivered() + ledger.settled["refused"], "{ledger:?}");
    (ledger.delivered(), ledger.settled["refused"])
}

async fn strict(rules: Rules) -> Strict {
    Strict::start(1, rules).await
}

fn cursed(series: impl IntoIterator<Item = usize>) -> Rules {
    Rules { cursed: series.into_iter().map(|series| format!("series=\"{series}\"")).collect(), ..Rules::default() }
}

fn reasons(reasons: &[(&str, u64)]) -> BTreeMap<String, u64> {
    reasons.iter().map(|(reason, count)| (reason.to_string(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_series_with_one_that_is_refused_499_arrive() {
    let target = strict(cursed([321])).await;
    let relay = relay_to(&target.url(), &[]).await;
    send(&relay, Protocol::V1, &scrape(0..500, 1)).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (499, 1));
    assert_eq!(relay.refused("a").await, reasons(&[("status", 1)]));
    let stored = target.stored();
    assert_eq!(stored.len(), 499);
    assert!(!stored.contains_key(&*name(321)));
    // Halving needs two requests a level, and the level of all.
    assert!(target.seen().requests <= 2 * 10 + 1, "{:?}", target.seen());
    target.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_culprits_in_a_request_are_found_each() {
    let target = strict(cursed([0, 77, 78, 499])).await;
    let relay = relay_to(&target.url(), &[]).await;
    send(&relay, Protocol::V1, &scrape(0..500, 1)).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (496, 4));
    assert_eq!(relay.refused("a").await, reasons(&[("status", 4)]));
    assert_eq!(target.stored().len(), 496);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_series_that_comes_twice_with_other_values_the_first_is_taken() {
    let target = strict(Rules::default()).await;
    let relay = relay_to(&target.url(), &[]).await;
    let labels = [("__name__", "twice")];
    let first = scrape(0..20, 1).series(&labels, &[(FIRST_TIMESTAMP, 1.0)]);
    let request = scrape(20..40, 1).series(&labels, &[(FIRST_TIMESTAMP, 2.0)]);
    send(&relay, Protocol::V1, &first).await;
    send(&relay, Protocol::V1, &request).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (41, 1));
    assert_eq!(target.stored()["twice"], [(FIRST_TIMESTAMP, 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2_0_target_names_the_number_of_culprits_itself() {
    let target = strict(cursed([321])).await;
    let relay = relay_to(&target.url(), &[]).await;
    send(&relay, Protocol::V2, &scrape(0..500, 1)).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (499, 1));
    assert_eq!(relay.refused("a").await, reasons(&[("partial", 1)]));
    assert_eq!(target.seen().requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_culprit_in_a_merged_backlog_costs_its_own_samples_only() {
    let target = strict(cursed([7])).await;
    target.sink.stop().await;
    let relay = relay_to(&target.url(), &[]).await;
    let watch = Watch::start(&relay);
    for number in 0..50 {
        // The culprit is in one of them.
        let series = if number == 30 { 0..20 } else { 10..30 };
        send(&relay, Protocol::V1, &scrape(series, number)).await;
    }
    target.sink.start_again().await;
    relay.drained(SOON).await;
    watch.end().await;
    assert_eq!(delivered_and_refused(&relay).await, (50 * 20 - 1, 1));
    assert_eq!(relay.refused("a").await, reasons(&[("status", 1)]));
    target.assert_in_order();
    let largest = target.sink.requests().iter().map(|request| request.samples.len()).max().unwrap();
    assert!(largest > 20, "V2-39: records were merged");
    assert!(target.seen().requests < 50, "{:?}", target.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_refused_in_every_scrape_does_not_split_every_request_for_ever() {
    const SCRAPES: u64 = 60;

    let target = strict(cursed([13])).await;
    let relay = relay_to(&target.url(), &[]).await;
    for number in 0..SCRAPES {
        send(&relay, Protocol::V1, &scrape(0..64, number)).await;
        relay.drained(SOON).await;
    }
    assert_eq!(delivered_and_refused(&relay).await, (SCRAPES * 63, SCRAPES));
    target.assert_in_order();
    let seen = target.seen();
    assert!(seen.requests < SCRAPES * 4 + 30, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_upstreams_with_the_same_series_the_first_wins_at_little_cost() {
    const SCRAPES: u64 = 30;
    const SERIES: u64 = 20;

    let target = strict(Rules::default()).await;
    let relay = relay_to(&target.url(), &[]).await;
    let scrape = |number: u64, value: f64| {
        (0..SERIES).fold(Request::new(), |request, series| {
            let labels = [("__name__", "pair"), ("series", &*series.to_string())];
            request.series(&labels, &[(FIRST_TIMESTAMP + number as i64, value)])
        })
    };
    for number in 0..SCRAPES {
        for value in [1.0, 2.0] {
            send(&relay, Protocol::V1, &scrape(number, value)).await;
            relay.drained(SOON).await;
        }
    }
    assert_eq!(delivered_and_refused(&relay).await, (SCRAPES * SERIES, SCRAPES * SERIES));
    target.assert_in_order();
    assert!(target.stored().values().flatten().all(|(_, value)| *value == 1.0));
    // To split each of the second one's requests to the series takes 40.
    println!("{:?}", target.seen());
    assert!(target.seen().requests < SCRAPES * 45, "{:?}", target.seen());
}

/// One series with a label that does not compress.
fn with_noise(request: Request, series: &str, bytes: usize) -> Request {
    let noise = noise(&mut fastrand::Rng::new(), bytes);
    request.series(&[("__name__", "noise"), ("series", series), ("noise", &noise)], &[(FIRST_TIMESTAMP, 1.0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_64_kib_is_learned_and_costs_nothing() {
    let target = strict(Rules { bytes_max: Some(64 << 10), ..Rules::default() }).await;
    let relay = relay_to(&target.url(), &[]).await;
    for round in 0..2 {
        target.sink.stop().await;
        for number in 0..60 {
            let request = with_noise(scrape(0..10, round * 60 + number), &format!("{round}-{number}"), 8_000);
            send(&relay, Protocol::V1, &request).await;
        }
        target.sink.start_again().await;
        relay.drained(SOON).await;
        println!("round {round}: {:?}", target.seen());
    }
    assert_eq!(delivered_and_refused(&relay).await, (2 * 60 * 11, 0));
    target.assert_in_order();
    let seen = target.seen();
    assert!(seen.too_large <= 24, "{seen:?}");
    assert!(seen.requests - seen.too_large < 120, "some were merged: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_beyond_the_limit_is_sent_in_parts_and_only_a_sample_that_is_too_large_alone_is_refused() {
    for protocol in Protocol::ALL {
        let target = strict(Rules { bytes_max: Some(64 << 10), ..Rules::default() }).await;
        let relay = relay_to(&target.url(), &[]).await;
        let request = (0..20).fold(Request::new(), |request, n| with_noise(request, &n.to_string(), 10_000));
        send(&relay, protocol, &with_noise(request, "huge", 100_000)).await;
        send(&relay, protocol, &scrape(0..10, 1)).await;
        relay.drained(SOON).await;
        assert_eq!(delivered_and_refused(&relay).await, (30, 1), "{protocol:?}");
        assert_eq!(relay.refused("a").await, reasons(&[("status", 1)]));
        let stored: BTreeSet<_> = target.stored().into_keys().collect();
        assert_eq!(stored.len(), 30);
        assert!(!stored.iter().any(|series| series.contains("huge")));
    }
}

/// A target answers 400 to everything, empty requests with it, and is mended later.
async fn refuses_everything_for_a_while(protocol: Protocol, took_something_before: bool) {
    let sink = Sink::start().await;
    let relay = relay_to(&sink.url(), &["suspect_after = \"1s\""]).await;
    let mut number = 0;
    if took_something_before {
        send(&relay, protocol, &scrape(0..5, number)).await;
        number += 1;
        relay.drained(SOON).await;
        // Asked once after its first success, or a refusal of everything would have to be believed.
        eventually("the target is asked with an empty request", Duration::from_secs(10), async || {
            (sink.questions() > 0).then_some(())
        })
        .await;
    }
    sink.script(|_| Answer::status(400).without_written().body("a proxy that knows nothing"));
    for _ in 0..40 {
        send(&relay, protocol, &scrape(0..5, number)).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let watch = Watch::start(&relay);
    match protocol {
        Protocol::V1 => relay.in_state("a", "suspect", SOON).await,
        // Or it is taken for one that does not speak 2.0.
        Protocol::V2 => serde_json::Value::Null,
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.ledger("a").await.settled["refused"], 0);
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    watch.end().await;
    assert_eq!(delivered_and_refused(&relay).await, (5 * number, 0));
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_everything_even_nothing_gets_everything_when_it_is_sane() {
    refuses_everything_for_a_while(Protocol::V1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_begins_to_refuse_everything_even_nothing_gets_everything_when_it_is_sane_again() {
    refuses_everything_for_a_while(Protocol::V1, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2_0_target_that_refuses_everything_even_nothing_gets_everything_when_it_is_sane_again() {
    tokio::join!(
        refuses_everything_for_a_while(Protocol::V2, false),
        refuses_everything_for_a_while(Protocol::V2, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rightly_too_old_for_a_sane_target_is_refused_and_the_rest_arrives() {
    let target = strict(Rules { oldest: Some(FIRST_TIMESTAMP + 30), ..Rules::default() }).await;
    target.sink.stop().await;
    let relay = relay_to(&target.url(), &["suspect_after = \"500ms\"", "max_samples_per_send = 20"]).await;
    let watch = Watch::start(&relay);
    for number in 0..40 {
        send(&relay, Protocol::V1, &scrape(0..10, number)).await;
    }
    target.sink.start_again().await;
    relay.drained(SOON).await;
    watch.end().await;
    assert_eq!(delivered_and_refused(&relay).await, (100, 300));
    // The first ones are taken apart in vain, and not all of them to the end.
    assert!(relay.refused("a").await.keys().all(|reason| reason == "status" || reason == "unsplit"));
    let expected: Vec<_> = (30..40).map(|number| (FIRST_TIMESTAMP + number, number as f64)).collect();
    let stored = target.stored();
    assert_eq!(stored.len(), 10);
    assert!(stored.values().all(|samples| *samples == expected), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_target_is_believed_when_an_operator_says_so() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink.url(), &["suspect_after = \"500ms\""]).await;
    sink.script(|_| Answer::status(422).without_written());
    for number in 0..10 {
        send(&relay, Protocol::V1, &scrape(0..3, number)).await;
    }
    relay.in_state("a", "suspect", SOON).await;
    let reason = relay.status().await["targets"][0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "it refuses all data, and empty requests too: 422 Unprocessable Entity");
    relay.ordered(&["target", "accept-refusals", "a"]).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (0, 30));
    sink.script(|_| Answer::status(204));
    send(&relay, Protocol::V1, &scrape(0..3, 10)).await;
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (3, 30));
}

/// A target fails so for whatever has one series in it; nothing else is wrong with it.
async fn fails_for_one_series(answer: Answer) {
    let sink = Sink::start().await;
    let poison = name(7);
    sink.script_for_data(move |request| match request.samples.iter().any(|sample| *sample.series == *poison) {
        true => answer.clone(),
        false => Answer::status(204),
    });
    let relay = relay_to(&sink.url(), &["poison_after = \"2s\""]).await;
    let watch = Watch::start(&relay);
    send(&relay, Protocol::V1, &scrape(0..20, 0)).await;
    for number in 1..20 {
        send(&relay, Protocol::V1, &scrape(10..20, number)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sink.stored(19 + 19 * 10, SOON).await;
    relay.drained(SOON).await;
    watch.end().await;
    assert_eq!(delivered_and_refused(&relay).await, (19 + 19 * 10, 1));
    assert_eq!(relay.refused("a").await, reasons(&[("poison", 1)]));
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_the_target_fails_for_stops_no_other_and_is_given_up_in_the_end() {
    fails_for_one_series(Answer::status(503)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_put_off_for_ever_stops_no_other_and_is_given_up_in_the_end() {
    fails_for_one_series(Answer::status(429)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_kills_the_target_stops_no_other_and_is_given_up_in_the_end() {
    fails_for_one_series(Answer::hang_up()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_locked_out_stops_no_other_and_is_delivered_again_when_it_is_let_in() {
    const TENANT: &str = "x-scope-orgid";

    let sink = Sink::start().await;
    sink.script(|request| match request.headers.get(TENANT).is_some_and(|tenant| tenant == "locked") {
        true => Answer::status(401),
        false => Answer::status(204),
    });
    let relay = Config::new()
        .server("forward_headers = [\"X-Scope-OrgID\"]")
        .wal("max_size = \"256MiB\"")
        .target("a", &sink.url(), &[FAST[0], FAST[1], "poison_after = \"2s\""])
        .start()
        .await;
    let send_as = async |tenant: &str, series: &str, number: u64| {
        let post = Request::new().numbered(series, number).post(Protocol::V1);
        let request = client().post(relay.write_url()).header(TENANT, tenant).header("content-encoding", "snappy");
        let request = request.header("content-type", post.protocol.content_type()).body(post.body);
        assert_eq!(request.send().await.unwrap().status(), 204);
    };
    send_as("locked", "theirs", 0).await;
    // It is tried slowly, each time that others have passed.
    let mut number = 0;
    let given_up = async || {
        send_as("open", "ours", number).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (relay.refused("a").await == reasons(&[("poison", 1)])).then_some(())
    };
    eventually("it is given up", 2 * SOON, given_up).await;
    relay.drained(SOON).await;
    assert_eq!(sink.samples("numbered{series=\"ours\"}").len() as u64, number);
    // What comes later has one attempt.
    send_as("locked", "theirs", 1).await;
    relay.drained(SOON).await;
    assert_eq!(relay.refused("a").await, reasons(&[("poison", 2)]));
    sink.script(|_| Answer::status(204));
    for number in 2..4 {
        send_as("locked", "theirs", number).await;
    }
    relay.drained(SOON).await;
    assert_eq!(sink.samples("numbered{series=\"theirs\"}").len(), 2);
    assert_eq!(relay.refused("a").await, reasons(&[("poison", 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_for_everything_has_no_poison() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink.url(), &["poison_after = \"500ms\""]).await;
    sink.script(|_| Answer::status(503));
    for number in 0..10 {
        send(&relay, Protocol::V1, &scrape(0..10, number)).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(delivered_and_pending(&relay).await, (0, 100));
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert_eq!(delivered_and_refused(&relay).await, (100, 0));
    sink.assert_strict();
}

async fn delivered_and_pending(relay: &Relay) -> (u64, u64) {
    let ledger = relay.ledger("a").await;
    (ledger.delivered(), ledger.pending)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_without_an_answer_and_is_then_refused_as_known_is_no_reason_for_suspicion() {
    let target = strict(Rules { latency: Duration::from_secs(1), ..Rules::default() }).await;
    let relay = relay_to(&target.url(), &["suspect_after = \"500ms\"", "max_in_flight = 1"]).await;
    // While this one is in flight others come, and are merged.
    send(&relay, Protocol::V1, &scrape(100..101, 0)).await;
    eventually("a request is in flight", SOON, async || (target.seen().requests == 1).then_some(())).await;
    target.change(|rules| (rules.latency, rules.troubles) = (Duration::ZERO, vec![(1.0, Trouble::HangUpAfter)]));
    for number in 0..2 {
        send(&relay, Protocol::V1, &scrape(0..10, number)).await;
    }
    eventually("it is stored", SOON, async || (target.seen().stored == 21).then_some(())).await;
    target.heal();
    // Two samples of each series are in one batch: sent again, the older one is out of order.
    for number in 2..5 {
        send(&relay, Protocol::V1, &scrape(0..10, number)).await;
    }
    relay.drained(SOON).await;
    assert_eq!(target.stored().values().map(Vec::len).sum::<usize>(), 51);
    target.assert_in_order();
    let (delivered, refused) = delivered_and_refused(&relay).await;
    assert!(delivered >= 31 && refused <= 20, "{delivered} delivered, {:?}", relay.refused("a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_more_holes_than_a_savepoint_has_ranges_reading_stops_and_goes_on_when_they_are_gone() {
    /// Of them a savepoint has room for 64.
    const HOLES: u64 = 100;
    const OTHERS: u64 = 16 * 330;

    let sink = Sink::start().await;
    let poison = name(7);
    sink.script_for_data(move |request| match request.samples.iter().any(|sample| *sample.series == *poison) {
        true => Answer::status(503),
        false => Answer::status(204),
    });
    let relay = relay_to(&sink.url(), &["poison_after = \"10m\"", "max_samples_per_send = 300"]).await;
    send(&relay, Protocol::V1, &scrape(7..8, 0)).await;
    // Of each second one something waits for the poison: these are holes between the others.
    for hole in 0..HOLES {
        let first = Request::new().numbered("7", 1 + hole);
        send(&relay, Protocol::V1, &first.numbered(&format!("beside {hole}"), 0)).await;
        send(&relay, Protocol::V1, &Request::new().numbered(&format!("between {hole}"), 0)).await;
    }
    sink.stored(2 * HOLES, SOON).await;
    let mut senders = tokio::task::JoinSet::new();
    for series in 10..26 {
        let url = relay.write_url();
        senders.spawn(async move {
            for number in 0..OTHERS / 16 {
                let post = scrape(series..series + 1, number).post(Protocol::V1);
                assert_eq!(post.send(&client(), &url).await.unwrap().status(), 204);
            }
        });
    }
    senders.join_all().await;
    // What is settled and has no place in the savepoint is in memory alone: no more than this, and what was on its way.
    let (mut before, mut stored) = (0, sink.counts().samples);
    while before != stored {
        tokio::time::sleep(Duration::from_secs(2)).await;
        (before, stored) = (stored, sink.counts().samples);
    }
    assert!((3500..5000).contains(&stored), "{stored}");
    sink.script(|_| Answer::status(204));
    relay.drained(2 * SOON).await;
    let all = 1 + 3 * HOLES + OTHERS;
    assert_eq!(delivered_and_refused(&relay).await, (all, 0));
    assert_eq!((sink.counts().samples, sink.counts().repeated), (all, 0));
    sink.assert_strict();
}
