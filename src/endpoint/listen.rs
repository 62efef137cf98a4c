//! The accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::seldom::Seldom;
use super::session::Session;
use super::status::Present;
use super::{Endpoint, SessionEnd, replies};
use crate::net::{AcceptError, Acceptor, Stream, send, tune};

/// How long to wait after an accept failed; most likely no file descriptor is left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a client that is turned away has to take the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// Of all places those that have not said who they are may have one in so many, so that they can't
/// take them all.
const STRANGERS_SHARE: usize = 4;
/// And this many at least: after a break many clients come at once.
const LEAST_STRANGERS: usize = 16;

/// Serves clients until `token` is cancelled and every session has ended. `hand_over` gets each
/// connection that is a replica's or a peer's; its future runs in the session's task, counts as
/// a connection until it ends, and should watch `token` too.
pub async fn serve<F, Fut>(
    listener: TcpListener,
    endpoint: Arc<Endpoint>,
    hand_over: F,
    token: CancellationToken,
) where
    F: Fn(SessionEnd) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let tracker = TaskTracker::new();
    let room = Arc::new(Semaphore::new(endpoint.max_connections.min(Semaphore::MAX_PERMITS)));
    let strangers = Arc::new(Semaphore::new(room_for_strangers(&endpoint)));
    let mut failures = 0_u64;
    let (turned_away, kept_out) = (Seldom::default(), Arc::new(Seldom::default()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "can't accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let refusal = if endpoint.users.is_open() && !peer.ip().to_canonical().is_loopback() {
            Some(replies::PROTECTED)
        } else {
            None
        };
        let permit = Arc::clone(&room).try_acquire_owned();
        let refusal = refusal.or(permit.is_err().then_some(replies::TOO_MANY_CLIENTS));
        let stranger = Arc::clone(&strangers).try_acquire_owned();
        let refusal = refusal.or(stranger.is_err().then_some(replies::TOO_MANY_STRANGERS));
        if let Some(why) = refusal {
            endpoint.status.turned_away.fetch_add(1, Ordering::Relaxed);
            if let Some(others) = turned_away.counted() {
                tracing::warn!(%peer, why, others, "turned a client away");
            }
            // In TLS it would be a handshake to say so.
            if endpoint.tls.is_none() {
                tracker.spawn(turn_away(stream, why));
            }
            continue;
        }
        let stranger = stranger.ok().filter(|_| !endpoint.users.is_open());
        let stranger = (Arc::clone(&strangers), stranger);
        let (endpoint, token) = (Arc::clone(&endpoint), token.clone());
        let (kept_out, hand_over) = (Arc::clone(&kept_out), hand_over.clone());
        let present = Present::new(&endpoint.status);
        tracker.spawn(async move {
            let Some(stream) = come_in(stream, peer, &endpoint, &kept_out, &token).await else {
                return;
            };
            match Session::new(endpoint, (stream, peer), stranger, token).serve().await {
                SessionEnd::Closed => {}
                other => hand_over(other).await,
            }
            drop((present, permit));
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Where there are no users nobody is a stranger.
fn room_for_strangers(endpoint: &Endpoint) -> usize {
    let all = endpoint.max_connections.min(Semaphore::MAX_PERMITS);
    let share = (all / STRANGERS_SHARE).max(LEAST_STRANGERS.min(all));
    if endpoint.users.is_open() { Semaphore::MAX_PERMITS } else { share }
}

/// The connection as it is to be spoken on, past its handshake if the port has one.
async fn come_in(
    socket: TcpStream,
    peer: SocketAddr,
    endpoint: &Endpoint,
    kept_out: &Seldom,
    token: &CancellationToken,
) -> Option<Stream> {
    if let Err(error) = tune(&socket) {
        tracing::debug!(%peer, %error, "a client was gone at once");
        return None;
    }
    let Some(acceptor) = &endpoint.tls else { return Some(Stream::Plain(socket)) };
    tokio::select! {
        () = token.cancelled() => None,
        accepted = accept(acceptor, socket, peer, kept_out) => accepted,
    }
}

/// Shakes hands with a client; why that failed is told in one line.
async fn accept(
    acceptor: &Acceptor,
    socket: TcpStream,
    peer: SocketAddr,
    kept_out: &Seldom,
) -> Option<Stream> {
    let reason = match acceptor.accept(socket).await {
        Ok(stream) => return Some(stream),
        Err(reason) => reason,
    };
    if matches!(reason, AcceptError::Gone) {
        tracing::debug!(%peer, %reason, "a client did not come in");
    } else if let Some(others) = kept_out.counted() {
        tracing::warn!(%peer, %reason, others, "a client did not come in");
    }
    if let AcceptError::PlainText(socket) = reason {
        // What is left unread would have the answer thrown away.
        let _ = socket.try_read(&mut [0; 4096]);
        turn_away(socket, replies::SPEAKS_TLS).await;
    }
    None
}

async fn turn_away(mut socket: TcpStream, why: &'static str) {
    // Whether it hears it or not, it is closed.
    let _ = tokio::time::timeout(FAREWELL, send(&mut socket, &replies::error(why))).await;
}
