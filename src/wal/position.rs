//! Numbers of the log that must not be mixed up, one type each.
//!
//! ```text
//! savepoint(target) <= read(target) <= readable <= appended        for every target, always
//! ```
//!
//! *Readable* is the durable position, with `sync = "never"` the written one.

use std::fmt;

/// A record's place in the total order of the log: dense, the first record is 1, 0 is "no record".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }

    /// The position before this one; 0 stays what it is.
    #[must_use]
    pub fn previous(self) -> Position {
        Position(self.0.saturating_sub(1))
    }

    /// The positions behind this one up to `last`, the first and the last of them, if there are any.
    #[must_use]
    pub fn up_to(self, last: Position) -> Option<(Position, Position)> {
        (self < last).then(|| (self.next(), last))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a segment file. Ascends for ever, never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point between two records: everything up to `position` lies before it, `total` samples in all since the log was born.
///
/// Two marks are all that the ledger needs: the samples between them are a subtraction, whether the records in between can
/// still be read or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last record before this point.
    pub position: Position,
    /// Samples (floats and histograms) of all records up to `position`.
    pub total: u64,
}

impl Mark {
    /// Before everything: whatever comes behind it, nothing between is missing. For who begins with the oldest there is, when nobody
    /// can tell yet what that is.
    pub const BEGINNING: Mark = Mark { position: Position(0), total: u64::MAX };
}

/// Where bytes are: a segment and an offset in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from the start of its file.
    pub offset: u64,
}

/// The end of what readers may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readable {
    /// The newest readable record and the running total with it.
    pub mark: Mark,
    /// Behind its last byte.
    pub place: Place,
    /// Of what came in last.
    pub newest: Newest,
}

/// How new the newest data of a log is, in ms since 1970; zeroes where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// When the newest record was received.
    pub received_ms: i64,
    /// The newest sample of all that came in; none counts for newer than when it was received.
    pub sample_ms: i64,
}

impl Newest {
    /// Something came in; `sample_ms` is `i64::MIN` where there is no sample in it.
    pub(super) fn include(&mut self, received_ms: i64, sample_ms: i64) {
        self.received_ms = received_ms;
        self.sample_ms = self.sample_ms.max(sample_ms.min(received_ms));
    }
}
