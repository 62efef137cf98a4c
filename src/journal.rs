//! The site's loop-free history: local units only, in order, on disk.
//!
//! The source appends, any number of readers follow: links by position, followers by byte. What a
//! reader asks for and is no longer here is an error that names what is missing, never a gap.
//!
//! A directory holds segments (`segment`) of records (`record`). One writer (`writer`) puts records
//! at the end; what it wrote is shown to readers (`visible`, `reader`) in order (`core`). At an
//! opening (`open`) every record is read once (`recover`).

mod block;
mod core;
mod encoding;
mod error;
mod intact;
mod open;
mod reader;
mod record;
mod recover;
mod segment;
mod selects;
mod sync;
#[cfg(test)]
mod tests;
mod varint;
mod visible;
mod writer;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::watch;

pub use block::{Block, BlockBuilder, EXEC, MULTI, PING, UnitHead};
pub use encoding::BlockError;
pub use error::{JournalError, NotInJournal};
pub use reader::{FollowerReader, Read, UnitReader};
pub use selects::ExpectedSnapshot;

use self::core::Core;
use self::open::DirectoryLock;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Fsync};
use crate::position::{Database, Floors, FollowerOffset, Offset, Position, ReplicationId, Seen};
use segment::{Join, Wanted};
use selects::Selects;

/// Followers' offsets begin here: RedisShake never acknowledges offset 0 and redis-GunYu subtracts
/// a snapshot's size from what it is told (SYNCERS).
const FIRST_FOLLOWER_OFFSET: FollowerOffset = FollowerOffset(1 << 40);

/// Where the journal ends.
#[derive(Clone, Debug)]
pub struct Head {
    /// The stream of the local Redis up to here is in the journal.
    pub position: Position,
    /// The database in force there in the stream of the local Redis. None: nothing has ever come,
    /// and the position is of no Redis.
    pub database: Option<Database>,
    /// Followers' bytes up to here are in the journal.
    pub follower: FollowerOffset,
    /// The database in force at the end of followers' bytes.
    pub follower_database: Database,
    /// What has been seen of the other sites up to here.
    pub seen: Arc<Seen>,
    /// From where on local units matter for conflicts.
    pub floors: Arc<Floors>,
    /// The moment up to which the journal tells.
    pub time: Timestamp,
    /// Goes up whenever the history breaks; readers of an older one end.
    pub epoch: u64,
    /// Units taken since the journal was made.
    pub units: u64,
}

/// Where the stream of the local Redis stands when something is appended.
#[derive(Clone, Debug)]
pub struct Reached {
    /// All up to here came.
    pub position: Position,
    /// The database in force there.
    pub database: Database,
    /// What has been seen of the other sites.
    pub seen: Arc<Seen>,
    /// From where on local units matter for conflicts.
    pub floors: Arc<Floors>,
}

/// Numbers for people and metrics.
#[derive(Clone, Debug)]
pub struct JournalStatus {
    /// Where it ends.
    pub head: Head,
    /// Units behind this are in it.
    pub first: Position,
    /// Likewise for followers.
    pub first_follower: FollowerOffset,
    /// Segments on disk.
    pub segments: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes on disk that it may take.
    pub max_bytes: u64,
    /// Recent blocks that are in memory too.
    pub cached_blocks: usize,
    /// Bytes that they take.
    pub cached_bytes: usize,
    /// Bytes that they may take.
    pub max_cached_bytes: usize,
    /// Whether the last attempt to write it failed.
    pub failing: bool,
    /// The id that followers know this history by.
    pub follower_id: ReplicationId,
    /// Ids that this history had before.
    pub earlier_ids: Vec<ReplicationId>,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    core: Arc<Core>,
    syncing: Mutex<Option<JoinHandle<()>>>,
    selects: Arc<Selects>,
    /// The directory is locked as long as this lives.
    _lock: DirectoryLock,
}

impl Journal {
    /// Opens the journal in `config.dir`, or makes one. Reads all of it: blocks for about a second
    /// for each GiB that the system has in memory.
    pub fn open(config: &config::Journal, clock: Arc<Clock>) -> Result<Arc<Self>, JournalError> {
        Self::open_at_boot(config, clock, &open::boot_id())
    }

    /// The same, on this boot of the machine: what an earlier one wrote may not be on disk.
    pub(crate) fn open_at_boot(
        config: &config::Journal,
        clock: Arc<Clock>,
        boot: &str,
    ) -> Result<Arc<Self>, JournalError> {
        let (core, lock) = open::open(config, clock, boot)?;
        let core = Arc::new(core);
        let syncing = if config.fsync == Fsync::No {
            None
        } else {
            let core = core.clone();
            let thread = std::thread::Builder::new().name("journal-sync".to_owned());
            let started = thread.spawn(move || core.keep_syncing());
            let path = config.dir.clone();
            Some(started.map_err(|source| JournalError::Open { path, source })?)
        };
        let syncing = Mutex::new(syncing);
        Ok(Arc::new(Self { core, syncing, selects: Arc::default(), _lock: lock }))
    }

    /// A history begins at `position`, with this database in force there. If there was one before,
    /// it broke: followers are at its end, peers can still have its units.
    pub async fn begin_history(
        &self,
        position: Position,
        database: Database,
    ) -> Result<(), JournalError> {
        self.begin(position, database, Join::Breaks).await
    }

    /// The journal begins anew at `position`, an earlier place of the same history: nothing of what
    /// was here can be read any more.
    pub async fn begin_anew(
        &self,
        position: Position,
        database: Database,
    ) -> Result<(), JournalError> {
        self.begin(position, database, Join::Anew).await
    }

    async fn begin(
        &self,
        position: Position,
        database: Database,
        join: Join,
    ) -> Result<(), JournalError> {
        let number = self.core.begin(position, database, join)?;
        self.selects.forget_cuts();
        self.core.settle(number).await
    }

    /// The same history goes on under another id (PSYNC2); the old one is good up to here.
    pub async fn rename_history(&self, replid: ReplicationId) -> Result<(), JournalError> {
        let number = self.core.rename(replid)?;
        self.core.settle(number).await
    }

    /// Appends what the stream brought: a block if there were units, and where it stands. Gives each unit its moment, one after the
    /// other from the block's first, or from now if that is 0.
    ///
    /// The block is taken when it is written; on [`JournalError::Write`] it is still there and
    /// nothing has changed, so the same call can be made again. With `fsync = "always"` this waits
    /// for the disk; dropped meanwhile, what was written stays.
    pub async fn append(
        &self,
        block: &mut Option<Block>,
        reached: &Reached,
    ) -> Result<(), JournalError> {
        let number = self.core.append(block, reached)?;
        self.core.settle(number).await
    }

    /// Appends a PING, for followers only.
    pub async fn ping(&self) -> Result<(), JournalError> {
        let number = self.core.ping()?;
        self.core.settle(number).await
    }

    /// Forces all to disk and marks that the session ended well. Blocks; to be called when all else
    /// has ended, since nothing is taken any more.
    pub fn close(&self) -> Result<(), JournalError> {
        self.stop_syncing();
        self.core.close()
    }

    fn stop_syncing(&self) {
        self.core.stop_syncing();
        if let Some(thread) = self.syncing.lock().take() {
            // It does not panic; and if it did, there would be nothing more to do about it here.
            let _ = thread.join();
        }
    }

    /// Where it ends, now.
    pub fn head(&self) -> Head {
        self.core.head()
    }

    /// Follows where it ends.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.core.watch()
    }

    /// Numbers for people and metrics.
    pub fn status(&self) -> JournalStatus {
        let failing = self.core.writer.lock().is_failing();
        let visible = self.core.visible.lock();
        let (first, first_follower) = visible.first();
        JournalStatus {
            head: visible.head(),
            first: Position { replid: visible.state.position.replid, offset: first },
            first_follower,
            segments: visible.segments.len(),
            bytes: visible.size(),
            max_bytes: self.core.max_size,
            cached_blocks: visible.blocks.len(),
            cached_bytes: visible.cached,
            max_cached_bytes: visible.max_cached,
            failing,
            follower_id: visible.state.follower_id,
            earlier_ids: visible.state.aliases.iter().map(|(id, _)| *id).collect(),
        }
    }

    /// Whether `position` is of the present history, under any of its ids: then units lie behind it,
    /// or did, or will.
    pub fn knows(&self, position: Position) -> bool {
        self.core.visible.lock().state.had(position)
    }

    /// Whether `position` is of a history that broke and that is still here.
    pub fn knew(&self, position: Position) -> bool {
        self.core.visible.lock().past_with(position).is_some()
    }

    /// A reader of the units behind `position` in a history that broke; it ends with
    /// [`NotInJournal::HistoryBroke`].
    pub fn read_past(&self, position: Position) -> Option<UnitReader> {
        let epoch = self.core.visible.lock().past_with(position)?;
        Some(UnitReader::new(self.core.clone(), epoch, position.offset))
    }

    /// Whether the reader reads the present history: all that it can get comes from there.
    pub fn is_present(&self, reader: &UnitReader) -> bool {
        self.core.visible.lock().epoch == reader.epoch()
    }

    /// The history that began when this reader's broke: where, and a reader of it.
    pub fn read_next(&self, reader: &UnitReader) -> Option<(Position, UnitReader)> {
        let (begins, epoch) = self.core.visible.lock().after(reader.epoch())?;
        Some((begins, UnitReader::new(self.core.clone(), epoch, begins.offset)))
    }

    /// A reader of the units behind `position`.
    pub fn read_from(&self, position: Position) -> Result<UnitReader, NotInJournal> {
        let epoch = {
            let visible = self.core.visible.lock();
            let here = visible.state.position;
            let mut aliases = visible.state.aliases.iter();
            let known = position.replid == here.replid
                || aliases.any(|(id, to)| *id == position.replid && position.offset <= *to);
            if !known {
                return Err(NotInJournal::OtherHistory(position, here));
            }
            if position.offset > here.offset {
                return Err(NotInJournal::Ahead {
                    asked: position.to_string(),
                    stands: here.to_string(),
                });
            }
            visible.check_kept(Wanted::Units(position.offset))?;
            visible.epoch
        };
        Ok(UnitReader::new(self.core.clone(), epoch, position.offset))
    }

    /// A snapshot for a follower will be asked for: from now on units name their database, so that
    /// [`Self::follower_at`] finds a SELECT behind the cut.
    pub fn expect_snapshot(&self) -> ExpectedSnapshot {
        ExpectedSnapshot::new(&self.selects)
    }

    /// Whether the unit that follows one that ends at `before` must name its database.
    pub fn wants_select(&self, before: Offset) -> bool {
        self.selects.wanted(before)
    }

    /// Where a follower's bytes stand for a snapshot taken at `position`, which must not lie ahead
    /// of the journal's end: the offset of what follows; and the database in force there, if what
    /// follows does not begin with a SELECT.
    pub async fn follower_at(
        &self,
        position: Offset,
    ) -> Result<(FollowerOffset, Option<Database>), NotInJournal> {
        let epoch = self.core.reader_at(Wanted::Units(position))?;
        let mut reader = UnitReader::new(self.core.clone(), epoch, position);
        loop {
            let block = match reader.read().await? {
                Read::Block(block) => block,
                Read::Idle(head) => {
                    let comes = self.wants_select(position);
                    return Ok((head.follower, (!comes).then_some(head.follower_database)));
                }
            };
            if let Some(unit) = block.units.iter().find(|unit| unit.end > position) {
                let select = block::select(unit.database);
                let there = block.payload[..unit.from].ends_with(&select);
                let from = unit.from - if there { select.len() } else { 0 };
                let start = FollowerOffset(block.follower_start.0 + from as u64);
                return Ok((start, (!there).then_some(unit.database)));
            }
        }
    }

    /// A reader of followers' bytes from `from` on, under the id that followers were told.
    pub fn follow_from(&self, from: FollowerOffset) -> Result<FollowerReader, NotInJournal> {
        let epoch = {
            let visible = self.core.visible.lock();
            if from > visible.state.follower {
                return Err(NotInJournal::Ahead {
                    asked: from.to_string(),
                    stands: visible.state.follower.to_string(),
                });
            }
            visible.check_kept(Wanted::Bytes(from))?;
            visible.epoch
        };
        Ok(FollowerReader::new(self.core.clone(), epoch, from))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop_syncing();
    }
}
