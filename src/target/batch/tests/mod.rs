//! Tests of batches. Here is how a batch is written down and drawn.

mod drawings;
mod operations;

use std::collections::HashSet;

use super::*;
use crate::wal::record::{Counts, Header, Kind, Meta, TimeRange};
use crate::wal::{Place, Record, SegmentId};

/// A record as a test writes it down: a letter for each entry's series; behind a `?`, if nobody can look into it.
#[derive(Clone, Debug)]
struct Fake {
    series: Vec<u64>,
    is_opaque: bool,
}

/// What records hold, by position.
#[derive(Clone, Debug)]
struct Fakes(Vec<Fake>);

/// An entry, by its record and its number. A record without any has one nevertheless, which stands for itself.
type Id = (usize, u32);

fn series(letter: char) -> u64 {
    u64::from(letter)
}

fn facts(series: u64, number: u32) -> EntryFacts {
    EntryFacts { series, samples: number % 3, histograms: u32::from(series.is_multiple_of(4)) }
}

impl Fake {
    fn of(text: &str) -> Fake {
        Fake { series: text.trim_start_matches('?').chars().map(series).collect(), is_opaque: text.starts_with('?') }
    }

    fn entries(&self) -> Vec<EntryFacts> {
        self.series.iter().zip(0..).map(|(series, number)| facts(*series, number)).collect()
    }

    fn sum(&self, of: fn(&EntryFacts) -> u32) -> u32 {
        self.entries().iter().map(of).sum()
    }
}

impl Fakes {
    fn of(texts: &[&str]) -> Fakes {
        Fakes(texts.iter().map(|text| Fake::of(text)).collect())
    }

    fn records(&self) -> Vec<Arc<Outgoing>> {
        let mut total = 0;
        let record = |(fake, position): (&Fake, u64)| {
            let (samples, histograms) = (fake.sum(|entry| entry.samples), fake.sum(|entry| entry.histograms));
            total += u64::from(samples) + u64::from(histograms);
            let series = fake.series.len() as u32;
            Arc::new(Outgoing::whole(Record {
                header: Header {
                    kind: Kind::Write1,
                    flags: 0,
                    position: Position(position),
                    total,
                    body_len: 40 + 60 * series,
                    meta_len: 0,
                    body_crc: 0,
                    received_ms: 0,
                    counts: Counts { samples, histograms, exemplars: 0, series, metadata: 0 },
                    times: TimeRange { min: 0, max: 0 },
                    unacknowledged: 0,
                    decoded_len: 100 * series,
                },
                meta: Meta { forwarded: Vec::new(), sender: None },
                body: bytes::Bytes::new(),
                next: Place { segment: SegmentId(1), offset: position * 1024 },
            }))
        };
        self.0.iter().zip(1..).map(record).collect()
    }

    fn batch(&self) -> Batch {
        Batch::new(self.records(), false)
    }

    fn ids(&self, part: &Part) -> Vec<Id> {
        let numbers = part.numbers(self.0[part.record].series.len().max(1));
        numbers.into_iter().map(|number| (part.record, number)).collect()
    }

    fn series(&self, (record, number): Id) -> Option<u64> {
        self.0[record].series.get(number as usize).copied()
    }

    fn samples(&self, (record, number): Id) -> u64 {
        let entry = self.series((record, number)).map(|series| facts(series, number));
        entry.map_or(0, |entry| u64::from(entry.samples) + u64::from(entry.histograms))
    }

    /// What is in each piece.
    fn pieces(&self, batch: &Batch) -> Vec<Vec<Id>> {
        batch.pieces.iter().map(|piece| piece.parts.iter().flat_map(|part| self.ids(part)).collect()).collect()
    }

    /// The pieces as letters, with a `|` between records.
    fn drawn(&self, batch: &Batch) -> String {
        let piece = |ids: &Vec<Id>| {
            let of_records = ids.chunk_by(|one, next| one.0 == next.0);
            let letter = |id: &Id| char::from(u8::try_from(self.series(*id).unwrap()).unwrap());
            let texts = of_records.map(|ids| match self.0[ids[0].0].is_opaque {
                true => "?".to_owned(),
                false => ids.iter().map(letter).collect(),
            });
            format!("[{}]", texts.collect::<Vec<_>>().join("|"))
        };
        self.pieces(batch).iter().map(piece).collect::<Vec<_>>().join(" ")
    }
}

impl Contents for Fakes {
    fn entries(&self, record: &Outgoing) -> Entries {
        let fake = &self.0[record.header.position.0 as usize - 1];
        (!fake.is_opaque).then(|| fake.entries().into())
    }
}

/// Everything of some series, whatever the record.
fn all_of(letters: &str, role: Role) -> impl Fn(&Outgoing, u64, bool) -> Role {
    let letters: HashSet<u64> = letters.chars().map(series).collect();
    move |_, series, _| if letters.contains(&series) { role } else { Role::Main }
}

fn roles(batch: &Batch) -> Vec<Role> {
    batch.pieces.iter().map(|piece| piece.role).collect()
}

/// Books the front piece as taken whole.
fn accept(batch: &mut Batch, fakes: &Fakes) {
    batch.has_settled = true;
    batch.book(0, Reason::Partial, fakes);
}

/// Books the front piece as refused whole.
fn refuse(batch: &mut Batch, fakes: &Fakes) {
    let samples = batch.front_samples(fakes).all();
    batch.book(samples, Reason::Status, fakes);
}
