//! Every command that writes, on both sides at once.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use redis::{Connection, Value, cmd};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::{PATIENCE, eventually_some};

/// A block of rows; a row is a script of commands with `;` between them, words with blanks in
/// quotes. `%` stands for the side's name and a colon, `@` for the name alone. The last command of
/// a row is the one that is tried, and must have an effect.
type Block = (&'static str, &'static [&'static str]);

/// Rows for every server that is supported.
const BLOCKS: &[Block] = &[
    (
        "strings",
        &[
            "APPEND %append x; APPEND %append y",
            "SET %bit1 abc; SET %bit2 abd; BITOP XOR %bitop %bit1 %bit2",
            "DECR %decr",
            "DECRBY %decrby 5",
            "SET %getset 1; GETSET %getset 2",
            "SET %getdel 1; GETDEL %getdel",
            "SET %getex 1; GETEX %getex EX 5000",
            "INCR %incr",
            "INCRBY %incrby 7",
            "INCRBYFLOAT %incrbyfloat 1.25",
            "SET %float-ttl 1 EX 5000; INCRBYFLOAT %float-ttl 2.5",
            "MSET %mset1 1 %mset2 2",
            "MSETNX %msetnx1 1 %msetnx2 2",
            "PSETEX %psetex 5000000 v",
            "SET %set v",
            "SET %set-ex v EX 5000",
            "SET %set-pxat v PXAT 4000000000000",
            "SET %keepttl v EX 5000; SET %keepttl w KEEPTTL",
            "SET %set-get old; SET %set-get new GET",
            "SET %set-xx v; SET %set-xx w XX",
            "SETBIT %setbit 7 1",
            "BITFIELD %bitfield SET u8 0 200 INCRBY u8 0 1",
            "SETEX %setex 5000 v",
            "SETNX %setnx v",
            "SET %setrange hello; SETRANGE %setrange 1 EY",
        ],
    ),
    (
        "lists",
        &[
            "RPUSH %blpop 1 2; BLPOP %blpop 1",
            "RPUSH %brpop 1 2; BRPOP %brpop 1",
            "RPUSH %brpoplpush 1 2; BRPOPLPUSH %brpoplpush %brpoplpush2 1",
            "RPUSH %blmove 1 2; BLMOVE %blmove %blmove2 LEFT LEFT 1",
            "RPUSH %linsert 1 3; LINSERT %linsert BEFORE 3 2",
            "RPUSH %lpop 1 2 3; LPOP %lpop 2",
            "LPUSH %lpush 1 2",
            "LPUSH %lpushx 1; LPUSHX %lpushx 2",
            "RPUSH %lrem 1 2 1; LREM %lrem 0 1",
            "RPUSH %lset 1 2; LSET %lset 0 x",
            "RPUSH %ltrim 1 2 3; LTRIM %ltrim 1 1",
            "RPUSH %lmove 1 2; LMOVE %lmove %lmove2 LEFT RIGHT",
            "RPUSH %rpop 1 2; RPOP %rpop",
            "RPUSH %rpoplpush 1 2; RPOPLPUSH %rpoplpush %rpoplpush2",
            "RPUSH %rpush 1 2",
            "RPUSH %rpushx 1; RPUSHX %rpushx 2",
            "RPUSH %sort 3 1 2; SORT %sort STORE %sort2",
        ],
    ),
    (
        "hashes",
        &[
            "HSET %hdel f 1 g 2; HDEL %hdel f",
            "HINCRBY %hincrby f 3",
            "HINCRBYFLOAT %hincrbyfloat f 1.5",
            "HMSET %hmset f 1 g 2",
            "HSET %hset f 1",
            "HSETNX %hsetnx f 1",
        ],
    ),
    (
        "sets",
        &[
            "SADD %sadd 1 2",
            "SADD %set1 1 2 3; SADD %set2 2 3 4; SDIFFSTORE %sdiffstore %set1 %set2",
            "SADD %set1 5; SADD %set2 5; SINTERSTORE %sinterstore %set1 %set2",
            "SADD %smove 1 2; SMOVE %smove %smove2 1",
            "SADD %spop 1 2 3 4; SPOP %spop",
            "SADD %spop-n 1 2 3 4 5 6; SPOP %spop-n 3",
            "SADD %spop-all 1 2; SPOP %spop-all 5",
            "SADD %srem 1 2; SREM %srem 1",
            "SADD %set1 6; SUNIONSTORE %sunionstore %set1 %set2",
        ],
    ),
    (
        "sorted sets",
        &[
            "GEOADD %geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania; \
             GEOADD %geo CH 13.5 38.2 Palermo",
            "GEOSEARCHSTORE %geostore %geo FROMLONLAT 15 37 BYRADIUS 300 km",
            "ZADD %zadd 1 a 2 b",
            "ZADD %zadd-incr INCR 1.5 a",
            "ZINCRBY %zincrby 2 a",
            "ZADD %z1 1 a 2 b 3 c; ZADD %z2 1 b 2 c 3 d; ZINTERSTORE %zinterstore 2 %z1 %z2",
            "ZDIFFSTORE %zdiffstore 2 %z1 %z2",
            "ZADD %zpopmin 1 a 2 b; ZPOPMIN %zpopmin",
            "ZADD %zpopmax 1 a 2 b; BZPOPMAX %zpopmax 1",
            "ZADD %zrem 1 a 2 b; ZREM %zrem a",
            "ZADD %zremrangebylex 0 a 0 b 0 c; ZREMRANGEBYLEX %zremrangebylex [a [b",
            "ZADD %zremrangebyrank 1 a 2 b 3 c; ZREMRANGEBYRANK %zremrangebyrank 0 1",
            "ZADD %zremrangebyscore 1 a 2 b 3 c; ZREMRANGEBYSCORE %zremrangebyscore 2 3",
            "ZUNIONSTORE %zunionstore 2 %z1 %z2",
            "ZRANGESTORE %zrangestore %z1 0 1",
        ],
    ),
    (
        "keys",
        &[
            "SET %copy v EX 5000; COPY %copy %copy2",
            "SET %copy-db v; COPY %copy-db %copy-db2 DB 5",
            "SET %del v; DEL %del",
            "SET %expire v; EXPIRE %expire 5000",
            "SET %expireat v; EXPIREAT %expireat 4000000000",
            "SET %expire-past v; EXPIREAT %expire-past 1",
            "SET %move v; MOVE %move 5",
            "SET %persist v EX 5000; PERSIST %persist",
            "SET %pexpire v; PEXPIRE %pexpire 5000000",
            "SET %pexpireat v; PEXPIREAT %pexpireat 4000000000000",
            "SET %rename v EX 5000; RENAME %rename %rename2",
            "SET %renamenx v; RENAMENX %renamenx %renamenx2",
            "SET %unlink v; UNLINK %unlink",
            "PFADD %hll1 a b c",
            "PFADD %hll2 c d; PFMERGE %pfmerge %hll1 %hll2",
            "SELECT 4; SET %select v; SELECT 0; SET %select w",
            "MULTI; SET %multi v; INCR %multi-n; SELECT 6; SET %multi v; SELECT 0; EXEC",
            "MULTI; SET %multi-one v; EXEC",
            "SET %restore v; DUMP %restore; RESTORE %restored 5000000 {}",
            "RPUSH %restore2 1 2; SET %restored2 v; DUMP %restore2; \
             RESTORE %restored2 4000000000000 {} ABSTTL REPLACE",
            "PUBLISH %channel hello",
        ],
    ),
    (
        "streams",
        &[
            "XADD %stream * f 1",
            "XADD %stream * f 2; XADD %stream * f 3",
            "XGROUP CREATE %stream g 0",
            "XGROUP CREATECONSUMER %stream g idle",
            "XREADGROUP GROUP g c COUNT 2 STREAMS %stream >",
            "XADD %xack 1-1 f v; XGROUP CREATE %xack g 0; XREADGROUP GROUP g c STREAMS %xack >; \
             XACK %xack g 1-1",
            "XADD %xclaim 1-1 f v; XGROUP CREATE %xclaim g 0; \
             XREADGROUP GROUP g c STREAMS %xclaim >; XCLAIM %xclaim g d 0 1-1",
            "XADD %xtrim 1-1 f v; XADD %xtrim 1-2 f v; XTRIM %xtrim MAXLEN 1",
            "XADD %xdel 1-1 f v; XADD %xdel 1-2 f v; XDEL %xdel 1-1",
            "XADD %maxlen 1-1 f v; XADD %maxlen 1-2 f v; XADD %maxlen MAXLEN 1 * f v",
            "XADD %xsetid 1-1 f v; XSETID %xsetid 9-9",
        ],
    ),
    (
        "scripts",
        &[
            "EVAL 'redis.call(\"SET\", KEYS[1], ARGV[1]) return redis.call(\"INCR\", KEYS[2])' 2 \
             %eval %eval-n v",
            "SCRIPT LOAD 'return redis.call(\"RPUSH\", KEYS[1], ARGV[1], ARGV[2])'; \
             EVALSHA {} 1 %evalsha 1 2",
            "EVAL 'redis.call(\"SELECT\", 7) return redis.call(\"SET\", KEYS[1], 1)' 1 %eval-db",
        ],
    ),
];

/// Rows for 7.0 and later.
const SEVEN: &[Block] = &[(
    "what 7.0 brought",
    &[
        "RPUSH %lmpop 1 2 3; LMPOP 1 %lmpop LEFT COUNT 2",
        "RPUSH %blmpop 1 2 3; BLMPOP 1 1 %blmpop RIGHT",
        "ZADD %zmpop 1 a 2 b 3 c; ZMPOP 1 %zmpop MIN COUNT 2",
        "SADD %sic1 1 2; SADD %sic2 2 3; SINTERCARD 2 %sic1 %sic2",
        "SET %expire-gt v EX 100; EXPIRE %expire-gt 5000 GT",
        "FUNCTION LOAD '#!lua name=lib@\nredis.register_function(\"f@\", function(keys, args) \
         return redis.call(\"SET\", keys[1], args[1]) end)'",
        "FCALL f@ 1 %fcall v",
        "FUNCTION LOAD '#!lua name=gone@\nredis.register_function(\"g@\", function() \
         return 1 end)'; FUNCTION DELETE gone@",
        "SPUBLISH %shard hello",
    ],
)];

/// What must be tried, from the issue.
const LIST: &str = "APPEND BITOP BLPOP BRPOP BRPOPLPUSH DECR DECRBY DEL EVAL EVALSHA EXPIRE \
    EXPIREAT GEOADD GETSET HDEL HINCRBY HINCRBYFLOAT HMSET HSET HSETNX INCR INCRBY INCRBYFLOAT \
    LINSERT LPOP LPUSH LPUSHX LREM LSET LTRIM MOVE MSET MSETNX MULTI EXEC PERSIST PEXPIRE \
    PEXPIREAT PFADD PFMERGE PSETEX PUBLISH RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SADD \
    SDIFFSTORE SELECT SET SETBIT SETEX SETNX SETRANGE SINTERSTORE SMOVE SPOP SREM SUNIONSTORE \
    SWAPDB UNLINK ZADD ZINCRBY ZINTERSTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE \
    ZUNIONSTORE COPY GETDEL GETEX LMOVE LMPOP ZMPOP SINTERCARD XADD XGROUP XREADGROUP XACK XTRIM \
    XDEL FUNCTION FCALL SORT ZRANGESTORE RESTORE";

/// Commands of one side alone: they concern whole databases, so both sides at once would be a
/// conflict by nature.
const ALONE: &str = "SELECT 8; SET %eight 8; SELECT 9; SET %nine 9; RPUSH %list 1; SWAPDB 8 9; SET %after 9; \
     SELECT 8; SET %after 8; SELECT 0";

/// Words of a command; quotes keep blanks.
fn words(command: &str, side: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.trim().chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            '%' => words.last_mut().unwrap().extend([side, ":"]),
            '@' => words.last_mut().unwrap().push_str(side),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Runs a row; `{}` stands for the reply to the command before.
fn run(client: &mut Connection, row: &str, side: &str) -> Value {
    let mut last = Value::Nil;
    for command in row.split(';') {
        let words = words(command, side);
        let mut request = cmd(&words[0]);
        for word in &words[1..] {
            match (&last, word.as_str()) {
                (Value::BulkString(bytes), "{}") => request.arg(bytes),
                _ => request.arg(word),
            };
        }
        last = request.query(client).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert!(!matches!(last, Value::Nil | Value::ServerError(_)), "{words:?}: {last:?}");
    }
    last
}

fn blocks(server: &RedisServer) -> Vec<Block> {
    let seven = if server.version().is_seven_or_later() { SEVEN } else { &[] };
    BLOCKS.iter().chain(seven).copied().collect()
}

#[test]
fn the_table_is_whole() {
    let rows = BLOCKS.iter().chain(SEVEN).flat_map(|(_, rows)| rows.iter()).chain([&ALONE]);
    let tried: BTreeSet<String> =
        rows.flat_map(|row| row.split(';')).map(|command| words(command, "a")[0].clone()).collect();
    let missing: Vec<&str> = LIST.split(' ').filter(|name| !tried.contains(*name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// Different data, some of it under the same keys, in databases 0 and 3.
fn preload(a: &RedisServer, b: &RedisServer) {
    for (server, side) in [(a, "a"), (b, "b")] {
        for database in [0, 3] {
            let client = &mut server.client_db(database);
            for row in [
                "SET %old 1; SET %old-ttl 1 EX 5000; RPUSH %old-list 1 2; SADD %old-set 1 2",
                "HSET %old-hash f 1; ZADD %old-z 1 m; XADD %old-stream 1-1 f v",
                "SET both-string @; RPUSH both-list @ 1; SADD both-set @; HSET both-hash @ 1",
                "ZADD both-z 1 @; XADD both-stream 1-1 f @; SET both-ttl @ EX 5000",
            ] {
                run(client, row, side);
            }
        }
    }
    run(&mut a.client(), "SET both-type 1; SET both-persistent a", "a");
    run(&mut b.client(), "RPUSH both-type 1; SET both-persistent b EX 5000", "b");
}

#[test]
fn every_command_on_both_sides() {
    let pair = Pair::start_with(preload, |builder| builder);
    pair.wait_streaming();
    pair.wait_equal(PATIENCE);
    the_primary_has_won(&pair.b);
    for (block, rows) in blocks(&pair.a) {
        thread::scope(|scope| {
            for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
                scope.spawn(move || {
                    for row in rows {
                        run(&mut server.client(), row, side);
                    }
                });
            }
        });
        eprintln!("{block} written");
        pair.wait_equal(PATIENCE);
    }
    run(&mut pair.a.client(), ALONE, "a");
    pair.wait_equal(PATIENCE);
    for server in [&pair.a, &pair.b] {
        let value: String = cmd("GET").arg("a:eight").query(&mut server.client_db(9)).unwrap();
        assert_eq!(value, "8");
    }
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        let info = sidecar.info_duplex();
        assert_eq!(info["problems"], "0", "{info:?}");
        assert_eq!(info["write_off_pending"], "0");
    }
}

#[track_caller]
fn the_primary_has_won(server: &RedisServer) {
    for database in [0, 3] {
        let client = &mut server.client_db(database);
        let get = |client: &mut Connection, key: &str| -> String {
            cmd("GET").arg(key).query(client).unwrap()
        };
        for key in ["both-string", "both-ttl"] {
            assert_eq!(get(client, key), "a", "{key} in database {database}");
        }
        for key in ["a:old", "b:old"] {
            assert_eq!(get(client, key), "1", "{key} in database {database}");
        }
        let list: Vec<String> =
            cmd("LRANGE").arg("both-list").arg(0).arg(-1).query(client).unwrap();
        assert_eq!(list, ["a", "1"]);
        let set: Vec<String> = cmd("SMEMBERS").arg("both-set").query(client).unwrap();
        assert_eq!(set, ["a"]);
    }
    let client = &mut server.client();
    let kind: String = cmd("TYPE").arg("both-type").query(client).unwrap();
    let ttl: i64 = cmd("TTL").arg("both-persistent").query(client).unwrap();
    assert_eq!((kind.as_str(), ttl), ("string", -1));
}

#[test]
fn a_message_comes_to_the_other_side_once() {
    let pair = Pair::start();
    pair.wait_streaming();
    let mut subscribers: Vec<Connection> =
        [&pair.a, &pair.b].iter().map(|server| server.client()).collect();
    let mut listening: Vec<_> = subscribers
        .iter_mut()
        .map(|connection| {
            let mut listening = connection.as_pubsub();
            listening.subscribe("news").unwrap();
            listening.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            listening
        })
        .collect();
    let mut expected = Vec::new();
    for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
        for number in 0..50 {
            let text = format!("{side}{number}");
            cmd("PUBLISH").arg("news").arg(&text).exec(&mut server.client()).unwrap();
            expected.push(text);
        }
    }
    // Written behind the messages, so they have come when these have.
    for (server, key) in [(&pair.a, "a"), (&pair.b, "b")] {
        cmd("SET").arg(key).arg(1).exec(&mut server.client()).unwrap();
    }
    pair.wait_equal(PATIENCE);
    expected.sort();
    for listening in &mut listening {
        let mut heard: Vec<String> = Vec::new();
        eventually_some("silence on the channel", PATIENCE, || match listening.get_message() {
            Ok(message) => {
                heard.push(message.get_payload().unwrap());
                None
            }
            Err(_) => Some(()),
        });
        heard.sort();
        assert_eq!(heard, expected);
    }
}
