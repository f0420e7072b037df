//! How long segments have been closed: what `wal.retain` goes by. Pure.
//!
//! The wall clock is asked once for a segment, when it is first seen; from then on its age grows with a clock that does not
//! jump. So a clock that is set forward by a day gives up nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wal::SegmentId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// How old each was when it was first seen, and when that was.
    seen: BTreeMap<SegmentId, (Duration, Instant)>,
}

impl Retained {
    /// These are the closed segments, with the receive time of their newest record.
    pub(super) fn look(&mut self, now: Instant, now_ms: i64, closed: impl Iterator<Item = (SegmentId, i64)>) {
        let mut seen = BTreeMap::new();
        for (id, received_ms) in closed {
            let age = || Duration::from_millis(u64::try_from(now_ms.saturating_sub(received_ms)).unwrap_or(0));
            seen.insert(id, self.seen.remove(&id).unwrap_or_else(|| (age(), now)));
        }
        self.seen = seen;
    }

    /// Since when nothing was added to it.
    pub(super) fn age(&self, now: Instant, id: SegmentId) -> Duration {
        self.seen.get(&id).map_or(Duration::ZERO, |(age, since)| *age + (now - *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_makes_nothing_older() {
        let start = Instant::now();
        let day_ms = 86_400_000;
        let mut retained = Retained::default();
        let id = SegmentId(7);
        retained.look(start, 60_000, [(id, 50_000)].into_iter());
        assert_eq!(retained.age(start, id), Duration::from_secs(10));
        let later = start + Duration::from_secs(5);
        retained.look(later, 60_000 + day_ms, [(id, 50_000)].into_iter());
        assert_eq!(retained.age(later, id), Duration::from_secs(15));
    }

    #[test]
    fn a_clock_behind_the_records_makes_them_new() {
        let start = Instant::now();
        let mut retained = Retained::default();
        retained.look(start, 0, [(SegmentId(1), 1_700_000_000_000)].into_iter());
        assert_eq!(retained.age(start, SegmentId(1)), Duration::ZERO);
        assert_eq!(retained.age(start, SegmentId(2)), Duration::ZERO, "not seen yet");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let start = Instant::now();
        let mut retained = Retained::default();
        retained.look(start, 0, (1..100).map(|id| (SegmentId(id), 0)));
        retained.look(start, 0, [(SegmentId(3), 0)].into_iter());
        assert_eq!(retained.seen.len(), 1);
    }
}
