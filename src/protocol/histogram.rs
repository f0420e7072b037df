//! The rules for a native histogram; the message is the same in both protocols, but for field 17, the start timestamp of 2.0.
//!
//! Prometheus 3.5 answers 500 to an inconsistent histogram and forgets the whole request, so that a sender which trusts it repeats the
//! request for ever. What would fail there must not get past the receiver.
//!
//! ```text
//!  schema -4..8  exponential: spans and buckets of both signs, a zero bucket, no bounds of its own
//!  schema -53    custom bounds: positive spans only, which reach one bucket further than bounds at most
//!  integer       buckets are deltas, their running sum never negative; count = zero bucket + all buckets (more, if the sum is NaN)
//!  float         buckets are absolute, never negative
//! ```
//!
//! One pass, nothing allocated, whatever the order of the fields and however repeated numbers are packed.

use super::wire::{Fields, Malformed, Value, each_double, each_varint, zigzag, zigzag32};

/// What is inconsistent in a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("schema {0} does not exist")]
    Schema(i32),
    #[error("a span has a negative offset")]
    NegativeOffset,
    #[error("spans are for {spans} buckets, there are {buckets}")]
    Spans { spans: u64, buckets: u64 },
    #[error("a bucket is negative")]
    NegativeBucket,
    #[error("the count does not match the buckets")]
    Count,
    #[error("custom bounds in an exponential schema")]
    UnexpectedBounds,
    #[error("custom bounds do not ascend or are not finite")]
    Bounds,
    #[error("zero bucket or negative buckets with custom bounds")]
    CustomWithZeroOrNegative,
}

/// Buckets with bounds of their own.
pub(super) const SCHEMA_CUSTOM: i32 = -53;

/// One sign's spans and buckets.
#[derive(Debug, Default)]
struct Side {
    spans: u64,
    span_count: u64,
    /// Where the last span ends, counted from bucket 0.
    reach: i64,
    starts_negative: bool,
    negative_offset: bool,
    deltas: u64,
    /// Running sum of the deltas: the bucket just read.
    bucket: i64,
    deltas_sum: u128,
    negative_delta_bucket: bool,
    counts: u64,
    negative_count: bool,
}

impl Side {
    fn span(&mut self, span: Fields<'_>) -> Result<(), Malformed> {
        let (offset, length) = read_span(span)?;
        // Only the first offset is absolute.
        self.negative_offset |= self.span_count > 0 && offset < 0;
        self.starts_negative |= offset < 0;
        self.reach = self.reach.saturating_add(i64::from(offset)).saturating_add(i64::from(length));
        self.span_count += 1;
        self.spans += u64::from(length);
        Ok(())
    }

    fn delta(&mut self, delta: i64) {
        self.deltas += 1;
        self.bucket = self.bucket.wrapping_add(delta);
        match u64::try_from(self.bucket) {
            Ok(bucket) => self.deltas_sum += u128::from(bucket),
            Err(_) => self.negative_delta_bucket = true,
        }
    }

    fn count(&mut self, count: f64) {
        self.counts += 1;
        self.negative_count |= count < 0.0;
    }

    fn check(&self, is_float: bool) -> Result<(), Problem> {
        let (buckets, is_negative) =
            if is_float { (self.counts, self.negative_count) } else { (self.deltas, self.negative_delta_bucket) };
        if self.negative_offset {
            return Err(Problem::NegativeOffset);
        }
        if self.spans != buckets {
            return Err(Problem::Spans { spans: self.spans, buckets });
        }
        if is_negative { Err(Problem::NegativeBucket) } else { Ok(()) }
    }
}

/// Offset and length of a span.
pub(super) fn read_span(mut span: Fields<'_>) -> Result<(i32, u32), Malformed> {
    let (mut offset, mut length) = (0, 0);
    while let Some((number, value)) = span.next_field()? {
        match (number, value) {
            (1, Value::Varint(value)) => offset = zigzag32(value),
            (2, Value::Varint(value)) => length = value as u32,
            (1 | 2, _) => return Err(span.wrong_type()),
            _ => {}
        }
    }
    Ok((offset, length))
}

/// A histogram that was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Its timestamp, ms.
    pub timestamp: i64,
    /// What is wrong with it.
    pub problem: Option<Problem>,
}

/// Walks one histogram message.
///
/// # Errors
/// The bytes are not such a message.
pub fn walk(mut fields: Fields<'_>) -> Result<Walked, Malformed> {
    let mut timestamp = 0;
    let mut schema = 0;
    let mut is_float = false;
    let (mut count_int, mut count_float, mut zero_int, mut zero_float) = (0u64, 0f64, 0u64, 0f64);
    let (mut sum, mut zero_threshold) = (0f64, 0f64);
    let (mut negative, mut positive) = (Side::default(), Side::default());
    let mut bounds = Bounds::default();
    while let Some((number, value)) = fields.next_field()? {
        match (number, value) {
            (1, Value::Varint(value)) => (count_int, is_float) = (value, false),
            (2, Value::Fixed64(bits)) => (count_float, is_float) = (f64::from_bits(bits), true),
            (3, Value::Fixed64(bits)) => sum = f64::from_bits(bits),
            (4, Value::Varint(value)) => schema = zigzag32(value),
            (5, Value::Fixed64(bits)) => zero_threshold = f64::from_bits(bits),
            (6, Value::Varint(value)) => (zero_int, zero_float) = (value, 0.0),
            (7, Value::Fixed64(bits)) => (zero_float, zero_int) = (f64::from_bits(bits), 0),
            (8, Value::Bytes(span)) => negative.span(span)?,
            (11, Value::Bytes(span)) => positive.span(span)?,
            (9, value) => each_varint(&fields, value, |delta| negative.delta(zigzag(delta)))?,
            (12, value) => each_varint(&fields, value, |delta| positive.delta(zigzag(delta)))?,
            (10, value) => each_double(&fields, value, |count| negative.count(count))?,
            (13, value) => each_double(&fields, value, |count| positive.count(count))?,
            (15, Value::Varint(value)) => timestamp = value as i64,
            (16, value) => each_double(&fields, value, |bound| bounds.add(bound))?,
            (14 | 17, Value::Varint(_)) => {}
            (1..=8 | 11 | 14 | 15 | 17, _) => return Err(fields.wrong_type()),
            _ => {}
        }
    }
    let check = || {
        match schema {
            SCHEMA_CUSTOM => {
                let has_zero = zero_int != 0 || zero_float != 0.0 || zero_threshold != 0.0;
                if has_zero || negative.span_count + negative.deltas + negative.counts > 0 {
                    return Err(Problem::CustomWithZeroOrNegative);
                }
                if bounds.is_bad {
                    return Err(Problem::Bounds);
                }
                // Bucket n ends at bound n, the last one at infinity.
                if positive.starts_negative {
                    return Err(Problem::NegativeOffset);
                }
                let reach = positive.reach.unsigned_abs();
                if reach > bounds.count + 1 {
                    return Err(Problem::Spans { spans: reach, buckets: bounds.count + 1 });
                }
            }
            -4..=8 if bounds.count > 0 => return Err(Problem::UnexpectedBounds),
            -4..=8 => {}
            _ => return Err(Problem::Schema(schema)),
        }
        negative.check(is_float)?;
        positive.check(is_float)?;
        if is_float {
            return if count_float < 0.0 || zero_float < 0.0 { Err(Problem::NegativeBucket) } else { Ok(()) };
        }
        let in_buckets = u128::from(zero_int) + negative.deltas_sum + positive.deltas_sum;
        // Observations of NaN are in no bucket and make the sum NaN.
        let fits = if sum.is_nan() { in_buckets <= count_int.into() } else { in_buckets == count_int.into() };
        if fits { Ok(()) } else { Err(Problem::Count) }
    };
    Ok(Walked { timestamp, problem: check().err() })
}

#[derive(Debug)]
struct Bounds {
    last: f64,
    count: u64,
    is_bad: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { last: f64::NEG_INFINITY, count: 0, is_bad: false }
    }
}

impl Bounds {
    fn add(&mut self, bound: f64) {
        self.is_bad |= !bound.is_finite() || bound <= self.last;
        self.last = bound;
        self.count += 1;
    }
}
