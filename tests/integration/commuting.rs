//! What `conflict::Effect` claims of pairs of commands, tried on a real server: where two are said
//! to commute, both orders must leave the same value and time to live, whatever was there before;
//! where one is said to erase the other, nothing of that may stay.

use redis::cmd;
use redis_duplex::conflict::{Effect, KeyTable, touches};
use redis_duplex::position::Database;
use redis_duplex::resp::{Limits, Scanner, put_command};

use crate::support::compare::differences;
use crate::support::redis_server::RedisServer;

/// Commands as they stand in the replication stream, on the key `k`.
const COMMANDS: &[&str] = &[
    "SET k 5",
    "SET k 6 PXAT 4102444800000",
    "SET k 7 KEEPTTL",
    "MSET k 8",
    "GETSET k 9",
    "SETEX k 100000 9",
    "DEL k",
    "UNLINK k",
    "INCR k",
    "INCRBY k 5",
    "DECRBY k 3",
    "APPEND k 1",
    "SETRANGE k 1 77",
    "SETBIT k 9 1",
    "SADD k a",
    "SADD k b c",
    "SREM k a",
    "SREM k b a",
    "HSET k f 1",
    "HSET k f 2 g 3",
    "HMSET k h 4",
    "HSETNX k f 9",
    "HINCRBY k f 4",
    "HINCRBY k g 5",
    "HDEL k f",
    "HDEL k g h",
    "ZADD k 1 a",
    "ZADD k 2 b",
    "ZADD k GT 3 a",
    "ZINCRBY k 1.5 a",
    "ZINCRBY k 0.5 b",
    "ZREM k a",
    "ZREM k b",
    "ZREMRANGEBYRANK k 0 0",
    "LPUSH k x",
    "RPUSH k y",
    "LPOP k",
    "RPOP k",
    "LTRIM k 0 0",
    "LSET k 0 z",
    "XADD k 5-1 f v",
    "XADD k 6-1 f w",
    "XDEL k 1-1",
    "XTRIM k MAXLEN = 1",
    "PFADD k m",
    "PEXPIREAT k 4102444800001",
    "PERSIST k",
    "RENAME k other",
    "COPY other k REPLACE",
    "SUNIONSTORE k k others",
];

/// What is there before: nothing, and a key of each type with and without a time to live.
const BEFORE: &[&str] = &[
    "",
    "SET k 1",
    "SADD k a b",
    "SADD k a",
    "HSET k f 1 g 1",
    "HSET k f 1",
    "ZADD k 1 a 1 b",
    "ZADD k 1 a",
    "RPUSH k p q r",
    "RPUSH k p",
    "XADD k 1-1 f v",
];

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// What the table says of each key that the command touches.
fn effects(line: &str) -> Vec<Effect> {
    let mut out = Vec::new();
    put_command(&mut out, &words(line));
    let mut scanner = Scanner::new(Limits::STREAM);
    let command = scanner.scan(&out).unwrap().unwrap();
    let mut found = Vec::new();
    touches(&KeyTable::default(), Database(0), command, |touch| found.push(touch.effect));
    found
}

/// Runs these on an empty server.
fn prepare(server: &RedisServer, before: &str, expires: bool, lines: &[&str]) {
    let mut all = redis::pipe();
    all.cmd("FLUSHALL");
    all.cmd("SET").arg("other").arg(1).cmd("SADD").arg("others").arg("o");
    let mut add = |line: &str| {
        let words = words(line);
        all.cmd(words[0]).arg(&words[1..]);
    };
    if !before.is_empty() {
        add(before);
    }
    if expires {
        add("PEXPIREAT k 4102444000000");
    }
    for line in lines {
        add(line);
    }
    all.ignore_errors();
    let _: Vec<redis::RedisResult<redis::Value>> = all.query(&mut server.client()).unwrap();
}

fn holds(server: &RedisServer) -> Option<Vec<u8>> {
    cmd("DUMP").arg("k").query(&mut server.client()).unwrap()
}

#[test]
fn what_is_said_to_commute_does_and_what_erases_leaves_nothing() {
    let (one, other) = (RedisServer::start(), RedisServer::start());
    let (mut commuting, mut erasing) = (0, 0);
    for (index, first) in COMMANDS.iter().enumerate() {
        for second in &COMMANDS[index..] {
            let (mine, theirs) = (effects(first), effects(second));
            let commute = mine.iter().all(|a| theirs.iter().all(|b| a.commutes_with(*b)));
            let erases = theirs.iter().all(|b| mine.iter().any(|a| a.erases(*b)));
            if !commute && !erases {
                continue;
            }
            for before in BEFORE {
                for expires in [false, true] {
                    if commute {
                        commuting += 1;
                        prepare(&one, before, expires, &[first, second]);
                        prepare(&other, before, expires, &[second, first]);
                        let found = differences(&one, &other);
                        let told = format!("{first} and {second} on {before:?} ({expires})");
                        assert!(found.is_empty(), "{told}: {found:?}");
                    }
                    if erases && only_k(&one, before, first, second) {
                        erasing += 1;
                        prepare(&one, before, expires, &[first]);
                        prepare(&other, before, expires, &[second, first]);
                        let told = format!("{first} over {second} on {before:?}");
                        assert!(same_fields(&one, &other, first), "{told}");
                    }
                }
            }
        }
    }
    println!("{commuting} runs of pairs that commute, {erasing} of pairs that erase");
    assert!(commuting > 500 && erasing > 500);
}

/// Whether neither fails on what is there: an error changes nothing, and that is no claim.
fn only_k(server: &RedisServer, before: &str, first: &str, second: &str) -> bool {
    let works = |line: &str| {
        prepare(server, before, false, &[]);
        let words = words(line);
        cmd(words[0]).arg(&words[1..]).exec(&mut server.client()).is_ok()
    };
    works(first) && works(second)
}

/// Whether the key is the same; of hashes and sorted sets, what the command itself wrote.
fn same_fields(one: &RedisServer, other: &RedisServer, first: &str) -> bool {
    let words = words(first);
    let read = |server: &RedisServer| -> Vec<Option<String>> {
        let client = &mut server.client();
        match words[0] {
            "HSET" | "HMSET" => cmd("HMGET")
                .arg("k")
                .arg(words[2..].iter().step_by(2).collect::<Vec<_>>())
                .query(client),
            "ZADD" => cmd("ZMSCORE").arg("k").arg(words[3]).query(client),
            _ => return vec![holds(server).map(|bytes| bytes.escape_ascii().to_string())],
        }
        .unwrap()
    };
    read(one) == read(other)
}
