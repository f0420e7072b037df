//! Upstreams: they build a backlog as fast as it is acknowledged, or send at a fixed rate until they are told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::body::{self, Body, SERIES};
use crate::http::Connection;
use crate::series;

/// After a 503, or when nobody listens.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests at a time, each on a connection of its own.
const CONNECTIONS: usize = 8;

/// Bodies of [`SERIES`] series, no series in two of them.
#[derive(Debug)]
pub struct Sets(Vec<Set>);

/// One of them.
#[derive(Debug)]
pub struct Set {
    /// Of its first series.
    pub key: u64,
    /// To be sent.
    pub body: Body,
}

impl Sets {
    /// The first `count` sets.
    pub fn new(count: usize) -> Sets {
        let set = |number| Set { key: series::first_key(&body::scrape(number)), body: Body::new(number) };
        let halves = [0..count / 2, count / 2..count];
        // It takes some milliseconds for each.
        let made: Vec<Vec<Set>> = std::thread::scope(|scope| {
            let threads = halves.map(|half| scope.spawn(move || half.map(set).collect()));
            threads.map(|thread| thread.join().expect("a body can be made")).into()
        });
        Sets(made.into_iter().flatten().collect())
    }

    /// Only the first of them.
    pub fn first(&mut self, count: usize) -> &mut [Set] {
        &mut self.0[..count]
    }

    /// Mean length of a compressed body.
    pub fn body_len(&self) -> usize {
        self.0.iter().map(|set| set.body.compressed().len()).sum::<usize>() / self.0.len()
    }
}

/// Sends records over several connections, as fast as they are acknowledged; the sets take turns.
pub fn send_backlog(address: SocketAddr, sets: &mut [Set], records: usize) -> io::Result<()> {
    let mut connections: Vec<Vec<&mut Set>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for (number, set) in sets.iter_mut().enumerate() {
        connections[number % CONNECTIONS].push(set);
    }
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, mut sets) in connections.into_iter().enumerate() {
            let records = (0..records).skip(number).step_by(CONNECTIONS).count();
            threads.push(scope.spawn(move || {
                let mut connection = Connection::connect(address)?;
                let sets_len = sets.len();
                for turn in 0..records {
                    send(&mut connection, sets[turn % sets_len].body.advance())?;
                }
                io::Result::Ok(())
            }));
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("a connection's thread does not panic"))
    })
}

/// Sends a request until it is acknowledged: a relay that turns it away is asked again.
pub fn send(connection: &mut Connection, request: &[u8]) -> io::Result<()> {
    loop {
        match try_send(connection, request)? {
            204 => return Ok(()),
            503 => std::thread::sleep(PAUSE),
            status => return Err(io::Error::other(format!("the relay answers {status}"))),
        }
    }
}

fn try_send(connection: &mut Connection, request: &[u8]) -> io::Result<u16> {
    connection.send(request)?;
    connection.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?.status()
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Of its first series.
    pub key: u64,
    /// Of its samples.
    pub time: i64,
    /// If not, it may be in the log or not.
    pub is_acknowledged: bool,
}

/// What upstreams at a fixed rate have done so far.
#[derive(Debug, Default)]
pub struct Journal {
    accepted: AtomicU64,
    turned_away: AtomicU64,
    sent: Mutex<Vec<Sent>>,
    is_over: AtomicBool,
}

impl Journal {
    /// Acknowledged samples.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests that were not acknowledged, whatever the reason.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// All requests.
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No more of them.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn add(&self, sent: Sent) {
        match sent.is_acknowledged {
            true => self.accepted.fetch_add(SERIES as u64, Ordering::Relaxed),
            false => self.turned_away.fetch_add(1, Ordering::Relaxed),
        };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
    }
}

/// Sends so many samples a second until [`Journal::stop`]. A request that is not acknowledged is not sent again: what comes twice at
/// the target was sent twice by the relay.
pub fn send_at_rate(address: SocketAddr, sets: &mut [Set], rate: u32, journal: &Journal) {
    let start = Instant::now();
    let interval = Duration::from_secs(1) * SERIES as u32 / rate;
    let connections = CONNECTIONS.min(sets.len());
    let mut dealt: Vec<Vec<&mut Set>> = (0..connections).map(|_| Vec::new()).collect();
    for (number, set) in sets.iter_mut().enumerate() {
        dealt[number % connections].push(set);
    }
    std::thread::scope(|scope| {
        for (number, mut sets) in dealt.into_iter().enumerate() {
            scope.spawn(move || {
                let mut connection = None;
                let sets_len = sets.len();
                for turn in 0.. {
                    let due = start + interval * (turn * connections + number) as u32;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if journal.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let set = &mut sets[turn % sets_len];
                    let request = set.body.advance();
                    let answer = match connection.take().map_or_else(|| Connection::connect(address), Ok) {
                        Ok(mut open) => try_send(&mut open, request).inspect(|_| connection = Some(open)),
                        Err(error) => Err(error),
                    };
                    let is_acknowledged = matches!(answer, Ok(204));
                    journal.add(Sent { key: set.key, time: set.body.time(), is_acknowledged });
                    if !is_acknowledged {
                        std::thread::sleep(PAUSE);
                    }
                }
            });
        }
    });
}
