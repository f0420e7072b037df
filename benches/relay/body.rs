//! What is sent: snappy bodies of remote write 1.0 whose timestamps can be changed in place.
//!
//! A body is one scrape: [`SERIES`] series x 10 labels as Kubernetes has them, one sample each, in the order of a scrape. Each set has
//! series of its own.
//!
//! Compressing costs about as much CPU as a whole relay, so it must not happen under load; sending equal bytes twice would be no
//! scrape. So a body is compressed once, and remembers which literals of the compressed stream become the bytes of timestamps. To
//! set another time is to overwrite some ten of those per block.
//!
//! Every series takes exactly [`SERIES_LEN`] bytes. Hence a sink knows the number of samples in any request, merged or cut anew, from
//! the length in front of the snappy stream: it need not decompress what it counts.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// In a body.
pub const SERIES: usize = 2000;
/// Of a series in the decompressed message, its tag and length included.
pub const SERIES_LEN: usize = 311;

/// The head of a request, but for its `Content-Length`.
pub const HEAD: &str = "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nUser-Agent: promrelay-bench\r\n\
                        Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                        X-Prometheus-Remote-Write-Version: 0.1.0\r\n";

/// Of one scrape: names x pods x devices = series.
const PODS: usize = 20;
const DEVICES: [&str; 4] = ["dm-0", "dm-1", "eth0", "eth1"];
const NAMES: usize = SERIES / PODS / DEVICES.len();
/// A sample ends its series: tag and length, tag and value, tag and time.
pub const SAMPLE_LEN: usize = 2 + 9 + 1 + TIME_LEN;
/// The varint of a time in milliseconds takes six bytes from 2004 until 2109, and the message ends with it.
pub const TIME_LEN: usize = 6;

/// One set of series, ready to be sent.
#[derive(Debug)]
pub struct Body {
    /// The head of the request and the compressed body, as they go to the wire.
    request: Vec<u8>,
    /// Where in `request` there is which byte of the timestamp.
    patches: Vec<(usize, usize)>,
    body_start: usize,
    time: i64,
}

impl Body {
    /// The body of set `number`.
    pub fn new(number: usize) -> Body {
        Body::of(scrape(number))
    }

    /// Of a message that consists of series of [`scrape`]s.
    pub fn of(mut message: Vec<u8>) -> Body {
        let time = now_ms();
        set_time(&mut message, time);
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("a body is far smaller than 4 GiB");
        let mut request = format!("{HEAD}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        let body_start = request.len();
        let patches = time_literals(&body).into_iter().map(|(at, byte)| (body_start + at, byte)).collect();
        request.extend_from_slice(&body);
        let mut made = Body { request, patches, body_start, time };
        // The one proof that matters: after the patch it decompresses to the message of that time.
        made.advance();
        let decoded = snap::raw::Decoder::new().decompress_vec(made.compressed()).expect("only literals were changed");
        set_time(&mut message, made.time);
        assert!(decoded == message, "the patch has changed something else than timestamps");
        made
    }

    /// Sets the time to now, at least a millisecond after the last one, and returns the whole request.
    pub fn advance(&mut self) -> &[u8] {
        self.advance_to(now_ms().max(self.time + 1))
    }

    /// Sets the time, in milliseconds, and returns the whole request.
    pub fn advance_to(&mut self, time: i64) -> &[u8] {
        self.time = time;
        let bytes = time_bytes(self.time);
        for &(at, byte) in &self.patches {
            self.request[at] = bytes[byte];
        }
        &self.request
    }

    /// The time of its samples.
    #[allow(dead_code, reason = "only some of the benchmarks look back")]
    pub fn time(&self) -> i64 {
        self.time
    }

    /// What follows the head.
    pub fn compressed(&self) -> &[u8] {
        &self.request[self.body_start..]
    }
}

/// Of all series of a message.
fn set_time(message: &mut [u8], time: i64) {
    let bytes = time_bytes(time);
    for series in message.chunks_exact_mut(SERIES_LEN) {
        series[SERIES_LEN - TIME_LEN..].copy_from_slice(&bytes);
    }
}

/// By the clock.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(now.as_millis()).expect("the clock is before the year 292,000,000")
}

fn time_bytes(time: i64) -> [u8; TIME_LEN] {
    std::array::from_fn(|byte| {
        let more = if byte + 1 < TIME_LEN { 0x80 } else { 0 };
        (time >> (7 * byte)) as u8 & 0x7f | more
    })
}

/// A `prometheus.WriteRequest`: the series of a set, with a time that is still to be set.
pub fn scrape(set: usize) -> Vec<u8> {
    let mut random = Random(set as u64 + 1);
    let node = format!("ip-10-{}-{}-{}", set / 250, set % 250, random.below(250));
    let pods: Vec<Pod> = (0..PODS).map(|_| Pod::new(&mut random)).collect();
    let mut message = Vec::with_capacity(SERIES * SERIES_LEN);
    for name in 0..NAMES {
        let subsystem = ["cpu", "memory", "network", "fs", "sockets"][name % 5];
        let what = ["usage", "reads", "writes", "received", "throttled", "failures", "limit"][name % 7];
        let metric = format!("container_{subsystem}_{what}_{}_total", ["bytes", "seconds", "count"][name % 3]);
        for (pod, device) in pods.iter().flat_map(|pod| DEVICES.map(|device| (pod, device))) {
            let before = message.len();
            series(&mut message, [&metric, device, &node], pod, random.value());
            assert_eq!(message.len() - before, SERIES_LEN, "all series have the same length");
        }
    }
    message
}

struct Pod {
    name: String,
    container: &'static str,
    namespace: &'static str,
    hash: String,
}

impl Pod {
    fn new(random: &mut Random) -> Pod {
        const APPS: [(&str, &str); 8] = [
            ("checkout", "shop"),
            ("cart", "shop"),
            ("inventory", "warehouse"),
            ("login", "identity"),
            ("indexer", "search"),
            ("nginx", "ingress"),
            ("coredns", "kube-dns"),
            ("collector", "telemetry"),
        ];
        let (container, namespace) = APPS[random.below(8) as usize];
        let name = format!("{container}-{:010x}-{:05x}", random.below(1 << 40), random.below(1 << 20));
        let hash = format!("{:016x}{:016x}{:016x}{:016x}", random.next(), random.next(), random.next(), random.next());
        Pod { name, container, namespace, hash }
    }
}

fn series(message: &mut Vec<u8>, [metric, device, node]: [&str; 3], pod: &Pod, value: f64) {
    // Tag and two bytes of length; tag and length, tag and value, tag and time of the sample.
    const LABELS_LEN: usize = SERIES_LEN - 3 - SAMPLE_LEN;
    let mut labels = [
        ("__name__", metric),
        ("cluster", "prod-eu-1"),
        ("container", pod.container),
        ("device", device),
        ("id", ""),
        ("instance", "10.42.17.203:10250"),
        ("job", "kubelet"),
        ("namespace", pod.namespace),
        ("node", node),
        ("pod", &pod.name),
    ];
    // The id of a container is long, and fills up what the others leave.
    let len: usize = labels.iter().map(|(name, value)| 6 + name.len() + value.len()).sum();
    let id = format!("/kubepods/{}", pod.hash);
    labels[4].1 = &id[..LABELS_LEN - len];

    tag_and_len(message, 1, SERIES_LEN - 3);
    for (name, value) in labels {
        tag_and_len(message, 1, 4 + name.len() + value.len());
        tag_and_len(message, 1, name.len());
        message.extend_from_slice(name.as_bytes());
        tag_and_len(message, 2, value.len());
        message.extend_from_slice(value.as_bytes());
    }
    tag_and_len(message, 2, SAMPLE_LEN - 2);
    message.push(1 << 3 | 1);
    message.extend_from_slice(&value.to_le_bytes());
    message.push(2 << 3);
    message.extend_from_slice(&[0; TIME_LEN]);
}

fn tag_and_len(message: &mut Vec<u8>, field: u8, len: usize) {
    message.push(field << 3 | 2);
    if len >= 0x80 {
        message.push(len as u8 | 0x80);
    }
    message.push(if len >= 0x80 { (len >> 7) as u8 } else { len as u8 });
}

/// Offsets in a compressed message that hold bytes of timestamps, with the number of the byte.
fn time_literals(compressed: &[u8]) -> Vec<(usize, usize)> {
    let sources = sources(compressed);
    let mut literals = HashMap::new();
    let role = |at: usize| (at % SERIES_LEN).checked_sub(SERIES_LEN - TIME_LEN);
    for (at, source) in sources.iter().enumerate() {
        let known = *literals.entry(*source).or_insert_with(|| role(at));
        assert_eq!(known, role(at), "a byte of a timestamp is used for something else too: choose other values");
    }
    literals.into_iter().filter_map(|(source, role)| Some((source, role?))).collect()
}

/// For every byte of a decompressed message: which literal of the compressed one it comes from, maybe by way of copies.
fn sources(compressed: &[u8]) -> Vec<usize> {
    let mut at = compressed.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let mut sources = Vec::new();
    let number =
        |at: usize, len: usize| (0..len).fold(0, |sum, byte| sum | (compressed[at + byte] as usize) << (8 * byte));
    while at < compressed.len() {
        let tag = compressed[at] as usize;
        at += 1;
        let (len, back) = match tag & 3 {
            0 => {
                let len_len = (tag >> 2).saturating_sub(59);
                let len = if len_len == 0 { tag >> 2 } else { number(at, len_len) } + 1;
                at += len_len;
                sources.extend(at..at + len);
                at += len;
                continue;
            }
            1 => ((tag >> 2 & 7) + 4, (tag >> 5) << 8 | number(at, 1)),
            2 => ((tag >> 2) + 1, number(at, 2)),
            _ => ((tag >> 2) + 1, number(at, 4)),
        };
        at += [0, 1, 2, 4][tag & 3];
        // Byte by byte: a copy may reach into what it writes.
        for _ in 0..len {
            sources.push(sources[sources.len() - back]);
        }
    }
    sources
}

/// The same numbers in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Counters: most are whole numbers, some are seconds. Never 0, which some encoders leave out.
    fn value(&mut self) -> f64 {
        match self.below(4) {
            0 => self.below(1 << 40) as f64 / 1e6 + 1.0,
            1 => 1.0,
            _ => (self.below(1 << 20) + 1) as f64,
        }
    }
}
