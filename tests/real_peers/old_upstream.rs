//! A Prometheus of years ago as the source: 2.42, which knows remote write 1.0 and native histograms as they were first.

use crate::metadata::arrives_by_family;
use crate::prometheus::{Kind, Receiver, RemoteWrite};
use crate::relay::Target;
use crate::rig::directory;
use crate::scene::Scene;
use crate::support::sink::Sink;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_prometheus_2_42_sends_reaches_a_prometheus_of_today_in_either_protocol() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let translated = Receiver::start("translated", directory.path(), RemoteWrite::V2).await;
    let sink = Sink::start().await;
    let targets = [
        Target::new("prometheus", prometheus.write_url()),
        Target::new("translated", translated.write_url()),
        Target::new("sink", sink.url()),
    ];
    let scene = Scene::start(directory.path(), Kind::old(), &targets).await;
    let scraped = scene.play().await;
    scraped.assert_has_everything(Kind::old());
    for target in ["prometheus", "translated", "sink"] {
        scene.relay.delivered_all(target, scraped.samples.sample_count()).await;
    }
    prometheus.holds(&scraped.samples).await;
    translated.holds(&scraped.samples).await;
    prometheus.holds_exemplars(&scraped.exemplars).await;
    arrives_by_family(&scraped.metadata, &sink).await;
    sink.assert_strict();
}
