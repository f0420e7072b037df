//! What every scenario has: a source with something to scrape, the relay, and a directory for all their data.

use std::time::Duration;

use tempfile::TempDir;

use crate::exporter::Exporter;
use crate::prometheus::{Kind, Source};
use crate::relay::{Relay, Target};
use crate::samples::Holdings;

/// A directory for a scenario's servers, on the disk that also holds the build.
pub fn directory() -> TempDir {
    let parent = env!("CARGO_TARGET_TMPDIR");
    tempfile::Builder::new().prefix("real-peers-").tempdir_in(parent).expect("cargo made a directory for this")
}

/// How long a target is kept away: `REAL_PEERS_OUTAGE_SECONDS`, else 15 s.
pub fn outage() -> Duration {
    let seconds = std::env::var("REAL_PEERS_OUTAGE_SECONDS").map_or(15, |seconds| {
        seconds.parse().unwrap_or_else(|_| panic!("REAL_PEERS_OUTAGE_SECONDS is not a number: {seconds:?}"))
    });
    Duration::from_secs(seconds)
}

/// A Prometheus that scrapes itself and an exporter, and a relay to which it sends.
pub struct Rig {
    pub source: Source,
    pub exporter: Exporter,
    pub relay: Relay,
}

impl Rig {
    /// Starts a relay with these targets and a source that sends to it, and waits until scrapes come in.
    pub async fn start(directory: &TempDir, kind: impl Into<Kind>, targets: &[Target]) -> Rig {
        let relay = Relay::start(directory.path(), targets).await;
        let exporter = Exporter::start().await;
        let source = Source::start(directory.path(), kind.into(), &[relay.write_url()], &["exporter", "leaving"]).await;
        source.scrape("exporter", &exporter.address);
        exporter.scraped(3).await;
        Rig { source, exporter, relay }
    }

    /// Makes stale markers in the midst of things: one series pauses for a few scrapes and another exporter comes and goes.
    pub async fn make_series_come_and_go(&self) {
        let leaving = Exporter::start().await;
        self.source.scrape("leaving", &leaving.address);
        self.exporter.scraped(2).await;
        self.exporter.hide_flickering(true);
        self.exporter.scraped(3).await;
        self.exporter.hide_flickering(false);
        leaving.scraped(2).await;
        leaving.leave();
        self.exporter.scraped(3).await;
    }
}

/// Checks that the source's samples really hold what [`Rig::make_series_come_and_go`] means to make.
pub fn assert_series_came_and_went(holdings: &Holdings) {
    let stale_markers = |name: &str, job: &str| {
        let mut series = holdings.named(name).filter(|(labels, _)| labels.get("job").is_some_and(|found| found == job));
        let (_, values) = series.next().unwrap_or_else(|| panic!("no {name} of {job}"));
        values.iter().filter(|value| value.is_stale_marker()).count()
    };
    assert_eq!(stale_markers("exporter_flickering", "exporter"), 2, "in the midst and at the end");
    assert_eq!(stale_markers("exporter_scrapes_total", "exporter"), 1, "at the end");
    assert_eq!(stale_markers("exporter_scrapes_total", "leaving"), 1, "when it left");
    assert_eq!(stale_markers("up", "leaving"), 1, "at the end: until then it was 0");
}
