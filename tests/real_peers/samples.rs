//! What a server holds, down to the bits of a value, and how two such holdings differ.
//!
//! Query languages hide stale markers, so what Prometheus holds is read through remote read and what VictoriaMetrics holds
//! through its export.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The bits of the NaN that says "this series has ended here".
const STALE_MARKER: u64 = 0x7ff0_0000_0000_0002;

/// The schema of native histograms whose buckets have bounds that somebody chose.
pub const CUSTOM_BUCKETS: i32 = -53;

/// A series' labels, its name among them.
pub type Labels = BTreeMap<String, String>;

/// All that a server holds: for each series its samples, in the order of their timestamps.
#[derive(Clone, Default)]
pub struct Holdings(BTreeMap<Labels, Vec<(i64, Value)>>);

/// A sample's value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A float, by its bits: NaN is not equal to itself, and its bits tell a stale marker from a value.
    Float(u64),
    /// A native histogram, encoded, without its timestamp and its reset hint (which is the server's own opinion). If it is a
    /// stale marker, it is one by its sum.
    Histogram { sum: u64, schema: i32, encoded: Vec<u8> },
}

impl Value {
    /// VictoriaMetrics' export has one word, null, for NaN; an ordinary one it never stores, so this is a stale marker.
    pub fn stale_marker() -> Value {
        Value::Float(STALE_MARKER)
    }

    pub fn is_stale_marker(&self) -> bool {
        let (Value::Float(bits) | Value::Histogram { sum: bits, .. }) = self;
        *bits == STALE_MARKER
    }

    /// The value, if it is a float.
    pub fn float(&self) -> Option<f64> {
        match self {
            Value::Float(bits) => Some(f64::from_bits(*bits)),
            Value::Histogram { .. } => None,
        }
    }

    fn is_ordinary_nan(&self) -> bool {
        matches!(self, Value::Float(bits) if f64::from_bits(*bits).is_nan()) && !self.is_stale_marker()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if self.is_stale_marker() => f.write_str("stale"),
            Value::Float(bits) => write!(f, "{:e} ({bits:#018x})", f64::from_bits(*bits)),
            Value::Histogram { encoded, .. } => write!(f, "histogram {encoded:02x?}"),
        }
    }
}

/// How exactly a server keeps what it takes.
#[derive(Clone, Copy)]
pub enum Keeps {
    /// Every bit.
    Bits,
    /// As VictoriaMetrics does: floats as decimals of about twelve digits, and no ordinary NaN at all (it has stale markers).
    Decimals,
}

impl Keeps {
    fn same(self, expected: &Value, found: &Value) -> bool {
        match (self, expected, found) {
            (Keeps::Decimals, Value::Float(expected), Value::Float(found)) if expected != found => {
                let (expected, found) = (f64::from_bits(*expected), f64::from_bits(*found));
                // What is smaller than any normal number becomes 0. An infinity has a tolerance of infinity: none is granted.
                expected.is_finite() && (expected - found).abs() <= expected.abs() * 1e-11 + f64::MIN_POSITIVE
            }
            _ => expected == found,
        }
    }
}

impl FromIterator<(Labels, Vec<(i64, Value)>)> for Holdings {
    /// Brings the parts of each series together and in order. Of two samples with the same timestamp both stay, whatever their order
    /// was: a server that shows a sample twice got it twice.
    fn from_iter<T: IntoIterator<Item = (Labels, Vec<(i64, Value)>)>>(parts: T) -> Holdings {
        let mut holdings = Holdings::default();
        for (labels, samples) in parts {
            holdings.0.entry(labels).or_default().extend(samples);
        }
        holdings.0.values_mut().for_each(|samples| samples.sort());
        holdings
    }
}

impl Holdings {
    /// Floats and histograms, stale markers included.
    pub fn sample_count(&self) -> u64 {
        self.0.values().map(|samples| samples.len() as u64).sum()
    }

    /// The schemas of its native histograms, without stale markers: they have none.
    pub fn schemas(&self) -> BTreeSet<i32> {
        let values = self.0.values().flatten().filter(|(_, value)| !value.is_stale_marker());
        let schema = |value: &Value| match value {
            Value::Histogram { schema, .. } => Some(*schema),
            Value::Float(_) => None,
        };
        values.filter_map(|(_, value)| schema(value)).collect()
    }

    /// Without histograms of this schema. Stale markers stay: they have none.
    pub fn without_schema(&self, schema: i32) -> Holdings {
        let is_other = |(_, value): &&(i64, Value)| {
            value.is_stale_marker() || !matches!(value, Value::Histogram { schema: found, .. } if *found == schema)
        };
        let series = self.0.iter();
        let left = series.map(|(labels, samples)| (labels.clone(), samples.iter().filter(is_other).cloned().collect()));
        left.filter(|(_, samples): &(Labels, Vec<_>)| !samples.is_empty()).collect()
    }

    /// Without the series that have histograms of this schema: with their stale markers, too.
    pub fn without_series_of_schema(&self, schema: i32) -> Holdings {
        let is_of = |value: &Value| {
            !value.is_stale_marker() && matches!(value, Value::Histogram { schema: found, .. } if *found == schema)
        };
        let is_other = |(_, samples): &(&Labels, &Vec<_>)| !samples.iter().any(|(_, value)| is_of(value));
        self.0.iter().filter(is_other).map(|(labels, samples)| (labels.clone(), samples.clone())).collect()
    }

    /// The values of each series whose name is `name`.
    pub fn named(&self, name: &str) -> impl Iterator<Item = (&Labels, Vec<&Value>)> {
        let name = name.to_owned();
        self.0
            .iter()
            .filter(move |(labels, _)| labels.get("__name__") == Some(&name))
            .map(|(labels, samples)| (labels, samples.iter().map(|(_, value)| value).collect()))
    }

    /// What it holds of the series whose name is `name`.
    pub fn only(self, name: &str) -> Holdings {
        self.with("__name__", name)
    }

    /// What it holds of the series that have this label.
    pub fn with(self, label: &str, value: &str) -> Holdings {
        Holdings(self.0.into_iter().filter(|(labels, _)| labels.get(label).is_some_and(|it| it == value)).collect())
    }

    /// The timestamps of all samples, series by series.
    pub fn timestamps(&self) -> impl Iterator<Item = i64> {
        self.0.values().flatten().map(|(timestamp, _)| *timestamp)
    }

    /// How many series do not end in a stale marker.
    pub fn unended_count(&self) -> usize {
        let ended = |samples: &Vec<(i64, Value)>| samples.last().is_some_and(|(_, value)| value.is_stale_marker());
        self.0.values().filter(|samples| !ended(samples)).count()
    }

    /// What is missing in `found`, too much or different, measured by how exactly its server keeps things; `Ok` if nothing is.
    pub fn compare(&self, found: &Holdings, keeps: Keeps) -> Result<(), String> {
        let mut differences = Vec::new();
        for labels in self.0.keys().chain(found.0.keys().filter(|labels| !self.0.contains_key(*labels))) {
            let expected = self.0.get(labels).map_or(&[][..], Vec::as_slice);
            let expected =
                expected.iter().filter(|(_, value)| matches!(keeps, Keeps::Bits) || !value.is_ordinary_nan());
            let found = found.0.get(labels).map_or(&[][..], Vec::as_slice);
            let mut found = found.iter().peekable();
            let mut note = |what: &str, timestamp: &i64, value: &dyn fmt::Display| {
                differences.push(format!("{what} at {timestamp} {value} in {labels:?}"));
            };
            for (timestamp, value) in expected {
                while let Some((early, extra)) = found.next_if(|(found, _)| found < timestamp) {
                    note("too much:", early, extra);
                }
                match found.next_if(|(found, _)| found == timestamp) {
                    None => note("missing:", timestamp, value),
                    Some((_, other)) if !keeps.same(value, other) => {
                        note("different:", timestamp, &format!("{value} became {other}"));
                    }
                    Some(_) => {}
                }
            }
            found.for_each(|(timestamp, extra)| note("too much:", timestamp, extra));
        }
        if differences.is_empty() {
            return Ok(());
        }
        let (count, of) = (differences.len(), self.sample_count());
        differences.truncate(12);
        Err(format!("{count} differences ({of} samples expected):\n  {}", differences.join("\n  ")))
    }
}
