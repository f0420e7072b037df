//! Stored requests as the other protocol writes them: 1.0 for targets that do not know 2.0, and the other way round.
//!
//! ```text
//!                   1.0                               2.0
//!  labels           written out in each series  <-->  references into a table of symbols
//!  samples          value, timestamp            <-->  the same              -->  start timestamp: left out
//!  histograms       exponential                 <-->  the same              -->  start timestamp: left out
//!                   classic series, or nothing  <---  with custom buckets, their ends, their exemplars     (CustomSeries)
//!  exemplars        also in series of their own --->  with a sample of their series, if there is one in the request
//!                                               <---  as they are
//!  metadata         messages, of a family       <-->  of each series        (SentMetadata, KnownMetadata)
//!  unknown fields   left out                          left out: numbers mean other things on the other side
//! ```
//!
//! What cannot be taken along is counted in [`Translated`]. Bytes are copied where both protocols write the same, so floats are never
//! numbers here (`V1-43`, `V2-88`); the series of the result are those of the original in order, and the order of samples is kept
//! (`V1-33`, `V2-81`).
//!
//! What is written is what the two schemas say (`V1-12`, `V2-60`).
//!
//! Everything is pure: state and time are arguments. What is read was accepted by the walk before it was stored; on other bytes nothing
//! panics. A request is written in one pass without an allocation for each series, and a label that the series before had at the same
//! place is not looked at again: most labels are.

mod bound;
mod classic;
mod custom_series;
mod family;
mod known_metadata;
mod sample;
mod sent_metadata;
mod series;
mod to_1;
mod to_2;

#[cfg(test)]
mod tests;

pub use custom_series::{CustomSeries, Taught};
pub use known_metadata::KnownMetadata;
pub use sent_metadata::{INTERVAL as METADATA_INTERVAL, SentMetadata};
pub use to_1::{CustomBuckets, to_1};
pub use to_2::to_2;

use super::selection::Counts;

/// A request in the other protocol, and what did not come along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// Not compressed.
    pub message: Vec<u8>,
    /// Time series in it.
    pub series: u64,
    /// Metadata messages of their own in it (1.0).
    pub metadata: u64,
    /// What its series hold: what a target that writes it all has to confirm.
    pub sent: Counts,
    /// Of each selection, samples of the ledger that are not in it: histograms with custom buckets, and stale markers of them. (One that
    /// was sent on as several series is sent, not dropped.)
    pub dropped: Vec<u64>,
    /// Start timestamps that were left out, of samples, histograms and whole series.
    pub start_timestamps: u64,
    /// Exemplars that were left out.
    pub exemplars: u64,
    /// Exemplars in series of their own are in it (2.0).
    pub has_lone_exemplars: bool,
    /// Series that were left out because they hold nothing (`V2-63`).
    pub empty_series: u64,
    /// Metadata that was left out because it is not UTF-8, or would have made the request too large.
    pub metadata_left_out: u64,
    /// Fields that were left out because they are in no specification.
    pub unknown_fields: u64,
    /// What [`CustomSeries::learn`] is to be told once the target has taken the request, or there is nothing in it to be sent.
    pub taught: Taught,
}

impl Translated {
    /// Whether nothing is left to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series == 0 && self.metadata == 0
    }
}
