//! From the log into delivery: what is read, in what portions, and what becomes of what cannot be read.
//!
//! ```text
//!  each lane:   has room? ---> next record --- rules ---> queue          1 MiB of it at a stretch
//!                                 |--> gap: lost
//!                                 '--> the disk does not give it: tried again for ten minutes, then taken for a gap
//! ```
//!
//! Rules may keep back all of a backlog, and then a batch has room for millions of samples. So it is read in stretches: between two of them answers, orders
//! and the end are heard, the other lane has its stretch, and what needs no request is booked. Nothing is cut of a lane meanwhile. A record that
//! cannot be read by its rules is lost, as a gap is.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::batch::Completed;
use super::delivery::{Lane, Reach};
use super::reading::{PART_AT_LAG_MS, Read};
use super::rewriting::NotRewritten;
use super::unreadable::Unreadable;
use super::{Phase, SendOrder, Target, UNBOOKED_MAX};
use crate::clock::now_ms;
use crate::savepoint::{Outcomes, Range, Savepoint};
use crate::wal::{Mark, Place};

/// Bytes, decompressed and before the rules, of a stretch; and what is left of its last record.
const STRETCH_BYTES: u64 = 1 << 20;

impl Target {
    /// New records are of no use to a target that has its hands full: it need not wake up for them.
    pub(super) fn waits_for_records(&self) -> bool {
        let now = std::time::Instant::now();
        let wants = |lane: Lane| self.unreadable[lane as usize].is_none() && self.delivery.has_room(lane, now);
        self.completed.len() < UNBOOKED_MAX && self.reading.lanes().any(wants)
    }

    /// Reads as much as is wanted, or a stretch of it. When to go on, or to try again if the disk does not give it.
    pub(super) fn read(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.part_or_join();
        // Of all lanes: one that is not there has nothing more.
        [Lane::One, Lane::Two].into_iter().for_each(|lane| self.delivery.was_read(lane, Reach::End));
        let savepoint = self.progress.savepoint();
        let lanes: Vec<Lane> = self.reading.lanes().collect();
        let next = lanes.into_iter().filter_map(|lane| {
            let (reach, next) = self.read_lane(lane, now, &savepoint);
            self.delivery.was_read(lane, reach);
            next
        });
        next.min()
    }

    fn read_lane(&mut self, lane: Lane, now: Instant, savepoint: &Savepoint) -> (Reach, Option<Instant>) {
        if self.completed.len() >= UNBOOKED_MAX {
            return (Reach::Enough, None);
        }
        if let Some(next_try) = self.unreadable[lane as usize].map(Unreadable::next_try).filter(|next| now < *next) {
            return (Reach::Enough, Some(next_try));
        }
        let mut read = 0;
        while self.delivery.has_room(lane, now.into_std()) {
            if read >= STRETCH_BYTES {
                return (Reach::Stretch, Some(now));
            }
            let next = self.reading.next(lane, savepoint);
            if !matches!(next, Read::Unreadable(_)) {
                self.unreadable[lane as usize] = None;
            }
            match next {
                Read::Record(record) => {
                    self.worked_at = now;
                    self.read_ms[lane as usize] = record.header.received_ms;
                    read += u64::from(record.header.decoded_len);
                    match self.rewriting.outgoing(record) {
                        Ok(outgoing) => self.delivery.read(lane, Arc::new(outgoing)),
                        Err(failed) => self.cannot_rewrite(&failed),
                    }
                }
                Read::Gap { parts, place, reason } => self.lost(parts, place, &reason),
                Read::Unreadable(error) => return (Reach::Enough, self.cannot_read(lane, &error, now)),
                Read::End => return (Reach::End, None),
            }
        }
        (Reach::Enough, None)
    }

    /// The oldest record that is not settled, when it was received: one in hand, or, if there is none, the last that was read where more is there.
    pub(super) fn oldest_received_ms(&self) -> Option<i64> {
        let in_hand = self.delivery.oldest_received_ms();
        in_hand.or_else(|| {
            let lanes = self.reading.lanes().filter(|lane| self.delivery.reach(*lane) != Reach::End);
            lanes.map(|lane| self.read_ms[lane as usize]).min()
        })
    }

    /// With `fresh_first`: two lanes while it is behind, one otherwise.
    fn part_or_join(&mut self) {
        let SendOrder::FreshFirst { .. } = self.settings.send_order else { return };
        match self.reading.backlog() {
            Some(backlog) => {
                if self.delivery.is_lane_idle(backlog) && self.reading.join() {
                    tracing::info!(target = self.settings.name, "the backlog is gone: data is sent in its order again");
                }
            }
            None => {
                let oldest = self.oldest_received_ms();
                if oldest.is_some_and(|received_ms| now_ms().saturating_sub(received_ms) > PART_AT_LAG_MS) {
                    self.reading.part();
                    if let Some(backlog) = self.reading.backlog() {
                        self.delivery.backlog_is(backlog);
                        tracing::info!(
                            target = self.settings.name,
                            "the target is behind: new data is sent beside the backlog"
                        );
                    }
                }
            }
        }
    }

    fn lost(&mut self, parts: Vec<Range>, place: Place, reason: &str) {
        // Positions that were skipped and never held a sample are no loss.
        let samples: u64 = parts.iter().map(|part| part.samples()).sum();
        if samples > 0 {
            tracing::error!(target = self.settings.name, samples, %reason, "part of the log is lost for this target");
        }
        self.completed.extend(parts.into_iter().map(|part| Completed {
            from: part.from,
            to: part.to,
            next: place,
            outcomes: Outcomes::lost(part.samples()),
        }));
    }

    /// A record that was stored as valid is not. It is lost for this target: as it is, what the rules keep back may be in it.
    fn cannot_rewrite(&mut self, failed: &NotRewritten) {
        let NotRewritten { record, error } = failed;
        let samples = record.header.counts.ledger_samples();
        let position = record.header.position.0;
        tracing::error!(target = self.settings.name, position, samples, %error, "a record cannot be relabeled and is lost for this target");
        self.completed.push(Completed {
            from: Mark { position: record.header.position.previous(), total: record.header.total_before() },
            to: record.mark(),
            next: record.next,
            outcomes: Outcomes::lost(samples),
        });
    }

    /// The disk does not give the next record. Nothing is lost by that: it is read again, and taken for damage only after a long time.
    fn cannot_read(&mut self, lane: Lane, error: &io::Error, now: Instant) -> Option<Instant> {
        let unreadable = match self.unreadable[lane as usize] {
            Some(unreadable) => unreadable.again(now, Instant::now()),
            None => {
                tracing::error!(target = self.settings.name, %error, "the log cannot be read; it is tried again");
                Unreadable::since(Instant::now())
            }
        };
        if !self.delivery.is_paused() {
            self.progress.enter(Phase::BackingOff, Some(format!("the log cannot be read: {error}")), now_ms());
        }
        if unreadable.is_given_up() {
            tracing::error!(target = self.settings.name, %error, "the log still cannot be read; it is taken for damaged there");
            self.reading.give_up_unreadable(lane);
            self.unreadable[lane as usize] = None;
            return Some(now);
        }
        self.unreadable[lane as usize] = Some(unreadable);
        Some(unreadable.next_try())
    }
}
