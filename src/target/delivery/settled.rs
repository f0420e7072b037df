//! What of the batches is settled and told, and what must be sent again as it was cut.
//!
//! ```text
//!   answered --> finish: something of the batch was taken    told record by record, as soon as all of a record is known
//!                        nothing was taken                   told when all of it is refused, and that is believed (`suspicion`)
//!   told --> completed, refused: fetched by the caller; culprits and senders learn from it
//! ```

use std::time::Instant;

use super::super::batch::Batch;
use super::super::window::BatchId;
use super::{AttemptId, Delivery, What};
use crate::savepoint::{Cut, Cuts, Reason};
use crate::wal::Position;

impl Delivery {
    /// What must be sent again as it was cut, if this life ended now. Of a batch in pieces that is the next piece and the rest, if there is room for
    /// that in a savepoint, else the whole.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        let cuts = self.cuts_of(Batch::cuts);
        if cuts.len() <= Cuts::MAX {
            return cuts;
        }
        self.cuts_of(|batch| {
            let cuts = batch.cuts();
            let is_possibly = cuts.len() > 1 || cuts.iter().any(|cut| cut.2);
            batch.open().map(|(first, last)| (first, last, is_possibly)).into_iter().collect()
        })
    }

    /// Whether something of a batch is in an attempt, which is in flight.
    fn has_data(&self, attempt: AttemptId) -> bool {
        self.flights.get(&attempt).is_some_and(|flight| matches!(flight.what, What::Piece { .. }))
    }

    fn cuts_of(&self, of_batch: impl Fn(&Batch) -> Vec<(Position, Position, bool)>) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = self.lanes.iter().flat_map(|lane| lane.queue.cuts().copied()).collect();
        for active in self.batches.values().filter(|active| active.keeps_cut) {
            for (number, (first, last, is_possibly)) in of_batch(&active.batch).into_iter().enumerate() {
                let is_in_flight = number == 0 && active.flight.is_some_and(|attempt| self.has_data(attempt));
                cuts.push(Cut { first, last, is_possibly_delivered: is_possibly || is_in_flight });
            }
        }
        cuts.sort_by_key(|cut| cut.first);
        // (A cut of a former life that was taken in part is there twice: what was taken counts.)
        let mut disjoint: Vec<Cut> = Vec::new();
        for cut in cuts {
            match disjoint.last_mut() {
                Some(last) if cut.first <= last.last => {
                    last.last = last.last.max(cut.last);
                    last.is_possibly_delivered |= cut.is_possibly_delivered;
                }
                _ => disjoint.push(cut),
            }
        }
        disjoint
    }

    /// What is done is told; what was refused as a whole only when it is believed.
    pub(super) fn finish(&mut self, id: BatchId, now: Instant) {
        let Some(active) = self.batches.get_mut(&id) else { return };
        if active.batch.has_settled {
            self.complete(id);
        }
        let active = self.batches.get_mut(&id).expect("it is there");
        if !active.batch.is_done() {
            return;
        }
        if !active.batch.has_settled && !active.refusals.refused.is_empty() {
            let refused_at = active.refusals.refused_at.unwrap_or(now);
            if !self.suspicion.believes(refused_at, !active.refusals.is_unexpected, now) {
                if let Some(active) = self.batches.get_mut(&id) {
                    active.refusals.is_in_doubt = true;
                }
                return;
            }
        }
        self.tell(id);
    }

    /// Tells all that is known of a batch that is done.
    fn tell(&mut self, id: BatchId) {
        let active = self.batches.get_mut(&id).expect("it is there");
        if !active.batch.has_settled && !active.refusals.refused.is_empty() {
            self.suspicion.was_refused_whole();
        }
        // (Of a duplicate the first is taken, each time, and the second refused.)
        for suspect in active.refusals.taken.iter().filter(|suspect| !active.refusals.culprits.contains(suspect)) {
            self.culprits.accepted(*suspect, !active.refusals.culprits.is_empty());
        }
        self.complete(id);
        self.remove(id);
    }

    /// Tells what is known of a batch now.
    pub(super) fn complete(&mut self, id: BatchId) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let completed = active.batch.take_completed();
        if active.refusals.given_up_at.is_some() || !self.senders.is_empty() {
            let mut records = active.batch.records().enumerate();
            for done in &completed {
                let (number, record) = records.find(|(_, record)| record.mark() == done.to).expect("they are in order");
                let at = active.refusals.given_up_at.filter(|_| active.refusals.unsearched.contains(&number));
                let sender = (active.lane, record.meta.sender);
                let refused = done.outcomes.refused_for(Reason::Status) + done.outcomes.refused_for(Reason::Unsplit);
                match (done.outcomes.delivered, refused, at) {
                    (0, 1.., Some(at)) => self.senders.all_refused(sender, at),
                    (1.., 0, _) => self.senders.all_taken(sender),
                    (1.., 1.., _) => self.senders.some_taken(sender),
                    _ => {}
                }
            }
        }
        self.completed.extend(completed);
        self.refused.append(&mut active.refusals.refused);
    }

    /// What was refused as a whole is believed.
    pub(super) fn believe_all(&mut self) {
        let doubted: Vec<BatchId> =
            self.batches.iter().filter(|(_, active)| active.refusals.is_in_doubt).map(|(id, _)| *id).collect();
        for id in doubted {
            let active = self.batches.get_mut(&id).expect("it was found");
            active.refusals.is_in_doubt = false;
            if active.batch.is_done() {
                self.tell(id);
            }
        }
    }

    pub(super) fn remove(&mut self, id: BatchId) {
        let Some(active) = self.batches.remove(&id) else { return };
        let lane = &mut self.lanes[active.lane as usize];
        if let Some(series) = &active.series {
            lane.window.leave(id, series.as_deref());
        }
        lane.waits_for.remove(&id);
        for other in self.batches.values_mut() {
            other.waits_for.remove(&id);
        }
    }
}
