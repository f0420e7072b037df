//! From what an attempt carries to the bytes of its request.
//!
//! | carried | bytes |
//! |---|---|
//! | one whole record | as it was stored |
//! | several whole records, 1.0 | their snappy streams one behind the other, nothing is decompressed |
//! | several whole records, 2.0 | one rebuilt table of symbols (`V2-68`), the rest copied |
//! | some entries of a record | those, copied out of the decompressed message |
//! | nothing | an empty message: a question |

use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Chosen, Contents, Entries, EntryFacts};
use super::negotiation::protocol_of;
use super::outgoing::Outgoing;
use crate::protocol::rebuild::{self, Selection, rebuild};
use crate::protocol::snappy::{self, SnappyError};
use crate::protocol::{Malformed, Protocol, describe, entries};
use crate::wal::record::Kind;

/// What was stored cannot be taken apart. It was once, when it was received, so this is a mistake of ours.
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

/// The body of a request with these parts.
///
/// # Errors
/// [`BodyError`].
pub fn body(kind: Kind, parts: &[(Arc<Outgoing>, Chosen)]) -> Result<Bytes, BodyError> {
    let protocol = protocol_of(kind);
    if let [(record, Chosen::All)] = parts {
        return Ok(record.body.clone());
    }
    let is_whole = parts.iter().all(|(_, chosen)| *chosen == Chosen::All);
    if is_whole && protocol == Protocol::V1 && !parts.is_empty() {
        let bodies: Vec<&Bytes> = parts.iter().map(|(record, _)| &record.body).collect();
        return Ok(snappy::merge(&bodies)?.into());
    }
    let messages = parts.iter().map(|(record, _)| decompress(record)).collect::<Result<Vec<_>, _>>()?;
    let selections: Vec<Selection<'_>> = messages
        .iter()
        .zip(parts)
        .map(|(message, (_, chosen))| Selection {
            message,
            entries: match chosen {
                Chosen::All => rebuild::Chosen::All,
                Chosen::Range(range) => rebuild::Chosen::Range(range.clone()),
                Chosen::Listed(list, range) => rebuild::Chosen::Listed(&list[range.clone()]),
            },
        })
        .collect();
    let message = if selections.is_empty() { Vec::new() } else { rebuild(protocol, &selections)?.message };
    Ok(snappy::compress(&message)?.into())
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
