//! 1.0 -> 2.0: one table of symbols, metadata with each series (`V2-65`), and exemplars with a sample of their series where there is one.

use prost::encoding::encode_varint;

use super::super::entries::label_1;
use super::super::exemplars::{self, Hostless, Lone};
use super::super::labels::METRIC_NAME;
use super::super::renumber::put_labels_and_rest;
use super::super::selection::{Selection, each_chosen};
use super::super::symbols::SymbolTable;
use super::super::wire::{Fields, Malformed, Value, next_field, put_bytes, put_head};
use super::known_metadata::Metadata;
use super::sample::{Behind, put_histogram_fields, put_sample};
use super::{KnownMetadata, Translated};

/// The chosen entries of 1.0 requests as one request of 2.0.
///
/// Metadata messages in the requests are kept in `known`, and put to the series that they are about: of these requests, and of later ones.
///
/// # Errors
/// A message is no request of 1.0, or a chosen entry does not exist. The offset is one in that selection's message.
pub fn to_2(
    selections: &[Selection<'_>],
    known: &mut KnownMetadata,
    hostless: Hostless,
) -> Result<Translated, Malformed> {
    let mut writer = Writer {
        known,
        translated: Translated { dropped: vec![0; selections.len()], ..Translated::default() },
        out: Vec::new(),
        table: SymbolTable::new(),
        labels: KnownLabels::default(),
        entry: Entry::default(),
        metadata: LastMetadata::default(),
    };
    // Whole requests first: metadata may stand behind the series it is about.
    for selection in selections {
        writer.learn(selection)?;
    }
    let mut lone = Vec::new();
    for (number, selection) in selections.iter().enumerate() {
        each_chosen(selection, 1, |field, series| {
            match (series, field.number) {
                (Some(series), _) => {
                    let exemplars = writer.series(series)?;
                    if exemplars > 0 {
                        lone.push(Lone { at: writer.out.len(), selection: number, series, exemplars });
                    }
                }
                // Metadata: it was learned.
                (None, 3) => {}
                (None, _) => writer.translated.unknown_fields += 1,
            }
            Ok(())
        })?;
    }
    let Writer { mut translated, out, mut table, entry, .. } = writer;
    let mut source = LoneSource::default();
    let all: u64 = translated.sent.exemplars + lone.iter().map(|lone| lone.exemplars).sum::<u64>();
    let attached = exemplars::attach(out, &lone, hostless, &mut table, &mut source)?;
    let rooms = [entry.exemplar_room, source.exemplar_room];
    let kept = attached.kept - source.nothing_left;
    translated.series += kept;
    translated.has_lone_exemplars = kept > 0;
    translated.exemplars = attached.left_out + rooms.iter().map(|room| room.left_out).sum::<u64>();
    translated.sent.exemplars = all - translated.exemplars;
    translated.unknown_fields += rooms.iter().map(|room| room.unknown_fields).sum::<u64>();
    translated.message = table.followed_by(&attached.written);
    Ok(translated)
}

struct Writer<'k, 'a> {
    known: &'k mut KnownMetadata,
    translated: Translated,
    /// All fields of the request but its table.
    out: Vec<u8>,
    table: SymbolTable,
    labels: KnownLabels<'a>,
    entry: Entry<'a>,
    metadata: LastMetadata<'a>,
}

/// The entry at hand.
#[derive(Default)]
struct Entry<'a> {
    /// Labels that are not among the short ones in front.
    more_labels: Vec<Fields<'a>>,
    exemplars: Vec<Fields<'a>>,
    /// As fields of a 2.0 series.
    samples: Vec<u8>,
    histograms: Vec<u8>,
    written_exemplars: Vec<u8>,
    nested: Vec<u8>,
    /// Packed.
    references: Vec<u8>,
    exemplar_room: ExemplarRoom,
}

/// Field 1, length-delimited: a label.
const TAG_LABEL: u8 = 0x0a;

impl<'a> Writer<'_, 'a> {
    /// Keeps the metadata of a request. It belongs to no entry; knowing it twice does no harm.
    fn learn(&mut self, selection: &Selection<'_>) -> Result<(), Malformed> {
        let mut fields = Fields::new(selection.message);
        loop {
            let Some((number, value)) = fields.next_field()? else { return Ok(()) };
            let (3, Value::Bytes(mut content)) = (number, value) else { continue };
            let (mut name, mut metric_type): (&[u8], u64) = (&[], 0);
            let (mut help, mut unit): (&[u8], &[u8]) = (&[], &[]);
            while let Some((number, value)) = content.next_field()? {
                match (number, value) {
                    (1, Value::Varint(value)) => metric_type = value,
                    (2, Value::Bytes(bytes)) => name = bytes.rest(),
                    (4, Value::Bytes(bytes)) => help = bytes.rest(),
                    (5, Value::Bytes(bytes)) => unit = bytes.rest(),
                    (1 | 2 | 4 | 5, _) => return Err(content.wrong_type()),
                    _ => {}
                }
            }
            // As with exemplars: nobody has looked at them.
            if [name, help, unit].iter().all(|text| std::str::from_utf8(text).is_ok()) {
                self.known.learn(name, Metadata { metric_type, help, unit });
            }
        }
    }

    /// Writes an entry, as one or two series. If it has exemplars only, nothing is written, and their number is returned.
    fn series(&mut self, content: Fields<'a>) -> Result<u64, Malformed> {
        let entry = &mut self.entry;
        entry.more_labels.clear();
        entry.exemplars.clear();
        entry.samples.clear();
        entry.histograms.clear();
        let (mut samples, mut histograms, mut unknown_fields) = (0u64, 0u64, 0u64);
        // Nothing of 1.0 is there, so these are unknown, too: a start timestamp nobody meant would be believed.
        let unknown = |behind: Behind| behind.start_timestamp_fields + behind.unknown_fields;
        let mut fields = content;
        // Nearly always these are all labels.
        fields.skip_short(TAG_LABEL);
        let short_len = content.rest().len() - fields.rest().len();
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, Value::Bytes(label)) => entry.more_labels.push(label),
                (2, Value::Bytes(sample)) => {
                    unknown_fields += unknown(put_sample(&mut entry.samples, sample)?);
                    samples += 1;
                }
                (3, Value::Bytes(exemplar)) => entry.exemplars.push(exemplar),
                (4, Value::Bytes(histogram)) => {
                    entry.nested.clear();
                    let (behind, _) = put_histogram_fields(&mut entry.nested, histogram)?;
                    unknown_fields += unknown(behind);
                    put_bytes(&mut entry.histograms, 3, &entry.nested);
                    histograms += 1;
                }
                (1..=4, _) => return Err(fields.wrong_type()),
                _ => unknown_fields += 1,
            }
        }
        self.translated.unknown_fields += unknown_fields;
        let exemplars = entry.exemplars.len() as u64;
        if samples + histograms == 0 {
            self.translated.empty_series += u64::from(exemplars == 0);
            return Ok(exemplars);
        }
        self.write(content, short_len)?;
        self.translated.sent.samples += samples;
        self.translated.sent.histograms += histograms;
        self.translated.sent.exemplars += exemplars;
        Ok(0)
    }

    /// Writes the entry at hand. Its labels are the short ones in front, then the others.
    fn write(&mut self, content: Fields<'a>, short_len: usize) -> Result<(), Malformed> {
        let Writer { known, translated, out, table, labels, entry, metadata } = self;
        entry.references.clear();
        labels.begin();
        let mut short = &content.rest()[..short_len];
        let mut offset = content.offset();
        while let [_, len, rest @ ..] = short {
            let (label, rest) = rest.split_at(usize::from(*len));
            labels.add(label, offset + 2, table, &mut entry.references)?;
            offset += 2 + label.len();
            short = rest;
        }
        for label in &entry.more_labels {
            labels.add(label.rest(), label.offset(), table, &mut entry.references)?;
        }
        entry.written_exemplars.clear();
        for exemplar in &entry.exemplars {
            put_exemplar(*exemplar, &mut entry.exemplar_room, table, &mut entry.written_exemplars)?;
        }
        let metadata = match labels.metric {
            Some(metric) if !known.is_empty() => metadata.of(metric, known, table)?,
            _ => &[],
        };
        // V2-64: never both. Exemplars go where samples are.
        let mut exemplars = &entry.written_exemplars[..];
        for data in [&entry.samples, &entry.histograms] {
            if data.is_empty() {
                continue;
            }
            put_series(out, &entry.references, [data, std::mem::take(&mut exemplars), metadata]);
            translated.series += 1;
        }
        Ok(())
    }
}

fn put_series(out: &mut Vec<u8>, references: &[u8], rest: [&[u8]; 3]) {
    let [data, exemplars, metadata] = rest;
    let rest_len = data.len() + exemplars.len() + metadata.len();
    if !references.is_empty() && references.len() < 0x80 {
        put_head(out, 5, 2 + references.len() + rest_len);
        out.extend_from_slice(&[0x0a, references.len() as u8]);
        out.extend_from_slice(references);
        out.extend_from_slice(data);
        out.extend_from_slice(exemplars);
        out.extend_from_slice(metadata);
    } else {
        let rest = [data, exemplars, metadata].concat();
        put_labels_and_rest(out, 5, references, &rest);
    }
}

/// Room to write an exemplar in.
#[derive(Default)]
struct ExemplarRoom {
    /// Packed.
    references: Vec<u8>,
    /// Value and timestamp.
    rest: Vec<u8>,
    /// Fields that were left out, of all exemplars.
    unknown_fields: u64,
    /// Exemplars that were left out.
    left_out: u64,
}

/// Appends a 1.0 exemplar as field 4 of a 2.0 series. One with labels that are not UTF-8 is left out: nobody looked at those when it was
/// received, and in a table of symbols they could fail the whole request (`V2-77`).
fn put_exemplar(
    mut exemplar: Fields<'_>,
    room: &mut ExemplarRoom,
    table: &mut SymbolTable,
    to: &mut Vec<u8>,
) -> Result<(), Malformed> {
    if !has_text_labels(exemplar)? {
        room.left_out += 1;
        return Ok(());
    }
    let ExemplarRoom { references, rest, unknown_fields, .. } = room;
    rest.clear();
    references.clear();
    while let Some(field) = next_field(&mut exemplar)? {
        match (field.number, field.value) {
            (1, Value::Bytes(label)) => {
                let (name, value) = label_1(label.rest(), label.offset())?;
                for text in [name, value] {
                    encode_varint(u64::from(table.place(text)?), references);
                }
            }
            (2, Value::Fixed64(_)) | (3, Value::Varint(_)) => rest.extend_from_slice(field.bytes),
            (1..=3, _) => return Err(exemplar.wrong_type()),
            _ => *unknown_fields += 1,
        }
    }
    put_labels_and_rest(to, 4, references, rest);
    Ok(())
}

fn has_text_labels(mut exemplar: Fields<'_>) -> Result<bool, Malformed> {
    if exemplar.rest().is_ascii() {
        return Ok(true);
    }
    while let Some((number, value)) = exemplar.next_field()? {
        if let (1, Value::Bytes(label)) = (number, value) {
            let (name, value) = label_1(label.rest(), label.offset())?;
            if std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The labels of one series after the other: most are the same as in the one before, at the same place.
#[derive(Default)]
struct KnownLabels<'a> {
    before: Vec<KnownLabel<'a>>,
    count: usize,
    /// The name of the metric at hand.
    metric: Option<&'a [u8]>,
}

#[derive(Clone, Copy)]
struct KnownLabel<'a> {
    /// As it was written.
    label: &'a [u8],
    name: &'a [u8],
    value: &'a [u8],
    name_place: u32,
    value_place: u32,
    is_metric_name: bool,
}

impl<'a> KnownLabels<'a> {
    fn begin(&mut self) {
        self.count = 0;
        self.metric = None;
    }

    /// Appends the references to the next label, which lies at `offset` in its message.
    #[inline]
    fn add(
        &mut self,
        label: &'a [u8],
        offset: usize,
        table: &mut SymbolTable,
        references: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let known = match self.before.get(self.count) {
            Some(known) if known.label == label => *known,
            before => {
                let (name, value) = label_1(label, offset)?;
                let (name_place, is_metric_name) = match before {
                    Some(before) if before.name == name => (before.name_place, before.is_metric_name),
                    _ => (table.place(name)?, name == METRIC_NAME),
                };
                let value_place = table.place(value)?;
                let known = KnownLabel { label, name, value, name_place, value_place, is_metric_name };
                match self.before.get_mut(self.count) {
                    Some(before) => *before = known,
                    None => self.before.push(known),
                }
                known
            }
        };
        self.count += 1;
        if known.is_metric_name && self.metric.is_none() {
            self.metric = Some(known.value);
        }
        put_reference(references, known.name_place);
        put_reference(references, known.value_place);
        Ok(())
    }
}

/// Appends a packed number.
#[inline]
fn put_reference(to: &mut Vec<u8>, place: u32) {
    match place {
        0..0x80 => to.push(place as u8),
        0x80..0x4000 => to.extend_from_slice(&[place as u8 | 0x80, (place >> 7) as u8]),
        _ => encode_varint(u64::from(place), to),
    }
}

/// The metadata of the metric that was asked for last: its series come one after the other.
#[derive(Default)]
struct LastMetadata<'a> {
    metric: Option<&'a [u8]>,
    /// As a field of a 2.0 series; empty where nothing is known.
    written: Vec<u8>,
    nested: Vec<u8>,
}

impl<'a> LastMetadata<'a> {
    fn of(&mut self, metric: &'a [u8], known: &mut KnownMetadata, table: &mut SymbolTable) -> Result<&[u8], Malformed> {
        if self.metric == Some(metric) {
            return Ok(&self.written);
        }
        self.metric = Some(metric);
        self.written.clear();
        if let Some(Metadata { metric_type, help, unit }) = known.of_metric(metric) {
            self.nested.clear();
            for (number, value) in [(1u64, metric_type), (3, table.place(help)?.into()), (4, table.place(unit)?.into())]
            {
                if value != 0 {
                    encode_varint(number << 3, &mut self.nested);
                    encode_varint(value, &mut self.nested);
                }
            }
            if !self.nested.is_empty() {
                put_bytes(&mut self.written, 5, &self.nested);
            }
        }
        Ok(&self.written)
    }
}

/// Where entries of exemplars are read when all others are written.
#[derive(Default)]
struct LoneSource {
    exemplar_room: ExemplarRoom,
    /// Entries that were to stay as they are and were not written, because none of their exemplars could be.
    nothing_left: u64,
}

impl exemplars::Source for LoneSource {
    fn references(&mut self, lone: &Lone<'_>, table: &SymbolTable, packed: &mut Vec<u8>) -> Result<bool, Malformed> {
        let mut series = lone.series;
        while let Some((number, value)) = series.next_field()? {
            let (1, Value::Bytes(label)) = (number, value) else { continue };
            let (name, value) = label_1(label.rest(), label.offset())?;
            for text in [name, value] {
                let Some(place) = table.find(text) else { return Ok(false) };
                put_reference(packed, place);
            }
        }
        Ok(true)
    }

    fn exemplars(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut series = lone.series;
        while let Some((number, value)) = series.next_field()? {
            if let (3, Value::Bytes(exemplar)) = (number, value) {
                put_exemplar(exemplar, &mut self.exemplar_room, table, to)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut exemplars = Vec::new();
        self.exemplars(lone, table, &mut exemplars)?;
        if exemplars.is_empty() {
            self.nothing_left += 1;
            return Ok(());
        }
        let mut references = Vec::new();
        let mut series = lone.series;
        while let Some((number, value)) = series.next_field()? {
            let (1, Value::Bytes(label)) = (number, value) else { continue };
            let (name, value) = label_1(label.rest(), label.offset())?;
            for text in [name, value] {
                put_reference(&mut references, table.place(text)?);
            }
        }
        put_labels_and_rest(to, 5, &references, &exemplars);
        Ok(())
    }
}
