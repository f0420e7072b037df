//! 2.0 -> 1.0: labels written out, metadata apart, what 1.0 has no place for left out and counted.

use std::ops::Range;
use std::time::Instant;

use prost::encoding::encode_varint;

use super::super::entries::{ODD_REFERENCES, REFERENCE_OUT_OF_RANGE, identity_2, symbols_2, text_hash};
use super::super::labels::METRIC_NAME;
use super::super::selection::{Selection, each_chosen};
use super::super::wire::{Fields, Malformed, Value, each_varint, put_bytes};
use super::custom_series::Bounds;
use super::sample::{Kind, put_histogram_fields, put_sample};
use super::series::{LABEL_OVERHEAD, SERIES_HEAD_LEN, put_label, put_series_head};
use super::{CustomSeries, SentMetadata, Translated, classic, family};

/// What becomes of histograms with custom buckets, which 1.0 does not have (Prometheus does not send them either).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CustomBuckets {
    /// They are left out and counted.
    #[default]
    Drop,
    /// They are sent as what they were made of: `_bucket` series with the label `le`, `_count` and `_sum`.
    AsClassic,
}

/// So many bytes may be written out for what the walk sets no limit to: labels of exemplars, metadata, classic series. A few long symbols
/// can be referred to so often that they would fill any memory. No honest request comes near it.
const WRITTEN_OUT_MAX: usize = 16 << 20;

/// Of several requests no more than this is written out before the last of them: receivers have limits of 32 MiB. (What one request alone may take is
/// the walk's to limit.)
const MERGED_BYTES_MAX: usize = 32 << 20;

const TOGETHER_TOO_LARGE: Malformed =
    Malformed { offset: 0, what: "requests that together are too large when they are written out, found" };

/// The chosen entries of 2.0 requests as one request of 1.0.
///
/// `series` is what is known of series with custom buckets, of which those that come `from` one place are told apart from others; what
/// is new stands in [`Translated::taught`]. `sent` is what the target has been told of metric families so far, `now` tells what is to be
/// told again.
///
/// # Errors
/// A message is no request of 2.0, a chosen entry does not exist, or several requests together take more than 32 MiB. The offset is one in that
/// selection's message.
pub fn to_1(
    selections: &[Selection<'_>],
    series: &CustomSeries,
    from: u64,
    sent: &mut SentMetadata,
    now: Instant,
) -> Result<Translated, Malformed> {
    let mut writer = Writer {
        series,
        from,
        sent,
        now,
        translated: Translated { dropped: vec![0; selections.len()], ..Translated::default() },
        // About what it takes: one label of ten is another one in each series.
        out: Vec::with_capacity(
            (selections.iter().map(|selection| selection.message.len()).sum::<usize>() * 4).min(MERGED_BYTES_MAX),
        ),
        metadata: Vec::new(),
        written_out_left: WRITTEN_OUT_MAX,
        has_no_room_left: false,
        labels: WrittenLabels::default(),
        entry: Entry::default(),
        nested: Vec::new(),
        classic: classic::Scratch::default(),
        hashes: Vec::new(),
        newest_bounds: None,
    };
    for (number, selection) in selections.iter().enumerate() {
        if writer.out.len() > MERGED_BYTES_MAX {
            return Err(TOGETHER_TOO_LARGE);
        }
        let symbols = symbols_2(selection.message, |symbol| symbol)?;
        writer.labels.turn_to_another_table();
        writer.hashes.clear();
        let mut told = None;
        each_chosen(selection, 5, |field, series| match series {
            Some(series) => writer.series(series, &symbols, number, &mut told),
            None => {
                // The table of symbols.
                writer.translated.unknown_fields += u64::from(field.number != 4);
                Ok(())
            }
        })?;
    }
    // In requests of their own there is room for them.
    if writer.has_no_room_left && selections.len() > 1 {
        return Err(TOGETHER_TOO_LARGE);
    }
    let Writer { mut translated, mut out, metadata, .. } = writer;
    out.extend_from_slice(&metadata);
    translated.message = out;
    Ok(translated)
}

struct Writer<'s> {
    series: &'s CustomSeries,
    from: u64,
    sent: &'s mut SentMetadata,
    now: Instant,
    translated: Translated,
    out: Vec<u8>,
    /// Goes behind all series.
    metadata: Vec<u8>,
    written_out_left: usize,
    /// Samples are left out for want of that.
    has_no_room_left: bool,
    labels: WrittenLabels,
    entry: Entry,
    nested: Vec<u8>,
    classic: classic::Scratch,
    /// Of the table of symbols, if they were needed yet.
    hashes: Vec<u64>,
    /// Series of one metric have equal ones most often.
    newest_bounds: Option<Bounds>,
}

/// The entry at hand.
#[derive(Default)]
struct Entry {
    references: Vec<u32>,
    /// Samples and histograms, as fields of a 1.0 series.
    data: Vec<u8>,
    samples: u64,
    histograms: u64,
    /// As fields of a 1.0 series.
    exemplars: Vec<u8>,
    /// Where each of them lies there, and its value.
    exemplar_places: Vec<(f64, Range<usize>)>,
    /// Those that did not fit.
    exemplars_left_out: u64,
    /// All histograms, in order.
    found: Vec<Found>,
    /// Of these, those with custom buckets.
    custom: Vec<Custom>,
    start_timestamps: u64,
    /// Of those with custom buckets: if they are dropped, that is the greater loss.
    custom_start_timestamps: u64,
}

/// A histogram as it was found.
#[derive(Debug)]
struct Found {
    kind: Kind,
    /// Where it lies in the message of its series.
    at: Range<usize>,
    /// Where it was put in the entry's data, if it has no custom buckets.
    data: Range<usize>,
    has_start_timestamp: bool,
}

/// A histogram with custom buckets, or its stale marker.
#[derive(Debug)]
struct Custom {
    at: Range<usize>,
    /// Of a marker: the bounds of what ended, if that is known.
    ended: Option<Bounds>,
}

impl Entry {
    fn clear(&mut self) {
        self.references.clear();
        self.data.clear();
        self.exemplars.clear();
        self.exemplar_places.clear();
        self.found.clear();
        self.custom.clear();
        (self.samples, self.histograms, self.exemplars_left_out) = (0, 0, 0);
        (self.start_timestamps, self.custom_start_timestamps) = (0, 0);
    }
}

impl Entry {
    /// Markers that are of custom buckets after all.
    fn take_markers_out(&mut self) {
        let mut custom = self.custom.iter().rev().peekable();
        for found in self.found.iter().rev() {
            if custom.next_if(|custom| custom.at == found.at).is_some() && !found.kind.is_custom {
                self.data.drain(found.data.clone());
                self.histograms -= 1;
                self.start_timestamps -= u64::from(found.has_start_timestamp);
                self.custom_start_timestamps += u64::from(found.has_start_timestamp);
            }
        }
    }
}

/// The labels of an entry whose references were checked.
fn labels<'a>(entry: &Entry, symbols: &[&'a [u8]]) -> impl Iterator<Item = [&'a [u8]; 2]> {
    let (pairs, _) = entry.references.as_chunks::<2>();
    pairs.iter().map(|pair| pair.map(|reference| symbols[reference as usize]))
}

/// Reads a histogram with custom buckets, or a stale marker: with the bounds of what ended, where they are known.
fn read_custom(classic: &mut classic::Scratch, series: Fields<'_>, custom: &Custom) -> Result<(), Malformed> {
    classic.read(series.part(custom.at.clone()))?;
    if let Some(bounds) = custom.ended.as_ref().and_then(Bounds::values) {
        classic.set_bounds(bounds);
    }
    Ok(())
}

/// The metadata that was last looked at: the metric's name as a reference, whether it is of native histograms, and its bytes.
type Told<'a> = Option<(u32, bool, &'a [u8])>;

impl Writer<'_> {
    fn series<'a>(
        &mut self,
        series: Fields<'a>,
        symbols: &[&'a [u8]],
        selection: usize,
        told: &mut Told<'a>,
    ) -> Result<(), Malformed> {
        self.entry.clear();
        let mut metadata = None;
        let mut created_timestamp = 0;
        let mut fields = series;
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, value) => {
                    let references = &mut self.entry.references;
                    each_varint(&fields, value, |reference| references.push(reference as u32))?;
                }
                (2, Value::Bytes(sample)) => {
                    let behind = put_sample(&mut self.entry.data, sample)?;
                    self.entry.samples += 1;
                    self.entry.start_timestamps += u64::from(behind.start_timestamp != 0);
                    self.translated.unknown_fields += behind.unknown_fields;
                }
                (3, Value::Bytes(histogram)) => self.histogram(series, histogram)?,
                (4, Value::Bytes(exemplar)) => self.exemplar(exemplar, symbols)?,
                (5, Value::Bytes(content)) => metadata = Some(content),
                (6, Value::Varint(timestamp)) => created_timestamp = timestamp,
                (2..=6, _) => return Err(fields.wrong_type()),
                _ => self.translated.unknown_fields += 1,
            }
        }
        self.entry.start_timestamps += u64::from(created_timestamp != 0);
        let are_in_range = self.entry.references.iter().all(|reference| (*reference as usize) < symbols.len());
        if !are_in_range {
            return Err(Malformed { offset: series.offset(), what: REFERENCE_OUT_OF_RANGE });
        }
        if !self.entry.references.len().is_multiple_of(2) {
            return Err(Malformed { offset: series.offset(), what: ODD_REFERENCES });
        }
        let bounds = self.judge(series, symbols)?;
        // An entry of exemplars does not tell whether the metric is a native histogram: its samples are not far.
        if let Some(metadata) = metadata
            && self.entry.samples + self.entry.histograms + self.entry.custom.len() as u64 > 0
        {
            self.metadata(metadata, symbols, told)?;
        }
        self.translated.exemplars += self.entry.exemplars_left_out;
        let exemplars = self.entry.exemplar_places.len() as u64;
        if !self.entry.custom.is_empty() {
            let is_sent =
                self.series.custom_buckets() == CustomBuckets::AsClassic && self.classic_series(series, symbols)?;
            if is_sent {
                self.translated.start_timestamps += self.entry.custom_start_timestamps;
            } else {
                self.translated.dropped[selection] += self.entry.custom.len() as u64;
            }
            if self.entry.data.is_empty() {
                // Exemplars went with the buckets, or there is nothing to go with.
                let (sent, left_out) = if is_sent { (exemplars, 0) } else { (0, exemplars) };
                self.translated.sent.exemplars += sent;
                self.translated.exemplars += left_out;
                self.translated.start_timestamps += if is_sent { self.entry.start_timestamps } else { 0 };
                return Ok(());
            }
        }
        if let Some(bounds) = bounds
            && self.entry.data.is_empty()
            && exemplars > 0
        {
            // Prometheus sends each exemplar in an entry of its own.
            if self.classic_exemplars(&bounds, symbols) {
                self.translated.sent.exemplars += exemplars;
                self.translated.start_timestamps += self.entry.start_timestamps;
            } else {
                self.translated.exemplars += exemplars;
            }
            return Ok(());
        }
        if self.entry.data.is_empty() && self.entry.exemplars.is_empty() {
            self.translated.empty_series += u64::from(self.entry.exemplars_left_out == 0);
            return Ok(());
        }
        self.write(symbols);
        self.translated.series += 1;
        self.translated.sent.samples += self.entry.samples;
        self.translated.sent.histograms += self.entry.histograms;
        self.translated.sent.exemplars += exemplars;
        self.translated.start_timestamps += self.entry.start_timestamps;
        Ok(())
    }

    /// The entry as one series of 1.0.
    fn write(&mut self, symbols: &[&[u8]]) {
        let Writer { out, labels, entry, .. } = self;
        // Nearly every series is so long that its length takes two bytes: they are left free, not moved in afterwards.
        let start = out.len();
        out.extend_from_slice(&[0; SERIES_HEAD_LEN]);
        labels.write(out, &entry.references, symbols);
        out.extend_from_slice(&entry.data);
        out.extend_from_slice(&entry.exemplars);
        labels.start = put_series_head(out, start);
    }

    fn histogram(&mut self, series: Fields<'_>, histogram: Fields<'_>) -> Result<(), Malformed> {
        let entry = &mut self.entry;
        self.nested.clear();
        let (behind, kind) = put_histogram_fields(&mut self.nested, histogram)?;
        let has_start_timestamp = behind.start_timestamp != 0;
        self.translated.unknown_fields += behind.unknown_fields;
        let start = entry.data.len();
        if kind.is_custom {
            entry.custom_start_timestamps += u64::from(has_start_timestamp);
        } else {
            put_bytes(&mut entry.data, 4, &self.nested);
            entry.histograms += 1;
            entry.start_timestamps += u64::from(has_start_timestamp);
        }
        let at = histogram.offset() - series.offset();
        let at = at..at + histogram.rest().len();
        entry.found.push(Found { kind, at, data: start..entry.data.len(), has_start_timestamp });
        Ok(())
    }

    /// Finds out which histograms and stale markers of the entry are of custom buckets, and learns what its series has now. Returns the
    /// bounds, if these are custom buckets.
    fn judge(&mut self, series: Fields<'_>, symbols: &[&[u8]]) -> Result<Option<Bounds>, Malformed> {
        let Writer { series: known, translated, entry, .. } = self;
        let has_custom = entry.found.iter().any(|found| found.kind.is_custom);
        if !has_custom && known.is_empty() && translated.taught.is_empty() {
            return Ok(None);
        }
        if self.hashes.is_empty() {
            self.hashes.extend(symbols.iter().map(|symbol| text_hash(symbol)));
        }
        let identity = identity_2(&entry.references, &self.hashes) ^ self.from;
        let (before, is_old) = match (translated.taught.look(identity), known.look(identity)) {
            (Some(learned), _) => (learned.clone(), false),
            (None, Some((bounds, is_old))) => (Some(bounds.clone()), is_old),
            (None, None) => (None, false),
        };
        // Both in one entry are not allowed, so the order does not matter.
        let mut now = if entry.samples == 0 { before.clone() } else { None };
        for found in &entry.found {
            match found.kind {
                Kind { is_stale: true, is_custom } if is_custom || now.is_some() => {
                    entry.custom.push(Custom { at: found.at.clone(), ended: now.clone() });
                }
                Kind { is_custom: true, .. } => {
                    if known.custom_buckets() == CustomBuckets::AsClassic {
                        self.classic.read(series.part(found.at.clone()))?;
                    }
                    let near = [now.as_ref(), self.newest_bounds.as_ref()];
                    let bounds = known.bounds(self.classic.bounds(), near);
                    entry.custom.push(Custom { at: found.at.clone(), ended: None });
                    self.newest_bounds = Some(bounds.clone());
                    now = Some(bounds);
                }
                _ => now = None,
            }
        }
        if now != before || (is_old && has_custom) {
            translated.taught.learn(identity, now.clone());
        }
        entry.take_markers_out();
        Ok(now)
    }

    /// Its labels go in front, whatever their place was; there may be none (`V2-91`). One that would make the request too large is left out.
    /// Value and timestamp stay what they are, also 0 (`V2-90`, `V2-92`).
    fn exemplar(&mut self, mut exemplar: Fields<'_>, symbols: &[&[u8]]) -> Result<(), Malformed> {
        let at = exemplar.offset();
        let (mut bits, mut timestamp) = (0, 0);
        self.nested.clear();
        let mut name = None;
        let mut is_in_range = true;
        let mut fits = true;
        while let Some((number, value)) = exemplar.next_field()? {
            match (number, value) {
                (1, value) => each_varint(&exemplar, value, |reference| {
                    let Some(text) = symbols.get(reference as u32 as usize) else {
                        is_in_range = false;
                        return;
                    };
                    match name.take() {
                        None => name = Some(text),
                        Some(name) => {
                            let len = name.len() + text.len() + LABEL_OVERHEAD;
                            fits &= self.nested.len() + len <= self.written_out_left;
                            if fits {
                                put_label(&mut self.nested, name, text);
                            }
                        }
                    }
                })?,
                (2, Value::Fixed64(value)) => bits = value,
                (3, Value::Varint(value)) => timestamp = value,
                (2 | 3, _) => return Err(exemplar.wrong_type()),
                _ => self.translated.unknown_fields += 1,
            }
        }
        if !is_in_range {
            return Err(Malformed { offset: at, what: REFERENCE_OUT_OF_RANGE });
        }
        if name.is_some() {
            return Err(Malformed { offset: at, what: ODD_REFERENCES });
        }
        if !fits {
            self.entry.exemplars_left_out += 1;
            return Ok(());
        }
        if bits != 0 {
            self.nested.push(0x11);
            self.nested.extend_from_slice(&u64::to_le_bytes(bits));
        }
        if timestamp != 0 {
            self.nested.push(0x18);
            encode_varint(timestamp, &mut self.nested);
        }
        self.written_out_left = self.written_out_left.saturating_sub(self.nested.len());
        let start = self.entry.exemplars.len();
        put_bytes(&mut self.entry.exemplars, 3, &self.nested);
        self.entry.exemplar_places.push((f64::from_bits(bits), start..self.entry.exemplars.len()));
        Ok(())
    }

    /// Puts a metric's metadata into a message of its own, if it is new to the target.
    fn metadata<'a>(
        &mut self,
        metadata: Fields<'a>,
        symbols: &[&'a [u8]],
        told: &mut Told<'a>,
    ) -> Result<(), Malformed> {
        let (pairs, _) = self.entry.references.as_chunks::<2>();
        let Some([_, metric]) = pairs.iter().find(|[name, _]| symbols[*name as usize] == METRIC_NAME) else {
            return Ok(());
        };
        // Series of one metric come one after the other.
        let is_native = self.entry.histograms > 0 || !self.entry.custom.is_empty();
        let this = Some((*metric, is_native, metadata.rest()));
        if *told == this {
            return Ok(());
        }
        *told = this;
        let (mut metric_type, mut help, mut unit) = (0, 0, 0);
        let mut fields = metadata;
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, Value::Varint(value)) => metric_type = value,
                (3, Value::Varint(reference)) => help = reference as u32,
                (4, Value::Varint(reference)) => unit = reference as u32,
                (1 | 3 | 4, _) => return Err(fields.wrong_type()),
                _ => self.translated.unknown_fields += 1,
            }
        }
        // A reference that is not written is 0, and that is no text, even without a table.
        let text = |reference: u32| match symbols.get(reference as usize) {
            None if reference == 0 => Ok(&[][..]),
            None => Err(Malformed { offset: metadata.offset(), what: REFERENCE_OUT_OF_RANGE }),
            Some(text) => Ok(*text),
        };
        let (help, unit) = (text(help)?, text(unit)?);
        // Prometheus sends such ones when it knows nothing.
        if metric_type == 0 && help.is_empty() && unit.is_empty() {
            return Ok(());
        }
        let family = family::of(symbols[*metric as usize], metric_type, is_native);
        let len = family.len() + help.len() + unit.len() + 32;
        // Nobody has looked at these texts yet. Not UTF-8, they could fail the whole request.
        let are_text = [help, unit].iter().all(|text| std::str::from_utf8(text).is_ok());
        if len > self.written_out_left || !are_text {
            self.translated.metadata_left_out += 1;
            return Ok(());
        }
        if !self.sent.is_due(family, metric_type, help, unit, self.now) {
            return Ok(());
        }
        self.written_out_left -= len;
        self.nested.clear();
        if metric_type != 0 {
            self.nested.push(0x08);
            encode_varint(metric_type, &mut self.nested);
        }
        put_bytes(&mut self.nested, 2, family);
        for (number, text) in [(4, help), (5, unit)] {
            if !text.is_empty() {
                put_bytes(&mut self.nested, number, text);
            }
        }
        put_bytes(&mut self.metadata, 3, &self.nested);
        self.translated.metadata += 1;
        Ok(())
    }

    /// The exemplars of the entry, which has nothing else, in the classic series they belong to, if these are known and that does not
    /// take too much: else none of them.
    fn classic_exemplars(&mut self, bounds: &Bounds, symbols: &[&[u8]]) -> bool {
        let Some(bounds) = bounds.values() else { return false };
        let entry = &self.entry;
        self.classic.turn_to(labels(entry, symbols));
        let len = self.classic.len_of(entry.exemplar_places.len());
        if len > self.written_out_left {
            return false;
        }
        self.written_out_left -= len;
        self.classic.set_bounds(bounds);
        self.translated.series += self.classic.write_exemplars(&mut self.out, &entry.exemplars, &entry.exemplar_places);
        true
    }

    /// The custom histograms of the entry as classic series, if that does not take too much: else none of them.
    fn classic_series(&mut self, series: Fields<'_>, symbols: &[&[u8]]) -> Result<bool, Malformed> {
        let entry = &self.entry;
        self.classic.turn_to(labels(entry, symbols));
        let mut len = 0usize;
        for custom in &entry.custom {
            read_custom(&mut self.classic, series, custom)?;
            len = len.saturating_add(self.classic.len_of(self.classic.bounds().len() + 3));
        }
        if len > self.written_out_left {
            self.has_no_room_left = true;
            return Ok(false);
        }
        self.written_out_left -= len;
        for (n, custom) in entry.custom.iter().enumerate() {
            read_custom(&mut self.classic, series, custom)?;
            // Exemplars that have no other place go to the buckets they fell into.
            let has_exemplars = n + 1 == entry.custom.len() && entry.data.is_empty();
            let places = if has_exemplars { &entry.exemplar_places[..] } else { &[] };
            let written = self.classic.write(&mut self.out, &entry.exemplars, places);
            self.translated.series += written;
            self.translated.sent.samples += written;
        }
        Ok(true)
    }
}

/// The labels of the series that was written last: what the next one has in common with it is copied, not written again.
#[derive(Default)]
struct WrittenLabels {
    references: Vec<u32>,
    /// Where each label ends, from the first one's beginning.
    ends: Vec<usize>,
    next_ends: Vec<usize>,
    /// Where the first one begins in the request.
    start: usize,
}

impl WrittenLabels {
    /// References mean something else now.
    fn turn_to_another_table(&mut self) {
        self.references.clear();
        self.ends.clear();
    }

    /// Appends the labels. All references are in range. Afterwards `start` is to be set.
    fn write(&mut self, out: &mut Vec<u8>, references: &[u32], symbols: &[&[u8]]) {
        let WrittenLabels { references: before, ends, next_ends, start } = self;
        let ((pairs, _), (pairs_before, _)) = (references.as_chunks::<2>(), before.as_chunks::<2>());
        let shorter = pairs.len().min(pairs_before.len());
        let front = std::iter::zip(pairs, pairs_before).take_while(|(pair, before)| pair == before).count();
        let back = std::iter::zip(pairs.iter().rev(), pairs_before.iter().rev());
        let back = back.take(shorter - front).take_while(|(pair, before)| pair == before).count();

        let begin = out.len();
        next_ends.clear();
        if front > 0 {
            out.extend_from_within(*start..*start + ends[front - 1]);
            next_ends.extend_from_slice(&ends[..front]);
        }
        for pair in &pairs[front..pairs.len() - back] {
            let [name, value] = pair.map(|reference| symbols[reference as usize]);
            put_label(out, name, value);
            next_ends.push(out.len() - begin);
        }
        if back > 0 {
            let back = ends.len() - back;
            let from = back.checked_sub(1).map_or(0, |last| ends[last]);
            let now = out.len() - begin;
            out.extend_from_within(*start + from..*start + ends[ends.len() - 1]);
            next_ends.extend(ends[back..].iter().map(|end| end - from + now));
        }
        std::mem::swap(ends, next_ends);
        before.clear();
        before.extend_from_slice(references);
    }
}
