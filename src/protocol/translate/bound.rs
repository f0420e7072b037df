//! A bucket's bound as the value of the label `le`: as Prometheus writes it, or series would not meet those that were scraped.
//!
//! It is the shortest number that reads back the same, as Go's `strconv` writes it with the format `g`: below 1e-4 and from 1e6 on with
//! an exponent of two digits at least; and with `.0` behind it where it would look like an integer (Prometheus:
//! `labels.FormatOpenMetricsFloat`).

use std::fmt::Write as _;

/// Appends the bound.
pub(super) fn write(to: &mut String, bound: f64) {
    if bound.is_nan() {
        to.push_str("NaN");
    } else if bound.is_infinite() {
        to.push_str(if bound > 0.0 { "+Inf" } else { "-Inf" });
    } else if bound == 0.0 {
        // Of either sign.
        to.push_str("0.0");
    } else {
        finite(to, bound);
    }
}

fn finite(to: &mut String, bound: f64) {
    let start = to.len();
    // One digit, perhaps a point and more of them, an exponent without zeroes.
    write!(to, "{bound:e}").expect("a string takes everything");
    let e = start + to[start..].find('e').expect("it was asked for");
    let exponent: i32 = to[e + 1..].parse().expect("a number of Rust's making");
    if (-4..6).contains(&exponent) {
        to.truncate(start);
        write!(to, "{bound}").expect("a string takes everything");
        if !to[start..].contains('.') {
            to.push_str(".0");
        }
    } else {
        to.truncate(e);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(to, "e{sign}{:02}", exponent.unsigned_abs()).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_prometheus_writes_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "0.0"),
            (1.0, "1.0"),
            (-1.0, "-1.0"),
            (10.0, "10.0"),
            (0.005, "0.005"),
            (2.5, "2.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (100_000.0, "100000.0"),
            (999_999.5, "999999.5"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1.5e100, "1.5e+100"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (bound, expected) in cases {
            let mut written = String::from("le=");
            write(&mut written, bound);
            assert_eq!(written, format!("le={expected}"));
        }
    }

    #[test]
    fn every_bound_reads_back_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let bound = f64::from_bits(random.u64(..));
            if bound.is_finite() && bound != 0.0 {
                let mut written = String::new();
                write(&mut written, bound);
                assert_eq!(written.parse::<f64>().unwrap().to_bits(), bound.to_bits(), "{written}");
            }
        }
    }
}
