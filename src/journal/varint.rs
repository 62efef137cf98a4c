//! Numbers, ids and texts as bytes, and back, without ever reading past the end.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::BlockError;
use crate::position::{Floors, Offset, Position, ReplicationId, Seen, SiteName};

/// Longest varint of 64 bits: seven bits a byte.
const LONGEST: usize = 10;
/// Length of a replication id.
const ID: usize = 40;

/// Writes a number, seven bits a byte, lowest first.
pub(super) fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.put_u8(number.to_le_bytes()[0]);
}

/// Writes a text or bytes behind their length.
pub(super) fn put_text(out: &mut BytesMut, text: &[u8]) {
    put_number(out, text.len() as u64);
    out.put_slice(text);
}

pub(super) fn put_position(out: &mut BytesMut, position: Position) {
    out.put_slice(position.replid.as_bytes());
    put_number(out, position.offset.0);
}

pub(super) fn put_seen(out: &mut BytesMut, seen: &Seen) {
    put_number(out, seen.0.len() as u64);
    for (site, position) in &seen.0 {
        put_text(out, site.as_str().as_bytes());
        put_position(out, *position);
    }
}

pub(super) fn put_floors(out: &mut BytesMut, floors: &Floors) {
    put_number(out, floors.0.len() as u64);
    for (site, offset) in &floors.0 {
        put_text(out, site.as_str().as_bytes());
        put_number(out, offset.0);
    }
}

/// Bytes that are being read, from anyone.
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], BlockError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BlockError("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, BlockError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64, BlockError> {
        let mut number = 0;
        for index in 0..LONGEST {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if index == LONGEST - 1 && bits > 1 {
                return Err(BlockError("number too large"));
            }
            number |= bits << (7 * index);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BlockError("number too long"))
    }

    pub(super) fn size(&mut self) -> Result<usize, BlockError> {
        usize::try_from(self.number()?).map_err(|_| BlockError("size too large"))
    }

    pub(super) fn small(&mut self) -> Result<u32, BlockError> {
        u32::try_from(self.number()?).map_err(|_| BlockError("number too large"))
    }

    /// A count of things that take at least `each` bytes: never more than fit into what is left, so
    /// that memory may be taken for them at once.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, BlockError> {
        let count = self.size()?;
        if count > self.0.len() / each { Err(BlockError("too short")) } else { Ok(count) }
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8], BlockError> {
        let length = self.size()?;
        self.take(length)
    }

    pub(super) fn replid(&mut self) -> Result<ReplicationId, BlockError> {
        ReplicationId::from_bytes(self.take(ID)?).map_err(|_| BlockError("replication id"))
    }

    pub(super) fn position(&mut self) -> Result<Position, BlockError> {
        Ok(Position { replid: self.replid()?, offset: Offset(self.number()?) })
    }

    pub(super) fn seen(&mut self) -> Result<Arc<Seen>, BlockError> {
        // A name of one character behind its length, an id and an offset.
        let count = self.count(2 + ID + 1)?;
        let mut sites = Vec::with_capacity(count);
        for _ in 0..count {
            sites.push((self.site_name()?, self.position()?));
        }
        Ok(Arc::new(Seen(sites)))
    }

    pub(super) fn floors(&mut self) -> Result<Floors, BlockError> {
        // A name of one character behind its length, and an offset.
        let count = self.count(2 + 1)?;
        let mut sites = Vec::with_capacity(count);
        for _ in 0..count {
            sites.push((self.site_name()?, Offset(self.number()?)));
        }
        Ok(Floors(sites))
    }

    fn site_name(&mut self) -> Result<SiteName, BlockError> {
        let name = str::from_utf8(self.text()?).map_err(|_| BlockError("site name"))?;
        name.parse().map_err(|_| BlockError("site name"))
    }

    pub(super) fn end(&self) -> Result<(), BlockError> {
        if self.0.is_empty() { Ok(()) } else { Err(BlockError("too long")) }
    }
}
