//! A record's body, taken apart for people: remote write 1.0 and 2.0 in one form.

use prost::Message;
use serde::{Serialize, Serializer};

use super::text::Number;
use crate::protocol::messages::{v1, v2};
use crate::wal::record::Kind;

/// What a request says.
#[derive(Debug, Default, Serialize)]
pub struct Content {
    /// In the order of the request.
    pub series: Vec<Series>,
    /// Messages of their own (1.0).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<Metadata>,
}

/// Names and values, in the order of the request. In JSON an object.
#[derive(Debug, Default, PartialEq)]
pub struct Labels(pub Vec<(String, String)>);

/// The data of one series.
#[derive(Debug, Default, Serialize)]
pub struct Series {
    pub labels: Labels,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histograms: Vec<Histogram>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<Exemplar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "is_zero")]
    pub created_timestamp: i64,
}

#[derive(Debug, Serialize)]
pub struct Sample {
    pub timestamp: i64,
    pub value: Number,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_timestamp: i64,
}

#[derive(Debug, Serialize)]
pub struct Exemplar {
    pub labels: Labels,
    pub timestamp: i64,
    pub value: Number,
}

/// A count: whole in an integer histogram.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Count {
    Int(u64),
    Float(Number),
}

#[derive(Debug, Serialize)]
pub struct Span {
    pub offset: i32,
    pub length: u32,
}

#[derive(Debug, Serialize)]
pub struct Histogram {
    pub timestamp: i64,
    pub count: Count,
    pub sum: Number,
    pub schema: i32,
    pub zero_threshold: Number,
    pub zero_count: Count,
    pub negative_spans: Vec<Span>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub negative_deltas: Vec<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub negative_counts: Vec<Number>,
    pub positive_spans: Vec<Span>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub positive_deltas: Vec<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub positive_counts: Vec<Number>,
    pub reset_hint: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom_values: Vec<Number>,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_timestamp: i64,
}

#[derive(Debug, Serialize)]
pub struct Metadata {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metric_family_name: String,
    pub r#type: &'static str,
    pub help: String,
    pub unit: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Labels {
    /// As pairs of texts.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    /// The value of a label; an empty one is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Count {
    /// As text.
    pub fn show(&self) -> String {
        match self {
            Count::Int(count) => count.to_string(),
            Count::Float(count) => count.to_string(),
        }
    }
}

/// Why a body cannot be shown. It was stored as it came, and its checksum is right.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The compression.
    #[error("the body cannot be decompressed: {0}")]
    Snappy(#[from] snap::Error),
    /// The message.
    #[error("the body is not a message of its protocol: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

/// Takes a body apart.
///
/// # Errors
/// [`ContentError`].
pub fn decode(kind: Kind, body: &[u8]) -> Result<Content, ContentError> {
    let message = snap::raw::Decoder::new().decompress_vec(body)?;
    Ok(match kind {
        Kind::Write2 => of_v2(v2::Request::decode(&*message)?),
        Kind::Write1 | Kind::Seal => of_v1(v1::WriteRequest::decode(&*message)?),
    })
}

/// The message is the same in both protocols, but for its start timestamp in 2.0.
macro_rules! histogram {
    ($version:ident, $histogram:expr, $start_timestamp:expr) => {{
        use $version::histogram::{Count as CountOf, ResetHint, ZeroCount};
        let histogram: $version::Histogram = $histogram;
        let numbers = |values: Vec<f64>| values.into_iter().map(Number).collect();
        let spans = |spans: Vec<$version::BucketSpan>| {
            spans.into_iter().map(|$version::BucketSpan { offset, length }| Span { offset, length }).collect()
        };
        Histogram {
            timestamp: histogram.timestamp,
            reset_hint: ResetHint::try_from(histogram.reset_hint).map_or("unknown", |hint| match hint {
                ResetHint::Yes => "yes",
                ResetHint::No => "no",
                ResetHint::Gauge => "gauge",
                _ => "unknown",
            }),
            count: match histogram.count {
                Some(CountOf::CountFloat(count)) => Count::Float(Number(count)),
                Some(CountOf::CountInt(count)) => Count::Int(count),
                None => Count::Int(0),
            },
            sum: Number(histogram.sum),
            schema: histogram.schema,
            zero_threshold: Number(histogram.zero_threshold),
            zero_count: match histogram.zero_count {
                Some(ZeroCount::ZeroCountFloat(count)) => Count::Float(Number(count)),
                Some(ZeroCount::ZeroCountInt(count)) => Count::Int(count),
                None => Count::Int(0),
            },
            negative_spans: spans(histogram.negative_spans),
            negative_deltas: histogram.negative_deltas,
            negative_counts: numbers(histogram.negative_counts),
            positive_spans: spans(histogram.positive_spans),
            positive_deltas: histogram.positive_deltas,
            positive_counts: numbers(histogram.positive_counts),
            custom_values: numbers(histogram.custom_values),
            start_timestamp: $start_timestamp,
        }
    }};
}

fn of_v1(message: v1::WriteRequest) -> Content {
    let labels = |labels: Vec<v1::Label>| Labels(labels.into_iter().map(|label| (label.name, label.value)).collect());
    let series = message.timeseries.into_iter().map(|entry| Series {
        labels: labels(entry.labels),
        samples: (entry.samples.into_iter())
            .map(|sample| Sample { timestamp: sample.timestamp, value: Number(sample.value), start_timestamp: 0 })
            .collect(),
        histograms: entry.histograms.into_iter().map(|histogram| histogram!(v1, histogram, 0)).collect(),
        exemplars: (entry.exemplars.into_iter())
            .map(|exemplar| Exemplar {
                labels: labels(exemplar.labels),
                timestamp: exemplar.timestamp,
                value: Number(exemplar.value),
            })
            .collect(),
        ..Series::default()
    });
    let series = series.collect();
    let metadata = message.metadata.into_iter().map(|metadata| Metadata {
        r#type: v1::metric_metadata::MetricType::try_from(metadata.r#type).map_or("unknown", |kind| {
            use v1::metric_metadata::MetricType as Type;
            match kind {
                Type::Unknown => "unknown",
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram => "histogram",
                Type::Gaugehistogram => "gaugehistogram",
                Type::Summary => "summary",
                Type::Info => "info",
                Type::Stateset => "stateset",
            }
        }),
        metric_family_name: metadata.metric_family_name,
        help: metadata.help,
        unit: metadata.unit,
    });
    Content { series, metadata: metadata.collect() }
}

fn of_v2(message: v2::Request) -> Content {
    let v2::Request { symbols, timeseries } = message;
    let symbol = |place: u32| {
        let known = symbols.get(usize::try_from(place).unwrap_or(usize::MAX)).cloned();
        known.unwrap_or_else(|| format!("(no symbol {place})"))
    };
    let labels = |places: &[u32]| {
        let pairs =
            places.chunks(2).map(|pair| (symbol(pair[0]), pair.get(1).map(|value| symbol(*value)).unwrap_or_default()));
        Labels(pairs.collect())
    };
    let metadata = |metadata: v2::Metadata| Metadata {
        metric_family_name: String::new(),
        r#type: v2::metadata::MetricType::try_from(metadata.r#type).map_or("unknown", |kind| {
            use v2::metadata::MetricType as Type;
            match kind {
                Type::Unspecified => "unknown",
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram => "histogram",
                Type::Gaugehistogram => "gaugehistogram",
                Type::Summary => "summary",
                Type::Info => "info",
                Type::Stateset => "stateset",
            }
        }),
        help: symbol(metadata.help_ref),
        unit: symbol(metadata.unit_ref),
    };
    let series = timeseries.into_iter().map(|entry| Series {
        labels: labels(&entry.labels_refs),
        samples: (entry.samples.into_iter())
            .map(|sample| Sample {
                timestamp: sample.timestamp,
                value: Number(sample.value),
                start_timestamp: sample.start_timestamp,
            })
            .collect(),
        histograms: (entry.histograms.into_iter())
            .map(|histogram| {
                let start_timestamp = histogram.start_timestamp;
                histogram!(v2, histogram, start_timestamp)
            })
            .collect(),
        exemplars: (entry.exemplars.into_iter())
            .map(|exemplar| Exemplar {
                labels: labels(&exemplar.labels_refs),
                timestamp: exemplar.timestamp,
                value: Number(exemplar.value),
            })
            .collect(),
        // A series without it has an empty one on the wire.
        metadata: entry.metadata.filter(|metadata| *metadata != v2::Metadata::default()).map(metadata),
        created_timestamp: entry.created_timestamp,
    });
    Content { series: series.collect(), metadata: Vec::new() }
}
