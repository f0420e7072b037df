//! The states of a target, and how an attempt's outcome moves it from one to the next. Pure: time and chance are arguments.
//!
//! ```text
//!              a record is read                retry
//!   CaughtUp -------------------> Sending -------------> BackingOff   retry: stays
//!      ^                          |  ^  |                 |   |   ^
//!      '--------------------------'  |  | hold       hold |   |   | retry
//!        nothing more to read        |  '------> Held <---'   |   |
//!                                    |             |  hold: stays |
//!                                    '-------------+----------'   |
//!                                        settled   '--------------'
//! ```
//!
//! One request is in flight at a time, and a pause holds for the whole target, so the state of the target is the state of its one
//! batch. A target that is being tried again is still backing off, or held, until something is settled. The failures in a row are counted until something is settled; a held target waits longer than one that is merely down.

use std::time::Duration;

use super::backoff::Backoff;
use super::outcome::{Outcome, Reason};
use crate::savepoint::Settled;

/// What a target is doing. The names are those of status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is pending.
    CaughtUp,
    /// A request is in flight, or the next one is being read.
    Sending,
    /// Waiting after an attempt that is worth another.
    BackingOff,
    /// Waiting after an answer that says nothing about the data; somebody must look.
    Held,
    /// In the log's directory, not in the configuration: it holds its backlog until space runs out. (No task, no transitions.)
    Orphan,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 5] = [Phase::CaughtUp, Phase::Sending, Phase::BackingOff, Phase::Held, Phase::Orphan];

    /// As in status, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::CaughtUp => "caught_up",
            Phase::Sending => "sending",
            Phase::BackingOff => "backing_off",
            Phase::Held => "held",
            Phase::Orphan => "orphan",
        }
    }
}

/// What to do after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The record is settled: book it, read the next.
    Settle(Settled),
    /// The same record again, after this.
    Wait(Duration),
}

/// What is worth a line in the log: once when it begins, once when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Attempts fail.
    BeganBackingOff,
    /// The target is held.
    BeganHolding(Reason),
    /// It takes records again, after so many failed attempts.
    Recovered {
        /// In a row.
        failures: u32,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    phase: Phase,
    /// Why, where there is something to say.
    reason: Option<Reason>,
    failures: u32,
    backoff: Backoff,
    hold: Backoff,
}

impl State {
    /// A held target is tried again after a second, then slower, up to half a minute: somebody who mends it wants to see it soon.
    const HOLD_MIN: Duration = Duration::from_secs(1);
    const HOLD_MAX: Duration = Duration::from_secs(30);

    /// Of a target that has not been looked at.
    #[must_use]
    pub fn new(backoff: Backoff) -> State {
        let hold = Backoff::try_new(State::HOLD_MIN, State::HOLD_MAX).expect("constants that make sense");
        State { phase: Phase::CaughtUp, reason: None, failures: 0, backoff, hold }
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Failed attempts since something was last settled.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// There is nothing more to read.
    pub fn caught_up(&mut self) {
        self.transition_to(Phase::CaughtUp);
    }

    /// An attempt begins.
    pub fn sending(&mut self) {
        // Seen from outside, a target that fails is backing off until it succeeds, also during an attempt.
        if self.failures == 0 {
            self.transition_to(Phase::Sending);
        }
    }

    /// An attempt ended.
    pub fn after(&mut self, outcome: Outcome, random: f64) -> (Next, Option<Event>) {
        match outcome {
            Outcome::Settled(settled) => {
                let failures = std::mem::take(&mut self.failures);
                self.reason = None;
                self.transition_to(Phase::Sending);
                (Next::Settle(settled), (failures > 0).then_some(Event::Recovered { failures }))
            }
            Outcome::Retry { retry_after } => {
                let began = self.phase != Phase::BackingOff;
                if began {
                    // A held target that answers 503 now begins a new row.
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                self.reason = None;
                self.transition_to(Phase::BackingOff);
                let wait = match retry_after {
                    Some(retry_after) => self.backoff.wait_at_least(retry_after, random),
                    None => self.backoff.wait(self.failures, random),
                };
                (Next::Wait(wait), began.then_some(Event::BeganBackingOff))
            }
            Outcome::Hold(reason) => {
                let began = self.phase != Phase::Held || self.reason.as_ref() != Some(&reason);
                if self.phase != Phase::Held {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                self.reason = Some(reason.clone());
                self.transition_to(Phase::Held);
                (Next::Wait(self.hold.wait(self.failures, random)), began.then_some(Event::BeganHolding(reason)))
            }
        }
    }

    fn transition_to(&mut self, next: Phase) {
        match (self.phase, next) {
            (Phase::CaughtUp, Phase::CaughtUp | Phase::Sending) => {}
            (Phase::Sending, Phase::CaughtUp | Phase::Sending | Phase::BackingOff | Phase::Held) => {}
            (Phase::BackingOff | Phase::Held, Phase::Sending | Phase::BackingOff | Phase::Held) => {}
            (from, to) => unreachable!("a target goes from {from:?} to {to:?}"),
        }
        self.phase = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIVERED: Outcome = Outcome::Settled(Settled::Delivered { samples: 5, refused: 0 });
    const RETRY: Outcome = Outcome::Retry { retry_after: None };

    fn sending() -> State {
        let backoff = Backoff::try_new(Duration::from_millis(30), Duration::from_secs(5)).unwrap();
        let mut state = State::new(backoff);
        state.sending();
        state
    }

    fn wait(next: Next) -> Duration {
        match next {
            Next::Wait(wait) => wait,
            Next::Settle(_) => panic!("settled"),
        }
    }

    #[test]
    fn a_failure_and_its_end_are_each_told_once() {
        let mut state = sending();
        let (next, event) = state.after(RETRY, 0.0);
        assert_eq!((next, event), (Next::Wait(Duration::from_millis(30)), Some(Event::BeganBackingOff)));
        for _ in 0..20 {
            state.sending();
            assert_eq!(state.phase(), Phase::BackingOff, "it has not recovered by being tried");
            assert_eq!(state.after(RETRY, 0.0).1, None);
        }
        let (next, event) = state.after(DELIVERED, 0.0);
        assert!(matches!(next, Next::Settle(_)));
        assert_eq!(event, Some(Event::Recovered { failures: 21 }));
        assert_eq!(state.after(DELIVERED, 0.0).1, None);
        assert_eq!(state.after(RETRY, 0.0), (Next::Wait(Duration::from_millis(30)), Some(Event::BeganBackingOff)));
    }

    #[test]
    fn too_many_requests_waits_for_retry_after() {
        let mut state = sending();
        let retry_after = Some(Duration::from_secs(7));
        assert_eq!(wait(state.after(Outcome::Retry { retry_after }, 0.0).0), Duration::from_secs(7));
    }

    #[test]
    fn a_held_target_waits_longer_and_a_new_reason_is_told() {
        let mut state = sending();
        let hold = |status| Outcome::Hold(Reason::Status(status));
        let (next, event) = state.after(hold(401), 0.0);
        assert_eq!((wait(next), event), (Duration::from_secs(1), Some(Event::BeganHolding(Reason::Status(401)))));
        let (next, event) = state.after(hold(401), 0.0);
        assert_eq!((wait(next), event), (Duration::from_secs(2), None));
        let (_, event) = state.after(hold(404), 0.0);
        assert_eq!(event, Some(Event::BeganHolding(Reason::Status(404))));
        for _ in 0..50 {
            assert!(wait(state.after(hold(404), 0.0).0) <= State::HOLD_MAX);
        }
        let (next, event) = state.after(RETRY, 0.0);
        assert_eq!((wait(next), event), (Duration::from_millis(30), Some(Event::BeganBackingOff)));
    }
}
