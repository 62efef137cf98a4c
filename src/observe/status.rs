//! The numbers that the stages keep while they work; read by inspection commands and metrics.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::unix_millis;
use crate::position::{FollowerOffset, Position, SiteName};

/// Most problems that are remembered; older ones are only counted.
const REMEMBERED_PROBLEMS: usize = 128;

/// What the source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// On its way to the local Redis; why it was not there before, if it failed.
    Connecting(String),
    /// Waiting for a snapshot to pass, since Redis could not continue.
    Resyncing,
    /// Reading the stream.
    Online,
}

/// The source's numbers.
#[derive(Debug)]
pub struct SourceStatus {
    state: Mutex<SourceState>,
    /// Attached without a snapshot, from the current end of the stream.
    pub attached_free: AtomicU64,
    /// Attached where it had left off.
    pub attached_again: AtomicU64,
    /// Attached by a full resync.
    pub attached_full: AtomicU64,
    /// Local units taken.
    pub local_units: AtomicU64,
    /// Bytes of local units.
    pub local_bytes: AtomicU64,
    /// Batches of ours written off.
    pub echoes: AtomicU64,
    /// All bytes of the stream.
    pub stream_bytes: AtomicU64,
    /// Size of the local Redis's backlog; 0 before it is known.
    pub backlog_bytes: AtomicU64,
    /// Bytes written to its stream in the busiest minute since the start.
    pub busiest_minute_bytes: AtomicU64,
}

impl Default for SourceStatus {
    fn default() -> Self {
        Self {
            state: Mutex::new(SourceState::Connecting(String::new())),
            attached_free: AtomicU64::new(0),
            attached_again: AtomicU64::new(0),
            attached_full: AtomicU64::new(0),
            local_units: AtomicU64::new(0),
            local_bytes: AtomicU64::new(0),
            echoes: AtomicU64::new(0),
            stream_bytes: AtomicU64::new(0),
            backlog_bytes: AtomicU64::new(0),
            busiest_minute_bytes: AtomicU64::new(0),
        }
    }
}

impl SourceStatus {
    /// Whether more was written within a minute than the backlog holds: a break of so long would
    /// end in a full sync.
    pub fn is_backlog_small(&self) -> bool {
        let size = self.backlog_bytes.load(Ordering::Relaxed);
        size > 0 && self.busiest_minute_bytes.load(Ordering::Relaxed) > size
    }

    /// What it is doing.
    pub fn state(&self) -> SourceState {
        self.state.lock().clone()
    }

    /// It does something else now.
    pub fn set_state(&self, state: SourceState) {
        *self.state.lock() = state;
    }
}

/// What a link is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// On its way to the peer or to the local Redis; what failed before, if something did.
    Connecting(String),
    /// Taking over the peer's snapshot.
    FullSync,
    /// Applying units.
    Streaming,
    /// Applying is held up by the local Redis, which says this; it is tried again and again.
    Waiting(String),
    /// Ended by `DUPLEX PAUSE`.
    Paused,
    /// Given up until a person acts; why and what to do.
    Stopped(String),
}

/// How far a full sync is.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it began.
    pub since: Instant,
    /// Bytes read.
    pub bytes: u64,
    /// Keys read.
    pub keys: u64,
    /// Keys that the peer had when it began.
    pub expected_keys: u64,
    /// Whether it is all applied.
    pub done: bool,
}

/// A link's numbers.
#[derive(Debug)]
pub struct LinkStatus {
    /// The peer.
    pub site: SiteName,
    /// Its sidecar.
    pub addr: String,
    state: Mutex<LinkState>,
    checkpoint: Mutex<Option<Position>>,
    snapshot: Mutex<Option<Snapshot>>,
    /// Sessions begun.
    pub connects: AtomicU64,
    /// Full syncs begun.
    pub full_syncs: AtomicU64,
    /// Units applied.
    pub units: AtomicU64,
    /// Commands applied.
    pub commands: AtomicU64,
    /// Bytes of the commands applied.
    pub bytes: AtomicU64,
    /// Batches applied.
    pub batches: AtomicU64,
    /// Batches sent again because the local Redis refused them for the moment.
    pub retries: AtomicU64,
    /// Commands that the local Redis refused for good.
    pub errors: AtomicU64,
    /// The peer's clock at the last unit or heartbeat that is applied, in unix milliseconds.
    pub applied_at: AtomicU64,
    /// The peer's stream offset as it told last.
    pub peer_offset: AtomicU64,
    /// How far the peer's clock is ahead of ours, in milliseconds, by its last heartbeat.
    pub clock_skew_millis: AtomicI64,
    /// Bytes received and not yet applied, as of the last frame from the peer.
    pub queued_bytes: AtomicU64,
    /// How much of that there may be.
    pub queue_max_bytes: u64,
}

impl LinkStatus {
    /// Of a link that has not begun.
    pub fn new(site: SiteName, addr: String, queue_max_bytes: u64) -> Self {
        Self {
            site,
            addr,
            state: Mutex::new(LinkState::Connecting(String::new())),
            checkpoint: Mutex::new(None),
            snapshot: Mutex::new(None),
            connects: AtomicU64::new(0),
            full_syncs: AtomicU64::new(0),
            units: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            applied_at: AtomicU64::new(0),
            peer_offset: AtomicU64::new(0),
            clock_skew_millis: AtomicI64::new(0),
            queued_bytes: AtomicU64::new(0),
            queue_max_bytes,
        }
    }

    /// What it is doing.
    pub fn state(&self) -> LinkState {
        self.state.lock().clone()
    }

    /// It does something else now.
    pub fn set_state(&self, state: LinkState) {
        *self.state.lock() = state;
    }

    /// Up to where the peer's units are applied.
    pub fn checkpoint(&self) -> Option<Position> {
        *self.checkpoint.lock()
    }

    /// Sets up to where the peer's units are applied.
    pub fn set_checkpoint(&self, position: Option<Position>) {
        *self.checkpoint.lock() = position;
    }

    /// The last full sync.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.lock().clone()
    }

    /// Changes what is told of the full sync.
    pub fn update_snapshot(&self, change: impl FnOnce(&mut Option<Snapshot>)) {
        change(&mut self.snapshot.lock());
    }

    /// How far behind the peer we are, in milliseconds, by the last that is applied; none before
    /// anything was.
    pub fn lag_millis(&self) -> Option<u64> {
        match self.applied_at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(unix_millis().saturating_sub(at)),
        }
    }
}

/// A connection that reads from us: a follower or a peer.
#[derive(Debug)]
pub struct FollowerStatus {
    /// Its address.
    pub addr: String,
    /// `replica` or `link <site>`.
    pub kind: String,
    /// Followers: up to where it was sent bytes. Links: unused.
    pub sent: AtomicU64,
    /// Followers: what it acknowledged.
    pub acknowledged: AtomicU64,
}

impl FollowerStatus {
    /// Whether it counts bytes: a replica or a syncer, no peer.
    pub fn is_follower(&self) -> bool {
        !self.kind.starts_with("link ")
    }

    /// What was sent, as an offset.
    pub fn sent(&self) -> FollowerOffset {
        FollowerOffset(self.sent.load(Ordering::Relaxed))
    }
}

/// Something that a person should know of.
#[derive(Clone, Debug)]
pub struct Problem {
    /// When, in unix milliseconds.
    pub at: u64,
    /// Where: `link b`, `source`, ...
    pub place: String,
    /// What.
    pub text: String,
}

/// The last problems, and how many there were.
#[derive(Debug, Default)]
pub struct Problems {
    last: Mutex<VecDeque<Problem>>,
    total: AtomicU64,
}

impl Problems {
    /// Remembers one.
    pub fn add(&self, place: impl Into<String>, text: impl Into<String>) {
        let mut last = self.last.lock();
        if last.len() == REMEMBERED_PROBLEMS {
            last.pop_front();
        }
        last.push_back(Problem { at: unix_millis(), place: place.into(), text: text.into() });
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    /// The newest, newest first.
    pub fn newest(&self, count: usize) -> Vec<Problem> {
        self.last.lock().iter().rev().take(count).cloned().collect()
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}
