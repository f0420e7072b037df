//! What others may know of a target: its savepoint, its state. Written by the target's thread, read by status, metrics and retention.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::batch::Completed;
use super::orders::{Destination, Moved, Order};
use super::state::Phase;
use crate::savepoint::{Cut, Cuts, File, Learned, Outcomes, Saved, Savepoint, Synced};
use crate::wal::{Log, Position};

/// One consistent view of a target.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its savepoint.
    pub savepoint: Savepoint,
    /// What it is doing.
    pub phase: Phase,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// Since when, ms since 1970.
    pub since_ms: i64,
    /// The last answer's status.
    pub last_status: Option<u16>,
    /// When the oldest record that it is owed was received, as far as it has been read.
    pub oldest_pending_ms: Option<i64>,
    /// How it goes about it.
    pub details: Details,
}

/// How a target is sent to, now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Details {
    /// Requests that are not answered yet.
    pub in_flight: usize,
    /// How many there may be.
    pub window: usize,
    /// Failures in a row.
    pub failures: u32,
    /// Samples per second that the target's 429s have taught.
    pub rate_limit: Option<f64>,
    /// Requests that fail while others are taken.
    pub isolated: usize,
    /// Whether it takes remote write 1.0, and 2.0, as far as its answers have shown.
    pub takes: [Option<bool>; 2],
}

#[derive(Debug)]
struct Inner {
    /// What `snapshot` shows of it, and which content it is.
    generation: u64,
    epoch: u64,
    snapshot: Snapshot,
    /// The last record of which a request was made, and what it was at the last sync.
    started: Position,
    started_at_sync: Position,
}

impl Inner {
    fn saved(&self) -> Saved {
        Saved { generation: self.generation, epoch: self.epoch, savepoint: self.snapshot.savepoint.clone() }
    }
}

/// What is known and not booked was sent, for all that others know: unless it is known that it was not.
pub(super) fn cuts_of(completed: &[Completed]) -> impl Iterator<Item = Cut> + '_ {
    let was_sent = |done: &&Completed| {
        let samples = done.outcomes.samples();
        done.from.position < done.to.position
            && ![Outcomes::expired(samples), Outcomes::lost(samples)].contains(&done.outcomes)
    };
    completed.iter().filter(was_sent).map(|done| Cut {
        first: done.from.position.next(),
        last: done.to.position,
        is_possibly_delivered: true,
    })
}

/// So many records more than were started may be, before another sync: some seconds' worth of those that the target takes.
const RESERVED_MIN: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub struct Progress {
    name: String,
    url: String,
    file: File,
    inner: Mutex<Inner>,
    /// What was synced last, and who syncs, one at a time.
    synced_generation: AtomicU64,
    synced_position: AtomicU64,
    synced_reservation: AtomicU64,
    syncing: Mutex<()>,
}

impl Progress {
    /// Of a target whose savepoint has just been opened.
    #[must_use]
    pub fn new(name: String, url: String, file: File, saved: Saved, phase: Phase, now_ms: i64) -> Progress {
        let (generation, position) = match file.was_synced() {
            true => (saved.generation, saved.savepoint.settled.position.0),
            false => (0, 0),
        };
        let Saved { generation: live, epoch, savepoint } = saved;
        let is_paused = savepoint.is_paused && phase == Phase::CaughtUp;
        let snapshot = Snapshot {
            savepoint,
            phase: if is_paused { Phase::Paused } else { phase },
            reason: None,
            since_ms: now_ms,
            last_status: None,
            oldest_pending_ms: None,
            details: Details::default(),
        };
        let (started, started_at_sync) = (Position(0), Position(0));
        Progress {
            name,
            url,
            file,
            inner: Mutex::new(Inner { generation: live, epoch, snapshot, started, started_at_sync }),
            synced_generation: AtomicU64::new(generation),
            synced_position: AtomicU64::new(position),
            synced_reservation: AtomicU64::new(0),
            syncing: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A target that panicked has changed nothing: everything is changed at once, after it was checked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The target's URL without user info; empty for an orphan.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner().snapshot.clone()
    }

    /// Its savepoint.
    #[must_use]
    pub fn savepoint(&self) -> Savepoint {
        self.inner().snapshot.savepoint.clone()
    }

    /// Books what became of records, and what is in flight: in the live page of the savepoint first, so that what is told as delivered is still
    /// so after `kill -9`, and what leaves is known to have left. Only the target's thread does this. What would be a range
    /// too many stays in `completed`. Blocks for a moment.
    pub fn book(&self, completed: &mut Vec<Completed>, mut cuts: Vec<Cut>, learned: Learned) {
        let saved = self.inner().saved();
        let mut next = saved.clone();
        completed.sort_by_key(|done| done.from.position);
        completed.retain(|done| {
            let Completed { from, to, next: place, outcomes } = *done;
            next.savepoint.settle(from, to, place, outcomes).is_err()
        });
        cuts.extend(cuts_of(completed));
        next.savepoint.cuts = Cuts::of(cuts, next.savepoint.settled.position);
        next.savepoint.learned = learned;
        next.savepoint.is_clean &= next.savepoint.cuts.is_empty();
        if next.savepoint == saved.savepoint {
            return;
        }
        self.put(next);
    }

    /// Writes a new content down and shows it.
    fn put(&self, mut saved: Saved) {
        saved.generation += 1;
        if let Err(error) = self.file.write_live(&saved) {
            tracing::error!(target = self.name, %error, "cannot write the savepoint; after a crash more is sent again");
        }
        let mut inner = self.inner();
        // It may have been raised by a sync meanwhile.
        let reservation = inner.snapshot.savepoint.reservation.max(saved.savepoint.reservation);
        inner.generation = saved.generation;
        inner.snapshot.savepoint = saved.savepoint;
        inner.snapshot.savepoint.reservation = reservation;
    }

    /// A request with records up to `last` is about to be made: after a power cut it must be known that this may have been. Waits for a sync
    /// where it is not.
    pub fn reserve(&self, last: Position) {
        {
            let mut inner = self.inner();
            inner.started = inner.started.max(last);
        }
        if last.0 > self.synced_reservation.load(Ordering::Acquire)
            && let Err(error) = self.sync_with(true)
        {
            tracing::error!(target = self.name, %error, "cannot sync the savepoint; after a power cut requests may be cut otherwise than before");
        }
    }

    /// Stops it, or lets it go on, durably.
    ///
    /// # Errors
    /// It is so now, and may not be after a crash.
    pub fn pause(&self, is_paused: bool) -> io::Result<()> {
        let mut saved = self.inner().saved();
        saved.savepoint.is_paused = is_paused;
        self.put(saved);
        self.sync()
    }

    /// The target's thread ends in good order.
    pub fn ended(&self) {
        let mut saved = self.inner().saved();
        if saved.savepoint.cuts.iter().all(|cut| !cut.is_possibly_delivered) {
            saved.savepoint.is_clean = true;
            self.put(saved);
        }
    }

    /// Moves the savepoint otherwise than by settling, and makes that durable. `cuts` are those of what goes on beyond. Called by the target's
    /// thread, and by others only where there is none. Blocks.
    ///
    /// # Errors
    /// The savepoint was moved, and may be where it was after a power cut.
    pub fn obey(&self, log: &Log, order: Order, cuts: Vec<Cut>) -> io::Result<Moved> {
        let mut saved = self.inner().saved();
        let from = saved.savepoint.settled;
        let moved = match order {
            Order::Seek(Destination { mark, place }) if mark.position < from.position => {
                let in_ranges = saved.savepoint.replay(mark, place);
                Moved { dropped: 0, replayed: log.samples_between(mark, from) + in_ranges }
            }
            Order::Seek(to) | Order::Drop(to) if to.mark.position > from.position => {
                let between = log.samples_between(from, to.mark);
                let dropped = saved.savepoint.skip(to.mark, to.place, between);
                saved.savepoint.cuts = Cuts::of(cuts, saved.savepoint.settled.position);
                Moved { dropped, replayed: 0 }
            }
            Order::Pause(is_paused) => {
                saved.savepoint.is_paused = is_paused;
                Moved::default()
            }
            _ => return Ok(Moved::default()),
        };
        saved.generation += 1;
        saved.epoch += 1;
        // Lower is always safe.
        let settled = saved.savepoint.settled.position.0;
        self.synced_position.fetch_min(settled, Ordering::AcqRel);
        let written = self.file.write_live(&saved);
        {
            let mut inner = self.inner();
            inner.generation = saved.generation;
            inner.epoch = saved.epoch;
            inner.snapshot.savepoint = saved.savepoint;
            inner.snapshot.oldest_pending_ms = None;
        }
        written.and_then(|()| self.sync()).map(|()| moved)
    }

    /// Books a request that an operator has made again: accepted, and what became of it, at once.
    pub fn resent(&self, outcomes: crate::savepoint::Outcomes) {
        let mut saved = self.inner().saved();
        saved.savepoint.ledger.settle(outcomes);
        self.put(saved);
    }

    /// Nothing is pending.
    pub fn owes_nothing(&self) {
        self.inner().snapshot.oldest_pending_ms = None;
    }

    /// A record was read that is not settled yet.
    pub fn owes(&self, received_ms: i64) {
        self.inner().snapshot.oldest_pending_ms = Some(received_ms);
    }

    /// The state changed.
    pub fn enter(&self, phase: Phase, reason: Option<String>, now_ms: i64) {
        let snapshot = &mut self.inner().snapshot;
        // "Since" is of the state; the reason may change within it.
        if snapshot.phase != phase {
            snapshot.since_ms = now_ms;
        }
        snapshot.phase = phase;
        snapshot.reason = reason;
    }

    /// How it goes about it.
    pub fn detail(&self, details: Details) {
        self.inner().snapshot.details = details;
    }

    /// An answer came.
    pub fn answered(&self, status: u16) {
        self.inner().snapshot.last_status = Some(status);
    }

    /// Makes the savepoint durable, if it has changed. Blocks.
    ///
    /// # Errors
    /// What the system says; what was durable before still is.
    pub fn sync(&self) -> io::Result<()> {
        self.sync_with(false)
    }

    fn sync_with(&self, is_wanted: bool) -> io::Result<()> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut saved, started, reservation) = {
            let mut inner = self.inner();
            let since = inner.started.0.saturating_sub(inner.started_at_sync.0);
            let ahead = RESERVED_MIN.max(4 * since);
            inner.started_at_sync = inner.started;
            // Within what was synced before, requests may be made meanwhile.
            let before = self.synced_reservation.load(Ordering::Acquire);
            (inner.saved(), inner.started, Position(before.max(inner.started.0 + ahead)))
        };
        // Ahead of what is started there is always some left.
        let is_near = started.0 + RESERVED_MIN / 2 > self.synced_reservation.load(Ordering::Acquire) && started.0 > 0;
        let has_changed = saved.generation != self.synced_generation.load(Ordering::Acquire);
        if !has_changed && !is_wanted && !is_near {
            return Ok(());
        }
        if started.0 > 0 {
            saved.savepoint.reservation = saved.savepoint.reservation.max(reservation);
            self.inner().snapshot.savepoint.reservation = saved.savepoint.reservation;
        }
        if self.file.sync(&saved)? == Synced::InNewFile {
            // It holds nothing newer than this; the live page may have.
            let now = self.inner().saved();
            self.file.write_live(&now)?;
        }
        self.synced_generation.store(saved.generation, Ordering::Release);
        self.synced_position.store(saved.savepoint.settled.position.0, Ordering::Release);
        self.synced_reservation.store(saved.savepoint.reservation.0, Ordering::Release);
        Ok(())
    }

    /// Everything up to here is settled, and this is known even after a power cut.
    #[must_use]
    pub fn synced_position(&self) -> Position {
        Position(self.synced_position.load(Ordering::Acquire))
    }
}
