//! Both targets hold what the source holds, when nothing goes wrong.

use crate::exporter::Exporter;
use crate::process::eventually;
use crate::prometheus::{Kind, Receiver, RemoteWrite};
use crate::relay::{Ledger, Relay, Target};
use crate::rig::{Rig, assert_series_came_and_went, directory};
use crate::victoria::{VictoriaMetrics, Vmagent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_write_1_0_reaches_prometheus_and_victoria_metrics_sample_for_sample() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let targets =
        [Target::new("prometheus", prometheus.write_url()), Target::new("victoria-metrics", victoria.write_url())];
    let kind = Kind::plain(RemoteWrite::V1).telling_often();
    let rig = Rig::start(&directory, kind, &targets).await;

    rig.make_series_come_and_go().await;
    let metadata = rig.source.metadata().await;
    let scraped = rig.source.silence().await;
    assert_series_came_and_went(&scraped);

    for name in ["prometheus", "victoria-metrics"] {
        rig.relay.delivered_all(name, scraped.sample_count()).await;
    }
    prometheus.holds(&scraped).await;
    victoria.holds(&scraped).await;
    victoria.knows(&metadata).await;
}

/// VictoriaMetrics answers 204 to remote write 2.0 and stores nothing of it. Only a relay that reads the answer's headers sees that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_write_2_0_reaches_prometheus_as_it_is_and_victoria_metrics_as_1_0() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V2).await;
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let targets =
        [Target::new("prometheus", prometheus.write_url()), Target::new("victoria-metrics", victoria.write_url())];
    let rig = Rig::start(&directory, RemoteWrite::V2, &targets).await;

    rig.make_series_come_and_go().await;
    let scraped = rig.source.silence().await;
    assert_series_came_and_went(&scraped);

    for name in ["prometheus", "victoria-metrics"] {
        rig.relay.delivered_all(name, scraped.sample_count()).await;
    }
    prometheus.holds(&scraped).await;
    victoria.holds(&scraped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_victoria_metrics_is_sent_in_2_0_all_the_same_is_held_and_not_lost() {
    let directory = directory();
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let insisting = Target {
        tuning: "max_backoff = \"1s\"\nprotocol = \"2.0\"",
        ..Target::new("victoria-metrics", victoria.write_url())
    };
    let mut rig = Rig::start(&directory, RemoteWrite::V2, std::slice::from_ref(&insisting)).await;
    let scraped = rig.source.silence().await;
    let count = scraped.sample_count();

    let held = rig
        .relay
        .target_becomes("victoria-metrics", "held with everything", |target| {
            target.state == "held" && target.samples.accepted == count
        })
        .await;
    assert_eq!(held.samples, Ledger { accepted: count, pending: count, ..Ledger::default() });
    assert_eq!(victoria.holdings().await.expect("VictoriaMetrics answers").sample_count(), 0);

    // That nothing is lost shows when the relay may send what it is asked for.
    rig.relay.stop().await;
    rig.relay.start_again(&[Target::new("victoria-metrics", victoria.write_url())]).await;
    rig.relay.delivered_all("victoria-metrics", count).await;
    victoria.holds(&scraped).await;
}

/// vmagent first offers a protocol of its own, with zstd, and falls back to remote write 1.0 when it is told that nobody speaks it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vmagent_scrapes_reaches_prometheus_without_a_gap() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let relay = Relay::start(directory.path(), &[Target::new("prometheus", prometheus.write_url())]).await;
    let exporter = Exporter::start().await;
    let _vmagent = Vmagent::start(directory.path(), &relay.write_url(), &exporter.address).await;
    exporter.scraped(8).await;
    // It ends its series when their exporter is gone; it would not when it ends itself.
    let scrapes = exporter.leave();

    // vmagent stores nothing that could be compared, but the counter tells what it scraped.
    eventually("Prometheus holds every scrape", || async {
        let holdings = prometheus.holdings().await?;
        let (_, values) = holdings.named("exporter_scrapes_total").next().ok_or("it holds none")?;
        let (last, counted) = values.split_last().ok_or("it holds none")?;
        if !last.is_stale_marker() {
            return Err("the series has not ended".to_owned());
        }
        let counted: Vec<_> = counted.iter().filter_map(|value| value.float()).collect();
        let all: Vec<_> = (1..=scrapes).map(|scrape| scrape as f64).collect();
        (counted == all).then_some(()).ok_or_else(|| format!("{scrapes} scrapes became {counted:?}"))
    })
    .await;
    assert_eq!(relay.answered("415").await, 1, "it has asked once");
    let target = relay.target("prometheus").await;
    assert_eq!((target.samples.refused, target.samples.lost), (0, 0));
}
