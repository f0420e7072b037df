//! Of which senders a target takes nothing: of the second one of a pair with equal labels, or of all while a backlog is older than it takes. Pure.
//!
//! ```text
//!   of a request, its witnesses too, everything was refused   +3, up to 36
//!   a whole request was taken                                 -1
//!   some of a request was taken and some refused              forgotten
//! ```
//! At 12 a sender is *hopeless*: its requests go one by one and are not taken apart, unless a *witness* (see `batch`) is taken and the rest is not. As soon
//! as that happens, or up to 25 whole requests were taken, all is as before. Before that each of its requests of which all is refused is taken apart with half the patience of the
//! one before. Of two senders with equal labels who race each other both become hopeless, so that a whole request costs one, refused or not.
//!
//! Bounded: [`SENDERS_MAX`] senders; when there are more, the oldest are forgotten, and cost a search again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::culprits::forget_oldest;
use super::Lane;

const SENDERS_MAX: usize = 1024;
const REFUSED: u32 = 3;
const HOPELESS: u32 = 4 * REFUSED;
/// [`Senders::patience`] with a sender of whom nothing is known.
const PATIENCE: u32 = 32;
const MOST: u32 = 12 * REFUSED;
/// A witness of a hopeless sender is heard at least as often as this, if there is one.
const HEARD: Duration = Duration::from_secs(60);
/// What was not refused for so long is another story.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A sender, by its address if that is known, in a lane: old and new data of the same one are not alike.
pub(super) type Sender = (Lane, Option<IpAddr>);

#[derive(Clone, Copy, Debug)]
struct Score {
    points: u32,
    last: Instant,
    /// When a witness of it was last called.
    heard: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<Sender, Score>);

impl Senders {
    /// Of a request of a sender everything was refused.
    pub(super) fn all_refused(&mut self, sender: Sender, now: Instant) {
        if self.0.len() >= SENDERS_MAX && !self.0.contains_key(&sender) {
            forget_oldest(&mut self.0, |score| score.last, now);
        }
        let score = self.0.entry(sender).or_insert(Score { points: 0, last: now, heard: None });
        *score = Score { points: (score.points + REFUSED).min(MOST), last: now, ..*score };
    }

    /// A whole request of a sender was taken.
    pub(super) fn all_taken(&mut self, sender: Sender) {
        let Some(score) = self.0.get_mut(&sender) else { return };
        score.points -= 1;
        if score.points == 0 {
            self.0.remove(&sender);
        }
    }

    /// Of a request of a sender some was taken, and some refused.
    pub(super) fn some_taken(&mut self, sender: Sender) {
        self.0.remove(&sender);
    }

    /// Everybody's requests are taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many refusals in a row of one batch, with nothing taken between, are enough to take no more of it apart without a witness. The fewer, the
    /// more often all of a request of this sender was refused.
    pub(super) fn patience(&self, sender: Sender) -> u32 {
        let points = self.0.get(&sender).map_or(0, |score| score.points);
        if points >= HOPELESS { 0 } else { PATIENCE >> (points / REFUSED) }
    }

    /// What is refused of it is not worth being taken apart.
    pub(super) fn is_hopeless(&self, sender: Sender) -> bool {
        self.patience(sender) == 0
    }

    /// Whether no witness of a hopeless sender was heard for so long that one is due: perhaps it is the only one of a pair that is left.
    pub(super) fn is_due(&self, sender: Sender, now: Instant) -> bool {
        let is_long_ago = |heard: Instant| now.saturating_duration_since(heard) >= HEARD;
        self.is_hopeless(sender) && self.0[&sender].heard.is_none_or(is_long_ago)
    }

    /// A witness of a sender is heard.
    pub(super) fn hears(&mut self, sender: Sender, now: Instant) {
        if let Some(score) = self.0.get_mut(&sender) {
            score.heard = Some(now);
        }
    }

    /// Forgets what was long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, score| now.saturating_duration_since(score.last) < REMEMBERED);
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
        assert!(senders.is_hopeless(A));
        assert!(!senders.is_hopeless(B), "each for itself");
        assert!(!senders.is_hopeless((Lane::Two, A.1)));
    }

    #[test]
    fn some_that_is_taken_ends_it_at_once_and_whole_requests_do_so_after_some() {
        let (mut senders, _) = refused(1000);
        (0..=MOST - HOPELESS).for_each(|_| senders.all_taken(A));
        assert!(!senders.is_hopeless(A));
        let (mut senders, _) = refused(1000);
        senders.some_taken(A);
        assert!(!senders.is_hopeless(A));
    }

    #[test]
    fn patience_halves_with_each_request_of_which_all_is_refused() {
        let patience: Vec<u32> = (0..6).map(|times| refused(times).0.patience(A)).collect();
        assert_eq!(patience, [32, 16, 8, 4, 0, 0]);
    }

    #[test]
    fn of_two_who_race_each_other_both_are_hopeless_soon() {
        let (mut senders, now) = refused(0);
        let mut race = |times: u32| {
            for _ in 0..times {
                senders.all_refused(A, now);
                senders.all_taken(A);
                senders.all_taken(B);
                senders.all_refused(B, now);
            }
            (senders.is_hopeless(A), senders.is_hopeless(B))
        };
        assert_eq!(race(4), (false, false));
        assert_eq!(race(2), (true, true));
    }

    #[test]
    fn a_witness_of_a_hopeless_sender_is_due_once_a_minute() {
        let (mut senders, now) = refused(3);
        assert!(!senders.is_due(A, now), "it is looked at anyway");
        senders.all_refused(A, now);
        assert!(senders.is_due(A, now));
        senders.hears(A, now);
        senders.all_refused(A, now + HEARD / 2);
        assert!(!senders.is_due(A, now + HEARD / 2));
        assert!(senders.is_due(A, now + HEARD));
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
