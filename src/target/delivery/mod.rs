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
//! in order, but after 16 refusals in a row with nothing accepted the rest is taken for delivered before, and booked
//! as refused with reason `resent`. So is each culprit found in it: one cannot know.
//!
//! # Poison
//! A batch that fails (5xx, 429, no answer; 401 and 403 with forwarded headers) while others would pass:
//! ```text
//!   failing for a while --> every second attempt is a question: the next batch that the window lets pass, else what the next one that waits
//!                           for it does not share with it, else one series of the batch itself, else an empty request
//!     question fails --> the target is down: nothing is given up
//!     question passes --> the batch is *isolated*: others go on, it is tried beside them, slowly; a failure while others pass is a strike
//!         each failure --> halved; what cannot be: three strikes and `poison_after` --> refused with reason `poison`, and remembered
//! ```
//!
//! Here is what it knows. `words` are what goes in and comes out; `active` is a batch under way. `choosing` says what is sent next, `answers` what
//! follows from an answer, `refusals` and `poison` what follows from those that are bad, `settled` what is told then, `decided` what follows from what
//! somebody decides. `budget` and `senders` keep the search for culprits small.
//!
//! # Invariants
//! - No batch starts before all earlier ones of its lane that share a series with it are settled, as far as that series goes (`window`); of a
//!   batch one piece is in flight at a time.
//! - Every sample is told in one [`Completed`], once.
//! - What is held in memory is bounded: the next batch, and [`Rules::ahead`] batches.

mod active;
mod answers;
mod budget;
mod choosing;
mod decided;
mod poison;
mod refusals;
mod senders;
mod settled;
#[cfg(test)]
mod simulation;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use active::Active;
pub(super) use active::headers_of;
use budget::Budget;
use senders::Senders;
pub use words::{Attempt, AttemptId, Event, Lane, Next, Reach, Refused, Resume, Rules, Said, Trouble};

use super::batch::{Completed, Contents, Samples};
use super::culprits::Culprits;
use super::negotiation::{Choice, Negotiation};
use super::outcome::Reason as HoldReason;
use super::outgoing::Outgoing;
use super::pace::{Limits as PaceLimits, Pace, Ticket};
use super::queue::Queue;
use super::suspicion::Suspicion;
use super::window::{BatchId, Window};
use crate::protocol::Protocol;
use crate::savepoint::{Learned, Outcomes, Reason};
use crate::wal::record::Kind;

/// So many sets of headers that were taken of late are remembered.
const TAKEN_FORWARDED_MAX: usize = 8;

/// How often what was long ago is forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum What {
    /// A piece of a batch. As a question: about another batch.
    Piece { batch: BatchId, question_about: Option<BatchId> },
    /// An empty request: whether the target takes 2.0, before a batch is sent.
    Protocol { batch: BatchId },
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
    protocol: Protocol,
}

#[derive(Debug, Default)]
struct LaneState {
    queue: Queue,
    reach: Reach,
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
    negotiation: Negotiation,
    /// A moment, and when that was in seconds since 1970. (By a clock that is set nothing is done sooner or later.)
    clock: (Instant, u32),
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
    /// The headers of what was taken of late, the last first.
    taken_forwarded: VecDeque<Vec<(String, Vec<u8>)>>,
    /// Whose turn it is of these, in a question.
    question_turn: usize,
    completed: Vec<Completed>,
    refused: Vec<Refused>,
    events: Vec<Event>,
}

impl Delivery {
    /// Of a target that goes on where a former life ended.
    #[must_use]
    pub fn new(rules: Rules, pace: PaceLimits, resume: Resume, now: Instant) -> Delivery {
        let Resume { cuts, unsure, learned, is_paused, wall_s } = resume;
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
            negotiation: Negotiation::new(rules.protocol, learned.takes),
            clock: (now, wall_s),
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
            taken_forwarded: VecDeque::new(),
            question_turn: 0,
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
    pub fn read(&mut self, lane: Lane, record: Arc<Outgoing>) {
        self.lanes[lane as usize].queue.push(record);
    }

    /// How far a lane was read. While more of it is there and wanted, nothing is cut of it: batches are as large as if all were read at once.
    pub fn was_read(&mut self, lane: Lane, reach: Reach) {
        self.lanes[lane as usize].reach = reach;
    }

    /// How far it was read last.
    #[must_use]
    pub fn reach(&self, lane: Lane) -> Reach {
        self.lanes[lane as usize].reach
    }

    /// What is waiting in front and needs no request is settled.
    fn settle_void(&mut self) {
        for lane in &mut self.lanes {
            let void = lane.queue.take_void();
            self.completed.extend(void.iter().map(|record| Completed::of(record, Outcomes::default())));
        }
    }

    /// How new the newest sample is that came in, in ms since 1970: what is much older is a backlog.
    pub fn newest_sample_is(&mut self, sample_ms: i64) {
        self.newest_sample_ms = sample_ms;
    }

    /// Which lane holds the backlog.
    pub fn backlog_is(&mut self, lane: Lane) {
        if self.backlog != lane {
            // What is known of senders is known of a lane: of old data, or of new.
            self.senders.forget_all();
        }
        self.backlog = lane;
    }

    /// Whether something was accepted that was started after a moment. (What was started in the very moment of an answer was started after it.)
    fn accepted_since(&self, moment: Instant) -> bool {
        self.last_accepted.is_some_and(|accepted| accepted >= moment)
    }

    /// Whether nothing of a lane is in hand.
    #[must_use]
    pub fn is_lane_idle(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].queue.is_empty() && self.batches.values().all(|active| active.lane != lane)
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Of what an attempt carries the protocol cannot express so many samples, part by part: they are left out, and dropped if the rest is settled.
    pub fn leaves_out(&mut self, id: AttemptId, left_out: Vec<u64>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        // (Only histograms can be beyond a protocol.)
        flight.samples.histograms -= left_out.iter().sum::<u64>();
        if let What::Piece { batch, .. } = flight.what
            && let Some(active) = self.batches.get_mut(&batch)
        {
            active.batch.leaves_out(left_out);
        }
    }

    /// There is nothing to send in an attempt: what it was for is settled by that. It says nothing about the target.
    pub fn unsent(&mut self, id: AttemptId, contents: &dyn Contents, now: Instant) {
        let Some(flight) = self.flights.remove(&id) else { return };
        self.pace.abandon(now, flight.ticket);
        let What::Piece { batch, .. } = flight.what else { return };
        let active = self.batches.get_mut(&batch).expect("a batch in flight is there");
        active.flight = None;
        active.batch.witness_was_not_sent();
        active.batch.book(0, Reason::Partial, contents);
        self.finish(batch, now);
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

    /// Nothing was read that is not told, and nothing more is there.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.lanes.iter().all(|lane| lane.queue.is_empty() && lane.reach == Reach::End)
    }

    /// The oldest record that is not told, when it was received.
    #[must_use]
    pub fn oldest_received_ms(&self) -> Option<i64> {
        let waiting = self.lanes.iter().filter_map(|lane| lane.queue.front()).map(|record| record.header.received_ms);
        let open =
            self.batches.values().filter_map(|active| active.batch.oldest()).map(|record| record.header.received_ms);
        waiting.chain(open).min()
    }

    /// What is worth remembering of the target.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let (has_delivered, takes_empty) = self.suspicion.learned();
        let bytes_max = self.learned_bytes.map(|bytes| bytes as u32);
        Learned { has_delivered, takes_empty, bytes_max, takes: self.negotiation.learned(), ..Learned::default() }
    }

    /// In seconds since 1970.
    fn wall_s(&self, now: Instant) -> u32 {
        let (then, wall_s) = self.clock;
        let since = now.saturating_duration_since(then).as_secs();
        wall_s.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }

    /// How data is sent now that was received in a protocol.
    #[must_use]
    pub fn protocol_for(&self, received: Protocol, now: Instant) -> Choice {
        self.negotiation.choose(received, self.wall_s(now))
    }

    /// Whether an answer has shown that the target takes a protocol.
    #[must_use]
    pub fn is_confirmed(&self, protocol: Protocol) -> bool {
        self.negotiation.is_confirmed(protocol)
    }

    /// An answer has shown that the target takes a protocol.
    pub fn takes_protocol(&mut self, protocol: Protocol) {
        if self.negotiation.taken(protocol) {
            self.events.push(Event::Taken(protocol));
        }
    }

    /// An answer has shown that the target does not take a protocol. Whether the data may go in the other one at once.
    pub fn takes_not(&mut self, protocol: Protocol, reason: &HoldReason, now: Instant) -> bool {
        let may_go = self.negotiation.not_taken(protocol, self.wall_s(now));
        if may_go {
            self.events.push(Event::NotTaken(reason.clone()));
        }
        may_go
    }
}
