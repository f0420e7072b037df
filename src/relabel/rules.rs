//! Rules read from a configuration, checked as Prometheus checks them, and applied to the labels of one series. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::builder::{Builder, TooLarge};
use super::case;
use super::change::Change;
use super::config::{Action, REGEX, REPLACEMENT, RelabelConfig, SEPARATOR};
use super::pattern::{Pattern, PatternError, TEXT_BYTES_MAX, Template};
use super::{Label, METRIC_NAME};

/// External labels and rules, ready to be applied.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(super) external_labels: Vec<(String, String)>,
    pub(super) rules: Vec<Rule>,
}

/// What becomes of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not sent.
    Dropped,
    /// It is sent as it is.
    Unchanged,
    /// It is sent with other labels.
    Changed(Change),
}

impl Rules {
    /// Reads the rules; `configs` are applied in their order.
    ///
    /// # Errors
    /// What Prometheus refuses at its start, and an expression that is too large or nested too deep for the engine.
    pub fn new(external_labels: &BTreeMap<String, String>, configs: &[RelabelConfig]) -> Result<Rules, RuleError> {
        if let Some(value) = external_labels.get("") {
            let place = Place::ExternalLabel { name: String::new() };
            return Err(RuleError { place, value: Some(quoted(value)), problem: Problem::NotAName });
        }
        let external_labels = external_labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let rules =
            configs.iter().enumerate().map(|(index, config)| Rule::new(config).map_err(|fault| fault.at(index)));
        Ok(Rules { external_labels, rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether there is nothing to do: series need not be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.external_labels.is_empty() && self.rules.is_empty()
    }

    /// Names and values, by name.
    #[must_use]
    pub fn external_labels(&self) -> &[(String, String)] {
        &self.external_labels
    }

    /// What each rule does, in their order.
    pub fn actions(&self) -> impl ExactSizeIterator<Item = Action> {
        self.rules.iter().map(|rule| rule.action)
    }

    /// Applies them to one series: labels sorted by name, each once, no value empty.
    #[must_use]
    pub fn apply(&self, labels: &[Label<'_>]) -> Outcome {
        let Some(mut builder) = Builder::new(labels) else { return Outcome::Dropped };
        self.add_external_labels(&mut builder);
        let is_kept = self.rules.iter().all(|rule| rule.apply(&mut builder) == Ok(Fate::Kept));
        if !is_kept || builder.value(METRIC_NAME).is_empty() {
            return Outcome::Dropped;
        }
        let change = builder.change();
        if change.is_empty() { Outcome::Unchanged } else { Outcome::Changed(change) }
    }

    pub(super) fn add_external_labels<'a>(&'a self, builder: &mut Builder<'a>) {
        for (name, value) in &self.external_labels {
            if builder.value(name).is_empty() {
                // Too large for any receiver is also too large for a configuration.
                let _: Result<(), TooLarge> = builder.set(name.into(), value.into());
            }
        }
    }
}

/// What one rule makes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Dropped,
}

/// One rule with the action it takes.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) action: Action,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    Replace { source: Source, pattern: Pattern, target: Template, replacement: Template },
    DropIfMatch { source: Source, pattern: Pattern, is: bool },
    DropIfEqual { source: Source, target: String, is: bool },
    HashMod { source: Source, target: String, modulus: u64 },
    LabelMap { pattern: Pattern, replacement: Template },
    RemoveIfMatch { pattern: Pattern, is: bool },
    Map { source: Source, target: String, map: fn(&str) -> String },
}

#[derive(Clone, Debug)]
struct Source {
    labels: Vec<String>,
    separator: String,
}

impl Source {
    fn joined(&self, builder: &Builder<'_>) -> Result<String, TooLarge> {
        let mut joined = String::new();
        for (number, label) in self.labels.iter().enumerate() {
            if number > 0 {
                joined.push_str(&self.separator);
            }
            joined.push_str(builder.value(label));
            if joined.len() > TEXT_BYTES_MAX {
                return Err(TooLarge);
            }
        }
        Ok(joined)
    }
}

impl Rule {
    fn new(config: &RelabelConfig) -> Result<Rule, Fault> {
        let action = config.action;
        refuse_foreign_keys(config)?;
        let labels = config.source_labels.clone().unwrap_or_default();
        if labels.iter().any(String::is_empty) {
            return Err(Fault::new("source_labels", Some(format!("{labels:?}")), Problem::NotAName));
        }
        let source = Source { labels, separator: config.separator.clone().unwrap_or_else(|| SEPARATOR.into()) };
        // Also where it is of no use: it is read all the same, and may be wrong.
        let expression = config.regex.as_deref().unwrap_or(REGEX);
        let pattern = Pattern::new(expression)
            .map_err(|error| Fault::new("regex", Some(quoted(expression)), Problem::Pattern(error)))?;
        let target = || {
            let target = config.target_label.clone().filter(|target| !target.is_empty());
            target.ok_or_else(|| Fault::new("target_label", None, Problem::Missing { action }))
        };
        let replacement = config.replacement.as_deref().unwrap_or(REPLACEMENT);
        let work = match action {
            Action::Replace => {
                let (target, replacement) = (Template::new(&target()?, &pattern), Template::new(replacement, &pattern));
                Work::Replace { source, pattern, target, replacement }
            }
            Action::Keep | Action::Drop => Work::DropIfMatch { source, pattern, is: action == Action::Drop },
            Action::KeepEqual | Action::DropEqual => {
                Work::DropIfEqual { source, target: target()?, is: action == Action::DropEqual }
            }
            Action::HashMod => {
                let modulus = config.modulus.filter(|modulus| *modulus > 0);
                let missing = || Fault::new("modulus", None, Problem::Missing { action });
                Work::HashMod { source, target: target()?, modulus: modulus.ok_or_else(missing)? }
            }
            Action::LabelMap if replacement.is_empty() => {
                return Err(Fault::new("replacement", Some(quoted("")), Problem::NotAName));
            }
            Action::LabelMap => Work::LabelMap { replacement: Template::new(replacement, &pattern), pattern },
            Action::LabelDrop | Action::LabelKeep => Work::RemoveIfMatch { pattern, is: action == Action::LabelDrop },
            Action::Lowercase => Work::Map { source, target: target()?, map: case::lower },
            Action::Uppercase => Work::Map { source, target: target()?, map: case::upper },
        };
        Ok(Rule { action, work })
    }

    /// # Errors
    /// What it would look at or write is too large; some of it may be written.
    pub(super) fn apply<'a>(&'a self, builder: &mut Builder<'a>) -> Result<Fate, TooLarge> {
        let is_dropped = match &self.work {
            Work::DropIfMatch { source, pattern, is } => pattern.is_match(&source.joined(builder)?) == *is,
            Work::DropIfEqual { source, target, is } => (builder.value(target) == source.joined(builder)?) == *is,
            Work::Replace { source, pattern, target, replacement } => {
                let joined = source.joined(builder)?;
                if let Some(captures) = pattern.captures(&joined) {
                    let fill = |template: &'a Template| match template.constant() {
                        Some(text) => Ok(Cow::Borrowed(text)),
                        None => {
                            let mut text = String::new();
                            template.fill(&captures, &mut text).map(|()| Cow::Owned(text)).ok_or(TooLarge)
                        }
                    };
                    let target = fill(target)?;
                    // What is no name is not written.
                    if !target.is_empty() {
                        builder.set(target, fill(replacement)?)?;
                    }
                }
                false
            }
            Work::HashMod { source, target, modulus } => {
                let hash = md5::compute(source.joined(builder)?).0;
                let last = hash[8..].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
                builder.set(target.into(), (last % modulus).to_string().into())?;
                false
            }
            Work::Map { source, target, map } => {
                let mapped = map(&source.joined(builder)?);
                builder.set(target.into(), mapped.into())?;
                false
            }
            Work::LabelMap { pattern, replacement } => {
                for (name, value) in builder.labels() {
                    if pattern.is_match(&name) {
                        let new = pattern.replace_all(&name, replacement).ok_or(TooLarge)?;
                        // Prometheus would write a label without a name, and no receiver would take it.
                        if !new.is_empty() {
                            builder.set(new.into(), value)?;
                        }
                    }
                }
                false
            }
            Work::RemoveIfMatch { pattern, is } => {
                for (name, _) in builder.labels() {
                    if pattern.is_match(&name) == *is {
                        builder.remove(name);
                    }
                }
                false
            }
        };
        Ok(if is_dropped { Fate::Dropped } else { Fate::Kept })
    }
}

/// Keys that an action has no use for are errors where they are for Prometheus; it lets many others pass.
fn refuse_foreign_keys(config: &RelabelConfig) -> Result<(), Fault> {
    let action = config.action;
    let foreign: &[&str] = match action {
        Action::KeepEqual | Action::DropEqual => &["regex", "modulus", "separator", "replacement"],
        Action::LabelDrop | Action::LabelKeep => {
            &["source_labels", "target_label", "modulus", "separator", "replacement"]
        }
        Action::Lowercase | Action::Uppercase => &["replacement"],
        _ => &[],
    };
    // Not an error is what is given and the default all the same; but for lists and expressions Prometheus does not compare.
    let text = |text: &Option<String>, default: &str| text.as_deref().filter(|text| *text != default).map(quoted);
    let given = [
        ("source_labels", config.source_labels.as_ref().map(|labels| format!("{labels:?}"))),
        ("regex", config.regex.as_deref().map(quoted)),
        ("modulus", config.modulus.filter(|modulus| *modulus != 0).map(|modulus| modulus.to_string())),
        ("separator", text(&config.separator, SEPARATOR)),
        ("target_label", text(&config.target_label, "")),
        ("replacement", text(&config.replacement, REPLACEMENT)),
    ];
    match given.into_iter().find(|(key, value)| value.is_some() && foreign.contains(key)) {
        Some((key, value)) => Err(Fault::new(key, value, Problem::Foreign { action })),
        None => Ok(()),
    }
}

/// As one would write it in a configuration.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// What is wrong in one rule.
struct Fault {
    key: &'static str,
    value: Option<String>,
    problem: Problem,
}

impl Fault {
    fn new(key: &'static str, value: Option<String>, problem: Problem) -> Fault {
        Fault { key, value, problem }
    }

    fn at(self, index: usize) -> RuleError {
        let place = Place::Config { index, key: self.key };
        RuleError { place, value: self.value, problem: self.problem }
    }
}

/// The rules cannot be used: the first thing in them that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RuleError {
    /// Where it is.
    pub place: Place,
    /// What is written there, as it is written, if anything is.
    pub value: Option<String>,
    /// Why that is wrong.
    pub problem: Problem,
}

/// `write_relabel_configs[2].regex = "a**": `**` repeats a repetition`
impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// A place in the configuration of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An entry of `external_labels`.
    ExternalLabel {
        /// The label's.
        name: String,
    },
    /// An entry of `write_relabel_configs`.
    Config {
        /// Counted from 0.
        index: usize,
        /// In that entry.
        key: &'static str,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::ExternalLabel { name } => write!(f, "external_labels.{name:?}"),
            Place::Config { index, key } => write!(f, "write_relabel_configs[{index}].{key}"),
        }
    }
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("is missing, empty or 0: the action {action} needs it")]
    Missing { action: Action },
    #[error("the action {action} has no use for it")]
    Foreign { action: Action },
    #[error("a label's name is not empty")]
    NotAName,
    #[error(transparent)]
    Pattern(#[from] PatternError),
}
