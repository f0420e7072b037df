//! A target's savepoint belongs to its name, and to nothing else that its configuration says.

use axum::http::StatusCode;

use crate::prometheus::{Receiver, RemoteWrite};
use crate::proxy::Proxy;
use crate::relay::Target;
use crate::rig::{Rig, directory};
use crate::victoria::VictoriaMetrics;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_of_targets_url_and_tuning_can_change_and_no_savepoint_moves() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let proxy = Proxy::start(prometheus.port).await;
    let targets = [Target::new("prometheus", proxy.write_url()), Target::new("victoria-metrics", victoria.write_url())];
    let mut rig = Rig::start(&directory, RemoteWrite::V1, &targets).await;

    // One savepoint far behind the other: were they mixed up, one target would miss data and the other get it twice.
    rig.relay.target_becomes("prometheus", "caught up", |target| target.state == "caught_up").await;
    proxy.answer(StatusCode::SERVICE_UNAVAILABLE);
    rig.exporter.scraped(4).await;
    let behind = rig.relay.target_becomes("prometheus", "behind", |target| target.pending.samples > 0).await;
    let ahead = rig.relay.target("victoria-metrics").await;
    assert!(ahead.settled > behind.settled, "{ahead:?} is not ahead of {behind:?}");

    rig.relay.stop().await;
    let [was_first, was_second] = targets;
    let prometheus_url = prometheus.write_url().replace("127.0.0.1", "localhost");
    let changed = [
        Target { tuning: "remote_timeout = \"20s\"\nretry_after_max = \"1m\"", ..was_second },
        Target { url: prometheus_url, tuning: "min_backoff = \"100ms\"\nmax_backoff = \"2s\"", ..was_first },
    ];
    rig.relay.start_again(&changed).await;

    for (name, before) in [("prometheus", &behind), ("victoria-metrics", &ahead)] {
        let after = rig.relay.target(name).await;
        assert!(after.settled >= before.settled, "{name} went back from {before:?} to {after:?}");
        assert!(after.samples.delivered >= before.samples.delivered, "{name} forgot: {before:?}, then {after:?}");
    }
    rig.exporter.scraped(3).await;
    let scraped = rig.source.silence().await;
    for name in ["prometheus", "victoria-metrics"] {
        rig.relay.delivered_all(name, scraped.sample_count()).await;
    }
    prometheus.holds(&scraped).await;
    victoria.holds(&scraped).await;
}
