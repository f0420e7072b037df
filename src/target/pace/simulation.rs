//! Targets that limit, and a sender with an endless backlog, in simulated time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use super::{Limits, May, Pace, Ticket};
use crate::target::Backoff;

pub(super) fn limits(max_in_flight: usize) -> Limits {
    Limits {
        max_in_flight,
        samples_per_second: None,
        bytes_per_second: None,
        backoff: Backoff::try_new(Duration::from_millis(30), Duration::from_secs(5)).unwrap(),
        hold: Backoff::try_new(Duration::from_secs(1), Duration::from_secs(30)).unwrap(),
    }
}

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// How a target counts. Sizes in seconds of its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Counts {
    /// A token bucket that holds so much, at least one batch.
    Bucket(f64),
    /// So long, at least as long as one batch takes. The counter is 0 again when the next one begins.
    Fixed(f64),
    /// The same, but it slides.
    Sliding(f64),
}

#[derive(Clone, Copy)]
pub(super) struct Case {
    /// Batches that the target takes per second, and from half time on.
    pub rate: (f64, f64),
    pub batch: u64,
    pub latency: f64,
    pub kind: Counts,
    pub retry_after: Option<Duration>,
    pub max_in_flight: usize,
    pub seed: u64,
    /// Not measured, at the start and after the change.
    pub convergence: f64,
    pub measured: f64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { rate, batch, latency, kind, .. } = self;
        let retry = if self.retry_after.is_some() { ", Retry-After" } else { "" };
        write!(
            f,
            "{}->{} batches/s of {batch}, {} ms, {kind:?}{retry}, seed {}",
            rate.0,
            rate.1,
            latency * 1e3,
            self.seed
        )
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub passed: u64,
    pub throttled: u64,
    /// Passed, as a share of what the target would have taken.
    pub delivered: f64,
    /// Of the answers, those with 429.
    pub share: f64,
}

struct Limiter {
    kind: Counts,
    /// Batches/s.
    rate: f64,
    /// The length of a window is that of the slower rate.
    slower: f64,
    tokens: f64,
    at: f64,
    log: VecDeque<f64>,
}

impl Limiter {
    fn admits(&mut self, now: f64) -> bool {
        match self.kind {
            Counts::Bucket(size) => {
                self.tokens = (self.tokens + (now - self.at) * self.rate).min((size * self.rate).max(1.0));
                self.at = now;
                let admits = self.tokens >= 1.0 - 1e-9;
                self.tokens -= if admits { 1.0 } else { 0.0 };
                admits
            }
            Counts::Fixed(length) | Counts::Sliding(length) => {
                let length = length.max(1.0 / self.slower);
                let begin = match self.kind {
                    Counts::Fixed(_) => (now / length).floor() * length,
                    _ => now - length,
                };
                while self.log.front().is_some_and(|&at| at < begin) {
                    self.log.pop_front();
                }
                let admits = (self.log.len() as f64) < self.rate * length - 1e-9;
                if admits {
                    self.log.push_back(now);
                }
                admits
            }
        }
    }
}

struct Answer {
    at: Instant,
    ticket: Ticket,
    admitted: bool,
}

impl PartialEq for Answer {
    fn eq(&self, other: &Answer) -> bool {
        self.at == other.at
    }
}
impl Eq for Answer {}
impl PartialOrd for Answer {
    fn partial_cmp(&self, other: &Answer) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Answer {
    fn cmp(&self, other: &Answer) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The two halves: convergence, measurement, (change,) convergence, measurement. The second only if the rate changes.
pub(super) fn run(case: Case) -> (Part, Part) {
    let mut random = fastrand::Rng::with_seed(case.seed);
    let zero = Instant::now();
    let mut now = zero;
    let mut pace = Pace::new(limits(case.max_in_flight), now);
    let slower = case.rate.0.min(case.rate.1);
    let mut limiter =
        Limiter { kind: case.kind, rate: case.rate.0, slower, tokens: 0.0, at: 0.0, log: VecDeque::new() };
    limiter.tokens = match case.kind {
        Counts::Bucket(size) => (size * case.rate.0).max(1.0),
        _ => 0.0,
    };
    let mut answers: BinaryHeap<Reverse<Answer>> = BinaryHeap::new();
    let half = case.convergence + case.measured;
    let end = if case.rate.0 == case.rate.1 { half } else { 2.0 * half };
    let mut parts = [Part::default(); 2];
    // Not in step with the target's windows.
    let offset = random.f64() * 10.0;
    loop {
        let at = (now - zero).as_secs_f64();
        if at >= end {
            break;
        }
        limiter.rate = if at < half { case.rate.0 } else { case.rate.1 };
        while let Some(Reverse(answer)) = answers.peek()
            && answer.at <= now
        {
            let Some(Reverse(answer)) = answers.pop() else { unreachable!() };
            if answer.admitted {
                pace.success(now, answer.ticket, true);
            } else {
                pace.throttled(now, answer.ticket, case.retry_after, random.f64());
            }
            let part = &mut parts[usize::from(at >= half)];
            if at % half >= case.convergence {
                *(if answer.admitted { &mut part.passed } else { &mut part.throttled }) += 1;
            }
        }
        let may = pace.may_start(now);
        let next = match may {
            May::Now => {
                let ticket = pace.start(now, case.batch, case.batch * 10);
                let admitted = limiter.admits(at + offset + case.latency / 2.0);
                let latency = seconds(case.latency * (0.8 + 0.4 * random.f64()));
                answers.push(Reverse(Answer { at: now + latency, ticket, admitted }));
                continue;
            }
            May::At(then) => {
                assert!(then > now, "waits for something");
                Some(then)
            }
            May::AfterAnswer => None,
        };
        let answer = answers.peek().map(|Reverse(answer)| answer.at);
        now = match (next, answer) {
            // A timer is up to a millisecond late.
            (Some(next), Some(answer)) => answer.min(next + seconds(0.001 * random.f64())),
            (Some(next), None) => next + seconds(0.001 * random.f64()),
            (None, Some(answer)) => answer,
            (None, None) => panic!("waits for an answer that nobody will give"),
        };
    }
    for (part, rate) in parts.iter_mut().zip([case.rate.0, case.rate.1]) {
        part.delivered = part.passed as f64 / (rate * case.measured);
        part.share = part.throttled as f64 / ((part.passed + part.throttled) as f64).max(1.0);
    }
    (parts[0], parts[1])
}

/// A target that refuses at random, whatever the rate, and has no limiter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random {
    /// The shares of requests that are answered 429 and 503.
    pub throttles: f64,
    pub fails: f64,
    pub latency: f64,
    pub samples: u64,
    pub limits: Limits,
    pub seed: u64,
    /// The end: so many passed, or so much time.
    pub requests: u64,
    pub seconds: f64,
}

/// How many requests passed, and in how many seconds.
pub(super) fn run_random(case: Random) -> (u64, f64) {
    let mut random = fastrand::Rng::with_seed(case.seed);
    let zero = Instant::now();
    let mut now = zero;
    let mut pace = Pace::new(case.limits, now);
    let mut answers: BinaryHeap<Reverse<Answer>> = BinaryHeap::new();
    let mut passed = 0;
    while passed < case.requests && now - zero < seconds(case.seconds) {
        while let Some(Reverse(answer)) = answers.peek()
            && answer.at <= now
        {
            let Some(Reverse(answer)) = answers.pop() else { unreachable!() };
            let chance = random.f64();
            if chance < case.throttles {
                pace.throttled(now, answer.ticket, None, random.f64());
            } else if chance < case.throttles + case.fails {
                pace.failed(now, answer.ticket, None, random.f64());
            } else {
                pace.success(now, answer.ticket, true);
                passed += 1;
            }
        }
        let next = match pace.may_start(now) {
            May::Now => {
                let ticket = pace.start(now, case.samples, case.samples * 10);
                let latency = seconds(case.latency * (0.8 + 0.4 * random.f64()));
                answers.push(Reverse(Answer { at: now + latency, ticket, admitted: true }));
                continue;
            }
            May::At(then) => Some(then + seconds(0.001 * random.f64())),
            May::AfterAnswer => None,
        };
        let answer = answers.peek().map(|Reverse(answer)| answer.at);
        now = next.into_iter().chain(answer).min().expect("waits for an answer that nobody will give");
    }
    (passed, (now - zero).as_secs_f64())
}
