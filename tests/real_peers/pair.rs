//! Two Prometheus servers with equal labels, as an HA pair without replica labels: each scrapes the same exporter, and what both have is sent to a
//! Prometheus that takes the first and refuses a request for a sample that is not newer. A third sender has a series twice in each request.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::exporter::Exporter;
use crate::process::eventually;
use crate::prometheus::{Kind, Receiver, RemoteWrite, Source};
use crate::proxy::Proxy;
use crate::relay::{Relay, Target};
use crate::rig::{directory, outage};
use crate::samples::{Holdings, Keeps};
use crate::sent::{self, Sample, holdings, now, scrape, send};

/// Of the sender of duplicates, in each scrape.
const SERIES: usize = 100;
const REQUESTS: usize = 4;
/// Requests that may go into finding out what is refused.
const SEARCHES: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_with_equal_labels_and_a_duplicate_series_cost_little() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let relay = Relay::start(directory.path(), &[Target::new("prometheus", prometheus.write_url())]).await;
    let exporter = Exporter::start().await;
    let mut sources = Vec::new();
    for (name, address) in [("a", "127.0.0.2"), ("b", "127.0.0.3")] {
        // Senders are told apart by their addresses.
        let proxy = Proxy::start_from(Some(address.parse().expect("it is one")), relay.port()).await;
        let directory = directory.path().join(name);
        std::fs::create_dir(&directory).expect("the directory can be written");
        let source = Source::start(&directory, Kind::plain(RemoteWrite::V1), &[proxy.write_url()], &["exporter"]).await;
        source.scrape("exporter", &exporter.address);
        sources.push(source);
    }

    let (start, mut sent) = (Instant::now(), Vec::new());
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < 2 * outage() {
        ticks.tick().await;
        let samples = scrape(SERIES, now());
        let first = samples[0];
        let mut requests: Vec<_> = samples.chunks(SERIES / REQUESTS).map(<[_]>::to_vec).collect();
        requests[0].push(Sample { value: first.value + 1.0, ..first });
        for request in requests {
            send(&relay.write_url(), &request).await;
        }
        sent.extend(samples);
    }
    let mut had = Vec::new();
    for source in &sources {
        had.push((source.address(), source.silence().await));
    }
    // (What a source holds it may send a moment later.)
    let arrived = || async {
        let found = prometheus.holdings().await?;
        for (address, had) in &had {
            let its_own = |holdings: Holdings| holdings.with("job", "itself").with("instance", address);
            its_own(had.clone()).compare(&its_own(found.clone()), Keeps::Bits)?;
        }
        Ok(found)
    };
    let found = eventually("what is the sources' own has arrived", arrived).await;
    let target = relay.target_becomes("prometheus", "caught up", |target| target.samples.pending == 0).await;
    let (requests, refused) = (relay.requests("prometheus").await, relay.refused("prometheus").await);
    eprintln!(
        "{} requests stored; sent, by answer: {requests:?}; refused: {refused:?}; {:?}",
        target.settled, target.samples
    );
    // (What is sent twice with the same value is taken twice, and there once.)
    assert!(target.samples.delivered >= found.sample_count());
    let found = found.only(sent::NAME);
    holdings(&sent).compare(&found, Keeps::Bits).expect("each first one has arrived");
    assert!(refused.keys().all(|reason| reason == "status" || reason == "unsplit"), "{refused:?}");
    let all: u64 = requests.values().sum();
    assert!(all <= SEARCHES + target.settled * 3 / 2, "{all} requests for {}", target.settled);
}
