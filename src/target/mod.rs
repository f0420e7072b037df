//! A target: one thread that reads the log from its savepoint on and sends what it reads to one URL.
//!
//! ```text
//!   wal::Cursor        delivery (pure)                 request            client                outcome
//!  log --reading--> queue -> batch -> piece -> Attempt --> bytes --> POST, several at a time --> Answer --judge--.
//!        '-> Gap ---------------------------------------------.                                                  |
//!                                                             v                                                  v
//!                         savepoint <--- progress: booked <-- Completed <---------- delivery: accepted, halved, again
//!                                        dead letters    <-- Refused   <---------------'
//! ```
//!
//! # Promises
//! - In order: no request starts over an earlier unsettled one that shares a series. So every series keeps its order, through retries,
//!   splits and restarts.
//! - What is in flight is in the live page of the savepoint before its first byte leaves, and what is settled is there before it is told
//!   to anybody. After `kill -9` what was in flight is sent again as it was cut, and nothing else.
//! - What was refused is in the dead-letter ring before the savepoint counts it.
//! - Nothing here is ever seen by the receiver, or by another target: whatever this thread waits for (a disk, a resolver, the
//!   arithmetic of a large batch), it waits alone.
//!
//! | module | what it does |
//! |---|---|
//! | `intake`, `reading`, `unreadable` | what comes next: a stretch of each lane, cursors, and how long the disk is waited for |
//! | `rewriting`, `outgoing` | what the target's rules leave of it |
//! | `queue`, `batch`, `window` | which records make a request, what is left of it, what must wait for what |
//! | `pace`, `speed`, `backoff` | how fast, how long |
//! | `delivery` | brings these together: what to do next, what follows from an answer |
//! | `suspicion`, `culprits`, `age` | whom to believe: the target, series, the clock |
//! | `negotiation`, `lone_exemplars` | in which protocol, and what of it a target takes |
//! | `request`, `messages`, `client`, `outcome` | bytes, HTTP, what an answer means |
//! | `orders`, `obeying`, `parcel` | what others may tell it to do |
//! | `progress`, `catch_up`, `telling` | what others may know of it |

mod age;
mod backoff;
mod batch;
mod catch_up;
pub mod client;
mod culprits;
mod delivery;
mod intake;
mod lone_exemplars;
mod messages;
mod negotiation;
mod obeying;
mod orders;
mod outcome;
mod outgoing;
mod pace;
mod parcel;
mod progress;
mod queue;
mod reading;
mod request;
mod rewriting;
mod settings;
mod speed;
mod state;
mod suspicion;
mod telling;
mod unreadable;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use age::AgeClock;
pub use backoff::{Backoff, InvalidBackoff};
pub use catch_up::{CatchUp, Outlook};
use client::{Answered, Client, Connections, Request, Unanswered};
use delivery::{Attempt, AttemptId, Delivery, Next, Resume, Said};
use lone_exemplars::Refusal;
pub use negotiation::ProtocolRule;
pub use orders::{Destination, Moved, Order, Orders, Parcel, Resent};
use orders::{Inbox, Letter};
use outcome::{Outcome, Sent};
use parcel::PARCEL;
pub use progress::{Details, Progress, Snapshot};
use reading::Reading;
use request::{Built, Requests, Stored};
use rewriting::Rewriting;
pub use settings::{IN_FLIGHT_MAX, SendOrder, Settings, StartFrom};
use speed::Speed;
pub use state::Phase;
use telling::{said_text, shown};
use unreadable::Unreadable;

use crate::clock::now_ms;
use crate::dead_letter::Ring;
use crate::metrics::{TargetMetrics, UNTRANSLATED};
use crate::protocol::translate::Taught;
use crate::savepoint::{Learned, Outcomes};
use crate::wal::{Log, Mark, Readable};
use batch::Completed;

/// Tells targets to stop: `None` while they run, then until when requests in flight may take.
pub type Stop = watch::Receiver<Option<Instant>>;

/// A lull in everything is looked at so often: what is lost otherwise would be noticed late.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// With so many records that are settled and for which the savepoint has no room (more holes before them than it has ranges), nothing more is read
/// until what lies before them is settled.
pub(crate) const UNBOOKED_MAX: usize = 4096;

/// An attempt, its bytes and its time-out, and what came of it.
type Ended = (AttemptId, u64, Duration, Result<Answered, Unanswered>);

/// A request that is not answered yet.
#[derive(Debug)]
struct InFlight {
    sent: Sent,
    /// What is not in it, as metrics count it.
    untranslated: [u64; UNTRANSLATED.len()],
    has_metadata: bool,
    /// As it was sent, if exemplars in it are in series of their own.
    with_lone_exemplars: Option<Bytes>,
    /// What counts once it is taken.
    taught: Taught,
    handle: AbortHandle,
}

/// What a target woke up for.
enum Happened {
    Ended(Result<Ended, tokio::task::JoinError>),
    Told(Letter),
    /// There is more to be read.
    Readable,
    /// It is time.
    Woke,
}

/// A target's work.
#[derive(Debug)]
pub struct Target {
    settings: Settings,
    progress: Arc<Progress>,
    metrics: Arc<TargetMetrics>,
    dead_letters: Arc<Ring>,
    client: Arc<Client>,
    delivery: Delivery,
    reading: Reading,
    rewriting: Rewriting,
    speed: Speed,
    age: AgeClock,
    attempts: JoinSet<Ended>,
    in_flight: HashMap<AttemptId, InFlight>,
    requests: Requests,
    /// Known, and not booked yet.
    completed: Vec<Completed>,
    readable: watch::Receiver<Readable>,
    stop: Stop,
    log: Log,
    inbox: Inbox,
    orders: Orders,
    /// Of each lane, if the disk does not give what is next.
    unreadable: [Option<Unreadable>; 2],
    /// Of each lane: when what was read last was received, ms since 1970.
    read_ms: [i64; 2],
    /// When something was last read or put together.
    worked_at: Instant,
    /// What the target said when it last failed.
    reason: Option<String>,
    /// What it said when it last refused something.
    refusal: String,
    /// Waits for what is in flight, then goes alone.
    parcel: Option<(Parcel, oneshot::Sender<Resent>)>,
    /// Samples of the parcel that is in flight, and how many of these its protocol has no place for.
    parcel_left_out: (u64, u64),
    /// Of name and URL: what was learned under another one does not count.
    identity: u64,
}

impl Target {
    /// A target that goes on where its savepoint is.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: Settings,
        progress: Arc<Progress>,
        metrics: Arc<TargetMetrics>,
        dead_letters: Arc<Ring>,
        log: &Log,
        stop: Stop,
    ) -> Result<Target, reqwest::Error> {
        let connections = Connections { max_idle: settings.max_in_flight, ..Connections::default() };
        let client =
            Client::new(settings.url.clone(), settings.headers.clone(), settings.retry_after_max, connections)?;
        let savepoint = progress.savepoint();
        let identity = settings.identity();
        let resume = resume(&progress, identity);
        let (orders, inbox) = Orders::new();
        Ok(Target {
            delivery: Delivery::new(settings.rules(), settings.pace(), resume, std::time::Instant::now()),
            reading: Reading::new(log, &savepoint),
            rewriting: Rewriting::new(&settings.relabeling),
            speed: Speed::new(),
            age: AgeClock::default(),
            attempts: JoinSet::new(),
            in_flight: HashMap::new(),
            requests: Requests::new(settings.custom_buckets),
            completed: Vec::new(),
            log: log.clone(),
            inbox,
            orders,
            client: Arc::new(client),
            readable: log.subscribe(),
            settings,
            progress,
            metrics,
            dead_letters,
            stop,
            unreadable: [None; 2],
            read_ms: [now_ms(); 2],
            worked_at: Instant::now(),
            reason: None,
            refusal: String::new(),
            parcel: None,
            parcel_left_out: (0, 0),
            identity,
        })
    }

    /// For telling it something while it runs.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Runs until it is told to stop, on a thread of its own: it reads the disk and computes where it stands. Whatever was settled is in the
    /// live page of the savepoint then.
    pub async fn run(mut self) {
        while self.stop.borrow().is_none() {
            // Seen before reading: what becomes readable after this look wakes us.
            self.readable.mark_unchanged();
            let mut wake = Some(Instant::now() + LOOK_INTERVAL);
            let mut at = |moment: Option<Instant>| wake = wake.into_iter().chain(moment).min();
            at(self.start_requests());
            self.book();
            self.show();
            let wake = wake.expect("one was there from the beginning");
            if wake <= Instant::now() {
                // Requests in flight are of this thread, too.
                tokio::task::yield_now().await;
            }
            let wants_records = self.waits_for_records();
            let happened = tokio::select! {
                // An answer that is there counts.
                biased;
                Some(ended) = self.attempts.join_next() => Happened::Ended(ended),
                Some(letter) = self.inbox.recv() => Happened::Told(letter),
                _ = self.stop.wait_for(Option::is_some) => break,
                changed = self.readable.changed(), if wants_records => match changed {
                    Ok(()) => Happened::Readable,
                    // The log outlives its targets; if not, there is nothing more to read.
                    Err(_) => break,
                },
                () = until(wake) => Happened::Woke,
            };
            match happened {
                Happened::Ended(ended) => self.ended(ended),
                Happened::Told(Letter::Order { order, reply }) => {
                    let _ = reply.send(self.obey(order));
                    if order == Order::End {
                        return;
                    }
                }
                Happened::Told(Letter::Parcel { parcel, reply }) => self.parcel = Some((parcel, reply)),
                Happened::Woke => self.rest(),
                Happened::Readable => {}
            }
            while let Some(ended) = self.attempts.try_join_next() {
                self.ended(ended);
            }
        }
        self.finish().await;
    }

    /// Memory that was kept for what comes next is given back, if nothing came for [`LOOK_INTERVAL`].
    fn rest(&mut self) {
        if self.worked_at.elapsed() >= LOOK_INTERVAL {
            self.rewriting.rest();
            self.requests.rest();
        }
    }

    /// Reads, and makes the requests that may be made now: they are in the savepoint before they leave. When to look again.
    fn start_requests(&mut self) -> Option<Instant> {
        loop {
            // Before each: what was read is in the request before.
            let read_again = self.read();
            if self.parcel.is_some() {
                self.send_parcel();
            }
            if self.parcel.is_some() {
                return read_again;
            }
            let now = std::time::Instant::now();
            let wall_ms = self.look_at_clock(now);
            self.delivery.newest_sample_is(self.reading.newest().sample_ms);
            match self.delivery.next(now, wall_ms, &Stored, fastrand::f64()) {
                Next::Start(attempt) => {
                    self.start(*attempt);
                    if self.delivery.has_completed() {
                        // Nothing was left to be sent of it. There may be much more of that: it is booked, and others are heard in between.
                        return Some(Instant::now());
                    }
                }
                // What expired has made room for the next to be read.
                Next::Wait(_) if self.delivery.has_completed() => return Some(Instant::now()),
                Next::Wait(until) => return until.map(Instant::from_std).into_iter().chain(read_again).min(),
            }
        }
    }

    /// What ages of samples are judged by.
    fn look_at_clock(&mut self, now: std::time::Instant) -> Option<i64> {
        self.settings.sample_age_limit?;
        let was_suspended = self.age.is_suspended();
        let looked = self.age.look(now, now_ms(), self.reading.newest());
        match (was_suspended, self.age.is_suspended()) {
            (false, true) => tracing::warn!(
                target = self.settings.name,
                "the clock was set by more than an hour: nothing expires until it agrees with incoming samples for ten minutes"
            ),
            (true, false) => {
                tracing::info!(target = self.settings.name, "the clock is believed again: what is too old expires")
            }
            _ => {}
        }
        looked
    }

    fn start(&mut self, attempt: Attempt) {
        let Attempt { id, kind, protocol, is_confirmed, forwarded, parts, samples } = attempt;
        if let Some((record, _)) = parts.last() {
            self.progress.reserve(record.header.position);
        }
        let now = std::time::Instant::now();
        self.worked_at = now.into();
        let built = match self.requests.build(kind, protocol, &forwarded, &parts, samples, now) {
            Ok(built) if built.is_empty => {
                self.delivery.leaves_out(id, built.left_out);
                self.metrics.untranslated(built.untranslated);
                self.requests.learn(built.taught);
                self.delivery.unsent(id, &Stored, now);
                return;
            }
            Ok(built) => built,
            Err(error) => {
                // Taken apart, it comes to what was stored, or to what is refused.
                if parts.len() > 1 {
                    tracing::debug!(target = self.settings.name, %error, "a request cannot be put together of several");
                } else {
                    tracing::error!(target = self.settings.name, %error, "internal error: a request cannot be put together");
                }
                let said = Said { status: None, text: error.to_string() };
                self.delivery.answered(
                    id,
                    Outcome::TooLarge,
                    said,
                    &Stored,
                    std::time::Instant::now(),
                    fastrand::f64(),
                );
                return;
            }
        };
        let Built { body, is_empty: _, samples, left_out, untranslated, has_metadata, has_lone_exemplars, taught } =
            built;
        if !left_out.is_empty() {
            self.delivery.leaves_out(id, left_out);
        }
        let is_question = parts.is_empty();
        let sent =
            Sent { protocol, samples: samples.floats, histograms: samples.histograms, is_confirmed, is_question };
        let bytes = body.len() as u64;
        let with_lone_exemplars = has_lone_exemplars.then(|| body.clone());
        let timeout = self.speed.timeout(self.settings.remote_timeout, bytes);
        let client = self.client.clone();
        let handle = self.attempts.spawn(async move {
            let answer = client.send(Request { body, protocol, forwarded: &forwarded, timeout }).await;
            (id, bytes, timeout, answer)
        });
        self.in_flight.insert(id, InFlight { sent, untranslated, has_metadata, with_lone_exemplars, taught, handle });
    }

    /// What an attempt came to.
    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let (id, bytes, timeout, answer) = match ended {
            Ok(ended) => ended,
            // It was given up by us.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Some(in_flight) = self.in_flight.remove(&id) else { return };
        let InFlight { sent, untranslated, has_metadata, with_lone_exemplars, taught, handle: _ } = in_flight;
        let (mut outcome, said) = self.judge(sent, bytes, timeout, answer);
        if let Some(body) = with_lone_exemplars {
            outcome = self.judge_lone_exemplars(sent, outcome, &said, &body);
        }
        if matches!(outcome, Outcome::Accepted { .. }) {
            self.metrics.untranslated(untranslated);
            self.requests.learn(taught);
        } else if has_metadata {
            self.requests.forget_metadata();
        }
        if id == PARCEL {
            self.parcel_ended(sent, &outcome, &said);
            return;
        }
        if matches!(outcome, Outcome::Retry { .. } | Outcome::Hold(_) | Outcome::WrongProtocol(_)) {
            self.reason = Some(shown(&outcome, &said));
        } else if matches!(outcome, Outcome::Refused | Outcome::TooLarge) {
            self.refusal = shown(&outcome, &said);
        }
        self.delivery.answered(id, outcome, said, &Stored, std::time::Instant::now(), fastrand::f64());
        self.log_events();
    }

    /// What an answer means, and how to say it.
    fn judge(
        &mut self,
        sent: Sent,
        bytes: u64,
        timeout: Duration,
        answer: Result<Answered, Unanswered>,
    ) -> (Outcome, Said) {
        match answer {
            Ok(Answered { answer, text, took }) => {
                self.speed.answered(bytes, took);
                self.metrics.answered(answer.status);
                self.progress.answered(answer.status);
                (outcome::judge(sent, &answer), Said { status: Some(answer.status), text })
            }
            Err(Unanswered { timed_out, text, may_have_arrived, .. }) => {
                if timed_out && may_have_arrived {
                    self.speed.timed_out(bytes, timeout);
                }
                self.metrics.unanswered(timed_out);
                let retry = Outcome::Retry { retry_after: None, is_throttled: false, may_have_arrived, timed_out };
                (retry, Said { status: None, text })
            }
        }
    }

    /// The same of a request with exemplars in series of their own: if it was refused as a whole for their sake, it is built again without; else those that
    /// the target left out are counted.
    fn judge_lone_exemplars(&mut self, sent: Sent, outcome: Outcome, said: &Said, body: &Bytes) -> Outcome {
        match self.requests.answered(said, std::time::Instant::now()) {
            Refusal::None => return outcome,
            Refusal::News => tracing::info!(
                target = self.settings.name,
                answer = said_text(said),
                "the target takes exemplars only with a sample of their series: they are put there, and left out where there is none"
            ),
            Refusal::Known => {}
        }
        match outcome {
            Outcome::Accepted { refused } => {
                let all = sent.samples + sent.histograms;
                // (If it kept nothing, all of it is looked into, and goes again without.)
                if refused < all || all == 0 {
                    self.metrics.untranslated([request::lone_exemplars(body), 0, 0]);
                }
                outcome
            }
            _ => Outcome::Retry { retry_after: None, is_throttled: false, may_have_arrived: false, timed_out: false },
        }
    }

    /// Writes down what is settled and what is in flight, if that has changed: before anybody is told, and before anything leaves.
    fn book(&mut self) {
        self.completed.extend(self.delivery.take_completed());
        let refused = self.delivery.take_refused();
        if !refused.is_empty() {
            self.keep(refused);
        }
        let learned = Learned { url: self.identity, ..self.delivery.learned() };
        self.progress.book(&mut self.completed, self.delivery.cuts(), learned);
        match self.oldest_received_ms() {
            Some(received_ms) => self.progress.owes(received_ms),
            None => self.progress.owes_nothing(),
        }
    }

    fn abort(&mut self, id: AttemptId) {
        if id == PARCEL
            && let Some((_, reply)) = self.parcel.take()
        {
            let _ = reply.send(Resent::Unanswered("it was given up: the target was moved or paused".into()));
        }
        if let Some(InFlight { handle, has_metadata, .. }) = self.in_flight.remove(&id) {
            handle.abort();
            if has_metadata {
                self.requests.forget_metadata();
            }
        }
    }

    fn abort_all(&mut self) {
        for id in self.in_flight.keys().copied().collect::<Vec<_>>() {
            self.abort(id);
        }
    }

    /// Waits for what is in flight, until the time for that is over.
    async fn finish(&mut self) {
        let deadline = *self.stop.borrow();
        while !self.in_flight.is_empty() {
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                () = over => break,
            }
        }
        let unanswered: Vec<AttemptId> = self.in_flight.keys().copied().collect();
        if !unanswered.is_empty() {
            tracing::warn!(
                target = self.settings.name,
                requests = unanswered.len(),
                "no answer before the end; what is in flight is sent again at the next start"
            );
        }
        for id in unanswered {
            self.delivery.abandon(id, std::time::Instant::now());
        }
        self.abort_all();
        self.book();
        self.progress.ended();
    }
}

/// A timer would sleep for a millisecond at least, also when it is time already.
async fn until(moment: Instant) {
    if moment > Instant::now() {
        tokio::time::sleep_until(moment).await;
    }
}

/// What a former life left behind.
fn resume(progress: &Progress, identity: u64) -> Resume {
    let savepoint = progress.savepoint();
    let is_the_same = savepoint.learned.url == identity;
    Resume {
        cuts: savepoint.cuts.iter().collect(),
        unsure: savepoint.doubtful,
        learned: if is_the_same { savepoint.learned } else { Learned::default() },
        is_paused: savepoint.is_paused,
        wall_s: u32::try_from(now_ms() / 1000).unwrap_or_default(),
    }
}

/// What became of records up to `to` is of no interest any more: they are given up, and counted so.
fn drop_from(completed: &mut Vec<Completed>, to: Mark) {
    completed.retain_mut(|done| {
        if done.from.position < to.position && to.position < done.to.position {
            // Only a gap is longer than a record.
            done.from = to;
            done.outcomes = Outcomes::lost(done.to.total.saturating_sub(to.total));
        }
        done.from.position >= to.position
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{Place, Position};

    fn done(from: u64, to: u64, outcomes: Outcomes) -> Completed {
        let mark = |number| Mark { position: Position(number), total: 10 * number };
        Completed { from: mark(from), to: mark(to), next: Place::default(), outcomes }
    }

    #[test]
    fn what_is_given_up_is_not_booked_otherwise_as_well() {
        let mut completed = vec![
            done(4, 5, Outcomes::delivered(10)),
            done(7, 12, Outcomes::lost(50)),
            done(14, 15, Outcomes::expired(10)),
        ];
        drop_from(&mut completed, Mark { position: Position(10), total: 100 });
        let left: Vec<_> =
            completed.iter().map(|done| (done.from.position.0, done.to.position.0, done.outcomes)).collect();
        assert_eq!(left, [(10, 12, Outcomes::lost(20)), (14, 15, Outcomes::expired(10))]);
    }
}
