//! The records of a log, one by one, as far as a tool asks for them; and what is missing among them.
//!
//! What cannot match is not read: segments are known by their headers and seals, records by their headers. A running relay may be writing:
//! a body at the end that is not whole may be about to be.

use std::io;
use std::ops::{ControlFlow, RangeInclusive};

use super::{file_name, positions};
use crate::wal::Position;
use crate::wal::record::Header;
use crate::wal::survey::walk::{Body, Step, Walk};
use crate::wal::survey::{Found, Survey};

/// Requests are stored in another order than they were received, by this at most.
const DISORDER_MS: i64 = 60_000;

/// What is asked for. All of it holds together.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these.
    pub positions: Option<RangeInclusive<u64>>,
    /// Only what was received then or later, in ms since 1970.
    pub since: Option<i64>,
    /// Only what was received then or before.
    pub until: Option<i64>,
    /// Whether bodies are read. If not, a damaged one is not noticed.
    pub with_bodies: bool,
}

/// A record that was asked for.
#[derive(Debug)]
pub struct Record<'a> {
    /// The segment it is in.
    pub found: &'a Found,
    /// Where in it.
    pub offset: u64,
    /// Its header.
    pub header: &'a Header,
    /// Fields and body, if bodies are read.
    pub payload: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Fields and body apart; both empty if bodies are not read.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let parts = self.payload.zip(usize::try_from(self.header.meta_len).ok());
        parts.and_then(|(payload, len)| payload.split_at_checked(len)).unwrap_or_default()
    }
}

/// What the records are read for.
pub trait Visitor {
    /// Takes the next record.
    fn record(&mut self, record: &Record<'_>) -> io::Result<ControlFlow<()>>;

    /// Something that may have been asked for is damaged or missing.
    fn missing(&mut self, what: &str) -> io::Result<()>;
}

impl Selection {
    /// Goes through the log, oldest first, until the visitor has seen enough.
    pub fn visit(&self, survey: &Survey, visitor: &mut dyn Visitor) -> io::Result<()> {
        let mut last = None;
        for found in &survey.segments {
            let before = found.header.before.position;
            let may_match = self.may_match(found);
            if let Some(last) = last
                && !self.is_too_old(found)
            {
                self.tell_gap(last, before, found, visitor)?;
            }
            last = Some(segment_end(found));
            if self.is_beyond(before.next()) {
                break;
            }
            if may_match {
                match self.segment(found, visitor)? {
                    ControlFlow::Continue(position) => last = Some(position),
                    ControlFlow::Break(()) => break,
                }
            }
        }
        Ok(())
    }

    fn is_beyond(&self, position: Position) -> bool {
        self.positions.as_ref().is_some_and(|range| position.0 > *range.end())
    }

    fn may_match(&self, found: &Found) -> bool {
        let last = found.sealed().map(|seal| seal.last.position).or(found.end);
        let is_before = self.positions.as_ref().is_some_and(|range| last.is_some_and(|last| last.0 < *range.start()));
        let is_too_new = found.sealed().is_some_and(|seal| {
            let first = seal.received_ms.0.min(seal.received_ms.1);
            self.until.is_some_and(|until| first.saturating_sub(DISORDER_MS) > until)
        });
        !is_before && !self.is_too_old(found) && !is_too_new
    }

    fn is_too_old(&self, found: &Found) -> bool {
        found.sealed().is_some_and(|seal| self.is_before(seal.received_ms.0.max(seal.received_ms.1)))
    }

    /// Nothing that stands before a record of this time can have been asked for.
    fn is_before(&self, received_ms: i64) -> bool {
        self.since.is_some_and(|since| received_ms.saturating_add(DISORDER_MS) < since)
    }

    fn wants(&self, header: &Header) -> bool {
        self.positions.as_ref().is_none_or(|range| range.contains(&header.position.0))
            && self.since.is_none_or(|since| header.received_ms >= since)
            && self.until.is_none_or(|until| header.received_ms <= until)
    }

    /// Gives out what fits of a segment; the last position that was seen or missed.
    fn segment(&self, found: &Found, visitor: &mut dyn Visitor) -> io::Result<ControlFlow<(), Position>> {
        let claimed = segment_end(found);
        let segment = match found.open() {
            Ok(Some(segment)) => segment,
            Ok(None) => return Ok(ControlFlow::Continue(claimed)),
            Err(error) => {
                visitor.missing(&format!("{}: {error}", file_name(&found.path)))?;
                return Ok(ControlFlow::Continue(claimed));
            }
        };
        let mut walk = Walk::new(&segment, found.data_end());
        let mut last = found.header.before.position;
        // A body at the end that is not whole may be about to be written.
        let mut doubtful: Option<String> = None;
        while let Some(step) = walk.next_step(|header| self.with_bodies && self.wants(header)) {
            let (offset, header, body) = match step {
                Step::Record { offset, header, body } => (offset, header, body),
                Step::Hole { offset, error: Some(error), .. } => {
                    visitor.missing(&format!("{}: offset {offset} cannot be read: {error}", file_name(&found.path)))?;
                    continue;
                }
                Step::Hole { .. } => continue,
            };
            if found.end.is_some_and(|end| header.position > end) {
                break;
            }
            if let Some(text) = doubtful.take() {
                visitor.missing(&text)?;
            }
            if !self.is_before(header.received_ms) {
                self.tell_gap(last, header.position.previous(), found, visitor)?;
            }
            last = header.position;
            if self.is_beyond(header.position) {
                return Ok(ControlFlow::Continue(last));
            }
            if !self.wants(&header) {
                continue;
            }
            let problem = match body {
                Body::Whole | Body::Unread => None,
                Body::Damaged => Some("has a damaged body".to_owned()),
                Body::Unreadable(error) => Some(format!("cannot be read: {error}")),
            };
            if let Some(problem) = problem {
                let file = file_name(&found.path);
                doubtful = Some(format!("{file}: position {} at offset {offset} {problem}", header.position));
                continue;
            }
            let payload = self.with_bodies.then(|| walk.payload());
            if visitor.record(&Record { found, offset, header: &header, payload })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let is_final = found.sealed().is_some() || found.end.is_some();
        if let Some(text) = doubtful.filter(|_| is_final) {
            visitor.missing(&text)?;
        }
        if is_final {
            self.tell_gap(last, claimed, found, visitor)?;
        }
        Ok(ControlFlow::Continue(last.max(claimed)))
    }

    /// Positions up to `to` are gone: that matters if they were asked for.
    fn tell_gap(&self, last: Position, to: Position, near: &Found, visitor: &mut dyn Visitor) -> io::Result<()> {
        let (first, end) = self.positions.clone().map_or((0, u64::MAX), RangeInclusive::into_inner);
        if last < to && last.next().0 <= end && to.0 >= first {
            let file = file_name(&near.path);
            visitor.missing(&format!("positions {} are damaged or missing (near {file})", positions(last, to)))?;
        }
        Ok(())
    }
}

/// As far as it can be told without reading it.
fn segment_end(found: &Found) -> Position {
    let claimed = found.sealed().map(|seal| seal.last.position).or(found.end).unwrap_or(found.header.before.position);
    found.end.map_or(claimed, |end| claimed.min(end))
}
