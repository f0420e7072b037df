//! promrelay.
pub mod wal;
