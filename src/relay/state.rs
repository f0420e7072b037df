//! What is known of the relay at one moment: for status, metrics and readiness.
//!
//! A snapshot looks at all targets first and at the end of the log then: no target can be ahead of it, and everything that is said
//! about a target follows from the same two looks, so its ledger adds up in every answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::clock::{now_ms, rfc3339};
use crate::config::Room;
use crate::metrics::{Registry, TargetMetrics, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::{Savepoint, Store};
use crate::target::{Orders, Progress, Snapshot};
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
}

impl State {
    pub(super) fn new(parts: Parts) -> State {
        let Parts { log, receiver, registry, wal_metrics, room, report, targets, store } = parts;
        State {
            log,
            receiver,
            registry,
            wal_metrics,
            room,
            report,
            targets: RwLock::new(targets.into_iter().map(Arc::new).collect()),
            store: Mutex::new(store),
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
    let Savepoint { settled, next, ledger } = snapshot.savepoint;
    let pending = log.samples_between(settled, end);
    let records = end.position.0.saturating_sub(settled.position.0);
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
            bytes: if records > 0 { log.bytes_from(next) } else { 0 },
        },
        lag_seconds,
    }
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

    fn status(&self) -> status::Status {
        let (snapshots, end) = self.snapshot();
        let now_ms = now_ms();
        let findings = self.log.findings();
        let target = |target: &Watched, snapshot: &Snapshot| {
            let owed = owed(&self.log, snapshot, end, now_ms);
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
                samples: owed.samples,
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
        self.registry.render()
    }
}
