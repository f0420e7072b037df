//! A target that fails does not fill the disk with lines about it: each trouble is told when it begins and when it ends.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::Duration;

use support::relay::{Config, Relay};
use support::request::{Protocol, Request, numbered};
use support::sink::{Answer, Sink};
use support::{client, eventually};

const SOON: Duration = Duration::from_secs(30);
/// Fails often, so that a short test is like a long outage.
const OFTEN: [&str; 3] = ["min_backoff = \"1ms\"", "max_backoff = \"5ms\"", "retry_after_max = \"5ms\""];

async fn relay_to(sink: &Sink, lines: &[&str]) -> Relay {
    Config::new().wal("max_size = \"64MiB\"").target("noisy", &sink.url(), &[&OFTEN[..], lines].concat()).start().await
}

async fn send(relay: &Relay, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
}

/// Lines at `info` and above that name the target, and do not just come from a start.
fn lines(relay: &Relay) -> Vec<String> {
    let log = relay.log();
    log.lines().filter(|line| line.contains("noisy")).map(str::to_owned).collect()
}

/// Until there were so many attempts.
async fn attempts(sink: &Sink, more: usize) {
    let enough = sink.arrived() + more;
    eventually("it is tried often", SOON, async || (sink.arrived() >= enough).then_some(())).await;
}

fn assert_told_once(relay: &Relay, text: &str) {
    let lines = lines(relay);
    assert_eq!(lines.iter().filter(|line| line.contains(text)).count(), 1, "{text}: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_many_attempts_is_told_when_it_begins_and_when_it_ends() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(503));
    let relay = relay_to(&sink, &[]).await;
    send(&relay, 0..10).await;
    attempts(&sink, 300).await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert_told_once(&relay, "the target does not take data now");
    assert_told_once(&relay, "the target takes data again");
    assert!(lines(&relay).len() < 20, "{:#?}", lines(&relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_many_kinds_in_turn_are_one_outage() {
    let sink = Sink::start().await;
    let mut number = 0;
    sink.script(move |_| {
        number += 1;
        match number % 5 {
            0 => Answer::hang_up(),
            1 => Answer::status(500),
            2 => Answer::status(429).header("retry-after", "1"),
            3 => Answer::status(502).body(&format!("a text that differs each time: {number}")),
            _ => Answer::status(503),
        }
    });
    let relay = relay_to(&sink, &[]).await;
    send(&relay, 0..10).await;
    attempts(&sink, 300).await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert!(lines(&relay).len() < 20, "{:#?}", lines(&relay));
    assert_told_once(&relay, "the target does not take data now");
    assert_told_once(&relay, "the target takes data again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_held_is_told_when_it_begins_and_when_it_ends() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(401));
    let relay = relay_to(&sink, &[]).await;
    send(&relay, 0..10).await;
    relay.in_state("noisy", "held", SOON).await;
    attempts(&sink, 2).await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert!(lines(&relay).len() < 20, "{:#?}", lines(&relay));
    assert_told_once(&relay, "the target is held");
    assert_told_once(&relay, "the target takes data again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_and_comes_back_is_told_twice() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, &[]).await;
    send(&relay, 0..1).await;
    relay.drained(SOON).await;
    sink.stop().await;
    send(&relay, 1..20).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    sink.start_again().await;
    relay.drained(SOON).await;
    assert!(lines(&relay).len() < 20, "{:#?}", lines(&relay));
    assert_told_once(&relay, "the target does not take data now");
    assert_told_once(&relay, "the target takes data again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_everything_is_told_when_it_becomes_suspect() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(400).body("who are you?"));
    let relay = relay_to(&sink, &["suspect_after = \"500ms\""]).await;
    send(&relay, 0..50).await;
    relay.in_state("noisy", "suspect", SOON).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    assert!(lines(&relay).len() < 20, "{:#?}", lines(&relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_refused_in_every_scrape_does_not_fill_the_log() {
    let sink = Sink::start().await;
    sink.script_for_data(|request| match request.samples.iter().any(|sample| sample.series.contains("\"7\"")) {
        true => Answer::status(409).body("duplicate sample for timestamp"),
        false => Answer::status(204),
    });
    let relay = relay_to(&sink, &[]).await;
    for number in 0..100 {
        let request = (0..16).fold(Request::new(), |request, series| request.numbered(&series.to_string(), number));
        let answer = request.post(Protocol::V1).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    relay.drained(SOON).await;
    assert_eq!(relay.ledger("noisy").await.settled["refused"], 100);
    // One for each event, and none for what it takes to find the culprit.
    assert!(lines(&relay).len() <= 110, "{} lines", lines(&relay).len());
    assert!(relay.log().contains("duplicate sample for timestamp"), "the target's text is told");
}
