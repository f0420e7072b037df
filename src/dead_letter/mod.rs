//! The dead-letter ring: what targets refused for good is kept, with the target's answer, until somebody has looked at it or newer
//! refusals need its place.
//!
//! ```text
//!  target refuses ---> Ring::append ---one fdatasync---> then the savepoint page that counts it
//!                         |
//!         dead-letter/ring.dl, allocated once
//!         0        4096       8192                                                              size
//!         | header | (copy)   | entry | entry | .. newest | older entries ..   | (too short)    |
//!                                                          ^ the next one goes here, over the oldest
//!  list, get ---> for people        get ---> sent again ---> remove
//! ```
//!
//! # Promises
//! - An entry whose append returned without an error survives `kill -9` and power cuts, until newer ones need its place.
//! - An entry comes back as it was handed in, or not at all: everything has a checksum, bound to its place and to this ring.
//! - What was removed stays removed.
//! - Ids ascend for ever; the highest is the newest.
//! - Whatever is in the file, opening it works, in time bounded by what was ever written to it; of bodies only those of the last append
//!   are read.
//!
//! # Limits
//! An entry that would take more than a quarter of the ring is kept without its body. In memory there is an index of about a
//! hundred bytes an entry; an entry takes at least [`STORED_MIN`] bytes on disk, so the index of 64 MiB is at most 13 MiB, and for
//! requests of usual size some hundred kilobytes.
//!
//! # Trouble with the disk
//! Nothing waits for the ring. If there is no room for it, there is none, and it is tried again at a later append. A sync that
//! failed is not called again: the file is opened anew, and the next entries go behind those that failed. The ring logs when trouble
//! begins and ends; who appends has a line of its own for each refusal.

mod content;
mod entry;
#[cfg(test)]
mod faults;
mod file;
mod open;
mod ring;
mod shown;
#[cfg(test)]
mod tests;

pub use content::{Content, ContentError, content, describe_first};
pub use entry::{Entry, NewEntry, SERIES_LEN_MAX, STORED_MIN, Summary, TEXT_LEN_MAX};
pub use file::BYTES_MIN;
pub use ring::{Listing, Options, Ring, Stats};
pub use shown::{LINES_MAX, Shown};

use std::io;

/// The directory of the ring, in that of the log.
pub const DIRECTORY: &str = "dead-letter";

/// Why the ring did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `wal.dead_letter_size` is 0.
    #[error("the dead-letter ring is turned off (wal.dead_letter_size)")]
    Off,
    /// There is no ring now: no room for it, mostly. It is tried again at a later append.
    #[error("there is no dead-letter ring: {reason}")]
    Missing {
        /// Why.
        reason: String,
    },
    /// There is no entry of this id: it was never there, it was removed, or newer ones have taken its place.
    #[error("there is no entry {id} in the dead-letter ring")]
    Unknown {
        /// Which.
        id: u64,
    },
    /// Its bytes are not those that were written. It is gone.
    #[error("entry {id} of the dead-letter ring is damaged")]
    Damaged {
        /// Which.
        id: u64,
    },
    /// What the system says. Of an append: none of the entries counts as kept, though some may be there after a restart.
    #[error("the dead-letter ring cannot be read or written")]
    Io(#[from] io::Error),
}
