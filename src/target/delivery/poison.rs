//! A batch that fails while others would pass: how that is found out, and what becomes of it. The rules are in the module above.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::super::batch::{Contents, EntryFacts, Role};
use super::super::culprits::Suspect;
use super::super::outcome::Outcome;
use super::super::pace::May;
use super::super::window::BatchId;
use super::active::{Active, keyed};
use super::choosing::roles;
use super::{Delivery, Event, Next, Said, What};
use crate::savepoint::Reason;

/// Failures of one piece in a row before others are asked.
const DOUBTS: u32 = 4;
/// Strikes before a piece that cannot be halved is given up.
const STRIKES_TO_GIVE_UP: u32 = 3;

impl Delivery {
    /// The batch of which it is not known whether it fails alone. What is held is kept, whatever passes.
    pub(super) fn doubted(&self, now: Instant) -> Option<BatchId> {
        self.trouble.as_ref()?;
        let patience = (self.rules.poison_after / 4).min(Duration::from_secs(15));
        // Of those that fail alone this is known; others wait.
        let is_failing = |active: &&Active| {
            active.batch.front().is_some_and(|piece| {
                piece.failures >= DOUBTS
                    && !piece.is_held
                    && piece.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
            })
        };
        let found = self.batches.iter().find(|(_, active)| {
            (active.was_attempted || active.was_asked_for_protocol)
                && !active.is_isolated
                && active.flight.is_none()
                && is_failing(active)
        });
        found.map(|(id, _)| *id)
    }

    /// Asks with something of the batch that is in doubt itself.
    pub(super) fn question_itself(
        &mut self,
        about: BatchId,
        now: Instant,
        contents: &dyn Contents,
        random: f64,
    ) -> Result<Next, May> {
        match self.pace.may_start(now) {
            May::Now => {}
            other => return Err(other),
        }
        // An answer to that is as good as one to a question.
        if self.must_ask_for_protocol(about, now) {
            return self.ask_for_protocol(about, now).ok_or(May::AfterAnswer);
        }
        let active = self.batches.get_mut(&about).expect("it is in doubt");
        let cannot_single_out =
            active.headers != 0 || !active.batch.single_out(contents, |n| (random * n as f64) as usize);
        if cannot_single_out {
            return Ok(self.ask(now, Some(about), false));
        }
        let next = self.start_piece(about, None, now, contents)?;
        if let Next::Start(attempt) = &next
            && let Some(flight) = self.flights.get_mut(&attempt.id)
        {
            flight.what = What::Piece { batch: about, question_about: Some(about) };
        }
        Ok(next)
    }

    /// What was asked got through: if it was asked because of a batch that fails, that one fails alone.
    pub(super) fn question_passed(&mut self, about: Option<BatchId>, now: Instant) {
        let Some(id) = about else { return };
        let Some(active) = self.batches.get_mut(&id) else { return };
        if active.batch.is_done() || active.is_isolated {
            return;
        }
        active.is_isolated = true;
        active.not_before = Some(now + self.rules.hold.wait(1, 0.0));
        if let Some((first, last)) = active.batch.open() {
            self.events.push(Event::Isolated { first, last });
        }
    }

    /// A batch that fails alone is tried again only when something else has passed since: if there is nothing else, an empty request.
    pub(super) fn needs_a_question_first(&self, id: BatchId) -> bool {
        let active = &self.batches[&id];
        active.is_isolated && active.last_failed.is_some_and(|failed| !self.accepted_since(failed))
    }

    /// What was set aside because of poison waits until that is settled: it would overtake it.
    pub(super) fn is_behind_poison(&mut self, id: BatchId, contents: &dyn Contents) -> bool {
        let active = self.batches.get_mut(&id).expect("it was looked at");
        if active.batch.front().is_none_or(|piece| piece.role != Role::Poison) {
            return false;
        }
        let (lane, headers) = (active.lane, active.headers);
        let mine: HashSet<u64> =
            active.batch.front_entries(contents).into_iter().map(|(_, entry)| entry.series ^ headers).collect();
        let earlier = self.batches.range(..id).filter(|(_, other)| other.lane == lane);
        let earlier: Vec<BatchId> = earlier.map(|(id, _)| *id).collect();
        let mut is_behind = |other| {
            let left = self.left_of(other, contents);
            left.is_none_or(|left| left.iter().any(|series| mine.contains(series)))
        };
        earlier.into_iter().any(&mut is_behind)
    }

    /// What waited for poison, or for what was in doubt, and is none itself, goes like anything else when its turn has come.
    pub(super) fn is_main_after_all(&mut self, id: BatchId, contents: &dyn Contents) {
        let active = self.batches.get_mut(&id).expect("it was looked at");
        if active.batch.front().is_none_or(|piece| piece.role != Role::Poison)
            || (active.headers != 0 && self.culprits.is_poison_headers(active.headers))
        {
            return;
        }
        let entries = active.batch.front_entries(contents);
        let suspect = |record: usize, series| Suspect::new(series, active.batch.record(record).meta.sender);
        let is_poison =
            |(record, entry): &&(usize, EntryFacts)| self.culprits.is_poison(suspect(*record, entry.series));
        let poison: HashSet<u64> = entries.iter().filter(is_poison).map(|(_, entry)| entry.series).collect();
        if entries.iter().all(|(_, entry)| poison.contains(&entry.series)) {
            return;
        }
        if let Some(piece) = active.batch.front_mut() {
            piece.role = Role::Main;
        }
        if !poison.is_empty() {
            active.batch.set_poison_aside(&poison, contents);
        }
    }

    /// Those of some batches of which nothing is left but what fails alone, or waits for that.
    pub(super) fn batches_of_poison(&self, of: &BTreeSet<BatchId>) -> BTreeSet<BatchId> {
        let is_of_poison = |id: &&BatchId| {
            self.batches.get(id).is_some_and(|active| {
                active.is_isolated || active.batch.front().is_some_and(|piece| piece.role == Role::Poison)
            })
        };
        of.iter().filter(is_of_poison).copied().collect()
    }

    /// Others need not wait for what is settled of a batch that may stay for long.
    pub(super) fn narrow(&mut self, id: BatchId, contents: &dyn Contents) {
        let Some(left) = self.left_of(id, contents) else { return };
        let left: HashSet<u64> = left.into_iter().collect();
        let active = self.batches.get_mut(&id).expect("something is left of it");
        let lane = active.lane;
        if let Some(Some(series)) = &mut active.series {
            let gone: Vec<u64> = series.iter().copied().filter(|series| !left.contains(series)).collect();
            series.retain(|series| left.contains(series));
            self.lanes[lane as usize].window.let_go(id, &gone);
        }
        let waiting: Vec<BatchId> =
            self.batches.iter().filter(|(_, other)| other.waits_for.contains(&id)).map(|(id, _)| *id).collect();
        for other in waiting {
            let other = self.batches.get_mut(&other).expect("it was found");
            if !other.was_attempted && other.batch.is_one_main_piece() {
                other.batch.set_aside(contents, roles(&self.culprits, &self.senders, lane));
            }
            let main = keyed(other.batch.main_series(contents), other.headers);
            if main.is_some_and(|main| !main.iter().any(|series| left.contains(series))) {
                other.waits_for.remove(&id);
            }
        }
        // And what waits in the queue for it may be looked at again.
        self.lanes[lane as usize].waits_for.remove(&id);
    }

    /// A batch that fails alone has failed again, while others pass.
    pub(super) fn strike(
        &mut self,
        id: BatchId,
        outcome: &Outcome,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
        random: f64,
    ) {
        let poison_after = self.rules.poison_after;
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let is_of_headers = active.headers != 0 && matches!(outcome, Outcome::Hold(_));
        if active.batch.front().is_some_and(|piece| piece.is_held) {
            active.not_before = Some(now + self.rules.hold.wait(1, random));
            return;
        }
        if !is_of_headers && active.batch.is_divisible(contents) {
            active.batch.halve(contents, false);
            active.not_before = None;
            return;
        }
        let piece = active.batch.front_mut().expect("it was in flight");
        piece.strikes += 1;
        let is_long = piece.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= poison_after);
        if piece.strikes >= STRIKES_TO_GIVE_UP && is_long {
            active.not_before = None;
            if is_of_headers {
                let headers = active.headers;
                self.culprits.poisoned_headers(headers, now);
                active.batch.has_settled = true;
                while self.batches[&id].batch.front().is_some() {
                    self.give_up(id, Reason::Poison, said.clone(), contents, now);
                }
            } else {
                self.poisoned(id, said, contents, now);
            }
            return;
        }
        let wait = self.rules.hold.wait(piece.strikes, random);
        if !is_of_headers {
            // It is known by now what it is: nothing else need wait for it.
            for (record, entry) in active.batch.front_entries(contents) {
                let suspect = Suspect::new(entry.series, active.batch.record(record).meta.sender);
                self.culprits.struck(suspect, now);
            }
            let active = self.batches.get_mut(&id).expect("it was in flight");
            if active.batch.front_to_back(contents) && active.batch.front().is_some_and(|next| next.strikes == 0) {
                return;
            }
        }
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.not_before = Some(now + wait);
        self.narrow(id, contents);
    }

    /// Whether all of the front piece is of what was given up as poison before: that has one attempt.
    pub(super) fn was_given_up(&mut self, id: BatchId, contents: &dyn Contents) -> bool {
        let active = self.batches.get_mut(&id).expect("it is there");
        if active.headers != 0 && self.culprits.is_poison_headers(active.headers) {
            return true;
        }
        let entries = active.batch.front_entries(contents);
        let is_known = |(record, entry): &(usize, EntryFacts)| {
            self.culprits.was_given_up(Suspect::new(entry.series, active.batch.record(*record).meta.sender))
        };
        !entries.is_empty() && entries.iter().all(is_known)
    }

    /// The front piece is given up as poison, and remembered.
    pub(super) fn poisoned(&mut self, id: BatchId, said: Said, contents: &dyn Contents, now: Instant) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let headers = active.headers;
        if headers != 0 && self.culprits.is_poison_headers(headers) {
            self.culprits.poisoned_headers(headers, now);
            active.batch.has_settled = true;
            self.give_up(id, Reason::Poison, said, contents, now);
            return;
        }
        let mut series = HashSet::new();
        for (record, entry) in active.batch.front_entries(contents) {
            let suspect = Suspect::new(entry.series, active.batch.record(record).meta.sender);
            self.culprits.poisoned(suspect, now);
            series.insert(entry.series);
        }
        active.batch.has_settled = true;
        self.give_up(id, Reason::Poison, said, contents, now);
        // A merged batch has it many times: not each is to be found out about.
        if let Some(active) = self.batches.get_mut(&id) {
            active.batch.set_poison_aside(&series, contents);
        }
    }
}
