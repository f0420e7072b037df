//! Series of 2.0 requests whose symbols get new places: references change, and nothing else.
//!
//! ```text
//!   from     "" a b c      in this request                 series [1 2] + rest  -->  [7 3] + rest
//!               7 3 -      and in the table that is written, once it was used
//! ```
//!
//! An old symbol is looked up once, however often it is referred to.

use prost::encoding::{encode_varint, encoded_len_varint};

use super::entries::{REFERENCE_OUT_OF_RANGE, symbols_2};
use super::symbols::SymbolTable;
use super::wire::{Field, Fields, Malformed, Value, each_varint, next_field, put_bytes, put_head};

/// Old symbols, each with its new place once it has been used.
pub(super) type Renumbered<'a> = Vec<(&'a [u8], Option<u32>)>;

/// The symbols of the message at hand, each with its new place once it has been used, and the table where those are.
#[derive(Debug)]
pub(super) struct Symbols<'a, 't> {
    pub from: Renumbered<'a>,
    pub table: &'t mut SymbolTable,
}

impl<'a, 't> Symbols<'a, 't> {
    /// Those of a request, none of them used yet.
    pub fn of(message: &'a [u8], table: &'t mut SymbolTable) -> Result<Symbols<'a, 't>, Malformed> {
        Ok(Symbols { from: symbols_2(message, |symbol| (symbol, None))?, table })
    }

    /// What an old reference stands for.
    pub fn text(&self, reference: u32) -> Option<&'a [u8]> {
        self.from.get(reference as usize).map(|(text, _)| *text)
    }

    /// The new reference for an old one, found before `at`. (A reference has 32 bits: of a longer number the low ones count.)
    #[inline]
    pub fn renumber(&mut self, reference: u64, at: &Fields<'_>) -> Result<u32, Malformed> {
        match self.from.get_mut(reference as u32 as usize) {
            Some((_, Some(place))) => Ok(*place),
            Some((text, place)) => Ok(*place.insert(self.table.place(text)?)),
            None => Err(Malformed { offset: at.offset(), what: REFERENCE_OUT_OF_RANGE }),
        }
    }

    /// Appends the new ones for label references, packed or not.
    fn renumber_labels(&mut self, at: &Fields<'_>, value: Value<'_>, packed: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut result = Ok(());
        each_varint(at, value, |reference| match self.renumber(reference, at) {
            Ok(place) => encode_varint(u64::from(place), packed),
            Err(error) => result = Err(error),
        })?;
        result
    }
}

/// The entry being built: lengths stand in front, and are only known when all behind them is.
#[derive(Default)]
pub(super) struct EntryBuffer {
    /// Packed label references, of the series and of an exemplar.
    labels: Vec<u8>,
    exemplar_labels: Vec<u8>,
    /// Everything else of the series, and of an exemplar or metadata.
    rest: Vec<u8>,
    nested_rest: Vec<u8>,
}

impl EntryBuffer {
    /// Appends a series with new references to a request. Label references come first and packed, or `labels` (new ones, packed) in their
    /// place; all else keeps its order.
    pub fn renumber_series(
        &mut self,
        mut series: Fields<'_>,
        labels: Option<&[u8]>,
        symbols: &mut Symbols<'_, '_>,
        rebuilt: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        self.labels.clear();
        self.rest.clear();
        while let Some(Field { number, value, bytes }) = next_field(&mut series)? {
            match (number, value) {
                (1, _) if labels.is_some() => {}
                (1, value) => symbols.renumber_labels(&series, value, &mut self.labels)?,
                (4, Value::Bytes(exemplar)) => self.renumber_exemplar(exemplar, symbols)?,
                (5, Value::Bytes(metadata)) => self.renumber_metadata(metadata, symbols)?,
                (4 | 5, _) => return Err(series.wrong_type()),
                _ => self.rest.extend_from_slice(bytes),
            }
        }
        put_labels_and_rest(rebuilt, 5, labels.unwrap_or(&self.labels), &self.rest);
        Ok(())
    }

    /// Appends the exemplars of a series, and nothing else of it.
    pub fn renumber_exemplars(
        &mut self,
        mut series: Fields<'_>,
        symbols: &mut Symbols<'_, '_>,
        to: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        self.rest.clear();
        while let Some((number, value)) = series.next_field()? {
            match (number, value) {
                (4, Value::Bytes(exemplar)) => self.renumber_exemplar(exemplar, symbols)?,
                (4, _) => return Err(series.wrong_type()),
                _ => {}
            }
        }
        to.extend_from_slice(&self.rest);
        Ok(())
    }

    fn renumber_exemplar<'a>(
        &mut self,
        mut exemplar: Fields<'a>,
        symbols: &mut Symbols<'_, '_>,
    ) -> Result<(), Malformed> {
        self.exemplar_labels.clear();
        self.nested_rest.clear();
        while let Some(Field { number, value, bytes }) = next_field(&mut exemplar)? {
            match number {
                1 => symbols.renumber_labels(&exemplar, value, &mut self.exemplar_labels)?,
                _ => self.nested_rest.extend_from_slice(bytes),
            }
        }
        put_labels_and_rest(&mut self.rest, 4, &self.exemplar_labels, &self.nested_rest);
        Ok(())
    }

    /// A reference that is not written is 0 to every decoder, and stays so: no text.
    fn renumber_metadata<'a>(
        &mut self,
        mut metadata: Fields<'a>,
        symbols: &mut Symbols<'_, '_>,
    ) -> Result<(), Malformed> {
        self.nested_rest.clear();
        while let Some(Field { number, value, bytes }) = next_field(&mut metadata)? {
            match (number, value) {
                (3 | 4, Value::Varint(reference)) => {
                    let place = symbols.renumber(reference, &metadata)?;
                    encode_varint(u64::from(number) << 3, &mut self.nested_rest);
                    encode_varint(u64::from(place), &mut self.nested_rest);
                }
                (3 | 4, _) => return Err(metadata.wrong_type()),
                _ => self.nested_rest.extend_from_slice(bytes),
            }
        }
        put_bytes(&mut self.rest, 5, &self.nested_rest);
        Ok(())
    }
}

/// Appends a message of packed label references, which are field 1 of it, and of other fields.
pub(super) fn put_labels_and_rest(to: &mut Vec<u8>, number: u32, labels: &[u8], rest: &[u8]) {
    let labels_head_len = if labels.is_empty() { 0 } else { 1 + encoded_len_varint(labels.len() as u64) };
    put_head(to, number, labels_head_len + labels.len() + rest.len());
    if !labels.is_empty() {
        put_bytes(to, 1, labels);
    }
    to.extend_from_slice(rest);
}
