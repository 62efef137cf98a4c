//! Reading a peer's frames.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf, split};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval, sleep_until};

use super::intake::Intake;
use super::{Link, LinkError};
use crate::frame::Frame;
use crate::net::{Stream, send};
use crate::redis::{Connection, RedisError};

/// How much room is kept free for one read.
const READ_SIZE: usize = 256 << 10;

/// The connection to the peer: frames come in, line feeds go out as signs of life.
pub(super) struct Receiver<'a> {
    link: &'a Link,
    reader: ReadHalf<Stream>,
    pulse: Pulse,
    input: BytesMut,
    intake: Intake<'a>,
    touched: watch::Receiver<u64>,
}

struct Pulse {
    addr: String,
    writer: WriteHalf<Stream>,
    ticks: Interval,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(link: &'a Link, peer: Connection, intake: Intake<'a>) -> Self {
        let addr = link.peer.addr.clone();
        let (stream, input) = peer.into_parts();
        let (reader, writer) = split(stream);
        let pulse = Pulse { addr, writer, ticks: interval(link.heartbeat) };
        let mut touched = link.checkpoint_touched.clone();
        touched.mark_unchanged();
        Self { link, reader, pulse, input, intake, touched }
    }

    /// Reads until something ends it. Cancel safe: what was not handed on is asked for again.
    pub(super) async fn run(&mut self) -> LinkError {
        match self.frames().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn frames(&mut self) -> Result<std::convert::Infallible, LinkError> {
        let mut heard = Instant::now();
        loop {
            while let Some(frame) = Frame::take(&mut self.input)? {
                // The peer hears from us also while the local Redis holds us up.
                self.pulse.during(self.intake.take(frame)).await?;
                heard = Instant::now();
            }
            self.input.reserve(READ_SIZE);
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => match read {
                    Ok(0) => return Err(self.pulse.gone(std::io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => heard = Instant::now(),
                    Err(error) => return Err(self.pulse.gone(error)),
                },
                _ = self.pulse.ticks.tick() => self.pulse.beat().await?,
                Ok(()) = self.touched.changed() => self.intake.write_checkpoint().await?,
                () = sleep_until(heard + self.link.timeout) => {
                    return Err(LinkError::Silent(self.link.timeout));
                }
            }
        }
    }
}

impl Pulse {
    async fn beat(&mut self) -> Result<(), LinkError> {
        let written = send(&mut self.writer, b"\n").await;
        written.map_err(|error| self.gone(error))
    }

    /// Waits for `work` without falling silent.
    async fn during(
        &mut self,
        work: impl Future<Output = Result<(), LinkError>>,
    ) -> Result<(), LinkError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = self.ticks.tick() => self.beat().await?,
            }
        }
    }

    fn gone(&self, source: std::io::Error) -> LinkError {
        let addr = self.addr.clone();
        LinkError::Peer { addr: addr.clone(), source: RedisError::Lost { addr, source } }
    }
}
