//! The disk that a power cut could leave: what was synced, and of the rest whatever may have come through.
//!
//! - Content: each 512-byte sector of a change that no sync had covered has reached the disk or not, on its own. So
//!   has the file's length. Where space was given or taken back, a sector reads zero or what it held.
//! - Names: changes of a directory that no sync of it had covered may not have happened. Mostly they come through in
//!   their order, as filesystems with a journal have it; in some images any of them may be missing.
//!
//! That a name is there says nothing about the content of its file, and the other way round.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::history::{Change, Directory, File, History, Naming, Node, Span, parent};

const SECTOR: u64 = 512;
const PAGE: usize = 4096;
/// Images in which names need not keep to their order, of a hundred.
const UNORDERED_PERCENT: u8 = 20;

/// A moment, and all dice that are thrown for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The last line of the trace before it.
    pub line: usize,
    pub seed: u64,
}

/// Which syncs of a history count. All of them; the others are for showing that a missing one is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    All,
    /// Those of files do nothing.
    NotOfFiles,
    /// Those of directories do nothing.
    NotOfDirectories,
    /// The last one of each file has not happened yet: as if everything were synced one time too late.
    NotTheLast,
}

/// What became of the changes that no sync had covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub sectors: u64,
    pub lost_sectors: u64,
    pub names: usize,
    pub lost_names: usize,
    /// A name came through, and one before it in the same directory did not.
    pub is_out_of_order: bool,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// As many as the file ever has. Behind its length they are not there.
    bytes: Vec<u8>,
    /// Of each sector, whether the file has space for it.
    has_space: Vec<bool>,
    len: u64,
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `None`: a directory. One comes before what is in it.
    pub names: BTreeMap<String, Option<Content>>,
    pub fate: Fate,
}

impl Image {
    pub fn build(history: &History, cut: Cut, syncs: Syncs) -> Image {
        let mut random = fastrand::Rng::with_seed(cut.seed);
        let mut fate = Fate::default();
        let keeps_order = random.u8(..100) >= UNORDERED_PERCENT;
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for directory in history.directories.values() {
            nodes.extend(names_of(directory, cut.line, syncs, keeps_order, &mut random, &mut fate));
        }
        // One image in two treats all its files alike.
        let alike = random.bool().then(|| Reach::any(&mut random));
        let mut names = BTreeMap::new();
        for (name, node) in nodes {
            let directory = parent(&name);
            if !directory.is_empty() && names.get(directory) != Some(&None) {
                continue;
            }
            let content = match node {
                Node::Directory => None,
                Node::File(file) => {
                    let reach = alike.unwrap_or_else(|| Reach::any(&mut random));
                    Some(content_of(&history.files[file], cut.line, syncs, reach, &mut random, &mut fate))
                }
            };
            names.insert(name, content);
        }
        Image { names, fate }
    }

    /// What a file holds, if it is there.
    pub fn content(&self, name: &str) -> Option<&Content> {
        self.names.get(name)?.as_ref()
    }

    /// Puts it into a directory.
    pub fn write(&self, to: &Path) {
        for (name, content) in &self.names {
            let path = to.join(name);
            match content {
                None => fs::create_dir(path).unwrap(),
                Some(content) => content.write(&path),
            }
        }
    }
}

impl Content {
    fn empty(len_max: u64) -> Content {
        let len = usize::try_from(len_max).unwrap();
        Content { bytes: vec![0; len], has_space: vec![false; len.div_ceil(SECTOR as usize)], len: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::try_from(self.len).unwrap()]
    }

    fn write(&self, path: &Path) {
        const ZEROES: [u8; PAGE] = [0; PAGE];
        let file = fs::File::create_new(path).unwrap();
        file.set_len(self.len).unwrap();
        for (number, bytes) in self.bytes().chunks(PAGE).enumerate() {
            let offset = number * PAGE;
            let sectors = self.has_space.iter().skip(offset / SECTOR as usize).take(PAGE / SECTOR as usize);
            if *bytes != ZEROES[..bytes.len()] {
                file.write_all_at(bytes, offset as u64).unwrap();
            } else if sectors.into_iter().any(|has_space| *has_space) {
                fallocate(&file, FallocateFlags::KEEP_SIZE, offset as u64, PAGE as u64).unwrap();
            }
        }
    }

    /// What is cut off is zero if it comes back.
    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.bytes[usize::try_from(len).unwrap()..].fill(0);
            self.has_space[usize::try_from(len.div_ceil(SECTOR)).unwrap()..].fill(false);
        }
        self.len = len;
    }

    /// What a change does to some sectors. The file may become longer than it is to be.
    fn apply(&mut self, change: &Change, sectors: Range<u64>) {
        let Some((from, to)) = extent(change) else { return };
        let (start, end) = (from.max(sectors.start * SECTOR), to.min(sectors.end * SECTOR));
        self.len = self.len.max(end);
        let place = |offset: u64| usize::try_from(offset).unwrap();
        match change {
            Change::Write { offset, data } => {
                let data = &data[place(start - offset)..place(end - offset)];
                self.bytes[place(start)..place(end)].copy_from_slice(data);
                self.has_space[place(start / SECTOR)..place(end.div_ceil(SECTOR))].fill(true);
            }
            Change::Allocate { .. } => {
                self.has_space[place(start / SECTOR)..place(end.div_ceil(SECTOR))].fill(true);
            }
            Change::Punch { .. } => {
                self.bytes[place(start)..place(end)].fill(0);
                // A sector that is touched in part keeps its space.
                let whole = start.div_ceil(SECTOR)..end / SECTOR;
                self.has_space[place(whole.start.min(whole.end))..place(whole.end)].fill(false);
            }
            Change::SetLen(_) => {}
        }
    }
}

/// The bytes that a change is about.
fn extent(change: &Change) -> Option<(u64, u64)> {
    match change {
        Change::Write { offset, data } => Some((*offset, offset + data.len() as u64)),
        Change::Allocate { from, to, .. } | Change::Punch { from, to } => Some((*from, *to)),
        Change::SetLen(_) => None,
    }
}

/// The length that a change leaves behind in a file of this length.
fn len_after(change: &Change, len: u64) -> u64 {
    match change {
        Change::Write { offset, data } => len.max(offset + data.len() as u64),
        Change::Allocate { to, keeps_len: false, .. } => len.max(*to),
        Change::Allocate { .. } | Change::Punch { .. } => len,
        Change::SetLen(len) => *len,
    }
}

/// How much of what was not synced comes through.
#[derive(Clone, Copy, Debug)]
enum Reach {
    All,
    Nothing,
    OnlyFirst,
    OnlyLast,
    /// Of each change the first sector.
    Heads,
    /// Of each change all but the first sector.
    Tails,
    /// In order, up to some sector.
    UpTo,
    /// Each change as a whole, or nothing of it.
    Whole,
    /// Each sector with this chance.
    Each(f64),
}

impl Reach {
    fn any(random: &mut fastrand::Rng) -> Reach {
        match random.u8(..10) {
            0 => Reach::All,
            1 => Reach::Nothing,
            2 => Reach::OnlyFirst,
            3 => Reach::OnlyLast,
            4 => Reach::Heads,
            5 => Reach::Tails,
            6 => Reach::UpTo,
            7 => Reach::Whole,
            8 => Reach::Each(0.5),
            _ => Reach::Each(random.f64()),
        }
    }
}

impl Reach {
    /// The sectors of one change that come through. `UpTo` has room for so many.
    fn within(self, all: Range<u64>, room: u64, random: &mut fastrand::Rng) -> Vec<Range<u64>> {
        let head = all.end.min(all.start + 1);
        let coming = match self {
            Reach::All | Reach::OnlyFirst | Reach::OnlyLast => all,
            Reach::Nothing => return Vec::new(),
            Reach::Heads => all.start..head,
            Reach::Tails => head..all.end,
            Reach::UpTo => all.start..all.end.min(all.start + room),
            Reach::Whole if random.bool() => all,
            Reach::Whole => return Vec::new(),
            Reach::Each(chance) => {
                return all.filter(|_| random.f64() < chance).map(|sector| sector..sector + 1).collect();
            }
        };
        Vec::from_iter((!coming.is_empty()).then_some(coming))
    }
}

/// The syncs that count at a cut.
fn done(syncs: &[Span], cut: usize) -> Vec<Span> {
    syncs.iter().copied().filter(|sync| sync.left <= cut).collect()
}

fn is_covered(change: Span, done: &[Span], cut: usize) -> bool {
    done.iter().any(|sync| sync.covers(change, cut))
}

/// The names of one directory.
fn names_of(
    directory: &Directory,
    cut: usize,
    syncs: Syncs,
    keeps_order: bool,
    random: &mut fastrand::Rng,
    fate: &mut Fate,
) -> BTreeMap<String, Node> {
    let begun: Vec<_> = directory.namings.iter().filter(|(span, _)| span.entered <= cut).collect();
    let done = if syncs == Syncs::NotOfDirectories { Vec::new() } else { done(&directory.syncs, cut) };
    let is_durable = |span: Span| is_covered(span, &done, cut);
    let open = begun.iter().filter(|(span, _)| !is_durable(*span)).count();
    let up_to = random.usize(..=open);
    let (mut at, mut lost) = (0, 0);
    let mut names = BTreeMap::new();
    for (span, naming) in begun {
        if !is_durable(*span) {
            let comes = if keeps_order { at < up_to } else { random.bool() };
            at += 1;
            if !comes {
                lost += 1;
                continue;
            }
            fate.is_out_of_order |= lost > 0;
        }
        match naming {
            Naming::Create { name, node } => drop(names.insert(name.clone(), *node)),
            Naming::Remove { name } => drop(names.remove(name)),
            Naming::Rename { from, to } => {
                let node = names.remove(from).or_else(|| node_of(directory, *span, from));
                names.insert(to.clone(), node.expect("what is renamed was created"));
            }
        }
    }
    fate.names += open;
    fate.lost_names += lost;
    names
}

/// What a name stood for before `span`, whether that has come through or not.
fn node_of(directory: &Directory, span: Span, wanted: &str) -> Option<Node> {
    let mut names: BTreeMap<&str, Node> = BTreeMap::new();
    for (_, naming) in directory.namings.iter().take_while(|(other, _)| *other != span) {
        match naming {
            Naming::Create { name, node } => drop(names.insert(name, *node)),
            Naming::Remove { name } => drop(names.remove(name.as_str())),
            Naming::Rename { from, to } => {
                if let Some(node) = names.remove(from.as_str()) {
                    names.insert(to, node);
                }
            }
        }
    }
    names.get(wanted).copied()
}

/// What one file holds.
fn content_of(
    file: &File,
    cut: usize,
    syncs: Syncs,
    reach: Reach,
    random: &mut fastrand::Rng,
    fate: &mut Fate,
) -> Content {
    let mut done = if syncs == Syncs::NotOfFiles { Vec::new() } else { done(&file.syncs, cut) };
    if syncs == Syncs::NotTheLast {
        done.pop();
    }
    let (durable, open): (Vec<_>, Vec<_>) = file
        .changes
        .iter()
        .filter(|(span, _)| span.entered <= cut)
        .partition(|(span, _)| is_covered(*span, &done, cut));
    let ends = file.changes.iter().map(|(_, change)| len_after(change, 0).max(extent(change).unwrap_or_default().1));
    let mut content = Content::empty(ends.max().unwrap_or(0));
    for (_, change) in durable {
        let len = len_after(change, content.len);
        content.apply(change, sectors(change));
        content.set_len(len);
    }

    let total: u64 = open.iter().map(|(_, change)| count(&sectors(change))).sum();
    let up_to = random.u64(..=total);
    let last = open.len().saturating_sub(1);
    let mut len = content.len;
    let mut before = 0;
    for (number, (_, change)) in open.into_iter().enumerate() {
        let all = sectors(change);
        let size = count(&all);
        let coming = match reach {
            Reach::OnlyFirst if number > 0 => Vec::new(),
            Reach::OnlyLast if number < last => Vec::new(),
            _ => reach.within(all, up_to.saturating_sub(before), random),
        };
        before += size;
        fate.lost_sectors += size - coming.iter().map(count).sum::<u64>();
        // A length comes through on its own.
        let len_comes = match reach {
            Reach::All => true,
            Reach::Nothing => false,
            Reach::Whole if size > 0 => !coming.is_empty(),
            _ => random.bool(),
        };
        for sectors in coming {
            content.apply(change, sectors);
        }
        if len_comes {
            len = len_after(change, len);
            if let Change::SetLen(len) = change {
                content.set_len(*len);
            }
        }
    }
    fate.sectors += total;
    content.set_len(len);
    content
}

fn count(sectors: &Range<u64>) -> u64 {
    sectors.end - sectors.start
}

fn sectors(change: &Change) -> Range<u64> {
    let (from, to) = extent(change).unwrap_or_default();
    from / SECTOR..to.div_ceil(SECTOR)
}
