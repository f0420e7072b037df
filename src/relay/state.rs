//! What is known of the relay at one moment: for status, metrics and readiness.
//!
//! A snapshot looks at all targets first and at the end of the log then: no target can be ahead of it, and everything that is said
//! about a target follows from the same two looks, so its ledger adds up in every answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::clock::{now_ms, rfc3339};
use crate::config::Room;
use crate::dead_letter::{Ring, Stats};
use crate::metrics::{DeadLetterMetrics, Registry, TargetMetrics, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::{Reason, Savepoint, Store};
use crate::target::{CatchUp, Details, Orders, Outlook, Phase, Progress, Snapshot};
use crate::wal::{Finding, Health, Limit, Log, Mark, Report};
use crate::web::{self, status};

/// What answers questions, and what housekeeping works on.
#[derive(Debug)]
pub(super) struct State {
    pub log: Log,
    pub receiver: Arc<Receiver>,
    pub registry: Registry,
    pub wal_metrics: WalMetrics,
    pub room: Room,
    /// What the start found.
    pub report: Report,
    /// Those of the configuration, in its order; then orphans.
    targets: RwLock<Vec<Arc<Watched>>>,
    pub store: Mutex<Store>,
    /// What targets refused for good.
    pub dead_letters: Arc<Ring>,
    dead_letter_metrics: DeadLetterMetrics,
    /// Held by whoever sends entries of it again.
    pub resends: tokio::sync::Mutex<()>,
    /// Held by whoever moves savepoints otherwise than by settling, or releases what they have passed.
    pub moves: tokio::sync::Mutex<()>,
    /// See [`State::set_full_in`].
    full_in: Mutex<Option<Duration>>,
    is_stopping: AtomicBool,
    /// Scrapes one after the other: each is one snapshot.
    scrape: Mutex<()>,
}

/// A target as it is seen from outside.
#[derive(Debug)]
pub(super) struct Watched {
    pub progress: Arc<Progress>,
    pub metrics: Arc<TargetMetrics>,
    /// To its task; an orphan has none.
    pub orders: Option<Orders>,
    pub is_required: bool,
    pub ahead: Ahead,
}

/// When a target catches up, as it looked a second ago.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<(CatchUp, Outlook)>);

impl Ahead {
    /// Looks again, once a second; `end` is that of the log. What comes in is what the log takes, and what is settled is what was sent, or is too
    /// old to be: a seek, a full disk or damage move a target on or back at once, which says nothing about the next minute.
    pub(super) fn look(&self, now: Instant, savepoint: &Savepoint, end: Mark, pending: u64) {
        let ledger = &savepoint.ledger;
        let settled = ledger.delivered + ledger.refused + ledger.filtered + ledger.expired;
        let (catch_up, outlook) = &mut *self.0.lock().expect("no holder of this lock panics");
        *outlook = catch_up.look(now, settled, end.total, pending);
    }

    /// What that says of a target to which so many samples are owed now.
    fn outlook(&self, phase: Phase, pending: u64) -> Outlook {
        let outlook = self.0.lock().expect("no holder of this lock panics").1;
        let catches_up_in = match outlook.catches_up_in {
            _ if pending == 0 => Some(Duration::ZERO),
            // Nothing is sent, whatever was in the last minute.
            _ if matches!(phase, Phase::Paused | Phase::Orphan) => None,
            // It came since, and is not taken.
            Some(Duration::ZERO) if matches!(phase, Phase::BackingOff | Phase::Held | Phase::Suspect) => None,
            Some(left) => Some(left.max(Duration::from_secs(1))),
            None => None,
        };
        Outlook { catches_up_in, ..outlook }
    }
}

/// What a state is made of.
pub(super) struct Parts {
    pub log: Log,
    pub receiver: Arc<Receiver>,
    pub registry: Registry,
    pub wal_metrics: WalMetrics,
    pub room: Room,
    pub report: Report,
    pub targets: Vec<Watched>,
    pub store: Store,
    pub dead_letters: Arc<Ring>,
}

impl State {
    pub(super) fn new(parts: Parts) -> State {
        let Parts { log, receiver, registry, wal_metrics, room, report, targets, store, dead_letters } = parts;
        let dead_letter_metrics = registry.dead_letter();
        State {
            log,
            receiver,
            registry,
            wal_metrics,
            room,
            report,
            targets: RwLock::new(targets.into_iter().map(Arc::new).collect()),
            store: Mutex::new(store),
            dead_letters,
            dead_letter_metrics,
            resends: tokio::sync::Mutex::default(),
            moves: tokio::sync::Mutex::default(),
            full_in: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            scrape: Mutex::default(),
        }
    }

    pub(super) fn targets(&self) -> Vec<Arc<Watched>> {
        self.targets.read().expect("no holder of this lock panics").clone()
    }

    /// It is not there any more.
    pub(super) fn remove(&self, name: &str) {
        let mut targets = self.targets.write().expect("no holder of this lock panics");
        targets.retain(|target| target.progress.name() != name);
    }

    pub(super) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// How long until something must be given up.
    pub(super) fn set_full_in(&self, left: Option<Duration>) {
        *self.full_in.lock().expect("no holder of this lock panics") = left;
    }

    fn full_in(&self) -> Option<Duration> {
        *self.full_in.lock().expect("no holder of this lock panics")
    }

    /// How all targets get on.
    pub(super) fn look_ahead(&self, now: Instant) {
        let (snapshots, end) = self.snapshot();
        for (target, Snapshot { savepoint, .. }) in snapshots {
            let pending = savepoint.pending(self.log.samples_between(savepoint.settled, end));
            target.ahead.look(now, &savepoint, end, pending);
        }
    }

    /// All targets, and then the end of the log: no target can be ahead of it.
    fn snapshot(&self) -> (Vec<(Arc<Watched>, Snapshot)>, Mark) {
        let targets = self.targets().into_iter().map(|target| {
            let snapshot = target.progress.snapshot();
            (target, snapshot)
        });
        (targets.collect(), self.log.readable().mark)
    }
}

/// What follows from a target's savepoint and the end of the log.
struct Owed {
    samples: status::Samples,
    pending: status::Pending,
    lag_seconds: f64,
}

fn owed(log: &Log, snapshot: &Snapshot, end: Mark, now_ms: i64) -> Owed {
    let Savepoint { settled, next, ledger, .. } = &snapshot.savepoint;
    let pending = snapshot.savepoint.pending(log.samples_between(*settled, end));
    let records = snapshot.savepoint.pending_records(end.position);
    let lag_seconds = match snapshot.oldest_pending_ms {
        Some(received_ms) if records > 0 => ((now_ms - received_ms).max(0) as f64) / 1000.0,
        _ => 0.0,
    };
    Owed {
        samples: status::Samples {
            accepted: ledger.accepted + pending,
            delivered: ledger.delivered,
            refused: ledger.refused,
            filtered: ledger.filtered,
            expired: ledger.expired,
            dropped: ledger.dropped,
            lost: ledger.lost,
            pending,
        },
        pending: status::Pending {
            records,
            samples: pending,
            bytes: if records > 0 { log.bytes_from(*next) } else { 0 },
        },
        lag_seconds,
    }
}

/// What people should look after, on one line each.
fn troubles<'a>(snapshots: impl Iterator<Item = (&'a str, &'a Snapshot)>) -> Vec<String> {
    let is_trouble = |phase| matches!(phase, Phase::BackingOff | Phase::Held | Phase::Suspect);
    let line = |(name, snapshot): (&str, &Snapshot)| {
        let state = snapshot.phase.as_str();
        // What a target answers may be of many lines.
        let reason = snapshot.reason.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        if reason.is_empty() { format!("{name}: {state}") } else { format!("{name}: {state}: {reason}") }
    };
    snapshots.filter(|(_, snapshot)| is_trouble(snapshot.phase)).map(line).collect()
}

fn shown(finding: &Finding) -> status::Finding {
    status::Finding {
        kind: finding.kind.as_str(),
        file: finding.path.display().to_string(),
        offset: finding.offset,
        bytes: finding.bytes,
        first: finding.positions.map(|(first, _)| first.0),
        last: finding.positions.map(|(_, last)| last.0),
        records: finding.records(),
        samples: finding.samples,
        reason: finding.reason.clone(),
        found: rfc3339(finding.found_ms),
        kept: finding.kept.as_ref().map(|path| path.display().to_string()),
    }
}

impl web::Source for State {
    fn ready(&self) -> Result<(), String> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err("shutting down".into());
        }
        match self.log.health() {
            Health::Working => Ok(()),
            Health::Full(limit) => {
                let until = match limit {
                    Limit::MaxSize { .. } => "targets have taken what they are owed",
                    Limit::MinFree { .. } | Limit::Disk { .. } => {
                        "there is room on the filesystem again: when others free some, or targets have taken what they are owed"
                    }
                };
                let bytes = self.log.disk_bytes();
                Err(format!(
                    "the log is full: {limit} ({bytes} bytes are on disk); it takes requests again when {until}"
                ))
            }
            Health::Failing(reason) => Err(format!("the log cannot be written: {reason}")),
        }
    }

    fn troubles(&self) -> Vec<String> {
        let (snapshots, _) = self.snapshot();
        troubles(snapshots.iter().map(|(target, snapshot)| (target.progress.name(), snapshot)))
    }

    fn status(&self) -> status::Status {
        let (snapshots, end) = self.snapshot();
        let now_ms = now_ms();
        let findings = self.log.findings();
        let target = |target: &Watched, snapshot: &Snapshot| {
            let owed = owed(&self.log, snapshot, end, now_ms);
            let Outlook { drain, arrival, catches_up_in } = target.ahead.outlook(snapshot.phase, owed.pending.samples);
            let refused = snapshot.savepoint.ledger.refused_by;
            let details = &snapshot.details;
            status::Target {
                name: target.progress.name().to_owned(),
                url: target.progress.url().to_owned(),
                required: target.is_required,
                state: snapshot.phase.as_str(),
                reason: snapshot.reason.clone(),
                since: rfc3339(snapshot.since_ms),
                last_status: snapshot.last_status,
                settled: snapshot.savepoint.settled.position.0,
                lag_seconds: owed.lag_seconds,
                pending: owed.pending,
                arrival_samples_per_second: arrival,
                drain_samples_per_second: drain,
                // A part of a second is not nothing.
                catches_up_in_seconds: catches_up_in.map(|left| left.as_secs_f64().ceil() as u64),
                in_flight: details.in_flight,
                max_in_flight_now: details.window,
                failures: details.failures,
                rate_limit_samples_per_second: details.rate_limit,
                isolated_requests: details.isolated,
                takes: ["1.0", "2.0"].into_iter().zip(details.takes).collect(),
                samples: owed.samples,
                refused_by: Reason::ALL.map(Reason::as_str).into_iter().zip(refused).collect(),
            }
        };
        status::Status {
            version: env!("CARGO_PKG_VERSION"),
            ready: self.ready().is_ok(),
            wal: status::Wal {
                oldest: self.log.start().position.next().0.min(end.position.0),
                durable: self.log.durable().0,
                bytes: self.log.disk_bytes(),
                max_bytes: self.log.max_bytes(),
                full_in_seconds: self.full_in().map(|left| left.as_secs()),
                recovery: status::Recovery {
                    seconds: self.report.took.as_secs_f64(),
                    scanned_segments: self.report.scanned,
                    torn_bytes: self.report.torn_bytes,
                },
                damage: status::Damage {
                    count: findings.count,
                    records: findings.records,
                    samples: findings.samples,
                    bytes: findings.bytes,
                    findings: findings.list.iter().map(shown).collect(),
                },
                segments: self
                    .log
                    .segments()
                    .into_iter()
                    .map(|segment| status::Segment {
                        id: segment.id.0,
                        first: segment.first.0,
                        last: segment.last.0,
                        bytes: segment.bytes,
                    })
                    .collect(),
            },
            targets: snapshots.iter().map(|(watched, snapshot)| target(watched, snapshot)).collect(),
        }
    }

    fn metrics(&self) -> String {
        let _one_at_a_time = self.scrape.lock().expect("no holder of this lock panics");
        let (snapshots, end) = self.snapshot();
        let now_ms = now_ms();
        for (target, snapshot) in &snapshots {
            let Owed { samples, pending, lag_seconds } = owed(&self.log, snapshot, end, now_ms);
            let status::Samples { accepted, delivered, refused, filtered, expired, dropped, lost, .. } = samples;
            let ledger = [accepted, delivered, refused, filtered, expired, dropped, lost];
            target.metrics.ledger(ledger, &snapshot.savepoint.ledger.refused_by);
            target.metrics.state(snapshot.phase.as_str());
            target.metrics.pending_samples.set(pending.samples as f64);
            target.metrics.pending_bytes.set(pending.bytes as f64);
            target.metrics.lag_seconds.set(lag_seconds);
            let Outlook { drain, arrival, catches_up_in } = target.ahead.outlook(snapshot.phase, pending.samples);
            target.metrics.arrival.set(arrival);
            target.metrics.drain.set(drain);
            target.metrics.catch_up_seconds.set(catches_up_in.map_or(f64::INFINITY, |left| left.as_secs_f64()));
            let Details { in_flight, window, rate_limit, isolated, .. } = snapshot.details;
            target.metrics.in_flight.set(in_flight as f64);
            target.metrics.window.set(window as f64);
            target.metrics.isolated.set(isolated as f64);
            target.metrics.rate_limit.set(rate_limit.unwrap_or(f64::INFINITY));
        }
        self.wal_metrics.bytes.set(self.log.disk_bytes() as f64);
        self.wal_metrics.max_bytes.set(self.log.max_bytes() as f64);
        self.wal_metrics.position.set(end.position.0 as f64);
        self.wal_metrics.ready.set(f64::from(u8::from(self.ready().is_ok())));
        let findings = self.log.findings();
        self.wal_metrics.damaged(findings.records, findings.samples, findings.bytes, findings.count);
        self.wal_metrics.torn_bytes.set(self.report.torn_bytes as f64);
        self.wal_metrics.recovery_seconds.set(self.report.took.as_secs_f64());
        self.wal_metrics.full_in_seconds.set(self.full_in().map_or(f64::INFINITY, |left| left.as_secs_f64()));
        self.wal_metrics.in_flight_bytes.set(self.receiver.in_flight_bytes() as f64);
        let Stats { entries, bytes, overwritten } = self.dead_letters.stats();
        self.dead_letter_metrics.now(entries, bytes, overwritten);
        self.registry.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Details;
    use crate::wal::Position;

    fn end(total: u64) -> Mark {
        Mark { position: Position(total), total }
    }

    fn savepoint(delivered: u64, dropped: u64) -> Savepoint {
        let mut savepoint = Savepoint::default();
        (savepoint.ledger.delivered, savepoint.ledger.dropped) = (delivered, dropped);
        savepoint
    }

    fn seconds(outlook: Outlook) -> Option<u64> {
        outlook.catches_up_in.map(|left| left.as_secs())
    }

    #[test]
    fn a_backlog_that_is_given_up_is_not_taken_for_one_that_drains() {
        let (start, ahead) = (Instant::now(), Ahead::default());
        for n in 0..=60 {
            // A million go at once; beside that it takes 10 samples a second, and 20 come in.
            let dropped = if n < 30 { 0 } else { 1_000_000 };
            ahead.look(start + Duration::from_secs(n), &savepoint(10 * n, dropped), end(20 * n), 5000);
        }
        let outlook = ahead.outlook(Phase::Sending, 5000);
        assert_eq!((outlook.drain, outlook.arrival, seconds(outlook)), (10.0, 20.0, None));
    }

    #[test]
    fn what_is_behind_follows_from_what_is_pending_now() {
        let (start, ahead) = (Instant::now(), Ahead::default());
        for n in 0..=10 {
            ahead.look(start + Duration::from_secs(n), &savepoint(500 * n, 0), end(100 * n), 4000);
        }
        assert_eq!(seconds(ahead.outlook(Phase::Sending, 4000)), Some(10));
        assert_eq!(seconds(ahead.outlook(Phase::Sending, 0)), Some(0));
        assert_eq!(seconds(ahead.outlook(Phase::Paused, 4000)), None, "nothing is sent any more");
        // Nothing was behind a second ago, and now there is something.
        ahead.look(start + Duration::from_secs(11), &savepoint(5500, 0), end(1100), 0);
        assert_eq!(seconds(ahead.outlook(Phase::Sending, 7)), Some(1));
        assert_eq!(seconds(ahead.outlook(Phase::Held, 7)), None);
    }

    #[test]
    fn those_that_do_not_take_data_are_named_on_a_line_each() {
        let snapshot = |phase, reason: Option<&str>| Snapshot {
            savepoint: Savepoint::default(),
            phase,
            reason: reason.map(str::to_owned),
            since_ms: 0,
            last_status: None,
            oldest_pending_ms: None,
            details: Details::default(),
        };
        let all = [
            ("a", snapshot(Phase::Sending, Some("2 requests fail"))),
            ("b", snapshot(Phase::Held, Some("401 Unauthorized: go\r\naway"))),
            ("c", snapshot(Phase::Paused, Some("by an operator"))),
            ("d", snapshot(Phase::BackingOff, None)),
            ("e", snapshot(Phase::Suspect, Some("it refuses all data"))),
        ];
        let lines = troubles(all.iter().map(|(name, snapshot)| (*name, snapshot)));
        assert_eq!(lines, ["b: held: 401 Unauthorized: go away", "d: backing_off", "e: suspect: it refuses all data"]);
    }
}
