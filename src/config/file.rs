//! `config.toml` as it is written. Every field: purpose, default, least value. Nothing is checked here but the kind of a value; an
//! unknown key is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::value::{Count, Size, Span, Text};
use crate::relabel::RelabelConfig;
use crate::target::StartFrom;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where upstreams and people reach the relay.
    #[serde(default)]
    pub server: Server,
    /// The log.
    #[serde(default)]
    pub wal: Wal,
    /// Where data goes; at least one.
    #[serde(default, deserialize_with = "targets")]
    pub target: Vec<Target>,
}

/// With one target it is easy to forget that there may be more.
fn targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Target>, D::Error> {
    tables(deserializer, "each target begins with [[target]], in two pairs of brackets")
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RelabelConfig>, D::Error> {
    tables(deserializer, "each rule begins with [[target.write_relabel_configs]], in two pairs of brackets")
}

/// An array of tables. Who writes one table is told how it is to begin.
fn tables<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    beginning: &'static str,
) -> Result<Vec<T>, D::Error> {
    struct Tables<T>(&'static str, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of tables: {}", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut tables = Vec::new();
            while let Some(table) = seq.next_element()? {
                tables.push(table);
            }
            Ok(tables)
        }

        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Vec<T>, A::Error> {
            Err(de::Error::custom(self.0))
        }
    }

    deserializer.deserialize_any(Tables(beginning, PhantomData))
}

/// `[server]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on. Default: `"127.0.0.1:9201"`.
    pub listen: Option<Text>,
    /// The most bytes that a request's body may have, as sent. Default: `"32MiB"` (the limit of Prometheus itself), less where
    /// a segment is smaller. Minimum: `"64KiB"`.
    pub max_body: Option<Size>,
    /// The most bytes that a body may have once decompressed. Default: `"32MiB"`. Minimum: `"64KiB"`.
    pub max_decoded: Option<Size>,
    /// The most bytes of requests that are worked on at a time; beyond it upstreams get 503. Default: `max_body` and `max_decoded` together,
    /// which is also the minimum.
    pub max_in_flight_bytes: Option<Size>,
    /// The most series of a request; more is 413. Default: no limit. Minimum: 1.
    pub max_series: Option<Count>,
    /// The most symbols of a 2.0 request; more is 413. Default: no limit but that of 1048576, which is also the maximum. Minimum: 1.
    pub max_symbols: Option<Count>,
    /// The most labels of a series; one with more is rejected, the others of its request are stored. Default: no limit but that of 10000,
    /// which is also the maximum. Minimum: 1.
    pub max_labels: Option<Count>,
    /// The most bytes of a label's name, likewise. Default: no limit. Minimum: `"8B"`, for `__name__`.
    pub max_label_name_bytes: Option<Size>,
    /// The most bytes of a label's value, likewise; the metric's name is one. Default: no limit. Minimum: `"1B"`.
    pub max_label_value_bytes: Option<Size>,
    /// The most connections; more wait. Default: 1024.
    pub max_connections: Option<Count>,
    /// How long a request's head may take, and a connection may stay without a request. Default: `"90s"`, which is longer than
    /// Prometheus is ever silent (it sends metadata every minute). Minimum: `"1s"`.
    pub read_timeout: Option<Span>,
    /// Headers of requests that are stored and sent on, `["X-Scope-OrgID"]` for example. Default: none.
    #[serde(default)]
    pub forward_headers: Vec<Text>,
    /// Whether whoever reaches `listen` may change things: seek and forget targets, resend and drop what they refused. Default: `false`.
    #[serde(default)]
    pub admin: bool,
}

/// `[wal]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wal {
    /// The log's directory, created if it is not there. Default: `"data"`.
    pub dir: Option<Text>,
    /// When a request is acknowledged: `"always"` after it is synced to disk; a duration, such as `"100ms"`, after it is written, with a sync
    /// at such intervals (a power cut takes what came in between); `"never"` after it is written (a power cut takes what the
    /// system had not written by itself). Default: `"always"`.
    pub sync: Option<Text>,
    /// The most bytes on disk, everything counted. Default: `"10GiB"`. Minimum: `"8MiB"`.
    pub max_size: Option<Size>,
    /// Bytes of one segment file. Default: `"128MiB"`, or an eighth of `max_size` if that is less. Minimum: `"1MiB"`. Maximum: an
    /// eighth of `max_size`.
    pub segment_size: Option<Size>,
    /// Bytes of the filesystem that are left to others: with less than this and a segment free, the log counts as full. Default: `"0B"`.
    pub min_free: Option<Size>,
    /// How long data is kept that every target has settled, so that a target can be sent it again. Given up first when the log is full.
    /// Default: `"0s"`.
    pub retain: Option<Span>,
    /// What happens when the log is full of what targets are owed: `"auto"`, `"reject"` or `"drop_oldest"`. Default: `"auto"`.
    #[serde(default)]
    pub when_full: WhenFull,
    /// What a start makes of a damaged log: `"tolerate"` goes on with what can be read and reports the rest, `"strict"` ends with an error
    /// and changes nothing. Default: `"tolerate"`.
    #[serde(default)]
    pub recovery: Recovery,
    /// Whether segments are filled with zeroes ahead of their use, which makes syncs faster on some disks and writes every byte twice:
    /// `"never"`, `"auto"` (where a measurement at the start shows that it pays) or `"always"`. Default: `"never"`.
    #[serde(default)]
    pub prefill: Prefill,
    /// Bytes for what targets refuse for good, until somebody has looked at it; they count within `max_size`. `"0B"`: it is only counted
    /// and logged. Default: `"64MiB"`, or a sixteenth of `max_size` if that is less, which is also the maximum. Minimum: `"64KiB"`.
    pub dead_letter_size: Option<Size>,
}

/// `[[target]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What the target is called in logs and metrics, and what its savepoint is kept under: letters, digits, `_`, `.` and `-`. Rename it and
    /// it is another target.
    pub name: Text,
    /// Where requests go: the whole URL, nothing is appended. May change at any time.
    pub url: Text,
    /// For a whole exchange. Default: `"30s"`. Minimum: `"1ms"`.
    pub remote_timeout: Option<Span>,
    /// Headers that are sent with every request.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// The wait after the first failure; it doubles with each. Default: `"30ms"`.
    pub min_backoff: Option<Span>,
    /// The longest wait, unless the target asks for a longer one. Default: `"5s"`.
    pub max_backoff: Option<Span>,
    /// The longest wait that a target may ask for by `Retry-After`. Default: `"5m"`.
    pub retry_after_max: Option<Span>,
    /// Where a new name starts: `"oldest"` or `"now"`. Default: `"now"` when the log already holds data, else `"oldest"`, which is
    /// then the same.
    pub start_from: Option<StartFrom>,
    /// Whether a full log waits for this target. What others are owed goes first. Default: `true`.
    pub required: Option<bool>,
    /// The most requests at a time. Default: 8. From 1 to 30.
    pub max_in_flight: Option<Count>,
    /// The most samples of a request that is merged from several. Default: 20000. Minimum: 1.
    pub max_samples_per_send: Option<Count>,
    /// The most bytes of a request that is merged from several. Default: `"1MiB"`. Minimum: `"1KiB"`.
    pub max_bytes_per_send: Option<Size>,
    /// The most samples per second. Default: no limit. Minimum: 1.
    pub max_samples_per_second: Option<Count>,
    /// The most bytes per second. Default: no limit. Minimum: `"1KiB"`.
    pub max_bytes_per_second: Option<Size>,
    /// How long everything is refused before records are sent one by one. Default: `"5m"`.
    pub suspect_after: Option<Span>,
    /// How long something fails, while other requests are taken, before it is given up. Default: `"10m"`.
    pub poison_after: Option<Span>,
    /// Samples older than this are not sent any more, counted as expired. Default: no limit. Minimum: `"1s"`.
    pub sample_age_limit: Option<Span>,
    /// What a target that is behind is sent first: `"fifo"` the oldest, `"fresh_first"` what is new, with the backlog beside it. Default: `"fifo"`.
    #[serde(default)]
    pub order: Order,
    /// With `order = "fresh_first"`: the backlog's part of the requests, 0 to 1. Default: 0.5.
    pub backlog_share: Option<f64>,
    /// In which version of remote write data is sent: `"auto"` as it was received, translated where the target does not take that; `"1.0"` or
    /// `"2.0"` always in that one (`V2-58`). Default: `"auto"`.
    pub protocol: Option<Text>,
    /// What becomes of histograms with custom buckets where data is sent in 1.0, which has no place for them: `"drop"` leaves them out, counted as
    /// dropped; `"classic"` sends each as the classic series that it stands for. Their stale markers and exemplars go the same way. Default: `"drop"`.
    #[serde(default)]
    pub custom_buckets: CustomBuckets,
    /// Labels that every series gets that does not have them, before `write_relabel_configs`. Default: none.
    #[serde(default)]
    pub external_labels: BTreeMap<String, Text>,
    /// What of which series is sent, with Prometheus' keys and meaning. Default: everything as it is.
    #[serde(default, deserialize_with = "rules")]
    pub write_relabel_configs: Vec<RelabelConfig>,
}

/// `target.custom_buckets`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the key says it")]
pub enum CustomBuckets {
    #[default]
    Drop,
    Classic,
}

/// `target.order`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the key says it")]
pub enum Order {
    #[default]
    Fifo,
    FreshFirst,
}

/// `wal.when_full`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the key says it")]
pub enum WhenFull {
    #[default]
    Auto,
    Reject,
    DropOldest,
}

/// `wal.recovery`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the key says it")]
pub enum Recovery {
    #[default]
    Tolerate,
    Strict,
}

/// `wal.prefill`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the key says it")]
pub enum Prefill {
    #[default]
    Never,
    Auto,
    Always,
}
