//! Anything at all: arbitrary requests, damaged ones, and bytes.

use super::custom_buckets::*;
use super::plain_rules::*;
use super::*;
use crate::protocol::text::STALE;

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
        let several = to_2(&selections, &mut KnownMetadata::default(), Hostless::LeftOut).unwrap();
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
            let value = if series.samples[0].0 == STALE { last } else { f64::from_bits(series.samples[0].0) };
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
            let expected = as_2(original, Hostless::LeftOut);
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
        prop_assert!(!is_valid || rebuild(protocol, &[all(&message)], Hostless::Kept).is_ok());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), end: u8) {
        let selections = [all(&bytes), Selection { message: &bytes, entries: Chosen::Range(0..end.into()) }];
        let _ = to_2(&selections, &mut KnownMetadata::default(), Hostless::LeftOut);
        for custom_buckets in [CustomBuckets::Drop, CustomBuckets::AsClassic] {
            let _ = to_1_with(&table(custom_buckets), &selections);
        }
    }
}
