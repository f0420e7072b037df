//! The museum of damaged directories: each exhibit is the log of a real run that something has happened to. A relay is started on it,
//! and what comes out is compared exactly with what is still there.
//!
//! ```text
//!  base        the directory that a real run left, killed or stopped; and where each record lies in it
//!  image       a directory as bytes in memory: changed at will, then put on a disk
//!  expected    what must come out of a base whose bytes were changed: pure
//!  opened      what comes out of the library, for thousands of images
//!  visit       what comes out of the program, at its first start and at later ones
//!
//!  torn        the last record is not whole
//!  flipped     single bytes are not what they were
//!  zeroed      whole pages are gone
//!  files       segments and savepoints are missing, exchanged, foreign, unusable
//!  golden      directories that earlier versions have written
//! ```
//!
//! Whatever the exhibit: the relay starts, is ready and takes requests; nothing that comes out was not put in; what is whole comes out;
//! what was acknowledged and is gone is counted as lost, to the sample. One thing nobody can know: whether the records at the very end of a
//! log without a seal were acknowledged before they were damaged. Those may be missing without being counted.
//!
//! `PROMRELAY_MUSEUM_VISITS=50` starts the program too for each 50th image of those that the library is shown by the thousand; else each
//! [`visit::EVERY`]th.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod base;
mod expected;
mod files;
mod flipped;
mod golden;
mod image;
mod opened;
mod torn;
mod visit;
mod zeroed;
