//! The configuration: `config.toml` as it is written (`file`), checked and turned into the settings of each part.
//!
//! A wrong value stops the start with file, key, value and reason. Nothing is repaired silently. This is the only module that knows
//! how settings are spelled.

mod file;
mod value;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::protocol::Protocol;
use crate::protocol::translate::CustomBuckets;
use crate::relabel::{RuleError, Rules};
use crate::savepoint::is_name;
use crate::target::{Backoff, InvalidBackoff};
use crate::wal::record::Meta;
use crate::wal::{self, SyncMode};
use crate::{dead_letter, protocol, receive, target, web};
use value::{Count, Size, Span, Text};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen: one of these, tried in turn.
    pub listen: Vec<SocketAddr>,
    /// As written, for messages.
    pub listen_text: String,
    /// The listener's limits.
    pub server: web::server::Settings,
    /// The receiver's.
    pub receive: receive::Settings,
    /// The log's directory.
    pub wal_dir: PathBuf,
    /// How the log is opened.
    pub wal: wal::Options,
    /// What is kept, and what a full log gives up.
    pub room: Room,
    /// Bytes of the dead-letter ring; 0: there is none.
    pub dead_letter_bytes: u64,
    /// Whether the listener takes requests that change things.
    pub admin: bool,
    /// At least one.
    pub targets: Vec<target::Settings>,
}

/// What is kept of what was settled, and what a full log gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How long what every target has settled is kept.
    pub retain: Duration,
    /// What a full log does.
    pub when_full: WhenFull,
}

/// What a log does that is full of what required targets are owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// While some required target keeps up, the one furthest behind loses its oldest; when none does, upstreams get 503.
    #[default]
    Auto,
    /// Upstreams get 503.
    Reject,
    /// Whoever is furthest behind loses its oldest.
    DropOldest,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind. The line itself is not shown: it may hold a password.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Why.
        message: String,
    },
    /// A value that makes no sense.
    #[error("{}: {key} = {value}: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key with its table.
        key: String,
        /// What is written there.
        value: String,
        /// Why that cannot be.
        reason: String,
    },
    /// Something is missing.
    #[error("{}: {reason}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a file. Binds no port; a name in `server.listen` is looked up.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Config::parse(path, &text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let wrong = |key: String, error: &toml::de::Error| {
            let before = &text[..error.span().map_or(0, |span| span.start)];
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                message: if key == "." { message } else { format!("{key}: {message}") },
            }
        };
        let document = toml::Deserializer::parse(text).map_err(|error| wrong(".".to_owned(), &error))?;
        let file: file::File = serde_path_to_error::deserialize(document)
            .map_err(|error| wrong(error.path().to_string(), error.inner()))?;
        Checker { path }.config(file)
    }
}

/// Checks values; knows the file for its messages.
struct Checker<'a> {
    path: &'a Path,
}

impl Checker<'_> {
    fn bad<T>(
        &self,
        key: impl Into<String>,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Result<T, ConfigError> {
        let (key, value, reason) = (key.into(), value.to_string(), reason.into());
        Err(ConfigError::Value { path: self.path.to_owned(), key, value, reason })
    }

    fn config(&self, file: file::File) -> Result<Config, ConfigError> {
        let file::File { server, wal, target } = file;
        let admin = server.admin;
        let dead_letter_size = wal.dead_letter_size;
        let (wal_dir, wal, room) = self.wal(wal)?;
        let dead_letter_bytes = self.dead_letter_bytes(dead_letter_size, wal.max_bytes)?;
        let (listen_text, listen) = self.listen(server.listen.as_ref())?;
        let receive = self.receive(&server, &wal)?;
        let connections_max = server.max_connections.map_or(1024, Count::as_usize);
        if connections_max == 0 {
            return self.bad("server.max_connections", 0, "must be at least 1");
        }
        let read_timeout = self.span("server.read_timeout", server.read_timeout, 90_000, 1000)?;
        if target.is_empty() {
            let reason = "there is no [[target]]: data would have nowhere to go".to_owned();
            return Err(ConfigError::Missing { path: self.path.to_owned(), reason });
        }
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for (number, target) in target.into_iter().enumerate() {
            let target = self.target(number, target)?;
            if !names.insert(target.name.clone()) {
                let key = format!("target[{number}].name");
                return self.bad(key, quoted(&target.name), "another target has this name");
            }
            targets.push(target);
        }
        let server = web::server::Settings { connections_max, read_timeout };
        Ok(Config { listen, listen_text, server, receive, wal_dir, wal, room, dead_letter_bytes, admin, targets })
    }

    fn listen(&self, listen: Option<&Text>) -> Result<(String, Vec<SocketAddr>), ConfigError> {
        let text = listen.map_or("127.0.0.1:9201", |text| &text.0);
        if text.starts_with(':') {
            let reason = format!(
                "names no address: write \"0.0.0.0{text}\" to listen on all, \"127.0.0.1{text}\" on loopback only"
            );
            return self.bad("server.listen", quoted(text), reason);
        }
        match std::net::ToSocketAddrs::to_socket_addrs(text) {
            Ok(addresses) => Ok((text.to_owned(), addresses.collect())),
            Err(error) => self.bad(
                "server.listen",
                quoted(text),
                format!("must be an address and a port, such as \"127.0.0.1:9201\": {error}"),
            ),
        }
    }

    fn wal(&self, wal: file::Wal) -> Result<(PathBuf, wal::Options, Room), ConfigError> {
        let dir = wal.dir.map_or_else(|| "data".to_owned(), |dir| dir.0);
        if dir.is_empty() {
            return self.bad("wal.dir", "\"\"", "must be a directory");
        }
        let sync = match wal.sync.as_ref().map_or("always", |sync| &*sync.0) {
            "always" => SyncMode::Always,
            "never" => SyncMode::Never,
            text => match humantime::parse_duration(text) {
                Ok(interval) if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&interval) => {
                    SyncMode::Interval(interval)
                }
                Ok(_) => return self.bad("wal.sync", quoted(text), "an interval must be between 1ms and 1m"),
                Err(_) => {
                    return self.bad(
                        "wal.sync",
                        quoted(text),
                        "must be \"always\", \"never\" or an interval such as \"100ms\"",
                    );
                }
            },
        };
        let max_bytes = self.size("wal.max_size", wal.max_size, 10 << 30, 8 * MIB)?;
        let segment_bytes = self.size("wal.segment_size", wal.segment_size, (128 * MIB).min(max_bytes / 8), MIB)?;
        if segment_bytes > max_bytes / 8 {
            let reason = format!("must be at most an eighth of wal.max_size, {}", show(max_bytes / 8));
            return self.bad("wal.segment_size", show(segment_bytes), reason);
        }
        // Whole pages: the seal has the last one.
        let segment_bytes = segment_bytes / 4096 * 4096;
        let min_free = self.size("wal.min_free", wal.min_free, 0, 0)?;
        let recovery = match wal.recovery {
            file::Recovery::Tolerate => wal::Recovery::Tolerate,
            file::Recovery::Strict => wal::Recovery::Strict,
        };
        let prefill = match wal.prefill {
            file::Prefill::Never => wal::Prefill::Never,
            file::Prefill::Auto => wal::Prefill::Auto,
            file::Prefill::Always => wal::Prefill::Always,
        };
        let when_full = match wal.when_full {
            file::WhenFull::Auto => WhenFull::Auto,
            file::WhenFull::Reject => WhenFull::Reject,
            file::WhenFull::DropOldest => WhenFull::DropOldest,
        };
        let room = Room { retain: self.span("wal.retain", wal.retain, 0, 0)?, when_full };
        let options = wal::Options { min_free, sync, recovery, prefill, ..wal::Options::new(segment_bytes, max_bytes) };
        Ok((PathBuf::from(dir), options, room))
    }

    fn dead_letter_bytes(&self, size: Option<Size>, max_bytes: u64) -> Result<u64, ConfigError> {
        let (key, most) = ("wal.dead_letter_size", max_bytes / 16);
        let bytes = size.map_or((64 * MIB).min(most), |size| size.0);
        if bytes > most {
            return self.bad(key, show(bytes), format!("must be at most a sixteenth of wal.max_size, {}", show(most)));
        }
        if bytes > 0 && bytes < dead_letter::BYTES_MIN {
            let reason = format!("must be at least {}, or \"0B\" for none", show(dead_letter::BYTES_MIN));
            return self.bad(key, show(bytes), reason);
        }
        Ok(bytes)
    }

    fn receive(&self, server: &file::Server, wal: &wal::Options) -> Result<receive::Settings, ConfigError> {
        // Room for the fields behind the header: forwarded headers and the sender.
        let fields = 64 * KIB;
        let fits = wal::Options::record_bytes_max(wal.segment_bytes) - fields;
        let body_bytes_max = self.size("server.max_body", server.max_body, (32 * MIB).min(fits), 64 * KIB)?;
        if body_bytes_max > fits {
            let reason = format!(
                "must fit into a segment: at most {fits} bytes with wal.segment_size = {}",
                show(wal.segment_bytes)
            );
            return self.bad("server.max_body", show(body_bytes_max), reason);
        }
        let decoded_bytes_max = self.size("server.max_decoded", server.max_decoded, 32 * MIB, 64 * KIB)?;
        if decoded_bytes_max > u64::from(u32::MAX) {
            return self.bad(
                "server.max_decoded",
                show(decoded_bytes_max),
                "must be less than 4GiB, the most that snappy can declare",
            );
        }
        let least = body_bytes_max + decoded_bytes_max;
        let in_flight_bytes_max = self.size("server.max_in_flight_bytes", server.max_in_flight_bytes, least, 0)?;
        if in_flight_bytes_max < least {
            let reason = format!(
                "must be at least server.max_body and server.max_decoded together, {least} bytes, or the largest request would never pass"
            );
            return self.bad("server.max_in_flight_bytes", show(in_flight_bytes_max), reason);
        }
        let mut forward_headers = Vec::new();
        for (number, name) in server.forward_headers.iter().enumerate() {
            let key = format!("server.forward_headers[{number}]");
            let name = self.header_name(&key, &name.0)?;
            if name.as_str().len() > Meta::NAME_LEN_MAX {
                return self.bad(key, quoted(name.as_str()), format!("is longer than {} bytes", Meta::NAME_LEN_MAX));
            }
            forward_headers.push(name);
        }
        let symbols_most = protocol::v2::SYMBOLS_MAX;
        let label_limits = protocol::labels::Limits {
            labels: self.limit("server.max_labels", server.max_labels, protocol::labels::LABELS_MAX)?,
            name_bytes: self.length(
                "server.max_label_name_bytes",
                server.max_label_name_bytes,
                protocol::labels::METRIC_NAME.len() as u64,
            )?,
            value_bytes: self.length("server.max_label_value_bytes", server.max_label_value_bytes, 1)?,
        };
        Ok(receive::Settings {
            body_bytes_max,
            decoded_bytes_max,
            in_flight_bytes_max,
            series_max: self.limit("server.max_series", server.max_series, usize::MAX)?,
            symbols_max: self.limit("server.max_symbols", server.max_symbols, symbols_most)?,
            label_limits,
            forward_headers,
        })
    }

    /// A number of things that may be limited. More than `most` are never taken: who writes that expects something else.
    fn limit(&self, key: &str, limit: Option<Count>, most: usize) -> Result<Option<usize>, ConfigError> {
        match limit.map(Count::as_usize) {
            Some(0) => self.bad(key, 0, "must be at least 1; without the key there is no limit"),
            Some(limit) if limit > most => {
                self.bad(key, limit, format!("must be at most {most}: more are never taken"))
            }
            limit => Ok(limit),
        }
    }

    /// A length that may be limited.
    fn length(&self, key: &str, limit: Option<Size>, least: u64) -> Result<Option<usize>, ConfigError> {
        let Some(limit) = limit else { return Ok(None) };
        let bytes = self.size(key, Some(limit), 0, least)?;
        Ok(Some(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    fn target(&self, number: usize, target: file::Target) -> Result<target::Settings, ConfigError> {
        let name = target.name.0;
        if !is_name(&name) {
            let reason =
                "must be 1 to 100 letters, digits, '_', '.' or '-', the first a letter or a digit: it names a file";
            return self.bad(format!("target[{number}].name"), quoted(&name), reason);
        }
        let key = |field: &str| format!("target {name:?}.{field}");
        let url = match reqwest::Url::parse(&target.url.0) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            // The text may hold a password; what is wrong is said without it.
            Ok(_) => return self.bad(key("url"), "...", "must begin with http:// or https:// and name a host"),
            Err(_) if !target.url.0.starts_with("http") => {
                return self.bad(key("url"), "...", "must begin with http:// or https://");
            }
            Err(error) => return self.bad(key("url"), "...", format!("is not a URL: {error}")),
        };
        // V1-09.
        let mut headers = HeaderMap::new();
        for (name, value) in &target.headers {
            let key = key(&format!("headers.{name}"));
            let name = self.header_name(&key, name)?;
            let Ok(value) = HeaderValue::from_str(&value.0) else {
                return self.bad(key, "...", "is not a header's value");
            };
            headers.insert(name, value);
        }
        let min_backoff = self.span(&key("min_backoff"), target.min_backoff, 30, 1)?;
        let max_backoff = self.span(&key("max_backoff"), target.max_backoff, 5000, 1)?;
        let backoff = match Backoff::try_new(min_backoff, max_backoff) {
            Ok(backoff) => backoff,
            Err(error @ (InvalidBackoff::MaxBelowMin | InvalidBackoff::Zero)) => {
                let values = format!(
                    "{} and {}",
                    humantime::format_duration(min_backoff),
                    humantime::format_duration(max_backoff)
                );
                return self.bad(key("min_backoff and max_backoff"), values, error.to_string());
            }
        };
        let max_in_flight = target.max_in_flight.map_or(8, Count::as_usize);
        if !(1..=target::IN_FLIGHT_MAX).contains(&max_in_flight) {
            let reason = format!("must be between 1 and {}", target::IN_FLIGHT_MAX);
            return self.bad(key("max_in_flight"), max_in_flight, reason);
        }
        for (field, limit) in [
            ("max_samples_per_send", target.max_samples_per_send),
            ("max_samples_per_second", target.max_samples_per_second),
        ] {
            if limit == Some(Count(0)) {
                return self.bad(key(field), 0, "must be at least 1");
            }
        }
        let max_bytes_per_second = match target.max_bytes_per_second {
            Some(size) => Some(self.size(&key("max_bytes_per_second"), Some(size), KIB, KIB)?),
            None => None,
        };
        let sample_age_limit = match target.sample_age_limit {
            Some(span) => Some(self.span(&key("sample_age_limit"), Some(span), 1000, 1000)?),
            None => None,
        };
        let send_order = match (target.order, target.backlog_share) {
            (file::Order::Fifo, None) => target::SendOrder::Fifo,
            (file::Order::Fifo, Some(share)) => {
                return self.bad(key("backlog_share"), share, "needs order = \"fresh_first\"");
            }
            (file::Order::FreshFirst, share) => {
                let backlog_share = share.unwrap_or(0.5);
                if !(0.0..=1.0).contains(&backlog_share) {
                    return self.bad(key("backlog_share"), backlog_share, "must be between 0 and 1");
                }
                target::SendOrder::FreshFirst { backlog_share }
            }
        };
        let external_labels = target.external_labels.into_iter().map(|(name, value)| (name, value.0)).collect();
        let relabeling = match Rules::new(&external_labels, &target.write_relabel_configs) {
            Ok(relabeling) => relabeling,
            Err(RuleError { place, value: Some(value), problem }) => {
                return self.bad(key(&place.to_string()), value, problem.to_string());
            }
            Err(error @ RuleError { value: None, .. }) => {
                let reason = key(&error.to_string());
                return Err(ConfigError::Missing { path: self.path.to_owned(), reason });
            }
        };
        let protocol = match target.protocol.as_ref().map(|protocol| &*protocol.0) {
            None | Some("auto") => target::ProtocolRule::Auto,
            Some("1.0") => target::ProtocolRule::Always(Protocol::V1),
            Some("2.0") => target::ProtocolRule::Always(Protocol::V2),
            Some(other) => return self.bad(key("protocol"), quoted(other), "must be \"auto\", \"1.0\" or \"2.0\""),
        };
        Ok(target::Settings {
            name: name.clone(),
            url,
            max_in_flight,
            max_samples_per_send: target.max_samples_per_send.map_or(20_000, |limit| limit.0),
            max_bytes_per_send: self.size(&key("max_bytes_per_send"), target.max_bytes_per_send, MIB, KIB)?,
            max_samples_per_second: target.max_samples_per_second.map(|limit| limit.0 as f64),
            max_bytes_per_second: max_bytes_per_second.map(|limit| limit as f64),
            suspect_after: self.span(&key("suspect_after"), target.suspect_after, 300_000, 1)?,
            poison_after: self.span(&key("poison_after"), target.poison_after, 600_000, 1)?,
            sample_age_limit,
            send_order,
            relabeling,
            custom_buckets: match target.custom_buckets {
                file::CustomBuckets::Drop => CustomBuckets::Drop,
                file::CustomBuckets::Classic => CustomBuckets::AsClassic,
            },
            protocol,
            remote_timeout: self.span(&key("remote_timeout"), target.remote_timeout, 30_000, 1)?,
            headers,
            backoff,
            retry_after_max: self.span(&key("retry_after_max"), target.retry_after_max, 300_000, 1)?,
            start_from: target.start_from,
            required: target.required.unwrap_or(true),
        })
    }

    /// A header that may be set by somebody else than us (`V1-10`, `V2-10`).
    fn header_name(&self, key: &str, name: &str) -> Result<HeaderName, ConfigError> {
        match name.parse::<HeaderName>() {
            Ok(name) if RESERVED_HEADERS.contains(&name.as_str()) => {
                self.bad(key, quoted(name.as_str()), "is a header that cannot be set here: promrelay or HTTP itself sets it (for basic authentication write user:password@ into a target's url)")
            }
            Ok(name) => Ok(name),
            Err(_) => self.bad(key, quoted(name), "is not the name of a header"),
        }
    }

    fn size(&self, key: &str, size: Option<Size>, default: u64, least: u64) -> Result<u64, ConfigError> {
        let bytes = size.map_or(default, |size| size.0);
        if bytes < least {
            return self.bad(key, show(bytes), format!("must be at least {}", show(least)));
        }
        Ok(bytes)
    }

    fn span(&self, key: &str, span: Option<Span>, default_ms: u64, least_ms: u64) -> Result<Duration, ConfigError> {
        let span = span.map_or(Duration::from_millis(default_ms), |span| span.0);
        let (least, most) = (Duration::from_millis(least_ms), Duration::from_secs(366 * 24 * 3600));
        if !(least..=most).contains(&span) {
            let value = quoted(&humantime::format_duration(span).to_string());
            return self.bad(key, value, format!("must be between {} and a year", humantime::format_duration(least)));
        }
        Ok(span)
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

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// As it would be written in the file.
fn show(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", MIB), ("KiB", KIB)];
    match units.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", bytes / unit),
        None => format!("\"{bytes}B\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "[[target]]\nname = \"a\"\nurl = \"http://127.0.0.1:9090/api/v1/write\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("config.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_target_is_enough() {
        let config = parse(TARGET).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:9201".parse().unwrap()]);
        assert_eq!(config.wal_dir, Path::new("data"));
        assert_eq!(config.wal.sync, SyncMode::Always);
        assert_eq!((config.wal.max_bytes, config.wal.segment_bytes), (10 << 30, 128 << 20));
        assert_eq!((config.receive.body_bytes_max, config.receive.decoded_bytes_max), (32 << 20, 32 << 20));
        assert_eq!(config.dead_letter_bytes, 64 << 20);
        assert_eq!((config.receive.series_max, config.receive.symbols_max), (None, None));
        assert!(!config.receive.label_limits.are_set());
        assert_eq!(config.targets[0].remote_timeout, Duration::from_secs(30));
    }

    #[test]
    fn limits_on_what_is_received_are_taken_as_they_are_written() {
        let lines = "max_series = 1\nmax_symbols = 2\nmax_labels = 3\nmax_label_name_bytes = \"1KiB\"\nmax_label_value_bytes = \"4KiB\"";
        let receive = parse(&format!("[server]\n{lines}\n{TARGET}")).unwrap().receive;
        assert_eq!((receive.series_max, receive.symbols_max), (Some(1), Some(2)));
        let limits = receive.label_limits;
        assert_eq!((limits.labels, limits.name_bytes, limits.value_bytes), (Some(3), Some(1024), Some(4096)));
    }

    #[test]
    fn small_logs_have_small_segments_and_bodies_that_fit() {
        let config = parse(&format!("[wal]\nmax_size = \"16MiB\"\n{TARGET}")).unwrap();
        assert_eq!(config.wal.segment_bytes, 2 << 20);
        assert!(config.receive.body_bytes_max < 2 << 20);
        let error =
            parse(&format!("[server]\nmax_body = \"2MiB\"\n[wal]\nmax_size = \"16MiB\"\n{TARGET}")).unwrap_err();
        assert!(error.contains("config.toml: server.max_body = \"2MiB\": must fit into a segment"), "{error}");
    }

    #[test]
    fn what_was_refused_gets_a_sixteenth_of_the_log_at_most_and_nothing_if_so_asked() {
        let bytes = |lines: &str| parse(&format!("[wal]\n{lines}\n{TARGET}")).unwrap().dead_letter_bytes;
        assert_eq!(bytes("max_size = \"8MiB\""), 512 << 10);
        assert_eq!(bytes("dead_letter_size = \"0B\""), 0);
        assert_eq!(bytes("dead_letter_size = \"128MiB\""), 128 << 20);
    }

    #[test]
    fn a_wrong_value_is_named_with_file_key_value_and_reason() {
        for (text, expected) in [
            (
                "[wal]\nsync = \"sometimes\"\n",
                "config.toml: wal.sync = \"sometimes\": must be \"always\", \"never\" or",
            ),
            ("[wal]\nmax_size = \"1MiB\"\n", "config.toml: wal.max_size = \"1MiB\": must be at least \"8MiB\""),
            ("[wal]\nsegment_size = \"2GiB\"\n", "wal.segment_size = \"2GiB\": must be at most an eighth"),
            (
                "[wal]\nmax_size = \"8MiB\"\ndead_letter_size = \"1MiB\"\n",
                "wal.dead_letter_size = \"1MiB\": must be at most a sixteenth of wal.max_size, \"512KiB\"",
            ),
            (
                "[wal]\ndead_letter_size = \"1KiB\"\n",
                "wal.dead_letter_size = \"1KiB\": must be at least \"64KiB\", or \"0B\"",
            ),
            (
                "[server]\nlisten = \"nowhere\"\n",
                "config.toml: server.listen = \"nowhere\": must be an address and a port",
            ),
            ("[server]\nmax_connections = 0\n", "server.max_connections = 0: must be at least 1"),
            (
                "[server]\nmax_series = 0\n",
                "server.max_series = 0: must be at least 1; without the key there is no limit",
            ),
            (
                "[server]\nmax_labels = 10001\n",
                "server.max_labels = 10001: must be at most 10000: more are never taken",
            ),
            ("[server]\nmax_symbols = 2000000\n", "server.max_symbols = 2000000: must be at most 1048576"),
            (
                "[server]\nmax_label_name_bytes = \"7B\"\n",
                "server.max_label_name_bytes = \"7B\": must be at least \"8B\"",
            ),
            ("[server]\nmax_label_value_bytes = \"0B\"\n", "must be at least \"1B\""),
            ("[server]\nread_timeout = \"1ms\"\n", "server.read_timeout = \"1ms\": must be between 1s and a year"),
            ("[server]\nmax_in_flight_bytes = \"1MiB\"\n", "server.max_in_flight_bytes = \"1MiB\": must be at least"),
            (
                "[server]\nforward_headers = [\"Host\"]\n",
                "server.forward_headers[0] = \"host\": is a header that cannot",
            ),
            ("[server]\nforward_headers = [\"a b\"]\n", "server.forward_headers[0] = \"a b\": is not the name"),
        ] {
            let error = parse(&format!("{text}{TARGET}")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for lines in [
            "url = \"http://u:hunter2@a/${NO_SUCH_VARIABLE}\"",
            "url = \"u:hunter2@a\"",
            "url = \"http://u:hunter2@a\" x",
        ] {
            let error = parse(&format!("[[target]]\nname = \"a\"\n{lines}\n")).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_wrong_target_is_named() {
        for (lines, expected) in [
            ("name = \"../a\"\nurl = \"http://a\"", "target[0].name = \"../a\": must be 1 to 100 letters"),
            ("name = \"\"\nurl = \"http://a\"", "target[0].name = \"\": must be"),
            ("name = \"a\"\nurl = \"ftp://a\"", "target \"a\".url = ...: must begin with http:// or https://"),
            ("name = \"a\"\nurl = \"a\"", "target \"a\".url = ...: must begin with http:// or https://"),
            (
                "name = \"a\"\nurl = \"http://a\"\nmax_backoff = \"1ms\"",
                "max_backoff must not be less than min_backoff",
            ),
            ("name = \"a\"\nurl = \"http://a\"\nmax_in_flight = 0", "max_in_flight = 0: must be between 1 and 30"),
            ("name = \"a\"\nurl = \"http://a\"\nmax_samples_per_send = 0", "must be at least 1"),
            ("name = \"a\"\nurl = \"http://a\"\nbacklog_share = 0.2", "needs order = \"fresh_first\""),
            (
                "name = \"a\"\nurl = \"http://a\"\norder = \"fresh_first\"\nbacklog_share = 1.5",
                "backlog_share = 1.5: must be between 0 and 1",
            ),
            // V1-10, V2-10.
            (
                "name = \"a\"\nurl = \"http://a\"\nheaders = { content-type = \"x\" }",
                "is a header that cannot be set here",
            ),
        ] {
            let error = parse(&format!("[[target]]\n{lines}\n")).unwrap_err();
            assert!(error.contains(expected), "{lines}: {error}");
        }
        for (lines, expected) in [
            (
                "write_relabel_configs = [{ regex = \"a\" }]",
                "target \"a\".write_relabel_configs[0].target_label: is missing, empty or 0: the action replace needs it",
            ),
            (
                "[[target.write_relabel_configs]]\nregex = \"a**\"\naction = \"labeldrop\"",
                "target \"a\".write_relabel_configs[0].regex = \"a**\": `**` repeats",
            ),
            (
                "write_relabel_configs = [{ action = \"labeldrop\", source_labels = [\"a\"] }]",
                "target \"a\".write_relabel_configs[0].source_labels = [\"a\"]: the action labeldrop has no use for it",
            ),
            ("write_relabel_configs = [{ regx = \"a\" }]", "target[0].write_relabel_configs[0].regx: unknown field"),
            (
                "write_relabel_configs = [{ action = \"kep\" }]",
                "target[0].write_relabel_configs[0].action: unknown action \"kep\"",
            ),
            (
                "external_labels = { \"\" = \"x\" }",
                "target \"a\".external_labels.\"\" = \"x\": a label's name is not empty",
            ),
            (
                "[target.write_relabel_configs]\nregex = \"a\"",
                "target[0].write_relabel_configs: each rule begins with [[target.write_relabel_configs]], in two pairs of brackets",
            ),
        ] {
            let error = parse(&format!("{TARGET}{lines}\n")).unwrap_err();
            assert!(error.contains(expected), "{lines}: {error}");
        }
        let error = parse(&format!("{TARGET}{TARGET}")).unwrap_err();
        assert!(error.contains("target[1].name = \"a\": another target has this name"), "{error}");
        assert!(parse("").unwrap_err().contains("config.toml: there is no [[target]]"));
    }

    #[test]
    fn unknown_keys_and_wrong_kinds_are_shown_at_their_place() {
        for (text, expected) in [
            ("[wal]\nsyncs = \"always\"\n", "config.toml:2:1: wal.syncs: unknown field `syncs`"),
            (
                "[server]\nmax_connections = \"many\"\n",
                "server.max_connections: invalid type: string \"many\", expected a whole",
            ),
            ("[server]\nmax_connections = -1\n", "server.max_connections: must be a whole number, not below 0"),
            ("[wal]\nmax_size = 5\n", "a size such as \"64MiB\""),
            ("[wal]\nmax_size = \"much\"\n", "\"much\" is not a size"),
            ("[server]\nread_timeout = \"5\"\n", "is not a duration such as \"30s\""),
            ("[serve]\n", "unknown field `serve`"),
        ] {
            let error = parse(&format!("{text}{TARGET}")).unwrap_err();
            assert!(error.contains(expected) && error.starts_with("config.toml:"), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = parse("[target]\nname = \"a\"\n").unwrap_err();
        assert_eq!(error, "config.toml:1:1: target: each target begins with [[target]], in two pairs of brackets");
    }
}
