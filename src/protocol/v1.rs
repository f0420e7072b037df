//! The walk over `prometheus.WriteRequest`, remote write 1.0 as Prometheus really sends it (`V1-01`).
//!
//! ```text
//! WriteRequest   1 TimeSeries*   3 MetricMetadata*
//! TimeSeries     1 Label*   2 Sample*   3 Exemplar*   4 Histogram*
//! Label          1 name   2 value           Sample     1 double value   2 int64 timestamp, ms
//! Exemplar       1 Label*   2 value   3 timestamp
//! MetricMetadata 1 type   2 metric family name   4 help   5 unit
//! ```
//!
//! The labels of a series nearly always come first and without a gap. Then their bytes are hashed as they are, and a series that was
//! found valid before is not checked again. Each look-up in the table of those is a cache miss; they are put off until there are a
//! few, which then run side by side (a quarter of the walk's time, measured).

use super::labels::{Canonical, Checker, Limits, SeenLabels};
use super::wire::{Fields, Malformed, Value};
use super::{Offence, Summary, histogram};

/// Walks a decompressed request. Timestamps are ms with a sign, values are only passed by (`V1-04`).
///
/// # Errors
/// The bytes are not such a message.
pub fn walk(message: &[u8], seen: &SeenLabels) -> Result<Summary, Malformed> {
    let mut summary = Summary::default();
    let mut fields = Fields::new(message);
    let mut looks_like_2 = false;
    let mut put_off = PutOff { checks: [Check { hash: 0, series: fields, index: 0 }; PUT_OFF_MAX], len: 0 };
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (1, Value::Bytes(series)) => {
                let index = summary.series;
                match walk_series(series, seen, &mut summary)? {
                    Labels::ToLookUp(hash) => put_off.add(Check { hash, series, index }, seen, &mut summary)?,
                    Labels::Checked(Ok(())) => {}
                    Labels::Checked(Err(offence)) => summary.offences.add(index, offence),
                }
                summary.series += 1;
            }
            (3, Value::Bytes(mut metadata)) => {
                while let Some((number, value)) = metadata.next_field()? {
                    match (number, value) {
                        (1, Value::Varint(_)) | (2 | 4 | 5, Value::Bytes(_)) => {}
                        (1 | 2 | 4 | 5, _) => return Err(metadata.wrong_type()),
                        _ => {}
                    }
                }
                summary.metadata += 1;
            }
            (1 | 3, _) => return Err(fields.wrong_type()),
            (4 | 5, Value::Bytes(_)) => looks_like_2 = true,
            _ => {}
        }
    }
    put_off.settle(seen, &mut summary)?;
    // V2-20: the two messages share no field, so one decodes as an empty one of the other kind. A 2xx would be silent loss.
    if looks_like_2 && summary.series == 0 && summary.metadata == 0 {
        let what = "a remote write 2.0 request where the Content-Type says 1.0, found";
        return Err(Malformed { offset: 0, what });
    }
    Ok(summary)
}

/// So many look-ups run side by side.
const PUT_OFF_MAX: usize = 32;

/// Label sets that are still to be looked up.
struct PutOff<'a> {
    checks: [Check<'a>; PUT_OFF_MAX],
    len: usize,
}

#[derive(Clone, Copy)]
struct Check<'a> {
    hash: u64,
    series: Fields<'a>,
    index: u32,
}

impl<'a> PutOff<'a> {
    fn add(&mut self, check: Check<'a>, seen: &SeenLabels, summary: &mut Summary) -> Result<(), Malformed> {
        self.checks[self.len] = check;
        self.len += 1;
        if self.len == PUT_OFF_MAX { self.settle(seen, summary) } else { Ok(()) }
    }

    /// First all look-ups, with nothing between them that would wait for one; then what they did not find.
    fn settle(&mut self, seen: &SeenLabels, summary: &mut Summary) -> Result<(), Malformed> {
        let checks = &self.checks[..std::mem::take(&mut self.len)];
        let mut is_known = [false; PUT_OFF_MAX];
        for (is_known, check) in is_known.iter_mut().zip(checks) {
            *is_known = seen.contains(check.hash);
        }
        for (_, check) in is_known.iter().zip(checks).filter(|(is_known, _)| !**is_known) {
            match check_labels(check.series, seen.limits())? {
                Ok(Canonical::Yes) => seen.insert(check.hash),
                Ok(Canonical::No) => summary.is_canonical = false,
                Err(offence) => summary.offences.add(check.index, offence),
            }
        }
        Ok(())
    }
}

/// How far a series' labels are.
enum Labels {
    /// They come first: this is their hash.
    ToLookUp(u64),
    /// Judged, or the series is invalid anyway.
    Checked(Result<(), Offence>),
}

fn walk_series(series: Fields<'_>, seen: &SeenLabels, summary: &mut Summary) -> Result<Labels, Malformed> {
    let mut fields = series;
    // The labels at the front, if that is where all of them are.
    fields.skip_short(TAG_LABEL);
    while fields.rest().first() == Some(&TAG_LABEL) {
        fields.next_field()?;
    }
    let labels_len = series.rest().len() - fields.rest().len();
    let mut are_in_front = true;
    let mut problem = None;
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (2, Value::Bytes(sample)) => {
                summary.timestamp(walk_sample(sample)?);
                summary.samples += 1;
            }
            (1, Value::Bytes(_)) => are_in_front = false,
            (3, Value::Bytes(exemplar)) => {
                if !walk_exemplar(exemplar)? {
                    problem = problem.or(Some(Problem::ExemplarNotUtf8));
                }
                summary.exemplars += 1;
            }
            (4, Value::Bytes(histogram)) => {
                let walked = histogram::walk(histogram)?;
                summary.timestamp(walked.timestamp);
                summary.histograms += 1;
                problem = problem.or(walked.problem.map(|problem| Problem::Histogram(walked.timestamp, problem)));
            }
            (1..=4, _) => return Err(fields.wrong_type()),
            _ => {}
        }
    }
    if let Some(problem) = problem {
        return Ok(Labels::Checked(Err(problem.offence())));
    }
    if are_in_front {
        return Ok(Labels::ToLookUp(seen.hash(&series.rest()[..labels_len])));
    }
    let verdict = check_labels(series, seen.limits())?;
    Ok(Labels::Checked(verdict.map(|canonical| summary.is_canonical &= canonical == Canonical::Yes)))
}

/// What makes a series invalid before its labels are looked at.
#[derive(Clone, Copy)]
enum Problem {
    Histogram(i64, histogram::Problem),
    ExemplarNotUtf8,
}

impl Problem {
    #[cold]
    fn offence(self) -> Offence {
        match self {
            Problem::Histogram(timestamp, problem) => Offence::Histogram { timestamp, problem },
            Problem::ExemplarNotUtf8 => Offence::NotUtf8,
        }
    }
}

/// Field 1, length-delimited.
const TAG_LABEL: u8 = 0x0a;

fn check_labels(series: Fields<'_>, limits: &Limits) -> Result<Result<Canonical, Offence>, Malformed> {
    // Most series are ASCII throughout, lengths and tags included: one pass instead of one per string.
    let is_ascii = series.rest().is_ascii();
    let mut checker = Checker::default();
    let mut fields = series;
    while let Some((number, value)) = fields.next_field()? {
        let (1, Value::Bytes(label)) = (number, value) else { continue };
        let (name, value) = walk_label(label)?;
        if !is_ascii && (std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err()) {
            return Ok(Err(Offence::NotUtf8));
        }
        if let Err(offence) = checker.label(name, value) {
            return Ok(Err(offence));
        }
    }
    let verdict = checker.finish(|| labels(series).map(|(name, _)| name));
    if limits.are_set() {
        return Ok(verdict.and_then(|canonical| limits.check(labels(series)).map(|()| canonical)));
    }
    Ok(verdict)
}

/// A series' labels; the walk has shown that they can be read.
fn labels(mut series: Fields<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        while let Ok(Some((number, value))) = series.next_field() {
            if let (1, Value::Bytes(label)) = (number, value) {
                return walk_label(label).ok();
            }
        }
        None
    })
}

fn walk_label(mut label: Fields<'_>) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut name, mut text): (&[u8], &[u8]) = (&[], &[]);
    while let Some((number, value)) = label.next_field()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = bytes.rest(),
            (2, Value::Bytes(bytes)) => text = bytes.rest(),
            (1 | 2, _) => return Err(label.wrong_type()),
            _ => {}
        }
    }
    Ok((name, text))
}

fn walk_sample(mut sample: Fields<'_>) -> Result<i64, Malformed> {
    // As every sender writes it: the value, then the timestamp.
    if let [0x09, _, _, _, _, _, _, _, _, 0x10, timestamp @ ..] = sample.rest() {
        let mut timestamp = Fields::new(timestamp);
        if let Ok(value) = timestamp.varint()
            && timestamp.is_empty()
        {
            return Ok(value as i64);
        }
    }
    let mut timestamp = 0;
    while let Some((number, value)) = sample.next_field()? {
        match (number, value) {
            (1, Value::Fixed64(_)) => {}
            (2, Value::Varint(value)) => timestamp = value as i64,
            (1 | 2, _) => return Err(sample.wrong_type()),
            _ => {}
        }
    }
    Ok(timestamp)
}

/// Whether all its labels are UTF-8: if not, a target that decodes strictly fails on the whole request.
fn walk_exemplar(mut exemplar: Fields<'_>) -> Result<bool, Malformed> {
    let mut is_utf8 = true;
    while let Some((number, value)) = exemplar.next_field()? {
        match (number, value) {
            (1, Value::Bytes(label)) => {
                let (name, value) = walk_label(label)?;
                is_utf8 &= std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok();
            }
            (2, Value::Fixed64(_)) | (3, Value::Varint(_)) => {}
            (1..=3, _) => return Err(exemplar.wrong_type()),
            _ => {}
        }
    }
    Ok(is_utf8)
}
