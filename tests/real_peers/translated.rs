//! Targets that do not take the protocol of the source: the relay finds that out by itself and translates, and what the other protocol
//! can say is the same at both ends.

use crate::metadata::{arrives_by_family, as_said_by_family, assert_told_of_everything, by_series};
use crate::prometheus::{Kind, Receiver, RemoteWrite};
use crate::relay::{Ledger, Target};
use crate::request::Protocol;
use crate::rig::directory;
use crate::samples::{CUSTOM_BUCKETS, Holdings, Value};
use crate::scene::Scene;
use crate::support::sink::{Answer, Sink};
use crate::victoria::VictoriaMetrics;

const ALWAYS_1_0: &str = "max_backoff = \"1s\"\nprotocol = \"1.0\"";
const ALWAYS_2_0: &str = "max_backoff = \"1s\"\nprotocol = \"2.0\"";
const CLASSIC: &str = "max_backoff = \"1s\"\ncustom_buckets = \"classic\"";

/// A sink that answers 415 to all but one protocol.
async fn sink_that_takes(protocol: Protocol) -> Sink {
    let sink = Sink::start().await;
    sink.script(move |request| match request.protocol {
        known if known == protocol => Answer::status(204),
        _ => Answer::status(415).without_written(),
    });
    sink
}

/// How many requests with something in them came in the protocol.
fn arrived_in(sink: &Sink, protocol: Protocol) -> usize {
    sink.requests().iter().filter(|request| request.protocol == protocol).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_2_0_reaches_targets_that_take_only_1_0() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V1).await;
    let classic = Receiver::start("classic", directory.path(), RemoteWrite::V1).await;
    let (sink, told) = (sink_that_takes(Protocol::V1).await, Sink::start().await);
    let (as_it_is, victoria) = (Sink::start().await, VictoriaMetrics::start(directory.path()).await);
    let targets = [
        Target::new("prometheus", prometheus.write_url()),
        Target { tuning: CLASSIC, ..Target::new("classic", classic.write_url()) },
        Target::new("victoria-metrics", victoria.write_url()),
        Target::new("as-it-is", as_it_is.url()),
        Target::new("sink", sink.url()),
        Target { tuning: ALWAYS_1_0, ..Target::new("told", told.url()) },
    ];
    let kind = Kind::server(RemoteWrite::V2);
    let scene = Scene::start(directory.path(), kind, &targets).await;
    let scraped = scene.play().await;
    scraped.assert_has_everything(kind);

    // Histograms with custom buckets 1.0 cannot say; so their ends and exemplars are those of a series that is not there.
    let count = scraped.samples.sample_count();
    let sayable = scraped.samples.without_series_of_schema(CUSTOM_BUCKETS);
    assert_eq!(sayable.named(CUSTOM).count(), 0);
    let exemplars = scraped.exemplars.count();
    let sayable_exemplars = scraped.exemplars.without(CUSTOM);
    let left_out = (exemplars - sayable_exemplars.count()) as u64;
    assert!(left_out > 0);
    let (delivered, dropped) = (sayable.sample_count(), count - sayable.sample_count());
    for name in ["prometheus", "victoria-metrics", "sink", "told"] {
        let target = scene.relay.settled_all(name, count).await;
        assert_eq!(target.samples, Ledger { accepted: count, delivered, dropped, ..Ledger::default() }, "of {name}");
        let untranslated = [("custom_buckets".to_owned(), dropped), ("exemplar".to_owned(), left_out)];
        assert_eq!(scene.relay.untranslated(name).await, untranslated.into(), "of {name}");
    }
    prometheus.holds(&sayable).await;
    prometheus.holds_exemplars(&sayable_exemplars).await;
    scene.relay.delivered_all("as-it-is", count).await;
    let metadata = as_said_by_family(&by_series(&as_it_is), &scraped.metadata);
    assert!(metadata.len() > 100, "of nearly everything");
    arrives_by_family(&metadata, &sink).await;
    victoria.knows(&metadata).await;

    // Nothing but an empty request was ever answered with 415, and a target whose protocol is configured is not asked.
    for name in ["prometheus", "sink"] {
        assert_eq!(scene.relay.requests(name).await.get("415"), Some(&1), "of {name}");
    }
    assert_eq!((arrived_in(&sink, Protocol::V2), arrived_in(&told, Protocol::V2)), (0, 0));
    assert_eq!(scene.relay.requests("told").await.get("415"), None);
    sink.assert_strict();
    told.assert_strict();

    // Or they become series with floats, as they were when they were scraped.
    scene.relay.delivered_all("classic", count).await;
    let found = classic.holdings().await.expect("Prometheus answers");
    for (of, each) in CLASSIC_SERIES {
        let values: Vec<_> = of_classic(&found, of).iter().filter_map(|value| value.float()).collect();
        let values: Vec<_> = values.into_iter().filter(|value| !value.is_nan()).collect();
        let expected: Vec<_> = (1..=values.len()).map(|scrape| scrape as f64 * each).collect();
        assert_eq!(values, expected, "of {of}");
        assert!(values.len() > 5, "of {of}: each scrape");
    }
}

/// The exporter's histogram with buckets of old.
const CUSTOM: &str = "everything_wait_seconds";

/// What the exporter's histogram with buckets of old becomes: the series, and by how much it grows with each scrape.
const CLASSIC_SERIES: [(&str, f64); 3] = [("_count", 4.0), ("_sum", 12.5), ("_bucket", 3.0)];

/// The samples of one of its series; of the buckets, of that up to 2.5 s.
fn of_classic<'a>(found: &'a Holdings, of: &str) -> Vec<&'a Value> {
    let name = format!("{CUSTOM}{of}");
    let mut series = found.named(&name).filter(|(labels, _)| labels.get("le").is_none_or(|bound| bound == "2.5"));
    series.next().unwrap_or_else(|| panic!("no {name}")).1
}

/// At the end of a histogram Prometheus sends a stale marker without a schema and without bounds: it does not say which series have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_classic_series_of_custom_buckets_end_when_the_histogram_does() {
    let directory = directory();
    let classic = Receiver::start("classic", directory.path(), RemoteWrite::V1).await;
    let targets = [Target { tuning: CLASSIC, ..Target::new("classic", classic.write_url()) }];
    let scene = Scene::start(directory.path(), Kind::server(RemoteWrite::V2), &targets).await;
    let scraped = scene.play().await;
    scene.relay.settled_all("classic", scraped.samples.sample_count()).await;
    let found = classic.holdings().await.expect("Prometheus answers");
    assert_eq!(found.named(CUSTOM).count(), 0, "no native marker");
    let name = format!("{CUSTOM}_bucket");
    let lasts = found.named(&name).map(|(_, values)| values.last().is_some_and(|last| last.is_stale_marker()));
    assert_eq!(lasts.collect::<Vec<_>>(), [true; 3], "each bucket ends");
    for (of, _) in CLASSIC_SERIES {
        let last = of_classic(&found, of).pop().expect("a series has samples");
        assert!(last.is_stale_marker(), "{of} ends in {last}");
    }
}

/// Prometheus sends each exemplar in an entry of its own, of the histogram.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exemplars_of_custom_buckets_go_to_the_classic_buckets_they_fell_into() {
    let directory = directory();
    let classic = Receiver::start("classic", directory.path(), RemoteWrite::V1).await;
    let targets = [Target { tuning: CLASSIC, ..Target::new("classic", classic.write_url()) }];
    let scene = Scene::start(directory.path(), Kind::server(RemoteWrite::V2), &targets).await;
    let scraped = scene.play().await;
    scene.relay.settled_all("classic", scraped.samples.sample_count()).await;
    let expected = scraped.exemplars.in_classic_buckets(CUSTOM, &[0.1, 2.5]);
    assert_eq!(expected.series(&format!("{CUSTOM}_bucket")), 3);
    classic.holds_exemplars(&expected).await;
    assert_eq!(scene.relay.untranslated("classic").await, [].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_1_0_reaches_targets_that_take_only_2_0() {
    let directory = directory();
    let prometheus = Receiver::start("prometheus", directory.path(), RemoteWrite::V2).await;
    let (sink, told) = (sink_that_takes(Protocol::V2).await, Sink::start().await);
    let targets = [
        Target::new("prometheus", prometheus.write_url()),
        Target::new("sink", sink.url()),
        Target { tuning: ALWAYS_2_0, ..Target::new("told", told.url()) },
    ];
    let kind = Kind::server(RemoteWrite::V1);
    let scene = Scene::start(directory.path(), kind, &targets).await;
    let scraped = scene.play().await;
    scraped.assert_has_everything(kind);

    for name in ["prometheus", "sink", "told"] {
        scene.relay.delivered_all(name, scraped.samples.sample_count()).await;
    }
    prometheus.holds(&scraped.samples).await;
    // In 2.0 an exemplar goes with a sample of its series. Prometheus sends it behind that, most often in the same request.
    let left_out = scene.relay.untranslated("prometheus").await;
    assert!(left_out.keys().all(|what| what == "exemplar"), "{left_out:?}");
    prometheus.holds_exemplars_but(left_out.values().sum(), &scraped.exemplars).await;
    // Metadata comes in requests of its own, so the first samples may have none yet.
    assert_told_of_everything(&scraped.metadata, &by_series(&sink));

    // What was sent before the first answer came was answered with 415, and nothing later. (With 400 the same may be answered in 2.0:
    // Prometheus 3.5 stores what it answers 415 to, and finds the exemplars already there.)
    assert!(scene.relay.requests("prometheus").await.contains_key("415"));
    let protocols: Vec<_> = sink.requests().iter().map(|request| request.protocol).collect();
    let first_in_2_0 = protocols.iter().position(|protocol| *protocol == Protocol::V2).expect("most are in 2.0");
    assert_ne!(first_in_2_0, 0, "it was not known before");
    assert_eq!(arrived_in(&sink, Protocol::V1), first_in_2_0, "{protocols:?}");
    assert_eq!(arrived_in(&told, Protocol::V1), 0);
    sink.assert_strict();
    told.assert_strict();
}
