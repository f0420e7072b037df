//! Entries of a process that runs: it is asked.

use std::time::Duration;

use serde_json::json;

use crate::cli::live::{self, LiveError};
use crate::config::Config;
use crate::dead_letter::{Listing, Shown};
use crate::web::dead_letters::{Dropped, Resent, Which};

/// A target may take its time.
const RESENT_WITHIN: Duration = Duration::from_secs(600);

/// See the module.
pub(super) struct Live(live::Live);

impl Live {
    pub(super) fn new(config: &Config) -> Result<Live, LiveError> {
        Ok(Live(live::Live::new(config)?))
    }

    pub(super) fn list(&self, target: Option<&str>) -> Result<Listing, LiveError> {
        let query: Vec<_> = target.iter().map(|target| ("target", *target)).collect();
        self.0.get("/api/v1/dead-letter", &query)
    }

    pub(super) fn show(&self, id: u64, with_body: bool) -> Result<Shown, LiveError> {
        let query: &[_] = if with_body { &[("body", "true")] } else { &[] };
        self.0.get(&format!("/api/v1/dead-letter/{id}"), query)
    }

    pub(super) fn drop_chosen(&self, which: &Which) -> Result<Dropped, LiveError> {
        let body = match which {
            Which::Ids(ids) => json!({ "ids": ids }),
            Which::Target(target) => json!({ "target": target }),
        };
        self.0.post("/api/v1/dead-letter/drop", &body)
    }

    /// One entry.
    pub(super) fn resend(&self, id: u64) -> Result<Vec<Resent>, LiveError> {
        self.0.post_patiently("/api/v1/dead-letter/resend", &json!({ "ids": [id] }), RESENT_WITHIN)
    }
}
