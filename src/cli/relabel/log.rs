//! The last minutes of a log, as the rules of targets see them. Read as the tools for the log read: beside a running relay or without one.
//!
//! Requests whose series are all known are not looked into any further than to count: the labels are read when one of them is not.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use super::tally::{Known, Tally, tenant};
use crate::cli::say;
use crate::cli::wal::records::{Record, Selection, Visitor};
use crate::protocol::rewrite::{Verdict, rewrite};
use crate::protocol::text::series;
use crate::protocol::wire::Malformed;
use crate::protocol::{Protocol, entries, snappy};
use crate::relabel::Rules;
use crate::wal::record::{Kind, Meta};
use crate::wal::survey::Survey;

/// What was read, and what the rules made of it.
#[derive(Debug)]
pub struct Read<'a> {
    /// The first and the last moment of which requests were read, in ms since 1970: the last is that of the newest request. `None`: the log is empty.
    pub window: Option<(i64, i64)>,
    /// Requests.
    pub records: u64,
    /// Samples of all series.
    pub samples: u64,
    /// Samples of series that are not known.
    pub unknown_samples: u64,
    /// Something that may belong here is damaged or missing.
    pub is_incomplete: bool,
    /// The series.
    pub known: Known,
    /// In the order of the rules given.
    pub tallies: Vec<Tally<'a>>,
}

/// Reads what was received in the time before the newest request.
///
/// # Errors
/// None of the log's: what cannot be read is said on stderr.
pub fn read<'a>(
    survey: &Survey,
    last: Duration,
    series_max: usize,
    rules: impl Iterator<Item = &'a Rules>,
) -> io::Result<Read<'a>> {
    let until = newest(survey);
    let last = i64::try_from(last.as_millis()).unwrap_or(i64::MAX);
    let window = until.map(|until| (until.saturating_sub(last), until));
    let mut reading = Reading {
        read: Read {
            window,
            records: 0,
            samples: 0,
            unknown_samples: 0,
            is_incomplete: false,
            known: Known::new(series_max),
            tallies: rules.map(Tally::new).collect(),
        },
        message: Vec::new(),
    };
    if let Some((since, until)) = window {
        let selection = Selection { positions: None, since: Some(since), until: Some(until), with_bodies: true };
        selection.visit(survey, &mut reading)?;
    }
    Ok(reading.read)
}

/// When the newest request was received.
fn newest(survey: &Survey) -> Option<i64> {
    survey.segments.iter().rev().find_map(|found| {
        // What cannot be read is said when it is read.
        let seal = found.extent().ok()??.seal;
        (seal.records > 0).then(|| seal.received_ms.0.max(seal.received_ms.1))
    })
}

struct Reading<'a> {
    read: Read<'a>,
    /// Memory for a decompressed request.
    message: Vec<u8>,
}

/// Why a request cannot be looked into. It was stored as it came, and its checksum is right.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("cannot be decompressed: {0}")]
    Snappy(#[from] snappy::SnappyError),
    #[error("is not a message of its protocol: {0}")]
    Malformed(#[from] Malformed),
}

impl Visitor for Reading<'_> {
    fn record(&mut self, record: &Record<'_>) -> io::Result<ControlFlow<()>> {
        match self.take(record) {
            Ok(()) => self.read.records += 1,
            Err(error) => self.missing(&format!("the body of position {} {error}", record.header.position))?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn missing(&mut self, what: &str) -> io::Result<()> {
        self.read.is_incomplete = true;
        say(what);
        Ok(())
    }
}

impl Reading<'_> {
    fn take(&mut self, record: &Record<'_>) -> Result<(), BodyError> {
        let (meta, body) = record.parts();
        let tenant = tenant(&Meta::decode(meta).unwrap_or_default().forwarded);
        let protocol = match record.header.kind {
            Kind::Write2 => Protocol::V2,
            Kind::Write1 | Kind::Seal => Protocol::V1,
        };
        let Reading { read, message } = self;
        snappy::decompress_into(body, record.header.decoded_len, message)?;
        let entries = entries::entries(protocol, message)?;
        let identity = |series: u64| series ^ tenant;
        let is_known = |known: &Known, series: u64| known.get(identity(series)).is_some();
        if entries.iter().any(|entry| !is_known(&read.known, entry.series)) {
            rewrite(protocol, message, |found, _| {
                let entry = &entries[found.index as usize];
                if !is_known(&read.known, entry.series) {
                    let samples = u64::from(entry.samples) + u64::from(entry.histograms);
                    read.meet(identity(entry.series), tenant, found.labels, samples);
                }
                Verdict::Keep
            })?;
        }
        for entry in &entries {
            let samples = u64::from(entry.samples) + u64::from(entry.histograms);
            read.samples += samples;
            if let Some(number) = read.known.get(identity(entry.series)) {
                read.tallies.iter_mut().for_each(|tally| tally.count(number, samples));
            }
        }
        Ok(())
    }
}

impl Read<'_> {
    /// Takes in a series that is not known. If it cannot become known its samples are counted here.
    fn meet(&mut self, identity: u64, tenant: u64, labels: &[crate::relabel::Label<'_>], samples: u64) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let mut labels: Vec<(String, String)> = labels.map(|(name, value)| (text(*name), text(*value))).collect();
        labels.sort_unstable();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        match self.known.add(identity, &series(&labels)) {
            Some(number) => self.tallies.iter_mut().for_each(|tally| tally.learn(number, tenant, &labels)),
            None => {
                self.unknown_samples += samples;
                self.tallies.iter_mut().for_each(|tally| tally.count_unknown(&labels, samples));
            }
        }
    }
}
