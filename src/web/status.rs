//! `GET /api/v1/status`: names and shapes that others rely on.

use std::collections::BTreeMap;

use serde::Serialize;

/// Everything, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Of promrelay.
    pub version: &'static str,
    /// Whether requests are taken.
    pub ready: bool,
    /// The log.
    pub wal: Wal,
    /// The targets in the order of the configuration, then orphans.
    pub targets: Vec<Target>,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wal {
    /// The oldest position that may still be in it.
    pub oldest: u64,
    /// The newest position that a sync covered; 0 is none. (With `sync = "never"` none since the start.)
    pub durable: u64,
    /// On disk, everything counted.
    pub bytes: u64,
    /// The limit of `bytes`.
    pub max_bytes: u64,
    /// How long until something must be given up, or upstreams be turned away, if things go on as in the last minutes; null: never.
    pub full_in_seconds: Option<u64>,
    /// Oldest first.
    pub segments: Vec<Segment>,
    /// What the last start found.
    pub recovery: Recovery,
    /// What is wrong with it.
    pub damage: Damage,
}

/// What a start cost and cut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// How long it took to know what is in the log.
    pub seconds: f64,
    /// Segments without a seal.
    pub scanned_segments: usize,
    /// Cut; never acknowledged, if `sync` is `"always"`.
    pub torn_bytes: u64,
}

/// What was found wrong with the log since the start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Damage {
    /// How many things.
    pub count: u64,
    /// Records that are gone.
    pub records: u64,
    /// Samples that are gone; each target counts as lost what of it it was owed.
    pub samples: u64,
    /// Bytes that are not what they were.
    pub bytes: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// Something that was found wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `damage`, `missing`, `unusable`, `unreadable` or `repaired`.
    pub kind: &'static str,
    /// In which file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub bytes: u64,
    /// The first position that is gone; null when none is, or nobody can tell.
    pub first: Option<u64>,
    /// The last position that is gone.
    pub last: Option<u64>,
    /// How many records that are.
    pub records: u64,
    /// Their samples.
    pub samples: u64,
    /// What happened.
    pub reason: String,
    /// When it was found.
    pub found: String,
    /// Where the bytes are kept.
    pub kept: Option<String>,
}

/// A segment. Without records, `last` is before `first`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Segment {
    pub id: u64,
    pub first: u64,
    pub last: u64,
    pub bytes: u64,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Without user info; empty for an orphan.
    pub url: String,
    /// Whether the log waits for it when it is full.
    pub required: bool,
    /// What it is doing.
    pub state: &'static str,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: String,
    /// Of the last answer.
    pub last_status: Option<u16>,
    /// Everything up to this position is settled.
    pub settled: u64,
    /// Age of the oldest record that it is owed.
    pub lag_seconds: f64,
    /// What it is owed.
    pub pending: Pending,
    /// Samples that come in for it, per second of the last minute.
    pub arrival_samples_per_second: f64,
    /// Samples that are delivered, refused, filtered or expired, per second of the last minute.
    pub drain_samples_per_second: f64,
    /// Until nothing is pending, if these rates stay; 0: nothing is now; null: never.
    pub catches_up_in_seconds: Option<u64>,
    /// Requests that are not answered yet.
    pub in_flight: usize,
    /// How many there may be now: at most `max_in_flight`, less when the target is slow or in trouble.
    pub max_in_flight_now: usize,
    /// Failed attempts in a row.
    pub failures: u32,
    /// What the target's 429s have taught; null: nothing.
    pub rate_limit_samples_per_second: Option<f64>,
    /// Requests that fail again and again while others are taken.
    pub isolated_requests: usize,
    /// Whether it takes remote write `"1.0"` and `"2.0"`, as its answers have shown; null: nothing has shown it yet.
    pub takes: BTreeMap<&'static str, Option<bool>>,
    /// What became of all samples so far.
    pub samples: Samples,
    /// The refused ones by reason; each is there.
    pub refused_by: BTreeMap<&'static str, u64>,
}

/// What a target is owed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Pending {
    pub records: u64,
    pub samples: u64,
    pub bytes: u64,
}

/// Float samples and histograms: `accepted` is the sum of all others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Samples {
    pub accepted: u64,
    pub delivered: u64,
    pub refused: u64,
    pub filtered: u64,
    pub expired: u64,
    pub dropped: u64,
    pub lost: u64,
    pub pending: u64,
}
