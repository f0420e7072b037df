//! Requests for tests: of all shapes for property tests, and such as a test spells out.

use proptest::prelude::*;
use prost::Message;

use super::Protocol;
use super::messages::{v1 as pb1, v2 as pb2};

/// Bits of floats: NaNs of all kinds among them, a stale marker often.
fn float() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0x7ff0_0000_0000_0002), any::<u64>()].prop_map(f64::from_bits)
}

fn text() -> impl Strategy<Value = String> {
    // Some longer than one byte of length can say.
    prop_oneof![6 => "[a-c]{0,2}", 3 => "\\PC{0,4}", 1 => "[a-z]{120,140}"]
}

fn label() -> impl Strategy<Value = pb1::Label> {
    (prop_oneof![Just("__name__".to_owned()), text()], text()).prop_map(|(name, value)| pb1::Label { name, value })
}

prop_compose! {
    fn histogram1()(sum in float(), timestamp: i64, schema: i32, positive_deltas in prop::collection::vec(any::<i64>(), 0..4)) -> pb1::Histogram {
        pb1::Histogram { sum, timestamp, schema, positive_deltas, ..Default::default() }
    }
}

prop_compose! {
    fn series1()(
        labels in prop::collection::vec(label(), 0..5),
        samples in prop::collection::vec((float(), any::<i64>()), 0..3),
        exemplars in prop::collection::vec((label(), float(), any::<i64>()), 0..2),
        histograms in prop::collection::vec(histogram1(), 0..2),
    ) -> pb1::TimeSeries {
        let exemplar = |(label, value, timestamp)| pb1::Exemplar { labels: vec![label], value, timestamp };
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
        timeseries in prop::collection::vec(series1(), 0..6),
        metadata in prop::collection::vec((text(), text()), 0..3),
    ) -> pb1::WriteRequest {
        let metadata = metadata.into_iter().map(|(metric_family_name, help)| pb1::MetricMetadata {
            metric_family_name, help, ..Default::default()
        });
        pb1::WriteRequest { timeseries, metadata: metadata.collect() }
    }
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
        histograms in prop::collection::vec((float(), any::<i64>()), 0..2),
        metadata in prop::option::of((0..3i32, any::<u16>(), any::<u16>())),
        created_timestamp in 0i64..2,
    ) -> pb2::TimeSeries {
        pb2::TimeSeries {
            labels_refs,
            samples: samples.into_iter().map(|(value, timestamp, start_timestamp)| pb2::Sample { value, timestamp, start_timestamp }).collect(),
            exemplars: exemplars.into_iter().map(|(labels_refs, value, timestamp)| pb2::Exemplar { labels_refs, value, timestamp }).collect(),
            histograms: histograms.into_iter().map(|(sum, timestamp)| pb2::Histogram { sum, timestamp, ..Default::default() }).collect(),
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
    ) -> pb2::Request {
        symbols.insert(0, String::new());
        if many {
            // References of two bytes.
            symbols.extend((0..200).map(|n| n.to_string()));
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
        histograms: series
            .histograms
            .iter()
            .map(|h| pb2::Histogram { sum: h.sum, timestamp: h.timestamp, ..Default::default() })
            .collect(),
        ..Default::default()
    };
    let timeseries = request.timeseries.iter().map(&mut series).collect();
    pb2::Request { symbols, timeseries }
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

/// V2-68, V2-69.
pub fn has_a_proper_table(request: &pb2::Request) -> bool {
    let used = |place: u32| {
        request.timeseries.iter().any(|series| {
            let exemplars = series.exemplars.iter().flat_map(|exemplar| &exemplar.labels_refs);
            let metadata = series.metadata.iter().flat_map(|metadata| [&metadata.help_ref, &metadata.unit_ref]);
            series.labels_refs.iter().chain(exemplars).chain(metadata).any(|reference| *reference == place)
        })
    };
    let mut sorted = request.symbols.clone();
    sorted.sort_unstable();
    request.symbols[0].is_empty()
        && sorted.windows(2).all(|pair| pair[0] != pair[1])
        && (1..request.symbols.len()).all(|place| used(place as u32))
}
