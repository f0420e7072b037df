//! From what an attempt carries to the bytes of its request: a message, compressed (`V1-01`, `V2-01`), of several series (`V2-39`).
//!
//! | carried | bytes |
//! |---|---|
//! | one whole record | as it was stored; as several, if it has exemplars in series of their own and the target refuses those |
//! | several whole records, 1.0 | their snappy streams one behind the other, nothing is decompressed |
//! | several whole records, 2.0 | one rebuilt table of symbols (`V2-68`), the rest copied |
//! | some entries of a record | those, copied out of the decompressed message |
//! | anything, for a target of the other protocol | translated; what has no place there is counted |
//! | nothing | an empty message: a question |

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::batch::{Chosen, Contents, Entries, EntryFacts, Samples};
use super::delivery::{Said, headers_of};
use super::lone_exemplars::{LoneExemplars, Refusal};
use super::messages::Messages;
use super::negotiation::{other_than, protocol_of};
use super::outgoing::Outgoing;
use crate::metrics::UNTRANSLATED;
use crate::protocol::exemplars::{self, Hostless};
use crate::protocol::rebuild::rebuild;
use crate::protocol::selection::{self, Selection};
use crate::protocol::snappy::{self, Compressor, SnappyError};
use crate::protocol::translate::{CustomBuckets, CustomSeries, KnownMetadata, SentMetadata, Taught, to_1, to_2};
use crate::protocol::{Malformed, Protocol, describe, entries};
use crate::wal::record::{Header, Kind};

/// Bytes of what is known of series with custom buckets, for a target of 1.0: of some 60,000 at least, and twice as many at most.
const CUSTOM_SERIES_BYTES_MAX: usize = 8 << 20;

/// What was stored cannot be taken apart: it was once, when it was received, so this is a mistake of ours. Or several records together are too large when they
/// are written out.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its compression.
    #[error(transparent)]
    Snappy(#[from] SnappyError),
    /// Its message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

fn decompress(record: &Outgoing) -> Result<Vec<u8>, SnappyError> {
    // It was checked against the limits when it was received.
    snappy::decompress(&record.body, record.header.decoded_len)
}

/// A request, ready to be sent.
#[derive(Debug, Default)]
pub struct Built {
    /// As it goes over the wire.
    pub body: Bytes,
    /// There is nothing to send in it.
    pub is_empty: bool,
    /// Samples and histograms in it.
    pub samples: Samples,
    /// Samples of each part that are not in it, because the protocol has no place for them. Empty: none.
    pub left_out: Vec<u64>,
    /// What else was left out, in the order of [`crate::metrics::UNTRANSLATED`].
    pub untranslated: [u64; UNTRANSLATED.len()],
    /// It tells of metadata.
    pub has_metadata: bool,
    /// Exemplars are in series of their own, and the target may refuse them: for [`Requests::answered`].
    pub has_lone_exemplars: bool,
    /// For [`Requests::learn`].
    pub taught: Taught,
}

/// Writes requests for a target, and remembers what it has been told of metadata, and which series have custom buckets.
#[derive(Debug)]
pub struct Requests {
    /// Series that a target of 1.0 does not have as they are.
    custom_series: CustomSeries,
    /// What a target of 1.0 was told.
    sent_metadata: SentMetadata,
    /// What is known for a target of 2.0.
    known_metadata: KnownMetadata,
    lone_exemplars: LoneExemplars,
    messages: Messages,
    compressor: Compressor,
}

impl Requests {
    /// For a target that is told everything anew.
    #[must_use]
    pub fn new(custom_buckets: CustomBuckets) -> Requests {
        Requests {
            custom_series: CustomSeries::with_bytes_max(custom_buckets, CUSTOM_SERIES_BYTES_MAX),
            sent_metadata: SentMetadata::default(),
            known_metadata: KnownMetadata::default(),
            lone_exemplars: LoneExemplars::default(),
            messages: Messages::default(),
            compressor: Compressor::new(),
        }
    }

    /// Gives back the memory that is kept from one request to the next.
    pub fn rest(&mut self) {
        self.messages = Messages::default();
    }

    /// What the target was told of metadata may not have come there.
    pub fn forget_metadata(&mut self) {
        self.sent_metadata.forget();
    }

    /// A request was taken by the target, or nothing in it was to be sent. (One that was not will be built again: it has to come out as
    /// it did.)
    pub fn learn(&mut self, taught: Taught) {
        self.custom_series.learn(taught);
    }

    /// What the target said to a request with lone exemplars, and whether it refuses them.
    pub fn answered(&mut self, said: &Said, now: Instant) -> Refusal {
        self.lone_exemplars.answered(said.status, &said.text, now)
    }

    /// A request with these parts, which go with these headers, in this protocol. `samples` are in them.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn build(
        &mut self,
        kind: Kind,
        protocol: Protocol,
        forwarded: &[(String, Vec<u8>)],
        parts: &[(Arc<Outgoing>, Chosen)],
        samples: Samples,
        now: Instant,
    ) -> Result<Built, BodyError> {
        if parts.is_empty() {
            return Ok(Built { body: snappy::compress(&[])?.into(), ..Built::default() });
        }
        if parts.iter().all(|(record, _)| record.is_empty()) {
            return Ok(Built { is_empty: true, ..Built::default() });
        }
        // (Both are of the same self.)
        let mut messages = std::mem::take(&mut self.messages);
        let built = if protocol == protocol_of(kind) {
            let built = as_received(kind, parts, self.hostless(now), &mut messages);
            built.map(|built| Built { samples, ..built })
        } else {
            let selections = selections(&mut messages, parts);
            selections.and_then(|selections| self.translated(protocol, &selections, forwarded, now))
        };
        messages.give_back();
        self.messages = messages;
        built
    }

    /// What becomes of exemplars without a sample of their series in the same request.
    fn hostless(&self, now: Instant) -> Hostless {
        if self.lone_exemplars.are_refused(now) { Hostless::LeftOut } else { Hostless::Kept }
    }

    /// A request that was kept, in the protocol in which it was received; its samples are for the caller to say.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn again(&self, protocol: Protocol, body: &Bytes, now: Instant) -> Result<Built, BodyError> {
        if protocol == Protocol::V1 || self.hostless(now) == Hostless::Kept {
            return Ok(Built { body: body.clone(), ..Built::default() });
        }
        let message = snappy::decompress(body, u32::MAX)?;
        rebuilt(protocol, &[Selection { message: &message, entries: selection::Chosen::All }], Hostless::LeftOut)
    }

    /// The same of a request that was kept, in the other protocol.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn translate(
        &mut self,
        received: Protocol,
        body: &Bytes,
        forwarded: &[(String, Vec<u8>)],
        now: Instant,
    ) -> Result<Built, BodyError> {
        let message = snappy::decompress(body, u32::MAX)?;
        let selection = [Selection { message: &message, entries: selection::Chosen::All }];
        let built = self.translated(other_than(received), &selection, forwarded, now)?;
        // It is out of order: what it says need not be so any more.
        Ok(Built { taught: Taught::default(), ..built })
    }

    /// Some entries of requests in the protocol in which they were not received.
    fn translated(
        &mut self,
        to: Protocol,
        selections: &[Selection<'_>],
        forwarded: &[(String, Vec<u8>)],
        now: Instant,
    ) -> Result<Built, BodyError> {
        let translated = match to {
            Protocol::V1 => {
                let from = headers_of(forwarded);
                let translated = to_1(selections, &self.custom_series, from, &mut self.sent_metadata, now);
                // What was put into a request that is none was not told.
                translated.inspect_err(|_| self.sent_metadata.forget())?
            }
            Protocol::V2 => {
                let hostless = self.hostless(now);
                to_2(selections, &mut self.known_metadata, hostless)?
            }
        };
        let dropped = translated.dropped.iter().sum();
        Ok(Built {
            is_empty: translated.is_empty(),
            samples: Samples { floats: translated.sent.samples, histograms: translated.sent.histograms },
            untranslated: [translated.exemplars, translated.start_timestamps, dropped],
            has_metadata: translated.metadata > 0,
            has_lone_exemplars: translated.has_lone_exemplars,
            body: self.compressor.compress(&translated.message)?.into(),
            left_out: if dropped > 0 { translated.dropped } else { Vec::new() },
            taught: translated.taught,
        })
    }
}

/// A request with these parts in the protocol in which they were received; its samples are for the caller to say.
///
/// # Errors
/// [`BodyError`].
pub fn as_received(
    kind: Kind,
    parts: &[(Arc<Outgoing>, Chosen)],
    hostless: Hostless,
    messages: &mut Messages,
) -> Result<Built, BodyError> {
    let protocol = protocol_of(kind);
    let of_body = |body: Bytes| Built { body, ..Built::default() };
    if let [(record, Chosen::All)] = parts {
        let has_lone_exemplars = record.header.flags & Header::FLAG_LONE_EXEMPLARS != 0;
        if !has_lone_exemplars || hostless == Hostless::Kept {
            return Ok(Built { has_lone_exemplars, ..of_body(record.body.clone()) });
        }
    }
    let is_whole = parts.iter().all(|(_, chosen)| *chosen == Chosen::All);
    if is_whole && protocol == Protocol::V1 {
        let bodies: Vec<&Bytes> = parts.iter().map(|(record, _)| &record.body).collect();
        return Ok(of_body(snappy::merge(&bodies)?.into()));
    }
    rebuilt(protocol, &selections(messages, parts)?, hostless)
}

fn rebuilt(protocol: Protocol, selections: &[Selection<'_>], hostless: Hostless) -> Result<Built, BodyError> {
    let rebuilt = rebuild(protocol, selections, hostless)?;
    Ok(Built {
        body: snappy::compress(&rebuilt.message)?.into(),
        is_empty: rebuilt.is_empty,
        has_lone_exemplars: rebuilt.has_lone_exemplars,
        untranslated: [rebuilt.exemplars_left_out, 0, 0],
        ..Built::default()
    })
}

fn selections<'a>(
    messages: &'a mut Messages,
    parts: &'a [(Arc<Outgoing>, Chosen)],
) -> Result<Vec<Selection<'a>>, BodyError> {
    let selection = |(message, (_, chosen)): (&'a [u8], &'a (Arc<Outgoing>, Chosen))| Selection {
        message,
        entries: match chosen {
            Chosen::All => selection::Chosen::All,
            Chosen::Range(range) => selection::Chosen::Range(range.clone()),
            Chosen::Listed(list, range) => selection::Chosen::Listed(&list[range.clone()]),
        },
    };
    let messages = messages.of(parts.iter().map(|(record, _)| &***record))?;
    Ok(messages.into_iter().zip(parts).map(selection).collect())
}

/// How many exemplars of a request of 2.0, as it was sent, are in series of their own.
#[must_use]
pub fn lone_exemplars(body: &Bytes) -> u64 {
    let message = snappy::decompress(body, u32::MAX).unwrap_or_default();
    exemplars::count_lone(&message).unwrap_or_default()
}

/// The first series of what was refused, for people.
#[must_use]
pub fn describe(kind: Kind, record: &Outgoing, chosen: &Chosen) -> Option<String> {
    let message = decompress(record).ok()?;
    let first = match chosen {
        Chosen::All => 0,
        Chosen::Range(range) => range.start,
        Chosen::Listed(list, range) => *list.get(range.start)?,
    };
    describe::describe(protocol_of(kind), &message, usize::try_from(first).ok()?)
}

/// Looks into records as they were stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored;

impl Contents for Stored {
    fn entries(&self, record: &Outgoing) -> Entries {
        let message = decompress(record).ok()?;
        let found = entries::entries(protocol_of(record.header.kind), &message).ok()?;
        let facts = |entry: &entries::Entry| EntryFacts {
            series: entry.series,
            samples: entry.samples,
            histograms: entry.histograms,
        };
        Some(found.iter().map(facts).collect())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::protocol::messages::v2 as pb2;
    use crate::target::outgoing::testing::record;
    use crate::wal::record::Counts;

    /// 100 series with a label of 100 KB and metadata: 10 MB in 1.0.
    fn large() -> Arc<Outgoing> {
        let long = "x".repeat(100_000);
        let symbols = ["", "__name__", "up", "long", &long, "help"].map(str::to_owned).into();
        let series = pb2::TimeSeries {
            labels_refs: vec![1, 2, 3, 4],
            samples: vec![pb2::Sample { value: 1.0, timestamp: 2, start_timestamp: 0 }],
            metadata: Some(pb2::Metadata { r#type: 2, help_ref: 5, unit_ref: 0 }),
            ..Default::default()
        };
        let message = pb2::Request { symbols, timeseries: vec![series; 100] }.encode_to_vec();
        let counts = Counts { samples: 100, series: 100, ..Counts::default() };
        Arc::new(Outgoing::whole(record(Kind::Write2, &message, counts)))
    }

    #[test]
    fn a_target_was_told_nothing_by_a_request_that_could_not_be_put_together() {
        let mut requests = Requests::new(CustomBuckets::Drop);
        let mut build = |records: usize| {
            let parts = vec![(large(), Chosen::All); records];
            requests.build(Kind::Write2, Protocol::V1, &[], &parts, Samples::default(), Instant::now())
        };
        assert!(build(6).is_err(), "it is too large");
        assert!(build(1).unwrap().has_metadata);
        assert!(!build(1).unwrap().has_metadata, "it was told just now");
    }
}
