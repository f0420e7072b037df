//! A page of metrics as `io.prometheus.client.MetricFamily` messages, the one exposition that can say native histograms: all kinds of
//! metrics, with exemplars, and with help and units that Prometheus makes metadata of.
//!
//! The messages (`metrics.proto` of prometheus/client_model) are written down by hand, as far as they are needed.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

/// What a scraper must accept to be given such a page, and what the page's type then is.
pub const ACCEPTED: &str = "application/vnd.google.protobuf";
pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// What a scraper accepts that takes names with any letters in them.
pub const ANY_NAME: &str = "escaping=allow-utf-8";

/// The page of scrape number `scrape`.
pub struct Page {
    pub scrape: u64,
    /// Whether the scraper takes names with any letters in them.
    pub has_any_name: bool,
    /// Whether the native histogram `everything_flickering_seconds` is away.
    pub hides_flickering: bool,
}

impl Page {
    pub fn encode(&self) -> Vec<u8> {
        self.families().iter().flat_map(Message::encode_length_delimited_to_vec).collect()
    }

    fn families(&self) -> Vec<MetricFamily> {
        let scrape = self.scrape as f64;
        let counted = |path: &str, exemplar| Metric {
            counter: Some(Counter { value: scrape, exemplar: Some(exemplar) }),
            ..Metric::labelled("path", path)
        };
        let mut families = vec![
            family(
                ("everything_requests_total", COUNTER, ""),
                "\"Requests\" by path, \\ and\nwhat they were: \u{65e5}\u{672c}.",
                vec![
                    counted("/", self.exemplar(scrape, 0)),
                    counted("/no-label", Exemplar { label: Vec::new(), ..self.exemplar(scrape, 1) }),
                    counted("/no-time", Exemplar { timestamp: None, ..self.exemplar(scrape, 2) }),
                ],
            ),
            family(
                ("everything_temperature_celsius", GAUGE, "celsius"),
                "How warm it is.",
                vec![
                    Metric { gauge: Some(Gauge { value: -0.0 }), ..Metric::labelled("place", "at home") },
                    Metric { gauge: Some(Gauge { value: 1.0 / scrape }), ..Metric::labelled("place", "outside") },
                ],
            ),
            family(("everything_size_bytes", SUMMARY, "bytes"), "Sizes.", vec![self.summary()]),
            family(
                ("everything_untyped", UNTYPED, ""),
                "",
                vec![Metric { untyped: Some(Untyped { value: scrape }), ..Metric::default() }],
            ),
            family(("everything_wait_seconds", HISTOGRAM, "seconds"), "Buckets as of old.", vec![self.classic()]),
            family(
                ("everything_latency_seconds", HISTOGRAM, "seconds"),
                "Integers, below and above zero.",
                vec![self.native(3, "fine"), self.native(-4, "coarse"), self.native(8, "finest")],
            ),
            family(("everything_load", GAUGE_HISTOGRAM, ""), "Up and down.", vec![self.gauge()]),
            family(("everything_share_ratio", HISTOGRAM, "ratio"), "Floats.", vec![self.float()]),
            family(("everything_never_seconds", HISTOGRAM, "seconds"), "Nothing.", vec![nothing_observed()]),
        ];
        if !self.hides_flickering {
            families.push(family(
                ("everything_flickering_seconds", HISTOGRAM, "seconds"),
                "Comes and goes.",
                vec![self.native(0, "here")],
            ));
        }
        if self.has_any_name {
            families.push(family(
                ("everything.\u{fc}n\u{ef}/name", GAUGE, ""),
                "A name that had to be quoted.",
                vec![Metric { gauge: Some(Gauge { value: scrape }), ..Metric::labelled("a.b/\u{fc}", "c") }],
            ));
        }
        families
    }

    /// An exemplar with a time of its own, different in each scrape and for each `place`.
    fn exemplar(&self, value: f64, place: u32) -> Exemplar {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let nanos = now.subsec_millis() / 10 * 10_000_000 + place * 1_000_000;
        let trace = format!("{:016x}-{place}", self.scrape);
        Exemplar {
            label: vec![label("trace_id", &trace), label("user", "\u{fc}n\u{ef}")],
            value,
            timestamp: Some(Timestamp { seconds: now.as_secs() as i64, nanos: nanos as i32 }),
        }
    }

    fn summary(&self) -> Metric {
        let quantile = [(0.5, 100.0), (0.99, f64::NAN)].map(|(quantile, value)| Quantile { quantile, value });
        let (sample_count, sample_sum) = (self.scrape, self.scrape as f64 * 100.0);
        Metric { summary: Some(Summary { sample_count, sample_sum, quantile: quantile.into() }), ..Metric::default() }
    }

    /// Buckets with bounds that somebody chose, as `_bucket`, `_sum` and `_count`, or as one native histogram with custom bounds.
    fn classic(&self) -> Metric {
        let bounds = [(0.1, 1), (2.5, 3), (f64::INFINITY, 4)];
        let bucket = bounds.into_iter().zip(0..).map(|((upper_bound, each), place)| Bucket {
            cumulative_count: each * self.scrape,
            upper_bound,
            exemplar: Some(self.exemplar(upper_bound.min(100.0) / 2.0, place)),
        });
        let (sample_count, sample_sum) = (4 * self.scrape, 12.5 * self.scrape as f64);
        let histogram = Histogram { sample_count, sample_sum, bucket: bucket.collect(), ..Histogram::default() };
        Metric { histogram: Some(histogram), ..Metric::default() }
    }

    /// Counts that grow, in buckets on both sides of zero, with a gap between them; more of them in each scrape.
    fn native(&self, schema: i32, how: &str) -> Metric {
        let more = self.scrape.min(20) as usize;
        // Each times the scrape: 1, 2, and once 3 for each further bucket.
        let deltas = [1, 1, 1].into_iter().chain(std::iter::repeat(0)).take(2 + more);
        let histogram = Histogram {
            sample_count: self.scrape * (1 + 2 + 3 * more as u64 + 2 + 1),
            sample_sum: 0.1 * self.scrape as f64,
            schema,
            zero_threshold: 0.001,
            zero_count: 2 * self.scrape,
            negative_span: vec![BucketSpan { offset: -3, length: 1 }],
            negative_delta: vec![self.scrape as i64],
            positive_span: vec![BucketSpan { offset: 0, length: 2 }, BucketSpan { offset: 5, length: more as u32 }],
            positive_delta: deltas.map(|delta: i64| delta * self.scrape as i64).collect(),
            exemplars: vec![self.exemplar(0.5, 4), self.exemplar(-1.5, 5)],
            ..Histogram::default()
        };
        Metric { histogram: Some(histogram), ..Metric::labelled("how", how) }
    }

    /// Integers that also shrink.
    fn gauge(&self) -> Metric {
        let now = [5, 2, 9][self.scrape as usize % 3];
        let histogram = Histogram {
            sample_count: now,
            sample_sum: f64::NAN,
            schema: 2,
            zero_threshold: 1e-128,
            positive_span: vec![BucketSpan { offset: 1, length: 1 }],
            positive_delta: vec![now as i64],
            ..Histogram::default()
        };
        Metric { histogram: Some(histogram), ..Metric::default() }
    }

    fn float(&self) -> Metric {
        let scrape = self.scrape as f64;
        let histogram = Histogram {
            sample_count_float: 1.75 * scrape,
            sample_sum: scrape / 3.0,
            schema: 1,
            zero_threshold: 1e-9,
            zero_count_float: 0.5 * scrape,
            negative_span: vec![BucketSpan { offset: 0, length: 1 }],
            negative_count: vec![0.25 * scrape],
            positive_span: vec![BucketSpan { offset: -7, length: 2 }],
            positive_count: vec![0.75 * scrape, 0.25 * scrape],
            ..Histogram::default()
        };
        Metric { histogram: Some(histogram), ..Metric::default() }
    }
}

/// A span without a bucket says that it is a native histogram.
fn nothing_observed() -> Metric {
    let positive_span = vec![BucketSpan { offset: 0, length: 0 }];
    let histogram = Histogram { schema: 3, zero_threshold: 1e-128, positive_span, ..Histogram::default() };
    Metric { histogram: Some(histogram), ..Metric::default() }
}

const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const SUMMARY: i32 = 2;
const UNTYPED: i32 = 3;
const HISTOGRAM: i32 = 4;
const GAUGE_HISTOGRAM: i32 = 5;

fn family((name, kind, unit): (&str, i32, &str), help: &str, metric: Vec<Metric>) -> MetricFamily {
    MetricFamily { name: name.to_owned(), help: help.to_owned(), kind: Some(kind), metric, unit: unit.to_owned() }
}

fn label(name: &str, value: &str) -> LabelPair {
    LabelPair { name: name.to_owned(), value: value.to_owned() }
}

impl Metric {
    fn labelled(name: &str, value: &str) -> Metric {
        Metric { label: vec![label(name, value)], ..Metric::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, tag = "5")]
    unit: String,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    untyped: Option<Untyped>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(message, optional, tag = "2")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Untyped {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    quantile: Vec<Quantile>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantile {
    #[prost(double, tag = "1")]
    quantile: f64,
    #[prost(double, tag = "2")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(double, tag = "4")]
    sample_count_float: f64,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(double, tag = "8")]
    zero_count_float: f64,
    #[prost(message, repeated, tag = "9")]
    negative_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "10")]
    negative_delta: Vec<i64>,
    #[prost(double, repeated, tag = "11")]
    negative_count: Vec<f64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(double, repeated, tag = "14")]
    positive_count: Vec<f64>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
