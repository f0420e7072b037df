//! Histograms with custom buckets: dropped, or as classic series, and how they end.

use super::*;
use crate::protocol::text::STALE;

/// Labels, value and timestamp of each sample.
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

pub(super) fn custom_2(histogram: pb1::Histogram, labels: &[(&str, &str)], exemplars: Vec<pb1::Exemplar>) -> Vec<u8> {
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
        assert!(series.iter().all(|series| series.samples == [(STALE, 101, 0)]), "V1-42");
    }
}

/// One series' part of a request, as Prometheus sends it: each thing in an entry of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
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
pub(super) fn request_of(parts: &[(&str, Part)]) -> Vec<u8> {
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
        let ends = series.samples.iter().any(|(bits, ..)| *bits == STALE);
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

pub(super) fn parts() -> impl Strategy<Value = Vec<(&'static str, Part)>> {
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
