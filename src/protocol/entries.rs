//! A stored request taken apart into its entries, each with the identity of its series.
//!
//! ```text
//!  decompressed body ---> entries ---> Entry, Entry, ..    one for each TimeSeries message, in order:
//!                    '--> identities                       which series, how much of what, which bytes
//!
//!  identity = finish(  sum of part(hash(name), hash(value)) over the labels that have a value  )
//! ```
//!
//! The sum makes an identity independent of the labels' order, and it is the same whether a label is written out (1.0) or given by
//! two references into the table of symbols (2.0), where each symbol is hashed once however often it is used.
//!
//! What is read here was accepted by the walk ([`v1::walk`](super::v1::walk), [`v2::walk`](super::v2::walk)) before it was stored. So
//! only what is needed is looked at again: the inside of samples, histograms, exemplars and metadata is not. On other bytes nothing
//! panics, and nothing is read out of range.

use xxhash_rust::xxh3::xxh3_64;

use super::Protocol;
use super::wire::{Fields, Malformed, Value, each_varint};

/// One TimeSeries message of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The identity of its series: equal for equal sets of labels, whatever the protocol and the labels' order, and whether labels
    /// with an empty value (the same as no label) are left out or not. Different for different ones, but for a chance of 2^-64.
    ///
    /// It is the same in every process of the same build, but not meant to be stored. It is no protection against somebody who
    /// makes two sets with one identity on purpose: they could only make their own series wait for each other.
    pub series: u64,
    /// Float samples.
    pub samples: u32,
    /// Native histograms.
    pub histograms: u32,
    /// Exemplars.
    pub exemplars: u32,
    start: u32,
    len: u32,
}

impl Entry {
    /// Where the content of the TimeSeries message lies in the request it was found in, without its tag and length.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// The entries of a decompressed request, in order.
///
/// # Errors
/// The bytes are not such a request; in 2.0 also: labels whose references are odd in number or out of range.
pub fn entries(protocol: Protocol, message: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::new();
    each_entry(protocol, message, |series, content, counts| {
        let range = u32::try_from(content.offset()).ok().zip(u32::try_from(content.rest().len()).ok());
        let (start, len) = range.ok_or(Malformed { offset: content.offset(), what: "more than 4 GiB" })?;
        let Counts { samples, histograms, exemplars } = counts;
        entries.push(Entry { series, samples, histograms, exemplars, start, len });
        Ok(())
    })?;
    Ok(entries)
}

/// Appends the identity of each entry ([`Entry::series`]) to `out`, in order. After an error `out` is as it was.
///
/// # Errors
/// As [`entries`].
pub fn identities(protocol: Protocol, message: &[u8], out: &mut Vec<u64>) -> Result<(), Malformed> {
    let before = out.len();
    let result = each_entry(protocol, message, |series, _, _| {
        out.push(series);
        Ok(())
    });
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// What one entry holds.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    samples: u32,
    histograms: u32,
    exemplars: u32,
}

fn each_entry<'a>(
    protocol: Protocol,
    message: &'a [u8],
    take: impl FnMut(u64, Fields<'a>, Counts) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    match protocol {
        Protocol::V1 => each_entry_1(message, take),
        Protocol::V2 => each_entry_2(message, take),
    }
}

fn each_entry_1<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u64, Fields<'a>, Counts) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut labels = Labels1::default();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        let (1, Value::Bytes(content)) = (number, value) else {
            if matches!(number, 1 | 3) && !matches!(value, Value::Bytes(_)) {
                return Err(fields.wrong_type());
            }
            continue;
        };
        let mut counts = Counts::default();
        labels.begin();
        let mut series = content;
        // Nearly always these are all labels.
        series.skip_short(TAG_LABEL);
        let mut short = &content.rest()[..content.rest().len() - series.rest().len()];
        while let [_, len, rest @ ..] = short {
            let (label, rest) = rest.split_at(usize::from(*len));
            labels.add(label, series.offset() - rest.len() - label.len())?;
            short = rest;
        }
        while let Some((number, value)) = series.next_field()? {
            match (number, value) {
                (1, Value::Bytes(label)) => labels.add(label.rest(), label.offset())?,
                (2, Value::Bytes(_)) => counts.samples += 1,
                (3, Value::Bytes(_)) => counts.exemplars += 1,
                (4, Value::Bytes(_)) => counts.histograms += 1,
                (1..=4, _) => return Err(series.wrong_type()),
                _ => {}
            }
        }
        take(labels.identity.finish(), content, counts)?;
    }
    Ok(())
}

/// Field 1, length-delimited.
const TAG_LABEL: u8 = 0x0a;

/// The labels of one series after the other, as 1.0 writes them.
#[derive(Default)]
struct Labels1<'a> {
    identity: Identity,
    /// Those of the series before, by place, each with what it adds to an identity: most are the same in the next one.
    before: Vec<(&'a [u8], u64)>,
    /// How many labels this series has so far.
    count: usize,
}

impl<'a> Labels1<'a> {
    fn begin(&mut self) {
        self.identity = Identity::default();
        self.count = 0;
    }

    /// The next label, which lies at `offset` in the request.
    #[inline]
    fn add(&mut self, label: &'a [u8], offset: usize) -> Result<(), Malformed> {
        match self.before.get_mut(self.count) {
            Some((known, part)) if *known == label => self.identity.add(*part),
            known => {
                let (name, value) = label_1(label, offset)?;
                let part = part(text_hash(name), text_hash(value));
                self.identity.add(part);
                match known {
                    Some(known) => *known = (label, part),
                    None => self.before.push((label, part)),
                }
            }
        }
        self.count += 1;
        Ok(())
    }
}

/// Name and value of a label.
#[inline]
pub(super) fn label_1(label: &[u8], offset: usize) -> Result<(&[u8], &[u8]), Malformed> {
    // As nearly every sender writes it: both, in this order, shorter than 128 bytes.
    if let [0x0a, name_len @ 0..0x80, rest @ ..] = label
        && let Some((name, [0x12, value_len @ 0..0x80, value @ ..])) = rest.split_at_checked(usize::from(*name_len))
        && value.len() == usize::from(*value_len)
    {
        return Ok((name, value));
    }
    let at_offset = |error: Malformed| Malformed { offset: error.offset + offset, ..error };
    let mut fields = Fields::new(label);
    let (mut name, mut text): (&[u8], &[u8]) = (&[], &[]);
    while let Some((number, value)) = fields.next_field().map_err(at_offset)? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = bytes.rest(),
            (2, Value::Bytes(bytes)) => text = bytes.rest(),
            (1 | 2, _) => return Err(at_offset(fields.wrong_type())),
            _ => {}
        }
    }
    Ok((name, text))
}

fn each_entry_2<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u64, Fields<'a>, Counts) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    // Symbols may stand behind the series that refer to them.
    let symbols = symbols_2(message, text_hash)?;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        let (5, Value::Bytes(content)) = (number, value) else { continue };
        let mut identity = Identity::default();
        let mut counts = Counts::default();
        let mut name = None;
        let mut is_out_of_range = false;
        let mut series = content;
        while let Some((number, value)) = series.next_field()? {
            match (number, value) {
                (1, value) => each_varint(&series, value, |reference| {
                    let hash = symbols.get(reference as u32 as usize);
                    is_out_of_range |= hash.is_none();
                    let hash = hash.copied().unwrap_or_default();
                    match name.take() {
                        None => name = Some(hash),
                        Some(name) => identity.add(part(name, hash)),
                    }
                })?,
                (2, Value::Bytes(_)) => counts.samples += 1,
                (3, Value::Bytes(_)) => counts.histograms += 1,
                (4, Value::Bytes(_)) => counts.exemplars += 1,
                (2..=4, _) => return Err(series.wrong_type()),
                _ => {}
            }
        }
        if is_out_of_range {
            return Err(Malformed { offset: content.offset(), what: REFERENCE_OUT_OF_RANGE });
        }
        if name.is_some() {
            return Err(Malformed { offset: content.offset(), what: ODD_REFERENCES });
        }
        take(identity.finish(), content, counts)?;
    }
    Ok(())
}

/// Of a [`Malformed`] request.
pub(super) const ODD_REFERENCES: &str = "an odd number of label references";
/// The same.
pub(super) const REFERENCE_OUT_OF_RANGE: &str = "a reference beyond the table of symbols";

/// All symbols of a 2.0 request, each as `made` of its bytes.
pub(super) fn symbols_2<'a, S>(message: &'a [u8], made: impl Fn(&'a [u8]) -> S) -> Result<Vec<S>, Malformed> {
    let mut symbols = Vec::new();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (4, Value::Bytes(symbol)) => symbols.push(made(symbol.rest())),
            (5, Value::Bytes(_)) => {}
            (4 | 5, _) => return Err(fields.wrong_type()),
            _ => {}
        }
    }
    Ok(symbols)
}

/// The identity of the series of 2.0 with these references, by the symbols' hashes ([`text_hash`]). References are in pairs and in range.
pub(super) fn identity_2(references: &[u32], hashes: &[u64]) -> u64 {
    let mut identity = Identity::default();
    for [name, value] in references.as_chunks::<2>().0 {
        identity.add(part(hashes[*name as usize], hashes[*value as usize]));
    }
    identity.finish()
}

/// The hash of a name or value; 0 is the empty one's and no other's.
#[inline]
pub(super) fn text_hash(text: &[u8]) -> u64 {
    if text.is_empty() { 0 } else { xxh3_64(text).max(1) }
}

/// The identity of a series while its labels come in.
#[derive(Clone, Copy, Debug, Default)]
struct Identity {
    /// Wrapping, not exclusive-or: a label that came twice would be as good as none.
    sum: u64,
}

impl Identity {
    #[inline]
    fn add(&mut self, part: u64) {
        self.sum = self.sum.wrapping_add(part);
    }

    /// Each bit of the sum reaches each bit of the result: tables take the low ones, some the high ones.
    #[inline]
    fn finish(self) -> u64 {
        let mut bits = self.sum;
        bits = (bits ^ (bits >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        bits = (bits ^ (bits >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        bits ^ (bits >> 32)
    }
}

/// What a label adds, by the hashes of its name and value: nothing without a value. Not symmetric and not linear: which name has which
/// value must not get lost in the sum.
#[inline]
fn part(name: u64, value: u64) -> u64 {
    if value == 0 {
        return 0;
    }
    let product = u128::from(name ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(value ^ 0x8bb8_4b93_962e_acc9);
    (product as u64) ^ ((product >> 64) as u64).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;
    use prost::Message;

    use super::super::arbitrary::{self, request, series};
    use super::super::describe::describe;
    use super::super::messages::{v1 as pb1, v2 as pb2};
    use super::super::{SeenLabels, v1, v2};
    use super::*;

    fn identity(labels: &[(&str, &str)]) -> u64 {
        entries(Protocol::V1, &request(vec![series(labels)]).encode_to_vec()).unwrap()[0].series
    }

    #[test]
    fn which_value_belongs_to_which_name_makes_a_difference() {
        let sets: [&[(&str, &str)]; 9] = [
            &[],
            &[("a", "1"), ("b", "2")],
            &[("a", "2"), ("b", "1")],
            &[("1", "a"), ("b", "2")],
            &[("a", "1"), ("b", "2"), ("c", "3")],
            &[("a", "b")],
            &[("b", "a")],
            &[("ab", "c")],
            &[("a", "bc")],
        ];
        assert_eq!(sets.iter().map(|labels| identity(labels)).collect::<HashSet<_>>().len(), sets.len());
        // Forbidden, but should one get here: it is not as good as none.
        assert_ne!(identity(&[("a", "1"), ("b", "2"), ("b", "2")]), identity(&[("a", "1")]));
    }

    #[test]
    fn a_million_series_have_as_many_identities_and_any_half_of_the_bits_is_as_good_as_random() {
        let hashes = |name: &str, values: usize| {
            let value = |n: usize| if name == "instance" { format!("10.0.0.{n}:9100") } else { n.to_string() };
            (0..values).map(|n| part(text_hash(name.as_bytes()), text_hash(value(n).as_bytes()))).collect::<Vec<u64>>()
        };
        let (metric, instance, path, code) =
            (hashes("__name__", 100), hashes("instance", 100), hashes("path", 10), hashes("code", 10));
        let mut identities = Vec::with_capacity(1_000_000);
        for n in 0..1_000_000 {
            let [a, b, c, d] = [metric[n % 100], instance[n / 100 % 100], path[n / 10_000 % 10], code[n / 100_000]];
            let sum = a.wrapping_add(b).wrapping_add(c).wrapping_add(d);
            identities.push(Identity { sum }.finish());
        }
        let distinct = |bits: &dyn Fn(u64) -> u64| {
            let mut bits: Vec<u64> = identities.iter().map(|identity| bits(*identity)).collect();
            bits.sort_unstable();
            bits.dedup();
            bits.len()
        };
        assert_eq!(distinct(&|identity| identity), 1_000_000);
        // Of 32 random bits, 116 are expected to come twice.
        for shift in [0, 16, 32] {
            let twice = 1_000_000 - distinct(&|identity| identity >> shift & 0xffff_ffff);
            assert!((60..180).contains(&twice), "{twice} from bit {shift}");
        }
    }

    #[test]
    fn labels_behind_samples_and_written_in_other_ways_are_the_same_series() {
        let usual = identity(&[("__name__", "up"), ("job", "x")]);
        // The sample first; value before name; the name twice (the last one counts); an unknown field.
        let name = [0x0a, 14, 0x12, 2, b'u', b'p', 0x0a, 8, b'_', b'_', b'n', b'a', b'm', b'e', b'_', b'_'];
        let job = [0x0a, 13, 0x0a, 1, b'?', 0x0a, 3, b'j', b'o', b'b', 0x38, 1, 0x12, 1, b'x'];
        let content = [&[0x12, 2, 0x10, 5][..], &job, &[0x12, 0], &name].concat();
        let message = [&[0x0a, content.len() as u8][..], &content].concat();
        let found = entries(Protocol::V1, &message).unwrap();
        assert_eq!((found.len(), found[0].series, found[0].samples), (1, usual, 2));
        assert_eq!(found[0].range(), 2..message.len());
    }

    #[test]
    fn references_are_paired_across_packed_and_single_ones_and_symbols_may_come_last() {
        let usual = identity(&[("__name__", "up"), ("job", "x")]);
        // Symbols: "", __name__, up, job, x.
        let content = [0x0a, 1, 1, 0x12, 0, 0x08, 2, 0x0a, 0, 0x0a, 0x03, 3, 0x84, 0x00];
        let symbols = ["", "__name__", "up", "job", "x"].map(str::to_owned).into();
        let mut message = [&[0x2a, content.len() as u8][..], &content].concat();
        message.extend(pb2::Request { symbols, ..Default::default() }.encode_to_vec());
        let found = entries(Protocol::V2, &message).unwrap();
        assert_eq!((found.len(), found[0].series, found[0].samples), (1, usual, 1));
    }

    #[test]
    fn references_to_nothing_are_malformed() {
        let request = |labels_refs| {
            let timeseries = vec![pb2::TimeSeries { labels_refs, ..Default::default() }];
            pb2::Request { symbols: vec![String::new(), "a".into()], timeseries }.encode_to_vec()
        };
        assert!(entries(Protocol::V2, &request(vec![1, 1])).is_ok());
        assert_eq!(entries(Protocol::V2, &request(vec![1, 2])).unwrap_err().what, REFERENCE_OUT_OF_RANGE);
        assert_eq!(entries(Protocol::V2, &request(vec![u32::MAX, 1])).unwrap_err().what, REFERENCE_OUT_OF_RANGE);
        assert_eq!(entries(Protocol::V2, &request(vec![1, 1, 1])).unwrap_err().what, ODD_REFERENCES);
    }

    #[test]
    fn a_malformed_label_is_named_by_its_place_in_the_request() {
        let mut message =
            request(vec![series(&[("a", "b")]), series(&[("c", "d"), ("name", "value")])]).encode_to_vec();
        let at = message.windows(4).position(|bytes| bytes == b"name").unwrap();
        // The name's length reaches beyond its label.
        message[at - 1] = 100;
        let error = entries(Protocol::V1, &message).unwrap_err();
        assert_eq!(error, Malformed { offset: at, what: "a value reaches beyond the end" });
        // And in a label that is too long for the short way.
        let mut message = request(vec![series(&[("name", &"v".repeat(200))])]).encode_to_vec();
        let at = message.windows(4).position(|bytes| bytes == b"name").unwrap();
        message[at - 2] = 0x08;
        let error = entries(Protocol::V1, &message).unwrap_err();
        assert_eq!(error.offset, at);
    }

    #[test]
    fn after_an_error_no_identities_were_added() {
        let mut message = request(vec![series(&[("a", "b")]), series(&[("c", "d")])]).encode_to_vec();
        let mut out = vec![7];
        identities(Protocol::V1, &message, &mut out).unwrap();
        assert_eq!(out, [7, identity(&[("a", "b")]), identity(&[("c", "d")])]);
        message.pop();
        identities(Protocol::V1, &message, &mut out).unwrap_err();
        assert_eq!(out.len(), 3);
    }

    /// What an identity stands for.
    fn canonical(labels: &[pb1::Label]) -> Vec<(&str, &str)> {
        let labels = labels.iter().filter(|label| !label.value.is_empty());
        let mut labels: Vec<_> = labels.map(|label| (&*label.name, &*label.value)).collect();
        labels.sort_unstable();
        labels
    }

    fn shape(entries: &[Entry]) -> Vec<[usize; 3]> {
        entries.iter().map(|e| [e.samples, e.histograms, e.exemplars].map(|n| n as usize)).collect()
    }

    fn shape1(message: &pb1::WriteRequest) -> Vec<[usize; 3]> {
        message.timeseries.iter().map(|s| [s.samples.len(), s.histograms.len(), s.exemplars.len()]).collect()
    }

    fn shape2(message: &pb2::Request) -> Vec<[usize; 3]> {
        message.timeseries.iter().map(|s| [s.samples.len(), s.histograms.len(), s.exemplars.len()]).collect()
    }

    proptest! {
        #[test]
        fn identities_are_equal_just_for_equal_label_sets_in_both_protocols(
            original in arbitrary::request1(),
            seed: u64,
        ) {
            // The same series again, labels in another order and with empty ones between them.
            let mut changed = original.clone();
            let mut random = fastrand::Rng::with_seed(seed);
            for series in &mut changed.timeseries {
                series.labels.push(pb1::Label { name: "empty".into(), value: String::new() });
                random.shuffle(&mut series.labels);
            }
            let mut sets = BTreeMap::new();
            for request in [&original, &changed] {
                let first = entries(Protocol::V1, &request.encode_to_vec()).unwrap();
                let second = entries(Protocol::V2, &arbitrary::as_2(request).encode_to_vec()).unwrap();
                prop_assert_eq!(shape(&first), shape1(request));
                prop_assert_eq!(shape(&second), shape1(request));
                for ((series, first), second) in request.timeseries.iter().zip(&first).zip(&second) {
                    prop_assert_eq!(first.series, second.series);
                    let known = *sets.entry(canonical(&series.labels)).or_insert(first.series);
                    prop_assert_eq!(known, first.series);
                }
            }
            let distinct: HashSet<u64> = sets.values().copied().collect();
            prop_assert_eq!(distinct.len(), sets.len());
        }

        #[test]
        fn an_entry_s_bytes_are_the_series_prost_finds_there(one in arbitrary::request1(), two in arbitrary::request2()) {
            let message = one.encode_to_vec();
            let found = entries(Protocol::V1, &message).unwrap();
            for (entry, series) in found.iter().zip(&one.timeseries) {
                prop_assert_eq!(&message[entry.range()], series.encode_to_vec());
            }
            let mut out = Vec::new();
            identities(Protocol::V1, &message, &mut out).unwrap();
            prop_assert!(out.iter().eq(found.iter().map(|entry| &entry.series)));
            let message = two.encode_to_vec();
            let found = entries(Protocol::V2, &message).unwrap();
            prop_assert_eq!(shape(&found), shape2(&two));
            for (entry, series) in found.iter().zip(&two.timeseries) {
                prop_assert_eq!(&message[entry.range()], series.encode_to_vec());
            }
        }

        /// Whatever the bytes: no panic; what the walk accepts is taken apart; and what prost reads is counted as prost does.
        #[test]
        fn damaged_requests_are_malformed_or_counted_right(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            damage in arbitrary::damage(),
        ) {
            let mut message = one.encode_to_vec();
            damage.strike(&mut message);
            let found = entries(Protocol::V1, &message);
            let _ = describe(Protocol::V1, &message, 0);
            if let Ok(summary) = v1::walk(&message, &SeenLabels::with_capacity(8)) && summary.offences.count() == 0 {
                prop_assert_eq!(summary.series as usize, found.as_ref().unwrap().len());
            }
            if let (Ok(found), Ok(judged)) = (&found, pb1::WriteRequest::decode(&*message)) {
                prop_assert_eq!(shape(found), shape1(&judged));
                for (entry, series) in found.iter().zip(&judged.timeseries) {
                    let description = describe(Protocol::V1, &series_alone(series), 0);
                    prop_assert_eq!(entry.series, entries(Protocol::V1, &series_alone(series)).unwrap()[0].series);
                    prop_assert!(description.is_some());
                }
            }
            let mut message = two.encode_to_vec();
            damage.strike(&mut message);
            let found = entries(Protocol::V2, &message);
            let _ = describe(Protocol::V2, &message, 0);
            if let Ok(summary) = v2::walk(&message, &mut v2::Scratch::default(), 1 << 20) && summary.offences.count() == 0 {
                prop_assert_eq!(summary.series as usize, found.as_ref().unwrap().len());
            }
            if let (Ok(found), Ok(judged)) = (&found, pb2::Request::decode(&*message)) {
                prop_assert_eq!(shape(found), shape2(&judged));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for protocol in [Protocol::V1, Protocol::V2] {
                let _ = entries(protocol, &bytes);
                let _ = describe(protocol, &bytes, 0);
            }
        }
    }

    fn series_alone(series: &pb1::TimeSeries) -> Vec<u8> {
        request(vec![series.clone()]).encode_to_vec()
    }
}
