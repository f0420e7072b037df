//! Records that were read and are in no batch yet, and which of them make the next one. Pure.
//!
//! One record is one request while the target keeps up. Behind, consecutive records of the same protocol and forwarded headers are merged,
//! up to the limits; a record is never cut for them. What a former life had cut is cut so again: a request that mixes
//! what the target has with what it has not would lose what is new (`V1` receivers take all or nothing).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::savepoint::Cut;
use crate::wal::{Position, Record};

/// What a batch may hold. One record may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Float samples and histograms.
    pub samples: u64,
    /// Bytes as sent.
    pub bytes: u64,
    /// Records.
    pub records: usize,
}

/// Bytes of a batch once decompressed: receivers have limits of 32 MiB and more.
const DECODED_BYTES_MAX: u64 = 16 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    records: VecDeque<Arc<Record>>,
    samples: u64,
    bytes: u64,
    /// Cuts of a former life that are not passed yet, ascending.
    cuts: VecDeque<Cut>,
    /// Up to here a former life may have sent something, nobody knows in which cuts.
    unsure: Position,
}

impl Queue {
    /// What a former life left behind.
    pub fn resume(&mut self, cuts: impl IntoIterator<Item = Cut>, unsure: Position) {
        self.cuts = cuts.into_iter().collect();
        self.unsure = unsure;
    }

    /// A record was read.
    pub fn push(&mut self, record: Arc<Record>) {
        self.samples += record.header.counts.ledger_samples();
        self.bytes += u64::from(record.header.body_len);
        self.records.push_back(record);
    }

    /// Whether more can be made use of: the next batch is not full, or not as long as it was cut.
    #[must_use]
    pub fn has_room(&self, limits: Limits) -> bool {
        if let (Some(first), Some(last)) = (self.records.front(), self.records.back())
            && let Some(cut) = self.cut_of(first.header.position)
            && last.header.position < cut.last
        {
            return true;
        }
        self.samples < limits.samples && self.bytes < limits.bytes && self.records.len() < limits.records
    }

    /// Whether nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The oldest record.
    #[must_use]
    pub fn front(&self) -> Option<&Arc<Record>> {
        self.records.front()
    }

    fn cut_of(&self, position: Position) -> Option<&Cut> {
        self.cuts.iter().find(|cut| cut.first <= position && position <= cut.last)
    }

    /// Whether a former life had cut what comes next.
    #[must_use]
    pub fn is_cut_before(&self) -> bool {
        self.records.front().is_some_and(|first| self.cut_of(first.header.position).is_some())
    }

    /// How many records the next batch has; whether it cannot grow any more. 0 of an empty queue. What `is_apart` and what is not is not merged.
    #[must_use]
    pub fn plan(&self, limits: Limits, is_apart: impl Fn(&Record) -> bool) -> Plan {
        let Some(first) = self.records.front() else { return Plan::default() };
        let position = first.header.position;
        let cut = self.cut_of(position).copied();
        let is_unsure = cut.is_none() && position <= self.unsure;
        let mut plan = Plan {
            is_possibly_delivered: is_unsure || cut.is_some_and(|cut| cut.is_possibly_delivered),
            ..Plan::default()
        };
        let mut decoded = 0;
        for (number, record) in self.records.iter().enumerate() {
            let header = &record.header;
            let samples = plan.samples + header.counts.ledger_samples();
            let bytes = plan.bytes + u64::from(header.body_len);
            decoded += u64::from(header.decoded_len);
            if number > 0 {
                let goes_on = header.position.0 == position.0 + number as u64
                    && header.kind == first.header.kind
                    && record.meta.forwarded == first.meta.forwarded;
                let fits = match &cut {
                    Some(cut) => header.position <= cut.last,
                    None => {
                        samples <= limits.samples
                            && bytes <= limits.bytes
                            && number < limits.records
                            && decoded <= DECODED_BYTES_MAX
                            && !is_unsure
                            && is_apart(record) == is_apart(first)
                            && self.cut_of(header.position).is_none()
                    }
                };
                if !goes_on || !fits {
                    plan.is_full = true;
                    break;
                }
            }
            (plan.records, plan.samples, plan.bytes) = (number + 1, samples, bytes);
        }
        // What was cut before is not cut anew.
        plan.is_full |= cut.is_some() || is_unsure;
        plan.is_full |= plan.samples >= limits.samples || plan.bytes >= limits.bytes || plan.records >= limits.records;
        plan
    }

    /// Takes the records of a plan out.
    pub fn take(&mut self, records: usize) -> Vec<Arc<Record>> {
        let taken: Vec<_> = self.records.drain(..records).collect();
        for record in &taken {
            self.samples -= record.header.counts.ledger_samples();
            self.bytes -= u64::from(record.header.body_len);
        }
        if let Some(last) = taken.last() {
            self.cuts.retain(|cut| cut.last > last.header.position);
        }
        taken
    }

    /// Takes out those that nobody wants any more, wherever they stand. What a former life had cut stays together.
    pub fn take_out(&mut self, is_unwanted: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        if !self.records.iter().any(|record| is_unwanted(record)) {
            return Vec::new();
        }
        let cuts = &self.cuts;
        let is_cut = |position: Position| cuts.iter().any(|cut| cut.first <= position && position <= cut.last);
        let (out, kept): (Vec<_>, Vec<_>) =
            self.records.drain(..).partition(|record| is_unwanted(record) && !is_cut(record.header.position));
        self.records = kept.into();
        for record in &out {
            self.samples -= record.header.counts.ledger_samples();
            self.bytes -= u64::from(record.header.body_len);
        }
        out
    }

    /// They were taken, and nothing came of it.
    pub fn put_back(&mut self, records: Vec<Arc<Record>>) {
        for record in records.into_iter().rev() {
            self.samples += record.header.counts.ledger_samples();
            self.bytes += u64::from(record.header.body_len);
            self.records.push_front(record);
        }
    }

    /// Cuts that are still ahead, with the part of one that was begun: they belong into the savepoint as long as they are not passed.
    pub fn cuts(&self) -> impl Iterator<Item = &Cut> {
        self.cuts.iter()
    }
}

/// The next batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many records.
    pub records: usize,
    /// Float samples and histograms.
    pub samples: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// A former life may have sent it.
    pub is_possibly_delivered: bool,
    /// However many records come, it does not grow.
    pub is_full: bool,
}
