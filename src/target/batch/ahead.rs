//! What of a batch goes before the others, as a question: whether anything of it is taken.
//!
//! ```text
//!   single_out        [ a b c d ]       ->  [ c ] [ a b d ]             only the first one of its series: it overtakes nothing
//!   peel              [ r1 r2 r3 ]      ->  [ r1 ] [ r2 r3 ]
//!   call_witness      [ r1: a b c b ]   ->  [ r1: b b ] [ r1: a c ]     the series that comes last
//! ```

use std::collections::HashSet;

use super::Batch;
use super::part::{Chosen, Contents, EntryFacts, Part};
use super::piece::{Piece, Role, Witness};

/// Of a witness of so many entries each is heard, whatever the budget is. (Who sends more of one series in a request is catching up.)
const CHEAP_WITNESS_MAX: usize = 8;

impl Batch {
    /// Takes one entry out of the front piece and puts it before it, as a piece of its own: a question to a target that takes nothing of the
    /// rest. Only the first one of its series in the piece, so that it overtakes nothing, only if there are others, and only if all of the piece is
    /// known. `pick` chooses among `n` series. Whether there was one.
    pub fn single_out(&mut self, contents: &dyn Contents, pick: impl FnOnce(usize) -> usize) -> bool {
        let tells = self.front_tells(contents);
        let entries = self.front_entries(contents);
        let Some(piece) = self.pieces.front() else { return false };
        if entries.len() < 2 || !tells {
            return false;
        }
        let mut seen = HashSet::new();
        let firsts: Vec<usize> = (0..entries.len()).filter(|at| seen.insert(entries[*at].1.series)).collect();
        if firsts.len() < 2 {
            return false;
        }
        let mut at = firsts[pick(firsts.len()).min(firsts.len() - 1)];
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

    /// Puts a series of the front piece before its others, if the piece is of a single record. It is the series of the last entry that has a sample or
    /// histogram: what is newest in a record stands there, as a rule, and may be young enough. (What comes behind are exemplars, of which a target
    /// thinks otherwise.) Not of what was called or went after one already. When the piece was refused,
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
        let last = numbers.iter().rev().map(|number| entries[*number as usize]).find(EntryFacts::has_data);
        let Some(EntryFacts { series, .. }) = last else { return false };
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
