//! What a target saw: every request with its time, and what can be read from that.

use std::fmt;
use std::time::{Duration, Instant};

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When all of it had been read.
    pub arrived: Instant,
    /// How long until its answer was sent.
    pub took: Duration,
    /// In it.
    pub samples: u64,
    /// Of its body.
    pub bytes: u64,
    /// Of the answer.
    pub status: u16,
}

impl Seen {
    /// When its answer was sent.
    pub fn answered(&self) -> Instant {
        self.arrived + self.took
    }

    /// 2xx.
    pub fn is_taken(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Requests in the order in which they arrived.
#[derive(Clone, Debug, Default)]
pub struct Timeline(pub Vec<Seen>);

impl Timeline {
    /// Those that arrived in a span.
    pub fn between(&self, from: Instant, to: Instant) -> Timeline {
        Timeline(self.0.iter().filter(|seen| seen.arrived >= from && seen.arrived < to).copied().collect())
    }

    /// Requests with samples.
    pub fn requests(&self) -> u64 {
        self.0.iter().filter(|seen| seen.samples > 0).count() as u64
    }

    /// Requests without: a target is asked whether it is well.
    pub fn questions(&self) -> u64 {
        self.0.len() as u64 - self.requests()
    }

    /// Requests with a status.
    pub fn with_status(&self, status: u16) -> u64 {
        self.0.iter().filter(|seen| seen.status == status).count() as u64
    }

    /// Samples that were taken.
    pub fn taken(&self) -> u64 {
        self.0.iter().filter(|seen| seen.is_taken()).map(|seen| seen.samples).sum()
    }

    /// Samples that were sent, whatever the answer.
    pub fn sent(&self) -> u64 {
        self.0.iter().map(|seen| seen.samples).sum()
    }

    /// Bytes that were sent.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|seen| seen.bytes).sum()
    }

    /// The first arrival and the last answer.
    pub fn span(&self) -> Option<(Instant, Instant)> {
        Some((self.0.first()?.arrived, self.0.iter().map(Seen::answered).max()?))
    }

    /// From the first arrival to the last answer.
    pub fn took(&self) -> Duration {
        self.span().map_or(Duration::ZERO, |(from, to)| to - from)
    }

    /// Samples taken per second, over all of the span.
    pub fn rate(&self) -> f64 {
        self.taken() as f64 / self.took().as_secs_f64()
    }

    /// Samples taken per second, from the moment when half of them had been taken.
    pub fn rate_of_second_half(&self) -> f64 {
        let mut taken: Vec<(Instant, u64)> =
            self.0.iter().filter(|seen| seen.is_taken()).map(|seen| (seen.answered(), seen.samples)).collect();
        taken.sort_unstable();
        let half = self.taken() / 2;
        let mut sum = 0;
        let Some(middle) = taken.iter().position(|(_, samples)| {
            sum += samples;
            sum >= half
        }) else {
            return f64::NAN;
        };
        let took = taken[taken.len() - 1].0 - taken[middle].0;
        (self.taken() - sum) as f64 / took.as_secs_f64()
    }

    /// Requests at the target at this moment.
    pub fn in_flight_at(&self, moment: Instant) -> usize {
        self.0.iter().filter(|seen| seen.arrived <= moment && moment < seen.answered()).count()
    }

    /// The most at the same time.
    pub fn in_flight_max(&self) -> usize {
        let mut steps: Vec<(Instant, i32)> =
            self.0.iter().flat_map(|seen| [(seen.arrived, 1), (seen.answered(), -1)]).collect();
        steps.sort_unstable();
        let mut now = 0;
        let highest = steps.into_iter().map(|(_, step)| {
            now += step;
            now
        });
        highest.max().unwrap_or(0).try_into().unwrap_or(0)
    }

    /// Weighted by time.
    pub fn in_flight_mean(&self) -> f64 {
        self.0.iter().map(|seen| seen.took).sum::<Duration>().as_secs_f64() / self.took().as_secs_f64()
    }

    /// The longest time in which nothing was at the target.
    pub fn silence(&self) -> Duration {
        let Some(mut busy_until) = self.0.first().map(|seen| seen.arrived) else { return Duration::ZERO };
        let mut longest = Duration::ZERO;
        for seen in &self.0 {
            longest = longest.max(seen.arrived.saturating_duration_since(busy_until));
            busy_until = busy_until.max(seen.answered());
        }
        longest
    }
}

impl fmt::Display for Timeline {
    /// A line for each second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((from, to)) = self.span() else { return writeln!(f, "  no request") };
        let mut second = from;
        while second < to {
            let next = second + Duration::from_secs(1);
            let these = self.between(second, next);
            let mut statuses: Vec<u16> = these.0.iter().map(|seen| seen.status).collect();
            statuses.sort_unstable();
            statuses.dedup();
            let counts: Vec<String> =
                statuses.into_iter().map(|status| format!("{status}: {}", these.with_status(status))).collect();
            writeln!(
                f,
                "  {:4} s  {:7} samples sent, {:7} taken, {:2} at a time at most  {}",
                (second - from).as_secs(),
                these.sent(),
                these.taken(),
                these.in_flight_max(),
                counts.join(", "),
            )?;
            second = next;
        }
        Ok(())
    }
}
