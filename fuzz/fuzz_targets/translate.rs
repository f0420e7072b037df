//! A request in the other protocol, and built anew in its own.
//!
//! Nothing panics. A request that the walk takes is translated, and what comes of it the walk takes too: with the same series, as many
//! samples as were not counted as lost, and nothing left to change when it is translated back.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use promrelay::protocol::exemplars::Hostless;
use promrelay::protocol::rebuild::{Rebuilt, rebuild};
use promrelay::protocol::selection::{Chosen, Selection};
use promrelay::protocol::translate::{
    CustomBuckets, CustomSeries, KnownMetadata, SentMetadata, Translated, to_1, to_2,
};
use promrelay::protocol::{Malformed, Protocol, SeenLabels, Summary, entries, v1, v2};
use promrelay_fuzz::Input;

/// What labels may take when they are written out.
const WRITTEN_OUT_MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let [how, end] = input.take();
    let (first, second) = input.0.split_at(usize::from(how >> 2) * input.0.len() / 64);
    let protocol = if how & 1 == 0 { Protocol::V1 } else { Protocol::V2 };

    // Whatever it is.
    let pieces = [
        Selection { message: first, entries: Chosen::Range(0..end.into()) },
        Selection { message: second, entries: Chosen::All },
    ];
    let hostless = if how & 2 == 0 { Hostless::Kept } else { Hostless::LeftOut };
    let _ = rebuild(protocol, &pieces, hostless);
    let _ = other(protocol, &pieces, CustomBuckets::AsClassic, hostless);

    let Some(before) = stored(protocol, input.0) else { return };
    let whole = [Selection { message: input.0, entries: Chosen::All }];

    let Rebuilt { message, exemplars_left_out, .. } = rebuild(protocol, &whole, hostless).unwrap();
    let rebuilt = stored(protocol, &message).expect("as good as what it was made of");
    assert_eq!((rebuilt.samples, rebuilt.histograms), (before.samples, before.histograms));
    assert_eq!(u64::from(rebuilt.exemplars) + exemplars_left_out, u64::from(before.exemplars));
    assert!(rebuilt.timestamp_min == before.timestamp_min && rebuilt.timestamp_max == before.timestamp_max);

    let to = if protocol == Protocol::V1 { Protocol::V2 } else { Protocol::V1 };
    let translated = other(protocol, &whole, CustomBuckets::Drop, hostless).unwrap();
    let after = accounted(to, &before, &translated);
    comes_in_order(protocol, input.0, to, &translated.message);

    let whole = [Selection { message: &translated.message, entries: Chosen::All }];
    let back = other(to, &whole, CustomBuckets::Drop, hostless).unwrap();
    accounted(protocol, &after, &back);
    comes_in_order(to, &translated.message, protocol, &back.message);
    assert_eq!((back.start_timestamps, back.empty_series, back.unknown_fields), (0, 0, 0));

    let classic = other(protocol, &[Selection { message: input.0, entries: Chosen::All }], CustomBuckets::AsClassic, hostless);
    stored(to, &classic.unwrap().message).expect("classic series are valid");
});

/// Translates to the other protocol.
fn other(from: Protocol, selections: &[Selection<'_>], custom: CustomBuckets, hostless: Hostless) -> Result<Translated, Malformed> {
    match from {
        Protocol::V1 => to_2(selections, &mut KnownMetadata::with_bytes_max(2000), hostless),
        Protocol::V2 => {
            let (series, mut sent) = (CustomSeries::with_bytes_max(custom, 2000), SentMetadata::with_families_max(3));
            to_1(selections, &series, 0, &mut sent, Instant::now())
        }
    }
}

/// What is in a request, if it is one that may be stored.
fn stored(protocol: Protocol, message: &[u8]) -> Option<Summary> {
    let summary = match protocol {
        Protocol::V1 => v1::walk(message, &SeenLabels::with_capacity(8)),
        Protocol::V2 => v2::walk(message, &mut v2::Scratch::default(), WRITTEN_OUT_MAX),
    };
    summary.ok().filter(|summary| summary.offences.count() == 0 && summary.is_canonical)
}

/// Everything is in what was translated, or counted.
fn accounted(to: Protocol, before: &Summary, translated: &Translated) -> Summary {
    let after = stored(to, &translated.message).expect("what is written may be stored");
    assert_eq!(after.samples, before.samples);
    assert_eq!(u64::from(after.histograms) + translated.dropped[0], u64::from(before.histograms));
    assert_eq!(u64::from(after.exemplars) + translated.exemplars, u64::from(before.exemplars));
    let sent = translated.sent;
    assert_eq!(
        [sent.samples, sent.histograms, sent.exemplars],
        [after.samples, after.histograms, after.exemplars].map(u64::from)
    );
    assert_eq!((translated.series, translated.metadata), (u64::from(after.series), u64::from(after.metadata)));
    assert_eq!(translated.is_empty(), after.series == 0 && after.metadata == 0);
    after
}

/// The series of the one request are those of the other, but for some that are left out, and some that came to be two.
fn comes_in_order(from: Protocol, before: &[u8], to: Protocol, after: &[u8]) {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    entries::identities(from, before, &mut one).unwrap();
    entries::identities(to, after, &mut other).unwrap();
    one.dedup();
    other.dedup();
    let mut one = one.into_iter();
    assert!(other.iter().all(|identity| one.any(|series| series == *identity)));
}
