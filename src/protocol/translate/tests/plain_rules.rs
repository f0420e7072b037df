//! What translation does, written down in the plainest way, and the judge who compares.

use super::*;
use crate::protocol::text::STALE;

/// The plain rules from 2.0 to 1.0.
#[derive(Debug, Default, PartialEq)]
pub(super) struct As1 {
    pub series: Vec<Series>,
    pub metadata: Vec<pb1::MetricMetadata>,
    pub dropped: u64,
    pub start_timestamps: u64,
    pub exemplars: u64,
    pub empty_series: u64,
    /// Which of the original's entries the series are.
    pub from: Vec<usize>,
}

pub(super) fn as_1(original: Vec<Series>) -> As1 {
    let mut as_1 = As1::default();
    let mut told = HashMap::new();
    // Labels of series that had custom buckets last.
    let mut custom_series = HashSet::new();
    for (number, mut series) in original.into_iter().enumerate() {
        if series.has_data()
            && let Some((r#type, help, unit)) = series.metadata.take()
            && (r#type, &*help, &*unit) != (0, "", "")
        {
            let is_native = !series.histograms.is_empty();
            let family = family::of(series.metric_name().as_bytes(), r#type as u64, is_native);
            let metric_family_name = String::from_utf8(family.to_vec()).unwrap();
            let metadata = pb1::MetricMetadata { r#type, metric_family_name, help, unit };
            let is_named = series.labels.as_chunks::<2>().0.iter().any(|[name, _]| name == "__name__");
            if is_named && told.insert(family.to_vec(), metadata.clone()) != Some(metadata.clone()) {
                as_1.metadata.push(metadata);
            }
        }
        series.metadata = None;
        let histograms: Vec<pb2::Histogram> =
            series.histograms.iter().map(|bytes| pb2::Histogram::decode(&**bytes).unwrap()).collect();
        let labels = series.labels.as_chunks::<2>().0.iter().filter(|[_, value]| !value.is_empty());
        let mut labels: Vec<[String; 2]> = labels.cloned().collect();
        labels.sort();
        if !series.samples.is_empty() {
            custom_series.remove(&labels);
        }
        let (mut custom, mut others) = (0, Vec::new());
        for histogram in histograms {
            let is_stale = histogram.sum.to_bits() == STALE;
            if histogram.schema == -53 || (is_stale && custom_series.contains(&labels)) {
                custom += 1;
            } else {
                custom_series.remove(&labels);
                others.push(histogram);
                continue;
            }
            if !is_stale {
                custom_series.insert(labels.clone());
            }
        }
        as_1.dropped += custom;
        let mut starts = u64::from(series.created_timestamp != 0);
        series.created_timestamp = 0;
        series.histograms = others
            .into_iter()
            .map(|mut histogram| {
                starts += u64::from(histogram.start_timestamp != 0);
                histogram.start_timestamp = 0;
                histogram.encode_to_vec()
            })
            .collect();
        for (_, _, start) in &mut series.samples {
            starts += u64::from(*start != 0);
            *start = 0;
        }
        let is_custom = custom > 0 || (custom_series.contains(&labels) && !series.exemplars.is_empty());
        if !series.has_data() && is_custom {
            as_1.exemplars += series.exemplars.len() as u64;
        } else if !series.has_data() && series.exemplars.is_empty() {
            as_1.empty_series += 1;
        } else {
            as_1.start_timestamps += starts;
            as_1.series.push(series);
            as_1.from.push(number);
        }
    }
    as_1
}

/// The plain rules from 1.0 to 2.0.
#[derive(Debug, Default, PartialEq)]
pub(super) struct As2 {
    pub series: Vec<Series>,
    pub exemplars: u64,
    pub empty_series: u64,
}

pub(super) fn as_2((original, metadata): (Vec<Series>, Vec<pb1::MetricMetadata>), hostless: Hostless) -> As2 {
    let mut known = HashMap::new();
    for metadata in metadata.into_iter().filter(|metadata| !metadata.metric_family_name.is_empty()) {
        known.insert(metadata.metric_family_name.clone().into_bytes(), metadata);
    }
    let mut as_2 = As2::default();
    for mut series in original {
        if !series.has_data() && series.exemplars.is_empty() {
            as_2.empty_series += 1;
            continue;
        }
        if series.has_data() {
            let metric = series.metric_name().as_bytes();
            let as_member = || {
                let (family, types) = family::shorter(metric)?;
                known.get(family).filter(|metadata| types.contains(&(metadata.r#type as u64)))
            };
            let metadata = known.get(metric).or_else(as_member);
            let metadata = metadata.map(|metadata| (metadata.r#type, metadata.help.clone(), metadata.unit.clone()));
            series.metadata = metadata.filter(|(r#type, help, unit)| (*r#type, &**help, &**unit) != (0, "", ""));
        }
        if !series.samples.is_empty() && !series.histograms.is_empty() {
            let histograms = Series { samples: vec![], exemplars: vec![], ..series.clone() };
            as_2.series.extend([Series { histograms: vec![], ..series }, histograms]);
        } else {
            as_2.series.push(series);
        }
    }
    (as_2.series, as_2.exemplars) = attached(as_2.series, hostless);
    as_2
}

pub(super) fn counts(series: &[Series]) -> Counts {
    let sum = |of: fn(&Series) -> usize| series.iter().map(|series| of(series) as u64).sum();
    Counts {
        samples: sum(|series| series.samples.len()),
        histograms: sum(|series| series.histograms.len()),
        exemplars: sum(|series| series.exemplars.len()),
    }
}

/// Whatever the request: what is written is what the rules say.
pub(super) fn judge_to_1(message: &[u8], context: &str) -> Vec<u8> {
    let translated = new_1(message).unwrap_or_else(|error| panic!("{context}: {error}"));
    let (series, metadata) = plain::of_1(&translated.message).expect(context);
    let expected = as_1(plain::of_2(message).expect(context));
    assert_eq!(translated.sent, counts(&series), "{context}");
    assert_eq!((translated.series, translated.metadata), (series.len() as u64, metadata.len() as u64), "{context}");
    assert_eq!(translated.is_empty(), series.is_empty() && metadata.is_empty(), "{context}");
    let Translated { dropped, start_timestamps, exemplars, empty_series, metadata_left_out: 0, .. } = translated else {
        panic!("{context}: metadata was left out")
    };
    let [dropped] = dropped[..] else { panic!("{context}: one selection") };
    let from = expected.from.clone();
    let found = As1 { series, metadata, dropped, start_timestamps, exemplars, empty_series, from };
    assert_eq!(found, expected, "{context}");
    translated.message
}

/// For a target that takes no exemplars in series of their own.
pub(super) fn judge_to_2(message: &[u8], context: &str) -> Vec<u8> {
    judge_to_2_with(Hostless::Kept, message, context);
    judge_to_2_with(Hostless::LeftOut, message, context)
}

fn judge_to_2_with(hostless: Hostless, message: &[u8], context: &str) -> Vec<u8> {
    let translated = to_2(&[all(message)], &mut KnownMetadata::default(), hostless);
    let translated = translated.unwrap_or_else(|error| panic!("{context}: {error}"));
    let series = plain::of_2(&translated.message).expect(context);
    let expected = as_2(plain::of_1(message).expect(context), hostless);
    assert_eq!(translated.sent, counts(&series), "{context}");
    assert_eq!((translated.series, translated.metadata), (series.len() as u64, 0), "{context}");
    assert_eq!((&translated.dropped[..], translated.start_timestamps), (&[0][..], 0), "{context}");
    let Translated { exemplars, empty_series, has_lone_exemplars, .. } = translated;
    assert_eq!(has_lone_exemplars, series.iter().any(Series::is_lone), "{context}");
    assert_eq!(As2 { series, exemplars, empty_series }, expected, "{context}");
    assert!(has_a_proper_table(&pb2::Request::decode(&*translated.message).unwrap()), "{context}: V2-68, V2-69");
    translated.message
}

/// What was stored comes through both ways, and what is written is as good as what is stored.
pub(super) fn judge(protocol: Protocol, message: &[u8], context: &str) {
    let is_valid = |protocol, message: &[u8]| {
        let summary = walk(protocol, message).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(summary.offences.count() == 0 && summary.is_canonical, "{context}: {}", summary.offences);
    };
    is_valid(protocol, message);
    let before = identities(protocol, message);
    match protocol {
        Protocol::V1 => {
            let there = judge_to_2(message, context);
            is_valid(Protocol::V2, &there);
            let expected: Vec<u64> = std::iter::zip(before, plain::of_1(message).unwrap().0)
                .flat_map(|(identity, series)| {
                    let count = usize::from(!series.samples.is_empty()) + usize::from(!series.histograms.is_empty());
                    std::iter::repeat_n(identity, count)
                })
                .collect();
            assert_eq!(identities(Protocol::V2, &there), expected, "{context}");
            // And back, and there again: nothing is left to be changed.
            let back = judge_to_1(&there, context);
            is_valid(Protocol::V1, &back);
            let again = judge_to_2(&back, context);
            assert!(plain::of_2(&again).unwrap().len() <= expected.len());
        }
        Protocol::V2 => {
            let there = judge_to_1(message, context);
            is_valid(Protocol::V1, &there);
            let from = as_1(plain::of_2(message).unwrap()).from;
            let expected: Vec<u64> = from.iter().map(|number| before[*number]).collect();
            assert_eq!(identities(Protocol::V1, &there), expected, "{context}");
            let back = judge_to_2(&there, context);
            is_valid(Protocol::V2, &back);
            judge_to_1(&back, context);
        }
    }
    // The same protocol.
    for hostless in [Hostless::Kept, Hostless::LeftOut] {
        let rebuilt = rebuild(protocol, &[all(message)], hostless).unwrap();
        is_valid(protocol, &rebuilt.message);
        let series = plain::of(protocol, message).unwrap();
        let expected = if protocol == Protocol::V1 { (series, 0) } else { attached(series, hostless) };
        assert_eq!((plain::of(protocol, &rebuilt.message).unwrap(), rebuilt.exemplars_left_out), expected, "{context}");
    }
}
