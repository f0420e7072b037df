//! The wiring: opens the log and the savepoints, starts targets and listener, keeps house once a second, ends everything in order.
//!
//! ```text
//!  start   listen -> lock directory -> read savepoints -> recover log (new positions above all savepoints) -> targets -> serve
//!  every second   sync savepoints that moved -> release segments that every target has settled
//!  end     take no more requests -> answer those that are durable -> targets finish what is in flight (1.5 s)
//!          -> sync savepoints -> seal the log
//! ```
//!
//! Nothing is decided here but the order of things.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::{now_ms, rfc3339};
use crate::config::Config;
use crate::metrics::{Registry, TargetMetrics, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::{Found, Reason, Saved, Savepoint, Settled, Store};
use crate::target::{Phase, Progress, Snapshot, StartFrom, Target};
use crate::wal::directory::{Directory, DirectoryError};
use crate::wal::{Closer, Health, Log, Mark, Observer, Opened, Readable, Report};
use crate::web::{self, status};

/// How long requests to targets that are in flight may take once the end was asked for.
pub const GRACE: Duration = Duration::from_millis(1500);

/// How often savepoints are made durable and segments released.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Why the relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, mostly.
    #[error("cannot listen on {listen} (server.listen)")]
    Listen {
        /// As configured.
        listen: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The log's directory (`wal.dir`).
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Reading the directory or starting threads.
    #[error("cannot open the log in {}", path.display())]
    Log {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A savepoint.
    #[error("cannot open the savepoint of target {name} in {}", path.display())]
    Savepoint {
        /// Of which target.
        name: String,
        /// Where the log is.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// TLS for a target.
    #[error("cannot set up requests to target {name}")]
    Client {
        /// Which target.
        name: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    state: Arc<State>,
    closer: Closer,
    targets: JoinSet<()>,
    server: tokio::task::JoinHandle<()>,
    housekeeping: tokio::task::JoinHandle<()>,
    stop_targets: watch::Sender<Option<Instant>>,
    stop_server: watch::Sender<bool>,
    address: std::net::SocketAddr,
}

/// What answers questions, and what housekeeping works on.
#[derive(Debug)]
struct State {
    log: Log,
    receiver: Arc<Receiver>,
    registry: Registry,
    wal_metrics: WalMetrics,
    /// Those of the configuration, in its order; then orphans.
    targets: Vec<Watched>,
    is_stopping: AtomicBool,
    /// Scrapes one after the other: each is one snapshot.
    scrape: Mutex<()>,
}

#[derive(Debug)]
struct Watched {
    progress: Arc<Progress>,
    metrics: Arc<TargetMetrics>,
    is_orphan: bool,
}

struct SyncObserver(WalMetrics);

impl Observer for SyncObserver {
    fn synced(&self, took: Duration, records: usize) {
        self.0.synced(took, records);
    }
}

impl Relay {
    /// Starts everything. Requests are taken when this returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing of it runs then.
    pub async fn start(config: Config) -> Result<Relay, StartError> {
        // First of all, so that a second relay with the same configuration does not touch the first one's log.
        let listen_error = |source| StartError::Listen { listen: config.listen_text.clone(), source };
        let listener = TcpListener::bind(&*config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let dir = config.wal_dir.clone();
        let log_error = |source| StartError::Log { path: dir.clone(), source };
        let directory = Directory::open(&config.wal_dir)?;
        let mut store = Store::open(&config.wal_dir).map_err(log_error)?;
        let registry = Registry::new();
        let wal_metrics = registry.wal();
        let observer = Arc::new(SyncObserver(wal_metrics.clone()));
        let opened = Log::open(directory, config.wal, store.floor(), observer).map_err(log_error)?;
        let Opened { log, appender, report, is_new, closer } = opened;
        log_report(&report);

        let (stop_targets, stop) = watch::channel(None);
        let mut targets = JoinSet::new();
        let mut watched = Vec::new();
        let open = |store: &mut Store, name: &str, saved: Saved| {
            store.open_file(name, log.id(), saved).map_err(|source| StartError::Savepoint {
                name: name.to_owned(),
                path: dir.clone(),
                source,
            })
        };
        let mut tasks = Vec::new();
        for settings in config.targets {
            let name = settings.name.clone();
            let saved = starting_point(&name, store.find(&name, log.id()), &log, is_new, settings.start_from);
            let file = open(&mut store, &name, saved)?;
            let progress =
                Arc::new(Progress::new(name.clone(), settings.shown_url(), file, saved, Phase::CaughtUp, now_ms()));
            let metrics = Arc::new(target_metrics(&registry, &name));
            let target = Target::new(settings, progress.clone(), metrics.clone(), &log, stop.clone())
                .map_err(|source| StartError::Client { name: name.clone(), source })?;
            tasks.push(target);
            watched.push(Watched { progress, metrics, is_orphan: false });
        }
        let orphans: Vec<String> = store
            .known()
            .filter(|name| watched.iter().all(|target| target.progress.name() != *name))
            .map(str::to_owned)
            .collect();
        for name in orphans {
            let saved = starting_point(&name, store.find(&name, log.id()), &log, is_new, None);
            let file = open(&mut store, &name, saved)?;
            let progress = Arc::new(Progress::new(name.clone(), String::new(), file, saved, Phase::Orphan, now_ms()));
            let owed = log.readable().mark.total - saved.savepoint.settled.total;
            tracing::warn!(
                target = name,
                samples = owed,
                "an orphan: the target is not in the configuration any more; its backlog is kept until the log is full"
            );
            let metrics = Arc::new(target_metrics(&registry, &name));
            watched.push(Watched { progress, metrics, is_orphan: true });
        }

        let receiver = Receiver::new(config.receive, appender, registry.receive());
        let state = Arc::new(State {
            log,
            receiver: receiver.clone(),
            registry,
            wal_metrics,
            targets: watched,
            is_stopping: AtomicBool::new(false),
            scrape: Mutex::new(()),
        });
        for target in tasks {
            targets.spawn(target.run());
        }
        let housekeeping = tokio::spawn(keep_house(state.clone()));
        let (stop_server, stop) = watch::channel(false);
        let router = receiver.router().merge(web::router(state.clone()));
        let server = tokio::spawn(web::server::serve(listener, router, config.server, stop));
        let readable = state.log.readable().mark;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), listen = %address, log = %config.wal_dir.display(),
            newest = readable.position.0, targets = state.targets.len(), "promrelay takes requests"
        );
        Ok(Relay { state, closer, targets, server, housekeeping, stop_targets, stop_server, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Ends everything in order. Takes [`GRACE`] and a few syncs at most, whatever clients and targets do.
    pub async fn stop(self) {
        let Relay { state, closer, mut targets, server, housekeeping, stop_targets, stop_server, .. } = self;
        let deadline = Instant::now() + GRACE;
        state.is_stopping.store(true, Ordering::Release);
        let _ = stop_targets.send(Some(deadline));
        // What the writer has is answered; what comes now gets 503.
        state.receiver.close();
        let _ = stop_server.send(true);
        let sealed = tokio::task::spawn_blocking(move || closer.close());
        let finish_targets = async { while targets.join_next().await.is_some() {} };
        let finish_requests = async {
            if tokio::time::timeout_at(deadline, server).await.is_err() {
                tracing::debug!("some connections did not end in time");
            }
        };
        tokio::join!(finish_targets, finish_requests);
        housekeeping.abort();
        let synced = tokio::task::spawn_blocking(move || state.sync_savepoints());
        let _ = tokio::join!(synced, sealed);
        tracing::info!("promrelay has stopped");
    }
}

fn log_report(report: &Report) {
    for (path, error) in &report.bad {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!(path = %path.display(), reason = %format!("{error}{cause}"), "a file of the log cannot be used; it is left alone");
    }
    for damage in &report.damaged {
        tracing::error!(
            path = %damage.path.display(), offset = damage.offset, bytes = damage.bytes,
            "part of the log is damaged; each target counts what it loses"
        );
    }
    if report.torn_bytes > 0 {
        tracing::info!(bytes = report.torn_bytes, "cut a torn tail off the log; it was never acknowledged");
    }
}

/// Where a name goes on.
fn starting_point(name: &str, found: Found, log: &Log, log_is_new: bool, start_from: Option<StartFrom>) -> Saved {
    let Readable { mark: end, place } = log.readable();
    let start = log.start();
    let oldest = Savepoint { settled: start, ..Savepoint::default() };
    match found {
        // The segments were taken away, the savepoints were not: positions go on above them.
        Found::Foreign(saved) if log_is_new => saved,
        Found::Valid(saved) => saved,
        Found::New => {
            let holds_data = end.position > start.position;
            let savepoint = match start_from {
                Some(StartFrom::Oldest) => oldest,
                Some(StartFrom::Now) => Savepoint { settled: end, next: place, ..Savepoint::default() },
                None if holds_data => Savepoint { settled: end, next: place, ..Savepoint::default() },
                None => oldest,
            };
            tracing::info!(target = name, after = savepoint.settled.position.0, "a new target");
            Saved { generation: 1, epoch: 0, savepoint }
        }
        Found::Damaged => {
            tracing::error!(
                target = name,
                after = start.position.0,
                "the savepoint is lost: the target gets everything that is in the log, some of it again; its counters begin anew"
            );
            Saved { generation: 1, epoch: 1, savepoint: oldest }
        }
        Found::Foreign(saved) => {
            tracing::error!(
                target = name,
                after = start.position.0,
                "the savepoint is of another log: the target gets everything that is in this one"
            );
            let savepoint = Savepoint { settled: start, next: oldest.next, ledger: saved.savepoint.ledger };
            Saved { generation: saved.generation + 1, epoch: saved.epoch + 1, savepoint }
        }
    }
}

fn target_metrics(registry: &Registry, name: &str) -> TargetMetrics {
    registry.target(name, &Phase::ALL.map(Phase::as_str), &Reason::ALL.map(Reason::as_str))
}

/// Once a second, until aborted.
async fn keep_house(state: Arc<State>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let state = state.clone();
        let trip = tokio::task::spawn_blocking(move || {
            state.registry.run_upkeep();
            state.sync_savepoints();
            state.make_room();
            state.release();
        });
        trip.await.expect("housekeeping does not panic");
    }
}

impl State {
    fn sync_savepoints(&self) {
        for target in &self.targets {
            if let Err(error) = target.progress.sync() {
                tracing::error!(target = target.progress.name(), %error, "cannot sync a savepoint; the log keeps what it covers");
            }
        }
    }

    /// Only savepoints that are durable release anything.
    fn release(&self) {
        let Some(lowest) = self.targets.iter().map(|target| target.progress.synced_position()).min() else { return };
        for segment in self.log.release(lowest) {
            tracing::debug!(segment = segment.id.0, last = segment.last.0, "released a segment");
        }
    }

    /// In a full log, what only orphans hold back is given up first: a segment at a time, counted before it goes.
    fn make_room(&self) {
        if self.log.health() != Health::Full {
            return;
        }
        let Some((to, place)) = self.log.oldest_closed_end() else { return };
        let passed = |target: &Watched| target.progress.synced_position() >= to.position;
        if self.targets.iter().any(|target| !target.is_orphan && !passed(target)) {
            return;
        }
        for orphan in self.targets.iter().filter(|target| !passed(target)) {
            let from = orphan.progress.snapshot().savepoint.settled;
            let samples = to.total - from.total;
            tracing::error!(
                target = orphan.progress.name(),
                samples,
                "the log is full: dropped the oldest data of an orphan"
            );
            orphan.progress.settle(to, place, Settled::Dropped { samples });
        }
        self.sync_savepoints();
    }

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
    let pending = end.total - settled.total;
    let records = end.position.0 - settled.position.0;
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
                "the log is full: {} of {} bytes; it takes requests again when targets have taken what they are owed",
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
                durable: end.position.0,
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
