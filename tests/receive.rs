//! What upstreams meet: the built relay over HTTP, answer by answer.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use promrelay::protocol::messages::{v1, v2};
use prost::Message;

use support::relay::{Config, Relay};
use support::request::{Post, Protocol, Request, noise, numbered, snappy};
use support::sink::{Answer, Sink};
use support::{client, eventually, ledger};

const SOON: Duration = Duration::from_secs(20);
/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9/api/v1/write";

async fn relay() -> Relay {
    Config::new().wal("max_size = \"64MiB\"").target("a", NOWHERE, &[]).start().await
}

/// Sends raw bytes as one request's body, with these headers.
async fn post(url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, reqwest::header::HeaderMap, String) {
    let mut request = client().post(url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.text().await.unwrap())
}

fn written(headers: &reqwest::header::HeaderMap) -> Vec<Option<String>> {
    ["samples", "histograms", "exemplars"]
        .iter()
        .map(|what| headers.get(format!("x-prometheus-remote-write-{what}-written")))
        .map(|value| value.map(|value| value.to_str().unwrap().to_owned()))
        .collect()
}

fn counts(samples: u32) -> Vec<Option<String>> {
    [samples, 0, 0].map(|count| Some(count.to_string())).into()
}

#[tokio::test]
async fn every_path_that_users_have_in_their_configurations_takes_both_protocols() {
    let relay = relay().await;
    let paths = ["/api/v1/write", "/api/v1/push", "/api/prom/push", "/api/v1/receive", "/receive", "/write"];
    for (number, path) in (0..).zip(paths) {
        for protocol in [Protocol::V1, Protocol::V2] {
            let answer = numbered(protocol, path, number).send(&client(), &relay.url(path)).await.unwrap();
            assert_eq!(answer.status(), 204, "{path}: V1-03, V2-03, V2-04, V2-08");
            // V2-31 on 2.0; on 1.0 they would make Prometheus report losses that are none.
            let expected = if protocol == Protocol::V2 { counts(1) } else { vec![None; 3] };
            assert_eq!(written(answer.headers()), expected);
            assert_eq!(answer.text().await.unwrap(), "", "V1-13, V2-25");
        }
        assert_eq!(client().get(relay.url(path)).send().await.unwrap().status(), 405);
    }
    let ledger = &ledger::of_status(&relay.status().await)["a"];
    assert_eq!((ledger.accepted, ledger.pending), (12, 12));
}

#[tokio::test]
async fn what_is_not_understood_is_answered_with_its_own_status_and_a_text_that_helps() {
    let relay = Config::new()
        .server("max_body = \"64KiB\"")
        .server("max_decoded = \"128KiB\"")
        .wal("max_size = \"64MiB\"")
        .target("a", NOWHERE, &[])
        .start()
        .await;
    let url = relay.write_url();
    let one = ("content-type", "application/x-protobuf");
    let two = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");
    let good = Request::new().numbered("s", 1).encode(Protocol::V1);
    let large =
        Request::new().series(&[("__name__", "a"), ("b", &noise(&mut fastrand::Rng::new(), 70_000))], &[(1, 1.0)]);
    let wide = Request::new().series(&[("__name__", "a"), ("b", &"x".repeat(200_000))], &[(1, 1.0)]);
    let nameless = Request::new().series(&[("job", "a")], &[(1, 1.0)]);
    for (headers, body, status, text) in [
        (
            vec![("content-type", "text/plain")],
            snappy(&good).to_vec(),
            415,
            "Content-Type \"text/plain\" is not supported: send",
        ),
        (
            vec![one, ("content-encoding", "zstd")],
            good.clone(),
            415,
            "Content-Encoding \"zstd\" is not supported: send \"snappy\"",
        ),
        (vec![one], good, 400, "the body is not snappy"),
        (vec![one], b"\xff\x06\x00\x00sNaPpY".to_vec(), 400, "framed format"),
        (vec![one], vec![], 400, "the body is empty"),
        (
            vec![one],
            b"\xff\xff\xff\xff\x0f".to_vec(),
            413,
            "the decompressed body is larger than 131072 bytes (server.max_decoded)",
        ),
        (vec![one], b"\xff\xff\x01z".to_vec(), 400, "cannot hold"),
        (vec![one], snappy(&[0x0a, 99]).to_vec(), 400, "at byte 2 of the decompressed message"),
        (vec![two], snappy(&[0x22, 99]).to_vec(), 400, "io.prometheus.write.v2.Request (remote write 2.0)"),
        (
            vec![one],
            large.post(Protocol::V1).body.to_vec(),
            413,
            "the body is larger than 65536 bytes (server.max_body)",
        ),
        (vec![one], wide.post(Protocol::V1).body.to_vec(), 413, "server.max_decoded"),
        (
            vec![one],
            nameless.post(Protocol::V1).body.to_vec(),
            400,
            "1 invalid series: series 0, {job=\"a\"}: no metric name (__name__)",
        ),
        (
            vec![two],
            nameless.post(Protocol::V2).body.to_vec(),
            400,
            "nothing was stored; rejected: 1 sample in 1 invalid series",
        ),
    ] {
        let (got, answer_headers, got_text) = post(&url, &headers, body).await;
        // Compressed first, then the message: V2-01, V2-05.
        assert_eq!(got, status, "{text}: {got_text}");
        assert!(got_text.contains(text), "{text:?} is not in {got_text:?}");
        assert!(!answer_headers.contains_key("retry-after"));
        let expected = if headers.contains(&two) { counts(0) } else { vec![None; 3] };
        assert_eq!(written(&answer_headers), expected, "V2-31: {text}");
    }
    let ledger = &ledger::of_status(&relay.status().await)["a"];
    assert_eq!(ledger.accepted, 0, "nothing of all this was stored");
    let metrics = relay.metrics().await;
    for line in [
        "promrelay_receive_requests_total{protocol=\"none\",code=\"415\"} 2",
        "promrelay_receive_requests_total{protocol=\"2.0\",code=\"400\"} 2",
        "promrelay_receive_requests_total{protocol=\"1.0\",code=\"413\"} 3",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn empty_requests_are_fine_and_store_nothing_while_metadata_is_passed_on() {
    let sink = Sink::start().await;
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &[]).start().await;
    for protocol in [Protocol::V1, Protocol::V2] {
        let answer = Request::new().post(protocol);
        // A 2.0 request of the test always has its first, empty symbol; an empty one has not even that.
        let empty = Post { protocol, body: snappy(b"") };
        assert_eq!(empty.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
        assert_eq!(answer.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    let metadata = v1::MetricMetadata { metric_family_name: "a".into(), ..Default::default() };
    let message = v1::WriteRequest { metadata: vec![metadata], ..Default::default() };
    let post = Post { protocol: Protocol::V1, body: snappy(&message.encode_to_vec()) };
    assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    relay.drained(SOON).await;
    let metadata: usize = sink.requests().iter().map(|request| request.metadata).sum();
    assert_eq!(metadata, 1);
}

#[tokio::test]
async fn the_body_arrives_byte_for_byte_with_the_headers_that_are_forwarded_and_no_others() {
    let sink = Sink::start().await;
    let relay = Config::new()
        .server("forward_headers = [\"X-Scope-OrgID\"]")
        .wal("max_size = \"64MiB\"")
        .target("a", &sink.url(), &["headers = { X-Extra = \"yes\" }"])
        .start()
        .await;
    let request =
        Request::new().series(&[("job", "x"), ("__name__", "up")], &[(1, f64::from_bits(0x7ff0_0000_0000_0002))]);
    for (protocol, content_type) in [
        (Protocol::V1, "application/x-protobuf"),
        (Protocol::V2, "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
    ] {
        let body = request.post(protocol).body;
        let headers = [
            ("content-type", content_type),
            ("content-encoding", "snappy"),
            ("x-scope-orgid", "tenant 7"),
            ("x-other", "no"),
            ("user-agent", "Prometheus/9"),
        ];
        assert_eq!(post(&relay.write_url(), &headers, body.to_vec()).await.0, 204);
        relay.drained(SOON).await;
        let got = sink.requests().pop().unwrap();
        assert_eq!(got.body, body, "V1-01");
        let header = |name: &str| got.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some(content_type), "V1-06, V2-02, V2-14, V2-15, V2-16, V2-17, V2-18");
        assert_eq!(header("content-encoding"), Some("snappy"), "V1-05, V2-09, V2-11, V2-12");
        let version = if protocol == Protocol::V1 { "0.1.0" } else { "2.0.0" };
        assert_eq!(header("x-prometheus-remote-write-version"), Some(version), "V1-08, V1-16, V2-21, V2-22");
        assert!(header("user-agent").unwrap().starts_with("promrelay/"), "V1-07, V2-23");
        assert_eq!(
            (header("x-scope-orgid"), header("x-extra"), header("x-other")),
            (Some("tenant 7"), Some("yes"), None),
            "V1-09"
        );
    }
}

#[tokio::test]
async fn a_full_log_answers_503_drains_and_takes_requests_again_by_itself() {
    let sink = Sink::start().await;
    sink.script(|_| Answer::status(503));
    let relay =
        Config::new().wal("max_size = \"8MiB\"").target("a", &sink.url(), &["max_backoff = \"200ms\""]).start().await;
    let mut random = fastrand::Rng::new();
    let mut accepted = 0u64;
    let answer = loop {
        let value = noise(&mut random, 200_000);
        let request = Request::new().series(&[("__name__", "a"), ("noise", &value)], &[(accepted as i64 + 1, 1.0)]);
        let answer = request.post(Protocol::V1).send(&client(), &relay.write_url()).await.unwrap();
        if answer.status() != 204 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 100, "the log never fills up");
    };
    assert_eq!(answer.status(), 503, "never 429: a Prometheus would drop its data");
    let retry_after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&retry_after), "V2-50");
    assert!(answer.text().await.unwrap().contains("the log is full"));
    let ready = client().get(relay.url("/-/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("the log is full"));
    assert_eq!(client().get(relay.url("/-/healthy")).send().await.unwrap().status(), 200);
    let bytes: u64 = std::fs::read_dir(relay.wal_dir())
        .unwrap()
        .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.unwrap().metadata().unwrap()) * 512)
        .sum();
    assert!(bytes <= (8 << 20) + (1 << 16), "{bytes} bytes on disk");

    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    let ready = async || (client().get(relay.url("/-/ready")).send().await.unwrap().status() == 200).then_some(());
    eventually("the relay is ready again without a request", SOON, ready).await;
    let answer = numbered(Protocol::V1, "after", 1).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
    relay.drained(SOON).await;
    assert_eq!(sink.counts().samples, accepted + 1);
    sink.assert_strict();
}

#[tokio::test]
async fn clients_that_stall_or_say_nothing_are_let_go_and_hold_up_nobody() {
    let relay = Config::new()
        .server("read_timeout = \"2s\"")
        .server("max_connections = 4")
        .wal("max_size = \"64MiB\"")
        .target("a", NOWHERE, &[])
        .start()
        .await;
    // Three silent ones and one that promises a body which never comes; the fifth must wait for them.
    let started = Instant::now();
    let mut silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(relay.address()).unwrap()).collect();
    let mut stalled = TcpStream::connect(relay.address()).unwrap();
    stalled.write_all(b"POST /write HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\nabc").unwrap();
    let answer = numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert!(started.elapsed() >= Duration::from_secs(1), "there were four connections already");
    for stream in &mut silent {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    stalled.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    let _ = stalled.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("too slowly") && answer.to_lowercase().contains("retry-after"), "{answer}");
}

#[tokio::test]
async fn bodies_in_chunks_and_requests_one_after_the_other_on_a_connection_are_taken() {
    let relay = relay().await;
    let mut stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let body = numbered(Protocol::V1, "s", 1).body;
    let (first, second) = body.split_at(7);
    let mut bytes = b"POST /api/v1/write HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for part in [first, second, &[]] {
        bytes.extend(format!("{:x}\r\n", part.len()).bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"GET /-/healthy HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(&bytes).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert!(
        answers.starts_with("HTTP/1.1 204") && answers.contains("HTTP/1.1 200") && answers.ends_with("healthy\n"),
        "{answers}"
    );
}

#[tokio::test]
async fn too_much_at_once_is_503_and_not_more_memory() {
    // Room for one largest request and little more.
    let relay = Config::new()
        .server("max_body = \"1MiB\"")
        .server("max_decoded = \"1MiB\"")
        .wal("max_size = \"64MiB\"")
        .target("a", NOWHERE, &[])
        .start()
        .await;
    // Four clients that have sent most of a large body and wait.
    let mut slow: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(relay.address()).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /write HTTP/1.1\r\nhost: a\r\ncontent-length: 700000\r\n\r\n").unwrap();
        let _ = stream.write_all(&vec![0; 650_000]);
    }
    let refused = async || {
        let metrics = relay.metrics().await;
        let line = "promrelay_receive_requests_total{protocol=\"1.0\",code=\"503\"} ";
        metrics.lines().find_map(|other| other.strip_prefix(line)?.parse::<u64>().ok()).filter(|count| *count >= 1)
    };
    eventually("one of them was refused", SOON, refused).await;
    drop(slow);
    let taken = async || {
        let answer = numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
        (answer.status() == 204).then_some(())
    };
    eventually("the budget came back", SOON, taken).await;
}

/// A stale marker: a signalling NaN.
const STALE: u64 = 0x7ff0_0000_0000_0002;

fn series1(labels: &[(&str, &str)], value: f64) -> v1::TimeSeries {
    let label = |(name, value): &(&str, &str)| v1::Label { name: (*name).into(), value: (*value).into() };
    let samples = vec![v1::Sample { value, timestamp: 7 }];
    v1::TimeSeries { labels: labels.iter().map(label).collect(), samples, ..Default::default() }
}

/// Of these labels, as references into the symbols.
fn series2(symbols: &mut Vec<String>, labels: &[(&str, &str)], samples: Vec<v2::Sample>) -> v2::TimeSeries {
    let mut place = |text: &str| {
        let known = symbols.iter().position(|symbol| symbol == text);
        known.unwrap_or_else(|| {
            symbols.push(text.into());
            symbols.len() - 1
        }) as u32
    };
    let labels_refs = labels.iter().flat_map(|(name, value)| [place(name), place(value)]).collect();
    v2::TimeSeries { labels_refs, samples, ..Default::default() }
}

fn sample2(value: f64) -> Vec<v2::Sample> {
    vec![v2::Sample { value, timestamp: 7, start_timestamp: 0 }]
}

/// Sends a message; the answer's status, `*-Written` headers and text.
async fn send(relay: &Relay, protocol: Protocol, message: &[u8]) -> (u16, Vec<Option<String>>, String) {
    let answer = Post { protocol, body: snappy(message) }.send(&client(), &relay.write_url()).await.unwrap();
    let written = written(answer.headers());
    (answer.status().as_u16(), written, answer.text().await.unwrap())
}

/// What the target got last, decompressed.
fn delivered(sink: &Sink) -> Vec<u8> {
    let body = sink.requests().pop().unwrap().body;
    snap::raw::Decoder::new().decompress_vec(&body).unwrap()
}

async fn relay_to(sink: &Sink) -> Relay {
    Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &["max_backoff = \"100ms\""]).start().await
}

async fn metric(relay: &Relay, series: &str) -> u64 {
    let metrics = relay.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn a_1_0_request_loses_its_invalid_series_and_nothing_else() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink).await;
    assert_eq!(metric(&relay, "promrelay_receive_invalid_series_total{protocol=\"1.0\"}").await, 0, "from the start");
    let good = vec![
        series1(&[("__name__", "a"), ("job", "x")], f64::from_bits(STALE)),
        series1(&[("__name__", "b"), ("job", "x")], 2.0),
    ];
    let bad = [
        series1(&[("job", "no\u{1b}[31mname")], 3.0),
        series1(&[("__name__", "up"), ("job", "x"), ("job", "y")], 4.0),
        series1(&[("", "x"), ("__name__", "up")], 5.0),
        series1(&[("job", "fourth")], 6.0),
    ];
    let metadata = vec![v1::MetricMetadata { metric_family_name: "a".into(), ..Default::default() }];
    let [first, second] = [good[0].clone(), good[1].clone()];
    let [a, b, c, d] = bad;
    let message = v1::WriteRequest { timeseries: vec![a, first, b, c, second, d], metadata: metadata.clone() };
    let (status, written, text) = send(&relay, Protocol::V1, &message.encode_to_vec()).await;
    assert_eq!((status, written), (400, vec![None; 3]), "V1-20, V1-21, V1-23, V1-29, V1-30");
    assert_eq!(
        text,
        "the rest was stored (2 series); rejected: 4 samples in 4 invalid series: \
         series 0, {job=\"no\\u{1b}[31mname\"}: no metric name (__name__); \
         series 2, up{job=\"x\", job=\"y\"}: label name \"job\" twice; \
         series 3, up{\"\"=\"x\"}: a label without a name; and 1 more\n",
        "V1-31"
    );
    relay.drained(SOON).await;
    // As bytes: the bits of a stale marker count (V1-42, V1-43).
    assert_eq!(delivered(&sink), v1::WriteRequest { timeseries: good, metadata }.encode_to_vec());
    sink.assert_strict();
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (2, 2));
    for (series, expected) in [
        ("promrelay_receive_samples_total{protocol=\"1.0\"}", 2),
        ("promrelay_receive_invalid_series_total{protocol=\"1.0\"}", 4),
        ("promrelay_receive_invalid_samples_total{protocol=\"1.0\"}", 4),
        ("promrelay_receive_invalid_series_total{protocol=\"2.0\"}", 0),
        ("promrelay_receive_rewritten_requests_total{protocol=\"1.0\"}", 1),
        ("promrelay_receive_requests_total{protocol=\"1.0\",code=\"400\"}", 1),
    ] {
        assert_eq!(metric(&relay, series).await, expected, "{series}");
    }
}

#[tokio::test]
async fn a_2_0_request_loses_its_invalid_series_and_says_exactly_what_was_written() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink).await;
    let mut symbols = vec![String::new()];
    let mut series = |labels: &[(&str, &str)], samples| series2(&mut symbols, labels, samples);
    let at = |timestamp| v2::Sample { value: 1.0, timestamp, start_timestamp: 0 };
    let histogram = v2::Histogram { sum: f64::from_bits(STALE), timestamp: 7, ..Default::default() };
    let exemplar = |labels_refs: &[u32]| v2::Exemplar { labels_refs: labels_refs.into(), value: 1.0, timestamp: 7 };
    let good = series(&[("__name__", "good")], vec![at(7), at(8)]);
    // V2-63 as it is: exemplars come in series of their own.
    let exemplars =
        v2::TimeSeries { exemplars: vec![exemplar(&[1, 2])], ..series(&[("__name__", "exemplars")], vec![]) };
    let histograms =
        v2::TimeSeries { histograms: vec![histogram.clone()], ..series(&[("__name__", "histograms")], vec![]) };
    let mut bad = series(&[("__name__", "bad"), ("job", "x")], sample2(9.0));
    let both = v2::TimeSeries { histograms: vec![histogram], ..bad.clone() };
    let odd_exemplar = v2::TimeSeries { exemplars: vec![exemplar(&[1])], ..bad.clone() };
    let metadata = Some(v2::Metadata { help_ref: 99, ..Default::default() });
    let lost_help = v2::TimeSeries { metadata, ..bad.clone() };
    bad.labels_refs.push(999);
    let odd = bad.clone();
    bad.labels_refs.push(999);
    let message =
        v2::Request { symbols, timeseries: vec![both, good, odd_exemplar, exemplars, lost_help, histograms, odd, bad] };
    let (status, written, text) = send(&relay, Protocol::V2, &message.encode_to_vec()).await;
    assert_eq!(status, 400, "V2-27, V2-40, V2-41, V2-45");
    assert_eq!(written, ["2", "1", "1"].map(|count| Some(count.to_owned())), "V2-31, V2-32");
    assert_eq!(
        text,
        "the rest was stored (3 series); rejected: 6 samples in 5 invalid series: \
         series 0, bad{job=\"x\"}: samples and histograms in one time series; \
         series 2, bad{job=\"x\"}: an odd number of label references; \
         series 4, bad{job=\"x\"}: symbol reference 99 in a table of 8 symbols; and 2 more\n",
        "V2-28, V2-29, V2-62, V2-64, V2-70"
    );
    relay.drained(SOON).await;
    let got = v2::Request::decode(&*delivered(&sink)).unwrap();
    assert_eq!(got.symbols, ["", "__name__", "good", "exemplars", "histograms"], "V2-68");
    let sizes: Vec<_> =
        got.timeseries.iter().map(|s| [s.samples.len(), s.histograms.len(), s.exemplars.len()]).collect();
    assert_eq!(sizes, [[2, 0, 0], [0, 0, 1], [0, 1, 0]], "V2-67");
    assert_eq!(got.timeseries[2].histograms[0].sum.to_bits(), STALE, "V2-87, V2-88");
    sink.assert_strict();
    assert_eq!(metric(&relay, "promrelay_receive_samples_total{protocol=\"2.0\"}").await, 3);
    assert_eq!(metric(&relay, "promrelay_receive_invalid_samples_total{protocol=\"2.0\"}").await, 6);
}

#[tokio::test]
async fn where_nothing_is_valid_nothing_is_stored_but_metadata() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink).await;
    let nameless = v1::WriteRequest { timeseries: vec![series1(&[("job", "x")], 1.0)], metadata: vec![] };
    let (status, _, text) = send(&relay, Protocol::V1, &nameless.encode_to_vec()).await;
    assert!(status == 400 && text.starts_with("nothing was stored; rejected: 1 sample in 1 invalid"), "{text}");
    let odd = v2::TimeSeries { labels_refs: vec![0], samples: sample2(1.0), ..Default::default() };
    let odd = v2::Request { symbols: vec![String::new()], timeseries: vec![odd] };
    let (status, written, text) = send(&relay, Protocol::V2, &odd.encode_to_vec()).await;
    assert_eq!((status, written), (400, counts(0)), "{text}");
    assert_eq!(relay.status().await["wal"]["durable"], 0);
    let metadata = vec![v1::MetricMetadata { metric_family_name: "a".into(), ..Default::default() }];
    let (status, _, text) =
        send(&relay, Protocol::V1, &v1::WriteRequest { metadata, ..nameless }.encode_to_vec()).await;
    assert!(status == 400 && text.starts_with("only metadata was stored; rejected: "), "{text}");
    let metadata = async || sink.requests().iter().any(|request| request.metadata == 1).then_some(());
    eventually("the metadata is delivered", SOON, metadata).await;
    assert_eq!(metric(&relay, "promrelay_receive_samples_total{protocol=\"1.0\"}").await, 0);
}

#[tokio::test]
async fn what_a_400_says_was_stored_survives_kill_9() {
    for protocol in Protocol::ALL {
        let sink = Sink::start().await;
        sink.script(|_| Answer::status(503));
        let mut relay = relay_to(&sink).await;
        let message =
            Request::new().numbered("kept", 1).series(&[("job", "nameless")], &[(1, 1.0)]).numbered("kept", 2);
        let (status, _, text) = send(&relay, protocol, &message.encode(protocol)).await;
        assert_eq!(status, 400, "{text}");
        relay.kill_9().await;
        sink.script(|_| Answer::status(204));
        relay.start().await;
        relay.drained(SOON).await;
        let values: Vec<f64> = sink.samples("numbered{series=\"kept\"}").into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [1.0, 2.0]);
        assert_eq!(sink.counts().samples, 2);
        sink.assert_strict();
    }
}

#[tokio::test]
async fn unsorted_labels_are_sorted_empty_ones_left_out_and_the_rest_is_as_it_came() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink).await;
    // A field that nobody knows, in the request and in a series.
    let unknown = [0x4a, 3, b'n', b'e', b'w'];
    let mut message = v1::WriteRequest {
        timeseries: vec![series1(&[("job", "x"), ("empty", ""), ("__name__", "up")], f64::from_bits(STALE))],
        ..Default::default()
    };
    let (status, written, text) = send(&relay, Protocol::V1, &[&message.encode_to_vec()[..], &unknown].concat()).await;
    assert_eq!((status, written, &*text), (204, vec![None; 3], ""), "V1-22, V1-23");
    relay.drained(SOON).await;
    message.timeseries[0] = series1(&[("__name__", "up"), ("job", "x")], f64::from_bits(STALE));
    assert_eq!(delivered(&sink), [&message.encode_to_vec()[..], &unknown].concat(), "V1-15");

    let mut symbols = vec![String::new()];
    let samples = vec![v2::Sample { value: f64::from_bits(STALE), timestamp: 8, start_timestamp: -1 }];
    let labels = [("job", "x"), ("empty", ""), ("__name__", "up")];
    let series = v2::TimeSeries { created_timestamp: 4, ..series2(&mut symbols, &labels, samples) };
    let message = v2::Request { symbols, timeseries: vec![series.clone()] };
    let (status, written, _) = send(&relay, Protocol::V2, &[&message.encode_to_vec()[..], &unknown].concat()).await;
    assert_eq!((status, written), (204, counts(1)), "V2-75, V2-76");
    relay.drained(SOON).await;
    let got = delivered(&sink);
    assert!(got.ends_with(&unknown), "V2-56");
    let got = v2::Request::decode(&*got).unwrap();
    assert_eq!(got.symbols, ["", "__name__", "up", "job", "x"]);
    // Both generations of 2.0: field 6 of the series, and the start timestamp of the sample.
    let expected = v2::TimeSeries { labels_refs: vec![1, 2, 3, 4], ..series };
    assert_eq!(got.timeseries[0].encode_to_vec(), expected.encode_to_vec(), "V2-83, V2-86");
    sink.assert_strict();
    assert_eq!(metric(&relay, "promrelay_receive_rewritten_requests_total{protocol=\"2.0\"}").await, 1);
    assert_eq!(metric(&relay, "promrelay_receive_invalid_series_total{protocol=\"2.0\"}").await, 0);
}

#[tokio::test]
async fn a_request_in_order_is_not_touched_whatever_else_is_in_it() {
    let sink = Sink::start().await;
    let relay = relay_to(&sink).await;
    let unknown = [0x4a, 3, b'n', b'e', b'w'];
    let one =
        v1::WriteRequest { timeseries: vec![series1(&[("__name__", "a")], f64::from_bits(STALE))], metadata: vec![] };
    // With a gap: no table that we would write.
    let mut symbols = vec![String::new(), "unused".into()];
    let old = v2::TimeSeries { created_timestamp: 3, ..series2(&mut symbols, &[("__name__", "a")], sample2(1.0)) };
    let start = vec![v2::Sample { value: 1.0, timestamp: 9, start_timestamp: 2 }];
    let new = series2(&mut symbols, &[("__name__", "b")], start);
    let two = v2::Request { symbols, timeseries: vec![old, new] };
    for (protocol, message) in [(Protocol::V1, one.encode_to_vec()), (Protocol::V2, two.encode_to_vec())] {
        let post = Post { protocol, body: snappy(&[&message[..], &unknown].concat()) };
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
        relay.drained(SOON).await;
        assert_eq!(sink.requests().pop().unwrap().body, post.body, "V1-15, V2-56");
        let rewritten = "promrelay_receive_rewritten_requests_total{protocol=\"1.0\"}";
        assert_eq!(metric(&relay, rewritten).await, 0);
    }
}

#[tokio::test]
async fn a_bomb_is_answered_by_what_it_declares_and_by_what_it_does() {
    let relay = relay().await;
    let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
    // 3 MiB that become 64.
    let bomb = snappy(&vec![0; 64 << 20]).to_vec();
    let (status, _, text) = post(&relay.write_url(), &headers, bomb.clone()).await;
    assert_eq!((status, text.contains("server.max_decoded")), (413, true), "{text}");
    // The same, but it says that it becomes 1 MiB.
    let mut liar = vec![0x80, 0x80, 0x40];
    liar.extend_from_slice(&bomb[4..]);
    let (status, _, text) = post(&relay.write_url(), &headers, liar).await;
    assert_eq!((status, text.contains("not snappy")), (400, true), "{text}");
    let answer = numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn what_is_over_a_limit_is_rejected_series_by_series_or_as_a_whole() {
    let sink = Sink::start().await;
    let relay = Config::new()
        .server("max_series = 5")
        .server("max_symbols = 10")
        .server("max_labels = 3")
        .server("max_label_name_bytes = \"10B\"")
        .server("max_label_value_bytes = \"20B\"")
        .wal("max_size = \"64MiB\"")
        .target("a", &sink.url(), &[])
        .start()
        .await;
    let good = Request::new().series(&[("__name__", "good"), ("job", "x")], &[(1, 1.0)]);
    let bad = good
        .clone()
        .series(&[("__name__", "a"), ("b", "1"), ("c", "2"), ("d", "3")], &[(1, 1.0)])
        .series(&[("__name__", "a"), ("much_longer", "1")], &[(1, 1.0)])
        .series(&[("__name__", "a"), ("b", &"v".repeat(21))], &[(1, 1.0)]);
    // More than once: what is known to be valid is not looked at again (V1-27, V2-80).
    for _ in 0..3 {
        let (status, _, text) = send(&relay, Protocol::V1, &bad.encode(Protocol::V1)).await;
        assert_eq!(status, 400);
        assert_eq!(
            text,
            "the rest was stored (1 series); rejected: 3 samples in 3 invalid series: \
             series 1, a{b=\"1\", c=\"2\", d=\"3\"}: 4 labels, the limit is 3 (server.max_labels); \
             series 2, a{much_longer=\"1\"}: label name \"much_longer\" has 11 bytes, the limit is 10 \
             (server.max_label_name_bytes); \
             series 3, a{b=\"vvvvvvvvvvvvvvvvvvvvv\"}: the value of label \"b\" has 21 bytes, the limit is 20 \
             (server.max_label_value_bytes)\n"
        );
        assert_eq!(send(&relay, Protocol::V1, &good.encode(Protocol::V1)).await.0, 204);
    }
    let long = good.clone().series(&[("__name__", "a"), ("much_longer", "1")], &[(1, 1.0)]);
    let (status, written, text) = send(&relay, Protocol::V2, &long.encode(Protocol::V2)).await;
    assert_eq!((status, written), (400, counts(1)), "{text}");
    relay.drained(SOON).await;
    assert_eq!(sink.counts().samples, 7);

    let six = (0..6).fold(Request::new(), |request, number| request.numbered("s", number));
    for protocol in Protocol::ALL {
        let (status, _, text) = send(&relay, protocol, &six.encode(protocol)).await;
        assert_eq!((status, &*text), (413, "the request has 6 series, the limit is 5 (server.max_series)\n"));
    }
    let many = (0..5).fold(Request::new(), |request, number| request.numbered(&format!("s{number}"), number));
    let eleven = many.clone().series(&[("__name__", "x")], &[(1, 1.0)]);
    assert_eq!(send(&relay, Protocol::V2, &many.encode(Protocol::V2)).await.0, 204, "9 symbols");
    assert_eq!(send(&relay, Protocol::V1, &eleven.encode(Protocol::V1)).await.0, 413, "series");
    let symbols = (0..11).map(|n| if n == 0 { String::new() } else { n.to_string() }).collect();
    let (status, written, text) =
        send(&relay, Protocol::V2, &v2::Request { symbols, timeseries: vec![] }.encode_to_vec()).await;
    assert_eq!((status, written), (413, counts(0)));
    assert_eq!(text, "the request has 11 symbols, the limit is 10 (server.max_symbols)\n");
}

#[tokio::test]
async fn a_sender_of_invalid_series_is_found_in_the_log_in_one_line() {
    let relay = relay().await;
    let message = Request::new().series(&[("job", "bad \u{1b}[2Jexporter")], &[(1, 1.0)]).numbered("s", 1);
    for protocol in [Protocol::V1, Protocol::V2, Protocol::V1, Protocol::V1] {
        assert_eq!(send(&relay, protocol, &message.encode(protocol)).await.0, 400);
    }
    let log = relay.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("an upstream sends")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for expected in ["WARN", "127.0.0.1", "exporter", "no metric name"] {
        assert!(lines[0].contains(expected), "{expected} is not in {:?}", lines[0]);
    }
    assert!(!lines[0].contains("\u{1b}[2J"), "{:?}", lines[0]);
}

#[tokio::test]
async fn a_log_that_takes_nothing_wins_over_what_is_invalid() {
    let relay = Config::new().wal("max_size = \"8MiB\"").target("a", NOWHERE, &[]).start().await;
    let mut random = fastrand::Rng::new();
    let mut request = || {
        let value = noise(&mut random, 200_000);
        Request::new().series(&[("__name__", "a"), ("noise", &value)], &[(1, 1.0)]).series(&[("job", "x")], &[(1, 1.0)])
    };
    for _ in 0..100 {
        let (status, written, text) = send(&relay, Protocol::V2, &request().encode(Protocol::V2)).await;
        if status == 400 {
            assert_eq!(written, counts(1), "{text}");
            continue;
        }
        // The upstream sends it again: nothing of it counts.
        assert_eq!((status, written), (503, counts(0)), "V2-31, V2-55: {text}");
        let invalid = metric(&relay, "promrelay_receive_invalid_series_total{protocol=\"2.0\"}").await;
        let stored = metric(&relay, "promrelay_receive_samples_total{protocol=\"2.0\"}").await;
        assert_eq!((invalid, relay.ledger("a").await.accepted), (stored, stored));
        return;
    }
    panic!("the log never fills up");
}

#[tokio::test]
async fn the_largest_request_passes_the_least_budget_also_when_it_must_be_put_in_order() {
    let sink = Sink::start().await;
    let relay = Config::new()
        .server("max_body = \"1MiB\"")
        .server("max_decoded = \"1MiB\"")
        .wal("max_size = \"64MiB\"")
        .target("a", &sink.url(), &[])
        .start()
        .await;
    let mut random = fastrand::Rng::new();
    let request = |name: &str, value: &str| {
        let series = series1(&[("noise", value), ("__name__", name)], 1.0);
        v1::WriteRequest { timeseries: vec![series], metadata: vec![] }.encode_to_vec()
    };
    // Several at a time: some are too much for the budget, and come again.
    let value = noise(&mut random, 1_000_000);
    let take = async |name| {
        let post = Post { protocol: Protocol::V1, body: snappy(&request(name, &value)) };
        let taken = async || match post.send(&client(), &relay.write_url()).await.unwrap().status().as_u16() {
            204 => Some(()),
            503 => None,
            status => panic!("{status}"),
        };
        eventually("it is taken", SOON, taken).await;
    };
    tokio::join!(take("a"), take("b"), take("c"), take("d"));
    relay.drained(SOON).await;
    assert_eq!(sink.counts().samples, 4);
    sink.assert_strict();
    let given_back = async || (metric(&relay, "promrelay_receive_in_flight_bytes").await == 0).then_some(());
    eventually("the budget is whole again", SOON, given_back).await;
}
