//! From bytes of the stream to units in the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::attach::Place;
use super::gap::Gap;
use super::{Source, StreamEnd};
use crate::clock::Timestamp;
use crate::conflict::KeyTable;
use crate::journal::{BlockBuilder, Head, Reached};
use crate::observe::SourceState;
use crate::pairing::Pairing;
use crate::position::{Database, Floors, Offset, Position, Seen, SiteName};
use crate::resp::{self, Command, Limits, Scanner};
use crate::write_off::{Filter, KeyRead, Mark, Origin, Settled, Verdict};

/// How long the reply to a read of keys may take when its mark is there: it may be large.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of reading one connection.
#[derive(Debug)]
pub(crate) struct StreamReceiver<'k> {
    keys: &'k KeyTable,
    scanner: Scanner,
    filter: Filter,
    builder: BlockBuilder,
    seen: Arc<Seen>,
    gap: Gap,
    /// The moment of the block's first unit, when it has one.
    first_time: Option<Timestamp>,
    /// The last moment that a unit got.
    last_time: Timestamp,
    /// A read of keys whose mark came by; its result stands at the end of this unit.
    read: Option<Arc<KeyRead>>,
    /// Up to where the stream was scanned.
    scanned: Position,
    /// The last place between two units, and the database in force there.
    boundary: (Offset, Database),
    /// Where the last local unit ends.
    last_unit: Offset,
    /// Up to where the stream is in the journal, and the database in force there.
    journaled: (Offset, Database),
}

impl<'k> StreamReceiver<'k> {
    pub(super) fn new(place: &Place, head: &Head, keys: &'k KeyTable) -> Self {
        let Place { position, database, gap, .. } = *place;
        Self {
            gap,
            keys,
            scanner: Scanner::new(Limits::STREAM),
            filter: Filter::new(database),
            builder: BlockBuilder::new(None),
            seen: head.seen.clone(),
            first_time: None,
            last_time: head.time,
            read: None,
            scanned: position,
            boundary: (position.offset, database),
            last_unit: position.offset,
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
                    if self.read.is_some() && self.filter.is_between_units() {
                        self.take_read(to, stop).await;
                    }
                }
                Ok(None) => break Ok(asked),
                Err(error) => break Err(error),
            }
        };
        self.scanner = scanner;
        if start > 0 {
            input.advance(start);
            to.peers.iter().for_each(|peer| peer.conflicts.scanned(self.scanned.offset));
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
            let time = self.time(to, end);
            for peer in &to.peers {
                peer.conflicts.enter(self.keys, self.filter.database(), command, end, time);
            }
        }
        if matches!(verdict, Verdict::Unit(_) | Verdict::Begin(_)) {
            self.name_database_if_wanted(to);
        }
        match verdict {
            Verdict::Skip => {}
            Verdict::Unit(words) => {
                self.builder.unit(database, words.bytes(raw), end, &self.seen);
                self.last_unit = end;
            }
            Verdict::Begin(words) => self.builder.begin(database, words.bytes(raw)),
            Verdict::More(words) => self.builder.more(words.bytes(raw)),
            Verdict::End => {
                self.builder.end(self.filter.database(), end, &self.seen);
                self.last_unit = end;
            }
            Verdict::Echo(mark) => self.take_echo(&mark, to),
        }
        if self.filter.is_between_units() {
            self.boundary = (end, self.filter.database());
        }
    }

    /// The moment of the unit that is being read: all of a block's are a tick apart.
    fn time(&mut self, to: &Source, end: Offset) -> Timestamp {
        let first = *self.first_time.get_or_insert_with(|| {
            let now = to.clock.take(1);
            let time = self.gap.moment(end, now).unwrap_or(now);
            time.max(Timestamp(self.last_time.0 + 1))
        });
        Timestamp(first.0 + self.builder.units() as u64)
    }

    fn take_echo(&mut self, mark: &Mark, to: &Source) {
        let at = self.scanned.offset;
        let of = |site: &SiteName| to.peers.iter().find(|peer| peer.site == *site);
        match to.write_off.settle(mark.tag) {
            Settled::Ours(Origin::Link { site, units, .. }, _) => {
                if let Some(peer) = of(&site) {
                    peer.conflicts.came_back(at, mark.tag.sequence, &units);
                }
            }
            Settled::Ours(Origin::Read(read), _) => {
                if let Some(peer) = of(&read.site) {
                    peer.conflicts.repairs.read(&read.keys);
                }
                self.read = Some(read);
            }
            Settled::Earlier if mark.checkpoint.is_some() => {
                of(&mark.site).inspect(|peer| peer.conflicts.earlier_came_back(at));
            }
            Settled::Ours(Origin::Endpoint, _) | Settled::Earlier => {}
        }
        to.status.echoes.fetch_add(1, Ordering::Relaxed);
        if let Some(checkpoint) = mark.checkpoint {
            self.seen = Arc::new(self.seen.with(&mark.site, checkpoint.position));
        }
    }

    /// Puts what was read of keys where their read stands in the stream.
    async fn take_read(&mut self, to: &Source, stop: &CancellationToken) {
        let Some(read) = self.read.take() else { return };
        let Some(peer) = to.peers.iter().find(|peer| peer.site == read.site) else { return };
        let mut commands = read.commands.clone();
        let found = tokio::select! {
            () = stop.cancelled() => None,
            found = timeout(READ_TIMEOUT, commands.wait_for(Option::is_some)) => {
                found.ok().and_then(Result::ok).and_then(|found| found.clone())
            }
        };
        let (Some(commands), Some(first), Some(last)) =
            (found, read.keys.first(), read.keys.last())
        else {
            // Its reply was lost: the keys are read again.
            let floor = peer.conflicts.floor().unwrap_or_default();
            read.keys.iter().for_each(|key| peer.conflicts.repairs.ask(key.clone(), floor));
            return;
        };
        let end = self.boundary.0;
        let time = self.time(to, end);
        let place = (&commands[..], first.database);
        for peer in &to.peers {
            peer.conflicts.enter_unit(self.keys, place, end, time, true);
        }
        peer.conflicts.repaired(&read.keys, commands.len());
        self.name_database_if_wanted(to);
        self.builder.state(&commands, (first.database, last.database), end, &self.seen);
        self.last_unit = end;
    }

    /// The first unit behind a follower's snapshot begins with a SELECT.
    fn name_database_if_wanted(&mut self, to: &Source) {
        if to.journal.wants_select(self.last_unit) {
            self.builder.name_database();
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
            block.first_timestamp = self.first_time.take().unwrap_or_else(|| to.clock.take(1));
            self.last_time = block.timestamp(block.units.len().saturating_sub(1));
            to.clock.observe(self.last_time);
            to.status.local_units.fetch_add(block.units.len() as u64, Ordering::Relaxed);
            to.status.local_bytes.fetch_add(block.payload.len() as u64, Ordering::Relaxed);
        }
        let (offset, database) = self.boundary;
        let position = Position { replid, offset };
        let floor = |peer: &Arc<Pairing>| Some((peer.site.clone(), peer.conflicts.floor()?));
        let floors = Arc::new(Floors(to.peers.iter().filter_map(floor).collect()));
        let reached = Reached { position, database, seen: self.seen.clone(), floors };
        let mut waited = false;
        while let Err(error) = to.journal.append(&mut block, &reached).await {
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
