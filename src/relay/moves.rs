//! What somebody asks of a target: to be moved or forgotten, to pause, to be believed; on a relay that runs.
//!
//! A move and a release exclude each other: what is moved to cannot be deleted meanwhile. A target that runs is told and obeys
//! (see `target::Orders`); of one that does not (an orphan, or one that was stopped by an internal error), the savepoint is moved here.

use std::io;
use std::sync::Arc;

use super::state::{State, Watched};
use crate::clock::now_ms;
use crate::clock::point::{Point, parse_point};
use crate::dead_letter::{Listing, Shown};
use crate::savepoint::Savepoint;
use crate::target::{Destination, Moved, Order, Phase};
use crate::wal::{Log, Mark, Place, Position, Step};
use crate::web::admin::{Admin, Answer, Believed, Paused, Plan, Refusal};
use crate::web::dead_letters::{Dropped, Resent, Which};

/// The place in a log that somebody means. Reads headers of one segment.
#[must_use]
pub fn destination(log: &Log, to: Point) -> Destination {
    let (mark, place) = match to {
        Point::Oldest => (log.start(), Place::default()),
        Point::Now => (log.readable().mark, log.readable().place),
        Point::Position(position) if position <= log.start().position.0 => (log.start(), Place::default()),
        Point::Position(position) => log.mark_before(Position(position)),
        Point::Time(received_ms) => log.mark_at_time(received_ms),
    };
    Destination { mark, place }
}

/// What a seek of a target that is here means.
#[must_use]
pub fn plan(log: &Log, name: &str, savepoint: &Savepoint, to: Mark) -> Plan {
    let (from, mut after) = (savepoint.settled, savepoint.clone());
    let (replayed, skipped) = if to.position < from.position {
        (log.samples_between(to, from) + after.replay(to, Place::default()), 0)
    } else {
        (0, after.skip(to, Place::default(), log.samples_between(from, to)))
    };
    Plan {
        target: name.to_owned(),
        from: from.position.0,
        to: to.position.0,
        records: from.position.0.abs_diff(to.position.0),
        replayed_samples: replayed,
        skipped_samples: skipped,
    }
}

impl State {
    fn find(&self, name: &str) -> Result<Arc<Watched>, Refusal> {
        let targets = self.targets();
        let known: Vec<_> = targets.iter().map(|target| target.progress.name()).collect();
        let found = targets.iter().find(|target| target.progress.name() == name);
        found
            .cloned()
            .ok_or_else(|| Refusal::Unknown(format!("there is no target {name:?}; there are: {}", known.join(", "))))
    }

    /// Reads what somebody wrote, and where that is.
    async fn destination(&self, to: &str) -> Result<Destination, Refusal> {
        let to = parse_point(to, now_ms()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || destination(&log, to))
            .await
            .map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Gives an order to a target, or carries it out where nobody else does. Only under the lock for moves.
    pub(super) async fn order(&self, target: &Arc<Watched>, order: Order) -> io::Result<Moved> {
        if let Some(orders) = &target.orders
            && let Some(result) = orders.give(order).await
        {
            return result;
        }
        let (log, target) = (self.log.clone(), target.clone());
        let trip = tokio::task::spawn_blocking(move || {
            let moved = target.progress.obey(&log, order, Vec::new());
            owe_first(&log, &target);
            moved
        });
        trip.await.map_err(io::Error::other)?
    }
}

/// What a target that nobody runs is owed first: it stays the same until somebody moves it.
pub(super) fn owe_first(log: &Log, target: &Watched) {
    let savepoint = target.progress.savepoint();
    match log.cursor(savepoint.settled, savepoint.next).next_step() {
        Step::Record(record) => target.progress.owes(record.header.received_ms),
        _ => target.progress.owes_nothing(),
    }
}

impl State {
    async fn seek_now(&self, name: &str, to: &str) -> Result<Plan, Refusal> {
        let _alone = self.moves.lock().await;
        let target = self.find(name)?;
        let to = self.destination(to).await?;
        let mut plan = plan(&self.log, name, &target.progress.savepoint(), to.mark);
        let moved = self.order(&target, Order::Seek(to)).await;
        let Moved { dropped, replayed } = moved.map_err(|error| Refusal::Failed(error.to_string()))?;
        // What was settled since the plan was made is not counted twice.
        (plan.skipped_samples, plan.replayed_samples) = (dropped, replayed);
        tracing::warn!(target = name, to = plan.to, dropped, replayed, "the target was moved by request");
        Ok(plan)
    }

    async fn forget_now(&self, name: &str) -> Result<Plan, Refusal> {
        let _alone = self.moves.lock().await;
        let target = self.find(name)?;
        let end = self.log.readable().mark;
        let plan = plan(&self.log, name, &target.progress.savepoint(), end);
        // Before its task ends: if this fails, it goes on.
        let forgotten = self.store.lock().expect("no holder of this lock panics").forget(name);
        forgotten.map_err(|error| Refusal::Failed(error.to_string()))?;
        if let Some(orders) = &target.orders {
            // If it does not run any more, so much the better.
            let _ = orders.give(Order::End).await;
        }
        self.remove(name);
        self.registry.forget_target(name);
        tracing::warn!(target = name, samples = plan.skipped_samples, "the target was forgotten by request");
        Ok(plan)
    }

    /// One that is in the configuration: to others nothing is sent, whatever they are told.
    fn find_configured(&self, name: &str) -> Result<Arc<Watched>, Refusal> {
        let target = self.find(name)?;
        if target.orders.is_none() {
            return Err(Refusal::Senseless(orphan_text(name)));
        }
        Ok(target)
    }

    async fn pause_now(&self, name: &str, is_paused: bool) -> Result<Paused, Refusal> {
        let _alone = self.moves.lock().await;
        let target = self.find_configured(name)?;
        let was_paused = target.progress.savepoint().is_paused;
        let told = self.order(&target, Order::Pause(is_paused)).await;
        told.map_err(|error| Refusal::Failed(error.to_string()))?;
        match (was_paused, is_paused) {
            (false, true) => tracing::warn!(target = name, "the target was paused by request; its data is kept"),
            (true, false) => tracing::info!(target = name, "the target goes on by request"),
            _ => {}
        }
        Ok(Paused { target: name.to_owned(), paused: is_paused })
    }

    async fn accept_refusals_now(&self, name: &str) -> Result<Believed, Refusal> {
        let _alone = self.moves.lock().await;
        let target = self.find_configured(name)?;
        if target.progress.snapshot().phase != Phase::Suspect {
            return Err(Refusal::Senseless(format!("{name} is not suspect: what it refuses is believed already")));
        }
        // (Its own: where its task has ended there is nobody to believe it.)
        let told = match &target.orders {
            Some(orders) => orders.give(Order::AcceptRefusals).await,
            None => None,
        };
        match told {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Refusal::Failed(error.to_string())),
            None => return Err(Refusal::Failed(format!("{name} has stopped: restart promrelay to go on"))),
        }
        tracing::warn!(target = name, "what the target refuses is believed by request, until it accepts something");
        Ok(Believed { target: name.to_owned(), accepts_refusals: true })
    }
}

/// Why an orphan is not paused, nor told to go on.
#[must_use]
pub fn orphan_text(name: &str) -> String {
    format!("{name} is an orphan: it is not in the configuration, and nothing is sent to it anyway")
}

/// Goes on to its end, also when whoever asked for it has gone.
pub(super) fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Answer<T> {
    let task = tokio::spawn(work);
    Box::pin(async move { task.await.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string()))) })
}

impl Admin for State {
    fn plan_seek(self: Arc<Self>, name: String, to: String) -> Answer<Plan> {
        Box::pin(async move {
            let target = self.find(&name)?;
            let to = self.destination(&to).await?;
            Ok(plan(&self.log, &name, &target.progress.savepoint(), to.mark))
        })
    }

    fn seek(self: Arc<Self>, name: String, to: String) -> Answer<Plan> {
        to_the_end(async move { self.seek_now(&name, &to).await })
    }

    fn forget(self: Arc<Self>, name: String) -> Answer<Plan> {
        to_the_end(async move { self.forget_now(&name).await })
    }

    fn pause(self: Arc<Self>, name: String, is_paused: bool) -> Answer<Paused> {
        to_the_end(async move { self.pause_now(&name, is_paused).await })
    }

    fn accept_refusals(self: Arc<Self>, name: String) -> Answer<Believed> {
        to_the_end(async move { self.accept_refusals_now(&name).await })
    }

    fn dead_letter_list(self: Arc<Self>, target: Option<String>) -> Answer<Listing> {
        Box::pin(async move { self.list_refused(target).await })
    }

    fn dead_letter_show(self: Arc<Self>, id: u64, with_body: bool) -> Answer<Shown> {
        Box::pin(async move { self.show_refused(id, with_body).await })
    }

    fn dead_letter_drop(self: Arc<Self>, which: Which) -> Answer<Dropped> {
        to_the_end(async move { self.drop_refused(which).await })
    }

    fn dead_letter_resend(self: Arc<Self>, which: Which) -> Answer<Vec<Resent>> {
        to_the_end(async move { self.resend_refused(which).await })
    }
}
