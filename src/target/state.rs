//! The states of a target, as they are told in status, metrics and logs.
//!
//! ```text
//!   caught_up <--> sending <--> backing_off    attempts fail: retried
//!                     ^   <--> held           answers ask for somebody's attention: retried slowly
//!                     |   <--> suspect        it refuses everything: asked slowly, or tried record by record
//!                     '------> paused         by an operator
//! ```
//! A target that fails is in its state until something gets through, also while an attempt is in flight.

/// What a target is doing. The names are those of status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is pending.
    CaughtUp,
    /// Requests are in flight, or the next one is being read.
    Sending,
    /// Waiting after an attempt that is worth another.
    BackingOff,
    /// Waiting after an answer that says nothing about the data; somebody must look.
    Held,
    /// It refuses everything.
    Suspect,
    /// Somebody has stopped it.
    Paused,
    /// In the log's directory, not in the configuration: it holds its backlog until space runs out. (No task.)
    Orphan,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 7] =
        [Phase::CaughtUp, Phase::Sending, Phase::BackingOff, Phase::Held, Phase::Suspect, Phase::Paused, Phase::Orphan];

    /// As in status, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::CaughtUp => "caught_up",
            Phase::Sending => "sending",
            Phase::BackingOff => "backing_off",
            Phase::Held => "held",
            Phase::Suspect => "suspect",
            Phase::Paused => "paused",
            Phase::Orphan => "orphan",
        }
    }
}
