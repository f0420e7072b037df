//! How long to wait after a failure (`V1-36`, `V2-52`): doubling, with jitter, between two limits. And what a target's `Retry-After` asks for.
//!
//! Pure arithmetic: the random number is an argument.

use std::time::{Duration, SystemTime};

/// An exponential back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

/// The limits make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// A zero would be a busy loop.
    #[error("must be more than 0")]
    Zero,
    /// The other way round.
    #[error("max_backoff must not be less than min_backoff")]
    MaxBelowMin,
}

impl Backoff {
    /// From `min` to `max`.
    ///
    /// # Errors
    /// [`InvalidBackoff`].
    pub fn try_new(min: Duration, max: Duration) -> Result<Backoff, InvalidBackoff> {
        match (min.is_zero(), max < min) {
            (true, _) => Err(InvalidBackoff::Zero),
            (_, true) => Err(InvalidBackoff::MaxBelowMin),
            (false, false) => Ok(Backoff { min, max }),
        }
    }

    /// The wait after the `failures`th failure in a row (from 1). `random` in 0..1 takes off up to half: many relays that lost
    /// the same target must not come back in step.
    #[must_use]
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.min.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(31)));
        doubled.min(self.max).mul_f64(1.0 - 0.5 * random.clamp(0.0, 1.0))
    }

    /// The wait after a failure where the target named its own. Never less than it asks for; a little more, so that
    /// not everybody comes back at the same moment.
    #[must_use]
    pub fn wait_at_least(&self, retry_after: Duration, random: f64) -> Duration {
        retry_after + retry_after.mul_f64(0.1 * random.clamp(0.0, 1.0)).min(self.max)
    }
}

/// What a `Retry-After` header asks for: seconds or an HTTP date (`V2-53`). Nonsense, zero and the past are `None`. More than `max` is
/// cut to it: a target that asks for a day would stop delivery for a day.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime, max: Duration) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than fit is still a number.
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => max,
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?,
    };
    (!wait.is_zero()).then(|| wait.min(max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: Duration = Duration::from_secs(300);

    #[test]
    fn waits_double_up_to_the_limit() {
        let backoff = Backoff::try_new(Duration::from_millis(30), Duration::from_secs(5)).unwrap();
        let waits: Vec<u128> = (1..=10).map(|n| backoff.wait(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3840, 5000, 5000]);
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::try_new(Duration::ZERO, second), Err(InvalidBackoff::Zero));
        assert_eq!(Backoff::try_new(2 * second, second), Err(InvalidBackoff::MaxBelowMin));
        assert!(Backoff::try_new(second, second).is_ok());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_nonsense_is_ignored() {
        let now = httpdate::parse_http_date("Sat, 31 Jan 2026 10:00:00 GMT").unwrap();
        let parse = |value| parse_retry_after(value, now, MAX);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sat, 31 Jan 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        for nonsense in
            ["", "0", "-5", "soon", "7.5", "1e3", "Sat, 31 Jan 2026 09:59:59 GMT", "Sat, 31 Jan 2026 10:00:00 GMT"]
        {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn retry_after_is_clamped() {
        let now = httpdate::parse_http_date("Sat, 31 Jan 2026 10:00:00 GMT").unwrap();
        for far in ["301", "99999999", "99999999999999999999999999", "Sun, 01 Feb 2026 10:00:00 GMT"] {
            assert_eq!(parse_retry_after(far, now, MAX), Some(MAX), "{far}");
        }
    }

    proptest! {
        #[test]
        fn waits_stay_between_half_the_minimum_and_the_maximum(
            min in 1u64..10_000, extra in 0u64..1_000_000, failures in 0u32.., random in 0.0..=1.0,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + extra));
            let wait = Backoff::try_new(min, max).unwrap().wait(failures, random);
            prop_assert!(min / 2 <= wait && wait <= max, "{:?}", wait);
        }

        #[test]
        fn a_targets_own_pause_is_never_cut_short(retry_after in 1u64..1_000_000, random in 0.0..=1.0) {
            let backoff = Backoff::try_new(Duration::from_millis(30), Duration::from_secs(5)).unwrap();
            let retry_after = Duration::from_millis(retry_after);
            let wait = backoff.wait_at_least(retry_after, random);
            prop_assert!(retry_after <= wait && wait <= retry_after.mul_f64(1.1) + Duration::from_millis(1));
        }
    }
}
