//! Remembers what the rules made of each series, so that steady traffic runs no expression twice.
//!
//! ```text
//!  key --> young, else old, else the rules
//!            ^        |              |
//!            |<-------'  moved       |      distinct changes, shared: 100,000 series with the same external label
//!            |<----------------------'      cost 24 bytes each (29 with what it takes to find them) and one change
//!            |
//!         full: what is in old is forgotten, young becomes old, a new young begins
//! ```
//!
//! - Two generations instead of ages: a hit writes nothing but, at most once in each generation, a copy into young. Series that all fit into
//!   young are never forgotten while they come.
//! - Bounded: both tables and the changes together stay below the bytes given, a change counted for each generation that uses it. What does
//!   not fit is worked out each time.
//! - The key is a hash of 128 bits under a secret of this process: by chance two series share one once in 2^128, and nobody outside can look for two.
//!
//! A hit allocates nothing.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xxhash_rust::xxh3::xxh3_128_with_secret;

use super::Label;
use super::change::Change;
use super::rules::{Outcome, Rules};
use super::table::{Key, Table};

/// As long as the hash's own.
const SECRET_LEN: usize = 192;
/// Of the first table.
const SLOTS_MIN: usize = 64;
/// A place in the set of distinct changes, and what the allocator takes for the pieces of one.
const CHANGE_OVERHEAD: usize = 96;

/// What becomes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is not sent.
    Dropped,
    /// It is sent as it is.
    Unchanged,
    /// It is sent with other labels.
    Changed(&'a Change),
}

/// Rules with a memory.
#[derive(Debug)]
pub struct Relabeler {
    rules: Rules,
    secret: [u8; SECRET_LEN],
    /// For the bytes of a key; the first is 0.
    scratch: Vec<u8>,
    cache: Cache,
    /// What was too large for the cache.
    uncached: Option<Arc<Interned>>,
    misses: u64,
}

impl Relabeler {
    /// Rules, and how many bytes may be used to remember what they made of each series. Half of them is for the series that come now, at
    /// about 29 bytes each; the rest for those that came before.
    #[must_use]
    pub fn new(rules: Rules, cache_bytes: usize) -> Relabeler {
        let random = RandomState::new();
        let mut secret = [0; SECRET_LEN];
        for (number, bytes) in secret.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&random.hash_one(number).to_le_bytes());
        }
        Relabeler { rules, secret, scratch: Vec::new(), cache: Cache::new(cache_bytes), uncached: None, misses: 0 }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The key of a series whose labels lie in one piece, as in remote write 1.0. The same labels encoded in another way have another
    /// key, which does no harm.
    #[must_use]
    pub fn key_of_encoded(&self, labels: &[u8]) -> Key {
        Key::new(xxh3_128_with_secret(labels, &self.secret))
    }

    /// The key of a series by its labels.
    #[must_use]
    pub fn key_of(&mut self, labels: &[Label<'_>]) -> Key {
        let len: usize = labels.iter().map(|(name, value)| 16 + name.len() + value.len()).sum();
        if self.scratch.len() < 1 + len {
            self.scratch.resize(1 + len, 0);
        }
        // No message begins with this byte, so that no encoded labels can read the same as these.
        let (key, _) = self.scratch.split_at_mut(1 + len);
        let mut rest = &mut key[1..];
        for (name, value) in labels {
            let lens = (name.len() as u128) << 64 | value.len() as u128;
            for piece in [&lens.to_le_bytes()[..], name, value] {
                let (place, behind) = rest.split_at_mut(piece.len());
                place.copy_from_slice(piece);
                rest = behind;
            }
        }
        Key::new(xxh3_128_with_secret(key, &self.secret))
    }

    /// What becomes of a series. Its labels (sorted by name, each once, no value empty) are asked for only if it is not remembered.
    #[inline]
    pub fn relabel<'l, L: AsRef<[Label<'l>]>>(&mut self, key: Key, labels: impl FnOnce() -> L) -> Verdict<'_> {
        if let Some(number) = self.cache.young.find(key) {
            return verdict(self.cache.young.value(number).as_ref());
        }
        self.find_elsewhere(key, labels)
    }

    fn find_elsewhere<'l, L: AsRef<[Label<'l>]>>(&mut self, key: Key, labels: impl FnOnce() -> L) -> Verdict<'_> {
        self.uncached = None;
        let remembered = self.cache.old.find(key).map(|number| self.cache.old.value(number).clone());
        let interned = match remembered {
            Some(interned) => interned,
            None => {
                self.misses += 1;
                match self.rules.apply(labels().as_ref()) {
                    Outcome::Dropped => None,
                    Outcome::Unchanged => Some(self.cache.unchanged.clone()),
                    Outcome::Changed(change) => Some(self.cache.intern(change)),
                }
            }
        };
        match self.cache.remember(key, interned) {
            Ok(number) => verdict(self.cache.young.value(number).as_ref()),
            Err(interned) => {
                self.uncached = interned;
                verdict(self.uncached.as_ref())
            }
        }
    }

    /// How often the rules were run.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Bytes that the memory takes.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }
}

fn verdict(interned: Option<&Arc<Interned>>) -> Verdict<'_> {
    match interned {
        None => Verdict::Dropped,
        Some(interned) if interned.change.is_empty() => Verdict::Unchanged,
        Some(interned) => Verdict::Changed(&interned.change),
    }
}

/// A change, shared by all series to which it happens.
#[derive(Debug)]
struct Interned {
    change: Change,
    /// The last generation that counts it.
    generation: AtomicU32,
}

impl Interned {
    fn bytes(&self) -> usize {
        // Behind two counters.
        size_of::<Interned>() + 16 + self.change.heap_bytes() + CHANGE_OVERHEAD
    }
}

/// As a member of the set: by its change.
#[derive(Debug)]
struct Member(Arc<Interned>);

impl Borrow<Change> for Member {
    fn borrow(&self) -> &Change {
        &self.0.change
    }
}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.change.hash(state);
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        self.0.change == other.0.change
    }
}

impl Eq for Member {}

/// `None` of a series that is dropped.
type Remembered = Option<Arc<Interned>>;

#[derive(Debug)]
struct Cache {
    /// Of each generation, its table and its changes together.
    bytes_max: usize,
    /// What is inserted now.
    young: Table<Remembered>,
    old: Table<Remembered>,
    /// Bytes of the changes that are counted for each.
    young_changes: usize,
    old_changes: usize,
    generation: u32,
    changes: HashSet<Member>,
    unchanged: Arc<Interned>,
}

impl Cache {
    fn new(bytes: usize) -> Cache {
        let unchanged = Interned { change: Change::default(), generation: AtomicU32::new(0) };
        Cache {
            bytes_max: bytes / 2,
            young: Table::default(),
            old: Table::default(),
            young_changes: 0,
            old_changes: 0,
            generation: 1,
            changes: HashSet::new(),
            unchanged: Arc::new(unchanged),
        }
    }

    fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes() + self.young_changes + self.old_changes
    }

    fn intern(&mut self, change: Change) -> Arc<Interned> {
        if let Some(known) = self.changes.get(&change) {
            return known.0.clone();
        }
        let interned = Arc::new(Interned { change, generation: AtomicU32::new(0) });
        self.changes.insert(Member(interned.clone()));
        interned
    }

    /// Puts it into young; the number of its entry, or what cannot be remembered because it is too large.
    fn remember(&mut self, key: Key, interned: Option<Arc<Interned>>) -> Result<usize, Option<Arc<Interned>>> {
        if self.uncounted_bytes(interned.as_ref()) > self.changes_min() || !self.has_made_room(interned.as_ref()) {
            if let Some(interned) = &interned {
                self.forget_if_unused(interned);
            }
            return Err(interned);
        }
        self.young_changes += self.uncounted_bytes(interned.as_ref());
        if let Some(interned) = &interned {
            interned.generation.store(self.generation, Ordering::Relaxed);
        }
        Ok(self.young.insert(key, interned))
    }

    /// What young would take more with this change.
    fn uncounted_bytes(&self, interned: Option<&Arc<Interned>>) -> usize {
        let is_counted = |interned: &Arc<Interned>| {
            Arc::ptr_eq(interned, &self.unchanged) || interned.generation.load(Ordering::Relaxed) == self.generation
        };
        interned.filter(|interned| !is_counted(interned)).map_or(0, |interned| interned.bytes())
    }

    /// Bytes of a generation that its table leaves to changes: series that stay as they are could fill all of it before the first change comes.
    fn changes_min(&self) -> usize {
        self.bytes_max / 8
    }

    /// Whether there is room in young for one more; if need be in a new young.
    fn has_made_room(&mut self, interned: Option<&Arc<Interned>>) -> bool {
        if self.has_room_or_grows(self.uncounted_bytes(interned)) {
            return true;
        }
        self.begin_generation();
        self.has_room_or_grows(self.uncounted_bytes(interned))
    }

    fn has_room_or_grows(&mut self, change_bytes: usize) -> bool {
        let changes = self.young_changes + change_bytes;
        if self.young.bytes() + changes > self.bytes_max {
            return false;
        }
        if self.young.has_room() {
            return true;
        }
        let slots_max = Table::<Remembered>::slots_within(self.bytes_max - changes.max(self.changes_min()));
        let slots = (self.young.slots() / 2 * 3).max(SLOTS_MIN).min(slots_max);
        // While entries are moved there are two tables.
        let is_within = self.bytes() + change_bytes + Table::<Remembered>::bytes_with(slots) <= 2 * self.bytes_max;
        if Table::<Remembered>::capacity(slots) <= self.young.len() || !is_within {
            return false;
        }
        self.young.grow(slots);
        true
    }

    fn begin_generation(&mut self) {
        // As large as the one that is full, at once: to grow there would take both. Smaller, if it was not the table that was full.
        let is_sparse = 2 * self.young.len() < Table::<Remembered>::capacity(self.young.slots());
        let slots = self.young.slots() / if is_sparse { 2 } else { 1 };
        let reused = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.young = reused.emptied(slots);
        self.old_changes = std::mem::take(&mut self.young_changes);
        self.generation = self.generation.wrapping_add(1);
        self.changes.retain(|member| Arc::strong_count(&member.0) > 1);
        self.changes.shrink_to(2 * self.changes.len());
    }

    /// Nobody but the set and the caller has it.
    fn forget_if_unused(&mut self, interned: &Arc<Interned>) {
        if Arc::strong_count(interned) <= 2 {
            self.changes.remove(&interned.change);
        }
    }
}
