//! What a target gets is not what was received: relabeled, filtered, translated. Each series as the target knows it keeps its order, and
//! every sample is counted once.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::Duration;

use promrelay::protocol::messages::v2;
use prost::Message;

use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, numbered, snappy};
use support::sink::{Answer, Received, Sink};
use support::strict::{Rules, Strict, Trouble};
use support::upstreams::{Plan, Upstreams};
use support::watch::Watch;
use support::{client, eventually, seed};

const SOON: Duration = Duration::from_secs(60);
const FAST: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];

async fn relay_to(url: &str, lines: &[&str]) -> Relay {
    let lines = [&FAST[..], lines].concat();
    Config::new().wal("max_size = \"64MiB\"").target("a", url, &lines).start().await
}

async fn send(relay: &Relay, protocol: Protocol, request: Request) {
    let answer = request.post(protocol).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

fn of(series: &[&[(&str, &str)]], number: i64) -> Request {
    series
        .iter()
        .fold(Request::new(), |request, labels| request.series(labels, &[(FIRST_TIMESTAMP + number, number as f64)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_series_now_in_1_0_now_in_2_0_stays_in_order_whatever_the_target_takes() {
    // Upstreams send each series in both protocols in turn; eight requests may be in flight to a strict target.
    for line in ["protocol = \"1.0\"", "protocol = \"2.0\"", "protocol = \"auto\""] {
        let mut random = fastrand::Rng::with_seed(seed());
        let troubles = vec![(0.05, Trouble::Status(500)), (0.05, Trouble::HangUp)];
        let rules = Rules { jitter: Duration::from_millis(30), troubles, ..Rules::default() };
        let strict = Strict::start(random.u64(..), rules).await;
        let relay = relay_to(&strict.url(), &["max_in_flight = 8", "max_samples_per_send = 20", line]).await;
        let watch = Watch::start(&relay);
        let upstreams = Upstreams::start(&relay.write_url(), &mut random, Plan { upstreams: 12, ..Plan::SMALL });
        strict.sink.stop().await;
        upstreams.acknowledged(300).await;
        strict.sink.start_again().await;
        upstreams.acknowledged(100).await;
        let sent = upstreams.finish().await;
        strict.heal();
        relay.drained(SOON).await;
        watch.end().await;
        sent.assert_all_at(&strict);
        let ledger = relay.ledger("a").await;
        assert_eq!(ledger.delivered(), ledger.accepted, "{line}: {ledger:?}");
        let protocols: Vec<Protocol> = strict.sink.with_samples().iter().map(|request| request.protocol).collect();
        match line {
            // V2-58.
            "protocol = \"1.0\"" => assert!(protocols.iter().all(|protocol| *protocol == Protocol::V1)),
            "protocol = \"2.0\"" => assert!(protocols.iter().all(|protocol| *protocol == Protocol::V2)),
            _ => assert!(protocols.contains(&Protocol::V1) && protocols.contains(&Protocol::V2)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_inputs_that_a_rule_makes_one_stay_in_order_with_eight_requests_in_flight() {
    let mut random = fastrand::Rng::with_seed(seed());
    let rules =
        Rules { jitter: Duration::from_millis(40), troubles: vec![(0.05, Trouble::Status(500))], ..Rules::default() };
    let strict = Strict::start(random.u64(..), rules).await;
    strict.sink.stop().await;
    let rule = "write_relabel_configs = [{ action = \"labeldrop\", regex = \"replica\" }]";
    let relay = relay_to(&strict.url(), &["max_in_flight = 8", "max_samples_per_send = 3", rule]).await;
    for number in 0..300 {
        // What is one series at the target comes from two replicas in turn, each with others beside it.
        let (replica, beside) = if number % 2 == 0 { ("a", "x") } else { ("b", "y") };
        let series = [
            &[("__name__", "up"), ("job", "j"), ("replica", replica)][..],
            &[("__name__", "beside"), ("of", beside), ("replica", replica)],
        ];
        send(&relay, Protocol::ALL[number as usize % 2], of(&series, number)).await;
    }
    strict.sink.start_again().await;
    relay.drained(SOON).await;
    strict.assert_in_order();
    let stored = strict.stored();
    let values = |series: &str| stored[series].iter().map(|(_, value)| *value as i64).collect::<Vec<_>>();
    assert_eq!(values("up{job=\"j\"}"), (0..300).collect::<Vec<_>>());
    assert_eq!(stored.len(), 3, "{:?}", stored.keys());
}

#[tokio::test]
async fn rules_filter_rename_and_label_and_every_sample_is_counted_once() {
    let sink = Sink::start().await;
    let lines = [
        "external_labels = { cluster = \"eu\", job = \"none\" }",
        "write_relabel_configs = [\
            { source_labels = [\"__name__\"], regex = \"go_.*\", action = \"drop\" },\
            { source_labels = [\"instance\"], regex = \"([^:]+):.*\", target_label = \"host\", replacement = \"$1\" },\
            { regex = \"instance\", action = \"labeldrop\" }]",
    ];
    let relay = relay_to(&sink.url(), &lines).await;
    let watch = Watch::start(&relay);
    for number in 0..20 {
        let series = [
            &[("__name__", "up"), ("instance", "h:80"), ("job", "j")][..],
            &[("__name__", "go_threads"), ("instance", "h:80")],
            &[("__name__", "alone")],
        ];
        send(&relay, Protocol::ALL[number as usize % 2], of(&series, number)).await;
        // Nothing is left of this one.
        send(&relay, Protocol::ALL[number as usize % 2], of(&[&[("__name__", "go_gc")]], number)).await;
    }
    relay.drained(SOON).await;
    watch.end().await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.settled["filtered"], ledger.delivered(), ledger.accepted), (40, 40, 80));
    assert_eq!(sink.samples("up{cluster=\"eu\",host=\"h\",job=\"j\"}").len(), 20);
    assert_eq!(sink.samples("alone{cluster=\"eu\",job=\"none\"}").len(), 20);
    assert_eq!(sink.counts().samples, 40);
    assert!(
        sink.requests().iter().all(|request| !request.samples.is_empty()),
        "no empty requests for what is filtered"
    );
    sink.assert_strict();
}

#[tokio::test]
async fn a_target_that_does_not_take_2_0_gets_1_0_and_that_is_remembered() {
    let sink = Sink::start().await;
    // As VictoriaMetrics: 204 to everything, and nothing of 2.0 is stored.
    sink.script(|request| match request.protocol {
        Protocol::V1 => Answer::status(204),
        Protocol::V2 => Answer::status(204).storing(false).without_written(),
    });
    let mut relay = relay_to(&sink.url(), &[]).await;
    for number in 0..5 {
        numbered(Protocol::V2, "s", number).send(&client(), &relay.write_url()).await.unwrap();
    }
    relay.drained(SOON).await;
    assert_eq!(sink.samples("numbered{series=\"s\"}").len(), 5);
    assert!(sink.with_samples().iter().all(|request| request.protocol == Protocol::V1), "V2-37: no data was at stake");
    assert!(relay.log().contains("in the other protocol"), "{}", relay.log());
    assert_eq!(relay.status().await["targets"][0]["takes"], serde_json::json!({"1.0": true, "2.0": false}));
    let questions = sink.questions();
    relay.restart().await;
    numbered(Protocol::V2, "s", 5).send(&client(), &relay.write_url()).await.unwrap();
    relay.drained(SOON).await;
    assert_eq!(sink.samples("numbered{series=\"s\"}").len(), 6);
    assert_eq!(sink.questions(), questions, "it was remembered");
}

#[tokio::test]
async fn a_target_that_does_not_take_1_0_gets_2_0() {
    let sink = Sink::start().await;
    sink.script(|request| match request.protocol {
        Protocol::V1 => Answer::status(415).storing(false),
        Protocol::V2 => Answer::status(204),
    });
    let relay = relay_to(&sink.url(), &[]).await;
    for number in 0..5 {
        numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
    }
    relay.drained(SOON).await;
    // As a message of 2.0, compressed: V2-01, V2-04, V2-05, V2-06.
    assert_eq!(sink.samples("numbered{series=\"s\"}").len(), 5, "V2-48, V2-59");
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.delivered(), ledger.accepted), (5, 5));
}

#[tokio::test]
async fn what_was_refused_is_sent_again_in_the_protocol_that_the_target_takes() {
    let sink = Sink::start().await;
    sink.script(|request| match request.protocol {
        Protocol::V1 if request.samples.is_empty() => Answer::status(204),
        Protocol::V1 if request.number < 3 => Answer::status(400).storing(false),
        Protocol::V1 => Answer::status(204),
        Protocol::V2 => Answer::status(415).storing(false),
    });
    let lines = [&FAST[..]].concat();
    let relay = Config::new().server("admin = true").target("a", &sink.url(), &lines).start().await;
    numbered(Protocol::V2, "s", 0).send(&client(), &relay.write_url()).await.unwrap();
    relay.drained(SOON).await;
    assert_eq!(relay.ledger("a").await.settled["refused"], 1);
    sink.script(|request| match request.protocol {
        Protocol::V1 => Answer::status(204),
        Protocol::V2 => Answer::status(415).storing(false),
    });
    let resent = relay.ordered(&["dead-letter", "resend", "1", "--yes"]).await;
    println!("{resent:?}");
    assert_eq!(sink.samples("numbered{series=\"s\"}").len(), 1, "{resent:?}");
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.settled["refused"]), (2, 1, 1));
}

#[tokio::test]
async fn what_was_refused_is_kept_with_the_headers_of_its_data_and_not_of_what_was_filtered_before_it() {
    const TENANT: &str = "x-scope-orgid";

    let sink = Sink::start().await;
    let rule = "write_relabel_configs = [{ source_labels = [\"__name__\"], regex = \"secret\", action = \"drop\" }]";
    let config = Config::new().server("forward_headers = [\"X-Scope-OrgID\"]").server("admin = true");
    let relay = config.target("a", &sink.url(), &[&FAST[..], &[rule]].concat()).start().await;
    let send_as = async |tenant: &str, request: Request| {
        let post = request.post(Protocol::V2);
        let request = client().post(relay.write_url()).header(TENANT, tenant).header("content-encoding", "snappy");
        let request = request.header("content-type", post.protocol.content_type()).body(post.body);
        assert_eq!(request.send().await.unwrap().status(), 204);
    };
    send_as("bob", of(&[&[("__name__", "up")]], 0)).await;
    relay.drained(SOON).await;
    sink.stop().await;
    send_as("bob", of(&[&[("__name__", "up")]], 1)).await;
    relay.in_state("a", "backing_off", SOON).await;
    // Nothing is left of hers: it goes in his batch.
    send_as("alice", of(&[&[("__name__", "secret")]], 2)).await;
    send_as("bob", of(&[&[("__name__", "up")], &[("__name__", "down")]], 3)).await;
    sink.script_for_data(|request| match request.samples.len() {
        2 => Answer::status(400).keeping(vec![true, false]),
        _ => Answer::status(204),
    });
    sink.start_again().await;
    relay.drained(SOON).await;
    assert_eq!(relay.ledger("a").await.settled["refused"], 1);
    sink.script(|_| Answer::status(204));
    let before = sink.arrived();
    relay.ordered(&["dead-letter", "resend", "--target", "a", "--yes"]).await;
    let resent = &sink.requests()[before..];
    assert_eq!(resent.len(), 1);
    assert_eq!(resent[0].headers[TENANT], "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_which_nothing_is_left_is_booked_and_the_end_heard_while_it_is_read() {
    let sink = Sink::start().await;
    sink.stop().await;
    let mut relay = Config::new().wal("max_size = \"256MiB\"").target("a", &sink.url(), &FAST).start().await;
    let instances: Vec<String> = (0..2000).map(|number| format!("instance-{number}")).collect();
    let request = instances.iter().fold(Request::new(), |request, instance| {
        request.series(&[("__name__", "up"), ("instance", instance)], &[(FIRST_TIMESTAMP, 1.0)])
    });
    let post = request.post(Protocol::V1);
    for _ in 0..500 {
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.terminate().await;
    let rule = "write_relabel_configs = [{ source_labels = [\"__name__\"], regex = \"up\", action = \"drop\" }]";
    relay.config = relay.config.clone().target("b", &sink.url(), &["start_from = \"oldest\"", rule]);
    let (mut filtered, mut lives) = (0, 0);
    while filtered < 1_000_000 {
        relay.start().await;
        let booked = async || {
            let settled = relay.ledger("b").await.settled["filtered"];
            (settled >= (filtered + 100_000).min(1_000_000)).then_some(settled)
        };
        eventually("some of it is booked", SOON, booked).await;
        let target = relay.target("b").await;
        (filtered, lives) = (relay.ledger("b").await.settled["filtered"], lives + 1);
        if filtered < 1_000_000 {
            assert_eq!(target["state"], "sending", "after {filtered} of 1000000");
            assert!(target["lag_seconds"].as_f64().unwrap() > 0.0, "{target}");
        }
        let (status, took) = relay.terminate().await;
        // A debug build rewrites a million samples in three seconds.
        assert!(
            status.success() && took < Duration::from_millis(1500),
            "{status} after {took:?}: it is heard in between"
        );
    }
    println!("{lives} lives");
    assert_eq!(filtered, 1_000_000);
}

/// A request as Prometheus sends it: a sample, then an exemplar of its series and one of another series, each in a series of its own.
fn with_lone_exemplars(number: i64) -> Vec<u8> {
    let symbols = ["", "__name__", "up", "down"].map(str::to_owned).into();
    let timestamp = FIRST_TIMESTAMP + number;
    let samples = vec![v2::Sample { value: 1.0, timestamp, start_timestamp: 0 }];
    let exemplars = vec![v2::Exemplar { labels_refs: vec![], value: 1.0, timestamp }];
    let timeseries = vec![
        v2::TimeSeries { labels_refs: vec![1, 2], samples, ..Default::default() },
        v2::TimeSeries { labels_refs: vec![1, 2], exemplars: exemplars.clone(), ..Default::default() },
        v2::TimeSeries { labels_refs: vec![1, 3], exemplars, ..Default::default() },
    ];
    v2::Request { symbols, timeseries }.encode_to_vec()
}

fn message_of(request: &Received) -> v2::Request {
    v2::Request::decode(&*snap::raw::Decoder::new().decompress_vec(&request.body).unwrap()).unwrap()
}

const NO_LONE_EXEMPLARS: &str = "TimeSeries must contain at least one sample or histogram for series {__name__=\"up\"}";

fn sizes(request: &Received) -> Vec<[usize; 2]> {
    message_of(request).timeseries.iter().map(|series| [series.samples.len(), series.exemplars.len()]).collect()
}

async fn send_2(relay: &Relay, message: Vec<u8>) {
    let post = Post { protocol: Protocol::V2, body: snappy(&message) };
    assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    relay.drained(SOON).await;
}

/// To the end of the line.
fn left_out(exemplars: u64) -> String {
    format!("promrelay_target_untranslated_total{{target=\"a\",what=\"exemplar\"}} {exemplars}\n")
}

#[tokio::test]
async fn exemplars_are_attached_to_samples_for_a_target_that_refuses_series_of_nothing_else() {
    let sink = Sink::start().await;
    // As Prometheus since 3.8: the rest is kept.
    sink.script_for_data(|request| match sizes(request).iter().any(|[samples, _]| *samples == 0) {
        true => Answer::status(400).storing(true).body(NO_LONE_EXEMPLARS),
        false => Answer::status(204),
    });
    let relay = relay_to(&sink.url(), &["protocol = \"2.0\""]).await;
    for number in 1..=3 {
        send_2(&relay, with_lone_exemplars(number)).await;
    }
    let requests: Vec<_> = sink.with_samples().iter().map(|request| (request.status, sizes(request))).collect();
    let as_received = (Some(400), vec![[1, 0], [0, 1], [0, 1]]);
    let attached = (Some(204), vec![[1, 1]]);
    assert_eq!(requests, [as_received, attached.clone(), attached], "V2-63, V2-67: once, and all samples were kept");
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (3, 3), "{ledger:?}");
    let metrics = relay.metrics().await;
    assert!(metrics.contains(&left_out(4)), "two that the target refused, then those without a sample: {metrics}");
}

#[tokio::test]
async fn what_is_refused_as_a_whole_for_exemplars_alone_is_sent_again_without_them() {
    let sink = Sink::start().await;
    sink.script(|request| match sizes(request).iter().any(|[samples, _]| *samples == 0) {
        true => Answer::status(400).storing(false).without_written().body(NO_LONE_EXEMPLARS),
        false => Answer::status(204),
    });
    let relay = relay_to(&sink.url(), &["protocol = \"2.0\""]).await;
    let metric = "promrelay_target_requests_total{target=\"a\",code=\"400\"} 1\n";
    send(&relay, Protocol::V2, of(&[&[("__name__", "up")]], 0)).await;
    relay.drained(SOON).await;
    // An exemplar alone, before it is known: nothing can be sent, and it is no reason to refuse, to ask or to hold anything.
    let mut alone = v2::Request::decode(&*with_lone_exemplars(1)).unwrap();
    alone.timeseries.drain(..2);
    send_2(&relay, alone.encode_to_vec()).await;
    eventually("it was tried", SOON, async || relay.metrics().await.contains(metric).then_some(())).await;
    eventually("it is left out", SOON, async || relay.metrics().await.contains(&left_out(1)).then_some(())).await;
    for number in 1..=2 {
        send_2(&relay, with_lone_exemplars(number)).await;
    }
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (3, 3), "{ledger:?}");
    let metrics = relay.metrics().await;
    assert!(metrics.contains(metric) && metrics.contains(&left_out(3)), "{metrics}");
    assert_eq!(sink.with_samples().iter().map(sizes).collect::<Vec<_>>(), [vec![[1, 0]], vec![[1, 1]], vec![[1, 1]]]);
    relay.in_state("a", "caught_up", SOON).await;
    assert!(!relay.log().contains("refused samples for good"), "{}", relay.log());
}

#[tokio::test]
async fn what_was_refused_is_sent_again_without_the_exemplars_that_the_target_turned_out_to_refuse() {
    let sink = Sink::start().await;
    sink.script_for_data(|_| Answer::status(400).keeping(vec![false]).storing(true));
    let config = Config::new().server("admin = true");
    let relay = config.target("a", &sink.url(), &[&FAST[..], &["protocol = \"2.0\""]].concat()).start().await;
    send_2(&relay, with_lone_exemplars(1)).await;
    assert_eq!(relay.ledger("a").await.settled["refused"], 1);
    sink.script_for_data(|request| match sizes(request).iter().any(|[samples, _]| *samples == 0) {
        true => Answer::status(400).storing(true).body(NO_LONE_EXEMPLARS),
        false => Answer::status(204),
    });
    send_2(&relay, with_lone_exemplars(2)).await;
    let before = sink.arrived();
    relay.ordered(&["dead-letter", "resend", "1", "--yes"]).await;
    let resent: Vec<_> = sink.requests()[before..].iter().map(|request| (request.status, sizes(request))).collect();
    assert_eq!(resent, [(Some(204), vec![[1, 1]])]);
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.settled["refused"]), (3, 2, 1), "{ledger:?}");
}
