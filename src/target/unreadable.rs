//! How long a place of the log that the disk does not give is tried again before it is taken for damaged. Pure.
//!
//! ```text
//!   fails --1 s--> fails --1 s--> .. for ten minutes --> given up
//!                        --longer than a minute without a try--> the ten minutes begin anew
//! ```
//!
//! A path to a disk that fails over takes seconds, somebody who plugs a cable in takes minutes. Only time in which it was tried counts: a target that had
//! its hands full did not look whether the disk is back.

use std::time::Duration;

use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(600);
const INTERVAL: Duration = Duration::from_secs(1);
/// Between a failure and the next try, if they belong together.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Unreadable {
    since: Instant,
    failed: Instant,
}

impl Unreadable {
    /// It failed for the first time.
    #[must_use]
    pub fn since(failed: Instant) -> Unreadable {
        Unreadable { since: failed, failed }
    }

    /// It was tried once more, and failed. (Which may take a disk minutes.)
    #[must_use]
    pub fn again(self, tried: Instant, failed: Instant) -> Unreadable {
        if tried.saturating_duration_since(self.failed) > PAUSE_MAX {
            return Unreadable::since(failed);
        }
        Unreadable { failed, ..self }
    }

    /// When it is to be tried again.
    #[must_use]
    pub fn next_try(self) -> Instant {
        self.failed + INTERVAL
    }

    /// Whether it is to be taken for damaged.
    #[must_use]
    pub fn is_given_up(self) -> bool {
        self.failed.saturating_duration_since(self.since) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Fails at each try, each time after so long, until it is given up: how many tries there were, and when that is.
    fn given_up(start: Instant, mut unreadable: Unreadable, takes: Duration) -> (u32, Duration) {
        let mut tries = 1;
        while !unreadable.is_given_up() {
            let tried = unreadable.next_try();
            unreadable = unreadable.again(tried, tried + takes);
            tries += 1;
        }
        (tries, unreadable.failed - start)
    }

    #[test]
    fn it_is_tried_each_second_for_ten_minutes() {
        let start = Instant::now();
        assert_eq!(given_up(start, Unreadable::since(start), Duration::ZERO), (601, PATIENCE));
    }

    #[test]
    fn a_disk_that_takes_minutes_to_fail_is_not_waited_for_for_ever() {
        let start = Instant::now();
        assert_eq!(given_up(start, Unreadable::since(start), 199 * SECOND), (4, PATIENCE));
    }

    #[test]
    fn time_in_which_it_was_not_tried_does_not_count() {
        let start = Instant::now();
        let later = start + 3600 * SECOND;
        let unreadable = Unreadable::since(start).again(start + SECOND, start + SECOND).again(later, later);
        assert!(!unreadable.is_given_up(), "one try after an hour");
        assert_eq!(given_up(later, unreadable, Duration::ZERO), (601, PATIENCE));
    }
}
