//! A block as bytes: on a link, and on disk.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::block::{Block, UnitHead};
use crate::clock::Timestamp;
use crate::position::{Database, FollowerOffset, Offset, ReplicationId};

/// Bytes that are no block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a block of a journal: {0}")]
pub struct BlockError(&'static str);

impl Block {
    /// Writes the block.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.replid.as_bytes());
        for number in [self.start.0, self.end.0, self.follower_start.0, self.first_timestamp.0] {
            out.put_u64_le(number);
        }
        out.put_u64_le(self.units.len() as u64);
        for unit in &self.units {
            out.put_u64_le(unit.end.0);
            out.put_u64_le(unit.from as u64);
            out.put_u64_le(unit.to as u64);
            out.put_u32_le(unit.database.0);
            out.put_u32_le(unit.database_after.0);
        }
        out.put_slice(&self.payload);
    }

    /// Reads a block.
    pub fn decode(mut bytes: Bytes) -> Result<Self, BlockError> {
        let short = BlockError("too short");
        if bytes.len() < 40 + 40 {
            return Err(short);
        }
        let replid = ReplicationId::from_bytes(&bytes.split_to(40));
        let replid = replid.map_err(|_| BlockError("replication id"))?;
        let start = Offset(bytes.get_u64_le());
        let end = Offset(bytes.get_u64_le());
        let follower_start = FollowerOffset(bytes.get_u64_le());
        let first_timestamp = Timestamp(bytes.get_u64_le());
        let count = bytes.get_u64_le();
        if count > (bytes.len() / 32) as u64 {
            return Err(short);
        }
        let mut units = Vec::new();
        for _ in 0..count {
            units.push(UnitHead {
                end: Offset(bytes.get_u64_le()),
                from: usize::try_from(bytes.get_u64_le()).unwrap_or(usize::MAX),
                to: usize::try_from(bytes.get_u64_le()).unwrap_or(usize::MAX),
                database: Database(bytes.get_u32_le()),
                database_after: Database(bytes.get_u32_le()),
                seen: 0,
            });
        }
        if units.iter().any(|unit| unit.from > unit.to || unit.to > bytes.len()) {
            return Err(BlockError("unit outside of the payload"));
        }
        let seen = vec![Arc::default()];
        Ok(Self {
            replid,
            start,
            end,
            follower_start,
            first_timestamp,
            units,
            seen,
            payload: bytes,
        })
    }
}
