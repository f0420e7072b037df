//! What a full log gives up, and for whom. Pure.
//!
//! A segment can go when every target has settled it. In a full log the oldest segment goes, if those that still need it may lose it:
//!
//! | who still needs the oldest segment | what happens |
//! |---|---|
//! | nobody (`wal.retain` kept it) | it goes |
//! | orphans and targets with `required = false` only | they lose what is in it |
//! | required targets, `when_full = "reject"` | nothing: upstreams get 503 |
//! | required targets, `"drop_oldest"` | all of them lose what is in it |
//! | required targets, `"auto"`, and some other required target keeps up | the same |
//! | required targets, `"auto"`, and none keeps up | nothing: upstreams get 503, whose own buffers take over |
//!
//! Nobody loses anything that is not in the way of freeing a segment.

use crate::config::WhenFull;
use crate::wal::Position;

/// A target that is younger than this behind keeps up.
pub(super) const KEEPS_UP_WITHIN_MS: i64 = 60_000;

/// What is to be known of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    /// In the configuration, and with `required = true`.
    pub is_required: bool,
    /// What it has settled.
    pub settled: Position,
    /// Its oldest pending record is in the active segment, or young.
    pub keeps_up: bool,
}

/// Who loses what it has not settled up to `end`, the end of the oldest segment; `None` if nothing may be given up.
pub(super) fn who_gives_up(holders: &[Holder], end: Position, when_full: WhenFull) -> Option<Vec<usize>> {
    let needs = |holder: &Holder| holder.settled < end;
    let some_required_needs_it = holders.iter().any(|holder| holder.is_required && needs(holder));
    let may_go = !some_required_needs_it
        || match when_full {
            WhenFull::Reject => false,
            WhenFull::DropOldest => true,
            WhenFull::Auto => holders.iter().any(|holder| holder.is_required && holder.keeps_up && !needs(holder)),
        };
    may_go.then(|| (0..holders.len()).filter(|number| needs(&holders[*number])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Position = Position(100);

    fn holder(is_required: bool, settled: u64, keeps_up: bool) -> Holder {
        Holder { is_required, settled: Position(settled), keeps_up }
    }

    fn all(holders: &[Holder]) -> [Option<Vec<usize>>; 3] {
        [WhenFull::Auto, WhenFull::Reject, WhenFull::DropOldest].map(|policy| who_gives_up(holders, END, policy))
    }

    #[test]
    fn what_nobody_needs_goes() {
        let holders = [holder(true, 100, false), holder(false, 200, false)];
        assert_eq!(all(&holders), [Some(vec![]), Some(vec![]), Some(vec![])]);
        assert_eq!(who_gives_up(&[], END, WhenFull::Auto), Some(vec![]));
    }

    #[test]
    fn those_that_nobody_waits_for_lose_it_whatever_is_configured() {
        let holders = [holder(true, 100, false), holder(false, 99, false), holder(false, 150, true)];
        assert_eq!(all(&holders), [Some(vec![1]), Some(vec![1]), Some(vec![1])]);
    }

    #[test]
    fn the_only_target_loses_nothing_unless_that_is_asked_for() {
        assert_eq!(all(&[holder(true, 5, false)]), [None, None, Some(vec![0])]);
    }

    #[test]
    fn the_one_behind_loses_its_oldest_while_another_keeps_up() {
        let holders = [holder(true, 5, false), holder(true, 900, true), holder(false, 0, false)];
        assert_eq!(all(&holders), [Some(vec![0, 2]), None, Some(vec![0, 2])]);
    }

    #[test]
    fn a_target_that_is_not_waited_for_does_not_decide_that_others_lose_something() {
        let holders = [holder(true, 5, false), holder(false, 900, true)];
        assert_eq!(all(&holders), [None, None, Some(vec![0])]);
    }

    #[test]
    fn when_all_are_behind_upstreams_wait() {
        let holders = [holder(true, 5, false), holder(true, 300, false)];
        assert_eq!(all(&holders), [None, None, Some(vec![0])]);
    }

    #[test]
    fn a_target_that_needs_the_segment_itself_does_not_keep_up() {
        let holders = [holder(true, 99, true), holder(true, 5, false)];
        assert_eq!(all(&holders)[0], None);
    }
}
