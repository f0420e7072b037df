//! Series as a target sees them in a body: all have the same length, so each is found by its number.
//!
//! ```text
//!   | tag len | labels ...                                      | tag len  tag value  tag time |
//!   '-- 3 ----'--- names and values, the same in every scrape ---'--------- SAMPLE_LEN --------'
//! ```

use std::io;

use xxhash_rust::xxh3::xxh3_64;

use crate::body::{SAMPLE_LEN, SERIES_LEN, TIME_LEN};

/// A series with its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// A number that is equal for equal labels.
    pub key: u64,
    /// Its bits.
    pub value: u64,
    /// As it is encoded: equal for equal times.
    pub time: i64,
}

/// Where in a series its value is.
const VALUE_AT: usize = SERIES_LEN - TIME_LEN - 1 - 8;

/// The samples of a compressed body, by its length alone.
pub fn samples(body: &[u8]) -> io::Result<u64> {
    if body.is_empty() {
        return Ok(0);
    }
    let len = snap::raw::decompress_len(body).map_err(io::Error::other)?;
    match len % SERIES_LEN {
        0 => Ok((len / SERIES_LEN) as u64),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a body that does not consist of series of the load")),
    }
}

/// The message.
pub fn decompressed(body: &[u8]) -> Vec<u8> {
    if body.is_empty() {
        return Vec::new();
    }
    snap::raw::Decoder::new().decompress_vec(body).expect("its length was right")
}

/// All of a message.
pub fn all(message: &[u8]) -> impl Iterator<Item = Series> {
    message.chunks_exact(SERIES_LEN).map(one)
}

/// The number of the first series of a message.
pub fn first_key(message: &[u8]) -> u64 {
    one(&message[..SERIES_LEN]).key
}

/// One.
pub fn one(series: &[u8]) -> Series {
    let labels = &series[3..SERIES_LEN - SAMPLE_LEN];
    let value = series[VALUE_AT..VALUE_AT + 8].try_into().expect("it is eight bytes");
    let time = series[SERIES_LEN - TIME_LEN..].iter().rev().fold(0, |time, byte| time << 7 | i64::from(byte & 0x7f));
    Series { key: xxh3_64(labels), value: u64::from_le_bytes(value), time }
}

/// Changes the least bits of all values of a message: what another replica would have measured.
pub fn vary_values(message: &mut [u8], by: u8) {
    for series in message.chunks_exact_mut(SERIES_LEN) {
        series[VALUE_AT] ^= by;
    }
}
