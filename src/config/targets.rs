//! `[[target]]`: where data goes, how, and what of it.

use axum::http::{HeaderMap, HeaderValue};

use super::check::{Checker, quoted};
use super::value::Count;
use super::{ConfigError, KIB, MIB, file};
use crate::protocol::Protocol;
use crate::protocol::translate::CustomBuckets;
use crate::relabel::{RuleError, Rules};
use crate::savepoint::is_name;
use crate::target::{self, Backoff, InvalidBackoff};

impl Checker<'_> {
    pub fn target(&self, number: usize, target: file::Target) -> Result<target::Settings, ConfigError> {
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
}
