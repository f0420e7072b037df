//! One measurement of delivery: load, then the drain, until the sink has what was acknowledged.
//!
//! ```text
//!   load                               drain
//!  |----------------------------------|--------------------| every acknowledged sample is at the sink
//!  '------------- CPU and private memory of the subject ---'
//!  '--- acknowledgements, accepted ---'
//! ```
//!
//! Who puts work off until later gets no better numbers by it.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::load::{Load, Pace};
use crate::process::{Used, Watch, cpu_in_ticks, machine_busy};
use crate::sink::{Counts, Sink};
use crate::subject::{Running, Subject};

/// Between two questions whether everything has arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What was measured.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Of the subject.
    pub used: Used,
    /// Acknowledged samples.
    pub accepted: u64,
    /// What all targets together got.
    pub delivered: u64,
    /// In so many requests.
    pub requests: u64,
    /// How many targets.
    pub targets: u64,
    /// Not acknowledged requests.
    pub rejected: u64,
    /// Requests that the sink had to count sample by sample.
    pub odd: u64,
    /// Acknowledgements, sorted.
    pub latencies: Vec<Duration>,
    /// The load alone.
    pub load_took: Duration,
    /// What all targets together had got when the load ended.
    pub delivered_under_load: u64,
    /// From the end of the load to the last sample.
    pub drain_took: Duration,
    /// CPU of the load generator.
    pub load_cpu: Duration,
    /// CPU of the sink.
    pub sink_cpu: Duration,
    /// CPU of everything else on the machine, as a share of one CPU.
    pub others: f64,
}

impl Delivery {
    /// Measures.
    pub fn measure(
        subject: Subject,
        running: &Running,
        load: &mut Load,
        sink: &mut Sink,
        pace: Pace,
        lasting: Duration,
    ) -> Result<Delivery, Box<dyn Error>> {
        let targets = subject.targets as u64;
        let before = sink.counts()?;
        let (own, sinks, busy) = (cpu_in_ticks(std::process::id())?, cpu_in_ticks(sink.pid())?, machine_busy()?);
        let watch = Watch::start(running.process.pid())?;
        let start = Instant::now();
        let answers = load.send(running.address, pace, lasting)?;
        let under_load = sink.counts()?;
        let load_end = Instant::now();
        let accepted = answers.samples();
        let after = drain(sink, before.samples + accepted * targets, 3 * lasting + Duration::from_secs(5))?;
        let drain_took = load_end.elapsed();
        let used = watch.stop()?;
        let load_cpu = cpu_in_ticks(std::process::id())? - own;
        let sink_cpu = cpu_in_ticks(sink.pid())? - sinks;
        let ours = used.cpu + load_cpu + sink_cpu;
        let others = (machine_busy()? - busy).saturating_sub(ours).as_secs_f64() / start.elapsed().as_secs_f64();
        let mut latencies = answers.latencies;
        latencies.sort_unstable();
        Ok(Delivery {
            used,
            accepted,
            delivered: after.samples - before.samples,
            requests: after.requests - before.requests,
            targets,
            rejected: answers.rejected,
            odd: after.odd - before.odd,
            latencies,
            load_took: answers.took,
            delivered_under_load: under_load.samples - before.samples,
            drain_took,
            load_cpu,
            sink_cpu,
            others,
        })
    }

    /// CPU for a sample from the upstream to all targets, in nanoseconds.
    pub fn nanos_per_sample(&self) -> f64 {
        self.per_sample(self.used.cpu)
    }

    /// A time, for each sample that was delivered to all targets.
    pub fn per_sample(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 * self.targets as f64 / self.delivered.max(1) as f64
    }

    /// In milliseconds. `share` 0.5 is the median.
    pub fn latency(&self, share: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    /// What is missing at the sink, or, negative, came twice.
    pub fn missing(&self) -> i64 {
        (self.accepted * self.targets) as i64 - self.delivered as i64
    }
}

/// Waits until the sink has got this many samples in all, but not for ever.
pub fn drain(sink: &mut Sink, samples: u64, limit: Duration) -> Result<Counts, Box<dyn Error>> {
    let end = Instant::now() + limit;
    loop {
        let counts = sink.counts()?;
        if counts.samples >= samples || Instant::now() > end {
            return Ok(counts);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
