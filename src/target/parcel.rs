//! A parcel: a kept request that somebody has the target send again. It waits for what is in flight, then goes alone.

use super::Target;
use super::client::Request;
use super::delivery::{AttemptId, Said};
use super::orders::{Parcel, Resent};
use super::outcome::{Outcome, Sent};
use super::telling::{said_text, shown};
use crate::savepoint::{Outcomes, Reason};

/// The attempt of a parcel.
pub(super) const PARCEL: AttemptId = AttemptId(u64::MAX);

impl Target {
    /// A request of its own, once nothing else is in flight.
    pub(super) fn send_parcel(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let Some((Parcel { protocol, body, forwarded, floats, histograms }, _)) = &self.parcel else { return };
        let sent = Sent { protocol: *protocol, samples: *floats, histograms: *histograms, is_confirmed: true };
        let (client, bytes) = (self.client.clone(), body.len() as u64);
        let timeout = self.speed.timeout(self.settings.remote_timeout, bytes);
        let (protocol, body, forwarded) = (*protocol, body.clone(), forwarded.clone());
        let handle = self.attempts.spawn(async move {
            let answer = client.send(Request { body, protocol, forwarded: &forwarded, timeout }).await;
            (PARCEL, bytes, timeout, answer)
        });
        self.in_flight.insert(PARCEL, (sent, handle));
    }

    /// Accepted and its outcome are booked together.
    pub(super) fn parcel_ended(&mut self, sent: Sent, outcome: &Outcome, said: &Said) {
        let Some((_, reply)) = self.parcel.take() else { return };
        let all = sent.samples + sent.histograms;
        let (delivered, refused, reason) = match outcome {
            Outcome::Accepted { refused } => (all - refused, *refused, Reason::Partial),
            Outcome::Refused | Outcome::TooLarge => (0, all, Reason::Status),
            Outcome::Retry { .. } | Outcome::Hold(_) | Outcome::WrongProtocol(_) => {
                let _ = reply.send(Resent::Unanswered(shown(outcome, said)));
                return;
            }
        };
        let mut outcomes = Outcomes::delivered(delivered);
        outcomes += Outcomes::refused(reason, refused);
        self.progress.resent(outcomes);
        let _ = reply.send(if refused == 0 { Resent::Delivered } else { Resent::Refused(said_text(said)) });
    }
}
