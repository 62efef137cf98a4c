//! From a peer's frames to what the applier gets, in order and bounded in bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use super::extra::Extra;
use super::full_sync::{FullSync, Mode};
use super::unit::Reading;
use super::{Link, LinkError};
use crate::apply::Item;
use crate::clock::unix_millis;
use crate::frame::{Frame, SHUTTING_DOWN};
use crate::journal::Block;
use crate::observe::LinkState;
use crate::position::{Checkpoint, Database, LinkSession, Owed, Position, Seen};
use crate::rdb::RdbVersion;
use crate::redis::{Connection, Flavour, ServerInfo};
use crate::resp::{Limits, Scanner};

/// How long it may take until what was applied comes back in the stream. Then the session begins
/// again: the local Redis may have restarted.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// The state of one session's data.
pub(crate) struct Intake<'a> {
    link: &'a Link,
    server: ServerInfo,
    /// Checkpoints that a full sync must take away first.
    checkpoints: Vec<(Database, Checkpoint)>,
    sender: mpsc::Sender<Vec<Item>>,
    room: Arc<Semaphore>,
    /// Up to where units were handed on.
    at: Option<Checkpoint>,
    full_sync: Option<FullSync>,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(
        link: &'a Link,
        server: ServerInfo,
        checkpoints: Vec<(Database, Checkpoint)>,
        sender: mpsc::Sender<Vec<Item>>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(link.queue_bytes));
        Self { link, server, checkpoints, sender, room, at: None, full_sync: None }
    }

    /// Takes the next frame. Waits while too much is under way.
    pub(crate) async fn take(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Resume { from } => {
                self.at = Some(from);
                self.link.status.set_checkpoint(Some(from.position));
                if from.owed == Owed::Nothing {
                    self.link.status.set_state(LinkState::Streaming);
                    return Ok(());
                }
                self.link.pairing.full_sync_comes();
                self.link.status.set_state(LinkState::FullSync);
                // From here on the snapshot is owed, also if no unit comes.
                self.send(vec![Item::checkpoint_only(from)]).await
            }
            Frame::Continue { at } => {
                if !self.is_owed() || at.owed == Owed::Nothing {
                    return Err(LinkError::Broken("a history that goes on unasked".to_owned()));
                }
                info!(site = %self.link.status.site, at = %at.position, "the peer's units of another history follow");
                self.at = Some(at);
                self.send(vec![Item::checkpoint_only(at)]).await
            }
            Frame::Snapshot { at, keys, pair, mirror, seen } => {
                self.begin_full_sync(at, keys, pair, mirror).await?;
                // What conflicts with the units before it is found when these have come back.
                if self.is_owed() {
                    self.settle().await?;
                }
                if let Some(position) = seen.of(&self.link.site) {
                    self.link.apply.conflicts.seen(position);
                }
                Ok(())
            }
            Frame::SnapshotBytes(bytes) => self.snapshot_bytes(&bytes).await,
            Frame::SnapshotEnd => self.end_full_sync().await,
            Frame::Block(bytes) => self.block(bytes).await,
            Frame::Heartbeat { at, database, time, wall, seen } => {
                self.compare_clocks(wall);
                let time_there = time.unix_millis();
                let owed = self.owed();
                self.heartbeat(
                    Checkpoint { position: at, database, time: time_there, owed },
                    &seen,
                );
                self.link.clock.observe(time);
                Ok(())
            }
            Frame::Wait(reason) => {
                debug!(site = %self.link.status.site, %reason, "the peer lets us wait");
                Ok(())
            }
            Frame::Bye(reason) if reason == SHUTTING_DOWN => Err(LinkError::Leaves),
            Frame::Bye(reason) => Err(LinkError::Refused(reason)),
        }
    }

    async fn begin_full_sync(
        &mut self,
        at: Position,
        keys: u64,
        pair: Option<LinkSession>,
        mirror: bool,
    ) -> Result<(), LinkError> {
        let status = &self.link.status;
        status.set_state(LinkState::FullSync);
        status.full_syncs.fetch_add(1, Ordering::Relaxed);
        info!(site = %status.site, %at, keys, mirror, "a full sync begins");
        // Our own snapshot for the peer first, see `Pairing`.
        let behind_units = self.is_owed();
        self.link.pairing.full_sync_begun(pair, behind_units).await;
        let is_primary = self.link.primary.as_ref() == Some(&self.link.site);
        let mode = match (mirror, is_primary) {
            (true, _) => Mode::Mirror,
            (false, true) => Mode::Add,
            (false, false) => Mode::Replace,
        };
        let full_sync = FullSync::new(at, keys, mode, &self.server, status.clone());
        self.full_sync = Some(full_sync);
        if mirror {
            // It goes on telling that this site has the peer's data, and that it has newer ones too.
            let begun = self.checkpoints.iter().map(|(_, begun)| *begun);
            let begun = begun.max_by_key(|begun| begun.position.offset);
            let begun = begun.map(|begun| Checkpoint { owed: Owed::Mirror, ..begun });
            let begun = begun.map(Item::checkpoint_only);
            return self.send(begun.into_iter().collect()).await;
        }
        if behind_units {
            return Ok(());
        }
        status.set_checkpoint(None);
        let forget = FullSync::forget(&status.site, &std::mem::take(&mut self.checkpoints));
        self.send(forget).await
    }

    /// Waits until all that was handed on is applied and has come back in the stream.
    async fn settle(&self) -> Result<(), LinkError> {
        let all = u32::try_from(self.link.queue_bytes).unwrap_or(u32::MAX);
        // It is never closed.
        drop(self.room.acquire_many(all).await);
        let mut local = Connection::open(&self.link.target).await?;
        let here = ServerInfo::ask(&mut local).await?.info.position();
        let here = here.ok_or_else(|| local.unexpected("INFO", "no master_replid in it"))?;
        if self.link.apply.conflicts.caught_up(here, SETTLE_LIMIT).await {
            return Ok(());
        }
        Err(LinkError::NotBack(SETTLE_LIMIT))
    }

    async fn snapshot_bytes(&mut self, bytes: &Bytes) -> Result<(), LinkError> {
        let Some(full_sync) = &mut self.full_sync else {
            return Err(LinkError::Broken("a snapshot that was not announced".to_owned()));
        };
        let items = full_sync.take(bytes)?;
        self.send(items).await
    }

    async fn end_full_sync(&mut self) -> Result<(), LinkError> {
        let Some(mut full_sync) = self.full_sync.take() else {
            return Err(LinkError::Broken("a snapshot that was not announced".to_owned()));
        };
        if let Some(kept) = full_sync.take_kept() {
            let mut extra = Extra::open(&self.link.target, kept).await?;
            while let Some(items) = extra.next().await? {
                self.send(items).await?;
            }
        }
        // Where a snapshot was cut, a SELECT follows: the database in force before it is nothing.
        let position = full_sync.finish()?;
        let at = Checkpoint { position, database: Database(0), time: 0, owed: Owed::Nothing };
        self.at = Some(at);
        self.send(vec![Item::checkpoint_only(at)]).await?;
        self.link.status.set_state(LinkState::Streaming);
        Ok(())
    }

    async fn block(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        let broken = |what: String| LinkError::Broken(what);
        let block = Block::decode(&bytes).map_err(|error| broken(error.to_string()))?;
        let Some(at) = self.at else {
            return Err(broken("units before a position".to_owned()));
        };
        let reading = self.reading();
        let mut items = Vec::with_capacity(block.units.len());
        let mut scanner = Scanner::new(Limits::STREAM);
        for index in 0..block.units.len() {
            if block.units[index].end > at.position.offset {
                match reading.item(&mut scanner, &block, index) {
                    Ok(item) => items.push(item),
                    Err(error) => {
                        // The session ends; what was good before it is applied first.
                        self.send(items).await?;
                        return Err(error);
                    }
                }
            }
        }
        if let Some(last) = block.units.len().checked_sub(1)
            && block.units[last].end > at.position.offset
        {
            let time = block.timestamp(last);
            self.link.clock.observe(time);
            let position = Position { replid: block.replid, offset: block.units[last].end };
            let database = block.units[last].database_after;
            let time = time.unix_millis();
            self.at = Some(Checkpoint { position, database, time, owed: self.owed() });
        }
        self.send(items).await
    }

    fn reading(&self) -> Reading<'a> {
        let version = self.server.version;
        Reading {
            flush: self.link.flush,
            site: &self.link.site,
            keys: &self.link.keys,
            looks: self.link.apply.conflicts.looks(),
            target: RdbVersion::of_server(version.flavour == Flavour::Valkey, version.number),
            latest: self.link.clock.latest(),
            owed: self.owed(),
        }
    }

    /// Whether units come before a snapshot.
    fn is_owed(&self) -> bool {
        self.owed() == Owed::Snapshot
    }

    fn owed(&self) -> Owed {
        self.at.map_or(Owed::Nothing, |at| at.owed)
    }

    /// How far the peer's clock is from ours, by what it said just now: the way here counts for it.
    fn compare_clocks(&self, wall: u64) {
        let (status, now) = (&self.link.status, unix_millis());
        let skew = i64::try_from(wall).unwrap_or(0) - i64::try_from(now).unwrap_or(0);
        let before = status.clock_skew_millis.swap(skew, Ordering::Relaxed);
        let is_alarm = |skew: i64| self.link.clock.is_skewed(skew.unsigned_abs());
        if is_alarm(skew) && !is_alarm(before) {
            let text = format!(
                "the peer's clock differs from ours by {} s: where both sites write one key, \
                 \"newer\" can't be told; set both clocks (NTP)",
                skew / 1000
            );
            warn!(site = %status.site, "{text}");
            self.link.problems.add(format!("link {}", status.site), text);
        }
    }

    /// The peer stands at `at`; all its units up to there were handed on before.
    fn heartbeat(&mut self, at: Checkpoint, seen: &Seen) {
        let status = &self.link.status;
        status.peer_offset.store(at.position.offset.0, Ordering::Relaxed);
        self.count_queue();
        if self.room.available_permits() == self.link.queue_bytes {
            status.applied_at.store(at.time, Ordering::Relaxed);
            // Only when all that came before is applied: an older snapshot entry that still waits
            // must find the local writes that the peer saw after it.
            if let Some(position) = seen.of(&self.link.site) {
                self.link.apply.conflicts.seen_in_order(position);
            }
        }
        self.at = Some(at);
    }

    /// Something may have taken the checkpoint hash away: writes it again.
    pub(crate) async fn write_checkpoint(&mut self) -> Result<(), LinkError> {
        match self.at {
            Some(at) if self.full_sync.is_none() => {
                info!(site = %self.link.status.site, "the checkpoint is written again");
                self.send(vec![Item::checkpoint_only(at)]).await
            }
            _ => Ok(()),
        }
    }

    async fn send(&mut self, mut items: Vec<Item>) -> Result<(), LinkError> {
        if items.is_empty() {
            return Ok(());
        }
        let bytes: usize = items.iter().map(|item| item.commands.len() + size_of::<Item>()).sum();
        let permits = u32::try_from(bytes.min(self.link.queue_bytes)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(permits).await.ok().map(Arc::new);
        for item in &mut items {
            item.room.clone_from(&room);
        }
        // A closed channel means that the applier ended; the session hears of it from the applier.
        if self.sender.send(items).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.count_queue();
        Ok(())
    }

    fn count_queue(&self) {
        let under_way = self.link.queue_bytes - self.room.available_permits();
        self.link.status.queued_bytes.store(under_way as u64, Ordering::Relaxed);
    }
}
