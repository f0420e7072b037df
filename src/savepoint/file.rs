//! A target's savepoint file: three pages, of which the valid one with the highest generation counts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Savepoint;
use super::page::{PAGE_LEN, Page};
use crate::wal::{Position, disk};

const PAGES: u64 = 3;

/// A savepoint, and which of all contents it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    file: Mutex<Arc<disk::File>>,
    /// Which of the two synced pages is written next; `None` when a sync has failed and no new file worked since. Held while one is
    /// being synced.
    next_synced: Mutex<Option<u64>>,
    /// The generation of the live page: an older content never takes its place.
    live: Mutex<Saved>,
    /// What it was opened with is durable.
    is_synced: bool,
}

impl File {
    /// Opens the file, or creates it with this content in all of its pages: it is never there without. Its space is allocated, so
    /// that a full disk does not stop delivery.
    pub(super) fn open(path: PathBuf, name: String, writer: Writer, last: Saved) -> io::Result<File> {
        let is_there = path.metadata().is_ok_and(|metadata| metadata.len() >= PAGES * PAGE_LEN as u64);
        if !is_there {
            let page = page_of(&writer, &name, &last);
            let (file, named) = create(&path, &page, &page)?;
            named?;
            let file = Arc::new(file);
            return Ok(File {
                path,
                name,
                writer,
                file: Mutex::new(file),
                next_synced: Mutex::new(Some(1)),
                live: Mutex::new(last),
                is_synced: true,
            });
        }
        let file = disk::File::open(&path)?;
        // The newer one of the synced pages stays until the other one is durable: what it covers is released, and the live page may not survive.
        let Pages { synced: [first, second], unreadable, .. } = Pages::of(&file);
        // A page that cannot be read may be the one to keep: then a new file is made.
        let next_synced = match unreadable {
            Some(_) => None,
            None if first < second => Some(1),
            None => Some(2),
        };
        let mut opened = File {
            path,
            name,
            writer,
            file: Mutex::new(Arc::new(file)),
            next_synced: Mutex::new(next_synced),
            live: Mutex::new(last.clone()),
            is_synced: true,
        };
        // What it held holds. A disk that does not take it now is no reason not to start.
        // Who created it may not have lived to make its name durable.
        if sync_directory_of(&opened.path).is_err() {
            *opened.next_synced.lock().expect("no holder of this lock panics") = None;
        }
        if let Err(error) = opened.sync(&last) {
            tracing::error!(path = %opened.path.display(), %error, "cannot sync a savepoint; the log keeps what it covers");
            opened.is_synced = false;
        }
        Ok(opened)
    }

    /// Whether what it was opened with was durable when that returned.
    #[must_use]
    pub fn was_synced(&self) -> bool {
        self.is_synced
    }

    #[cfg(test)]
    pub(super) fn next_synced(&self) -> u64 {
        self.next_synced.lock().unwrap().unwrap()
    }

    fn file(&self) -> Arc<disk::File> {
        self.file.lock().expect("no holder of this lock panics").clone()
    }

    fn page(&self, saved: &Saved) -> Box<[u8; PAGE_LEN]> {
        page_of(&self.writer, &self.name, saved)
    }

    /// Writes the live page: survives `kill -9`.
    ///
    /// # Errors
    /// What the system says; the synced pages hold.
    pub fn write_live(&self, saved: &Saved) -> io::Result<()> {
        let page = self.page(saved);
        let mut live = self.live.lock().expect("no holder of this lock panics");
        if saved.generation < live.generation {
            return Ok(());
        }
        self.file().write_all_at(&*page, 0)?;
        *live = saved.clone();
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
        let in_place = next_synced.map(|number| {
            let written = file.write_all_at(&*page, number * PAGE_LEN as u64).and_then(|()| file.sync_data());
            written.map(|()| if number == 1 { 2 } else { 1 })
        });
        match in_place {
            Some(Ok(next)) => {
                *next_synced = Some(next);
                return Ok(Synced::InPlace);
            }
            Some(Err(error)) => {
                tracing::error!(path = %self.path.display(), %error, "syncing a savepoint failed; it goes to a new file");
                *next_synced = None;
            }
            None => {}
        }
        // What is live may be newer than what is synced.
        let live = self.live.lock().expect("no holder of this lock panics");
        let live_page = self.page(if live.generation > saved.generation { &live } else { saved });
        let (replacement, named) = create(&self.path, &live_page, &page)?;
        // It has the name from now on, durably or not.
        *self.file.lock().expect("no holder of this lock panics") = Arc::new(replacement);
        drop(live);
        named?;
        *next_synced = Some(1);
        Ok(Synced::InNewFile)
    }
}

fn page_of(writer: &Writer, name: &str, saved: &Saved) -> Box<[u8; PAGE_LEN]> {
    Page {
        generation: saved.generation,
        epoch: saved.epoch,
        log_id: writer.log_id,
        boot_id: writer.boot_id,
        written_ms: crate::clock::now_ms(),
        savepoint: saved.savepoint.clone(),
        name: name.to_owned(),
    }
    .encode()
}

/// A new file under the name, with the same page in both synced places; whether its name is durable.
fn create(path: &Path, live: &[u8; PAGE_LEN], page: &[u8; PAGE_LEN]) -> io::Result<(disk::File, io::Result<()>)> {
    let temporary = path.with_extension("sp.tmp");
    let written = disk::File::create(&temporary).and_then(|file| {
        for (number, page) in (0..PAGES).zip([live, page, page]) {
            file.write_all_at(page, number * PAGE_LEN as u64)?;
        }
        file.sync_all()?;
        disk::rename(&temporary, path)?;
        Ok((file, sync_directory_of(path)))
    });
    written.inspect_err(|_| {
        let _ = disk::remove(&temporary);
    })
}

pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    disk::sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// What the pages of a file say.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The number and content of the valid page with the highest generation.
    pub newest: Option<(u64, Page)>,
    /// The live page says something: nothing newer than the newest page was on disk, unless that was lost with power.
    pub is_live_valid: bool,
    /// A page could not be read: it may be a newer one.
    pub unreadable: Option<io::Error>,
    /// Generation and reservation of each of the two synced pages, if it is valid.
    pub synced: [Option<(u64, Position)>; 2],
}

impl Pages {
    fn of(file: &disk::File) -> Pages {
        let mut pages = Pages::default();
        // A reservation is raised without a new generation, and the page that says so may not be the newest: the furthest of all holds.
        let mut reservation = Position(0);
        for number in 0..PAGES {
            let mut bytes = [0; PAGE_LEN];
            let page = match file.read_exact_at(&mut bytes, number * PAGE_LEN as u64) {
                Ok(()) => Page::decode(&bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => {
                    pages.unreadable = Some(error);
                    None
                }
            };
            pages.is_live_valid |= number == 0 && page.is_some();
            if let (1.., Some(page)) = (number, &page) {
                pages.synced[number as usize - 1] = Some((page.generation, page.savepoint.reservation));
            }
            reservation = page.as_ref().map_or(reservation, |page| reservation.max(page.savepoint.reservation));
            // Of two pages with the same content the later one: then the synced one of them is not written over next.
            if let Some(page) = page
                && pages.newest.as_ref().is_none_or(|(_, newest)| page.generation >= newest.generation)
            {
                pages.newest = Some((number, page));
            }
        }
        if let Some((_, newest)) = &mut pages.newest {
            newest.savepoint.reservation = reservation;
        }
        pages
    }

    /// What counts, as far as it could be read, and whether the live page is valid.
    pub(super) fn into_newest(self) -> Option<(Page, bool)> {
        let is_live_valid = self.is_live_valid;
        self.newest.map(|(_, page)| (page, is_live_valid))
    }
}

/// Reads a file's pages.
///
/// # Errors
/// It cannot be opened.
pub(super) fn read(path: &Path) -> io::Result<Pages> {
    Ok(Pages::of(&disk::File::open_read_only(path)?))
}
