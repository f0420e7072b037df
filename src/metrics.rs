//! Every metric, declared once: name, unit, help, labels. All series exist from the start.
//!
//! The parts that work get handles ([`ReceiveMetrics`], [`TargetMetrics`], [`WalMetrics`]); they know neither names nor the exporter.
//! What is a state and not an event (ledgers, sizes, lags) is written just before a scrape, all of it from one snapshot, so that
//! `accepted = delivered + refused + filtered + expired + dropped + lost + pending` holds inside every scrape.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The statuses that a receiver of ours answers with, as label values.
pub const RECEIVE_CODES: [u16; 6] = [204, 400, 405, 413, 415, 503];
/// The protocols of `promrelay_receive_*`; `none` where the request did not get as far as telling.
pub const RECEIVE_PROTOCOLS: [&str; 3] = ["1.0", "2.0", "none"];
/// The label values of `promrelay_target_requests_total{code}`: statuses often met by themselves, others by their class, and two for
/// attempts without an answer. A small fixed set, whatever a target answers.
pub const TARGET_CODES: [&str; 25] = [
    "200",
    "202",
    "204",
    "301",
    "302",
    "307",
    "308",
    "400",
    "401",
    "403",
    "404",
    "408",
    "409",
    "413",
    "415",
    "422",
    "429",
    "500",
    "502",
    "503",
    "504",
    "timeout",
    "connection",
    "other_2xx_3xx",
    "other_4xx_5xx",
];

/// The outcomes of `promrelay_target_samples_total{outcome}`.
pub const OUTCOMES: [&str; 7] = ["accepted", "delivered", "refused", "filtered", "expired", "dropped", "lost"];

/// The label values of `promrelay_target_untranslated_total{what}`: what has no place in a request that is written anew for a target.
pub const UNTRANSLATED: [&str; 3] = ["exemplar", "start_timestamp", "custom_buckets"];

/// Makes handles, and renders all metrics.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Of targets that are not there any more, as it stands in their series. The exporter forgets nothing by itself.
    forgotten: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

const WHO: Metadata<'static> = Metadata::new("promrelay", Level::INFO, None);

impl Registry {
    /// With nothing in it but the build's version.
    ///
    /// # Panics
    /// Never: the buckets are not empty.
    #[must_use]
    pub fn new() -> Registry {
        // One sync takes 0.05 ms on a disk with a protected cache, 15 ms on one that turns, and much more when something is wrong.
        const SYNC_SECONDS: [f64; 14] =
            [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("promrelay_wal_sync_seconds".into()), &SYNC_SECONDS)
            .expect("there are buckets")
            .build_recorder();
        let registry = Registry { handle: recorder.handle(), recorder, forgotten: Mutex::default() };
        registry.describe();
        registry.gauge("promrelay_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        registry
    }

    fn describe(&self) {
        let counter = |name: &'static str, unit, help: &'static str| {
            self.recorder.describe_counter(name.into(), unit, help.into());
        };
        let gauge = |name: &'static str, unit, help: &'static str| {
            self.recorder.describe_gauge(name.into(), unit, help.into());
        };
        counter("promrelay_receive_requests_total", None, "Requests from upstreams, by protocol and answer.");
        counter("promrelay_receive_samples_total", None, "Samples (floats and histograms) acknowledged to upstreams.");
        counter("promrelay_receive_invalid_series_total", None, "Series rejected because no receiver can take them.");
        counter("promrelay_receive_invalid_samples_total", None, "Samples (floats and histograms) in these series.");
        counter(
            "promrelay_receive_rewritten_requests_total",
            None,
            "Requests that were not stored as they came: something was invalid, labels not sorted or without a value.",
        );
        counter(
            "promrelay_receive_repeated_requests_total",
            None,
            "Requests that were in the log already and only acknowledged again.",
        );
        gauge("promrelay_receive_in_flight_bytes", Some(Unit::Bytes), "Bytes of requests being worked on.");
        gauge("promrelay_wal_bytes", Some(Unit::Bytes), "Bytes of the log on disk, everything counted.");
        gauge("promrelay_wal_max_bytes", Some(Unit::Bytes), "The limit of promrelay_wal_bytes.");
        gauge("promrelay_wal_position", None, "The newest readable record.");
        gauge(
            "promrelay_wal_full_in_seconds",
            Some(Unit::Seconds),
            "Until something must be given up or upstreams be turned away, if things go on as in the last minutes.",
        );
        counter("promrelay_wal_findings_total", None, "Things found wrong with the log, at the start and since.");
        counter("promrelay_wal_damaged_records_total", None, "Acknowledged records found damaged or missing.");
        counter(
            "promrelay_wal_damaged_samples_total",
            None,
            "Samples of acknowledged records found damaged or missing.",
        );
        counter("promrelay_wal_damaged_bytes_total", Some(Unit::Bytes), "Bytes of the log found damaged.");
        gauge(
            "promrelay_wal_torn_bytes",
            Some(Unit::Bytes),
            "Bytes that the last start has cut off; never acknowledged if wal.sync is \"always\".",
        );
        gauge("promrelay_wal_recovery_seconds", Some(Unit::Seconds), "How long the last start took to know the log.");
        gauge("promrelay_dead_letter_entries", None, "Refusals that are kept in the dead-letter ring.");
        gauge(
            "promrelay_dead_letter_bytes",
            Some(Unit::Bytes),
            "Bytes of the refusals that are kept in the dead-letter ring.",
        );
        counter(
            "promrelay_dead_letter_overwritten_total",
            None,
            "Kept refusals that newer ones have taken the place of, since the start.",
        );
        gauge("promrelay_ready", None, "1 while the log takes records.");
        counter("promrelay_wal_synced_records_total", None, "Records made durable.");
        self.recorder.describe_histogram(
            "promrelay_wal_sync_seconds".into(),
            Some(Unit::Seconds),
            "How long a sync of the log took.".into(),
        );
        counter(
            "promrelay_target_samples_total",
            None,
            "Samples by what became of them; with the pending ones they add up to accepted.",
        );
        gauge("promrelay_target_pending_samples", None, "Samples in the log that the target is still owed.");
        gauge("promrelay_target_pending_bytes", Some(Unit::Bytes), "Bytes in the log that the target is still owed.");
        counter("promrelay_target_refused_samples_total", None, "Refused samples by reason.");
        gauge("promrelay_target_state", None, "1 for the state that the target is in.");
        gauge(
            "promrelay_target_lag_seconds",
            Some(Unit::Seconds),
            "Age of the oldest record that the target is still owed; 0 when there is none.",
        );
        counter("promrelay_target_requests_total", None, "Attempts to send a request, by answer.");
        counter(
            "promrelay_target_untranslated_total",
            None,
            "What the target was not sent because it has no place in the protocol.",
        );
        gauge("promrelay_target_in_flight_requests", None, "Requests that are not answered yet.");
        gauge("promrelay_target_window_requests", None, "How many requests may be in flight now.");
        gauge("promrelay_target_isolated_requests", None, "Requests that fail again and again while others are taken.");
        gauge(
            "promrelay_target_arrival_samples_per_second",
            None,
            "Samples that came in for the target, over the last minute.",
        );
        gauge(
            "promrelay_target_drain_samples_per_second",
            None,
            "Samples that were delivered, refused, filtered or expired, over the last minute.",
        );
        gauge(
            "promrelay_target_catch_up_seconds",
            Some(Unit::Seconds),
            "Until nothing is pending if both rates stay as they are; +Inf is never.",
        );
        gauge(
            "promrelay_target_rate_limit_samples_per_second",
            None,
            "The limit that the target's 429s have taught; +Inf is none.",
        );
        gauge("promrelay_build_info", None, "The version, as a label.");
    }

    fn key(name: &'static str, labels: &[(&'static str, &str)]) -> metrics::Key {
        let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        metrics::Key::from_parts(name, labels)
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        let counter = self.recorder.register_counter(&Self::key(name, labels), &WHO);
        // The series exists from now on.
        counter.increment(0);
        counter
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        let gauge = self.recorder.register_gauge(&Self::key(name, labels), &WHO);
        gauge.set(0.0);
        gauge
    }

    /// The text of a scrape.
    #[must_use]
    pub fn render(&self) -> String {
        let text = self.handle.render();
        let forgotten = self.forgotten.lock().expect("no holder of this lock panics");
        if forgotten.is_empty() {
            return text;
        }
        let is_there = |line: &&str| !forgotten.iter().any(|label| line.contains(label));
        text.split_inclusive('\n').filter(is_there).collect()
    }

    /// From now on nothing is told of a target.
    pub fn forget_target(&self, name: &str) {
        let label = format!("{{target=\"{name}\"");
        self.forgotten.lock().expect("no holder of this lock panics").push(label);
    }

    /// Must be called now and then, whether anybody scrapes or not: observations of histograms pile up in memory until then.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The receiver's.
    #[must_use]
    pub fn receive(&self) -> ReceiveMetrics {
        ReceiveMetrics {
            requests: RECEIVE_PROTOCOLS
                .iter()
                .flat_map(|protocol| RECEIVE_CODES.map(|code| (*protocol, code)))
                .map(|(protocol, code)| {
                    let labels = [("protocol", protocol), ("code", &*code.to_string())];
                    ((protocol, code), self.counter("promrelay_receive_requests_total", &labels))
                })
                .collect(),
            samples: self.by_protocol("promrelay_receive_samples_total"),
            invalid_series: self.by_protocol("promrelay_receive_invalid_series_total"),
            invalid_samples: self.by_protocol("promrelay_receive_invalid_samples_total"),
            rewritten: self.by_protocol("promrelay_receive_rewritten_requests_total"),
            repeated: self.counter("promrelay_receive_repeated_requests_total", &[]),
        }
    }

    fn by_protocol(&self, name: &'static str) -> BTreeMap<&'static str, Counter> {
        ["1.0", "2.0"].map(|protocol| (protocol, self.counter(name, &[("protocol", protocol)]))).into()
    }

    /// The log's.
    #[must_use]
    pub fn wal(&self) -> WalMetrics {
        WalMetrics {
            sync_seconds: { self.recorder.register_histogram(&Self::key("promrelay_wal_sync_seconds", &[]), &WHO) },
            synced_records: self.counter("promrelay_wal_synced_records_total", &[]),
            bytes: self.gauge("promrelay_wal_bytes", &[]),
            max_bytes: self.gauge("promrelay_wal_max_bytes", &[]),
            position: self.gauge("promrelay_wal_position", &[]),
            ready: self.gauge("promrelay_ready", &[]),
            full_in_seconds: self.gauge("promrelay_wal_full_in_seconds", &[]),
            damage: [
                self.counter("promrelay_wal_damaged_records_total", &[]),
                self.counter("promrelay_wal_damaged_samples_total", &[]),
                self.counter("promrelay_wal_damaged_bytes_total", &[]),
                self.counter("promrelay_wal_findings_total", &[]),
            ],
            torn_bytes: self.gauge("promrelay_wal_torn_bytes", &[]),
            recovery_seconds: self.gauge("promrelay_wal_recovery_seconds", &[]),
            in_flight_bytes: self.gauge("promrelay_receive_in_flight_bytes", &[]),
        }
    }

    /// The dead-letter ring's.
    #[must_use]
    pub fn dead_letter(&self) -> DeadLetterMetrics {
        DeadLetterMetrics {
            entries: self.gauge("promrelay_dead_letter_entries", &[]),
            bytes: self.gauge("promrelay_dead_letter_bytes", &[]),
            overwritten: self.counter("promrelay_dead_letter_overwritten_total", &[]),
        }
    }

    /// A target's.
    #[must_use]
    pub fn target(&self, name: &str, states: &[&'static str], reasons: &[&'static str]) -> TargetMetrics {
        let by = |metric: &'static str, label: &'static str, value: &str| {
            self.counter(metric, &[("target", name), (label, value)])
        };
        TargetMetrics {
            samples: OUTCOMES.map(|outcome| by("promrelay_target_samples_total", "outcome", outcome)),
            refused: reasons.iter().map(|r| by("promrelay_target_refused_samples_total", "reason", r)).collect(),
            untranslated: UNTRANSLATED.map(|what| by("promrelay_target_untranslated_total", "what", what)),
            requests: TARGET_CODES.map(|code| (code, by("promrelay_target_requests_total", "code", code))).into(),
            states: states
                .iter()
                .map(|state| (*state, self.gauge("promrelay_target_state", &[("target", name), ("state", state)])))
                .collect(),
            pending_samples: self.gauge("promrelay_target_pending_samples", &[("target", name)]),
            pending_bytes: self.gauge("promrelay_target_pending_bytes", &[("target", name)]),
            lag_seconds: self.gauge("promrelay_target_lag_seconds", &[("target", name)]),
            in_flight: self.gauge("promrelay_target_in_flight_requests", &[("target", name)]),
            window: self.gauge("promrelay_target_window_requests", &[("target", name)]),
            isolated: self.gauge("promrelay_target_isolated_requests", &[("target", name)]),
            arrival: self.gauge("promrelay_target_arrival_samples_per_second", &[("target", name)]),
            drain: self.gauge("promrelay_target_drain_samples_per_second", &[("target", name)]),
            catch_up_seconds: self.gauge("promrelay_target_catch_up_seconds", &[("target", name)]),
            rate_limit: self.gauge("promrelay_target_rate_limit_samples_per_second", &[("target", name)]),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// What the receiver counts.
#[derive(Debug)]
pub struct ReceiveMetrics {
    requests: BTreeMap<(&'static str, u16), Counter>,
    samples: BTreeMap<&'static str, Counter>,
    invalid_series: BTreeMap<&'static str, Counter>,
    invalid_samples: BTreeMap<&'static str, Counter>,
    rewritten: BTreeMap<&'static str, Counter>,
    repeated: Counter,
}

impl ReceiveMetrics {
    /// A request was answered.
    pub fn answered(&self, protocol: Option<&'static str>, code: u16) {
        self.requests.get(&(protocol.unwrap_or("none"), code)).expect("a code that is declared").increment(1);
    }

    /// Samples were acknowledged.
    pub fn samples(&self, protocol: &'static str, samples: u64) {
        self.samples.get(protocol).expect("a protocol that is declared").increment(samples);
    }

    /// Series were rejected, with the samples in them.
    pub fn invalid(&self, protocol: &'static str, series: u64, samples: u64) {
        self.invalid_series.get(protocol).expect("a protocol that is declared").increment(series);
        self.invalid_samples.get(protocol).expect("a protocol that is declared").increment(samples);
    }

    /// A request was not stored as it came.
    pub fn rewritten(&self, protocol: &'static str) {
        self.rewritten.get(protocol).expect("a protocol that is declared").increment(1);
    }

    /// A request was acknowledged that had been in the log before.
    pub fn repeated(&self) {
        self.repeated.increment(1);
    }
}

/// What is known of the log.
#[derive(Clone)]
pub struct WalMetrics {
    sync_seconds: Histogram,
    synced_records: Counter,
    /// Bytes on disk.
    pub bytes: Gauge,
    /// Their limit.
    pub max_bytes: Gauge,
    /// The newest readable position.
    pub position: Gauge,
    /// Whether appends work.
    pub ready: Gauge,
    /// Until the log is full.
    pub full_in_seconds: Gauge,
    damage: [Counter; 4],
    /// Cut at the start.
    pub torn_bytes: Gauge,
    /// What the start took.
    pub recovery_seconds: Gauge,
    /// Bytes of requests being worked on.
    pub in_flight_bytes: Gauge,
}

impl std::fmt::Debug for WalMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WalMetrics")
    }
}

impl WalMetrics {
    /// A sync that covered this many records succeeded.
    pub fn synced(&self, took: Duration, records: usize) {
        self.sync_seconds.record(took.as_secs_f64());
        self.synced_records.increment(records as u64);
    }

    /// What was found wrong so far.
    pub fn damaged(&self, records: u64, samples: u64, bytes: u64, findings: u64) {
        for (counter, value) in self.damage.iter().zip([records, samples, bytes, findings]) {
            counter.absolute(value);
        }
    }
}

/// What is known of the dead-letter ring.
pub struct DeadLetterMetrics {
    entries: Gauge,
    bytes: Gauge,
    overwritten: Counter,
}

impl std::fmt::Debug for DeadLetterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeadLetterMetrics")
    }
}

impl DeadLetterMetrics {
    /// What is in it, and what was overwritten so far.
    pub fn now(&self, entries: u64, bytes: u64, overwritten: u64) {
        self.entries.set(entries as f64);
        self.bytes.set(bytes as f64);
        self.overwritten.absolute(overwritten);
    }
}

/// What is known of a target.
#[derive(Debug)]
pub struct TargetMetrics {
    samples: [Counter; OUTCOMES.len()],
    refused: Vec<Counter>,
    untranslated: [Counter; UNTRANSLATED.len()],
    requests: BTreeMap<&'static str, Counter>,
    states: Vec<(&'static str, Gauge)>,
    /// Samples that it is owed.
    pub pending_samples: Gauge,
    /// Bytes that it is owed.
    pub pending_bytes: Gauge,
    /// Age of the oldest of them.
    pub lag_seconds: Gauge,
    /// Requests that are not answered yet.
    pub in_flight: Gauge,
    /// How many there may be.
    pub window: Gauge,
    /// Requests that fail while others are taken.
    pub isolated: Gauge,
    /// Samples per second that come in for it.
    pub arrival: Gauge,
    /// Samples per second that are settled by sending.
    pub drain: Gauge,
    /// Until nothing is pending; infinite: never.
    pub catch_up_seconds: Gauge,
    /// Samples per second, learned; infinite: none.
    pub rate_limit: Gauge,
}

impl TargetMetrics {
    /// An attempt was answered with this status.
    pub fn answered(&self, status: u16) {
        let exact = self.requests.get(&*status.to_string());
        let class = if status < 400 { "other_2xx_3xx" } else { "other_4xx_5xx" };
        exact.or_else(|| self.requests.get(class)).expect("all classes are there").increment(1);
    }

    /// An attempt had no answer.
    pub fn unanswered(&self, timed_out: bool) {
        self.requests[if timed_out { "timeout" } else { "connection" }].increment(1);
    }

    /// What was left out of a request that was taken, in the order of [`UNTRANSLATED`].
    pub fn untranslated(&self, numbers: [u64; UNTRANSLATED.len()]) {
        for (counter, number) in self.untranslated.iter().zip(numbers) {
            counter.increment(number);
        }
    }

    /// The ledger, in the order of [`OUTCOMES`], and what was refused for each reason.
    pub fn ledger(&self, samples: [u64; OUTCOMES.len()], refused: &[u64]) {
        for (counter, value) in self.samples.iter().zip(samples) {
            counter.absolute(value);
        }
        for (counter, value) in self.refused.iter().zip(refused) {
            counter.absolute(*value);
        }
    }

    /// The one state that it is in.
    pub fn state(&self, state: &str) {
        for (name, gauge) in &self.states {
            gauge.set(f64::from(u8::from(*name == state)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::savepoint::Reason;

    #[test]
    fn every_series_is_there_before_anything_happened() {
        let registry = Registry::new();
        let _receive = registry.receive();
        let _wal = registry.wal();
        let _dead_letter = registry.dead_letter();
        let _target = registry.target("central", &["caught_up", "held"], &Reason::ALL.map(Reason::as_str));
        let text = registry.render();
        for line in [
            r#"promrelay_receive_requests_total{protocol="2.0",code="503"} 0"#,
            r#"promrelay_receive_samples_total{protocol="1.0"} 0"#,
            "promrelay_wal_bytes 0",
            "promrelay_dead_letter_entries 0",
            "promrelay_dead_letter_overwritten_total 0",
            "promrelay_wal_sync_seconds_count 0",
            r#"promrelay_target_samples_total{target="central",outcome="lost"} 0"#,
            r#"promrelay_target_refused_samples_total{target="central",reason="status"} 0"#,
            r#"promrelay_target_refused_samples_total{target="central",reason="partial"} 0"#,
            r#"promrelay_target_refused_samples_total{target="central",reason="resent"} 0"#,
            r#"promrelay_target_refused_samples_total{target="central",reason="unsplit"} 0"#,
            r#"promrelay_target_refused_samples_total{target="central",reason="poison"} 0"#,
            r#"promrelay_target_state{target="central",state="held"} 0"#,
            r#"promrelay_target_requests_total{target="central",code="timeout"} 0"#,
            r#"promrelay_target_untranslated_total{target="central",what="exemplar"} 0"#,
            r#"promrelay_target_untranslated_total{target="central",what="start_timestamp"} 0"#,
            r#"promrelay_target_untranslated_total{target="central",what="custom_buckets"} 0"#,
            r#"promrelay_target_in_flight_requests{target="central"} 0"#,
            r#"promrelay_target_window_requests{target="central"} 0"#,
            r#"promrelay_target_isolated_requests{target="central"} 0"#,
            r#"promrelay_target_arrival_samples_per_second{target="central"} 0"#,
            r#"promrelay_target_drain_samples_per_second{target="central"} 0"#,
            r#"promrelay_target_catch_up_seconds{target="central"} 0"#,
            r#"promrelay_target_rate_limit_samples_per_second{target="central"} 0"#,
            concat!(r#"promrelay_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
        }
    }

    #[test]
    fn rare_statuses_are_counted_by_their_class() {
        let registry = Registry::new();
        let target = registry.target("a", &[], &[]);
        target.answered(418);
        target.answered(299);
        target.answered(204);
        let text = registry.render();
        for code in ["other_4xx_5xx", "other_2xx_3xx", "204"] {
            assert!(
                text.contains(&format!(r#"promrelay_target_requests_total{{target="a",code="{code}"}} 1"#)),
                "{text}"
            );
        }
    }
}
