//! The load: closed loop or fixed rate over some connections, each with sets of series of its own, as the shards of an upstream.
//!
//! At a fixed rate a request that starts late because the answer before it was late is counted from when it should have started.
//! Otherwise one slow answer would hide the wait of all that queue behind it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::body::{Body, SERIES};
use crate::http::Connection;

/// After a 503.
const PAUSE: Duration = Duration::from_millis(20);

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// The next request follows the answer.
    Saturation,
    /// Samples a second, over all connections.
    Rate(u32),
}

/// What is sent, by connection. Built once for a whole run.
#[derive(Debug)]
pub struct Load {
    connections: Vec<Vec<Body>>,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Answers {
    /// How long each acknowledgement took.
    pub latencies: Vec<Duration>,
    /// Answered with anything but 2xx.
    pub rejected: u64,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Answers {
    /// Acknowledged.
    pub fn samples(&self) -> u64 {
        (self.latencies.len() * SERIES) as u64
    }
}

impl Load {
    /// `sets` bodies, dealt out to `connections`.
    pub fn new(sets: usize, connections: usize) -> Load {
        let mut load = Load { connections: (0..connections).map(|_| Vec::new()).collect() };
        for set in 0..sets {
            load.connections[set % connections].push(Body::new(set));
        }
        load
    }

    /// Mean length of a compressed body.
    pub fn body_len(&self) -> usize {
        let bodies = || self.connections.iter().flatten();
        bodies().map(|body| body.compressed().len()).sum::<usize>() / bodies().count()
    }

    /// Every set once: what knows series by heart has seen all of them then.
    pub fn warm_up(&mut self, address: SocketAddr) -> io::Result<Answers> {
        self.run(address, |_, bodies| Box::new(std::iter::repeat_n(None, bodies)))
    }

    /// Sends for some time.
    pub fn send(&mut self, address: SocketAddr, pace: Pace, lasting: Duration) -> io::Result<Answers> {
        let connections = self.connections.len();
        // Connections are made meanwhile.
        let start = Instant::now() + Duration::from_millis(10);
        let end = start + lasting;
        self.run(address, |connection, _| match pace {
            Pace::Saturation => Box::new(std::iter::from_fn(move || (Instant::now() < end).then_some(None))),
            Pace::Rate(samples) => {
                let interval = Duration::from_secs(1) * SERIES as u32 / samples;
                let due = move |turn: u32| start + interval * (turn * connections as u32 + connection as u32);
                Box::new((0..).map(due).take_while(move |due| *due < end).map(Some))
            }
        })
    }

    /// A thread for each connection; `schedule` says when requests are due (`None`: at once), given connection and number of bodies.
    fn run(
        &mut self,
        address: SocketAddr,
        schedule: impl Fn(usize, usize) -> Box<dyn Iterator<Item = Option<Instant>> + Send>,
    ) -> io::Result<Answers> {
        let start = Instant::now();
        let mut all = Answers::default();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (number, bodies) in self.connections.iter_mut().enumerate() {
                let schedule = schedule(number, bodies.len());
                threads.push(scope.spawn(move || send_all(address, bodies, schedule)));
            }
            for thread in threads {
                let answers = thread.join().expect("a connection's thread does not panic")?;
                all.latencies.extend(answers.latencies);
                all.rejected += answers.rejected;
            }
            io::Result::Ok(())
        })?;
        all.took = start.elapsed();
        Ok(all)
    }
}

fn send_all(
    address: SocketAddr,
    bodies: &mut [Body],
    schedule: impl Iterator<Item = Option<Instant>>,
) -> io::Result<Answers> {
    let mut answers = Answers::default();
    let mut connection = Connection::connect(address)?;
    for (turn, due) in schedule.enumerate() {
        let mut started = Instant::now();
        match due {
            Some(due) if due > started => {
                std::thread::sleep(due - started);
                started = Instant::now();
            }
            Some(due) => started = due,
            None => {}
        }
        connection.send(bodies[turn % bodies.len()].advance())?;
        let answer = connection.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if (200..300).contains(&answer.status()?) {
            answers.latencies.push(started.elapsed());
        } else {
            answers.rejected += 1;
            std::thread::sleep(PAUSE);
        }
    }
    Ok(answers)
}
