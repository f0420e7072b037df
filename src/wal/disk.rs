//! Every call to the disk that the log and the savepoints make: thin, named in the field's terms, and in one place, so that tests
//! can watch each of them and make it fail.
//!
//! ```text
//!   segment, allocator, directory, quarantine, savepoint ---> disk ---> the system
//!                                                              ^
//!                        in tests only: a Monitor sees each call before and after it, and may refuse it
//! ```
//!
//! Nothing here decides anything: no call is repeated (but one that a signal interrupted), no error is swallowed.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, OFlags};

#[cfg(test)]
#[allow(unused_imports, reason = "more of it is used with every test")]
pub(crate) use monitor::{Monitor, Watch, watch};

/// What is asked of the disk. Only tests look at it.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "tests look at it")]
pub(crate) enum Call<'a> {
    Create,
    Open,
    Allocate { len: u64 },
    Write { offset: u64, parts: &'a [IoSlice<'a>] },
    Read,
    SyncData,
    SyncAll,
    Punch { start: u64, end: u64 },
    Map,
    Populate,
    Rename { to: &'a Path },
    Remove,
    CreateDirectory,
    SyncDirectory,
    List,
    Free,
}

#[cfg(not(test))]
#[inline(always)]
fn call<T>(_: &Path, _: u64, _: Call<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run()
}

#[cfg(test)]
use monitor::call;

/// An open file.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    /// The name under which it was opened.
    path: PathBuf,
    /// Of this handle; 0 outside of tests.
    number: u64,
}

impl File {
    fn open_with(path: &Path, kind: Call<'_>, options: &OpenOptions) -> io::Result<File> {
        #[cfg(test)]
        let number = monitor::next_number();
        #[cfg(not(test))]
        let number = 0;
        let file = call(path, number, kind, || options.open(path))?;
        Ok(File { file, path: path.to_owned(), number })
    }

    /// An empty file for reading and writing, whatever was there.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> io::Result<File> {
        File::open_with(path, Call::Create, OpenOptions::new().read(true).write(true).create(true).truncate(true))
    }

    /// For reading and writing; an empty one if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_or_create(path: &Path) -> io::Result<File> {
        let kind = if path.exists() { Call::Open } else { Call::Create };
        File::open_with(path, kind, OpenOptions::new().read(true).write(true).create(true).truncate(false))
    }

    /// For reading and writing if that is allowed, else for reading. Whatever stands under the name, this does not wait.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<File> {
        // A pipe would have us wait for somebody at its other end.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        File::open_with(path, Call::Open, OpenOptions::new().read(true).write(true).custom_flags(flags))
            .or_else(|_| File::open_read_only(path))
    }

    /// For reading.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_read_only(path: &Path) -> io::Result<File> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        File::open_with(path, Call::Open, OpenOptions::new().read(true).custom_flags(flags))
    }

    fn call<T>(&self, kind: Call<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call(&self.path, self.number, kind, run)
    }

    /// Allocates the first `len` bytes for good: writing them cannot run into a full disk afterwards (except on filesystems that
    /// promise nothing, where the sync tells).
    ///
    /// # Errors
    /// What the system says, `StorageFull` and `QuotaExceeded` above all.
    pub fn allocate(&self, len: u64) -> io::Result<()> {
        let allocated = self
            .call(Call::Allocate { len }, || Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)?));
        match allocated {
            // Where the filesystem cannot, writing zeroes does the same, slowly.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill_with_zeroes(0..len),
            other => other,
        }
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// What the system says.
    pub fn fill_with_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let zeroes = vec![0u8; 1 << 20];
        let mut offset = range.start;
        while offset < range.end {
            let now = zeroes.len().min(usize::try_from(range.end - offset).unwrap_or(usize::MAX));
            self.write_all_at(&zeroes[..now], offset)?;
            offset += now as u64;
        }
        Ok(())
    }

    /// Writes all of `parts` from `offset` on.
    ///
    /// # Errors
    /// What the system says; any part of it may have been written.
    pub fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        /// The kernel takes no more parts at a time.
        const IOV_MAX: usize = 1024;
        let (mut parts, mut offset) = (parts, offset);
        // Nothing is written when nothing is to be.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let now = &parts[..parts.len().min(IOV_MAX)];
            let written = self.call(Call::Write { offset, parts: now }, || {
                loop {
                    match rustix::io::pwritev(&self.file, now, offset) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => return Ok(written),
                        Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            })?;
            offset += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system says; any part of it may have been written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(offset, &mut [IoSlice::new(bytes)])
    }

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` behind the end.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.call(Call::Read, || self.file.read_exact_at(bytes, offset))
    }

    /// Makes what was written durable, with the file's length.
    ///
    /// # Errors
    /// What the system says. **Never call it again after an error**: the kernel has forgotten which pages were not written, a second
    /// call succeeds and the data is gone.
    pub fn sync_data(&self) -> io::Result<()> {
        self.call(Call::SyncData, || Ok(rustix::fs::fdatasync(&self.file)?))
    }

    /// [`File::sync_data`], and the rest of what the system knows of the file.
    ///
    /// # Errors
    /// As there.
    pub fn sync_all(&self) -> io::Result<()> {
        self.call(Call::SyncAll, || self.file.sync_all())
    }

    /// Gives the bytes of a range back to the filesystem; they read as zeroes then.
    ///
    /// # Errors
    /// What the system says: many filesystems cannot.
    pub fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.call(Call::Punch { start: range.start, end: range.end }, || {
            Ok(rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start)?)
        })
    }

    /// A read-only mapping of the whole file.
    ///
    /// # Errors
    /// What the system says.
    pub fn map(&self) -> io::Result<MmapRaw> {
        self.call(Call::Map, || MmapOptions::new().map_raw_read_only(&self.file))
    }

    /// Length, kind and blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

/// Makes sure that a range of a mapping can be read without a signal.
///
/// # Errors
/// `InvalidInput`: this kernel (before 5.14) cannot tell. Anything else: the pages cannot be read.
pub fn populate(map: &MmapRaw, path: &Path, start: usize, len: usize) -> io::Result<()> {
    call(path, 0, Call::Populate, || map.advise_range(Advice::PopulateRead, start, len))
}

/// All of a small file.
///
/// # Errors
/// What the system says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    call(path, 0, Call::Read, || fs::read(path))
}

/// Gives a file another name, in place of whatever has it.
///
/// # Errors
/// What the system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    call(from, 0, Call::Rename { to }, || fs::rename(from, to))
}

/// Takes a file's name away.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    call(path, 0, Call::Remove, || fs::remove_file(path))
}

/// Makes names created, changed and removed in a directory durable.
///
/// # Errors
/// What the system says.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    call(path, 0, Call::SyncDirectory, || fs::File::open(path)?.sync_all())
}

/// Creates a directory (and those above it) if need be, and makes each new name durable.
///
/// # Errors
/// What the system says.
pub fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match call(path, 0, Call::CreateDirectory, || fs::create_dir(path)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_directory(parent)
}

/// The names in a directory.
///
/// # Errors
/// What the system says.
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    call(path, 0, Call::List, || {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

/// Bytes that an ordinary user may still take of the filesystem that a path is on.
///
/// # Errors
/// What the system says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    call(path, 0, Call::Free, || {
        let of = rustix::fs::statvfs(path)?;
        Ok(of.f_bavail.saturating_mul(of.f_frsize))
    })
}

/// Whether an error says that there is no room: bytes, inodes or quota.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod monitor {
    //! Who watches. A monitor is set for a directory, so that tests that run beside each other do not see each other.

    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Sees each call below a directory.
    pub(crate) trait Monitor: Send + Sync {
        /// Before it; an error is what the caller gets instead of the system's answer. `file` is the number of an open file's handle.
        fn before(&self, path: &Path, file: u64, call: Call<'_>) -> io::Result<()>;
        /// After it, when the system was asked.
        fn after(&self, path: &Path, file: u64, call: Call<'_>, is_ok: bool);
    }

    static WATCHED: Mutex<Option<HashMap<PathBuf, Arc<dyn Monitor>>>> = Mutex::new(None);
    static NUMBER: AtomicU64 = AtomicU64::new(1);

    pub(super) fn next_number() -> u64 {
        NUMBER.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the watch when dropped.
    #[derive(Debug)]
    pub(crate) struct Watch(PathBuf);

    impl Drop for Watch {
        fn drop(&mut self) {
            if let Some(watched) = WATCHED.lock().unwrap().as_mut() {
                watched.remove(&self.0);
            }
        }
    }

    /// From now on `monitor` sees what is asked of files at or below `directory`.
    pub(crate) fn watch(directory: &Path, monitor: Arc<dyn Monitor>) -> Watch {
        WATCHED.lock().unwrap().get_or_insert_with(HashMap::new).insert(directory.to_owned(), monitor);
        Watch(directory.to_owned())
    }

    fn monitor_of(path: &Path) -> Option<Arc<dyn Monitor>> {
        let watched = WATCHED.lock().unwrap();
        let watched = watched.as_ref()?;
        path.ancestors().find_map(|directory| watched.get(directory)).cloned()
    }

    pub(super) fn call<T>(
        path: &Path,
        file: u64,
        kind: Call<'_>,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(monitor) = monitor_of(path) else { return run() };
        monitor.before(path, file, kind)?;
        let result = run();
        monitor.after(path, file, kind, result.is_ok());
        result
    }
}
