//! What people and programs see of the relay: exit codes, messages, status, metrics, the page.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::process::Command;
use std::time::Duration;

use support::ran::Ran;
use support::relay::Config;
use support::request::{Protocol, numbered};
use support::sink::Sink;
use support::{client, eventually, free_address};

const NOWHERE: &str = "http://user:secret@127.0.0.1:9/api/v1/write";

fn promrelay(args: &[&str]) -> Ran {
    Ran::run(Command::new(env!("CARGO_BIN_EXE_promrelay")).args(args))
}

/// The exit code and the one line that was said.
fn run(args: &[&str]) -> (i32, String) {
    let ran = promrelay(args);
    (ran.code, ran.err)
}

#[test]
fn help_and_version_say_what_it_is() {
    let help = promrelay(&["--help"]).out;
    for expected in ["durable relay for Prometheus remote write", "--config", "check", "relabel", "/api/v1/write"] {
        assert!(help.contains(expected), "{expected} is not in\n{help}");
    }
    let version = promrelay(&["--version"]).out;
    assert_eq!(version, concat!("promrelay ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(promrelay(&["nonsense"]).code, 2);
}

#[test]
fn a_wrong_configuration_ends_with_2_and_one_line_that_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let file = path.to_str().unwrap();
    let target = "[[target]]\nname = \"a\"\nurl = \"http://a/\"\n";
    for (text, expected) in [
        (format!("{target}colour = \"red\"\n"), "c.toml:4:1: target[0].colour: unknown field `colour`"),
        (format!("[wal]\nmax_size = \"much\"\n{target}"), "c.toml:2:12: wal.max_size: \"much\" is not a size"),
        (format!("[wal]\nmax_size = \"1MiB\"\n{target}"), "wal.max_size = \"1MiB\": must be at least \"8MiB\""),
        (format!("{target}relabel = 3\n"), "unknown field `relabel`"),
        (String::new(), "there is no [[target]]"),
    ] {
        std::fs::write(&path, text).unwrap();
        for command in [&["--config", file][..], &["check", "--config", file]] {
            let (code, said) = run(command);
            assert_eq!(code, 2, "{said}");
            assert!(said.contains(expected) && said.lines().count() == 1, "{expected:?} is not in {said:?}");
        }
    }
    let (code, said) = run(&["--config", "/nowhere/c.toml"]);
    assert_eq!((code, said.lines().count()), (2, 1));
    assert!(said.contains("cannot read /nowhere/c.toml: No such file"), "{said}");
}

#[test]
fn a_check_says_what_each_target_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let text = "[[target]]\nname = \"a\"\nurl = \"http://u:p@a/\"\n\
                [[target]]\nname = \"b\"\nurl = \"http://b/\"\nprotocol = \"1.0\"\ncustom_buckets = \"classic\"\n\
                external_labels = { x = \"1\", y = \"2\" }\n\
                [[target.write_relabel_configs]]\nregex = \"pod\"\naction = \"labeldrop\"\n";
    std::fs::write(&path, text).unwrap();
    let ran = promrelay(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!((ran.code, &*ran.err), (0, ""));
    for expected in [
        "  target a: http://a/\n    protocol \"auto\", series as they are\n",
        "  target b: http://b/\n    protocol \"1.0\", custom_buckets \"classic\", 2 external labels, 1 relabeling rule\n",
    ] {
        assert!(ran.out.contains(expected), "{expected:?} is not in\n{}", ran.out);
    }
}

#[tokio::test]
async fn what_stops_a_start_is_said_in_one_line_and_ends_with_1() {
    let relay = Config::new().target("a", NOWHERE, &[]).start().await;
    let target = format!("[[target]]\nname = \"a\"\nurl = \"{NOWHERE}\"\n");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let not_a_directory = dir.path().join("file");
    std::fs::write(&not_a_directory, "").unwrap();
    for (listen, wal_dir, expected) in [
        (relay.address(), dir.path().join("data"), "cannot listen on"),
        (free_address(), relay.wal_dir(), "another process (pid "),
        (free_address(), not_a_directory.join("data"), "cannot use"),
    ] {
        let text = format!("[server]\nlisten = \"{listen}\"\n[wal]\ndir = {wal_dir:?}\n{target}");
        std::fs::write(&path, text).unwrap();
        let (code, said) = run(&["--config", path.to_str().unwrap()]);
        assert_eq!((code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

#[tokio::test]
async fn the_status_has_the_shape_that_others_rely_on() {
    let relay = Config::new().wal("max_size = \"64MiB\"").target("central", NOWHERE, &[]).start().await;
    numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    let is_backing_off = async || {
        let status = relay.status().await;
        (status["targets"][0]["state"] == "backing_off").then_some(status)
    };
    let status = eventually("the target is away", Duration::from_secs(20), is_backing_off).await;
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort_unstable();
        keys.join(" ")
    };
    assert_eq!(keys(&status), "ready targets version wal");
    assert_eq!(keys(&status["wal"]), "bytes damage durable full_in_seconds max_bytes oldest recovery segments");
    assert_eq!(keys(&status["wal"]["damage"]), "bytes count findings records samples");
    assert_eq!(keys(&status["wal"]["recovery"]), "scanned_segments seconds torn_bytes");
    assert_eq!(keys(&status["wal"]["segments"][0]), "bytes first id last");
    let target = &status["targets"][0];
    assert_eq!(
        keys(target),
        "arrival_samples_per_second catches_up_in_seconds drain_samples_per_second failures in_flight isolated_requests \
         lag_seconds last_status max_in_flight_now name pending rate_limit_samples_per_second reason refused_by required \
         samples settled since state takes url"
    );
    assert_eq!(keys(&target["takes"]), "1.0 2.0");
    assert_eq!(keys(&target["refused_by"]), "partial poison resent status unsplit");
    assert!(target["failures"].as_u64().unwrap() > 0 && target["max_in_flight_now"].as_u64().unwrap() > 0, "{target}");
    assert_eq!(
        [&target["rate_limit_samples_per_second"], &target["isolated_requests"], &target["refused_by"]["status"]],
        [&serde_json::Value::Null, &0.into(), &0.into()]
    );
    assert_eq!(keys(&target["pending"]), "bytes records samples");
    assert_eq!(keys(&target["samples"]), "accepted delivered dropped expired filtered lost pending refused");
    assert_eq!(target["url"], "http://127.0.0.1:9/api/v1/write", "without user info");
    assert_eq!((&status["wal"]["durable"], &status["wal"]["oldest"]), (&1.into(), &1.into()));
    assert!(target["pending"]["bytes"].as_u64().unwrap() > 0);
    assert!(!relay.log().contains("secret") && !relay.metrics().await.contains("secret"));
}

#[tokio::test]
async fn the_page_shows_each_target_and_escapes_what_it_answered() {
    let sink = Sink::start().await;
    sink.script(|_| support::sink::Answer::status(503).body("<script>alert(1)</script>\n\u{1b}[31mred"));
    let relay = Config::new().wal("max_size = \"64MiB\"").target("central", &sink.url(), &[]).start().await;
    numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    let shows = async || {
        let page = client().get(relay.url("/")).send().await.unwrap();
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        let page = page.text().await.unwrap();
        page.contains("&lt;script&gt;").then_some(page)
    };
    let page = eventually("the page shows the answer", Duration::from_secs(20), shows).await;
    assert!(page.contains("central") && page.contains("backing off") && !page.contains("<script>"), "{page}");
    // What it answered is one line, and nothing in it moves a terminal.
    let said = relay.status().await["targets"][0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(said, "503 Service Unavailable: <script>alert(1)</script>  [31mred");
    let ready = client().get(relay.url("/-/ready")).send().await.unwrap().text().await.unwrap();
    assert!(ready.contains("[31mred") && !ready.contains('\u{1b}') && ready.lines().count() == 2, "{ready:?}");
}

#[tokio::test]
async fn who_asks_for_what_is_not_there_is_told_what_there_is() {
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", NOWHERE, &[]).start().await;
    let answer = client().get(relay.url("/api/v1/targets")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert!(answer.text().await.unwrap().contains("/api/v1/write"));
}

#[tokio::test]
async fn how_a_target_gets_on_is_in_the_status_the_metrics_and_the_readiness_from_the_start() {
    let sink = Sink::start().await;
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &[]).start().await;
    let ready = async || {
        let answer = client().get(relay.url("/-/ready")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "whatever a target does");
        answer.text().await.unwrap()
    };
    let value = async |metric: &str| {
        let metrics = relay.metrics().await;
        let line = format!("promrelay_target_{metric}{{target=\"a\"}} ");
        let value = metrics.lines().find_map(|other| other.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {line} in\n{metrics}")).parse::<f64>().unwrap()
    };
    for (metric, expected) in [
        ("in_flight_requests", 0.0),
        ("isolated_requests", 0.0),
        ("arrival_samples_per_second", 0.0),
        ("drain_samples_per_second", 0.0),
        ("catch_up_seconds", 0.0),
        ("rate_limit_samples_per_second", f64::INFINITY),
    ] {
        assert_eq!(value(metric).await, expected, "{metric}");
    }
    assert!(value("window_requests").await >= 1.0);
    for state in ["caught_up", "sending", "backing_off", "held", "suspect", "paused", "orphan"] {
        let line = format!("promrelay_target_state{{target=\"a\",state=\"{state}\"}} ");
        assert!(relay.metrics().await.contains(&line), "{line}");
    }
    let target = &relay.status().await["targets"][0];
    assert_eq!(target["catches_up_in_seconds"], 0);
    assert_eq!(ready().await, "promrelay is ready\n");

    // While it takes nothing it never catches up.
    sink.script(|_| support::sink::Answer::status(401).body("who\nare <you>?"));
    numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    let is_named = async || ready().await.contains("a: held: 401 Unauthorized: who are <you>?\n").then_some(());
    eventually("the target that is held is named", Duration::from_secs(20), is_named).await;
    assert!(ready().await.starts_with("promrelay is ready\n"));
    let never = async || (value("catch_up_seconds").await == f64::INFINITY).then_some(());
    eventually("it never catches up", Duration::from_secs(20), never).await;
    assert_eq!(relay.status().await["targets"][0]["catches_up_in_seconds"], serde_json::Value::Null);
    let page = client().get(relay.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("never at this rate") && page.contains("are &lt;you&gt;?"), "{page}");

    // What comes in and what is taken are seen within some seconds.
    sink.script(|_| support::sink::Answer::status(204));
    relay.drained(Duration::from_secs(40)).await;
    let both = async || {
        let target = relay.status().await["targets"][0].clone();
        let is_seen = |rate: &str| target[rate].as_f64().unwrap() > 0.0;
        (is_seen("arrival_samples_per_second") && is_seen("drain_samples_per_second")).then_some(target)
    };
    let target = eventually("there are rates", Duration::from_secs(20), both).await;
    assert_eq!(target["catches_up_in_seconds"], 0);
    assert_eq!(ready().await, "promrelay is ready\n");
}

#[tokio::test]
async fn no_proxy_of_the_environment_and_no_sighup_changes_anything() {
    let sink = Sink::start().await;
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &[]).prepare();
    let proxy = "http_proxy=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9 all_proxy=http://127.0.0.1:9";
    relay.config = relay.config.clone().run_by(&[&["env"][..], &proxy.split(' ').collect::<Vec<_>>()].concat());
    relay.start().await;
    let pid = std::fs::read_to_string(relay.wal_dir().join("LOCK")).unwrap();
    assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap().success());
    numbered(Protocol::V1, "s", 1).send(&client(), &relay.write_url()).await.unwrap();
    relay.drained(Duration::from_secs(20)).await;
    assert_eq!(sink.counts().samples, 1);
    let said = async || relay.log().contains("SIGHUP is ignored").then_some(());
    eventually("it is said", Duration::from_secs(20), said).await;
}

#[tokio::test]
async fn lag_and_pending_bytes_are_never_nothing_while_something_is_pending() {
    let sink = Sink::start().await;
    sink.script(|_| support::sink::Answer::status(503));
    let mut relay =
        Config::new().wal("max_size = \"64MiB\"").target("a", &sink.url(), &["max_backoff = \"50ms\""]).start().await;
    for number in 1..=300 {
        numbered(Protocol::V1, "s", number).send(&client(), &relay.write_url()).await.unwrap();
    }
    // Also after starts that leave nothing behind in the log.
    relay.restart().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    sink.script(|_| support::sink::Answer::status(204).delay(Duration::from_millis(3)));
    let mut looks = 0;
    loop {
        let target = relay.status().await["targets"][0].clone();
        if target["pending"]["records"] == 0 {
            break;
        }
        if target["last_status"] == 204 {
            looks += 1;
            assert!(target["lag_seconds"].as_f64().unwrap() > 0.0, "{target}");
            assert!(target["pending"]["bytes"].as_u64().unwrap() > 0, "{target}");
        }
    }
    assert!(looks > 5, "only {looks} looks while it was draining");
}
