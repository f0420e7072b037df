//! Targets of a process that runs: it is asked.

use serde_json::Value;

use super::TargetError;
use super::ls::Row;
use crate::cli::live;
use crate::config::Config;
use crate::web::admin::{Believed, Paused, Plan};

/// See the module.
pub(super) struct Live(live::Live);

/// A name of a target is fit for a path: it was checked.
fn path(name: &str, what: &str) -> String {
    format!("/api/v1/targets/{name}/{what}")
}

impl Live {
    pub(super) fn new(config: &Config) -> Result<Live, TargetError> {
        Ok(Live(live::Live::new(config)?))
    }

    pub(super) fn rows(&self) -> Result<Vec<Row>, TargetError> {
        let status: Value = self.0.get("/api/v1/status", &[])?;
        let targets = status["targets"].as_array().cloned().unwrap_or_default();
        let row = |target: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            let samples = &target["samples"];
            Row {
                name: text(&target["name"]),
                state: text(&target["state"]),
                catches_up_in_seconds: target.get("catches_up_in_seconds").cloned(),
                settled: number(&target["settled"]),
                pending_records: number(&target["pending"]["records"]),
                pending_samples: number(&target["pending"]["samples"]),
                delivered: number(&samples["delivered"]),
                refused: number(&samples["refused"]),
                filtered: number(&samples["filtered"]),
                expired: number(&samples["expired"]),
                dropped: number(&samples["dropped"]),
                lost: number(&samples["lost"]),
            }
        };
        Ok(targets.iter().map(row).collect())
    }

    pub(super) fn plan(&self, name: &str, to: &str) -> Result<Plan, TargetError> {
        Ok(self.0.get(&path(name, "seek"), &[("to", to)])?)
    }

    pub(super) fn seek(&self, name: &str, to: &str) -> Result<Plan, TargetError> {
        Ok(self.0.post(&path(name, "seek"), &serde_json::json!({ "to": to }))?)
    }

    pub(super) fn forget(&self, name: &str) -> Result<Plan, TargetError> {
        Ok(self.0.post(&path(name, "forget"), &serde_json::json!({}))?)
    }

    pub(super) fn pause(&self, name: &str, is_paused: bool) -> Result<Paused, TargetError> {
        let what = if is_paused { "pause" } else { "resume" };
        Ok(self.0.post(&path(name, what), &serde_json::json!({}))?)
    }

    pub(super) fn accept_refusals(&self, name: &str) -> Result<Believed, TargetError> {
        Ok(self.0.post(&path(name, "accept-refusals"), &serde_json::json!({}))?)
    }
}
