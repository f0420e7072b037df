//! Something to scrape: a counter of its own scrapes, values at the edges of `f64`, and a series that comes and goes; or
//! everything that there is ([`exposition`](crate::exposition)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::exposition::{self, Page};

/// An exporter on 127.0.0.1, inside the test.
pub struct Exporter {
    pub address: String,
    state: Arc<Exposed>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Exposed {
    scrapes: AtomicU64,
    flickering_hidden: AtomicBool,
}

impl Exporter {
    /// One with a page of text.
    pub async fn start() -> Exporter {
        Exporter::serve(get(expose)).await
    }

    /// One with everything, for scrapers that take protobuf.
    pub async fn start_with_everything() -> Exporter {
        Exporter::serve(get(expose_everything)).await
    }

    async fn serve(page: MethodRouter<Arc<Exposed>>) -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("127.0.0.1 has a free port");
        let address = listener.local_addr().expect("a listener has an address").to_string();
        let state = Arc::new(Exposed::default());
        let router = Router::new().route("/metrics", page).with_state(Arc::clone(&state));
        let server = tokio::spawn(async { axum::serve(listener, router).await.expect("axum serves for ever") });
        Exporter { address, state, server }
    }

    /// Takes the series `exporter_flickering`, or of everything `everything_flickering_seconds`, away, or brings it back. Prometheus marks it stale while it is away.
    pub fn hide_flickering(&self, hidden: bool) {
        self.state.flickering_hidden.store(hidden, Ordering::Relaxed);
    }

    /// Returns after `count` more scrapes.
    pub async fn scraped(&self, count: u64) {
        let until = self.scrapes() + count;
        while self.scrapes() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How often it was scraped so far: the last value of `exporter_scrapes_total`.
    fn scrapes(&self) -> u64 {
        self.state.scrapes.load(Ordering::Relaxed)
    }

    /// Goes away: from now on connections are refused. Returns how often it was scraped.
    pub fn leave(self) -> u64 {
        self.server.abort();
        self.scrapes()
    }
}

async fn expose_everything(State(exposed): State<Arc<Exposed>>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accept.contains(exposition::ACCEPTED) {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    let page = Page {
        scrape: exposed.scrapes.fetch_add(1, Ordering::Relaxed) + 1,
        has_any_name: accept.contains(exposition::ANY_NAME),
        hides_flickering: exposed.flickering_hidden.load(Ordering::Relaxed),
    };
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE), (CONNECTION, "close")], page.encode()).into_response()
}

async fn expose(State(exposed): State<Arc<Exposed>>) -> impl IntoResponse {
    let scrapes = exposed.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
    let mut text = format!("# TYPE exporter_scrapes_total counter\nexporter_scrapes_total {scrapes}\n");
    for value in ["NaN", "+Inf", "-Inf", "0.1", "0.3333333333333333", "1.7976931348623157e308", "5e-324"] {
        text += &format!("exporter_edge_value{{written=\"{value}\"}} {value}\n");
    }
    text += "exporter_label_value{text=\"\u{fc}n\u{ef} \\\"quoted\\\" \\\\ \\n \u{65e5}\u{672c}\"} 1\n";
    if !exposed.flickering_hidden.load(Ordering::Relaxed) {
        text += &format!("exporter_flickering {scrapes}\n");
    }
    // Connections are not kept: after `leave` none must be left on which a scrape could still succeed.
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CONNECTION, "close")], text)
}
