//! When the log will be full, if things go on as they do. Pure: times come in.
//!
//! Looked at is what the slowest target holds: from the bytes it held some minutes ago and those it holds now follows how fast that
//! grows; from that and the room that is left, when something must be given up. What does not grow is never full; what is full is full now.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back is looked.
const SPAN: Duration = Duration::from_secs(300);
/// Nothing is said before this much was seen.
const SPAN_MIN: Duration = Duration::from_secs(10);
/// How often something is remembered.
const EVERY: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    seen: VecDeque<(Instant, u64)>,
}

impl Forecast {
    /// At `now`, `held` bytes are held. How long until `room` more are, if they ever will be.
    pub(super) fn look(&mut self, now: Instant, held: u64, room: u64) -> Option<Duration> {
        while self.seen.len() > 1 && now - self.seen[0].0 > SPAN {
            self.seen.pop_front();
        }
        let first = self.seen.front().copied();
        if self.seen.back().is_none_or(|(last, _)| now - *last >= EVERY) {
            self.seen.push_back((now, held));
        }
        if room == 0 {
            return Some(Duration::ZERO);
        }
        let (since, before) = first?;
        let took = now - since;
        if took < SPAN_MIN || held <= before {
            return None;
        }
        let bytes_per_second = (held - before) as f64 / took.as_secs_f64();
        Duration::try_from_secs_f64(room as f64 / bytes_per_second).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every second; `held` says what is held in which second.
    fn after(seconds: u64, room: u64, held: impl Fn(u64) -> u64) -> Option<u64> {
        let start = Instant::now();
        let mut forecast = Forecast::default();
        let looks = (0..=seconds).map(|n| forecast.look(start + Duration::from_secs(n), held(n), room));
        looks.last().unwrap().map(|left| left.as_secs())
    }

    #[test]
    fn steady_growth_ends_when_the_room_is_used_up() {
        assert_eq!(after(60, 5000, |second| 10 * second), Some(500));
        assert_eq!(after(3600, 5000, |second| 10 * second), Some(500));
    }

    #[test]
    fn what_is_full_is_full_now_whether_it_grows_or_not() {
        assert_eq!(after(60, 0, |_| 700), Some(0));
        assert_eq!(after(0, 0, |_| 0), Some(0));
    }

    #[test]
    fn what_does_not_grow_is_never_full() {
        assert_eq!(after(60, 5000, |_| 700), None);
        assert_eq!(after(60, 5000, |second| 10_000 - 10 * second), None);
    }

    #[test]
    fn nothing_is_said_too_early() {
        assert_eq!(after(9, 5000, |second| 10 * second), None);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        // It grew for an hour, and has shrunk for ten minutes.
        let held = |second: u64| if second < 3600 { 1000 * second } else { 3_600_000 - 10 * (second - 3600) };
        assert_eq!(after(4200, 5000, held), None);
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut forecast = Forecast::default();
        for n in 0..100_000 {
            let _ = forecast.look(start + Duration::from_millis(100 * n), n, 1);
        }
        assert!(forecast.seen.len() < 100, "{}", forecast.seen.len());
    }
}
