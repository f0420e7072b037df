//! `promrelay relabel test`: what it says of rules is what the relay does with them; and it changes nothing.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::ran::Ran;
use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Post, Protocol, Request};
use support::sink::Sink;
use support::{client, ledger};

const SOON: Duration = Duration::from_secs(30);
/// Nobody listens there.
const DOWN: &str = "http://127.0.0.1:9/";

/// A label for all, only `up` and what recording rules made, and no pods.
const RULES: &[&str] = &[
    "external_labels = { region = \"eu\" }",
    "write_relabel_configs = [",
    "  { source_labels = [\"__name__\"], regex = 'up|.+:.+', action = \"keep\" },",
    "  { regex = \"pod\", action = \"labeldrop\" },",
    "  { regex = \"nothing\", action = \"labeldrop\" },",
    "]",
];

fn promrelay(arguments: &[&str]) -> Ran {
    Ran::run(Command::new(env!("CARGO_BIN_EXE_promrelay")).args(arguments))
}

/// The tool, with the configuration in a file.
fn with(config: &Path, arguments: &[&str]) -> Ran {
    promrelay(&[&["relabel", "test", "--config", config.to_str().unwrap()], arguments].concat())
}

fn on(relay: &Relay, arguments: &[&str]) -> Ran {
    with(&relay.config_path(), arguments)
}

async fn send(relay: &Relay, post: &Post) {
    let answer = post.send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

/// Two series of `up`, which the rules make one, one that they filter with two samples, and one that a rule made.
fn request(number: i64) -> Request {
    let at = FIRST_TIMESTAMP + 10 * number;
    Request::new()
        .series(&[("__name__", "go_info"), ("pod", "a")], &[(at, 1.0), (at + 1, 1.0)])
        .series(&[("__name__", "job:up:sum")], &[(at, 2.0)])
        .series(&[("__name__", "up"), ("pod", "a")], &[(at, 1.0)])
        .series(&[("__name__", "up"), ("pod", "b")], &[(at + 1, 1.0)])
}

/// A file with one target for each set of lines: `a`, `b`, ...
fn config(directory: &Path, targets: &[&[&str]]) -> std::path::PathBuf {
    let path = directory.join("config.toml");
    let mut text = format!("[wal]\ndir = {:?}\n", directory.join("data"));
    for (name, lines) in ["a", "b", "c"].iter().zip(targets) {
        text += &format!("[[target]]\nname = \"{name}\"\nurl = \"{DOWN}\"\n{}\n", lines.join("\n"));
    }
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_of_a_running_relays_log_is_what_the_relay_does() {
    let sink = Sink::start().await;
    let relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .wal("retain = \"1h\"")
        .target("a", &sink.url(), RULES)
        .target("plain", &sink.url(), &[])
        .start()
        .await;
    for number in 0..6 {
        let protocol = if number % 2 == 0 { Protocol::V1 } else { Protocol::V2 };
        send(&relay, &request(number).post(protocol)).await;
    }
    let status = relay.drained(SOON).await;

    let report = on(&relay, &["--json"]).json();
    assert_eq!(report["targets"].as_array().unwrap().len(), 1, "of those with rules");
    let target = &report["targets"][0];
    assert_eq!(
        [&target["name"], &target["external_labels"], &target["rules"], &target["series"]],
        [&json!("a"), &json!(1), &json!(3), &json!([])]
    );
    let log = &target["log"];
    assert_eq!(log["series"], json!({"seen": 4, "unchanged": 0, "changed": 3, "filtered": 1}));
    assert_eq!(log["samples"], json!({"seen": 30, "unchanged": 0, "changed": 18, "filtered": 12}));
    assert_eq!(log["samples"]["filtered"], ledger::of_status(&status)["a"].settled["filtered"]);
    let of = |n: usize| ["by", "action", "seen", "changed", "dropped"].map(|key| log["rules"][n][key].clone());
    assert_eq!(of(0), [json!("external_labels"), json!(null), json!(4), json!(4), json!(0)]);
    assert_eq!(of(1), [json!("write_relabel_configs[0]"), json!("keep"), json!(4), json!(0), json!(1)]);
    assert_eq!(of(2), [json!("write_relabel_configs[1]"), json!("labeldrop"), json!(3), json!(2), json!(0)]);
    assert_eq!(of(3), [json!("write_relabel_configs[2]"), json!("labeldrop"), json!(3), json!(0), json!(0)]);
    assert_eq!(log["rules"].as_array().unwrap().len(), 4);
    assert_eq!(log["rules"][1]["dropped_example"]["series"], "go_info{pod=\"a\"}");
    let differences = &log["rules"][2]["changed_example"]["differences"];
    assert_eq!(*differences, json!([{"name": "pod", "before": "a", "after": null}]));
    assert_eq!(
        log["collisions"],
        json!({"before": 2, "after": 1, "examples": [
            {"series": ["up{pod=\"a\"}", "up{pod=\"b\"}"], "sent_as": "up{region=\"eu\"}"}
        ]})
    );
    let read = &report["log"];
    let keys = ["records", "series", "samples", "is_cut", "unknown_samples", "is_incomplete", "last_seconds"];
    assert_eq!(
        keys.map(|key| read[key].clone()),
        [json!(6), json!(4), json!(30), json!(false), json!(0), json!(false), json!(300.0)]
    );

    let text = on(&relay, &[]);
    assert_eq!((text.code, &*text.err), (0, ""));
    for expected in [
        "6 requests, 30 samples of 4 series",
        "target a: 1 external label, 3 rules",
        "  filtered        1  25.0%       12  40.0%",
        "write_relabel_configs[0] (keep): drops 1 of 4 series, for example\n      go_info{pod=\"a\"}\n",
        "write_relabel_configs[1] (labeldrop): changes 2 of 3 series, for example\n      up{pod=\"a\"}: pod=\"a\" is removed\n",
        "write_relabel_configs[2] (labeldrop): changes and drops none of 3 series\n",
        "WARNING: 2 series become 1.",
        "    up{pod=\"a\"}\n    up{pod=\"b\"}\n      => up{region=\"eu\"}\n",
    ] {
        assert!(text.out.contains(expected), "{expected:?} is not in\n{}", text.out);
    }
    // Other rules on the same log, from another configuration.
    let dir = tempfile::tempdir().unwrap();
    let other = config(dir.path(), &[&["external_labels = { pod = \"none\" }"]]);
    let wal_dir = relay.wal_dir();
    let report = with(&other, &["--json", "--dir", wal_dir.to_str().unwrap()]).json();
    assert_eq!(report["targets"][0]["log"]["series"], json!({"seen": 4, "unchanged": 3, "changed": 1, "filtered": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_minutes_are_counted_back_from_the_newest_request() {
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", DOWN, RULES).start().await;
    let one = |number| request(number).post(Protocol::V1);
    send(&relay, &one(0)).await;
    // More than the interval that is asked for below: the relay reads the clock of the machine.
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&relay, &one(1)).await;
    relay.terminate().await;
    relay.start().await;
    relay.terminate().await;
    let records = |arguments: &[&str]| on(&relay, &[arguments, &["--json"]].concat()).json()["log"]["records"].clone();
    assert_eq!(records(&["--log", "200ms"]), 1);
    assert_eq!(records(&["--log", "1m"]), 2);
    assert_eq!(on(&relay, &["up", "--json"]).json()["log"], Value::Null, "with a series only if it is asked for");
    assert_eq!(records(&["up", "--log", "1m"]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_series_than_are_told_apart_the_samples_are_counted() {
    let relay = Config::new().wal("max_size = \"64MiB\"").target("a", DOWN, RULES).start().await;
    for number in 0..2 {
        send(&relay, &request(number).post(Protocol::V2)).await;
    }
    let report = on(&relay, &["--series-max", "2", "--json"]).json();
    let log = &report["targets"][0]["log"];
    assert_eq!(log["series"], json!({"seen": 2, "unchanged": 0, "changed": 1, "filtered": 1}));
    assert_eq!(log["samples"], json!({"seen": 10, "unchanged": 0, "changed": 6, "filtered": 4}));
    assert_eq!((&report["log"]["is_cut"], &report["log"]["unknown_samples"]), (&json!(true), &json!(4)));
    let text = on(&relay, &["--series-max", "2"]).out;
    assert!(text.contains("10 samples of at least 2 series\n  only the first 2 series are told apart"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_series_of_two_tenants_do_not_become_one() {
    let config = Config::new().wal("max_size = \"64MiB\"").server("forward_headers = [\"X-Scope-OrgID\"]");
    let relay = config.target("a", DOWN, &["write_relabel_configs = [{ regex = 'pod', action = 'labeldrop' }]"]);
    let relay = relay.start().await;
    for (tenant, pod) in [("one", "a"), ("two", "b"), ("one", "a")] {
        let request = Request::new().series(&[("__name__", "up"), ("pod", pod)], &[(FIRST_TIMESTAMP, 1.0)]);
        let body = request.post(Protocol::V1);
        let request = client().post(relay.write_url()).header("x-scope-orgid", tenant);
        let request = request.header("content-encoding", "snappy").header("content-type", "application/x-protobuf");
        assert_eq!(request.body(body.body.clone()).send().await.unwrap().status(), 204);
    }
    let log = on(&relay, &["--json"]).json()["targets"][0]["log"].clone();
    assert_eq!((&log["series"]["changed"], &log["collisions"]["after"]), (&json!(2), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_named_and_the_rest_is_counted() {
    let mut relay = Config::new().wal("max_size = \"64MiB\"").target("a", DOWN, RULES).start().await;
    for number in 0..3 {
        send(&relay, &request(number).post(Protocol::V1)).await;
    }
    relay.terminate().await;
    let dir = relay.wal_dir();
    let records = promrelay(&["wal", "dump", "--headers", "--json", "--dir", dir.to_str().unwrap()]).lines();
    let offset = records[1]["offset"].as_u64().unwrap() + 128 + 20;
    let path = dir.join(format!("seg-{:020}.wal", records[1]["segment"].as_u64().unwrap()));
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();

    let said = on(&relay, &["--json"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("position 2 at offset") && said.err.contains("damaged body"), "{}", said.err);
    let report = said.report();
    assert_eq!((&report["log"]["records"], &report["log"]["is_incomplete"]), (&json!(2), &json!(true)));
    assert_eq!(report["targets"][0]["log"]["samples"]["seen"], 10);
    let text = on(&relay, &[]);
    assert!(text.code == 1 && text.out.contains("some of it is damaged or missing"), "{text:?}");
}

#[test]
fn given_series_are_followed_rule_by_rule() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &[RULES, &[], &["write_relabel_configs = [{ target_label = \"__name__\" }]"]]);
    let said = with(&file, &["--target", "a", r#"up{pod="a",x="\u{1b}"}"#, r#"{"go.info"}"#, "up{region='eu'}"]);
    let expected = r#"target a: 1 external label, 3 rules
  up{pod="a",x="\u{1b}"}
    external_labels: region="eu" is added
    write_relabel_configs[0] (keep): unchanged
    write_relabel_configs[1] (labeldrop): pod="a" is removed
    write_relabel_configs[2] (labeldrop): unchanged
    => sent as up{region="eu",x="\u{1b}"}
  {"go.info"}
    external_labels: region="eu" is added
    write_relabel_configs[0] (keep): drops it
    => filtered by write_relabel_configs[0] (keep)
  up{region="eu"}
    external_labels: unchanged
    write_relabel_configs[0] (keep): unchanged
    write_relabel_configs[1] (labeldrop): unchanged
    write_relabel_configs[2] (labeldrop): unchanged
    => sent as it is
"#;
    assert_eq!((said.code, &*said.out, &*said.err), (0, expected, ""));

    let said = with(&file, &["up"]);
    let expected = "target a: 1 external label, 3 rules\n";
    assert!(said.out.starts_with(expected) && !said.out.contains("target b"), "{}", said.out);
    let expected = "target c: 0 external labels, 1 rule\n  up\n    \
        write_relabel_configs[0] (replace): __name__=\"up\" is removed\n    \
        end: drops it: no __name__ is left\n    => filtered: without a name no receiver takes it\n";
    assert!(said.out.ends_with(expected), "{}", said.out);

    let report = with(&file, &["up{pod=\"a\"}", "x", "--json"]).json();
    let series = &report["targets"][0]["series"];
    assert_eq!(
        [&series[0]["result"], &series[0]["sent_as"], &series[0]["sent_labels"], &series[0]["filtered_by"]],
        [&json!("changed"), &json!("up{region=\"eu\"}"), &json!({"__name__": "up", "region": "eu"}), &json!(null)]
    );
    assert_eq!(
        [&series[1]["result"], &series[1]["sent_as"], &series[1]["filtered_by"]["action"]],
        [&json!("filtered"), &json!(null), &json!("keep")]
    );
    assert_eq!(series[1]["steps"][1]["why"], "rule");
}

#[test]
fn who_asks_for_what_is_not_there_is_told_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &[RULES, &[]]);
    let said = with(&file, &["--target", "nope", "up"]);
    assert_eq!((said.code, &*said.out), (2, ""));
    assert_eq!(said.err, "promrelay: there is no target \"nope\" in the configuration; it has: a, b\n");
    for arguments in [&["--target", "b", "up"][..], &["--target", "b"]] {
        let said = with(&file, arguments);
        assert_eq!(said.code, 0);
        assert!(said.out.starts_with("target b has no rules"), "{}", said.out);
    }
    let said = with(&file, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("No such file"), "{}", said.err);
    fs::create_dir(dir.path().join("data")).unwrap();
    let said = with(&file, &[]);
    assert!(said.code == 1 && said.err.contains("there is no log in "), "{said:?}");
    fs::write(dir.path().join("data/LOCK"), "").unwrap();
    let said = with(&file, &[]);
    assert!(said.code == 0 && said.out.contains("unless wal.retain keeps it\ntarget a: 1 external label"), "{said:?}");

    let file = config(dir.path(), &[&[], &[]]);
    let said = with(&file, &["up"]);
    assert!(said.code == 0 && said.out.starts_with("no target has rules"), "{said:?}");
    assert_eq!(with(&file, &["up", "--json"]).json(), json!({"targets": [], "log": null}));

    for (arguments, expected) in [
        (&["up{job=a}"][..], "a value in quotes expected, \"a}\" found"),
        (&["up{job=~\"a\"}"], "only NAME=\"VALUE\" is understood, not =~"),
        (&["--log", "5"], "not a duration such as 5m"),
        (&["--log", "0s"], "must be longer than nothing"),
        (&["--series-max", "0"], "0 is not in 1.."),
    ] {
        let said = with(&file, arguments);
        assert!(said.code == 2 && said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
    let file = config(dir.path(), &[&["write_relabel_configs = [{ action = 'labeldrop', regex = '[' }]"]]);
    let said = with(&file, &["up"]);
    assert_eq!((said.code, said.err.lines().count()), (2, 1));
    assert!(said.err.contains("target \"a\".write_relabel_configs[0].regex = \"[\": "), "{}", said.err);
    let help = promrelay(&["relabel", "test", "--help"]).out;
    for expected in ["--target", "--log", "Examples:", "Exit code: 0"] {
        assert!(help.contains(expected), "{expected} is not in\n{help}");
    }
}
