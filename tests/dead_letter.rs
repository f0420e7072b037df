//! What targets refused for good, from outside: listed, shown, sent again and dropped, on the files of a relay that is stopped and over
//! the interface of one that runs.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::Duration;

use promrelay::dead_letter::{NewEntry, Options, Ring, describe_first};
use promrelay::protocol::Protocol as Spoken;
use promrelay::wal::Position;
use serde_json::{Value, json};

use support::client;
use support::ran::Ran;
use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Protocol, Request};
use support::sink::{Answer, Sink};

const NOWHERE: &str = "http://127.0.0.1:9/";
const SOON: Duration = Duration::from_secs(30);
const RING: Options = Options { bytes: 4 << 20, leave_free: 0 };

fn config() -> Config {
    Config::new().wal("max_size = \"64MiB\"").target("a", NOWHERE, &[])
}

fn refused(target: &str, number: u64, protocol: Protocol) -> NewEntry {
    let request = Request::new().numbered("s", number).numbered("s", number + 1);
    let body = request.post(protocol).body;
    let protocol = if protocol == Protocol::V1 { Spoken::V1 } else { Spoken::V2 };
    NewEntry {
        target: target.to_owned(),
        time_ms: 1_769_850_000_000,
        reason: "status".to_owned(),
        status: Some(400),
        text: format!("out of bounds {number} \u{1b}[31m"),
        protocol,
        forwarded: vec![("x-scope-orgid".to_owned(), b"team".to_vec())],
        first: Position(number),
        last: Position(number),
        samples: 2,
        series: describe_first(protocol, &body),
        is_partial: false,
        body,
    }
}

/// Three entries: 1 and 3 of `a`, 2 of `b`. The relay does not run meanwhile.
fn fill(relay: &Relay) {
    std::fs::create_dir_all(relay.wal_dir()).unwrap();
    let ring = Ring::open(&relay.wal_dir(), RING);
    let entries = [refused("a", 10, Protocol::V1), refused("b", 20, Protocol::V2), refused("a", 30, Protocol::V2)];
    ring.append(&entries).unwrap();
}

/// `promrelay dead-letter ...`, with nobody at the terminal.
async fn dead_letter(relay: &Relay, args: &[&str]) -> Ran {
    relay.command(&[&["dead-letter"], args].concat()).await
}

async fn ids(relay: &Relay, args: &[&str]) -> Vec<u64> {
    let listing = dead_letter(relay, &[&["ls", "--json"], args].concat()).await.json();
    listing["entries"].as_array().unwrap().iter().map(|entry| entry["id"].as_u64().unwrap()).collect()
}

/// Everything that is the same whether the relay runs or not.
async fn look_and_drop(relay: &Relay) {
    assert_eq!(ids(relay, &[]).await, [1, 2, 3]);
    assert_eq!(ids(relay, &["--target", "a"]).await, [1, 3]);
    let table = dead_letter(relay, &["ls"]).await;
    assert!(table.out.contains("numbered{series=\"s\"}") && table.out.contains("out of bounds 10"), "{table:?}");
    assert!(!table.out.contains('\u{1b}'), "{table:?}");

    let shown = dead_letter(relay, &["show", "2", "--json"]).await.json();
    assert_eq!((&shown["target"], &shown["status"], &shown["samples"]), (&json!("b"), &json!(400), &json!(2)));
    assert_eq!(shown["forwarded"], json!([["x-scope-orgid", "team"]]));
    let lines =
        ["numbered{series=\"s\"} 20 @1769850000020", "numbered{series=\"s\"} 21 @1769850000021"].map(str::to_owned);
    assert_eq!(shown["lines"], json!(lines));
    assert_eq!(shown.get("body"), None);
    let with_body = dead_letter(relay, &["show", "2", "--json", "--body"]).await.json();
    assert!(with_body["body"].as_str().unwrap().len() > 50);
    let text = dead_letter(relay, &["show", "2"]).await.out;
    assert!(text.contains(&lines[0]) && text.contains("x-scope-orgid: team") && !text.contains('\u{1b}'), "{text}");
    let unknown = dead_letter(relay, &["show", "77"]).await;
    assert!(unknown.code == 1 && unknown.err.contains("there is no entry 77"), "{unknown:?}");

    let asked = dead_letter(relay, &["drop", "1"]).await;
    assert!(asked.code == 1 && asked.err.contains("1 entry with 2 samples are given up. Go on?"), "{asked:?}");
    let unknown = dead_letter(relay, &["drop", "--yes", "1", "77"]).await;
    assert!(unknown.code == 1 && unknown.err.contains("there is no entry 77"), "{unknown:?}");
    let nobody = dead_letter(relay, &["drop", "--yes", "--target", "c"]).await;
    assert!(nobody.code == 1 && nobody.err.contains("there is nothing of target"), "{nobody:?}");
    assert_eq!(ids(relay, &[]).await, [1, 2, 3], "nothing was done");
    let dropped = dead_letter(relay, &["drop", "--target", "a", "--yes", "--json"]).await.json();
    assert_eq!(dropped, json!({ "entries": 2, "samples": 4 }));
    let dropped = dead_letter(relay, &["drop", "2", "--yes"]).await;
    assert_eq!(dropped.out, "dropped 1 entry with 2 samples\n");
    assert!(ids(relay, &[]).await.is_empty());
}

#[tokio::test]
async fn on_a_stopped_relay_the_file_is_looked_at_and_changed() {
    let mut relay = config().start().await;
    assert!(relay.terminate().await.0.success());
    assert!(ids(&relay, &[]).await.is_empty());
    fill(&relay);
    let resent = dead_letter(&relay, &["resend", "1", "--yes"]).await;
    assert!(resent.code == 1 && resent.err.contains("promrelay must run"), "{resent:?}");
    look_and_drop(&relay).await;
    // And it stays so.
    relay.start().await;
    assert!(ids(&relay, &[]).await.is_empty());
}

#[tokio::test]
async fn a_running_relay_is_asked() {
    let mut relay = config().server("admin = true").prepare();
    fill(&relay);
    relay.start().await;
    let metrics = relay.metrics().await;
    assert!(metrics.lines().any(|line| line == "promrelay_dead_letter_entries 3"), "{metrics}");
    let resent = dead_letter(&relay, &["resend", "1", "3", "--yes"]).await;
    assert!(resent.code == 1 && resent.err.contains("could not be sent again"), "{resent:?}");
    look_and_drop(&relay).await;
    let metrics = relay.metrics().await;
    assert!(metrics.lines().any(|line| line == "promrelay_dead_letter_entries 0"), "{metrics}");
    relay.kill_9().await;
    relay.start().await;
    assert!(ids(&relay, &[]).await.is_empty());
}

#[tokio::test]
async fn without_admin_one_may_look_and_nothing_else() {
    let mut relay = config().prepare();
    fill(&relay);
    relay.start().await;
    let http = client();
    let get = async |path: &str| http.get(relay.url(path)).send().await.unwrap();
    let post = async |path: &str, body: Value| http.post(relay.url(path)).json(&body).send().await.unwrap();
    let listing: Value = get("/api/v1/dead-letter?target=b").await.json().await.unwrap();
    assert_eq!((&listing["entries"][0]["id"], &listing["older"]), (&json!(2), &json!(0)));
    assert_eq!(get("/api/v1/dead-letter/2?body=true").await.status(), 200);
    for path in ["/api/v1/dead-letter/drop", "/api/v1/dead-letter/resend"] {
        let answer = post(path, json!({ "target": "a" })).await;
        assert_eq!(answer.status(), 403);
        let error: Value = answer.json().await.unwrap();
        assert!(error["error"].as_str().unwrap().contains("server.admin"), "{error}");
    }
    let refused = dead_letter(&relay, &["drop", "1", "--yes"]).await;
    assert!(refused.code == 1 && refused.err.contains("server.admin"), "{refused:?}");
    assert_eq!(ids(&relay, &[]).await, [1, 2, 3]);
}

#[tokio::test]
async fn what_cannot_be_understood_is_said() {
    let mut relay = config().server("admin = true").prepare();
    fill(&relay);
    relay.start().await;
    let http = client();
    for path in ["/api/v1/dead-letter/77", "/api/v1/dead-letter/77?body=true"] {
        assert_eq!(http.get(relay.url(path)).send().await.unwrap().status(), 404);
    }
    for path in ["/api/v1/dead-letter/x", "/api/v1/dead-letter/1?body=maybe", "/api/v1/dead-letter?targets=a"] {
        assert_eq!(http.get(relay.url(path)).send().await.unwrap().status(), 400, "{path}");
    }
    for (body, status) in [
        (json!({}), 400),
        (json!({ "ids": [1], "target": "a" }), 400),
        (json!({ "ids": ["1"] }), 422),
        (json!({ "ids": [77] }), 404),
        (json!({ "target": "c" }), 404),
    ] {
        for path in ["/api/v1/dead-letter/drop", "/api/v1/dead-letter/resend"] {
            let answer = http.post(relay.url(path)).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} {body}");
        }
    }
    assert_eq!(dead_letter(&relay, &["drop"]).await.code, 2);
    assert_eq!(dead_letter(&relay, &["show", "1", "--body"]).await.code, 2, "the body is in the JSON only");
    let none = dead_letter(&relay, &["ls", "--target", "c"]).await;
    assert_eq!((none.code, &*none.out), (0, "nothing that target \"c\" refused is kept\n"));
    assert_eq!(dead_letter(&relay, &["drop", "1", "--target", "a"]).await.code, 2);
    assert_eq!(ids(&relay, &[]).await, [1, 2, 3]);
}

#[tokio::test]
async fn the_ring_takes_its_part_of_the_limit_and_none_if_it_is_turned_off() {
    let relay = config().start().await;
    let path = relay.wal_dir().join("dead-letter/ring.dl");
    assert_eq!(path.metadata().unwrap().len(), 4 << 20);
    let with_ring = relay.status().await["wal"]["bytes"].as_u64().unwrap();
    let relay = config().wal("dead_letter_size = \"0B\"").start().await;
    assert!(!relay.wal_dir().join("dead-letter").exists());
    let without = relay.status().await["wal"]["bytes"].as_u64().unwrap();
    assert!(with_ring >= without + (4 << 20), "{with_ring} and {without}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_refused_is_kept_through_a_crash_and_sent_again_by_command() {
    let sink = Sink::start().await;
    let cursed = "numbered{series=\"cursed\"}";
    sink.script_for_data(move |request| match request.samples.iter().any(|sample| &*sample.series == cursed) {
        true => Answer::status(422).body("no such tenant"),
        false => Answer::status(204),
    });
    let mut relay = Config::new().server("admin = true").target("a", &sink.url(), &[]).start().await;
    let request = Request::new().numbered("one", 1).numbered("cursed", 1).numbered("two", 1);
    let answer = request.post(Protocol::V1).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
    relay.drained(SOON).await;
    relay.kill_9().await;
    relay.start().await;
    let listed = relay.ordered(&["dead-letter", "ls"]).await;
    assert!(listed.contains("cursed") && listed.contains("422") && listed.contains("no such tenant"), "{listed}");
    assert_eq!(sink.samples(cursed), []);

    // It refuses it still: that is booked, and the entry stays.
    let refused = relay.command(&["dead-letter", "resend", "--target", "a", "--yes"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.settled["refused"]), (4, 2, 2));
    assert!(relay.ordered(&["dead-letter", "ls"]).await.contains("cursed"));

    sink.script_for_data(|_| Answer::status(204));
    relay.ordered(&["dead-letter", "resend", "--target", "a", "--yes"]).await;
    assert_eq!(sink.samples(cursed), [(FIRST_TIMESTAMP + 1, 1.0)]);
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered(), ledger.settled["refused"]), (5, 3, 2));
    assert!(!relay.ordered(&["dead-letter", "ls"]).await.contains("cursed"));
    // And the books are right after another crash.
    relay.kill_9().await;
    relay.start().await;
    assert_eq!(relay.ledger("a").await, ledger);
}
