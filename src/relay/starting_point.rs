//! Where a target goes on when the relay starts. Pure.
//!
//! | what is known of the name | where it goes on |
//! |---|---|
//! | a savepoint of this log | there |
//! | a savepoint of another log, and this one has just been made | there: positions of the new log begin above it |
//! | a savepoint of another log | with the oldest record; its ledger goes on |
//! | it had a savepoint, nothing valid is left of it | with the oldest record, never with "now"; its ledger begins anew |
//! | nothing | as `start_from` says; by default with what comes from now on, if the log holds data |

use crate::savepoint::{Cuts, Ended, Found, Saved, Savepoint};
use crate::target::StartFrom;
use crate::wal::{Mark, Place, Position, Readable};

/// What the log looks like at the start.
#[derive(Clone, Copy, Debug)]
pub struct LogState {
    /// Before its oldest record.
    pub start: Mark,
    /// Behind its newest.
    pub end: Readable,
    /// No segment was there.
    pub is_new: bool,
}

/// Why a target starts where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It goes on.
    Resumed(Ended),
    /// The name is new.
    New,
    /// Its savepoint is lost.
    Damaged,
    /// Its savepoint is of another log.
    Foreign,
}

/// The table above.
#[must_use]
pub fn starting_point(found: Found, log: LogState, start_from: Option<StartFrom>) -> (Saved, Why) {
    let oldest = Savepoint { settled: log.start, next: Place::default(), ..Savepoint::default() };
    let now = Savepoint { settled: log.end.mark, next: log.end.place, ..Savepoint::default() };
    match found {
        Found::Valid(mut saved, ended) => {
            // What has come since was not there to be sent.
            saved.savepoint.doubtful = saved.savepoint.doubtful.min(log.end.mark.position);
            (saved, Why::Resumed(ended))
        }
        Found::Foreign(Saved { generation, epoch, savepoint }) if log.is_new => {
            // What was sent is not in this log.
            let (cuts, nothing) = (Cuts::default(), Position(0));
            let savepoint = Savepoint { cuts, reservation: nothing, doubtful: nothing, ..savepoint };
            (Saved { generation: generation + 1, epoch, savepoint }, Why::Resumed(Ended::Clean))
        }
        Found::Foreign(saved) => {
            let Savepoint { ledger, is_paused, learned, .. } = saved.savepoint;
            let savepoint = Savepoint { ledger, is_paused, learned, ..oldest };
            // Above what the file holds, or the old pages would count.
            (Saved { generation: saved.generation + 1, epoch: saved.epoch + 1, savepoint }, Why::Foreign)
        }
        Found::Damaged => (Saved { generation: 1, epoch: 1, savepoint: oldest }, Why::Damaged),
        Found::New => {
            let holds_data = log.end.mark.position > log.start.position;
            let savepoint = match start_from {
                Some(StartFrom::Oldest) => oldest,
                Some(StartFrom::Now) => now,
                None if holds_data => now,
                None => oldest,
            };
            (Saved { generation: 1, epoch: 0, savepoint }, Why::New)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::savepoint::{Cut, Outcomes};
    use crate::wal::SegmentId;

    fn mark(position: u64) -> Mark {
        Mark { position: Position(position), total: 10 * position }
    }

    fn log() -> LogState {
        let place = Place { segment: SegmentId(3), offset: 4096 };
        LogState { start: mark(5), end: Readable { mark: mark(9), place, ..Readable::default() }, is_new: false }
    }

    fn saved(position: u64) -> Saved {
        let mut savepoint = Savepoint::default();
        let (next, delivered) = (Place { segment: SegmentId(1), offset: 64 }, Outcomes::delivered(10 * position));
        savepoint.settle(Mark::default(), mark(position), next, delivered).unwrap();
        Saved { generation: 7, epoch: 2, savepoint }
    }

    #[test]
    fn a_savepoint_of_this_log_is_where_it_goes_on_whatever_start_from_says() {
        for start_from in [None, Some(StartFrom::Oldest), Some(StartFrom::Now)] {
            for ended in [Ended::Clean, Ended::Killed, Ended::PowerCut] {
                let found = Found::Valid(saved(7), ended);
                assert_eq!(starting_point(found, log(), start_from), (saved(7), Why::Resumed(ended)));
            }
        }
    }

    #[test]
    fn a_savepoint_whose_log_was_taken_away_goes_on_in_the_new_one() {
        let log = LogState { is_new: true, ..log() };
        let mut sending = saved(7);
        sending.savepoint.settle(mark(8), mark(9), Place::default(), Outcomes::delivered(10)).unwrap();
        let mut expected = Saved { generation: 8, ..sending.clone() };
        let first = Position(10);
        let cut = Cut { first, last: first, is_possibly_delivered: true };
        sending.savepoint.cuts = Cuts::of(vec![cut], Position(7));
        (sending.savepoint.reservation, sending.savepoint.doubtful) = (Position(50), Position(40));
        sending.savepoint.is_paused = true;
        expected.savepoint.is_paused = true;
        // What is settled is settled: a gap there is counted without it. What was in flight is not in this log.
        let resumed = (expected, Why::Resumed(Ended::Clean));
        assert_eq!(starting_point(Found::Foreign(sending), log, None), resumed);
    }

    #[test]
    fn a_foreign_savepoint_starts_with_the_oldest_and_keeps_its_ledger() {
        let (point, why) = starting_point(Found::Foreign(saved(7)), log(), Some(StartFrom::Now));
        assert_eq!((point.savepoint.settled, why), (mark(5), Why::Foreign));
        assert_eq!(point.savepoint.ledger, saved(7).savepoint.ledger);
        assert!(point.generation > saved(7).generation);
    }

    #[test]
    fn a_lost_savepoint_starts_with_the_oldest_whatever_start_from_says() {
        let (point, why) = starting_point(Found::Damaged, log(), Some(StartFrom::Now));
        assert_eq!((point.savepoint.settled, why), (mark(5), Why::Damaged));
    }

    #[test]
    fn a_new_name_starts_as_it_is_told_and_with_now_if_it_is_not() {
        let start = |start_from| starting_point(Found::New, log(), start_from).0.savepoint.settled;
        assert_eq!(
            (start(None), start(Some(StartFrom::Now)), start(Some(StartFrom::Oldest))),
            (mark(9), mark(9), mark(5))
        );
        let empty = LogState { start: mark(9), ..log() };
        assert_eq!(starting_point(Found::New, empty, None).0.savepoint.settled, mark(9));
    }
}
