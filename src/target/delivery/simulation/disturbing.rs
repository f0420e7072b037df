//! What comes in between: crashes, power cuts, drops, seeks and pauses.

use super::log::EPOCH_MS;
use super::setup::{Disturbances, pace};
use super::{AttemptId, Cuts, Delivery, Due, Position, Resume, World};
use crate::wal::Place;

impl World {
    pub(super) fn disturb(&mut self) {
        let Disturbances { crashes, power_cuts, drops, seeks, pauses } = self.disturbances;
        let dice = self.random.u64(0..10_000);
        let mut below = 0;
        let mut is = |chance: u64| {
            below += chance;
            dice < below && dice >= below - chance
        };
        if is(crashes) {
            self.crash(false);
        } else if is(power_cuts) {
            self.crash(true);
        } else if is(drops) {
            self.book();
            let settled = self.savepoint.settled.position.0;
            let to = (settled + self.random.u64(0..4)).min(self.read[0]);
            self.drop_up_to(to);
        } else if is(seeks) {
            self.book();
            let settled = self.savepoint.settled.position.0;
            let to = settled.saturating_sub(self.random.u64(0..6));
            self.seek_back(to);
        } else if is(pauses) {
            let is_paused = !self.delivery.is_paused();
            self.delivery.pause(is_paused, self.now);
        }
    }

    pub(super) fn crash(&mut self, is_power_cut: bool) {
        self.note(|| format!("crash, power cut: {is_power_cut}"));
        self.lose_all_in_flight();
        if is_power_cut {
            self.savepoint = self.synced.clone();
            self.savepoint.power_was_cut();
            let settled = self.savepoint.settled.position.0;
            self.forgotten.extend(self.told_at.keys().copied().filter(|position| *position > settled));
        }
        self.completed.clear();
        let resume = self.resume();
        self.note(|| format!("resumes {resume:?} behind {:?}", resume.unsure));
        self.delivery = Delivery::new(self.rules, pace(&self.rules), resume, self.now);
        self.synced = self.savepoint.clone();
        self.read = [self.savepoint.settled.position.0, self.lane_end.unwrap_or_default()];
        self.started = 0;
        self.wait = None;
    }

    pub(super) fn drop_up_to(&mut self, to: u64) {
        if to <= self.savepoint.settled.position.0 {
            return;
        }
        self.note(|| format!("drop up to {to}"));
        for id in self.delivery.drop_up_to(Position(to), self.now) {
            self.forget_attempt(id);
        }
        let mark = self.log.mark(to);
        let between = mark.total - self.savepoint.settled.total;
        self.savepoint.skip(mark, Place::default(), between);
        self.savepoint.cuts = Cuts::of(self.delivery.cuts(), self.savepoint.settled.position);
        self.completed.retain(|done| done.from.position > self.savepoint.settled.position);
        if self.read[0] < to {
            self.read_anew();
        }
    }

    fn seek_back(&mut self, to: u64) {
        self.note(|| format!("seek {to}"));
        self.savepoint.replay(self.log.mark(to), Place::default());
        self.delivery.hurry(self.now);
        self.read_anew();
    }

    fn read_anew(&mut self) {
        self.lose_all_in_flight();
        let resume = self.resume();
        self.delivery.start_over(resume.cuts, resume.unsure, self.now);
        self.completed.clear();
        self.read = [self.savepoint.settled.position.0, self.lane_end.unwrap_or_default()];
    }

    /// What is in flight arrives, or does not.
    fn lose_all_in_flight(&mut self) {
        let ids: Vec<AttemptId> = self.in_flight.keys().copied().collect();
        for id in ids {
            if self.in_flight[&id].verdict.is_none() && self.chance(500) {
                self.look(id);
            }
            self.unanswered += 1;
        }
        self.in_flight.clear();
        self.due.clear();
    }

    fn forget_attempt(&mut self, id: AttemptId) {
        if self.in_flight[&id].verdict.is_none() && self.chance(500) {
            self.look(id);
        }
        self.unanswered += 1;
        self.in_flight.remove(&id);
        self.due.retain(|(_, due)| !matches!(due, Due::Looked(other) | Due::Answered(other) if *other == id));
    }

    pub(super) fn resume(&self) -> Resume {
        Resume {
            cuts: self.savepoint.cuts.iter().collect(),
            unsure: self.savepoint.doubtful,
            learned: self.savepoint.learned,
            is_paused: false,
            wall_s: (EPOCH_MS / 1000) as u32 + self.elapsed().as_secs() as u32,
        }
    }
}
