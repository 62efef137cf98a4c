//! The keys whose state the primary must send, each once until it is read.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::unit::Key;
use crate::position::Offset;

/// While so many keys wait to be read, nothing of the peer is applied: reading must keep up.
const ENOUGH: usize = 64 * 1024;

/// The queue, shared by those who find conflicts and the one who reads keys.
#[derive(Debug, Default)]
pub struct Repairs {
    state: Mutex<State>,
    more: Notify,
    less: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Waiting, or being read; with what the peer had seen when the conflict was found.
    open: HashMap<Key, Offset, RandomState>,
    waiting: VecDeque<Key>,
}

impl Repairs {
    /// The key must be read, if that is not under way.
    pub fn ask(&self, key: Key, seen: Offset) {
        let mut state = self.state.lock();
        if let Some(since) = state.open.get_mut(&key) {
            *since = seen.min(*since);
            return;
        }
        state.waiting.push_back(key.clone());
        state.open.insert(key, seen);
        self.more.notify_one();
    }

    /// Waits for keys, and takes up to `count`. Cancel safe.
    pub async fn take(&self, count: usize) -> Vec<Key> {
        loop {
            let more = self.more.notified();
            let keys = self.take_now(count);
            if !keys.is_empty() {
                return keys;
            }
            more.await;
        }
    }

    /// Takes up to `count` keys that wait.
    pub fn take_now(&self, count: usize) -> Vec<Key> {
        let mut state = self.state.lock();
        let count = count.min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// The read failed: they are read again.
    pub fn again(&self, keys: &[Key]) {
        let mut state = self.state.lock();
        for key in keys {
            if state.open.contains_key(key) {
                state.waiting.push_back(key.clone());
            }
        }
        self.more.notify_one();
    }

    /// The stream broke: marks of reads that were under way may never come by, so all keys are read
    /// again. In a new history that begins at `seen` the peer had seen that.
    pub fn begin_again(&self, seen: Option<Offset>) {
        let mut state = self.state.lock();
        state.waiting = state.open.keys().cloned().collect();
        if let Some(seen) = seen {
            state.open.values_mut().for_each(|since| *since = seen);
        }
        self.more.notify_one();
    }

    /// The mark of their read came by in the stream: what is found from now on is read anew.
    pub fn read(&self, keys: &[Key]) {
        let mut state = self.state.lock();
        for key in keys {
            state.open.remove(key);
        }
        self.less.notify_waiters();
    }

    /// Whether the key is waiting or being read.
    pub fn is_open(&self, key: &Key) -> bool {
        self.state.lock().open.contains_key(key)
    }

    /// The least that the peer had seen at the conflicts that are open.
    pub fn since(&self) -> Option<Offset> {
        self.state.lock().open.values().min().copied()
    }

    /// Keys that are waiting or being read.
    pub fn len(&self) -> usize {
        self.state.lock().open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits while too many keys wait. Cancel safe.
    pub async fn room(&self) {
        loop {
            let less = self.less.notified();
            tokio::pin!(less);
            less.as_mut().enable();
            if self.len() < ENOUGH {
                return;
            }
            less.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Database;

    #[tokio::test]
    async fn a_key_is_read_once_until_its_read_came_by() {
        let repairs = Repairs::default();
        let key = |name: &'static str| Key { database: Database(0), name: name.into() };
        repairs.ask(key("a"), Offset(9));
        repairs.ask(key("b"), Offset(5));
        repairs.ask(key("a"), Offset(7));
        assert_eq!(repairs.take(10).await, [key("a"), key("b")]);
        repairs.ask(key("a"), Offset(8));
        assert_eq!((repairs.len(), repairs.since()), (2, Some(Offset(5))));
        repairs.again(&[key("b")]);
        assert_eq!(repairs.take(10).await, [key("b")]);
        repairs.read(&[key("b")]);
        assert_eq!(repairs.since(), Some(Offset(7)));
        repairs.read(&[key("a")]);
        repairs.ask(key("a"), Offset(11));
        assert_eq!(repairs.take(1).await, [key("a")]);
    }
}
