//! What a target has settled, kept so that it survives `kill -9` and power cuts.
//!
//! ```text
//! savepoints/known          every name that ever had a savepoint, a line each; synced before the name's first request
//! savepoints/<name>.sp      page 0: live      written at every settle, no sync: the page cache survives kill -9
//!                           page 1, 2: synced in turn, once a second, at shutdown, and before a segment is released
//! ```
//!
//! The valid page of the highest generation counts. A generation names a content, not a write: the live and a synced page may hold
//! the same one, and a synced page never overtakes a live one with older content.
//!
//! Keyed by the target's **name**: its URL, its place in the configuration and its tuning may change without moving it.
//!
//! What is settled is the settled position and, where requests passed each other, ranges above it:
//!
//! ```text
//!            settled                                  reservation
//!   ...=========|.......[====]...[==].....|....| . . . . |
//!               '--cut--'    '-cut-' '--cut----'           what is in no range goes again after a kill, as it was cut
//!               '--- one by one after a power cut ------'  what is newer than the synced page is not known
//! ```
//!
//! Invariants: settled position, ranges and ledger move together, by whole records; the ledger adds up in every page
//! (`accepted = delivered + refused + filtered + expired + dropped + lost`, pending being what lies behind the settled position and in
//! no range); a synced page is never written while it is the only valid one: the other one of the two holds until the sync has succeeded.

mod cuts;
#[cfg(test)]
mod faults;
mod file;
mod ledger;
mod listing;
mod page;
mod ranges;
mod store;
#[cfg(test)]
mod tests;

pub use cuts::{Cut, Cuts};
pub use file::{File, Saved, Synced};
pub use ledger::{Ledger, Outcomes, Reason};
pub use listing::{Listed, PageState, list};
pub use page::{PAGE_LEN, Page};
pub use ranges::{Range, Ranges};
pub use store::{Ended, Found, RenameError, Store, is_name};

use crate::wal::{Mark, Place, Position};

/// A savepoint has no place for one more range: what is older must be settled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the savepoint is full until something older is settled")]
pub struct Full;

/// What delivery has found out about a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Of the target with this hash of its name and URL; 0: nothing was learned.
    pub url: u64,
    /// It has taken data.
    pub has_delivered: bool,
    /// Whether it takes an empty request, if that was tried.
    pub takes_empty: Option<bool>,
    /// It takes requests up to this many bytes, if it ever refused one as too large, or did not answer it in time.
    pub bytes_max: Option<u32>,
    /// Whether it takes remote write 1.0, and 2.0.
    pub takes: [Taken; 2],
}

/// Whether a target takes a protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taken {
    /// Nothing has shown it.
    #[default]
    Unknown,
    /// Its answers have shown it.
    Yes,
    /// It did not, at this time in seconds since 1970 (from 2 on).
    NotSince(u32),
}

impl Taken {
    /// For people; `None` if nothing has shown it.
    #[must_use]
    pub fn is_yes(self) -> Option<bool> {
        match self {
            Taken::Unknown => None,
            Taken::Yes => Some(true),
            Taken::NotSince(_) => Some(false),
        }
    }
}

/// How far a target is, and what became of everything before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Savepoint {
    /// Everything up to here is settled.
    pub settled: Mark,
    /// Where the next record was when this was written. A hint: the log looks elsewhere if it is not there.
    pub next: Place,
    /// What is settled above.
    pub ranges: Ranges,
    /// What became of it all.
    pub ledger: Ledger,
    /// The batches that were started and are not settled.
    pub cuts: Cuts,
    /// No batch has been started beyond it; 0: none said.
    pub reservation: Position,
    /// Records up to it may have been sent by a life that ended with a power cut, in batches that nobody knows any more: they go one by
    /// one. 0: none.
    pub doubtful: Position,
    /// Somebody wants nothing to be sent.
    pub is_paused: bool,
    /// Written at an orderly end: nothing was in flight. [`Store::find`] takes it back: it is true until something is sent.
    pub is_clean: bool,
    /// Of the target.
    pub learned: Learned,
}

impl Savepoint {
    /// Settles the records between two marks, or a gap: anywhere above what is settled.
    ///
    /// # Errors
    /// It would be one range too many; nothing was changed.
    ///
    /// # Panics
    /// If the samples in between are not those of `outcome`, or some of it is settled: the ledger would not add up.
    pub fn settle(&mut self, from: Mark, to: Mark, next: Place, outcome: Outcomes) -> Result<(), Full> {
        let settled = self.settled.position;
        assert!(settled <= from.position && from.position <= to.position, "a savepoint never moves back");
        let span = Range { from, to };
        // (Behind a segment that came back late the totals are less, and nothing is settled by passing to the next one.)
        assert_eq!(span.samples(), outcome.samples(), "every sample is settled once");
        if from.position == settled {
            let later = self.ranges.iter().next();
            assert!(later.is_none_or(|later| to.position <= later.from.position), "a record is settled once");
            self.ledger.settle(outcome);
            self.move_on(to, next);
            return Ok(());
        }
        if span.records() > 0 {
            let whole = self.ranges.insert(span, next)?;
            self.cuts.settled(whole.from.position, whole.to.position);
        }
        self.ledger.settle(outcome);
        Ok(())
    }

    /// Everything up to `to` is settled, and with it the ranges that it reaches.
    fn move_on(&mut self, to: Mark, next: Place) {
        (self.settled, self.next) = (to, next);
        self.ranges.absorb(&mut self.settled, &mut self.next);
        self.cuts.settled(Position(0), self.settled.position);
        self.forget_passed_doubt();
    }

    fn forget_passed_doubt(&mut self) {
        if self.doubtful <= self.settled.position {
            self.doubtful = Position(0);
        }
    }

    /// Gives up everything up to `to` that is not settled. `samples_between` is what the log counts from the settled mark up to there.
    /// How many samples were given up: what ranges hold of it is settled already.
    ///
    /// # Panics
    /// If `to` is settled already.
    pub fn skip(&mut self, to: Mark, next: Place, samples_between: u64) -> u64 {
        assert!(to.position >= self.settled.position, "a skip goes forward");
        let dropped = samples_between.saturating_sub(self.ranges.samples_up_to(to));
        self.ledger.settle(Outcomes::dropped(dropped));
        self.move_on(to, next);
        dropped
    }

    /// Goes back to `to`: what lies behind it is owed again, and accepted again. How many samples of it were in ranges: they come on top
    /// of those between `to` and the settled mark.
    ///
    /// # Panics
    /// If `to` lies ahead.
    pub fn replay(&mut self, to: Mark, next: Place) -> u64 {
        assert!(to.position <= self.settled.position, "a replay goes back");
        let samples = self.ranges.samples();
        self.ranges.clear();
        self.cuts.clear();
        (self.settled, self.next) = (to, next);
        samples
    }

    /// The samples that are owed, when the log counts `total_between` from the settled mark to its end.
    #[must_use]
    pub fn pending(&self, total_between: u64) -> u64 {
        total_between.saturating_sub(self.ranges.samples())
    }

    /// The records that are owed, when the log ends with `end`.
    #[must_use]
    pub fn pending_records(&self, end: Position) -> u64 {
        end.0.saturating_sub(self.settled.position.0).saturating_sub(self.ranges.records())
    }

    /// The newest record that is settled: a log that has lost its end goes on above it.
    #[must_use]
    pub fn newest(&self) -> Mark {
        self.ranges.end().unwrap_or(self.settled)
    }

    /// What is newer than this was lost in a power cut: how batches were cut, up to the reservation, is not known any more.
    pub fn power_was_cut(&mut self) {
        let started = self.cuts.iter().map(|cut| cut.last).max().unwrap_or_default();
        self.doubtful = self.doubtful.max(self.reservation).max(started);
        self.cuts.clear();
        self.forget_passed_doubt();
    }
}
