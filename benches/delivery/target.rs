//! A target in this process: a thread for each connection, an answer by the rules of the part, every request remembered.
//!
//! It judges at once and answers when its latency has passed, as a target that stores first and answers then: what it has judged it
//! has, also when nobody waits for the answer any more.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::Connection;
use crate::series;
use crate::timeline::{Seen, Timeline};

/// Below the ports that the kernel gives to outgoing connections: while it is away nobody else takes its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Without a body.
    pub status: u16,
    /// In seconds.
    pub retry_after: Option<u32>,
}

impl Answer {
    /// Taken.
    pub const TAKEN: Answer = Answer { status: 204, retry_after: None };
    /// Never to be sent again.
    pub const REFUSED: Answer = Answer { status: 400, retry_after: None };
}

/// Looks at a compressed body and the number of its samples. Not asked about requests without samples.
pub type Rules = Box<dyn Fn(&[u8], u64) -> Answer + Send + Sync>;

/// The target; it ends with this value.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    latency: Duration,
    rules: Rules,
    is_away: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Target {
    /// One that is away.
    pub fn away(latency: Duration, rules: Rules) -> io::Result<Target> {
        let shared = Shared {
            latency,
            rules,
            is_away: AtomicBool::new(true),
            seen: Mutex::default(),
            streams: Mutex::default(),
        };
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)))?.local_addr();
        let address = (0..100).find_map(|_| free().ok()).ok_or(io::ErrorKind::AddrInUse)?;
        Ok(Target { address, shared: Arc::new(shared), listening: None })
    }

    /// Takes connections.
    pub fn come(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.shared.is_away.store(false, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_away.load(Ordering::SeqCst) {
                    return;
                }
                lock(&shared.streams).extend(stream.try_clone());
                let shared = shared.clone();
                std::thread::spawn(move || {
                    if let Err(error) = shared.serve(stream) {
                        // Whoever was killed or left has broken off: no news.
                        if error.kind() == io::ErrorKind::InvalidData {
                            eprintln!("the target got {error}");
                        }
                    }
                });
            }
        }));
        Ok(())
    }

    /// Breaks all connections and takes no more.
    pub fn leave(&mut self) {
        self.shared.is_away.store(true, Ordering::SeqCst);
        if let Some(listening) = self.listening.take() {
            // Its own connection wakes the listener.
            let _ = TcpStream::connect(self.address);
            listening.join().expect("the listener does not panic");
        }
        for stream in std::mem::take(&mut *lock(&self.shared.streams)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// For the relay.
    pub fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// All requests so far.
    pub fn seen(&self) -> Timeline {
        Timeline(lock(&self.shared.seen).clone())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut connection = Connection::new(stream)?;
        while let Some(message) = connection.receive()? {
            let arrived = Instant::now();
            let (samples, bytes) = (series::samples(message.body)?, message.body.len() as u64);
            let answer = if samples == 0 { Answer::TAKEN } else { (self.rules)(message.body, samples) };
            let took = arrived.elapsed().max(self.latency);
            lock(&self.seen).push(Seen { arrived, took, samples, bytes, status: answer.status });
            std::thread::sleep((arrived + took).saturating_duration_since(Instant::now()));
            let retry_after = answer.retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n"));
            let head = format!("HTTP/1.1 {} \r\n{}", answer.status, retry_after.unwrap_or_default());
            let length = if answer.status == 204 { "" } else { "Content-Length: 0\r\n" };
            connection.send(format!("{head}{length}\r\n").as_bytes())?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}
