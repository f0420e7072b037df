//! What a target's answer means: each line of the table of outcomes, in both versions of remote write. What arrives again, what is booked
//! where, and what status and metrics say meanwhile.
//!
//! A line of the table is tried with a target for each status, all of them of one relay.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use support::relay::{Config, Relay};
use support::request::{Protocol, Request, numbered};
use support::sink::{Answer, Sink};
use support::strict::{Limit, Rules, Strict, Trouble};
use support::upstreams::{Plan, Upstreams};
use support::{client, eventually, seed};

const SOON: Duration = Duration::from_secs(30);
const FAST: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];
const WRITTEN: &str = "x-prometheus-remote-write-samples-written";
const VERSION: &str = "x-prometheus-remote-write-version";

async fn send(relay: &Relay, protocol: Protocol, number: u64) {
    let answer = numbered(protocol, "s", number).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

/// Numbers `first..=last` of one series in one request.
async fn send_many(relay: &Relay, protocol: Protocol, first: u64, last: u64) {
    let request = (first..=last).fold(Request::new(), |request, number| request.numbered("s", number));
    assert_eq!(request.post(protocol).send(&client(), &relay.write_url()).await.unwrap().status(), 204);
}

/// The numbers that a target has, in order of arrival.
fn stored(sink: &Sink) -> Vec<u64> {
    sink.samples("numbered{series=\"s\"}").into_iter().map(|(_, value)| value as u64).collect()
}

/// Targets of one relay, each under the name of what it is about.
struct Targets {
    relay: Relay,
    sinks: Vec<(String, Sink)>,
}

impl Targets {
    async fn start<T: ToString>(about: impl IntoIterator<Item = T>, lines: &[&str]) -> Targets {
        let mut config = Config::new().wal("max_size = \"64MiB\"");
        let mut sinks = Vec::new();
        for about in about {
            let (name, sink) = (about.to_string(), Sink::start().await);
            config = config.target(&name, &sink.url(), lines);
            sinks.push((name, sink));
        }
        Targets { relay: config.start().await, sinks }
    }
}

async fn one_target(lines: &[&str]) -> (Relay, Sink) {
    let Targets { relay, mut sinks } = Targets::start(["a"], lines).await;
    (relay, sinks.remove(0).1)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_2xx_delivers() {
    let codes = [200u16, 201, 202, 204, 299];
    let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
    for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
        // V1-14, V2-26: whatever the text says.
        sink.script(move |_| Answer::status(code).body("error: nothing was stored"));
    }
    for number in 0..4 {
        send(&relay, Protocol::ALL[number as usize % 2], number).await;
    }
    relay.drained(SOON).await;
    for (name, sink) in &sinks {
        let ledger = relay.ledger(name).await;
        assert_eq!((ledger.accepted, ledger.delivered()), (4, 4), "{name}");
        assert_eq!(stored(sink), [0, 1, 2, 3], "{name}");
        sink.assert_strict();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_later_is_sent_again_with_the_same_bytes_until_it_is_taken() {
    let codes = [408u16, 425, 429, 500, 502, 503, 504, 529, 599];
    for protocol in Protocol::ALL {
        let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
        for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
            sink.script(move |_| Answer::status(code));
        }
        send(&relay, protocol, 1).await;
        for (code, (name, sink)) in codes.into_iter().zip(&sinks) {
            let target = relay.in_state(name, "backing_off", SOON).await;
            assert_eq!(target["last_status"], code);
            assert!(target["reason"].as_str().unwrap().starts_with(&code.to_string()), "{target}");
            assert_eq!(target["samples"]["pending"], 1);
            eventually("it is tried again", SOON, async || (sink.with_samples().len() > 3).then_some(())).await;
            sink.script(|_| Answer::status(204));
        }
        relay.drained(SOON).await;
        for (name, sink) in &sinks {
            let ledger = relay.ledger(name).await;
            assert_eq!((ledger.accepted, ledger.delivered()), (1, 1), "{name}");
            let requests = sink.with_samples();
            assert!(requests.iter().all(|request| request.body == requests[0].body), "{name}: V1-35, V1-38, V2-52");
            assert_eq!(stored(sink), [1], "{name}");
            relay.in_state(name, "caught_up", SOON).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_same_bytes_are_sent_again() {
    let Targets { relay, sinks } =
        Targets::start(["connection", "timeout"], &["max_backoff = \"100ms\"", "remote_timeout = \"400ms\""]).await;
    let late = Answer::status(204).delay(Duration::from_secs(2));
    sinks[0].1.answer_data_in_turn([Answer::hang_up(), Answer::hang_up().storing(true)]);
    sinks[1].1.answer_data_in_turn([late.clone().storing(false), late]);
    send(&relay, Protocol::V1, 1).await;
    relay.drained(SOON).await;
    for ((name, sink), code) in sinks.iter().zip(["connection", "timeout"]) {
        assert_eq!(relay.ledger(name).await.delivered(), 1, "{name}: the data was stored twice, the sample is one");
        assert!(relay.attempts(name, code).await >= 2, "{name}");
        assert_eq!(stored(sink), [1, 1], "{name}");
        let requests = sink.with_samples();
        assert!(requests.iter().all(|request| request.body == requests[0].body), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_about_the_data_holds_the_target_and_loses_nothing() {
    let codes = [300u16, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 406, 407, 410, 418, 421, 431, 451];
    for protocol in Protocol::ALL {
        let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
        for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
            sink.script(move |_| Answer::status(code).header("location", "/elsewhere"));
        }
        send(&relay, protocol, 1).await;
        send(&relay, protocol, 2).await;
        for (code, (name, _)) in codes.into_iter().zip(&sinks) {
            let target = relay.in_state(name, "held", SOON).await;
            assert!(target["reason"].as_str().unwrap().starts_with(&code.to_string()), "{target}");
            assert_eq!((&target["last_status"], &target["samples"]["pending"]), (&code.into(), &2.into()), "{target}");
            assert!(target["since"].as_str().unwrap().ends_with('Z'));
        }
        for (name, sink) in &sinks {
            sink.script(|_| Answer::status(204));
            assert!(sink.requests().iter().all(|request| request.path == "/api/v1/write"), "{name} was not redirected");
        }
        relay.drained(SOON).await;
        for (name, sink) in &sinks {
            assert_eq!(relay.ledger(name).await.delivered(), 2, "{name}");
            assert_eq!(stored(sink), [1, 2], "{name}: V1-37 and V2-46, and why it is not as they say");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_target_is_tried_slowly() {
    let (relay, sink) = one_target(&["min_backoff = \"1ms\"", "max_backoff = \"5ms\""]).await;
    sink.script(|_| Answer::status(401));
    send(&relay, Protocol::V1, 1).await;
    relay.in_state("a", "held", SOON).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = sink.arrived() + sink.questions();
    assert!(requests <= 20, "{requests} requests in three seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_is_no_delivery() {
    for protocol in Protocol::ALL {
        let (relay, sink) = one_target(&FAST).await;
        sink.script(|_| {
            Answer::status(200).storing(false).header("content-type", "Text/HTML; charset=utf-8").body("<html>")
        });
        send(&relay, protocol, 1).await;
        let target = relay.in_state("a", "held", SOON).await;
        assert_eq!((&target["last_status"], &target["samples"]["pending"]), (&200.into(), &1.into()));
        sink.script(|_| Answer::status(204));
        relay.drained(SOON).await;
        assert_eq!((relay.ledger("a").await.delivered(), stored(&sink)), (1, vec![1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_never_to_a_single_sample_refuses_it_and_the_rest_goes_on() {
    let codes = [400u16, 409, 422];
    let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
    for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
        sink.script_for_data(move |request| match request.samples.iter().any(|sample| sample.value == 2.0) {
            true => Answer::status(code).body("no such sample, please"),
            false => Answer::status(204),
        });
    }
    for number in 1..=4 {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(SOON).await;
    for (name, sink) in &sinks {
        let ledger = relay.ledger(name).await;
        assert_eq!((ledger.delivered(), ledger.settled["refused"]), (3, 1), "{name}: V1-37");
        assert_eq!(relay.refused(name).await, [("status".to_owned(), 1)].into());
        assert_eq!(stored(sink), [1, 3, 4], "{name}");
    }
    assert!(relay.log().contains("no such sample, please"), "V1-32: the text is for the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2_0_target_that_counts_less_than_it_was_sent_has_refused_the_rest_and_is_not_sent_it_again() {
    let codes = [200u16, 204, 400];
    let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
    for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
        // V2-30: its counts are believed, not its text.
        let answer = Answer::status(code).keeping(vec![true, false, true]).body("all of it is out of order");
        sink.answer_data_in_turn([answer]);
    }
    send_many(&relay, Protocol::V2, 0, 2).await;
    send_many(&relay, Protocol::V2, 10, 12).await;
    relay.drained(SOON).await;
    for (name, sink) in &sinks {
        let ledger = relay.ledger(name).await;
        assert_eq!((ledger.delivered(), ledger.settled["refused"]), (5, 1), "{name}: V2-36, V2-38, V2-40");
        assert_eq!(relay.refused(name).await, [("partial".to_owned(), 1)].into());
        assert_eq!(sink.with_samples().len(), 2, "{name}: nothing is sent again");
        assert_eq!(stored(sink), [0, 2, 10, 11, 12], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_a_2_0_target_leaves_out_is_unknown_and_not_0() {
    let (relay, sink) = one_target(&FAST).await;
    // Of histograms only: there are none. And one that is no number (V2-32).
    let answer = Answer::status(204).without_written().header("x-prometheus-remote-write-histograms-written", "0");
    sink.answer_data_in_turn([answer.clone(), answer.header(WRITTEN, "1, 2")]);
    send_many(&relay, Protocol::V2, 1, 3).await;
    relay.drained(SOON).await;
    send_many(&relay, Protocol::V2, 4, 6).await;
    relay.drained(SOON).await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.delivered(), ledger.settled["refused"]), (6, 0), "V2-38");
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_1_0_request_the_counts_of_2_0_mean_nothing() {
    let (relay, sink) = one_target(&FAST).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    sink.script(move |request| {
        notes.lock().unwrap().push((request.protocol, request.samples.is_empty()));
        let answer = Answer::status(204);
        if request.protocol == Protocol::V1 { answer.header(WRITTEN, "0").header(VERSION, "2.0.0") } else { answer }
    });
    send_many(&relay, Protocol::V1, 1, 3).await;
    relay.drained(SOON).await;
    assert_eq!(relay.ledger("a").await.delivered(), 3, "V2-34");
    // Nor do they, or the version header, say that it takes 2.0: an empty request asks first.
    send_many(&relay, Protocol::V2, 4, 6).await;
    relay.drained(SOON).await;
    let first_of_2 = seen.lock().unwrap().iter().find(|(protocol, _)| *protocol == Protocol::V2).copied();
    assert_eq!(first_of_2, Some((Protocol::V2, true)), "V1-18, V2-35");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_neither_version_is_held_and_loses_nothing() {
    let codes = [200u16, 415];
    let Targets { relay, sinks } = Targets::start(codes, &FAST).await;
    for (code, (_, sink)) in codes.into_iter().zip(&sinks) {
        sink.script(move |request| match request.protocol {
            Protocol::V1 => Answer::status(415),
            Protocol::V2 => Answer::status(code).storing(false).without_written(),
        });
    }
    send(&relay, Protocol::V2, 1).await;
    for (name, sink) in &sinks {
        assert_eq!(relay.in_state(name, "held", SOON).await["samples"]["pending"], 1);
        sink.script(|_| Answer::status(204));
    }
    relay.drained(SOON).await;
    for (name, sink) in &sinks {
        assert_eq!((relay.ledger(name).await.delivered(), stored(sink)), (1, vec![1]), "{name}");
    }
}

/// How long the target was left alone after a first answer with this header; `number` requests are waiting meanwhile.
async fn pause_after(status: u16, retry_after: &str, lines: &[&str], number: u64) -> Duration {
    let (relay, sink) = one_target(lines).await;
    sink.push(Answer::status(status).header("retry-after", retry_after));
    // All are there before the first answer, so that there is something to be sent in the pause.
    for number in 1..=number {
        send(&relay, Protocol::V1, number).await;
    }
    relay.drained(Duration::from_secs(60)).await;
    assert_eq!(relay.ledger("a").await.delivered(), number);
    let at: Vec<Instant> = sink.requests().iter().map(|request| request.at).collect();
    at[1] - at[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_in_seconds_is_obeyed_by_the_whole_target() {
    let (after_429, after_503) = tokio::join!(pause_after(429, "2", &FAST, 20), pause_after(503, "2", &FAST, 20));
    for pause in [after_429, after_503] {
        assert!(pause >= Duration::from_secs(2) && pause < Duration::from_secs(20), "V2-53: {pause:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_as_a_date_is_obeyed() {
    // Whole seconds: up to one is cut off.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(5));
    let pause = pause_after(503, &date, &FAST, 1).await;
    // The relay took its time to start.
    assert!(pause >= Duration::from_millis(1500) && pause < Duration::from_secs(20), "V2-53: {pause:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_that_is_absurd_is_cut() {
    let limited = [FAST[0], FAST[1], "retry_after_max = \"1s\""];
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(864_000));
    for absurd in ["99999999", "99999999999999999999999999", &date] {
        let pause = pause_after(429, absurd, &limited, 1).await;
        assert!(pause >= Duration::from_secs(1) && pause < Duration::from_secs(20), "{absurd}: {pause:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_that_is_nonsense_or_past_is_as_if_it_were_not_there() {
    for nonsense in ["-5", "soon", "0", "1.5", "", "Fri, 31 Jan 2020 10:00:00 GMT"] {
        let pause = pause_after(503, nonsense, &FAST, 1).await;
        assert!(pause < Duration::from_secs(10), "{nonsense:?}: {pause:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_trouble_goes_alone() {
    let sink = Sink::start().await;
    let lines = [FAST[0], FAST[1], "max_in_flight = 8", "max_samples_per_send = 1"];
    let relay = Config::new().target("a", &sink.url(), &lines).start().await;
    sink.script(|_| Answer::status(503));
    for series in 0..40 {
        let post = numbered(Protocol::V1, &series.to_string(), 1);
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.in_state("a", "backing_off", SOON).await;
    let before = sink.arrived();
    sink.script(|_| Answer::status(204).delay(Duration::from_millis(300)));
    relay.drained(SOON).await;
    let at: Vec<Instant> = sink.requests()[before..].iter().map(|request| request.at).collect();
    assert!(at[1] - at[0] >= Duration::from_millis(290), "another one came {:?} after the first", at[1] - at[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_target_with_a_backlog_is_tried_by_one_request_at_a_time() {
    let sink = Sink::start().await;
    let lines = ["min_backoff = \"100ms\"", "max_backoff = \"200ms\"", "max_in_flight = 8", "max_samples_per_send = 1"];
    let relay = Config::new().target("a", &sink.url(), &lines).start().await;
    sink.script(|_| Answer::status(503));
    for series in 0..40 {
        let post = numbered(Protocol::V1, &series.to_string(), 1);
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.in_state("a", "backing_off", SOON).await;
    let all = || sink.arrived() + sink.questions();
    let before = all();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Half of a pause may be taken off by chance.
    let attempts = all() - before;
    assert!((3..=40).contains(&attempts), "V1-36, V2-52: {attempts} attempts in three seconds");
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_limit_gets_everything_and_is_not_hammered() {
    for retry_after in [None, Some("1")] {
        let limit = Some(Limit { samples_per_second: 400.0, retry_after });
        let target = Strict::start(1, Rules { limit, ..Rules::default() }).await;
        target.sink.stop().await;
        let lines = ["max_in_flight = 8", "max_samples_per_send = 40"];
        let relay = Config::new().target("a", &target.url(), &lines).start().await;
        let plan = Plan { series: 10, pause: Duration::ZERO, ..Plan::SMALL };
        let sent = Upstreams::send_all(&relay.write_url(), &mut fastrand::Rng::with_seed(1), plan, 30).await;
        target.sink.start_again().await;
        relay.drained(SOON).await;
        sent.assert_all_at(&target);
        let seen = target.seen();
        println!("{retry_after:?}: {seen:?}");
        assert!(seen.limited <= 60, "{seen:?}");
        let ledger = relay.ledger("a").await;
        assert_eq!((ledger.accepted, ledger.delivered()), (1800, 1800));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn now_and_then_a_429_with_no_limit_behind_it_does_not_stop_the_flow() {
    let mut random = fastrand::Rng::with_seed(seed());
    let rules = Rules { troubles: vec![(0.05, Trouble::Status(429))], ..Rules::default() };
    let target = Strict::start(random.u64(..), rules).await;
    target.sink.stop().await;
    let relay =
        Config::new().target("a", &target.url(), &[FAST[0], FAST[1], "max_samples_per_send = 40"]).start().await;
    let plan = Plan { series: 10, pause: Duration::ZERO, ..Plan::SMALL };
    let sent = Upstreams::send_all(&relay.write_url(), &mut random, plan, 60).await;
    target.sink.start_again().await;
    relay.drained(SOON).await;
    sent.assert_all_at(&target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_gets_through_a_slow_link_whatever_the_time_out() {
    let sink = Sink::start().await;
    sink.stop().await;
    // 200 KB/s: a record takes a tenth of a second, a merged batch much longer than the time-out.
    sink.script(|request| Answer::status(204).delay(Duration::from_micros(request.body.len() as u64 * 5)));
    let relay = Config::new().target("a", &sink.url(), &[FAST[0], FAST[1], "remote_timeout = \"1s\""]).start().await;
    let mut random = fastrand::Rng::with_seed(1);
    let plan = Plan { upstreams: 1, noise: 20_000, pause: Duration::ZERO, ..Plan::SMALL };
    let sent = Upstreams::send_all(&relay.write_url(), &mut random, plan, 50).await;
    sink.start_again().await;
    relay.drained(Duration::from_secs(60)).await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (sent.samples(), sent.samples()));
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_the_age_of_what_waits_and_nothing_when_nothing_waits() {
    let sink = Sink::start().await;
    let relay = Config::new().target("a", &sink.url(), &FAST).start().await;
    let lag = async || relay.target("a").await["lag_seconds"].as_f64().unwrap();
    assert_eq!(lag().await, 0.0);
    sink.stop().await;
    send(&relay, Protocol::V1, 1).await;
    eventually("the lag grows though the target was never reached", SOON, async || (lag().await > 1.5).then_some(()))
        .await;
    send(&relay, Protocol::V1, 2).await;
    assert!(lag().await > 1.5, "what is new does not hide what is old");
    sink.start_again().await;
    relay.drained(SOON).await;
    assert_eq!(lag().await, 0.0);
}
