//! Targets that are away for a while, or answer as if they wanted nothing, and then have everything all the same.

use axum::http::StatusCode;
use tokio::time::{Instant, sleep, sleep_until};

use crate::prometheus::{Receiver, RemoteWrite};
use crate::proxy::Proxy;
use crate::relay::Target;
use crate::rig::{Rig, directory, outage};
use crate::victoria::VictoriaMetrics;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_was_stopped_catches_up_and_misses_nothing() {
    let directory = directory();
    let mut prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let mut victoria = VictoriaMetrics::start(directory.path()).await;
    let targets =
        [Target::new("prometheus", prometheus.write_url()), Target::new("victoria-metrics", victoria.write_url())];
    let rig = Rig::start(&directory, RemoteWrite::V1, &targets).await;

    prometheus.stop().await;
    away_while_the_other_keeps_up(&rig, "prometheus", "victoria-metrics").await;
    prometheus.start_again().await;
    rig.relay.target_becomes("prometheus", "caught up again", |target| target.state == "caught_up").await;

    victoria.stop().await;
    away_while_the_other_keeps_up(&rig, "victoria-metrics", "prometheus").await;
    victoria.start_again().await;

    let scraped = rig.source.silence().await;
    for name in ["prometheus", "victoria-metrics"] {
        rig.relay.delivered_all(name, scraped.sample_count()).await;
    }
    prometheus.holds(&scraped).await;
    victoria.holds(&scraped).await;
}

/// Lets the outage pass, and checks that the backlog of `away` grows and is kept while `other` is served.
async fn away_while_the_other_keeps_up(rig: &Rig, away: &str, other: &str) {
    let end = Instant::now() + outage();
    let early = rig.relay.target_becomes(away, "backing off", |target| target.state == "backing_off").await;
    sleep_until(end).await;
    let late = rig.relay.target(away).await;
    assert!(late.pending.samples > early.pending.samples, "the backlog of {away} grows: {early:?}, then {late:?}");
    assert_eq!(late.settled, early.settled, "nothing that was not delivered is settled");
    let delivered = rig.relay.target(other).await.samples.delivered;
    assert!(delivered > late.samples.delivered, "{other} is served all the time");
}

/// 401, 404 and 302 say that the configuration is wrong, on one side or the other: nothing to throw data away for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_answers_401_then_404_then_302_is_held_each_time_and_misses_nothing() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let proxy = Proxy::start(prometheus.port).await;
    let targets = [Target::new("prometheus", proxy.write_url()), Target::new("victoria-metrics", victoria.write_url())];
    let rig = Rig::start(&directory, RemoteWrite::V1, &targets).await;

    for status in [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::FOUND] {
        rig.relay.target_becomes("prometheus", "caught up", |target| target.state == "caught_up").await;
        proxy.answer(status);
        let end = Instant::now() + outage();
        let early = rig
            .relay
            .target_becomes("prometheus", &format!("held by a {status}"), |target| {
                let reason = target.reason.as_deref().unwrap_or_default();
                target.state == "held" && reason.contains(status.as_str())
            })
            .await;
        // Time for a scrape more, should the outage be set very short.
        sleep(std::time::Duration::from_secs(2)).await;
        sleep_until(end).await;
        let late = rig.relay.target("prometheus").await;
        assert_eq!(late.state, "held", "{late:?}");
        assert!(late.pending.samples > early.pending.samples, "the backlog grows: {early:?}, then {late:?}");
        assert_eq!(late.settled, early.settled, "nothing that was not delivered is settled");
        eprintln!("{status} for {:?}: {} tries", outage(), proxy.answered());
        proxy.pass();
    }

    let scraped = rig.source.silence().await;
    for name in ["prometheus", "victoria-metrics"] {
        rig.relay.delivered_all(name, scraped.sample_count()).await;
    }
    prometheus.holds(&scraped).await;
    victoria.holds(&scraped).await;
    assert_eq!(proxy.followed(), 0, "no redirect is followed");
}
