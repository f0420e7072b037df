//! What somebody decides: to stop, to go on, to begin elsewhere, to give something up, to believe refusals.

use std::collections::BTreeSet;
use std::time::Instant;

use super::super::batch::Batch;
use super::super::window::BatchId;
use super::active::Refusals;
use super::words::{AttemptId, Lane};
use super::{Delivery, What};
use crate::savepoint::Cut;
use crate::wal::Position;

impl Delivery {
    /// An operator stops it, or lets it go on. The caller gives up what is in flight.
    pub fn pause(&mut self, is_paused: bool, now: Instant) {
        self.is_paused = is_paused;
        if !is_paused {
            self.hurry(now);
        }
    }

    /// An operator wants to see something happen: no pause.
    pub fn hurry(&mut self, now: Instant) {
        self.pace.reset(now);
        for active in self.batches.values_mut() {
            active.not_before = None;
        }
    }

    /// An operator says that refusals are to be believed.
    pub fn accept_refusals(&mut self) {
        self.suspicion.force();
        self.believe_all();
    }

    /// Begins anew elsewhere: whatever is in hand is let go of. What is known of the target stays.
    pub fn start_over(&mut self, cuts: Vec<Cut>, unsure: Position, now: Instant) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            self.pace.abandon(now, flight.ticket);
        }
        self.batches.clear();
        self.lanes = Default::default();
        self.lanes[0].queue.resume(cuts, unsure);
        self.backlog = Lane::One;
        self.completed.clear();
        self.refused.clear();
    }

    /// Everything up to `to` is given up by somebody: nothing of it is sent any more. The attempts that are to be given up; what of their
    /// batches lies beyond is sent again.
    pub fn drop_up_to(&mut self, to: Position, now: Instant) -> Vec<AttemptId> {
        let mut given_up = Vec::new();
        for lane in &mut self.lanes {
            while lane.queue.front().is_some_and(|record| record.header.position <= to) {
                lane.queue.take(1);
            }
        }
        let touched: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(_, active)| active.batch.open().is_some_and(|(first, _)| first <= to))
            .map(|(id, _)| *id)
            .collect();
        for id in touched {
            let active = self.batches.get_mut(&id).expect("it was found");
            if let Some(attempt) = active.flight.take() {
                given_up.push(attempt);
            }
            active.not_before = None;
            active.refusals.is_in_doubt = false;
            if active.batch.has_settled {
                // Others may have gone on with what is settled of it: it is not sent again.
                active.batch.drop_up_to(to);
                if active.batch.is_done() {
                    // What was kept back because of what is dropped is told.
                    self.complete(id);
                    self.remove(id);
                }
                continue;
            }
            let mut left = active.batch.untold();
            left.retain(|record| record.header.position > to);
            if left.is_empty() {
                self.remove(id);
            } else {
                // In the place of the old one: later batches wait for it.
                active.batch = Batch::new(left, active.was_attempted);
                active.refusals = Refusals::default();
                self.waits_as_a_whole(id);
            }
        }
        for attempt in &given_up {
            if let Some(flight) = self.flights.remove(attempt) {
                self.pace.abandon(now, flight.ticket);
            }
        }
        given_up
    }

    /// A batch is whole again: what was set aside in it, and had to wait for more than the rest, goes with the rest.
    pub(super) fn waits_as_a_whole(&mut self, id: BatchId) {
        let active = &self.batches[&id];
        let lane = active.lane;
        let earlier: BTreeSet<BatchId> = match &active.series {
            Some(series) => self.lanes[lane as usize].window.before(series.as_deref()),
            // Nobody looked into it: it is the only one, or one goes after the other.
            None => self.batches.iter().filter(|(_, other)| other.lane == lane).map(|(id, _)| *id).collect(),
        };
        let active = self.batches.get_mut(&id).expect("it is there");
        active.waits_for = earlier.into_iter().filter(|other| *other < id).collect();
    }

    /// An attempt was given up by us: it may have arrived.
    pub fn abandon(&mut self, id: AttemptId, now: Instant) {
        let Some(flight) = self.flights.remove(&id) else { return };
        self.pace.abandon(now, flight.ticket);
        let (What::Piece { batch, .. } | What::Protocol { batch }) = flight.what else { return };
        let Some(active) = self.batches.get_mut(&batch) else { return };
        active.flight = None;
        if matches!(flight.what, What::Piece { .. }) {
            active.batch.was_possibly_delivered = true;
            if let Some(piece) = active.batch.front_mut() {
                piece.is_possibly_delivered = true;
            }
        }
    }
}
