//! A request as it may be sent on: without its invalid series, labels sorted by name, none with an empty value.
//!
//! ```text
//!  series 0  job="a" __name__="up"                        -->  __name__="up" job="a"
//!  series 1  __name__="up" job=""                         -->  __name__="up"                an empty value is no label
//!  series 2  job="a"                       (an offender)  -->  left out
//!  series 3  __name__="up" job="a"                        -->  as it was
//! ```
//!
//! Senders must sort (`V1-22`, `V2-75`) and must not send empty values (`V1-23`, `V2-76`), but some do, and so receivers take it; as a sender
//! the relay is stricter. The result walks clean, and is its own canonical form. (Where no series and no metadata are left, there is nothing to
//! walk: fields that nobody knows can then look like a request of the other protocol.)

use super::rewrite::{Label, Rewritten, Verdict, rewrite};
use super::wire::Malformed;
use super::{Offences, Protocol};

/// The canonical form of a decompressed request whose invalid series are known from its walk.
///
/// # Errors
/// The message is no request of this protocol, or an invalid series is not among the `offences`.
pub fn canonicalise(protocol: Protocol, message: &[u8], offences: &Offences) -> Result<Rewritten, Malformed> {
    let mut order: Vec<usize> = Vec::new();
    rewrite(protocol, message, |series, sink| {
        if offences.contains(series.index) {
            return Verdict::Drop;
        }
        if is_canonical(series.labels) {
            return Verdict::Keep;
        }
        order.clear();
        order.extend((0..series.labels.len()).filter(|n| !series.labels[*n].1.is_empty()));
        // No name comes twice: that would be an offence (V1-21, V2-74).
        order.sort_unstable_by_key(|n| series.labels[*n].0);
        order.iter().for_each(|n| sink.keep(*n..*n + 1));
        Verdict::Relabel
    })
}

fn is_canonical(labels: &[Label<'_>]) -> bool {
    labels.iter().all(|(_, value)| !value.is_empty()) && labels.windows(2).all(|pair| pair[0].0 < pair[1].0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::arbitrary::{self, both, request, resolved, series};
    use super::super::messages::{v1 as pb1, v2 as pb2};
    use super::super::plain::has_a_proper_table;
    use super::super::{SeenLabels, Summary, v1, v2};
    use super::*;

    fn walk(protocol: Protocol, message: &[u8]) -> Result<Summary, Malformed> {
        match protocol {
            Protocol::V1 => v1::walk(message, &SeenLabels::with_capacity(64)),
            Protocol::V2 => v2::walk(message, &mut v2::Scratch::default(), 1 << 20),
        }
    }

    /// The canonical form, which walks clean, has the rest of what was there, and is its own canonical form.
    fn canonical(protocol: Protocol, message: &[u8]) -> Rewritten {
        let before = walk(protocol, message).unwrap();
        let rewritten = canonicalise(protocol, message, &before.offences).unwrap();
        if before.series == before.offences.count() && before.metadata == 0 {
            assert_eq!(rewritten.dropped.series, u64::from(before.series));
            return rewritten;
        }
        let after = walk(protocol, &rewritten.message).unwrap();
        assert!(after.is_canonical && after.offences.count() == 0, "{after:?}");
        assert_eq!(u64::from(before.series - after.series), u64::from(before.offences.count()));
        assert_eq!(rewritten.dropped.series, u64::from(before.offences.count()));
        assert_eq!(rewritten.dropped.samples, u64::from(before.samples - after.samples));
        assert_eq!(rewritten.dropped.histograms, u64::from(before.histograms - after.histograms));
        assert_eq!(rewritten.dropped.exemplars, u64::from(before.exemplars - after.exemplars));
        assert_eq!(before.metadata, after.metadata);
        let again = canonicalise(protocol, &rewritten.message, &after.offences).unwrap();
        assert_eq!(again.message, rewritten.message, "its own canonical form");
        rewritten
    }

    #[test]
    fn labels_are_sorted_empty_ones_and_invalid_series_are_left_out() {
        let all = vec![
            series(&[("job", "a"), ("zone", "z"), ("__name__", "up")]),
            series(&[("__name__", "up"), ("job", "")]),
            series(&[("job", "no name")]),
            series(&[("job", "twice"), ("__name__", "up"), ("job", "")]),
            series(&[("Z", "upper case first"), ("__name__", "up")]),
        ];
        let expected = request(vec![
            series(&[("__name__", "up"), ("job", "a"), ("zone", "z")]),
            series(&[("__name__", "up")]),
            series(&[("Z", "upper case first"), ("__name__", "up")]),
        ]);
        for (protocol, message) in both(all.clone()) {
            let rewritten = canonical(protocol, &message);
            assert!(rewritten.is_changed);
            match protocol {
                Protocol::V1 => assert_eq!(rewritten.message, expected.encode_to_vec(), "V1-21, V1-22, V1-23"),
                Protocol::V2 => {
                    let got = pb2::Request::decode(&*rewritten.message).unwrap();
                    assert!(has_a_proper_table(&got), "V2-68: {got:?}");
                    assert_eq!(resolved(&got), resolved(&arbitrary::as_2(&expected)), "V2-74, V2-75, V2-76");
                }
            }
        }
    }

    #[test]
    fn a_table_that_no_sender_should_write_is_written_anew() {
        let good = arbitrary::as_2(&request(vec![series(&[("__name__", "up")])])).encode_to_vec();
        assert!(walk(Protocol::V2, &good).unwrap().is_canonical);
        // The first symbol is not empty; a symbol that nobody refers to is not UTF-8.
        let first =
            [&[0x22, 1, b'x', 0x22, 8][..], b"__name__", &[0x22, 2, b'u', b'p', 0x2a, 4, 0x0a, 2, 1, 2]].concat();
        let unused = [&good[..], &[0x22, 1, 0xff]].concat();
        for message in [first, unused] {
            let summary = walk(Protocol::V2, &message).unwrap();
            assert!(!summary.is_canonical && summary.offences.count() == 0, "V2-69, V2-77");
            let got = pb2::Request::decode(&*canonical(Protocol::V2, &message).message).unwrap();
            assert_eq!(got.symbols, ["", "__name__", "up"]);
        }
    }

    #[test]
    fn series_whose_labels_cannot_even_be_read_are_left_out() {
        // An inconsistent histogram; the label behind it is not read by the walk, and could not be.
        let histogram = pb1::Histogram { schema: 99, ..Default::default() }.encode_to_vec();
        let bad = [&[0x0a, 2, 0x0a, 9, 0x22, histogram.len() as u8][..], &histogram].concat();
        let good = request(vec![series(&[("__name__", "up")])]).encode_to_vec();
        let message = [&[0x0a, bad.len() as u8][..], &bad, &good].concat();
        assert_eq!(canonical(Protocol::V1, &message).message, good);
    }

    /// Valid labels, but for some series.
    fn mostly_valid(mut request: pb1::WriteRequest, seed: u64) -> pb1::WriteRequest {
        let mut random = fastrand::Rng::with_seed(seed);
        for series in &mut request.timeseries {
            for histogram in &mut series.histograms {
                *histogram =
                    pb1::Histogram { sum: histogram.sum, timestamp: histogram.timestamp, ..Default::default() };
            }
            if random.u8(..4) == 0 {
                continue;
            }
            let mut names = std::collections::BTreeSet::from(["__name__".to_owned(), String::new()]);
            series.labels.retain(|label| names.insert(label.name.clone()));
            series.labels.push(pb1::Label { name: "__name__".into(), value: "name".into() });
            random.shuffle(&mut series.labels);
        }
        request
    }

    /// The rules for labels in the plainest way.
    fn is_valid(series: &pb1::TimeSeries) -> bool {
        let mut names: Vec<&str> = series.labels.iter().map(|label| &*label.name).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1])
            && names.first() != Some(&"")
            && series.labels.iter().any(|label| label.name == "__name__" && !label.value.is_empty())
    }

    proptest! {
        #[test]
        fn any_request_becomes_what_the_plain_rules_say(original in arbitrary::request1(), seed: u64) {
            let original = mostly_valid(original, seed);
            let mut expected = original.clone();
            expected.timeseries.retain(is_valid);
            for series in &mut expected.timeseries {
                series.labels.retain(|label| !label.value.is_empty());
                series.labels.sort_by(|a, b| a.name.cmp(&b.name));
            }
            let got = canonical(Protocol::V1, &original.encode_to_vec());
            // As bytes: the bits of floats count.
            prop_assert_eq!(pb1::WriteRequest::decode(&*got.message).unwrap().encode_to_vec(), expected.encode_to_vec());
            // In 2.0 no series may have both (V2-64).
            expected.timeseries.retain(|series| series.samples.is_empty() || series.histograms.is_empty());
            let got = canonical(Protocol::V2, &arbitrary::as_2(&original).encode_to_vec());
            let got = pb2::Request::decode(&*got.message).unwrap();
            prop_assert!(has_a_proper_table(&got));
            prop_assert_eq!(resolved(&got), resolved(&arbitrary::as_2(&expected)));
        }

        /// Whatever the bytes: what the walk can read has a canonical form.
        #[test]
        fn damaged_requests_are_malformed_or_have_a_canonical_form(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            damage in arbitrary::damage(),
            seed: u64,
        ) {
            let one = mostly_valid(one, seed);
            for (protocol, mut message) in
                [(Protocol::V1, one.encode_to_vec()), (Protocol::V2, arbitrary::as_2(&one).encode_to_vec()), (Protocol::V2, two.encode_to_vec())]
            {
                damage.strike(&mut message);
                if walk(protocol, &message).is_ok() {
                    canonical(protocol, &message);
                }
            }
        }
    }
}
