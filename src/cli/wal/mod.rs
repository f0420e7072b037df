//! `promrelay wal`: looking at a log, beside a running relay or without one. Nothing is locked, and nothing is changed.

pub(super) mod content;
mod dump;
mod ls;
pub(super) mod records;
pub(super) mod text;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::savepoint::{self, Listed};
use crate::wal::survey::Survey;
use crate::wal::{Floor, Position};

const AFTER_HELP: &str = "All of them read only: they take no lock, change nothing, and may run while a relay does.";

/// What to do with the log.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Wal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the segments: what they hold, in which state they are, and who still needs them.
    Ls(ls::Ls),
    /// Read everything, and say what is damaged and how much is gone with it.
    Verify(verify::Verify),
    /// Show records.
    Dump(dump::Dump),
}

/// What all of them take.
#[derive(Debug, Args)]
struct Common {
    /// Look at this directory instead of the one that the configuration names.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Why a tool ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    /// A directory of something else.
    #[error("there is no log in {}", path.display())]
    NoLog {
        /// Which.
        path: PathBuf,
    },
    /// Nobody reads what we write, or it cannot be written.
    #[error("cannot write")]
    Output(#[from] io::Error),
    /// The log's directory.
    #[error("cannot read {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs one of the tools.
pub fn run(config: &Path, wal: &Wal) -> ExitCode {
    let common = match &wal.command {
        Command::Ls(ls) => &ls.common,
        Command::Verify(verify) => &verify.common,
        Command::Dump(dump) => &dump.common,
    };
    match &common.dir {
        Some(directory) => wal.command.run(directory),
        None => super::configured(config, |config| wal.command.run(&config.wal_dir)),
    }
}

impl Command {
    fn run(&self, directory: &Path) -> ExitCode {
        let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        let done = match self {
            Command::Ls(ls) => ls.run(directory, &mut out),
            Command::Verify(verify) => verify.run(directory, &mut out),
            Command::Dump(dump) => dump.run(directory, &mut out),
        };
        ended(done.and_then(|code| Ok(out.flush().map(|()| code)?)))
    }
}

/// How a tool ends that came so far.
pub(super) fn ended(done: Result<ExitCode, ToolError>) -> ExitCode {
    match done {
        Ok(code) => code,
        // `| head` has seen enough. What is still in the buffer nobody wants.
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            super::say(&super::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// A log and its savepoints.
pub(super) struct Seen {
    pub(super) survey: Survey,
    savepoints: Vec<Listed>,
}

impl Seen {
    /// The savepoints are read first: they cannot be ahead of what the log holds later.
    pub(super) fn look(directory: &Path) -> Result<Seen, ToolError> {
        let failed = |source| ToolError::Directory { path: directory.to_owned(), source };
        let savepoints = savepoint::list(directory).map_err(failed)?;
        let floors: Vec<Floor> = savepoints.iter().filter_map(Listed::floor).collect();
        let survey = Survey::take(directory, &floors).map_err(failed)?;
        let is_log = !survey.segments.is_empty() || !survey.unusable.is_empty() || !savepoints.is_empty();
        if !is_log && !directory.join("LOCK").exists() {
            return Err(ToolError::NoLog { path: directory.to_owned() });
        }
        Ok(Seen { survey, savepoints })
    }

    /// What a target has settled, if its savepoint means something in this log.
    fn settled(&self, savepoint: &Listed) -> Option<Position> {
        let floor = savepoint.floor().filter(|floor| Some(floor.log_id) == self.survey.log_id)?;
        Some(floor.settled.position)
    }

    /// The targets that have not settled everything up to `last`. One without a usable savepoint will start with the
    /// oldest record.
    fn needed_by(&self, last: Position) -> Vec<&str> {
        let needs = |savepoint: &&Listed| self.settled(savepoint).is_none_or(|settled| settled < last);
        self.savepoints.iter().filter(needs).map(|savepoint| &*savepoint.name).collect()
    }
}

/// `0123456789abcdef..`
fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

/// A file's name without its directory, safe for a terminal.
pub(super) fn file_name(path: &Path) -> String {
    text::plain(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}

/// The same, as it is: JSON escapes for itself.
fn raw_file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `17-4711`; `-` for none.
fn positions(before: Position, last: Position) -> String {
    if last > before { format!("{}-{last}", before.next()) } else { "-".into() }
}
