//! What holds of any batch after any operations.

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Halve { proves: bool },
    Accept,
    AcceptInPart,
    Refuse,
    NotAnswered,
    SetAside { culprits: BTreeSet<u64>, poison: BTreeSet<u64>, of_odd_records: bool },
    SetPoisonAside(HashSet<u64>),
    FrontToBack,
    SingleOut(usize),
    UndoSingleOut,
    CallWitness,
    StartOver,
    TakeCompleted,
    ForgetEntries,
    Expire,
}

fn operation() -> impl Strategy<Value = Operation> {
    let of_series = || prop::collection::btree_set(0u64..6, 0..3);
    prop_oneof![
        6 => any::<bool>().prop_map(|proves| Operation::Halve { proves }),
        2 => Just(Operation::Accept),
        2 => Just(Operation::AcceptInPart),
        2 => Just(Operation::Refuse),
        1 => Just(Operation::NotAnswered),
        2 => (of_series(), of_series(), any::<bool>())
            .prop_map(|(culprits, poison, of_odd_records)| Operation::SetAside { culprits, poison, of_odd_records }),
        2 => of_series().prop_map(|series| Operation::SetPoisonAside(series.into_iter().collect())),
        2 => Just(Operation::FrontToBack),
        3 => (0usize..8).prop_map(Operation::SingleOut),
        2 => Just(Operation::UndoSingleOut),
        3 => Just(Operation::CallWitness),
        1 => Just(Operation::StartOver),
        2 => Just(Operation::TakeCompleted),
        1 => Just(Operation::ForgetEntries),
        1 => Just(Operation::Expire),
    ]
}

fn fakes() -> impl Strategy<Value = Fakes> {
    let fake = (prop::collection::vec(0u64..6, 0..7), prop::bool::weighted(0.1))
        .prop_map(|(series, is_opaque)| Fake { series, is_opaque });
    prop::collection::vec(fake, 1..6).prop_map(Fakes)
}

/// A batch, and what must be true of it.
struct Run {
    fakes: Fakes,
    batch: Batch,
    /// What is not booked.
    left: BTreeSet<Id>,
    outcomes: Vec<Outcomes>,
    told: BTreeSet<usize>,
    /// First and last record of pieces of which a part was taken, nobody knows which.
    in_part: Vec<(usize, usize)>,
    /// The pieces before an entry was singled out, until something is booked.
    before: Option<Vec<Vec<Id>>>,
}

impl Run {
    fn new(fakes: Fakes) -> Run {
        let batch = fakes.batch();
        let left = fakes.pieces(&batch).concat().into_iter().collect();
        let outcomes = vec![Outcomes::default(); fakes.0.len()];
        Run { fakes, batch, left, outcomes, told: BTreeSet::new(), in_part: Vec::new(), before: None }
    }

    fn pieces(&self) -> Vec<Vec<Id>> {
        self.fakes.pieces(&self.batch)
    }

    fn is_opaque(&self, id: &Id) -> bool {
        self.fakes.0[id.0].is_opaque
    }

    fn apply(&mut self, operation: Operation) {
        let before = self.pieces();
        let Some(front) = before.first().cloned() else { return self.take_completed() };
        match operation {
            Operation::Halve { proves } => {
                if self.batch.is_divisible(&self.fakes) {
                    self.batch.halve(&self.fakes, proves);
                    let after = self.pieces();
                    assert_eq!((after[..2].concat(), &after[2..]), (front, &before[1..]));
                }
            }
            Operation::Accept => self.book(&front, 0, Reason::Partial),
            Operation::AcceptInPart => {
                let samples = self.batch.front_samples(&self.fakes).all();
                self.book(&front, samples / 2, Reason::Partial);
            }
            Operation::Refuse => {
                let samples = self.batch.front_samples(&self.fakes).all();
                self.book(&front, samples, Reason::Status);
            }
            Operation::NotAnswered => {
                self.batch.front_mut().expect("there is one").is_possibly_delivered = true;
            }
            Operation::SetAside { culprits, poison, of_odd_records } => {
                if self.batch.is_untouched() {
                    self.set_aside(&culprits, &poison, of_odd_records);
                }
            }
            Operation::SetPoisonAside(series) => {
                let expected = self.poison_aside(&before, &series);
                self.batch.set_poison_aside(&series, &self.fakes);
                if !before.iter().flatten().any(|id| self.is_opaque(id)) {
                    self.before = None;
                }
                assert_eq!(self.pieces(), expected);
            }
            Operation::FrontToBack => {
                let mut expected = before.clone();
                if self.batch.front_to_back(&self.fakes) {
                    expected.rotate_left(1);
                }
                assert_eq!(self.pieces(), expected);
            }
            Operation::SingleOut(at) => {
                if self.batch.single_out(&self.fakes, |n| at % n) {
                    let after = self.pieces();
                    assert_eq!((after[0].len(), after[1].len() + 1, &after[2..]), (1, front.len(), &before[1..]));
                    self.before = Some(before);
                } else {
                    assert_eq!(self.pieces(), before);
                }
            }
            Operation::UndoSingleOut => {
                self.batch.undo_single_out();
                assert_eq!(self.pieces(), self.before.take().unwrap_or(before));
            }
            Operation::CallWitness => {
                self.batch.peel();
                if self.batch.call_witness(&self.fakes, false) {
                    let called: BTreeSet<_> = self.pieces()[0].iter().map(|id| self.fakes.series(*id)).collect();
                    assert_eq!(called.len(), 1);
                }
            }
            Operation::StartOver => {
                if !self.batch.has_settled {
                    self.start_over();
                }
            }
            Operation::TakeCompleted => self.take_completed(),
            Operation::ForgetEntries => self.batch.forget_entries(),
            Operation::Expire => {
                if self.batch.is_untouched() {
                    self.batch.expire();
                    for id in std::mem::take(&mut self.left) {
                        self.outcomes[id.0] += Outcomes::expired(self.fakes.samples(id));
                    }
                }
            }
        }
    }

    /// Of what is refused the last samples count as that.
    fn book(&mut self, front: &[Id], refused: u64, reason: Reason) {
        let mut refused_left = refused;
        for id in front.iter().rev() {
            let samples = self.fakes.samples(*id);
            let refused = samples.min(refused_left);
            refused_left -= refused;
            self.outcomes[id.0] += Outcomes::refused(reason, refused);
            self.outcomes[id.0] += Outcomes::delivered(samples - refused);
            self.left.remove(id);
        }
        let all: u64 = front.iter().map(|id| self.fakes.samples(*id)).sum();
        let records = (front[0].0, front[front.len() - 1].0);
        if (1..all).contains(&refused) && records.0 < records.1 {
            self.in_part.push(records);
        }
        self.batch.has_settled |= reason == Reason::Partial;
        self.batch.book(refused, reason, &self.fakes);
        self.before = None;
    }

    fn set_aside(&mut self, culprits: &BTreeSet<u64>, poison: &BTreeSet<u64>, of_odd_records: bool) {
        let is_meant = |position: u64| !of_odd_records || position % 2 == 1;
        let role = |position: u64, series: u64| match (poison.contains(&series), culprits.contains(&series)) {
            _ if !is_meant(position) => Role::Main,
            (true, _) => Role::Poison,
            (false, true) => Role::Culprits,
            (false, false) => Role::Main,
        };
        self.batch.set_aside(&self.fakes, |record, series, _| role(record.header.position.0, series));
        let roles = roles(&self.batch);
        assert!(roles.is_sorted_by(|one, next| one < next), "{roles:?}");
        if self.left.iter().any(|id| self.is_opaque(id)) {
            assert_eq!(roles, [Role::Main]);
            return;
        }
        for (piece, ids) in self.batch.pieces.iter().zip(self.pieces()) {
            for id in ids {
                let own = self.fakes.series(id).map_or(Role::Main, |series| role(id.0 as u64 + 1, series));
                // (Culprits that have innocents among them are suspects.)
                assert!(
                    own.min(Role::Suspects) <= piece.role && (own == Role::Poison) <= (piece.role == Role::Poison),
                    "{id:?}"
                );
            }
        }
    }

    /// What pieces must be there when series are given up as poison.
    fn poison_aside(&self, before: &[Vec<Id>], series: &HashSet<u64>) -> Vec<Vec<Id>> {
        if before.iter().flatten().any(|id| self.is_opaque(id)) {
            return before.to_vec();
        }
        let mut aside = Vec::new();
        let mut pieces = Vec::new();
        for (piece, ids) in self.batch.pieces.iter().zip(before) {
            let is_out = |id: &Id| {
                let of = self.fakes.series(*id);
                of.is_some_and(|of| series.contains(&of) || piece.role == Role::Poison)
            };
            let (out, kept): (Vec<Id>, Vec<Id>) = ids.iter().copied().partition(is_out);
            aside.extend(out);
            pieces.push(kept);
        }
        aside.sort_unstable();
        pieces.push(aside);
        pieces.retain(|ids| !ids.is_empty());
        pieces
    }

    fn start_over(&mut self) {
        self.batch.start_over(false);
        self.before = None;
        self.in_part.clear();
        for (record, fake) in self.fakes.0.iter().enumerate().filter(|(record, _)| !self.told.contains(record)) {
            self.outcomes[record] = Outcomes::default();
            self.left.extend((0..fake.series.len().max(1) as u32).map(|number| (record, number)));
        }
    }

    /// Whether a record has to wait for one that is not known: one that it stands together with in a request that was taken in part, or one that this
    /// one does.
    fn waits(&self, number: usize) -> bool {
        let (mut together, mut before) = (BTreeSet::from([number]), 0);
        while before < together.len() {
            before = together.len();
            let touched = self.in_part.iter().filter(|(first, last)| together.range(first..=last).next().is_some());
            let more: Vec<usize> = touched.flat_map(|(first, last)| *first..=*last).collect();
            together.extend(more);
        }
        self.left.iter().any(|id| together.contains(&id.0))
    }

    /// Those of which nothing is left are told, each once.
    fn take_completed(&mut self) {
        let records = self.fakes.records();
        let mut total = 0;
        let mut expected = Vec::new();
        for (number, record) in records.iter().enumerate() {
            let (from, to) = (Mark { position: Position(number as u64), total }, record.mark());
            total = to.total;
            if !self.waits(number) && self.told.insert(number) {
                let outcomes = self.outcomes[number];
                assert_eq!(outcomes.samples(), to.total - from.total);
                expected.push(Completed { from, to, next: record.next, outcomes });
            }
        }
        assert_eq!(self.batch.take_completed(), expected);
    }

    /// The invariants of the module.
    fn check(&mut self) {
        let pieces = self.pieces();
        let ids = pieces.concat();
        assert_eq!(ids.len(), self.left.len());
        assert_eq!(ids.iter().copied().collect::<BTreeSet<_>>(), self.left, "once each");
        assert!(pieces.iter().all(|ids| !ids.is_empty() && ids.is_sorted()), "{pieces:?}");
        let parts = self.batch.left();
        for part in &parts {
            assert!(part.chosen == Chosen::All || !self.fakes.0[part.record].is_opaque, "{part:?}");
            assert!(!self.fakes.ids(part).is_empty(), "{part:?}");
        }
        for (record, owed) in self.batch.records.iter().enumerate() {
            assert_eq!(owed.parts, parts.iter().filter(|part| part.record == record).count());
            assert_eq!(owed.is_told, self.told.contains(&record));
        }
        let mut newest: HashMap<u64, Id> = HashMap::new();
        for id in ids {
            if let Some(series) = self.fakes.series(id)
                && let Some(before) = newest.insert(series, id)
            {
                assert!(before < id, "{before:?} goes before {id:?}: {pieces:?}");
            }
        }
        if let Some(front) = pieces.first() {
            let samples: u64 = front.iter().map(|id| self.fakes.samples(*id)).sum();
            assert_eq!(self.batch.front_samples(&self.fakes).all(), samples);
        }
        self.check_cuts();
    }

    /// A cut reaches to the next one, and all of them from the first record that is not told to the last.
    fn check_cuts(&self) {
        let open: BTreeSet<u64> =
            (1..=self.fakes.0.len() as u64).filter(|position| !self.told.contains(&(*position as usize - 1))).collect();
        let cuts = self.batch.cuts();
        let ends = cuts.first().zip(cuts.last()).map(|(first, last)| (first.0.0, last.1.0));
        assert_eq!(ends, open.first().copied().zip(open.last().copied()));
        assert!(cuts.windows(2).all(|cuts| cuts[0].1.next() == cuts[1].0), "{cuts:?}");
        assert!(cuts.iter().all(|(first, last, _)| first <= last) && cuts.len() <= 2, "{cuts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is done to it, a batch holds what is not booked exactly once, each series in its order; records are told once, with all samples.
    #[test]
    fn whatever_is_done_to_a_batch_nothing_of_it_is_lost_or_doubled_and_no_series_loses_its_order(
        fakes in fakes(), operations in prop::collection::vec(operation(), 1..40),
    ) {
        let mut run = Run::new(fakes);
        run.check();
        for operation in operations {
            run.apply(operation);
            run.check();
        }
        while let Some(front) = run.pieces().first() {
            run.book(front, 0, Reason::Partial);
            run.check();
        }
        run.take_completed();
        prop_assert_eq!(run.told.len(), run.fakes.0.len());
    }
}
