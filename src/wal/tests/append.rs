//! The log as a whole: what goes in comes out, in every mode.

use super::*;

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
