//! The log's directory: names, the lock, and making names durable.
//!
//! ```text
//! LOCK                            held (flock) while a process uses the log; holds its pid for people
//! seg-<id, 20 digits>.wal         the segments; ids ascend for ever
//! next-<id, 20 digits>.tmp        a segment being allocated; removed at start
//! quarantine/                     what could not be used, for people (see `quarantine`)
//! ```

use std::fs::{self, File as LockFile, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::disk;
use super::position::SegmentId;

/// The directory of a log, locked by this process until dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: LockFile,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Creating or opening it, or a file in it.
    #[error("cannot use {} as the log's directory", path.display())]
    Io {
        /// What was tried on.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process{} is using the log in {}", holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the other process left in the lock file.
        holder: Option<String>,
    },
}

impl Directory {
    /// Creates the directory (and those above it) if need be, makes it durable, and locks it.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        disk::create_directory(path).map_err(io_error(path))?;
        let lock_path = path.join("LOCK");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&lock_path).ok().map(|text| text.trim().to_owned());
                return Err(DirectoryError::Locked {
                    path: path.to_owned(),
                    holder: holder.filter(|pid| !pid.is_empty()),
                });
            }
            Err(error) => return Err(io_error(&lock_path)(error.into())),
        }
        // The pid is for people only: a full disk is no reason not to start.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Directory { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a segment.
    #[must_use]
    pub fn segment_path(&self, id: SegmentId) -> PathBuf {
        segment_path(&self.path, id)
    }

    /// The path under which a segment is allocated.
    #[must_use]
    pub fn prepared_path(&self, id: SegmentId) -> PathBuf {
        self.path.join(format!("next-{:020}.tmp", id.0))
    }

    /// Where what could not be used is kept.
    #[must_use]
    pub fn quarantine_path(&self) -> PathBuf {
        self.path.join("quarantine")
    }

    /// Makes names created, renamed and removed so far durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        disk::sync_directory(&self.path)
    }

    /// Removes what an earlier process had allocated and not taken into use.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn remove_left_overs(&self) -> io::Result<()> {
        for name in disk::list(&self.path)? {
            if numbered(&name, "next-", ".tmp").is_some() {
                let _ = disk::remove(&self.path.join(name));
            }
        }
        Ok(())
    }

    /// The files that are called as segments are, ascending.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn segments(&self) -> io::Result<Vec<SegmentId>> {
        segments(&self.path)
    }
}

/// The path of a segment in a directory.
#[must_use]
pub fn segment_path(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(format!("seg-{:020}.wal", id.0))
}

/// The files in a directory that are called as segments are, ascending. Needs no lock.
///
/// # Errors
/// The directory cannot be listed.
pub fn segments(directory: &Path) -> io::Result<Vec<SegmentId>> {
    let names = disk::list(directory)?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| numbered(name, "seg-", ".wal")).map(SegmentId).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn numbered(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/log");
        let first = Directory::open(&path).unwrap();
        let error = Directory::open(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(first);
        Directory::open(&path).unwrap();
    }

    #[test]
    fn only_whole_names_are_segments() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        for name in
            ["seg-00000000000000000007.wal", "seg-00000000000000000003.wal", "seg-7.wal", "seg-x.wal", "foreign"]
        {
            fs::File::create(dir.path().join(name)).unwrap();
        }
        let left_over = directory.prepared_path(SegmentId(9));
        fs::File::create(&left_over).unwrap();
        assert_eq!(directory.segments().unwrap(), [SegmentId(3), SegmentId(7)]);
        directory.remove_left_overs().unwrap();
        assert!(!left_over.exists());
    }
}
