//! What is written as batches. Without I/O.

mod replies;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::batch::{Batch, Encoded, Item, put_exec};
use crate::backoff::Backoff;
use crate::conflict::{Conflicts, RemoteUnit};
use crate::observe::{LinkState, LinkStatus, Problems};
use crate::position::{Database, SiteName};
use crate::redis::RedisError;
use crate::resp::{self, ReplyScanner};
use crate::write_off::{Origin, Tag, WriteOffSet};

/// Batches on the connection: one executes, one is queued behind it.
const IN_FLIGHT: usize = 2;
/// Nothing more is taken while so many items wait here: enough for two full batches.
pub(super) const ENOUGH_PENDING: usize = 1024;

/// Why applying ended.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The local Redis is gone or talks nonsense.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The peer uses a database that the local Redis does not have.
    #[error(
        "database {0} is in use at the peer but the local Redis does not have it ({1}): raise \
         `databases` in its configuration and restart it"
    )]
    NoSuchDatabase(Database, String),
    /// The local Redis began another history: what local clients wrote and the peer has not seen is
    /// not known any more, so that the snapshot can't be taken as it was asked for.
    #[error("the local Redis began another history during the full sync")]
    HistoryBroke,
    /// A batch was executed without its mark, so it comes back in the stream as if local clients had
    /// written it, and the checkpoint does not tell of it.
    #[error(
        "somebody wrote the key redis-duplex-checkpoint of the local Redis ({0}): what was applied \
         just now may come back to the peer, and both sites take a full sync; leave this key alone"
    )]
    MarkRefused(String),
}

/// What an applier works with.
#[derive(Debug, Clone)]
pub struct ApplySetup {
    /// The peer whose units these are.
    pub site: SiteName,
    /// Where tags are entered.
    pub write_off: Arc<WriteOffSet>,
    /// What both sites may have written at once.
    pub conflicts: Arc<Conflicts>,
    /// The link's numbers.
    pub status: Arc<LinkStatus>,
    /// Where problems are told.
    pub problems: Arc<Problems>,
    /// Most commands in a batch.
    pub batch_commands: usize,
    /// Most bytes in a batch.
    pub batch_bytes: usize,
}

#[derive(Debug)]
pub(super) struct InFlight {
    batch: Batch,
    tag: Tag,
    encoded: Encoded,
    /// Replies to MULTI and to the queued commands that came.
    replies: usize,
    /// Queued commands that were refused, by their place.
    refused: Vec<(usize, String)>,
    exec_sent: bool,
    /// A DISCARD was sent instead of EXEC; the items are in `pending` again.
    discarded: bool,
    database_before: Database,
}

/// From items to the bytes of batches, and from replies to what comes next. Without I/O.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(super) setup: ApplySetup,
    addr: String,
    /// Replies that were read and not yet taken.
    pub(crate) input: BytesMut,
    /// What is to be written.
    pub(crate) out: BytesMut,
    pub(super) scanner: ReplyScanner,
    /// Items that no batch holds.
    pub(crate) pending: VecDeque<Item>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// In force after all that was written.
    pub(super) database: Database,
    /// The local Redis has the databases up to this one.
    known_up_to: Database,
    /// A database that is being tried out with a SELECT of its own.
    pub(super) trying: Option<Database>,
    backoff: Backoff,
    /// Nothing is written before this moment.
    pub(crate) retry_at: Option<Instant>,
    /// What the link was doing when the local Redis began to refuse.
    state_before_wait: Option<LinkState>,
}

impl Pipeline {
    /// For a connection to this server, on which database 0 is selected.
    pub(crate) fn new(setup: ApplySetup, addr: String, input: BytesMut) -> Self {
        Self {
            setup,
            addr,
            input,
            out: BytesMut::new(),
            scanner: ReplyScanner::default(),
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            database: Database(0),
            known_up_to: Database(0),
            trying: None,
            backoff: Backoff::for_connections(),
            retry_at: None,
            state_before_wait: None,
        }
    }

    pub(super) fn lost(&self, source: io::Error) -> RedisError {
        RedisError::Lost { addr: self.addr.clone(), source }
    }

    /// Writes the next batches, as far as there is something to write and room in flight.
    pub(crate) async fn fill(&mut self) {
        while self.retry_at.is_none()
            && self.trying.is_none()
            && self.in_flight.len() < IN_FLIGHT
            && let Some(first) = self.pending.front().filter(|first| !first.is_entry())
        {
            if first.count > 0 && first.highest_database > self.known_up_to {
                if self.in_flight.is_empty() {
                    let database = first.highest_database;
                    resp::put_command(&mut self.out, &["SELECT", &database.to_string()]);
                    self.trying = Some(database);
                }
                return;
            }
            let batch = self.gather();
            self.submit(batch).await;
        }
    }

    /// The session is over: what is under way is of unknown fate.
    pub(crate) fn give_up(&self) {
        for flight in &self.in_flight {
            self.setup.write_off.abandon(flight.tag);
        }
    }

    /// Nothing is under way and nothing is waited for.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && self.trying.is_none()
            && self.retry_at.is_none()
            && self.out.is_empty()
    }

    /// Tags a batch and puts it into the output; with EXEC, if it is the only one in flight.
    pub(super) async fn submit(&mut self, batch: Batch) {
        let position = batch.checkpoint().map(|checkpoint| checkpoint.position);
        let units: Arc<[Arc<RemoteUnit>]> =
            batch.items.iter().filter_map(|item| item.remote.clone()).collect();
        let origin = Origin::Link { site: self.setup.site.clone(), position, units };
        self.setup.conflicts.repairs.room().await;
        let tag = self.setup.write_off.issue(origin).await;
        self.setup.conflicts.issued(tag.sequence);
        let database_before = self.database;
        let encoded = batch.encode(&self.setup.site, tag, self.database, &mut self.out);
        self.database = encoded.database;
        let exec_sent = self.in_flight.is_empty();
        if exec_sent {
            put_exec(&mut self.out);
        }
        self.in_flight.push_back(InFlight {
            batch,
            tag,
            encoded,
            replies: 0,
            refused: Vec::new(),
            exec_sent,
            discarded: false,
            database_before,
        });
    }

    /// The next batch; it ends before a snapshot entry, and before the first item whose database
    /// has not been tried.
    fn gather(&mut self) -> Batch {
        let known = |item: &Item| {
            !item.is_entry() && (item.count == 0 || item.highest_database <= self.known_up_to)
        };
        let untried = self.pending.iter().take(ENOUGH_PENDING).position(|item| !known(item));
        let later = untried.map(|at| self.pending.split_off(at));
        let (commands, bytes) = (self.setup.batch_commands, self.setup.batch_bytes);
        let mut batch = Batch::gather(&mut self.pending, commands, bytes);
        self.pending.extend(later.into_iter().flatten());
        batch.items.iter_mut().for_each(|item| self.judge(item));
        batch
    }

    /// Leaves out what loses against local writes.
    fn judge(&self, item: &mut Item) {
        if let Some(remote) = item.remote.as_ref().filter(|_| !item.judged) {
            // From the last to the first, so that the places before stay right.
            for command in self.setup.conflicts.judge(remote).into_iter().rev() {
                *item = item.without(command);
            }
            item.judged = true;
        }
    }
}
