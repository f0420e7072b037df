//! The built binary as a process, with a directory of its own: started, killed, stopped, started again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::ledger::{self, Ledger};
use super::ran::Ran;
use super::{client, eventually, free_address};

const READY_WITHIN: Duration = Duration::from_secs(30);
const LOG_BYTES_SHOWN_MAX: usize = 16 * 1024;

/// A `config.toml` in the making. Lines are TOML as one writes it: `max_size = "64MiB"`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    server: Vec<String>,
    wal: Vec<String>,
    targets: Vec<(String, Vec<String>)>,
    extra: String,
    wrapper: Vec<String>,
}

impl Config {
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of `[server]`. `listen` is there already.
    pub fn server(mut self, line: &str) -> Self {
        self.server.push(line.into());
        self
    }

    /// A line of `[wal]`. `dir` is there already.
    pub fn wal(mut self, line: &str) -> Self {
        self.wal.push(line.into());
        self
    }

    /// A `[[target]]` with further lines. Comes instead of an earlier one of this name.
    pub fn target(mut self, name: &str, url: &str, lines: &[&str]) -> Self {
        let mut all = vec![format!("url = {url:?}")];
        all.extend(lines.iter().map(ToString::to_string));
        self.targets.retain(|(known, _)| known != name);
        self.targets.push((name.into(), all));
        self
    }

    /// Without this target.
    pub fn without_target(mut self, name: &str) -> Self {
        self.targets.retain(|(known, _)| known != name);
        self
    }

    /// Further sections, put at the end.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self
    }

    /// A program with arguments that runs the relay, and becomes it: the process id must stay.
    pub fn run_by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts a relay in a new directory and waits until it is ready.
    pub async fn start(self) -> Relay {
        let mut relay = self.prepare();
        relay.start().await;
        relay
    }

    /// Everything but the process.
    pub fn prepare(self) -> Relay {
        Relay { config: self, dir: TempDir::new().unwrap(), address: free_address(), process: None, http: client() }
    }

    fn toml(&self, address: SocketAddr, wal_dir: &Path) -> String {
        let mut text = format!("[server]\nlisten = \"{address}\"\n");
        let lines = |lines: &[String]| lines.iter().fold(String::new(), |all, line| all + line + "\n");
        text += &lines(&self.server);
        write!(text, "\n[wal]\ndir = {wal_dir:?}\n{}", lines(&self.wal)).unwrap();
        for (name, target) in &self.targets {
            write!(text, "\n[[target]]\nname = {name:?}\n{}", lines(target)).unwrap();
        }
        text + "\n" + &self.extra
    }
}

/// A relay in a directory of its own. It is killed when this is dropped; when the test fails, its log is shown and its
/// directory is kept.
pub struct Relay {
    /// Written to `config.toml` at each start.
    pub config: Config,
    dir: TempDir,
    address: SocketAddr,
    process: Option<Child>,
    http: reqwest::Client,
}

impl Relay {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn write_url(&self) -> String {
        self.url("/api/v1/write")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    /// What all processes of this directory have written to stdout and stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir().join("relay.log")).unwrap_or_default()).into_owned()
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Writes the configuration and starts the process, without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the relay runs already");
        fs::write(self.config_path(), self.config.toml(self.address, &self.wal_dir())).unwrap();
        let log =
            || -> File { OpenOptions::new().create(true).append(true).open(self.dir().join("relay.log")).unwrap() };
        let binary = env!("CARGO_BIN_EXE_promrelay").to_string();
        let command: Vec<&String> = self.config.wrapper.iter().chain([&binary]).collect();
        let process = Command::new(command[0])
            .args(&command[1..])
            .arg("--config")
            .arg(self.config_path())
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Starts the process and waits until it is ready; says how long this took.
    pub async fn start(&mut self) -> Duration {
        let start = Instant::now();
        self.spawn();
        self.wait_until_ready().await;
        start.elapsed()
    }

    pub async fn wait_until_ready(&mut self) {
        let url = self.url("/-/ready");
        let Self { process, http, .. } = self;
        let process = process.as_mut().expect("the relay was started");
        let ended = eventually("the relay is ready", READY_WITHIN, async || {
            if let Some(status) = process.try_wait().unwrap() {
                return Some(Some(status));
            }
            let answer = http.get(&url).send().await.ok()?;
            (answer.status() == 200).then_some(None)
        })
        .await;
        if let Some(status) = ended {
            panic!("the relay ended instead of being ready: {status}");
        }
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.process.as_ref().and_then(Child::id).expect("the relay runs")
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Ends the process as a crash would; returns when it is gone.
    pub async fn kill_9(&mut self) {
        self.signal(Signal::KILL);
        self.process.take().unwrap().wait().await.unwrap();
    }

    /// Asks the process to end; returns what it ended with, and after which time.
    pub async fn terminate(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::TERM);
        let mut process = self.process.take().unwrap();
        let status = tokio::time::timeout(Duration::from_secs(30), process.wait()).await;
        (status.expect("a relay ends when it is asked to").unwrap(), start.elapsed())
    }

    /// Stops the process cleanly if it runs, and starts it in the same directory, at the same address.
    pub async fn restart(&mut self) {
        if self.is_running() {
            let (status, _) = self.terminate().await;
            assert!(status.success(), "a clean stop ended with {status}");
        }
        self.start().await;
    }

    /// `/api/v1/status`; its ledger adds up.
    pub async fn status(&self) -> serde_json::Value {
        let answer = self.http.get(self.url("/api/v1/status")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let status = answer.json().await.unwrap();
        ledger::of_status(&status);
        status
    }

    /// What the status says of a target.
    pub async fn target(&self, name: &str) -> serde_json::Value {
        let status = self.status().await;
        let mut targets = status["targets"].as_array().unwrap().iter();
        targets.find(|target| target["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// Waits until a target is in this state; what the status says of it then. The metric of the state says the same.
    pub async fn in_state(&self, name: &str, state: &str, within: Duration) -> serde_json::Value {
        eventually(&format!("{name} is {state}"), within, async || {
            let target = self.target(name).await;
            let gauge = format!("promrelay_target_state{{target={name:?},state={state:?}}} 1");
            (target["state"] == state && self.metrics().await.lines().any(|line| line == gauge)).then_some(target)
        })
        .await
    }

    /// The sums of a target.
    pub async fn ledger(&self, name: &str) -> Ledger {
        let ledgers = ledger::of_status(&self.status().await);
        ledgers.get(name).unwrap_or_else(|| panic!("no target {name}: {ledgers:?}")).clone()
    }

    /// How many samples of a target were refused, by reason; those for which none was are left out.
    pub async fn refused(&self, name: &str) -> BTreeMap<String, u64> {
        let metrics = ledger::parse(&self.metrics().await).into_iter();
        let refused = metrics.filter(|metric| {
            metric.name == "promrelay_target_refused_samples_total" && metric.labels["target"] == name
        });
        refused
            .filter(|metric| metric.value > 0.0)
            .map(|metric| (metric.labels["reason"].clone(), metric.value as u64))
            .collect()
    }

    /// How many attempts there were with such an answer.
    pub async fn attempts(&self, name: &str, code: &str) -> u64 {
        let line = format!("promrelay_target_requests_total{{target={name:?},code={code:?}}} ");
        let metrics = self.metrics().await;
        let count = metrics.lines().find_map(|other| other.strip_prefix(&line));
        count.unwrap_or_else(|| panic!("no {line}in\n{metrics}")).parse().unwrap()
    }

    /// Runs the binary with the configuration of this relay, to its end; nobody is at the terminal.
    pub async fn command(&self, args: &[&str]) -> Ran {
        self.command_answered(args, "").await
    }

    /// The same, and somebody types `input`.
    pub async fn command_answered(&self, args: &[&str], input: &str) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_promrelay"))
            .arg("--config")
            .arg(self.config_path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that asks nothing does not listen.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        Ran::of(output.expect("a command ends").unwrap())
    }

    /// As [`command`](Self::command), which must succeed; what it printed.
    pub async fn ordered(&self, args: &[&str]) -> String {
        let ran = self.command(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    /// `POST /api/v1/targets/{name}/{order}`.
    pub async fn post(&self, name: &str, order: &str, body: &str) -> reqwest::Result<reqwest::Response> {
        let url = self.url(&format!("/api/v1/targets/{name}/{order}"));
        self.http.post(url).header("content-type", "application/json").body(body.to_owned()).send().await
    }

    /// `/metrics`; its ledger adds up.
    pub async fn metrics(&self) -> String {
        let answer = self.http.get(self.url("/metrics")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        ledger::of_metrics(&text);
        text
    }

    /// Waits until no target has anything pending; the status then.
    pub async fn drained(&self, within: Duration) -> serde_json::Value {
        eventually("nothing is pending for any target", within, async || {
            let status = self.status().await;
            let pending = ledger::of_status(&status).values().map(|ledger| ledger.pending).sum::<u64>();
            let records = status["targets"].as_array().unwrap().iter().map(|target| &target["pending"]["records"]);
            (pending == 0 && records.map(|records| records.as_u64().unwrap()).sum::<u64>() == 0).then_some(status)
        })
        .await
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            let log = self.log();
            let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_BYTES_SHOWN_MAX));
            eprintln!("---- log of the relay in {} ----\n{}\n---- end ----", self.dir().display(), &log[from..]);
        }
    }
}
