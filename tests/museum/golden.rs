//! Directories that were written by a version of each format, kept for ever: whatever comes later must get out of them what is in them.
//!
//! ```text
//! format-<number>[-clean]/data/            as the relay left it, killed (or stopped)
//! format-<number>[-clean]/expected.json    what was sent to it, and what each target had settled
//! format-<number>[-clean]/README.md        for people
//! ```
//!
//! Directories of today are made in each run and compared with the kept ones. Log id, salts, times and checksums differ each time; equal must be
//! - what was sent, but for the bytes of its compression, and what was settled: `expected.json`;
//! - which files there are, how long they are, and with what magic and version they begin;
//! - what comes out.
//!
//! A new format gets directories of its own: raise [`FORMAT`] and run
//! `PROMRELAY_MUSEUM_KEEP=1 cargo test --test museum a_golden_directory_is_made`. It keeps what is not there yet, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::base::SERIES;
use crate::image::{Image, segment_name};
use crate::support::ledger::{self, Ledger};
use crate::support::relay::{Config, Relay};
use crate::support::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise, numbered};
use crate::support::sink::Sink;
use crate::support::{client, eventually};

/// Of the directories that are made now.
const FORMAT: u32 = 1;

const SOON: Duration = Duration::from_secs(60);
const HEADER: &str = "x-scope-orgid";
const AWAY: &str = "http://127.0.0.1:9/";
/// Of each file: 8 bytes of magic, 4 of version.
const MAGIC_AND_VERSION: usize = 12;
/// A run, which makes a segment.
const RUN: u64 = 6;
const NEW: u64 = 1000;

fn museum() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/museum")
}

fn config() -> Config {
    let config = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"");
    config.server("forward_headers = [\"X-Scope-OrgID\"]").target("ahead", AWAY, &[]).target("behind", AWAY, &[])
}

/// One with a larger body in each run; each third is some tenant's.
fn request(number: u64, random: &mut fastrand::Rng) -> (Post, Option<&'static str>) {
    let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
    let mut request = Request::new().numbered("a", number);
    for extra in 0..number % 4 {
        request = request.series(&[("__name__", "extra"), ("extra", &extra.to_string())], &[sample]);
    }
    if number % RUN == 3 {
        request = request.series(&[("__name__", "noise"), ("noise", &noise(random, 9_000))], &[sample]);
    }
    let tenant = [Some("team-a"), None, Some("team \u{fc}")][number as usize % 3];
    (request.post(Protocol::ALL[number as usize % 2]), tenant)
}

async fn send(relay: &Relay, post: &Post, tenant: Option<&str>) {
    let mut request = client()
        .post(relay.write_url())
        .header("content-encoding", "snappy")
        .header("content-type", post.protocol.content_type())
        .header("user-agent", "promrelay-test/1")
        .header("x-prometheus-remote-write-version", post.protocol.version());
    if let Some(tenant) = tenant {
        request = request.header(HEADER, tenant.as_bytes());
    }
    assert_eq!(request.body(post.body.clone()).send().await.unwrap().status(), 204);
}

/// As it is in `expected.json`, told of what is sent or of what arrives.
fn as_json(protocol: Protocol, tenant: Option<&[u8]>, samples: usize, body: &[u8]) -> Value {
    json!({
        "protocol": protocol.version(),
        "forwarded": tenant.map(|tenant| String::from_utf8(tenant.to_vec()).unwrap()),
        "samples": samples,
        "body_crc32c": format!("{:08x}", crc32c::crc32c(body)),
        "body_bytes": body.len(),
    })
}

async fn ledger_of(relay: &Relay, target: &str) -> Ledger {
    ledger::of_status(&relay.status().await)[target].clone()
}

/// A directory that was just made.
struct Made {
    image: Image,
    expected: Value,
    readme: String,
}

impl Made {
    fn write(&self, to: &Path) {
        fs::create_dir_all(to.join("data")).unwrap();
        self.image.write(&to.join("data"));
        fs::write(to.join("expected.json"), format!("{:#}\n", self.expected)).unwrap();
        fs::write(to.join("README.md"), &self.readme).unwrap();
    }

    /// Keeps it, all of it at once: others may look into the museum meanwhile.
    fn keep(&self, to: &Path) {
        let making = museum().join(format!(".{}.tmp", to.file_name().unwrap().to_str().unwrap()));
        self.write(&making);
        fs::rename(making, to).unwrap();
    }
}

/// Makes a directory of `runs` segments. The first run's requests one target gets.
async fn make(name: &str, runs: u64, stops: bool) -> Made {
    let mut random = fastrand::Rng::with_seed(3);
    let mut relay = config().prepare();
    let sink = Sink::start().await;
    let mut records = Vec::new();
    for run in 0..runs {
        let url = if run == 0 { sink.url() } else { AWAY.into() };
        relay.config = relay.config.clone().target("ahead", &url, &[]);
        relay.start().await;
        for number in run * RUN..(run + 1) * RUN {
            let (post, tenant) = request(number, &mut random);
            send(&relay, &post, tenant).await;
            let samples = numbered_and_others(number);
            records.push(as_json(post.protocol, tenant.map(str::as_bytes), samples, &post.body));
        }
        if run == 0 {
            let all = async || (ledger_of(&relay, "ahead").await.pending == 0).then_some(());
            eventually("one target has the first run", SOON, all).await;
        }
        if run + 1 == runs && stops {
            relay.terminate().await;
        } else {
            relay.kill_9().await;
        }
    }
    let image = Image::read(&relay.wal_dir());
    let delivered: u64 = (0..RUN).map(|number| numbered_and_others(number) as u64).sum();
    let expected = json!({
        "format": FORMAT,
        "segments": runs,
        "is_sealed": stops,
        "records": records,
        "targets": {
            "ahead": { "settled": RUN, "delivered": delivered },
            "behind": { "settled": 0, "delivered": 0 },
        },
    });
    Made { image, expected, readme: readme(name, runs, stops) }
}

/// Samples of a request.
fn numbered_and_others(number: u64) -> usize {
    let others = number % 4 + u64::from(number % RUN == 3);
    1 + usize::try_from(others).unwrap()
}

fn readme(name: &str, runs: u64, stops: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let end = if stops {
        "The last run was stopped: every segment has a seal."
    } else {
        "Every run was killed (`kill -9`), so the last segment has no seal; the others were sealed by\n  the start that came after."
    };
    format!(
        "# {name}\n\n\
         A log of format {FORMAT}, written by promrelay {version} and kept for ever: later versions must deliver what is in it (`../golden.rs`).\n\
         Do not change it; a new format gets a directory of its own.\n\n\
         - {runs} runs of {RUN} requests, a segment of 1 MiB each. {end}\n\
         - Remote write 1.0 and 2.0 by turns; two of three requests have a forwarded header `{HEADER}`, one of the values is not ASCII; one\n  \
         of each run has a body of some pages.\n\
         - Two targets: `ahead` has settled the first run, `behind` nothing.\n\
         - `expected.json`: the requests in the order in which they were acknowledged (the first has position 1), and what the\n  \
         targets had settled.\n"
    )
}

/// What is the same of all directories of a format: the file's length, its magic and its version.
fn shape(image: &Image) -> BTreeMap<&str, (usize, &[u8])> {
    let start = |name| &image.bytes(name)[..image.bytes(name).len().min(MAGIC_AND_VERSION)];
    image.names().map(|name| (name, (image.bytes(name).len(), start(name)))).collect()
}

/// The same request may be compressed otherwise by a later library.
fn without_bytes(mut expected: Value) -> Value {
    for record in expected["records"].as_array_mut().unwrap() {
        let record = record.as_object_mut().unwrap();
        record.remove("body_bytes").unwrap();
        record.remove("body_crc32c").unwrap();
    }
    expected
}

async fn is_made_as_it_was(name: &str, runs: u64, stops: bool) {
    let made = make(name, runs, stops).await;
    let kept = museum().join(name);
    if !kept.exists() {
        assert!(std::env::var_os("PROMRELAY_MUSEUM_KEEP").is_some(), "no {name} is kept: see golden.rs");
        made.keep(&kept);
    }
    assert_eq!(shape(&made.image), shape(&Image::read(&kept.join("data"))), "{name}");
    assert_eq!(without_bytes(made.expected.clone()), without_bytes(expected_in(&kept)), "{name}");
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().join(name);
    made.write(&elsewhere);
    comes_out(&elsewhere, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_directory_is_made_as_the_kept_ones_were() {
    is_made_as_it_was(&format!("format-{FORMAT}"), 4, false).await;
    is_made_as_it_was(&format!("format-{FORMAT}-clean"), 2, true).await;
}

fn expected_in(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap()
}

/// The requests that a target of today got, new ones left out.
fn arrived(sink: &Sink) -> Vec<Value> {
    let tenant = |headers: &HeaderMap| headers.get(HEADER).map(|value| value.as_bytes().to_vec());
    let requests = sink.requests().into_iter().filter(|request| {
        let number = request.samples.iter().find(|sample| &*sample.series == SERIES).unwrap().value;
        request.is_stored && number < NEW as f64
    });
    requests
        .map(|request| {
            let tenant = tenant(&request.headers);
            as_json(request.protocol, tenant.as_deref(), request.samples.len(), &request.body)
        })
        .collect()
}

async fn comes_out(dir: &Path, crashes: u32) {
    let what = format!("{}, {crashes} crashes", dir.display());
    let expected = expected_in(dir);
    let image = Image::read(&dir.join("data"));
    let segments = expected["segments"].as_u64().unwrap();
    let newest = image.segment(segments);
    let seal = &newest[newest.len() - 192..];
    assert_eq!(seal.iter().any(|byte| *byte != 0), expected["is_sealed"] == true, "{what}: was it touched?");
    assert!(image.get(&segment_name(segments + 1)).is_none(), "{what}");

    let mut relay = config().prepare();
    image.write(&relay.wal_dir());
    for _ in 0..crashes {
        relay.start().await;
        relay.kill_9().await;
    }
    let targets = expected["targets"].as_object().unwrap();
    let mut sinks = Vec::new();
    for name in targets.keys() {
        let sink = Sink::start().await;
        relay.config = relay.config.clone().target(name, &sink.url(), &[]);
        sinks.push(sink);
    }
    relay.start().await;
    send(&relay, &numbered(Protocol::V1, "a", NEW), None).await;
    let status = relay.drained(SOON).await;
    assert_eq!((&status["ready"], &status["wal"]["damage"]["count"]), (&true.into(), &0.into()), "{what}: {status}");
    let told = ledger::of_status(&status);

    let records = expected["records"].as_array().unwrap();
    for ((name, target), sink) in targets.iter().zip(&sinks) {
        let settled = usize::try_from(target["settled"].as_u64().unwrap()).unwrap();
        assert_eq!(arrived(sink), records[settled..], "{what}: {name}");
        assert_eq!(sink.counts().repeated, 0, "{what}: {name}");
        sink.assert_strict();
        let samples = records.iter().map(|record| record["samples"].as_u64().unwrap()).sum::<u64>() + 1;
        assert_eq!((told[name].accepted, told[name].delivered()), (samples, samples), "{what}: {name}");
        let before: u64 = records[..settled].iter().map(|record| record["samples"].as_u64().unwrap()).sum();
        assert_eq!(target["delivered"], before, "{what}: {name}");
    }
    relay.restart().await;
    assert_eq!(ledger::of_status(&relay.drained(SOON).await), told, "{what}: a second start says the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_out_of_the_directory_of_each_format() {
    let mut golden: Vec<PathBuf> = fs::read_dir(museum()).unwrap().map(|entry| entry.unwrap().path()).collect();
    golden.retain(|path| path.is_dir() && path.file_name().unwrap().to_str().unwrap().starts_with("format-"));
    assert!(golden.len() >= 2, "{golden:?}");
    for dir in golden {
        for crashes in [0, 2] {
            comes_out(&dir, crashes).await;
        }
    }
}
