//! The wiring: opens the log and the savepoints, starts targets and listener, keeps house once a second, ends everything in order.
//!
//! ```text
//!  start   listen -> lock directory -> read savepoints -> recover log (new positions above all savepoints) -> dead-letter ring
//!          -> targets -> serve
//!  every second   look how targets get on -> sync savepoints that moved -> release segments that every target has settled; when full,
//!                 give something up
//!  on request     move, forget or pause a target, or believe it (`moves`); show, resend or drop what targets refused (`dead_letters`)
//!  end     take no more requests -> answer those that are durable, seal the log; beside it targets finish what is in flight
//!          (1.5 s) -> sync savepoints
//! ```
//!
//! Decided here is the order of things, where a target starts (`starting_point`), what a full log gives up first (`room`), what is
//! kept although nobody needs it (`retained`), when a segment is closed early (`lull`), and when the log will be full (`forecast`).

pub mod beside;
pub mod dead_letters;
mod forecast;
mod housekeeping;
mod lull;
pub mod moves;
mod retained;
mod room;
mod starting_point;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::config::Config;
use crate::dead_letter::Ring;
use crate::metrics::{Registry, TargetMetrics, WalMetrics};
use crate::receive::Receiver;
use crate::savepoint::{Reason, Saved, Store};
use crate::target::{self, Orders, Phase, Progress, StartFrom, Target};
use crate::wal::directory::{Directory, DirectoryError};
use crate::wal::findings::Kind;
use crate::wal::{Closer, Finding, Log, Mark, Observer, Opened, Recovery, RecoveryError, Report, SyncMode};
use crate::web;
use beside::{log_options, ring_options};
use housekeeping::keep_house;
use starting_point::{LogState, Why, starting_point};
use state::{Ahead, Parts, State, Watched};

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
    /// The log cannot be listed, or is damaged and `wal.recovery` is `"strict"`. Nothing of it was changed.
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
    /// A savepoint is lost or of another log, and `wal.recovery` is `"strict"`.
    #[error("the savepoint of target {name} is {what}, and wal.recovery = \"strict\"")]
    StrictSavepoint {
        /// Of which target.
        name: String,
        /// What is wrong with it.
        what: &'static str,
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
        if let (Recovery::Strict, Some(name)) = (config.wal.recovery, store.damaged()) {
            return Err(StartError::StrictSavepoint { name: name.to_owned(), what: "lost" });
        }
        let registry = Registry::new();
        let wal_metrics = registry.wal();
        let observer = Arc::new(SyncObserver(wal_metrics.clone()));
        let opened = Log::open(directory, log_options(&config, &store), &store.floors(), observer)
            .map_err(|source| StartError::Log { path: dir.clone(), source })?;
        let Opened { log, appender, report, is_new, closer } = opened;
        log_report(&report, &log.findings().list, config.wal.sync);
        let dead_letters = Arc::new(Ring::open(&config.wal_dir, ring_options(&config)));

        let log_state = LogState { start: log.start(), end: log.readable(), is_new };
        let recovery = config.wal.recovery;
        let mut registrar = Registrar {
            dir,
            store,
            log: log.clone(),
            log_state,
            registry,
            recovery,
            dead_letters: dead_letters.clone(),
        };
        let (stop_targets, stop) = watch::channel(None);
        let (tasks, watched) = match registrar.place(config.targets, &stop) {
            Ok(placed) => placed,
            Err(error) => {
                drop(appender);
                // Nothing is left behind.
                let _ = tokio::task::spawn_blocking(move || closer.close()).await;
                return Err(error);
            }
        };

        let receiver = Receiver::new(config.receive, appender, registrar.registry.receive());
        let mut targets = JoinSet::new();
        for (task, watched) in tasks.into_iter().zip(&watched) {
            targets.spawn(supervise(task, watched.progress.clone()));
        }
        let state = Arc::new(State::new(Parts {
            log,
            receiver: receiver.clone(),
            registry: registrar.registry,
            wal_metrics,
            room: config.room,
            report,
            targets: watched,
            store: registrar.store,
            dead_letters,
        }));
        let housekeeping = tokio::spawn(keep_house(state.clone()));
        let (stop_server, stop) = watch::channel(false);
        let admin = web::admin::router(state.clone(), config.admin);
        let router = receiver.router().merge(web::router(state.clone())).merge(admin);
        let server = tokio::spawn(web::server::serve(listener, router, config.server, stop));
        let readable = state.log.readable().mark;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), listen = %address, log = %config.wal_dir.display(),
            newest = readable.position.0, targets = state.targets().len(), "promrelay takes requests"
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
        state.stopping();
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

/// Runs a target on a thread of its own: what it reads and computes keeps nobody else waiting. If it panics, that is a mistake of ours: it
/// must be seen, and must not take the other targets with it.
async fn supervise(target: Target, progress: Arc<Progress>) {
    let (ended, end) = tokio::sync::oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.map(|runtime| {
            let run = std::panic::AssertUnwindSafe(|| runtime.block_on(target.run()));
            std::panic::catch_unwind(run)
        });
        let _ = ended.send(result);
    };
    let name = format!("target {}", progress.name());
    let error = match std::thread::Builder::new().name(name).spawn(run) {
        Ok(_) => match end.await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(panic))) => panic_text(&*panic),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its thread is gone".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    tracing::error!(target = progress.name(), %error, "internal error: the target has stopped; its data is kept, restart to go on");
    progress.enter(Phase::Held, Some("internal error: restart promrelay to go on".into()), now_ms());
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn log_report(report: &Report, findings: &[Finding], sync: SyncMode) {
    for finding in findings {
        let path = finding.path.display();
        let kept = finding.kept.as_ref().map(|path| path.display().to_string());
        let (offset, bytes, reason) = (finding.offset, finding.bytes, &finding.reason);
        match finding.kind {
            Kind::Damage | Kind::Missing => tracing::error!(
                %path, offset, bytes, %reason, records = finding.records(), samples = finding.samples, kept,
                "part of the log is gone; each target counts as lost what of it it was owed"
            ),
            Kind::Unusable => tracing::error!(
                %path, %reason, records = finding.records(), samples = finding.samples, kept,
                "a file of the log cannot be used"
            ),
            Kind::Unreadable => {
                tracing::error!(%path, %reason, "a file of the log cannot be read; it is left where it is")
            }
            Kind::Repaired => {
                tracing::warn!(%path, offset, %reason, "something in the log is damaged, and nothing is lost by it")
            }
        }
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
    recovery: Recovery,
    dead_letters: Arc<Ring>,
}

impl Registrar {
    /// The targets of the configuration with their tasks, and behind them the orphans.
    fn place(
        &mut self,
        configured: Vec<target::Settings>,
        stop: &target::Stop,
    ) -> Result<(Vec<Target>, Vec<Watched>), StartError> {
        let log = self.log.clone();
        let mut tasks = Vec::new();
        let mut watched = Vec::new();
        for settings in configured {
            let name = settings.name.clone();
            let (url, is_required) = (settings.shown_url(), settings.required);
            let (progress, metrics) = self.watch(&name, url, settings.start_from, Phase::CaughtUp)?;
            let task =
                Target::new(settings, progress.clone(), metrics.clone(), self.dead_letters.clone(), &log, stop.clone())
                    .map_err(|source| StartError::Client { name, source })?;
            watched.push(Watched {
                progress,
                metrics,
                orders: Some(task.orders()),
                is_required,
                ahead: Ahead::default(),
            });
            tasks.push(task);
        }
        let is_configured = |name: &str| watched.iter().any(|target| target.progress.name() == name);
        let orphans: Vec<_> = self.store.known().filter(|name| !is_configured(name)).map(str::to_owned).collect();
        for name in orphans {
            let (progress, metrics) = self.watch(&name, String::new(), None, Phase::Orphan)?;
            let target =
                Watched { progress, metrics, orders: None::<Orders>, is_required: false, ahead: Ahead::default() };
            moves::owe_first(&log, &target);
            let savepoint = target.progress.savepoint();
            let samples = savepoint.pending(log.samples_between(savepoint.settled, self.log_state.end.mark));
            tracing::warn!(
                target = name,
                samples,
                "an orphan: the target is not in the configuration any more; its backlog is kept until the log is full \
                 (`promrelay target forget` gives it up)"
            );
            watched.push(target);
        }
        Ok((tasks, watched))
    }

    /// Finds where a name goes on and opens its savepoint.
    fn watch(
        &mut self,
        name: &str,
        url: String,
        start_from: Option<StartFrom>,
        phase: Phase,
    ) -> Result<(Arc<Progress>, Arc<TargetMetrics>), StartError> {
        let found = self.store.find(name, self.log.id());
        let (mut saved, why) = starting_point(found, self.log_state, start_from);
        if let (Recovery::Strict, Why::Damaged | Why::Foreign) = (self.recovery, why) {
            let what = if why == Why::Damaged { "lost" } else { "of another log" };
            return Err(StartError::StrictSavepoint { name: name.to_owned(), what });
        }
        if let Some(here) = self.as_the_log_counts(name, &saved) {
            // What it says of records behind is of another past, too.
            let next = saved.savepoint.next;
            saved.savepoint.replay(here, next);
            saved.generation += 1;
        }
        let after = saved.savepoint.settled.position.0;
        match why {
            Why::Resumed(_) => {}
            Why::New => tracing::info!(target = name, after, "a new target: it gets what comes after this position"),
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
        let file = self
            .store
            .open_file(name, self.log.id(), saved.clone())
            .map_err(|source| StartError::Savepoint { name: name.to_owned(), path: self.dir.clone(), source })?;
        let metrics = self.registry.target(name, &Phase::ALL.map(Phase::as_str), &Reason::ALL.map(Reason::as_str));
        let progress = Progress::new(name.to_owned(), url, file, saved, phase, now_ms());
        Ok((Arc::new(progress), Arc::new(metrics)))
    }

    /// A savepoint of this log whose total is not the log's at that position has seen another past of it, one that a backup brought back
    /// to be. Then: where it is in this one.
    fn as_the_log_counts(&self, name: &str, saved: &Saved) -> Option<Mark> {
        let settled = saved.savepoint.settled;
        match self.log.mark_at(saved.savepoint.next) {
            Some(here) if here.position == settled.position && here.total != settled.total => {
                tracing::error!(
                    target = name,
                    "the savepoint does not fit the log: was one of them restored from a backup?"
                );
                Some(here)
            }
            _ => None,
        }
    }
}
