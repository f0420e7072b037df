//! Prometheus, as the source that scrapes and sends and as a target that receives.

use std::path::{Path, PathBuf};

use crate::exemplars::{Exemplars, query_exemplars};
use crate::metadata::{Metadata, scraped_metadata};
use crate::process::{Process, eventually, free_port, http, peer};
use crate::remote_read::remote_read;
use crate::samples::{Holdings, Keeps};

/// The version of remote write that a source sends, or the only one that a target takes.
#[derive(Clone, Copy)]
pub enum RemoteWrite {
    V1,
    V2,
}

impl RemoteWrite {
    /// The name of its message, as Prometheus' configuration and flags have it.
    fn message(self) -> &'static str {
        match self {
            RemoteWrite::V1 => "prometheus.WriteRequest",
            RemoteWrite::V2 => "io.prometheus.write.v2.Request",
        }
    }
}

/// Without the first Prometheus neither scrapes native histograms nor takes any, without the second it keeps no exemplars.
const FEATURES: &str = "--enable-feature=native-histograms,exemplar-storage";
/// And without this one it knows the metadata of no series when it sends 2.0.
const METADATA: &str = "--enable-feature=metadata-wal-records";

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
            FEATURES.to_owned(),
            format!("--web.remote-write-receiver.accepted-protobuf-messages={}", accepted.message()),
        ];
        let mut receiver =
            Receiver { port, process: prometheus("PEER_PROMETHEUS", name, directory, &config, port, flags) };
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

    /// Waits until it holds exactly these exemplars.
    pub async fn holds_exemplars(&self, expected: &Exemplars) {
        self.holds_exemplars_but(0, expected).await;
    }

    /// Waits until it holds these exemplars, all but so many at most, and no others.
    pub async fn holds_exemplars_but(&self, left_out: u64, expected: &Exemplars) {
        eventually("Prometheus holds the source's exemplars", || async {
            expected.compare(&query_exemplars(self.port).await?, left_out)
        })
        .await;
    }

    /// Waits until it holds exactly what `expected` says.
    pub async fn holds(&self, expected: &Holdings) {
        eventually("Prometheus holds what the source holds", || async {
            expected.compare(&remote_read(self.port).await?, Keeps::Bits)
        })
        .await;
    }
}

/// What kind of Prometheus a source is, and what it sends.
#[derive(Clone, Copy)]
pub struct Kind {
    send: RemoteWrite,
    pub is_old: bool,
    is_agent: bool,
    /// Exemplars, native histograms and metadata along with floats.
    sends_everything: bool,
    /// Says every second what its metrics are, not once a minute (1.0).
    tells_often: bool,
    /// Makes native histograms with custom buckets of what has buckets of old, instead of series with floats.
    pub makes_custom_buckets: bool,
}

impl Kind {
    /// A server that sends floats. VictoriaMetrics stores native histograms as series of its own, and could not be compared.
    pub const fn plain(send: RemoteWrite) -> Kind {
        Kind {
            send,
            is_old: false,
            is_agent: false,
            sends_everything: false,
            tells_often: false,
            makes_custom_buckets: false,
        }
    }

    /// A server that sends all that it knows and that its protocol can say.
    pub const fn server(send: RemoteWrite) -> Kind {
        let makes_custom_buckets = matches!(send, RemoteWrite::V2);
        Kind { sends_everything: true, makes_custom_buckets, ..Kind::plain(send).telling_often() }
    }

    pub const fn telling_often(self) -> Kind {
        Kind { tells_often: true, ..self }
    }

    pub const fn with_custom_buckets(self) -> Kind {
        Kind { makes_custom_buckets: true, ..self }
    }

    /// An agent that sends all that it knows; it can be asked for nothing.
    pub const fn agent(send: RemoteWrite) -> Kind {
        Kind { is_agent: true, ..Kind::server(send) }
    }

    /// A server of 2.42 (2023) that sends all that it knows; remote write 2.0 it does not.
    pub const fn old() -> Kind {
        Kind { is_old: true, ..Kind::server(RemoteWrite::V1) }
    }

    /// Whether it cannot be asked for all it has: an agent for nothing, 2.42 not for native histograms.
    pub fn is_mute(self) -> bool {
        self.is_agent || self.is_old
    }

    /// The version of remote write that it sends.
    pub fn sends(self) -> RemoteWrite {
        self.send
    }

    fn start(self, directory: &Path, config: &Path, port: u16) -> Process {
        let variable = if self.is_old { "PEER_OLD_PROMETHEUS" } else { "PEER_PROMETHEUS" };
        let mut flags = Vec::new();
        if self.sends_everything {
            flags.push(FEATURES.to_owned());
            if !self.is_old {
                flags.push(METADATA.to_owned());
            }
        }
        if self.is_agent {
            flags.push("--agent".to_owned());
        }
        prometheus(variable, "source", directory, config, port, flags)
    }

    /// Scrape targets are in files: when a target vanishes from its file, Prometheus ends its series with stale markers. When
    /// a whole job vanishes from the configuration, it does not (observed with 3.5.3).
    fn config(self, write_urls: &[String], jobs: &[&str]) -> String {
        let mut config = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nremote_write:\n".to_owned();
        for url in write_urls {
            config += &format!(
                "- url: {url}\n  \
                   send_native_histograms: {}\n  \
                   send_exemplars: {}\n  \
                   metadata_config: {{send_interval: {}}}\n  \
                   queue_config: {{batch_send_deadline: 500ms}}\n",
                self.sends_everything,
                self.sends_everything,
                if self.tells_often { "1s" } else { "1m" },
            );
            if !self.is_old {
                config += &format!("  protobuf_message: {}\n", self.send.message());
            }
        }
        config += "scrape_configs:\n";
        for job in jobs {
            config += &format!(
                "- job_name: {job}\n  \
                   file_sd_configs: [{{files: [{}], refresh_interval: 1s}}]\n",
                addresses_file(job)
            );
            if self.makes_custom_buckets {
                config += "  convert_classic_histograms_to_nhcb: true\n";
            }
        }
        config
    }
}

impl From<RemoteWrite> for Kind {
    fn from(send: RemoteWrite) -> Kind {
        Kind::plain(send)
    }
}

/// A Prometheus that scrapes itself and others every second, and sends all of it to one URL or more.
pub struct Source {
    pub port: u16,
    directory: PathBuf,
    jobs: Vec<&'static str>,
    _process: Process,
}

impl Source {
    /// Starts one with these jobs, and one more in which it scrapes itself.
    pub async fn start(directory: &Path, kind: Kind, write_urls: &[String], jobs: &[&'static str]) -> Source {
        let itself = "itself";
        let jobs = [&[itself], jobs].concat();
        let config = directory.join("source.yml");
        std::fs::write(&config, kind.config(write_urls, &jobs)).expect("the directory can be written");
        for job in &jobs {
            write_addresses(directory, job, &[]);
        }

        let port = free_port();
        let mut process = kind.start(directory, &config, port);
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

    /// The metadata of all that it scrapes now.
    pub async fn metadata(&self) -> Metadata {
        scraped_metadata(self.port).await
    }

    /// Takes all its scrape targets away, waits until each series has ended in a stale marker, and returns all it holds.
    pub async fn silence(&self) -> Holdings {
        self.silence_as_seen_at(self.port).await
    }

    /// The same of a source that cannot be asked: what the Prometheus on 127.0.0.1:`port` holds, to which it sends, too.
    pub async fn silence_as_seen_at(&self, port: u16) -> Holdings {
        for job in &self.jobs {
            write_addresses(&self.directory, job, &[]);
        }
        eventually("the source is silent", || async {
            let holdings = remote_read(port).await?;
            let unended = holdings.unended_count();
            if unended == 0 { Ok(holdings) } else { Err(format!("{unended} series have not ended")) }
        })
        .await
    }
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

/// The binary that `variable` names, as a process called `name`.
fn prometheus(
    variable: &str,
    name: &str,
    directory: &Path,
    config: &Path,
    port: u16,
    flags: impl IntoIterator<Item = String>,
) -> Process {
    let mut arguments: Vec<String> = flags.into_iter().collect();
    let storage = if arguments.iter().any(|flag| flag == "--agent") { "agent" } else { "tsdb" };
    arguments.extend([
        format!("--config.file={}", config.display()),
        format!("--storage.{storage}.path={}", directory.join(name).display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ]);
    Process::start(name, directory, &peer(variable), arguments)
}

/// Waits until a Prometheus with this configuration runs, and ends it before it has scraped or sent anything.
pub async fn loads(name: &str, directory: &Path, config: &Path) {
    let port = free_port();
    let mut process = prometheus("PEER_PROMETHEUS", name, directory, config, port, []);
    process.answers(&format!("http://127.0.0.1:{port}/-/ready")).await;
}
