//! Bad targets of every kind beside a good one: it gets everything at once, upstreams notice nothing, the relay's memory does not grow with
//! what the others are owed; and a relay with nothing to do does nothing.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Protocol, Request, noise, numbered};
use support::sink::{Answer, Sink};
use support::{client, eventually, seed};

const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Somebody who accepts connections, and what is done with each.
struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream));
            }
        });
        Listener { address, task }
    }

    /// Does not even answer who wants to connect, as behind a firewall that drops: its queue is full of connections that it never accepts, and then
    /// the kernel drops every SYN.
    async fn deaf() -> Listener {
        const UNHEARD: Duration = Duration::from_secs(1);

        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(UNHEARD, TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 16, "a queue of one is never full");
        }
        let task = tokio::spawn(async move {
            let _open = (listener, queue);
            std::future::pending().await
        });
        Listener { address, task }
    }

    /// Reads nothing and says nothing.
    async fn black_hole() -> Listener {
        Listener::start(async |stream| {
            let _open = stream;
            std::future::pending().await
        })
        .await
    }

    /// Reads everything and never answers.
    async fn silent() -> Listener {
        Listener::start(async |mut stream| {
            let mut bytes = vec![0; 1 << 16];
            while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        })
        .await
    }

    /// Answers a byte a second, and then goes on with a header that never ends.
    async fn drip() -> Listener {
        Listener::start(async |stream| {
            let (mut reads, mut writes) = stream.into_split();
            let reading = tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while reads.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            });
            for byte in b"HTTP/1.1 204 No Content\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
                if writes.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            reading.abort();
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }
}

/// Targets that are bad in their own ways, and who must be kept for that.
struct Bad {
    _listeners: Vec<Listener>,
    _sinks: Vec<Sink>,
    names: Vec<&'static str>,
}

/// Adds every kind of bad target.
async fn beside_bad_ones(mut config: Config) -> (Config, Bad) {
    let (slow, failing, held) = (Sink::start().await, Sink::start().await, Sink::start().await);
    slow.script(|_| Answer::status(204).delay(Duration::from_secs(30)));
    failing.script(|_| Answer::status(503));
    held.script(|_| Answer::status(403));
    let (hole, silent, drip) = (Listener::black_hole().await, Listener::silent().await, Listener::drip().await);
    let deaf = Listener::deaf().await;
    let urls = [
        ("deaf", deaf.url()),
        ("hole", hole.url()),
        ("silent", silent.url()),
        ("drip", drip.url()),
        ("slow", slow.url()),
        ("failing", failing.url()),
        ("held", held.url()),
        ("nowhere", "http://127.0.0.1:9/write".into()),
        ("unknown", "http://nobody.invalid/write".into()),
    ];
    for (name, url) in &urls {
        config = config.target(name, url, &[]);
    }
    let names = urls.iter().map(|(name, _)| *name).collect();
    (config, Bad { _listeners: vec![deaf, hole, silent, drip], _sinks: vec![slow, failing, held], names })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_target_gets_everything_at_once_whatever_others_do() {
    const REQUESTS: u64 = 200;

    let good = Sink::start().await;
    let config = Config::new().wal("max_size = \"64MiB\"").target("good", &good.url(), &[]);
    let (config, bad) = beside_bad_ones(config).await;
    let relay = config.start().await;
    let http = client();
    let start = Instant::now();
    for number in 0..REQUESTS {
        let post = numbered(Protocol::ALL[number as usize % 2], "s", number);
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
        // Never more than a few behind, so it is not the end that brings it.
        good.stored((number + 1).saturating_sub(10), Duration::from_secs(10)).await;
    }
    good.stored(REQUESTS, Duration::from_secs(10)).await;
    // Somebody who waits for any of the others waits longer.
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    good.assert_strict();
    for name in bad.names {
        let ledger = relay.ledger(name).await;
        assert_eq!((ledger.pending, ledger.accepted), (REQUESTS, REQUESTS), "{name}");
    }
    // It has stored the last one before the relay has read its answer.
    let is_told = async || (relay.ledger("good").await.delivered() == REQUESTS).then_some(());
    eventually("what is stored is told as delivered", SOON, is_told).await;
}

/// A number of `/proc/PID/status`, of the process or of one thread.
fn of_status(path: &str, key: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Memory that is the process's own, in bytes.
fn private_bytes(relay: &Relay) -> u64 {
    of_status(&format!("/proc/{}/status", relay.id()), "RssAnon") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_what_bad_targets_are_owed() {
    const REQUESTS: u64 = 600;
    const NOISE: usize = 200_000;

    let mut random = fastrand::Rng::with_seed(seed());
    let good = Sink::start().await;
    let config = Config::new().wal("max_size = \"512MiB\"").target("good", &good.url(), &[]);
    let (config, _bad) = beside_bad_ones(config).await;
    let mut relay = config.start().await;
    let http = client();
    let noise = noise(&mut random, NOISE);
    let mut most = 0;
    for number in 0..REQUESTS {
        let labels = [("__name__", "noise"), ("noise", &noise[..])];
        let request = Request::new().series(&labels, &[(FIRST_TIMESTAMP + number as i64, number as f64)]);
        let answer = request.literal_post(Protocol::V1).send(&http, &relay.write_url()).await.unwrap();
        assert_eq!(answer.status(), 204);
        most = most.max(private_bytes(&relay));
    }
    good.stored(REQUESTS, SOON).await;
    let backlog = relay.target("hole").await["pending"]["bytes"].as_u64().unwrap();
    assert!(backlog > 100 * MIB, "{backlog} bytes of backlog");
    assert!(most < 80 * MIB, "{} MiB with {} MiB of backlog", most / MIB, backlog / MIB);
    // Nor does a start read it all.
    relay.kill_9().await;
    let took = relay.start().await;
    let after = private_bytes(&relay);
    println!(
        "{} MiB at most, {} MiB after a start that took {took:?}, {} MiB of backlog",
        most / MIB,
        after / MIB,
        backlog / MIB
    );
    assert!(after < 80 * MIB, "{} MiB after a start", after / MIB);
}

/// How often each thread of the relay has gone to sleep by itself.
fn sleeps(relay: &Relay) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap();
    let threads = tasks.filter_map(Result::ok).map(|entry| entry.file_name().into_string().unwrap());
    threads
        .map(|thread| {
            let path = format!("/proc/{}/task/{thread}/status", relay.id());
            (thread, of_status(&path, "voluntary_ctxt_switches"))
        })
        .collect()
}

/// Sleeps a second over some seconds.
async fn sleeps_a_second(relay: &Relay) -> f64 {
    const SECONDS: u64 = 5;

    // Whatever a start or the last request leaves behind.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = sleeps(relay);
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let after = sleeps(relay);
    let count: u64 = after.iter().map(|(thread, count)| count - before.get(thread).unwrap_or(&0)).sum();
    count as f64 / SECONDS as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_nothing_to_do_sleeps() {
    let sinks = [Sink::start().await, Sink::start().await, Sink::start().await];
    let config = sinks.iter().zip(["a", "b", "c"]);
    let config = config
        .fold(Config::new().wal("max_size = \"64MiB\""), |config, (sink, name)| config.target(name, &sink.url(), &[]));
    let relay = config.start().await;
    for number in 0..20 {
        let post = numbered(Protocol::V1, "s", number);
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.drained(SOON).await;
    let a_second = sleeps_a_second(&relay).await;
    println!("{a_second} a second");
    assert!(a_second < 20.0, "{a_second} context switches a second");
    let questions = sinks[0].questions();
    assert!(questions < 5, "{questions} empty requests to a target that is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_waits_for_targets_sleeps() {
    let held = Sink::start().await;
    held.script(|_| Answer::status(401));
    let (deaf, hole) = (Listener::deaf().await, Listener::black_hole().await);
    let relay = Config::new()
        .wal("max_size = \"64MiB\"")
        .target("held", &held.url(), &[])
        .target("deaf", &deaf.url(), &[])
        .target("hole", &hole.url(), &[])
        .target("nowhere", "http://127.0.0.1:9/write", &[])
        .start()
        .await;
    for number in 0..20 {
        let post = numbered(Protocol::V1, "s", number);
        assert_eq!(post.send(&client(), &relay.write_url()).await.unwrap().status(), 204);
    }
    relay.in_state("held", "held", SOON).await;
    let a_second = sleeps_a_second(&relay).await;
    println!("{a_second} a second");
    assert!(a_second < 50.0, "{a_second} context switches a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_large_requests_needed_is_given_back_when_nothing_more_comes() {
    let sink = Sink::start().await;
    sink.stop().await;
    // Decompressed for the rules, and ten at a time to be translated.
    let lines = ["protocol = \"2.0\"", "max_backoff = \"100ms\"", "external_labels = { region = \"eu\" }"];
    let relay = Config::new().wal("max_size = \"256MiB\"").target("a", &sink.url(), &lines).start().await;
    let long = "x".repeat(300);
    let request = (0..2000).fold(Request::new(), |request, number| {
        request.series(&[("__name__", "up"), ("instance", &format!("{number}{long}"))], &[(FIRST_TIMESTAMP, 1.0)])
    });
    let (post, http) = (request.post(Protocol::V1), client());
    for _ in 0..30 {
        assert_eq!(post.send(&http, &relay.write_url()).await.unwrap().status(), 204);
    }
    sink.start_again().await;
    relay.drained(SOON).await;
    let before = private_bytes(&relay);
    let is_given_back = async || (private_bytes(&relay) + 4 * MIB < before).then_some(());
    eventually("megabytes are given back", SOON, is_given_back).await;
}
