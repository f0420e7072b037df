//! Which series of a target that speaks 1.0 had custom buckets last, and their bounds, where they are sent as classic series.
//!
//! ```text
//!   histogram, schema -53   ---> learned: the series, its bounds
//!   float, exponential      ---> learned: it is an ordinary one again
//!   stale marker            <--- which series have ended? (It has neither schema nor bounds.)
//!   exemplar of its own     <--- which bucket did it fall into?
//! ```
//!
//! A request is written by what is known, and what it teaches stands beside it ([`Taught`]) until the target has taken it, or there was
//! nothing in it to be sent: so one that is sent again, whole or in pieces, is the same again. (None of its series is in another request
//! meanwhile.) A series is known by its identity and where it comes from: tenants may have equal ones.
//!
//! There are two generations, each of half the bytes. What comes is in the recent one, and when that is full it becomes the earlier one,
//! and what was still in that is forgotten. A series that has a histogram moves to the recent one, so those that are forgotten had none for
//! at least half the room's worth of others; senders can make others forgotten, but at no time is there more to do than to look at two
//! tables. Who is forgotten and goes on is known again with the next histogram.
//!
//! Equal bounds are kept once in each generation. Very long ones are not kept: of such a series it is known that it had custom buckets.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::CustomBuckets;

/// See the module.
#[derive(Debug)]
pub struct CustomSeries {
    custom_buckets: CustomBuckets,
    recent: Generation,
    earlier: Generation,
    /// Of one generation.
    bytes_max: usize,
}

/// What a request teaches of its series. What it says counts once the request was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taught(HashMap<u64, Option<Bounds>>);

/// The bounds of a series' buckets as bits, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds(Option<Arc<[u64]>>);

/// Keyed (`RandomState`): senders choose the series.
#[derive(Debug, Default)]
struct Generation {
    series: HashMap<u64, Bounds>,
    shared: HashSet<Arc<[u64]>>,
    bytes: usize,
}

/// What a series takes in a table that is as empty as it can be.
const SERIES_BYTES: usize = 64;

/// What bounds take beside themselves.
const BOUNDS_BYTES: usize = 64;

/// No bounds take more than this part of a generation.
const BOUNDS_PART: usize = 16;

impl Bounds {
    /// If they are known.
    pub fn values(&self) -> Option<impl ExactSizeIterator<Item = f64>> {
        self.0.as_ref().map(|bits| bits.iter().map(|bits| f64::from_bits(*bits)))
    }

    /// Whether they are known to be these.
    pub fn are(&self, bounds: &[f64]) -> bool {
        let bits = |bits: &Arc<[u64]>| bits.iter().copied().eq(bounds.iter().map(|bound| bound.to_bits()));
        self.0.as_ref().is_some_and(bits)
    }
}

impl Taught {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known of a series now, if it was learned here.
    pub(super) fn look(&self, series: u64) -> Option<&Option<Bounds>> {
        self.0.get(&series)
    }

    pub(super) fn learn(&mut self, series: u64, bounds: Option<Bounds>) {
        self.0.insert(series, bounds);
    }
}

impl CustomSeries {
    /// Of a target that is sent this of custom buckets. Takes no more than so many bytes, and nothing as long as there are none.
    #[must_use]
    pub fn with_bytes_max(custom_buckets: CustomBuckets, bytes_max: usize) -> CustomSeries {
        let (recent, earlier) = (Generation::default(), Generation::default());
        CustomSeries { custom_buckets, recent, earlier, bytes_max: bytes_max / 2 }
    }

    /// What becomes of custom buckets.
    #[must_use]
    pub fn custom_buckets(&self) -> CustomBuckets {
        self.custom_buckets
    }

    /// Whether there were none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recent.series.is_empty() && self.earlier.series.is_empty()
    }

    /// How many series are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.series.len() + self.earlier.series.len()
    }

    /// The target has taken the request that teaches this.
    pub fn learn(&mut self, taught: Taught) {
        for (series, bounds) in taught.0 {
            self.earlier.series.remove(&series);
            match bounds {
                Some(bounds) => self.insert(series, bounds),
                None => {
                    let was_there = self.recent.series.remove(&series).is_some();
                    self.recent.bytes -= if was_there { SERIES_BYTES } else { 0 };
                }
            }
        }
    }

    /// What is known of a series that had custom buckets last, and whether it is about to be forgotten.
    pub(super) fn look(&self, series: u64) -> Option<(&Bounds, bool)> {
        let recent = self.recent.series.get(&series).map(|bounds| (bounds, false));
        recent.or_else(|| self.earlier.series.get(&series).map(|bounds| (bounds, true)))
    }

    /// Bounds to be learned. (Those that are near may be equal ones.)
    pub(super) fn bounds(&self, bounds: &[f64], near: [Option<&Bounds>; 2]) -> Bounds {
        if self.custom_buckets == CustomBuckets::Drop || size_of_val(bounds) > self.bytes_max / BOUNDS_PART {
            return Bounds(None);
        }
        let equal = near.into_iter().flatten().find(|near| near.are(bounds));
        let new = || Bounds(Some(bounds.iter().map(|bound| bound.to_bits()).collect()));
        equal.cloned().unwrap_or_else(new)
    }

    fn insert(&mut self, series: u64, bounds: Bounds) {
        if !self.recent.has_room(series, &bounds, self.bytes_max) {
            self.earlier = std::mem::take(&mut self.recent);
            self.earlier.series.remove(&series);
        }
        self.recent.insert(series, bounds);
    }
}

impl Generation {
    fn has_room(&self, series: u64, bounds: &Bounds, bytes_max: usize) -> bool {
        self.bytes + self.cost(series, bounds) <= bytes_max
    }

    /// What it takes more with this.
    fn cost(&self, series: u64, bounds: &Bounds) -> usize {
        let of_bounds = match &bounds.0 {
            Some(bits) if !self.shared.contains(bits) => BOUNDS_BYTES + size_of_val(&**bits),
            _ => 0,
        };
        of_bounds + if self.series.contains_key(&series) { 0 } else { SERIES_BYTES }
    }

    fn insert(&mut self, series: u64, Bounds(bounds): Bounds) {
        self.bytes += self.cost(series, &Bounds(bounds.clone()));
        let shared = bounds.map(|bits| match self.shared.get(&bits) {
            Some(known) => Arc::clone(known),
            None => {
                self.shared.insert(Arc::clone(&bits));
                bits
            }
        });
        self.series.insert(series, Bounds(shared));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(series: u64, bounds: Option<Bounds>) -> Taught {
        Taught(HashMap::from([(series, bounds)]))
    }

    fn known(table: &CustomSeries, series: u64) -> Option<Vec<f64>> {
        table.look(series).map(|(bounds, _)| bounds.values().unwrap().collect())
    }

    #[test]
    fn equal_bounds_are_kept_once_and_bits_tell_them_apart() {
        let mut table = CustomSeries::with_bytes_max(CustomBuckets::AsClassic, 1 << 16);
        for (series, bounds) in [(1, [0.0, 1.0]), (2, [0.0, 1.0]), (3, [-0.0, 1.0])] {
            table.learn(one(series, Some(table.bounds(&bounds, [None; 2]))));
        }
        assert_eq!((table.len(), table.recent.shared.len()), (3, 2));
        assert_eq!(table.recent.bytes, 3 * SERIES_BYTES + 2 * (BOUNDS_BYTES + 16));
        assert_eq!(known(&table, 2), Some(vec![0.0, 1.0]));
        let before = table.look(2).map(|(bounds, _)| bounds);
        assert!(Arc::ptr_eq(
            &table.bounds(&[0.0, 1.0], [None, before]).0.unwrap(),
            table.recent.series[&1].0.as_ref().unwrap()
        ));
        table.learn(one(2, None));
        assert_eq!((table.len(), known(&table, 2)), (2, None));
    }

    #[test]
    fn series_that_go_on_are_not_forgotten_for_others_and_all_take_no_more_than_their_room() {
        let mut table = CustomSeries::with_bytes_max(CustomBuckets::AsClassic, 100 * 2 * SERIES_BYTES);
        for n in 0..10_000u64 {
            let each = table.bounds(&[n as f64], [None; 2]);
            table.learn(one(n + 1, Some(each)));
            let lasting = table.bounds(&[0.5], [None; 2]);
            if n % 20 == 0 {
                table.learn(one(0, Some(lasting)));
            }
            assert_eq!(known(&table, 0), Some(vec![0.5]), "after {n}");
            assert_eq!(known(&table, n + 1), Some(vec![n as f64]));
            assert!(table.recent.bytes <= table.bytes_max && table.earlier.bytes <= table.bytes_max);
        }
        assert_eq!(known(&table, 1), None);
    }

    #[test]
    fn series_that_change_their_bounds_without_end_take_no_more_than_their_room() {
        let mut table = CustomSeries::with_bytes_max(CustomBuckets::AsClassic, 1 << 14);
        for n in 0..10_000u64 {
            let bounds = table.bounds(&[n as f64], [None; 2]);
            table.learn(one(n % 3, Some(bounds)));
            assert_eq!(known(&table, n % 3), Some(vec![n as f64]));
            let shared = table.recent.shared.len() + table.earlier.shared.len();
            assert!(table.len() <= 3 && shared * (BOUNDS_BYTES + 8) <= 1 << 14);
        }
    }

    #[test]
    fn very_long_bounds_are_not_kept_and_none_are_where_they_are_not_needed() {
        let long: Vec<f64> = (0..1000).map(f64::from).collect();
        for (custom_buckets, bounds) in [(CustomBuckets::AsClassic, &long[..]), (CustomBuckets::Drop, &long[..2])] {
            let mut table = CustomSeries::with_bytes_max(custom_buckets, 1 << 16);
            let taught = one(7, Some(table.bounds(bounds, [None; 2])));
            table.learn(taught);
            assert_eq!(table.look(7), Some((&Bounds(None), false)));
            assert_eq!(table.recent.bytes, SERIES_BYTES);
        }
    }
}
