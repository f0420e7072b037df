//! One page of a savepoint file: 4 KiB with a checksum.
//!
//! ```text
//!   0 [8] magic "PRWSAVE\n"     8 u32 version, 1     12 u32 CRC32C over the page without these four bytes
//!  16 u64 generation           24 u64 epoch: raised whenever the savepoint is moved otherwise than by settling
//!  32 [16] log id              48 [16] boot id       64 i64 written, ms since 1970
//!  72 u64 settled position     80 u64 settled total  88 u64 segment    96 u64 offset of the next record
//! 104 u64 accepted  delivered  refused  filtered  expired  dropped  lost
//! 160 u64 refused by reason, 8 places: status, partial, then zeroes
//! 224 u16 length of the name   226 name              zeroes up to 4096
//! ```

use super::Savepoint;
use super::ledger::{Ledger, Reason};
use crate::wal::{Mark, Place, Position, SegmentId};

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PRWSAVE\n";
const REASONS_MAX: usize = 8;
const NAME_OFFSET: usize = 226;

const _: () = assert!(Reason::ALL.len() <= REASONS_MAX);

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
        let Savepoint { settled, next, ledger } = savepoint;
        let Ledger { accepted, delivered, refused, filtered, expired, dropped, lost, refused_by } = ledger;
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[32..48].copy_from_slice(log_id);
        bytes[48..64].copy_from_slice(boot_id);
        bytes[64..72].copy_from_slice(&written_ms.to_le_bytes());
        for (offset, numbers) in [
            (16, &[*generation, *epoch][..]),
            (72, &[settled.position.0, settled.total, next.segment.0, next.offset]),
            (104, &[*accepted, *delivered, *refused, *filtered, *expired, *dropped, *lost]),
            (160, refused_by),
        ] {
            for (place, number) in bytes[offset..].chunks_exact_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
        let len = u16::try_from(name.len()).expect("the configuration limits names");
        bytes[224..226].copy_from_slice(&len.to_le_bytes());
        bytes[NAME_OFFSET..NAME_OFFSET + name.len()].copy_from_slice(name.as_bytes());
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

    /// Reads a page; `None` if it is damaged, of another version, or its ledger does not add up.
    #[must_use]
    pub fn decode(bytes: &[u8; PAGE_LEN]) -> Option<Page> {
        let u64_at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"));
        let id_at = |offset: usize| bytes[offset..offset + 16].try_into().expect("sixteen bytes");
        Page::is_intact(bytes).then_some(())?;
        let name_len = usize::from(u16::from_le_bytes([bytes[224], bytes[225]]));
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
        let savepoint = Savepoint {
            settled: Mark { position: Position(u64_at(72)), total: u64_at(80) },
            next: Place { segment: SegmentId(u64_at(88)), offset: u64_at(96) },
            ledger,
        };
        ledger.adds_up().then_some(())?;
        Some(Page {
            generation: u64_at(16),
            epoch: u64_at(24),
            log_id: id_at(32),
            boot_id: id_at(48),
            written_ms: u64_at(64) as i64,
            savepoint,
            name: String::from_utf8(bytes.get(NAME_OFFSET..NAME_OFFSET + name_len)?.to_vec()).ok()?,
        })
    }
}

fn checksum(bytes: &[u8; PAGE_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page {
            generation: 9,
            epoch: 2,
            log_id: [7; 16],
            boot_id: [8; 16],
            written_ms: -1,
            savepoint: Savepoint {
                settled: Mark { position: Position(4700), total: 9_400_000 },
                next: Place { segment: SegmentId(3), offset: 8192 },
                ledger: Ledger {
                    accepted: 28,
                    delivered: 1,
                    refused: 12,
                    filtered: 3,
                    expired: 4,
                    dropped: 5,
                    lost: 3,
                    refused_by: [5, 7],
                },
            },
            name: "central".into(),
        }
    }

    #[test]
    fn a_page_comes_back_as_it_was_written() {
        assert_eq!(Page::decode(&page().encode()), Some(page()));
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
}
