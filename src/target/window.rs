//! Which batches may be in flight together: no batch starts over an earlier one that is not settled and shares a series with it. Pure.
//!
//! ```text
//!   B1 {s1}        in flight
//!   B2 {s1, s2}    waits for B1
//!   B3 {s2}        waits for B2, although nothing of s2 is in flight: or it would overtake what B2 holds of it
//!   B4 {s9}        may start
//! ```
//!
//! Series that have nothing to do with each other go in parallel (`V1-34`, `V2-82`), each in its order (`V1-33`, `V1-46`, `V2-81`).
//!
//! For each series all unsettled batches that have it are remembered, a bit each: they may be settled in another order than they came in (a batch that
//! waits may expire, or be dropped). A batch whose series nobody can tell stands in the way of all.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Batches in the order in which they were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// The most batches that may be unsettled at a time.
pub const UNSETTLED_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    /// The places of the unsettled batches that have the series: a bit each.
    holders: HashMap<u64, u32, SeriesHashing>,
    /// Unsettled batches, each in its place.
    places: [Option<BatchId>; UNSETTLED_MAX],
    /// Unsettled batches of which nobody can tell the series.
    opaque: BTreeSet<BatchId>,
}

/// An identity is a hash already: it is only mixed with a number that nobody outside knows, so that nobody can choose many that fall into one place.
/// (The standard library's hashing took a fifth of the time of a target that is behind.)
#[derive(Clone, Debug)]
struct SeriesHashing(u64);

impl Default for SeriesHashing {
    fn default() -> SeriesHashing {
        SeriesHashing(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for SeriesHashing {
    type Hasher = SeriesHasher;

    fn build_hasher(&self) -> SeriesHasher {
        SeriesHasher(self.0)
    }
}

#[derive(Debug)]
struct SeriesHasher(u64);

impl Hasher for SeriesHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, series: u64) {
        let product = u128::from(series ^ self.0) * u128::from(self.0 | 1);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Window {
    /// For which batches one with these series would have to wait.
    #[must_use]
    pub fn before(&self, series: Option<&[u64]>) -> BTreeSet<BatchId> {
        let Some(series) = series else { return self.places.iter().flatten().copied().collect() };
        let holders = series.iter().filter_map(|series| self.holders.get(series)).fold(0, |all, holders| all | holders);
        let has = |place: usize| holders & (1 << place) != 0;
        let of_series = self.places.iter().enumerate().filter(|(place, _)| has(*place)).filter_map(|(_, id)| *id);
        self.opaque.iter().copied().chain(of_series).collect()
    }

    /// A batch is there, later than all others. For which ones it has to wait.
    ///
    /// # Panics
    /// There are [`UNSETTLED_MAX`] already.
    pub fn enter(&mut self, id: BatchId, series: Option<&[u64]>) -> BTreeSet<BatchId> {
        debug_assert!(self.places.iter().flatten().all(|other| *other < id), "batches come in order");
        let waits_for = self.before(series);
        let place = self.places.iter().position(Option::is_none).expect("so far ahead nobody is");
        self.places[place] = Some(id);
        match series {
            Some(series) => series.iter().for_each(|series| *self.holders.entry(*series).or_default() |= 1 << place),
            None => {
                self.opaque.insert(id);
            }
        }
        waits_for
    }

    /// Some series of a batch are settled.
    pub fn let_go(&mut self, id: BatchId, series: &[u64]) {
        let Some(place) = self.places.iter().position(|other| *other == Some(id)) else { return };
        for series in series {
            if let Some(holders) = self.holders.get_mut(series) {
                *holders &= !(1 << place);
                if *holders == 0 {
                    self.holders.remove(series);
                }
            }
        }
    }

    /// A batch is settled.
    pub fn leave(&mut self, id: BatchId, series: Option<&[u64]>) {
        self.let_go(id, series.unwrap_or_default());
        self.opaque.remove(&id);
        if let Some(place) = self.places.iter_mut().find(|other| **other == Some(id)) {
            *place = None;
        }
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
        assert!(
            window.holders.is_empty() && window.places.iter().flatten().count() == 0,
            "nothing is kept of what is settled"
        );
    }

    #[test]
    fn what_leaves_before_the_one_it_waits_for_leaves_that_in_the_way() {
        let mut window = Window::default();
        window.enter(BatchId(1), Some(&[1]));
        window.enter(BatchId(2), Some(&[1]));
        window.leave(BatchId(2), Some(&[1]));
        assert_eq!(window.enter(BatchId(3), Some(&[1])), ids(&[1]));
        window.let_go(BatchId(1), &[1]);
        assert_eq!(window.before(Some(&[1])), ids(&[3]));
        assert_eq!(window.before(None), ids(&[1, 3]), "it is there all the same");
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
            batches in prop::collection::vec(prop::collection::btree_set(0u64..12, 0..4), 1..UNSETTLED_MAX),
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
            prop_assert!(window.holders.is_empty());
        }
    }
}
