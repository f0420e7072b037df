//! What a running target may be told: to go on elsewhere, or to end for good.
//!
//! ```text
//!  order ---> what was settled is booked ---> the attempt in flight is given up, nothing is booked for it
//!                                                       |
//!             answered <--- the savepoint is moved, its epoch raised, and synced
//! ```
//! An answer that comes to an attempt that was given up is never seen, so it changes nothing.

use std::io;

use tokio::sync::{mpsc, oneshot};

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

/// An order and who waits for it.
#[derive(Debug)]
pub(super) struct Letter {
    pub order: Order,
    pub reply: oneshot::Sender<io::Result<Moved>>,
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
        self.0.send(Letter { order, reply }).await.ok()?;
        answer.await.ok()
    }
}
