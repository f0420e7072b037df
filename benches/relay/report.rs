//! Plain text: what was measured where, and tables that can be pasted into a note.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Middle and ends of some measurements.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
    decimals: usize,
}

impl Spread {
    /// Of these, shown with so many decimals.
    pub fn of(values: impl IntoIterator<Item = f64>, decimals: usize) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Spread { median, min: end(values.first()), max: end(values.last()), decimals }
    }

    /// The one in the middle.
    #[allow(dead_code, reason = "only some of the benchmarks compute with it")]
    pub fn median(&self) -> f64 {
        self.median
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, min, max, decimals } = self;
        write!(f, "{median:.decimals$} [{min:.decimals$}..{max:.decimals$}]")
    }
}

/// Columns, each as wide as it must be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub fn new(columns: &[&str]) -> Table {
        Table { rows: vec![columns.iter().map(ToString::to_string).collect()] }
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Kernel, CPUs, memory, file system, load.
pub fn machine(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu_info = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "unknown".to_owned(), |line| line.trim_start_matches([':', '\t', ' ']).trim().to_owned())
    };
    let cpus = cpu_info.lines().filter(|line| line.starts_with("processor")).count();
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!(
        "kernel {}, {cpus} CPUs ({}), {} MiB of memory; data on {}; load average {}",
        read("/proc/sys/kernel/osrelease"),
        field(&cpu_info, "model name"),
        kib >> 10,
        file_system(dir),
        load_average(),
    )
}

/// Over the last one, five and fifteen minutes.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Kind and device of the file system that holds a directory.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [device, point, kind, ..] = fields[..] else { return None };
            dir.starts_with(point).then_some((point.len(), device, kind))
        })
        // Of two on the same directory the later one is seen.
        .max_by_key(|(len, ..)| *len);
    match mount {
        None => "an unknown file system".to_owned(),
        Some((.., "tmpfs")) => "tmpfs, WHERE A SYNC DOES NOTHING (see --dir)".to_owned(),
        Some((_, device, kind)) => format!("{kind} ({device})"),
    }
}

/// How long it takes to make one body durable while nobody else wants the disk: write and `fdatasync` into an allocated file.
pub fn probe_sync(dir: &Path, len: usize, times: usize) -> io::Result<Vec<Duration>> {
    let path = dir.join("probe");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let bytes = vec![0x5a; len];
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, (len * times) as u64)?;
    file.sync_all()?;
    let mut took = Vec::with_capacity(times);
    for turn in 0..times {
        let start = Instant::now();
        file.write_all_at(&bytes, (len * turn) as u64)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    fs::remove_file(path)?;
    Ok(took)
}
