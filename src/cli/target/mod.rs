//! `promrelay target`: what each target has settled; moving, pausing and believing it. On a log that no process uses this is done on its
//! files; else the process that uses it is asked, over its HTTP interface.
//!
//! ```text
//!   lock of wal.dir free   ---> files        Directory, Store, Log: as a start would
//!   taken                  ---> live         GET and POST at server.listen (changes need server.admin = true there)
//! ```

mod files;
mod live;
mod ls;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::live::LiveError;
use super::{chain, is_confirmed, out, say};
use crate::clock::now_ms;
use crate::clock::point::parse_point;
use crate::config::Config;
use crate::wal::directory::{Directory, DirectoryError};
use crate::web::admin::{Paused, Plan};
use files::Files;
use live::Live;

/// See the module.
#[derive(Debug, Args)]
pub struct Target {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all targets with a savepoint: how far they are, and what became of their samples.
    Ls,
    /// Move a target: forward skips data (it is counted as dropped), backward sends it again.
    Seek {
        /// The target.
        name: String,
        /// `oldest`, `now`, `-2h`, `2026-01-31T10:00:00Z` (both: when it was received) or the position that is sent next.
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Send nothing to a target until `resume`, also after a restart. The log keeps what it is owed, as for a target that is away.
    Pause {
        /// The target.
        name: String,
    },
    /// Let a paused target go on.
    Resume {
        /// The target.
        name: String,
    },
    /// Believe a target that refuses everything (`suspect`): what it refuses counts as refused and is not sent again, until it accepts
    /// something. Needs a running promrelay.
    AcceptRefusals {
        /// The target.
        name: String,
    },
    /// Give a target's savepoint another name, so that the configuration may. Needs promrelay to be stopped.
    Rename {
        /// What it is called now.
        old: String,
        /// What it is to be called.
        new: String,
    },
    /// Delete a target's savepoint: what it is owed is given up. If it is in the configuration it gets nothing more until the next start,
    /// and is new then.
    Forget {
        /// The target.
        name: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

impl Command {
    /// The target that something is done to, on files or live.
    fn moved(&self) -> Option<&str> {
        match self {
            Command::Seek { name, .. }
            | Command::Forget { name, .. }
            | Command::Pause { name }
            | Command::Resume { name }
            | Command::AcceptRefusals { name } => Some(name),
            Command::Ls | Command::Rename { .. } => None,
        }
    }
}

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
enum TargetError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("there is no log in {0}")]
    NoLog(String),
    #[error("cannot open the log")]
    Log(#[from] crate::wal::RecoveryError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("there is no target {name:?} in the log; it has: {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    #[error(
        "the savepoint of {0:?} is damaged or of another log; start promrelay once, and it begins with the oldest record"
    )]
    Unusable(String),
    #[error(transparent)]
    Rename(#[from] crate::savepoint::RenameError),
    #[error(transparent)]
    Time(#[from] crate::clock::point::TimeError),
    #[error(
        "{0:?} cannot be the name of a target: 1 to 100 letters, digits, '_', '.' or '-', the first a letter or a digit"
    )]
    Name(String),
    #[error(
        "a running promrelay (pid {0}) uses the log: stop it first, rename, and start it with the new name in its configuration"
    )]
    Runs(String),
    #[error("no promrelay runs on the log in {0}: there is nobody to believe a target; start it first")]
    Stopped(String),
    #[error("{}", crate::relay::moves::orphan_text(.0))]
    Orphan(String),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("nothing was done")]
    Declined,
}

/// Where the targets are.
enum Targets {
    Files(Box<Files>),
    Live(Live),
}

/// Runs a command.
pub fn run(config: &Config, target: &Target) -> ExitCode {
    match execute(config, target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&chain(&error));
            match error {
                TargetError::Time(_) | TargetError::Name(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn execute(config: &Config, Target { command, json }: &Target) -> Result<(), TargetError> {
    if !config.wal_dir.is_dir() {
        return Err(TargetError::NoLog(config.wal_dir.display().to_string()));
    }
    if let Some(name) = command.moved()
        && !crate::savepoint::is_name(name)
    {
        return Err(TargetError::Name(name.to_owned()));
    }
    let targets = match Directory::open(&config.wal_dir) {
        // Listing changes nothing, not even what a start would.
        Ok(directory) if matches!(command, Command::Ls) => {
            drop(directory);
            return ls::print(&files::rows(config)?, *json);
        }
        Ok(_) if matches!(command, Command::AcceptRefusals { .. }) => {
            return Err(TargetError::Stopped(config.wal_dir.display().to_string()));
        }
        Ok(directory) => Targets::Files(Box::new(Files::open(directory, config)?)),
        Err(DirectoryError::Locked { holder, .. }) => {
            if let Command::Rename { .. } = command {
                return Err(TargetError::Runs(holder.unwrap_or_else(|| "unknown".into())));
            }
            Targets::Live(Live::new(config)?)
        }
        Err(error) => return Err(error.into()),
    };
    match (command, targets) {
        (Command::Ls, Targets::Live(live)) => ls::print(&live.rows()?, *json)?,
        (Command::Seek { name, to, yes }, Targets::Files(mut files)) => {
            let (plan, destination) = files.plan(name, to)?;
            ask(&seek_text(&plan), *yes || plan.stays())?;
            files.seek(name, destination)?;
            done(&plan, *json, &seek_text(&plan));
        }
        (Command::Seek { name, to, yes }, Targets::Live(live)) => {
            parse_point(to, now_ms())?;
            if !yes {
                let plan = live.plan(name, to)?;
                ask(&seek_text(&plan), plan.stays())?;
            }
            let plan = live.seek(name, to)?;
            done(&plan, *json, &seek_text(&plan));
        }
        (Command::Forget { name, yes }, Targets::Files(mut files)) => {
            let plan = files.plan_forget(name)?;
            ask(&forget_text(&plan), *yes)?;
            files.forget(name)?;
            done(&plan, *json, &forget_text(&plan));
        }
        (Command::Forget { name, yes }, Targets::Live(live)) => {
            if !yes {
                ask(&forget_text(&live.plan(name, "now")?), false)?;
            }
            let plan = live.forget(name)?;
            done(&plan, *json, &forget_text(&plan));
        }
        (Command::Pause { name } | Command::Resume { name }, targets) => {
            let is_paused = matches!(command, Command::Pause { .. });
            let paused = match targets {
                Targets::Files(mut files) => {
                    if !config.targets.iter().any(|target| target.name == *name) && files.is_known(name) {
                        return Err(TargetError::Orphan(name.clone()));
                    }
                    files.pause(name, is_paused)?
                }
                Targets::Live(live) => live.pause(name, is_paused)?,
            };
            done(&paused, *json, &pause_text(&paused));
        }
        (Command::AcceptRefusals { name }, Targets::Live(live)) => {
            let text = format!("what {name} refuses is believed and not sent again, until it accepts something");
            done(&live.accept_refusals(name)?, *json, &text);
        }
        (Command::Rename { old, new }, Targets::Files(mut files)) => {
            if !crate::savepoint::is_name(new) {
                return Err(TargetError::Name(new.clone()));
            }
            files.rename(old, new)?;
            if *json {
                out(&serde_json::json!({ "target": new, "was": old }).to_string());
            } else {
                out(&format!("{old} is {new} now: change its name in the configuration before the next start"));
            }
        }
        (Command::Rename { .. }, Targets::Live(_))
        | (Command::Ls | Command::AcceptRefusals { .. }, Targets::Files(_)) => unreachable!("done above"),
    }
    Ok(())
}

fn seek_text(plan: &Plan) -> String {
    let Plan { target, from, to, records, replayed_samples, skipped_samples } = plan;
    if to < from {
        format!(
            "{target} goes back: it begins after position {to}, not after {from}: {replayed_samples} samples of {records} requests are sent again"
        )
    } else if to > from {
        format!(
            "{target} goes on: it begins after position {to}, not after {from}: {skipped_samples} samples of {records} requests are not sent"
        )
    } else {
        format!("{target} stays where it is: it begins after position {to}")
    }
}

fn forget_text(plan: &Plan) -> String {
    let Plan { target, records, skipped_samples, .. } = plan;
    format!(
        "{target} is forgotten: {skipped_samples} samples of {records} requests are not sent, and its counters are gone"
    )
}

fn pause_text(Paused { target, paused }: &Paused) -> String {
    if *paused {
        format!(
            "{target} is paused: nothing is sent to it until `promrelay target resume {target}`; the log keeps its data"
        )
    } else {
        format!("{target} goes on")
    }
}

fn ask(what: &str, yes: bool) -> Result<(), TargetError> {
    if yes || is_confirmed(what) { Ok(()) } else { Err(TargetError::Declined) }
}

fn done(answer: &impl serde::Serialize, json: bool, text: &str) {
    if json {
        out(&serde_json::to_string(answer).expect("an answer is JSON"));
    } else {
        out(text);
    }
}
