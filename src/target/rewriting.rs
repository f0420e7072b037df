//! A target's rules (`write_relabel_configs`, `external_labels`), applied to records as they are read.
//!
//! ```text
//!   record ---> no rules ----------------------------------------------> Outgoing: as it was stored
//!          '--> decompress, relabel each series --> nothing changed ---'
//!                                              '--> compress -----------> Outgoing: what is left, and how much was filtered
//! ```
//!
//! So what comes behind knows each series by the labels that the target will see: two inputs that a rule makes one stay in order.
//!
//! The rules run once for each series, as long as the cache remembers it (`relabel`); metadata of 1.0 is passed on as it is, as Prometheus does.

use bytes::Bytes;

use super::negotiation::protocol_of;
use super::outgoing::Outgoing;
use super::request::BodyError;
use crate::protocol::rewrite::{Verdict, rewrite};
use crate::protocol::snappy::{self, Compressor};
use crate::relabel::{self, Label, Merged, Relabeler, Rules};
use crate::wal::Record;
use crate::wal::record::Counts;

/// Bytes that a target's cache of series takes at most: for 229,000 series of which the labels stay or change alike rules are run once, for twice as
/// many now and then, beyond that each time (24 bytes a series, 3/4 full, 7/8 of one of two generations).
const CACHE_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub struct Rewriting {
    /// `None`: there are no rules.
    relabeler: Option<Relabeler>,
    /// Memory for a decompressed request.
    message: Vec<u8>,
    compressor: Compressor,
}

/// A record that cannot be rewritten: what was stored is not what was received.
#[derive(Debug, thiserror::Error)]
#[error("a record cannot be relabeled")]
pub struct NotRewritten {
    /// As it was stored; none of it may be sent as it is.
    pub record: Box<Record>,
    /// Why.
    #[source]
    pub error: BodyError,
}

impl Rewriting {
    /// With these rules.
    #[must_use]
    pub fn new(rules: &Rules) -> Rewriting {
        let relabeler = (!rules.is_empty()).then(|| Relabeler::new(rules.clone(), CACHE_BYTES));
        Rewriting { relabeler, message: Vec::new(), compressor: Compressor::new() }
    }

    /// What the target is to be sent of a record.
    ///
    /// # Errors
    /// [`NotRewritten`].
    pub fn outgoing(&mut self, record: Record) -> Result<Outgoing, NotRewritten> {
        let Some(relabeler) = &mut self.relabeler else { return Ok(Outgoing::whole(record)) };
        match relabeled(relabeler, &record, &mut self.message, &mut self.compressor) {
            Ok(Some((body, decoded_len, counts))) => Ok(Outgoing::rewritten(record, body, decoded_len, counts)),
            Ok(None) => Ok(Outgoing::whole(record)),
            Err(error) => Err(NotRewritten { record: Box::new(record), error }),
        }
    }
}

/// Body, length of the message and counts of what the rules leave of a record; `None` if they change nothing.
fn relabeled(
    relabeler: &mut Relabeler,
    record: &Record,
    message: &mut Vec<u8>,
    compressor: &mut Compressor,
) -> Result<Option<(Bytes, u32, Counts)>, BodyError> {
    let protocol = protocol_of(record.header.kind);
    snappy::decompress_into(&record.body, record.header.decoded_len, message)?;
    let mut sorted: Vec<Label<'_>> = Vec::new();
    let rewritten = rewrite(protocol, message, |series, sink| {
        if series.unreadable.is_some() {
            return Verdict::Drop;
        }
        let key = match series.encoded {
            Some(encoded) => relabeler.key_of_encoded(encoded),
            None => relabeler.key_of(series.labels),
        };
        if is_canonical(series.labels) {
            return match relabeler.relabel(key, || series.labels) {
                relabel::Verdict::Dropped => Verdict::Drop,
                relabel::Verdict::Unchanged => Verdict::Keep,
                relabel::Verdict::Changed(change) => {
                    change.merge(series.labels, |merged| match merged {
                        Merged::Kept(n) => sink.keep(n),
                        Merged::Set(name, value) => sink.label(name, value),
                    });
                    Verdict::Relabel
                }
            };
        }
        // Of a log from before requests were sorted when they are received.
        sorted.clear();
        sorted.extend(series.labels.iter().filter(|(_, value)| !value.is_empty()));
        sorted.sort_unstable();
        match relabeler.relabel(key, || &*sorted) {
            relabel::Verdict::Dropped => return Verdict::Drop,
            relabel::Verdict::Unchanged => sorted.iter().for_each(|(name, value)| sink.label(name, value)),
            relabel::Verdict::Changed(change) => change.merge(&sorted, |merged| match merged {
                Merged::Kept(n) => sink.label(sorted[n].0, sorted[n].1),
                Merged::Set(name, value) => sink.label(name, value),
            }),
        }
        Verdict::Relabel
    })?;
    if !rewritten.is_changed {
        return Ok(None);
    }
    let (before, dropped) = (record.header.counts, rewritten.dropped);
    let less = |before: u32, dropped: u64| before.saturating_sub(u32::try_from(dropped).unwrap_or(u32::MAX));
    let counts = Counts {
        samples: less(before.samples, dropped.samples),
        histograms: less(before.histograms, dropped.histograms),
        exemplars: less(before.exemplars, dropped.exemplars),
        series: less(before.series, dropped.series),
        metadata: before.metadata,
    };
    // (In 2.0 an empty table of symbols is left.)
    let message = if counts.series == 0 && counts.metadata == 0 { &[][..] } else { &rewritten.message };
    let decoded_len = u32::try_from(message.len()).map_err(|_| snappy::SnappyError::BlockTooLarge { len: u64::MAX })?;
    Ok(Some((compressor.compress(message)?.into(), decoded_len, counts)))
}

fn is_canonical(labels: &[Label<'_>]) -> bool {
    labels.iter().all(|(_, value)| !value.is_empty()) && labels.is_sorted_by(|one, next| one.0 < next.0)
}
