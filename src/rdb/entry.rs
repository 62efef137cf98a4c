//! One key with its value, and the payload that `RESTORE` takes.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::CrcAlgorithm;

use super::encoding::Encoding;
use super::version::{Flavour, RdbVersion};

/// A key and its value, the value as the snapshot has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
    /// How `value` is written.
    pub encoding: Encoding,
    /// The value's bytes in the snapshot. They share memory with the buffer they arrived in.
    pub value: Bytes,
    /// When the key expires, in milliseconds since 1970; at least 1.
    pub expires_at: Option<u64>,
    /// Seconds since the key was last used, if the server evicts by that (`RESTORE .. IDLETIME`).
    pub idle: Option<u64>,
    /// How often the key is used, if the server evicts by that (`RESTORE .. FREQ`).
    pub frequency: Option<u8>,
    /// What modules attached to the key (Redis 8.6), as the snapshot has it; mostly empty.
    pub metadata: Bytes,
    /// Where in the snapshot the value begins, in bytes.
    pub offset: u64,
}

/// The first of Redis's versions whose servers take metadata in a payload.
const METADATA_SINCE: u16 = 13;

/// Bytes behind a payload's value: the version and a checksum.
const FOOTER: usize = 10;
/// Valkey's own numbers begin above this.
const REDIS_NUMBERS: u16 = 79;

impl Entry {
    /// The entry that a payload of `DUMP` holds; `None` if it is in an encoding that is not known
    /// here, or carries what a module attached.
    pub fn from_dump(db: u32, key: Bytes, payload: &Bytes) -> Option<Self> {
        let end = payload.len().checked_sub(FOOTER).filter(|end| *end > 0)?;
        let number = u16::from_le_bytes([payload[end], payload[end + 1]]);
        let flavour = if number > REDIS_NUMBERS { Flavour::Valkey } else { Flavour::Redis };
        let encoding = Encoding::of_code(flavour, payload[0])?;
        Some(Self {
            db,
            key,
            encoding,
            value: payload.slice(1..end),
            expires_at: None,
            idle: None,
            frequency: None,
            metadata: Bytes::new(),
            offset: 0,
        })
    }

    /// The payload for `RESTORE` on a server whose newest version is `target`, or `None` if that
    /// server can't load this encoding.
    ///
    /// The payload carries the lowest version that has the encoding, not the snapshot's: a server
    /// refuses any number above its own before it looks at the type. Metadata of modules goes only
    /// to servers that know such.
    pub fn restore_payload(&self, target: RdbVersion) -> Option<Bytes> {
        if !self.encoding.is_loaded_by(target) {
            return None;
        }
        let takes_metadata = target.flavour == Flavour::Redis && target.number >= METADATA_SINCE;
        let metadata: &[u8] = if takes_metadata { &self.metadata } else { &[] };
        let version =
            if metadata.is_empty() { self.encoding.since().number } else { METADATA_SINCE };
        let mut payload = BytesMut::with_capacity(metadata.len() + self.value.len() + 11);
        payload.put_slice(metadata);
        payload.put_u8(self.encoding.code());
        payload.put_slice(&self.value);
        payload.put_u16_le(version);
        payload.put_u64_le(crc_fast::checksum(CrcAlgorithm::Crc64Redis, &payload));
        Some(payload.freeze())
    }
}

/// Shows how long the value is, not what: values don't belong into logs.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("db", &self.db)
            .field("key", &self.key)
            .field("encoding", &self.encoding)
            .field("value_bytes", &self.value.len())
            .field("expires_at", &self.expires_at)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(encoding: Encoding, value: &'static [u8]) -> Entry {
        Entry {
            db: 0,
            key: Bytes::from_static(b"k"),
            encoding,
            value: Bytes::from_static(value),
            expires_at: None,
            idle: None,
            frequency: None,
            metadata: Bytes::new(),
            offset: 0,
        }
    }

    #[test]
    fn the_payload_is_what_dump_gives() {
        // DUMP of "hi" on Redis 6.2.
        let payload = entry(Encoding::String, b"\x02hi").restore_payload(RdbVersion::redis(9));
        let payload = payload.unwrap();
        assert_eq!(payload[..6], *b"\x00\x02hi\x09\x00");
        assert_eq!(payload.len(), 14);
    }

    #[test]
    fn what_dump_gives_is_read_back() {
        let payload = entry(Encoding::String, b"\x02hi").restore_payload(RdbVersion::redis(9));
        let payload = payload.unwrap();
        let back = Entry::from_dump(0, Bytes::from_static(b"k"), &payload).unwrap();
        assert_eq!(back, entry(Encoding::String, b"\x02hi"));
        assert_eq!(Entry::from_dump(0, Bytes::new(), &payload.slice(..10)), None);
        assert_eq!(Entry::from_dump(0, Bytes::new(), &Bytes::from_static(&[99; 20])), None);
    }

    #[test]
    fn the_version_follows_the_type_and_not_the_target() {
        let string = entry(Encoding::String, b"\x02hi");
        let everywhere = string.restore_payload(RdbVersion::redis(9));
        assert_eq!(string.restore_payload(RdbVersion::valkey(80)), everywhere);
        assert_eq!(string.restore_payload(RdbVersion::redis(13)), everywhere);
        let hash = entry(Encoding::HashExpiry, &[0; 9]);
        assert_eq!(hash.restore_payload(RdbVersion::valkey(80)), None);
        assert_eq!(hash.restore_payload(RdbVersion::redis(11)), None);
        let payload = hash.restore_payload(RdbVersion::redis(13)).unwrap();
        assert_eq!(payload[10..12], [12, 0]);
    }

    #[test]
    fn metadata_goes_where_it_is_known() {
        let mut string = entry(Encoding::String, b"\x02hi");
        let plain = string.restore_payload(RdbVersion::redis(9));
        string.metadata = Bytes::from_static(&[243, 0]);
        assert_eq!(string.restore_payload(RdbVersion::redis(12)), plain);
        assert_eq!(string.restore_payload(RdbVersion::valkey(80)), plain);
        let payload = string.restore_payload(RdbVersion::redis(13)).unwrap();
        assert_eq!(payload[..8], *b"\xf3\x00\x00\x02hi\x0d\x00");
    }
}
