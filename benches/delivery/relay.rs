//! The relay's process with one target, and what it says of itself.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::http::{self, Connection};
use crate::process::Process;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two questions.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A relay that takes requests. It is killed with this value.
#[derive(Debug)]
pub struct Relay {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    program: PathBuf,
    dir: PathBuf,
}

/// Of its target, in samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// What it took.
    pub delivered: u64,
    /// What it refused for good.
    pub refused: u64,
    /// What it is still owed.
    pub pending: u64,
    /// All that it was ever owed.
    pub accepted: u64,
    /// Age of the oldest record that it is owed, in seconds.
    pub lag: f64,
}

impl Relay {
    /// Starts it with its data in `dir`; `keys` are lines of the target's configuration.
    pub fn start(program: &Path, dir: &Path, url: &str, keys: &[String]) -> Result<Relay, Box<dyn Error>> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = format!(
            "[server]\nlisten = \"{address}\"\n\n[wal]\ndir = {:?}\n\n[[target]]\nname = \"target\"\nurl = {url:?}\n{}\n",
            dir.join("wal"),
            keys.join("\n"),
        );
        fs::write(dir.join("config.toml"), config)?;
        let mut relay =
            Relay { process: process(program, dir)?, address, program: program.to_owned(), dir: dir.to_owned() };
        relay.wait_until_ready()?;
        Ok(relay)
    }

    /// Kills it with SIGKILL and starts it again. How long until it was ready again.
    pub fn kill_and_start(&mut self) -> Result<Duration, Box<dyn Error>> {
        self.process.kill()?;
        let start = Instant::now();
        self.process = process(&self.program, &self.dir)?;
        self.wait_until_ready()?;
        Ok(start.elapsed())
    }

    /// Ends it in an orderly way and starts it again.
    pub fn end_and_start(self) -> Result<Relay, Box<dyn Error>> {
        let Relay { process, address, program, dir } = self;
        process.terminate()?;
        let mut relay = Relay { process: self::process(&program, &dir)?, address, program, dir };
        relay.wait_until_ready()?;
        Ok(relay)
    }

    fn wait_until_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let address = self.address;
        self.process.wait_until(POLL_INTERVAL, READY_WITHIN, || matches!(http::get(address, "/-/ready"), Ok(200)))
    }

    /// What it says of its target.
    pub fn status(&self) -> Result<Status, Box<dyn Error>> {
        let status: serde_json::Value = serde_json::from_slice(&self.get("/api/v1/status")?)?;
        let target = &status["targets"][0];
        let samples = |name: &str| target["samples"][name].as_u64().ok_or("a status without samples");
        Ok(Status {
            delivered: samples("delivered")?,
            refused: samples("refused")?,
            pending: samples("pending")?,
            accepted: samples("accepted")?,
            lag: target["lag_seconds"].as_f64().ok_or("a status without a lag")?,
        })
    }

    /// Samples that were refused for good, by reason, for people.
    pub fn refused(&self) -> Result<String, Box<dyn Error>> {
        let text = String::from_utf8(self.get("/metrics")?)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("promrelay_target_refused_samples_total{"));
        let reasons: Vec<String> = lines
            .filter(|line| !line.ends_with(" 0"))
            .filter_map(|line| {
                let reason = line.split("reason=\"").nth(1)?.split('"').next()?;
                Some(format!("{} {reason}", line.rsplit(' ').next()?))
            })
            .collect();
        Ok(if reasons.is_empty() { "0".to_owned() } else { reasons.join(", ") })
    }

    /// Waits until nothing is owed, but not for ever.
    pub fn wait_until_settled(&self, limit: Duration) -> Result<Settled, Box<dyn Error>> {
        let end = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if status.pending == 0 || Instant::now() > end {
                return Ok(Settled { at: Instant::now(), status });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn get(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut connection = Connection::connect(self.address)?;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").as_bytes())?;
        Ok(connection.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?.body.to_vec())
    }
}

/// The end of a backlog.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// When it was seen.
    pub at: Instant,
    /// Then.
    pub status: Status,
}

fn process(program: &Path, dir: &Path) -> io::Result<Process> {
    Process::start(Command::new(program).arg("--config").arg(dir.join("config.toml")), &dir.join("log.txt"))
}
