//! Named cases.

use super::custom_buckets::custom_2;
use super::plain_rules::judge;
use super::*;

#[test]
fn every_case_of_the_corpus_comes_through_as_the_rules_say() {
    // V1-12, V2-60; names in UTF-8: V1-24, V1-25, V2-78; start timestamps, also of -1 and 0: V2-85; exemplars of value 0, at 0 and without
    // labels: V2-90, V2-91, V2-92.
    for corpus::Case { name, protocol, message } in corpus::cases() {
        judge(protocol, &message, &format!("{protocol}: {name}"));
    }
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
    let translated = to_2(&[all(&case(Protocol::V1, "metadata only"))], &mut known, Hostless::LeftOut).unwrap();
    assert!(translated.is_empty());
    assert_eq!(known.len(), 4);
    let series =
        |name| pb1::TimeSeries { samples: vec![corpus::sample(1, 1)], ..corpus::series(&[("__name__", name)]) };
    let message = arbitrary::request(vec![series("rpc_bucket"), series("other"), series("rpc_count")]).encode_to_vec();
    let translated = to_2(&[all(&message)], &mut known, Hostless::LeftOut).unwrap();
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
    let translated = to_2(&selections, &mut KnownMetadata::default(), Hostless::LeftOut).unwrap();
    assert_eq!(names(plain::of_2(&translated.message).unwrap()), "bbddeeff");
    assert_eq!(translated.dropped, [0, 0]);
}

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
