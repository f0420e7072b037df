//! All savepoints of a log: which names are known, and what is left of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File, Saved, Writer};
use crate::clock::now_ms;
use crate::wal::{Floor, disk};

/// What there is of a name's savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name never had one.
    New,
    /// It had one, and nothing valid is left of it.
    Damaged,
    /// Of another log than this: its ledger counts, its position means nothing here.
    Foreign(Saved),
    /// Here it is.
    Valid(Saved),
}

/// The directory of savepoints. Belongs to the process that holds the log's lock.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Where a file goes of which nothing is valid.
    quarantine: PathBuf,
    known: BTreeSet<String>,
    pages: BTreeMap<String, super::Page>,
}

impl Store {
    /// Reads what is there.
    ///
    /// # Errors
    /// The directory cannot be created or listed. Damaged savepoints are no error.
    pub fn open(log_directory: &Path) -> io::Result<Store> {
        let path = log_directory.join("savepoints");
        disk::create_directory(&path)?;
        Store::read(path, log_directory)
    }

    /// Reads what is there, and creates nothing.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn open_read_only(log_directory: &Path) -> io::Result<Store> {
        Store::read(log_directory.join("savepoints"), log_directory)
    }

    fn read(path: PathBuf, log_directory: &Path) -> io::Result<Store> {
        let quarantine = log_directory.join("quarantine");
        let mut store = Store { directory: path, quarantine, known: BTreeSet::new(), pages: BTreeMap::new() };
        match disk::read(&store.known_path()) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let (names, others) = text.lines().partition::<Vec<_>, _>(|line| is_name(line));
                if !others.is_empty() {
                    tracing::error!(lines = others.len(), "the list of known savepoints is damaged; other lines count");
                }
                store.known = names.into_iter().map(str::to_owned).collect();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "the list of known savepoints cannot be read"),
        }
        for file_name in disk::list(&store.directory)? {
            let Some(name) = file_name.strip_suffix(".sp") else { continue };
            if !is_name(name) {
                continue;
            }
            // A savepoint is known by being there, whatever became of the list.
            store.known.insert(name.to_owned());
            if let Some(page) = read_patiently(&store.path(name)) {
                if page.name != name {
                    tracing::warn!(
                        target = name,
                        was = page.name,
                        "a savepoint was renamed by hand; its new name counts"
                    );
                }
                store.pages.insert(name.to_owned(), page);
            }
        }
        Ok(store)
    }

    fn known_path(&self) -> PathBuf {
        self.directory.join("known")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.sp"))
    }

    /// What each savepoint asks of the log.
    #[must_use]
    pub fn floors(&self) -> Vec<Floor> {
        let floor = |page: &super::Page| Floor {
            log_id: page.log_id,
            settled: page.savepoint.settled,
            segment: page.savepoint.next.segment,
        };
        self.pages.values().map(floor).collect()
    }

    /// The first name of which no valid savepoint is left.
    #[must_use]
    pub fn damaged(&self) -> Option<&str> {
        self.known().find(|name| !self.pages.contains_key(*name))
    }

    /// Names that ever had a savepoint.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    /// What there is of a name's savepoint, for the log with this id.
    #[must_use]
    pub fn find(&self, name: &str, log_id: [u8; 16]) -> Found {
        match self.pages.get(name) {
            Some(page) => {
                let saved = Saved { generation: page.generation, epoch: page.epoch, savepoint: page.savepoint };
                if page.log_id == log_id { Found::Valid(saved) } else { Found::Foreign(saved) }
            }
            None if self.known.contains(name) => Found::Damaged,
            None => Found::New,
        }
    }

    /// Opens a name's savepoint for writing, `saved` being its content from now on. A new name is listed, durably.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_file(&mut self, name: &str, log_id: [u8; 16], saved: Saved) -> io::Result<File> {
        let path = self.path(name);
        if !self.pages.contains_key(name) && path.exists() {
            self.take_away(&path);
        }
        let file = File::open(path, name.to_owned(), Writer { log_id, boot_id: boot_id() }, saved)?;
        // In this order: a name that is listed and has no file has lost its savepoint.
        if !self.known.contains(name) {
            let mut known = self.known.clone();
            known.insert(name.to_owned());
            self.write_known(&known)?;
            self.known = known;
        }
        Ok(file)
    }

    /// A file without a valid page is not written over: somebody may still make something of it.
    fn take_away(&self, path: &Path) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let to = self.quarantine.join(format!("{name}-{}.sp", now_ms()));
        match disk::create_directory(&self.quarantine).and_then(|()| disk::rename(path, &to)) {
            Ok(()) => tracing::warn!(path = %to.display(), "what is left of the savepoint is kept"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot move a damaged savepoint to quarantine")
            }
        }
    }

    /// Makes `new` what `old` was. `saved` is its content.
    ///
    /// # Errors
    /// What the system says. Done in part it may be asked for again: at no time is neither of the two there.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), RenameError> {
        if old == new {
            return Err(RenameError::Taken { name: new.to_owned() });
        }
        let page = self.pages.get(old).cloned().ok_or_else(|| RenameError::Unknown { name: old.to_owned() })?;
        let is_ours = |other: &super::Page| other.savepoint == page.savepoint && other.log_id == page.log_id;
        if self.known.contains(new) && !self.pages.get(new).is_some_and(is_ours) {
            return Err(RenameError::Taken { name: new.to_owned() });
        }
        let saved = Saved { generation: page.generation + 1, epoch: page.epoch + 1, savepoint: page.savepoint };
        drop(self.open_file(new, page.log_id, saved)?);
        self.pages.insert(new.to_owned(), page);
        self.forget(old)?;
        Ok(())
    }

    /// Forgets a name and its savepoint: from now on it is new. Whether it was known.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget(&mut self, name: &str) -> io::Result<bool> {
        let mut known = self.known.clone();
        let was_known = known.remove(name);
        // The list first: a name that is there without its file has lost its savepoint, and starts from the oldest record.
        self.write_known(&known)?;
        match disk::remove(&self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk::sync_directory(&self.directory)?;
        self.known = known;
        self.pages.remove(name);
        Ok(was_known)
    }

    /// What a name's savepoint says of it.
    #[must_use]
    pub fn page(&self, name: &str) -> Option<&super::Page> {
        self.pages.get(name)
    }

    fn write_known(&self, known: &BTreeSet<String>) -> io::Result<()> {
        let temporary = self.directory.join("known.tmp");
        let lines: String = known.iter().map(|name| format!("{name}\n")).collect();
        let file = disk::File::create(&temporary)?;
        file.write_all_at(lines.as_bytes(), 0)?;
        file.sync_all()?;
        disk::rename(&temporary, &self.known_path())?;
        disk::sync_directory(&self.directory)
    }
}

/// What a disk does not give now it may give in a moment: that is no damage. After some tries it is taken for it: the file is kept, and the
/// target begins with the oldest record.
#[allow(clippy::disallowed_methods, reason = "a start waits, for a third of a second at most")]
fn read_patiently(path: &Path) -> Option<super::Page> {
    const TRIES: u32 = 15;
    for _ in 1..TRIES {
        if let Ok(pages) = file::read(path)
            && pages.unreadable.is_none()
        {
            return pages.into_newest();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pages =
        file::read(path).unwrap_or_else(|error| file::Pages { unreadable: Some(error), ..file::Pages::default() });
    if let Some(error) = &pages.unreadable {
        tracing::error!(path = %path.display(), %error, "a savepoint cannot be read, or not all of it");
    }
    pages.into_newest()
}

/// A savepoint cannot have another name.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// There is none of this name.
    #[error("there is no target {name:?} in the log")]
    Unknown {
        /// The old name.
        name: String,
    },
    /// The new name has a savepoint of its own.
    #[error("there is a target {name:?} in the log already; `promrelay target forget {name}` gives it up")]
    Taken {
        /// The new name.
        name: String,
    },
    /// What the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether a target may have this name: 1 to 100 letters, digits, `_`, `.` or `-`, the first a letter or a digit. It names a file.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 100 && starts_well && name.bytes().all(is_plain)
}

/// The kernel's name for this boot; zeroes where there is none.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or([0; 16], u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File as FsFile;
    use std::os::unix::fs::FileExt;

    use super::super::{PAGE_LEN, Savepoint, Settled};
    use super::*;
    use crate::wal::{Mark, Place, Position};

    const LOG: [u8; 16] = [1; 16];

    fn saved(generation: u64) -> Saved {
        let mut savepoint = Savepoint::default();
        let to = Mark { position: Position(generation), total: 10 * generation };
        savepoint.settle(to, Place::default(), Settled::Delivered { samples: 10 * generation, refused: 0 });
        Saved { generation, epoch: 0, savepoint }
    }

    fn find(dir: &Path) -> Found {
        Store::open(dir).unwrap().find("a", LOG)
    }

    #[test]
    fn a_name_is_new_once_and_its_savepoint_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.find("a", LOG), Found::New);
        let file = store.open_file("a", LOG, saved(1)).unwrap();
        assert_eq!(find(dir.path()), Found::Valid(saved(1)));
        file.write_live(&saved(2)).unwrap();
        assert_eq!(find(dir.path()), Found::Valid(saved(2)));
        file.sync(&saved(2)).unwrap();
        file.sync(&saved(3)).unwrap();
        assert_eq!(find(dir.path()), Found::Valid(saved(3)));
        let floors = Store::open(dir.path()).unwrap().floors();
        assert_eq!((floors[0].log_id, floors[0].settled), (LOG, saved(3).savepoint.settled));
        assert_eq!(Store::open(dir.path()).unwrap().find("a", [2; 16]), Found::Foreign(saved(3)));
    }

    #[test]
    fn any_one_torn_page_leaves_a_savepoint_that_was_true() {
        for torn in 0..3u64 {
            let dir = tempfile::tempdir().unwrap();
            let file = Store::open(dir.path()).unwrap().open_file("a", LOG, saved(1)).unwrap();
            file.sync(&saved(2)).unwrap();
            file.sync(&saved(3)).unwrap();
            file.write_live(&saved(4)).unwrap();
            let raw = FsFile::options().write(true).open(dir.path().join("savepoints/a.sp")).unwrap();
            raw.write_all_at(&[0xff; 512], torn * PAGE_LEN as u64 + 512).unwrap();
            let expected = if torn == 0 { saved(3) } else { saved(4) };
            assert_eq!(find(dir.path()), Found::Valid(expected), "page {torn}");
        }
    }

    #[test]
    fn the_newest_synced_page_is_never_the_one_that_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for generation in 1..6 {
            // Each opening writes one synced page, the first all of them; the other must hold what was there before.
            let before = if generation == 1 { Found::Valid(saved(1)) } else { find(dir.path()) };
            let file = Store::open(dir.path()).unwrap().open_file("a", LOG, saved(generation)).unwrap();
            let next = file.next_synced();
            let raw = FsFile::options().read(true).write(true).open(dir.path().join("savepoints/a.sp")).unwrap();
            let written = if next == 1 { 2 } else { 1 };
            let mut bytes = [0; PAGE_LEN];
            raw.read_exact_at(&mut bytes, written * PAGE_LEN as u64).unwrap();
            raw.write_all_at(&[0; PAGE_LEN], written * PAGE_LEN as u64).unwrap();
            assert_eq!(find(dir.path()), before);
            raw.write_all_at(&bytes, written * PAGE_LEN as u64).unwrap();
        }
    }

    #[test]
    fn a_lost_or_damaged_file_of_a_known_name_is_not_new() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap().open_file("a", LOG, saved(1)).unwrap());
        let path = dir.path().join("savepoints/a.sp");
        fs::write(&path, vec![0; 3 * PAGE_LEN]).unwrap();
        assert_eq!(find(dir.path()), Found::Damaged);
        fs::write(&path, b"short").unwrap();
        assert_eq!(find(dir.path()), Found::Damaged);
        fs::remove_file(&path).unwrap();
        assert_eq!(find(dir.path()), Found::Damaged);
    }
}
