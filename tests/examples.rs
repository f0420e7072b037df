//! The examples work: the configurations are valid, the pairs fit together, the programs do what they say.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use support::relay::Config;

const LINE_WITHIN: Duration = Duration::from_secs(20);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directories with a pair of configurations.
fn pairs() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut pairs: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    pairs.sort();
    assert!(pairs.len() >= 3, "{pairs:?}");
    pairs
}

/// The port of `[server] listen`, read without anything of promrelay.
fn port_of_listen(config: &str) -> u16 {
    let config: toml::Table = config.parse().unwrap();
    let listen = config["server"]["listen"].as_str().unwrap();
    listen.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn every_configuration_in_the_repository_passes_the_check() {
    let own = repository().join("config.toml");
    for config in pairs().iter().map(|pair| pair.join("config.toml")).chain([own]) {
        let elsewhere = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_promrelay"))
            .args(["check", "--config"])
            .arg(&config)
            .current_dir(&elsewhere)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", config.display());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "a check of {} leaves files", config.display());
    }
}

#[test]
fn the_prometheus_of_each_pair_writes_to_the_relay_of_the_pair() {
    for pair in pairs() {
        let port = port_of_listen(&fs::read_to_string(pair.join("config.toml")).unwrap());
        let prometheus = fs::read_to_string(pair.join("prometheus.yml")).unwrap();
        let remote_write = &prometheus[prometheus.find("\nremote_write:").unwrap()..];
        let urls: Vec<&str> = remote_write.lines().filter_map(|line| line.trim().strip_prefix("url: ")).collect();
        let [url] = urls[..] else { panic!("{}: {urls:?}", pair.display()) };
        assert!(url.starts_with("http://") && url.ends_with(&format!(":{port}/api/v1/write")), "{url} and port {port}");
    }
}

#[test]
fn the_targets_of_the_federation_get_their_series_only() {
    let config = repository().join("examples/federation/config.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_promrelay"))
        .args(["relabel", "test", "--json", "job:http_requests:rate5m", "up", "http_requests_total", "go_info"])
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = |n: usize| {
        let series = report["targets"][n]["series"].as_array().unwrap().iter();
        series.map(|series| series["result"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(results(0), ["unchanged", "unchanged", "filtered", "filtered"]);
    assert_eq!(results(1), ["changed", "changed", "changed", "filtered"]);
}

/// One of the programs in `examples/`; cargo puts them beside the binary when it builds the tests.
fn program(name: &str) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_promrelay"));
    let path = binary.parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples", path.display());
    Command::new(path)
}

/// A running `sink`; ended when this is dropped.
struct SinkProgram {
    process: Child,
    lines: Receiver<String>,
    url: String,
}

impl SinkProgram {
    fn start(arguments: &[&str]) -> SinkProgram {
        let command = &mut program("sink");
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut sink = SinkProgram { process, lines, url: String::new() };
        sink.url = sink.line("# listening on ").strip_prefix("# listening on ").unwrap().into();
        sink
    }

    /// The next line that begins so.
    fn line(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LINE_WITHIN);
            let line = line.unwrap_or_else(|_| panic!("no line {start:?} within {LINE_WITHIN:?}"));
            if line.starts_with(start) {
                return line;
            }
        }
    }
}

impl Drop for SinkProgram {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn send(arguments: &[&str]) -> Output {
    program("send").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_send_sends_through_a_relay_is_printed_by_sink() {
    let sink = SinkProgram::start(&[]);
    let relay = Config::new().target("sink", &sink.url, &[]).start().await;
    let url = relay.write_url();

    let first = send(&["--url", &url, "--timestamp", "1769850000001", "up{job=\"demo\"}", "1"]);
    assert!(first.status.success() && text(&first.stdout).starts_with("204 No Content\n"), "{first:?}");
    assert!(!text(&first.stdout).contains("-written: "), "{first:?}");
    sink.line("# remote write 1.0, ");
    assert_eq!(sink.line("up"), "up{job=\"demo\"} 1 1769850000001");

    let options = ["--protocol", "2.0", "--url", &url, "--timestamp", "1769850000002"];
    let second = send(&[&options[..], &["up{job=\"demo\"}", "-2.5"]].concat());
    assert!(second.status.success(), "{second:?}");
    assert!(text(&second.stdout).contains("\nx-prometheus-remote-write-samples-written: 1\n"), "{second:?}");
    assert_eq!(sink.line("up"), "up{job=\"demo\"} -2.5 1769850000002");
}

#[test]
fn send_says_what_was_answered_and_ends_with_1_when_it_was_no_success() {
    let sink = SinkProgram::start(&["--status", "429", "--header", "retry-after: 5"]);
    let output = send(&["--url", &sink.url, "up", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("429 Too Many Requests\n"), "{output:?}");
    assert!(text(&output.stdout).contains("\nretry-after: 5\n"), "{output:?}");
    assert!(sink.line("up").starts_with("up 1 "));
}

#[test]
fn send_refuses_what_is_not_a_series() {
    for series in ["up{", "up{job}", "up{job=demo}", "up{job=\"demo\"", "up{job=\"demo}", "up{job=\"demo\"} 1"] {
        let output = send(&["--url", "http://127.0.0.1:1/", series, "1"]);
        assert_eq!(output.status.code(), Some(1), "{series}: {output:?}");
        assert!(text(&output.stderr).contains("not a series"), "{series}: {output:?}");
    }
}
