//! What goes into delivery and what comes out of it, apart from records: rules, attempts, answers, what was refused, what is worth a line in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::backoff::Backoff;
use super::super::batch::{Chosen, Samples};
use super::super::negotiation::ProtocolRule;
use super::super::outcome::Reason as HoldReason;
use super::super::outgoing::Outgoing;
use super::super::window::UNSETTLED_MAX;
use crate::protocol::Protocol;
use crate::savepoint::{Cut, Learned, Reason};
use crate::wal::Position;
use crate::wal::record::Kind;

/// How a target is delivered to; checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Requests at a time. At least 1.
    pub max_in_flight: usize,
    /// Samples of a merged request.
    pub max_samples_per_send: u64,
    /// Bytes of a merged request.
    pub max_bytes_per_send: u64,
    /// See `suspicion`.
    pub suspect_after: Duration,
    /// How long a piece fails alone before it is given up.
    pub poison_after: Duration,
    /// Older samples are not sent.
    pub sample_age_limit: Option<Duration>,
    /// Of the requests, while there are two lanes: the part of the backlog, 0 to 1.
    pub backlog_share: f64,
    /// After answers that ask for somebody's attention, and for what fails alone.
    pub hold: Backoff,
    /// In which protocol data is sent.
    pub protocol: ProtocolRule,
}

/// The window has a place for each batch.
const _: () = assert!(Rules::IN_FLIGHT_MAX <= UNSETTLED_MAX);

impl Rules {
    /// The most requests at a time: a savepoint holds 32 cuts, two of a batch that is being halved.
    pub const IN_FLIGHT_MAX: usize = 30;

    /// How many batches may be unsettled at a time. (Four at least: where some fail alone, another one shows it.)
    #[must_use]
    pub fn ahead(&self) -> usize {
        (2 * self.max_in_flight).clamp(4, Rules::IN_FLIGHT_MAX)
    }
}

/// Records come in one, or with `fresh_first` new ones beside the backlog in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The first.
    One = 0,
    /// The other one.
    Two = 1,
}

impl Lane {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Lane {
        match self {
            Lane::One => Lane::Two,
            Lane::Two => Lane::One,
        }
    }
}

/// How far a lane was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// To the end of what is there.
    #[default]
    End,
    /// As far as there is room, or as can be read now.
    Enough,
    /// As far as a stretch goes: more is there, and wanted.
    Stretch,
}

/// Names an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// For its answer.
    pub id: AttemptId,
    /// As its records were received.
    pub kind: Kind,
    /// As it is sent.
    pub protocol: Protocol,
    /// An answer has shown that the target takes that.
    pub is_confirmed: bool,
    /// Headers that came with the data.
    pub forwarded: Vec<(String, Vec<u8>)>,
    /// What of which records; empty for a question.
    pub parts: Vec<(Arc<Outgoing>, Chosen)>,
    /// In it.
    pub samples: Samples,
}

/// What to do now.
#[derive(Clone, Debug)]
pub enum Next {
    /// Make this request, and ask again.
    Start(Box<Attempt>),
    /// Nothing before this, or before something happens.
    Wait(Option<Instant>),
}

/// An answer, as far as it is needed here.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its status, if there was one.
    pub status: Option<u16>,
    /// What the target wrote, for people.
    pub text: String,
}

/// What a target refused for good, to be kept.
#[derive(Clone, Debug)]
pub struct Refused {
    /// As received.
    pub kind: Kind,
    /// What of which records.
    pub parts: Vec<(Arc<Outgoing>, Chosen)>,
    /// Why.
    pub reason: Reason,
    /// The answer.
    pub said: Said,
    /// Samples that were refused.
    pub samples: u64,
    /// The target kept the others: the parts hold more than was refused.
    pub is_partial: bool,
}

/// What is worth a line in the log: once when it begins, once when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Attempts fail.
    BeganBackingOff,
    /// The target is held.
    BeganHolding(HoldReason),
    /// It refuses everything, and empty requests too.
    BeganSuspect,
    /// It does not take this protocol: data goes in the other one, and it is asked again in an hour.
    NotTaken(HoldReason),
    /// It takes this protocol now, which it did not.
    Taken(Protocol),
    /// A batch fails while others pass.
    Isolated {
        /// Its first record.
        first: Position,
        /// Its last.
        last: Position,
    },
    /// It takes records again, after so many failed attempts.
    Recovered {
        /// In a row.
        failures: u32,
    },
}

/// Why nothing gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Attempts fail.
    BackingOff,
    /// Somebody must look.
    Held(HoldReason),
}

/// What a former life left behind.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// Cuts of batches that were started.
    pub cuts: Vec<Cut>,
    /// Up to here something may have been sent, nobody knows in which cuts.
    pub unsure: Position,
    /// What was learned of the target, if it is the same.
    pub learned: Learned,
    /// By an operator.
    pub is_paused: bool,
    /// Now, in seconds since 1970.
    pub wall_s: u32,
}
