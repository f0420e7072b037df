//! The wall clock, read in one place. Everything that decides by time takes it as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; a clock before that is 0.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// As people and programs read a time: `2026-01-31T10:00:00Z`.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// What somebody wrote is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no time: write \"-2h\" for two hours ago, or \"2026-01-31T10:00:00Z\"")]
pub struct InvalidTime {
    /// What was written.
    pub text: String,
}

/// Reads `-2h`, `-1day 6h`, `2026-01-31T10:00:00Z`, `2026-01-31 10:00:00` (UTC) or `now`, in ms since 1970.
///
/// # Errors
/// It is none of these.
pub fn parse_time(text: &str, now_ms: i64) -> Result<i64, InvalidTime> {
    let invalid = || InvalidTime { text: text.to_owned() };
    if text == "now" {
        return Ok(now_ms);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago = humantime::parse_duration(ago).map_err(|_| invalid())?;
        return Ok(now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| invalid())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| invalid())?;
    i64::try_from(since.as_millis()).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = 1_800_000_000_000;
        assert_eq!(parse_time("now", now), Ok(now));
        assert_eq!(parse_time("-90m", now), Ok(now - 5_400_000));
        assert_eq!(parse_time("-1day 6h", now), Ok(now - 108_000_000));
        assert_eq!(parse_time("2027-01-15T08:00:00Z", now), Ok(1_800_000_000_000));
        assert_eq!(parse_time("2027-01-15 08:00:00", now), Ok(1_800_000_000_000));
        assert_eq!(rfc3339(now), "2027-01-15T08:00:00Z");
        for wrong in ["", "-", "2h", "yesterday", "-2", "2027-13-01T00:00:00Z"] {
            assert_eq!(parse_time(wrong, now), Err(InvalidTime { text: wrong.to_owned() }));
        }
    }
}
