//! What is damaged in a log, and how many records and samples are gone with it.
//!
//! Every record's header and body are read and their checksums compared. What is gone is never guessed: each valid
//! header carries its position and the running total before it, each seal and each segment's header those at its place,
//! so whatever lies between two valid ones is a subtraction.
//!
//! ```text
//!  | valid record 7, total 70 | ??? | valid record 10, total 100, 10 samples |      positions 8-9 are gone, 20 samples
//! ```
//!
//! In a sealed segment, or one that is not the newest, everything up to its end was acknowledged. In the newest one
//! without a seal the rule is recovery's: a hole is damage if a whole record behind it proves that what is missing had
//! been acknowledged; else it is a torn tail, and what lies behind it never counted.

use std::path::{Path, PathBuf};

use super::super::position::{Mark, SegmentId};
use super::super::record::Header;
use super::super::segment::{BadSegment, Segment};
use super::walk::{self, Body, Step, Walk};
use super::{Found, Holds, Sealing, Survey, Unusable};

/// What is wrong, or at least worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The header of one record or of several.
    Header,
    /// The fields or the body of one record.
    Body,
    /// The positions go on, the running totals do not.
    Totals,
    /// Positions are skipped, and no file is.
    MissingRecords,
    /// A file is not there.
    MissingSegment,
    /// A file is there and cannot be used.
    Unusable(String),
    /// A segment's first page; the copy of its header is whole.
    SegmentHeader,
    /// The seal is damaged. Nothing is gone: the segment can be scanned.
    SealDamaged,
    /// There is no seal in a segment that is not the newest. Nothing is gone.
    SealMissing,
    /// The disk does not give the bytes now. That says nothing about them.
    Unreadable(String),
    /// The end of what was being written when the process ended: never acknowledged.
    TornTail,
    /// It does not count, and nothing is gone with it.
    Unused(String),
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Bytes are not what they were.
    Damage,
    /// Nobody knows what they are.
    Unreadable,
    /// As it should be.
    Note,
}

impl Fault {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Fault::TornTail | Fault::Unused(_) => Severity::Note,
            Fault::Unreadable(_) => Severity::Unreadable,
            _ => Severity::Damage,
        }
    }

    /// One word or two.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Fault::Header => "header",
            Fault::Body => "body",
            Fault::Totals => "totals",
            Fault::MissingRecords => "missing records",
            Fault::MissingSegment => "missing segment",
            Fault::Unusable(_) => "unusable file",
            Fault::SegmentHeader => "segment header",
            Fault::SealDamaged => "seal damaged",
            Fault::SealMissing => "seal missing",
            Fault::Unreadable(_) => "unreadable",
            Fault::TornTail => "torn tail",
            Fault::Unused(_) => "unused",
        }
    }

    /// More words, if there are any.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Fault::Unusable(why) | Fault::Unreadable(why) | Fault::Unused(why) => Some(why),
            Fault::SegmentHeader => Some("its copy is whole"),
            Fault::SealDamaged => Some("the records were read without it"),
            Fault::SealMissing => Some("the segment is not the newest"),
            _ => None,
        }
    }
}

/// The records between two points of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Before them.
    pub from: Mark,
    /// The last one of them.
    pub to: Mark,
}

impl Lost {
    /// How many records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.to.position.0.saturating_sub(self.from.position.0)
    }

    /// How many samples, histograms counted as one each.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.to.total.saturating_sub(self.from.total)
    }
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// In which file; of something missing, the one behind it.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub bytes: u64,
    /// What is gone with it, which may be nothing; `None`: it was not there to be gone, or nobody can tell (see
    /// [`Finding::is_of_unknown_extent`]).
    pub lost: Option<Lost>,
}

impl Finding {
    /// There may be records gone that nothing else tells of.
    #[must_use]
    pub fn is_of_unknown_extent(&self) -> bool {
        self.lost.is_none() && matches!(self.fault, Fault::Unusable(_) | Fault::Unreadable(_))
    }
}

/// What was read and is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Records.
    pub records: u64,
    /// Samples in them.
    pub samples: u64,
}

/// What savepoints say about the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// All that is behind this was still owed to somebody. Taken after the survey: a relay releases while we look.
    pub lowest: Option<Mark>,
    /// All up to this was there once. Taken before the survey.
    pub highest: Option<Mark>,
    /// Every target's savepoint is known, and nothing at or below the lowest is needed by anybody.
    pub is_complete: bool,
}

/// Is told what comes up.
pub trait Watcher {
    /// Something was found.
    fn found(&mut self, finding: Finding);
    /// So many further bytes were looked at.
    fn passed(&mut self, bytes: u64);
}

/// Reads all of a log.
pub fn check(survey: &Survey, expected: Expected, watcher: &mut dyn Watcher) -> Whole {
    let mut check = Check { survey, watcher, whole: Whole::default(), told: vec![false; survey.unusable.len()] };
    let mut before: Option<(Mark, SegmentId)> = None;
    for (n, found) in survey.segments.iter().enumerate() {
        match before {
            Some((last, id)) => check.between(last, id, found),
            None => check.begin(expected.lowest, found),
        }
        let next = survey.segments.get(n + 1);
        before = Some((check.segment(found, next), found.header.id));
    }
    if let (Some((last, id)), Some(newest)) = (before, survey.segments.last()) {
        check.end(last, id, newest, expected.highest);
    }
    check.files_left(expected);
    check.whole
}

struct Check<'a> {
    survey: &'a Survey,
    watcher: &'a mut dyn Watcher,
    whole: Whole,
    /// Which of the unusable files were reported with what is gone.
    told: Vec<bool>,
}

impl Check<'_> {
    fn tell(&mut self, fault: Fault, path: &Path, at: (u64, u64), lost: Option<Lost>) {
        self.watcher.found(Finding { fault, path: path.to_owned(), offset: at.0, bytes: at.1, lost });
    }

    /// The first unusable file with a number in between explains what is gone there.
    fn tell_gap(
        &mut self,
        lost: Lost,
        above: Option<SegmentId>,
        below: Option<SegmentId>,
        otherwise: (Fault, &Path, u64),
    ) {
        let is_between = |file: &Unusable| above.is_none_or(|id| file.id > id) && below.is_none_or(|id| file.id < id);
        let culprit = self.survey.unusable.iter().position(is_between);
        match culprit {
            Some(n) => {
                self.told[n] = true;
                let file = &self.survey.unusable[n];
                self.tell(fault_of(file), &file.path, (0, file.bytes), Some(lost));
            }
            None => self.tell(otherwise.0, otherwise.1, (otherwise.2, 0), Some(lost)),
        }
    }

    /// Before the oldest segment.
    fn begin(&mut self, lowest: Option<Mark>, first: &Found) {
        let to = first.header.before;
        if let Some(from) = lowest
            && from.position < to.position
        {
            let otherwise = (Fault::MissingSegment, &*first.path, 0);
            self.tell_gap(Lost { from, to }, None, Some(first.header.id), otherwise);
        }
    }

    /// Between the end of a segment and the next one.
    fn between(&mut self, last: Mark, id: SegmentId, next: &Found) {
        let (from, to) = (last, next.header.before);
        let is_skipping = next.header.id.0 > id.0 + 1;
        if to.position > from.position {
            let fault = if is_skipping { Fault::MissingSegment } else { Fault::MissingRecords };
            self.tell_gap(Lost { from, to }, Some(id), Some(next.header.id), (fault, &next.path, 0));
        } else if to.position == from.position && to.total != from.total {
            self.tell(Fault::Totals, &next.path, (0, 0), Some(Lost { from, to }));
        }
    }

    /// Behind the newest segment.
    fn end(&mut self, last: Mark, id: SegmentId, newest: &Found, highest: Option<Mark>) {
        if let Some(to) = highest
            && to.position > last.position
        {
            let lost = Lost { from: last, to };
            self.tell_gap(lost, Some(id), None, (Fault::MissingRecords, &newest.path, newest.data_end()));
        }
    }

    /// Unusable files that explain nothing that is gone.
    fn files_left(&mut self, expected: Expected) {
        let oldest = self.survey.segments.first().map(|found| (found.header.id, found.header.before));
        let newest = self.survey.segments.last().map(|found| found.header.id);
        for (file, _) in self.survey.unusable.iter().zip(&self.told).filter(|(_, is_told)| !**is_told) {
            let is_inside = oldest.is_some_and(|(id, _)| file.id >= id) && newest.is_some_and(|id| file.id <= id);
            let is_settled = oldest.is_some_and(|(id, before)| {
                let lowest = expected.lowest.is_some_and(|lowest| lowest.position >= before.position);
                file.id < id && expected.is_complete && lowest
            });
            let is_unused = file.holds == Holds::Nothing || is_inside || is_settled;
            let fault = if is_unused { Fault::Unused(file.why.clone()) } else { fault_of(file) };
            let (path, bytes) = (file.path.clone(), file.bytes);
            self.watcher.found(Finding { fault, path, offset: 0, bytes, lost: None });
        }
    }

    /// One segment. The mark up to which everything was read or reported.
    fn segment(&mut self, found: &Found, next: Option<&Found>) -> Mark {
        let before = found.header.before;
        let claimed = match (found.sealed().map(|seal| seal.last), next.map(|next| next.header.before)) {
            (Some(last), Some(next)) if next.position < last.position => Some(next),
            (Some(last), _) => Some(last),
            (None, next) => next,
        };
        let segment = match found.open() {
            Ok(Some(segment)) => segment,
            // Released meanwhile.
            Ok(None) => return claimed.unwrap_or(before),
            Err(error) => {
                let to = claimed.unwrap_or(before);
                let fault = match error {
                    BadSegment::Io(error) => Fault::Unreadable(error.to_string()),
                    error => Fault::Unusable(error.to_string()),
                };
                self.tell(fault, &found.path, (0, found.header.len), Some(Lost { from: before, to }));
                return to;
            }
        };
        if found.is_header_damaged {
            let nothing = Lost { from: before, to: before };
            self.tell(Fault::SegmentHeader, &found.path, (0, 96), Some(nothing));
        }
        let mut scan = Scan {
            found,
            segment: &segment,
            last: before,
            whole: Whole::default(),
            needs_proof: claimed.is_none(),
            unproven: None,
            findings: self.watcher,
        };
        let (hole, mut end) = scan.run();
        scan.settle_tail(hole.as_ref(), self.survey.holder.is_some());
        let (whole, mut last) = (scan.whole, scan.last);
        self.whole.records += whole.records;
        self.whole.samples += whole.samples;
        if let Some(claimed) = claimed
            && claimed.position > last.position
        {
            // An unsealed segment with nothing behind its records ends there: what is missing was in another file.
            let skips = next.is_some_and(|next| next.header.id.0 > found.header.id.0 + 1);
            let is_elsewhere = found.sealed().is_none() && skips && hole.as_ref().is_none_or(|hole| hole.written == 0);
            if !is_elsewhere {
                let fault = hole.as_ref().map_or(Fault::MissingRecords, Hole::fault);
                let at = hole.as_ref().map_or((end, 0), |hole| (hole.offset, hole.bytes));
                self.tell(fault, &found.path, at, Some(Lost { from: last, to: claimed }));
                last = claimed;
                end = at.0 + at.1;
            }
        }
        self.watcher.passed(found.data_end().saturating_sub(end.min(found.data_end())));
        self.seal(found, &segment, last, next.is_some());
        last
    }

    fn seal(&mut self, found: &Found, segment: &Segment, last: Mark, is_followed: bool) {
        let at = (found.header.len.saturating_sub(super::SEAL_LEN), super::SEAL_LEN);
        let fault = match &found.seal {
            Sealing::Sealed(_) => return,
            // It may have been sealed while we looked.
            _ if matches!(segment.read_seal(), Ok(Some(_))) => return,
            Sealing::Unreadable(error) => Fault::Unreadable(error.to_string()),
            Sealing::Damaged => Fault::SealDamaged,
            // A relay is about to seal it.
            Sealing::Open if !is_followed || self.survey.holder.is_some() => return,
            Sealing::Open => Fault::SealMissing,
        };
        self.tell(fault, &found.path, at, Some(Lost { from: last, to: last }));
    }
}

fn fault_of(file: &Unusable) -> Fault {
    match file.holds {
        Holds::Unreadable => Fault::Unreadable(file.why.clone()),
        Holds::Perhaps | Holds::Nothing => Fault::Unusable(file.why.clone()),
    }
}

/// A place without a valid record.
struct Hole {
    offset: u64,
    bytes: u64,
    error: Option<String>,
    /// Bytes of it that are not just blank.
    written: u64,
}

impl Hole {
    fn fault(&self) -> Fault {
        self.error.clone().map_or(Fault::Header, Fault::Unreadable)
    }
}

/// What was found behind a hole before anything proved that the hole was acknowledged.
struct Unproven {
    offset: u64,
    last: Mark,
    whole: Whole,
    findings: Vec<(Finding, Option<Header>)>,
}

/// The way through one segment.
struct Scan<'a> {
    found: &'a Found,
    segment: &'a Segment,
    last: Mark,
    whole: Whole,
    needs_proof: bool,
    unproven: Option<Unproven>,
    findings: &'a mut dyn Watcher,
}

impl Scan<'_> {
    /// The hole at the end, if there is one, and the end.
    fn run(&mut self) -> (Option<Hole>, u64) {
        let mut walk = Walk::new(self.segment, self.found.data_end());
        let mut hole = None;
        let mut at = walk.offset();
        while let Some(step) = walk.next_step(|_| true) {
            let passed = walk.offset() - at;
            at = walk.offset();
            match step {
                Step::Hole { offset, bytes, error } => {
                    let error = error.map(|error| error.to_string());
                    hole = Some(match hole.take() {
                        Some(Hole { offset, bytes: before, error: earlier, .. }) => {
                            Hole { offset, bytes: before + bytes, error: earlier.or(error), written: 0 }
                        }
                        None => Hole { offset, bytes, error, written: 0 },
                    });
                    if walk.offset() < self.found.data_end() {
                        self.findings.passed(passed);
                    }
                }
                Step::Record { offset, header, .. } if self.found.end.is_some_and(|end| header.position > end) => {
                    let why = "the next segment begins before these records: they were never acknowledged here";
                    let bytes = walk::written_len(self.segment, offset, self.found.data_end(), 4096);
                    let path = self.found.path.clone();
                    self.findings.found(Finding { fault: Fault::Unused(why.into()), path, offset, bytes, lost: None });
                    return (hole, offset);
                }
                Step::Record { offset, header, body } => {
                    self.record(offset, &header, &body, hole.take());
                    self.findings.passed(passed);
                }
            }
        }
        let is_blank_from = |hole: &Hole| walk::written_len(self.segment, hole.offset, hole.offset + hole.bytes, 4096);
        let hole = hole.map(|hole| Hole { written: is_blank_from(&hole), ..hole });
        let end = hole.as_ref().map_or(walk.offset(), |hole| hole.offset);
        (hole, end)
    }

    fn record(&mut self, offset: u64, header: &Header, body: &Body, hole: Option<Hole>) {
        let from = self.last;
        let before = Mark { position: header.position.previous(), total: header.total_before() };
        let mark = Mark { position: header.position, total: header.total };
        let lost = Lost { from, to: before };
        if let Some(hole) = hole {
            self.tell(hole.fault(), hole.offset, hole.bytes, lost, None);
        } else if before.position > from.position {
            self.tell(Fault::MissingRecords, offset, 0, lost, None);
        } else if before.total != from.total {
            self.tell(Fault::Totals, offset, 0, lost, None);
        }
        self.last = mark;
        let lost = Lost { from: before, to: mark };
        match body {
            Body::Whole | Body::Unread => {
                self.whole.records += 1;
                self.whole.samples += header.counts.ledger_samples();
                let proven = header.position.0.saturating_sub(header.unacknowledged);
                if self.unproven.as_ref().is_some_and(|unproven| proven > unproven.last.position.0) {
                    self.confirm();
                }
            }
            Body::Damaged => self.tell(Fault::Body, offset, header.stored_len(), lost, Some(*header)),
            Body::Unreadable(error) => {
                self.tell(Fault::Unreadable(error.to_string()), offset, header.stored_len(), lost, None);
            }
        }
    }

    fn tell(&mut self, fault: Fault, offset: u64, bytes: u64, lost: Lost, header: Option<Header>) {
        let finding = Finding { fault, path: self.found.path.clone(), offset, bytes, lost: Some(lost) };
        if !self.needs_proof {
            return self.findings.found(finding);
        }
        let (last, whole) = (lost.from, self.whole);
        let unproven = self.unproven.get_or_insert_with(|| Unproven { offset, last, whole, findings: Vec::new() });
        unproven.findings.push((finding, header));
    }

    /// What was found behind the hole was acknowledged.
    fn confirm(&mut self) {
        let Some(unproven) = self.unproven.take() else { return };
        for (finding, header) in unproven.findings {
            // A relay may have been about to write it.
            let is_there_now = header.is_some_and(|header| {
                matches!(walk::read_body(self.segment, finding.offset, &header, &mut Vec::new()), Body::Whole)
            });
            if is_there_now {
                self.whole.records += 1;
                self.whole.samples += finding.lost.map_or(0, |lost| lost.samples());
            } else {
                self.findings.found(finding);
            }
        }
    }

    /// What nothing has proven at the end of the newest segment.
    fn settle_tail(&mut self, hole: Option<&Hole>, is_live: bool) {
        if !self.needs_proof {
            return;
        }
        let end = hole.map(|hole| hole.offset + hole.written);
        let tail = match self.unproven.take() {
            Some(unproven) => {
                let records_end = unproven.findings.iter().map(|(finding, _)| finding.offset + finding.bytes).max();
                (self.last, self.whole) = (unproven.last, unproven.whole);
                for (finding, _) in unproven.findings {
                    if finding.fault.severity() == Severity::Unreadable {
                        self.findings.found(Finding { lost: None, ..finding });
                    }
                }
                let end = end.into_iter().chain(records_end).max().unwrap_or(unproven.offset);
                Some((unproven.offset, end - unproven.offset))
            }
            None => {
                hole.filter(|hole| hole.written > 0 && hole.error.is_none()).map(|hole| (hole.offset, hole.written))
            }
        };
        let path = || self.found.path.clone();
        if let Some(Hole { offset, bytes, error: Some(error), .. }) = hole {
            let fault = Fault::Unreadable(error.clone());
            self.findings.found(Finding { fault, path: path(), offset: *offset, bytes: *bytes, lost: None });
        }
        if let Some((offset, bytes)) = tail
            && !is_live
        {
            self.findings.found(Finding { fault: Fault::TornTail, path: path(), offset, bytes, lost: None });
        }
    }
}
