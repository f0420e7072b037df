//! The steps through one segment's records: each record, and each hole between them.
//!
//! ```text
//!  valid header -------> Record, with its body's checksum if somebody wants to know
//!  anything else ------> Hole, up to the next valid header, every 64 bytes, or to the end
//! ```
//!
//! A relay may be writing here. Its records appear in order: when a later one can be seen, an earlier one that could
//! not be read a moment ago is looked at again before it is called a hole.

use std::io;

use super::super::position::Position;
use super::super::record::{self, HEADER_LEN, Header};
use super::super::segment::{DATA_START, Segment};

/// So much without anything in it is taken for the end by a walk that only looks.
const BLANK: u64 = 64 << 10;

/// What comes next in a segment.
#[derive(Debug)]
pub enum Step {
    /// A record with a valid header.
    Record {
        /// Where it starts.
        offset: u64,
        /// Its header.
        header: Header,
        /// What its fields and body are worth.
        body: Body,
    },
    /// No valid record.
    Hole {
        /// Where it starts.
        offset: u64,
        /// Up to the next record, or to the end.
        bytes: u64,
        /// The disk did not give some of it.
        error: Option<io::Error>,
    },
}

/// A record's fields and body.
#[derive(Debug)]
pub enum Body {
    /// Nobody wanted them.
    Unread,
    /// Their checksum is right: see [`Walk::payload`].
    Whole,
    /// Their checksum is wrong.
    Damaged,
    /// The disk does not give them.
    Unreadable(io::Error),
}

/// A moving place in a segment.
#[derive(Debug)]
pub struct Walk<'a> {
    segment: &'a Segment,
    end: u64,
    offset: u64,
    last: Position,
    payload: Vec<u8>,
    ends_at_blank: bool,
}

impl<'a> Walk<'a> {
    /// Through what lies before `end`.
    #[must_use]
    pub fn new(segment: &'a Segment, end: u64) -> Walk<'a> {
        let last = segment.header().before.position;
        Walk { segment, end, offset: DATA_START, last, payload: Vec::new(), ends_at_blank: false }
    }

    /// Without a search through what nobody has written yet.
    #[must_use]
    pub fn up_to_blank(self) -> Walk<'a> {
        Walk { ends_at_blank: true, ..self }
    }

    /// Behind the last step.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Fields and body of the last record, if they are whole.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Steps on; `None` at the end. The body is read if `wants` says so.
    pub fn next_step(&mut self, wants: impl FnOnce(&Header) -> bool) -> Option<Step> {
        while self.offset < self.end {
            let offset = self.offset;
            let here = self.segment.read_header(offset, self.end);
            if let Ok(Some(header)) = here
                && header.position > self.last
            {
                self.last = header.position;
                self.offset += header.stored_len();
                let body = if wants(&header) { self.read_body(offset, &header) } else { Body::Unread };
                return Some(Step::Record { offset, header, body });
            }
            if self.ends_at_blank && is_blank(self.segment, offset, self.end.min(offset + BLANK)) {
                self.offset = self.end;
                return None;
            }
            let search = self.segment.find_header(offset + record::ALIGN, self.end, self.last);
            let is_there_now =
                || matches!(self.segment.read_header(offset, self.end), Ok(Some(h)) if h.position > self.last);
            if search.found.is_some() && is_there_now() {
                continue;
            }
            self.offset = search.found.map_or(self.end, |(at, _)| at);
            let error = here.err().or(search.unreadable);
            return Some(Step::Hole { offset, bytes: self.offset - offset, error });
        }
        None
    }

    fn read_body(&mut self, offset: u64, header: &Header) -> Body {
        read_body(self.segment, offset, header, &mut self.payload)
    }
}

/// Reads fields and body of the record at `offset` and compares their checksum.
pub(super) fn read_body(segment: &Segment, offset: u64, header: &Header, to: &mut Vec<u8>) -> Body {
    to.resize(usize::try_from(header.payload_len()).expect("a record fits in memory"), 0);
    match segment.copy(offset + HEADER_LEN as u64, to) {
        Ok(()) if record::payload_crc(&[], to) == header.body_crc => Body::Whole,
        Ok(()) => Body::Damaged,
        Err(error) => Body::Unreadable(error),
    }
}

/// Whether there are only zeroes from `from` to `to`. What cannot be read is not blank.
pub(super) fn is_blank(segment: &Segment, from: u64, to: u64) -> bool {
    written_len(segment, from, to, BLANK) == 0
}

/// Bytes from `from` on up to the first `step` bytes without anything in them.
pub(super) fn written_len(segment: &Segment, from: u64, to: u64, step: u64) -> u64 {
    let mut window = vec![0u8; usize::try_from(step).expect("a window fits in memory")];
    let (mut at, mut written) = (from, 0);
    while at < to {
        let window = &mut window[..usize::try_from(step.min(to - at)).expect("at most a window")];
        let last = match segment.copy(at, window) {
            Ok(()) => window.iter().rposition(|byte| *byte != 0),
            Err(_) => Some(window.len() - 1),
        };
        let Some(last) = last else { break };
        written = at - from + last as u64 + 1;
        at += window.len() as u64;
    }
    written
}
