//! Does what a target is told: stop, go on, give up, go back.

use std::io;
use std::time::Instant;

use super::orders::{Moved, Order};
use super::reading::Reading;
use super::{Target, drop_from, progress, resume};

impl Target {
    /// Does what it is told.
    pub(super) fn obey(&mut self, order: Order) -> io::Result<Moved> {
        let now = Instant::now();
        self.unreadable = [None; 2];
        self.book();
        match order {
            Order::Pause(is_paused) => {
                if is_paused {
                    for id in self.in_flight.keys().copied().collect::<Vec<_>>() {
                        self.delivery.abandon(id, now);
                        self.abort(id);
                    }
                }
                self.delivery.pause(is_paused, now);
                self.book();
                self.progress.pause(is_paused).map(|()| Moved::default())
            }
            Order::AcceptRefusals => {
                self.delivery.accept_refusals();
                self.book();
                Ok(Moved::default())
            }
            // It is past that: no reason to send anything twice.
            Order::Drop(to) if to.mark.position <= self.progress.savepoint().settled.position => Ok(Moved::default()),
            Order::Drop(to) => {
                for id in self.delivery.drop_up_to(to.mark.position, now) {
                    self.abort(id);
                }
                drop_from(&mut self.completed, to.mark);
                let cuts = self.delivery.cuts().into_iter().chain(progress::cuts_of(&self.completed)).collect();
                let moved = self.progress.obey(&self.log, order, cuts);
                if self.reading.is_before(to.mark.position) {
                    self.read_anew(now);
                }
                moved
            }
            Order::Seek(_) => {
                self.abort_all();
                // What was in flight may be there: what lies ahead is sent as it was cut.
                let cuts = self.progress.savepoint().cuts.iter().collect();
                // Somebody wants to see something happen.
                self.delivery.hurry(now);
                let moved = self.progress.obey(&self.log, order, cuts);
                self.read_anew(now);
                moved
            }
            Order::End => {
                self.abort_all();
                Ok(Moved::default())
            }
        }
    }

    /// Goes on where the savepoint is now.
    fn read_anew(&mut self, now: Instant) {
        self.abort_all();
        // What is settled and had no room in the savepoint is owed again; as a cut it is there.
        self.completed.clear();
        let savepoint = self.progress.savepoint();
        let resume = resume(&self.progress, self.identity);
        self.delivery.start_over(resume.cuts, resume.unsure, now);
        self.reading = Reading::new(&self.log, &savepoint);
    }
}
