//! A target that takes so many samples a second, and answers 429 with `Retry-After: 1` to what is above: how close the relay comes to what it
//! may send, and how often it has to be told.
//!
//! Its bucket holds a second's worth. A request that is larger than the bucket passes when it is full.

use std::error::Error;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::Rig;
use crate::body::SERIES;
use crate::process::Watch;
use crate::relay::Relay;
use crate::report::Table;
use crate::target::{Answer, Rules, Target};
use crate::timeline::Timeline;
use crate::upstream::{Sets, send_backlog};

const SETS: usize = 64;
/// Then it should know how fast it may send.
const LEARNED_AFTER: Duration = Duration::from_secs(30);

/// Measures and prints.
pub fn measure(rig: &Rig, lasting: Duration, rates: &[u32]) -> Result<(), Box<dyn Error>> {
    println!(
        "\nthrottle: a backlog for {lasting:?}, a target that takes R samples/s with a burst of R, 429 with Retry-After: 1 above, answers take {:?}",
        rig.latency
    );
    let mut sets = Sets::new(SETS);
    let mut table = Table::new(&[
        "R",
        "delivered/R after 30 s",
        "before",
        "429s after 30 s",
        "before",
        "requests/s",
        "samples/request",
        "in flight max",
        "silence s",
        "CPU %",
    ]);
    for &rate in rates {
        eprintln!("throttle: {rate} samples/s");
        let (seen, cpu) = throttled(rig, lasting, rate, &mut sets)?;
        rig.show(&seen);
        let Some((start, _)) = seen.span() else {
            println!("{rate}: NOTHING was sent");
            continue;
        };
        let (learned, end) = (start + LEARNED_AFTER, start + lasting);
        let (before, after) = (seen.between(start, learned), seen.between(learned, end));
        let share = |seen: &Timeline, took: Duration| {
            format!("{:.3}", seen.taken() as f64 / f64::from(rate) / took.as_secs_f64())
        };
        let refusals = |seen: &Timeline| {
            let share = 100.0 * seen.with_status(429) as f64 / seen.requests().max(1) as f64;
            format!("{} of {} ({share:.1} %)", seen.with_status(429), seen.requests())
        };
        let seconds = (lasting - LEARNED_AFTER).as_secs_f64();
        table.row(vec![
            rate.to_string(),
            share(&after, lasting - LEARNED_AFTER),
            share(&before, LEARNED_AFTER),
            refusals(&after),
            refusals(&before),
            format!("{:.1}", after.requests() as f64 / seconds),
            format!("{:.0}", after.sent() as f64 / after.requests().max(1) as f64),
            after.in_flight_max().to_string(),
            format!("{:.2}", after.silence().as_secs_f64()),
            format!("{:.1}", 100.0 * cpu.as_secs_f64() / lasting.as_secs_f64()),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn throttled(rig: &Rig, lasting: Duration, rate: u32, sets: &mut Sets) -> Result<(Timeline, Duration), Box<dyn Error>> {
    let dir = tempfile::tempdir_in(rig.dir)?;
    let mut target = Target::away(rig.latency, bucket(f64::from(rate)))?;
    let relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &[])?;
    // More than it can take in this time.
    let samples = f64::from(rate) * (lasting.as_secs_f64() * 1.1 + 2.0);
    send_backlog(relay.address, sets.first(SETS), (samples / SERIES as f64) as usize)?;
    target.come()?;
    let relay = relay.end_and_start()?;
    let watch = Watch::start(relay.process.pid())?;
    std::thread::sleep(lasting);
    let used = watch.stop()?;
    Ok((target.seen(), used.cpu))
}

fn bucket(rate: f64) -> Rules {
    let state = Mutex::new((rate, Instant::now()));
    Box::new(move |_, samples| {
        let mut state = state.lock().expect("nobody panics with it");
        let (tokens, filled) = *state;
        let now = Instant::now();
        let tokens = (tokens + (now - filled).as_secs_f64() * rate).min(rate);
        let is_taken = tokens >= (samples as f64).min(rate);
        *state = (if is_taken { tokens - samples as f64 } else { tokens }, now);
        if is_taken { Answer::TAKEN } else { Answer { status: 429, retry_after: Some(1) } }
    })
}
