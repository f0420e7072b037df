//! What is watched in a simulation, and what it says when something is wrong.

use std::collections::HashSet;

use super::log::Key;
use super::setup::Disturbances;
use super::{BatchId, Lane, Reason, World};

impl World {
    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if std::env::var_os("SIMULATION_JOURNAL").is_some() {
            let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), text());
            self.journal.push(line);
        }
    }

    pub(super) fn fail(&self, text: &str) -> ! {
        for line in &self.journal {
            eprintln!("{line}");
        }
        panic!("seed {}, at {:?}: {text}", self.seed, self.elapsed());
    }

    /// A request of a batch may start: no earlier batch shares a series with it, and no other request of its own is in flight.
    pub(super) fn check_order(&self, batch: BatchId, lane: Lane, keys: &HashSet<Key>) {
        for (earlier, active) in self.delivery.batches.range(..batch).filter(|(_, active)| active.lane == lane) {
            // What is settled of it already stands in nobody's way.
            let left = active.batch.left();
            let shared = left.iter().find_map(|part| {
                let position = active.batch.record(part.record).header.position.0;
                let all = self.log.fake(position).entries.len();
                part.numbers(all)
                    .into_iter()
                    .map(|number| self.log.key((position, number)))
                    .find(|key| keys.contains(key))
            });
            if let Some(shared) = shared {
                self.fail(&format!("{batch:?} starts before {earlier:?} is settled: {shared:?}"));
            }
        }
        for other in self.in_flight.values() {
            if other.batch == Some(batch) {
                self.fail("two requests of a batch");
            }
            if other.lane == Some(lane) && !keys.is_disjoint(&other.keys) {
                self.fail("two requests share a series");
            }
        }
    }

    pub(super) fn check_bounds(&self) {
        if self.in_flight.len() > self.rules.max_in_flight {
            self.fail("too many requests in flight");
        }
        if self.delivery.batches.len() > self.rules.ahead() {
            self.fail("too far ahead");
        }
    }

    pub(super) fn stored(&self) -> u64 {
        self.store.stored.keys().map(|id| self.log.entry(*id).samples()).sum()
    }

    pub(super) fn refused_for(&self, reason: Reason) -> u64 {
        self.savepoint.ledger.refused_by[reason as usize]
    }

    /// What is told against what the target has.
    pub(super) fn check_totals(&self) {
        let ledger = &self.savepoint.ledger;
        assert!(ledger.adds_up());
        let (stored, resent) = (self.stored(), self.refused_for(Reason::Resent));
        let given_up = ledger.dropped + ledger.expired;
        if self.disturbances.seeks == 0 {
            assert_eq!(ledger.accepted, self.log.total(), "seed {}: every sample is told once", self.seed);
            if ledger.delivered > stored {
                self.fail(&format!("{} told as delivered, {stored} stored", ledger.delivered));
            }
            if stored - ledger.delivered > resent + given_up {
                self.fail(&format!("{stored} stored, {ledger:?}"));
            }
        }
        let Disturbances { crashes, power_cuts, drops, seeks, pauses: _ } = self.disturbances;
        if self.unanswered == 0 && crashes + power_cuts + drops + seeks == 0 {
            if stored != ledger.delivered || resent != 0 {
                self.fail(&format!("{stored} stored, {ledger:?}"));
            }
            assert!(self.store.stored.values().all(|times| *times == 1), "seed {}: twice", self.seed);
        }
    }
}
