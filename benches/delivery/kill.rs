//! `kill -9` under load with requests in flight: what comes twice at the target, and that nothing acknowledged is missing.
//!
//! A record is known by its first series and its time. Upstreams send each request once: whatever comes twice was sent twice by the relay.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Rig;
use crate::body::{SERIES, SERIES_LEN};
use crate::relay::Relay;
use crate::report::{Spread, Table};
use crate::series;
use crate::target::{Answer, Target};
use crate::upstream::{Journal, Sets, send_at_rate};

const SETS: usize = 64;
const LATENCY: Duration = Duration::from_millis(100);
/// Between kills; some more or less, so that they do not fall into step with anything.
const LIFE: Duration = Duration::from_secs(3);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// A kill waits for requests in flight, but not longer.
const IN_FLIGHT_WITHIN: Duration = Duration::from_secs(5);

/// A request that the target has judged.
#[derive(Clone, Debug)]
struct Judged {
    at: Instant,
    bytes: u64,
    records: u64,
    /// Of these, those that had come before.
    again: u64,
}

#[derive(Debug, Default)]
struct Memory {
    records: HashMap<(u64, i64), u64>,
    /// Requests that do not consist of whole records.
    torn: u64,
    requests: Vec<Judged>,
}

/// Measures and prints.
pub fn measure(rig: &Rig, kills: usize, rate: u32) -> Result<(), Box<dyn Error>> {
    println!(
        "\nkill: {rate} samples/s in requests of {SERIES}, {SETS} sets, answers take {LATENCY:?}, kill -9 {kills} times"
    );
    let mut sets = Sets::new(SETS);
    let memory = Arc::new(Mutex::new(Memory::default()));
    let for_rules = memory.clone();
    let mut target = Target::away(
        LATENCY,
        Box::new(move |body, _| {
            for_rules.lock().expect("nobody panics with it").judge(body);
            Answer::TAKEN
        }),
    )?;
    target.come()?;
    let dir = tempfile::tempdir_in(rig.dir)?;
    let mut relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &[])?;
    let journal = Journal::default();
    let address = relay.address;
    let killed = std::thread::scope(|scope| {
        scope.spawn(|| send_at_rate(address, sets.first(SETS), rate, &journal));
        let killed = (0..kills).map(|kill| {
            eprintln!("kill {} of {kills}", kill + 1);
            std::thread::sleep(LIFE.mul_f64(0.5 + fastrand::f64()));
            let patience = Instant::now() + IN_FLIGHT_WITHIN;
            while target.seen().in_flight_at(Instant::now()) == 0 && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            let at = Instant::now();
            let ready = relay.kill_and_start()?;
            Ok((at, ready))
        });
        let killed: Result<Vec<(Instant, Duration)>, Box<dyn Error>> = killed.collect();
        std::thread::sleep(LIFE);
        journal.stop();
        killed
    })?;
    let settled = relay.wait_until_settled(SETTLED_WITHIN)?;
    let seen = target.seen();
    rig.show(&seen);
    let memory = memory.lock().expect("nobody panics with it");

    let mut table =
        Table::new(&["kill", "in flight", "ready again ms", "sent twice: requests", "records", "samples", "KiB"]);
    let mut columns: [Vec<f64>; 6] = Default::default();
    for (number, &(at, ready)) in killed.iter().enumerate() {
        let until = killed.get(number + 1).map(|next| next.0);
        let again: Vec<&Judged> = memory
            .requests
            .iter()
            .filter(|one| one.again > 0 && one.at >= at && until.is_none_or(|until| one.at < until))
            .collect();
        let records: u64 = again.iter().map(|one| one.again).sum();
        let row = [
            seen.in_flight_at(at) as f64,
            ready.as_secs_f64() * 1e3,
            again.len() as f64,
            records as f64,
            (records as usize * SERIES) as f64,
            again.iter().map(|one| one.bytes as f64 * one.again as f64 / one.records as f64).sum::<f64>() / 1024.0,
        ];
        let mut cells = vec![(number + 1).to_string()];
        cells.extend(row.iter().map(|value| format!("{value:.0}")));
        table.row(cells);
        row.iter().zip(&mut columns).for_each(|(value, column)| column.push(*value));
    }
    let mut cells = vec!["median".to_owned()];
    cells.extend(columns.map(|column| Spread::of(column, 0).to_string()));
    table.row(cells);
    print!("{table}");

    let sent = journal.sent();
    let acknowledged = sent.iter().filter(|sent| sent.is_acknowledged).count();
    let is_there = |key: u64, time: i64| memory.records.contains_key(&(key, time));
    let lost = sent.iter().filter(|sent| sent.is_acknowledged && !is_there(sent.key, sent.time)).count();
    let unanswered = sent.iter().filter(|sent| !sent.is_acknowledged && is_there(sent.key, sent.time)).count();
    println!(
        "acknowledged {acknowledged} requests, lost {lost} of them; {unanswered} of {} that were not acknowledged arrived too; \
         owed at the end: {} samples",
        sent.len() - acknowledged,
        settled.status.pending,
    );
    let ledger = settled.status;
    println!(
        "the relay's ledger: {} accepted = {} delivered + {} refused + {} pending",
        ledger.accepted, ledger.delivered, ledger.refused, ledger.pending
    );
    let before = killed.first().map(|first| first.0);
    let unprovoked = memory.requests.iter().filter(|one| one.again > 0 && before.is_none_or(|at| one.at < at)).count();
    if unprovoked > 0 {
        println!("{unprovoked} REQUESTS CAME TWICE BEFORE ANY KILL");
    }
    if memory.torn > 0 {
        println!("{} REQUESTS WITH TORN RECORDS", memory.torn);
    }
    Ok(())
}

impl Memory {
    fn judge(&mut self, body: &[u8]) {
        let message = series::decompressed(body);
        let mut judged = Judged { at: Instant::now(), bytes: body.len() as u64, records: 0, again: 0 };
        self.torn += u64::from(!message.len().is_multiple_of(SERIES * SERIES_LEN));
        for record in message.chunks_exact(SERIES * SERIES_LEN) {
            let first = series::one(&record[..SERIES_LEN]);
            let times = self.records.entry((first.key, first.time)).or_default();
            judged.records += 1;
            judged.again += u64::from(*times > 0);
            *times += 1;
        }
        self.requests.push(judged);
    }
}
