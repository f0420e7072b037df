//! A small filesystem of its own, mounted for one test: ext4 on a file, or memory (tmpfs). Others can use it up.
//!
//! It is unmounted when it is dropped, also when the test panics, and also under the relay's feet: it is gone for
//! good, its loop device with it, when the last file on it is closed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};
use tempfile::TempDir;

/// The directory on it that belongs to others.
const OTHERS: &str = "others";
/// Their file, if they are after bytes.
const BYTES: &str = "bytes";
const BLOCK: u64 = 4096;

/// A mounted filesystem.
pub struct Filesystem {
    at: PathBuf,
    used_when_new: u64,
    /// The file that an ext4 is on.
    image: PathBuf,
    /// Of the loop device, and what it was before: the next one to use it gets it as it was.
    setting: Option<(PathBuf, String)>,
    /// Where that is; removed while it is still in use, which is no harm.
    _images: Option<TempDir>,
}

impl Filesystem {
    /// An ext4 of so many bytes, at an existing directory. `None`: it cannot be mounted here, and this was said.
    pub fn ext4(at: &Path, bytes: u64, options: &[&str]) -> Option<Filesystem> {
        let images = TempDir::new().unwrap();
        let mut filesystem = Filesystem::ext4_within(images.path(), at, bytes, options)?;
        filesystem._images = Some(images);
        Some(filesystem)
    }

    /// As [`ext4`](Self::ext4), its image being a sparse file in a directory of the caller's.
    pub fn ext4_within(images: &Path, at: &Path, bytes: u64, options: &[&str]) -> Option<Filesystem> {
        let image = images.join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        // Nothing reserved for root, and nothing left to be initialized later.
        let mkfs = ["-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(mkfs).args(options).arg(&image))?;
        let mut filesystem = Filesystem::mount(&mut loop_mount(&image, at), at)?;
        filesystem.image = image;
        Some(filesystem)
    }

    /// Memory, with mount options such as `size=48m,nr_inodes=40`.
    pub fn tmpfs(at: &Path, options: &str) -> Option<Filesystem> {
        Filesystem::mount(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at), at)
    }

    fn mount(command: &mut Command, at: &Path) -> Option<Filesystem> {
        run(command)?;
        let mut filesystem =
            Filesystem { at: at.to_owned(), used_when_new: 0, image: PathBuf::new(), setting: None, _images: None };
        fs::create_dir(at.join(OTHERS)).unwrap();
        filesystem.used_when_new = used(at);
        Some(filesystem)
    }

    /// Has its loop device pass on a page at a time. A loop device takes a write that its file has room for only in part for done: a sync whose end is
    /// nowhere is then answered well. (Seen with larger writes, in one run of a hundred: zeroes behind the last page that there was room for.)
    pub fn page_by_page(mut self) -> Option<Filesystem> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let of_this = |line: &&str| line.split(' ').nth(1) == self.at.to_str();
        let device = mounts.lines().find(of_this).and_then(|line| line.split(' ').next()).unwrap();
        let setting = PathBuf::from(format!("/sys/block/{}/queue/max_sectors_kb", device.trim_start_matches("/dev/")));
        let before = fs::read_to_string(&setting).unwrap();
        run(Command::new("sh").args(["-c", &format!("echo 4 > {}", setting.display())]))?;
        self.setting = Some((setting, before));
        Some(self)
    }

    /// Changes mount options.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.at)).unwrap();
    }

    /// Unmounts and mounts it, as one does after the device below has failed. Nobody may use it.
    pub fn mount_again(&self) {
        run(Command::new("umount").arg(&self.at)).unwrap();
        run(&mut loop_mount(&self.image, &self.at)).unwrap();
    }

    /// Others take what is left of `what`, and whatever gets free, until [`Others`] is dropped.
    pub fn taken_by_others(&self, what: Scarce) -> Others {
        Others::take(self.at.clone(), what)
    }

    /// Looks at what a log takes on it, again and again.
    pub fn watch(&self) -> Watch {
        let at = self.at.clone();
        let used_when_new = self.used_when_new;
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut most = Taken::default();
            while !ends_within(&stopped, Duration::from_millis(1)) {
                most.filesystem = most.filesystem.max(used(&at).saturating_sub(used_when_new));
                if let Some((segments, all)) = taken_in(&at) {
                    most.segments = most.segments.max(segments);
                    most.directory = most.directory.max(all);
                }
                most.looks += 1;
            }
            most
        });
        Watch { _stop: stop, thread }
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if let Some((setting, before)) = &self.setting {
            let _ = fs::write(setting, before);
        }
        // Lazily: a relay that runs on may have files open.
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn loop_mount(image: &Path, at: &Path) -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "ext4", "-o", "loop"]).arg(image).arg(at);
    command
}

/// Runs a command of the system. `None`: it says no, and this is shown. With `MUST_MOUNT=true` (set by
/// `.ci/run` where mounting is allowed) that is an error.
fn run(command: &mut Command) -> Option<()> {
    let reason = match command.output() {
        Ok(output) if output.status.success() => return Some(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("NOT TESTED: {command:?}: {}\n", reason.trim());
    assert!(std::env::var("MUST_MOUNT").as_deref() != Ok("true") || std::thread::panicking(), "{reason}");
    // Not by a macro: the harness shows what those print only when a test fails.
    let _ = std::io::stderr().write_all(reason.as_bytes());
    None
}

fn stat(path: &Path) -> StatVfs {
    statvfs(path).unwrap()
}

/// Bytes taken, also of deleted files that somebody has open, and of what the filesystem needs for itself.
fn used(at: &Path) -> u64 {
    let now = stat(at);
    (now.f_blocks - now.f_bfree) * now.f_frsize
}

/// Waits so long; `true` when the other side is gone.
fn ends_within(stopped: &Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
}

/// The most that was seen on a filesystem, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Of segment files, allocated ones with them.
    pub segments: u64,
    /// Of everything in the directory but what belongs to others.
    pub directory: u64,
    /// Of the filesystem, since it was mounted: also deleted files that somebody has open.
    pub filesystem: u64,
    pub looks: u64,
}

/// A look that goes on.
pub struct Watch {
    _stop: Sender<()>,
    thread: JoinHandle<Taken>,
}

impl Watch {
    pub fn end(self) -> Taken {
        let Watch { _stop, thread } = self;
        drop(_stop);
        thread.join().unwrap()
    }
}

/// Bytes of segments, and of all files. `None` if files came and went meanwhile: a sum over them would mean nothing.
pub fn taken_in(directory: &Path) -> Option<(u64, u64)> {
    let before = files(directory)?;
    let (mut segments, mut all) = (0, 0);
    for path in before.values() {
        let bytes = fs::symlink_metadata(path).ok()?.blocks() * 512;
        let is_segment = path.extension().is_some_and(|extension| extension == "wal" || extension == "tmp");
        segments += if is_segment { bytes } else { 0 };
        all += bytes;
    }
    (files(directory)?.keys().eq(before.keys())).then_some((segments, all))
}

/// Files and directories by inode: a file that is being renamed shows twice.
fn files(directory: &Path) -> Option<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).ok()? {
            let entry = entry.ok()?;
            let path = entry.path();
            if entry.file_name() == OTHERS || entry.file_name() == "lost+found" {
                continue;
            }
            if entry.file_type().ok()?.is_dir() {
                directories.push(path.clone());
            }
            files.insert(entry.metadata().ok()?.ino(), path);
        }
    }
    Some(files)
}

/// What a filesystem can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    Bytes,
    Inodes,
}

/// Somebody who takes everything. Dropped, all of it is free again.
pub struct Others {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    directory: PathBuf,
    what: Scarce,
}

impl Others {
    fn take(at: PathBuf, what: Scarce) -> Others {
        let directory = at.join(OTHERS);
        let (stop, stopped) = channel();
        let (first, first_done) = channel();
        let thread = std::thread::spawn({
            let directory = directory.clone();
            move || {
                let mut number = 0u64;
                loop {
                    match what {
                        Scarce::Bytes => take_bytes(&directory),
                        Scarce::Inodes => {
                            while File::create(directory.join(number.to_string())).is_ok() {
                                number += 1;
                            }
                        }
                    }
                    let _ = first.send(());
                    if ends_within(&stopped, Duration::from_millis(2)) {
                        return;
                    }
                }
            }
        });
        first_done.recv().unwrap();
        Others { stop: Some(stop), thread: Some(thread), directory, what }
    }

    /// Gives so many blocks or inodes back, and takes no more.
    pub fn leave(&mut self, count: u64) {
        self.end();
        match self.what {
            Scarce::Bytes => {
                let file = File::options().write(true).open(self.directory.join(BYTES)).unwrap();
                file.set_len(file.metadata().unwrap().len() - count * BLOCK).unwrap();
                file.sync_all().unwrap();
            }
            Scarce::Inodes => {
                for number in 0..count {
                    fs::remove_file(self.directory.join(number.to_string())).unwrap();
                }
            }
        }
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.end();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Appends to a file until not one more block is free.
fn take_bytes(directory: &Path) {
    let file = File::options().append(true).create(true).open(directory.join(BYTES)).unwrap();
    let mut piece = 1 << 20;
    while piece >= BLOCK && stat(directory).f_bavail > 0 {
        let len = file.metadata().unwrap().len();
        match fallocate(&file, FallocateFlags::empty(), len, piece) {
            Ok(()) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => piece /= 2,
        }
    }
}
