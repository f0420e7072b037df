//! Killed before each single step of a roll-over, of a release and of saving how far a target is: nothing acknowledged is lost, nothing
//! comes out of order, nothing is left lying about.
//!
//! strace kills the relay with SIGKILL when one of its threads enters a system call of a kind for the n-th time, for n = 1, 2, 3 ... until
//! a whole round passes without one: so before each such call that a round makes. All rounds of a kind happen in one directory, as in a
//! crash loop.
//!
//! ```text
//!  a round     start under strace -> numbered requests, a fifth of a segment each, until all are answered and their segments released,
//!              or it dies -> start without strace -> everything is delivered -> kill -9
//! ```

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::{Child, Command};

use support::ledger;
use support::relay::{Config, Relay};
use support::request::{Protocol, Request, noise};
use support::sink::{Received, Sink};
use support::{client, eventually, strace_is_here};

const SOON: Duration = Duration::from_secs(60);
const LIMIT: u64 = 8 << 20;
/// Five records to a segment.
const NOISE_BYTES: usize = 180_000;
/// Three roll-overs and more.
const REQUESTS: u64 = 17;
const SERIES: &str = "numbered{series=\"a\"}";

/// Files whose calls count.
#[derive(Clone, Copy)]
enum Of {
    /// Segments under their own names.
    Segments,
    /// Segments that are being prepared, under their temporary names.
    Prepared,
    /// The target's savepoint.
    Savepoint,
    /// Whatever it is.
    Anything,
}

/// A directory in which the relay dies again and again.
struct Loop {
    relay: Relay,
    sink: Sink,
    random: fastrand::Rng,
    /// Numbers that were answered 204; and those of which nobody knows.
    acknowledged: Vec<u64>,
    unanswered: Vec<u64>,
    next: u64,
    /// The highest number of a segment that was ever seen.
    newest: u64,
    /// How many requests the sink had at each death.
    deaths: Vec<usize>,
    /// What watches a relay that was running already.
    watcher: Option<Child>,
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    Died,
    Lived,
}

impl Loop {
    async fn new() -> Loop {
        let sink = Sink::start().await;
        let config = Config::new().wal("max_size = \"8MiB\"").wal("segment_size = \"1MiB\"");
        let relay = config.target("a", &sink.url(), &["min_backoff = \"10ms\""]).prepare();
        Loop {
            relay,
            sink,
            random: fastrand::Rng::with_seed(1),
            acknowledged: Vec::new(),
            unanswered: Vec::new(),
            next: 0,
            newest: 0,
            deaths: Vec::new(),
            watcher: None,
        }
    }

    fn segments(&self) -> Vec<PathBuf> {
        files(&self.relay.wal_dir()).into_iter().filter(|file| is_named(file, "seg-", ".wal")).collect()
    }

    /// The files that calls are counted of, by the names that they have or may get in this round.
    fn paths(&self, of: Of) -> Vec<String> {
        let dir = self.relay.dir().canonicalize().unwrap().join("data");
        let ids = self.newest.saturating_sub(8)..self.newest + 16;
        let names: Vec<String> = match of {
            Of::Segments => ids.map(|id| format!("seg-{id:020}.wal")).collect(),
            Of::Prepared => ids.map(|id| format!("next-{id:020}.tmp")).collect(),
            Of::Savepoint => vec!["savepoints/a.sp".into()],
            Of::Anything => vec![],
        };
        names.into_iter().map(|name| dir.join(name).to_str().unwrap().to_owned()).collect()
    }

    /// Numbers go on after a segment is gone, so they are noted when there are any.
    fn note_newest(&mut self) {
        let id = |path: &PathBuf| path.file_stem()?.to_str()?.split_once('-')?.1.parse::<u64>().ok();
        let newest = files(&self.relay.wal_dir()).iter().filter_map(id).max().unwrap_or(0);
        self.newest = self.newest.max(newest);
    }

    /// What strace is told: to kill when a thread enters `call` for the `number`-th time.
    fn strace(&self, call: &str, of: Of, number: u64) -> Vec<String> {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
        let options = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(str::to_owned);
        let paths = self.paths(of).into_iter().flat_map(|path| ["-P".to_owned(), path]);
        options.into_iter().chain(paths).collect()
    }

    /// Starts the relay so that it dies when a thread enters `call` for the `number`-th time.
    fn start_to_die(&mut self, call: &str, of: Of, number: u64) {
        let pid_file = self.relay.dir().join("pid");
        let _ = fs::remove_file(&pid_file);
        let shell = ["sh", "-c", "echo $$ > pid.new; mv pid.new pid; exec \"$0\" \"$@\""];
        let strace = self.strace(call, of, number);
        let strace = ["strace", "-D"].into_iter().chain(strace.iter().map(String::as_str));
        let wrapper: Vec<&str> = shell.into_iter().chain(strace).collect();
        self.relay.config = self.relay.config.clone().run_by(&wrapper);
        self.relay.spawn();
    }

    /// Starts the relay, and then sees to it that it dies at the first `call`: what a start does is left out.
    async fn start_and_then_die(&mut self, call: &str, of: Of) {
        self.relay.config = self.relay.config.clone().run_by(&[]);
        self.relay.start().await;
        let pid = fs::read_to_string(self.relay.wal_dir().join("LOCK")).unwrap();
        fs::write(self.relay.dir().join("pid"), &pid).unwrap();
        let mut strace = Command::new("strace");
        strace.args(self.strace(call, of, 1)).args(["-p", pid.trim()]).kill_on_drop(true);
        self.watcher = Some(strace.spawn().unwrap());
        let status = format!("/proc/{}/status", pid.trim());
        let is_traced = || !fs::read_to_string(&status).unwrap().contains("TracerPid:\t0");
        // At times it has nothing left to wait for.
        eventually("strace is there", SOON, async || (is_traced() || self.is_dead()).then_some(())).await;
    }

    /// The process that was last to die has ended, whether anybody has looked or not.
    fn is_dead(&self) -> bool {
        let Ok(pid) = fs::read_to_string(self.relay.dir().join("pid")) else { return false };
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }

    /// A round from its start on.
    async fn round(&mut self, call: &str, of: Of, number: u64) -> Round {
        self.start_to_die(call, of, number);
        self.work().await
    }

    /// Sends requests until all are answered, or the relay is dead.
    async fn work(&mut self) -> Round {
        let http = client();
        let ready = self.relay.url("/-/ready");
        let is_ready = eventually("it is ready or dead", SOON, async || match http.get(&ready).send().await {
            Ok(answer) if answer.status() == 200 => Some(true),
            _ if self.is_dead() => Some(false),
            _ => None,
        });
        if !is_ready.await {
            return self.died().await;
        }
        for _ in 0..REQUESTS {
            let noise = noise(&mut self.random, NOISE_BYTES);
            let request = Request::new().numbered("a", self.next);
            let post = request.series(&[("__name__", "noise"), ("noise", &noise)], &[(1, 1.0)]).post(Protocol::V1);
            let number = self.next;
            self.next += 1;
            match post.send(&http, &self.relay.write_url()).await {
                Ok(answer) => {
                    assert_eq!(answer.status(), 204);
                    self.acknowledged.push(number);
                }
                Err(_) => {
                    self.unanswered.push(number);
                    return self.died().await;
                }
            }
        }
        let is_released = eventually("all is released or it is dead", SOON, async || {
            if self.is_dead() {
                return Some(false);
            }
            (self.segments().len() <= 1).then_some(true)
        });
        if !is_released.await {
            return self.died().await;
        }
        self.relay.kill_9().await;
        self.deaths().await;
        Round::Lived
    }

    async fn died(&mut self) -> Round {
        eventually("it is dead", SOON, async || self.is_dead().then_some(())).await;
        let (status, _) = self.relay.terminate().await;
        assert_eq!(status.signal(), Some(9), "it was killed, and did not end by itself");
        if let Some(mut watcher) = self.watcher.take() {
            watcher.wait().await.unwrap();
        }
        self.deaths().await;
        Round::Died
    }

    async fn deaths(&mut self) {
        self.sink.disconnected().await;
        self.deaths.push(self.sink.arrived());
        self.note_newest();
    }

    /// Starts as an operator would, and judges.
    async fn come_back(&mut self, after: &str) {
        let after = format!("{after}, death {}", self.deaths.len());
        self.assert_bounded(&after);
        self.relay.config = self.relay.config.clone().run_by(&[]);
        self.relay.start().await;
        self.assert_bounded(&after);
        let status = self.relay.drained(SOON).await;
        assert_eq!(status["wal"]["damage"]["count"], 0, "{after}: {status}");
        assert!(!self.relay.log().contains("cannot seal"), "{after}: a segment stays as large as it was");
        self.assert_delivered(&after);
        let ledger = &ledger::of_status(&status)["a"];
        let records = self.records().len() as u64;
        assert_eq!((ledger.accepted, ledger.delivered()), (2 * records, 2 * records), "{after}: {ledger:?}");
        self.relay.kill_9().await;
        self.deaths().await;
    }

    /// The numbers that came, in the order in which they came. A repetition of what was in flight at a death is left out: a whole request, as
    /// it was cut before. (All requests share a series, so there is one in flight at most.)
    fn records(&self) -> Vec<u64> {
        let requests: Vec<_> = self.sink.requests().into_iter().filter(|request| request.is_stored).collect();
        let mut records: Vec<u64> = Vec::new();
        let mut before: Option<&Received> = None;
        for request in &requests {
            let first = before.map_or(0, |before| before.number + 1);
            let is_repeated = before.is_some_and(|before| before.body == request.body)
                && self.deaths.iter().any(|death| (first..=request.number).contains(death));
            before = Some(request);
            if !is_repeated {
                let numbered = request.samples.iter().filter(|sample| &*sample.series == SERIES);
                records.extend(numbered.map(|sample| sample.value as u64));
            }
        }
        records
    }

    /// Exactly what was acknowledged came, in order; and perhaps what nobody was told about.
    fn assert_delivered(&self, after: &str) {
        self.sink.assert_strict();
        let mut left: Vec<u64> = self.records();
        assert!(left.is_sorted_by(|before, next| before < next), "{after}: {left:?}");
        left.retain(|number| !self.unanswered.contains(number));
        assert_eq!(left, self.acknowledged, "{after}");
    }

    /// As much on disk as is allowed, and no file too many.
    fn assert_bounded(&self, after: &str) {
        let dir = self.relay.wal_dir();
        let files = files(&dir);
        let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.blocks() * 512).sum();
        assert!(bytes <= LIMIT, "{after}: {bytes} bytes: {files:?}");
        let count = |prefix: &str, suffix: &str| files.iter().filter(|file| is_named(file, prefix, suffix)).count();
        let (segments, prepared, other) = (count("seg-", ".wal"), count("next-", ".tmp"), count("", ""));
        // One that is about to get its name, and the one after it.
        assert!(segments <= 7 && prepared <= 2, "{after}: {files:?}");
        // The lock, the list of savepoints, the savepoint, and one file of it that is being made.
        assert!(other - segments - prepared <= 4, "{after}: {files:?}");
    }
}

fn is_named(file: &Path, prefix: &str, suffix: &str) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    name.starts_with(prefix) && name.ends_with(suffix)
}

/// All files under a directory, sorted. What is deleted meanwhile may be missing.
fn files(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|file| Ok(file?.path())).collect() };
    let (dirs, mut all): (Vec<_>, Vec<_>) = list(dir).unwrap_or_default().into_iter().partition(|path| path.is_dir());
    all.extend(dirs.iter().flat_map(|dir| files(dir)));
    all.sort();
    all
}

/// Dies before each call of a kind, `least` times at least.
async fn dies_before_each(call: &str, of: Of, least: u64, most: u64) {
    if !strace_is_here() {
        return;
    }
    let mut here = Loop::new().await;
    // In a directory that is there: what happens only at the very first start is of no interest.
    here.relay.start().await;
    here.relay.kill_9().await;
    let mut number = 1;
    while here.round(call, of, number).await == Round::Died {
        here.come_back(call).await;
        number += 1;
        if number > most {
            break;
        }
    }
    here.come_back(call).await;
    let died = number - 1;
    assert!(died >= least, "{call}: it died only {died} times, so hardly anything was tried");
    println!(
        "{call}: {died} deaths, {} requests acknowledged, {} unanswered",
        here.acknowledged.len(),
        here.unanswered.len()
    );
}

/// Dies at the first call of a kind that comes after the start, again and again.
async fn dies_at_the_first(call: &str, of: Of, deaths: u64) {
    if !strace_is_here() {
        return;
    }
    let mut here = Loop::new().await;
    for _ in 0..deaths {
        here.start_and_then_die(call, of).await;
        assert_eq!(here.work().await, Round::Died, "{call}: it was not called");
        here.come_back(call).await;
    }
    println!(
        "{call}: {deaths} deaths, {} requests acknowledged, {} unanswered",
        here.acknowledged.len(),
        here.unanswered.len()
    );
}

/// Without a limit of how often.
const ALL: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_write_of_a_record_or_seal_costs_nothing() {
    dies_before_each("pwritev", Of::Segments, REQUESTS, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_write_of_a_segments_header_or_its_copy_costs_nothing() {
    // Written before the segment has its name.
    dies_before_each("pwritev", Of::Prepared, 6, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_sync_of_records_or_a_seal_costs_nothing() {
    dies_before_each("fdatasync", Of::Segments, REQUESTS, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_sync_of_a_segments_header_costs_nothing() {
    dies_before_each("fdatasync", Of::Prepared, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_change_of_a_name_costs_nothing() {
    dies_before_each("rename", Of::Anything, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_sync_of_a_directory_costs_nothing() {
    dies_before_each("fsync", Of::Anything, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_allocation_of_a_segment_costs_nothing() {
    dies_before_each("fallocate", Of::Prepared, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_giving_back_of_unused_space_costs_nothing() {
    dies_before_each("fallocate", Of::Segments, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_deletion_of_a_segment_costs_nothing() {
    dies_before_each("unlink", Of::Segments, 3, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_deletion_of_what_an_earlier_crash_left_costs_nothing() {
    dies_before_each("unlink", Of::Prepared, 1, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_each_write_of_a_savepoint_costs_nothing() {
    dies_before_each("pwritev", Of::Savepoint, 4, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_sync_of_a_savepoint_at_the_start_costs_nothing() {
    dies_before_each("fdatasync", Of::Savepoint, 1, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_sync_of_a_savepoint_that_would_release_segments_costs_nothing() {
    dies_at_the_first("fdatasync", Of::Savepoint, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_first_deletion_of_a_segment_that_every_target_has_costs_nothing() {
    dies_at_the_first("unlink", Of::Segments, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_a_read_of_the_log_costs_nothing() {
    // Each record that is delivered is read in two or more of them.
    dies_before_each("madvise", Of::Anything, 8, 16).await;
}
