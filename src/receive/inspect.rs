//! From a body to what is in it: bounded decompression, then one walk. The bytes themselves are not changed, unless they must be:
//!
//! ```text
//!  body ---> decompress ---> walk ---> Summary: canonical, nothing invalid ---> stored as it came
//!                                           |
//!                                           '--> canonicalise ---> walk again ---> compress ---> stored
//! ```
//!
//! The second walk counts what is left, and is the proof that it may be stored. This way takes several times as long as the other, and
//! the body is decompressed once more for it: so that nothing of it is there before there is room for all of it.

use std::cell::RefCell;

use bytes::Bytes;

use super::rejection::Rejection;
use crate::protocol::canonical::canonicalise;
use crate::protocol::rewrite::Dropped;
use crate::protocol::snappy::{self, SnappyError};
use crate::protocol::v2::Scratch;
use crate::protocol::{Malformed, Protocol, SeenLabels, Summary, v1, v2};

/// Buffers of a thread are kept up to this size; a larger request gives its memory back.
const KEPT_BYTES_MAX: usize = 2 << 20;
const KEPT_SYMBOLS_MAX: usize = 64 << 10;

thread_local! {
    static BUFFERS: RefCell<(Vec<u8>, Scratch)> = RefCell::default();
}

/// Bytes of the body once decompressed, as its first bytes declare: checked before anything is allocated (a body of five bytes can
/// declare 4 GiB).
///
/// # Errors
/// More than the limit, more than the body can hold, or not snappy.
pub fn decoded_len(body: &[u8], limit: u64) -> Result<u64, Rejection> {
    // V1-11, V2-06.
    if body.starts_with(b"\xff\x06\x00\x00sNaPpY") {
        return Err(Rejection::NotSnappy("this is the framed format".into()));
    }
    if body.is_empty() {
        return Err(Rejection::NotSnappy("the body is empty".into()));
    }
    let len = snappy::plausible_len(body, u32::try_from(limit).unwrap_or(u32::MAX)).map_err(|error| match error {
        SnappyError::OverLimit { .. } => {
            Rejection::TooLarge { what: "decompressed body", limit, key: "server.max_decoded" }
        }
        other => Rejection::NotSnappy(other.to_string()),
    })?;
    Ok(u64::from(len))
}

fn not_snappy(error: snap::Error) -> Rejection {
    Rejection::NotSnappy(error.to_string())
}

/// Decompresses into this thread's buffer and walks what is there (`V2-01`, `V2-05`). `decoded_len` is what [`decoded_len`] said for this `limit`.
///
/// # Errors
/// The body is not what its headers promise.
pub fn inspect(
    body: &[u8],
    decoded_len: u64,
    protocol: Protocol,
    seen: &SeenLabels,
    limit: u64,
) -> Result<Summary, Rejection> {
    decompressed(body, decoded_len, |message, scratch| {
        walk(message, scratch, protocol, seen, limit).map_err(|malformed| not_a_message(protocol, malformed))
    })
}

/// A request as it is stored instead of the one that came. Without series and metadata it is empty, and not to be stored.
#[derive(Debug)]
pub struct Canonical {
    /// Compressed.
    pub body: Bytes,
    /// Bytes when it is decompressed.
    pub decoded_len: u64,
    /// What is in it.
    pub summary: Summary,
    /// What is not in it any more.
    pub dropped: Dropped,
}

/// Writes a request anew that was inspected with the same arguments: without the offences found then, and in order. The offences are
/// described from now on.
///
/// # Errors
/// [`Rejection::NotCanonical`]: it would be our mistake, and is not stored.
pub fn rewrite(
    body: &[u8],
    decoded_len: u64,
    protocol: Protocol,
    seen: &SeenLabels,
    limit: u64,
    inspected: &mut Summary,
) -> Result<Canonical, Rejection> {
    let not_canonical = |error: &dyn std::fmt::Display| Rejection::NotCanonical(error.to_string());
    decompressed(body, decoded_len, |message, scratch| {
        inspected.offences.describe(protocol, message);
        let rewritten = canonicalise(protocol, message, &inspected.offences).map_err(|error| not_canonical(&error))?;
        let (message, dropped) = (rewritten.message, rewritten.dropped);
        // What nobody knows may be left, and alone it can look like a request of the other protocol. It is not stored.
        if dropped.series == u64::from(inspected.series) && inspected.metadata == 0 {
            return Ok(Canonical { body: Bytes::new(), decoded_len: 0, summary: Summary::default(), dropped });
        }
        // Labels that are written out take no more than before, but where it was close to the limit, that was checked before.
        let summary =
            walk(&message, scratch, protocol, seen, limit).map_err(|malformed| not_a_message(protocol, malformed))?;
        if summary.offences.count() > 0 {
            return Err(not_canonical(&summary.offences));
        }
        if !summary.is_canonical {
            return Err(not_canonical(&"it is still not in order"));
        }
        let body = snappy::compress(&message).map_err(|error| not_canonical(&error))?;
        Ok(Canonical { body: body.into(), decoded_len: message.len() as u64, summary, dropped })
    })
}

/// Works on a body in this thread's buffer.
fn decompressed<T>(
    body: &[u8],
    decoded_len: u64,
    work: impl FnOnce(&[u8], &mut Scratch) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    let len = usize::try_from(decoded_len).expect("the limit fits in memory");
    BUFFERS.with_borrow_mut(|(buffer, scratch)| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let message = &mut buffer[..len];
        let written = snap::raw::Decoder::new().decompress(body, message).map_err(not_snappy);
        let result = written.and_then(|written| work(&message[..written], scratch));
        if buffer.len() > KEPT_BYTES_MAX {
            buffer.truncate(KEPT_BYTES_MAX);
            buffer.shrink_to_fit();
        }
        scratch.shrink_to(KEPT_SYMBOLS_MAX);
        result
    })
}

fn walk(
    message: &[u8],
    scratch: &mut Scratch,
    protocol: Protocol,
    seen: &SeenLabels,
    limit: u64,
) -> Result<Summary, Malformed> {
    match protocol {
        Protocol::V1 => v1::walk(message, seen),
        Protocol::V2 => v2::walk_within(message, scratch, usize::try_from(limit).unwrap_or(usize::MAX), seen.limits()),
    }
}

fn not_a_message(protocol: Protocol, malformed: Malformed) -> Rejection {
    let message = match protocol {
        Protocol::V1 => "prometheus.WriteRequest (remote write 1.0)",
        Protocol::V2 => "io.prometheus.write.v2.Request (remote write 2.0)",
    };
    Rejection::Malformed { message, malformed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Offences;

    fn snappy(message: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(message).unwrap()
    }

    fn run(body: &[u8], protocol: Protocol) -> Result<Summary, Rejection> {
        let len = decoded_len(body, 1 << 20)?;
        inspect(body, len, protocol, &SeenLabels::with_capacity(8), 1 << 20)
    }

    #[test]
    fn what_is_not_canonical_is_written_anew_counted_anew_and_described() {
        use prost::Message;

        use crate::protocol::messages::v1::{Label, Sample, TimeSeries, WriteRequest};

        let series = |labels: &[(&str, &str)]| TimeSeries {
            labels: labels.iter().map(|(name, value)| Label { name: (*name).into(), value: (*value).into() }).collect(),
            samples: vec![Sample { value: 1.0, timestamp: 2 }; 2],
            ..Default::default()
        };
        let request = |timeseries| WriteRequest { timeseries, metadata: vec![] }.encode_to_vec();
        let all =
            vec![series(&[("job", "x"), ("__name__", "a")]), series(&[("job", "x")]), series(&[("__name__", "b")])];
        let body = snappy(&request(all));
        let (seen, len) = (SeenLabels::with_capacity(8), decoded_len(&body, 1 << 20).unwrap());
        let mut summary = run(&body, Protocol::V1).unwrap();
        assert_eq!((summary.series, summary.samples, summary.is_canonical), (3, 6, false));
        let canonical = rewrite(&body, len, Protocol::V1, &seen, 1 << 20, &mut summary).unwrap();
        let expected = request(vec![series(&[("__name__", "a"), ("job", "x")]), series(&[("__name__", "b")])]);
        assert_eq!(snappy::decompress(&canonical.body, 1 << 20).unwrap(), expected);
        assert_eq!(
            (canonical.decoded_len, canonical.summary.series, canonical.summary.samples),
            (expected.len() as u64, 2, 4)
        );
        assert_eq!((canonical.dropped.series, canonical.dropped.samples), (1, 2));
        assert!(summary.offences.to_string().contains("series 1, {job=\"x\"}: "), "{}", summary.offences);
    }

    #[test]
    fn of_a_request_of_invalid_series_nothing_is_left_whatever_the_rest_looks_like() {
        // An unknown field 4, as symbols are in 2.0 (found by fuzzing).
        let body = snappy(&[0x22, 1, b'x', 0x0a, 2, 0x12, 0]);
        let mut summary = run(&body, Protocol::V1).unwrap();
        let seen = SeenLabels::with_capacity(8);
        let canonical = rewrite(&body, 7, Protocol::V1, &seen, 1 << 20, &mut summary).unwrap();
        assert_eq!((canonical.summary, canonical.dropped.samples), (Summary::default(), 1));
        assert!(summary.offences.to_string().starts_with("1 invalid series: series 0: no metric name"));
    }

    #[test]
    fn what_would_not_be_in_order_is_not_stored() {
        // Not all that is invalid is said to be: our own mistake.
        let body = snappy(&[0x0a, 2, 0x12, 0]);
        let mut summary = Summary { offences: Offences::default(), ..run(&body, Protocol::V1).unwrap() };
        let error = rewrite(&body, 4, Protocol::V1, &SeenLabels::with_capacity(8), 1 << 20, &mut summary);
        assert!(matches!(error, Err(Rejection::NotCanonical(_))), "{error:?}");
    }

    #[test]
    fn an_empty_request_is_fine_and_an_empty_body_is_not_snappy() {
        for protocol in [Protocol::V1, Protocol::V2] {
            assert_eq!(run(&snappy(b""), protocol).unwrap(), Summary::default());
            assert!(matches!(run(b"", protocol), Err(Rejection::NotSnappy(_))));
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_unpacked() {
        assert!(matches!(run(b"\xff\xff\xff\xff\x0f", Protocol::V1), Err(Rejection::TooLarge { .. })));
        assert!(matches!(run(b"\x80\x80\x10zz", Protocol::V1), Err(Rejection::NotSnappy(_))));
        assert!(matches!(run(&snappy(&vec![0; 2 << 20]), Protocol::V1), Err(Rejection::TooLarge { .. })));
    }

    #[test]
    fn the_framed_format_is_named() {
        let error = run(b"\xff\x06\x00\x00sNaPpY\x01\x05\x00\x00", Protocol::V1).unwrap_err();
        assert!(error.to_string().contains("framed"), "V1-11, V2-06: {error}");
    }

    #[test]
    fn a_malformed_message_is_named_with_its_place() {
        let error = run(&snappy(&[0x0a, 200, 1]), Protocol::V1).unwrap_err();
        let expected = "the body is not a prometheus.WriteRequest (remote write 1.0): \
                        a value reaches beyond the end at byte 3 of the decompressed message";
        assert_eq!(error.to_string(), expected);
    }
}
