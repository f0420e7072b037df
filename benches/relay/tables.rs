//! The tables of the report.

use std::time::Duration;

use crate::Scenario;
use crate::delivery::Delivery;
use crate::report::{Spread, Table};
use crate::start::Starts;
use crate::subject::Subject;

/// A measurement of one subject in one round.
#[derive(Debug)]
pub struct Measured {
    /// From 0.
    pub round: usize,
    /// Who.
    pub subject: Subject,
    /// At which pace.
    pub scenario: Scenario,
    /// What came out.
    pub delivery: Delivery,
}

/// Of one scenario.
pub fn print_deliveries(is_saturation: bool, subjects: &[Subject], measured: &[&Measured]) {
    let of = |subject: Subject| measured.iter().filter(move |one| one.subject == subject).map(|one| &one.delivery);
    let mut columns = vec!["", "CPU ns/sample", "RssAnon MiB", "ack p50 ms", "ack p99 ms", "drain s"];
    if is_saturation {
        columns.extend(["accepted M/s", "delivered M/s", "samples/request out"]);
    }
    columns.push("others' CPU %");
    let mut table = Table::new(&columns);
    for &subject in subjects {
        let spread =
            |value: &dyn Fn(&Delivery) -> f64, decimals| Spread::of(of(subject).map(value), decimals).to_string();
        let mut row = vec![
            subject.to_string(),
            spread(&Delivery::nanos_per_sample, 0),
            spread(&|one| one.used.private_bytes as f64 / f64::from(1 << 20), 1),
            spread(&|one| one.latency(0.5), 2),
            spread(&|one| one.latency(0.99), 2),
            spread(&|one| one.drain_took.as_secs_f64(), 2),
        ];
        if is_saturation {
            let millions = |samples: u64, one: &Delivery| samples as f64 / one.load_took.as_secs_f64() / 1e6;
            row.push(spread(&|one| millions(one.accepted, one), 2));
            row.push(spread(&|one| millions(one.delivered_under_load / one.targets, one), 2));
            row.push(spread(&|one| one.delivered as f64 / one.requests.max(1) as f64, 0));
        }
        row.push(spread(&|one| one.others * 100.0, 0));
        table.row(row);
    }
    print!("{table}");

    // A further target costs what the same round says.
    for &subject in subjects.iter().filter(|subject| subject.targets > 1) {
        let further = (subject.targets - 1) as f64;
        let single = Subject { targets: 1, ..subject };
        let costs: Vec<f64> = measured
            .iter()
            .filter(|one| one.subject == subject)
            .filter_map(|one| {
                let base = measured.iter().find(|base| (base.subject, base.round) == (single, one.round))?;
                Some((one.delivery.nanos_per_sample() - base.delivery.nanos_per_sample()) / further)
            })
            .collect();
        if !costs.is_empty() {
            println!("{subject}: each further one {} ns/sample", Spread::of(costs, 0));
        }
    }
    for &subject in subjects {
        let (missing, twice): (i64, i64) = of(subject)
            .map(|one| (one.missing().max(0), (-one.missing()).max(0)))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let rejected: u64 = of(subject).map(|one| one.rejected).sum();
        let odd: u64 = of(subject).map(|one| one.odd).sum();
        for (count, what) in [
            (missing as u64, "acknowledged samples not at the sink in time (CPU is per sample that was)"),
            (twice as u64, "samples more at the sink than acknowledged"),
            (rejected, "requests rejected"),
            (odd, "requests at the sink that had to be counted sample by sample"),
        ] {
            if count > 0 {
                println!("{subject}: {count} {what}");
            }
        }
    }
}

/// What the numbers mean, and what they cannot show.
pub fn print_notes(measured: &[Measured], syncs: &[Duration]) {
    let all = || measured.iter().map(|one| &one.delivery);
    let at = |share: usize| syncs[syncs.len() * share / 100].as_secs_f64() * 1e3;
    let apart = all().map(|one| one.used.cpu.abs_diff(one.used.cpu_in_ticks)).max().unwrap_or_default();
    println!(
        "\nCPU and RssAnon (peak) are the subject's, from the first request until every target has every acknowledged sample;"
    );
    println!(
        "per sample delivered to all its targets. RssAnon leaves out the page cache. vmagent acknowledges from memory, without a sync."
    );
    println!("CPU by schedstat; utime + stime (ticks of 10 ms) differ by at most {} ms.", apart.as_millis());
    println!("one body written and synced, disk idle: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
    println!(
        "the benchmark's own CPU: load {} ns/sample, sink {} ns/sample and target",
        Spread::of(all().map(|one| one.per_sample(one.load_cpu)), 0),
        Spread::of(all().map(|one| one.per_sample(one.sink_cpu) / one.targets as f64), 0),
    );
}

/// The times of starts.
pub fn print_starts(all: &[Starts]) {
    println!("\nstart of the process until /-/ready is 200, dead target: median [min..max]");
    let mut table = Table::new(&["", "starts", "log MiB", "ready ms"]);
    for starts in all {
        let log = (starts.backlog_bytes >> 20).to_string();
        let took = Spread::of(starts.took.iter().copied(), 1).to_string();
        table.row(vec![starts.what.to_owned(), starts.took.len().to_string(), log, took]);
    }
    print!("{table}");
    if all.iter().all(|starts| !starts.what.ends_with("cold")) {
        println!("cold starts were left out: not wanted, or only root may empty the page cache");
    }
}
