//! One client: its requests in, gathered into runs, its replies out in the same order.

mod answers;
mod gather;
mod login;
mod pump;

pub(super) use pump::STALLED;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::access::{self, Identity};
use super::audit::{self, Outcome};
use super::backend::{Outgoing, READ_SIZE};
use super::batch::Member;
use super::classify::{Class, classify};
use super::handshake::ReplicaWish;
use super::local::{Broken, Local};
use super::replies::Replies;
use super::rights::Need;
use super::transaction::Step;
use super::{Endpoint, SessionEnd};
use crate::config::Flush;
use crate::net::Stream;
use crate::resp::{Limits, Request, RequestError, RequestParser};

/// How long a client may take to hear in TLS that its connection is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// The places of clients that have not said who they are, and a new client's own.
pub(super) type Strangers = (Arc<Semaphore>, Option<OwnedSemaphorePermit>);

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
#[expect(clippy::struct_excessive_bools, reason = "each is a state of the client of its own")]
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    peer: SocketAddr,
    client: Stream,
    input: BytesMut,
    parser: RequestParser,
    replies: Replies,
    /// Who it is, once it has said so.
    who: Option<Identity>,
    /// Its place among those that have not.
    stranger: Option<OwnedSemaphorePermit>,
    /// All such places.
    strangers: Arc<Semaphore>,
    /// Since when it has not, if so.
    unknown_since: Instant,
    /// Wrong passwords so far.
    failures: u32,
    /// When it last sent something, and when it last took some of its replies or had none.
    sent: Instant,
    took: Instant,
    wish: ReplicaWish,
    local: Local,
    run: Run,
    run_bytes: usize,
    /// Whether the requests read so far leave a transaction open, and keys watched.
    in_multi: bool,
    watching: bool,
    /// Whether the connection to the local Redis has subscribed, in RESP3.
    subscribed: bool,
    /// Whether nothing more is read: the client has closed, or the sidecar stops.
    ended: bool,
    /// When what is under way is given up, once the session is to end.
    deadline: Option<Instant>,
    token: CancellationToken,
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
    /// A session that ends early, when all that is under way is answered, once `token` is
    /// cancelled. Of the places of `strangers` it holds `stranger`, if there are any users.
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        (client, peer): (Stream, SocketAddr),
        (strangers, stranger): Strangers,
        token: CancellationToken,
    ) -> Self {
        let who = endpoint.users.at_first();
        let now = Instant::now();
        Self {
            local: Local::new(Arc::clone(&endpoint)),
            parser: RequestParser::new(limits(&endpoint, who.is_some())),
            endpoint,
            peer,
            client,
            input: BytesMut::with_capacity(READ_SIZE),
            replies: Replies::default(),
            who,
            stranger,
            strangers,
            unknown_since: now,
            failures: 0,
            sent: now,
            took: now,
            wish: ReplicaWish::new(peer),
            run: Run::empty(),
            run_bytes: 0,
            in_multi: false,
            watching: false,
            subscribed: false,
            ended: false,
            deadline: None,
            token,
        }
    }

    /// Serves the client until it ends.
    pub(super) async fn serve(mut self) -> SessionEnd {
        let next = self.go_on().await;
        // Whatever it was that ended it, the client is to have what was said before.
        if self.say_farewell().await.is_err() {
            return SessionEnd::Closed;
        }
        match next {
            Ok(Next::Replica(wish)) => {
                SessionEnd::Replica { stream: self.client, input: self.input, wish }
            }
            Ok(Next::Peer(request)) => {
                SessionEnd::Peer { stream: self.client, input: self.input, request }
            }
            _ => {
                if self.client.is_tls() {
                    // It is closed in any case, but this way it knows that nothing was cut off.
                    let _ = timeout(GOODBYE, self.client.shutdown()).await;
                }
                SessionEnd::Closed
            }
        }
    }

    async fn go_on(&mut self) -> Result<Next, Broken> {
        loop {
            match self.take_requests().await? {
                Next::Go => {}
                end => return Ok(end),
            }
            if self.ended && self.local.is_idle() {
                return Ok(Next::Close);
            }
            self.pump(usize::MAX).await?;
        }
    }

    /// Works through what was read.
    async fn take_requests(&mut self) -> Result<Next, Broken> {
        loop {
            match self.parser.parse(&mut self.input) {
                Ok(Some(request)) => match self.take(request).await? {
                    Next::Go => self.wait_for_reader().await?,
                    end => return Ok(end),
                },
                Ok(None) => {
                    // While a batch is under way the next one grows.
                    if !self.local.has_batch() {
                        self.send_run().await?;
                    }
                    return Ok(Next::Go);
                }
                Err(error) => {
                    if error == RequestError::Tls {
                        let peer = self.peer;
                        tracing::warn!(%peer, "a client spoke TLS to a plain port: set tls_cert and \
                                        tls_key of [listen], or let it connect without TLS");
                    }
                    self.finish_run().await?;
                    self.replies.error(&format!("ERR {error}"));
                    return Ok(Next::Close);
                }
            }
        }
    }

    /// Sends what was gathered and waits until all is answered.
    async fn finish_run(&mut self) -> Result<(), Broken> {
        self.send_run().await?;
        self.settle().await
    }

    async fn take(&mut self, request: Request) -> Result<Next, Broken> {
        let class = classify(&self.endpoint.table, &request);
        if class == Class::CrossProtocol {
            tracing::warn!(
                peer = %self.peer,
                "somebody sends POST or Host: to the port, most likely through a browser; closed"
            );
            return Ok(Next::Close);
        }
        let allowed = self.judge(&class, &request);
        if self.in_multi && !matches!(class, Class::Quit | Class::Reset) {
            let class = allowed.map(|()| class);
            self.within_multi(class, &request).await?;
            return Ok(Next::Go);
        }
        if let Err(error) = allowed {
            self.finish_run().await?;
            self.replies.error(&error);
            return Ok(Next::Go);
        }
        match class {
            // What counts as a local client's goes to the local Redis as it is.
            Class::Batch { .. } | Class::Flush | Class::Migrate if !self.endpoint.marks => {
                self.step(Step::Pass(None), request.raw()).await?;
            }
            Class::Instead(words) if !self.endpoint.marks => {
                self.step(Step::Pass(None), Request::of(&words).raw()).await?;
            }
            Class::Blocking if !self.endpoint.marks => {
                self.step(Step::Block, request.raw()).await?;
            }
            Class::Batch { writes } => self.member(request, writes, None).await?,
            Class::Instead(words) => self.member(Request::of(&words), true, None).await?,
            Class::Flush if self.endpoint.flush == Flush::Forward => {
                self.member(request, true, None).await?;
            }
            // It has to reach the first connection, where the client's reads go.
            Class::Select(number) if self.writes_apart() || !self.endpoint.marks => {
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
            Class::Multi => self.begin().await?,
            class => {
                self.finish_run().await?;
                return self.answer(class, request).await;
            }
        }
        Ok(Next::Go)
    }

    /// Whether the client may send this, with what is to be told of it; the error text if not.
    fn judge(&self, class: &Class, request: &Request) -> Result<(), String> {
        let endpoint = &self.endpoint;
        let need = access::need(&endpoint.table, class, request);
        let allowed = access::check(self.who.as_ref(), class, need, || {
            audit::words(&endpoint.table, request)
        });
        let is_refused = match class {
            Class::Refused(_) => true,
            Class::Migrate => endpoint.marks,
            // Not within MULTI, whoever asks.
            Class::Control | Class::Monitor => self.in_multi,
            _ => false,
        };
        let outcome = match (&allowed, need) {
            (Ok(()), Need::Admin | Need::Unlisted) if is_refused => Outcome::Refused,
            (Ok(()), Need::Admin | Need::Unlisted) if self.in_multi => Outcome::Queued,
            (Ok(()), Need::Admin | Need::Unlisted) => Outcome::Runs,
            (Err(_), _) if self.who.is_some() => Outcome::Refused,
            _ => return allowed,
        };
        let client = (self.peer, self.who.as_ref());
        audit::tell(&endpoint.table, client, outcome, request);
        allowed
    }
}

fn limits(endpoint: &Endpoint, is_known: bool) -> Limits {
    if !is_known {
        return Limits::STRANGER;
    }
    Limits { max_bulk: endpoint.table.max_bulk(), ..Limits::CLIENT }
}
