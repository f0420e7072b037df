//! What a target tells people: lines in the log, its state, and what was refused.

use super::delivery::{Event, Refused, Said, Trouble};
use super::messages::Messages;
use super::negotiation::protocol_of;
use super::outcome::{Outcome, Reason};
use super::progress::Details;
use super::request;
use super::{Phase, Target};
use crate::clock::now_ms;
use crate::dead_letter::{NewEntry, RingError};
use crate::protocol::exemplars::Hostless;
use crate::savepoint::Taken;

impl Target {
    pub(super) fn log_events(&mut self) {
        let name = &self.settings.name;
        let answer = self.reason.as_deref().unwrap_or_default();
        for event in self.delivery.take_events() {
            match event {
                Event::BeganBackingOff => tracing::warn!(
                    target = name,
                    answer,
                    "the target does not take data now; it is retried and nothing is lost"
                ),
                Event::BeganHolding(_) => tracing::error!(
                    target = name,
                    answer,
                    "the target is held: its answer asks for somebody's attention; the data is kept and retried slowly"
                ),
                Event::BeganSuspect => tracing::error!(
                    target = name,
                    answer = self.refusal,
                    "the target is suspect: it refuses all data, and empty requests too; the data is kept, and it is asked slowly \
                     (`promrelay target accept-refusals` gives up what it refuses)"
                ),
                Event::Isolated { first, last } => tracing::warn!(
                    target = name,
                    first = first.0,
                    last = last.0,
                    answer,
                    "a request failed again and again, and the target takes others: it is tried beside them"
                ),
                Event::NotTaken(why) => tracing::info!(
                    target = name,
                    %why,
                    "data goes to the target in the other protocol; it is asked again in an hour"
                ),
                Event::Taken(protocol) => {
                    tracing::info!(target = name, %protocol, "the target takes this protocol now");
                }
                Event::Recovered { failures } => {
                    tracing::info!(target = name, failures, "the target takes data again");
                }
            }
        }
        if self.delivery.trouble().is_none() {
            self.reason = None;
        }
    }

    /// Tells the state.
    pub(super) fn show(&mut self) {
        let suspicion = self.delivery.suspicion();
        let record_by_record = suspicion.goes_record_by_record(std::time::Instant::now());
        let (phase, reason) = if self.delivery.is_paused() {
            (Phase::Paused, Some("by an operator (`promrelay target resume`)".to_owned()))
        } else if self.delivery.is_idle() && !record_by_record {
            // Whether it would take data now, nobody knows.
            (Phase::CaughtUp, None)
        } else if suspicion.is_suspect() {
            (Phase::Suspect, Some(format!("it refuses all data, and empty requests too: {}", self.refusal)))
        } else if record_by_record {
            (
                Phase::Suspect,
                Some(format!(
                    "it takes empty requests and refuses all data, which is tried record by record: {}",
                    self.refusal
                )),
            )
        } else {
            match self.delivery.trouble() {
                Some(Trouble::Held(_)) => (Phase::Held, self.reason.clone()),
                Some(Trouble::BackingOff) => (Phase::BackingOff, self.reason.clone()),
                None => {
                    let isolated = self.delivery.isolated();
                    let reason = (isolated > 0)
                        .then(|| format!("{isolated} requests fail again and again while others are taken"));
                    (Phase::Sending, reason)
                }
            }
        };
        // That the log cannot be read was told when it could not be.
        if phase == Phase::Paused || self.unreadable.iter().all(Option::is_none) {
            self.progress.enter(phase, reason, now_ms());
        }
        let pace = self.delivery.pace();
        self.progress.detail(Details {
            in_flight: self.delivery.in_flight(),
            window: pace.window(),
            failures: pace.failures(),
            rate_limit: pace.learned_rate(),
            isolated: self.delivery.isolated(),
            takes: self.delivery.learned().takes.map(Taken::is_yes),
        });
    }

    /// What was refused is never silent: a line in the log, and its bytes in the ring.
    pub(super) fn keep(&self, refused: Vec<Refused>) {
        const TOLD: usize = 3;
        let mut entries = Vec::new();
        for (number, refused) in refused.iter().enumerate() {
            let (Some((record, chosen)), Some((last, _))) = (refused.parts.first(), refused.parts.last()) else {
                continue;
            };
            let series = request::describe(refused.kind, record, chosen).unwrap_or_default();
            let (first, last) = (record.header.position, last.header.position);
            if number < TOLD {
                tracing::warn!(
                    target = self.settings.name,
                    positions = if first == last { first.to_string() } else { format!("{first}..{last}") },
                    samples = refused.samples,
                    reason = refused.reason.as_str(),
                    series,
                    answer = said_text(&refused.said),
                    "the target refused samples for good"
                );
            }
            let body = match request::as_received(
                refused.kind,
                &refused.parts,
                Hostless::Kept,
                &mut Messages::default(),
            ) {
                Ok(built) => built.body,
                // It was put together once already, to be sent.
                Err(error) => {
                    tracing::error!(target = self.settings.name, %error, "internal error: what was refused cannot be kept");
                    continue;
                }
            };
            entries.push(NewEntry {
                target: self.settings.name.clone(),
                time_ms: now_ms(),
                reason: refused.reason.as_str().to_owned(),
                status: refused.said.status,
                text: refused.said.text.clone(),
                protocol: protocol_of(refused.kind),
                forwarded: record.meta.forwarded.clone(),
                first,
                last,
                samples: refused.samples,
                series,
                is_partial: refused.is_partial,
                body,
            });
        }
        if let Some(more) = refused.len().checked_sub(TOLD).filter(|more| *more > 0) {
            let samples: u64 = refused[TOLD..].iter().map(|refused| refused.samples).sum();
            tracing::warn!(
                target = self.settings.name,
                entries = more,
                samples,
                "and more that the target refused for good (`promrelay dead-letter ls` lists it)"
            );
        }
        match self.dead_letters.append(&entries) {
            Ok(()) | Err(RingError::Off) => {}
            // Nothing waits for the ring, and it tells itself what is wrong with it.
            Err(error) => tracing::debug!(target = self.settings.name, %error, "what was refused is in this log only"),
        }
    }
}

pub(super) fn shown(outcome: &Outcome, said: &Said) -> String {
    match outcome {
        Outcome::Hold(reason) | Outcome::WrongProtocol(reason) if said.text.is_empty() => reason.to_string(),
        Outcome::Hold(reason) | Outcome::WrongProtocol(reason) => format!("{reason}: {}", said.text),
        _ => said_text(said),
    }
}

pub(super) fn said_text(said: &Said) -> String {
    match said.status {
        Some(status) if said.text.is_empty() => Reason::Status(status).to_string(),
        Some(status) => format!("{}: {}", Reason::Status(status), said.text),
        None => said.text.clone(),
    }
}
