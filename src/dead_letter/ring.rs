//! The ring as the process has it: opened, missing and looked for again, made another size, told of. What is in it is `Open`'s.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::entry::{BARE_MAX, Entry, Header, NewEntry, Prepared, Seat, Summary};
use super::file::{self, AREA_START, PAGE, RingFile, Unusable};
use super::open::{Open, Slot};
use super::{DIRECTORY, RingError};
use crate::clock::now_ms;
use crate::wal::disk;

const FILE_NAME: &str = "ring.dl";
/// A ring that is not there is looked for again after this.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// What cannot be read may be there the next time; after so many tries it is passed over.
const PATIENT_TRIES: u32 = 5;
/// How often it is said that entries are overwritten.
const SAY_OVERWRITTEN_AFTER: Duration = Duration::from_secs(60);

/// How a ring is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the file; 0: there is none. Rounded down to whole pages, and up to [`BYTES_MIN`](super::BYTES_MIN).
    pub bytes: u64,
    /// Bytes of the filesystem that must be free for others after it was allocated.
    pub leave_free: u64,
}

/// What is in it, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries.
    pub entries: u64,
    /// Their bytes in the file.
    pub bytes: u64,
    /// Entries that newer ones have taken the place of, since it was opened.
    pub overwritten: u64,
}

/// A part of the entries, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listing {
    /// The newest of them.
    pub entries: Vec<Summary>,
    /// How many older ones are not in it.
    pub older: u64,
}

/// See the module. Belongs to the process that holds the log's lock. Every call but [`Ring::stats`] may wait for the disk.
#[derive(Debug)]
pub struct Ring {
    directory: PathBuf,
    quarantine: PathBuf,
    options: Options,
    state: Mutex<State>,
    entries: AtomicU64,
    bytes: AtomicU64,
    overwritten: AtomicU64,
}

#[derive(Debug)]
struct State {
    ring: Result<Open, Missing>,
    /// It was said that there is no ring, or that it cannot be written.
    is_in_trouble: bool,
    /// Overwritten and not told yet; when it was told last.
    overwritten: u64,
    told_overwritten: Option<Instant>,
}

#[derive(Debug)]
struct Missing {
    reason: String,
    tried: Instant,
    /// So many times.
    tries: u32,
}

impl Ring {
    /// Opens the ring in a log's directory, whatever is there, or makes one. Never fails: while there is no room there is no ring, and
    /// each append tries again to make one.
    #[must_use]
    pub fn open(wal_dir: &Path, options: Options) -> Ring {
        let ring = Ring::closed(wal_dir, options);
        {
            let mut state = ring.lock();
            state.ring = ring.open_file(0);
            if let Err(missing) = &state.ring
                && options.bytes > 0
            {
                let reason = &missing.reason;
                tracing::error!(%reason, "there is no dead-letter ring: what targets refuse is only logged; it is tried again");
                state.is_in_trouble = true;
            }
            ring.count(&state);
        }
        ring
    }

    /// Opens the ring that is in a log's directory, for looking and removing; if there is none, nothing is in it. Nothing is created.
    ///
    /// # Errors
    /// It cannot be read, or it is damaged so that nothing can be made of it.
    pub fn open_existing(wal_dir: &Path) -> io::Result<Ring> {
        let ring = Ring::closed(wal_dir, Options::default());
        match RingFile::open(&ring.path()) {
            Ok(file) => {
                let scan = file.scan();
                ring.lock().ring = Ok(Open::load(file, scan, false));
            }
            Err(Unusable::NotThere) => return Ok(ring),
            Err(Unusable::Damaged(reason)) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
            Err(Unusable::Io(error)) => return Err(error),
        }
        ring.count(&ring.lock());
        Ok(ring)
    }

    fn closed(wal_dir: &Path, options: Options) -> Ring {
        let options =
            if options.bytes == 0 { options } else { Options { bytes: file::rounded(options.bytes), ..options } };
        let missing = Missing { reason: "it was not opened".to_owned(), tried: Instant::now(), tries: 0 };
        let state = State { ring: Err(missing), is_in_trouble: false, overwritten: 0, told_overwritten: None };
        Ring {
            directory: wal_dir.join(DIRECTORY),
            quarantine: wal_dir.join("quarantine"),
            options,
            state: Mutex::new(state),
            entries: AtomicU64::default(),
            bytes: AtomicU64::default(),
            overwritten: AtomicU64::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn count(&self, state: &State) {
        let (entries, bytes) = state.ring.as_ref().map_or((0, 0), |open| (open.ids.len() as u64, open.live_bytes));
        self.entries.store(entries, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of a log's directory that are the ring's: what it takes, or will once it is opened so.
    #[must_use]
    pub fn reserved_bytes(wal_dir: &Path, options: Options) -> u64 {
        let taken = std::fs::metadata(wal_dir.join(DIRECTORY).join(FILE_NAME)).map_or(0, |metadata| metadata.len());
        let wanted = if options.bytes == 0 { 0 } else { file::rounded(options.bytes) };
        let file = taken.max(wanted);
        if file > 0 { file + PAGE } else { 0 }
    }

    /// What is in it. Waits for nothing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            overwritten: self.overwritten.load(Ordering::Relaxed),
        }
    }

    /// Keeps what was refused. When this returns without an error it is durable: then it may be counted in a savepoint. One sync for all
    /// of them (for each quarter of the ring, if they are more).
    ///
    /// # Errors
    /// [`RingError`], but not for a single entry. None of them counts as kept then.
    pub fn append(&self, entries: &[NewEntry]) -> Result<(), RingError> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.options.bytes == 0 {
            return Err(RingError::Off);
        }
        let mut state = self.lock();
        let appended = self.try_append(&mut state, entries, Instant::now());
        self.count(&state);
        match &appended {
            Ok(()) if std::mem::take(&mut state.is_in_trouble) => {
                tracing::info!("the dead-letter ring takes entries again");
            }
            Err(error) if !std::mem::replace(&mut state.is_in_trouble, true) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(%error, cause, "what targets refuse is not kept, only logged");
            }
            _ => {}
        }
        appended
    }

    fn try_append(&self, state: &mut State, entries: &[NewEntry], now: Instant) -> Result<(), RingError> {
        self.make_ready(state, now)?;
        let open = state.ring.as_mut().expect("it is there when it is ready");
        let entry_max = open.file.entry_max();
        let mut chunk = Vec::new();
        let mut chunk_len = 0;
        let mut overwritten = 0;
        let mut done = Ok(());
        for entry in entries {
            let prepared = Prepared::new(entry, entry_max);
            let len = prepared.stored_len();
            if chunk_len + len > entry_max {
                done = done.and_then(|()| open.append(std::mem::take(&mut chunk), chunk_len, &mut overwritten));
                chunk_len = 0;
            }
            chunk_len += len;
            chunk.push(prepared);
        }
        done = done.and_then(|()| open.append(chunk, chunk_len, &mut overwritten));
        self.overwritten.fetch_add(overwritten, Ordering::Relaxed);
        state.tell_overwritten(overwritten, now);
        Ok(done?)
    }

    /// Opens what was not there the last time.
    fn look_again(&self, state: &mut State, now: Instant) {
        if let Err(missing) = &state.ring
            && missing.tries > 0
            && now.saturating_duration_since(missing.tried) >= TRY_AGAIN_AFTER
        {
            let tries = missing.tries;
            state.ring = self.open_file(tries);
        }
    }

    /// Sees to it that the file can be written.
    fn make_ready(&self, state: &mut State, now: Instant) -> Result<(), RingError> {
        if let Ok(open) = &mut state.ring
            && open.is_broken
        {
            match open.mend() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!("somebody has taken the dead-letter ring's file away");
                    state.ring = self.open_file(0);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.look_again(state, now);
        match &state.ring {
            Ok(_) => Ok(()),
            Err(missing) => Err(RingError::Missing { reason: missing.reason.clone() }),
        }
    }

    /// Takes out entries for good; how many there were. When this returns without an error they do not come back, whatever happens.
    ///
    /// # Errors
    /// [`RingError`]; none of them counts as removed then.
    pub fn remove(&self, ids: &[u64]) -> Result<u64, RingError> {
        let mut state = self.lock();
        self.look_again(&mut state, Instant::now());
        if state.ring.is_ok() {
            self.make_ready(&mut state, Instant::now())?;
        }
        let removed = match &mut state.ring {
            Ok(open) => open.remove(ids)?,
            Err(_) => 0,
        };
        self.count(&state);
        Ok(removed)
    }

    /// The ids of a target's entries with their samples, oldest first.
    #[must_use]
    pub fn of_target(&self, target: &str) -> Vec<(u64, u64)> {
        let state = self.lock();
        let Ok(open) = &state.ring else { return Vec::new() };
        let entries = open.ids.iter().filter(|(_, slot)| &*slot.target == target);
        entries.map(|(id, slot)| (*id, slot.samples)).collect()
    }

    /// The samples of an entry, if it is there.
    #[must_use]
    pub fn samples(&self, id: u64) -> Option<u64> {
        self.lock().ring.as_ref().ok()?.ids.get(&id).map(|slot| slot.samples)
    }

    /// The newest `most` entries, or of them those of a target, without bodies. What is damaged is not among them.
    ///
    /// # Errors
    /// [`RingError::Io`].
    pub fn list(&self, target: Option<&str>, most: usize) -> Result<Listing, RingError> {
        let mut state = self.lock();
        self.look_again(&mut state, Instant::now());
        let Ok(open) = &mut state.ring else { return Ok(Listing::default()) };
        let is_asked_for = |slot: &Slot| target.is_none_or(|target| &*slot.target == target);
        let ids: Vec<u64> = open.ids.iter().filter(|(_, slot)| is_asked_for(slot)).map(|(id, _)| *id).collect();
        let (older, shown) = ids.split_at(ids.len().saturating_sub(most));
        let mut listing = Listing { entries: Vec::new(), older: older.len() as u64 };
        for id in shown {
            match open.read(*id, false) {
                Ok((entry, header)) => {
                    let has_body = header.body_len == header.whole_body_len;
                    listing.entries.push(Summary { has_body, ..Summary::from(&entry) });
                }
                Err(RingError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.count(&state);
        Ok(listing)
    }

    /// An entry with its body.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn get(&self, id: u64) -> Result<Entry, RingError> {
        let mut state = self.lock();
        let Ok(open) = &mut state.ring else { return Err(RingError::Unknown { id }) };
        let read = open.read(id, true);
        self.count(&state);
        Ok(read?.0)
    }

    /// Opens what is there, or makes a new one; for the how manieth time.
    fn open_file(&self, tries: u32) -> Result<Open, Missing> {
        let path = self.path();
        let opened = match RingFile::open(&path) {
            Ok(file) => self.take_over(file, tries >= PATIENT_TRIES),
            Err(Unusable::NotThere) => self.create(),
            Err(Unusable::Damaged(reason)) => self.take_away(&reason).and_then(|()| self.create()),
            Err(Unusable::Io(error)) => Err(error),
        };
        opened.map_err(|error| {
            let reason = format!("{}: {error}", path.display());
            Missing { reason, tried: Instant::now(), tries: tries.saturating_add(1) }
        })
    }

    fn create(&self) -> io::Result<Open> {
        if self.options.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is turned off"));
        }
        disk::create_directory(&self.directory)?;
        self.check_room()?;
        let file = RingFile::create(&self.path(), self.options.bytes, 1)?;
        file.take_name()?;
        file.sync_name()?;
        Open::of(file, false)
    }

    fn check_room(&self) -> io::Result<()> {
        // What an earlier process has left of one in the making.
        let _ = disk::remove(&self.path().with_extension("dl.tmp"));
        let Options { bytes, leave_free } = self.options;
        match disk::free_bytes(&self.directory) {
            Ok(free) if free < bytes.saturating_add(leave_free) => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "no room for {bytes} bytes: {free} bytes of the filesystem are free, of which {leave_free} are for others"
                ),
            )),
            // Allocating tells.
            _ => Ok(()),
        }
    }

    /// Goes on with a file that is there. What cannot be read is an error, or passed over.
    fn take_over(&self, file: RingFile, passes_over: bool) -> io::Result<Open> {
        // Who created it may not have lived to make its name durable.
        file.sync_name()?;
        let bytes = file.header.bytes;
        if file.file.metadata()?.len() < bytes {
            tracing::error!(path = %file.path.display(), "the dead-letter ring was cut; what is left of it is kept");
            file.file.allocate(bytes)?;
        }
        let open = Open::of(file, passes_over)?;
        if self.options.bytes == 0 {
            if open.ids.is_empty() {
                disk::remove(&self.path())?;
                return Err(io::Error::new(io::ErrorKind::NotFound, "it is turned off"));
            }
            return Ok(open);
        }
        if bytes == self.options.bytes {
            return Ok(open);
        }
        match self.rebuild(&open) {
            Ok(rebuilt) => {
                // It has the name from now on, durably or not.
                rebuilt.sync_name()?;
                let rebuilt = Open::of(rebuilt, passes_over)?;
                let (from, to) = (bytes, self.options.bytes);
                tracing::info!(
                    from,
                    to,
                    entries = rebuilt.ids.len(),
                    of = open.ids.len(),
                    "the dead-letter ring has another size now"
                );
                Ok(rebuilt)
            }
            Err(error) => {
                tracing::warn!(bytes, %error, "cannot change the size of the dead-letter ring; it is used as it is until the next start");
                Ok(open)
            }
        }
    }

    /// A ring of the configured size with the newest entries that fit, in the place of the old one.
    fn rebuild(&self, old: &Open) -> io::Result<RingFile> {
        self.check_room()?;
        let bytes = self.options.bytes;
        let entry_max = file::entry_max(bytes);
        let mut left = bytes - AREA_START;
        let mut kept = Vec::new();
        for (id, slot) in old.ids.iter().rev() {
            let len = old.places[&slot.offset].len;
            let len = if len > entry_max { BARE_MAX } else { len };
            let Some(rest) = left.checked_sub(len) else { break };
            left = rest;
            kept.push(*id);
        }
        let mut file = RingFile::create(&self.path(), bytes, old.next_id)?;
        let mut offset = AREA_START;
        for id in kept.into_iter().rev() {
            let slot = &old.ids[&id];
            let header = Header::decode(&old.file.read_header(slot.offset)?, old.seat(slot));
            let entry = header.and_then(|header| old.file.read(slot.offset, &header, true).transpose()).transpose()?;
            let Some(Entry { content, body_bytes, .. }) = entry else { continue };
            let prepared = Prepared::of_kept(&content, body_bytes, entry_max);
            let len = prepared.stored_len();
            let seated = prepared.seat(id, 0, id, Seat { salt: file.header.salt, offset, link: 0 });
            file.file.write_at(offset, &mut seated.parts().map(IoSlice::new))?;
            offset += len;
        }
        file.use_up_to(offset)?;
        file.take_name()?;
        Ok(file)
    }

    /// A file of which nothing can be made is not written over: somebody may still make something of it.
    fn take_away(&self, reason: &str) -> io::Result<()> {
        let to = self.quarantine.join(format!("{DIRECTORY}-{}.dl", now_ms()));
        disk::create_directory(&self.quarantine)?;
        disk::rename(&self.path(), &to)?;
        tracing::error!(path = %to.display(), reason, "the dead-letter ring is damaged; what is left of it is kept there");
        Ok(())
    }
}

impl State {
    fn tell_overwritten(&mut self, overwritten: u64, now: Instant) {
        self.overwritten += overwritten;
        let is_time =
            self.told_overwritten.is_none_or(|told| now.saturating_duration_since(told) >= SAY_OVERWRITTEN_AFTER);
        if self.overwritten > 0 && is_time {
            let entries = std::mem::take(&mut self.overwritten);
            self.told_overwritten = Some(now);
            tracing::warn!(
                entries,
                "the dead-letter ring is full: newer entries have taken the place of the oldest (wal.dead_letter_size)"
            );
        }
    }
}
