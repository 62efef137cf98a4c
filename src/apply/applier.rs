//! The connection that batches are written on.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Pipeline;
use super::batch::Item;
use super::pipeline::{ApplyError, ApplySetup, ENOUGH_PENDING};
use crate::net::Stream;
use crate::redis::Connection;

/// A batch whose reply takes longer is on a dead connection. A script may block Redis for long
/// (it answers BUSY then), a fork or a slow disk for some seconds.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_mins(1);

/// Applies items to the local Redis.
#[derive(Debug)]
pub struct Applier {
    pub(super) pipeline: Pipeline,
    pub(super) reader: ReadHalf<Stream>,
    pub(super) writer: WriteHalf<Stream>,
    last_progress: Instant,
    /// Which of the conflicts' histories snapshot entries may be written in.
    pub(super) epoch: u64,
}

impl Applier {
    /// An applier on this connection, on which database 0 is selected.
    /// `epoch` is the history that the peer was asked in.
    pub fn new(setup: ApplySetup, connection: Connection, epoch: u64) -> Self {
        let addr = connection.addr().to_owned();
        let (stream, input) = connection.into_parts();
        let (reader, writer) = split(stream);
        let pipeline = Pipeline::new(setup, addr, input);
        Self { pipeline, reader, writer, last_progress: Instant::now(), epoch }
    }

    /// Applies what comes until the channel is closed and all is applied, or the connection
    /// breaks. Not cancel safe: a batch under way would be of unknown fate.
    pub async fn run(mut self, mut parcels: mpsc::Receiver<Vec<Item>>) -> Result<(), ApplyError> {
        let result = self.work(&mut parcels).await;
        self.pipeline.give_up();
        result
    }

    async fn work(&mut self, parcels: &mut mpsc::Receiver<Vec<Item>>) -> Result<(), ApplyError> {
        let mut open = true;
        loop {
            if self.pipeline.is_idle() && self.pipeline.pending.front().is_some_and(Item::is_entry)
            {
                self.last_progress = Instant::now();
                self.write_entries().await?;
                continue;
            }
            self.pipeline.fill().await;
            let idle = self.pipeline.in_flight.is_empty() && self.pipeline.trying.is_none();
            if !open && idle && self.pipeline.pending.is_empty() {
                return Ok(());
            }
            let retry_at = self.pipeline.retry_at;
            let deadline = self.last_progress + REPLY_TIMEOUT;
            tokio::select! {
                items = parcels.recv(), if open && self.pipeline.pending.len() < ENOUGH_PENDING => {
                    match items {
                        Some(items) => self.pipeline.pending.extend(items),
                        None => open = false,
                    }
                    if idle {
                        self.last_progress = Instant::now();
                    }
                }
                written = self.writer.write_buf(&mut self.pipeline.out), if !self.pipeline.out.is_empty() => {
                    written.map_err(|error| self.pipeline.lost(error))?;
                }
                read = self.reader.read_buf(&mut self.pipeline.input) => {
                    if read.map_err(|error| self.pipeline.lost(error))? == 0 {
                        return Err(self.pipeline.lost(io::ErrorKind::UnexpectedEof.into()).into());
                    }
                    self.last_progress = Instant::now();
                    self.pipeline.take_replies()?;
                }
                () = async { match retry_at { Some(at) => sleep_until(at).await, None => pending().await } } => {
                    self.pipeline.retry_at = None;
                }
                () = sleep_until(deadline), if !idle => {
                    return Err(self.pipeline.lost(io::ErrorKind::TimedOut.into()).into());
                }
            }
        }
    }
}
