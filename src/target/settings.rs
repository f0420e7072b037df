//! How a target is configured, checked, and what follows from that for its parts.

use std::time::Duration;

use super::backoff::Backoff;
use super::delivery::Rules;
use super::negotiation::ProtocolRule;
use super::pace;

use crate::protocol::translate::CustomBuckets;
use crate::relabel;

/// The most requests at a time.
pub const IN_FLIGHT_MAX: usize = Rules::IN_FLIGHT_MAX;

/// How a target is configured; checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys the savepoint.
    pub name: String,
    /// Where requests go.
    pub url: reqwest::Url,
    /// For a whole exchange, before anything is known of the link.
    pub remote_timeout: Duration,
    /// Sent with every request.
    pub headers: reqwest::header::HeaderMap,
    /// After failures.
    pub backoff: Backoff,
    /// The most that a target's `Retry-After` is believed.
    pub retry_after_max: Duration,
    /// Where a new name starts.
    pub start_from: Option<StartFrom>,
    /// Whether a full log waits for it.
    pub required: bool,
    /// Requests at a time.
    pub max_in_flight: usize,
    /// Samples of a merged request.
    pub max_samples_per_send: u64,
    /// Bytes of a merged request.
    pub max_bytes_per_send: u64,
    /// Samples per second.
    pub max_samples_per_second: Option<f64>,
    /// Bytes per second.
    pub max_bytes_per_second: Option<f64>,
    /// How long everything is refused before records go one by one.
    pub suspect_after: Duration,
    /// How long something fails alone before it is given up.
    pub poison_after: Duration,
    /// Older samples are not sent.
    pub sample_age_limit: Option<Duration>,
    /// What comes first.
    pub send_order: SendOrder,
    /// In which protocol data is sent.
    pub protocol: ProtocolRule,
    /// What becomes of histograms with custom buckets, for which 1.0 has no place.
    pub custom_buckets: CustomBuckets,
    /// What of which series is sent.
    pub relabeling: relabel::Rules,
}

/// What a target that is behind is sent first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SendOrder {
    /// The oldest.
    Fifo,
    /// What is new, with the backlog beside it.
    FreshFirst {
        /// The backlog's part of the requests, 0 to 1.
        backlog_share: f64,
    },
}

impl Settings {
    /// The URL as it may be shown: without user info.
    #[must_use]
    pub fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // Cannot fail for http and https.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            max_in_flight: self.max_in_flight,
            max_samples_per_send: self.max_samples_per_send,
            max_bytes_per_send: self.max_bytes_per_send,
            suspect_after: self.suspect_after,
            poison_after: self.poison_after,
            sample_age_limit: self.sample_age_limit,
            backlog_share: match self.send_order {
                SendOrder::Fifo => 1.0,
                SendOrder::FreshFirst { backlog_share } => backlog_share,
            },
            hold: hold(),
            protocol: self.protocol,
        }
    }

    pub(super) fn pace(&self) -> pace::Limits {
        pace::Limits {
            max_in_flight: self.max_in_flight,
            samples_per_second: self.max_samples_per_second,
            bytes_per_second: self.max_bytes_per_second,
            backoff: self.backoff,
            hold: hold(),
        }
    }

    /// A number that is equal for equal names and URLs.
    pub(super) fn identity(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(format!("{} {}", self.name, self.url).as_bytes()) | 1
    }
}

/// A held target is tried again after a second, then slower, up to half a minute: somebody who mends it wants to see it soon.
fn hold() -> Backoff {
    Backoff::try_new(Duration::from_secs(1), Duration::from_secs(30)).expect("constants that make sense")
}

/// Where a target begins whose name has no savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// With everything that is still in the log.
    Oldest,
    /// With the next record.
    Now,
}
