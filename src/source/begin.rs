//! What the journal does when the source has attached: the history goes on, or another begins.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::attach::{self, Attached, How, Place};
use super::{Source, StreamEnd};
use crate::backlog::Wish;
use crate::observe::SourceState;
use crate::position::{Checkpoint, Position};

/// How long it may take to come back onto the stream at an earlier place.
const GO_BACK_TIMEOUT: Duration = Duration::from_secs(10);

impl Source {
    /// Tells if Redis could not go on where we had left off.
    pub(super) fn tell_break(&self, place: Place) {
        if place.how != How::Again {
            let text = "the local Redis could not continue its stream: its history is a new one, \
                        peers and followers take a full sync; was repl-backlog-size too small?";
            warn!(position = %place.position, "{text}");
            self.problems.add("source", text);
        }
    }

    /// Goes on with the history, or begins one. An error means that the journal ended, or `stop`.
    pub(crate) async fn begin(
        &self,
        place: Place,
        stop: &CancellationToken,
    ) -> Result<(), StreamEnd> {
        let Place { position, database, how, .. } = place;
        info!(%position, how = how.name(), "attached to the local redis");
        match how {
            How::Again => {
                self.status.attached_again.fetch_add(1, Ordering::Relaxed);
                self.go_on(position, stop).await?;
            }
            how => {
                let counter = match how {
                    How::Full => &self.status.attached_full,
                    _ => &self.status.attached_free,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                while let Err(error) = self.journal.begin_history(position, database).await {
                    self.wait_for_journal(error, stop).await?;
                }
                self.peers.iter().for_each(|peer| peer.conflicts.begin_history(position));
                self.write_off.give_up_all();
            }
        }
        self.status.set_state(SourceState::Online);
        Ok(())
    }

    /// Lets the journal begin where a peer stands, if Redis's backlog reaches back there.
    pub(super) async fn go_back(
        &self,
        wish: Wish,
        stop: &CancellationToken,
    ) -> Result<Option<Attached>, StreamEnd> {
        let Wish { from, answer } = wish;
        let gone_back = timeout(GO_BACK_TIMEOUT, attach::go_back(&self.target, from)).await;
        let attached = match gone_back {
            Ok(Ok(Some(attached))) => attached,
            Ok(Ok(None)) => {
                info!(from = %from.position, "the backlog of the local redis does not reach back to where a peer stands");
                return Ok(None);
            }
            Ok(Err(error)) => {
                warn!(%error, "what a peer lacks can't be read from the local redis");
                return Ok(None);
            }
            Err(_) => {
                warn!("the local redis takes too long to send what a peer lacks");
                return Ok(None);
            }
        };
        self.begin_earlier(from, attached.place, stop).await?;
        // A peer that is gone asks again.
        let _ = answer.send(true);
        Ok(Some(attached))
    }

    /// The journal begins anew where a peer stands.
    pub(crate) async fn begin_earlier(
        &self,
        from: Checkpoint,
        place: Place,
        stop: &CancellationToken,
    ) -> Result<(), StreamEnd> {
        info!(from = %from.position, "the journal begins anew where a peer stands");
        while let Err(error) = self.journal.begin_anew(from.position, from.database).await {
            self.wait_for_journal(error, stop).await?;
        }
        self.peers.iter().for_each(|peer| peer.conflicts.begin_history(from.position));
        self.go_on(place.position, stop).await
    }

    /// The history goes on, maybe under another id.
    async fn go_on(&self, position: Position, stop: &CancellationToken) -> Result<(), StreamEnd> {
        if self.journal.head().position.replid != position.replid {
            // After a failover: what the old master had executed the new one may never have got.
            // A mark that does come is an echo all the same.
            self.write_off.give_up_all();
        }
        while let Err(error) = self.journal.rename_history(position.replid).await {
            self.wait_for_journal(error, stop).await?;
        }
        for peer in &self.peers {
            peer.conflicts.rename_history(position.replid);
            peer.conflicts.scanned(position.offset);
        }
        Ok(())
    }
}
