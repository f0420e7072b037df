//! promrelay between real servers: Prometheus scrapes and sends, the relay stores and delivers, Prometheus and
//! VictoriaMetrics receive, and what they then hold is compared with what the source holds, sample by sample.
//!
//! ```text
//!  exporter <--scrape-- Prometheus --remote write--> promrelay --+--> Prometheus       (now and then behind a proxy
//!  (in the test)        vmagent                                  '--> VictoriaMetrics   that answers 401, 404, 302)
//! ```
//!
//! `tests/real-peers` brings the servers and runs this; the environment variables `PEER_PROMETHEUS`, `PEER_OLD_PROMETHEUS`,
//! `PEER_VICTORIA_METRICS` and `PEER_VMAGENT` name their binaries. Every server is a process on 127.0.0.1, with its data and
//! its log in a directory that lives as long as the test; when a test fails, the ends of the logs are printed.
//!
//! A source that cannot be asked (an agent) sends to a Prometheus without a relay, too: that one is asked in its place. And what a
//! Prometheus that receives shows nobody, metadata above all, is looked at in a sink, which is in the test.
//!
//! Where it matters what a target refuses, the test sends samples to the relay itself, in place of a Prometheus.
//!
//! Nothing here trusts a time window: at the end of a scenario the source is *silenced* (it loses all its scrape targets
//! and so ends each of its series with a stale marker), and then every sample it holds is compared, from the first to the last.

mod exemplars;
mod exporter;
mod exposition;
mod metadata;
mod process;
mod prometheus;
mod proxy;
mod relay;
mod remote_read;
mod rig;
mod samples;
mod scene;
mod sent;
mod victoria;

#[path = "../support/relabeling.rs"]
#[allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]
mod relabeling_table;
#[path = "../support/mod.rs"]
mod support;

use support::{ledger, request};

mod everything;
mod examples;
mod old_backlogs;
mod old_upstream;
mod outages;
mod pair;
mod refusals;
mod relabeling;
mod same_samples;
mod savepoints;
mod translated;
