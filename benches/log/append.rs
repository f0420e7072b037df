//! Appends: throughput, latency and CPU of the log and of the bare loop, in turns of a tenth of a second.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::{self, Until};
use crate::report::{Spread, Table};
use crate::subject::{BARE, PROMRELAY, Running, Subject};

const APPENDERS: [usize; 3] = [1, 8, 64];
const BODY_LEN: usize = 50_000;
const FILE_BYTES: u64 = 128 << 20;
/// Before the first slice, not counted.
const WARM_UP: Duration = Duration::from_millis(100);
/// Short, so that both see the same disk: how fast one is changes from second to second.
const SLICE: Duration = Duration::from_millis(100);

/// A subject in one round.
#[derive(Clone, Copy, Debug)]
struct Turn {
    records_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    records_per_sync: f64,
    in_sync_ms: f64,
    beside_sync_ms: f64,
    cpu_us: f64,
}

/// The turns of one subject, a round each.
#[derive(Debug)]
struct Row {
    appenders: usize,
    subject: Subject,
    turns: Vec<Turn>,
}

/// All of them.
#[derive(Debug)]
pub struct Appends {
    rows: Vec<[Row; 2]>,
    lasting: Duration,
}

/// Measures.
pub fn measure(dir: &Path, rounds: usize, lasting: Duration) -> Result<Appends, Box<dyn Error>> {
    let row = |appenders, subject| Row { appenders, subject, turns: Vec::new() };
    let mut rows: Vec<_> = APPENDERS.map(|appenders| [row(appenders, PROMRELAY), row(appenders, BARE)]).into();
    for round in 0..rounds {
        eprintln!("appends: round {} of {rounds}", round + 1);
        for pair in &mut rows {
            one_round(dir, pair, lasting)?;
        }
    }
    Ok(Appends { rows, lasting })
}

/// Both subjects, a slice of time each, until each has had its time.
fn one_round(dir: &Path, pair: &mut [Row; 2], lasting: Duration) -> Result<(), Box<dyn Error>> {
    let appenders = pair[0].appenders;
    let mut open = Vec::new();
    for row in pair.iter() {
        let running = Arc::new(row.subject.open(dir, appenders, BODY_LEN, FILE_BYTES)?);
        load::append(&running, appenders, Until::Elapsed(WARM_UP))?;
        open.push((running, Sum::default()));
    }
    for slice in 0..usize::try_from(lasting.as_nanos().div_ceil(SLICE.as_nanos()))? {
        for turn in 0..open.len() {
            let (running, sum) = &mut open[(slice + turn) % 2];
            sum.add_slice(running, appenders)?;
        }
    }
    for (row, (running, sum)) in pair.iter_mut().zip(open) {
        row.turns.push(sum.turn());
        Arc::into_inner(running).ok_or("an appender did not end")?.close()?;
    }
    load::settle(dir)?;
    Ok(())
}

/// What a subject did in its slices.
#[derive(Debug, Default)]
struct Sum {
    took: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
    syncs: u64,
    records: u64,
    in_sync: Duration,
}

impl Sum {
    fn add_slice(&mut self, running: &Arc<Running>, appenders: usize) -> Result<(), Box<dyn Error>> {
        let (cpu, syncs, began) = (load::cpu()?, running.syncs.read(), Instant::now());
        self.took.extend(load::append(running, appenders, Until::Elapsed(SLICE))?);
        self.elapsed += began.elapsed();
        self.cpu += load::cpu()?.saturating_sub(cpu);
        let (count, records, in_sync) = running.syncs.read();
        self.syncs += count - syncs.0;
        self.records += records - syncs.1;
        self.in_sync += in_sync - syncs.2;
        Ok(())
    }

    fn turn(mut self) -> Turn {
        self.took.sort_unstable();
        let took = &self.took;
        let at = |share: usize| took.get(took.len() * share / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
        let (elapsed, in_sync, syncs) = (self.elapsed.as_secs_f64(), self.in_sync.as_secs_f64(), self.syncs as f64);
        Turn {
            records_per_s: took.len() as f64 / elapsed,
            p50_ms: at(50),
            p99_ms: at(99),
            records_per_sync: self.records as f64 / syncs,
            in_sync_ms: in_sync * 1e3 / syncs,
            beside_sync_ms: (elapsed - in_sync) * 1e3 / syncs,
            cpu_us: self.cpu.as_secs_f64() * 1e6 / took.len() as f64,
        }
    }
}

impl Appends {
    /// For people.
    pub fn print(&self) {
        let rounds = self.rows[0][0].turns.len();
        println!(
            "\nappends of {BODY_LEN} bytes, sync = always, files of {} MiB, {rounds} rounds of {:?} each: median [min..max]",
            FILE_BYTES >> 20,
            self.lasting
        );
        let mut table = Table::new(&[
            "appenders",
            "",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "records/sync",
            "in sync ms",
            "beside it ms",
            "CPU us/record",
        ]);
        for row in self.rows.iter().flatten() {
            let of =
                |number: fn(&Turn) -> f64, decimals| Spread::of(row.turns.iter().map(number), decimals).to_string();
            table.row(vec![
                row.appenders.to_string(),
                row.subject.name.into(),
                of(|turn| turn.records_per_s * BODY_LEN as f64 / 1e6, 1),
                of(|turn| turn.p50_ms, 2),
                of(|turn| turn.p99_ms, 2),
                of(|turn| turn.records_per_sync, 1),
                of(|turn| turn.in_sync_ms, 3),
                of(|turn| turn.beside_sync_ms, 3),
                of(|turn| turn.cpu_us, 1),
            ]);
        }
        print!("{table}");
        println!("\npromrelay / bare, within a round");
        let mut table = Table::new(&["appenders", "throughput", "p50", "p99", "CPU"]);
        for [ours, bare] in &self.rows {
            let of = |number: fn(&Turn) -> f64| {
                let ratios = ours.turns.iter().zip(&bare.turns).map(|(ours, bare)| number(ours) / number(bare));
                Spread::of(ratios, 2).to_string()
            };
            table.row(vec![
                ours.appenders.to_string(),
                of(|turn| turn.records_per_s),
                of(|turn| turn.p50_ms),
                of(|turn| turn.p99_ms),
                of(|turn| turn.cpu_us),
            ]);
        }
        print!("{table}");
    }
}
