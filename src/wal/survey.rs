//! A log's directory as it is: read offline or beside a running relay, without the lock, and nothing is changed.
//!
//! ```text
//!  Survey::take ---> which files are segments of the log, from two reads each (header and seal)
//!       |                 Found: one of them     Unusable: a segment's name, and nothing to read     Other: not ours
//!       v
//!  Found::open ---> walk    its records, and the holes between them
//!              '--> check   what is damaged, and how many records and samples are gone with it
//! ```
//!
//! A relay may write, seal, roll over and release while we look. What is listed first is what is looked at; a segment
//! that is gone when it is opened was released, and all older ones with it. Memory: a few hundred bytes for each
//! segment, and one record.

pub mod check;
pub mod walk;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Floor;
use super::disk;
use super::position::{Position, SegmentId};
use super::record;
use super::segment::{BadSegment, SEAL_LEN, Seal, Segment, SegmentHeader};
use super::usage::DiskUsage;
use walk::{Step, Walk};

/// Names in a log's directory that belong to it and are no segments.
const BESIDE: [&str; 4] = ["LOCK", "savepoints", "quarantine", "dead-letter"];

/// A busy log on a slow machine may be listed and released before it is opened: then it is listed again.
const TRIES: usize = 10;

/// What stands in a log's directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// Of the log; `None` without any segment and savepoint.
    pub log_id: Option<[u8; 16]>,
    /// The log's segments, oldest first.
    pub segments: Vec<Found>,
    /// Files with a segment's name that are none of the log's.
    pub unusable: Vec<Unusable>,
    /// Segments that are allocated and not yet taken into use.
    pub prepared: Vec<Other>,
    /// What does not belong here.
    pub foreign: Vec<Other>,
    /// The process that uses the log, as far as can be told without asking for the lock.
    pub holder: Option<u32>,
}

/// A segment of the log.
#[derive(Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// What the header says.
    pub header: SegmentHeader,
    /// The header is damaged, and its copy at the end of the file is whole.
    pub is_header_damaged: bool,
    /// What the end of the file says.
    pub seal: Sealing,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Records must end here.
    pub data_end_max: u64,
    /// The last position that can count: the next segment begins behind it.
    pub end: Option<Position>,
}

/// What stands where a segment's seal belongs.
#[derive(Debug)]
pub enum Sealing {
    /// A valid seal.
    Sealed(Seal),
    /// Nothing: it is being written, or its process did not come to an end of its own.
    Open,
    /// Something else.
    Damaged,
    /// The disk does not say.
    Unreadable(io::Error),
}

/// A file with a segment's name that cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// Which.
    pub path: PathBuf,
    /// The number in its name.
    pub id: SegmentId,
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub why: String,
    /// What may be in it.
    pub holds: Holds,
}

/// What may be in a file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Records: the disk does not give them now.
    Unreadable,
    /// Records of this log, perhaps.
    Perhaps,
    /// Nothing of this log that is not elsewhere.
    Nothing,
}

/// Any other file.
#[derive(Debug)]
pub struct Other {
    /// Which.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What a segment holds, as far as headers tell.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// As the seal says or would say.
    pub seal: Seal,
    /// Places between records where there is no valid one. Only looked for where there is no seal.
    pub holes: u64,
}

impl Survey {
    /// Looks at a directory. `floors` are what savepoints ask of the log; they tell which log it is when there are
    /// segments of two.
    ///
    /// # Errors
    /// The directory cannot be listed. Whatever is wrong with a file of it is part of the survey.
    pub fn take(directory: &Path, floors: &[Floor]) -> io::Result<Survey> {
        for _ in 1..TRIES {
            if let Some(survey) = Survey::try_take(directory, floors)? {
                return Ok(survey);
            }
        }
        Ok(Survey::try_take(directory, floors)?.unwrap_or_default())
    }

    /// `None` if the newest segment of the list was released before it was opened.
    fn try_take(directory: &Path, floors: &[Floor]) -> io::Result<Option<Survey>> {
        let mut survey = Survey { holder: holder(directory), ..Survey::default() };
        let mut files = Vec::new();
        for name in disk::list(directory)? {
            let path = directory.join(&name);
            match numbered(&name, "seg-", ".wal") {
                Some(id) => files.push((id, path)),
                None if BESIDE.contains(&&*name) => {}
                None => {
                    let other = Other { bytes: disk_bytes(&path), path: path.clone() };
                    let is_prepared = numbered(&name, "next-", ".tmp").is_some();
                    if is_prepared { survey.prepared.push(other) } else { survey.foreign.push(other) }
                }
            }
        }
        files.sort_unstable();
        let newest = files.last().map(|(id, _)| *id);
        survey.foreign.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut released = None;
        let mut found: Vec<(SegmentId, Found)> = Vec::new();
        for (id, path) in files {
            match Found::look(&path) {
                Ok(segment) => match found.iter().any(|(_, other)| other.header.id == segment.header.id) {
                    true => survey.add_unusable(path, id, "is a second copy of another file".into(), Holds::Nothing),
                    false => found.push((id, segment)),
                },
                Err(BadSegment::Io(error)) if error.kind() == io::ErrorKind::NotFound => released = Some(id),
                Err(error) => survey.add_bad(path, id, error),
            }
        }
        if released.is_some() && released == newest {
            return Ok(None);
        }
        // The oldest go first: what was there a moment ago and is older than one that is gone is gone as well.
        found.retain(|(id, _)| Some(*id) > released);
        survey.unusable.retain(|file| Some(file.id) > released);

        survey.log_id = choose_log(&found, floors);
        for (id, segment) in found {
            if Some(segment.header.log_id) == survey.log_id {
                survey.segments.push(segment);
            } else {
                survey.add_unusable(segment.path, id, "is of another log".into(), Holds::Nothing);
            }
        }
        survey.unusable.sort_unstable_by_key(|file| file.id);
        survey.segments.sort_unstable_by_key(|segment| segment.header.id);
        for n in 1..survey.segments.len() {
            survey.segments[n - 1].end = Some(survey.segments[n].header.before.position);
        }
        Ok(Some(survey))
    }

    fn add_bad(&mut self, path: PathBuf, id: SegmentId, error: BadSegment) {
        let is_empty = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == 0);
        match error {
            BadSegment::Io(error) => self.add_unusable(path, id, format!("cannot be read: {error}"), Holds::Unreadable),
            _ if is_empty => self.add_unusable(path, id, "is empty".into(), Holds::Nothing),
            error => self.add_unusable(path, id, error.to_string(), Holds::Perhaps),
        }
    }

    fn add_unusable(&mut self, path: PathBuf, id: SegmentId, why: String, holds: Holds) {
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        self.unusable.push(Unusable { path, id, bytes, why, holds });
    }
}

impl Found {
    fn look(path: &Path) -> Result<Found, BadSegment> {
        let segment = open(path)?;
        let seal = match segment.read_seal() {
            Ok(Some(seal)) => Sealing::Sealed(seal),
            Ok(None) => unsealed(&segment),
            Err(error) => Sealing::Unreadable(error),
        };
        Ok(Found {
            path: path.to_owned(),
            header: *segment.header(),
            is_header_damaged: segment.is_header_damaged(),
            seal,
            disk_bytes: segment.disk_bytes(),
            data_end_max: segment.data_end_max(),
            end: None,
        })
    }

    /// Opens it for reading; `None` if it was released meanwhile.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn open(&self) -> Result<Option<Segment>, BadSegment> {
        match open(&self.path) {
            Ok(segment) => Ok(Some(segment)),
            Err(BadSegment::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The seal, if there is a valid one.
    #[must_use]
    pub fn sealed(&self) -> Option<&Seal> {
        match &self.seal {
            Sealing::Sealed(seal) => Some(seal),
            _ => None,
        }
    }

    /// Offset behind the last place where a record can be.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.sealed().map_or(self.data_end_max, |seal| seal.data_end)
    }

    /// What it holds: by its seal, else by the headers of its records. `None` if it was released meanwhile.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn extent(&self) -> Result<Option<Extent>, BadSegment> {
        if let Some(seal) = self.sealed() {
            return Ok(Some(Extent { seal: *seal, holes: 0 }));
        }
        let Some(segment) = self.open()? else { return Ok(None) };
        let mut extent = Extent { seal: Seal::empty(self.header.before), holes: 0 };
        let mut walk = Walk::new(&segment, self.data_end_max).up_to_blank();
        let mut is_behind_hole = false;
        while let Some(step) = walk.next_step(|_| false) {
            let Step::Record { offset, header, .. } = step else {
                is_behind_hole = true;
                continue;
            };
            let is_proof = header.position.0.saturating_sub(header.unacknowledged) > extent.seal.last.position.0;
            let is_beyond = self.end.is_some_and(|end| header.position > end);
            if is_beyond || is_behind_hole && !is_proof && self.end.is_none() {
                break;
            }
            extent.holes += u64::from(is_behind_hole);
            is_behind_hole = false;
            extent.seal.include(&header, offset + header.stored_len());
        }
        Ok(Some(extent))
    }
}

/// The one place where a file is opened as a segment.
fn open(path: &Path) -> Result<Segment, BadSegment> {
    let segment = Segment::open(path.to_owned(), &DiskUsage::default())?;
    segment.release_file();
    Ok(segment)
}

/// What stands where there is no valid seal.
fn unsealed(segment: &Segment) -> Sealing {
    let mut bytes = [0u8; SEAL_LEN as usize];
    let offset = segment.header().len.saturating_sub(SEAL_LEN) / record::ALIGN * record::ALIGN;
    match segment.copy(offset, &mut bytes) {
        Ok(()) if bytes.iter().all(|byte| *byte == 0) => Sealing::Open,
        Ok(()) => Sealing::Damaged,
        Err(error) => Sealing::Unreadable(error),
    }
}

/// As recovery chooses: the log that savepoints are of, else the one that most segments are of, of two the older.
fn choose_log(found: &[(SegmentId, Found)], floors: &[Floor]) -> Option<[u8; 16]> {
    let saved = |log_id: [u8; 16]| floors.iter().filter(|floor| floor.log_id == log_id).count();
    let in_files = |log_id: [u8; 16]| found.iter().filter(|(_, segment)| segment.header.log_id == log_id).count();
    let of_segments = found.iter().rev().map(|(_, segment)| segment.header.log_id);
    of_segments
        .max_by_key(|log_id| (saved(*log_id), in_files(*log_id)))
        .or_else(|| floors.iter().map(|floor| floor.log_id).max_by_key(|log_id| saved(*log_id)))
}

fn numbered(name: &str, prefix: &str, suffix: &str) -> Option<SegmentId> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok().map(SegmentId))?
}

fn disk_bytes(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Who holds the log's lock, by the kernel's list: asking for the lock could keep a relay from starting.
fn holder(directory: &Path) -> Option<u32> {
    let path = directory.join("LOCK");
    let metadata = fs::metadata(&path).ok()?;
    let noted = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let device = format!("{:02x}:{:02x}", rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &device, metadata.ino(), noted)
}

/// `7: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`. Some filesystems have another device here than elsewhere: then
/// the pid that the lock file names must fit.
fn holder_in(locks: &str, device: &str, inode: u64, noted: Option<u32>) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
        let (on, number) = file.rsplit_once(':')?;
        let pid = pid.parse().ok();
        let is_it = number.parse() == Ok(inode) && (on == device || pid.is_some() && pid == noted);
        is_it.then(|| noted.or(pid)).flatten()
    })
}
