//! Single samples that a real Prometheus refuses, among many that it takes; and the same for VictoriaMetrics, which takes them all.
//!
//! Prometheus stores all of a 1.0 request or nothing of it. To find out what it would have taken is up to the relay.

use std::collections::BTreeMap;

use crate::prometheus::{Receiver, RemoteWrite};
use crate::relay::{Relay, Target};
use crate::rig::directory;
use crate::sent::{Sample, holdings, now, scrape, send};
use crate::victoria::VictoriaMetrics;

const SERIES: usize = 300;
/// The series with the bad samples, and what Prometheus says of those.
const OUT_OF_ORDER: (usize, &str) = (17, "out of order sample");
const TOO_OLD: (usize, &str) = (150, "out of bounds");
const OTHER_VALUE: (usize, &str) = (299, "duplicate sample for timestamp");

/// Three scrapes of all series, a second apart. In the second one, three samples are bad after what the first one brought.
struct Scrapes {
    first: Vec<Sample>,
    second: Vec<Sample>,
    third: Vec<Sample>,
}

impl Scrapes {
    fn new() -> Scrapes {
        let head = now() - 5_000;
        let [first, mut second, third] = [0, 1_000, 2_000].map(|later| scrape(SERIES, head + later));
        second[OUT_OF_ORDER.0].at = head - 30_000;
        second[TOO_OLD.0].at = head - 3 * 3_600_000;
        second[OTHER_VALUE.0].at = head;
        Scrapes { first, second, third }
    }

    /// Sends them to the relay, each when the one before is settled.
    async fn send(&self, relay: &Relay, target: &str) {
        for (scrape, count) in [&self.first, &self.second, &self.third].into_iter().zip(1..) {
            send(&relay.write_url(), scrape).await;
            relay.settled_all(target, (SERIES * count) as u64).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Sample> {
        [&self.first, &self.second, &self.third].into_iter().flatten()
    }

    fn bad(&self) -> [&Sample; 3] {
        [OUT_OF_ORDER, TOO_OLD, OTHER_VALUE].map(|(series, _)| &self.second[series])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_request_with_three_samples_that_prometheus_refuses_all_others_arrive_and_so_do_later_ones() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let relay = Relay::start(directory.path(), &[Target::new("prometheus", prometheus.write_url())]).await;
    let scrapes = Scrapes::new();
    scrapes.send(&relay, "prometheus").await;

    let bad = scrapes.bad();
    prometheus.holds(&holdings(scrapes.all().filter(|sample| !bad.contains(sample)))).await;
    let target = relay.target("prometheus").await;
    assert_eq!((target.samples.delivered, target.samples.refused), (3 * SERIES as u64 - 3, 3));
    assert_eq!(relay.refused("prometheus").await, BTreeMap::from([("status".to_owned(), 3)]));
    assert_eq!(target.state, "caught_up", "{target:?}");

    let letters = relay.dead_letters().await;
    for (series, says) in [OUT_OF_ORDER, TOO_OLD, OTHER_VALUE] {
        let name = format!("series=\"{series}\"");
        let of_series: Vec<_> = letters.iter().filter(|letter| letter.series.contains(&name)).collect();
        let [letter] = &*of_series else { panic!("not one entry of {name}: {letters:?}") };
        assert_eq!((letter.samples, letter.status, &*letter.reason), (1, Some(400), "status"), "{letter:?}");
        assert!(letter.text.contains(says), "{letter:?} does not say {says:?}");
    }
    assert_eq!(letters.len(), 3, "{letters:?}");
    eprintln!("requests by code: {:?}", relay.requests("prometheus").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prometheus_refuses_sample_by_sample_victoria_metrics_has_in_full() {
    let directory = directory();
    let victoria = VictoriaMetrics::start(directory.path()).await;
    let relay = Relay::start(directory.path(), &[Target::new("victoria-metrics", victoria.write_url())]).await;
    let scrapes = Scrapes::new();
    scrapes.send(&relay, "victoria-metrics").await;

    relay.delivered_all("victoria-metrics", 3 * SERIES as u64).await;
    victoria.holds(&holdings(scrapes.all())).await;
    assert_eq!(relay.refused("victoria-metrics").await, BTreeMap::new());
    assert_eq!(relay.dead_letters().await, []);
    assert_eq!(relay.requests("victoria-metrics").await.keys().collect::<Vec<_>>(), ["204"]);
}
