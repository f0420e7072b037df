//! Addresses and processes of many workers in one process, kept out of each other's way.
//!
//! Who is started again wants the port it had; nobody else may take it while it is down. And a process that is just
//! being started holds a copy of every socket for a moment, so that a port looks taken that is free.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::sync::Mutex;

use crate::support::relay::{Config, Relay};
use crate::support::sink::Sink;

/// Addresses of those who come and go. Held while a socket is made or a process started.
static RESERVED: Mutex<BTreeSet<SocketAddr>> = Mutex::const_new(BTreeSet::new());

/// A sink for a while.
pub async fn sink() -> Sink {
    let reserved = RESERVED.lock().await;
    loop {
        let sink = Sink::start().await;
        if !reserved.contains(&sink.address()) {
            return sink;
        }
        sink.stop().await;
    }
}

/// A sink that will be away at times.
pub async fn returning_sink() -> Sink {
    let sink = sink().await;
    RESERVED.lock().await.insert(sink.address());
    sink
}

/// A relay that is to be started, more than once.
pub async fn relay(config: Config) -> Relay {
    let mut reserved = RESERVED.lock().await;
    loop {
        let relay = config.clone().prepare();
        if reserved.insert(relay.address()) {
            return relay;
        }
    }
}

/// Starts a relay.
pub async fn start(relay: &mut Relay) {
    let alone = RESERVED.lock().await;
    relay.spawn();
    drop(alone);
    relay.wait_until_ready().await;
}
