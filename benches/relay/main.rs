//! Measures the relay side by side with its peers, in one run on one machine: CPU per sample, private memory, latency of
//! acknowledgements, start with a backlog.
//!
//! ```sh
//! cargo bench --bench relay                      # everything, below four minutes
//! cargo bench --bench relay -- --help
//! PEER_VMAGENT=/path/to/vmagent cargo bench --bench relay -- --scenario saturation --subjects promrelay:1,vmagent:1
//! ```
//!
//! ```text
//!  this process                   the subject, one at a time                     a process of its own
//!  load: bodies, connections ---> promrelay | vmagent ---> 1 .. n targets ---> sink: 204, counts samples
//!        '-- /proc: CPU, memory ------'
//! ```
//!
//! Honest on a noisy machine: subjects take turns within a round and in another order in the next one; medians are shown with
//! minimum and maximum; what else ran on the machine is shown too. Requests per second are no measure of a relay where load and sink
//! compete with it for the same CPUs, so the measure is CPU per sample. Everything stays on the loopback.

#![allow(
    clippy::disallowed_methods,
    reason = "the load is blocking threads: cheaper than a runtime, and nothing has to end them early"
)]

mod body;
mod delivery;
mod http;
mod load;
mod process;
mod report;
mod sink;
mod start;
mod subject;
mod tables;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use body::SERIES;
use delivery::Delivery;
use load::{Load, Pace};
use sink::Sink;
use subject::{Program, Programs, Subject};
use tables::Measured;

/// Syncs of the idle disk, in each round.
const SYNC_PROBES: usize = 100;

#[derive(Parser)]
#[command(about = "Measures CPU per sample, memory, latency and start of promrelay, with vmagent beside it")]
struct Args {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rate,saturation,start")]
    scenario: Vec<Scenario>,
    /// Program and number of targets.
    #[arg(long, value_delimiter = ',', default_value = "promrelay:1,promrelay:2,promrelay:4,vmagent:1")]
    subjects: Vec<Subject>,
    /// How often each subject is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Samples per second at the fixed rate.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    rate: u32,
    /// Length of a measurement at the fixed rate.
    #[arg(long, default_value_t = 10.0)]
    rate_seconds: f64,
    /// Length of a measurement at saturation.
    #[arg(long, default_value_t = 5.0)]
    saturation_seconds: f64,
    /// Connections of the load, one request at a time on each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Bodies of 2000 series, no series in two of them; at least as many as connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sets: u32,
    /// The relay's `wal.sync`.
    #[arg(long, default_value = "always")]
    sync: String,
    /// Backlog for the starts, in MiB.
    #[arg(long, default_value_t = 1024)]
    backlog: u64,
    /// Starts of each kind.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Leave out cold starts. Otherwise they empty the page cache of the whole machine, if they may.
    #[arg(long)]
    warm_only: bool,
    /// Where data is written meanwhile; must be on a real disk. Default: below cargo's target directory.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"), hide_default_value = true)]
    dir: PathBuf,
    /// The relay to measure. Default: the one that cargo has built for this benchmark.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_promrelay"), hide_default_value = true)]
    promrelay: PathBuf,
    /// The vmagent to measure. Default: the one that the environment variable PEER_VMAGENT names, or the one on PATH.
    #[arg(long)]
    vmagent: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A fixed rate, as in daily life.
    Rate,
    /// As much as goes in over all connections.
    Saturation,
    /// From the start of the process to readiness, with a backlog.
    Start,
}

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().nth(1).as_deref() == Some(sink::ARGUMENT) {
        return sink::run();
    }
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs benchmarks too.
        println!("nothing is measured without --bench, which `cargo bench` gives");
        return Ok(());
    }
    let began = Instant::now();
    let programs = Programs {
        promrelay: args.promrelay.clone(),
        vmagent: args
            .vmagent
            .clone()
            .or_else(|| env::var_os("PEER_VMAGENT").map(PathBuf::from))
            .or_else(|| on_path("vmagent")),
        sync: args.sync.clone(),
    };
    let (subjects, left_out): (Vec<Subject>, Vec<Subject>) =
        args.subjects.iter().partition(|subject| programs.version(subject.program).is_some());
    std::fs::create_dir_all(&args.dir)?;
    let mut load = Load::new(args.sets.max(args.connections) as usize, args.connections as usize);

    for program in [Program::Promrelay, Program::Vmagent] {
        if let Some(version) = programs.version(program) {
            println!("{version}");
        }
    }
    for subject in left_out {
        println!("left out: {subject}: no such program here (set PEER_VMAGENT)");
    }
    println!("{}", report::machine(&args.dir));
    println!(
        "load: remote write 1.0, {} connections, {} bodies of {SERIES} series x 10 labels x 1 sample, {} bytes raw, {} snappy, \
         {} series in all, timestamps move on; wal.sync = {:?}",
        args.connections,
        args.sets.max(args.connections),
        SERIES * body::SERIES_LEN,
        load.body_len(),
        args.sets.max(args.connections) as usize * SERIES,
        args.sync,
    );

    let paces = [
        (Scenario::Rate, Pace::Rate(args.rate), args.rate_seconds),
        (Scenario::Saturation, Pace::Saturation, args.saturation_seconds),
    ]
    .into_iter()
    .filter(|(scenario, ..)| args.scenario.contains(scenario))
    .map(|(scenario, pace, seconds)| (scenario, pace, Duration::from_secs_f64(seconds)))
    .collect::<Vec<_>>();
    if !paces.is_empty() && !subjects.is_empty() {
        let (measured, syncs) = deliveries(&args, &programs, &subjects, &paces, &mut load)?;
        for (scenario, _, lasting) in paces {
            let one = measured.iter().filter(|one| one.scenario == scenario).collect::<Vec<_>>();
            let title = match scenario {
                Scenario::Rate => format!("fixed rate of {} samples/s", args.rate),
                _ => "saturation".to_owned(),
            };
            println!("\n{title}, {} x {lasting:?} each: median [min..max]", args.rounds);
            tables::print_deliveries(scenario == Scenario::Saturation, &subjects, &one);
        }
        tables::print_notes(&measured, &syncs);
    }
    if args.scenario.contains(&Scenario::Start) {
        let dir = tempfile::tempdir_in(&args.dir)?;
        let plan = start::Plan { backlog_bytes: args.backlog << 20, starts: args.starts, is_warm_only: args.warm_only };
        eprintln!("starts");
        tables::print_starts(&start::measure(plan, &programs, dir.path(), &mut load)?);
    }
    println!("\ntook {:.0} s; load average at the end {}", began.elapsed().as_secs_f64(), report::load_average());
    Ok(())
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

type Paces = [(Scenario, Pace, Duration)];

/// All rounds; and how long syncs took between them.
fn deliveries(
    args: &Args,
    programs: &Programs,
    subjects: &[Subject],
    paces: &Paces,
    load: &mut Load,
) -> Result<(Vec<Measured>, Vec<Duration>), Box<dyn Error>> {
    let mut sink = Sink::start()?;
    let mut measured = Vec::new();
    let mut syncs = Vec::new();
    for round in 0..args.rounds {
        syncs.extend(report::probe_sync(&args.dir, load.body_len(), SYNC_PROBES)?);
        for turn in 0..subjects.len() {
            let subject = subjects[(round + turn) % subjects.len()];
            eprintln!("round {} of {}: {subject}", round + 1, args.rounds);
            let dir = tempfile::tempdir_in(&args.dir)?;
            measured.extend(one_process(round, subject, programs, dir.path(), paces, load, &mut sink)?);
        }
    }
    syncs.sort_unstable();
    Ok((measured, syncs))
}

/// One process of a subject: warmed up, then measured at each pace.
fn one_process(
    round: usize,
    subject: Subject,
    programs: &Programs,
    dir: &Path,
    paces: &Paces,
    load: &mut Load,
    sink: &mut Sink,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    let urls: Vec<String> = (0..subject.targets).map(|target| sink.url(target)).collect();
    let running = subject.start(programs, dir, &urls, Duration::from_millis(10))?;
    let before = sink.counts()?.samples;
    let warm_up = load.warm_up(running.address)?.samples() * subject.targets as u64;
    delivery::drain(sink, before + warm_up, Duration::from_secs(10))?;
    let mut measured = Vec::new();
    for &(scenario, pace, lasting) in paces {
        let delivery = Delivery::measure(subject, &running, load, sink, pace, lasting)?;
        measured.push(Measured { round, subject, scenario, delivery });
    }
    running.process.terminate()?;
    Ok(measured)
}
