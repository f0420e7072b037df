//! What targets meet: the built relay against scripted receivers, and what its ledger says of it.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::{Duration, Instant};

use support::relay::{Config, Relay};
use support::request::{Protocol, Request, numbered};
use support::sink::{Answer, Sink};
use support::{client, eventually, ledger};

const SOON: Duration = Duration::from_secs(20);
/// One record, one request.
const FAST: &[&str] = &["max_backoff = \"100ms\"", "max_samples_per_send = 1", "max_in_flight = 1"];

async fn relay_to(sink: &Sink, lines: &[&str]) -> Relay {
    Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), lines).start().await
}

async fn send(relay: &Relay, protocol: Protocol, number: u64) {
    let answer = numbered(protocol, "s", number).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

/// The target's part of the status.
async fn target(relay: &Relay) -> serde_json::Value {
    relay.status().await["targets"][0].clone()
}

async fn in_state(relay: &Relay, state: &str) -> serde_json::Value {
    let probe = async || Some(target(relay).await).filter(|target| target["state"] == state);
    eventually(&format!("the target is {state}"), SOON, probe).await
}

#[tokio::test]
async fn what_is_worth_another_attempt_is_sent_again_with_the_same_bytes_until_it_is_taken() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, FAST).await;
    let answers = [500, 429, 503, 408, 425, 599]
        .map(|status| Answer::status(status).header("content-type", "text/html"))
        .into_iter();
    for answer in answers.chain([Answer::hang_up()]) {
        sink.push(answer);
    }
    for number in 1..=3 {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(SOON).await;
    let requests = sink.requests();
    assert_eq!(requests.len(), 10);
    assert!(requests[..8].iter().all(|request| request.body == requests[0].body), "V1-35, V2-52");
    assert_eq!(sink.samples("numbered{series=\"s\"}").len(), 3);
    sink.assert_strict();
    let metrics = relay.metrics().await;
    // Once it has taken something it is asked whether it takes an empty request.
    for (code, count) in [("429", 1), ("503", 1), ("other_4xx_5xx", 2), ("connection", 1), ("204", 4)] {
        let line = format!("promrelay_target_requests_total{{target=\"a\",code=\"{code}\"}} {count}");
        assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
    }
    let log = relay.log();
    assert_eq!(log.matches("the target does not take data now").count(), 1, "once when it begins: {log}");
    assert_eq!(log.matches("the target takes data again").count(), 1, "once when it ends: {log}");
}

#[tokio::test]
async fn retry_after_is_obeyed_clamped_and_not_believed_when_it_is_nonsense() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, &["max_backoff = \"50ms\"", "retry_after_max = \"2s\""]).await;
    sink.push(Answer::status(429).header("retry-after", "1"));
    sink.push(Answer::status(503).header("retry-after", "86400"));
    sink.push(Answer::status(503).header("retry-after", "-5"));
    sink.push(Answer::status(503).header("retry-after", "soon"));
    send(&relay, Protocol::V1, 1).await;
    let waiting = in_state(&relay, "backing_off").await;
    assert!(waiting["reason"].as_str().unwrap().starts_with("429 Too Many Requests"), "{waiting}");
    relay.drained(SOON).await;
    let at: Vec<Instant> = sink.requests().iter().map(|request| request.at).collect();
    let waits: Vec<f64> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!((1.0..8.0).contains(&waits[0]), "as asked: {waits:?}");
    assert!((2.0..15.0).contains(&waits[1]), "clamped: {waits:?}");
    assert!(waits[2] < 8.0 && waits[3] < 8.0, "nonsense: {waits:?}");
}

#[tokio::test]
async fn refusals_are_booked_logged_and_hold_up_nothing() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, FAST).await;
    for status in [400, 409, 413, 422] {
        sink.push(Answer::status(status).body("out of order sample"));
    }
    for number in 1..=6 {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(SOON).await;
    let target = target(&relay).await;
    assert_eq!(target["samples"]["refused"], 4, "V1-37");
    assert_eq!(target["samples"]["delivered"], 2);
    assert_eq!(sink.requests().len(), 6, "none was sent again");
    let metrics = relay.metrics().await;
    assert!(
        metrics.contains("promrelay_target_refused_samples_total{target=\"a\",reason=\"status\"} 4\n"),
        "{metrics}"
    );
    assert_eq!(relay.log().matches("the target refused samples for good").count(), 4);
    assert!(relay.log().contains("out of order sample"), "V1-32: the text is for the log");
}

#[tokio::test]
async fn partial_writes_of_2_0_are_booked_as_the_target_counts_them() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, FAST).await;
    let samples =
        |count: &str| Answer::status(204).without_written().header("x-prometheus-remote-write-samples-written", count);
    sink.push(samples("2"));
    sink.push(Answer::status(400).without_written().header("x-prometheus-remote-write-samples-written", "1"));
    for batch in 0..2 {
        let request = (1..=3).fold(Request::new(), |request, n| request.numbered("s", batch * 3 + n));
        assert_eq!(request.post(Protocol::V2).send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.drained(SOON).await;
    let target = target(&relay).await;
    assert_eq!((&target["samples"]["delivered"], &target["samples"]["refused"]), (&3.into(), &3.into()), "V2-40");
    assert_eq!(sink.requests().len(), 2, "nothing is resent");
    assert!(relay.metrics().await.contains("reason=\"partial\"} 3\n"));
}

#[tokio::test]
async fn answers_that_say_nothing_about_the_data_hold_the_target_and_lose_nothing() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink, FAST).await;
    for (number, (answer, reason)) in (1..).zip([
        (Answer::status(401), "401 Unauthorized"),
        (Answer::status(403), "403 Forbidden"),
        (Answer::status(404), "404 Not Found"),
        (Answer::status(302).header("location", "/elsewhere"), "302 Found (redirects are not followed"),
        (
            Answer::status(200).storing(false).header("content-type", "text/html; charset=utf-8"),
            "200 OK with a web page",
        ),
    ]) {
        let held = answer.clone();
        sink.script(move |_| held.clone());
        send(&relay, Protocol::V1, number).await;
        let target = in_state(&relay, "held").await;
        assert!(target["reason"].as_str().unwrap().starts_with(reason), "{target}");
        assert_eq!(target["pending"]["samples"], 1);
        assert!(target["since"].as_str().unwrap().ends_with('Z'));
        let gauge = "promrelay_target_state{target=\"a\",state=\"held\"} 1";
        assert!(relay.metrics().await.contains(gauge));
        sink.script(|_| Answer::status(204));
        relay.drained(SOON).await;
    }
    let ledger = &ledger::of_status(&relay.status().await)["a"];
    assert_eq!((ledger.accepted, ledger.delivered()), (5, 5));
    sink.assert_strict();
    assert!(sink.requests().iter().all(|request| request.path == "/api/v1/write"), "no redirect was followed");
}

#[tokio::test]
async fn a_target_that_takes_no_protocol_that_it_may_be_sent_is_held() {
    let held = async |status, protocol, lines: &[&str]| {
        let sink = Sink::start().await;
        sink.script(move |_| Answer::status(status).storing(false).without_written());
        let relay = relay_to(&sink, &[FAST, lines].concat()).await;
        send(&relay, protocol, 1).await;
        let target = in_state(&relay, "held").await;
        assert!(target["reason"].as_str().unwrap().contains("does not take"), "V2-37: {target}");
        assert_eq!(target["samples"]["pending"], 1);
    };
    for status in [204, 400, 415] {
        held(status, Protocol::V2, &["protocol = \"2.0\""]).await;
    }
    for protocol in Protocol::ALL {
        held(415, protocol, &[]).await;
    }
}

#[tokio::test]
async fn requests_go_to_the_whole_url_that_is_configured_as_the_user_that_it_names() {
    let sink = Sink::start().await;
    let url = format!("http://user:pass@{}/a/path/of?its=own", sink.address());
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", &url, FAST).start().await;
    for protocol in Protocol::ALL {
        send(&relay, protocol, 1).await;
        relay.drained(SOON).await;
    }
    let requests = sink.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        // The sink finds fault with all but POST.
        assert_eq!(request.path, "/a/path/of", "V1-02, V1-44, V2-07");
        assert_eq!(request.headers["authorization"], "Basic dXNlcjpwYXNz", "V1-48");
    }
    sink.assert_strict();
}

#[tokio::test]
async fn a_bad_target_slows_neither_upstreams_nor_other_targets() {
    let (good, slow) = (Sink::start().await, Sink::start().await);
    slow.script(|_| Answer::status(204).delay(Duration::from_secs(3)));
    let relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .target("good", &good.url(), &[])
        .target("slow", &slow.url(), &[])
        .target("nowhere", "http://127.0.0.1:9/", &[])
        .start()
        .await;
    let started = Instant::now();
    for number in 1..=50 {
        send(&relay, Protocol::V1, number).await;
    }
    good.stored(50, SOON).await;
    // The slow one takes 3 s for one of them.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(slow.arrived() <= 4, "the slow one is still at it");
    let ledgers = ledger::of_status(&relay.status().await);
    assert_eq!(ledgers["nowhere"].pending, 50);
    good.assert_strict();
}

#[tokio::test]
async fn a_new_target_begins_with_now_unless_it_is_told_to_begin_with_the_oldest() {
    let (first, second, third) = (Sink::start().await, Sink::start().await, Sink::start().await);
    let mut relay = relay_to(&first, FAST).await;
    for number in 1..=3 {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(SOON).await;
    relay.config = relay.config.clone().target("second", &second.url(), FAST).target(
        "third",
        &third.url(),
        &["start_from = \"oldest\""],
    );
    relay.restart().await;
    send(&relay, Protocol::V1, 4).await;
    relay.drained(SOON).await;
    assert_eq!(first.counts().samples, 4);
    assert_eq!(second.counts().samples, 1);
    assert_eq!(third.counts().samples, 4);
    let ledgers = ledger::of_status(&relay.status().await);
    assert_eq!([ledgers["a"].accepted, ledgers["second"].accepted, ledgers["third"].accepted], [4, 1, 4]);
}

#[tokio::test]
async fn a_target_taken_out_of_the_configuration_keeps_its_backlog_and_goes_on_when_it_is_back() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    let config = Config::new().wal("max_size = \"64MiB\"").target("a", &a.url(), FAST).target("b", &b.url(), FAST);
    let mut relay = config.clone().start().await;
    send(&relay, Protocol::V1, 1).await;
    relay.drained(SOON).await;
    relay.config = config.clone().without_target("b");
    relay.restart().await;
    for number in 2..=4 {
        send(&relay, Protocol::V1, number).await;
    }
    a.stored(4, SOON).await;
    let status = relay.status().await;
    assert_eq!((&status["targets"][1]["name"], &status["targets"][1]["state"]), (&"b".into(), &"orphan".into()));
    assert_eq!(status["targets"][1]["pending"]["samples"], 3);
    assert!(relay.log().contains("an orphan"));
    relay.config = config;
    relay.restart().await;
    b.stored(4, SOON).await;
    b.assert_strict();
}

#[tokio::test]
async fn in_a_full_log_an_orphans_backlog_is_given_up_counted_and_the_others_go_on() {
    let (a, b) = (Sink::start().await, Sink::start().await);
    let config = Config::new().wal("max_size = \"8MiB\"").target("a", &a.url(), FAST).target("b", &b.url(), FAST);
    let mut relay = config.clone().start().await;
    send(&relay, Protocol::V1, 1).await;
    relay.drained(SOON).await;
    relay.config = config.clone().without_target("b");
    relay.restart().await;
    // More than the log holds: only possible when the orphan gives up.
    let mut random = fastrand::Rng::new();
    let sent = 100u64;
    for number in 0..sent {
        let value = support::request::noise(&mut random, 200_000);
        let request = Request::new().series(&[("__name__", "a"), ("noise", &value)], &[(number as i64 + 1, 1.0)]);
        let post = request.post(Protocol::V1);
        let taken = async || (post.send(&client(), &relay.write_url()).await.unwrap().status() == 204).then_some(());
        eventually("room was made", SOON, taken).await;
    }
    a.stored(sent + 1, SOON).await;
    relay.config = config;
    relay.restart().await;
    relay.drained(SOON).await;
    let ledger = &ledger::of_status(&relay.status().await)["b"];
    assert_eq!(ledger.accepted, sent + 1);
    assert!(ledger.delivered() > 1 && ledger.delivered() < sent, "{}", ledger.delivered());
    assert_eq!(b.counts().samples, ledger.delivered());
    let status = relay.status().await;
    let of_b = status["targets"].as_array().unwrap().iter().find(|target| target["name"] == "b").unwrap();
    assert_eq!(of_b["samples"]["dropped"].as_u64().unwrap() + ledger.delivered(), sent + 1, "{of_b}");
    a.assert_strict();
    b.assert_strict();
}

#[tokio::test]
async fn a_lost_savepoint_means_everything_that_is_in_the_log_and_not_now() {
    let sink = Sink::start().await;
    let mut relay = relay_to(&sink, FAST).await;
    for number in 1..=3 {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(SOON).await;
    let (status, _) = relay.terminate().await;
    assert!(status.success());
    std::fs::remove_file(relay.wal_dir().join("savepoints/a.sp")).unwrap();
    relay.start().await;
    sink.stored(6, SOON).await;
    assert!(relay.log().contains("the savepoint is lost"));
    assert_eq!(sink.counts().repeated, 3);
}

#[tokio::test]
async fn the_end_comes_within_two_seconds_whatever_targets_and_clients_do() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(204).delay(Duration::from_secs(60)));
    let mut relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .target("hangs", &sink.url(), &[])
        .target("nowhere", "http://127.0.0.1:9/", &[])
        .start()
        .await;
    send(&relay, Protocol::V1, 1).await;
    eventually("the request is in flight", SOON, async || (sink.arrived() == 1).then_some(())).await;
    // A client in the middle of a body, and one that only looks.
    let mut half = std::net::TcpStream::connect(relay.address()).unwrap();
    std::io::Write::write_all(&mut half, b"POST /write HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc").unwrap();
    let _idle = std::net::TcpStream::connect(relay.address()).unwrap();
    let (status, took) = relay.terminate().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(took > Duration::from_millis(1400), "the target had its grace: {took:?}");
}
