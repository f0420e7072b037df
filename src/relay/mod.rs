//! The wiring: opens the log and the savepoints, starts targets and listener, keeps house once a second, ends everything in order.
//!
//! ```text
//!  start   listen -> lock directory -> read savepoints -> recover log (new positions above all savepoints) -> targets -> serve
//!  every second   sync savepoints that moved -> release segments that every target has settled
//!  end     take no more requests -> answer those that are durable, seal the log; beside it targets finish what is in flight
//!          (1.5 s) -> sync savepoints
//! ```
//!
//! Decided here is the order of things, where a target starts (`starting_point`), and what a full log gives up first
//! (`housekeeping`).

mod housekeeping;
mod starting_point;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::config::Config;
use crate::metrics::{Registry, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::{Reason, Store};
use crate::target::{Phase, Progress, StartFrom, Target};
use crate::wal::directory::{Directory, DirectoryError};
use crate::wal::{Closer, Log, Observer, Opened, RecoveryError, Report, Step, SyncMode};
use crate::web;
use housekeeping::keep_house;
use starting_point::{LogState, Why, starting_point};
use state::{State, Watched};

/// How long requests to targets that are in flight may take once the end was asked for.
pub const GRACE: Duration = Duration::from_millis(1500);

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
    /// Something of the log cannot be read now. Nothing of it was changed.
    #[error("cannot open the log in {}", path.display())]
    Log {
        /// Where.
        path: PathBuf,
        /// What and why.
        #[source]
        source: RecoveryError,
    },
    /// The directory of savepoints.
    #[error("cannot read the savepoints in {}", path.display())]
    Savepoints {
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
    /// [`StartError`]; nothing of it takes requests or sends any then.
    pub async fn start(config: Config) -> Result<Relay, StartError> {
        raise_file_limit();
        // First of all, so that a second relay with the same configuration does not touch the first one's log.
        let listen_error = |source| StartError::Listen { listen: config.listen_text.clone(), source };
        let listener = TcpListener::bind(&*config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let dir = config.wal_dir.clone();
        let directory = Directory::open(&config.wal_dir)?;
        let store =
            Store::open(&config.wal_dir).map_err(|source| StartError::Savepoints { path: dir.clone(), source })?;
        let registry = Registry::new();
        let wal_metrics = registry.wal();
        let observer = Arc::new(SyncObserver(wal_metrics.clone()));
        let opened = Log::open(directory, config.wal, &store.floors(), observer)
            .map_err(|source| StartError::Log { path: dir.clone(), source })?;
        let Opened { log, appender, report, is_new, closer } = opened;
        log_report(&report, config.wal.sync);

        let log_state = LogState { start: log.start(), end: log.readable(), is_new };
        let mut registrar = Registrar { dir, store, log: log.clone(), log_state, registry };
        let (stop_targets, stop) = watch::channel(None);
        let mut tasks = Vec::new();
        let mut watched = Vec::new();
        for settings in config.targets {
            let name = settings.name.clone();
            let target = registrar.watch(&name, settings.shown_url(), settings.start_from, Phase::CaughtUp)?;
            let task = Target::new(settings, target.progress.clone(), target.metrics.clone(), &log, stop.clone())
                .map_err(|source| StartError::Client { name, source })?;
            tasks.push(task);
            watched.push(target);
        }
        let is_configured = |name: &str| watched.iter().any(|target| target.progress.name() == name);
        let orphans: Vec<_> = registrar.store.known().filter(|name| !is_configured(name)).map(str::to_owned).collect();
        for name in orphans {
            let target = registrar.watch(&name, String::new(), None, Phase::Orphan)?;
            // An orphan does not move: what it is owed first stays the same.
            let settled = target.progress.snapshot().savepoint;
            if let Step::Record(record) = log.cursor(settled.settled, settled.next).next_step() {
                target.progress.owes(record.header.received_ms);
            }
            let samples = log_state.end.mark.total.saturating_sub(settled.settled.total);
            tracing::warn!(
                target = name,
                samples,
                "an orphan: the target is not in the configuration any more; its backlog is kept until the log is full"
            );
            watched.push(target);
        }

        let receiver = Receiver::new(config.receive, appender, registrar.registry.receive());
        let state = Arc::new(State {
            log,
            receiver: receiver.clone(),
            registry: registrar.registry,
            wal_metrics,
            targets: watched,
            is_stopping: AtomicBool::new(false),
            scrape: Mutex::new(()),
        });
        let mut targets = JoinSet::new();
        for (task, watched) in tasks.into_iter().zip(&state.targets) {
            targets.spawn(supervise(task, watched.progress.clone()));
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

/// A segment that is being read takes no file descriptor, a connection takes one: the usual 1024 are few.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it there are fewer connections.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Runs a target. If it panics, that is a mistake of ours: it must be seen, and must not take the other targets with it.
async fn supervise(target: Target, progress: Arc<Progress>) {
    if let Err(error) = tokio::spawn(target.run()).await
        && error.is_panic()
    {
        tracing::error!(target = progress.name(), %error, "internal error: the target has stopped; its data is kept, restart to go on");
        progress.enter(Phase::Held, Some("internal error: restart promrelay to go on".into()), now_ms());
    }
}

fn log_report(report: &Report, sync: SyncMode) {
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
    if report.torn_bytes > 0 && sync == SyncMode::Always {
        tracing::info!(bytes = report.torn_bytes, "cut a torn tail off the log; it was never acknowledged");
    } else if report.torn_bytes > 0 {
        tracing::warn!(
            bytes = report.torn_bytes,
            "cut a torn tail off the log; some of it may have been acknowledged, since wal.sync is not \"always\""
        );
    }
}

/// Puts targets in their places.
struct Registrar {
    dir: PathBuf,
    store: Store,
    log: Log,
    log_state: LogState,
    registry: Registry,
}

impl Registrar {
    /// Finds where a name goes on and opens its savepoint.
    fn watch(
        &mut self,
        name: &str,
        url: String,
        start_from: Option<StartFrom>,
        phase: Phase,
    ) -> Result<Watched, StartError> {
        let found = self.store.find(name, self.log.id());
        let (saved, why) = starting_point(found, self.log_state, start_from);
        let after = saved.savepoint.settled.position.0;
        match why {
            Why::Resumed => {}
            Why::New => tracing::info!(target = name, after, "a new target"),
            Why::Damaged => tracing::error!(
                target = name,
                after,
                "the savepoint is lost: the target gets everything that is in the log, some of it again; its counters begin anew"
            ),
            Why::Foreign => tracing::error!(
                target = name,
                after,
                "the savepoint is of another log: the target gets everything that is in this one"
            ),
        }
        let file = self.store.open_file(name, self.log.id(), saved).map_err(|source| StartError::Savepoint {
            name: name.to_owned(),
            path: self.dir.clone(),
            source,
        })?;
        let metrics = self.registry.target(name, &Phase::ALL.map(Phase::as_str), &Reason::ALL.map(Reason::as_str));
        let progress = Progress::new(name.to_owned(), url, file, saved, phase, now_ms());
        Ok(Watched { progress: Arc::new(progress), metrics: Arc::new(metrics), is_orphan: phase == Phase::Orphan })
    }
}
