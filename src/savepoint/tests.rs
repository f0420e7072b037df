//! What is settled in any order, moved, and owed: the ledger and what is pending are always everything.

use proptest::prelude::*;

use super::{Cut, Cuts, Full, Outcomes, Range, Ranges, Reason, Savepoint};
use crate::wal::{Mark, Place, Position, SegmentId};

/// Each record has other samples than the one before, some have none.
fn mark(position: u64) -> Mark {
    Mark { position: Position(position), total: (1..=position).map(|position| position % 5).sum() }
}

fn place(position: u64) -> Place {
    Place { segment: SegmentId(1), offset: 64 * position }
}

fn samples(from: u64, to: u64) -> u64 {
    mark(to).total - mark(from).total
}

fn settle(savepoint: &mut Savepoint, from: u64, to: u64) -> Result<(), Full> {
    savepoint.settle(mark(from), mark(to), place(to), Outcomes::delivered(samples(from, to)))
}

fn cut(first: u64, last: u64) -> Cut {
    Cut { first: Position(first), last: Position(last), is_possibly_delivered: true }
}

fn pending(savepoint: &Savepoint, end: u64) -> u64 {
    savepoint.pending(mark(end).total.saturating_sub(savepoint.settled.total))
}

/// That it would come back from disk.
fn assert_holds(savepoint: &Savepoint) {
    assert!(savepoint.ledger.adds_up());
    assert_eq!(Ranges::checked(savepoint.ranges.iter(), savepoint.settled.position).as_ref(), Some(&savepoint.ranges));
    let cuts = super::Cuts::checked(savepoint.cuts.iter(), savepoint.settled.position);
    assert_eq!(cuts.as_ref(), Some(&savepoint.cuts));
    for cut in savepoint.cuts.iter() {
        let ends = [cut.first, cut.last].map(|position| savepoint.ranges.contains(position));
        assert_eq!(ends, [false; 2], "{cut:?} is settled");
    }
}

fn ranges(savepoint: &Savepoint) -> Vec<(u64, u64)> {
    savepoint.ranges.iter().map(|range| (range.from.position.0, range.to.position.0)).collect()
}

/// Settled up to 10, and 12 to 15, 18 to 20; in flight 11 and 16 to 17.
fn some() -> Savepoint {
    let mut savepoint = Savepoint::default();
    for (from, to) in [(0, 10), (11, 15), (17, 20)] {
        settle(&mut savepoint, from, to).unwrap();
    }
    savepoint.cuts = Cuts::of(vec![cut(11, 11), cut(16, 17)], savepoint.settled.position);
    assert_holds(&savepoint);
    savepoint
}

#[test]
fn what_is_next_takes_the_ranges_that_it_reaches_along() {
    let mut savepoint = some();
    settle(&mut savepoint, 10, 11).unwrap();
    assert_eq!((savepoint.settled, ranges(&savepoint)), (mark(15), vec![(17, 20)]));
    assert_eq!(savepoint.next, place(15), "where it goes on was known");
    assert_eq!(savepoint.cuts.iter().collect::<Vec<_>>(), [cut(16, 17)]);
    settle(&mut savepoint, 15, 16).unwrap();
    assert_eq!((savepoint.settled, savepoint.next), (mark(16), place(16)));
    assert_eq!(savepoint.cuts.iter().collect::<Vec<_>>(), [cut(17, 17)], "half of it is settled");
    settle(&mut savepoint, 16, 17).unwrap();
    assert_eq!((savepoint.settled, ranges(&savepoint), savepoint.cuts.len()), (mark(20), vec![], 0));
}

#[test]
fn where_the_log_goes_on_behind_a_range_from_disk_is_not_known() {
    let mut savepoint = some();
    savepoint.ranges = Ranges::checked(savepoint.ranges.iter(), Position(10)).unwrap();
    settle(&mut savepoint, 10, 11).unwrap();
    assert_eq!((savepoint.settled, savepoint.next), (mark(15), Place::default()));
}

#[test]
fn a_65th_range_is_not_made_and_nothing_is_booked() {
    let mut savepoint = Savepoint::default();
    for number in 1..=Ranges::MAX as u64 {
        settle(&mut savepoint, 3 * number, 3 * number + 1).unwrap();
    }
    assert!(savepoint.ranges.is_full());
    let before = savepoint.clone();
    assert_eq!(settle(&mut savepoint, 1000, 1001), Err(Full));
    assert_eq!(savepoint, before);
    settle(&mut savepoint, 4, 5).unwrap();
    settle(&mut savepoint, 0, 3).unwrap();
    assert_eq!(savepoint.settled, mark(5));
    settle(&mut savepoint, 1000, 1001).unwrap();
}

#[test]
#[should_panic(expected = "a record is settled once")]
fn what_is_in_a_range_is_not_settled_again() {
    let _ = settle(&mut some(), 10, 12);
}

#[test]
#[should_panic(expected = "a record is settled once")]
fn what_overlaps_a_range_is_not_settled_again() {
    let _ = settle(&mut some(), 14, 16);
}

#[test]
#[should_panic(expected = "a savepoint never moves back")]
fn what_is_settled_is_not_settled_again() {
    let _ = settle(&mut some(), 9, 11);
}

#[test]
#[should_panic(expected = "every sample is settled once")]
fn other_samples_than_there_are_cannot_be_booked() {
    let _ = some().settle(mark(10), mark(11), place(11), Outcomes::delivered(samples(10, 11) + 1));
}

#[test]
fn a_gap_of_no_position_moves_the_total() {
    let mut savepoint = some();
    let later = Mark { position: Position(10), total: 3 };
    savepoint.settle(mark(10), later, place(10), Outcomes::default()).unwrap();
    assert_eq!(savepoint.settled, later);
    // Above, nothing is to be remembered of it.
    let before = savepoint.clone();
    savepoint.settle(mark(30), Mark { total: 3, ..mark(30) }, place(30), Outcomes::default()).unwrap();
    assert_eq!(savepoint, before);
}

#[test]
fn a_mixture_is_booked_by_what_it_is_of() {
    let mut savepoint = Savepoint::default();
    let mut outcome = Outcomes::delivered(100);
    let others = [Outcomes::filtered(3), Outcomes::expired(4), Outcomes::dropped(5), Outcomes::lost(6)];
    let refused = Reason::ALL.into_iter().zip(7..).map(|(reason, samples)| Outcomes::refused(reason, samples));
    others.into_iter().chain(refused).for_each(|other| outcome += other);
    let all = 100 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10 + 11;
    assert_eq!((outcome.samples(), outcome.all_refused()), (all, 45));
    let to = Mark { position: Position(2), total: all };
    savepoint.settle(Mark::default(), to, Place::default(), outcome).unwrap();
    let ledger = savepoint.ledger;
    assert_eq!((ledger.accepted, ledger.refused, ledger.refused_by), (all, 45, [7, 8, 9, 10, 11]));
    assert_eq!([ledger.delivered, ledger.filtered, ledger.expired, ledger.dropped, ledger.lost], [100, 3, 4, 5, 6]);
    assert!(ledger.adds_up());
}

#[test]
fn a_skip_into_a_range_ends_behind_it_and_drops_only_what_was_owed() {
    let mut savepoint = some();
    let dropped = savepoint.skip(mark(13), place(13), samples(10, 13));
    assert_eq!(dropped, samples(10, 11), "11 was owed, 12 and 13 are settled");
    assert_eq!((savepoint.settled, savepoint.next), (mark(15), place(15)));
    assert_eq!((ranges(&savepoint), savepoint.cuts.iter().collect::<Vec<_>>()), (vec![(17, 20)], vec![cut(16, 17)]));
    assert_holds(&savepoint);
    let dropped = savepoint.skip(mark(16), place(16), samples(15, 16));
    assert_eq!((dropped, savepoint.cuts.iter().collect::<Vec<_>>()), (samples(15, 16), vec![cut(17, 17)]));
}

#[test]
fn a_replay_forgets_what_is_settled_behind() {
    let mut savepoint = some();
    let accepted = savepoint.ledger.accepted + pending(&savepoint, 20);
    let in_ranges = savepoint.replay(mark(4), place(4));
    assert_eq!(in_ranges, samples(11, 15) + samples(17, 20));
    assert_eq!((savepoint.settled, ranges(&savepoint), savepoint.cuts.len()), (mark(4), vec![], 0));
    let grown = savepoint.ledger.accepted + pending(&savepoint, 20) - accepted;
    assert_eq!(grown, samples(4, 10) + in_ranges);
}

#[test]
fn after_a_power_cut_what_may_have_been_started_goes_one_by_one_until_it_is_settled() {
    let mut savepoint = some();
    savepoint.reservation = Position(30);
    savepoint.power_was_cut();
    assert_eq!((savepoint.doubtful, savepoint.cuts.len()), (Position(30), 0));
    let again = {
        let mut again = savepoint.clone();
        again.power_was_cut();
        again
    };
    assert_eq!(again, savepoint, "a second one tells nothing new");
    savepoint.skip(mark(29), place(29), samples(10, 29));
    assert_eq!(savepoint.doubtful, Position(30));
    settle(&mut savepoint, 29, 30).unwrap();
    assert_eq!(savepoint.doubtful, Position(0));
    savepoint.power_was_cut();
    assert_eq!(savepoint.doubtful, Position(0), "all of it is settled");
    let mut none_said = some();
    none_said.power_was_cut();
    assert_eq!(none_said.doubtful, Position(17), "the cuts say it");
}

/// Pieces of a line of records, in the order in which they are settled.
fn pieces() -> impl Strategy<Value = (u64, Vec<(u64, u64)>)> {
    proptest::collection::vec(1u64..4, 1..200).prop_flat_map(|lens| {
        let mut end = 0;
        let pieces: Vec<(u64, u64)> = lens
            .into_iter()
            .map(|len| {
                end += len;
                (end - len, end)
            })
            .collect();
        (Just(end), Just(pieces).prop_shuffle())
    })
}

fn assert_everything_is_told(savepoint: &Savepoint, end: u64, accepted: u64) {
    assert_holds(savepoint);
    assert_eq!(savepoint.ledger.accepted + pending(savepoint, end), accepted);
}

proptest! {
    #[test]
    fn records_are_settled_in_any_order_and_each_once((end, pieces) in pieces()) {
        let mut savepoint = Savepoint::default();
        let mut waiting = pieces;
        let mut settled = vec![];
        while !waiting.is_empty() {
            let count = waiting.len();
            waiting.retain(|(from, to)| {
                let before = savepoint.clone();
                match settle(&mut savepoint, *from, *to) {
                    Ok(()) => settled.push((*from, *to)),
                    Err(Full) => {
                        assert_eq!((savepoint.ranges.len(), &savepoint), (Ranges::MAX, &before));
                        return true;
                    }
                }
                assert_everything_is_told(&savepoint, end, mark(end).total);
                let records: u64 = settled.iter().map(|(from, to)| to - from).sum();
                assert_eq!(savepoint.pending_records(Position(end)), end - records);
                for (from, to) in &settled {
                    let first = Position(from + 1);
                    let is_settled = first <= savepoint.settled.position || savepoint.ranges.contains(first);
                    assert!(is_settled, "{from} to {to}");
                }
                false
            });
            prop_assert!(waiting.len() < count, "the oldest one is never refused");
        }
        prop_assert_eq!(savepoint.settled, mark(end));
        prop_assert_eq!(savepoint.next.segment, SegmentId(1));
        prop_assert!(savepoint.ranges.is_empty());
        prop_assert_eq!(savepoint.ledger.accepted, mark(end).total);
    }

    #[test]
    fn skips_and_replays_between_lose_and_invent_nothing(
        (end, pieces) in pieces(),
        moves in proptest::collection::vec((any::<bool>(), 0.0..1.0f64), 200),
        starts in proptest::collection::vec(0.0..1.0f64, 200),
    ) {
        let mut savepoint = Savepoint::default();
        let mut accepted = mark(end).total;
        for (((from, to), (moves, by)), start) in pieces.into_iter().zip(moves).zip(starts) {
            let settled = savepoint.settled.position.0;
            let is_free = |savepoint: &Savepoint, from: u64, to: u64| {
                let span = Range { from: mark(from), to: mark(to) };
                from >= savepoint.settled.position.0 && savepoint.ranges.outside(span) == [span]
            };
            // A batch of some records, if there is room.
            let first = 1 + (start * end as f64) as u64;
            let last = (first + 5).min(end);
            let is_apart = savepoint.cuts.iter().all(|cut| cut.last.0 < first || last < cut.first.0);
            if first <= last && is_apart && is_free(&savepoint, first - 1, last) {
                let cuts = savepoint.cuts.iter().chain([cut(first, last)]).collect();
                savepoint.cuts = Cuts::of(cuts, savepoint.settled.position);
            }
            if moves && by > 0.5 {
                let to = settled + ((end - settled) as f64 * (by - 0.5) * 2.0) as u64;
                let owed = pending(&savepoint, end);
                let dropped = savepoint.skip(mark(to), place(to), samples(settled, to));
                prop_assert_eq!(owed - pending(&savepoint, end), dropped);
                prop_assert!(savepoint.settled.position.0 >= to);
            } else if moves {
                let to = (settled as f64 * by * 2.0) as u64;
                let in_ranges = savepoint.replay(mark(to), place(to));
                accepted += samples(to, settled) + in_ranges;
            } else if is_free(&savepoint, from, to) {
                let _ = settle(&mut savepoint, from, to);
            }
            assert_everything_is_told(&savepoint, end, accepted);
        }
        // Whatever is left is told by what is in no range.
        let left = savepoint.ranges.outside(Range { from: savepoint.settled, to: mark(end) });
        for span in left.into_iter().filter(|span| span.records() > 0) {
            savepoint.settle(span.from, span.to, Place::default(), Outcomes::lost(span.samples())).unwrap();
        }
        prop_assert_eq!(savepoint.settled, mark(end));
        assert_everything_is_told(&savepoint, end, accepted);
    }
}
