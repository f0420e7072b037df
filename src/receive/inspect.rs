//! From a body to what is in it: bounded decompression, then one walk. The bytes themselves are not changed.

use std::cell::RefCell;

use super::rejection::Rejection;
use crate::protocol::snappy::{self, SnappyError};
use crate::protocol::v2::Scratch;
use crate::protocol::{Protocol, SeenLabels, Summary, v1, v2};

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

/// Decompresses into this thread's buffer and walks what is there. `decoded_len` is what [`decoded_len`] said for this `limit`.
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
    let len = usize::try_from(decoded_len).expect("the limit fits in memory");
    BUFFERS.with_borrow_mut(|(buffer, scratch)| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let message = &mut buffer[..len];
        let written = snap::raw::Decoder::new().decompress(body, message).map_err(not_snappy)?;
        let message = &message[..written];
        let walked = match protocol {
            Protocol::V1 => v1::walk(message, seen),
            Protocol::V2 => v2::walk(message, scratch, usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        if buffer.len() > KEPT_BYTES_MAX {
            buffer.truncate(KEPT_BYTES_MAX);
            buffer.shrink_to_fit();
        }
        scratch.shrink_to(KEPT_SYMBOLS_MAX);
        walked.map_err(|malformed| Rejection::Malformed {
            message: match protocol {
                Protocol::V1 => "prometheus.WriteRequest (remote write 1.0)",
                Protocol::V2 => "io.prometheus.write.v2.Request (remote write 2.0)",
            },
            malformed,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snappy(message: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(message).unwrap()
    }

    fn run(body: &[u8], protocol: Protocol) -> Result<Summary, Rejection> {
        let len = decoded_len(body, 1 << 20)?;
        inspect(body, len, protocol, &SeenLabels::with_capacity(8), 1 << 20)
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
        assert!(error.to_string().contains("framed"), "V1-11: {error}");
    }

    #[test]
    fn a_malformed_message_is_named_with_its_place() {
        let error = run(&snappy(&[0x0a, 200, 1]), Protocol::V1).unwrap_err();
        let expected = "the body is not a prometheus.WriteRequest (remote write 1.0): \
                        a value reaches beyond the end at byte 3 of the decompressed message";
        assert_eq!(error.to_string(), expected);
    }
}
