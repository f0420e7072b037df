//! `promrelay wal ls`: one line for each segment, from its header and its seal; one without a seal is stepped through
//! by headers.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::text::{Table, count, json, plain, size};
use super::{Common, Seen, ToolError, hex, positions, raw_file_name};
use crate::clock::point;
use crate::wal::survey::{Found, Sealing, Survey};
use crate::wal::{Mark, Position, SegmentId};

const HEAD: [&str; 9] =
    ["SEGMENT", "POSITIONS", "RECORDS", "SAMPLES", "ON DISK", "RECEIVED", "TIMESTAMPS", "STATE", "NEEDED BY"];
const RIGHT: [bool; 9] = [true, true, true, true, true, false, false, false, false];

/// Two reads for each sealed segment, whatever its size.
#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    pub(super) common: Common,
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    first: Option<u64>,
    last: Option<u64>,
    records: Option<u64>,
    samples: Option<u64>,
    bytes: u64,
    first_received_ms: Option<i64>,
    last_received_ms: Option<i64>,
    timestamp_min: Option<i64>,
    timestamp_max: Option<i64>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    needed_by: Vec<String>,
}

#[derive(Serialize)]
struct Savepoint {
    name: String,
    state: &'static str,
    settled: Option<u64>,
}

#[derive(Serialize)]
struct File {
    file: String,
    bytes: u64,
}

#[derive(Default, Serialize)]
struct Totals {
    segments: u64,
    records: u64,
    samples: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct List {
    directory: String,
    log_id: Option<String>,
    holder: Option<u32>,
    segments: Vec<Line>,
    savepoints: Vec<Savepoint>,
    prepared: Vec<File>,
    foreign: Vec<File>,
    totals: Totals,
}

impl Ls {
    pub(super) fn run(&self, directory: &Path, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
        let list = List::make(directory, &Seen::look(directory)?);
        if self.common.json {
            json(out, &list)?;
            writeln!(out)?;
        } else {
            list.show(out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn make(directory: &Path, seen: &Seen) -> List {
        let survey = &seen.survey;
        let (mut segments, mut totals) = (Vec::new(), Totals::default());
        let mut before: Option<Mark> = None;
        for (n, found) in survey.segments.iter().enumerate() {
            let is_newest = n + 1 == survey.segments.len();
            let Some((line, last)) = segment(found, is_newest, seen) else { continue };
            if let Some(from) = before.filter(|from| from.position < found.header.before.position) {
                segments.push(missing(from, found));
            }
            before = Some(last);
            totals.segments += 1;
            totals.records += line.records.unwrap_or_default();
            totals.samples += line.samples.unwrap_or_default();
            totals.bytes += line.bytes;
            segments.push(line);
        }
        segments.extend(unusable(survey));
        segments.sort_by_key(|line| (line.id, line.file.is_none()));
        let savepoints = seen.savepoints.iter().map(|savepoint| {
            let settled = seen.settled(savepoint).map(|position| position.0);
            let state = match (settled, savepoint.newest()) {
                (Some(_), _) => "valid",
                (None, Some(_)) => "of another log",
                (None, None) => "damaged",
            };
            Savepoint { name: savepoint.name.clone(), state, settled }
        });
        let file = |other: &crate::wal::survey::Other| File { file: raw_file_name(&other.path), bytes: other.bytes };
        List {
            directory: directory.display().to_string(),
            log_id: survey.log_id.map(hex),
            holder: survey.holder,
            segments,
            savepoints: savepoints.collect(),
            prepared: survey.prepared.iter().map(file).collect(),
            foreign: survey.foreign.iter().map(file).collect(),
            totals,
        }
    }

    fn show(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        let mut table = Table::new(&HEAD, &RIGHT);
        for line in &self.segments {
            table.row(line.cells());
        }
        write!(out, "{table}")?;
        let Totals { segments, records, samples, bytes } = self.totals;
        writeln!(
            out,
            "\n{}: {}, {}, {} on disk",
            count(segments, "segment"),
            count(records, "record"),
            count(samples, "sample"),
            size(bytes)
        )?;
        if let Some(id) = &self.log_id {
            let holder = self.holder.map(|pid| format!(", in use by process {pid}")).unwrap_or_default();
            writeln!(out, "log {id}{holder}")?;
        }
        for Savepoint { name, state, .. } in self.savepoints.iter().filter(|savepoint| savepoint.settled.is_none()) {
            writeln!(out, "the savepoint of {name} is {state}: it will start with the oldest record")?;
        }
        for File { file, bytes } in &self.prepared {
            writeln!(out, "prepared: {} ({})", plain(file), size(*bytes))?;
        }
        for File { file, bytes } in &self.foreign {
            writeln!(out, "foreign: {} ({})", plain(file), size(*bytes))?;
        }
        Ok(())
    }
}

/// A segment's line and the mark at its end; `None` if it was released meanwhile.
fn segment(found: &Found, is_newest: bool, seen: &Seen) -> Option<(Line, Mark)> {
    let before = found.header.before;
    let mut line = Line {
        id: found.header.id.0,
        file: Some(raw_file_name(&found.path)),
        first: None,
        last: None,
        records: None,
        samples: None,
        bytes: found.disk_bytes,
        first_received_ms: None,
        last_received_ms: None,
        timestamp_min: None,
        timestamp_max: None,
        state: "sealed",
        why: None,
        needed_by: Vec::new(),
    };
    let extent = match found.extent() {
        Ok(extent) => extent?,
        Err(error) => {
            (line.state, line.why) = ("unusable", Some(error.to_string()));
            return Some((line, before));
        }
    };
    let seal = extent.seal;
    let damage = match &found.seal {
        _ if found.is_header_damaged => Some("its header is damaged, the copy is whole".into()),
        Sealing::Damaged => Some("its seal is damaged".into()),
        Sealing::Unreadable(error) => Some(format!("its seal cannot be read: {error}")),
        _ if extent.holes > 0 => Some(count(extent.holes, "place") + " without a valid record"),
        _ => None,
    };
    line.state = match (&found.seal, seen.survey.holder) {
        _ if damage.is_some() => "damaged",
        (Sealing::Sealed(_), _) => "sealed",
        (_, Some(_)) if is_newest => "active",
        _ => "unsealed",
    };
    line.why = damage;
    (line.records, line.samples) = (Some(seal.records), Some(seal.last.total.saturating_sub(before.total)));
    if seal.last.position > before.position {
        (line.first, line.last) = (Some(before.position.next().0), Some(seal.last.position.0));
        line.needed_by = seen.needed_by(seal.last.position).into_iter().map(str::to_owned).collect();
    }
    if seal.records > 0 {
        (line.first_received_ms, line.last_received_ms) = (Some(seal.received_ms.0), Some(seal.received_ms.1));
    }
    if seal.times.min <= seal.times.max {
        (line.timestamp_min, line.timestamp_max) = (Some(seal.times.min), Some(seal.times.max));
    }
    Some((line, seal.last))
}

/// What should be between two segments and is not.
fn missing(from: Mark, next: &Found) -> Line {
    let to = next.header.before;
    Line {
        id: next.header.id.0 - 1,
        file: None,
        first: Some(from.position.next().0),
        last: Some(to.position.0),
        records: Some(to.position.0 - from.position.0),
        samples: Some(to.total.saturating_sub(from.total)),
        bytes: 0,
        first_received_ms: None,
        last_received_ms: None,
        timestamp_min: None,
        timestamp_max: None,
        state: "missing",
        why: None,
        needed_by: Vec::new(),
    }
}

fn unusable(survey: &Survey) -> impl Iterator<Item = Line> {
    survey.unusable.iter().map(|file| Line {
        id: file.id.0,
        file: Some(raw_file_name(&file.path)),
        first: None,
        last: None,
        records: None,
        samples: None,
        bytes: file.bytes,
        first_received_ms: None,
        last_received_ms: None,
        timestamp_min: None,
        timestamp_max: None,
        state: "unusable",
        why: Some(file.why.clone()),
        needed_by: Vec::new(),
    })
}

impl Line {
    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
        let positions = match (self.first, self.last) {
            (Some(first), Some(last)) => positions(Position(first).previous(), Position(last)),
            _ => "-".into(),
        };
        let state = match &self.why {
            Some(why) => format!("{}: {}", self.state, plain(why)),
            None => self.state.to_owned(),
        };
        vec![
            if self.file.is_some() { SegmentId(self.id).to_string() } else { "-".into() },
            positions,
            number(self.records),
            number(self.samples),
            size(self.bytes),
            period(self.first_received_ms, self.last_received_ms),
            period(self.timestamp_min, self.timestamp_max),
            state,
            if self.needed_by.is_empty() { "-".into() } else { self.needed_by.join(",") },
        ]
    }
}

/// `2026-01-31T10:00:00.000Z..10:05:00.000Z`: the day is said once.
fn period(from: Option<i64>, to: Option<i64>) -> String {
    let (Some(from), Some(to)) = (from, to) else { return "-".into() };
    let (from, to) = (point::show(from), point::show(to));
    match (from.split_once('T'), to.split_once('T')) {
        (Some((from_day, _)), Some((to_day, clock))) if from_day == to_day => format!("{from}..{clock}"),
        _ => format!("{from}..{to}"),
    }
}
