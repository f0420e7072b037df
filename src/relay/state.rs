//! What is known of the relay at one moment: for status, metrics and readiness.
//!
//! A snapshot looks at all targets first and at the end of the log then: no target can be ahead of it, and everything that is said
//! about a target follows from the same two looks, so its ledger adds up in every answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::{now_ms, rfc3339};
use crate::metrics::{Registry, TargetMetrics, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::Savepoint;
use crate::target::{Progress, Snapshot};
use crate::wal::{Health, Log, Mark};
use crate::web::{self, status};

/// What answers questions, and what housekeeping works on.
#[derive(Debug)]
pub(super) struct State {
    pub log: Log,
    pub receiver: Arc<Receiver>,
    pub registry: Registry,
    pub wal_metrics: WalMetrics,
    /// Those of the configuration, in its order; then orphans.
    pub targets: Vec<Watched>,
    pub is_stopping: AtomicBool,
    /// Scrapes one after the other: each is one snapshot.
    pub scrape: Mutex<()>,
}

/// A target as it is seen from outside.
#[derive(Debug)]
pub(super) struct Watched {
    pub progress: Arc<Progress>,
    pub metrics: Arc<TargetMetrics>,
    pub is_orphan: bool,
}

impl State {
    /// All targets, and then the end of the log: no target can be ahead of it.
    fn snapshot(&self) -> (Vec<Snapshot>, Mark) {
        let targets = self.targets.iter().map(|target| target.progress.snapshot()).collect();
        (targets, self.log.readable().mark)
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
    let pending = end.total.saturating_sub(settled.total);
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

impl web::Source for State {
    fn ready(&self) -> Result<(), String> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err("shutting down".into());
        }
        match self.log.health() {
            Health::Working => Ok(()),
            Health::Full => Err(format!(
                "the log is full: there is no room for another segment ({} of {} bytes); it takes requests again when targets have \
                 taken what they are owed",
                self.log.disk_bytes(),
                self.log.max_bytes()
            )),
            Health::Failing(reason) => Err(format!("the log cannot be written: {reason}")),
        }
    }

    fn status(&self) -> status::Status {
        let (snapshots, end) = self.snapshot();
        let now_ms = now_ms();
        let target = |target: &Watched, snapshot: &Snapshot| {
            let owed = owed(&self.log, snapshot, end, now_ms);
            status::Target {
                name: target.progress.name().to_owned(),
                url: target.progress.url().to_owned(),
                required: !target.is_orphan,
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
            targets: self.targets.iter().zip(&snapshots).map(|(watched, snapshot)| target(watched, snapshot)).collect(),
        }
    }

    fn metrics(&self) -> String {
        let _one_at_a_time = self.scrape.lock().expect("no holder of this lock panics");
        let (snapshots, end) = self.snapshot();
        let now_ms = now_ms();
        for (target, snapshot) in self.targets.iter().zip(&snapshots) {
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
        self.wal_metrics.in_flight_bytes.set(self.receiver.in_flight_bytes() as f64);
        self.registry.render()
    }
}
