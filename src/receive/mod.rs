//! Receiving: from an upstream's request to a durable record and its answer.
//!
//! ```text
//!  POST ---> negotiate ---> read body ---> inspect -----------> append -------------> 204
//!            headers        bounded,       decompress, walk,    waits for the sync    *-Written on 2.0
//!               |           not too slow   count, validate         |    ^
//!               v              v              v      |             v    |
//!            415 400        413 503        400 413   |   503 + Retry-After
//!                                                    '---> rewrite -----' ---> 204, or 400 if something was invalid
//! ```
//!
//! A request is stored as it came unless some of its series are invalid, or it is not in order as a sender must send it. Then it is
//! written anew, once, here: what is valid is stored and acknowledged to the sample, although the answer to the request is 400 (`V1-29`,
//! `V1-30`, `V2-40`, `V2-41`, `V2-45`). A bad neighbour takes nothing with it, and nothing malformed ever reaches a target.
//!
//! # Promises
//! - With `sync = "always"` a 2xx is sent after the record is durable (`V1-39`, `V2-24`).
//! - What is stored is the body as it came, byte for byte, if it may be sent on as it is.
//! - What a 400 says was stored is durable as after a 2xx. A 503 says that nothing was (but see below), and wins (`V2-55`).
//! - A request that has not reached the writer within 10 s of its last byte is answered 503 and never appended: an upstream's own
//!   retry must not be overtaken by its late twin.
//! - A client may go away at any moment. What was not taken by the writer then is never appended; what became durable all the same
//!   is remembered (`repeats`), and its repetition acknowledged without a second append. (Who went away
//!   between our answer and its arrival is not noticed: that repetition is a second append, of the same samples.)
//! - Nothing is appended twice for one answer; memory is bounded by a budget of bytes.
//!
//! This module never meets a target: they have the log in common and nothing else.

mod body;
mod complaints;
mod inspect;
mod negotiate;
mod rejection;
mod repeats;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use tokio::time::Instant;

use body::{Budget, Share};
use complaints::Complaints;
use inspect::Canonical;
use rejection::{Invalid, Rejection};
use repeats::{Fingerprint, Repeats, Waiting};

use crate::clock::now_ms;
use crate::metrics::ReceiveMetrics;
use crate::protocol::labels::Limits;
use crate::protocol::{Protocol, SeenLabels, Summary};
use crate::wal::record::{Content, Counts, Header, Kind, Meta, NewRecord, TimeRange};
use crate::wal::{AppendError, Appender};

/// The paths that users of other receivers have in their configurations (`V1-03`, `V2-08`).
pub const PATHS: [&str; 6] =
    ["/api/v1/write", "/api/v1/push", "/api/prom/push", "/api/v1/receive", "/receive", "/write"];

/// How long a request may wait for the writer to come to it.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// While a larger request is inspected, others are moved off this thread: half a millisecond is what they may be made to wait.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// How many series' labels are remembered as valid; eight bytes each.
const SEEN_SERIES: usize = 512 << 10;

/// How the receiver is configured; checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a body as sent.
    pub body_bytes_max: u64,
    /// Bytes of a body once decompressed.
    pub decoded_bytes_max: u64,
    /// Bytes of requests being worked on, over all.
    pub in_flight_bytes_max: u64,
    /// Series of a request.
    pub series_max: Option<usize>,
    /// Symbols of a 2.0 request.
    pub symbols_max: Option<usize>,
    /// What each series must keep to.
    pub label_limits: Limits,
    /// Headers that are stored with a request and sent on with it, lower case.
    pub forward_headers: Vec<HeaderName>,
}

/// The address that a request came from; put into its extensions by who accepts connections.
#[derive(Clone, Copy, Debug)]
pub struct Sender(pub IpAddr);

/// See the module.
#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    appender: std::sync::Mutex<Option<Appender>>,
    budget: Budget,
    /// Held by the one rewriting for which the budget has no room.
    beyond_budget: tokio::sync::Mutex<()>,
    seen: SeenLabels,
    repeats: Repeats,
    complaints: Complaints,
    metrics: ReceiveMetrics,
    is_closed: AtomicBool,
}

impl Receiver {
    /// A receiver that appends to a log.
    #[must_use]
    pub fn new(settings: Settings, appender: Appender, metrics: ReceiveMetrics) -> Arc<Receiver> {
        Arc::new(Receiver {
            budget: Budget::new(settings.in_flight_bytes_max),
            beyond_budget: tokio::sync::Mutex::default(),
            seen: SeenLabels::within(settings.label_limits, SEEN_SERIES),
            repeats: Repeats::default(),
            complaints: Complaints::default(),
            appender: std::sync::Mutex::new(Some(appender)),
            is_closed: AtomicBool::new(false),
            settings,
            metrics,
        })
    }

    /// From now on requests are answered 503, and nothing more reaches the log.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.appender.lock().expect("no holder of this lock panics").take();
    }

    /// Bytes of requests being worked on.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// The routes.
    pub fn router(self: &Arc<Self>) -> Router {
        PATHS
            .iter()
            .fold(Router::new(), |router, path| router.route(path, post(write).fallback(method_not_allowed)))
            .with_state(self.clone())
    }

    async fn accept(&self, protocol: Protocol, request: Request) -> Result<Summary, Rejection> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Rejection::ShuttingDown);
        }
        let sender = request.extensions().get::<Sender>().map(|sender| sender.0);
        let meta = Meta { forwarded: self.forwarded(request.headers())?, sender };
        let (body, share) = body::read(request.into_body(), self.settings.body_bytes_max, &self.budget).await?;
        let deadline = Instant::now() + APPEND_TIMEOUT;
        let received_ms = now_ms();
        let decoded_len = inspect::decoded_len(&body, self.settings.decoded_bytes_max)?;
        let arrived = Arrived { protocol, meta, body, share, decoded_len, received_ms, deadline };
        let summary = self.inspect(&arrived).await?;
        if let Err(rejection) = self.within_limits(&summary) {
            self.complain(sender, &rejection);
            return Err(rejection);
        }
        if summary.is_canonical && summary.offences.count() == 0 {
            // An empty request asks whether we are here; there is nothing to deliver.
            if decoded_len > 0 {
                self.store(arrived, None, &summary).await?;
            }
            return Ok(summary);
        }
        self.store_canonical(arrived, summary).await
    }

    /// Stores what is valid of a request, in order.
    async fn store_canonical(&self, arrived: Arrived, mut summary: Summary) -> Result<Summary, Rejection> {
        let (protocol, sender) = (arrived.protocol, arrived.meta.sender);
        let canonical = self.rewrite(&arrived, &mut summary).await?;
        let offences = summary.offences;
        let stored = canonical.summary.clone();
        let dropped = canonical.dropped;
        // Without series and metadata nothing is left but what nobody knows.
        if stored.series > 0 || stored.metadata > 0 {
            self.store(arrived, Some(canonical), &stored).await?;
            self.metrics.rewritten(protocol.as_str());
        }
        if offences.count() == 0 {
            return Ok(stored);
        }
        let samples = dropped.samples + dropped.histograms;
        self.metrics.invalid(protocol.as_str(), dropped.series, samples);
        let rejection = Rejection::Invalid(Box::new(Invalid { offences, samples, stored }));
        self.complain(sender, &rejection);
        Err(rejection)
    }

    fn within_limits(&self, summary: &Summary) -> Result<(), Rejection> {
        let Settings { series_max, symbols_max, .. } = self.settings;
        for (what, count, limit, key) in [
            ("series", summary.series, series_max, "server.max_series"),
            ("symbols", summary.symbols, symbols_max, "server.max_symbols"),
        ] {
            if let Some(limit) = limit.filter(|limit| count as usize > *limit) {
                return Err(Rejection::TooMany { what, count, limit, key });
            }
        }
        Ok(())
    }

    /// Whoever runs the relay must be able to find who sends what is not taken.
    fn complain(&self, sender: Option<IpAddr>, rejection: &Rejection) {
        if let Some(requests) = self.complaints.is_due(sender, Instant::now()) {
            let sender = sender.map_or_else(|| "unknown".to_owned(), |sender| sender.to_string());
            tracing::warn!(%sender, requests, %rejection, "an upstream sends what cannot be stored");
        }
    }

    fn forwarded(&self, headers: &HeaderMap) -> Result<Vec<(String, Vec<u8>)>, Rejection> {
        let mut forwarded = Vec::new();
        for name in &self.settings.forward_headers {
            for value in headers.get_all(name) {
                if value.len() > Meta::VALUE_LEN_MAX {
                    return Err(Rejection::HeaderTooLong { name: name.to_string(), limit: Meta::VALUE_LEN_MAX });
                }
                forwarded.push((name.to_string(), value.as_bytes().to_vec()));
            }
        }
        Ok(forwarded)
    }

    async fn inspect(&self, arrived: &Arrived) -> Result<Summary, Rejection> {
        let Arrived { protocol, body, decoded_len, .. } = arrived;
        // The decompressed bytes are part of the budget as long as they are there.
        let _share = self.budget.share(*decoded_len)?;
        let limit = self.settings.decoded_bytes_max;
        let inspect = || inspect::inspect(body, *decoded_len, *protocol, &self.seen, limit);
        if *decoded_len <= INLINE_BYTES_MAX { inspect() } else { tokio::task::block_in_place(inspect) }
    }

    async fn rewrite(&self, arrived: &Arrived, inspected: &mut Summary) -> Result<Canonical, Rejection> {
        let Arrived { protocol, body, decoded_len, deadline, .. } = arrived;
        // Decompressed, rewritten, compressed. The least budget has no room for that beside the body of the largest request, which must pass
        // all the same: what does not fit goes beyond it, but one at a time.
        let _share = self.budget.share(3 * decoded_len).ok();
        let _alone = match _share {
            Some(_) => None,
            None => Some(tokio::time::timeout_at(*deadline, self.beyond_budget.lock()).await.map_err(|_| busy())?),
        };
        let limit = self.settings.decoded_bytes_max;
        let mut rewrite = || inspect::rewrite(body, *decoded_len, *protocol, &self.seen, limit, inspected);
        // It takes several times as long as to inspect.
        if *decoded_len <= INLINE_BYTES_MAX / 4 { rewrite() } else { tokio::task::block_in_place(rewrite) }
    }

    /// Puts a request into the log, or what is canonical of it; unless that was done a moment ago.
    async fn store(&self, arrived: Arrived, canonical: Option<Canonical>, summary: &Summary) -> Result<(), Rejection> {
        if self.is_repeated(&arrived).await? {
            return Ok(());
        }
        let Arrived { protocol, meta, body, mut share, decoded_len, received_ms, deadline } = arrived;
        // A repetition is the same as it came, whatever was stored of it.
        match canonical {
            None => {
                let record = NewRecord::new(content(protocol, summary, decoded_len), &meta, body.clone(), received_ms);
                let fingerprint = move || Fingerprint::of(protocol, &meta, &body);
                self.append(record, share, fingerprint, deadline).await
            }
            Some(Canonical { body: stored, decoded_len, .. }) => {
                // Only one of the bodies stays.
                share.grow_to(stored.len() as u64, &self.budget)?;
                let fingerprint = Fingerprint::of(protocol, &meta, &body);
                drop(body);
                let record = NewRecord::new(content(protocol, summary, decoded_len), &meta, stored, received_ms);
                self.append(record, share, move || fingerprint, deadline).await
            }
        }
    }

    /// Whether this very request became durable a moment ago, when its upstream had already gone.
    async fn is_repeated(&self, arrived: &Arrived) -> Result<bool, Rejection> {
        if self.repeats.is_empty() {
            return Ok(false);
        }
        let fingerprint = Fingerprint::of(arrived.protocol, &arrived.meta, &arrived.body);
        let known = tokio::time::timeout_at(arrived.deadline, self.repeats.is_durable(fingerprint)).await;
        let is_known = known.map_err(|_| busy())?;
        if is_known {
            self.metrics.repeated();
        }
        Ok(is_known)
    }

    /// Waits until the record is appended, or is certain never to be.
    async fn append(
        &self,
        record: NewRecord,
        share: Share,
        fingerprint: impl Fn() -> Fingerprint,
        deadline: Instant,
    ) -> Result<(), Rejection> {
        let ticket = {
            let appender = self.appender.lock().expect("no holder of this lock panics");
            appender.as_ref().ok_or(Rejection::ShuttingDown)?.append(record, Box::new(share))
        };
        let mut waiting = Waiting::new(ticket, fingerprint, self.repeats.clone());
        let outcome = match tokio::time::timeout_at(deadline, waiting.ticket().outcome()).await {
            Ok(outcome) => outcome,
            // The writer has it: it is durable or failed soon, and the answer must be true.
            Err(_) if !waiting.ticket().withdraw() => waiting.ticket().outcome().await,
            Err(_) => Err(AppendError::Withdrawn),
        };
        waiting.answered();
        match outcome {
            Ok(_) => Ok(()),
            Err(AppendError::Withdrawn) => Err(busy()),
            Err(AppendError::Closed) => Err(Rejection::ShuttingDown),
            Err(error) => Err(Rejection::Log(error)),
        }
    }
}

/// A request whose body is here.
struct Arrived {
    protocol: Protocol,
    meta: Meta,
    body: Bytes,
    share: Share,
    decoded_len: u64,
    received_ms: i64,
    /// When it must have reached the writer.
    deadline: Instant,
}

fn busy() -> Rejection {
    Rejection::Busy { seconds: APPEND_TIMEOUT.as_secs() }
}

fn content(protocol: Protocol, summary: &Summary, decoded_len: u64) -> Content {
    Content {
        kind: match protocol {
            Protocol::V1 => Kind::Write1,
            Protocol::V2 => Kind::Write2,
        },
        flags: if summary.has_lone_exemplars { Header::FLAG_LONE_EXEMPLARS } else { 0 },
        counts: Counts {
            samples: summary.samples,
            histograms: summary.histograms,
            exemplars: summary.exemplars,
            series: summary.series,
            metadata: summary.metadata,
        },
        times: TimeRange { min: summary.timestamp_min, max: summary.timestamp_max },
        decoded_len: u32::try_from(decoded_len).expect("snappy declares at most 32 bits"),
    }
}

async fn write(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let protocol = match negotiate::negotiate(request.headers()) {
        Ok(protocol) => protocol,
        Err(rejection) => {
            receiver.metrics.answered(None, rejection.status().as_u16());
            return rejected(&rejection);
        }
    };
    let result = receiver.accept(protocol, request).await;
    let (mut response, written) = match &result {
        // V1-13, V2-25.
        Ok(summary) => (StatusCode::NO_CONTENT.into_response(), summary.written()),
        Err(rejection) => {
            tracing::debug!(%rejection, status = rejection.status().as_u16(), "rejected a request, or a part of it");
            (rejected(rejection), rejection.written())
        }
    };
    let [samples, histograms, _] = written;
    receiver.metrics.samples(protocol.as_str(), u64::from(samples) + u64::from(histograms));
    receiver.metrics.answered(Some(protocol.as_str()), response.status().as_u16());
    // V2-31: on every answer to 2.0, failures included. On 1.0 they would make Prometheus report losses that are none.
    // V2-27: what is not stored is not counted, and then the answer is no 2xx. V2-32: one number each.
    if protocol == Protocol::V2 {
        for (name, count) in WRITTEN.iter().zip(written) {
            response.headers_mut().insert(name.clone(), HeaderValue::from(count));
        }
    }
    response
}

const WRITTEN: [HeaderName; 3] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
    HeaderName::from_static("x-prometheus-remote-write-exemplars-written"),
];

fn rejected(rejection: &Rejection) -> Response {
    let mut response = (rejection.status(), Body::from(rejection.text())).into_response();
    let headers = response.headers_mut();
    headers.insert(axum::http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(seconds) = rejection.retry_after(fastrand::f64()) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn method_not_allowed(State(receiver): State<Arc<Receiver>>) -> impl IntoResponse {
    receiver.metrics.answered(None, 405);
    (StatusCode::METHOD_NOT_ALLOWED, [("allow", "POST")], "remote write is sent with POST\n")
}
