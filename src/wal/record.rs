//! One record: a fixed header, a few type-length-value fields, the body as it came. Pure functions on bytes.
//!
//! ```text
//! offset  0 ............ 128 ........... +meta_len .......... +body_len ... 64-byte boundary
//!         | header        | fields (TLV)   | body (snappy)      | zeroes    |
//!
//! header, little-endian
//!   0 u32 magic "PRW1"
//!   4 u32 header checksum   CRC32C over salt, segment id, offset and bytes 8..128: a record of another segment, of an
//!                           earlier life of these sectors or written to a wrong place never verifies
//!   8 u64 position          for a seal: of the segment's last record
//!  16 u64 total             samples since the log was born, this record included: pending, lost and the size of a hole are
//!                           subtractions
//!  24 u32 body length
//!  28 u32 length of the fields
//!  32 u32 body checksum     CRC32C over fields and body; apart from the header's, so that a damaged body can be stepped over
//!                           exactly and counted exactly
//!  36 u8  type              1 remote write 1.0, 2 remote write 2.0, 3 seal
//!  37 u8  flags             bit 0: some series has labels out of order or empty; bit 1: some series has exemplars only
//!  38 u16 zero
//!  40 i64 receive time      ms since 1970
//!  48 u32 float samples   52 u32 histograms   56 u32 exemplars   60 u32 series
//!  64 i64 smallest timestamp   72 i64 largest timestamp   (i64::MAX and i64::MIN where there is no sample)
//!  80 u64 unacknowledged    own position minus that of the last record acknowledged when it was written: any valid record proves
//!                           that everything up to position - unacknowledged had been answered 2xx, so a hole there is
//!                           damage, above it a torn tail
//!  88 u32 decoded length of the body
//!  92 u32 metadata entries
//!  96     zero up to 128
//! ```
//!
//! Invariants: records start at multiples of 64; positions grow by one within a segment; totals never shrink.

use std::net::IpAddr;

use bytes::Bytes;

use super::position::{Position, SegmentId};

/// Bytes of a record's header.
pub const HEADER_LEN: usize = 128;
/// Records start at multiples of this: a cache line, and few places to probe when looking for the next valid record.
pub const ALIGN: u64 = 64;

/// The first bytes of every record.
pub(super) const MAGIC: [u8; 4] = *b"PRW1";

const _: () = assert!((HEADER_LEN as u64).is_multiple_of(ALIGN));

/// What a record holds. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A remote write 1.0 request.
    Write1 = 1,
    /// A remote write 2.0 request.
    Write2 = 2,
    /// The end of a segment (see [`super::segment`]).
    Seal = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Write1),
            2 => Some(Kind::Write2),
            3 => Some(Kind::Seal),
            _ => None,
        }
    }
}

/// What a request holds, counted when it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Float samples.
    pub samples: u32,
    /// Native histograms.
    pub histograms: u32,
    /// Exemplars.
    pub exemplars: u32,
    /// Time series entries (one series may come several times).
    pub series: u32,
    /// Metadata messages of their own (1.0 only).
    pub metadata: u32,
}

impl Counts {
    /// What the ledger counts: float samples and histograms.
    #[must_use]
    pub fn ledger_samples(&self) -> u64 {
        u64::from(self.samples) + u64::from(self.histograms)
    }
}

/// Smallest and largest timestamp of a request's samples, in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// `i64::MAX` where there is no sample.
    pub min: i64,
    /// `i64::MIN` where there is no sample.
    pub max: i64,
}

impl TimeRange {
    /// Of nothing.
    pub const EMPTY: TimeRange = TimeRange { min: i64::MAX, max: i64::MIN };

    /// Widens the range to hold `other`.
    pub fn merge(&mut self, other: TimeRange) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Where a header lies: its checksum is bound to this place.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The segment's random number.
    pub salt: u64,
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the header in its file.
    pub offset: u64,
}

/// A record's header. See the drawing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the drawing of the module names each field")]
pub struct Header {
    pub kind: Kind,
    pub flags: u8,
    pub position: Position,
    pub total: u64,
    pub body_len: u32,
    pub meta_len: u32,
    pub body_crc: u32,
    pub received_ms: i64,
    pub counts: Counts,
    pub times: TimeRange,
    pub unacknowledged: u64,
    pub decoded_len: u32,
}

impl Header {
    /// Some series of the record has labels out of order or with empty values. In old logs only: such a request is rewritten before it is
    /// stored.
    pub const FLAG_UNSORTED: u8 = 1;

    /// Some series of the record (2.0) has exemplars and nothing else.
    pub const FLAG_LONE_EXEMPLARS: u8 = 2;

    /// The bytes on disk at `seat`.
    #[must_use]
    pub fn encode(&self, seat: &Seat) -> [u8; HEADER_LEN] {
        let mut bytes = [0u8; HEADER_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, self.position.0.to_le_bytes());
        put(&mut bytes, 16, self.total.to_le_bytes());
        put(&mut bytes, 24, self.body_len.to_le_bytes());
        put(&mut bytes, 28, self.meta_len.to_le_bytes());
        put(&mut bytes, 32, self.body_crc.to_le_bytes());
        bytes[36] = self.kind as u8;
        bytes[37] = self.flags;
        put(&mut bytes, 40, self.received_ms.to_le_bytes());
        put(&mut bytes, 48, self.counts.samples.to_le_bytes());
        put(&mut bytes, 52, self.counts.histograms.to_le_bytes());
        put(&mut bytes, 56, self.counts.exemplars.to_le_bytes());
        put(&mut bytes, 60, self.counts.series.to_le_bytes());
        put(&mut bytes, 64, self.times.min.to_le_bytes());
        put(&mut bytes, 72, self.times.max.to_le_bytes());
        put(&mut bytes, 80, self.unacknowledged.to_le_bytes());
        put(&mut bytes, 88, self.decoded_len.to_le_bytes());
        put(&mut bytes, 92, self.counts.metadata.to_le_bytes());
        let crc = checksum(&bytes, seat);
        put(&mut bytes, 4, crc.to_le_bytes());
        bytes
    }

    /// Reads the header at `seat`; `None` if there is no valid one.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_LEN], seat: &Seat) -> Option<Header> {
        if take::<4>(bytes, 0) != MAGIC || u32::from_le_bytes(take(bytes, 4)) != checksum(bytes, seat) {
            return None;
        }
        Some(Header {
            kind: Kind::from_byte(bytes[36])?,
            flags: bytes[37],
            position: Position(u64::from_le_bytes(take(bytes, 8))),
            total: u64::from_le_bytes(take(bytes, 16)),
            body_len: u32::from_le_bytes(take(bytes, 24)),
            meta_len: u32::from_le_bytes(take(bytes, 28)),
            body_crc: u32::from_le_bytes(take(bytes, 32)),
            received_ms: i64::from_le_bytes(take(bytes, 40)),
            counts: Counts {
                samples: u32::from_le_bytes(take(bytes, 48)),
                histograms: u32::from_le_bytes(take(bytes, 52)),
                exemplars: u32::from_le_bytes(take(bytes, 56)),
                series: u32::from_le_bytes(take(bytes, 60)),
                metadata: u32::from_le_bytes(take(bytes, 92)),
            },
            times: TimeRange { min: i64::from_le_bytes(take(bytes, 64)), max: i64::from_le_bytes(take(bytes, 72)) },
            unacknowledged: u64::from_le_bytes(take(bytes, 80)),
            decoded_len: u32::from_le_bytes(take(bytes, 88)),
        })
    }

    /// Bytes of fields and body together.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        u64::from(self.meta_len) + u64::from(self.body_len)
    }

    /// Bytes that the record takes in its segment, up to the next record.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        stored_len(self.payload_len())
    }

    /// Running total before this record.
    #[must_use]
    pub fn total_before(&self) -> u64 {
        self.total.saturating_sub(self.counts.ledger_samples())
    }
}

/// Bytes that a record with `payload` bytes of fields and body takes in a segment.
#[must_use]
pub fn stored_len(payload: u64) -> u64 {
    (HEADER_LEN as u64 + payload).next_multiple_of(ALIGN)
}

/// CRC32C over fields and body.
#[must_use]
pub fn payload_crc(meta: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(meta), body)
}

fn checksum(bytes: &[u8; HEADER_LEN], seat: &Seat) -> u32 {
    let mut salted = [0u8; 24];
    put(&mut salted, 0, seat.salt.to_le_bytes());
    put(&mut salted, 8, seat.segment.0.to_le_bytes());
    put(&mut salted, 16, seat.offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&salted), &bytes[8..])
}

/// Stores an integer's bytes at `offset`.
pub(super) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&value);
}

/// Takes an integer's bytes from `offset`.
pub(super) fn take<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

/// A request on its way into the log. Made by the receiver, which has already counted and checked it.
#[derive(Clone, Debug)]
pub struct NewRecord {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) meta: Vec<u8>,
    pub(super) body: Bytes,
    pub(super) body_crc: u32,
    pub(super) decoded_len: u32,
    pub(super) counts: Counts,
    pub(super) times: TimeRange,
    pub(super) received_ms: i64,
}

/// What the receiver found out about a request's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which protocol.
    pub kind: Kind,
    /// See [`Header`].
    pub flags: u8,
    /// What is in it.
    pub counts: Counts,
    /// The samples' timestamps.
    pub times: TimeRange,
    /// Bytes of the body once decompressed.
    pub decoded_len: u32,
}

impl NewRecord {
    /// The checksum of the body is computed here, on the caller's thread: the writer is one and must not wait for it.
    #[must_use]
    pub fn new(content: Content, meta: &Meta, body: Bytes, received_ms: i64) -> NewRecord {
        let meta = meta.encode();
        let body_crc = payload_crc(&meta, &body);
        let Content { kind, flags, counts, times, decoded_len } = content;
        NewRecord { kind, flags, meta, body, body_crc, decoded_len, counts, times, received_ms }
    }

    /// Bytes that the record will take in a segment.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        stored_len(self.meta.len() as u64 + self.body.len() as u64)
    }
}

/// The fields behind the header: who sent the request, and which of its headers go on with it.
///
/// ```text
/// u8 tag | u16 length, little-endian | value          repeated; unknown tags are skipped
///   1 forwarded header: u8 length of the name, name, value
///   2 sender address: 4 or 16 bytes
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Lower-case names and values, in the order of the configuration.
    pub forwarded: Vec<(String, Vec<u8>)>,
    /// The upstream's address.
    pub sender: Option<IpAddr>,
}

const TAG_FORWARDED: u8 = 1;
const TAG_SENDER: u8 = 2;

impl Meta {
    /// Most bytes of a forwarded header's value; the receiver refuses longer ones.
    pub const VALUE_LEN_MAX: usize = 8 * 1024;
    /// Most bytes of a forwarded header's name; the configuration refuses longer ones.
    pub const NAME_LEN_MAX: usize = 255;

    /// The bytes on disk.
    ///
    /// # Panics
    /// If a name or value is longer than the limits above.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.forwarded {
            let name_len = u8::try_from(name.len()).expect("the configuration limits names of forwarded headers");
            let len = u16::try_from(1 + name.len() + value.len()).expect("the receiver limits forwarded headers");
            bytes.push(TAG_FORWARDED);
            bytes.extend(len.to_le_bytes());
            bytes.push(name_len);
            bytes.extend(name.as_bytes());
            bytes.extend(value);
        }
        let mut sender = |octets: &[u8]| {
            bytes.push(TAG_SENDER);
            bytes.extend((octets.len() as u16).to_le_bytes());
            bytes.extend(octets);
        };
        match self.sender {
            Some(IpAddr::V4(address)) => sender(&address.octets()),
            Some(IpAddr::V6(address)) => sender(&address.octets()),
            None => {}
        }
        bytes
    }

    /// Reads what is there; `None` if the lengths do not fit. The checksum was verified before.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Meta> {
        let mut meta = Meta::default();
        while let Some((&tag, rest)) = bytes.split_first() {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            bytes = rest;
            match tag {
                TAG_FORWARDED => {
                    let (&name_len, value) = value.split_first()?;
                    let (name, value) = value.split_at_checked(usize::from(name_len))?;
                    meta.forwarded.push((String::from_utf8(name.to_vec()).ok()?, value.to_vec()));
                }
                TAG_SENDER => {
                    meta.sender = match value.len() {
                        4 => Some(IpAddr::from(take::<4>(value, 0))),
                        16 => Some(IpAddr::from(take::<16>(value, 0))),
                        _ => return None,
                    }
                }
                _ => {}
            }
        }
        Some(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Write2,
            flags: Header::FLAG_UNSORTED,
            position: Position(7),
            total: 1_000_007,
            body_len: 50_000,
            meta_len: 31,
            body_crc: 0xdead_beef,
            received_ms: 1_769_850_000_123,
            counts: Counts { samples: 2000, histograms: 3, exemplars: 5, series: 2008, metadata: 1 },
            times: TimeRange { min: -5, max: 1_769_850_000_000 },
            unacknowledged: 4,
            decoded_len: 600_000,
        }
    }

    const SEAT: Seat = Seat { salt: 0x0123_4567_89ab_cdef, segment: SegmentId(3), offset: 4096 };

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        assert_eq!(Header::decode(&header().encode(&SEAT), &SEAT), Some(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = header().encode(&SEAT);
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, &SEAT), None, "bit {bit}");
        }
    }

    #[test]
    fn a_header_at_another_place_segment_or_salt_is_not_valid() {
        let bytes = header().encode(&SEAT);
        for seat in [
            Seat { offset: SEAT.offset + 64, ..SEAT },
            Seat { segment: SegmentId(4), ..SEAT },
            Seat { salt: SEAT.salt ^ 1, ..SEAT },
        ] {
            assert_eq!(Header::decode(&bytes, &seat), None);
        }
    }

    #[test]
    fn fields_come_back_and_unknown_ones_are_skipped() {
        let meta = Meta {
            forwarded: vec![("x-scope-orgid".into(), b"tenant-\xff".to_vec()), ("x-empty".into(), vec![])],
            sender: Some("2001:db8::1".parse().unwrap()),
        };
        let mut bytes = vec![200, 3, 0, 1, 2, 3];
        bytes.extend(meta.encode());
        assert_eq!(Meta::decode(&bytes), Some(meta));
        assert_eq!(Meta::decode(&[]), Some(Meta::default()));
    }

    #[test]
    fn cut_fields_are_refused() {
        let meta = Meta { forwarded: vec![("a".into(), b"b".to_vec())], sender: Some("10.0.0.1".parse().unwrap()) };
        let bytes = meta.encode();
        let whole: Vec<usize> = vec![0, 6, bytes.len()];
        for len in 0..bytes.len() {
            assert_eq!(Meta::decode(&bytes[..len]).is_some(), whole.contains(&len), "{len} bytes");
        }
    }
}
