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
//! ```
//!
//! A segment ends where the next one of the same log begins: records at or above its first position do not exist.
//!
//! After the scan the seal is written behind the last record that counts, and the unused rest of the file is given back, so that a
//! loop of crashes does not fill the disk. A segment in which nothing was ever written is deleted.
//!
//! **An error is not damage.** What the disk does not give at this start it may give at the next, and what a later version wrote that
//! version can read: so such a start ends with the error, and nothing is sealed, cut or deleted for it. Damage (checksums that are wrong)
//! and files that are not ours never stop a start: they are reported and left alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Floor;
use super::directory::Directory;
use super::position::{Mark, Position, SegmentId};
use super::record;
use super::segment::{BadSegment, Closed, DATA_START, DiskUsage, Seal, Segment};

/// The log cannot be opened now, and nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file of it.
    #[error("{}", path.display())]
    Segment {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: BadSegment,
    },
    /// The directory, or a thread.
    #[error(transparent)]
    Io(#[from] io::Error),
}

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
    /// No usable segment was there.
    pub is_empty: bool,
    pub report: Report,
}

/// Reads the directory. `savepoints` name the log that they are of.
pub(super) fn recover(
    directory: &Directory,
    usage: &DiskUsage,
    savepoints: &[Floor],
) -> Result<Recovered, RecoveryError> {
    let mut report = Report::default();
    directory.remove_left_overs()?;
    let newest = directory.segments()?.last().copied().unwrap_or_default();
    let found = open_all(directory, usage, &mut report)?;
    let ours = choose_log(&found, savepoints);
    let (found, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(segment, _)| Some(segment.header().log_id) == ours);
    report.bad.extend(others.into_iter().map(|(other, _)| (other.path().to_owned(), BadSegment::OtherLog)));

    let is_empty = found.is_empty();
    let mut segments = Vec::new();
    let mut last = Mark::default();
    let ends: Vec<Option<Position>> =
        (1..=found.len()).map(|next| found.get(next).map(|(segment, _)| segment.header().before.position)).collect();
    for ((segment, seal), end) in found.into_iter().zip(ends) {
        let seal = match seal {
            Some(seal) => seal,
            None => scan_and_seal(&segment, end, &mut report).map_err(cannot_read(&segment))?,
        };
        // The header alone says which positions were in use.
        raise(&mut last, segment.header().before);
        raise(&mut last, seal.last);
        if seal.records == 0 && (segment.is_sealed() || segment.is_blank().map_err(cannot_read(&segment))?) {
            let _ = std::fs::remove_file(segment.path());
            continue;
        }
        segment.close(Closed { last: seal.last, end: seal.data_end });
        segment.release_file();
        segments.push(Arc::new(segment));
    }
    Ok(Recovered { segments, last, newest, log_id: ours, is_empty, report })
}

fn cannot_read(segment: &Segment) -> impl FnOnce(io::Error) -> RecoveryError {
    let path = segment.path().to_owned();
    move |error| RecoveryError::Segment { path, source: BadSegment::Io(error) }
}

/// The segments in order, with their seals.
fn open_all(
    directory: &Directory,
    usage: &DiskUsage,
    report: &mut Report,
) -> Result<Vec<(Segment, Option<Seal>)>, RecoveryError> {
    let mut found = Vec::new();
    for id in directory.segments()? {
        let path = directory.segment_path(id);
        match Segment::open(path.clone(), id, usage) {
            Ok(segment) => {
                let seal = segment.read_seal().map_err(cannot_read(&segment))?;
                if seal.is_some() {
                    // A backlog has more segments than a process may have files.
                    segment.release_file();
                }
                found.push((segment, seal));
            }
            Err(source @ (BadSegment::Io(_) | BadSegment::Version { .. })) => {
                return Err(RecoveryError::Segment { path, source });
            }
            Err(error) => report.bad.push((path, error)),
        }
    }
    Ok(found)
}

/// Which log this is, if there are segments of more than one (somebody has brought some): the one that savepoints are of, else
/// the one that most segments are of, of two the older. Without a segment it is still the one that savepoints are of.
fn choose_log(found: &[(Segment, Option<Seal>)], savepoints: &[Floor]) -> Option<[u8; 16]> {
    let saved = |log_id: [u8; 16]| savepoints.iter().filter(|floor| floor.log_id == log_id).count();
    let of_log = |log_id: [u8; 16]| found.iter().filter(|(segment, _)| segment.header().log_id == log_id).count();
    let in_files = found.iter().rev().map(|(segment, _)| segment.header().log_id);
    in_files
        .max_by_key(|log_id| (saved(*log_id), of_log(*log_id)))
        .or_else(|| savepoints.iter().map(|floor| floor.log_id).max_by_key(|log_id| saved(*log_id)))
}

fn raise(mark: &mut Mark, to: Mark) {
    mark.position = mark.position.max(to.position);
    mark.total = mark.total.max(to.total);
}

/// Scans a segment and seals it.
fn scan_and_seal(segment: &Segment, end: Option<Position>, report: &mut Report) -> io::Result<Seal> {
    report.scanned += 1;
    let scan = scan(segment, end)?;
    for (offset, bytes) in scan.damaged {
        report.damaged.push(Damage { path: segment.path().to_owned(), offset, bytes });
    }
    report.torn_bytes += scan.torn_bytes;
    if scan.seal.records > 0
        && let Err(error) = segment.seal(&scan.seal)
    {
        tracing::warn!(path = %segment.path().display(), %error, "cannot seal a segment; it will be scanned again at the next start");
    }
    Ok(scan.seal)
}

struct Scan {
    /// What counts.
    seal: Seal,
    /// Offsets and lengths.
    damaged: Vec<(u64, u64)>,
    torn_bytes: u64,
}

/// Steps through a segment's records. `end` is the last position that may count.
fn scan(segment: &Segment, end: Option<Position>) -> io::Result<Scan> {
    let limit = segment.data_end_max();
    let seal = Seal::empty(segment.header().before);
    let mut scan = Scan { seal, damaged: Vec::new(), torn_bytes: 0 };
    let mut offset = DATA_START;
    loop {
        let expected = scan.seal.last.position.next();
        let here = segment.read_header(offset, limit)?.filter(|header| header.position >= expected);
        let (at, header) = match here {
            Some(header) if body_is_whole(segment, offset, &header)? => (offset, header),
            _ => {
                let hole = look_behind(segment, offset + record::ALIGN, limit, scan.seal.last.position)?;
                let Some((at, header)) = hole.proven else {
                    scan.torn_bytes = hole.torn_bytes.max(here.map_or(0, |header| header.stored_len()));
                    return Ok(scan);
                };
                scan.damaged.push((offset, at - offset));
                (at, header)
            }
        };
        if end.is_some_and(|end| header.position > end) {
            return Ok(scan);
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
}

fn look_behind(segment: &Segment, from: u64, limit: u64, last: Position) -> io::Result<Hole> {
    let mut hole = Hole::default();
    let mut offset = from;
    loop {
        let search = segment.find_header(offset, limit, last);
        if let Some(error) = search.unreadable {
            return Err(error);
        }
        let Some((at, header)) = search.found else { return Ok(hole) };
        if body_is_whole(segment, at, &header)? {
            // Everything up to here had been acknowledged when this record was written.
            if header.position.0.saturating_sub(header.unacknowledged) > last.0 {
                hole.proven = Some((at, header));
                return Ok(hole);
            }
            hole.torn_bytes = at + header.stored_len() - from;
        }
        offset = at + record::ALIGN;
    }
}

fn body_is_whole(segment: &Segment, offset: u64, header: &record::Header) -> io::Result<bool> {
    let mut payload = vec![0; usize::try_from(header.payload_len()).expect("a record fits its segment")];
    segment.copy(offset + record::HEADER_LEN as u64, &mut payload)?;
    Ok(record::payload_crc(&[], &payload) == header.body_crc)
}
