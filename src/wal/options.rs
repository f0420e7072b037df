//! How a log is opened.

use std::time::Duration;

use super::prefill::Prefill;
use super::record;
use super::segment::{DATA_START, SEAL_LEN};

/// When a record counts as appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// After a sync that covers it. Survives `kill -9`, a crash of the system and a power cut.
    Always,
    /// After it was written; a sync follows within this time. Survives `kill -9`; a crash of the system or a power cut takes
    /// what came in this time.
    Interval(Duration),
    /// After it was written; the system decides when it reaches the disk. Survives `kill -9`; a crash of the system or a power
    /// cut takes what the system had not written yet, mostly half a minute.
    Never,
}

/// What a start makes of a log that is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// It goes on with everything that can be read, and reports the rest.
    #[default]
    Tolerate,
    /// It ends with an error and changes nothing, if there is more to report than a torn tail.
    Strict,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Most bytes on disk, everything counted; at least twice a segment.
    pub max_bytes: u64,
    /// Bytes that others keep in the log's directory; they count towards `max_bytes`.
    pub overhead: u64,
    /// Bytes of the filesystem that are left to others: with less the log counts as full.
    pub min_free: u64,
    /// When a record counts as appended.
    pub sync: SyncMode,
    /// What is made of damage.
    pub recovery: Recovery,
    /// Whether segments are filled with zeroes ahead of their use.
    pub prefill: Prefill,
}

impl Options {
    /// The usual ones.
    #[must_use]
    pub const fn new(segment_bytes: u64, max_bytes: u64) -> Options {
        Options {
            segment_bytes,
            max_bytes,
            overhead: 0,
            min_free: 0,
            sync: SyncMode::Always,
            recovery: Recovery::Tolerate,
            prefill: Prefill::Never,
        }
    }

    /// Most bytes that a record of a log with such segments can take.
    #[must_use]
    pub fn record_bytes_max(segment_bytes: u64) -> u64 {
        segment_bytes.saturating_sub(DATA_START + SEAL_LEN) / record::ALIGN * record::ALIGN
    }
}
