//! Which arguments of a command are keys, as the local Redis itself says.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use redis_protocol::resp2::types::BytesFrame;

use crate::redis::{Connection, RedisError};
use crate::resp::Command;

/// Where the keys stand: the first, the last (from the end if negative), and the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    first: i64,
    last: i64,
    step: i64,
}

/// The commands of the local Redis and the places of their keys.
#[derive(Debug, Default)]
pub struct KeyTable(HashMap<Vec<u8>, Places, RandomState>);

impl KeyTable {
    /// Asks the server, by `COMMAND`.
    pub async fn load(connection: &mut Connection) -> Result<Self, RedisError> {
        let BytesFrame::Array(commands) = connection.call(&["COMMAND"]).await? else {
            return Err(connection.unexpected("COMMAND", "no list"));
        };
        Ok(Self(commands.iter().filter_map(entry).collect()))
    }

    /// Commands with their keys at these places: first, last, step.
    #[cfg(test)]
    pub(super) fn of_rows(rows: &[(&str, i64, i64, i64)]) -> Self {
        let row = |(name, first, last, step): &(&str, i64, i64, i64)| {
            (name.as_bytes().to_vec(), Places { first: *first, last: *last, step: *step })
        };
        Self(rows.iter().map(row).collect())
    }

    /// Calls `use_it` with each key that the command may touch. Of a command that the server does
    /// not know, and of one that names no place, every argument may be a key.
    pub fn each_key<'a>(&self, command: Command<'a>, mut use_it: impl FnMut(&'a [u8])) {
        let name = command.arg(0).to_ascii_lowercase();
        let length = i64::try_from(command.len()).unwrap_or(i64::MAX);
        let places = match name.as_slice() {
            // A container up to 7.0 names the places, later its subcommands do.
            b"xgroup" => Places { first: 2, last: 2, step: 1 },
            // They may store, at a place of their own choice.
            b"sort" | b"georadius" | b"georadiusbymember" => {
                Places { first: 1, last: length - 1, step: 1 }
            }
            name => match self.0.get(name) {
                Some(places) if places.first > 0 => *places,
                _ => Places { first: 1, last: length - 1, step: 1 },
            },
        };
        let last = if places.last < 0 { length + places.last } else { places.last };
        let mut at = places.first;
        while at <= last && at < length {
            use_it(command.arg(usize::try_from(at).unwrap_or(0)));
            at += places.step.max(1);
        }
    }
}

fn entry(command: &BytesFrame) -> Option<(Vec<u8>, Places)> {
    let BytesFrame::Array(fields) = command else { return None };
    let name = match fields.first()? {
        BytesFrame::BulkString(name) | BytesFrame::SimpleString(name) => name.to_ascii_lowercase(),
        _ => return None,
    };
    let number = |at: usize| match fields.get(at) {
        Some(BytesFrame::Integer(number)) => Some(*number),
        _ => None,
    };
    Some((name, Places { first: number(3)?, last: number(4)?, step: number(5)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Scanner, put_command};

    #[test]
    fn keys_stand_where_the_server_says() {
        let rows = [
            ("set", 1, 1, 1),
            ("mset", 1, -1, 2),
            ("del", 1, -1, 1),
            ("rename", 1, 2, 1),
            ("bitop", 2, -1, 1),
        ];
        let table = KeyTable::of_rows(&rows);
        let keys = |line: &str| {
            let mut out = Vec::new();
            put_command(&mut out, &line.split(' ').collect::<Vec<_>>());
            let mut scanner = Scanner::new(Limits::STREAM);
            let command = scanner.scan(&out).unwrap().unwrap();
            let mut keys = Vec::new();
            table.each_key(command, |key| keys.push(String::from_utf8_lossy(key).into_owned()));
            keys.join(" ")
        };
        assert_eq!(keys("SET k v EX 10"), "k");
        assert_eq!(keys("mset a 1 b 2"), "a b");
        assert_eq!(keys("DEL a b c"), "a b c");
        assert_eq!(keys("RENAME a b"), "a b");
        assert_eq!(keys("BITOP OR d a b"), "d a b");
        assert_eq!(keys("XGROUP CREATE k g 0"), "k");
        assert_eq!(keys("SORT k STORE d"), "k STORE d");
        assert_eq!(keys("NOSUCH a b"), "a b");
        assert_eq!(keys("FLUSHALL"), "");
    }
}
