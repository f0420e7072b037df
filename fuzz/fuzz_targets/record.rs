//! A record's header and the fields behind it.
//!
//! Nothing panics; what decodes encodes to the same bytes; a bit that changed, in the header or in its place, is
//! noticed.
#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use promrelay::wal::SegmentId;
use promrelay::wal::record::{HEADER_LEN, Header, Meta, Seat};
use promrelay_fuzz::{Input, blanked, flipped, mend_header};

/// Zero in what we write, and not looked at.
const UNUSED: [Range<usize>; 2] = [38..40, 96..128];

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (bit, seat) = (input.bit(), input.seat());
    let raw: [u8; HEADER_LEN] = input.take();
    decodes(&raw, &seat, bit);

    let mut mended = raw;
    mended[36] = 1 + mended[36] % 3;
    mend_header(&mut mended, &seat);
    assert!(decodes(&mended, &seat, bit));

    fields(input.rest());
});

/// Whether it does.
fn decodes(bytes: &[u8; HEADER_LEN], seat: &Seat, bit: usize) -> bool {
    let Some(header) = Header::decode(bytes, seat) else { return false };
    let used = blanked(bytes, &UNUSED);
    assert_eq!(header.encode(seat)[8..], used[8..], "other bytes than it was read from");
    assert_eq!(Header::decode(&header.encode(seat), seat), Some(header));
    assert!(header.stored_len() >= header.payload_len() + HEADER_LEN as u64);
    assert!(header.total_before() <= header.total);

    assert_eq!(Header::decode(&flipped(bytes, bit), seat), None, "a bit changed");
    let one = 1 << (bit % 64);
    let elsewhere = [
        Seat { salt: seat.salt ^ one, ..*seat },
        Seat { segment: SegmentId(seat.segment.0 ^ one), ..*seat },
        Seat { offset: seat.offset ^ one, ..*seat },
    ];
    assert!(elsewhere.iter().all(|seat| Header::decode(bytes, seat).is_none()), "it is valid elsewhere");
    true
}

fn fields(bytes: &[u8]) {
    let Some(meta) = Meta::decode(bytes) else { return };
    let encoded = meta.encode();
    // Unknown fields are skipped, a sender comes last and once.
    assert!(encoded.len() <= bytes.len());
    assert_eq!(Meta::decode(&encoded), Some(meta));
}
