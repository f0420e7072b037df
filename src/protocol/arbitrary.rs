//! Requests for tests: of all shapes for property tests, and such as a test spells out.

use proptest::prelude::*;
use prost::Message;

use super::Protocol;
use super::messages::{v1 as pb1, v2 as pb2};
use super::plain::histogram_2;
use super::text::STALE;

/// Bits of floats: NaNs of all kinds among them, a stale marker often.
fn float() -> impl Strategy<Value = f64> {
    prop_oneof![Just(STALE), Just(0), Just(1 << 63), any::<u64>()].prop_map(f64::from_bits)
}

fn text() -> impl Strategy<Value = String> {
    // Some longer than one byte of length can say.
    prop_oneof![6 => "[a-c]{0,2}", 3 => "\\PC{0,4}", 1 => "[a-z]{120,140}"]
}

fn label() -> impl Strategy<Value = pb1::Label> {
    (prop_oneof![Just("__name__".to_owned()), text()], text()).prop_map(|(name, value)| pb1::Label { name, value })
}

fn spans() -> impl Strategy<Value = Vec<pb1::BucketSpan>> {
    let span = (any::<i32>(), any::<u32>()).prop_map(|(offset, length)| pb1::BucketSpan { offset, length });
    prop::collection::vec(span, 0..3)
}

fn schema() -> impl Strategy<Value = i32> {
    prop_oneof![2 => Just(-53), 2 => -4..9i32, 1 => any::<i32>()]
}

prop_compose! {
    /// All fields of it, of any value: for those who copy it. [`valid_histogram1`] are for those who read it.
    fn histogram1()(
        count in prop::option::of(prop_oneof![
            any::<u64>().prop_map(pb1::histogram::Count::CountInt), float().prop_map(pb1::histogram::Count::CountFloat)
        ]),
        zero_count in prop::option::of(prop_oneof![
            any::<u64>().prop_map(pb1::histogram::ZeroCount::ZeroCountInt), float().prop_map(pb1::histogram::ZeroCount::ZeroCountFloat)
        ]),
        (sum, zero_threshold, schema, timestamp) in (float(), float(), schema(), any::<i64>()),
        (negative_spans, positive_spans) in (spans(), spans()),
        (negative_deltas, positive_deltas) in (prop::collection::vec(any::<i64>(), 0..3), prop::collection::vec(any::<i64>(), 0..4)),
        (negative_counts, positive_counts) in (prop::collection::vec(float(), 0..3), prop::collection::vec(float(), 0..3)),
        reset_hint in 0..4i32,
        custom_values in prop::collection::vec(float(), 0..3),
    ) -> pb1::Histogram {
        pb1::Histogram {
            count, sum, schema, zero_threshold, zero_count, negative_spans, negative_deltas, negative_counts, positive_spans,
            positive_deltas, positive_counts, reset_hint, timestamp, custom_values,
        }
    }
}

/// What [`histogram::walk`](super::histogram::walk) finds nothing wrong with: integer and float, exponential and with custom bounds,
/// with gaps, stale.
pub fn valid_histogram1() -> impl Strategy<Value = pb1::Histogram> {
    let side = || prop::collection::vec((0..3i32, prop::collection::vec(0..5u32, 0..4)), 0..3);
    let bounds = prop::collection::btree_set(-100..100i32, 0..16);
    (side(), side(), -4..9i32, 0..4u32, any::<[bool; 4]>(), bounds, float(), any::<i64>()).prop_map(
        |(
            mut positive,
            mut negative,
            mut schema,
            mut zero,
            [is_custom, is_float, is_stale, has_first_gap],
            bounds,
            sum,
            timestamp,
        )| {
            use pb1::histogram::{Count, ZeroCount};
            if is_stale {
                return pb1::Histogram { sum: f64::from_bits(STALE), timestamp, ..Default::default() };
            }
            let mut custom_values: Vec<f64> = Vec::new();
            if is_custom {
                (schema, zero) = (-53, 0);
                negative.clear();
                custom_values = bounds.into_iter().map(|bound| f64::from(bound) / 8.0).collect();
                let reach = |spans: &[(i32, Vec<u32>)]| {
                    spans.iter().map(|(gap, buckets)| *gap as usize + buckets.len()).sum::<usize>()
                };
                while reach(&positive) > custom_values.len() + 1 {
                    positive.pop();
                }
            } else if has_first_gap && let Some(first) = positive.first_mut() {
                first.0 -= 7;
            }
            let spans = |side: &[(i32, Vec<u32>)]| -> Vec<pb1::BucketSpan> {
                side.iter().map(|(offset, b)| pb1::BucketSpan { offset: *offset, length: b.len() as u32 }).collect()
            };
            let buckets = |side: &[(i32, Vec<u32>)]| -> Vec<u32> { side.iter().flat_map(|(_, b)| b.clone()).collect() };
            let (in_positive, in_negative) = (buckets(&positive), buckets(&negative));
            let count = u64::from(zero + in_positive.iter().sum::<u32>() + in_negative.iter().sum::<u32>());
            let count = if sum.is_nan() { count + 3 } else { count };
            let deltas = |buckets: &[u32]| -> Vec<i64> {
                (0..buckets.len())
                    .map(|n| i64::from(buckets[n]) - n.checked_sub(1).map_or(0, |n| i64::from(buckets[n])))
                    .collect()
            };
            let halves = |buckets: &[u32]| -> Vec<f64> { buckets.iter().map(|b| f64::from(*b) / 2.0).collect() };
            let histogram = pb1::Histogram {
                sum,
                schema,
                timestamp,
                custom_values,
                positive_spans: spans(&positive),
                negative_spans: spans(&negative),
                zero_threshold: if is_custom { 0.0 } else { 0.001 },
                reset_hint: (zero % 4) as i32,
                ..Default::default()
            };
            if is_float {
                pb1::Histogram {
                    count: Some(Count::CountFloat(count as f64 / 2.0)),
                    zero_count: (!is_custom).then_some(ZeroCount::ZeroCountFloat(f64::from(zero) / 2.0)),
                    positive_counts: halves(&in_positive),
                    negative_counts: halves(&in_negative),
                    ..histogram
                }
            } else {
                pb1::Histogram {
                    count: Some(Count::CountInt(count)),
                    zero_count: (!is_custom).then_some(ZeroCount::ZeroCountInt(zero.into())),
                    positive_deltas: deltas(&in_positive),
                    negative_deltas: deltas(&in_negative),
                    ..histogram
                }
            }
        },
    )
}

prop_compose! {
    fn series1()(
        labels in prop::collection::vec(label(), 0..5),
        samples in prop::collection::vec((float(), any::<i64>()), 0..3),
        exemplars in prop::collection::vec((prop::collection::vec(label(), 0..3), float(), any::<i64>()), 0..2),
        histograms in prop::collection::vec(histogram1(), 0..2),
    ) -> pb1::TimeSeries {
        let exemplar = |(labels, value, timestamp)| pb1::Exemplar { labels, value, timestamp };
        pb1::TimeSeries {
            labels,
            samples: samples.into_iter().map(|(value, timestamp)| pb1::Sample { value, timestamp }).collect(),
            exemplars: exemplars.into_iter().map(exemplar).collect(),
            histograms,
        }
    }
}

prop_compose! {
    /// Remote write 1.0.
    pub fn request1()(
        mut timeseries in prop::collection::vec(series1(), 0..6),
        again in again(),
        metadata in prop::collection::vec((text(), text(), 0..8i32), 0..3),
    ) -> pb1::WriteRequest {
        for (n, other) in again.iter().enumerate().skip(1).take(timeseries.len().saturating_sub(1)) {
            match other {
                Again::No => continue,
                Again::Whole => {}
                Again::ExemplarsOnly => (timeseries[n].samples, timeseries[n].histograms) = (vec![], vec![]),
            }
            timeseries[n].labels = timeseries[n / 2].labels.clone();
        }
        let metadata = metadata.into_iter().map(|(metric_family_name, help, r#type)| pb1::MetricMetadata {
            metric_family_name, help, r#type, ..Default::default()
        });
        pb1::WriteRequest { timeseries, metadata: metadata.collect() }
    }
}

/// Whether an entry is of a series that was there before.
#[derive(Clone, Copy, Debug)]
enum Again {
    No,
    Whole,
    ExemplarsOnly,
}

fn again() -> impl Strategy<Value = [Again; 6]> {
    prop::array::uniform6(prop_oneof![3 => Just(Again::No), 1 => Just(Again::Whole), 1 => Just(Again::ExemplarsOnly)])
}

fn references(pairs: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), pairs)
        .prop_map(|half| half.into_iter().flat_map(|n| [n & 0xffff, n >> 16]).collect())
}

prop_compose! {
    fn series2()(
        labels_refs in references(0..5),
        samples in prop::collection::vec((float(), any::<i64>(), 0i64..3), 0..3),
        exemplars in prop::collection::vec((references(0..2), float(), any::<i64>()), 0..3),
        histograms in prop::collection::vec((histogram1(), 0i64..3), 0..2),
        metadata in prop::option::of((0..8i32, any::<u16>(), any::<u16>())),
        created_timestamp in 0i64..2,
    ) -> pb2::TimeSeries {
        pb2::TimeSeries {
            labels_refs,
            samples: samples.into_iter().map(|(value, timestamp, start_timestamp)| pb2::Sample { value, timestamp, start_timestamp }).collect(),
            exemplars: exemplars.into_iter().map(|(labels_refs, value, timestamp)| pb2::Exemplar { labels_refs, value, timestamp }).collect(),
            histograms: histograms.into_iter().map(|(histogram, start_timestamp)| pb2::Histogram { start_timestamp, ..histogram_2(&histogram) }).collect(),
            metadata: metadata.map(|(r#type, help, unit)| pb2::Metadata { r#type, help_ref: help.into(), unit_ref: unit.into() }),
            created_timestamp,
        }
    }
}

prop_compose! {
    /// Remote write 2.0: the first symbol is empty, others may come twice, all references are in range.
    pub fn request2()(
        mut symbols in prop::collection::vec(text(), 0..20),
        many in prop::bool::weighted(0.1),
        mut timeseries in prop::collection::vec(series2(), 0..6),
        again in again(),
    ) -> pb2::Request {
        symbols.insert(0, String::new());
        if many {
            // References of two bytes.
            symbols.extend((0..200).map(|n| n.to_string()));
        }
        for (n, other) in again.iter().enumerate().skip(1).take(timeseries.len().saturating_sub(1)) {
            match other {
                Again::No => continue,
                Again::Whole => {}
                Again::ExemplarsOnly => (timeseries[n].samples, timeseries[n].histograms) = (vec![], vec![]),
            }
            timeseries[n].labels_refs = timeseries[n / 2].labels_refs.clone();
        }
        for series in &mut timeseries {
            let exemplars = series.exemplars.iter_mut().flat_map(|exemplar| &mut exemplar.labels_refs);
            let metadata = series.metadata.iter_mut().flat_map(|metadata| [&mut metadata.help_ref, &mut metadata.unit_ref]);
            for reference in series.labels_refs.iter_mut().chain(exemplars).chain(metadata) {
                *reference %= symbols.len() as u32;
            }
        }
        pb2::Request { symbols, timeseries }
    }
}

/// The same request in 2.0, without metadata; each symbol once.
pub fn as_2(request: &pb1::WriteRequest) -> pb2::Request {
    let mut symbols = vec![String::new()];
    let mut place = |text: &str| {
        let known = symbols.iter().position(|symbol| symbol == text);
        known.unwrap_or_else(|| {
            symbols.push(text.to_owned());
            symbols.len() - 1
        }) as u32
    };
    let mut references = |labels: &[pb1::Label]| {
        labels.iter().flat_map(|label| [&label.name, &label.value]).map(|text| place(text)).collect::<Vec<u32>>()
    };
    let mut series = |series: &pb1::TimeSeries| pb2::TimeSeries {
        labels_refs: references(&series.labels),
        samples: series
            .samples
            .iter()
            .map(|s| pb2::Sample { value: s.value, timestamp: s.timestamp, start_timestamp: 0 })
            .collect(),
        exemplars: series
            .exemplars
            .iter()
            .map(|e| pb2::Exemplar { labels_refs: references(&e.labels), value: e.value, timestamp: e.timestamp })
            .collect(),
        histograms: series.histograms.iter().map(histogram_2).collect(),
        ..Default::default()
    };
    let timeseries = request.timeseries.iter().map(&mut series).collect();
    pb2::Request { symbols, timeseries }
}

prop_compose! {
    /// A request in 2.0 as it is stored: nothing is wrong with it, labels are sorted, and it has what only 2.0 has. (Its 1.0 form, too:
    /// without that.)
    pub fn valid_request2()(
        series in prop::collection::vec(
            (
                "[a-c](_bucket|_count|_sum|_total|_info)?",
                prop::collection::btree_map("[a-d]|le", "[a-z]{1,3}", 0..4),
                prop::collection::vec((float(), any::<i64>(), 0i64..3), 0..3),
                prop::collection::vec((valid_histogram1(), 0i64..3), 0..3),
                prop::collection::vec((prop::collection::btree_map("[a-c]", "[a-z]{1,3}", 0..3), float(), any::<i64>()), 0..3),
                prop::option::of((0..8i32, "[a-c]{0,3}", "[a-c]{0,2}")),
                0i64..2,
            ),
            0..8,
        ),
        kinds in prop::collection::vec(0..3, 8),
        again in again(),
    ) -> pb2::Request {
        let label = |(name, value): (&String, &String)| pb1::Label { name: name.clone(), value: value.clone() };
        let mut request = pb1::WriteRequest::default();
        for ((name, labels, samples, histograms, exemplars, ..), kind) in series.iter().zip(&kinds) {
            // V2-64: not both.
            let (has_samples, has_histograms) = (*kind != 1, *kind != 0);
            let name = pb1::Label { name: "__name__".into(), value: name.clone() };
            request.timeseries.push(pb1::TimeSeries {
                labels: std::iter::once(name).chain(labels.iter().map(label)).collect(),
                samples: samples.iter().filter(|_| has_samples).map(|(value, timestamp, _)| pb1::Sample { value: *value, timestamp: *timestamp }).collect(),
                histograms: histograms.iter().filter(|_| has_histograms && (!has_samples || samples.is_empty())).map(|(histogram, _)| histogram.clone()).collect(),
                exemplars: exemplars.iter().map(|(labels, value, timestamp)| {
                    pb1::Exemplar { labels: labels.iter().map(label).collect(), value: *value, timestamp: *timestamp }
                }).collect(),
            });
        }
        for (n, other) in again.iter().enumerate().skip(1).take(series.len().saturating_sub(1)) {
            if !matches!(other, Again::No) {
                request.timeseries[n].labels = request.timeseries[n / 2].labels.clone();
            }
            if matches!(other, Again::ExemplarsOnly) {
                (request.timeseries[n].samples, request.timeseries[n].histograms) = (vec![], vec![]);
            }
        }
        let mut request = as_2(&request);
        for (entry, (_, _, samples, histograms, _, metadata, created_timestamp)) in request.timeseries.iter_mut().zip(series) {
            entry.samples.iter_mut().zip(samples).for_each(|(sample, (.., start))| sample.start_timestamp = start);
            entry.histograms.iter_mut().zip(histograms).for_each(|(histogram, (_, start))| histogram.start_timestamp = start);
            entry.created_timestamp = created_timestamp;
            entry.metadata = metadata.map(|(r#type, help, unit)| {
                let mut place = |text: String| {
                    let known = request.symbols.iter().position(|symbol| *symbol == text);
                    known.unwrap_or_else(|| {
                        request.symbols.push(text);
                        request.symbols.len() - 1
                    }) as u32
                };
                pb2::Metadata { r#type, help_ref: place(help), unit_ref: place(unit) }
            });
        }
        request
    }
}

/// Bytes overwritten, and perhaps an end cut off.
#[derive(Clone, Debug)]
pub struct Damage {
    bytes: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
}

/// Damage of all kinds.
pub fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), 0..0x40u8]), 0..4);
    (bytes, prop::option::of(any::<prop::sample::Index>())).prop_map(|(bytes, cut)| Damage { bytes, cut })
}

impl Damage {
    /// Does it to a message.
    pub fn strike(&self, message: &mut Vec<u8>) {
        if message.is_empty() {
            return;
        }
        for (index, byte) in &self.bytes {
            let at = index.index(message.len());
            message[at] = *byte;
        }
        if let Some(cut) = self.cut {
            message.truncate(cut.index(message.len()));
        }
    }
}

/// A series with one sample.
pub fn series(labels: &[(&str, &str)]) -> pb1::TimeSeries {
    let label = |(name, value): &(&str, &str)| pb1::Label { name: (*name).into(), value: (*value).into() };
    let samples = vec![pb1::Sample { value: 1.0, timestamp: 2 }];
    pb1::TimeSeries { labels: labels.iter().map(label).collect(), samples, ..Default::default() }
}

/// A request of them.
pub fn request(timeseries: Vec<pb1::TimeSeries>) -> pb1::WriteRequest {
    pb1::WriteRequest { timeseries, ..Default::default() }
}

/// The same in both protocols.
pub fn both(timeseries: Vec<pb1::TimeSeries>) -> [(Protocol, Vec<u8>); 2] {
    let request = request(timeseries);
    [(Protocol::V1, request.encode_to_vec()), (Protocol::V2, as_2(&request).encode_to_vec())]
}

/// Series with their references resolved, the rest as bytes (the bits of floats count); `None` if a reference is out of range.
pub fn resolved(request: &pb2::Request) -> Option<Vec<String>> {
    let text = |reference: &u32| request.symbols.get(*reference as usize).cloned();
    let texts = |references: &[u32]| references.iter().map(text).collect::<Option<Vec<String>>>();
    let series = |series: &pb2::TimeSeries| {
        let labels = texts(&series.labels_refs)?;
        let exemplars = series.exemplars.iter().map(|exemplar| texts(&exemplar.labels_refs));
        let exemplars = exemplars.collect::<Option<Vec<_>>>()?;
        // Without symbols, 0 is no reference.
        let text = |reference: u32| if reference == 0 { Some(String::new()) } else { text(&reference) };
        let metadata = match &series.metadata {
            Some(metadata) => Some((text(metadata.help_ref)?, text(metadata.unit_ref)?)),
            None => None,
        };
        let mut rest = series.clone();
        rest.labels_refs.clear();
        rest.exemplars.iter_mut().for_each(|exemplar| exemplar.labels_refs.clear());
        if let Some(metadata) = &mut rest.metadata {
            (metadata.help_ref, metadata.unit_ref) = (0, 0);
        }
        Some(format!("{labels:?} {exemplars:?} {metadata:?} {:?}", rest.encode_to_vec()))
    };
    request.timeseries.iter().map(series).collect()
}
