//! The relay's HTTP face: the listener that everything shares, and what people and programs ask about its state.
//!
//! | path | answer |
//! |---|---|
//! | `GET /-/healthy` | 200 while the process serves |
//! | `GET /-/ready` | 200 while the log takes records, else 503 and why; a bad target does not matter, but is named |
//! | `GET /metrics` | one snapshot of everything, for Prometheus |
//! | `GET /api/v1/status` | the same as JSON |
//! | `GET /` | the same for people |
//! | `/api/v1/targets/...` | what changes something (see [`admin`]) |
//! | `/api/v1/dead-letter...` | what targets refused (see [`dead_letters`]) |

pub mod admin;
pub mod dead_letters;
pub mod page;
pub mod server;
pub mod status;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};

use status::Status;

/// What the answers are made from.
pub trait Source: Send + Sync + 'static {
    /// Everything, at one moment.
    fn status(&self) -> Status;
    /// The text of a scrape, at one moment.
    fn metrics(&self) -> String;
    /// Whether requests are taken, else why not.
    ///
    /// # Errors
    /// The reason.
    fn ready(&self) -> Result<(), String>;
    /// Targets that do not take data as they should, and why: a line each.
    fn troubles(&self) -> Vec<String>;
}

/// The routes.
pub fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/-/healthy", get(async || "promrelay is healthy\n"))
        .route("/-/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(async |State(source): State<Arc<dyn Source>>| Json(source.status())))
        .route("/", get(async |State(source): State<Arc<dyn Source>>| page::render(&source.status())))
        .fallback(async || (StatusCode::NOT_FOUND, NOWHERE))
        .with_state(source)
}

const NOWHERE: &str = "there is nothing here: remote write goes to /api/v1/write; see / (for people), /metrics, /api/v1/status and /-/ready\n";

async fn ready(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    match source.ready() {
        Ok(()) => {
            let lines = source.troubles().into_iter().map(|line| line + "\n");
            (StatusCode::OK, ["promrelay is ready\n".to_owned()].into_iter().chain(lines).collect())
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")], source.metrics())
}
