//! What a target does next, and what follows from an answer: batches are cut, sent in an order that no series notices, cut further when they
//! are refused, and told when they are settled. Pure: time, chance, the contents of records and the answers come in as arguments.
//!
//! ```text
//!  read --> queue --plan--> Batch --window: no earlier one shares a series--> attempt --------> answer
//!             |                       pace: not before the pause is over                          |
//!             '-- too old: expired                                                                |
//!   accepted ------> booked; all of a record booked: told ---> ledger, savepoint                  |
//!   400 409 422 ---> halved: records, then entries, within a budget; the last one is the culprit  |
//!                    nothing accepted of the batch: `suspicion` decides whether it is believed    |
//!   413 -----------> halved, the size learned                                               <-----'
//!   retry ---------> the same piece again, after the target's pause; twice unanswered: halved along records
//!   hold ----------> the same, slowly
//! ```
//!
//! # Possibly delivered
//! A piece with an unanswered attempt behind it may be at the target. When it is refused then, that proves nothing: it is halved like any other,
//! in order, but after [`RESENT_TRIES`] refusals in a row with nothing accepted the rest is taken for delivered before, and booked
//! as refused with reason `resent`. So is each culprit found in it: one cannot know.
//!
//! # Poison
//! A batch that fails (5xx, 429, no answer; 401 and 403 with forwarded headers) while others would pass:
//! ```text
//!   failing for a while --> every second attempt is a question: the next batch that the window lets pass, else one series of the batch
//!                           itself, else an empty request
//!     question fails --> the target is down: nothing is given up
//!     question passes --> the batch is *isolated*: others go on, it is tried beside them, slowly; a failure while others pass is a strike
//!         each failure --> halved; what cannot be: three strikes and `poison_after` --> refused with reason `poison`, and remembered
//! ```
//!
//! `choosing` says what is sent next, `answers` what follows from an answer, `refusals` and `poison` what follows from those that are bad; `budget` and
//! `senders` keep the search for culprits small.
//!
//! # Invariants
//! - No batch starts before all earlier ones of its lane that share a series with it are settled, as far as that series goes (`window`); of a
//!   batch one piece is in flight at a time.
//! - Every sample is told in one [`Completed`], once.
//! - What is held in memory is bounded: the next batch, and [`Rules::ahead`] batches.

mod answers;
mod budget;
mod choosing;
mod poison;
mod refusals;
mod senders;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use budget::Budget;
use senders::Senders;

use super::backoff::Backoff;
use super::batch::{Batch, Chosen, Completed, Part, Samples};
use super::culprits::{Culprits, Suspect};
use super::outcome::Reason as HoldReason;
use super::pace::{Limits as PaceLimits, Pace, Ticket};
use super::queue::Queue;
use super::suspicion::Suspicion;
use super::window::{BatchId, Window};
use crate::savepoint::{Cut, Cuts, Learned, Reason};
use crate::wal::record::Kind;
use crate::wal::{Position, Record};

/// Refusals in a row after which what may have been delivered is taken for delivered.
pub const RESENT_TRIES: u32 = 16;

/// How often what was long ago is forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

/// How a target is delivered to; checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Requests at a time. At least 1.
    pub max_in_flight: usize,
    /// Samples of a merged request.
    pub max_samples_per_send: u64,
    /// Bytes of a merged request.
    pub max_bytes_per_send: u64,
    /// See `suspicion`.
    pub suspect_after: Duration,
    /// How long a piece fails alone before it is given up.
    pub poison_after: Duration,
    /// Older samples are not sent.
    pub sample_age_limit: Option<Duration>,
    /// Of the requests, while there are two lanes: the part of the backlog, 0 to 1.
    pub backlog_share: f64,
    /// After answers that ask for somebody's attention, and for what fails alone.
    pub hold: Backoff,
}

impl Rules {
    /// The most requests at a time: a savepoint holds 32 cuts, two of a batch that is being halved.
    pub const IN_FLIGHT_MAX: usize = 30;

    /// How many batches may be unsettled at a time.
    #[must_use]
    pub fn ahead(&self) -> usize {
        (2 * self.max_in_flight).clamp(2, Rules::IN_FLIGHT_MAX)
    }
}

/// Records come in one, or with `fresh_first` new ones beside the backlog in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The first.
    One = 0,
    /// The other one.
    Two = 1,
}

impl Lane {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Lane {
        match self {
            Lane::One => Lane::Two,
            Lane::Two => Lane::One,
        }
    }
}

/// Names an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// For its answer.
    pub id: AttemptId,
    /// As its records were received.
    pub kind: Kind,
    /// Headers that came with the data.
    pub forwarded: Vec<(String, Vec<u8>)>,
    /// What of which records; empty for a question.
    pub parts: Vec<(Arc<Record>, Chosen)>,
    /// In it.
    pub samples: Samples,
}

/// What to do now.
#[derive(Clone, Debug)]
pub enum Next {
    /// Make this request, and ask again.
    Start(Box<Attempt>),
    /// Nothing before this, or before something happens.
    Wait(Option<Instant>),
}

/// An answer, as far as it is needed here.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its status, if there was one.
    pub status: Option<u16>,
    /// What the target wrote, for people.
    pub text: String,
}

/// What a target refused for good, to be kept.
#[derive(Clone, Debug)]
pub struct Refused {
    /// As received.
    pub kind: Kind,
    /// What of which records.
    pub parts: Vec<(Arc<Record>, Chosen)>,
    /// Why.
    pub reason: Reason,
    /// The answer.
    pub said: Said,
    /// Samples that were refused.
    pub samples: u64,
    /// The target kept the others: the parts hold more than was refused.
    pub is_partial: bool,
}

/// What is worth a line in the log: once when it begins, once when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Attempts fail.
    BeganBackingOff,
    /// The target is held.
    BeganHolding(HoldReason),
    /// It refuses everything, and empty requests too.
    BeganSuspect,
    /// A batch fails while others pass.
    Isolated {
        /// Its first record.
        first: Position,
        /// Its last.
        last: Position,
    },
    /// It takes records again, after so many failed attempts.
    Recovered {
        /// In a row.
        failures: u32,
    },
}

/// Why nothing gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Attempts fail.
    BackingOff,
    /// Somebody must look.
    Held(HoldReason),
}

#[derive(Debug)]
struct Active {
    lane: Lane,
    batch: Batch,
    kind: Kind,
    /// A number that is equal for equal forwarded headers; 0 for none.
    headers: u64,
    /// For the window, once it was needed.
    series: Option<Option<Vec<u64>>>,
    waits_for: BTreeSet<BatchId>,
    flight: Option<AttemptId>,
    /// Its cut must survive a crash.
    keeps_cut: bool,
    was_attempted: bool,
    /// It fails while others pass.
    is_isolated: bool,
    not_before: Option<Instant>,
    last_failed: Option<Instant>,
    refusals: Refusals,
}

/// What was refused of a batch, and what is thought of that.
#[derive(Debug, Default)]
struct Refusals {
    /// When the first of it was refused, while nothing of it is accepted.
    refused_at: Option<Instant>,
    /// What was refused of it and is not believed yet.
    refused: Vec<Refused>,
    /// All of it was refused, or piece after piece, and nobody knows whether that is to be believed.
    is_in_doubt: bool,
    /// When something of it was last given up as refused.
    given_up_at: Option<Instant>,
    /// Something of it was given up whose sender is not hopeless.
    is_unexpected: bool,
    /// What the target last said when it refused something of it.
    said: Option<Said>,
    /// Culprits found in it.
    culprits: Vec<Suspect>,
    /// What was refused before, and something of it was taken in this batch.
    taken: BTreeSet<Suspect>,
}

#[derive(Clone, Debug)]
enum What {
    /// A piece of a batch. As a question: about another batch.
    Piece { batch: BatchId, question_about: Option<BatchId> },
    /// An empty request.
    Empty { question_about: Option<BatchId>, is_curious: bool },
}

#[derive(Debug)]
struct Flight {
    what: What,
    ticket: Ticket,
    started: Instant,
    samples: Samples,
    bytes: u64,
}

#[derive(Debug, Default)]
struct LaneState {
    queue: Queue,
    window: Window,
    /// The oldest record in the queue has to wait for one of these, and what goes with it may still grow.
    waits_for: BTreeSet<BatchId>,
    /// Requests started while both lanes had something.
    started: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Delivery {
    rules: Rules,
    pace: Pace,
    lanes: [LaneState; 2],
    /// The lane that holds the backlog, while there are two.
    backlog: Lane,
    batches: BTreeMap<BatchId, Active>,
    flights: HashMap<AttemptId, Flight>,
    next_batch: u64,
    next_attempt: u64,
    suspicion: Suspicion,
    culprits: Culprits,
    senders: Senders,
    /// When what was long ago is forgotten next.
    forgets_at: Instant,
    /// The newest sample that came in, ms since 1970, read or not.
    newest_sample_ms: i64,
    budget: Budget,
    trouble: Option<Trouble>,
    /// Attempts that began while there was trouble.
    trouble_attempts: u32,
    /// The most bytes of a request, learned from 413s and from attempts that timed out; it regrows.
    learned_bytes: Option<f64>,
    is_paused: bool,
    /// When the newest request was started that was accepted.
    last_accepted: Option<Instant>,
    /// How long an accepted request took of late.
    round_trip: Option<Duration>,
    /// Of the last batch: of what kind a question is, and with which headers.
    last_kind: Kind,
    last_forwarded: Vec<(String, Vec<u8>)>,
    completed: Vec<Completed>,
    refused: Vec<Refused>,
    events: Vec<Event>,
}

/// What a former life left behind.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// Cuts of batches that were started.
    pub cuts: Vec<Cut>,
    /// Up to here something may have been sent, nobody knows in which cuts.
    pub unsure: Position,
    /// What was learned of the target, if it is the same.
    pub learned: Learned,
    /// By an operator.
    pub is_paused: bool,
}

impl Delivery {
    /// Of a target that goes on where a former life ended.
    #[must_use]
    pub fn new(rules: Rules, pace: PaceLimits, resume: Resume, now: Instant) -> Delivery {
        let Resume { cuts, unsure, learned, is_paused } = resume;
        let mut lanes: [LaneState; 2] = Default::default();
        lanes[0].queue.resume(cuts, unsure);
        Delivery {
            rules,
            pace: Pace::new(pace, now),
            lanes,
            backlog: Lane::One,
            batches: BTreeMap::new(),
            flights: HashMap::new(),
            next_batch: 0,
            next_attempt: 0,
            suspicion: Suspicion::new(rules.suspect_after, rules.hold, learned.has_delivered, learned.takes_empty),
            culprits: Culprits::default(),
            senders: Senders::default(),
            forgets_at: now + FORGET_INTERVAL,
            newest_sample_ms: 0,
            budget: Budget::full(),
            trouble: None,
            trouble_attempts: 0,
            learned_bytes: learned.bytes_max.map(f64::from),
            is_paused,
            last_accepted: None,
            round_trip: None,
            last_kind: Kind::Write1,
            last_forwarded: Vec::new(),
            completed: Vec::new(),
            refused: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Whether records are wanted.
    #[must_use]
    pub fn has_room(&self, lane: Lane, now: Instant) -> bool {
        self.lanes[lane as usize].queue.has_room(self.limits(now))
    }

    /// A record was read.
    pub fn read(&mut self, lane: Lane, record: Arc<Record>) {
        self.lanes[lane as usize].queue.push(record);
    }

    /// How new the newest sample is that came in, in ms since 1970: what is much older is a backlog.
    pub fn newest_sample_is(&mut self, sample_ms: i64) {
        self.newest_sample_ms = sample_ms;
    }

    /// An operator stops it, or lets it go on. The caller gives up what is in flight.
    pub fn pause(&mut self, is_paused: bool, now: Instant) {
        self.is_paused = is_paused;
        if !is_paused {
            self.hurry(now);
        }
    }

    /// An operator wants to see something happen: no pause.
    pub fn hurry(&mut self, now: Instant) {
        self.pace.reset(now);
        for active in self.batches.values_mut() {
            active.not_before = None;
        }
    }

    /// An operator says that refusals are to be believed.
    pub fn accept_refusals(&mut self) {
        self.suspicion.force();
        self.believe_all();
    }

    /// Which lane holds the backlog.
    pub fn backlog_is(&mut self, lane: Lane) {
        self.backlog = lane;
    }

    /// Whether nothing of a lane is in hand.
    #[must_use]
    pub fn is_lane_idle(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].queue.is_empty() && self.batches.values().all(|active| active.lane != lane)
    }

    /// Begins anew elsewhere: whatever is in hand is let go of. What is known of the target stays.
    pub fn start_over(&mut self, cuts: Vec<Cut>, unsure: Position, now: Instant) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            self.pace.abandon(now, flight.ticket);
        }
        self.batches.clear();
        self.lanes = Default::default();
        self.lanes[0].queue.resume(cuts, unsure);
        self.backlog = Lane::One;
        self.completed.clear();
        self.refused.clear();
    }

    /// Everything up to `to` is given up by somebody: nothing of it is sent any more. The attempts that are to be given up; what of their
    /// batches lies beyond is sent again.
    pub fn drop_up_to(&mut self, to: Position, now: Instant) -> Vec<AttemptId> {
        let mut given_up = Vec::new();
        for lane in &mut self.lanes {
            while lane.queue.front().is_some_and(|record| record.header.position <= to) {
                lane.queue.take(1);
            }
        }
        let touched: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(_, active)| active.batch.open().is_some_and(|(first, _)| first <= to))
            .map(|(id, _)| *id)
            .collect();
        for id in touched {
            let active = self.batches.get_mut(&id).expect("it was found");
            if let Some(attempt) = active.flight.take() {
                given_up.push(attempt);
            }
            let mut left = active.batch.untold();
            left.retain(|record| record.header.position > to);
            if left.is_empty() {
                self.remove(id);
            } else {
                // In the place of the old one: later batches wait for it.
                active.batch = Batch::new(left, active.was_attempted);
                active.refusals = Refusals::default();
                active.not_before = None;
            }
        }
        for attempt in &given_up {
            if let Some(flight) = self.flights.remove(attempt) {
                self.pace.abandon(now, flight.ticket);
            }
        }
        given_up
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Records all of which is known, since the last call.
    pub fn take_completed(&mut self) -> Vec<Completed> {
        std::mem::take(&mut self.completed)
    }

    /// What was refused for good, since the last call. To be kept before what was completed is booked.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// What happened, since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Why nothing gets through.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// It refuses everything.
    #[must_use]
    pub fn suspicion(&self) -> &Suspicion {
        &self.suspicion
    }

    /// An operator stopped it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// How fast it goes.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Batches that fail while others pass.
    #[must_use]
    pub fn isolated(&self) -> usize {
        self.batches.values().filter(|active| active.is_isolated).count()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Nothing was read that is not told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.lanes.iter().all(|lane| lane.queue.is_empty())
    }

    /// The oldest record that is not told, when it was received.
    #[must_use]
    pub fn oldest_received_ms(&self) -> Option<i64> {
        let waiting = self.lanes.iter().filter_map(|lane| lane.queue.front()).map(|record| record.header.received_ms);
        let open =
            self.batches.values().filter_map(|active| active.batch.oldest()).map(|record| record.header.received_ms);
        waiting.chain(open).min()
    }

    /// What must be sent again as it was cut, if this life ended now. Of a batch in pieces that is the next piece and the rest, if there is room for
    /// that in a savepoint, else the whole.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        let cuts = self.cuts_of(Batch::cuts);
        if cuts.len() <= Cuts::MAX {
            return cuts;
        }
        self.cuts_of(|batch| {
            let cuts = batch.cuts();
            let is_possibly = cuts.len() > 1 || cuts.iter().any(|cut| cut.2);
            batch.open().map(|(first, last)| (first, last, is_possibly)).into_iter().collect()
        })
    }

    fn cuts_of(&self, of_batch: impl Fn(&Batch) -> Vec<(Position, Position, bool)>) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = self.lanes.iter().flat_map(|lane| lane.queue.cuts().copied()).collect();
        for active in self.batches.values().filter(|active| active.keeps_cut) {
            for (number, (first, last, is_possibly)) in of_batch(&active.batch).into_iter().enumerate() {
                let is_in_flight = active.flight.is_some() && number == 0;
                cuts.push(Cut { first, last, is_possibly_delivered: is_possibly || is_in_flight });
            }
        }
        cuts.sort_by_key(|cut| cut.first);
        // (A cut of a former life that was taken in part is there twice: what was taken counts.)
        let mut disjoint: Vec<Cut> = Vec::new();
        for cut in cuts {
            match disjoint.last_mut() {
                Some(last) if cut.first <= last.last => {
                    last.last = last.last.max(cut.last);
                    last.is_possibly_delivered |= cut.is_possibly_delivered;
                }
                _ => disjoint.push(cut),
            }
        }
        disjoint
    }

    /// What is worth remembering of the target.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let (has_delivered, takes_empty) = self.suspicion.learned();
        let bytes_max = self.learned_bytes.map(|bytes| bytes as u32);
        Learned { has_delivered, takes_empty, bytes_max, ..Learned::default() }
    }

    /// An attempt was given up by us: it may have arrived.
    pub fn abandon(&mut self, id: AttemptId, now: Instant) {
        let Some(flight) = self.flights.remove(&id) else { return };
        self.pace.abandon(now, flight.ticket);
        if let What::Piece { batch, .. } = flight.what
            && let Some(active) = self.batches.get_mut(&batch)
        {
            active.flight = None;
            active.batch.was_possibly_delivered = true;
            if let Some(piece) = active.batch.front_mut() {
                piece.is_possibly_delivered = true;
            }
        }
    }

    /// Tells all that is known of a batch that is done.
    fn tell(&mut self, id: BatchId) {
        let active = self.batches.get_mut(&id).expect("it is there");
        if !active.batch.has_settled && !active.refusals.refused.is_empty() {
            self.suspicion.was_refused_whole();
        }
        // (Of a duplicate the first is taken, each time, and the second refused.)
        for suspect in active.refusals.taken.iter().filter(|suspect| !active.refusals.culprits.contains(suspect)) {
            self.culprits.accepted(*suspect, !active.refusals.culprits.is_empty());
        }
        self.complete(id);
        self.remove(id);
    }

    /// Tells what is known of a batch now.
    fn complete(&mut self, id: BatchId) {
        let active = self.batches.get_mut(&id).expect("it is there");
        let completed = active.batch.take_completed();
        if active.refusals.given_up_at.is_some() || !self.senders.is_empty() {
            let mut records = active.batch.records();
            for done in &completed {
                let record = records.find(|record| record.mark() == done.to).expect("they are in order");
                let sender = (active.lane, record.meta.sender);
                let refused = done.outcomes.refused_for(Reason::Status) + done.outcomes.refused_for(Reason::Unsplit);
                match (done.outcomes.delivered, refused, active.refusals.given_up_at) {
                    (0, 1.., Some(at)) => self.senders.all_refused(sender, at),
                    (1.., 0, _) => self.senders.all_taken(sender),
                    (1.., 1.., _) => self.senders.some_taken(sender),
                    _ => {}
                }
            }
        }
        self.completed.extend(completed);
        self.refused.append(&mut active.refusals.refused);
    }

    /// What was refused as a whole is believed.
    fn believe_all(&mut self) {
        let doubted: Vec<BatchId> =
            self.batches.iter().filter(|(_, active)| active.refusals.is_in_doubt).map(|(id, _)| *id).collect();
        for id in doubted {
            let active = self.batches.get_mut(&id).expect("it was found");
            active.refusals.is_in_doubt = false;
            if active.batch.is_done() {
                self.tell(id);
            }
        }
    }

    fn remove(&mut self, id: BatchId) {
        let Some(active) = self.batches.remove(&id) else { return };
        let lane = &mut self.lanes[active.lane as usize];
        if let Some(series) = &active.series {
            lane.window.leave(id, series.as_deref());
        }
        lane.waits_for.remove(&id);
        for other in self.batches.values_mut() {
            other.waits_for.remove(&id);
        }
    }
}

impl Active {
    fn new(lane: Lane, records: Vec<Arc<Record>>, is_possibly_delivered: bool) -> Active {
        let first = records.first().expect("a batch has a record");
        Active {
            lane,
            kind: first.header.kind,
            headers: headers_of(first),
            batch: Batch::new(records, is_possibly_delivered),
            series: None,
            waits_for: BTreeSet::new(),
            flight: None,
            keeps_cut: is_possibly_delivered,
            was_attempted: false,
            is_isolated: false,
            not_before: None,
            refusals: Refusals::default(),
            last_failed: None,
        }
    }
}

fn parts_of(batch: &Batch, parts: &[Part]) -> Vec<(Arc<Record>, Chosen)> {
    parts.iter().map(|part| (batch.record(part.record).clone(), part.chosen.clone())).collect()
}

/// A number that is equal for equal forwarded headers.
fn headers_of(record: &Record) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if record.meta.forwarded.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    record.meta.forwarded.hash(&mut hasher);
    hasher.finish() | 1
}

/// A series of one tenant is not that of another.
fn keyed(series: Option<Vec<u64>>, headers: u64) -> Option<Vec<u64>> {
    series.map(|series| series.into_iter().map(|series| series ^ headers).collect())
}
