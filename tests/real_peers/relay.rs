//! promrelay itself: its process, its configuration and what it says of its targets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::ledger;
use crate::process::{Process, eventually, free_port, http};

/// A `[[target]]` of the configuration.
#[derive(Clone)]
pub struct Target {
    pub name: &'static str,
    pub url: String,
    /// Further lines.
    pub tuning: &'static str,
}

impl Target {
    pub fn new(name: &'static str, url: String) -> Target {
        // The longest pause is short, so that the tests need not wait for it.
        Target { name, url, tuning: "max_backoff = \"1s\"" }
    }
}

/// A relay, running or stopped.
pub struct Relay {
    port: u16,
    config: PathBuf,
    wal: PathBuf,
    process: Process,
}

impl Relay {
    pub async fn start(directory: &Path, targets: &[Target]) -> Relay {
        let (port, config, wal) = (free_port(), directory.join("relay.toml"), directory.join("wal"));
        std::fs::write(&config, configuration(port, &wal, targets)).expect("the directory can be written");
        let arguments = vec!["--config".to_owned(), config.display().to_string()];
        let process = Process::start("promrelay", directory, Path::new(env!("CARGO_BIN_EXE_promrelay")), arguments);
        let mut relay = Relay { port, config, wal, process };
        relay.ready().await;
        relay
    }

    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    /// Stops it as a service manager does, and checks that it goes at once and in peace.
    pub async fn stop(&mut self) {
        let (status, took) = self.process.terminate().await;
        assert_eq!(status.code(), Some(0), "promrelay ended with {status}");
        assert!(took < Duration::from_secs(2), "promrelay took {took:?} to end");
    }

    /// Starts the stopped relay with other targets.
    pub async fn start_again(&mut self, targets: &[Target]) {
        std::fs::write(&self.config, configuration(self.port, &self.wal, targets))
            .expect("the directory can be written");
        self.process.start_again();
        self.ready().await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    async fn ready(&mut self) {
        self.process.answers(&format!("http://127.0.0.1:{}/-/ready", self.port)).await;
    }

    /// What it says of the target `name`. Whenever it says something, the ledger must add up.
    pub async fn target(&self, name: &str) -> TargetStatus {
        let url = format!("http://127.0.0.1:{}/api/v1/status", self.port);
        let answer = http().get(url).send().await.expect("the relay answers");
        let status: Status = answer.json().await.expect("the status is as documented");
        let target = status.targets.into_iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("the status lacks target {name:?}"));
        target.samples.check();
        assert_eq!(target.pending.samples, target.samples.pending, "of {name}");
        target
    }

    /// Waits until what it says of the target `name` passes `check`, and returns it.
    pub async fn target_becomes(&self, name: &str, what: &str, check: impl Fn(&TargetStatus) -> bool) -> TargetStatus {
        eventually(&format!("{name} is {what}"), || async {
            let target = self.target(name).await;
            if check(&target) { Ok(target) } else { Err(format!("it says {target:?}")) }
        })
        .await
    }

    /// Waits until `count` samples of the target `name` are settled, in whatever way, and none is pending.
    pub async fn settled_all(&self, name: &str, count: u64) -> TargetStatus {
        self.target_becomes(name, &format!("rid of {count} samples"), |target| {
            target.samples.accepted >= count && target.samples.pending == 0
        })
        .await
    }

    /// Waits until the target `name` has everything, and checks that all of it was delivered: `count` samples, each once.
    pub async fn delivered_all(&self, name: &str, count: u64) {
        let target = self.settled_all(name, count).await;
        let all = Ledger { accepted: count, delivered: count, ..Ledger::default() };
        assert_eq!(target.samples, all, "of {name}");
        self.target_becomes(name, "caught up", |target| target.state == "caught_up").await;
    }

    /// How many requests it answered with this status.
    pub async fn answered(&self, code: &str) -> u64 {
        let counts = ledger::parse(&self.metrics().await);
        let of_code =
            |line: &&ledger::Metric| line.name == "promrelay_receive_requests_total" && line.labels["code"] == code;
        counts.iter().filter(of_code).map(|line| line.value as u64).sum()
    }

    async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        http().get(url).send().await.expect("the relay answers").text().await.expect("metrics are text")
    }

    /// How many samples the target `name` refused, by reason; without reasons for which it refused none.
    pub async fn refused(&self, name: &str) -> BTreeMap<String, u64> {
        self.counted("promrelay_target_refused_samples_total", name, "reason").await
    }

    /// How many requests to the target `name` there were, by what they were answered; without what never came.
    pub async fn requests(&self, name: &str) -> BTreeMap<String, u64> {
        self.counted("promrelay_target_requests_total", name, "code").await
    }

    /// What had no place in the protocol of the target `name`, and how often.
    pub async fn untranslated(&self, name: &str) -> BTreeMap<String, u64> {
        self.counted("promrelay_target_untranslated_total", name, "what").await
    }

    /// The counts of a target in `/metrics` that are not zero, by the value of a label. The ledger there must add up, too.
    async fn counted(&self, metric: &str, target: &str, by: &str) -> BTreeMap<String, u64> {
        let text = self.metrics().await;
        ledger::of_metrics(&text);
        ledger::parse(&text)
            .into_iter()
            .filter(|line| line.name == metric && line.labels["target"] == target && line.value > 0.0)
            .map(|line| (line.labels[by].clone(), line.value as u64))
            .collect()
    }

    /// What `promrelay dead-letter ls` lists.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_promrelay"));
        command.arg("--config").arg(&self.config).args(["dead-letter", "ls", "--json"]).kill_on_drop(true);
        let output = command.output().await.expect("promrelay starts");
        assert!(output.status.success(), "{output:?}");
        let listing: Listing = serde_json::from_slice(&output.stdout).expect("the listing is as documented");
        assert_eq!(listing.older, 0, "all are listed");
        listing.entries
    }
}

fn configuration(port: u16, wal: &Path, targets: &[Target]) -> String {
    let mut config = format!(
        "[server]\n\
         listen = \"127.0.0.1:{port}\"\n\
         \n\
         [wal]\n\
         dir = \"{}\"\n\
         max_size = \"128MiB\"\n",
        wal.display()
    );
    for Target { name, url, tuning } in targets {
        config += &format!("\n[[target]]\nname = \"{name}\"\nurl = \"{url}\"\n{tuning}\n");
    }
    config
}

#[derive(Deserialize)]
struct Listing {
    entries: Vec<DeadLetter>,
    older: u64,
}

/// A request that was refused, as `promrelay dead-letter ls` lists it.
#[derive(Debug, PartialEq, Deserialize)]
pub struct DeadLetter {
    pub reason: String,
    pub status: Option<u16>,
    /// What the target said.
    pub text: String,
    pub samples: u64,
    /// The first of its series.
    pub series: String,
}

#[derive(Deserialize)]
struct Status {
    targets: Vec<TargetStatus>,
}

/// A target as `/api/v1/status` shows it.
#[derive(Debug, Deserialize)]
pub struct TargetStatus {
    pub name: String,
    pub state: String,
    #[serde(default)]
    pub reason: Option<String>,
    pub settled: u64,
    pub pending: Pending,
    pub samples: Ledger,
}

#[derive(Debug, Deserialize)]
pub struct Pending {
    pub samples: u64,
}

/// What has become of the samples of a target.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub struct Ledger {
    pub accepted: u64,
    pub delivered: u64,
    pub refused: u64,
    pub filtered: u64,
    pub expired: u64,
    pub dropped: u64,
    pub lost: u64,
    pub pending: u64,
}

impl Ledger {
    fn check(&self) {
        let Ledger { accepted, delivered, refused, filtered, expired, dropped, lost, pending } = *self;
        let sum = delivered + refused + filtered + expired + dropped + lost + pending;
        assert_eq!(accepted, sum, "the ledger does not add up: {self:?}");
    }
}
