//! The hot paths alone, one a run, for `./dev instructions`: it runs this under callgrind with two
//! counts, so that what a start costs drops out, and holds the difference against [`PATHS`].
//!
//! `hot_paths` prints the paths with their limits; `hot_paths PATH COUNT` goes through one. Where
//! commands have their keys is read from a real server.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a bench is a program for people to read; a panic is how it fails"
)]

#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
mod support;

use std::hint::black_box;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use redis_duplex::clock::Timestamp;
use redis_duplex::config::Policy;
use redis_duplex::conflict::{Conflicts, KeyTable, RemoteUnit, Touched, touches};
use redis_duplex::journal::{Block, BlockBuilder};
use redis_duplex::position::{
    Checkpoint, Database, Offset, Owed, Position, ReplicationId, Seen, SiteName,
};
use redis_duplex::redis::{Connection, Target};
use redis_duplex::resp::{Limits, ReplyScanner, RequestParser, Scanner, put_command};
use redis_duplex::write_off::{Filter, Mark, Origin, Settled, Verdict, WriteOffSet};
use smallvec::SmallVec;
use support::redis_server::RedisServer;

/// Commands that are read at once: 16 KiB of stream.
const AT_ONCE: usize = 150;
/// Local keys that the peer has not seen where both sites write as fast as they can.
const BEHIND: usize = 100_000;

/// One way of a write through the sidecar, or a part of it.
struct Path {
    name: &'static str,
    /// Instructions for one write, at most: the figure in docs/benchmarks.md when it was set, and a
    /// tenth. What [`input`] takes is not in it.
    limit: u32,
    run: fn(&Setup, usize),
}

const PATHS: [Path; 9] = [
    Path { name: "input", limit: 1600, run: input },
    Path { name: "local", limit: 870, run: |setup, count| local(setup, count, false) },
    Path { name: "local_entered", limit: 1630, run: |setup, count| local(setup, count, true) },
    Path { name: "echo", limit: 905, run: echo },
    Path { name: "peer_unit", limit: 1960, run: |setup, count| peer_unit(setup, count, 0) },
    Path {
        name: "peer_unit_both_write",
        limit: 3380,
        run: |setup, count| peer_unit(setup, count, BEHIND),
    },
    Path { name: "block", limit: 610, run: block },
    Path { name: "request", limit: 800, run: request },
    Path { name: "reply", limit: 140, run: reply },
];

struct Setup {
    keys: KeyTable,
    site: SiteName,
    replid: ReplicationId,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [path, count] = args.as_slice() else {
        for Path { name, limit, .. } in PATHS {
            println!("{name} {limit}");
        }
        return;
    };
    let path = PATHS.iter().find(|known| known.name == path).expect("a path of the list");
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let keys = runtime.block_on(async {
        let mut connection = Connection::open(&Target::open(server.addr())).await.unwrap();
        KeyTable::load(&mut connection).await.unwrap()
    });
    let replid = ReplicationId::from_bytes(&[b'7'; 40]).unwrap();
    let setup = Setup { keys, site: "b".parse().unwrap(), replid };
    (path.run)(&setup, count.parse().expect("a count"));
}

/// So many SET of 64 bytes, each of another key.
fn sets(first: usize, count: usize) -> BytesMut {
    let (mut out, value) = (BytesMut::new(), [b'v'; 64]);
    for number in first..first + count {
        put_command(&mut out, &[&b"SET"[..], format!("key:{number:012}").as_bytes(), &value]);
    }
    out
}

/// What all of the others begin with; taken off their figures.
fn input(_: &Setup, count: usize) {
    for first in (0..count).step_by(AT_ONCE) {
        black_box(sets(first, AT_ONCE));
    }
}

/// From the local Redis's stream to a block for the journal; `entered` in the table of what the peer has not seen.
fn local(setup: &Setup, count: usize, entered: bool) {
    let conflicts = entered.then(|| Conflicts::new(Policy::Converge, true, 1_000_000));
    if let Some(conflicts) = &conflicts {
        conflicts.begin_history(Position { replid: setup.replid, offset: Offset(0) });
    }
    let mut scanner = Scanner::new(Limits::STREAM);
    let mut filter = Filter::new(Database(0));
    let (mut builder, seen) = (BlockBuilder::new(None), Arc::new(Seen::default()));
    let mut at = Offset(0);
    for first in (0..count).step_by(AT_ONCE) {
        let (stream, begin) = (sets(first, AT_ONCE), at);
        let mut rest = &stream[..];
        while let Some(command) = scanner.scan(rest).unwrap() {
            let raw = command.raw();
            rest = &rest[raw.len()..];
            at.0 += raw.len() as u64;
            let Verdict::Unit(words) = filter.judge(command) else { panic!("a local unit") };
            if let Some(conflicts) = &conflicts {
                conflicts.enter(&setup.keys, Database(0), command, at, Timestamp(at.0));
            }
            builder.unit(Database(0), words.bytes(raw), at, &seen);
        }
        black_box(builder.take(setup.replid, begin, at));
        // The peer is some blocks behind.
        if let Some(conflicts) = &conflicts {
            conflicts.scanned(at);
            let seen = Offset(at.0.saturating_sub(1 << 20));
            conflicts.seen(Position { replid: setup.replid, offset: seen });
        }
    }
}

/// Batches of ours that come back: each holds as many writes as are read at once.
fn echo(setup: &Setup, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (set, mut filter) = (WriteOffSet::new(), Filter::new(Database(0)));
    let mut scanner = Scanner::new(Limits::STREAM);
    let position = Position { replid: setup.replid, offset: Offset(1 << 40) };
    let there = Checkpoint { position, database: Database(0), time: 1 << 40, owed: Owed::Nothing };
    for first in (0..count).step_by(AT_ONCE) {
        let tag = runtime.block_on(set.issue(Origin::Endpoint));
        let mut stream = BytesMut::new();
        put_command(&mut stream, &["MULTI"]);
        Mark { site: setup.site.clone(), tag, checkpoint: Some(there) }.put(&mut stream);
        stream.put_slice(&sets(first, AT_ONCE));
        put_command(&mut stream, &["EXEC"]);
        let mut rest = &stream[..];
        while let Some(command) = scanner.scan(rest).unwrap() {
            rest = &rest[command.raw().len()..];
            match filter.judge(command) {
                Verdict::Skip => {}
                Verdict::Echo(mark) => assert!(matches!(set.settle(mark.tag), Settled::Ours(..))),
                _ => panic!("an echo"),
            }
        }
    }
}

/// What a peer's unit is, as far as conflicts go, whether it conflicts, and again when it came back
/// in the stream.
fn peer_unit(setup: &Setup, count: usize, unseen: usize) {
    let conflicts = Conflicts::new(Policy::Converge, true, 1_000_000);
    conflicts.begin_history(Position { replid: setup.replid, offset: Offset(0) });
    let seen = Some(Position { replid: setup.replid, offset: Offset(0) });
    let (own, mut scanner) = (sets(1 << 30, unseen), Scanner::new(Limits::STREAM));
    let mut at = 0;
    while let Some(command) = scanner.scan(&own[at..]).unwrap() {
        at += command.raw().len();
        let end = Offset(at as u64);
        conflicts.enter(&setup.keys, Database(0), command, end, Timestamp(at as u64));
    }
    for first in (0..count).step_by(AT_ONCE) {
        let units = sets(first, AT_ONCE).freeze();
        let mut scanner = Scanner::new(Limits::STREAM);
        let (mut at, mut batch) = (0, Vec::new());
        while let Some(command) = scanner.scan(&units[at..]).unwrap() {
            at += command.raw().len();
            let mut touched = SmallVec::new();
            touches(&setup.keys, Database(0), command, |touch| {
                touched.push(Touched::new(0, touch, &units));
            });
            let time = Timestamp(1 << 40);
            let unit = RemoteUnit { time, seen, state: false, wide: false, touched };
            assert!(conflicts.judge(black_box(&unit)).is_empty());
            batch.push(Arc::new(unit));
        }
        conflicts.came_back(Offset((first + AT_ONCE) as u64), first as u64, &batch);
    }
}

/// A block onto a link or to disk, and back.
fn block(setup: &Setup, count: usize) {
    let (mut builder, seen) = (BlockBuilder::new(None), Arc::new(Seen::default()));
    let mut at = Offset(0);
    for first in (0..count).step_by(AT_ONCE) {
        let (stream, begin) = (sets(first, AT_ONCE), at);
        for set in stream.chunks(stream.len() / AT_ONCE) {
            at.0 += set.len() as u64;
            builder.unit(Database(0), set, at, &seen);
        }
        let mut out = BytesMut::new();
        builder.take(setup.replid, begin, at).encode(&mut out);
        black_box(Block::decode(&out.freeze()).unwrap());
    }
}

/// What a client sends.
fn request(_: &Setup, count: usize) {
    let mut parser = RequestParser::new(Limits::CLIENT);
    for first in (0..count).step_by(AT_ONCE) {
        let mut input = sets(first, AT_ONCE);
        while let Some(request) = parser.parse(&mut input).unwrap() {
            black_box(request);
        }
    }
}

/// What a server answers: as many replies of 64 bytes.
fn reply(_: &Setup, count: usize) {
    let mut scanner = ReplyScanner::default();
    let one = [&b"$64\r\n"[..], &[b'v'; 64], b"\r\n"].concat();
    let all = one.repeat(AT_ONCE);
    for first in (0..count).step_by(AT_ONCE) {
        black_box(sets(first, AT_ONCE));
        let mut rest = &all[..];
        while let Some(length) = scanner.scan(rest).unwrap() {
            rest = &rest[length..];
        }
    }
}
