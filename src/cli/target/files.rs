//! Targets of a log that no process uses: its files are opened as a start would, under its lock.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::TargetError;
use super::ls::Row;
use crate::clock::now_ms;
use crate::clock::point::parse_point;
use crate::config::Config;
use crate::relay::beside::log_options;
use crate::relay::moves::{destination, plan};
use crate::savepoint::{self, Ended, Found, Saved, Savepoint, Store};
use crate::target::Destination;
use crate::wal::directory::Directory;
use crate::wal::survey::Survey;
use crate::wal::{Closer, Log, Mark, Observer, Opened};
use crate::web::admin::{Paused, Plan};

/// See the module.
pub(super) struct Files {
    log: Log,
    store: Store,
    /// Ends the log's threads.
    closer: Option<Closer>,
}

/// What a look at the files says, without the lock, and without changing anything.
pub(super) fn rows(config: &Config) -> Result<Vec<Row>, TargetError> {
    let listed = savepoint::list(&config.wal_dir)?;
    let floors: Vec<_> = listed.iter().filter_map(savepoint::Listed::floor).collect();
    let survey = Survey::take(&config.wal_dir, &floors)?;
    let newest = survey.segments.iter().rev().find_map(|segment| segment.extent().ok().flatten());
    let end = newest.map_or(Mark::default(), |extent| extent.seal.last);
    let row = |listed: &savepoint::Listed| {
        let is_configured = config.targets.iter().any(|target| target.name == listed.name);
        let Some(page) = listed.newest() else { return Row::damaged(&listed.name) };
        let savepoint = &page.savepoint;
        let Savepoint { settled, ledger, .. } = savepoint;
        Row {
            name: listed.name.clone(),
            state: match (is_configured, savepoint.is_paused) {
                (false, _) => "orphan",
                (true, false) => "stopped",
                (true, true) => "paused",
            }
            .to_owned(),
            catches_up_in_seconds: None,
            settled: settled.position.0,
            pending_records: savepoint.pending_records(end.position),
            pending_samples: savepoint.pending(end.total.saturating_sub(settled.total)),
            delivered: ledger.delivered,
            refused: ledger.refused,
            filtered: ledger.filtered,
            expired: ledger.expired,
            dropped: ledger.dropped,
            lost: ledger.lost,
        }
    };
    Ok(listed.iter().map(row).collect())
}

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

impl Files {
    pub(super) fn open(directory: Directory, config: &Config) -> Result<Files, TargetError> {
        let store = Store::open(directory.path())?;
        let opened = Log::open(directory, log_options(config, &store), &store.floors(), Arc::new(Silent))?;
        let Opened { log, closer, .. } = opened;
        for finding in log.findings().list {
            crate::cli::say(&format!("{}: {}", finding.path.display(), finding.reason));
        }
        Ok(Files { log, store, closer: Some(closer) })
    }

    fn find(&self, name: &str) -> Result<Saved, TargetError> {
        match self.store.find(name, self.log.id()) {
            Found::Valid(mut saved, ended) => {
                // Nothing is sent from here.
                saved.savepoint.is_clean = ended == Ended::Clean;
                Ok(saved)
            }
            Found::Foreign(_) | Found::Damaged => Err(TargetError::Unusable(name.to_owned())),
            Found::New => {
                let known = self.store.known().map(str::to_owned).collect();
                Err(TargetError::Unknown { name: name.to_owned(), known })
            }
        }
    }

    pub(super) fn plan(&self, name: &str, to: &str) -> Result<(Plan, Destination), TargetError> {
        let saved = self.find(name)?;
        let destination = destination(&self.log, parse_point(to, now_ms())?);
        Ok((plan(&self.log, name, &saved.savepoint, destination.mark), destination))
    }

    pub(super) fn seek(&mut self, name: &str, to: Destination) -> Result<(), TargetError> {
        let Saved { generation, epoch, mut savepoint } = self.find(name)?;
        match to.mark.position.cmp(&savepoint.settled.position) {
            Ordering::Greater => {
                let samples = self.log.samples_between(savepoint.settled, to.mark);
                savepoint.skip(to.mark, to.place, samples);
            }
            Ordering::Less => {
                savepoint.replay(to.mark, to.place);
            }
            Ordering::Equal => {}
        }
        self.write(name, Saved { generation: generation + 1, epoch: epoch + 1, savepoint })
    }

    /// Whether it has, or had, a savepoint.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.store.known().any(|known| known == name)
    }

    pub(super) fn pause(&mut self, name: &str, is_paused: bool) -> Result<Paused, TargetError> {
        let Saved { generation, epoch, mut savepoint } = self.find(name)?;
        if savepoint.is_paused != is_paused {
            savepoint.is_paused = is_paused;
            self.write(name, Saved { generation: generation + 1, epoch, savepoint })?;
        }
        Ok(Paused { target: name.to_owned(), paused: is_paused })
    }

    /// Opening writes it, synced. The live page, if it is older, does not count any more.
    fn write(&mut self, name: &str, saved: Saved) -> Result<(), TargetError> {
        let file = self.store.open_file(name, self.log.id(), saved)?;
        if !file.was_synced() {
            return Err(TargetError::Io(std::io::Error::other("the savepoint cannot be written")));
        }
        Ok(())
    }

    pub(super) fn plan_forget(&self, name: &str) -> Result<Plan, TargetError> {
        let end = self.log.readable().mark;
        match self.find(name) {
            Ok(saved) => Ok(plan(&self.log, name, &saved.savepoint, end)),
            // What is damaged can be forgotten all the same.
            Err(TargetError::Unusable(_)) => {
                let nothing = Savepoint { settled: self.log.start(), ..Savepoint::default() };
                Ok(plan(&self.log, name, &nothing, end))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn forget(&mut self, name: &str) -> Result<(), TargetError> {
        self.store.forget(name)?;
        Ok(())
    }

    pub(super) fn rename(&mut self, old: &str, new: &str) -> Result<(), TargetError> {
        Ok(self.store.rename(old, new)?)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(closer) = self.closer.take() {
            closer.close();
        }
    }
}
