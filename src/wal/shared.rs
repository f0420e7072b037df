//! What the log's threads and its readers have in common: which segments there are, how far they can be read, what is wrong.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use super::Observer;
use super::directory::Directory;
use super::findings::{self, Finding, Findings};
use super::health::{Condition, Limit};
use super::options::Options;
use super::position::{Mark, Position, Readable, SegmentId};
use super::quarantine::Quarantine;
use super::recovery::{self, Unreadable};
use super::segment::{BadSegment, DATA_START, Segment};
use super::sync::atomic::{AtomicBool, AtomicU64};
use super::sync::mpsc::Sender;
use super::sync::{Mutex, MutexGuard, watch};
use super::usage::{Charge, DiskUsage};
use super::writer::Job;

/// How far a segment reaches for readers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub end: u64,
    pub last: Mark,
    pub is_closed: bool,
}

/// See the module.
pub(super) struct Shared {
    pub directory: Directory,
    pub log_id: [u8; 16],
    pub options: Options,
    pub segments: Mutex<BTreeMap<SegmentId, Arc<Segment>>>,
    /// Files that may be part of the log and could not be read so far.
    pub unreadable: Mutex<Vec<Unreadable>>,
    pub findings: Mutex<Findings>,
    pub quarantine: Quarantine,
    pub readable: watch::Sender<Readable>,
    /// The last position that a sync covered.
    pub durable: AtomicU64,
    pub condition: Condition,
    /// To the writer; taken away when the log is closed.
    pub control: Mutex<Option<Sender<Job>>>,
    /// The writer has a segment to write to.
    pub is_open: AtomicBool,
    /// Why there is no segment allocated ahead, if for want of room.
    pub lack: watch::Sender<Option<Limit>>,
    /// Of files that are left where they are and are no segments, and of those of others.
    pub _beside: Vec<Charge>,
    pub usage: DiskUsage,
    pub observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn segments(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Arc<Segment>>> {
        self.segments.lock().expect("no holder of this lock panics")
    }

    pub(super) fn add_segment(&self, segment: Arc<Segment>) {
        self.segments().insert(segment.id(), segment);
    }

    pub(super) fn remove_segment(&self, id: SegmentId) {
        self.segments().remove(&id);
    }

    pub(super) fn segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments().get(&id).cloned()
    }

    pub(super) fn first_segment(&self) -> Option<Arc<Segment>> {
        self.segments().values().next().cloned()
    }

    pub(super) fn segment_after(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.segments().range((Bound::Excluded(id), Bound::Unbounded)).next().map(|(_, segment)| segment.clone())
    }

    /// The segment in which a record with this position would be; `None` if the log begins later.
    pub(super) fn segment_holding(&self, position: Position) -> Option<Arc<Segment>> {
        self.segments().values().rev().find(|segment| segment.header().before.position < position).cloned()
    }

    pub(super) fn readable(&self) -> Readable {
        *self.readable.borrow()
    }

    pub(super) fn publish(&self, readable: Readable) {
        self.readable.send_modify(|now| {
            assert!(now.mark.position <= readable.mark.position, "the readable position only grows");
            *now = readable;
        });
    }

    /// One consistent view of a segment: its end and the mark at that end belong together.
    pub(super) fn extent(&self, segment: &Segment) -> Extent {
        let closed = |segment: &Segment| {
            segment.closed().map(|seal| Extent { end: seal.data_end, last: seal.last, is_closed: true })
        };
        if let Some(extent) = closed(segment) {
            return extent;
        }
        let readable = self.readable();
        if readable.place.segment == segment.id() {
            return Extent { end: readable.place.offset, last: readable.mark, is_closed: false };
        }
        // Either nothing was published in it yet, or it was closed after the first look: the writer closes a segment before it
        // publishes anything in the next.
        closed(segment).unwrap_or(Extent { end: DATA_START, last: segment.header().before, is_closed: false })
    }

    /// What is wrong, counted once; a copy of the bytes is kept if they are in `segment` and there is room.
    pub(super) fn found(&self, mut finding: Finding, segment: Option<&Segment>) {
        if self.findings().knows(&finding) {
            return;
        }
        finding.kept = match (finding.kind, segment) {
            (findings::Kind::Damage, Some(segment)) => {
                // Two segments are what the log needs to go on.
                let room = self.options.max_bytes.saturating_sub(self.usage.bytes() + 2 * self.options.segment_bytes);
                self.quarantine.keep_range(segment, &finding, room)
            }
            (findings::Kind::Unusable, _) => self.quarantine.take_away(&finding),
            _ => None,
        };
        let mut findings = self.findings();
        if !findings.knows(&finding) {
            findings.add(finding);
        }
    }

    pub(super) fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().expect("no holder of this lock panics")
    }

    pub(super) fn unreadable(&self) -> MutexGuard<'_, Vec<Unreadable>> {
        self.unreadable.lock().expect("no holder of this lock panics")
    }

    /// A file between two segments (or behind the last) that may be part of the log, and still cannot be read. If it can be read by
    /// now, it is a segment from here on.
    pub(super) fn unreadable_between(&self, after: Option<SegmentId>, before: Option<SegmentId>) -> Option<io::Error> {
        let is_between =
            |id: SegmentId| after.is_none_or(|after| after < id) && before.is_none_or(|before| id < before);
        loop {
            let file = self.unreadable().iter().find(|file| is_between(file.id)).cloned()?;
            match self.open_late(&file, false) {
                // The next one, from here on.
                Ok(()) => return None,
                Err(BadSegment::Io(error)) => {
                    return Some(io::Error::new(error.kind(), format!("{}: {error}", file.path.display())));
                }
                Err(why) => self.forget_unreadable(&file, &why.to_string()),
            }
        }
    }

    /// Takes what cannot be read between two segments for damaged, as far as it still cannot.
    pub(super) fn give_up_unreadable_between(&self, after: Option<SegmentId>, before: Option<SegmentId>) {
        let is_between =
            |id: SegmentId| after.is_none_or(|after| after < id) && before.is_none_or(|before| id < before);
        let files: Vec<_> = self.unreadable().iter().filter(|file| is_between(file.id)).cloned().collect();
        for file in files {
            if let Err(why) = self.open_late(&file, true) {
                self.forget_unreadable(&file, &why.to_string());
            }
        }
    }

    pub(super) fn open_late(&self, file: &Unreadable, takes_unreadable_for_damage: bool) -> Result<(), BadSegment> {
        // One at a time: two readers must not make two segments of one file.
        let mut unreadable = self.unreadable();
        if !unreadable.iter().any(|other| other.id == file.id) {
            return Ok(());
        }
        let end = self.segment_after(file.id).map(|next| next.header().before);
        let (segment, found) = recovery::open_late(file, self.log_id, end, takes_unreadable_for_damage, &self.usage)?;
        tracing::info!(path = %file.path.display(), "a segment that could not be read can be read now");
        self.add_segment(segment.clone());
        unreadable.retain(|other| other.id != file.id);
        drop(unreadable);
        for finding in found {
            self.found(finding, Some(&segment));
        }
        Ok(())
    }

    pub(super) fn forget_unreadable(&self, file: &Unreadable, reason: &str) {
        tracing::error!(path = %file.path.display(), %reason, "a file of the log is given up; nobody knows how much was in it");
        self.unreadable().retain(|other| other.id != file.id);
    }

    /// Samples between two points. Totals of records are compared only where they are of one life: behind a segment that could not be read
    /// when the next one was made, and can be read now, they begin anew.
    pub(super) fn samples_between(&self, from: Mark, to: Mark) -> u64 {
        let mut samples = 0;
        let mut at = from;
        for segment in self.segments().values() {
            let before = segment.header().before;
            if before.position >= to.position {
                break;
            }
            if before.position >= at.position {
                samples += before.total.saturating_sub(at.total);
                at = before;
            }
            let Some(seal) = segment.closed().filter(|seal| seal.last.position < to.position) else { break };
            if seal.last.position > at.position {
                samples += seal.last.total.saturating_sub(at.total);
                at = seal.last;
            }
        }
        samples + to.total.saturating_sub(at.total)
    }
}
