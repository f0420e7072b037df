//! What a directory of segments holds after whatever happened to it.
//!
//! Sealed segments are known from their header and seal. Only a segment without a valid seal is scanned: the one that was being
//! written when the process ended, and those whose sync failed. The scan steps from record to record:
//!
//! ```text
//!  valid record ------> next record
//!  anything else -----> look for the next valid record, every 64 bytes
//!     none found                                        the records end here
//!     found, and it proves that what is missing         damage: stepped over; readers count what is missing by the totals
//!       was durable (its position - undurable)
//!     found, but it does not prove it                   a torn tail: never acknowledged; the records end before it, and what
//!                                                       lies behind it, never acknowledged either, is cut with it
//! ```
//!
//! A segment ends where the next one begins: records at or above the next header's first position do not exist.
//! After the scan the seal is written behind the last record that counts, and the unused rest of the file is given back, so that a
//! loop of crashes does not fill the disk. Segments without records are deleted.
//!
//! Nothing here fails for damage: a segment that cannot be understood is reported and left alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::Directory;
use super::position::{Mark, Position};
use super::record;
use super::segment::{BadSegment, Closed, DATA_START, DiskUsage, Seal, Segment};

/// What was found at start, for the log and for people.
#[derive(Debug, Default)]
pub struct Report {
    /// Segments that had no valid seal and were scanned.
    pub scanned: usize,
    /// Bytes of a torn tail that were cut. Never acknowledged (with `sync = "always"`).
    pub torn_bytes: u64,
    /// Damaged ranges that were stepped over in scanned segments.
    pub damaged: Vec<Damage>,
    /// Files that could not be understood; they are left alone.
    pub bad: Vec<(PathBuf, BadSegment)>,
}

/// A damaged range of a segment.
#[derive(Debug)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Offset of the first byte that is not part of a valid record.
    pub offset: u64,
    /// Bytes up to the next valid record.
    pub bytes: u64,
}

/// What recovery hands to the log.
#[derive(Debug)]
pub(super) struct Recovered {
    /// In order, each closed.
    pub segments: Vec<(Arc<Segment>, Seal)>,
    /// The newest record and its running total.
    pub last: Mark,
    /// Of the log as a whole, if any of it is left.
    pub log_id: Option<[u8; 16]>,
    pub report: Report,
}

/// Reads the directory.
pub(super) fn recover(directory: &Directory, usage: &DiskUsage) -> io::Result<Recovered> {
    let mut report = Report::default();
    let mut found = Vec::new();
    for id in directory.segments()? {
        let path = directory.segment_path(id);
        match Segment::open(path.clone(), id, usage) {
            Ok(segment) => found.push(segment),
            Err(error) => report.bad.push((path, error)),
        }
    }

    let log_id = found.last().map(|segment: &Segment| segment.header().log_id);
    let mut segments = Vec::new();
    let mut last = Mark::default();
    let ends: Vec<Option<Position>> =
        (1..=found.len()).map(|next| found.get(next).map(|segment| segment.header().before.position)).collect();
    for (segment, end) in found.into_iter().zip(ends) {
        let seal = match segment.read_seal() {
            // A valid seal is the last word, unless a later segment begins below it: then a sync failed after the seal was
            // written, and the records were written again.
            Some(seal) if end.is_none_or(|end| seal.last.position <= end) => seal,
            _ => {
                report.scanned += 1;
                let seal = scan(&segment, end, &mut report);
                if seal.records > 0
                    && let Err(error) = segment.seal(&seal)
                {
                    tracing::warn!(path = %segment.path().display(), %error, "cannot seal a segment; it will be scanned again at the next start");
                }
                seal
            }
        };
        if seal.records == 0 {
            // The header alone still says which positions were in use: a later one may only begin above it.
            raise(&mut last, segment.header().before);
            let _ = std::fs::remove_file(segment.path());
            continue;
        }
        segment.close(Closed { last: seal.last, end: seal.data_end });
        raise(&mut last, seal.last);
        segments.push((Arc::new(segment), seal));
    }
    Ok(Recovered { segments, last, log_id, report })
}

fn raise(mark: &mut Mark, to: Mark) {
    mark.position = mark.position.max(to.position);
    mark.total = mark.total.max(to.total);
}

/// Steps through a segment's records. `end` is the last position that may count.
fn scan(segment: &Segment, end: Option<Position>, report: &mut Report) -> Seal {
    let limit = segment.data_end_max();
    let mut seal = Seal::empty(segment.header().before);
    let mut offset = DATA_START;
    loop {
        let expected = seal.last.position.next();
        let here = segment.read_header(offset, limit).filter(|header| header.position >= expected);
        let whole = here.filter(|header| body_is_whole(segment, offset, header));
        let (at, header) = match whole {
            Some(header) => (offset, header),
            None => match next_proven(segment, offset + record::ALIGN, limit, seal.last.position) {
                Some(Next::Proven(at, header)) => {
                    report.damaged.push(Damage { path: segment.path().to_owned(), offset, bytes: at - offset });
                    (at, header)
                }
                Some(Next::Torn(bytes)) => {
                    report.torn_bytes += bytes;
                    return seal;
                }
                None => {
                    report.torn_bytes += here.map_or(0, |header| header.stored_len());
                    return seal;
                }
            },
        };
        if end.is_some_and(|end| header.position > end) {
            return seal;
        }
        offset = at + header.stored_len();
        seal.include(&header, offset);
    }
}

enum Next {
    /// A whole record that shows that the hole before it had been durable.
    Proven(u64, record::Header),
    /// Valid records follow, but nothing shows that the hole was ever acknowledged.
    Torn(u64),
}

/// The next whole record behind a hole, and what it says about the hole.
fn next_proven(segment: &Segment, from: u64, limit: u64, last: Position) -> Option<Next> {
    let mut from = from;
    let mut torn = None;
    while let Some((at, header)) = segment.find_header(from, limit, last) {
        if body_is_whole(segment, at, &header) {
            // Everything up to here had been synced when this record was written.
            let proven = header.position.0.saturating_sub(header.undurable);
            if proven > last.0 {
                return Some(Next::Proven(at, header));
            }
            torn = Some(Next::Torn(at + header.stored_len() - from));
        }
        from = at + record::ALIGN;
    }
    torn
}

fn body_is_whole(segment: &Segment, offset: u64, header: &record::Header) -> bool {
    let mut payload = vec![0; usize::try_from(header.payload_len()).expect("a record fits its segment")];
    segment.copy(offset + record::HEADER_LEN as u64, &mut payload).is_ok()
        && record::payload_crc(&[], &payload) == header.body_crc
}
