//! The judges are judged: what the other tests rely on notices what it is there to notice.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::Duration;

use promrelay::protocol::messages::v1;
use prost::Message;

use support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise, numbered, snappy, snappy_literal};
use support::sink::{Answer, Counts, Sink};
use support::strict::{Limit, Rules, Strict, Trouble};
use support::upstreams::{Plan, Sent, Upstreams};
use support::{client, ledger};

const NUMBERED: &str = "numbered{series=\"a\"}";

#[test]
fn a_metric_is_read_with_its_labels() {
    let text = "# HELP a b\n# TYPE a counter\na 1\nb_total{target=\"x, \\\"y\\\"\",outcome=\"lost\"} 2.5 1700\n";
    let metrics = ledger::parse(text);
    assert_eq!((metrics[0].name.as_str(), metrics[0].value, metrics[0].labels.len()), ("a", 1.0, 0));
    assert_eq!((metrics[1].name.as_str(), metrics[1].value), ("b_total", 2.5));
    assert_eq!(metrics[1].labels["target"], "x, \"y\"");
    assert_eq!(metrics[1].labels["outcome"], "lost");
}

fn metrics_of(accepted: u64, settled: [u64; 6], pending: u64) -> String {
    let mut text = format!("promrelay_target_pending_samples{{target=\"a\"}} {pending}\n");
    for (outcome, sum) in ledger::OUTCOMES.into_iter().zip(settled).chain([("accepted", accepted)]) {
        text += &format!("promrelay_target_samples_total{{target=\"a\",outcome=\"{outcome}\"}} {sum}\n");
    }
    text
}

#[test]
fn a_ledger_that_adds_up_is_fine() {
    let ledgers = ledger::of_metrics(&metrics_of(22, [5, 1, 2, 3, 4, 6], 1));
    assert_eq!((ledgers["a"].accepted, ledgers["a"].delivered(), ledgers["a"].pending), (22, 5, 1));
}

#[test]
#[should_panic(expected = "does not add up")]
fn a_sample_that_is_nowhere_is_noticed() {
    ledger::of_metrics(&metrics_of(8, [5, 1, 0, 0, 0, 0], 1));
}

#[test]
#[should_panic(expected = "delivered shrank")]
fn a_sum_that_shrinks_is_noticed() {
    let before = &ledger::of_metrics(&metrics_of(8, [5, 1, 0, 0, 0, 0], 2))["a"];
    ledger::of_metrics(&metrics_of(8, [4, 1, 0, 0, 0, 0], 3))["a"].assert_grown_from(before, "a");
}

#[test]
fn a_literal_body_is_valid_snappy_of_the_same_message() {
    let mut random = fastrand::Rng::with_seed(1);
    for len in [0, 1, 127, 128, 65_535, 65_536, 65_537, 200_000] {
        let message = noise(&mut random, len).into_bytes();
        let body = snappy_literal(&message);
        assert_eq!(snap::raw::Decoder::new().decompress_vec(&body).unwrap(), message);
    }
}

#[tokio::test]
async fn the_sink_stores_both_versions_of_a_request_and_answers_2_0_with_counts() {
    let (sink, client) = (Sink::start().await, client());
    let request = Request::new().numbered("a", 1).series(&[("__name__", "b"), ("x", "y")], &[(1, 2.5), (2, 3.5)]);
    for (protocol, written) in [(Protocol::V1, None), (Protocol::V2, Some(["3", "0", "0"]))] {
        for post in [request.post(protocol), request.literal_post(protocol)] {
            let answer = post.send(&client, &sink.url()).await.unwrap();
            assert_eq!(answer.status(), 204);
            for (at, kind) in ["samples", "histograms", "exemplars"].iter().enumerate() {
                let header = answer.headers().get(format!("x-prometheus-remote-write-{kind}-written"));
                assert_eq!(header.map(|value| value.to_str().unwrap()), written.map(|written| written[at]));
            }
        }
    }
    assert_eq!(sink.samples(NUMBERED), [(FIRST_TIMESTAMP + 1, 1.0); 4]);
    assert_eq!(sink.counts(), Counts { samples: 12, repeated: 9, ..Counts::default() });
    sink.assert_strict();
}

#[tokio::test]
async fn the_sink_tells_repeated_conflicting_and_late_samples_apart() {
    let (sink, client) = (Sink::start().await, client());
    let labels = [("__name__", "a")];
    for (timestamp, value) in [(10, 1.0), (20, 2.0), (10, 1.0), (20, 3.0), (15, 1.0), (30, 1.0)] {
        let post = Request::new().series(&labels, &[(timestamp, value)]).post(Protocol::V1);
        assert_eq!(post.send(&client, &sink.url()).await.unwrap().status(), 204);
    }
    assert_eq!(sink.counts(), Counts { samples: 6, repeated: 1, conflicting: 1, out_of_order: 1 });
    let copies: Vec<u32> = sink.requests().iter().map(|request| request.samples[0].copies).collect();
    assert_eq!(copies, [0, 0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn the_sink_answers_what_no_sender_may_send_with_an_error() {
    let (sink, client) = (Sink::start().await, client());
    let label = |name: &str, value: &str| v1::Label { name: name.into(), value: value.into() };
    let labelled = |labels: Vec<v1::Label>| {
        let series = v1::TimeSeries { labels, ..Default::default() };
        snappy(&v1::WriteRequest { timeseries: vec![series], metadata: vec![] }.encode_to_vec())
    };
    let bodies = [
        (Protocol::V1, labelled(vec![label("b", "1"), label("__name__", "x")])),
        (Protocol::V1, labelled(vec![label("__name__", "x"), label("b", "1"), label("b", "1")])),
        (Protocol::V1, labelled(vec![label("__name__", "x"), label("b", "")])),
        (Protocol::V1, labelled(vec![label("b", "1")])),
        (Protocol::V1, b"no snappy"[..].into()),
        (Protocol::V1, snappy(b"no message")),
        (Protocol::V2, snappy(&[0x22, 1, b'a'])),
        (Protocol::V2, snappy(&[0x22, 0, 0x22, 0])),
        (Protocol::V2, snappy(&[0x22, 0, 0x2a, 4, 0x0a, 2, 0, 9])),
        (Protocol::V2, snappy(&[0x22, 0, 0x2a, 3, 0x0a, 1, 0])),
    ];
    let faulty = bodies.len();
    for (protocol, body) in bodies {
        let answer = Post { protocol, body }.send(&client, &sink.url()).await.unwrap();
        assert_eq!(answer.status(), 400);
    }
    let bare = client.post(sink.url()).header("content-encoding", "snappy").send().await.unwrap();
    assert_eq!(bare.status(), 400);
    assert_eq!(sink.faults().len(), faulty + 1, "{:#?}", sink.faults());
    assert_eq!((sink.arrived(), sink.counts()), (0, Counts::default()));
}

#[tokio::test]
async fn the_sink_answers_as_it_is_told_stops_and_starts_again() {
    let (sink, client) = (Sink::start().await, client());
    sink.script(|request| if request.number == 0 { Answer::status(429) } else { Answer::status(200) });
    sink.push(Answer::status(503).header("retry-after", "7").body("later").delay(Duration::from_millis(50)));
    sink.push(Answer::hang_up().storing(true));
    let send = async |number| numbered(Protocol::V1, "a", number).send(&client, &sink.url()).await;
    let answer = send(1).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"7".try_into().unwrap()));
    assert_eq!(answer.text().await.unwrap(), "later");
    assert!(send(1).await.is_err(), "hung up");
    assert_eq!(send(2).await.unwrap().status(), 200);
    sink.stop().await;
    assert!(send(3).await.unwrap_err().is_connect(), "stopped");
    sink.start_again().await;
    assert_eq!(send(4).await.unwrap().status(), 200);
    let stored: Vec<f64> = sink.samples(NUMBERED).into_iter().map(|(_, value)| value).collect();
    assert_eq!((stored, sink.arrived(), sink.unused_answers()), (vec![1.0, 2.0, 4.0], 4, 0));
}

/// The status of a request with these samples of series `s` and of others, and how many samples the answer says were written.
async fn to_strict(strict: &Strict, protocol: Protocol, samples: &[(&str, i64, f64)]) -> (u16, Option<String>) {
    let add = |request: Request, (name, time, value): &(&str, i64, f64)| {
        request.series(&[("__name__", *name)], &[(*time, *value)])
    };
    let post = samples.iter().fold(Request::new(), add).post(protocol);
    let answer = post.send(&client(), &strict.url()).await.unwrap();
    let written = answer.headers().get("x-prometheus-remote-write-samples-written");
    (answer.status().as_u16(), written.map(|value| value.to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn a_strict_target_takes_of_a_1_0_request_all_or_nothing() {
    let strict = Strict::start(1, Rules { cursed: vec!["bad".into()], ..Rules::default() }).await;
    let one = async |samples: &[(&str, i64, f64)]| to_strict(&strict, Protocol::V1, samples).await.0;
    assert_eq!(one(&[("s", 10, 1.0), ("s", 20, 2.0)]).await, 204);
    assert_eq!(one(&[("s", 20, 2.0)]).await, 204, "the newest once more");
    assert_eq!(one(&[("t", 10, 1.0), ("s", 20, 3.0)]).await, 400, "another value");
    assert_eq!(one(&[("t", 10, 1.0), ("s", 10, 1.0)]).await, 400, "known, and older");
    assert_eq!(one(&[("t", 10, 1.0), ("s", 30, 1.0), ("bad", 1, 1.0)]).await, 400, "cursed");
    assert_eq!(one(&[]).await, 204, "an empty request");
    strict.assert_in_order();
    assert_eq!(strict.stored(), [("s".into(), vec![(10, 1.0), (20, 2.0)])].into());
    let seen = strict.seen();
    assert_eq!((seen.requests, seen.stored, seen.repeated, seen.refused_requests), (5, 2, 1, 3));
}

#[tokio::test]
async fn a_strict_target_takes_what_is_good_of_a_2_0_request_and_counts_it() {
    let strict = Strict::start(1, Rules { oldest: Some(5), ..Rules::default() }).await;
    let two = async |samples: &[(&str, i64, f64)]| to_strict(&strict, Protocol::V2, samples).await;
    assert_eq!(two(&[("s", 10, 1.0), ("t", 4, 1.0), ("t", 5, 1.0)]).await, (400, Some("2".into())));
    assert_eq!(two(&[("s", 10, 1.0), ("t", 6, 1.0)]).await, (204, Some("2".into())));
    assert_eq!(two(&[]).await, (204, Some("0".into())));
    assert_eq!(strict.stored(), [("s".into(), vec![(10, 1.0)]), ("t".into(), vec![(5, 1.0), (6, 1.0)])].into());
    assert_eq!((strict.sink.counts().samples, strict.sink.counts().repeated), (4, 1));
}

#[tokio::test]
#[should_panic(expected = "out of order")]
async fn a_strict_target_notices_a_sample_that_comes_behind_a_newer_one() {
    let strict = Strict::start(1, Rules::default()).await;
    assert_eq!(to_strict(&strict, Protocol::V1, &[("s", 20, 1.0)]).await.0, 204);
    assert_eq!(to_strict(&strict, Protocol::V1, &[("s", 10, 1.0)]).await.0, 400);
    strict.assert_in_order();
}

#[tokio::test]
async fn a_strict_target_has_limits_and_troubles() {
    let limit = Some(Limit { samples_per_second: 0.001, retry_after: Some("7") });
    let strict = Strict::start(1, Rules { bytes_max: Some(100), limit, ..Rules::default() }).await;
    assert_eq!(to_strict(&strict, Protocol::V1, &[("s", 1, 1.0)]).await.0, 429);
    let noise = noise(&mut fastrand::Rng::new(), 200);
    strict.change(|rules| rules.limit = None);
    assert_eq!(to_strict(&strict, Protocol::V1, &[(&noise, 1, 1.0)]).await.0, 413);
    strict.change(|rules| rules.troubles = vec![(1.0, Trouble::HangUpAfter)]);
    let post = Request::new().series(&[("__name__", "s")], &[(1, 1.0)]).post(Protocol::V1);
    assert!(post.send(&client(), &strict.url()).await.is_err());
    assert_eq!(strict.stored(), [("s".into(), vec![(1, 1.0)])].into());
    strict.heal();
    assert_eq!(to_strict(&strict, Protocol::V1, &[("s", 1, 1.0)]).await.0, 204);
    let seen = strict.seen();
    assert_eq!((seen.stored, seen.repeated, seen.limited, seen.too_large), (1, 1, 1, 1));
}

#[tokio::test]
async fn what_is_missing_at_a_target_is_named() {
    let strict = Strict::start(1, Rules::default()).await;
    let plan = Plan { upstreams: 2, series: 1, samples: 2, pause: Duration::ZERO, noise: 10 };
    let sent = Upstreams::send_all(&strict.url(), &mut fastrand::Rng::with_seed(1), plan, 3).await;
    assert_eq!((sent.samples(), sent.unanswered), (2 * 3 * 3, 0));
    sent.assert_all_at(&strict);
    let more = Sent { acknowledged: vec![3, 4], ..sent };
    assert_eq!(more.missing(&strict), [("numbered{series=\"1-0\"}".to_owned(), vec![6, 7])].into());
}
