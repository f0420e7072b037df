//! What a running target may be told: to go on elsewhere, to pause, to believe refusals, to make a request again, or to end for good.
//!
//! ```text
//!  seek, drop, pause, end ---> what was settled is booked ---> attempts in flight (of what is dropped) are given up, nothing is
//!                                                                booked for them
//!                                                                       |
//!             answered <--- the savepoint is moved, its epoch raised, and synced
//!  parcel ---> waits until nothing is in flight ---> goes alone ---> accepted and its outcome are booked at once, or nothing
//! ```
//! An answer that comes to an attempt that was given up is never seen, so it changes nothing.

use std::io;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::Protocol;
use crate::wal::{Mark, Place};

/// Where a target is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Behind this.
    pub mark: Mark,
    /// Where the next record is.
    pub place: Place,
}

/// What a target is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on there, whether that is ahead or behind. What is skipped is dropped; what is behind again is owed again.
    Seek(Destination),
    /// Go on there, unless that was passed already.
    Drop(Destination),
    /// Send nothing, or go on.
    Pause(bool),
    /// What it refuses is to be believed, until it accepts something.
    AcceptRefusals,
    /// End: the name is about to be forgotten.
    End,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Given up by it.
    pub dropped: u64,
    /// Owed again by it.
    pub replayed: u64,
}

/// A request that was refused once, to be made again: by itself, between batches.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// As it was received.
    pub protocol: Protocol,
    /// Compressed, as it goes over the wire.
    pub body: Bytes,
    /// Headers that came with the data.
    pub forwarded: Vec<(String, Vec<u8>)>,
    /// Float samples in it.
    pub floats: u64,
    /// Histograms in it.
    pub histograms: u64,
}

/// What came of a parcel. With an answer it is accepted anew, and booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resent {
    /// The target has it.
    Delivered,
    /// It does not take it, or not all of it; its text.
    Refused(String),
    /// Nobody knows; nothing is booked.
    Unanswered(String),
}

/// An order, or a parcel, and who waits for it.
#[derive(Debug)]
pub(super) enum Letter {
    Order { order: Order, reply: oneshot::Sender<io::Result<Moved>> },
    Parcel { parcel: Parcel, reply: oneshot::Sender<Resent> },
}

/// Gives orders to a target that runs.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Letter>);

/// Where a target finds them.
pub(super) type Inbox = mpsc::Receiver<Letter>;

impl Orders {
    pub(super) fn new() -> (Orders, Inbox) {
        let (sender, inbox) = mpsc::channel(1);
        (Orders(sender), inbox)
    }

    /// Gives an order and waits until it was obeyed. `None` if the target does not run any more.
    pub async fn give(&self, order: Order) -> Option<io::Result<Moved>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Letter::Order { order, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Has a request made again and waits for its answer. `None` if the target does not run any more.
    pub async fn resend(&self, parcel: Parcel) -> Option<Resent> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Letter::Parcel { parcel, reply }).await.ok()?;
        answer.await.ok()
    }
}
