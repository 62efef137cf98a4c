//! What the two directions between this site and a peer must know of each other.
//!
//! A full sync only adds and replaces, so it makes both sites equal only if it goes both ways: what
//! forces one direction into a full sync forces the other too. And a snapshot for the peer should
//! be cut before the peer's own snapshot is applied here: else it brings back to the peer, late,
//! what the peer may have deleted meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::conflict::Conflicts;
use crate::position::{LinkSession, SiteName};

/// How long the feed lets the link go first. Then it goes on alone: the peer's port may be out of
/// reach from here.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the link waits for a snapshot of the feed to be cut (a fork, and up to 5 s of
/// `repl-diskless-sync-delay`).
const CUT_PATIENCE: Duration = Duration::from_mins(1);

/// How far our link is with its full sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has none to take, as far as is known.
    None,
    /// It has asked for one in this session.
    Asked(LinkSession),
    /// The peer's snapshot is being taken, or was.
    Begun {
        /// The peer cut it after it had heard, or had been about to hear, of this session of its
        /// own link.
        pair: Option<LinkSession>,
        /// Units came before it.
        behind_units: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct FullSync {
    progress: Progress,
    /// Our link is to take one.
    demanded: bool,
    /// By our feed, since the peer's link takes one.
    told: bool,
    /// The link's session.
    session: LinkSession,
}

/// Shared by the link to a peer and the feed that serves this peer.
#[derive(Debug)]
pub struct Pairing {
    /// The peer.
    pub site: SiteName,
    /// What both sites may have written at once.
    pub conflicts: Arc<Conflicts>,
    full_sync: watch::Sender<FullSync>,
    /// Snapshots that the feed is about to cut for the peer.
    cutting: watch::Sender<usize>,
    /// The session of the peer's link that the last snapshot was cut for.
    cut_for: watch::Sender<Option<LinkSession>>,
    hurry: Notify,
}

impl Pairing {
    /// With this peer.
    pub fn new(site: SiteName, conflicts: Arc<Conflicts>) -> Arc<Self> {
        Arc::new(Self {
            site,
            conflicts,
            full_sync: watch::Sender::new(FullSync {
                progress: Progress::None,
                demanded: false,
                told: false,
                session: LinkSession(0),
            }),
            cutting: watch::Sender::new(0),
            cut_for: watch::Sender::new(None),
            hurry: Notify::new(),
        })
    }

    /// Link: it asks the peer, for a full sync or for less.
    pub fn session_begun(&self, session: LinkSession, full_sync: bool) {
        self.full_sync.send_modify(|now| {
            now.session = session;
            if full_sync {
                now.progress = Progress::Asked(session);
            }
        });
    }

    /// Link: the peer gives it a full sync, asked for or not.
    pub fn full_sync_comes(&self) {
        self.full_sync.send_modify(|now| now.progress = Progress::Asked(now.session));
    }

    /// Link: its session is over.
    pub fn session_ended(&self) {
        self.full_sync.send_modify(|now| now.progress = Progress::None);
    }

    /// Link: the peer's snapshot comes, and names the session of ours that the peer's own link is
    /// answered with. Waits until what is to be cut for the peer before that is cut.
    pub async fn full_sync_begun(&self, pair: Option<LinkSession>, behind_units: bool) {
        let progress = Progress::Begun { pair, behind_units };
        self.full_sync.send_modify(|now| {
            (now.progress, now.demanded, now.told) = (progress, false, false);
        });
        // A feed that takes too long, or is not asked after all, must not hold up this direction.
        let _ = timeout(CUT_PATIENCE, async {
            let mut cutting = self.cutting.subscribe();
            if pair.is_some() {
                let mut cut_for = self.cut_for.subscribe();
                let asked = timeout(PATIENCE, cutting.wait_for(|count| *count > 0));
                tokio::select! {
                    _ = cut_for.wait_for(|cut| *cut == pair) => return,
                    _ = asked => {}
                }
            }
            let _ = cutting.wait_for(|count| *count == 0).await;
        })
        .await;
    }

    /// Feed: the peer's link asks for a full sync in this session, and nobody told it to. Demands
    /// one of our link too, unless that is on its way; then lets it ask first, for a while. The
    /// session in which it has asked, if it has.
    pub async fn pair(&self, theirs: LinkSession, told: bool) -> Option<LinkSession> {
        let now = self.full_sync.borrow().progress;
        let on_its_way = match now {
            Progress::Asked(_) => true,
            Progress::Begun { pair, .. } => pair == Some(theirs),
            Progress::None => false,
        };
        if !told && !on_its_way {
            self.demand_full_sync();
        }
        self.hurry.notify_one();
        let mut full_sync = self.full_sync.subscribe();
        let asked = full_sync.wait_for(|now| now.progress != Progress::None);
        // Running out of patience is no error.
        let _ = timeout(PATIENCE, asked).await;
        match self.full_sync.borrow().progress {
            Progress::Asked(session) => Some(session),
            Progress::None | Progress::Begun { .. } => None,
        }
    }

    /// Feed: whether the peer's snapshot came to our link at once, without units before it.
    pub fn had_no_units(&self) -> bool {
        let now = self.full_sync.borrow().progress;
        matches!(now, Progress::Begun { behind_units: false, .. })
    }

    /// Link: ends a wait before the next try when the feed asks for it. Cancel safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Feed: the link must take a full sync too.
    fn demand_full_sync(&self) {
        self.demand(true);
    }

    /// Both links must take a full sync: ours asks as if it had nothing.
    pub fn begin_anew(&self) {
        self.demand(false);
    }

    fn demand(&self, told: bool) {
        self.full_sync.send_modify(|now| {
            (now.progress, now.demanded, now.told) = (Progress::None, true, told);
        });
    }

    /// Link: waits until its session must be begun anew, for a full sync. Cancel safe.
    pub async fn restarted(&self) {
        let mut full_sync = self.full_sync.subscribe();
        // The sender lives as long as this.
        let _ = full_sync
            .wait_for(|now| now.demanded && !matches!(now.progress, Progress::Asked(_)))
            .await;
    }

    /// Link: whether a full sync was demanded since the last one.
    pub fn is_full_sync_demanded(&self) -> bool {
        self.full_sync.borrow().demanded
    }

    /// Link: whether that was since the peer's link takes one.
    pub fn is_told(&self) -> bool {
        self.full_sync.borrow().told
    }

    /// Feed: a snapshot is about to be cut for this session of the peer's link.
    pub fn cut(self: &Arc<Self>, session: LinkSession) -> Cut {
        self.cutting.send_modify(|count| *count += 1);
        Cut { pairing: self.clone(), session }
    }
}

/// Stands while a snapshot for the peer is about to be cut.
#[derive(Debug)]
pub struct Cut {
    pairing: Arc<Pairing>,
    session: LinkSession,
}

impl Cut {
    /// The snapshot is cut.
    pub fn done(self) {
        self.pairing.cut_for.send_replace(Some(self.session));
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.pairing.cutting.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::config::Policy;

    fn pairing() -> Arc<Pairing> {
        Pairing::new("b".parse().unwrap(), Conflicts::new(Policy::Converge, true, 9))
    }

    /// Sites `a` and `b` begin together; the snapshot for `b` is there before the feed of `b` has
    /// heard of the question of `a`.
    #[tokio::test]
    async fn two_sites_that_begin_together_take_one_full_sync_each() {
        let (at_a, at_b) = (pairing(), pairing());
        let (of_a, of_b) = (LinkSession(1), LinkSession(2));
        at_b.session_begun(of_b, true);
        at_a.session_begun(of_a, true);
        let cut = at_a.cut(of_b);
        assert_eq!(at_a.pair(of_b, false).await, Some(of_a));
        cut.done();
        let begun = async {
            at_b.full_sync_begun(Some(of_a), false).await;
            // Its entries waited until the snapshot for the other was cut.
            assert_eq!(*at_b.cut_for.borrow(), Some(of_a));
        };
        let asked = async {
            while at_b.full_sync.borrow().progress == Progress::Asked(of_b) {
                yield_now().await;
            }
            let cut = at_b.cut(of_a);
            assert_eq!(at_b.pair(of_a, false).await, None);
            cut.done();
        };
        tokio::join!(begun, asked);
        assert!(!at_a.is_full_sync_demanded() && !at_b.is_full_sync_demanded());
    }

    #[tokio::test]
    async fn one_that_begins_later_makes_the_other_begin_anew() {
        let pairing = pairing();
        pairing.session_begun(LinkSession(1), true);
        pairing.full_sync_begun(None, false).await;
        assert!(!pairing.is_full_sync_demanded());
        let again = async {
            pairing.restarted().await;
            pairing.session_ended();
            assert!(pairing.is_full_sync_demanded());
            pairing.session_begun(LinkSession(3), true);
        };
        let (paired, ()) = tokio::join!(pairing.pair(LinkSession(2), false), again);
        assert_eq!(paired, Some(LinkSession(3)));
        // What is asked for needs no demand, and what the peer was told to do asks for none.
        assert_eq!(pairing.pair(LinkSession(4), false).await, Some(LinkSession(3)));
        pairing.full_sync_begun(None, false).await;
        assert_eq!(pairing.pair(LinkSession(5), true).await, None);
        assert!(!pairing.is_full_sync_demanded());
    }
}
