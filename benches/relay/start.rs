//! How long a start takes, from the process's first moment to `/-/ready` = 200, with a backlog that nobody takes.
//!
//! The relay builds the backlog itself, under load and with a dead target. After SIGTERM the log ends with a seal; after `kill -9`
//! under load it does not, and the last segment has to be read. Cold means: nothing of the log, of the program or of anything else
//! is in the page cache.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::{Load, Pace};
use crate::subject::{Program, Programs, Running, Subject};

/// Nobody listens there, and the kernel gives this port to nobody.
const DEAD_TARGET: &str = "http://127.0.0.1:1/api/v1/write";
/// A question costs the starting process next to nothing: its listener queues it.
const ASKED_EVERY: Duration = Duration::from_micros(200);
/// The backlog is not built for longer.
const BUILD_WITHIN: Duration = Duration::from_secs(60);
/// Load before each `kill -9`.
const LOAD_BEFORE_KILL: Duration = Duration::from_millis(400);

const RELAY: Subject = Subject { program: Program::Promrelay, targets: 1 };

/// Some starts of one kind.
#[derive(Debug)]
pub struct Starts {
    /// For people.
    pub what: &'static str,
    /// On disk before the last start.
    pub backlog_bytes: u64,
    /// In milliseconds.
    pub took: Vec<f64>,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At least this backlog.
    pub backlog_bytes: u64,
    /// Of each kind.
    pub starts: usize,
    /// The page cache stays as it is.
    pub is_warm_only: bool,
}

/// Measures all kinds of starts.
pub fn measure(plan: Plan, programs: &Programs, dir: &Path, load: &mut Load) -> Result<Vec<Starts>, Box<dyn Error>> {
    let can_chill = !plan.is_warm_only && fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok();
    let temperatures: &[bool] = if can_chill { &[false, true] } else { &[false] };
    let rig = Rig { programs, dir };

    let mut all = vec![Starts::new("empty log, warm")];
    for _ in 0..plan.starts {
        let fresh = tempfile::tempdir_in(dir)?;
        let (took, running) = Rig { programs, dir: fresh.path() }.start()?;
        all[0].took.push(took);
        running.process.terminate()?;
    }

    let (_, running) = rig.start()?;
    let begin = Instant::now();
    let mut built = 0;
    while built < plan.backlog_bytes && begin.elapsed() < BUILD_WITHIN {
        let answers = load.send(running.address, Pace::Saturation, Duration::from_millis(250))?;
        built += (answers.latencies.len() * load.body_len()) as u64;
    }
    running.process.terminate()?;

    for &is_cold in temperatures {
        let mut starts = Starts::new(if is_cold { "after SIGTERM, cold" } else { "after SIGTERM, warm" });
        for _ in 0..plan.starts {
            starts.backlog_bytes = rig.log_bytes()?;
            chill(is_cold)?;
            let (took, running) = rig.start()?;
            starts.took.push(took);
            running.process.terminate()?;
        }
        all.push(starts);
    }
    for &is_cold in temperatures {
        let mut starts = Starts::new(if is_cold { "after kill -9, cold" } else { "after kill -9, warm" });
        let (_, mut running) = rig.start()?;
        for _ in 0..plan.starts {
            kill_under_load(running, load);
            starts.backlog_bytes = rig.log_bytes()?;
            chill(is_cold)?;
            let (took, next) = rig.start()?;
            starts.took.push(took);
            running = next;
        }
        all.push(starts);
    }
    Ok(all)
}

impl Starts {
    fn new(what: &'static str) -> Starts {
        Starts { what, backlog_bytes: 0, took: Vec::new() }
    }
}

struct Rig<'a> {
    programs: &'a Programs,
    dir: &'a Path,
}

impl Rig<'_> {
    fn start(&self) -> Result<(f64, Running), Box<dyn Error>> {
        let begin = Instant::now();
        let running = RELAY.start(self.programs, self.dir, &[DEAD_TARGET.to_owned()], ASKED_EVERY)?;
        Ok((begin.elapsed().as_secs_f64() * 1e3, running))
    }

    /// What the log's segments take on disk.
    fn log_bytes(&self) -> Result<u64, Box<dyn Error>> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.dir.join("wal"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".wal") {
                bytes += entry.metadata()?.blocks() * 512;
            }
        }
        Ok(bytes)
    }
}

fn kill_under_load(running: Running, load: &mut Load) {
    let Running { process, address } = running;
    std::thread::scope(|scope| {
        // It ends with broken connections: that is the point.
        scope.spawn(move || load.send(address, Pace::Saturation, 10 * LOAD_BEFORE_KILL));
        std::thread::sleep(LOAD_BEFORE_KILL);
        drop(process);
    });
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

fn chill(is_cold: bool) -> Result<(), Box<dyn Error>> {
    if is_cold {
        // Only clean pages can be dropped.
        rustix::fs::sync();
        fs::write(DROP_CACHES, "3")?;
    }
    Ok(())
}
