//! Serving one replica or syncer: a snapshot if it needs one, then the journal's bytes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf, split};
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::snapshot::SnapshotError;
use super::spool::{Progress, Spool};
use super::{Entered, Feed};
use crate::endpoint::ReplicaWish;
use crate::journal::{FollowerReader, NotInJournal};
use crate::net::{Stream, send};
use crate::position::{Database, FollowerOffset};
use crate::resp::{self, Limits, RequestParser};

/// How often a follower gets a line feed while its snapshot is prepared, as from Redis.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// How much of a snapshot is read from disk at a time.
const CHUNK: usize = 256 * 1024;
/// What is said when the local Redis stays away, in the words of a replica that has no master.
const NO_SNAPSHOT: &[u8] =
    b"-NOMASTERLINK redis-duplex can't get a snapshot of its local Redis now\r\n";

/// Why serving a follower ended.
#[derive(Debug, thiserror::Error)]
enum FollowerEnd {
    #[error("closed by the follower")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Journal(#[from] NotInJournal),
    #[error("it sent what no replica sends: {0}")]
    Protocol(#[from] resp::RequestError),
    #[error("it had asked for the snapshot alone")]
    Done,
    #[error("shutting down")]
    Stopped,
}

struct Session<'a> {
    feed: &'a Feed,
    wish: ReplicaWish,
    entered: Entered,
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    input: BytesMut,
    parser: RequestParser,
    /// It acknowledged something since it is online.
    acknowledged: bool,
}

impl Feed {
    /// Serves a follower until it goes, or history breaks, or `stop`.
    pub async fn serve_replica(
        &self,
        stream: Stream,
        input: BytesMut,
        wish: ReplicaWish,
        stop: CancellationToken,
    ) {
        let addr = format!("{}:{}", wish.address, wish.port);
        info!(%addr, "a follower asks for the stream");
        let (reader, writer) = split(stream);
        let entered = self.enter(addr.clone(), "replica".to_owned());
        let parser = RequestParser::new(Limits::STRANGER);
        let acknowledged = false;
        let mut session =
            Session { feed: self, wish, entered, reader, writer, input, parser, acknowledged };
        let end = tokio::select! {
            () = stop.cancelled() => FollowerEnd::Stopped,
            end = session.serve() => end.err().unwrap_or(FollowerEnd::Done),
        };
        match end {
            FollowerEnd::Closed | FollowerEnd::Done | FollowerEnd::Stopped | FollowerEnd::Io(_) => {
                info!(%addr, reason = %end, "a follower is gone");
            }
            end => {
                warn!(%addr, reason = %end, "a follower could not be served on");
                self.problems.add(format!("follower {addr}"), end.to_string());
            }
        }
    }
}

impl Session<'_> {
    async fn serve(&mut self) -> Result<(), FollowerEnd> {
        let mut reader = match self.partial() {
            Some(reader) => {
                let id = self.feed.journal.status().follower_id;
                let line = if self.wish.psync2 {
                    format!("+CONTINUE {id}\r\n")
                } else {
                    "+CONTINUE\r\n".to_owned()
                };
                send(&mut self.writer, line.as_bytes()).await?;
                reader
            }
            None => self.full().await?,
        };
        loop {
            while let Some(bytes) = reader.read().await? {
                send(&mut self.writer, &bytes).await?;
                self.entered.status.sent.store(reader.at().0, Ordering::Relaxed);
            }
            tokio::select! {
                () = reader.moved() => {}
                read = self.reader.read_buf(&mut self.input) => self.take_input(read?)?,
            }
        }
    }

    /// A reader from the byte asked for, if the journal has it.
    fn partial(&self) -> Option<FollowerReader> {
        let (id, byte) = self.wish.from?;
        if id != self.feed.journal.status().follower_id {
            return None;
        }
        // It asks for the next byte, counted from 1; our offsets count the bytes before.
        self.feed.journal.follow_from(FollowerOffset(byte.checked_sub(1)?)).ok()
    }

    /// A snapshot, then a reader of what follows it.
    async fn full(&mut self) -> Result<FollowerReader, FollowerEnd> {
        let feed = self.feed;
        let spool = match feed.snapshots.get(&feed.journal).await {
            Ok(spool) => spool,
            Err(error) => {
                // Replicas know this word: they ask again later.
                if !self.wish.sync {
                    send(&mut self.writer, NO_SNAPSHOT).await?;
                }
                return Err(error.into());
            }
        };
        let (from, missing) = feed.journal.follower_at(spool.at.offset).await?;
        // Opened before the snapshot is sent, so that its bytes are known to be there now.
        let reader = feed.journal.follow_from(from)?;
        // Only where the snapshot was cut before we asked for it: Redis may hand out one that it
        // had begun for another replica.
        let select = missing.map(select).unwrap_or_default();
        if !self.wish.sync {
            let id = feed.journal.status().follower_id;
            let offset = from.0 - select.len() as u64;
            let line = format!("+FULLRESYNC {id} {offset}\r\n");
            send(&mut self.writer, line.as_bytes()).await?;
        }
        let marked = self.send_snapshot(&spool).await?;
        if self.wish.snapshot_only {
            return Err(FollowerEnd::Done);
        }
        if marked {
            // Without a length it finds the end by the mark: nothing may follow before it says so.
            while !self.acknowledged {
                let read = self.reader.read_buf(&mut self.input).await?;
                self.take_input(read)?;
            }
        }
        send(&mut self.writer, &select).await?;
        Ok(reader)
    }

    /// Sends the snapshot, framed by a length if it is known or if the follower can't read a mark.
    /// Whether it ended by a mark.
    async fn send_snapshot(&mut self, spool: &Spool) -> Result<bool, FollowerEnd> {
        let mut progress = spool.watch();
        let mark = self.send_head(&mut progress).await?;
        let mut sent = 0;
        loop {
            let now = progress.borrow_and_update().clone();
            while sent < now.written {
                let length = usize::try_from(now.written - sent).unwrap_or(CHUNK).min(CHUNK);
                let bytes = spool.read(sent, length).await?;
                send(&mut self.writer, &bytes).await?;
                sent += length as u64;
            }
            match now.end {
                Some(Ok(())) => break,
                Some(Err(why)) => return Err(SnapshotError::BrokeOff(why).into()),
                None => changed(&mut progress).await?,
            }
        }
        if let Some(mark) = &mark {
            send(&mut self.writer, mark).await?;
        }
        Ok(mark.is_some())
    }

    /// Sends the line before the snapshot, when there is something to say; the mark, if there is
    /// one.
    async fn send_head(
        &mut self,
        progress: &mut watch::Receiver<Progress>,
    ) -> Result<Option<Bytes>, FollowerEnd> {
        let mut ticks = interval(KEEPALIVE);
        loop {
            let now = progress.borrow_and_update().clone();
            let length = match (now.end, now.head) {
                (Some(Ok(())), _) => now.written,
                (Some(Err(why)), _) => return Err(SnapshotError::BrokeOff(why).into()),
                (None, Some(Ok(length))) => length,
                (None, Some(Err(mark))) if self.wish.eof => {
                    send(&mut self.writer, &[b"$EOF:", &mark[..], b"\r\n"].concat()).await?;
                    return Ok(Some(mark));
                }
                (None, _) => {
                    tokio::select! {
                        changed = changed(progress) => changed?,
                        _ = ticks.tick() => send(&mut self.writer, b"\n").await?,
                    }
                    continue;
                }
            };
            send(&mut self.writer, format!("${length}\r\n").as_bytes()).await?;
            return Ok(None);
        }
    }

    /// What a follower says: acknowledgements, which are never answered.
    fn take_input(&mut self, read: usize) -> Result<(), FollowerEnd> {
        if read == 0 {
            return Err(FollowerEnd::Closed);
        }
        while let Some(request) = self.parser.parse(&mut self.input)? {
            if request.is("REPLCONF") && request.arg_is(1, "ACK") {
                let offset = std::str::from_utf8(request.arg(2)).ok().and_then(|t| t.parse().ok());
                self.entered.status.acknowledged.store(offset.unwrap_or(0), Ordering::Relaxed);
                self.acknowledged = true;
            }
        }
        Ok(())
    }
}

async fn changed(progress: &mut watch::Receiver<Progress>) -> Result<(), FollowerEnd> {
    let ended = |_| SnapshotError::BrokeOff("nobody reads it any more".to_owned());
    Ok(progress.changed().await.map_err(ended)?)
}

fn select(database: Database) -> Bytes {
    let mut out = BytesMut::new();
    resp::put_command(&mut out, &["SELECT", &database.to_string()]);
    out.freeze()
}
