//! A client that subscribed or monitors: messages come when they come.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::backend::{Backend, Lost, Outgoing, READ_SIZE};
use super::replies::{self, OK, Replies};
use super::session::STALLED;
use crate::net::Stream;
use crate::resp::{self, Request, RequestParser};

/// How it ends.
#[derive(Debug)]
pub(super) enum PipeEnd {
    /// The client or the local Redis went away, or `QUIT`.
    Closed,
    /// `RESET`: a normal client again.
    Reset,
    /// It has no subscriptions left and sent this: a normal client again.
    Normal(Request),
}

/// The client's end of the pipe.
pub(super) struct Client<'a> {
    pub(super) stream: &'a mut Stream,
    pub(super) input: &'a mut BytesMut,
    pub(super) parser: &'a mut RequestParser,
    pub(super) replies: &'a mut Replies,
    /// `MONITOR`: it never ends but by `RESET`.
    pub(super) monitors: bool,
}

/// A request that a subscriber may not send: it waits until all before it is answered. A PING with
/// a text of its own, sent behind that, tells by the form of its reply whether the connection is
/// still a subscriber's.
struct Waiting {
    request: Request,
    fence: String,
}

/// Sends `first` and forwards messages until the client leaves or is no subscriber any more. Cancel
/// safe but for a message half written, after which the connection can only be closed.
pub(super) async fn run(client: Client<'_>, backend: &mut Backend, first: &Request) -> PipeEnd {
    match forward(client, backend, first).await {
        Ok(end) => end,
        Err(error) => {
            tracing::debug!(%error, "a subscriber's connection ended");
            PipeEnd::Closed
        }
    }
}

async fn forward(
    client: Client<'_>,
    backend: &mut Backend,
    first: &Request,
) -> Result<PipeEnd, Lost> {
    let Client { stream, input, parser, replies, monitors } = client;
    let mut out = Outgoing::default();
    out.put_request(first.raw());
    let mut waiting: Option<Waiting> = None;
    loop {
        let mut end = None;
        while end.is_none() && waiting.is_none() {
            match parser.parse(input) {
                Ok(Some(request)) if passes(&request) => out.put_request(request.raw()),
                Ok(Some(request)) if monitors => end = answer(request, true, replies),
                Ok(Some(request)) => {
                    let fence = format!("redis-duplex-{:016x}", rand::random::<u64>());
                    out.put(Request::of(&["PING", &fence]).raw());
                    waiting = Some(Waiting { request, fence });
                }
                Ok(None) => break,
                Err(error) => {
                    replies.error(&format!("ERR {error}"));
                    end = Some(PipeEnd::Closed);
                }
            }
        }
        backend.send(std::mem::take(&mut out)).await?;
        let mut goes_on = false;
        // Only whole messages, so that a reply of ours never falls into one.
        while let Some(message) = backend.take()? {
            match waiting.take_if(|waiting| is_fence(&message, &waiting.fence)) {
                Some(waiting) => {
                    goes_on = true;
                    end = answer(waiting.request, message.starts_with(b"*"), replies);
                }
                None => replies.push(&message),
            }
        }
        while !replies.out.is_empty() {
            // Redis's own limit never sees a client that is slow here.
            let written = timeout(STALLED, stream.write_buf(&mut replies.out)).await;
            if written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return Ok(PipeEnd::Closed);
            }
        }
        if let Some(end) = end {
            return Ok(end);
        }
        if goes_on {
            continue;
        }
        input.reserve(READ_SIZE);
        tokio::select! {
            read = stream.read_buf(input) => {
                if read? == 0 {
                    return Ok(PipeEnd::Closed);
                }
            }
            read = backend.read() => read?,
        }
    }
}

/// What becomes of a request that a subscriber may not send.
fn answer(request: Request, subscribed: bool, replies: &mut Replies) -> Option<PipeEnd> {
    if request.is("QUIT") {
        replies.reply(OK);
        return Some(PipeEnd::Closed);
    }
    if request.is("RESET") {
        return Some(PipeEnd::Reset);
    }
    if !subscribed {
        return Some(PipeEnd::Normal(request));
    }
    replies.error(&not_now(&request));
    None
}

/// Whether this is the reply to our PING: its text alone, or for a subscriber behind `pong`.
fn is_fence(message: &Bytes, fence: &str) -> bool {
    let mut bulk = BytesMut::new();
    resp::put_bulk(&mut bulk, fence.as_bytes());
    *message == bulk || (message.starts_with(b"*2\r\n$4\r\npong\r\n") && message.ends_with(&bulk))
}

/// What Redis says to a subscriber.
fn not_now(request: &Request) -> String {
    let name = request.arg(0).to_ascii_lowercase();
    let name: String = name.iter().take(128).map(|byte| byte.escape_ascii().to_string()).collect();
    format!("ERR Can't execute '{name}': {}", replies::ONLY_PUBSUB)
}

fn passes(request: &Request) -> bool {
    const WORDS: [&str; 7] = [
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "PING",
    ];
    WORDS.iter().any(|word| request.is(word))
}
