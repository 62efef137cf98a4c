//! What is applied, and the batches it is applied in.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use crate::conflict::{RemoteUnit, each_command};
use crate::journal::{EXEC, MULTI};
use crate::position::{Checkpoint, Database, SiteName};
use crate::resp::{self, Command};
use crate::write_off::{Mark, Tag};

/// Where marks are written. With copies in several databases, a loss of the newest one (a flush of
/// its database, an eviction) would leave an older one, and units would be applied twice.
const MARK_DATABASE: Database = Database(0);

/// How the replies of an item are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A unit of the peer.
    Unit,
    /// A unit with FLUSHALL or FLUSHDB: takes the checkpoint away, so it is written again after it.
    Flush,
    /// A snapshot entry that replaces what is here.
    Entry,
    /// A snapshot entry that is only added: that the key is here already is no error.
    EntryIfMissing,
}

/// What is applied as one: all of it in one batch.
#[derive(Debug, Clone)]
pub struct Item {
    /// Selected before its first command.
    pub database: Database,
    /// Selected after its last command.
    pub database_after: Database,
    /// The highest one that it selects anywhere: where this is missing at the target, a SELECT
    /// within would fail and what follows it would be written to another database.
    pub highest_database: Database,
    /// The commands, one after the other, without MULTI and EXEC.
    pub commands: Bytes,
    /// How many.
    pub count: usize,
    /// How their replies are taken.
    pub kind: Kind,
    /// Up to where the peer's units are applied with it.
    pub checkpoint: Option<Checkpoint>,
    /// Of a snapshot entry: the key that must not be newer here.
    pub key: Option<Bytes>,
    /// Of a unit: what it is as far as conflicts go.
    pub remote: Option<Arc<RemoteUnit>>,
    /// What of it loses against local writes is left out already.
    pub judged: bool,
    /// Its share of the bytes that may be under way, given back when it is applied.
    pub room: Option<Arc<OwnedSemaphorePermit>>,
}

impl Item {
    /// An item of these commands within one database.
    pub fn new(database: Database, commands: Bytes, count: usize, kind: Kind) -> Self {
        let database_after = database;
        Self {
            database,
            database_after,
            highest_database: database,
            commands,
            count,
            kind,
            checkpoint: None,
            key: None,
            remote: None,
            judged: false,
            room: None,
        }
    }

    /// An item that writes nothing but the checkpoint.
    pub fn checkpoint_only(checkpoint: Checkpoint) -> Self {
        let nothing = Self::new(Database(0), Bytes::new(), 0, Kind::Unit);
        Self { checkpoint: Some(checkpoint), ..nothing }
    }

    /// Whether it is of a snapshot: written under WATCH, apart from units.
    pub(super) fn is_entry(&self) -> bool {
        matches!(self.kind, Kind::Entry | Kind::EntryIfMissing)
    }

    /// The same without command `index`, which the local Redis refuses for good.
    #[must_use]
    pub fn without(&self, index: usize) -> Self {
        let mut commands = BytesMut::with_capacity(self.commands.len());
        self.each_command(|at, command| {
            if at != index {
                commands.put_slice(command.raw());
            }
        });
        Self { commands: commands.freeze(), count: self.count.saturating_sub(1), ..self.clone() }
    }

    /// Calls `use_it` with each command.
    pub fn each_command(&self, use_it: impl FnMut(usize, Command<'_>)) {
        // They were scanned when the item was made.
        each_command(&self.commands, use_it);
    }

    /// Name and key of command `index`, for messages.
    pub fn describe(&self, index: usize) -> String {
        let mut text = "a command".to_owned();
        self.each_command(|at, command| {
            if at == index {
                let word = |n| command.arg(n).escape_ascii().to_string();
                text = format!("{} {}", word(0), word(1)).chars().take(120).collect();
            }
        });
        format!("{text} in database {}", self.database)
    }
}

/// Items that go into one MULTI/EXEC.
#[derive(Debug)]
pub(super) struct Batch {
    pub items: Vec<Item>,
}

/// Where a command of a batch belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// MULTI, the mark, a SELECT that we put in.
    Frame,
    /// Command number of item number.
    Command(usize, usize),
}

/// What was written for a batch.
#[derive(Debug)]
pub(super) struct Encoded {
    /// What each queued command belongs to; the replies of EXEC are in this order.
    pub places: Vec<Place>,
    /// The database in force after it.
    pub database: Database,
}

impl Batch {
    /// Takes items off the front, up to these bounds, at least one.
    pub(super) fn gather(pending: &mut VecDeque<Item>, commands: usize, bytes: usize) -> Self {
        let mut batch = Self { items: Vec::new() };
        let (mut count, mut size) = (0, 0);
        while let Some(next) = pending.front() {
            let full = count + next.count > commands || size + next.commands.len() > bytes;
            let alone = next.kind == Kind::Flush;
            if !batch.items.is_empty() && (full || alone) {
                break;
            }
            count += next.count;
            size += next.commands.len();
            batch.items.extend(pending.pop_front());
            if alone {
                break;
            }
        }
        batch
    }

    /// Up to where the peer's units are applied with this batch.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.items.iter().rev().find_map(|item| item.checkpoint)
    }

    /// Writes MULTI, the mark and the commands; not EXEC.
    pub(super) fn encode(
        &self,
        site: &SiteName,
        tag: Tag,
        mut database: Database,
        out: &mut BytesMut,
    ) -> Encoded {
        let mark = Mark { site: site.clone(), tag, checkpoint: self.checkpoint() };
        let mut places = Vec::new();
        out.put_slice(MULTI);
        put_mark(&mark, &mut database, &mut places, out);
        for (number, item) in self.items.iter().enumerate() {
            if item.count > 0 {
                if item.database != database {
                    resp::put_command(out, &["SELECT", &item.database.to_string()]);
                    places.push(Place::Frame);
                }
                database = item.database_after;
                out.put_slice(&item.commands);
                places.extend((0..item.count).map(|index| Place::Command(number, index)));
            }
            if item.kind == Kind::Flush {
                put_mark(&mark, &mut database, &mut places, out);
            }
        }
        Encoded { places, database }
    }
}

fn put_mark(mark: &Mark, database: &mut Database, places: &mut Vec<Place>, out: &mut BytesMut) {
    if *database != MARK_DATABASE {
        resp::put_command(out, &["SELECT", &MARK_DATABASE.to_string()]);
        places.push(Place::Frame);
        *database = MARK_DATABASE;
    }
    mark.put(out);
    places.push(Place::Frame);
}

/// Writes the end of a batch.
pub(super) fn put_exec(out: &mut BytesMut) {
    out.put_slice(EXEC);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(database: u32, commands: &[&[&str]], kind: Kind) -> Item {
        let mut bytes = BytesMut::new();
        for command in commands {
            resp::put_command(&mut bytes, command);
        }
        Item::new(Database(database), bytes.freeze(), commands.len(), kind)
    }

    fn words(bytes: &[u8]) -> Vec<String> {
        let all = Item::new(Database(0), Bytes::copy_from_slice(bytes), 0, Kind::Unit);
        let mut found = Vec::new();
        all.each_command(|_, command| {
            let args: Vec<_> = command.args().map(|a| a.escape_ascii().to_string()).collect();
            found.push(args.join(" "));
        });
        found
    }

    #[test]
    fn a_batch_takes_whole_items_up_to_its_bounds_and_a_flush_alone() {
        let two = item(0, &[&["SET", "a", "1"], &["SET", "b", "1"]], Kind::Unit);
        let mut pending: VecDeque<_> =
            vec![two.clone(), two.clone(), item(0, &[&["FLUSHALL"]], Kind::Flush), two.clone()]
                .into();
        let sizes: Vec<_> = std::iter::from_fn(|| {
            (!pending.is_empty()).then(|| Batch::gather(&mut pending, 3, 10_000).items.len())
        })
        .collect();
        assert_eq!(sizes, [1, 1, 1, 1]);
        let mut pending: VecDeque<_> = vec![two.clone(), two.clone(), two.clone()].into();
        assert_eq!(Batch::gather(&mut pending, 4, 10_000).items.len(), 2);
        // Larger than the bound, but never split.
        assert_eq!(Batch::gather(&mut pending, 1, 1).items.len(), 1);
    }

    #[test]
    fn the_mark_comes_first_and_databases_are_selected_where_they_change() {
        let batch = Batch {
            items: vec![
                item(0, &[&["SET", "a", "1"]], Kind::Unit),
                item(3, &[&["SET", "b", "1"]], Kind::Unit),
                item(3, &[&["FLUSHDB"]], Kind::Flush),
            ],
        };
        let mut out = BytesMut::new();
        let tag = Tag { session: 1, sequence: 2 };
        let encoded = batch.encode(&"b".parse().unwrap(), tag, Database(0), &mut out);
        let mark = "HSET redis-duplex-checkpoint b-tag 0000000000000001-2";
        let flushed = ["SELECT 3", "SET b 1", "FLUSHDB", "SELECT 0", mark];
        assert_eq!(words(&out), [&["MULTI", mark, "SET a 1"][..], &flushed].concat());
        assert_eq!(encoded.database, Database(0));
        assert_eq!(encoded.places[1], Place::Command(0, 0));
        assert_eq!(encoded.places[2], Place::Frame);
        assert_eq!(encoded.places[3], Place::Command(1, 0));
        assert_eq!(encoded.places.len(), 7);
        let mut out = BytesMut::new();
        let batch = Batch { items: vec![item(3, &[&["SET", "a", "1"]], Kind::Unit)] };
        batch.encode(&"b".parse().unwrap(), tag, Database(3), &mut out);
        assert_eq!(words(&out), ["MULTI", "SELECT 0", mark, "SELECT 3", "SET a 1"]);
    }

    #[test]
    fn a_refused_command_is_taken_out() {
        let three =
            item(0, &[&["SET", "a", "1"], &["NOSUCH", "x"], &["SET", "b", "1"]], Kind::Unit);
        assert_eq!(three.describe(1), "NOSUCH x in database 0");
        let two = three.without(1);
        assert_eq!(two.count, 2);
        assert_eq!(words(&two.commands), ["SET a 1", "SET b 1"]);
    }
}
