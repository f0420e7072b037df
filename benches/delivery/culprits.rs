//! One bad series of 2000 in a backlog that is merged into one request: what finding it costs.
//!
//! ```text
//!   5 scrapes of 400, in turn     50 records x  400 samples: 20,000 in a request, 10 of them bad
//!   one scrape of 2000            50 records x 2000 samples: 100,000 in a request, 50 of them bad
//! ```

use std::error::Error;
use std::time::Duration;

use crate::Rig;
use crate::body::{Body, SERIES, SERIES_LEN, scrape};
use crate::http::Connection;
use crate::process::Watch;
use crate::relay::Relay;
use crate::report::{Spread, Table};
use crate::series;
use crate::target::{Answer, Target};
use crate::upstream::send;

const RECORDS: usize = 50;
/// Of a record. All records together have [`SERIES`] different series.
const SERIES_OF_RECORD: [usize; 2] = [400, SERIES];
const BYTES_PER_SEND: &str = "16MiB";
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Measured {
    series: usize,
    requests: u64,
    questions: u64,
    largest: u64,
    sent: u64,
    bytes: u64,
    took: Duration,
    cpu: Duration,
    bad: u64,
    delivered: u64,
    refused: u64,
    reasons: String,
    is_settled: bool,
}

/// Measures and prints.
pub fn measure(rig: &Rig) -> Result<(), Box<dyn Error>> {
    println!(
        "\nculprits: a backlog of {RECORDS} records, one of {SERIES} series is refused with all that comes with it, answers take {:?}, {} rounds: \
         median [min..max]",
        rig.latency, rig.rounds,
    );
    let mut measured = Vec::new();
    for round in 0..rig.rounds {
        for series in SERIES_OF_RECORD {
            eprintln!("culprits, round {} of {}: {series} series", round + 1, rig.rounds);
            measured.push(settle(rig, series, fastrand::usize(..SERIES))?);
        }
    }
    let mut table = Table::new(&[
        "records",
        "requests",
        "empty ones",
        "largest",
        "sent / samples",
        "MiB sent",
        "settled after s",
        "CPU ms",
        "bad",
        "refused",
        "reasons",
    ]);
    for series in SERIES_OF_RECORD {
        let these: Vec<&Measured> = measured.iter().filter(|one| one.series == series).collect();
        let spread = |value: &dyn Fn(&Measured) -> f64, decimals| {
            Spread::of(these.iter().map(|one| value(one)), decimals).to_string()
        };
        let samples = (RECORDS * series) as f64;
        table.row(vec![
            format!("{RECORDS} x {series}"),
            spread(&|one| one.requests as f64, 0),
            spread(&|one| one.questions as f64, 0),
            spread(&|one| one.largest as f64, 0),
            spread(&|one| one.sent as f64 / samples, 1),
            spread(&|one| one.bytes as f64 / f64::from(1 << 20), 2),
            spread(&|one| one.took.as_secs_f64(), 2),
            spread(&|one| one.cpu.as_secs_f64() * 1e3, 0),
            spread(&|one| one.bad as f64, 0),
            spread(&|one| one.refused as f64, 0),
            these.last().map(|one| one.reasons.clone()).unwrap_or_default(),
        ]);
    }
    print!("{table}");
    println!(
        "max_samples_per_send = all of it, max_bytes_per_send = {BYTES_PER_SEND:?}; time from the first request to the last answer; a request \
         is never more than 16 MiB decompressed, which is 26 records of 2000"
    );
    for one in measured {
        if !one.is_settled {
            println!("{} series: NOT SETTLED within {SETTLED_WITHIN:?}", one.series);
        }
        let all = (RECORDS * one.series) as u64;
        if one.delivered + one.refused != all || one.refused != one.bad {
            println!(
                "{} series: of {all} samples, {} bad, {} were delivered and {} refused ({})",
                one.series, one.bad, one.delivered, one.refused, one.reasons
            );
        }
    }
    Ok(())
}

fn settle(rig: &Rig, series: usize, bad: usize) -> Result<Measured, Box<dyn Error>> {
    let scrape = scrape(0);
    let bad_key = series::one(&scrape[bad * SERIES_LEN..][..SERIES_LEN]).key;
    let mut bodies: Vec<Body> = scrape.chunks(series * SERIES_LEN).map(|part| Body::of(part.to_vec())).collect();
    let rules = move |body: &[u8], _| match series::all(&series::decompressed(body)).any(|one| one.key == bad_key) {
        true => Answer::REFUSED,
        false => Answer::TAKEN,
    };
    let mut target = Target::away(rig.latency, Box::new(rules))?;
    let keys =
        [format!("max_samples_per_send = {}", RECORDS * SERIES), format!("max_bytes_per_send = {BYTES_PER_SEND:?}")];
    let dir = tempfile::tempdir_in(rig.dir)?;
    let relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &keys)?;
    let mut connection = Connection::connect(relay.address)?;
    let bodies_len = bodies.len();
    for record in 0..RECORDS {
        send(&mut connection, bodies[record % bodies_len].advance())?;
    }
    drop(connection);
    target.come()?;
    let relay = relay.end_and_start()?;
    let watch = Watch::start(relay.process.pid())?;
    let settled = relay.wait_until_settled(SETTLED_WITHIN)?;
    let used = watch.stop()?;
    let seen = target.seen();
    rig.show(&seen);
    Ok(Measured {
        series,
        requests: seen.requests(),
        questions: seen.questions(),
        largest: seen.0.iter().map(|seen| seen.samples).max().unwrap_or(0),
        sent: seen.sent(),
        bytes: seen.bytes(),
        took: seen.took(),
        cpu: used.cpu,
        bad: (RECORDS / bodies_len) as u64,
        delivered: settled.status.delivered,
        refused: settled.status.refused,
        reasons: relay.refused()?,
        is_settled: settled.status.pending == 0,
    })
}
