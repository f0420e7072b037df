//! promrelay.
pub mod cli;
pub mod clock;
pub mod config;
pub mod metrics;
pub mod protocol;
pub mod receive;
pub mod relay;
pub mod savepoint;
pub mod target;
pub mod wal;
pub mod web;
