//! Checks of single values, and the errors that name file, key, value and reason.

use std::path::Path;
use std::time::Duration;

use axum::http::HeaderName;

use super::value::{Count, Size, Span};
use super::{ConfigError, KIB, MIB};

/// Checks values; knows the file for its messages.
pub(super) struct Checker<'a> {
    pub path: &'a Path,
}

impl Checker<'_> {
    pub fn bad<T>(
        &self,
        key: impl Into<String>,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Result<T, ConfigError> {
        let (key, value, reason) = (key.into(), value.to_string(), reason.into());
        Err(ConfigError::Value { path: self.path.to_owned(), key, value, reason })
    }

    pub fn size(&self, key: &str, size: Option<Size>, default: u64, least: u64) -> Result<u64, ConfigError> {
        let bytes = size.map_or(default, |size| size.0);
        if bytes < least {
            return self.bad(key, show(bytes), format!("must be at least {}", show(least)));
        }
        Ok(bytes)
    }

    pub fn span(&self, key: &str, span: Option<Span>, default_ms: u64, least_ms: u64) -> Result<Duration, ConfigError> {
        let span = span.map_or(Duration::from_millis(default_ms), |span| span.0);
        let (least, most) = (Duration::from_millis(least_ms), Duration::from_secs(366 * 24 * 3600));
        if !(least..=most).contains(&span) {
            let value = quoted(&humantime::format_duration(span).to_string());
            return self.bad(key, value, format!("must be between {} and a year", humantime::format_duration(least)));
        }
        Ok(span)
    }

    /// A number of things that may be limited. More than `most` are never taken: who writes that expects something else.
    pub fn limit(&self, key: &str, limit: Option<Count>, most: usize) -> Result<Option<usize>, ConfigError> {
        match limit.map(Count::as_usize) {
            Some(0) => self.bad(key, 0, "must be at least 1; without the key there is no limit"),
            Some(limit) if limit > most => {
                self.bad(key, limit, format!("must be at most {most}: more are never taken"))
            }
            limit => Ok(limit),
        }
    }

    /// A length that may be limited.
    pub fn length(&self, key: &str, limit: Option<Size>, least: u64) -> Result<Option<usize>, ConfigError> {
        let Some(limit) = limit else { return Ok(None) };
        let bytes = self.size(key, Some(limit), 0, least)?;
        Ok(Some(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// A header that may be set by somebody else than us (`V1-10`, `V2-10`).
    pub fn header_name(&self, key: &str, name: &str) -> Result<HeaderName, ConfigError> {
        match name.parse::<HeaderName>() {
            Ok(name) if RESERVED_HEADERS.contains(&name.as_str()) => {
                self.bad(key, quoted(name.as_str()), "is a header that cannot be set here: promrelay or HTTP itself sets it (for basic authentication write user:password@ into a target's url)")
            }
            Ok(name) => Ok(name),
            Err(_) => self.bad(key, quoted(name), "is not the name of a header"),
        }
    }
}

/// Those of Prometheus' list, which is longer than the specification's: authorization has options of its own.
const RESERVED_HEADERS: [&str; 17] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "transfer-encoding",
    "te",
    "upgrade",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
];

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// As it would be written in the file.
pub(super) fn show(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", MIB), ("KiB", KIB)];
    match units.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", bytes / unit),
        None => format!("\"{bytes}B\""),
    }
}
