//! A target: one task that reads the log from its savepoint on and sends record after record to one URL.
//!
//! ```text
//!          wal::Cursor                client                 outcome            state
//!  log ---> Record ---------------> POST body as stored ---> Answer ---judge---> settle: savepoint moves, ledger books
//!       '-> Gap (damaged, missing) -----------------------------------------------^        |
//!                                             ^-------- wait, same bytes again ---- retry, hold
//! ```
//!
//! # Promises
//! - In order: a record is settled before the next one is sent. So every series keeps its order, through retries and restarts.
//! - One record, one request: its bytes are sent as they came, and the same bytes again until it is settled.
//! - Settled position and ledger move together, and are in the live page of the savepoint before the next request begins. After
//!   `kill -9` at most the one request in flight is sent a second time.
//! - Nothing here is ever seen by the receiver: a bad target slows nobody.
//!
//! Reading the log and writing the savepoint may wait for the disk; they share one trip to a blocking thread per record.

mod backoff;
mod client;
mod orders;
mod outcome;
mod progress;
mod state;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use backoff::{Backoff, InvalidBackoff};
use client::{Client, Unanswered};
pub use orders::{Destination, Moved, Order, Orders};
use orders::{Inbox, Letter};
use outcome::{Outcome, Sent};
pub use progress::{Progress, Snapshot};
pub use state::Phase;
use state::{Event, Next, State};

use crate::clock::now_ms;
use crate::metrics::TargetMetrics;
use crate::protocol::Protocol;
use crate::savepoint::Settled;
use crate::wal::record::{Header, Kind};
use crate::wal::{Cursor, Log, Mark, Place, Readable, Record, Step};

/// How a target is configured; checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys the savepoint.
    pub name: String,
    /// Where requests go.
    pub url: reqwest::Url,
    /// For a whole exchange.
    pub remote_timeout: Duration,
    /// Sent with every request.
    pub headers: reqwest::header::HeaderMap,
    /// After failures.
    pub backoff: Backoff,
    /// The most that a target's `Retry-After` is believed.
    pub retry_after_max: Duration,
    /// Where a new name starts.
    pub start_from: Option<StartFrom>,
    /// Whether a full log waits for it.
    pub required: bool,
}

impl Settings {
    /// The URL as it may be shown: without user info.
    #[must_use]
    pub fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // Cannot fail for http and https.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }
}

/// Where a target begins whose name has no savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// With everything that is still in the log.
    Oldest,
    /// With the next record.
    Now,
}

/// Tells targets to stop: `None` while they run, then until when a request in flight may take.
pub type Stop = watch::Receiver<Option<Instant>>;

/// A target's task.
#[derive(Debug)]
pub struct Target {
    settings: Settings,
    progress: Arc<Progress>,
    metrics: Arc<TargetMetrics>,
    client: Client,
    state: State,
    readable: watch::Receiver<Readable>,
    stop: Stop,
    log: Log,
    inbox: Inbox,
    orders: Orders,
    /// Away only while a blocking thread has it.
    cursor: Option<Cursor>,
    /// When the disk began not to give the record that is next.
    unreadable_since: Option<Instant>,
    /// No request before this: the pause is the target's, whatever becomes of the record that brought it about.
    paused_until: Option<Instant>,
}

/// What became of a record.
enum Delivery {
    Settled(Settled),
    /// Somebody gave an order first.
    Interrupted(Letter),
    /// The end came first.
    Stopped,
}

/// What became of everything up to a mark.
#[derive(Clone, Copy, Debug)]
struct Settlement {
    to: Mark,
    next: Place,
    outcome: Settled,
}

/// How long a part of the log that the disk does not give is tried again before it is taken for damaged: a path to a disk that
/// fails over takes seconds, somebody who plugs a cable in takes minutes.
const UNREADABLE_PATIENCE: Duration = Duration::from_secs(600);
const UNREADABLE_INTERVAL: Duration = Duration::from_secs(1);

impl Target {
    /// A target that goes on where its savepoint is.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: Settings,
        progress: Arc<Progress>,
        metrics: Arc<TargetMetrics>,
        log: &Log,
        stop: Stop,
    ) -> Result<Target, reqwest::Error> {
        let client =
            Client::new(settings.url.clone(), &settings.headers, settings.remote_timeout, settings.retry_after_max)?;
        let savepoint = progress.snapshot().savepoint;
        let (orders, inbox) = Orders::new();
        Ok(Target {
            log: log.clone(),
            inbox,
            orders,
            state: State::new(settings.backoff),
            client,
            readable: log.subscribe(),
            cursor: Some(log.cursor(savepoint.settled, savepoint.next)),
            settings,
            progress,
            metrics,
            stop,
            unreadable_since: None,
            paused_until: None,
        })
    }

    /// For telling it something while it runs.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Runs until it is told to stop. Whatever was settled is in the live page of the savepoint then.
    pub async fn run(mut self) {
        let mut settled = None;
        while self.stop.borrow().is_none() {
            // Seen before reading: what becomes readable after this look wakes us.
            self.readable.mark_unchanged();
            let letter = match self.read(settled.take()).await {
                Step::Record(record) => {
                    self.unreadable_since = None;
                    match self.deliver(&record).await {
                        Delivery::Settled(outcome) => {
                            settled = Some(Settlement { to: record.mark(), next: record.next, outcome });
                            self.inbox.try_recv().ok()
                        }
                        Delivery::Interrupted(letter) => Some(letter),
                        Delivery::Stopped => break,
                    }
                }
                Step::Gap { from, to, place, reason } => {
                    self.unreadable_since = None;
                    // Positions that were skipped and never held a sample are no loss.
                    let samples = to.total.saturating_sub(from.total);
                    if samples > 0 {
                        tracing::error!(target = self.settings.name, samples, %reason, "part of the log is lost for this target");
                    }
                    settled = Some(Settlement { to, next: place, outcome: Settled::Lost { samples } });
                    None
                }
                Step::Unreadable(error) => self.cannot_read(&error).await,
                Step::End => {
                    self.progress.owes_nothing();
                    self.state.caught_up();
                    self.show(None);
                    tokio::select! {
                        // The log outlives its targets; if not, there is nothing more to read.
                        changed = self.readable.changed() => if changed.is_err() { break } else { None },
                        letter = self.inbox.recv() => letter,
                        _ = self.stop.wait_for(Option::is_some) => break,
                    }
                }
            };
            if let Some(Letter { order, reply }) = letter {
                let result = self.obey(order, settled.take()).await;
                let _ = reply.send(result);
                if order == Order::End {
                    return;
                }
            }
        }
        if let Some(settlement) = settled {
            self.read_or_settle(Some(settlement), false).await;
        }
    }

    /// Books what was settled, and goes where it is told.
    async fn obey(&mut self, order: Order, settled: Option<Settlement>) -> io::Result<Moved> {
        self.unreadable_since = None;
        if let Order::Seek(_) = order {
            // Somebody wants to see something happen.
            self.state = State::new(self.settings.backoff);
            self.paused_until = None;
        }
        self.read_or_settle(settled, false).await;
        let (progress, log) = (self.progress.clone(), self.log.clone());
        let trip = tokio::task::spawn_blocking(move || {
            let moved = progress.obey(&log, order);
            let savepoint = progress.snapshot().savepoint;
            (moved, log.cursor(savepoint.settled, savepoint.next))
        });
        let (moved, cursor) = trip.await.expect("moving a savepoint does not panic");
        self.cursor = Some(cursor);
        moved
    }

    /// Settles what was delivered and reads on.
    async fn read(&mut self, settled: Option<Settlement>) -> Step {
        self.read_or_settle(settled, true).await
    }

    /// On a blocking thread, both in one trip.
    async fn read_or_settle(&mut self, settled: Option<Settlement>, reads: bool) -> Step {
        let mut cursor = self.cursor.take().expect("the cursor comes back from every trip");
        let progress = self.progress.clone();
        let trip = tokio::task::spawn_blocking(move || {
            if let Some(Settlement { to, next, outcome }) = settled {
                progress.settle(to, next, outcome);
            }
            let step = if reads { cursor.next_step() } else { Step::End };
            (cursor, step)
        });
        let (cursor, step) = trip.await.expect("reading the log does not panic");
        self.cursor = Some(cursor);
        step
    }

    /// The disk does not give the next record. Nothing is lost by that: it is read again, for [`UNREADABLE_PATIENCE`], and taken for
    /// damage only then.
    async fn cannot_read(&mut self, error: &io::Error) -> Option<Letter> {
        let now = Instant::now();
        let since = *self.unreadable_since.get_or_insert_with(|| {
            tracing::error!(target = self.settings.name, %error, "the log cannot be read; it is tried again");
            now
        });
        self.progress.enter(Phase::BackingOff, Some(format!("the log cannot be read: {error}")), now_ms());
        if now - since >= UNREADABLE_PATIENCE {
            tracing::error!(target = self.settings.name, %error, "the log still cannot be read; it is taken for damaged there");
            self.cursor.as_mut().expect("the cursor is here between trips").give_up_unreadable();
            return None;
        }
        tokio::select! {
            () = tokio::time::sleep(UNREADABLE_INTERVAL) => None,
            letter = self.inbox.recv() => letter,
            _ = self.stop.wait_for(Option::is_some) => None,
        }
    }

    /// Sends a record until it is settled, or until somebody wants something else.
    async fn deliver(&mut self, record: &Record) -> Delivery {
        let sent = sent(&record.header);
        self.progress.owes(record.header.received_ms);
        loop {
            if let Some(until) = self.paused_until {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => self.paused_until = None,
                    Some(letter) = self.inbox.recv() => return Delivery::Interrupted(letter),
                    _ = self.stop.wait_for(Option::is_some) => return Delivery::Stopped,
                }
            }
            self.state.sending();
            self.show(None);
            let answer = {
                let attempt = self.client.send(record, sent.protocol);
                tokio::pin!(attempt);
                let settled = self.progress.snapshot().savepoint.settled.position;
                loop {
                    tokio::select! {
                            // An answer that is there counts.
                            biased;
                            answer = &mut attempt => break answer,
                            Some(letter) = self.inbox.recv() => match letter.order {
                                // It is past that: no reason to send anything twice.
                                Order::Drop(to) if to.mark.position <= settled => {
                                    let _ = letter.reply.send(Ok(Moved::default()));
                                }
                                _ => return Delivery::Interrupted(letter),
                            },
                            () = grace_over(self.stop.clone()) => {
                            tracing::warn!(
                                target = self.settings.name, position = record.header.position.0,
                                "no answer before the end; this request is sent again at the next start"
                            );
                            return Delivery::Stopped;
                        }
                    }
                }
            };
            let (outcome, said) = self.judge(sent, answer);
            if let Outcome::Settled(settled) = &outcome {
                self.log_refusal(record, *settled, &said);
            }
            let (next, event) = self.state.after(outcome, fastrand::f64());
            self.log_event(event, &said);
            match next {
                Next::Settle(settled) => {
                    self.show(None);
                    return Delivery::Settled(settled);
                }
                Next::Wait(wait) => {
                    self.show(Some(said));
                    self.paused_until = Some(Instant::now() + wait);
                }
            }
        }
    }

    /// What an answer means, and how to say it.
    fn judge(&self, sent: Sent, answer: Result<(outcome::Answer, String), Unanswered>) -> (Outcome, String) {
        match answer {
            Ok((answer, text)) => {
                self.metrics.answered(answer.status);
                self.progress.answered(answer.status);
                let outcome = outcome::judge(sent, &answer);
                let said = match &outcome {
                    Outcome::Hold(reason) => reason.to_string(),
                    _ => outcome::Reason::Status(answer.status).to_string(),
                };
                (outcome, if text.is_empty() { said } else { format!("{said}: {text}") })
            }
            Err(Unanswered { timed_out, text }) => {
                self.metrics.unanswered(timed_out);
                (Outcome::Retry { retry_after: None }, text)
            }
        }
    }

    fn show(&self, reason: Option<String>) {
        // A target that fails keeps its reason while it is tried again.
        if reason.is_some() || self.state.failures() == 0 {
            self.progress.enter(self.state.phase(), reason, now_ms());
        }
    }

    fn log_refusal(&self, record: &Record, settled: Settled, said: &str) {
        let refused = match settled {
            Settled::Delivered { refused, .. } => refused,
            other => other.samples(),
        };
        if refused > 0 {
            tracing::warn!(
                target = self.settings.name,
                position = record.header.position.0,
                refused,
                of = record.header.counts.ledger_samples(),
                answer = said,
                "the target refused samples for good"
            );
        }
    }

    fn log_event(&self, event: Option<Event>, said: &str) {
        let name = &self.settings.name;
        match event {
            Some(Event::BeganBackingOff) => {
                tracing::warn!(
                    target = name,
                    answer = said,
                    "the target does not take data now; it is retried and nothing is lost"
                );
            }
            Some(Event::BeganHolding(_)) => {
                tracing::error!(
                    target = name,
                    answer = said,
                    "the target is held: its answer asks for somebody's attention; the data is kept and retried slowly"
                );
            }
            Some(Event::Recovered { failures }) => {
                tracing::info!(target = name, failures, "the target takes data again")
            }
            None => {}
        }
    }
}

/// Ends when the time for a request in flight is over.
async fn grace_over(mut stop: Stop) {
    let deadline = match stop.wait_for(Option::is_some).await {
        Ok(deadline) => *deadline,
        Err(_) => None,
    };
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

fn sent(header: &Header) -> Sent {
    let protocol = match header.kind {
        Kind::Write1 => Protocol::V1,
        Kind::Write2 => Protocol::V2,
        Kind::Seal => unreachable!("a cursor yields requests"),
    };
    Sent { protocol, samples: u64::from(header.counts.samples), histograms: u64::from(header.counts.histograms) }
}
