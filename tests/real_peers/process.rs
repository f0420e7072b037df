//! Server processes: started with a log file, waited for, stopped, started again, and never left behind.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a server may take to start, to stop or to show what was sent to it. Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server, running or stopped. Dropping it kills it, and prints the end of its log if the test is failing.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `program`; its output goes to `<name>.log` in `directory`, which is also its working directory.
    pub fn start(name: &str, directory: &Path, program: &Path, arguments: Vec<String>) -> Process {
        let mut process = Process {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            log: directory.join(format!("{name}.log")),
            child: None,
        };
        process.start_again();
        process
    }

    /// Starts a stopped process with the same arguments; its log goes on in the same file.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "{} already runs", self.name);
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("the log file opens");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(self.log.parent().expect("the log file is in a directory"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.program.display()));
        self.child = Some(child);
    }

    /// Waits until a GET of `url` is answered with 2xx.
    pub async fn answers(&mut self, url: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if http().get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let child = self.child.as_mut().expect("only a running process is waited for");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("{} ended at its start: {status}", self.name);
            }
            assert!(Instant::now() < deadline, "{} does not answer {url}", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks the process to end (SIGTERM) and waits until it has; returns how it ended and how long that took.
    pub async fn terminate(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let mut child = self.child.take().expect("only a running process is stopped");
        let id = child.id().expect("a child that was not waited for has an id");
        let id = Pid::from_raw(id.try_into().expect("a process id fits")).expect("no child has the id 0");
        kill_process(id, Signal::TERM).expect("a child can be signalled");
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => (status.expect("a child can be waited for"), asked.elapsed()),
            Err(_) => panic!("{} still runs {PATIENCE:?} after SIGTERM", self.name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("---- end of the log of {}\n{end}\n----", self.name);
        }
    }
}

/// The binary that `variable` names; `tests/real-peers` sets it.
pub fn peer(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run tests/real-peers")).into()
}

/// A port on 127.0.0.1 that nobody listens on, different at each call.
///
/// It is below the range from which the kernel takes the ports of outgoing connections: else one of those could sit on
/// the port of a server that is stopped for a while.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at the same time begin at different ports.
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_768, "no free port");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The HTTP client of all tests.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| http_from(None))
}

/// One whose connections come from this address of this machine.
pub fn http_from(source: Option<IpAddr>) -> reqwest::Client {
    // reqwest refuses to be built without one, although nothing here speaks TLS. An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        .local_address(source)
        // Each test has a runtime of its own; a connection must not outlive the one in which it was made.
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client without TLS can be built")
}

/// Repeats `attempt` until it succeeds; panics with `what` and the last reason after [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("still not after {PATIENCE:?}: {what}: {reason}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
