//! What must come out of a base whose bytes were changed in place, or cut: told by comparing them, record by record.

use crate::base::{Base, SEGMENTS, Stored};
use crate::image::Image;

const HEADER_LEN: usize = 96;
const SEAL_LEN: usize = 192;
/// The header's copy and the seal.
const COPY_START: usize = 4096;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Positions that come, ascending.
    pub positions: Vec<u64>,
    /// Samples that are counted as lost.
    pub lost: u64,
}

impl Expected {
    /// The numbers of the requests that come.
    pub fn numbers(&self) -> Vec<u64> {
        self.positions.iter().map(|position| position - 1).collect()
    }

    /// Everything but the segments in `gone`, which are counted as lost.
    pub fn without(base: &Base, gone: &[u64]) -> Expected {
        let stays = |record: &&Stored| !gone.contains(&record.segment);
        Expected {
            positions: base.records.iter().filter(stays).map(|record| record.position).collect(),
            lost: gone.iter().map(|segment| base.samples(*segment)).sum(),
        }
    }

    /// Of an image in which each segment of the base is still in its file.
    pub fn of(base: &Base, image: &Image) -> Expected {
        let mut expected = Expected::default();
        for segment in 1..=SEGMENTS {
            let (before, now) = (base.image.segment(segment), image.segment(segment));
            let is_known = is_header_whole(before, now);
            let is_whole = |record: &&Stored| is_known && is_same(before, now, record.offset, record.len);
            let whole: Vec<&Stored> = base.of_segment(segment).filter(is_whole).collect();
            // What is behind the last whole record of the newest segment is told by its seal, or by nothing.
            let is_told = segment < SEGMENTS || (is_known && is_sealed(before) && is_end_same(before, now, SEAL_LEN));
            let last = if is_told { u64::MAX } else { whole.last().map_or(0, |record| record.position) };
            let is_lost = |record: &&Stored| !is_whole(record) && record.position < last;
            expected.lost += base.of_segment(segment).filter(is_lost).map(|record| record.samples).sum::<u64>();
            expected.positions.extend(whole.iter().map(|record| record.position));
        }
        expected
    }
}

fn is_same(before: &[u8], now: &[u8], offset: usize, len: usize) -> bool {
    now.get(offset..offset + len) == Some(&before[offset..offset + len])
}

fn is_sealed(segment: &[u8]) -> bool {
    segment[segment.len() - SEAL_LEN..].iter().any(|byte| *byte != 0)
}

/// The last `len` bytes are still the last.
fn is_end_same(before: &[u8], now: &[u8], len: usize) -> bool {
    before.len() == now.len() && is_same(before, now, before.len() - len, len)
}

/// The header or its copy is.
fn is_header_whole(before: &[u8], now: &[u8]) -> bool {
    let copy = COPY_START;
    is_same(before, now, 0, HEADER_LEN) || is_same(before, now, copy, HEADER_LEN)
}
