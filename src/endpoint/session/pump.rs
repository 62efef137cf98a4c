//! The one place where a session waits: for the client, in both directions, and for the local
//! Redis, whichever comes first.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::poll_read_buf;

use super::Session;
use crate::endpoint::backend::{Lost, READ_SIZE};
use crate::endpoint::local::Broken;
use crate::net::send;

/// How much is read of a client that waits for replies: so that it is noticed when it goes, and
/// so that one that writes all it has before it reads anything gets on.
pub(super) const READ_AHEAD: usize = 1024 * 1024;
/// How much a client may leave unread; then nothing more is done for it until it reads.
const MAX_UNREAD: usize = 64 * 1024 * 1024;
/// How much one may that has not said who it is; then it is closed. As much as the longest request
/// that is read of it (`Limits::STRANGER`), and some thousand errors.
const MAX_UNREAD_OF_STRANGER: usize = 64 * 1024;
/// How long what is under way may still take when the sidecar stops or the client is gone.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a client whose session is over has to take its replies.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a client may take to say who it is, whatever it sends meanwhile; as long as a silent
/// peer is given by `[link] timeout`.
const LOGIN: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is there for it: the time of Redis's soft limit for
/// subscribers (`client-output-buffer-limit pubsub 32mb 8mb 60`).
pub(in crate::endpoint) const STALLED: Duration = Duration::from_mins(1);

enum Event {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Local(Result<(), Lost>),
    Stop,
}

impl Session {
    /// Waits for the next thing to happen, and takes it. Reads on while less than `read_ahead` of
    /// the client's input is there. An error means that the session is over.
    pub(super) async fn pump(&mut self, read_ahead: usize) -> Result<(), Broken> {
        let has_room = self.replies.out.len() < self.max_unread();
        let reads = !self.ended && has_room && self.input.len() < read_ahead;
        let draining = self.deadline.is_some();
        if self.replies.out.is_empty() {
            self.took = Instant::now();
        }
        let limit = self.time_limit();
        let Self { client, input, replies, local, token, .. } = &mut *self;
        let event = async {
            let talk =
                poll_fn(|cx| poll_client(cx, client, reads.then_some(&mut *input), &replies.out));
            let backend = local.main.as_mut().filter(|_| has_room);
            let answer = async {
                match backend {
                    Some(backend) => backend.read().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                read = answer => Event::Local(read),
                event = talk => event,
                () = token.cancelled(), if !draining => Event::Stop,
            }
        };
        let event = match limit {
            Some((limit, why)) => timeout_at(limit, event).await.map_err(|_| {
                tracing::debug!(peer = %self.peer, why, "a client's time is over");
                Broken
            })?,
            None => event.await,
        };
        match event {
            Event::Wrote(Ok(length)) if length > 0 => {
                self.replies.out.advance(length);
                self.took = Instant::now();
            }
            Event::Read(Ok(length)) if length > 0 => self.sent = Instant::now(),
            Event::Read(Ok(_)) | Event::Stop => return self.end_soon(),
            Event::Wrote(_) | Event::Read(_) => return Err(Broken),
            Event::Local(read) => {
                let taken = match read {
                    Ok(()) => self.local.take_replies(&mut self.replies).await,
                    Err(lost) => Err(lost),
                };
                return taken.map_err(|lost| {
                    self.local.give_up(&lost, &mut self.replies);
                    Broken
                });
            }
        }
        Ok(())
    }

    /// When the session is over if nothing happens until then, and why.
    fn time_limit(&self) -> Option<(Instant, &'static str)> {
        let is_still = self.local.is_idle() && self.replies.out.is_empty() && !self.subscribed;
        [
            self.deadline.map(|deadline| (deadline, "it has ended, or the sidecar stops")),
            self.who.is_none().then(|| (self.unknown_since + LOGIN, "it did not say who it is")),
            (!self.replies.out.is_empty()).then(|| (self.took + STALLED, "it does not read")),
            self.endpoint.idle.filter(|_| is_still).map(|idle| (self.sent + idle, "it is idle")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(limit, _)| *limit)
    }

    /// Writes what is there to be written to a client whose session is over.
    pub(super) async fn say_farewell(&mut self) -> Result<(), Broken> {
        let written = timeout(FAREWELL, send(&mut self.client, &self.replies.out)).await;
        self.replies.out.clear();
        written.map_err(|_| Broken)?.map_err(|_| Broken)
    }

    /// The client has closed, or the sidecar stops: what was read is still done and answered. But
    /// what may take for ever is dropped, as Redis drops it when a client goes.
    fn end_soon(&mut self) -> Result<(), Broken> {
        self.ended = true;
        self.deadline = Some(Instant::now() + DRAIN);
        if self.local.is_blocked() { Err(Broken) } else { Ok(()) }
    }

    /// Waits until all that is under way is answered.
    pub(super) async fn settle(&mut self) -> Result<(), Broken> {
        while !self.local.is_idle() {
            self.pump(READ_AHEAD).await?;
        }
        Ok(())
    }

    /// Waits until the client has taken enough of its replies for more to be done.
    pub(super) async fn wait_for_reader(&mut self) -> Result<(), Broken> {
        while self.replies.out.len() >= self.max_unread() {
            if self.who.is_none() {
                tracing::debug!(peer = %self.peer, "a stranger does not read; closed");
                return Err(Broken);
            }
            self.pump(READ_AHEAD).await?;
        }
        Ok(())
    }

    /// Waits until a known client has taken so much that it can be a stranger again.
    pub(super) async fn wait_as_stranger(&mut self) -> Result<(), Broken> {
        while self.replies.out.len() >= MAX_UNREAD_OF_STRANGER / 2 {
            self.pump(READ_AHEAD).await?;
        }
        Ok(())
    }

    fn max_unread(&self) -> usize {
        if self.who.is_none() { MAX_UNREAD_OF_STRANGER } else { MAX_UNREAD }
    }
}

/// Writes what is there to be written, else reads if that is wanted.
fn poll_client<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    client: &mut S,
    input: Option<&mut BytesMut>,
    out: &BytesMut,
) -> Poll<Event> {
    if out.is_empty() {
        // Of what was written some may wait within TLS; this task is woken when it can go out.
        if let Poll::Ready(Err(error)) = Pin::new(&mut *client).poll_flush(cx) {
            return Poll::Ready(Event::Wrote(Err(error)));
        }
    } else if let Poll::Ready(wrote) = Pin::new(&mut *client).poll_write(cx, out) {
        return Poll::Ready(Event::Wrote(wrote));
    }
    let Some(input) = input else { return Poll::Pending };
    input.reserve(READ_SIZE);
    poll_read_buf(Pin::new(client), cx, input).map(Event::Read)
}
