//! The log as a whole: bytes that are not what they were: what is stepped over, what is cut, and what is counted.

use super::*;

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
fn positions_that_were_skipped_prove_nothing_about_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(1, 300).unwrap();
    // One group: none of it proves the record before it.
    let appender = fixture.appender.as_ref().unwrap();
    let tickets: Vec<_> = (2..=5).map(|n| appender.append(new_record(n, 300), Box::new(()))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for mut ticket in tickets {
        runtime.block_on(ticket.outcome()).unwrap();
    }
    let segment = fixture.log.shared.first_segment().unwrap();
    let second = DATA_START + 512;
    let group = segment.read_header(second, SEGMENT).unwrap().unwrap();
    let path = segment.path().file_name().unwrap().to_owned();
    drop(segment);
    let copy = fixture.crash();
    // Torn: 2 and what came with it was never acknowledged, as far as the disk tells. And it cannot be read at the start.
    flip(&copy.0.path().join(path), second + 8);
    let maps = faults::Fault { kind: faults::Kind::Map, first: 1, count: 1, error: rustix::io::Errno::IO };
    let _watch = disk::watch(copy.0.path(), Arc::new(faults::FaultyDisk::new(copy.0.path(), vec![maps])));
    let fixture =
        Fixture::open_with(copy.0.path(), SyncMode::Always, 16 * SEGMENT, Mark { position: Position(1), total: 10 });
    let position = fixture.append(99, 10).unwrap().position;
    assert!(position > Position(5));
    let (records, gaps) = fixture.read_all();
    // Unless the writer was so quick that 2 was a group of its own, which the next one proves.
    let is_one_group = group.unacknowledged == 1;
    let next_proves = |n: u64| (2..=5).contains(&n) && records.iter().any(|(at, _)| *at == n);
    if is_one_group && !next_proves(3) {
        assert_eq!((records, gaps.iter().sum::<u64>()), (vec![(1, 1), (position.0, 99)], 0));
    } else {
        assert_eq!(gaps.iter().sum::<u64>(), 10);
    }
}
