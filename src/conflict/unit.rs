//! A peer's unit, as far as conflicts go.

use bytes::Bytes;
use smallvec::SmallVec;

use super::effect::{Effect, Touch, hash_key};
use crate::clock::Timestamp;
use crate::position::{Database, Position};

/// A peer's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUnit {
    /// When it was written.
    pub time: Timestamp,
    /// What of this site it had seen; none: nothing, so that it conflicts with everything.
    pub seen: Option<Position>,
    /// The primary's word on whole keys.
    pub state: bool,
    /// It is about whole databases (FLUSHALL, SWAPDB).
    pub wide: bool,
    /// The keys that its commands touch.
    pub touched: SmallVec<[Touched; 1]>,
}

/// A key that a command of it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The how-manieth command.
    pub command: usize,
    /// The key.
    pub key: Key,
    pub(super) hash: u64,
    /// What happens to it.
    pub effect: Effect,
    /// See [`Touch::together`].
    pub together: bool,
}

/// A key and its database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The database.
    pub database: Database,
    /// The key.
    pub name: Bytes,
}

impl Touched {
    /// Of command `command`, whose bytes lie in `unit`.
    pub fn new(command: usize, touch: Touch<'_>, unit: &Bytes) -> Self {
        let Touch { database, key, effect, together } = touch;
        let key = Key { database, name: unit.slice_ref(key) };
        Self { command, hash: hash_key(database, &key.name), key, effect, together }
    }
}
