//! One client: its requests in, gathered into runs, its replies out in the same order.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::backend::{Outgoing, READ_SIZE};
use super::batch::Member;
use super::classify::{Class, classify};
use super::handshake::ReplicaWish;
use super::inspection::{self, Sections};
use super::local::{Broken, Local};
use super::pipe::{self, PipeEnd};
use super::replies::{self, Replies};
use super::tag::OpenTag;
use super::transaction::{Item, NOTHING, SPOILER, Step};
use super::{Endpoint, SessionEnd, access};
use crate::config::{Flush, Role};
use crate::resp::{self, Limits, Request, RequestParser};

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

    /// What we answer, and what needs the connection for itself. The run before it is done.
    async fn answer(
        &mut self,
        class: Class,
        request: Request,
        token: &CancellationToken,
    ) -> Result<Next, Broken> {
        match class {
            Class::Checkpoint(reply) => self.replies.reply(reply),
            Class::Flush if self.endpoint.flush == Flush::Drop => self.replies.reply(replies::OK),
            Class::Flush => self.replies.error(replies::FLUSH_STOPPED),
            Class::Blocking => self.replies.error(replies::NO_BLOCKING),
            Class::Refused(why) => self.replies.error(why),
            Class::Subscribe if !self.local.resp3 => return self.pipe(&request, token).await,
            Class::Monitor => return self.pipe(&request, token).await,
            Class::Subscribe | Class::Unsubscribe => {
                self.subscribed |= class == Class::Subscribe;
                self.local.fenced(request.raw(), &mut self.replies).await?;
            }
            Class::Auth => match self.authenticate(&request, 1, request.len()) {
                Ok(()) => self.replies.reply(replies::OK),
                Err(error) => self.replies.error(&error),
            },
            Class::Hello => self.hello(&request).await?,
            Class::Reset => self.reset(),
            Class::Quit => {
                self.replies.reply(replies::OK);
                return Ok(Next::Close);
            }
            Class::Ping if request.len() == 1 => self.replies.reply(replies::PONG),
            Class::Ping => {
                let mut out = BytesMut::new();
                resp::put_bulk(&mut out, request.arg(1));
                self.replies.reply(&out);
            }
            Class::ClientReply if request.len() == 3 => self.replies.set_mode(request.arg(2)),
            Class::ClientReply => self.replies.error(&replies::arity("client|reply")),
            Class::Replconf => match self.wish.replconf(&request) {
                Ok(true) => self.replies.reply(replies::OK),
                Ok(false) => {}
                Err(error) => self.replies.error(&error),
            },
            Class::Psync => match self.wish.clone().ask(&request) {
                Ok(wish) => return Ok(Next::Replica(wish)),
                Err(error) => self.replies.error(&error),
            },
            Class::Link => return Ok(Next::Peer(request)),
            Class::Info => self.info(&request).await?,
            Class::Role => {
                let offset = self.endpoint.inspect.role();
                let reply = format!("*3\r\n$6\r\nmaster\r\n:{offset}\r\n*0\r\n");
                self.replies.reply(reply.as_bytes());
            }
            _ => self.duplex(&request),
        }
        Ok(Next::Go)
    }

    /// Whether writes outside of transactions go through the second connection: our EXEC would
    /// drop the client's watches, and Redis 7.0 puts a message that a client publishes to itself
    /// into the middle of EXEC's reply.
    fn writes_apart(&self) -> bool {
        self.watching || self.subscribed
    }

    /// Adds a request to the run that goes in a marked batch.
    async fn member(
        &mut self,
        request: Request,
        writes: bool,
        select: Option<u32>,
    ) -> Result<(), Broken> {
        let apart = self.writes_apart();
        if apart && !writes {
            return self.step(Step::Pass(select), request.raw()).await;
        }
        self.make_room(request.raw().len()).await?;
        let fits = matches!(&self.run, Run::Batch { on_side, .. } if *on_side == apart);
        if !fits {
            self.send_run().await?;
            self.run = Run::Batch { members: Vec::new(), on_side: apart };
        }
        if let Run::Batch { members, .. } = &mut self.run {
            members.push(Member { request, writes, select });
        }
        Ok(())
    }

    /// Adds a request to the run that goes as it is.
    async fn step(&mut self, step: Step, raw: &Bytes) -> Result<(), Broken> {
        self.make_room(raw.len()).await?;
        if !matches!(self.run, Run::Steps { .. }) {
            self.send_run().await?;
        }
        if let Run::Steps { steps, out } = &mut self.run {
            steps.push(step);
            out.put_request(raw);
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Broken> {
        let endpoint = Arc::clone(&self.endpoint);
        let (tag, head) = OpenTag::issue(&endpoint.write_off, &endpoint.site).await;
        self.step(Step::Begin(tag), &head.into()).await?;
        self.in_multi = true;
        Ok(())
    }

    async fn within_multi(
        &mut self,
        class: Result<Class, String>,
        request: &Request,
    ) -> Result<(), Broken> {
        let theirs = request.raw();
        let refused = |why: &str| (Step::Spoil(why.to_owned()), Bytes::from_static(SPOILER));
        let ours = |reply| (Step::Queue(Item::Ours(reply)), Bytes::from_static(NOTHING));
        let (step, raw) = match class {
            Err(error) => refused(&error),
            Ok(Class::Exec | Class::Discard) => {
                self.in_multi = false;
                self.watching = false;
                let exec = request.is("EXEC");
                (if exec { Step::Exec } else { Step::Discard }, theirs.clone())
            }
            Ok(Class::Select(Some(number))) => (Step::Queue(Item::Select(number)), theirs.clone()),
            Ok(Class::Instead(words)) => {
                (Step::Queue(Item::Theirs), Request::of(&words).raw().clone())
            }
            Ok(Class::Checkpoint(reply)) => ours(reply),
            Ok(Class::Flush) => match self.endpoint.flush {
                Flush::Forward => (Step::Queue(Item::Theirs), theirs.clone()),
                Flush::Drop => ours(replies::OK),
                Flush::Stop => refused(replies::FLUSH_STOPPED),
            },
            Ok(Class::Refused(why)) => refused(why),
            Ok(
                Class::Batch { .. }
                | Class::Pass
                | Class::Select(None)
                | Class::Multi
                | Class::Watch
                | Class::Unwatch
                | Class::Blocking
                | Class::Ping
                | Class::ClientIntroduction
                | Class::Administration,
            ) => (Step::Queue(Item::Theirs), theirs.clone()),
            Ok(_) => refused(replies::NOT_IN_TRANSACTION),
        };
        self.step(step, &raw).await
    }

    /// Sends the run if this would make it too large.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Broken> {
        let full = self.run.len() >= self.endpoint.batch_commands
            || self.run_bytes.saturating_add(bytes) > self.endpoint.batch_bytes;
        if full {
            self.send_run().await?;
        }
        self.run_bytes += bytes;
        Ok(())
    }

    /// Sends what was gathered and takes the replies.
    async fn send_run(&mut self) -> Result<(), Broken> {
        let run = mem::replace(&mut self.run, Run::empty());
        self.run_bytes = 0;
        if run.len() == 0 {
            return Ok(());
        }
        match run {
            Run::Batch { members, on_side } => {
                self.local.run_batch(&members, on_side, &mut self.replies).await?;
            }
            Run::Steps { steps, out } => {
                self.local.run_steps(steps, out, &mut self.replies).await?;
            }
        }
        if self.replies.out.len() >= READ_SIZE {
            self.client.write_all(&self.replies.out).await.map_err(|_| Broken)?;
            self.replies.out.clear();
        }
        Ok(())
    }

    /// The words from `from` to `to` are those of AUTH.
    fn authenticate(&mut self, request: &Request, from: usize, to: usize) -> Result<(), String> {
        let words: Vec<&[u8]> = (from..to).map(|at| request.arg(at)).collect();
        match self.endpoint.users.authenticate(&words) {
            Ok(role) => {
                self.role = Some(role);
                self.parser.set_limits(limits(self.role));
                Ok(())
            }
            Err(error) => {
                if !self.endpoint.users.is_open() {
                    tracing::warn!(peer = %self.peer, "a client gave a wrong user or password");
                }
                Err(error)
            }
        }
    }

    /// `HELLO [2|3 [AUTH user password] [SETNAME name]]`: who it is, we check; the rest goes on.
    async fn hello(&mut self, request: &Request) -> Result<(), Broken> {
        let mut words: Vec<&[u8]> = request.args().collect();
        let mut at = 2;
        let mut error = None;
        while at < words.len() {
            if words[at].eq_ignore_ascii_case(b"auth") && words.len() > at + 2 {
                let user = [words[at + 1], words[at + 2]];
                match self.endpoint.users.authenticate(&user) {
                    Ok(role) => self.role = Some(role),
                    Err(wrong) => error = Some(wrong),
                }
                words.drain(at..at + 3);
            } else if words[at].eq_ignore_ascii_case(b"setname") && words.len() > at + 1 {
                at += 2;
            } else {
                error = Some(replies::SYNTAX.to_owned());
                break;
            }
        }
        self.parser.set_limits(limits(self.role));
        let stranger = self.role.is_none().then(|| replies::NO_AUTH.to_owned());
        if let Some(error) = error.or(stranger) {
            self.replies.error(&error);
            return Ok(());
        }
        let forwarded = Request::of(&words);
        match self.local.ask(forwarded.raw(), &mut self.replies).await? {
            Ok(reply) => {
                if forwarded.len() > 1 && !reply.starts_with(b"-") {
                    self.local.set_resp3(forwarded.arg(1) == b"3");
                }
                self.replies.reply(&reply);
            }
            Err(error) => self.replies.error(&error),
        }
        Ok(())
    }

    /// As a new connection; the one to the local Redis goes, and with it what it knew.
    fn reset(&mut self) {
        self.local = Local::new(Arc::clone(&self.endpoint));
        self.role = self.endpoint.users.at_first();
        self.parser.set_limits(limits(self.role));
        self.in_multi = false;
        self.watching = false;
        self.subscribed = false;
        self.replies.reset_mode();
        self.replies.reply(replies::RESET);
    }

    async fn info(&mut self, request: &Request) -> Result<(), Broken> {
        let sections = Sections::of(request);
        let mut theirs = String::new();
        if let Some(words) = &sections.ask {
            let ask = Request::of(words);
            match self.local.ask(ask.raw(), &mut self.replies).await? {
                Ok(reply) if reply.starts_with(b"-") => {
                    self.replies.reply(&reply);
                    return Ok(());
                }
                Ok(reply) => theirs = text_of(&reply),
                // What we know ourselves is worth more now than at any other time.
                Err(error) if !sections.duplex => {
                    self.replies.error(&error);
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        let text = inspection::info(&theirs, &sections, &*self.endpoint.inspect);
        self.replies.text(&text, self.local.resp3);
        Ok(())
    }

    fn duplex(&mut self, request: &Request) {
        match self.endpoint.inspect.duplex(request) {
            Ok(text) => self.replies.text(&text, self.local.resp3),
            Err(error) if error.contains("DUPLEX HELP") => {
                self.replies.error(&format!("ERR {error}"));
            }
            Err(error) => self.replies.error(&format!("ERR {error}; see DUPLEX HELP")),
        }
    }

    /// The connection is a subscriber's from here on.
    async fn pipe(&mut self, request: &Request, token: &CancellationToken) -> Result<Next, Broken> {
        let backend = match self.local.main().await {
            Ok(backend) => backend,
            Err(error) => {
                self.replies.error(&error);
                return Ok(Next::Go);
            }
        };
        let mut out = Outgoing::default();
        out.put_request(request.raw());
        backend.send(out).await.map_err(|_| Broken)?;
        let client = pipe::Client {
            stream: &mut self.client,
            input: &mut self.input,
            parser: &mut self.parser,
            replies: &mut self.replies,
        };
        let end = tokio::select! {
            end = pipe::run(client, backend) => end,
            () = token.cancelled() => PipeEnd::Closed,
        };
        match end {
            PipeEnd::Closed => Ok(Next::Close),
            PipeEnd::Reset => {
                self.reset();
                Ok(Next::Go)
            }
        }
    }
}

fn limits(role: Option<Role>) -> Limits {
    if role.is_some() { Limits::CLIENT } else { Limits::STRANGER }
}

/// The text of a bulk or verbatim string.
fn text_of(reply: &[u8]) -> String {
    let body = reply.iter().position(|&byte| byte == b'\n').map_or(&[][..], |at| &reply[at + 1..]);
    let body = if reply.starts_with(b"=") { body.get(4..).unwrap_or_default() } else { body };
    String::from_utf8_lossy(body.strip_suffix(b"\r\n").unwrap_or(body)).into_owned()
}
