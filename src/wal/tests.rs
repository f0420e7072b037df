//! Tests of the log as a whole: what goes in comes out, whatever happens to the files in between.

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

#[test]
fn records_come_back_in_order_across_segments_and_after_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=40 {
        assert_eq!(fixture.append(n, 5000).unwrap().position, Position(u64::from(n)));
    }
    assert!(fixture.log.segments().len() >= 3);
    assert_eq!(fixture.read_all(), (numbered(1..=40), vec![]));
    fixture.close();

    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.report.scanned, 0, "a clean stop seals the last segment");
    assert_eq!(fixture.append(41, 10).unwrap().position, Position(41));
    assert_eq!(fixture.read_all(), (numbered(1..=41), vec![]));
    assert_eq!(fixture.log.readable().mark.total, 410);
}

#[test]
fn a_crash_costs_a_scan_of_one_segment_and_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let copy = fixture.crash();
    let fixture = Fixture::open(copy.0.path());
    assert_eq!(fixture.report.scanned, 1);
    assert_eq!(fixture.read_all(), (numbered(1..=30), vec![]));
    // The scanned segment was sealed and its rest given back.
    let copy = fixture.crash();
    assert_eq!(Fixture::open(copy.0.path()).report.scanned, 0, "there is nothing more to scan");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_everything_before_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=3 {
        fixture.append(n, 300).unwrap();
    }
    let path = fixture.log.shared.first_segment().unwrap().path().to_owned();
    let end = fixture.log.readable().place.offset;
    let copy = fixture.crash();
    let path = copy.0.path().join(path.file_name().unwrap());
    let whole = std::fs::read(&path).unwrap();
    // The last record takes 512 bytes, of which the last 59 are padding.
    for cut in (1..=512).step_by(7) {
        let torn = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[(end - cut) as usize..end as usize].fill(0);
        std::fs::write(torn.path().join(path.file_name().unwrap()), bytes).unwrap();
        let fixture = Fixture::open(torn.path());
        let expected = if cut <= 59 { 3 } else { 2 };
        assert_eq!(fixture.read_all(), (numbered(1..=expected), vec![]), "cut {cut}");
        assert_eq!(fixture.append(99, 10).unwrap().position, Position(expected + 1));
    }
}

#[test]
fn damage_in_the_middle_is_stepped_over_and_counted_by_the_totals() {
    for (offset, what) in [(DATA_START + 8, "header"), (DATA_START + 200, "body")] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open(dir.path());
        for n in 1..=30 {
            fixture.append(n, 5000).unwrap();
        }
        let first = fixture.log.shared.first_segment().unwrap().path().to_owned();
        let last = fixture.log.shared.segments().values().last().unwrap().path().to_owned();
        flip(&first, offset);
        let (records, gaps) = fixture.read_all();
        assert_eq!((records, gaps), (numbered(2..=30), vec![10]), "{what} damaged while in use");
        let copy = fixture.crash();
        // The last segment is scanned, the first is sealed: both kinds of damage.
        let last = copy.0.path().join(last.file_name().unwrap());
        flip(&last, offset);
        let fixture = Fixture::open(copy.0.path());
        let (records, gaps) = fixture.read_all();
        assert_eq!(records.len(), 28, "{what}");
        assert_eq!(gaps, [10, 10], "{what}");
    }
}

#[test]
fn damage_at_the_end_of_a_sealed_segment_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let (path, end, last) = {
        let first = fixture.log.shared.first_segment().unwrap();
        let closed = *first.closed().unwrap();
        (first.path().to_owned(), closed.data_end, closed.last.position.0)
    };
    flip(&path, end - 5000);
    let (records, gaps) = fixture.read_all();
    assert_eq!(records.len(), 29);
    assert_eq!(gaps, [10]);
    assert!(!records.contains(&(last, last as u8)));
}

#[test]
fn a_missing_segment_is_one_gap() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=40 {
        fixture.append(n, 5000).unwrap();
    }
    let segments = fixture.log.segments();
    let missing = segments[1];
    fixture.close();
    std::fs::remove_file(dir.path().join(format!("seg-{:020}.wal", missing.id.0))).unwrap();
    let fixture = Fixture::open(dir.path());
    let (records, gaps) = fixture.read_all();
    let lost = missing.last.0 - missing.first.0 + 1;
    assert_eq!(records.len() as u64, 40 - lost);
    assert_eq!(gaps, [lost * 10]);
}

fn kinds(fixture: &Fixture) -> Vec<findings::Kind> {
    fixture.log.findings().list.iter().map(|finding| finding.kind).collect()
}

#[test]
fn foreign_files_and_second_copies_go_to_quarantine_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let first = fixture.log.shared.first_segment().unwrap().path().to_owned();
    fixture.close();
    let named = |number: u64| dir.path().join(format!("seg-{number:020}.wal"));
    std::fs::write(named(900), vec![7; 10_000]).unwrap();
    std::fs::copy(first, named(901)).unwrap();
    std::fs::write(named(902), []).unwrap();
    std::fs::create_dir(named(903)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, named(904), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let fixture = Fixture::open(dir.path());
    assert_eq!(kinds(&fixture), [findings::Kind::Unusable; 5]);
    for finding in fixture.log.findings().list {
        let kept = finding.kept.unwrap();
        assert!(!finding.path.exists() && kept.exists());
        let note = std::fs::read_to_string(kept.with_extension("wal.json")).unwrap();
        assert!(note.contains(&finding.reason), "{note}");
    }
    // What was foreign may have been ours once: nothing new is taken for it.
    let position = fixture.append(31, 10).unwrap().position;
    assert!(position > Position(30));
    assert_eq!(fixture.read_all().0.len(), 31);
    fixture.close();
    let fixture = Fixture::open(dir.path());
    assert_eq!((kinds(&fixture), fixture.read_all().0.len()), (vec![], 31), "said once");
}

#[test]
fn segments_whose_names_were_exchanged_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=40 {
        fixture.append(n, 5000).unwrap();
    }
    let paths: Vec<_> = fixture.log.shared.segments().values().map(|segment| segment.path().to_owned()).collect();
    fixture.close();
    let aside = dir.path().join("aside");
    for (from, to) in [(&paths[0], &aside), (&paths[2], &paths[0]), (&aside, &paths[2])] {
        std::fs::rename(from, to).unwrap();
    }
    for n in [41, 42] {
        let fixture = Fixture::open(dir.path());
        assert_eq!((kinds(&fixture), fixture.append(n, 10).unwrap().position), (vec![], Position(u64::from(n))));
        assert_eq!(fixture.read_all(), (numbered(1..=u64::from(n)), vec![]));
        fixture.close();
    }
}

#[test]
fn a_segment_of_another_log_goes_to_quarantine_and_destroys_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fixture = Fixture::open(dir.path());
    for n in 1..=3 {
        fixture.append(n, 5000).unwrap();
    }
    fixture.close();
    let fixture = Fixture::open(other.path());
    fixture.append(77, 10).unwrap();
    let name = "seg-00000000000000000001.wal";
    fixture.close();
    // One that would cut ours off at position 0, and is as many as ours.
    let mut renamed = std::fs::read(other.path().join(name)).unwrap();
    renamed[16..24].copy_from_slice(&2u64.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&renamed[..12]), &renamed[16..96]);
    renamed[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(dir.path().join("seg-00000000000000000002.wal"), renamed).unwrap();
    for expected in [vec![findings::Kind::Unusable], vec![]] {
        let fixture = Fixture::open(dir.path());
        assert_eq!(kinds(&fixture), expected);
        assert_eq!(fixture.read_all(), (numbered(1..=3), vec![]));
        fixture.close();
    }
}

#[test]
fn a_segment_of_a_later_version_is_left_alone_and_can_be_read_by_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let segments: Vec<_> = fixture.log.segments();
    let paths: Vec<_> = fixture.log.shared.segments().values().map(|segment| segment.path().to_owned()).collect();
    let newest = *segments.last().unwrap();
    fixture.close();
    let set_version = |path: &Path, version: u8| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for offset in [8, segment::COPY_START + 8] {
            file.write_all_at(&[version], offset).unwrap();
        }
    };
    let (oldest, newest_path) = (&paths[0], paths.last().unwrap());
    for path in [oldest, newest_path] {
        set_version(path, 2);
    }
    let fixture = Fixture::open(dir.path());
    assert_eq!(kinds(&fixture), [findings::Kind::Unreadable; 2]);
    assert!(fixture.log.findings().list[0].reason.contains("has format 2; this program reads format 1"));
    // Nobody knows how far the newest goes: nothing new is taken for something in it.
    let position = fixture.append(99, 10).unwrap().position;
    assert!(position > newest.last, "{position}");
    let (records, _) = fixture.read_all();
    let readable: Vec<_> =
        (segments[1].first.0..newest.first.0).map(|n| (n, n as u8)).chain([(position.0, 99)]).collect();
    assert_eq!(records, readable);
    fixture.close();

    for path in [oldest, newest_path] {
        set_version(path, 1);
    }
    let fixture = Fixture::open(dir.path());
    let (records, gaps) = fixture.read_all();
    let all: Vec<_> = numbered(1..=30).into_iter().chain([(position.0, 99)]).collect();
    assert_eq!((records, gaps), (all, vec![0]), "the positions that were skipped hold nothing");
    let (start, end) = (fixture.log.start(), fixture.log.readable().mark);
    assert_eq!(fixture.log.samples_between(start, end), 310, "also of what was not part of the totals");
}

#[test]
fn strict_recovery_changes_nothing_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let second = fixture.log.shared.segments().values().nth(1).unwrap().path().to_owned();
    let copy = fixture.crash();
    let second = copy.0.path().join(second.file_name().unwrap());
    let options = Options { recovery: Recovery::Strict, ..Options::new(SEGMENT, 16 * SEGMENT) };
    let open = || Log::open(Directory::open(copy.0.path()).unwrap(), options, &[], Arc::new(Silent));
    let list = || -> Vec<_> {
        let mut files: Vec<_> = std::fs::read_dir(copy.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("LOCK"))
            .map(|path| (std::fs::read(&path).unwrap(), path))
            .collect();
        files.sort();
        files
    };
    std::fs::rename(&second, second.with_extension("away")).unwrap();
    let before = list();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("1 thing(s) are wrong") && error.contains("the segment is not there"), "{error}");
    assert!(list() == before, "something was changed");
    // A log that was merely cut off in its work is not damaged.
    std::fs::rename(second.with_extension("away"), &second).unwrap();
    let opened = open().unwrap();
    assert_eq!(opened.report.scanned, 1);
}

#[test]
fn a_header_its_copy_or_the_seal_may_be_damaged_and_another_says_what_it_is() {
    for (zeroed, expected) in [
        (0..4096, vec![findings::Kind::Repaired]),
        (4096..8192, vec![]),
        (SEGMENT - segment::SEAL_LEN..SEGMENT, vec![]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open(dir.path());
        for n in 1..=30 {
            fixture.append(n, 5000).unwrap();
        }
        let first = fixture.log.shared.first_segment().unwrap().path().to_owned();
        fixture.close();
        let file = OpenOptions::new().write(true).open(&first).unwrap();
        file.write_all_at(&vec![0; (zeroed.end - zeroed.start) as usize], zeroed.start).unwrap();
        let fixture = Fixture::open(dir.path());
        assert_eq!(kinds(&fixture), expected, "{zeroed:?}");
        assert_eq!(fixture.read_all(), (numbered(1..=30), vec![]), "{zeroed:?}");
    }
}

#[test]
fn what_is_damaged_is_counted_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let path = fixture.log.shared.first_segment().unwrap().path().to_owned();
    // Records take 5184 bytes: the header of the third, the body of the sixth.
    flip(&path, DATA_START + 2 * 5184 + 20);
    flip(&path, DATA_START + 5 * 5184 + 2000);
    for _ in 0..3 {
        assert_eq!(fixture.read_all().1, [10, 10]);
    }
    let findings = fixture.log.findings();
    assert_eq!((findings.count, findings.records, findings.samples, findings.bytes), (2, 2, 20, 2 * 5184));
    for (finding, position) in findings.list.iter().zip([3, 6]) {
        assert_eq!(finding.positions, Some((Position(position), Position(position))));
        let kept = std::fs::read(finding.kept.as_ref().unwrap()).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!(kept, file[finding.offset as usize..(finding.offset + finding.bytes) as usize]);
    }
    assert!(
        fixture.log.disk_bytes() >= fixture.log.segments().iter().map(|segment| segment.bytes).sum::<u64>() + 2 * 5184
    );
    // In a full log it would go first.
    assert!(fixture.log.drop_from_quarantine());
}

#[test]
fn what_is_gone_at_the_end_is_a_gap_at_once_and_not_with_the_next_record() {
    // The last segment begins behind records that the one before it has lost, and holds none itself.
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=12 {
        fixture.append(n, 5000).unwrap();
    }
    let segments: Vec<_> = fixture.log.shared.segments().values().map(|segment| segment.path().to_owned()).collect();
    let copy = fixture.crash();
    let [first, second] = &segments[..] else { panic!("{segments:?}") };
    let wipe = |path: &Path, range: std::ops::Range<u64>| {
        let path = copy.0.path().join(path.file_name().unwrap());
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
    };
    // Records take 5184 bytes; the seal and two records of the first, and all of the second.
    let in_first = Options::record_bytes_max(SEGMENT) / 5184;
    wipe(first, DATA_START + (in_first - 2) * 5184..SEGMENT - segment::SEAL_LEN);
    wipe(first, SEGMENT - segment::SEAL_LEN..SEGMENT);
    wipe(second, DATA_START..SEGMENT - segment::SEAL_LEN);
    let fixture = Fixture::open(copy.0.path());
    assert_eq!(fixture.read_all(), (numbered(1..=in_first - 2), vec![20]));
    let findings = fixture.log.findings();
    assert_eq!((findings.count, findings.records, findings.samples), (1, 2, 20));
    assert_eq!(fixture.append(99, 10).unwrap().position, Position(in_first + 1));
}

/// A log that has lived for long: its positions are far beyond what its files could hold.
fn long_lived(dir: &Path) -> (TempCopy, Floor) {
    let mark = Mark { position: Position(10_000), total: 100_000 };
    let fixture = Fixture::open(dir);
    fixture.append(1, 10).unwrap();
    fixture.close();
    let fixture = Fixture::open_with(dir, SyncMode::Always, 16 * SEGMENT, mark);
    for n in 1..=20 {
        fixture.append(n, 300).unwrap();
    }
    fixture.log.release(mark.position);
    let floor = Floor { log_id: fixture.log.id(), settled: mark, segment: SegmentId(1) };
    (fixture.crash(), floor)
}

#[test]
fn positions_begin_above_what_cannot_be_read_also_where_they_are_high_already() {
    let dir = tempfile::tempdir().unwrap();
    let (copy, floor) = long_lived(dir.path());
    let maps = faults::Fault { kind: faults::Kind::Map, first: 0, count: 2, error: rustix::io::Errno::IO };
    let disk = Arc::new(faults::FaultyDisk::new(copy.0.path(), vec![maps]));
    let watch = disk::watch(copy.0.path(), disk);
    let options = Options::new(SEGMENT, 16 * SEGMENT);
    let open = || Log::open(Directory::open(copy.0.path()).unwrap(), options, &[floor], Arc::new(Silent)).unwrap();
    let opened = open();
    let mut ticket = opened.appender.append(new_record(99, 10), Box::new(()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(ticket.outcome()).unwrap().position > Position(10_020));
    drop(watch);
    // It can be read again: all of it is there, before what came since, and owed.
    let read = |log: &Log| {
        let mut cursor = log.cursor(floor.settled, Place::default());
        let (mut fills, mut lost) = (Vec::new(), 0);
        loop {
            match cursor.next_step() {
                Step::Record(record) => fills.push(record.body[0]),
                Step::Gap { from, to, .. } => lost += to.total.saturating_sub(from.total),
                Step::Unreadable(error) => panic!("{error}"),
                Step::End => return (fills, lost),
            }
        }
    };
    let all: Vec<u8> = (1..=20).chain([99]).collect();
    assert_eq!(read(&opened.log), (all.clone(), 0));
    let owed = |log: &Log| log.samples_between(floor.settled, log.readable().mark);
    assert_eq!(owed(&opened.log), 210);
    drop(opened.appender);
    opened.closer.close();
    drop(opened.log);
    let opened = open();
    assert_eq!((read(&opened.log), owed(&opened.log)), ((all, 0), 210));
}

#[test]
fn who_begins_with_the_oldest_waits_for_an_older_one_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    fixture.close();
    // (The fixture looks at the newest itself, before.)
    let once = faults::Fault { kind: faults::Kind::Map, first: 1, count: 1, error: rustix::io::Errno::IO };
    let disk = Arc::new(faults::FaultyDisk::new(dir.path(), vec![once]));
    let _watch = disk::watch(dir.path(), disk);
    let fixture = Fixture::open(dir.path());
    let start = fixture.log.start();
    assert_eq!(start, Mark::BEGINNING);
    let mut cursor = fixture.log.cursor(start, Place::default());
    let Step::Gap { from, to, .. } = cursor.next_step() else { panic!("it begins somewhere") };
    assert_eq!((to, to.total.saturating_sub(from.total)), (Mark::default(), 0), "and has missed nothing");
    let Step::Record(first) = cursor.next_step() else { panic!("the oldest record comes first") };
    assert_eq!(first.header.position, Position(1));
}

#[test]
fn what_the_next_segment_proves_is_not_cut_behind_a_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    // One group: no record of it proves the one before.
    let appender = fixture.appender.as_ref().unwrap();
    let tickets: Vec<_> = (1..=5).map(|n| appender.append(new_record(n, 300), Box::new(()))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for mut ticket in tickets {
        runtime.block_on(ticket.outcome()).unwrap();
    }
    let first = fixture.log.shared.first_segment().unwrap().path().to_owned();
    for n in 6..=20 {
        fixture.append(n, 5000).unwrap();
    }
    fixture.close();
    // The seal is gone, and the first record.
    flip(&first, SEGMENT - segment::SEAL_LEN + 8);
    flip(&first, DATA_START + 8);
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.read_all(), (numbered(2..=20), vec![10]));
}

#[test]
fn a_log_of_which_nothing_is_left_goes_on_above_all_savepoints() {
    let dir = tempfile::tempdir().unwrap();
    let floor = |log: u8, position: u64| {
        let settled = Mark { position: Position(position), total: 10 * position };
        Floor { log_id: [log; 16], settled, segment: SegmentId(1) }
    };
    let options = Options::new(SEGMENT, 16 * SEGMENT);
    let floors = [floor(1, 100), floor(2, 3), floor(2, 3)];
    let opened = Log::open(Directory::open(dir.path()).unwrap(), options, &floors, Arc::new(Silent)).unwrap();
    assert_eq!(opened.log.readable().mark, floors[0].settled);
}

#[test]
fn what_a_start_has_scanned_it_seals() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 5000).unwrap();
    let copy = fixture.crash();
    let fixture = Fixture::open(copy.0.path());
    assert_eq!(fixture.report.scanned, 1);
    assert!(fixture.log.segments()[0].bytes < SEGMENT / 2, "the unused rest is given back");
    let copy = fixture.crash();
    assert_eq!(Fixture::open(copy.0.path()).report.scanned, 0);
}

#[test]
fn a_log_nobody_writes_to_closes_its_segment_and_opens_another_with_the_next_record() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 10).unwrap();
    fixture.log.seal_active();
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.log.release(Position(1)).is_empty() {
        assert!(Instant::now() < deadline, "the segment is not closed");
    }
    assert_eq!(fixture.log.segments(), []);
    assert_eq!(fixture.log.health(), Health::Working);
    assert_eq!(fixture.append(2, 10).unwrap().position, Position(2));
    assert_eq!(fixture.read_all(), (numbered(2..=2), vec![]));
    fixture.close();
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.append(3, 10).unwrap().position, Position(3));
}

#[test]
fn what_lies_in_a_segment_at_or_above_the_first_position_of_the_next_one_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=3 {
        fixture.append(n, 300).unwrap();
    }
    let log_id = fixture.log.id();
    let copy = fixture.crash();
    // As after a sync that failed: 2 and 3 were not acknowledged, another record 2 was written to a fresh segment.
    let directory = Directory::open(copy.0.path()).unwrap();
    let (id, before) = (SegmentId(2), Mark { position: Position(1), total: 10 });
    let header = SegmentHeader { id, before, salt: 5, log_id, created_ms: 0, len: SEGMENT };
    let prepared = Prepared::create(directory.prepared_path(id), SEGMENT, &DiskUsage::default()).unwrap();
    let segment = prepared.take_into_use(header, directory.segment_path(id)).unwrap();
    let record = new_record(22, 300);
    let header = record::Header {
        kind: record.kind,
        flags: 0,
        position: Position(2),
        total: 20,
        body_len: 300,
        meta_len: record.meta.len() as u32,
        body_crc: record.body_crc,
        received_ms: 5,
        counts: record.counts,
        times: record.times,
        unacknowledged: 1,
        decoded_len: 100,
    };
    let bytes = [&segment.encode(&header, DATA_START)[..], &record.meta, &record.body].concat();
    segment.write(DATA_START, &mut [std::io::IoSlice::new(&bytes)]).unwrap();
    drop((segment, directory));
    for expected in [3, 4] {
        let fixture = Fixture::open(copy.0.path());
        let (records, gaps) = fixture.read_all();
        assert_eq!((&records[..2], gaps), (&[(1, 1), (2, 22)][..], vec![]));
        assert_eq!(fixture.append(expected as u8, 10).unwrap().position, Position(expected));
        fixture.close();
    }
}

#[test]
fn which_log_it_is_is_said_by_the_savepoints_and_not_by_what_somebody_brought() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 10).unwrap();
    let log_id = fixture.log.id();
    fixture.close();
    let fixture = Fixture::open(other.path());
    for n in 1..=40 {
        fixture.append(n, 5000).unwrap();
    }
    let brought: Vec<_> = fixture.log.segments().iter().map(|segment| segment.id).filter(|id| id.0 > 1).collect();
    fixture.close();
    for id in &brought {
        let name = format!("seg-{:020}.wal", id.0);
        std::fs::copy(other.path().join(&name), dir.path().join(&name)).unwrap();
    }
    let options = Options::new(SEGMENT, 16 * SEGMENT);
    let floor = Floor { log_id, settled: Mark::default(), segment: SegmentId(1) };
    let open = |dir: &Path| Log::open(Directory::open(dir).unwrap(), options, &[floor], Arc::new(Silent)).unwrap();
    let opened = open(dir.path());
    assert_eq!((opened.log.id(), opened.log.findings().count), (log_id, brought.len() as u64));
    assert_eq!(read_from(&opened.log, opened.log.start(), Place::default()), (numbered(1..=1), vec![]));
    // And it is the same log when nothing of it is left.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(open(empty.path()).log.id(), log_id);
}

#[test]
fn what_was_acknowledged_before_its_sync_is_kept_in_its_file_until_it_is_somewhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=3 {
        fixture.append(n, 300).unwrap();
    }
    let segment = fixture.log.shared.first_segment().unwrap();
    // The writer leaves a failed segment without abandoning it: all is there. Then it abandons what was not durable.
    let ends = DATA_START + 512;
    assert!(segment.read_header(ends, DATA_START + 3 * 512).unwrap().is_some());
    segment.abandon(ends);
    assert!(segment.read_header(ends, DATA_START + 3 * 512).unwrap().is_none());
    assert!(segment.read_header(DATA_START, DATA_START + 3 * 512).unwrap().is_some());
}

#[test]
fn numbers_of_segments_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = SegmentId(0);
    for n in 1..=4 {
        let directory = Directory::open(dir.path()).unwrap();
        let options = Options::new(SEGMENT, 16 * SEGMENT);
        // Nothing is left of the log but what a savepoint says.
        let floor = Floor { log_id: [0; 16], settled: Mark::default(), segment: newest };
        let opened = Log::open(directory, options, &[floor], Arc::new(Silent)).unwrap();
        let mut ticket = opened.appender.append(new_record(n, 10), Box::new(()));
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket.outcome()).unwrap();
        let id = opened.log.segments()[0].id;
        assert!(id > newest, "start {n}: {id} after {newest}");
        newest = id;
        let path = opened.log.shared.first_segment().unwrap().path().to_owned();
        drop(opened.appender);
        opened.closer.close();
        std::fs::remove_file(path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the lock and nothing else");
    }
}

#[test]
fn without_a_sync_a_hole_is_damage_to_acknowledged_data_and_what_lies_behind_it_is_kept() {
    for sync in [SyncMode::Never, SyncMode::Interval(Duration::from_secs(60))] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open_with(dir.path(), sync, 16 * SEGMENT, Mark::default());
        for n in 1..=10 {
            fixture.append(n, 300).unwrap();
        }
        let path = fixture.log.shared.first_segment().unwrap().path().to_owned();
        let copy = fixture.crash();
        flip(&copy.0.path().join(path.file_name().unwrap()), DATA_START + 512 + 8);
        let fixture = Fixture::open_with(copy.0.path(), sync, 16 * SEGMENT, Mark::default());
        let (records, gaps) = fixture.read_all();
        assert_eq!((records.len(), gaps), (9, vec![10]), "{sync:?}");
    }
}

#[test]
fn closed_segments_hold_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=60 {
        fixture.append(n, 5000).unwrap();
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let ours = open.filter(|path| path.starts_with(dir.path()) && path.to_string_lossy().contains("seg-")).count();
    assert!(fixture.log.segments().len() > 4);
    assert!(ours <= 1, "{ours} segments are open");
}

#[test]
fn a_cursor_resumes_at_its_place_and_finds_its_record_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=30 {
        fixture.append(n, 5000).unwrap();
    }
    let mut cursor = fixture.log.cursor(Mark::default(), Place::default());
    for n in 1..=30 {
        let Step::Record(record) = cursor.next_step() else { panic!("no record {n}") };
        for place in [record.next, Place::default(), Place { offset: record.next.offset + 64, ..record.next }] {
            assert_eq!(read_from(&fixture.log, record.mark(), place), (numbered(n + 1..=30), vec![]));
        }
    }
    assert!(matches!(cursor.next_step(), Step::End));
}

#[test]
fn what_is_released_is_deleted_and_a_late_reader_sees_one_gap() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 1..=40 {
        fixture.append(n, 5000).unwrap();
    }
    let segments = fixture.log.segments();
    assert!(fixture.log.release(Position(segments[1].last.0 - 1)).len() == 1, "a segment goes only as a whole");
    let released = fixture.log.release(segments[1].last);
    assert_eq!(released, [segments[1]]);
    assert!(fixture.log.release(Position(40)).len() + 1 == segments.len() - 2, "the active segment stays");
    let start = fixture.log.start();
    assert_eq!(read_from(&fixture.log, Mark::default(), Place::default()).1, [start.total]);
    let first = dir.path().join(format!("seg-{:020}.wal", segments[0].id.0));
    fixture.close();
    assert!(!first.exists());
}

#[test]
fn a_full_log_refuses_and_goes_on_when_space_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(dir.path(), SyncMode::Always, 4 * SEGMENT, Mark::default());
    let mut accepted = 0;
    let error = loop {
        match fixture.append(1, 5000) {
            Ok(appended) => accepted = appended.position.0,
            Err(error) => break error,
        }
        assert!(fixture.log.disk_bytes() <= 4 * SEGMENT);
    };
    assert_eq!(error, AppendError::Full(Limit::MaxSize { bytes: 4 * SEGMENT }));
    assert_eq!(fixture.log.health(), Health::Full(Limit::MaxSize { bytes: 4 * SEGMENT }));
    assert_eq!(fixture.append(1, 1).unwrap_err(), AppendError::Full(Limit::MaxSize { bytes: 4 * SEGMENT }));
    assert_eq!(fixture.read_all().0.len() as u64, accepted);

    fixture.log.release(fixture.log.segments()[0].last);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while fixture.append(2, 5000).is_err() {
        assert!(std::time::Instant::now() < deadline, "space was released but nothing is accepted");
    }
    assert_eq!(fixture.log.readable().mark.position, Position(accepted + 1), "refused records take no position");
    assert_eq!(fixture.log.health(), Health::Working);
}

#[test]
fn a_record_larger_than_a_segment_is_refused_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    assert!(matches!(fixture.append(1, SEGMENT as usize), Err(AppendError::TooLarge { .. })));
    let largest = Options::record_bytes_max(SEGMENT) as usize - record::HEADER_LEN - 64;
    fixture.append(1, largest).unwrap();
    fixture.append(2, largest).unwrap();
    assert_eq!(fixture.read_all(), (numbered(1..=2), vec![]));
}

#[test]
fn positions_start_above_the_floor_and_the_jump_is_a_gap_for_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 10).unwrap();
    fixture.close();
    let floor = Mark { position: Position(100), total: 2000 };
    let fixture = Fixture::open_with(dir.path(), SyncMode::Always, 16 * SEGMENT, floor);
    assert_eq!(fixture.append(101, 10).unwrap().position, Position(101));
    assert_eq!(fixture.read_all(), (vec![(1, 1), (101, 101)], vec![1990]));
    assert_eq!(read_from(&fixture.log, floor, Place::default()), (vec![(101, 101)], vec![]));
}

#[test]
fn a_savepoint_of_another_log_moves_no_positions() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 10).unwrap();
    fixture.close();
    let options = Options::new(SEGMENT, 16 * SEGMENT);
    let settled = Mark { position: Position(100), total: 2000 };
    let foreign = [Floor { log_id: [0xee; 16], settled, segment: SegmentId(0) }];
    let opened = Log::open(Directory::open(dir.path()).unwrap(), options, &foreign, Arc::new(Silent)).unwrap();
    assert_eq!(opened.log.readable().mark, Mark { position: Position(1), total: 10 });
}

#[test]
fn a_withdrawn_record_is_never_appended() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let appender = fixture.appender.as_ref().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut withdrawn = 0;
    for n in 0..200 {
        let mut ticket = appender.append(new_record(7, 10 + n), Box::new(()));
        let taken_back = ticket.withdraw();
        match runtime.block_on(ticket.outcome()) {
            Err(AppendError::Withdrawn) => withdrawn += u64::from(taken_back),
            Ok(_) => assert!(!taken_back, "withdrawn, but appended"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(fixture.log.readable().mark.position.0, 200 - withdrawn);
}

#[test]
fn other_sync_modes_acknowledge_earlier_and_lose_nothing_on_a_clean_stop() {
    for sync in [SyncMode::Interval(Duration::from_millis(50)), SyncMode::Never] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open_with(dir.path(), sync, 16 * SEGMENT, Mark::default());
        for n in 1..=40 {
            fixture.append(n, 5000).unwrap();
        }
        fixture.close();
        let fixture = Fixture::open_with(dir.path(), sync, 16 * SEGMENT, Mark::default());
        assert_eq!(fixture.read_all(), (numbered(1..=40), vec![]), "{sync:?}");
    }
}

#[test]
fn with_an_interval_a_record_becomes_readable_without_another_append() {
    let dir = tempfile::tempdir().unwrap();
    let sync = SyncMode::Interval(Duration::from_millis(20));
    let fixture = Fixture::open_with(dir.path(), sync, 16 * SEGMENT, Mark::default());
    fixture.append(1, 10).unwrap();
    let mut readable = fixture.log.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), readable.wait_for(|r| r.mark.position == Position(1)))
            .await
            .expect("the sync comes by itself")
            .unwrap();
    });
}
