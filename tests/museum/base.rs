//! What a real run left: the directory, and where in it each record lies.
//!
//! 54 requests, each third of them of 180 KB, 1.0 and 2.0 by turns, one after the other; no target takes any. So there are three sealed
//! segments of 1 MiB and a fourth, which is without a seal if the run was killed. Number and position of a request: `position = number + 1`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use promrelay::wal::segment::DATA_START;
use promrelay::wal::{Mark, Place, Position, SegmentId, Step};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::image::Image;
use crate::opened::Open;
use crate::support::client;
use crate::support::relay::Config;
use crate::support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise};

pub const REQUESTS: u64 = 54;
pub const SEGMENTS: u64 = 4;
const NOISE_BYTES: usize = 180_000;
/// The series whose values are the numbers of the requests.
pub const SERIES: &str = "numbered{series=\"a\"}";
/// The one target's name.
pub const TARGET: &str = "a";

/// A record and where it lies.
#[derive(Clone, Debug)]
pub struct Stored {
    pub position: u64,
    pub samples: u64,
    pub segment: u64,
    pub offset: usize,
    /// With its header and without what fills up the last 64 bytes.
    pub len: usize,
    pub body: Bytes,
    /// Behind it.
    pub mark: Mark,
    pub next: Place,
}

/// See the module.
#[derive(Debug)]
pub struct Base {
    pub image: Image,
    pub records: Vec<Stored>,
}

impl Base {
    /// Of a run that was killed: its last segment has no seal.
    pub async fn killed() -> Arc<Base> {
        static BASE: OnceCell<Arc<Base>> = OnceCell::const_new();
        BASE.get_or_init(async || Arc::new(Base::make(false).await)).await.clone()
    }

    /// Of a run that ended as it should.
    pub async fn stopped() -> Arc<Base> {
        static BASE: OnceCell<Arc<Base>> = OnceCell::const_new();
        BASE.get_or_init(async || Arc::new(Base::make(true).await)).await.clone()
    }

    async fn make(stops: bool) -> Base {
        let config = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"");
        let mut relay = config.target(TARGET, "http://127.0.0.1:9/", &[]).start().await;
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..REQUESTS {
            let answer = request(number, &mut random).send(&client(), &relay.write_url()).await.unwrap();
            assert_eq!(answer.status(), 204);
        }
        if stops {
            relay.terminate().await;
        } else {
            relay.kill_9().await;
        }
        Base::of(Image::read(&relay.wal_dir()))
    }

    /// A base of these bytes, which are those of a healthy log.
    pub fn of(image: Image) -> Base {
        let dir = TempDir::new().unwrap();
        image.write(dir.path());
        let records = records(dir.path());
        assert_eq!(records.len() as u64, REQUESTS);
        assert_eq!(records.last().unwrap().segment, SEGMENTS);
        let base = Base { image, records };
        for record in &base.records {
            let end = record.offset + record.len;
            assert!(base.image.segment(record.segment)[..end].ends_with(&record.body), "{record:?} is not there");
        }
        base
    }

    pub fn of_segment(&self, segment: u64) -> impl Iterator<Item = &Stored> {
        self.records.iter().filter(move |record| record.segment == segment)
    }

    pub fn at(&self, position: u64) -> &Stored {
        &self.records[usize::try_from(position).unwrap() - 1]
    }

    /// Samples in a segment.
    pub fn samples(&self, segment: u64) -> u64 {
        self.of_segment(segment).map(|record| record.samples).sum()
    }

    /// Where a target is that has settled everything before a segment.
    pub fn before(&self, segment: u64) -> (Mark, Place) {
        let before = self.records.iter().rfind(|record| record.segment < segment);
        before.map_or((Mark::default(), Place::default()), |record| (record.mark, record.next))
    }
}

/// Between two and six samples: what is lost is to be counted, not guessed.
pub fn request(number: u64, random: &mut fastrand::Rng) -> Post {
    let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
    let mut request = Request::new().numbered("a", number);
    for extra in 0..=number % 4 {
        request = request.series(&[("__name__", "extra"), ("extra", &extra.to_string())], &[sample]);
    }
    if number.is_multiple_of(3) {
        request = request.series(&[("__name__", "noise"), ("noise", &noise(random, NOISE_BYTES))], &[sample]);
    }
    request.post(Protocol::ALL[number as usize % 2])
}

fn records(dir: &Path) -> Vec<Stored> {
    let open = Open::new(dir);
    let mut cursor = open.log().cursor(Mark::default(), Place::default());
    let mut records = Vec::new();
    let mut at = Place { segment: SegmentId(1), offset: DATA_START };
    loop {
        match cursor.next_step() {
            Step::Record(record) => {
                if record.next.segment != at.segment {
                    at = Place { segment: record.next.segment, offset: DATA_START };
                }
                let Position(position) = record.header.position;
                records.push(Stored {
                    position,
                    samples: record.header.counts.ledger_samples(),
                    segment: at.segment.0,
                    offset: usize::try_from(at.offset).unwrap(),
                    len: 128 + usize::try_from(record.header.payload_len()).unwrap(),
                    mark: record.mark(),
                    next: record.next,
                    body: record.body,
                });
                at = record.next;
            }
            Step::End => return records,
            other => panic!("a healthy log: {other:?}"),
        }
    }
}
