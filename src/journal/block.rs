//! A block: the units that one read of the stream brought, with all that readers need of them.
//!
//! The payload holds the units as followers see them, one after the other, with a SELECT where the
//! database changes. Followers are sent payloads as they are; links are sent whole blocks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::clock::Timestamp;
use crate::position::{Database, FollowerOffset, Offset, ReplicationId, Seen};
use crate::resp;

/// MULTI, as it stands at the head of a transaction in a payload.
pub const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
/// EXEC, as it stands at the end.
pub const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
/// PING, that keeps followers' connections alive.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// One unit within a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitHead {
    /// Where the unit ends in the stream of its Redis.
    pub end: Offset,
    /// Where its bytes begin in the payload, behind a SELECT if one was put there.
    pub from: usize,
    /// Where its bytes end in the payload.
    pub to: usize,
    /// The database in force at its first command.
    pub database: Database,
    /// The database in force after it.
    pub database_after: Database,
    /// Which of the block's `seen` it had seen.
    pub seen: usize,
    /// It is the primary's word on whole keys, not what clients did.
    pub state: bool,
}

/// Consecutive units of one history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The history.
    pub replid: ReplicationId,
    /// The stream up to here is in earlier blocks.
    pub start: Offset,
    /// The stream up to here is in this block: behind the last unit there may be echoes.
    pub end: Offset,
    /// Where the payload begins for followers.
    pub follower_start: FollowerOffset,
    /// The moment of the first unit; each further unit is one tick later.
    pub first_timestamp: Timestamp,
    /// The units, in order. None in a block that holds only a PING.
    pub units: Vec<UnitHead>,
    /// What units of this block had seen of the other sites, in order.
    pub seen: Vec<Arc<Seen>>,
    /// The bytes.
    pub payload: Bytes,
}

impl Block {
    /// Where the payload ends for followers.
    pub fn follower_end(&self) -> FollowerOffset {
        FollowerOffset(self.follower_start.0 + self.payload.len() as u64)
    }

    /// The units that end at or before `offset`.
    #[must_use]
    pub fn up_to(&self, offset: Offset) -> Self {
        let mut block = self.clone();
        block.units.retain(|unit| unit.end <= offset);
        block.end = block.end.min(offset);
        block
    }

    /// The moment of unit `index`.
    pub fn timestamp(&self, index: usize) -> Timestamp {
        Timestamp(self.first_timestamp.0 + index as u64)
    }

    /// About how much memory the block takes, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.payload.len()
            + self.units.len() * size_of::<UnitHead>()
            + self.seen.len() * 64
    }
}

/// A block that is being filled from the stream; it lives as long as one connection to Redis.
#[derive(Debug)]
pub struct BlockBuilder {
    /// The database in force at the end of what followers were sent; none at first.
    follower_database: Option<Database>,
    payload: BytesMut,
    units: Vec<UnitHead>,
    seen: Vec<Arc<Seen>>,
    /// Start and database of the transaction that is open.
    open: Option<(usize, Database)>,
    /// The next unit is the state of keys.
    state: bool,
}

impl BlockBuilder {
    /// An empty builder. `follower_database` is the one in force at the journal's end.
    pub fn new(follower_database: Option<Database>) -> Self {
        Self {
            follower_database,
            payload: BytesMut::new(),
            units: Vec::new(),
            seen: Vec::new(),
            open: None,
            state: false,
        }
    }

    /// How many units there are.
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// The state of keys as one unit: what is given are commands with SELECTs between them, that
    /// begin in `database` and end in `database_after`.
    pub fn state(
        &mut self,
        commands: &[u8],
        (database, database_after): (Database, Database),
        end: Offset,
        seen: &Arc<Seen>,
    ) {
        self.begin(database, commands);
        self.state = true;
        self.end(database_after, end, seen);
    }

    /// Whether a transaction is open: no block can be made now.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether there is nothing to make a block of.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.open.is_none()
    }

    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// A unit of a single command.
    pub fn unit(&mut self, database: Database, bytes: &[u8], end: Offset, seen: &Arc<Seen>) {
        let from = self.select(database);
        self.payload.extend_from_slice(bytes);
        self.push(UnitPlace { from, database, database_after: database }, end, seen);
    }

    /// A transaction begins with this command.
    pub fn begin(&mut self, database: Database, bytes: &[u8]) {
        let from = self.select(database);
        self.payload.extend_from_slice(MULTI);
        self.payload.extend_from_slice(bytes);
        self.open = Some((from, database));
    }

    /// The open transaction goes on with this command.
    pub fn more(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
    }

    /// The open transaction ends, with this database in force.
    pub fn end(&mut self, database_after: Database, end: Offset, seen: &Arc<Seen>) {
        if let Some((from, database)) = self.open.take() {
            self.payload.extend_from_slice(EXEC);
            self.follower_database = Some(database_after);
            self.push(UnitPlace { from, database, database_after }, end, seen);
        }
    }

    /// Takes what was gathered, as a block of the stream between `start` and `end`. Its moments and
    /// its place for followers are set by the journal when it is appended.
    pub fn take(&mut self, replid: ReplicationId, start: Offset, end: Offset) -> Block {
        Block {
            replid,
            start,
            end,
            follower_start: FollowerOffset(0),
            first_timestamp: Timestamp(0),
            units: std::mem::take(&mut self.units),
            seen: std::mem::take(&mut self.seen),
            payload: self.payload.split().freeze(),
        }
    }

    /// Throws away what was gathered: the stream broke off.
    pub fn clear(&mut self) {
        *self = Self::new(None);
    }

    /// The next unit names its database, whatever followers know.
    pub fn name_database(&mut self) {
        self.follower_database = None;
    }

    fn select(&mut self, database: Database) -> usize {
        if self.follower_database != Some(database) {
            self.payload.extend_from_slice(&select(database));
            self.follower_database = Some(database);
        }
        self.payload.len()
    }

    fn push(&mut self, place: UnitPlace, end: Offset, seen: &Arc<Seen>) {
        if !self.seen.last().is_some_and(|last| Arc::ptr_eq(last, seen)) {
            self.seen.push(seen.clone());
        }
        self.units.push(UnitHead {
            end,
            from: place.from,
            to: self.payload.len(),
            database: place.database,
            database_after: place.database_after,
            seen: self.seen.len() - 1,
            state: std::mem::take(&mut self.state),
        });
    }
}

/// The SELECT that stands before a unit.
pub(super) fn select(database: Database) -> Bytes {
    let mut out = BytesMut::new();
    resp::put_command(&mut out, &["SELECT", &database.to_string()]);
    out.freeze()
}

#[derive(Clone, Copy)]
struct UnitPlace {
    from: usize,
    database: Database,
    database_after: Database,
}
