//! What stands in a segment: records, one behind the other, and what they add up to.
//!
//! A record is framed as `length, CRC-32C of the body, CRC-32C of these eight bytes, body`, the
//! numbers as 32 bits, lowest byte first. The second sum tells a length that was changed on disk
//! from one whose body was never written to its end.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::crc32_iscsi;

use super::varint::{Input, put_floors, put_number, put_position, put_seen, put_text};
use super::{Block, BlockError};
use crate::clock::Timestamp;
use crate::position::{Database, Floors, FollowerOffset, Offset, Position, ReplicationId, Seen};

/// Bytes before a record's body.
pub(super) const FRAME: usize = 12;

const APPEND: u8 = 1;
const RENAME: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;

const WITH_BLOCK: u8 = 1;
const WITH_SEEN: u8 = 2;
const WITH_TIME: u8 = 4;
const WITH_FLOORS: u8 = 8;

/// Who writes: one opening of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The boot of the machine.
    pub boot: String,
    /// Whether units are forced to disk before anyone is sent them.
    pub always: bool,
}

/// What all records up to some place add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub position: Position,
    /// In force there in the stream of the local Redis; unknown before anything came.
    pub database: Option<Database>,
    pub seen: Arc<Seen>,
    /// From where on local units matter for conflicts with other sites.
    pub floors: Arc<Floors>,
    /// Where the last unit ends, or the history begins.
    pub last_unit: Offset,
    /// The last moment that is known: of the last unit, or of what came after it.
    pub time: Timestamp,
    pub units: u64,
    pub follower: FollowerOffset,
    pub follower_id: ReplicationId,
    /// In force at the end of followers' bytes.
    pub follower_database: Database,
    /// Earlier ids of this history, each good up to an offset.
    pub aliases: Vec<(ReplicationId, Offset)>,
}

/// One record. What is `None` is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The stream went on up to `offset`.
    Append {
        block: Option<Arc<Block>>,
        offset: Offset,
        database: Option<Database>,
        seen: Option<Arc<Seen>>,
        /// The moment, where no unit has one.
        time: Option<Timestamp>,
        floors: Option<Arc<Floors>>,
    },
    /// The same history goes on under another id.
    Rename(ReplicationId),
    /// A session begins, on the boot of the machine that the one before had.
    Open(Session),
    /// The session ended well: all before this is on disk.
    Close,
}

impl Record {
    pub(super) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Append { block, offset, database, seen, time, floors } => {
                out.put_u8(APPEND);
                let with = |there, flag| if there { flag } else { 0 };
                let flags = with(block.is_some(), WITH_BLOCK) | with(seen.is_some(), WITH_SEEN);
                let flags = flags | with(time.is_some(), WITH_TIME);
                out.put_u8(flags | with(floors.is_some(), WITH_FLOORS));
                put_number(out, offset.0);
                put_database(out, *database);
                if let Some(seen) = seen {
                    put_seen(out, seen);
                }
                if let Some(time) = time {
                    put_number(out, time.0);
                }
                if let Some(floors) = floors {
                    put_floors(out, floors);
                }
                if let Some(block) = block {
                    block.encode(out);
                }
            }
            Self::Rename(replid) => {
                out.put_u8(RENAME);
                out.put_slice(replid.as_bytes());
            }
            Self::Open(session) => {
                out.put_u8(OPEN);
                session.put(out);
            }
            Self::Close => out.put_u8(CLOSE),
        }
    }

    pub(super) fn read(body: &Bytes) -> Result<Self, BlockError> {
        let mut input = Input(body);
        let record = match input.byte()? {
            APPEND => {
                let flags = input.byte()?;
                let offset = Offset(input.number()?);
                let database = read_database(&mut input)?;
                let seen = (flags & WITH_SEEN != 0).then(|| input.seen()).transpose()?;
                let time = (flags & WITH_TIME != 0).then(|| input.number()).transpose()?;
                let floors =
                    (flags & WITH_FLOORS != 0).then(|| input.floors()).transpose()?.map(Arc::new);
                let mut block = None;
                if flags & WITH_BLOCK != 0 {
                    block = Some(Arc::new(Block::decode(&body.slice_ref(input.0))?));
                    input.0 = &[];
                }
                Self::Append { block, offset, database, seen, time: time.map(Timestamp), floors }
            }
            RENAME => Self::Rename(input.replid()?),
            OPEN => Self::Open(Session::read(&mut input)?),
            CLOSE => Self::Close,
            _ => return Err(BlockError("a record of an unknown kind")),
        };
        input.end()?;
        Ok(record)
    }
}

impl Session {
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u8(self.always.into());
        put_text(out, self.boot.as_bytes());
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, BlockError> {
        let always = input.byte()? != 0;
        Ok(Self { boot: String::from_utf8_lossy(input.text()?).into_owned(), always })
    }
}

impl State {
    /// Of a journal in which nothing has ever been.
    pub(super) fn nowhere(follower: FollowerOffset) -> Self {
        Self {
            position: Position { replid: ReplicationId::random(), offset: Offset(0) },
            database: None,
            seen: Arc::default(),
            floors: Arc::default(),
            last_unit: Offset(0),
            time: Timestamp(0),
            units: 0,
            follower,
            follower_id: ReplicationId::random(),
            follower_database: Database(0),
            aliases: Vec::new(),
        }
    }

    /// What follows when another history begins.
    pub(super) fn begun_anew(&self, position: Position, database: Database) -> Self {
        Self {
            position,
            database: Some(database),
            seen: Arc::default(),
            floors: Arc::default(),
            last_unit: position.offset,
            follower_id: ReplicationId::random(),
            aliases: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether the position is of this history, under any of its ids.
    pub(super) fn had(&self, position: Position) -> bool {
        let mut aliases = self.aliases.iter();
        self.position.replid == position.replid || aliases.any(|(id, _)| *id == position.replid)
    }

    /// Adds a record; what can't follow here is refused, and then nothing is changed.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), BlockError> {
        match record {
            Record::Append { block, offset, database, seen, time, floors } => {
                if *offset < self.position.offset {
                    return Err(BlockError("the stream goes backwards"));
                }
                if let Some(block) = block {
                    self.add_block(block, *offset)?;
                }
                self.position.offset = *offset;
                self.database = *database;
                if let Some(seen) = seen {
                    self.seen = seen.clone();
                }
                self.time = self.time.max(time.unwrap_or_default());
                if let Some(floors) = floors {
                    self.floors = floors.clone();
                }
            }
            Record::Rename(replid) => {
                self.aliases.push((self.position.replid, self.position.offset));
                self.position.replid = *replid;
            }
            Record::Open(_) | Record::Close => {}
        }
        Ok(())
    }

    fn add_block(&mut self, block: &Block, offset: Offset) -> Result<(), BlockError> {
        if block.replid != self.position.replid {
            return Err(BlockError("a block of another history"));
        }
        if block.start < self.position.offset || block.end > offset {
            return Err(BlockError("a block that does not follow"));
        }
        if block.follower_start != self.follower {
            return Err(BlockError("a block that does not follow for followers"));
        }
        self.follower = block.follower_end();
        if let Some(last) = block.units.last() {
            self.last_unit = last.end;
            self.time = block.timestamp(block.units.len() - 1);
            self.units += block.units.len() as u64;
            self.follower_database = last.database_after;
        }
        Ok(())
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        put_position(out, self.position);
        put_database(out, self.database);
        put_seen(out, &self.seen);
        put_floors(out, &self.floors);
        put_number(out, self.last_unit.0);
        put_number(out, self.time.0);
        put_number(out, self.units);
        put_number(out, self.follower.0);
        out.put_slice(self.follower_id.as_bytes());
        put_number(out, self.follower_database.0.into());
        put_number(out, self.aliases.len() as u64);
        for (replid, offset) in &self.aliases {
            put_position(out, Position { replid: *replid, offset: *offset });
        }
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, BlockError> {
        let mut state = Self {
            position: input.position()?,
            database: read_database(input)?,
            seen: input.seen()?,
            floors: Arc::new(input.floors()?),
            last_unit: Offset(input.number()?),
            time: Timestamp(input.number()?),
            units: input.number()?,
            follower: FollowerOffset(input.number()?),
            follower_id: input.replid()?,
            follower_database: Database(input.small()?),
            aliases: Vec::new(),
        };
        for _ in 0..input.count(1)? {
            let Position { replid, offset } = input.position()?;
            state.aliases.push((replid, offset));
        }
        Ok(state)
    }
}

fn put_database(out: &mut BytesMut, database: Option<Database>) {
    put_number(out, database.map_or(0, |database| u64::from(database.0) + 1));
}

fn read_database(input: &mut Input<'_>) -> Result<Option<Database>, BlockError> {
    let number = input.number()?.checked_sub(1);
    number
        .map(|number| u32::try_from(number).map(Database))
        .transpose()
        .map_err(|_| BlockError("number too large"))
}

/// Frames what `put` writes. An error if it is too long for a record.
pub(super) fn put_frame(
    out: &mut BytesMut,
    put: impl FnOnce(&mut BytesMut),
) -> Result<(), BlockError> {
    let start = out.len();
    out.put_bytes(0, FRAME);
    put(out);
    let body = &out[start + FRAME..];
    let length = u32::try_from(body.len()).map_err(|_| BlockError("a unit of more than 4 GiB"))?;
    let sum = crc32_iscsi(body);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    let head_sum = crc32_iscsi(&out[start..start + 8]);
    out[start + 8..start + FRAME].copy_from_slice(&head_sum.to_le_bytes());
    Ok(())
}

/// The length of the body and its sum, out of a frame's first bytes; `None` if they were changed.
pub(super) fn read_frame(head: &[u8]) -> Option<(usize, u32)> {
    let number = |from: usize| {
        head.get(from..from + 4).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)))
    };
    if crc32_iscsi(head.get(..8)?) != number(8)? {
        return None;
    }
    Some((usize::try_from(number(0)?).ok()?, number(4)?))
}
