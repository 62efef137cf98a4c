//! Syncers that write to the port: SYNCERS.md, "as a target we must accept", row by row. What the
//! port says is held against what a Redis says that is spoken to directly; and none of it may
//! stand in the port's own stream.

use std::time::{Duration, Instant};

use redis::cmd;

use crate::sources::{full, set, site};
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, Sidecar};
use crate::wire::{Wire, array, command};

/// The port, a plain server, and a follower of the port that must see nothing.
struct Target {
    port: Wire,
    plain: Wire,
    follower: Wire,
    _sidecar: Sidecar,
    redis: RedisServer,
    other: RedisServer,
}

impl Target {
    fn start() -> Self {
        let (redis, sidecar) = site();
        let other = RedisServer::start();
        let mut follower = Wire::connect(&sidecar.addr());
        full(&mut follower);
        follower.snapshot();
        let (port, plain) = (Wire::connect(&sidecar.addr()), Wire::connect(&other.addr()));
        Self { port, plain, follower, _sidecar: sidecar, redis, other }
    }

    /// Writes the same to both; every reply must be the same.
    #[track_caller]
    fn both(&mut self, bytes: &[u8], what: &str) -> String {
        let fence = command("ECHO all-the-replies-are-there");
        self.port.write(&[bytes, &fence].concat());
        self.plain.write(&[bytes, &fence].concat());
        let mark = b"$25\r\nall-the-replies-are-there\r\n";
        let (got, expected) = (self.port.until(mark), self.plain.until(mark));
        let (got, expected) = (got.escape_ascii(), expected.escape_ascii());
        assert_eq!(got.to_string(), expected.to_string(), "{what}");
        got.to_string()
    }

    #[track_caller]
    fn says(&mut self, line: &str, answer: &str) {
        let got = self.both(&command(line), line);
        assert_eq!(got, answer.escape_default().to_string(), "{line}");
    }

    /// Nothing of what was written is in the stream, and the data are the same.
    #[track_caller]
    fn end(mut self) {
        set(&self.redis, 9, "end");
        set(&self.other, 9, "end");
        let stream = self.follower.until(&command("SET end end"));
        let stream = String::from_utf8_lossy(&stream).replace(&ping(), "");
        assert_eq!(stream, String::from_utf8_lossy(&command("SELECT 9")));
        let found = crate::support::compare::differences(&self.redis, &self.other);
        assert_eq!(found, Vec::<String>::new());
    }
}

fn ping() -> String {
    String::from_utf8(command("PING")).unwrap()
}

#[test]
fn databases() {
    let mut target = Target::start();
    target.says("SELECT 3", "+OK\r\n");
    target.says("SET k 3", "+OK\r\n");
    target.says("select 0", "+OK\r\n");
    target.says("GET k", "$-1\r\n");
    let lines = ["MULTI", "SeLeCt 5", "SET k 5", "SELECT 2", "SET k 2", "EXEC"];
    let got = target.both(&lines.map(command).concat(), "SELECT within MULTI");
    assert!(got.ends_with("*4\\r\\n+OK\\r\\n+OK\\r\\n+OK\\r\\n+OK\\r\\n"), "{got}");
    target.says("GET k", "$1\r\n2\r\n");
    target.says("SELECT 99", "-ERR DB index is out of range\r\n");
    target.says("SELECT x", "-ERR value is not an integer or out of range\r\n");
    target.says("APPEND k x", ":2\r\n");
    target.end();
}

#[test]
fn restore() {
    let mut target = Target::start();
    let dump = |value: &str| -> Vec<u8> {
        let mut client = target.other.client_db(8);
        cmd("SET").arg("k").arg(value).exec(&mut client).unwrap();
        let bytes = cmd("DUMP").arg("k").query(&mut client).unwrap();
        cmd("DEL").arg("k").exec(&mut client).unwrap();
        bytes
    };
    let (one, two) = (dump("one"), dump("two"));
    let soon = (std::time::SystemTime::now() + Duration::from_secs(1000))
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis()
        .to_string();
    let table: [(&[&[u8]], &str); 8] = [
        (&[b"RESTORE", b"k", b"0", &one], "+OK"),
        (&[b"RESTORE", b"k", b"0", &two], "-BUSYKEY Target key name already exists."),
        (&[b"RESTORE", b"k", b"0", &two, b"REPLACE"], "+OK"),
        (&[b"restore", b"x", soon.as_bytes(), &two, b"replace", b"absttl"], "+OK"),
        (&[b"RESTORE", b"y", b"0", &two, b"REPLACE", b"IDLETIME", b"100"], "+OK"),
        (&[b"RESTORE", b"z", b"0", &two, b"REPLACE", b"FREQ", b"7"], "+OK"),
        (&[b"RESTORE", b"w", b"0", b"nonsense"], "-ERR DUMP payload version or checksum are wrong"),
        (&[b"RESTORE", b"w", b"-1", &two], "-ERR Invalid TTL value, must be >= 0"),
    ];
    for (words, answer) in table {
        let got = target.both(&array(words), answer);
        assert_eq!(got, format!("{answer}\\r\\n"));
    }
    // A payload of a right checksum with nonsense in it: its own text, which they compare.
    let mut bad = one.clone();
    bad[0] = 0xfe;
    let body = bad.len() - 8;
    let sum = crc64(&bad[..body]);
    bad[body..].copy_from_slice(&sum.to_le_bytes());
    let got = target.both(&array(&[b"RESTORE", b"v", b"0", &bad]), "bad");
    assert_eq!(got, "-ERR Bad data format\\r\\n");
    target.end();
}

/// The checksum of DUMP payloads, bit by bit.
fn crc64(bytes: &[u8]) -> u64 {
    let mut crc = 0_u64;
    for byte in bytes {
        for bit in 0..8 {
            let top = (crc >> 63) ^ u64::from(byte >> bit & 1);
            crc <<= 1;
            if top == 1 {
                crc ^= 0xad93_d235_94c9_35a9;
            }
        }
    }
    crc.reverse_bits()
}

#[test]
fn expanded_loads_and_scripts() {
    let mut target = Target::start();
    let lines = [
        "SET s v",
        "HSET h f v g w",
        "RPUSH l a b c",
        "SADD t a b",
        "ZADD z 1 a 2.5 b",
        "XADD x 1-1 f v",
        "XADD x 2-1 f v",
        "XGROUP CREATE x g 1-1",
        "XGROUP CREATECONSUMER x g c",
        "XCLAIM x g c 0 1-1 TIME 1000 RETRYCOUNT 3 FORCE JUSTID",
        "XSETID x 9-9",
        "APPEND s w",
        "DEL nokey s2",
        "EXISTS s nokey",
        "PEXPIREAT s 99999999999999",
        "PEXPIRE nokey 1000",
        "PFADD hll a b",
        "SETBIT bits 7 1",
        "GEOADD geo 1 2 here",
        "EVAL return{KEYS[1],ARGV[1],redis.call('incr',KEYS[1])} 1 n y",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
    ];
    let all: Vec<u8> = lines.iter().flat_map(|line| command(line)).collect();
    target.both(&all, "a pipeline of all");
    target.both(&array(&[b"SCRIPT", b"LOAD", b"return 1"]), "SCRIPT LOAD");
    target.says("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", ":1\r\n");
    if target.redis.version().is_seven_or_later() {
        let code = b"#!lua name=lib\nredis.register_function('f', function(k) return 7 end)";
        target.both(&array(&[b"FUNCTION", b"LOAD", b"REPLACE", code]), "FUNCTION LOAD");
        let dump: Vec<u8> = cmd("FUNCTION").arg("DUMP").query(&mut target.other.client()).unwrap();
        target.both(&array(&[b"FUNCTION", b"RESTORE", &dump, b"REPLACE"]), "FUNCTION RESTORE");
        target.says("FCALL f 0", ":7\r\n");
    }
    target.end();
}

/// RedisShake has up to 2048 commands under way, RedisSyncer 1000, ape-dts 200; RedisSyncer sends
/// all again when the replies take more than 2 s.
#[test]
fn deep_pipelines() {
    for depth in [200, 1000, 2048] {
        let mut target = Target::start();
        for round in 0..3 {
            let mut all = Vec::new();
            for n in 0..depth {
                all.extend(match n % 5 {
                    0 => command(&format!("SET key:{n} {round}")),
                    1 => command("INCR counter"),
                    2 => command(&format!("RPUSH list {n}")),
                    3 => command(&format!("SELECT {}", n % 4)),
                    _ => command(&format!("HSET hash f{n} {round}")),
                });
            }
            let began = Instant::now();
            target.both(&all, "a pipeline");
            assert!(began.elapsed() < Duration::from_secs(2), "{depth}: {:?}", began.elapsed());
        }
        target.end();
    }
}

/// RedisShake writes all it has before it reads: replies larger than what sockets hold must not
/// stand in the way of what it still writes.
#[test]
fn replies_that_nobody_reads_yet() {
    let mut target = Target::start();
    let value = "v".repeat(20_000);
    target.both(&command(&format!("SET k {value}")), "SET");
    let set = command(&format!("SET n {value}"));
    let all = [set, command("GET k")].concat().repeat(1000);
    target.both(&all, "20 MB each way");
    target.end();
}

/// redis-GunYu and RedisSyncer: a transaction with their checkpoint in it.
#[test]
fn transactions_with_a_syncer_s_checkpoint() {
    let mut target = Target::start();
    for round in 0..3 {
        let mut all = command("MULTI");
        for n in 0..499 {
            all.extend(command(&format!("RPUSH list {round}:{n}")));
        }
        all.extend(command(&format!("HSET redis-gunyu-checkpoint runid-offset {round}")));
        all.extend(command("EXEC"));
        let got = target.both(&all, "a transaction of 500");
        assert_eq!(got.matches("+QUEUED").count(), 500);
    }
    let mut client = target.redis.client();
    for key in ["redis-syncer-checkpoint", "redis-gunyu-lease", "ape_dts_marker"] {
        target.says(&format!("HSET {key} a b"), ":1\r\n");
        let there: bool = cmd("EXISTS").arg(key).query(&mut client).unwrap();
        assert!(there, "{key} is a key like any other");
    }
    // One that is refused is refused whole.
    target.both(
        &[command("MULTI"), command("SET a 1"), command("NOSUCH"), command("EXEC")].concat(),
        "EXECABORT",
    );
    target.says("EXISTS a", ":0\r\n");
    target.end();
}

/// Our own hash may be in a snapshot that a syncer copies: dropped, and answered as done.
#[test]
fn our_checkpoint_from_a_snapshot() {
    let (redis, sidecar) = site();
    let mut port = Wire::connect(&sidecar.addr());
    let key = "redis-duplex-checkpoint";
    port.ask("SET before 1", "+OK\r\n");
    let fields = || -> Vec<String> { cmd("HKEYS").arg(key).query(&mut redis.client()).unwrap() };
    let before = fields();
    for (line, answer) in [
        ("RESTORE redis-duplex-checkpoint 0 payload REPLACE ABSTTL", "+OK\r\n"),
        ("HSET redis-duplex-checkpoint b-offset 17", ":1\r\n"),
        ("HMSET redis-duplex-checkpoint b-offset 17", "+OK\r\n"),
        ("DEL redis-duplex-checkpoint", ":1\r\n"),
        ("UNLINK redis-duplex-checkpoint nokey", ":0\r\n"),
        ("PEXPIRE redis-duplex-checkpoint 1", ":1\r\n"),
        ("PEXPIREAT redis-duplex-checkpoint 1", ":1\r\n"),
    ] {
        port.ask(line, answer);
    }
    port.ask("MULTI", "+OK\r\n");
    port.ask("HSET redis-duplex-checkpoint b-offset 17", "+QUEUED\r\n");
    port.ask("SET k v", "+QUEUED\r\n");
    port.ask("EXEC", "*2\r\n:1\r\n+OK\r\n");
    assert_eq!(fields(), before, "nothing of it was done");
}

#[test]
fn flushes_go_by_the_policy() {
    for (policy, done) in [("forward", true), ("drop", false), ("stop", false)] {
        let redis = RedisServer::start();
        let setting = format!("flush = \"{policy}\"");
        let sidecar = Builder::new("a", &redis).setting("filter", &setting).start();
        let mut port = Wire::connect(&sidecar.addr());
        for line in ["FLUSHALL", "flushdb", "FLUSHALL ASYNC"] {
            set(&redis, 0, "k");
            port.send(line);
            let answer = port.line();
            assert_eq!(answer == "+OK", policy != "stop", "{policy}, {line}: {answer}");
            assert_eq!(answer.starts_with("-ERR "), policy == "stop", "{policy}: {answer}");
            let left: bool = cmd("EXISTS").arg("k").query(&mut redis.client()).unwrap();
            assert_eq!(left, !done, "{policy}, {line}");
        }
        set(&redis, 1, "k");
        port.send("SWAPDB 0 1");
        assert_eq!(port.line().starts_with("-ERR "), policy == "stop");
        let there: bool = cmd("EXISTS").arg("k").query(&mut redis.client_db(1)).unwrap();
        assert_eq!(there, !done, "{policy}, SWAPDB");
    }
}

/// ape-dts sends on what its source's master asks, and waits for some reply.
#[test]
fn getack_as_a_command_and_keepalives() {
    let (redis, sidecar) = site();
    let mut port = Wire::connect(&sidecar.addr());
    port.send("REPLCONF GETACK *");
    assert!(!port.line().is_empty());
    let bytes = [command("SET a 1"), command("REPLCONF GETACK *"), command("PING")].concat();
    port.write(&bytes);
    assert_eq!(port.line(), "+OK");
    assert!(!port.line().is_empty());
    assert_eq!(port.line(), "+PONG");
    port.write(b"PING\r\n");
    assert_eq!(port.line(), "+PONG");
    let value: String = cmd("GET").arg("a").query(&mut redis.client()).unwrap();
    assert_eq!(value, "1");
}

/// What would have to be done without a mark, or can't be undone, says so.
#[test]
fn what_the_port_refuses() {
    let (_redis, mut sidecar) = site();
    sidecar.allow_log("audit: refused");
    let mut port = Wire::connect(&sidecar.addr());
    for line in [
        "BLPOP k 0",
        "BRPOP k 0",
        "BLMOVE a b LEFT LEFT 0",
        "BRPOPLPUSH a b 0",
        "BZPOPMIN z 0",
        "XREAD BLOCK 0 STREAMS x $",
        "REPLICAOF 127.0.0.1 1",
        "MIGRATE 127.0.0.1 1 k 0 1",
    ] {
        port.send(line);
        let answer = port.line();
        assert!(
            answer.starts_with("-ERR ") && answer.contains("the Redis itself"),
            "{line}: {answer}"
        );
    }
    port.ask("SET k v", "+OK\r\n");
}

#[test]
fn typed_by_hand() {
    let mut target = Target::start();
    target.both(b"SET k \"a b\\x41\\n\"\r\nGET k\r\nset x 'it\\'s'\nGET x\n", "inline");
    target.both(b"\r\n\r\nPING\r\nINCR n\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\nGET n\r\n", "mixed");
    target.both(b"MULTI\r\nINCR n\r\nEXEC\r\n", "a transaction");
    target.end();
}
