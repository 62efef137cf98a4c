//! A fresh snapshot of the local Redis, at a known position, read as it comes.

use std::time::Duration;

use tokio::time::timeout;

use crate::journal::Journal;
use crate::position::Position;
use crate::redis::{
    Connection, Psync, RedisError, ReplicaOptions, ServerInfo, SnapshotFraming, SnapshotPart,
    Target, begin_psync,
};

/// How long the local Redis may send nothing, not even the line feeds that it sends while it
/// prepares a snapshot: its default `repl-timeout`.
const SILENCE: Duration = Duration::from_mins(1);
/// How long the source may need to catch up with a snapshot's position.
const CATCH_UP: Duration = Duration::from_mins(1);

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshot {
    connection: Connection,
    framing: SnapshotFraming,
    /// Where it was taken.
    pub at: Position,
    /// Keys of the server when it was asked for.
    pub keys: u64,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the local Redis sent its stream where a snapshot was asked for")]
    NoSnapshot,
    #[error("no file for the snapshot of followers: {0}")]
    File(#[from] std::io::Error),
    #[error("the snapshot broke off: {0}")]
    BrokeOff(String),
    #[error("the source did not catch up with the snapshot at {0}; it stands at {1}")]
    NotCaughtUp(Position, Position),
}

impl Snapshot {
    /// Asks for a snapshot alone (DESIGN, fact 9). With `eof` it may come straight from memory.
    pub(super) async fn begin(target: &Target, eof: bool) -> Result<Self, SnapshotError> {
        let mut connection = Connection::open(target).await?;
        let server = ServerInfo::ask(&mut connection).await?;
        let keys = server.info.keys();
        let valkey = server.version.valkey();
        let options = ReplicaOptions { eof, snapshot_only: true, valkey, ..Default::default() };
        match begin_psync(&mut connection, options, None).await? {
            Psync::FullResync(at) => {
                Ok(Self { connection, framing: SnapshotFraming::default(), at, keys })
            }
            Psync::Continue(_) => Err(SnapshotError::NoSnapshot),
        }
    }

    /// What comes next. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<SnapshotPart, SnapshotError> {
        loop {
            let part = self.framing.next(&mut self.connection.input);
            match part.map_err(|what| self.connection.unexpected("PSYNC", what))? {
                Some(part) => return Ok(part),
                None => timeout(SILENCE, self.connection.read())
                    .await
                    .map_err(|_| self.connection.lost(std::io::ErrorKind::TimedOut.into()))??,
            }
        }
    }

    /// Waits until the journal holds the stream up to the snapshot.
    pub(super) async fn caught_up(&self, journal: &Journal) -> Result<(), SnapshotError> {
        let mut head = journal.watch();
        let there = head.wait_for(|head| {
            head.position.replid == self.at.replid && head.position.offset >= self.at.offset
        });
        let there = timeout(CATCH_UP, there).await.is_ok();
        let stands = journal.head().position;
        there.then_some(()).ok_or(SnapshotError::NotCaughtUp(self.at, stands))
    }
}
