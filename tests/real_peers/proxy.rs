//! An HTTP proxy before a target, that can be told to answer in its place.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use crate::process::http_from;

/// Larger than any request a relay makes here.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Where a redirect points to: a page that is fine with everything. A relay that followed there would believe that its
/// data was taken.
const LANDING: &str = "/landing";

/// A proxy on 127.0.0.1, inside the test, as long as the test's runtime.
pub struct Proxy {
    port: u16,
    state: Arc<Shared>,
}

struct Shared {
    target_port: u16,
    client: reqwest::Client,
    /// The status to answer with; 0 to pass requests on.
    answer: AtomicU16,
    answered: AtomicU64,
    followed: AtomicU64,
}

impl Proxy {
    /// Passes requests on to 127.0.0.1:`target_port`.
    pub async fn start(target_port: u16) -> Proxy {
        Proxy::start_from(None, target_port).await
    }

    /// The same, from this address of this machine.
    pub async fn start_from(source: Option<IpAddr>, target_port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("127.0.0.1 has a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let state = Arc::new(Shared {
            target_port,
            client: http_from(source),
            answer: AtomicU16::new(0),
            answered: AtomicU64::new(0),
            followed: AtomicU64::new(0),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&state));
        tokio::spawn(async { axum::serve(listener, router).await.expect("axum serves for ever") });
        Proxy { port, state }
    }

    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    /// From now on answers `status` to everything, itself.
    pub fn answer(&self, status: StatusCode) {
        self.state.answered.store(0, Ordering::Relaxed);
        self.state.answer.store(status.as_u16(), Ordering::Relaxed);
    }

    /// From now on passes requests on again.
    pub fn pass(&self) {
        self.state.answer.store(0, Ordering::Relaxed);
    }

    /// How many requests it answered itself since [`answer`](Self::answer) was called.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// How many redirects were followed.
    pub fn followed(&self) -> u64 {
        self.state.followed.load(Ordering::Relaxed)
    }
}

async fn handle(State(state): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path() == LANDING {
        state.followed.fetch_add(1, Ordering::Relaxed);
        return StatusCode::OK.into_response();
    }
    if let Ok(status) = StatusCode::from_u16(state.answer.load(Ordering::Relaxed)) {
        state.answered.fetch_add(1, Ordering::Relaxed);
        let mut answer = status.into_response();
        if status.is_redirection() {
            answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static(LANDING));
        }
        return answer;
    }
    pass_on(&state, request).await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}

async fn pass_on(state: &Shared, request: Request) -> Result<Response, reqwest::Error> {
    let (mut head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    for of_this_connection in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        head.headers.remove(of_this_connection);
    }
    let method = if head.method == Method::POST { Method::POST } else { Method::GET };
    let url = format!("http://127.0.0.1:{}{}", state.target_port, head.uri);
    let answer = state.client.request(method, url).headers(head.headers).body(body).send().await?;

    let mut passed = Response::new(Body::empty());
    *passed.status_mut() = answer.status();
    for (name, value) in answer.headers() {
        if ![header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
            passed.headers_mut().append(name, value.clone());
        }
    }
    *passed.body_mut() = Body::from(answer.bytes().await?);
    Ok(passed)
}
