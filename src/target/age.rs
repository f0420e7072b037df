//! What "now" is when samples are judged by their age: a wrong clock must not make a backlog old. Pure.
//!
//! Now is the smallest of the wall clock, the newest receive time, and five minutes after the newest sample: a machine that starts with a clock that
//! is ahead makes nothing old. A step of the wall clock against the monotonic one by more than an
//! hour suspends expiry until clock and incoming samples agree within five minutes, for ten minutes.
//!
//! ```text
//!  trusted --a step of more than 1 h--> suspended --clock and newest sample within 5 min of each other, for 10 min--> trusted
//! ```

use std::time::{Duration, Instant};

use crate::wal::Newest;

const STEP_MS: i64 = 3_600_000;
const AGREES_MS: i64 = 300_000;
const AGREES_FOR: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub struct AgeClock {
    last: Option<(Instant, i64)>,
    is_suspended: bool,
    agrees_since: Option<Instant>,
}

impl AgeClock {
    /// Looks at the clocks: the monotonic and the wall clock (ms since 1970) now, and what came in last, read or not. What ages are judged by, in
    /// ms since 1970; `None` while they are not.
    pub fn look(&mut self, now: Instant, wall_ms: i64, newest: Newest) -> Option<i64> {
        if let Some((before, wall_before)) = self.last {
            let passed = i64::try_from(now.saturating_duration_since(before).as_millis()).unwrap_or(i64::MAX);
            let step = wall_ms.saturating_sub(wall_before).saturating_sub(passed);
            if step.saturating_abs() > STEP_MS {
                self.is_suspended = true;
                self.agrees_since = None;
            }
        }
        self.last = Some((now, wall_ms));
        if self.is_suspended {
            if wall_ms.saturating_sub(newest.sample_ms).saturating_abs() > AGREES_MS {
                self.agrees_since = None;
            } else if now.saturating_duration_since(*self.agrees_since.get_or_insert(now)) >= AGREES_FOR {
                self.is_suspended = false;
            }
        }
        let now_ms = wall_ms.min(newest.received_ms).min(newest.sample_ms.saturating_add(AGREES_MS));
        (!self.is_suspended).then_some(now_ms)
    }

    /// The wall clock was set, and nobody knows yet whether rightly.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.is_suspended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const START_MS: i64 = 1_700_000_000_000;

    fn came_in(received_ms: i64, sample_ms: i64) -> Newest {
        Newest { received_ms, sample_ms }
    }

    #[test]
    fn now_is_never_later_than_the_newest_record() {
        let (mut clock, now) = (AgeClock::default(), Instant::now());
        assert_eq!(clock.look(now, START_MS, came_in(START_MS - 5, START_MS)), Some(START_MS - 5));
        assert_eq!(clock.look(now, START_MS, came_in(START_MS + 5, START_MS)), Some(START_MS));
    }

    #[test]
    fn now_is_never_much_later_than_the_newest_sample() {
        let (mut clock, now) = (AgeClock::default(), Instant::now());
        let ahead = START_MS + 48 * HOUR_MS;
        assert_eq!(clock.look(now, ahead, came_in(ahead, START_MS)), Some(START_MS + AGREES_MS));
    }

    #[test]
    fn a_step_suspends_until_clock_and_samples_have_agreed_for_ten_minutes() {
        for step in [-30 * HOUR_MS, 30 * HOUR_MS] {
            let (mut clock, start) = (AgeClock::default(), Instant::now());
            let at = |minute: u64| start + Duration::from_secs(60 * minute);
            let ms = |minute: i64| START_MS + 60_000 * minute;
            assert!(clock.look(at(0), ms(0), came_in(ms(0), ms(0))).is_some());
            // The clock is wrong for half an hour, then set back.
            for minute in 1..30 {
                let wall = ms(minute) + step;
                assert_eq!(clock.look(at(minute as u64), wall, came_in(wall, ms(minute))), None);
                assert!(clock.is_suspended());
            }
            for minute in 30..40 {
                assert_eq!(
                    clock.look(at(minute as u64), ms(minute), came_in(ms(minute), ms(minute))),
                    None,
                    "{minute}"
                );
            }
            assert_eq!(clock.look(at(40), ms(40), came_in(ms(40), ms(40))), Some(ms(40)));
        }
    }

    #[test]
    fn a_clock_that_is_set_right_for_good_is_believed_again() {
        let (mut clock, start) = (AgeClock::default(), Instant::now());
        clock.look(start, START_MS, came_in(START_MS, START_MS));
        let right = START_MS + 48 * HOUR_MS;
        for minute in 0..=10 {
            let ms = right + 60_000 * minute;
            let looked = clock.look(start + Duration::from_secs(60 * minute as u64), ms, came_in(ms, ms));
            assert_eq!(looked.is_some(), minute == 10);
        }
    }

    #[test]
    fn time_that_passes_is_no_step() {
        let (mut clock, start) = (AgeClock::default(), Instant::now());
        clock.look(start, START_MS, came_in(START_MS, START_MS));
        let later = START_MS + 100 * HOUR_MS;
        assert!(clock.look(start + Duration::from_secs(360_000), later, came_in(later, later)).is_some());
    }
}
