//! What a directory of segments holds after whatever happened to it.
//!
//! Sealed segments are known from their header and seal, and nothing of them is ever changed here. Only a segment without a valid
//! seal is scanned: the one that was being written when the process ended, and those whose disk failed. The scan steps from record to
//! record:
//!
//! ```text
//!  valid record ------> next record
//!  anything else -----> look for the next valid record, every 64 bytes
//!     found, and it proves that what is missing         damage: stepped over, and counted by the totals
//!       was acknowledged (its position - unacknowledged,
//!       the next segment, a savepoint)
//!     none, or it does not prove it                     a torn tail: never acknowledged; the records end here, and what lies
//!                                                       behind it, never acknowledged either, is cut with it
//! ```
//!
//! A segment ends where the next one of the same log begins: records at or above its first position do not exist.
//!
//! # It always starts
//! First everything is looked at, then something is done about it; with [`Recovery::Strict`] nothing is done, and the start ends with
//! an error, if there is anything but a torn tail to report.
//!
//! | found | done |
//! |---|---|
//! | a segment without a seal | scanned; sealed behind its last record; the unused rest is given back |
//! | a segment without records | deleted |
//! | a damaged range | stepped over; a copy of it goes to `quarantine/` |
//! | a damaged header | the copy of it is used |
//! | names exchanged | what the header says counts |
//! | a second copy, an empty or foreign file, one of another log, both headers damaged | moved to `quarantine/` |
//! | a later format | left alone, for the version that can read it |
//! | a file that cannot be read *now* | left alone; readers that need it wait for it for a while (see [`super::reader`]) |
//!
//! Nobody knows what a file at the end of the log holds that cannot be read. So that nothing of it is ever taken for something else, new
//! positions begin above all that could be in it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::disk;
use super::findings::{Finding, Kind};
use super::position::{Mark, Position, SegmentId};
use super::record::{self, HEADER_LEN};
use super::segment::{BadSegment, Seal, Segment};
use super::usage::{Charge, DiskUsage};
use super::writer::now_ms;
use super::{Floor, Recovery};

/// The log cannot be opened. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Something is wrong with it, and it was asked for not to go on then.
    #[error("{count} thing(s) are wrong with the log, and wal.recovery = \"strict\"; the first: {}: {}", first.path.display(), first.reason)]
    Strict {
        /// How many findings there are.
        count: usize,
        /// One of them.
        first: Box<Finding>,
    },
    /// Nothing of it can be read now, and no savepoint says which log it is: a new one beside it would take its place.
    #[error("no segment can be read, and no savepoint says which log it is; {}: {}", first.path.display(), first.reason)]
    Unknown {
        /// One of the files.
        first: Box<Finding>,
    },
    /// The directory cannot be listed, or a thread not be started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a start cost and cut.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Segments that had no valid seal and were scanned.
    pub scanned: usize,
    /// Bytes of a torn tail that were cut. Never acknowledged, as far as can be told; with another mode than
    /// [`SyncMode::Always`](super::SyncMode::Always) a power cut may have taken the record that would tell.
    pub torn_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A file that may be part of the log and cannot be read now.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub id: SegmentId,
    pub path: PathBuf,
    /// Its share of the disk; a segment has one of its own.
    _charge: Arc<Charge>,
}

/// What recovery hands to the log.
#[derive(Debug)]
pub(super) struct Recovered {
    /// In order, each closed.
    pub segments: Vec<Arc<Segment>>,
    /// Those that may come back.
    pub unreadable: Vec<Unreadable>,
    /// What other files take that stay where they are.
    pub left_alone: Vec<Charge>,
    /// What the next record comes behind: beyond all that anybody may have seen.
    pub last: Mark,
    /// `last` lies beyond the newest readable record.
    pub is_beyond: bool,
    /// The highest number of any segment file, usable or not.
    pub newest: SegmentId,
    /// Of the log as a whole, if any of it is left.
    pub log_id: Option<[u8; 16]>,
    /// No segment was there, usable or not.
    pub is_empty: bool,
    /// With the segments that damage lies in.
    pub findings: Vec<(Finding, Option<Arc<Segment>>)>,
    pub report: Report,
}

/// A file that cannot be used.
struct Unusable {
    /// By its name.
    id: SegmentId,
    path: PathBuf,
    why: BadSegment,
}

impl Unusable {
    fn len(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    fn charge(&self, usage: &DiskUsage) -> Charge {
        usage.charge(std::fs::metadata(&self.path).map_or(0, |metadata| metadata.blocks() * 512))
    }
}

/// Reads the directory. `savepoints` name the log that they are of; `segment_bytes` is how long a file is that cannot be asked.
pub(super) fn recover(
    directory: &Directory,
    usage: &DiskUsage,
    savepoints: &[Floor],
    segment_bytes: u64,
    recovery: Recovery,
) -> Result<Recovered, RecoveryError> {
    let started = Instant::now();
    let names = directory.segments()?;
    let newest_name = names.last().copied().unwrap_or_default();
    let (opened, mut unusable) = open_all(directory, &names, usage);
    let log_id = choose_log(&opened, savepoints);
    let found = order(opened, log_id, &mut unusable);
    let settled = savepoints.iter().filter(|floor| Some(floor.log_id) == log_id).map(|floor| floor.settled);
    let (mut looked_at, failed) = look(found, settled.max_by_key(|mark| mark.position).unwrap_or_default());
    unusable.extend(failed);
    unusable.sort_by_key(|file| file.id);

    let mut report = Report::default();
    let mut findings = Vec::new();
    for each in &looked_at {
        report.scanned += usize::from(each.scan.is_some());
        report.torn_bytes += each.scan.as_ref().map_or(0, |scan| scan.torn_bytes);
        findings.extend(each.findings().map(|finding| (finding, Some(each.segment.clone()))));
    }
    let mut files: Vec<_> = unusable.iter().map(of_unusable).collect();
    let is_needed = |finding: &Finding| {
        let last = finding.positions.map_or(Position(0), |(_, last)| last);
        savepoints.is_empty() || savepoints.iter().any(|floor| floor.settled.position < last)
    };
    let missing = missing(directory, &looked_at, &unusable, &mut files);
    // What was released may be missing between segments that could not be deleted.
    findings
        .extend(missing.filter(|gone| gone.kind != Kind::Missing || is_needed(gone)).map(|finding| (finding, None)));
    let ends = Ends::of(&looked_at, &unusable, savepoints, log_id, segment_bytes);
    findings
        .extend(beyond_the_ends(directory, &looked_at, &unusable, savepoints, &ends).map(|finding| (finding, None)));
    if recovery == Recovery::Strict
        && let Some(first) = findings.iter().map(|(finding, _)| finding).chain(&files).next()
    {
        return Err(RecoveryError::Strict { count: findings.len() + files.len(), first: Box::new(first.clone()) });
    }
    if let (None, Some(first)) = (log_id, files.iter().find(|file| file.kind == Kind::Unreadable)) {
        return Err(RecoveryError::Unknown { first: Box::new(first.clone()) });
    }
    findings.extend(files.into_iter().map(|finding| (finding, None)));

    // From here on something is done.
    directory.remove_left_overs()?;
    looked_at.retain(|each| each.seal.records > 0 || disk::remove(each.segment.path()).is_err());
    for each in &looked_at {
        each.close();
    }
    // Of what is left: one that was deleted may have begun behind records that are gone.
    let readable_to = looked_at.last().map_or(Position(0), |newest| newest.seal.last.position);
    report.took = started.elapsed();
    Ok(Recovered {
        segments: looked_at.into_iter().map(|each| each.segment).collect(),
        left_alone: unusable
            .iter()
            .filter(|file| matches!(file.why, BadSegment::Version { .. }))
            .map(|file| file.charge(usage))
            .collect(),
        unreadable: unusable
            .into_iter()
            .filter(|file| file.why.may_come_back())
            .map(|file| Unreadable { id: file.id, _charge: Arc::new(file.charge(usage)), path: file.path })
            .collect(),
        last: ends.last,
        is_beyond: ends.last.position > readable_to,
        newest: ends.newest.max(newest_name),
        log_id,
        is_empty: ends.is_empty,
        findings,
        report,
    })
}

/// Where the log ends.
struct Ends {
    /// With the newest record that can be read.
    readable: Mark,
    /// There, or with what a savepoint has settled beyond it.
    settled: Mark,
    /// There, or beyond all that may be in files that nobody can read.
    last: Mark,
    /// The highest number of a segment that anything tells of.
    newest: SegmentId,
    /// There is no segment, usable or not.
    is_empty: bool,
}

impl Ends {
    fn of(
        looked_at: &[Looked],
        unusable: &[Unusable],
        savepoints: &[Floor],
        log_id: Option<[u8; 16]>,
        segment_bytes: u64,
    ) -> Ends {
        let is_empty = looked_at.is_empty() && unusable.is_empty();
        let newest_usable = looked_at.last().map(|last| last.segment.id());
        let mut newest = newest_usable.unwrap_or_default();
        let mut readable = Mark::default();
        for each in looked_at {
            // A later segment counts on from where its own header says, whatever an earlier one holds that was unreadable at its
            // birth.
            for mark in [each.segment.header().before, each.seal.last] {
                if mark.position >= readable.position {
                    readable = mark;
                }
            }
        }
        let mut settled = readable;
        // A log of which nothing is left goes on above all savepoints, whatever log they are of.
        for floor in savepoints.iter().filter(|floor| is_empty || Some(floor.log_id) == log_id) {
            if floor.settled.position > settled.position {
                // Totals of different lives are not compared: those of the log may have fallen behind where it could not be read.
                let total = counted(floor.settled).max(counted(settled));
                settled = Mark { position: floor.settled.position, total };
            }
            newest = newest.max(floor.segment);
        }
        let may_hold: u64 = unusable
            .iter()
            .filter(|file| newest_usable.is_none_or(|newest| file.id > newest) && file.why.may_hold_records())
            .map(|file| file.len().max(segment_bytes) / HEADER_LEN as u64)
            .sum();
        let last = Mark { position: Position(settled.position.0 + may_hold), total: settled.total };
        Ends { readable, settled, last, newest, is_empty }
    }
}

/// What savepoints tell of that no segment holds any more, in front of the oldest and behind the newest.
fn beyond_the_ends(
    directory: &Directory,
    looked_at: &[Looked],
    unusable: &[Unusable],
    savepoints: &[Floor],
    ends: &Ends,
) -> impl Iterator<Item = Finding> {
    let gone = |kind, segment: SegmentId, path, offset, from: Mark, to: Mark, reason: &str| {
        let samples = to.total.saturating_sub(from.total);
        let positions = from.position.up_to(to.position).filter(|_| samples > 0)?;
        Some(Finding {
            kind,
            segment,
            path,
            offset,
            bytes: 0,
            positions: Some(positions),
            samples,
            reason: reason.into(),
            found_ms: now_ms(),
            kept: None,
        })
    };
    // What nobody can read may hold it.
    let is_told = !unusable.iter().any(|file| file.why.may_hold_records());
    let front = looked_at.first().filter(|_| is_told).and_then(|oldest| {
        let is_ours = |floor: &&Floor| floor.log_id == oldest.segment.header().log_id;
        let lowest = savepoints.iter().filter(is_ours).map(|floor| floor.settled).min_by_key(|mark| mark.position)?;
        let (id, start) = (SegmentId(oldest.segment.id().0.saturating_sub(1)), oldest.segment.header().before);
        let reason = "the log begins behind what a target has settled";
        gone(Kind::Missing, id, directory.segment_path(id), 0, lowest, start, reason)
    });
    let back = looked_at.last().filter(|_| is_told).and_then(|newest| {
        let (id, path, end) = (newest.segment.id(), newest.segment.path().to_owned(), newest.seal.data_end);
        let reason = "savepoints have seen records behind the end of the log; they are gone";
        gone(Kind::Damage, id, path, end, ends.readable, ends.settled, reason)
    });
    front.into_iter().chain(back)
}

/// The total of a mark that has one.
fn counted(mark: Mark) -> u64 {
    if mark.total == Mark::BEGINNING.total { 0 } else { mark.total }
}

/// Tries a file again that could not be read at the start. Closed, with what was found damaged in it.
///
/// # Errors
/// As before, or what it turned out to be.
pub(super) fn open_late(
    file: &Unreadable,
    log_id: [u8; 16],
    end: Option<Mark>,
    takes_unreadable_for_damage: bool,
    usage: &DiskUsage,
) -> Result<(Arc<Segment>, Vec<Finding>), BadSegment> {
    let segment = Segment::open(file.path.clone(), usage)?;
    if segment.header().log_id != log_id {
        return Err(BadSegment::OtherLog);
    }
    if segment.id() != file.id {
        return Err(BadSegment::Duplicate { id: segment.id() });
    }
    let looked_at =
        Looked::at(segment, end, Mark::default(), takes_unreadable_for_damage).map_err(|(_, error)| error)?;
    looked_at.close();
    Ok((looked_at.segment.clone(), looked_at.findings().collect()))
}

/// The files that open as segments, and those that do not.
fn open_all(
    directory: &Directory,
    names: &[SegmentId],
    usage: &DiskUsage,
) -> (Vec<(SegmentId, Segment)>, Vec<Unusable>) {
    let (mut opened, mut unusable) = (Vec::new(), Vec::new());
    for &id in names {
        let path = directory.segment_path(id);
        match Segment::open(path.clone(), usage) {
            Ok(segment) => {
                // A backlog has more segments than a process may have files.
                segment.release_file();
                opened.push((id, segment));
            }
            Err(why) => unusable.push(Unusable { id, path, why }),
        }
    }
    (opened, unusable)
}

/// Which log this is, if there are segments of more than one (somebody has brought some): the one that savepoints are of, else
/// the one that most segments are of, of two the older. Without a segment it is still the one that savepoints are of.
fn choose_log(opened: &[(SegmentId, Segment)], savepoints: &[Floor]) -> Option<[u8; 16]> {
    let saved = |log_id: [u8; 16]| savepoints.iter().filter(|floor| floor.log_id == log_id).count();
    let of_log = |log_id: [u8; 16]| opened.iter().filter(|(_, segment)| segment.header().log_id == log_id).count();
    let in_files = opened.iter().rev().map(|(_, segment)| segment.header().log_id);
    in_files
        .max_by_key(|log_id| (saved(*log_id), of_log(*log_id)))
        .or_else(|| savepoints.iter().map(|floor| floor.log_id).max_by_key(|log_id| saved(*log_id)))
}

/// The segments of this log by their own numbers, each once: of two copies the one with the right name.
fn order(
    mut opened: Vec<(SegmentId, Segment)>,
    log_id: Option<[u8; 16]>,
    unusable: &mut Vec<Unusable>,
) -> BTreeMap<SegmentId, Segment> {
    opened.sort_by_key(|(name, segment)| (segment.id(), *name != segment.id(), *name));
    let mut found = BTreeMap::new();
    for (name, segment) in opened {
        let id = segment.id();
        let why = if Some(segment.header().log_id) != log_id {
            BadSegment::OtherLog
        } else {
            match found.entry(id) {
                Entry::Vacant(place) => {
                    place.insert(segment);
                    continue;
                }
                Entry::Occupied(_) => BadSegment::Duplicate { id },
            }
        };
        unusable.push(Unusable { id: name, path: segment.path().to_owned(), why });
    }
    found
}

/// What is in each of them.
fn look(found: BTreeMap<SegmentId, Segment>, settled: Mark) -> (Vec<Looked>, Vec<Unusable>) {
    let starts: Vec<Mark> = found.values().map(|segment| segment.header().before).collect();
    let ends = starts.iter().skip(1).map(|start| Some(*start)).chain([None]);
    let (mut looked_at, mut unusable) = (Vec::new(), Vec::new());
    for ((id, segment), end) in found.into_iter().zip(ends) {
        match Looked::at(segment, end, settled, false) {
            Ok(looked) => looked_at.push(looked),
            Err((path, why)) => unusable.push(Unusable { id, path, why }),
        }
    }
    (looked_at, unusable)
}

/// A segment of which is known what it holds.
struct Looked {
    segment: Arc<Segment>,
    seal: Seal,
    /// If it had no seal.
    scan: Option<Scan>,
}

impl Looked {
    /// `end` is where the next segment begins; `settled` is what a target has settled, at most.
    fn at(
        segment: Segment,
        end: Option<Mark>,
        settled: Mark,
        takes_unreadable_for_damage: bool,
    ) -> Result<Looked, (PathBuf, BadSegment)> {
        let path = segment.path().to_owned();
        let failed = |error: io::Error| (path.clone(), BadSegment::Io(error));
        let or_damage = |error: io::Error| if takes_unreadable_for_damage { Ok(None) } else { Err(failed(error)) };
        let seal = segment.read_seal().or_else(or_damage)?;
        // A seal that reaches beyond is of a time before the next segment was what it is.
        let seal = seal.filter(|seal| end.is_none_or(|end| seal.last.position <= end.position));
        let scan = match seal {
            Some(_) => None,
            None => Some(scan(&segment, end, settled, takes_unreadable_for_damage).map_err(failed)?),
        };
        let seal = seal.or(scan.as_ref().map(|scan| scan.seal)).expect("one of the two is there");
        segment.release_file();
        Ok(Looked { segment: Arc::new(segment), seal, scan })
    }

    fn findings(&self) -> impl Iterator<Item = Finding> {
        let of = |kind, offset, bytes, reason: &str| Finding {
            kind,
            segment: self.segment.id(),
            path: self.segment.path().to_owned(),
            offset,
            bytes,
            positions: None,
            samples: 0,
            reason: reason.to_owned(),
            found_ms: now_ms(),
            kept: None,
        };
        let header = "the header is damaged; the copy of it in the second page is used";
        let header = self.segment.is_header_damaged().then(|| of(Kind::Repaired, 0, HEADER_LEN as u64, header));
        let damaged = self.scan.iter().flat_map(|scan| &scan.damaged).map(move |hole| Finding {
            positions: hole.from.position.up_to(hole.to.position),
            samples: hole.to.total.saturating_sub(hole.from.total),
            ..of(Kind::Damage, hole.offset, hole.bytes, "records are damaged")
        });
        header.into_iter().chain(damaged)
    }

    /// Closes it, and seals it if it was scanned.
    fn close(&self) {
        if self.seal.records > 0
            && !self.segment.is_sealed()
            && let Err(error) = self.segment.seal(&self.seal)
        {
            let path = self.segment.path().display();
            tracing::warn!(%path, %error, "cannot seal a segment; it will be scanned again at the next start");
        }
        self.segment.close(self.seal);
        self.segment.release_file();
    }
}

fn of_unusable(file: &Unusable) -> Finding {
    let cause = std::error::Error::source(&file.why).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding {
        kind: if matches!(file.why, BadSegment::Io(_) | BadSegment::Version { .. }) {
            Kind::Unreadable
        } else {
            Kind::Unusable
        },
        segment: file.id,
        path: file.path.clone(),
        offset: 0,
        bytes: file.len(),
        positions: None,
        samples: 0,
        reason: format!("{}{cause}", file.why),
        found_ms: now_ms(),
        kept: None,
    }
}

/// What is missing between the segments. Where a file stands there that cannot be used, it is what is missing.
fn missing(
    directory: &Directory,
    looked_at: &[Looked],
    unusable: &[Unusable],
    files: &mut [Finding],
) -> impl Iterator<Item = Finding> {
    let mut found = Vec::new();
    for pair in looked_at.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let (from, to) = (before.seal.last, after.segment.header().before);
        let (first_id, last_id) = (before.segment.id().0 + 1, after.segment.id().0);
        let Some(positions) = from.position.up_to(to.position) else { continue };
        let samples = to.total.saturating_sub(from.total);
        let between =
            unusable.iter().position(|file| (first_id..last_id).contains(&file.id.0) && file.why.may_hold_records());
        if let Some(number) = between {
            // What may come back is not gone.
            if !unusable[number].why.may_come_back() {
                (files[number].positions, files[number].samples) = (Some(positions), samples);
            }
            continue;
        }
        // Positions are skipped where nobody knew how far a file went; that has no samples.
        if samples == 0 {
            continue;
        }
        let gone = |kind, segment: SegmentId, path: PathBuf, offset: u64, reason: &str| Finding {
            kind,
            segment,
            path,
            offset,
            bytes: 0,
            positions: Some(positions),
            samples,
            reason: reason.into(),
            found_ms: now_ms(),
            kept: None,
        };
        found.push(if first_id < last_id {
            let id = SegmentId(first_id);
            gone(Kind::Missing, id, directory.segment_path(id), 0, "the segment is not there")
        } else {
            let path = before.segment.path().to_owned();
            gone(Kind::Damage, before.segment.id(), path, before.seal.data_end, "records at the end are gone")
        });
    }
    found.into_iter()
}

/// What a segment without a seal holds.
struct Scan {
    /// What counts.
    seal: Seal,
    damaged: Vec<Hole>,
    torn_bytes: u64,
}

/// A damaged range between two records.
struct Hole {
    offset: u64,
    bytes: u64,
    from: Mark,
    to: Mark,
}

/// Steps through a segment's records. What lies beyond `end` does not count.
fn scan(segment: &Segment, end: Option<Mark>, settled: Mark, takes_unreadable_for_damage: bool) -> io::Result<Scan> {
    // The next segment was made when everything before it had been acknowledged, and nobody settles what was not.
    let acknowledged = [end.unwrap_or_default(), settled];
    let reader = Reader { segment, limit: segment.data_end_max(), acknowledged, takes_unreadable_for_damage };
    let seal = Seal::empty(segment.header().before);
    let mut scan = Scan { seal, damaged: Vec::new(), torn_bytes: 0 };
    let mut offset = super::segment::DATA_START;
    loop {
        let last = scan.seal.last;
        let here = reader.header(offset)?.filter(|header| header.position > last.position);
        let (at, header) = match here {
            Some(header) if reader.is_whole(offset, &header)? => (offset, header),
            _ => {
                let behind = reader.look_behind(offset + record::ALIGN, last.position)?;
                let Some(proven) = behind.proven else {
                    scan.torn_bytes = behind.torn_bytes.max(here.map_or(0, |header| header.stored_len()));
                    return Ok(scan);
                };
                proven
            }
        };
        if end.is_some_and(|end| header.position > end.position) {
            return Ok(scan);
        }
        if at > offset {
            let to = Mark { position: header.position.previous(), total: header.total_before() };
            scan.damaged.push(Hole { offset, bytes: at - offset, from: last, to });
        }
        offset = at + header.stored_len();
        scan.seal.include(&header, offset);
    }
}

/// What lies behind a place without a valid record.
#[derive(Default)]
struct Behind {
    /// A whole record that shows that the hole before it had been acknowledged.
    proven: Option<(u64, record::Header)>,
    /// Valid records follow, but nothing shows that the hole was ever acknowledged.
    torn_bytes: u64,
}

struct Reader<'a> {
    segment: &'a Segment,
    limit: u64,
    /// Points up to which everything had been acknowledged, as is known from elsewhere. Of records that nobody could read when the point
    /// was made (positions were skipped for them) it tells nothing: its total does not have theirs.
    acknowledged: [Mark; 2],
    takes_unreadable_for_damage: bool,
}

impl Reader<'_> {
    fn header(&self, offset: u64) -> io::Result<Option<record::Header>> {
        self.or_damage(self.segment.read_header(offset, self.limit), None)
    }

    fn is_whole(&self, offset: u64, header: &record::Header) -> io::Result<bool> {
        let mut payload = vec![0; usize::try_from(header.payload_len()).expect("a record fits its segment")];
        let copied = self.segment.copy(offset + HEADER_LEN as u64, &mut payload);
        self.or_damage(copied.map(|()| record::payload_crc(&[], &payload) == header.body_crc), false)
    }

    fn or_damage<T>(&self, read: io::Result<T>, damage: T) -> io::Result<T> {
        match read {
            Err(_) if self.takes_unreadable_for_damage => Ok(damage),
            other => other,
        }
    }

    fn look_behind(&self, from: u64, last: Position) -> io::Result<Behind> {
        let mut behind = Behind::default();
        let mut offset = from;
        loop {
            let search = self.segment.find_header(offset, self.limit, last);
            if let Some(error) = search.unreadable
                && !self.takes_unreadable_for_damage
            {
                return Err(error);
            }
            let Some((at, header)) = search.found else { return Ok(behind) };
            if self.is_whole(at, &header)? {
                // Everything up to here had been acknowledged when this record was written.
                let proven = Position(header.position.0.saturating_sub(header.unacknowledged));
                let is_before = |point: &Mark| header.position <= point.position && header.total <= point.total;
                if proven > last || self.acknowledged.iter().any(is_before) {
                    behind.proven = Some((at, header));
                    return Ok(behind);
                }
                behind.torn_bytes = at + header.stored_len() - from;
            }
            offset = at + record::ALIGN;
        }
    }
}
