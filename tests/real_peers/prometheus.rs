//! Prometheus, as the source that scrapes and sends and as a target that receives.

use std::path::{Path, PathBuf};

use crate::process::{Process, eventually, free_port, http, peer};
use crate::remote_read::remote_read;
use crate::samples::{Holdings, Keeps};

/// The version of remote write that a source sends, or the only one that a target takes.
#[derive(Clone, Copy, PartialEq)]
pub enum RemoteWrite {
    V1,
    V2,
}

impl RemoteWrite {
    /// Whether native histograms are sent along. With 2.0 alone: VictoriaMetrics, which stores them as series of its own,
    /// could not be compared.
    fn has_histograms(self) -> bool {
        self == RemoteWrite::V2
    }

    /// The name of its message, as Prometheus' configuration and flags have it.
    fn message(self) -> &'static str {
        match self {
            RemoteWrite::V1 => "prometheus.WriteRequest",
            RemoteWrite::V2 => "io.prometheus.write.v2.Request",
        }
    }
}

/// Without it Prometheus neither scrapes native histograms nor takes any.
const NATIVE_HISTOGRAMS: &str = "--enable-feature=native-histograms";

/// A Prometheus that receives.
pub struct Receiver {
    pub port: u16,
    process: Process,
}

impl Receiver {
    /// Starts one that takes `accepted` and answers 415 to the other version.
    pub async fn start(name: &str, directory: &Path, accepted: RemoteWrite) -> Receiver {
        Receiver::start_with(name, directory, accepted, free_port(), "{}\n").await
    }

    /// Starts one that also scrapes itself every second, so that its newest sample is always of now; waits for the first one.
    pub async fn start_scraping(name: &str, directory: &Path, accepted: RemoteWrite) -> Receiver {
        let port = free_port();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - job_name: itself\n  \
               static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
        );
        let receiver = Receiver::start_with(name, directory, accepted, port, &config).await;
        eventually("it has scraped itself", || async {
            receiver.holdings().await?.timestamps().next().map(drop).ok_or_else(|| "nothing is there".to_owned())
        })
        .await;
        receiver
    }

    /// Starts one with this configuration, which takes 1.0.
    pub async fn start_configured(name: &str, directory: &Path, config: &str) -> Receiver {
        Receiver::start_with(name, directory, RemoteWrite::V1, free_port(), config).await
    }

    async fn start_with(name: &str, directory: &Path, accepted: RemoteWrite, port: u16, text: &str) -> Receiver {
        let config = directory.join(format!("{name}.yml"));
        std::fs::write(&config, text).expect("the directory can be written");
        let flags = [
            "--web.enable-remote-write-receiver".to_owned(),
            NATIVE_HISTOGRAMS.to_owned(),
            format!("--web.remote-write-receiver.accepted-protobuf-messages={}", accepted.message()),
        ];
        let mut receiver = Receiver { port, process: prometheus(name, directory, &config, port, flags) };
        receiver.ready().await;
        receiver
    }

    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    pub async fn stop(&mut self) {
        let (status, _) = self.process.terminate().await;
        assert!(status.success(), "Prometheus ended with {status}");
    }

    pub async fn start_again(&mut self) {
        self.process.start_again();
        self.ready().await;
    }

    async fn ready(&mut self) {
        self.process.answers(&format!("http://127.0.0.1:{}/-/ready", self.port)).await;
    }

    /// All that it holds.
    pub async fn holdings(&self) -> Result<Holdings, String> {
        remote_read(self.port).await
    }

    /// What it says of itself.
    pub async fn metrics(&self) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let answer = http().get(url).send().await.map_err(|error| error.to_string())?;
        answer.text().await.map_err(|error| error.to_string())
    }

    /// The timestamp of the newest sample that it has, of whatever series, as it says itself.
    pub async fn newest_sample(&self) -> Result<i64, String> {
        let text = self.metrics().await?;
        let time = text.lines().find_map(|line| line.strip_prefix("prometheus_tsdb_head_max_time "));
        let time: f64 = time.ok_or("it does not say")?.parse().map_err(|_| "its time is not a number")?;
        Ok(time as i64)
    }

    /// Waits until it holds exactly what `expected` says.
    pub async fn holds(&self, expected: &Holdings) {
        eventually("Prometheus holds what the source holds", || async {
            expected.compare(&remote_read(self.port).await?, Keeps::Bits)
        })
        .await;
    }
}

/// A Prometheus that scrapes itself and others every second, and sends all of it to one URL.
pub struct Source {
    port: u16,
    directory: PathBuf,
    jobs: Vec<&'static str>,
    _process: Process,
}

impl Source {
    /// Starts one with these jobs, and one more in which it scrapes itself.
    pub async fn start(directory: &Path, send: RemoteWrite, write_url: &str, jobs: &[&'static str]) -> Source {
        let itself = "itself";
        let jobs = [&[itself], jobs].concat();
        let config = directory.join("source.yml");
        std::fs::write(&config, source_config(send, write_url, &jobs)).expect("the directory can be written");
        for job in &jobs {
            write_addresses(directory, job, &[]);
        }

        let port = free_port();
        let flags = send.has_histograms().then(|| NATIVE_HISTOGRAMS.to_owned());
        let mut process = prometheus("source", directory, &config, port, flags);
        process.answers(&format!("http://127.0.0.1:{port}/-/ready")).await;
        let source = Source { port, directory: directory.to_owned(), jobs, _process: process };
        source.scrape(itself, &source.address());
        source
    }

    /// Where it can be scraped.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on scrapes `address` in one of its jobs.
    pub fn scrape(&self, job: &str, address: &str) {
        write_addresses(&self.directory, job, &[address]);
    }

    /// Takes all its scrape targets away, waits until each series has ended in a stale marker, and returns all it holds.
    pub async fn silence(&self) -> Holdings {
        for job in &self.jobs {
            write_addresses(&self.directory, job, &[]);
        }
        eventually("the source is silent", || async {
            let holdings = remote_read(self.port).await?;
            let unended = holdings.unended_count();
            if unended == 0 { Ok(holdings) } else { Err(format!("{unended} series have not ended")) }
        })
        .await
    }
}

/// Scrape targets are in files: when a target vanishes from its file, Prometheus ends its series with stale markers. When
/// a whole job vanishes from the configuration, it does not (observed with 3.5.3).
fn source_config(send: RemoteWrite, write_url: &str, jobs: &[&str]) -> String {
    let mut config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         remote_write:\n\
         - url: {write_url}\n  \
           protobuf_message: {}\n  \
           send_native_histograms: {}\n  \
           queue_config: {{batch_send_deadline: 500ms}}\n\
         scrape_configs:\n",
        send.message(),
        send.has_histograms(),
    );
    for job in jobs {
        config += &format!(
            "- job_name: {job}\n  \
               file_sd_configs: [{{files: [{}], refresh_interval: 1s}}]\n",
            addresses_file(job)
        );
    }
    config
}

/// Replaced by a rename: Prometheus watches the file and must not read half of it.
fn write_addresses(directory: &Path, job: &str, addresses: &[&str]) {
    let (new, path) = (directory.join("addresses.new"), directory.join(addresses_file(job)));
    std::fs::write(&new, serde_json::json!([{ "targets": addresses }]).to_string())
        .expect("the directory can be written");
    std::fs::rename(new, path).expect("the directory can be written");
}

fn addresses_file(job: &str) -> String {
    format!("{job}.addresses.json")
}

fn prometheus(
    name: &str,
    directory: &Path,
    config: &Path,
    port: u16,
    flags: impl IntoIterator<Item = String>,
) -> Process {
    let common = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", directory.join(name).display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    Process::start(name, directory, &peer("PEER_PROMETHEUS"), common.into_iter().chain(flags).collect())
}

/// Waits until a Prometheus with this configuration runs, and ends it before it has scraped or sent anything.
pub async fn loads(name: &str, directory: &Path, config: &Path) {
    let port = free_port();
    let mut process = prometheus(name, directory, config, port, []);
    process.answers(&format!("http://127.0.0.1:{port}/-/ready")).await;
}
