//! Serving one peer's link: where it left off, or a snapshot, then blocks and heartbeats.

mod full_sync;
mod request;

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, split};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Feed;
use super::snapshot::SnapshotError;
use crate::clock::unix_millis;
use crate::frame::{Frame, SHUTTING_DOWN};
use crate::journal::{Block, Head, NotInJournal, Read, UnitReader};
use crate::net::{Stream, send};
use crate::position::{Checkpoint, Owed, Position};
use crate::resp::{self, Request};
use request::{Begin, LinkRequest};

/// Heartbeats that only tell what was seen come at most so often.
const HEARTBEAT_PAUSE: Duration = Duration::from_millis(20);
/// How long the source may need to read again what a crash of the machine took.
const CATCH_UP: Duration = Duration::from_mins(1);

/// How long a peer has to take a frame that is begun when we are stopped; what it does not get it
/// asks for again.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why serving a peer ended.
#[derive(Debug, thiserror::Error)]
enum PeerEnd {
    #[error("closed by the peer")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the peer said nothing for too long")]
    Silent,
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Journal(#[from] NotInJournal),
    #[error("{SHUTTING_DOWN}")]
    Stopped,
    #[error("{SHUTTING_DOWN}, within a frame")]
    StoppedWithin,
}

impl Feed {
    /// Serves a peer's link until it goes, or `stop`. `request` is `DUPLEX LINK ..`.
    pub async fn serve_peer(&self, mut stream: Stream, request: Request, stop: CancellationToken) {
        let request = match self.read_request(&request) {
            Ok(request) => request,
            Err(text) => {
                warn!(reason = %text, "refused a link");
                self.problems.add("feed", format!("refused a link: {text}"));
                let mut out = BytesMut::new();
                resp::put_error(&mut out, &format!("ERR {text}"));
                if let Err(error) = send(&mut stream, &out).await {
                    info!(%error, "the refused peer did not wait for the answer");
                }
                return;
            }
        };
        let site = request.site.clone();
        let addr = stream.peer_addr().map_or_else(|_| "?".to_owned(), |addr| addr.to_string());
        let _entered = self.enter(addr.clone(), format!("link {site}"));
        let end = match self.serve_link(&mut stream, &request, &stop).await {
            Ok(()) => PeerEnd::Closed,
            Err(end) => end,
        };
        match &end {
            PeerEnd::Closed | PeerEnd::Io(_) | PeerEnd::StoppedWithin => {
                info!(%site, %addr, reason = %end, "a peer's link is gone");
                return;
            }
            PeerEnd::Stopped => info!(%site, %addr, reason = %end, "a peer's link ends"),
            _ => warn!(%site, %addr, reason = %end, "a peer's link ends"),
        }
        let mut out = BytesMut::new();
        Frame::Bye(end.to_string()).put(&mut out);
        if let Err(error) = send(&mut stream, &out).await {
            info!(%site, %error, "the peer did not wait for the reason");
        }
    }

    async fn serve_link(
        &self,
        stream: &mut Stream,
        request: &LinkRequest,
        stop: &CancellationToken,
    ) -> Result<(), PeerEnd> {
        let reader = tokio::select! {
            () = stop.cancelled() => return Err(PeerEnd::StoppedWithin),
            reader = self.begin(stream, request) => reader?,
        };
        self.follow(stream, reader, stop).await
    }

    /// Answers, and brings the peer to where units follow.
    async fn begin(
        &self,
        stream: &mut Stream,
        request: &LinkRequest,
    ) -> Result<UnitReader, PeerEnd> {
        send(stream, b"+LINK\r\n").await?;
        if let Some((from, reader)) = self.resume(stream, request).await? {
            info!(site = %request.site, from = %from.position, "a peer resumes");
            let mut out = BytesMut::new();
            Frame::Resume { from }.put(&mut out);
            send(stream, &out).await?;
            Ok(reader)
        } else {
            self.full_sync(stream, request).await
        }
    }

    /// Where the peer goes on, if that can be had.
    async fn resume(
        &self,
        stream: &mut Stream,
        request: &LinkRequest,
    ) -> Result<Option<(Checkpoint, UnitReader)>, PeerEnd> {
        let newest = newest(&request.checkpoints, |position| self.journal.knows(position));
        let resumes = request.begin == Begin::Resume;
        let Some(from) = newest.filter(|newest| resumes && newest.owed == Owed::Nothing) else {
            return Ok(None);
        };
        let helped = match self.journal.read_from(from.position) {
            Ok(reader) => return Ok(Some((from, reader))),
            // A crash of the machine took the end of the journal, and the source reads it again.
            Err(NotInJournal::Ahead { .. }) => {
                let mut head = self.journal.watch();
                let there = async move {
                    let there = head.wait_for(|h| h.position.offset >= from.position.offset);
                    timeout(CATCH_UP, there).await.is_ok()
                };
                self.while_waiting(stream, "the source catches up", there).await?
            }
            // Its beginning is gone, or was on another disk.
            Err(NotInJournal::Dropped { .. } | NotInJournal::OtherHistory(..)) => {
                // Followers would lose their place.
                let followers = self.followers.lock().iter().any(|other| other.is_follower());
                let wish = self.backlog.read_from(from);
                !followers && self.while_waiting(stream, "the backlog is read", wish).await?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match self.journal.read_from(from.position) {
            Ok(reader) if helped => Some((from, reader)),
            Ok(_) => None,
            Err(reason) => {
                info!(site = %request.site, %reason, "a peer can't resume");
                None
            }
        })
    }

    /// Runs `work`, telling the peer meanwhile that we are there. `work` must be cancel safe or
    /// not mind being dropped when the peer goes.
    async fn while_waiting<T>(
        &self,
        stream: &mut Stream,
        why: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, PeerEnd> {
        tokio::pin!(work);
        let mut ticks = interval(self.heartbeat);
        ticks.tick().await;
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = ticks.tick() => {
                    let mut out = BytesMut::new();
                    Frame::Wait(why.to_owned()).put(&mut out);
                    send(stream, &out).await?;
                }
            }
        }
    }

    /// Sends what the journal gets, and heartbeats in the same order, until `stop`: then a frame
    /// that is begun is still sent whole, if the peer takes it.
    async fn follow(
        &self,
        stream: &mut Stream,
        mut reader: UnitReader,
        stop: &CancellationToken,
    ) -> Result<(), PeerEnd> {
        let (mut input, mut output) = split(stream);
        let mut out = BytesMut::new();
        let mut said = BytesMut::with_capacity(1024);
        let mut told: Option<Head> = None;
        let mut next_heartbeat = Instant::now();
        let mut heard_at = Instant::now();
        loop {
            if stop.is_cancelled() {
                return Err(PeerEnd::Stopped);
            }
            let head = match reader.read().await? {
                Read::Block(block) => {
                    out.clear();
                    put_block(&block, &mut out);
                    tokio::select! {
                        sent = send(&mut output, &out) => sent?,
                        () = farewell(stop) => return Err(PeerEnd::StoppedWithin),
                    }
                    told = None;
                    continue;
                }
                Read::Idle(now) => now,
            };
            let news = told
                .as_ref()
                .is_none_or(|told| told.position != head.position || told.seen != head.seen);
            let now = Instant::now();
            if now >= next_heartbeat + self.heartbeat || (news && now >= next_heartbeat) {
                out.clear();
                let seen = (*head.seen).clone();
                let database = head.database.unwrap_or_default();
                let time = self.clock.take(1);
                let (at, wall) = (head.position, unix_millis());
                Frame::Heartbeat { at, database, time, wall, seen }.put(&mut out);
                send(&mut output, &out).await?;
                told = Some(head);
                next_heartbeat = now + HEARTBEAT_PAUSE;
                continue;
            }
            let due = if news { next_heartbeat } else { next_heartbeat + self.heartbeat };
            tokio::select! {
                () = stop.cancelled() => return Err(PeerEnd::Stopped),
                () = reader.moved() => {}
                () = sleep_until(due) => {}
                read = input.read_buf(&mut said) => {
                    if read? == 0 {
                        return Err(PeerEnd::Closed);
                    }
                    // It only says that it is there.
                    said.clear();
                    heard_at = Instant::now();
                }
                () = sleep_until(heard_at + self.timeout) => return Err(PeerEnd::Silent),
            }
        }
    }
}

fn put_block(block: &Block, out: &mut BytesMut) {
    let mut bytes = BytesMut::new();
    block.encode(&mut bytes);
    Frame::Block(bytes.freeze()).put(out);
}

/// Waits until `stop`, and then as long as a peer has to take a frame that is begun.
async fn farewell(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(FAREWELL).await;
}

/// The checkpoint that counts: an older copy of it may stand in another database. Those of a
/// history that is not ours count only if there is none of ours.
pub(crate) fn newest(
    checkpoints: &[Checkpoint],
    is_ours: impl Fn(Position) -> bool,
) -> Option<Checkpoint> {
    let key = |from: &&Checkpoint| (is_ours(from.position), from.position.offset);
    checkpoints.iter().max_by_key(key).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Database, Offset, ReplicationId};

    #[test]
    fn the_newest_checkpoint_of_our_history_counts() {
        let (ours, other) = (ReplicationId::random(), ReplicationId::random());
        let at = |replid, offset| Checkpoint {
            position: Position { replid, offset: Offset(offset) },
            database: Database(0),
            time: 0,
            owed: Owed::Nothing,
        };
        let is_ours = |position: Position| position.replid == ours;
        let all = [at(other, 900), at(ours, 50), at(ours, 70), at(ours, 60)];
        assert_eq!(newest(&all, is_ours), Some(all[2]));
        assert_eq!(newest(&all[..1], is_ours), Some(all[0]));
        assert_eq!(newest(&[], is_ours), None);
    }
}
