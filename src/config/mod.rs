//! The configuration: `config.toml` as it is written (`file`), checked and turned into the settings of each part.
//!
//! A wrong value stops the start with file, key, value and reason. Nothing is repaired silently. This is the only module that knows
//! how settings are spelled: `check` has what holds for any value, `server`, `log` and `targets` have a table of the file each.

mod check;
mod file;
mod log;
mod server;
mod targets;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{receive, target, wal, web};
use check::{Checker, quoted};
use value::Count;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen: one of these, tried in turn.
    pub listen: Vec<SocketAddr>,
    /// As written, for messages.
    pub listen_text: String,
    /// The listener's limits.
    pub server: web::server::Settings,
    /// The receiver's.
    pub receive: receive::Settings,
    /// The log's directory.
    pub wal_dir: PathBuf,
    /// How the log is opened.
    pub wal: wal::Options,
    /// What is kept, and what a full log gives up.
    pub room: Room,
    /// Bytes of the dead-letter ring; 0: there is none.
    pub dead_letter_bytes: u64,
    /// Whether the listener takes requests that change things.
    pub admin: bool,
    /// At least one.
    pub targets: Vec<target::Settings>,
}

/// What is kept of what was settled, and what a full log gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How long what every target has settled is kept.
    pub retain: Duration,
    /// What a full log does.
    pub when_full: WhenFull,
}

/// What a log does that is full of what required targets are owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// While some required target keeps up, the one furthest behind loses its oldest; when none does, upstreams get 503.
    #[default]
    Auto,
    /// Upstreams get 503.
    Reject,
    /// Whoever is furthest behind loses its oldest.
    DropOldest,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind. The line itself is not shown: it may hold a password.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Why.
        message: String,
    },
    /// A value that makes no sense.
    #[error("{}: {key} = {value}: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key with its table.
        key: String,
        /// What is written there.
        value: String,
        /// Why that cannot be.
        reason: String,
    },
    /// Something is missing.
    #[error("{}: {reason}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a file. Binds no port; a name in `server.listen` is looked up.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Config::parse(path, &text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let wrong = |key: String, error: &toml::de::Error| {
            let before = &text[..error.span().map_or(0, |span| span.start)];
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                message: if key == "." { message } else { format!("{key}: {message}") },
            }
        };
        let document = toml::Deserializer::parse(text).map_err(|error| wrong(".".to_owned(), &error))?;
        let file: file::File = serde_path_to_error::deserialize(document)
            .map_err(|error| wrong(error.path().to_string(), error.inner()))?;
        Checker { path }.config(file)
    }
}

impl Checker<'_> {
    fn config(&self, file: file::File) -> Result<Config, ConfigError> {
        let file::File { server, wal, target } = file;
        let admin = server.admin;
        let dead_letter_size = wal.dead_letter_size;
        let (wal_dir, wal, room) = self.wal(wal)?;
        let dead_letter_bytes = self.dead_letter_bytes(dead_letter_size, wal.max_bytes)?;
        let (listen_text, listen) = self.listen(server.listen.as_ref())?;
        let receive = self.receive(&server, &wal)?;
        let connections_max = server.max_connections.map_or(1024, Count::as_usize);
        if connections_max == 0 {
            return self.bad("server.max_connections", 0, "must be at least 1");
        }
        let read_timeout = self.span("server.read_timeout", server.read_timeout, 90_000, 1000)?;
        if target.is_empty() {
            let reason = "there is no [[target]]: data would have nowhere to go".to_owned();
            return Err(ConfigError::Missing { path: self.path.to_owned(), reason });
        }
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for (number, target) in target.into_iter().enumerate() {
            let target = self.target(number, target)?;
            if !names.insert(target.name.clone()) {
                let key = format!("target[{number}].name");
                return self.bad(key, quoted(&target.name), "another target has this name");
            }
            targets.push(target);
        }
        let server = web::server::Settings { connections_max, read_timeout };
        Ok(Config { listen, listen_text, server, receive, wal_dir, wal, room, dead_letter_bytes, admin, targets })
    }
}
