//! The local writes that a peer has not seen, and what follows from them for what the peer sends.
//!
//! Pure, and the same at every site; `docs/decisions/0010` tells the protocol. What goes in comes in
//! the order of the local Redis's stream, what the peer has seen too.

mod judge;

use std::sync::Arc;

use bytes::Bytes;

use super::effect::{Effect, Touch, hash_key};
use super::unit::{Key, RemoteUnit};
use super::writes::{Forgotten, Write, Writes};
use crate::clock::Timestamp;
use crate::position::{Database, Offset, Position, ReplicationId};

/// What was found at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub key: Key,
    /// What this site did; none if that is not known one by one.
    pub local: Option<Effect>,
    /// What the peer did; none if it is not about a key of its own.
    pub remote: Option<Effect>,
    /// The peer's write was left out here.
    pub rejected: Option<Why>,
    /// What the peer had seen of this site.
    pub seen: Offset,
}

/// Why a command of the peer is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A local write on the key is newer and leaves nothing of it.
    Older,
    /// It only deletes, and a local write does not.
    Deletes,
    /// It is the primary's word, and the primary will hear of a write here and speak again.
    Outdated,
}

/// The table for one peer.
#[derive(Debug)]
pub struct Table {
    is_primary: bool,
    max_keys: usize,
    writes: Writes,
    /// Ids of the present history; it may have had several, and has the last one.
    history: Vec<ReplicationId>,
    /// The peer has seen local units up to here.
    floor: Option<Offset>,
    /// What the peer wrote before it had seen this conflicts with everything.
    blind_below: Offset,
    /// Snapshots for the peer that are about to be cut.
    cutting: u32,
    /// Keys were forgotten since the peer had seen all of them.
    overflown: bool,
    /// Among them such that others depend on: a conflict may be on any key.
    forgot_groups: bool,
    /// Swapped databases, with the end of the unit that did it.
    swaps: Vec<(Offset, Database, Database)>,
}

impl Table {
    /// An empty table.
    pub fn new(is_primary: bool, max_keys: usize) -> Self {
        Self {
            is_primary,
            max_keys,
            writes: Writes::new(max_keys),
            history: Vec::new(),
            floor: None,
            blind_below: Offset(0),
            cutting: 0,
            overflown: false,
            forgot_groups: false,
            swaps: Vec::new(),
        }
    }

    /// A history begins; positions of an earlier one mean nothing any more.
    pub fn begin_history(&mut self, position: Position) {
        let cutting = self.cutting;
        *self = Self { cutting, ..Self::new(self.is_primary, self.max_keys) };
        self.history.push(position.replid);
    }

    /// The history goes on under another id.
    pub fn rename_history(&mut self, replid: ReplicationId) {
        if !self.history.contains(&replid) {
            self.history.push(replid);
        }
    }

    /// The history had this id before.
    pub fn had_id(&mut self, replid: ReplicationId) {
        if !self.history.contains(&replid) {
            self.history.insert(0, replid);
        }
    }

    /// Whether this is an id of the present history.
    pub fn has_history(&self, replid: ReplicationId) -> bool {
        self.history.contains(&replid)
    }

    /// A local unit that ends at or behind `end` touches a key.
    pub fn enter(
        &mut self,
        touch: Touch<'_>,
        group: Option<&Arc<[Key]>>,
        end: Offset,
        time: Timestamp,
    ) {
        if self.floor.is_some_and(|floor| end <= floor) {
            return;
        }
        let hash = hash_key(touch.database, touch.key);
        let write = Write { effect: touch.effect, end, time, group: group.cloned() };
        if let Some(Forgotten { last, groups }) = self.writes.enter(hash, write) {
            self.blind_below = self.blind_below.max(last);
            self.overflown = true;
            self.forgot_groups |= groups;
        }
    }

    /// A local unit that ends at `end` is about whole databases: what the peer does without having
    /// seen it conflicts. `swap` if it swapped two.
    pub fn enter_wide(&mut self, end: Offset, swap: Option<(Database, Database)>) {
        if self.floor.is_some_and(|floor| end <= floor) {
            return;
        }
        self.blind_below = self.blind_below.max(end);
        self.swaps.extend(swap.map(|(a, b)| (end, a, b)));
    }

    /// The peer has seen local units up to `position`.
    pub fn seen(&mut self, position: Position) {
        if let Some(seen) = self.ours(Some(position)) {
            self.raise(seen);
        }
    }

    /// A snapshot for the peer is about to be cut, or that is over. Meanwhile what the peer writes
    /// conflicts with everything: where the cut will be is not known yet.
    pub fn cutting(&mut self, begins: bool) {
        self.cutting = if begins { self.cutting + 1 } else { self.cutting.saturating_sub(1) };
    }

    /// A snapshot for the peer was cut here: it holds all before, and none of that will reach the
    /// peer as a unit. What the peer writes before it has seen it conflicts with everything.
    pub fn cut(&mut self, position: Position) {
        if let Some(at) = self.ours(Some(position)) {
            self.raise(at);
            self.blind_below = self.blind_below.max(at);
        }
    }

    /// A snapshot for the peer was cut here, and what is before reaches the peer as units too. What
    /// it holds beyond these is unknown: at the primary, what the peer writes before it has seen it
    /// conflicts with everything.
    pub fn cut_behind_units(&mut self, position: Position) {
        if let Some(at) = self.ours(Some(position)).filter(|_| self.is_primary) {
            self.blind_below = self.blind_below.max(at);
        }
    }

    /// The id of the present history; none before there is one.
    pub fn history(&self) -> Option<ReplicationId> {
        self.history.last().copied()
    }

    fn raise(&mut self, to: Offset) {
        self.floor = self.floor.max(Some(to));
        self.writes.seen(to);
        self.swaps.retain(|(end, ..)| *end > to);
        self.overflown &= self.blind_below > to;
        self.forgot_groups &= self.overflown;
    }

    /// An offset of this site's history; none if it is of another.
    fn ours(&self, position: Option<Position>) -> Option<Offset> {
        position.filter(|seen| self.history.contains(&seen.replid)).map(|seen| seen.offset)
    }

    /// The peer has certainly seen all local units up to here; none before it has seen any.
    pub fn floor(&self) -> Option<Offset> {
        self.floor
    }

    /// The same as a position.
    pub fn floor_position(&self) -> Option<Position> {
        Some(Position { replid: *self.history.last()?, offset: self.floor? })
    }

    /// How many keys, about: some the peer may have seen.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether a unit may conflict with what is not known any more, on keys that nobody knows.
    pub fn is_beyond_knowledge(&self, unit: &RemoteUnit) -> bool {
        self.is_primary && (unit.wide || (self.forgot_groups && self.sight(unit).is_none()))
    }

    /// Whether keys were forgotten that the peer may not have seen.
    pub fn is_overflown(&self) -> bool {
        self.overflown
    }
}

/// The keys of one command, copied out of the stream, if they depend on each other.
pub fn group(touches: &[Touch<'_>]) -> Option<Arc<[Key]>> {
    if !touches.iter().any(|touch| touch.together) {
        return None;
    }
    let together = touches.iter().filter(|touch| touch.together);
    let keys: Vec<Key> = together
        .map(|touch| Key { database: touch.database, name: Bytes::copy_from_slice(touch.key) })
        .collect();
    Some(keys.into())
}
