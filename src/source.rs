//! The connection on which we read the local Redis as its replica.
//!
//! Attach, then scan, judge and journal what comes, acknowledge each second what is journaled, and
//! when the connection breaks begin again where the journal ends. Only a local Redis that can't
//! continue makes a new history.

mod attach;
mod begin;
mod gap;
mod receive_stream;
mod remember;
mod watch_backlog;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use attach::AttachError;
use attach::Attached;
pub(crate) use attach::{How, Place, Resume};
pub(crate) use receive_stream::StreamReceiver;
pub use watch_backlog::watch_backlog;

use crate::backlog::Wishes;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::conflict::KeyTable;
use crate::journal::{Journal, JournalError};
use crate::observe::{Problems, SourceState, SourceStatus};
use crate::pairing::Pairing;
use crate::redis::{RedisError, Target};
use crate::write_off::WriteOffSet;

/// A master that says nothing for so long is dead: Redis's default `repl-timeout`; it sends a PING
/// every 10 s.
const SILENCE: Duration = Duration::from_mins(1);
/// How often we acknowledge, as replicas do.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// Behind a snapshot that comes straight from memory Redis sends nothing before it has heard of us,
/// some time (its timer: 0.1 s) after the end of it. So we acknowledge so often..
const FIRST_ACK_INTERVAL: Duration = Duration::from_millis(20);
/// ..for so long, or until something comes.
const FIRST_ACKS: Duration = Duration::from_secs(3);
/// How long a journal that can't be written is left alone: room is rarely made faster.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);

/// Why a connection to the local Redis ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the local Redis said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the replication stream can't be read: {0}")]
    Scan(#[from] crate::resp::ScanError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("a peer needs what came earlier")]
    Earlier(Box<Attached>),
    #[error("shutting down")]
    Stopped,
}

/// The source: what it reads from, and where it puts what it finds.
#[derive(Debug)]
pub struct Source {
    /// The local Redis.
    pub target: Target,
    /// The site's clock.
    pub clock: Arc<Clock>,
    /// Where local units go.
    pub journal: Arc<Journal>,
    /// Where echoes are written off.
    pub write_off: Arc<WriteOffSet>,
    /// The source's numbers.
    pub status: Arc<SourceStatus>,
    /// Where problems are told.
    pub problems: Arc<Problems>,
    /// The peers: local writes are entered until they have seen them.
    pub peers: Vec<Arc<Pairing>>,
    /// Goes up when something that was not ours may have taken the checkpoint hash away.
    pub checkpoint_touched: Arc<watch::Sender<u64>>,
}

impl Source {
    /// Attaches for the first time, patiently while that can help. An error means that this Redis
    /// can't be served as it is.
    pub async fn attach_first(&self, stop: &CancellationToken) -> Result<Running, AttachError> {
        let mut backoff = Backoff::for_connections();
        let resume = self.earlier_run();
        loop {
            let attached = tokio::select! {
                () = stop.cancelled() => return Err(AttachError::Stopped),
                attached = attach::attach(&self.target, &self.status, resume) => attached,
            };
            match attached {
                Ok(attached) => {
                    if resume.is_some() {
                        self.tell_break(attached.place);
                    }
                    let begun = self.begin(attached.place, stop).await;
                    return match begun {
                        Ok(()) => Ok(Running { attached }),
                        Err(StreamEnd::Journal(error)) => Err(AttachError::Journal(error)),
                        Err(_) => Err(AttachError::Stopped),
                    };
                }
                Err(error) if error.is_passing() => self.wait(&error, &mut backoff, stop).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where an earlier run of the sidecar left off.
    pub(crate) fn earlier_run(&self) -> Option<Resume> {
        let head = self.journal.head();
        let left_off = |database| Resume { position: head.position, database, time: head.time };
        head.database.map(left_off)
    }

    /// Where this run left off when its connection broke.
    pub(crate) fn left_off(&self, receiver: &StreamReceiver<'_>) -> Resume {
        let head = self.journal.head();
        let database = receiver.journaled_database();
        Resume { position: head.position, database, time: head.time }
    }

    /// Waits before the journal is tried again, if that can help. Nothing is acknowledged meanwhile,
    /// and the local Redis keeps what comes.
    async fn wait_for_journal(
        &self,
        error: JournalError,
        stop: &CancellationToken,
    ) -> Result<(), StreamEnd> {
        if !matches!(error, JournalError::Write { .. }) {
            return Err(error.into());
        }
        let reason = error.to_string();
        let state = SourceState::Connecting(reason.clone());
        if self.status.state() != state {
            self.problems.add("journal", reason);
            self.status.set_state(state);
        }
        tokio::select! {
            () = stop.cancelled() => Err(StreamEnd::Stopped),
            () = tokio::time::sleep(JOURNAL_RETRY) => Ok(()),
        }
    }

    async fn wait(&self, error: &AttachError, backoff: &mut Backoff, stop: &CancellationToken) {
        let reason = error.to_string();
        let state = SourceState::Connecting(reason.clone());
        let wait = backoff.wait().min(error.longest_wait());
        if self.status.state() != state {
            warn!(%reason, "the local redis is not there, trying again");
            self.problems.add("source", reason);
            self.status.set_state(state);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Reads the stream until `stop`, across all breaks of the connection. `keys` tells which
    /// arguments of the local Redis's commands are keys; at `wishes` it begins earlier.
    pub async fn run(
        self,
        running: Running,
        keys: &KeyTable,
        mut wishes: Wishes,
        stop: CancellationToken,
    ) {
        let mut attached = running.attached;
        if attached.place.how == How::Again {
            self.remember_unseen(keys).await;
        }
        let mut backoff = Backoff::for_connections();
        loop {
            let mut receiver = self.receiver(&attached.place, keys);
            let end = self.receive(&mut attached, &mut receiver, &mut wishes, &stop).await;
            match end {
                StreamEnd::Stopped => return,
                StreamEnd::Earlier(earlier) => {
                    attached = *earlier;
                    continue;
                }
                _ => {}
            }
            warn!(reason = %end, "lost the replication stream of the local redis");
            self.status.set_state(SourceState::Connecting(end.to_string()));
            let resume = self.left_off(&receiver);
            attached = loop {
                let next = tokio::select! {
                    () = stop.cancelled() => return,
                    next = attach::attach(&self.target, &self.status, Some(resume)) => next,
                };
                match next {
                    Ok(next) => break next,
                    // Also what waiting does not mend: a person may mend it meanwhile, and the
                    // listen port goes on serving what the journal holds.
                    Err(error) => self.wait(&error, &mut backoff, &stop).await,
                }
            };
            backoff.reset();
            self.tell_break(attached.place);
            if let Err(end) = self.begin(attached.place, &stop).await {
                warn!(reason = %end, "the source ends");
                return;
            }
        }
    }

    pub(crate) fn receiver<'a>(&self, place: &Place, keys: &'a KeyTable) -> StreamReceiver<'a> {
        StreamReceiver::new(place, &self.journal.head(), keys)
    }

    /// Reads one connection until it ends. Cancel safe between reads: what is journaled is whole.
    async fn receive(
        &self,
        attached: &mut Attached,
        receiver: &mut StreamReceiver<'_>,
        wishes: &mut Wishes,
        stop: &CancellationToken,
    ) -> StreamEnd {
        let connection = &mut attached.connection;
        let mut ticks = interval(ACK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_since = Instant::now();
        let mut first_ticks = interval(FIRST_ACK_INTERVAL);
        let mut first = attached.place.how == How::Full;
        loop {
            first &= silent_since.elapsed() < FIRST_ACKS;
            match receiver.take(&mut connection.input, self, stop).await {
                Ok(false) => {}
                Ok(true) => {
                    if let Err(error) = connection.write(&receiver.ack()).await {
                        return error.into();
                    }
                }
                Err(end) => return end,
            }
            tokio::select! {
                () = stop.cancelled() => return StreamEnd::Stopped,
                _ = first_ticks.tick(), if first => {
                    if let Err(error) = connection.write(&receiver.ack()).await {
                        return error.into();
                    }
                }
                _ = ticks.tick() => {
                    if silent_since.elapsed() > SILENCE {
                        return StreamEnd::Silent;
                    }
                    match timeout(SILENCE, connection.write(&receiver.ack())).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.into(),
                        Err(_) => return StreamEnd::Silent,
                    }
                }
                Some(wish) = wishes.recv() => match self.go_back(wish, stop).await {
                    Ok(None) => {}
                    Ok(Some(earlier)) => return StreamEnd::Earlier(Box::new(earlier)),
                    Err(end) => return end,
                },
                read = connection.read() => match read {
                    Ok(()) => {
                        silent_since = Instant::now();
                        first = false;
                    }
                    Err(error) => return error.into(),
                },
            }
        }
    }
}

/// A source that is attached and ready to be run.
#[derive(Debug)]
pub struct Running {
    attached: Attached,
}
