//! What a batch knows of its records' entries, and a choice of them.

use std::ops::Range;
use std::sync::Arc;

use super::super::outgoing::Outgoing;

/// What is to be known of one entry of a request: one time series message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFacts {
    /// The identity of its series: equal label sets have equal ones.
    pub series: u64,
    /// Float samples.
    pub samples: u32,
    /// Native histograms.
    pub histograms: u32,
}

impl EntryFacts {
    /// It has a sample or histogram; else most likely an exemplar.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.samples + self.histograms > 0
    }
}

/// All entries of a record, in order. `None` where the bytes tell nothing: then it is never taken apart, and nothing goes beside it.
pub type Entries = Option<Arc<[EntryFacts]>>;

/// Looks into records; asked only where it must be known.
pub trait Contents {
    /// The entries of a record.
    fn entries(&self, record: &Outgoing) -> Entries;
}

/// Float samples and histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Float samples.
    pub floats: u64,
    /// Native histograms.
    pub histograms: u64,
}

impl Samples {
    /// As the ledger counts.
    #[must_use]
    pub fn all(self) -> u64 {
        self.floats + self.histograms
    }
}

/// Which entries of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The request as it was stored.
    All,
    /// Consecutive ones.
    Range(Range<u32>),
    /// Some of these, ascending.
    Listed(Arc<[u32]>, Range<usize>),
}

impl Chosen {
    /// All of these, which ascend.
    pub(super) fn listed(numbers: Vec<u32>) -> Chosen {
        let len = numbers.len();
        Chosen::Listed(numbers.into(), 0..len)
    }
}

/// Some of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which record of the batch.
    pub record: usize,
    /// What of it.
    pub chosen: Chosen,
}

impl Part {
    /// How many entries, where the record has `all`.
    pub(super) fn len(&self, all: usize) -> usize {
        match &self.chosen {
            Chosen::All => all,
            Chosen::Range(range) => range.len(),
            Chosen::Listed(_, range) => range.len(),
        }
    }

    /// The first `at` entries, and the others.
    pub(super) fn split(&self, at: usize, all: usize) -> (Part, Part) {
        let (left, right) = match &self.chosen {
            Chosen::All => {
                let (at, all) = (entry_number(at), entry_number(all));
                (Chosen::Range(0..at), Chosen::Range(at..all))
            }
            Chosen::Range(range) => {
                let middle = range.start + entry_number(at);
                (Chosen::Range(range.start..middle), Chosen::Range(middle..range.end))
            }
            Chosen::Listed(list, range) => {
                let middle = range.start + at;
                (Chosen::Listed(list.clone(), range.start..middle), Chosen::Listed(list.clone(), middle..range.end))
            }
        };
        (Part { record: self.record, chosen: left }, Part { record: self.record, chosen: right })
    }

    /// The numbers of its entries.
    pub fn numbers(&self, all: usize) -> Vec<u32> {
        match &self.chosen {
            Chosen::All => (0..entry_number(all)).collect(),
            Chosen::Range(range) => range.clone().collect(),
            Chosen::Listed(list, range) => list[range.clone()].to_vec(),
        }
    }
}

/// A request has fewer entries than that: its bytes have an end.
fn entry_number(number: usize) -> u32 {
    u32::try_from(number).expect("a request has less than 4 GiB")
}
