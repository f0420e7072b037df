//! Upstreams: each has series of its own and sends numbered requests one after the other, each until it is acknowledged, as Prometheus
//! does. What must be at a target in the end is a count per upstream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::request::{FIRST_TIMESTAMP, Post, Protocol, Request, noise};
use super::strict::Strict;
use super::{client, eventually};

/// How much comes from where.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub upstreams: usize,
    /// Of each upstream, all of them in each of its requests.
    pub series: usize,
    /// Of each series in a request, as entries of their own: a Prometheus that is behind sends several.
    pub samples: u64,
    /// Pauses between requests are up to double. Zero: as fast as it goes.
    pub pause: Duration,
    /// Bytes of each request that do not compress, as a label of a series of its own.
    pub noise: usize,
}

impl Plan {
    pub const SMALL: Plan = Plan { upstreams: 6, series: 4, samples: 1, pause: Duration::from_millis(10), noise: 0 };

    /// The requests of one upstream in turn speak 1.0 and 2.0.
    pub fn post(&self, upstream: usize, number: u64, random: &mut fastrand::Rng) -> Post {
        let mut request = Request::new();
        for sample in number * self.samples..(number + 1) * self.samples {
            request = self.names(upstream).iter().fold(request, |request, name| request.numbered(name, sample));
        }
        if self.noise > 0 {
            let (name, noise) = (upstream.to_string(), noise(random, self.noise));
            let sample = (FIRST_TIMESTAMP + number as i64, number as f64);
            request = request.series(&[("__name__", "noise"), ("upstream", &name), ("noise", &noise)], &[sample]);
        }
        request.post(Protocol::ALL[(number as usize + upstream) % 2])
    }

    fn names(&self, upstream: usize) -> Vec<String> {
        (0..self.series).map(|series| format!("{upstream}-{series}")).collect()
    }

    /// Of one request.
    pub fn samples_per_request(&self) -> u64 {
        self.series as u64 * self.samples + u64::from(self.noise > 0)
    }
}

/// What upstreams know when they are done.
#[derive(Clone, Debug)]
pub struct Sent {
    pub plan: Plan,
    /// Of each upstream: requests 0 up to this number were acknowledged.
    pub acknowledged: Vec<u64>,
    /// Requests that were sent without an answer: each may be in the log once more.
    pub unanswered: u64,
}

impl Sent {
    /// Samples that were acknowledged.
    pub fn samples(&self) -> u64 {
        self.acknowledged.iter().sum::<u64>() * self.plan.samples_per_request()
    }

    /// All numbered series, and how many samples of each were acknowledged.
    pub fn expected(&self) -> BTreeMap<String, u64> {
        let acknowledged = self.acknowledged.iter().enumerate();
        let series = acknowledged.flat_map(|(upstream, count)| {
            let name = move |name: String| (format!("numbered{{series={name:?}}}"), count * self.plan.samples);
            self.plan.names(upstream).into_iter().map(name)
        });
        series.filter(|(_, count)| *count > 0).collect()
    }

    /// The numbers of a series that are not at a target, by series; panics if one is there that was never sent.
    pub fn missing(&self, strict: &Strict) -> BTreeMap<String, Vec<u64>> {
        let mut stored = strict.stored();
        let mut missing = BTreeMap::new();
        for (series, count) in self.expected() {
            let there = stored.remove(&*series).unwrap_or_default();
            let mut numbers = there.iter().map(|(timestamp, value)| {
                assert_eq!(*timestamp, FIRST_TIMESTAMP + *value as i64, "a value of another time in {series}");
                *value as u64
            });
            let mut next = numbers.next();
            let mut gone = Vec::new();
            for number in 0..count {
                if next == Some(number) { next = numbers.next() } else { gone.push(number) }
            }
            assert_eq!(next, None, "{series} has more than the {count} samples that were sent");
            if !gone.is_empty() {
                missing.insert(series, gone);
            }
        }
        stored.retain(|series, _| !series.starts_with("noise"));
        assert!(stored.is_empty(), "nobody sent these: {stored:?}");
        missing
    }

    /// Everything that was acknowledged is at a target, in order, and nothing else.
    pub fn assert_all_at(&self, strict: &Strict) {
        strict.assert_in_order();
        let missing = self.missing(strict);
        let count: usize = missing.values().map(Vec::len).sum();
        assert_eq!(count, 0, "of {} samples these are missing: {missing:?}", self.samples());
    }
}

/// Upstreams under way.
pub struct Upstreams {
    plan: Plan,
    tasks: Vec<JoinHandle<(u64, u64)>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Upstreams {
    /// Sends until it is told to finish.
    pub fn start(url: &str, random: &mut fastrand::Rng, plan: Plan) -> Upstreams {
        Upstreams::start_to_send(url, random, plan, u64::MAX)
    }

    fn start_to_send(url: &str, random: &mut fastrand::Rng, plan: Plan, requests: u64) -> Upstreams {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..plan.upstreams).map(|upstream| {
            let (url, acknowledged, stop) = (url.to_string(), acknowledged.clone(), stop.clone());
            let random = random.fork();
            tokio::spawn(async move { send(upstream, plan, &url, random, requests, &acknowledged, &stop).await })
        });
        Upstreams { plan, tasks: tasks.collect(), acknowledged, stop }
    }

    /// Sends so many requests of each upstream.
    pub async fn send_all(url: &str, random: &mut fastrand::Rng, plan: Plan, requests: u64) -> Sent {
        Upstreams::start_to_send(url, random, plan, requests).end().await
    }

    /// Waits until so many more requests are acknowledged.
    pub async fn acknowledged(&self, more: u64) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + more;
        let are_there = async || (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(());
        eventually("requests are acknowledged", Duration::from_secs(30), are_there).await;
    }

    /// Each upstream ends after its request has been acknowledged.
    pub async fn finish(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.end().await
    }

    async fn end(self) -> Sent {
        let mut sent = Sent { plan: self.plan, acknowledged: Vec::new(), unanswered: 0 };
        for task in self.tasks {
            let (acknowledged, unanswered) = task.await.unwrap();
            sent.acknowledged.push(acknowledged);
            sent.unanswered += unanswered;
        }
        sent
    }
}

/// How many requests were acknowledged, and how many had no answer.
async fn send(
    upstream: usize,
    plan: Plan,
    url: &str,
    mut random: fastrand::Rng,
    requests: u64,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> (u64, u64) {
    let client = client();
    let (mut number, mut unanswered) = (0, 0);
    while number < requests && !stop.load(Ordering::Relaxed) {
        let post = plan.post(upstream, number, &mut random);
        loop {
            match post.send(&client, url).await {
                Ok(answer) if answer.status() == 204 => break,
                // Full, starting or shutting down: it is not in the log and never will be.
                Ok(answer) if answer.status() == 503 => {}
                Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                // The relay does not run: nothing was sent.
                Err(error) if error.is_connect() => {}
                Err(_) => unanswered += 1,
            }
            tokio::time::sleep(Duration::from_millis(random.u64(5..30))).await;
        }
        number += 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        if !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause.mul_f64(2.0 * random.f64())).await;
        }
    }
    (number, unanswered)
}
