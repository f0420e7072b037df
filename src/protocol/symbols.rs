//! The table of symbols of a 2.0 request that is being written: each text once, the empty one first (`V2-68`, `V2-69`).
//!
//! ```text
//!   place("job") -> 1    place("api") -> 2    place("job") -> 1    place("") -> 0
//!
//!   encoded   [4: ""] [4: "job"] [4: "api"]        as fields of the request; a text is kept nowhere else
//! ```
//!
//! What is asked for is copied: it may come from a stored request or be made by a rule, the table does not mind.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::wire::{Malformed, put_bytes, put_head};

/// See the module.
#[derive(Debug)]
pub struct SymbolTable {
    /// Where each text lies.
    places: HashTable<Symbol>,
    /// Keyed: senders choose these texts, and many equal hashes would take for ever.
    hasher: RandomState,
    /// Texts lately asked for, by [`cheap_hash`]: most come again soon. Many with equal ones make it useless, not slow.
    recent: Box<[Symbol; RECENT]>,
    /// As fields of the request.
    encoded: Vec<u8>,
}

/// Twelve KiB of them.
const RECENT: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Symbol {
    /// In the table of the request; 0 is no symbol.
    place: u32,
    /// In `encoded`.
    start: u32,
    len: u32,
    /// Of the text: hashed anew whenever the table grows, all texts would be hashed twice.
    hash: u64,
}

impl Symbol {
    fn text(self, encoded: &[u8]) -> &[u8] {
        &encoded[self.start as usize..][..self.len as usize]
    }
}

impl SymbolTable {
    /// Only the empty text is in it, used or not.
    #[must_use]
    pub fn new() -> SymbolTable {
        let mut encoded = Vec::new();
        put_bytes(&mut encoded, FIELD, b"");
        let recent = Box::new([Symbol::default(); RECENT]);
        SymbolTable { places: HashTable::new(), hasher: RandomState::new(), recent, encoded }
    }

    /// The reference to a text, which is put into the table if it is not there.
    ///
    /// # Errors
    /// The table would have more than 4 GiB.
    pub fn place(&mut self, text: &[u8]) -> Result<u32, Malformed> {
        if text.is_empty() {
            return Ok(0);
        }
        let SymbolTable { places, hasher, recent, encoded } = self;
        let recent = &mut recent[cheap_hash(text)];
        if recent.len as usize == text.len() && recent.place > 0 && recent.text(encoded) == text {
            return Ok(recent.place);
        }
        let hash = hasher.hash_one(text);
        if let Some(known) = places.find(hash, |symbol| symbol.text(encoded) == text) {
            *recent = *known;
            return Ok(known.place);
        }
        let too_large = |_| Malformed { offset: 0, what: "more symbols than can be referred to" };
        let place = u32::try_from(places.len() + 1).map_err(too_large)?;
        put_head(encoded, FIELD, text.len());
        let start = u32::try_from(encoded.len()).map_err(too_large)?;
        let len = u32::try_from(text.len()).map_err(too_large)?;
        encoded.extend_from_slice(text);
        *recent = Symbol { place, start, len, hash };
        places.insert_unique(hash, *recent, |symbol| symbol.hash);
        Ok(place)
    }

    /// The reference to a text, if it is in the table.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        if text.is_empty() {
            return Some(0);
        }
        let known = self.places.find(self.hash(text), |symbol| symbol.text(&self.encoded) == text);
        known.map(|symbol| symbol.place)
    }

    /// For other tables over the same request: nobody outside can prepare equal ones.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash_one(bytes)
    }

    /// The request: the table, then these other fields of it.
    #[must_use]
    pub fn followed_by(self, fields: &[u8]) -> Vec<u8> {
        let mut message = self.encoded;
        message.extend_from_slice(fields);
        message
    }
}

impl Default for SymbolTable {
    fn default() -> SymbolTable {
        SymbolTable::new()
    }
}

/// Below [`RECENT`]; of the front, the end and the length.
#[inline]
fn cheap_hash(text: &[u8]) -> usize {
    let (front, end) = match (text.first_chunk(), text.last_chunk()) {
        (Some(front), Some(end)) => (u64::from_le_bytes(*front), u64::from_le_bytes(*end)),
        _ => match (text.first_chunk(), text.last_chunk()) {
            (Some(front), Some(end)) => (u32::from_le_bytes(*front).into(), u32::from_le_bytes(*end).into()),
            _ => text.iter().fold((0, 0), |(front, _), byte| (front << 8 | u64::from(*byte), 0)),
        },
    };
    let mixed = (front ^ end.rotate_left(29) ^ text.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - RECENT.trailing_zeros())) as usize
}

/// Of symbols in a request.
const FIELD: u32 = 4;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::messages::v2 as pb2;
    use super::*;

    #[test]
    fn each_text_has_one_place_and_the_empty_one_the_first() {
        let mut table = SymbolTable::new();
        let texts: Vec<String> = (0..1000).map(|n| format!("text {}", n % 300)).collect();
        let places: Vec<u32> = texts.iter().map(|text| table.place(text.as_bytes()).unwrap()).collect();
        assert_eq!(table.place(b"").unwrap(), 0);
        let request = pb2::Request::decode(&*table.followed_by(b"")).unwrap();
        assert_eq!((request.symbols.len(), &*request.symbols[0]), (301, ""));
        for (text, place) in texts.iter().zip(places) {
            assert_eq!(*text, request.symbols[place as usize]);
        }
    }

    #[test]
    fn texts_that_look_alike_at_both_ends_and_short_ones_keep_apart() {
        let mut table = SymbolTable::new();
        let long = |middle: usize| format!("the same front, {middle:05}, the same end");
        let texts: Vec<String> = (0..5000).map(long).chain((0..300).map(|n| n.to_string())).collect();
        for _ in 0..2 {
            for (place, text) in texts.iter().enumerate() {
                assert_eq!(table.place(text.as_bytes()).unwrap(), place as u32 + 1);
                assert_eq!(table.find(text.as_bytes()), Some(place as u32 + 1));
            }
        }
        assert_eq!(table.find(b"not there"), None);
    }
}
