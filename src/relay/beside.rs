//! What is on disk beside segments, and counts towards `max_size` like these: whoever opens the log, a start or a command, must know.

use crate::config::Config;
use crate::dead_letter::{self, Ring};
use crate::savepoint::Store;
use crate::wal;

/// The lock, the list of names, directories.
const OVERHEAD_BYTES: u64 = 32 << 10;
/// For each target: a savepoint, and a new one while it is replaced.
const SAVEPOINT_BYTES: u64 = 24 << 10;

/// The ring of dead letters. The log goes first: what is left of the disk must do for its next two segments.
#[must_use]
pub fn ring_options(config: &Config) -> dead_letter::Options {
    let leave_free = config.wal.min_free.saturating_add(2 * config.wal.segment_bytes);
    dead_letter::Options { bytes: config.dead_letter_bytes, leave_free }
}

/// The log, which leaves room for the rest.
#[must_use]
pub fn log_options(config: &Config, store: &Store) -> wal::Options {
    let names = store.known().count() + config.targets.len();
    let ring_bytes = Ring::reserved_bytes(&config.wal_dir, ring_options(config));
    wal::Options { overhead: OVERHEAD_BYTES + SAVEPOINT_BYTES * names as u64 + ring_bytes, ..config.wal }
}
