//! A target that is as strict as Prometheus, and as unreliable as one likes: a [`Sink`] with rules.
//!
//! ```text
//!  of a series is kept: the newest time and value        of a request
//!    newer                    -> stored                    1.0: one bad sample -> 400, nothing is kept
//!    equal in time and value  -> repeated, fine            2.0: what is good is kept -> 400 with exact *-Written headers
//!    equal in time only       -> bad                       no bad sample -> 204
//!    older                    -> bad                       no samples at all -> 204
//!    cursed, or before the oldest time it takes -> bad     too many bytes -> 413; too many samples a second -> 429
//! ```
//! Before any of this, chance decides whether there is trouble: a status, or a connection that ends, with the data stored or not.
//!
//! An older sample that was never stored is what the relay may not send: it put a newer one before it. An older one that is there
//! already only comes again. The judge tells them apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::request::Protocol;
use super::sink::{Answer, Received, Sink};

/// What can go wrong with any request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// This answer, and nothing is stored.
    Status(u16),
    /// The connection is closed, and nothing is stored.
    HangUp,
    /// The data is judged and stored as always, then the connection is closed.
    HangUpAfter,
    /// The data is judged and stored as always, and the answer comes so late that nobody waits for it.
    Late(Duration),
}

/// Samples a second, as a bucket that holds a second's worth.
#[derive(Clone, Debug)]
pub struct Limit {
    pub samples_per_second: f64,
    /// Of its answers.
    pub retry_after: Option<&'static str>,
}

/// What a target takes and how it behaves. By default: everything that is in order, at once.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Series that are always bad: all whose name has such a text in it.
    pub cursed: Vec<String>,
    /// Of a body as sent.
    pub bytes_max: Option<usize>,
    pub limit: Option<Limit>,
    /// Samples with an earlier time are bad. In ms.
    pub oldest: Option<i64>,
    /// An answer takes so long,
    pub latency: Duration,
    /// and up to so much longer.
    pub jitter: Duration,
    /// Each with its chance; what is left is none.
    pub troubles: Vec<(f64, Trouble)>,
}

/// What happened to samples, each counted at each attempt that was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests with samples in them, whatever became of them.
    pub requests: u64,
    /// Answered with 429 because of the limit.
    pub limited: u64,
    /// Answered with 413.
    pub too_large: u64,
    /// Stored for the first time.
    pub stored: u64,
    /// There already, the newest of its series, and taken once more.
    pub repeated: u64,
    /// In requests that were answered with 400.
    pub refused_requests: u64,
}

struct State {
    rules: Rules,
    random: fastrand::Rng,
    series: HashMap<Arc<str>, Vec<(i64, u64)>>,
    tokens: f64,
    filled: Instant,
    seen: Seen,
    reordered: Vec<String>,
}

/// The target. Clones are the same one.
#[derive(Clone)]
pub struct Strict {
    pub sink: Sink,
    state: Arc<Mutex<State>>,
}

/// What is to be said of one sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    New,
    Repeated,
    Bad,
}

impl Strict {
    /// A target with rules; its troubles come from the seed.
    pub async fn start(seed: u64, rules: Rules) -> Strict {
        let sink = Sink::start().await;
        let state = State {
            rules,
            random: fastrand::Rng::with_seed(seed),
            series: HashMap::new(),
            tokens: 0.0,
            filled: Instant::now(),
            seen: Seen::default(),
            reordered: Vec::new(),
        };
        let strict = Strict { sink, state: Arc::new(Mutex::new(state)) };
        strict.obey_rules();
        strict
    }

    /// Answers by its rules, after a script of the sink's own.
    pub fn obey_rules(&self) {
        let state = self.state.clone();
        self.sink.script(move |request| state.lock().expect("no judge panics").answer(request));
    }

    pub fn url(&self) -> String {
        self.sink.url()
    }

    pub fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.lock().rules);
    }

    /// No more troubles, limits or delays.
    pub fn heal(&self) {
        self.change(|rules| {
            rules.troubles.clear();
            rules.limit = None;
            (rules.latency, rules.jitter) = (Duration::ZERO, Duration::ZERO);
        });
    }

    pub fn seen(&self) -> Seen {
        self.lock().seen
    }

    /// All that was ever stored, each sample once, in the order in which it was stored: time and value by series.
    pub fn stored(&self) -> BTreeMap<Arc<str>, Vec<(i64, f64)>> {
        let state = self.lock();
        let series = state.series.iter().filter(|(_, samples)| !samples.is_empty());
        series
            .map(|(name, samples)| {
                (name.clone(), samples.iter().map(|(timestamp, bits)| (*timestamp, f64::from_bits(*bits))).collect())
            })
            .collect()
    }

    /// No sample came behind a newer one of its series, except for those that came again; and nothing was malformed.
    pub fn assert_in_order(&self) {
        let reordered = self.lock().reordered.clone();
        assert!(reordered.is_empty(), "{} samples out of order, such as {:?}", reordered.len(), &reordered[..1]);
        assert_eq!(self.sink.faults(), Vec::<String>::new(), "faults of the sender");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no judge panics")
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Answer {
        let latency = self.rules.latency + self.rules.jitter.mul_f64(self.random.f64());
        self.seen.requests += u64::from(!request.samples.is_empty());
        match self.trouble() {
            Some(Trouble::Status(status)) => Answer::status(status).body("trouble").delay(latency),
            Some(Trouble::HangUp) => Answer::hang_up().delay(latency),
            Some(Trouble::HangUpAfter) => {
                let stores = self.judge(request).0;
                Answer::hang_up().keeping(stores).delay(latency)
            }
            Some(Trouble::Late(late)) => self.answer_by_rules(request).delay(late),
            None => self.answer_by_rules(request).delay(latency),
        }
    }

    fn trouble(&mut self) -> Option<Trouble> {
        let mut chance = self.random.f64();
        self.rules.troubles.iter().find_map(|(share, trouble)| {
            chance -= share;
            (chance < 0.0).then(|| trouble.clone())
        })
    }

    fn answer_by_rules(&mut self, request: &Received) -> Answer {
        if self.rules.bytes_max.is_some_and(|most| request.body.len() > most) {
            self.seen.too_large += 1;
            return Answer::status(413).body("too large");
        }
        if let Some(answer) = self.over_limit(request.samples.len() as f64) {
            self.seen.limited += 1;
            return answer;
        }
        let (keeps, is_good) = self.judge(request);
        if is_good {
            return Answer::status(204);
        }
        self.seen.refused_requests += 1;
        Answer::status(400).body("out of order sample").keeping(keeps)
    }

    fn over_limit(&mut self, samples: f64) -> Option<Answer> {
        let limit = self.rules.limit.clone()?;
        let passed = self.filled.elapsed().as_secs_f64();
        self.filled = Instant::now();
        self.tokens = (self.tokens + passed * limit.samples_per_second).min(limit.samples_per_second);
        // A request that is larger than the bucket passes when it is full.
        if self.tokens >= samples.min(limit.samples_per_second) {
            self.tokens -= samples;
            return None;
        }
        let answer = Answer::status(429).body("too many samples");
        Some(match limit.retry_after {
            Some(retry_after) => answer.header("retry-after", retry_after),
            None => answer,
        })
    }

    /// Stores what is to be stored; which samples that are, and whether all were good.
    fn judge(&mut self, request: &Received) -> (Vec<bool>, bool) {
        let before: Vec<_> =
            request.samples.iter().map(|sample| (sample.series.clone(), self.newest(&sample.series))).collect();
        let mut verdicts = Vec::with_capacity(request.samples.len());
        for sample in &request.samples {
            let verdict = self.verdict(&sample.series, sample.timestamp, sample.value.to_bits());
            if verdict == Verdict::New {
                let stored = self.series.entry(sample.series.clone()).or_default();
                stored.push((sample.timestamp, sample.value.to_bits()));
            }
            verdicts.push(verdict);
        }
        let is_good = !verdicts.contains(&Verdict::Bad);
        if !is_good && request.protocol == Protocol::V1 {
            // All or nothing: as it was before.
            for (series, newest) in before {
                if let Some(stored) = self.series.get_mut(&series) {
                    stored.retain(|(timestamp, _)| newest.is_some_and(|newest| *timestamp <= newest));
                }
            }
            return (vec![false; verdicts.len()], false);
        }
        for verdict in &verdicts {
            self.seen.stored += u64::from(*verdict == Verdict::New);
            self.seen.repeated += u64::from(*verdict == Verdict::Repeated);
        }
        (verdicts.iter().map(|verdict| *verdict != Verdict::Bad).collect(), is_good)
    }

    fn newest(&self, series: &str) -> Option<i64> {
        self.series.get(series)?.last().map(|(timestamp, _)| *timestamp)
    }

    fn verdict(&mut self, series: &Arc<str>, timestamp: i64, bits: u64) -> Verdict {
        let is_cursed = self.rules.cursed.iter().any(|cursed| series.contains(cursed));
        if is_cursed || self.rules.oldest.is_some_and(|oldest| timestamp < oldest) {
            return Verdict::Bad;
        }
        let stored = self.series.get(series).map_or(&[][..], Vec::as_slice);
        match stored.last() {
            Some((newest, value)) if *newest == timestamp && *value == bits => Verdict::Repeated,
            Some((newest, _)) if *newest == timestamp => Verdict::Bad,
            Some((newest, _)) if *newest > timestamp => {
                // Stored in order of time, so that it can be searched.
                if stored.binary_search_by_key(&timestamp, |(timestamp, _)| *timestamp).is_err() {
                    self.reordered.push(format!("{series} {timestamp} after {newest}"));
                }
                Verdict::Bad
            }
            _ => Verdict::New,
        }
    }
}
