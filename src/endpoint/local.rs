//! What stands behind one client: its connections to the local Redis and their state.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Endpoint;
use super::backend::{Backend, Lost, Outgoing};
use super::batch::{self, Member};
use super::flight::{Flight, tell_members};
use super::replies::Replies;
use super::transaction::Transaction;
use crate::resp;

/// The connection to the local Redis broke; the client's is to be closed, once it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// The client's side of the local Redis.
pub(super) struct Local {
    pub(super) endpoint: Arc<Endpoint>,
    /// Opened when it is first needed.
    pub(super) main: Option<Backend>,
    /// For writes while keys are watched, and the database selected there.
    side: Option<(Backend, u32)>,
    pub(super) database: u32,
    pub(super) resp3: bool,
    pub(super) open: Option<Transaction>,
    /// What the first connection has not answered yet.
    pub(super) flights: VecDeque<Flight>,
}

impl Local {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            main: None,
            side: None,
            database: 0,
            resp3: false,
            open: None,
            flights: VecDeque::new(),
        }
    }

    /// The connection, opened if it is not; the error is the reply for the client.
    pub(super) async fn main(&mut self) -> Result<&mut Backend, String> {
        if self.main.is_none() {
            self.main = Some(Backend::open(&self.endpoint, self.resp3).await?);
        }
        self.main.as_mut().ok_or_else(String::new)
    }

    /// Sends one request of ours or a client's; the inner error is the reply for the client when
    /// there is no connection.
    pub(super) async fn ask(
        &mut self,
        raw: &Bytes,
        replies: &mut Replies,
    ) -> Result<Result<Bytes, String>, Broken> {
        let backend = match self.main().await {
            Ok(backend) => backend,
            Err(error) => return Ok(Err(error)),
        };
        let talk = async {
            let mut out = Outgoing::default();
            out.put_request(raw);
            backend.send(out).await?;
            backend.reply(replies).await
        };
        match talk.await {
            Ok(reply) => Ok(Ok(reply)),
            Err(lost) => {
                replies.error(&broken(&lost));
                Err(Broken)
            }
        }
    }

    /// Sends a request that is answered by any number of replies or pushes, which go to the
    /// client. A PING behind it shows where they end.
    pub(super) async fn fenced(
        &mut self,
        raw: &Bytes,
        replies: &mut Replies,
    ) -> Result<(), Broken> {
        let backend = match self.main().await {
            Ok(backend) => backend,
            Err(error) => {
                replies.error(&error);
                return Ok(());
            }
        };
        let talk = async {
            let mut out = Outgoing::default();
            out.put_request(raw);
            out.put(b"*1\r\n$4\r\nPING\r\n");
            backend.send(out).await?;
            loop {
                let reply = backend.reply(replies).await?;
                if reply == super::replies::PONG {
                    return Ok(());
                }
                replies.push(&reply);
            }
        };
        talk.await.map_err(|lost: Lost| {
            replies.error(&broken(&lost));
            Broken
        })
    }

    /// Sends a run of writes through the second connection and answers them; nothing may be under
    /// way on the first.
    pub(super) async fn run_on_side(
        &mut self,
        members: &[Member],
        replies: &mut Replies,
    ) -> Result<(), Broken> {
        let endpoint = Arc::clone(&self.endpoint);
        let mut answers = vec![None; members.len()];
        let backend = match self.side().await {
            Ok(backend) => backend,
            Err(error) => {
                tell_members(members, &error, replies);
                return Ok(());
            }
        };
        let marker = (&endpoint.write_off, &endpoint.site);
        let done = batch::run(backend, marker, (members, None), &mut answers, replies).await;
        let lost = done.err().map(|lost| broken(&lost));
        for answer in answers {
            match (answer, &lost) {
                (Some(reply), _) => replies.reply(&reply),
                (None, Some(error)) => replies.error(error),
                (None, None) => replies.error(super::replies::NOT_EXECUTED),
            }
        }
        if lost.is_some() { Err(Broken) } else { Ok(()) }
    }

    /// The second connection, with the same database selected.
    async fn side(&mut self) -> Result<&mut Backend, String> {
        if self.side.is_none() {
            self.side = Some((Backend::open(&self.endpoint, self.resp3).await?, 0));
        }
        let Some((backend, database)) = self.side.as_mut() else { return Err(String::new()) };
        if *database != self.database {
            let mut out = bytes::BytesMut::new();
            resp::put_command(&mut out, &["SELECT", &self.database.to_string()]);
            let mut outgoing = Outgoing::default();
            outgoing.put(&out);
            let talk = async {
                backend.send(outgoing).await?;
                backend.reply(&mut Replies::default()).await
            };
            talk.await.map_err(|lost| broken(&lost))?;
            *database = self.database;
        }
        Ok(backend)
    }

    /// `HELLO` changed the form of replies.
    pub(super) fn set_resp3(&mut self, resp3: bool) {
        self.resp3 = resp3;
        // Opened again in the new form when it is needed.
        self.side = None;
    }
}

fn broken(lost: &Lost) -> String {
    tracing::warn!(error = %lost, "lost a client's connection to the local redis");
    lost.reply()
}
