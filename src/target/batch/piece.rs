//! A piece: what one request carries of a batch, and what it went through.

use std::time::Instant;

use super::part::{Chosen, Part};

/// Why a piece is a request of its own; in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is the batch, or what it was cut into.
    Main,
    /// Series that were refused of late: they must not split every batch for ever. Each is looked at.
    Suspects,
    /// Series that were refused so often that they are seldom looked at one by one.
    Culprits,
    /// Series or header sets that were given up as poison: one attempt.
    Poison,
}

/// Where a target seems to take nothing, one series of each request goes before its other ones, to show when that is over: in the middle of a
/// request, as a rule, because what is too old is judged sample by sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// There is none.
    None,
    /// It is that series.
    Is,
    /// It is the others.
    WentBefore,
    /// It is the others, and something of the witness was taken.
    WasTaken,
}

/// What one request carries.
#[derive(Clone, Debug)]
pub struct Piece {
    /// In order; never empty.
    pub parts: Vec<Part>,
    /// Why it is one.
    pub role: Role,
    /// Of a batch of which the target seems to take nothing.
    pub witness: Witness,
    /// An attempt is behind it that may have arrived and was not answered.
    pub is_possibly_delivered: bool,
    /// The target refused a larger piece and took what came before this one: the culprit is in here.
    pub is_known_bad: bool,
    /// That will be so, if what comes before it is taken whole.
    pub is_bad_if_left_was_taken: bool,
    /// It is a witness of few entries: each is heard, whatever the budget is.
    pub is_cheap: bool,
    /// Some attempt failed with an answer.
    pub was_answered: bool,
    /// Attempts without an answer.
    pub unanswered: u32,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// The last of them says nothing about the data, and has no headers that it could be about.
    pub is_held: bool,
    /// When the first of them failed.
    pub failing_since: Option<Instant>,
    /// Attempts that failed while the target took others (see `poison`).
    pub strikes: u32,
    /// When it was first refused, and not believed yet.
    pub refused_at: Option<Instant>,
    /// Samples that are not in the request, because its protocol has no place for them: of each part. Empty: none. Known once it is being sent.
    pub left_out: Vec<u64>,
}

impl Piece {
    pub(super) fn new(parts: Vec<Part>, role: Role) -> Piece {
        Piece {
            parts,
            role,
            witness: Witness::None,
            is_possibly_delivered: false,
            is_known_bad: false,
            is_bad_if_left_was_taken: false,
            is_cheap: false,
            was_answered: false,
            unanswered: 0,
            failures: 0,
            is_held: false,
            failing_since: None,
            strikes: 0,
            refused_at: None,
            left_out: Vec::new(),
        }
    }

    /// What is cut off it: fresh, but for what its bytes went through.
    pub(super) fn child(&self, parts: Vec<Part>) -> Piece {
        Piece {
            witness: self.witness,
            is_possibly_delivered: self.is_possibly_delivered,
            is_cheap: self.is_cheap,
            failing_since: self.failing_since,
            ..Piece::new(parts, self.role)
        }
    }

    /// The records that it touches, as indices: the first and the last.
    pub fn records(&self) -> (usize, usize) {
        let numbers = self.parts.iter().map(|part| part.record);
        (numbers.clone().min().expect("a piece has a part"), numbers.max().expect("a piece has a part"))
    }

    /// It is of whole records.
    pub fn is_of_whole_records(&self) -> bool {
        self.parts.iter().all(|part| part.chosen == Chosen::All)
    }
}
