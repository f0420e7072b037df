//! What rules make of a series' labels, as the difference to them: few bytes, and the same for all series to which the same happens. Pure.

use std::ops::Range;

use super::Label;

/// Labels that are written and labels that are taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// Names and values, one behind the other.
    bytes: Box<[u8]>,
    /// Where in `bytes` each name and each value ends. Sorted by name, each name once; an empty value takes the label away.
    ends: Box<[(usize, usize)]>,
}

/// Labels as they become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged<'a> {
    /// Those of the series with these numbers, as they were. There are some.
    Kept(Range<usize>),
    /// This label.
    Set(&'a [u8], &'a [u8]),
}

impl Change {
    /// `edits` are sorted by name, each name once.
    pub(super) fn new(edits: &[(&str, &str)]) -> Change {
        debug_assert!(edits.is_sorted_by(|one, next| one.0 < next.0), "{edits:?}");
        let mut bytes = Vec::with_capacity(edits.iter().map(|(name, value)| name.len() + value.len()).sum());
        let ends = edits.iter().map(|(name, value)| {
            bytes.extend_from_slice(name.as_bytes());
            let name_end = bytes.len();
            bytes.extend_from_slice(value.as_bytes());
            (name_end, bytes.len())
        });
        let ends = ends.collect();
        Change { bytes: bytes.into(), ends }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each label that is written, with its value, and each that is taken away, with an empty one; sorted by name.
    pub fn edits(&self) -> impl Iterator<Item = Label<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let edit = (&self.bytes[start..name_end], &self.bytes[name_end..value_end]);
            start = value_end;
            edit
        })
    }

    /// Gives out the labels as they become, sorted by name. `labels` are those from which the change was made; of others, what the change
    /// does not name stays.
    #[inline]
    pub fn merge<'a>(&'a self, labels: &[Label<'_>], mut each: impl FnMut(Merged<'a>)) {
        let (mut kept, mut next) = (0, 0);
        for (name, value) in self.edits() {
            while labels.get(next).is_some_and(|(other, _)| *other < name) {
                next += 1;
            }
            let is_there = labels.get(next).is_some_and(|(other, _)| *other == name);
            if is_there || !value.is_empty() {
                keep(kept..next, &mut each);
                next += usize::from(is_there);
                kept = next;
            }
            if !value.is_empty() {
                each(Merged::Set(name, value));
            }
        }
        keep(kept..labels.len(), &mut each);
    }

    /// The same, behind what is in a list.
    pub fn merge_into<'a>(&'a self, labels: &[Label<'a>], merged: &mut Vec<Label<'a>>) {
        self.merge(labels, |label| match label {
            Merged::Kept(range) => merged.extend_from_slice(&labels[range]),
            Merged::Set(name, value) => merged.push((name, value)),
        });
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends)
    }
}

fn keep<'a>(range: Range<usize>, each: &mut impl FnMut(Merged<'a>)) {
    if !range.is_empty() {
        each(Merged::Kept(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [Label<'static>; 3] = [(b"b", b"1"), (b"d", b"2"), (b"f", b"3")];

    fn merged(edits: &[(&str, &str)]) -> Vec<(String, String)> {
        let change = Change::new(edits);
        let mut merged = Vec::new();
        change.merge_into(&LABELS, &mut merged);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        merged.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn labels_are_written_before_between_behind_and_over_others() {
        let pairs = |text: &str| -> Vec<(String, String)> {
            text.split(' ').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()
        };
        assert_eq!(merged(&[]), pairs("b=1 d=2 f=3"));
        assert_eq!(merged(&[("a", "x"), ("c", "y"), ("d", "z"), ("g", "w")]), pairs("a=x b=1 c=y d=z f=3 g=w"));
        assert_eq!(merged(&[("b", ""), ("f", "")]), pairs("d=2"));
        assert_eq!(merged(&[("b", ""), ("d", ""), ("f", "")]), pairs(""));
        assert_eq!(merged(&[("c", ""), ("e", "x"), ("ee", "y")]), pairs("b=1 d=2 e=x ee=y f=3"));
    }
}
