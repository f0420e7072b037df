//! What comes out of the library: a log opened in this process and read to its end.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promrelay::savepoint::Store;
use promrelay::wal::directory::{Directory, DirectoryError};
use promrelay::wal::{Appender, Closer, Findings, Log, Mark, Observer, Opened, Options, Place, Step};
use tempfile::TempDir;

use crate::base::Base;

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

/// An open log.
pub struct Open {
    log: Option<Log>,
    appender: Option<Appender>,
    closer: Option<Closer>,
}

impl Open {
    /// As the program does it, but for new segments, which are small.
    pub fn new(dir: &Path) -> Open {
        let directory = lock(dir);
        let floors = Store::open(dir).unwrap().floors();
        let opened = Log::open(directory, Options::new(8 << 10, 64 << 20), &floors, Arc::new(Silent)).unwrap();
        let Opened { log, appender, closer, .. } = opened;
        Open { log: Some(log), appender: Some(appender), closer: Some(closer) }
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.appender = None;
        self.log = None;
        self.closer.take().unwrap().close();
    }
}

/// Another test that starts a process holds our locks too, for the moment until that process is another program.
fn lock(dir: &Path) -> Directory {
    loop {
        match Directory::open(dir) {
            Err(DirectoryError::Locked { .. }) => File::open(dir.join("LOCK")).unwrap().lock().unwrap(),
            other => return other.unwrap(),
        }
    }
}

/// What a reader got.
#[derive(Debug)]
pub struct Read {
    pub positions: Vec<u64>,
    /// Samples in gaps.
    pub lost: u64,
    /// What the log said about it.
    pub findings: Findings,
}

/// Opens a log and reads from a point on, up to the record at `until`. What comes out must be what was put in.
pub fn read(base: &Base, dir: &Path, from: (Mark, Place), until: u64) -> Read {
    let open = Open::new(dir);
    let mut cursor = open.log().cursor(from.0, from.1);
    let (mut positions, mut lost) = (Vec::new(), 0);
    while cursor.mark().position.0 < until {
        match cursor.next_step() {
            Step::Record(record) => {
                let position = record.header.position.0;
                assert!(record.body == base.at(position).body, "position {position} is not what was put in");
                positions.push(position);
            }
            Step::Gap { from, to, .. } => lost += to.total.saturating_sub(from.total),
            Step::Unreadable(error) => panic!("{error}"),
            Step::End => break,
        }
    }
    Read { positions, lost, findings: open.log().findings() }
}

/// A directory in which a sync costs nothing, if there is one.
pub fn cheap_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
