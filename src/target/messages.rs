//! The records of a request, decompressed one behind the other in memory that is used again.
//!
//! ```text
//!   memory    [ record 0 | record 1 | record 2 |  . . .  ]      as long as the longest of late, at most KEPT_MAX between requests
//! ```
//!
//! What is given back to the system after each request is mapped and cleared anew for the next: for megabytes, that costs as much as to decompress into them.

use super::outgoing::Outgoing;
use crate::protocol::snappy::{self, SnappyError};

/// More of it is given back.
const KEPT_MAX: usize = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Messages {
    memory: Vec<u8>,
}

impl Messages {
    /// The messages of these records, in their order.
    ///
    /// # Errors
    /// One does not decompress to what its record says.
    pub fn of<'r>(&mut self, records: impl Iterator<Item = &'r Outgoing> + Clone) -> Result<Vec<&[u8]>, SnappyError> {
        let len = records.clone().map(|record| record.header.decoded_len as usize).sum();
        if self.memory.len() < len {
            self.memory.resize(len, 0);
        }
        let mut rest = &mut self.memory[..];
        let mut messages = Vec::new();
        for record in records {
            // It was checked against the limits when it was received.
            let (room, behind) = rest.split_at_mut(record.header.decoded_len as usize);
            messages.push(snappy::decompress_in(&record.body, room)?);
            rest = behind;
        }
        Ok(messages)
    }

    /// Between requests: what was needed for a large one.
    pub fn give_back(&mut self) {
        if self.memory.capacity() > KEPT_MAX {
            self.memory = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::record::{Counts, Header, Kind, Meta, TimeRange};
    use crate::wal::{Place, Position, Record, SegmentId};

    fn record(message: &[u8]) -> Outgoing {
        let body = snappy::compress(message).unwrap();
        let header = Header {
            kind: Kind::Write1,
            flags: 0,
            position: Position(1),
            total: 0,
            body_len: body.len() as u32,
            meta_len: 0,
            body_crc: 0,
            received_ms: 0,
            counts: Counts::default(),
            times: TimeRange { min: 0, max: 0 },
            unacknowledged: 0,
            decoded_len: message.len() as u32,
        };
        let next = Place { segment: SegmentId(1), offset: 0 };
        let meta = Meta { forwarded: Vec::new(), sender: None };
        Outgoing::whole(Record { header, meta, body: body.into(), next })
    }

    #[test]
    fn each_message_is_that_of_its_record_whatever_was_in_the_memory() {
        let mut messages = Messages::default();
        for texts in [&["abc", "", "defgh"][..], &["x", "yz"], &[], &["abcdefghijk", "l"]] {
            let records: Vec<Outgoing> = texts.iter().map(|text| record(text.as_bytes())).collect();
            let expected: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(messages.of(records.iter()).unwrap(), expected);
        }
    }

    #[test]
    fn what_holds_more_than_its_record_says_is_an_error_and_reaches_into_no_other() {
        let long = snappy::compress(b"abcdef").unwrap();
        let says_less = Outgoing::rewritten(Record::clone(&record(b"abc")), long.into(), 3, Counts::default());
        assert!(Messages::default().of([says_less, record(b"de")].iter()).is_err());
    }

    #[test]
    fn what_a_large_request_needed_is_given_back() {
        let mut messages = Messages::default();
        for (len, is_kept) in [(KEPT_MAX, true), (KEPT_MAX + 1, false), (10, true)] {
            messages.of([record(&vec![7; len])].iter()).unwrap();
            messages.give_back();
            assert_eq!(messages.memory.capacity() > 0, is_kept);
        }
    }
}
