//! What the tests share: the relay as a process, a strict target, requests, and the equation of the ledger.

#![allow(dead_code, reason = "each test binary takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

pub mod filesystem;
pub mod ledger;
pub mod ran;
pub mod relay;
pub mod request;
pub mod sink;
pub mod strict;
pub mod trace;
pub mod upstreams;
pub mod watch;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// Asks until there is an answer; panics with `what` when there is none `within` this time.
pub async fn eventually<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An address on which nobody listens now.
///
/// Not port 0: who is started again wants the port it had, and below the range of outgoing connections nobody takes it
/// meanwhile (a connection to a port of that range can even meet itself). Never the same twice: who has it may be away.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = fastrand::u16(20_000..32_000);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if !given.contains(&port) && TcpListener::bind(address).is_ok() {
            given.insert(port);
            return address;
        }
    }
}

/// A client as an upstream has one: it keeps connections and follows no redirects.
pub fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("no other provider was installed before");
    });
    reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

/// The seed of a random test: `PROMRELAY_TEST_SEED` to see a run again, else a new one. It is printed.
pub fn seed() -> u64 {
    let seed = match std::env::var("PROMRELAY_TEST_SEED") {
        Ok(text) => text.parse().expect("PROMRELAY_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("PROMRELAY_TEST_SEED={seed}");
    seed
}

/// `false`: there is no strace here, and this is said. In CI that is an error.
pub fn strace_is_here() -> bool {
    let is_here =
        std::process::Command::new("strace").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_here {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "strace is not installed");
        // Not by a macro: the harness shows what those print only when a test fails.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"NOT TESTED: strace is not installed\n");
    }
    is_here
}
