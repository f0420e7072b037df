//! All savepoints of a log as they are on disk, for people: nothing is opened for writing, nothing is created.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::page::{PAGE_LEN, Page};
use super::store::is_name;
use crate::wal::Floor;

/// A relay may be writing a page while it is read: one that looks damaged is read again.
const TRIES: usize = 5;

/// A name that has or had a savepoint.
#[derive(Debug)]
pub struct Listed {
    /// The target's.
    pub name: String,
    /// Where its file is or would be.
    pub path: PathBuf,
    /// The live page, then the two synced ones.
    pub pages: [PageState; 3],
}

/// What stands in a page.
#[derive(Debug)]
pub enum PageState {
    /// A savepoint.
    Valid(Box<Page>),
    /// Nothing was ever written.
    Blank,
    /// The bytes are those that were written, and what they say cannot be: the ledger does not add up, or ranges or cuts are not in order.
    Unbalanced,
    /// Other bytes than were written.
    Damaged,
    /// The file is missing or too short.
    Missing,
    /// The disk does not say.
    Unreadable(io::Error),
}

impl Listed {
    /// The page that counts: the valid one of the highest generation.
    #[must_use]
    pub fn newest(&self) -> Option<&Page> {
        let valid = self.pages.iter().filter_map(|page| match page {
            PageState::Valid(page) => Some(&**page),
            _ => None,
        });
        valid.max_by_key(|page| page.generation)
    }

    /// What the savepoint asks of the log.
    #[must_use]
    pub fn floor(&self) -> Option<Floor> {
        let floor = |page: &Page| Floor {
            log_id: page.log_id,
            settled: page.savepoint.settled,
            segment: page.savepoint.next.segment,
        };
        self.newest().map(floor)
    }
}

/// Reads all savepoints in a log's directory, by name. A directory without any is no error.
///
/// # Errors
/// The savepoints cannot be listed.
pub fn list(log_directory: &Path) -> io::Result<Vec<Listed>> {
    let directory = log_directory.join("savepoints");
    let mut names = BTreeSet::new();
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let file_name = entry?.file_name();
                names.extend(file_name.to_str().and_then(|name| name.strip_suffix(".sp")).map(str::to_owned));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let known = fs::read(directory.join("known")).unwrap_or_default();
    names.extend(String::from_utf8_lossy(&known).lines().map(str::to_owned));
    names.retain(|name| is_name(name));
    let listed = |name: String| {
        let path = directory.join(format!("{name}.sp"));
        let pages = std::array::from_fn(|number| read_page(&path, number));
        Listed { name, path, pages }
    };
    Ok(names.into_iter().map(listed).collect())
}

fn read_page(path: &Path, number: usize) -> PageState {
    let mut bytes = [0; PAGE_LEN];
    for _ in 0..TRIES {
        let read = fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, (number * PAGE_LEN) as u64));
        match read {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                return PageState::Missing;
            }
            Err(error) => return PageState::Unreadable(error),
        }
        if let Some(page) = Page::decode(&bytes) {
            return PageState::Valid(Box::new(page));
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return PageState::Blank;
        }
        if Page::is_intact(&bytes) {
            return PageState::Unbalanced;
        }
    }
    PageState::Damaged
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::super::{Saved, Store};
    use super::*;

    #[test]
    fn the_listing_says_what_each_page_is_and_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut store = Store::open(dir.path()).unwrap();
        let saved = Saved { generation: 3, ..Saved::default() };
        let file = store.open_file("a", [1; 16], saved.clone()).unwrap();
        let listed = list(dir.path()).unwrap();
        assert!(
            matches!(listed[0].pages, [PageState::Valid(_), PageState::Valid(_), PageState::Valid(_)]),
            "{listed:?}"
        );
        file.write_live(&Saved { generation: 4, ..saved }).unwrap();
        let listed = list(dir.path()).unwrap();
        assert_eq!((&*listed[0].name, listed[0].newest().unwrap().generation), ("a", 4));

        let path = dir.path().join("savepoints/a.sp");
        let raw = OpenOptions::new().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff; 16], 512).unwrap();
        let listed = list(dir.path()).unwrap();
        assert!(
            matches!(listed[0].pages, [PageState::Damaged, PageState::Valid(_), PageState::Valid(_)]),
            "{listed:?}"
        );
        raw.set_len(PAGE_LEN as u64).unwrap();
        let listed = list(dir.path()).unwrap();
        assert!(matches!(listed[0].pages, [PageState::Damaged, PageState::Missing, PageState::Missing]), "{listed:?}");
        fs::remove_file(path).unwrap();
        assert!(list(dir.path()).unwrap()[0].newest().is_none(), "a known name stays listed");
    }
}
