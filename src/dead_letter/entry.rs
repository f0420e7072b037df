//! One entry as bytes: a fixed header, fields, the body. Pure.
//!
//! ```text
//! offset  0 ............ 256 ............. +fields ........ +body ... at least 512, to a multiple of 64
//!         | header        | fields (TLV)    | body (snappy)  | zeroes |
//!
//! header, little-endian
//!   0 u32 magic "PRWD"
//!   4 u32 header checksum   CRC32C over salt, offset in the file, link and bytes 8..240
//!   8 u64 id                         16 i64 time, ms since 1970
//!  24 u64 first position             32 u64 last position
//!  40 u64 samples                    48 u32 place in its append, from 0
//!  52 u32 length of the fields       56 u32 length of the body      60 u32 length of the body as it was refused
//!  64 u32 checksum of the fields     68 u32 checksum of the body
//!  72 u16 status, 0: none            74 u8 protocol: 1, 2
//!  75 u8  flags                      bit 0: the target kept a part of it; bit 1: the body was left out
//!  76 u8  length of the name         77 zero up to 80
//!  80 u64 the newest id that was durable when this was written       88 zero up to 96
//!  96 [100] the target's name, zeroes up to 240
//! 240 u64 removed: 0, or "GONE" and a CRC32C over salt, offset and id; written in place, so no checksum covers it
//! 248     zero up to 256
//!
//! fields   u8 tag, u16 length, value; unknown tags are skipped
//!   1 forwarded header: u8 length of the name, name, value     2 the target's text     3 series     4 reason
//! ```
//!
//! The *link* is 0 for the first entry of an append, and made of the header checksum before it for the others: they are found only
//! behind the ones that were written with them. So what a crash leaves of an append is its beginning, or nothing, and an id that is
//! given out again is never found twice.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::protocol::Protocol;
use crate::wal::Position;

/// Most bytes of the target's text that are kept.
pub const TEXT_LEN_MAX: usize = 1024;
/// Most bytes of the description of a series that are kept.
pub const SERIES_LEN_MAX: usize = 512;
/// Least bytes of an entry on disk.
pub const STORED_MIN: u64 = 512;

pub(super) const HEADER_LEN: usize = 256;
pub(super) const ALIGN: u64 = 64;
/// Most bytes on disk of an entry without forwarded headers and body.
pub(super) const BARE_MAX: u64 =
    (HEADER_LEN + TEXT_LEN_MAX + SERIES_LEN_MAX + REASON_LEN_MAX + 4 * 3).next_multiple_of(ALIGN as usize) as u64;
pub(super) const REMOVED_OFFSET: u64 = 240;
pub(super) const MAGIC: [u8; 4] = *b"PRWD";

const REASON_LEN_MAX: usize = 32;
const NAME_LEN_MAX: usize = 100;
const NAME_OFFSET: usize = 96;
const GONE: u32 = u32::from_le_bytes(*b"GONE");
const FLAG_PARTIAL: u8 = 1;
const FLAG_LEFT_OUT: u8 = 2;

const _: () = assert!((HEADER_LEN as u64).is_multiple_of(ALIGN) && STORED_MIN.is_multiple_of(ALIGN));
const _: () = assert!(NAME_OFFSET + NAME_LEN_MAX <= REMOVED_OFFSET as usize);

/// What was refused for good, on its way into the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Who refused it; at most 100 bytes.
    pub target: String,
    /// When, ms since 1970.
    pub time_ms: i64,
    /// Why its refusal stands: `status`, `partial`, `resent`, `unsplit` or `poison`.
    pub reason: String,
    /// Of the answer, if there was one.
    pub status: Option<u16>,
    /// What the target said; the first [`TEXT_LEN_MAX`] bytes are kept.
    pub text: String,
    /// What the body is.
    pub protocol: Protocol,
    /// Headers that go with it.
    pub forwarded: Vec<(String, Vec<u8>)>,
    /// The first record that it is of.
    pub first: Position,
    /// The last one.
    pub last: Position,
    /// Samples that were refused.
    pub samples: u64,
    /// The first of its series, for people; the first [`SERIES_LEN_MAX`] bytes are kept. See [`describe_first`](super::describe_first).
    pub series: String,
    /// The target kept a part of it: the body is the whole request.
    pub is_partial: bool,
    /// A request, compressed, ready to be sent again.
    pub body: Bytes,
}

/// An entry with everything that was kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number; later ones have higher ones.
    pub id: u64,
    /// What was handed in, its texts shortened. The body is empty if it was left out.
    pub content: NewEntry,
    /// Bytes of the body as it was handed in.
    pub body_bytes: u64,
}

impl Entry {
    /// The body can be sent again.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.content.body.len() as u64 == self.body_bytes
    }
}

/// An entry as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its number.
    pub id: u64,
    /// Who refused it.
    pub target: String,
    /// When, as people read it.
    pub time: String,
    /// When, ms since 1970.
    pub time_ms: i64,
    /// Why its refusal stands.
    pub reason: String,
    /// Of the answer, if there was one.
    pub status: Option<u16>,
    /// What the target said.
    pub text: String,
    /// `1.0` or `2.0`.
    pub protocol: String,
    /// The first record that it is of.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Samples that were refused.
    pub samples: u64,
    /// The first of its series.
    pub series: String,
    /// The target kept a part of it.
    pub is_partial: bool,
    /// Bytes of the request as it was refused.
    pub body_bytes: u64,
    /// They are there: it can be sent again.
    pub has_body: bool,
}

impl From<&Entry> for Summary {
    fn from(entry: &Entry) -> Summary {
        let NewEntry { target, time_ms, reason, status, text, protocol, first, last, samples, series, .. } =
            &entry.content;
        Summary {
            id: entry.id,
            target: target.clone(),
            time: rfc3339(*time_ms),
            time_ms: *time_ms,
            reason: reason.clone(),
            status: *status,
            text: text.clone(),
            protocol: protocol.as_str().to_owned(),
            first: first.0,
            last: last.0,
            samples: *samples,
            series: series.clone(),
            is_partial: entry.content.is_partial,
            body_bytes: entry.body_bytes,
            has_body: entry.has_body(),
        }
    }
}

/// What header checksums are bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    /// The ring's random number.
    pub salt: u64,
    /// Of the entry in the file.
    pub offset: u64,
    /// 0, or [`link`] of the entry before it in the same append.
    pub link: u64,
}

/// What binds an entry to the one before it.
pub(super) fn link(header: &[u8; HEADER_LEN]) -> u64 {
    1 << 32 | u64::from(u32::from_le_bytes(take(header, 4)))
}

/// The part of an entry that is looked at when a ring is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub id: u64,
    pub time_ms: i64,
    pub first: Position,
    pub last: Position,
    pub samples: u64,
    /// In its append.
    pub place: u32,
    pub fields_len: u32,
    pub body_len: u32,
    pub whole_body_len: u32,
    pub fields_crc: u32,
    pub body_crc: u32,
    pub status: Option<u16>,
    pub protocol: Protocol,
    pub is_partial: bool,
    /// The newest entry that was durable when this one was written.
    pub durable_id: u64,
    pub target: Arc<str>,
}

impl Header {
    fn encode(&self, seat: Seat) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let is_left_out = self.body_len < self.whole_body_len;
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, self.id.to_le_bytes());
        put(&mut bytes, 16, self.time_ms.to_le_bytes());
        put(&mut bytes, 24, self.first.0.to_le_bytes());
        put(&mut bytes, 32, self.last.0.to_le_bytes());
        put(&mut bytes, 40, self.samples.to_le_bytes());
        let numbers = [self.place, self.fields_len, self.body_len, self.whole_body_len, self.fields_crc, self.body_crc];
        for (number, offset) in numbers.into_iter().zip((48..).step_by(4)) {
            put(&mut bytes, offset, number.to_le_bytes());
        }
        put(&mut bytes, 72, self.status.unwrap_or(0).to_le_bytes());
        bytes[74] = match self.protocol {
            Protocol::V1 => 1,
            Protocol::V2 => 2,
        };
        bytes[75] = if self.is_partial { FLAG_PARTIAL } else { 0 } | if is_left_out { FLAG_LEFT_OUT } else { 0 };
        bytes[76] = u8::try_from(self.target.len()).expect("names are shortened to 100 bytes");
        put(&mut bytes, 80, self.durable_id.to_le_bytes());
        bytes[NAME_OFFSET..NAME_OFFSET + self.target.len()].copy_from_slice(self.target.as_bytes());
        let crc = checksum(&bytes, seat);
        put(&mut bytes, 4, crc.to_le_bytes());
        bytes
    }

    /// Reads the header at `seat`; `None` if there is no valid one.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN], seat: Seat) -> Option<Header> {
        if take::<4>(bytes, 0) != MAGIC || u32::from_le_bytes(take(bytes, 4)) != checksum(bytes, seat) {
            return None;
        }
        let [place, fields_len, body_len, whole_body_len, fields_crc, body_crc] =
            std::array::from_fn(|n| u32::from_le_bytes(take(bytes, 48 + 4 * n)));
        let name = bytes.get(NAME_OFFSET..NAME_OFFSET + usize::from(bytes[76]))?;
        let status = u16::from_le_bytes(take(bytes, 72));
        Some(Header {
            id: u64::from_le_bytes(take(bytes, 8)),
            time_ms: i64::from_le_bytes(take(bytes, 16)),
            first: Position(u64::from_le_bytes(take(bytes, 24))),
            last: Position(u64::from_le_bytes(take(bytes, 32))),
            samples: u64::from_le_bytes(take(bytes, 40)),
            place,
            fields_len,
            body_len,
            whole_body_len,
            fields_crc,
            body_crc,
            status: (status > 0).then_some(status),
            protocol: match bytes[74] {
                1 => Protocol::V1,
                2 => Protocol::V2,
                _ => return None,
            },
            is_partial: bytes[75] & FLAG_PARTIAL != 0,
            durable_id: u64::from_le_bytes(take(bytes, 80)),
            target: std::str::from_utf8(name).ok()?.into(),
        })
    }

    /// Bytes that the entry takes in the ring.
    pub(super) fn stored_len(&self) -> u64 {
        stored_len(u64::from(self.fields_len) + u64::from(self.body_len))
    }

    /// The entry, from its fields and its body; with another body than it had, none. `None`: the fields are not those that were written.
    pub(super) fn entry(&self, fields: &[u8], body: Bytes) -> Option<Entry> {
        (crc32c::crc32c(fields) == self.fields_crc).then_some(())?;
        let fields = Fields::decode(fields)?;
        let content = NewEntry {
            target: self.target.to_string(),
            time_ms: self.time_ms,
            reason: fields.reason,
            status: self.status,
            text: fields.text,
            protocol: self.protocol,
            forwarded: fields.forwarded,
            first: self.first,
            last: self.last,
            samples: self.samples,
            series: fields.series,
            is_partial: self.is_partial,
            body,
        };
        Some(Entry { id: self.id, content, body_bytes: u64::from(self.whole_body_len) })
    }
}

fn stored_len(payload: u64) -> u64 {
    (HEADER_LEN as u64 + payload).next_multiple_of(ALIGN).max(STORED_MIN)
}

fn checksum(bytes: &[u8; HEADER_LEN], Seat { salt, offset, link }: Seat) -> u32 {
    let mut bound = [0; 24];
    put(&mut bound, 0, salt.to_le_bytes());
    put(&mut bound, 8, offset.to_le_bytes());
    put(&mut bound, 16, link.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&bound), &bytes[8..REMOVED_OFFSET as usize])
}

/// What stands in a header whose entry was removed.
pub(super) fn removed_mark(salt: u64, offset: u64, id: u64) -> [u8; 8] {
    let mut bound = [0; 24];
    put(&mut bound, 0, salt.to_le_bytes());
    put(&mut bound, 8, offset.to_le_bytes());
    put(&mut bound, 16, id.to_le_bytes());
    let mut mark = [0; 8];
    put(&mut mark, 0, GONE.to_le_bytes());
    put(&mut mark, 4, crc32c::crc32c(&bound).to_le_bytes());
    mark
}

/// An entry that has everything but its place.
#[derive(Debug)]
pub(super) struct Prepared {
    header: Header,
    fields: Vec<u8>,
    body: Bytes,
}

impl Prepared {
    /// `len_max`: one that would take more is kept without its body, and if need be without forwarded headers.
    pub(super) fn new(entry: &NewEntry, len_max: u64) -> Prepared {
        let whole_body_len = u32::try_from(entry.body.len()).unwrap_or(u32::MAX);
        let mut fields = Fields {
            forwarded: entry.forwarded.clone(),
            text: shortened(&entry.text, TEXT_LEN_MAX).to_owned(),
            series: shortened(&entry.series, SERIES_LEN_MAX).to_owned(),
            reason: shortened(&entry.reason, REASON_LEN_MAX).to_owned(),
        };
        let mut encoded = fields.encode();
        let mut body = entry.body.clone();
        if stored_len(encoded.len() as u64 + body.len() as u64) > len_max {
            body = Bytes::new();
        }
        if stored_len(encoded.len() as u64) > len_max {
            fields.forwarded.clear();
            encoded = fields.encode();
        }
        let header = Header {
            id: 0,
            time_ms: entry.time_ms,
            first: entry.first,
            last: entry.last,
            samples: entry.samples,
            place: 0,
            fields_len: u32::try_from(encoded.len()).expect("fields are less than a quarter of the ring"),
            body_len: u32::try_from(body.len()).expect("a body is less than a quarter of the ring"),
            whole_body_len,
            fields_crc: crc32c::crc32c(&encoded),
            body_crc: crc32c::crc32c(&body),
            status: entry.status,
            protocol: entry.protocol,
            is_partial: entry.is_partial,
            durable_id: 0,
            target: shortened(&entry.target, NAME_LEN_MAX).into(),
        };
        Prepared { header, fields: encoded, body }
    }

    /// One that was kept already, maybe without its body.
    pub(super) fn of_kept(entry: &NewEntry, body_bytes: u64, len_max: u64) -> Prepared {
        let mut prepared = Prepared::new(entry, len_max);
        prepared.header.whole_body_len = u32::try_from(body_bytes).unwrap_or(u32::MAX);
        prepared
    }

    pub(super) fn stored_len(&self) -> u64 {
        self.header.stored_len()
    }

    /// Gives it its place. Its header then.
    pub(super) fn seat(mut self, id: u64, place: u32, durable_id: u64, seat: Seat) -> Seated {
        (self.header.id, self.header.place, self.header.durable_id) = (id, place, durable_id);
        let encoded = self.header.encode(seat);
        Seated {
            padding: (self.stored_len() - HEADER_LEN as u64) as usize - self.fields.len() - self.body.len(),
            encoded,
            prepared: self,
        }
    }
}

/// An entry as it is written.
#[derive(Debug)]
pub(super) struct Seated {
    prepared: Prepared,
    encoded: [u8; HEADER_LEN],
    padding: usize,
}

impl Seated {
    pub(super) fn header(&self) -> &Header {
        &self.prepared.header
    }

    pub(super) fn link(&self) -> u64 {
        link(&self.encoded)
    }

    /// Its bytes in the ring.
    pub(super) fn parts(&self) -> [&[u8]; 4] {
        static ZEROES: [u8; STORED_MIN as usize] = [0; STORED_MIN as usize];
        [&self.encoded, &self.prepared.fields, &self.prepared.body, &ZEROES[..self.padding]]
    }
}

/// What has no fixed length.
#[derive(Debug, Default)]
struct Fields {
    forwarded: Vec<(String, Vec<u8>)>,
    text: String,
    series: String,
    reason: String,
}

const TAG_FORWARDED: u8 = 1;
const TAG_TEXT: u8 = 2;
const TAG_SERIES: u8 = 3;
const TAG_REASON: u8 = 4;

impl Fields {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |tag: u8, parts: &[&[u8]]| {
            let Ok(len) = u16::try_from(parts.iter().map(|part| part.len()).sum::<usize>()) else { return };
            bytes.push(tag);
            bytes.extend(len.to_le_bytes());
            parts.iter().for_each(|part| bytes.extend(*part));
        };
        for (name, value) in &self.forwarded {
            // The receiver takes no longer ones.
            if let Ok(len) = u8::try_from(name.len()) {
                field(TAG_FORWARDED, &[&[len], name.as_bytes(), value]);
            }
        }
        field(TAG_TEXT, &[self.text.as_bytes()]);
        field(TAG_SERIES, &[self.series.as_bytes()]);
        field(TAG_REASON, &[self.reason.as_bytes()]);
        bytes
    }

    /// `None` if they make no sense.
    fn decode(mut bytes: &[u8]) -> Option<Fields> {
        let mut fields = Fields::default();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(3)?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[1], head[2]])))?;
            match head[0] {
                TAG_FORWARDED => {
                    let (len, named) = value.split_first()?;
                    let (name, value) = named.split_at_checked(usize::from(*len))?;
                    fields.forwarded.push((text(name)?, value.to_vec()));
                }
                TAG_TEXT => fields.text = text(value)?,
                TAG_SERIES => fields.series = text(value)?,
                TAG_REASON => fields.reason = text(value)?,
                _ => {}
            }
            bytes = rest;
        }
        Some(fields)
    }
}

/// The first `len_max` bytes of a text, at most, and only whole characters.
pub(super) fn shortened(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

pub(super) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&value);
}

pub(super) fn take<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("a slice of N bytes is an array of N bytes")
}
