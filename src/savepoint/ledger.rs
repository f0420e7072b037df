//! What became of every sample that was accepted for a target. Only grows.

use std::ops::AddAssign;

/// Why samples were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The status says that the target will never take it.
    Status,
    /// It took the rest of the request (2.0 only).
    Partial,
    /// An attempt before was not answered: the target has it already, most likely.
    Resent,
    /// Something in the request is refused, and it cost too many attempts to find out what.
    Unsplit,
    /// It fails again and again where others succeed.
    Poison,
}

impl Reason {
    /// All of them, in the order of the savepoint page. New ones are added at the end.
    pub const ALL: [Reason; 5] = [Reason::Status, Reason::Partial, Reason::Resent, Reason::Unsplit, Reason::Poison];

    /// As in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Status => "status",
            Reason::Partial => "partial",
            Reason::Resent => "resent",
            Reason::Unsplit => "unsplit",
            Reason::Poison => "poison",
        }
    }
}

/// What became of the samples of some records, or of a gap: of how many which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The target has them.
    pub delivered: u64,
    /// The target will never take them, by [`Reason::ALL`].
    pub refused: [u64; Reason::ALL.len()],
    /// Taken out by relabeling.
    pub filtered: u64,
    /// Too old for the target's age limit.
    pub expired: u64,
    /// Given up by us: somebody moved the target on, or the disk is full.
    pub dropped: u64,
    /// Acknowledged, then damaged or missing on disk.
    pub lost: u64,
}

impl Outcomes {
    /// The target has them.
    #[must_use]
    pub fn delivered(samples: u64) -> Outcomes {
        Outcomes { delivered: samples, ..Outcomes::default() }
    }

    /// The target will never take them.
    #[must_use]
    pub fn refused(reason: Reason, samples: u64) -> Outcomes {
        let mut outcomes = Outcomes::default();
        outcomes.refused[reason as usize] = samples;
        outcomes
    }

    /// Taken out by relabeling.
    #[must_use]
    pub fn filtered(samples: u64) -> Outcomes {
        Outcomes { filtered: samples, ..Outcomes::default() }
    }

    /// Too old.
    #[must_use]
    pub fn expired(samples: u64) -> Outcomes {
        Outcomes { expired: samples, ..Outcomes::default() }
    }

    /// Given up.
    #[must_use]
    pub fn dropped(samples: u64) -> Outcomes {
        Outcomes { dropped: samples, ..Outcomes::default() }
    }

    /// Damaged or missing on disk.
    #[must_use]
    pub fn lost(samples: u64) -> Outcomes {
        Outcomes { lost: samples, ..Outcomes::default() }
    }

    /// Of how many samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        let Outcomes { delivered, refused: _, filtered, expired, dropped, lost } = *self;
        delivered + self.all_refused() + filtered + expired + dropped + lost
    }

    /// Refused for a reason.
    #[must_use]
    pub fn refused_for(&self, reason: Reason) -> u64 {
        self.refused[reason as usize]
    }

    /// Refused, for whatever reason.
    #[must_use]
    pub fn all_refused(&self) -> u64 {
        self.refused.iter().sum()
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Outcomes) {
        let Outcomes { delivered, refused, filtered, expired, dropped, lost } = other;
        self.delivered += delivered;
        for (sum, more) in self.refused.iter_mut().zip(refused) {
            *sum += more;
        }
        self.filtered += filtered;
        self.expired += expired;
        self.dropped += dropped;
        self.lost += lost;
    }
}

/// Sums of samples (floats and histograms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Settled in any way; what is pending comes on top.
    pub accepted: u64,
    /// The target has them.
    pub delivered: u64,
    /// The target will never take them.
    pub refused: u64,
    /// Taken out by relabeling.
    pub filtered: u64,
    /// Too old for the target's age limit.
    pub expired: u64,
    /// Given up by us.
    pub dropped: u64,
    /// Damaged on disk after they were acknowledged.
    pub lost: u64,
    /// `refused`, by [`Reason::ALL`].
    pub refused_by: [u64; Reason::ALL.len()],
}

impl Ledger {
    /// Books what became of some samples.
    pub fn settle(&mut self, outcomes: Outcomes) {
        let Outcomes { delivered, refused, filtered, expired, dropped, lost } = outcomes;
        self.accepted += outcomes.samples();
        self.delivered += delivered;
        self.refused += outcomes.all_refused();
        for (sum, more) in self.refused_by.iter_mut().zip(refused) {
            *sum += more;
        }
        self.filtered += filtered;
        self.expired += expired;
        self.dropped += dropped;
        self.lost += lost;
    }

    /// Whether every accepted sample ended in exactly one way.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let Ledger { accepted, delivered, refused, filtered, expired, dropped, lost, refused_by } = *self;
        // What was read from a disk may be any numbers, also such as no sum can hold.
        let sum = |parts: &[u64]| parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
        sum(&[delivered, refused, filtered, expired, dropped, lost]) == Some(accepted)
            && sum(&refused_by) == Some(refused)
    }
}
