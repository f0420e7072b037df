//! What is known of metric families: from the metadata messages of 1.0, for the series of 2.0.
//!
//! ```text
//!  metadata message --learn--> waiting ----its turn comes, and a series has asked for it----> asked for
//!                                 |                                                              |  ^
//!                                 '--nobody has: forgotten        nobody has, this time: forgotten  '--somebody has: once more
//! ```
//!
//! Each of the two queues has its share of the bytes. A sender that floods us with metadata pushes out what waits, but nothing that
//! series ask for. Both are rings of numbers into one list; each turn is paid for by what came in, so nothing is ever searched.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::family;

/// See the module.
#[derive(Debug)]
pub struct KnownMetadata {
    places: HashTable<u32>,
    /// Keyed: senders choose the names.
    hasher: RandomState,
    families: Vec<Family>,
    free: Vec<u32>,
    waiting: Queue,
    asked_for: Queue,
}

#[derive(Debug, Default)]
struct Family {
    hash: u64,
    /// Name, help and unit, one behind the other.
    texts: Box<[u8]>,
    name_len: u32,
    help_len: u32,
    metric_type: u64,
    is_asked_for: bool,
    is_in_asked_for: bool,
}

#[derive(Debug, Default)]
struct Queue {
    turns: VecDeque<u32>,
    bytes: usize,
    bytes_max: usize,
}

/// Type, help and unit of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata<'a> {
    pub metric_type: u64,
    pub help: &'a [u8],
    pub unit: &'a [u8],
}

/// What a family takes beside its texts, about.
const OVERHEAD: usize = 96;

/// Longer texts are not kept: one of them could push out many others.
const TEXTS_LEN_MAX: usize = 8 << 10;

/// Ten thousand families with texts of a hundred bytes.
const BYTES_MAX: usize = 2 << 20;

impl Default for KnownMetadata {
    fn default() -> KnownMetadata {
        KnownMetadata::with_bytes_max(BYTES_MAX)
    }
}

impl KnownMetadata {
    /// What is kept takes so many bytes at most, about.
    #[must_use]
    pub fn with_bytes_max(bytes_max: usize) -> KnownMetadata {
        let asked_for_max = bytes_max / 4 * 3;
        KnownMetadata {
            places: HashTable::new(),
            hasher: RandomState::new(),
            families: Vec::new(),
            free: Vec::new(),
            waiting: Queue { bytes_max: bytes_max - asked_for_max, ..Queue::default() },
            asked_for: Queue { bytes_max: asked_for_max, ..Queue::default() },
        }
    }

    /// How many families are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes a metadata message.
    pub(super) fn learn(&mut self, name: &[u8], metadata: Metadata<'_>) {
        let Metadata { metric_type, help, unit } = metadata;
        if name.is_empty() || name.len() + help.len() + unit.len() > TEXTS_LEN_MAX {
            return;
        }
        let hash = self.hasher.hash_one(name);
        if let Some(place) = self.place(hash, name) {
            if self.families[place as usize].metadata() == metadata {
                return;
            }
            let family = &mut self.families[place as usize];
            let before = family.bytes();
            family.set(name, metric_type, help, unit);
            let after = family.bytes();
            let queue = if family.is_in_asked_for { &mut self.asked_for } else { &mut self.waiting };
            queue.bytes = queue.bytes - before + after;
        } else {
            let mut family = Family { hash, ..Family::default() };
            family.set(name, metric_type, help, unit);
            self.waiting.bytes += family.bytes();
            let place = match self.free.pop() {
                Some(place) => place,
                None => {
                    self.families.push(Family::default());
                    (self.families.len() - 1) as u32
                }
            };
            self.families[place as usize] = family;
            let families = &self.families;
            self.places.insert_unique(hash, place, |place| families[*place as usize].hash);
            self.waiting.turns.push_back(place);
        }
        self.make_room();
    }

    /// What is known of the series of this metric: as a family of this very name, else as a member of one.
    pub(super) fn of_metric(&mut self, metric: &[u8]) -> Option<Metadata<'_>> {
        let exact = self.place(self.hasher.hash_one(metric), metric);
        let place = exact.or_else(|| {
            let (name, types) = family::shorter(metric)?;
            let place = self.place(self.hasher.hash_one(name), name)?;
            types.contains(&self.families[place as usize].metric_type).then_some(place)
        });
        let family = &mut self.families[place? as usize];
        family.is_asked_for = true;
        Some(family.metadata())
    }

    fn place(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.places.find(hash, |place| self.families[*place as usize].name() == name).copied()
    }

    fn make_room(&mut self) {
        while self.waiting.is_too_full()
            && let Some(place) = self.waiting.turns.pop_front()
        {
            let family = &mut self.families[place as usize];
            self.waiting.bytes -= family.bytes();
            if std::mem::take(&mut family.is_asked_for) {
                family.is_in_asked_for = true;
                self.asked_for.bytes += family.bytes();
                self.asked_for.turns.push_back(place);
            } else {
                self.forget(place);
            }
        }
        while self.asked_for.is_too_full()
            && let Some(place) = self.asked_for.turns.pop_front()
        {
            let family = &mut self.families[place as usize];
            if std::mem::take(&mut family.is_asked_for) {
                self.asked_for.turns.push_back(place);
            } else {
                self.asked_for.bytes -= family.bytes();
                self.forget(place);
            }
        }
    }

    /// It is in no queue any more.
    fn forget(&mut self, place: u32) {
        let family = std::mem::take(&mut self.families[place as usize]);
        if let Ok(found) = self.places.find_entry(family.hash, |other| *other == place) {
            found.remove();
        }
        self.free.push(place);
    }
}

impl Family {
    fn set(&mut self, name: &[u8], metric_type: u64, help: &[u8], unit: &[u8]) {
        self.texts = [name, help, unit].concat().into();
        (self.name_len, self.help_len) = (name.len() as u32, help.len() as u32);
        self.metric_type = metric_type;
    }

    fn name(&self) -> &[u8] {
        &self.texts[..self.name_len as usize]
    }

    fn metadata(&self) -> Metadata<'_> {
        let (help, unit) = self.texts[self.name_len as usize..].split_at(self.help_len as usize);
        Metadata { metric_type: self.metric_type, help, unit }
    }

    fn bytes(&self) -> usize {
        self.texts.len() + OVERHEAD
    }
}

impl Queue {
    fn is_too_full(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::super::family::{COUNTER, HISTOGRAM, SUMMARY};
    use super::*;

    fn metadata(metric_type: u64, help: &str) -> Metadata<'_> {
        Metadata { metric_type, help: help.as_bytes(), unit: b"seconds" }
    }

    fn help(known: &mut KnownMetadata, metric: &str) -> Option<String> {
        known.of_metric(metric.as_bytes()).map(|metadata| String::from_utf8(metadata.help.to_vec()).unwrap())
    }

    #[test]
    fn a_series_has_the_metadata_of_its_name_or_else_of_the_family_its_type_makes_it_a_member_of() {
        let mut known = KnownMetadata::default();
        known.learn(b"rpc", metadata(HISTOGRAM, "histogram"));
        known.learn(b"rpc_count", metadata(COUNTER, "another metric"));
        known.learn(b"requests", metadata(COUNTER, "of OpenMetrics"));
        known.learn(b"jobs_total", metadata(COUNTER, "of the text format"));
        known.learn(b"gc", metadata(SUMMARY, "summary"));
        for (metric, expected) in [
            ("rpc_bucket", Some("histogram")),
            ("rpc_sum", Some("histogram")),
            ("rpc_count", Some("another metric")),
            ("rpc", Some("histogram")),
            ("rpc_total", None),
            ("requests_total", Some("of OpenMetrics")),
            ("jobs_total", Some("of the text format")),
            ("gc", Some("summary")),
            ("gc_count", Some("summary")),
            ("gc_bucket", None),
        ] {
            assert_eq!(help(&mut known, metric).as_deref(), expected, "{metric}");
        }
        let found = known.of_metric(b"rpc_bucket").unwrap();
        assert_eq!((found.metric_type, found.unit), (HISTOGRAM, &b"seconds"[..]));
    }

    #[test]
    fn what_is_learned_later_counts() {
        let mut known = KnownMetadata::default();
        known.learn(b"a", metadata(COUNTER, "old"));
        known.learn(b"a", metadata(COUNTER, "new and longer"));
        assert_eq!((help(&mut known, "a").as_deref(), known.len()), (Some("new and longer"), 1));
    }

    fn bytes(known: &KnownMetadata) -> usize {
        let live = known.families.iter().filter(|family| family.name_len > 0);
        let bytes = live.map(Family::bytes).sum::<usize>();
        assert_eq!(bytes, known.waiting.bytes + known.asked_for.bytes);
        assert_eq!(known.len(), known.waiting.turns.len() + known.asked_for.turns.len());
        bytes
    }

    #[test]
    fn a_flood_of_metadata_pushes_out_nothing_that_series_ask_for() {
        let mut known = KnownMetadata::with_bytes_max(40_000);
        for n in 0..50 {
            known.learn(format!("used_{n}").as_bytes(), metadata(COUNTER, "help"));
            assert!(help(&mut known, &format!("used_{n}")).is_some());
        }
        // None of them is asked for meanwhile.
        for n in 0..100_000 {
            known.learn(format!("flood_{n}").as_bytes(), metadata(COUNTER, &"x".repeat(n % 300)));
            if n % 1000 == 0 {
                assert!(bytes(&known) <= 40_000 + TEXTS_LEN_MAX);
            }
        }
        for n in 0..50 {
            assert!(help(&mut known, &format!("used_{n}")).is_some(), "{n}");
        }
        assert!(known.families.len() < 1000);
    }

    #[test]
    fn of_more_families_than_there_is_room_for_those_lately_asked_for_stay() {
        let mut known = KnownMetadata::with_bytes_max(40_000);
        for n in 0..10_000 {
            let name = format!("family_{n}");
            known.learn(name.as_bytes(), metadata(COUNTER, "help"));
            help(&mut known, &name);
            assert!(help(&mut known, "family_0").is_some(), "asked for all the time: after {n}");
            assert!(bytes(&known) <= 40_000 + TEXTS_LEN_MAX);
        }
        assert!(help(&mut known, "family_1").is_none());
    }

    #[test]
    fn texts_that_are_too_long_are_not_kept() {
        let mut known = KnownMetadata::default();
        known.learn(b"a", metadata(COUNTER, &"x".repeat(TEXTS_LEN_MAX)));
        known.learn(b"", metadata(COUNTER, "no name"));
        assert!(known.is_empty());
    }
}
