//! Exemplars in series of their own, and where they go when a 2.0 request is written anew.
//!
//! Prometheus sends each exemplar as a TimeSeries without a sample, and as a receiver refuses such ones since 3.8 (`V2-63`). They are passed on (`V2-67`). The
//! sample of the same series may be in the same request: there the exemplar is put. Where it is not (of large scrapes it was in one before), the
//! exemplar stays in a series of its own; for a target that refuses those it is left out, and counted.
//!
//! ```text
//!  chosen     a: sample   b: sample   a: exemplar 1   c: exemplar   a: sample   a: exemplar 2
//!
//!  written    a: sample     b: sample   c: exemplar   a: sample        first without them: they are put off
//!               exemplar 1                              exemplar 2     then each goes to the nearest earlier entry of its series,
//!                                                                      else to the next later one; c has none
//! ```
//!
//! In what is written every text has one reference, so equal series have equal lists of references: those are compared, as bytes.
//! (Labels are sorted in what is stored.) An entry that gets exemplars has all of its own in order of time afterwards; what is not
//! touched stays as it was. A request without such entries is not looked at a second time.

use std::ops::Range;

use hashbrown::HashTable;

use super::symbols::SymbolTable;
use super::wire::put_head;
use super::wire::{Fields, Malformed, Value};

/// An entry of a request that has exemplars and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lone<'a> {
    /// How much was written when it was its turn.
    pub at: usize,
    /// Which of the stored requests it is from.
    pub selection: usize,
    /// Its content.
    pub series: Fields<'a>,
    /// How many exemplars it has.
    pub exemplars: u64,
}

/// What becomes of exemplars in entries of their own where no sample or histogram of their series is in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostless {
    /// They stay as they are, in their place.
    Kept,
    /// They are left out.
    LeftOut,
}

/// A request with the exemplars in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    /// All fields but the table of symbols.
    pub written: Vec<u8>,
    /// Entries that stayed as they were.
    pub kept: u64,
    /// Exemplars that were left out.
    pub left_out: u64,
}

/// Reads entries that were put off, in the protocol they came in.
pub(super) trait Source {
    /// Appends the references to the labels, as packed numbers, if all of the texts are in the table: else no entry has such labels,
    /// and this is false.
    fn references(&mut self, lone: &Lone<'_>, table: &SymbolTable, packed: &mut Vec<u8>) -> Result<bool, Malformed>;

    /// Appends the exemplars, as fields of a 2.0 series.
    fn exemplars(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed>;

    /// Appends the whole entry, as a field of a 2.0 request.
    fn entry(&mut self, lone: &Lone<'_>, table: &mut SymbolTable, to: &mut Vec<u8>) -> Result<(), Malformed>;
}

/// How many exemplars a series of 2.0 has, if it has nothing but exemplars; else 0.
#[inline]
pub(super) fn lone_in_2(mut series: Fields<'_>) -> Result<u64, Malformed> {
    let mut exemplars = 0;
    while let Some((number, _)) = series.next_field()? {
        match number {
            // As nearly every series: behind the labels comes a sample, and that is all there is to see.
            2 | 3 => return Ok(0),
            4 => exemplars += 1,
            _ => {}
        }
    }
    Ok(exemplars)
}

/// How many exemplars of a 2.0 request are in entries that have nothing else.
///
/// # Errors
/// The message is no request.
pub fn count_lone(message: &[u8]) -> Result<u64, Malformed> {
    let mut fields = Fields::new(message);
    let mut exemplars = 0;
    while let Some((number, value)) = fields.next_field()? {
        if let (5, Value::Bytes(series)) = (number, value) {
            exemplars += lone_in_2(series)?;
        }
    }
    Ok(exemplars)
}

/// Puts the exemplars of `lone` entries, which are in order, into the entries of a 2.0 request. Of that, `written` are all fields but
/// the table of symbols: each entry with its labels first and packed.
pub(super) fn attach(
    written: Vec<u8>,
    lone: &[Lone<'_>],
    hostless: Hostless,
    table: &mut SymbolTable,
    source: &mut impl Source,
) -> Result<Attached, Malformed> {
    let mut attached = Attached::default();
    if lone.is_empty() {
        attached.written = written;
        return Ok(attached);
    }
    let (series, group_of) = Series::of(lone, table, source)?;
    let hosts = series.hosts_in(&written, table)?;
    // Where something is put in: a lone entry itself, or exemplars into the entry that begins there, which comes behind it.
    let mut places = Vec::with_capacity(lone.len());
    for (lone, group) in lone.iter().zip(group_of) {
        match (group.and_then(|group| nearest(&hosts, group, lone.at)), hostless) {
            (Some(host), _) => places.push((host, true, lone)),
            (None, Hostless::Kept) => {
                attached.kept += 1;
                places.push((lone.at, false, lone));
            }
            (None, Hostless::LeftOut) => attached.left_out += lone.exemplars,
        }
    }
    // Stable: those of one entry stay in order.
    places.sort_by_key(|(place, is_host, _)| (*place, *is_host));
    let to = &mut attached.written;
    to.reserve(written.len() + written.len() / 4);
    let mut host = Host::default();
    let mut copied = 0;
    for guests in places.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
        let (start, is_host, _) = guests[0];
        let lone = || guests.iter().map(|(_, _, lone)| *lone);
        to.extend_from_slice(&written[copied..start]);
        copied = start;
        if !is_host {
            lone().try_for_each(|lone| source.entry(lone, table, to))?;
            continue;
        }
        let mut fields = Fields::new(&written[start..]);
        let Some((_, Value::Bytes(content))) = fields.next_field()? else { return Err(fields.wrong_type()) };
        host.clear();
        // An entry that begins where a lone one would have stood comes after it.
        let (later, earlier): (Vec<_>, Vec<_>) = lone().partition(|lone| lone.at > start);
        for lone in earlier {
            host.add_guest(lone, table, source)?;
        }
        host.add_own(content)?;
        for lone in later {
            host.add_guest(lone, table, source)?;
        }
        host.write(to);
        copied = written.len() - fields.rest().len();
    }
    to.extend_from_slice(&written[copied..]);
    Ok(attached)
}

/// Where the entry begins that exemplars go to which came at `at`. `hosts` are in order.
fn nearest(hosts: &[(u32, usize)], group: u32, at: usize) -> Option<usize> {
    let later = hosts.partition_point(|host| *host < (group, at));
    let of_group = |host: Option<&(u32, usize)>| host.filter(|host| host.0 == group).map(|host| host.1);
    of_group(later.checked_sub(1).and_then(|earlier| hosts.get(earlier))).or(of_group(hosts.get(later)))
}

/// The series of lone entries.
struct Series {
    /// Packed references, of one series after the other.
    packed: Vec<u8>,
    groups: HashTable<Group>,
}

struct Group {
    number: u32,
    packed: Range<usize>,
}

impl Series {
    /// Of these; also which of them each one is, if it can be in the request at all.
    fn of(
        lone: &[Lone<'_>],
        table: &SymbolTable,
        source: &mut impl Source,
    ) -> Result<(Series, Vec<Option<u32>>), Malformed> {
        let mut packed = Vec::new();
        let mut groups = HashTable::<Group>::new();
        let mut group_of = Vec::with_capacity(lone.len());
        for lone in lone {
            let start = packed.len();
            if !source.references(lone, table, &mut packed)? {
                packed.truncate(start);
                group_of.push(None);
                continue;
            }
            let hash = table.hash(&packed[start..]);
            if let Some(known) = groups.find(hash, |group| packed[group.packed.clone()] == packed[start..]) {
                group_of.push(Some(known.number));
                packed.truncate(start);
                continue;
            }
            let number = groups.len() as u32;
            let group = Group { number, packed: start..packed.len() };
            groups.insert_unique(hash, group, |group| table.hash(&packed[group.packed.clone()]));
            group_of.push(Some(number));
        }
        Ok((Series { packed, groups }, group_of))
    }

    /// The entries of these series that have a sample or histogram: of which series, and where each begins. In order.
    fn hosts_in(&self, written: &[u8], table: &SymbolTable) -> Result<Vec<(u32, usize)>, Malformed> {
        let mut hosts = Vec::new();
        let mut fields = Fields::new(written);
        loop {
            let start = fields.offset();
            let Some((number, value)) = fields.next_field()? else { break };
            let (5, Value::Bytes(mut content)) = (number, value) else { continue };
            let mut references: &[u8] = &[];
            let mut is_host = false;
            while let Some((number, value)) = content.next_field()? {
                match (number, value) {
                    (1, Value::Bytes(packed)) => references = packed.rest(),
                    (2 | 3, _) => {
                        is_host = true;
                        break;
                    }
                    _ => {}
                }
            }
            if !is_host {
                continue;
            }
            let hash = table.hash(references);
            if let Some(group) = self.groups.find(hash, |group| self.packed[group.packed.clone()] == *references) {
                hosts.push((group.number, start));
            }
        }
        hosts.sort_unstable();
        Ok(hosts)
    }
}

/// The entry that gets exemplars.
#[derive(Default)]
struct Host {
    /// All its other fields.
    rest: Vec<u8>,
    exemplars: Vec<u8>,
    /// Of each exemplar its time, and where it lies.
    order: Vec<(i64, Range<usize>)>,
}

impl Host {
    fn clear(&mut self) {
        self.rest.clear();
        self.exemplars.clear();
        self.order.clear();
    }

    fn add_own(&mut self, mut content: Fields<'_>) -> Result<(), Malformed> {
        loop {
            let before = content.rest();
            let Some((number, value)) = content.next_field()? else { return Ok(()) };
            let bytes = &before[..before.len() - content.rest().len()];
            match (number, value) {
                (4, Value::Bytes(exemplar)) => {
                    let start = self.exemplars.len();
                    self.exemplars.extend_from_slice(bytes);
                    self.order.push((timestamp(exemplar)?, start..self.exemplars.len()));
                }
                _ => self.rest.extend_from_slice(bytes),
            }
        }
    }

    fn add_guest(
        &mut self,
        lone: &Lone<'_>,
        table: &mut SymbolTable,
        source: &mut impl Source,
    ) -> Result<(), Malformed> {
        let start = self.exemplars.len();
        source.exemplars(lone, table, &mut self.exemplars)?;
        let mut fields = Fields::new(&self.exemplars[start..]);
        loop {
            let from = start + fields.offset();
            let Some((_, value)) = fields.next_field()? else { return Ok(()) };
            let Value::Bytes(exemplar) = value else { return Err(fields.wrong_type()) };
            self.order.push((timestamp(exemplar)?, from..start + fields.offset()));
        }
    }

    fn write(&mut self, to: &mut Vec<u8>) {
        self.order.sort_by_key(|(timestamp, _)| *timestamp);
        put_head(to, 5, self.rest.len() + self.exemplars.len());
        to.extend_from_slice(&self.rest);
        for (_, range) in &self.order {
            to.extend_from_slice(&self.exemplars[range.clone()]);
        }
    }
}

fn timestamp(mut exemplar: Fields<'_>) -> Result<i64, Malformed> {
    let mut timestamp = 0;
    while let Some((number, value)) = exemplar.next_field()? {
        if let (3, Value::Varint(value)) = (number, value) {
            timestamp = value as i64;
        }
    }
    Ok(timestamp)
}
