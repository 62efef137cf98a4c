//! What the journal lacks and the backlog of the local Redis still has.
//!
//! A sidecar whose disk was wiped begins its journal at the end of the stream. A peer that stands
//! before that asks for what it lacks; then the source goes back to where the peer stands, and the
//! journal begins there: the filter comes to the same result over the same bytes.

use tokio::sync::{mpsc, oneshot};

use crate::position::Checkpoint;

/// Wishes that wait; a peer has one at a time.
const QUEUE: usize = 8;

/// The end of those who lack something.
#[derive(Debug, Clone)]
pub struct Backlog(mpsc::Sender<Wish>);

/// The source's end.
pub type Wishes = mpsc::Receiver<Wish>;

/// That the journal may begin earlier.
#[derive(Debug)]
pub struct Wish {
    /// Where a peer stands.
    pub from: Checkpoint,
    /// Whether it begins there now.
    pub answer: oneshot::Sender<bool>,
}

impl Backlog {
    /// Both ends.
    pub fn new() -> (Self, Wishes) {
        let (sender, wishes) = mpsc::channel(QUEUE);
        (Self(sender), wishes)
    }

    /// Lets the journal begin at `from`, if Redis still has what follows; whether it does.
    pub async fn read_from(&self, from: Checkpoint) -> bool {
        let (answer, answered) = oneshot::channel();
        // Without a source there is no answer, and that is one.
        self.0.send(Wish { from, answer }).await.is_ok() && answered.await.unwrap_or(false)
    }
}
