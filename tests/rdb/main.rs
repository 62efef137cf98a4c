//! Snapshots of real servers, into real servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod fixtures;
mod server;

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use redis_duplex::rdb::{CommandLimits, Decoder, Entry, Item, Limits, RdbError};
use server::{Server, binaries};

const COMMANDS: &str = include_str!("../fixtures/rdb/commands.txt");

/// Decodes a snapshot that arrives in pieces of this size.
fn decode(snapshot: &[u8], piece: usize) -> Result<Vec<Item>, RdbError> {
    let (mut decoder, mut buffer) = (Decoder::new(Limits::default()), BytesMut::new());
    let mut items = Vec::new();
    for piece in snapshot.chunks(piece) {
        buffer.extend_from_slice(piece);
        while let Some(item) = decoder.decode(&mut buffer)? {
            items.push(item);
        }
    }
    Ok(items)
}

/// A server with everything: each type in each encoding, small and large.
fn filled(binary: &str) -> Server {
    let mut server = Server::start(binary);
    server.run(COMMANDS);
    server.command(&["SELECT", "1"]);
    let word = |index: usize| format!("element {index} {}", "abcdefgh".repeat(index % 20));
    for chunk in 0..30 {
        let mut lists = [("RPUSH", "list"), ("SADD", "set"), ("ZADD", "zset"), ("HSET", "hash")]
            .map(|(name, key)| vec![name.to_owned(), key.to_owned()]);
        for index in chunk * 100..chunk * 100 + 100 {
            lists[0].push(word(index));
            lists[1].push(word(index));
            lists[2].extend([format!("{index}.{index}"), word(index)]);
            lists[3].extend([word(index), index.to_string()]);
            let id = format!("{}-{index}", 1_700_000_000_000 + index as u64 / 3);
            server.command(&[
                "XADD",
                "stream",
                &id,
                "index",
                &index.to_string(),
                "b",
                &word(index),
            ]);
        }
        for list in lists {
            server.command(&list);
        }
    }
    server.command(&["SET", "compressible", &"0123456789 ".repeat(100_000)]);
    let noise: Vec<u8> =
        (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    server.command(&[b"SET" as &[u8], b"noise", &noise]);
    server.command(&[b"RPUSH" as &[u8], b"plain nodes", &noise, b"x", &noise]);
    server
}

fn native(entry: &Entry, target: &Server) -> Result<Vec<Vec<Bytes>>, RdbError> {
    let mut commands = Vec::new();
    let limits = CommandLimits { elements: 100, bytes: 4096 };
    entry.to_commands(target.version, limits, &mut |command| commands.push(command))?;
    Ok(commands)
}

fn restore(entry: &Entry, target: &Server) -> Option<Vec<Bytes>> {
    let ttl = entry.expires_at.unwrap_or(0).to_string();
    let mut command = vec![Bytes::from("RESTORE"), entry.key.clone(), Bytes::from(ttl)];
    command.extend([entry.restore_payload(target.version)?, Bytes::from("ABSTTL")]);
    Some(command)
}

/// How the keys of a snapshot went into a server; each as the start of its facts' names.
#[derive(Default)]
struct Outcome {
    by_payload: Vec<String>,
    /// Keys that the server can't hold.
    refused: Vec<String>,
}

/// Puts a snapshot into a server.
fn apply(items: &[Item], target: &mut Server, payloads: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for item in items {
        match item {
            Item::Function { code } if target.version.number >= 10 => {
                target.command(&[b"FUNCTION" as &[u8], b"LOAD", code]);
            }
            Item::Entry(entry) => {
                target.command(&["SELECT", &entry.db.to_string()]);
                let facts = format!("{}/{}/", entry.db, entry.key.escape_ascii());
                if let Some(restore) = restore(entry, target).filter(|_| payloads) {
                    target.command(&restore);
                    outcome.by_payload.push(facts);
                    continue;
                }
                match native(entry, target) {
                    Ok(commands) => commands.iter().for_each(|one| drop(target.command(one))),
                    Err(RdbError::NoCommands { .. }) => outcome.refused.push(facts),
                    Err(error) => panic!("{entry:?}: {error}"),
                }
            }
            _ => {}
        }
    }
    outcome
}

/// Facts that releases don't all tell: looked at where both do.
const OF_SOME_RELEASES: [&str; 8] = [
    "expires",
    "expires at all",
    "lag",
    "entries-read",
    "entries-added",
    "active-time",
    "max-deleted-entry-id",
    "recorded-first-entry-id",
];

fn is_comparable(fact: &str, other: &BTreeMap<String, String>, outcome: &Outcome) -> bool {
    let last = fact.rsplit('/').next().unwrap();
    let known_to_both = other.contains_key(fact) || !OF_SOME_RELEASES.contains(&last);
    // Commands can't say when a consumer was seen.
    let carried = !matches!(last, "seen-time" | "active-time")
        || outcome.by_payload.iter().any(|key| fact.starts_with(key));
    // Idempotent producers (Redis 8.6).
    let is_new = ["idmp", "iids", "pids"].iter().any(|start| last.starts_with(start));
    known_to_both && carried && !is_new && fact != "functions"
}

fn compare(source: &mut Server, target: &mut Server, outcome: &Outcome) {
    let (expected, found) = (source.state(), target.state());
    let pair = format!("{} to {}", source.name, target.name);
    for (fact, value) in &expected {
        if outcome.refused.iter().any(|key| fact.starts_with(key)) {
            // Only fields that expire, and only where they can't.
            assert!(fact.contains("/fields:") && target.version.number < 12, "{pair}: {fact}");
        } else if is_comparable(fact, &found, outcome) {
            assert_eq!(found.get(fact), Some(value), "{pair}: {fact}");
        }
    }
    for fact in found.keys().filter(|fact| is_comparable(fact, &expected, outcome)) {
        assert!(expected.contains_key(fact), "{pair}: {fact} came from nowhere");
    }
    if source.name == target.name {
        assert_eq!(expected.get("functions"), found.get("functions"));
        assert!(expected.len() > 150, "only {} facts", expected.len());
    }
}

/// From each server to each.
fn transfer(payloads: bool) {
    for binary in binaries() {
        let mut source = filled(&binary);
        let items = decode(&source.save(), 64 << 10).unwrap();
        assert_eq!(items.last(), Some(&Item::End));
        for binary in binaries() {
            let mut target = Server::start(&binary);
            let outcome = apply(&items, &mut target, payloads);
            compare(&mut source, &mut target, &outcome);
        }
    }
}

#[test]
fn entries_go_over_as_payloads() {
    transfer(true);
}

#[test]
fn entries_go_over_as_commands() {
    transfer(false);
}

#[test]
fn entries_know_how_much_they_are_used() {
    for binary in binaries() {
        let mut server = Server::start(&binary);
        server.command(&["SET", "key", "value"]);
        for (policy, expected) in [
            ("allkeys-lru", (true, false)),
            ("allkeys-lfu", (false, true)),
            ("noeviction", (false, false)),
        ] {
            server.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
            let items = decode(&server.save(), usize::MAX).unwrap();
            let entry = items.iter().find_map(|item| match item {
                Item::Entry(entry) => Some(entry),
                _ => None,
            });
            let entry = entry.unwrap();
            assert_eq!((entry.idle.is_some(), entry.frequency.is_some()), expected, "{policy}");
        }
    }
}
