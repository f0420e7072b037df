//! Metric families: a metric's name without what its type appends to it.
//!
//! ```text
//!  type             series                                    family
//!  HISTOGRAM        foo_bucket  foo_count  foo_sum            foo
//!  GAUGEHISTOGRAM   .. and foo_gcount  foo_gsum               foo
//!  SUMMARY          foo  foo_count  foo_sum                   foo
//!  INFO             foo_info                                  foo
//!  COUNTER          foo_total                                 foo_total
//!  any              foo, with native histograms               foo
//! ```
//!
//! In 1.0 metadata is of a family, in 2.0 of a series. What Prometheus sends in 1.0 are the names it found in `# TYPE` lines: the text
//! format writes the name of a counter there as it is, `foo_total`, only OpenMetrics leaves `_total` off. A series does not tell which
//! it came from; the text format is far more common, so `_total` stays. The type INFO exists in OpenMetrics alone, so `_info` goes.
//!
//! The way back tries the whole name first, so it finds a family in either form.

/// The types of both protocols: other names, the same numbers.
pub(super) const COUNTER: u64 = 1;
pub(super) const HISTOGRAM: u64 = 3;
pub(super) const GAUGE_HISTOGRAM: u64 = 4;
pub(super) const SUMMARY: u64 = 5;
pub(super) const INFO: u64 = 6;

/// Which types append what. (Prometheus also makes `_count` and `_sum` of a gauge histogram that it read as protobuf.)
const SUFFIXES: [(&[u8], &[u64]); 7] = [
    (b"_bucket", &[HISTOGRAM, GAUGE_HISTOGRAM]),
    (b"_count", &[HISTOGRAM, GAUGE_HISTOGRAM, SUMMARY]),
    (b"_sum", &[HISTOGRAM, GAUGE_HISTOGRAM, SUMMARY]),
    (b"_gcount", &[GAUGE_HISTOGRAM]),
    (b"_gsum", &[GAUGE_HISTOGRAM]),
    (b"_info", &[INFO]),
    (b"_total", &[COUNTER]),
];

/// The name of the family that a series with this name and type belongs to, to be sent.
pub(super) fn of(metric: &[u8], metric_type: u64, is_native_histogram: bool) -> &[u8] {
    // A series of native histograms has its family's name: what looks like a suffix is a part of that.
    if is_native_histogram || metric_type == COUNTER {
        return metric;
    }
    let families = SUFFIXES.iter().filter(|(_, types)| types.contains(&metric_type));
    let family = families.filter_map(|(suffix, _)| metric.strip_suffix(*suffix)).next();
    family.filter(|family| !family.is_empty()).unwrap_or(metric)
}

/// The family whose name is shorter than this metric's, and the types it may be of.
pub(super) fn shorter(metric: &[u8]) -> Option<(&[u8], &'static [u64])> {
    // All suffixes end differently, so there is one at most.
    SUFFIXES.iter().find_map(|(suffix, types)| Some((metric.strip_suffix(*suffix)?, *types)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGE: u64 = 2;

    #[test]
    fn a_family_is_what_prometheus_calls_so() {
        let cases = [
            ("rpc_seconds_bucket", HISTOGRAM, "rpc_seconds"),
            ("rpc_seconds_count", HISTOGRAM, "rpc_seconds"),
            ("rpc_seconds_sum", SUMMARY, "rpc_seconds"),
            ("rpc_seconds", SUMMARY, "rpc_seconds"),
            ("rpc_seconds_bucket", SUMMARY, "rpc_seconds_bucket"),
            ("queue_gcount", GAUGE_HISTOGRAM, "queue"),
            ("queue_gsum", GAUGE_HISTOGRAM, "queue"),
            ("queue_sum", GAUGE_HISTOGRAM, "queue"),
            ("queue_gsum", HISTOGRAM, "queue_gsum"),
            ("requests_total", COUNTER, "requests_total"),
            ("build_info", INFO, "build"),
            ("build_info", GAUGE, "build_info"),
            ("items_count", GAUGE, "items_count"),
            ("_count", HISTOGRAM, "_count"),
        ];
        for (metric, metric_type, family) in cases {
            assert_eq!(of(metric.as_bytes(), metric_type, false), family.as_bytes(), "{metric}");
        }
        assert_eq!(of(b"row_count", HISTOGRAM, true), b"row_count", "a native histogram");
    }

    #[test]
    fn what_was_sent_as_a_family_s_is_found_again_for_each_of_its_series() {
        for (suffix, types) in SUFFIXES {
            let metric = [b"foo", suffix].concat();
            for metric_type in types {
                let family = of(&metric, *metric_type, false);
                let found = shorter(&metric).unwrap();
                assert!(family == metric || (family == found.0 && found.1.contains(metric_type)));
            }
        }
        assert_eq!(shorter(b"foo"), None);
    }
}
