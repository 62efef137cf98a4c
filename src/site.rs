//! The one place that knows all stages: it builds them, wires them together and ends them.

use std::collections::HashMap;
use std::sync::Arc;

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
use crate::feed::{Feed, Followers};
use crate::journal::Journal;
use crate::link::Link;
use crate::observe::{LinkStatus, Problems, SourceStatus};
use crate::pairing::Pairing;
use crate::redis::Target;
use crate::source::{AttachError, Source};
use crate::write_off::WriteOffSet;

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
    {
        let stop = stop.clone();
        tasks.spawn(async move { source.run(running, stop).await });
    }
    {
        let (feed, stop, tracker) = (feed.clone(), stop.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let accepted =
                    tokio::select! { () = stop.cancelled() => return, a = listener.accept() => a };
                let Ok((mut stream, peer)) = accepted else { continue };
                let (feed, stop) = (feed.clone(), stop.clone());
                tracker.spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut input = bytes::BytesMut::new();
                    let mut parser = crate::resp::RequestParser::new(crate::resp::Limits::CLIENT);
                    let mut eof = false;
                    loop {
                        while let Ok(Some(request)) = parser.parse(&mut input) {
                            if request.is("DUPLEX") {
                                return feed.serve_peer(stream, request, stop).await;
                            }
                            if request.is("PSYNC") {
                                let from = std::str::from_utf8(request.arg(1))
                                    .ok()
                                    .and_then(|t| t.parse().ok());
                                let at = std::str::from_utf8(request.arg(2))
                                    .ok()
                                    .and_then(|t| t.parse().ok());
                                let wish = crate::feed::ReplicaWish {
                                    from: from.zip(at),
                                    sync: false,
                                    eof,
                                    psync2: true,
                                    snapshot_only: false,
                                    port: 0,
                                    address: "x".into(),
                                    peer,
                                };
                                return feed.serve_replica(stream, input, wish, stop).await;
                            }
                            if request.args().any(|a| a == b"eof") {
                                eof = true;
                            }
                            let reply: &[u8] =
                                if request.is("PING") { b"+PONG\r\n" } else { b"+OK\r\n" };
                            let _ = stream.write_all(reply).await;
                        }
                        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                });
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
