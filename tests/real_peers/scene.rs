//! A source of everything that Prometheus can send, and a relay that it sends to: what every comparison of all of it begins with.

use std::collections::BTreeSet;
use std::path::Path;

use crate::exemplars::{Exemplars, query_exemplars};
use crate::exporter::Exporter;
use crate::metadata::Metadata;
use crate::prometheus::{Kind, Receiver, Source};
use crate::relay::{Relay, Target};
use crate::samples::{CUSTOM_BUCKETS, Holdings};

pub struct Scene {
    pub relay: Relay,
    exporter: Exporter,
    source: Source,
    /// What a source that cannot be asked sends to as well, without the relay.
    witness: Option<Receiver>,
}

/// What the source had.
pub struct Scraped {
    pub samples: Holdings,
    pub exemplars: Exemplars,
    pub metadata: Metadata,
}

impl Scraped {
    /// Checks that there was all that the exporter has and a source of this kind can send.
    pub fn assert_has_everything(&self, kind: Kind) {
        let mut schemas = BTreeSet::from([-4, 0, 1, 2, 3, 8]);
        if kind.makes_custom_buckets {
            schemas.insert(CUSTOM_BUCKETS);
        }
        assert_eq!(self.samples.schemas(), schemas);
        assert!(self.metadata.len() > 100, "of the exporter and of Prometheus itself");
        assert_eq!(self.exemplars.series("everything_requests_total"), 3, "with labels, without, and without a time");
        // (Of the native histograms of a family Prometheus 3.5 reads those of the first, and 2.42 those of none.)
        assert!(kind.is_old || self.exemplars.series("everything_flickering_seconds") > 0, "a native histogram");
    }
}

impl Scene {
    /// Starts a relay with these targets and a source that sends to it.
    pub async fn start(directory: &Path, kind: Kind, targets: &[Target]) -> Scene {
        let relay = Relay::start(directory, targets).await;
        let exporter = Exporter::start_with_everything().await;
        let mut urls = vec![relay.write_url()];
        let mut witness = None;
        if kind.is_mute() {
            let receiver = Receiver::start("witness", directory, kind.sends()).await;
            urls.push(receiver.write_url());
            witness = Some(receiver);
        }
        let source = Source::start(directory, kind, &urls, &["everything"]).await;
        source.scrape("everything", &exporter.address);
        Scene { relay, exporter, source, witness }
    }

    /// Lets the source scrape for a while (one series pauses meanwhile), and ends all its series.
    pub async fn play(&self) -> Scraped {
        self.exporter.scraped(3).await;
        self.exporter.hide_flickering(true);
        self.exporter.scraped(2).await;
        self.exporter.hide_flickering(false);
        self.exporter.scraped(2).await;
        let metadata = self.source.metadata().await;
        let port = self.witness.as_ref().map_or(self.source.port, |witness| witness.port);
        let samples = self.source.silence_as_seen_at(port).await;
        let exemplars = query_exemplars(port).await.expect("a Prometheus answers");

        let ends = samples.named("everything_flickering_seconds").next().expect("it was there").1;
        assert_eq!(ends.iter().filter(|value| value.is_stale_marker()).count(), 2, "in the midst and at the end");
        Scraped { samples, exemplars, metadata }
    }
}
