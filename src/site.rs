//! The one place that knows all stages: it builds them, wires them together and ends them.

mod inspector;
mod reread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::apply::ApplySetup;
use crate::backlog::{Backlog, Wishes};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::{Config, Peer};
use crate::conflict::{Conflicts, KeyTable};
use crate::endpoint::{self, CommandTable, Endpoint, SessionEnd};
use crate::feed::{Feed, Followers, Snapshots};
use crate::frame::PROTOCOL;
use crate::journal::Journal;
use crate::link::{Control, Link};
use crate::observe::{self, Board, LinkStatus, Problems, SourceStatus};
use crate::pairing::Pairing;
use crate::redis::{Connection, RedisError, Target};
use crate::repair::Repairer;
use crate::source::{AttachError, Running, Source, watch_backlog};
use crate::write_off::WriteOffSet;
use inspector::Inspector;

/// How often followers are sent a PING: Redis's own `repl-ping-replica-period`.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted: Redis's `tcp-backlog`.
const BACKLOG: u32 = 511;

/// What all stages of a site share.
struct Site {
    config: Arc<Config>,
    target: Target,
    clock: Arc<Clock>,
    journal: Arc<Journal>,
    write_off: Arc<WriteOffSet>,
    problems: Arc<Problems>,
    followers: Followers,
    source_status: Arc<SourceStatus>,
    checkpoint_touched: Arc<watch::Sender<u64>>,
    backlog: Backlog,
    links: Vec<Ends>,
}

/// What the link to a peer shares with the feed, the source and the port.
#[derive(Clone)]
struct Ends {
    pairing: Arc<Pairing>,
    status: Arc<LinkStatus>,
    control: Control,
}

/// Runs one site's sidecar until `stop`, then drains it. `reread` has the files of TLS read again.
///
/// The order matters: the source is attached and the journal open before the port is served and
/// links begin, so that no write of ours can enter Redis before the filter is looking.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    reread: Arc<Notify>,
) -> anyhow::Result<()> {
    let (backlog, wishes) = Backlog::new();
    let site = Site::new(config, backlog)?;
    let socket = bind(&site.config.listen.addr).await.with_context(|| {
        format!("can't listen on {}; is [listen] addr free?", site.config.listen.addr)
    })?;
    let local_socket =
        match &site.config.listen.local_addr {
            Some(addr) => Some(bind(addr).await.with_context(|| {
                format!("can't listen on {addr}; is [listen] local_addr free?")
            })?),
            None => None,
        };
    let board = Arc::new(site.board());
    let tasks = TaskTracker::new();
    // From the beginning: a bad file may be why the local Redis can't be reached.
    tasks.spawn(reread::tls(site.config.clone(), site.problems.clone(), reread, stop.clone()));
    if let Some(addr) = &site.config.listen.http {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("can't listen on {addr}; is [listen] http free?"))?;
        let (board, stop) = (board.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = observe::serve(listener, board, stop).await {
                warn!(%error, "the http port is not served any more");
            }
        });
    }
    let source = site.source();
    let running = match source.attach_first(&stop).await {
        Ok(running) => running,
        Err(AttachError::Stopped) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some((commands, keys)) = site.commands(&stop).await? else { return Ok(()) };
    let endpoint = site.endpoint(board, commands);
    let keys = Arc::new(keys);
    let source_stop = CancellationToken::new();
    let source_task = site.run_source(source, (running, keys.clone(), wishes), source_stop.clone());
    let listener = socket.listen(BACKLOG).context("can't listen")?;
    let feed = Arc::new(site.feed());
    let hand_over = {
        let stop = stop.clone();
        move |end| hand_over(feed.clone(), end, stop.clone())
    };
    if let Some(socket) = local_socket {
        let listener = socket.listen(BACKLOG).context("can't listen")?;
        let local = endpoint.without_marks();
        tasks.spawn(endpoint::serve(listener, local, hand_over.clone(), stop.clone()));
    }
    tasks.spawn(endpoint::serve(listener, endpoint, hand_over, stop.clone()));
    for (peer, ends) in site.config.peers.iter().zip(&site.links) {
        let link = site.link(peer, ends, &keys);
        tasks.spawn(link.run(stop.clone()));
        if ends.pairing.conflicts.repairs_keys() {
            tasks.spawn(site.repairer(ends, &keys).run(stop.clone()));
        }
    }
    info!(site = %site.config.site, listen = %site.config.listen.addr, "ready");
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    source_stop.cancel();
    source_task.wait().await;
    site.journal.close()?;
    Ok(())
}

/// Takes the address, without listening yet: nobody is to wait at a port that is not served.
async fn bind(addr: &str) -> io::Result<TcpSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in lookup_host(addr).await? {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        match socket.bind(addr) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection that turned out to be a replica's or a peer's goes to the feed.
async fn hand_over(feed: Arc<Feed>, end: SessionEnd, stop: CancellationToken) {
    match end {
        SessionEnd::Closed => {}
        SessionEnd::Replica { stream, input, wish } => {
            feed.serve_replica(stream, input, wish, stop).await;
        }
        SessionEnd::Peer { stream, request, .. } => feed.serve_peer(stream, request, stop).await,
    }
}

fn conflicts(config: &Config) -> Arc<Conflicts> {
    let conflict = &config.conflict;
    let is_primary = conflict.primary.as_ref() == Some(&config.site);
    Conflicts::new(conflict.policy, is_primary, conflict.max_keys)
}

impl Site {
    fn new(config: Config, backlog: Backlog) -> anyhow::Result<Self> {
        let clock = Arc::new(Clock::new(config.conflict.max_clock_drift));
        let queue = config.link.queue.as_u64();
        let links = config.peers.iter().map(|peer| Ends {
            pairing: Pairing::new(peer.site.clone(), conflicts(&config)),
            status: Arc::new(LinkStatus::new(peer.site.clone(), peer.addr.clone(), queue)),
            control: Control::default(),
        });
        Ok(Self {
            target: Target::from(&config.redis),
            journal: Journal::open(&config.journal, clock.clone())?,
            clock,
            write_off: WriteOffSet::bounded(config.apply.max_pending),
            problems: Arc::default(),
            followers: Followers::default(),
            source_status: Arc::default(),
            checkpoint_touched: Arc::new(watch::Sender::new(0)),
            backlog,
            links: links.collect(),
            config: Arc::new(config),
        })
    }

    /// What the local Redis says of its commands; patiently, since its connections may break at any
    /// moment. None if we are told to stop.
    async fn commands(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<(CommandTable, KeyTable)>, RedisError> {
        let mut backoff = Backoff::for_connections();
        let mut commands = None;
        let mut load = async || {
            // A connection for each, and what is there is kept: some live for moments only.
            if commands.is_none() {
                let mut connection = Connection::open(&self.target).await?;
                commands = Some(CommandTable::load(&mut connection).await?);
            }
            let mut connection = Connection::open(&self.target).await?;
            let keys = KeyTable::load(&mut connection).await?;
            Ok::<_, RedisError>(commands.take().map(|commands| (commands, keys)))
        };
        loop {
            let loaded = tokio::select! {
                () = stop.cancelled() => return Ok(None),
                loaded = load() => loaded,
            };
            match loaded {
                Ok(loaded) => return Ok(loaded),
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => {
                    warn!(%error, "the commands of the local redis can't be read, trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(backoff.wait()) => {}
            }
        }
    }

    fn board(&self) -> Board {
        Board {
            site: self.config.site.clone(),
            link_protocol: PROTOCOL,
            primary: self.config.conflict.primary.clone(),
            started: Instant::now(),
            journal: self.journal.clone(),
            write_off: self.write_off.clone(),
            source: self.source_status.clone(),
            links: self
                .links
                .iter()
                .map(|ends| (ends.status.clone(), ends.pairing.conflicts.clone()))
                .collect(),
            followers: self.followers.clone(),
            problems: self.problems.clone(),
            port: Arc::default(),
            max_clients: self.config.listen.max_clients(),
        }
    }

    fn source(&self) -> Source {
        Source {
            target: self.target.clone(),
            journal: self.journal.clone(),
            write_off: self.write_off.clone(),
            status: self.source_status.clone(),
            clock: self.clock.clone(),
            problems: self.problems.clone(),
            peers: self.links.iter().map(|ends| ends.pairing.clone()).collect(),
            checkpoint_touched: self.checkpoint_touched.clone(),
        }
    }

    /// Runs the source and the PINGs to followers; both go on until all that writes has ended.
    fn run_source(
        &self,
        source: Source,
        (running, keys, wishes): (Running, Arc<KeyTable>, Wishes),
        stop: CancellationToken,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        tasks.spawn(ping_followers(self.journal.clone(), stop.clone()));
        let (target, status) = (self.target.clone(), self.source_status.clone());
        tasks.spawn(watch_backlog(target, status, self.problems.clone(), stop.clone()));
        tasks.spawn(async move { source.run(running, &keys, wishes, stop).await });
        tasks.close();
        tasks
    }

    fn endpoint(&self, board: Arc<Board>, table: CommandTable) -> Arc<Endpoint> {
        let port = board.port.clone();
        let inspect = Arc::new(Inspector { board, links: self.links.clone() });
        Endpoint::new(&self.config, table, self.write_off.clone(), inspect, port)
    }

    fn feed(&self) -> Feed {
        let peers = self.links.iter().map(|ends| (ends.pairing.site.clone(), ends.pairing.clone()));
        Feed {
            site: self.config.site.clone(),
            primary: self.config.conflict.primary.clone(),
            target: self.target.clone(),
            snapshots: Snapshots::new(self.target.clone(), self.config.journal.dir.clone()),
            journal: self.journal.clone(),
            backlog: self.backlog.clone(),
            clock: self.clock.clone(),
            peers: peers.collect(),
            followers: self.followers.clone(),
            problems: self.problems.clone(),
            heartbeat: self.config.link.heartbeat,
            timeout: self.config.link.timeout,
        }
    }

    /// Who reads the keys that are to be sent to a peer.
    fn repairer(&self, ends: &Ends, keys: &Arc<KeyTable>) -> Repairer {
        Repairer {
            site: self.config.site.clone(),
            peer: ends.pairing.site.clone(),
            target: self.target.clone(),
            conflicts: ends.pairing.conflicts.clone(),
            write_off: self.write_off.clone(),
            journal: self.journal.clone(),
            keys: keys.clone(),
            problems: self.problems.clone(),
        }
    }

    fn link(&self, peer: &Peer, ends: &Ends, keys: &Arc<KeyTable>) -> Link {
        let bytes = self.config.apply.batch_bytes.as_u64();
        Link {
            site: self.config.site.clone(),
            primary: self.config.conflict.primary.clone(),
            peer: Target::from(peer),
            target: self.target.clone(),
            apply: ApplySetup {
                site: peer.site.clone(),
                write_off: self.write_off.clone(),
                conflicts: ends.pairing.conflicts.clone(),
                status: ends.status.clone(),
                problems: self.problems.clone(),
                batch_commands: self.config.apply.batch_commands,
                batch_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            },
            status: ends.status.clone(),
            pairing: ends.pairing.clone(),
            control: ends.control.clone(),
            keys: keys.clone(),
            clock: self.clock.clone(),
            problems: self.problems.clone(),
            flush: self.config.filter.flush,
            heartbeat: self.config.link.heartbeat,
            timeout: self.config.link.timeout,
            queue_bytes: usize::try_from(self.config.link.queue.as_u64()).unwrap_or(usize::MAX),
            checkpoint_touched: self.checkpoint_touched.subscribe(),
        }
    }
}

/// Keeps followers' connections alive, also while the local Redis is away.
async fn ping_followers(journal: Arc<Journal>, stop: CancellationToken) {
    let mut ticks = interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // The journal has said it already; the next tick tries again.
        if let Err(error) = journal.ping().await {
            debug!(%error, "followers are not sent a ping");
        }
    }
}
