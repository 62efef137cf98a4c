//! From a unit of a peer to an item for the applier. Pure.

use bytes::Bytes;

use super::LinkError;
use crate::apply::{Item, Kind};
use crate::config::Flush;
use crate::journal::{Block, EXEC, MULTI};
use crate::position::{Checkpoint, Database, Position};
use crate::resp::{Limits, Scanner};

/// What the commands of a unit are, as far as it matters here.
struct Commands {
    count: usize,
    flushes: Vec<(usize, String)>,
    highest_selected: Option<Database>,
}

/// Unit `index` of the block, ready to be applied.
pub(super) fn item_of(block: &Block, index: usize, flush: Flush) -> Result<Item, LinkError> {
    let unit = &block.units[index];
    let bytes = block.payload.slice(unit.from..unit.to);
    let bytes = match bytes.strip_prefix(MULTI) {
        Some(rest) if rest.ends_with(EXEC) => bytes.slice(MULTI.len()..bytes.len() - EXEC.len()),
        Some(_) => return Err(LinkError::Broken("a MULTI without its EXEC".to_owned())),
        None => bytes,
    };
    let commands = scan(&bytes)?;
    let mut item = Item::new(unit.database, bytes, commands.count, Kind::Unit);
    item.database_after = unit.database_after;
    item.highest_database = unit.database.max(commands.highest_selected.unwrap_or(unit.database));
    item.checkpoint = Some(Checkpoint {
        position: Position { replid: block.replid, offset: unit.end },
        database: unit.database_after,
        time: block.timestamp(index).unix_millis(),
    });
    if let Some((_, name)) = commands.flushes.first() {
        match flush {
            Flush::Forward => item.kind = Kind::Flush,
            Flush::Stop => return Err(LinkError::Flushed(name.clone())),
            Flush::Drop => {
                for (at, _) in commands.flushes.iter().rev() {
                    item = item.without(*at);
                }
            }
        }
    }
    Ok(item)
}

fn scan(bytes: &Bytes) -> Result<Commands, LinkError> {
    let mut scanner = Scanner::new(Limits::STREAM);
    let mut found = Commands { count: 0, flushes: Vec::new(), highest_selected: None };
    let mut at = 0;
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
            let number =
                std::str::from_utf8(command.arg(1)).ok().and_then(|text| text.parse().ok());
            let number =
                number.ok_or_else(|| LinkError::Broken("a SELECT of nothing".to_owned()))?;
            found.highest_selected = found.highest_selected.max(Some(Database(number)));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::BlockBuilder;
    use crate::position::{Offset, ReplicationId};
    use crate::resp::put_command;

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
