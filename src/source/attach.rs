//! Getting onto the replication stream of the local Redis, as cheaply as it allows.
//!
//! 1. Where we left off, by PSYNC, if we were there before.
//! 2. For free, at the current end of the stream, if Redis keeps a backlog: the probe and INFO in
//!    one transaction give the offset and make the database known (DESIGN, fact 10).
//! 3. Else we ask for a full resync. Redis makes a backlog at once, but lets a snapshot wait for
//!    more replicas (`repl-diskless-sync-delay`): then 2 is possible, and no snapshot is made.
//! 4. Where it makes one at once, the snapshot is thrown away; from 7.0 on we ask for an empty one.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::{Instant, interval_at};
use tracing::info;

use super::gap::Gap;
use crate::clock::Timestamp;
use crate::journal::JournalError;
use crate::observe::{SourceState, SourceStatus};
use crate::position::{Checkpoint, Database, Position};
use crate::redis::{
    Connection, InfoText, Psync, RedisError, ReplicaOptions, ServerInfo, SnapshotFraming,
    SnapshotPart, Target, begin_psync,
};
use crate::write_off::put_probe;

/// An answer to PSYNC that Redis does not put off comes within this.
const PROMPT: Duration = Duration::from_millis(100);
/// How often a Redis that is not there is looked for: a connect on the same machine costs microseconds.
const STARTING_PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether there is a backlog.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The server is not there, or refused something.
    #[error("{error}{hint}")]
    Redis {
        /// What happened.
        error: RedisError,
        /// What to do about it.
        hint: &'static str,
    },
    /// The server can never be a site's local Redis as it is.
    #[error("the local Redis at {addr} can't be used: {reason}")]
    Unfit {
        /// The server.
        addr: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The server is itself a replica now.
    #[error(
        "the local Redis at {addr} is a replica of {master}; redis-duplex needs the master: point \
         [redis] addr there, or promote this one (REPLICAOF NO ONE)"
    )]
    Replica {
        /// The server.
        addr: String,
        /// Its master.
        master: String,
    },
    /// The journal does not take where we stand.
    #[error("the journal can't be used: {0}")]
    Journal(JournalError),
    /// We are told to stop.
    #[error("stopped while waiting for the local Redis")]
    Stopped,
}

impl AttachError {
    /// Whether waiting can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Redis { error, .. } => error.is_passing(),
            Self::Replica { .. } => true,
            Self::Unfit { .. } | Self::Journal(_) | Self::Stopped => false,
        }
    }

    /// The longest sensible wait before the next try. A Redis that starts is attached to soon: what
    /// its clients write before that is in no stream.
    pub(super) fn longest_wait(&self) -> Duration {
        let starts = match self {
            Self::Redis { error: RedisError::Connect { source, .. }, .. } => {
                source.kind() == io::ErrorKind::ConnectionRefused
            }
            Self::Redis { error, .. } => error.is_loading(),
            _ => false,
        };
        if starts { STARTING_PAUSE } else { Duration::MAX }
    }
}

impl From<RedisError> for AttachError {
    fn from(error: RedisError) -> Self {
        let hint = match error.reply() {
            Some(reply) if reply.starts_with("WRONGPASS") => {
                ": set [redis] username and password (or password_file) to those of this Redis"
            }
            Some(reply) if reply.starts_with("NOAUTH") => {
                ": this Redis asks for a password: set [redis] password or password_file"
            }
            Some(reply) if reply.contains("AUTH") => {
                ": this Redis has no password for the default user: remove [redis] password"
            }
            Some(reply) if reply.starts_with("NOPERM") => {
                ": give this user +@all ~* &* (ACL SETUSER), it must read and write everything"
            }
            _ if error.is_tls() => "",
            // What a server does that waits for a TLS handshake.
            _ if error.is_reset() => ": if this port speaks TLS set [redis] tls = true",
            _ if matches!(error, RedisError::Connect { .. }) => {
                ": is Redis running there, and is [redis] addr right?"
            }
            _ => "",
        };
        Self::Redis { error, hint }
    }
}

/// Where to resume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub position: Position,
    pub database: Database,
    /// The moment there.
    pub time: Timestamp,
}

/// How we got onto the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Free,
    Again,
    Full,
}

impl How {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Free => "at the end of its stream",
            Self::Again => "where we left off",
            Self::Full => "by a full resync",
        }
    }
}

/// Where we got onto the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// What comes next begins behind this.
    pub position: Position,
    /// In force there.
    pub database: Database,
    pub how: How,
    /// What was written while nobody read.
    pub gap: Gap,
}

impl Place {
    /// By Redis's answer to PSYNC from `start`, which is where we left off if we were there
    /// `before`. `None` if that can't be an answer. Pure.
    pub(crate) fn of(
        answer: Psync,
        start: Option<Resume>,
        before: bool,
        server: &ServerInfo,
    ) -> Option<Self> {
        match (answer, start) {
            (Psync::Continue(replid), Some(start)) => {
                let replid = replid.unwrap_or(start.position.replid);
                let position = Position { replid, ..start.position };
                let how = if before { How::Again } else { How::Free };
                let gap = Gap::new(server, start);
                Some(Self { position, database: start.database, how, gap })
            }
            (Psync::Continue(_), None) => None,
            // The stream behind a snapshot begins with a SELECT.
            (Psync::FullResync(position), _) => {
                let gap = Gap::none(position.offset);
                Some(Self { position, database: Database(0), how: How::Full, gap })
            }
        }
    }
}

/// A connection on which the stream comes.
#[derive(Debug)]
pub(crate) struct Attached {
    pub connection: Connection,
    pub place: Place,
}

/// Gets onto the stream.
pub(super) async fn attach(
    target: &Target,
    status: &SourceStatus,
    resume: Option<Resume>,
) -> Result<Attached, AttachError> {
    let mut control = Connection::open(target).await?;
    let server = ServerInfo::ask(&mut control).await?;
    let addr = target.addr.clone();
    if let Some(reason) = server.unfit() {
        return Err(AttachError::Unfit { addr, reason });
    }
    if server.info.get("role") == "slave" {
        let master =
            format!("{}:{}", server.info.get("master_host"), server.info.get("master_port"));
        return Err(AttachError::Replica { addr, master });
    }
    let mut connection = Connection::open(target).await?;
    let empty = server.version.is_7_or_later();
    let options = ReplicaOptions { eof: empty, empty_snapshot: empty, ..Default::default() };
    let start = match resume {
        Some(resume) => Some(resume),
        None => probe(&mut control).await?,
    };
    // Redis answers that it goes on at once, unless it is slow.
    let continues = start.is_some_and(|start| server.backlog_holds(start.position));
    let asked = tokio::select! {
        answer = begin_psync(&mut connection, options, start.map(|start| start.position)) => {
            Place::of(answer?, start, resume.is_some(), &server)
        }
        begun = backlog_begins(&mut control), if !continues => {
            let begun = begun?;
            // What was asked for before ends with its connection.
            connection = Connection::open(target).await?;
            let answer = begin_psync(&mut connection, options, Some(begun.position)).await?;
            Place::of(answer, Some(begun), false, &server)
        }
    };
    let place = asked
        .ok_or_else(|| connection.unexpected("PSYNC", "+CONTINUE where nothing was to continue"))?;
    if place.how == How::Full {
        info!("waiting for a snapshot of the local redis to pass");
        status.set_state(SourceState::Resyncing);
        pass_snapshot(&mut connection).await?;
    }
    Ok(Attached { connection, place })
}

/// Gets onto the stream behind a peer's checkpoint; `None` if the backlog does not reach back there.
pub(super) async fn go_back(
    target: &Target,
    from: Checkpoint,
) -> Result<Option<Attached>, AttachError> {
    let mut connection = Connection::open(target).await?;
    let server = ServerInfo::ask(&mut connection).await?;
    if !server.backlog_holds(from.position) {
        return Ok(None);
    }
    let Checkpoint { position, database, time, owed: _ } = from;
    let start = Resume { position, database, time: Timestamp::from_unix_millis(time) };
    let answer = begin_psync(&mut connection, ReplicaOptions::default(), Some(position)).await?;
    // Else the backlog moved on meanwhile; what was begun ends with the connection.
    let place = Place::of(answer, Some(start), true, &server).filter(|p| p.how == How::Again);
    Ok(place.map(|place| Attached { connection, place }))
}

/// Waits until there is a backlog, while Redis lets us wait for a snapshot; then probes.
async fn backlog_begins(control: &mut Connection) -> Result<Resume, RedisError> {
    let mut ticks = interval_at(Instant::now() + PROMPT, PROBE_PAUSE);
    loop {
        ticks.tick().await;
        if let Some(begun) = probe(control).await? {
            return Ok(begun);
        }
    }
}

/// Leaves a probe in the stream, behind the offset that is returned; `None` without a backlog.
async fn probe(control: &mut Connection) -> Result<Option<Resume>, RedisError> {
    control.call(&["MULTI"]).await?;
    control.call(&["INFO", "replication"]).await?;
    let mut out = BytesMut::new();
    put_probe(&mut out);
    control.write(&out).await?;
    control.reply("HSET").await?;
    let replies = match control.call(&["EXEC"]).await? {
        BytesFrame::Array(replies) => replies,
        other => return Err(control.unexpected("EXEC", format!("{other:?}"))),
    };
    let Some(BytesFrame::BulkString(text)) = replies.first() else {
        return Err(control.unexpected("INFO", "no text"));
    };
    let info = InfoText::parse(&String::from_utf8_lossy(text));
    if info.number("repl_backlog_active") != 1 {
        return Ok(None);
    }
    // The probe was written in database 0, where a new connection stands.
    let resume = |position| Resume { position, database: Database(0), time: Timestamp::default() };
    Ok(info.position().map(resume))
}

/// Reads a snapshot and throws it away.
async fn pass_snapshot(connection: &mut Connection) -> Result<(), RedisError> {
    let mut framing = SnapshotFraming::default();
    loop {
        let part = framing.next(&mut connection.input);
        match part.map_err(|what| connection.unexpected("PSYNC", what))? {
            Some(SnapshotPart::End) => return Ok(()),
            Some(_) => {}
            None => {
                // A fork can take long; Redis sends line feeds meanwhile.
                tokio::time::timeout(super::SILENCE, connection.read())
                    .await
                    .map_err(|_| connection.lost(std::io::ErrorKind::TimedOut.into()))??;
            }
        }
    }
}
