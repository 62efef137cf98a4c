//! From a unit of a peer to an item for the applier. Pure.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::LinkError;
use super::full_sync::COMMAND_LIMITS;
use crate::apply::{Item, Kind};
use crate::clock::Timestamp;
use crate::config::Flush;
use crate::conflict::{
    KeyTable, RemoteUnit, Touched, each_command, is_wide, selected, state_touch, touches,
};
use crate::journal::{Block, EXEC, MULTI, UnitHead};
use crate::position::{Checkpoint, Database, Owed, Position, SiteName};
use crate::rdb::{Entry, RdbError, RdbVersion};
use crate::resp::{self, Command, Scanner};

/// What a unit is read with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// What is done about FLUSHALL and FLUSHDB.
    pub flush: Flush,
    /// This site.
    pub site: &'a SiteName,
    /// Where commands have their keys.
    pub keys: &'a KeyTable,
    /// Conflicts are looked for.
    pub looks: bool,
    /// What the local Redis can load.
    pub target: RdbVersion,
    /// A later moment is not believed.
    pub latest: Timestamp,
    /// What is still to come of the peer besides units.
    pub owed: Owed,
}

/// What the commands of a unit are, as far as it matters here.
#[derive(Default)]
struct Commands {
    count: usize,
    flushes: Vec<(usize, String)>,
    highest_selected: Option<Database>,
    /// Of these conflicts are looked for.
    touched: SmallVec<[Touched; 1]>,
    /// Some are about whole databases.
    wide: bool,
}

impl Reading<'_> {
    /// Unit `index` of the block, ready to be applied.
    pub(super) fn item(
        &self,
        scanner: &mut Scanner,
        block: &Block,
        index: usize,
    ) -> Result<Item, LinkError> {
        let unit = &block.units[index];
        let bytes = block.payload.slice(unit.from..unit.to);
        let mut bytes = match bytes.strip_prefix(MULTI) {
            Some(rest) if rest.ends_with(EXEC) => {
                bytes.slice(MULTI.len()..bytes.len() - EXEC.len())
            }
            Some(_) => return Err(LinkError::Broken("a MULTI without its EXEC".to_owned())),
            None => bytes,
        };
        if unit.state {
            bytes = states(&bytes, self.target)?;
        }
        let mut commands = self.scan(scanner, &bytes, unit)?;
        let mut item = Item::new(unit.database, bytes, commands.count, Kind::Unit);
        item.database_after = unit.database_after;
        item.highest_database =
            unit.database.max(commands.highest_selected.unwrap_or(unit.database));
        item.checkpoint = Some(Checkpoint {
            position: Position { replid: block.replid, offset: unit.end },
            database: unit.database_after,
            time: block.timestamp(index).unix_millis(),
            owed: self.owed,
        });
        if let Some((_, name)) = commands.flushes.first() {
            match self.flush {
                Flush::Forward => item.kind = Kind::Flush,
                Flush::Stop => return Err(LinkError::Flushed(name.clone())),
                Flush::Drop => {
                    for (at, _) in commands.flushes.iter().rev() {
                        item = item.without(*at);
                    }
                    commands = self.scan(scanner, &item.commands, unit)?;
                }
            }
        }
        item.remote = Some(Arc::new(RemoteUnit {
            time: block.timestamp(index).min(self.latest),
            seen: block.seen[unit.seen].of(self.site),
            state: unit.state,
            wide: commands.wide,
            touched: commands.touched,
        }));
        Ok(item)
    }

    fn scan(
        &self,
        scanner: &mut Scanner,
        bytes: &Bytes,
        unit: &UnitHead,
    ) -> Result<Commands, LinkError> {
        let mut found = Commands::default();
        let (mut database, mut at) = (unit.database, 0);
        while at < bytes.len() {
            let command = scanner.scan(&bytes[at..]);
            let command = command.map_err(|error| LinkError::Broken(error.to_string()))?;
            let Some(command) = command.filter(|command| !command.is_empty()) else {
                return Err(LinkError::Broken("a unit that ends within a command".to_owned()));
            };
            // Neither may stand inside of our own MULTI.
            if command.is("MULTI") || command.is("EXEC") || command.is("DISCARD") {
                return Err(LinkError::Broken("a transaction within a transaction".to_owned()));
            }
            if command.is("SELECT") {
                database = selected(command)
                    .ok_or_else(|| LinkError::Broken("a SELECT of nothing".to_owned()))?;
                found.highest_selected = found.highest_selected.max(Some(database));
            } else if self.looks {
                self.touch(&mut found, (database, command), bytes, unit.state);
            }
            if command.is("FLUSHALL") || command.is("FLUSHDB") {
                let name = String::from_utf8_lossy(command.arg(0)).to_ascii_uppercase();
                found.flushes.push((found.count, name));
            }
            found.count += 1;
            at += command.raw().len();
        }
        Ok(found)
    }

    /// Adds what the next command of a unit touches.
    fn touch(
        &self,
        found: &mut Commands,
        (database, command): (Database, Command<'_>),
        bytes: &Bytes,
        state: bool,
    ) {
        let at = found.count;
        if state {
            found.touched.push(Touched::new(at, state_touch(database, command), bytes));
            return;
        }
        found.wide |= is_wide(command);
        touches(self.keys, database, command, |touch| {
            found.touched.push(Touched::new(at, touch, bytes));
        });
    }
}

/// The primary's word on keys, in a form that the local Redis can load.
fn states(bytes: &Bytes, target: RdbVersion) -> Result<Bytes, LinkError> {
    let mut out = BytesMut::with_capacity(bytes.len());
    let mut failed = None;
    each_command(bytes, |_, command| {
        if command.is("RESTORE")
            && let Err(error) = restore(command, bytes, target, &mut out)
        {
            failed = Some(error);
        } else if !command.is("RESTORE") {
            out.put_slice(command.raw());
        }
    });
    failed.map_or_else(|| Ok(out.freeze()), |error| Err(error.into()))
}

/// `RESTORE key time payload REPLACE ABSTTL`.
fn restore(
    command: Command<'_>,
    bytes: &Bytes,
    target: RdbVersion,
    out: &mut BytesMut,
) -> Result<(), RdbError> {
    let key = bytes.slice_ref(command.arg(1));
    let payload = bytes.slice_ref(command.arg(3));
    let Some(mut entry) = Entry::from_dump(0, key, &payload) else {
        out.put_slice(command.raw());
        return Ok(());
    };
    if let Some(payload) = entry.restore_payload(target) {
        let words = [command.arg(0), command.arg(1), command.arg(2), &payload];
        let options = [&b"REPLACE"[..], b"ABSTTL"];
        resp::put_command(out, &[&words[..], &options].concat());
        return Ok(());
    }
    let expires = std::str::from_utf8(command.arg(2)).ok().and_then(|text| text.parse().ok());
    entry.expires_at = expires.filter(|time| *time > 0);
    resp::put_command(out, &[b"DEL", command.arg(1)]);
    entry.to_commands(target, COMMAND_LIMITS, &mut |words| resp::put_command(out, &words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::BlockBuilder;
    use crate::position::{Offset, ReplicationId};
    use crate::resp::Limits;
    use crate::resp::put_command;

    fn item_of(block: &Block, index: usize, flush: Flush) -> Result<Item, LinkError> {
        let (site, keys) = ("a".parse().unwrap(), KeyTable::default());
        let (target, latest) = (RdbVersion::redis(9), Timestamp(u64::MAX));
        Reading {
            flush,
            site: &site,
            keys: &keys,
            looks: true,
            target,
            latest,
            owed: Owed::Nothing,
        }
        .item(&mut Scanner::new(Limits::STREAM), block, index)
    }

    fn command(args: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        put_command(&mut out, args);
        out
    }

    fn block() -> Block {
        let mut builder = BlockBuilder::new(None);
        let seen = Arc::default();
        builder.unit(Database(2), &command(&["SET", "a", "1"]), Offset(10), &seen);
        builder.begin(Database(3), &command(&["INCR", "n"]));
        builder.more(&command(&["FLUSHDB"]));
        builder.end(Database(3), Offset(20), &seen);
        builder.take(ReplicationId::random(), Offset(0), Offset(20))
    }

    #[test]
    fn transactions_lose_their_frame_and_keep_their_place() {
        let block = block();
        let first = item_of(&block, 0, Flush::Stop).unwrap();
        assert_eq!((first.count, first.database), (1, Database(2)));
        assert_eq!(first.checkpoint.unwrap().position.offset, Offset(10));
        let second = item_of(&block, 1, Flush::Forward).unwrap();
        assert_eq!((second.count, second.kind), (2, Kind::Flush));
        assert_eq!(second.commands, [command(&["INCR", "n"]), command(&["FLUSHDB"])].concat());
    }

    #[test]
    fn a_flush_goes_by_the_policy() {
        let block = block();
        assert!(matches!(item_of(&block, 1, Flush::Stop), Err(LinkError::Flushed(_))));
        let kept = item_of(&block, 1, Flush::Drop).unwrap();
        assert_eq!((kept.count, kept.kind), (1, Kind::Unit));
        assert_eq!(kept.commands, command(&["INCR", "n"]));
        assert_eq!(kept.checkpoint.unwrap().position.offset, Offset(20));
    }

    #[test]
    fn what_a_unit_touches_is_known_by_the_place_of_its_commands() {
        let block = block();
        let item = item_of(&block, 1, Flush::Drop).unwrap();
        let remote = item.remote.unwrap();
        assert_eq!((remote.touched.len(), remote.wide, remote.state), (1, false, false));
        assert_eq!((remote.touched[0].command, &remote.touched[0].key.name[..]), (0, &b"n"[..]));
        assert_eq!(remote.touched[0].key.database, Database(3));
        assert!(item_of(&block, 1, Flush::Forward).unwrap().remote.unwrap().wide);
    }

    #[test]
    fn a_state_is_made_loadable_here() {
        // DUMP of a list of "a" by Redis 7.0: a quicklist of the second kind, which 6.2 can't load.
        let payload = b"\x12\x01\x01\x01a\x0a\x00********";
        let restore: [&[u8]; 6] = [b"RESTORE", b"k", b"0", payload, b"REPLACE", b"ABSTTL"];
        let mut bytes = Vec::new();
        resp::put_command(&mut bytes, &[b"DEL", &b"gone"[..]]);
        resp::put_command(&mut bytes, &restore);
        let mut builder = BlockBuilder::new(None);
        let place = (Database(0), Database(0));
        builder.state(&bytes, place, Offset(10), &Arc::default());
        let block = builder.take(ReplicationId::random(), Offset(0), Offset(10));
        let item = item_of(&block, 0, Flush::Stop).unwrap();
        let wanted =
            [command(&["DEL", "gone"]), command(&["DEL", "k"]), command(&["RPUSH", "k", "a"])];
        assert_eq!(item.commands, wanted.concat());
        let remote = item.remote.unwrap();
        assert!(remote.state);
        assert_eq!(remote.touched.iter().map(|t| t.command).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn the_highest_database_of_a_unit_is_known() {
        let mut builder = BlockBuilder::new(None);
        builder.begin(Database(2), &command(&["SET", "a", "1"]));
        builder.more(&command(&["SELECT", "9"]));
        builder.more(&command(&["SET", "a", "1"]));
        builder.more(&command(&["SELECT", "1"]));
        builder.end(Database(1), Offset(20), &Arc::default());
        let block = builder.take(ReplicationId::random(), Offset(0), Offset(20));
        let item = item_of(&block, 0, Flush::Stop).unwrap();
        assert_eq!((item.database, item.database_after), (Database(2), Database(1)));
        assert_eq!(item.highest_database, Database(9));
    }

    #[test]
    fn broken_units_are_refused() {
        for bytes in [&b"*1\r\n$4\r\nPI"[..], b"+OK\r\n", b"*0\r\n", EXEC] {
            let mut builder = BlockBuilder::new(None);
            builder.unit(Database(0), bytes, Offset(10), &Arc::default());
            let block = builder.take(ReplicationId::random(), Offset(0), Offset(10));
            assert!(matches!(item_of(&block, 0, Flush::Stop), Err(LinkError::Broken(_))));
        }
    }
}
