//! The rate that a target's 429s teach, in samples/s.
//!
//! ```text
//!                429                      rest is over, no 429
//!  unlimited ----------> resting (plateau) -------------------> rising: one step after another, each higher than the last
//!      ^                   ^      ^  | 429: lower                 |  |
//!      |                   |      '--'                            |  |
//!      |                   '--------------------------------------'  |
//!      |                     429: a little below what was measured   |
//!      '-------------------------------------------------------------'
//!        the limit does not bind, though there is a backlog
//! ```
//!
//! What is known of a limiter when it says 429 (whatever it is: a token bucket, a counter per window, a sliding window):
//! - A bucket is empty, and was at the 429 before: what passed on average since then is its rate, whatever its size.
//! - A counter has no memory: the highest limit that passed a whole step is below its rate, and the one that failed is above it. A bucket
//!   that had time to fill passes more than its rate for a while.
//!
//! So the limit becomes a little less than the highest that was sustained, but not much more than the average. If that was too much,
//! the next 429 comes early, before the rest is over; what passed until then is measured.
//!
//! How well the rate is known tells how high the steps upward are and how soon they come: 4 % after a long rest when it is known
//! well, up to half and soon after a first guess. 429s stay rare (a rest is at least 40 requests), a step that passes makes the next one higher, and so a limit that was lifted is
//! found to be within two minutes or 60 requests, whichever is later. A step counts only when the limit was used: a rate nobody tried proves nothing.
//! When the limit has risen so far that something else is slower, it is forgotten.
//!
//! Not every 429 teaches: a few at the very start are no measurement, and those that have nothing to do with the rate make it forgotten (`chance`).

use std::time::{Duration, Instant};

use super::chance::{Chance, Verdict};

/// How much of what was measured is used.
const BELOW: f64 = 0.98;
/// The lowest step upward: with it the rate is known well.
const GAIN_MIN: f64 = 0.04;
/// The highest step upward after a 429. (Steps that go well are followed by higher ones.)
const GAIN_MAX: f64 = 0.5;
/// How long a rate that is known well is left alone: 429s must stay rare, in requests and in time.
const REST: Duration = Duration::from_secs(35);
const REST_REQUESTS: u64 = 40;
/// How long a step upward is watched: the lowest, which tell what is sustained by a target that counts per 10 s, and the others.
const LOW_STEP: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(3);
const STEP_REQUESTS: u64 = 5;
/// So much more than on average may what was sustained be: a bucket had saved it up.
const SAVED_UP: f64 = 1.15;
/// So much more than while it rested is more than a bucket of the usual size had saved up.
const LIFTED: f64 = 1.3;
/// The first 429 during a rest does not lower the limit further than to this.
const EARLY_FALL: f64 = 0.9;
const EARLY_FALL_AGAIN: f64 = 0.5;
/// What passed in this time or twice as long is what passed lately.
const LATELY: Duration = Duration::from_secs(10);
/// Fewer requests than this say little.
const LITTLE_REQUESTS: u64 = 8;
/// Without a limit 429s teach nothing before so much was measured, unless there were more of them than this and no fewer than what passed.
const LONE: Duration = Duration::from_secs(3);
const LONE_REQUESTS: u64 = 40;
const LONE_MAX: u64 = 3;
/// Unused time that may be made up for. Covers a timer that is late, no more: a limiter may count by the second.
const CREDIT: Duration = Duration::from_millis(20);
/// The slowest that can be learned is one batch in this time.
const SLOWEST: Duration = Duration::from_secs(20);
/// At most so many turns are left out, as a power of 2.
const TURNS_MAX: u32 = 3;
/// A target that answers only 429 for so long has another trouble than a rate.
const NOT_A_RATE: Duration = Duration::from_secs(60);

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    /// Samples that the target let through.
    samples: u64,
    /// Requests that it let through.
    requests: u64,
    /// Time in which nobody had anything to send.
    idle: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    /// Samples/s.
    limit: Option<f64>,
    /// By how much the first step upward is higher: how little is known.
    doubt: f64,
    /// By how much the next step is higher.
    gain: f64,
    is_resting: bool,
    /// What is there now; its time is that of the last event.
    count: Count,
    /// When this step began, and the one before.
    step: Count,
    step_before: Count,
    /// At least [`LATELY`] ago, and as long before that.
    lately: Count,
    lately_before: Count,
    /// The last 429 that was not the answer to a probe.
    exceeded: Count,
    /// The limit before that.
    limit_before: Option<f64>,
    /// The highest limit since then that passed a whole step.
    sustained: Option<f64>,
    /// 429s in a row that came before a step was over, and the one before them.
    early: u32,
    row: Count,
    /// In this trouble.
    refused_probes: u32,
    /// 429s that taught nothing, since the last that did: too little was known.
    lone: u64,
    refused_at: Instant,
    /// From where on it is known without a break what passed.
    known_from: Count,
    chance: Chance,
    /// Requests let through that had started since the newest 429.
    fresh: u64,
    /// The limit while it rested last.
    rested_at: f64,
    /// From where on it was measured for the last 429.
    measured_from: Count,
    /// No start before this.
    next: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Rate {
        let count = Count { at: now, samples: 0, requests: 0, idle: Duration::ZERO };
        Rate {
            limit: None,
            doubt: GAIN_MAX * 4.0,
            gain: GAIN_MAX,
            is_resting: false,
            count,
            step: count,
            step_before: count,
            lately: count,
            lately_before: count,
            exceeded: count,
            limit_before: None,
            sustained: None,
            early: 0,
            row: count,
            refused_probes: 0,
            lone: 0,
            refused_at: now,
            known_from: count,
            chance: Chance::default(),
            fresh: 0,
            rested_at: f64::INFINITY,
            measured_from: count,
            next: now,
        }
    }

    pub(super) fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// When the next request may start.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Waiting is over, whatever was said. The limit stays.
    pub(super) fn skip_wait(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// A request starts, `idle` after it could have.
    pub(super) fn started(&mut self, now: Instant, samples: u64, idle: Duration, paused_until: Option<Instant>) {
        self.count.at = now;
        self.count.idle += idle;
        if now - self.lately.at >= LATELY {
            self.lately_before = self.lately;
            self.lately = self.count;
        }
        self.step_on();
        if let Some(limit) = self.limit {
            // A pause is no time that was not used.
            let from = now.checked_sub(CREDIT).max(paused_until).map_or(now, |from| self.next.max(from));
            self.next = from + time_for(samples, limit);
        }
    }

    /// The target let a request through.
    pub(super) fn passed(&mut self, now: Instant, samples: u64) {
        self.count.at = now;
        self.count.samples += samples;
        self.count.requests += 1;
    }

    /// That request had started since the newest 429.
    pub(super) fn passed_since_refused(&mut self) {
        self.fresh += 1;
    }

    /// It said 429 to a request that had started before the newest 429.
    pub(super) fn exceeded_as_well(&mut self) {
        self.chance.refused_along();
    }

    /// It said 429, not to a probe, to a request of so many samples that started then.
    pub(super) fn exceeded(&mut self, now: Instant, started: Instant, samples: u64) {
        self.count.at = now;
        self.refused_at = now;
        if self.chance.is_ignored(now) {
            return;
        }
        let verdict = match self.limit {
            Some(_) => self.chance.refused(now, self.fresh, self.sustained.is_none()),
            None => Verdict::Believe,
        };
        if verdict == Verdict::Ignore {
            return self.forget();
        }
        if verdict == Verdict::Wait {
            return self.wait_for(started, samples);
        }
        self.limit_before = self.limit;
        self.measured_from = self.exceeded;
        let measured = match (self.limit, self.sustained) {
            (None, _) => {
                if self.step_before.at > self.exceeded.at {
                    self.measured_from = self.step_before;
                }
                if self.count.requests == self.measured_from.requests {
                    self.measured_from = self.known_from;
                }
                if self.count.requests == self.measured_from.requests {
                    // Nothing was let through yet that tells how much could be.
                    self.exceeded = self.count;
                    return;
                }
                if self.is_lone() {
                    self.lone += 1;
                    return;
                }
                self.measured(samples)
            }
            (Some(limit), None) => {
                self.early += 1;
                self.measured_from = self.row;
                let is_little = self.count.requests - self.measured_from.requests < LITTLE_REQUESTS;
                let least = match (self.early == 1 && self.doubt <= GAIN_MAX / 4.0, is_little) {
                    (true, _) => EARLY_FALL * limit,
                    (false, false) => EARLY_FALL_AGAIN * limit,
                    (false, true) => 0.0,
                };
                self.measured(samples).max(least).min(limit * (1.0 - GAIN_MIN) / BELOW)
            }
            // A limit that was lifted, or a big bucket, or a long window.
            (Some(_), Some(sustained)) if self.doubt > GAIN_MIN || sustained > self.rested_at * LIFTED => {
                if self.doubt <= GAIN_MIN {
                    self.doubt = GAIN_MAX;
                }
                if self.lately_before.at > self.exceeded.at {
                    self.measured_from = self.lately_before;
                }
                sustained.min(self.measured(samples) * LIFTED)
            }
            // A bucket passed more than its rate while it emptied.
            (Some(_), Some(sustained)) => sustained.min(self.measured(samples) * SAVED_UP),
        };
        let is_little = self.count.requests - self.measured_from.requests < LITTLE_REQUESTS;
        if self.sustained.is_some() {
            self.early = 0;
        }
        let is_unknown = self.sustained.is_none() && is_little && (self.doubt > GAIN_MIN || self.early > 1);
        self.lower_to(BELOW * measured, samples);
        self.doubt = (self.doubt / 4.0).clamp(if is_unknown { GAIN_MAX / 2.0 } else { GAIN_MIN }, GAIN_MAX);
        if let Verdict::Try(share) = verdict {
            self.try_at(share, samples);
        }
        self.rest();
        self.lone = 0;
        self.exceeded = self.count;
        if self.early == 0 {
            self.row = self.count;
        }
        self.wait_for(started, samples);
    }

    /// It said 429 to a probe as well.
    pub(super) fn still_exceeded(&mut self, now: Instant, started: Instant, samples: u64) {
        self.count.at = now;
        let Some(limit) = self.limit else { return self.exceeded(now, started, samples) };
        let verdict = self.chance.refused(now, self.fresh, self.sustained.is_none());
        if verdict == Verdict::Ignore {
            return self.forget();
        }
        if verdict == Verdict::Wait {
            self.refused_probes += 1;
            return self.wait_for(started, samples);
        }
        let measured = self.measured(samples);
        if self.doubt >= GAIN_MAX / 2.0 && BELOW * SAVED_UP * measured < limit {
            self.lower_to(BELOW * SAVED_UP * measured, samples);
        }
        if let Verdict::Try(share) = verdict {
            self.try_at(share, samples);
        }
        self.rest();
        self.refused_probes += 1;
        self.wait_for(started, samples);
    }

    /// A trouble ended that began then. If it was too long to be the work of a limiter, it taught nothing.
    pub(super) fn trouble_ended(&mut self, now: Instant, began: Instant) {
        if now - began >= NOT_A_RATE && self.exceeded.at >= began {
            self.limit = self.limit_before;
            self.doubt = GAIN_MAX;
            self.next = now;
        }
        self.count.at = now;
        self.refused_probes = 0;
        // Nothing is made up for.
        self.next = self.next.max(now);
        // A pause that was short is a part of what is measured.
        if self.limit.is_some() || now - began >= LONE && self.refused_at < began {
            self.lone = 0;
            self.known_from = self.count;
            self.rest();
        }
    }

    /// So little is known that one 429 tells nothing about a rate.
    fn is_lone(&self) -> bool {
        let passed = self.count.requests - self.known_from.requests;
        let took = self.count.at - self.known_from.at;
        let is_little = took < LONE || passed < LONE_REQUESTS && took < 3 * LONE;
        is_little && (self.lone < LONE_MAX || passed > self.lone + 1)
    }

    /// Sends at a share of the limit, to see whether 429s have to do with it.
    fn try_at(&mut self, share: f64, samples: u64) {
        if let Some(limit) = self.limit {
            self.chance.tries(self.count.at, self.fresh, limit);
            self.lower_to(limit * share, samples);
        }
    }

    /// The limit is no more, and what is learned next is a first guess.
    fn forget(&mut self) {
        self.limit = None;
        self.limit_before = None;
        self.sustained = None;
        self.early = 0;
        self.lone = 0;
        self.doubt = GAIN_MAX * 4.0;
        self.next = self.count.at;
        self.exceeded = self.count;
        self.known_from = self.count;
        self.chance.forget();
    }

    fn rest(&mut self) {
        self.is_resting = true;
        self.sustained = None;
        self.rested_at = self.limit.unwrap_or(f64::INFINITY);
        self.gain = self.doubt;
        self.step = self.count;
        self.step_before = self.count;
    }

    fn lower_to(&mut self, limit: f64, samples: u64) {
        self.limit = Some(limit.max(samples.max(1) as f64 / SLOWEST.as_secs_f64()));
    }

    /// The refused request used its turn up, and each further one twice as many: the window of a counter may be long.
    fn wait_for(&mut self, started: Instant, samples: u64) {
        if let Some(limit) = self.limit {
            self.next = self.next.max(started + time_for(samples, limit) * (1 << self.refused_probes.min(TURNS_MAX)));
        }
    }

    /// Samples/s on average. Of few requests: as many as it may have been, with part of the one that was refused.
    fn measured(&self, refused: u64) -> f64 {
        let since = self.measured_from;
        let refused = match self.count.requests - since.requests {
            _ if self.limit.is_none() => 0,
            0 | 1 => refused,
            2..LITTLE_REQUESTS => refused / 2,
            _ => 0,
        };
        let samples = self.count.samples - since.samples + refused;
        let busy = (self.count.at - since.at).saturating_sub(self.count.idle - since.idle);
        samples.max(1) as f64 / busy.as_secs_f64().max(1e-3)
    }

    /// The next step, if this one has been long enough.
    fn step_on(&mut self) {
        if let Some(limit) = self.chance.went_well(self.count.at, self.fresh) {
            self.limit = Some(limit);
            self.doubt = (self.doubt / 2.0).max(GAIN_MIN);
            // What passed before the limiter was found again tells nothing about it.
            self.row = self.count;
            return self.rest();
        }
        if self.chance.is_trial() {
            return;
        }
        let (long, requests) = match self.limit {
            Some(_) if self.is_resting && self.doubt <= GAIN_MIN => (REST, REST_REQUESTS),
            Some(_) if self.is_resting => (STEP, 2 * STEP_REQUESTS),
            Some(_) if self.gain <= 2.0 * GAIN_MIN => (LOW_STEP, STEP_REQUESTS),
            _ => (STEP, STEP_REQUESTS),
        };
        let took = self.count.at - self.step.at;
        if took < long || self.count.requests - self.step.requests < requests {
            return;
        }
        let passed = self.count.samples - self.step.samples;
        let batch = passed / (self.count.requests - self.step.requests);
        let rate = passed as f64 / took.as_secs_f64();
        // The last request may be on its way.
        let rate_most = (passed + batch) as f64 / took.as_secs_f64();
        let is_busy = (self.count.idle - self.step.idle) * 10 < took;
        match self.limit {
            Some(limit) if rate_most >= 0.9 * limit => {
                self.sustained = Some(limit);
                self.limit = Some(limit * (1.0 + self.gain));
                self.gain = if self.is_resting { self.gain } else { (self.gain * 2.0).min(1.0) };
                self.is_resting = false;
            }
            // Something else is slower.
            Some(limit) if is_busy && rate < limit * if self.is_resting { 0.5 } else { 0.8 } => {
                self.limit = None;
                self.doubt = GAIN_MAX * 4.0;
                self.next = self.count.at;
                self.chance.forget();
            }
            _ => {}
        }
        self.step_before = self.step;
        self.step = self.count;
    }
}

/// Never longer than [`SLOWEST`]: what was learned from small requests says little about large ones, and only sending tells more.
fn time_for(samples: u64, per_second: f64) -> Duration {
    Duration::try_from_secs_f64(samples as f64 / per_second).unwrap_or(SLOWEST).min(SLOWEST)
}
