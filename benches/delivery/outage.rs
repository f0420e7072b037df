//! A target that is away while load comes in, and comes back while it goes on.
//!
//! ```text
//!         load at a fixed rate, all the time
//!   |------------------------|------|----------------------------------|
//!       target is away         back   first answer                       as good as nothing is owed
//!   '-- CPU, memory ---------'      '-- drain: rate, requests, CPU -----'
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use crate::Rig;
use crate::body::SERIES;
use crate::process::Watch;
use crate::relay::Relay;
use crate::report::Table;
use crate::target::{Answer, Target};
use crate::upstream::{Journal, Sets, send_at_rate};

const SETS: usize = 64;
/// Before the target leaves.
const WARM_UP: Duration = Duration::from_secs(2);
/// It is caught up when it is owed no more than so much of the load: what a merged request holds.
const CAUGHT_UP: u64 = 20_000;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Measures and prints.
pub fn measure(rig: &Rig, outage: Duration, rate: u32) -> Result<(), Box<dyn Error>> {
    println!(
        "\noutage: the target is away for {outage:?}, {rate} samples/s in requests of {SERIES}, {SETS} sets, answers take {:?}",
        rig.latency,
    );
    eprintln!("outage");
    let mut sets = Sets::new(SETS);
    let dir = tempfile::tempdir_in(rig.dir)?;
    let mut target = Target::away(rig.latency, Box::new(|_, _| Answer::TAKEN))?;
    target.come()?;
    let relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &[])?;
    let journal = Journal::default();
    std::thread::scope(|scope| {
        scope.spawn(|| send_at_rate(relay.address, sets.first(SETS), rate, &journal));
        let result = one_outage(rig, outage, &relay, &mut target, &journal);
        journal.stop();
        result
    })
}

fn one_outage(
    rig: &Rig,
    outage: Duration,
    relay: &Relay,
    target: &mut Target,
    journal: &Journal,
) -> Result<(), Box<dyn Error>> {
    let pid = relay.process.pid();
    std::thread::sleep(WARM_UP);
    target.leave();
    let watch = Watch::start(pid)?;
    let (away, accepted_away) = (Instant::now(), journal.accepted());
    std::thread::sleep(outage);
    let away_used = watch.stop()?;
    let away_took = away.elapsed();
    let accepted_while_away = journal.accepted() - accepted_away;
    let owed = relay.status()?.pending;

    target.come()?;
    let watch = Watch::start(pid)?;
    let (back, accepted_back) = (Instant::now(), journal.accepted());
    let limit = 3 * outage + Duration::from_secs(60);
    let (is_caught_up, owed_at_end) = loop {
        let owed = relay.status()?.pending;
        if owed <= CAUGHT_UP || back.elapsed() > limit {
            break (owed <= CAUGHT_UP, owed);
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    let end = Instant::now();
    let drain_used = watch.stop()?;
    let accepted = journal.accepted() - accepted_back;
    let seen = target.seen().between(back, end);
    rig.show(&seen);

    let per_second = |samples: u64, took: Duration| format!("{:.0}", samples as f64 / took.as_secs_f64() / 1e3);
    let cpu_share = |cpu: Duration, took: Duration| format!("{:.1}", 100.0 * cpu.as_secs_f64() / took.as_secs_f64());
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let took = end - back;
    let first = seen.0.first().map_or(f64::NAN, |seen| (seen.arrived - back).as_secs_f64());
    let drained_in = seen.span().map_or(Duration::ZERO, |(from, _)| end - from);
    let delivered = seen.taken();
    let mut table = Table::new(&["", "away", "back"]);
    for (what, away, back) in [
        ("time s", format!("{:.1}", away_took.as_secs_f64()), format!("{:.1}", took.as_secs_f64())),
        ("arrival, k samples/s", per_second(accepted_while_away, away_took), per_second(accepted, took)),
        ("drain, k samples/s", "0".into(), per_second(delivered, drained_in)),
        ("second half", String::new(), format!("{:.0}", seen.rate_of_second_half() / 1e3)),
        ("first request after s", String::new(), format!("{first:.2}")),
        ("owed at the end, k samples", (owed / 1000).to_string(), (owed_at_end / 1000).to_string()),
        ("requests/M samples", String::new(), format!("{:.0}", seen.requests() as f64 / delivered.max(1) as f64 * 1e6)),
        ("bytes/sample", String::new(), format!("{:.1}", seen.bytes() as f64 / seen.sent().max(1) as f64)),
        ("in flight max", String::new(), seen.in_flight_max().to_string()),
        ("in flight mean", String::new(), format!("{:.1}", seen.in_flight_mean())),
        ("silence s", String::new(), format!("{:.2}", seen.silence().as_secs_f64())),
        ("CPU %", cpu_share(away_used.cpu, away_took), cpu_share(drain_used.cpu, took)),
        (
            "CPU ns/sample accepted",
            format!("{:.0}", away_used.cpu.as_nanos() as f64 / accepted_while_away.max(1) as f64),
            String::new(),
        ),
        (
            "CPU ns/sample delivered",
            String::new(),
            format!("{:.0}", drain_used.cpu.as_nanos() as f64 / delivered.max(1) as f64),
        ),
        ("RssAnon MiB, peak", mib(away_used.private_bytes), mib(drain_used.private_bytes)),
    ] {
        table.row(vec![what.to_owned(), away, back]);
    }
    print!("{table}");
    if !is_caught_up {
        println!("NOT CAUGHT UP within {limit:?}");
    }
    if journal.turned_away() > 0 {
        println!("{} requests were not acknowledged", journal.turned_away());
    }
    println!("CPU per sample delivered holds what accepting the load costs meanwhile");
    Ok(())
}
