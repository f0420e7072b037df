//! What upstreams meet: the built relay over HTTP, answer by answer.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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
            assert_eq!(answer.status(), 204, "{path}");
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
    let nameless = Request::new().series(&[("job", "a")], &[(1, 1.0)]).numbered("s", 1);
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
            "1 invalid series: series 0: no metric name (__name__)",
        ),
        (vec![two], nameless.post(Protocol::V2).body.to_vec(), 400, "nothing was stored: 1 invalid series"),
    ] {
        let (got, answer_headers, got_text) = post(&url, &headers, body).await;
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
    let metadata =
        promrelay::protocol::messages::v1::MetricMetadata { metric_family_name: "a".into(), ..Default::default() };
    let message = promrelay::protocol::messages::v1::WriteRequest { metadata: vec![metadata], ..Default::default() };
    let body = snappy(&prost::Message::encode_to_vec(&message));
    let post = Post { protocol: Protocol::V1, body };
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
    // Labels out of order are legal input.
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
        assert_eq!(got.body, body);
        let header = |name: &str| got.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some(content_type), "V1-06, V2-17");
        assert_eq!(header("content-encoding"), Some("snappy"), "V1-05, V2-12");
        let version = if protocol == Protocol::V1 { "0.1.0" } else { "2.0.0" };
        assert_eq!(header("x-prometheus-remote-write-version"), Some(version), "V1-08, V2-22");
        assert!(header("user-agent").unwrap().starts_with("promrelay/"), "V1-07");
        assert_eq!(
            (header("x-scope-orgid"), header("x-extra"), header("x-other")),
            (Some("tenant 7"), Some("yes"), None)
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
    assert!((1..=30).contains(&retry_after));
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
