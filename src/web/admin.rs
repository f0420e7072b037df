//! What changes something: only where the configuration allows it (`server.admin`), for whoever reaches the listener may ask for it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/targets/{name}/seek?to=-2h` | what the seek would mean; changes nothing, and is always allowed |
//! | `POST /api/v1/targets/{name}/seek` with `{"to": "-2h"}` | the target is moved |
//! | `POST /api/v1/targets/{name}/forget` with `{}` | its savepoint is deleted, and what it is owed is given up |
//! | `POST /api/v1/targets/{name}/pause`, `/resume` with `{}` | nothing is sent to it, or it goes on; remembered across restarts |
//! | `POST /api/v1/targets/{name}/accept-refusals` with `{}` | what it refuses is believed, until it accepts something |
//!
//! What targets refused for good is under `/api/v1/dead-letter` (see [`dead_letters`](super::dead_letters)).
//!
//! Errors are `{"error": "..."}`: 400 for what cannot be understood, 403 without `server.admin`, 404 for a name that is not there, 409 for
//! what makes no sense for it: nothing is sent to an orphan anyway.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::dead_letters::{Dropped, Resent, Which};
use crate::dead_letter::{Listing, Shown};

/// What a move means, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose.
    pub target: String,
    /// What is settled before it.
    pub from: u64,
    /// What is settled behind it.
    pub to: u64,
    /// Positions between the two.
    pub records: u64,
    /// Samples that will be sent again.
    pub replayed_samples: u64,
    /// Samples that will not be sent.
    pub skipped_samples: u64,
}

impl Plan {
    /// Nothing changes.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.from == self.to
    }
}

/// Whether a target is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Which.
    pub target: String,
    /// Nothing is sent to it.
    pub paused: bool,
}

/// A target is believed what it refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Believed {
    /// Which.
    pub target: String,
    /// Until it accepts something.
    pub accepts_refusals: bool,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing of this name.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// It makes no sense for this target.
    #[error("{0}")]
    Senseless(String),
    /// The configuration does not allow it.
    #[error("this needs server.admin = true in the configuration")]
    Forbidden,
    /// The request is not what is asked for.
    #[error("{text}")]
    Malformed {
        /// The answer's status.
        status: u16,
        /// What is wrong with it.
        text: String,
    },
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
}

/// An answer in the making.
pub type Answer<T> = BoxFuture<'static, Result<T, Refusal>>;

/// Who carries it out.
pub trait Admin: Send + Sync + 'static {
    /// What a seek would mean.
    fn plan_seek(self: Arc<Self>, name: String, to: String) -> Answer<Plan>;
    /// Moves a target, whether the answer is waited for or not; what that meant.
    fn seek(self: Arc<Self>, name: String, to: String) -> Answer<Plan>;
    /// Forgets a target, whether the answer is waited for or not; what it was owed.
    fn forget(self: Arc<Self>, name: String) -> Answer<Plan>;
    /// Stops a target or lets it go on, durably.
    fn pause(self: Arc<Self>, name: String, is_paused: bool) -> Answer<Paused>;
    /// Has a target believed what it refuses, until it accepts something.
    fn accept_refusals(self: Arc<Self>, name: String) -> Answer<Believed>;
    /// What was refused, by everyone or by one target.
    fn dead_letter_list(self: Arc<Self>, target: Option<String>) -> Answer<Listing>;
    /// One entry, with its body if asked for.
    fn dead_letter_show(self: Arc<Self>, id: u64, with_body: bool) -> Answer<Shown>;
    /// Gives entries up.
    fn dead_letter_drop(self: Arc<Self>, which: Which) -> Answer<Dropped>;
    /// Sends entries again, oldest first, whether the answer is waited for or not; what became of each.
    fn dead_letter_resend(self: Arc<Self>, which: Which) -> Answer<Vec<Resent>>;
}

#[derive(Clone)]
pub(super) struct Office {
    pub(super) admin: Arc<dyn Admin>,
    is_open: bool,
}

#[derive(Debug, Deserialize)]
struct Seek {
    to: String,
}

#[derive(Debug, Deserialize)]
struct Nothing {}

/// The routes.
pub fn router(admin: Arc<dyn Admin>, is_open: bool) -> Router {
    Router::new()
        .route("/api/v1/targets/{name}/seek", get(plan_seek).post(seek))
        .route("/api/v1/targets/{name}/forget", post(forget))
        .route("/api/v1/targets/{name}/pause", post(pause))
        .route("/api/v1/targets/{name}/resume", post(resume))
        .route("/api/v1/targets/{name}/accept-refusals", post(accept_refusals))
        .merge(super::dead_letters::router())
        .with_state(Office { admin, is_open })
}

async fn plan_seek(
    State(office): State<Office>,
    Path(name): Path<String>,
    seek: Result<Query<Seek>, QueryRejection>,
) -> Result<Json<Plan>, Refusal> {
    let Query(seek) = seek.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    office.admin.plan_seek(name, seek.to).await.map(Json)
}

// A body of JSON is asked for everywhere: no form of another site can send one.
async fn seek(
    State(office): State<Office>,
    Path(name): Path<String>,
    seek: Result<Json<Seek>, JsonRejection>,
) -> Result<Json<Plan>, Refusal> {
    let Json(seek) = seek.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    office.check()?;
    office.admin.seek(name, seek.to).await.map(Json)
}

/// A body that says nothing more than the path.
type Bare = Result<Json<Nothing>, JsonRejection>;

async fn forget(State(office): State<Office>, Path(name): Path<String>, bare: Bare) -> Result<Json<Plan>, Refusal> {
    office.check_bare(bare)?;
    office.admin.forget(name).await.map(Json)
}

async fn pause(State(office): State<Office>, Path(name): Path<String>, bare: Bare) -> Result<Json<Paused>, Refusal> {
    office.check_bare(bare)?;
    office.admin.pause(name, true).await.map(Json)
}

async fn resume(State(office): State<Office>, Path(name): Path<String>, bare: Bare) -> Result<Json<Paused>, Refusal> {
    office.check_bare(bare)?;
    office.admin.pause(name, false).await.map(Json)
}

async fn accept_refusals(
    State(office): State<Office>,
    Path(name): Path<String>,
    bare: Bare,
) -> Result<Json<Believed>, Refusal> {
    office.check_bare(bare)?;
    office.admin.accept_refusals(name).await.map(Json)
}

pub(super) fn malformed(status: StatusCode, text: &str) -> Refusal {
    Refusal::Malformed { status: status.as_u16(), text: text.to_owned() }
}

impl Office {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.is_open { Ok(()) } else { Err(Refusal::Forbidden) }
    }

    fn check_bare(&self, bare: Bare) -> Result<(), Refusal> {
        let Json(Nothing {}) = bare.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
        self.check()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Senseless(_) => StatusCode::CONFLICT,
            Refusal::Forbidden => StatusCode::FORBIDDEN,
            Refusal::Malformed { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
            Refusal::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}
