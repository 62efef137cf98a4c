//! Pulling a peer's units and applying them here.
//!
//! One session: take over the writing connection to the local Redis, read the checkpoint, ask the
//! peer for what follows it, apply it. Whatever breaks, at whichever end, ends the session, and the
//! next one begins at the checkpoint that Redis then holds: so exactly-once needs no other memory.

mod control;
mod extra;
mod full_sync;
mod intake;
mod receive;
mod unit;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::apply::{
    Applier, ApplyError, ApplySetup, clear_foreign_checkpoint, read_checkpoints, take_over,
};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::Flush;
use crate::conflict::KeyTable;
use crate::frame::{FrameError, PROTOCOL};
use crate::observe::{LinkState, LinkStatus, Problems};
use crate::pairing::Pairing;
use crate::position::{Checkpoint, Database, LinkSession, Owed, SiteName};
use crate::rdb::RdbError;
use crate::redis::{Connection, RedisError, ServerInfo, Target};
use crate::resp;

pub use control::Control;
pub(crate) use intake::Intake;
use receive::Receiver;

/// What is between the reader of the peer and the applier, in sends; its bytes are bounded apart.
const QUEUED_SENDS: usize = 64;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The local Redis.
    #[error("local Redis: {0}")]
    Local(#[from] RedisError),
    /// The peer can't be reached or is gone.
    #[error("peer at {addr}: {source}")]
    Peer {
        /// Its address.
        addr: String,
        /// What happened.
        source: RedisError,
    },
    /// The peer refused the link or ended it.
    #[error("the peer said: {0}")]
    Refused(String),
    /// The peer's sidecar is stopped, in good order.
    #[error("the peer is shutting down")]
    Leaves,
    /// The peer sent nothing for too long.
    #[error("the peer said nothing for {0:?}")]
    Silent(Duration),
    /// The stream of the local Redis does not bring what was applied.
    #[error("what was applied has not come back in the stream of the local redis for {0:?}")]
    NotBack(Duration),
    /// What the peer sends is no frame.
    #[error("the peer sends what this version can't read: {0}")]
    Frame(#[from] FrameError),
    /// What the peer sends as units is none.
    #[error("the peer sends broken units: {0}")]
    Broken(String),
    /// The peer's snapshot can't be read.
    #[error("the peer's snapshot: {0}")]
    Snapshot(#[from] RdbError),
    /// Applying ended.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A person must decide.
    #[error(
        "the peer flushed its data ({0}) and [filter] flush is \"stop\": set it to \"forward\" (do \
         it here too) or \"drop\" (keep what is here), and restart this sidecar"
    )]
    Flushed(String),
    /// The feed or a person demanded that the session begins anew.
    #[error("both sites take a full sync")]
    Restarted,
    /// A person paused the link.
    #[error("paused by DUPLEX PAUSE")]
    Paused,
    /// We are told to stop.
    #[error("shutting down")]
    Stopped,
}

impl LinkError {
    /// Whether trying again can help without a person.
    fn is_passing(&self) -> bool {
        !matches!(self, Self::Flushed(_) | Self::Apply(ApplyError::NoSuchDatabase(..)))
    }

    /// Whether the peer is just not there. One whose certificate is bad, or who finds ours bad, is.
    fn is_absence(&self) -> bool {
        match self {
            Self::Peer { source, .. } => !source.is_tls(),
            _ => matches!(self, Self::Leaves),
        }
    }

    /// Whether nobody needs to be told.
    fn is_expected(&self) -> bool {
        matches!(self, Self::Restarted | Self::Paused | Self::Stopped)
    }
}

/// A link: which peer, and all it works with.
#[derive(Debug)]
pub struct Link {
    /// This site.
    pub site: SiteName,
    /// The site whose data wins.
    pub primary: Option<SiteName>,
    /// The peer's sidecar.
    pub peer: Target,
    /// The local Redis.
    pub target: Target,
    /// How batches are made, and where the numbers go.
    pub apply: ApplySetup,
    /// The link's numbers.
    pub status: Arc<LinkStatus>,
    /// What the other direction does.
    pub pairing: Arc<Pairing>,
    /// What a person tells it.
    pub control: Control,
    /// Where commands have their keys.
    pub keys: Arc<KeyTable>,
    /// The site's clock.
    pub clock: Arc<Clock>,
    /// Where problems are told.
    pub problems: Arc<Problems>,
    /// What is done about FLUSHALL and FLUSHDB.
    pub flush: Flush,
    /// How often we say that we are there.
    pub heartbeat: Duration,
    /// After how long a silent peer is given up.
    pub timeout: Duration,
    /// Bytes of the peer's data that may wait to be applied; what comes larger counts as this much.
    pub queue_bytes: usize,
    /// Goes up when the checkpoint hash must be written again.
    pub checkpoint_touched: watch::Receiver<u64>,
}

impl Link {
    /// Runs sessions until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::for_connections();
        let mut told = String::new();
        // Two sites are seldom started at the same moment.
        let mut absent = true;
        while !stop.is_cancelled() {
            if self.control.is_paused() {
                self.stay_paused(&stop).await;
                backoff.reset();
                continue;
            }
            let sessions = self.status.connects.load(Ordering::Relaxed);
            let end = self.session(&stop, &mut backoff).await;
            absent &= self.status.connects.load(Ordering::Relaxed) == sessions;
            absent |= matches!(end, LinkError::Leaves);
            self.pairing.session_ended();
            let reason = end.to_string();
            if !end.is_passing() {
                error!(site = %self.status.site, %reason, "the link stops");
                self.problems.add(self.place(), reason.clone());
                self.status.set_state(LinkState::Stopped(reason));
                stop.cancelled().await;
                return;
            }
            self.status.set_state(LinkState::Connecting(reason.clone()));
            if end.is_expected() {
                info!(site = %self.status.site, %reason, "the link's session ends");
                continue;
            }
            // The same again and again is told once.
            if reason != told {
                self.tell_retry(&end, &reason, absent);
                told = reason;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.pairing.hurried() => {}
                () = self.control.paused() => {}
                () = tokio::time::sleep(backoff.wait()) => {}
            }
        }
    }

    /// What was applied stays; the next session begins at the checkpoint.
    async fn stay_paused(&self, stop: &CancellationToken) {
        let site = &self.status.site;
        self.status.set_state(LinkState::Paused);
        info!(%site, "the link is paused");
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.control.resumed() => {}
        }
        self.status.set_state(LinkState::Connecting(String::new()));
        info!(%site, "the link goes on");
    }

    /// That a peer is not there which was never started, or was stopped in good order, is no
    /// warning.
    fn tell_retry(&self, end: &LinkError, reason: &str, absent: bool) {
        let site = &self.status.site;
        if absent && end.is_absence() {
            info!(%site, %reason, "the peer is not there, trying again");
        } else {
            warn!(%site, %reason, "the link broke, trying again");
            self.problems.add(self.place(), reason);
        }
    }

    fn place(&self) -> String {
        format!("link {}", self.status.site)
    }

    /// One session; it always ends with a reason.
    async fn session(&self, stop: &CancellationToken, backoff: &mut Backoff) -> LinkError {
        // Before it is told what is known of local writes.
        let epoch = self.pairing.conflicts.epoch();
        let begun = tokio::select! {
            () = stop.cancelled() => return LinkError::Stopped,
            () = self.control.paused() => return LinkError::Paused,
            begun = self.begin() => begun,
        };
        let (local, server, checkpoints, peer) = match begun {
            Ok(begun) => begun,
            Err(error) => return error,
        };
        backoff.reset();
        self.status.connects.fetch_add(1, Ordering::Relaxed);
        let (sender, parcels) = mpsc::channel(QUEUED_SENDS);
        let mut applier = JoinSet::new();
        applier.spawn(Applier::new(self.apply.clone(), local, epoch).run(parcels));
        let intake = Intake::new(self, server, checkpoints, sender);
        let mut receiver = Receiver::new(self, peer, intake);
        let end = tokio::select! {
            () = stop.cancelled() => LinkError::Stopped,
            () = self.pairing.restarted() => LinkError::Restarted,
            () = self.control.paused() => LinkError::Paused,
            end = receiver.run() => end,
            Some(end) = applier.join_next() => return applier_end(end),
        };
        // What was received is applied before the session is over; a second signal ends the wait.
        drop(receiver);
        match applier.join_next().await {
            Some(Ok(Err(error))) => error.into(),
            _ => end,
        }
    }

    /// Takes over the local Redis, then puts the question to the peer.
    async fn begin(&self) -> Result<Begun, LinkError> {
        let mut local = Connection::open(&self.target).await?;
        let server = take_over(&mut local, &self.site, &self.status.site).await?;
        if clear_foreign_checkpoint(&mut local).await? {
            warn!(site = %self.status.site, "the key of the checkpoints was no hash, taken away");
        }
        let checkpoints = read_checkpoints(&mut local, &self.status.site).await?;
        let peer_error = |source| LinkError::Peer { addr: self.peer.addr.clone(), source };
        let mut peer = Connection::open(&self.peer).await.map_err(peer_error)?;
        let session = LinkSession(rand::random());
        let full = self.pairing.is_full_sync_demanded();
        let owed = checkpoints.is_empty()
            || checkpoints.iter().any(|(_, there)| there.owed == Owed::Snapshot);
        let begin = match (full, owed) {
            (true, _) if self.pairing.is_told() => "full",
            (true, _) | (false, true) => "new",
            (false, false) => "resume",
        };
        let primary = self.primary.as_ref().map_or("", SiteName::as_str).to_owned();
        let mut words = ["DUPLEX", "LINK"].map(str::to_owned).to_vec();
        words.extend([PROTOCOL.to_string(), self.site.to_string(), self.status.site.to_string()]);
        words.extend([primary, format!("{:016x}", session.0), begin.to_owned()]);
        let known = self.pairing.conflicts.seen_up_to();
        words.push(known.map_or_else(|| "-".to_owned(), |known| known.to_string()));
        let history = self.pairing.conflicts.history();
        words.push(history.map_or_else(|| "-".to_owned(), |history| history.to_string()));
        words.extend(checkpoints.iter().map(|(_, checkpoint)| checkpoint.to_string()));
        let mut out = BytesMut::new();
        resp::put_command(&mut out, &words);
        peer.write(&out).await.map_err(peer_error)?;
        self.pairing.session_begun(session, begin != "resume");
        let answer = tokio::time::timeout(self.timeout, peer.reply("DUPLEX LINK")).await;
        match answer.map_err(|_| LinkError::Silent(self.timeout))?.map_err(peer_error)? {
            redis_protocol::resp2::types::BytesFrame::SimpleString(text)
                if &text[..] == b"LINK" => {}
            redis_protocol::resp2::types::BytesFrame::Error(text) => {
                return Err(LinkError::Refused(text.to_string()));
            }
            other => return Err(LinkError::Refused(format!("{other:?}"))),
        }
        info!(site = %self.status.site, addr = %self.peer.addr, begin, "the link is up");
        Ok((local, server, checkpoints, peer))
    }
}

/// Connection to the local Redis, its facts, the checkpoints there, connection to the peer.
type Begun = (Connection, ServerInfo, Vec<(Database, Checkpoint)>, Connection);

fn applier_end(end: Result<Result<(), ApplyError>, tokio::task::JoinError>) -> LinkError {
    match end {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => LinkError::Stopped,
        Err(error) => LinkError::Broken(format!("applying failed: {error}")),
    }
}
