//! What follows from an answer: booked, halved, sent again.

use std::time::Instant;

use super::super::batch::{Contents, Role, Witness};
use super::super::culprits::Suspect;
use super::super::outcome::{Outcome, Reason as HoldReason};
use super::super::suspicion::Finding;
use super::super::window::BatchId;
use super::active::{Active, Refusals, kept_parts_of};
use super::{AttemptId, Delivery, Event, Flight, Refused, Said, TAKEN_FORWARDED_MAX, Trouble, What};
use crate::savepoint::Reason;

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
        if matches!(outcome, Outcome::Accepted { .. }) {
            self.takes_protocol(flight.protocol);
        }
        match flight.what.clone() {
            What::Protocol { batch } => {
                self.protocol_answered(batch, &flight, outcome, said, contents, now, random);
                self.finish(batch, now);
            }
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
                        active.refusals.refused_at.get_or_insert(now);
                        let piece = active.batch.front().expect("it was in flight");
                        let reason = if piece.is_possibly_delivered { Reason::Resent } else { Reason::Partial };
                        active.refusals.is_unexpected = true;
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
                    // The same data goes in the other one.
                    Outcome::WrongProtocol(ref reason) if self.takes_not(flight.protocol, reason, now) => {
                        self.pace.abandon(now, flight.ticket);
                    }
                    Outcome::WrongProtocol(reason) => {
                        let outcome = Outcome::Hold(reason);
                        self.failed(batch, &flight, question_about, &outcome, said, contents, now, random);
                    }
                    Outcome::Retry { .. } | Outcome::Hold(_) => {
                        self.failed(batch, &flight, question_about, &outcome, said, contents, now, random);
                    }
                }
                self.finish(batch, now);
            }
        }
    }

    /// Whether the target takes 2.0 was asked before a batch. What fails then is as if that batch had failed.
    #[allow(clippy::too_many_arguments, reason = "an attempt and all that is known of its end")]
    fn protocol_answered(
        &mut self,
        id: BatchId,
        flight: &Flight,
        outcome: Outcome,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
        random: f64,
    ) {
        let active = self.batches.get_mut(&id).expect("a batch in flight is there");
        active.flight = None;
        if matches!(outcome, Outcome::Accepted { .. }) {
            self.suspicion.took_an_empty_request();
        }
        let failure = match outcome {
            Outcome::Accepted { .. } | Outcome::Refused => {
                // (Who says what he has written takes 2.0, even if he takes no empty request.)
                self.takes_protocol(flight.protocol);
                self.pace.success(now, flight.ticket, true);
                self.out_of_trouble();
                self.last_accepted = self.last_accepted.max(Some(flight.started));
                return;
            }
            Outcome::WrongProtocol(reason) => {
                if self.takes_not(flight.protocol, &reason, now) {
                    // (If it does not take the other one either, that is still the same trouble.)
                    self.pace.abandon(now, flight.ticket);
                    return;
                }
                Outcome::Hold(reason)
            }
            Outcome::TooLarge => Outcome::Hold(HoldReason::Status(413)),
            // No data was in it.
            Outcome::Retry { retry_after, is_throttled, .. } => {
                Outcome::Retry { retry_after, is_throttled, may_have_arrived: false, timed_out: false }
            }
            Outcome::Hold(reason) => Outcome::Hold(reason),
        };
        let active = self.batches.get_mut(&id).expect("it is there");
        active.was_asked_for_protocol = true;
        self.failed(id, flight, None, &failure, said, contents, now, random);
    }

    /// A piece was accepted, all of it but `refused` samples.
    fn accepted(
        &mut self,
        id: BatchId,
        flight: &Flight,
        refused: u64,
        said: Said,
        contents: &dyn Contents,
        now: Instant,
    ) {
        self.takes_data(flight, now);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let piece = active.batch.front().expect("it was in flight");
        let parts = if refused > 0 { kept_parts_of(&active.batch, &piece.parts) } else { Vec::new() };
        let (kind, headers, is_witness) = (active.kind, active.headers, piece.witness == Witness::Is);
        let reason = if piece.is_possibly_delivered { Reason::Resent } else { Reason::Partial };
        if headers != 0 {
            self.culprits.accepted_headers(headers);
        }
        let forwarded = active.forwarded();
        if self.taken_forwarded.front() != Some(forwarded) {
            let forwarded = forwarded.clone();
            self.taken_forwarded.retain(|other| *other != forwarded);
            self.taken_forwarded.truncate(TAKEN_FORWARDED_MAX - 1);
            self.taken_forwarded.push_front(forwarded);
        }
        self.note_innocent_suspects(id, contents);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.not_before = None;
        active.batch.has_settled = true;
        active.batch.refusals_in_a_row = 0;
        active.batch.resent_in_a_row = 0;
        active.refusals.refused_at = None;
        active.batch.book(refused, reason, contents);
        // The larger piece was refused, its first half was not: the culprit is in the other.
        if let Some(next) = active.batch.front_mut()
            && std::mem::take(&mut next.is_bad_if_left_was_taken)
            && refused == 0
            && !next.is_possibly_delivered
        {
            next.is_known_bad = true;
        }
        if is_witness {
            active.batch.witness_was_taken();
        }
        if active.batch.front().is_some_and(|next| next.is_known_bad) {
            self.rest_is_refused(id);
        }
        self.give_up_what_is_certain(id, contents, now);
        let active = self.batches.get_mut(&id).expect("it is there");
        if refused > 0 {
            active.refusals.refused.push(Refused { kind, parts, reason, said, samples: refused, is_partial: true });
        }
        if active.batch.front().is_some_and(|next| next.role == Role::Poison) {
            self.narrow(id, contents);
        }
    }

    /// What a success says of the target, whatever it was.
    fn takes_data(&mut self, flight: &Flight, now: Instant) {
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
    }

    /// Who was suspect and is in a piece that was accepted, is seen to be innocent when the batch is done; also who was so of late, if something of the
    /// batch was refused.
    fn note_innocent_suspects(&mut self, id: BatchId, contents: &dyn Contents) {
        let active = self.batches.get_mut(&id).expect("it was in flight");
        let is_of_refused = active.refusals.said.is_some() && self.culprits.remembers_any();
        if !self.culprits.has_suspects() && !is_of_refused {
            return;
        }
        for (record, series, is_repeat) in active.batch.front_series(contents) {
            let suspect = Suspect::new(series, active.batch.record(record).meta.sender).again(is_repeat);
            if self.culprits.knows(suspect) || (is_of_refused && self.culprits.remembers(suspect)) {
                active.refusals.taken.insert(suspect);
            }
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
        active.refusals.refused_at.get_or_insert(now);
        let piece = active.batch.front_mut().expect("it was in flight");
        let asked_since = piece.refused_at;
        if !self.suspicion.believes_a_piece(None, asked_since, now) {
            piece.refused_at.get_or_insert(now);
            active.refusals.is_in_doubt = true;
            return;
        }
        active.refusals.is_unexpected = true;
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
        piece.was_answered |= said.status.is_some();
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
        let has_data = matches!(flight.what, What::Piece { .. });
        if has_data && is_poison && is_alone && !has_trouble && !is_throttled && self.was_given_up(id, contents) {
            self.pace.abandon(now, flight.ticket);
            self.poisoned(id, said, contents, now);
            return;
        }
        // What fails with the headers of what fails alone fails alone, too.
        let headers = self.batches[&id].headers;
        let is_of_isolated = |other: &Active| other.is_isolated && other.headers == headers;
        let is_isolated_too = headers != 0 && is_alone && self.batches.values().any(is_of_isolated);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.is_isolated |= is_isolated_too;
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
        if let Outcome::WrongProtocol(reason) = outcome
            && self.takes_not(flight.protocol, reason, now)
        {
            self.suspicion.asks_again();
        }
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
        let outcome = match outcome {
            Outcome::WrongProtocol(reason) if self.takes_not(flight.protocol, &reason, now) => {
                // It is asked again, in the other one.
                self.pace.abandon(now, flight.ticket);
                self.suspicion.unanswered();
                return;
            }
            Outcome::WrongProtocol(reason) => Outcome::Hold(reason),
            other => other,
        };
        // With the headers of a tenant who is locked out a question is answered as the data is. That says nothing about others.
        let of_headers = question_about.and_then(|id| self.batches.get_mut(&id)).filter(|active| active.headers != 0);
        if let Some(active) = of_headers.filter(|active| active.is_isolated)
            && !matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused)
        {
            let failures = active.batch.front().map_or(1, |piece| piece.failures.max(1));
            active.not_before = Some(now + self.rules.hold.wait(failures, random));
            self.pace.abandon(now, flight.ticket);
            self.suspicion.unanswered();
            return;
        }
        let (is_taken, is_refused) = match &outcome {
            Outcome::Accepted { .. } => (true, false),
            Outcome::Refused => (false, true),
            Outcome::TooLarge | Outcome::Hold(_) | Outcome::WrongProtocol(_) => (false, false),
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
        let is_up = is_taken || (is_refused && self.suspicion.takes_empty() == Some(false));
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
                self.begin_doubted_again();
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

    /// What was refused by a target that was not well is sent again from its beginning.
    fn begin_doubted_again(&mut self) {
        let doubted: Vec<BatchId> =
            self.batches.iter().filter(|(_, active)| active.refusals.is_in_doubt).map(|(id, _)| *id).collect();
        for id in doubted {
            let active = self.batches.get_mut(&id).expect("it was found");
            active.refusals.is_in_doubt = false;
            if active.batch.has_settled {
                continue;
            }
            active.refusals = Refusals::default();
            let is_possibly_delivered = active.batch.was_possibly_delivered;
            active.batch.start_over(is_possibly_delivered);
            self.waits_as_a_whole(id);
        }
    }
}
