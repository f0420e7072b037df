//! The listener: HTTP/1.1 on one address for everything.
//!
//! Our own loop instead of axum's, for three limits that protect the relay from clients: how many connections there may be, how long
//! a head may take (and an idle connection may stay), and how long they get when the relay ends.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::receive::Sender;

/// Limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// More connections wait to be accepted.
    pub connections_max: usize,
    /// For a request's head; a connection without a request is closed after this.
    pub read_timeout: Duration,
}

/// The most bytes of a head, and of what is read at a time.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Serves until `stop` is set, then lets requests in flight be answered and closes their connections. Returns when the last one is
/// closed.
pub async fn serve(listener: TcpListener, router: Router, settings: Settings, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    let graceful = GracefulShutdown::new();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(settings.read_timeout).max_buf_size(HEAD_BYTES_MAX);
    let is_stopping = async |stop: &mut watch::Receiver<bool>| {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let router = TowerToHyperService::new(router);
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            () = is_stopping(&mut stop) => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly. Others may close theirs meanwhile.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = is_stopping(&mut stop) => break,
        };
        // Small answers must not wait for more to say.
        let _ = stream.set_nodelay(true);
        // Behind dual-stack sockets an IPv4 peer is still an IPv4 peer.
        let sender = Sender(peer.ip().to_canonical());
        let router = router.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(sender);
            router.call(request.map(Body::new))
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Clients that break off are their own trouble.
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "a connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
