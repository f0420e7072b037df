//! Bad days of the disk, from outside: strace delays or fails what the relay asks of the system.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::{Duration, Instant};

use support::relay::{Config, Relay};
use support::request::{Protocol, Request, numbered};
use support::sink::Sink;
use support::{client, eventually, ledger, strace_is_here};

const SOON: Duration = Duration::from_secs(30);

/// A relay whose calls of `inject` on its first segment go wrong.
async fn relay_with(inject: &str, sink: &Sink) -> Relay {
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &[]).prepare();
    let dir = relay.dir().canonicalize().unwrap().join("data");
    let segment = dir.join("seg-00000000000000000001.wal");
    let (call, inject) = (inject.split(':').next().unwrap().to_owned(), format!("inject={inject}"));
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", segment.to_str().unwrap(), "-e"];
    let trace = format!("trace={call}");
    relay.config = relay.config.clone().run_by(&[&strace[..], &[&trace, "-e", &inject]].concat());
    relay.start().await;
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_writer_does_not_reach_in_time_is_503_and_never_appended() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    // The first sync of a record takes 14 s.
    let relay = relay_with("fdatasync:delay_enter=14000000:when=1", &sink).await;
    let url = relay.write_url();
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));

    // This one the writer has; its upstream loses patience.
    let impatient = client_with_timeout(Duration::from_secs(2));
    assert!(numbered(Protocol::V1, "taken", 1).send(&impatient, &url).await.unwrap_err().is_timeout());
    // This one waits behind it, too long.
    let http = http.build().unwrap();
    let started = Instant::now();
    let late = tokio::spawn({
        let (http, url) = (http.clone(), url.clone());
        async move { numbered(Protocol::V1, "late", 1).send(&http, &url).await.unwrap() }
    });
    // This one is the first one again: it waits for that one's result and is not stored twice.
    let again = tokio::spawn({
        let (http, url) = (http.clone(), url.clone());
        async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            numbered(Protocol::V1, "taken", 1).send(&http, &url).await.unwrap()
        }
    });
    let late = late.await.unwrap();
    assert_eq!(late.status(), 503);
    assert!((9.5..13.5).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    assert!(late.headers().contains_key("retry-after"));
    assert!(late.text().await.unwrap().contains("not reached within 10 s and is not stored"));
    assert_eq!(again.await.unwrap().status(), 204);

    numbered(Protocol::V1, "after", 1).send(&http, &url).await.unwrap();
    relay.drained(SOON).await;
    assert_eq!(sink.samples("numbered{series=\"taken\"}").len(), 1);
    assert_eq!(sink.samples("numbered{series=\"late\"}").len(), 0);
    assert_eq!(sink.samples("numbered{series=\"after\"}").len(), 1);
    assert!(relay.metrics().await.contains("promrelay_receive_repeated_requests_total 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partly_invalid_request_that_is_repeated_is_stored_once_and_answered_as_the_first_time() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    let relay = relay_with("fdatasync:delay_enter=4000000:when=1", &sink).await;
    let request = Request::new().numbered("taken", 1).series(&[("job", "nameless")], &[(1, 1.0)]);
    let post = request.post(Protocol::V2);
    let impatient = client_with_timeout(Duration::from_secs(1));
    assert!(post.send(&impatient, &relay.write_url()).await.unwrap_err().is_timeout());
    // Once while the first is at the writer, once when that is over. It is the same as it came, not as it was stored.
    for _ in 0..2 {
        let answer = post.send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.headers()["x-prometheus-remote-write-samples-written"], "1");
        assert!(answer.text().await.unwrap().starts_with("the rest was stored (1 series); rejected: 1 sample in 1 "));
    }
    relay.drained(SOON).await;
    assert_eq!((relay.ledger("a").await.accepted, sink.counts().samples), (1, 1));
    assert!(relay.metrics().await.contains("promrelay_receive_repeated_requests_total 2\n"));
    sink.assert_strict();
}

fn client_with_timeout(timeout: Duration) -> reqwest::Client {
    let _ = client();
    reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_is_not_tried_again_and_its_records_go_to_a_fresh_segment() {
    if !strace_is_here() {
        return;
    }
    for inject in ["fdatasync:error=EIO:when=3", "pwritev:error=ENOSPC:when=3", "fdatasync:error=EIO:when=1"] {
        let sink = Sink::start().await;
        let mut relay = relay_with(inject, &sink).await;
        for number in 1..=10 {
            let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
            assert_eq!(answer.status(), 204, "{inject}: {number}");
        }
        sink.stored(10, SOON).await;
        let status = relay.status().await;
        assert_eq!((&status["wal"]["durable"], &status["ready"]), (&10.into(), &true.into()), "{inject}");
        let log = relay.log();
        assert_eq!(log.matches("the records that were not durable go to a fresh segment").count(), 1, "{log}");

        // And nothing of it comes up again, whatever is in the segment that was left. (What is answered and not yet booked may be sent twice.)
        relay.drained(SOON).await;
        relay.kill_9().await;
        relay.config = relay.config.clone().run_by(&[]);
        relay.start().await;
        relay.drained(SOON).await;
        assert_eq!((sink.counts().samples, sink.counts().repeated), (10, 0), "{inject}");
        sink.assert_strict();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_means_503_and_the_relay_goes_on_when_it_does_again() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &[]).prepare();
    // After a while, no sync of any file of the log works for a while.
    let wrapper = "strace -D -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=8..40";
    relay.config = relay.config.clone().run_by(&wrapper.split(' ').collect::<Vec<_>>());
    relay.start().await;
    let (mut number, mut refused) = (1, 0);
    let started = Instant::now();
    while number <= 30 {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        match answer.status().as_u16() {
            204 => number += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is taken any more");
    }
    assert!(refused > 0, "the disk has failed meanwhile");
    let ready = async || (client().get(relay.url("/-/ready")).send().await.unwrap().status() == 200).then_some(());
    eventually("the relay is ready again", SOON, ready).await;
    relay.drained(SOON).await;
    let ledger = &ledger::of_status(&relay.status().await)["a"];
    assert_eq!((ledger.accepted, ledger.delivered()), (30, 30), "what was refused was not stored");
    assert_eq!(sink.counts().samples, 30);
    sink.assert_strict();
}

/// A relay that has acknowledged `count` requests and then died; its target was down.
async fn died_with(count: u64, sink: &Sink) -> Relay {
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", "http://127.0.0.1:9/", &[]).start().await;
    for number in 1..=count {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    relay.kill_9().await;
    relay.config = relay.config.clone().target("a", &sink.url(), &[]);
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_at_one_start_is_there_at_the_next() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    let mut relay = died_with(20, &sink).await;
    // No page of the log can be read. It starts all the same, takes requests, and takes nothing for lost.
    let strace = "strace -D -f -qq -o /dev/null -e trace=madvise -e inject=madvise:error=EIO";
    relay.config = relay.config.clone().run_by(&strace.split(' ').collect::<Vec<_>>());
    relay.start().await;
    for number in 21..=25 {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    let waiting = async || {
        let status = relay.status().await;
        (status["targets"][0]["reason"].as_str()?.contains("the log cannot be read")).then_some(status)
    };
    let status = eventually("the target waits for the disk", SOON, waiting).await;
    assert_eq!(status["wal"]["damage"]["findings"][0]["kind"], "unreadable", "{status}");
    assert_eq!(ledger::of_status(&status)["a"].settled["lost"], 0);
    relay.kill_9().await;

    relay.config = relay.config.clone().run_by(&[]);
    relay.start().await;
    sink.stored(25, SOON).await;
    let ledger = &ledger::of_status(&relay.drained(SOON).await)["a"];
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.settled["lost"]), (25, 25, 0));
    sink.assert_strict();
    assert_eq!(sink.counts().samples, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_for_a_moment_loses_nothing() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    sink.script(|_| support::sink::Answer::status(503));
    // It reads ahead no more than ten records, so most of the log is read later.
    let lines = ["max_backoff = \"300ms\"", "max_samples_per_send = 10"];
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &lines).start().await;
    for number in 1..=100 {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    // Each thread that reads fails at its third to sixth time.
    let pid = std::fs::read_to_string(relay.wal_dir().join("LOCK")).unwrap();
    let strace = "-f -qq -o /dev/null -e trace=madvise -e inject=madvise:error=EIO:when=3..6 -p";
    let mut strace = tokio::process::Command::new("strace")
        .args(strace.split(' '))
        .arg(pid.trim())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", pid.trim());
    let is_traced = async || (!std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0")).then_some(());
    eventually("strace is there", SOON, is_traced).await;
    sink.script(|_| support::sink::Answer::status(204));
    relay.drained(SOON).await;
    let ledger = &ledger::of_status(&relay.status().await)["a"];
    assert_eq!((ledger.accepted, ledger.delivered()), (100, 100));
    assert!(relay.log().contains("the log cannot be read; it is tried again"), "the test has failed no read");
    assert_eq!(sink.counts().samples, 100);
    sink.assert_strict();
    strace.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_not_ready_and_says_so() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    let relay = relay_with("fdatasync:delay_enter=9000000:when=1", &sink).await;
    let url = relay.write_url();
    let hanging = tokio::spawn(async move { numbered(Protocol::V1, "s", 1).send(&client(), &url).await });
    let not_ready = async || {
        let answer = client().get(relay.url("/-/ready")).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status == 503).then_some(text)
    };
    let text = eventually("it is not ready", SOON, not_ready).await;
    assert!(text.contains("the disk has not answered for"), "{text}");
    assert_eq!(hanging.await.unwrap().unwrap().status(), 204);
    let ready = async || (client().get(relay.url("/-/ready")).send().await.unwrap().status() == 200).then_some(());
    eventually("it is ready again", SOON, ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_for_a_while_do_not_fill_the_log_with_empty_segments() {
    if !strace_is_here() {
        return;
    }
    let mut relay = Config::new().wal("max_size = \"16MiB\"").target("a", "http://127.0.0.1:9/", &[]).prepare();
    let wrapper = "strace -D -f -qq -o /dev/null -e trace=pwritev -e inject=pwritev:error=EIO:when=8..44";
    relay.config = relay.config.clone().run_by(&wrapper.split(' ').collect::<Vec<_>>());
    relay.start().await;
    let mut taken = 0;
    let started = Instant::now();
    while taken < 5 {
        let answer = numbered(Protocol::V1, "s", taken + 1).send(&client(), &relay.write_url()).await.unwrap();
        taken += u64::from(answer.status() == 204);
        assert!(started.elapsed() < Duration::from_secs(60), "{}", relay.status().await);
    }
    let status = relay.status().await;
    assert!(status["wal"]["segments"].as_array().unwrap().len() <= 3, "{status}");
    let files = std::fs::read_dir(relay.wal_dir())
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("seg-"));
    assert!(files.count() <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reading_our_log_lines_stops_nothing() {
    let sink = Sink::start().await;
    sink.script(|_| support::sink::Answer::status(500));
    let mut relay =
        Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &["max_backoff = \"100ms\""]).prepare();
    // A file on a full disk.
    relay.config = relay.config.clone().run_by(&["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"]);
    relay.start().await;
    numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    eventually("it was tried", SOON, async || (sink.arrived() >= 3).then_some(())).await;
    sink.script(|_| support::sink::Answer::status(204));
    relay.drained(SOON).await;
    let (status, _) = relay.terminate().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_sync_that_fails_survives_kill_9() {
    if !strace_is_here() {
        return;
    }
    let sink = Sink::start().await;
    let config = Config::new().wal("max_size = \"64MiB\"").wal("sync = \"50ms\"");
    let mut relay = config.target("a", "http://127.0.0.1:9/", &[]).prepare();
    // From the second sync of records on, none works any more.
    let wrapper = "strace -D -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=6+";
    relay.config = relay.config.clone().run_by(&wrapper.split(' ').collect::<Vec<_>>());
    relay.start().await;
    let mut acknowledged = Vec::new();
    for number in 1..=200 {
        let answer = numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
        match answer.status().as_u16() {
            204 => acknowledged.push(number),
            503 => break,
            other => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(acknowledged.len() > 1 && acknowledged.len() < 200, "{}", acknowledged.len());
    relay.kill_9().await;
    relay.config = relay.config.clone().run_by(&[]).target("a", &sink.url(), &[]);
    relay.start().await;
    sink.stored(acknowledged.len() as u64, SOON).await;
    relay.drained(SOON).await;
    let stored = sink.samples("numbered{series=\"s\"}").len();
    assert!(stored >= acknowledged.len(), "{stored} of {}", acknowledged.len());
    sink.assert_strict();
}
