//! What the replies to batches mean. Without I/O.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{ApplyError, InFlight, Pipeline};
use crate::apply::batch::{Batch, Item, Place, put_exec};
use crate::apply::verdict::{ErrorVerdict, abort_reason, error_text, when_executed, when_queueing};
use crate::observe::LinkState;
use crate::position::Checkpoint;
use crate::redis::RedisError;
use crate::resp::{self, elements};

/// EXEC's reply when a watched key was written.
const NIL: &[u8] = b"*-1";

impl Pipeline {
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

    pub(in crate::apply) fn take_reply(&mut self, reply: &[u8]) -> Result<(), ApplyError> {
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

    pub(in crate::apply) fn unexpected(&self, reply: &[u8]) -> RedisError {
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
