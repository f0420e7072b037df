//! What of a batch goes out of its turn: entries that are known to be trouble behind the others, and one entry, or one series, before the others,
//! as a question.
//!
//! ```text
//!   set_aside         [ a b c! a d b ]  ->  [ a b a d b ] [ c! ]        all entries of a series move together, and keep their order
//!   set_poison_aside  the same of what is left of a batch, when a series was just given up
//!   single_out        [ a b c d ]       ->  [ c ] [ a b d ]             only one whose series comes once: it overtakes nothing
//!   call_witness      [ r1: a b c b | r2 ]  ->  [ r1: b b ] [ r1: a c ] [ r2 ]   the series that comes last in the first record
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::Batch;
use super::part::{Chosen, Contents, EntryFacts, Part};
use super::piece::{Piece, Role, Witness};
use crate::wal::Record;

/// So many are few.
const CHEAP: usize = 8;
/// A series of so many entries is heard one by one, whatever the budget is. (More come in a request only from who sends few series in large requests.)
const WITNESS: usize = 32;

impl Batch {
    /// Sets entries aside, if there are any that `role` says something of: they go in pieces of their own, behind the others. Only before the first
    /// attempt. `role` is asked with the record and an entry's series.
    pub fn set_aside(&mut self, contents: &dyn Contents, role: impl Fn(&Record, u64) -> Role) {
        assert!(self.pieces.len() == 1 && self.pieces[0].is_of_whole_records(), "nothing was sent yet");
        let mut entries = Vec::new();
        for record in 0..self.records.len() {
            // Where one record cannot be read nothing is set aside.
            let Some(of_record) = self.entries(record, contents) else { return };
            entries.push(of_record);
        }
        // What comes behind the first of a series that is set aside is set aside too, or it would overtake it. Poison is the last of all.
        let mut aside: HashMap<u64, Role> = HashMap::new();
        let roles: Vec<Vec<Role>> = entries
            .iter()
            .enumerate()
            .map(|(record, entries)| {
                let record = self.records[record].record.clone();
                let mut role_of = |entry: &EntryFacts| {
                    let own = role(&record, entry.series);
                    match (own, aside.get(&entry.series).copied()) {
                        (Role::Main, None) => Role::Main,
                        (own, before) => {
                            let role = if own == Role::Poison || before == Some(Role::Poison) {
                                Role::Poison
                            } else {
                                Role::Culprits
                            };
                            aside.insert(entry.series, role);
                            role
                        }
                    }
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
        for wanted in [Role::Main, Role::Culprits, Role::Poison] {
            let mut parts = Vec::new();
            let mut entries = 0;
            for (record, roles) in roles.iter().enumerate() {
                let numbers: Vec<u32> =
                    (0u32..).zip(roles).filter(|(_, role)| **role == wanted).map(|(number, _)| number).collect();
                let is_all = numbers.len() == roles.len();
                entries += numbers.len();
                // A record without any entry (metadata only) is the main piece's.
                if numbers.is_empty() && !(is_all && wanted == Role::Main) {
                    continue;
                }
                let chosen = if is_all {
                    Chosen::All
                } else {
                    let len = numbers.len();
                    Chosen::Listed(numbers.into(), 0..len)
                };
                parts.push(Part { record, chosen });
                self.records[record].parts += 1;
            }
            if !parts.is_empty() {
                let is_cheap = wanted == Role::Culprits && entries <= CHEAP;
                self.pieces.push_back(Piece { is_possibly_delivered, is_cheap, ..Piece::new(parts, wanted) });
            }
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
                    let len = left.len();
                    parts.push(Part { record: part.record, chosen: Chosen::Listed(left.into(), 0..len) });
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
                let len = numbers.len();
                Part { record, chosen: Chosen::Listed(numbers.into(), 0..len) }
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
    fn front_tells(&mut self, contents: &dyn Contents) -> bool {
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

    /// Takes one entry out of the front piece and puts it before it, as a piece of its own: a question to a target that takes nothing of the
    /// rest. Only one whose series comes once in the piece, so that it overtakes nothing, and only if all of the piece is known. `pick` chooses
    /// among `n`. Whether there was one.
    pub fn single_out(&mut self, contents: &dyn Contents, pick: impl FnOnce(usize) -> usize) -> bool {
        let tells = self.front_tells(contents);
        let entries = self.front_entries(contents);
        let Some(piece) = self.pieces.front() else { return false };
        if entries.len() < 2 || !tells {
            return false;
        }
        let mut times: HashMap<u64, u32> = HashMap::new();
        for (_, entry) in &entries {
            *times.entry(entry.series).or_default() += 1;
        }
        let lone: Vec<usize> = (0..entries.len()).filter(|at| times[&entries[*at].1.series] == 1).collect();
        if lone.is_empty() {
            return false;
        }
        let mut at = lone[pick(lone.len()).min(lone.len() - 1)];
        let counts = self.records.iter().map(|owed| owed.parts).collect();
        self.before_single_out = Some((self.pieces.clone(), counts));
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut single = None;
        for part in piece.parts.clone() {
            let all = self.records[part.record].entries.clone().flatten().map_or(0, |entries| entries.len());
            let len = part.len(all);
            if single.is_some() {
                after.push(part);
            } else if at >= len {
                at -= len;
                before.push(part);
            } else {
                let (left, rest) = part.split(at, all);
                let (middle, right) = rest.split(1, all);
                // One part became up to three.
                let pieces = usize::from(at > 0) + 1 + usize::from(at + 1 < len);
                self.records[part.record].parts += pieces - 1;
                if at > 0 {
                    before.push(left);
                }
                single = Some(middle);
                if at + 1 < len {
                    after.push(right);
                }
            }
        }
        let piece = self.pieces.pop_front().expect("it was looked at");
        before.extend(after);
        let mut rest = piece.child(before);
        rest.failures = piece.failures;
        rest.strikes = piece.strikes;
        rest.unanswered = piece.unanswered;
        self.pieces.push_front(rest);
        self.pieces.push_front(piece.child(vec![single.expect("it is in one of the parts")]));
        true
    }

    /// Puts a series of the front piece's first record before the record's others, and the record before the rest of the piece. It is the series of
    /// the record's last entry: what is newest in a record stands there, as a rule, and may be young enough. Not of what was called or went after one
    /// already.
    pub fn call_witness(&mut self, contents: &dyn Contents) {
        let Some(piece) = self.pieces.front() else { return };
        if piece.witness != Witness::None || piece.is_possibly_delivered || piece.role == Role::Poison {
            return;
        }
        let record = piece.parts[0].record;
        let of_record = piece.parts.iter().take_while(|part| part.record == record).count();
        let (of_record, of_others) = piece.parts.split_at(of_record);
        let (of_record, of_others) = (of_record.to_vec(), of_others.to_vec());
        let Some(entries) = self.entries(record, contents) else { return };
        let numbers: Vec<u32> = of_record.iter().flat_map(|part| part.numbers(entries.len())).collect();
        let Some(series) = numbers.last().map(|last| entries[*last as usize].series) else { return };
        let (called, others): (Vec<u32>, Vec<u32>) =
            numbers.into_iter().partition(|number| entries[*number as usize].series == series);
        let is_cheap = called.len() <= WITNESS;
        let part_of = |numbers: Vec<u32>| {
            let len = numbers.len();
            vec![Part { record, chosen: Chosen::Listed(numbers.into(), 0..len) }]
        };
        let piece = self.pieces.pop_front().expect("it was looked at");
        if !of_others.is_empty() {
            self.pieces.push_front(piece.child(of_others));
        }
        let owed = &mut self.records[record];
        owed.parts -= of_record.len();
        if !others.is_empty() {
            self.pieces.push_front(Piece { witness: Witness::WentBefore, ..piece.child(part_of(others)) });
            owed.parts += 1;
        }
        self.pieces.push_front(Piece { witness: Witness::Is, is_cheap, ..piece.child(part_of(called)) });
        owed.parts += 1;
    }

    /// The entry that was singled out was not taken: everything is as before.
    pub fn undo_single_out(&mut self) {
        if let Some((pieces, counts)) = self.before_single_out.take() {
            self.pieces = pieces;
            for (owed, parts) in self.records.iter_mut().zip(counts) {
                owed.parts = parts;
            }
        }
    }
}
