//! Requests of every shape that the protocols allow and senders really send, named. Nothing is wrong with any of them: each is what may
//! lie in the log. Most are written byte by byte, because no encoder would write them so.

use prost::Message;
use prost::encoding::encode_varint;

use super::Protocol;
use super::arbitrary::as_2;
use super::messages::{v1 as pb1, v2 as pb2};
use super::plain::histogram_2;
use super::text::STALE;

/// One of them.
pub struct Case {
    /// What is special.
    pub name: &'static str,
    pub protocol: Protocol,
    pub message: Vec<u8>,
}

/// All.
pub fn cases() -> Vec<Case> {
    let one = cases_1().into_iter().map(|(name, message)| Case { name, protocol: Protocol::V1, message });
    let two = cases_2().into_iter().map(|(name, message)| Case { name, protocol: Protocol::V2, message });
    one.chain(two).collect()
}

/// A length-delimited field.
pub fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number) << 3 | 2, &mut field);
    encode_varint(content.len() as u64, &mut field);
    field.extend(content);
    field
}

/// A number.
pub fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number) << 3, &mut field);
    encode_varint(value, &mut field);
    field
}

/// Eight bytes.
pub fn fixed(number: u32, bits: u64) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number) << 3 | 1, &mut field);
    field.extend(bits.to_le_bytes());
    field
}

/// An old group with a number in it.
pub fn group(number: u32) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number) << 3 | 3, &mut field);
    field.extend(varint(1, 7));
    encode_varint(u64::from(number) << 3 | 4, &mut field);
    field
}

/// A number with two bytes more than it needs.
fn padded(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(value, &mut bytes);
    *bytes.last_mut().unwrap() |= 0x80;
    bytes.extend([0x80, 0]);
    bytes
}

pub fn label(name: &str, value: &str) -> pb1::Label {
    pb1::Label { name: name.into(), value: value.into() }
}

pub fn series(labels: &[(&str, &str)]) -> pb1::TimeSeries {
    let labels = labels.iter().map(|(name, value)| label(name, value)).collect();
    pb1::TimeSeries { labels, ..Default::default() }
}

pub fn sample(bits: u64, timestamp: i64) -> pb1::Sample {
    pb1::Sample { value: f64::from_bits(bits), timestamp }
}

pub fn exemplar(labels: &[(&str, &str)], value: f64, timestamp: i64) -> pb1::Exemplar {
    pb1::Exemplar { labels: labels.iter().map(|(name, value)| label(name, value)).collect(), value, timestamp }
}

fn span(offset: i32, length: u32) -> pb1::BucketSpan {
    pb1::BucketSpan { offset, length }
}

pub fn integer_histogram() -> pb1::Histogram {
    pb1::Histogram {
        count: Some(pb1::histogram::Count::CountInt(11)),
        sum: 18.5,
        schema: 3,
        zero_threshold: 0.001,
        zero_count: Some(pb1::histogram::ZeroCount::ZeroCountInt(2)),
        negative_spans: vec![span(0, 1)],
        negative_deltas: vec![1],
        positive_spans: vec![span(-2, 2), span(3, 1)],
        positive_deltas: vec![1, 2, 1],
        reset_hint: 3,
        timestamp: 99,
        ..Default::default()
    }
}

pub fn float_histogram() -> pb1::Histogram {
    pb1::Histogram {
        count: Some(pb1::histogram::Count::CountFloat(4.5)),
        zero_count: Some(pb1::histogram::ZeroCount::ZeroCountFloat(0.5)),
        sum: f64::NEG_INFINITY,
        schema: -4,
        positive_spans: vec![span(5, 1), span(0, 1)],
        positive_counts: vec![1.5, 2.5],
        timestamp: -1,
        ..Default::default()
    }
}

/// Bounds 0.5, 1 and 10; buckets 3, -, 1, 2.
pub fn custom_histogram() -> pb1::Histogram {
    pb1::Histogram {
        count: Some(pb1::histogram::Count::CountInt(6)),
        sum: 40.25,
        schema: -53,
        custom_values: vec![0.5, 1.0, 10.0],
        positive_spans: vec![span(0, 1), span(1, 2)],
        positive_deltas: vec![3, -2, 1],
        timestamp: 100,
        ..Default::default()
    }
}

pub fn stale_histogram() -> pb1::Histogram {
    pb1::Histogram { sum: f64::from_bits(STALE), timestamp: 101, ..Default::default() }
}

/// Series, each with data that has something of its own.
fn shapes() -> Vec<(&'static str, Vec<pb1::TimeSeries>)> {
    let up = || series(&[("__name__", "up"), ("job", "node")]);
    let with = |samples: &[(u64, i64)]| pb1::TimeSeries {
        samples: samples.iter().map(|(bits, timestamp)| sample(*bits, *timestamp)).collect(),
        ..up()
    };
    let histogram = |histogram| pb1::TimeSeries { histograms: vec![histogram], ..series(&[("__name__", "rpc")]) };
    let lone = |timestamp| pb1::TimeSeries { exemplars: vec![exemplar(&[("trace_id", "a")], 0.5, timestamp)], ..up() };
    let long = "x".repeat(200);
    vec![
        ("nothing", vec![]),
        ("a stale marker", vec![with(&[(STALE, 1)])]),
        ("NaNs of all kinds", vec![with(&[(0x7ff8_0000_0000_0001, 1), (0xfff8_0000_0000_0000, 2), (u64::MAX, 3)])]),
        ("infinities", vec![with(&[(f64::INFINITY.to_bits(), 1), (f64::NEG_INFINITY.to_bits(), 2)])]),
        ("value and timestamp 0", vec![with(&[(0, 0)])]),
        ("minus 0", vec![with(&[((-0.0f64).to_bits(), 0)])]),
        ("the smallest numbers", vec![with(&[(1, i64::MIN), (1 << 63 | 1, -1)])]),
        ("the largest timestamp", vec![with(&[(f64::MAX.to_bits(), i64::MAX)])]),
        ("many samples", vec![with(&(0..100).map(|n| (n << 50, n as i64 * 1000)).collect::<Vec<_>>())]),
        ("an integer histogram with gaps", vec![histogram(integer_histogram())]),
        ("a float histogram", vec![histogram(float_histogram())]),
        ("a histogram with custom buckets", vec![histogram(custom_histogram())]),
        ("a stale histogram", vec![histogram(stale_histogram())]),
        (
            "histograms of several kinds in one series",
            vec![pb1::TimeSeries {
                histograms: vec![integer_histogram(), custom_histogram(), float_histogram(), stale_histogram()],
                exemplars: vec![exemplar(&[], 7.0, 1)],
                ..series(&[("__name__", "rpc"), ("z", "1")])
            }],
        ),
        (
            "exemplars with and without labels",
            vec![pb1::TimeSeries {
                exemplars: vec![
                    exemplar(&[], 0.0, 0),
                    exemplar(&[("span_id", "b"), ("trace_id", "a")], -1.5, 3),
                    exemplar(&[("trace_id", &long)], f64::NAN, 4),
                ],
                ..with(&[(5, 5)])
            }],
        ),
        ("exemplars as Prometheus sends them", vec![with(&[(5, 1)]), lone(1), histogram(integer_histogram()), lone(2)]),
        ("exemplars in front of their sample", vec![lone(3), lone(1), with(&[(5, 2)]), with(&[(5, 4)])]),
        (
            "exemplars of a series that is not there",
            vec![lone(1), pb1::TimeSeries { samples: vec![sample(1, 1)], ..series(&[("__name__", "down")]) }],
        ),
        ("the same series several times", vec![with(&[(1, 1)]), with(&[(2, 2)]), with(&[(2, 2)])]),
        (
            "names in UTF-8",
            vec![pb1::TimeSeries {
                samples: vec![sample(1, 1)],
                ..series(&[("__name__", "温度"), ("http.status", "5\u{0}"), ("länge", "é🙂")])
            }],
        ),
        (
            "labels in front of the name, and le",
            vec![pb1::TimeSeries {
                samples: vec![sample(1, 1)],
                ..series(&[("A", "upper"), ("__name__", "rpc_bucket"), ("le", "+Inf"), ("m", "x")])
            }],
        ),
        (
            "long labels",
            vec![
                pb1::TimeSeries { samples: vec![sample(1, 1)], ..series(&[("__name__", "a"), ("l", &long)]) },
                pb1::TimeSeries {
                    samples: vec![sample(1, 1)],
                    ..series(&[("__name__", "a"), ("l", &long), (&long, "x")])
                },
                pb1::TimeSeries {
                    samples: vec![sample(1, 1)],
                    ..series(&[("__name__", "a"), ("l", &long.repeat(100))])
                },
                with(&[(1, 1)]),
            ],
        ),
        ("a series without anything", vec![up(), with(&[(1, 1)]), up()]),
        (
            "labels that are partly those of the series before",
            [
                &[("__name__", "a"), ("b", "1"), ("c", "2"), ("d", "3")][..],
                &[("__name__", "a"), ("b", "1"), ("c", "9"), ("d", "3")],
                &[("__name__", "a"), ("d", "3")],
                &[("__name__", "a"), ("b", "1"), ("c", "2"), ("cc", "2"), ("d", "3")],
                &[("__name__", "b"), ("b", "1"), ("c", "2"), ("cc", "2"), ("d", "3")],
                &[("__name__", "b"), ("b", "1"), ("c", "2"), ("cc", "2"), ("d", "4")],
                &[("__name__", "b")],
                &[("__name__", "b"), ("b", "b"), ("c", "b")],
            ]
            .map(|labels| pb1::TimeSeries { samples: vec![sample(1, 1)], ..series(labels) })
            .into(),
        ),
    ]
}

fn metadata() -> Vec<pb1::MetricMetadata> {
    let one = |r#type, name: &str, help: &str, unit: &str| pb1::MetricMetadata {
        r#type,
        metric_family_name: name.into(),
        help: help.into(),
        unit: unit.into(),
    };
    vec![
        one(3, "rpc", "Time of calls.", "seconds"),
        one(1, "requests_total", "", ""),
        one(2, "up", "Whether it is.", ""),
        one(0, "温度", "°C", ""),
    ]
}

fn cases_1() -> Vec<(&'static str, Vec<u8>)> {
    let mut cases: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for (name, timeseries) in shapes() {
        cases.push((name, pb1::WriteRequest { timeseries, ..Default::default() }.encode_to_vec()));
    }
    let up = || series(&[("__name__", "up"), ("job", "node")]);
    let labels = || up().encode_to_vec();
    let one_series = |content: &[&[u8]]| bytes(1, &content.concat());
    let both = pb1::TimeSeries {
        samples: vec![sample(1, 1), sample(2, 2)],
        histograms: vec![integer_histogram(), stale_histogram()],
        exemplars: vec![exemplar(&[("trace_id", "a")], 1.0, 1)],
        ..up()
    };
    cases.extend([
        ("metadata only", pb1::WriteRequest { metadata: metadata(), ..Default::default() }.encode_to_vec()),
        (
            "metadata behind its series",
            pb1::WriteRequest {
                timeseries: ["up", "rpc_bucket", "rpc_sum", "requests_total", "温度", "up_total"]
                    .map(|name| pb1::TimeSeries { samples: vec![sample(1, 1)], ..series(&[("__name__", name)]) })
                    .into(),
                metadata: metadata(),
            }
            .encode_to_vec(),
        ),
        (
            "samples and histograms in one series",
            pb1::WriteRequest { timeseries: vec![both], ..Default::default() }.encode_to_vec(),
        ),
        (
            "fields out of order",
            one_series(&[
                &bytes(2, &[varint(2, 5), fixed(1, 7)].concat()),
                &bytes(1, &[bytes(2, b"up"), bytes(1, b"__name__")].concat()),
                &bytes(3, &[varint(3, 9), fixed(2, 8), bytes(1, &label("t", "x").encode_to_vec())].concat()),
                &bytes(1, &label("job", "node").encode_to_vec()),
            ]),
        ),
        (
            "fields that come twice: the last one counts",
            one_series(&[
                &bytes(1, &[bytes(1, b"?"), bytes(1, b"__name__"), bytes(2, b"?"), bytes(2, b"up")].concat()),
                &bytes(2, &[fixed(1, 1), varint(2, 1), fixed(1, 2), varint(2, 2)].concat()),
            ]),
        ),
        ("padded numbers", {
            let timestamp = [&[0x10][..], &padded(5)].concat();
            let sample = [&[0x12][..], &padded(9 + timestamp.len() as u64), &fixed(1, 1), &timestamp].concat();
            let name = label("__name__", "up").encode_to_vec();
            let name = [&[0x0a][..], &padded(name.len() as u64), &name].concat();
            let content = [name, sample].concat();
            [&[0x0a][..], &padded(content.len() as u64), &content].concat()
        }),
        (
            "unknown fields",
            [
                bytes(4, b"not a symbol"),
                bytes(5, &bytes(2, &[])),
                bytes(2, b"source"),
                one_series(&[
                    &labels(),
                    // Those of 2.0 mean something there.
                    &bytes(2, &[fixed(1, 1), varint(2, 1), varint(3, 12345)].concat()),
                    &bytes(2, &[fixed(1, 1), varint(2, 2), bytes(9, b"x"), group(4)].concat()),
                    &bytes(3, &[fixed(2, 1), varint(9, 1)].concat()),
                    &bytes(5, &varint(1, 1)),
                    &varint(6, 12345),
                    &group(7),
                    &[0xfd, 0x01, 1, 2, 3, 4],
                ]),
                one_series(&[
                    &labels(),
                    &bytes(4, &[integer_histogram().encode_to_vec(), varint(17, 12345), bytes(99, b"x")].concat()),
                ]),
                bytes(3, &[bytes(2, b"up"), varint(3, 1), bytes(4, b"help"), group(9)].concat()),
                group(10),
            ]
            .concat(),
        ),
        ("repeated numbers that are not packed", {
            let histogram = pb1::Histogram { positive_deltas: vec![], ..integer_histogram() }.encode_to_vec();
            // zigzag: 1, 2, 1
            let deltas = [varint(12, 2), bytes(12, &[4]), varint(12, 2)].concat();
            one_series(&[&labels(), &bytes(4, &[histogram, deltas].concat())])
        }),
    ]);
    cases
}

fn cases_2() -> Vec<(&'static str, Vec<u8>)> {
    let mut cases: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for (name, timeseries) in shapes() {
        let request = as_2(&pb1::WriteRequest { timeseries, ..Default::default() });
        cases.push((name, request.encode_to_vec()));
    }
    let symbols = |symbols: &[&str]| symbols.iter().flat_map(|symbol| bytes(4, symbol.as_bytes())).collect::<Vec<u8>>();
    let table = || symbols(&["", "__name__", "up", "job", "node", "Whether it is.", "trace_id"]);
    let up = || bytes(1, &[1, 2, 3, 4]);
    let one_series = |content: &[&[u8]]| bytes(5, &content.concat());
    let sample = || bytes(2, &[fixed(1, 1), varint(2, 1)].concat());
    let custom = pb2::Histogram { start_timestamp: 50, ..histogram_2(&custom_histogram()) };
    let integer = pb2::Histogram { start_timestamp: 50, ..histogram_2(&integer_histogram()) };
    cases.extend([
        (
            "created timestamps, until rc.3",
            [table(), one_series(&[&up(), &sample(), &varint(6, 500)]), one_series(&[&up(), &sample(), &varint(6, 0)])]
                .concat(),
        ),
        (
            "start timestamps, from rc.4 on",
            [
                table(),
                one_series(&[
                    &up(),
                    &bytes(2, &[fixed(1, 1), varint(2, 1), varint(3, 1)].concat()),
                    &bytes(2, &[fixed(1, 1), varint(2, 2), varint(3, u64::MAX)].concat()),
                    &bytes(2, &[fixed(1, 1), varint(2, 3), varint(3, 0)].concat()),
                ]),
                one_series(&[&up(), &bytes(3, &integer.encode_to_vec())]),
            ]
            .concat(),
        ),
        (
            "both generations at once",
            [
                table(),
                one_series(&[&varint(6, 500), &up(), &bytes(2, &[fixed(1, 1), varint(2, 1), varint(3, 400)].concat())]),
                one_series(&[&up(), &varint(6, 500), &bytes(3, &custom.encode_to_vec())]),
            ]
            .concat(),
        ),
        (
            "references that are not packed, or in pieces",
            [
                table(),
                one_series(&[
                    &varint(1, 1),
                    &bytes(1, &[2, 3]),
                    &sample(),
                    &varint(1, 4),
                    &bytes(4, &[varint(1, 6), fixed(2, 1), varint(1, 4)].concat()),
                ]),
            ]
            .concat(),
        ),
        ("symbols behind the series", [one_series(&[&up(), &sample()]), table()].concat()),
        (
            "symbols twice, and some that nobody uses",
            [
                symbols(&["", "", "__name__", "up", "unused", "__name__", "up", "x"]),
                one_series(&[&bytes(1, &[2, 3]), &sample()]),
                one_series(&[&bytes(1, &[5, 6]), &bytes(4, &varint(3, 9))]),
                one_series(&[&bytes(1, &[5, 3, 7, 7]), &sample()]),
            ]
            .concat(),
        ),
        (
            "metadata, also empty",
            [
                symbols(&["", "__name__", "a_total", "b_bucket", "c_sum", "d_info", "help", "unit", "e_gcount"]),
                one_series(&[&bytes(1, &[1, 2]), &sample(), &bytes(5, &[varint(1, 1), varint(3, 6)].concat())]),
                one_series(&[
                    &bytes(1, &[1, 3]),
                    &sample(),
                    &bytes(5, &[varint(1, 3), varint(3, 6), varint(4, 7)].concat()),
                ]),
                one_series(&[
                    &bytes(1, &[1, 3]),
                    &sample(),
                    &bytes(5, &[varint(1, 3), varint(3, 6), varint(4, 7)].concat()),
                ]),
                one_series(&[&bytes(1, &[1, 3]), &sample(), &bytes(5, &[varint(1, 3), varint(3, 7)].concat())]),
                one_series(&[&bytes(1, &[1, 4]), &sample(), &bytes(5, &[varint(3, 6), varint(1, 5)].concat())]),
                one_series(&[&bytes(1, &[1, 5]), &sample(), &bytes(5, &varint(1, 6))]),
                one_series(&[&bytes(1, &[1, 8]), &sample(), &bytes(5, &varint(1, 4))]),
                one_series(&[&bytes(1, &[1, 3]), &bytes(3, &integer.encode_to_vec()), &bytes(5, &varint(1, 3))]),
                one_series(&[&bytes(1, &[1, 2]), &sample(), &bytes(5, &[])]),
                one_series(&[&bytes(1, &[1, 2]), &sample(), &bytes(5, &varint(2, 7))]),
            ]
            .concat(),
        ),
        (
            "unknown fields and groups in 2.0",
            [
                table(),
                group(9),
                bytes(6, b"x"),
                one_series(&[
                    &group(7),
                    &up(),
                    &bytes(2, &[fixed(1, 1), varint(2, 1), varint(4, 7), group(5)].concat()),
                    &bytes(4, &[bytes(1, &[6, 4]), varint(3, 1), varint(9, 1)].concat()),
                    &bytes(5, &[varint(1, 2), varint(3, 5), varint(9, 9)].concat()),
                    &bytes(77, b"x"),
                ]),
                one_series(&[&up(), &bytes(3, &[integer.encode_to_vec(), varint(18, 1), group(40)].concat())]),
            ]
            .concat(),
        ),
        ("padded references", {
            let references = [padded(1), padded(2)].concat();
            [table(), one_series(&[&bytes(1, &references), &sample()])].concat()
        }),
    ]);
    cases
}
