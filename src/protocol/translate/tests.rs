//! Translation, judged by prost and by the plainest rules that can be written down.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use prost::Message;

use super::super::messages::{v1 as pb1, v2 as pb2};
use super::super::plain::{self, Series, attached, has_a_proper_table};
use super::super::rebuild::rebuild;
use super::super::selection::{Chosen, Selection};
use super::super::{Malformed, Protocol, SeenLabels, Summary, arbitrary, corpus, entries, v1, v2};
use super::*;

fn all(message: &[u8]) -> Selection<'_> {
    Selection { message, entries: Chosen::All }
}

fn new_1(message: &[u8]) -> Result<Translated, Malformed> {
    to_1_with(&table(CustomBuckets::Drop), &[all(message)])
}

fn new_2(message: &[u8]) -> Result<Translated, Malformed> {
    to_2(&[all(message)], &mut KnownMetadata::default())
}

fn classic(message: &[u8]) -> Result<Translated, Malformed> {
    to_1_with(&table(CustomBuckets::AsClassic), &[all(message)])
}

fn table(custom_buckets: CustomBuckets) -> CustomSeries {
    CustomSeries::with_bytes_max(custom_buckets, 1 << 20)
}

/// To a target that has been told no metadata.
fn to_1_with(series: &CustomSeries, selections: &[Selection<'_>]) -> Result<Translated, Malformed> {
    to_1(selections, series, 0, &mut SentMetadata::default(), Instant::now())
}

fn walk(protocol: Protocol, message: &[u8]) -> Result<Summary, Malformed> {
    match protocol {
        Protocol::V1 => v1::walk(message, &SeenLabels::with_capacity(8)),
        Protocol::V2 => v2::walk(message, &mut v2::Scratch::default(), 1 << 24),
    }
}

fn identities(protocol: Protocol, message: &[u8]) -> Vec<u64> {
    let mut identities = Vec::new();
    entries::identities(protocol, message, &mut identities).unwrap();
    identities
}

/// The plain rules from 2.0 to 1.0.
#[derive(Debug, Default, PartialEq)]
struct As1 {
    series: Vec<Series>,
    metadata: Vec<pb1::MetricMetadata>,
    dropped: u64,
    start_timestamps: u64,
    exemplars: u64,
    empty_series: u64,
    /// Which of the original's entries the series are.
    from: Vec<usize>,
}

fn as_1(original: Vec<Series>) -> As1 {
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
            let is_stale = histogram.sum.to_bits() == arbitrary::STALE;
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
struct As2 {
    series: Vec<Series>,
    exemplars: u64,
    empty_series: u64,
}

fn as_2((original, metadata): (Vec<Series>, Vec<pb1::MetricMetadata>)) -> As2 {
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
    (as_2.series, as_2.exemplars) = attached(as_2.series);
    as_2
}

fn counts(series: &[Series]) -> Counts {
    let sum = |of: fn(&Series) -> usize| series.iter().map(|series| of(series) as u64).sum();
    Counts {
        samples: sum(|series| series.samples.len()),
        histograms: sum(|series| series.histograms.len()),
        exemplars: sum(|series| series.exemplars.len()),
    }
}

/// Whatever the request: what is written is what the rules say.
fn judge_to_1(message: &[u8], context: &str) -> Vec<u8> {
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

fn judge_to_2(message: &[u8], context: &str) -> Vec<u8> {
    let translated = new_2(message).unwrap_or_else(|error| panic!("{context}: {error}"));
    let series = plain::of_2(&translated.message).expect(context);
    let expected = as_2(plain::of_1(message).expect(context));
    assert_eq!(translated.sent, counts(&series), "{context}");
    assert_eq!((translated.series, translated.metadata), (series.len() as u64, 0), "{context}");
    assert_eq!((&translated.dropped[..], translated.start_timestamps), (&[0][..], 0), "{context}");
    let Translated { exemplars, empty_series, .. } = translated;
    assert_eq!(As2 { series, exemplars, empty_series }, expected, "{context}");
    assert!(has_a_proper_table(&pb2::Request::decode(&*translated.message).unwrap()), "{context}: V2-68, V2-69");
    translated.message
}

/// What was stored comes through both ways, and what is written is as good as what is stored.
fn judge(protocol: Protocol, message: &[u8], context: &str) {
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
    let rebuilt = rebuild(protocol, &[all(message)]).unwrap();
    is_valid(protocol, &rebuilt.message);
    let series = plain::of(protocol, message).unwrap();
    let expected = if protocol == Protocol::V1 { (series, 0) } else { attached(series) };
    assert_eq!((plain::of(protocol, &rebuilt.message).unwrap(), rebuilt.exemplars_left_out), expected, "{context}");
}

#[test]
fn every_case_of_the_corpus_comes_through_as_the_rules_say() {
    // V1-12, V2-60; names in UTF-8: V1-24, V1-25, V2-78; start timestamps, also of -1 and 0: V2-85; exemplars of value 0, at 0 and without
    // labels: V2-90, V2-91, V2-92.
    for corpus::Case { name, protocol, message } in corpus::cases() {
        judge(protocol, &message, &format!("{protocol}: {name}"));
    }
}

fn case(wanted: Protocol, name: &str) -> Vec<u8> {
    let case = corpus::cases().into_iter().find(|case| case.name == name && case.protocol == wanted);
    case.expect(name).message
}

#[test]
fn what_a_1_0_sender_did_not_mean_becomes_no_start_timestamp_and_no_series() {
    let translated = new_2(&case(Protocol::V1, "unknown fields")).unwrap();
    let request = pb2::Request::decode(&*translated.message).unwrap();
    let series = &request.timeseries;
    assert_eq!(series.len(), 2, "not the request's field 5");
    assert!(series.iter().all(|series| series.created_timestamp == 0));
    assert!(series.iter().flat_map(|series| &series.samples).all(|sample| sample.start_timestamp == 0));
    assert!(series.iter().flat_map(|series| &series.histograms).all(|histogram| histogram.start_timestamp == 0));
    // Of the request 4; of the first series 4, of its samples 3, of its exemplar 1; of the second one's histogram 2.
    assert_eq!(translated.unknown_fields, 4 + 4 + 3 + 1 + 2);
    let translated = new_1(&case(Protocol::V2, "unknown fields and groups in 2.0")).unwrap();
    assert_eq!(translated.unknown_fields, 2 + 2 + 2 + 1 + 1 + 2);
}

#[test]
fn bytes_of_floats_are_the_same_on_both_sides() {
    // V1-04, V1-43, V2-61, V2-88.
    for name in ["a stale marker", "NaNs of all kinds", "minus 0", "a stale histogram"] {
        let bits = |request: &pb1::WriteRequest| {
            let series = &request.timeseries[0];
            let samples = series.samples.iter().map(|sample| sample.value.to_bits());
            samples.chain(series.histograms.iter().map(|histogram| histogram.sum.to_bits())).collect::<Vec<u64>>()
        };
        let message = case(Protocol::V1, name);
        let original = pb1::WriteRequest::decode(&*message).unwrap();
        let back = new_1(&new_2(&message).unwrap().message).unwrap().message;
        assert_eq!(bits(&pb1::WriteRequest::decode(&*back).unwrap()), bits(&original), "{name}");
        assert_eq!(back, message, "{name}: prost and we write the same");
    }
}

#[test]
fn samples_and_histograms_of_one_series_become_two() {
    let translated = new_2(&case(Protocol::V1, "samples and histograms in one series")).unwrap();
    let request = pb2::Request::decode(&*translated.message).unwrap();
    let shape = |series: &pb2::TimeSeries| (series.samples.len(), series.histograms.len(), series.exemplars.len());
    assert_eq!(request.timeseries.iter().map(shape).collect::<Vec<_>>(), [(2, 0, 1), (0, 2, 0)], "V2-64");
    assert_eq!(request.timeseries[0].labels_refs, request.timeseries[1].labels_refs);
    // The other way nothing forbids them.
    let symbols = vec![String::new(), "__name__".into(), "a".into()];
    let series = pb2::TimeSeries { labels_refs: vec![1, 2], ..request.timeseries[0].clone() };
    let series = pb2::TimeSeries { exemplars: vec![], histograms: request.timeseries[1].histograms.clone(), ..series };
    let message = pb2::Request { symbols, timeseries: vec![series] }.encode_to_vec();
    let back = pb1::WriteRequest::decode(&*new_1(&message).unwrap().message).unwrap();
    assert_eq!((back.timeseries[0].samples.len(), back.timeseries[0].histograms.len()), (2, 2));
}

#[test]
fn a_request_of_metadata_gives_an_empty_one_and_later_series_have_it() {
    let mut known = KnownMetadata::default();
    let translated = to_2(&[all(&case(Protocol::V1, "metadata only"))], &mut known).unwrap();
    assert!(translated.is_empty());
    assert_eq!(known.len(), 4);
    let series =
        |name| pb1::TimeSeries { samples: vec![corpus::sample(1, 1)], ..corpus::series(&[("__name__", name)]) };
    let message = arbitrary::request(vec![series("rpc_bucket"), series("other"), series("rpc_count")]).encode_to_vec();
    let translated = to_2(&[all(&message)], &mut known).unwrap();
    let series = plain::of_2(&translated.message).unwrap();
    let rpc = Some((3, "Time of calls.".into(), "seconds".into()));
    let metadata: Vec<_> = series.into_iter().map(|series| series.metadata).collect();
    assert_eq!(metadata, [rpc.clone(), None, rpc], "V2-65");
}

#[test]
fn metadata_is_sent_once_a_minute_and_again_when_it_was_forgotten() {
    let message = case(Protocol::V2, "metadata, also empty");
    let mut sent = SentMetadata::default();
    let start = Instant::now();
    let mut names = |seconds, forget| {
        if forget {
            sent.forget();
        }
        let now = start + Duration::from_secs(seconds);
        let translated = to_1(&[all(&message)], &table(CustomBuckets::Drop), 0, &mut sent, now).unwrap();
        let (_, metadata) = plain::of_1(&translated.message).unwrap();
        metadata.into_iter().map(|metadata| metadata.metric_family_name).collect::<Vec<_>>().join(" ")
    };
    // The metadata of `b` changes within the request; it is a native histogram's own name, too.
    assert_eq!(names(0, false), "a_total b b c d e b_bucket");
    assert_eq!(names(59, false), "b b");
    assert_eq!(names(60, false), "a_total b b c d e b_bucket");
    assert_eq!(names(61, true), "a_total b b c d e b_bucket");
}

#[test]
fn of_several_requests_only_the_chosen_entries_are_translated() {
    let named = |name: &str| pb1::TimeSeries {
        samples: vec![corpus::sample(1, 1)],
        histograms: vec![corpus::custom_histogram()],
        ..corpus::series(&[("__name__", name)])
    };
    let requests = [["a", "b", "c"], ["d", "e", "f"]].map(|names| arbitrary::request(names.map(named).into()));
    let messages = requests.each_ref().map(|request| arbitrary::as_2(request).encode_to_vec());
    let selections = [
        Selection { message: &messages[0], entries: Chosen::Listed(&[0, 2]) },
        Selection { message: &messages[1], entries: Chosen::Range(1..2) },
        Selection { message: &messages[1], entries: Chosen::Range(1..1) },
    ];
    let translated = to_1_with(&table(CustomBuckets::Drop), &selections).unwrap();
    let names = |series: Vec<Series>| series.iter().map(|series| series.metric_name()).collect::<String>();
    assert_eq!(names(plain::of_1(&translated.message).unwrap().0), "ace");
    assert_eq!(translated.dropped, [2, 1, 0], "of each selection");
    let missing = Selection { message: &messages[0], entries: Chosen::Listed(&[3]) };
    assert!(to_1_with(&table(CustomBuckets::Drop), &[missing]).is_err());

    let messages = requests.each_ref().map(Message::encode_to_vec);
    let selections = [
        Selection { message: &messages[0], entries: Chosen::Listed(&[1]) },
        Selection { message: &messages[1], entries: Chosen::All },
    ];
    let translated = to_2(&selections, &mut KnownMetadata::default()).unwrap();
    assert_eq!(names(plain::of_2(&translated.message).unwrap()), "bbddeeff");
    assert_eq!(translated.dropped, [0, 0]);
}

/// Labels, value and timestamp of each sample.
#[test]
fn requests_that_are_far_larger_when_they_are_written_out_are_not_merged_without_end() {
    // A label of 100 KB, which 100 series refer to: 10 MB in 1.0, and 0.1 in 2.0.
    let long = "x".repeat(100_000);
    let series =
        pb2::TimeSeries { labels_refs: vec![1, 2, 3, 4], samples: vec![pb2::Sample::default()], ..Default::default() };
    let symbols = ["", "__name__", "up", "long", &long].map(str::to_owned).into();
    let message = pb2::Request { symbols, timeseries: vec![series; 100] }.encode_to_vec();
    let to_1 = |times| to_1_with(&table(CustomBuckets::Drop), &vec![all(&message); times]);
    assert_eq!(to_1(4).unwrap().series, 400);
    assert!(to_1(5).is_err());
}

fn lines(message: &[u8]) -> Vec<String> {
    let (series, _) = plain::of_1(message).unwrap();
    let line = |series: &Series| {
        let labels = series.labels.as_chunks::<2>().0;
        assert!(labels.is_sorted_by(|one, other| one[0] < other[0]), "V1-22");
        let labels: Vec<String> = labels.iter().map(|[name, value]| format!("{name}={value}")).collect();
        let samples: Vec<String> =
            series.samples.iter().map(|(bits, at, _)| format!("{:?}@{at}", f64::from_bits(*bits))).collect();
        let exemplars: Vec<String> = series.exemplars.iter().map(|exemplar| format!("#{}", exemplar.0)).collect();
        format!("{} {}{}", labels.join(","), samples.join(" "), exemplars.concat())
    };
    series.iter().map(line).collect()
}

fn custom_2(histogram: pb1::Histogram, labels: &[(&str, &str)], exemplars: Vec<pb1::Exemplar>) -> Vec<u8> {
    let series = pb1::TimeSeries { histograms: vec![histogram], exemplars, ..corpus::series(labels) };
    arbitrary::as_2(&arbitrary::request(vec![series])).encode_to_vec()
}

#[test]
fn custom_buckets_are_sent_as_classic_series_where_that_is_wanted() {
    let exemplars = [(0.5, 1), (0.75, 2), (f64::NAN, 3), (11.0, 4), (f64::NEG_INFINITY, 5)];
    let exemplars = exemplars.map(|(value, timestamp)| corpus::exemplar(&[], value, timestamp));
    let message = custom_2(
        corpus::custom_histogram(),
        &[("A", "x"), ("__name__", "rpc"), ("job", "j"), ("z", "1")],
        exemplars.into(),
    );
    let translated = classic(&message).unwrap();
    assert_eq!(
        lines(&translated.message),
        [
            "A=x,__name__=rpc_bucket,job=j,le=0.5,z=1 3.0@100#1#5",
            "A=x,__name__=rpc_bucket,job=j,le=1.0,z=1 3.0@100#2",
            "A=x,__name__=rpc_bucket,job=j,le=10.0,z=1 4.0@100",
            "A=x,__name__=rpc_bucket,job=j,le=+Inf,z=1 6.0@100#3#4",
            "A=x,__name__=rpc_count,job=j,z=1 6.0@100",
            "A=x,__name__=rpc_sum,job=j,z=1 40.25@100",
        ]
    );
    assert_eq!((translated.dropped, translated.series, translated.exemplars), (vec![0], 6, 0));
    assert_eq!(translated.sent, Counts { samples: 6, histograms: 0, exemplars: 5 });
    assert_eq!(new_1(&message).unwrap().exemplars, 5, "without their samples");
}

#[test]
fn histograms_that_have_room_in_a_request_of_their_own_are_not_dropped_from_several_in_one() {
    // Six series of 0.1 MB each for each of 20 histograms.
    let long = "x".repeat(100_000);
    let series = pb1::TimeSeries {
        histograms: vec![corpus::custom_histogram()],
        ..corpus::series(&[("__name__", "rpc"), ("long", &long)])
    };
    let message = arbitrary::as_2(&arbitrary::request(vec![series; 20])).encode_to_vec();
    let series = table(CustomBuckets::AsClassic);
    assert_eq!(to_1_with(&series, &[all(&message)]).unwrap().dropped, [0]);
    assert!(to_1_with(&series, &[all(&message), all(&message)]).is_err());
}

#[test]
fn what_is_dropped_is_not_counted_a_second_time_for_its_start_timestamp() {
    let mut request =
        pb2::Request::decode(&*custom_2(corpus::custom_histogram(), &[("__name__", "rpc")], vec![])).unwrap();
    request.timeseries[0].histograms[0].start_timestamp = 50;
    let message = request.encode_to_vec();
    let dropped = new_1(&message).unwrap();
    assert_eq!((dropped.dropped, dropped.start_timestamps), (vec![1], 0));
    assert!(dropped.message.is_empty());
    let sent = classic(&message).unwrap();
    assert_eq!((sent.dropped, sent.start_timestamps), (vec![0], 1));
}

#[test]
fn a_float_histogram_with_gaps_and_observations_of_nan_is_cumulative_too() {
    let histogram = pb1::Histogram {
        count: Some(pb1::histogram::Count::CountFloat(9.5)),
        sum: f64::NAN,
        schema: -53,
        custom_values: vec![-1.0, 1e6, 2e6],
        positive_spans: vec![pb1::BucketSpan { offset: 1, length: 1 }],
        positive_counts: vec![2.5],
        timestamp: 0,
        ..Default::default()
    };
    // A label le of its own: it gives way in the buckets.
    let message = custom_2(histogram, &[("__name__", "rpc"), ("le", "own")], vec![]);
    assert_eq!(
        lines(&classic(&message).unwrap().message),
        [
            "__name__=rpc_bucket,le=-1.0 0.0@0",
            "__name__=rpc_bucket,le=1e+06 2.5@0",
            "__name__=rpc_bucket,le=2e+06 2.5@0",
            "__name__=rpc_bucket,le=+Inf 9.5@0",
            "__name__=rpc_count,le=own 9.5@0",
            "__name__=rpc_sum,le=own NaN@0",
        ]
    );
}

#[test]
fn a_stale_marker_of_custom_buckets_marks_every_series_that_its_bounds_name() {
    for bounds in [vec![], vec![0.5, 1.0]] {
        let stale = pb1::Histogram { schema: -53, custom_values: bounds.clone(), ..corpus::stale_histogram() };
        let translated = classic(&custom_2(stale, &[("__name__", "rpc")], vec![])).unwrap();
        let (series, _) = plain::of_1(&translated.message).unwrap();
        assert_eq!(series.len(), bounds.len() + 3);
        assert!(series.iter().all(|series| series.samples == [(arbitrary::STALE, 101, 0)]), "V1-42");
    }
}

/// One series' part of a request, as Prometheus sends it: each thing in an entry of its own.
#[derive(Clone, Copy, Debug)]
enum Part {
    Custom(&'static [f64]),
    Marker,
    Exemplar(f64),
    Exponential,
    Float,
}

fn entry(name: &str, part: Part, timestamp: i64) -> pb1::TimeSeries {
    let mut series = corpus::series(&[("__name__", name)]);
    match part {
        Part::Custom(bounds) => series.histograms.push(pb1::Histogram {
            schema: -53,
            sum: 2.5,
            custom_values: bounds.to_vec(),
            timestamp,
            ..Default::default()
        }),
        Part::Marker => series.histograms.push(pb1::Histogram { timestamp, ..corpus::stale_histogram() }),
        Part::Exemplar(value) => series.exemplars.push(corpus::exemplar(&[], value, timestamp)),
        Part::Exponential => series.histograms.push(pb1::Histogram { timestamp, ..corpus::integer_histogram() }),
        Part::Float => series.samples.push(corpus::sample(1.5f64.to_bits(), timestamp)),
    }
    series
}

/// A request of 2.0 with these entries, at timestamps from 1 on.
fn request_of(parts: &[(&str, Part)]) -> Vec<u8> {
    let entries = std::iter::zip(parts, 1..).map(|((name, part), timestamp)| entry(name, *part, timestamp));
    arbitrary::as_2(&arbitrary::request(entries.collect())).encode_to_vec()
}

/// What a target that has taken `before` is sent.
fn after(custom_buckets: CustomBuckets, before: &[(&str, Part)], then: &[(&str, Part)]) -> Translated {
    let mut series = table(custom_buckets);
    let taught = to_1_with(&series, &[all(&request_of(before))]).unwrap().taught;
    series.learn(taught);
    to_1_with(&series, &[all(&request_of(then))]).unwrap()
}

/// Each written series' name, bound, and whether it ends with a marker, has a histogram, or which exemplars it has.
fn summary(translated: &Translated) -> Vec<String> {
    let (series, _) = plain::of_1(&translated.message).unwrap();
    let one = |series: &Series| {
        let bound = series.labels.iter().skip_while(|text| *text != "le").nth(1).cloned().unwrap_or_default();
        let ends = series.samples.iter().any(|(bits, ..)| *bits == arbitrary::STALE);
        let exemplars: String = series.exemplars.iter().map(|exemplar| format!(" #{}", exemplar.0)).collect();
        let histograms = " histogram".repeat(series.histograms.len());
        format!("{} {bound}{}{histograms}{exemplars}", series.metric_name(), if ends { " ends" } else { "" })
    };
    series.iter().map(one).collect()
}

const ENDS: [&str; 5] =
    ["a_bucket 0.5 ends", "a_bucket 1.0 ends", "a_bucket +Inf ends", "a_count  ends", "a_sum  ends"];
const HALF_AND_ONE: Part = Part::Custom(&[0.5, 1.0]);

#[test]
fn a_stale_marker_without_bounds_ends_the_classic_series_that_were_sent() {
    let ends = after(CustomBuckets::AsClassic, &[("a", HALF_AND_ONE)], &[("a", Part::Marker)]);
    assert_eq!(summary(&ends), ENDS);
    assert_eq!((ends.sent, ends.dropped), (Counts { samples: 5, ..Counts::default() }, vec![0]));
    // Also in the same request, and in the same entry; and once more, should it be sent twice.
    let same = after(CustomBuckets::AsClassic, &[], &[("a", HALF_AND_ONE), ("a", Part::Marker), ("a", Part::Marker)]);
    assert_eq!(summary(&same)[5..], [ENDS, ENDS].concat());
    let mut series = entry("a", HALF_AND_ONE, 1);
    series.histograms.extend(entry("a", Part::Marker, 2).histograms);
    let message = arbitrary::as_2(&arbitrary::request(vec![series])).encode_to_vec();
    assert_eq!(summary(&classic(&message).unwrap())[5..], ENDS);
    // The newest bounds count, and other series are none of its business.
    let before = [("a", Part::Custom(&[7.0])), ("b", Part::Custom(&[9.0])), ("a", HALF_AND_ONE)];
    let ends = after(CustomBuckets::AsClassic, &before, &[("a", Part::Marker), ("c", Part::Marker)]);
    assert_eq!(summary(&ends), [&ENDS[..], &["c  histogram"]].concat());
}

#[test]
fn where_custom_buckets_are_dropped_so_are_their_ends_and_exemplars() {
    let then = [("a", Part::Marker), ("a", Part::Exemplar(0.7)), ("b", Part::Exemplar(0.7)), ("b", Part::Marker)];
    let dropped = after(CustomBuckets::Drop, &[("a", HALF_AND_ONE), ("a", Part::Exemplar(0.1))], &then);
    assert_eq!(summary(&dropped), ["b  #3", "b  histogram"]);
    assert_eq!((dropped.dropped, dropped.exemplars), (vec![1], 1));
}

#[test]
fn exemplars_that_come_alone_go_to_the_buckets_they_fell_into() {
    let exemplars = [0.5, 0.75, 2.0, f64::NAN, f64::NEG_INFINITY].map(|value| ("a", Part::Exemplar(value)));
    let sent = after(CustomBuckets::AsClassic, &[("a", HALF_AND_ONE)], &exemplars);
    assert_eq!(
        summary(&sent),
        ["a_bucket 0.5 #1", "a_bucket 1.0 #2", "a_bucket +Inf #3", "a_bucket +Inf #4", "a_bucket 0.5 #5"]
    );
    assert_eq!((sent.sent, sent.exemplars), (Counts { exemplars: 5, ..Counts::default() }, 0));
    // Several in one entry: each bucket is written once.
    let mut series = entry("a", Part::Exemplar(3.0), 1);
    series.exemplars.extend([(0.1, 2), (4.0, 3)].map(|(value, at)| corpus::exemplar(&[], value, at)));
    let message = arbitrary::as_2(&arbitrary::request(vec![entry("a", HALF_AND_ONE, 1), series])).encode_to_vec();
    assert_eq!(summary(&classic(&message).unwrap())[5..], ["a_bucket 0.5 #2", "a_bucket +Inf #1 #3"]);
}

#[test]
fn bounds_that_are_too_long_to_be_known_lose_exemplars_which_are_counted_and_of_the_ends_those_of_the_buckets() {
    let mut series = CustomSeries::with_bytes_max(CustomBuckets::AsClassic, 256);
    let taught = to_1_with(&series, &[all(&request_of(&[("a", HALF_AND_ONE)]))]).unwrap().taught;
    series.learn(taught);
    let then = request_of(&[("a", Part::Exemplar(0.7)), ("a", Part::Marker)]);
    let translated = to_1_with(&series, &[all(&then)]).unwrap();
    assert_eq!(summary(&translated), &ENDS[2..]);
    assert_eq!(translated.exemplars, 1);
}

#[test]
fn a_series_that_is_an_ordinary_one_again_is_forgotten() {
    for ordinary in [Part::Exponential, Part::Float] {
        for custom_buckets in [CustomBuckets::Drop, CustomBuckets::AsClassic] {
            let before = [("a", HALF_AND_ONE), ("a", ordinary)];
            let translated = after(custom_buckets, &before, &[("a", Part::Exemplar(0.7)), ("a", Part::Marker)]);
            assert_eq!(summary(&translated), ["a  #1", "a  histogram"], "{ordinary:?}");
            let mut series = table(custom_buckets);
            series.learn(to_1_with(&series, &[all(&request_of(&before[..1]))]).unwrap().taught);
            assert_eq!(series.len(), 1);
            series.learn(to_1_with(&series, &[all(&request_of(&before[1..]))]).unwrap().taught);
            assert!(series.is_empty());
        }
    }
}

#[test]
fn equal_series_of_two_tenants_are_told_apart() {
    let mut series = table(CustomBuckets::Drop);
    let of = |series: &CustomSeries, tenant, part| {
        let message = request_of(&[("a", part)]);
        to_1(&[all(&message)], series, tenant, &mut SentMetadata::default(), Instant::now()).unwrap()
    };
    series.learn(of(&series, 1, HALF_AND_ONE).taught);
    series.learn(of(&series, 2, Part::Exponential).taught);
    assert_eq!(of(&series, 1, Part::Marker).dropped, [1]);
    assert_eq!(summary(&of(&series, 2, Part::Marker)), ["a  histogram"]);
}

#[test]
fn what_is_known_already_teaches_nothing() {
    let parts = [("a", HALF_AND_ONE), ("b", Part::Float), ("a", Part::Exemplar(1.0)), ("a", Part::Marker)];
    assert_eq!(after(CustomBuckets::AsClassic, &parts, &parts).taught, Taught::default());
    assert_eq!(
        after(CustomBuckets::AsClassic, &[], &[("b", Part::Float), ("c", Part::Marker)]).taught,
        Taught::default()
    );
}

#[test]
fn few_symbols_referred_to_very_often_are_not_written_out_without_end() {
    let long = "x".repeat(1 << 20);
    let symbols = vec![String::new(), "__name__".into(), "a".into(), long.clone(), format!("{long}y")];
    let labels_refs = [3, 3].repeat(1000);
    let exemplars = vec![pb2::Exemplar { labels_refs, value: 1.0, timestamp: 1 }; 1000];
    let samples = vec![pb2::Sample { value: 1.0, ..Default::default() }];
    let mut series = pb2::TimeSeries { labels_refs: vec![1, 2], samples, exemplars, ..Default::default() };
    let message = pb2::Request { symbols: symbols.clone(), timeseries: vec![series.clone()] }.encode_to_vec();
    let translated = new_1(&message).unwrap();
    assert_eq!((translated.exemplars, translated.sent), (1000, Counts { samples: 1, ..Counts::default() }));

    // Metadata that changes each time.
    series.exemplars.clear();
    let timeseries = (0..1000).map(|n| pb2::TimeSeries {
        metadata: Some(pb2::Metadata { help_ref: 3 + n % 2, ..Default::default() }),
        ..series.clone()
    });
    let message = pb2::Request { symbols: symbols.clone(), timeseries: timeseries.collect() }.encode_to_vec();
    let translated = new_1(&message).unwrap();
    assert!(translated.message.len() < 20 << 20);
    assert_eq!((translated.sent.samples, translated.metadata + translated.metadata_left_out), (1000, 1000));

    // Classic series.
    let bounds = (0..20_000).map(f64::from).collect();
    let histogram = pb1::Histogram { schema: -53, custom_values: bounds, ..Default::default() };
    let message = custom_2(histogram, &[("__name__", "rpc"), ("l", &long[..10_000])], vec![]);
    let translated = classic(&message).unwrap();
    assert_eq!((translated.dropped, translated.series), (vec![1], 0));
}

#[test]
fn texts_that_nobody_looked_at_fail_no_request_if_they_are_not_utf_8() {
    let with = |message: &[u8], text: &[u8; 5]| {
        let at = message.windows(5).position(|bytes| bytes == text).unwrap();
        let mut message = message.to_vec();
        message[at] = 0xff;
        message
    };
    let series = pb1::TimeSeries {
        samples: vec![corpus::sample(1, 1)],
        exemplars: vec![corpus::exemplar(&[("trace", "x")], 1.0, 1), corpus::exemplar(&[], 2.0, 2)],
        ..corpus::series(&[("__name__", "a")])
    };
    let lone = pb1::TimeSeries { samples: vec![], ..series.clone() };
    for timeseries in [vec![series.clone()], vec![lone, pb1::TimeSeries { exemplars: vec![], ..series.clone() }]] {
        let metadata =
            vec![pb1::MetricMetadata { metric_family_name: "a".into(), help: "about".into(), ..Default::default() }];
        let message = pb1::WriteRequest { timeseries, metadata }.encode_to_vec();
        let message = with(&with(&message, b"trace"), b"about");
        let translated = new_2(&message).unwrap();
        let written = plain::of_2(&translated.message).unwrap();
        assert_eq!(written[0].exemplars, [(2, 2f64.to_bits(), vec![])]);
        assert_eq!((translated.exemplars, translated.sent.exemplars, &written[0].metadata), (1, 1, &None));
    }
    let symbols = ["", "__name__", "a", "about"].map(str::to_owned).into();
    let metadata = Some(pb2::Metadata { r#type: 1, help_ref: 3, unit_ref: 0 });
    let samples = vec![pb2::Sample::default()];
    let timeseries = vec![pb2::TimeSeries { labels_refs: vec![1, 2], samples, metadata, ..Default::default() }];
    let message = pb2::Request { symbols, timeseries }.encode_to_vec();
    let translated = new_1(&with(&message, b"about")).unwrap();
    assert_eq!(plain::of_1(&translated.message).unwrap().0.len(), 1);
    assert_eq!((translated.metadata, translated.metadata_left_out), (0, 1));
}

#[test]
fn a_sample_s_unusual_forms_are_read_as_prost_reads_them() {
    use corpus::{bytes, fixed, varint};
    let forms: [&[Vec<u8>]; 7] = [
        &[],
        &[varint(2, 7)],
        &[fixed(1, 7)],
        &[varint(2, u64::MAX), fixed(1, 7)],
        &[fixed(1, 7), varint(2, u64::MAX)],
        &[fixed(1, 7), varint(2, 1), varint(2, 0)],
        &[fixed(1, 7), fixed(1, 0), varint(2, 1)],
    ];
    for form in forms {
        let labels = corpus::series(&[("__name__", "a")]).encode_to_vec();
        let message = bytes(1, &[labels, bytes(2, &form.concat())].concat());
        judge(Protocol::V1, &message, &format!("{form:?}"));
    }
}

fn parts() -> impl Strategy<Value = Vec<(&'static str, Part)>> {
    let part = prop_oneof![
        Just(HALF_AND_ONE),
        Just(Part::Custom(&[])),
        Just(Part::Marker),
        (-1..3i32).prop_map(|value| Part::Exemplar(value.into())),
        Just(Part::Exponential),
        Just(Part::Float),
    ];
    prop::collection::vec((prop_oneof![Just("a"), Just("b")], part), 0..8)
}

proptest! {
    /// Labels in any order, any bits, histograms that make no sense: what prost encodes is translated as the rules say.
    #[test]
    fn any_request_is_translated_as_the_plain_rules_say(one in arbitrary::request1(), two in arbitrary::request2()) {
        judge_to_2(&one.encode_to_vec(), "1.0");
        // Prost writes no odd number of references.
        judge_to_1(&two.encode_to_vec(), "2.0");
    }

    #[test]
    fn any_valid_request_comes_through_both_ways(request in arbitrary::valid_request2()) {
        let message = request.encode_to_vec();
        judge(Protocol::V2, &message, "2.0");
        judge(Protocol::V1, &new_1(&message).unwrap().message, "1.0");
    }

    /// What is in several requests is what is in one that has all their series.
    #[test]
    fn several_requests_are_as_one(requests in prop::collection::vec(arbitrary::request1(), 0..4)) {
        let messages: Vec<Vec<u8>> = requests.iter().map(Message::encode_to_vec).collect();
        let selections: Vec<Selection<'_>> = messages.iter().map(|message| all(message)).collect();
        let several = to_2(&selections, &mut KnownMetadata::default()).unwrap();
        let one = new_2(&messages.concat()).unwrap();
        prop_assert_eq!(&one.message, &several.message);
        prop_assert_eq!((one.exemplars, one.sent), (several.exemplars, several.sent));

        let messages: Vec<Vec<u8>> = requests.iter().map(|request| arbitrary::as_2(request).encode_to_vec()).collect();
        let selections: Vec<Selection<'_>> = messages.iter().map(|message| all(message)).collect();
        for custom_buckets in [CustomBuckets::Drop, CustomBuckets::AsClassic] {
            let mut series = table(custom_buckets);
            let several = to_1_with(&series, &selections).unwrap();
            let parts = selections.iter().map(|selection| {
                let part = to_1_with(&series, std::slice::from_ref(selection)).unwrap();
                series.learn(part.taught);
                part.message
            });
            prop_assert_eq!(parts.collect::<Vec<_>>().concat(), several.message);
        }
    }

    /// A request that failed is built again, whole or in pieces that are taken one after the other: what is sent is the same.
    #[test]
    fn a_request_that_is_built_again_is_the_same_also_in_pieces(
        before in parts(),
        parts in parts(),
        cut in any::<prop::sample::Index>(),
        is_classic: bool,
    ) {
        let mut series = table(if is_classic { CustomBuckets::AsClassic } else { CustomBuckets::Drop });
        series.learn(to_1_with(&series, &[all(&request_of(&before))]).unwrap().taught);
        let message = request_of(&parts);
        let whole = to_1_with(&series, &[all(&message)]).unwrap();
        prop_assert_eq!(&to_1_with(&series, &[all(&message)]).unwrap(), &whole);
        let cut = cut.index(parts.len() + 1) as u32;
        let piece = |entries| [Selection { message: &message, entries: Chosen::Range(entries) }];
        let first = to_1_with(&series, &piece(0..cut)).unwrap();
        series.learn(first.taught);
        let second = to_1_with(&series, &piece(cut..parts.len() as u32)).unwrap();
        prop_assert_eq!([&first.message[..], &second.message].concat(), whole.message);
        prop_assert_eq!(first.dropped[0] + second.dropped[0], whole.dropped[0]);
        prop_assert_eq!(first.exemplars + second.exemplars, whole.exemplars);
        if !is_classic {
            judge_to_1(&message, "where nothing is known");
        }
    }

    #[test]
    fn classic_series_are_valid_and_cumulative(request in arbitrary::valid_request2()) {
        let message = request.encode_to_vec();
        let translated = classic(&message).unwrap();
        prop_assert_eq!(&translated.dropped, &[0]);
        let summary = walk(Protocol::V1, &translated.message).unwrap();
        prop_assert!(summary.offences.count() == 0 && summary.is_canonical, "{}", summary.offences);
        prop_assert_eq!(translated.sent, counts(&plain::of_1(&translated.message).unwrap().0));
        let custom = as_1(plain::of_2(&message).unwrap()).dropped;
        let (series, _) = plain::of_1(&translated.message).unwrap();
        let others = as_1(plain::of_2(&message).unwrap()).series;
        let made: Vec<&Series> = series.iter().filter(|series| series.has_data() && !others.contains(series)).collect();
        let infinite = made.iter().filter(|series| series.labels.contains(&"+Inf".to_owned())).count() as u64;
        prop_assert!(infinite <= custom);
        let mut last = 0.0;
        for series in made.iter().filter(|series| series.metric_name().ends_with("_bucket")) {
            // A stale marker, whatever else is in the histogram.
            let value = if series.samples[0].0 == arbitrary::STALE { last } else { f64::from_bits(series.samples[0].0) };
            prop_assert!(value >= last, "{} after {}", value, last);
            last = if series.labels.contains(&"+Inf".to_owned()) { 0.0 } else { value };
        }
    }

    /// Whatever the bytes: no panic, and what prost reads is translated as the rules say.
    #[test]
    fn damaged_requests_are_malformed_or_come_through(
        one in arbitrary::request1(),
        two in arbitrary::valid_request2(),
        damage in arbitrary::damage(),
    ) {
        let mut message = one.encode_to_vec();
        damage.strike(&mut message);
        let translated = new_2(&message);
        if let (Ok(translated), Some(original)) = (translated, plain::of_1(&message)) {
            let expected = as_2(original);
            prop_assert_eq!(plain::of_2(&translated.message).unwrap(), expected.series);
        }
        let mut message = two.encode_to_vec();
        damage.strike(&mut message);
        let _ = classic(&message);
        let translated = new_1(&message);
        if let (Ok(translated), Some(original)) = (&translated, plain::of_2(&message)) {
            let expected = as_1(original);
            prop_assert_eq!(plain::of_1(&translated.message).unwrap().0, expected.series);
            prop_assert_eq!(&translated.dropped, &[expected.dropped]);
        }
        if let Ok(summary) = walk(Protocol::V2, &message) && summary.offences.count() == 0 {
            prop_assert!(translated.is_ok());
        }
    }

    /// The corpus has shapes that no encoder writes.
    #[test]
    fn damaged_cases_of_the_corpus_do_no_harm(
        case in any::<prop::sample::Index>(),
        damage in arbitrary::damage(),
    ) {
        let mut cases = corpus::cases();
        let corpus::Case { protocol, mut message, .. } = cases.swap_remove(case.index(cases.len()));
        damage.strike(&mut message);
        let is_valid = walk(protocol, &message).is_ok_and(|summary| summary.offences.count() == 0);
        match protocol {
            Protocol::V1 => prop_assert!(!is_valid || new_2(&message).is_ok()),
            Protocol::V2 => prop_assert!(!is_valid || (new_1(&message).is_ok() && classic(&message).is_ok())),
        }
        prop_assert!(!is_valid || rebuild(protocol, &[all(&message)]).is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), end: u8) {
        let selections = [all(&bytes), Selection { message: &bytes, entries: Chosen::Range(0..end.into()) }];
        let _ = to_2(&selections, &mut KnownMetadata::default());
        for custom_buckets in [CustomBuckets::Drop, CustomBuckets::AsClassic] {
            let _ = to_1_with(&table(custom_buckets), &selections);
        }
    }
}
