//! Receives remote write, prints every sample that arrives, and stores nothing.
//!
//! ```sh
//! cargo run --example sink -- --listen 127.0.0.1:9300
//! cargo run --example sink -- --listen 127.0.0.1:9300 --status 429 --header retry-after:5
//! ```
//!
//! A line is `name{label="value"} value timestamp`, as in a page of metrics with timestamps in milliseconds; `#` begins
//! what is not a sample. With a `--status` that is no success the data is printed all the same.

use std::error::Error;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use clap::Parser;
use promrelay::protocol::messages::{v1, v2};
use prost::Message;
use tokio::net::TcpListener;

const BODY_BYTES_MAX: usize = 64 << 20;

#[derive(Parser)]
#[command(about = "Receives remote write and prints every sample that arrives")]
struct Args {
    /// Address to listen on; port 0 takes a free one and says which.
    #[arg(long, default_value = "127.0.0.1:9300")]
    listen: SocketAddr,
    /// Status of every answer.
    #[arg(long, default_value = "204")]
    status: StatusCode,
    /// A header of every answer, as NAME:VALUE. May be given several times.
    #[arg(long, value_name = "NAME:VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("not NAME:VALUE")?;
    let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
    Ok((name, HeaderValue::try_from(value.trim()).map_err(|error| error.to_string())?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen).await?;
    println!("# listening on http://{}/api/v1/write", listener.local_addr()?);
    let router =
        Router::new().fallback(receive).with_state(Arc::new(args)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    axum::serve(listener, router).await?;
    Ok(())
}

/// What arrived, as text, and how much of it.
#[derive(Default)]
struct Page {
    text: String,
    samples: usize,
    histograms: usize,
    exemplars: usize,
}

async fn receive(State(args): State<Arc<Args>>, headers: HeaderMap, body: Bytes) -> Response {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_v2 = content_type.contains("proto=io.prometheus.write.v2.Request");
    let page = match read(is_v2, &body) {
        Ok(page) => page,
        Err(error) => {
            println!("# answered with 400: {error}");
            return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
        }
    };
    let version = if is_v2 { "2.0" } else { "1.0" };
    print!("# remote write {version}, {} bytes, answered with {}\n{}", body.len(), args.status.as_u16(), page.text);

    let mut answer = args.status.into_response();
    if is_v2 {
        for (kind, count) in [("samples", page.samples), ("histograms", page.histograms), ("exemplars", page.exemplars)]
        {
            let name = HeaderName::try_from(format!("x-prometheus-remote-write-{kind}-written"));
            let count = if args.status.is_success() { count } else { 0 };
            answer.headers_mut().insert(name.expect("letters and hyphens are a name"), count.into());
        }
    }
    for (name, value) in &args.header {
        answer.headers_mut().append(name, value.clone());
    }
    answer
}

fn read(is_v2: bool, body: &[u8]) -> Result<Page, Box<dyn Error>> {
    let message = snap::raw::Decoder::new().decompress_vec(body)?;
    let mut page = Page::default();
    if is_v2 {
        page.read_v2(&v2::Request::decode(&*message)?)?
    } else {
        page.read_v1(&v1::WriteRequest::decode(&*message)?)
    }
    Ok(page)
}

impl Page {
    fn read_v1(&mut self, message: &v1::WriteRequest) {
        for entry in &message.timeseries {
            let pairs = |labels: &[v1::Label]| -> Vec<(String, String)> {
                labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect()
            };
            let series = series_name(&pairs(&entry.labels));
            for sample in &entry.samples {
                self.sample(&series, sample.value, sample.timestamp);
            }
            for histogram in &entry.histograms {
                let count = match histogram.count {
                    Some(v1::histogram::Count::CountInt(count)) => count as f64,
                    Some(v1::histogram::Count::CountFloat(count)) => count,
                    None => 0.0,
                };
                self.histogram(&series, histogram.schema, count, histogram.sum, histogram.timestamp);
            }
            for exemplar in &entry.exemplars {
                self.exemplar(&series, &series_name(&pairs(&exemplar.labels)), exemplar.value, exemplar.timestamp);
            }
        }
        for family in &message.metadata {
            self.metadata(&family.metric_family_name, family.r#type().as_str_name(), &family.help);
        }
    }

    fn read_v2(&mut self, message: &v2::Request) -> Result<(), String> {
        let symbol = |place: u32| message.symbols.get(place as usize).ok_or_else(|| format!("no symbol {place}"));
        let pairs = |references: &[u32]| -> Result<Vec<(String, String)>, String> {
            let (labels, []) = references.as_chunks::<2>() else { return Err("a label without a value".into()) };
            labels.iter().map(|[name, value]| Ok((symbol(*name)?.clone(), symbol(*value)?.clone()))).collect()
        };
        for entry in &message.timeseries {
            let labels = pairs(&entry.labels_refs)?;
            let series = series_name(&labels);
            if let Some(metadata) = entry.metadata.as_ref().filter(|metadata| **metadata != v2::Metadata::default()) {
                let name = labels.iter().find(|(name, _)| name == "__name__").map_or("", |(_, value)| value);
                let kind = metadata.r#type().as_str_name().trim_start_matches("METRIC_TYPE_");
                self.metadata(name, kind, symbol(metadata.help_ref)?);
            }
            for sample in &entry.samples {
                self.sample(&series, sample.value, sample.timestamp);
            }
            for histogram in &entry.histograms {
                let count = match histogram.count {
                    Some(v2::histogram::Count::CountInt(count)) => count as f64,
                    Some(v2::histogram::Count::CountFloat(count)) => count,
                    None => 0.0,
                };
                self.histogram(&series, histogram.schema, count, histogram.sum, histogram.timestamp);
            }
            for exemplar in &entry.exemplars {
                let labels = series_name(&pairs(&exemplar.labels_refs)?);
                self.exemplar(&series, &labels, exemplar.value, exemplar.timestamp);
            }
        }
        Ok(())
    }

    fn sample(&mut self, series: &str, value: f64, timestamp: i64) {
        self.samples += 1;
        self.line(format_args!("{series} {} {timestamp}", number(value)));
    }

    fn histogram(&mut self, series: &str, schema: i32, count: f64, sum: f64, timestamp: i64) {
        self.histograms += 1;
        let (count, sum) = (number(count), number(sum));
        self.line(format_args!("{series} {{schema:{schema} count:{count} sum:{sum}}} {timestamp}"));
    }

    fn exemplar(&mut self, series: &str, labels: &str, value: f64, timestamp: i64) {
        self.exemplars += 1;
        self.line(format_args!("# EXEMPLAR {series} {labels} {} {timestamp}", number(value)));
    }

    fn metadata(&mut self, family: &str, kind: &str, help: &str) {
        self.line(format_args!("# TYPE {family} {}", kind.to_lowercase()));
        if !help.is_empty() {
            self.line(format_args!("# HELP {family} {}", help.replace('\\', "\\\\").replace('\n', "\\n")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a String takes every text");
    }
}

fn series_name(labels: &[(String, String)]) -> String {
    let name = labels.iter().find(|(name, _)| name == "__name__").map_or("", |(_, value)| value);
    let rest: Vec<String> = labels
        .iter()
        .filter(|(name, _)| name != "__name__")
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    if rest.is_empty() && !name.is_empty() { name.into() } else { format!("{name}{{{}}}", rest.join(",")) }
}

/// As Prometheus writes numbers; the end of a series is a NaN of its own.
fn number(value: f64) -> String {
    match value {
        _ if value.to_bits() == 0x7ff0_0000_0000_0002 => "NaN(stale)".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => value.to_string(),
    }
}
