//! What a directory of segments holds after whatever happened to it.
//!
//! Sealed segments are known from their header and seal, and nothing of them is ever changed here. Only a segment without a valid
//! seal is scanned: the one that was being written when the process ended, and those whose disk failed. The scan steps from record to
//! record:
//!
//! ```text
//!  valid record ------> next record
//!  anything else -----> look for the next valid record, every 64 bytes
//!     found, and it proves that what is missing         damage: stepped over; readers count what is missing by the totals
//!       was acknowledged (its position - unacknowledged)
//!     none, or it does not prove it                     a torn tail: never acknowledged; the records end here, and what lies
//!                                                       behind it, never acknowledged either, is cut with it
//!     ... but some bytes could not be read              nobody knows what is there: the records end here for now
//! ```
//!
//! A segment ends where the next one of the same log begins: records at or above its first position do not exist.
//!
//! After the scan the seal is written behind the last record that counts, and the unused rest of the file is given back, so that a
//! loop of crashes does not fill the disk. A segment in which nothing was ever written is deleted.
//!
//! **An error is not damage.** What cannot be read, opened or understood at this start may be read at the next: such a file is not
//! sealed, cut or deleted, and if it might hold the newest records, new positions start far above any that it could have.
//!
//! Nothing here fails for damage: what cannot be used is reported and left alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::Directory;
use super::position::{Mark, Position, SegmentId};
use super::record;
use super::segment::{BadSegment, Closed, DATA_START, DiskUsage, Seal, Segment};

/// How far positions jump over a file that may hold the newest records and cannot be read now: more records than any segment holds.
const JUMP: u64 = 1 << 32;

/// What was found at start, for the log and for people.
#[derive(Debug, Default)]
pub struct Report {
    /// Segments that had no valid seal and were scanned.
    pub scanned: usize,
    /// Bytes of a torn tail that were cut. Never acknowledged, as far as can be told; with another mode than
    /// [`SyncMode::Always`](super::SyncMode::Always) a power cut may have taken the record that would tell.
    pub torn_bytes: u64,
    /// Damaged ranges that were stepped over in scanned segments.
    pub damaged: Vec<Damage>,
    /// Files that could not be used; they are left alone.
    pub bad: Vec<(PathBuf, BadSegment)>,
    /// Files of which a part could not be read; they are left alone, and scanned again at the next start.
    pub unreadable: Vec<PathBuf>,
    /// New positions start so far above the others that whatever an unusable newest file holds lies below them.
    pub has_jumped: bool,
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
    pub segments: Vec<Arc<Segment>>,
    /// The newest record and its running total.
    pub last: Mark,
    /// The highest number of any segment file, usable or not.
    pub newest: SegmentId,
    /// Of the log as a whole, if any of it is left.
    pub log_id: Option<[u8; 16]>,
    pub report: Report,
}

/// Reads the directory.
pub(super) fn recover(directory: &Directory, usage: &DiskUsage) -> io::Result<Recovered> {
    let mut report = Report::default();
    directory.remove_left_overs()?;
    let newest = directory.segments()?.last().copied().unwrap_or_default();
    let found = open_all(directory, usage, &mut report)?;
    let newest_usable = found.last().map(|segment| segment.path().to_owned());
    let newest_is_unusable =
        report.bad.iter().any(|(path, error)| error.may_hold_records() && Some(path) > newest_usable.as_ref());
    let log_id = found.last().map(|segment| segment.header().log_id);

    let mut segments = Vec::new();
    let mut last = Mark::default();
    let mut newest_is_certain = true;
    let ends: Vec<Option<Position>> =
        (1..=found.len()).map(|next| found.get(next).map(|segment| segment.header().before.position)).collect();
    for (mut segment, end) in found.into_iter().zip(ends) {
        let before = segment.header().before;
        if before.position >= last.position && before.total < last.total {
            segment.shift_totals(last.total - before.total);
        }
        let (seal, is_certain) = match segment.read_seal() {
            Some(seal) => (seal, true),
            None => scan_and_seal(&segment, end, &mut report),
        };
        newest_is_certain = is_certain;
        raise(&mut last, segment.header().before);
        raise(&mut last, seal.last);
        // The header alone has said which positions were in use.
        if seal.records == 0 && (segment.is_sealed() || segment.is_blank().unwrap_or(false)) {
            let _ = std::fs::remove_file(segment.path());
            continue;
        }
        segment.close(Closed { last: seal.last, end: seal.data_end });
        segments.push(Arc::new(segment));
    }
    if newest_is_unusable || !newest_is_certain {
        last.position.0 += JUMP;
        report.has_jumped = true;
    }
    Ok(Recovered { segments, last, newest, log_id, report })
}

/// The segments of this log, in order. Files of another log are left alone: the log is the one that most segments are of.
fn open_all(directory: &Directory, usage: &DiskUsage, report: &mut Report) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for id in directory.segments()? {
        let path = directory.segment_path(id);
        match Segment::open(path.clone(), id, usage) {
            Ok(segment) => found.push(segment),
            Err(error) => report.bad.push((path, error)),
        }
    }
    let of_log = |log_id: [u8; 16]| found.iter().filter(|segment| segment.header().log_id == log_id).count();
    // Of two with as many, the older: it was there first.
    let ours = found.iter().rev().map(|segment| segment.header().log_id).max_by_key(|log_id| of_log(*log_id));
    let (ours, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|segment| Some(segment.header().log_id) == ours);
    report.bad.extend(others.into_iter().map(|segment| (segment.path().to_owned(), BadSegment::OtherLog)));
    Ok(ours)
}

fn raise(mark: &mut Mark, to: Mark) {
    mark.position = mark.position.max(to.position);
    mark.total = mark.total.max(to.total);
}

/// Scans a segment, and seals it if all of it could be read. Says whether.
fn scan_and_seal(segment: &Segment, end: Option<Position>, report: &mut Report) -> (Seal, bool) {
    report.scanned += 1;
    let scan = scan(segment, end);
    for (offset, bytes) in scan.damaged {
        report.damaged.push(Damage { path: segment.path().to_owned(), offset, bytes });
    }
    if scan.was_unreadable {
        report.unreadable.push(segment.path().to_owned());
        return (scan.seal, false);
    }
    report.torn_bytes += scan.torn_bytes;
    if scan.seal.records > 0
        && let Err(error) = segment.seal(&scan.seal)
    {
        tracing::warn!(path = %segment.path().display(), %error, "cannot seal a segment; it will be scanned again at the next start");
    }
    (scan.seal, true)
}

struct Scan {
    /// What counts.
    seal: Seal,
    /// Offsets and lengths.
    damaged: Vec<(u64, u64)>,
    torn_bytes: u64,
    /// Behind the last record that counts some bytes could not be read.
    was_unreadable: bool,
}

/// Steps through a segment's records. `end` is the last position that may count.
fn scan(segment: &Segment, end: Option<Position>) -> Scan {
    let limit = segment.data_end_max();
    let seal = Seal::empty(segment.header().before);
    let mut scan = Scan { seal, damaged: Vec::new(), torn_bytes: 0, was_unreadable: false };
    let mut offset = DATA_START;
    loop {
        let expected = scan.seal.last.position.next();
        let here = segment.read_header(offset, limit);
        scan.was_unreadable = here.is_err();
        let here = here.ok().flatten().filter(|header| header.position >= expected);
        let (at, header) = match here.filter(|header| body_may_be_whole(segment, offset, header)) {
            Some(header) => (offset, header),
            None => {
                let hole = next_proven(segment, offset + record::ALIGN, limit, scan.seal.last.position);
                scan.was_unreadable |= hole.was_unreadable;
                let Some((at, header)) = hole.proven else {
                    scan.torn_bytes = hole.torn_bytes.max(here.map_or(0, |header| header.stored_len()));
                    return scan;
                };
                scan.damaged.push((offset, at - offset));
                (at, header)
            }
        };
        if end.is_some_and(|end| header.position > end) {
            scan.was_unreadable = false;
            return scan;
        }
        offset = at + header.stored_len();
        scan.seal.include(&header, offset);
    }
}

/// What lies behind a place without a valid record.
#[derive(Default)]
struct Hole {
    /// A whole record that shows that the hole before it had been acknowledged.
    proven: Option<(u64, record::Header)>,
    /// Valid records follow, but nothing shows that the hole was ever acknowledged.
    torn_bytes: u64,
    was_unreadable: bool,
}

fn next_proven(segment: &Segment, from: u64, limit: u64, last: Position) -> Hole {
    let mut hole = Hole::default();
    let mut offset = from;
    loop {
        let search = segment.find_header(offset, limit, last);
        hole.was_unreadable |= search.was_unreadable;
        let Some((at, header)) = search.found else { return hole };
        if body_may_be_whole(segment, at, &header) {
            // Everything up to here had been acknowledged when this record was written.
            if header.position.0.saturating_sub(header.unacknowledged) > last.0 {
                hole.proven = Some((at, header));
                return hole;
            }
            hole.torn_bytes = at + header.stored_len() - from;
        }
        offset = at + record::ALIGN;
    }
}

/// Whether nothing speaks against the body. One that cannot be read now may be whole: its header is, and that is enough to step on.
fn body_may_be_whole(segment: &Segment, offset: u64, header: &record::Header) -> bool {
    let mut payload = vec![0; usize::try_from(header.payload_len()).expect("a record fits its segment")];
    match segment.copy(offset + record::HEADER_LEN as u64, &mut payload) {
        Ok(()) => record::payload_crc(&[], &payload) == header.body_crc,
        Err(_) => true,
    }
}
