//! A ring that is open: an index in memory of what is in the file, and everything that changes both.
//!
//! Where the next entries go:
//!
//! ```text
//!   behind the newest ones      unless they do not fit before the end of the file: then at the start of the area
//!   what lies there             is taken out of the index first: it is gone whether the write works or not
//!   after a write that failed   at the same place again, once a sync of the header has shown that the file can be written; if that fails
//!                               too, behind everything that is claimed there by an older header
//! ```
//!
//! So no header of an older entry is left that would reach over newer ones, and a walk from header to header finds all that count; and
//! a disk that takes nothing does not eat up what was kept before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::RingError;
use super::entry::{Entry, Header, Prepared, STORED_MIN, Seat, Seated};
use super::file::{AREA_START, Found, RingFile, Scan};

/// What is known of an entry without reading it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) offset: u64,
    pub(super) link: u64,
    pub(super) samples: u64,
    pub(super) target: Arc<str>,
}

/// A part of the file that an entry's header claims, or may claim.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    pub(super) len: u64,
    /// 0: it was removed, or is damaged.
    pub(super) id: u64,
}

/// A ring that is there.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: RingFile,
    /// The entries that count.
    pub(super) ids: BTreeMap<u64, Slot>,
    /// Everything that a header claims, by offset.
    pub(super) places: BTreeMap<u64, Claim>,
    pub(super) live_bytes: u64,
    /// Where the next entry goes.
    pub(super) head: u64,
    pub(super) next_id: u64,
    /// The newest entry that is durable for sure.
    pub(super) durable_id: u64,
    /// A write or a sync of the handle has failed.
    pub(super) is_broken: bool,
    /// Where the last append failed, if none worked since.
    pub(super) failed_at: Option<u64>,
}

impl Open {
    /// For writing. What cannot be read is an error, or passed over.
    pub(super) fn of(file: RingFile, passes_over: bool) -> io::Result<Open> {
        let mut scan = file.scan();
        match scan.unreadable.take() {
            Some(error) if !passes_over => Err(error),
            _ => Ok(Open::load(file, scan, true)),
        }
    }

    /// `may_write`: what a crash has torn is marked, so that it is not looked at again.
    pub(super) fn load(file: RingFile, mut scan: Scan, may_write: bool) -> Open {
        scan.tidy();
        let is_torn = |found: &Found| matches!(file.read(found.offset, &found.header, true), Ok(None));
        let torn: BTreeSet<usize> =
            scan.last_append().into_iter().filter(|number| is_torn(&scan.found[*number])).collect();
        let mut open = Open {
            ids: BTreeMap::new(),
            places: BTreeMap::new(),
            live_bytes: 0,
            head: AREA_START,
            next_id: file.header.first_id.max(1),
            durable_id: 0,
            is_broken: false,
            failed_at: None,
            file,
        };
        let mut newest = 0;
        for (number, Found { offset, link, is_removed, header }) in scan.found.into_iter().enumerate() {
            let len = header.stored_len();
            open.next_id = open.next_id.max(header.id.saturating_add(1));
            let is_torn = torn.contains(&number);
            if is_torn && may_write {
                // If this is lost, it is found again.
                let _ = open.file.write_removed(offset, header.id);
            }
            if header.id > newest && !is_torn {
                (newest, open.head, open.durable_id) = (header.id, offset + len, header.durable_id);
            }
            if is_removed || is_torn {
                open.places.insert(offset, Claim { len, id: 0 });
            } else {
                open.insert(offset, link, &header);
            }
        }
        if may_write && let Err(error) = open.write_doubtful_again() {
            tracing::error!(%error, "cannot write the dead-letter ring");
            open.is_broken = true;
        }
        // Ids of entries that cannot be read are not given out again.
        open.next_id = open.next_id.saturating_add(scan.unreadable_bytes / STORED_MIN);
        open
    }

    /// An earlier process may have failed to sync the newest ones, or the header: they are in memory then, and older headers, which may reach further,
    /// are on disk. Nothing may go behind them before theirs are written; the next sync is theirs as well.
    pub(super) fn write_doubtful_again(&self) -> io::Result<()> {
        self.file.write_header_again()?;
        for (_, slot) in self.ids.range(self.durable_id + 1..) {
            let bytes = self.file.read_header(slot.offset)?;
            self.file.file.write_all_at(&bytes, slot.offset)?;
        }
        Ok(())
    }

    /// After a write or a sync has failed: another handle, with which something is synced where nothing is lost.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        self.file.reopen()?;
        self.write_doubtful_again()?;
        self.file.try_out()?;
        self.durable_id = self.ids.last_key_value().map_or(self.durable_id, |(id, _)| self.durable_id.max(*id));
        self.is_broken = false;
        Ok(())
    }

    pub(super) fn insert(&mut self, offset: u64, link: u64, header: &Header) {
        let len = header.stored_len();
        self.places.insert(offset, Claim { len, id: header.id });
        let slot = Slot { offset, link, samples: header.samples, target: header.target.clone() };
        self.ids.insert(header.id, slot);
        self.live_bytes += len;
    }

    pub(super) fn seat(&self, slot: &Slot) -> Seat {
        Seat { salt: self.file.header.salt, offset: slot.offset, link: slot.link }
    }

    /// Writes entries, `len` bytes in all, and syncs.
    pub(super) fn append(&mut self, entries: Vec<Prepared>, len: u64, overwritten: &mut u64) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let area = self.file.area();
        let start = if self.head + len <= area.end { self.head } else { area.start };
        let end = start + len;
        let cleared = self.clear(start, end, overwritten);
        let (mut seated, mut offset, mut link) = (Vec::with_capacity(entries.len()), start, 0);
        for (place, entry) in (0..).zip(entries) {
            let entry_len = entry.stored_len();
            let entry: Seated =
                entry.seat(self.next_id, place, self.durable_id, Seat { salt: self.file.header.salt, offset, link });
            seated.push((offset, link, entry));
            self.next_id += 1;
            offset += entry_len;
            link = seated.last().map_or(0, |(_, _, entry)| entry.link());
        }
        let mut parts: Vec<IoSlice<'_>> =
            seated.iter().flat_map(|(_, _, entry)| entry.parts()).map(IoSlice::new).collect();
        let written = self.file.raise(end).and_then(|raised| {
            self.file.file.write_at(start, &mut parts)?;
            self.file.file.sync_data()?;
            Ok(raised)
        });
        match written {
            Ok(raised) => {
                self.file.is_synced(raised);
                for (offset, link, entry) in &seated {
                    self.insert(*offset, *link, entry.header());
                }
                (self.head, self.failed_at, self.durable_id) = (end, None, self.next_id - 1);
                Ok(())
            }
            Err(error) => {
                // Nobody knows what is there now: the old headers, or these.
                self.is_broken = true;
                let new = seated.iter().map(|(offset, _, entry)| (*offset, entry.header().stored_len()));
                for (offset, len) in cleared.into_iter().chain(new) {
                    let claim = self.places.entry(offset).or_default();
                    claim.len = claim.len.max(len);
                }
                self.head = match self.failed_at.replace(start) {
                    Some(failed_at) if failed_at == start => {
                        let claims = self.claims(start, end).map(|(offset, claim)| offset + claim.len);
                        claims.max().unwrap_or(end).max(end)
                    }
                    _ => start,
                };
                Err(error)
            }
        }
    }

    /// What is claimed between, in part at least.
    pub(super) fn claims(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Claim)> {
        let from = start.saturating_sub(self.file.entry_max());
        let claims = self.places.range(from..end).map(|(offset, claim)| (*offset, *claim));
        claims.filter(move |(offset, claim)| offset + claim.len > start)
    }

    /// Takes everything out of the index that lies between, in part at least; where that was, and how long.
    pub(super) fn clear(&mut self, start: u64, end: u64, overwritten: &mut u64) -> Vec<(u64, u64)> {
        let mut cleared = Vec::new();
        for (offset, Claim { len, id }) in self.claims(start, end).collect::<Vec<_>>() {
            self.places.remove(&offset);
            cleared.push((offset, len));
            if self.ids.remove(&id).is_some() {
                self.live_bytes -= len;
                *overwritten += 1;
            }
        }
        cleared
    }

    /// It does not count any more; what its header claims stays.
    pub(super) fn take_out(&mut self, id: u64) {
        if let Some(slot) = self.ids.remove(&id)
            && let Some(claim) = self.places.get_mut(&slot.offset)
        {
            claim.id = 0;
            self.live_bytes -= claim.len;
        }
    }

    pub(super) fn remove(&mut self, ids: &[u64]) -> io::Result<u64> {
        let there: BTreeSet<u64> = ids.iter().copied().filter(|id| self.ids.contains_key(id)).collect();
        if there.is_empty() {
            return Ok(0);
        }
        let marked = there.iter().try_for_each(|id| self.file.write_removed(self.ids[id].offset, *id));
        if let Err(error) = marked.and_then(|()| self.file.file.sync_data()) {
            self.is_broken = true;
            return Err(error);
        }
        there.iter().for_each(|id| self.take_out(*id));
        Ok(there.len() as u64)
    }

    /// An entry with its header. What turns out to be damaged is taken out.
    pub(super) fn read(&mut self, id: u64, with_body: bool) -> Result<(Entry, Header), RingError> {
        let slot = self.ids.get(&id).ok_or(RingError::Unknown { id })?;
        let header = match self.file.read_header(slot.offset) {
            Ok(bytes) => Header::decode(&bytes, self.seat(slot)).filter(|header| header.id == id),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error.into()),
        };
        let entry = match &header {
            Some(header) => self.file.read(slot.offset, header, with_body)?,
            None => None,
        };
        match entry.zip(header) {
            Some(read) => Ok(read),
            None => {
                tracing::error!(
                    id,
                    target = &*slot.target,
                    "an entry of the dead-letter ring is damaged; it is given up"
                );
                self.take_out(id);
                Err(RingError::Damaged { id })
            }
        }
    }
}
