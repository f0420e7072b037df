//! Translation, judged by prost and by the plainest rules that can be written down (`plain_rules`): named cases, custom buckets, and anything at all.

mod cases;
mod custom_buckets;
mod plain_rules;
mod properties;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use prost::Message;

use super::super::exemplars::Hostless;
use super::super::messages::{v1 as pb1, v2 as pb2};
use super::super::plain::{self, Series, attached, has_a_proper_table};
use super::super::rebuild::rebuild;
use super::super::selection::{Chosen, Selection};
use super::super::{Malformed, Protocol, SeenLabels, Summary, arbitrary, corpus, entries, v1, v2};
use super::*;

fn all(message: &[u8]) -> Selection<'_> {
    Selection { message, entries: Chosen::All }
}

fn new_1(message: &[u8]) -> Result<Translated, Malformed> {
    to_1_with(&table(CustomBuckets::Drop), &[all(message)])
}

fn new_2(message: &[u8]) -> Result<Translated, Malformed> {
    to_2(&[all(message)], &mut KnownMetadata::default(), Hostless::LeftOut)
}

fn classic(message: &[u8]) -> Result<Translated, Malformed> {
    to_1_with(&table(CustomBuckets::AsClassic), &[all(message)])
}

fn table(custom_buckets: CustomBuckets) -> CustomSeries {
    CustomSeries::with_bytes_max(custom_buckets, 1 << 20)
}

/// To a target that has been told no metadata.
fn to_1_with(series: &CustomSeries, selections: &[Selection<'_>]) -> Result<Translated, Malformed> {
    to_1(selections, series, 0, &mut SentMetadata::default(), Instant::now())
}

fn walk(protocol: Protocol, message: &[u8]) -> Result<Summary, Malformed> {
    match protocol {
        Protocol::V1 => v1::walk(message, &SeenLabels::with_capacity(8)),
        Protocol::V2 => v2::walk(message, &mut v2::Scratch::default(), 1 << 24),
    }
}

fn identities(protocol: Protocol, message: &[u8]) -> Vec<u64> {
    let mut identities = Vec::new();
    entries::identities(protocol, message, &mut identities).unwrap();
    identities
}

fn case(wanted: Protocol, name: &str) -> Vec<u8> {
    let case = corpus::cases().into_iter().find(|case| case.name == name && case.protocol == wanted);
    case.expect(name).message
}
