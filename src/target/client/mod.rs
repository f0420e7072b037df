//! One attempt: a request's body, sent with POST to the target's URL, whole as it is configured (`V1-02`, `V1-44`, `V2-07`). And the connections for it:
//! TLS, and what the URL says of a user (`V1-48`).
//!
//! ```text
//!  Request --> generation  is the current one over? then a new one: new connections, the next address
//!          --> pool        an idle connection of it (HTTP/1.1, one request after the other), else a new one
//!               '-> resolver   the name looked up again, the addresses in turn
//!          --> Answered    status, headers, the beginning of the text
//!          '-> Unanswered  why, and whether the request may have arrived nevertheless; the generation is spent
//! ```
//!
//! Redirects are not followed (after a 301 or 302 the POST would become a GET, and its 200 a silent loss), no proxy is taken from the
//! environment, nothing is repeated behind our back. (One thing looks like it: a request that finds its idle connection closed
//! before anything of it was written goes on a new one.)
//!
//! # An answer before the whole request was sent
//! A target may refuse a body (413) before it has read it, and close. hyper gives an answer on as soon as its head is there, whatever is
//! still unsent, and looks for it each time before it writes. So the answer is seen if the target reads on for a while
//! before it closes (most servers do), and if hyper is waiting for room to write when it comes. It is lost, and the attempt
//! [`Kind::Reset`], if the target closes at once while hyper writes (over loopback: one of 20 with a body of 1 MiB).
//! The connection is not used again.

mod body;
mod generation;
mod resolver;
mod unanswered;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Body, Client as Http, Response, Url, redirect, retry};
use tokio::time::{Instant, timeout};

use super::backoff::parse_retry_after;
use super::outcome::{Answer, Written};
use crate::protocol::Protocol;
use crate::protocol::text::is_unsafe;
use body::WatchedBody;
use generation::{Generations, age};
pub use resolver::LookUp;
use resolver::{GenerationResolver, Offer, Resolver};
pub use unanswered::{Kind, Unanswered};

/// How much of a target's text is kept for the log.
const TEXT_BYTES_MAX: usize = 1024;
/// How long a target's text is waited for, once its status is there.
const TEXT_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of an answer is read so that the connection can be used again; a longer one costs the connection.
const DRAIN_BYTES_MAX: usize = 64 << 10;

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");
const SAMPLES_WRITTEN: &str = "x-prometheus-remote-write-samples-written";
const HISTOGRAMS_WRITTEN: &str = "x-prometheus-remote-write-histograms-written";
const EXEMPLARS_WRITTEN: &str = "x-prometheus-remote-write-exemplars-written";

/// How a target's connections are made and kept.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Connections are replaced when they are about this old (a fifth more or less), so that a changed address is found and every
    /// backend behind a name gets its share. Default: 60 s.
    pub max_age: Duration,
    /// Most idle connections that are kept: as many as there are requests at a time. Default: 8.
    pub max_idle: usize,
    /// How long a connection may take to be made, all addresses and the TLS handshake included; never longer than the request
    /// that it is made for. Default: 10 s.
    pub connect_timeout: Duration,
    /// Finds the addresses of the URL's name. Default: the system's resolver.
    pub look_up: LookUp,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            max_age: Duration::from_secs(60),
            max_idle: 8,
            connect_timeout: Duration::from_secs(10),
            look_up: LookUp::system(),
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Compressed, as it goes over the wire.
    pub body: Bytes,
    /// What the body is.
    pub protocol: Protocol,
    /// Headers that came with the data, as in [`crate::wal::record::Meta::forwarded`].
    pub forwarded: &'a [(String, Vec<u8>)],
    /// For the whole exchange.
    pub timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Status and headers.
    pub answer: Answer,
    /// The beginning of the target's text.
    pub text: String,
    /// From the beginning of the attempt until the status was there, connecting included.
    pub took: Duration,
}

/// A target's HTTP client, with a pool of connections of its own.
#[derive(Debug)]
pub struct Client {
    url: Url,
    headers: HeaderMap,
    retry_after_max: Duration,
    connections: Connections,
    resolver: Arc<Resolver>,
    generations: Mutex<Generations<Generation>>,
}

/// Connections that were made together.
#[derive(Debug)]
struct Generation {
    http: Http,
    /// Until the request that begins it takes it.
    offer: Option<Offer>,
}

/// What an attempt goes with.
struct Attempt {
    http: Http,
    generation: u64,
    offer: Option<Offer>,
}

impl Client {
    /// A client for `url`. The headers go with every request; the configuration has refused reserved ones (`V1-10`).
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        url: Url,
        headers: HeaderMap,
        retry_after_max: Duration,
        connections: Connections,
    ) -> Result<Client, reqwest::Error> {
        let resolver = Arc::new(Resolver::new(connections.look_up.clone(), fastrand::f64()));
        let first = Generation::new(&url, &headers, &connections, &resolver)?;
        let until = Instant::now() + age(connections.max_age, fastrand::f64());
        let generations = Mutex::new(Generations::new(first, until));
        Ok(Client { url, headers, retry_after_max, connections, resolver, generations })
    }

    /// Sends a request; returns the answer and the beginning of its text.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn send(&self, request: Request<'_>) -> Result<Answered, Unanswered> {
        let begun = Instant::now();
        let attempt = self.begin(begun, fastrand::f64());
        let (body, watch) = WatchedBody::new(request.body);
        let mut http = attempt
            .http
            .post(self.url.clone())
            .timeout(request.timeout)
            // V1-05, V2-09, V2-11, V2-12.
            .header(CONTENT_ENCODING, "snappy")
            .header(CONTENT_TYPE, request.protocol.content_type())
            .header(VERSION, request.protocol.version_header());
        for (name, value) in request.forwarded {
            // They came in as headers, so they can go out as such.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                http = http.header(name, value);
            }
        }
        match http.body(Body::wrap(body)).send().await {
            Ok(response) => {
                let took = begun.elapsed();
                self.learn(&attempt, response.remote_addr());
                let answer = self.answer(&response);
                if is_trouble(&answer) {
                    self.generations().spend(attempt.generation);
                }
                let text = read_text(response, TEXT_TIMEOUT.min(request.timeout.saturating_sub(took))).await;
                Ok(Answered { answer, text, took })
            }
            Err(error) => {
                self.generations().spend(attempt.generation);
                let unanswered = Unanswered::new(error, watch.close());
                if !unanswered.may_have_arrived {
                    self.learn(&attempt, None);
                }
                Err(unanswered)
            }
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations<Generation>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current generation, or the next one if that is over.
    fn begin(&self, now: Instant, random: f64) -> Attempt {
        let mut generations = self.generations();
        if generations.is_over(now) {
            let until = now + age(self.connections.max_age, random);
            match Generation::new(&self.url, &self.headers, &self.connections, &self.resolver) {
                Ok(next) => generations.replace(next, until),
                // It could be made at the start. Perhaps the system's certificates are being replaced just now.
                Err(_) => generations.prolong(until),
            }
        }
        let (current, generation) = generations.current();
        Attempt { http: current.http.clone(), generation, offer: current.offer.take() }
    }

    fn learn(&self, attempt: &Attempt, reached: Option<SocketAddr>) {
        if let Some(offer) = &attempt.offer {
            self.resolver.learn(offer, reached, Instant::now());
        }
    }

    fn answer(&self, response: &Response) -> Answer {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        // V2-32: what is no number is unknown.
        let count = |name| header(name)?.trim().parse().ok();
        let retry_after = header(RETRY_AFTER.as_str())
            .and_then(|value| parse_retry_after(value, SystemTime::now(), self.retry_after_max));
        Answer {
            status: response.status().as_u16(),
            written: Written {
                samples: count(SAMPLES_WRITTEN),
                histograms: count(HISTOGRAMS_WRITTEN),
                exemplars: count(EXEMPLARS_WRITTEN),
            },
            is_html: header(CONTENT_TYPE.as_str()).is_some_and(is_html),
            retry_after,
        }
    }
}

fn is_html(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/html"))
}

/// The next request had better go elsewhere. A target that names a pause is not one of a kind that another backend would do better.
fn is_trouble(answer: &Answer) -> bool {
    answer.status >= 500 && !(answer.status == 503 && answer.retry_after.is_some())
}

impl Generation {
    fn new(
        url: &Url,
        headers: &HeaderMap,
        connections: &Connections,
        resolver: &Arc<Resolver>,
    ) -> Result<Generation, reqwest::Error> {
        let (resolver, offer) = GenerationResolver::new(resolver.clone());
        let mut builder = Http::builder();
        if url.scheme() == "http" {
            // A machine without any certificates is no reason not to start.
            builder = builder.tls_certs_only([]);
        }
        #[cfg(target_os = "linux")]
        {
            // A target that takes its time to read is the request's time-out's business.
            builder = builder.tcp_user_timeout(None);
        }
        let http = builder
            .redirect(redirect::Policy::none())
            .no_proxy()
            .retry(retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .dns_resolver(resolver)
            .connect_timeout(connections.connect_timeout)
            .pool_max_idle_per_host(connections.max_idle)
            // The generation ends them, and no timer wakes an idle target.
            .pool_idle_timeout(None)
            // V1-07, V2-23.
            .user_agent(concat!("promrelay/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.clone())
            .build()?;
        Ok(Generation { http, offer: Some(offer) })
    }
}

/// The beginning of the text (V1-14, V2-26: it is for people; `lone_exemplars` alone looks into it), and the connection free for the next request. The status is the answer: a
/// text that is cut or never ends changes nothing about it, it costs the connection.
async fn read_text(mut response: Response, within: Duration) -> String {
    let mut text = Vec::new();
    let mut read = 0;
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            let wanted = TEXT_BYTES_MAX - text.len();
            text.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
            if read > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // What came in time is kept.
    let _ = timeout(within, reading).await;
    // One line, and nothing that a terminal would obey.
    let text = String::from_utf8_lossy(&text);
    text.trim().chars().map(|c| if is_unsafe(c) { ' ' } else { c }).collect()
}
