//! Once a second: it is looked at how targets get on, savepoints are made durable, what all of them have passed is released, and a full log makes room.
//!
//! Released is only what is settled by savepoints that are on disk: whatever happens in the next moment, no target needs it. Where there
//! is no room for a segment ahead, something is given up at once, one segment at a time, while the segment at hand still takes records:
//! what goes, in which order, is decided in `room`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::forecast::Forecast;
use super::lull::Lull;
use super::retained::Retained;
use super::room::{self, Holder};
use super::state::{State, Watched};
use crate::clock::now_ms;
use crate::target::{Destination, Order, Phase};
use crate::wal::{Limit, Position};

const INTERVAL: Duration = Duration::from_secs(1);

/// Until aborted.
pub(super) async fn keep_house(state: Arc<State>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut lack = state.log.lack_of_room();
    let mut house = House {
        lull: Lull::new(Instant::now(), state.log.readable().mark.position),
        forecast: Forecast::default(),
        retained: Retained::default(),
        state,
    };
    loop {
        let is_second = tokio::select! {
            _ = interval.tick() => true,
            changed = lack.changed() => {
                if changed.is_err() { return };
                false
            }
        };
        if is_second {
            house.every_second().await;
        }
        loop {
            let limit = lack.borrow_and_update().clone();
            let Some(limit) = limit else { break };
            if !house.make_room(&limit).await {
                break;
            }
        }
    }
}

struct House {
    state: Arc<State>,
    lull: Lull,
    forecast: Forecast,
    retained: Retained,
}

impl House {
    async fn every_second(&mut self) {
        let now = Instant::now();
        self.watch(now);
        let keeps = self.kept(now);
        let state = self.state.clone();
        let _alone = self.state.moves.lock().await;
        let trip = tokio::task::spawn_blocking(move || {
            state.registry.run_upkeep();
            state.sync_savepoints();
            state.release(&keeps, usize::MAX);
        });
        if let Err(error) = trip.await {
            tracing::error!(%error, "internal error in housekeeping");
        }
    }

    /// What follows from time passing.
    fn watch(&mut self, now: Instant) {
        let state = &self.state;
        let log = &state.log;
        let closed = log.segments().into_iter().filter_map(|segment| Some((segment.id, segment.closed?.received_ms.1)));
        self.retained.look(now, now_ms(), closed);

        let end = log.readable().mark.position;
        let is_lull = self.lull.look(now, end);
        if is_lull && state.lowest_synced() >= end {
            log.seal_active();
        }

        let held = state.targets().into_iter().map(|target| log.bytes_from(target.progress.savepoint().next));
        let held = held.max().unwrap_or(0);
        // Two segments are never free for what is held: the one that is written and the one that is allocated ahead.
        let most = log.max_bytes().saturating_sub(2 * log.segment_bytes());
        let is_full = log.lack_of_room().borrow().is_some();
        let room = if is_full { 0 } else { most.saturating_sub(held) };
        let left = self.forecast.look(now, held, room);
        state.set_full_in(left);
        state.look_ahead(now);
    }

    /// The segments that are kept for `wal.retain`.
    fn kept(&self, now: Instant) -> BTreeSet<Position> {
        let retain = self.state.room.retain;
        if retain.is_zero() {
            return BTreeSet::new();
        }
        let kept = self.state.log.segments().into_iter().filter_map(|segment| {
            let is_young = self.retained.age(now, segment.id) < retain;
            (segment.closed.is_some() && is_young).then_some(segment.last)
        });
        kept.collect()
    }

    /// Gives up one thing; whether to go on at once. A disk may give back late, or not at all, what was given up, and an allocation may take
    /// long: then nothing more goes before the next second. And a disk that others have filled is no reason to take
    /// anything from a target.
    async fn make_room(&self, limit: &Limit) -> bool {
        let state = &self.state;
        let _alone = state.moves.lock().await;
        // What nobody needs, whatever was said about keeping it.
        let released = {
            let state = state.clone();
            tokio::task::spawn_blocking(move || {
                state.sync_savepoints();
                let is_more = state.release(&BTreeSet::new(), 1) || state.log.drop_from_quarantine();
                (is_more, is_more && state.log.look_for_room())
            })
        };
        match released.await {
            Ok((true, goes_on)) => return goes_on,
            Ok((false, _)) => {}
            Err(_) => return false,
        }
        if matches!(limit, Limit::Disk { .. }) {
            return false;
        }
        let Some((mark, place)) = state.log.oldest_closed_end() else { return false };
        let targets = state.targets();
        let holders: Vec<Holder> = targets.iter().map(|target| state.holder(target)).collect();
        let Some(losers) = room::who_gives_up(&holders, mark.position, state.room.when_full) else { return false };
        for target in losers.into_iter().map(|number| &targets[number]) {
            match state.order(target, Order::Drop(Destination { mark, place })).await {
                Ok(moved) => tracing::error!(
                    target = target.progress.name(),
                    samples = moved.dropped,
                    up_to = mark.position.0,
                    "the log is full: dropped the oldest data that the target was owed"
                ),
                Err(error) => {
                    tracing::error!(target = target.progress.name(), %error, "cannot move the savepoint of a target that must give up data");
                    return false;
                }
            }
        }
        let state = state.clone();
        let released = tokio::task::spawn_blocking(move || {
            let before = state.log.disk_bytes();
            state.release(&BTreeSet::new(), 1) && state.log.look_for_room() && state.log.disk_bytes() < before
        });
        let helped = released.await.unwrap_or(false);
        helped && matches!(limit, Limit::MaxSize { .. })
    }
}

impl State {
    /// Makes what targets have settled durable.
    pub(super) fn sync_savepoints(&self) {
        for target in self.targets() {
            if let Err(error) = target.progress.sync() {
                tracing::error!(target = target.progress.name(), %error, "cannot sync a savepoint; the log keeps what it covers");
            }
        }
    }

    /// What every target has settled, durably. Where the last one was forgotten, nothing: there is nobody who has it.
    fn lowest_synced(&self) -> Position {
        self.targets().iter().map(|target| target.progress.synced_position()).min().unwrap_or_default()
    }

    /// Only savepoints that are durable release anything. Segments that end with one of the `kept` positions stay; no more than `most` go.
    /// Whether any did.
    fn release(&self, kept: &BTreeSet<Position>, most: usize) -> bool {
        let mut left = most;
        let released = self.log.release_unless(self.lowest_synced(), |seal| {
            if left == 0 || kept.contains(&seal.last.position) {
                return true;
            }
            left -= 1;
            false
        });
        for segment in &released {
            tracing::debug!(segment = segment.id.0, last = segment.last.0, "released a segment");
        }
        !released.is_empty()
    }

    fn holder(&self, target: &Watched) -> Holder {
        let snapshot = target.progress.snapshot();
        let settled = snapshot.savepoint.settled.position;
        let closed = self.log.segments().into_iter().rev().find(|segment| segment.closed.is_some());
        let is_in_active = closed.is_none_or(|newest| settled >= newest.last);
        let is_young = match snapshot.oldest_pending_ms {
            Some(received_ms) => now_ms().saturating_sub(received_ms) < room::KEEPS_UP_WITHIN_MS,
            // Nobody has looked yet.
            None => settled >= self.log.readable().mark.position,
        };
        Holder { is_required: target.is_required, settled, keeps_up: keeps_up(snapshot.phase, is_in_active, is_young) }
    }
}

/// Whether others may lose data because of this target, which takes it: what it is owed is in the active segment, or young.
fn keeps_up(phase: Phase, is_in_active: bool, is_young: bool) -> bool {
    match phase {
        Phase::CaughtUp | Phase::Sending => is_in_active || is_young,
        // They fail, and may go on in a moment.
        Phase::BackingOff | Phase::Held => is_in_active,
        // Nothing gets through until somebody does something, however little that is now.
        Phase::Suspect | Phase::Paused | Phase::Orphan => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_nothing_does_not_keep_up_however_little_it_is_owed() {
        for phase in [Phase::Suspect, Phase::Paused, Phase::Orphan] {
            assert!(!keeps_up(phase, true, true), "{phase:?}");
        }
        for phase in [Phase::BackingOff, Phase::Held] {
            assert!(keeps_up(phase, true, false) && !keeps_up(phase, false, true), "{phase:?}");
        }
        for phase in [Phase::CaughtUp, Phase::Sending] {
            assert!(keeps_up(phase, true, false) && keeps_up(phase, false, true), "{phase:?}");
            assert!(!keeps_up(phase, false, false), "{phase:?}");
        }
    }
}
