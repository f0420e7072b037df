//! One life of a relay, with everything that an onlooker could know: each call that changed its files, what was sent,
//! when each request was acknowledged and when the target had it.
//!
//! ```text
//!  clients --numbered requests, 20-80 KB--> relay under strace ----> sink: there, away until the log is full,
//!                                           killed with a backlog,         there again
//!                                           started again, stopped
//! ```
//!
//! Strace's stamps and those of the onlooker are of one clock. So what a client saw before the stamp of a line, the
//! relay had done above that line.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::history::{CALLS, History, InFlight};
use super::places;
use crate::support::relay::{Config, Relay};
use crate::support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise};
use crate::support::sink::{Answer, Sink};
use crate::support::{client, eventually};

pub const CLIENTS: usize = 4;
const NOISE_BYTES: std::ops::Range<usize> = 20_000..80_000;
/// Short pauses, for a short test.
const TARGET: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];
/// A stop of one of the phases below has gone wrong.
const LATE: Duration = Duration::from_secs(60);

/// What is asked of the relay: a small log of small segments, so that all of its life happens within seconds.
pub fn config(sync: &str, sink: &Sink) -> Config {
    Config::new().wal(&format!("sync = {sync:?}")).wal("max_size = \"8MiB\"").wal("segment_size = \"1MiB\"").target(
        "sink",
        &sink.url(),
        &TARGET,
    )
}

/// One request: number `number` of the client's series, and a sample with noise. Always the same.
pub fn request(client: usize, number: u64) -> Post {
    let protocol = Protocol::ALL[client % 2];
    let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
    let labels = [("__name__", "noise"), ("client", &client.to_string()), ("noise", noise_of(client, number))];
    Request::new().numbered(&client.to_string(), number).series(&labels, &[sample]).post(protocol)
}

/// A part of one text that does not compress; hardly two are the same.
fn noise_of(client: usize, number: u64) -> &'static str {
    static NOISE: LazyLock<String> = LazyLock::new(|| noise(&mut fastrand::Rng::with_seed(1), 4 * NOISE_BYTES.end));
    let mut random = fastrand::Rng::with_seed((client as u64) << 32 | number);
    let len = random.usize(NOISE_BYTES);
    let from = random.usize(..NOISE.len() - len);
    &NOISE[from..from + len]
}

/// The series of a request, as a sink names them.
pub fn series(client: usize, number: u64) -> [String; 2] {
    let noise = xxhash_rust::xxh3::xxh3_128(noise_of(client, number).as_bytes());
    [numbered(client), format!("noise{{client=\"{client}\",noise={noise:#x}}}")]
}

pub fn numbered(client: usize) -> String {
    format!("numbered{{series=\"{client}\"}}")
}

pub fn client_of(series: &str) -> Option<usize> {
    series.strip_prefix("numbered{series=\"")?.strip_suffix("\"}")?.parse().ok()
}

/// Now, in µs since 1970.
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// What became of one request. Times in µs since 1970.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    pub client: usize,
    pub number: u64,
    /// When its client had the 2xx.
    pub acknowledged: i64,
    /// When the sink had it.
    pub stored: i64,
}

/// A relay was killed when nothing went on, and started again. Times in µs since 1970.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Restart {
    pub killed: i64,
    /// When it was ready again.
    pub ready: i64,
}

/// See the module.
pub struct Recording {
    pub history: History,
    pub sent: Vec<Sent>,
    pub restart: Restart,
    pub sync: String,
    /// The numbers of each series that were sent.
    pub expected: HashMap<String, BTreeSet<u64>>,
    root: PathBuf,
    trace: String,
}

/// All of a recording but the trace.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    sync: String,
    root: PathBuf,
    sent: Vec<Sent>,
    restart: Restart,
}

impl Recording {
    /// Records a relay with this mode of syncing; or reads what `PROMRELAY_TEST_RECORDING` names, if that is of this
    /// mode.
    pub async fn of(sync: &str) -> Recording {
        if let Some(dir) = std::env::var_os("PROMRELAY_TEST_RECORDING").map(PathBuf::from) {
            let kept: Kept = serde_json::from_slice(&fs::read(dir.join("kept.json")).unwrap()).unwrap();
            if kept.sync == sync {
                let trace = fs::read_to_string(dir.join("trace")).unwrap();
                return Self::read(kept, trace).expect("it was whole when it was kept");
            }
        }
        loop {
            let dir = TempDir::new().unwrap();
            let kept = live(sync, dir.path()).await;
            let trace = (0..STARTS).map(|start| fs::read_to_string(trace_path(dir.path(), start)).unwrap()).collect();
            match Self::read(kept, trace) {
                Ok(recording) => return recording,
                Err(InFlight) => println!("the relay was killed in the middle of a change: once more"),
            }
        }
    }

    fn read(kept: Kept, trace: String) -> Result<Recording, InFlight> {
        let Kept { sync, root, sent, restart } = kept;
        let history = History::read(&trace, root.to_str().unwrap())?;
        let mut expected: HashMap<String, BTreeSet<u64>> = HashMap::new();
        for sent in &sent {
            for series in series(sent.client, sent.number) {
                expected.entry(series).or_default().insert(sent.number);
            }
        }
        Ok(Recording { history, sent, restart, sync, expected, root, trace })
    }

    /// How many requests each client has sent.
    pub fn counts(&self) -> [u64; CLIENTS] {
        std::array::from_fn(|client| self.sent.iter().filter(|sent| sent.client == client).count() as u64)
    }

    /// Keeps it in a directory, for another time.
    pub fn keep(&self) -> PathBuf {
        let dir = TempDir::new().unwrap().keep();
        let (sync, root, sent) = (self.sync.clone(), self.root.clone(), self.sent.clone());
        let kept = Kept { sync, root, sent, restart: self.restart };
        fs::write(dir.join("kept.json"), serde_json::to_vec(&kept).unwrap()).unwrap();
        fs::write(dir.join("trace"), &self.trace).unwrap();
        dir
    }
}

const STARTS: usize = 2;

fn trace_path(dir: &Path, start: usize) -> PathBuf {
    dir.join(format!("trace-{start}"))
}

/// The life. Its traces are in `dir`.
async fn live(sync: &str, dir: &Path) -> Kept {
    let sink = places::returning_sink().await;
    let stored: Arc<Mutex<HashMap<(usize, u64), i64>>> = Arc::default();
    let seen = stored.clone();
    let mut random = fastrand::Rng::new();
    sink.script(move |request| {
        // Overloaded at times.
        if random.u8(..30) == 0 {
            return Answer::status(503);
        }
        let numbers =
            request.samples.iter().filter_map(|sample| Some((client_of(&sample.series)?, sample.value as u64)));
        let mut seen = seen.lock().unwrap();
        for number in numbers {
            seen.entry(number).or_insert_with(now);
        }
        Answer::status(204).delay(Duration::from_millis(random.u64(..4)))
    });
    let mut relay = places::relay(config(sync, &sink)).await;
    let root = relay.dir().canonicalize().unwrap().join(relay.wal_dir().file_name().unwrap());
    let mut load = Load::default();

    start(&mut relay, dir, 0).await;
    // The sink takes everything; it is away until the log is full; it comes back while the load goes on.
    load.begin(&relay);
    load.more(60).await;
    sink.stop().await;
    load.more_until_full(&relay).await;
    sink.start_again().await;
    load.more(60).await;
    load.pause().await;
    released(&relay).await;
    // A backlog again, and killed with it when nothing goes on.
    sink.stop().await;
    load.begin(&relay);
    load.more(40).await;
    load.pause().await;
    let killed = now();
    relay.kill_9().await;
    ended(dir, 0, "+++ killed by SIGKILL +++").await;
    start(&mut relay, dir, 1).await;
    let restart = Restart { killed, ready: now() };
    load.begin(&relay);
    load.more(20).await;
    sink.start_again().await;
    load.more(40).await;
    load.pause().await;
    released(&relay).await;
    let (status, _) = relay.terminate().await;
    assert!(status.success(), "{status}");
    ended(dir, 1, "+++ exited with 0 +++").await;

    sink.assert_strict();
    let stored = stored.lock().unwrap();
    let sent = load.acknowledged.lock().unwrap().clone();
    let sent = sent.into_iter().map(|((client, number), acknowledged)| {
        let stored = *stored.get(&(client, number)).expect("what was acknowledged was delivered in the end");
        Sent { client, number, acknowledged, stored }
    });
    Kept { sync: sync.into(), root, sent: sent.collect(), restart }
}

async fn start(relay: &mut Relay, dir: &Path, start: usize) {
    let path = trace_path(dir, start);
    // -D: the relay is our child, and strace its grandchild.
    let options = ["-f", "-D", "-y", "-ttt", "-xx", "-s", "16777216", "-e", "abbrev=none", "-e", CALLS, "-o"];
    let wrapper: Vec<&str> = ["strace"].into_iter().chain(options).chain([path.to_str().unwrap()]).collect();
    relay.config = relay.config.clone().run_by(&wrapper);
    places::start(relay).await;
}

async fn ended(dir: &Path, start: usize, with: &str) {
    let path = trace_path(dir, start);
    let last_line = async || fs::read_to_string(&path).unwrap().trim_end().ends_with(with).then_some(());
    eventually("strace has written all", LATE, last_line).await;
}

/// Waits until all is delivered and all segments but one or two are released.
async fn released(relay: &Relay) {
    relay.drained(LATE).await;
    let few = async || (relay.status().await["wal"]["segments"].as_array().unwrap().len() <= 2).then_some(());
    eventually("segments are released", LATE, few).await;
}

/// The clients: each has a series of its own, and sends the next number when it has the 2xx of the one before.
#[derive(Default)]
struct Load {
    acknowledged: Arc<Mutex<HashMap<(usize, u64), i64>>>,
    next: [Arc<AtomicU64>; CLIENTS],
    pausing: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(&mut self, relay: &Relay) {
        self.pausing = Arc::default();
        for (client, next) in self.next.iter().enumerate() {
            let (url, next, acknowledged) = (relay.write_url(), next.clone(), self.acknowledged.clone());
            let pausing = self.pausing.clone();
            self.clients.push(tokio::spawn(send(client, url, next, acknowledged, pausing)));
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn more(&self, requests: usize) {
        let enough = self.count() + requests;
        eventually("the load goes on", LATE, async || (self.count() >= enough).then_some(())).await;
    }

    async fn more_until_full(&self, relay: &Relay) {
        let is_full = async || (relay.status().await["ready"] == false).then_some(());
        eventually("the log is full", LATE, is_full).await;
    }

    /// Returns when nothing is in flight.
    async fn pause(&mut self) {
        self.pausing.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.unwrap();
        }
    }
}

async fn send(
    number_of: usize,
    url: String,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<HashMap<(usize, u64), i64>>>,
    pausing: Arc<AtomicBool>,
) {
    let http = client();
    while !pausing.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let post = request(number_of, number);
        loop {
            let answer = post.send(&http, &url).await.unwrap();
            match answer.status().as_u16() {
                204 => break,
                // Full: it is not in the log.
                503 => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other}: {}", answer.text().await.unwrap()),
            }
        }
        acknowledged.lock().unwrap().insert((number_of, number), now());
        // A client has pauses; without them few syncs lie between two requests.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
    }
}
