//! Requests that became durable although their upstream had gone: remembered for a minute, so that its repetition is not stored twice.
//!
//! ```text
//!  upstream gives up while its record is at the writer
//!     record not taken yet -------> withdrawn, never appended
//!     taken ----------------------> pending --- durable ---> done, for a minute ---> forgotten
//!                                      '------- failed -----> forgotten
//!  the same request again:  pending: waits for that result    done: 2xx without a second append    else: appended
//! ```
//!
//! "The same" is: protocol, body, forwarded headers and the sender's address. Two requests of different senders, or one that is sent
//! twice on purpose and answered both times, are never taken for one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::protocol::Protocol;
use crate::wal::Ticket;
use crate::wal::record::Meta;

/// How long a request is remembered after it became durable: upstreams repeat within seconds.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// More are not remembered at a time: the memory is bounded, and the worst case is a duplicate.
const ENTRIES_MAX: usize = 10_000;

/// What identifies a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Of a request.
    #[must_use]
    pub fn of(protocol: Protocol, meta: &Meta, body: &[u8]) -> Fingerprint {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        // Every part with its length, so that no two requests run together to the same bytes.
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(protocol.as_str().as_bytes());
        part(meta.sender.map(|sender| sender.to_string()).unwrap_or_default().as_bytes());
        for (name, value) in &meta.forwarded {
            part(name.as_bytes());
            part(value);
        }
        part(body);
        Fingerprint(hash.digest128())
    }
}

#[derive(Debug)]
enum Entry {
    Pending(watch::Receiver<Fate>),
    Done { until: Instant },
}

/// What became of a request whose upstream had gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Durable,
    Failed,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    entries: Arc<Mutex<HashMap<Fingerprint, Entry>>>,
    /// So that nothing is hashed while nothing is remembered: nearly always.
    len: Arc<AtomicUsize>,
}

impl Repeats {
    fn entries(&self) -> MutexGuard<'_, HashMap<Fingerprint, Entry>> {
        self.entries.lock().expect("no holder of this lock panics")
    }

    /// Whether there is nothing to compare with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Whether this request is in the log already. Waits while that is being decided.
    pub async fn is_durable(&self, fingerprint: Fingerprint) -> bool {
        let mut fate = match self.entries().get(&fingerprint) {
            Some(Entry::Done { until }) => return Instant::now() < *until,
            Some(Entry::Pending(fate)) => fate.clone(),
            None => return false,
        };
        fate.wait_for(|fate| *fate != Fate::Open).await.is_ok_and(|fate| *fate == Fate::Durable)
    }

    /// Takes over a record whose upstream has gone.
    fn adopt(&self, fingerprint: Fingerprint, mut ticket: Ticket) {
        let (sender, fate) = watch::channel(Fate::Open);
        {
            let mut entries = self.entries();
            let now = Instant::now();
            entries.retain(|_, entry| !matches!(entry, Entry::Done { until } if *until <= now));
            if entries.len() < ENTRIES_MAX {
                entries.insert(fingerprint, Entry::Pending(fate));
            }
            self.len.store(entries.len(), Ordering::Release);
        }
        // Outside of a runtime everything is ending: nobody will repeat anything to this process.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let repeats = self.clone();
        runtime.spawn(async move {
            let is_durable = ticket.outcome().await.is_ok();
            repeats.settle(fingerprint, is_durable);
            let _ = sender.send(if is_durable { Fate::Durable } else { Fate::Failed });
            if is_durable {
                tokio::time::sleep(REMEMBERED_FOR).await;
                repeats.forget(fingerprint);
            }
        });
    }

    fn settle(&self, fingerprint: Fingerprint, is_durable: bool) {
        let mut entries = self.entries();
        if is_durable {
            if let Some(entry) = entries.get_mut(&fingerprint) {
                *entry = Entry::Done { until: Instant::now() + REMEMBERED_FOR };
            }
        } else {
            entries.remove(&fingerprint);
        }
        self.len.store(entries.len(), Ordering::Release);
    }

    fn forget(&self, fingerprint: Fingerprint) {
        let mut entries = self.entries();
        if matches!(entries.get(&fingerprint), Some(Entry::Done { until }) if *until <= Instant::now()) {
            entries.remove(&fingerprint);
        }
        self.len.store(entries.len(), Ordering::Release);
    }
}

/// Holds a ticket while its upstream waits. If it is dropped before it is answered, the upstream has gone.
#[derive(Debug)]
pub struct Waiting<F: Fn() -> Fingerprint> {
    ticket: Option<Ticket>,
    fingerprint: F,
    repeats: Repeats,
}

impl<F: Fn() -> Fingerprint> Waiting<F> {
    /// The fingerprint is computed only if it is needed.
    pub fn new(ticket: Ticket, fingerprint: F, repeats: Repeats) -> Waiting<F> {
        Waiting { ticket: Some(ticket), fingerprint, repeats }
    }

    /// The record's ticket.
    pub fn ticket(&mut self) -> &mut Ticket {
        self.ticket.as_mut().expect("it is taken only by answering")
    }

    /// The upstream is told.
    pub fn answered(mut self) {
        self.ticket = None;
    }
}

impl<F: Fn() -> Fingerprint> Drop for Waiting<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && !ticket.withdraw()
        {
            self.repeats.adopt((self.fingerprint)(), ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::wal::directory::Directory;
    use crate::wal::record::{Content, Counts, Kind, NewRecord, TimeRange};
    use crate::wal::{Appender, Log, Observer, Opened, Options};

    struct Silent;

    impl Observer for Silent {
        fn synced(&self, _: Duration, _: usize) {}
    }

    fn open(dir: &Path) -> Opened {
        let options = Options::new(1 << 20, 8 << 20);
        Log::open(Directory::open(dir).unwrap(), options, &[], Arc::new(Silent)).unwrap()
    }

    /// A record that the writer has taken, and its request's fingerprint.
    fn taken(appender: &Appender, body: &'static [u8]) -> (Ticket, Fingerprint) {
        let content = Content {
            kind: Kind::Write1,
            flags: 0,
            counts: Counts::default(),
            times: TimeRange::EMPTY,
            decoded_len: 1,
        };
        let meta = Meta::default();
        loop {
            let record = NewRecord::new(content, &meta, Bytes::from_static(body), 0);
            let ticket = appender.append(record, Box::new(()));
            let patience = std::time::Instant::now();
            while patience.elapsed() < Duration::from_millis(20) {
                std::thread::yield_now();
            }
            if !ticket.withdraw() {
                return (ticket, Fingerprint::of(Protocol::V1, &meta, body));
            }
        }
    }

    #[tokio::test]
    async fn what_became_durable_after_its_upstream_had_gone_is_known_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { appender, .. } = open(dir.path());
        let repeats = Repeats::default();
        assert!(repeats.is_empty());

        let (ticket, answered) = taken(&appender, b"answered");
        let mut waiting = Waiting::new(ticket, move || answered, repeats.clone());
        waiting.ticket().outcome().await.unwrap();
        waiting.answered();
        assert!(repeats.is_empty(), "who was answered does not repeat");

        let (ticket, gone) = taken(&appender, b"gone");
        drop(Waiting::new(ticket, move || gone, repeats.clone()));
        assert!(!repeats.is_empty());
        assert!(repeats.is_durable(gone).await, "it waits for the result");
        assert!(repeats.is_durable(gone).await);
        assert!(!repeats.is_durable(answered).await);
    }

    #[tokio::test]
    async fn what_was_withdrawn_or_failed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { log, appender, .. } = open(dir.path());
        let repeats = Repeats::default();
        let fingerprint = Fingerprint::of(Protocol::V1, &Meta::default(), b"x");
        // Larger than a segment: it fails without being taken, and cannot be withdrawn from there.
        let content = Content {
            kind: Kind::Write1,
            flags: 0,
            counts: Counts::default(),
            times: TimeRange::EMPTY,
            decoded_len: 1,
        };
        let record = NewRecord::new(content, &Meta::default(), Bytes::from(vec![0; 2 << 20]), 0);
        let mut waiting = Waiting::new(appender.append(record, Box::new(())), move || fingerprint, repeats.clone());
        assert!(waiting.ticket().outcome().await.is_err());
        drop(waiting);
        assert!(!repeats.is_durable(fingerprint).await);
        assert_eq!(log.readable().mark.position.0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_forgotten_after_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { appender, .. } = open(dir.path());
        let repeats = Repeats::default();
        let (ticket, gone) = taken(&appender, b"gone");
        drop(Waiting::new(ticket, move || gone, repeats.clone()));
        assert!(repeats.is_durable(gone).await);
        tokio::time::sleep(REMEMBERED_FOR + Duration::from_secs(1)).await;
        assert!(!repeats.is_durable(gone).await);
        assert!(repeats.is_empty());
    }

    #[test]
    fn the_same_is_said_of_everything_that_makes_a_request() {
        let meta = Meta { forwarded: vec![("a".into(), b"b".to_vec())], sender: Some([127, 0, 0, 1].into()) };
        let fingerprint = Fingerprint::of(Protocol::V1, &meta, b"body");
        assert_eq!(fingerprint, Fingerprint::of(Protocol::V1, &meta.clone(), b"body"));
        let other_sender = Meta { sender: Some([127, 0, 0, 2].into()), ..meta.clone() };
        let other_tenant = Meta { forwarded: vec![("a".into(), b"c".to_vec())], ..meta.clone() };
        for other in [
            Fingerprint::of(Protocol::V2, &meta, b"body"),
            Fingerprint::of(Protocol::V1, &other_sender, b"body"),
            Fingerprint::of(Protocol::V1, &other_tenant, b"body"),
            Fingerprint::of(Protocol::V1, &meta, b"bodY"),
        ] {
            assert_ne!(fingerprint, other);
        }
    }
}
