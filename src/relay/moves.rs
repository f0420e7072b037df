//! Moving a target's savepoint on somebody's request: seek and forget, on a relay that runs.
//!
//! A move and a release exclude each other: what is moved to cannot be deleted meanwhile. A target that runs is told and obeys
//! (see `target::Orders`); of one that does not (an orphan, or one that was stopped by an internal error), the savepoint is moved here.

use std::io;
use std::sync::Arc;

use super::state::{State, Watched};
use crate::clock::{InvalidTime, now_ms, parse_time};
use crate::target::{Destination, Moved, Order};
use crate::wal::{Log, Mark, Place, Position, Step};
use crate::web::admin::{Admin, Answer, Plan, Refusal};

/// Where somebody wants a target to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// With the oldest record that there is.
    Oldest,
    /// Behind the newest.
    Now,
    /// With this record.
    Position(Position),
    /// With the first record that was received at this time or later, ms since 1970.
    Time(i64),
}

impl SeekTo {
    /// Reads `oldest`, `now`, `-2h`, `2026-01-31T10:00:00Z` or a position.
    ///
    /// # Errors
    /// [`InvalidTime`]: it is none of these.
    pub fn parse(text: &str, now_ms: i64) -> Result<SeekTo, InvalidTime> {
        match text {
            "oldest" => Ok(SeekTo::Oldest),
            "now" => Ok(SeekTo::Now),
            _ => match text.parse() {
                Ok(position) => Ok(SeekTo::Position(Position(position))),
                Err(_) => parse_time(text, now_ms).map(SeekTo::Time),
            },
        }
    }

    /// The place in a log. Reads headers of one segment.
    #[must_use]
    pub fn destination(self, log: &Log) -> Destination {
        let (mark, place) = match self {
            SeekTo::Oldest => (log.start(), Place::default()),
            SeekTo::Now => (log.readable().mark, log.readable().place),
            SeekTo::Position(position) if position <= log.start().position => (log.start(), Place::default()),
            SeekTo::Position(position) => log.mark_before(position),
            SeekTo::Time(received_ms) => log.mark_at_time(received_ms),
        };
        Destination { mark, place }
    }
}

/// What a seek from one mark to another means.
#[must_use]
pub fn plan(log: &Log, name: &str, from: Mark, to: Mark) -> Plan {
    let (replayed, skipped) = if to.position < from.position {
        (log.samples_between(to, from), 0)
    } else {
        (0, log.samples_between(from, to))
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
        let found = self.targets().into_iter().find(|target| target.progress.name() == name);
        found.ok_or_else(|| Refusal::Unknown(format!("there is no target {name:?}")))
    }

    /// Reads what somebody wrote, and where that is.
    async fn destination(&self, to: &str) -> Result<Destination, Refusal> {
        let to = SeekTo::parse(to, now_ms()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || to.destination(&log))
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
            let moved = target.progress.obey(&log, order);
            owe_first(&log, &target);
            moved
        });
        trip.await.map_err(io::Error::other)?
    }
}

/// What a target that nobody runs is owed first: it stays the same until somebody moves it.
pub(super) fn owe_first(log: &Log, target: &Watched) {
    let savepoint = target.progress.snapshot().savepoint;
    match log.cursor(savepoint.settled, savepoint.next).next_step() {
        Step::Record(record) => target.progress.owes(record.header.received_ms),
        _ => target.progress.owes_nothing(),
    }
}

impl Admin for State {
    fn plan_seek<'a>(&'a self, name: &'a str, to: &'a str) -> Answer<'a, Plan> {
        Box::pin(async move {
            let target = self.find(name)?;
            let to = self.destination(to).await?;
            Ok(plan(&self.log, name, target.progress.snapshot().savepoint.settled, to.mark))
        })
    }

    fn seek<'a>(&'a self, name: &'a str, to: &'a str) -> Answer<'a, Plan> {
        Box::pin(async move {
            let _alone = self.moves.lock().await;
            let target = self.find(name)?;
            let to = self.destination(to).await?;
            let mut plan = plan(&self.log, name, target.progress.snapshot().savepoint.settled, to.mark);
            let moved = self.order(&target, Order::Seek(to)).await;
            let Moved { dropped, replayed } = moved.map_err(|error| Refusal::Failed(error.to_string()))?;
            // What was settled since the plan was made is not counted twice.
            (plan.skipped_samples, plan.replayed_samples) = (dropped, replayed);
            tracing::warn!(target = name, to = plan.to, dropped, replayed, "the target was moved by request");
            Ok(plan)
        })
    }

    fn forget<'a>(&'a self, name: &'a str) -> Answer<'a, Plan> {
        Box::pin(async move {
            let _alone = self.moves.lock().await;
            let target = self.find(name)?;
            let end = self.log.readable().mark;
            if let Some(orders) = &target.orders {
                // If it does not run any more, so much the better.
                let _ = orders.give(Order::End).await;
            }
            let plan = plan(&self.log, name, target.progress.snapshot().savepoint.settled, end);
            let forgotten = self.store.lock().expect("no holder of this lock panics").forget(name);
            forgotten.map_err(|error| Refusal::Failed(error.to_string()))?;
            self.remove(name);
            tracing::warn!(target = name, samples = plan.skipped_samples, "the target was forgotten by request");
            Ok(plan)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        let parse = |text| SeekTo::parse(text, 10_000_000);
        assert_eq!(parse("oldest"), Ok(SeekTo::Oldest));
        assert_eq!(parse("now"), Ok(SeekTo::Now));
        assert_eq!(parse("4711"), Ok(SeekTo::Position(Position(4711))));
        assert_eq!(parse("-2h"), Ok(SeekTo::Time(10_000_000 - 7_200_000)));
        assert_eq!(parse("1970-01-01T00:00:05Z"), Ok(SeekTo::Time(5000)));
        assert!(parse("tomorrow").unwrap_err().to_string().contains("\"tomorrow\""));
        assert!(parse("").is_err());
    }
}
