//! What the two directions between this site and a peer must know of each other.
//!
//! A full sync only adds and replaces, so it makes both sites equal only if it goes both ways: what
//! forces one direction into a full sync forces the other too. And a snapshot for the peer should
//! be cut before the peer's own snapshot is applied here: else it brings back to the peer, late,
//! what the peer may have deleted meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::conflict::Unseen;
use crate::position::SiteName;

/// How long the feed lets the link go first. Then it goes on alone: the peer's port may be out of
/// reach from here.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the link waits for a snapshot of the feed to be cut (a fork, and up to 5 s of
/// `repl-diskless-sync-delay`).
const CUT_PATIENCE: Duration = Duration::from_mins(1);

/// Shared by the link to a peer and the feed that serves this peer.
#[derive(Debug)]
pub struct Pairing {
    /// The peer.
    pub site: SiteName,
    /// Local writes that the peer has not seen.
    pub unseen: Arc<Unseen>,
    /// The link has put its question to the peer in its present session.
    asked: watch::Sender<bool>,
    /// Snapshots that the feed is about to cut for the peer.
    cutting: watch::Sender<usize>,
    full_sync: AtomicBool,
    restart: Notify,
    hurry: Notify,
}

impl Pairing {
    /// With this peer.
    pub fn new(site: SiteName) -> Arc<Self> {
        Arc::new(Self {
            site,
            unseen: Unseen::new(),
            asked: watch::Sender::new(false),
            cutting: watch::Sender::new(0),
            full_sync: AtomicBool::new(false),
            restart: Notify::new(),
            hurry: Notify::new(),
        })
    }

    /// The link has, or no longer has, a question or a session with the peer.
    pub fn set_asked(&self, asked: bool) {
        self.asked.send_replace(asked);
    }

    /// Feed: lets the link put its own question first, for a while.
    pub async fn let_link_ask(&self) {
        self.hurry.notify_one();
        let mut asked = self.asked.subscribe();
        // Running out of patience is no error.
        let _ = timeout(PATIENCE, asked.wait_for(|asked| *asked)).await;
    }

    /// Link: ends a wait before the next try when the feed asks for it. Cancel safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Feed: the link must take a full sync too.
    pub fn demand_full_sync(&self) {
        self.full_sync.store(true, Ordering::Relaxed);
        self.restart.notify_one();
    }

    /// Link: waits until its session must be begun anew. Cancel safe.
    pub async fn restarted(&self) {
        self.restart.notified().await;
    }

    /// Link: whether a full sync was demanded since the last one.
    pub fn is_full_sync_demanded(&self) -> bool {
        self.full_sync.load(Ordering::Relaxed)
    }

    /// Link: the full sync has begun for good.
    pub fn full_sync_begun(&self) {
        self.full_sync.store(false, Ordering::Relaxed);
    }

    /// Feed: a snapshot is about to be cut, until the guard is dropped.
    pub fn cut(self: &Arc<Self>) -> Cut {
        self.cutting.send_modify(|count| *count += 1);
        Cut(self.clone())
    }

    /// Link: waits until no snapshot for the peer is about to be cut.
    pub async fn snapshots_cut(&self) {
        let mut cutting = self.cutting.subscribe();
        // A feed that takes too long must not hold up this direction.
        let _ = timeout(CUT_PATIENCE, cutting.wait_for(|count| *count == 0)).await;
    }
}

/// Stands while a snapshot for the peer is about to be cut.
#[derive(Debug)]
pub struct Cut(Arc<Pairing>);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cutting.send_modify(|count| *count -= 1);
    }
}
