//! The keys of local units that a peer has not seen yet.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::KeyTable;
use crate::position::{Database, Offset, Position, ReplicationId};
use crate::resp::Command;

/// Most keys that are remembered, about 40 bytes each. More come together only while a peer is
/// away, and then the oldest are forgotten: what the peer sends of them counts as newer.
const MAX_KEYS: usize = 1 << 20;

/// Shared by the source, which enters keys, and the link to the peer, which asks.
#[derive(Debug)]
pub struct Unseen {
    state: Mutex<State>,
    hasher: RandomState,
    scanned: watch::Sender<Offset>,
}

#[derive(Debug, Default)]
struct State {
    /// The last local unit on each key.
    last: HashMap<u64, Offset, RandomState>,
    /// The same in order, with entries that a later unit has made stale.
    order: VecDeque<(Offset, u64)>,
    /// Ids of the present history; it may have had several.
    history: Vec<ReplicationId>,
    /// Units up to here are seen, also those that are entered later.
    floor: Offset,
    overflown: bool,
}

impl Unseen {
    /// Nothing is unseen yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            hasher: RandomState::default(),
            scanned: watch::Sender::new(Offset(0)),
        })
    }

    /// A history begins; positions of an earlier one mean nothing any more.
    pub fn begin_history(&self, position: Position) {
        let history = vec![position.replid];
        *self.state.lock() = State { history, ..State::default() };
        self.scanned.send_replace(position.offset);
    }

    /// The history goes on under another id.
    pub fn rename_history(&self, replid: ReplicationId) {
        let mut state = self.state.lock();
        if !state.history.contains(&replid) {
            state.history.push(replid);
        }
    }

    fn hash(&self, database: Database, key: &[u8]) -> u64 {
        self.hasher.hash_one((database.0, key))
    }

    /// A local unit wrote the keys of this command.
    pub fn enter(&self, keys: &KeyTable, database: Database, command: Command<'_>, end: Offset) {
        let mut state = self.state.lock();
        if end <= state.floor {
            return;
        }
        // MOVE writes the key in another database too.
        let other =
            if command.is("MOVE") || command.is("COPY") { other_database(command) } else { None };
        keys.each_key(command, |key| {
            for database in std::iter::once(database).chain(other) {
                let hash = self.hash(database, key);
                state.last.insert(hash, end);
                state.order.push_back((end, hash));
            }
        });
        while state.order.len() > MAX_KEYS {
            if !state.overflown {
                state.overflown = true;
                warn!(keys = MAX_KEYS, "more keys were written than are remembered for the peer");
            }
            state.forget_oldest();
        }
    }

    /// The stream of the local Redis was read up to here.
    pub fn scanned(&self, to: Offset) {
        self.scanned.send_replace(to);
    }

    /// Waits until the stream of the local Redis was read up to `to`; whether it was in time.
    pub async fn caught_up(&self, to: Offset, limit: Duration) -> bool {
        let mut scanned = self.scanned.subscribe();
        timeout(limit, scanned.wait_for(|scanned| *scanned >= to)).await.is_ok()
    }

    /// The peer has seen all local units up to here; or it gets a snapshot of this moment, so that
    /// none of them will reach it as a unit.
    pub fn seen(&self, position: Position) {
        let mut state = self.state.lock();
        if !state.history.contains(&position.replid) {
            return;
        }
        state.overflown = false;
        state.floor = state.floor.max(position.offset);
        while state.order.front().is_some_and(|(end, _)| *end <= position.offset) {
            state.forget_oldest();
        }
    }

    /// Whether local clients wrote the key and the peer has not seen that.
    pub fn contains(&self, database: Database, key: &[u8]) -> bool {
        self.state.lock().last.contains_key(&self.hash(database, key))
    }

    /// How many keys, at most.
    pub fn len(&self) -> usize {
        self.state.lock().last.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn forget_oldest(&mut self) {
        if let Some((end, hash)) = self.order.pop_front()
            && self.last.get(&hash) == Some(&end)
        {
            self.last.remove(&hash);
        }
    }
}

/// The target of `MOVE key db` and `COPY from to DB db`.
fn other_database(command: Command<'_>) -> Option<Database> {
    let at = if command.is("MOVE") {
        2
    } else {
        command.args().position(|arg| arg.eq_ignore_ascii_case(b"DB"))? + 1
    };
    std::str::from_utf8(command.arg(at)).ok()?.parse().ok().map(Database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Scanner, put_command};

    fn enter(unseen: &Unseen, line: &str, end: u64) {
        let mut out = Vec::new();
        put_command(&mut out, &line.split(' ').collect::<Vec<_>>());
        let mut scanner = Scanner::new(Limits::STREAM);
        let command = scanner.scan(&out).unwrap().unwrap();
        unseen.enter(&KeyTable::default(), Database(0), command, Offset(end));
    }

    #[test]
    fn a_key_is_unseen_until_its_last_write_is_seen() {
        let unseen = Unseen::new();
        let at =
            |offset| Position { replid: "a".repeat(40).parse().unwrap(), offset: Offset(offset) };
        unseen.begin_history(at(0));
        enter(&unseen, "INCR k", 10);
        enter(&unseen, "INCR other", 20);
        enter(&unseen, "INCR k", 30);
        unseen.seen(at(20));
        assert!(unseen.contains(Database(0), b"k") && !unseen.contains(Database(0), b"other"));
        assert!(!unseen.contains(Database(1), b"k"));
        // Of another history: it says nothing.
        unseen.seen(Position { replid: ReplicationId::random(), offset: Offset(99) });
        assert!(unseen.contains(Database(0), b"k"));
        unseen.seen(at(30));
        assert!(unseen.is_empty());
        enter(&unseen, "MOVE k 5", 40);
        assert!(unseen.contains(Database(5), b"k"));
        unseen.seen(at(60));
        enter(&unseen, "INCR early", 60);
        assert!(unseen.is_empty(), "seen before it was entered");
        enter(&unseen, "INCR k", 70);
        unseen.begin_history(at(50));
        assert!(unseen.is_empty());
    }
}
