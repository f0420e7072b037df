//! What a power cut leaves: a tape of the calls to the disk below a directory, and the images of the directory that it allows. For
//! tests.
//!
//! ```text
//!   disk ---> Tape: written, renamed, synced, ...
//!               |  the events up to any one of them
//!               v
//!             Image: of each file and each name, what is durable and what is pending
//!               |--- after kill -9:      all of it
//!               '--- after a power cut:  what is durable, and of the rest whatever chance lets through
//! ```
//!
//! Pending bytes get through by sectors of 512, pending names mostly in the order in which they were changed, and now and then any of
//! them. What a failed sync should have written is in doubt for ever: the next sync succeeds, and makes durable what came after.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread::ThreadId;

use fastrand::Rng;
use tempfile::TempDir;

use super::disk::{Call, Monitor};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// What was done. Names are relative to the tape's directory.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Created {
        file: u64,
        name: PathBuf,
    },
    Opened {
        file: u64,
        name: PathBuf,
    },
    Changed {
        file: u64,
        change: Change,
    },
    /// What was changed before event `began` is durable.
    Synced {
        file: u64,
        began: usize,
    },
    SyncFailed {
        file: u64,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        name: PathBuf,
    },
    DirectorySynced {
        directory: PathBuf,
        began: usize,
    },
}

/// A change of a file's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It is at least so long.
    Grown(u64),
    Written(u64, Vec<u8>),
    Punched(u64, u64),
}

impl Change {
    /// Does it, as far as each sector gets through.
    fn apply(&self, bytes: &mut Vec<u8>, mut gets_through: impl FnMut() -> bool) {
        let (start, end) = match self {
            Change::Grown(len) if gets_through() => return bytes.resize(bytes.len().max(*len as usize), 0),
            Change::Grown(_) => return,
            Change::Written(offset, written) => (*offset as usize, *offset as usize + written.len()),
            Change::Punched(start, end) => (*start as usize, *end as usize),
        };
        let mut at = start;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            if gets_through() {
                bytes.resize(bytes.len().max(next), 0);
                match self {
                    Change::Written(_, written) => bytes[at..next].copy_from_slice(&written[at - start..next - start]),
                    _ => bytes[at..next].fill(0),
                }
            }
            at = next;
        }
    }
}

/// Sees everything that is done below a directory.
#[derive(Debug)]
pub(crate) struct Tape {
    directory: PathBuf,
    /// What the directory held before.
    base: Image,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// How many events there were when the call that a thread is in began.
    began: HashMap<ThreadId, usize>,
}

impl Tape {
    pub(crate) fn new(directory: &Path, base: Image) -> Tape {
        Tape { directory: directory.to_owned(), base, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn name(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.directory).unwrap().to_owned()
    }

    /// How many events there are by now.
    pub(crate) fn len(&self) -> usize {
        self.state().events.len()
    }

    /// The calls up to the `len`th event, and what they leave.
    pub(crate) fn image(&self, len: usize) -> Image {
        Image::after(&self.base, &self.state().events[..len])
    }

    /// When the last sync of a file began that had succeeded by the `len`th event.
    pub(crate) fn last_sync(&self, len: usize) -> Option<usize> {
        self.state().events[..len].iter().rev().find_map(|event| match event {
            Event::Synced { began, .. } => Some(*began),
            _ => None,
        })
    }

    /// A call was refused: the system has not seen it.
    pub(crate) fn refused(&self, file: u64, call: Call<'_>) {
        if matches!(call, Call::SyncData | Call::SyncAll) {
            self.state().events.push(Event::SyncFailed { file });
        }
    }
}

impl Monitor for Tape {
    fn before(&self, _: &Path, _: u64, _: Call<'_>) -> io::Result<()> {
        let mut state = self.state();
        let len = state.events.len();
        state.began.insert(std::thread::current().id(), len);
        Ok(())
    }

    fn after(&self, path: &Path, file: u64, call: Call<'_>, is_ok: bool) {
        if !is_ok {
            return self.refused(file, call);
        }
        let name = self.name(path);
        let mut state = self.state();
        let began = state.began[&std::thread::current().id()];
        let event = match call {
            Call::Create => Event::Created { file, name },
            Call::Open => Event::Opened { file, name },
            Call::Allocate { len } => Event::Changed { file, change: Change::Grown(len) },
            Call::Write { offset, parts } => Event::Changed {
                file,
                change: Change::Written(offset, parts.iter().flat_map(|part| part.to_vec()).collect()),
            },
            Call::Punch { start, end } => Event::Changed { file, change: Change::Punched(start, end) },
            Call::SyncData | Call::SyncAll => Event::Synced { file, began },
            Call::Rename { to } => Event::Renamed { from: name, to: self.name(to) },
            Call::Remove => Event::Removed { name },
            Call::SyncDirectory => Event::DirectorySynced { directory: name, began },
            Call::Read | Call::Map | Call::Populate | Call::List | Call::Free | Call::CreateDirectory => return,
        };
        state.events.push(event);
    }
}

/// The names in a directory and below it, with each file's bytes.
pub(crate) type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// A directory at some moment: what is durable of it, and what is not yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
}

/// A file: what it was, and the changes since.
#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    changes: Vec<(Change, Fate)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Durable,
    Pending,
    /// A sync that should have made it durable has failed.
    InDoubt,
}

#[derive(Clone, Debug)]
struct NameChange {
    event: usize,
    removed: Option<PathBuf>,
    added: Option<(PathBuf, usize)>,
}

impl NameChange {
    fn is_in(&self, directory: &Path) -> bool {
        let name = self.removed.as_ref().or(self.added.as_ref().map(|(name, _)| name));
        name.and_then(|name| name.parent()) == Some(directory)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some((name, file)) = &self.added {
            names.insert(name.clone(), *file);
        }
    }
}

impl Image {
    /// Of what is all durable.
    pub(crate) fn durable(contents: &Contents) -> Image {
        let files = contents.values().map(|bytes| File { bytes: bytes.clone(), changes: Vec::new() }).collect();
        let names = contents.keys().cloned().zip(0..).collect();
        Image { files, names, pending: Vec::new() }
    }

    fn after(base: &Image, events: &[Event]) -> Image {
        let mut image = base.clone();
        // Of an earlier life: no sync of this one has begun before them.
        image.pending.iter_mut().for_each(|change| change.event = 0);
        let mut handles: HashMap<u64, usize> = HashMap::new();
        for (number, event) in events.iter().enumerate() {
            match event {
                Event::Created { file, name } => {
                    handles.insert(*file, image.files.len());
                    image.pending.push(NameChange {
                        event: number,
                        removed: None,
                        added: Some((name.clone(), image.files.len())),
                    });
                    image.files.push(File::default());
                }
                Event::Opened { file, name } => {
                    handles.insert(*file, image.names_by_now()[name]);
                }
                Event::Changed { file, change } => {
                    image.files[handles[file]].changes.push((change.clone(), Fate::Pending));
                }
                Event::Synced { file, .. } => image.files[handles[file]].settle(Fate::Durable),
                Event::SyncFailed { file } => image.files[handles[file]].settle(Fate::InDoubt),
                Event::Renamed { from, to } => {
                    let file = image.names_by_now()[from];
                    image.pending.push(NameChange {
                        event: number,
                        removed: Some(from.clone()),
                        added: Some((to.clone(), file)),
                    });
                }
                Event::Removed { name } => {
                    image.pending.push(NameChange { event: number, removed: Some(name.clone()), added: None });
                }
                Event::DirectorySynced { directory, began } => {
                    let is_durable = |change: &NameChange| change.is_in(directory) && change.event < *began;
                    let (durable, pending) = image.pending.drain(..).partition(is_durable);
                    let durable: Vec<NameChange> = durable;
                    durable.iter().for_each(|change| change.apply(&mut image.names));
                    image.pending = pending;
                }
            }
        }
        image
    }

    /// Whether a power cut would take nothing.
    pub(crate) fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.files.iter().all(|file| file.changes.is_empty())
    }

    fn names_by_now(&self) -> BTreeMap<PathBuf, usize> {
        let mut names = self.names.clone();
        self.pending.iter().for_each(|change| change.apply(&mut names));
        names
    }

    /// All of it: what `kill -9` leaves.
    pub(crate) fn killed(&self) -> Contents {
        self.names_by_now().into_iter().map(|(name, file)| (name, self.files[file].by_now())).collect()
    }

    /// One of the many things that a power cut may leave.
    pub(crate) fn cut(&self, rng: &mut Rng) -> Contents {
        let mut names = self.names.clone();
        let in_order = rng.f32() < 0.8;
        let prefix = rng.usize(..=self.pending.len());
        for (number, change) in self.pending.iter().enumerate() {
            if if in_order { number < prefix } else { rng.bool() } {
                change.apply(&mut names);
            }
        }
        names.into_iter().map(|(name, file)| (name, self.files[file].cut(rng))).collect()
    }
}

impl File {
    /// What becomes of the changes that no sync has seen so far.
    fn settle(&mut self, fate: Fate) {
        let pending = self.changes.iter_mut().filter(|(_, fate)| *fate == Fate::Pending);
        pending.for_each(|(_, of_this)| *of_this = fate);
        if self.changes.iter().all(|(_, fate)| *fate == Fate::Durable) {
            self.changes.drain(..).for_each(|(change, _)| change.apply(&mut self.bytes, || true));
        }
    }

    fn by_now(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        self.changes.iter().for_each(|(change, _)| change.apply(&mut bytes, || true));
        bytes
    }

    fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let of_all = [0.0, 1.0, 0.5, rng.f32()][rng.usize(..4)];
        for (change, fate) in &self.changes {
            // Some writes as a whole, some in part.
            let of_this = if rng.bool() { of_all } else { f32::from(u8::from(rng.bool())) };
            change.apply(&mut bytes, || *fate == Fate::Durable || rng.f32() < of_this);
        }
        bytes
    }
}

/// An empty directory, in memory if there is a place for that: what a disk keeps is played here, not tried.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Makes a directory of it. Pages of zeroes become holes.
pub(crate) fn write_to(directory: &Path, contents: &Contents) {
    for (name, bytes) in contents {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = fs::File::create(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, (number * PAGE) as u64).unwrap();
            }
        }
    }
}

/// What a directory holds, without the log's lock.
pub(crate) fn read_from(directory: &Path) -> Contents {
    let mut contents = Contents::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if !path.ends_with("LOCK") {
                contents.insert(path.strip_prefix(directory).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    contents
}
