//! Tests of the log as a whole: what goes in comes out, whatever happens to the files in between. Here is what they share.

mod append;
mod damage;
mod files;
mod limits;
mod starts;

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use tempfile::TempDir;

use super::record::{Content, Counts, Kind, Meta, NewRecord, TimeRange};
use super::segment::{Prepared, Segment, SegmentHeader};
use super::*;

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

const SEGMENT: u64 = 64 << 10;

struct Fixture {
    log: Log,
    appender: Option<Appender>,
    closer: Option<Closer>,
    report: Report,
}

impl Fixture {
    fn open(dir: &Path) -> Fixture {
        Fixture::open_with(dir, SyncMode::Always, 16 * SEGMENT, Mark::default())
    }

    fn open_with(dir: &Path, sync: SyncMode, max_bytes: u64, floor: Mark) -> Fixture {
        let directory = Directory::open(dir).unwrap();
        let options = Options { sync, ..Options::new(SEGMENT, max_bytes) };
        let log_id = log_id_in(&directory).unwrap_or_default();
        let floor = Floor { log_id, settled: floor, segment: SegmentId(0) };
        let savepoints = if floor.settled == Mark::default() { vec![] } else { vec![floor] };
        let Opened { log, appender, report, closer, .. } =
            Log::open(directory, options, &savepoints, Arc::new(Silent)).unwrap();
        Fixture { log, appender: Some(appender), closer: Some(closer), report }
    }

    /// Appends a record of `len` body bytes that are all `fill`.
    fn append(&self, fill: u8, len: usize) -> Result<Appended, AppendError> {
        let mut ticket = self.appender.as_ref().unwrap().append(new_record(fill, len), Box::new(()));
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket.outcome())
    }

    fn close(mut self) {
        self.appender = None;
        self.closer.take().unwrap().close();
    }

    /// Ends the threads without a seal, as a crash would. (What was acknowledged is in the files.)
    fn crash(self) -> TempCopy {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.log.shared.directory.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        self.close();
        TempCopy(copy)
    }

    fn read_all(&self) -> (Vec<(u64, u8)>, Vec<u64>) {
        read_from(&self.log, self.log.start(), Place::default())
    }
}

struct TempCopy(TempDir);

/// What a savepoint of the log in this directory would name.
fn log_id_in(directory: &Directory) -> Option<[u8; 16]> {
    let id = directory.segments().unwrap().pop()?;
    Segment::open(directory.segment_path(id), &DiskUsage::default()).ok().map(|segment| segment.header().log_id)
}

fn new_record(fill: u8, len: usize) -> NewRecord {
    let content = Content {
        kind: Kind::Write1,
        flags: 0,
        counts: Counts { samples: 10, series: 10, ..Counts::default() },
        times: TimeRange { min: 1, max: 2 },
        decoded_len: 100,
    };
    let meta =
        Meta { forwarded: vec![("x-scope-orgid".into(), vec![fill])], sender: Some(IpAddr::from([10, 0, 0, fill])) };
    NewRecord::new(content, &meta, Bytes::from(vec![fill; len]), 5)
}

/// Positions with the first byte of their bodies, and the samples in each gap.
fn read_from(log: &Log, mark: Mark, place: Place) -> (Vec<(u64, u8)>, Vec<u64>) {
    let mut cursor = log.cursor(mark, place);
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    let mut before = mark;
    loop {
        match cursor.next_step() {
            Step::Record(record) => {
                assert_eq!(record.header.total_before(), before.total, "every sample is in a record or a gap");
                assert!(record.body.iter().all(|byte| *byte == record.body[0]));
                assert_eq!(record.meta.forwarded[0].1, [record.body[0]]);
                records.push((record.header.position.0, record.body[0]));
            }
            Step::Gap { to, .. } => gaps.push(to.total.saturating_sub(before.total)),
            Step::Unreadable(error) => panic!("{error}"),
            Step::End => break,
        }
        before = cursor.mark();
    }
    assert_eq!(before, log.readable().mark, "a cursor at the end has seen everything");
    (records, gaps)
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, u8)> {
    range.map(|position| (position, position as u8)).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

/// What was found wrong.
fn kinds(fixture: &Fixture) -> Vec<findings::Kind> {
    fixture.log.findings().list.iter().map(|finding| finding.kind).collect()
}
