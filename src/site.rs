//! The one place that knows all stages: it builds them, wires them together and ends them.

mod inspection;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::apply::ApplySetup;
use crate::clock::Clock;
use crate::config::{Config, Peer};
use crate::endpoint::{self, CommandTable, Endpoint, SessionEnd};
use crate::feed::{Feed, Followers, ReplicaWish};
use crate::journal::Journal;
use crate::link::Link;
use crate::observe::{self, Board, LinkStatus, Problems, SourceStatus};
use crate::pairing::Pairing;
use crate::redis::{Connection, Target};
use crate::source::{AttachError, Source};
use crate::write_off::WriteOffSet;
use inspection::Inspection;

/// How often followers are sent a PING: Redis's own `repl-ping-replica-period`.
const PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs one site's sidecar until `stop`, then drains it.
///
/// The order matters: the source is attached and the journal open before the port is served and
/// links begin, so that no write of ours can enter Redis before the filter is looking.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(Clock::default());
    let max = usize::try_from(config.journal.max_size.as_u64()).unwrap_or(usize::MAX);
    let journal = Journal::new(max, clock.clone());
    let write_off = WriteOffSet::new();
    let problems = Arc::new(Problems::default());
    let target = Target::from(&config.redis);
    let (checkpoint_touched, touched) = watch::channel(0);
    let source = Source {
        target: target.clone(),
        journal: journal.clone(),
        write_off: write_off.clone(),
        status: Arc::new(SourceStatus::default()),
        problems: problems.clone(),
        checkpoint_touched: Arc::new(checkpoint_touched),
    };
    let listener = TcpListener::bind(&config.listen.addr)
        .await
        .with_context(|| format!("can't listen on {} ([listen] addr)", config.listen.addr))?;
    let running = match source.attach_first(&stop).await {
        Ok(running) => running,
        Err(AttachError::Stopped) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut local = Connection::open(&target).await?;
    let table = CommandTable::load(&mut local).await?;
    drop(local);
    let tasks = TaskTracker::new();
    let followers = Followers::default();
    let links: Vec<_> = config
        .peers
        .iter()
        .map(|peer| {
            let pairing = Pairing::new(peer.site.clone());
            let status = Arc::new(LinkStatus::new(peer.site.clone(), peer.addr.clone()));
            (peer, pairing, status)
        })
        .collect();
    let feed = Arc::new(Feed {
        site: config.site.clone(),
        primary: config.conflict.primary.clone(),
        target: target.clone(),
        journal: journal.clone(),
        clock: clock.clone(),
        peers: links
            .iter()
            .map(|(peer, pairing, status)| (peer.site.clone(), (pairing.clone(), status.clone())))
            .collect::<HashMap<_, _>>(),
        followers: followers.clone(),
        problems: problems.clone(),
        heartbeat: config.link.heartbeat,
        timeout: config.link.timeout,
    });
    let board = Arc::new(Board {
        site: config.site.clone(),
        primary: config.conflict.primary.clone(),
        started: Instant::now(),
        journal: journal.clone(),
        write_off: write_off.clone(),
        source: source.status.clone(),
        links: links.iter().map(|(_, _, status)| status.clone()).collect(),
        followers,
        problems: problems.clone(),
    });
    let inspection = Arc::new(Inspection(board.clone()));
    {
        let stop = stop.clone();
        tasks.spawn(async move { source.run(running, stop).await });
    }
    {
        let (listener, stop) = (listener, stop.clone());
        let endpoint = Endpoint::new(&config, table, write_off.clone(), inspection);
        let served = stop.clone();
        let hand_over = move |end| {
            let (feed, stop) = (feed.clone(), served.clone());
            async move { take_over(&feed, end, stop).await }
        };
        tasks.spawn(async move { endpoint::serve(listener, endpoint, hand_over, stop).await });
    }
    if let Some(addr) = &config.listen.http {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("can't listen on {addr} ([listen] http)"))?;
        let (board, stop, problems) = (board.clone(), stop.clone(), problems.clone());
        tasks.spawn(async move {
            if let Err(error) = observe::serve(listener, board, stop).await {
                problems.add("http", error.to_string());
            }
        });
    }
    {
        let (journal, stop) = (journal.clone(), stop.clone());
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(PING_INTERVAL);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => journal.ping(),
                }
            }
        });
    }
    for (peer, pairing, status) in links {
        let link = link(
            &config,
            peer,
            pairing,
            status,
            Shared { write_off: &write_off, clock: &clock, problems: &problems, touched: &touched },
        );
        let stop = stop.clone();
        tasks.spawn(async move { link.run(stop).await });
    }
    info!(site = %config.site, listen = %config.listen.addr, "ready");
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// A connection that turned out to be a replica's or a peer's goes to the feed.
async fn take_over(feed: &Arc<Feed>, end: SessionEnd, stop: CancellationToken) {
    match end {
        SessionEnd::Closed => {}
        SessionEnd::Peer { stream, request, .. } => feed.serve_peer(stream, request, stop).await,
        SessionEnd::Replica { stream, input, wish } => {
            let wish = ReplicaWish {
                from: wish.from,
                sync: wish.sync,
                eof: wish.eof,
                psync2: wish.psync2,
                snapshot_only: wish.snapshot_only,
                port: wish.port,
                address: wish.address,
                peer: wish.peer,
            };
            feed.serve_replica(stream, input, wish, stop).await;
        }
    }
}

struct Shared<'a> {
    write_off: &'a Arc<WriteOffSet>,
    clock: &'a Arc<Clock>,
    problems: &'a Arc<Problems>,
    touched: &'a watch::Receiver<u64>,
}

fn link(
    config: &Config,
    peer: &Peer,
    pairing: Arc<Pairing>,
    status: Arc<LinkStatus>,
    shared: Shared<'_>,
) -> Link {
    Link {
        site: config.site.clone(),
        primary: config.conflict.primary.clone(),
        peer: Target {
            addr: peer.addr.clone(),
            username: peer.username.clone(),
            password: peer.password.clone(),
        },
        target: Target::from(&config.redis),
        apply: ApplySetup {
            site: peer.site.clone(),
            write_off: shared.write_off.clone(),
            status: status.clone(),
            problems: shared.problems.clone(),
            batch_commands: config.apply.batch_commands,
            batch_bytes: usize::try_from(config.apply.batch_bytes.as_u64()).unwrap_or(usize::MAX),
        },
        status,
        pairing,
        clock: shared.clock.clone(),
        problems: shared.problems.clone(),
        flush: config.filter.flush,
        heartbeat: config.link.heartbeat,
        timeout: config.link.timeout,
        checkpoint_touched: shared.touched.clone(),
        writer: Mutex::new(None),
    }
}
