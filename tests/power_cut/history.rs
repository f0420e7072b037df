//! What happened to the files of a log, read off a trace of system calls: every change of content, of space and of
//! names, and every sync. Knows nothing of what the files mean.
//!
//! A place in time is a line of the trace. Strace stamps and writes the line of a call's entry before the call runs,
//! and the line of its end before the process goes on. So what is `entered` above the line of a cut may have run,
//! what is `left` above it has.
//!
//! A change is durable when a sync of its file (of its directory, for names) was entered after the change was left,
//! and was left itself before the cut. A call that this does not know how to place ends the test.

use std::collections::{BTreeMap, HashMap};

use crate::support::trace::{self, Call};

/// What strace is to show: all that changes files, or makes changes durable.
pub const CALLS: &str = "trace=open,openat,openat2,creat,dup,dup2,dup3,lseek,\
    write,writev,pwrite64,pwritev,pwritev2,copy_file_range,sendfile,splice,fallocate,truncate,ftruncate,ioctl,\
    fsync,fdatasync,sync,syncfs,sync_file_range,msync,\
    rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir";

/// Lines of the trace between which a call ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub entered: usize,
    pub left: usize,
}

/// One change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    /// Space was given to a range that had none. Without `keeps_len` the file reaches at least up to its end.
    Allocate {
        from: u64,
        to: u64,
        keeps_len: bool,
    },
    /// A range was taken back: it reads zero.
    Punch {
        from: u64,
        to: u64,
    },
    SetLen(u64),
}

/// One file, whatever its name.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The last one.
    pub name: String,
    pub changes: Vec<(Span, Change)>,
    pub syncs: Vec<Span>,
}

impl File {
    /// Writes that were begun before a cut and that no sync had covered.
    pub fn unsynced_writes(&self, cut: usize) -> impl Iterator<Item = Span> {
        let writes = self.changes.iter().filter(|(_, change)| matches!(change, Change::Write { .. }));
        let begun = writes.map(|(span, _)| *span).filter(move |span| span.entered <= cut);
        begun.filter(move |span| !self.syncs.iter().any(|sync| sync.covers(*span, cut)))
    }
}

impl Span {
    /// Whether a sync that ran here made durable what a change did there, before the cut.
    pub fn covers(&self, change: Span, cut: usize) -> bool {
        self.entered > change.left && self.left <= cut
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A place in [`History::files`].
    File(usize),
    Directory,
}

/// One change of a directory. Names are paths below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    Create { name: String, node: Node },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// One directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub namings: Vec<(Span, Naming)>,
    pub syncs: Vec<Span>,
}

/// A call that is in the history, for choosing moments and for people.
#[derive(Clone, Debug)]
pub struct Step {
    pub span: Span,
    /// The call's name, and the directory of the file: where a cut can be of another kind.
    pub kind: String,
    pub text: String,
}

/// Everything that happened to one directory, told from the one in which it is.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub files: Vec<File>,
    pub directories: BTreeMap<String, Directory>,
    pub steps: Vec<Step>,
    /// Lines at which something of the history is entered or left, ascending.
    pub lines: Vec<usize>,
    /// When each line of the trace was written, in µs since 1970.
    pub stamps: Vec<i64>,
}

/// A process was killed in the middle of a change: nobody knows whether that happened.
#[derive(Debug)]
pub struct InFlight;

impl History {
    /// Reads a trace: what happened to `path`, which was not there when it began, and to all below it. The root is
    /// the directory in which it is.
    pub fn read(trace: &str, path: &str) -> Result<History, InFlight> {
        let (root, top) = path.rsplit_once('/').expect("a path from the root");
        let stamps: Vec<i64> = trace.lines().map(stamp).collect();
        assert!(stamps.is_sorted(), "the clock was set back while the trace was taken");
        let mut reader =
            Reader { root, top, names: BTreeMap::new(), open: HashMap::new(), history: History::default() };
        reader.history.directories.insert(String::new(), Directory::default());
        let mut calls: Vec<Call> = trace::parse(trace);
        // In the order in which calls had an effect that later ones see.
        calls.sort_by_key(|call| if changes_names(&call.name) { call.left } else { call.entered });
        for call in &calls {
            reader.take(call)?;
        }
        let mut history = reader.history;
        history.stamps = stamps;
        history.lines = history.steps.iter().flat_map(|step| [step.span.entered, step.span.left]).collect();
        history.lines.sort_unstable();
        history.lines.dedup();
        Ok(history)
    }

    /// The line up to which the disk stays as it is right after `line`, the next one of the history: up to its stamp.
    pub fn until(&self, line: usize) -> i64 {
        let next = self.lines.partition_point(|other| *other <= line);
        let line = self.lines.get(next).copied().unwrap_or(self.stamps.len() - 1);
        self.stamps[line]
    }

    /// The files that hold records.
    pub fn segments(&self) -> impl Iterator<Item = &File> {
        let last = |file: &File| file.name.rsplit('/').next().is_some_and(|name| name.starts_with("seg-"));
        self.files.iter().filter(move |file| last(file))
    }

    /// The end of the history up to a cut, in words.
    pub fn told(&self, cut: usize, steps: usize) -> String {
        let before: Vec<&Step> = self.steps.iter().filter(|step| step.span.entered <= cut).collect();
        let shown = before.iter().skip(before.len().saturating_sub(steps));
        let line = |step: &&Step| {
            let state = if step.span.left <= cut { "" } else { "  (in flight)" };
            format!("{:>8} {}{state}\n", step.span.entered, step.text)
        };
        shown.map(line).collect()
    }
}

/// The stamp of `1234  1700000000.123456 event`, in µs; a line without one is as old as time.
fn stamp(line: &str) -> i64 {
    let time = line.split_once(' ').and_then(|(_, rest)| rest.trim_start().split(' ').next()).unwrap_or_default();
    let (seconds, micros) = time.split_once('.').unwrap_or_else(|| panic!("no stamp: {:.80}", line));
    assert_eq!(micros.len(), 6, "stamps are in microseconds: {time}");
    seconds.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap()
}

fn changes_names(call: &str) -> bool {
    ["open", "openat", "creat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"]
        .contains(&call)
}

struct Reader<'a> {
    root: &'a str,
    /// The only name in it that counts.
    top: &'a str,
    /// What each name stands for, after the calls taken so far.
    names: BTreeMap<String, Node>,
    /// Where each open file goes on writing, by its descriptor.
    open: HashMap<u64, u64>,
    history: History,
}

impl Reader<'_> {
    fn take(&mut self, call: &Call) -> Result<(), InFlight> {
        let span = Span { entered: call.entered, left: call.left };
        let is_relative = changes_names(&call.name) && self.file_name(call).is_some();
        assert!(!is_relative, "names below an open directory are not known here: {call:?}");
        match call.name.as_str() {
            "open" | "openat" => {
                let Some(name) = self.path(call.strings()[0]) else { return Ok(()) };
                return self.opened(call, span, &name);
            }
            "rename" | "renameat" | "renameat2" => {
                let strings = call.strings();
                let (from, to) = (self.path(strings[0]), self.path(strings[1]));
                if from.is_none() && to.is_none() {
                    return Ok(());
                }
                let (from, to) = from.zip(to).expect("nothing is moved into the directory or out of it");
                self.has_ended(call)?;
                if call.succeeded() {
                    assert_eq!(parent(&from), parent(&to), "only renames within a directory are known here");
                    let node = self.names.remove(&from).unwrap_or_else(|| panic!("{from} was never created"));
                    if let Node::File(file) = node {
                        self.history.files[file].name = to.clone();
                    }
                    self.names.insert(to.clone(), node);
                    self.step(call, span, &to, &format!("rename {from} {to}"));
                    self.name(span, parent(&to), Naming::Rename { from, to: to.clone() });
                }
            }
            "unlink" | "unlinkat" | "rmdir" | "mkdir" | "mkdirat" => {
                let Some(name) = self.path(call.strings()[0]) else { return Ok(()) };
                self.has_ended(call)?;
                if call.succeeded() {
                    self.step(call, span, &name, &format!("{} {name}", call.name));
                    let naming = if call.name.starts_with("mkdir") {
                        self.names.insert(name.clone(), Node::Directory);
                        self.history.directories.insert(name.clone(), Directory::default());
                        Naming::Create { name: name.clone(), node: Node::Directory }
                    } else {
                        self.names.remove(&name).unwrap_or_else(|| panic!("{name} was never created"));
                        Naming::Remove { name: name.clone() }
                    };
                    self.name(span, parent(&name), naming);
                }
            }
            "fsync" | "fdatasync" => {
                let Some(name) = self.file_name(call) else { return Ok(()) };
                self.step(call, span, &name, &format!("{} {name}", call.name));
                if call.result == Some(0) {
                    match self.names.get(&name) {
                        Some(Node::File(file)) => self.history.files[*file].syncs.push(span),
                        _ => self.history.directories.get_mut(&name).expect("a directory").syncs.push(span),
                    }
                }
            }
            "dup" | "dup2" | "dup3" => {
                assert!(self.file_name(call).is_none(), "a descriptor of the directory's is doubled: {call:?}");
            }
            "lseek" => {
                if self.file_name(call).is_some() && call.succeeded() {
                    self.open.insert(descriptor(call), call.result.unwrap() as u64);
                }
            }
            _ => return self.changed(call, span),
        }
        Ok(())
    }

    fn opened(&mut self, call: &Call, span: Span, name: &str) -> Result<(), InFlight> {
        if !call.arguments.contains("O_CREAT") && !call.arguments.contains("O_TRUNC") {
            if call.succeeded() {
                self.open.insert(call.result.unwrap() as u64, 0);
            }
            return Ok(());
        }
        self.has_ended(call)?;
        for flag in ["O_APPEND", "O_SYNC", "O_DSYNC", "O_TMPFILE"] {
            assert!(!call.arguments.contains(flag), "{flag} is not known here: {call:?}");
        }
        if !call.succeeded() {
            return Ok(());
        }
        self.open.insert(call.result.unwrap() as u64, 0);
        let file = match self.names.get(name) {
            Some(Node::File(file)) => *file,
            Some(Node::Directory) => panic!("a directory is opened for writing: {call:?}"),
            None => {
                let file = self.history.files.len();
                self.history.files.push(File { name: name.into(), ..File::default() });
                self.names.insert(name.into(), Node::File(file));
                self.step(call, span, name, &format!("create {name}"));
                self.name(span, parent(name), Naming::Create { name: name.into(), node: Node::File(file) });
                return Ok(());
            }
        };
        if call.arguments.contains("O_TRUNC") {
            self.step(call, span, name, &format!("empty {name}"));
            self.history.files[file].changes.push((span, Change::SetLen(0)));
        }
        Ok(())
    }

    /// A call on a file that is open.
    fn changed(&mut self, call: &Call, span: Span) -> Result<(), InFlight> {
        let Some(name) = self.file_name(call) else {
            let is_below = |text: &&str| self.path(text).is_some();
            let is_known = call.file().is_some() || !call.strings().iter().any(is_below);
            assert!(is_known, "not known here: {call:?}");
            return Ok(());
        };
        self.has_ended(call)?;
        if !call.succeeded() {
            return Ok(());
        }
        let Some(Node::File(file)) = self.names.get(&name).copied() else { panic!("{name} was never created") };
        let written = call.result.unwrap() as u64;
        let numbers = || call.arguments.rsplit(", ").map(|text| text.parse::<u64>());
        let number = |from_end| numbers().nth(from_end).expect("an argument").expect("a number");
        let change = match call.name.as_str() {
            "write" | "writev" => {
                let at = self.open.get_mut(&descriptor(call)).expect("it was opened");
                let offset = *at;
                *at += written;
                Change::Write { offset, data: data(call) }
            }
            "pwrite64" | "pwritev" => Change::Write { offset: number(0), data: data(call) },
            "ftruncate" => Change::SetLen(number(0)),
            "fallocate" => {
                let (from, to) = (number(1), number(1) + number(0));
                match call.arguments.split(", ").nth(1).expect("fallocate has a mode") {
                    "0" => Change::Allocate { from, to, keeps_len: false },
                    "FALLOC_FL_KEEP_SIZE" => Change::Allocate { from, to, keeps_len: true },
                    mode => {
                        let punch = ["FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE"];
                        assert!(mode.split('|').count() == 2 && punch.iter().all(|flag| mode.contains(flag)), "{mode}");
                        Change::Punch { from, to }
                    }
                }
            }
            // Asks or tells something that leaves no trace on the disk.
            "ioctl" if !call.arguments.contains("CLONE") => return Ok(()),
            _ => panic!("not known here: {:.200}", format!("{call:?}")),
        };
        let text = match &change {
            Change::Write { offset, data } => {
                assert_eq!(data.len() as u64, written, "a write is shown whole: {} {name}", call.name);
                format!("{} {name} {offset} + {}", call.name, data.len())
            }
            Change::Allocate { from, to, .. } => format!("allocate {name} {from}..{to}"),
            Change::Punch { from, to } => format!("punch {name} {from}..{to}"),
            Change::SetLen(len) => format!("{} {name} {len}", call.name),
        };
        self.step(call, span, &name, &text);
        self.history.files[file].changes.push((span, change));
        Ok(())
    }

    fn has_ended(&self, call: &Call) -> Result<(), InFlight> {
        if call.result.is_none() { Err(InFlight) } else { Ok(()) }
    }

    fn step(&mut self, call: &Call, span: Span, name: &str, text: &str) {
        let of = if self.names.get(name) == Some(&Node::Directory) || name.is_empty() { name } else { parent(name) };
        let kind = format!("{} in {of}/", call.name);
        self.history.steps.push(Step { span, kind, text: text.into() });
    }

    fn name(&mut self, span: Span, directory: &str, naming: Naming) {
        let directory = self.history.directories.get_mut(directory);
        directory.expect("names are made in known directories").namings.push((span, naming));
    }

    /// The path below the root that a descriptor stands for; the root itself is empty. What is deleted is of no more
    /// use.
    fn file_name(&self, call: &Call) -> Option<String> {
        let file = call.file()?;
        let is_deleted = call.arguments.split_once(file).is_some_and(|(_, rest)| rest.starts_with(">(deleted)"));
        if is_deleted { None } else { self.path(file) }
    }

    fn path(&self, printed: &str) -> Option<String> {
        let path = String::from_utf8(bytes(printed)).ok()?;
        let rest = path.strip_prefix(self.root)?;
        if rest.is_empty() {
            return Some(String::new());
        }
        let name = rest.strip_prefix('/')?;
        (name.split('/').next() == Some(self.top)).then(|| name.to_string())
    }
}

/// The directory in which a name is; that of the root's own names is empty.
pub fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn descriptor(call: &Call) -> u64 {
    let end = call.arguments.find('<').expect("strace shows what a descriptor stands for");
    call.arguments[..end].parse().unwrap()
}

/// What was written: all strings, as far as the call came.
fn data(call: &Call) -> Vec<u8> {
    let mut data: Vec<u8> = call.strings().into_iter().flat_map(bytes).collect();
    data.truncate(usize::try_from(call.result.unwrap()).unwrap());
    data
}

/// `\x61\x62` as bytes; text without any escape as it is.
fn bytes(printed: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    if !printed.starts_with("\\x") {
        return printed.as_bytes().to_vec();
    }
    let (bytes, rest) = printed.as_bytes().as_chunks::<4>();
    assert!(rest.is_empty(), "strings are shown in hexadecimal");
    bytes.iter().map(|byte| digit(byte[2]) << 4 | digit(byte[3])).collect()
}
