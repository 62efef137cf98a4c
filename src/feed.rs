//! The sidecar as a master: to replicas and syncers, which count bytes, and to peers, which know
//! positions.

mod follower;
mod peer;
mod snapshot;
mod spool;

#[cfg(test)]
pub(crate) use peer::newest;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use spool::Snapshots;

use crate::backlog::Backlog;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::observe::{FollowerStatus, Problems};
use crate::pairing::Pairing;
use crate::position::SiteName;
use crate::redis::Target;

/// All who read from us at the moment.
pub type Followers = Arc<Mutex<Vec<Arc<FollowerStatus>>>>;

/// What the feed serves from.
#[derive(Debug)]
pub struct Feed {
    /// This site.
    pub site: SiteName,
    /// The site whose data wins.
    pub primary: Option<SiteName>,
    /// The local Redis, for snapshots that peers ask for.
    pub target: Target,
    /// Snapshots for followers.
    pub snapshots: Snapshots,
    /// The site's history.
    pub journal: Arc<Journal>,
    /// For what the journal lacks.
    pub backlog: Backlog,
    /// The site's clock, for heartbeats.
    pub clock: Arc<Clock>,
    /// The peers, with what both directions know of each other.
    pub peers: HashMap<SiteName, Arc<Pairing>>,
    /// Who reads from us.
    pub followers: Followers,
    /// Where problems are told.
    pub problems: Arc<Problems>,
    /// How often peers are told that we are there.
    pub heartbeat: Duration,
    /// After how long a silent peer is given up.
    pub timeout: Duration,
}

/// Stands in the list of who reads from us for as long as it lives.
#[derive(Debug)]
struct Entered {
    followers: Followers,
    status: Arc<FollowerStatus>,
}

impl Feed {
    fn enter(&self, addr: String, kind: String) -> Entered {
        let status =
            Arc::new(FollowerStatus { addr, kind, sent: 0.into(), acknowledged: 0.into() });
        self.followers.lock().push(status.clone());
        Entered { followers: self.followers.clone(), status }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.followers.lock().retain(|other| !Arc::ptr_eq(other, &self.status));
    }
}
