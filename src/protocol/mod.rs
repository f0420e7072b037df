//! Remote write 1.0 and 2.0 as bytes: one zero-copy walk that counts and checks, without building messages.
//!
//! ```text
//!  decompressed body ---> v1::walk | v2::walk ---> Summary: counts, timestamps, offences
//!                              |                      or Malformed: where the bytes stop making sense
//!                              |--- wire       the fields of a protobuf message
//!                              |--- labels     the rules for a series' labels; 1.0 remembers valid ones by their hash
//!                              '--- histogram  the rules for a native histogram
//!
//!  not as it may be sent on ---> canonical   the valid series, labels sorted, by way of
//!                                   '--- rewrite   each series kept, dropped, or with other labels
//!
//!  stored body ---> snappy    merged as it is (1.0), or decompressed
//!                     |--- entries   one by one: which series, how much
//!                     |--- describe  a series as people read it
//!                     |--- selection which entries of which requests
//!                     |--- rebuild   a request of these; in 2.0 with a new table of `symbols`, to which references are changed (`renumber`), and with
//!                     |              each of the `exemplars` beside a sample of its series
//!                     '--- translate the same in the other protocol
//! ```
//!
//! The walk checks what a receiver downstream would stumble over, so that nothing malformed ever becomes a target's poison. Values
//! are never looked at as numbers where their bits matter: a stale marker is a signalling NaN (`V1-43`, `V2-88`), and is passed on as any
//! other value; none is made up (`V1-42`, `V2-87`).
//!
//! [`messages`] are the same protocols by prost: the judge in tests and the comfort of tools, never on the hot path.
//!
//! This module imports nothing of the crate, and everything in it is pure.

pub mod canonical;
pub mod describe;
pub mod entries;
pub mod exemplars;
pub mod histogram;
pub mod labels;
pub mod messages;
pub mod rebuild;
mod renumber;
pub mod rewrite;
pub mod selection;
pub mod snappy;
pub mod symbols;
pub mod text;
pub mod translate;
pub mod v1;
pub mod v2;
pub mod wire;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod tests;

use std::fmt;

pub use labels::SeenLabels;
use text::Quoted;
pub use wire::Malformed;

/// Which remote write protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `prometheus.WriteRequest`.
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

impl Protocol {
    /// As in configuration, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::V1 => "1.0",
            Protocol::V2 => "2.0",
        }
    }

    /// The exact bytes of `Content-Type` (`V1-06`, `V2-17`): no space after the semicolon, or Prometheus takes it for 1.0 and
    /// stores nothing. (`V2-02`, `V2-14`, `V2-15`, `V2-16`, `V2-18`.)
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Protocol::V1 => "application/x-protobuf",
            Protocol::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    /// The value of `X-Prometheus-Remote-Write-Version` (`V1-08`, `V1-16`, `V2-21`, `V2-22`).
    #[must_use]
    pub fn version_header(self) -> &'static str {
        match self {
            Protocol::V1 => "0.1.0",
            Protocol::V2 => "2.0.0",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a well-formed request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Time series entries.
    pub series: u32,
    /// Float samples.
    pub samples: u32,
    /// Native histograms.
    pub histograms: u32,
    /// Exemplars.
    pub exemplars: u32,
    /// Metadata messages of their own (1.0).
    pub metadata: u32,
    /// Smallest timestamp of samples and histograms, ms; `i64::MAX` if there is none.
    pub timestamp_min: i64,
    /// Largest timestamp, ms; `i64::MIN` if there is none.
    pub timestamp_max: i64,
    /// Symbols (2.0).
    pub symbols: u32,
    /// The valid series may be sent on as they are. If not, some have labels out of order or with empty values, or the table of symbols is
    /// not in order: legal to receive, not to send (`V1-22`, `V1-23`, `V2-69`).
    pub is_canonical: bool,
    /// Some series has exemplars and nothing else (2.0).
    pub has_lone_exemplars: bool,
    /// What no receiver can take.
    pub offences: Offences,
}

impl Default for Summary {
    fn default() -> Summary {
        Summary {
            series: 0,
            samples: 0,
            histograms: 0,
            exemplars: 0,
            metadata: 0,
            timestamp_min: i64::MAX,
            timestamp_max: i64::MIN,
            symbols: 0,
            is_canonical: true,
            has_lone_exemplars: false,
            offences: Offences::default(),
        }
    }
}

impl Summary {
    /// What the three `*-Written` headers of 2.0 say, in their order: samples, histograms, exemplars.
    #[must_use]
    pub fn written(&self) -> [u32; 3] {
        [self.samples, self.histograms, self.exemplars]
    }

    /// Samples of both kinds.
    #[must_use]
    pub fn all_samples(&self) -> u64 {
        u64::from(self.samples) + u64::from(self.histograms)
    }

    fn timestamp(&mut self, ms: i64) {
        self.timestamp_min = self.timestamp_min.min(ms);
        self.timestamp_max = self.timestamp_max.max(ms);
    }
}

/// The invalid series of a request: which, and the first few for the answer's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offences {
    count: u32,
    /// A bit for each series up to the last invalid one: a request can hold millions of them.
    bits: Vec<u64>,
    first: Vec<Offender>,
}

/// One invalid series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offender {
    index: u32,
    offence: Offence,
    /// As far as it can be read.
    description: Option<String>,
}

impl Offences {
    /// How many are kept for the text.
    const KEPT_MAX: usize = 3;
    /// Bytes of a series' description.
    const DESCRIPTION_LEN_MAX: usize = 150;

    fn add(&mut self, index: u32, offence: Offence) {
        self.count += 1;
        let word = index as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (index % 64);
        // They may be found out of order.
        let place = self.first.partition_point(|earlier| earlier.index < index);
        if place < Offences::KEPT_MAX {
            self.first.insert(place, Offender { index, offence, description: None });
            self.first.truncate(Offences::KEPT_MAX);
        }
    }

    /// Invalid series.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the series with this number, counted from 0, is invalid.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.bits.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// From now on the first ones are shown with their labels, as found in the request.
    pub fn describe(&mut self, protocol: Protocol, message: &[u8]) {
        for offender in &mut self.first {
            let len_max = Offences::DESCRIPTION_LEN_MAX;
            offender.description = describe::describe_readable(protocol, message, offender.index as usize, len_max);
        }
    }

    /// The first one: which, and why.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        self.first.first().map(ToString::to_string)
    }
}

/// `2 invalid series: series 0, {job="x"}: no metric name (__name__); series 7, up{}: label name "job" twice`
impl fmt::Display for Offences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} invalid series: ", self.count)?;
        for (n, offender) in self.first.iter().enumerate() {
            let separator = if n > 0 { "; " } else { "" };
            write!(f, "{separator}{offender}")?;
        }
        if self.count as usize > self.first.len() {
            write!(f, "; and {} more", self.count as usize - self.first.len())?;
        }
        Ok(())
    }
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "series {}", self.index)?;
        if let Some(description) = &self.description {
            write!(f, ", {description}")?;
        }
        write!(f, ": {}", self.offence)
    }
}

/// Why a series is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Offence {
    #[error("no metric name (__name__)")]
    NoMetricName,
    #[error("a label without a name")]
    EmptyLabelName,
    #[error("label name {} twice", Quoted(.name))]
    DuplicateLabelName { name: String },
    #[error("a name, value or other text is not UTF-8")]
    NotUtf8,
    #[error("more than {limit} labels")]
    TooManyLabels { limit: usize },
    #[error("{labels} labels, the limit is {limit} (server.max_labels)")]
    OverLabelLimit { labels: usize, limit: usize },
    #[error("label name {} has {len} bytes, the limit is {limit} (server.max_label_name_bytes)", Quoted(.name))]
    LabelNameTooLong { name: String, len: usize, limit: usize },
    #[error("the value of label {} has {len} bytes, the limit is {limit} (server.max_label_value_bytes)", Quoted(.name))]
    LabelValueTooLong { name: String, len: usize, limit: usize },
    #[error("{}", entries::ODD_REFERENCES)]
    OddReferences,
    #[error("symbol reference {reference} in a table of {symbols} symbols")]
    ReferenceOutOfRange { reference: u32, symbols: u32 },
    #[error("samples and histograms in one time series")]
    SamplesAndHistograms,
    #[error("histogram at {timestamp}: {problem}")]
    Histogram { timestamp: i64, problem: histogram::Problem },
}
