//! A request, decompressed, as any stranger may send it.
//!
//! Nothing panics; what walks clean, prost reads too and counts the same (but for text that is not UTF-8 where no series has it); the
//! canonical form walks clean, has the rest of what there was, and is its own canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use promrelay::protocol::canonical::canonicalise;
use promrelay::protocol::describe::describe;
use promrelay::protocol::labels::Limits;
use promrelay::protocol::messages::{v1 as pb1, v2 as pb2};
use promrelay::protocol::rewrite::{Verdict, rewrite};
use promrelay::protocol::{Malformed, Protocol, SeenLabels, Summary, entries, v1, v2};
use prost::Message;

/// What labels that are written out may take.
const WRITTEN_OUT_MAX: usize = 1 << 20;

fuzz_target!(|message: &[u8]| {
    for protocol in [Protocol::V1, Protocol::V2] {
        let _ = describe(protocol, message, 0);
        any_way(protocol, message);
        let Ok(mut summary) = walk(protocol, message, Limits::default()) else { continue };
        assert!(
            (0..summary.series).filter(|n| summary.offences.contains(*n)).count() as u32 == summary.offences.count()
        );
        if summary.offences.count() == 0 {
            judged_by_prost(protocol, message, &summary);
        }
        limited(protocol, message, &summary);

        let rewritten =
            canonicalise(protocol, message, &summary.offences).expect("what was walked can be put in order");
        summary.offences.describe(protocol, message);
        let _ = summary.offences.to_string();
        // Nothing is left but what nobody knows: it can look like a request of the other protocol.
        if summary.series == summary.offences.count() && summary.metadata == 0 {
            assert_eq!(rewritten.dropped.series, u64::from(summary.series));
            continue;
        }
        let after = walk(protocol, &rewritten.message, Limits::default()).expect("its form can be walked");
        assert!(after.is_canonical && after.offences.count() == 0, "{after:?}");
        assert_eq!(u64::from(summary.series - after.series), rewritten.dropped.series);
        assert_eq!(summary.series - after.series, summary.offences.count());
        assert_eq!(u64::from(summary.samples - after.samples), rewritten.dropped.samples);
        assert_eq!(u64::from(summary.histograms - after.histograms), rewritten.dropped.histograms);
        assert_eq!(u64::from(summary.exemplars - after.exemplars), rewritten.dropped.exemplars);
        let again = canonicalise(protocol, &rewritten.message, &after.offences).expect("it can be put in order again");
        assert_eq!(again.message, rewritten.message);
        let found = entries::entries(protocol, &rewritten.message).expect("what is stored can be taken apart");
        assert_eq!(found.len(), after.series as usize);
        judged_by_prost(protocol, &rewritten.message, &after);
    }
});

fn walk(protocol: Protocol, message: &[u8], limits: Limits) -> Result<Summary, Malformed> {
    match protocol {
        // Twice: a series that is known is judged as one that is not.
        Protocol::V1 => {
            let seen = SeenLabels::within(limits, 64);
            let first = v1::walk(message, &seen);
            assert_eq!(first, v1::walk(message, &seen));
            first
        }
        Protocol::V2 => v2::walk_within(message, &mut v2::Scratch::default(), WRITTEN_OUT_MAX, &limits),
    }
}

/// Limits make more series invalid, and change nothing else.
fn limited(protocol: Protocol, message: &[u8], unlimited: &Summary) {
    let limits = Limits { labels: Some(2), name_bytes: Some(8), value_bytes: Some(4) };
    let limited = walk(protocol, message, limits).expect("limits are no matter of the bytes");
    assert!((0..unlimited.series).all(|n| !unlimited.offences.contains(n) || limited.offences.contains(n)));
    assert_eq!((limited.series, limited.samples), (unlimited.series, unlimited.samples));
}

/// Every series in another way, whatever the bytes.
fn any_way(protocol: Protocol, message: &[u8]) {
    let _ = rewrite(protocol, message, |series, sink| match series.index % 4 {
        _ if series.unreadable.is_some() => Verdict::Drop,
        0 => Verdict::Keep,
        1 => Verdict::Drop,
        2 => {
            (0..series.labels.len()).rev().for_each(|n| sink.keep(n..n + 1));
            Verdict::Relabel
        }
        _ => {
            series.labels.iter().for_each(|(name, value)| sink.label(value, name));
            Verdict::Relabel
        }
    });
}

fn judged_by_prost(protocol: Protocol, message: &[u8], summary: &Summary) {
    let counted = match protocol {
        Protocol::V1 => pb1::WriteRequest::decode(message).map(|judged| {
            assert_eq!(judged.metadata.len(), summary.metadata as usize);
            let sum = |len: fn(&pb1::TimeSeries) -> usize| judged.timeseries.iter().map(len).sum();
            [judged.timeseries.len(), sum(|s| s.samples.len()), sum(|s| s.histograms.len()), sum(|s| s.exemplars.len())]
        }),
        Protocol::V2 => pb2::Request::decode(message).map(|judged| {
            let sum = |len: fn(&pb2::TimeSeries) -> usize| judged.timeseries.iter().map(len).sum();
            [judged.timeseries.len(), sum(|s| s.samples.len()), sum(|s| s.histograms.len()), sum(|s| s.exemplars.len())]
        }),
    };
    match counted {
        Ok(counted) => {
            let walked = [summary.series, summary.samples, summary.histograms, summary.exemplars];
            assert_eq!(counted, walked.map(|count| count as usize));
        }
        // Text in metadata of 1.0, in a field that came twice; and prost counts groups within groups otherwise.
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("UTF-8") || text.contains("recursion limit"), "{text}");
        }
    }
}
