//! What is measured: promrelay or vmagent with some targets, each with settings under which it does the same work.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use crate::http;
use crate::process::Process;

/// Until it answers `/-/ready` with 200.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where the programs are, and how the relay is set.
#[derive(Debug)]
pub struct Programs {
    /// Built by cargo for this benchmark, or given.
    pub promrelay: PathBuf,
    /// If there is one.
    pub vmagent: Option<PathBuf>,
    /// `wal.sync`.
    pub sync: String,
}

impl Programs {
    fn path(&self, program: Program) -> Option<&Path> {
        match program {
            Program::Promrelay | Program::Relabeled | Program::To2 => Some(&self.promrelay),
            Program::Vmagent => self.vmagent.as_deref(),
        }
    }

    /// What a program says about its version; `None` if there is no such program.
    pub fn version(&self, program: Program) -> Option<String> {
        let argument = match program {
            Program::Promrelay | Program::Relabeled | Program::To2 => "--version",
            Program::Vmagent => "-version",
        };
        let output = Command::new(self.path(program)?).arg(argument).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // Distributions build vmagent without its version.
        Some(if said.is_empty() { format!("{program}, which does not tell its version") } else { said })
    }
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// This one.
    Promrelay,
    /// This one, with an external label and rules that look at each series and give it one more label.
    Relabeled,
    /// This one, with what it receives as 1.0 sent as 2.0.
    To2,
    /// VictoriaMetrics' agent.
    Vmagent,
}

/// A program with a number of targets; written as `promrelay:2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What runs.
    pub program: Program,
    /// All are the same sink, under different paths.
    pub targets: usize,
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Subject, String> {
        let (name, targets) = text.split_once(':').unwrap_or((text, "1"));
        let program = match name {
            "promrelay" => Program::Promrelay,
            "relabeled" => Program::Relabeled,
            "to-2.0" => Program::To2,
            "vmagent" => Program::Vmagent,
            _ => return Err("must be promrelay:TARGETS, relabeled:TARGETS, to-2.0:TARGETS or vmagent:TARGETS".into()),
        };
        let targets = targets.parse().ok().filter(|targets| (1..=100).contains(targets));
        Ok(Subject { program, targets: targets.ok_or("needs 1 to 100 targets")? })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Promrelay => "promrelay",
            Program::Relabeled => "promrelay, relabeled",
            Program::To2 => "promrelay, 1.0 to 2.0",
            Program::Vmagent => "vmagent",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.targets == 1 { "" } else { "s" };
        write!(f, "{}, {} target{plural}", self.program, self.targets)
    }
}

/// A subject that takes requests.
#[derive(Debug)]
pub struct Running {
    /// Ends with this value.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Subject {
    /// Starts it with its data in `dir`, and returns when it is ready. It is asked at this interval.
    pub fn start(
        self,
        programs: &Programs,
        dir: &Path,
        targets: &[String],
        asked_every: Duration,
    ) -> Result<Running, Box<dyn Error>> {
        let address = free_address()?;
        let mut command = Command::new(programs.path(self.program).ok_or("there is no such program")?);
        match self.program {
            Program::Promrelay | Program::Relabeled | Program::To2 => {
                let config = dir.join("config.toml");
                fs::write(&config, promrelay_config(address, dir, &programs.sync, targets, self.program)?)?;
                command.arg("--config").arg(config);
            }
            Program::Vmagent => {
                // Its own protocol would be another work than ours; everything else is as it comes.
                command
                    .arg(format!("-httpListenAddr={address}"))
                    .arg(format!("-remoteWrite.tmpDataPath={}", dir.join("vmagent").display()));
                for url in targets {
                    command.arg(format!("-remoteWrite.url={url}")).arg("-remoteWrite.forcePromProto=true");
                }
            }
        }
        let mut process = Process::start(&mut command, &dir.join("log.txt"))?;
        process
            .wait_until(asked_every, READY_WITHIN, || matches!(http::get(address, "/-/ready"), Ok(200)))
            .map_err(|error| format!("{self}: {error}"))?;
        Ok(Running { process, address })
    }
}

/// No sample is filtered, so that all that is accepted arrives; every series is looked at, and each changes.
const RULES: &str = r#"
external_labels = { cluster = "eu-1" }
write_relabel_configs = [
    { source_labels = ["__name__"], regex = "go_.*|process_.*", action = "drop" },
    { source_labels = ["namespace", "pod"], separator = "/", regex = "(.+)/(.+)-[a-z0-9]+", target_label = "app", replacement = "$1/$2" },
]
"#;

fn promrelay_config(
    address: SocketAddr,
    dir: &Path,
    sync: &str,
    targets: &[String],
    program: Program,
) -> Result<String, fmt::Error> {
    let dir = dir.join("wal");
    let mut config = format!("[server]\nlisten = \"{address}\"\n\n[wal]\ndir = {dir:?}\nsync = {sync:?}\n");
    for (number, url) in targets.iter().enumerate() {
        write!(config, "\n[[target]]\nname = \"target-{number}\"\nurl = {url:?}\n")?;
        config.push_str(match program {
            Program::Relabeled => RULES,
            Program::To2 => "protocol = \"2.0\"\n",
            Program::Promrelay | Program::Vmagent => "",
        });
    }
    Ok(config)
}

fn free_address() -> Result<SocketAddr, std::io::Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
