//! `[wal]`: the log, and what a full one gives up.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{Checker, quoted, show};
use super::value::Size;
use super::{ConfigError, MIB, Room, WhenFull, file};
use crate::dead_letter;
use crate::wal::{self, SyncMode};

impl Checker<'_> {
    pub fn wal(&self, wal: file::Wal) -> Result<(PathBuf, wal::Options, Room), ConfigError> {
        let dir = wal.dir.map_or_else(|| "data".to_owned(), |dir| dir.0);
        if dir.is_empty() {
            return self.bad("wal.dir", "\"\"", "must be a directory");
        }
        let sync = match wal.sync.as_ref().map_or("always", |sync| &*sync.0) {
            "always" => SyncMode::Always,
            "never" => SyncMode::Never,
            text => match humantime::parse_duration(text) {
                Ok(interval) if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&interval) => {
                    SyncMode::Interval(interval)
                }
                Ok(_) => return self.bad("wal.sync", quoted(text), "an interval must be between 1ms and 1m"),
                Err(_) => {
                    return self.bad(
                        "wal.sync",
                        quoted(text),
                        "must be \"always\", \"never\" or an interval such as \"100ms\"",
                    );
                }
            },
        };
        let max_bytes = self.size("wal.max_size", wal.max_size, 10 << 30, 8 * MIB)?;
        let segment_bytes = self.size("wal.segment_size", wal.segment_size, (128 * MIB).min(max_bytes / 8), MIB)?;
        if segment_bytes > max_bytes / 8 {
            let reason = format!("must be at most an eighth of wal.max_size, {}", show(max_bytes / 8));
            return self.bad("wal.segment_size", show(segment_bytes), reason);
        }
        // Whole pages: the seal has the last one.
        let segment_bytes = segment_bytes / 4096 * 4096;
        let min_free = self.size("wal.min_free", wal.min_free, 0, 0)?;
        let recovery = match wal.recovery {
            file::Recovery::Tolerate => wal::Recovery::Tolerate,
            file::Recovery::Strict => wal::Recovery::Strict,
        };
        let prefill = match wal.prefill {
            file::Prefill::Never => wal::Prefill::Never,
            file::Prefill::Auto => wal::Prefill::Auto,
            file::Prefill::Always => wal::Prefill::Always,
        };
        let when_full = match wal.when_full {
            file::WhenFull::Auto => WhenFull::Auto,
            file::WhenFull::Reject => WhenFull::Reject,
            file::WhenFull::DropOldest => WhenFull::DropOldest,
        };
        let room = Room { retain: self.span("wal.retain", wal.retain, 0, 0)?, when_full };
        let options = wal::Options { min_free, sync, recovery, prefill, ..wal::Options::new(segment_bytes, max_bytes) };
        Ok((PathBuf::from(dir), options, room))
    }

    pub fn dead_letter_bytes(&self, size: Option<Size>, max_bytes: u64) -> Result<u64, ConfigError> {
        let (key, most) = ("wal.dead_letter_size", max_bytes / 16);
        let bytes = size.map_or((64 * MIB).min(most), |size| size.0);
        if bytes > most {
            return self.bad(key, show(bytes), format!("must be at most a sixteenth of wal.max_size, {}", show(most)));
        }
        if bytes > 0 && bytes < dead_letter::BYTES_MIN {
            let reason = format!("must be at least {}, or \"0B\" for none", show(dead_letter::BYTES_MIN));
            return self.bad(key, show(bytes), reason);
        }
        Ok(bytes)
    }
}
