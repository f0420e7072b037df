//! A parcel: a kept request that somebody has the target send again. It waits for what is in flight, then goes alone.

use super::batch::Samples;
use super::client::Request;
use super::delivery::{AttemptId, Said};
use super::negotiation::Choice;
use super::orders::{Parcel, Resent};
use super::outcome::{Outcome, Sent};
use super::request::Built;
use super::telling::{said_text, shown};
use super::{InFlight, Target};
use crate::savepoint::{Outcomes, Reason};

/// The attempt of a parcel.
pub(super) const PARCEL: AttemptId = AttemptId(u64::MAX);

impl Target {
    /// A request of its own, once nothing else is in flight.
    pub(super) fn send_parcel(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let now = std::time::Instant::now();
        let Some((Parcel { protocol: received, body, forwarded, floats, histograms }, _)) = &self.parcel else {
            return;
        };
        let protocol = match self.delivery.protocol_for(*received, now) {
            Choice::Send(protocol) => protocol,
            Choice::Ask => *received,
        };
        let whole = Samples { floats: *floats, histograms: *histograms };
        let built = if protocol == *received {
            self.requests.again(protocol, body, now).map(|built| Built { samples: whole, ..built })
        } else {
            self.requests.translate(*received, body, forwarded, now)
        };
        let built = match built {
            Ok(built) if !built.is_empty => built,
            nothing => {
                let why = nothing.err().map_or_else(
                    || format!("remote write {protocol}, which the target takes, has no place for any of it"),
                    |error| error.to_string(),
                );
                if let Some((_, reply)) = self.parcel.take() {
                    let _ = reply.send(Resent::Unanswered(why));
                }
                return;
            }
        };
        let Built { body, samples, left_out, untranslated, has_metadata, has_lone_exemplars, taught, .. } = built;
        let left_out = left_out.iter().sum();
        let is_confirmed = self.delivery.is_confirmed(protocol);
        let (floats, histograms) = (samples.floats, samples.histograms);
        let sent = Sent { protocol, samples: floats, histograms, is_confirmed, is_question: false };
        let (client, bytes, forwarded) = (self.client.clone(), body.len() as u64, forwarded.clone());
        let timeout = self.speed.timeout(self.settings.remote_timeout, bytes);
        let with_lone_exemplars = has_lone_exemplars.then(|| body.clone());
        let handle = self.attempts.spawn(async move {
            let answer = client.send(Request { body, protocol, forwarded: &forwarded, timeout }).await;
            (PARCEL, bytes, timeout, answer)
        });
        self.parcel_left_out = (whole.all(), left_out);
        let in_flight = InFlight { sent, untranslated, has_metadata, with_lone_exemplars, taught, handle };
        self.in_flight.insert(PARCEL, in_flight);
    }

    /// Accepted and its outcome are booked together.
    pub(super) fn parcel_ended(&mut self, sent: Sent, outcome: &Outcome, said: &Said) {
        match outcome {
            Outcome::Accepted { .. } => self.delivery.takes_protocol(sent.protocol),
            Outcome::WrongProtocol(reason)
                if self.delivery.takes_not(sent.protocol, reason, std::time::Instant::now()) =>
            {
                // It goes once more, in the other one.
                return;
            }
            _ => {}
        }
        let Some((_, reply)) = self.parcel.take() else { return };
        // (What was kept may go as more or fewer samples than it has.)
        let (whole, left_out) = self.parcel_left_out;
        let all = whole - left_out;
        let (delivered, refused, reason) = match outcome {
            Outcome::Accepted { refused } => (all.saturating_sub(*refused), (*refused).min(all), Reason::Partial),
            Outcome::Refused | Outcome::TooLarge => (0, all, Reason::Status),
            Outcome::Retry { .. } | Outcome::Hold(_) | Outcome::WrongProtocol(_) => {
                let _ = reply.send(Resent::Unanswered(shown(outcome, said)));
                return;
            }
        };
        let mut outcomes = Outcomes::delivered(delivered);
        outcomes += Outcomes::refused(reason, refused);
        outcomes += Outcomes::dropped(left_out);
        self.progress.resent(outcomes);
        let _ = reply.send(if refused == 0 { Resent::Delivered } else { Resent::Refused(said_text(said)) });
    }
}
