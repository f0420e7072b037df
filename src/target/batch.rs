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
//! come behind the first one are set aside with it.
//!
//! Invariants: a batch's pieces hold every entry that is not booked yet exactly once; a batch never grows; a record is complete when
//! none of its entries is in a piece any more, and only then what became of it is told.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::savepoint::{Outcomes, Reason};
use crate::wal::{Mark, Position, Record};

/// What is to be known of one entry of a request: one time series message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFacts {
    /// The identity of its series: equal label sets have equal ones.
    pub series: u64,
    /// Float samples.
    pub samples: u32,
    /// Native histograms.
    pub histograms: u32,
}

/// All entries of a record, in order. `None` where the bytes tell nothing: then it is never taken apart, and nothing goes beside it.
pub type Entries = Option<Arc<[EntryFacts]>>;

/// Looks into records; asked only where it must be known.
pub trait Contents {
    /// The entries of a record.
    fn entries(&self, record: &Record) -> Entries;
}

/// Float samples and histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Float samples.
    pub floats: u64,
    /// Native histograms.
    pub histograms: u64,
}

impl Samples {
    /// As the ledger counts.
    #[must_use]
    pub fn all(self) -> u64 {
        self.floats + self.histograms
    }
}

/// Which entries of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The request as it was stored.
    All,
    /// Consecutive ones.
    Range(Range<u32>),
    /// Some of these, ascending.
    Listed(Arc<[u32]>, Range<usize>),
}

/// Some of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which record of the batch.
    pub record: usize,
    /// What of it.
    pub chosen: Chosen,
}

impl Part {
    /// How many entries, where the record has `all`.
    fn len(&self, all: usize) -> usize {
        match &self.chosen {
            Chosen::All => all,
            Chosen::Range(range) => range.len(),
            Chosen::Listed(_, range) => range.len(),
        }
    }

    /// The first `at` entries, and the others.
    fn split(&self, at: usize, all: usize) -> (Part, Part) {
        let (left, right) = match &self.chosen {
            Chosen::All => {
                let (at, all) = (entry_number(at), entry_number(all));
                (Chosen::Range(0..at), Chosen::Range(at..all))
            }
            Chosen::Range(range) => {
                let middle = range.start + entry_number(at);
                (Chosen::Range(range.start..middle), Chosen::Range(middle..range.end))
            }
            Chosen::Listed(list, range) => {
                let middle = range.start + at;
                (Chosen::Listed(list.clone(), range.start..middle), Chosen::Listed(list.clone(), middle..range.end))
            }
        };
        (Part { record: self.record, chosen: left }, Part { record: self.record, chosen: right })
    }

    /// The numbers of its entries.
    pub fn numbers(&self, all: usize) -> Vec<u32> {
        match &self.chosen {
            Chosen::All => (0..entry_number(all)).collect(),
            Chosen::Range(range) => range.clone().collect(),
            Chosen::Listed(list, range) => list[range.clone()].to_vec(),
        }
    }
}

/// A request has fewer entries than that: its bytes have an end.
fn entry_number(number: usize) -> u32 {
    u32::try_from(number).expect("a request has less than 4 GiB")
}

/// Why a piece is a request of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is the batch, or what it was cut into.
    Main,
    /// Series that were refused of late: they must not split every batch for ever.
    Culprits,
    /// Series or header sets that were given up as poison: one attempt.
    Poison,
}

/// So many are few.
const CHEAP: usize = 8;

/// What one request carries.
#[derive(Clone, Debug)]
pub struct Piece {
    /// In order; never empty.
    pub parts: Vec<Part>,
    /// Why it is one.
    pub role: Role,
    /// An attempt is behind it that may have arrived and was not answered.
    pub is_possibly_delivered: bool,
    /// The target refused a larger piece and took what came before this one: the culprit is in here.
    pub is_known_bad: bool,
    /// That will be so, if what comes before it is taken whole.
    pub is_bad_if_left_was_taken: bool,
    /// It is of the few entries of its batch that were set aside: what is innocent of them (the first of a duplicate, each time) is looked for
    /// whatever the budget is.
    pub is_cheap: bool,
    /// Attempts without an answer.
    pub unanswered: u32,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<Instant>,
    /// Attempts that failed while the target took others (see `poison`).
    pub strikes: u32,
    /// When it was first refused, and not believed yet.
    pub refused_at: Option<Instant>,
}

impl Piece {
    fn new(parts: Vec<Part>, role: Role) -> Piece {
        Piece {
            parts,
            role,
            is_possibly_delivered: false,
            is_known_bad: false,
            is_bad_if_left_was_taken: false,
            is_cheap: false,
            unanswered: 0,
            failures: 0,
            failing_since: None,
            strikes: 0,
            refused_at: None,
        }
    }

    /// What is cut off it: fresh, but for what its bytes went through.
    fn child(&self, parts: Vec<Part>) -> Piece {
        Piece {
            is_possibly_delivered: self.is_possibly_delivered,
            is_cheap: self.is_cheap,
            failing_since: self.failing_since,
            ..Piece::new(parts, self.role)
        }
    }

    /// The records that it touches, as indices: the first and the last.
    fn records(&self) -> (usize, usize) {
        let numbers = self.parts.iter().map(|part| part.record);
        (numbers.clone().min().expect("a piece has a part"), numbers.max().expect("a piece has a part"))
    }

    /// It is of whole records.
    pub fn is_of_whole_records(&self) -> bool {
        self.parts.iter().all(|part| part.chosen == Chosen::All)
    }
}

/// A record of a batch, and what became of it so far.
#[derive(Debug)]
struct Owed {
    record: Arc<Record>,
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

/// A batch. See the module.
#[derive(Debug)]
pub struct Batch {
    records: Vec<Owed>,
    /// What is left, in the order in which it is sent.
    pieces: VecDeque<Piece>,
    /// Something of it was accepted.
    pub has_accepted: bool,
    /// Pieces that were refused since something of it was accepted.
    pub refusals_in_a_row: u32,
    /// The same, of pieces that were possibly delivered.
    pub resent_in_a_row: u32,
    /// Extra requests that it has cost.
    pub splits: u32,
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
    pub fn new(records: Vec<Arc<Record>>, is_possibly_delivered: bool) -> Batch {
        assert!(!records.is_empty(), "a batch has a record");
        let parts = (0..records.len()).map(|record| Part { record, chosen: Chosen::All }).collect();
        let owed = |record| Owed { record, parts: 1, outcomes: Outcomes::default(), entries: None, is_told: false };
        let piece = Piece { is_possibly_delivered, ..Piece::new(parts, Role::Main) };
        Batch {
            records: records.into_iter().map(owed).collect(),
            pieces: [piece].into(),
            has_accepted: false,
            refusals_in_a_row: 0,
            resent_in_a_row: 0,
            splits: 0,
            was_possibly_delivered: is_possibly_delivered,
            before_single_out: None,
        }
    }

    /// All of its records.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> + Clone {
        self.records.iter().map(|owed| &owed.record)
    }

    /// The records that are not told yet.
    pub fn untold(&self) -> Vec<Arc<Record>> {
        self.records.iter().filter(|owed| !owed.is_told).map(|owed| owed.record.clone()).collect()
    }

    /// Its records, as if there had been no batch.
    pub fn into_records(self) -> Vec<Arc<Record>> {
        self.records.into_iter().map(|owed| owed.record).collect()
    }

    /// One of its records.
    pub fn record(&self, number: usize) -> &Arc<Record> {
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
    pub fn front_samples(&mut self, contents: &dyn Contents) -> Samples {
        let parts = self.pieces.front().expect("something is left").parts.clone();
        let mut samples = Samples::default();
        for part in &parts {
            let more = self.samples_of(part, contents);
            samples.floats += more.floats;
            samples.histograms += more.histograms;
        }
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
    /// last of them: nobody can tell which they were.
    pub fn book(&mut self, refused: u64, reason: Reason, contents: &dyn Contents) {
        let piece = self.pieces.pop_front().expect("something is left");
        self.before_single_out = None;
        let mut refused_left = refused;
        for part in piece.parts.iter().rev() {
            let samples = self.samples_of(part, contents).all();
            let refused = refused_left.min(samples);
            refused_left -= refused;
            let owed = &mut self.records[part.record];
            owed.outcomes += Outcomes::delivered(samples - refused);
            owed.outcomes += Outcomes::refused(reason, refused);
            owed.parts -= 1;
        }
        debug_assert_eq!(refused_left, 0, "no more is refused than was sent");
    }

    /// Whether it is as it was cut: one piece, and nothing of it booked.
    pub fn is_untouched(&self) -> bool {
        let is_whole = self.pieces.len() == 1 && self.pieces[0].is_of_whole_records();
        is_whole && self.records.iter().all(|owed| owed.parts == 1 && !owed.is_told && owed.outcomes.samples() == 0)
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

    /// Records of which all is known now, each told once.
    pub fn take_completed(&mut self) -> Vec<Completed> {
        let mut completed = Vec::new();
        for owed in self.records.iter_mut().filter(|owed| owed.parts == 0 && !owed.is_told) {
            owed.is_told = true;
            owed.entries = None;
            let header = &owed.record.header;
            completed.push(Completed {
                from: Mark { position: header.position.previous(), total: header.total_before() },
                to: owed.record.mark(),
                next: owed.record.next,
                outcomes: owed.outcomes,
            });
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
        let piece = self.pieces.pop_front().expect("something is left");
        if let Some(next) = self.pieces.front_mut() {
            // A culprit was found before it: that says nothing about it any more.
            next.is_bad_if_left_was_taken = false;
        }
        let (left, right) = if piece.parts.len() > 1 {
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
        self.splits += 1;
        self.pieces.push_front(Piece { is_bad_if_left_was_taken: proves, ..piece.child(right) });
        self.pieces.push_front(piece.child(left));
    }

    /// Forgets that it was cut: everything that is not told is one piece again, whole records of it, as if nothing of them had been booked.
    /// For a batch that was refused by a target that refuses everything.
    ///
    /// # Panics
    /// Nothing of it may have been accepted.
    pub fn start_over(&mut self, is_possibly_delivered: bool) {
        assert!(!self.has_accepted, "what was accepted is not sent again");
        let mut parts = Vec::new();
        for (record, owed) in self.records.iter_mut().enumerate().filter(|(_, owed)| !owed.is_told) {
            owed.outcomes = Outcomes::default();
            owed.parts = 1;
            parts.push(Part { record, chosen: Chosen::All });
        }
        self.pieces = [Piece { is_possibly_delivered, ..Piece::new(parts, Role::Main) }].into();
        self.refusals_in_a_row = 0;
        self.resent_in_a_row = 0;
    }

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
    /// them gets one attempt.
    pub fn set_poison_aside(&mut self, series: &HashSet<u64>, contents: &dyn Contents) {
        let mut aside: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut is_possibly_delivered = false;
        let mut kept = VecDeque::new();
        for mut piece in std::mem::take(&mut self.pieces) {
            let mut parts = Vec::new();
            let mut has_lost = false;
            for part in &piece.parts {
                let entries = self.entries(part.record, contents);
                let Some(entries) = entries else {
                    parts.push(part.clone());
                    continue;
                };
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

    /// Puts the front piece behind all others, if it shares no series with them. Whether it was.
    pub fn front_to_back(&mut self, contents: &dyn Contents) -> bool {
        if self.pieces.len() < 2 {
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

    /// Takes one entry out of the front piece and puts it before it, as a piece of its own: a question to a target that takes nothing of the
    /// rest. Only one whose series comes once in the piece, so that it overtakes nothing. `pick` chooses among `n`. Whether there was one.
    pub fn single_out(&mut self, contents: &dyn Contents, pick: impl FnOnce(usize) -> usize) -> bool {
        let entries = self.front_entries(contents);
        let Some(piece) = self.pieces.front() else { return false };
        if entries.len() < 2 {
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

    /// The entry that was singled out was not taken: everything is as before.
    pub fn undo_single_out(&mut self) {
        if let Some((pieces, counts)) = self.before_single_out.take() {
            self.pieces = pieces;
            for (owed, parts) in self.records.iter_mut().zip(counts) {
                owed.parts = parts;
            }
        }
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
        let is_possibly = self.pieces.iter().any(|piece| piece.is_possibly_delivered);
        let (_, front_last) = front.records();
        let others_from = self.pieces.iter().skip(1).map(|piece| piece.records().0).min();
        match others_from {
            Some(from) if front.is_of_whole_records() && from > front_last => {
                let middle = self.records[front_last].record.header.position;
                let rest_is_possibly = self.pieces.iter().skip(1).any(|piece| piece.is_possibly_delivered);
                vec![
                    (first, middle, front.is_possibly_delivered),
                    (middle.next(), last, rest_is_possibly || self.has_partly_booked()),
                ]
            }
            _ => vec![(first, last, is_possibly || self.has_partly_booked())],
        }
    }

    /// A record of it is booked in part: sent again as a whole, what was delivered of it is sent again.
    fn has_partly_booked(&self) -> bool {
        self.records.iter().any(|owed| !owed.is_told && owed.outcomes.samples() > 0)
    }
}
