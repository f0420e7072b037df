//! The log as a whole: where a log goes on: behind a crash, above savepoints, with numbers that were never used.

use super::*;

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
