//! `promrelay wal dump`: records as text or as JSON, one object a line.

use std::io::{self, Write};
use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::content::{self, Content, Histogram, Labels, Series};
use super::records::{Record, Selection, Visitor};
use super::text::{Quoted, count, json, series as shown_series, size};
use super::{Common, Seen, ToolError};
use crate::clock::now_ms;
use crate::clock::point::{self, TimeError};
use crate::protocol::Protocol;
use crate::wal::record::{Header, Kind, Meta};

const AFTER_HELP: &str = "Filters hold together: what is shown fits all of them. Damaged records are named on stderr; if \
    one of them may have been asked for, the exit code is 1. A running relay's newest records may not have been \
    acknowledged yet.\n\n\
    Examples:\n  promrelay wal dump --position 4711\n  promrelay wal dump --since -10m --metric up\n  \
    promrelay wal dump --match 'job=\"node\"' --json | jq .";

/// Show records.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Dump {
    #[command(flatten)]
    pub(super) common: Common,

    /// Only these positions, both ends included: 100..200, 100.., ..200 or 100.
    #[arg(long, value_name = "RANGE", value_parser = parse_positions)]
    position: Option<RangeInclusive<u64>>,

    /// Only what was received at this time or later: 2026-01-31T10:00:00Z, -2h, now, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    since: Option<i64>,

    /// Only what was received before this time or at it.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    until: Option<i64>,

    /// Only series with this name, and records with such a series.
    #[arg(long, value_name = "NAME", conflicts_with = "headers")]
    metric: Option<String>,

    /// Only series with this label; may be given several times.
    #[arg(long = "match", value_name = "NAME=\"VALUE\"", value_parser = parse_match, conflicts_with = "headers")]
    matches: Vec<(String, String)>,

    /// Stop after so many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Only the records' headers, not what is in them. Bodies are not read.
    #[arg(long)]
    headers: bool,
}

fn parse_positions(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str, otherwise: u64| match text {
        "" => Ok(otherwise),
        _ => text.parse().map_err(|_| format!("{text:?} is not a position")),
    };
    let (first, last) = match text.split_once("..") {
        Some(("", "")) => return Err("a range needs at least one end".into()),
        Some((first, last)) => (number(first, 0)?, number(last, u64::MAX)?),
        None => text.parse().map(|position| (position, position)).map_err(|_| format!("{text:?} is not a position"))?,
    };
    if first > last { Err(format!("{first} lies behind {last}")) } else { Ok(first..=last) }
}

fn parse_time(text: &str) -> Result<i64, TimeError> {
    point::parse_time(text, now_ms())
}

fn parse_match(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a matcher is NAME=\"VALUE\"")?;
    if name.is_empty() || name.ends_with('!') || value.starts_with('~') {
        return Err("only NAME=\"VALUE\" is understood".into());
    }
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Ok((name.to_owned(), quoted.unwrap_or(value).to_owned()))
}

/// A record in JSON.
#[derive(Serialize)]
struct RecordJson<'a> {
    position: u64,
    received: String,
    received_ms: i64,
    protocol: &'static str,
    segment: u64,
    offset: u64,
    bytes: u32,
    decoded_bytes: u32,
    total: u64,
    series_count: u32,
    samples: u32,
    histograms: u32,
    exemplars: u32,
    metadata_count: u32,
    timestamp_min: Option<i64>,
    timestamp_max: Option<i64>,
    #[serde(flatten)]
    inside: Option<Inside<'a>>,
}

#[derive(Serialize)]
struct Inside<'a> {
    sender: Option<std::net::IpAddr>,
    forwarded: Vec<(&'a str, String)>,
    #[serde(flatten)]
    content: Option<&'a Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Where the output goes, and how much went there.
struct Shown<'a> {
    dump: &'a Dump,
    out: &'a mut dyn Write,
    records: u64,
    is_incomplete: bool,
}

impl Visitor for Shown<'_> {
    fn record(&mut self, record: &Record<'_>) -> io::Result<ControlFlow<()>> {
        if self.dump.record(record, self.out)? {
            self.records += 1;
        }
        let is_enough = self.dump.limit.is_some_and(|limit| self.records >= limit);
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn missing(&mut self, what: &str) -> io::Result<()> {
        // What was shown stands before what is said about what comes next.
        self.out.flush()?;
        self.is_incomplete = true;
        super::super::say(what);
        Ok(())
    }
}

impl Dump {
    pub(super) fn run(&self, directory: &Path, out: &mut dyn Write) -> Result<ExitCode, ToolError> {
        let seen = Seen::look(directory)?;
        let Dump { since, until, headers, .. } = *self;
        let selection = Selection { positions: self.position.clone(), since, until, with_bodies: !headers };
        let mut shown = Shown { dump: self, out, records: 0, is_incomplete: false };
        selection.visit(&seen.survey, &mut shown)?;
        Ok(if shown.is_incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// `false`: nothing in it fits.
    fn record(&self, record: &Record<'_>, out: &mut dyn Write) -> io::Result<bool> {
        let (header, payload) = (record.header, record.payload);
        let (meta, body) = record.parts();
        let meta = Meta::decode(meta).unwrap_or_default();
        let (content, error) = match payload.map(|_| content::decode(header.kind, body)) {
            Some(Ok(content)) => match self.select(content) {
                Some(content) => (Some(content), None),
                None => return Ok(false),
            },
            // Whether it fits nobody can say.
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        if self.common.json {
            let forwarded = meta.forwarded.iter().map(|(name, value)| (&**name, String::from_utf8_lossy(value).into()));
            let forwarded = forwarded.collect();
            let inside = payload.map(|_| Inside { sender: meta.sender, forwarded, content: content.as_ref(), error });
            json(out, &RecordJson::of(record, inside))?;
            writeln!(out)?;
        } else {
            self.show(header, &meta, content.as_ref(), error.as_deref(), out)?;
        }
        Ok(true)
    }

    /// What fits; `None` if nothing does.
    fn select(&self, mut content: Content) -> Option<Content> {
        if self.metric.is_none() && self.matches.is_empty() {
            return Some(content);
        }
        let fits = |labels: &Labels| {
            self.metric.as_ref().is_none_or(|name| labels.get("__name__") == name)
                && self.matches.iter().all(|(name, value)| labels.get(name) == value)
        };
        content.series.retain(|series| fits(&series.labels));
        let is_asked_for = |family: &str| self.matches.is_empty() && self.metric.as_deref() == Some(family);
        content.metadata.retain(|metadata| is_asked_for(&metadata.metric_family_name));
        (!content.series.is_empty() || !content.metadata.is_empty()).then_some(content)
    }

    fn show(
        &self,
        header: &Header,
        meta: &Meta,
        content: Option<&Content>,
        error: Option<&str>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let counts = header.counts;
        let mut words = vec![
            header.position.to_string(),
            point::show(header.received_ms),
            protocol(header.kind).to_owned(),
            size(header.body_len.into()),
            format!("{} series", counts.series),
            count(counts.samples.into(), "sample"),
        ];
        for (n, one) in [(counts.histograms, "histogram"), (counts.exemplars, "exemplar")] {
            words.extend((n > 0).then(|| count(n.into(), one)));
        }
        words.extend((counts.metadata > 0).then(|| format!("{} metadata", counts.metadata)));
        words.extend(meta.sender.map(|sender| format!("from {sender}")));
        for (name, value) in &meta.forwarded {
            words.push(format!("{}={}", super::text::plain(name), Quoted(&String::from_utf8_lossy(value))));
        }
        writeln!(out, "{}", words.join("  "))?;
        if let Some(error) = error {
            writeln!(out, "    {}", super::text::plain(error))?;
        }
        let Some(content) = content else { return Ok(()) };
        for series in &content.series {
            show_series(series, out)?;
        }
        for metadata in &content.metadata {
            let family = super::text::plain(&metadata.metric_family_name);
            writeln!(out, "    metadata of {family}: {}", show_metadata(metadata))?;
        }
        Ok(())
    }
}

fn show_metadata(metadata: &content::Metadata) -> String {
    let unit = if metadata.unit.is_empty() { String::new() } else { format!(", unit {}", Quoted(&metadata.unit)) };
    format!("{}, help {}{unit}", metadata.r#type, Quoted(&metadata.help))
}

/// The series, and its data: beside it if that is one thing, else below.
fn show_series(series: &Series, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = Vec::new();
    let started = |ms: i64| if ms == 0 { String::new() } else { format!("  since {}", point::show(ms)) };
    for sample in &series.samples {
        lines.push(format!("{}  {}{}", sample.value, point::show(sample.timestamp), started(sample.start_timestamp)));
    }
    for histogram in &series.histograms {
        lines.push(format!("{}{}", show_histogram(histogram), started(histogram.start_timestamp)));
    }
    for exemplar in &series.exemplars {
        let labels = shown_series(&exemplar.labels.pairs());
        lines.push(format!("exemplar {labels}  {}  {}", exemplar.value, point::show(exemplar.timestamp)));
    }
    if series.created_timestamp != 0 {
        lines.push(format!("created {}", point::show(series.created_timestamp)));
    }
    lines.extend(series.metadata.as_ref().map(|metadata| format!("metadata: {}", show_metadata(metadata))));
    let name = shown_series(&series.labels.pairs());
    match &lines[..] {
        [one] => writeln!(out, "    {name}  {one}"),
        _ => {
            writeln!(out, "    {name}")?;
            lines.iter().try_for_each(|line| writeln!(out, "        {line}"))
        }
    }
}

fn show_histogram(histogram: &Histogram) -> String {
    let Histogram { count, sum, schema, timestamp, .. } = histogram;
    format!("histogram: count {}, sum {sum}, schema {schema}  {}", count.show(), point::show(*timestamp))
}

fn protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::Write2 => Protocol::V2.as_str(),
        Kind::Write1 | Kind::Seal => Protocol::V1.as_str(),
    }
}

impl<'a> RecordJson<'a> {
    fn of(record: &Record<'_>, inside: Option<Inside<'a>>) -> RecordJson<'a> {
        let Record { found, offset, header, .. } = *record;
        let (counts, times) = (header.counts, header.times);
        let has_times = times.min <= times.max;
        RecordJson {
            position: header.position.0,
            received: point::show(header.received_ms),
            received_ms: header.received_ms,
            protocol: protocol(header.kind),
            segment: found.header.id.0,
            offset,
            bytes: header.body_len,
            decoded_bytes: header.decoded_len,
            total: header.total,
            series_count: counts.series,
            samples: counts.samples,
            histograms: counts.histograms,
            exemplars: counts.exemplars,
            metadata_count: counts.metadata,
            timestamp_min: has_times.then_some(times.min),
            timestamp_max: has_times.then_some(times.max),
            inside,
        }
    }
}
