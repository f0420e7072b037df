//! How a segment begins and ends: its header and its seal.
//!
//! Nothing panics; what decodes encodes to the same bytes; a bit that changed is noticed; a seal never points outside
//! its segment.
#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use promrelay::wal::record::{HEADER_LEN, Seat};
use promrelay::wal::segment::{DATA_START, FORMAT_VERSION, SEAL_LEN, SEGMENT_HEADER_LEN, Seal, SegmentHeader};
use promrelay_fuzz::{Input, blanked, flipped, mend_header, mend_page};

const LEN: usize = SEAL_LEN as usize;
const BODY_LEN: usize = LEN - HEADER_LEN;

/// Zero in what we write, and not looked at.
const UNUSED_IN_HEADER: Range<usize> = 80..SEGMENT_HEADER_LEN;
/// The same in a seal: flags, lengths and counts that only records have.
const UNUSED_IN_SEAL: [Range<usize>; 4] = [28..32, 37..40, 48..64, 80..HEADER_LEN];
const UNUSED_IN_BODY: Range<usize> = HEADER_LEN + 24..LEN;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (bit, seat) = (input.bit(), input.seat());
    let raw: [u8; LEN] = input.take();
    seal(&raw, &seat, bit);
    // Within a segment of some size, or the place decides everything.
    let mut mended = raw;
    let within = Seat { offset: DATA_START + seat.offset % (1 << 32), ..seat };
    mended[24..28].copy_from_slice(&(BODY_LEN as u32).to_le_bytes());
    mended[36] = 3;
    let body_crc = crc32c::crc32c(&mended[HEADER_LEN..]);
    mended[32..36].copy_from_slice(&body_crc.to_le_bytes());
    mend_header(mended.first_chunk_mut().unwrap(), &within);
    let data_end = u64::from_le_bytes(*mended[HEADER_LEN..].first_chunk().unwrap());
    assert_eq!(seal(&mended, &within, bit), (DATA_START..=within.offset).contains(&data_end));

    let raw: [u8; SEGMENT_HEADER_LEN] = input.take();
    header(&raw, bit);
    let mut mended = raw;
    mended[..8].copy_from_slice(b"PRWSEG\r\n");
    mended[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    // There is no position 0.
    mended[24] |= 1;
    mend_page(&mut mended);
    assert!(header(&mended, bit));
});

/// Whether it decodes.
fn seal(bytes: &[u8; LEN], seat: &Seat, bit: usize) -> bool {
    let Some(seal) = Seal::decode(bytes, seat) else { return false };
    assert!((DATA_START..=seat.offset).contains(&seal.data_end), "{seal:?} at {seat:?}");
    let encoded = seal.encode(seat);
    assert_eq!(Seal::decode(&encoded, seat), Some(seal));
    // The checksums are over the unused bytes too.
    let used = |bytes| blanked(&blanked(bytes, &UNUSED_IN_SEAL), &[UNUSED_IN_BODY, 4..8, 32..36]);
    assert_eq!(used(bytes), used(&encoded), "other bytes than it was read from");
    assert_eq!(Seal::decode(&flipped(bytes, bit), seat), None, "a bit changed");
    true
}

/// Whether it decodes.
fn header(bytes: &[u8; SEGMENT_HEADER_LEN], bit: usize) -> bool {
    let Ok(header) = SegmentHeader::decode(bytes) else { return false };
    let mut expected = blanked(bytes, &[UNUSED_IN_HEADER]);
    mend_page(&mut expected);
    assert_eq!(header.encode(), expected, "other bytes than it was read from");
    assert!(SegmentHeader::decode(&flipped(bytes, bit)).is_err(), "a bit changed");
    true
}
