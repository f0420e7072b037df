//! The log of a simulation: records as a test writes them down, and as the delivery reads them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::target::batch::{Contents, Entries, EntryFacts};
use crate::target::outgoing::Outgoing;
use crate::wal::record::{Counts, Header, Kind, Meta, TimeRange};
use crate::wal::{Mark, Place, Position, Record, SegmentId};

/// The wall clock when the simulation begins.
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

fn sender(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

/// One entry of a fake record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub series: u64,
    pub floats: u32,
    pub histograms: u32,
    /// Its histograms have no place in 1.0.
    pub is_custom: bool,
}

impl Entry {
    pub fn samples(self) -> u64 {
        u64::from(self.floats) + u64::from(self.histograms)
    }
}

/// An entry, by its record's position and its number.
pub(super) type EntryId = (u64, u32);

/// A series of a tenant.
pub(super) type Key = (u8, u64);

/// A record as a test writes it down.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    pub entries: Vec<Entry>,
    pub tenant: u8,
    pub sender: u8,
    pub kind: Kind,
    /// Samples that the target's rules have taken out.
    pub filtered: u32,
    /// Nobody can look into it.
    pub is_opaque: bool,
    /// When it can be read.
    pub at: Duration,
    /// How old its samples are then.
    pub age: Duration,
}

impl Fake {
    pub fn of(series: impl IntoIterator<Item = u64>) -> Fake {
        let entries =
            series.into_iter().map(|series| Entry { series, floats: 1, histograms: 0, is_custom: false }).collect();
        Fake {
            entries,
            tenant: 0,
            sender: 1,
            kind: Kind::Write1,
            filtered: 0,
            is_opaque: false,
            at: Duration::ZERO,
            age: Duration::ZERO,
        }
    }

    pub fn at(self, at: Duration) -> Fake {
        Fake { at, ..self }
    }

    pub fn aged(self, age: Duration) -> Fake {
        Fake { age, ..self }
    }

    pub fn from(self, sender: u8) -> Fake {
        Fake { sender, ..self }
    }

    pub fn tenant(self, tenant: u8) -> Fake {
        Fake { tenant, ..self }
    }
}

#[derive(Debug, Default)]
pub(super) struct FakeLog {
    pub fakes: Vec<Fake>,
    pub records: Vec<Arc<Outgoing>>,
}

impl FakeLog {
    pub fn new(fakes: Vec<Fake>) -> FakeLog {
        let mut total = 0;
        let records = fakes
            .iter()
            .zip(1u64..)
            .map(|(fake, position)| {
                let sum = |of: fn(&Entry) -> u32| fake.entries.iter().map(of).sum::<u32>();
                let (samples, histograms) = (sum(|entry| entry.floats), sum(|entry| entry.histograms));
                total += u64::from(samples) + u64::from(histograms) + u64::from(fake.filtered);
                let series = fake.entries.len() as u32;
                let left = Counts { samples, histograms, exemplars: 0, series, metadata: 0 };
                let bytes = 40 + 60 * fake.entries.len() as u32;
                let received_ms = EPOCH_MS + fake.at.as_millis() as i64;
                let sample_ms = received_ms - fake.age.as_millis() as i64;
                let forwarded = match fake.tenant {
                    0 => Vec::new(),
                    tenant => vec![("x-scope-orgid".to_owned(), vec![tenant])],
                };
                let record = Record {
                    header: Header {
                        kind: fake.kind,
                        flags: 0,
                        position: Position(position),
                        total,
                        body_len: bytes,
                        meta_len: 0,
                        body_crc: 0,
                        received_ms,
                        counts: Counts { samples: samples + fake.filtered, ..left },
                        times: TimeRange { min: sample_ms, max: sample_ms },
                        unacknowledged: 0,
                        decoded_len: 2 * bytes,
                    },
                    meta: Meta { forwarded, sender: Some(sender(fake.sender)) },
                    body: bytes::Bytes::new(),
                    next: Place { segment: SegmentId(1), offset: position * 1024 },
                };
                let decoded_len = if series == 0 { 0 } else { 2 * bytes };
                Arc::new(Outgoing::rewritten(record, vec![0; bytes as usize].into(), decoded_len, left))
            })
            .collect();
        FakeLog { fakes, records }
    }

    pub fn fake(&self, position: u64) -> &Fake {
        &self.fakes[position as usize - 1]
    }

    pub fn end(&self) -> u64 {
        self.fakes.len() as u64
    }

    pub fn mark(&self, position: u64) -> Mark {
        if position == 0 { Mark::default() } else { self.records[position as usize - 1].mark() }
    }

    pub fn entry(&self, (position, number): EntryId) -> Entry {
        self.fake(position).entries[number as usize]
    }

    pub fn key(&self, id: EntryId) -> Key {
        (self.fake(id.0).tenant, self.entry(id).series)
    }

    pub fn total(&self) -> u64 {
        self.mark(self.end()).total
    }
}

impl Contents for FakeLog {
    fn entries(&self, record: &Outgoing) -> Entries {
        let fake = self.fake(record.header.position.0);
        let facts = |e: &Entry| EntryFacts { series: e.series, samples: e.floats, histograms: e.histograms };
        (!fake.is_opaque).then(|| fake.entries.iter().map(facts).collect())
    }
}
