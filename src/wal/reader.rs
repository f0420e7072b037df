//! A cursor: steps through the readable records of the log, one after the other, and says exactly what it could not read.
//!
//! ```text
//!                   Record      the next readable record, copied out of the mapping, both checksums verified
//!  next_step() ---> Gap         everything from here up to a later mark is gone: damaged, or in a segment that is missing
//!                   Unreadable  the disk does not give the bytes now; the cursor stays, try again
//!                   End         nothing more is readable now
//! ```
//!
//! Where a file that may be part of the log could not be read at the start, a cursor waits in front of it: it is tried again with each
//! step, until it can be read or is given up.
//!
//! A cursor carries a [`Mark`], and each record's header carries the running total before it. So whatever lies between (a
//! damaged record, a missing segment, a jump of positions after a crash) is one subtraction, and there is one kind of gap.
//!
//! Reading may wait for the disk: call it where blocking is allowed.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::findings::{Finding, Kind};
use super::position::{Mark, Place, Position};
use super::record::{self, Header, Meta};
use super::segment::{DATA_START, PAGE, Segment};
use super::shared::Shared;
use super::writer::now_ms;

/// What a cursor came upon.
#[derive(Debug)]
pub enum Step {
    /// The next record.
    Record(Record),
    /// What lies between the cursor's mark and `to` cannot be read. The cursor stands at `to` now.
    Gap {
        /// The mark before the gap.
        from: Mark,
        /// The mark behind the gap.
        to: Mark,
        /// The place behind the gap.
        place: Place,
        /// For people: where and what.
        reason: String,
    },
    /// The disk does not give the bytes. That says nothing about them: what cannot be read now may be read in a moment, so the
    /// cursor has not moved. [`Cursor::give_up_unreadable`] takes it for damage.
    Unreadable(io::Error),
    /// Nothing more is readable now.
    End,
}

/// A record as it was stored.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its header.
    pub header: Header,
    /// The fields behind the header.
    pub meta: Meta,
    /// The request's body, byte for byte.
    pub body: Bytes,
    /// Where the next record starts.
    pub next: Place,
}

impl Record {
    /// The point behind this record.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { position: self.header.position, total: self.header.total }
    }
}

/// A reader's moving place in the log.
#[derive(Debug)]
pub struct Cursor {
    log: Arc<Shared>,
    mark: Mark,
    at: Option<At>,
    /// Bytes that cannot be read are taken for damage, up to here in the segment at hand.
    given_up: u64,
    /// Where in the segment at hand the bytes begin that were stepped over and not yet counted.
    damaged_from: Option<u64>,
}

#[derive(Debug)]
struct At {
    segment: Arc<Segment>,
    offset: u64,
}

impl Cursor {
    /// A cursor that stands behind `mark`. `place` is where the next record was when the mark was taken; if it is not there any
    /// more it is looked for.
    pub(super) fn new(log: Arc<Shared>, mark: Mark, place: Place) -> Cursor {
        let hinted = log.segment(place.segment).filter(|segment| {
            let extent = log.extent(segment);
            let here = segment.read_header(place.offset, extent.end).ok().flatten().map(|header| header.position);
            // Nothing there yet is as good as the right record, if the segment ends there with the mark.
            let at_the_end = place.offset == extent.end && extent.last.position == mark.position;
            here == Some(mark.position.next()) || at_the_end
        });
        let at = match hinted {
            Some(segment) => Some(At { segment, offset: place.offset }),
            None => log.segment_holding(mark.position.next()).map(|segment| {
                let offset = skip_to(&segment, log.extent(&segment).end, mark.position);
                At { segment, offset }
            }),
        };
        Cursor { log, mark, at, given_up: 0, damaged_from: None }
    }

    /// The point up to which this cursor has read.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Steps on.
    pub fn next_step(&mut self) -> Step {
        loop {
            let Some(at) = &self.at else {
                let first = self.log.first_segment();
                if let Some(error) = self.log.unreadable_between(None, first.as_ref().map(|first| first.id())) {
                    return Step::Unreadable(error);
                }
                // What could be read after all comes first.
                let Some(segment) = self.log.first_segment() else { return Step::End };
                if let Some(gap) = self.enter(segment, "the log begins later") {
                    return gap;
                }
                continue;
            };
            let (segment, offset) = (at.segment.clone(), at.offset);
            let extent = self.log.extent(&segment);
            if offset < extent.end {
                match self.step_within(extent.end) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            self.count_damage(extent.end, extent.last);
            if let Some(gap) = self.gap_to(extent.last, "records at the end of a segment are damaged") {
                return gap;
            }
            if !extent.is_closed {
                return Step::End;
            }
            let next = self.log.segment_after(segment.id()).map(|next| next.id());
            if let Some(error) = self.log.unreadable_between(Some(segment.id()), next) {
                return Step::Unreadable(error);
            }
            let Some(next) = self.log.segment_after(segment.id()) else { return Step::End };
            if let Some(gap) = self.enter(next, "a segment is missing, or positions were skipped after a crash") {
                return gap;
            }
        }
    }

    /// Moves to the start of a segment. What it begins with may lie beyond the cursor's mark.
    fn enter(&mut self, segment: Arc<Segment>, otherwise: &str) -> Option<Step> {
        let before = segment.header().before;
        self.at = Some(At { segment, offset: DATA_START });
        self.given_up = 0;
        self.damaged_from = None;
        self.gap_to(before, otherwise)
    }

    /// If `to` lies beyond the cursor's mark: moves there and says so.
    fn gap_to(&mut self, to: Mark, what: &str) -> Option<Step> {
        // Behind a segment that could not be read when the next one was made, totals are less than before: the gap is of no sample, and
        // the mark becomes one of the later segment.
        if to.position < self.mark.position || to == self.mark {
            return None;
        }
        let at = self.at.as_ref().expect("a gap is found at a place");
        let place = Place { segment: at.segment.id(), offset: at.offset };
        let from = self.mark;
        let reason = format!(
            "{what}: positions {} to {} (near offset {} of {})",
            self.mark.position.next(),
            to.position,
            at.offset,
            at.segment.path().display()
        );
        self.mark = to;
        Some(Step::Gap { from, to, place, reason })
    }

    /// Takes what could not be read for damaged: the next step goes on behind it.
    pub fn give_up_unreadable(&mut self) {
        let here = self.at.as_ref().map(|at| at.segment.id());
        let next = match here {
            Some(id) => self.log.segment_after(id),
            None => self.log.first_segment(),
        };
        match &self.at {
            Some(at) if at.offset < self.log.extent(&at.segment).end => self.given_up = at.offset + 1,
            _ => self.log.give_up_unreadable_between(here, next.map(|next| next.id())),
        }
    }

    /// Records that bytes from where damage began up to `end` are not what they were; `to` is the mark behind them.
    fn count_damage(&mut self, end: u64, to: Mark) {
        let (Some(offset), Some(at)) = (self.damaged_from.take(), &self.at) else { return };
        let positions = self.mark.position.up_to(to.position);
        if positions.is_none() {
            return;
        }
        let finding = Finding {
            kind: Kind::Damage,
            segment: at.segment.id(),
            path: at.segment.path().to_owned(),
            offset,
            bytes: end - offset,
            positions,
            samples: to.total.saturating_sub(self.mark.total),
            reason: "records are damaged".into(),
            found_ms: now_ms(),
            kept: None,
        };
        self.log.found(finding, Some(&at.segment));
    }

    /// The next step within what is readable of the segment at hand; `None` after something was stepped over.
    fn step_within(&mut self, end: u64) -> Option<Step> {
        let mark = self.mark;
        let at = self.at.as_mut().expect("the caller found a place");
        let is_given_up = at.offset < self.given_up;
        let header = match at.segment.read_header(at.offset, end) {
            Ok(header) => header,
            Err(error) if !is_given_up => return Some(Step::Unreadable(error)),
            Err(_) => None,
        };
        let Some(header) = header else {
            // Damage. Whatever valid record comes next, the totals say what is missing before it.
            let search = at.segment.find_header(at.offset + record::ALIGN, end, mark.position);
            let to = match (search.found, search.unreadable) {
                (_, Some(error)) if !is_given_up => return Some(Step::Unreadable(error)),
                (Some((offset, _)), _) => offset,
                // Only as much as had to be given up: what lies behind may be readable soon.
                (None, Some(_)) => ((at.offset / PAGE + 1) * PAGE).min(end),
                (None, None) => end,
            };
            self.damaged_from.get_or_insert(at.offset);
            at.offset = to;
            return None;
        };
        if header.position <= mark.position {
            at.offset += header.stored_len();
            return None;
        }
        let payload = match read_payload(&at.segment, at.offset, &header) {
            Ok(payload) => payload,
            Err(error) if !is_given_up => return Some(Step::Unreadable(error)),
            Err(_) => None,
        };
        let offset = at.offset;
        let before = Mark { position: header.position.previous(), total: header.total_before() };
        self.count_damage(offset, before);
        if let Some(gap) = self.gap_to(before, "records are damaged or missing") {
            return Some(gap);
        }
        let at = self.at.as_mut().expect("the caller found a place");
        at.offset += header.stored_len();
        let next = Place { segment: at.segment.id(), offset: at.offset };
        let to = Mark { position: header.position, total: header.total };
        match payload {
            Some((meta, body)) => {
                self.mark = to;
                Some(Step::Record(Record { header, meta, body, next }))
            }
            None => {
                self.damaged_from = Some(offset);
                self.count_damage(next.offset, to);
                self.gap_to(to, "a record's body is damaged")
            }
        }
    }
}

/// The fields and the body, if their checksum is right.
fn read_payload(segment: &Segment, offset: u64, header: &Header) -> io::Result<Option<(Meta, Bytes)>> {
    let mut payload = vec![0; usize::try_from(header.payload_len()).expect("a record fits in memory")];
    segment.copy(offset + record::HEADER_LEN as u64, &mut payload)?;
    if record::payload_crc(&[], &payload) != header.body_crc {
        return Ok(None);
    }
    let payload = Bytes::from(payload);
    let meta_len = usize::try_from(header.meta_len).expect("a record fits in memory");
    Ok(Meta::decode(&payload[..meta_len]).map(|meta| (meta, payload.slice(meta_len..))))
}

/// The offset of the first record above `position` in a segment; its end, if there is none. Reads headers only.
fn skip_to(segment: &Segment, end: u64, position: Position) -> u64 {
    let mut offset = DATA_START;
    while let Ok(Some(header)) = segment.read_header(offset, end) {
        if header.position > position {
            return offset;
        }
        offset += header.stored_len();
    }
    // The end, damage or unreadable bytes, with which the cursor deals itself.
    offset.min(end)
}
