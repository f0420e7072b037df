//! Values by key, in the order in which they came. Pure.
//!
//! ```text
//!  slots     [ . 2 . 0 . . 1 . ]      open addressing: numbers of entries, and a piece of the hash beside each
//!                |
//!                v
//!  entries   [ a b c . . ]            behind a came b: so it does the next time, most likely
//!                ^ next
//! ```
//!
//! Senders send their series in the same order with each scrape. So the next entry is looked at first: it lies where the last one ended, while a
//! search reads two places of memory that nothing leads to, which costs more than all else about a series that is remembered.

/// What a series is remembered by: a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

impl Key {
    pub(super) fn new(hash: u128) -> Key {
        Key([(hash >> 64) as u64, hash as u64])
    }

    /// The half of the hash of which a piece stands in the slot.
    fn piece(self) -> u32 {
        self.0[1] as u32
    }
}

/// Entries that there are at most: so many have a number in a slot, and some bits are left for the hash.
const ENTRIES_MAX: usize = 1 << 27;

/// See the module. As many slots as fit, which need not be a power of two.
#[derive(Debug)]
pub(super) struct Table<V> {
    entries: Vec<(Key, V)>,
    /// The number of an entry and 1, in the bits of `number_mask`; in the others what the hash has there. 0 is empty.
    slots: Box<[u32]>,
    number_mask: u32,
    /// Behind the entry that was found last.
    next: usize,
}

impl<V> Default for Table<V> {
    fn default() -> Table<V> {
        Table::with_slots(0)
    }
}

impl<V> Table<V> {
    pub fn with_slots(slots: usize) -> Table<V> {
        Table::of(Vec::with_capacity(Table::<V>::capacity(slots)), slots)
    }

    fn of(entries: Vec<(Key, V)>, slots: usize) -> Table<V> {
        let numbers = Table::<V>::capacity(slots) as u32 + 1;
        let number_mask = numbers.next_power_of_two() - 1;
        let mut table = Table { entries, slots: vec![0; slots].into(), number_mask, next: 0 };
        (0..table.entries.len()).for_each(|number| table.enter(number));
        table
    }

    /// How many entries fit beside so many slots. A quarter of these stays empty, or a search would take long.
    pub fn capacity(slots: usize) -> usize {
        (slots / 4 * 3).min(ENTRIES_MAX)
    }

    /// Bytes of a table with so many slots.
    pub fn bytes_with(slots: usize) -> usize {
        slots * size_of::<u32>() + Table::<V>::capacity(slots) * size_of::<(Key, V)>()
    }

    /// The most slots that so many bytes are enough for.
    pub fn slots_within(bytes: usize) -> usize {
        // (A multiple of four is as good as what it is short of.)
        4 * (bytes / Table::<V>::bytes_with(4))
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + self.entries.capacity() * size_of::<(Key, V)>()
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn has_room(&self) -> bool {
        self.entries.len() < Table::<V>::capacity(self.slots.len())
    }

    /// The value of an entry.
    ///
    /// # Panics
    /// There is no such entry.
    pub fn value(&self, number: usize) -> &V {
        &self.entries[number].1
    }

    /// The number of the entry with this key.
    #[inline]
    pub fn find(&mut self, key: Key) -> Option<usize> {
        let number = match self.entries.get(self.next) {
            Some((next, _)) if *next == key => self.next,
            _ => self.search(key)?,
        };
        self.next = number + 1;
        Some(number)
    }

    fn search(&self, key: Key) -> Option<usize> {
        let mut slot = self.start(key);
        loop {
            let found = *self.slots.get(slot)?;
            if found == 0 {
                return None;
            }
            if (found ^ key.piece()) & !self.number_mask == 0 {
                let number = (found & self.number_mask) as usize - 1;
                if self.entries[number].0 == key {
                    return Some(number);
                }
            }
            slot = self.behind(slot);
        }
    }

    /// Where the search for a key begins: the slots share the range of the hash.
    fn start(&self, key: Key) -> usize {
        ((u128::from(key.0[0]) * self.slots.len() as u128) >> 64) as usize
    }

    fn behind(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    /// Puts an entry into the slots.
    fn enter(&mut self, number: usize) {
        let key = self.entries[number].0;
        let mut slot = self.start(key);
        while self.slots[slot] != 0 {
            slot = self.behind(slot);
        }
        self.slots[slot] = (number as u32 + 1) | (key.piece() & !self.number_mask);
    }

    /// The key is not there, and there is room. The number of its entry.
    pub fn insert(&mut self, key: Key, value: V) -> usize {
        debug_assert!(self.has_room());
        let number = self.entries.len();
        self.entries.push((key, value));
        self.enter(number);
        self.next = number + 1;
        number
    }

    /// There are more slots than before.
    pub fn grow(&mut self, slots: usize) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.reserve_exact(Table::<V>::capacity(slots) - entries.len());
        *self = Table { next: self.next, ..Table::of(entries, slots) };
    }

    /// One of this many slots, made of what is not used any more.
    pub fn emptied(mut self, slots: usize) -> Table<V> {
        if self.slots.len() != slots {
            drop(self);
            return Table::with_slots(slots);
        }
        self.entries.clear();
        self.slots.fill(0);
        self.next = 0;
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few of them, that share slots and pieces.
    fn key(number: u64) -> Key {
        Key([(number % 5) << 61, number % 7])
    }

    #[test]
    fn the_next_one_is_found_where_the_last_one_ended_and_all_others_too() {
        let mut table = Table::with_slots(64);
        let numbers: Vec<usize> = (0..35).map(|number| table.insert(key(number), number)).collect();
        assert_eq!(numbers, (0..35).collect::<Vec<_>>());
        for number in (0..35).chain((0..35).rev()).chain((0..35).map(|number| number * 4 % 35)) {
            let found = table.find(key(number)).unwrap();
            assert_eq!((*table.value(found), table.next), (number, found + 1));
        }
        assert_eq!(table.find(Key([1, 1])), None);
    }

    #[test]
    fn what_fits_into_so_many_bytes_takes_no_more() {
        for bytes in (0..5000).chain([1 << 20, 7_340_032]) {
            let table = Table::<u64>::with_slots(Table::<u64>::slots_within(bytes));
            assert!(table.bytes() <= bytes && bytes < table.bytes() + Table::<u64>::bytes_with(4));
            assert_eq!(table.bytes(), Table::<u64>::bytes_with(table.slots()));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((0..40u64, 0..20u8), 0..300),
            slots in 0..20usize,
        ) {
            let mut table = Table::with_slots(slots);
            let mut map = Vec::new();
            for (step, (wanted, action)) in steps.into_iter().enumerate() {
                let known = map.iter().position(|(other, _)| *other == key(wanted));
                prop_assert_eq!(table.find(key(wanted)), known, "in the order in which they came");
                if let Some(number) = known {
                    prop_assert_eq!(*table.value(number), map[number].1);
                }
                match action {
                    0 => {
                        table = table.emptied(slots);
                        map.clear();
                    }
                    1..4 => table.grow(table.slots() + usize::from(action)),
                    _ if known.is_none() && table.has_room() => {
                        table.insert(key(wanted), step);
                        map.push((key(wanted), step));
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), map.len());
            }
        }
    }
}
