//! Whether a target's 429s have to do with the rate at all.
//!
//! ```text
//!              429s in a row, most requests pass           429 again
//!   believed -------------------------------------> trial ----------> ignored: 60 s, twice as long each time
//!      ^                                              |                  |
//!      |           no 429 at half the limit           |                  |
//!      '----------------------------------------------'------------------'
//! ```
//!
//! A target says 429 for other reasons too: one tenant's limit, one series', a proxy that sheds load at random. Whoever takes those for a rate goes slower
//! and slower, for ever.
//!
//! A limiter above whose rate one sends refuses the excess. So where 429s are few among the answers, one sends at hardly more than its rate, and at half of
//! that it does not say 429. That is tried. If it does all the same, 429s are no teachers for a while; each still means a pause and half the window.

use std::time::{Duration, Instant};

/// So many 429s in a row raise the question.
const ROW: u32 = 3;
/// After trials that went well the next row has to be longer, up to so many times twice.
const ROW_DOUBLINGS_MAX: u32 = 2;
/// So many requests have to pass for each that was refused, else one sends at far more than the rate of the limiter.
const PASSED_PER_REFUSED: u64 = 2;
/// And so many in the row.
const PASSED_MIN: u64 = 8;
/// The limit while it is tried, as a share of what it was. Less than what passes while the question is raised.
const HALF: f64 = 0.5;
/// How long it is tried: so many requests, or so long if it is slow.
const TRIAL_REQUESTS: u64 = 100;
const TRIAL_SLOW: Duration = Duration::from_secs(35);
const TRIAL_SLOW_REQUESTS: u64 = 5;
/// So many have to pass in a trial before a 429 proves something: the first ones may pay for what was sent before.
const TRIAL_REQUESTS_MIN: u64 = 2;
/// So many 429s before that, and it is a limiter.
const TRIAL_REFUSED_MAX: u32 = 3;
/// How long 429s teach nothing, the first time and at most.
const IGNORE: Duration = Duration::from_secs(60);
const IGNORE_MAX: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug)]
struct Trial {
    began: Instant,
    /// Let through before it.
    requests: u64,
    /// 429s before enough had passed.
    refused: u32,
    /// The limit that comes back when it goes well.
    limit: f64,
}

/// What a 429 asks the rate to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Learn from it.
    Believe,
    /// Learn from it, then send at this share of the new limit and call [`Chance::tries`].
    Try(f64),
    /// Learn nothing yet.
    Wait,
    /// Forget the limit.
    Ignore,
}

/// See the module. `requests` are those let through since ever that had not been in flight at a 429.
#[derive(Clone, Debug, Default)]
pub(super) struct Chance {
    /// In a row, refused probes too.
    refused: u32,
    /// Of these, those that came after something had passed.
    row: u32,
    /// At the first and the last of the row.
    first: u64,
    last: u64,
    /// Refused along with the last of the row.
    others: u64,
    /// That went well in this row.
    trials: u32,
    trial: Option<Trial>,
    ignored_until: Option<Instant>,
    ignored_for: Duration,
}

impl Chance {
    /// Whether 429s teach nothing now.
    pub(super) fn is_ignored(&self, now: Instant) -> bool {
        self.ignored_until.is_some_and(|until| now < until)
    }

    /// It said 429 while there was a limit. `is_early`: the limit had not yet passed a rest or a step.
    pub(super) fn refused(&mut self, now: Instant, requests: u64, is_early: bool) -> Verdict {
        let lately = requests - self.last;
        self.last = requests;
        let needed = PASSED_PER_REFUSED * (1 + self.others);
        self.others = 0;
        if let Some(trial) = &mut self.trial {
            if requests - trial.requests >= TRIAL_REQUESTS_MIN.max(needed) {
                return self.ignore(now);
            }
            trial.refused += 1;
            if trial.refused <= TRIAL_REFUSED_MAX {
                // That was for what was sent before.
                *trial = Trial { began: now, requests, ..*trial };
                return Verdict::Wait;
            }
            // A limiter, and its rate is lower still.
            self.forget();
        }
        if self.refused == 0 || !is_early {
            (self.refused, self.row, self.first) = (1, 1, requests);
            return Verdict::Believe;
        }
        self.refused += 1;
        let has_passed = lately >= needed;
        self.row = if has_passed { self.row + 1 } else { self.row.saturating_sub(1) };
        let is_enough = requests - self.first >= PASSED_MIN;
        if is_enough && has_passed && self.row >= ROW << self.trials.min(ROW_DOUBLINGS_MAX) {
            Verdict::Try(HALF)
        } else {
            Verdict::Believe
        }
    }

    /// It said 429 to another request that was in flight.
    pub(super) fn refused_along(&mut self) {
        self.others += 1;
    }

    /// A trial begins; `limit` comes back if it goes well.
    pub(super) fn tries(&mut self, now: Instant, requests: u64, limit: f64) {
        self.trial = Some(Trial { began: now, requests, refused: 0, limit });
    }

    /// Whether a trial is under way.
    pub(super) fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// The limit that comes back, once, when a trial went well: the 429s have to do with the rate.
    pub(super) fn went_well(&mut self, now: Instant, requests: u64) -> Option<f64> {
        let trial = self.trial?;
        let passed = requests - trial.requests;
        if passed < TRIAL_REQUESTS && (passed < TRIAL_SLOW_REQUESTS || now - trial.began < TRIAL_SLOW) {
            return None;
        }
        self.trial = None;
        self.trials += 1;
        self.refused = 0;
        Some(trial.limit)
    }

    /// There is no limit any more.
    pub(super) fn forget(&mut self) {
        self.refused = 0;
        self.trials = 0;
        self.trial = None;
    }

    fn ignore(&mut self, now: Instant) -> Verdict {
        // Soon after the last time it is the same trouble still.
        let is_again = self.ignored_until.is_some_and(|until| now - until < 2 * self.ignored_for);
        self.ignored_for = if is_again { (2 * self.ignored_for).min(IGNORE_MAX) } else { IGNORE };
        self.ignored_until = Some(now + self.ignored_for);
        self.forget();
        Verdict::Ignore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row, a trial, a 429 in it.
    fn refuse_until_ignored(chance: &mut Chance, now: Instant, requests: &mut u64) {
        for _ in 1..ROW {
            assert_eq!(chance.refused(now, *requests, true), Verdict::Believe);
            *requests += 10;
        }
        assert_eq!(chance.refused(now, *requests, true), Verdict::Try(HALF));
        chance.tries(now, *requests, 100.0);
        *requests += 10;
        assert_eq!(chance.refused(now, *requests, true), Verdict::Ignore);
    }

    #[test]
    fn a_429_at_half_the_limit_proves_that_it_is_none_and_twice_as_long_each_time() {
        let (mut chance, mut now, mut requests) = (Chance::default(), Instant::now(), 0);
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            refuse_until_ignored(&mut chance, now, &mut requests);
            let until = now + Duration::from_secs(60 * minutes);
            assert!(chance.is_ignored(until - Duration::from_millis(1)));
            assert!(!chance.is_ignored(until));
            now = until + Duration::from_secs(1);
        }
        // Long after that it is another trouble.
        now += Duration::from_secs(3 * 3600);
        refuse_until_ignored(&mut chance, now, &mut requests);
        assert!(!chance.is_ignored(now + IGNORE));
    }

    #[test]
    fn a_limiter_that_refuses_most_is_believed() {
        let (mut chance, now) = (Chance::default(), Instant::now());
        for requests in 0..100 {
            assert_eq!(chance.refused(now, requests, true), Verdict::Believe);
        }
        // Or one of many in flight: what passed is little beside them.
        for requests in (100..1000).step_by(5) {
            for _ in 0..5 {
                chance.refused_along();
            }
            assert_eq!(chance.refused(now, requests, true), Verdict::Believe);
        }
    }

    #[test]
    fn a_trial_without_429_brings_the_limit_back_once() {
        let (mut chance, now) = (Chance::default(), Instant::now());
        for requests in [0, 10, 20] {
            let _ = chance.refused(now, requests, true);
        }
        chance.tries(now, 20, 77.0);
        assert_eq!(chance.went_well(now + TRIAL_SLOW, 20 + TRIAL_SLOW_REQUESTS - 1), None);
        assert_eq!(chance.went_well(now, 20 + TRIAL_REQUESTS - 1), None);
        assert_eq!(chance.went_well(now, 20 + TRIAL_REQUESTS), Some(77.0));
        assert_eq!(chance.went_well(now, 20 + TRIAL_REQUESTS), None);
        assert!(!chance.is_trial());
    }
}
