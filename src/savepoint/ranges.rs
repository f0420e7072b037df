//! What is settled above the settled position: ranges of records, from oldest to newest.
//!
//! ```text
//!   settled      range        range
//!  ---------|.....[=====]..[==]==========]....        = settled   . owed
//!                                ^ two that touch are one, unless that would change how many samples are in them
//! ```
//!
//! Invariants: at most [`Ranges::MAX`], none empty, ascending, disjoint, the first one begins above the settled position.

use super::Full;
use crate::wal::{Mark, Place, Position};

/// The records between two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Before its first record.
    pub from: Mark,
    /// Behind its last one.
    pub to: Mark,
}

impl Range {
    /// Samples between its marks.
    #[must_use]
    pub fn samples(self) -> u64 {
        // (Behind a segment that came back late the totals are less.)
        self.to.total.saturating_sub(self.from.total)
    }

    /// Positions in it.
    #[must_use]
    pub fn records(self) -> u64 {
        self.to.position.0.saturating_sub(self.from.position.0)
    }

    /// Whether a record is in it.
    #[must_use]
    pub fn contains(self, position: Position) -> bool {
        self.from.position < position && position <= self.to.position
    }

    /// Both as one, if this one ends where the other begins. Where the log's totals begin anew two stay two: the samples of the whole could
    /// not be told any more.
    fn joined(self, later: Range) -> Option<Range> {
        let whole = Range { from: self.from, to: later.to };
        let is_sum = self.samples().checked_add(later.samples()) == Some(whole.samples());
        (self.to == later.from && is_sum).then_some(whole)
    }
}

/// A range, and where the record behind it is, if that is known. Not on disk.
#[derive(Clone, Copy, Debug)]
struct Held {
    range: Range,
    next: Place,
}

/// See the module. Equal if the ranges are: where the records behind them are is a hint.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Vec<Held>);

impl PartialEq for Ranges {
    fn eq(&self, other: &Ranges) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Ranges {}

impl Ranges {
    /// A page of a savepoint holds no more.
    pub const MAX: usize = 64;

    /// The ranges, if they are such as may stand above `settled`.
    pub(super) fn checked(ranges: impl Iterator<Item = Range>, settled: Position) -> Option<Ranges> {
        let held: Vec<Held> = ranges.map(|range| Held { range, next: Place::default() }).collect();
        let mut end = settled;
        for (number, Held { range, .. }) in held.iter().enumerate() {
            let is_behind = if number == 0 { range.from.position > end } else { range.from.position >= end };
            let is_joined = number > 0 && held[number - 1].range.joined(*range).is_some();
            if !is_behind || is_joined || range.to.position <= range.from.position {
                return None;
            }
            end = range.to.position;
        }
        (held.len() <= Ranges::MAX).then_some(Ranges(held))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is settled above the settled position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// There is room for nothing that does not touch one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= Ranges::MAX
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.0.iter().map(|held| held.range)
    }

    /// Samples in all of them.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.iter().fold(0, |sum, range| sum.saturating_add(range.samples()))
    }

    /// Positions in all of them.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.iter().map(Range::records).sum()
    }

    /// Whether a record is settled above the settled position.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        self.holding(position).is_some()
    }

    /// The range that a record is in.
    #[must_use]
    pub fn holding(&self, position: Position) -> Option<Range> {
        let number = self.0.partition_point(|held| held.range.to.position < position);
        self.0.get(number).map(|held| held.range).filter(|range| range.contains(position))
    }

    /// Behind the newest record that is settled.
    #[must_use]
    pub fn end(&self) -> Option<Mark> {
        self.0.last().map(|held| held.range.to)
    }

    /// The parts of `span` that are in no range: of a gap in the log, what is still to be settled. A span without a record comes back as it
    /// is.
    #[must_use]
    pub fn outside(&self, span: Range) -> Vec<Range> {
        if span.records() == 0 {
            return vec![span];
        }
        let mut outside = Vec::new();
        let mut at = span.from;
        for range in self.iter() {
            if range.to.position <= at.position || range.from.position >= span.to.position {
                continue;
            }
            if range.from.position > at.position {
                outside.push(Range { from: at, to: range.from });
            }
            at = range.to;
        }
        if at.position < span.to.position {
            outside.push(Range { from: at, to: span.to });
        }
        outside
    }

    /// Adds a range that holds nothing of the others. What it has become: with those that touch it, one.
    pub(super) fn insert(&mut self, range: Range, next: Place) -> Result<Range, Full> {
        let number = self.0.partition_point(|held| held.range.to.position <= range.from.position);
        let later = self.0.get(number).copied();
        let is_apart = later.is_none_or(|later| later.range.from.position >= range.to.position);
        assert!(is_apart, "a record is settled once");
        let earlier = number.checked_sub(1).and_then(|number| self.0[number].range.joined(range));
        let whole = earlier.unwrap_or(range);
        let with_later = later.and_then(|later| Some(Held { range: whole.joined(later.range)?, next: later.next }));
        let held = with_later.unwrap_or(Held { range: whole, next });
        match (earlier.is_some(), with_later.is_some()) {
            (false, false) if self.is_full() => return Err(Full),
            (false, false) => self.0.insert(number, held),
            (true, false) => self.0[number - 1] = held,
            (false, true) => self.0[number] = held,
            (true, true) => {
                self.0[number - 1] = held;
                self.0.remove(number);
            }
        }
        Ok(held.range)
    }

    /// Samples that are settled at or below `to`.
    pub(super) fn samples_up_to(&self, to: Mark) -> u64 {
        let below = self.iter().take_while(|range| range.from.position < to.position).map(|range| {
            let part = Range { to: if range.to.position > to.position { to } else { range.to }, ..range };
            part.samples().min(range.samples())
        });
        below.fold(0, u64::saturating_add)
    }

    /// Takes what a settled mark has reached, and moves the mark over it.
    pub(super) fn absorb(&mut self, settled: &mut Mark, next: &mut Place) {
        let mut reached = 0;
        for held in &self.0 {
            if held.range.from.position > settled.position {
                break;
            }
            if held.range.to.position > settled.position {
                (*settled, *next) = (held.range.to, held.next);
            }
            reached += 1;
        }
        self.0.drain(..reached);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64) -> Range {
        let mark = |position| Mark { position: Position(position), total: 10 * position };
        Range { from: mark(from), to: mark(to) }
    }

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        Ranges::checked(list.iter().map(|(from, to)| range(*from, *to)), Position(0)).expect("they are in order")
    }

    #[test]
    fn what_touches_is_joined() {
        let mut some = ranges(&[(1, 3), (5, 6), (9, 10)]);
        assert_eq!(some.insert(range(3, 5), Place::default()), Ok(range(1, 6)), "both sides");
        assert_eq!(some.insert(range(6, 7), Place::default()), Ok(range(1, 7)), "from above");
        assert_eq!(some.insert(range(8, 9), Place::default()), Ok(range(8, 10)), "from below");
        assert_eq!(some.insert(range(11, 12), Place::default()), Ok(range(11, 12)), "none");
        assert_eq!(some, ranges(&[(1, 7), (8, 10), (11, 12)]));
        assert_eq!((some.samples(), some.records()), (90, 9));
    }

    #[test]
    fn a_record_is_in_the_range_that_holds_it() {
        let some = ranges(&[(1, 3), (5, 6)]);
        let inside: Vec<u64> = (0..9).filter(|position| some.contains(Position(*position))).collect();
        assert_eq!(inside, [2, 3, 6]);
        assert_eq!(some.holding(Position(2)), Some(range(1, 3)));
    }

    #[test]
    fn where_totals_begin_anew_ranges_stay_apart_and_their_samples_are_right() {
        let mut some = ranges(&[(1, 3)]);
        let later = Mark { position: Position(3), total: 5 };
        let anew = Range { from: later, to: Mark { position: Position(4), total: 7 } };
        assert_eq!(some.insert(anew, Place::default()), Ok(anew));
        assert_eq!((some.len(), some.samples()), (2, 22));
        assert_eq!(Ranges::checked(some.iter(), Position(0)), Some(some.clone()), "and may be on disk");
        // A gap over positions that never were: joined, the samples before it would be gone.
        let mut some = ranges(&[(1, 3)]);
        let gap = Range { from: range(1, 3).to, to: Mark { position: Position(8), total: 2 } };
        some.insert(gap, Place::default()).unwrap();
        assert_eq!((some.len(), some.samples()), (2, 20));
    }

    #[test]
    fn of_a_gap_what_is_in_no_range_is_still_to_be_settled() {
        let some = ranges(&[(1, 3), (5, 6), (8, 9)]);
        assert_eq!(some.outside(range(0, 10)), [range(0, 1), range(3, 5), range(6, 8), range(9, 10)]);
        assert_eq!(some.outside(range(2, 9)), [range(3, 5), range(6, 8)], "one that begins and ends within");
        assert_eq!(some.outside(range(5, 6)), []);
        assert_eq!(some.outside(range(4, 4)), [range(4, 4)]);
    }

    #[test]
    fn what_is_not_in_order_is_not_taken() {
        let wrong = |list: &[(u64, u64)], settled| {
            Ranges::checked(list.iter().map(|(from, to)| range(*from, *to)), Position(settled)).is_none()
        };
        assert!(!wrong(&[(1, 3), (5, 6)], 0));
        assert!(wrong(&[(1, 3)], 1), "touches what is settled");
        assert!(wrong(&[(1, 3)], 2), "begins below what is settled");
        assert!(wrong(&[(1, 1)], 0), "empty");
        assert!(wrong(&[(3, 2)], 0), "backwards");
        assert!(wrong(&[(1, 3), (3, 4)], 0), "touching");
        assert!(wrong(&[(1, 3), (2, 4)], 0), "overlapping");
        assert!(wrong(&[(5, 6), (1, 3)], 0), "descending");
        let many: Vec<_> = (0..=Ranges::MAX as u64).map(|number| (2 * number + 1, 2 * number + 2)).collect();
        assert!(wrong(&many, 0), "too many");
        assert!(!wrong(&many[1..], 0));
    }
}
