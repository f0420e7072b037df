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

use super::messages::Messages;
use super::negotiation::protocol_of;
use super::outgoing::Outgoing;
use super::request::BodyError;
use crate::protocol::Offences;
use crate::protocol::canonical::canonicalise;
use crate::protocol::rewrite::{Verdict, rewrite};
use crate::protocol::snappy::{Compressor, SnappyError};
use crate::relabel::{self, Merged, Relabeler, Rules};
use crate::wal::Record;
use crate::wal::record::{Counts, Header};

/// Bytes that a target's cache of series takes at most: for 250,000 series of which the labels stay or change alike rules are run once, for twice as
/// many now and then, beyond that each time (29 bytes a series, 7/8 of one of two generations).
const CACHE_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub struct Rewriting {
    /// `None`: there are no rules.
    relabeler: Option<Relabeler>,
    messages: Messages,
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
        Rewriting { relabeler, messages: Messages::default(), compressor: Compressor::new() }
    }

    /// Gives back the memory that is kept from one record to the next.
    pub fn rest(&mut self) {
        self.messages = Messages::default();
    }

    /// What the target is to be sent of a record.
    ///
    /// # Errors
    /// [`NotRewritten`].
    pub fn outgoing(&mut self, record: Record) -> Result<Outgoing, NotRewritten> {
        let Some(relabeler) = &mut self.relabeler else { return Ok(Outgoing::whole(record)) };
        let relabeled = relabeled(relabeler, &record, &mut self.messages, &mut self.compressor);
        self.messages.give_back();
        match relabeled {
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
    messages: &mut Messages,
    compressor: &mut Compressor,
) -> Result<Option<(Bytes, u32, Counts)>, BodyError> {
    let protocol = protocol_of(record.header.kind);
    let sorted;
    let message = match messages.of([record].into_iter())?[0] {
        // Of a log from before requests were put in order when they are received.
        message if record.header.flags & Header::FLAG_UNSORTED != 0 => {
            sorted = canonicalise(protocol, message, &Offences::default())?.message;
            &sorted
        }
        message => message,
    };
    let rewritten = rewrite(protocol, message, |series, sink| {
        if series.unreadable.is_some() {
            return Verdict::Drop;
        }
        let key = match series.encoded {
            Some(encoded) => relabeler.key_of_encoded(encoded),
            None => relabeler.key_of(series.labels),
        };
        match relabeler.relabel(key, || series.labels) {
            relabel::Verdict::Dropped => Verdict::Drop,
            relabel::Verdict::Unchanged => Verdict::Keep,
            relabel::Verdict::Changed(change) => {
                change.merge(series.labels, |merged| match merged {
                    Merged::Kept(numbers) => sink.keep(numbers),
                    Merged::Set(name, value) => sink.label(name, value),
                });
                Verdict::Relabel
            }
        }
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
    let too_large = |_| SnappyError::BlockTooLarge { len: message.len() as u64 };
    let decoded_len = u32::try_from(message.len()).map_err(too_large)?;
    let body = compressor.compress(message)?;
    // (Rules may make it larger, and what does not compress has some bytes more.)
    u32::try_from(body.len()).map_err(too_large)?;
    Ok(Some((body.into(), decoded_len, counts)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;
    use crate::protocol::messages::v1 as pb1;
    use crate::protocol::snappy;
    use crate::relabel::RelabelConfig;
    use crate::target::outgoing::testing;
    use crate::wal::record::Kind;

    fn series(labels: &[(&str, &str)]) -> pb1::TimeSeries {
        let label = |(name, value): &(&str, &str)| pb1::Label { name: (*name).into(), value: (*value).into() };
        let samples = vec![pb1::Sample { value: 1.0, timestamp: 2 }];
        pb1::TimeSeries { labels: labels.iter().map(label).collect(), samples, ..Default::default() }
    }

    fn record(timeseries: Vec<pb1::TimeSeries>, flags: u8) -> Record {
        let samples = timeseries.len() as u32;
        let message = pb1::WriteRequest { timeseries, ..Default::default() }.encode_to_vec();
        let counts = Counts { samples, series: samples, ..Counts::default() };
        let mut record = testing::record(Kind::Write1, &message, counts);
        record.header.flags = flags;
        record
    }

    fn rewriting(external: &[(&str, &str)], dropped: &str) -> Rewriting {
        let external: BTreeMap<_, _> = external.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let rule = RelabelConfig {
            source_labels: Some(vec!["__name__".into()]),
            regex: Some(dropped.into()),
            action: crate::relabel::Action::Drop,
            ..RelabelConfig::default()
        };
        Rewriting::new(&Rules::new(&external, &[rule]).unwrap())
    }

    fn sent(outgoing: &Outgoing) -> Vec<pb1::TimeSeries> {
        let message = snappy::decompress(&outgoing.body, outgoing.header.decoded_len).unwrap();
        pb1::WriteRequest::decode(&*message).unwrap().timeseries
    }

    #[test]
    fn what_is_filtered_is_counted_and_the_marks_stay_those_of_the_record() {
        let all = vec![series(&[("__name__", "up")]), series(&[("__name__", "go_gc")]), series(&[("__name__", "up2")])];
        let outgoing = rewriting(&[], "go_.*").outgoing(record(all.clone(), 0)).unwrap();
        assert_eq!(sent(&outgoing), [all[0].clone(), all[2].clone()]);
        assert_eq!((outgoing.filtered(), outgoing.header.counts.samples, outgoing.is_empty()), (1, 2, false));
        assert_eq!((outgoing.before().total, outgoing.mark().total), (997, 1000));
        let nothing = rewriting(&[], ".*").outgoing(record(all, 0)).unwrap();
        assert_eq!((nothing.filtered(), nothing.is_empty(), nothing.before().total), (3, true, 997));
    }

    #[test]
    fn what_rules_do_not_change_is_sent_as_it_was_stored() {
        let before = record(vec![series(&[("__name__", "up"), ("job", "a")])], 0);
        let body = before.body.clone();
        assert_eq!(rewriting(&[], "go_.*").outgoing(before).unwrap().body, body);
    }

    #[test]
    fn rules_see_the_labels_in_order_also_where_an_old_log_has_not() {
        let unsorted = vec![series(&[("job", "a"), ("empty", ""), ("__name__", "up")])];
        let outgoing = rewriting(&[("b", "c")], "go_.*").outgoing(record(unsorted, Header::FLAG_UNSORTED)).unwrap();
        assert_eq!(sent(&outgoing), [series(&[("__name__", "up"), ("b", "c"), ("job", "a")])]);
    }

    #[test]
    fn what_cannot_be_read_is_not_sent_as_it_is() {
        let mut broken = record(vec![series(&[("__name__", "secret")])], 0);
        broken.body = Bytes::from_static(b"\x05\x10abcde");
        assert!(rewriting(&[], "secret").outgoing(broken).is_err());
    }
}
