//! The log as a whole: files that do not belong, are called wrongly, come from later, or cannot be read now.

use super::*;

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
