//! Where a target reads: one cursor from its savepoint on, and with `fresh_first` a second one beside it while the target is behind.
//!
//! ```text
//!   fifo                        one lane
//!   fresh_first, lag > 60 s     backlog lane:  savepoint ----> | where the head was    ends here: the lanes are one again
//!                               fresh lane:                    | ----> head
//! ```
//!
//! What is settled already above the savepoint (`savepoint::Ranges`) is stepped over. Reading may wait for the disk: it is done on the
//! target's own thread, which waits alone.

use std::io;

use super::delivery::Lane;
use crate::savepoint::{Range, Savepoint};
use crate::wal::{Cursor, Log, Mark, Newest, Place, Position, Record, Step};

/// The lag with which the lanes part.
pub const PART_AT_LAG_MS: i64 = 60_000;

/// See the module.
#[derive(Debug)]
pub struct Reading {
    log: Log,
    /// Each lane's, if there is such a lane.
    cursors: [Option<Cursor>; 2],
    /// The lane that everything is in, or that holds the backlog.
    main: Lane,
    /// Where the backlog's lane ends.
    end: Option<Mark>,
}

/// What a lane came upon.
#[derive(Debug)]
pub enum Read {
    /// The next record that is owed.
    Record(Record),
    /// Nobody can read what lies between these.
    Gap {
        /// Each before and behind.
        parts: Vec<Range>,
        /// Behind all of them.
        place: Place,
        /// For people.
        reason: String,
    },
    /// The disk does not give it now.
    Unreadable(io::Error),
    /// Nothing more now.
    End,
}

impl Reading {
    /// From a savepoint on.
    #[must_use]
    pub fn new(log: &Log, savepoint: &Savepoint) -> Reading {
        let cursor = log.cursor(savepoint.settled, savepoint.next);
        Reading { log: log.clone(), cursors: [Some(cursor), None], main: Lane::One, end: None }
    }

    /// The lanes there are: that of the backlog first.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let (main, has_two) = (self.main, self.end.is_some());
        [Some(main), has_two.then(|| main.other())].into_iter().flatten()
    }

    /// What came in last, however far the lanes are from it.
    #[must_use]
    pub fn newest(&self) -> Newest {
        self.log.readable().newest
    }

    /// The lane of the backlog, if there are two.
    #[must_use]
    pub fn backlog(&self) -> Option<Lane> {
        self.end.map(|_| self.main)
    }

    /// Reads on in a lane.
    pub fn next(&mut self, lane: Lane, savepoint: &Savepoint) -> Read {
        let is_backlog = lane == self.main;
        let end = self.end.filter(|_| is_backlog);
        let Some(cursor) = self.cursors[lane as usize].as_mut() else { return Read::End };
        loop {
            if end.is_some_and(|end| cursor.mark().position >= end.position) {
                return Read::End;
            }
            match cursor.next_step() {
                Step::Record(record) => match savepoint.ranges.holding(record.header.position) {
                    Some(range) => *cursor = self.log.cursor(range.to, Place::default()),
                    None => return Read::Record(record),
                },
                Step::Gap { from, to, place, reason } => {
                    // What of it lies ahead is the other lane's, which comes upon it too.
                    let to = end.filter(|end| end.position < to.position).unwrap_or(to);
                    return Read::Gap { parts: savepoint.ranges.outside(Range { from, to }), place, reason };
                }
                Step::Unreadable(error) => return Read::Unreadable(error),
                Step::End => return Read::End,
            }
        }
    }

    /// Whether some lane has not read up to there.
    #[must_use]
    pub fn is_before(&self, position: Position) -> bool {
        self.cursors.iter().flatten().any(|cursor| cursor.mark().position < position)
    }

    /// Takes what cannot be read for damaged.
    pub fn give_up_unreadable(&mut self, lane: Lane) {
        if let Some(cursor) = self.cursors[lane as usize].as_mut() {
            cursor.give_up_unreadable();
        }
    }

    /// New data goes beside the backlog from now on.
    pub fn part(&mut self) {
        let head = self.log.readable();
        let fresh = self.main.other();
        let is_behind =
            self.cursors[self.main as usize].as_ref().is_some_and(|cursor| cursor.mark().position < head.mark.position);
        if self.end.is_none() && is_behind {
            self.cursors[fresh as usize] = Some(self.log.cursor(head.mark, head.place));
            self.end = Some(head.mark);
        }
    }

    /// If the backlog's lane has been read to its end, the other one is all there is. Only when nothing of it is in hand any more.
    pub fn join(&mut self) -> bool {
        let Some(end) = self.end else { return false };
        let is_over =
            self.cursors[self.main as usize].as_ref().is_none_or(|cursor| cursor.mark().position >= end.position);
        if is_over {
            self.cursors[self.main as usize] = None;
            self.main = self.main.other();
            self.end = None;
        }
        is_over
    }
}
