//! A batch under way: what is known of it beyond its pieces.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::super::batch::{Batch, Chosen, Part};
use super::super::culprits::Suspect;
use super::super::outgoing::Outgoing;
use super::super::window::BatchId;
use super::words::{AttemptId, Lane, Refused, Said};
use crate::wal::record::Kind;

#[derive(Debug)]
pub(super) struct Active {
    pub lane: Lane,
    pub batch: Batch,
    /// The record whose protocol and headers the others have, or of which nothing is left: those go with any.
    lead: Arc<Outgoing>,
    pub kind: Kind,
    /// A number that is equal for equal forwarded headers; 0 for none.
    pub headers: u64,
    /// For the window, once it was needed.
    pub series: Option<Option<Vec<u64>>>,
    pub waits_for: BTreeSet<BatchId>,
    pub flight: Option<AttemptId>,
    /// Its cut must survive a crash.
    pub keeps_cut: bool,
    pub was_attempted: bool,
    /// Whether the target takes 2.0 was asked because of it, and the answer says nothing.
    pub was_asked_for_protocol: bool,
    /// It fails while others pass.
    pub is_isolated: bool,
    pub not_before: Option<Instant>,
    pub last_failed: Option<Instant>,
    pub refusals: Refusals,
}

/// What was refused of a batch, and what is thought of that.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When the first of it was refused, while nothing of it is accepted.
    pub refused_at: Option<Instant>,
    /// What was refused of it and is not believed yet.
    pub refused: Vec<Refused>,
    /// All of it was refused, or piece after piece, and nobody knows whether that is to be believed.
    pub is_in_doubt: bool,
    /// When something of it was last given up as refused.
    pub given_up_at: Option<Instant>,
    /// Records of it of which something was given up that nobody knew, without a search down to its series.
    pub unsearched: BTreeSet<usize>,
    /// Something of it was given up that nobody expected to be refused: its sender is not hopeless, and it is no culprit.
    pub is_unexpected: bool,
    /// What the target last said when it refused something of it.
    pub said: Option<Said>,
    /// Culprits found in it.
    pub culprits: BTreeSet<Suspect>,
    /// What was refused before, and something of it was taken in this batch.
    pub taken: BTreeSet<Suspect>,
}

impl Active {
    pub fn new(lane: Lane, records: Vec<Arc<Outgoing>>, is_possibly_delivered: bool) -> Active {
        let lead = records.iter().find(|record| !record.is_empty()).or(records.first());
        let lead = lead.expect("a batch has a record").clone();
        Active {
            lane,
            kind: lead.header.kind,
            headers: headers_of(&lead.meta.forwarded),
            lead,
            batch: Batch::new(records, is_possibly_delivered),
            series: None,
            waits_for: BTreeSet::new(),
            flight: None,
            keeps_cut: is_possibly_delivered,
            was_attempted: false,
            was_asked_for_protocol: false,
            is_isolated: false,
            not_before: None,
            refusals: Refusals::default(),
            last_failed: None,
        }
    }
}

impl Active {
    /// Headers that came with the data.
    pub fn forwarded(&self) -> &Vec<(String, Vec<u8>)> {
        &self.lead.meta.forwarded
    }
}

pub(super) fn parts_of(batch: &Batch, parts: &[Part]) -> Vec<(Arc<Outgoing>, Chosen)> {
    parts.iter().map(|part| (batch.record(part.record).clone(), part.chosen.clone())).collect()
}

/// The same, to be kept: without records of which nothing is left, which may be of other headers.
pub(super) fn kept_parts_of(batch: &Batch, parts: &[Part]) -> Vec<(Arc<Outgoing>, Chosen)> {
    parts_of(batch, parts).into_iter().filter(|(record, _)| !record.is_empty()).collect()
}

/// A number that is equal for equal forwarded headers; 0 for none.
pub(in crate::target) fn headers_of(forwarded: &[(String, Vec<u8>)]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if forwarded.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    forwarded.hash(&mut hasher);
    hasher.finish() | 1
}

/// A series of one tenant is not that of another.
pub(super) fn keyed(series: Option<Vec<u64>>, headers: u64) -> Option<Vec<u64>> {
    series.map(|series| series.into_iter().map(|series| series ^ headers).collect())
}
