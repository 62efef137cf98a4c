//! Serving one replica or syncer: a snapshot if it needs one, then the journal's bytes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::snapshot::{Snapshot, SnapshotError};
use super::{Entered, Feed};
use crate::endpoint::ReplicaWish;
use crate::journal::{FollowerReader, NotInJournal};
use crate::position::{Database, FollowerOffset};
use crate::redis::SnapshotPart;
use crate::resp::{self, Limits, RequestParser};

/// How often a follower gets a line feed while its snapshot is prepared, as from Redis.
const KEEPALIVE: Duration = Duration::from_secs(1);

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
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    parser: RequestParser,
    /// It acknowledged something since it is online.
    acknowledged: bool,
}

impl Feed {
    /// Serves a follower until it goes, or history breaks, or `stop`.
    pub async fn serve_replica(
        &self,
        stream: TcpStream,
        input: BytesMut,
        wish: ReplicaWish,
        stop: CancellationToken,
    ) {
        let addr = format!("{}:{}", wish.address, wish.port);
        info!(%addr, "a follower asks for the stream");
        let (reader, writer) = stream.into_split();
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
                self.writer.write_all(line.as_bytes()).await?;
                reader
            }
            None => self.full().await?,
        };
        loop {
            while let Some(bytes) = reader.read().await? {
                self.writer.write_all(&bytes).await?;
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
        let mut snapshot = Snapshot::begin(&feed.target, self.wish.eof).await?;
        snapshot.caught_up(&feed.journal).await?;
        let (from, database) = feed.journal.follower_at(snapshot.at.offset).await?;
        // Opened before the snapshot is sent, so that its bytes are known to be there now.
        let reader = feed.journal.follow_from(from)?;
        let select = select(database);
        if !self.wish.sync {
            let id = feed.journal.status().follower_id;
            let offset = from.0 - select.len() as u64;
            let line = format!("+FULLRESYNC {id} {offset}\r\n");
            self.writer.write_all(line.as_bytes()).await?;
        }
        let marked = self.send_snapshot(&mut snapshot).await?;
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
        self.writer.write_all(&select).await?;
        Ok(reader)
    }

    /// Passes the snapshot on, framed as it comes. Whether it ended by a mark.
    async fn send_snapshot(&mut self, snapshot: &mut Snapshot) -> Result<bool, FollowerEnd> {
        let mut ticks = interval(KEEPALIVE);
        let mut mark = None;
        let mut begun = false;
        loop {
            let part = tokio::select! {
                part = snapshot.next() => part?,
                _ = ticks.tick(), if !begun => {
                    self.writer.write_all(b"\n").await?;
                    continue;
                }
            };
            match part {
                SnapshotPart::Head(Ok(length)) => {
                    begun = true;
                    self.writer.write_all(format!("${length}\r\n").as_bytes()).await?;
                }
                SnapshotPart::Head(Err(end)) => {
                    begun = true;
                    self.writer.write_all(&[b"$EOF:", &end[..], b"\r\n"].concat()).await?;
                    mark = Some(end);
                }
                SnapshotPart::Bytes(bytes) => self.writer.write_all(&bytes).await?,
                SnapshotPart::End => {
                    if let Some(mark) = &mark {
                        self.writer.write_all(mark).await?;
                    }
                    return Ok(mark.is_some());
                }
            }
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

fn select(database: Database) -> Bytes {
    let mut out = BytesMut::new();
    resp::put_command(&mut out, &["SELECT", &database.to_string()]);
    out.freeze()
}
