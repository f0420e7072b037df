//! What is sent next: which batch, of which records, and when.
//!
//! 1. While a refusal of a whole batch is in doubt, nothing but an empty request.
//! 2. Batches that are there (cut, and not settled), oldest first: what is left of one, its next piece.
//! 3. A new batch, if no earlier one of its lane that is not settled shares a series. One that has to wait is cut only when it would not grow
//!    any more.
//! 4. A question about a batch that fails, where nothing else could be one (`poison`).

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::super::batch::{Completed, Contents, Piece, Role, Samples};
use super::super::culprits::{Culprits, Suspect};
use super::super::negotiation::{Choice, protocol_of};
use super::super::outgoing::Outgoing;
use super::super::pace::May;
use super::super::queue::{Limits, RECORDS_MAX};
use super::super::window::BatchId;
use super::active::{Active, keyed, parts_of};
use super::senders::Senders;
use super::{Attempt, AttemptId, Delivery, FORGET_INTERVAL, Flight, Lane, LaneState, Next, Reach, What};
use crate::protocol::Protocol;
use crate::savepoint::{Cuts, Outcomes};

/// A target that answers within this time gets one request at a time.
const SOON: Duration = Duration::from_millis(20);

/// What came of looking for a batch to cut.
enum Cutting {
    Nothing,
    At(Instant),
    /// It is cut, and has to wait for earlier ones.
    Waits,
    Starts(BatchId),
}

/// When to look again: at the earliest of some moments.
struct Wait(Option<Instant>);

impl Wait {
    fn at(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |earlier| earlier.min(at)));
    }

    fn next(&self) -> Next {
        Next::Wait(self.0)
    }
}

/// What of a batch shares no series with those that it waits for, of which this is left, goes beside them. The rest is set aside, and waits.
fn go_beside(active: &mut Active, left: &HashSet<u64>, contents: &dyn Contents) {
    let headers = active.headers;
    let is_shared = |series: u64| left.contains(&(series ^ headers));
    if active.batch.main_series(contents).is_none_or(|series| series.into_iter().all(is_shared)) {
        return;
    }
    active.batch.set_aside(contents, |_, series, _| if is_shared(series) { Role::Poison } else { Role::Main });
    active.waits_for.clear();
}

/// How each entry of a lane's records is to be sent. (Of who is hopeless the culprits need not be known one by one.)
pub(super) fn roles(culprits: &Culprits, senders: &Senders, lane: Lane) -> impl Fn(&Outgoing, u64, bool) -> Role {
    move |record, series, is_repeat| {
        let sender = record.meta.sender;
        match culprits.role(Suspect::new(series, sender), is_repeat) {
            Role::Suspects | Role::Culprits if senders.is_hopeless((lane, sender)) => Role::Main,
            role => role,
        }
    }
}

impl Delivery {
    pub(super) fn limits(&self, now: Instant) -> Limits {
        if self.suspicion.goes_record_by_record(now) {
            return Limits { samples: 1, bytes: 1, records: 1 };
        }
        let bytes = self
            .learned_bytes
            .map_or(self.rules.max_bytes_per_send, |learned| self.rules.max_bytes_per_send.min(learned as u64));
        Limits { samples: self.rules.max_samples_per_send, bytes, records: RECORDS_MAX }
    }

    /// What to do at `now`. `wall_ms` is what ages of samples are judged by; `None` suspends that. To be asked again after each start, each
    /// answer, and when something was read.
    pub fn next(&mut self, now: Instant, wall_ms: Option<i64>, contents: &dyn Contents, random: f64) -> Next {
        if self.is_paused {
            return Next::Wait(None);
        }
        self.settle_void();
        if now >= self.forgets_at {
            self.forgets_at = now + FORGET_INTERVAL;
            self.culprits.forget(now);
            self.senders.forget(now);
        }
        if let Some(next) = self.ask_if_in_doubt(now) {
            return next;
        }
        self.expire(wall_ms);
        let question_about = self.doubted(now).filter(|_| self.trouble_attempts % 2 == 1);
        if let Some(about) = question_about {
            self.let_one_go_beside(about, now, contents);
        }
        let mut wait = Wait(None);
        let chosen = self.of_batches_under_way(question_about, &mut wait, now, contents);
        let chosen = chosen.or_else(|| self.of_what_was_read(question_about, &mut wait, now, contents));
        if let Some(next) = chosen {
            return next;
        }
        if let Some(about) = question_about {
            match self.question_itself(about, now, contents, random) {
                Ok(next) => return next,
                Err(May::At(at)) => wait.at(at),
                Err(_) => {}
            }
        }
        wait.next()
    }

    /// A question to the target, or the wait for one or its answer, if something is in doubt; or, once, out of curiosity.
    fn ask_if_in_doubt(&mut self, now: Instant) -> Option<Next> {
        let is_in_doubt = self.batches.values().any(|active| active.refusals.is_in_doubt);
        if (is_in_doubt || self.suspicion.is_curious()) && !self.asks() {
            if let Some(at) = self.suspicion.not_before().filter(|at| *at > now) {
                return Some(Next::Wait(Some(at)));
            }
            return Some(match self.pace.may_start(now) {
                May::Now => self.ask(now, None, !is_in_doubt),
                May::At(at) => Next::Wait(Some(at)),
                May::AfterAnswer => Next::Wait(None),
            });
        }
        is_in_doubt.then_some(Next::Wait(None))
    }

    /// An empty request is in flight.
    fn asks(&self) -> bool {
        self.flights.values().any(|flight| matches!(flight.what, What::Empty { .. }))
    }

    /// The next request of a batch that is there: the oldest first, of the lane whose turn it is.
    fn of_batches_under_way(
        &mut self,
        question_about: Option<BatchId>,
        wait: &mut Wait,
        now: Instant,
        contents: &dyn Contents,
    ) -> Option<Next> {
        let of_lane =
            |lane: Lane| self.batches.iter().filter(move |(_, active)| active.lane == lane).map(|(id, _)| *id);
        let ids: Vec<BatchId> = self.lane_order().into_iter().flat_map(of_lane).collect();
        for id in ids {
            let active = &self.batches[&id];
            if active.flight.is_some() || active.batch.is_done() || !active.waits_for.is_empty() {
                continue;
            }
            // What fails itself is no question: two that fail alone would find each other to be the rule.
            if question_about.is_some() && active.batch.front().is_some_and(|piece| piece.failures > 0) {
                continue;
            }
            if let Some(at) = active.not_before.filter(|at| *at > now) {
                wait.at(at);
                continue;
            }
            if self.is_behind_poison(id, contents) {
                continue;
            }
            if self.needs_a_question_first(id) {
                if self.asks() {
                    continue;
                }
                match self.pace.may_start(now) {
                    May::Now => return Some(self.ask(now, Some(id), false)),
                    May::At(at) => wait.at(at),
                    May::AfterAnswer => {}
                }
                continue;
            }
            // (If something of it was set aside and has to wait, others need not.)
            let next = self.start_or_wait(id, question_about, wait, now, contents);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Starts what a batch sends next, or waits until that is allowed. `None` if it has to wait for others.
    fn start_or_wait(
        &mut self,
        id: BatchId,
        question_about: Option<BatchId>,
        wait: &mut Wait,
        now: Instant,
        contents: &dyn Contents,
    ) -> Option<Next> {
        match self.start_piece(id, question_about, now, contents) {
            Ok(next) => Some(next),
            Err(May::At(at)) => {
                wait.at(at);
                Some(wait.next())
            }
            Err(_) => None,
        }
    }

    /// The series that others must not overtake a batch with: of what is left of it, or of all where nothing is final, because it may yet start over
    /// as a whole. `None` if nobody can tell, or it is gone.
    pub(super) fn left_of(&mut self, id: BatchId, contents: &dyn Contents) -> Option<Vec<u64>> {
        let active = self.batches.get_mut(&id)?;
        let batch = &mut active.batch;
        let left = if batch.has_settled { batch.left_series(contents) } else { batch.series(contents) };
        keyed(left, active.headers)
    }

    /// The same of all of these.
    fn left_of_all(&mut self, ids: &BTreeSet<BatchId>, contents: &dyn Contents) -> Option<HashSet<u64>> {
        let mut all = HashSet::new();
        for id in ids {
            all.extend(self.left_of(*id, contents)?);
        }
        Some(all)
    }

    /// While a batch is in doubt, which may be all that fails, and nothing else could be a question that may be asked now: of the first one that waits
    /// and has something of its own, that goes beside those that it waits for. If it is taken, the target takes something.
    fn let_one_go_beside(&mut self, about: BatchId, now: Instant, contents: &dyn Contents) {
        let lane = self.batches[&about].lane;
        let is_main = |active: &Active| active.batch.front().is_some_and(|piece| piece.role != Role::Poison);
        let fresh = self.batches.iter().filter(|(_, active)| active.lane == lane && !active.was_attempted);
        let (free, waiting): (Vec<_>, Vec<_>) =
            fresh.filter(|(_, active)| is_main(active)).partition(|(_, active)| active.waits_for.is_empty());
        if !free.is_empty() || !matches!(self.pace.may_start(now), May::Now) {
            return;
        }
        let whole = waiting.into_iter().filter(|(_, active)| active.batch.is_one_main_piece());
        let waiting: Vec<BatchId> = whole.map(|(id, _)| *id).collect();
        for id in waiting {
            let waits_for = self.batches[&id].waits_for.clone();
            let Some(left) = self.left_of_all(&waits_for, contents) else { continue };
            let active = self.batches.get_mut(&id).expect("it was found");
            go_beside(active, &left, contents);
            if active.waits_for.is_empty() {
                return;
            }
        }
    }

    /// The first request of a batch that is cut now.
    fn of_what_was_read(
        &mut self,
        question_about: Option<BatchId>,
        wait: &mut Wait,
        now: Instant,
        contents: &dyn Contents,
    ) -> Option<Next> {
        for lane in self.lane_order() {
            while self.batches.len() < self.rules.ahead() && self.has_cuts_left(lane) {
                match self.cut(lane, question_about, now, contents) {
                    Cutting::Nothing => break,
                    Cutting::At(at) => {
                        wait.at(at);
                        break;
                    }
                    Cutting::Waits => {}
                    Cutting::Starts(id) => {
                        let next = self.start_or_wait(id, question_about, wait, now, contents);
                        return next.or_else(|| Some(wait.next()));
                    }
                }
            }
        }
        None
    }

    /// A savepoint holds so many cuts: one of each batch, and those of a former life that are still ahead. A batch that takes the place of one
    /// of these is none more, and one batch there is always.
    pub(super) fn has_cuts_left(&self, lane: Lane) -> bool {
        let ahead: usize = self.lanes.iter().map(|lane| lane.queue.cuts().count()).sum();
        let more = usize::from(!self.lanes[lane as usize].queue.is_cut_before());
        self.batches.is_empty() || self.batches.len() + ahead + more <= Cuts::MAX
    }

    /// The lanes in the order in which they are looked at: whoever has had less of its share.
    pub(super) fn lane_order(&self) -> [Lane; 2] {
        let share = self.rules.backlog_share;
        let backlog = self.backlog;
        let started = |lane: Lane| self.lanes[lane as usize].started;
        let is_backlogs_turn = share > 0.0 && started(backlog) * (1.0 - share) <= started(backlog.other()) * share;
        if is_backlogs_turn { [backlog, backlog.other()] } else { [backlog.other(), backlog] }
    }

    pub(super) fn expire(&mut self, wall_ms: Option<i64>) {
        let (Some(limit), Some(wall_ms)) = (self.rules.sample_age_limit, wall_ms) else { return };
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let oldest = wall_ms.saturating_sub(limit_ms);
        let is_old = |record: &Outgoing| record.header.counts.ledger_samples() > 0 && record.header.times.max < oldest;
        for lane in &mut self.lanes {
            for record in lane.queue.take_out(is_old) {
                self.completed.push(Completed::of(&record, Outcomes::expired(record.header.counts.ledger_samples())));
            }
        }
        let expired: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(_, active)| {
                let is_at_rest = active.flight.is_none() && active.refusals.refused.is_empty();
                is_at_rest && active.batch.is_untouched() && active.batch.records().all(|record| is_old(record))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            if let Some(active) = self.batches.get_mut(&id) {
                active.batch.expire();
                self.completed.extend(active.batch.take_completed());
            }
            self.remove(id);
        }
    }

    /// Cuts the next batch of a lane, if it may start now, or if it has to wait for others and does not grow any more.
    fn cut(&mut self, lane: Lane, question_about: Option<BatchId>, now: Instant, contents: &dyn Contents) -> Cutting {
        let limits = self.limits(now);
        let LaneState { queue, reach, .. } = &self.lanes[lane as usize];
        let senders = &self.senders;
        let plan = queue.plan(limits, |record| senders.is_hopeless((lane, record.meta.sender)));
        if plan.records == 0 || *reach == Reach::Stretch {
            return Cutting::Nothing;
        }
        match self.pace.may_start(now) {
            May::Now => {}
            May::At(at) => return Cutting::At(at),
            May::AfterAnswer => return Cutting::Nothing,
        }
        if let Some(at) = self.answers_soon(now) {
            return Cutting::At(at);
        }
        let state = &mut self.lanes[lane as usize];
        let is_question = question_about.is_some_and(|about| self.batches[&about].lane == lane);
        if !state.waits_for.is_empty() && !plan.is_full && !is_question {
            return Cutting::Nothing;
        }
        let beside: BTreeSet<BatchId> =
            self.batches.iter().filter(|(_, active)| active.lane == lane).map(|(id, _)| *id).collect();
        let id = BatchId(self.next_batch);
        let records = state.queue.take(plan.records);
        let mut active = Active::new(lane, records, plan.is_possibly_delivered);
        if self.rules.max_in_flight == 1 {
            active.waits_for = beside;
            if is_question && let Some(left) = self.left_of_all(&active.waits_for, contents) {
                go_beside(&mut active, &left, contents);
            }
        } else if !beside.is_empty() {
            self.look_into_those_that_went_alone(lane, contents);
            let state = &mut self.lanes[lane as usize];
            let series = keyed(active.batch.series(contents), active.headers);
            active.waits_for = state.window.before(series.as_deref());
            let poison = self.batches_of_poison(&active.waits_for);
            if !poison.is_empty() {
                // What waits for poison is set aside; the rest of the batch need not wait for it.
                active.batch.set_aside(contents, roles(&self.culprits, &self.senders, lane));
                let main = keyed(active.batch.main_series(contents), active.headers);
                active.waits_for = self.lanes[lane as usize].window.before(main.as_deref());
            } else if is_question
                && !active.waits_for.is_empty()
                && let Some(left) = self.left_of_all(&active.waits_for, contents)
            {
                go_beside(&mut active, &left, contents);
            }
            let state = &mut self.lanes[lane as usize];
            if !active.waits_for.is_empty() && !plan.is_full {
                // While it has to wait it may as well grow.
                state.waits_for = active.waits_for;
                state.queue.put_back(active.batch.into_records());
                return Cutting::Nothing;
            }
            state.window.enter(id, series.as_deref());
            active.series = Some(series);
        }
        self.lanes[lane as usize].waits_for.clear();
        self.next_batch += 1;
        let waits = !active.waits_for.is_empty();
        self.batches.insert(id, active);
        if waits { Cutting::Waits } else { Cutting::Starts(id) }
    }

    /// To look into series costs more than a target that answers at once is waited for: one merged request after the other is enough for it. Until
    /// when, if something is in flight and was not waited for in vain.
    fn answers_soon(&self, now: Instant) -> Option<Instant> {
        let soon = self.flights.values().map(|flight| flight.started + SOON).max()?;
        (self.round_trip.is_some_and(|took| took < SOON) && soon > now).then_some(soon)
    }

    /// What is known of its series and headers when it is first sent: a batch that had to wait, most likely for one that was given up just
    /// now, is not to find out again what that one has.
    fn set_aside(&mut self, id: BatchId, contents: &dyn Contents) {
        let active = self.batches.get_mut(&id).expect("it was looked at");
        if active.was_attempted {
            return;
        }
        let is_possibly = active.batch.front().is_some_and(|piece| piece.is_possibly_delivered);
        if active.batch.is_one_main_piece() && self.culprits.has_suspects() && !is_possibly {
            let roles = roles(&self.culprits, &self.senders, active.lane);
            active.batch.set_aside(contents, roles);
        }
        if active.headers != 0
            && self.culprits.is_poison_headers(active.headers)
            && let Some(piece) = active.batch.front_mut()
        {
            piece.role = Role::Poison;
        }
    }

    /// As long as a batch goes alone, nobody needs to know its series.
    pub(super) fn look_into_those_that_went_alone(&mut self, lane: Lane, contents: &dyn Contents) {
        for (id, active) in self.batches.iter_mut().filter(|(_, active)| active.lane == lane) {
            if active.series.is_none() {
                let series = keyed(active.batch.series(contents), active.headers);
                self.lanes[lane as usize].window.enter(*id, series.as_deref());
                active.series = Some(series);
            }
        }
    }

    /// Starts what a batch sends next.
    pub(super) fn start_piece(
        &mut self,
        id: BatchId,
        question_about: Option<BatchId>,
        now: Instant,
        contents: &dyn Contents,
    ) -> Result<Next, May> {
        match self.pace.may_start(now) {
            May::Now => {}
            other => return Err(other),
        }
        if self.must_ask_for_protocol(id, now) {
            return self.ask_for_protocol(id, now).ok_or(May::AfterAnswer);
        }
        let protocol = match self.protocol_for(protocol_of(self.batches[&id].kind), now) {
            Choice::Send(protocol) => protocol,
            Choice::Ask => Protocol::V2,
        };
        self.set_aside(id, contents);
        if self.is_behind_poison(id, contents) {
            return Err(May::AfterAnswer);
        }
        self.is_main_after_all(id, contents);
        // What is known to be bad is not tried as a whole again.
        loop {
            let active = self.batches.get_mut(&id).expect("it was looked at");
            let is_known_bad = active.batch.front().is_some_and(|piece| piece.is_known_bad);
            if !is_known_bad || !self.may_halve(id, now, contents) {
                break;
            }
            self.halve(id, contents, true);
        }
        if self.goes_by_records(id, now) {
            let is_of_backlog = self.is_of_backlog(id);
            let active = self.batches.get_mut(&id).expect("it was looked at");
            active.batch.peel();
            if is_of_backlog {
                active.batch.call_witness(contents, false);
            }
        }
        let active = self.batches.get_mut(&id).expect("it was looked at");
        active.batch.leaves_out(Vec::new());
        let bytes = active.batch.front_bytes();
        let samples = active.batch.front_samples(contents);
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        active.flight = Some(attempt);
        active.keeps_cut = true;
        active.was_attempted = true;
        if active.batch.pieces() == 1 && active.batch.front().is_some_and(Piece::is_of_whole_records) {
            active.batch.forget_entries();
        }
        let piece = active.batch.front().expect("something is left");
        let parts = parts_of(&active.batch, &piece.parts);
        let forwarded = active.forwarded().clone();
        self.last_kind = active.kind;
        if self.last_forwarded != forwarded {
            self.last_forwarded.clone_from(&forwarded);
        }
        let kind = active.kind;
        let lane = active.lane;
        let ticket = self.pace.start(now, samples.all(), bytes);
        if self.trouble.is_some() {
            self.trouble_attempts += 1;
        }
        self.budget.refill();
        self.count_start(lane);
        let what = What::Piece { batch: id, question_about: question_about.filter(|about| *about != id) };
        self.flights.insert(attempt, Flight { what, ticket, started: now, samples, bytes, protocol });
        let is_confirmed = self.negotiation.is_confirmed(protocol);
        Ok(Next::Start(Box::new(Attempt { id: attempt, kind, protocol, is_confirmed, forwarded, parts, samples })))
    }

    /// Whether it is to be asked whether the target takes 2.0 before a batch is sent. (Who does not take empty requests at all shows it by his answer
    /// to data.)
    pub(super) fn must_ask_for_protocol(&self, id: BatchId, now: Instant) -> bool {
        let active = &self.batches[&id];
        self.protocol_for(protocol_of(active.kind), now) == Choice::Ask && !active.was_asked_for_protocol
    }

    /// Asks whether the target takes 2.0, with the headers of the batch that would be sent next: its failure is that batch's. `None` while that is
    /// being asked already.
    pub(super) fn ask_for_protocol(&mut self, id: BatchId, now: Instant) -> Option<Next> {
        if self.flights.values().any(|flight| matches!(flight.what, What::Protocol { .. })) {
            return None;
        }
        let protocol = Protocol::V2;
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let ticket = self.pace.start(now, 0, 0);
        if self.trouble.is_some() {
            self.trouble_attempts += 1;
        }
        let active = self.batches.get_mut(&id).expect("it was looked at");
        active.flight = Some(attempt);
        let (kind, forwarded) = (active.kind, active.forwarded().clone());
        let what = What::Protocol { batch: id };
        let (started, samples) = (now, Samples::default());
        self.flights.insert(attempt, Flight { what, ticket, started, samples, bytes: 0, protocol });
        let (parts, is_confirmed) = (Vec::new(), false);
        Some(Next::Start(Box::new(Attempt { id: attempt, kind, protocol, is_confirmed, forwarded, parts, samples })))
    }

    pub(super) fn count_start(&mut self, lane: Lane) {
        let other = lane.other();
        let has = |lane: Lane| {
            !self.lanes[lane as usize].queue.is_empty() || self.batches.values().any(|active| active.lane == lane)
        };
        if !has(other) {
            self.lanes[0].started = 0.0;
            self.lanes[1].started = 0.0;
            return;
        }
        self.lanes[lane as usize].started += 1.0;
    }

    /// Starts an empty request: because of a batch, because of what is in doubt, or out of curiosity. It has the headers of what it is about: a
    /// target that wants them would not answer without.
    pub(super) fn ask(&mut self, now: Instant, question_about: Option<BatchId>, is_curious: bool) -> Next {
        let in_doubt = self.batches.iter().find(|(_, active)| active.refusals.is_in_doubt).map(|(id, _)| *id);
        if let Some(active) = question_about.or(in_doubt).and_then(|id| self.batches.get(&id)) {
            self.last_kind = active.kind;
            // Whose data fails with its headers, his empty request does too: others' headers show whether the target takes anything, the next ones
            // each time, because they may be locked out by now as well.
            let own = active.forwarded();
            let is_about_headers = question_about.is_some() && active.headers != 0;
            let others = self.taken_forwarded.iter().filter(|other| is_about_headers && *other != own);
            self.question_turn = self.question_turn.wrapping_add(1);
            let turn = self.question_turn % others.clone().count().max(1);
            let forwarded = others.clone().nth(turn).unwrap_or(own);
            self.last_forwarded.clone_from(forwarded);
        }
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        self.suspicion.asks();
        // (Where it is not known whether it takes 2.0, the answer shows that as well.)
        let protocol = match self.protocol_for(protocol_of(self.last_kind), now) {
            Choice::Send(protocol) => protocol,
            Choice::Ask => Protocol::V2,
        };
        let ticket = self.pace.start(now, 0, 0);
        if self.trouble.is_some() {
            self.trouble_attempts += 1;
        }
        let what = What::Empty { question_about, is_curious };
        let (started, samples) = (now, Samples::default());
        self.flights.insert(attempt, Flight { what, ticket, started, samples, bytes: 0, protocol });
        let attempt = Attempt {
            id: attempt,
            kind: self.last_kind,
            protocol,
            is_confirmed: self.negotiation.is_confirmed(protocol),
            forwarded: self.last_forwarded.clone(),
            parts: Vec::new(),
            samples: Samples::default(),
        };
        Next::Start(Box::new(attempt))
    }
}
