//! The command line.
//!
//! Exit codes: 0 ok, 1 something went wrong at run time, 2 the configuration or the command line is wrong.

mod check;
mod dead_letter;
mod live;
mod relabel;
mod run;
mod target;
mod wal;

use std::error::Error;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// A durable relay for Prometheus remote write: it puts every request on disk before it answers, and delivers it to every
/// configured target, in order, however long a target was away.
#[derive(Debug, Parser)]
#[command(name = "promrelay", version, after_help = AFTER_HELP)]
struct Args {
    /// The configuration.
    #[arg(long, short, global = true, value_name = "FILE", default_value = "config.toml")]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and say what it means, without starting anything.
    Check,
    /// What targets refused for good: list it, show it, send it again, give it up.
    DeadLetter(dead_letter::DeadLetter),
    /// Show what targets' rules do to series and to the last minutes of the log, without sending anything.
    Relabel(relabel::Relabel),
    /// List targets, move and pause them, rename and forget them.
    Target(target::Target),
    /// Look at the log: list its segments, verify it, show its records. Nothing is changed.
    Wal(wal::Wal),
}

const AFTER_HELP: &str = "Without a command the relay runs until SIGTERM or SIGINT.\n\
    Point Prometheus' remote_write at http://ADDRESS/api/v1/write; look at http://ADDRESS/ in a browser.\n\
    RUST_LOG=promrelay=debug logs more.";

/// What the process was asked to do.
pub fn main() -> ExitCode {
    let Args { config: path, command } = Args::parse();
    match command {
        Some(Command::Check) => configured(&path, |config| check::check(&path, &config)),
        Some(Command::DeadLetter(letter)) => configured(&path, |config| dead_letter::run(&config, &letter)),
        Some(Command::Relabel(relabel)) => configured(&path, |config| relabel::run(&config, &relabel)),
        Some(Command::Target(target)) => configured(&path, |config| target::run(&config, &target)),
        Some(Command::Wal(wal)) => wal::run(&path, &wal),
        None => configured(&path, run::run),
    }
}

/// Goes on with the configuration, if there is a valid one.
fn configured(path: &Path, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(path) {
        Ok(config) => then(config),
        Err(error) => {
            say(&chain(&error));
            ExitCode::from(2)
        }
    }
}

/// The provider of cryptography for everything that speaks https.
fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Says something on stderr. If nobody listens, that is no reason to panic.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "promrelay: {text}");
}

/// Asks on the terminal; without one the answer is no.
fn is_confirmed(what: &str) -> bool {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{what}. Go on? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        let _ = writeln!(stderr, "\n(--yes goes on without asking)");
    }
    false
}

/// A line on stdout. If nobody reads it, it was done all the same.
fn out(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
