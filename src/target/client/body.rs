//! A request's body that tells whether it was ever asked for.
//!
//! ```text
//!  Waiting --hyper asks for it-----> Taken
//!     '------the attempt is over---> Closed --hyper asks for it--> an error, and hyper ends the connection
//! ```
//!
//! hyper asks for a body when a connection is there and the request's head has gone into its buffer, never before. So a body that
//! is closed while it waits is certainly not sent: the address was not found, the connection refused, the handshake failed, the
//! time over before. That holds for every way to fail, and needs no list of errors.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const CLOSED: u8 = 2;

/// The bytes, in one piece: in several, hyper writes more often before it looks for an answer, and misses more of the early ones.
#[derive(Debug)]
pub(super) struct WatchedBody {
    bytes: Option<Bytes>,
    state: Arc<AtomicU8>,
}

/// What is kept of a [`WatchedBody`].
#[derive(Debug)]
pub(super) struct Watch(Arc<AtomicU8>);

/// The body was asked for when its attempt was over.
#[derive(Debug, thiserror::Error)]
#[error("the attempt is over")]
pub(super) struct Closed;

impl WatchedBody {
    pub fn new(bytes: Bytes) -> (WatchedBody, Watch) {
        // Nobody asks for nothing: whether a request without a body has left is not known here.
        let state = Arc::new(AtomicU8::new(if bytes.is_empty() { TAKEN } else { WAITING }));
        (WatchedBody { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), state: state.clone() }, Watch(state))
    }
}

impl Watch {
    /// `true`: the body was taken. `false`: not a byte of it has left, nor ever will.
    pub fn close(&self) -> bool {
        self.0.compare_exchange(WAITING, CLOSED, Ordering::AcqRel, Ordering::Acquire) == Err(TAKEN)
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if self.state.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire) == Err(CLOSED) {
            return Poll::Ready(Some(Err(Closed)));
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    /// Exact: it becomes `Content-Length`.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const BYTES: Bytes = Bytes::from_static(b"abc");

    #[tokio::test]
    async fn a_body_is_taken_when_somebody_asks_for_it() {
        let (mut body, watch) = WatchedBody::new(BYTES);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), BYTES);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        assert!(watch.close());
    }

    #[tokio::test]
    async fn a_body_that_was_only_looked_at_is_not_given_out_once_that_was_said() {
        let (mut body, watch) = WatchedBody::new(BYTES);
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!watch.close());
        assert!(body.frame().await.unwrap().is_err());
        assert!(!watch.close());
    }

    #[test]
    fn of_an_empty_body_it_is_never_said_that_it_has_not_left() {
        let (body, watch) = WatchedBody::new(Bytes::new());
        assert!(body.is_end_stream());
        assert!(watch.close());
    }
}
