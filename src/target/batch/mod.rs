//! A batch: the records of one request, and the pieces that are left of it when a target did not take it as a whole. Pure.
//!
//! ```text
//!  records r1 r2 r3 r4          one request
//!  refused: halves, along records first, then along a record's entries (time series messages)
//!
//!   [ r1 r2 r3 r4 ]  --refused-->  [ r1 r2 ] [ r3 r4 ]
//!                                   accepted   known to be bad: not sent, halved at once
//!                                             [ r3 ] [ r4 ]
//!                                            refused  accepted        ...
//!                                    [ r3: entries 0..1000 ] [ r3: entries 1000..2000 ]   down to one entry, which is the culprit
//! ```
//!
//! Pieces are sent one after the other, in the order of the records and of the entries in them: so whatever a batch is cut into,
//! each series keeps its order. Entries that are set aside (culprits of late) come last in pieces of their own; all entries of their series that
//! come behind the first one are set aside with it. Where a target seems to take nothing, a *witness* goes first: all entries of one series.
//!
//! Invariants: a batch's pieces hold every entry that is not booked yet exactly once; a batch never grows; a record is complete when
//! none of its entries is in a piece any more, and only then what became of it is told.
//!
//! `part` is a choice of a record's entries, `piece` what one request carries of them, `aside` what of a batch goes behind
//! the others, `ahead` what before them.

mod ahead;
mod aside;
mod part;
mod piece;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

pub use part::{Chosen, Contents, Entries, EntryFacts, Part, Samples};
pub use piece::{Piece, Role, Witness};

use super::outgoing::Outgoing;
use crate::savepoint::{Outcomes, Reason};
use crate::wal::{Mark, Position};

/// A record of a batch, and what became of it so far.
#[derive(Debug)]
struct Owed {
    record: Arc<Outgoing>,
    /// Parts of it that are in a piece.
    parts: usize,
    outcomes: Outcomes,
    /// Known as soon as somebody asked.
    entries: Option<Entries>,
    is_told: bool,
}

/// What became of a record, once all of it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Before it.
    pub from: Mark,
    /// Behind it.
    pub to: Mark,
    /// Where the next one is.
    pub next: crate::wal::Place,
    /// What became of its samples.
    pub outcomes: Outcomes,
}

impl Completed {
    /// Of this record: what became of what was to be sent, and with it what was not.
    #[must_use]
    pub fn of(record: &Outgoing, outcomes: Outcomes) -> Completed {
        let mut outcomes = outcomes;
        outcomes += Outcomes::filtered(record.filtered());
        Completed { from: record.before(), to: record.mark(), next: record.next, outcomes }
    }
}

/// A batch. See the module.
#[derive(Debug)]
pub struct Batch {
    records: Vec<Owed>,
    /// What is left, in the order in which it is sent.
    pieces: VecDeque<Piece>,
    /// Records of requests of which only a part was taken, and nobody knows which: they are told together, or sent again together.
    taken_in_part: Vec<RangeInclusive<usize>>,
    /// Something of it is final: accepted, or given up as poison. From then on it is not sent again as a whole.
    pub has_settled: bool,
    /// Pieces of it, of one record each, that were refused since something of it was accepted.
    pub refusals_in_a_row: u32,
    /// The same, of pieces that were possibly delivered.
    pub resent_in_a_row: u32,
    /// How often it was halved below its records, witnesses apart.
    pub splits_below_records: u32,
    /// It was when it was cut, or something of it was sent and not answered.
    pub was_possibly_delivered: bool,
    /// As it was before an entry was singled out.
    before_single_out: Option<(VecDeque<Piece>, Vec<usize>)>,
}

impl Batch {
    /// Of consecutive records.
    ///
    /// # Panics
    /// There must be one at least.
    pub fn new(records: Vec<Arc<Outgoing>>, is_possibly_delivered: bool) -> Batch {
        assert!(!records.is_empty(), "a batch has a record");
        let parts = (0..records.len()).map(|record| Part { record, chosen: Chosen::All }).collect();
        let owed = |record| Owed { record, parts: 1, outcomes: Outcomes::default(), entries: None, is_told: false };
        let piece = Piece { is_possibly_delivered, ..Piece::new(parts, Role::Main) };
        Batch {
            records: records.into_iter().map(owed).collect(),
            pieces: [piece].into(),
            taken_in_part: Vec::new(),
            has_settled: false,
            refusals_in_a_row: 0,
            resent_in_a_row: 0,
            splits_below_records: 0,
            was_possibly_delivered: is_possibly_delivered,
            before_single_out: None,
        }
    }

    /// All of its records.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Outgoing>> + Clone {
        self.records.iter().map(|owed| &owed.record)
    }

    /// The records that are not told yet.
    pub fn untold(&self) -> Vec<Arc<Outgoing>> {
        self.records.iter().filter(|owed| !owed.is_told).map(|owed| owed.record.clone()).collect()
    }

    /// The first of the records that are not told yet.
    pub fn oldest(&self) -> Option<&Outgoing> {
        self.records.iter().find(|owed| !owed.is_told).map(|owed| &*owed.record)
    }

    /// Its records, as if there had been no batch.
    pub fn into_records(self) -> Vec<Arc<Outgoing>> {
        self.records.into_iter().map(|owed| owed.record).collect()
    }

    /// One of its records.
    pub fn record(&self, number: usize) -> &Arc<Outgoing> {
        &self.records[number].record
    }

    /// What is sent next; `None` when all is booked.
    pub fn front(&self) -> Option<&Piece> {
        self.pieces.front()
    }

    /// What is sent next.
    pub fn front_mut(&mut self) -> Option<&mut Piece> {
        self.pieces.front_mut()
    }

    /// What the front piece is the rest of was called as a witness, and something of that was taken.
    pub fn witness_was_taken(&mut self) {
        self.witness_has(Witness::WasTaken);
    }

    /// If the front piece was called as a witness: nothing of it was to be sent, and it says nothing about the rest.
    pub fn witness_was_not_sent(&mut self) {
        if self.front().is_some_and(|piece| piece.witness == Witness::Is) {
            self.witness_has(Witness::None);
        }
    }

    /// What is known now of those that the witness in front went before.
    fn witness_has(&mut self, witness: Witness) {
        let behind = self.pieces.iter_mut().find(|piece| piece.witness != Witness::Is);
        if let Some(rest) = behind.filter(|piece| piece.witness == Witness::WentBefore) {
            rest.witness = witness;
        }
    }

    /// What a record holds.
    pub fn entries(&mut self, record: usize, contents: &dyn Contents) -> Entries {
        let owed = &mut self.records[record];
        owed.entries.get_or_insert_with(|| contents.entries(&owed.record)).clone()
    }

    /// Forgets what its records hold: they are asked again if that is wanted once more.
    pub fn forget_entries(&mut self) {
        for owed in &mut self.records {
            owed.entries = None;
        }
    }

    /// What a part holds.
    fn samples_of(&mut self, part: &Part, contents: &dyn Contents) -> Samples {
        if part.chosen == Chosen::All {
            let counts = self.records[part.record].record.header.counts;
            return Samples { floats: counts.samples.into(), histograms: counts.histograms.into() };
        }
        let entries = self.entries(part.record, contents).expect("it was taken apart");
        let mut samples = Samples::default();
        for number in part.numbers(entries.len()) {
            let entry = &entries[number as usize];
            samples.floats += u64::from(entry.samples);
            samples.histograms += u64::from(entry.histograms);
        }
        samples
    }

    /// What the front piece holds.
    /// (Without what is left out of it.)
    pub fn front_samples(&mut self, contents: &dyn Contents) -> Samples {
        let parts = self.pieces.front().expect("something is left").parts.clone();
        let mut samples = Samples::default();
        for part in &parts {
            let more = self.samples_of(part, contents);
            samples.floats += more.floats;
            samples.histograms += more.histograms;
        }
        samples.histograms -= self.pieces[0].left_out.iter().sum::<u64>();
        samples
    }

    /// About how many bytes the front piece is as a request: whole records are stored so, of others it is their share.
    pub fn front_bytes(&self) -> u64 {
        let piece = self.pieces.front().expect("something is left");
        let bytes = piece.parts.iter().map(|part| {
            let header = &self.records[part.record].record.header;
            let (bytes, all) = (u64::from(header.body_len), u64::from(header.counts.series).max(1));
            bytes * part.len(usize::try_from(all).expect("a u32 fits")) as u64 / all
        });
        bytes.sum()
    }

    /// Books the front piece, which is done: `kept` of its samples were taken, the others refused for `reason`. What is refused counts as the
    /// last of them: nobody can tell which they were. (So the records of a piece that was taken in part are told together.)
    pub fn book(&mut self, refused: u64, reason: Reason, contents: &dyn Contents) {
        let piece = self.pieces.pop_front().expect("something is left");
        self.before_single_out = None;
        let (first, last) = piece.records();
        let mut refused_left = refused;
        let mut taken = 0;
        for (number, part) in piece.parts.iter().enumerate().rev() {
            let left_out = piece.left_out.get(number).copied().unwrap_or_default();
            let samples = self.samples_of(part, contents).all() - left_out;
            let refused = refused_left.min(samples);
            refused_left -= refused;
            taken += samples - refused;
            let owed = &mut self.records[part.record];
            owed.outcomes += Outcomes::delivered(samples - refused);
            owed.outcomes += Outcomes::refused(reason, refused);
            owed.outcomes += Outcomes::dropped(left_out);
            owed.parts -= 1;
        }
        debug_assert_eq!(refused_left, 0, "no more is refused than was sent");
        if refused > 0 && taken > 0 && first < last {
            self.taken_in_part.push(first..=last);
        }
    }

    /// Of the front piece, which is being sent, so many samples are left out, part by part.
    pub fn leaves_out(&mut self, left_out: Vec<u64>) {
        self.pieces.front_mut().expect("something is left").left_out = left_out;
    }

    /// Whether it is as it was cut: one piece, and nothing of it booked.
    pub fn is_untouched(&self) -> bool {
        let is_whole = self.pieces.len() == 1 && self.pieces[0].is_of_whole_records();
        is_whole && self.records.iter().all(|owed| owed.parts == 1 && !owed.is_told && owed.outcomes.samples() == 0)
    }

    /// Whether nothing of it was set aside, nor all of it: that need not wait for what the rest waits for, and stays so.
    pub fn is_one_main_piece(&self) -> bool {
        self.pieces.len() == 1 && self.pieces[0].role == Role::Main
    }

    /// Gives up all of it, which is too old for the target.
    ///
    /// # Panics
    /// A batch expires as a whole.
    pub fn expire(&mut self) {
        assert!(self.is_untouched(), "a batch expires as a whole");
        self.pieces.clear();
        for owed in &mut self.records {
            owed.parts = 0;
            owed.outcomes += Outcomes::expired(owed.record.header.counts.ledger_samples());
        }
    }

    /// Somebody gives up everything up to `to`: nothing of it is sent or told any more. What is left of the front piece may have been delivered.
    pub fn drop_up_to(&mut self, to: Position) {
        self.before_single_out = None;
        if let Some(front) = self.pieces.front_mut() {
            front.is_possibly_delivered = true;
        }
        self.was_possibly_delivered = true;
        let records = &mut self.records;
        let is_dropped = |records: &[Owed], part: &Part| records[part.record].record.header.position <= to;
        for piece in &mut self.pieces {
            piece.parts.retain(|part| !is_dropped(records, part));
            // What was proved may be of what is dropped.
            (piece.is_known_bad, piece.is_bad_if_left_was_taken) = (false, false);
            piece.left_out.clear();
        }
        self.pieces.retain(|piece| !piece.parts.is_empty());
        for owed in records.iter_mut().filter(|owed| owed.record.header.position <= to) {
            (owed.parts, owed.is_told, owed.entries) = (0, true, None);
        }
    }

    /// Records that are told together with one that is not known yet: one that is not keeps those back that it stands with, and these others.
    fn kept_back(&self) -> Vec<RangeInclusive<usize>> {
        let (mut known, mut kept) = (self.taken_in_part.clone(), Vec::<RangeInclusive<usize>>::new());
        let overlaps =
            |a: &RangeInclusive<usize>, b: &RangeInclusive<usize>| a.start() <= b.end() && b.start() <= a.end();
        loop {
            let is_open = |records: &RangeInclusive<usize>| {
                let has_open = self.records[records.clone()].iter().any(|owed| owed.parts > 0);
                has_open || kept.iter().any(|other| overlaps(records, other))
            };
            let Some(at) = known.iter().position(is_open) else { return kept };
            kept.push(known.swap_remove(at));
        }
    }

    /// Records of which all is known now, each told once.
    pub fn take_completed(&mut self) -> Vec<Completed> {
        let kept_back = self.kept_back();
        let is_kept_back = |number: usize| kept_back.iter().any(|records| records.contains(&number));
        let is_known = |number: usize, owed: &Owed| owed.parts == 0 && !owed.is_told && !is_kept_back(number);
        let mut completed = Vec::new();
        for (_, owed) in self.records.iter_mut().enumerate().filter(|(number, owed)| is_known(*number, owed)) {
            owed.is_told = true;
            owed.entries = None;
            completed.push(Completed::of(&owed.record, owed.outcomes));
        }
        completed
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The positions that are not told yet, from the first to the last.
    pub fn open(&self) -> Option<(Position, Position)> {
        let mut open = self.records.iter().filter(|owed| !owed.is_told).map(|owed| owed.record.header.position);
        let first = open.next()?;
        Some((first, open.next_back().unwrap_or(first)))
    }

    /// Whether the front piece can be halved along records.
    pub fn is_divisible_by_records(&self) -> bool {
        self.pieces.front().is_some_and(|piece| {
            let (first, last) = piece.records();
            first < last
        })
    }

    /// Whether the front piece can be halved at all.
    pub fn is_divisible(&mut self, contents: &dyn Contents) -> bool {
        if self.is_divisible_by_records() {
            return true;
        }
        let Some(piece) = self.pieces.front() else { return false };
        let parts = piece.parts.clone();
        if parts.len() > 1 {
            return true;
        }
        let Some(entries) = self.entries(parts[0].record, contents) else { return false };
        parts[0].len(entries.len()) > 1
    }

    /// Halves the front piece, along records as long as that goes. Only what [`Batch::is_divisible`]. When it was refused, and that `proves` that
    /// a culprit is in it: then the culprit is in the second half if the target takes the first.
    pub fn halve(&mut self, contents: &dyn Contents, proves: bool) {
        let mut piece = self.pieces.pop_front().expect("something is left");
        if piece.witness != Witness::Is {
            // Now each half may have its own.
            piece.witness = Witness::None;
        }
        self.forget_proof();
        let is_below_records = piece.parts.len() == 1;
        let (left, right) = if !is_below_records {
            let (left, right) = piece.parts.split_at(piece.parts.len() / 2);
            (left.to_vec(), right.to_vec())
        } else {
            let part = &piece.parts[0];
            let entries = self.entries(part.record, contents).expect("it can be divided");
            let len = part.len(entries.len());
            let (left, right) = part.split(len / 2, entries.len());
            self.records[part.record].parts += 1;
            (vec![left], vec![right])
        };
        self.splits_below_records += u32::from(is_below_records && !piece.is_cheap);
        self.pieces.push_front(Piece { is_bad_if_left_was_taken: proves, ..piece.child(right) });
        self.pieces.push_front(piece.child(left));
    }

    /// The piece before the first one is being cut, so that it may be the culprit of which it was said that it is in the first one.
    fn forget_proof(&mut self) {
        if let Some(next) = self.pieces.front_mut() {
            next.is_bad_if_left_was_taken = false;
        }
    }

    /// Forgets that it was cut: everything that is not told is one piece again, whole records of it, as if nothing of them had been booked.
    /// For a batch that was refused by a target that refuses everything.
    ///
    /// # Panics
    /// Nothing of it may be final.
    pub fn start_over(&mut self, is_possibly_delivered: bool) {
        assert!(!self.has_settled, "what is final is not sent again");
        let mut parts = Vec::new();
        for (record, owed) in self.records.iter_mut().enumerate().filter(|(_, owed)| !owed.is_told) {
            owed.outcomes = Outcomes::default();
            owed.parts = 1;
            parts.push(Part { record, chosen: Chosen::All });
        }
        self.pieces = [Piece { is_possibly_delivered, ..Piece::new(parts, Role::Main) }].into();
        self.before_single_out = None;
        self.taken_in_part.clear();
        self.refusals_in_a_row = 0;
        self.resent_in_a_row = 0;
    }

    /// The series of the whole batch, each once; `None` if a record does not tell.
    pub fn series(&mut self, contents: &dyn Contents) -> Option<Vec<u64>> {
        let mut series = Vec::new();
        for record in 0..self.records.len() {
            series.extend(self.entries(record, contents)?.iter().map(|entry| entry.series));
        }
        series.sort_unstable();
        series.dedup();
        Some(series)
    }

    /// The series of what is left to send, each once; `None` if a record does not tell.
    pub fn left_series(&mut self, contents: &dyn Contents) -> Option<Vec<u64>> {
        self.series_of(contents, |_| true)
    }

    /// The series of what is not set aside because of poison, each once; `None` if a record does not tell.
    pub fn main_series(&mut self, contents: &dyn Contents) -> Option<Vec<u64>> {
        self.series_of(contents, |piece| piece.role != Role::Poison)
    }

    fn series_of(&mut self, contents: &dyn Contents, is_meant: impl Fn(&Piece) -> bool) -> Option<Vec<u64>> {
        let parts: Vec<Part> =
            self.pieces.iter().filter(|piece| is_meant(piece)).flat_map(|piece| piece.parts.clone()).collect();
        let mut series = Vec::new();
        for part in parts {
            let entries = self.entries(part.record, contents)?;
            series.extend(part.numbers(entries.len()).into_iter().map(|number| entries[number as usize].series));
        }
        series.sort_unstable();
        series.dedup();
        Some(series)
    }

    /// Record and series of each entry of the front piece, as far as known; asks for what is not.
    pub fn front_entries(&mut self, contents: &dyn Contents) -> Vec<(usize, EntryFacts)> {
        let parts = self.pieces.front().map(|piece| piece.parts.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for part in parts {
            if let Some(entries) = self.entries(part.record, contents) {
                found.extend(
                    part.numbers(entries.len()).into_iter().map(|number| (part.record, entries[number as usize])),
                );
            }
        }
        found
    }

    /// Record and series of each entry of the front piece, as far as known, and whether the series came before in that record.
    pub fn front_series(&mut self, contents: &dyn Contents) -> Vec<(usize, u64, bool)> {
        let parts = self.pieces.front().map(|piece| piece.parts.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for part in parts {
            let Some(entries) = self.entries(part.record, contents) else { continue };
            let mut firsts = HashMap::new();
            for (number, entry) in (0u32..).zip(entries.iter()) {
                firsts.entry(entry.series).or_insert(number);
            }
            found.extend(part.numbers(entries.len()).into_iter().map(|number| {
                let series = entries[number as usize].series;
                (part.record, series, firsts[&series] < number)
            }));
        }
        found
    }

    /// What is left to send, in order.
    #[cfg(test)]
    pub fn left(&self) -> Vec<Part> {
        self.pieces.iter().flat_map(|piece| piece.parts.clone()).collect()
    }

    /// Number of pieces left.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What the front piece reaches of positions that are not told, and whether pieces behind it reach further: how the batch is to be sent again
    /// after a crash. The first is the front piece's, if it is of whole records that no other piece touches.
    pub fn cuts(&self) -> Vec<(Position, Position, bool)> {
        let Some((first, last)) = self.open() else { return Vec::new() };
        let Some(front) = self.pieces.front() else { return vec![(first, last, true)] };
        let (_, front_last) = front.records();
        // Further pieces of the front's records go with it.
        let (of_front, of_rest): (Vec<&Piece>, Vec<&Piece>) =
            self.pieces.iter().partition(|piece| piece.records().0 <= front_last);
        // (What was taken in part goes together, as it is told together.)
        let is_apart = self.taken_in_part.is_empty()
            && of_front.iter().all(|piece| piece.records().1 <= front_last)
            && !of_rest.is_empty();
        let is_possibly = |pieces: &[&Piece]| pieces.iter().any(|piece| piece.is_possibly_delivered);
        if !is_apart {
            let is_possibly = is_possibly(&of_front) || is_possibly(&of_rest);
            return vec![(first, last, is_possibly || self.has_partly_booked(0..self.records.len()))];
        }
        let middle = self.records[front_last].record.header.position;
        let (before, behind) = (0..front_last + 1, front_last + 1..self.records.len());
        vec![
            (first, middle, is_possibly(&of_front) || self.has_partly_booked(before)),
            (middle.next(), last, is_possibly(&of_rest) || self.has_partly_booked(behind)),
        ]
    }

    /// One of these records is booked in part: sent again as a whole, what was delivered of it is sent again.
    fn has_partly_booked(&self, records: Range<usize>) -> bool {
        self.records[records].iter().any(|owed| !owed.is_told && owed.outcomes.delivered > 0)
    }
}
