//! What the fuzz targets share: an input taken apart, and checksums put right.
//!
//! Every decoder looks at a checksum first, so random bytes never get behind it. Each target therefore decodes its
//! input twice: as it is, and *mended*, with magic and checksums that fit. The checksums are computed here from the
//! drawings of the formats, not by the code under test.

use promrelay::wal::SegmentId;
use promrelay::wal::record::{HEADER_LEN, Seat};

/// Takes pieces off an input. Behind its end are zeroes.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next bytes.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let (piece, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..piece.len()].copy_from_slice(piece);
        bytes
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// The next place of a header.
    pub fn seat(&mut self) -> Seat {
        Seat { salt: self.number(), segment: SegmentId(self.number()), offset: self.number() }
    }

    /// Which bit to flip.
    pub fn bit(&mut self) -> usize {
        usize::from(u16::from_le_bytes(self.take()))
    }

    /// All the others.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The bytes with one bit changed.
#[must_use]
pub fn flipped<const N: usize>(bytes: &[u8; N], bit: usize) -> [u8; N] {
    let mut flipped = *bytes;
    flipped[bit / 8 % N] ^= 1 << (bit % 8);
    flipped
}

/// The bytes with zeroes in places that mean nothing.
#[must_use]
pub fn blanked<const N: usize>(bytes: &[u8; N], unused: &[std::ops::Range<usize>]) -> [u8; N] {
    let mut blanked = *bytes;
    unused.iter().for_each(|range| blanked[range.clone()].fill(0));
    blanked
}

/// Puts a checksum over all other bytes into `bytes[12..16]`, as segment headers and savepoint pages have it.
pub fn mend_page(bytes: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Puts magic and checksum into a record's header.
pub fn mend_header(bytes: &mut [u8; HEADER_LEN], seat: &Seat) {
    bytes[..4].copy_from_slice(b"PRW1");
    let salted = [seat.salt, seat.segment.0, seat.offset].map(u64::to_le_bytes).concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salted), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}
