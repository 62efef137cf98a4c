//! A client that subscribed or monitors: messages come when they come.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::{Backend, Lost, Outgoing, READ_SIZE};
use super::replies::{OK, ONLY_PUBSUB, Replies};
use crate::resp::{Request, RequestParser};

/// How it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PipeEnd {
    /// The client or the local Redis went away, or `QUIT`.
    Closed,
    /// `RESET`: a normal client again.
    Reset,
}

/// The client's end of the pipe.
pub(super) struct Client<'a> {
    pub(super) stream: &'a mut TcpStream,
    pub(super) input: &'a mut BytesMut,
    pub(super) parser: &'a mut RequestParser,
    pub(super) replies: &'a mut Replies,
}

/// Forwards messages until the client leaves. Cancel safe but for a message half written, after
/// which the connection can only be closed.
pub(super) async fn run(client: Client<'_>, backend: &mut Backend) -> PipeEnd {
    match forward(client, backend).await {
        Ok(end) => end,
        Err(error) => {
            tracing::debug!(%error, "a subscriber's connection ended");
            PipeEnd::Closed
        }
    }
}

async fn forward(client: Client<'_>, backend: &mut Backend) -> Result<PipeEnd, Lost> {
    let Client { stream, input, parser, replies } = client;
    loop {
        let mut out = Outgoing::default();
        let mut any = false;
        let end = loop {
            match parser.parse(input) {
                Ok(Some(request)) if request.is("QUIT") => {
                    replies.reply(OK);
                    break Some(PipeEnd::Closed);
                }
                Ok(Some(request)) if request.is("RESET") => break Some(PipeEnd::Reset),
                Ok(Some(request)) if passes(&request) => {
                    out.put_request(request.raw());
                    any = true;
                }
                Ok(Some(_)) => replies.error(ONLY_PUBSUB),
                Ok(None) => break None,
                Err(error) => {
                    replies.error(&format!("ERR {error}"));
                    break Some(PipeEnd::Closed);
                }
            }
        };
        if any {
            backend.send(out).await?;
        }
        // Only whole messages, so that a reply of ours never falls into one.
        while let Some(message) = backend.take()? {
            replies.push(&message);
        }
        if !replies.out.is_empty() {
            stream.write_all(&replies.out).await?;
            replies.out.clear();
        }
        if let Some(end) = end {
            return Ok(end);
        }
        input.reserve(READ_SIZE);
        tokio::select! {
            read = stream.read_buf(input) => if read? == 0 { return Ok(PipeEnd::Closed) },
            read = backend.read() => read?,
        }
    }
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
