//! Different data on both sides becomes the same, and stays the same under every write command.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Connection, Value, cmd};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::{PATIENCE, eventually};

/// The commands that must be shown, as the project's first issue lists them, but for those of 7.0.
const REQUIRED: &str = "APPEND BITOP BLPOP BRPOP BRPOPLPUSH DECR DECRBY DEL EVAL EVALSHA EXPIRE \
    EXPIREAT GEOADD GETSET HDEL HINCRBY HINCRBYFLOAT HMSET HSET HSETNX INCR INCRBY INCRBYFLOAT \
    LINSERT LPOP LPUSH LPUSHX LREM LSET LTRIM MOVE MSET MSETNX MULTI EXEC PERSIST PEXPIRE \
    PEXPIREAT PFADD PFMERGE PSETEX PUBLISH RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SADD \
    SDIFFSTORE SELECT SET SETBIT SETEX SETNX SETRANGE SINTERSTORE SMOVE SPOP SREM SUNIONSTORE \
    SWAPDB UNLINK ZADD ZINCRBY ZINTERSTORE ZREM ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREMRANGEBYLEX \
    ZUNIONSTORE COPY GETDEL GETEX LMOVE XADD XGROUP XREADGROUP XACK XTRIM XDEL SORT ZRANGESTORE \
    RESTORE";
const REQUIRED_SINCE_7: &str = "LMPOP ZMPOP SINTERCARD FUNCTION FCALL";

/// Commands on keys of one side; `{}` is the side's name. What a line needs is set up in the lines
/// before it.
const LINES: &str = "\
SET {}:s hello
APPEND {}:s world
SETRANGE {}:s 3 XYZ
GETSET {}:s other
SETBIT {}:bits 77 1
SET {}:bits2 abc
BITOP OR {}:bits3 {}:bits {}:bits2
SET {}:n 10
INCR {}:n
INCRBY {}:n 5
DECR {}:n
DECRBY {}:n 3
INCRBYFLOAT {}:f 3.25
INCRBYFLOAT {}:f 0.1
SETNX {}:nx 1
SETEX {}:ex 1000 v
PSETEX {}:pex 1000000 v
SET {}:opt v EX 1000
SET {}:opt w KEEPTTL
GETEX {}:opt PX 2000000
EXPIRE {}:s 5000
PEXPIRE {}:n 5000000
EXPIREAT {}:f 4102444800
PEXPIREAT {}:bits 4102444800000
EXPIRE {}:bits2 100
PERSIST {}:bits2
SET {}:gone v
GETDEL {}:gone
MSET {}:m1 a {}:m2 b {}:m3 c
MSETNX {}:m4 a {}:m5 b
DEL {}:m1
UNLINK {}:m2
RENAME {}:m3 {}:renamed
RENAMENX {}:m4 {}:renamed2
COPY {}:m5 {}:copied
MOVE {}:m5 5
RPUSH {}:l 1 2 3 4 5 6 7 8 9
LPUSH {}:l 0
RPUSHX {}:l 10
LPUSHX {}:l -1
LINSERT {}:l BEFORE 5 4.5
LSET {}:l 0 first
LREM {}:l 1 7
LPOP {}:l
RPOP {}:l
LTRIM {}:l 1 -2
RPOPLPUSH {}:l {}:l2
LMOVE {}:l {}:l2 LEFT RIGHT
BLPOP {}:l 1
BRPOP {}:l 1
BRPOPLPUSH {}:l {}:l2 1
SADD {}:set a b c d e f g
SADD {}:set2 c d x
SREM {}:set a
SPOP {}:set 2
SMOVE {}:set2 {}:set3 x
SDIFFSTORE {}:sdiff {}:set {}:set2
SINTERSTORE {}:sinter {}:set2 {}:set2
SUNIONSTORE {}:sunion {}:set {}:set2
HSET {}:h f1 v1 f2 v2 n 5
HMSET {}:h f3 v3 f4 v4
HSETNX {}:h f5 v5
HINCRBY {}:h n 7
HINCRBYFLOAT {}:h n 0.5
HDEL {}:h f1
ZADD {}:z 1 a 2 b 3 c 4 d 5 e 6 f 0 l1 0 l2
ZADD {}:z2 10 a 20 x
ZINCRBY {}:z 2.5 a
ZREM {}:z b
ZREMRANGEBYRANK {}:z -1 -1
ZREMRANGEBYSCORE {}:z 4 4
ZADD {}:lex 0 a 0 b 0 c 0 d
ZREMRANGEBYLEX {}:lex [b (d
ZUNIONSTORE {}:zunion 2 {}:z {}:z2 WEIGHTS 2 3
ZINTERSTORE {}:zinter 2 {}:z {}:z2
ZRANGESTORE {}:zrange {}:z 0 1
PFADD {}:hll a b c
PFADD {}:hll2 c d
PFMERGE {}:hll3 {}:hll {}:hll2
GEOADD {}:geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
XADD {}:x * f 1
XADD {}:x 9999999999999-1 f 2
XADD {}:x * f 3
XADD {}:x NOMKSTREAM * f 4
XGROUP CREATE {}:x group 0
XREADGROUP GROUP group me COUNT 2 STREAMS {}:x >
XACK {}:x group 9999999999999-1
XTRIM {}:x MAXLEN 3
XDEL {}:x 9999999999999-1
RPUSH {}:unsorted 3 1 2
SORT {}:unsorted STORE {}:sorted
EVAL return{redis.call('set',KEYS[1],ARGV[1]),redis.call('incr',KEYS[2])} 2 {}:lua1 {}:lua2 x
PUBLISH {}:channel nobody
MULTI
SET {}:multi 1
INCR {}:multi
SELECT 3
SET {}:multi3 1
SELECT 0
EXEC
SELECT 3
SET {}:in3 x
SELECT 0
";

const LINES_SINCE_7: &str = "\
LMPOP 1 {}:l2 LEFT COUNT 1
ZMPOP 1 {}:z MIN COUNT 1
SINTERCARD 2 {}:set {}:set2
FCALL {}_f 1 {}:function v
";

fn run(client: &mut Connection, words: &[&[u8]]) -> Value {
    let text = || words.iter().map(|w| w.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
    let name = std::str::from_utf8(words[0]).unwrap();
    cmd(name).arg(&words[1..]).query(client).unwrap_or_else(|error| panic!("{}: {error}", text()))
}

fn run_lines(client: &mut Connection, side: &str, lines: &str) {
    for line in lines.lines() {
        let line = line.replace("{}", side);
        run(client, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
}

/// Commands whose arguments are made on the spot.
fn run_special(client: &mut Connection, side: &str, since_7: bool) {
    let key = |name: &str| format!("{side}:{name}");
    let sha = run(client, &[b"SCRIPT", b"LOAD", b"return redis.call('rpush', KEYS[1], 1, 2)"]);
    let Value::BulkString(sha) = sha else { panic!("{sha:?}") };
    run(client, &[b"EVALSHA", &sha, b"1", key("sha").as_bytes()]);
    let Value::BulkString(dump) = run(client, &[b"DUMP", key("h").as_bytes()]) else {
        panic!("nothing to dump")
    };
    run(client, &[b"RESTORE", key("restored").as_bytes(), b"1000000", &dump]);
    if since_7 {
        let code = format!(
            "#!lua name={side}_lib\nredis.register_function('{side}_f', function(keys, args) \
             return redis.call('set', keys[1], args[1]) end)"
        );
        run(client, &[b"FUNCTION", b"LOAD", code.as_bytes()]);
        run_lines(client, side, LINES_SINCE_7);
    }
}

/// The names of all commands that are run, so that none of the list is forgotten.
fn names() -> BTreeSet<String> {
    let lines = LINES.lines().chain(LINES_SINCE_7.lines());
    let names = lines.map(|line| line.split(' ').next().unwrap().to_owned());
    names.chain(["EVALSHA", "RESTORE", "FUNCTION", "SWAPDB"].map(str::to_owned)).collect()
}

#[test]
fn no_command_of_the_list_is_forgotten() {
    let names = names();
    for name in REQUIRED.split_whitespace().chain(REQUIRED_SINCE_7.split(' ')) {
        assert!(names.contains(name), "{name} is not tried");
    }
}

fn preload(a: &RedisServer, b: &RedisServer) {
    for (server, side) in [(a, "a"), (b, "b")] {
        for database in [0, 3] {
            let client = &mut server.client_db(database);
            for n in 0..300 {
                run_lines(client, side, &format!("SET {{}}:only:{n} {{}}{n}"));
            }
            run_lines(
                client,
                side,
                "SET both:string {}\nRPUSH both:list {} 1 {}\nHSET both:hash {} 1 same {}",
            );
            run_lines(
                client,
                side,
                "SET both:ttl {} PX 90000000\nZADD both:zset 1 {} 2 both\nSADD {}:set0 x",
            );
        }
    }
    // The same key with different types.
    run_lines(&mut a.client(), "a", "SADD both:type x");
    run_lines(&mut b.client(), "b", "SET both:type x");
}

#[test]
fn different_data_becomes_equal_and_every_command_keeps_it_so() {
    let pair = Pair::start_with(preload, |builder| builder);
    pair.wait_equal(PATIENCE);
    for server in [&pair.a, &pair.b] {
        for database in [0, 3] {
            let client = &mut server.client_db(database);
            let value: String = cmd("GET").arg("both:string").query(client).unwrap();
            assert_eq!(value, "a", "the primary's value wins");
            let size: usize = cmd("DBSIZE").query(client).unwrap();
            assert!(size > 600, "{size} keys");
        }
        let kind: String = cmd("TYPE").arg("both:type").query(&mut server.client()).unwrap();
        assert_eq!(kind, "set");
    }
    let since_7 = pair.a.version().is_seven_or_later();
    for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
        let client = &mut server.client();
        run_lines(client, side, LINES);
        run_special(client, side, since_7);
    }
    pair.wait_equal(PATIENCE);
    run_lines(&mut pair.a.client_db(7), "a", "SET {}:swapped 7");
    run_lines(&mut pair.a.client(), "a", "SWAPDB 7 8\nSET {}:after 1");
    pair.wait_equal(PATIENCE);
    let there: bool = cmd("EXISTS").arg("a:swapped").query(&mut pair.b.client_db(8)).unwrap();
    assert!(there, "SWAPDB was not done at the other side");
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        let info = sidecar.info_duplex();
        assert_eq!(info["write_off_earlier"], "0");
        assert_eq!(info["problems"], "0", "{}", sidecar.log());
        eventually("all batches to be written off", PATIENCE, || {
            sidecar.info_duplex()["write_off_pending"] == "0"
        });
    }
}

#[test]
fn a_message_arrives_once() {
    let pair = Pair::start();
    pair.wait_equal(PATIENCE);
    let mut subscriber = pair.b.client();
    let mut channel = subscriber.as_pubsub();
    channel.subscribe("news").unwrap();
    channel.set_read_timeout(Some(PATIENCE)).unwrap();
    let here: i64 = cmd("PUBLISH").arg("news").arg("one").query(&mut pair.a.client()).unwrap();
    assert_eq!(here, 0);
    cmd("PUBLISH").arg("news").arg("two").exec(&mut pair.a.client()).unwrap();
    for expected in ["one", "two"] {
        let message: String = channel.get_message().unwrap().get_payload().unwrap();
        assert_eq!(message, expected);
    }
    channel.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(channel.get_message().is_err(), "a message came twice");
}
