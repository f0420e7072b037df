//! Makes backlogs, in a process of its own that can be killed.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use promrelay::savepoint::{Outcomes, Saved, Savepoint, Store};
use promrelay::wal::directory::Directory;
use promrelay::wal::{Appender, Log, Mark, Opened, Options, Readable, SyncMode};
use rustix::process::{Signal, getpid, kill_process};

use crate::subject::{LOG, Syncs, random_body, record};

/// The relay's default.
pub const SEGMENT_BYTES: u64 = 128 << 20;
/// The targets; each has settled another share of the backlog, the first one nothing.
pub const TARGETS: [&str; 4] = ["target-0", "target-1", "target-2", "target-3"];

/// Nobody waits for a sync here.
const OPTIONS: Options = Options { segment_bytes: SEGMENT_BYTES, sync: SyncMode::Never, ..LOG };
const BODY_LEN: usize = 50_000;
/// Records on their way to the writer.
const WINDOW: usize = 64;

/// What the process shall do.
#[derive(Clone, Debug)]
pub enum Order {
    /// Append this much, save four targets at their places, and end in order.
    Build {
        /// The log's.
        dir: PathBuf,
        /// Of records.
        bytes: u64,
    },
    /// Fill a segment, and be killed.
    Fill {
        /// The log's.
        dir: PathBuf,
        /// Of each record.
        body_len: usize,
    },
}

const BUILD: &str = "build-backlog";
const FILL: &str = "fill-segment";

impl Order {
    /// What this process was started for, if not for a benchmark.
    pub fn from_args(mut args: impl Iterator<Item = String>) -> Result<Option<Order>, Box<dyn Error>> {
        let (what, dir, number) = (args.next(), args.next(), args.next());
        let (Some(what), Some(dir), Some(number)) = (what, dir.map(PathBuf::from), number) else { return Ok(None) };
        Ok(match &*what {
            BUILD => Some(Order::Build { dir, bytes: number.parse()? }),
            FILL => Some(Order::Fill { dir, body_len: number.parse()? }),
            _ => None,
        })
    }

    /// In a process of its own; returns when that has ended.
    pub fn give(&self) -> Result<(), Box<dyn Error>> {
        let (what, dir, number) = match self {
            Order::Build { dir, bytes } => (BUILD, dir, bytes.to_string()),
            Order::Fill { dir, body_len } => (FILL, dir, body_len.to_string()),
        };
        let status = Command::new(env::current_exe()?).arg(what).arg(dir).arg(number).status()?;
        let was_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::KILL.as_raw());
        let is_as_ordered = match self {
            Order::Build { .. } => status.success(),
            Order::Fill { .. } => was_killed,
        };
        if is_as_ordered { Ok(()) } else { Err(format!("{what} ended with {status}").into()) }
    }

    /// In this process.
    pub fn carry_out(&self) -> Result<(), Box<dyn Error>> {
        match self {
            Order::Build { dir, bytes } => build(dir, *bytes),
            Order::Fill { dir, body_len } => fill(dir, *body_len),
        }
    }
}

fn open(dir: &Path, store: &Store) -> Result<Opened, Box<dyn Error>> {
    Ok(Log::open(Directory::open(dir)?, OPTIONS, &store.floors(), Arc::new(Syncs::default()))?)
}

fn build(dir: &Path, bytes: u64) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let mut store = Store::open(dir)?;
    let Opened { log, appender, closer, .. } = open(dir, &store)?;
    let body = random_body(BODY_LEN);
    let records = usize::try_from(bytes / record(body.clone()).stored_len())?;
    for name in TARGETS {
        let saved = Saved { generation: 1, epoch: 0, savepoint: settled_up_to(log.readable()) };
        store.open_file(name, log.id(), saved)?;
        append(&appender, &body, records / TARGETS.len())?;
    }
    drop(appender);
    closer.close();
    Ok(())
}

fn settled_up_to(end: Readable) -> Savepoint {
    let mut savepoint = Savepoint::default();
    let settled = savepoint.settle(Mark::default(), end.mark, end.place, Outcomes::delivered(end.mark.total));
    settled.expect("what is settled in order fits");
    savepoint
}

fn fill(dir: &Path, body_len: usize) -> Result<(), Box<dyn Error>> {
    let opened = open(dir, &Store::open(dir)?)?;
    let body = random_body(body_len);
    let fitting = Options::record_bytes_max(SEGMENT_BYTES) / record(body.clone()).stored_len();
    append(&opened.appender, &body, usize::try_from(fitting)? - 1)?;
    kill_process(getpid(), Signal::KILL)?;
    Err("survived SIGKILL".into())
}

/// Returns when the records are written.
fn append(appender: &Appender, body: &Bytes, records: usize) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for begin in (0..records).step_by(WINDOW) {
            let tickets = begin..records.min(begin + WINDOW);
            let tickets: Vec<_> = tickets.map(|_| appender.append(record(body.clone()), Box::new(()))).collect();
            for mut ticket in tickets {
                ticket.outcome().await?;
            }
        }
        Ok(())
    })
}
