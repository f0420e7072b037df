//! What a seed makes a simulation of: records, a target's manners and rules, all at random.

use std::time::Duration;

use super::log::{Entry, Fake};
use super::setup::{Setup, ms, rules, seconds};
use super::target::{Empty, Known, Manners, Spell};
use crate::protocol::Protocol;
use crate::savepoint::Learned;
use crate::target::delivery::Rules;
use crate::wal::record::Kind;

/// Records of a few series each, some in several tenants and of several senders.
fn some_records(random: &mut fastrand::Rng, records: usize, interval: Duration) -> Vec<Fake> {
    let series = random.u64(2..40);
    let (tenants, senders) = (random.u8(1..3), random.u8(1..4));
    let has_opaque = random.u8(0..5) == 0;
    let kinds = random.u8(0..4);
    let (has_rules, has_custom) = (random.u8(0..4) == 0, random.bool());
    (0..records as u32)
        .map(|number| {
            let kind = if kinds == 0 && random.u8(0..3) == 0 { Kind::Write2 } else { Kind::Write1 };
            let is_filtered = has_rules && random.u8(0..3) == 0;
            let least = usize::from(!is_filtered || random.bool());
            let entries = (0..random.usize(least..7 * least + 1)).map(|_| {
                let histograms = u32::from(random.u8(0..8) == 0);
                let is_custom = has_custom && kind == Kind::Write2 && random.u8(0..4) == 0;
                let (floats, histograms) = if is_custom { (0, 1) } else { (random.u32(0..3), histograms) };
                Entry { series: random.u64(0..series), floats, histograms, is_custom }
            });
            let entries: Vec<Entry> = entries.collect();
            let filtered = if is_filtered { random.u32(1..5) } else { 0 };
            Fake {
                entries,
                tenant: random.u8(0..tenants),
                sender: random.u8(1..=senders),
                kind,
                filtered,
                is_opaque: has_opaque && random.u8(0..10) == 0,
                age: seconds([0, 3600][random.usize(0..2)]),
                at: interval * number,
            }
        })
        .collect()
}

fn some_manners(random: &mut fastrand::Rng, log: &[Fake]) -> Manners {
    let mut often = |max: u64| if random.bool() { random.u64(0..max) } else { 0 };
    let mut manners = Manners {
        throttles: often(200),
        fails: often(300),
        loses: often(200),
        loses_answers: often(200),
        refuses_connections: often(100),
        latency: (1, 1 + often(400)),
        well_from: Some(seconds(120)),
        ..Manners::default()
    };
    manners.known = [Known::Taken, Known::OlderRefused, Known::Refused][random.usize(0..3)];
    if random.u8(0..5) == 0 {
        manners.empty = Empty::Refused;
    }
    if random.u8(0..3) == 0 {
        manners.entries_max = Some(random.usize(1..20));
    }
    for _ in 0..random.usize(0..4) {
        let position = random.usize(0..log.len());
        manners
            .cursed_entries
            .insert((position as u64 + 1, random.usize(0..log[position].entries.len().max(1)) as u32));
    }
    if random.u8(0..3) == 0 {
        manners.cursed_series.insert(random.u64(0..10));
    }
    if random.u8(0..4) == 0 {
        manners.cursed_sender = Some(random.u8(1..4));
    }
    if random.u8(0..4) == 0 {
        manners.poison.insert(random.u64(0..10));
    }
    if random.u8(0..4) == 0 {
        // Requests of which nothing is taken.
        for _ in 0..random.usize(1..30) {
            let position = random.usize(0..log.len());
            let all = 0..log[position].entries.len() as u32;
            manners.cursed_entries.extend(all.map(|number| (position as u64 + 1, number)));
        }
    }
    if random.u8(0..6) == 0 {
        manners.old_before = (random.u64(0..log.len() as u64), random.u32(0..8));
    }
    for _ in 0..random.usize(0..3) {
        let from = seconds(random.u64(0..60));
        let spell = [Spell::Down, Spell::Locked, Spell::Mad, Spell::Gone, Spell::Mute][random.usize(0..5)];
        manners.spells.push((from, from + ms(random.u64(10..40_000)), spell));
    }
    if random.u8(0..4) == 0 {
        let lacked = if random.bool() { Protocol::V2 } else { Protocol::V1 };
        manners.lacks = Some((lacked, seconds(random.u64(1..100_000))));
    }
    manners
}

pub(super) fn some_rules(random: &mut fastrand::Rng) -> Rules {
    let mut rules = rules([1, 2, 4, 8, 30][random.usize(0..5)]);
    if random.bool() {
        rules.max_samples_per_send = random.u64(1..60);
    }
    if random.u8(0..6) == 0 {
        rules.sample_age_limit = Some(seconds(random.u64(1..4000)));
    }
    if random.bool() {
        rules.suspect_after = seconds(random.u64(1..60));
        rules.poison_after = seconds(random.u64(1..120));
    }
    if random.u8(0..3) == 0 {
        rules.max_bytes_per_send = random.u64(100..4000);
    }
    rules
}

pub(super) fn anything(seed: u64) -> Setup {
    let mut random = fastrand::Rng::with_seed(seed);
    let interval = [Duration::ZERO, ms(20), ms(300)][random.usize(0..3)];
    let records = random.usize(1..60);
    let log = some_records(&mut random, records, interval);
    let manners = some_manners(&mut random, &log);
    let rules = some_rules(&mut random);
    let mut setup = Setup::new(seed, log);
    // Who refuses empty requests and has never delivered is not believed by anybody.
    if manners.empty == Empty::Refused {
        setup.learned = Learned { has_delivered: true, takes_empty: Some(false), ..Learned::default() };
    }
    Setup { rules, manners, ..setup }
}
