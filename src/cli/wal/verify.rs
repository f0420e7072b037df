//! `promrelay wal verify`: every byte that counts is read, every checksum compared, every total added up.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::text::{count, json, plain, size};
use super::{Common, Seen, ToolError, file_name, hex, positions, raw_file_name};
use crate::savepoint::{self, Ledger, Listed, PageState};
use crate::wal::survey::check::{self, Expected, Finding, Severity, Watcher, Whole};
use crate::wal::{Mark, Position};

/// A line on a terminal is renewed, another output gets a new one.
const RENEW_EVERY: Duration = Duration::from_millis(200);
const SAY_EVERY: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "Exit code: 0 nothing is damaged, 1 something is, or could not be read, 2 usage.\n\n\
    What is gone is counted exactly, by the positions and running totals around it. A torn tail, the end of what was \
    being written when a process died, is no damage. Nothing in a log tells whether segments newer than its newest one \
    were taken away, but for savepoints that are ahead of it.";

/// Read everything, and say what is damaged and how much is gone with it.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Verify {
    #[command(flatten)]
    pub(super) common: Common,

    /// Say how far it is on stderr, also when that is no terminal.
    #[arg(long)]
    progress: bool,
}

/// Found so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sum {
    damages: u64,
    unreadable: u64,
    notes: u64,
    lost_records: u64,
    lost_samples: u64,
    unknown_extent: bool,
    damaged_savepoints: u64,
}

#[derive(Serialize)]
struct Summary {
    segments: u64,
    bytes: u64,
    records: u64,
    samples: u64,
    is_whole: bool,
    #[serde(flatten)]
    sum: Sum,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    kind: &'static str,
    severity: &'static str,
    file: String,
    offset: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    first: Option<u64>,
    last: Option<u64>,
    records: Option<u64>,
    samples: Option<u64>,
}

#[derive(Serialize)]
struct SavepointJson {
    name: String,
    state: &'static str,
    pages: [&'static str; 3],
    settled: Option<u64>,
    settled_total: Option<u64>,
    /// What is settled above, and the batches that were in flight: first and last positions.
    ranges: Vec<[u64; 2]>,
    cuts: Vec<[u64; 2]>,
    paused: bool,
    ledger: Option<LedgerJson>,
    ahead: bool,
    behind: bool,
}

#[derive(Serialize)]
struct LedgerJson {
    accepted: u64,
    delivered: u64,
    refused: u64,
    filtered: u64,
    expired: u64,
    dropped: u64,
    lost: u64,
}

impl Verify {
    pub(super) fn run(&self, directory: &Path, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
        let started = Instant::now();
        let seen = Seen::look(directory)?;
        let survey = &seen.survey;
        let expected = expected(directory, &seen);
        let total =
            survey.segments.iter().map(|found| found.data_end().saturating_sub(crate::wal::segment::DATA_START)).sum();
        let progress = Progress::new(self.progress, total);
        if self.common.json {
            write!(out, "{{\"directory\":")?;
            json(out, &directory.display().to_string())?;
            write!(out, ",\"log_id\":")?;
            json(out, &survey.log_id.map(hex))?;
            write!(out, ",\"holder\":")?;
            json(out, &survey.holder)?;
            write!(out, ",\"findings\":[")?;
        }
        let mut told = Told { out, is_json: self.common.json, sum: Sum::default(), count: 0, progress, failed: None };
        let whole = check::check(survey, expected, &mut told);
        let Told { mut sum, progress, failed, .. } = told;
        progress.end();
        failed.map_or(Ok(()), Err)?;
        let savepoints: Vec<_> = seen.savepoints.iter().map(|savepoint| judge(&seen, savepoint)).collect();
        sum.damaged_savepoints = savepoints.iter().filter(|savepoint| savepoint.is_damaged()).count() as u64;
        let is_whole = sum.damages + sum.unreadable + sum.damaged_savepoints == 0;
        let Whole { records, samples } = whole;
        let segments = survey.segments.len() as u64;
        let summary = Summary { segments, bytes: progress.done, records, samples, is_whole, sum };
        if self.common.json {
            write!(out, "],\"savepoints\":")?;
            json(out, &savepoints)?;
            write!(out, ",\"summary\":")?;
            json(out, &summary)?;
            writeln!(out, "}}")?;
        } else {
            for savepoint in &savepoints {
                writeln!(out, "{}", savepoint.line())?;
            }
            writeln!(out, "{}", summary.line(started.elapsed()))?;
        }
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What the savepoints say. Those that were read before the survey tell what must have been there; what is still owed
/// is asked again, since a running relay releases what has been settled meanwhile.
fn expected(directory: &Path, seen: &Seen) -> Expected {
    let marks = |savepoints: &[Listed]| -> Vec<Mark> {
        let of_this_log =
            savepoints.iter().filter_map(Listed::floor).filter(|floor| Some(floor.log_id) == seen.survey.log_id);
        of_this_log.map(|floor| floor.settled).collect()
    };
    let later = savepoint::list(directory).unwrap_or_default();
    let owed = marks(&later);
    Expected {
        lowest: owed.iter().min_by_key(|mark| mark.position).copied(),
        highest: marks(&seen.savepoints).into_iter().max_by_key(|mark| mark.position),
        is_complete: owed.len() == later.len() && !later.is_empty(),
    }
}

/// Writes what is found as it is found.
struct Told<'a> {
    out: &'a mut dyn Write,
    is_json: bool,
    sum: Sum,
    count: u64,
    progress: Progress,
    failed: Option<io::Error>,
}

impl Watcher for Told<'_> {
    fn found(&mut self, finding: Finding) {
        let lost = finding.lost.unwrap_or(check::Lost { from: Mark::default(), to: Mark::default() });
        match finding.fault.severity() {
            Severity::Damage => self.sum.damages += 1,
            Severity::Unreadable => self.sum.unreadable += 1,
            Severity::Note => self.sum.notes += 1,
        }
        self.sum.lost_records += lost.records();
        self.sum.lost_samples += lost.samples();
        self.sum.unknown_extent |= finding.is_of_unknown_extent();
        if self.failed.is_none() {
            self.progress.clear();
            self.failed = self.write(&finding).err();
        }
        self.count += 1;
    }

    fn passed(&mut self, bytes: u64) {
        self.progress.add(bytes);
    }
}

impl Told<'_> {
    fn write(&mut self, finding: &Finding) -> io::Result<()> {
        if self.is_json {
            if self.count > 0 {
                write!(self.out, ",")?;
            }
            json(self.out, &FindingJson::of(finding))?;
        } else {
            writeln!(self.out, "{}", line(finding))?;
        }
        self.out.flush()
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Damage => "damaged",
        Severity::Unreadable => "unreadable",
        Severity::Note => "note",
    }
}

impl FindingJson<'_> {
    fn of(finding: &Finding) -> FindingJson<'_> {
        let lost = finding.lost;
        let some = lost.filter(|lost| lost.records() > 0);
        FindingJson {
            kind: finding.fault.as_str(),
            severity: word(finding.fault.severity()),
            file: raw_file_name(&finding.path),
            offset: finding.offset,
            bytes: finding.bytes,
            why: finding.fault.detail(),
            first: some.map(|lost| lost.from.position.next().0),
            last: some.map(|lost| lost.to.position.0),
            records: lost.map(|lost| lost.records()),
            samples: lost.map(|lost| lost.samples()),
        }
    }
}

/// `damaged     seg-..1.wal  offset 8192, 1280 bytes: body; gone: positions 17-17, 1 record, 3 samples`
fn line(finding: &Finding) -> String {
    let fault = &finding.fault;
    let why = fault.detail().map(|why| format!(" ({})", plain(why))).unwrap_or_default();
    let gone = match finding.lost {
        Some(lost) if lost.records() > 0 || lost.samples() > 0 => format!(
            "; gone: positions {}, {}, {}",
            positions(lost.from.position, lost.to.position),
            count(lost.records(), "record"),
            count(lost.samples(), "sample")
        ),
        None if finding.is_of_unknown_extent() => "; gone: nobody can tell how much".into(),
        Some(_) if fault.severity() != Severity::Note => "; nothing is gone".into(),
        _ => String::new(),
    };
    format!(
        "{:<10}  {}  offset {}, {}: {}{why}{gone}",
        word(fault.severity()),
        file_name(&finding.path),
        finding.offset,
        count(finding.bytes, "byte"),
        fault.as_str()
    )
}

fn judge(seen: &Seen, savepoint: &Listed) -> SavepointJson {
    let page = savepoint.newest();
    let settled = seen.settled(savepoint);
    let newest = page.map(|page| &page.savepoint);
    let pages = std::array::from_fn(|n| match &savepoint.pages[n] {
        PageState::Valid(_) => "valid",
        PageState::Blank => "blank",
        PageState::Unbalanced => "unbalanced",
        PageState::Damaged => "damaged",
        PageState::Missing => "missing",
        PageState::Unreadable(_) => "unreadable",
    });
    let oldest = seen.survey.segments.first().map(|found| found.header.before.position);
    let is_ahead = || {
        let newest = seen.survey.segments.last()?;
        let end = newest.extent().ok()??.seal.last.position;
        Some(settled? > end)
    };
    SavepointJson {
        name: savepoint.name.clone(),
        state: match (page, settled) {
            (Some(_), Some(_)) => "valid",
            (Some(_), None) => "of another log",
            (None, _) => "damaged",
        },
        pages,
        settled: newest.map(|savepoint| savepoint.settled.position.0),
        settled_total: newest.map(|savepoint| savepoint.settled.total),
        ranges: newest.map_or_else(Vec::new, |savepoint| {
            savepoint.ranges.iter().map(|range| [range.from.position.next().0, range.to.position.0]).collect()
        }),
        cuts: newest
            .map_or_else(Vec::new, |savepoint| savepoint.cuts.iter().map(|cut| [cut.first.0, cut.last.0]).collect()),
        paused: newest.is_some_and(|savepoint| savepoint.is_paused),
        ledger: newest.map(|savepoint| {
            let Ledger { accepted, delivered, refused, filtered, expired, dropped, lost, .. } = savepoint.ledger;
            LedgerJson { accepted, delivered, refused, filtered, expired, dropped, lost }
        }),
        ahead: is_ahead().unwrap_or_default(),
        behind: settled.is_some_and(|settled| oldest.is_some_and(|oldest| settled < oldest)),
    }
}

impl SavepointJson {
    fn is_damaged(&self) -> bool {
        self.state == "damaged" || self.pages.iter().any(|page| !["valid", "blank"].contains(page))
    }

    fn line(&self) -> String {
        let mut words = Vec::new();
        if let Some(settled) = self.settled {
            words.push(format!("settled {settled}"));
        }
        let spans = |spans: &[[u64; 2]]| {
            let spans = spans.iter().map(|[first, last]| positions(Position(first - 1), Position(*last)));
            spans.collect::<Vec<_>>().join(", ")
        };
        if !self.ranges.is_empty() {
            words.push(format!("and above it {}", spans(&self.ranges)));
        }
        if !self.cuts.is_empty() {
            words.push(format!("in flight {}", spans(&self.cuts)));
        }
        if self.paused {
            words.push("paused".into());
        }
        words.push(format!("pages {}", self.pages.join(", ")));
        match (&self.ledger, self.pages.contains(&"unbalanced")) {
            (_, true) => words.push("what a page says does not add up".into()),
            (Some(_), false) => words.push("the ledger adds up".into()),
            (None, false) => {}
        }
        if self.state != "valid" {
            words.push(format!("it is {}: the target will start with the oldest record", self.state));
        }
        if self.ahead {
            words.push("it is ahead of the log".into());
        }
        if self.behind {
            words.push("it is behind the oldest record".into());
        }
        let verdict = if self.is_damaged() { "damaged" } else { "whole" };
        format!("{verdict:<10}  savepoint of {}: {}", self.name, words.join("; "))
    }
}

impl Summary {
    fn line(&self, took: Duration) -> String {
        let Summary { segments, bytes, records, samples, is_whole, sum } = self;
        let read = format!(
            "{}, {} in {:.1} s: {} with {} are whole",
            count(*segments, "segment"),
            size(*bytes),
            took.as_secs_f64(),
            count(*records, "record"),
            count(*samples, "sample")
        );
        if *is_whole {
            return format!("{read}; nothing is damaged");
        }
        let mut words = vec![read];
        words.push(format!("{} damaged", count(sum.damages, "place")));
        if sum.unreadable > 0 {
            words.push(format!("{} unreadable", count(sum.unreadable, "place")));
        }
        if sum.damaged_savepoints > 0 {
            words.push(format!("{} damaged", count(sum.damaged_savepoints, "savepoint")));
        }
        let at_least = if sum.unknown_extent { "at least " } else { "" };
        let (records, samples) = (count(sum.lost_records, "record"), count(sum.lost_samples, "sample"));
        words.push(format!("{at_least}{records} with {samples} gone"));
        words.join("; ")
    }
}

/// How far it is, on stderr.
struct Progress {
    every: Option<Duration>,
    is_terminal: bool,
    started: Instant,
    said: Instant,
    total: u64,
    done: u64,
}

impl Progress {
    fn new(is_asked_for: bool, total: u64) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        let every = match (is_terminal, is_asked_for) {
            (true, _) => Some(RENEW_EVERY),
            (false, true) => Some(SAY_EVERY),
            (false, false) => None,
        };
        let now = Instant::now();
        Progress { every, is_terminal, started: now, said: now, total, done: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.every.is_some_and(|every| self.said.elapsed() >= every) {
            self.said = Instant::now();
            self.say();
        }
    }

    fn say(&self) {
        let speed = self.done as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let (begin, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let (done, total) = (size(self.done), size(self.total));
        let _ = write!(io::stderr(), "{begin}{done} of {total}, {}/s{end}", size(speed as u64));
    }

    /// Takes the line away.
    fn clear(&self) {
        if self.is_terminal && self.said > self.started {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn end(&self) {
        self.clear();
        if self.every.is_some() && !self.is_terminal {
            self.say();
        }
    }
}
