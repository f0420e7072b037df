//! What is said to an upstream whose request was not taken. The only place where a cause becomes a status.
//!
//! | cause | status |
//! |---|---|
//! | wrong `Content-Type` or `Content-Encoding` | 415 |
//! | the bytes are not snappy or not protobuf | 400 |
//! | some series is invalid, or over a limit for each series; the others are stored | 400 |
//! | larger than a limit: bytes, series, symbols. Nothing is stored | 413 |
//! | anything on our side: log full or failing, too much at once, too slow, shutting down | 503 with `Retry-After` |
//!
//! A 4xx is for ever (`V1-41`, `V2-47`), a 503 is not (`V1-40`, `V2-50`, `V2-51`).
//!
//! Never 429: a Prometheus with default settings drops what it was sending. And never a 4xx for what is our trouble: that is dropped
//! always.
//!
//! A request with too many series is 413 and not 400: it is too large, and a sender that understands 413 (the relay itself does) sends it
//! again in smaller ones, where after a 400 it would look for culprits. A series over a limit is 400, as any other that can never be taken.

use std::fmt::{self, Write};

use axum::http::StatusCode;

use crate::protocol::{Malformed, Offences, Summary};
use crate::wal::AppendError;

/// Why a request was not taken, or not all of it. But for [`Rejection::Invalid`], nothing of it will be delivered.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Headers.
    #[error("{0}")]
    Unsupported(String),
    /// Not the snappy block format.
    #[error("the body is not snappy (block format, not framed): {0}")]
    NotSnappy(String),
    /// Not the protobuf message that the headers promise.
    #[error("the body is not a {message}: {malformed}")]
    Malformed {
        /// Its name.
        message: &'static str,
        /// Where it stops being one.
        malformed: Malformed,
    },
    /// Some series cannot be taken by any receiver. The others are stored by now.
    #[error(transparent)]
    Invalid(Box<Invalid>),
    /// A request cannot be put in order, and must not be stored as it is: our mistake, but it would be the same each time.
    #[error("the request could not be put in order and is not stored: {0}")]
    NotCanonical(String),
    /// A limit of the configuration on things that are counted.
    #[error("the request has {count} {what}, the limit is {limit} ({key})")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: u32,
        /// The limit.
        limit: usize,
        /// Its key.
        key: &'static str,
    },
    /// A limit of the configuration.
    #[error("the {what} is larger than {limit} bytes ({key})")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Its key.
        key: &'static str,
    },
    /// A header that is to be forwarded.
    #[error("the header {name} is longer than {limit} bytes")]
    HeaderTooLong {
        /// Its name.
        name: String,
        /// The limit.
        limit: usize,
    },
    /// The upstream went away or sent nonsense in place of a body.
    #[error("the body could not be read: {0}")]
    Unreadable(String),
    /// The body came slower than anybody means it.
    #[error("the body came too slowly")]
    Stalled,
    /// Too much is being worked on.
    #[error("too much is being worked on: more than {limit} bytes (server.max_in_flight_bytes)")]
    Overloaded {
        /// The limit.
        limit: u64,
    },
    /// The log did not take it in time.
    #[error("the log is busy: the request was not reached within {seconds} s and is not stored")]
    Busy {
        /// How long it was tried.
        seconds: u64,
    },
    /// The log did not take it. (Why it cannot be written is for its operator: see `/-/ready`.)
    #[error("{}", match .0 { AppendError::Unavailable { .. } => "the log cannot be written".to_owned(), other => other.to_string() })]
    Log(AppendError),
    /// The relay is about to end.
    #[error("the relay is shutting down")]
    ShuttingDown,
}

/// Which series of a request are invalid, and what became of the rest.
#[derive(Debug)]
pub struct Invalid {
    /// The invalid series.
    pub offences: Offences,
    /// Samples and histograms in them.
    pub samples: u64,
    /// What is stored.
    pub stored: Summary,
}

impl std::error::Error for Invalid {}

/// What was stored comes first: the rest may be cut.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { series, metadata, .. } = self.stored;
        match (series, metadata) {
            (0, 0) => f.write_str("nothing was stored")?,
            (0, _) => f.write_str("only metadata was stored")?,
            _ => write!(f, "the rest was stored ({series} series)")?,
        }
        let s = if self.samples == 1 { "" } else { "s" };
        write!(f, "; rejected: {} sample{s} in {}", self.samples, self.offences)
    }
}

impl Rejection {
    /// Samples, histograms and exemplars that were stored all the same (`V2-31`).
    #[must_use]
    pub fn written(&self) -> [u32; 3] {
        match self {
            Rejection::Invalid(invalid) => invalid.stored.written(),
            _ => [0; 3],
        }
    }

    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Rejection::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Rejection::NotSnappy(_)
            | Rejection::Malformed { .. }
            | Rejection::Invalid(_)
            | Rejection::NotCanonical(_)
            | Rejection::HeaderTooLong { .. }
            | Rejection::Unreadable(_) => StatusCode::BAD_REQUEST,
            Rejection::TooLarge { .. } | Rejection::TooMany { .. } | Rejection::Log(AppendError::TooLarge { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Rejection::Stalled
            | Rejection::Overloaded { .. }
            | Rejection::Busy { .. }
            | Rejection::Log(_)
            | Rejection::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// When to come again, in seconds, with a 503. `random` in 0..1 spreads the upstreams out.
    #[must_use]
    pub fn retry_after(&self, random: f64) -> Option<u64> {
        let (least, spread) = match self {
            // Space comes back with the targets' pace, not within a second.
            Rejection::Log(AppendError::Full(_)) => (5, 11.0),
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => (1, 5.0),
            _ => return None,
        };
        Some(least + (spread * random.clamp(0.0, 0.999)) as u64)
    }

    /// The answer's text: one line, of bounded length (`V1-31`, `V2-28`, `V2-29`).
    #[must_use]
    pub fn text(&self) -> String {
        const CHARS_MAX: usize = 1000;
        let mut text: String = self.to_string().chars().take(CHARS_MAX).collect();
        let _ = writeln!(text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Limit;

    #[test]
    fn our_own_trouble_is_always_503_with_a_time_to_come_again() {
        for rejection in [
            Rejection::Stalled,
            Rejection::Overloaded { limit: 1 },
            Rejection::Busy { seconds: 10 },
            Rejection::ShuttingDown,
            Rejection::Log(AppendError::Full(Limit::MaxSize { bytes: 1 })),
            Rejection::Log(AppendError::Unavailable { reason: "no".into() }),
            Rejection::Log(AppendError::Withdrawn),
            Rejection::Log(AppendError::Closed),
        ] {
            assert_eq!(rejection.status(), 503, "V1-40, V2-51: {rejection}");
            let (soonest, latest) = (rejection.retry_after(0.0).unwrap(), rejection.retry_after(1.0).unwrap());
            assert!(1 <= soonest && soonest + 4 <= latest, "jittered: {rejection}");
        }
    }

    #[test]
    fn what_can_never_be_taken_is_a_4xx_without_a_time() {
        let malformed = Malformed { offset: 3, what: "a number is cut" };
        for (rejection, status) in [
            (Rejection::Unsupported("x".into()), 415),
            (Rejection::NotSnappy("x".into()), 400),
            (Rejection::Malformed { message: "x", malformed }, 400),
            (Rejection::TooLarge { what: "body", limit: 1, key: "server.max_body" }, 413),
            (Rejection::TooMany { what: "series", count: 2, limit: 1, key: "server.max_series" }, 413),
            (Rejection::NotCanonical("x".into()), 400),
            (Rejection::Log(AppendError::TooLarge { bytes: 2, max: 1 }), 413),
        ] {
            assert_eq!(
                (rejection.status().as_u16(), rejection.retry_after(0.5)),
                (status, None),
                "V1-41, V2-47: {rejection}"
            );
        }
    }

    #[test]
    fn what_was_stored_beside_invalid_series_is_said_first_and_counted() {
        use prost::Message;

        use crate::protocol::messages::v1::{Label, TimeSeries, WriteRequest};
        use crate::protocol::{Protocol, SeenLabels, v1};

        let labels = (0..50).map(|n| Label { name: format!("\u{202e}{n}"), value: "x\u{7}".repeat(10_000) }).collect();
        let series = TimeSeries { labels, ..Default::default() };
        let message = WriteRequest { timeseries: vec![series; 1000], metadata: vec![] }.encode_to_vec();
        let mut offences = v1::walk(&message, &SeenLabels::with_capacity(8)).unwrap().offences;
        offences.describe(Protocol::V1, &message);
        for (stored, expected) in [
            (Summary { series: 5, samples: 3, exemplars: 2, ..Summary::default() }, "the rest was stored (5 series); "),
            (Summary { metadata: 1, ..Summary::default() }, "only metadata was stored; "),
            (Summary::default(), "nothing was stored; "),
        ] {
            let written = [stored.samples, stored.histograms, stored.exemplars];
            let rejection = Rejection::Invalid(Box::new(Invalid { offences: offences.clone(), samples: 9, stored }));
            assert_eq!((rejection.status().as_u16(), rejection.written()), (400, written), "V1-30, V2-31, V2-45");
            let text = rejection.text();
            assert!(text.starts_with(&format!("{expected}rejected: 9 samples in 1000 invalid series: series 0, {{")));
            assert!(text.len() < 1100 && text.ends_with("; and 997 more\n"), "{text}");
            assert!(!text.trim_end().contains(crate::protocol::text::is_unsafe), "{text:?}");
        }
        assert_eq!(Rejection::ShuttingDown.written(), [0; 3]);
    }

    #[test]
    fn texts_are_bounded() {
        assert!(Rejection::NotSnappy("x".repeat(100_000)).text().len() < 1100);
    }
}
