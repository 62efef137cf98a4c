//! One client: its requests in, gathered into runs, its replies out in the same order.

mod answers;
mod gather;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::backend::{Outgoing, READ_SIZE};
use super::batch::Member;
use super::classify::{Class, classify};
use super::handshake::ReplicaWish;
use super::local::{Broken, Local};
use super::replies::Replies;
use super::transaction::Step;
use super::{Endpoint, SessionEnd, access};
use crate::config::{Flush, Role};
use crate::resp::{Limits, Request, RequestParser};

/// Requests that go to the local Redis together.
enum Run {
    /// Outside of transactions: in a marked batch, on the second connection or not.
    Batch { members: Vec<Member>, on_side: bool },
    /// Each as it is.
    Steps { steps: Vec<Step>, out: Outgoing },
}

/// What happens after a request.
enum Next {
    Go,
    Close,
    Replica(ReplicaWish),
    Peer(Request),
}

/// The session.
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    peer: SocketAddr,
    client: TcpStream,
    input: BytesMut,
    parser: RequestParser,
    replies: Replies,
    role: Option<Role>,
    wish: ReplicaWish,
    local: Local,
    run: Run,
    run_bytes: usize,
    /// Whether the requests read so far leave a transaction open, and keys watched.
    in_multi: bool,
    watching: bool,
    /// Whether the connection to the local Redis has subscribed, in RESP3.
    subscribed: bool,
}

impl Run {
    fn empty() -> Self {
        Self::Steps { steps: Vec::new(), out: Outgoing::default() }
    }

    fn len(&self) -> usize {
        match self {
            Self::Batch { members, .. } => members.len(),
            Self::Steps { steps, .. } => steps.len(),
        }
    }
}

impl Session {
    pub(super) fn new(endpoint: Arc<Endpoint>, client: TcpStream, peer: SocketAddr) -> Self {
        let role = endpoint.users.at_first();
        Self {
            local: Local::new(Arc::clone(&endpoint)),
            endpoint,
            peer,
            client,
            input: BytesMut::with_capacity(READ_SIZE),
            parser: RequestParser::new(limits(role)),
            replies: Replies::default(),
            role,
            wish: ReplicaWish::new(peer),
            run: Run::empty(),
            run_bytes: 0,
            in_multi: false,
            watching: false,
            subscribed: false,
        }
    }

    /// Serves the client until it ends. Ends early, between two runs, when `token` is cancelled.
    pub(super) async fn serve(mut self, token: &CancellationToken) -> SessionEnd {
        loop {
            let next = self.take_requests(token).await;
            let sent = self.client.write_all(&self.replies.out).await;
            self.replies.out.clear();
            match next {
                Ok(Next::Replica(wish)) if sent.is_ok() => {
                    return SessionEnd::Replica { stream: self.client, input: self.input, wish };
                }
                Ok(Next::Peer(request)) if sent.is_ok() => {
                    return SessionEnd::Peer { stream: self.client, input: self.input, request };
                }
                Ok(Next::Go) if sent.is_ok() => {}
                _ => return SessionEnd::Closed,
            }
            tokio::select! {
                biased;
                () = token.cancelled() => return SessionEnd::Closed,
                goes_on = self.wait() => if !goes_on { return SessionEnd::Closed },
            }
        }
    }

    /// Waits for the client's requests, or for what the local Redis pushes. Cancel safe.
    async fn wait(&mut self) -> bool {
        self.input.reserve(READ_SIZE);
        let Some(backend) = self.local.main.as_mut() else {
            return self.client.read_buf(&mut self.input).await.is_ok_and(|length| length > 0);
        };
        tokio::select! {
            read = self.client.read_buf(&mut self.input) => read.is_ok_and(|length| length > 0),
            read = backend.read() => {
                let pushes = read.and_then(|()| {
                    while let Some(push) = backend.take()? {
                        self.replies.push(&push);
                    }
                    Ok(())
                });
                pushes.is_ok()
            }
        }
    }

    /// Works through what was read.
    async fn take_requests(&mut self, token: &CancellationToken) -> Result<Next, Broken> {
        loop {
            match self.parser.parse(&mut self.input) {
                Ok(Some(request)) => match self.take(request, token).await? {
                    Next::Go => {}
                    end => return Ok(end),
                },
                Ok(None) => {
                    self.send_run().await?;
                    return Ok(Next::Go);
                }
                Err(error) => {
                    self.send_run().await?;
                    self.replies.error(&format!("ERR {error}"));
                    return Ok(Next::Close);
                }
            }
        }
    }

    async fn take(&mut self, request: Request, token: &CancellationToken) -> Result<Next, Broken> {
        let class = classify(&self.endpoint.table, &request);
        let allowed = access::check(self.role, &class, &request);
        if self.in_multi && !matches!(class, Class::Quit | Class::Reset) {
            let class = allowed.map(|()| class);
            self.within_multi(class, &request).await?;
            return Ok(Next::Go);
        }
        if let Err(error) = allowed {
            self.send_run().await?;
            self.replies.error(&error);
            return Ok(Next::Go);
        }
        match class {
            Class::Batch { writes } => self.member(request, writes, None).await?,
            Class::Instead(words) => self.member(Request::of(&words), true, None).await?,
            Class::Flush if self.endpoint.flush == Flush::Forward => {
                self.member(request, true, None).await?;
            }
            // It has to reach the first connection, where the client's reads go.
            Class::Select(number) if self.writes_apart() => {
                self.step(Step::Pass(number), request.raw()).await?;
            }
            Class::Select(number) => self.member(request, false, number).await?,
            Class::Watch | Class::Unwatch => {
                self.step(Step::Pass(None), request.raw()).await?;
                self.watching = class == Class::Watch;
            }
            Class::Pass | Class::Exec | Class::Discard | Class::ClientIntroduction => {
                self.step(Step::Pass(None), request.raw()).await?;
            }
            // What may be for administrators only got here from one.
            Class::Administration => self.step(Step::Pass(None), request.raw()).await?,
            Class::Multi => self.begin().await?,
            class => {
                self.send_run().await?;
                return self.answer(class, request, token).await;
            }
        }
        Ok(Next::Go)
    }
}

fn limits(role: Option<Role>) -> Limits {
    if role.is_some() { Limits::CLIENT } else { Limits::STRANGER }
}
