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
use prost::encoding::encode_varint;

use super::wire::Malformed;

/// See the module.
#[derive(Debug)]
pub struct SymbolTable {
    /// Where each text lies.
    places: HashTable<Symbol>,
    /// Keyed: senders choose these texts, and many equal hashes would take for ever.
    hasher: RandomState,
    /// As fields of the request.
    encoded: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    /// In the table of the request.
    place: u32,
    /// In `encoded`.
    start: u32,
    len: u32,
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
        SymbolTable { places: HashTable::new(), hasher: RandomState::new(), encoded }
    }

    /// The reference to a text, which is put into the table if it is not there.
    ///
    /// # Errors
    /// The table would have more than 4 GiB.
    pub fn place(&mut self, text: &[u8]) -> Result<u32, Malformed> {
        if text.is_empty() {
            return Ok(0);
        }
        let SymbolTable { places, hasher, encoded } = self;
        let hash = hasher.hash_one(text);
        if let Some(known) = places.find(hash, |symbol| symbol.text(encoded) == text) {
            return Ok(known.place);
        }
        let too_large = |_| Malformed { offset: 0, what: "more symbols than can be referred to" };
        let place = u32::try_from(places.len() + 1).map_err(too_large)?;
        put_head(encoded, FIELD, text.len());
        let start = u32::try_from(encoded.len()).map_err(too_large)?;
        let len = u32::try_from(text.len()).map_err(too_large)?;
        encoded.extend_from_slice(text);
        let texts = &*encoded;
        places.insert_unique(hash, Symbol { place, start, len }, |symbol| hasher.hash_one(symbol.text(texts)));
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

/// Of symbols in a request.
const FIELD: u32 = 4;

/// Appends a length-delimited field.
pub(super) fn put_bytes(to: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_head(to, number, content.len());
    to.extend_from_slice(content);
}

/// Appends the tag and the length of a length-delimited field.
pub(super) fn put_head(to: &mut Vec<u8>, number: u32, len: usize) {
    encode_varint(u64::from(number) << 3 | 2, to);
    encode_varint(len as u64, to);
}

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
}
