//! Which protocol a target is sent: as received where it takes that, else the other one (`V2-03`, `V2-04`). Pure.
//!
//! ```text
//!   received    the target takes 2.0    it does not          nobody knows, or it is an hour ago that it did not
//!   1.0         1.0                     1.0                  1.0
//!   2.0         2.0                     1.0, translated      an empty 2.0 request first: no data is at stake
//! ```
//!
//! (Where an empty request fails, data goes instead: its answer shows the same.) So it is with `protocol = "auto"`; a target that does not take 1.0 (415) is sent everything in 2.0. Where neither is taken, the data is held and
//! both are tried again. With `"1.0"` and `"2.0"` there is nothing to find out.
//!
//! Whether a target takes 2.0 shows in its answers (`V2-31`, `V2-37`, `V2-42`, `V2-43`, see `outcome`), never in the version header of an answer or in a
//! text (`V2-35`, `V1-18`). What was found out is remembered across restarts, with the target's name and URL (`V2-48`, `V2-59`).

use crate::protocol::Protocol;
use crate::savepoint::Taken;
use crate::wal::record::Kind;

/// After so long a target is asked again whether it takes what it did not take.
const AGAIN_AFTER_S: u32 = 3600;

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtocolRule {
    /// As received, if the target takes it.
    #[default]
    Auto,
    /// Always this one.
    Always(Protocol),
}

/// What is done with data now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Sent in this protocol.
    Send(Protocol),
    /// The target is asked first, with an empty request, whether it takes 2.0.
    Ask,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Negotiation {
    rule: ProtocolRule,
    /// 1.0, 2.0.
    takes: [Taken; 2],
}

/// The protocol of a kind of record.
///
/// # Panics
/// Of a seal: a cursor yields requests only.
#[must_use]
pub fn protocol_of(kind: Kind) -> Protocol {
    match kind {
        Kind::Write1 => Protocol::V1,
        Kind::Write2 => Protocol::V2,
        Kind::Seal => unreachable!("a cursor yields requests"),
    }
}

/// There are two.
#[must_use]
pub fn other_than(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V1 => Protocol::V2,
        Protocol::V2 => Protocol::V1,
    }
}

fn index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::V1 => 0,
        Protocol::V2 => 1,
    }
}

impl Negotiation {
    /// With what a former life found out of 1.0 and 2.0.
    #[must_use]
    pub fn new(rule: ProtocolRule, takes: [Taken; 2]) -> Negotiation {
        Negotiation { rule, takes }
    }

    /// What is worth remembering.
    #[must_use]
    pub fn learned(&self) -> [Taken; 2] {
        self.takes
    }

    fn is_not_taken(&self, protocol: Protocol, now_s: u32) -> bool {
        // (A moment that lies ahead is one of a clock that was wrong.)
        matches!(self.takes[index(protocol)], Taken::NotSince(since) if since <= now_s && now_s - since < AGAIN_AFTER_S)
    }

    /// How data is sent now that was received in a protocol. `now_s` is in seconds since 1970.
    #[must_use]
    pub fn choose(&self, received: Protocol, now_s: u32) -> Choice {
        if let ProtocolRule::Always(protocol) = self.rule {
            return Choice::Send(protocol);
        }
        let wanted = if self.is_not_taken(Protocol::V1, now_s) { Protocol::V2 } else { received };
        match wanted {
            Protocol::V1 => Choice::Send(Protocol::V1),
            Protocol::V2 if self.is_confirmed(Protocol::V2) => Choice::Send(Protocol::V2),
            Protocol::V2 if self.is_not_taken(Protocol::V2, now_s) => Choice::Send(Protocol::V1),
            Protocol::V2 => Choice::Ask,
        }
    }

    /// Whether an answer has shown that the target takes it.
    #[must_use]
    pub fn is_confirmed(&self, protocol: Protocol) -> bool {
        self.takes[index(protocol)] == Taken::Yes
    }

    /// An answer has shown that the target takes it. Whether it was known not to.
    pub fn taken(&mut self, protocol: Protocol) -> bool {
        let before = std::mem::replace(&mut self.takes[index(protocol)], Taken::Yes);
        matches!(before, Taken::NotSince(_))
    }

    /// An answer has shown that the target does not take it. Whether the other one may be tried at once; else both may, in a while.
    pub fn not_taken(&mut self, protocol: Protocol, now_s: u32) -> bool {
        let other = other_than(protocol);
        if self.rule != ProtocolRule::Auto {
            self.takes[index(protocol)] = Taken::Unknown;
            return false;
        }
        if self.is_not_taken(other, now_s) {
            self.takes = [Taken::Unknown; 2];
            return false;
        }
        self.takes[index(protocol)] = Taken::NotSince(now_s.max(2));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_800_000_000;

    fn auto() -> Negotiation {
        Negotiation::new(ProtocolRule::Auto, [Taken::Unknown; 2])
    }

    #[test]
    fn data_goes_as_it_came_and_a_target_is_asked_before_its_first_2_0_request() {
        let mut target = auto();
        assert_eq!(target.choose(Protocol::V1, NOW), Choice::Send(Protocol::V1), "V2-03");
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Ask, "V1-18");
        assert!(!target.taken(Protocol::V2));
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Send(Protocol::V2));
        assert_eq!(target.choose(Protocol::V1, NOW), Choice::Send(Protocol::V1));
    }

    #[test]
    fn what_is_not_taken_is_sent_in_the_other_protocol_and_asked_for_again_after_an_hour() {
        let mut target = auto();
        assert!(target.not_taken(Protocol::V2, NOW));
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Send(Protocol::V1), "V2-48");
        assert_eq!(target.choose(Protocol::V2, NOW + AGAIN_AFTER_S - 1), Choice::Send(Protocol::V1));
        assert_eq!(target.choose(Protocol::V2, NOW + AGAIN_AFTER_S), Choice::Ask);
        assert_eq!(target.choose(Protocol::V2, NOW - 1), Choice::Ask, "the clock was wrong");
        assert!(target.taken(Protocol::V2), "it was known not to");
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Send(Protocol::V2));

        let mut target = auto();
        assert!(target.not_taken(Protocol::V1, NOW));
        assert_eq!(target.choose(Protocol::V1, NOW), Choice::Ask);
        target.taken(Protocol::V2);
        assert_eq!(target.choose(Protocol::V1, NOW), Choice::Send(Protocol::V2));
        assert_eq!(target.choose(Protocol::V1, NOW + AGAIN_AFTER_S), Choice::Send(Protocol::V1));
    }

    #[test]
    fn a_target_that_takes_2_0_no_more_is_sent_1_0() {
        let mut target = auto();
        target.taken(Protocol::V2);
        assert!(target.not_taken(Protocol::V2, NOW));
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Send(Protocol::V1));
    }

    #[test]
    fn where_neither_is_taken_both_are_tried_again() {
        let mut target = auto();
        assert!(target.not_taken(Protocol::V2, NOW));
        assert!(!target.not_taken(Protocol::V1, NOW), "hold");
        assert_eq!(target.choose(Protocol::V2, NOW), Choice::Ask);
        assert_eq!(target.choose(Protocol::V1, NOW), Choice::Send(Protocol::V1));
    }

    #[test]
    fn what_was_learned_is_remembered() {
        let mut target = auto();
        target.not_taken(Protocol::V2, NOW);
        let target = Negotiation::new(ProtocolRule::Auto, target.learned());
        assert_eq!(target.choose(Protocol::V2, NOW + 10), Choice::Send(Protocol::V1));
    }

    #[test]
    fn a_configured_protocol_is_sent_whatever_the_target_says() {
        for protocol in [Protocol::V1, Protocol::V2] {
            let mut target = Negotiation::new(ProtocolRule::Always(protocol), [Taken::Unknown; 2]);
            for received in [Protocol::V1, Protocol::V2] {
                assert_eq!(target.choose(received, NOW), Choice::Send(protocol), "V2-58");
                assert!(!target.not_taken(protocol, NOW), "hold");
                assert_eq!(target.choose(received, NOW), Choice::Send(protocol));
            }
        }
    }
}
