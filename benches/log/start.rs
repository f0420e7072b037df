//! Starts against the backlog: after a clean end and after `kill -9`, with a warm and with a cold page cache.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::backlog::{Order, SEGMENT_BYTES, TARGETS};
use crate::http;
use crate::load;
use crate::process::Process;
use crate::report::{Spread, Table};

/// Nobody listens there, and the kernel gives this port to nobody.
const DEAD_TARGET: &str = "http://127.0.0.1:1/api/v1/write";
/// A question costs the starting process next to nothing: its listener queues it.
const ASKED_EVERY: Duration = Duration::from_micros(200);
const READY_WITHIN: Duration = Duration::from_secs(60);
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// What must stay free on the disk.
const SPARE_BYTES: u64 = 4 << 30;

/// How the process before had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a seal.
    Clean,
    /// With a full segment of such records that has none.
    Killed { body_len: usize },
}

const ENDS: [End; 3] = [End::Clean, End::Killed { body_len: 50_000 }, End::Killed { body_len: 2_000 }];

/// Some starts of one kind.
#[derive(Debug)]
struct Row {
    backlog_gib: u64,
    end: End,
    is_cold: bool,
    log_bytes: u64,
    took_ms: Vec<f64>,
    read_mib: Vec<f64>,
}

/// All of them.
#[derive(Debug)]
pub struct Starts {
    rows: Vec<Row>,
    is_all_cold: bool,
}

/// Measures, one backlog after the other.
pub fn measure(dir: &Path, backlogs_gib: &[u64], starts: usize) -> Result<Starts, Box<dyn Error>> {
    let is_all_cold = fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok();
    let mut rows = Vec::new();
    for &backlog_gib in backlogs_gib {
        eprintln!("starts with {backlog_gib} GiB");
        let dir = tempfile::tempdir_in(dir)?;
        let rig = Rig { dir: dir.path(), is_all_cold };
        rig.check_space((backlog_gib << 30) + 4 * starts as u64 * SEGMENT_BYTES)?;
        Order::Build { dir: rig.log(), bytes: backlog_gib << 30 }.give()?;
        for end in ENDS {
            for is_cold in [false, true] {
                let mut row =
                    Row { backlog_gib, end, is_cold, log_bytes: 0, took_ms: Vec::new(), read_mib: Vec::new() };
                for _ in 0..starts {
                    rig.one_start(&mut row)?;
                }
                rows.push(row);
            }
        }
    }
    Ok(Starts { rows, is_all_cold })
}

struct Rig<'a> {
    dir: &'a Path,
    is_all_cold: bool,
}

impl Rig<'_> {
    fn log(&self) -> std::path::PathBuf {
        self.dir.join("data")
    }

    fn one_start(&self, row: &mut Row) -> Result<(), Box<dyn Error>> {
        match row.end {
            // Also so that all that a start needs is in the page cache.
            End::Clean => drop(self.start()?.end()?),
            End::Killed { body_len } => Order::Fill { dir: self.log(), body_len }.give()?,
        }
        load::settle(self.dir)?;
        row.log_bytes = self.log_bytes()?;
        if row.is_cold {
            self.chill()?;
        }
        let started = self.start()?;
        row.took_ms.push(started.took.as_secs_f64() * 1e3);
        row.read_mib.push(started.read_bytes as f64 / f64::from(1 << 20));
        started.end()
    }

    fn start(&self) -> Result<Started, Box<dyn Error>> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut text = format!("[server]\nlisten = \"{address}\"\n\n[wal]\ndir = {:?}\n", self.log());
        write!(text, "max_size = \"1TiB\"\nsegment_size = \"{}MiB\"\n", SEGMENT_BYTES >> 20)?;
        for name in TARGETS {
            write!(text, "\n[[target]]\nname = {name:?}\nurl = {DEAD_TARGET:?}\n")?;
        }
        let config = self.dir.join("config.toml");
        fs::write(&config, text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_promrelay"));
        command.arg("--config").arg(config);
        let began = Instant::now();
        let mut process = Process::start(&mut command, &self.dir.join("log.txt"))?;
        process.wait_until(ASKED_EVERY, READY_WITHIN, || matches!(http::get(address, "/-/ready"), Ok(200)))?;
        let took = began.elapsed();
        let read_bytes = read_from_disk(&process)?;
        Ok(Started { process, took, read_bytes })
    }

    /// What the log's segments take on disk.
    fn log_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.log())? {
            bytes += entry?.metadata()?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// Takes everything out of the page cache, or at least the log.
    fn chill(&self) -> Result<(), Box<dyn Error>> {
        for entry in fs::read_dir(self.log())? {
            let file = File::open(entry?.path())?;
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        if self.is_all_cold {
            fs::write(DROP_CACHES, "3")?;
        }
        Ok(())
    }

    fn check_space(&self, needed: u64) -> Result<(), Box<dyn Error>> {
        let disk = rustix::fs::statvfs(self.dir)?;
        let free = disk.f_bavail * disk.f_frsize;
        if free < needed + SPARE_BYTES {
            return Err(format!("{} GiB are free, {} are needed", free >> 30, (needed + SPARE_BYTES) >> 30).into());
        }
        Ok(())
    }
}

/// A relay that is ready.
struct Started {
    process: Process,
    took: Duration,
    read_bytes: u64,
}

impl Started {
    /// In order: with a seal.
    fn end(self) -> Result<(), Box<dyn Error>> {
        self.process.terminate()?;
        Ok(())
    }
}

/// Bytes that came from the disk for this process.
fn read_from_disk(process: &Process) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/io", process.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(line.and_then(|number| number.parse().ok()).unwrap_or(0))
}

impl Starts {
    /// For people.
    pub fn print(&self) {
        println!(
            "\nstart of the process until /-/ready is 200, {} dead targets at different places: median [min..max]",
            TARGETS.len()
        );
        let mut table =
            Table::new(&["backlog GiB", "log MiB", "end before", "cache", "starts", "ready ms", "read MiB"]);
        for row in &self.rows {
            let end = match row.end {
                End::Clean => "clean".into(),
                End::Killed { body_len } => format!("killed, {body_len} bytes/record"),
            };
            table.row(vec![
                row.backlog_gib.to_string(),
                (row.log_bytes >> 20).to_string(),
                end,
                if row.is_cold { "cold" } else { "warm" }.into(),
                row.took_ms.len().to_string(),
                Spread::of(row.took_ms.iter().copied(), 1).to_string(),
                Spread::of(row.read_mib.iter().copied(), 1).to_string(),
            ]);
        }
        print!("{table}");
        if !self.is_all_cold {
            println!("cold: only the log's files were taken out of the page cache; root may empty all of it");
        }
    }
}
