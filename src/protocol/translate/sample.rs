//! Samples and histograms: the same fields in both protocols (`V1-04`, `V2-61`), but for the start timestamps of 2.0.

use prost::encoding::encode_varint;

use super::super::histogram::SCHEMA_CUSTOM;
use super::super::text::STALE;
use super::super::wire::{Fields, Malformed, Value, next_field, put_bytes, zigzag32};

/// Field 2 of a series in both protocols, length-delimited.
const TAG_SAMPLE: u8 = 0x12;

/// What of a sample or histogram is not in both protocols.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behind {
    /// The start timestamp; 0 is none (`V2-85`).
    pub start_timestamp: u64,
    /// Fields of that number: one, or none.
    pub start_timestamp_fields: u64,
    /// Fields of numbers that neither protocol has.
    pub unknown_fields: u64,
}

impl Behind {
    fn field(&mut self, number: u32, start_timestamp: u32, value: Value<'_>) {
        if number == start_timestamp {
            self.start_timestamp_fields += 1;
            if let Value::Varint(value) = value {
                self.start_timestamp = value;
            }
        } else {
            self.unknown_fields += 1;
        }
    }
}

/// Appends a sample as field 2: value and timestamp.
#[inline]
pub(super) fn put_sample(to: &mut Vec<u8>, sample: Fields<'_>) -> Result<Behind, Malformed> {
    // As nearly every sender writes it: the value, then the timestamp.
    let bytes = sample.rest();
    if let [0x09, _, _, _, _, _, _, _, _, 0x10, timestamp @ ..] = bytes
        && is_one_varint(timestamp)
    {
        // The length fits into one byte.
        to.extend_from_slice(&[TAG_SAMPLE, bytes.len() as u8]);
        to.extend_from_slice(bytes);
        return Ok(Behind::default());
    }
    put_any_sample(to, sample)
}

/// Whether these bytes are a number, and nothing else.
#[inline]
fn is_one_varint(bytes: &[u8]) -> bool {
    let Some((last, others)) = bytes.split_last() else { return false };
    others.len() < 9 && *last < 0x80 && others.iter().all(|byte| *byte >= 0x80)
}

fn put_any_sample(to: &mut Vec<u8>, mut sample: Fields<'_>) -> Result<Behind, Malformed> {
    let (mut bits, mut timestamp) = (0, 0);
    let mut behind = Behind::default();
    while let Some((number, value)) = sample.next_field()? {
        match (number, value) {
            (1, Value::Fixed64(value)) => bits = value,
            (2, Value::Varint(value)) => timestamp = value,
            (1 | 2, _) => return Err(sample.wrong_type()),
            _ => behind.field(number, 3, value),
        }
    }
    put_plain_sample(to, bits, timestamp);
    Ok(behind)
}

/// Appends a sample made of a value's bits and a timestamp.
pub(super) fn put_plain_sample(to: &mut Vec<u8>, bits: u64, timestamp: u64) {
    let mut content = [0; 20];
    let mut len = 0;
    // 0 is not on the wire, as everybody writes it; -0 is another value.
    if bits != 0 {
        content[0] = 0x09;
        content[1..9].copy_from_slice(&u64::to_le_bytes(bits));
        len = 9;
    }
    if timestamp != 0 {
        content[len] = 0x10;
        len += 1;
        let mut rest = &mut content[len..];
        encode_varint(timestamp, &mut rest);
        len = 20 - rest.len();
    }
    put_bytes(to, 2, &content[..len]);
}

/// Appends the fields of a histogram that both protocols have (1 to 16), as they are. Also tells what kind of histogram it is.
pub(super) fn put_histogram_fields(to: &mut Vec<u8>, mut histogram: Fields<'_>) -> Result<(Behind, Kind), Malformed> {
    let mut behind = Behind::default();
    let mut kind = Kind::default();
    while let Some(field) = next_field(&mut histogram)? {
        match (field.number, field.value) {
            (4, Value::Varint(schema)) => {
                kind.is_custom = zigzag32(schema) == SCHEMA_CUSTOM;
                to.extend_from_slice(field.bytes);
            }
            (3, Value::Fixed64(sum)) => {
                kind.is_stale = sum == STALE;
                to.extend_from_slice(field.bytes);
            }
            (1..=16, _) => to.extend_from_slice(field.bytes),
            _ => behind.field(field.number, 17, field.value),
        }
    }
    Ok((behind, kind))
}

/// What kind of histogram one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    /// Its buckets have bounds of their own.
    pub is_custom: bool,
    /// It is none, but marks the end of its series. (Prometheus writes such a marker without schema and bounds, whatever the series had.)
    pub is_stale: bool,
}
