//! Appenders, each with one record at a time: tasks on one thread, which is the cheapest way to wait for many answers.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::subject::Running;

/// When the appenders stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many records, all together.
    Records(usize),
}

/// Appends, and returns how long each took to be acknowledged, shortest first.
pub fn append(running: &Arc<Running>, appenders: usize, until: Until) -> Result<Vec<Duration>, Box<dyn Error>> {
    // Neither sockets nor timers: so the thread parks on a futex.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (end, records) = match until {
        Until::Elapsed(time) => (Some(Instant::now() + time), usize::MAX),
        Until::Records(records) => (None, records),
    };
    let left = Arc::new(AtomicUsize::new(records));
    let mut took = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..appenders {
            let (running, left) = (running.clone(), left.clone());
            tasks.spawn(async move {
                let mut took = Vec::new();
                let mut now = Instant::now();
                let take = |left| usize::checked_sub(left, 1);
                while end.is_none_or(|end| now < end)
                    && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
                {
                    running.append().await?;
                    let began = std::mem::replace(&mut now, Instant::now());
                    took.push(now - began);
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(took)
            });
        }
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            all.extend(ended?.map_err(|error| -> Box<dyn Error> { error })?);
        }
        Ok::<_, Box<dyn Error>>(all)
    })?;
    took.sort_unstable();
    Ok(took)
}

/// Run time of all threads of this process that still live.
pub fn cpu() -> std::io::Result<Duration> {
    let mut nanos = 0;
    for entry in fs::read_dir("/proc/self/task")? {
        // The thread may end between listing and reading.
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Writes out all that the file system holds back: what was deleted or left behind must not be paid for by what is measured next.
pub fn settle(dir: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(dir)?)?)
}
