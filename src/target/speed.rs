//! How fast the link to a target is, as far as its answers tell, and how long an attempt may take.
//!
//! ```text
//!   time-out = base + 2 * bytes / measured rate      at most 10 min, or the base if that is longer
//! ```
//!
//! The time of an exchange is that of its bytes and that of the target's work; it is all booked on the bytes, and a slower measurement counts
//! more than a faster one. So the rate is believed too low rather than too high: a time-out that is too short sends the same
//! bytes over a slow link again and again. Small requests teach nothing: their time is not that of their bytes.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    bytes_per_second: Option<f64>,
}

impl Speed {
    /// Smaller requests teach nothing.
    pub const BYTES_MIN: u64 = 16 * 1024;
    /// The longest time-out, unless the base is longer.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
    /// Time-outs alone do not teach that a link is slower than this (32 kbit/s): a target that hangs looks the same.
    const FLOOR_OF_TIMEOUTS: f64 = 4_000.0;
    /// The weight of a measurement that is slower than what is known, and of one that is faster.
    const SLOWER: f64 = 0.5;
    const FASTER: f64 = 0.1;

    /// Of a link that nothing is known of.
    #[must_use]
    pub fn new() -> Speed {
        Speed::default()
    }

    /// An attempt with a body of so many bytes was answered.
    pub fn answered(&mut self, bytes: u64, took: Duration) {
        if bytes < Speed::BYTES_MIN {
            return;
        }
        let measured = bytes as f64 / took.as_secs_f64().max(1e-3);
        self.bytes_per_second = Some(match self.bytes_per_second {
            None => measured,
            Some(known) => {
                let weight = if measured < known { Speed::SLOWER } else { Speed::FASTER };
                known + weight * (measured - known)
            }
        });
    }

    /// An attempt got no answer in time, over a connection that stood. (One that could not be made says nothing about its speed.)
    /// The link is at least so slow, and is taken to be half as fast.
    pub fn timed_out(&mut self, bytes: u64, took: Duration) {
        if bytes < Speed::BYTES_MIN {
            return;
        }
        let most = bytes as f64 / took.as_secs_f64().max(1e-3);
        let known = self.bytes_per_second.unwrap_or(f64::INFINITY);
        // What answers taught may be lower than the floor.
        self.bytes_per_second = Some((known.min(most) / 2.0).max(Speed::FLOOR_OF_TIMEOUTS.min(known)));
    }

    /// How long an attempt may take, where a small one may take `base`.
    #[must_use]
    pub fn timeout(&self, base: Duration, bytes: u64) -> Duration {
        let longest = base.max(Speed::TIMEOUT_MAX);
        let extra = match self.bytes_per_second {
            None => Duration::ZERO,
            Some(rate) => Duration::try_from_secs_f64(2.0 * bytes as f64 / rate).unwrap_or(longest),
        };
        base.saturating_add(extra).min(longest)
    }

    /// What is believed. `None`: nothing yet.
    #[cfg(test)]
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.bytes_per_second
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const BASE: Duration = Duration::from_secs(30);

    /// Over a link of so many bytes/s, each attempt as long as it may take. How often it was tried.
    fn attempts(speed: &mut Speed, link: f64, bytes: u64) -> usize {
        let needs = Duration::from_secs_f64(bytes as f64 / link);
        for attempt in 1..10 {
            let timeout = speed.timeout(BASE, bytes);
            if needs <= timeout {
                speed.answered(bytes, needs);
                return attempt;
            }
            speed.timed_out(bytes, timeout);
        }
        panic!("never, over {link} bytes/s");
    }

    #[test]
    fn a_mebibyte_over_128_kbit_takes_a_minute_and_is_allowed_it_at_the_second_attempt() {
        let mut speed = Speed::new();
        assert_eq!(speed.timeout(BASE, MIB), BASE, "nothing is known");
        assert_eq!(attempts(&mut speed, 16_000.0, MIB), 2);
        for _ in 0..100 {
            assert_eq!(attempts(&mut speed, 16_000.0, MIB), 1, "it stays known");
        }
        assert!(speed.timeout(BASE, 1000) < BASE + Duration::from_secs(1), "a small one needs no longer");
    }

    #[test]
    fn a_link_that_becomes_slower_is_believed_sooner_than_one_that_becomes_faster() {
        let mut speed = Speed::new();
        speed.answered(MIB, Duration::from_secs(1));
        speed.answered(MIB, Duration::from_secs(100));
        let slow = speed.bytes_per_second().unwrap();
        assert!(slow < 0.52 * MIB as f64, "{slow}");
        speed.answered(MIB, Duration::from_secs(1));
        assert!(speed.bytes_per_second().unwrap() < 0.6 * MIB as f64);
        for _ in 0..50 {
            speed.answered(MIB, Duration::from_secs(1));
        }
        assert!(speed.bytes_per_second().unwrap() > 0.95 * MIB as f64);
    }

    #[test]
    fn small_requests_teach_nothing() {
        let mut speed = Speed::new();
        speed.answered(100, Duration::from_secs(20));
        speed.timed_out(100, BASE);
        assert_eq!(speed, Speed::new());
    }

    #[test]
    fn a_target_that_hangs_does_not_stretch_the_timeout_for_ever() {
        let mut speed = Speed::new();
        for _ in 0..50 {
            speed.timed_out(100_000, speed.timeout(BASE, 100_000));
        }
        assert_eq!(speed.timeout(BASE, 100_000), BASE + Duration::from_secs(50));
        assert_eq!(speed.timeout(BASE, 1 << 40), Speed::TIMEOUT_MAX);
        let long = Duration::from_secs(3600);
        assert_eq!(speed.timeout(long, MIB), long, "the base is configured");
    }

    proptest! {
        #[test]
        fn a_timeout_is_never_shorter_than_the_base_nor_longer_than_the_limit(
            steps in proptest::collection::vec((any::<bool>(), 0u64..1 << 40, 0u64..1 << 20), 0..50), bytes in any::<u64>(),
        ) {
            let mut speed = Speed::new();
            for (is_answered, bytes, took) in steps {
                let took = Duration::from_millis(took);
                if is_answered { speed.answered(bytes, took) } else { speed.timed_out(bytes, took) }
            }
            let timeout = speed.timeout(BASE, bytes);
            prop_assert!(BASE <= timeout && timeout <= Speed::TIMEOUT_MAX);
        }
    }
}
