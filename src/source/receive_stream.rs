//! From bytes of the stream to units in the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use tokio_util::sync::CancellationToken;

use super::attach::Place;
use super::gap::Gap;
use super::{Source, StreamEnd};
use crate::conflict::KeyTable;
use crate::journal::BlockBuilder;
use crate::observe::SourceState;
use crate::position::{Database, Offset, Position, Seen};
use crate::resp::{self, Command, Limits, Scanner};
use crate::write_off::{Filter, Mark, Verdict};

/// The state of reading one connection.
#[derive(Debug)]
pub(crate) struct StreamReceiver<'k> {
    keys: &'k KeyTable,
    scanner: Scanner,
    filter: Filter,
    builder: BlockBuilder,
    seen: Arc<Seen>,
    gap: Gap,
    /// Up to where the stream was scanned.
    scanned: Position,
    /// The last place between two units, and the database in force there.
    boundary: (Offset, Database),
    /// Up to where the stream is in the journal, and the database in force there.
    journaled: (Offset, Database),
}

impl<'k> StreamReceiver<'k> {
    pub(super) fn new(place: &Place, seen: Arc<Seen>, keys: &'k KeyTable) -> Self {
        let Place { position, database, gap, .. } = *place;
        Self {
            gap,
            keys,
            scanner: Scanner::new(Limits::STREAM),
            filter: Filter::new(database),
            builder: BlockBuilder::new(None),
            seen,
            scanned: position,
            boundary: (position.offset, database),
            journaled: (position.offset, database),
        }
    }

    /// The database in force where the journal ends.
    pub(super) fn journaled_database(&self) -> Database {
        self.journaled.1
    }

    /// Takes all whole commands off `input`, and puts the units that are whole into the journal.
    /// Whether the master asked for an acknowledgement.
    pub(crate) async fn take(
        &mut self,
        input: &mut BytesMut,
        to: &Source,
        stop: &CancellationToken,
    ) -> Result<bool, StreamEnd> {
        let mut asked = false;
        let mut scanner = std::mem::replace(&mut self.scanner, Scanner::new(Limits::STREAM));
        let mut start = 0;
        let result = loop {
            match scanner.scan(&input[start..]) {
                Ok(Some(command)) => {
                    start += command.raw().len();
                    self.scanned.offset.0 += command.raw().len() as u64;
                    asked |=
                        command.is("REPLCONF") && command.arg(1).eq_ignore_ascii_case(b"GETACK");
                    self.take_command(command, to);
                }
                Ok(None) => break Ok(asked),
                Err(error) => break Err(error),
            }
        };
        self.scanner = scanner;
        if start > 0 {
            input.advance(start);
            to.unseen.iter().for_each(|unseen| unseen.scanned(self.scanned.offset));
            to.status.stream_bytes.fetch_add(start as u64, Ordering::Relaxed);
            self.write_journal(to, stop).await?;
            if self.filter.take_checkpoint_touched() {
                to.checkpoint_touched.send_modify(|count| *count += 1);
            }
        }
        Ok(result?)
    }

    fn take_command(&mut self, command: Command<'_>, to: &Source) {
        let database = self.filter.database();
        let (end, raw) = (self.scanned.offset, command.raw());
        let verdict = self.filter.judge(command);
        if matches!(verdict, Verdict::Unit(_) | Verdict::Begin(_) | Verdict::More(_)) {
            for unseen in &to.unseen {
                unseen.enter(self.keys, self.filter.database(), command, end);
            }
        }
        match verdict {
            Verdict::Skip => {}
            Verdict::Unit(words) => {
                self.builder.unit(database, words.bytes(raw), end, &self.seen);
            }
            Verdict::Begin(words) => self.builder.begin(database, words.bytes(raw)),
            Verdict::More(words) => self.builder.more(words.bytes(raw)),
            Verdict::End => self.builder.end(self.filter.database(), end, &self.seen),
            Verdict::Echo(mark) => self.take_echo(&mark, to),
        }
        if self.filter.is_between_units() {
            self.boundary = (end, self.filter.database());
        }
    }

    fn take_echo(&mut self, mark: &Mark, to: &Source) {
        to.write_off.settle(mark.tag);
        to.status.echoes.fetch_add(1, Ordering::Relaxed);
        if let Some(checkpoint) = mark.checkpoint {
            self.seen = Arc::new(self.seen.with(&mark.site, checkpoint.position));
        }
    }

    /// While a transaction is open its bytes wait in the builder, and with them what came before.
    async fn write_journal(
        &mut self,
        to: &Source,
        stop: &CancellationToken,
    ) -> Result<(), StreamEnd> {
        if self.builder.is_open() || self.boundary.0 == self.journaled.0 {
            return Ok(());
        }
        let replid = self.scanned.replid;
        let mut block = (!self.builder.is_empty())
            .then(|| self.builder.take(replid, self.journaled.0, self.boundary.0));
        if let Some(block) = &mut block {
            let first = block.units.first().map_or(block.end, |unit| unit.end);
            if let Some(moment) = self.gap.moment(first, to.clock.now()) {
                block.first_timestamp = moment;
            }
            to.status.local_units.fetch_add(block.units.len() as u64, Ordering::Relaxed);
            to.status.local_bytes.fetch_add(block.payload.len() as u64, Ordering::Relaxed);
        }
        let (offset, database) = self.boundary;
        let position = Position { replid, offset };
        let (journal, seen) = (&to.journal, &self.seen);
        let mut waited = false;
        while let Err(error) = journal.append(&mut block, position, database, seen).await {
            to.wait_for_journal(error, stop).await?;
            waited = true;
        }
        if waited {
            to.status.set_state(SourceState::Online);
        }
        self.journaled = self.boundary;
        Ok(())
    }

    /// The acknowledgement of what is journaled.
    pub(crate) fn ack(&self) -> Vec<u8> {
        let mut out = Vec::new();
        resp::put_command(&mut out, &["REPLCONF", "ACK", &self.journaled.0.to_string()]);
        out
    }
}
