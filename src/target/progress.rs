//! What others may know of a target: its savepoint, its state. Written by the target's task, read by status, metrics and retention.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::orders::{Destination, Moved, Order};
use super::state::Phase;
use crate::savepoint::{File, Saved, Savepoint, Settled, Synced};
use crate::wal::{Log, Mark, Place, Position};

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
}

#[derive(Debug)]
struct Inner {
    /// What `snapshot` shows of it, and which content it is.
    generation: u64,
    epoch: u64,
    snapshot: Snapshot,
}

impl Inner {
    fn saved(&self) -> Saved {
        Saved { generation: self.generation, epoch: self.epoch, savepoint: self.snapshot.savepoint }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Progress {
    name: String,
    url: String,
    file: File,
    inner: Mutex<Inner>,
    synced_generation: AtomicU64,
    synced_position: AtomicU64,
}

impl Progress {
    /// Of a target whose savepoint has just been opened.
    #[must_use]
    pub fn new(name: String, url: String, file: File, saved: Saved, phase: Phase, now_ms: i64) -> Progress {
        let snapshot = Snapshot {
            savepoint: saved.savepoint,
            phase,
            reason: None,
            since_ms: now_ms,
            last_status: None,
            oldest_pending_ms: None,
        };
        let (generation, position) = match file.was_synced() {
            true => (saved.generation, saved.savepoint.settled.position.0),
            false => (0, 0),
        };
        Progress {
            name,
            url,
            file,
            inner: Mutex::new(Inner { generation: saved.generation, epoch: saved.epoch, snapshot }),
            synced_generation: AtomicU64::new(generation),
            synced_position: AtomicU64::new(position),
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

    /// Books what became of everything up to `to`, in the live page of the savepoint first: what is told as delivered is still so
    /// after `kill -9`. Only one task settles a target. Blocks for a moment.
    pub fn settle(&self, to: Mark, next: Place, outcome: Settled) {
        let mut saved = self.inner().saved();
        saved.savepoint.settle(to, next, outcome);
        saved.generation += 1;
        if let Err(error) = self.file.write_live(&saved) {
            tracing::error!(target = self.name, %error, "cannot write the savepoint; after a crash more is sent again");
        }
        let mut inner = self.inner();
        inner.generation = saved.generation;
        inner.snapshot.savepoint = saved.savepoint;
    }

    /// Moves the savepoint otherwise than by settling, and makes that durable. Called by the target's task, and by others only where there
    /// is none. Blocks.
    ///
    /// # Errors
    /// The savepoint was moved, and may be where it was after a power cut.
    pub fn obey(&self, log: &Log, order: Order) -> io::Result<Moved> {
        let mut saved = self.inner().saved();
        let from = saved.savepoint.settled;
        let moved = match order {
            Order::Seek(Destination { mark, place }) if mark.position < from.position => {
                saved.savepoint.replay(mark, place);
                Moved { dropped: 0, replayed: log.samples_between(mark, from) }
            }
            Order::Seek(to) | Order::Drop(to) if to.mark.position > from.position => {
                let dropped = log.samples_between(from, to.mark);
                saved.savepoint.skip(to.mark, to.place, dropped);
                Moved { dropped, replayed: 0 }
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

    /// An answer came.
    pub fn answered(&self, status: u16) {
        self.inner().snapshot.last_status = Some(status);
    }

    /// Makes the savepoint durable, if it has changed. Blocks.
    ///
    /// # Errors
    /// What the system says; what was durable before still is.
    pub fn sync(&self) -> io::Result<()> {
        let saved = self.inner().saved();
        if saved.generation != self.synced_generation.load(Ordering::Acquire) {
            if self.file.sync(&saved)? == Synced::InNewFile {
                // It holds nothing newer than this; the live page may have.
                let now = self.inner().saved();
                self.file.write_live(&now)?;
            }
            self.synced_generation.store(saved.generation, Ordering::Release);
            self.synced_position.store(saved.savepoint.settled.position.0, Ordering::Release);
        }
        Ok(())
    }

    /// Everything up to here is settled, and this is known even after a power cut.
    #[must_use]
    pub fn synced_position(&self) -> Position {
        Position(self.synced_position.load(Ordering::Acquire))
    }
}
