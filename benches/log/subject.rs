//! What takes records: the log, or the bare loop beside it.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use promrelay::wal::directory::Directory;
use promrelay::wal::record::{Content, Counts, Kind as RecordKind, Meta, NewRecord, TimeRange};
use promrelay::wal::{Appender, Closer, Log, Observer, Opened, Options, Prefill};
use tempfile::TempDir;

use crate::bare::{Ahead, Files, Group};

/// How the log is opened; `segment_bytes` is each measurement's own.
pub const LOG: Options = Options::new(128 << 20, u64::MAX);

/// One of those that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// For people.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The log.
    Log(Options),
    /// The bare loop.
    Bare(Ahead),
}

/// The log as it comes.
pub const PROMRELAY: Subject = Subject { name: "promrelay", kind: Kind::Log(LOG) };
/// The log with segments that were written with zeroes.
pub const PROMRELAY_PREFILLED: Subject =
    Subject { name: "promrelay, prefilled", kind: Kind::Log(Options { prefill: Prefill::Always, ..LOG }) };
/// The bare loop with allocated files.
pub const BARE: Subject = Subject { name: "bare", kind: Kind::Bare(Ahead::Allocated) };
/// The bare loop with files that were written with zeroes.
pub const BARE_ZEROED: Subject = Subject { name: "bare, zeroed ahead", kind: Kind::Bare(Ahead::Zeroed) };

/// Syncs so far, and what they covered.
#[derive(Debug, Default)]
pub struct Syncs {
    count: AtomicU64,
    records: AtomicU64,
    nanos: AtomicU64,
}

impl Syncs {
    /// One more.
    pub fn add(&self, took: Duration, records: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How many, of how many records, and the time in them.
    pub fn read(&self) -> (u64, u64, Duration) {
        let [count, records, nanos] =
            [&self.count, &self.records, &self.nanos].map(|number| number.load(Ordering::Relaxed));
        (count, records, Duration::from_nanos(nanos))
    }
}

impl Observer for Syncs {
    fn synced(&self, took: Duration, records: usize) {
        self.add(took, records);
    }
}

/// A subject that takes records of one length.
#[derive(Debug)]
pub struct Running {
    way: Way,
    body: Bytes,
    /// All that it did.
    pub syncs: Arc<Syncs>,
    /// Records that fit a file.
    pub records_per_file: usize,
    /// Deleted with it.
    _dir: TempDir,
}

#[derive(Debug)]
enum Way {
    Log {
        appender: Appender,
        closer: Closer,
        _log: Log,
    },
    /// The appender does everything itself.
    Alone(Mutex<Files>),
    Group(Group),
}

impl Subject {
    /// Opens it below `dir`, for bodies of this length.
    pub fn open(
        self,
        dir: &Path,
        appenders: usize,
        body_len: usize,
        file_bytes: u64,
    ) -> Result<Running, Box<dyn Error>> {
        let dir = tempfile::tempdir_in(dir)?;
        let syncs = Arc::new(Syncs::default());
        let body = random_body(body_len);
        let stored_len = record(body.clone()).stored_len();
        let (way, room, body) = match self.kind {
            Kind::Log(options) => {
                let options = Options { segment_bytes: file_bytes, ..options };
                let opened = Log::open(Directory::open(dir.path())?, options, &[], syncs.clone())?;
                let Opened { log, appender, closer, .. } = opened;
                (Way::Log { appender, closer, _log: log }, Options::record_bytes_max(file_bytes), body)
            }
            Kind::Bare(ahead) => {
                let files = Files::open(dir.path(), file_bytes, ahead, syncs.clone())?;
                let way = if appenders == 1 { Way::Alone(Mutex::new(files)) } else { Way::Group(Group::start(files)) };
                (way, file_bytes, random_body(stored_len as usize))
            }
        };
        let records_per_file = (room / stored_len) as usize;
        Ok(Running { way, body, syncs, records_per_file, _dir: dir })
    }
}

impl Running {
    /// Returns when a record is durable.
    pub async fn append(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.way {
            Way::Log { appender, .. } => {
                appender.append(record(self.body.clone()), Box::new(())).outcome().await?;
            }
            Way::Alone(files) => {
                let mut files = files.lock().expect("no holder of this lock panics");
                files.commit(std::slice::from_ref(&self.body))?;
            }
            Way::Group(group) => group.append(self.body.clone()).await?,
        }
        Ok(())
    }

    /// Ends it and deletes what it wrote.
    pub fn close(self) -> Result<(), Box<dyn Error>> {
        match self.way {
            Way::Log { appender, closer, .. } => {
                drop(appender);
                closer.close();
            }
            Way::Alone(_) => {}
            Way::Group(group) => group.close()?,
        }
        Ok(())
    }
}

/// A record as the receiver makes it: with a sender, and 2000 samples whatever its length.
pub fn record(body: Bytes) -> NewRecord {
    let content = Content {
        kind: RecordKind::Write1,
        flags: 0,
        counts: Counts { samples: SAMPLES, series: SAMPLES, ..Counts::default() },
        times: TimeRange { min: 1, max: 1 },
        decoded_len: 600_000,
    };
    let meta = Meta { sender: Some([127, 0, 0, 1].into()), ..Meta::default() };
    NewRecord::new(content, &meta, body, 1)
}

const SAMPLES: u32 = 2000;

/// Bytes that no disk can make less of.
pub fn random_body(len: usize) -> Bytes {
    let mut body = vec![0; len];
    fastrand::fill(&mut body);
    body.into()
}
