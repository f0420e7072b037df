//! Where everything ends: a process of its own that reads requests, answers 204 at once and counts samples.
//!
//! ```text
//!  stdout  the address, once          then for each line on stdin: requests samples odd
//!  stdin   its end ends the process: no sink outlives the benchmark
//! ```
//!
//! Samples are counted by the length in front of the snappy stream (see [`body`](crate::body)). That this is right is checked by
//! decompression: for the first requests of each connection, and for every request whose length does not divide evenly; those are
//! counted as odd, and all that come on their connection are counted one by one, because rules may make a length that divides by chance.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::body::SERIES_LEN;
use crate::http::Connection;

/// Makes the program a sink.
pub const ARGUMENT: &str = "--sink";

/// So many requests of a connection are decompressed and counted.
const CHECKED_REQUESTS: u64 = 4;

/// What has arrived so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Answered with 204.
    pub requests: u64,
    /// In these.
    pub samples: u64,
    /// Requests whose samples had to be counted one by one.
    pub odd: u64,
}

/// The sink's process, seen from the benchmark.
#[derive(Debug)]
pub struct Sink {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Sink {
    /// Starts the process.
    pub fn start() -> Result<Sink, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let questions = child.stdin.take().expect("it is piped");
        let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let address = line.trim().parse()?;
        Ok(Sink { child, questions, answers, address })
    }

    /// A URL for a target; all count into the same sums.
    pub fn url(&self, target: usize) -> String {
        format!("http://{}/{target}/api/v1/write", self.address)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What has arrived so far.
    pub fn counts(&mut self) -> Result<Counts, Box<dyn Error>> {
        self.questions.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [requests, samples, odd] = numbers[..] else { return Err("the sink has ended".into()) };
        Ok(Counts { requests, samples, odd })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It holds nothing worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Default)]
struct Sums {
    requests: AtomicU64,
    samples: AtomicU64,
    odd: AtomicU64,
}

static SUMS: Sums = Sums { requests: AtomicU64::new(0), samples: AtomicU64::new(0), odd: AtomicU64::new(0) };

/// The sink's process from inside.
pub fn run() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if let Err(error) = serve(stream) {
                    // A relay that was killed has broken off: no news.
                    if error.kind() == io::ErrorKind::InvalidData {
                        eprintln!("the sink got {error}");
                    }
                }
            });
        }
    });
    for line in io::stdin().lines() {
        line?;
        let [requests, samples, odd] =
            [&SUMS.requests, &SUMS.samples, &SUMS.odd].map(|sum| sum.load(Ordering::Relaxed));
        println!("{requests} {samples} {odd}");
    }
    Ok(())
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    let mut requests = 0;
    let mut has_been_odd = false;
    while let Some(message) = connection.receive()? {
        let is_2 = message.head.contains("io.prometheus.write.v2.Request");
        let (samples, is_odd) = samples(message.body, is_2, has_been_odd || requests < CHECKED_REQUESTS)?;
        has_been_odd |= is_odd;
        requests += 1;
        SUMS.samples.fetch_add(samples, Ordering::Relaxed);
        SUMS.requests.fetch_add(1, Ordering::Relaxed);
        SUMS.odd.fetch_add(u64::from(is_odd), Ordering::Relaxed);
        if is_2 {
            let written = format!("X-Prometheus-Remote-Write-Samples-Written: {samples}\r\n");
            connection.send(format!("HTTP/1.1 204 No Content\r\n{written}\r\n").as_bytes())?;
        } else {
            connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
    }
    Ok(())
}

/// The number of samples in a body, and whether they had to be counted one by one.
fn samples(body: &[u8], is_2: bool, is_checked: bool) -> io::Result<(u64, bool)> {
    if body.is_empty() {
        return Ok((0, false));
    }
    let len = snap::raw::decompress_len(body).map_err(invalid)?;
    let is_odd = is_2 || len % SERIES_LEN != 0;
    let by_len = (len / SERIES_LEN) as u64;
    if !is_odd && !is_checked {
        return Ok((by_len, false));
    }
    let message = snap::raw::Decoder::new().decompress_vec(body).map_err(invalid)?;
    let counted =
        count_series(&message, if is_2 { 5 } else { 1 }).ok_or_else(|| invalid("a body that is no WriteRequest"))?;
    Ok((counted, is_odd || counted != by_len))
}

/// Fields of the message with this number, 1 in remote write 1.0, 5 in 2.0. Each is a series with one sample: that is how the load is.
fn count_series(mut message: &[u8], field: u8) -> Option<u64> {
    let mut count = 0;
    while let Some((tag, rest)) = message.split_first() {
        count += u64::from(*tag == field << 3 | 2);
        let mut len = 0;
        let mut len_len = 0;
        loop {
            let byte = *rest.get(len_len)?;
            len |= usize::from(byte & 0x7f) << (7 * len_len);
            len_len += 1;
            if byte < 0x80 {
                break;
            }
        }
        message = rest.get(len_len + len..)?;
    }
    Some(count)
}

fn invalid(what: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
