//! The site's loop-free history: local units only, in order.
//!
//! The source appends, any number of readers follow: links by position, followers by byte. What a
//! reader asks for and is no longer here is an error that names what is missing, never a gap.

mod block;
mod encoding;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

pub use block::{Block, BlockBuilder, EXEC, MULTI, PING, UnitHead};

use crate::clock::{Clock, Timestamp};
use crate::position::{Database, FollowerOffset, Offset, Position, ReplicationId, Seen};

/// Followers' offsets begin here: RedisShake never acknowledges offset 0 and redis-GunYu subtracts
/// a snapshot's size from what it is told (SYNCERS).
const FIRST_FOLLOWER_OFFSET: FollowerOffset = FollowerOffset(1 << 40);

/// Why a reader can't begin or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInJournal {
    /// The position is of a history that this site does not have.
    #[error("{0} is of another history than {1}")]
    OtherHistory(Position, Position),
    /// Units behind the position were already dropped.
    #[error("the journal begins at {begins}, {asked} is before it")]
    Dropped {
        /// What was asked for.
        asked: String,
        /// Where the journal begins now.
        begins: String,
    },
    /// The position lies ahead of the stream.
    #[error("{asked} is ahead of this site, which stands at {stands}")]
    Ahead {
        /// What was asked for.
        asked: String,
        /// Where the journal ends.
        stands: String,
    },
    /// The local Redis began another history while the reader was at work.
    #[error("the local Redis began another history")]
    HistoryBroke,
}

/// Where the journal ends.
#[derive(Clone, Debug)]
pub struct Head {
    /// The stream of the local Redis up to here is in the journal.
    pub position: Position,
    /// Followers' bytes up to here are in the journal.
    pub follower: FollowerOffset,
    /// What has been seen of the other sites up to here.
    pub seen: Arc<Seen>,
    /// Goes up whenever the history breaks; readers of an older one end.
    pub epoch: u64,
    /// Units taken since the start.
    pub units: u64,
}

/// Numbers for people and metrics.
#[derive(Clone, Debug)]
pub struct JournalStatus {
    /// Where it ends.
    pub head: Head,
    /// Where its oldest block begins.
    pub first: Position,
    /// Likewise for followers.
    pub first_follower: FollowerOffset,
    /// Blocks in memory.
    pub blocks: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Bytes that they may take.
    pub max_bytes: usize,
    /// The id that followers know this history by.
    pub follower_id: ReplicationId,
}

#[derive(Debug)]
struct State {
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
    /// Units that end at or before this are dropped or were never here.
    first: Offset,
    first_follower: FollowerOffset,
    /// Earlier ids of this history, each good up to an offset.
    aliases: Vec<(ReplicationId, Offset)>,
    follower_id: ReplicationId,
    /// In force at the end of the payload.
    follower_database: Database,
    head: Head,
}

/// The journal. In memory, bounded; the oldest blocks go.
#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    head: watch::Sender<Head>,
    max_bytes: usize,
    clock: Arc<Clock>,
}

/// What a link's reader gets next.
#[derive(Debug)]
pub enum Read {
    /// Units; those at or before the reader's position are to be passed over.
    Block(Arc<Block>),
    /// All blocks were read; the site stands here, with this seen.
    Idle(Head),
}

impl Journal {
    /// An empty journal that may take so many bytes of memory.
    pub fn new(max_bytes: usize, clock: Arc<Clock>) -> Arc<Self> {
        let nowhere = Position { replid: ReplicationId::random(), offset: Offset(0) };
        let head = Head {
            position: nowhere,
            follower: FIRST_FOLLOWER_OFFSET,
            seen: Arc::default(),
            epoch: 0,
            units: 0,
        };
        Arc::new(Self {
            state: Mutex::new(State {
                blocks: VecDeque::new(),
                bytes: 0,
                first: Offset(0),
                first_follower: FIRST_FOLLOWER_OFFSET,
                aliases: Vec::new(),
                follower_id: ReplicationId::random(),
                follower_database: Database(0),
                head: head.clone(),
            }),
            head: watch::Sender::new(head),
            max_bytes,
            clock,
        })
    }

    /// The history begins (anew) at `position`: nothing of what was here can be read any more.
    pub fn begin_history(&self, position: Position) {
        let mut state = self.state.lock();
        state.blocks.clear();
        state.bytes = 0;
        state.aliases.clear();
        state.first = position.offset;
        state.first_follower = state.head.follower;
        state.follower_id = ReplicationId::random();
        state.head.position = position;
        state.head.seen = Arc::default();
        state.head.epoch += 1;
        self.head.send_replace(state.head.clone());
    }

    /// The same history goes on under another id (PSYNC2); the old one is good up to here.
    pub fn rename_history(&self, replid: ReplicationId) {
        let mut state = self.state.lock();
        let old = state.head.position;
        if old.replid != replid {
            state.aliases.push((old.replid, old.offset));
            state.head.position.replid = replid;
            self.head.send_replace(state.head.clone());
        }
    }

    /// Appends what the stream brought up to `position`: a block if there were units, and what has
    /// been seen by now. Gives each unit its moment.
    pub fn append(&self, block: Option<Block>, position: Position, seen: &Arc<Seen>) {
        let mut state = self.state.lock();
        if let Some(mut block) = block {
            block.first_timestamp = self.clock.take(block.units.len() as u64);
            state.head.units += block.units.len() as u64;
            self.push(&mut state, block);
        }
        state.head.position = position;
        state.head.seen = seen.clone();
        self.head.send_replace(state.head.clone());
    }

    /// Appends a PING, for followers only.
    pub fn ping(&self) {
        let mut state = self.state.lock();
        let at = state.head.position;
        let block = Block {
            replid: at.replid,
            start: at.offset,
            end: at.offset,
            follower_start: state.head.follower,
            first_timestamp: Timestamp(0),
            units: Vec::new(),
            seen: Vec::new(),
            payload: bytes::Bytes::from_static(PING),
        };
        self.push(&mut state, block);
        self.head.send_replace(state.head.clone());
    }

    fn push(&self, state: &mut State, mut block: Block) {
        block.follower_start = state.head.follower;
        state.head.follower = block.follower_end();
        if let Some(last) = block.units.last() {
            state.follower_database = last.database_after;
        }
        state.bytes += block.memory();
        state.blocks.push_back(Arc::new(block));
        while state.bytes > self.max_bytes && state.blocks.len() > 1 {
            if let Some(oldest) = state.blocks.pop_front() {
                state.bytes -= oldest.memory();
                state.first_follower = oldest.follower_end();
                if let Some(last) = oldest.units.last() {
                    state.first = last.end;
                }
            }
        }
    }

    /// Where it ends, now.
    pub fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Follows where it ends.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// Numbers for people and metrics.
    pub fn status(&self) -> JournalStatus {
        let state = self.state.lock();
        JournalStatus {
            head: state.head.clone(),
            first: Position { replid: state.head.position.replid, offset: state.first },
            first_follower: state.first_follower,
            blocks: state.blocks.len(),
            bytes: state.bytes,
            max_bytes: self.max_bytes,
            follower_id: state.follower_id,
        }
    }

    /// A reader of the units behind `position`.
    pub fn read_from(self: &Arc<Self>, position: Position) -> Result<UnitReader, NotInJournal> {
        let state = self.state.lock();
        let here = state.head.position;
        let known = position.replid == here.replid
            || state
                .aliases
                .iter()
                .any(|(id, to)| *id == position.replid && position.offset <= *to);
        if !known {
            return Err(NotInJournal::OtherHistory(position, here));
        }
        if position.offset > here.offset {
            return Err(NotInJournal::Ahead {
                asked: position.to_string(),
                stands: here.to_string(),
            });
        }
        if position.offset < state.first {
            return Err(dropped(position.offset, state.first));
        }
        Ok(UnitReader {
            journal: self.clone(),
            at: position.offset,
            epoch: state.head.epoch,
            head: self.head.subscribe(),
        })
    }

    /// Where a follower's bytes stand for a snapshot taken at `position`, which must not lie ahead
    /// of the journal's end: the offset of what follows, and the database in force there.
    pub fn follower_at(
        &self,
        position: Offset,
    ) -> Result<(FollowerOffset, Database), NotInJournal> {
        let state = self.state.lock();
        if position < state.first {
            return Err(dropped(position, state.first));
        }
        let index = state.blocks.partition_point(|block| block.end <= position);
        let later = state.blocks.range(index..).find_map(|block| {
            let unit = block.units.iter().find(|unit| unit.end > position)?;
            // Behind the SELECT that may stand before the unit: the follower is sent one anyway.
            let start = FollowerOffset(block.follower_start.0 + unit.from as u64);
            Some((start, unit.database))
        });
        Ok(later.unwrap_or((state.head.follower, state.follower_database)))
    }

    /// A reader of followers' bytes from `from` on, under the id that followers were told.
    pub fn follow_from(
        self: &Arc<Self>,
        from: FollowerOffset,
    ) -> Result<FollowerReader, NotInJournal> {
        let state = self.state.lock();
        if from < state.first_follower {
            return Err(dropped(from, state.first_follower));
        }
        if from > state.head.follower {
            return Err(NotInJournal::Ahead {
                asked: from.to_string(),
                stands: state.head.follower.to_string(),
            });
        }
        Ok(FollowerReader {
            journal: self.clone(),
            at: from,
            epoch: state.head.epoch,
            head: self.head.subscribe(),
        })
    }
}

fn dropped(asked: impl std::fmt::Display, begins: impl std::fmt::Display) -> NotInJournal {
    NotInJournal::Dropped { asked: asked.to_string(), begins: begins.to_string() }
}

/// Reads units in order, for a link.
#[derive(Debug)]
pub struct UnitReader {
    journal: Arc<Journal>,
    at: Offset,
    epoch: u64,
    head: watch::Receiver<Head>,
}

impl UnitReader {
    /// What follows; at the end, where the site stands. Never waits.
    pub fn read(&mut self) -> Result<Read, NotInJournal> {
        self.head.mark_unchanged();
        let state = self.journal.state.lock();
        if state.head.epoch != self.epoch {
            return Err(NotInJournal::HistoryBroke);
        }
        if self.at < state.first {
            return Err(dropped(self.at, state.first));
        }
        let index = state.blocks.partition_point(|block| block.end <= self.at);
        let block = state.blocks.range(index..).find(|block| !block.units.is_empty());
        if let Some(block) = block {
            self.at = block.end;
            return Ok(Read::Block(block.clone()));
        }
        Ok(Read::Idle(state.head.clone()))
    }

    /// Waits until the journal has moved since the last read. Cancel safe.
    pub async fn moved(&mut self) {
        // The sender lives in the journal that we hold.
        let _ = self.head.changed().await;
    }
}

/// Reads bytes in order, for a follower.
#[derive(Debug)]
pub struct FollowerReader {
    journal: Arc<Journal>,
    at: FollowerOffset,
    epoch: u64,
    head: watch::Receiver<Head>,
}

impl FollowerReader {
    /// What follows, `None` at the end. Never waits.
    pub fn read(&mut self) -> Result<Option<bytes::Bytes>, NotInJournal> {
        self.head.mark_unchanged();
        let state = self.journal.state.lock();
        if state.head.epoch != self.epoch {
            return Err(NotInJournal::HistoryBroke);
        }
        if self.at < state.first_follower {
            return Err(dropped(self.at, state.first_follower));
        }
        let index = state.blocks.partition_point(|block| block.follower_end() <= self.at);
        let Some(block) = state.blocks.get(index) else { return Ok(None) };
        let skip = usize::try_from(self.at.0 - block.follower_start.0).unwrap_or(usize::MAX);
        self.at = block.follower_end();
        Ok(Some(block.payload.slice(skip..)))
    }

    /// Up to where it has read.
    pub fn at(&self) -> FollowerOffset {
        self.at
    }

    /// Waits until the journal has moved since the last read. Cancel safe.
    pub async fn moved(&mut self) {
        let _ = self.head.changed().await;
    }
}
