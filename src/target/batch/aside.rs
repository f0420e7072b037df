//! What of a batch goes behind the others: what is known to be trouble.
//!
//! ```text
//!   set_aside         [ a b c! a d b ]  ->  [ a b a d b ] [ c! ]        what comes behind it of its series moves with it, in its order
//!   set_poison_aside  the same of what is left of a batch, when a series was just given up
//!   front_to_back     [ a b ] [ c ] [ d ]  ->  [ c ] [ d ] [ a b ]      only what shares no series with the others
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::super::outgoing::Outgoing;
use super::Batch;
use super::part::{Chosen, Contents, EntryFacts, Part};
use super::piece::{Piece, Role};

impl Batch {
    /// Sets entries aside, if there are any that `role` says something of: they go in pieces of their own, behind the others. Only while the batch is
    /// whole. `role` is asked with the record, an entry's series, and whether that came before in the record.
    pub fn set_aside(&mut self, contents: &dyn Contents, role: impl Fn(&Outgoing, u64, bool) -> Role) {
        assert!(self.pieces.len() == 1 && self.pieces[0].is_of_whole_records(), "it is whole");
        let mut entries = Vec::new();
        for record in 0..self.records.len() {
            // Where one record cannot be read nothing is set aside.
            let Some(of_record) = self.entries(record, contents) else { return };
            entries.push(of_record);
        }
        // What comes behind the first of a series that is set aside is set aside too, or it would overtake it: it may well be innocent.
        let mut aside: HashMap<u64, Role> = HashMap::new();
        let roles: Vec<Vec<(Role, bool)>> = entries
            .iter()
            .enumerate()
            .map(|(record, entries)| {
                let record = self.records[record].record.clone();
                let mut seen = HashSet::new();
                let mut role_of = |entry: &EntryFacts| {
                    let own = role(&record, entry.series, !seen.insert(entry.series));
                    let role = own.max(aside.get(&entry.series).copied().unwrap_or(Role::Main));
                    if role > Role::Main {
                        aside.insert(entry.series, role);
                    }
                    (role, role > own)
                };
                entries.iter().map(&mut role_of).collect()
            })
            .collect();
        if aside.is_empty() {
            return;
        }
        let is_possibly_delivered = self.pieces[0].is_possibly_delivered;
        self.pieces.clear();
        for owed in &mut self.records {
            owed.parts = 0;
        }
        for wanted in [Role::Main, Role::Suspects, Role::Culprits, Role::Poison] {
            let mut parts = Vec::new();
            let mut has_innocent = false;
            for (record, roles) in roles.iter().enumerate() {
                let of_wanted = (0u32..).zip(roles).filter(|(_, (role, _))| *role == wanted);
                has_innocent |= of_wanted.clone().any(|(_, (_, is_innocent))| *is_innocent);
                let numbers: Vec<u32> = of_wanted.map(|(number, _)| number).collect();
                let is_all = numbers.len() == roles.len();
                // A record without any entry (metadata only) is the main piece's.
                if numbers.is_empty() && !(is_all && wanted == Role::Main) {
                    continue;
                }
                let chosen = if is_all { Chosen::All } else { Chosen::listed(numbers) };
                parts.push(Part { record, chosen });
                self.records[record].parts += 1;
            }
            if !parts.is_empty() {
                // What is innocent is to be found.
                let role = if wanted == Role::Culprits && has_innocent { Role::Suspects } else { wanted };
                self.pieces.push_back(Piece { is_possibly_delivered, ..Piece::new(parts, role) });
            }
        }
    }

    /// The batch was refused as a whole before it was set aside: when the target takes its first piece, the culprit is in the other one.
    pub fn was_refused_before(&mut self) {
        // (With three it would be in one of two.)
        if let (2, Some(other)) = (self.pieces.len(), self.pieces.get_mut(1)) {
            other.is_bad_if_left_was_taken = true;
        }
    }

    /// Takes series out of everything that is left, and puts them last, in one piece: they were just given up as poison, and what else there is of
    /// them gets one attempt. As long as a record is left that does not tell what it holds, nothing is taken out: it could overtake that.
    pub fn set_poison_aside(&mut self, series: &HashSet<u64>, contents: &dyn Contents) {
        if self.left_series(contents).is_none() {
            return;
        }
        let mut aside: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut is_possibly_delivered = false;
        let mut kept = VecDeque::new();
        for mut piece in std::mem::take(&mut self.pieces) {
            let mut parts = Vec::new();
            let mut has_lost = false;
            for part in &piece.parts {
                let entries = self.entries(part.record, contents).expect("all that is left tells");
                let is_out =
                    |number: &u32| piece.role == Role::Poison || series.contains(&entries[*number as usize].series);
                let (out, left): (Vec<u32>, Vec<u32>) = part.numbers(entries.len()).into_iter().partition(is_out);
                if out.is_empty() {
                    parts.push(part.clone());
                    continue;
                }
                has_lost = true;
                aside.entry(part.record).or_default().extend(out);
                if !left.is_empty() {
                    parts.push(Part { record: part.record, chosen: Chosen::listed(left) });
                }
            }
            if has_lost {
                is_possibly_delivered |= piece.is_possibly_delivered;
                piece = Piece { failing_since: None, ..piece.child(parts) };
            }
            if !piece.parts.is_empty() {
                kept.push_back(piece);
            }
        }
        if !aside.is_empty() {
            let parts = aside.into_iter().map(|(record, mut numbers)| {
                numbers.sort_unstable();
                Part { record, chosen: Chosen::listed(numbers) }
            });
            kept.push_back(Piece { is_possibly_delivered, ..Piece::new(parts.collect(), Role::Poison) });
        }
        for owed in &mut self.records {
            owed.parts = 0;
        }
        for part in kept.iter().flat_map(|piece| &piece.parts) {
            self.records[part.record].parts += 1;
        }
        self.pieces = kept;
        self.before_single_out = None;
    }

    /// Whether all records of the front piece tell what they hold.
    pub(super) fn front_tells(&mut self, contents: &dyn Contents) -> bool {
        let parts = self.pieces.front().map(|piece| piece.parts.clone()).unwrap_or_default();
        parts.iter().all(|part| self.entries(part.record, contents).is_some())
    }

    /// Puts the front piece behind all others, if it is known to share no series with them. Whether it was.
    pub fn front_to_back(&mut self, contents: &dyn Contents) -> bool {
        if self.pieces.len() < 2 || !self.front_tells(contents) {
            return false;
        }
        let front: HashSet<u64> = self.front_entries(contents).into_iter().map(|(_, entry)| entry.series).collect();
        let piece = self.pieces.pop_front().expect("there are two");
        let shares = self.left_series(contents).is_none_or(|others| others.iter().any(|series| front.contains(series)));
        if shares {
            self.pieces.push_front(piece);
        } else {
            self.pieces.push_back(piece);
        }
        !shares
    }
}
