//! Records, decompressed one behind the other in memory that is used again: those of a request, or the one that rules are applied to.
//!
//! ```text
//!   memory    [ record 0 | record 1 | record 2 |  . . .  ]      as long as the longest of late, at most KEPT_MAX from one use to the next
//! ```
//!
//! What is given back to the system after each use is mapped and cleared anew for the next: for megabytes, that costs as much as to decompress into them.

use crate::protocol::snappy::{self, SnappyError};
use crate::wal::Record;

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
    pub fn of<'r>(&mut self, records: impl Iterator<Item = &'r Record> + Clone) -> Result<Vec<&[u8]>, SnappyError> {
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

    /// After a use: what was needed for a large one.
    pub fn give_back(&mut self) {
        if self.memory.capacity() > KEPT_MAX {
            self.memory = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::outgoing::testing::record;
    use crate::wal::record::{Counts, Kind};

    fn of(message: &[u8]) -> Record {
        record(Kind::Write1, message, Counts::default())
    }

    #[test]
    fn each_message_is_that_of_its_record_whatever_was_in_the_memory() {
        let mut messages = Messages::default();
        for texts in [&["abc", "", "defgh"][..], &["x", "yz"], &[], &["abcdefghijk", "l"]] {
            let records: Vec<Record> = texts.iter().map(|text| of(text.as_bytes())).collect();
            let expected: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(messages.of(records.iter()).unwrap(), expected);
        }
    }

    #[test]
    fn what_holds_more_than_its_record_says_is_an_error_and_reaches_into_no_other() {
        let mut says_less = of(b"abcdef");
        says_less.header.decoded_len = 3;
        assert!(Messages::default().of([says_less, of(b"de")].iter()).is_err());
    }

    #[test]
    fn what_a_large_use_needed_is_given_back() {
        let mut messages = Messages::default();
        for (len, is_kept) in [(KEPT_MAX, true), (KEPT_MAX + 1, false), (10, true)] {
            messages.of([of(&vec![7; len])].iter()).unwrap();
            messages.give_back();
            assert_eq!(messages.memory.capacity() > 0, is_kept);
        }
    }
}
