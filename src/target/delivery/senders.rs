//! Of which senders a target seems to take nothing: of the second one of a pair with equal labels, or of all while a backlog is older than it takes. Pure.
//!
//! ```text
//!   a request, or a piece of one, is refused             +1, up to 64
//!   a whole request is taken                             -1
//!   something of a request that was taken apart is taken  0
//! ```
//! At 32 a sender is *hopeless*: what is refused of it is not taken apart any more. Its requests go one by one, and as soon as a *witness* (see `batch`)
//! is taken, or some whole requests are, all is as before.
//!
//! Bounded: [`SENDERS_MAX`] senders; when there are more, the oldest are forgotten, and cost a search again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::culprits::forget_oldest;
use super::Lane;

const SENDERS_MAX: usize = 1024;
const HOPELESS: u32 = 32;
const REFUSALS_MAX: u32 = 64;
/// What was not refused for so long is another story.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A sender, by its address if that is known, in a lane: old and new data of the same one are not alike.
pub(super) type Sender = (Lane, Option<IpAddr>);

#[derive(Clone, Copy, Debug)]
struct Refused {
    times: u32,
    last: Instant,
    /// Nothing was taken since.
    is_latest: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<Sender, Refused>);

impl Senders {
    /// A request of a sender, or a piece of one, was refused.
    pub(super) fn refused(&mut self, sender: Sender, now: Instant) {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            forget_oldest(&mut self.0, |refused| refused.last, now);
        }
        let refused = self.0.entry(sender).or_insert(Refused { times: 0, last: now, is_latest: true });
        *refused = Refused { times: (refused.times + 1).min(REFUSALS_MAX), last: now, is_latest: true };
    }

    /// A whole request of a sender was taken, or some of one.
    pub(super) fn accepted(&mut self, sender: Sender, is_whole: bool) {
        let Some(refused) = self.0.get_mut(&sender) else { return };
        refused.times -= 1;
        refused.is_latest = false;
        if refused.times == 0 || !is_whole {
            self.0.remove(&sender);
        }
    }

    /// What is refused of it is not worth being taken apart.
    pub(super) fn is_hopeless(&self, sender: Sender) -> bool {
        self.0.get(&sender).is_some_and(|refused| refused.times >= HOPELESS)
    }

    /// It is hopeless, and the next one will be refused, too, most likely.
    pub(super) fn is_refused_now(&self, sender: Sender) -> bool {
        self.is_hopeless(sender) && self.0[&sender].is_latest
    }

    /// Forgets what was long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, refused| now.saturating_duration_since(refused.last) < REMEMBERED);
    }

    /// It was the target's fault.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Sender = (Lane::One, Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))));
    const B: Sender = (Lane::One, Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))));

    fn refused(times: u32) -> (Senders, Instant) {
        let (mut senders, now) = (Senders::default(), Instant::now());
        (0..times).for_each(|_| senders.refused(A, now));
        (senders, now)
    }

    #[test]
    fn a_sender_of_which_much_is_refused_and_nothing_taken_is_hopeless() {
        assert!(!refused(HOPELESS - 1).0.is_hopeless(A));
        let (senders, _) = refused(HOPELESS);
        assert!(senders.is_hopeless(A) && senders.is_refused_now(A));
        assert!(!senders.is_hopeless(B), "each for itself");
        assert!(!senders.is_hopeless((Lane::Two, A.1)));
    }

    #[test]
    fn a_piece_that_is_taken_ends_it_at_once_and_whole_requests_do_so_after_some() {
        let (mut senders, _) = refused(1000);
        senders.accepted(A, true);
        assert!(senders.is_hopeless(A) && !senders.is_refused_now(A));
        (0..REFUSALS_MAX - HOPELESS).for_each(|_| senders.accepted(A, true));
        assert!(!senders.is_hopeless(A));
        let (mut senders, _) = refused(1000);
        senders.accepted(A, false);
        assert!(!senders.is_hopeless(A));
    }

    #[test]
    fn a_sender_whose_requests_are_taken_in_turn_with_refused_ones_is_hopeless_too() {
        let (mut senders, now) = refused(0);
        for _ in 0..HOPELESS {
            senders.refused(A, now);
            senders.refused(A, now);
            senders.accepted(A, true);
        }
        assert!(senders.is_hopeless(A));
    }

    #[test]
    fn memory_is_bounded_and_what_was_long_ago_is_forgotten() {
        let (mut senders, now) = refused(HOPELESS);
        for number in 0..100_000u32 {
            let address = IpAddr::from(number.to_be_bytes());
            senders.refused((Lane::One, Some(address)), now + Duration::from_millis(number.into()));
        }
        assert!(senders.0.len() <= SENDERS_MAX);
        senders.forget(now + 2 * REMEMBERED);
        assert!(senders.0.is_empty());
    }
}
