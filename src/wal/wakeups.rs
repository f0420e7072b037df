//! The hunt for a lost wake-up: a reader that sleeps while there is something to read.
//!
//! A lone record is appended and nothing else happens until a reader has it, who waits for nothing but [`Log::subscribe`], as targets do.
//! So a wake-up that is lost once stops everything, and the watchdog says so. Segments hold one to three records: nearly every record is
//! the first or the last of its segment, and releases and early seals come at every moment of its life.
//!
//! `PROMRELAY_WAKEUPS` is the number of records if not [`RECORDS`].

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::watch;

use super::directory::Directory;
use super::record::{Content, Counts, Kind, Meta, NewRecord, TimeRange};
use super::segment::{DATA_START, SEAL_LEN};
use super::{
    Appended, Cursor, Log, Mark, Observer, Opened, Options, Place, Position, Readable, SegmentId, Step, SyncMode,
};

/// In memory; where that is not to be had each record waits for a disk, and there are [`RECORDS_ON_DISK`].
const RECORDS: u64 = 100_000;
const RECORDS_ON_DISK: u64 = 2_000;
/// Nothing takes this long but what lasts for ever.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A record takes 192, 256, 320 or 384 bytes: one to three fit.
const ROOM: u64 = 3 * 192;
const BODY_BYTES_MAX: usize = 256;

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

/// A directory in which a sync costs nothing, if there is one, and how many records it is good for.
fn directory() -> (TempDir, u64) {
    let wanted = std::env::var("PROMRELAY_WAKEUPS").ok().map(|text| text.parse().expect("a number"));
    match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) => (dir, wanted.unwrap_or(RECORDS)),
        Err(_) => (tempfile::tempdir().unwrap(), wanted.unwrap_or(RECORDS_ON_DISK)),
    }
}

fn record(len: usize) -> NewRecord {
    let content = Content {
        kind: Kind::Write1,
        flags: 0,
        counts: Counts { samples: 1, series: 1, ..Counts::default() },
        times: TimeRange { min: 1, max: 1 },
        decoded_len: 1,
    };
    NewRecord::new(content, &Meta::default(), Bytes::from(vec![7; len]), 1)
}

/// Reads as a target does: looks, and if there was nothing sleeps until it is woken. Hands on each position, as long as somebody wants it.
async fn read(mut cursor: Cursor, mut readable: watch::Receiver<Readable>, delivered: mpsc::Sender<Position>) {
    loop {
        readable.mark_unchanged();
        match cursor.next_step() {
            Step::Record(record) => {
                if delivered.send(record.header.position).is_err() {
                    return;
                }
            }
            Step::End => {
                if readable.changed().await.is_err() {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Appends lone records, each when its reader has the one before. In the end one more, which nobody wants, tells the reader to go: the
/// watch that it sleeps on lives as long as its cursor.
fn hunt(sync: SyncMode, records: u64, dir: &TempDir) {
    let segment_bytes = DATA_START + SEAL_LEN + ROOM;
    let options = Options { sync, ..Options::new(segment_bytes, 64 << 20) };
    let directory = Directory::open(dir.path()).unwrap();
    let Opened { log, appender, closer, .. } = Log::open(directory, options, &[], Arc::new(Silent)).unwrap();
    let (delivered, deliveries) = mpsc::channel();
    let reader = std::thread::spawn({
        let (cursor, readable) = (log.cursor(Mark::default(), Place::default()), log.subscribe());
        move || runtime().block_on(read(cursor, readable, delivered))
    });
    let runtime = runtime();
    let mut random = fastrand::Rng::with_seed(records);
    let mut last_segment = SegmentId(0);
    let mut segments = 0;
    for number in 1..=records {
        let seals = random.u8(..);
        if seals.is_multiple_of(16) {
            log.seal_active();
        }
        let mut ticket = appender.append(record(random.usize(1..=BODY_BYTES_MAX)), Box::new(()));
        if seals % 16 == 1 {
            log.seal_active();
        }
        match deliveries.recv_timeout(WATCHDOG) {
            Ok(position) => assert_eq!(position, Position(number), "in order, each once"),
            Err(error) => panic!(
                "record {number} does not reach its reader ({error}): readable {:?}, {:?}, segments {:?}",
                log.readable(),
                log.health(),
                log.segments()
            ),
        }
        assert_eq!(runtime.block_on(ticket.outcome()), Ok(Appended { position: Position(number) }));
        if seals % 16 == 2 {
            log.seal_active();
        }
        if random.u8(..16) == 0 {
            log.release(Position(number - random.u64(0..number.min(8))));
        }
        let segment = log.readable().place.segment;
        segments += u64::from(segment != last_segment);
        last_segment = segment;
    }
    assert!(segments > records / 3, "{segments} segments for {records} records");
    drop(deliveries);
    let _ = runtime.block_on(appender.append(record(1), Box::new(())).outcome());
    reader.join().expect("the reader ends without a word");
    drop(appender);
    closer.close();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_lone_record_always_wakes_its_reader_on_whichever_side_of_a_roll_over_it_lies() {
    let (dir, records) = directory();
    hunt(SyncMode::Always, records, &dir);
}

#[test]
fn a_lone_record_wakes_its_reader_too_when_nobody_waits_for_a_sync() {
    let (dir, records) = directory();
    hunt(SyncMode::Never, records / 5, &dir);
}
