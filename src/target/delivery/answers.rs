//! What follows from an answer: booked, halved, sent again.

use std::time::Instant;

use super::super::batch::{Contents, Piece, Role, Witness};
use super::super::culprits::Suspect;
use super::super::outcome::Outcome;
use super::super::suspicion::Finding;
use super::super::window::BatchId;
use super::senders::Sender;
use super::{AttemptId, Delivery, Event, Flight, RESENT_TRIES, Refused, Said, Trouble, What, parts_of};
use crate::savepoint::Reason;

/// Refusals in a row of a batch, with nothing taken between, after which what is refused is not halved without a witness.
const HOPELESS: u32 = 32;
/// What is so much older than the newest sample is a backlog: the target may have a bound to its age, which goes through some request.
const BACKLOG_MS: i64 = 600_000;
/// Halvings of one batch, after which none is made below the records.
const SPLITS_MAX: u32 = 512;

impl Delivery {
    /// An attempt was answered, or was not.
    pub fn answered(
        &mut self,
        id: AttemptId,
        outcome: Outcome,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
        random: f64,
    ) {
        let Some(flight) = self.flights.remove(&id) else { return };
        match flight.what.clone() {
            What::Empty { is_curious: true, .. } => self.curiosity_answered(&flight, &outcome, now, random),
            What::Empty { question_about, .. } => {
                self.question_answered(&flight, question_about, outcome, said.status.is_some(), now, random);
            }
            What::Piece { batch, question_about } => {
                let active = self.batches.get_mut(&batch).expect("a batch in flight is there");
                active.flight = None;
                match outcome {
                    Outcome::Accepted { refused } if refused < flight.samples.all() || refused == 0 => {
                        self.accepted(batch, &flight, refused, said, contents, now);
                        self.question_passed(question_about, now);
                    }
                    // A target of 2.0 that kept nothing has refused it, and looked at each sample.
                    Outcome::Accepted { .. } => {
                        self.pace.refused(now, flight.ticket);
                        self.out_of_trouble();
                        self.suspicion.refused(now);
                        let active = self.batches.get_mut(&batch).expect("it was in flight");
                        active.refused_at.get_or_insert(now);
                        let piece = active.batch.front().expect("it was in flight");
                        let reason = if piece.is_possibly_delivered { Reason::Resent } else { Reason::Partial };
                        active.is_unexpected = true;
                        self.give_up(batch, reason, said, contents, now);
                        self.question_passed(question_about, now);
                    }
                    Outcome::Refused => {
                        self.pace.refused(now, flight.ticket);
                        self.out_of_trouble();
                        self.refused(batch, said, contents, now);
                        self.question_passed(question_about, now);
                    }
                    Outcome::TooLarge => {
                        self.pace.refused(now, flight.ticket);
                        self.out_of_trouble();
                        self.too_large(batch, &flight, said, contents, now);
                    }
                    Outcome::Retry { .. } | Outcome::Hold(_) => {
                        self.failed(batch, &flight, question_about, &outcome, said, contents, now, random);
                    }
                }
                self.finish(batch, now);
            }
        }
    }

    pub(super) fn accepted(
        &mut self,
        id: BatchId,
        flight: &Flight,
        refused: u64,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
    ) {
        let has_backlog = self.lanes.iter().any(|lane| !lane.queue.is_empty());
        self.pace.success(now, flight.ticket, has_backlog);
        self.out_of_trouble();
        self.last_accepted = self.last_accepted.max(Some(flight.started));
        let took = now.saturating_duration_since(flight.started);
        self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 3 + took) / 4));
        if flight.samples.all() > 0 {
            self.suspicion.accepted(flight.started);
        }
        // What was learned from a refusal of something larger regrows.
        if let Some(learned) = &mut self.learned_bytes
            && flight.bytes as f64 > *learned * 0.5
        {
            *learned *= 1.02;
            if *learned >= self.rules.max_bytes_per_send as f64 {
                self.learned_bytes = None;
            }
        }
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let piece = active.batch.front().expect("it was in flight");
        let parts = if refused > 0 { parts_of(&active.batch, &piece.parts) } else { Vec::new() };
        let (kind, headers) = (active.kind, active.headers);
        let reason = if piece.is_possibly_delivered { Reason::Resent } else { Reason::Partial };
        if headers != 0 {
            self.culprits.accepted_headers(headers);
        }
        // (Of a batch of which something was refused, whoever was suspect is seen to be innocent.)
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let is_of_refused = active.said.is_some() && self.culprits.has_suspects();
        if !self.culprits.is_empty() || is_of_refused {
            let active = self.batches.get_mut(&id).expect("it was in flight");
            for (record, series, is_repeat) in active.batch.front_series(contents) {
                let suspect = Suspect::new(series, active.batch.record(record).meta.sender).again(is_repeat);
                if self.culprits.knows(suspect) || (is_of_refused && self.culprits.remembers(suspect)) {
                    active.taken.insert(suspect);
                }
            }
        }
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.not_before = None;
        active.batch.has_settled = true;
        active.batch.refusals_in_a_row = 0;
        active.batch.resent_in_a_row = 0;
        active.refused_at = None;
        active.batch.book(refused, reason, contents);
        // The larger piece was refused, its first half was not: the culprit is in the other.
        if let Some(next) = active.batch.front_mut()
            && std::mem::take(&mut next.is_bad_if_left_was_taken)
            && refused == 0
            && !next.is_possibly_delivered
        {
            next.is_known_bad = true;
        }
        self.give_up_certain(id, contents, now);
        let active = self.batches.get_mut(&id).expect("it is there");
        if refused > 0 {
            active.refused.push(Refused { kind, parts, reason, said, samples: refused, is_partial: true });
        }
        if active.batch.front().is_some_and(|next| next.role == Role::Poison) {
            self.narrow(id, contents);
        }
    }

    pub(super) fn refused(&mut self, id: BatchId, said: Said, contents: &dyn Contents, now: Instant) {
        self.suspicion.refused(now);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.refused_at.get_or_insert(now);
        active.said = Some(said.clone());
        active.batch.refusals_in_a_row += 1;
        let has_settled = active.batch.has_settled;
        let piece = active.batch.front_mut().expect("it was in flight");
        piece.failures = 0;
        piece.failing_since = None;
        let is_possibly_delivered = piece.is_possibly_delivered;
        let (role, is_cheap) = (piece.role, piece.is_cheap);
        if is_possibly_delivered {
            active.batch.resent_in_a_row += 1;
        }
        if is_possibly_delivered && !has_settled && active.batch.resent_in_a_row >= RESENT_TRIES {
            while self.batches[&id].batch.front().is_some_and(|piece| piece.is_possibly_delivered) {
                self.give_up(id, Reason::Resent, said.clone(), contents, now);
            }
            return;
        }
        // What is refused together with many that are always refused is seldom worth the search.
        let is_hopeless = self.is_hopeless(id, now);
        let is_usual = !is_hopeless && role == Role::Culprits && !self.budget.allows(role) && !is_cheap;
        if !is_hopeless && self.suspects_go_aside(id, contents) {
            return;
        }
        let is_divisible = self.batches.get_mut(&id).expect("it is there").batch.is_divisible(contents);
        if is_divisible && role != Role::Poison && !is_usual && self.may_halve(id, now, contents) {
            self.halve(id, contents, !is_possibly_delivered);
            return;
        }
        if is_hopeless && is_divisible && self.calls_witness(id, contents, now) {
            return;
        }
        let record_by_record = self.suspicion.goes_record_by_record(now);
        let reason = match (is_possibly_delivered, is_divisible && !is_usual && !record_by_record) {
            (true, _) => Reason::Resent,
            (false, true) => Reason::Unsplit,
            (false, false) => Reason::Status,
        };
        // Perhaps the target goes wrong just now. It is asked before a piece is believed, and again when, after something of the batch was taken,
        // one piece after the other is refused that is not suspect; then the piece is sent again.
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_a_piece = active.batch.pieces() > 1 || has_settled;
        let was_accepted_since = |at: Instant| self.last_accepted.is_some_and(|accepted| accepted > at);
        let in_a_row = active.given_up_at.filter(|at| has_settled && role == Role::Main && !was_accepted_since(*at));
        let piece = active.batch.front_mut().expect("it was in flight");
        let asked_since = piece.refused_at;
        // (Its witness was believed just now.)
        let goes_with_witness = is_hopeless && piece.witness == Witness::WentBefore;
        let is_doubtful = is_a_piece && !is_possibly_delivered && !goes_with_witness;
        if is_doubtful && !self.suspicion.believes_a_piece(in_a_row, asked_since, now) {
            piece.refused_at.get_or_insert(now);
            active.is_in_doubt = true;
            return;
        }
        active.given_up_at = Some(now);
        active.is_unexpected |= !is_hopeless;
        self.give_up(id, reason, said, contents, now);
    }

    /// Of what is known to be bad, and is of series only that were refused each time that something of their batch was, nothing is sent: the whole was
    /// refused with it, and taken without it. (Now and then each is looked at all the same, when the budget allows it.)
    fn give_up_certain(&mut self, id: BatchId, contents: &dyn Contents, now: Instant) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_certain = |piece: &Piece| piece.is_known_bad && piece.role == Role::Culprits && !piece.is_cheap;
        let is_certain = active.batch.front().is_some_and(is_certain) && !self.budget.allows(Role::Culprits);
        if let Some(said) = active.said.clone().filter(|_| is_certain) {
            self.give_up(id, Reason::Status, said, contents, now);
        }
    }

    /// Of a whole batch, which was refused: whoever was refused of late is suspected first. Whether somebody was.
    fn suspects_go_aside(&mut self, id: BatchId, contents: &dyn Contents) -> bool {
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_whole =
            active.batch.is_untouched() && active.batch.front().is_some_and(|piece| piece.role == Role::Main);
        if !is_whole || active.batch.was_possibly_delivered || !self.culprits.has_suspects() {
            return false;
        }
        let culprits = &self.culprits;
        active.batch.set_aside(contents, |record, series, is_repeat| {
            culprits.role_in_refused(Suspect::new(series, record.meta.sender), is_repeat)
        });
        active.batch.is_known_to_be_bad();
        active.batch.pieces() > 1
    }

    /// Of the front piece, which was refused and is not to be halved: whether a series of it goes before it is given up. Always of a backlog, through
    /// which the target's bound may pass; of what is fresh within the budget, which is small where all of a request was refused.
    fn calls_witness(&mut self, id: BatchId, contents: &dyn Contents, now: Instant) -> bool {
        let is_of_backlog = self.is_of_backlog(id);
        let is_whole = self.batches[&id].batch.front().is_some_and(Piece::is_of_whole_records);
        let purse = if is_whole { Role::Culprits } else { Role::Main };
        if !is_of_backlog && !self.budget.allows(purse) {
            return false;
        }
        let active = self.batches.get_mut(&id).expect("it is there");
        if active.batch.front().is_some_and(|piece| piece.witness != Witness::None) {
            return false;
        }
        if active.batch.call_witness(contents, true) {
            if !is_of_backlog {
                self.budget.pay(purse);
            }
            return true;
        }
        // All of it is one series: it has just been heard.
        let is_witness = active.batch.front().is_some_and(|piece| piece.witness == Witness::Is);
        let may_halve = is_witness && self.may_halve(id, now, contents);
        if may_halve {
            self.halve(id, contents, true);
        }
        may_halve
    }

    /// Whether the front piece may be halved: along records always, below within the budget.
    pub(super) fn may_halve(&mut self, id: BatchId, now: Instant, contents: &dyn Contents) -> bool {
        let is_hopeless = self.is_hopeless(id, now);
        let active = self.batches.get_mut(&id).expect("it is there");
        let Some(piece) = active.batch.front() else { return false };
        let is_paid = self.budget.allows(piece.role) || piece.is_cheap;
        let is_worth_it = !is_hopeless || piece.witness == Witness::Is;
        active.batch.is_divisible_by_records()
            || active.batch.is_divisible(contents) && is_worth_it && is_paid && active.batch.splits < SPLITS_MAX
    }

    /// The target seems to take nothing of this part of a batch, or nothing at all of who sent it.
    pub(super) fn is_hopeless(&self, id: BatchId, now: Instant) -> bool {
        let batch = &self.batches[&id].batch;
        let is_sender_hopeless = || self.senders.is_hopeless(self.front_sender(id));
        // (What may have been delivered has a limit of its own.)
        let is_possibly_delivered = batch.front().is_some_and(|piece| piece.is_possibly_delivered);
        (batch.refusals_in_a_row >= HOPELESS && !is_possibly_delivered)
            || (!batch.has_settled && (is_sender_hopeless() || self.suspicion.goes_record_by_record(now)))
    }

    /// The target takes nothing of who sent what is next in a batch, and will not take this.
    pub(super) fn is_refused_now(&self, id: BatchId, now: Instant) -> bool {
        let is_sender_refused = || self.senders.is_refused_now(self.front_sender(id));
        let has_settled = self.batches[&id].batch.has_settled;
        !has_settled && (is_sender_refused() || self.suspicion.goes_record_by_record(now))
    }

    /// Whether what a batch sends next is so old that it may be too old.
    pub(super) fn is_of_backlog(&self, id: BatchId) -> bool {
        let batch = &self.batches[&id].batch;
        batch.front().is_some_and(|piece| {
            let newest_ms = batch.record(piece.records().0).header.times.max;
            newest_ms < self.newest_sample_ms.saturating_sub(BACKLOG_MS)
        })
    }

    /// Who sent what a batch sends next, or the first of that.
    fn front_sender(&self, id: BatchId) -> Sender {
        let active = &self.batches[&id];
        let first = active.batch.front().map_or(0, |piece| piece.records().0);
        (active.lane, active.batch.record(first).meta.sender)
    }

    /// Halves the front piece, which was refused. When `proves`, and the target takes the first half, the culprit is in the second.
    pub(super) fn halve(&mut self, id: BatchId, contents: &dyn Contents, proves: bool) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let piece = active.batch.front().expect("something is left");
        let (role, is_cheap) = (piece.role, piece.is_cheap);
        // Along records it is free, but for those of which all is refused, again and again.
        let is_free = is_cheap || (role != Role::Culprits && active.batch.is_divisible_by_records());
        active.batch.halve(contents, proves);
        if !is_free {
            self.budget.pay(role);
        }
    }

    /// Books the front piece as refused.
    pub(super) fn give_up(&mut self, id: BatchId, reason: Reason, said: Said, contents: &dyn Contents, now: Instant) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let samples = active.batch.front_samples(contents).all();
        let piece = active.batch.front().expect("something is left");
        let (parts, role) = (parts_of(&active.batch, &piece.parts), piece.role);
        let is_single = piece.parts.len() == 1 && !active.batch.is_divisible(contents);
        if samples > 0 || reason != Reason::Resent {
            active.refused.push(Refused { kind: active.kind, parts, reason, said, samples, is_partial: false });
        }
        // A culprit is what was refused alone, or with others that are known.
        let is_alone = is_single && reason == Reason::Status;
        if is_alone || role == Role::Culprits {
            for (record, series, is_repeat) in active.batch.front_series(contents) {
                let suspect = Suspect::new(series, active.batch.record(record).meta.sender).again(is_repeat);
                if active.culprits.contains(&suspect) {
                    continue;
                }
                active.culprits.push(suspect);
                if is_alone {
                    self.culprits.refused(suspect, now);
                } else {
                    self.culprits.refused_again(suspect, now);
                }
            }
        }
        active.batch.book(samples, reason, contents);
        if let Some(next) = active.batch.front_mut() {
            next.is_bad_if_left_was_taken = false;
        }
    }

    pub(super) fn too_large(
        &mut self,
        id: BatchId,
        flight: &Flight,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
    ) {
        let active = self.batches.get_mut(&id).expect("it was in flight");
        if active.batch.is_divisible_by_records() {
            let learned = (flight.bytes as f64 / 2.0).max(1024.0);
            self.learned_bytes = Some(self.learned_bytes.map_or(learned, |before| before.min(learned)));
            active.batch.halve(contents, false);
            return;
        }
        // A single record is taken apart only for a target that takes an empty request: who finds everything too large is not well.
        self.suspicion.refused(now);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.refused_at.get_or_insert(now);
        let piece = active.batch.front_mut().expect("it was in flight");
        let asked_since = piece.refused_at;
        if !self.suspicion.believes_a_piece(None, asked_since, now) {
            piece.refused_at.get_or_insert(now);
            active.is_in_doubt = true;
            return;
        }
        active.is_unexpected = true;
        if active.batch.is_divisible(contents) {
            // Of this the next ones learn nothing: records are not cut beforehand.
            active.batch.halve(contents, false);
            return;
        }
        let reason = match active.batch.front().is_some_and(|piece| piece.is_possibly_delivered) {
            true => Reason::Resent,
            false => Reason::Status,
        };
        self.give_up(id, reason, said, contents, now);
    }

    #[allow(clippy::too_many_arguments, reason = "an attempt and all that is known of its end")]
    pub(super) fn failed(
        &mut self,
        id: BatchId,
        flight: &Flight,
        question_about: Option<BatchId>,
        outcome: &Outcome,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
        random: f64,
    ) {
        let has_trouble = self.trouble.is_some();
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let is_held = active.headers == 0 && matches!(outcome, Outcome::Hold(_));
        if question_about == Some(id) {
            active.batch.undo_single_out();
        }
        let piece = active.batch.front_mut().expect("it was in flight");
        piece.failures = piece.failures.saturating_add(1);
        piece.is_held = is_held;
        piece.failing_since.get_or_insert(now);
        let mut is_mute = false;
        if let Outcome::Retry { may_have_arrived, timed_out, .. } = outcome {
            piece.is_possibly_delivered |= *may_have_arrived;
            active.batch.was_possibly_delivered |= *may_have_arrived;
            let piece = active.batch.front_mut().expect("it was in flight");
            is_mute = said.status.is_none() && *may_have_arrived;
            if is_mute {
                piece.unanswered += 1;
            }
            if *timed_out && flight.bytes > 0 {
                let half = (flight.bytes as f64 / 2.0).max(16.0 * 1024.0);
                if piece.unanswered >= 2 {
                    self.learned_bytes = Some(self.learned_bytes.map_or(half, |before| before.min(half)));
                }
            }
        }
        let unanswered = active.batch.front().map_or(0, |piece| piece.unanswered);
        active.last_failed = Some(now);

        // Poison of former batches has one attempt, if the target is up.
        let is_throttled = matches!(outcome, Outcome::Retry { is_throttled: true, .. });
        let is_alone = match outcome {
            Outcome::Retry { .. } => said.status.is_some(),
            _ => active.headers != 0,
        };
        let is_poison = active.batch.front().is_some_and(|piece| piece.role == Role::Poison);
        if is_poison && is_alone && !has_trouble && !is_throttled && self.was_given_up(id, contents) {
            self.pace.abandon(now, flight.ticket);
            self.poisoned(id, said, contents, now);
            return;
        }
        let active = self.batches.get_mut(&id).expect("it was in flight");
        if let Some(piece) = active.batch.front_mut().filter(|piece| piece.role == Role::Poison) {
            // It was set aside because of another batch, and is now looked at itself.
            piece.role = Role::Main;
        }
        if active.is_isolated {
            self.pace.abandon(now, flight.ticket);
            self.strike(id, outcome, said, contents, now, random);
            return;
        }
        match outcome {
            Outcome::Hold(reason) => {
                self.pace.held(now, flight.ticket, random);
                let held = Trouble::Held(reason.clone());
                if self.trouble.as_ref() != Some(&held) {
                    self.events.push(Event::BeganHolding(reason.clone()));
                }
                self.trouble = Some(held);
            }
            Outcome::Retry { retry_after, is_throttled, .. } => {
                if *is_throttled {
                    self.pace.throttled(now, flight.ticket, *retry_after, random);
                } else {
                    self.pace.failed(now, flight.ticket, *retry_after, random);
                }
                if !matches!(self.trouble, Some(Trouble::BackingOff)) {
                    self.events.push(Event::BeganBackingOff);
                }
                self.trouble = Some(Trouble::BackingOff);
                let active = self.batches.get_mut(&id).expect("it was in flight");
                if is_mute && unanswered >= 2 && active.batch.is_divisible_by_records() {
                    active.batch.halve(contents, false);
                }
            }
            _ => {}
        }
    }

    pub(super) fn out_of_trouble(&mut self) {
        if self.trouble.take().is_some() {
            let failures = std::mem::take(&mut self.trouble_attempts);
            self.events.push(Event::Recovered { failures });
        }
    }

    /// Nobody doubts the target: whatever it says to an empty request is no trouble.
    fn curiosity_answered(&mut self, flight: &Flight, outcome: &Outcome, now: Instant, random: f64) {
        let is_taken = matches!(outcome, Outcome::Accepted { .. });
        let is_refused = matches!(outcome, Outcome::Refused);
        match (is_taken, is_refused) {
            (true, _) => self.pace.success(now, flight.ticket, false),
            (_, true) => self.pace.refused(now, flight.ticket),
            _ => self.pace.abandon(now, flight.ticket),
        }
        if is_taken || is_refused {
            // (Something may be in doubt since: then this answers it too.)
            if self.suspicion.answered(is_taken, is_refused, now, random) == Finding::Believed {
                self.believe_all();
            }
        }
    }

    pub(super) fn question_answered(
        &mut self,
        flight: &Flight,
        question_about: Option<BatchId>,
        outcome: Outcome,
        has_status: bool,
        now: Instant,
        random: f64,
    ) {
        let has_backlog = !self.batches.is_empty();
        let (is_taken, is_refused) = match &outcome {
            Outcome::Accepted { .. } => (true, false),
            Outcome::Refused => (false, true),
            Outcome::TooLarge | Outcome::Hold(_) => (false, false),
            // Something answers, and data was taken before: who waits for a better answer waits for ever.
            Outcome::Retry { is_throttled: false, .. } if has_status && self.suspicion.has_waited(now) => {
                (false, false)
            }
            Outcome::Retry { retry_after, is_throttled, .. } => {
                if *is_throttled {
                    self.pace.throttled(now, flight.ticket, *retry_after, random);
                } else {
                    self.pace.failed(now, flight.ticket, *retry_after, random);
                }
                if self.trouble.is_none() {
                    self.events.push(Event::BeganBackingOff);
                    self.trouble = Some(Trouble::BackingOff);
                }
                self.suspicion.unanswered();
                return;
            }
        };
        // Who never takes an empty request says by refusing one that he is there.
        let is_up = is_taken || (is_refused && self.suspicion.learned().1 == Some(false));
        if is_taken {
            self.pace.success(now, flight.ticket, has_backlog);
        } else if let Outcome::Hold(_) = outcome {
            self.pace.held(now, flight.ticket, random);
        } else {
            self.pace.refused(now, flight.ticket);
        }
        if is_up {
            self.out_of_trouble();
            self.last_accepted = self.last_accepted.max(Some(flight.started));
        }
        match self.suspicion.answered(is_taken, is_refused, now, random) {
            Finding::Believed => {
                if question_about.is_none() {
                    self.believe_all();
                }
            }
            Finding::Again => {
                self.senders.forget_all();
                for active in self.batches.values_mut().filter(|active| active.is_in_doubt) {
                    active.is_in_doubt = false;
                    if active.batch.has_settled {
                        continue;
                    }
                    active.refused.clear();
                    active.refused_at = None;
                    active.culprits.clear();
                    active.is_unexpected = false;
                    let is_possibly_delivered = active.batch.was_possibly_delivered;
                    active.batch.start_over(is_possibly_delivered);
                }
                self.events.push(Event::Recovered { failures: 0 });
            }
            Finding::Suspect { began } => {
                if began {
                    self.events.push(Event::BeganSuspect);
                }
            }
        }
        if is_up {
            self.question_passed(question_about, now);
        } else if let Some(active) = question_about.and_then(|id| self.batches.get_mut(&id)) {
            // Asked again, but slowly.
            let failures = active.batch.front().map_or(1, |piece| piece.failures.max(1));
            active.not_before = Some(now + self.rules.hold.wait(failures, random));
        }
    }

    /// What is done is told; what was refused as a whole only when it is believed.
    pub(super) fn finish(&mut self, id: BatchId, now: Instant) {
        let Some(active) = self.batches.get_mut(&id) else { return };
        if active.batch.has_settled {
            self.complete(id);
        }
        let active = self.batches.get_mut(&id).expect("it is there");
        if !active.batch.is_done() {
            return;
        }
        if !active.batch.has_settled && !active.refused.is_empty() {
            let refused_at = active.refused_at.unwrap_or(now);
            if !self.suspicion.believes(refused_at, !active.is_unexpected, now) {
                if let Some(active) = self.batches.get_mut(&id) {
                    active.is_in_doubt = true;
                }
                return;
            }
        }
        self.tell(id);
    }
}
