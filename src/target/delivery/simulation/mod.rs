//! Delivery against a target that is simulated, in simulated time: seeded, so that a run can be repeated by its number.
//!
//! ```text
//!   fake log --read--> Delivery --attempt--> fake target: looks at it at some moment, stores all of it, some or nothing
//!                         ^                                  |
//!                         '------------- answer, or none <---'       crashes, power cuts, drops, seeks and pauses in between
//! ```
//!
//! The savepoint is the real one; what is booked and when is as in `progress`. In every run it is watched that
//! - a series reaches the target in its order: what the target stores for the first time is newer than all it has of the series;
//! - no batch starts while an earlier one of its lane that shares a series is unsettled, and no batch has two requests in flight;
//! - every record is told once, with all its samples (the savepoint sees to that), and what is told as delivered was stored;
//! - what is held in memory, in flight and in the savepoint stays within its bounds.
//!
//! Here is the world, and how it runs. Below it: `log`, the records; `target`, what it answers and stores; `setup` and `drawn`, what a run is made
//! from. Beside it: `disturbing`, what comes in between; `checks`, what is watched.

mod checks;
mod disturbing;
mod drawn;
mod log;
mod setup;
mod target;
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use log::{EPOCH_MS, EntryId, FakeLog, Key};
use setup::{Disturbances, Setup, ms, pace, seconds};
use target::{Asked, Manners, Store, Verdict};

use super::super::UNBOOKED_MAX;
use super::super::batch::{Chosen, Part};
use super::super::outcome::Outcome;
use super::*;
use crate::savepoint::{Cut, Cuts, Reason, Savepoint};
use crate::wal::Position;

#[derive(Debug)]
struct Request {
    batch: Option<BatchId>,
    lane: Option<Lane>,
    protocol: Protocol,
    kind: Kind,
    entries: Vec<EntryId>,
    keys: HashSet<Key>,
    tenant: Option<u8>,
    verdict: Option<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Looked(AttemptId),
    Answered(AttemptId),
}

struct World {
    seed: u64,
    random: fastrand::Rng,
    zero: Instant,
    now: Instant,
    log: FakeLog,
    rules: Rules,
    manners: Manners,
    disturbances: Disturbances,
    delivery: Delivery,
    /// What the live page holds, and the synced one.
    savepoint: Savepoint,
    synced: Savepoint,
    synced_at: Instant,
    started: u64,
    completed: Vec<Completed>,
    /// The last record read, of each lane; where the backlog's lane ends.
    read: [u64; 2],
    lane_end: Option<u64>,
    store: Store,
    in_flight: BTreeMap<AttemptId, Request>,
    due: BTreeSet<(Instant, Due)>,
    refused: Vec<Refused>,
    events: Vec<Event>,
    requests: u64,
    empty_requests: u64,
    /// Of those, how many asked whether the target takes 2.0; requests with data, in 1.0 and 2.0.
    protocol_questions: u64,
    sent_in: [u64; 2],
    lane_requests: [u64; 2],
    unanswered: u64,
    /// Told as settled before a power cut, and forgotten with it: what was given up of it is sent again, behind what came after it.
    forgotten: HashSet<u64>,
    /// Order is checked.
    checks_order: bool,
    /// Each request: when, records, entries, status.
    journal: Vec<String>,
    wait: Option<Instant>,
    /// When each record was told.
    told_at: HashMap<u64, Duration>,
}

impl World {
    fn new(setup: Setup) -> World {
        let Setup { seed, log, rules, manners, disturbances, has_two_lanes, learned } = setup;
        let zero = Instant::now() + seconds(1000);
        let log = FakeLog::new(log);
        let resume = Resume { learned, wall_s: (EPOCH_MS / 1000) as u32, ..Resume::default() };
        let delivery = Delivery::new(rules, pace(&rules), resume, zero);
        let lane_end = has_two_lanes.then(|| log.end() / 2);
        let read = [0, lane_end.unwrap_or_default()];
        World {
            seed,
            random: fastrand::Rng::with_seed(seed),
            zero,
            now: zero,
            log,
            rules,
            manners,
            disturbances,
            delivery,
            savepoint: Savepoint { learned, ..Savepoint::default() },
            synced: Savepoint { learned, ..Savepoint::default() },
            synced_at: zero,
            started: 0,
            completed: Vec::new(),
            read,
            lane_end,
            store: Store::default(),
            in_flight: BTreeMap::new(),
            due: BTreeSet::new(),
            refused: Vec::new(),
            events: Vec::new(),
            requests: 0,
            empty_requests: 0,
            protocol_questions: 0,
            sent_in: [0; 2],
            lane_requests: [0; 2],
            unanswered: 0,
            forgotten: HashSet::new(),
            checks_order: true,
            journal: Vec::new(),
            wait: None,
            told_at: HashMap::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.zero
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.random.u64(0..1000) < per_thousand
    }

    /// Until all is told.
    fn run(&mut self) {
        self.run_for(seconds(24 * 3600), 200_000);
        if !self.is_done() {
            self.fail(&format!("{:?} of {} are settled", self.savepoint.settled.position, self.log.end()));
        }
        self.check_totals();
    }

    fn run_for(&mut self, time: Duration, requests: u64) {
        let (until, requests) = (self.now + time, self.requests + requests);
        while !self.is_done() && self.now < until && self.requests < requests {
            if self.delivery.is_paused() && self.in_flight.is_empty() {
                self.delivery.pause(false, self.now);
            }
            if !self.step() {
                break;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.savepoint.settled.position.0 == self.log.end() && self.in_flight.is_empty()
    }

    /// One turn of the target's loop. Whether there is anything left to wait for.
    fn step(&mut self) -> bool {
        let reads_on = self.read();
        self.start_requests();
        self.book();
        if reads_on {
            return true;
        }
        let next_record = [Some(self.read[0]), self.lane_end.map(|_| self.read[1])]
            .into_iter()
            .flatten()
            .filter(|read| *read < self.log.end())
            .map(|read| self.zero + self.log.fake(read + 1).at)
            .filter(|at| *at > self.now)
            .min();
        let due = self.due.first().map(|(at, _)| *at);
        // A look at everything now and then, as in the target's loop.
        let look = (!self.is_done()).then(|| self.now + seconds(10));
        let Some(at) = [next_record, due, self.wait, look].into_iter().flatten().min() else { return false };
        self.now = self.now.max(at);
        while let Some((at, due)) = self.due.first().copied()
            && at <= self.now
        {
            self.due.pop_first();
            match due {
                Due::Looked(id) => self.look(id),
                Due::Answered(id) => self.answer(id),
            }
        }
        if !self.is_done() {
            self.disturb();
        }
        true
    }

    /// Reads as `intake` does, with half of the seeds some records at a stretch. Whether more is there.
    fn read(&mut self) -> bool {
        let elapsed = self.elapsed();
        let stretch = if self.seed.is_multiple_of(2) { u64::MAX } else { 1 + self.seed % 7 };
        let mut reads_on = false;
        let lanes: &[Lane] = if self.lane_end.is_some() { &[Lane::One, Lane::Two] } else { &[Lane::One] };
        for lane in lanes {
            let mut read = 0;
            self.delivery.was_read(*lane, Reach::Enough);
            while self.delivery.has_room(*lane, self.now) && self.completed.len() < UNBOOKED_MAX {
                let next = self.read[*lane as usize] + 1;
                let is_behind = self.lane_end.is_some_and(|end| *lane == Lane::One && next > end);
                if is_behind || next > self.log.end() || self.log.fake(next).at > elapsed {
                    break;
                }
                if read == stretch {
                    self.delivery.was_read(*lane, Reach::Stretch);
                    reads_on = true;
                    break;
                }
                read += 1;
                self.read[*lane as usize] = next;
                let position = Position(next);
                if position <= self.savepoint.settled.position || self.savepoint.ranges.contains(position) {
                    continue;
                }
                self.delivery.read(*lane, self.log.records[next as usize - 1].clone());
            }
        }
        reads_on
    }

    /// As `Progress::book`.
    fn book(&mut self) {
        self.completed.extend(self.delivery.take_completed());
        self.refused.extend(self.delivery.take_refused());
        self.events.extend(self.delivery.take_events());
        self.completed.sort_by_key(|done| done.from.position);
        let elapsed = self.elapsed();
        let (savepoint, told_at) = (&mut self.savepoint, &mut self.told_at);
        self.completed.retain(|done| {
            let is_full = savepoint.settle(done.from, done.to, done.next, done.outcomes).is_err();
            told_at.insert(done.to.position.0, elapsed);
            is_full
        });
        let mut cuts = self.delivery.cuts();
        if cuts.len() > Cuts::MAX {
            self.fail(&format!("{} cuts", cuts.len()));
        }
        cuts.extend(self.completed.iter().map(|done| Cut {
            first: done.from.position.next(),
            last: done.to.position,
            is_possibly_delivered: true,
        }));
        self.savepoint.cuts = Cuts::of(cuts, self.savepoint.settled.position);
        self.savepoint.learned = self.delivery.learned();
        if self.now - self.synced_at >= seconds(1) {
            self.sync();
        }
    }

    fn sync(&mut self) {
        self.synced_at = self.now;
        let reservation = Position(self.started + 8);
        self.savepoint.reservation = self.savepoint.reservation.max(reservation);
        self.synced = self.savepoint.clone();
    }

    fn start_requests(&mut self) {
        loop {
            let wall_ms = EPOCH_MS + self.elapsed().as_millis() as i64;
            self.delivery.newest_sample_is(wall_ms);
            let random = self.random.f64();
            let attempt = match self.delivery.next(self.now, Some(wall_ms), &self.log, random) {
                Next::Start(attempt) => attempt,
                Next::Wait(until) => {
                    if until.is_some_and(|until| until <= self.now) {
                        self.fail("waits for what is over");
                    }
                    self.wait = until;
                    return;
                }
            };
            self.start(*attempt);
        }
    }

    fn start(&mut self, attempt: Attempt) {
        let Attempt { id, kind, protocol, is_confirmed: _, forwarded, parts, samples } = attempt;
        let mut entries = Vec::new();
        for (record, chosen) in &parts {
            let position = record.header.position.0;
            let all = self.log.fake(position).entries.len();
            let part = Part { record: 0, chosen: chosen.clone() };
            entries.extend(part.numbers(all).into_iter().map(|number| (position, number)));
            if record.meta.forwarded != forwarded && !record.is_empty() {
                self.fail("headers of another record");
            }
            if record.header.position <= self.savepoint.settled.position
                || self.savepoint.ranges.contains(record.header.position)
            {
                self.fail("what is settled is sent");
            }
        }
        let sum: u64 = entries.iter().map(|id| self.log.entry(*id).samples()).sum();
        assert_eq!(sum, samples.all(), "seed {}", self.seed);
        // What the protocol has no place for is left out.
        let has_place =
            |id: &EntryId| !(kind == Kind::Write2 && protocol == Protocol::V1 && self.log.entry(*id).is_custom);
        let left_out = |(record, chosen): &(Arc<Outgoing>, Chosen)| -> u64 {
            let position = record.header.position.0;
            let part = Part { record: 0, chosen: chosen.clone() };
            let ids = part.numbers(self.log.fake(position).entries.len()).into_iter().map(|number| (position, number));
            ids.filter(|id| !has_place(id)).map(|id| self.log.entry(id).samples()).sum()
        };
        let left_out: Vec<u64> = parts.iter().map(left_out).collect();
        if left_out.iter().any(|samples| *samples > 0) {
            entries.retain(has_place);
            self.delivery.leaves_out(id, left_out);
        }
        if entries.is_empty() && !parts.is_empty() {
            self.note(|| format!("{id:?} has nothing to send"));
            self.delivery.unsent(id, &self.log, self.now);
            return;
        }
        if !entries.is_sorted() {
            self.fail("entries are out of order");
        }
        let keys: HashSet<Key> = entries.iter().map(|id| self.log.key(*id)).collect();
        let flight = &self.delivery.flights[&id];
        let batch = match flight.what {
            What::Piece { batch, .. } => Some(batch),
            What::Protocol { .. } | What::Empty { .. } => None,
        };
        let lane = batch.map(|batch| self.delivery.batches[&batch].lane);
        if let (Some(batch), Some(lane)) = (batch, lane) {
            self.check_order(batch, lane, &keys);
            self.lane_requests[lane as usize] += 1;
        } else {
            self.empty_requests += 1;
        }
        if matches!(self.delivery.flights[&id].what, What::Protocol { .. }) {
            self.protocol_questions += 1;
        }
        if !parts.is_empty() {
            self.sent_in[usize::from(protocol == Protocol::V2)] += 1;
        }
        if let Some((last, _)) = parts.last() {
            self.started = self.started.max(last.header.position.0);
            if last.header.position > self.synced.reservation {
                self.sync();
            }
        }
        self.requests += 1;
        let seen = entries.clone();
        self.note(|| format!("{id:?} {batch:?} {lane:?} {seen:?}"));
        let (low, high) = self.manners.latency;
        let latency = ms(self.random.u64(low..=high));
        let looked = self.now + latency.mul_f64(self.random.f64());
        self.due.insert((looked, Due::Looked(id)));
        self.due.insert((self.now + latency, Due::Answered(id)));
        let tenant = forwarded.first().map(|(_, value)| value[0]);
        self.in_flight.insert(id, Request { batch, lane, protocol, kind, entries, keys, tenant, verdict: None });
        self.check_bounds();
    }

    /// The target looks at a request: what it makes of it, and stores of it.
    fn look(&mut self, id: AttemptId) {
        let at = self.elapsed();
        let Some(request) = self.in_flight.get(&id) else { return };
        let Request { protocol, kind, tenant, .. } = *request;
        let asked = Asked { entries: &request.entries, protocol, kind, tenant, at };
        let (verdict, stores) = self.manners.judge(asked, &self.store, &self.log, &mut self.random);
        for id in stores {
            let key = self.log.key(id);
            if let Some(newest) = self.store.take(id, key)
                && self.checks_order
                && !self.forgotten.contains(&id.0)
            {
                self.fail(&format!("{id:?} of {key:?} is stored after {newest:?}"));
            }
        }
        if verdict.1.is_none() {
            self.unanswered += u64::from(!matches!(verdict.0, Outcome::Retry { may_have_arrived: false, .. }));
        }
        self.note(|| format!("{id:?} {verdict:?}"));
        self.in_flight.get_mut(&id).expect("it was looked at").verdict = Some(verdict);
    }

    fn answer(&mut self, id: AttemptId) {
        let Some(request) = self.in_flight.remove(&id) else { return };
        let (outcome, status) = request.verdict.expect("it was looked at before");
        let said = Said { status, text: String::new() };
        self.note(|| format!("{id:?} answered"));
        let random = self.random.f64();
        self.delivery.answered(id, outcome, said, &self.log, self.now, random);
    }
}
