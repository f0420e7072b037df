//! Sends one sample by remote write and prints the answer.
//!
//! ```sh
//! cargo run --example send -- 'up{job="demo"}' 1
//! cargo run --example send -- --protocol 2.0 --url http://127.0.0.1:9300/api/v1/write 'up{job="demo"}' 1
//! ```
//!
//! Ends with 0 when the answer was a success.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use promrelay::protocol::messages::{v1, v2};
use prost::Message;
use reqwest::StatusCode;

#[derive(Parser)]
#[command(about = "Sends one sample by remote write and prints the answer")]
struct Args {
    /// Version of remote write.
    #[arg(long, value_enum, default_value = "1.0")]
    protocol: Protocol,
    /// Where to send it.
    #[arg(long, default_value = "http://127.0.0.1:9201/api/v1/write")]
    url: String,
    /// A further header, as NAME:VALUE. May be given several times.
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// Milliseconds since 1970 [default: now].
    #[arg(long, allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// The series: 'up', or 'up{job="demo",instance="a:9100"}'.
    series: String,
    /// The value: a number, NaN, +Inf or -Inf.
    #[arg(allow_negative_numbers = true)]
    value: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    #[value(name = "1.0")]
    V1,
    #[value(name = "2.0")]
    V2,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match send(Args::parse()).await {
        Ok(status) if status.is_success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn send(args: Args) -> Result<StatusCode, Box<dyn Error>> {
    let Args { protocol, url, header, timestamp, series, value } = args;
    let labels = parse_series(&series)?;
    let timestamp = match timestamp {
        Some(timestamp) => timestamp,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?,
    };
    let (message, content_type, version) = match protocol {
        Protocol::V1 => (message_v1(labels, timestamp, value), "application/x-protobuf", "0.1.0"),
        Protocol::V2 => (
            message_v2(labels, timestamp, value),
            // No space after the semicolon: Prometheus would take the request for an empty one of 1.0.
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            "2.0.0",
        ),
    };
    let body = snap::raw::Encoder::new().compress_vec(&message)?;

    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a TLS provider is installed already")?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut request = client
        .post(url)
        .header("content-encoding", "snappy")
        .header("content-type", content_type)
        .header("user-agent", concat!("promrelay-example-send/", env!("CARGO_PKG_VERSION")))
        .header("x-prometheus-remote-write-version", version);
    for header in &header {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("not NAME:VALUE: {header}"))?;
        request = request.header(name, value.trim());
    }
    let answer = request.body(body).send().await?;

    let status = answer.status();
    println!("{status}");
    for (name, value) in answer.headers() {
        println!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let text = answer.text().await?;
    if !text.is_empty() {
        println!("\n{}", text.trim_end());
    }
    Ok(status)
}

fn message_v1(labels: Vec<(String, String)>, timestamp: i64, value: f64) -> Vec<u8> {
    let series = v1::TimeSeries {
        labels: labels.into_iter().map(|(name, value)| v1::Label { name, value }).collect(),
        samples: vec![v1::Sample { value, timestamp }],
        ..Default::default()
    };
    v1::WriteRequest { timeseries: vec![series], metadata: Vec::new() }.encode_to_vec()
}

fn message_v2(labels: Vec<(String, String)>, timestamp: i64, value: f64) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut refer = |text: String| {
        let known = symbols.iter().position(|symbol| *symbol == text);
        known.unwrap_or_else(|| {
            symbols.push(text);
            symbols.len() - 1
        }) as u32
    };
    let series = v2::TimeSeries {
        labels_refs: labels.into_iter().flat_map(|(name, value)| [refer(name), refer(value)]).collect(),
        samples: vec![v2::Sample { value, timestamp, start_timestamp: 0 }],
        ..Default::default()
    };
    v2::Request { symbols, timeseries: vec![series] }.encode_to_vec()
}

/// Labels of `name{label="value",...}`, the name as `__name__` with them, sorted. `\"`, `\\` and `\n` as in PromQL.
fn parse_series(text: &str) -> Result<Vec<(String, String)>, String> {
    let wrong = |rest: &str| format!("not a series such as up{{job=\"demo\"}}: {text} (at {rest:?})");
    let (name, mut rest) = text.split_at(text.find('{').unwrap_or(text.len()));
    let mut labels = vec![("__name__".to_string(), name.trim().to_string())];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, quoted) = rest.split_once('=').ok_or_else(|| wrong(rest))?;
            let quoted = quoted.trim_start().strip_prefix('"').ok_or_else(|| wrong(quoted))?;
            let (value, after) = parse_quoted(quoted).ok_or_else(|| wrong(quoted))?;
            labels.push((label.trim().to_string(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    if !rest.trim().is_empty() {
        return Err(wrong(rest));
    }
    // What is empty is not there: a name may also be given as a label, {__name__="..."}.
    labels.retain(|(_, value)| !value.is_empty());
    labels.sort();
    Ok(labels)
}

/// A text up to its closing quote, and what comes behind.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
}
