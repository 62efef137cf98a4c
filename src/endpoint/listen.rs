//! The accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::Session;
use super::{Endpoint, SessionEnd, replies};
use crate::redis::tune;

/// How long to wait after an accept failed; most likely no file descriptor is left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a client that is turned away has to take the reason.
const FAREWELL: Duration = Duration::from_secs(1);

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
    let mut failures = 0_u64;
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
        if let Some(why) = refusal {
            tracing::warn!(%peer, why, "turned a client away");
            tracker.spawn(turn_away(stream, why));
            continue;
        }
        let session = session(stream, peer, Arc::clone(&endpoint), token.clone());
        let hand_over = hand_over.clone();
        tracker.spawn(async move {
            match session.await {
                SessionEnd::Closed => {}
                other => hand_over(other).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn session(
    stream: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<Endpoint>,
    token: CancellationToken,
) -> SessionEnd {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "a client was gone at once");
        return SessionEnd::Closed;
    }
    Session::new(endpoint, stream, peer, token).serve().await
}

async fn turn_away(mut stream: TcpStream, why: &'static str) {
    // Whether it hears it or not, it is closed.
    let _ = tokio::time::timeout(FAREWELL, stream.write_all(&replies::error(why))).await;
}
