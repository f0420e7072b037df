//! The labels of one series while rules work on them. Pure.
//!
//! As Prometheus' builder has it, also where that shows: `labelmap` goes through the labels as they came, then through what was
//! written, in the order of writing, and of two that get the same name the later one wins.

use std::borrow::Cow;

use super::Label;
use super::change::Change;
use super::pattern::TEXT_BYTES_MAX;

type Text<'a> = Cow<'a, str>;

/// Base, what was written over it, and what was taken away.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    /// Sorted by name.
    base: Vec<(&'a str, &'a str)>,
    /// In the order of writing. No value is empty.
    set: Vec<(Text<'a>, Text<'a>)>,
    /// What is also in `set` was written again later.
    removed: Vec<Text<'a>>,
}

/// A name or a value became larger than [`TEXT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl<'a> Builder<'a> {
    /// Of labels sorted by name; `None` if they are not UTF-8.
    #[must_use]
    pub fn new(labels: &[Label<'a>]) -> Option<Builder<'a>> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let base = labels.iter().map(|(name, value)| Some((text(name)?, text(value)?))).collect::<Option<_>>()?;
        Some(Builder { base, set: Vec::new(), removed: Vec::new() })
    }

    /// The value of a label; empty if there is none.
    #[must_use]
    pub fn value(&self, name: &str) -> &str {
        if let Some((_, value)) = self.set.iter().find(|(set, _)| set == name) {
            return value;
        }
        self.base_value(name).filter(|_| !self.is_removed(name)).unwrap_or("")
    }

    fn is_removed(&self, name: &str) -> bool {
        self.removed.iter().any(|removed| removed == name)
    }

    fn base_value(&self, name: &str) -> Option<&'a str> {
        let place = self.base.binary_search_by(|(base, _)| (*base).cmp(name)).ok()?;
        Some(self.base[place].1)
    }

    /// Writes a label; an empty value takes it away.
    ///
    /// # Errors
    /// What no receiver takes.
    pub fn set(&mut self, name: Text<'a>, value: Text<'a>) -> Result<(), TooLarge> {
        if name.len().max(value.len()) > TEXT_BYTES_MAX {
            return Err(TooLarge);
        }
        if value.is_empty() {
            self.remove(name);
        } else if let Some((_, old)) = self.set.iter_mut().find(|(set, _)| *set == name) {
            *old = value;
        } else {
            self.set.push((name, value));
        }
        Ok(())
    }

    /// Takes a label away.
    pub fn remove(&mut self, name: Text<'a>) {
        self.set.retain(|(set, _)| *set != name);
        if !self.is_removed(&name) {
            self.removed.push(name);
        }
    }

    /// All labels as they are now: those that were not touched, by name, then what was written, in that order.
    #[must_use]
    pub fn labels(&self) -> Vec<(Text<'a>, Text<'a>)> {
        let is_untouched = |name: &str| !self.is_removed(name) && !self.set.iter().any(|(set, _)| set == name);
        let untouched = self.base.iter().filter(|(name, _)| is_untouched(name));
        let untouched = untouched.map(|(name, value)| (Cow::Borrowed(*name), Cow::Borrowed(*value)));
        untouched.chain(self.set.iter().cloned()).collect()
    }

    /// The difference to the labels that there were.
    #[must_use]
    pub fn change(&self) -> Change {
        let set = self.set.iter().map(|(name, value)| (&**name, &**value));
        let set = set.filter(|(name, value)| self.base_value(name) != Some(value));
        let is_gone = |name: &str| self.base_value(name).is_some() && !self.set.iter().any(|(set, _)| set == name);
        let removed = self.removed.iter().map(|name| (&**name, "")).filter(|(name, _)| is_gone(name));
        let mut edits: Vec<(&str, &str)> = set.chain(removed).collect();
        edits.sort_unstable();
        Change::new(&edits)
    }
}
