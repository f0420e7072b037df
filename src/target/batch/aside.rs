//! What of a batch goes out of its turn: entries that are known to be trouble behind the others, and one entry, or one series, before the others,
//! as a question.
//!
//! ```text
//!   set_aside         [ a b c! a d b ]  ->  [ a b a d b ] [ c! ]        what comes behind it of its series moves with it, in its order
//!   set_poison_aside  the same of what is left of a batch, when a series was just given up
//!   single_out        [ a b c d ]       ->  [ c ] [ a b d ]             only one whose series comes once: it overtakes nothing
//!   peel              [ r1 r2 r3 ]      ->  [ r1 ] [ r2 r3 ]
//!   call_witness      [ r1: a b c b ]   ->  [ r1: b b ] [ r1: a c ]     the series that comes last
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::Batch;
use super::part::{Chosen, Contents, EntryFacts, Part};
use super::piece::{Piece, Role, Witness};
use crate::wal::Record;

/// Of a witness of so many entries each is heard, whatever the budget is. (Who sends more of one series in a request is catching up.)
const CHEAP_WITNESS_MAX: usize = 8;

impl Batch {
    /// Sets entries aside, if there are any that `role` says something of: they go in pieces of their own, behind the others. Only while the batch is
    /// whole. `role` is asked with the record, an entry's series, and whether that came before in the record.
    pub fn set_aside(&mut self, contents: &dyn Contents, role: impl Fn(&Record, u64, bool) -> Role) {
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
        self.forget_proof();
        before.extend(after);
        let mut rest = piece.child(before);
        rest.failures = piece.failures;
        rest.strikes = piece.strikes;
        rest.unanswered = piece.unanswered;
        self.pieces.push_front(rest);
        self.pieces.push_front(piece.child(vec![single.expect("it is in one of the parts")]));
        true
    }

    /// Whether the front piece is one that hope may be given up for: not what may have been delivered, which goes as it was sent, nor poison.
    fn may_be_hopeless(&self) -> bool {
        self.pieces.front().is_some_and(|piece| !piece.is_possibly_delivered && piece.role != Role::Poison)
    }

    /// Puts the front piece's first record before the rest of the piece.
    pub fn peel(&mut self) {
        let Some(piece) = self.pieces.front().filter(|_| self.may_be_hopeless()) else { return };
        let record = piece.parts[0].record;
        let of_record = piece.parts.iter().take_while(|part| part.record == record).count();
        let (of_record, of_others) = piece.parts.split_at(of_record);
        if of_others.is_empty() {
            return;
        }
        let (of_record, of_others) = (piece.child(of_record.to_vec()), piece.child(of_others.to_vec()));
        self.pieces.pop_front();
        self.forget_proof();
        self.pieces.push_front(of_others);
        self.pieces.push_front(of_record);
    }

    /// Puts a series of the front piece before its others, if the piece is of a single record. It is the series of the last entry: what is newest in a
    /// record stands there, as a rule, and may be young enough. Not of what was called or went after one already. When the piece was refused,
    /// and that `proves` that a culprit is in it: then the culprit is in the others if the target takes the witness. Whether it was cut.
    pub fn call_witness(&mut self, contents: &dyn Contents, proves: bool) -> bool {
        let Some(piece) = self.pieces.front().filter(|_| self.may_be_hopeless()) else { return false };
        let (first, last) = piece.records();
        if piece.witness != Witness::None || first != last {
            return false;
        }
        let parts = piece.parts.clone();
        let Some(entries) = self.entries(first, contents) else { return false };
        let numbers: Vec<u32> = parts.iter().flat_map(|part| part.numbers(entries.len())).collect();
        let Some(series) = numbers.last().map(|last| entries[*last as usize].series) else { return false };
        let (called, others): (Vec<u32>, Vec<u32>) =
            numbers.into_iter().partition(|number| entries[*number as usize].series == series);
        let is_cheap = called.len() <= CHEAP_WITNESS_MAX;
        if others.is_empty() {
            let piece = self.pieces.front_mut().expect("it was looked at");
            (piece.witness, piece.is_cheap) = (Witness::Is, is_cheap);
            return false;
        }
        let part_of = |numbers| vec![Part { record: first, chosen: Chosen::listed(numbers) }];
        let piece = self.pieces.pop_front().expect("it was looked at");
        self.forget_proof();
        let others = piece.child(part_of(others));
        self.pieces.push_front(Piece { witness: Witness::WentBefore, is_bad_if_left_was_taken: proves, ..others });
        self.pieces.push_front(Piece { witness: Witness::Is, is_cheap, ..piece.child(part_of(called)) });
        self.records[first].parts += 2;
        self.records[first].parts -= parts.len();
        true
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
