//! A request written anew in its own protocol, series by series: each is kept, dropped, or gets other labels.
//!
//! ```text
//!  message ---> series 0, its labels ---> visitor ---> Keep      as it was
//!               series 1, its labels        |          Drop      counted, and left out
//!               ..                          |          Relabel   the labels that the visitor has put into the sink
//!               all else of the request     |
//!                                           '--> sink: label(name, value) | keep(n)
//!
//!  1.0   kept series are copied with their head; new labels stand in front of the rest
//!  2.0   a new table of symbols; references are new in every series (labels, exemplars' labels, help, unit)
//! ```
//!
//! Samples, histograms, exemplars, timestamps, fields that nobody knows yet, and what belongs to no series (metadata of 1.0) are copied
//! byte for byte and in order (`V1-15`, `V2-56`, `V2-83`, `V2-86`): a float is never a number here. In 2.0 the references within exemplars and metadata change, as in
//! [`rebuild`](super::rebuild), whose code this is.
//!
//! Nothing is allocated per series or sample. A label that is kept, and a series too, costs no hashing of its texts: in 2.0 each old
//! symbol is looked up once, however often it is referred to.

use std::ops::Range;

use prost::encoding::{encode_varint, encoded_len_varint};

use super::Protocol;
use super::entries::{ODD_REFERENCES, REFERENCE_OUT_OF_RANGE, label_1};
use super::labels::LABELS_MAX;
use super::renumber::{EntryBuffer, Symbols};
use super::symbols::SymbolTable;
use super::wire::{Field, Fields, Malformed, Value, each_varint, next_field, put_bytes, put_head};

/// Name and value.
pub type Label<'m> = (&'m [u8], &'m [u8]);

/// One series of the request, before a visitor decides on it.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a, 'm> {
    /// Which one, counted from 0.
    pub index: u32,
    /// Its labels in the order of the message, whatever they are.
    pub labels: &'a [Label<'m>],
    /// 1.0: the labels as bytes of the message, if they stand in front of all else without a gap, as nearly always. Equal bytes are
    /// equal labels, so that what was decided for them can be remembered by one hash.
    pub encoded: Option<&'m [u8]>,
    /// 2.0: the references of `labels`, names and values in turn. They mean something within this request only.
    pub references: &'a [u32],
    /// The labels cannot be read or are too many, and `labels` is empty: such a series can be dropped and nothing else. What was walked and
    /// found valid has none of these.
    pub unreadable: Option<Malformed>,
}

/// What becomes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// Its labels are those in the sink.
    Relabel,
    /// It is left out.
    Drop,
}

/// Takes the labels that a series is to have, in their order. They count only if the verdict is [`Verdict::Relabel`]; so nothing should be put
/// in before it is (in 2.0 the texts would be in the table without a use).
#[derive(Debug)]
pub struct Sink<'a, 'm, 't> {
    /// 1.0: the labels as fields. 2.0: references, packed.
    to: &'a mut Vec<u8>,
    from: From<'a, 'm, 't>,
    error: Option<Malformed>,
}

/// What a kept label is taken from.
#[derive(Debug)]
enum From<'a, 'm, 't> {
    Fields(&'a Labels1<'m>),
    References(&'a [u32], &'a mut Symbols<'m, 't>),
}

impl Sink<'_, '_, '_> {
    /// A label of any texts.
    #[inline]
    pub fn label(&mut self, name: &[u8], value: &[u8]) {
        match &mut self.from {
            From::Fields(_) => {
                let len = |text: &[u8]| 1 + encoded_len_varint(text.len() as u64) + text.len();
                put_head(self.to, 1, len(name) + len(value));
                put_bytes(self.to, 1, name);
                put_bytes(self.to, 2, value);
            }
            From::References(_, symbols) => {
                for text in [name, value] {
                    match symbols.table.place(text) {
                        Ok(place) => encode_varint(u64::from(place), self.to),
                        Err(error) => self.error = Some(error),
                    }
                }
            }
        }
    }

    /// The series' own labels with these numbers, as they are. Faster than [`Sink::label`] with their texts, and the longer the better.
    ///
    /// # Panics
    /// There are no such labels.
    #[inline]
    pub fn keep(&mut self, numbers: Range<usize>) {
        match &mut self.from {
            From::Fields(labels) => labels.copy(numbers, self.to),
            From::References(references, symbols) => {
                for reference in &references[2 * numbers.start..2 * numbers.end] {
                    match symbols.renumber(u64::from(*reference), &Fields::new(&[])) {
                        Ok(place) => encode_varint(u64::from(place), self.to),
                        Err(error) => self.error = Some(error),
                    }
                }
            }
        }
    }
}

/// A request written anew, not compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The message.
    pub message: Vec<u8>,
    /// What is not in it any more.
    pub dropped: Dropped,
    /// Some series was dropped or got other labels. If not, the request as it came means the same.
    pub is_changed: bool,
}

/// What the series hold that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Dropped {
    pub series: u64,
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
}

impl Dropped {
    fn add(&mut self, protocol: Protocol, mut series: Fields<'_>) -> Result<(), Malformed> {
        self.series += 1;
        while let Some((number, value)) = series.next_field()? {
            let Value::Bytes(_) = value else { continue };
            match (protocol, number) {
                (_, 2) => self.samples += 1,
                (Protocol::V1, 3) | (Protocol::V2, 4) => self.exemplars += 1,
                (Protocol::V1, 4) | (Protocol::V2, 3) => self.histograms += 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes a decompressed request anew; `visitor` decides on each of its series, in order.
///
/// # Errors
/// The message is no request of this protocol, or a series that was not dropped cannot be read.
pub fn rewrite<'m>(
    protocol: Protocol,
    message: &'m [u8],
    visitor: impl FnMut(&Series<'_, 'm>, &mut Sink<'_, 'm, '_>) -> Verdict,
) -> Result<Rewritten, Malformed> {
    match protocol {
        Protocol::V1 => rewrite_1(message, visitor),
        Protocol::V2 => rewrite_2(message, visitor),
    }
}

fn rewrite_1<'m>(
    message: &'m [u8],
    mut visitor: impl FnMut(&Series<'_, 'm>, &mut Sink<'_, 'm, '_>) -> Verdict,
) -> Result<Rewritten, Malformed> {
    let mut rewritten =
        Rewritten { message: Vec::with_capacity(message.len()), dropped: Dropped::default(), is_changed: false };
    let mut labels = Labels1::default();
    let mut index = 0;
    let (mut new_labels, mut rest) = (Vec::new(), Vec::new());
    let mut fields = Fields::new(message);
    while let Some(Field { number, value, bytes }) = next_field(&mut fields)? {
        let (1, Value::Bytes(content)) = (number, value) else {
            if number == 1 {
                return Err(fields.wrong_type());
            }
            rewritten.message.extend_from_slice(bytes);
            continue;
        };
        let unreadable = labels.read(content).err();
        let encoded = labels.front;
        new_labels.clear();
        let series = Series { index, labels: &labels.texts, encoded, references: &[], unreadable };
        let mut sink = Sink { to: &mut new_labels, from: From::Fields(&labels), error: None };
        match visitor(&series, &mut sink) {
            Verdict::Drop => {
                rewritten.is_changed = true;
                rewritten.dropped.add(Protocol::V1, content)?;
            }
            _ if unreadable.is_some() => return unreadable.map_or(Ok(rewritten), Err),
            Verdict::Keep => rewritten.message.extend_from_slice(bytes),
            Verdict::Relabel => {
                rewritten.is_changed = true;
                let rest = match encoded {
                    Some(encoded) => &content.rest()[encoded.len()..],
                    None => {
                        rest.clear();
                        let mut content = content;
                        while let Some(field) = next_field(&mut content)? {
                            if field.number != 1 {
                                rest.extend_from_slice(field.bytes);
                            }
                        }
                        &rest
                    }
                };
                put_head(&mut rewritten.message, 1, new_labels.len() + rest.len());
                rewritten.message.extend_from_slice(&new_labels);
                rewritten.message.extend_from_slice(rest);
            }
        }
        index += 1;
    }
    Ok(rewritten)
}

/// The labels of one series after the other, as 1.0 writes them.
#[derive(Debug, Default)]
struct Labels1<'m> {
    texts: Vec<Label<'m>>,
    /// The series, and where in it each label lies, as a field.
    series: &'m [u8],
    fields: Vec<Range<usize>>,
    /// All of them in one piece, if nothing stands before or between them.
    front: Option<&'m [u8]>,
}

impl<'m> Labels1<'m> {
    /// After an error there are none.
    fn read(&mut self, series: Fields<'m>) -> Result<(), Malformed> {
        self.texts.clear();
        self.fields.clear();
        self.series = series.rest();
        self.front = None;
        let read = self.read_all(series);
        if read.is_err() {
            self.texts.clear();
            self.fields.clear();
        }
        read
    }

    fn read_all(&mut self, series: Fields<'m>) -> Result<(), Malformed> {
        let short_len = self.read_short(series.rest());
        let mut front_len = Some(short_len);
        let mut fields = series.part(short_len..series.rest().len());
        let mut are_over = false;
        while !fields.is_empty() {
            let start = series.rest().len() - fields.rest().len();
            let Some((number, value)) = fields.next_field()? else { break };
            let end = series.rest().len() - fields.rest().len();
            match (number, value) {
                (1, Value::Bytes(_)) if self.texts.len() == LABELS_MAX => return Err(too_many(fields)),
                (1, Value::Bytes(label)) => {
                    self.texts.push(label_1(label.rest(), label.offset())?);
                    self.fields.push(start..end);
                    front_len = (!are_over).then_some(end);
                }
                (1, _) => return Err(fields.wrong_type()),
                _ => are_over = true,
            }
        }
        self.front = front_len.map(|len| &series.rest()[..len]);
        Ok(())
    }

    /// Labels at the front as nearly every sender writes them: name, value, and each number in one byte. How long they are.
    fn read_short(&mut self, series: &'m [u8]) -> usize {
        let mut rest = series;
        while let [0x0a, len @ 0..0x80, 0x0a, name_len @ 0..0x80, behind @ ..] = rest
            && let Some((name, [0x12, value_len @ 0..0x80, behind @ ..])) =
                behind.split_at_checked(usize::from(*name_len))
            && let Some((value, behind)) = behind.split_at_checked(usize::from(*value_len))
            && usize::from(*len) == 4 + name.len() + value.len()
            && self.texts.len() < LABELS_MAX
        {
            self.texts.push((name, value));
            self.fields.push(series.len() - rest.len()..series.len() - behind.len());
            rest = behind;
        }
        series.len() - rest.len()
    }

    /// Appends those with these numbers.
    fn copy(&self, numbers: Range<usize>, to: &mut Vec<u8>) {
        let fields = &self.fields[numbers];
        match (self.front, fields) {
            (Some(front), [first, .., last]) => to.extend_from_slice(&front[first.start..last.end]),
            _ => fields.iter().for_each(|field| to.extend_from_slice(&self.series[field.clone()])),
        }
    }
}

/// A list of them would take far more memory than the request.
fn too_many(at: Fields<'_>) -> Malformed {
    Malformed { offset: at.offset(), what: "more than 10000 labels" }
}

const _: () = assert!(LABELS_MAX == 10_000);

fn rewrite_2<'m>(
    message: &'m [u8],
    mut visitor: impl FnMut(&Series<'_, 'm>, &mut Sink<'_, 'm, '_>) -> Verdict,
) -> Result<Rewritten, Malformed> {
    let mut table = SymbolTable::new();
    let mut symbols = Symbols::of(message, &mut table)?;
    let (mut dropped, mut is_changed) = (Dropped::default(), false);
    let mut labels = Labels2::default();
    let mut entry = EntryBuffer::default();
    let mut index = 0;
    let mut new_labels = Vec::new();
    let mut rewritten = Vec::with_capacity(message.len());
    let mut fields = Fields::new(message);
    while let Some(Field { number, value, bytes }) = next_field(&mut fields)? {
        let content = match (number, value) {
            (5, Value::Bytes(content)) => content,
            // The old table.
            (4, _) => continue,
            (5, _) => return Err(fields.wrong_type()),
            _ => {
                rewritten.extend_from_slice(bytes);
                continue;
            }
        };
        let unreadable = labels.read(content, &symbols).err();
        new_labels.clear();
        let series = Series { index, labels: &labels.texts, encoded: None, references: &labels.references, unreadable };
        let from = From::References(&labels.references, &mut symbols);
        let mut sink = Sink { to: &mut new_labels, from, error: None };
        let verdict = visitor(&series, &mut sink);
        if let Some(error) = sink.error {
            return Err(error);
        }
        match verdict {
            Verdict::Drop => dropped.add(Protocol::V2, content)?,
            _ if unreadable.is_some() => return Err(unreadable.unwrap_or(fields.wrong_type())),
            Verdict::Keep => entry.renumber_series(content, None, &mut symbols, &mut rewritten)?,
            Verdict::Relabel => entry.renumber_series(content, Some(&new_labels), &mut symbols, &mut rewritten)?,
        }
        is_changed |= verdict != Verdict::Keep;
        index += 1;
    }
    Ok(Rewritten { message: table.followed_by(&rewritten), dropped, is_changed })
}

/// The labels of one series after the other, as 2.0 refers to them.
#[derive(Default)]
struct Labels2<'m> {
    references: Vec<u32>,
    texts: Vec<Label<'m>>,
}

impl<'m> Labels2<'m> {
    /// After an error there are none.
    fn read(&mut self, series: Fields<'m>, symbols: &Symbols<'m, '_>) -> Result<(), Malformed> {
        self.references.clear();
        self.texts.clear();
        let read = self.read_all(series, symbols);
        if read.is_err() {
            self.references.clear();
            self.texts.clear();
        }
        read
    }

    fn read_all(&mut self, series: Fields<'m>, symbols: &Symbols<'m, '_>) -> Result<(), Malformed> {
        let mut fields = series;
        while let Some((number, value)) = fields.next_field()? {
            if number == 1 {
                each_varint(&fields, value, |reference| {
                    // One more than is allowed is enough to see that there are too many.
                    if self.references.len() <= 2 * LABELS_MAX {
                        self.references.push(reference as u32);
                    }
                })?;
            }
        }
        if self.references.len() > 2 * LABELS_MAX {
            return Err(too_many(series));
        }
        let malformed = |what| Malformed { offset: series.offset(), what };
        let (pairs, []) = self.references.as_chunks::<2>() else {
            return Err(malformed(ODD_REFERENCES));
        };
        for &[name, value] in pairs {
            let texts = symbols.text(name).zip(symbols.text(value));
            self.texts.push(texts.ok_or_else(|| malformed(REFERENCE_OUT_OF_RANGE))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::arbitrary::{self, both, resolved, series};
    use super::super::messages::{v1 as pb1, v2 as pb2};
    use super::super::plain::has_a_proper_table;
    use super::*;

    fn texts<'m>(labels: &[Label<'m>]) -> Vec<(&'m str, &'m str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        labels.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn a_visitor_sees_each_series_with_its_labels_and_says_what_becomes_of_it() {
        let all = vec![
            series(&[("__name__", "a"), ("job", "x")]),
            series(&[("__name__", "b"), ("job", "")]),
            series(&[("__name__", "c"), ("job", "x")]),
        ];
        for (protocol, message) in both(all.clone()) {
            let mut seen = Vec::new();
            let rewritten = rewrite(protocol, &message, |series, sink| {
                assert_eq!((series.index as usize, series.unreadable), (seen.len(), None));
                assert_eq!(series.encoded.is_some(), protocol == Protocol::V1);
                seen.push(texts(series.labels));
                match series.index {
                    0 => Verdict::Keep,
                    1 => Verdict::Drop,
                    _ => {
                        sink.label(b"__name__", b"renamed");
                        sink.keep(1..2);
                        sink.label(b"zone", "é".repeat(100).as_bytes());
                        Verdict::Relabel
                    }
                }
            });
            let rewritten = rewritten.unwrap();
            assert_eq!(seen[1], [("__name__", "b"), ("job", "")]);
            let zone = "é".repeat(100);
            let expected = [all[0].clone(), series(&[("__name__", "renamed"), ("job", "x"), ("zone", &zone)])].to_vec();
            let is_as_expected = match protocol {
                Protocol::V1 => rewritten.message == arbitrary::request(expected).encode_to_vec(),
                Protocol::V2 => {
                    let expected = arbitrary::as_2(&arbitrary::request(expected));
                    let got = pb2::Request::decode(&*rewritten.message).unwrap();
                    has_a_proper_table(&got) && resolved(&got) == resolved(&expected)
                }
            };
            assert!(is_as_expected, "{protocol}");
            assert_eq!(rewritten.dropped, Dropped { series: 1, samples: 1, histograms: 0, exemplars: 0 });
            assert!(rewritten.is_changed);
        }
    }

    #[test]
    fn what_nobody_knows_yet_and_created_timestamps_stay_as_they_are() {
        // Request: unknown 7; series: label, unknown 9 as a group, sample with unknown 5, field 6; then unknown 8.
        let series =
            [&[0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b'][..], &[0x4b, 0x08, 1, 0x4c], &[0x12, 4, 0x10, 5, 0x28, 1]];
        let one = [&[0x38, 1, 0x0a, 18][..], &series.concat(), &[0x42, 1, b'x']].concat();
        let add = |_: &Series<'_, '_>, sink: &mut Sink<'_, '_, '_>| {
            sink.keep(0..1);
            sink.label(b"c", b"d");
            Verdict::Relabel
        };
        let rewritten = rewrite(Protocol::V1, &one, add).unwrap().message;
        let label = [0x0a, 6, 0x0a, 1, b'c', 0x12, 1, b'd'];
        let expected = [&[0x38, 1, 0x0a, 26][..], series[0], &label, series[1], series[2], &[0x42, 1, b'x']].concat();
        assert_eq!(rewritten, expected, "V1-15");

        // References unpacked, created timestamp (field 6), sample with a start timestamp and unknown 5.
        let tail = [&[0x30, 9][..], &[0x12, 6, 0x10, 5, 0x18, 4, 0x28, 1], &[0x4b, 0x08, 1, 0x4c]].concat();
        let two =
            [&[0x38, 1, 0x2a, 18, 0x08, 1, 0x08, 2][..], &tail, &[0x22, 0, 0x22, 1, b'a', 0x22, 1, b'b']].concat();
        let rewritten = rewrite(Protocol::V2, &two, add).unwrap().message;
        let symbols = [0x22, 0, 0x22, 1, b'a', 0x22, 1, b'b', 0x22, 1, b'c', 0x22, 1, b'd'];
        let expected = [&symbols[..], &[0x38, 1, 0x2a, 20, 0x0a, 4, 1, 2, 3, 4], &tail].concat();
        assert_eq!(rewritten, expected, "V2-56, V2-83");
    }

    #[test]
    fn labels_behind_other_fields_are_found_and_stand_in_front_then() {
        let series = [&[0x12, 2, 0x10, 5][..], &[0x0a, 3, 0x0a, 1, b'a']].concat();
        let message = [&[0x0a, 9][..], &series].concat();
        let rewritten = rewrite(Protocol::V1, &message, |series, sink| {
            assert_eq!((series.encoded, series.labels), (None, &[(&b"a"[..], &b""[..])][..]));
            sink.keep(0..1);
            Verdict::Relabel
        });
        assert_eq!(rewritten.unwrap().message, [0x0a, 9, 0x0a, 3, 0x0a, 1, b'a', 0x12, 2, 0x10, 5]);
    }

    #[test]
    fn a_series_that_cannot_be_read_can_only_be_dropped() {
        let good = series(&[("__name__", "a")]);
        let bad = [
            (Protocol::V1, vec![0x0a, 4, 0x0a, 2, 0x0a, 9], arbitrary::request(vec![good.clone()]).encode_to_vec()),
            (Protocol::V2, vec![0x2a, 3, 0x0a, 1, 1], arbitrary::as_2(&arbitrary::request(vec![good])).encode_to_vec()),
            (Protocol::V2, vec![0x2a, 4, 0x0a, 2, 1, 99], Vec::new()),
            (Protocol::V1, [&[0x0a, 0xc0, 0xb8, 0x02][..], &[0x0a, 0].repeat(20_000)].concat(), Vec::new()),
        ];
        for (protocol, bad, good) in bad {
            let message = [good.clone(), bad].concat();
            let decide = |verdict| {
                rewrite(protocol, &message, |series, _| match series.unreadable {
                    Some(_) => {
                        assert!(series.labels.is_empty());
                        verdict
                    }
                    None => Verdict::Keep,
                })
            };
            assert!(decide(Verdict::Keep).is_err() && decide(Verdict::Relabel).is_err());
            let rewritten = decide(Verdict::Drop).unwrap();
            assert_eq!(rewritten.dropped.series, 1);
            assert_eq!(rewritten.message.len(), good.len().max(if protocol == Protocol::V2 { 2 } else { 0 }));
        }
    }

    /// What becomes of the series with this number.
    fn decision(decisions: &[u8], index: u32) -> u8 {
        decisions.get(index as usize).map_or(0, |decision| decision % 5)
    }

    /// All labels in reverse, by text or as they are, or in two pieces as they are, and one more.
    fn decide(decisions: &[u8], series: &Series<'_, '_>, sink: &mut Sink<'_, '_, '_>) -> Verdict {
        let n = series.labels.len();
        match decision(decisions, series.index) {
            0 => return Verdict::Keep,
            1 => return Verdict::Drop,
            2 => (0..n).rev().for_each(|n| sink.keep(n..n + 1)),
            3 => [0..n / 3, n / 3..n].into_iter().for_each(|numbers| sink.keep(numbers)),
            _ => series.labels.iter().rev().for_each(|(name, value)| sink.label(name, value)),
        }
        sink.label(b"new", b"a");
        Verdict::Relabel
    }

    proptest! {
        #[test]
        fn all_else_is_what_prost_finds_there(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            decisions in prop::collection::vec(any::<u8>(), 6),
        ) {
            let message = one.encode_to_vec();
            let kept = rewrite(Protocol::V1, &message, |_, _| Verdict::Keep).unwrap();
            prop_assert_eq!((&kept.message, kept.is_changed), (&message, false));
            let rewritten = rewrite(Protocol::V1, &message, |series, sink| decide(&decisions, series, sink)).unwrap();
            let mut expected = one.clone();
            let mut index = 0;
            let mut dropped = Dropped::default();
            expected.timeseries.retain_mut(|series| {
                let decision = decision(&decisions, index);
                index += 1;
                if decision > 1 {
                    if decision != 3 {
                        series.labels.reverse();
                    }
                    series.labels.push(pb1::Label { name: "new".into(), value: "a".into() });
                } else if decision == 1 {
                    dropped.series += 1;
                    dropped.samples += series.samples.len() as u64;
                    dropped.histograms += series.histograms.len() as u64;
                    dropped.exemplars += series.exemplars.len() as u64;
                }
                decision != 1
            });
            // As bytes: the bits of floats count.
            let decoded = pb1::WriteRequest::decode(&*rewritten.message).unwrap();
            prop_assert_eq!(decoded.encode_to_vec(), expected.encode_to_vec());
            prop_assert_eq!(rewritten.dropped, dropped);

            let message = two.encode_to_vec();
            let kept = rewrite(Protocol::V2, &message, |_, _| Verdict::Keep).unwrap();
            let decoded = pb2::Request::decode(&*kept.message).unwrap();
            prop_assert_eq!(resolved(&decoded), resolved(&two));
            prop_assert!(has_a_proper_table(&decoded), "{:?}", decoded);
            let rewritten = rewrite(Protocol::V2, &message, |series, sink| decide(&decisions, series, sink)).unwrap();
            let mut expected = two.clone();
            expected.symbols.extend(["new".into(), "a".into()]);
            let new = expected.symbols.len() as u32 - 2;
            let mut index = 0;
            expected.timeseries.retain_mut(|series| {
                let decision = decision(&decisions, index);
                index += 1;
                if decision > 1 {
                    let mut pairs: Vec<_> = series.labels_refs.chunks(2).collect();
                    if decision != 3 {
                        pairs.reverse();
                    }
                    let pairs = pairs.concat();
                    series.labels_refs = [pairs, vec![new, new + 1]].concat();
                }
                decision != 1
            });
            let decoded = pb2::Request::decode(&*rewritten.message).unwrap();
            prop_assert_eq!(resolved(&decoded), resolved(&expected));
            prop_assert!(has_a_proper_table(&decoded), "{:?}", decoded);
        }

        #[test]
        fn no_damage_makes_it_panic(
            one in arbitrary::request1(),
            two in arbitrary::request2(),
            damage in arbitrary::damage(),
            decisions in prop::collection::vec(any::<u8>(), 6),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for (protocol, mut message) in
                [(Protocol::V1, one.encode_to_vec()), (Protocol::V2, two.encode_to_vec()), (Protocol::V1, bytes.clone()), (Protocol::V2, bytes)]
            {
                damage.strike(&mut message);
                let _ = rewrite(protocol, &message, |series, sink| {
                    if series.unreadable.is_some() { Verdict::Drop } else { decide(&decisions, series, sink) }
                });
            }
        }
    }
}
