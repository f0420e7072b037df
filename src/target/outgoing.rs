//! What a target is to be sent of a record: the request as it was stored, or what the target's own rules leave of it.
//!
//! ```text
//!   record      100 samples  [ a a b c c ]
//!   outgoing     60 samples  [ a' a' b'  ]     40 filtered: they are told together with the others, when the record is settled
//! ```
//!
//! Made once, when the record is read. From then on everything (what is merged, cut, refused and kept) is about what the target gets; the
//! record's own samples are only what its mark counts. One that has nothing left for the target is settled in its turn, and nothing is sent.

use std::ops::Deref;

use bytes::Bytes;

use crate::wal::record::Counts;
use crate::wal::{Mark, Record};

/// See the module.
#[derive(Debug)]
pub struct Outgoing {
    /// With the body, counts and lengths of what is sent.
    record: Record,
    /// Samples that are not.
    filtered: u64,
}

impl Outgoing {
    /// Of a record that is sent as it was stored.
    #[must_use]
    pub fn whole(record: Record) -> Outgoing {
        Outgoing { record, filtered: 0 }
    }

    /// Of a record of which this is left.
    ///
    /// # Panics
    /// There is more than there was, or a body of 4 GiB.
    #[must_use]
    pub fn rewritten(record: Record, body: Bytes, decoded_len: u32, counts: Counts) -> Outgoing {
        let mut record = record;
        let filtered = record.header.counts.ledger_samples().checked_sub(counts.ledger_samples());
        let filtered = filtered.expect("rules take samples out and make none");
        record.header.body_len = u32::try_from(body.len()).expect("a body has less than 4 GiB");
        record.header.decoded_len = decoded_len;
        record.header.counts = counts;
        record.body = body;
        Outgoing { record, filtered }
    }

    /// The point before the record.
    #[must_use]
    pub fn before(&self) -> Mark {
        let header = &self.record.header;
        Mark { position: header.position.previous(), total: header.total_before().saturating_sub(self.filtered) }
    }

    /// Samples that the target's rules have taken out.
    #[must_use]
    pub fn filtered(&self) -> u64 {
        self.filtered
    }

    /// Whether nothing of it is left to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record.header.decoded_len == 0
    }
}

impl Deref for Outgoing {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

#[cfg(test)]
pub mod testing {
    //! Records for tests.

    use super::*;
    use crate::protocol::snappy;
    use crate::wal::record::{Header, Kind, Meta, TimeRange};
    use crate::wal::{Place, Position, SegmentId};

    /// The seventh of a log, up to which there are 1000 samples.
    pub fn record(kind: Kind, message: &[u8], counts: Counts) -> Record {
        let body = snappy::compress(message).unwrap();
        let header = Header {
            kind,
            flags: 0,
            position: Position(7),
            total: 1000,
            body_len: body.len() as u32,
            meta_len: 0,
            body_crc: 0,
            received_ms: 0,
            counts,
            times: TimeRange { min: 2, max: 2 },
            unacknowledged: 0,
            decoded_len: message.len() as u32,
        };
        let meta = Meta { forwarded: Vec::new(), sender: None };
        Record { header, meta, body: body.into(), next: Place { segment: SegmentId(1), offset: 0 } }
    }
}
