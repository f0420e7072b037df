//! Bad targets beside a good one: whether upstreams and the good target notice.
//!
//! ```text
//!   a request of 2000 samples every 20 ms --> relay --> good target
//!          acknowledged after: `ack`            |           taken after: `delay`
//!                                               '--> one that never answers, one that answers after 30 s, one that is not there,
//!                                                    one that answers 503, one that answers 400 to everything
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Rig;
use crate::body::{SERIES, now_ms, scrape};
use crate::http::Connection;
use crate::relay::Relay;
use crate::report::{Spread, Table};
use crate::series;
use crate::target::{Answer, Rules, Target};
use crate::upstream::send;

const INTERVAL: Duration = Duration::from_millis(20);
const REQUESTS: usize = 1000;
/// Of the load, at its beginning: connections are made.
const NOT_COUNTED: usize = 100;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    None,
    Bad,
}

/// In milliseconds.
struct Measured {
    company: Company,
    ack: [f64; 2],
    delay: [f64; 2],
    cpu: f64,
}

/// Measures and prints.
pub fn measure(rig: &Rig) -> Result<(), Box<dyn Error>> {
    println!(
        "\nbeside: a request of {SERIES} samples every {INTERVAL:?}, {REQUESTS} of them, {} rounds: median [min..max]",
        rig.rounds
    );
    let mut measured = Vec::new();
    for round in 0..rig.rounds {
        for company in [Company::None, Company::Bad] {
            eprintln!("beside, round {} of {}: {company:?}", round + 1, rig.rounds);
            measured.push(load(rig, company)?);
        }
    }
    let mut table = Table::new(&["beside it", "ack p50 ms", "ack p99 ms", "delay p50 ms", "delay p99 ms", "CPU s"]);
    for (company, name) in [(Company::None, "nobody"), (Company::Bad, "five bad ones")] {
        let spread = |value: &dyn Fn(&Measured) -> f64| {
            Spread::of(measured.iter().filter(|one| one.company == company).map(value), 2).to_string()
        };
        table.row(vec![
            name.to_owned(),
            spread(&|one| one.ack[0]),
            spread(&|one| one.ack[1]),
            spread(&|one| one.delay[0]),
            spread(&|one| one.delay[1]),
            spread(&|one| one.cpu),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn load(rig: &Rig, company: Company) -> Result<Measured, Box<dyn Error>> {
    let dir = tempfile::tempdir_in(rig.dir)?;
    let taken: Arc<Mutex<HashMap<i64, Instant>>> = Arc::default();
    let for_rules = taken.clone();
    let notes: Rules = Box::new(move |body, _| {
        let now = Instant::now();
        let message = series::decompressed(body);
        let mut taken = for_rules.lock().expect("nobody panics with it");
        series::all(&message).for_each(|series| {
            taken.entry(series.time).or_insert(now);
        });
        Answer::TAKEN
    });
    let mut good = Target::away(Duration::ZERO, notes)?;
    good.come()?;
    let always = |status| -> Rules { Box::new(move |_, _| Answer { status, retry_after: None }) };
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let mut slow = Target::away(Duration::from_secs(30), always(204))?;
    let away = Target::away(Duration::ZERO, always(204))?;
    let mut failing = Target::away(Duration::ZERO, always(503))?;
    let mut refusing = Target::away(Duration::ZERO, always(400))?;
    for target in [&mut slow, &mut failing, &mut refusing] {
        target.come()?;
    }
    let bad = [format!("http://{}/", silent.local_addr()?), slow.url(), away.url(), failing.url(), refusing.url()];
    let bad = if company == Company::Bad { &bad[..] } else { &[] };
    let keys: Vec<String> = (0..)
        .zip(bad)
        .map(|(number, url): (u32, _)| {
            format!("\n[[target]]\nname = \"bad-{number}\"\nurl = {url:?}\nrequired = false")
        })
        .collect();
    let relay = Relay::start(rig.promrelay, dir.path(), &good.url(), &keys)?;

    let watch = crate::process::Watch::start(relay.process.pid())?;
    let mut body = crate::body::Body::of(scrape(0));
    let mut connection = Connection::connect(relay.address)?;
    let (start, first_time) = (Instant::now(), now_ms());
    let mut acks = Vec::new();
    let mut sent = Vec::new();
    for number in 0..REQUESTS {
        std::thread::sleep((INTERVAL * number as u32).saturating_sub(start.elapsed()));
        let time = first_time + number as i64;
        let request = body.advance_to(time);
        let before = Instant::now();
        send(&mut connection, request)?;
        acks.push(before.elapsed());
        sent.push((time, before));
    }
    let until = Instant::now() + SETTLED_WITHIN;
    while taken.lock().expect("nobody panics with it").len() < REQUESTS {
        if Instant::now() > until {
            return Err("the good target did not get everything".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let cpu = watch.stop()?.cpu.as_secs_f64();
    let taken = taken.lock().expect("nobody panics with it");
    let delays = sent.iter().map(|(time, before)| taken[time].duration_since(*before)).collect();
    Ok(Measured { company, ack: percentiles(acks), delay: percentiles(delays), cpu })
}

/// The median and the 99th, of all but the first ones.
fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    let mut times = times.split_off(NOT_COUNTED);
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|at| times[at].as_secs_f64() * 1000.0)
}
