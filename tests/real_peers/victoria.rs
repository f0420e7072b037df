//! VictoriaMetrics as a target, and its agent as a source.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::metadata::{Family, Metadata};
use crate::process::{Process, eventually, free_port, http, peer};
use crate::samples::{Holdings, Keeps, Labels, Value};

/// A single-node VictoriaMetrics.
pub struct VictoriaMetrics {
    pub port: u16,
    process: Process,
}

impl VictoriaMetrics {
    pub async fn start(directory: &Path) -> VictoriaMetrics {
        let port = free_port();
        let arguments = vec![
            format!("-storageDataPath={}", directory.join("victoria-metrics").display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
        ];
        let process = Process::start("victoria-metrics", directory, &peer("PEER_VICTORIA_METRICS"), arguments);
        let mut victoria = VictoriaMetrics { port, process };
        victoria.ready().await;
        victoria
    }

    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    pub async fn stop(&mut self) {
        let (status, _) = self.process.terminate().await;
        assert!(status.success(), "VictoriaMetrics ended with {status}");
    }

    pub async fn start_again(&mut self) {
        self.process.start_again();
        self.ready().await;
    }

    async fn ready(&mut self) {
        self.process.answers(&format!("http://127.0.0.1:{}/health", self.port)).await;
    }

    /// Waits until it holds exactly what `expected` says, as far as VictoriaMetrics keeps it, and each sample once: it does
    /// not remove what it got twice, so this also shows that nothing was sent twice.
    pub async fn holds(&self, expected: &Holdings) {
        eventually("VictoriaMetrics holds what the source holds", || async {
            expected.compare(&self.holdings().await?, Keeps::Decimals)
        })
        .await;
    }

    /// Waits until it knows just these families, from what it was told of them.
    pub async fn knows(&self, expected: &Metadata) {
        eventually("VictoriaMetrics knows what the metrics are", || async {
            let url = format!("http://127.0.0.1:{}/api/v1/metadata", self.port);
            let answer = http().get(url).send().await.map_err(|error| error.to_string())?;
            let answer: Known = answer.json().await.map_err(|error| error.to_string())?;
            // It writes one kind in two words.
            let family = |family: Family| Family { kind: family.kind.replace(' ', ""), ..family };
            let found: Metadata = answer.data.into_iter().map(|(name, [found])| (name, family(found))).collect();
            let differs = |(name, family): &(&String, &Family)| found.get(*name) != Some(family);
            let missing: Vec<_> = expected.iter().filter(differs).collect();
            if missing.is_empty() && found.len() == expected.len() {
                return Ok(());
            }
            let more: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
            Err(format!("missing or different: {missing:?}, too much: {more:?}"))
        })
        .await;
    }

    /// All that it holds.
    pub async fn holdings(&self) -> Result<Holdings, String> {
        // A block of a series in each line; with `reduce_mem_usage` they come as stored, without deduplication.
        let base = format!("http://127.0.0.1:{}", self.port);
        let export = format!("{base}/api/v1/export?match[]={{__name__!=\"\"}}&reduce_mem_usage=1");
        let mut text = String::new();
        // What was written lately is shown only after a flush.
        for url in [format!("{base}/internal/force_flush"), export] {
            let answer = http().get(url).send().await.and_then(reqwest::Response::error_for_status);
            text = answer.map_err(|error| error.to_string())?.text().await.map_err(|error| error.to_string())?;
        }

        let blocks = text.lines().map(|line| {
            let block: Block = serde_json::from_str(line).expect("each line of an export is a block");
            let values = block.values.iter().map(Exported::value);
            (block.metric, block.timestamps.iter().copied().zip(values).collect())
        });
        Ok(blocks.collect())
    }
}

#[derive(Deserialize)]
struct Known {
    /// By name; there is only one server whose metrics it was told of.
    data: BTreeMap<String, [Family; 1]>,
}

#[derive(Deserialize)]
struct Block {
    metric: Labels,
    values: Vec<Exported>,
    timestamps: Vec<i64>,
}

/// A value as the export writes it: a number, `"Infinity"`, `"-Infinity"` or null.
#[derive(Deserialize)]
#[serde(untagged)]
enum Exported {
    Number(f64),
    Text(String),
    Null(()),
}

impl Exported {
    fn value(&self) -> Value {
        match self {
            Exported::Number(number) => Value::Float(number.to_bits()),
            Exported::Text(text) => Value::Float(text.parse::<f64>().expect("Rust reads \"Infinity\" too").to_bits()),
            Exported::Null(()) => Value::stale_marker(),
        }
    }
}

/// The agent: it scrapes one exporter every second and sends what it finds to one URL.
pub struct Vmagent {
    _process: Process,
}

impl Vmagent {
    pub async fn start(directory: &Path, write_url: &str, exporter: &str) -> Vmagent {
        let config = directory.join("vmagent.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs:\n\
             - job_name: exporter\n  \
               static_configs: [{{targets: ['{exporter}']}}]\n"
        );
        std::fs::write(&config, text).expect("the directory can be written");
        let port = free_port();
        let arguments = vec![
            format!("-promscrape.config={}", config.display()),
            format!("-remoteWrite.url={write_url}"),
            format!("-remoteWrite.tmpDataPath={}", directory.join("vmagent").display()),
            // More than one queue does not keep the order of samples, and Prometheus refuses what comes out of order.
            "-remoteWrite.queues=1".to_owned(),
            format!("-httpListenAddr=127.0.0.1:{port}"),
        ];
        let mut process = Process::start("vmagent", directory, &peer("PEER_VMAGENT"), arguments);
        process.answers(&format!("http://127.0.0.1:{port}/health")).await;
        Vmagent { _process: process }
    }
}
