//! What a test of rules has shown: as JSON it is what stands here, as text it is said in words.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::log::Read;
use super::series::Series;
use super::tally::{Collision, Collisions, Known, RuleTally, Sums, Tally};
use crate::cli::wal::content::Labels;
use crate::cli::wal::text::{Quoted, Table, count, plain, series as shown_series};
use crate::clock::point;
use crate::relabel::Rules;
use crate::relabel::explain::{By, Difference, Effect, Explanation, Step, Why};

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub targets: Vec<TargetReport>,
    /// `None`: it was not read.
    pub log: Option<LogReport>,
}

/// Of one target.
#[derive(Debug, Serialize)]
pub struct TargetReport {
    pub name: String,
    external_labels: usize,
    rules: usize,
    /// Those of the command line.
    pub series: Vec<Explained>,
    pub log: Option<Summary>,
}

/// What was read of the log.
#[derive(Debug, Serialize)]
pub struct LogReport {
    directory: String,
    last_seconds: f64,
    #[serde(skip)]
    last: Duration,
    from: Option<String>,
    to: Option<String>,
    records: u64,
    series: u64,
    samples: u64,
    /// There are more series, and these samples are theirs.
    is_cut: bool,
    unknown_samples: u64,
    is_incomplete: bool,
}

/// What becomes of one series.
#[derive(Debug, Serialize)]
pub struct Explained {
    series: String,
    labels: Labels,
    steps: Vec<StepReport>,
    result: &'static str,
    /// `None` if it is filtered.
    sent_as: Option<String>,
    sent_labels: Option<Labels>,
    filtered_by: Option<Actor>,
}

/// What acts on series.
#[derive(Clone, Debug, Serialize)]
struct Actor {
    by: String,
    action: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct StepReport {
    #[serde(flatten)]
    actor: Actor,
    effect: &'static str,
    why: Option<&'static str>,
    differences: Vec<DifferenceReport>,
}

#[derive(Debug, Serialize)]
struct DifferenceReport {
    name: String,
    before: Option<String>,
    after: Option<String>,
}

/// What becomes of the series in the log.
#[derive(Debug, Serialize)]
pub struct Summary {
    series: Sums,
    samples: Sums,
    rules: Vec<RuleReport>,
    collisions: CollisionsReport,
}

#[derive(Debug, Serialize)]
struct RuleReport {
    #[serde(flatten)]
    actor: Actor,
    seen: u64,
    changed: u64,
    dropped: u64,
    changed_example: Option<Example>,
    dropped_example: Option<Example>,
}

#[derive(Debug, Serialize)]
struct Example {
    series: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<DifferenceReport>,
}

#[derive(Debug, Serialize)]
struct CollisionsReport {
    before: u64,
    after: u64,
    examples: Vec<CollisionReport>,
}

#[derive(Debug, Serialize)]
struct CollisionReport {
    series: Vec<String>,
    sent_as: String,
}

impl TargetReport {
    /// Nothing is shown yet.
    pub fn new(name: &str, rules: &Rules) -> TargetReport {
        TargetReport {
            name: name.to_owned(),
            external_labels: rules.external_labels().len(),
            rules: rules.actions().len(),
            series: Vec::new(),
            log: None,
        }
    }

    fn has_rules(&self) -> bool {
        self.external_labels + self.rules > 0
    }
}

impl LogReport {
    /// Of what was read.
    pub fn new(directory: &Path, last: Duration, read: &Read<'_>) -> LogReport {
        let Read { window, records, samples, unknown_samples, is_incomplete, ref known, .. } = *read;
        LogReport {
            directory: directory.display().to_string(),
            last_seconds: last.as_secs_f64(),
            last,
            from: window.map(|(from, _)| point::show(from)),
            to: window.map(|(_, to)| point::show(to)),
            records,
            series: known.len() as u64,
            samples,
            is_cut: known.is_full(),
            unknown_samples,
            is_incomplete,
        }
    }
}

impl Actor {
    fn new(by: By) -> Actor {
        match by {
            By::ExternalLabels => Actor { by: "external_labels".into(), action: None },
            By::Config { index, action } => {
                Actor { by: format!("write_relabel_configs[{index}]"), action: Some(action.as_str()) }
            }
            By::End => Actor { by: "end".into(), action: None },
        }
    }

    /// `write_relabel_configs[0] (keep)`
    fn show(&self) -> String {
        let action = self.action.map(|action| format!(" ({action})")).unwrap_or_default();
        format!("{}{action}", self.by)
    }
}

impl DifferenceReport {
    fn all(differences: &[Difference]) -> Vec<DifferenceReport> {
        let some = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
        let differences = differences.iter().map(|Difference { name, before, after }| DifferenceReport {
            name: name.clone(),
            before: some(before),
            after: some(after),
        });
        differences.collect()
    }

    /// `job="a" becomes "b"`
    fn show(&self) -> String {
        let name = plain(&self.name);
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => format!("{name}={} becomes {}", Quoted(before), Quoted(after)),
            (Some(before), None) => format!("{name}={} is removed", Quoted(before)),
            (None, Some(after)) => format!("{name}={} is added", Quoted(after)),
            (None, None) => format!("{name} is not there"),
        }
    }
}

fn shown(differences: &[DifferenceReport]) -> String {
    differences.iter().map(DifferenceReport::show).collect::<Vec<_>>().join(", ")
}

/// What becomes of a series, step by step.
pub fn explain(rules: &Rules, series: &Series) -> Explained {
    let Explanation { steps, labels: sent } = rules.explain(&series.pairs());
    let filtered_by = sent.is_none().then(|| steps.last().map(|step| Actor::new(step.by))).flatten();
    let sent = sent.map(Labels);
    let labels = Labels(series.0.clone());
    Explained {
        series: shown_series(&labels.pairs()),
        result: match &sent {
            None => "filtered",
            Some(sent) if *sent == labels => "unchanged",
            Some(_) => "changed",
        },
        steps: steps.iter().map(StepReport::new).collect(),
        sent_as: sent.as_ref().map(|sent| shown_series(&sent.pairs())),
        sent_labels: sent,
        filtered_by,
        labels,
    }
}

impl StepReport {
    fn new(step: &Step) -> StepReport {
        let (effect, why, differences) = match &step.effect {
            Effect::Unchanged => ("unchanged", None, Vec::new()),
            Effect::Changed(differences) => ("changed", None, DifferenceReport::all(differences)),
            Effect::Dropped(why) => {
                let why = match why {
                    Why::Rule => "rule",
                    Why::TooLarge => "too_large",
                    Why::NoMetricName => "no_metric_name",
                };
                ("dropped", Some(why), Vec::new())
            }
        };
        StepReport { actor: Actor::new(step.by), effect, why, differences }
    }

    fn show(&self) -> String {
        let what = match (self.effect, self.why) {
            ("changed", _) => shown(&self.differences),
            (_, Some("too_large")) => "drops it: a label would become larger than 16 MiB".to_owned(),
            (_, Some("no_metric_name")) => "drops it: no __name__ is left".to_owned(),
            (_, Some(_)) => "drops it".to_owned(),
            (effect, None) => effect.to_owned(),
        };
        format!("{}: {what}", self.actor.show())
    }
}

/// What becomes of the series in the log.
pub fn summary(tally: &Tally<'_>, known: &Known) -> Summary {
    let example = |number: u32, differences: &[Difference]| Example {
        series: known.text(number).to_owned(),
        differences: DifferenceReport::all(differences),
    };
    let rules = tally.by_rule.iter().map(|rule| {
        let RuleTally { by, seen, changed, dropped, changed_example, dropped_example } = rule;
        RuleReport {
            actor: Actor::new(*by),
            seen: *seen,
            changed: *changed,
            dropped: *dropped,
            changed_example: changed_example.as_ref().map(|(number, differences)| example(*number, differences)),
            dropped_example: dropped_example.map(|number| example(number, &[])),
        }
    });
    let Collisions { before, after, examples } = &tally.collisions;
    let examples = examples.iter().map(|Collision { series, sent }| CollisionReport {
        series: series.iter().map(|number| known.text(*number).to_owned()).collect(),
        sent_as: shown_series(&Series(sent.clone()).pairs()),
    });
    Summary {
        series: tally.series,
        samples: tally.samples,
        // The end is worth a line only if something came to nothing there.
        rules: rules.filter(|rule| rule.actor.by != "end" || rule.dropped > 0).collect(),
        collisions: CollisionsReport { before: *before, after: *after, examples: examples.collect() },
    }
}

impl Report {
    /// In words.
    pub fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.targets.is_empty() {
            let keys = "neither external_labels nor write_relabel_configs";
            return writeln!(out, "no target has rules ({keys}): each is sent everything as it is");
        }
        if let Some(log) = &self.log {
            log.show(out)?;
        }
        let is_empty = self.log.as_ref().is_some_and(|log| log.records == 0);
        for target in &self.targets {
            target.show(is_empty, out)?;
        }
        Ok(())
    }
}

impl LogReport {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let directory = plain(&self.directory);
        let (Some(from), Some(to)) = (&self.from, &self.to) else {
            let why = "what every target has settled is released at once, unless wal.retain keeps it";
            return writeln!(out, "the log in {directory} holds no requests: {why}");
        };
        let last = humantime::format_duration(self.last);
        writeln!(out, "the last {last} of the log in {directory}: received {from} to {to}")?;
        let (requests, samples) = (count(self.records, "request"), count(self.samples, "sample"));
        let at_least = if self.is_cut { "at least " } else { "" };
        writeln!(out, "  {requests}, {samples} of {at_least}{} series", self.series)?;
        if self.is_cut {
            let unknown = count(self.unknown_samples, "sample");
            writeln!(
                out,
                "  only the first {} series are told apart (see --series-max): below, {unknown} of others are among the samples, and nowhere else",
                self.series
            )?;
        }
        if self.is_incomplete {
            writeln!(out, "  some of it is damaged or missing, and not counted")?;
        }
        Ok(())
    }
}

impl TargetReport {
    fn show(&self, is_log_empty: bool, out: &mut dyn Write) -> io::Result<()> {
        let name = plain(&self.name);
        if self.has_rules() {
            let (labels, rules) =
                (count(self.external_labels as u64, "external label"), count(self.rules as u64, "rule"));
            writeln!(out, "target {name}: {labels}, {rules}")?;
        } else {
            writeln!(
                out,
                "target {name} has no rules (neither external_labels nor write_relabel_configs): it is sent everything as it is"
            )?;
        }
        for series in &self.series {
            series.show(out)?;
        }
        match &self.log {
            Some(log) if !is_log_empty => log.show(out),
            _ => Ok(()),
        }
    }
}

impl Explained {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "  {}", self.series)?;
        for step in &self.steps {
            writeln!(out, "    {}", step.show())?;
        }
        match (&self.sent_as, &self.filtered_by) {
            (Some(_), _) if self.result == "unchanged" => writeln!(out, "    => sent as it is"),
            (Some(sent), _) => writeln!(out, "    => sent as {sent}"),
            (None, Some(actor)) if actor.by != "end" => writeln!(out, "    => filtered by {}", actor.show()),
            (None, _) => writeln!(out, "    => filtered: without a name no receiver takes it"),
        }
    }
}

/// `12.5%`, of nothing `-`.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

impl Summary {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["", "SERIES", "", "SAMPLES", ""], &[false, true, true, true, true]);
        let Summary { series, samples, .. } = self;
        for (word, series_of, samples_of) in [
            ("seen", series.seen, samples.seen),
            ("unchanged", series.unchanged, samples.unchanged),
            ("changed", series.changed, samples.changed),
            ("filtered", series.filtered, samples.filtered),
        ] {
            let part = |of: u64, seen: u64| if word == "seen" { String::new() } else { percent(of, seen) };
            table.row(vec![
                format!("  {word}"),
                series_of.to_string(),
                part(series_of, series.seen),
                samples_of.to_string(),
                part(samples_of, samples.seen),
            ]);
        }
        write!(out, "{table}")?;
        writeln!(out, "  rule by rule:")?;
        for rule in &self.rules {
            rule.show(out)?;
        }
        let CollisionsReport { before, after, examples } = &self.collisions;
        if *after > 0 {
            let shown = if *after > examples.len() as u64 { ", for example" } else { "" };
            writeln!(
                out,
                "  WARNING: {before} series become {after}. The target gets the samples of several as those of one, and refuses most of them or mixes them up{shown}:"
            )?;
            for CollisionReport { series, sent_as } in examples {
                for series in series {
                    writeln!(out, "    {series}")?;
                }
                writeln!(out, "      => {sent_as}")?;
            }
        }
        Ok(())
    }
}

impl RuleReport {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let RuleReport { actor, seen, changed, dropped, changed_example, dropped_example } = self;
        let actor = actor.show();
        let of = format!("of {seen} series");
        match (dropped, changed) {
            (0, 0) if *seen == 0 => writeln!(out, "    {actor}: no series comes to it")?,
            (0, 0) => writeln!(out, "    {actor}: changes and drops none {of}")?,
            (_, 0) => writeln!(out, "    {actor}: drops {dropped} {of}, for example")?,
            (0, _) => writeln!(out, "    {actor}: changes {changed} {of}, for example")?,
            _ => writeln!(out, "    {actor}: changes {changed} and drops {dropped} {of}, for example")?,
        }
        if let Some(Example { series, differences }) = changed_example {
            writeln!(out, "      {series}: {}", shown(differences))?;
        }
        if let Some(Example { series, .. }) = dropped_example {
            writeln!(out, "      {series}")?;
        }
        Ok(())
    }
}
