//! One page of a savepoint file: 4 KiB with a checksum.
//!
//! ```text
//!   0 [8] magic "PRWSAVE\n"     8 u32 version, 1     12 u32 CRC32C over the page without these four bytes
//!  16 u64 generation           24 u64 epoch: raised whenever the savepoint is moved otherwise than by settling
//!  32 [16] log id              48 [16] boot id       64 i64 written, ms since 1970
//!  72 u64 settled position     80 u64 settled total  88 u64 segment    96 u64 offset of the next record
//! 104 u64 accepted  delivered  refused  filtered  expired  dropped  lost
//! 160 u64 refused by reason, 8 places: status, partial, resent, unsplit, poison, then zeroes
//! 224 u16 length of the name   226 [100] name, then zeroes                                2 zero bytes
//! 328 u64 reservation: no batch was started beyond it, 0: none said
//! 336 u32 flags: 1 paused, 2 a clean end      340 u32 cuts that may have been delivered: bit n is of cut n
//! 344 u16 number of ranges                    346 u16 number of cuts
//! 348 u32 what was learned: 1 it has delivered, 2 the next is known, 4 it takes empty requests, 8: the size is known
//! 352 u64 learned of: hash of name and URL, 0: nothing was learned
//! 360 u32 largest request that it takes       364 u32 zero, spare
//! 368 u64 doubtful: records up to it go one by one, 0: none
//! 376 u32 whether it takes remote write 1.0: 0 unknown, 1 it does, else since when (s since 1970) it does not     380 u32 2.0, the same
//! 384 [128] zeroes: room for what will be learned
//! 512 64 x range: u64 position and total before its first record, u64 position and total behind its last one
//! 2560 32 x cut: u64 first position, u64 last position
//! 3072 zeroes up to 4096: spare
//! ```
//!
//! Flags and bytes that mean nothing are not looked at: a later release may have written them. A page from before there were ranges has
//! zeroes behind its name: no ranges, no cuts, nothing learned.

use super::ledger::{Ledger, Reason};
use super::{Cut, Cuts, Learned, Range, Ranges, Savepoint, Taken};
use crate::wal::{Mark, Place, Position, SegmentId};

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PRWSAVE\n";
const REASONS_MAX: usize = 8;
const NAME_OFFSET: usize = 226;
/// See [`is_name`](super::is_name).
pub(super) const NAME_LEN_MAX: usize = 100;
const RESERVATION_OFFSET: usize = 328;
const RANGES_OFFSET: usize = 512;
const RANGE_LEN: usize = 32;
const CUTS_OFFSET: usize = RANGES_OFFSET + Ranges::MAX * RANGE_LEN;
const CUT_LEN: usize = 16;

const IS_PAUSED: u32 = 1;
const IS_CLEAN: u32 = 2;

const HAS_DELIVERED: u32 = 1;
const EMPTY_IS_KNOWN: u32 = 2;
const TAKES_EMPTY: u32 = 4;
const BYTES_MAX_IS_KNOWN: u32 = 8;

const _: () = assert!(Reason::ALL.len() <= REASONS_MAX);
const _: () = assert!(NAME_OFFSET + NAME_LEN_MAX <= RESERVATION_OFFSET);
const _: () = assert!(CUTS_OFFSET == 2560 && CUTS_OFFSET + Cuts::MAX * CUT_LEN <= PAGE_LEN);
const _: () = assert!(Cuts::MAX <= 32, "a bit each");

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Grows with every change.
    pub generation: u64,
    /// Grows with every move that is not a settlement.
    pub epoch: u64,
    /// The log that the positions are of.
    pub log_id: [u8; 16],
    /// The boot in which it was written; what was written before another boot may have been lost in a power cut.
    pub boot_id: [u8; 16],
    /// When it was written, ms since 1970.
    pub written_ms: i64,
    /// The content.
    pub savepoint: Savepoint,
    /// The target's.
    pub name: String,
}

impl Page {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; PAGE_LEN]> {
        let mut bytes = Box::new([0; PAGE_LEN]);
        let Page { generation, epoch, log_id, boot_id, written_ms, savepoint, name } = self;
        let Savepoint { settled, next, ranges, ledger, cuts, reservation, doubtful, is_paused, is_clean, learned } =
            savepoint;
        let Ledger { accepted, delivered, refused, filtered, expired, dropped, lost, refused_by } = ledger;
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[32..48].copy_from_slice(log_id);
        bytes[48..64].copy_from_slice(boot_id);
        bytes[64..72].copy_from_slice(&written_ms.to_le_bytes());
        for (offset, numbers) in [
            (RESERVATION_OFFSET, &[reservation.0][..]),
            (352, &[learned.url]),
            (368, &[doubtful.0]),
            (16, &[*generation, *epoch]),
            (72, &[settled.position.0, settled.total, next.segment.0, next.offset]),
            (104, &[*accepted, *delivered, *refused, *filtered, *expired, *dropped, *lost]),
            (160, refused_by),
        ] {
            for (place, number) in bytes[offset..].chunks_exact_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
        assert!(name.len() <= NAME_LEN_MAX, "the configuration limits names");
        let u16_of = |count: usize| u16::try_from(count).expect("they are few").to_le_bytes();
        for (offset, count) in [(224, name.len()), (344, ranges.len()), (346, cuts.len())] {
            bytes[offset..offset + 2].copy_from_slice(&u16_of(count));
        }
        bytes[NAME_OFFSET..NAME_OFFSET + name.len()].copy_from_slice(name.as_bytes());
        let flags = flag(*is_paused, IS_PAUSED) | flag(*is_clean, IS_CLEAN);
        let doubts = (0..).zip(cuts.iter()).map(|(number, cut)| u32::from(cut.is_possibly_delivered) << number).sum();
        let Learned { url: _, has_delivered, takes_empty, bytes_max, takes } = *learned;
        let known = flag(has_delivered, HAS_DELIVERED)
            | flag(takes_empty.is_some(), EMPTY_IS_KNOWN)
            | flag(takes_empty == Some(true), TAKES_EMPTY)
            | flag(bytes_max.is_some(), BYTES_MAX_IS_KNOWN);
        let [takes_1, takes_2] = takes.map(|taken| match taken {
            Taken::Unknown => 0,
            Taken::Yes => 1,
            Taken::NotSince(since) => since.max(2),
        });
        for (offset, number) in [
            (336, flags),
            (340, doubts),
            (348, known),
            (360, bytes_max.unwrap_or_default()),
            (376, takes_1),
            (380, takes_2),
        ] {
            bytes[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        let of_ranges =
            ranges.iter().flat_map(|Range { from, to }| [from.position.0, from.total, to.position.0, to.total]);
        for (place, number) in bytes[RANGES_OFFSET..CUTS_OFFSET].chunks_exact_mut(8).zip(of_ranges) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let of_cuts = cuts.iter().flat_map(|cut| [cut.first.0, cut.last.0]);
        for (place, number) in bytes[CUTS_OFFSET..].chunks_exact_mut(8).zip(of_cuts) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether the bytes are those that were written, whatever they say.
    #[must_use]
    pub fn is_intact(bytes: &[u8; PAGE_LEN]) -> bool {
        let u32_at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"));
        &bytes[..8] == MAGIC && u32_at(8) == VERSION && u32_at(12) == checksum(bytes)
    }

    /// Reads a page; `None` if it is damaged, of another version, or what it says cannot be: its ledger does not add up,
    /// or its ranges or cuts are not in order.
    #[must_use]
    pub fn decode(bytes: &[u8; PAGE_LEN]) -> Option<Page> {
        let u64_at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"));
        let u32_at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"));
        let count_at = |offset: usize| usize::from(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]));
        let mark_at = |offset: usize| Mark { position: Position(u64_at(offset)), total: u64_at(offset + 8) };
        let id_at = |offset: usize| bytes[offset..offset + 16].try_into().expect("sixteen bytes");
        Page::is_intact(bytes).then_some(())?;
        let (name_len, ranges, cuts) = (count_at(224), count_at(344), count_at(346));
        (name_len <= NAME_LEN_MAX && ranges <= Ranges::MAX && cuts <= Cuts::MAX).then_some(())?;
        let ledger = Ledger {
            accepted: u64_at(104),
            delivered: u64_at(112),
            refused: u64_at(120),
            filtered: u64_at(128),
            expired: u64_at(136),
            dropped: u64_at(144),
            lost: u64_at(152),
            refused_by: std::array::from_fn(|n| u64_at(160 + 8 * n)),
        };
        ledger.adds_up().then_some(())?;
        let settled = mark_at(72);
        let range = |number| {
            let offset = RANGES_OFFSET + number * RANGE_LEN;
            Range { from: mark_at(offset), to: mark_at(offset + 16) }
        };
        let ranges = Ranges::checked((0..ranges).map(range), settled.position)?;
        // What is in them is in the ledger.
        (ranges.samples() <= ledger.accepted).then_some(())?;
        let (flags, doubts, known) = (u32_at(336), u32_at(340), u32_at(348));
        let cut = |number: usize| {
            let offset = CUTS_OFFSET + number * CUT_LEN;
            let (first, last) = (Position(u64_at(offset)), Position(u64_at(offset + 8)));
            Cut { first, last, is_possibly_delivered: doubts & 1 << number != 0 }
        };
        let is_known = |flag| known & flag != 0;
        let savepoint = Savepoint {
            settled,
            next: Place { segment: SegmentId(u64_at(88)), offset: u64_at(96) },
            ranges,
            ledger,
            cuts: Cuts::checked((0..cuts).map(cut), settled.position)?,
            reservation: Position(u64_at(RESERVATION_OFFSET)),
            doubtful: Position(u64_at(368)),
            is_paused: flags & IS_PAUSED != 0,
            is_clean: flags & IS_CLEAN != 0,
            learned: Learned {
                url: u64_at(352),
                has_delivered: is_known(HAS_DELIVERED),
                takes_empty: is_known(EMPTY_IS_KNOWN).then(|| is_known(TAKES_EMPTY)),
                bytes_max: is_known(BYTES_MAX_IS_KNOWN).then(|| u32_at(360)),
                takes: [376, 380].map(|offset| match u32_at(offset) {
                    0 => Taken::Unknown,
                    1 => Taken::Yes,
                    since => Taken::NotSince(since),
                }),
            },
        };
        Some(Page {
            generation: u64_at(16),
            epoch: u64_at(24),
            log_id: id_at(32),
            boot_id: id_at(48),
            written_ms: u64_at(64) as i64,
            savepoint,
            name: String::from_utf8(bytes[NAME_OFFSET..NAME_OFFSET + name_len].to_vec()).ok()?,
        })
    }
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

fn checksum(bytes: &[u8; PAGE_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(position: u64) -> Mark {
        Mark { position: Position(position), total: 10 * position }
    }

    /// With everything that fits into a page.
    fn page() -> Page {
        let range = |number: u64| Range { from: mark(4701 + 3 * number), to: mark(4703 + 3 * number) };
        let cut = |number: u64| Cut {
            first: Position(5000 + 2 * number),
            last: Position(5001 + 2 * number),
            is_possibly_delivered: number % 3 == 1,
        };
        let settled = Mark { position: Position(4700), total: 9_400_000 };
        Page {
            generation: 9,
            epoch: 2,
            log_id: [7; 16],
            boot_id: [8; 16],
            written_ms: -1,
            savepoint: Savepoint {
                settled,
                next: Place { segment: SegmentId(3), offset: 8192 },
                ranges: Ranges::checked((0..Ranges::MAX as u64).map(range), settled.position).unwrap(),
                ledger: Ledger {
                    accepted: 2043,
                    delivered: 2000,
                    refused: 28,
                    filtered: 3,
                    expired: 4,
                    dropped: 5,
                    lost: 3,
                    refused_by: [5, 7, 4, 9, 3],
                },
                cuts: Cuts::checked((0..Cuts::MAX as u64).map(cut), settled.position).unwrap(),
                reservation: Position(6000),
                doubtful: Position(5900),
                is_paused: true,
                is_clean: true,
                learned: Learned {
                    url: 0x0123_4567_89ab_cdef,
                    has_delivered: true,
                    takes_empty: Some(true),
                    bytes_max: Some(0),
                    takes: [Taken::Yes, Taken::NotSince(u32::MAX)],
                },
            },
            name: "x".repeat(NAME_LEN_MAX),
        }
    }

    fn put(bytes: &mut [u8; PAGE_LEN], offset: usize, number: u64) {
        bytes[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
    }

    /// What somebody would read who wrote this.
    fn decoded(mut bytes: Box<[u8; PAGE_LEN]>) -> Option<Page> {
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(Page::is_intact(&bytes));
        Page::decode(&bytes)
    }

    #[test]
    fn a_page_comes_back_as_it_was_written() {
        assert_eq!(Page::decode(&page().encode()), Some(page()));
    }

    #[test]
    fn each_thing_that_is_said_is_said_alone() {
        let plain = Page { savepoint: Savepoint::default(), ..page() };
        let mut learned = [Learned::default(); 8];
        learned[0].url = 1;
        learned[1].has_delivered = true;
        learned[2].takes_empty = Some(true);
        learned[3].takes_empty = Some(false);
        learned[4].bytes_max = Some(1);
        learned[5].takes = [Taken::Yes, Taken::Unknown];
        learned[6].takes = [Taken::Unknown, Taken::Yes];
        learned[7].takes = [Taken::NotSince(2), Taken::Yes];
        let learned = learned.map(|learned| Savepoint { learned, ..Savepoint::default() });
        let others = [
            Savepoint { is_paused: true, ..Savepoint::default() },
            Savepoint { is_clean: true, ..Savepoint::default() },
            Savepoint { reservation: Position(1), ..Savepoint::default() },
            Savepoint { doubtful: Position(1), ..Savepoint::default() },
        ];
        for savepoint in learned.into_iter().chain(others) {
            let page = Page { savepoint, ..plain.clone() };
            assert_eq!(Page::decode(&page.encode()), Some(page));
        }
    }

    #[test]
    fn a_page_from_before_there_were_ranges_has_none() {
        let mut bytes = page().encode();
        bytes[RESERVATION_OFFSET..].fill(0);
        let Savepoint { settled, next, ledger, .. } = page().savepoint;
        let expected = Savepoint { settled, next, ledger, ..Savepoint::default() };
        assert_eq!(decoded(bytes).map(|page| page.savepoint), Some(expected));
    }

    #[test]
    fn what_a_later_release_says_is_not_looked_at() {
        let mut bytes = page().encode();
        bytes[384..RANGES_OFFSET].fill(7);
        bytes[3072..].fill(7);
        bytes[339] = 0x80;
        assert_eq!(decoded(bytes), Some(page()));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = page().encode();
        for offset in 0..PAGE_LEN {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x10;
            assert_eq!(Page::decode(&damaged), None, "offset {offset}");
        }
    }

    #[test]
    fn a_page_whose_ledger_does_not_add_up_is_not_believed() {
        let mut wrong = page();
        wrong.savepoint.ledger.delivered += 1;
        assert_eq!(Page::decode(&wrong.encode()), None);
    }

    #[test]
    fn a_page_that_says_what_cannot_be_is_not_believed() {
        let with = |offset, number| {
            let mut bytes = page().encode();
            put(&mut bytes, offset, number);
            decoded(bytes)
        };
        let places = |ranges: u64, cuts: u64| u64::from(31u32) << 32 | cuts << 16 | ranges;
        assert_eq!(with(344, places(64, 32)), Some(page()));
        assert_eq!(with(344, places(65, 32)), None, "a range too many");
        assert_eq!(with(344, places(64, 33)), None, "a cut too many");
        assert_eq!(with(72, 4701), None, "a range touches what is settled");
        assert_eq!(with(RANGES_OFFSET + RANGE_LEN, 4700), None, "ranges overlap");
        assert_eq!(with(RANGES_OFFSET + 16, 4701), None, "a range is empty");
        assert_eq!(with(RANGES_OFFSET + 24, u64::MAX), None, "more is in ranges than in the ledger");
        assert_eq!(with(CUTS_OFFSET, 4700), None, "a cut of what is settled");
        assert_eq!(with(CUTS_OFFSET + 8, 4999), None, "a cut of nothing");
        assert_eq!(with(CUTS_OFFSET + CUT_LEN, 5001), None, "cuts overlap");
        let mut bytes = page().encode();
        bytes[224] = 101;
        assert_eq!(decoded(bytes), None, "a name that is too long");
    }
}
