//! Remote write requests as an upstream makes them.

use bytes::Bytes;
use promrelay::protocol::messages::{v1, v2};
use prost::Message;

/// Timestamp of number 0 of a numbered series, in ms since 1970.
pub const FIRST_TIMESTAMP: i64 = 1_769_850_000_000;

/// The two versions of remote write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    V1,
    V2,
}

impl Protocol {
    pub const ALL: [Protocol; 2] = [Protocol::V1, Protocol::V2];

    pub fn content_type(self) -> &'static str {
        match self {
            Protocol::V1 => "application/x-protobuf",
            Protocol::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    pub fn version(self) -> &'static str {
        match self {
            Protocol::V1 => "0.1.0",
            Protocol::V2 => "2.0.0",
        }
    }
}

/// A request that can be said in both versions: series with float samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    series: Vec<Series>,
}

/// Labels, and samples as time and value.
type Series = (Vec<(String, String)>, Vec<(i64, f64)>);

impl Request {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a series; labels are sorted here.
    pub fn series(mut self, labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Self {
        let mut labels: Vec<_> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        labels.sort();
        self.series.push((labels, samples.to_vec()));
        self
    }

    /// Adds number `number` of a numbered series: time and value grow with the number.
    pub fn numbered(self, series: &str, number: u64) -> Self {
        let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
        self.series(&[("__name__", "numbered"), ("series", series)], &[sample])
    }

    pub fn samples(&self) -> usize {
        self.series.iter().map(|(_, samples)| samples.len()).sum()
    }

    pub fn v1(&self) -> v1::WriteRequest {
        let timeseries = self.series.iter().map(|(labels, samples)| v1::TimeSeries {
            labels: labels.iter().map(|(name, value)| v1::Label { name: name.clone(), value: value.clone() }).collect(),
            samples: samples.iter().map(|&(timestamp, value)| v1::Sample { value, timestamp }).collect(),
            ..Default::default()
        });
        v1::WriteRequest { timeseries: timeseries.collect(), metadata: Vec::new() }
    }

    pub fn v2(&self) -> v2::Request {
        let mut symbols = vec![String::new()];
        let mut refer = |text: &String| {
            let known = symbols.iter().position(|symbol| symbol == text);
            let place = known.unwrap_or_else(|| {
                symbols.push(text.clone());
                symbols.len() - 1
            });
            u32::try_from(place).unwrap()
        };
        let timeseries = self.series.iter().map(|(labels, samples)| v2::TimeSeries {
            labels_refs: labels.iter().flat_map(|(name, value)| [refer(name), refer(value)]).collect(),
            samples: samples
                .iter()
                .map(|&(timestamp, value)| v2::Sample { value, timestamp, start_timestamp: 0 })
                .collect(),
            ..Default::default()
        });
        let timeseries = timeseries.collect();
        v2::Request { symbols, timeseries }
    }

    /// The message, encoded.
    pub fn encode(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::V1 => self.v1().encode_to_vec(),
            Protocol::V2 => self.v2().encode_to_vec(),
        }
    }

    /// The message, encoded and compressed.
    pub fn post(&self, protocol: Protocol) -> Post {
        Post { protocol, body: snappy(&self.encode(protocol)) }
    }

    /// As [`post`](Self::post), but every byte of the message is to be found in the body: snappy may keep it as it is.
    pub fn literal_post(&self, protocol: Protocol) -> Post {
        Post { protocol, body: snappy_literal(&self.encode(protocol)) }
    }
}

/// One HTTP request to a receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    pub protocol: Protocol,
    pub body: Bytes,
}

impl Post {
    pub async fn send(&self, client: &reqwest::Client, url: &str) -> reqwest::Result<reqwest::Response> {
        let request = client
            .post(url)
            .header("content-encoding", "snappy")
            .header("content-type", self.protocol.content_type())
            .header("user-agent", "promrelay-test/1")
            .header("x-prometheus-remote-write-version", self.protocol.version());
        request.body(self.body.clone()).send().await
    }
}

/// One sample of a numbered series as a request.
pub fn numbered(protocol: Protocol, series: &str, number: u64) -> Post {
    Request::new().numbered(series, number).post(protocol)
}

/// Text that does not compress.
pub fn noise(random: &mut fastrand::Rng, len: usize) -> String {
    (0..len).map(|_| random.alphanumeric()).collect()
}

/// Compresses in snappy's block format.
pub fn snappy(message: &[u8]) -> Bytes {
    snap::raw::Encoder::new().compress_vec(message).unwrap().into()
}

/// Snappy's block format without any compression: the length, then literals.
pub fn snappy_literal(message: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(message.len() + 16);
    let mut len = message.len();
    while len >= 0x80 {
        body.push(len as u8 | 0x80);
        len >>= 7;
    }
    body.push(len as u8);
    for literal in message.chunks(1 << 16) {
        body.push(61 << 2); // a literal whose length less one is in the next two bytes
        body.extend(u16::try_from(literal.len() - 1).unwrap().to_le_bytes());
        body.extend(literal);
    }
    body.into()
}
