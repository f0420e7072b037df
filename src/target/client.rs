//! One attempt: a record's body as it was stored, sent to the target's URL.
//!
//! Redirects are not followed (after a 301 or 302 the POST would become a GET, and its 200 a silent loss), no proxy is taken from the
//! environment, nothing is repeated behind our back.

use std::error::Error;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client as Http, Response, Url, redirect, retry};

use super::backoff::parse_retry_after;
use super::outcome::{Answer, Written};
use crate::protocol::Protocol;
use crate::wal::Record;

/// How long a connection may take to be made, if the whole exchange may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a target's text is kept for the log.
const TEXT_BYTES_MAX: usize = 1024;
/// How much of an answer is read so that the connection can be used again; a longer one costs the connection.
const DRAIN_BYTES_MAX: usize = 64 << 10;

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");
const SAMPLES_WRITTEN: &str = "x-prometheus-remote-write-samples-written";
const HISTOGRAMS_WRITTEN: &str = "x-prometheus-remote-write-histograms-written";
const EXEMPLARS_WRITTEN: &str = "x-prometheus-remote-write-exemplars-written";

/// A target's HTTP client, with a pool of connections of its own.
#[derive(Debug)]
pub struct Client {
    http: Http,
    url: Url,
    retry_after_max: Duration,
}

/// There was no answer. The target may or may not have taken the request.
#[derive(Debug)]
pub struct Unanswered {
    /// The time-out passed, while connecting or later.
    pub timed_out: bool,
    /// For people.
    pub text: String,
}

impl Client {
    /// A client for `url`. The headers go with every request; the configuration has refused reserved ones (`V1-10`).
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        url: Url,
        headers: &HeaderMap,
        timeout: Duration,
        retry_after_max: Duration,
    ) -> Result<Client, reqwest::Error> {
        let mut builder = Http::builder();
        if url.scheme() == "http" {
            // A machine without any certificates is no reason not to start.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .redirect(redirect::Policy::none())
            .no_proxy()
            .retry(retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(2)
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT_TIMEOUT))
            // V1-07, V2-23.
            .user_agent(concat!("promrelay/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.clone())
            .build()?;
        Ok(Client { http, url, retry_after_max })
    }

    /// Sends a record; returns the answer and the beginning of its text.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn send(&self, record: &Record, protocol: Protocol) -> Result<(Answer, String), Unanswered> {
        let mut request = self
            .http
            .post(self.url.clone())
            .header(CONTENT_ENCODING, "snappy")
            .header(CONTENT_TYPE, protocol.content_type())
            .header(VERSION, protocol.version_header());
        for (name, value) in &record.meta.forwarded {
            // They came in as headers, so they can go out as such.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                request = request.header(name, value);
            }
        }
        let response = request.body(record.body.clone()).send().await.map_err(unanswered)?;
        let answer = self.answer(&response);
        Ok((answer, read_text(response).await))
    }

    fn answer(&self, response: &Response) -> Answer {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
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

/// The beginning of the text (V1-14: it means nothing to us), and the connection free for the next request. The status is the answer: a
/// text that is cut or never ends changes nothing about it.
async fn read_text(mut response: Response) -> String {
    let mut text = Vec::new();
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let wanted = TEXT_BYTES_MAX - text.len();
        text.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
        if read > DRAIN_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn unanswered(error: reqwest::Error) -> Unanswered {
    let timed_out = error.is_timeout();
    // The URL may hold a password, and the line names the target anyway.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Unanswered { timed_out, text }
}
