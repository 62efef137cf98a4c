//! What is written as batches, and what their replies mean. Without I/O.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::time::Instant;
use tracing::{info, warn};

use super::batch::{Batch, Encoded, Item, Place, put_exec};
use super::verdict::{ErrorVerdict, abort_reason, when_executed, when_queueing};
use crate::backoff::Backoff;
use crate::conflict::{Conflicts, RemoteUnit};
use crate::observe::{LinkState, LinkStatus, Problems};
use crate::position::{Checkpoint, Database, SiteName};
use crate::redis::RedisError;
use crate::resp::{self, ReplyScanner, elements};
use crate::write_off::{Origin, Tag, WriteOffSet};

/// Batches on the connection: one executes, one is queued behind it.
const IN_FLIGHT: usize = 2;
/// Nothing more is taken while so many items wait here: enough for two full batches.
pub(super) const ENOUGH_PENDING: usize = 1024;
/// EXEC's reply when a watched key was written.
const NIL: &[u8] = b"*-1";

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

    pub(crate) fn take_replies(&mut self) -> Result<(), ApplyError> {
        loop {
            let length =
                self.scanner.scan(&self.input).map_err(|error| RedisError::Unexpected {
                    addr: self.addr.clone(),
                    command: "a batch".to_owned(),
                    what: error.to_string(),
                })?;
            let Some(length) = length else { return Ok(()) };
            let reply = self.input.split_to(length);
            self.take_reply(&reply)?;
        }
    }

    pub(super) fn take_reply(&mut self, reply: &[u8]) -> Result<(), ApplyError> {
        if let Some(database) = self.trying.take() {
            if let Some(text) = error_text(reply) {
                if when_queueing(&text) == ErrorVerdict::Wait {
                    self.wait(&text);
                    return Ok(());
                }
                return Err(ApplyError::NoSuchDatabase(database, text));
            }
            self.known_up_to = database;
            self.database = database;
            return Ok(());
        }
        let Some(front) = self.in_flight.front_mut() else {
            return Err(self.unexpected(reply).into());
        };
        // MULTI's reply, then one for each queued command.
        if front.replies <= front.encoded.places.len() {
            if let Some(text) = error_text(reply) {
                if front.replies == 0 {
                    // Without MULTI the commands would run alone: this connection must end.
                    return Err(self.unexpected(reply).into());
                }
                front.refused.push((front.replies - 1, text));
            }
            front.replies += 1;
            return Ok(());
        }
        if front.discarded {
            self.in_flight.pop_front();
            self.execute_front();
            return Ok(());
        }
        match (front.exec_sent, self.in_flight.pop_front()) {
            (true, Some(done)) => self.take_exec(done, reply),
            _ => Err(self.unexpected(reply).into()),
        }
    }

    pub(super) fn unexpected(&self, reply: &[u8]) -> RedisError {
        let what = reply[..reply.len().min(100)].escape_ascii().to_string();
        RedisError::Unexpected { addr: self.addr.clone(), command: "a batch".to_owned(), what }
    }

    /// The reply to EXEC.
    fn take_exec(&mut self, flight: InFlight, reply: &[u8]) -> Result<(), ApplyError> {
        if let Some(text) = error_text(reply) {
            self.refused(flight, &text);
            return Ok(());
        }
        if reply.first() != Some(&b'*') {
            return Err(self.unexpected(reply).into());
        }
        if reply.starts_with(NIL) {
            // A watched key was written: these entries are looked at again.
            self.setup.write_off.give_up(flight.tag);
            for item in flight.batch.items.into_iter().rev() {
                self.pending.push_front(item);
            }
            return Ok(());
        }
        if let Some(text) = elements(reply).next().and_then(error_text) {
            return Err(ApplyError::MarkRefused(text));
        }
        for (item, text) in failures(&flight, reply) {
            self.report(&flight.batch.items[item.0], item.1, &text);
        }
        self.count(&flight.batch);
        self.backoff.reset();
        self.execute_front();
        Ok(())
    }

    /// The batch that is first now may run.
    fn execute_front(&mut self) {
        if let Some(next) = self.in_flight.front_mut()
            && !next.exec_sent
            && !next.discarded
        {
            put_exec(&mut self.out);
            next.exec_sent = true;
        }
    }

    fn count(&mut self, batch: &Batch) {
        let status = self.setup.status.clone();
        let units = batch.items.iter().filter(|item| item.checkpoint.is_some() && item.count > 0);
        status.units.fetch_add(units.count() as u64, Ordering::Relaxed);
        let commands: usize = batch.items.iter().map(|item| item.count).sum();
        status.commands.fetch_add(commands as u64, Ordering::Relaxed);
        let bytes: usize = batch.items.iter().map(|item| item.commands.len()).sum();
        status.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        status.batches.fetch_add(1, Ordering::Relaxed);
        if let Some(Checkpoint { position, time, .. }) = batch.checkpoint() {
            status.set_checkpoint(Some(position));
            status.applied_at.store(time, Ordering::Relaxed);
        }
        if let Some(state) = self.state_before_wait.take() {
            info!(site = %self.setup.site, "the local redis takes batches again");
            status.set_state(state);
        }
    }

    /// The batch was refused as a whole; nothing of it was applied. All that is under way goes
    /// back to the front of the queue, in order.
    fn refused(&mut self, mut flight: InFlight, text: &str) {
        self.setup.write_off.give_up(flight.tag);
        self.database = flight.database_before;
        for next in self.in_flight.iter_mut().rev().filter(|next| !next.discarded) {
            self.setup.write_off.give_up(next.tag);
            resp::put_command(&mut self.out, &["DISCARD"]);
            next.discarded = true;
            for item in next.batch.items.drain(..).rev() {
                self.pending.push_front(item);
            }
        }
        let waiting = Self::why_wait(&flight, text);
        if waiting.is_none() {
            // From the last to the first, so that the places before stay right.
            for (place, reply) in flight.refused.iter().rev() {
                if let Place::Command(number, index) = flight.encoded.places[*place] {
                    let item = &mut flight.batch.items[number];
                    let refused = item.clone();
                    *item = refused.without(index);
                    self.report(&refused, index, reply);
                }
            }
        }
        for item in flight.batch.items.into_iter().rev() {
            self.pending.push_front(item);
        }
        if let Some(reason) = waiting {
            self.wait(&reason);
        }
    }

    /// The refusal that can pass, if there is one; else the refused commands are to be left out.
    fn why_wait(flight: &InFlight, text: &str) -> Option<String> {
        if let Some(reason) = abort_reason(text) {
            return Some(reason.to_owned());
        }
        let passing = flight.refused.iter().find(|(place, reply)| {
            flight.encoded.places[*place] == Place::Frame
                || when_queueing(reply) == ErrorVerdict::Wait
        });
        match passing {
            Some((_, reply)) => Some(reply.clone()),
            None => flight.refused.is_empty().then(|| text.to_owned()),
        }
    }

    fn wait(&mut self, reason: &str) {
        self.setup.status.retries.fetch_add(1, Ordering::Relaxed);
        let known = LinkState::Waiting(reason.to_owned());
        let state = self.setup.status.state();
        if state != known {
            warn!(site = %self.setup.site, %reason, "the local redis refuses a batch, waiting");
            self.setup.problems.add(
                format!("link {}", self.setup.site),
                format!("the local Redis refuses writes, nothing is lost, waiting: {reason}"),
            );
            self.setup.status.set_state(known);
            if !matches!(state, LinkState::Waiting(_)) {
                self.state_before_wait = Some(state);
            }
        }
        self.retry_at = Some(Instant::now() + self.backoff.wait());
    }

    fn report(&self, item: &Item, index: usize, reply: &str) {
        self.setup.status.errors.fetch_add(1, Ordering::Relaxed);
        let command = item.describe(index);
        warn!(site = %self.setup.site, %command, %reply, "the local redis refused a command");
        if let Some(remote) = &item.remote {
            let keys = remote.touched.iter().map(|touched| touched.key.clone());
            self.setup.conflicts.ask_repair(keys);
        }
        self.setup
            .problems
            .add(format!("link {}", self.setup.site), format!("{command} was refused: {reply}"));
    }
}

/// The errors among EXEC's replies that are to be told: item and command number, and text.
fn failures(flight: &InFlight, reply: &[u8]) -> Vec<((usize, usize), String)> {
    let mut found = Vec::new();
    for (place, element) in flight.encoded.places.iter().zip(elements(reply)) {
        if let (Place::Command(item, index), Some(text)) = (place, error_text(element))
            && when_executed(&text, flight.batch.items[*item].kind) != ErrorVerdict::Expected
        {
            found.push(((*item, *index), text));
        }
    }
    found
}

/// The text of an error reply.
pub(super) fn error_text(reply: &[u8]) -> Option<String> {
    let line = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
}
