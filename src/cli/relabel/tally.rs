//! What rules make of many series: counted, with examples, in bounded memory. Pure.
//!
//! ```text
//!  Known   each series of the log, up to a limit: its number, by its identity, and its text
//!    '--> Tally, one for each target, by these numbers: what becomes of each series, and which one first became what it is sent as
//! ```
//!
//! A series that is not known because there are too many is worked out each time, and only its samples are counted.

use std::collections::HashMap;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::relabel::explain::{By, Difference, Effect, Explanation};
use crate::relabel::{Label, Outcome, Rules};

/// What the texts of all known series take at most, for each series that may be known. In the mean nearly all logs have less.
const TEXT_BYTES_PER_SERIES: usize = 320;

/// Examples of series that become one.
const COLLISIONS_SHOWN_MAX: usize = 3;

/// The series that were seen, remembered up to a limit.
#[derive(Debug)]
pub struct Known {
    numbers: HashMap<u64, u32>,
    texts: String,
    /// Where in `texts` each one ends.
    ends: Vec<usize>,
    series_max: usize,
    text_bytes_max: usize,
    is_full: bool,
}

impl Known {
    /// At most so many.
    pub fn new(series_max: usize) -> Known {
        let text_bytes_max = series_max.saturating_mul(TEXT_BYTES_PER_SERIES);
        Known {
            text_bytes_max,
            numbers: HashMap::new(),
            texts: String::new(),
            ends: Vec::new(),
            series_max,
            is_full: false,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there was one for which there was no room.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// A series by its identity.
    pub fn get(&self, identity: u64) -> Option<u32> {
        self.numbers.get(&identity).copied()
    }

    /// Remembers a series that is not known; `None` if there are too many.
    pub fn add(&mut self, identity: u64, text: &str) -> Option<u32> {
        // One that comes later does not fit where this one did not: what is known are the first.
        self.is_full |= self.len() >= self.series_max || self.texts.len() + text.len() > self.text_bytes_max;
        if self.is_full {
            return None;
        }
        let number = u32::try_from(self.len()).ok()?;
        self.numbers.insert(identity, number);
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        Some(number)
    }

    /// As it is shown.
    pub fn text(&self, number: u32) -> &str {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start..self.ends[number]]
    }
}

/// What becomes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent as it is.
    Unchanged,
    /// It is sent with other labels.
    Changed,
    /// It is not sent.
    Filtered,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// All.
    pub seen: u64,
    /// Sent as they are.
    pub unchanged: u64,
    /// Sent with other labels.
    pub changed: u64,
    /// Not sent.
    pub filtered: u64,
}

impl Sums {
    fn add(&mut self, fate: Fate, n: u64) {
        self.seen += n;
        *match fate {
            Fate::Unchanged => &mut self.unchanged,
            Fate::Changed => &mut self.changed,
            Fate::Filtered => &mut self.filtered,
        } += n;
    }
}

/// What one rule did.
#[derive(Clone, Debug)]
pub struct RuleTally {
    /// Which.
    pub by: By,
    /// Series that came to it.
    pub seen: u64,
    /// Series of which it wrote or took away labels.
    pub changed: u64,
    /// Series that it dropped.
    pub dropped: u64,
    /// One of the changed, as it was before all rules, and what the rule did to it.
    pub changed_example: Option<(u32, Vec<Difference>)>,
    /// One of the dropped, as it was before all rules.
    pub dropped_example: Option<u32>,
}

/// Series that are sent with the same labels.
#[derive(Clone, Debug, Default)]
pub struct Collisions {
    /// How many that would be others.
    pub before: u64,
    /// How many they become.
    pub after: u64,
    /// Some of them.
    pub examples: Vec<Collision>,
}

/// Two series that become one.
#[derive(Clone, Debug)]
pub struct Collision {
    /// The first that came, and the second.
    pub series: [u32; 2],
    /// The labels with which both are sent.
    pub sent: Vec<(String, String)>,
}

/// What the rules of one target make of the series.
#[derive(Debug)]
pub struct Tally<'a> {
    rules: &'a Rules,
    /// By the series' numbers.
    fates: Vec<Fate>,
    /// Which series became this one first, and whether it was not the only one. By a hash of what is sent.
    sent: HashMap<u64, (u32, bool)>,
    /// Known series.
    pub series: Sums,
    /// Samples of all series.
    pub samples: Sums,
    /// In order.
    pub by_rule: Vec<RuleTally>,
    /// Known series that become one.
    pub collisions: Collisions,
}

impl<'a> Tally<'a> {
    /// Of nothing yet.
    pub fn new(rules: &'a Rules) -> Tally<'a> {
        let by_rule = rules.actors().map(|by| RuleTally {
            by,
            seen: 0,
            changed: 0,
            dropped: 0,
            changed_example: None,
            dropped_example: None,
        });
        Tally {
            by_rule: by_rule.collect(),
            rules,
            fates: Vec::new(),
            sent: HashMap::new(),
            series: Sums::default(),
            samples: Sums::default(),
            collisions: Collisions::default(),
        }
    }

    /// Works out what becomes of a new known series, the next in number. Only series of one `tenant` can become one.
    pub fn learn(&mut self, number: u32, tenant: u64, labels: &[(&str, &str)]) {
        assert_eq!(self.fates.len(), number as usize, "series are learned in their order");
        let Explanation { steps, labels: sent } = self.rules.explain(labels);
        let mut is_changed = false;
        for (step, tally) in steps.into_iter().zip(&mut self.by_rule) {
            debug_assert_eq!(step.by, tally.by);
            tally.seen += 1;
            match step.effect {
                Effect::Unchanged => {}
                Effect::Changed(differences) => {
                    is_changed = true;
                    tally.changed += 1;
                    tally.changed_example.get_or_insert((number, differences));
                }
                Effect::Dropped(_) => {
                    tally.dropped += 1;
                    tally.dropped_example.get_or_insert(number);
                }
            }
        }
        let fate = match &sent {
            None => Fate::Filtered,
            // Labels that are written for the rules behind may be taken away again.
            Some(sent) if is_changed && !is_equal(sent, labels) => Fate::Changed,
            Some(_) => Fate::Unchanged,
        };
        self.fates.push(fate);
        self.series.add(fate, 1);
        if let Some(sent) = sent {
            self.meet(number, tenant, sent);
        }
    }

    fn meet(&mut self, number: u32, tenant: u64, sent: Vec<(String, String)>) {
        let mut hash = Xxh3::with_seed(tenant);
        for text in sent.iter().flat_map(|(name, value)| [name, value]) {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let (first, is_met) = self.sent.entry(hash.digest()).or_insert((number, false));
        if *first == number {
            return;
        }
        if !*is_met {
            *is_met = true;
            self.collisions.before += 1;
            self.collisions.after += 1;
            if self.collisions.examples.len() < COLLISIONS_SHOWN_MAX {
                self.collisions.examples.push(Collision { series: [*first, number], sent });
            }
        }
        self.collisions.before += 1;
    }

    /// Counts samples of a known series.
    pub fn count(&mut self, number: u32, samples: u64) {
        self.samples.add(self.fates[number as usize], samples);
    }

    /// Counts samples of a series that is not known. Its labels are sorted, no value is empty.
    pub fn count_unknown(&mut self, labels: &[(&str, &str)], samples: u64) {
        let labels: Vec<Label<'_>> = labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let fate = match self.rules.apply(&labels) {
            Outcome::Unchanged => Fate::Unchanged,
            Outcome::Changed(_) => Fate::Changed,
            Outcome::Dropped => Fate::Filtered,
        };
        self.samples.add(fate, samples);
    }
}

/// `labels` are sorted, no value is empty.
fn is_equal(sent: &[(String, String)], labels: &[(&str, &str)]) -> bool {
    sent.len() == labels.len() && sent.iter().zip(labels).all(|(sent, label)| sent.0 == label.0 && sent.1 == label.1)
}

/// A number for what keeps series apart: the headers that are sent on with them.
pub fn tenant(forwarded: &[(String, Vec<u8>)]) -> u64 {
    if forwarded.is_empty() {
        return 0;
    }
    let mut bytes = Vec::new();
    for text in forwarded.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::text;
    use crate::relabel::RelabelConfig;

    fn rules(external_labels: &[(&str, &str)], configs: &str) -> Rules {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            rule: Vec<RelabelConfig>,
        }
        let file: File = toml::from_str(configs).unwrap();
        let external_labels: BTreeMap<String, String> =
            external_labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Rules::new(&external_labels, &file.rule).unwrap()
    }

    /// One sample of each.
    fn tallied<'a>(rules: &'a Rules, known: &mut Known, series: &[(u64, &[(&str, &str)])]) -> Tally<'a> {
        let mut tally = Tally::new(rules);
        for (identity, (tenant, labels)) in series.iter().enumerate() {
            match known.add(identity as u64, &text::series(labels)) {
                Some(number) => {
                    tally.learn(number, *tenant, labels);
                    tally.count(number, 1);
                }
                None => tally.count_unknown(labels, 1),
            }
        }
        tally
    }

    const A: &[(&str, &str)] = &[("__name__", "up"), ("pod", "a")];
    const B: &[(&str, &str)] = &[("__name__", "up"), ("pod", "b")];
    const C: &[(&str, &str)] = &[("__name__", "up")];
    const D: &[(&str, &str)] = &[("__name__", "go_info")];

    #[test]
    fn each_rule_is_told_by_what_it_did_with_its_first_example() {
        let rules = rules(
            &[("region", "eu")],
            "[[rule]]\nsource_labels = [\"__name__\"]\nregex = \"up\"\naction = \"keep\"\n\
             [[rule]]\nregex = \"region\"\naction = \"labeldrop\"\n\
             [[rule]]\nregex = \"nothing\"\naction = \"labeldrop\"\n\
             [[rule]]\nsource_labels = [\"pod\"]\nregex = \"b\"\ntarget_label = \"__name__\"\nreplacement = \"\"\n",
        );
        let mut known = Known::new(100);
        let tally = tallied(&rules, &mut known, &[(0, D), (0, A), (0, B)]);
        // `a` got a label and lost it again.
        assert_eq!(tally.series, Sums { seen: 3, unchanged: 1, changed: 0, filtered: 2 });
        assert_eq!(tally.samples, tally.series);
        let counts: Vec<_> = tally.by_rule.iter().map(|rule| (rule.seen, rule.changed, rule.dropped)).collect();
        assert_eq!(counts, [(3, 3, 0), (3, 0, 1), (2, 2, 0), (2, 0, 0), (2, 1, 0), (1, 0, 1)]);
        let example = |n: usize| tally.by_rule[n].dropped_example.map(|number| known.text(number).to_owned());
        assert_eq!((example(1).as_deref(), example(5).as_deref()), (Some("go_info"), Some("up{pod=\"b\"}")));
        let (number, differences) = tally.by_rule[2].changed_example.as_ref().unwrap();
        assert_eq!((known.text(*number), &*differences[0].before), ("up{pod=\"a\"}", "eu"));
        assert_eq!(tally.collisions.after, 0);
    }

    #[test]
    fn series_that_become_one_are_counted_but_not_those_of_two_tenants() {
        let rules = rules(&[], "[[rule]]\nregex = \"pod\"\naction = \"labeldrop\"\n");
        let mut known = Known::new(100);
        let tally = tallied(&rules, &mut known, &[(1, A), (2, A), (1, D), (1, B), (1, C)]);
        let Collisions { before, after, examples } = &tally.collisions;
        assert_eq!((*before, *after), (3, 1));
        let Collision { series: [one, other], sent } = &examples[0];
        assert_eq!((known.text(*one), known.text(*other)), ("up{pod=\"a\"}", "up{pod=\"b\"}"));
        assert_eq!(sent[..], [("__name__".to_owned(), "up".to_owned())]);
    }

    #[test]
    fn long_texts_are_too_many_as_well() {
        let long = "x".repeat(TEXT_BYTES_PER_SERIES);
        let mut known = Known::new(2);
        assert_eq!((known.add(1, &long), known.add(2, "a"), known.is_full()), (Some(0), Some(1), false));
        assert_eq!((known.add(3, "b"), known.get(3), known.is_full()), (None, None, true));
        let mut known = Known::new(2);
        assert_eq!((known.add(1, "a"), known.add(2, &long.repeat(2)), known.add(3, "b")), (Some(0), None, None));
        assert_eq!((known.text(0), known.len()), ("a", 1));
    }

    #[test]
    fn of_too_many_series_the_samples_are_counted_all_the_same() {
        let rules = rules(&[], "[[rule]]\nregex = \"pod\"\naction = \"labeldrop\"\n");
        let mut known = Known::new(2);
        let tally = tallied(&rules, &mut known, &[(0, A), (0, D), (0, B), (0, C)]);
        assert_eq!(tally.series, Sums { seen: 2, unchanged: 1, changed: 1, filtered: 0 });
        assert_eq!(tally.samples, Sums { seen: 4, unchanged: 2, changed: 2, filtered: 0 });
        assert_eq!(known.len(), 2);
    }
}
