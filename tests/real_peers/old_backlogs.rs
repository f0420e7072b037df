//! A backlog that goes back further than a real Prometheus accepts, which has scraped meanwhile: what is young enough for
//! it arrives, the rest is refused and counted, and what is sent afterwards arrives at once.
//!
//! ```text
//!                 refused                      accepted
//!  |------------------------------------|----------------------|
//!  first of the backlog          newest sample - 1 h     newest sample, about now:
//!                                (half a block range)    Prometheus scrapes itself each second
//! ```

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::time::sleep;

use crate::process::eventually;
use crate::prometheus::{Receiver, RemoteWrite};
use crate::proxy::Proxy;
use crate::relay::{Relay, Target};
use crate::rig::directory;
use crate::samples::Keeps;
use crate::sent::{NAME, Sample, holdings, now, scrape, send};

const SERIES: usize = 10;
const HOUR_MS: i64 = 3_600_000;
/// How far behind its newest sample Prometheus accepts one: half the range of its smallest blocks, which is two hours.
const BOUND_MS: i64 = HOUR_MS;
/// What the search for what Prometheus accepts may cost: of each record its request and halvings along records, 1.67 times, and what the search has at first.
const REFUSALS_PER_RECORD_MAX: u64 = 4;
const REFUSALS_AT_FIRST: u64 = 1024;
/// More is not needed for a fresh sample on its way.
const FRESH_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_backlog_of_two_hours_all_that_prometheus_still_accepts_arrives() {
    Backlog { age_ms: 2 * HOUR_MS, step_ms: 15_000, scrapes_per_request: 1 }.comes_through().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_backlog_of_three_days_all_that_prometheus_still_accepts_arrives() {
    Backlog { age_ms: 72 * HOUR_MS, step_ms: 120_000, scrapes_per_request: 1 }.comes_through().await;
}

/// The end of what Prometheus accepts goes through a request: of ten scrapes in it one is too old, by seconds, and nine are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_request_that_is_too_old_in_part_all_that_prometheus_still_accepts_arrives() {
    Backlog { age_ms: 2 * HOUR_MS, step_ms: 15_000, scrapes_per_request: 10 }.comes_through().await;
}

/// What a target missed that was away while Prometheus scraped itself.
struct Backlog {
    /// How far it goes back.
    age_ms: i64,
    /// Between two samples of a series.
    step_ms: i64,
    scrapes_per_request: usize,
}

impl Backlog {
    /// A sample of each series at each step until `last`, oldest first, by requests.
    fn requests(&self, last: i64) -> Vec<Vec<Sample>> {
        let scrapes = (0..=self.age_ms / self.step_ms).rev().map(|ago| scrape(SERIES, last - ago * self.step_ms));
        scrapes.collect::<Vec<_>>().chunks(self.scrapes_per_request).map(<[_]>::concat).collect()
    }

    async fn comes_through(&self) {
        let directory = directory();
        let prometheus = Receiver::start_scraping("prometheus", directory.path(), RemoteWrite::V1).await;
        let proxy = Proxy::start(prometheus.port).await;
        proxy.answer(StatusCode::SERVICE_UNAVAILABLE);
        let relay = Relay::start(directory.path(), &[Target::new("prometheus", proxy.write_url())]).await;

        let last = now();
        let requests = self.requests(last);
        for request in &requests {
            send(&relay.write_url(), request).await;
        }
        let mut sent = requests.concat();
        let backlog = sent.len() as u64;
        let target = relay.target_becomes("prometheus", "backing off", |target| target.state == "backing_off").await;
        assert_eq!((target.samples.pending, target.samples.accepted), (backlog, backlog));

        let head_before = prometheus.newest_sample().await.expect("Prometheus shows its metrics");
        let came_back = Instant::now();
        proxy.pass();
        relay.settled_all("prometheus", backlog).await;
        let caught_up_after = came_back.elapsed();
        let head_after = prometheus.newest_sample().await.expect("Prometheus shows its metrics");
        assert!((last - head_before).abs() < 60_000, "Prometheus is at now: {head_before}");

        // The head moves meanwhile: what it passes may have come in time or not.
        let found = prometheus.holdings().await.expect("Prometheus answers").only(NAME);
        let times: Vec<i64> = found.timestamps().collect();
        let oldest = *times.iter().min().expect("something of the backlog is accepted");
        let refused = relay.refused("prometheus").await;
        let answers = relay.requests("prometheus").await;
        eprintln!(
            "of {backlog} samples {} arrived, the oldest {} s before the head; refused {refused:?}; after {caught_up_after:?}; \
             the head moved by {} ms; requests by code {answers:?}",
            times.len(),
            (head_after - oldest) as f64 / 1000.0,
            head_after - head_before,
        );
        assert!(oldest >= head_before - BOUND_MS, "Prometheus accepted what is older than its bound");
        sent.retain(|sample| sample.at >= oldest.min(head_after - BOUND_MS));
        holdings(&sent).compare(&found, Keeps::Bits).expect("what Prometheus accepts has arrived");

        let target = relay.target("prometheus").await;
        assert_eq!(target.samples.delivered, times.len() as u64, "{target:?}");
        assert_eq!(target.samples.refused, backlog - times.len() as u64, "{target:?}");
        assert_eq!(refused.values().sum::<u64>(), target.samples.refused);
        assert!(refused.keys().all(|reason| reason == "status" || reason == "unsplit"), "{refused:?}");
        let refusals = answers["400"];
        let records = requests.len() as u64;
        assert!(refusals <= REFUSALS_PER_RECORD_MAX * records + REFUSALS_AT_FIRST, "{refusals} for {records} records");

        for _ in 0..3 {
            let fresh = scrape(SERIES, now());
            let start = Instant::now();
            send(&relay.write_url(), &fresh).await;
            sent.extend(fresh);
            eventually("Prometheus holds what is fresh", || async {
                let found = prometheus.holdings().await?.only(NAME);
                holdings(&sent).compare(&found, Keeps::Bits)
            })
            .await;
            let took = start.elapsed();
            eprintln!("fresh samples arrived after {took:?}");
            assert!(took < FRESH_WITHIN, "{took:?}");
            sleep(Duration::from_millis(500)).await;
        }
        let target = relay.target("prometheus").await;
        assert_eq!((target.samples.delivered, &*target.state), (sent.len() as u64, "caught_up"), "{target:?}");
    }
}
