//! What the local Redis says of its commands: which of them write, and whom they are for.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use redis_protocol::resp2::types::BytesFrame;
use smallvec::SmallVec;

use super::rights::{self, Need};
use crate::redis::{Connection, RedisError};
use crate::resp::Request;

/// What a command does to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may end up in the replication stream.
    Write,
    /// It only reads data, so it may stand in one of our batches.
    Read,
    /// Anything else: of the connection or the server.
    Other,
}

/// One command, or one subcommand of a container.
#[derive(Debug, Clone, Copy)]
struct Facts {
    kind: Kind,
    need: Need,
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    /// Of container commands. Up to 6.2 they are not listed; then those of [`rights`].
    subcommands: HashMap<Vec<u8>, Facts, RandomState>,
}

/// `proto-max-bulk-len` where the server doesn't tell: its default.
const MAX_BULK: usize = 512 << 20;

/// The commands of the local Redis, and how long their arguments may be.
#[derive(Debug)]
pub struct CommandTable {
    entries: HashMap<Vec<u8>, Entry, RandomState>,
    max_bulk: usize,
}

/// A name in lower case; command names are short, so it stays on the stack.
pub(super) type Name = SmallVec<[u8; 32]>;

/// `name` in lower case.
pub(super) fn lower(name: &[u8]) -> Name {
    name.iter().map(u8::to_ascii_lowercase).collect()
}

impl CommandTable {
    /// Asks the server. Once at start is enough: a module's command that comes later is taken for
    /// a write of an administrator's.
    pub async fn load(connection: &mut Connection) -> Result<Self, RedisError> {
        let frame = connection.call(&["COMMAND"]).await?;
        // It may be forbidden to ask.
        let asked = connection.call(&["CONFIG", "GET", "proto-max-bulk-len"]).await;
        let BytesFrame::Array(commands) = frame else {
            return Err(connection.unexpected("COMMAND", "no list"));
        };
        let table: HashMap<_, _, _> = commands.iter().filter_map(entry).collect();
        if !table.contains_key(&b"hset"[..]) {
            return Err(connection.unexpected("COMMAND", "a list without HSET"));
        }
        let max_bulk = match asked {
            Ok(BytesFrame::Array(pair)) => pair.get(1).and_then(text).and_then(|length| {
                std::str::from_utf8(length).ok().and_then(|length| length.parse().ok())
            }),
            Ok(_) | Err(RedisError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { entries: table, max_bulk: max_bulk.unwrap_or(MAX_BULK) })
    }

    /// Most bytes in one argument.
    pub(super) fn max_bulk(&self) -> usize {
        self.max_bulk
    }

    /// What a request does; `name` is its name in lower case. What the server did not list may be
    /// a write.
    pub(super) fn kind(&self, name: &[u8], request: &Request) -> Kind {
        if may_replicate(name, request) {
            return Kind::Write;
        }
        let Some(entry) = self.entries.get(name) else { return Kind::Write };
        if entry.subcommands.is_empty() || request.len() < 2 {
            return entry.facts.kind;
        }
        let known = entry.subcommands.get(lower(request.arg(1)).as_slice());
        known.map_or_else(
            || {
                let writes = entry.subcommands.values().any(|facts| facts.kind == Kind::Write);
                if writes { Kind::Write } else { entry.facts.kind }
            },
            |facts| facts.kind,
        )
    }

    /// Whom a request is for. A subcommand that the server did not list is for administrators.
    pub(super) fn need(&self, request: &Request) -> Need {
        let Some(entry) = self.entries.get(lower(request.arg(0)).as_slice()) else {
            return Need::Unlisted;
        };
        if entry.subcommands.is_empty() || request.len() < 2 {
            return entry.facts.need;
        }
        let known = entry.subcommands.get(lower(request.arg(1)).as_slice());
        match known.map_or(Need::Admin, |facts| facts.need) {
            Need::Settings if rights::asks_for_settings(request) => Need::Data,
            Need::Settings => Need::Admin,
            need => need,
        }
    }

    /// Whether a command has this subcommand; both in lower case.
    pub(super) fn has_subcommand(&self, name: &[u8], subcommand: &[u8]) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.subcommands.contains_key(subcommand))
    }
}

/// What has no `write` flag and can stand in the stream all the same. Servers have a flag for it,
/// but 7.0 does not list it.
fn may_replicate(name: &[u8], request: &Request) -> bool {
    match name {
        b"eval" | b"evalsha" | b"fcall" | b"publish" | b"spublish" | b"pfcount" | b"pfdebug" => {
            true
        }
        // In the stream up to 6.2; harmless in a batch later.
        b"script" => request.arg_is(1, "load") || request.arg_is(1, "flush"),
        _ => false,
    }
}

fn entry(command: &BytesFrame) -> Option<(Vec<u8>, Entry)> {
    let (name, facts) = name_and_facts(command)?;
    let BytesFrame::Array(fields) = command else { return None };
    // From 7.0 on the tenth field lists the subcommands, named `container|subcommand`.
    let listed = match fields.get(9) {
        Some(BytesFrame::Array(listed)) => listed.as_slice(),
        _ => &[],
    };
    let subcommands = listed.iter().filter_map(|subcommand| {
        let (full, facts) = name_and_facts(subcommand)?;
        let bar = full.find('|')?;
        Some((full[bar + 1..].into(), facts))
    });
    let mut subcommands: HashMap<_, _, _> = subcommands.collect();
    if fields.len() < 10 {
        subcommands = unlisted(&name, &categories(fields), facts.kind);
    }
    Some((name.into(), Entry { facts, subcommands }))
}

/// The subcommands that we know of where the server lists none.
fn unlisted(name: &str, categories: &[&str], kind: Kind) -> HashMap<Vec<u8>, Facts, RandomState> {
    let known = rights::SUBCOMMANDS.iter().find(|(container, _)| *container == name);
    let harmless: Vec<&str> = categories
        .iter()
        .copied()
        .filter(|category| !["admin", "dangerous"].contains(category))
        .collect();
    let facts = |subcommand: &&str| {
        let need = rights::need(&format!("{name}|{subcommand}"), &harmless);
        (subcommand.as_bytes().to_vec(), Facts { kind, need })
    };
    known.map_or_else(HashMap::default, |(_, names)| names.iter().map(facts).collect())
}

fn name_and_facts(command: &BytesFrame) -> Option<(String, Facts)> {
    let BytesFrame::Array(fields) = command else { return None };
    let name = std::str::from_utf8(text(fields.first()?)?).ok()?.to_ascii_lowercase();
    let categories = categories(fields);
    let has = |wanted| categories.contains(&wanted);
    let kind = if has("write") {
        Kind::Write
    } else if has("readonly") {
        Kind::Read
    } else {
        Kind::Other
    };
    let need = rights::need(&name, &categories);
    Some((name, Facts { kind, need }))
}

/// Flags (the third field) and ACL categories (the seventh, from 6.0 on), without `@`. A module's
/// command may have flags alone.
fn categories(fields: &[BytesFrame]) -> Vec<&str> {
    let words = [2, 6].into_iter().filter_map(|at| match fields.get(at) {
        Some(BytesFrame::Array(words)) => Some(words.as_slice()),
        _ => None,
    });
    let words = words.flatten().filter_map(|word| std::str::from_utf8(text(word)?).ok());
    words.map(|word| word.trim_start_matches('@')).collect()
}

fn text(frame: &BytesFrame) -> Option<&[u8]> {
    match frame {
        BytesFrame::BulkString(text) | BytesFrame::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
impl CommandTable {
    /// A table of these commands, `container|subcommand` for a subcommand.
    pub(super) fn of(commands: &[(&str, Kind)]) -> Self {
        let mut table = HashMap::<Vec<u8>, Entry, RandomState>::default();
        for (name, kind) in commands {
            let flags = match kind {
                Kind::Write => &["write"][..],
                Kind::Read => &["read"],
                Kind::Other => &["connection"],
            };
            let facts = Facts { kind: *kind, need: rights::need(name, flags) };
            let (name, subcommand) = name.split_once('|').unwrap_or((name, ""));
            let entry = table.entry(name.into());
            let entry = entry.or_insert_with(|| Entry { facts, subcommands: HashMap::default() });
            if !subcommand.is_empty() {
                entry.subcommands.insert(subcommand.into(), facts);
            }
        }
        Self { entries: table, max_bulk: MAX_BULK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_may_write() {
        let table = CommandTable::of(&[
            ("get", Kind::Read),
            ("function", Kind::Other),
            ("function|load", Kind::Write),
            ("function|list", Kind::Other),
            ("object", Kind::Other),
            ("object|freq", Kind::Read),
        ]);
        let kind = |args: &[&str]| table.kind(&lower(args[0].as_bytes()), &Request::of(args));
        assert_eq!(kind(&["GET", "k"]), Kind::Read);
        assert_eq!(kind(&["JSON.SET", "k"]), Kind::Write);
        assert_eq!(kind(&["FUNCTION", "Load", "x"]), Kind::Write);
        assert_eq!(kind(&["FUNCTION", "LIST"]), Kind::Other);
        assert_eq!(kind(&["FUNCTION", "NEW"]), Kind::Write);
        assert_eq!(kind(&["OBJECT", "NEW"]), Kind::Other);
        assert_eq!(kind(&["PUBLISH", "c", "x"]), Kind::Write);
        assert_eq!(kind(&["SCRIPT", "load", "x"]), Kind::Write);
    }
}
