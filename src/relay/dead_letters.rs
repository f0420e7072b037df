//! What targets refused for good, on somebody's request: listed, shown, sent again, given up.
//!
//! ```text
//!  resend: entry ---> its target, between two batches ---delivered---> taken out of the ring
//!                                                     ---refused, unanswered, the target does not run---> it stays
//! ```
//!
//! One resend at a time, oldest entry first. When a target gives no answer, its other entries are not tried.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::State;
use crate::dead_letter::{Entry, Listing, NewEntry, Ring, RingError, Shown};
use crate::protocol::{Malformed, entries, selection, snappy};
use crate::target::{self, Parcel};
use crate::web::admin::Refusal;
use crate::web::dead_letters::{Dropped, LISTED_MAX, Resent, Which};

/// What became of an entry that was sent to its target again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResendOutcome {
    /// The target has it.
    Delivered,
    /// It refused it again.
    Refused {
        /// What it said.
        text: String,
    },
    /// No answer came, or one that says nothing about the data.
    Unanswered {
        /// Why.
        text: String,
    },
}

impl From<RingError> for Refusal {
    fn from(error: RingError) -> Refusal {
        match error {
            RingError::Unknown { .. } => Refusal::Unknown(error.to_string()),
            RingError::Io(ref source) => Refusal::Failed(format!("{error}: {source}")),
            RingError::Off | RingError::Missing { .. } | RingError::Damaged { .. } => {
                Refusal::Failed(error.to_string())
            }
        }
    }
}

/// The entries that are meant, oldest first, and their samples.
///
/// # Errors
/// One of them is not there, or there is nothing of the target.
pub fn chosen(ring: &Ring, which: &Which) -> Result<Vec<(u64, u64)>, Refusal> {
    match which {
        Which::Ids(ids) => {
            let ids: BTreeSet<u64> = ids.iter().copied().collect();
            let samples = |id| Ok((id, ring.samples(id).ok_or(RingError::Unknown { id })?));
            ids.into_iter().map(samples).collect::<Result<_, RingError>>().map_err(Refusal::from)
        }
        Which::Target(target) => {
            let entries = ring.of_target(target);
            if entries.is_empty() {
                let text = format!("there is nothing of target {target:?} in the dead-letter ring");
                return Err(Refusal::Unknown(text));
            }
            Ok(entries)
        }
    }
}

/// Gives entries up.
///
/// # Errors
/// As in [`chosen`], or the disk does not take it.
pub fn drop_chosen(ring: &Ring, which: &Which) -> Result<Dropped, Refusal> {
    let chosen = chosen(ring, which)?;
    let ids: Vec<u64> = chosen.iter().map(|(id, _)| *id).collect();
    let entries = ring.remove(&ids)?;
    Ok(Dropped { entries, samples: chosen.iter().map(|(_, samples)| samples).sum() })
}

impl State {
    /// A trip to the disk.
    async fn of_ring<T: Send + 'static>(
        &self,
        trip: impl FnOnce(&Ring) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let ring = self.dead_letters.clone();
        let done = tokio::task::spawn_blocking(move || trip(&ring)).await;
        done.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string())))
    }

    pub(super) async fn list_refused(&self, target: Option<String>) -> Result<Listing, Refusal> {
        self.of_ring(move |ring| Ok(ring.list(target.as_deref(), LISTED_MAX)?)).await
    }

    pub(super) async fn show_refused(&self, id: u64, with_body: bool) -> Result<Shown, Refusal> {
        self.of_ring(move |ring| Ok(Shown::new(&ring.get(id)?, with_body))).await
    }

    pub(super) async fn drop_refused(&self, which: Which) -> Result<Dropped, Refusal> {
        // What is being sent again is not dropped meanwhile.
        let _alone = self.resends.lock().await;
        let dropped = self.of_ring(move |ring| drop_chosen(ring, &which)).await?;
        let Dropped { entries, samples } = dropped;
        tracing::warn!(entries, samples, "entries of the dead-letter ring were dropped by request");
        Ok(dropped)
    }

    pub(super) async fn resend_refused(self: &Arc<Self>, which: Which) -> Result<Vec<Resent>, Refusal> {
        let _alone = self.resends.lock().await;
        let chosen = self.of_ring(move |ring| chosen(ring, &which)).await?;
        let mut answers = Vec::new();
        let mut silent = BTreeSet::new();
        for (id, _) in chosen {
            let answer = match self.of_ring(move |ring| Ok(ring.get(id)?)).await {
                Ok(entry) if silent.contains(&entry.content.target) => {
                    let text = "not tried: the target gave no answer to the one before".to_owned();
                    resent(id, entry.content.target, "unanswered", Some(text))
                }
                Ok(entry) => self.resend_entry(entry).await,
                // Newer ones have taken its place, or it is damaged.
                Err(error) => resent(id, String::new(), "failed", Some(error.to_string())),
            };
            if answer.outcome == "unanswered" {
                silent.insert(answer.target.clone());
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn resend_entry(self: &Arc<Self>, entry: Entry) -> Resent {
        let (id, target) = (entry.id, entry.content.target.clone());
        if !entry.has_body() {
            let text = "its body was too large for the ring, and was not kept".to_owned();
            return resent(id, target, "failed", Some(text));
        }
        let (outcome, text) = match self.resend_one(entry).await {
            Ok(ResendOutcome::Delivered) => {
                let removed = self.of_ring(move |ring| Ok(ring.remove(&[id])?)).await;
                let text = removed.err().map(|error| format!("it was delivered, and cannot be taken out: {error}"));
                ("delivered", text)
            }
            Ok(ResendOutcome::Refused { text }) => ("refused", Some(text)),
            Ok(ResendOutcome::Unanswered { text }) => ("unanswered", Some(text)),
            Err(text) => ("failed", Some(text)),
        };
        tracing::info!(target, id, outcome, text, "a refused request was sent again by request");
        resent(id, target, outcome, text)
    }

    /// Has an entry sent by its target, as a request of its own, between two batches, and booked.
    ///
    /// # Errors
    /// Why it was not sent.
    async fn resend_one(&self, entry: Entry) -> Result<ResendOutcome, String> {
        let target = self.targets().into_iter().find(|target| target.progress.name() == entry.content.target);
        let target = target.ok_or("there is no such target any more")?;
        let not_running = || "the target does not run".to_owned();
        let orders = target.orders.clone().ok_or_else(not_running)?;
        let parcel = parcel(entry).map_err(|error| error.to_string())?;
        match orders.resend(parcel).await.ok_or_else(not_running)? {
            target::Resent::Delivered => Ok(ResendOutcome::Delivered),
            target::Resent::Refused(text) => Ok(ResendOutcome::Refused { text }),
            target::Resent::Unanswered(text) => Ok(ResendOutcome::Unanswered { text }),
        }
    }
}

/// A request that can be made again.
fn parcel(entry: Entry) -> Result<Parcel, UnusableBody> {
    let content = entry.content;
    let message = snappy::decompress(&content.body, snappy::decoded_len(&content.body)?)?;
    let entries = entries::entries(content.protocol, &message)?;
    let selection::Counts { samples, histograms, .. } = selection::counts(&entries, &selection::Chosen::All);
    let NewEntry { protocol, body, forwarded, .. } = content;
    Ok(Parcel { protocol, body, forwarded, floats: samples, histograms })
}

/// What was kept cannot be sent.
#[derive(Debug, thiserror::Error)]
enum UnusableBody {
    #[error("the body that was kept is damaged: {0}")]
    Snappy(#[from] snappy::SnappyError),
    #[error("the body that was kept is damaged: {0}")]
    Malformed(#[from] Malformed),
}

fn resent(id: u64, target: String, outcome: &str, text: Option<String>) -> Resent {
    Resent { id, target, outcome: outcome.to_owned(), text }
}
