//! Requests as plain values, for tests: references resolved, floats as bits, both protocols alike. prost decodes them.

use prost::Message;

use super::Protocol;
use super::exemplars::Hostless;
use super::messages::{v1 as pb1, v2 as pb2};

/// One entry of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Name, value, name, value..
    pub labels: Vec<String>,
    /// Bits, timestamp, start timestamp.
    pub samples: Vec<(u64, i64, i64)>,
    /// As 2.0 encodes them.
    pub histograms: Vec<Vec<u8>>,
    /// Timestamp, bits, labels.
    pub exemplars: Vec<(i64, u64, Vec<String>)>,
    /// Type, help, unit.
    pub metadata: Option<(i32, String, String)>,
    /// Of the series.
    pub created_timestamp: i64,
}

impl Series {
    /// Has a sample or histogram.
    pub fn has_data(&self) -> bool {
        !self.samples.is_empty() || !self.histograms.is_empty()
    }

    /// Has exemplars and nothing else.
    pub fn is_lone(&self) -> bool {
        !self.has_data() && !self.exemplars.is_empty()
    }

    /// What identifies its series.
    pub fn metric_name(&self) -> &str {
        let name = self.labels.as_chunks::<2>().0.iter().find(|[name, _]| name == "__name__");
        name.map_or("", |[_, value]| value)
    }
}

/// The same histogram in 2.0.
pub fn histogram_2(histogram: &pb1::Histogram) -> pb2::Histogram {
    // The numbers are the same (1 to 16).
    pb2::Histogram::decode(&*histogram.encode_to_vec()).unwrap()
}

/// The entries of a 1.0 request, and its metadata. `None` where prost does not decode it.
pub fn of_1(message: &[u8]) -> Option<(Vec<Series>, Vec<pb1::MetricMetadata>)> {
    let request = pb1::WriteRequest::decode(message).ok()?;
    let labels = |labels: &[pb1::Label]| labels.iter().flat_map(|l| [l.name.clone(), l.value.clone()]).collect();
    let series = request.timeseries.iter().map(|series| Series {
        labels: labels(&series.labels),
        samples: series.samples.iter().map(|s| (s.value.to_bits(), s.timestamp, 0)).collect(),
        histograms: series.histograms.iter().map(|h| histogram_2(h).encode_to_vec()).collect(),
        exemplars: series.exemplars.iter().map(|e| (e.timestamp, e.value.to_bits(), labels(&e.labels))).collect(),
        ..Series::default()
    });
    Some((series.collect(), request.metadata))
}

/// The entries of a 2.0 request. `None` where prost does not decode it, or a reference is out of range.
pub fn of_2(message: &[u8]) -> Option<Vec<Series>> {
    let request = pb2::Request::decode(message).ok()?;
    let text = |reference: &u32| request.symbols.get(*reference as usize).cloned();
    let texts = |references: &[u32]| references.iter().map(text).collect::<Option<Vec<String>>>();
    // Without symbols, 0 is no reference.
    let text_or_none = |reference: u32| if reference == 0 { Some(String::new()) } else { text(&reference) };
    let series = request.timeseries.iter().map(|series| {
        let exemplar = |e: &pb2::Exemplar| Some((e.timestamp, e.value.to_bits(), texts(&e.labels_refs)?));
        let metadata = match &series.metadata {
            Some(metadata) => {
                Some((metadata.r#type, text_or_none(metadata.help_ref)?, text_or_none(metadata.unit_ref)?))
            }
            None => None,
        };
        Some(Series {
            labels: texts(&series.labels_refs)?,
            samples: series.samples.iter().map(|s| (s.value.to_bits(), s.timestamp, s.start_timestamp)).collect(),
            histograms: series.histograms.iter().map(Message::encode_to_vec).collect(),
            exemplars: series.exemplars.iter().map(exemplar).collect::<Option<_>>()?,
            metadata,
            created_timestamp: series.created_timestamp,
        })
    });
    series.collect()
}

/// The entries of a request.
pub fn of(protocol: Protocol, message: &[u8]) -> Option<Vec<Series>> {
    match protocol {
        Protocol::V1 => of_1(message).map(|(series, _)| series),
        Protocol::V2 => of_2(message),
    }
}

/// V2-68, V2-69: the first symbol is empty, each is there once, and each of the others is used.
pub fn has_a_proper_table(request: &pb2::Request) -> bool {
    let mut is_used = vec![false; request.symbols.len()];
    for series in &request.timeseries {
        let exemplars = series.exemplars.iter().flat_map(|exemplar| &exemplar.labels_refs);
        let metadata = series.metadata.iter().flat_map(|metadata| [&metadata.help_ref, &metadata.unit_ref]);
        for reference in series.labels_refs.iter().chain(exemplars).chain(metadata) {
            is_used[*reference as usize] = true;
        }
    }
    let mut sorted = request.symbols.clone();
    sorted.sort_unstable();
    request.symbols[0].is_empty() && sorted.windows(2).all(|pair| pair[0] != pair[1]) && is_used[1..].iter().all(|u| *u)
}

/// What becomes of entries that have exemplars only, written down in the plainest way; also how many exemplars have no place.
pub fn attached(series: Vec<Series>, hostless: Hostless) -> (Vec<Series>, u64) {
    let (mut attached, mut left_out) = (series.clone(), 0);
    // What goes where, with those that came earlier than the entry apart.
    let mut before = vec![Vec::new(); series.len()];
    let mut behind = before.clone();
    let mut is_kept: Vec<bool> = series.iter().map(|series| !series.is_lone()).collect();
    for (n, lone) in series.iter().enumerate().filter(|(_, series)| series.is_lone()) {
        let is_host = |other: &&(usize, &Series)| other.1.has_data() && other.1.labels == lone.labels;
        let entries: Vec<(usize, &Series)> = series.iter().enumerate().collect();
        match entries[..n].iter().rfind(is_host).or(entries[n..].iter().find(is_host)) {
            Some((host, _)) if *host < n => behind[*host].extend(lone.exemplars.clone()),
            Some((host, _)) => before[*host].extend(lone.exemplars.clone()),
            None if hostless == Hostless::Kept => is_kept[n] = true,
            None => left_out += lone.exemplars.len() as u64,
        }
    }
    for ((series, before), behind) in attached.iter_mut().zip(before).zip(behind) {
        if !before.is_empty() || !behind.is_empty() {
            series.exemplars.splice(0..0, before);
            series.exemplars.extend(behind);
            series.exemplars.sort_by_key(|exemplar| exemplar.0);
        }
    }
    let kept = attached.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept);
    (kept.map(|(series, _)| series).collect(), left_out)
}
