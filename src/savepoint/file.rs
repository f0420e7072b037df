//! A target's savepoint file: three pages, of which the valid one with the highest generation counts.

use std::fs::{self, File as FsFile, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Savepoint;
use super::page::{PAGE_LEN, Page};

const PAGES: u64 = 3;

/// A savepoint, and which of all contents it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Grows with every change.
    pub generation: u64,
    /// Grows with every move that is not a settlement.
    pub epoch: u64,
    /// The content.
    pub savepoint: Savepoint,
}

/// Where a savepoint was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// In one of its pages.
    InPlace,
    /// The file did not take it; a new one has, in all of its pages.
    InNewFile,
}

/// Who writes: the same in every page of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub log_id: [u8; 16],
    pub boot_id: [u8; 16],
}

/// An open savepoint file.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    name: String,
    writer: Writer,
    file: Mutex<Arc<FsFile>>,
    /// Which of the two synced pages is written next. Held while one is being synced.
    next_synced: Mutex<u64>,
    /// The generation of the live page: an older content never takes its place.
    live: Mutex<u64>,
}

impl File {
    /// Opens or creates the file. Its space is allocated, so that a full disk does not stop delivery.
    pub(super) fn open(path: PathBuf, name: String, writer: Writer, last: Saved) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if file.metadata()?.len() < PAGES * PAGE_LEN as u64 {
            allocate(&file)?;
        }
        // The synced page that holds the newest content stays until the other one is durable.
        let newest = newest_page(&file).map_or(1, |(page, _)| page);
        let next_synced = if newest == 1 { 2 } else { 1 };
        let opened = File {
            path,
            name,
            writer,
            file: Mutex::new(Arc::new(file)),
            next_synced: Mutex::new(next_synced),
            live: Mutex::new(0),
        };
        opened.sync(&last)?;
        Ok(opened)
    }

    #[cfg(test)]
    pub(super) fn next_synced(&self) -> u64 {
        *self.next_synced.lock().unwrap()
    }

    fn file(&self) -> Arc<FsFile> {
        self.file.lock().expect("no holder of this lock panics").clone()
    }

    fn page(&self, saved: &Saved) -> Box<[u8; PAGE_LEN]> {
        Page {
            generation: saved.generation,
            epoch: saved.epoch,
            log_id: self.writer.log_id,
            boot_id: self.writer.boot_id,
            written_ms: crate::clock::now_ms(),
            savepoint: saved.savepoint,
            name: self.name.clone(),
        }
        .encode()
    }

    /// Writes the live page: survives `kill -9`.
    ///
    /// # Errors
    /// What the system says; the synced pages hold.
    pub fn write_live(&self, saved: &Saved) -> io::Result<()> {
        let page = self.page(saved);
        let mut live = self.live.lock().expect("no holder of this lock panics");
        if saved.generation < *live {
            return Ok(());
        }
        self.file().write_all_at(&*page, 0)?;
        *live = saved.generation;
        Ok(())
    }

    /// Writes one of the two synced pages and syncs: survives a power cut. A sync that failed is not retried: what it should have
    /// written may be gone from memory, so a new file takes the place of this one.
    ///
    /// # Errors
    /// What the system says, when a new file does not work either.
    pub fn sync(&self, saved: &Saved) -> io::Result<Synced> {
        let page = self.page(saved);
        let mut next_synced = self.next_synced.lock().expect("no holder of this lock panics");
        let file = self.file();
        let written =
            file.write_all_at(&*page, *next_synced * PAGE_LEN as u64).and_then(|()| Ok(rustix::fs::fdatasync(&*file)?));
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "syncing a savepoint failed; it goes to a new file");
            let replacement = Arc::new(self.replace(&page)?);
            *self.file.lock().expect("no holder of this lock panics") = replacement;
            return Ok(Synced::InNewFile);
        }
        *next_synced = if *next_synced == 1 { 2 } else { 1 };
        Ok(Synced::InPlace)
    }

    /// A new file with the same page in all places, durable under the old name.
    fn replace(&self, page: &[u8; PAGE_LEN]) -> io::Result<FsFile> {
        let temporary = self.path.with_extension("sp.tmp");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        for number in 0..PAGES {
            file.write_all_at(page, number * PAGE_LEN as u64)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_directory_of(&self.path)?;
        Ok(file)
    }
}

fn allocate(file: &FsFile) -> io::Result<()> {
    // Written, not only allocated: on any filesystem the pages have their place afterwards.
    let len = file.metadata()?.len();
    let zeroes = vec![0; PAGES as usize * PAGE_LEN];
    file.write_all_at(&zeroes[len as usize..], len)?;
    file.sync_all()
}

pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    FsFile::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The number and content of the valid page with the highest generation.
fn newest_page(file: &FsFile) -> Option<(u64, Page)> {
    let mut newest: Option<(u64, Page)> = None;
    for number in 0..PAGES {
        let mut bytes = [0; PAGE_LEN];
        let page = file.read_exact_at(&mut bytes, number * PAGE_LEN as u64).ok().and_then(|()| Page::decode(&bytes));
        // Of two pages with the same content the later one: then the synced one of them is not written over next.
        if let Some(page) = page
            && newest.as_ref().is_none_or(|(_, newest)| page.generation >= newest.generation)
        {
            newest = Some((number, page));
        }
    }
    newest
}

/// Reads a file's content.
///
/// # Errors
/// It cannot be opened. A file without any valid page is `Ok(None)`.
pub(super) fn read(path: &Path) -> io::Result<Option<Page>> {
    Ok(newest_page(&FsFile::open(path)?).map(|(_, page)| page))
}
