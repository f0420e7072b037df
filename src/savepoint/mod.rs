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
//! Invariants: settled position and ledger move together, by whole records; the ledger adds up in every page
//! (`accepted = delivered + refused + filtered + expired + dropped + lost`, pending being what lies behind the settled position);
//! a synced page is never written while it is the only valid one: the other one of the two holds until the sync has succeeded.

#[cfg(test)]
mod faults;
mod file;
mod ledger;
mod listing;
mod page;
mod store;

pub use file::{File, Saved, Synced};
pub use ledger::{Ledger, Reason, Settled};
pub use listing::{Listed, PageState, list};
pub use page::{PAGE_LEN, Page};
pub use store::{Found, RenameError, Store, is_name};

use crate::wal::{Mark, Place};

/// How far a target is, and what became of everything before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Savepoint {
    /// Everything up to here is settled.
    pub settled: Mark,
    /// Where the next record was when this was written. A hint: the log looks elsewhere if it is not there.
    pub next: Place,
    /// What became of it.
    pub ledger: Ledger,
}

impl Savepoint {
    /// Settles everything up to `to`.
    ///
    /// # Panics
    /// If the samples in between are not those of `outcome`: the ledger would not add up.
    pub fn settle(&mut self, to: Mark, next: Place, outcome: Settled) {
        assert!(to.position >= self.settled.position, "a savepoint never moves back");
        // (Behind a segment that came back late the totals are less, and nothing is settled by passing to the next one.)
        assert_eq!(to.total.saturating_sub(self.settled.total), outcome.samples(), "every sample is settled once");
        self.ledger.settle(outcome);
        self.settled = to;
        self.next = next;
    }

    /// Gives up everything up to `to`, `samples` in all.
    pub fn skip(&mut self, to: Mark, next: Place, samples: u64) {
        self.ledger.settle(Settled::Dropped { samples });
        self.settled = to;
        self.next = next;
    }

    /// Goes back to `to`: what lies behind it is owed again, and accepted again.
    pub fn replay(&mut self, to: Mark, next: Place) {
        self.settled = to;
        self.next = next;
    }
}
