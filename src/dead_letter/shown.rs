//! An entry for people and programs: as JSON, with what its body says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::content::content;
use super::entry::{Entry, Summary};

/// Most samples that are shown of an entry.
pub const LINES_MAX: usize = 100;

/// An entry with what can be said about its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// What is listed of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// Headers that go with it.
    pub forwarded: Vec<(String, String)>,
    /// Series in its body.
    pub series_count: u64,
    /// Samples in its body: more than were refused, if the target kept a part of it.
    pub sample_count: u64,
    /// The first [`LINES_MAX`] of them: `name{a="b"} value @ms`.
    pub lines: Vec<String>,
    /// Why the body cannot be shown.
    pub error: Option<String>,
    /// The body as it was sent, compressed, in base64; only if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Shown {
    /// Takes an entry apart.
    #[must_use]
    pub fn new(entry: &Entry, with_body: bool) -> Shown {
        let content = if entry.has_body() {
            content(entry.content.protocol, &entry.content.body, LINES_MAX).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                format!("{error}{}", cause.unwrap_or_default())
            })
        } else {
            Err("the body was too large for the ring, and was not kept".to_owned())
        };
        let error = content.as_ref().err().cloned();
        let content = content.unwrap_or_default();
        let text = |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
        Shown {
            summary: Summary::from(entry),
            forwarded: entry.content.forwarded.iter().map(text).collect(),
            series_count: content.series,
            sample_count: content.samples,
            lines: content.lines,
            error,
            body: (with_body && entry.has_body()).then(|| STANDARD.encode(&entry.content.body)),
        }
    }
}
