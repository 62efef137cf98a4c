//! A block as bytes: on a link, and on disk.
//!
//! Format 1, numbers as varints: format byte, replication id, start, length of the stream it
//! covers, follower start, first timestamp; a count and as many `seen`; a count and as many unit
//! heads, each told as distances from the one before, the last bit of its `seen` set for a state;
//! the payload, up to the end.

use bytes::{BufMut, Bytes, BytesMut};

use super::block::{Block, UnitHead};
use super::varint::{Input, put_number, put_seen};
use crate::clock::Timestamp;
use crate::position::{Database, FollowerOffset, Offset};

/// The format that is written and read.
const FORMAT: u8 = 1;
/// Fewest bytes of a unit's head: six numbers.
const UNIT_HEAD: usize = 6;

/// Bytes that are no block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a block of a journal: {0}")]
pub struct BlockError(pub(super) &'static str);

impl Block {
    /// Writes the block. Its units must lie in order within its payload, as a builder puts them.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(128 + self.units.len() * 16 + self.payload.len());
        out.put_u8(FORMAT);
        out.put_slice(self.replid.as_bytes());
        put_number(out, self.start.0);
        put_number(out, self.end.0.wrapping_sub(self.start.0));
        put_number(out, self.follower_start.0);
        put_number(out, self.first_timestamp.0);
        put_number(out, self.seen.len() as u64);
        for seen in &self.seen {
            put_seen(out, seen);
        }
        put_number(out, self.units.len() as u64);
        let (mut end, mut to) = (self.start.0, 0);
        for unit in &self.units {
            put_number(out, unit.end.0.wrapping_sub(end));
            put_number(out, unit.from.wrapping_sub(to) as u64);
            put_number(out, unit.to.wrapping_sub(unit.from) as u64);
            put_number(out, unit.database.0.into());
            put_number(out, unit.database_after.0.into());
            put_number(out, (unit.seen as u64) << 1 | u64::from(unit.state));
            (end, to) = (unit.end.0, unit.to);
        }
        out.put_slice(&self.payload);
    }

    /// Reads a block out of bytes that anyone may have made; its payload shares them.
    pub fn decode(bytes: &Bytes) -> Result<Self, BlockError> {
        let mut input = Input(bytes);
        if input.byte()? != FORMAT {
            return Err(BlockError("of another format"));
        }
        let replid = input.replid()?;
        let start = input.number()?;
        let end = add(start, input.number()?)?;
        let follower_start = input.number()?;
        let first_timestamp = input.number()?;
        let count = input.count(1)?;
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(input.seen()?);
        }
        let units = decode_units(&mut input, (start, end), seen.len())?;
        add(first_timestamp, units.len() as u64)?;
        let payload = bytes.slice_ref(input.0);
        if units.last().is_some_and(|last| last.to > payload.len()) {
            return Err(BlockError("a unit reaches out of the payload"));
        }
        add(follower_start, payload.len() as u64)?;
        Ok(Self {
            replid,
            start: Offset(start),
            end: Offset(end),
            follower_start: FollowerOffset(follower_start),
            first_timestamp: Timestamp(first_timestamp),
            units,
            seen,
            payload,
        })
    }
}

fn decode_units(
    input: &mut Input<'_>,
    (start, block_end): (u64, u64),
    seen_count: usize,
) -> Result<Vec<UnitHead>, BlockError> {
    let count = input.count(UNIT_HEAD)?;
    let mut units = Vec::with_capacity(count);
    let (mut end, mut to) = (start, 0_usize);
    let size = BlockError("size too large");
    for _ in 0..count {
        end = add(end, input.number()?)?;
        let Some(from) = to.checked_add(input.size()?) else { return Err(size) };
        let Some(unit_to) = from.checked_add(input.size()?) else { return Err(size) };
        to = unit_to;
        let database = Database(input.small()?);
        let database_after = Database(input.small()?);
        let seen = input.size()?;
        let (seen, state) = (seen >> 1, seen & 1 != 0);
        if seen >= seen_count {
            return Err(BlockError("a unit saw what is not told"));
        }
        units.push(UnitHead { end: Offset(end), from, to, database, database_after, seen, state });
    }
    if end > block_end {
        return Err(BlockError("a unit ends behind the block"));
    }
    Ok(units)
}

fn add(a: u64, b: u64) -> Result<u64, BlockError> {
    a.checked_add(b).ok_or(BlockError("number too large"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::journal::BlockBuilder;
    use crate::position::{Position, ReplicationId, Seen};

    fn block() -> Block {
        let replid = ReplicationId::random();
        let mut builder = BlockBuilder::new(None);
        let nothing = Arc::new(Seen::default());
        let place = Position { replid, offset: Offset(77) };
        let more = Arc::new(nothing.with(&"b".parse().unwrap(), place));
        builder.unit(Database(3), b"one", Offset(110), &nothing);
        builder.begin(Database(3), b"two");
        builder.more(b"three");
        builder.end(Database(300), Offset(u64::MAX - 20), &more);
        builder.unit(Database(300), b"", Offset(u64::MAX - 20), &more);
        builder.state(b"four", (Database(3), Database(1)), Offset(u64::MAX - 15), &more);
        let mut block = builder.take(replid, Offset(100), Offset(u64::MAX - 10));
        block.first_timestamp = Timestamp(u64::MAX - 4);
        block.follower_start = FollowerOffset(1 << 40);
        block
    }

    fn encode(block: &Block) -> Bytes {
        let mut out = BytesMut::new();
        block.encode(&mut out);
        out.freeze()
    }

    #[test]
    fn a_block_comes_back_as_it_was_and_shares_the_bytes() {
        let block = block();
        let bytes = encode(&block);
        let range = bytes.as_ptr_range();
        let back = Block::decode(&bytes).unwrap();
        assert_eq!(back, block);
        assert!(range.contains(&back.payload.as_ptr()));
    }

    #[test]
    fn a_block_cut_within_its_heads_is_refused() {
        let block = block();
        let bytes = encode(&block);
        for length in 0..bytes.len() {
            // Without the end of the payload the last unit reaches out of it.
            assert!(Block::decode(&bytes.slice(..length)).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic_and_never_reach_outside(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = encode(&block()).to_vec();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Ok(block) = Block::decode(&bytes.into()) {
                for (index, unit) in block.units.iter().enumerate() {
                    let _ = (block.timestamp(index), &block.payload[unit.from..unit.to]);
                    let _ = &block.seen[unit.seen];
                    prop_assert!(unit.end <= block.end);
                }
                let _ = block.follower_end();
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framed = vec![FORMAT];
            framed.extend_from_slice(&[b'a'; 40]);
            framed.extend_from_slice(&bytes);
            let _ = Block::decode(&framed.into());
            let _ = Block::decode(&bytes.into());
        }
    }
}
