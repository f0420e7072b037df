//! The walk, judged by prost: what prost encodes is counted right, what prost refuses is refused.

use proptest::prelude::*;
use prost::Message;

use super::messages::{v1 as pb1, v2 as pb2};
use super::text::STALE;
use super::v2::Scratch;
use super::*;

fn walk1(message: &[u8]) -> Result<Summary, Malformed> {
    v1::walk(message, &SeenLabels::with_capacity(64))
}

fn walk2(message: &[u8]) -> Result<Summary, Malformed> {
    v2::walk(message, &mut Scratch::default(), 1 << 20)
}

fn label(name: &str, value: &str) -> pb1::Label {
    pb1::Label { name: name.into(), value: value.into() }
}

fn series1(labels: &[(&str, &str)], timestamps: &[i64]) -> pb1::TimeSeries {
    pb1::TimeSeries {
        labels: labels.iter().map(|(name, value)| label(name, value)).collect(),
        samples: timestamps.iter().map(|&timestamp| pb1::Sample { value: f64::from_bits(STALE), timestamp }).collect(),
        ..Default::default()
    }
}

fn request1(timeseries: Vec<pb1::TimeSeries>) -> Vec<u8> {
    pb1::WriteRequest { timeseries, ..Default::default() }.encode_to_vec()
}

fn histogram1() -> pb1::Histogram {
    pb1::Histogram {
        count: Some(pb1::histogram::Count::CountInt(7)),
        zero_count: Some(pb1::histogram::ZeroCount::ZeroCountInt(1)),
        sum: 3.5,
        schema: 3,
        positive_spans: vec![pb1::BucketSpan { offset: -2, length: 2 }, pb1::BucketSpan { offset: 3, length: 1 }],
        positive_deltas: vec![1, 1, 1],
        timestamp: 99,
        ..Default::default()
    }
}

/// The problem found in a histogram.
fn problem(histogram: pb1::Histogram) -> Option<histogram::Problem> {
    let series =
        pb1::TimeSeries { labels: vec![label("__name__", "h")], histograms: vec![histogram], ..Default::default() };
    let summary = walk1(&request1(vec![series])).unwrap();
    assert_eq!(summary.histograms, 1);
    summary.offences.first.into_iter().next().map(|offender| match offender.offence {
        Offence::Histogram { problem, .. } => problem,
        other => panic!("{other}"),
    })
}

#[test]
fn everything_in_a_1_0_request_is_counted() {
    let mut first = series1(&[("__name__", "a"), ("job", "x")], &[5, -3]);
    first.exemplars = vec![pb1::Exemplar { labels: vec![label("trace_id", "1")], value: 1.0, timestamp: 7 }];
    let mut second = series1(&[("__name__", "h")], &[]);
    second.histograms = vec![histogram1()];
    let metadata = vec![pb1::MetricMetadata { metric_family_name: "a".into(), ..Default::default() }];
    let request = pb1::WriteRequest { timeseries: vec![first, second], metadata }.encode_to_vec();
    let expected = Summary {
        series: 2,
        samples: 2,
        histograms: 1,
        exemplars: 1,
        metadata: 1,
        timestamp_min: -3,
        timestamp_max: 99,
        ..Summary::default()
    };
    assert_eq!(walk1(&request), Ok(expected), "V1-01, V1-04");
}

#[test]
fn a_series_is_judged_the_same_when_it_is_known() {
    let seen = SeenLabels::with_capacity(64);
    let good = request1(vec![series1(&[("__name__", "a"), ("job", "x")], &[1])]);
    let bad = request1(vec![series1(&[("__name__", "a"), ("a", "sorted wrongly, twice"), ("a", "")], &[1])]);
    for _ in 0..3 {
        assert_eq!(v1::walk(&good, &seen).unwrap().offences.count(), 0);
        assert_eq!(v1::walk(&bad, &seen).unwrap().offences.count(), 1);
    }
}

#[test]
fn unsorted_labels_are_taken_and_noted() {
    let unsorted = walk1(&request1(vec![series1(&[("job", "x"), ("__name__", "a")], &[1])])).unwrap();
    assert!(!unsorted.is_canonical && unsorted.offences.count() == 0, "V1-22");
    let empty = walk1(&request1(vec![series1(&[("__name__", "a"), ("job", "")], &[1])])).unwrap();
    assert!(!empty.is_canonical && empty.offences.count() == 0, "V1-23");
}

#[test]
fn the_text_about_invalid_series_names_the_first_ones_and_counts_the_rest() {
    let bad = || series1(&[("job", "x")], &[1]);
    let good = || series1(&[("__name__", "a")], &[1]);
    let twice = || series1(&[("__name__", "a"), ("job", "x"), ("job", "y")], &[1]);
    let summary = walk1(&request1(vec![good(), bad(), twice(), bad(), bad(), good()])).unwrap();
    assert_eq!(
        summary.offences.to_string(),
        "4 invalid series: series 1: no metric name (__name__); series 2: label name \"job\" twice; \
         series 3: no metric name (__name__); and 1 more",
        "V2-29"
    );
}

#[test]
fn invalid_utf_8_is_an_invalid_series_and_not_a_malformed_request() {
    let mut request =
        request1(vec![series1(&[("__name__", "a"), ("job", "xyz")], &[1]), series1(&[("__name__", "b")], &[1])]);
    let at = request.windows(3).position(|bytes| bytes == b"xyz").unwrap();
    request[at] = 0xff;
    let summary = walk1(&request).unwrap();
    assert_eq!((summary.offences.count(), summary.samples), (1, 2), "V1-26");
    // UTF-8 in names is legal since 2.0, whatever 1.0 says (V1-24, V1-25).
    let names = walk1(&request1(vec![series1(&[("__name__", "温度"), ("länge", "é")], &[1])])).unwrap();
    assert_eq!(names.offences.count(), 0, "V2-77");
}

#[test]
fn labels_behind_the_samples_are_found() {
    let labels = pb1::TimeSeries { labels: vec![label("__name__", "a")], ..Default::default() }.encode_to_vec();
    let samples = pb1::TimeSeries { samples: vec![pb1::Sample { value: 1.0, timestamp: 2 }], ..Default::default() };
    let mut series = samples.encode_to_vec();
    series.extend(labels);
    let mut request = vec![0x0a, series.len() as u8];
    request.extend(series);
    let summary = walk1(&request).unwrap();
    assert_eq!((summary.samples, summary.offences.count()), (1, 0));
}

#[test]
fn histograms_that_prometheus_would_choke_on_are_invalid() {
    use histogram::Problem;
    assert_eq!(problem(histogram1()), None);
    assert_eq!(problem(pb1::Histogram { schema: 9, ..histogram1() }), Some(Problem::Schema(9)));
    assert_eq!(problem(pb1::Histogram { schema: -5, ..histogram1() }), Some(Problem::Schema(-5)));
    assert_eq!(
        problem(pb1::Histogram { positive_deltas: vec![1, 1], ..histogram1() }),
        Some(Problem::Spans { spans: 3, buckets: 2 })
    );
    assert_eq!(
        problem(pb1::Histogram { positive_deltas: vec![1, -2, 7], ..histogram1() }),
        Some(Problem::NegativeBucket)
    );
    let count = |count| Some(pb1::histogram::Count::CountInt(count));
    assert_eq!(problem(pb1::Histogram { count: count(8), ..histogram1() }), Some(Problem::Count));
    assert_eq!(problem(pb1::Histogram { count: count(8), sum: f64::NAN, ..histogram1() }), None, "NaN observations");
    assert_eq!(problem(pb1::Histogram { count: count(6), sum: f64::NAN, ..histogram1() }), Some(Problem::Count));
    assert_eq!(problem(pb1::Histogram { custom_values: vec![1.0], ..histogram1() }), Some(Problem::UnexpectedBounds));
    let mut spans = histogram1();
    spans.positive_spans[1].offset = -1;
    assert_eq!(problem(spans), Some(Problem::NegativeOffset));
}

#[test]
fn float_custom_and_stale_histograms_have_rules_of_their_own() {
    use histogram::Problem;
    let float = pb1::Histogram {
        count: Some(pb1::histogram::Count::CountFloat(2.5)),
        zero_count: None,
        positive_deltas: vec![],
        positive_counts: vec![1.0, 0.5, 1.0],
        ..histogram1()
    };
    assert_eq!(problem(float.clone()), None);
    assert_eq!(
        problem(pb1::Histogram { positive_counts: vec![1.0, -0.5, 1.0], ..float }),
        Some(Problem::NegativeBucket)
    );
    let custom = pb1::Histogram {
        count: Some(pb1::histogram::Count::CountInt(6)),
        zero_count: None,
        schema: -53,
        custom_values: vec![0.5, 1.0],
        positive_spans: vec![pb1::BucketSpan { offset: 0, length: 3 }],
        ..histogram1()
    };
    assert_eq!(problem(custom.clone()), None);
    assert_eq!(problem(pb1::Histogram { custom_values: vec![1.0, 1.0], ..custom.clone() }), Some(Problem::Bounds));
    assert_eq!(
        problem(pb1::Histogram { custom_values: vec![1.0, f64::INFINITY], ..custom.clone() }),
        Some(Problem::Bounds)
    );
    assert_eq!(
        problem(pb1::Histogram { custom_values: vec![1.0], ..custom.clone() }),
        Some(Problem::Spans { spans: 3, buckets: 2 })
    );
    assert_eq!(problem(pb1::Histogram { zero_threshold: 0.1, ..custom }), Some(Problem::CustomWithZeroOrNegative));
    let stale = pb1::Histogram { sum: f64::from_bits(STALE), timestamp: 5, ..Default::default() };
    assert_eq!(problem(stale), None, "V2-87");
}

#[test]
fn metadata_that_no_decoder_takes_is_malformed() {
    assert_eq!(walk1(&[0x1a, 4, 0x08, 1, 0x12, 0]).unwrap().metadata, 1);
    assert!(walk1(&[0x1a, 2, 0x10, 1]).is_err(), "the name as a number");
}

fn request2(symbols: &[&str], series: pb2::TimeSeries) -> Vec<u8> {
    let symbols = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
    pb2::Request { symbols, timeseries: vec![series] }.encode_to_vec()
}

fn series2(references: &[u32]) -> pb2::TimeSeries {
    let samples = vec![pb2::Sample { value: 1.0, timestamp: 5, start_timestamp: 0 }];
    pb2::TimeSeries { labels_refs: references.to_vec(), samples, ..Default::default() }
}

const SYMBOLS: [&str; 5] = ["", "__name__", "up", "job", "x"];

fn offence2(series: pb2::TimeSeries) -> Option<Offence> {
    let summary = walk2(&request2(&SYMBOLS, series)).unwrap();
    summary.offences.first.into_iter().next().map(|offender| offender.offence)
}

#[test]
fn a_2_0_request_is_counted_with_its_symbols_before_or_behind() {
    let whole = pb2::Request {
        symbols: SYMBOLS.map(str::to_owned).into(),
        timeseries: vec![
            series2(&[1, 2, 3, 4]),
            pb2::TimeSeries {
                labels_refs: vec![1, 2],
                exemplars: vec![pb2::Exemplar { labels_refs: vec![3, 4], value: 0.0, timestamp: 1 }],
                ..Default::default()
            },
        ],
    };
    let expected = Summary {
        series: 2,
        samples: 1,
        exemplars: 1,
        symbols: 5,
        timestamp_min: 5,
        timestamp_max: 5,
        has_lone_exemplars: true,
        ..Summary::default()
    };
    assert_eq!(walk2(&whole.encode_to_vec()), Ok(expected.clone()), "V2-60, V2-61, V2-63");
    let series_first = pb2::Request { symbols: vec![], ..whole.clone() }.encode_to_vec();
    let symbols = pb2::Request { timeseries: vec![], ..whole }.encode_to_vec();
    assert_eq!(walk2(&[series_first, symbols].concat()), Ok(expected), "V2-71");
}

#[test]
fn references_that_prometheus_would_panic_on_are_invalid() {
    let out_of_range = |reference| Some(Offence::ReferenceOutOfRange { reference, symbols: 5 });
    assert_eq!(offence2(series2(&[1, 2, 3, 4])), None);
    assert_eq!(offence2(series2(&[1, 2, 3])), Some(Offence::OddReferences), "V2-62");
    assert_eq!(offence2(series2(&[1, 2, 3, 5])), out_of_range(5), "V2-70");
    assert_eq!(offence2(series2(&[1, 2, u32::MAX, 4])), out_of_range(u32::MAX));
    let exemplar = |references: &[u32]| pb2::TimeSeries {
        exemplars: vec![pb2::Exemplar { labels_refs: references.to_vec(), value: 1.0, timestamp: 1 }],
        ..series2(&[1, 2])
    };
    assert_eq!(offence2(exemplar(&[3, 9])), out_of_range(9));
    assert_eq!(offence2(exemplar(&[3])), Some(Offence::OddReferences));
    let metadata = pb2::Metadata { help_ref: 7, ..Default::default() };
    assert_eq!(offence2(pb2::TimeSeries { metadata: Some(metadata), ..series2(&[1, 2]) }), out_of_range(7));
}

#[test]
fn labels_of_2_0_follow_the_same_rules() {
    let twice = Offence::DuplicateLabelName { name: "job".into() };
    assert_eq!(offence2(series2(&[3, 4])), Some(Offence::NoMetricName), "V2-73");
    assert_eq!(offence2(series2(&[1, 2, 3, 4, 3, 2])), Some(twice), "V2-74");
    assert_eq!(offence2(series2(&[0, 2, 1, 2])), Some(Offence::EmptyLabelName), "V2-76");
    assert!(!walk2(&request2(&SYMBOLS, series2(&[3, 4, 1, 2]))).unwrap().is_canonical, "V2-75");
    let both = pb2::TimeSeries { histograms: vec![pb2::Histogram::default()], ..series2(&[1, 2]) };
    assert_eq!(offence2(both), Some(Offence::SamplesAndHistograms), "V2-64");
}

#[test]
fn references_are_read_packed_or_not_and_created_timestamps_of_both_generations() {
    // prost packs; by hand: four times field 1 as a varint, a sample, field 6 (created timestamp).
    let series = [0x08, 1, 0x08, 2, 0x08, 3, 0x08, 4, 0x12, 2, 0x10, 5, 0x30, 9];
    let mut request = request2(&SYMBOLS, series2(&[1, 2]));
    request.extend([0x2a, series.len() as u8]);
    request.extend(series);
    let summary = walk2(&request).unwrap();
    assert_eq!((summary.series, summary.samples, summary.offences.count()), (2, 2, 0));
}

#[test]
fn a_request_of_the_other_protocol_is_no_empty_one() {
    let one = request1(vec![series1(&[("__name__", "a")], &[1])]);
    let two = request2(&SYMBOLS, series2(&[1, 2]));
    assert!(walk2(&one).unwrap_err().to_string().contains("1.0 request where the Content-Type says 2.0"), "V2-20");
    assert!(walk1(&two).unwrap_err().to_string().contains("2.0 request where the Content-Type says 1.0"));
    assert_eq!(walk1(&[]), Ok(Summary::default()));
    assert_eq!(walk2(&[]), Ok(Summary::default()));
}

#[test]
fn custom_buckets_that_reach_beyond_their_bounds_are_invalid() {
    use histogram::Problem;
    // Prometheus 3.5.3 answers 500 to these, and a sender that believes it repeats them for ever.
    let with_spans = |spans: &[(i32, u32)]| pb1::Histogram {
        count: Some(pb1::histogram::Count::CountInt(1)),
        sum: 1.5,
        schema: -53,
        custom_values: vec![1.0, 2.0],
        positive_spans: spans.iter().map(|&(offset, length)| pb1::BucketSpan { offset, length }).collect(),
        positive_deltas: vec![1],
        timestamp: 5,
        ..Default::default()
    };
    assert_eq!(problem(with_spans(&[(2, 1)])), None);
    assert_eq!(problem(with_spans(&[(3, 1)])), Some(Problem::Spans { spans: 4, buckets: 3 }));
    assert_eq!(problem(with_spans(&[(5, 1)])), Some(Problem::Spans { spans: 6, buckets: 3 }));
    assert_eq!(problem(with_spans(&[(0, 0), (4, 1)])), Some(Problem::Spans { spans: 5, buckets: 3 }));
    assert_eq!(problem(with_spans(&[(-1, 1)])), Some(Problem::NegativeOffset));
}

#[test]
fn a_schema_of_more_than_32_bits_counts_with_its_low_ones_as_in_every_decoder() {
    // zigzag(-53) is 105; with bit 33 set it is still -53 for a decoder of 32 bits.
    let mut fields = vec![0x20];
    prost::encoding::encode_varint(1 << 33 | 105, &mut fields);
    let decoded = pb1::Histogram::decode(&*fields).unwrap();
    assert_eq!(decoded.schema, -53);
    let walked = histogram::walk(wire::Fields::new(&fields)).unwrap();
    assert_eq!(walked.problem, None);
}

#[test]
fn few_symbols_referred_to_very_often_are_refused_before_anybody_compares_them() {
    let long = "x".repeat(100_000);
    let symbols = ["", "__name__", "a", &format!("{long}a"), &format!("{long}b")];
    let references: Vec<u32> = [1, 2].into_iter().chain((0..2000).flat_map(|n| [3 + n % 2, 2])).collect();
    let error = walk2(&request2(&symbols, series2(&references))).unwrap_err();
    assert!(error.what.contains("written out"), "{error}");
    let many: Vec<u32> = [1, 2].into_iter().chain((0..30_000).flat_map(|_| [3, 4])).collect();
    let offence = offence2(series2(&many));
    assert!(matches!(offence, Some(Offence::TooManyLabels { .. } | Offence::DuplicateLabelName { .. })), "{offence:?}");
}

#[test]
fn text_that_fails_a_strict_decoder_as_a_whole_makes_its_series_invalid() {
    // Not a label's: an exemplar's label in 1.0; the help in 2.0.
    let exemplar = pb1::Exemplar { labels: vec![label("trace_id", "xyz")], value: 1.0, timestamp: 1 };
    let bad = pb1::TimeSeries { exemplars: vec![exemplar], ..series1(&[("__name__", "a")], &[1]) };
    let mut request = request1(vec![bad, series1(&[("__name__", "b")], &[1])]);
    assert_eq!(walk1(&request).unwrap().offences.count(), 0);
    let at = request.windows(3).position(|bytes| bytes == b"xyz").unwrap();
    request[at] = 0xff;
    let offences = walk1(&request).unwrap().offences;
    assert!(offences.count() == 1 && offences.contains(0), "{offences}");

    let metadata = pb2::Metadata { help_ref: 5, ..Default::default() };
    let bad = pb2::TimeSeries { metadata: Some(metadata), ..series2(&[1, 2]) };
    let mut request = request2(&["", "__name__", "up", "job", "x", "xyz"], bad);
    assert_eq!(walk2(&request).unwrap().offences.count(), 0);
    let at = request.windows(3).position(|bytes| bytes == b"xyz").unwrap();
    request[at] = 0xff;
    assert_eq!(
        walk2(&request).unwrap().offences.to_string(),
        "1 invalid series: series 0: a name, value or other text is not UTF-8",
        "V2-77"
    );
}

#[test]
fn references_of_an_exemplar_beyond_those_that_are_read_are_not_trusted() {
    const LABELS: usize = labels::LABELS_MAX;
    let references = [[3, 4].repeat(LABELS), vec![9, 9]].concat();
    let exemplar = pb2::Exemplar { labels_refs: references, value: 1.0, timestamp: 1 };
    let series = pb2::TimeSeries { exemplars: vec![exemplar], ..series2(&[1, 2]) };
    assert_eq!(offence2(series), Some(Offence::TooManyLabels { limit: LABELS }));
}

#[test]
fn a_series_over_a_limit_is_invalid_also_when_it_was_seen_often() {
    use labels::Limits;
    let limits = Limits { labels: Some(2), name_bytes: Some(8), value_bytes: Some(3) };
    let seen = SeenLabels::within(limits, 64);
    let good = [("__name__", "up"), ("job", "abc")];
    let bad: [&[(&str, &str)]; 4] = [
        &[("__name__", "up"), ("a", "1"), ("b", "2")],
        &[("__name__", "up"), ("a_long_name", "1")],
        &[("__name__", "up"), ("job", "abcd")],
        &[("job", "abcd"), ("__name__", "up")],
    ];
    for _ in 0..3 {
        let request: Vec<_> = bad.iter().map(|labels| series1(labels, &[1])).chain([series1(&good, &[1])]).collect();
        let one = v1::walk(&request1(request.clone()), &seen).unwrap();
        let request = arbitrary::as_2(&arbitrary::request(request)).encode_to_vec();
        let two = v2::walk_within(&request, &mut Scratch::default(), 1 << 20, &limits).unwrap();
        for offences in [one.offences, two.offences] {
            assert_eq!(offences.count(), 4, "V1-27, V2-80: {offences}");
            assert!((0..4).all(|index| offences.contains(index)) && !offences.contains(4));
        }
        assert_eq!(walk2(&request).unwrap().offences.count(), 0, "without limits");
    }
    // Labels without a value are left out, and so are no labels.
    let empty = series1(&[("__name__", "up"), ("a_long_empty_name", ""), ("b", ""), ("c", "1")], &[1]);
    assert_eq!(v1::walk(&request1(vec![empty]), &seen).unwrap().offences.count(), 0);
}

#[test]
fn all_invalid_series_are_known_and_the_first_are_described_as_far_as_they_can_be_read() {
    let bad = || series1(&[("job", "x\u{1b}[0m")], &[1]);
    let good = || series1(&[("__name__", "a")], &[1]);
    let request = request1((0..200).map(|n| if n % 3 == 0 { bad() } else { good() }).collect());
    let mut offences = walk1(&request).unwrap().offences;
    assert!((0..300).all(|n| offences.contains(n) == (n < 200 && n % 3 == 0)));
    offences.describe(Protocol::V1, &request);
    assert_eq!(
        offences.to_string(),
        "67 invalid series: series 0, {job=\"x\\u{1b}[0m\"}: no metric name (__name__); \
         series 3, {job=\"x\\u{1b}[0m\"}: no metric name (__name__); \
         series 6, {job=\"x\\u{1b}[0m\"}: no metric name (__name__); and 64 more"
    );
    // The last reference leads nowhere; there are none at all; there is no name to the last value.
    for (references, expected) in [
        (vec![1, 2, 3, 9], "series 0, up{}: symbol reference 9 in a table of 5 symbols"),
        (vec![9], "series 0: an odd number of label references"),
        (vec![1, 2, 3, 4, 3], "series 0, up{job=\"x\"}: an odd number of label references"),
    ] {
        let request = request2(&SYMBOLS, series2(&references));
        let mut offences = walk2(&request).unwrap().offences;
        offences.describe(Protocol::V2, &request);
        assert_eq!(offences.first().as_deref(), Some(expected));
    }
}

fn arbitrary_label() -> impl Strategy<Value = pb1::Label> {
    (prop_oneof![Just("__name__".to_owned()), "[a-c]{0,2}", "\\PC{0,3}"], "\\PC{0,4}")
        .prop_map(|(name, value)| pb1::Label { name, value })
}

prop_compose! {
    fn arbitrary_series()(
        labels in prop::collection::vec(arbitrary_label(), 0..5),
        samples in prop::collection::vec((any::<u64>(), any::<i64>()), 0..3),
        exemplars in prop::collection::vec((arbitrary_label(), any::<i64>()), 0..2),
    ) -> pb1::TimeSeries {
        pb1::TimeSeries {
            labels,
            samples: samples.into_iter().map(|(bits, timestamp)| pb1::Sample { value: f64::from_bits(bits), timestamp }).collect(),
            exemplars: exemplars.into_iter().map(|(label, timestamp)| pb1::Exemplar { labels: vec![label], value: 1.0, timestamp }).collect(),
            histograms: vec![],
        }
    }
}

/// The rules for labels, written down again in the plainest way.
fn is_valid(series: &pb1::TimeSeries) -> bool {
    let mut names: Vec<&str> = series.labels.iter().map(|label| &*label.name).collect();
    names.sort_unstable();
    let has_duplicates = names.windows(2).any(|pair| pair[0] == pair[1]);
    let has_name = series.labels.iter().any(|label| label.name == "__name__" && !label.value.is_empty());
    has_name && !has_duplicates && !names.contains(&"")
}

proptest! {
    #[test]
    fn any_1_0_request_is_counted_and_judged_as_the_plain_rules_say(series in prop::collection::vec(arbitrary_series(), 0..6)) {
        let seen = SeenLabels::with_capacity(8);
        let request = request1(series.clone());
        for _ in 0..2 {
            let summary = v1::walk(&request, &seen).unwrap();
            prop_assert_eq!(summary.series as usize, series.len());
            prop_assert_eq!(summary.samples as usize, series.iter().map(|s| s.samples.len()).sum::<usize>());
            prop_assert_eq!(summary.exemplars as usize, series.iter().map(|s| s.exemplars.len()).sum::<usize>());
            prop_assert_eq!(summary.offences.count() as usize, series.iter().filter(|s| !is_valid(s)).count());
            let canonical = |s: &pb1::TimeSeries| s.labels.is_sorted_by(|a, b| a.name < b.name) && s.labels.iter().all(|l| !l.value.is_empty());
            prop_assert_eq!(summary.is_canonical, series.iter().filter(|s| is_valid(s)).all(canonical));
        }
    }

    /// V1-12. Whatever the bytes: no panic, and what the walk takes, prost takes too (unless it is about UTF-8, which is not malformed for us).
    #[test]
    fn what_prost_refuses_is_refused(
        series in prop::collection::vec(arbitrary_series(), 1..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut request = request1(series);
        for (index, byte) in flips {
            let at = index.index(request.len());
            request[at] = byte;
        }
        if is_cut {
            request.truncate(cut.index(request.len()));
        }
        let walked = walk1(&request);
        let judged = pb1::WriteRequest::decode(&*request);
        if let (Ok(summary), Ok(message)) = (&walked, &judged) {
            prop_assert_eq!(summary.series as usize, message.timeseries.len());
            prop_assert_eq!(summary.samples as usize, message.timeseries.iter().map(|s| s.samples.len()).sum::<usize>());
        }
        if let Err(error) = judged {
            let is_about_text = error.to_string().contains("UTF-8") || request.iter().any(|byte| *byte >= 0x80);
            prop_assert!(walked.is_err() || is_about_text, "{}: {:?}", error, walked);
        }
    }

    #[test]
    fn no_bytes_make_the_walk_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = walk1(&bytes);
        let _ = walk2(&bytes);
        let _ = histogram::walk(wire::Fields::new(&bytes));
    }
}
