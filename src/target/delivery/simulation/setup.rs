//! What a simulation is set up from: a log, rules, a target's manners, and what disturbs.

use std::time::Duration;

use super::log::Fake;
use super::target::Manners;
use crate::savepoint::Learned;
use crate::target::backoff::Backoff;
use crate::target::delivery::{PaceLimits, Rules};
use crate::target::negotiation::ProtocolRule;

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Out of 10 000 events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disturbances {
    pub crashes: u64,
    pub power_cuts: u64,
    pub drops: u64,
    pub seeks: u64,
    pub pauses: u64,
}

pub(super) struct Setup {
    pub seed: u64,
    pub log: Vec<Fake>,
    pub rules: Rules,
    pub manners: Manners,
    pub disturbances: Disturbances,
    pub has_two_lanes: bool,
    pub learned: Learned,
}

impl Setup {
    pub fn new(seed: u64, log: Vec<Fake>) -> Setup {
        Setup {
            seed,
            log,
            rules: rules(4),
            manners: Manners { latency: (5, 100), ..Manners::default() },
            disturbances: Disturbances::default(),
            has_two_lanes: false,
            learned: Learned::default(),
        }
    }
}

pub(super) fn rules(max_in_flight: usize) -> Rules {
    Rules {
        max_in_flight,
        max_samples_per_send: 20_000,
        max_bytes_per_send: 1 << 20,
        suspect_after: seconds(60),
        poison_after: seconds(120),
        sample_age_limit: None,
        backlog_share: 1.0,
        hold: Backoff::try_new(seconds(1), seconds(30)).unwrap(),
        protocol: ProtocolRule::Auto,
    }
}

pub(super) fn pace(rules: &Rules) -> PaceLimits {
    PaceLimits {
        max_in_flight: rules.max_in_flight,
        samples_per_second: None,
        bytes_per_second: None,
        backoff: Backoff::try_new(ms(30), seconds(5)).unwrap(),
        hold: rules.hold,
    }
}

pub(super) fn learned() -> Learned {
    Learned { has_delivered: true, takes_empty: Some(true), ..Learned::default() }
}
