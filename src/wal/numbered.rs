//! Records of which each is told from all others by its body, and a log in memory to put them into. For tests.

use std::time::Duration;

use bytes::Bytes;

use super::record::{Content, Counts, Kind, Meta, NewRecord, TimeRange};
use super::{AppendError, Appended, Appender, Observer, Record, Ticket};

/// An observer that looks away.
pub(super) struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

/// What the record with this number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    /// No two records of a test have the same.
    pub number: u64,
    /// Bytes of its body, at least the eight of its number.
    pub len: usize,
}

impl Numbered {
    /// Samples that it is said to hold: not the same for all.
    pub fn samples(self) -> u64 {
        1 + self.number % 7
    }

    fn body(self) -> Vec<u8> {
        self.number.to_le_bytes().into_iter().cycle().take(self.len.max(8)).collect()
    }

    pub fn record(self) -> NewRecord {
        let content = Content {
            kind: Kind::Write1,
            flags: 0,
            counts: Counts { samples: self.samples() as u32, series: 1, ..Counts::default() },
            times: TimeRange { min: 1, max: 2 },
            decoded_len: 100,
        };
        let meta = Meta { forwarded: vec![("x-number".into(), self.number.to_le_bytes().to_vec())], sender: None };
        NewRecord::new(content, &meta, Bytes::from(self.body()), 5)
    }

    /// The record that was read, byte for byte.
    pub fn of(record: &Record) -> Numbered {
        let number = record.body.first_chunk().expect("eight bytes of a number");
        let numbered = Numbered { number: u64::from_le_bytes(*number), len: record.body.len() };
        assert_eq!(record.meta.forwarded[0].1, number, "the fields are those of another record");
        assert!(record.body == numbered.body(), "the body of record {} is garbled", numbered.number);
        assert_eq!(record.header.counts.ledger_samples(), numbered.samples(), "the counts are those of another record");
        numbered
    }
}

/// Appends records in one go and waits for each.
pub(super) fn append_all(appender: &Appender, records: &[Numbered]) -> Vec<Result<Appended, AppendError>> {
    let tickets: Vec<Ticket> = records.iter().map(|record| appender.append(record.record(), Box::new(()))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tickets.into_iter().map(|mut ticket| runtime.block_on(ticket.outcome())).collect()
}
