//! The second promise: what a target accepted is settled in one way or pending, and the sums add up in every scrape.

use std::collections::BTreeMap;

use serde_json::Value;

/// The ways in which a sample is settled, as they are named in metrics and status.
pub const OUTCOMES: [&str; 6] = ["delivered", "refused", "filtered", "expired", "dropped", "lost"];

/// The sums of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub accepted: u64,
    pub settled: BTreeMap<String, u64>,
    pub pending: u64,
}

impl Ledger {
    pub fn delivered(&self) -> u64 {
        self.settled["delivered"]
    }

    /// `accepted = delivered + refused + filtered + expired + dropped + lost + pending`
    fn assert_adds_up(&self, target: &str) {
        let names: Vec<_> = self.settled.keys().map(String::as_str).collect();
        let mut expected = OUTCOMES;
        expected.sort_unstable();
        assert_eq!(names, expected, "outcomes of target {target}");
        let sum = self.settled.values().sum::<u64>() + self.pending;
        assert_eq!(self.accepted, sum, "the ledger of target {target} does not add up: {self:?}");
    }

    /// Sums survive restarts and only grow.
    pub fn assert_grown_from(&self, earlier: &Ledger, target: &str) {
        assert!(self.accepted >= earlier.accepted, "target {target}: accepted shrank: {earlier:?}, then {self:?}");
        for (outcome, sum) in &earlier.settled {
            assert!(self.settled[outcome] >= *sum, "target {target}: {outcome} shrank: {earlier:?}, then {self:?}");
        }
    }
}

/// The ledgers in an answer of `/api/v1/status`, by target; panics if one does not add up.
pub fn of_status(status: &Value) -> BTreeMap<String, Ledger> {
    let targets = status["targets"].as_array().expect("a status names targets");
    let ledgers = targets.iter().map(|target| {
        let name = target["name"].as_str().expect("a target has a name");
        let samples = target["samples"].as_object().expect("a target has samples");
        let mut sums: BTreeMap<String, u64> =
            samples.iter().map(|(key, sum)| (key.clone(), sum.as_u64().expect("a sum is a whole number"))).collect();
        let mut take = |key: &str| sums.remove(key).unwrap_or_else(|| panic!("target {name}: no sum {key}"));
        let ledger = Ledger { accepted: take("accepted"), pending: take("pending"), settled: sums };
        ledger.assert_adds_up(name);
        assert_eq!(target["pending"]["samples"], ledger.pending, "target {name}: pending is told twice");
        (name.to_string(), ledger)
    });
    ledgers.collect()
}

/// The ledgers in a text of `/metrics`, by target; panics if one does not add up.
pub fn of_metrics(text: &str) -> BTreeMap<String, Ledger> {
    let mut ledgers: BTreeMap<String, Ledger> = BTreeMap::new();
    let mut pending = BTreeMap::new();
    for metric in parse(text) {
        let target = || metric.labels.get("target").expect("a metric of a target names it").clone();
        match metric.name.as_str() {
            "promrelay_target_samples_total" => {
                let ledger = ledgers.entry(target()).or_default();
                let outcome = metric.labels["outcome"].clone();
                if outcome == "accepted" {
                    ledger.accepted = metric.whole();
                } else {
                    assert_eq!(ledger.settled.insert(outcome, metric.whole()), None, "told twice: {metric:?}");
                }
            }
            "promrelay_target_pending_samples" => {
                pending.insert(target(), metric.whole());
            }
            _ => {}
        }
    }
    assert!(pending.keys().eq(ledgers.keys()), "{pending:?} and {ledgers:?} are of different targets");
    for (target, ledger) in &mut ledgers {
        ledger.pending = pending[target];
        ledger.assert_adds_up(target);
    }
    ledgers
}

/// One line of a text of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metric {
    fn whole(&self) -> u64 {
        assert!(self.value >= 0.0 && self.value.fract() == 0.0, "a count is a whole number: {self:?}");
        self.value as u64
    }
}

/// The lines of a text of `/metrics`; panics if one is not in the format.
pub fn parse(text: &str) -> Vec<Metric> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse_line(line).unwrap_or_else(|| panic!("not a metric: {line:?}"))).collect()
}

fn parse_line(line: &str) -> Option<Metric> {
    let name_len = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_len);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at + 1,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.insert(label.to_string(), value);
            rest = after[end..].strip_prefix(',').unwrap_or(&after[end..]);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
    Some(Metric { name: name.into(), labels, value })
}
