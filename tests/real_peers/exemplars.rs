//! The exemplars that a Prometheus holds, as its query API shows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::process::http;
use crate::samples::Labels;

/// Exemplars by their series.
#[derive(Default)]
pub struct Exemplars(BTreeMap<Labels, BTreeSet<Exemplar>>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exemplar {
    /// In ms since 1970.
    timestamp: i64,
    /// As Prometheus writes it.
    value: String,
    labels: Labels,
}

/// All that the Prometheus on 127.0.0.1:`port` holds.
pub async fn query_exemplars(port: u16) -> Result<Exemplars, String> {
    let url = format!("http://127.0.0.1:{port}/api/v1/query_exemplars");
    let query = [("query", "{__name__!=\"\"}"), ("start", "0"), ("end", "4102444800")];
    let answer = http().get(url).query(&query).send().await.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|error| error.to_string())?;
    let answer: Answer = answer.json().await.map_err(|error| error.to_string())?;

    let mut exemplars = Exemplars::default();
    for series in answer.data {
        let of_series = exemplars.0.entry(series.labels).or_default();
        for found in series.exemplars {
            let timestamp = (found.timestamp * 1000.0).round() as i64;
            let exemplar = Exemplar { timestamp, value: found.value, labels: found.labels };
            assert!(of_series.insert(exemplar), "an exemplar is there once");
        }
    }
    Ok(exemplars)
}

impl Exemplars {
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// How many series of this name have exemplars.
    pub fn series(&self, name: &str) -> usize {
        self.0.keys().filter(|labels| labels.get("__name__").is_some_and(|it| it == name)).count()
    }

    /// Without those of the series of this name.
    pub fn without(mut self, name: &str) -> Exemplars {
        self.0.retain(|labels, _| labels.get("__name__").is_none_or(|it| it != name));
        self
    }

    /// With those of the series of this name at the classic buckets with these bounds that they fell into.
    pub fn in_classic_buckets(self, name: &str, bounds: &[f64]) -> Exemplars {
        let mut exemplars = Exemplars::default();
        for (labels, of_series) in self.0 {
            let is_it = labels.get("__name__").is_some_and(|it| it == name);
            for exemplar in of_series {
                let mut labels = labels.clone();
                if is_it {
                    let value: f64 = exemplar.value.parse().expect("Prometheus writes a number");
                    let bound = bounds.iter().find(|bound| value <= **bound).map_or("+Inf".into(), f64::to_string);
                    labels.extend([("__name__".into(), format!("{name}_bucket")), ("le".into(), bound)]);
                }
                exemplars.0.entry(labels).or_default().insert(exemplar);
            }
        }
        exemplars
    }

    /// What is missing in `found`, or too much; `Ok` if nothing is, or if no more than `left_out` are missing.
    pub fn compare(&self, found: &Exemplars, left_out: u64) -> Result<(), String> {
        let mut differences: Vec<String> = self.not_in(found, "missing").collect();
        let missing = differences.len() as u64;
        differences.extend(found.not_in(self, "too much"));
        if missing <= left_out && differences.len() as u64 == missing {
            return Ok(());
        }
        let (count, of) = (differences.len(), self.count());
        differences.truncate(12);
        Err(format!("{count} differences ({of} exemplars expected):\n  {}", differences.join("\n  ")))
    }

    fn not_in<'a>(&'a self, other: &'a Exemplars, what: &'a str) -> impl Iterator<Item = String> + 'a {
        self.0.iter().flat_map(move |(series, exemplars)| {
            let there = other.0.get(series);
            let gone = exemplars.iter().filter(move |exemplar| !there.is_some_and(|there| there.contains(exemplar)));
            gone.map(move |exemplar| format!("{what}: {exemplar:?} of {series:?}"))
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<OfSeries>,
}

#[derive(Deserialize)]
struct OfSeries {
    #[serde(rename = "seriesLabels")]
    labels: Labels,
    exemplars: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    labels: Labels,
    value: String,
    /// In seconds.
    timestamp: f64,
}
