//! Whether segments are filled with zeroes before they are used.
//!
//! The first write to an allocated but never written part of a file needs a note in the filesystem's journal beside the data; a part
//! that was written before does not. So a sync of a filled segment can be faster. The price: every byte is written twice, which
//! matters for a disk that wears out. Whether it pays depends on the filesystem and the disk, so it is measured: the same small writes and
//! syncs, by turns in a part that was written and in one that was not.

use std::io;
use std::time::{Duration, Instant};

use super::segment::{DATA_START, Prepared};

/// When segments are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefill {
    /// Never.
    #[default]
    Never,
    /// Where a measurement on the first segment shows that it pays.
    Auto,
    /// Always.
    Always,
}

const PROBES: u64 = 16;
const PROBE_BYTES: u64 = 16 << 10;

/// Measures on a file that is not used yet. It holds nothing but zeroes before and after.
///
/// # Errors
/// What the system says. The file must not be used then: a sync of it may have failed.
pub(super) fn pays(prepared: &Prepared, len: u64) -> io::Result<bool> {
    if len < DATA_START + 2 * PROBES * PROBE_BYTES {
        return Ok(false);
    }
    let file = prepared.file();
    let written = DATA_START..DATA_START + PROBES * PROBE_BYTES;
    file.fill_with_zeroes(written.clone())?;
    file.sync_data()?;
    let timed = |offset: u64| {
        let started = Instant::now();
        file.fill_with_zeroes(offset..offset + PROBE_BYTES)?;
        file.sync_data()?;
        io::Result::Ok(started.elapsed())
    };
    let (mut again, mut first) = (Vec::new(), Vec::new());
    for probe in 0..PROBES {
        again.push(timed(written.start + probe * PROBE_BYTES)?);
        first.push(timed(written.end + probe * PROBE_BYTES)?);
    }
    Ok(is_worth_it(median(first), median(again)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A fifth of the time of a sync is worth writing everything twice.
fn is_worth_it(first: Duration, again: Duration) -> bool {
    again.as_secs_f64() < 0.8 * first.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::usage::DiskUsage;
    use super::*;

    #[test]
    fn a_fifth_of_the_time_is_worth_it() {
        let ms = Duration::from_millis;
        assert!(is_worth_it(ms(100), ms(79)) && !is_worth_it(ms(100), ms(81)) && !is_worth_it(ms(100), ms(200)));
        assert_eq!(median(vec![ms(9), ms(1), ms(5)]), ms(5));
    }

    #[test]
    fn what_was_measured_on_is_as_empty_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("next");
        let len = 1 << 20;
        let prepared = Prepared::create(path.clone(), len, &DiskUsage::default()).unwrap();
        pays(&prepared, len).unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.len() as u64 == len && bytes.iter().all(|byte| *byte == 0));
    }
}
