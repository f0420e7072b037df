//! `promrelay dead-letter`: what targets refused for good. On a log that no process uses its file is opened; else the process that uses it
//! is asked, over its HTTP interface.
//!
//! ```text
//!   lock of wal.dir free   ---> files        dead-letter/ring.dl; nobody is there who could send anything again
//!   taken                  ---> live         GET and POST at server.listen (drop and resend need server.admin = true there)
//! ```

mod live;
mod print;

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};

use super::live::LiveError;
use super::wal::text::count;
use super::{chain, is_confirmed, out, say};
use crate::config::Config;
use crate::dead_letter::{Listing, Ring, RingError, Shown};
use crate::relay::dead_letters::{chosen, drop_chosen};
use crate::wal::directory::{Directory, DirectoryError};
use crate::web::admin::Refusal;
use crate::web::dead_letters::{Dropped, LISTED_MAX, Which};
use live::Live;

/// See the module.
#[derive(Debug, Args)]
pub struct DeadLetter {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what was refused: when, by whom, why, and of what.
    Ls {
        /// Only what this target refused.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Show one entry with what the target said and the first samples of its body.
    Show {
        /// Its number.
        id: u64,
        /// With --json: the request's body as well, in base64.
        #[arg(long, requires = "json")]
        body: bool,
    },
    /// Give entries up.
    Drop(Chosen),
    /// Send entries to their targets again, oldest first, beside what they are owed. What is delivered is taken out; the rest stays. Needs
    /// promrelay to run.
    Resend(Chosen),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
struct Chosen {
    /// Their numbers.
    #[arg(value_name = "ID", group = "which")]
    ids: Vec<u64>,
    /// All that this target refused.
    #[arg(long, value_name = "NAME", group = "which")]
    target: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

impl Chosen {
    fn which(&self) -> Which {
        match &self.target {
            Some(target) => Which::Target(target.clone()),
            None => Which::Ids(self.ids.clone()),
        }
    }
}

fn nothing_of(target: &str) -> DeadLetterError {
    Refusal::Unknown(format!("there is nothing of target {target:?} in the dead-letter ring")).into()
}

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
enum DeadLetterError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("there is no log in {0}")]
    NoLog(String),
    #[error("cannot open the dead-letter ring")]
    Open(#[source] std::io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("nobody is there to send anything: promrelay must run to resend")]
    Stopped,
    #[error("{0} of them could not be sent again, and were kept")]
    Kept(usize),
    #[error("nothing was done")]
    Declined,
}

/// Where the entries are.
enum Letters {
    Files(Box<Ring>, #[allow(dead_code, reason = "it holds the lock")] Directory),
    Live(Live),
}

/// Runs a command.
pub fn run(config: &Config, letter: &DeadLetter) -> ExitCode {
    match execute(config, letter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(config: &Config, DeadLetter { command, json }: &DeadLetter) -> Result<(), DeadLetterError> {
    if !config.wal_dir.is_dir() {
        return Err(DeadLetterError::NoLog(config.wal_dir.display().to_string()));
    }
    let letters = match Directory::open(&config.wal_dir) {
        Ok(directory) => {
            let ring = Ring::open_existing(&config.wal_dir).map_err(DeadLetterError::Open)?;
            Letters::Files(Box::new(ring), directory)
        }
        Err(DirectoryError::Locked { .. }) => Letters::Live(Live::new(config)?),
        Err(error) => return Err(error.into()),
    };
    match command {
        Command::Ls { target } => print::list(&letters.list(target.as_deref())?, target.as_deref(), *json),
        Command::Show { id, body } => print::show(&letters.show(*id, *body)?, *json),
        Command::Drop(chosen) => {
            let which = chosen.which();
            if !chosen.yes {
                let Dropped { entries, samples } = letters.plan(&which)?;
                ask(&format!("{} with {} are given up", entries_text(entries), count(samples, "sample")))?;
            }
            let Dropped { entries, samples } = letters.drop_chosen(&which)?;
            if *json {
                out(&serde_json::json!({ "entries": entries, "samples": samples }).to_string());
            } else {
                out(&format!("dropped {} with {}", entries_text(entries), count(samples, "sample")));
            }
        }
        Command::Resend(chosen) => {
            let Letters::Live(live) = &letters else { return Err(DeadLetterError::Stopped) };
            let which = chosen.which();
            if !chosen.yes {
                let Dropped { entries, samples } = letters.plan(&which)?;
                ask(&format!("{} with {} are sent again", entries_text(entries), count(samples, "sample")))?;
            }
            let kept = print::resent(live, &letters.ids(&which)?, *json)?;
            if kept > 0 {
                return Err(DeadLetterError::Kept(kept));
            }
        }
    }
    Ok(())
}

fn entries_text(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

fn ask(what: &str) -> Result<(), DeadLetterError> {
    if is_confirmed(what) { Ok(()) } else { Err(DeadLetterError::Declined) }
}

impl Letters {
    fn list(&self, target: Option<&str>) -> Result<Listing, DeadLetterError> {
        match self {
            Letters::Files(ring, _) => Ok(ring.list(target, LISTED_MAX)?),
            Letters::Live(live) => Ok(live.list(target)?),
        }
    }

    fn show(&self, id: u64, with_body: bool) -> Result<Shown, DeadLetterError> {
        match self {
            Letters::Files(ring, _) => Ok(Shown::new(&ring.get(id)?, with_body)),
            Letters::Live(live) => Ok(live.show(id, with_body)?),
        }
    }

    /// What is meant: how many entries, and their samples.
    fn plan(&self, which: &Which) -> Result<Dropped, DeadLetterError> {
        match (self, which) {
            (Letters::Files(ring, _), _) => {
                let chosen = chosen(ring, which)?;
                Ok(Dropped { entries: chosen.len() as u64, samples: chosen.iter().map(|(_, samples)| samples).sum() })
            }
            (_, Which::Target(target)) => {
                let Listing { entries, older } = self.list(Some(target))?;
                if entries.is_empty() {
                    return Err(nothing_of(target));
                }
                let samples = entries.iter().map(|entry| entry.samples).sum();
                Ok(Dropped { entries: entries.len() as u64 + older, samples })
            }
            (_, Which::Ids(ids)) => {
                let samples = ids.iter().map(|id| Ok(self.show(*id, false)?.summary.samples));
                let samples: Vec<u64> = samples.collect::<Result<_, DeadLetterError>>()?;
                Ok(Dropped { entries: ids.len() as u64, samples: samples.iter().sum() })
            }
        }
    }

    /// The numbers of what is meant, oldest first.
    fn ids(&self, which: &Which) -> Result<Vec<u64>, DeadLetterError> {
        let mut ids = match which {
            Which::Ids(ids) => ids.clone(),
            Which::Target(target) => {
                let Listing { entries, older } = self.list(Some(target))?;
                if older > 0 {
                    say(&format!(
                        "{} are older than those that are sent now: ask again afterwards",
                        entries_text(older)
                    ));
                }
                if entries.is_empty() {
                    return Err(nothing_of(target));
                }
                entries.iter().map(|entry| entry.id).collect()
            }
        };
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn drop_chosen(&self, which: &Which) -> Result<Dropped, DeadLetterError> {
        match self {
            Letters::Files(ring, _) => Ok(drop_chosen(ring, which)?),
            Letters::Live(live) => Ok(live.drop_chosen(which)?),
        }
    }
}
