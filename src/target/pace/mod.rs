//! How fast a target may be sent to. Pure: time and chance are arguments.
//!
//! ```text
//!            probe succeeds, or is refused          any failure: one pause, window halved
//!   open <--------------------------------- troubled <------------------------- open
//!                                            |    ^
//!                            pause is over,  |    | probe fails: pause doubles
//!                            one probe goes  '----'
//! ```
//!
//! A request starts when all of these let it:
//! - **Window**: so many requests may be in flight. From 1, one more per window of successes while there is a backlog, half after trouble.
//! - **Pause**: after a failure nothing starts for a while, whatever batch it is: what the target asked for, else exponential back-off.
//!   Then one request goes alone. Only its success opens the window again; its failure makes the next pause longer.
//! - **Slow start**: at the start, and after trouble of more than 10 s, requests start slowly and the rate doubles per round.
//! - **Learned rate**: what the target's 429s teach (`rate`), as long as they have to do with a rate (`chance`).
//! - **Configured rates**: samples/s and bytes/s.
//!
//! # Rules
//! - The answers to what was in flight when trouble began are one failure, not many. Requests have numbers; an answer to one that started before
//!   the newest pause began ends no trouble, starts none, counts nothing and halves nothing. Only a longer `Retry-After` is heeded.
//! - A success of such a request proves that the target was well *before* the trouble. Its samples count for the learned rate, no more.
//! - A window that was halved while a learned rate is in force doubles per round up to where it was: the rate is what holds the sender back, and it
//!   needs a window that is wide enough. Else it grows by one per window.
//! - Every trouble halves the window, also a connection that is refused: what comes back is not met by everything at once.
//! - A probe that fails does not halve the window again: a lone request says nothing about how many at once are too many.
//! - Every ticket is handed back once: [`success`](Pace::success), [`refused`](Pace::refused), [`throttled`](Pace::throttled),
//!   [`failed`](Pace::failed), [`held`](Pace::held) or [`abandon`](Pace::abandon).

mod chance;
mod rate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use rate::Rate;

/// How a target's pace is configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests at once. 0 is taken for 1.
    pub max_in_flight: usize,
    /// Samples per second, more than 0. No limit without.
    pub samples_per_second: Option<f64>,
    /// Bytes of bodies per second, more than 0. No limit without.
    pub bytes_per_second: Option<f64>,
    /// After failures.
    pub backoff: Backoff,
    /// After answers that ask for somebody's attention.
    pub hold: Backoff,
}

/// A request that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "without its end the request counts as in flight for ever"]
pub struct Ticket {
    number: u64,
    started: Instant,
    samples: u64,
}

/// Whether a request may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// It may.
    Now,
    /// Ask again then, or after an answer if one comes earlier. Always later than now.
    At(Instant),
    /// Not before an answer comes.
    AfterAnswer,
}

/// Trouble longer than this ends in a slow start.
const OUTAGE: Duration = Duration::from_secs(10);
/// Unused time that configured rates let one make up for; they are lower by as much, over 10 s.
const CREDIT: Duration = Duration::from_millis(100);
const SHARE_WITHOUT_CREDIT: f64 = 0.99;
/// A gap shorter than this between two requests is the relay's own work, not idleness.
const IDLE_MIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Down,
    Held,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    kind: Kind,
    began: Instant,
    /// In a row, of this kind.
    failures: u32,
    /// The window before it.
    window: usize,
    /// The number of the request that goes alone.
    probe: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pace {
    limits: Limits,
    in_flight: usize,
    /// The number of the next request.
    next_number: u64,
    /// Requests below this number started before the newest pause began.
    fresh_from: u64,
    trouble: Option<Trouble>,
    /// Outlives the trouble: a target may ask for it in an answer that came late.
    paused_until: Option<Instant>,
    window: usize,
    /// Up to here the window doubles per round.
    double_up_to: usize,
    /// Since the window last grew.
    successes: usize,
    slow_start: Option<SlowStart>,
    rate: Rate,
    samples: Option<Allowance>,
    bytes: Option<Allowance>,
    /// The last start or answer.
    last_event: Instant,
}

impl Pace {
    /// Of a target that was never sent to.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Pace {
        Pace {
            in_flight: 0,
            next_number: 0,
            fresh_from: 0,
            trouble: None,
            paused_until: None,
            window: 1,
            double_up_to: 1,
            successes: 0,
            slow_start: Some(SlowStart::new(now)),
            rate: Rate::new(now),
            samples: limits.samples_per_second.map(|per_second| Allowance::new(per_second, now)),
            bytes: limits.bytes_per_second.map(|per_second| Allowance::new(per_second, now)),
            last_event: now,
            limits,
        }
    }

    /// Whether a request may start now. Ask only for one that is there to be sent.
    pub fn may_start(&mut self, now: Instant) -> May {
        let is_alone = match self.trouble {
            Some(trouble) => trouble.probe.is_none(),
            None => self.in_flight < self.window,
        };
        if !is_alone || self.in_flight >= self.max_in_flight() {
            return May::AfterAnswer;
        }
        let others = self.earliest_but_for_slow_start();
        let earliest = match &mut self.slow_start {
            Some(slow_start) => {
                slow_start.binds |= slow_start.next > now.max(others);
                others.max(slow_start.next)
            }
            None => others,
        };
        if earliest <= now { May::Now } else { May::At(earliest) }
    }

    /// A request starts: [`may_start`](Pace::may_start) said so. (If it did not, this counts it all the same.)
    pub fn start(&mut self, now: Instant, samples: u64, bytes: u64) -> Ticket {
        let mut earliest = self.earliest_but_for_slow_start().max(self.last_event);
        if let Some(slow_start) = &self.slow_start {
            earliest = earliest.max(slow_start.next);
        }
        let idle = now.saturating_duration_since(earliest);
        let idle = if idle < IDLE_MIN { Duration::ZERO } else { idle };
        self.rate.started(now, samples, idle, self.paused_until);
        if let Some(allowance) = &mut self.samples {
            allowance.spend(now, samples);
        }
        if let Some(allowance) = &mut self.bytes {
            allowance.spend(now, bytes);
        }
        if self.slow_start.as_mut().is_some_and(|slow_start| slow_start.started(now).is_over()) {
            self.slow_start = None;
        }
        let number = self.next_number;
        self.next_number += 1;
        if let Some(trouble) = &mut self.trouble {
            trouble.probe = Some(number);
        }
        self.in_flight += 1;
        self.last_event = now;
        Ticket { number, started: now, samples }
    }

    /// The target took it. `has_backlog`: there is more that could be sent at once.
    pub fn success(&mut self, now: Instant, ticket: Ticket, has_backlog: bool) {
        self.passed(now, ticket);
        if !self.is_fresh(ticket) || !has_backlog || self.window >= self.max_in_flight() {
            return;
        }
        self.successes += 1;
        if self.window < self.double_up_to || self.successes >= self.window {
            self.window += 1;
            self.successes = 0;
        }
    }

    /// The target answered and works, it only does not want this data. Ends trouble, does not open the window further.
    pub fn refused(&mut self, now: Instant, ticket: Ticket) {
        self.passed(now, ticket);
    }

    /// The target says that it is too much: 429, and 503 with `Retry-After`. Teaches a rate. `random` in 0..1.
    pub fn throttled(&mut self, now: Instant, ticket: Ticket, retry_after: Option<Duration>, random: f64) {
        let is_probe = self.trouble.is_some();
        if self.is_fresh(ticket) {
            if is_probe {
                self.rate.still_exceeded(now, ticket.started, ticket.samples);
            } else {
                self.rate.exceeded(now, ticket.started, ticket.samples);
            }
        } else {
            self.rate.exceeded_as_well();
        }
        self.in_trouble(now, ticket, Kind::Down, retry_after, random);
    }

    /// Every other answer that is worth another attempt, and no answer. `random` in 0..1.
    pub fn failed(&mut self, now: Instant, ticket: Ticket, retry_after: Option<Duration>, random: f64) {
        self.in_trouble(now, ticket, Kind::Down, retry_after, random);
    }

    /// An answer that asks for somebody's attention: tried again slowly ([`Limits::hold`]). `random` in 0..1.
    pub fn held(&mut self, now: Instant, ticket: Ticket, random: f64) {
        self.in_trouble(now, ticket, Kind::Held, None, random);
    }

    /// We gave the attempt up; that says nothing about the target.
    pub fn abandon(&mut self, now: Instant, ticket: Ticket) {
        self.ended(now);
        if let Some(trouble) = &mut self.trouble
            && trouble.probe == Some(ticket.number)
        {
            trouble.probe = None;
        }
    }

    /// An operator wants to see something happen: a request may start at once, back-off begins anew. Configured limits hold, what was learned stays.
    pub fn reset(&mut self, now: Instant) {
        self.paused_until = None;
        self.rate.skip_wait(now);
        if let Some(slow_start) = &mut self.slow_start {
            slow_start.next = slow_start.next.min(now);
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.failures = 0;
            // It may hang for as long as a time-out takes.
            trouble.probe = None;
        }
    }

    /// Until when nothing starts. May have passed.
    #[cfg(test)]
    #[must_use]
    pub fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// In a row, those of one moment counted once. 0 when the target is well.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.trouble.map_or(0, |trouble| trouble.failures)
    }

    /// Requests that may be in flight. In trouble: after it.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// Requests in flight.
    #[cfg(test)]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The limit that the target taught, in samples/s.
    #[must_use]
    pub fn learned_rate(&self) -> Option<f64> {
        self.rate.limit()
    }

    fn max_in_flight(&self) -> usize {
        self.limits.max_in_flight.max(1)
    }

    fn is_fresh(&self, ticket: Ticket) -> bool {
        ticket.number >= self.fresh_from
    }

    fn earliest_but_for_slow_start(&self) -> Instant {
        let configured = [&self.samples, &self.bytes].into_iter().flatten().map(|allowance| allowance.next);
        configured.chain(self.paused_until).fold(self.rate.next(), Instant::max)
    }

    fn ended(&mut self, now: Instant) {
        debug_assert!(self.in_flight > 0, "a ticket is handed back once");
        self.in_flight = self.in_flight.saturating_sub(1);
        self.last_event = now;
    }

    fn passed(&mut self, now: Instant, ticket: Ticket) {
        self.ended(now);
        self.rate.passed(now, ticket.samples);
        if let Some(slow_start) = &mut self.slow_start {
            slow_start.round_trip = now.saturating_duration_since(ticket.started);
        }
        if !self.is_fresh(ticket) {
            return;
        }
        self.rate.passed_since_refused();
        if let Some(trouble) = self.trouble.take() {
            self.rate.trouble_ended(now, trouble.began);
            self.successes = 0;
            // Where a learned rate holds the sender back, the window need not; but it must be as wide as the rate needs.
            self.double_up_to = if self.rate.limit().is_some() { trouble.window } else { 1 };
            if now.saturating_duration_since(trouble.began) >= OUTAGE {
                self.double_up_to = self.double_up_to.max(self.window);
                self.window = 1;
                self.slow_start = Some(SlowStart::new(now));
            }
        }
    }

    fn in_trouble(&mut self, now: Instant, ticket: Ticket, kind: Kind, retry_after: Option<Duration>, random: f64) {
        self.ended(now);
        let asked = retry_after.map(|retry_after| self.limits.backoff.wait_at_least(retry_after, random));
        if !self.is_fresh(ticket) {
            if let Some(asked) = asked {
                self.paused_until = self.paused_until.max(Some(now + asked));
            }
            return;
        }
        let window = self.window;
        if self.trouble.is_none() {
            self.window = (window / 2).max(1);
        }
        let trouble = self.trouble.get_or_insert(Trouble { kind, began: now, failures: 0, window, probe: None });
        if trouble.kind != kind {
            trouble.kind = kind;
            trouble.failures = 0;
        }
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.probe = None;
        let backoff = match kind {
            Kind::Down => self.limits.backoff,
            Kind::Held => self.limits.hold,
        };
        let wait = asked.unwrap_or_else(|| backoff.wait(trouble.failures, random));
        // A late answer may have asked for more.
        self.paused_until = self.paused_until.max(Some(now + wait));
        self.fresh_from = self.next_number;
    }
}

/// Few requests per second at first, twice as many per round, until something else is slower.
#[derive(Clone, Debug)]
struct SlowStart {
    requests_per_second: f64,
    round_began: Instant,
    /// Of the last answer.
    round_trip: Duration,
    /// A request had to wait for it in this round.
    binds: bool,
    next: Instant,
}

impl SlowStart {
    const REQUESTS_PER_SECOND: f64 = 10.0;
    const REQUESTS_PER_SECOND_MAX: f64 = 10_000.0;
    const ROUND_MIN: Duration = Duration::from_millis(500);

    fn new(now: Instant) -> SlowStart {
        SlowStart {
            requests_per_second: SlowStart::REQUESTS_PER_SECOND,
            round_began: now,
            round_trip: Duration::ZERO,
            binds: false,
            next: now,
        }
    }

    fn started(&mut self, now: Instant) -> &SlowStart {
        if now.saturating_duration_since(self.round_began) >= self.round_trip.max(SlowStart::ROUND_MIN) {
            self.requests_per_second = if self.binds { self.requests_per_second * 2.0 } else { f64::INFINITY };
            self.round_began = now;
            self.binds = false;
        }
        self.next = now + Duration::from_secs_f64(1.0 / self.requests_per_second);
        self
    }

    fn is_over(&self) -> bool {
        self.requests_per_second > SlowStart::REQUESTS_PER_SECOND_MAX
    }
}

/// A configured rate: a token bucket that holds next to nothing. A batch of any size passes when it is not in debt, and its whole
/// size is owed before the next one.
#[derive(Clone, Debug)]
struct Allowance {
    per_second: f64,
    next: Instant,
}

impl Allowance {
    fn new(per_second: f64, now: Instant) -> Allowance {
        Allowance { per_second: per_second * SHARE_WITHOUT_CREDIT, next: now }
    }

    fn spend(&mut self, now: Instant, amount: u64) {
        const DEBT_MAX: Duration = Duration::from_secs(86_400);
        let from = now.checked_sub(CREDIT).map_or(now, |credited| self.next.max(credited));
        let owed = Duration::try_from_secs_f64(amount as f64 / self.per_second).unwrap_or(DEBT_MAX);
        self.next = from + owed.min(DEBT_MAX);
    }
}
