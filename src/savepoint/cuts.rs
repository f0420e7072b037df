//! How batches were cut that were started and are not settled: after `kill -9` they are sent again with the same bytes.
//!
//! Once a part of a batch is settled its cut is what is left of it at both ends; of records in its middle the ranges tell.
//!
//! Invariants: at most [`Cuts::MAX`], ascending, disjoint, all above the settled position.

use crate::wal::Position;

/// A batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Its first record.
    pub first: Position,
    /// Its last one.
    pub last: Position,
    /// An attempt was not answered: the target may have it.
    pub is_possibly_delivered: bool,
}

impl Cut {
    /// Whether a record is between its ends.
    #[must_use]
    pub fn contains(self, position: Position) -> bool {
        (self.first..=self.last).contains(&position)
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts(Vec<Cut>);

impl Cuts {
    /// A page of a savepoint holds no more.
    pub const MAX: usize = 32;

    /// The cuts, if they are such as may stand above `settled`.
    pub(super) fn checked(cuts: impl Iterator<Item = Cut>, settled: Position) -> Option<Cuts> {
        let cuts: Vec<Cut> = cuts.collect();
        let mut end = settled;
        for cut in &cuts {
            if cut.first <= end || cut.last < cut.first {
                return None;
            }
            end = cut.last;
        }
        (cuts.len() <= Cuts::MAX).then_some(Cuts(cuts))
    }

    /// These, as far as they lie above `settled`. Those that overlap become one; so do the last ones, where there are more than a page holds: what
    /// is sent again in a longer piece than before is then taken for possibly delivered.
    #[must_use]
    pub fn of(mut cuts: Vec<Cut>, settled: Position) -> Cuts {
        cuts.sort_by_key(|cut| cut.first);
        let mut kept: Vec<Cut> = Vec::new();
        for mut cut in cuts {
            cut.first = cut.first.max(settled.next());
            if cut.last < cut.first {
                continue;
            }
            let is_over = kept.len() == Cuts::MAX;
            match kept.last_mut() {
                Some(last) if cut.first <= last.last || is_over => {
                    last.last = last.last.max(cut.last);
                    last.is_possibly_delivered |= cut.is_possibly_delivered || is_over;
                }
                _ => kept.push(cut),
            }
        }
        Cuts(kept)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Cut> + '_ {
        self.0.iter().copied()
    }

    /// Takes off what is settled: the records behind `after` up to `last`.
    pub(super) fn settled(&mut self, after: Position, last: Position) {
        for cut in &mut self.0 {
            if after < cut.first {
                cut.first = cut.first.max(last.next());
            } else if last >= cut.last {
                cut.last = cut.last.min(after);
            }
        }
        self.0.retain(|cut| cut.first <= cut.last);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(first: u64, last: u64) -> Cut {
        Cut { first: Position(first), last: Position(last), is_possibly_delivered: false }
    }

    fn cuts(list: &[(u64, u64)]) -> Cuts {
        Cuts::checked(list.iter().map(|(first, last)| cut(*first, *last)), Position(0)).expect("they are in order")
    }

    #[test]
    fn a_cut_is_what_is_left_of_a_batch() {
        let after = |after, last| {
            let mut cuts = cuts(&[(5, 9), (10, 10)]);
            cuts.settled(Position(after), Position(last));
            cuts
        };
        assert_eq!(after(0, 4), cuts(&[(5, 9), (10, 10)]));
        assert_eq!(after(0, 6), cuts(&[(7, 9), (10, 10)]), "its beginning");
        assert_eq!(after(7, 9), cuts(&[(5, 7), (10, 10)]), "its end");
        assert_eq!(after(5, 7), cuts(&[(5, 9), (10, 10)]), "its middle");
        assert_eq!(after(4, 9), cuts(&[(10, 10)]));
        assert_eq!(after(8, 10), cuts(&[(5, 8)]), "the end of one and all of the next");
        assert_eq!(after(0, 10), cuts(&[]));
    }

    #[test]
    fn what_is_settled_is_cut_off_and_what_overlaps_is_one() {
        let of = |list: &[(u64, u64)], settled| {
            Cuts::of(list.iter().map(|(first, last)| cut(*first, *last)).collect(), Position(settled))
        };
        assert_eq!(of(&[(20, 21), (5, 9), (10, 12)], 0), cuts(&[(5, 9), (10, 12), (20, 21)]), "in any order");
        assert_eq!(of(&[(1, 4), (5, 9), (10, 12)], 6), cuts(&[(7, 9), (10, 12)]));
        assert_eq!(of(&[(5, 9), (8, 12)], 0), cuts(&[(5, 12)]));
        let sent = Cut { is_possibly_delivered: true, ..cut(8, 12) };
        let joined = Cuts::of(vec![cut(5, 9), sent], Position(0));
        assert!(joined.iter().eq([Cut { is_possibly_delivered: true, ..cut(5, 12) }]), "{joined:?}");
    }

    #[test]
    fn more_than_fit_end_in_one_that_may_have_been_delivered() {
        let many = (0..40).map(|number| cut(10 * number + 1, 10 * number + 2)).collect();
        let cuts = Cuts::of(many, Position(0));
        assert_eq!(cuts.len(), Cuts::MAX);
        let last = cuts.iter().next_back().unwrap();
        assert_eq!((last.first, last.last, last.is_possibly_delivered), (Position(311), Position(392), true));
        assert!(cuts.iter().rev().skip(1).all(|cut| !cut.is_possibly_delivered));
    }

    #[test]
    fn what_is_not_in_order_is_not_taken() {
        let wrong = |list: &[(u64, u64)], settled| {
            Cuts::checked(list.iter().map(|(first, last)| cut(*first, *last)), Position(settled)).is_none()
        };
        assert!(!wrong(&[(5, 9), (10, 10)], 4));
        assert!(wrong(&[(5, 9)], 5), "not above what is settled");
        assert!(wrong(&[(5, 4)], 0), "backwards");
        assert!(wrong(&[(5, 9), (9, 10)], 0), "overlapping");
        assert!(wrong(&[(10, 10), (5, 9)], 0), "descending");
        let many: Vec<_> = (1..=Cuts::MAX as u64 + 1).map(|number| (number, number)).collect();
        assert!(wrong(&many, 0), "too many");
        assert!(!wrong(&many[1..], 0));
    }
}
