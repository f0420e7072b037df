//! A link such as ships have: 128 kbit/s up and down, 600 ms there and back, and 5 % of the packets lost. A backlog gets through it, each sample once in
//! its order, and not much more than the backlog goes over it.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use support::relay::Config;
use support::seed;
use support::sink::Sink;
use support::upstreams::{Plan, Upstreams};

const BYTES_PER_SECOND: u32 = 16_000;
/// One way.
const DELAY: Duration = Duration::from_millis(300);
/// Of 1000 packets.
const LOST: u64 = 50;
const PACKET: usize = 1400;
/// Until a lost packet is there after all: it is missed, and sent again.
const AGAIN: Duration = Duration::from_millis(900);
/// What waits to be sent on the link, as in a router's queue.
const QUEUE: Duration = Duration::from_secs(1);

/// One direction, which all connections share.
struct Way {
    /// When what was sent last is on its way.
    is_free: Mutex<Instant>,
    bytes: AtomicU64,
    random: Mutex<fastrand::Rng>,
}

impl Way {
    fn new(seed: u64) -> Arc<Way> {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Arc::new(Way { is_free: Mutex::new(Instant::now()), bytes: AtomicU64::new(0), random })
    }

    /// When a packet that is sent now arrives, and when the next one finds room in the queue.
    fn send(&self, bytes: usize) -> (Instant, Instant) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut is_free = self.is_free.lock().unwrap();
        let takes = Duration::from_secs(1) * bytes as u32 / BYTES_PER_SECOND;
        *is_free = (*is_free).max(Instant::now()) + takes;
        let is_lost = self.random.lock().unwrap().u64(0..1000) < LOST;
        let arrives = *is_free + DELAY + if is_lost { AGAIN } else { Duration::ZERO };
        (arrives, *is_free - QUEUE.min(*is_free - Instant::now()))
    }
}

/// Carries what comes out of one connection into another. What is behind a lost packet waits for it, as in TCP.
fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Arc<Way>) {
    let (packets, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut packet = vec![0; PACKET];
        while let Ok(len @ 1..) = from.read(&mut packet).await {
            let (arrives, has_room) = way.send(len);
            if packets.send((arrives, packet[..len].to_vec())).is_err() {
                return;
            }
            sleep_until(has_room).await;
        }
    });
    tokio::spawn(async move {
        while let Some((arrives, packet)) = arriving.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&packet).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}

/// The link to somebody: where it can be reached, and what goes there.
async fn link(target: SocketAddr, seed: u64) -> (SocketAddr, Arc<Way>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (there, back) = (Way::new(seed), Way::new(seed + 1));
    let shown = there.clone();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let (there, back) = (there.clone(), back.clone());
            tokio::spawn(async move {
                // The handshake takes its time, too.
                tokio::time::sleep(2 * DELAY).await;
                let Ok(far) = TcpStream::connect(target).await else { return };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                carry(near_read, far_write, there);
                carry(far_read, near_write, back);
            });
        }
    });
    (address, shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_gets_through_a_link_of_128_kbit_with_600_ms_and_5_percent_of_loss() {
    let seed = seed();
    let sink = Sink::start().await;
    sink.stop().await;
    let (address, there) = link(sink.address(), seed).await;
    // Less than the whole backlog takes, so that the first requests time out and are made smaller.
    let lines = ["remote_timeout = \"10s\"", "min_backoff = \"100ms\"", "max_backoff = \"2s\""];
    let relay = Config::new().target("a", &format!("http://{address}/api/v1/write"), &lines).start().await;
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = Plan { upstreams: 2, noise: 4000, pause: Duration::ZERO, ..Plan::SMALL };
    let sent = Upstreams::send_all(&relay.write_url(), &mut random, plan, 40).await;
    let backlog = relay.target("a").await["pending"]["bytes"].as_u64().unwrap();

    let (start, sent_before) = (Instant::now(), there.bytes.load(Ordering::Relaxed));
    sink.start_again().await;
    relay.drained(Duration::from_secs(300)).await;
    let carried = there.bytes.load(Ordering::Relaxed) - sent_before;
    println!("{backlog} bytes of backlog: {carried} went over the link in {:?}", start.elapsed());
    let ledger = relay.ledger("a").await;
    assert_eq!((ledger.accepted, ledger.delivered()), (sent.samples(), sent.samples()));
    sink.assert_strict();
    assert!(backlog > 10 * u64::from(BYTES_PER_SECOND), "{backlog}: more than a request gets through in its time");
    assert!(carried < 3 * backlog, "{carried} for {backlog}");
}
