//! Remote read, the one way to ask Prometheus for samples that shows stale markers.
//!
//! Its messages (`prompb/remote.proto` and `prompb/types.proto` of Prometheus) are written down by hand, as far as they are
//! needed: these tests share no schema with the relay. Every `double` is declared as `fixed64`: the same bytes on the wire,
//! and no float on the way that could change the bits of a NaN.

use std::time::{Duration, SystemTime};

use prost::Message;

use crate::process::http;
use crate::samples::{Holdings, Value};

/// All that the Prometheus on 127.0.0.1:`port` holds.
pub async fn remote_read(port: u16) -> Result<Holdings, String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let every_series = Matcher { kind: Matcher::NOT_EQUAL, name: "__name__".to_owned(), value: String::new() };
    let query = Query {
        start_timestamp: 0,
        end_timestamp: (now + Duration::from_secs(3600)).as_millis() as i64,
        matchers: vec![every_series],
    };
    let request = ReadRequest { queries: vec![query] }.encode_to_vec();
    let answer = http()
        .post(format!("http://127.0.0.1:{port}/api/v1/read"))
        .header("Content-Type", "application/x-protobuf")
        .header("Content-Encoding", "snappy")
        .header("X-Prometheus-Remote-Read-Version", "0.1.0")
        .body(snap::raw::Encoder::new().compress_vec(&request).expect("a small body can be packed"))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| error.to_string())?;
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    let body = snap::raw::Decoder::new().decompress_vec(&body).expect("Prometheus answers with snappy");
    let response = ReadResponse::decode(&*body).expect("Prometheus answers with a ReadResponse");

    let series = response.results.into_iter().flat_map(|result| result.timeseries);
    Ok(series
        .map(|series| {
            let labels = series.labels.into_iter().map(|label| (label.name, label.value)).collect();
            let floats = series.samples.into_iter().map(|sample| (sample.timestamp, Value::Float(sample.value)));
            let histograms = series.histograms.into_iter().map(Histogram::into_value);
            (labels, floats.chain(histograms).collect())
        })
        .collect())
}

impl Histogram {
    fn into_value(mut self) -> (i64, Value) {
        let timestamp = std::mem::take(&mut self.timestamp);
        self.reset_hint = 0;
        (timestamp, Value::Histogram { sum: self.sum, schema: self.schema, encoded: self.encode_to_vec() })
    }
}

impl Matcher {
    const NOT_EQUAL: i32 = 1;
}

#[derive(Clone, PartialEq, Message)]
struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<Query>,
}

#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(int64, tag = "1")]
    start_timestamp: i64,
    #[prost(int64, tag = "2")]
    end_timestamp: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<Matcher>,
}

#[derive(Clone, PartialEq, Message)]
struct Matcher {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    results: Vec<QueryResult>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryResult {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(fixed64, tag = "1")]
    value: u64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(fixed64, optional, tag = "2")]
    count_float: Option<u64>,
    #[prost(fixed64, tag = "3")]
    sum: u64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(fixed64, tag = "5")]
    zero_threshold: u64,
    #[prost(uint64, optional, tag = "6")]
    zero_count_int: Option<u64>,
    #[prost(fixed64, optional, tag = "7")]
    zero_count_float: Option<u64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(fixed64, repeated, tag = "10")]
    negative_counts: Vec<u64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(fixed64, repeated, tag = "13")]
    positive_counts: Vec<u64>,
    #[prost(int32, tag = "14")]
    reset_hint: i32,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(fixed64, repeated, tag = "16")]
    custom_values: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}
