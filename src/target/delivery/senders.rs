//! Of which senders a target takes nothing: of the second one of a pair with equal labels, or of all while a backlog is older than it takes. Pure.
//!
//! ```text
//!   of a request, its witnesses too, everything was refused   +2, up to 24
//!   a whole request was taken                                 -1
//!   some of a request was refused and some taken               0
//! ```
//! At 8 a sender is *hopeless*: its requests go one by one and are not taken apart, unless a *witness* (see `batch`) is taken. As soon as one is, or
//! some whole requests are, all is as before.
//!
//! Bounded: [`SENDERS_MAX`] senders; when there are more, the oldest are forgotten, and cost a search again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::culprits::forget_oldest;
use super::Lane;

const SENDERS_MAX: usize = 1024;
const REFUSED: u32 = 2;
const HOPELESS: u32 = 4 * REFUSED;
const MOST: u32 = 12 * REFUSED;
/// What was not refused for so long is another story.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A sender, by its address if that is known, in a lane: old and new data of the same one are not alike.
pub(super) type Sender = (Lane, Option<IpAddr>);

#[derive(Clone, Copy, Debug)]
struct Refused {
    score: u32,
    last: Instant,
    /// Nothing was taken since.
    is_latest: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<Sender, Refused>);

impl Senders {
    /// Of a request of a sender everything was refused.
    pub(super) fn all_refused(&mut self, sender: Sender, now: Instant) {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            forget_oldest(&mut self.0, |refused| refused.last, now);
        }
        let refused = self.0.entry(sender).or_insert(Refused { score: 0, last: now, is_latest: true });
        *refused = Refused { score: (refused.score + REFUSED).min(MOST), last: now, is_latest: true };
    }

    /// A whole request of a sender was taken.
    pub(super) fn all_taken(&mut self, sender: Sender) {
        let Some(refused) = self.0.get_mut(&sender) else { return };
        refused.score -= 1;
        refused.is_latest = false;
        if refused.score == 0 {
            self.0.remove(&sender);
        }
    }

    /// Of a request of a sender some was taken, and the rest refused.
    pub(super) fn some_taken(&mut self, sender: Sender) {
        self.0.remove(&sender);
    }

    /// Everybody's requests are taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is refused of it is not worth being taken apart.
    pub(super) fn is_hopeless(&self, sender: Sender) -> bool {
        self.0.get(&sender).is_some_and(|refused| refused.score >= HOPELESS)
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
        (0..times).for_each(|_| senders.all_refused(A, now));
        (senders, now)
    }

    #[test]
    fn a_sender_of_whom_all_was_refused_some_times_is_hopeless() {
        assert!(!refused(3).0.is_hopeless(A));
        let (senders, _) = refused(4);
        assert!(senders.is_hopeless(A) && senders.is_refused_now(A));
        assert!(!senders.is_hopeless(B), "each for itself");
        assert!(!senders.is_hopeless((Lane::Two, A.1)));
    }

    #[test]
    fn some_that_is_taken_ends_it_at_once_and_whole_requests_do_so_after_some() {
        let (mut senders, _) = refused(1000);
        senders.all_taken(A);
        assert!(senders.is_hopeless(A) && !senders.is_refused_now(A));
        (0..MOST - HOPELESS).for_each(|_| senders.all_taken(A));
        assert!(!senders.is_hopeless(A));
        let (mut senders, _) = refused(1000);
        senders.some_taken(A);
        assert!(!senders.is_hopeless(A));
    }

    #[test]
    fn a_sender_who_comes_first_now_and_then_is_hopeless_too() {
        let (mut senders, now) = refused(0);
        for _ in 0..HOPELESS {
            senders.all_refused(A, now);
            senders.all_taken(A);
        }
        senders.all_refused(A, now);
        assert!(senders.is_hopeless(A));
    }

    #[test]
    fn memory_is_bounded_and_what_was_long_ago_is_forgotten() {
        let (mut senders, now) = refused(4);
        for number in 0..100_000u32 {
            let address = IpAddr::from(number.to_be_bytes());
            senders.all_refused((Lane::One, Some(address)), now + Duration::from_millis(number.into()));
        }
        assert!(senders.0.len() <= SENDERS_MAX);
        senders.forget(now + 2 * REMEMBERED);
        assert!(senders.0.is_empty());
    }
}
