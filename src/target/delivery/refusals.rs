//! What follows from a refusal: what is cut, what is given up, and what is not believed yet.
//!
//! ```text
//!   refused: 400, 409, 422
//!      | may have been delivered, and 16 in a row, nothing taken -----> all of that is given up: `resent`
//!      | whole, and something in it was refused of late ---------------> set aside, the others go first
//!      | worth it, and within the budget ------------------------------> halved
//!      | hopeless (32 in a row, or fewer: `senders`)    ---------------> a witness goes first
//!      | a piece, and the target was not asked of late -----------------> in doubt: asked, then sent again
//!      '---------------------------------------------------------------> given up: `status`, or `unsplit` if it could be cut further
//!
//!   taken, and what comes next is known to be bad, all of it certain --> that is given up without being sent
//! ```

use std::time::Instant;

use super::super::batch::{Contents, Piece, Role, Witness};
use super::super::culprits::Suspect;
use super::super::window::BatchId;
use super::active::kept_parts_of;
use super::budget::Purse;
use super::senders::Sender;
use super::{Delivery, Refused, Said};
use crate::savepoint::Reason;

/// Refusals in a row after which what may have been delivered is taken for delivered.
const RESENT_TRIES: u32 = 16;
/// What is so much older than the newest sample is a backlog: the target may have a bound to its age, which goes through some request.
const BACKLOG_MS: i64 = 600_000;
/// Halvings of one batch, after which none is made below the records.
const SPLITS_MAX: u32 = 512;

impl Delivery {
    pub(super) fn refused(&mut self, id: BatchId, said: Said, contents: &dyn Contents, now: Instant) {
        self.suspicion.refused(now);
        let active = self.batches.get_mut(&id).expect("it was in flight");
        active.refusals.refused_at.get_or_insert(now);
        active.refusals.said = Some(said.clone());
        active.batch.refusals_in_a_row += u32::from(!active.batch.is_divisible_by_records());
        let has_settled = active.batch.has_settled;
        let piece = active.batch.front_mut().expect("it was in flight");
        piece.failures = 0;
        piece.failing_since = None;
        let is_possibly_delivered = piece.is_possibly_delivered;
        if is_possibly_delivered {
            active.batch.resent_in_a_row += 1;
        }
        if is_possibly_delivered && !has_settled && active.batch.resent_in_a_row >= RESENT_TRIES {
            while self.batches[&id].batch.front().is_some_and(|piece| piece.is_possibly_delivered) {
                self.give_up(id, Reason::Resent, said.clone(), contents, now);
            }
            return;
        }
        self.rest_is_refused(id);
        let is_hopeless = self.is_hopeless(id, now);
        if !is_hopeless && self.set_suspects_aside(id, contents) {
            return;
        }
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_divisible = active.batch.is_divisible(contents);
        let piece = active.batch.front().expect("it was in flight");
        let (role, is_cheap) = (piece.role, piece.is_cheap);
        // What is refused together with many that are always refused is seldom worth the search. (Of a backlog somebody may be young enough.)
        let is_seldom = role == Role::Culprits && !is_cheap && !self.budget.allows(Purse::Steady);
        let is_usual = is_seldom && !(is_hopeless && self.is_of_backlog(id));
        if is_divisible && role != Role::Poison && !is_usual && self.may_halve(id, now, contents) {
            self.halve(id, contents, !is_possibly_delivered);
            return;
        }
        if is_hopeless && is_divisible && self.witness_goes_first(id, contents, now) {
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
        let active = &self.batches[&id];
        let is_a_piece = active.batch.pieces() > 1 || has_settled;
        let in_a_row =
            active.refusals.given_up_at.filter(|at| has_settled && role == Role::Main && !self.accepted_since(*at));
        let active = self.batches.get_mut(&id).expect("it is there");
        let piece = active.batch.front_mut().expect("it was in flight");
        let asked_since = piece.refused_at;
        // (Its witness was believed just now.)
        let goes_with_witness = is_hopeless && piece.witness == Witness::WentBefore;
        let is_doubtful = is_a_piece && !is_possibly_delivered && !goes_with_witness;
        if is_doubtful && !self.suspicion.believes_a_piece(in_a_row, asked_since, now) {
            piece.refused_at.get_or_insert(now);
            active.refusals.is_in_doubt = true;
            return;
        }
        active.refusals.given_up_at = Some(now);
        active.refusals.is_unexpected |= !is_hopeless && role != Role::Culprits;
        self.give_up(id, reason, said, contents, now);
    }

    /// The front piece is refused. If its witness was taken it is worth a search: all that was refused of its sender before is forgotten. (First that is
    /// told, or the refused records that went before it in the batch would count against the sender afterwards.)
    pub(super) fn rest_is_refused(&mut self, id: BatchId) {
        if self.batches[&id].batch.front().is_some_and(|piece| piece.witness == Witness::WasTaken) {
            self.complete(id);
            self.senders.some_taken(self.front_sender(id));
        }
    }

    /// Of what is known to be bad, and is of series only that were refused each time that something of their batch was, nothing is sent: the whole was
    /// refused with it, and taken without it. (Now and then each is looked at all the same, when the budget allows it.)
    pub(super) fn give_up_what_is_certain(&mut self, id: BatchId, contents: &dyn Contents, now: Instant) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_certain = |piece: &Piece| piece.is_known_bad && piece.role == Role::Culprits && !piece.is_cheap;
        let is_certain = active.batch.front().is_some_and(is_certain) && !self.budget.allows(Purse::Steady);
        if let Some(said) = active.refusals.said.clone().filter(|_| is_certain) {
            self.give_up(id, Reason::Status, said, contents, now);
        }
    }

    /// Of a whole batch, which was refused: whoever was refused of late is suspected first. Whether somebody was.
    fn set_suspects_aside(&mut self, id: BatchId, contents: &dyn Contents) -> bool {
        let active = self.batches.get_mut(&id).expect("it is there");
        let is_whole =
            active.batch.is_untouched() && active.batch.front().is_some_and(|piece| piece.role == Role::Main);
        if !is_whole || active.batch.was_possibly_delivered || !self.culprits.remembers_any() {
            return false;
        }
        let culprits = &self.culprits;
        active.batch.set_aside(contents, |record, series, is_repeat| {
            culprits.role_in_refused(Suspect::new(series, record.meta.sender), is_repeat)
        });
        active.batch.was_refused_before();
        active.batch.pieces() > 1
    }

    /// Of the front piece, which was refused and is not to be halved: whether a series of it goes before it is given up. Always of a backlog, through
    /// which the target's bound may pass; of what is fresh within the budget, which is small where all of a request was refused, and once a minute.
    fn witness_goes_first(&mut self, id: BatchId, contents: &dyn Contents, now: Instant) -> bool {
        let is_of_backlog = self.is_of_backlog(id);
        let is_whole = self.batches[&id].batch.front().is_some_and(Piece::is_of_whole_records);
        let purse = if is_whole { Purse::Steady } else { Purse::Search };
        let sender = self.front_sender(id);
        let is_free = is_of_backlog || (is_whole && self.senders.is_due(sender, now));
        if !is_free && !self.budget.allows(purse) {
            return false;
        }
        let active = self.batches.get_mut(&id).expect("it is there");
        if active.batch.front().is_some_and(|piece| piece.witness != Witness::None) {
            return false;
        }
        if active.batch.call_witness(contents, true) {
            self.senders.hears(sender, now);
            if !is_free {
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
        let is_paid = self.budget.allows(Purse::of(piece.role)) || piece.is_cheap;
        let is_worth_it = !is_hopeless || piece.witness == Witness::Is;
        active.batch.is_divisible_by_records()
            || active.batch.is_divisible(contents)
                && is_worth_it
                && is_paid
                && active.batch.splits_below_records < SPLITS_MAX
    }

    /// The target seems to take nothing of this part of a batch, or nothing at all of who sent it.
    pub(super) fn is_hopeless(&self, id: BatchId, now: Instant) -> bool {
        let batch = &self.batches[&id].batch;
        // (What may have been delivered has a limit of its own.)
        let is_possibly_delivered = batch.front().is_some_and(|piece| piece.is_possibly_delivered);
        let is_hopeless = || batch.refusals_in_a_row >= self.senders.patience(self.front_sender(id));
        !is_possibly_delivered && (is_hopeless() || self.is_nothing_taken(id, now))
    }

    /// What is next in a batch goes record by record: hardly anything is taken of who sent it, or of anybody.
    pub(super) fn goes_by_records(&self, id: BatchId, now: Instant) -> bool {
        self.senders.is_hopeless(self.front_sender(id)) || self.is_nothing_taken(id, now)
    }

    /// The target takes nothing at all, for long, and nothing of this batch.
    fn is_nothing_taken(&self, id: BatchId, now: Instant) -> bool {
        !self.batches[&id].batch.has_settled && self.suspicion.goes_record_by_record(now)
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
    pub(super) fn front_sender(&self, id: BatchId) -> Sender {
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
            self.budget.pay(Purse::of(role));
        }
    }

    /// Books the front piece as refused.
    pub(super) fn give_up(&mut self, id: BatchId, reason: Reason, said: Said, contents: &dyn Contents, now: Instant) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let samples = active.batch.front_samples(contents).all();
        let piece = active.batch.front().expect("something is left");
        // Of what fails and may be there from before, that it is not delivered is not known. (What is never answered kills the target.)
        let is_unsure = reason == Reason::Poison && piece.is_possibly_delivered && piece.was_answered;
        let reason = if is_unsure { Reason::Resent } else { reason };
        let (parts, role) = (kept_parts_of(&active.batch, &piece.parts), piece.role);
        let (first, last) = piece.records();
        let is_single = piece.parts.len() == 1 && !active.batch.is_divisible(contents);
        if samples > 0 || reason != Reason::Resent {
            active.refusals.refused.push(Refused {
                kind: active.kind,
                parts,
                reason,
                said,
                samples,
                is_partial: false,
            });
        }
        // A culprit is what was refused alone, or with others that are known. What of is refused otherwise says something of its sender.
        let is_alone = is_single && reason == Reason::Status;
        if !is_alone && role != Role::Culprits {
            active.refusals.unsearched.extend(first..=last);
        }
        if is_alone || role == Role::Culprits {
            for (record, series, is_repeat) in active.batch.front_series(contents) {
                let suspect = Suspect::new(series, active.batch.record(record).meta.sender).again(is_repeat);
                if !active.refusals.culprits.insert(suspect) {
                    continue;
                }
                if is_alone {
                    self.culprits.refused(suspect, now);
                } else {
                    self.culprits.refused_among_others(suspect, now);
                }
            }
        }
        active.batch.book(samples, reason, contents);
        if let Some(next) = active.batch.front_mut() {
            next.is_bad_if_left_was_taken = false;
        }
    }
}
