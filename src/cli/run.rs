//! Running the relay until a signal ends it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::relay::Relay;

/// The end comes within this, even if a disk hangs: what was acknowledged is on disk already, and what a target has got is in the
/// page cache.
const END_WITHIN: Duration = Duration::from_millis(1900);

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config) -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would say so on stderr, which is what has failed, and panic.
        .log_internal_errors(false)
        .init();
    super::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::say(&format!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        // Before anything else: a signal during start-up must not find the default action.
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            super::say("cannot listen to signals");
            return ExitCode::FAILURE;
        };
        let started = tokio::select! {
            started = Relay::start(config) => started,
            // Nothing has been acknowledged yet.
            _ = terminate.recv() => return ExitCode::SUCCESS,
            _ = interrupt.recv() => return ExitCode::SUCCESS,
        };
        let relay = match started {
            Ok(relay) => relay,
            Err(error) => {
                super::say(&super::chain(&error));
                return ExitCode::FAILURE;
            }
        };
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => tracing::warn!("SIGHUP is ignored: restart to load another configuration, nothing is lost by it"),
            }
        }
        tracing::info!("ending: no more requests are taken");
        end_soon();
        relay.stop().await;
        ExitCode::SUCCESS
    });
    // A trip to the disk that hangs must not keep the process.
    runtime.shutdown_background();
    code
}

fn end_soon() {
    std::thread::spawn(|| {
        // Nobody sends: this is a sleep that the end of the process ends.
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(END_WITHIN);
        super::say("the disk does not answer; ending without it");
        std::process::exit(0);
    });
}
