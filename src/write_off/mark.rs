//! The mark: the write to the checkpoint hash at the head of each of our batches.

use std::fmt;
use std::str::FromStr;

use bytes::BufMut;

use crate::position::{Checkpoint, Database, Offset, Owed, Position, ReplicationId, SiteName};
use crate::resp::{self, Command};

/// The hash in the local Redis that holds tags and checkpoints.
pub const CHECKPOINT_KEY: &[u8] = b"redis-duplex-checkpoint";

/// Field that tells the layout of the hash: that of RedisSyncer's second checkpoint version.
const VERSION_FIELD: &[u8] = b"pointcheckVersion";
/// Value of [`VERSION_FIELD`].
const VERSION: &[u8] = b"2";
/// Field that the attach of the source writes to be found in the stream.
const PROBE_FIELD: &[u8] = b"probe";

/// The unique id of one batch: which run of the sidecar, and the how-manieth batch of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag {
    /// Random, one for each start of the sidecar.
    pub session: u64,
    /// Counts from 1.
    pub sequence: u64,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.session, self.sequence)
    }
}

impl FromStr for Tag {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (session, sequence) = text.split_once('-').ok_or(())?;
        Ok(Self {
            session: u64::from_str_radix(session, 16).map_err(|_| ())?,
            sequence: sequence.parse().map_err(|_| ())?,
        })
    }
}

/// A mark: whose units the batch holds, its tag, and on a link the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The peer whose units these are; this site itself for what a syncer or a person wrote.
    pub site: SiteName,
    /// The batch.
    pub tag: Tag,
    /// Up to where the peer's units are applied with this batch.
    pub checkpoint: Option<Checkpoint>,
}

impl Mark {
    /// Writes the mark as a command.
    pub fn put(&self, out: &mut impl BufMut) {
        let field = |name: &str| format!("{}-{name}", self.site);
        resp::put_array(out, if self.checkpoint.is_some() { 12 } else { 4 });
        resp::put_bulk(out, b"HSET");
        resp::put_bulk(out, CHECKPOINT_KEY);
        resp::put_bulk(out, field("tag").as_bytes());
        resp::put_bulk(out, self.tag.to_string().as_bytes());
        if let Some(Checkpoint { position, database, time, owed }) = &self.checkpoint {
            resp::put_bulk(out, field("runid").as_bytes());
            resp::put_bulk(out, position.replid.as_bytes());
            resp::put_bulk(out, field("offset").as_bytes());
            resp::put_bulk(out, position.offset.to_string().as_bytes());
            resp::put_bulk(out, field("place").as_bytes());
            let owed = owed.suffix();
            resp::put_bulk(out, format!("{database}:{time}{owed}").as_bytes());
            resp::put_bulk(out, VERSION_FIELD);
            resp::put_bulk(out, VERSION);
        }
    }

    /// Reads a mark; `None` if the command is something else.
    pub fn parse(command: Command<'_>) -> Option<Self> {
        if command.arg(1) != CHECKPOINT_KEY || !command.is("HSET") {
            return None;
        }
        let text = |index| std::str::from_utf8(command.arg(index)).ok();
        let site: SiteName = text(2)?.strip_suffix("-tag")?.parse().ok()?;
        let tag = text(3)?.parse().ok()?;
        let field_is = |index, name: &str| {
            text(index).and_then(|f| f.strip_prefix(site.as_str())) == Some(name)
        };
        let places = [(4, "-runid"), (6, "-offset"), (8, "-place")];
        let checkpoint = if places.iter().all(|(index, name)| field_is(*index, name)) {
            checkpoint_of(command.arg(5), command.arg(7), command.arg(9))
        } else {
            None
        };
        Some(Self { site, tag, checkpoint })
    }
}

/// The fields of the hash that hold the checkpoint of `site`, as [`checkpoint_of`] takes them.
pub fn checkpoint_fields(site: &SiteName) -> [String; 3] {
    ["runid", "offset", "place"].map(|name| format!("{site}-{name}"))
}

/// A checkpoint out of its fields; `None` if they hold none.
pub fn checkpoint_of(runid: &[u8], offset: &[u8], place: &[u8]) -> Option<Checkpoint> {
    let replid = ReplicationId::from_bytes(runid).ok()?;
    let offset = Offset(std::str::from_utf8(offset).ok()?.parse().ok()?);
    let place = std::str::from_utf8(place).ok()?;
    let (place, owed) = Owed::split(place);
    let (database, time) = place.split_once(':')?;
    let database = Database(database.parse().ok()?);
    let position = Position { replid, offset };
    Some(Checkpoint { position, database, time: time.parse().ok()?, owed })
}

/// Writes the probe by which the source finds its place in the stream (see `source::attach`).
pub fn put_probe(out: &mut impl BufMut) {
    resp::put_command(out, &[b"HSET", CHECKPOINT_KEY, PROBE_FIELD, b"1"]);
}

/// Whether the command writes the checkpoint hash: it is the sidecar's own, never synchronized.
pub fn is_checkpoint_write(command: Command<'_>) -> bool {
    command.arg(1) == CHECKPOINT_KEY
        || (command.arg(2) == CHECKPOINT_KEY
            && (command.is("RENAME") || command.is("RENAMENX") || command.is("COPY")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Scanner};

    fn round_trip(mark: &Mark) -> Option<Mark> {
        let mut out = Vec::new();
        mark.put(&mut out);
        let mut scanner = Scanner::new(Limits::STREAM);
        Mark::parse(scanner.scan(&out).unwrap().unwrap())
    }

    #[test]
    fn marks_round_trip_and_nothing_else_is_one() {
        let position = Position { replid: ReplicationId::random(), offset: Offset(99) };
        let there = Checkpoint {
            position,
            database: Database(3),
            time: 1_700_000_000_000,
            owed: Owed::Nothing,
        };
        assert_eq!(there.to_string().parse(), Ok(there));
        let owed = Checkpoint { owed: Owed::Snapshot, ..there };
        assert_eq!(owed.to_string().parse(), Ok(owed));
        let mirror = Checkpoint { owed: Owed::Mirror, ..there };
        assert_eq!(mirror.to_string().parse(), Ok(mirror));
        for checkpoint in [None, Some(there), Some(owed), Some(mirror)] {
            let tag = Tag { session: u64::MAX, sequence: 3 };
            let mark = Mark { site: "eu_1".parse().unwrap(), tag, checkpoint };
            assert_eq!(round_trip(&mark), Some(mark));
        }
        for args in [
            ["HSET", "redis-duplex-checkpoint", "probe", "1"],
            ["HSET", "redis-duplex-checkpoint", "b-tag", "nonsense"],
            ["HSET", "other", "b-tag", "00-1"],
            ["HDEL", "redis-duplex-checkpoint", "b-tag", "00-1"],
        ] {
            let mut out = Vec::new();
            resp::put_command(&mut out, &args);
            let mut scanner = Scanner::new(Limits::STREAM);
            assert_eq!(Mark::parse(scanner.scan(&out).unwrap().unwrap()), None);
        }
    }
}
