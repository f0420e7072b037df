//! Logs made by hand, record by record, so that each state that a disk can leave is there.

use std::fs::OpenOptions;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

use super::super::position::{Mark, Place};
use super::super::record::{self, Counts, HEADER_LEN, Header, Kind, TimeRange};
use super::super::segment::{DATA_START, Prepared};
use super::check::{Expected, Fault, Finding, Watcher, check};
use super::*;

const LEN: u64 = 64 << 10;
const LOG: [u8; 16] = [7; 16];
const BODY: usize = 200;

/// A segment being made. Each record has ten samples.
struct Maker {
    segment: Segment,
    seal: Seal,
}

impl Maker {
    fn of_log(dir: &Path, id: u64, before: u64, log_id: [u8; 16]) -> Maker {
        let before = Mark { position: Position(before), total: 10 * before };
        let header = SegmentHeader { id: SegmentId(id), before, salt: id ^ 99, log_id, created_ms: 5, len: LEN };
        let prepared = Prepared::create(dir.join("new.tmp"), LEN, &DiskUsage::default()).unwrap();
        let segment = prepared.take_into_use(header, dir.join(format!("seg-{id:020}.wal"))).unwrap();
        Maker { segment, seal: Seal::empty(before) }
    }

    fn new(dir: &Path, id: u64, before: u64) -> Maker {
        Maker::of_log(dir, id, before, LOG)
    }

    /// Appends a record; returns its offset.
    fn add(&mut self, unacknowledged: u64) -> u64 {
        let total = self.seal.last.total;
        self.add_with_total(unacknowledged, total + 10)
    }

    fn add_with_total(&mut self, unacknowledged: u64, total: u64) -> u64 {
        let (offset, body) = (self.seal.data_end, [self.seal.records as u8 + 1; BODY]);
        let header = Header {
            kind: Kind::Write1,
            flags: 0,
            position: self.seal.last.position.next(),
            total,
            body_len: BODY as u32,
            meta_len: 0,
            body_crc: record::payload_crc(&[], &body),
            received_ms: 1000 + offset as i64,
            counts: Counts { samples: 9, histograms: 1, series: 10, ..Counts::default() },
            times: TimeRange { min: 1, max: 2 },
            unacknowledged,
            decoded_len: 300,
        };
        let bytes = self.segment.encode(&header, offset);
        self.segment.write(offset, &mut [IoSlice::new(&bytes), IoSlice::new(&body)]).unwrap();
        self.seal.include(&header, offset + header.stored_len());
        offset
    }

    fn adds(mut self, count: u64) -> Maker {
        for _ in 0..count {
            self.add(1);
        }
        self
    }

    fn sealed(self) {
        self.segment.seal(&self.seal).unwrap();
    }
}

#[derive(Default)]
struct Told {
    findings: Vec<Finding>,
    passed: u64,
}

impl Watcher for Told {
    fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn passed(&mut self, bytes: u64) {
        self.passed += bytes;
    }
}

fn survey(dir: &Path) -> Survey {
    Survey::take(dir, &[]).unwrap()
}

/// Whole records, and each finding with first and last position and samples that are gone.
fn verdict_with(dir: &Path, expected: Expected) -> (u64, Vec<(Fault, u64, u64, u64)>) {
    let survey = survey(dir);
    let mut told = Told::default();
    let whole = check(&survey, expected, &mut told);
    assert_eq!(whole.samples, 10 * whole.records);
    let to_read: u64 = survey.segments.iter().map(|found| found.data_end() - DATA_START).sum();
    assert_eq!(told.passed, to_read, "progress ends at the end");
    let short = |finding: &Finding| match finding.lost {
        Some(lost) if lost.records() > 0 || lost.samples() > 0 => {
            (finding.fault.clone(), lost.from.position.0 + 1, lost.to.position.0, lost.samples())
        }
        _ => (finding.fault.clone(), 0, 0, 0),
    };
    (whole.records, told.findings.iter().map(short).collect())
}

fn verdict(dir: &Path) -> (u64, Vec<(Fault, u64, u64, u64)>) {
    verdict_with(dir, Expected::default())
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_log_without_damage_is_whole_sealed_or_not() {
    let dir = tempfile::tempdir().unwrap();
    Maker::new(dir.path(), 1, 0).adds(5).sealed();
    Maker::new(dir.path(), 2, 5).adds(3).sealed();
    drop(Maker::new(dir.path(), 4, 8).adds(2));
    assert_eq!(verdict(dir.path()), (10, vec![]));
    let found = survey(dir.path());
    let extents: Vec<Seal> = found.segments.iter().map(|found| found.extent().unwrap().unwrap().seal).collect();
    assert_eq!(
        extents.iter().map(|seal| (seal.last.position.0, seal.records)).collect::<Vec<_>>(),
        [(5, 5), (8, 3), (10, 2)]
    );
    assert_eq!(extents[2].received_ms.0, 1000 + DATA_START as i64);
    assert!(matches!(found.segments[2].seal, Sealing::Open));
    assert_eq!((found.log_id, found.segments[1].end, found.segments[2].end), (Some(LOG), Some(Position(8)), None));
}

#[test]
fn a_hole_in_the_newest_segment_is_damage_if_a_later_record_proves_it() {
    for (unacknowledged, is_proof) in [(1, true), (2, true), (3, false), (4, false)] {
        let dir = tempfile::tempdir().unwrap();
        // Position 3 is damaged, 4 and 5 follow; of these only 5 may prove that 3 had been acknowledged.
        let mut maker = Maker::new(dir.path(), 1, 0).adds(2);
        let at = maker.add(1);
        maker.add(2);
        maker.add(unacknowledged);
        write(maker.segment.path(), at + HEADER_LEN as u64, &[0xee]);
        let expected =
            if is_proof { (4, vec![(Fault::Body, 3, 3, 10)]) } else { (2, vec![(Fault::TornTail, 0, 0, 0)]) };
        assert_eq!(verdict(dir.path()), expected, "unacknowledged {unacknowledged}");
        write(maker.segment.path(), at, &[0xee]);
        let expected =
            if is_proof { (4, vec![(Fault::Header, 3, 3, 10)]) } else { (2, vec![(Fault::TornTail, 0, 0, 0)]) };
        assert_eq!(verdict(dir.path()), expected, "unacknowledged {unacknowledged}");
        // With a next segment, everything up to its first position was acknowledged.
        drop(Maker::new(dir.path(), 2, 5).adds(1));
        let (records, findings) = verdict(dir.path());
        assert_eq!((records, &findings[..]), (5, &[(Fault::Header, 3, 3, 10), (Fault::SealMissing, 0, 0, 0)][..]));
    }
}

#[test]
fn a_torn_record_at_the_end_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut maker = Maker::new(dir.path(), 1, 0).adds(2);
    let at = maker.add(1);
    write(maker.segment.path(), at + HEADER_LEN as u64 + 100, &[0; 100]);
    let mut told = Told::default();
    check(&survey(dir.path()), Expected::default(), &mut told);
    let finding = &told.findings[0];
    assert_eq!(
        (&finding.fault, finding.offset, finding.bytes),
        (&Fault::TornTail, at, record::stored_len(BODY as u64))
    );
}

#[test]
fn records_at_or_above_the_next_segments_first_position_do_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    drop(Maker::new(dir.path(), 1, 0).adds(6));
    drop(Maker::new(dir.path(), 2, 4).adds(3));
    let (records, findings) = verdict(dir.path());
    assert_eq!(records, 7);
    assert!(matches!(findings[..], [(Fault::Unused(_), 0, 0, 0), (Fault::SealMissing, ..)]), "{findings:?}");
    assert_eq!(survey(dir.path()).segments[0].extent().unwrap().unwrap().seal.last.position, Position(4));
}

#[test]
fn what_is_missing_between_segments_is_a_subtraction() {
    let dir = tempfile::tempdir().unwrap();
    Maker::new(dir.path(), 1, 0).adds(5).sealed();
    Maker::new(dir.path(), 2, 7).adds(3).sealed();
    Maker::new(dir.path(), 5, 20).adds(1).sealed();
    let expected = vec![(Fault::MissingRecords, 6, 7, 20), (Fault::MissingSegment, 11, 20, 100)];
    assert_eq!(verdict(dir.path()), (9, expected.clone()));
    // A file with a number in between explains it.
    std::fs::write(dir.path().join("seg-00000000000000000003.wal"), "rubbish").unwrap();
    let (_, findings) = verdict(dir.path());
    assert!(
        matches!(&findings[1], (Fault::Unusable(why), 11, 20, 100) if why.contains("not a segment")),
        "{findings:?}"
    );
    std::fs::remove_file(dir.path().join("seg-00000000000000000003.wal")).unwrap();
    // Savepoints tell of both ends.
    let mark = |position| Some(Mark { position: Position(position), total: 10 * position });
    std::fs::remove_file(dir.path().join("seg-00000000000000000001.wal")).unwrap();
    let asked = Expected { lowest: mark(3), highest: mark(23), is_complete: true };
    let (records, findings) = verdict_with(dir.path(), asked);
    let ends = [(Fault::MissingSegment, 4, 7, 40), expected[1].clone(), (Fault::MissingRecords, 22, 23, 20)];
    assert_eq!((records, &findings[..]), (4, &ends[..]));
}

#[test]
fn totals_that_do_not_go_on_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut maker = Maker::new(dir.path(), 1, 0).adds(2);
    maker.add_with_total(1, 37);
    maker.add_with_total(1, 47);
    maker.sealed();
    assert_eq!(verdict(dir.path()), (4, vec![(Fault::Totals, 3, 2, 7)]));
}

#[test]
fn an_unusable_newest_file_may_hold_anything_and_a_harmless_one_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    Maker::new(dir.path(), 2, 0).adds(5).sealed();
    let path = |id: u64| dir.path().join(format!("seg-{id:020}.wal"));
    std::fs::write(path(3), [1; 5000]).unwrap();
    let mut told = Told::default();
    check(&survey(dir.path()), Expected::default(), &mut told);
    assert!(matches!(told.findings[0].fault, Fault::Unusable(_)) && told.findings[0].is_of_unknown_extent());
    std::fs::remove_file(path(3)).unwrap();

    std::fs::write(path(3), "").unwrap();
    std::fs::copy(path(2), path(9)).unwrap();
    Maker::new(dir.path(), 4, 5).adds(1).sealed();
    Maker::of_log(dir.path(), 8, 100, [8; 16]).adds(2).sealed();
    let survey = survey(dir.path());
    assert_eq!(survey.segments.iter().map(|found| found.header.id.0).collect::<Vec<_>>(), [2, 4]);
    let why: Vec<&str> = survey.unusable.iter().map(|file| &*file.why).collect();
    assert!(why[..2] == ["is empty", "is of another log"] && why.len() == 3, "{why:?}");
    assert!(survey.unusable[..2].iter().all(|file| file.holds == Holds::Nothing));
}

#[test]
fn savepoints_say_which_log_it_is() {
    let dir = tempfile::tempdir().unwrap();
    Maker::new(dir.path(), 1, 0).adds(1).sealed();
    Maker::new(dir.path(), 2, 1).adds(1).sealed();
    Maker::of_log(dir.path(), 3, 0, [8; 16]).adds(1).sealed();
    assert_eq!(survey(dir.path()).log_id, Some(LOG));
    let Place { segment, .. } = Place::default();
    let floor = Floor { log_id: [8; 16], settled: Mark::default(), segment };
    let survey = Survey::take(dir.path(), &[floor]).unwrap();
    assert_eq!((survey.log_id, survey.segments.len(), survey.unusable.len()), (Some([8; 16]), 1, 2));
}

#[test]
fn segments_that_are_released_while_we_look_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    for id in 1..=4 {
        Maker::new(dir.path(), id, 3 * (id - 1)).adds(3).sealed();
    }
    let survey = survey(dir.path());
    for id in 1..=2 {
        std::fs::remove_file(dir.path().join(format!("seg-{id:020}.wal"))).unwrap();
    }
    let mut told = Told::default();
    let whole = check(&survey, Expected::default(), &mut told);
    assert_eq!((whole.records, told.findings), (6, vec![]));
    assert!(survey.segments[0].open().unwrap().is_none());
}

#[test]
fn the_holder_of_the_lock_is_read_off_the_kernels_list() {
    let locks = "1: POSIX  ADVISORY  WRITE 9 08:01:77 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 4711 08:01:77 0 EOF\n\
                 2: -> FLOCK  ADVISORY  WRITE 4712 08:01:77 0 EOF\n";
    assert_eq!(holder_in(locks, "08:01", 77, Some(4711)), Some(4711));
    assert_eq!(holder_in(locks, "08:01", 77, None), Some(4711));
    assert_eq!(holder_in(locks, "00:2a", 77, Some(4711)), Some(4711), "another device, the same process");
    assert_eq!(holder_in(locks, "00:2a", 77, Some(5)), None);
    assert_eq!(holder_in(locks, "08:01", 78, Some(4711)), None);

    let dir = tempfile::tempdir().unwrap();
    assert_eq!(holder(dir.path()), None);
    let locked = super::super::directory::Directory::open(dir.path()).unwrap();
    assert_eq!(holder(dir.path()), Some(std::process::id()));
    drop(locked);
    assert_eq!(holder(dir.path()), None);
}
