//! What the disk has to take for each byte received, counted from one change of files to a later one: so each file's preparation, its
//! data and its end are in it once.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::{self, Until};
use crate::report::{Spread, Table};
use crate::subject::{BARE, BARE_ZEROED, PROMRELAY, PROMRELAY_PREFILLED, Subject};

/// Those that are compared.
const SUBJECTS: [Subject; 4] = [PROMRELAY, PROMRELAY_PREFILLED, BARE, BARE_ZEROED];
/// Smaller than usual, so that a measurement of whole files does not take long. Header and seal are 0.1 % of it.
const FILE_BYTES: u64 = 8 << 20;
/// Nothing is being prepared any more when nothing was written for this time.
const QUIET: Duration = Duration::from_millis(300);

/// What is written.
#[derive(Clone, Copy, Debug)]
struct Case {
    body_len: usize,
    appenders: usize,
    /// Whole files that are counted.
    files: usize,
}

const CASES: [Case; 4] = [
    Case { body_len: 50_000, appenders: 1, files: 4 },
    Case { body_len: 50_000, appenders: 64, files: 16 },
    Case { body_len: 2_000, appenders: 1, files: 1 },
    Case { body_len: 2_000, appenders: 64, files: 8 },
];

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Turn {
    process: f64,
    /// Where the kernel counts for the device.
    device: Option<f64>,
    records_per_sync: f64,
    p50_ms: f64,
}

/// All of them.
#[derive(Debug)]
pub struct Writes {
    rows: Vec<(Case, Subject, Vec<Turn>)>,
}

/// Measures.
pub fn measure(dir: &Path, rounds: usize) -> Result<Writes, Box<dyn Error>> {
    let mut rows: Vec<_> = CASES.iter().flat_map(|case| SUBJECTS.map(|subject| (*case, subject, Vec::new()))).collect();
    for round in 0..rounds {
        eprintln!("bytes on the device: round {} of {rounds}", round + 1);
        for (case, subject, turns) in &mut rows {
            turns.push(one_turn(dir, *subject, *case)?);
        }
    }
    Ok(Writes { rows })
}

fn one_turn(dir: &Path, subject: Subject, case: Case) -> Result<Turn, Box<dyn Error>> {
    let Case { body_len, appenders, files } = case;
    let running = Arc::new(subject.open(dir, appenders, body_len, FILE_BYTES)?);
    // Into the second file.
    load::append(&running, appenders, Until::Records(running.records_per_file + 1))?;
    come_to_rest(dir)?;
    let (process, device, syncs) = (written_by_process()?, written_to_device(dir)?, running.syncs.read());
    let records = running.records_per_file * files;
    let took = load::append(&running, appenders, Until::Records(records))?;
    come_to_rest(dir)?;
    let per_byte = |written: u64| written as f64 / (records * body_len) as f64;
    let after = running.syncs.read();
    let turn = Turn {
        process: per_byte(written_by_process()? - process),
        device: device.zip(written_to_device(dir)?).map(|(before, after)| per_byte(after - before)),
        records_per_sync: (after.1 - syncs.1) as f64 / (after.0 - syncs.0) as f64,
        p50_ms: took[took.len() / 2].as_secs_f64() * 1e3,
    };
    Arc::into_inner(running).ok_or("an appender did not end")?.close()?;
    load::settle(dir)?;
    Ok(turn)
}

/// Waits until the next file is prepared, and all of it is on the device.
fn come_to_rest(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut written = written_by_process()?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        std::thread::sleep(QUIET / 10);
        let now = written_by_process()?;
        if now != written {
            (written, since) = (now, Instant::now());
        }
    }
    load::settle(dir)?;
    Ok(())
}

/// Bytes of pages that this process made dirty.
fn written_by_process() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("the kernel does not count what a process writes")?.parse()?)
}

/// Bytes that went to the device below a directory; `None` where it has no statistics of its own.
fn written_to_device(dir: &Path) -> Result<Option<u64>, Box<dyn Error>> {
    let device = fs::metadata(dir)?.dev();
    let (major, minor) = (rustix::fs::major(device).to_string(), rustix::fs::minor(device).to_string());
    let statistics = fs::read_to_string("/proc/diskstats")?;
    let sectors = statistics.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.len() > 9 && fields[0] == major && fields[1] == minor).then(|| fields[9].parse::<u64>())
    });
    Ok(sectors.transpose()?.map(|sectors| sectors * 512))
}

impl Writes {
    /// For people.
    pub fn print(&self) {
        println!(
            "\nbytes written for each byte of body, whole files of {} MiB, {} rounds: median [min..max]; device: the least",
            FILE_BYTES >> 20,
            self.rows[0].2.len()
        );
        let mut table =
            Table::new(&["body", "appenders", "", "MB received", "process", "device", "records/sync", "p50 ms"]);
        for (case, subject, turns) in &self.rows {
            let of = |number: fn(&Turn) -> f64| Spread::of(turns.iter().map(number), 2).to_string();
            let device = turns.iter().filter_map(|turn| turn.device).reduce(f64::min);
            let records = case.files as u64 * FILE_BYTES / case.body_len as u64;
            table.row(vec![
                case.body_len.to_string(),
                case.appenders.to_string(),
                subject.name.into(),
                (records * case.body_len as u64 / 1_000_000).to_string(),
                of(|turn| turn.process),
                device.map_or_else(|| "not known".into(), |least| format!("{least:.2}")),
                of(|turn| turn.records_per_sync),
                of(|turn| turn.p50_ms),
            ]);
        }
        print!("{table}");
    }
}
