//! `promrelay relabel`: what targets' rules do, shown before anything is sent. Nothing is locked, and nothing is changed.
//!
//! ```text
//!   series from the command line ---> series ---> Rules::explain ---> each step, and what is sent
//!   the log's last minutes ---------> log ------> tally ------------> how many, by rule, with examples; which become one
//!                                                                     '--> report: as text, or as JSON
//! ```

mod log;
mod report;
mod series;
mod tally;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::say;
use super::wal::text::json;
use super::wal::{Seen, ToolError, ended};
use crate::config::Config;
use crate::target::Settings;
use report::{LogReport, Report, TargetReport};
use series::Series;

/// Read when nothing else is asked for.
const LAST: Duration = Duration::from_secs(300);

/// What to do with rules.
#[derive(Debug, Args)]
pub struct Relabel {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what targets' rules do to given series, and to the last minutes of the log.
    Test(Test),
}

const AFTER_HELP: &str = "The rules are those of the configuration (`external_labels`, then `write_relabel_configs`), which need not be the one \
    that a relay runs with: so new rules can be tried on the log of a running relay. Nothing is sent, locked or changed.\n\n\
    Exit code: 0 it was shown, 1 the log cannot be read or some of it is damaged, 2 the configuration or the command line is wrong.\n\n\
    Examples:\n  promrelay relabel test\n  promrelay relabel test --target central 'up{job=\"node\",instance=\"h:80\"}'\n  \
    promrelay relabel test '{\"my.metric\",\"http.code\"=\"200\"}' --json | jq .\n  \
    promrelay relabel test --config new.toml --dir /var/lib/promrelay --log 1h";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Test {
    /// A series: up{job="a"}, {__name__="up",job="a"} or {"my.metric",job="a"}. Without any, the log is read.
    #[arg(value_name = "SERIES", value_parser = series::parse)]
    series: Vec<Series>,

    /// Only the rules of this target. Default: of all that have rules.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,

    /// Also what was received in the last minutes, counted back from the newest request: 5m, 1h 30m. Default: 5m without a series, else nothing.
    #[arg(long, value_name = "DURATION", value_parser = parse_last)]
    log: Option<Duration>,

    /// Read the log in this directory instead of the one that the configuration names.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// How many series of the log are told apart at most. Of those that come later only the samples are counted. Each takes a few hundred bytes of memory.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    series_max: u32,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_last(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("not a duration such as 5m: {error}")),
    }
}

/// Runs a command.
pub fn run(config: &Config, relabel: &Relabel) -> ExitCode {
    let Command::Test(test) = &relabel.command;
    let targets: Vec<&Settings> = match &test.target {
        Some(name) => config.targets.iter().filter(|target| target.name == *name).collect(),
        None => config.targets.iter().filter(|target| !target.relabeling.is_empty()).collect(),
    };
    if let (Some(name), []) = (&test.target, &targets[..]) {
        let known: Vec<&str> = config.targets.iter().map(|target| &*target.name).collect();
        say(&format!("there is no target {name:?} in the configuration; it has: {}", known.join(", ")));
        return ExitCode::from(2);
    }
    ended(test.run(config, &targets))
}

impl Test {
    fn run(&self, config: &Config, targets: &[&Settings]) -> Result<ExitCode, ToolError> {
        let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        let with_rules: Vec<&Settings> =
            targets.iter().copied().filter(|target| !target.relabeling.is_empty()).collect();
        let last = self.log.or_else(|| self.series.is_empty().then_some(LAST)).filter(|_| !with_rules.is_empty());
        let directory = self.dir.as_deref().unwrap_or(&config.wal_dir);
        let read = match last {
            Some(last) => {
                let seen = Seen::look(directory)?;
                let rules = with_rules.iter().map(|target| &target.relabeling);
                Some((last, log::read(&seen.survey, last, self.series_max as usize, rules)?))
            }
            None => None,
        };
        let mut report = Report {
            targets: targets.iter().map(|target| TargetReport::new(&target.name, &target.relabeling)).collect(),
            log: read.as_ref().map(|(last, read)| LogReport::new(directory, *last, read)),
        };
        for (target, report) in targets.iter().zip(&mut report.targets) {
            report.series = self.series.iter().map(|series| report::explain(&target.relabeling, series)).collect();
        }
        if let Some((_, read)) = &read {
            for (target, tally) in with_rules.iter().zip(&read.tallies) {
                let report = report.targets.iter_mut().find(|report| report.name == target.name);
                report.expect("each target has a report").log = Some(report::summary(tally, &read.known));
            }
        }
        if self.json {
            json(&mut out, &report)?;
            writeln!(out)?;
        } else {
            report.show(&mut out)?;
        }
        out.flush()?;
        let is_incomplete = read.is_some_and(|(_, read)| read.is_incomplete);
        Ok(if is_incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
