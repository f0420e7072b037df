//! A histogram with custom buckets as the classic series that it was made of.
//!
//! ```text
//!  foo{job="x"}, bounds 0.5 1, buckets 3 1 2     foo_bucket{job="x", le="0.5"} 3   foo_bucket{.. le="1.0"} 4   foo_bucket{.. le="+Inf"} 6
//!                                                foo_count{job="x"} 6              foo_sum{job="x"} ..
//! ```
//!
//! Buckets are cumulative, also over those that a gap leaves out, and the last one is the count: observations of NaN are in no bucket of
//! the histogram, but in that one. A stale marker marks the end of all series that the histogram before it became, if that is known
//! ([`CustomSeries`](super::CustomSeries)), else of those that its own bounds name; of `_bucket{le="+Inf"}`, `_count` and `_sum` at least.
//!
//! An exemplar goes to the bucket that its value fell into, one of NaN to the last.

use std::ops::Range;

use super::super::histogram::read_span;
use super::super::labels::METRIC_NAME;
use super::super::text::STALE;
use super::super::wire::{Fields, Malformed, Value, each_double, each_varint, zigzag};
use super::bound;
use super::sample::put_plain_sample;
use super::series::{LABEL_OVERHEAD, SERIES_HEAD_LEN, put_label, put_series_head};

/// The bucket's bound.
const BOUND_NAME: &[u8] = b"le";

/// What a series takes beside its labels: its head, the label `le`, what is put behind the name, and a sample.
const SERIES_LEN_MAX: usize = 100;

/// The histogram at hand; kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    labels: Labels,
    spans: Vec<(i32, u32)>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
    bounds: Vec<f64>,
    bound: String,
    count: f64,
    sum: u64,
    timestamp: u64,
    is_float: bool,
    /// Exemplars by the bucket that they fell into.
    placed: Vec<(usize, Range<usize>)>,
}

/// Of the histogram's series.
#[derive(Debug, Default)]
struct Labels {
    /// Encoded, in order: what stands before the metric's name, and what behind it, without `le`; and where in the latter `le` goes.
    before_name: Vec<u8>,
    behind_name: Vec<u8>,
    bound_at: usize,
    /// With `le`, should the histogram have such a label itself.
    behind_name_whole: Vec<u8>,
    name: Vec<u8>,
    suffixed: Vec<u8>,
}

impl Labels {
    fn turn_to<'a>(&mut self, labels: impl Iterator<Item = [&'a [u8]; 2]>) {
        self.before_name.clear();
        self.behind_name.clear();
        self.behind_name_whole.clear();
        self.name.clear();
        let mut has_name = false;
        let mut bound_at = None;
        for [name, value] in labels {
            if name == METRIC_NAME {
                has_name = true;
                self.name.extend_from_slice(value);
            } else if !has_name && name < METRIC_NAME {
                put_label(&mut self.before_name, name, value);
            } else {
                if name >= BOUND_NAME && bound_at.is_none() {
                    bound_at = Some(self.behind_name.len());
                }
                if name != BOUND_NAME {
                    put_label(&mut self.behind_name, name, value);
                }
                put_label(&mut self.behind_name_whole, name, value);
            }
        }
        self.bound_at = bound_at.unwrap_or(self.behind_name.len());
    }

    /// Begins a series: leaves room for its head, and writes its labels.
    fn begin(&mut self, out: &mut Vec<u8>, suffix: &[u8], bound: Option<&str>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; SERIES_HEAD_LEN]);
        out.extend_from_slice(&self.before_name);
        self.suffixed.clear();
        self.suffixed.extend_from_slice(&self.name);
        self.suffixed.extend_from_slice(suffix);
        put_label(out, METRIC_NAME, &self.suffixed);
        if let Some(bound) = bound {
            let (before, behind) = self.behind_name.split_at(self.bound_at);
            out.extend_from_slice(before);
            put_label(out, BOUND_NAME, bound.as_bytes());
            out.extend_from_slice(behind);
        } else {
            out.extend_from_slice(&self.behind_name_whole);
        }
        start
    }

    /// What they take in one of the series, at most.
    fn len(&self) -> usize {
        self.before_name.len() + self.behind_name_whole.len() + self.name.len() + 2 * LABEL_OVERHEAD
    }
}

impl Scratch {
    /// Turns to the histograms of a series with these labels, which are sorted.
    pub fn turn_to<'a>(&mut self, labels: impl Iterator<Item = [&'a [u8]; 2]>) {
        self.labels.turn_to(labels);
    }

    /// Reads a histogram.
    pub fn read(&mut self, mut histogram: Fields<'_>) -> Result<(), Malformed> {
        self.spans.clear();
        self.deltas.clear();
        self.counts.clear();
        self.bounds.clear();
        (self.count, self.sum, self.timestamp, self.is_float) = (0.0, 0, 0, false);
        while let Some((number, value)) = histogram.next_field()? {
            match (number, value) {
                (1, Value::Varint(count)) => (self.count, self.is_float) = (count as f64, false),
                (2, Value::Fixed64(bits)) => (self.count, self.is_float) = (f64::from_bits(bits), true),
                (3, Value::Fixed64(bits)) => self.sum = bits,
                (11, Value::Bytes(span)) => self.spans.push(read_span(span)?),
                (12, value) => each_varint(&histogram, value, |delta| self.deltas.push(zigzag(delta)))?,
                (13, value) => each_double(&histogram, value, |count| self.counts.push(count))?,
                (15, Value::Varint(timestamp)) => self.timestamp = timestamp,
                (16, value) => each_double(&histogram, value, |bound| self.bounds.push(bound))?,
                (1..=3 | 11 | 15, _) => return Err(histogram.wrong_type()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The bounds of what was read.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// What was read has these bounds, whatever it says.
    pub fn set_bounds(&mut self, bounds: impl Iterator<Item = f64>) {
        self.bounds.clear();
        self.bounds.extend(bounds);
    }

    /// How many bytes so many series take, at most, without exemplars.
    pub fn len_of(&self, series: usize) -> usize {
        series.saturating_mul(self.labels.len() + SERIES_LEN_MAX)
    }

    /// Finds the bucket of each exemplar.
    fn place(&mut self, places: &[(f64, Range<usize>)]) {
        let bounds = &self.bounds;
        let bucket = |value: f64| {
            if value.is_nan() { bounds.len() } else { bounds.partition_point(|bound| *bound < value) }
        };
        self.placed.clear();
        self.placed.extend(places.iter().map(|(value, range)| (bucket(*value), range.clone())));
        // Stable: those of one bucket stay in order.
        self.placed.sort_by_key(|(bucket, _)| *bucket);
    }

    /// Appends only `exemplars` to a request, each in the series of the bucket that it fell into. Returns how many series there are.
    pub fn write_exemplars(&mut self, out: &mut Vec<u8>, exemplars: &[u8], places: &[(f64, Range<usize>)]) -> u64 {
        self.place(places);
        let placed = std::mem::take(&mut self.placed);
        let mut series = 0;
        for of_bucket in placed.chunk_by(|one, other| one.0 == other.0) {
            let upper = self.bounds.get(of_bucket[0].0).copied().unwrap_or(f64::INFINITY);
            self.bound.clear();
            bound::write(&mut self.bound, upper);
            let start = self.labels.begin(out, b"_bucket", Some(&self.bound));
            for (_, range) in of_bucket {
                out.extend_from_slice(&exemplars[range.clone()]);
            }
            put_series_head(out, start);
            series += 1;
        }
        self.placed = placed;
        series
    }

    /// Appends the series of the histogram that was read to a request, and to its buckets those `exemplars` that fell into them: fields of
    /// a series, each with its value. Returns how many series there are.
    pub fn write(&mut self, out: &mut Vec<u8>, exemplars: &[u8], places: &[(f64, Range<usize>)]) -> u64 {
        self.place(places);
        let is_stale = self.sum == STALE;
        let bits = |value: f64| if is_stale { STALE } else { value.to_bits() };
        let mut buckets = Buckets::of(&self.spans, if self.is_float { self.counts.len() } else { self.deltas.len() });
        let (mut delta_sum, mut in_buckets, mut cumulative) = (0i64, 0u64, 0f64);
        let mut placed = self.placed.iter().peekable();
        let bounds = std::mem::take(&mut self.bounds);
        for (index, upper) in bounds.iter().copied().chain([f64::INFINITY]).enumerate() {
            if let Some(bucket) = buckets.at(index as u64) {
                if self.is_float {
                    cumulative += self.counts[bucket];
                } else {
                    // Exact for as long as floats are.
                    delta_sum = delta_sum.wrapping_add(self.deltas[bucket]);
                    in_buckets = in_buckets.saturating_add(u64::try_from(delta_sum).unwrap_or(0));
                    cumulative = in_buckets as f64;
                }
            }
            let is_last = index == bounds.len();
            self.bound.clear();
            bound::write(&mut self.bound, upper);
            let start = self.labels.begin(out, b"_bucket", Some(&self.bound));
            put_plain_sample(out, bits(if is_last { self.count } else { cumulative }), self.timestamp);
            while let Some((_, range)) = placed.next_if(|(bucket, _)| *bucket == index) {
                out.extend_from_slice(&exemplars[range.clone()]);
            }
            put_series_head(out, start);
        }
        for (suffix, bits) in [(&b"_count"[..], bits(self.count)), (b"_sum", self.sum)] {
            let start = self.labels.begin(out, suffix, None);
            put_plain_sample(out, bits, self.timestamp);
            put_series_head(out, start);
        }
        let series = bounds.len() as u64 + 3;
        self.bounds = bounds;
        series
    }
}

/// Which of the counts is a bucket's.
struct Buckets<'a> {
    spans: std::slice::Iter<'a, (i32, u32)>,
    /// The bucket that the next count is of, and how many come without a gap.
    next: i64,
    run: u32,
    count: usize,
    taken: usize,
}

impl Buckets<'_> {
    fn of(spans: &[(i32, u32)], count: usize) -> Buckets<'_> {
        Buckets { spans: spans.iter(), next: 0, run: 0, count, taken: 0 }
    }

    /// Called for each bucket in turn.
    fn at(&mut self, index: u64) -> Option<usize> {
        while self.run == 0 {
            let (offset, length) = self.spans.next()?;
            self.next = self.next.saturating_add(i64::from(*offset));
            self.run = *length;
        }
        if self.taken == self.count || i64::try_from(index) != Ok(self.next) {
            return None;
        }
        self.next += 1;
        self.run -= 1;
        self.taken += 1;
        Some(self.taken - 1)
    }
}
