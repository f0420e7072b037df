//! The first promise, seen from outside: with `sync = "always"` no 204 leaves before its record was synced.
//!
//! strace watches the relay's system calls. Each request holds a marker, a label value that snappy keeps as it is, so a 204
//! and the write of its record are tied together without asking the relay: the marker is read on the connection on which
//! the 204 is written, and it is written into a segment by `pwritev`.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::time::Duration;

use support::relay::Config;
use support::request::{FIRST_TIMESTAMP, Protocol, Request, noise};
use support::sink::Sink;
use support::trace::{self, Call};
use support::{client, eventually, strace_is_here};

const SENDERS: usize = 8;
const REQUESTS_PER_SENDER: u64 = 20;
const STARTS: usize = 2;
/// Enough for several segments in each run.
const NOISE_BYTES: usize = 16 * 1024;

const MARKER: &str = "qzmarkerzq";
const MARKER_TAIL: usize = 20;

const CALLS: &str = "trace=openat,open,creat,rename,renameat,renameat2,link,linkat,fsync,fdatasync,\
    pwrite64,pwritev,pwritev2,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";

/// What a trace shows.
#[derive(Debug, Default)]
struct Findings {
    /// Markers whose 204 was written.
    acknowledged: BTreeSet<String>,
    /// Files of segments that hold their records.
    segments: BTreeSet<String>,
    /// What must not be, each in words.
    violations: Vec<String>,
}

/// Looks at each 204 for what must have happened before.
fn judge(calls: &[Call], wal_dir: &str) -> Findings {
    let mut findings = Findings::default();
    let is_segment = |path: &&str| {
        let name = path.strip_prefix(wal_dir).unwrap_or_default();
        name.starts_with("/seg-") && name.ends_with(".wal")
    };

    let mut writes: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in
        calls.iter().filter(|call| call.name.starts_with("pwrite") && call.file().is_some_and(|file| is_segment(&file)))
    {
        for marker in markers(&call.strings().concat()) {
            // The text is that of the call: a marker is found there once more to borrow it.
            let at = call.arguments.find(&marker).expect("a marker lies within one string");
            writes.entry(&call.arguments[at..at + marker.len()]).or_default().push(call);
        }
    }
    let syncs: Vec<&Call> = calls
        .iter()
        .filter(|call| ["fdatasync", "fsync"].contains(&call.name.as_str()) && call.result == Some(0))
        .collect();

    let mut first_answers: BTreeMap<&str, &Call> = BTreeMap::new();
    for (marker, answer) in answers(calls) {
        let records = writes.get(marker.as_str()).map(Vec::as_slice).unwrap_or_default();
        let written = |record: &&&Call| record.succeeded() && record.left < answer.entered;
        let Some(record) = records.iter().find(written) else {
            findings.violations.push(format!("204 on line {} without a record: {marker}", answer.entered));
            findings.acknowledged.insert(marker);
            continue;
        };
        let segment = record.file().expect("it was chosen by its file");
        let is_synced = syncs
            .iter()
            .any(|sync| sync.file() == Some(segment) && sync.entered > record.left && sync.left < answer.entered);
        if !is_synced {
            let (from, to) = (record.left, answer.entered);
            let text =
                format!("204 on line {to} without a sync of {segment} since its record on line {from}: {marker}");
            findings.violations.push(text);
        }
        first_answers.entry(segment).or_insert(answer);
        findings.segments.insert(segment.to_string());
        findings.acknowledged.insert(marker);
    }

    for (segment, answer) in first_answers {
        let name = segment.rsplit('/').next().expect("a path has a last part");
        let Some(named) = calls.iter().find(|call| names_file(call, name)) else {
            findings.violations.push(format!("{segment} was never created"));
            continue;
        };
        let is_synced = syncs
            .iter()
            .any(|sync| sync.file() == Some(wal_dir) && sync.entered > named.left && sync.left < answer.entered);
        if !is_synced {
            let (from, to) = (named.left, answer.entered);
            let text =
                format!("204 on line {to} without a sync of the directory since {name} was named on line {from}");
            findings.violations.push(text);
        }
    }
    findings
}

/// Each 204 with the marker of its request. On one connection a request is read and then its answer is written.
fn answers(calls: &[Call]) -> Vec<(String, &Call)> {
    let mut requests: HashMap<&str, String> = HashMap::new();
    let mut answers = Vec::new();
    for call in calls {
        let Some(socket) = call.file().filter(|file| file.starts_with("socket:")) else { continue };
        let data = call.strings().concat();
        match call.name.as_str() {
            "read" | "readv" | "recvfrom" | "recvmsg" if call.succeeded() => {
                requests.entry(socket).or_default().push_str(&data);
            }
            "write" | "writev" | "sendto" | "sendmsg" if data.starts_with("HTTP/1.1 ") => {
                let found = markers(&requests.remove(socket).unwrap_or_default());
                if data.starts_with("HTTP/1.1 204 ") {
                    answers.extend(found.into_iter().map(|marker| (marker, call)));
                }
            }
            _ => {}
        }
    }
    answers
}

fn markers(text: &str) -> Vec<String> {
    let found = text.match_indices(MARKER).filter_map(|(at, _)| text.get(at..at + MARKER.len() + MARKER_TAIL));
    found.map(str::to_string).collect()
}

/// The call puts a file of this name into its directory.
fn names_file(call: &Call, name: &str) -> bool {
    let names = match call.name.as_str() {
        "creat" | "rename" | "renameat" | "renameat2" | "link" | "linkat" => true,
        "open" | "openat" => call.arguments.contains("O_CREAT"),
        _ => false,
    };
    names && call.succeeded() && call.strings().last().is_some_and(|path| path.rsplit('/').next() == Some(name))
}

#[test]
fn a_trace_with_interrupted_calls_is_read() {
    let trace = r#"
7001  1795239289.150241 openat(AT_FDCWD</tmp>, "/tmp/wal/seg-1.wal", O_RDWR|O_CREAT, 0644) = 9</tmp/wal/seg-1.wal>
7002  1795239289.150300 recvfrom(12<socket:[881]>,  <unfinished ...>
7001  1795239289.150400 fdatasync(9</tmp/wal/seg-1.wal> <unfinished ...>
7002  1795239289.150500 <... recvfrom resumed>"a \"b\" = \\", 8192, 0, NULL, NULL) = 9
7001  1795239289.150600 <... fdatasync resumed>) = 0
7001  1795239289.150650 close(9</tmp/wal/seg-1.wal>)      = 0
7002  1795239289.150700 recvfrom(13<TCP:[127.0.0.1:1->127.0.0.1:2]>, 0x7f, 8192, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
7002  1795239289.150800 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---
7002  1795239289.150900 fsync(9</tmp/wal> <unfinished ...>
7001  1795239289.151000 +++ exited with 0 +++"#;
    let calls = trace::parse(trace);
    let seen: Vec<_> = calls.iter().map(|call| (call.name.as_str(), call.result, call.entered, call.left)).collect();
    let never = usize::MAX;
    let expected = [
        ("openat", Some(9), 1, 1),
        ("recvfrom", Some(9), 2, 4),
        ("fdatasync", Some(0), 3, 5),
        ("close", Some(0), 6, 6),
        ("recvfrom", Some(-1), 7, 7),
        ("fsync", None, 9, never),
    ];
    assert_eq!(seen, expected);
    let files: Vec<_> = calls.iter().map(Call::file).collect();
    let (segment, connection) = (Some("/tmp/wal/seg-1.wal"), Some("TCP:[127.0.0.1:1->127.0.0.1:2]"));
    assert_eq!(files, [None, Some("socket:[881]"), segment, segment, connection, Some("/tmp/wal")]);
    assert_eq!(calls[1].strings(), [r#"a \"b\" = \\"#]);
    assert!(calls[0].succeeded() && !calls[4].succeeded() && !calls[5].succeeded());
}

/// A trace in which all is well: created, directory synced, request read in two pieces, written, synced, answered.
const GOOD: [&str; 9] = [
    r#"1 1.0 openat(AT_FDCWD</>, "/wal/seg-00000000000000000001.wal", O_RDWR|O_CREAT|O_EXCL, 0644) = 9</wal/seg-00000000000000000001.wal>"#,
    r#"1 1.0 fsync(8</wal>) = 0"#,
    r#"2 1.0 recvfrom(12<socket:[5]>, "POST /api/v1/write HTTP/1.1\r\n\r\n\30\0qzmark", 8192, 0, NULL, NULL) = 40"#,
    r#"2 1.0 recvfrom(12<socket:[5]>, "erzqabcdefghijklmnopqrst\3", 8192, 0, NULL, NULL) = 25"#,
    r#"1 1.0 pwritev(9</wal/seg-00000000000000000001.wal>, [{iov_base="PRW1", iov_len=4}, {iov_base="qzmarkerzqabcdefghijklmnopqrst", iov_len=30}], 2, 4096 <unfinished ...>"#,
    r#"1 1.0 <... pwritev resumed>) = 34"#,
    r#"1 1.0 fdatasync(9</wal/seg-00000000000000000001.wal> <unfinished ...>"#,
    r#"1 1.0 <... fdatasync resumed>) = 0"#,
    r#"2 1.0 writev(12<socket:[5]>, [{iov_base="HTTP/1.1 204 No Content\r\n\r\n", iov_len=27}], 1) = 27"#,
];

fn judge_lines(lines: &[&str]) -> Findings {
    judge(&trace::parse(&lines.join("\n")), "/wal")
}

#[test]
fn a_204_after_its_sync_is_fine() {
    let findings = judge_lines(&GOOD);
    assert_eq!(findings.violations, Vec::<String>::new());
    assert_eq!((findings.acknowledged.len(), findings.segments.len()), (1, 1));
}

#[test]
fn a_204_is_noticed_when_its_sync_comes_later_failed_began_too_early_or_was_of_another_file() {
    let reordered = |order: [usize; 9]| order.map(|line| GOOD[line]);
    let replaced = |line: usize, from: &str, to: &str| {
        let mut lines = GOOD.map(str::to_string);
        assert!(lines[line].contains(from));
        lines[line] = lines[line].replace(from, to);
        lines
    };
    for (what, findings) in [
        ("left after the answer", judge_lines(&reordered([0, 1, 2, 3, 4, 5, 6, 8, 7]))),
        ("began before the write was over", judge_lines(&reordered([0, 1, 2, 3, 6, 4, 5, 7, 8]))),
        ("failed", judge_lines(&replaced(7, "= 0", "= -1 EIO (Input/output error)").each_ref().map(String::as_str))),
        ("of another file", judge_lines(&replaced(6, "1.wal>", "2.wal>").each_ref().map(String::as_str))),
    ] {
        let violations = findings.violations;
        assert!(
            violations.len() == 1 && violations[0].contains("without a sync of /wal/seg-"),
            "{what}: {violations:?}"
        );
    }
}

#[test]
fn a_204_is_noticed_when_its_record_or_the_segments_name_is_missing() {
    let without =
        |line: usize| GOOD.iter().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| *line).collect::<Vec<_>>();
    for (line, text) in [(4, "without a record"), (1, "without a sync of the directory"), (0, "was never created")] {
        let violations = judge_lines(&without(line)).violations;
        assert!(violations.len() == 1 && violations[0].contains(text), "{violations:?}");
    }
}

/// Runs a relay under strace, sends from several senders at once, stops and starts it in between; what the trace shows.
async fn traced_load(sync: &str) -> Findings {
    let sink = Sink::start().await;
    let mut relay = Config::new()
        .wal(&format!("sync = {sync:?}"))
        .wal("max_size = \"16MiB\"")
        .wal("segment_size = \"1MiB\"")
        .target("sink", &sink.url(), &[])
        .prepare();
    let mut text = String::new();
    let mut sent = BTreeSet::new();
    for start in 0..STARTS {
        let path = relay.dir().join(format!("trace-{start}"));
        let file = path.to_str().unwrap();
        // -D: the relay is our child, and strace its grandchild. All of each request is to be seen.
        let strace = ["strace", "-f", "-D", "-y", "-ttt", "-s", "65536", "-e", "abbrev=none", "-e", CALLS, "-o", file];
        relay.config = relay.config.clone().run_by(&strace);
        relay.start().await;

        let senders = (0..SENDERS).map(|sender| {
            let url = relay.write_url();
            tokio::spawn(send(url, start, sender))
        });
        for sender in senders.collect::<Vec<_>>() {
            sent.extend(sender.await.unwrap());
        }
        let (status, _) = relay.terminate().await;
        assert!(status.success(), "{status}");
        let ended =
            async || fs::read_to_string(&path).ok().filter(|text| text.trim_end().ends_with("+++ exited with 0 +++"));
        text += &eventually("strace has written all", Duration::from_secs(10), ended).await;
    }

    let wal_dir = relay.wal_dir().canonicalize().unwrap();
    let findings = judge(&trace::parse(&text), wal_dir.to_str().unwrap());
    assert_eq!(findings.acknowledged, sent, "each 204 is found in the trace");
    findings
}

/// One request after the other; their markers.
async fn send(url: String, start: usize, sender: usize) -> Vec<String> {
    let client = client();
    let mut random = fastrand::Rng::new();
    let mut sent = Vec::new();
    for number in 0..REQUESTS_PER_SENDER {
        let marker = format!("{MARKER}{}", noise(&mut random, MARKER_TAIL));
        let noise = noise(&mut random, NOISE_BYTES);
        let timestamp = FIRST_TIMESTAMP + (start as i64 * 1000) + number as i64;
        let request = Request::new().series(
            &[("__name__", "traced"), ("sender", &sender.to_string()), ("marker", &marker), ("noise", &noise)],
            &[(timestamp, 1.0)],
        );
        let protocol = Protocol::ALL[sender % 2];
        let answer = request.literal_post(protocol).send(&client, &url).await.unwrap();
        assert_eq!(answer.status(), 204);
        sent.push(marker);
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn no_204_leaves_before_its_record_and_the_name_of_its_segment_are_synced() {
    if !strace_is_here() {
        return;
    }
    let findings = traced_load("always").await;
    assert_eq!(findings.violations, Vec::<String>::new());
    assert!(findings.segments.len() > STARTS, "the log rolled over while it was watched: {:?}", findings.segments);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_watch_finds_that_nothing_is_synced_with_never() {
    if !strace_is_here() {
        return;
    }
    let findings = traced_load("never").await;
    assert!(!findings.violations.is_empty(), "this test can see a missing sync");
}
