//! Processes: started, ended, and watched by way of `/proc`.
//!
//! CPU is the run time of all threads as the scheduler counts it, in nanoseconds (`/proc/PID/task/*/schedstat`): `utime` + `stime` of
//! `/proc/PID/stat` is the same time, but in ticks of 10 ms, which is 4 % of what a good relay takes for a million samples. Both are
//! read, and the report tells how far they are apart. Where there is no `schedstat`, the ticks count.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at memory and threads.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// The end comes within this, or by force.
const END_WITHIN: Duration = Duration::from_secs(20);
/// The unit of times in `/proc/PID/stat` and `/proc/stat`, on every architecture of today.
const TICK: Duration = Duration::from_millis(10);

/// A child that does not outlive its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Process> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Process { child: command.spawn()?, log: log.to_owned() })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Calls `is_ready` until it is; an error with the process's last words if it ends or does not become so.
    pub fn wait_until(
        &mut self,
        interval: Duration,
        limit: Duration,
        is_ready: impl Fn() -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + limit;
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("ended with {status}:\n{}", self.last_words()).into());
            }
            if Instant::now() > end {
                return Err(format!("not ready after {limit:?}:\n{}", self.last_words()).into());
            }
            std::thread::sleep(interval);
        }
        Ok(())
    }

    /// SIGTERM, then waits for the end. How long that took.
    pub fn terminate(mut self) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > END_WITHIN {
                return Err(format!("does not end:\n{}", self.last_words()).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(start.elapsed())
    }

    /// SIGKILL, then waits for the end.
    #[allow(dead_code, reason = "only some of the benchmarks kill")]
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn last_words(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    /// SIGKILL, if it is still there.
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// What a process has used during a span.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Run time of all threads.
    pub cpu: Duration,
    /// The same by `utime` + `stime`.
    pub cpu_in_ticks: Duration,
    /// The highest `RssAnon` that was seen: memory of its own, without files in the page cache.
    pub private_bytes: u64,
}

/// Watches a process until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<io::Result<Used>>,
}

impl Watch {
    /// The span begins now.
    pub fn start(pid: u32) -> io::Result<Watch> {
        let mut threads = Threads::default();
        let (cpu, ticks) = (threads.cpu(pid)?, cpu_in_ticks(pid)?);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut private_bytes = 0;
            loop {
                let is_over = stopped.recv_timeout(WATCH_INTERVAL) != Err(RecvTimeoutError::Timeout);
                private_bytes = private_bytes.max(self::private_bytes(pid)?);
                let (cpu_now, ticks_now) = (threads.cpu(pid)?, cpu_in_ticks(pid)?);
                if is_over {
                    let cpu_in_ticks = ticks_now - ticks;
                    let cpu = if cpu_now.is_zero() { cpu_in_ticks } else { cpu_now - cpu };
                    return Ok(Used { cpu, cpu_in_ticks, private_bytes });
                }
            }
        });
        Ok(Watch { stop, thread })
    }

    /// The span ends now.
    pub fn stop(self) -> io::Result<Used> {
        let _ = self.stop.send(());
        self.thread.join().expect("the thread does not panic")
    }
}

/// Run times of threads; those that have ended are kept as they were seen last.
#[derive(Debug, Default)]
struct Threads(HashMap<String, u64>);

impl Threads {
    fn cpu(&mut self, pid: u32) -> io::Result<Duration> {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // The thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let run_time = text.split(' ').next().and_then(|number| number.parse().ok());
            self.0.insert(entry.file_name().to_string_lossy().into_owned(), run_time.unwrap_or(0));
        }
        Ok(Duration::from_nanos(self.0.values().sum()))
    }
}

/// `utime` + `stime`.
pub fn cpu_in_ticks(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces. utime and stime are the 12th and 13th behind it.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|number| number.parse::<u32>().ok());
    Ok(TICK * ticks.sum::<u32>())
}

fn private_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) << 10)
}

/// Time in which the machine's CPUs were busy: with anything, and with other guests of the host (`steal`).
pub fn machine_busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u32> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    Ok(TICK
        * ticks.iter().take(8).enumerate().filter(|(field, _)| ![3, 4].contains(field)).map(|(_, ticks)| ticks).sum())
}
