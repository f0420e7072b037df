//! All savepoints of a log: which names are known, and what is left of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File as FsFile};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::file::{self, File, Saved, Writer};
use crate::wal::{Floor, directory};

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
        directory::create_durably(&path)?;
        let mut store = Store { directory: path, known: BTreeSet::new(), pages: BTreeMap::new() };
        match fs::read(store.known_path()) {
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
        for entry in fs::read_dir(&store.directory)? {
            let file_name = entry?.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(".sp")) else { continue };
            if !is_name(name) {
                continue;
            }
            // A savepoint is known by being there, whatever became of the list.
            store.known.insert(name.to_owned());
            if let Ok(Some(page)) = file::read(&store.path(name)).inspect_err(|error| {
                tracing::error!(%error, target = name, "a savepoint cannot be read");
            }) {
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

    /// Opens a name's savepoint for writing, `saved` being its content from now on. A new name is listed first, durably.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_file(&mut self, name: &str, log_id: [u8; 16], saved: Saved) -> io::Result<File> {
        if self.known.insert(name.to_owned()) {
            self.write_known()?;
        }
        let path = self.path(name);
        let is_new = !path.exists();
        let file = File::open(path.clone(), name.to_owned(), Writer { log_id, boot_id: boot_id() }, saved)?;
        if is_new {
            file::sync_directory_of(&path)?;
        }
        Ok(file)
    }

    fn write_known(&self) -> io::Result<()> {
        let temporary = self.directory.join("known.tmp");
        let mut file = FsFile::create(&temporary)?;
        for name in &self.known {
            writeln!(file, "{name}")?;
        }
        file.sync_all()?;
        fs::rename(&temporary, self.known_path())?;
        file::sync_directory_of(&temporary)
    }
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
            // Each opening writes one synced page; the other must hold what was there before.
            let before = find(dir.path());
            let file = Store::open(dir.path()).unwrap().open_file("a", LOG, saved(generation)).unwrap();
            let next = file.next_synced();
            let raw = FsFile::options().read(true).write(true).open(dir.path().join("savepoints/a.sp")).unwrap();
            let written = if next == 1 { 2 } else { 1 };
            let mut bytes = [0; PAGE_LEN];
            raw.read_exact_at(&mut bytes, written * PAGE_LEN as u64).unwrap();
            raw.write_all_at(&[0; PAGE_LEN], written * PAGE_LEN as u64).unwrap();
            assert_eq!(find(dir.path()), if generation == 1 { Found::Damaged } else { before });
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
