//! Commands sent together, each of which must succeed.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::timeout;

use crate::redis::Connection;
use crate::resp;

/// How long a batch's replies may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Commands that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    out: BytesMut,
    commands: usize,
}

impl Batch {
    /// Adds a command.
    pub fn add(&mut self, args: &[&str]) {
        resp::put_command(&mut self.out, args);
        self.commands += 1;
    }

    /// How many commands it holds.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Sends all and reads the replies; an error among them is an error.
    pub async fn send(self, connection: &mut Connection) -> anyhow::Result<Vec<BytesFrame>> {
        connection.write(&self.out).await?;
        let mut replies = Vec::with_capacity(self.commands);
        for _ in 0..self.commands {
            let reply = timeout(LIMIT, connection.reply("a batch")).await;
            let reply = reply.with_context(|| format!("{} is silent", connection.addr()))??;
            check(connection.addr(), &reply)?;
            replies.push(reply);
        }
        Ok(replies)
    }
}

/// No error, also not within what EXEC answers.
fn check(addr: &str, reply: &BytesFrame) -> anyhow::Result<()> {
    match reply {
        BytesFrame::Error(error) => bail!("{addr} refused a command: {error}"),
        BytesFrame::Array(replies) => replies.iter().try_for_each(|reply| check(addr, reply)),
        _ => Ok(()),
    }
}
