//! Measures how the relay delivers: to a slow target, one that refuses, one that was away, one that throttles; and what a kill costs.
//!
//! ```sh
//! cargo bench --bench delivery                                          # everything, below half an hour
//! cargo bench --bench delivery -- --part window,culprits                # see --help
//! cargo bench --bench delivery -- --part outage --outage 600            # ten minutes away
//! cargo bench --bench delivery -- --part pair --scrapes 240             # an hour of two upstreams
//! ```
//!
//! ```text
//!   this process                    the relay, alone                       this process
//!   upstream: bodies, connections ---> log ---> one target ---> target: judges, waits, answers; remembers every request
//!             '-- /proc: CPU, memory --'
//! ```
//!
//! | part | the target | what is asked |
//! |---|---|---|
//! | `window` | takes 200 ms for each answer | samples a second out of a backlog, for each `max_in_flight` |
//! | `culprits` | refuses one series of 2000, with all that comes with it | requests and time until a merged batch is settled |
//! | `outage` | is away while load comes in, then back | how fast the backlog goes while load comes in, at what cost |
//! | `throttle` | takes so many samples a second, else 429 with `Retry-After: 1` | how much of that it gets, how often it says no |
//! | `kill` | takes 100 ms for each answer | what is sent twice after `kill -9`, and that nothing is lost |
//! | `pair` | is strict: a sample that is not newer spoils its request | two upstreams with equal series, a series twice in each request |
//! | `beside` | is well, beside five that are not | whether acknowledgements and delivery take longer for that |
//!
//! # How to read it
//! - Every series takes the same number of bytes, so a target knows the samples of a request by its length. Only where it must look at series
//!   (`culprits`, `kill`, `pair`) it decompresses. What upstream and target cost is shown beside the relay's CPU: with few CPUs they compete.
//! - *silence*: the longest time in which no request was at the target, between the first and the last. A pause that was asked for is one.
//! - *in flight*: requests at the target at the same time; the mean is weighted by time.
//! - Times in `culprits` and `pair` depend on how long an answer takes: see `--latency`.
//! - Nothing here fails because it is slow. What must not be, such as lost samples, is printed in words.

#![allow(
    clippy::disallowed_methods,
    reason = "upstream and target are blocking threads: cheaper than a runtime, and nothing has to end them early"
)]

mod beside;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/body.rs"]
mod body;
mod culprits;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/http.rs"]
mod http;
mod kill;
mod outage;
mod pair;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/process.rs"]
mod process;
mod relay;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/report.rs"]
mod report;
mod series;
mod target;
mod throttle;
mod timeline;
mod upstream;
mod window;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use process::{cpu_in_ticks, machine_busy};

#[derive(Parser)]
#[command(about = "Measures delivery: window, culprits, outage, throttling, kills, pairs")]
struct Args {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "window,culprits,outage,throttle,kill,pair,beside")]
    part: Vec<Part>,
    /// How often `window`, `culprits`, `pair` and `beside` are measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long the target is away, in seconds.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// How long the target throttles, in seconds; more than 30.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(31..))]
    throttle: u64,
    /// What a throttling target takes, in samples per second.
    #[arg(long, value_delimiter = ',', default_value = "20000,100000")]
    throttle_at: Vec<u32>,
    /// How often the relay is killed.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// The load of `outage` and `kill`, in samples per second.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    rate: u32,
    /// How long an answer takes in `culprits`, `outage`, `throttle` and `pair`, in milliseconds.
    #[arg(long, default_value_t = 10)]
    latency: u64,
    /// How many scrapes `pair` has: one for each 15 s, 240 for an hour.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    scrapes: u16,
    /// Requests at the target second by second, for a closer look.
    #[arg(long)]
    timeline: bool,
    /// Where data is written meanwhile; must be on a real disk. Default: below cargo's target directory.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"), hide_default_value = true)]
    dir: PathBuf,
    /// The relay to measure. Default: the one that cargo has built for this benchmark.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_promrelay"), hide_default_value = true)]
    promrelay: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A slow target, and more and more requests at a time.
    Window,
    /// One series of 2000 is refused.
    Culprits,
    /// A target that is away, and comes back under load.
    Outage,
    /// A target that takes so much and no more.
    Throttle,
    /// `kill -9` with requests in flight.
    Kill,
    /// Two upstreams with equal series.
    Pair,
    /// Bad targets beside a good one.
    Beside,
}

/// What all parts need.
#[derive(Debug)]
struct Rig<'a> {
    promrelay: &'a Path,
    /// Each measurement makes a directory of its own in it.
    dir: &'a Path,
    latency: Duration,
    rounds: usize,
    /// Of `pair`.
    scrapes: usize,
    shows_timeline: bool,
}

impl Rig<'_> {
    fn show(&self, seen: &timeline::Timeline) {
        if self.shows_timeline {
            eprint!("{seen}");
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs benchmarks too.
        println!("nothing is measured without --bench, which `cargo bench` gives");
        return Ok(());
    }
    let began = Instant::now();
    std::fs::create_dir_all(&args.dir)?;
    let version = Command::new(&args.promrelay).arg("--version").output()?;
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    println!("{}", report::machine(&args.dir));
    let rig = Rig {
        promrelay: &args.promrelay,
        dir: &args.dir,
        latency: Duration::from_millis(args.latency),
        rounds: args.rounds,
        scrapes: args.scrapes.into(),
        shows_timeline: args.timeline,
    };
    for part in &args.part {
        let (start, own, busy) = (Instant::now(), cpu_in_ticks(std::process::id())?, machine_busy()?);
        match part {
            Part::Window => window::measure(&rig)?,
            Part::Culprits => culprits::measure(&rig)?,
            Part::Outage => outage::measure(&rig, Duration::from_secs(args.outage), args.rate)?,
            Part::Throttle => throttle::measure(&rig, Duration::from_secs(args.throttle), &args.throttle_at)?,
            Part::Kill => kill::measure(&rig, args.kills, args.rate)?,
            Part::Pair => pair::measure(&rig)?,
            Part::Beside => beside::measure(&rig)?,
        }
        let share = |cpu: Duration| 100.0 * cpu.as_secs_f64() / start.elapsed().as_secs_f64();
        println!(
            "took {:.0} s; of one CPU: the machine was busy for {:.0} %, of this upstream and target were {:.0} %; load average {}",
            start.elapsed().as_secs_f64(),
            share(machine_busy()? - busy),
            share(cpu_in_ticks(std::process::id())? - own),
            report::load_average(),
        );
    }
    println!("\ntook {:.0} s in all", began.elapsed().as_secs_f64());
    Ok(())
}
