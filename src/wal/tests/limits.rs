//! The log as a whole: what is released, what a full log takes, and what is left of an idle one.

use super::*;

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
