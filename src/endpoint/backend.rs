//! One connection to the local Redis on a client's behalf.

use std::io::{self, IoSlice};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Endpoint;
use super::replies::Replies;
use crate::net::{Stream, send};
use crate::redis::{Connection, RedisError};
use crate::resp::{ReplyScanner, ScanError};

/// How much room is kept free for one read.
pub(super) const READ_SIZE: usize = 64 * 1024;
/// A reply that is longer and not all there is passed on in parts, where nothing in it matters to us.
const LARGE: usize = 256 * 1024;
/// Requests up to this size are copied together; larger ones are written from where they lie. A
/// copy of so much costs about as much as one more slice in the system call.
const COPIED: usize = 4 * 1024;
/// Most slices in one system call (`IOV_MAX` of Linux).
const MAX_SLICES: usize = 1024;

/// Why the connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// It broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no reply.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A reply that does not belong there.
    #[error("unexpected reply to {0}")]
    Unexpected(&'static str),
}

impl Lost {
    /// What a client is told.
    pub(super) fn reply(&self) -> String {
        let why = match self {
            Self::Io(_) => "the connection to it broke",
            Self::Scan(_) | Self::Unexpected(_) => "it sent an unexpected reply",
        };
        format!("ERR the local Redis is not reachable: {why}; whether this was done is not known")
    }
}

/// What is to be written in one go.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    parts: Vec<Bytes>,
    tail: BytesMut,
}

impl Outgoing {
    /// Adds words of ours.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Adds a client's request as it came.
    pub(super) fn put_request(&mut self, raw: &Bytes) {
        if raw.len() <= COPIED {
            self.put(raw);
            return;
        }
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        self.parts.push(raw.clone());
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Backend {
    stream: Stream,
    input: BytesMut,
    scanner: ReplyScanner,
    /// The reply that is coming was taken in part.
    is_partly_taken: bool,
}

/// What was taken of the replies.
pub(super) enum Taken {
    /// A reply.
    Whole(Bytes),
    /// Some of a large one; whether it ends with this.
    Part(Bytes, bool),
}

impl Backend {
    /// Connects; the error is the reply for the client.
    pub(super) async fn open(endpoint: &Endpoint, resp3: bool) -> Result<Self, String> {
        let mut connection = Connection::open(&endpoint.target).await.map_err(|error| {
            if let Some(others) = endpoint.unreachable.counted() {
                tracing::warn!(%error, others, "no connection to the local redis for a client");
            }
            let why = match error {
                RedisError::Connect { .. } | RedisError::Lost { .. } => "no connection to it",
                RedisError::Refused { .. } => "it refused our user or password",
                RedisError::Unexpected { .. } => "it sent an unexpected reply",
            };
            format!("ERR the local Redis is not reachable: {why}")
        })?;
        // If we may not open a transaction here, everything in it would be done without a mark.
        for command in ["MULTI", "DISCARD"] {
            connection.call(&[command]).await.map_err(|error| refusal(&error))?;
        }
        let (stream, input) = connection.into_parts();
        let scanner = ReplyScanner::default();
        let mut backend = Self { stream, input, scanner, is_partly_taken: false };
        if resp3 {
            let hello = async {
                let mut out = Outgoing::default();
                out.put(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
                backend.send(out).await?;
                backend.reply(&mut Replies::default()).await
            };
            hello.await.map_err(|lost| lost.reply())?;
        }
        Ok(backend)
    }

    /// Writes everything. Not cancel safe.
    pub(super) async fn send(&mut self, out: Outgoing) -> Result<(), Lost> {
        let Outgoing { mut parts, tail } = out;
        if parts.is_empty() {
            return Ok(send(&mut self.stream, &tail).await?);
        }
        parts.push(tail.freeze());
        let mut slices: Vec<IoSlice<'_>> =
            parts.iter().filter(|p| !p.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            let some = &left[..left.len().min(MAX_SLICES)];
            let written = self.stream.write_vectored(some).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(self.stream.flush().await?)
    }

    /// The next reply to a request. What is pushed before it goes to the client.
    pub(super) async fn reply(&mut self, replies: &mut Replies) -> Result<Bytes, Lost> {
        loop {
            match self.take()? {
                Some(push) if push.starts_with(b">") => replies.push(&push),
                Some(reply) => return Ok(reply),
                None => self.read().await?,
            }
        }
    }

    /// What is there in whole.
    pub(super) fn take(&mut self) -> Result<Option<Bytes>, Lost> {
        let length = self.scanner.scan(&self.input)?;
        Ok(length.map(|length| self.input.split_to(length).freeze()))
    }

    /// What is there: in whole, or if `in_parts` is allowed and it is large, what there is of it.
    pub(super) fn take_some(&mut self, in_parts: bool) -> Result<Option<Taken>, Lost> {
        if !self.is_partly_taken
            && let Some(reply) = self.take()?
        {
            return Ok(Some(Taken::Whole(reply)));
        }
        // A push is nobody's reply.
        let is_large = self.input.len() >= LARGE && self.input[0] != b'>';
        let takes_part = self.is_partly_taken || (in_parts && is_large);
        if !takes_part {
            return Ok(None);
        }
        let (length, whole) = self.scanner.scan_part(&self.input)?;
        self.is_partly_taken = !whole;
        Ok((length > 0).then(|| Taken::Part(self.input.split_to(length).freeze(), whole)))
    }

    /// Whether the client has some of a reply and waits for the rest.
    pub(super) fn is_partly_taken(&self) -> bool {
        self.is_partly_taken
    }

    /// Reads what has come; waits if nothing has. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<(), Lost> {
        self.input.reserve(READ_SIZE);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

/// A server that is loading or that knows us not says so in words that clients understand.
fn refusal(error: &RedisError) -> String {
    match error.reply() {
        Some(reply) => reply.to_owned(),
        None => "ERR the local Redis is not reachable: no reply".to_owned(),
    }
}
