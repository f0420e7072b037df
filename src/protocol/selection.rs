//! Some entries of a stored request: which, how much they hold, and their fields one after the other.
//!
//! **What belongs to no entry** (metadata of 1.0, unknown fields of the request) goes with [`Chosen::All`] and with every selection
//! that contains entry 0. So whoever cuts a request into pieces that together have all entries sends it exactly once. A request
//! without entries, such as one of metadata only, has it with `All` alone.

use std::ops::Range;

use super::entries;
use super::wire::{Field, Fields, Malformed, Value, next_field};

/// Some entries of one request.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// The request, decompressed.
    pub message: &'a [u8],
    /// Which of its entries.
    pub entries: Chosen<'a>,
}

/// Which entries of a request; they count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// All, and what belongs to no entry.
    All,
    /// These.
    Range(Range<u32>),
    /// These, ascending.
    Listed(&'a [u32]),
}

impl Chosen<'_> {
    /// Whether what belongs to no entry goes with them.
    fn has_the_rest(&self) -> bool {
        match self {
            Chosen::All => true,
            Chosen::Range(range) => range.contains(&0),
            Chosen::Listed(listed) => listed.first() == Some(&0),
        }
    }
}

/// What some entries hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Float samples.
    pub samples: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Exemplars.
    pub exemplars: u64,
}

/// What the chosen ones of a request's entries hold; those that do not exist hold nothing.
#[must_use]
pub fn counts(entries: &[entries::Entry], chosen: &Chosen<'_>) -> Counts {
    let sum = |entries: &mut dyn Iterator<Item = &entries::Entry>| {
        entries.fold(Counts::default(), |sum, entry| Counts {
            samples: sum.samples + u64::from(entry.samples),
            histograms: sum.histograms + u64::from(entry.histograms),
            exemplars: sum.exemplars + u64::from(entry.exemplars),
        })
    };
    match chosen {
        Chosen::All => sum(&mut entries.iter()),
        Chosen::Range(range) => {
            let end = (range.end as usize).min(entries.len());
            sum(&mut entries[(range.start as usize).min(end)..end].iter())
        }
        Chosen::Listed(listed) => sum(&mut listed.iter().filter_map(|&index| entries.get(index as usize))),
    }
}

/// Goes through the fields of a request that are wanted: the chosen entries, with their content, and what belongs to no entry, with
/// `None`, if it goes with them.
pub(super) fn each_chosen<'a>(
    selection: &Selection<'a>,
    entry_number: u32,
    mut take: impl FnMut(&Field<'a>, Option<Fields<'a>>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let has_the_rest = selection.entries.has_the_rest();
    let mut cursor = Cursor { chosen: &selection.entries, taken: 0 };
    let mut index = 0;
    let mut fields = Fields::new(selection.message);
    while let Some(field) = next_field(&mut fields)? {
        match field.value {
            Value::Bytes(content) if field.number == entry_number => {
                if cursor.takes(index) {
                    take(&field, Some(content))?;
                }
                index += 1;
            }
            _ if field.number == entry_number => return Err(fields.wrong_type()),
            _ if has_the_rest => take(&field, None)?,
            _ => {}
        }
    }
    if cursor.has_more() {
        return Err(Malformed {
            offset: selection.message.len(),
            what: "no entry with a chosen number, or not in order,",
        });
    }
    Ok(())
}

/// How far a selection is taken.
struct Cursor<'a> {
    chosen: &'a Chosen<'a>,
    taken: usize,
}

impl Cursor<'_> {
    /// Called for each entry in turn.
    fn takes(&mut self, index: u32) -> bool {
        let is_taken = match self.chosen {
            Chosen::All => true,
            Chosen::Range(range) => range.contains(&index),
            Chosen::Listed(listed) => listed.get(self.taken) == Some(&index),
        };
        self.taken += usize::from(is_taken);
        is_taken
    }

    /// Whether some were not found.
    fn has_more(&self) -> bool {
        match self.chosen {
            Chosen::All => false,
            Chosen::Range(range) => self.taken < range.len(),
            Chosen::Listed(listed) => self.taken < listed.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::Protocol;
    use super::super::arbitrary::{request, series};
    use super::super::messages::v1 as pb1;
    use super::*;

    #[test]
    fn counts_are_those_of_the_chosen_entries() {
        let mut request = request(vec![series(&[("__name__", "a")]); 3]);
        request.timeseries[1].samples.push(pb1::Sample::default());
        request.timeseries[2].histograms.push(pb1::Histogram::default());
        request.timeseries[2].exemplars = vec![pb1::Exemplar::default(); 3];
        let entries = entries::entries(Protocol::V1, &request.encode_to_vec()).unwrap();
        let counts = |chosen| {
            let Counts { samples, histograms, exemplars } = counts(&entries, &chosen);
            (samples, histograms, exemplars)
        };
        assert_eq!(counts(Chosen::All), (4, 1, 3));
        assert_eq!(counts(Chosen::Range(1..2)), (2, 0, 0));
        assert_eq!(counts(Chosen::Range(2..9)), (1, 1, 3));
        assert_eq!(counts(Chosen::Range(7..9)), (0, 0, 0));
        assert_eq!(counts(Chosen::Listed(&[0, 2, 9])), (2, 1, 3));
    }
}
