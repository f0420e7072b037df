//! All savepoints of a log: which names are known, what is left of each, and how the life ended that wrote it.
//!
//! | the newest page | the live page | so the life before ended |
//! |---|---|---|
//! | says that nothing was in flight | valid | in order |
//! | of this boot | valid | with `kill -9` or a panic: whatever was written is there |
//! | of this boot | damaged | maybe with power: what is newer than the newest page may be gone |
//! | of another boot, or of one without a name | | the same |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File, Saved, Writer};
use crate::clock::now_ms;
use crate::wal::{Floor, disk};

/// How the life ended that wrote a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order: nothing was in flight.
    Clean,
    /// At once, and the system went on: everything that was written is there. The cuts go again as they were cut.
    Killed,
    /// With the system, most likely: only what was synced counts. What may have been sent since goes one by one, up to
    /// [`doubtful`](super::Savepoint::doubtful).
    PowerCut,
}

impl Ended {
    fn of(newest: &super::Page, is_live_valid: bool, boot_id: [u8; 16]) -> Ended {
        let is_same_boot = newest.boot_id == boot_id && boot_id != [0; 16];
        match (is_live_valid, newest.savepoint.is_clean) {
            (true, true) => Ended::Clean,
            (true, false) if is_same_boot => Ended::Killed,
            _ => Ended::PowerCut,
        }
    }
}

/// What there is of a name's savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name never had one.
    New,
    /// It had one, and nothing valid is left of it.
    Damaged,
    /// Of another log than this: its ledger counts, its position means nothing here.
    Foreign(Saved),
    /// Here it is.
    Valid(Saved, Ended),
}

/// What is on disk.
#[derive(Clone, Debug)]
struct Kept {
    page: super::Page,
    ended: Ended,
}

impl Kept {
    /// What a life begins with: it is not a clean end any more, and after a power cut the cuts that were synced mean nothing.
    fn resumed(&self) -> Saved {
        let Kept { page, ended } = self;
        let mut savepoint = page.savepoint.clone();
        savepoint.is_clean = false;
        if *ended == Ended::PowerCut {
            savepoint.power_was_cut();
        }
        // A generation names one content.
        let generation = page.generation + u64::from(savepoint != page.savepoint);
        Saved { generation, epoch: page.epoch, savepoint }
    }
}

/// The directory of savepoints. Belongs to the process that holds the log's lock.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Where a file goes of which nothing is valid.
    quarantine: PathBuf,
    known: BTreeSet<String>,
    kept: BTreeMap<String, Kept>,
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
        let mut store = Store { directory: path, quarantine, known: BTreeSet::new(), kept: BTreeMap::new() };
        let boot_id = boot_id();
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
            if let Some((page, is_live_valid)) = read_patiently(&store.path(name)) {
                if page.name != name {
                    tracing::warn!(
                        target = name,
                        was = page.name,
                        "a savepoint was renamed by hand; its new name counts"
                    );
                }
                let ended = Ended::of(&page, is_live_valid, boot_id);
                store.kept.insert(name.to_owned(), Kept { page, ended });
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

    /// What each savepoint asks of the log: for what it has settled without a gap, and for all that it has settled. A log that has lost its
    /// end must not give the position of a record in a range to another one. (Each asks twice, so that all weigh the same.)
    #[must_use]
    pub fn floors(&self) -> Vec<Floor> {
        let floors = |Kept { page, .. }: &Kept| {
            let super::Page { log_id, savepoint, .. } = page;
            [savepoint.settled, savepoint.newest()].map(|settled| Floor {
                log_id: *log_id,
                settled,
                segment: savepoint.next.segment,
            })
        };
        self.kept.values().flat_map(floors).collect()
    }

    /// The first name of which no valid savepoint is left.
    #[must_use]
    pub fn damaged(&self) -> Option<&str> {
        self.known().find(|name| !self.kept.contains_key(*name))
    }

    /// Names that ever had a savepoint.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    /// What there is of a name's savepoint, for the log with this id, as a life may go on with it (see [`Ended`]). It must be durable
    /// ([`open_file`](Store::open_file)) before something is sent.
    #[must_use]
    pub fn find(&self, name: &str, log_id: [u8; 16]) -> Found {
        match self.kept.get(name) {
            Some(kept) if kept.page.log_id == log_id => Found::Valid(kept.resumed(), kept.ended),
            Some(kept) => Found::Foreign(kept.resumed()),
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
        if !self.kept.contains_key(name) && path.exists() {
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
        let kept = self.kept.get(old).ok_or_else(|| RenameError::Unknown { name: old.to_owned() })?;
        // How its last life ended is said in the content from now on: the pages are of this boot, and all whole.
        let Saved { generation, epoch, mut savepoint } = kept.resumed();
        savepoint.is_clean = kept.ended == Ended::Clean;
        let mut page = kept.page.clone();
        let is_ours = |other: &Kept| other.page.savepoint == savepoint && other.page.log_id == page.log_id;
        if self.known.contains(new) && !self.kept.get(new).is_some_and(is_ours) {
            return Err(RenameError::Taken { name: new.to_owned() });
        }
        let ended = if kept.ended == Ended::Clean { Ended::Clean } else { Ended::Killed };
        let saved = Saved { generation: generation + 1, epoch: epoch + 1, savepoint: savepoint.clone() };
        page.savepoint = savepoint;
        drop(self.open_file(new, page.log_id, saved)?);
        self.kept.insert(new.to_owned(), Kept { page, ended });
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
        self.kept.remove(name);
        Ok(was_known)
    }

    /// What a name's savepoint says of it.
    #[must_use]
    pub fn page(&self, name: &str) -> Option<&super::Page> {
        self.kept.get(name).map(|kept| &kept.page)
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
fn read_patiently(path: &Path) -> Option<(super::Page, bool)> {
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

    use super::super::{Cut, Cuts, Outcomes, PAGE_LEN, Savepoint};
    use super::*;
    use crate::wal::{Mark, Place, Position};

    const LOG: [u8; 16] = [1; 16];

    fn saved(generation: u64) -> Saved {
        let mut savepoint = Savepoint::default();
        let to = Mark { position: Position(generation), total: 10 * generation };
        savepoint.settle(Mark::default(), to, Place::default(), Outcomes::delivered(10 * generation)).unwrap();
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
        assert_eq!(find(dir.path()), Found::Valid(saved(1), Ended::Killed));
        file.write_live(&saved(2)).unwrap();
        assert_eq!(find(dir.path()), Found::Valid(saved(2), Ended::Killed));
        file.sync(&saved(2)).unwrap();
        file.sync(&saved(3)).unwrap();
        assert_eq!(find(dir.path()), Found::Valid(saved(3), Ended::Killed));
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
            let expected = match torn {
                0 => Found::Valid(saved(3), Ended::PowerCut),
                _ => Found::Valid(saved(4), Ended::Killed),
            };
            assert_eq!(find(dir.path()), expected, "page {torn}");
        }
    }

    #[test]
    fn the_newest_synced_page_is_never_the_one_that_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for generation in 1..6 {
            // Each opening writes one synced page, the first all of them; the other must hold what was there before.
            let before = if generation == 1 { Found::Valid(saved(1), Ended::Killed) } else { find(dir.path()) };
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
    fn what_was_synced_last_survives_a_power_cut_in_the_first_sync_of_the_next_life() {
        for syncs in 1..5 {
            let dir = tempfile::tempdir().unwrap();
            let file = Store::open(dir.path()).unwrap().open_file("a", LOG, saved(1)).unwrap();
            for generation in 2..2 + syncs {
                file.sync(&saved(generation)).unwrap();
            }
            file.write_live(&saved(20)).unwrap();
            drop(file);
            let file = Store::open(dir.path()).unwrap().open_file("a", LOG, saved(20)).unwrap();
            let written = if file.next_synced() == 1 { 2 } else { 1 };
            let raw = FsFile::options().write(true).open(dir.path().join("savepoints/a.sp")).unwrap();
            for page in [0, written] {
                raw.write_all_at(&[0; PAGE_LEN], page * PAGE_LEN as u64).unwrap();
            }
            let Found::Valid(found, _) = find(dir.path()) else { panic!("nothing is there after {syncs}") };
            assert_eq!(found.generation, 1 + syncs);
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

    /// A savepoint with a batch in flight.
    fn sending(generation: u64) -> Saved {
        let mut saved = saved(generation);
        let first = Position(generation + 1);
        let cut = Cut { first, last: first, is_possibly_delivered: false };
        saved.savepoint.cuts = Cuts::of(vec![cut], saved.savepoint.settled.position);
        saved.savepoint.reservation = Position(generation + 100);
        saved
    }

    /// What a life of another boot has left, or of this one.
    fn of_boot(dir: &Path, saved: &Saved, boot_id: [u8; 16]) {
        let page = super::super::Page {
            generation: saved.generation,
            epoch: saved.epoch,
            log_id: LOG,
            boot_id,
            written_ms: 0,
            savepoint: saved.savepoint.clone(),
            name: "a".into(),
        };
        fs::create_dir_all(dir.join("savepoints")).unwrap();
        fs::write(dir.join("savepoints/a.sp"), page.encode().repeat(3)).unwrap();
    }

    /// Such a content, as a life goes on with it after a power cut.
    fn doubted(saved: &Saved) -> Saved {
        let mut doubted = saved.clone();
        doubted.generation += 1;
        doubted.savepoint.power_was_cut();
        assert_ne!(doubted.savepoint, saved.savepoint);
        doubted
    }

    #[test]
    fn who_was_killed_has_its_cuts_and_who_lost_power_what_was_reserved() {
        let dir = tempfile::tempdir().unwrap();
        of_boot(dir.path(), &sending(1), boot_id());
        assert_eq!(find(dir.path()), Found::Valid(sending(1), Ended::Killed));
        of_boot(dir.path(), &sending(1), [7; 16]);
        assert_eq!(find(dir.path()), Found::Valid(doubted(&sending(1)), Ended::PowerCut));
    }

    #[test]
    fn a_damaged_live_page_counts_as_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        for (page, ended) in [(0, Ended::PowerCut), (1, Ended::Killed), (2, Ended::Killed)] {
            of_boot(dir.path(), &sending(1), boot_id());
            let raw = FsFile::options().write(true).open(dir.path().join("savepoints/a.sp")).unwrap();
            raw.write_all_at(&[0xff; 8], page * PAGE_LEN as u64).unwrap();
            let Found::Valid(_, found) = find(dir.path()) else { panic!("it is there") };
            assert_eq!(found, ended, "page {page}");
        }
    }

    #[test]
    fn a_system_whose_boots_have_no_names_tells_nothing() {
        let kept = |boot_id| super::super::Page {
            boot_id,
            savepoint: Savepoint::default(),
            generation: 1,
            epoch: 0,
            log_id: LOG,
            written_ms: 0,
            name: "a".into(),
        };
        assert_eq!(Ended::of(&kept([1; 16]), true, [1; 16]), Ended::Killed);
        assert_eq!(Ended::of(&kept([0; 16]), true, [0; 16]), Ended::PowerCut);
    }

    #[test]
    fn a_clean_end_is_one_until_something_is_opened_whatever_the_boot() {
        for boot in [boot_id(), [7; 16]] {
            let dir = tempfile::tempdir().unwrap();
            let mut clean = saved(5);
            clean.savepoint.is_clean = true;
            of_boot(dir.path(), &clean, boot);
            let expected = Saved { generation: 6, ..saved(5) };
            assert_eq!(find(dir.path()), Found::Valid(expected.clone(), Ended::Clean));
            // The next life is killed before it has settled anything; its live page is still that of the one before.
            drop(Store::open(dir.path()).unwrap().open_file("a", LOG, expected.clone()).unwrap());
            assert_eq!(find(dir.path()), Found::Valid(expected, Ended::Killed));
        }
    }

    #[test]
    fn what_a_power_cut_left_in_doubt_is_still_in_doubt_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        of_boot(dir.path(), &sending(1), [7; 16]);
        let found = doubted(&sending(1));
        let file = Store::open(dir.path()).unwrap().open_file("a", LOG, found.clone()).unwrap();
        drop(file);
        assert_eq!(find(dir.path()), Found::Valid(found, Ended::Killed));
    }

    #[test]
    fn a_new_name_does_not_make_a_power_cut_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        of_boot(dir.path(), &sending(1), [7; 16]);
        let mut store = Store::open(dir.path()).unwrap();
        store.rename("a", "b").unwrap();
        let expected = Saved { generation: 3, epoch: 1, ..doubted(&sending(1)) };
        assert_eq!(Store::open(dir.path()).unwrap().find("b", LOG), Found::Valid(expected, Ended::Killed));
        // Nor a clean end.
        let mut clean = saved(5);
        clean.savepoint.is_clean = true;
        of_boot(dir.path(), &clean, [7; 16]);
        let mut store = Store::open(dir.path()).unwrap();
        store.rename("a", "c").unwrap();
        assert!(matches!(Store::open(dir.path()).unwrap().find("c", LOG), Found::Valid(_, Ended::Clean)));
    }

    #[test]
    fn a_rename_that_was_done_in_part_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        of_boot(dir.path(), &sending(1), [7; 16]);
        let old = fs::read(dir.path().join("savepoints/a.sp")).unwrap();
        Store::open(dir.path()).unwrap().rename("a", "b").unwrap();
        fs::write(dir.path().join("savepoints/a.sp"), old).unwrap();
        Store::open(dir.path()).unwrap().rename("a", "b").unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().known().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_log_begins_above_all_that_is_settled_also_in_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let mut saved = saved(5);
        let mark = |position| Mark { position: Position(position), total: 100 * position };
        saved.savepoint.settle(mark(8), mark(9), Place::default(), Outcomes::delivered(100)).unwrap();
        of_boot(dir.path(), &saved, boot_id());
        let floors = Store::open(dir.path()).unwrap().floors();
        let settled: Vec<u64> = floors.iter().map(|floor| floor.settled.position.0).collect();
        assert_eq!(settled, [5, 9]);
    }
}
