//! The rules for a series' labels, and a memory for series that were found to keep them.
//!
//! A series is valid if it has a metric name, every label has a name, no name comes twice and everything is UTF-8 (`V1-20`,
//! `V1-21`, `V1-26`, `V2-73` to `V2-77`). Labels out of order (`V1-22`) and empty values (`V1-23`) are legal input and only noted. Any text is a
//! name, whatever 1.0 says (`V1-24`, `V1-25`, `V2-78`).
//!
//! The check is the dear part of receiving, and the same series come with every scrape: [`SeenLabels`] keeps the hashes of label
//! sets that were found valid and canonical, in a table of fixed size.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Offence;

/// The label that holds a metric's name.
pub const METRIC_NAME: &[u8] = b"__name__";

/// More labels nobody means; checking them would take memory beyond what the request itself takes.
pub const LABELS_MAX: usize = 10_000;

/// What is configured as too much for one series (`V1-27`, `V2-80`). Labels without a value do not count: they are no labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most labels.
    pub labels: Option<usize>,
    /// The most bytes of a label's name.
    pub name_bytes: Option<usize>,
    /// The most bytes of a label's value.
    pub value_bytes: Option<usize>,
}

impl Limits {
    /// Whether there are any.
    #[must_use]
    pub fn are_set(&self) -> bool {
        *self != Limits::default()
    }

    /// Checks the labels of one series. Not a part of [`Checker`]: where no limit is set, nothing must be asked about each label.
    ///
    /// # Errors
    /// What is over a limit.
    pub fn check<'a>(&self, labels: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), Offence> {
        let over = |len: usize, limit: Option<usize>| limit.filter(|limit| len > *limit);
        let mut count = 0;
        for (name, value) in labels.filter(|(_, value)| !value.is_empty()) {
            count += 1;
            if let Some(limit) = over(name.len(), self.name_bytes) {
                return Err(Offence::LabelNameTooLong { name: shown(name), len: name.len(), limit });
            }
            if let Some(limit) = over(value.len(), self.value_bytes) {
                return Err(Offence::LabelValueTooLong { name: shown(name), len: value.len(), limit });
            }
        }
        match over(count, self.labels) {
            Some(limit) => Err(Offence::OverLabelLimit { labels: count, limit }),
            None => Ok(()),
        }
    }
}

/// Checks one series, label by label.
#[derive(Debug, Default)]
pub struct Checker<'a> {
    count: usize,
    last: Option<&'a [u8]>,
    has_metric_name: bool,
    is_unsorted: bool,
}

impl<'a> Checker<'a> {
    /// Takes the next label. Whether the bytes are UTF-8 is the caller's to check: it knows cheaper ways than one string at a time.
    ///
    /// # Errors
    /// What no receiver can take.
    #[inline]
    pub fn label(&mut self, name: &'a [u8], value: &[u8]) -> Result<(), Offence> {
        if name.is_empty() {
            return Err(Offence::EmptyLabelName);
        }
        self.count += 1;
        if self.count > LABELS_MAX {
            return Err(Offence::TooManyLabels { limit: LABELS_MAX });
        }
        match self.last {
            Some(last) if last == name => return Err(duplicate(name)),
            Some(last) if last > name => self.is_unsorted = true,
            _ => {}
        }
        self.last = Some(name);
        // An empty value is the same as no label: legal, but not canonical, and no metric name.
        if value.is_empty() {
            self.is_unsorted = true;
        } else if name == METRIC_NAME {
            self.has_metric_name = true;
        }
        Ok(())
    }

    /// The verdict: whether the labels are canonical. `names` yields all names again, and is called only if they came out of order.
    ///
    /// # Errors
    /// What no receiver can take.
    pub fn finish<I: Iterator<Item = &'a [u8]>>(self, names: impl FnOnce() -> I) -> Result<Canonical, Offence> {
        if self.is_unsorted {
            let mut names: Vec<&[u8]> = names().collect();
            names.sort_unstable();
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(duplicate(twice[0]));
            }
        }
        match (self.has_metric_name, self.is_unsorted) {
            (false, _) => Err(Offence::NoMetricName),
            (true, true) => Ok(Canonical::No),
            (true, false) => Ok(Canonical::Yes),
        }
    }
}

/// Whether labels may be sent on as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canonical {
    /// Sorted, no empty value.
    Yes,
    /// Legal to receive.
    No,
}

fn duplicate(name: &[u8]) -> Offence {
    Offence::DuplicateLabelName { name: shown(name) }
}

/// For people: a name of megabytes is not shown whole.
fn shown(name: &[u8]) -> String {
    const SHOWN_MAX: usize = 60;
    let front = String::from_utf8_lossy(&name[..name.len().min(SHOWN_MAX)]).into_owned();
    if name.len() > SHOWN_MAX { front + "..." } else { front }
}

/// Hashes of the label sets lately found valid: a fixed table, shared by all threads without a lock.
///
/// A bucket is a cache line of eight hashes; a new one takes the place that its own bits say. The secret is random per process, so
/// nobody outside can prepare two label sets with the same hash, one of them invalid. (And if by chance it happens, an invalid series
/// goes through once in 2^64 and is the target's to refuse.)
///
/// It has the limits with it that valid labels keep to: what is in the table was checked against these, so a hash that is found there
/// answers for them too.
#[derive(Debug)]
pub struct SeenLabels {
    buckets: Box<[Bucket]>,
    secret: [u8; SECRET_LEN],
    limits: Limits,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; BUCKET_LEN]);

const BUCKET_LEN: usize = 8;
/// As long as the algorithm's own. (With a seed instead it would be derived anew for each hash, which costs more than the hash.)
const SECRET_LEN: usize = 192;

impl SeenLabels {
    /// A table for this many series, rounded up to a power of two; eight bytes each.
    #[must_use]
    pub fn with_capacity(series: usize) -> SeenLabels {
        SeenLabels::within(Limits::default(), series)
    }

    /// The same, where labels must keep to limits.
    #[must_use]
    pub fn within(limits: Limits, series: usize) -> SeenLabels {
        let buckets = series.div_ceil(BUCKET_LEN).next_power_of_two();
        let buckets = (0..buckets).map(|_| Bucket::default()).collect();
        let random = RandomState::new();
        let mut secret = [0; SECRET_LEN];
        for (number, bytes) in secret.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&random.hash_one(number).to_le_bytes());
        }
        SeenLabels { buckets, secret, limits }
    }

    /// What labels must keep to.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The hash of a series' label bytes.
    #[must_use]
    pub fn hash(&self, labels: &[u8]) -> u64 {
        // 0 is an empty place.
        xxhash_rust::xxh3::xxh3_64_with_secret(labels, &self.secret).max(1)
    }

    fn bucket(&self, hash: u64) -> &[AtomicU64; BUCKET_LEN] {
        &self.buckets[hash as usize & (self.buckets.len() - 1)].0
    }

    /// Whether labels with this hash were found valid.
    #[must_use]
    pub fn contains(&self, hash: u64) -> bool {
        self.bucket(hash).iter().any(|place| place.load(Ordering::Relaxed) == hash)
    }

    /// Remembers labels with this hash as valid.
    pub fn insert(&self, hash: u64) {
        let bucket = self.bucket(hash);
        let empty = bucket.iter().position(|place| place.load(Ordering::Relaxed) == 0);
        // The bits above those that choose the bucket in any table of sane size.
        let place = empty.unwrap_or((hash >> 61) as usize);
        bucket[place].store(hash, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[(&str, &str)]) -> Result<Canonical, Offence> {
        let mut checker = Checker::default();
        for (name, value) in labels {
            checker.label(name.as_bytes(), value.as_bytes())?;
        }
        checker.finish(|| labels.iter().map(|(name, _)| name.as_bytes()))
    }

    #[test]
    fn sorted_labels_with_a_metric_name_are_canonical() {
        assert_eq!(check(&[("__name__", "up"), ("job", "a"), ("le", "1")]), Ok(Canonical::Yes));
        assert_eq!(check(&[("Z", "upper case sorts first"), ("__name__", "up")]), Ok(Canonical::Yes));
    }

    #[test]
    fn unsorted_labels_and_empty_values_are_legal() {
        assert_eq!(check(&[("job", "a"), ("__name__", "up")]), Ok(Canonical::No));
        assert_eq!(check(&[("__name__", "up"), ("job", "")]), Ok(Canonical::No));
    }

    #[test]
    fn what_no_receiver_can_take_is_named() {
        let twice = |name: &str| Err(Offence::DuplicateLabelName { name: name.into() });
        assert_eq!(check(&[]), Err(Offence::NoMetricName));
        assert_eq!(check(&[("job", "a")]), Err(Offence::NoMetricName));
        assert_eq!(check(&[("__name__", "")]), Err(Offence::NoMetricName));
        assert_eq!(check(&[("", "a"), ("__name__", "up")]), Err(Offence::EmptyLabelName));
        assert_eq!(check(&[("__name__", "up"), ("job", "a"), ("job", "a")]), twice("job"));
        assert_eq!(check(&[("job", "a"), ("__name__", "up"), ("job", "b")]), twice("job"));
    }

    #[test]
    fn limits_are_kept_to_the_byte_and_labels_without_a_value_are_none() {
        let limits = |labels, name_bytes, value_bytes| Limits { labels, name_bytes, value_bytes };
        let labels: [(&[u8], &[u8]); 3] = [(b"__name__", b"up"), (b"empty_and_long", b""), (b"job", b"abc")];
        let check = |limits: Limits| limits.check(labels.into_iter());
        assert!(!Limits::default().are_set());
        assert_eq!(check(Limits::default()), Ok(()));
        assert_eq!(check(limits(Some(2), Some(8), Some(3))), Ok(()));
        assert_eq!(check(limits(Some(1), None, None)), Err(Offence::OverLabelLimit { labels: 2, limit: 1 }));
        let name = "__name__".to_owned();
        assert_eq!(check(limits(None, Some(7), None)), Err(Offence::LabelNameTooLong { name, len: 8, limit: 7 }));
        let name = "job".to_owned();
        assert_eq!(check(limits(None, None, Some(2))), Err(Offence::LabelValueTooLong { name, len: 3, limit: 2 }));
    }

    #[test]
    fn the_table_remembers_what_fits_and_forgets_the_rest() {
        let seen = SeenLabels::with_capacity(1000);
        let hashes: Vec<u64> = (0..100_000u32).map(|n| seen.hash(&n.to_le_bytes())).collect();
        for hash in &hashes {
            assert!(!seen.contains(*hash));
            seen.insert(*hash);
            assert!(seen.contains(*hash));
        }
        assert!(hashes.iter().filter(|hash| seen.contains(**hash)).count() <= 1024);
    }
}
