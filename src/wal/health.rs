//! Whether records are taken, and why not: known to whoever asks, said in the process' log when it changes.
//!
//! ```text
//!              no room                          room again
//!   Working ------------> Full                 ------------> Working
//!           ------------> Failing: says what                a segment could be opened, a group was synced
//!              a write, a sync, an allocation fails; or one of them has not come back for some seconds
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use super::sync::{Mutex, watch};

/// Whether appends work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As far as known.
    Working,
    /// There is no room for another segment.
    Full(Limit),
    /// The disk does not take it.
    Failing(String),
}

/// What there is no room by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Another segment would exceed [`Options::max_bytes`](super::Options::max_bytes).
    MaxSize {
        /// The limit.
        bytes: u64,
    },
    /// The filesystem would be left with less than [`Options::min_free`](super::Options::min_free).
    MinFree {
        /// The limit.
        bytes: u64,
        /// What is left.
        free: u64,
    },
    /// The filesystem is full, of bytes or files, or a quota is used up.
    Disk {
        /// What the system says.
        reason: String,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::MaxSize { bytes } => write!(f, "another segment would exceed wal.max_size, {bytes} bytes"),
            Limit::MinFree { bytes, free } => {
                write!(
                    f,
                    "the filesystem has {free} bytes left, and wal.min_free asks for {bytes} beside another segment"
                )
            }
            Limit::Disk { reason } => write!(f, "the filesystem has no room for another segment: {reason}"),
        }
    }
}

/// After this time in one write or sync the disk is said to hang.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Since when the writer has been at work without waiting for records.
#[derive(Debug, Default)]
struct Busy(Mutex<Option<Instant>>);

impl Busy {
    fn begin(&self) {
        self.0.lock().expect("no holder of this lock panics").get_or_insert_with(Instant::now);
    }

    fn end(&self) {
        *self.0.lock().expect("no holder of this lock panics") = None;
    }

    fn since(&self) -> Option<Duration> {
        self.0.lock().expect("no holder of this lock panics").map(|since| since.elapsed())
    }
}

/// What was said last about the log's health.
#[derive(Debug, Default)]
struct Said {
    is_bad: bool,
    /// Since something bad was said.
    since: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Condition {
    health: watch::Sender<Health>,
    said: Mutex<Said>,
    busy: Busy,
}

impl Condition {
    pub(super) fn new() -> Condition {
        Condition { health: watch::Sender::new(Health::Working), said: Mutex::default(), busy: Busy::default() }
    }

    /// The writer begins something that ends with the disk's answer.
    pub(super) fn begin(&self) {
        self.busy.begin();
    }

    /// The disk has answered.
    pub(super) fn end(&self) {
        self.busy.end();
    }

    /// What it is now.
    pub(super) fn now(&self) -> Health {
        let health = self.health.borrow().clone();
        match self.busy.since() {
            Some(since) if health == Health::Working && since > HANGS_AFTER => {
                Health::Failing(format!("the disk has not answered for {} s", since.as_secs()))
            }
            _ => health,
        }
    }

    pub(super) fn set(&self, health: Health) {
        self.set_if(health, || true);
    }

    /// The same, if something holds at that very moment: whoever changes it and says so afterwards has the last word.
    pub(super) fn set_if(&self, health: Health, holds: impl FnOnce() -> bool) {
        self.health.send_if_modified(|now| {
            if !holds() {
                return false;
            }
            let changed = *now != health;
            // The reason may change with every attempt; that it fails is said once.
            if std::mem::discriminant(now) != std::mem::discriminant(&health) {
                self.say(&health);
            }
            if changed {
                *now = health;
            }
            changed
        });
    }

    /// A log at its limit is full and not full in turn, with every segment: that is said once a minute.
    fn say(&self, health: &Health) {
        let mut said = self.said.lock().expect("no holder of this lock panics");
        let is_quiet = said.since.is_some_and(|since| since.elapsed() < Duration::from_secs(60));
        match health {
            Health::Working if said.is_bad => tracing::info!("the log takes records again"),
            Health::Full(limit) if !is_quiet => tracing::error!(
                %limit,
                "the log is full: upstreams get 503 until targets have taken what they are owed, or something is given up"
            ),
            Health::Failing(reason) if !is_quiet => {
                tracing::error!(%reason, "the log cannot be written: upstreams get 503 until it can");
            }
            _ => {
                said.is_bad = false;
                return;
            }
        }
        let is_bad = *health != Health::Working;
        *said = Said { is_bad, since: if is_bad { Some(Instant::now()) } else { said.since } };
    }
}
