//! Snappy's block format (`V1-11`, `V2-05`, `V2-06`), in which request bodies travel and are stored: merging without decompression, and the two ways through it.
//!
//! ```text
//!  block = varint(length when decompressed) element*         a copy element reaches back by a distance, never to a place
//!
//!    a: [len a | elements a]   b: [len b | elements b]   -->   [len a + len b | elements a | elements b]
//! ```
//!
//! So the merged block decompresses to the concatenation, and the concatenation of `prometheus.WriteRequest` messages is one that
//! holds the series of all. This is for remote write 1.0 only: 2.0 refers to symbols by number, see [`rebuild`](super::rebuild).
//!
//! Only bodies that decompressed on their own may be merged, as all stored ones have. A hostile one whose elements reach back
//! beyond its own beginning fails alone; merged, it would copy bytes of the body before it.

use super::wire::Fields;

/// A body is no snappy block, or does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnappyError {
    /// The number at the front is missing, cut, longer than five bytes or more than the format allows.
    #[error("no snappy block: its first bytes are not a length")]
    Header,
    /// The merged bodies would decompress to more than 4 GiB less one byte, the format's limit. Merge fewer.
    #[error("{len} bytes are more than a snappy block can hold")]
    BlockTooLarge {
        /// Bytes when decompressed.
        len: u64,
    },
    /// The body declares more than its caller allows. Nothing was allocated.
    #[error("decompressed it has {len} bytes, more than the limit of {limit}")]
    OverLimit {
        /// Bytes when decompressed.
        len: u32,
        /// Bytes allowed.
        limit: u32,
    },
    /// The body declares more than its elements can make. Nothing was allocated.
    #[error("{body_len} bytes cannot hold the {len} that they declare")]
    ImpossibleLength {
        /// Bytes when decompressed.
        len: u32,
        /// Bytes of the body.
        body_len: usize,
    },
    /// The elements are not what the header promises.
    #[error("no snappy block")]
    Elements(#[source] snap::Error),
}

/// The header takes at most so many bytes; padded numbers (`0x85 0x00`) are legal.
const HEADER_LEN_MAX: usize = 5;
/// An element of three bytes makes 64.
const RATIO_MAX: u64 = 22;

/// The declared length and the elements behind it.
fn split(body: &[u8]) -> Result<(u32, &[u8]), SnappyError> {
    let mut fields = Fields::new(body);
    let len = fields.varint().map_err(|_| SnappyError::Header)?;
    let len = u32::try_from(len).map_err(|_| SnappyError::Header)?;
    if fields.offset() > HEADER_LEN_MAX {
        return Err(SnappyError::Header);
    }
    Ok((len, fields.rest()))
}

/// Bytes of a body when decompressed, as its first bytes declare.
///
/// # Errors
/// [`SnappyError::Header`].
pub fn decoded_len(body: &[u8]) -> Result<u32, SnappyError> {
    split(body).map(|(len, _)| len)
}

/// Like [`decoded_len`], of a body that may be anybody's: before that much is allocated, it is compared with what is allowed and with what the
/// body can hold.
///
/// # Errors
/// [`SnappyError::Header`], [`SnappyError::OverLimit`], [`SnappyError::ImpossibleLength`].
pub fn plausible_len(body: &[u8], limit: u32) -> Result<u32, SnappyError> {
    let len = decoded_len(body)?;
    if len > limit {
        return Err(SnappyError::OverLimit { len, limit });
    }
    if u64::from(len) > RATIO_MAX * body.len() as u64 + 64 {
        return Err(SnappyError::ImpossibleLength { len, body_len: body.len() });
    }
    Ok(len)
}

/// One block that decompresses to the concatenation of what the `bodies` decompress to. A single body comes back byte for byte,
/// no bodies make the block of an empty message.
///
/// The elements are not looked at: each body must have decompressed alone before.
///
/// # Errors
/// [`SnappyError::Header`] of any of them, [`SnappyError::BlockTooLarge`].
pub fn merge<B: AsRef<[u8]>>(bodies: &[B]) -> Result<Vec<u8>, SnappyError> {
    let mut decoded_len = 0;
    let mut encoded_len = HEADER_LEN_MAX;
    for body in bodies {
        let (len, elements) = split(body.as_ref())?;
        decoded_len += u64::from(len);
        encoded_len += elements.len();
    }
    if let [body] = bodies {
        return Ok(body.as_ref().to_vec());
    }
    if decoded_len > u64::from(u32::MAX) {
        return Err(SnappyError::BlockTooLarge { len: decoded_len });
    }
    let mut merged = Vec::with_capacity(encoded_len);
    prost::encoding::encode_varint(decoded_len, &mut merged);
    for body in bodies {
        let (_, elements) = split(body.as_ref())?;
        merged.extend_from_slice(elements);
    }
    Ok(merged)
}

/// Decompresses a body that declares at most `limit` bytes.
///
/// # Errors
/// All but [`SnappyError::BlockTooLarge`].
pub fn decompress(body: &[u8], limit: u32) -> Result<Vec<u8>, SnappyError> {
    let mut message = Vec::new();
    decompress_into(body, limit, &mut message)?;
    Ok(message)
}

/// Like [`decompress`], in the memory of `message`, whose content is replaced. After an error it is empty.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_into(body: &[u8], limit: u32, message: &mut Vec<u8>) -> Result<(), SnappyError> {
    let result = plausible_len(body, limit).and_then(|len| {
        // What is there is written over: only what it grows by must be filled before.
        message.resize(len as usize, 0);
        decompress_in(body, message).map(<[u8]>::len)
    });
    message.truncate(*result.as_ref().unwrap_or(&0));
    result.map(|_| ())
}

/// Like [`decompress`], into `room`, which is the limit: the part of it that was written.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_in<'a>(body: &[u8], room: &'a mut [u8]) -> Result<&'a [u8], SnappyError> {
    plausible_len(body, u32::try_from(room.len()).unwrap_or(u32::MAX))?;
    let written = snap::raw::Decoder::new().decompress(body, room).map_err(SnappyError::Elements)?;
    Ok(&room[..written])
}

/// Compresses a message into one block.
///
/// # Errors
/// [`SnappyError::BlockTooLarge`].
pub fn compress(message: &[u8]) -> Result<Vec<u8>, SnappyError> {
    let too_large = |_| SnappyError::BlockTooLarge { len: message.len() as u64 };
    let mut compressed = snap::raw::Encoder::new().compress_vec(message).map_err(too_large)?;
    // It has the capacity for a message that does not compress at all.
    compressed.shrink_to_fit();
    Ok(compressed)
}

/// Compresses one message after the other. What comes out takes no more memory than it has bytes; what that needs meanwhile is kept.
pub struct Compressor {
    encoder: snap::raw::Encoder,
    scratch: Vec<u8>,
}

/// More of it is given back.
const SCRATCH_KEPT_MAX: usize = 2 << 20;

impl Compressor {
    /// Without memory yet.
    #[must_use]
    pub fn new() -> Compressor {
        Compressor { encoder: snap::raw::Encoder::new(), scratch: Vec::new() }
    }

    /// As [`compress`].
    ///
    /// # Errors
    /// [`SnappyError::BlockTooLarge`].
    pub fn compress(&mut self, message: &[u8]) -> Result<Vec<u8>, SnappyError> {
        let too_large = SnappyError::BlockTooLarge { len: message.len() as u64 };
        let len_max = match snap::raw::max_compress_len(message.len()) {
            0 => return Err(too_large),
            len_max => len_max,
        };
        if self.scratch.len() < len_max {
            self.scratch.resize(len_max, 0);
        }
        let len = self.encoder.compress(message, &mut self.scratch).map_err(|_| too_large)?;
        let compressed = self.scratch[..len].to_vec();
        if self.scratch.len() > SCRATCH_KEPT_MAX {
            self.scratch = Vec::new();
        }
        Ok(compressed)
    }
}

impl Default for Compressor {
    fn default() -> Compressor {
        Compressor::new()
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("scratch", &self.scratch.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::super::arbitrary;
    use super::super::messages::v1 as pb1;
    use super::*;

    #[test]
    fn a_single_body_comes_back_as_it_is_and_none_make_an_empty_message() {
        let padded = [&[0x83, 0x80, 0x00][..], &[0b1000], b"abc"].concat();
        assert_eq!(merge(&[&padded]).unwrap(), padded);
        assert_eq!(merge::<&[u8]>(&[]).unwrap(), compress(b"").unwrap());
    }

    #[test]
    fn padded_lengths_are_understood() {
        let padded = [&[0x83, 0x80, 0x80, 0x80, 0x00][..], &[0b1000], b"abc"].concat();
        assert_eq!(decompress(&padded, 100).unwrap(), b"abc");
        let merged = merge(&[&padded, &compress(b"de").unwrap(), &padded]).unwrap();
        assert_eq!(decompress(&merged, 100).unwrap(), b"abcdeabc");
        let six = [0x83, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(decoded_len(&six), Err(SnappyError::Header), "no decoder takes six bytes");
    }

    #[test]
    fn what_has_no_length_at_the_front_is_refused() {
        for body in [&[][..], &[0x80], &[0xff; 5], &[0xff; 11], &[0x80, 0x80, 0x80, 0x80, 0x10]] {
            assert_eq!(decoded_len(body), Err(SnappyError::Header), "{body:?}");
            assert_eq!(merge(&[body]), Err(SnappyError::Header));
            assert_eq!(merge(&[&compress(b"a").unwrap()[..], body]), Err(SnappyError::Header));
            assert_eq!(decompress(body, u32::MAX), Err(SnappyError::Header));
        }
    }

    #[test]
    fn lengths_add_up_to_the_format_s_limit_and_no_further() {
        let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(decoded_len(&most), Ok(u32::MAX));
        assert_eq!(merge(&[&most[..], &[0]]).unwrap(), most);
        assert_eq!(merge(&[&most[..], &[1, 0, b'a']]), Err(SnappyError::BlockTooLarge { len: 1 << 32 }));
    }

    #[test]
    fn bombs_are_refused_before_they_are_unpacked() {
        let body = compress(&[7; 1000]).unwrap();
        assert_eq!(decompress(&body, 999), Err(SnappyError::OverLimit { len: 1000, limit: 999 }));
        assert_eq!(decompress(&body, 1000).unwrap(), [7; 1000]);
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(decompress(&bomb, u32::MAX), Err(SnappyError::ImpossibleLength { len: u32::MAX, body_len: 5 }));
    }

    #[test]
    fn what_is_compressed_one_after_the_other_takes_no_more_than_its_bytes() {
        let mut compressor = Compressor::new();
        for message in [&[7; 3_000_000][..], b"", b"abc", &[1; 70_000]] {
            let compressed = compressor.compress(message).unwrap();
            assert_eq!(compressed, compress(message).unwrap());
            assert_eq!(compressed.capacity(), compressed.len());
        }
    }

    #[test]
    fn memory_is_used_again_and_never_shows_what_was_in_it() {
        let mut message = vec![1; 5000];
        decompress_into(&compress(b"abc").unwrap(), 100, &mut message).unwrap();
        assert_eq!(message, b"abc");
        assert!(matches!(decompress_into(&[3, 0xff], 100, &mut message), Err(SnappyError::Elements(_))));
        assert!(message.is_empty());
    }

    proptest! {
        #[test]
        fn merged_bodies_decode_to_the_concatenation_of_their_messages(
            requests in prop::collection::vec(arbitrary::request1(), 0..6),
        ) {
            let bodies: Vec<Vec<u8>> = requests.iter().map(|request| compress(&request.encode_to_vec()).unwrap()).collect();
            let merged = decompress(&merge(&bodies).unwrap(), 1 << 24).unwrap();
            let concatenation = pb1::WriteRequest {
                timeseries: requests.iter().flat_map(|request| request.timeseries.clone()).collect(),
                metadata: requests.iter().flat_map(|request| request.metadata.clone()).collect(),
            };
            let decoded = pb1::WriteRequest::decode(&*merged).unwrap();
            // V1-11. As bytes: the bits of floats count.
            prop_assert_eq!(decoded.encode_to_vec(), concatenation.encode_to_vec());
            prop_assert_eq!(merged, requests.iter().flat_map(Message::encode_to_vec).collect::<Vec<u8>>());
        }

        #[test]
        fn no_bytes_make_it_panic(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4)) {
            let _ = merge(&bodies);
            for body in &bodies {
                let _ = decompress(body, 1 << 16);
            }
        }
    }
}
