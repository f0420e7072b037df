//! The walk over `io.prometheus.write.v2.Request`, remote write 2.0 of both generations (`V2-60`).
//!
//! ```text
//! Request      4 symbol*   5 TimeSeries*          1-3 reserved: they are what 1.0 uses
//! TimeSeries   1 label references*, name and value in turn   2 Sample*   3 Histogram*   4 Exemplar*   5 Metadata
//!              6 created timestamp (until rc.3)
//! Sample       1 double value   2 timestamp, ms   3 start timestamp (from rc.4)
//! Exemplar     1 label references*   2 value   3 timestamp
//! Metadata     1 type   3 help reference   4 unit reference
//! ```
//!
//! References point into the table of symbols of the same request, which may stand before or behind the series, in any order (`V2-71`): so two passes. A
//! reference outside of the table makes Prometheus 3.5 drop the connection without an answer: it must not get past us.

use super::labels::{Canonical, Checker, LABELS_MAX, Limits};
use super::wire::{Fields, Malformed, Value, each_varint};
use super::{Offence, Summary, histogram};

/// The symbols and references of the request at hand; kept between requests only for their memory.
#[derive(Debug, Default)]
pub struct Scratch {
    symbols: Vec<Symbol>,
    references: Vec<u32>,
}

impl Scratch {
    /// Gives memory back that only an unusually large request needed.
    pub fn shrink_to(&mut self, symbols: usize) {
        self.symbols.clear();
        self.references.clear();
        self.symbols.shrink_to(symbols);
        self.references.shrink_to(symbols);
    }
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u32,
    len: u32,
    is_utf8: bool,
}

/// More symbols nobody sends in one request; a table of them takes memory beyond what the request itself takes.
pub const SYMBOLS_MAX: usize = 1 << 20;

/// Walks a decompressed request (`V2-04`, `V2-61`). `written_out_max` bounds what its labels would take if they were written out for each series, as in
/// 1.0: a few symbols can be referred to so often that going through them, here or at a target, takes minutes.
///
/// # Errors
/// The bytes are not such a message, or beyond a limit.
pub fn walk(message: &[u8], scratch: &mut Scratch, written_out_max: usize) -> Result<Summary, Malformed> {
    walk_within(message, scratch, written_out_max, &Limits::default())
}

/// The same, where each series must keep to limits.
///
/// # Errors
/// As [`walk`].
pub fn walk_within(
    message: &[u8],
    scratch: &mut Scratch,
    written_out_max: usize,
    limits: &Limits,
) -> Result<Summary, Malformed> {
    let Scratch { symbols, references } = scratch;
    symbols.clear();
    let mut are_utf8 = true;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (4, Value::Bytes(symbol)) if symbols.len() == SYMBOLS_MAX => {
                return Err(Malformed { offset: symbol.offset(), what: "more than 1048576 symbols" });
            }
            (4, Value::Bytes(symbol)) => {
                let is_utf8 = std::str::from_utf8(symbol.rest()).is_ok();
                are_utf8 &= is_utf8;
                symbols.push(Symbol {
                    start: u32::try_from(symbol.offset()).map_err(|_| fields.wrong_type())?,
                    len: u32::try_from(symbol.rest().len()).map_err(|_| fields.wrong_type())?,
                    is_utf8,
                });
            }
            // V2-20: a 1.0 message decodes as an empty 2.0 one. A 2xx would be silent loss.
            (1 | 3, Value::Bytes(_)) => {
                let what = "a remote write 1.0 request where the Content-Type says 2.0, found";
                return Err(Malformed { offset: 0, what });
            }
            (5, Value::Bytes(_)) => {}
            (4 | 5, _) => return Err(fields.wrong_type()),
            _ => {}
        }
    }
    let table = Table { message, symbols, limits: limits.are_set().then_some(limits) };
    let mut written_out_left = written_out_max;
    // V2-69, V2-77. A symbol that is not UTF-8 makes those invalid who refer to it; where nobody does, it still fails the whole request at a
    // target that decodes strictly. Neither is in a table that we write.
    let is_canonical = are_utf8 && symbols.first().is_none_or(|first| first.len == 0);
    let mut summary = Summary { symbols: symbols.len() as u32, is_canonical, ..Summary::default() };
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        if let (5, Value::Bytes(series)) = (number, value) {
            if let Err(offence) = walk_series(series, table, references, &mut written_out_left, &mut summary)? {
                let index = summary.series;
                summary.offences.add(index, offence);
            }
            summary.series += 1;
        }
    }
    Ok(summary)
}

#[derive(Clone, Copy)]
struct Table<'a> {
    message: &'a [u8],
    symbols: &'a [Symbol],
    limits: Option<&'a Limits>,
}

impl<'a> Table<'a> {
    fn symbol(self, reference: u32) -> Result<Symbol, Offence> {
        let symbols = self.symbols.len() as u32;
        self.symbols.get(reference as usize).copied().ok_or(Offence::ReferenceOutOfRange { reference, symbols })
    }

    fn text(self, reference: u32) -> Result<&'a [u8], Offence> {
        let symbol = self.symbol(reference)?;
        if !symbol.is_utf8 {
            return Err(Offence::NotUtf8);
        }
        Ok(&self.message[symbol.start as usize..][..symbol.len as usize])
    }

    /// Bytes of what is referred to.
    fn written_out(self, references: &[u32]) -> usize {
        references.iter().map(|reference| self.symbols.get(*reference as usize).map_or(0, |s| s.len as usize)).sum()
    }

    /// V2-62, V2-70, V2-73, V2-74, V2-75, V2-76, V2-77.
    fn check_labels(self, references: &[u32]) -> Result<Canonical, Offence> {
        let (pairs, []) = references.as_chunks::<2>() else { return Err(Offence::OddReferences) };
        let mut checker = Checker::default();
        for &[name, value] in pairs {
            checker.label(self.text(name)?, self.text(value)?)?;
        }
        let verdict = checker.finish(|| pairs.iter().filter_map(|&[name, _]| self.text(name).ok()))?;
        if let Some(limits) = self.limits {
            limits.check(pairs.iter().filter_map(|&[name, value]| self.text(name).ok().zip(self.text(value).ok())))?;
        }
        Ok(verdict)
    }

    fn check_exemplar(self, references: &[u32]) -> Result<(), Offence> {
        // Only so many were read.
        if references.len() > 2 * LABELS_MAX {
            return Err(Offence::TooManyLabels { limit: LABELS_MAX });
        }
        if !references.len().is_multiple_of(2) {
            return Err(Offence::OddReferences);
        }
        references.iter().try_for_each(|&reference| self.text(reference).map(drop))
    }
}

fn walk_series(
    series: Fields<'_>,
    table: Table<'_>,
    references: &mut Vec<u32>,
    written_out_left: &mut usize,
    summary: &mut Summary,
) -> Result<Result<(), Offence>, Malformed> {
    let mut verdict = Ok(());
    let mut offend = |offence: Result<(), Offence>| {
        if verdict.is_ok() {
            verdict = offence;
        }
    };
    let mut fields = series;
    references.clear();
    let (mut has_samples, mut has_histograms, mut has_exemplars) = (false, false, false);
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (1, value) => each_reference(&fields, value, references)?,
            (2, Value::Bytes(mut sample)) => {
                let mut timestamp = 0;
                while let Some((number, value)) = sample.next_field()? {
                    match (number, value) {
                        (2, Value::Varint(value)) => timestamp = value as i64,
                        (1, Value::Fixed64(_)) | (3, Value::Varint(_)) => {}
                        (1..=3, _) => return Err(sample.wrong_type()),
                        _ => {}
                    }
                }
                summary.timestamp(timestamp);
                summary.samples += 1;
                has_samples = true;
            }
            (3, Value::Bytes(histogram)) => {
                let histogram::Walked { timestamp, problem } = histogram::walk(histogram)?;
                summary.timestamp(timestamp);
                summary.histograms += 1;
                has_histograms = true;
                if let Some(problem) = problem {
                    offend(Err(Offence::Histogram { timestamp, problem }));
                }
            }
            (4, Value::Bytes(_)) => {
                summary.exemplars += 1;
                has_exemplars = true;
            }
            (5, Value::Bytes(mut metadata)) => {
                while let Some((number, value)) = metadata.next_field()? {
                    match (number, value) {
                        (3 | 4, Value::Varint(reference)) => offend(table.text(reference as u32).map(drop)),
                        (1, Value::Varint(_)) => {}
                        (1 | 3 | 4, _) => return Err(metadata.wrong_type()),
                        _ => {}
                    }
                }
            }
            (6, Value::Varint(_)) => {}
            (2..=6, _) => return Err(fields.wrong_type()),
            _ => {}
        }
    }
    // Before anything looks at them: one series alone can be beyond the limit.
    *written_out_left = written_out_left.checked_sub(table.written_out(references)).ok_or(Malformed {
        offset: series.offset(),
        what: "labels that take more than the limit (server.max_decoded) when they are written out",
    })?;
    match table.check_labels(references) {
        Ok(Canonical::Yes) => {}
        Ok(Canonical::No) => summary.is_canonical = false,
        Err(offence) => offend(Err(offence)),
    }
    // V2-64. Neither of them is fine: exemplars come so (V2-63).
    if has_samples && has_histograms {
        offend(Err(Offence::SamplesAndHistograms));
    }
    summary.has_lone_exemplars |= has_exemplars && !has_samples && !has_histograms;
    // The exemplars' references use the same scratch as the labels', so they come in a pass of their own.
    let mut fields = if has_exemplars { series } else { Fields::new(&[]) };
    while let Some((number, value)) = fields.next_field()? {
        let (4, Value::Bytes(mut exemplar)) = (number, value) else { continue };
        references.clear();
        while let Some((number, value)) = exemplar.next_field()? {
            match (number, value) {
                (1, value) => each_reference(&exemplar, value, references)?,
                (2, Value::Fixed64(_)) | (3, Value::Varint(_)) => {}
                (2 | 3, _) => return Err(exemplar.wrong_type()),
                _ => {}
            }
        }
        offend(table.check_exemplar(references));
    }
    Ok(verdict)
}

fn each_reference(at: &Fields<'_>, value: Value<'_>, references: &mut Vec<u32>) -> Result<(), Malformed> {
    each_varint(at, value, |reference| {
        // One more than is allowed is enough to see that there are too many.
        if references.len() <= 2 * LABELS_MAX + 1 {
            references.push(reference as u32);
        }
    })
}
