//! All that Prometheus can send (floats, native histograms of all kinds, exemplars and metadata) to targets that take it as it is.
//! What nobody touches cannot be corrupted: this shows that it is so, with what real servers send and take.
//!
//! The targets are a Prometheus that takes just the protocol of the source, and a sink, for the metadata that a Prometheus which receives
//! shows nobody.

use crate::metadata::{arrives_by_family, assert_told_of_everything, by_series};
use crate::process::eventually;
use crate::prometheus::{Kind, Receiver, RemoteWrite};
use crate::relay::Target;
use crate::rig::directory;
use crate::samples::{CUSTOM_BUCKETS, Keeps};
use crate::scene::{Scene, Scraped};
use crate::support::sink::Sink;

/// Everything goes through, and what can be asked of a Prometheus is the same at both ends. Returns what the source had, and the sink.
async fn everything_reaches_its_like(kind: Kind) -> (Scraped, Sink) {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), kind.sends()).await;
    let sink = Sink::start().await;
    let targets = [Target::new("prometheus", prometheus.write_url()), Target::new("sink", sink.url())];
    let scene = Scene::start(directory.path(), kind, &targets).await;
    let scraped = scene.play().await;
    for target in ["prometheus", "sink"] {
        scene.relay.delivered_all(target, scraped.samples.sample_count()).await;
    }
    prometheus.holds(&scraped.samples).await;
    prometheus.holds_exemplars(&scraped.exemplars).await;
    sink.assert_strict();
    scraped.assert_has_everything(kind);
    (scraped, sink)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_prometheus_sends_in_1_0_reaches_one_that_takes_1_0() {
    let (scraped, sink) = everything_reaches_its_like(Kind::server(RemoteWrite::V1)).await;
    arrives_by_family(&scraped.metadata, &sink).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_prometheus_sends_in_2_0_reaches_one_that_takes_2_0() {
    let (scraped, sink) = everything_reaches_its_like(Kind::server(RemoteWrite::V2)).await;
    let told = by_series(&sink);
    assert_told_of_everything(&scraped.metadata, &told);
    // Each time, not only at first.
    assert!(!told["everything_requests_total"].contains(&None));
    // (Prometheus 3.5 knows nothing of what it has converted to custom buckets.)
    assert_eq!(told["everything_wait_seconds"], [None].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_an_agent_sends_in_1_0_reaches_a_prometheus_that_takes_1_0() {
    let (scraped, sink) = everything_reaches_its_like(Kind::agent(RemoteWrite::V1)).await;
    arrives_by_family(&scraped.metadata, &sink).await;
}

/// (Metadata an agent 3.5 does not send in 2.0.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_an_agent_sends_in_2_0_reaches_a_prometheus_that_takes_2_0() {
    let (_, sink) = everything_reaches_its_like(Kind::agent(RemoteWrite::V2)).await;
    assert!(by_series(&sink).values().all(|told| *told == [None].into()), "then compare it, too");
}

/// Prometheus before 3.7 sends histograms with custom buckets in 1.0, which has no place for their bounds: each is broken, and would
/// be answered with 500 by a Prometheus 3.5, again and again. The relay keeps it out, and only it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_buckets_that_come_without_their_bounds_are_rejected_and_nothing_else_is() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let targets = [Target::new("prometheus", prometheus.write_url())];
    let kind = Kind::server(RemoteWrite::V1).with_custom_buckets();
    let scene = Scene::start(directory.path(), kind, &targets).await;
    let scraped = scene.play().await;
    scraped.assert_has_everything(kind);

    // (One without observations is whole: it has no bucket that could lack its bounds.)
    let whole = scraped.samples.without_schema(CUSTOM_BUCKETS);
    let arrived = || async {
        let found = prometheus.holdings().await?;
        whole.compare(&found.without_schema(CUSTOM_BUCKETS), Keeps::Bits).map(|()| found)
    };
    let found = eventually("all else has arrived", arrived).await;
    let (_, values) = found.named("everything_wait_seconds").next().expect("it has ended");
    assert!(values.iter().all(|value| value.is_stale_marker()), "nothing else is known of it");
    let target = scene.relay.settled_all("prometheus", whole.sample_count()).await;
    assert_eq!(target.samples.delivered, target.samples.accepted, "{target:?}");
    assert!(scene.relay.answered("400").await > 0, "the sender is told");
}
