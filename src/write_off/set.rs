//! The write-off set: the tags of batches that were sent and have not come back yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::Tag;
use crate::conflict::{Key, RemoteUnit};
use crate::position::{Position, SiteName};

/// Most tags in flight, unless the configuration says otherwise. Far above what batches in flight
/// need (a few for each link and connection), so it is reached only when the stream stands still.
const MAX_PENDING: usize = 64 * 1024;
/// Batches of unknown fate that are remembered: a broken connection leaves two, and the mark of
/// one comes before the next connection's first.
const MAX_ABANDONED: usize = 64;
/// A tag older than this is an alarm.
const OLD: Duration = Duration::from_mins(1);

/// What a batch holds.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A peer's units, up to this position; none while a snapshot is applied.
    Link {
        /// The peer.
        site: SiteName,
        /// Where its last unit in the batch ends.
        position: Option<Position>,
        /// The units, as far as conflicts go.
        units: Arc<[Arc<RemoteUnit>]>,
    },
    /// The state of keys that is to be sent to a peer.
    Read(Arc<KeyRead>),
    /// What came in through the listen port.
    Endpoint,
}

/// Keys that are read in a marked transaction, and what was found, when its reply comes.
#[derive(Debug)]
pub struct KeyRead {
    /// The peer that is to get their state.
    pub site: SiteName,
    /// The keys.
    pub keys: Vec<Key>,
    /// Commands that bring about what was found.
    pub commands: watch::Receiver<Option<Bytes>>,
}

#[derive(Debug)]
struct Pending {
    origin: Origin,
    since: Instant,
}

/// What a mark in the stream turned out to be.
#[derive(Debug)]
pub enum Settled {
    /// A batch of this session, which took so long to come back.
    Ours(Origin, Duration),
    /// A batch of an earlier session, or one that was given up. An echo all the same.
    Earlier,
}

/// Numbers for people and metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOffStatus {
    /// Tags in the set.
    pub pending: usize,
    /// How many there may be.
    pub max_pending: usize,
    /// Age of the oldest.
    pub oldest: Duration,
    /// Whether that is an alarm.
    pub alarm: bool,
    /// Tags given out.
    pub issued: u64,
    /// Batches written off.
    pub settled: u64,
    /// Marks whose tag was not in the set.
    pub earlier: u64,
    /// Tags taken out because their batch failed or its fate is unknown.
    pub given_up: u64,
}

/// The set, shared by all who write into the local Redis and the filter that reads its stream.
#[derive(Debug)]
pub struct WriteOffSet {
    session: u64,
    sequence: AtomicU64,
    pending: DashMap<Tag, Pending, RandomState>,
    /// Of batches whose fate was unknown when their connection broke, the oldest first.
    abandoned: Mutex<VecDeque<(Tag, Pending)>>,
    room: Semaphore,
    max_pending: usize,
    settled: AtomicU64,
    earlier: AtomicU64,
    given_up: AtomicU64,
}

impl WriteOffSet {
    /// An empty set of a new session.
    pub fn new() -> Arc<Self> {
        Self::bounded(MAX_PENDING)
    }

    /// Likewise, for this many tags.
    pub fn bounded(max_pending: usize) -> Arc<Self> {
        Arc::new(Self {
            session: rand::random(),
            sequence: AtomicU64::new(0),
            pending: DashMap::with_hasher(RandomState::default()),
            abandoned: Mutex::default(),
            room: Semaphore::new(max_pending),
            max_pending,
            settled: AtomicU64::new(0),
            earlier: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        })
    }

    /// A new tag, entered into the set. Waits while the set is full. Call before sending.
    pub async fn issue(&self, origin: Origin) -> Tag {
        if let Ok(permit) = self.room.acquire().await {
            permit.forget();
        }
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let tag = Tag { session: self.session, sequence };
        self.pending.insert(tag, Pending { origin, since: Instant::now() });
        tag
    }

    /// The mark with this tag was seen in the stream.
    pub fn settle(&self, tag: Tag) -> Settled {
        let pending = if let Some((_, pending)) = self.pending.remove(&tag) {
            self.room.add_permits(1);
            self.settled.fetch_add(1, Ordering::Relaxed);
            pending
        } else {
            self.earlier.fetch_add(1, Ordering::Relaxed);
            let mut abandoned = self.abandoned.lock();
            let Some(at) = abandoned.iter().position(|(other, _)| *other == tag) else {
                return Settled::Earlier;
            };
            let Some((_, pending)) = abandoned.remove(at) else { return Settled::Earlier };
            pending
        };
        Settled::Ours(pending.origin, pending.since.elapsed())
    }

    /// The batch was refused: its mark never comes.
    pub fn give_up(&self, tag: Tag) {
        drop(self.take_out(tag));
    }

    /// The batch's connection broke: its mark may never come. If it does, it is still an echo, and
    /// what the batch holds is remembered for a while.
    pub fn abandon(&self, tag: Tag) {
        if let Some(pending) = self.take_out(tag) {
            let mut abandoned = self.abandoned.lock();
            if abandoned.len() == MAX_ABANDONED {
                abandoned.pop_front();
            }
            abandoned.push_back((tag, pending));
        }
    }

    fn take_out(&self, tag: Tag) -> Option<Pending> {
        let (_, pending) = self.pending.remove(&tag)?;
        self.room.add_permits(1);
        self.given_up.fetch_add(1, Ordering::Relaxed);
        Some(pending)
    }

    /// The stream broke off and begins anew at another place: no mark that is out now will come.
    pub fn give_up_all(&self) {
        let tags: Vec<Tag> = self.pending.iter().map(|entry| *entry.key()).collect();
        for tag in tags {
            self.give_up(tag);
        }
    }

    /// Where it stands. Walks the whole set for the oldest tag: for people, not for hot paths.
    pub fn status(&self) -> WriteOffStatus {
        let oldest = self.pending.iter().map(|entry| entry.since.elapsed()).max();
        let oldest = oldest.unwrap_or_default();
        WriteOffStatus {
            pending: self.pending.len(),
            max_pending: self.max_pending,
            oldest,
            alarm: oldest > OLD,
            issued: self.sequence.load(Ordering::Relaxed),
            settled: self.settled.load(Ordering::Relaxed),
            earlier: self.earlier.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_tag_is_settled_once() {
        let set = WriteOffSet::new();
        let first = set.issue(Origin::Endpoint).await;
        let second = set.issue(Origin::Endpoint).await;
        assert_ne!(first, second);
        assert!(matches!(set.settle(first), Settled::Ours(Origin::Endpoint, _)));
        assert!(matches!(set.settle(first), Settled::Earlier));
        set.give_up(second);
        assert!(matches!(set.settle(second), Settled::Earlier));
        let status = set.status();
        assert_eq!((status.pending, status.issued, status.settled), (0, 2, 1));
        assert_eq!((status.earlier, status.given_up), (2, 1));
    }

    #[tokio::test]
    async fn what_an_abandoned_batch_holds_is_known_if_its_mark_comes() {
        let set = WriteOffSet::new();
        let tag = set.issue(Origin::Endpoint).await;
        set.abandon(tag);
        assert_eq!((set.status().pending, set.status().given_up), (0, 1));
        assert!(matches!(set.settle(tag), Settled::Ours(Origin::Endpoint, _)));
        assert!(matches!(set.settle(tag), Settled::Earlier));
        for _ in 0..=MAX_ABANDONED {
            set.abandon(set.issue(Origin::Endpoint).await);
        }
        assert_eq!(set.abandoned.lock().len(), MAX_ABANDONED);
    }

    #[tokio::test]
    async fn a_full_set_makes_writers_wait() {
        let set = WriteOffSet::bounded(100);
        let mut last = None;
        for _ in 0..set.status().max_pending {
            last = Some(set.issue(Origin::Endpoint).await);
        }
        let waiting = set.issue(Origin::Endpoint);
        tokio::pin!(waiting);
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, &mut waiting).await.is_err());
        set.settle(last.unwrap());
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.is_ok());
    }
}
