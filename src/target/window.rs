//! Which batches may be in flight together: no batch starts over an earlier one that is not settled and shares a series with it. Pure.
//!
//! ```text
//!   B1 {s1}        in flight
//!   B2 {s1, s2}    waits for B1
//!   B3 {s2}        waits for B2, although nothing of s2 is in flight: or it would overtake what B2 holds of it
//!   B4 {s9}        may start
//! ```
//!
//! For each series only the last batch that has it is remembered: a batch waits for those, and what they wait for is settled before them.
//! A batch whose series nobody can tell stands in the way of all.

use std::collections::{BTreeSet, HashMap};

/// Batches in the order in which they were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    /// The last unsettled batch that has the series.
    last: HashMap<u64, BatchId>,
    /// Unsettled batches of which nobody can tell the series.
    opaque: BTreeSet<BatchId>,
    /// All that are unsettled.
    unsettled: BTreeSet<BatchId>,
}

impl Window {
    /// For which batches one with these series would have to wait.
    #[must_use]
    pub fn before(&self, series: Option<&[u64]>) -> BTreeSet<BatchId> {
        let Some(series) = series else { return self.unsettled.clone() };
        let mut waits_for = self.opaque.clone();
        waits_for.extend(series.iter().filter_map(|series| self.last.get(series)));
        waits_for
    }

    /// A batch is there, later than all others. For which ones it has to wait.
    pub fn enter(&mut self, id: BatchId, series: Option<&[u64]>) -> BTreeSet<BatchId> {
        debug_assert!(self.unsettled.last().is_none_or(|last| *last < id), "batches come in order");
        let waits_for = self.before(series);
        match series {
            Some(series) => self.last.extend(series.iter().map(|series| (*series, id))),
            None => {
                self.opaque.insert(id);
            }
        }
        self.unsettled.insert(id);
        waits_for
    }

    /// Some series of a batch are settled.
    pub fn let_go(&mut self, id: BatchId, series: &[u64]) {
        for series in series {
            if self.last.get(series) == Some(&id) {
                self.last.remove(series);
            }
        }
    }

    /// A batch is settled.
    pub fn leave(&mut self, id: BatchId, series: Option<&[u64]>) {
        self.unsettled.remove(&id);
        self.opaque.remove(&id);
        self.let_go(id, series.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<BatchId> {
        numbers.iter().copied().map(BatchId).collect()
    }

    #[test]
    fn a_batch_waits_for_an_earlier_one_that_is_itself_waiting() {
        let mut window = Window::default();
        assert_eq!(window.enter(BatchId(1), Some(&[1])), ids(&[]), "B1 is in flight");
        assert_eq!(window.enter(BatchId(2), Some(&[1, 2])), ids(&[1]), "B2 waits for it");
        assert_eq!(window.enter(BatchId(3), Some(&[2])), ids(&[2]), "B3 does not overtake B2");
        assert_eq!(window.enter(BatchId(4), Some(&[9])), ids(&[]), "B4 has nothing to do with them");
    }

    #[test]
    fn what_is_settled_stands_in_nobodys_way() {
        let mut window = Window::default();
        window.enter(BatchId(1), Some(&[1, 2]));
        window.enter(BatchId(2), Some(&[2]));
        window.leave(BatchId(1), Some(&[1, 2]));
        assert_eq!(window.enter(BatchId(3), Some(&[1])), ids(&[]));
        assert_eq!(window.enter(BatchId(4), Some(&[2])), ids(&[2]), "the later one still has it");
        for (id, series) in [(2, 2), (3, 1), (4, 2)] {
            window.leave(BatchId(id), Some(&[series]));
        }
        assert!(window.last.is_empty() && window.unsettled.is_empty(), "nothing is kept of what is settled");
    }

    #[test]
    fn a_batch_whose_series_nobody_can_tell_goes_alone() {
        let mut window = Window::default();
        window.enter(BatchId(1), Some(&[1]));
        assert_eq!(window.enter(BatchId(2), None), ids(&[1]));
        assert_eq!(window.enter(BatchId(3), Some(&[7])), ids(&[2]));
        window.leave(BatchId(2), None);
        assert_eq!(window.enter(BatchId(4), Some(&[8])), ids(&[]));
    }

    proptest! {
        /// Batches start when they may, in any order of those that may, and settle in any order: two that share a series never overlap
        /// and never swap.
        #[test]
        fn batches_that_share_a_series_go_one_after_the_other(
            batches in prop::collection::vec(prop::collection::btree_set(0u64..12, 0..4), 1..40),
            choices in prop::collection::vec(0usize..1000, 100),
        ) {
            let mut window = Window::default();
            let series: Vec<Vec<u64>> = batches.iter().map(|set| set.iter().copied().collect()).collect();
            let mut waits: Vec<BTreeSet<BatchId>> = Vec::new();
            for (n, series) in series.iter().enumerate() {
                waits.push(window.enter(BatchId(n as u64), Some(series)));
            }
            let (mut started, mut settled) = (BTreeSet::new(), BTreeSet::new());
            let mut choices = choices.into_iter().cycle();
            while settled.len() < series.len() {
                let may: Vec<u64> = (0..series.len() as u64)
                    .filter(|n| !started.contains(n))
                    .filter(|n| waits[*n as usize].iter().all(|id| settled.contains(&id.0)))
                    .collect();
                let in_flight: Vec<u64> = started.difference(&settled).copied().collect();
                let choice = choices.next().unwrap();
                if !may.is_empty() && (in_flight.is_empty() || choice % 2 == 0) {
                    let n = may[choice / 2 % may.len()];
                    for other in 0..n {
                        let shares = series[other as usize].iter().any(|s| series[n as usize].contains(s));
                        prop_assert!(!shares || settled.contains(&other), "{} started before {} was settled", n, other);
                    }
                    started.insert(n);
                } else {
                    prop_assert!(!in_flight.is_empty(), "something can always go on");
                    let n = in_flight[choice / 2 % in_flight.len()];
                    window.leave(BatchId(n), Some(&series[n as usize]));
                    settled.insert(n);
                }
            }
            prop_assert!(window.last.is_empty());
        }
    }
}
