//! The ring's file: its header, how it is made, and what is found in one.
//!
//! ```text
//! header, 64 bytes at 0 and again at 4096, little-endian
//!   0 [8] magic "PRWDEAD\n"     8 u32 version, 1     12 u32 CRC32C over the 64 bytes without these four
//!  16 u64 length of the file   24 u64 salt: random, part of the checksums of entries
//!  32 u64 used: no entry was ever written at or behind this offset
//!  40 u64 the least id of a new entry                48 zero up to 64
//! ```
//!
//! Of the two copies the valid one with the higher *used* counts. It is raised ahead, in steps, by writing the copy that does not count;
//! the sync of the entries behind it makes it durable. So a ring that was hardly used is opened without reading all of it. If
//! only one copy is valid, the other may have said more: then everything is looked at.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::{self, ALIGN, HEADER_LEN, Header, REMOVED_OFFSET, Seat, put, take};
use crate::wal::disk::{self, File};

/// Least bytes of a ring.
pub const BYTES_MIN: u64 = 64 << 10;

pub(super) const PAGE: u64 = 4096;
pub(super) const AREA_START: u64 = 2 * PAGE;
const MAGIC: &[u8; 8] = b"PRWDEAD\n";
const VERSION: u32 = 1;
const FILE_HEADER_LEN: usize = 64;
/// How much is read at a time where no entry is: between the least and the most.
const WINDOW_MIN: u64 = PAGE;
const WINDOW_MAX: u64 = 256 << 10;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub bytes: u64,
    pub salt: u64,
    pub used: u64,
    pub first_id: u64,
}

impl FileHeader {
    fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut bytes = [0; FILE_HEADER_LEN];
        put(&mut bytes, 0, *MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        for (number, offset) in [self.bytes, self.salt, self.used, self.first_id].into_iter().zip((16..).step_by(8)) {
            put(&mut bytes, offset, number.to_le_bytes());
        }
        let crc = file_checksum(&bytes);
        put(&mut bytes, 12, crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; FILE_HEADER_LEN]) -> Option<FileHeader> {
        let is_valid = take::<8>(bytes, 0) == *MAGIC
            && u32::from_le_bytes(take(bytes, 8)) == VERSION
            && u32::from_le_bytes(take(bytes, 12)) == file_checksum(bytes);
        let [bytes, salt, used, first_id] = std::array::from_fn(|n| u64::from_le_bytes(take(bytes, 16 + 8 * n)));
        (is_valid && bytes >= BYTES_MIN).then_some(FileHeader { bytes, salt, used, first_id })
    }
}

fn file_checksum(bytes: &[u8; FILE_HEADER_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// Whole pages of what was asked for.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.max(BYTES_MIN) / PAGE * PAGE
}

/// An open file with its header.
#[derive(Debug)]
pub(super) struct RingFile {
    pub file: File,
    pub path: PathBuf,
    pub header: FileHeader,
    /// The copy of the header that counts: the other one is written next.
    copy: u64,
    /// The other copy is valid as well.
    is_whole: bool,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// There is none.
    NotThere,
    /// It is no ring, or nothing can be made of it.
    Damaged(String),
    /// It cannot be read now.
    Io(io::Error),
}

impl RingFile {
    pub(super) fn open(path: &Path) -> Result<RingFile, Unusable> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unusable::NotThere),
            Err(error) => return Err(Unusable::Io(error)),
        };
        if !file.metadata().map_err(Unusable::Io)?.is_file() {
            return Err(Unusable::Damaged("it is not a file".to_owned()));
        }
        let mut copies = [None; 2];
        for (copy, offset) in copies.iter_mut().zip([0, PAGE]) {
            let mut bytes = [0; FILE_HEADER_LEN];
            match file.read_exact_at(&mut bytes, offset) {
                Ok(()) => *copy = FileHeader::decode(&bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                // It may be the one that counts.
                Err(error) => return Err(Unusable::Io(error)),
            }
        }
        let (copy, header) = match copies {
            [Some(first), Some(second)] if first.salt != second.salt => {
                return Err(Unusable::Damaged("its headers are of two rings".to_owned()));
            }
            [Some(first), Some(second)] if first.used >= second.used => (0, first),
            [_, Some(second)] => (1, second),
            [Some(first), None] => (0, first),
            [None, None] => return Err(Unusable::Damaged("it has no valid header".to_owned())),
        };
        let is_whole = copies.iter().all(Option::is_some);
        Ok(RingFile { file, path: path.to_owned(), header, copy, is_whole })
    }

    /// A new ring under the name of `path`, or still under another: see [`RingFile::take_name`].
    pub(super) fn create(path: &Path, bytes: u64, first_id: u64) -> io::Result<RingFile> {
        let temporary = path.with_extension("dl.tmp");
        let header = FileHeader { bytes, salt: random(), used: AREA_START, first_id };
        let created = File::create(&temporary).and_then(|file| {
            file.allocate(bytes)?;
            for offset in [0, PAGE] {
                file.write_all_at(&header.encode(), offset)?;
            }
            Ok(RingFile { file, path: path.to_owned(), header, copy: 0, is_whole: true })
        });
        created.inspect_err(|_| {
            let _ = disk::remove(&temporary);
        })
    }

    /// Makes a created file durable, and puts it in the place of what is there; the name is durable after [`RingFile::sync_name`].
    pub(super) fn take_name(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("dl.tmp");
        let named = self.file.sync_all().and_then(|()| disk::rename(&temporary, &self.path));
        named.inspect_err(|_| {
            let _ = disk::remove(&temporary);
        })
    }

    pub(super) fn sync_name(&self) -> io::Result<()> {
        disk::sync_directory(self.path.parent().unwrap_or(Path::new(".")))
    }

    /// Another handle to the same ring: after a sync that failed, this one must not be used again.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match RingFile::open(&self.path) {
            Ok(opened) if opened.header.salt == self.header.salt => {
                // What counts of the header is what was synced, not what may be in memory.
                self.file = opened.file;
                Ok(())
            }
            Ok(_) | Err(Unusable::NotThere) => Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced")),
            Err(Unusable::Damaged(reason)) => Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
            Err(Unusable::Io(error)) => Err(error),
        }
    }

    /// Whether the file can be written, tried where nothing is lost: on the copy of the header that does not count.
    pub(super) fn try_out(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.header.encode(), (1 - self.copy) * PAGE)?;
        self.file.sync_data()?;
        self.is_synced(Some(self.header));
        Ok(())
    }

    /// Writes what counts of the header as it stands, for the next sync.
    pub(super) fn write_header_again(&self) -> io::Result<()> {
        self.file.write_all_at(&self.header.encode(), self.copy * PAGE)
    }

    /// Where entries may be.
    pub(super) fn area(&self) -> Range<u64> {
        AREA_START..self.header.bytes
    }

    /// An entry that would take more is kept without its body.
    pub(super) fn entry_max(&self) -> u64 {
        entry_max(self.header.bytes)
    }

    /// Writes the other copy of the header, if need be, so that entries up to `end` are found. What counts is told with
    /// [`RingFile::is_synced`].
    pub(super) fn raise(&self, end: u64) -> io::Result<Option<FileHeader>> {
        if end <= self.header.used {
            return Ok(None);
        }
        let step = ((self.header.bytes - AREA_START) / 16).next_multiple_of(PAGE);
        let raised = AREA_START + (end - AREA_START).next_multiple_of(step);
        let header = FileHeader { used: raised.min(self.header.bytes), ..self.header };
        self.file.write_all_at(&header.encode(), (1 - self.copy) * PAGE)?;
        Ok(Some(header))
    }

    /// For a file that nobody uses yet: entries up to `end` are found.
    pub(super) fn use_up_to(&mut self, end: u64) -> io::Result<()> {
        if let Some(header) = self.raise(end)? {
            self.file.write_all_at(&header.encode(), self.copy * PAGE)?;
            self.header = header;
        }
        Ok(())
    }

    /// The header that was written is durable.
    pub(super) fn is_synced(&mut self, raised: Option<FileHeader>) {
        if let Some(header) = raised {
            (self.header, self.copy, self.is_whole) = (header, 1 - self.copy, true);
        }
    }

    pub(super) fn write_removed(&self, offset: u64, id: u64) -> io::Result<()> {
        let mark = entry::removed_mark(self.header.salt, offset, id);
        self.file.write_all_at(&mark, offset + REMOVED_OFFSET)
    }

    /// Finds all entries. What cannot be read is passed over, and said.
    pub(super) fn scan(&self) -> Scan {
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        let end = self.header.bytes.min(len);
        let end = if self.is_whole { end.min(self.header.used) } else { end };
        let mut window = Window { file: &self.file, start: 0, bytes: Vec::new(), end };
        let mut scan = Scan::default();
        let (mut offset, mut link, mut read_len) = (AREA_START, 0, WINDOW_MIN);
        while offset + HEADER_LEN as u64 <= end {
            let bytes = match window.at(offset, read_len) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let next = (offset / PAGE + 1) * PAGE;
                    scan.unreadable_bytes += next - offset;
                    scan.unreadable = Some(error);
                    (offset, link) = (next, 0);
                    continue;
                }
            };
            let decode = |link| {
                let header = Header::decode(bytes, Seat { salt: self.header.salt, offset, link })?;
                (offset + header.stored_len() <= end).then_some((link, header))
            };
            let Some((own_link, header)) = decode(link).or_else(|| decode(0)) else {
                (offset, link, read_len) = (offset + ALIGN, 0, (2 * read_len).min(WINDOW_MAX));
                continue;
            };
            let mark = entry::removed_mark(self.header.salt, offset, header.id);
            let is_removed = take::<8>(bytes, REMOVED_OFFSET as usize) == mark;
            link = entry::link(bytes);
            let len = header.stored_len();
            scan.found.push(Found { offset, link: own_link, is_removed, header });
            (offset, read_len) = (offset + len, WINDOW_MIN);
        }
        scan
    }

    /// Reads an entry's header, again, and its fields and body if asked for: `None` if they are not what was written.
    pub(super) fn read(&self, offset: u64, header: &Header, with_body: bool) -> io::Result<Option<entry::Entry>> {
        let fields_len = header.fields_len as usize;
        let body_len = if with_body { header.body_len as usize } else { 0 };
        let mut bytes = vec![0; fields_len + body_len];
        match self.file.read_exact_at(&mut bytes, offset + HEADER_LEN as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let body = bytes.split_off(fields_len);
        if with_body && crc32c::crc32c(&body) != header.body_crc {
            return Ok(None);
        }
        Ok(header.entry(&bytes, body.into()))
    }

    /// Reads an entry's header.
    pub(super) fn read_header(&self, offset: u64) -> io::Result<[u8; HEADER_LEN]> {
        let mut bytes = [0; HEADER_LEN];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

pub(super) fn entry_max(bytes: u64) -> u64 {
    (bytes - AREA_START) / 4 / ALIGN * ALIGN
}

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// By offset.
    pub found: Vec<Found>,
    /// Some pages could not be read: there may be more.
    pub unreadable: Option<io::Error>,
    /// How much of it.
    pub unreadable_bytes: u64,
}

/// An entry as far as its header goes.
#[derive(Debug)]
pub(super) struct Found {
    pub offset: u64,
    /// To the entry before it.
    pub link: u64,
    pub is_removed: bool,
    pub header: Header,
}

impl Scan {
    /// The entries of the last append: what a crash may have torn. By their place in `found`.
    pub(super) fn last_append(&self) -> Vec<usize> {
        let Some(newest) = self.found.iter().map(|found| &found.header).max_by_key(|header| header.id) else {
            return Vec::new();
        };
        let ids = newest.id.saturating_sub(u64::from(newest.place))..=newest.id;
        (0..self.found.len()).filter(|number| ids.contains(&self.found[*number].header.id)).collect()
    }

    /// Of two entries with the same id (which only a forger could have made) the first counts. One name for each target in memory.
    pub(super) fn tidy(&mut self) {
        let mut ids = BTreeSet::new();
        self.found.retain(|found| ids.insert(found.header.id));
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for found in &mut self.found {
            let name = &mut found.header.target;
            match names.get(name) {
                Some(known) => *name = known.clone(),
                None => _ = names.insert(name.clone()),
            }
        }
    }
}

/// A part of the file in memory.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl Window<'_> {
    /// A header's worth of bytes at an offset; reads `read_len` bytes if it must. An error if that page cannot be read.
    fn at(&mut self, offset: u64, read_len: u64) -> io::Result<&[u8; HEADER_LEN]> {
        let is_in = |window: &Window<'_>| {
            offset >= window.start && offset + HEADER_LEN as u64 <= window.start + window.bytes.len() as u64
        };
        if !is_in(self) {
            let most = self.end - offset;
            // A page may be bad that nobody needs here.
            for len in [read_len.min(most), HEADER_LEN as u64] {
                self.bytes.resize(usize::try_from(len).expect("a window is small"), 0);
                self.start = offset;
                match self.file.read_exact_at(&mut self.bytes, offset) {
                    Ok(()) => break,
                    Err(error) => {
                        self.bytes.clear();
                        if len == HEADER_LEN as u64 {
                            return Err(error);
                        }
                    }
                }
            }
        }
        let from = usize::try_from(offset - self.start).expect("a window is small");
        Ok(self.bytes[from..].first_chunk().expect("a header's worth was read"))
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u64::from_le_bytes(bytes)
}
