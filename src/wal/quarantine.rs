//! `quarantine/`: the bytes of what was found damaged, and files that could not be used, each with a note of why. For people:
//! nothing here is ever read again by the log.
//!
//! ```text
//! quarantine/seg-<id>-at-<offset>.bin       a copy of a damaged range; a page that cannot be read is zeroes in it
//! quarantine/<the file's name>              a file that is no segment of this log, moved
//! quarantine/<either>.json                  what, where, why, when, how many records and samples
//! ```
//!
//! What is kept here counts towards `max_bytes`. A copy is made only while there is room for it, and in a full log the oldest go
//! first: they are evidence, and the log is for data. Nothing waits for any of this, and no failure of it matters to anybody.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::disk::{self, File};
use super::findings::Finding;
use super::segment::{PAGE, Segment};
use super::sync::Mutex;
use super::usage::{Charge, DiskUsage};

/// See the module.
#[derive(Debug)]
pub(super) struct Quarantine {
    path: PathBuf,
    /// Of one filling the directory at a time; the bytes that are in it.
    charge: Mutex<Charge>,
    /// The share of the log's limit that copies may take.
    copies_max: u64,
}

impl Quarantine {
    /// The part of `max_bytes` that copies may take.
    const SHARE: u64 = 16;

    /// The quarantine in a directory, with what is in it already.
    pub(super) fn open(path: PathBuf, max_bytes: u64, usage: &DiskUsage) -> Quarantine {
        let quarantine = Quarantine { path, charge: Mutex::new(usage.charge(0)), copies_max: max_bytes / Self::SHARE };
        quarantine.recount();
        quarantine
    }

    /// Looks again what is there: people may have taken something away.
    pub(super) fn recount(&self) {
        let bytes = self.entries().iter().map(|entry| entry.bytes).sum();
        self.charge.lock().expect("no holder of this lock panics").change_to(bytes);
    }

    fn entries(&self) -> Vec<Entry> {
        let Ok(names) = disk::list(&self.path) else { return Vec::new() };
        let entry = |name: String| {
            let path = self.path.join(name);
            let metadata = std::fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?;
            Some(Entry { path, modified: (metadata.mtime(), metadata.mtime_nsec()), bytes: metadata.blocks() * 512 })
        };
        names.into_iter().filter_map(entry).collect()
    }

    /// Keeps a copy of a damaged range, if there is room: `free` bytes may be taken. The path of the copy.
    pub(super) fn keep_range(&self, segment: &Segment, finding: &Finding, free: u64) -> Option<PathBuf> {
        let (offset, bytes) = (finding.offset, finding.bytes);
        let name = format!("seg-{:020}-at-{offset}.bin", segment.id().0);
        let path = self.path.join(name);
        let is_room = bytes > 0 && bytes <= free && {
            self.recount();
            self.bytes() + bytes <= self.copies_max
        };
        if !is_room || path.exists() {
            return None;
        }
        let copied = disk::create_directory(&self.path)
            .and_then(|()| File::create(&path))
            .and_then(|file| copy_pages(segment, offset, bytes, &file))
            .and_then(|()| self.note(&path, finding));
        self.recount();
        copied
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "cannot keep a copy of a damaged range"),
            )
            .ok()?;
        Some(path)
    }

    /// Moves a file that cannot be used out of the way. Where it is now.
    pub(super) fn take_away(&self, finding: &Finding) -> Option<PathBuf> {
        let path = self.path.join(finding.path.file_name().unwrap_or(OsStr::new("unnamed")));
        if path.exists() {
            // What is there has come from an earlier time; neither is worth less.
            return None;
        }
        let moved = disk::create_directory(&self.path)
            .and_then(|()| self.note(&path, finding))
            .and_then(|()| disk::rename(&finding.path, &path));
        self.recount();
        moved
            .inspect_err(
                |error| tracing::warn!(path = %finding.path.display(), %error, "cannot move a file to quarantine"),
            )
            .ok()?;
        Some(path)
    }

    fn note(&self, of: &Path, finding: &Finding) -> io::Result<()> {
        let mut name = of.as_os_str().to_owned();
        name.push(".json");
        let text = finding.to_json();
        File::create(Path::new(&name))?.write_all_at(text.as_bytes(), 0)
    }

    /// Bytes in it when it was last counted.
    pub(super) fn bytes(&self) -> u64 {
        self.charge.lock().expect("no holder of this lock panics").bytes()
    }

    /// Deletes the oldest thing in it with its note; whether there was any.
    pub(super) fn drop_oldest(&self) -> bool {
        let oldest = self.entries().into_iter().filter(|entry| entry.bytes > 0).min_by_key(|entry| entry.modified);
        let Some(Entry { path, bytes, .. }) = oldest else { return false };
        let removed = disk::remove(&path);
        self.recount();
        match removed {
            Ok(()) => tracing::warn!(path = %path.display(), bytes, "the log is full: deleted what was in quarantine"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot delete what is in quarantine"),
        }
        !path.exists()
    }
}

struct Entry {
    path: PathBuf,
    modified: (i64, i64),
    bytes: u64,
}

fn copy_pages(segment: &Segment, offset: u64, bytes: u64, to: &File) -> io::Result<()> {
    let mut page = [0u8; PAGE as usize];
    let mut at = 0;
    while at < bytes {
        let now = usize::try_from((bytes - at).min(PAGE)).expect("at most a page");
        let page = &mut page[..now];
        if segment.copy(offset + at, page).is_err() {
            page.fill(0);
        }
        to.write_all_at(page, at)?;
        at += now as u64;
    }
    Ok(())
}
