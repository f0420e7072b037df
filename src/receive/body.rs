//! Reading a request's body: bounded in size, in memory over all requests, and in patience.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

use super::rejection::Rejection;

/// Bytes of requests that are being worked on, over all of them.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    permits_max: usize,
    limit: u64,
}

/// Permits are of this many bytes: a semaphore counts to 2^32 at most.
const PERMIT_BYTES: u64 = 1024;

impl Budget {
    /// Of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Budget {
        // A request has two shares, body and decompressed body, each rounded up.
        let permits = usize::try_from(limit.div_ceil(PERMIT_BYTES) + 2).unwrap_or(usize::MAX);
        let permits_max = permits.min(Semaphore::MAX_PERMITS);
        Budget { permits: Arc::new(Semaphore::new(permits_max)), permits_max, limit }
    }

    /// Bytes in use now.
    #[must_use]
    pub fn used(&self) -> u64 {
        (self.permits_max - self.permits.available_permits()) as u64 * PERMIT_BYTES
    }

    /// Takes `bytes` out of the budget until the share is dropped. Never waits: who waits holds what others wait for.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`].
    pub fn share(&self, bytes: u64) -> Result<Share, Rejection> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).map_err(|_| self.overloaded())?;
        match self.permits.clone().try_acquire_many_owned(permits) {
            Ok(permit) => Ok(Share { permit, bytes: u64::from(permits) * PERMIT_BYTES }),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => Err(self.overloaded()),
        }
    }

    fn overloaded(&self) -> Rejection {
        Rejection::Overloaded { limit: self.limit }
    }
}

/// A part of the budget.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
    bytes: u64,
}

impl Share {
    /// Grows the share to cover `bytes` in all.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`].
    pub fn grow_to(&mut self, bytes: u64, budget: &Budget) -> Result<(), Rejection> {
        if bytes > self.bytes {
            let more = budget.share(bytes - self.bytes)?;
            self.bytes += more.bytes;
            self.permit.merge(more.permit);
        }
        Ok(())
    }
}

/// How slow is too slow: less than 1 KiB/s over 10 s. A satellite link is faster; who is slower than that does not mean it.
#[derive(Debug)]
struct Pace {
    window_end: Instant,
    bytes: u64,
}

impl Pace {
    const WINDOW: Duration = Duration::from_secs(10);
    const WINDOW_BYTES_MIN: u64 = 10 << 10;

    fn start(now: Instant) -> Pace {
        Pace { window_end: now + Pace::WINDOW, bytes: 0 }
    }

    fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Call when the window has ended: whether it was too slow. Begins the next one.
    fn is_stalled(&mut self, now: Instant) -> bool {
        let is_stalled = self.bytes < Pace::WINDOW_BYTES_MIN;
        *self = Pace::start(now);
        is_stalled
    }
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// Too large, too slow, cut, or the budget is used up.
pub async fn read(mut body: Body, limit: u64, budget: &Budget) -> Result<(Bytes, Share), Rejection> {
    let too_large = Rejection::TooLarge { what: "body", limit, key: "server.max_body" };
    // What the head promises; a body of chunks promises nothing.
    let expected = body.size_hint().lower();
    if expected > limit {
        return Err(too_large);
    }
    // The share grows with what has come, not with what was promised: promises cost a client nothing.
    let mut share = budget.share(0)?;
    let mut pace = Pace::start(Instant::now());
    let mut collected = Collected::Nothing;
    loop {
        let frame = match tokio::time::timeout_at(pace.window_end, body.frame()).await {
            Ok(None) => return Ok((collected.into_bytes(), share)),
            Ok(Some(frame)) => frame.map_err(|error| Rejection::Unreadable(error.to_string()))?,
            Err(_) if pace.is_stalled(Instant::now()) => return Err(Rejection::Stalled),
            Err(_) => continue,
        };
        let Ok(data) = frame.into_data() else { continue };
        pace.received(data.len() as u64);
        let len = collected.len() + data.len() as u64;
        if len > limit {
            return Err(too_large);
        }
        share.grow_to(len, budget)?;
        collected.push(data, expected);
    }
}

/// A body mostly comes in one piece, which then need not be copied.
enum Collected {
    Nothing,
    Whole(Bytes),
    Pieces(BytesMut),
}

impl Collected {
    /// So much is believed of what the head promises.
    const CAPACITY_MAX: u64 = 1 << 20;

    fn len(&self) -> u64 {
        match self {
            Collected::Nothing => 0,
            Collected::Whole(bytes) => bytes.len() as u64,
            Collected::Pieces(bytes) => bytes.len() as u64,
        }
    }

    fn push(&mut self, data: Bytes, expected: u64) {
        *self = match std::mem::replace(self, Collected::Nothing) {
            Collected::Nothing => Collected::Whole(data),
            Collected::Whole(first) => {
                let capacity = usize::try_from(expected.min(Collected::CAPACITY_MAX)).unwrap_or_default();
                let mut pieces = BytesMut::with_capacity(capacity.max(first.len() + data.len()));
                pieces.extend_from_slice(&first);
                pieces.extend_from_slice(&data);
                Collected::Pieces(pieces)
            }
            Collected::Pieces(mut pieces) => {
                pieces.extend_from_slice(&data);
                Collected::Pieces(pieces)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Collected::Nothing => Bytes::new(),
            Collected::Whole(bytes) => bytes,
            Collected::Pieces(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// A body of pieces, each after a pause.
    fn slow_body(pieces: Vec<(Duration, usize)>) -> Body {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for (pause, len) in pieces {
                tokio::time::sleep(pause).await;
                if sender.send(Frame::data(Bytes::from(vec![7; len]))).await.is_err() {
                    return;
                }
            }
        });
        let stream = futures_from(move |context| receiver.poll_recv(context));
        Body::new(StreamBody::new(stream))
    }

    fn futures_from(
        mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Frame<Bytes>>> + Unpin + Send + 'static,
    ) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
        struct Polled<F>(F);
        impl<F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Frame<Bytes>>> + Unpin>
            futures_core::Stream for Polled<F>
        {
            type Item = Result<Frame<Bytes>, Infallible>;
            fn poll_next(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Self::Item>> {
                (self.0)(context).map(|frame| frame.map(Ok))
            }
        }
        Polled(move |context: &mut std::task::Context<'_>| poll(context))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_read_and_a_stalled_one_is_not() {
        let budget = Budget::new(1 << 20);
        let slow = slow_body(vec![(seconds(9), 11 << 10); 5]);
        assert_eq!(read(slow, 1 << 20, &budget).await.unwrap().0.len(), (5 * 11) << 10);
        let stalled = slow_body(vec![(seconds(1), 11 << 10), (seconds(30), 11 << 10)]);
        assert!(matches!(read(stalled, 1 << 20, &budget).await, Err(Rejection::Stalled)));
        let dripping = slow_body(vec![(seconds(1), 100); 100]);
        assert!(matches!(read(dripping, 1 << 20, &budget).await, Err(Rejection::Stalled)));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_beyond_the_limit_is_refused_promised_or_not() {
        let budget = Budget::new(1 << 20);
        let promised = Body::from(vec![0; 2000]);
        assert!(matches!(read(promised, 1999, &budget).await, Err(Rejection::TooLarge { .. })));
        let unpromised = slow_body(vec![(seconds(0), 1000); 2]);
        assert!(matches!(read(unpromised, 1999, &budget).await, Err(Rejection::TooLarge { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_shared_and_comes_back() {
        let budget = Budget::new(8 << 10);
        let (_, first) = read(Body::from(vec![0; 6 << 10]), 1 << 20, &budget).await.unwrap();
        assert_eq!(budget.used(), 6 << 10);
        let second = read(Body::from(vec![0; 6 << 10]), 1 << 20, &budget).await;
        assert!(matches!(second, Err(Rejection::Overloaded { .. })));
        drop(first);
        assert_eq!(budget.used(), 0);
        read(Body::from(vec![0; 6 << 10]), 1 << 20, &budget).await.unwrap();
    }
}
