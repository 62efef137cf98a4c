//! What a snapshot says of a stream.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::super::RdbError;
use super::super::encoding::Encoding;
use super::super::reader::Reader;

/// Id of a stream's entry: milliseconds, and a number among those of the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Id {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl Id {
    pub(super) fn text(self) -> Bytes {
        Bytes::from(self.to_string())
    }

    /// As a length each.
    pub(super) fn read(reader: &mut Reader) -> Result<Self, RdbError> {
        Ok(Self { ms: reader.length()?, seq: reader.length()? })
    }

    /// As 16 bytes, big endian.
    pub(super) fn read_fixed(reader: &mut Reader) -> Result<Self, RdbError> {
        let (ms, seq) = (reader.array()?, reader.array()?);
        Ok(Self { ms: u64::from_be_bytes(ms), seq: u64::from_be_bytes(seq) })
    }

    /// As the key of a node.
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let (ms, seq) = key.split_first_chunk()?;
        let seq = u64::from_be_bytes(seq.try_into().ok()?);
        Some(Self { ms: u64::from_be_bytes(*ms), seq })
    }

    /// The id that lies this far from `self`; the format lets the differences wrap.
    pub(super) fn offset(self, ms: i64, seq: i64) -> Self {
        Self { ms: self.ms.wrapping_add_signed(ms), seq: self.seq.wrapping_add_signed(seq) }
    }
}

/// What a snapshot says of a stream beside its entries.
pub(super) struct Stream {
    /// How many nodes hold the entries, and where they begin. They are read last, one at a time.
    pub(super) nodes: (u64, Reader),
    pub(super) length: u64,
    pub(super) last: Id,
    /// Since Redis 7.0: the largest id deleted, and how many entries were ever added.
    pub(super) counters: Option<(Id, u64)>,
    pub(super) groups: Vec<Group>,
}

pub(super) struct Group {
    pub(super) name: Bytes,
    pub(super) last: Id,
    /// How many entries it has read; `None`: not known.
    pub(super) read: Option<u64>,
    pub(super) consumers: Vec<Consumer>,
}

pub(super) struct Consumer {
    pub(super) name: Bytes,
    /// In order of id.
    pub(super) pending: Vec<Pending>,
}

pub(super) struct Pending {
    pub(super) id: Id,
    /// When it was delivered, in milliseconds since 1970.
    pub(super) time: u64,
    /// How often.
    pub(super) count: u64,
}

impl Stream {
    pub(super) fn read(encoding: Encoding, reader: &mut Reader) -> Result<Self, RdbError> {
        let nodes = (reader.length()?, reader.clone());
        for _ in 0..nodes.0 {
            reader.skip_text()?;
            reader.skip_text()?;
        }
        let length = reader.length()?;
        let last = Id::read(reader)?;
        let has_counters = encoding != Encoding::Stream;
        let counters = if has_counters {
            // The first id follows from the entries.
            Id::read(reader)?;
            Some((Id::read(reader)?, reader.length()?))
        } else {
            None
        };
        let mut groups = Vec::new();
        for _ in 0..reader.length()? {
            groups.push(Group::read(encoding, reader)?);
        }
        // What idempotent producers have sent (Redis 8.6) follows; it is left out, see `to_commands`.
        Ok(Self { nodes, length, last, counters, groups })
    }
}

impl Group {
    pub(super) fn read(encoding: Encoding, reader: &mut Reader) -> Result<Self, RdbError> {
        let name = reader.text()?;
        let last = Id::read(reader)?;
        let read = match encoding {
            Encoding::Stream => None,
            // -1, written as an unsigned number: not known.
            _ => Some(reader.length()?).filter(|&read| i64::try_from(read).is_ok()),
        };
        let mut delivered = BTreeMap::new();
        for _ in 0..reader.length()? {
            let id = Id::read_fixed(reader)?;
            let time = u64::from_le_bytes(reader.array()?);
            delivered.insert(id, (time, reader.length()?));
        }
        let mut consumers = Vec::new();
        for _ in 0..reader.length()? {
            consumers.push(Consumer::read(encoding, reader, &mut delivered)?);
        }
        if !delivered.is_empty() {
            return Err(reader.broken("pending entry of a stream that no consumer has"));
        }
        Ok(Self { name, last, read, consumers })
    }
}

impl Consumer {
    pub(super) fn read(
        encoding: Encoding,
        reader: &mut Reader,
        delivered: &mut BTreeMap<Id, (u64, u64)>,
    ) -> Result<Self, RdbError> {
        let name = reader.text()?;
        // When it was seen, and when it last got something.
        reader.array::<8>()?;
        if matches!(encoding, Encoding::Stream3 | Encoding::Stream4) {
            reader.array::<8>()?;
        }
        let mut pending = Vec::new();
        for _ in 0..reader.length()? {
            let id = Id::read_fixed(reader)?;
            let (time, count) = delivered
                .remove(&id)
                .ok_or_else(|| reader.broken("pending entry that the stream's group lacks"))?;
            pending.push(Pending { id, time, count });
        }
        Ok(Self { name, pending })
    }
}
