//! What people can see of conflicts: counters, and the last ones one by one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::table::{Found, Why};
use crate::clock::unix_millis;

/// Conflicts remembered one by one.
const REMEMBERED: usize = 256;

/// Who won at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// A newer local write.
    Local,
    /// The peer's write left nothing of ours.
    Remote,
    /// Both, in the primary's order.
    Both,
}

/// One conflict.
#[derive(Debug, Clone)]
pub struct Conflict {
    /// When it was found, in unix milliseconds.
    pub at: u64,
    /// The key and its database.
    pub key: String,
    /// What this site did.
    pub local: &'static str,
    /// What the peer did.
    pub remote: &'static str,
    /// Who won.
    pub winner: Winner,
    /// Why, for people.
    pub why: &'static str,
}

/// The numbers of one peer's conflicts.
#[derive(Debug, Default)]
pub struct Recent {
    last: Mutex<VecDeque<Conflict>>,
    /// Conflicts found, each key of each unit.
    pub found: AtomicU64,
    /// The peer's write was older than a local one that leaves nothing of it.
    pub rejected_older: AtomicU64,
    /// The peer's delete met a local write.
    pub rejected_deletes: AtomicU64,
    /// The primary's word was outdated when it came.
    pub outdated: AtomicU64,
    /// Keys whose state was journaled.
    pub repaired: AtomicU64,
    /// Bytes of these states.
    pub repaired_bytes: AtomicU64,
}

impl Recent {
    pub(super) fn add(&self, found: &Found, is_primary: bool) {
        self.found.fetch_add(1, Ordering::Relaxed);
        let counter = match found.rejected {
            Some(Why::Older) => Some(&self.rejected_older),
            Some(Why::Deletes) => Some(&self.rejected_deletes),
            Some(Why::Outdated) => Some(&self.outdated),
            None => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if found.remote.is_none() || (found.local.is_none() && found.rejected.is_none()) {
            // Only dragged along.
            return;
        }
        let erases = match (found.remote, found.local) {
            (Some(remote), Some(local)) => remote.erases(local),
            _ => false,
        };
        let (winner, why) = match found.rejected {
            Some(Why::Older) => (Winner::Local, "the local write is newer"),
            Some(Why::Deletes) => (Winner::Local, "a write beats a delete"),
            Some(Why::Outdated) => (Winner::Local, "the primary will hear of the local write"),
            None if !is_primary => (Winner::Both, "the primary decides"),
            None if erases => (Winner::Remote, "the peer's write is newer"),
            None => (Winner::Both, "merged in the primary's order"),
        };
        let name = found.key.name.escape_ascii().to_string();
        let shown: String = name.chars().take(100).collect();
        let mut last = self.last.lock();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(Conflict {
            at: unix_millis(),
            key: format!("{}:{shown}", found.key.database),
            local: found.local.map_or("?", super::Effect::name),
            remote: found.remote.map_or("?", super::Effect::name),
            winner,
            why,
        });
    }

    /// The newest, newest first.
    pub fn newest(&self, count: usize) -> Vec<Conflict> {
        self.last.lock().iter().rev().take(count).cloned().collect()
    }
}
