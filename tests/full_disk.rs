//! A disk that is full: because of the log's own limit, because of others, from the start, for want of inodes, by
//! quota, or only when it is asked to keep what it has promised.
//!
//! Each test has a small filesystem of its own, senders that go on all the time, and a target that is down and comes
//! back. What must hold is always the same:
//!
//! 1. Upstreams get 503 with a time to come again, and `/-/ready` says why.
//! 2. What was acknowledged is delivered once, in order. What was answered 503 is not, unless it was sent again.
//! 3. Delivery needs no new disk; when there is room again, requests are taken again, and nobody has to do anything.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use support::filesystem::{Filesystem, Scarce, taken_in};
use support::relay::{Config, Relay};
use support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise};
use support::sink::{Answer, Sink};
use support::{client, eventually, ledger, seed, strace_is_here};

const SOON: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const SENDERS: usize = 3;
/// Of each request: a few dozen fill a segment.
const NOISE_BYTES: usize = 40_000;
/// What is on disk beside segments: the lock, savepoints, directories, and what the filesystem needs to find it all.
const BESIDE_SEGMENTS: u64 = 64 << 10;

/// The settings of all tests here. The filesystems are small, and "full" means full.
fn config(max_size: &str, segment_size: &str) -> Config {
    Config::new().wal(&format!("max_size = \"{max_size}\"")).wal(&format!("segment_size = \"{segment_size}\""))
}

/// How long an unreachable target is left alone: shortly, for a short test.
const TARGET: [&str; 2] = ["min_backoff = \"10ms\"", "max_backoff = \"100ms\""];

/// A kind of filesystem, and what there is little of.
#[derive(Clone, Copy, Debug)]
struct Disk {
    is_ext4: bool,
    scarce: Scarce,
}

impl Disk {
    const EXT4: Disk = Disk { is_ext4: true, scarce: Scarce::Bytes };
    const TMPFS: Disk = Disk { is_ext4: false, scarce: Scarce::Bytes };
    const ALL: [Disk; 4] = [
        Disk::EXT4,
        Disk::TMPFS,
        Disk { is_ext4: true, scarce: Scarce::Inodes },
        Disk { is_ext4: false, scarce: Scarce::Inodes },
    ];

    fn mount(self, at: &Path) -> Option<Filesystem> {
        match self.is_ext4 {
            true => Filesystem::ext4(at, 48 * MIB, &["-N", "128"]),
            false => Filesystem::tmpfs(at, "size=42m,nr_inodes=128"),
        }
    }
}

/// A relay whose log has a filesystem to itself, and its only target, which is down.
struct Rig {
    /// First, so that it is unmounted before the relay's directory is removed.
    filesystem: Filesystem,
    relay: Relay,
    sink: Sink,
}

impl Rig {
    /// `None`: nothing can be mounted here.
    async fn prepare(disk: Disk, config: Config) -> Option<Rig> {
        Rig::on(config, |at| disk.mount(at)).await
    }

    async fn on(config: Config, mount: impl FnOnce(&Path) -> Option<Filesystem>) -> Option<Rig> {
        let sink = Sink::start().await;
        sink.stop().await;
        let relay = config.target("a", &sink.url(), &TARGET).prepare();
        std::fs::create_dir(relay.wal_dir()).unwrap();
        let filesystem = mount(&relay.wal_dir())?;
        Some(Rig { filesystem, relay, sink })
    }

    /// Status and text of an answer of `/-/ready`; `None` while nobody listens.
    async fn readiness(&self) -> Option<(u16, String)> {
        let answer = client().get(self.relay.url("/-/ready")).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Waits until the relay is not ready, and for this reason.
    async fn is_full_because(&self, reason: &str) {
        eventually(&format!("it is not ready: {reason}"), SOON, async || {
            let (status, text) = self.readiness().await?;
            (status == 503 && text.contains(reason)).then_some(())
        })
        .await;
    }

    async fn is_ready(&self) {
        eventually("it is ready", SOON, async || self.readiness().await.filter(|(status, _)| *status == 200)).await;
    }

    /// Starts the relay where it cannot become ready.
    async fn spawn(&mut self) {
        self.relay.spawn();
        eventually("it serves", SOON, async || self.readiness().await).await;
    }

    /// Everything acknowledged is at the target once, in order, and the ledger says so too. Ends the relay.
    async fn judge(mut self, sent: &[Sent]) {
        let status = self.relay.drained(SOON).await;
        let ledger = &ledger::of_status(&status)["a"];
        assert_eq!((ledger.delivered(), ledger.pending), (ledger.accepted, 0), "{ledger:?}");
        let (status, _) = self.relay.terminate().await;
        assert!(status.success(), "{status}");
        self.sink.assert_strict();
        assert_eq!(self.sink.counts().repeated, 0);
        for (sender, sent) in sent.iter().enumerate() {
            sent.judge(&self.sink, sender);
        }
    }
}

/// What a sender knows of its requests.
#[derive(Debug, Default)]
struct Sent {
    acknowledged: BTreeSet<u64>,
    /// Sent once, and no answer came: it is in the log or not.
    unanswered: BTreeSet<u64>,
    /// Answered 503, and not sent again.
    given_up: BTreeSet<u64>,
}

impl Sent {
    fn judge(&self, sink: &Sink, sender: usize) {
        let stored = numbers(sink, sender);
        assert!(stored.is_sorted_by(|one, next| one < next), "sender {sender}: not once and in order: {stored:?}");
        let stored: BTreeSet<u64> = stored.into_iter().collect();
        let missing: Vec<_> = self.acknowledged.difference(&stored).collect();
        assert!(missing.is_empty(), "sender {sender}: acknowledged and not delivered: {missing:?}");
        let unfounded: Vec<_> = stored.iter().filter(|number| self.given_up.contains(number)).collect();
        assert!(unfounded.is_empty(), "sender {sender}: answered 503 and delivered all the same: {unfounded:?}");
        let known = self.acknowledged.union(&self.unanswered).copied().collect();
        assert!(stored.is_subset(&known), "sender {sender}: never sent: {:?}", stored.difference(&known));
    }
}

/// What the target has of a sender, in the order in which it came.
fn numbers(sink: &Sink, sender: usize) -> Vec<u64> {
    sink.samples(&format!("numbered{{series=\"{sender}\"}}")).iter().map(|(_, value)| *value as u64).collect()
}

/// What senders see, as they see it.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: AtomicU64,
    put_off: AtomicU64,
    stop: AtomicBool,
}

/// Senders under way. Each has a series of its own, with numbers that ascend.
struct Load {
    senders: Vec<JoinHandle<Sent>>,
    seen: Arc<Seen>,
}

impl Load {
    fn start(relay: &Relay) -> Load {
        Load::of(relay, NOISE_BYTES)
    }

    /// With so much of each request that does not compress.
    fn of(relay: &Relay, noise_bytes: usize) -> Load {
        let seen = Arc::<Seen>::default();
        let mut random = fastrand::Rng::with_seed(seed());
        let senders = (0..SENDERS)
            .map(|sender| tokio::spawn(send(sender, relay.write_url(), noise_bytes, random.fork(), seen.clone())));
        Load { senders: senders.collect(), seen }
    }

    /// Waits until so many more requests were acknowledged.
    async fn acknowledged(&self, more: u64) {
        grows(&self.seen.acknowledged, more, "requests are acknowledged").await;
    }

    /// Waits until so many more requests were answered 503.
    async fn put_off(&self, more: u64) {
        grows(&self.seen.put_off, more, "requests are put off").await;
    }

    async fn finish(self) -> Vec<Sent> {
        self.seen.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for sender in self.senders {
            sent.push(sender.await.unwrap());
        }
        sent
    }
}

async fn grows(count: &AtomicU64, more: u64, what: &str) {
    let enough = count.load(Ordering::Relaxed) + more;
    let grown = async || (count.load(Ordering::Relaxed) >= enough).then_some(());
    eventually(&format!("{more} more {what}"), SOON, grown).await;
}

/// Sends number after number. What is put off is sent again, or given up for good, as the dice fall.
async fn send(sender: usize, url: String, noise_bytes: usize, mut random: fastrand::Rng, seen: Arc<Seen>) -> Sent {
    let client = client();
    let mut sent = Sent::default();
    let mut number = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        match post(sender, number, &noise(&mut random, noise_bytes)).send(&client, &url).await {
            Ok(answer) if answer.status() == 204 => {
                sent.acknowledged.insert(number);
                seen.acknowledged.fetch_add(1, Ordering::Relaxed);
                number += 1;
                continue;
            }
            Ok(answer) if answer.status() == 503 => {
                let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((1..=60).contains(&seconds), "come again in {seconds} s");
                seen.put_off.fetch_add(1, Ordering::Relaxed);
                if random.bool() {
                    sent.given_up.insert(number);
                    number += 1;
                }
            }
            Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
            // The relay does not run: nothing was sent.
            Err(error) if error.is_connect() => {}
            Err(_) => {
                sent.unanswered.insert(number);
                number += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(5..20))).await;
    }
    sent
}

fn post(sender: usize, number: u64, noise: &str) -> Post {
    let sender = sender.to_string();
    let labels = [("__name__", "noise"), ("sender", &sender), ("noise", noise)];
    let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
    Request::new().numbered(&sender, number).series(&labels, &[sample]).post(Protocol::V1)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_limit_the_log_takes_nothing_until_targets_have_caught_up_and_never_exceeds_it() {
    const MAX: u64 = 8 * MIB;
    for disk in [Disk::EXT4, Disk::TMPFS] {
        let Some(mut rig) = Rig::prepare(disk, config("8MiB", "1MiB")).await else { return };
        let watch = rig.filesystem.watch();
        rig.relay.start().await;
        // Small requests: segments get full to the last page.
        let load = Load::of(&rig.relay, 3000);
        // The target does not answer, and comes back; then it answers 503, and recovers.
        for outage in 1..=2 {
            load.put_off(20).await;
            rig.is_full_because(&MAX.to_string()).await;
            assert!(rig.relay.status().await["wal"]["bytes"].as_u64().unwrap() <= MAX);
            match outage {
                1 => rig.sink.start_again().await,
                _ => rig.sink.script(|_| Answer::status(204)),
            }
            load.acknowledged(200).await;
            if outage == 1 {
                rig.sink.script(|_| Answer::status(503));
            }
        }
        let sent = load.finish().await;
        rig.relay.drained(SOON).await;
        let most = watch.end();
        rig.judge(&sent).await;

        assert!(most.looks > 100 && most.segments > MAX / 4 * 3, "{disk:?}: {most:?}");
        let largest = most.segments.max(most.directory).max(most.filesystem);
        assert!(largest <= MAX + BESIDE_SEGMENTS, "{disk:?}: {most:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_stops_taking_and_nothing_else() {
    for disk in Disk::ALL {
        let Some(mut rig) = Rig::prepare(disk, config("1GiB", "2MiB")).await else { return };
        rig.relay.start().await;
        let load = Load::start(&rig.relay);
        load.acknowledged(100).await;
        let others = rig.filesystem.taken_by_others(disk.scarce);
        load.put_off(30).await;
        rig.is_full_because("No space left on device").await;

        // All that was taken is delivered, while others take whatever gets free.
        rig.sink.start_again().await;
        rig.relay.drained(SOON).await;

        drop(others);
        load.acknowledged(100).await;
        rig.is_ready().await;
        let sent = load.finish().await;
        rig.judge(&sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_delivers_what_is_there_and_takes_requests_when_there_is_room() {
    for disk in Disk::ALL {
        for is_crash in [false, true] {
            let Some(mut rig) = Rig::prepare(disk, config("1GiB", "2MiB")).await else { return };
            rig.relay.start().await;
            let load = Load::start(&rig.relay);
            load.acknowledged(150).await;
            match is_crash {
                true => rig.relay.kill_9().await,
                false => assert!(rig.relay.terminate().await.0.success()),
            }
            let others = rig.filesystem.taken_by_others(disk.scarce);
            rig.spawn().await;
            rig.is_full_because("No space left on device").await;
            load.put_off(10).await;
            rig.sink.start_again().await;
            rig.relay.drained(SOON).await;
            drop(others);
            load.acknowledged(100).await;
            let sent = load.finish().await;
            rig.judge(&sent).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_on_a_full_disk_says_why_it_cannot_and_the_next_one_is_as_good_as_new() {
    for disk in Disk::ALL {
        // From nothing at all to almost enough: blocks or inodes.
        for free in 0..6 {
            let Some(mut rig) = Rig::prepare(disk, config("1GiB", "2MiB")).await else { return };
            let mut others = rig.filesystem.taken_by_others(disk.scarce);
            others.leave(free);
            let load = Load::start(&rig.relay);
            let mut first = FirstStart::new(&mut rig).await;
            if let Some(status) = first.serves_or_ends(&rig).await {
                assert_eq!(status.code(), Some(1), "{disk:?}, {free} free: {}", first.said());
                assert!(first.said().contains("No space left on device"), "{disk:?}, {free} free: {}", first.said());
            } else {
                rig.is_full_because("No space left on device").await;
            }
            drop(others);
            if first.is_running() {
                rig.is_ready().await;
                first.process.kill().await.unwrap();
            }
            rig.relay.start().await;
            load.acknowledged(5).await;
            rig.sink.start_again().await;
            let sent = load.finish().await;
            rig.judge(&sent).await;
        }
    }
}

/// A start that may end by itself.
struct FirstStart {
    process: Child,
    log: NamedTempFile,
}

impl FirstStart {
    async fn new(rig: &mut Rig) -> FirstStart {
        // Writes the configuration, and no more.
        rig.relay.config = rig.relay.config.clone().run_by(&["true"]);
        rig.relay.spawn();
        rig.relay.terminate().await;
        rig.relay.config = rig.relay.config.clone().run_by(&[]);

        let log = NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_promrelay"));
        command.arg("--config").arg(rig.relay.config_path()).stderr(log.reopen().unwrap()).kill_on_drop(true);
        FirstStart { process: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// How it ended; `None`: it serves.
    async fn serves_or_ends(&mut self, rig: &Rig) -> Option<ExitStatus> {
        eventually("it serves or ends", SOON, async || match self.process.try_wait().unwrap() {
            Some(status) => Some(Some(status)),
            None => rig.readiness().await.map(|_| None),
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_on_a_full_disk_lose_nothing_and_take_no_more_of_it() {
    for disk in Disk::ALL {
        let Some(mut rig) = Rig::prepare(disk, config("1GiB", "2MiB")).await else { return };
        rig.relay.start().await;
        let load = Load::start(&rig.relay);
        load.acknowledged(100).await;
        let others = rig.filesystem.taken_by_others(disk.scarce);
        load.put_off(30).await;
        let mut before = None;
        for _ in 0..5 {
            rig.relay.kill_9().await;
            let (_, taken) = taken_in(&rig.relay.wal_dir()).expect("nobody changes it now");
            assert!(
                before.is_none_or(|before| taken <= before),
                "{disk:?}: {before:?} bytes, and {taken} after a kill"
            );
            before = Some(taken);
            rig.spawn().await;
            load.put_off(10).await;
        }
        rig.sink.start_again().await;
        rig.relay.drained(SOON).await;
        drop(others);
        load.acknowledged(50).await;
        let sent = load.finish().await;
        rig.judge(&sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_a_full_disk() {
    if !strace_is_here() {
        return;
    }
    // Allocating ahead meets it, or a write does, where the filesystem counts late.
    for inject in ["fallocate:error=EDQUOT:when=3..8", "pwritev:error=EDQUOT:when=40..60"] {
        let sink = Sink::start().await;
        let mut relay = config("64MiB", "2MiB").target("a", &sink.url(), &TARGET).prepare();
        let call = inject.split(':').next().unwrap();
        let trace = format!("trace={call}");
        let inject = format!("inject={inject}");
        let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        relay.config = relay.config.clone().run_by(&strace);
        relay.start().await;
        let load = Load::start(&relay);
        load.put_off(3).await;
        eventually("it says why", SOON, async || relay.log().contains("Disk quota exceeded").then_some(())).await;
        load.acknowledged(200).await;
        let sent = load.finish().await;
        relay.drained(SOON).await;
        sink.assert_strict();
        for (sender, sent) in sent.iter().enumerate() {
            sent.judge(&sink, sender);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_promised_more_than_it_has_loses_nothing_that_was_acknowledged() {
    // A sparse image of 48 MiB where there is room for 16: allocating works, and at some point a sync does not.
    let below = TempDir::new().unwrap();
    let Some(pool) = Filesystem::tmpfs(below.path(), "size=16m") else { return };
    let thin = |at: &Path| Filesystem::ext4_within(below.path(), at, 48 * MIB, &[])?.page_by_page();
    let Some(mut rig) = Rig::on(config("1GiB", "2MiB"), thin).await else { return };
    rig.relay.start().await;
    let load = Load::start(&rig.relay);
    load.put_off(30).await;
    rig.is_full_because("the log cannot be written").await;
    assert!(rig.relay.log().contains("sync of the log failed"), "the disk has kept its promise");

    // The filesystem is read-only by now. Somebody stops the relay, finds more room, and mounts it again.
    let (status, _) = rig.relay.terminate().await;
    assert!(status.success(), "{status}");
    pool.remount("size=64m");
    rig.filesystem.mount_again();
    rig.relay.start().await;
    load.acknowledged(50).await;
    rig.sink.start_again().await;
    let sent = load.finish().await;
    rig.relay.drained(SOON).await;
    rig.sink.assert_strict();
    for (sender, sent) in sent.iter().enumerate() {
        let stored: BTreeSet<u64> = numbers(&rig.sink, sender).into_iter().collect();
        let missing: Vec<_> = sent.acknowledged.difference(&stored).collect();
        assert!(missing.is_empty(), "acknowledged and not delivered: {missing:?}");
        // Whose sync failed may come up again.
        let extra = stored.iter().filter(|number| sent.given_up.contains(number));
        assert!(extra.count() <= 1);
    }
}
