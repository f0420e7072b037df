//! What targets refused for good, over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/dead-letter?target=NAME` | `{"entries": [..], "older": n}`: all entries, or those of a target; the newest [`LISTED_MAX`] of them |
//! | `GET /api/v1/dead-letter/{id}` | one with the first samples of its body; with `?body=true` the body as well, in base64 |
//! | `POST /api/v1/dead-letter/drop` with `{"ids": [..]}` or `{"target": "NAME"}` | they are given up |
//! | `POST /api/v1/dead-letter/resend` with the same | they are sent to their targets again, oldest first; what is delivered is taken out |
//!
//! The first two change nothing and are always allowed, the others need `server.admin`.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::admin::{Office, Refusal, malformed};
use crate::dead_letter::{Listing, Shown};

/// Most entries of a listing.
pub const LISTED_MAX: usize = 5000;

/// Some entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// These.
    Ids(Vec<u64>),
    /// All of a target.
    Target(String),
}

/// What was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Entries.
    pub entries: u64,
    /// Their samples.
    pub samples: u64,
}

/// What became of an entry that was sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// Which.
    pub id: u64,
    /// Whose.
    pub target: String,
    /// `delivered`: it is taken out. `refused`, `unanswered`, `failed`: it stays, and `text` says why.
    pub outcome: String,
    /// What the target said, or why there was no answer.
    pub text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    target: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    #[serde(default)]
    body: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    ids: Option<Vec<u64>>,
    target: Option<String>,
}

pub(super) fn router() -> Router<Office> {
    Router::new()
        .route("/api/v1/dead-letter", get(list))
        .route("/api/v1/dead-letter/{id}", get(show))
        .route("/api/v1/dead-letter/drop", post(drop_some))
        .route("/api/v1/dead-letter/resend", post(resend))
}

async fn list(
    State(office): State<Office>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Listing>, Refusal> {
    let Query(Filter { target }) = filter.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    office.admin.dead_letter_list(target).await.map(Json)
}

async fn show(
    State(office): State<Office>,
    id: Result<Path<u64>, PathRejection>,
    detail: Result<Query<Detail>, QueryRejection>,
) -> Result<Json<Shown>, Refusal> {
    let Path(id) = id.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    let Query(Detail { body }) = detail.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    office.admin.dead_letter_show(id, body).await.map(Json)
}

async fn drop_some(
    State(office): State<Office>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Dropped>, Refusal> {
    let which = which(asked)?;
    office.check()?;
    office.admin.dead_letter_drop(which).await.map(Json)
}

async fn resend(
    State(office): State<Office>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Vec<Resent>>, Refusal> {
    let which = which(asked)?;
    office.check()?;
    office.admin.dead_letter_resend(which).await.map(Json)
}

// As in `admin`: a body of JSON, which no form of another site can send.
fn which(asked: Result<Json<Asked>, JsonRejection>) -> Result<Which, Refusal> {
    let Json(asked) = asked.map_err(|rejection| malformed(rejection.status(), &rejection.body_text()))?;
    match (asked.ids, asked.target) {
        (Some(ids), None) => Ok(Which::Ids(ids)),
        (None, Some(target)) => Ok(Which::Target(target)),
        _ => Err(Refusal::Invalid("either \"ids\" or \"target\" must be given".to_owned())),
    }
}
