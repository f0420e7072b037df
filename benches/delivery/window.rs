//! A slow target and a backlog: what requests at a time bring.
//!
//! Requests that share a series go one after the other. So how many go at a time depends on how many different sets of series lie next to
//! each other in the backlog, and both are shown: 64 sets, which is six merged requests, and more sets than requests can hold.
//!
//! The window opens by one per window of answers. So more requests at a time need a longer backlog to get there, and *2nd half* is what
//! comes then.

use std::error::Error;
use std::time::Duration;

use crate::Rig;
use crate::body::SERIES;
use crate::process::Watch;
use crate::relay::Relay;
use crate::report::{Spread, Table};
use crate::target::{Answer, Target};
use crate::upstream::{Set, Sets, send_backlog};

const LATENCY: Duration = Duration::from_millis(200);
const SAMPLES_PER_SEND: usize = 20_000;
const SETS: [usize; 2] = [64, 400];
/// With the records of its backlog.
const MAX_IN_FLIGHT: [(usize, usize); 5] = [(1, 200), (2, 400), (4, 600), (8, 1200), (16, 3600)];
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Measured {
    sets: usize,
    max_in_flight: usize,
    rate: f64,
    rate_of_second_half: f64,
    requests: u64,
    in_flight_max: usize,
    in_flight_mean: f64,
    silence: Duration,
    cpu_nanos: f64,
    missing: i64,
}

/// Measures and prints.
pub fn measure(rig: &Rig) -> Result<(), Box<dyn Error>> {
    let mut sets = Sets::new(SETS[1]);
    println!(
        "\nwindow: a backlog of records of {SERIES} samples ({} bytes each), answers take {LATENCY:?}, \
         max_samples_per_send = {SAMPLES_PER_SEND}, {} rounds: median [min..max]",
        sets.body_len(),
        rig.rounds,
    );
    let mut measured = Vec::new();
    for round in 0..rig.rounds {
        for sets_len in SETS {
            for (max_in_flight, records) in MAX_IN_FLIGHT {
                eprintln!(
                    "window, round {} of {}: {sets_len} sets, max_in_flight {max_in_flight}",
                    round + 1,
                    rig.rounds
                );
                measured.push(drain(rig, sets.first(sets_len), records, max_in_flight)?);
            }
        }
    }
    let mut table = Table::new(&[
        "sets",
        "max_in_flight",
        "records",
        "k samples/s",
        "2nd half",
        "at most",
        "requests",
        "in flight max",
        "mean",
        "silence s",
        "CPU ns/sample",
    ]);
    for sets in SETS {
        for (max_in_flight, records) in MAX_IN_FLIGHT {
            let these: Vec<&Measured> =
                measured.iter().filter(|one| (one.sets, one.max_in_flight) == (sets, max_in_flight)).collect();
            let spread = |value: &dyn Fn(&Measured) -> f64, decimals| {
                Spread::of(these.iter().map(|one| value(one)), decimals).to_string()
            };
            table.row(vec![
                sets.to_string(),
                max_in_flight.to_string(),
                records.to_string(),
                spread(&|one| one.rate / 1e3, 0),
                spread(&|one| one.rate_of_second_half / 1e3, 0),
                format!("{:.0}", (max_in_flight * SAMPLES_PER_SEND) as f64 / LATENCY.as_secs_f64() / 1e3),
                spread(&|one| one.requests as f64, 0),
                spread(&|one| one.in_flight_max as f64, 0),
                spread(&|one| one.in_flight_mean, 1),
                spread(&|one| one.silence.as_secs_f64(), 2),
                spread(&|one| one.cpu_nanos, 0),
            ]);
        }
    }
    print!("{table}");
    println!(
        "at most: max_in_flight x max_samples_per_send / latency, in k samples/s; from the first request to the last answer"
    );
    let missing: i64 = measured.iter().map(|one| one.missing).sum();
    if missing != 0 {
        println!("{missing} SAMPLES ARE MISSING AT THE TARGET (or, negative, came twice)");
    }
    Ok(())
}

fn drain(rig: &Rig, sets: &mut [Set], records: usize, max_in_flight: usize) -> Result<Measured, Box<dyn Error>> {
    let dir = tempfile::tempdir_in(rig.dir)?;
    let mut target = Target::away(LATENCY, Box::new(|_, _| Answer::TAKEN))?;
    let keys = [format!("max_in_flight = {max_in_flight}"), format!("max_samples_per_send = {SAMPLES_PER_SEND}")];
    let relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &keys)?;
    send_backlog(relay.address, sets, records)?;
    target.come()?;
    // A start has no pause behind it.
    let relay = relay.end_and_start()?;
    let watch = Watch::start(relay.process.pid())?;
    relay.wait_until_settled(SETTLED_WITHIN)?;
    let used = watch.stop()?;
    let seen = target.seen();
    rig.show(&seen);
    Ok(Measured {
        sets: sets.len(),
        max_in_flight,
        rate: seen.rate(),
        rate_of_second_half: seen.rate_of_second_half(),
        requests: seen.requests(),
        in_flight_max: seen.in_flight_max(),
        in_flight_mean: seen.in_flight_mean(),
        silence: seen.silence(),
        cpu_nanos: used.cpu.as_nanos() as f64 / seen.taken() as f64,
        missing: (records * SERIES) as i64 - seen.taken() as i64,
    })
}
