//! One log file: written with `pwritev` and `fdatasync`, read by copying out of a read-only mapping of the same file.
//!
//! ```text
//! 0         4096            8192                                    data end        len-192    len
//! | header  | header (copy) | record | record | ...        | record | unused (a hole) | seal   |
//! ```
//!
//! The header says which positions begin here, and salts the checksums of the records: without it none of them can be told from
//! rubbish, so it stands in two pages. (Not at both ends of the file: a page written at the far end splits the file into so many
//! pieces that ext4 syncs each record a third slower.) The seal, always the last 192 bytes, says where the records end. So what a
//! sealed segment holds is known from two reads, whatever its size. A segment without a valid seal is one that was being
//! written when its process ended, or whose disk failed: recovery scans it. A segment ends, whatever it holds, at the first
//! position of the next one's header: after a failed sync the un-acknowledged records are written again to a fresh segment
//! *with the same positions*.
//!
//! Nothing is stored through the mapping: a full disk would be a SIGBUS, and whole folios would be written back for every
//! record. Reading through it costs one copy. Before the copy the pages are populated by `madvise`, which turns a page that
//! cannot be read into an error instead of a signal; kernels before 5.14 do not know it and get a `pread`.
//!
//! This is the only module with `unsafe` code.
//!
//! ```text
//! segment header, little-endian, alone in the first page; the copy is the same, alone in the second
//!   0 [8] magic "PRWSEG\r\n"   8 u32 format version, 1   12 u32 checksum: CRC32C over bytes 0..12 and 16..96
//!  16 u64 segment id          24 u64 first position      32 u64 running total before it
//!  40 u64 salt: random, for the checksums of the records  48 [16] log id: random, the same in all segments of a log
//!  64 i64 created, ms         72 u64 length of the file
//! seal: a record header of type 3 (position and total: of the last record; receive time: of the last record; timestamps: of
//!       all records) and 64 bytes: u64 data end, u64 records, i64 receive time of the first record, zeroes
//! ```

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapRaw;

use super::disk::{self, File};
use super::position::{Mark, Place, Position, SegmentId};
use super::record::{self, Counts, HEADER_LEN, Header, Kind, Seat, TimeRange, put, take};
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Mutex, OnceLock};
use super::usage::{Charge, DiskUsage};

/// Where the first record of a segment starts.
pub const DATA_START: u64 = 2 * PAGE;
/// Bytes of a seal.
pub const SEAL_LEN: u64 = HEADER_LEN as u64 + SEAL_BODY_LEN as u64;
/// The format that this program writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const EFAULT: i32 = rustix::io::Errno::FAULT.raw_os_error();
const SEAL_BODY_LEN: usize = 64;
const MAGIC: &[u8; 8] = b"PRWSEG\r\n";
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 96;
/// Where the header's copy stands.
pub const COPY_START: u64 = PAGE;
pub(super) const PAGE: u64 = 4096;

const _: () = assert!(DATA_START.is_multiple_of(record::ALIGN) && SEAL_LEN.is_multiple_of(record::ALIGN));

/// What stands in the first page of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The same as in the file's name.
    pub id: SegmentId,
    /// What lies before the first record that may stand here.
    pub before: Mark,
    /// Bound into the checksum of each record.
    pub salt: u64,
    /// Of the log as a whole.
    pub log_id: [u8; 16],
    /// When it was taken into use, ms since 1970.
    pub created_ms: i64,
    /// Bytes of the file as it was allocated.
    pub len: u64,
}

impl SegmentHeader {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0u8; SEGMENT_HEADER_LEN];
        put(&mut bytes, 0, *MAGIC);
        put(&mut bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 16, self.id.0.to_le_bytes());
        put(&mut bytes, 24, self.before.position.next().0.to_le_bytes());
        put(&mut bytes, 32, self.before.total.to_le_bytes());
        put(&mut bytes, 40, self.salt.to_le_bytes());
        put(&mut bytes, 48, self.log_id);
        put(&mut bytes, 64, self.created_ms.to_le_bytes());
        put(&mut bytes, 72, self.len.to_le_bytes());
        let crc = Self::checksum(&bytes);
        put(&mut bytes, 12, crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`BadSegment`]: what is there instead.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<SegmentHeader, BadSegment> {
        if &take::<8>(bytes, 0) != MAGIC {
            return Err(BadSegment::Foreign);
        }
        let version = u32::from_le_bytes(take(bytes, 8));
        if version != FORMAT_VERSION {
            return Err(BadSegment::Version { version });
        }
        if u32::from_le_bytes(take(bytes, 12)) != Self::checksum(bytes) {
            return Err(BadSegment::HeaderDamaged);
        }
        Ok(SegmentHeader {
            id: SegmentId(u64::from_le_bytes(take(bytes, 16))),
            before: Mark {
                position: Position(u64::from_le_bytes(take(bytes, 24))).previous(),
                total: u64::from_le_bytes(take(bytes, 32)),
            },
            salt: u64::from_le_bytes(take(bytes, 40)),
            log_id: take(bytes, 48),
            created_ms: i64::from_le_bytes(take(bytes, 64)),
            len: u64::from_le_bytes(take(bytes, 72)),
        })
    }

    fn checksum(bytes: &[u8; SEGMENT_HEADER_LEN]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

/// Why a file cannot be read as a segment of this log.
#[derive(Debug, thiserror::Error)]
pub enum BadSegment {
    /// Reading or mapping it failed. It may work in a moment.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// Not a file, too short for a header, or the magic is another.
    #[error("is not a segment of promrelay")]
    Foreign,
    /// Written by a later version of promrelay.
    #[error("has format {version}; this program reads format {FORMAT_VERSION}")]
    Version {
        /// The number in the file.
        version: u32,
    },
    /// The header and its copy are damaged.
    #[error("has a damaged header, and the copy of it is damaged too")]
    HeaderDamaged,
    /// Of another log than the other segments.
    #[error("is of another log")]
    OtherLog,
    /// Another file is the same segment.
    #[error("is a second copy of segment {id}")]
    Duplicate {
        /// What the header says.
        id: SegmentId,
    },
}

impl BadSegment {
    /// Whether it can ever be read by this program: now, or after somebody mended something.
    #[must_use]
    pub fn may_come_back(&self) -> bool {
        matches!(self, BadSegment::Io(_))
    }

    /// Whether there may be records of this log in it that nobody can read now.
    #[must_use]
    pub fn may_hold_records(&self) -> bool {
        matches!(self, BadSegment::Io(_) | BadSegment::Version { .. } | BadSegment::HeaderDamaged | BadSegment::Foreign)
    }
}

/// What a sealed segment holds, without scanning it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The last record, and the running total with it.
    pub last: Mark,
    /// Offset behind the last record.
    pub data_end: u64,
    /// Readable records.
    pub records: u64,
    /// Timestamps of all samples.
    pub times: TimeRange,
    /// Receive times of the first and the last record, ms.
    pub received_ms: (i64, i64),
}

impl Seal {
    /// Of a segment without records.
    #[must_use]
    pub fn empty(before: Mark) -> Seal {
        Seal { last: before, data_end: DATA_START, records: 0, times: TimeRange::EMPTY, received_ms: (0, 0) }
    }

    /// The bytes on disk at `seat`.
    #[must_use]
    pub fn encode(&self, seat: &Seat) -> [u8; SEAL_LEN as usize] {
        let mut body = [0u8; SEAL_BODY_LEN];
        put(&mut body, 0, self.data_end.to_le_bytes());
        put(&mut body, 8, self.records.to_le_bytes());
        put(&mut body, 16, self.received_ms.0.to_le_bytes());
        let header = Header {
            kind: Kind::Seal,
            flags: 0,
            position: self.last.position,
            total: self.last.total,
            body_len: SEAL_BODY_LEN as u32,
            meta_len: 0,
            body_crc: record::payload_crc(&[], &body),
            received_ms: self.received_ms.1,
            counts: Counts::default(),
            times: self.times,
            unacknowledged: 0,
            decoded_len: 0,
        };
        let mut bytes = [0u8; SEAL_LEN as usize];
        bytes[..HEADER_LEN].copy_from_slice(&header.encode(seat));
        bytes[HEADER_LEN..].copy_from_slice(&body);
        bytes
    }

    /// Reads the seal at `seat`; `None` if there is no valid one.
    #[must_use]
    pub fn decode(bytes: &[u8; SEAL_LEN as usize], seat: &Seat) -> Option<Seal> {
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().expect("a seal is longer than a header");
        let header = Header::decode(header, seat)?;
        let data_end = u64::from_le_bytes(take(body, 0));
        let fits = header.kind == Kind::Seal
            && header.body_len as usize == SEAL_BODY_LEN
            && header.body_crc == record::payload_crc(&[], body)
            && (DATA_START..=seat.offset).contains(&data_end);
        fits.then(|| Seal {
            last: Mark { position: header.position, total: header.total },
            data_end,
            records: u64::from_le_bytes(take(body, 8)),
            times: header.times,
            received_ms: (i64::from_le_bytes(take(body, 16)), header.received_ms),
        })
    }

    /// Takes in the record with this header, which ends at `data_end`.
    pub fn include(&mut self, header: &Header, data_end: u64) {
        self.last = Mark { position: header.position, total: header.total };
        self.data_end = data_end;
        self.times.merge(header.times);
        if self.records == 0 {
            self.received_ms.0 = header.received_ms;
        }
        self.received_ms.1 = header.received_ms;
        self.records += 1;
    }
}

/// What a search for the next record came to.
#[derive(Debug, Default)]
pub struct Search {
    /// The record's offset and header.
    pub found: Option<(u64, Header)>,
    /// Some bytes on the way could not be read: they may hold records.
    pub unreadable: Option<io::Error>,
}

/// A file that is allocated but not yet part of the log.
#[derive(Debug)]
pub struct Prepared {
    file: File,
    path: PathBuf,
    len: u64,
    charge: Charge,
}

impl Prepared {
    /// Creates and really allocates a file of `len` bytes: afterwards appending cannot run into a full disk (except on
    /// filesystems that promise nothing, where the sync tells).
    ///
    /// # Errors
    /// What the system says, `StorageFull` above all. The file is removed again.
    pub fn create(path: PathBuf, len: u64, usage: &DiskUsage) -> io::Result<Prepared> {
        let file = File::create(&path)?;
        let charge = usage.charge(len);
        if let Err(error) = file.allocate(len) {
            let _ = disk::remove(&path);
            return Err(error);
        }
        Ok(Prepared { file, path, len, charge })
    }

    /// Writes zeroes over the whole file and syncs them: what is written there later needs no note in the filesystem's journal.
    ///
    /// # Errors
    /// What the system says. The file must not be used then: a sync of it has failed.
    pub fn fill(&self) -> io::Result<()> {
        self.file.fill_with_zeroes(0..self.len)?;
        self.file.sync_data()
    }

    /// Deletes the file: it is of no use.
    pub fn remove(self) {
        let _ = disk::remove(&self.path);
    }

    /// For measuring what a write costs here.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file the segment `header.id`: writes the header and its copy, syncs the file, gives it its name. The caller syncs the
    /// directory before anything in the segment is acknowledged.
    ///
    /// # Errors
    /// What the system says; the file is removed.
    pub fn take_into_use(self, header: SegmentHeader, path: PathBuf) -> io::Result<Segment> {
        assert_eq!(header.len, self.len, "a segment's header states the length that was allocated");
        let Prepared { file, path: temporary, charge, .. } = self;
        let bytes = header.encode();
        let prepared = file
            .write_all_at(&bytes, 0)
            .and_then(|()| file.write_all_at(&bytes, COPY_START))
            .and_then(|()| file.sync_data())
            .and_then(|()| disk::rename(&temporary, &path));
        let segment = prepared.and_then(|()| Segment::map(file, path.clone(), header, charge));
        segment.inspect_err(|_| {
            // What nobody counts must not stay on disk.
            let _ = disk::remove(&temporary);
            let _ = disk::remove(&path);
        })
    }
}

/// A segment of the log. Shared between the writer and all readers; the file is closed and unmapped with the last of them.
#[derive(Debug)]
pub struct Segment {
    header: SegmentHeader,
    path: PathBuf,
    /// Only while it may be written: a backlog of many segments must not use up the process' file descriptors.
    file: Mutex<Option<Arc<File>>>,
    map: MmapRaw,
    closed: OnceLock<Seal>,
    sealed: AtomicBool,
    is_header_damaged: bool,
    /// Bytes that are there; less than the header states when somebody has cut the file, which has no seal then.
    present: u64,
    charge: Charge,
}

impl Segment {
    fn map(file: File, path: PathBuf, header: SegmentHeader, charge: Charge) -> io::Result<Segment> {
        let map = file.map()?;
        Ok(Segment {
            header,
            path,
            file: Mutex::new(Some(Arc::new(file))),
            map,
            closed: OnceLock::new(),
            sealed: AtomicBool::new(false),
            is_header_damaged: false,
            present: header.len,
            charge,
        })
    }

    /// Opens an existing file. The number of the segment is what its header says, whatever the file is called.
    ///
    /// # Errors
    /// [`BadSegment`]; the file is not touched.
    pub fn open(path: PathBuf, usage: &DiskUsage) -> Result<Segment, BadSegment> {
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(BadSegment::Foreign);
        }
        // Read-only files are read all the same; they only cannot be sealed.
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(BadSegment::Foreign);
        }
        if metadata.len() == 0 {
            return Err(BadSegment::Empty);
        }
        if metadata.len() < DATA_START + SEAL_LEN {
            return Err(BadSegment::Foreign);
        }
        let header = |offset: u64| {
            let mut bytes = [0u8; SEGMENT_HEADER_LEN];
            file.read_exact_at(&mut bytes, offset)?;
            SegmentHeader::decode(&bytes)
        };
        let (header, is_header_damaged) = match header(0) {
            Ok(header) => (header, false),
            Err(error) => {
                let is_damaged = !matches!(error, BadSegment::Io(_));
                (header(COPY_START).map_err(|_| error)?, is_damaged)
            }
        };
        let present = header.len.min(metadata.len());
        let segment = Segment::map(file, path, header, usage.charge(metadata.blocks() * 512))?;
        Ok(Segment { is_header_damaged, present, ..segment })
    }

    /// The header was damaged when the file was opened; its copy was whole.
    #[must_use]
    pub fn is_header_damaged(&self) -> bool {
        self.is_header_damaged
    }

    /// What the first page says.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The number of the segment.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.header.id
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the file takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Where records must end at the latest.
    #[must_use]
    pub fn data_end_max(&self) -> u64 {
        if self.is_whole() {
            return self.present.saturating_sub(SEAL_LEN) / record::ALIGN * record::ALIGN;
        }
        // The zeroes behind the last record are worth nothing.
        self.present
    }

    fn is_whole(&self) -> bool {
        self.present == self.header.len
    }

    fn seal_offset(&self) -> u64 {
        self.header.len - SEAL_LEN
    }

    fn seat(&self, offset: u64) -> Seat {
        Seat { salt: self.header.salt, segment: self.header.id, offset }
    }

    // === writing: the writer's thread only ===

    /// The bytes of a record's header at `offset` of this segment.
    #[must_use]
    pub fn encode(&self, header: &Header, offset: u64) -> [u8; HEADER_LEN] {
        header.encode(&self.seat(offset))
    }

    /// Writes all of `parts` from `offset` on.
    ///
    /// # Errors
    /// What the system says; any part of it may have been written.
    pub fn write(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.file()?.write_at(offset, parts)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says. **Never call it again after an error**: see [`File::sync_data`].
    pub fn sync(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    /// Tells readers that nothing will follow: what lies at or beyond the seal's `data_end` does not exist.
    pub fn close(&self, seal: Seal) {
        self.closed.set(seal).expect("a segment is closed once");
    }

    /// From now on it is not written any more.
    pub fn release_file(&self) {
        self.file.lock().expect("no holder of this lock panics").take();
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let open = self.file.lock().expect("no holder of this lock panics").clone();
        open.map_or_else(|| File::open(&self.path).map(Arc::new), Ok)
    }

    /// After a failed write or sync: takes what was not acknowledged out of the way, as far as the disk allows, so that it does
    /// not come up again, and gives its space back.
    pub fn abandon(&self, data_end: u64) {
        let _ = self.write(data_end, &mut [IoSlice::new(&[0; HEADER_LEN])]);
        self.give_back(data_end..self.data_end_max());
    }

    /// Makes a hole of the whole pages in a range. A filesystem without holes keeps the bytes; they are counted as they are.
    fn give_back(&self, range: Range<u64>) {
        let hole = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        let Ok(file) = self.file() else { return };
        if hole.start < hole.end {
            let _ = file.punch(hole);
        }
        if let Ok(metadata) = file.metadata() {
            self.charge.change_to(metadata.blocks() * 512);
        }
    }

    /// Writes the seal and gives the unused bytes before it back to the filesystem. A file that somebody has cut has no place for it, and
    /// is scanned at each start.
    ///
    /// # Errors
    /// What the system says. The segment is as good as before: without a seal the next start scans it.
    pub fn seal(&self, seal: &Seal) -> io::Result<()> {
        if !self.is_whole() {
            return Ok(());
        }
        assert!(seal.data_end <= self.data_end_max(), "records end before the seal");
        let offset = self.seal_offset();
        let file = self.file()?;
        file.write_all_at(&seal.encode(&self.seat(offset)), offset)?;
        file.sync_data()?;
        self.sealed.store(true, Ordering::Relaxed);
        self.give_back(seal.data_end..self.data_end_max());
        Ok(())
    }

    // === reading ===

    /// Set when no record will follow.
    #[must_use]
    pub fn closed(&self) -> Option<&Seal> {
        self.closed.get()
    }

    /// Whether a valid seal stands at the end of the file.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Reads the seal, if there is a valid one.
    ///
    /// # Errors
    /// The bytes cannot be read *now*.
    pub fn read_seal(&self) -> io::Result<Option<Seal>> {
        if !self.is_whole() {
            return Ok(None);
        }
        let offset = self.seal_offset();
        let mut bytes = [0u8; SEAL_LEN as usize];
        // Not out of the mapping: the system would read megabytes around it, for each segment of a large log.
        self.file()?.read_exact_at(&mut bytes, offset)?;
        let seal = Seal::decode(&bytes, &self.seat(offset)).filter(|seal| seal.data_end <= self.data_end_max());
        self.sealed.store(seal.is_some(), Ordering::Relaxed);
        Ok(seal)
    }

    /// The header of the record at `offset`, if there is a valid one whose record ends at or before `end`.
    ///
    /// # Errors
    /// The bytes cannot be read *now*: that says nothing about what they are.
    pub fn read_header(&self, offset: u64, end: u64) -> io::Result<Option<Header>> {
        if offset.saturating_add(HEADER_LEN as u64) > end {
            return Ok(None);
        }
        let mut bytes = [0u8; HEADER_LEN];
        self.copy(offset, &mut bytes)?;
        let header = Header::decode(&bytes, &self.seat(offset));
        let ends_at = |header: &Header| offset + HEADER_LEN as u64 + header.payload_len();
        Ok(header.filter(|header| header.kind != Kind::Seal && ends_at(header) <= end))
    }

    /// The point before the first record before `end` that is wanted, and where it lies. Reads headers only; stops at what cannot be read.
    #[must_use]
    pub fn first_record(&self, end: u64, is_wanted: impl Fn(&Header) -> bool) -> Option<(Mark, Place)> {
        let mut offset = DATA_START;
        let mut last = self.header.before.position;
        loop {
            let (at, header) = match self.read_header(offset, end) {
                Ok(Some(header)) if header.position > last => (offset, header),
                _ => self.find_header(offset, end, last).found?,
            };
            if is_wanted(&header) {
                let mark = Mark { position: header.position.previous(), total: header.total_before() };
                return Some((mark, Place { segment: self.id(), offset: at }));
            }
            last = header.position;
            offset = at + header.stored_len();
        }
    }

    /// Looks for a valid record header at or after `offset`, with a position above `after`.
    #[must_use]
    pub fn find_header(&self, offset: u64, end: u64, after: Position) -> Search {
        let mut search = Search::default();
        let mut page = [0u8; PAGE as usize];
        let mut offset = offset.next_multiple_of(record::ALIGN);
        while offset + HEADER_LEN as u64 <= end {
            let page_end = (offset / PAGE + 1) * PAGE;
            let window = &mut page[..usize::try_from(page_end.min(end) - offset).expect("at most a page")];
            if let Err(error) = self.copy(offset, window) {
                search.unreadable = Some(error);
            } else {
                for at in (0..window.len().saturating_sub(3)).step_by(record::ALIGN as usize) {
                    if window[at..at + 4] != record::MAGIC {
                        continue;
                    }
                    let found = offset + at as u64;
                    match self.read_header(found, end) {
                        Ok(Some(header)) if header.position > after => {
                            search.found = Some((found, header));
                            return search;
                        }
                        Ok(_) => {}
                        Err(error) => search.unreadable = Some(error),
                    }
                }
            }
            offset = page_end;
        }
        search
    }

    /// Copies bytes out of the mapping.
    ///
    /// # Errors
    /// The pages cannot be read: damaged medium, or a file that somebody cut. No signal is raised.
    pub fn copy(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let len = to.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.map.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match disk::populate(&self.map, &self.path, start, to.len()) {
            Ok(()) => {}
            // A kernel that does not know it; or pages that cannot be had by way of a mapping: reading them tells why, and can read a
            // hole where a full tmpfs has no page for it.
            Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EFAULT)) => {
                return self.file()?.read_exact_at(to, offset);
            }
            Err(error) => return Err(error),
        }
        #[allow(unsafe_code)]
        // SAFETY: the range lies within the mapping (checked above), which lives as long as `self`, and its pages have just been
        // populated. `to` is our caller's own memory and cannot overlap a mapping of ours. No reference into the mapping is made:
        // bytes that the kernel changes meanwhile (the writer works above the readable position) are merely copied as raw memory, and
        // whatever is copied is believed only after its checksum matched.
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(start), to.as_mut_ptr(), to.len());
        }
        Ok(())
    }
}
