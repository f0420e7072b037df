//! The wire format of protobuf, as far as a reader needs it.
//!
//! ```text
//! message = field*        field = tag value        tag = varint(number << 3 | type)
//! type 0 varint | 1 eight bytes | 2 length-delimited | 3, 4 group (obsolete; skipped whole) | 5 four bytes
//! ```
//!
//! Here is what reads it, and below the few lines that write it.
//!
//! Fields may come in any order, repeated scalars packed or not, and unknown ones are skipped (`V1-12`, `V1-15`, `V2-56`).

use prost::encoding::encode_varint;

/// Where bytes stop being a protobuf message of the expected schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} of the decompressed message")]
pub struct Malformed {
    /// Bytes from the start of the decompressed message.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Type 0.
    Varint(u64),
    /// Type 1.
    Fixed64(u64),
    /// Type 2.
    Bytes(Fields<'a>),
    /// Type 5.
    Fixed32(u32),
    /// Types 3 and 4: skipped.
    Group,
}

/// The fields of a message, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    /// Of `bytes` in the whole message.
    offset: usize,
}

/// Groups within groups; deeper ones are refused.
const GROUP_DEPTH_MAX: usize = 100;

impl<'a> Fields<'a> {
    /// Of a whole message.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { bytes: message, offset: 0 }
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where what is left begins in the whole message.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A part of what is left, as [`Fields`] of its own.
    ///
    /// # Panics
    /// It reaches beyond the end.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Fields<'a> {
        Fields { offset: self.offset + range.start, bytes: &self.bytes[range] }
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { offset: self.offset, what }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<Fields<'a>, Malformed> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.malformed("a value reaches beyond the end"));
        };
        let taken = Fields { bytes: taken, offset: self.offset };
        self.bytes = rest;
        self.offset += len;
        Ok(taken)
    }

    /// A varint: at most ten bytes, of which the tenth holds one bit.
    ///
    /// # Errors
    /// It is cut or too long.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&byte, rest)) = self.bytes.split_first()
            && byte < 0x80
        {
            self.bytes = rest;
            self.offset += 1;
            return Ok(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (n, &byte) in self.bytes.iter().take(10).enumerate() {
            if n == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                self.bytes = &self.bytes[n + 1..];
                self.offset += n + 1;
                return Ok(value);
            }
        }
        Err(self.malformed(if self.bytes.len() < 10 { "a number is cut" } else { "a number has more than 64 bits" }))
    }

    /// A fixed 64-bit value.
    ///
    /// # Errors
    /// It is cut.
    #[inline]
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        let taken = self.take(8)?;
        Ok(u64::from_le_bytes(taken.bytes.try_into().expect("eight bytes were taken")))
    }

    /// A length and as many bytes.
    ///
    /// # Errors
    /// It is cut.
    #[inline]
    pub fn delimited(&mut self) -> Result<Fields<'a>, Malformed> {
        let len = self.varint()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Skips length-delimited fields with this tag for as long as they are shorter than 128 bytes and whole: the others are for
    /// [`Fields::next_field`].
    #[inline]
    pub fn skip_short(&mut self, tag: u8) {
        let before = self.bytes;
        while let [first, len @ 0..0x80, rest @ ..] = self.bytes
            && *first == tag
            && let Some(rest) = rest.get(usize::from(*len)..)
        {
            self.bytes = rest;
        }
        self.offset += before.len() - self.bytes.len();
    }

    /// The next field's number and value; `None` at the end.
    ///
    /// # Errors
    /// The bytes are not a field.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = *self;
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed64()?),
            2 => Value::Bytes(self.delimited()?),
            3 => {
                self.skip_group(number, GROUP_DEPTH_MAX)?;
                Value::Group
            }
            5 => {
                let taken = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes(taken.bytes.try_into().expect("four bytes were taken")))
            }
            4 => return Err(start.malformed("the end of a group that did not begin")),
            _ => return Err(start.malformed("an unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    /// A field's number and wire type.
    #[inline]
    fn tag(&mut self) -> Result<(u32, u64), Malformed> {
        let start = *self;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| start.malformed("a field number out of range"))?;
        Ok((number, tag & 7))
    }

    fn skip_group(&mut self, group: u32, depth: usize) -> Result<(), Malformed> {
        loop {
            let start = *self;
            let (number, wire_type) = self.tag()?;
            match wire_type {
                4 if number == group => return Ok(()),
                3 if depth == 0 => return Err(start.malformed("groups are nested too deeply")),
                3 => self.skip_group(number, depth - 1)?,
                _ => {
                    // Any other field, or an error.
                    *self = start;
                    self.next_field()?;
                }
            }
        }
    }

    /// The error for a known field that came with another wire type than its schema's.
    #[must_use]
    pub fn wrong_type(&self) -> Malformed {
        self.malformed("a known field with a wrong wire type, before here")
    }
}

/// A repeated varint, packed or not.
pub(super) fn each_varint(at: &Fields<'_>, value: Value<'_>, mut take: impl FnMut(u64)) -> Result<(), Malformed> {
    match value {
        Value::Varint(value) => take(value),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                take(packed.varint()?);
            }
        }
        _ => return Err(at.wrong_type()),
    }
    Ok(())
}

/// A repeated double, packed or not.
pub(super) fn each_double(at: &Fields<'_>, value: Value<'_>, mut take: impl FnMut(f64)) -> Result<(), Malformed> {
    match value {
        Value::Fixed64(bits) => take(f64::from_bits(bits)),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                take(f64::from_bits(packed.fixed64()?));
            }
        }
        _ => return Err(at.wrong_type()),
    }
    Ok(())
}

/// A field as it was read.
pub(super) struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// All of it: tag, length, content.
    pub bytes: &'a [u8],
}

#[inline]
pub(super) fn next_field<'a>(fields: &mut Fields<'a>) -> Result<Option<Field<'a>>, Malformed> {
    let before = fields.rest();
    let Some((number, value)) = fields.next_field()? else { return Ok(None) };
    Ok(Some(Field { number, value, bytes: &before[..before.len() - fields.rest().len()] }))
}

/// Appends a length-delimited field.
pub(super) fn put_bytes(to: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_head(to, number, content.len());
    to.extend_from_slice(content);
}

/// Appends the tag and the length of a length-delimited field.
pub(super) fn put_head(to: &mut Vec<u8>, number: u32, len: usize) {
    encode_varint(u64::from(number) << 3 | 2, to);
    encode_varint(len as u64, to);
}

/// A signed number as `sint32` holds it: of a longer one the low 32 bits count.
#[must_use]
pub fn zigzag32(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// A signed number as `sint64` holds it.
#[must_use]
pub fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_back() {
        for bits in 0..64 {
            let value = 1u64 << bits | 1;
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(value, &mut bytes);
            let mut fields = Fields::new(&bytes);
            assert_eq!(fields.varint(), Ok(value));
            assert!(fields.is_empty());
            for len in 0..bytes.len() {
                assert_eq!(Fields::new(&bytes[..len]).varint().unwrap_err().what, "a number is cut");
            }
        }
    }

    #[test]
    fn padded_numbers_are_read_and_too_long_ones_refused() {
        assert_eq!(Fields::new(&[0x81, 0x80, 0x80, 0x00]).varint(), Ok(1));
        let mut long = [0xff; 10];
        long[9] = 1;
        assert_eq!(Fields::new(&long).varint(), Ok(u64::MAX));
        long[9] = 2;
        assert_eq!(Fields::new(&long).varint().unwrap_err().what, "a number has more than 64 bits");
    }

    #[test]
    fn a_malformed_place_is_named_in_the_whole_message() {
        // Field 1, five bytes: field 1 as a varint, then field 2 with a length that reaches too far.
        let bytes = [0x0a, 5, 0x08, 1, 0x12, 9, 0];
        let mut outer = Fields::new(&bytes);
        let Ok(Some((1, Value::Bytes(mut inner)))) = outer.next_field() else { panic!() };
        assert_eq!(inner.next_field(), Ok(Some((1, Value::Varint(1)))));
        let error = inner.next_field().unwrap_err();
        assert_eq!((error.offset, error.what), (6, "a value reaches beyond the end"));
    }

    #[test]
    fn groups_are_skipped_whole_and_not_without_end() {
        // group 1 { field 2: 7, group 3 { } }, field 4: 1
        let bytes = [0x0b, 0x10, 7, 0x1b, 0x1c, 0x0c, 0x20, 1];
        let mut fields = Fields::new(&bytes);
        assert_eq!(fields.next_field(), Ok(Some((1, Value::Group))));
        assert_eq!(fields.next_field(), Ok(Some((4, Value::Varint(1)))));
        let deep = vec![0x0b; 10_000];
        assert_eq!(Fields::new(&deep).next_field().unwrap_err().what, "groups are nested too deeply");
        assert!(Fields::new(&[0x0c]).next_field().is_err(), "an end without a beginning");
    }

    #[test]
    fn within_groups_too_no_field_has_the_number_0() {
        // group 3 { group 0 { } }, and field 0 on its own
        for bytes in [&[0x1b, 0x03, 0x04, 0x1c][..], &[0x1b, 0x00, 0x01, 0x1c], &[0x03, 0x04]] {
            assert_eq!(Fields::new(bytes).next_field().unwrap_err().what, "a field number out of range", "{bytes:?}");
        }
    }

    #[test]
    fn zigzag_is_what_prost_makes_of_it() {
        for value in [0i64, -1, 1, i64::MIN, i64::MAX, -12345] {
            assert_eq!(zigzag(((value << 1) ^ (value >> 63)) as u64), value);
        }
    }
}
