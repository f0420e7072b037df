//! Points in time as people write them on a command line. Pure: "now" is an argument.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that has four digits for its year.
const LATEST_MS: i64 = 253_402_300_799_999;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The oldest record that is there.
    Oldest,
    /// Behind the newest.
    Now,
    /// The first record received at this time or later, ms since 1970.
    Time(i64),
    /// A position.
    Position(u64),
}

/// What cannot be read as a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Neither of these.
    #[error("{text:?} is not a time: 2026-01-31T10:00:00Z, -2h, now, or seconds since 1970")]
    Time {
        /// What was written.
        text: String,
    },
    /// Neither of these.
    #[error("{text:?} is not a place in the log: oldest, now, -2h, 2026-01-31T10:00:00Z, or a position")]
    Point {
        /// What was written.
        text: String,
    },
}

/// `now`, `-2h`, `2026-01-31T10:00:00Z` or with `+01:00`, or seconds since 1970, in ms since 1970.
///
/// # Errors
/// [`TimeError::Time`].
pub fn parse_time(text: &str, now_ms: i64) -> Result<i64, TimeError> {
    let parsed = match text {
        "now" => Some(now_ms),
        _ => relative(text, now_ms).or_else(|| unix_seconds(text)).or_else(|| rfc3339(text)),
    };
    parsed.ok_or_else(|| TimeError::Time { text: text.to_owned() })
}

/// `oldest`, `now`, a time as in [`parse_time`] but for bare seconds, or a position.
///
/// # Errors
/// [`TimeError::Point`].
pub fn parse_point(text: &str, now_ms: i64) -> Result<Point, TimeError> {
    let parsed = match text {
        "oldest" => Some(Point::Oldest),
        "now" => Some(Point::Now),
        _ if is_digits(text) => text.parse().ok().map(Point::Position),
        _ => relative(text, now_ms).or_else(|| rfc3339(text)).map(Point::Time),
    };
    parsed.ok_or_else(|| TimeError::Point { text: text.to_owned() })
}

/// `2026-01-31T10:00:00.123Z`; what no calendar has room for as a number of milliseconds.
#[must_use]
pub fn show(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(since) if ms <= LATEST_MS => {
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(since)).to_string()
        }
        _ => format!("{ms} ms"),
    }
}

/// `-2h`, `-1h 30m`.
fn relative(text: &str, now_ms: i64) -> Option<i64> {
    let ago = humantime::parse_duration(text.strip_prefix('-')?).ok()?;
    now_ms.checked_sub(i64::try_from(ago.as_millis()).ok()?)
}

/// `1769850000`, `1769850000.5`.
fn unix_seconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(seconds) || !is_digits(fraction) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

/// With or without an offset; without one it is UTC.
fn rfc3339(text: &str) -> Option<i64> {
    let at = text.len().checked_sub(6).filter(|at| text.is_char_boundary(*at));
    let (date, offset) = match at.map(|at| text.split_at(at)) {
        Some((date, offset)) if date.contains(':') && offset.starts_with(['+', '-']) => (date, offset),
        _ => (text, "+00:00"),
    };
    let (hours, minutes) =
        offset[1..].split_once(':').filter(|(hours, minutes)| is_digits(hours) && is_digits(minutes))?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let east = (hours < 24 && minutes < 60).then_some((60 * hours + minutes) * 60_000)?;
    let local = humantime::parse_rfc3339_weak(date).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let local = i64::try_from(local.as_millis()).ok()?;
    Some(if offset.starts_with('-') { local + east } else { local - east })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31T10:00:00Z.
    const NOW: i64 = 1_769_853_600_000;

    #[test]
    fn a_time_can_be_said_in_many_ways() {
        for (text, ms) in [
            ("now", NOW),
            ("-2h", NOW - 7_200_000),
            ("-1h 30m", NOW - 5_400_000),
            ("-250ms", NOW - 250),
            ("2026-01-31T10:00:00Z", NOW),
            ("2026-01-31T10:00:00.25Z", NOW + 250),
            ("2026-01-31 10:00:00", NOW),
            ("2026-01-31T11:30:00+01:30", NOW),
            ("2026-01-31T05:00:00-05:00", NOW),
            ("1769853600", NOW),
            ("1769853600.5", NOW + 500),
            ("0", 0),
        ] {
            assert_eq!(parse_time(text, NOW), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_an_error_that_names_it() {
        for text in [
            "",
            "2h",
            "-",
            "-2",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "1e9",
            "1.",
            "--2h",
            "2026-01-31T10:00:00+99:00",
            "é+00:00",
        ] {
            assert_eq!(parse_time(text, NOW), Err(TimeError::Time { text: text.into() }));
            assert!(parse_time(text, NOW).unwrap_err().to_string().contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn a_bare_number_is_a_position_where_a_place_is_asked_for() {
        assert_eq!(parse_point("4711", NOW), Ok(Point::Position(4711)));
        assert_eq!(parse_point("oldest", NOW), Ok(Point::Oldest));
        assert_eq!(parse_point("now", NOW), Ok(Point::Now));
        assert_eq!(parse_point("-2h", NOW), Ok(Point::Time(NOW - 7_200_000)));
        assert_eq!(parse_point("2026-01-31T10:00:00Z", NOW), Ok(Point::Time(NOW)));
        for text in ["newest", "-5", "12.5", "99999999999999999999"] {
            assert_eq!(parse_point(text, NOW), Err(TimeError::Point { text: text.into() }));
        }
    }

    #[test]
    fn every_number_of_milliseconds_can_be_shown() {
        assert_eq!(show(NOW + 7), "2026-01-31T10:00:00.007Z");
        assert_eq!(show(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(show(LATEST_MS), "9999-12-31T23:59:59.999Z");
        for ms in [-1, i64::MIN, LATEST_MS + 1, i64::MAX] {
            assert_eq!(show(ms), format!("{ms} ms"));
        }
    }
}
