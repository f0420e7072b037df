//! What became of every sample that was accepted for a target. Only grows.

/// Why a target's refusal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The status says that it will never take it.
    Status,
    /// It took the rest of the request (2.0 only).
    Partial,
}

impl Reason {
    /// All of them, in the order of the savepoint page. New ones are added at the end.
    pub const ALL: [Reason; 2] = [Reason::Status, Reason::Partial];

    /// As in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Status => "status",
            Reason::Partial => "partial",
        }
    }
}

/// What became of the samples of a record, or of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The target has them; `refused` of them it did not keep.
    Delivered {
        /// Taken.
        samples: u64,
        /// Not kept, says the target's own count.
        refused: u64,
    },
    /// The target will never take them.
    Refused {
        /// How many.
        samples: u64,
    },
    /// Given up by us, because of the disk's limit.
    Dropped {
        /// How many.
        samples: u64,
    },
    /// Acknowledged, then damaged or missing on disk.
    Lost {
        /// How many.
        samples: u64,
    },
}

impl Settled {
    /// Of how many samples.
    #[must_use]
    pub fn samples(self) -> u64 {
        match self {
            Settled::Delivered { samples, refused } => samples + refused,
            Settled::Refused { samples } | Settled::Dropped { samples } | Settled::Lost { samples } => samples,
        }
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
    /// Books an outcome.
    pub fn settle(&mut self, outcome: Settled) {
        self.accepted += outcome.samples();
        match outcome {
            Settled::Delivered { samples, refused } => {
                self.delivered += samples;
                self.refuse(Reason::Partial, refused);
            }
            Settled::Refused { samples } => self.refuse(Reason::Status, samples),
            Settled::Dropped { samples } => self.dropped += samples,
            Settled::Lost { samples } => self.lost += samples,
        }
    }

    fn refuse(&mut self, reason: Reason, samples: u64) {
        self.refused += samples;
        self.refused_by[reason as usize] += samples;
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
