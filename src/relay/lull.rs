//! When the active segment is closed because nothing comes any more: a small tail must not keep a whole segment on disk. Pure.
//!
//! A segment that is closed too eagerly costs an allocation and a deletion for every record of a slow upstream. So what counts as
//! a lull is measured: several times the usual distance between records, and never less than some seconds.

use std::time::{Duration, Instant};

use crate::wal::Position;

const LULL_MIN: Duration = Duration::from_secs(10);
/// So many usual distances.
const DISTANCES: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Lull {
    position: Position,
    moved: Instant,
    /// The usual time between two looks in which something had come.
    distance: Duration,
}

impl Lull {
    /// From now on.
    pub(super) fn new(now: Instant, position: Position) -> Lull {
        Lull { position, moved: now, distance: Duration::ZERO }
    }

    /// Whether nothing has come for a while, the newest record being at `position` now.
    pub(super) fn look(&mut self, now: Instant, position: Position) -> bool {
        let since = now - self.moved;
        if position != self.position {
            // What was long ago fades.
            self.distance = (self.distance * 3 + since) / 4;
            (self.position, self.moved) = (position, now);
            return false;
        }
        since >= LULL_MIN.max(self.distance * DISTANCES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records come at these seconds; the first second after the last of them that is a lull.
    fn lull_after(records: impl Fn(u64) -> bool, last: u64) -> u64 {
        let start = Instant::now();
        let (mut lull, mut position) = (Lull::new(start, Position(0)), Position(0));
        for second in 1.. {
            if second <= last && records(second) {
                position = position.next();
            }
            if lull.look(start + Duration::from_secs(second), position) {
                assert!(second > last, "a lull between records, at {second}");
                return second - last;
            }
        }
        unreachable!("it ends");
    }

    #[test]
    fn after_steady_traffic_some_seconds_are_a_lull() {
        assert_eq!(lull_after(|_| true, 600), 10);
    }

    #[test]
    fn a_slow_upstream_is_no_lull() {
        let waited = lull_after(|second| second < 5 || second % 9 == 0, 900);
        assert!((60..80).contains(&waited), "{waited}");
    }
}
