//! One log file: written with `pwritev` and `fdatasync`, read by copying out of a read-only mapping of the same file.
//!
//! ```text
//! 0         4096                                    data end              len-192        len
//! | header  | record | record | ...        | record | unused (or a hole)  | seal         |
//! ```
//!
//! The header says which positions begin here; the seal, always the last 192 bytes of the file, says where they end. So what a
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
//! segment header, little-endian, alone in the first 4 KiB
//!   0 [8] magic "PRWSEG\r\n"   8 u32 format version, 1   12 u32 checksum: CRC32C over bytes 0..12 and 16..96
//!  16 u64 segment id          24 u64 first position      32 u64 running total before it
//!  40 u64 salt: random, for the checksums of the records  48 [16] log id: random, the same in all segments of a log
//!  64 i64 created, ms         72 u64 length of the file
//! seal: a record header of type 3 (position and total: of the last record; receive time: of the last record; timestamps: of
//!       all records) and 64 bytes: u64 data end, u64 records, i64 receive time of the first record, zeroes
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

use super::position::{Mark, Position, SegmentId};
use super::record::{self, Counts, HEADER_LEN, Header, Kind, Seat, TimeRange, put, take};

/// Where the first record of a segment starts.
pub const DATA_START: u64 = 4096;
/// Bytes of a seal.
pub const SEAL_LEN: u64 = HEADER_LEN as u64 + SEAL_BODY_LEN as u64;
/// The format that this program writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

const SEAL_BODY_LEN: usize = 64;
const MAGIC: &[u8; 8] = b"PRWSEG\r\n";
const SEGMENT_HEADER_LEN: usize = 96;
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
    fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
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

    fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<SegmentHeader, BadSegment> {
        if &take::<8>(bytes, 0) != MAGIC {
            return Err(BadSegment::Foreign);
        }
        let version = u32::from_le_bytes(take(bytes, 8));
        if version != FORMAT_VERSION {
            return Err(BadSegment::Version { version });
        }
        if u32::from_le_bytes(take(bytes, 12)) != Self::checksum(bytes) {
            return Err(BadSegment::HeaderChecksum);
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

/// Why a file cannot be read as a segment. It is left where it is, and the log goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum BadSegment {
    /// Reading or mapping it failed.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// Too short for a header, or the magic is another.
    #[error("is not a segment of promrelay")]
    Foreign,
    /// Written by a later version of promrelay.
    #[error("has format {version}; this program reads format {FORMAT_VERSION}")]
    Version {
        /// The number in the file.
        version: u32,
    },
    /// The first page is damaged.
    #[error("has a damaged header")]
    HeaderChecksum,
    /// Of another log than the other segments.
    #[error("is of another log")]
    OtherLog,
    /// Renamed or swapped with another.
    #[error("has the name of another segment: its header says {actual}")]
    Misnamed {
        /// What the header says.
        actual: SegmentId,
    },
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

/// How a segment is closed for readers: what lies at or beyond `end` does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The last record, and the running total with it.
    pub last: Mark,
    /// Offset behind it.
    pub end: u64,
}

/// What a search for the next record came to.
#[derive(Debug, Default)]
pub struct Search {
    /// The record's offset and header.
    pub found: Option<(u64, Header)>,
    /// Some bytes on the way could not be read: they may hold records.
    pub unreadable: Option<io::Error>,
}

/// Bytes on disk that belong to the log, counted until the last user of a deleted file is gone.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage(Arc<AtomicU64>);

impl DiskUsage {
    /// Bytes now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn charge(&self, bytes: u64) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { usage: self.clone(), bytes: AtomicU64::new(bytes) }
    }
}

/// A file's share of the [`DiskUsage`]; given back when dropped.
#[derive(Debug)]
struct Charge {
    usage: DiskUsage,
    bytes: AtomicU64,
}

impl Charge {
    fn change_to(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.usage.0.fetch_add(bytes, Ordering::Relaxed);
        self.usage.0.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.usage.0.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
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
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let charge = usage.charge(len);
        let allocated = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => fill_with_zeroes(&file, len),
            other => other.map_err(io::Error::from),
        };
        if let Err(error) = allocated {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Prepared { file, path, len, charge })
    }

    /// Makes the file the segment `header.id`: writes the header, syncs the file, gives it its name. The caller syncs the
    /// directory before anything in the segment is acknowledged.
    ///
    /// # Errors
    /// What the system says; the file is removed.
    pub fn take_into_use(self, header: SegmentHeader, path: PathBuf) -> io::Result<Segment> {
        assert_eq!(header.len, self.len, "a segment's header states the length that was allocated");
        let Prepared { file, path: temporary, charge, .. } = self;
        let prepared = file
            .write_all_at(&header.encode(), 0)
            .and_then(|()| Ok(rustix::fs::fdatasync(&file)?))
            .and_then(|()| fs::rename(&temporary, &path));
        let segment = prepared.and_then(|()| Segment::map(file, path.clone(), header, charge));
        segment.inspect_err(|_| {
            // What nobody counts must not stay on disk.
            let _ = fs::remove_file(&temporary);
            let _ = fs::remove_file(&path);
        })
    }
}

/// Where the filesystem cannot allocate, writing zeroes does the same, slowly.
fn fill_with_zeroes(file: &File, len: u64) -> io::Result<()> {
    let zeroes = vec![0u8; 1 << 20];
    let mut offset = 0;
    while offset < len {
        let n = zeroes.len().min(usize::try_from(len - offset).unwrap_or(usize::MAX));
        file.write_all_at(&zeroes[..n], offset)?;
        offset += n as u64;
    }
    Ok(())
}

/// A segment of the log. Shared between the writer and all readers; the file is closed and unmapped with the last of them.
#[derive(Debug)]
pub struct Segment {
    header: SegmentHeader,
    path: PathBuf,
    /// Only while it may be written: a backlog of many segments must not use up the process' file descriptors.
    file: Mutex<Option<Arc<File>>>,
    map: MmapRaw,
    closed: OnceLock<Closed>,
    sealed: AtomicBool,
    charge: Charge,
}

impl Segment {
    fn map(file: File, path: PathBuf, header: SegmentHeader, charge: Charge) -> io::Result<Segment> {
        let map = MmapOptions::new().map_raw_read_only(&file)?;
        let file = Mutex::new(Some(Arc::new(file)));
        Ok(Segment { header, path, file, map, closed: OnceLock::new(), sealed: AtomicBool::new(false), charge })
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// [`BadSegment`]; the file is not touched.
    pub fn open(path: PathBuf, id: SegmentId, usage: &DiskUsage) -> Result<Segment, BadSegment> {
        // Read-only files are read all the same; they only cannot be sealed.
        let file = OpenOptions::new().read(true).write(true).open(&path).or_else(|_| File::open(&path))?;
        let metadata = file.metadata()?;
        if metadata.len() < DATA_START + SEAL_LEN {
            return Err(BadSegment::Foreign);
        }
        let mut bytes = [0u8; SEGMENT_HEADER_LEN];
        file.read_exact_at(&mut bytes, 0)?;
        let mut header = SegmentHeader::decode(&bytes)?;
        if header.id != id {
            return Err(BadSegment::Misnamed { actual: header.id });
        }
        // Somebody may have cut the file: what counts is what is there.
        header.len = metadata.len();
        Ok(Segment::map(file, path, header, usage.charge(metadata.blocks() * 512))?)
    }

    /// What the first page says; `len` is the file's.
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
        self.charge.bytes.load(Ordering::Relaxed)
    }

    /// Where records must end so that a seal still fits.
    #[must_use]
    pub fn data_end_max(&self) -> u64 {
        self.header.len.saturating_sub(SEAL_LEN) / record::ALIGN * record::ALIGN
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
        /// The kernel takes no more parts at a time.
        const IOV_MAX: usize = 1024;
        let file = self.file()?;
        let mut parts = parts;
        let mut offset = offset;
        while !parts.is_empty() {
            let now = parts.len().min(IOV_MAX);
            match rustix::io::pwritev(&*file, &parts[..now], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says. **Never call it again after an error**: the kernel has forgotten which pages were not written,
    /// a second call succeeds and the data is gone.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&*self.file()?)?)
    }

    /// Tells readers that nothing will follow.
    pub fn close(&self, closed: Closed) {
        self.closed.set(closed).expect("a segment is closed once");
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
        self.give_back(data_end..self.header.len);
    }

    /// Makes a hole of the whole pages in a range. A filesystem without holes keeps the bytes; they are counted as they are.
    fn give_back(&self, range: Range<u64>) {
        let hole = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        let Ok(file) = self.file() else { return };
        if hole.start < hole.end {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&*file, punch, hole.start, hole.end - hole.start);
        }
        if let Ok(metadata) = file.metadata() {
            self.charge.change_to(metadata.blocks() * 512);
        }
    }

    /// Writes the seal and gives the unused bytes before it back to the filesystem.
    ///
    /// # Errors
    /// What the system says. The segment is as good as before: without a seal the next start scans it.
    pub fn seal(&self, seal: &Seal) -> io::Result<()> {
        let offset = self.data_end_max();
        assert!(seal.data_end <= offset, "records end before the seal");
        let mut body = [0u8; SEAL_BODY_LEN];
        put(&mut body, 0, seal.data_end.to_le_bytes());
        put(&mut body, 8, seal.records.to_le_bytes());
        put(&mut body, 16, seal.received_ms.0.to_le_bytes());
        let header = Header {
            kind: Kind::Seal,
            flags: 0,
            position: seal.last.position,
            total: seal.last.total,
            body_len: SEAL_BODY_LEN as u32,
            meta_len: 0,
            body_crc: record::payload_crc(&[], &body),
            received_ms: seal.received_ms.1,
            counts: Counts::default(),
            times: seal.times,
            unacknowledged: 0,
            decoded_len: 0,
        };
        let bytes = header.encode(&self.seat(offset));
        self.write(offset, &mut [IoSlice::new(&bytes), IoSlice::new(&body)])?;
        self.sync()?;
        self.sealed.store(true, Ordering::Relaxed);
        self.give_back(seal.data_end..offset);
        Ok(())
    }

    // === reading ===

    /// Set when no record will follow.
    #[must_use]
    pub fn closed(&self) -> Option<&Closed> {
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
        let offset = self.data_end_max();
        let mut bytes = [0u8; SEAL_LEN as usize];
        self.copy(offset, &mut bytes)?;
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().expect("a seal is longer than a header");
        let Some(header) = Header::decode(header, &self.seat(offset)) else { return Ok(None) };
        let data_end = u64::from_le_bytes(take(body, 0));
        let fits = header.kind == Kind::Seal
            && header.body_len as usize == SEAL_BODY_LEN
            && header.body_crc == record::payload_crc(&[], body)
            && (DATA_START..=offset).contains(&data_end);
        if !fits {
            return Ok(None);
        }
        self.sealed.store(true, Ordering::Relaxed);
        Ok(Some(Seal {
            last: Mark { position: header.position, total: header.total },
            data_end,
            records: u64::from_le_bytes(take(body, 8)),
            times: header.times,
            received_ms: (i64::from_le_bytes(take(body, 16)), header.received_ms),
        }))
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
        Ok(header.filter(|header| header.kind != Kind::Seal && offset + header.stored_len() <= end))
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

    /// Whether there is nothing but zeroes in the first bytes where records would be.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn is_blank(&self) -> io::Result<bool> {
        let mut bytes = vec![0u8; 64 << 10];
        let room = usize::try_from(self.data_end_max().saturating_sub(DATA_START)).unwrap_or(usize::MAX);
        let bytes = &mut bytes[..room.min(64 << 10)];
        self.copy(DATA_START, bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
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
        match self.map.advise_range(Advice::PopulateRead, start, to.len()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return self.file()?.read_exact_at(to, offset),
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
