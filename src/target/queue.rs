//! Records that were read and are in no batch yet, and which of them make the next one. Pure.
//!
//! One record is one request while the target keeps up. Behind, consecutive records of the same protocol and forwarded headers are merged,
//! up to the limits; a record is never cut for them. What a former life had cut is cut so again: a request that mixes
//! what the target has with what it has not would lose what is new (`V1` receivers take all or nothing).

use std::collections::VecDeque;
use std::sync::Arc;

use super::outgoing::Outgoing;
use crate::savepoint::Cut;
use crate::wal::Position;

/// What a batch may hold. One record may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Float samples and histograms.
    pub samples: u64,
    /// Bytes as sent.
    pub bytes: u64,
    /// Records.
    pub records: usize,
}

/// Records of a batch.
pub const RECORDS_MAX: usize = 2000;
/// Bytes of a batch once decompressed: receivers have limits of 32 MiB and more.
const DECODED_BYTES_MAX: u64 = 16 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    records: VecDeque<Arc<Outgoing>>,
    samples: u64,
    bytes: u64,
    decoded: u64,
    /// Cuts of a former life that are not passed yet, ascending.
    cuts: VecDeque<Cut>,
    /// Up to here a former life may have sent something, nobody knows in which cuts.
    unsure: Position,
}

impl Queue {
    /// What a former life left behind.
    pub fn resume(&mut self, cuts: impl IntoIterator<Item = Cut>, unsure: Position) {
        self.cuts = cuts.into_iter().collect();
        self.unsure = unsure;
    }

    /// A record was read.
    pub fn push(&mut self, record: Arc<Outgoing>) {
        self.samples += record.header.counts.ledger_samples();
        self.bytes += u64::from(record.header.body_len);
        self.decoded += u64::from(record.header.decoded_len);
        self.records.push_back(record);
    }

    /// Whether more can be made use of: the next batch is not full, or not as long as it was cut. (A cut is no longer than a batch may be, but for what
    /// many have become that a savepoint had no room for: of that so much is sent as fits.)
    #[must_use]
    pub fn has_room(&self, limits: Limits) -> bool {
        if let (Some(first), Some(last)) = (self.records.front(), self.records.back())
            && let Some(cut) = self.cut_of(first.header.position)
            && last.header.position < cut.last
        {
            return self.records.len() < RECORDS_MAX && self.decoded < DECODED_BYTES_MAX;
        }
        self.samples < limits.samples && self.bytes < limits.bytes && self.records.len() < limits.records
    }

    /// Whether nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes out the records at the front of which nothing is left: they need no request. (What a former life had cut stays together.)
    pub fn take_void(&mut self) -> Vec<Arc<Outgoing>> {
        let is_void = |record: &&Arc<Outgoing>| record.is_empty() && self.cut_of(record.header.position).is_none();
        let void = self.records.iter().take_while(is_void).count();
        self.take(void)
    }

    /// The oldest record.
    #[must_use]
    pub fn front(&self) -> Option<&Arc<Outgoing>> {
        self.records.front()
    }

    fn cut_of(&self, position: Position) -> Option<&Cut> {
        self.cuts.iter().find(|cut| cut.first <= position && position <= cut.last)
    }

    /// Whether a former life had cut what comes next.
    #[must_use]
    pub fn is_cut_before(&self) -> bool {
        self.records.front().is_some_and(|first| self.cut_of(first.header.position).is_some())
    }

    /// How many records the next batch has; whether it cannot grow any more. 0 of an empty queue. What `is_apart` and what is not is not merged. A record
    /// of which nothing is left goes with any.
    #[must_use]
    pub fn plan(&self, limits: Limits, is_apart: impl Fn(&Outgoing) -> bool) -> Plan {
        let Some(first) = self.records.front() else { return Plan::default() };
        let position = first.header.position;
        let cut = self.cut_of(position).copied();
        let is_unsure = cut.is_none() && position <= self.unsure;
        let mut plan = Plan {
            is_possibly_delivered: is_unsure || cut.is_some_and(|cut| cut.is_possibly_delivered),
            ..Plan::default()
        };
        let mut decoded = 0;
        // What goes with anything says nothing of what it goes with.
        let mut lead: Option<&Outgoing> = None;
        for (number, record) in self.records.iter().enumerate() {
            let header = &record.header;
            let samples = plan.samples + header.counts.ledger_samples();
            let bytes = plan.bytes + u64::from(header.body_len);
            decoded += u64::from(header.decoded_len);
            if number > 0 {
                let is_as_lead = |is_alike: &dyn Fn(&Outgoing) -> bool| record.is_empty() || lead.is_none_or(is_alike);
                let goes_on = header.position.0 == position.0 + number as u64
                    && is_as_lead(&|lead| {
                        header.kind == lead.header.kind && record.meta.forwarded == lead.meta.forwarded
                    });
                let fits = match &cut {
                    Some(cut) => header.position <= cut.last,
                    None => {
                        samples <= limits.samples
                            && bytes <= limits.bytes
                            && number < limits.records
                            && decoded <= DECODED_BYTES_MAX
                            && !is_unsure
                            && is_as_lead(&|lead| is_apart(record) == is_apart(lead))
                            && self.cut_of(header.position).is_none()
                    }
                };
                if !goes_on || !fits {
                    plan.is_full = true;
                    break;
                }
            }
            lead = lead.or((!record.is_empty()).then_some(record));
            (plan.records, plan.samples, plan.bytes) = (number + 1, samples, bytes);
        }
        // What was cut before is not cut anew.
        plan.is_full |= cut.is_some() || is_unsure;
        plan.is_full |= plan.samples >= limits.samples || plan.bytes >= limits.bytes || plan.records >= limits.records;
        plan
    }

    /// Takes the records of a plan out.
    pub fn take(&mut self, records: usize) -> Vec<Arc<Outgoing>> {
        let taken: Vec<_> = self.records.drain(..records).collect();
        for record in &taken {
            self.samples -= record.header.counts.ledger_samples();
            self.bytes -= u64::from(record.header.body_len);
            self.decoded -= u64::from(record.header.decoded_len);
        }
        if let Some(last) = taken.last() {
            self.cuts.retain(|cut| cut.last > last.header.position);
        }
        taken
    }

    /// Takes out those that nobody wants any more, wherever they stand. What a former life had cut stays together.
    pub fn take_out(&mut self, is_unwanted: impl Fn(&Outgoing) -> bool) -> Vec<Arc<Outgoing>> {
        if !self.records.iter().any(|record| is_unwanted(record)) {
            return Vec::new();
        }
        let cuts = &self.cuts;
        let is_cut = |position: Position| cuts.iter().any(|cut| cut.first <= position && position <= cut.last);
        let (out, kept): (Vec<_>, Vec<_>) =
            self.records.drain(..).partition(|record| is_unwanted(record) && !is_cut(record.header.position));
        self.records = kept.into();
        for record in &out {
            self.samples -= record.header.counts.ledger_samples();
            self.bytes -= u64::from(record.header.body_len);
            self.decoded -= u64::from(record.header.decoded_len);
        }
        out
    }

    /// They were taken, and nothing came of it.
    pub fn put_back(&mut self, records: Vec<Arc<Outgoing>>) {
        for record in records.into_iter().rev() {
            self.samples += record.header.counts.ledger_samples();
            self.bytes += u64::from(record.header.body_len);
            self.decoded += u64::from(record.header.decoded_len);
            self.records.push_front(record);
        }
    }

    /// Cuts that are still ahead, with the part of one that was begun: they belong into the savepoint as long as they are not passed.
    pub fn cuts(&self) -> impl Iterator<Item = &Cut> {
        self.cuts.iter()
    }
}

/// The next batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many records.
    pub records: usize,
    /// Float samples and histograms.
    pub samples: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// A former life may have sent it.
    pub is_possibly_delivered: bool,
    /// However many records come, it does not grow.
    pub is_full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::record::{Counts, Header, Kind, Meta, TimeRange};
    use crate::wal::{Place, Record, SegmentId};

    const SAMPLES: u32 = 10;
    const BYTES: u32 = 100;
    const NO_LIMITS: Limits = Limits { samples: u64::MAX, bytes: u64::MAX, records: usize::MAX };

    /// A letter for each record: capital for 2.0, else 1.0; `b` and `B` have forwarded headers, `h` is apart; of `e` and `E` nothing is left; a space for a
    /// position without one.
    fn queue(text: &str) -> Queue {
        let mut queue = Queue::default();
        for (letter, position) in text.chars().zip(1..).filter(|(letter, _)| *letter != ' ') {
            queue.push(Arc::new(record(letter, position)));
        }
        queue
    }

    fn record(letter: char, position: u64) -> Outgoing {
        let forwarded = match letter {
            'b' | 'B' => vec![("x-scope-orgid".to_owned(), b"b".to_vec())],
            _ => Vec::new(),
        };
        Outgoing::whole(Record {
            header: Header {
                kind: if letter.is_ascii_uppercase() { Kind::Write2 } else { Kind::Write1 },
                flags: 0,
                position: Position(position),
                total: position * u64::from(SAMPLES),
                body_len: BYTES,
                meta_len: 0,
                body_crc: 0,
                received_ms: 0,
                counts: Counts { samples: SAMPLES, histograms: 0, exemplars: 0, series: SAMPLES, metadata: 0 },
                times: TimeRange { min: 0, max: 0 },
                unacknowledged: 0,
                decoded_len: match letter {
                    'l' => 6 << 20,
                    'e' | 'E' => 0,
                    _ => 2 * BYTES,
                },
            },
            meta: Meta { forwarded, sender: None },
            body: bytes::Bytes::from(letter.to_string()),
            next: Place { segment: SegmentId(1), offset: position * 1024 },
        })
    }

    fn letter(record: &Outgoing) -> char {
        char::from(record.body[0])
    }

    /// The batches it makes, one behind the other; with a `?` if possibly delivered.
    fn batches(mut queue: Queue, limits: Limits) -> String {
        let mut drawn = Vec::new();
        while !queue.is_empty() {
            let plan = queue.plan(limits, |record| letter(record) == 'h');
            assert_eq!(plan.samples, plan.records as u64 * u64::from(SAMPLES));
            assert_eq!(plan.bytes, plan.records as u64 * u64::from(BYTES));
            let mark = if plan.is_possibly_delivered { "?" } else { "" };
            let taken = queue.take(plan.records);
            assert!(plan.is_full || queue.is_empty(), "what may grow takes all there is");
            drawn.push(taken.iter().map(|record| letter(record)).collect::<String>() + mark);
        }
        assert_eq!((queue.samples, queue.bytes), (0, 0));
        drawn.join("|")
    }

    fn cut(first: u64, last: u64, is_possibly_delivered: bool) -> Cut {
        Cut { first: Position(first), last: Position(last), is_possibly_delivered }
    }

    #[test]
    fn consecutive_records_are_merged_up_to_the_limits_and_one_may_be_more() {
        assert_eq!(batches(queue("aaaaa"), NO_LIMITS), "aaaaa");
        let (samples, bytes) = (u64::from(SAMPLES), u64::from(BYTES));
        assert_eq!(batches(queue("aaaaa"), Limits { samples: 2 * samples, ..NO_LIMITS }), "aa|aa|a");
        assert_eq!(batches(queue("aaaaa"), Limits { samples: 2 * samples - 1, ..NO_LIMITS }), "a|a|a|a|a");
        assert_eq!(batches(queue("aaaaa"), Limits { bytes: 3 * bytes + 1, ..NO_LIMITS }), "aaa|aa");
        assert_eq!(batches(queue("aaaaa"), Limits { records: 4, ..NO_LIMITS }), "aaaa|a");
        assert_eq!(batches(queue("aa"), Limits { samples: 1, bytes: 1, records: 1 }), "a|a");
        assert_eq!(batches(queue("lllll"), NO_LIMITS), "ll|ll|l", "12 MiB, once decompressed");
    }

    #[test]
    fn of_different_protocols_headers_or_senders_records_are_not_merged() {
        assert_eq!(batches(queue("aaAAaa"), NO_LIMITS), "aa|AA|aa");
        assert_eq!(batches(queue("aabba"), NO_LIMITS), "aa|bb|a");
        assert_eq!(batches(queue("ahhahA"), NO_LIMITS), "a|hh|a|h|A");
        assert_eq!(batches(queue("aa aa"), NO_LIMITS), "aa|aa", "something between them was taken out");
    }

    #[test]
    fn what_nothing_is_left_of_goes_with_any() {
        assert_eq!(batches(queue("aEaeAAeBeBee"), NO_LIMITS), "aEae|AAe|BeBee");
        assert_eq!(batches(queue("eEehehEA"), NO_LIMITS), "eEehehE|A");
        assert_eq!(batches(queue("eEe"), NO_LIMITS), "eEe");
        let mut resumed = queue("aEaa");
        resumed.resume([cut(1, 3, false)], Position(0));
        assert_eq!(batches(resumed, NO_LIMITS), "aEa|a");
    }

    #[test]
    fn what_a_former_life_had_cut_is_cut_so_again() {
        let mut resumed = queue("aaaaaaaa");
        resumed.resume([cut(2, 4, true), cut(5, 5, false)], Position(0));
        let two = Limits { records: 2, ..NO_LIMITS };
        assert_eq!(batches(resumed, two), "a|aaa?|a|aa|a");
        let mut resumed = queue("ahha");
        resumed.resume([cut(1, 2, false)], Position(0));
        assert_eq!(batches(resumed, NO_LIMITS), "ah|h|a", "whoever sent it");
        let mut resumed = queue("aaaaaa");
        resumed.resume([cut(2, 3, false)], Position(4));
        assert_eq!(batches(resumed, NO_LIMITS), "a?|aa|a?|aa", "nobody knows of the others: one by one");
    }

    #[test]
    fn a_cut_is_waited_for_until_all_of_it_is_read_and_is_remembered_until_it_is_passed() {
        let mut resumed = queue("aa");
        resumed.resume([cut(1, 3, true)], Position(0));
        let one = Limits { records: 1, ..NO_LIMITS };
        assert!(resumed.is_cut_before() && resumed.has_room(one));
        resumed.push(Arc::new(record('a', 3)));
        assert!(!resumed.has_room(one));
        assert_eq!(resumed.cuts().count(), 1);
        let taken = resumed.take(resumed.plan(one, |_| false).records);
        assert_eq!((taken.len(), resumed.cuts().count()), (3, 0));
    }

    #[test]
    fn of_a_cut_that_is_longer_than_a_batch_may_be_no_more_is_read_than_fits() {
        let mut resumed = queue(&"a".repeat(RECORDS_MAX - 1));
        resumed.resume([cut(1, 10_000, true)], Position(0));
        assert!(resumed.has_room(NO_LIMITS));
        resumed.push(Arc::new(record('a', RECORDS_MAX as u64)));
        assert!(!resumed.has_room(NO_LIMITS));
        let taken = resumed.take(resumed.plan(NO_LIMITS, |_| false).records);
        assert_eq!((taken.len(), resumed.cuts().count()), (RECORDS_MAX, 1), "the rest is still to come");
        let mut resumed = queue("lll");
        resumed.resume([cut(1, 10, true)], Position(0));
        assert!(!resumed.has_room(NO_LIMITS), "18 MiB, once decompressed");
    }

    #[test]
    fn what_is_taken_out_leaves_cuts_together_and_what_is_put_back_stands_where_it_was() {
        let mut some = queue("abAabA");
        some.resume([cut(4, 5, false)], Position(0));
        let out = some.take_out(|record| letter(record) == 'b');
        assert_eq!(out.iter().map(|record| record.header.position.0).collect::<Vec<_>>(), [2], "5 is in a cut");
        let taken = some.take(2);
        some.put_back(taken);
        assert_eq!(some.records.iter().map(|record| letter(record)).collect::<String>(), "aAabA");
        assert_eq!(some.samples, 5 * u64::from(SAMPLES));
    }
}
