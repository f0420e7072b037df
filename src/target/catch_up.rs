//! Whether a target catches up with what arrives, and how long that takes. Pure.
//!
//! Looked at once a second: samples that were settled, and samples that were accepted for it, both as they grow. The rates are those of the last
//! minute; so is the answer: with a backlog, `backlog / (drain - arrival)`, or *never at this rate*.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(60);

/// What is known of a target's way ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook {
    /// Samples settled per second.
    pub drain: f64,
    /// Samples accepted per second.
    pub arrival: f64,
    /// Until nothing is pending; `None`: never at this rate.
    pub catches_up_in: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct CatchUp {
    seen: VecDeque<(Instant, u64, u64)>,
}

impl CatchUp {
    /// At `now`, `settled` and `accepted` samples are counted in all, and `pending` are owed.
    pub fn look(&mut self, now: Instant, settled: u64, accepted: u64, pending: u64) -> Outlook {
        // A seek counts what it puts before the target again as accepted, at once; counters that shrink are another target's.
        if self.seen.back().is_some_and(|(_, before, all)| settled < *before || accepted < *all) {
            self.seen.clear();
        }
        self.seen.push_back((now, settled, accepted));
        while self.seen.len() > 2 && now.saturating_duration_since(self.seen[1].0) >= SPAN {
            self.seen.pop_front();
        }
        let (since, settled_before, accepted_before) = self.seen[0];
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds <= 0.0 {
            return Outlook { catches_up_in: (pending == 0).then_some(Duration::ZERO), ..Outlook::default() };
        }
        let drain = (settled - settled_before) as f64 / seconds;
        let arrival = (accepted - accepted_before) as f64 / seconds;
        let catches_up_in = match pending {
            0 => Some(Duration::ZERO),
            pending if drain > arrival => Duration::try_from_secs_f64(pending as f64 / (drain - arrival)).ok(),
            // What arrived in the last second or two is no backlog.
            pending if pending as f64 <= 2.0 * arrival && drain >= 0.9 * arrival => Some(Duration::from_secs(1)),
            _ => None,
        };
        Outlook { drain, arrival, catches_up_in }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(seconds: u64, drain: u64, arrival: u64, pending: u64) -> Outlook {
        let (start, mut catch_up) = (Instant::now(), CatchUp::default());
        let looks =
            (0..=seconds).map(|n| catch_up.look(start + Duration::from_secs(n), n * drain, n * arrival, pending));
        looks.last().unwrap()
    }

    #[test]
    fn a_backlog_is_gone_when_the_difference_of_the_rates_has_eaten_it() {
        let seen = outlook(200, 5000, 1000, 400_000);
        assert_eq!((seen.drain, seen.arrival), (5000.0, 1000.0));
        assert_eq!(seen.catches_up_in, Some(Duration::from_secs(100)));
    }

    #[test]
    fn at_some_rates_it_is_never_gone() {
        assert_eq!(outlook(200, 900, 1000, 400_000).catches_up_in, None);
        assert_eq!(outlook(200, 0, 0, 1).catches_up_in, None);
    }

    #[test]
    fn who_keeps_up_is_not_behind() {
        assert_eq!(outlook(200, 1000, 1000, 0).catches_up_in, Some(Duration::ZERO));
        assert_eq!(outlook(200, 1000, 1000, 1500).catches_up_in, Some(Duration::from_secs(1)));
    }

    #[test]
    fn memory_is_bounded_and_a_new_count_begins_anew() {
        let (start, mut catch_up) = (Instant::now(), CatchUp::default());
        for n in 0..10_000 {
            catch_up.look(start + Duration::from_secs(n), n, n, 0);
        }
        assert!(catch_up.seen.len() <= 62, "{}", catch_up.seen.len());
        let anew = catch_up.look(start + Duration::from_secs(10_001), 5, 5, 7);
        assert_eq!((anew.drain, anew.catches_up_in), (0.0, None));
    }
}
