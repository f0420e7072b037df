//! How long connections live: all that were made together end together.
//!
//! ```text
//!   request --> over? --no---------------------------> goes with the current generation
//!                 |                                       |
//!                 '-yes--> the next generation begins     | no answer, or a 5xx
//!                           (the old one's idle           v
//!                            connections close, its     spent, if that generation is still the current one:
//!                            requests end on theirs)    eight requests that fail together end one generation, not eight
//!
//!   over: older than its age, or spent. Looked at when a request begins and never between: an idle target sleeps.
//! ```
//!
//! Pure: time and randomness come in as arguments, and what a generation holds is anybody's.

use std::time::Duration;

use tokio::time::Instant;

/// The current generation of `T`.
#[derive(Debug)]
pub(super) struct Generations<T> {
    current: T,
    number: u64,
    until: Instant,
    is_spent: bool,
}

/// How old a generation becomes: `max_age` give or take a fifth. Many relays that began together must not all look for
/// new connections at the same moment.
pub(super) fn age(max_age: Duration, random: f64) -> Duration {
    max_age.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

impl<T> Generations<T> {
    pub fn new(first: T, until: Instant) -> Self {
        Generations { current: first, number: 0, until, is_spent: false }
    }

    /// The current one and its number, for [`Generations::spend`].
    pub fn current(&mut self) -> (&mut T, u64) {
        (&mut self.current, self.number)
    }

    /// The next request needs a new one.
    pub fn is_over(&self, now: Instant) -> bool {
        self.is_spent || now >= self.until
    }

    pub fn replace(&mut self, next: T, until: Instant) {
        *self = Generations { current: next, number: self.number + 1, until, is_spent: false };
    }

    /// There is no new one to be had: the current one goes on.
    pub fn prolong(&mut self, until: Instant) {
        self.until = until;
        self.is_spent = false;
    }

    /// A request of generation `number` failed. What an earlier one's requests come to says nothing about the current one.
    pub fn spend(&mut self, number: u64) {
        self.is_spent |= number == self.number;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_generation_is_over_at_its_age() {
        let born = Instant::now();
        let mut generations = Generations::new('a', born + MINUTE);
        assert!(!generations.is_over(born));
        assert!(!generations.is_over(born + MINUTE - Duration::from_nanos(1)));
        assert!(generations.is_over(born + MINUTE));
        generations.replace('b', born + 2 * MINUTE);
        assert_eq!(generations.current(), (&mut 'b', 1));
        assert!(!generations.is_over(born + MINUTE));
    }

    #[test]
    fn requests_that_fail_together_end_one_generation() {
        let now = Instant::now();
        let mut generations = Generations::new((), now + MINUTE);
        let (_, first) = generations.current();
        generations.spend(first);
        assert!(generations.is_over(now));
        generations.spend(first);
        generations.replace((), now + MINUTE);
        for _ in 0..7 {
            generations.spend(first);
        }
        assert!(!generations.is_over(now), "late failures of the first say nothing about the second");
        let (_, second) = generations.current();
        generations.spend(second);
        assert!(generations.is_over(now));
    }

    #[test]
    fn a_generation_without_a_successor_goes_on() {
        let now = Instant::now();
        let mut generations = Generations::new((), now);
        generations.spend(0);
        generations.prolong(now + MINUTE);
        assert!(!generations.is_over(now));
        assert!(generations.is_over(now + MINUTE));
    }

    proptest! {
        #[test]
        fn ages_are_within_a_fifth_of_the_maximum(seconds in 1u64..100_000, random in 0.0..=1.0) {
            let max_age = Duration::from_secs(seconds);
            let age = age(max_age, random);
            prop_assert!(max_age.mul_f64(0.799) <= age && age <= max_age.mul_f64(1.201), "{:?}", age);
        }
    }

    #[test]
    fn ages_differ() {
        assert_eq!(age(MINUTE, 0.0), Duration::from_secs(48));
        assert_eq!(age(MINUTE, 1.0), Duration::from_secs(72));
    }
}
