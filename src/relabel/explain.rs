//! What each rule makes of one series, for people. Pure.

use std::fmt;

use super::builder::{Builder, TooLarge};
use super::config::Action;
use super::rules::{Fate, Rules};
use super::{Label, METRIC_NAME};

/// What becomes of a series, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One for each rule that saw the series, in order.
    pub steps: Vec<Step>,
    /// The labels with which it is sent, sorted by name; `None` if it is not.
    pub labels: Option<Vec<(String, String)>>,
}

/// What one rule did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which one.
    pub by: By,
    /// What it did.
    pub effect: Effect,
}

/// What acts on a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The external labels, where there are any.
    ExternalLabels,
    /// A rule.
    Config {
        /// Counted from 0.
        index: usize,
        /// What it does.
        action: Action,
    },
    /// What no rule does: a series left without a metric's name is dropped.
    End,
}

/// What was done to a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Unchanged,
    /// Labels were written or taken away.
    Changed(Vec<Difference>),
    /// It was dropped, and later rules did not see it.
    Dropped(Why),
}

/// Why a series was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule is there for that.
    Rule,
    /// A name or a value would become larger than any receiver takes.
    TooLarge,
    /// No label `__name__` is left.
    NoMetricName,
}

/// A label that was written or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The label's.
    pub name: String,
    /// Empty if there was none.
    pub before: String,
    /// Empty if there is none any more.
    pub after: String,
}

/// `job: "a" -> "b"`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { name, before, after } = self;
        match (before.is_empty(), after.is_empty()) {
            (true, _) => write!(f, "{name}: written, {after:?}"),
            (_, true) => write!(f, "{name}: removed, was {before:?}"),
            _ => write!(f, "{name}: {before:?} -> {after:?}"),
        }
    }
}

/// `write_relabel_configs[0] (keep)`
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::ExternalLabels => f.write_str("external_labels"),
            By::Config { index, action } => write!(f, "write_relabel_configs[{index}] ({action})"),
            By::End => f.write_str("end"),
        }
    }
}

/// `dropped: no __name__ is left`
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Unchanged => f.write_str("unchanged"),
            Effect::Changed(differences) => {
                for (number, difference) in differences.iter().enumerate() {
                    let separator = if number > 0 { "; " } else { "" };
                    write!(f, "{separator}{difference}")?;
                }
                Ok(())
            }
            Effect::Dropped(Why::Rule) => f.write_str("dropped"),
            Effect::Dropped(Why::TooLarge) => f.write_str("dropped: a label would be too large"),
            Effect::Dropped(Why::NoMetricName) => f.write_str("dropped: no __name__ is left"),
        }
    }
}

/// One line for each step.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.by, self.effect)
    }
}

impl Rules {
    /// Everything that acts on a series, in order. The steps of an explanation are the first of these, up to the one that drops the series; but
    /// for the end, which is a step only if it does.
    pub fn actors(&self) -> impl Iterator<Item = By> {
        let external_labels = (!self.external_labels.is_empty()).then_some(By::ExternalLabels);
        let rules = self.actions().enumerate().map(|(index, action)| By::Config { index, action });
        external_labels.into_iter().chain(rules).chain([By::End])
    }

    /// Applies them to one series as [`apply`](Rules::apply) does, and says what each of them did. Labels may come in any order; an empty value is no label.
    #[must_use]
    pub fn explain(&self, labels: &[(&str, &str)]) -> Explanation {
        let mut base: Vec<Label<'_>> =
            labels.iter().filter(|label| !label.1.is_empty()).map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        base.sort_unstable();
        base.dedup_by_key(|(name, _)| *name);
        let mut builder = Builder::new(&base).expect("a str is UTF-8");
        let mut before = sorted(&builder);
        let mut steps = Vec::new();
        let mut step = |by, fate: Result<Fate, TooLarge>, builder: &Builder<'_>| {
            let after = sorted(builder);
            let effect = match fate {
                Ok(Fate::Dropped) => Effect::Dropped(Why::Rule),
                Err(TooLarge) => Effect::Dropped(Why::TooLarge),
                Ok(Fate::Kept) if after == before => Effect::Unchanged,
                Ok(Fate::Kept) => Effect::Changed(differences(&before, &after)),
            };
            before = after;
            steps.push(Step { by, effect });
            fate == Ok(Fate::Kept)
        };
        let mut is_kept = true;
        if !self.external_labels.is_empty() {
            self.add_external_labels(&mut builder);
            is_kept = step(By::ExternalLabels, Ok(Fate::Kept), &builder);
        }
        for (index, rule) in self.rules.iter().enumerate() {
            if is_kept {
                let fate = rule.apply(&mut builder);
                is_kept = step(By::Config { index, action: rule.action }, fate, &builder);
            }
        }
        if is_kept && builder.value(METRIC_NAME).is_empty() {
            steps.push(Step { by: By::End, effect: Effect::Dropped(Why::NoMetricName) });
            is_kept = false;
        }
        Explanation { steps, labels: is_kept.then(|| sorted(&builder)) }
    }
}

fn sorted(builder: &Builder<'_>) -> Vec<(String, String)> {
    let labels = builder.labels().into_iter();
    let mut labels: Vec<_> = labels.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    labels.sort_unstable();
    labels
}

fn differences(before: &[(String, String)], after: &[(String, String)]) -> Vec<Difference> {
    let value = |labels: &[(String, String)], name: &str| {
        let place = labels.binary_search_by(|label| (*label.0).cmp(name));
        place.map(|place| labels[place].1.clone()).unwrap_or_default()
    };
    let mut names: Vec<&String> = before.iter().chain(after).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let differences = names.into_iter().map(|name| Difference {
        name: name.clone(),
        before: value(before, name),
        after: value(after, name),
    });
    differences.filter(|difference| difference.before != difference.after).collect()
}
