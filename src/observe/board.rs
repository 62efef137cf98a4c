//! All that can be seen of a site: where its numbers live.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::reading::{
    FollowerReading, JournalReading, LinkReading, PortReading, Reading, SourceReading,
    WriteOffReading,
};
use super::{FollowerStatus, LinkStatus, Problem, Problems, SourceStatus};
use crate::conflict::{Conflict, Conflicts};
use crate::endpoint::PortStatus;
use crate::journal::Journal;
use crate::position::SiteName;
use crate::write_off::WriteOffSet;

/// Where the stages keep their numbers; put together once at the start.
#[derive(Debug)]
pub struct Board {
    /// This site.
    pub site: SiteName,
    /// What it speaks on links.
    pub link_protocol: u32,
    /// The site whose data wins, if there are peers.
    pub primary: Option<SiteName>,
    /// When the sidecar started.
    pub started: Instant,
    /// The journal.
    pub journal: Arc<Journal>,
    /// The write-off set.
    pub write_off: Arc<WriteOffSet>,
    /// The source.
    pub source: Arc<SourceStatus>,
    /// The links, one a peer, and the conflicts with it.
    pub links: Vec<(Arc<LinkStatus>, Arc<Conflicts>)>,
    /// Who reads from us now.
    pub followers: Arc<Mutex<Vec<Arc<FollowerStatus>>>>,
    /// What a person should know of.
    pub problems: Arc<Problems>,
    /// Who is at the port.
    pub port: Arc<PortStatus>,
    /// Most connections there at once.
    pub max_clients: u64,
}

impl Board {
    /// Reads all numbers, now. They are read one after the other while work goes on.
    pub fn read(&self) -> Reading {
        let followers = self.followers.lock().iter().map(|f| FollowerReading::of(f)).collect();
        Reading {
            version: env!("CARGO_PKG_VERSION"),
            link_protocol: self.link_protocol,
            site: self.site.to_string(),
            primary: self.primary.as_ref().map(ToString::to_string).unwrap_or_default(),
            uptime_seconds: self.started.elapsed().as_secs(),
            source: SourceReading::of(&self.source),
            write_off: WriteOffReading::of(&self.write_off),
            journal: JournalReading::of(&self.journal.status()),
            links: self.links.iter().map(|(link, both)| LinkReading::of(link, both)).collect(),
            followers,
            problems: self.problems.total(),
            port: PortReading::of(&self.port, self.max_clients),
        }
    }

    /// The newest conflicts with each peer, newest first.
    pub fn newest_conflicts(&self, count: usize) -> Vec<(SiteName, Conflict)> {
        let of = |(link, both): &(Arc<LinkStatus>, Arc<Conflicts>)| {
            let site = link.site.clone();
            both.recent.newest(count).into_iter().map(move |conflict| (site.clone(), conflict))
        };
        let mut all: Vec<_> = self.links.iter().flat_map(of).collect();
        all.sort_by_key(|(_, conflict)| std::cmp::Reverse(conflict.at));
        all.truncate(count);
        all
    }

    /// The newest problems, newest first.
    pub fn newest_problems(&self, count: usize) -> Vec<Problem> {
        self.problems.newest(count)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::config;
    use crate::observe::{LinkState, SourceState};
    use crate::position::{Offset, Position, ReplicationId};

    /// A board of a site `a` with a link `b` that streams.
    pub fn board() -> Board {
        let dir = tempfile::tempdir().unwrap();
        let journal = config::Journal { dir: dir.path().to_owned(), ..Default::default() };
        let link = LinkStatus::new("b".parse().unwrap(), "10.0.0.2:6380".to_owned(), 1 << 20);
        link.set_state(LinkState::Streaming);
        let replid = ReplicationId::from_bytes(&[b'c'; 40]).unwrap();
        link.set_checkpoint(Some(Position { replid, offset: Offset(77) }));
        link.units.store(5, Ordering::Relaxed);
        let source = SourceStatus::default();
        source.set_state(SourceState::Online);
        source.local_units.store(12, Ordering::Relaxed);
        Board {
            site: "a".parse().unwrap(),
            link_protocol: 1,
            primary: Some("a".parse().unwrap()),
            started: Instant::now(),
            journal: Journal::open(&journal, Arc::default()).unwrap(),
            write_off: WriteOffSet::new(),
            source: Arc::new(source),
            links: vec![(Arc::new(link), Conflicts::new(config::Policy::Converge, true, 9))],
            followers: Arc::default(),
            problems: Arc::default(),
            port: Arc::default(),
            max_clients: 9,
        }
    }

    #[test]
    fn ready_means_online_and_all_links_streaming() {
        let board = board();
        assert_eq!(board.read().not_ready(), None);
        board.links[0].0.set_state(LinkState::Stopped("FLUSHALL came from b".to_owned()));
        assert_eq!(board.read().not_ready().unwrap(), "link b is stopped: FLUSHALL came from b");
        board.source.set_state(SourceState::Connecting("refused".to_owned()));
        assert_eq!(board.read().not_ready().unwrap(), "source is connecting: refused");
        board.source.set_state(SourceState::Resyncing);
        assert_eq!(board.read().not_ready().unwrap(), "source is resyncing");
    }
}
