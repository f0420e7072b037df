//! A series of 1.0 as it is written: its labels, and the head that is put in front when its length is known.

use prost::encoding::{encode_varint, encoded_len_varint};

use super::super::wire::{put_bytes, put_head};

/// What a label takes beside its texts, at most.
pub(super) const LABEL_OVERHEAD: usize = 18;

/// Appends a label as field 1.
#[inline]
pub(super) fn put_label(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let content_len = name.len() + value.len() + 4;
    if content_len < 0x80 {
        to.extend_from_slice(&[0x0a, content_len as u8, 0x0a, name.len() as u8]);
        to.extend_from_slice(name);
        to.extend_from_slice(&[0x12, value.len() as u8]);
        to.extend_from_slice(value);
        return;
    }
    let len = |text: &[u8]| 1 + encoded_len_varint(text.len() as u64) + text.len();
    put_head(to, 1, len(name) + len(value));
    put_bytes(to, 1, name);
    put_bytes(to, 2, value);
}

/// Tag and length of a series of more than 127 bytes.
pub(super) const SERIES_HEAD_LEN: usize = 3;

/// Puts tag and length in front of a series that begins [`SERIES_HEAD_LEN`] bytes behind `start` and ends where the request ends so far;
/// it is moved if they take another number of bytes. Returns where it begins now.
#[inline]
pub(super) fn put_series_head(out: &mut Vec<u8>, start: usize) -> usize {
    const TAG_SERIES: u8 = 0x0a;
    let content = start + SERIES_HEAD_LEN;
    let len = out.len() - content;
    if (0x80..0x4000).contains(&len) {
        out[start..content].copy_from_slice(&[TAG_SERIES, len as u8 | 0x80, (len >> 7) as u8]);
        return content;
    }
    let head_len = 1 + encoded_len_varint(len as u64);
    if head_len > SERIES_HEAD_LEN {
        out.resize(start + head_len + len, 0);
    }
    out.copy_within(content..content + len, start + head_len);
    out.truncate(start + head_len + len);
    out[start] = TAG_SERIES;
    encode_varint(len as u64, &mut &mut out[start + 1..start + head_len]);
    start + head_len
}
