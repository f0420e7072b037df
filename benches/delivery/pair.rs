//! Two upstreams with equal series, as an HA pair without replica labels, and a target that refuses a request for one bad sample.
//!
//! ```text
//!   scrape 1          scrape 2              scrapes every 15 s, each as soon as the one before is acknowledged
//!   A: 10 requests    A: ...                B's values differ, its times do not (recording rules: evaluated at the same times)
//!   B: 10 requests    B: ...                B connects from an address of its own
//! ```
//! The target keeps time and value of each series' newest sample. Older, or equal in time with another value: the request is answered 400 and
//! nothing of it is kept.
//!
//! As fast as they are acknowledged: that makes a backlog, and requests are merged. *Keeping up*: each scrape waits until the one before is settled.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::Rig;
use crate::body::{Body, SERIES, SERIES_LEN, now_ms, scrape};
use crate::http::Connection;
use crate::process::Watch;
use crate::relay::{Relay, Settled};
use crate::report::{Spread, Table};
use crate::series;
use crate::target::{Answer, Rules, Target};
use crate::timeline::Timeline;
use crate::upstream::send;

/// Of each upstream in each scrape.
const REQUESTS: usize = 10;
const INTERVAL_MS: i64 = 15_000;

/// The time in which so many scrapes came in, were it not compressed.
fn lasting(scrapes: usize) -> Duration {
    Duration::from_millis(scrapes as u64 * INTERVAL_MS as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Each upstream has series of its own.
    Clean,
    /// And one series is twice in each request, with two values.
    Twice,
    /// Both have the same series; in each scrape A is first.
    Pair,
    /// Both have the same series; whoever comes first is first.
    Race,
    /// Like `pair`, and one series is twice in each request.
    PairTwice,
    /// Like `twice`, and the next scrape comes when the one before is settled: the target keeps up.
    TwiceInTime,
    /// Like `pair`, and the next scrape comes when the one before is settled.
    PairInTime,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Clean => "no culprits",
            Kind::Twice => "a series twice in each request",
            Kind::Pair => "pair, A first",
            Kind::Race => "pair, in a race",
            Kind::PairTwice => "pair, A first, and a series twice",
            Kind::TwiceInTime => "a series twice, keeping up",
            Kind::PairInTime => "pair, A first, keeping up",
        }
    }

    fn is_pair(self) -> bool {
        matches!(self, Kind::Pair | Kind::Race | Kind::PairTwice | Kind::PairInTime)
    }

    fn has_one_twice(self) -> bool {
        matches!(self, Kind::Twice | Kind::PairTwice | Kind::TwiceInTime)
    }

    fn keeps_up(self) -> bool {
        matches!(self, Kind::TwiceInTime | Kind::PairInTime)
    }

    /// The samples that a target cannot take, whatever the order.
    fn bad(self, scrapes: usize) -> u64 {
        let requests = (REQUESTS * scrapes) as u64;
        match self {
            Kind::Clean => 0,
            Kind::Twice | Kind::TwiceInTime => 2 * requests,
            Kind::Pair | Kind::Race | Kind::PairInTime => requests * SERIES as u64,
            Kind::PairTwice => requests * (SERIES as u64 + 2),
        }
    }

    /// All samples that come in.
    fn all(self, scrapes: usize) -> u64 {
        (2 * REQUESTS * scrapes * (SERIES + usize::from(self.has_one_twice()))) as u64
    }
}

#[derive(Debug)]
struct Measured {
    kind: Kind,
    scrapes: usize,
    seen: Timeline,
    arrival: Duration,
    took: Duration,
    cpu: Duration,
    settled: Settled,
    reasons: String,
}

impl Measured {
    fn bad(&self) -> u64 {
        self.kind.bad(self.scrapes)
    }

    fn all(&self) -> u64 {
        self.kind.all(self.scrapes)
    }

    /// What the target would have taken, had it been sent without what is bad.
    fn good_refused(&self) -> i64 {
        (self.all() - self.bad()) as i64 - self.seen.taken() as i64
    }
}

/// Measures and prints.
pub fn measure(rig: &Rig) -> Result<(), Box<dyn Error>> {
    let (scrapes, lasting) = (rig.scrapes, lasting(rig.scrapes));
    println!(
        "\npair: 2 upstreams x {scrapes} scrapes x {REQUESTS} requests of {SERIES}, {lasting:?} of scrapes sent as fast as they are acknowledged, a strict \
         target, answers take {:?}, {} rounds: median [min..max]",
        rig.latency, rig.rounds,
    );
    let mut measured = Vec::new();
    for round in 0..rig.rounds {
        for kind in Kind::value_variants() {
            eprintln!("pair, round {} of {}: {}", round + 1, rig.rounds, kind.name());
            measured.push(run(rig, *kind)?);
        }
    }
    let of = |kind: Kind| measured.iter().filter(move |one| one.kind == kind);
    let clean = Spread::of(of(Kind::Clean).map(|one| one.seen.requests() as f64), 0).median();
    let mut table = Table::new(&[
        "",
        "requests",
        "x stored",
        "x clean",
        "empty ones",
        "sent / samples",
        "arrival s",
        "settled after s",
        "s/s of scrapes",
        "silence s",
        "CPU s",
        "bad",
        "refused",
        "refused though good",
        "reasons",
    ]);
    for kind in Kind::value_variants() {
        let spread =
            |value: &dyn Fn(&Measured) -> f64, decimals| Spread::of(of(*kind).map(value), decimals).to_string();
        table.row(vec![
            kind.name().to_owned(),
            spread(&|one| one.seen.requests() as f64, 0),
            spread(&|one| one.seen.requests() as f64 / (2 * REQUESTS * scrapes) as f64, 2),
            spread(&|one| one.seen.requests() as f64 / clean, 1),
            spread(&|one| one.seen.questions() as f64, 0),
            spread(&|one| one.seen.sent() as f64 / one.all() as f64, 1),
            spread(&|one| one.arrival.as_secs_f64(), 1),
            spread(&|one| one.took.as_secs_f64(), 1),
            spread(&|one| one.took.as_secs_f64() / lasting.as_secs_f64(), 3),
            spread(&|one| one.seen.silence().as_secs_f64(), 2),
            spread(&|one| one.cpu.as_secs_f64(), 2),
            kind.bad(scrapes).to_string(),
            spread(&|one| one.settled.status.refused as f64, 0),
            spread(&|one| one.good_refused() as f64, 0),
            of(*kind).next_back().map(|one| one.reasons.clone()).unwrap_or_default(),
        ]);
    }
    print!("{table}");
    println!(
        "arrival: until all was acknowledged; settled: from then on the same clock; s/s of scrapes: below 1 it keeps up with a load that \
         comes in real time"
    );
    for one in &measured {
        let status = one.settled.status;
        if status.pending > 0 {
            println!("{}: NOT SETTLED within {lasting:?}: {} samples are owed", one.kind.name(), status.pending);
        } else if status.refused != one.bad() || one.seen.taken() + status.refused != one.all() {
            println!(
                "{}: of {} samples, {} bad, the target took {}, the relay counts {} delivered and {} refused ({})",
                one.kind.name(),
                one.all(),
                one.bad(),
                one.seen.taken(),
                status.delivered,
                status.refused,
                one.reasons,
            );
        }
    }
    Ok(())
}

fn run(rig: &Rig, kind: Kind) -> Result<Measured, Box<dyn Error>> {
    let dir = tempfile::tempdir_in(rig.dir)?;
    let mut target = Target::away(rig.latency, strict())?;
    target.come()?;
    let relay = Relay::start(rig.promrelay, dir.path(), &target.url(), &[])?;
    let upstreams = [bodies(kind, 0), bodies(kind, 1)];
    let watch = Watch::start(relay.process.pid())?;
    let start = Instant::now();
    let lasting = lasting(rig.scrapes);
    let first_time = now_ms() - i64::try_from(lasting.as_millis())?;
    let turns = Barrier::new(2);
    std::thread::scope(|scope| {
        let threads = upstreams.into_iter().enumerate().map(|(number, mut bodies)| {
            let (relay, turns) = (&relay, &turns);
            scope.spawn(move || {
                let mut connection = connect_from(Ipv4Addr::new(127, 0, 0, 1 + number as u8), relay.address)?;
                let is_in_turn = kind != Kind::Race;
                for scrape in 0..rig.scrapes {
                    turns.wait();
                    if kind.keeps_up() {
                        relay.wait_until_settled(lasting).map_err(|error| io::Error::other(error.to_string()))?;
                    }
                    if is_in_turn && number == 1 {
                        turns.wait();
                    }
                    for body in &mut bodies {
                        send(&mut connection, body.advance_to(first_time + scrape as i64 * INTERVAL_MS))?;
                    }
                    if is_in_turn && number == 0 {
                        turns.wait();
                    }
                }
                io::Result::Ok(())
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("an upstream does not panic"))
    })?;
    let arrival = start.elapsed();
    let settled = relay.wait_until_settled(lasting)?;
    let used = watch.stop()?;
    let seen = target.seen();
    rig.show(&seen);
    let scrapes = rig.scrapes;
    Ok(Measured {
        kind,
        scrapes,
        seen,
        arrival,
        took: settled.at - start,
        cpu: used.cpu,
        settled,
        reasons: relay.refused()?,
    })
}

fn bodies(kind: Kind, upstream: usize) -> Vec<Body> {
    let first = if kind.is_pair() { 0 } else { upstream * REQUESTS };
    let body = |set: usize| {
        let mut message = scrape(set);
        if upstream == 1 {
            series::vary_values(&mut message, 1);
        }
        if kind.has_one_twice() {
            let mut twin = message[..SERIES_LEN].to_vec();
            series::vary_values(&mut twin, 2);
            message.extend_from_slice(&twin);
        }
        Body::of(message)
    };
    (first..first + REQUESTS).map(body).collect()
}

/// Upstreams are told apart by their addresses.
fn connect_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<Connection> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(address).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Connection::new(stream)
}

/// All or nothing, as 1.0 has it.
fn strict() -> Rules {
    let newest: Mutex<HashMap<u64, (i64, u64)>> = Mutex::default();
    Box::new(move |body, _| {
        let message = series::decompressed(body);
        let mut newest = newest.lock().expect("nobody panics with it");
        let mut before = Vec::new();
        for series in series::all(&message) {
            let sample = (series.time, series.value);
            match newest.get(&series.key).copied() {
                Some(known) if known == sample => {}
                Some((time, _)) if time >= series.time => {
                    // As it was: what came last first.
                    for (key, old) in before.into_iter().rev() {
                        match old {
                            Some(old) => newest.insert(key, old),
                            None => newest.remove(&key),
                        };
                    }
                    return Answer::REFUSED;
                }
                known => {
                    before.push((series.key, known));
                    newest.insert(series.key, sample);
                }
            }
        }
        Answer::TAKEN
    })
}
