//! Targets of a log that no process uses: its files are opened as a start would, under its lock.

use std::sync::Arc;
use std::time::Duration;

use super::TargetError;
use super::ls::Row;
use crate::clock::now_ms;
use crate::config::Config;
use crate::relay::moves::{SeekTo, plan};
use crate::savepoint::{Found, Saved, Store};
use crate::target::Destination;
use crate::wal::directory::Directory;
use crate::wal::{Closer, Log, Observer, Opened};
use crate::web::admin::Plan;

/// See the module.
pub(super) struct Files {
    log: Log,
    store: Store,
    /// Ends the log's threads.
    closer: Option<Closer>,
    configured: Vec<String>,
}

struct Silent;

impl Observer for Silent {
    fn synced(&self, _: Duration, _: usize) {}
}

impl Files {
    pub(super) fn open(directory: Directory, config: &Config) -> Result<Files, TargetError> {
        let store = Store::open(directory.path())?;
        let opened = Log::open(directory, config.wal, &store.floors(), Arc::new(Silent))?;
        let Opened { log, closer, .. } = opened;
        let configured = config.targets.iter().map(|target| target.name.clone()).collect();
        Ok(Files { log, store, closer: Some(closer), configured })
    }

    fn find(&self, name: &str) -> Result<Saved, TargetError> {
        match self.store.find(name, self.log.id()) {
            Found::Valid(saved) => Ok(saved),
            Found::Foreign(_) | Found::Damaged => Err(TargetError::Unusable(name.to_owned())),
            Found::New => {
                let known = self.store.known().map(str::to_owned).collect();
                Err(TargetError::Unknown { name: name.to_owned(), known })
            }
        }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let end = self.log.readable().mark;
        let row = |name: &str| {
            let state = if self.configured.iter().any(|other| other == name) { "stopped" } else { "orphan" };
            let Ok(saved) = self.find(name) else { return Row::damaged(name) };
            let settled = saved.savepoint.settled;
            Row {
                name: name.to_owned(),
                state: state.to_owned(),
                settled: settled.position.0,
                pending_records: end.position.0.saturating_sub(settled.position.0),
                pending_samples: self.log.samples_between(settled, end),
                delivered: saved.savepoint.ledger.delivered,
                refused: saved.savepoint.ledger.refused,
                dropped: saved.savepoint.ledger.dropped,
                lost: saved.savepoint.ledger.lost,
            }
        };
        self.store.known().map(row).collect()
    }

    pub(super) fn plan(&self, name: &str, to: &str) -> Result<(Plan, Destination), TargetError> {
        let saved = self.find(name)?;
        let destination = SeekTo::parse(to, now_ms())?.destination(&self.log);
        Ok((plan(&self.log, name, saved.savepoint.settled, destination.mark), destination))
    }

    pub(super) fn seek(&mut self, name: &str, to: Destination) -> Result<(), TargetError> {
        let Saved { generation, epoch, mut savepoint } = self.find(name)?;
        if to.mark.position > savepoint.settled.position {
            let samples = self.log.samples_between(savepoint.settled, to.mark);
            savepoint.skip(to.mark, to.place, samples);
        } else {
            savepoint.replay(to.mark, to.place);
        }
        // Opening writes it, synced. The live page, if it is older, does not count any more.
        let saved = Saved { generation: generation + 1, epoch: epoch + 1, savepoint };
        self.store.open_file(name, self.log.id(), saved)?;
        Ok(())
    }

    pub(super) fn plan_forget(&self, name: &str) -> Result<Plan, TargetError> {
        let end = self.log.readable().mark;
        match self.find(name) {
            Ok(saved) => Ok(plan(&self.log, name, saved.savepoint.settled, end)),
            // What is damaged can be forgotten all the same.
            Err(TargetError::Unusable(_)) => Ok(plan(&self.log, name, self.log.start(), end)),
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
