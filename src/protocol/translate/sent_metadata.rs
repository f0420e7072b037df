//! What a target that speaks 1.0 has been told of metric families.
//!
//! 2.0 has metadata in every series, 1.0 in messages of their own that Prometheus sends once a minute. So a family's metadata is sent
//! when it is new, when it has changed, and when it was sent a minute ago.
//!
//! Kept are two hashes for each family, not the texts. Should two families have one hash (a chance of 2^-64), one of them is not told.
//! When there are too many families, those sent a minute ago are forgotten, which changes nothing; if that is not enough, all are, and
//! are sent again sooner than they had to be.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// How often metadata is sent again, as Prometheus does it (`metadata_config.send_interval`).
pub const INTERVAL: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct SentMetadata {
    /// By the hash of the family's name.
    sent: HashMap<u64, Sent>,
    families_max: usize,
    /// Keyed: senders choose the names.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Hash of type, help and unit.
    content: u64,
    at: Instant,
}

/// More than any one Prometheus has; some 3 MiB when it is full.
const FAMILIES_MAX: usize = 1 << 16;

impl Default for SentMetadata {
    fn default() -> SentMetadata {
        SentMetadata::with_families_max(FAMILIES_MAX)
    }
}

impl SentMetadata {
    /// With room for so many families (at least one).
    #[must_use]
    pub fn with_families_max(families_max: usize) -> SentMetadata {
        SentMetadata { sent: HashMap::new(), families_max: families_max.max(1), hasher: RandomState::new() }
    }

    /// Everything is to be sent again: for a target that may not have got what was sent (its request failed for good, it was
    /// restarted, it is another one now).
    pub fn forget(&mut self) {
        self.sent.clear();
    }

    /// Whether this is to be sent now; then it counts as sent.
    pub(super) fn is_due(&mut self, family: &[u8], metric_type: u64, help: &[u8], unit: &[u8], now: Instant) -> bool {
        let content = self.hasher.hash_one((metric_type, help, unit));
        let family = self.hasher.hash_one(family);
        if let Some(sent) = self.sent.get_mut(&family) {
            let is_due = sent.content != content || is_old(sent.at, now);
            if is_due {
                *sent = Sent { content, at: now };
            }
            return is_due;
        }
        if self.sent.len() >= self.families_max {
            self.sent.retain(|_, sent| !is_old(sent.at, now));
            // Fewer than half of them: or each new family could cost a look at all others.
            if self.sent.len() > self.families_max / 2 {
                self.sent.clear();
            }
        }
        self.sent.insert(family, Sent { content, at: now });
        true
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= INTERVAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_sent_when_it_is_new_or_changed_and_again_after_a_minute() {
        let mut sent = SentMetadata::default();
        let start = Instant::now();
        let mut is_due = |family: &str, help: &str, seconds| {
            sent.is_due(family.as_bytes(), 1, help.as_bytes(), b"", start + Duration::from_secs(seconds))
        };
        assert!(is_due("a", "help", 0), "new");
        assert!(!is_due("a", "help", 59));
        assert!(is_due("a", "help", 60));
        assert!(!is_due("a", "help", 119), "a minute from the last time");
        assert!(is_due("a", "other help", 119));
        assert!(is_due("b", "help", 119));
        assert!(!is_due("b", "help", 0), "a clock that goes back");
        assert!(!is_due("a", "other help", 178));
    }

    #[test]
    fn after_a_failure_all_is_new() {
        let mut sent = SentMetadata::default();
        let now = Instant::now();
        assert!(sent.is_due(b"a", 1, b"help", b"", now));
        sent.forget();
        assert!(sent.is_due(b"a", 1, b"help", b"", now));
    }

    #[test]
    fn any_number_of_families_takes_no_more_than_its_room() {
        let mut sent = SentMetadata::with_families_max(100);
        let start = Instant::now();
        for n in 0..10_000u64 {
            let now = start + Duration::from_millis(n * 500);
            assert!(sent.is_due(&n.to_le_bytes(), 1, b"", b"", now));
            assert!(sent.sent.len() <= 100);
            assert!(!sent.is_due(&n.to_le_bytes(), 1, b"", b"", now));
        }
    }
}
