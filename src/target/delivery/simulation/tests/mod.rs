//! Tests of delivery in simulations. Here is what runs them.

mod crashes;
mod empty;
mod madness;
mod order;
mod poison;
mod protocols;
mod refusals;
mod resent;
mod stretches;

use super::drawn::{anything, some_rules};
use super::log::{Entry, Fake};
use super::setup::{learned, ms, rules};
use super::target::{Empty, Known, Spell};
use super::*;
use crate::target::negotiation::ProtocolRule;

/// Runs every seed, and names those that fail; one only, to look into it, with `SIMULATION_SEED`.
fn every_seed(number: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Some(seed) = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed);
    }
    let failed: Vec<u64> = (0..number).filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err()).collect();
    assert!(failed.is_empty(), "{} of {number} seeds fail: {:?}", failed.len(), &failed[..failed.len().min(10)]);
}

/// As [`every_seed`], and something is summed up.
fn every_seed_with<T>(number: u64, sum: &mut T, mut run: impl FnMut(u64, &mut T)) {
    (0..number).for_each(|seed| run(seed, sum));
}
