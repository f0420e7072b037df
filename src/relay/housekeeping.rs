//! Once a second: savepoints are made durable, and what all of them have passed is released.
//!
//! Released is only what is settled by savepoints that are on disk: whatever happens in the next moment, no target needs it.

use std::sync::Arc;
use std::time::Duration;

use super::state::{State, Watched};
use crate::savepoint::Settled;
use crate::wal::Health;

const INTERVAL: Duration = Duration::from_secs(1);

/// Once a second, until aborted.
pub(super) async fn keep_house(state: Arc<State>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let state = state.clone();
        let trip = tokio::task::spawn_blocking(move || {
            state.registry.run_upkeep();
            state.sync_savepoints();
            state.make_room();
            state.release();
        });
        if let Err(error) = trip.await {
            tracing::error!(%error, "internal error in housekeeping");
        }
    }
}

impl State {
    /// Makes what targets have settled durable.
    pub(super) fn sync_savepoints(&self) {
        for target in &self.targets {
            if let Err(error) = target.progress.sync() {
                tracing::error!(target = target.progress.name(), %error, "cannot sync a savepoint; the log keeps what it covers");
            }
        }
    }

    /// Only savepoints that are durable release anything.
    fn release(&self) {
        let Some(lowest) = self.targets.iter().map(|target| target.progress.synced_position()).min() else { return };
        for segment in self.log.release(lowest) {
            tracing::debug!(segment = segment.id.0, last = segment.last.0, "released a segment");
        }
    }

    /// In a full log, what only orphans hold back is given up first: a segment at a time, counted before it goes.
    fn make_room(&self) {
        if self.log.health() != Health::Full {
            return;
        }
        let Some((to, place)) = self.log.oldest_closed_end() else { return };
        let passed = |target: &Watched| target.progress.snapshot().savepoint.settled.position >= to.position;
        if self.targets.iter().any(|target| !target.is_orphan && !passed(target)) {
            return;
        }
        for orphan in self.targets.iter().filter(|target| !passed(target)) {
            let from = orphan.progress.snapshot().savepoint.settled;
            let samples = to.total.saturating_sub(from.total);
            tracing::error!(
                target = orphan.progress.name(),
                samples,
                "the log is full: dropped the oldest data of an orphan"
            );
            orphan.progress.settle(to, place, Settled::Dropped { samples });
        }
        self.sync_savepoints();
    }
}
