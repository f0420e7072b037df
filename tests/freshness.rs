//! What an operator asks of a target besides delivery: fresh data first, nothing that is too old, not too much a second, and nothing for
//! now. In each case the sums say what became of everything.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::time::{Duration, Instant, SystemTime};

use support::relay::{Config, Relay};
use support::request::{Protocol, Request, numbered};
use support::sink::{Answer, Sink};
use support::watch::Watch;
use support::{client, eventually};

const SOON: Duration = Duration::from_secs(60);
const FAST: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];

fn config(sink: &Sink, lines: &[&str]) -> Config {
    let lines = [&FAST[..], lines].concat();
    Config::new().server("admin = true").wal("max_size = \"64MiB\"").target("a", &sink.url(), &lines)
}

async fn send(relay: &Relay, numbers: std::ops::Range<u64>) {
    let http = client();
    for number in numbers {
        let post = numbered(Protocol::ALL[number as usize % 2], "s", number);
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
}

/// The numbers that a target has, in order of arrival.
fn stored(sink: &Sink) -> Vec<u64> {
    sink.samples("numbered{series=\"s\"}").into_iter().map(|(_, value)| value as u64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_data_comes_first_and_the_backlog_beside_it_each_in_order() {
    const OLD: u64 = 300;
    const FRESH: u64 = 60;

    let sink = Sink::start().await;
    sink.stop().await;
    let lines = ["order = \"fresh_first\"", "backlog_share = 0.5", "max_samples_per_send = 1", "max_in_flight = 1"];
    let mut relay = config(&sink, &lines).start().await;
    let watch = Watch::start(&relay);
    send(&relay, 0..OLD).await;
    // The lanes part when the lag passes a minute.
    tokio::time::sleep(Duration::from_secs(62)).await;
    sink.script_for_data(|_| Answer::status(204).delay(Duration::from_millis(30)));
    sink.start_again().await;
    sink.stored(10, SOON).await;
    for number in OLD..OLD + FRESH {
        send(&relay, number..number + 1).await;
        if number == OLD {
            let is_there = async || stored(&sink).contains(&OLD).then_some(());
            eventually("fresh data comes", Duration::from_secs(20), is_there).await;
            assert!(stored(&sink).len() < OLD as usize / 2, "the backlog waits: {}", stored(&sink).len());
        }
    }
    eventually("all fresh data comes", SOON, async || stored(&sink).contains(&(OLD + FRESH - 1)).then_some(())).await;
    let so_far = stored(&sink);
    let old = so_far.iter().filter(|number| **number < OLD).count();
    assert!(old < OLD as usize, "the backlog waits");
    assert!(old > 20, "but not for ever: {old} of the backlog came");
    // In the middle of both lanes.
    relay.kill_9().await;
    relay.start().await;
    relay.drained(SOON).await;
    watch.end().await;
    let all = stored(&sink);
    for lane in [0..OLD, OLD..OLD + FRESH] {
        let mut in_lane: Vec<u64> = all.iter().copied().filter(|number| lane.contains(number)).collect();
        in_lane.dedup();
        assert_eq!(in_lane, lane.collect::<Vec<_>>(), "a lane is in order and complete");
    }
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (OLD + FRESH, OLD + FRESH));
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_data_does_not_wait_for_a_backlog_that_rules_keep_back() {
    let sink = Sink::start().await;
    sink.stop().await;
    let rule = "write_relabel_configs = [{ source_labels = [\"__name__\"], regex = \"up\", action = \"drop\" }]";
    let lines = ["order = \"fresh_first\"", "max_samples_per_send = 1", rule];
    let mut relay = config(&sink, &lines).start().await;
    // More than it reads while the target is away; and behind them what nobody gets.
    send(&relay, 0..100).await;
    let kept_back = (0..200).fold(Request::new(), |request, number| {
        request.series(&[("__name__", "up"), ("instance", &number.to_string())], &[(now_ms(), 1.0)])
    });
    let (post, http) = (kept_back.post(Protocol::V1), client());
    for _ in 0..5000 {
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
    // The lanes part when the lag passes a minute.
    let parted = async || relay.log().contains("new data is sent beside the backlog").then_some(());
    eventually("the lanes part", Duration::from_secs(90), parted).await;
    sink.start_again().await;
    comes_beside(&relay, "a", &sink).await;
    relay.drained(SOON).await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.delivered(), ledger.settled["filtered"]), (101, 1_000_000), "{ledger:?}");
    // Another one begins there, gets nothing of all that, and has nothing in hand when it begins.
    let fresh = Sink::start().await;
    let lines = ["start_from = \"oldest\"", "order = \"fresh_first\"", &rule.replace("up", "up|numbered")];
    relay.config = relay.config.clone().target("b", &fresh.url(), &lines);
    relay.restart().await;
    comes_beside(&relay, "b", &fresh).await;
}

/// While what nobody gets of the backlog is read, a record of now is sent and arrives.
async fn comes_beside(relay: &Relay, name: &str, sink: &Sink) {
    let filtered = async || relay.ledger(name).await.settled["filtered"];
    let begun = async || (filtered().await > 0).then_some(());
    eventually("what nobody gets is read", SOON, begun).await;
    let series = format!("fresh_{name}");
    send_aged(relay, &series, &[0]).await;
    eventually("fresh data comes", SOON, async || (!sink.samples(&series).is_empty()).then_some(())).await;
    // A debug build reads these in three seconds.
    let filtered = filtered().await;
    assert!(filtered < 1_000_000, "fresh data came when all of the backlog was read");
    println!("after {filtered} of a million");
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

const HOUR_MS: i64 = 3_600_000;

async fn send_aged(relay: &Relay, series: &str, ages_ms: &[i64]) {
    let samples: Vec<_> = ages_ms.iter().map(|age| (now_ms() - age, *age as f64)).collect();
    let request = Request::new().series(&[("__name__", series)], &samples);
    assert_eq!(request.post(Protocol::V1).send(&client(), &relay.write_url()).await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_beyond_the_age_limit_expire_and_are_counted_and_the_rest_is_sent_whole() {
    let sink = Sink::start().await;
    sink.stop().await;
    let relay = config(&sink, &["sample_age_limit = \"1h\""]).start().await;
    let watch = Watch::start(&relay);
    for number in 0..5 {
        send_aged(&relay, &format!("old_{number}"), &[3 * HOUR_MS, 2 * HOUR_MS]).await;
        send_aged(&relay, &format!("fresh_{number}"), &[HOUR_MS / 2, 0]).await;
    }
    // One with something new in it is sent whole.
    send_aged(&relay, "mixed", &[2 * HOUR_MS, 0]).await;
    sink.start_again().await;
    relay.drained(SOON).await;
    watch.end().await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.settled["expired"], ledger.delivered()), (22, 10, 12), "{ledger:?}");
    for number in 0..5 {
        assert_eq!(sink.samples(&format!("old_{number}")), []);
        assert_eq!(sink.samples(&format!("fresh_{number}")).len(), 2);
    }
    assert_eq!(sink.samples("mixed").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_waits_until_it_is_too_old_expires() {
    let sink = Sink::start().await;
    sink.script_for_data(|_| Answer::status(503));
    let relay = config(&sink, &["sample_age_limit = \"3s\""]).start().await;
    send_aged(&relay, "waits", &[0]).await;
    relay.in_state("a", "backing_off", SOON).await;
    // "Now" is never later than what came in last.
    let expired = async || {
        send_aged(&relay, "goes_on", &[0]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (relay.ledger("a").await.settled["expired"] > 0).then_some(())
    };
    eventually("it expires", SOON, expired).await;
    sink.script(|_| Answer::status(204));
    relay.drained(SOON).await;
    let ledger = relay.ledger("a").await;
    assert_eq!(sink.samples("waits"), []);
    assert_eq!(sink.counts().samples, ledger.delivered());
    assert_eq!(ledger.accepted, ledger.delivered() + ledger.settled["expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_what_is_read_ahead_expires_by_what_came_in_last_also_after_a_restart() {
    const RECORDS: u64 = 400;
    const IN_FLIGHT: u64 = 10;
    const LIMIT: Duration = Duration::from_secs(3);

    let sink = Sink::start().await;
    sink.stop().await;
    let few_at_a_time = ["sample_age_limit = \"3s\"", "max_samples_per_send = 10", "max_in_flight = 1"];
    let mut relay = config(&sink, &few_at_a_time).start().await;
    for _ in 0..RECORDS {
        send_aged(&relay, "waits", &[0]).await;
    }
    tokio::time::sleep(LIMIT).await;
    send_aged(&relay, "comes_last", &[0]).await;
    relay.kill_9().await;
    sink.start_again().await;
    relay.restart().await;
    relay.drained(SOON).await;
    let ledger = relay.ledger("a").await;
    // What was in flight when it was killed is sent again as it was.
    let in_flight = sink.samples("waits").len() as u64;
    assert!(in_flight <= IN_FLIGHT, "{in_flight}");
    assert_eq!((ledger.settled["expired"], ledger.delivered()), (RECORDS - in_flight, in_flight + 1), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_gets_no_more_samples_a_second_than_it_is_configured_for() {
    const A_SECOND: u64 = 200;
    const SECONDS: u64 = 5;

    let sink = Sink::start().await;
    sink.stop().await;
    let relay = config(&sink, &["max_samples_per_second = 200", "max_samples_per_send = 50"]).start().await;
    for number in 0..SECONDS * A_SECOND / 10 {
        let request = (0..10).fold(Request::new(), |request, series| request.numbered(&series.to_string(), number));
        let answer = request.post(Protocol::V1).send(&client(), &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    sink.start_again().await;
    relay.drained(SOON).await;
    let requests = sink.with_samples();
    let took = requests.last().unwrap().at - requests[0].at;
    // A second's worth may come at once.
    assert!(took >= Duration::from_secs_f64(SECONDS as f64 - 2.0), "{took:?}");
    assert!(took < Duration::from_secs(4 * SECONDS), "{took:?}");
    for (number, first) in requests.iter().enumerate() {
        let within = requests[number..].iter().take_while(|next| next.at - first.at < Duration::from_secs(1));
        let samples: usize = within.map(|request| request.samples.len()).sum();
        assert!(samples as u64 <= 2 * A_SECOND + 50, "{samples} samples within a second");
    }
    assert_eq!(relay.ledger("a").await.delivered(), SECONDS * A_SECOND);
    sink.assert_strict();
}

#[derive(Clone, Copy, Debug)]
enum By {
    Command,
    Http,
}

impl By {
    async fn order(self, relay: &Relay, order: &str) {
        match self {
            By::Command => drop(relay.ordered(&["target", order, "a"]).await),
            By::Http => assert_eq!(relay.post("a", order, "{}").await.unwrap().status(), 200),
        }
    }
}

/// A paused target gets nothing, loses nothing, and goes on when it is told to.
async fn paused_and_resumed(by: By) {
    let sink = Sink::start().await;
    let relay = config(&sink, &[]).start().await;
    let watch = Watch::start(&relay);
    send(&relay, 0..5).await;
    relay.drained(SOON).await;
    by.order(&relay, "pause").await;
    relay.in_state("a", "paused", SOON).await;
    let before = sink.arrived();
    send(&relay, 5..15).await;
    // Told twice is told once.
    by.order(&relay, "pause").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((relay.ledger("a").await.pending, sink.arrived()), (10, before), "{by:?}");
    assert_eq!(relay.target("a").await["state"], "paused");
    by.order(&relay, "resume").await;
    relay.drained(SOON).await;
    watch.end().await;
    assert_eq!(stored(&sink), (0..15).collect::<Vec<_>>(), "{by:?}");
    relay.in_state("a", "caught_up", SOON).await;
    sink.assert_strict();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_paused_and_resumed_by_command() {
    paused_and_resumed(By::Command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_paused_and_resumed_over_http() {
    paused_and_resumed(By::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_stop_and_a_crash() {
    let sink = Sink::start().await;
    let mut relay = config(&sink, &[]).start().await;
    By::Http.order(&relay, "pause").await;
    send(&relay, 0..5).await;
    relay.restart().await;
    send(&relay, 5..10).await;
    relay.in_state("a", "paused", SOON).await;
    relay.kill_9().await;
    relay.start().await;
    relay.in_state("a", "paused", SOON).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((relay.ledger("a").await.pending, sink.counts().samples), (10, 0));
    By::Command.order(&relay, "resume").await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), (0..10).collect::<Vec<_>>());
    // So does its end.
    relay.restart().await;
    send(&relay, 10..12).await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), (0..12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relays_target_is_paused_and_resumed_on_its_files() {
    let sink = Sink::start().await;
    let mut relay = config(&sink, &[]).start().await;
    send(&relay, 0..1).await;
    relay.drained(SOON).await;
    assert!(relay.terminate().await.0.success());
    By::Command.order(&relay, "pause").await;
    relay.start().await;
    send(&relay, 1..5).await;
    relay.in_state("a", "paused", SOON).await;
    assert!(relay.terminate().await.0.success());
    By::Command.order(&relay, "resume").await;
    relay.start().await;
    relay.drained(SOON).await;
    assert_eq!(stored(&sink), [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_the_middle_of_an_attempt_gives_it_up_and_books_it_once() {
    let sink = Sink::start().await;
    let mut is_first = true;
    sink.script_for_data(move |_| {
        let delay = if std::mem::take(&mut is_first) { Duration::from_secs(8) } else { Duration::ZERO };
        Answer::status(204).delay(delay)
    });
    let relay = config(&sink, &[]).start().await;
    send(&relay, 0..3).await;
    eventually("a request is in flight", SOON, async || (!sink.with_samples().is_empty()).then_some(())).await;
    let start = Instant::now();
    By::Http.order(&relay, "pause").await;
    assert!(start.elapsed() < Duration::from_secs(6), "nobody waits for its answer");
    relay.in_state("a", "paused", SOON).await;
    By::Http.order(&relay, "resume").await;
    relay.drained(SOON).await;
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (3, 3));
    let mut stored = stored(&sink);
    stored.sort_unstable();
    stored.dedup();
    assert_eq!(stored, [0, 1, 2]);
    assert_eq!((sink.counts().out_of_order, sink.counts().conflicting), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_change_nothing_may_not_pause() {
    let sink = Sink::start().await;
    let relay = Config::new().target("a", &sink.url(), &[]).start().await;
    for order in ["pause", "resume"] {
        assert_eq!(relay.post("a", order, "{}").await.unwrap().status(), 403, "{order}");
    }
    send(&relay, 0..1).await;
    relay.drained(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pauses_what_is_not_there() {
    let sink = Sink::start().await;
    let relay = config(&sink, &[]).start().await;
    for order in ["pause", "resume"] {
        assert_eq!(relay.post("b", order, "{}").await.unwrap().status(), 404, "{order}");
        let ran = relay.command(&["target", order, "b"]).await;
        assert_eq!(ran.code, 1, "{order}: {ran:?}");
    }
}
