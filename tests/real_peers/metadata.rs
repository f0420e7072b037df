//! What metric families are: as a Prometheus has scraped it, and as it arrives at a sink. A Prometheus that receives keeps
//! metadata to itself, so there is nothing to be asked there.

use std::collections::{BTreeMap, BTreeSet};

use promrelay::protocol::messages::{v1, v2};
use prost::Message;
use serde::Deserialize;

use crate::process::{eventually, http};
use crate::request::Protocol;
use crate::support::sink::{Received, Sink};

/// By the name of the family.
pub type Metadata = BTreeMap<String, Family>;

/// What one family is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Family {
    #[serde(rename = "type")]
    pub kind: String,
    pub help: String,
    #[serde(default)]
    pub unit: String,
}

/// What the Prometheus on 127.0.0.1:`port` knows of all that it scrapes now.
pub async fn scraped_metadata(port: u16) -> Metadata {
    let url = format!("http://127.0.0.1:{port}/api/v1/targets/metadata");
    let answer = http().get(url).send().await.expect("the source answers");
    let answer: Answer = answer.json().await.expect("an answer as documented");
    answer.data.into_iter().map(|found| (found.metric, found.family)).collect()
}

/// Waits until this sink has been told of each of these families, in messages of their own (1.0), what it is, and nothing else.
pub async fn arrives_by_family(expected: &Metadata, sink: &Sink) {
    eventually("metadata arrives", || async {
        let mut missing: Vec<_> = expected.keys().collect();
        for family in sink.requests().iter().filter(|it| it.protocol == Protocol::V1).flat_map(of_families) {
            let kind = family.r#type().as_str_name().to_lowercase();
            let found = Family { kind, help: family.help, unit: family.unit };
            let name = family.metric_family_name;
            assert_eq!(Some(&found), expected.get(&name), "of {name}");
            missing.retain(|missing| **missing != name);
        }
        if missing.is_empty() { Ok(()) } else { Err(format!("nothing was said of {missing:?}")) }
    })
    .await;
}

fn of_families(request: &Received) -> Vec<v1::MetricMetadata> {
    let message = snap::raw::Decoder::new().decompress_vec(&request.body).expect("the sink has read it");
    v1::WriteRequest::decode(&*message).expect("the sink has read it").metadata
}

/// By the name of a series all that was said of it, and `None` when it came without.
pub type OfSeries = BTreeMap<String, BTreeSet<Option<Family>>>;

/// Checks what was said of series, with each of their samples, against what the source knew, and that of everything something was.
pub fn assert_told_of_everything(expected: &Metadata, told: &OfSeries) {
    for (name, told) in told {
        // What Prometheus adds to each scrape its API does not know.
        let is_added = name == "up" || name.starts_with("scrape_");
        for told in told.iter().flatten().filter(|_| !is_added) {
            assert_eq!(Some(told), expected.get(family_of(name, expected)), "of {name}");
        }
    }
    let told_of = |name: &str, kind: &str, help: &str, unit: &str| {
        let family = Family { kind: kind.to_owned(), help: help.to_owned(), unit: unit.to_owned() };
        assert!(told[name].contains(&Some(family)), "of {name}: {:?}", told[name]);
    };
    let help = "\"Requests\" by path, \\ and\nwhat they were: \u{65e5}\u{672c}.";
    told_of("everything_requests_total", "counter", help, "");
    told_of("everything_temperature_celsius", "gauge", "How warm it is.", "celsius");
    told_of("everything_size_bytes", "summary", "Sizes.", "bytes");
    told_of("everything_size_bytes_sum", "summary", "Sizes.", "bytes");
    told_of("everything_latency_seconds", "histogram", "Integers, below and above zero.", "seconds");
    told_of("everything_load", "gaugehistogram", "Up and down.", "");
}

/// The family of a series: a summary, or a histogram of old, is several.
fn family_of<'a>(series: &'a str, known: &Metadata) -> &'a str {
    let families = ["_sum", "_count", "_bucket"].into_iter().filter_map(|suffix| series.strip_suffix(suffix));
    let mut known_ones = families.filter(|family| known.contains_key(*family));
    if known.contains_key(series) { series } else { known_ones.next().unwrap_or(series) }
}

/// What was said of series, as 1.0 says it: by family.
pub fn as_said_by_family(told: &OfSeries, known: &Metadata) -> Metadata {
    let told = told.iter().flat_map(|(name, told)| told.iter().flatten().map(move |family| (name, family)));
    told.map(|(name, family)| (family_of(name, known).to_owned(), family.clone())).collect()
}

/// What this sink was told of series, with each of their samples (2.0).
pub fn by_series(sink: &Sink) -> OfSeries {
    let mut found = OfSeries::new();
    for request in sink.requests().iter().filter(|request| request.protocol == Protocol::V2) {
        let message = snap::raw::Decoder::new().decompress_vec(&request.body).expect("the sink has read it");
        let v2::Request { symbols, timeseries } = v2::Request::decode(&*message).expect("the sink has read it");
        let symbol = |place: u32| symbols[place as usize].clone();
        for series in timeseries {
            let mut labels = series.labels_refs.chunks(2).map(|label| (symbol(label[0]), symbol(label[1])));
            let (_, name) = labels.find(|(name, _)| name == "__name__").expect("each series has a name");
            let metadata = series.metadata.filter(|metadata| *metadata != v2::Metadata::default());
            let family = metadata.map(|metadata| Family {
                kind: metadata.r#type().as_str_name().trim_start_matches("METRIC_TYPE_").to_lowercase(),
                help: symbol(metadata.help_ref),
                unit: symbol(metadata.unit_ref),
            });
            found.entry(name).or_default().insert(family);
        }
    }
    found
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    metric: String,
    #[serde(flatten)]
    family: Family,
}
