//! Snapshot entries: a key that local clients wrote, and the peer has not seen that, is left alone.
//!
//! To be sure of that at the moment of writing: 1. the keys are watched; 2. the stream of the local
//! Redis is read up to now, so that what was written before the watch is known; 3. what is written
//! after it makes EXEC fail, and the entries are looked at again.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::applier::{Applier, REPLY_TIMEOUT};
use super::batch::{Batch, Item};
use super::pipeline::ApplyError;
use super::verdict::error_text;
use crate::conflict::Key;
use crate::net::send;
use crate::position::Database;
use crate::redis::{InfoText, is_passing};
use crate::resp;

/// How long the source may need to read the stream up to now. While it has lost its connection
/// nothing can be known, and the session begins anew.
const CATCH_UP: Duration = Duration::from_secs(10);

impl Applier {
    /// Writes the snapshot entries at the front of the queue, as many as fit into a batch. Nothing
    /// else must be under way. Not cancel safe.
    pub(super) async fn write_entries(&mut self) -> Result<(), ApplyError> {
        let mut items = self.take_entries();
        let Some(database) = items.first().map(|item| item.database) else { return Ok(()) };
        self.watch(database, &items).await?;
        let conflicts = self.pipeline.setup.conflicts.clone();
        items.retain(|item| {
            let newer = item.key.as_ref().filter(|key| conflicts.contains(database, key));
            if let Some(name) = newer {
                // What the peer has under it may differ from what it gets as units.
                conflicts.ask_repair([Key { database, name: name.clone() }]);
            }
            newer.is_none()
        });
        if items.is_empty() {
            self.ask(&["UNWATCH"]).await?;
            return Ok(());
        }
        self.pipeline.submit(Batch { items }).await;
        let out = self.pipeline.out.split();
        self.send(&out).await?;
        while !self.pipeline.in_flight.is_empty() {
            let reply = self.receive().await?;
            self.pipeline.take_reply(&reply)?;
        }
        Ok(())
    }

    /// Entries of one database, up to the bounds of a batch.
    fn take_entries(&mut self) -> Vec<Item> {
        let mut taken: Vec<Item> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.pipeline.pending.front().filter(|next| next.is_entry()) {
            bytes += next.commands.len();
            let fits = taken.len() < self.pipeline.setup.batch_commands
                && bytes <= self.pipeline.setup.batch_bytes;
            let same = taken.first().is_none_or(|first| first.database == next.database);
            if !same || !(fits || taken.is_empty()) {
                break;
            }
            taken.extend(self.pipeline.pending.pop_front());
        }
        taken
    }

    /// Watches the keys and waits until all that was written before is known.
    async fn watch(&mut self, database: Database, items: &[Item]) -> Result<(), ApplyError> {
        if self.pipeline.database != database {
            let reply = self.ask(&["SELECT", &database.to_string()]).await?;
            if let Some(text) = error_text(&reply) {
                if is_passing(&text) {
                    return Err(self.pipeline.unexpected(&reply).into());
                }
                return Err(ApplyError::NoSuchDatabase(database, text));
            }
            self.pipeline.database = database;
        }
        let mut words = vec![Bytes::from_static(b"WATCH")];
        words.extend(items.iter().filter_map(|item| item.key.clone()));
        if words.len() > 1 {
            let reply = self.ask(&words).await?;
            if error_text(&reply).is_some() {
                return Err(self.pipeline.unexpected(&reply).into());
            }
        }
        let reply = self.ask(&["INFO", "replication"]).await?;
        let info = InfoText::parse(&String::from_utf8_lossy(&reply));
        let now = info.position().ok_or_else(|| self.pipeline.unexpected(&reply))?;
        let conflicts = &self.pipeline.setup.conflicts;
        let caught_up = conflicts.caught_up(now, CATCH_UP).await;
        if conflicts.epoch() != self.epoch {
            return Err(ApplyError::HistoryBroke);
        }
        if !caught_up {
            return Err(self.pipeline.lost(io::ErrorKind::TimedOut.into()).into());
        }
        Ok(())
    }

    /// One command of ours and its reply, errors included.
    async fn ask<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Bytes, ApplyError> {
        let mut out = BytesMut::new();
        resp::put_command(&mut out, words);
        self.send(&out).await?;
        self.receive().await
    }

    /// What comes back meanwhile is small against the buffers on the way, so writing all before
    /// reading can't block for ever.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        let written = timeout(REPLY_TIMEOUT, send(&mut self.writer, bytes)).await;
        let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|error| self.pipeline.lost(error).into())
    }

    async fn receive(&mut self) -> Result<Bytes, ApplyError> {
        loop {
            let scanned = self.pipeline.scanner.scan(&self.pipeline.input);
            if let Some(length) =
                scanned.map_err(|_| self.pipeline.unexpected(&self.pipeline.input))?
            {
                return Ok(self.pipeline.input.split_to(length).freeze());
            }
            let read = timeout(REPLY_TIMEOUT, self.reader.read_buf(&mut self.pipeline.input)).await;
            let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            if read.map_err(|error| self.pipeline.lost(error))? == 0 {
                return Err(self.pipeline.lost(io::ErrorKind::UnexpectedEof.into()).into());
            }
        }
    }
}
