//! Keys that the peer does not have: they go when this site is to become what the peer is.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use redis_protocol::resp2::types::BytesFrame;

use super::LinkError;
use crate::apply::{Item, Kind};
use crate::position::Database;
use crate::redis::{Connection, RedisError, ServerInfo, Target};
use crate::resp;
use crate::write_off::CHECKPOINT_KEY;

/// Keys looked at in one step.
const STEP: &str = "1000";

/// A set of keys, 8 bytes and a little for each: two that have the same hash of 64 bits are taken
/// for one, and then a key that should go stays.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    hashes: HashSet<u64, RandomState>,
    hasher: RandomState,
}

impl KeySet {
    pub(super) fn add(&mut self, database: Database, key: &[u8]) {
        self.hashes.insert(self.hasher.hash_one((database.0, key)));
    }

    fn contains(&self, database: Database, key: &[u8]) -> bool {
        self.hashes.contains(&self.hasher.hash_one((database.0, key)))
    }
}

/// Goes through all keys of the local Redis.
pub(super) struct Extra {
    connection: Connection,
    kept: KeySet,
    databases: VecDeque<Database>,
    cursor: Bytes,
    selected: bool,
}

impl Extra {
    pub(super) async fn open(target: &Target, kept: KeySet) -> Result<Self, RedisError> {
        let mut connection = Connection::open(target).await?;
        let server = ServerInfo::ask(&mut connection).await?;
        let databases = server.info.databases().into();
        Ok(Self { connection, kept, databases, cursor: Bytes::from_static(b"0"), selected: false })
    }

    /// What takes away the next keys that are not in the set; none when all were looked at.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Item>>, LinkError> {
        let Some(database) = self.databases.front().copied() else { return Ok(None) };
        if !self.selected {
            self.connection.call(&["SELECT", &database.to_string()]).await?;
            self.selected = true;
        }
        let words = [&b"SCAN"[..], &self.cursor, b"COUNT", STEP.as_bytes()];
        let (cursor, keys) = match self.connection.call(&words).await? {
            BytesFrame::Array(parts) => match <[BytesFrame; 2]>::try_from(parts) {
                Ok([BytesFrame::BulkString(cursor), BytesFrame::Array(keys)]) => (cursor, keys),
                _ => {
                    return Err(self.connection.unexpected("SCAN", "not a cursor and keys").into());
                }
            },
            other => return Err(self.connection.unexpected("SCAN", format!("{other:?}")).into()),
        };
        if &cursor[..] == b"0" {
            self.databases.pop_front();
            self.selected = false;
        }
        self.cursor = cursor;
        let names = keys.into_iter().filter_map(|key| match key {
            BytesFrame::BulkString(name) => Some(name),
            _ => None,
        });
        let extra =
            names.filter(|name| &name[..] != CHECKPOINT_KEY && !self.kept.contains(database, name));
        Ok(Some(extra.map(|name| delete(database, name)).collect()))
    }
}

/// Written under WATCH as an entry is: not if local clients wrote the key and the peer has not seen
/// that.
fn delete(database: Database, name: Bytes) -> Item {
    let mut out = BytesMut::new();
    resp::put_command(&mut out, &[b"DEL", &name[..]]);
    Item { key: Some(name), ..Item::new(database, out.freeze(), 1, Kind::Entry) }
}
