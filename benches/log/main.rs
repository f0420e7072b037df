//! Measures the log by itself: what appending costs beside the least that anybody could do, what the disk has to take for each byte
//! received, and how long a start takes against the backlog.
//!
//! ```sh
//! cargo bench --bench log                                    # everything, below five minutes, 1 GiB for the starts
//! cargo bench --bench log -- --part append --rounds 9        # see --help
//! LOG_BENCH_BACKLOG_GIB=1,5,10 cargo bench --bench log -- --part start
//! LOG_BENCH_DIR=/somewhere cargo bench --bench log           # a directory on the disk that is to be measured
//! ```
//!
//! # What is measured
//! ```text
//!                              promrelay                                   bare
//!  append   1 appender:        record, queue, group, pwritev, sync         pwrite, fdatasync; nothing else
//!           8 and 64:          the same                                    queue, group, pwritev, fdatasync, answer
//!           both:              tasks on one thread, each with one record at a time; files allocated one ahead
//!
//!  device   bytes written for each byte of body, over whole segments: the log and bare files, allocated or filled with zeroes ahead
//!
//!  start    a backlog made through the log's own appender; four targets, each at another place of it, none of them there;
//!           from the process's first moment to `GET /-/ready` = 200
//! ```
//! The bare loop writes exactly the bytes that a record takes in a segment, under the same limits of a group, but makes no header and
//! no checksum, counts nothing, seals nothing, and makes no name durable. So what it takes is the disk, and the rest is the log.
//!
//! # How to read it
//! - The log and the bare loop take turns of a tenth of a second, so that a disk that is slow for a while is slow for both. Each number
//!   is the median of the rounds with minimum and maximum; a ratio is taken within a round.
//! - *in sync* is the mean time of a sync, *beside it* what passes per sync outside of it: writing, waking, answering, and
//!   the appenders' own work. *CPU* is that of this whole process, load included, which is the same on both sides.
//! - *process* is `write_bytes` of `/proc/self/io`: bytes of pages as they get dirty, again each time they get dirty after they were
//!   written. It knows nothing of journals, and of a file that was filled in large pieces it counts a whole large page of the cache for
//!   each small record: there believe *device*. That is what the kernel's disk statistics say, journal and metadata included, and
//!   all that others wrote meanwhile: so of the rounds the least one is shown. For exact numbers give it a file system of its own (a loop
//!   device will do): statistics are by device.
//! - *cold*: nothing is in the page cache, of the log, of the program or of anything else. Without root only the log's files are out of it,
//!   and that is said. A host below a virtual machine may have a cache of its own.
//! - *killed*: the last segment is full but for one record and was never sealed, and the next one is allocated: the most that a
//!   start can find. *read* is what the process had read from the disk when it was ready.
//!
//! Everything is written to a directory of its own, which is deleted afterwards.

#![allow(
    clippy::disallowed_methods,
    reason = "waits are for the disk to come to rest, and nothing has to end them early"
)]

mod append;
mod backlog;
mod bare;
mod device;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/http.rs"]
mod http;
mod load;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/process.rs"]
mod process;
#[allow(dead_code, reason = "shared with the benchmark of the relay")]
#[path = "../relay/report.rs"]
mod report;
mod start;
mod subject;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Measures the log: appends beside a bare loop, bytes on the device, starts with a backlog")]
struct Args {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "append,device,start")]
    part: Vec<Part>,
    /// How often each append is measured.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Time of each append in a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often bytes on the device are measured.
    #[arg(long, default_value_t = 2)]
    device_rounds: usize,
    /// Starts of each kind.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// The backlogs, in GiB. Default: what the environment variable LOG_BENCH_BACKLOG_GIB says, or 1.
    #[arg(long, value_delimiter = ',')]
    backlog_gib: Vec<u64>,
    /// Where data is written meanwhile; must be on a real disk. Default: what the environment variable LOG_BENCH_DIR says, or below cargo's
    /// target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Throughput, latency and CPU beside a bare loop.
    Append,
    /// Bytes on the device for each byte received.
    Device,
    /// From the start of the process to readiness.
    Start,
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(order) = backlog::Order::from_args(env::args().skip(1))? {
        return order.carry_out();
    }
    let args = Args::parse();
    if !args.bench {
        // `cargo test --benches` runs benchmarks too.
        println!("nothing is measured without --bench, which `cargo bench` gives");
        return Ok(());
    }
    let began = Instant::now();
    let dir = args
        .dir
        .or_else(|| env::var_os("LOG_BENCH_DIR").map(PathBuf::from))
        .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let backlogs = if args.backlog_gib.is_empty() { backlogs_of_environment()? } else { args.backlog_gib };
    std::fs::create_dir_all(&dir)?;
    println!("promrelay {}", env!("CARGO_PKG_VERSION"));
    println!("{}", report::machine(&dir));
    for part in args.part {
        match part {
            Part::Append => append::measure(&dir, args.rounds, Duration::from_secs_f64(args.seconds))?.print(),
            Part::Device => device::measure(&dir, args.device_rounds)?.print(),
            Part::Start => start::measure(&dir, &backlogs, args.starts)?.print(),
        }
    }
    println!("\ntook {:.0} s; load average at the end {}", began.elapsed().as_secs_f64(), report::load_average());
    Ok(())
}

fn backlogs_of_environment() -> Result<Vec<u64>, Box<dyn Error>> {
    let text = env::var("LOG_BENCH_BACKLOG_GIB").unwrap_or_else(|_| "1".into());
    let numbers = text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>();
    numbers.map_err(|error| format!("LOG_BENCH_BACKLOG_GIB = {text:?}: {error}").into())
}
