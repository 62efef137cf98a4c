//! Syncers that read from the port: SYNCERS.md, "as a master we must answer", row by row.

use std::time::{Duration, Instant};

use redis::cmd;

use crate::support::redis_server::{RedisServer, info_fields};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};
use crate::wire::{Wire, command};

/// Followers' offsets begin here.
const FIRST: u64 = 1 << 40;

/// One site without a peer.
pub fn site() -> (RedisServer, Sidecar) {
    let redis = RedisServer::start();
    let sidecar = Builder::new("a", &redis).start();
    (redis, sidecar)
}

pub fn set(redis: &RedisServer, database: u32, key: &str) {
    cmd("SET").arg(key).arg(key).exec(&mut redis.client_db(database)).unwrap();
}

/// The answer to a PSYNC for a snapshot: the id and the offset.
#[track_caller]
pub fn full(wire: &mut Wire) -> (String, u64) {
    wire.send("PSYNC ? -1");
    full_line(wire)
}

#[track_caller]
fn full_line(wire: &mut Wire) -> (String, u64) {
    // Nothing at all before the reply: the line begins with its own first byte.
    let line = wire.line();
    let words: Vec<&str> = line.split(' ').collect();
    let ["+FULLRESYNC", id, offset] = words[..] else { panic!("{line:?}") };
    assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
    let offset = offset.parse().unwrap();
    // Some take 0 for none, or subtract the snapshot's size from it.
    assert!(offset > FIRST / 2, "{line}");
    (id.to_owned(), offset)
}

/// The stream, command by command: PINGs left out. Counts bytes.
struct Reading<'a> {
    wire: &'a mut Wire,
    offset: u64,
}

impl Reading<'_> {
    /// The next command's words, as they are; PINGs come when they come.
    #[track_caller]
    fn next(&mut self) -> String {
        loop {
            let command = self.any();
            if command != "PING" {
                return command;
            }
        }
    }

    /// The next command's words, PING too.
    #[track_caller]
    fn any(&mut self) -> String {
        let head = self.wire.line();
        let mut length = head.len() + 2;
        let count: usize = head.strip_prefix('*').and_then(|n| n.parse().ok()).expect(&head);
        let mut words = Vec::new();
        for _ in 0..count {
            let word = self.wire.bulk();
            length += format!("${}\r\n", word.len()).len() + word.len() + 2;
            words.push(word);
        }
        self.offset += length as u64;
        words.join(" ")
    }

    /// All commands up to this one, without PINGs.
    #[track_caller]
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let next = self.next();
            if next == last {
                return seen;
            }
            assert!(!next.starts_with("REPLCONF"), "some forward it to their target: {next}");
            seen.push(next);
        }
    }
}

#[test]
fn passwords_and_ping() {
    let redis = RedisServer::start();
    let mut sidecar = Builder::new("a", &redis)
        .setting("[user]", "name = \"default\"\npassword = \"p\"\nrole = \"syncer\"")
        .setting("[user]", "name = \"u\"\npassword = \"q\"\nrole = \"syncer\"")
        .start_without_waiting();
    sidecar.allow_log("wrong user or password");
    eventually("the port is served", PATIENCE, || {
        std::net::TcpStream::connect(sidecar.addr()).is_ok()
    });
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("AUTH p", "+OK\r\n");
    wire.ask("PING", "+PONG\r\n");
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("auth u q", "+OK\r\n");
    wire.ask("ping", "+PONG\r\n");
    // RedisShake says who it is before anything else; a follower may go on from here.
    wire.ask("REPLCONF listening-port 10007", "+OK\r\n");
    full(&mut wire);
    wire.snapshot();
}

#[test]
fn client_words_are_as_redis_says_them() {
    let (redis, sidecar) = site();
    let (mut port, mut plain) = (Wire::connect(&sidecar.addr()), Wire::connect(&redis.addr()));
    for line in
        ["CLIENT SETINFO LIB-NAME redis-rs", "CLIENT SETINFO LIB-VER 1.0", "CLIENT SETNAME x"]
    {
        port.send(line);
        plain.send(line);
        assert_eq!(port.line(), plain.line(), "{line}");
    }
    // Off means silence, for writes, reads and errors, until it is on again.
    port.send("CLIENT REPLY OFF");
    for line in ["SET a 1", "GET a", "NOSUCH", "PING", "SELECT 3", "INFO server"] {
        port.send(line);
    }
    assert!(port.is_silent(Duration::from_millis(200)));
    port.ask("CLIENT REPLY ON", "+OK\r\n");
    port.write(&[command("CLIENT REPLY SKIP"), command("SET b 1"), command("PING")].concat());
    port.expect(b"+PONG\r\n", "only the one that was not skipped");
}

#[test]
fn info_replication_is_in_our_own_offsets() {
    let (redis, sidecar) = site();
    let mut follower = Wire::connect(&sidecar.addr());
    let (id, offset) = full(&mut follower);
    follower.snapshot();
    set(&redis, 0, "k");
    let mut reading = Reading { wire: &mut follower, offset };
    reading.until("SET k k");
    let end = reading.offset;
    let mut wire = Wire::connect(&sidecar.addr());
    let text = wire.text("INFO replication");
    assert!(text.starts_with("# Replication\r\nrole:master\r\n"), "{text}");
    assert!(text.replace("\r\n", "").find(['\r', '\n']).is_none(), "lines end in CRLF: {text}");
    assert!(!text.contains("slave0"), "{text}");
    let info = info_fields(&text);
    assert_eq!(info["master_replid"], id);
    assert_eq!(info["master_replid2"].len(), 40);
    assert_eq!(info["master_repl_offset"], end.to_string());
    assert_eq!(info["second_repl_offset"], "-1");
    assert_eq!(info["connected_slaves"], "0");
    assert_eq!(info["repl_backlog_active"], "1");
    let number = |field: &str| -> u64 { info[field].parse().unwrap() };
    let first = number("repl_backlog_first_byte_offset");
    assert_eq!(first + number("repl_backlog_histlen"), end + 1);
    assert!(number("repl_backlog_size") > 0);
    wire.ask("ROLE", &format!("*3\r\n$6\r\nmaster\r\n:{end}\r\n*0\r\n"));
}

#[test]
fn info_sections_are_the_local_redis_s() {
    let redis = RedisServer::start();
    let sidecar = Builder::new("a", &redis).start();
    let mut wire = Wire::connect(&sidecar.addr());
    let version = redis.info("server")["redis_version"].clone();
    let server = info_fields(&wire.text("INFO server"));
    assert_eq!(server["redis_version"], version);
    assert_eq!(info_fields(&wire.text("info"))["redis_version"], version);
    assert_eq!(info_fields(&wire.text("INFO cluster"))["cluster_enabled"], "0");
    cmd("SET").arg("k").arg(1).exec(&mut redis.client_db(3)).unwrap();
    let keyspace = wire.text("INFO keyspace");
    assert!(
        keyspace.starts_with("# Keyspace\r\n") && keyspace.contains("db3:keys=1"),
        "{keyspace}"
    );
    // RedisShake polls these without a limit: a save that never ends must not show.
    let (mut local, text) = (redis.client(), "x".repeat(1000));
    for n in 0..200 {
        cmd("SET").arg(n).arg(&text).exec(&mut local).unwrap();
    }
    cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(5000).exec(&mut local).unwrap();
    eventually("a save to begin", PATIENCE, || cmd("BGSAVE").exec(&mut local).is_ok());
    assert_eq!(redis.info("persistence")["rdb_bgsave_in_progress"], "1");
    let persistence = info_fields(&wire.text("INFO persistence"));
    assert_eq!(persistence["rdb_bgsave_in_progress"], "0");
    assert_eq!(persistence["aof_rewrite_in_progress"], "0");
}

/// RedisSyncer knows versions up to 6.2.
#[test]
fn the_version_can_be_another() {
    let redis = RedisServer::start();
    let sidecar = Builder::new("a", &redis).setting("listen", "redis_version = \"6.2.14\"").start();
    let mut wire = Wire::connect(&sidecar.addr());
    for line in ["INFO", "INFO server", "info all"] {
        assert_eq!(info_fields(&wire.text(line))["redis_version"], "6.2.14", "{line}");
    }
}

#[test]
fn what_replicas_say_of_themselves() {
    let (_redis, sidecar) = site();
    let mut wire = Wire::connect(&sidecar.addr());
    for line in [
        "REPLCONF listening-port 0",
        "REPLCONF listening-port 65535",
        "replconf Listening-Port 10007",
        "REPLCONF ip-address 10.0.0.9",
        "REPLCONF capa eof",
        "REPLCONF CAPA PSYNC2",
        "REPLCONF capa eof capa psync2 capa rdb-channel-repl capa whatever",
        "REPLCONF rdb-only 0",
    ] {
        wire.ask(line, "+OK\r\n");
    }
    // Either is fine with those who send them.
    for line in ["REPLCONF version 8.1.4", "REPLCONF rdb-filter-only functions", "REPLCONF new 1"] {
        wire.send(line);
        let answer = wire.line();
        assert!(
            answer == "+OK" || answer.starts_with("-ERR Unrecognized REPLCONF option"),
            "{line}: {answer}"
        );
    }
    // RedisSyncer acknowledges before it asks; there is no answer to that, ever.
    wire.write(&[command("REPLCONF ACK 0"), command("REPLCONF ACK 17 FACK 17")].concat());
    wire.ask("PING", "+PONG\r\n");
}

/// RedisShake: no `capa`, a snapshot with a length, the stream at once, acknowledgements from its
/// first byte on.
#[test]
fn redis_shake_takes_a_full_sync() {
    let (redis, sidecar) = site();
    set(&redis, 2, "before");
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("REPLCONF listening-port 10007", "+OK\r\n");
    let (id, offset) = full(&mut wire);
    let (head, _) = wire.snapshot();
    assert!(!head.starts_with("EOF"), "it loses what follows a mark");
    set(&redis, 2, "after");
    // No CRLF behind the snapshot, and no acknowledgement is waited for.
    let mut reading = Reading { wire: &mut wire, offset };
    assert_eq!(reading.next(), "SELECT 2");
    assert_eq!(reading.next(), "SET after after");
    let end = reading.offset;
    wire.send(&format!("REPLCONF ACK {end}"));
    // It says so byte for byte: what it counted is what we count.
    let mut other = Wire::connect(&sidecar.addr());
    assert_eq!(info_fields(&other.text("INFO replication"))["master_repl_offset"], end.to_string());
    other.ask(&format!("PSYNC {id} {}", end + 1), "+CONTINUE\r\n");
    assert!(other.is_silent(Duration::from_millis(100)));
}

/// RedisShake, newer releases, and `redis-cli --rdb`: the snapshot alone.
#[test]
fn the_snapshot_alone() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    for (capa, ask) in
        [(false, "PSYNC ? -1"), (true, "PSYNC ? -1"), (false, "SYNC"), (true, "SYNC")]
    {
        let mut wire = Wire::connect(&sidecar.addr());
        if capa {
            wire.ask("REPLCONF capa eof", "+OK\r\n");
        }
        wire.ask("REPLCONF rdb-only 1", "+OK\r\n");
        wire.send(ask);
        if ask != "SYNC" {
            full_line(&mut wire);
        }
        let (head, _) = wire.snapshot();
        assert!(capa || !head.starts_with("EOF"), "{head}");
        assert!(wire.is_closed(), "{ask}: nothing follows");
    }
}

/// `SYNC`, as an array or typed: a snapshot without a line before it.
#[test]
fn the_old_sync() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    for bytes in [&b"SYNC\r\n"[..], b"*1\r\n$4\r\nSYNC\r\n", b"sync\n"] {
        let mut wire = Wire::connect(&sidecar.addr());
        wire.write(bytes);
        let (head, _) = wire.snapshot();
        assert!(!head.starts_with("EOF"), "{head}");
        set(&redis, 0, "later");
        let mut reading = Reading { wire: &mut wire, offset: 0 };
        assert_eq!(reading.next(), "SELECT 0");
        reading.until("SET later later");
    }
}

/// The rule of offsets: M bytes are there, byte X is asked for, counted from 1.
#[test]
fn any_byte_up_to_one_behind_the_last() {
    let (redis, sidecar) = site();
    let mut first = Wire::connect(&sidecar.addr());
    let (id, offset) = full(&mut first);
    first.snapshot();
    set(&redis, 0, "k");
    let mut reading = Reading { wire: &mut first, offset };
    reading.until("SET k k");
    let end = reading.offset;
    let whole = [command("SELECT 0"), command("SET k k")].concat();
    let all = u64::try_from(whole.len()).unwrap();
    assert_eq!(offset + all, end);
    for back in 0..=all {
        let mut wire = Wire::connect(&sidecar.addr());
        // redis-GunYu, RedisSyncer and ape-dts don't offer psync2: ape-dts breaks on an id.
        wire.ask(&format!("PSYNC {id} {}", end + 1 - back), "+CONTINUE\r\n");
        let back = usize::try_from(back).unwrap();
        wire.expect(&whole[whole.len() - back..], "what is left");
        if back % 20 == 0 {
            assert!(wire.is_silent(Duration::from_millis(50)), "nothing is put in");
        }
    }
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("REPLCONF capa psync2", "+OK\r\n");
    wire.ask(&format!("PSYNC {id} {}", end + 1), &format!("+CONTINUE {id}\r\n"));
    // With the next write every one of them goes on, and no SELECT was added.
    set(&redis, 0, "next");
    wire.expect(&command("SET next next"), "the next command");
    for (id, byte) in [
        (id.as_str(), end + 2),
        (id.as_str(), end + 100_000),
        (id.as_str(), 1),
        ("0123456789012345678901234567890123456789", end + 1),
        ("?", end + 1),
    ] {
        let mut wire = Wire::connect(&sidecar.addr());
        let ahead = if byte == end + 2 { command("SET next next").len() as u64 } else { 0 };
        wire.send(&format!("PSYNC {id} {}", byte + ahead));
        full_line(&mut wire);
    }
}

/// A follower that goes on from the very beginning of its stream, before it got any of it.
#[test]
fn nothing_of_the_stream_was_read_yet() {
    let (redis, sidecar) = site();
    set(&redis, 3, "one");
    set(&redis, 3, "two");
    let mut wire = Wire::connect(&sidecar.addr());
    let (id, offset) = full(&mut wire);
    wire.snapshot();
    for _ in 0..2 {
        let mut again = Wire::connect(&sidecar.addr());
        again.ask(&format!("PSYNC {id} {}", offset + 1), "+CONTINUE\r\n");
        set(&redis, 3, "three");
        let mut reading = Reading { wire: &mut again, offset };
        assert_eq!(reading.next(), "SELECT 3");
        assert_eq!(reading.next(), "SET three three");
    }
}

/// A stock replica: `capa eof`, so a mark where the local Redis sends one, and then nothing
/// before its first acknowledgement. It sends line feeds while it loads.
#[test]
fn a_mark_only_to_those_who_read_it() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    // Half a second for the key: else all of it may be there, and its length be known.
    let mut client = redis.client();
    cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(500_000).exec(&mut client).unwrap();
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("REPLCONF capa eof capa psync2", "+OK\r\n");
    let (_, offset) = full(&mut wire);
    let (head, _) = wire.snapshot();
    if head.starts_with("EOF") {
        set(&redis, 0, "after");
        wire.write(b"\n\n");
        assert!(wire.is_silent(Duration::from_millis(1500)), "not before the acknowledgement");
    } else {
        assert!(!redis.version().is_seven_or_later());
        set(&redis, 0, "after");
    }
    wire.send(&format!("REPLCONF ACK {offset}"));
    let mut reading = Reading { wire: &mut wire, offset };
    assert_eq!(reading.next(), "SELECT 0");
    assert_eq!(reading.until("SET after after"), Vec::<String>::new());
}

/// What followers say is never answered, is never too late and may be one too high (ape-dts).
#[test]
fn acknowledgements_are_never_answered() {
    let (redis, sidecar) = site();
    let mut wire = Wire::connect(&sidecar.addr());
    wire.send("REPLCONF ACK 0");
    let (_, offset) = full(&mut wire);
    wire.snapshot();
    wire.write(b"\n");
    for ahead in 0..3 {
        wire.send(&format!("REPLCONF ACK {}", offset + ahead));
        wire.send(&format!("REPLCONF ACK {} FACK {0}", offset + ahead));
    }
    wire.write(b"PING\r\n");
    set(&redis, 0, "k");
    let mut reading = Reading { wire: &mut wire, offset };
    assert_eq!(reading.until("SET k k"), ["SELECT 0"]);
}

/// Redis is away for longer than two PINGs are apart; a follower sees PINGs and no end, and goes
/// on when Redis is back.
#[test]
fn pings_come_while_redis_is_away() {
    let (mut redis, mut sidecar) = site();
    sidecar.allow_log("lost the replication stream");
    sidecar.allow_log("the local redis is not there");
    let mut wire = Wire::connect(&sidecar.addr());
    let (_, offset) = full(&mut wire);
    wire.snapshot();
    set(&redis, 0, "k");
    // As an operator does it: the history goes on behind the restart.
    eventually("the save", PATIENCE, || cmd("SAVE").exec(&mut redis.client()).is_ok());
    let mut reading = Reading { wire: &mut wire, offset };
    reading.until("SET k k");
    redis.kill();
    for _ in 0..2 {
        let before = Instant::now();
        assert_eq!(reading.any(), "PING");
        let waited = before.elapsed();
        assert!(waited < Duration::from_secs(11), "{waited:?}");
    }
    if !redis.version().is_seven_or_later() {
        // It never goes on with the history that it had before a restart.
        return;
    }
    redis.restart();
    set(&redis, 0, "back");
    let between = reading.until("SET back back");
    assert!(between.iter().all(|command| command == "SELECT 0"), "{between:?}");
}

/// A follower that needs a snapshot while Redis is away is let wait: RedisSyncer gives its task up
/// after three failed attempts within 3 s.
#[test]
fn a_snapshot_is_waited_for() {
    let (mut redis, mut sidecar) = site();
    sidecar.allow_log("lost the replication stream");
    sidecar.allow_log("the local redis is not there");
    sidecar.allow_log("the local Redis could not continue its stream");
    let mut wire = Wire::connect(&sidecar.addr());
    wire.ask("REPLCONF listening-port 1", "+OK\r\n");
    redis.kill();
    wire.send("PSYNC ? -1");
    assert!(wire.is_silent(Duration::from_secs(2)), "not closed, and no line feed");
    redis.restart();
    full_line(&mut wire);
    wire.snapshot();
}

/// The first thing behind a snapshot is an upper case SELECT, and everything is an array of bulks.
#[test]
fn the_stream_is_plain() {
    let (redis, sidecar) = site();
    set(&redis, 1, "a");
    set(&redis, 7, "b");
    let mut wire = Wire::connect(&sidecar.addr());
    let (_, offset) = full(&mut wire);
    wire.snapshot();
    let mut client = redis.client_db(7);
    for line in ["set c 1", "select 5", "set d 1", "multi", "set e 1", "select 6", "incr f", "exec"]
    {
        let mut words = line.split(' ');
        cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).exec(&mut client).unwrap();
    }
    let mut reading = Reading { wire: &mut wire, offset };
    let found = [reading.until("incr f"), vec![reading.next()]].concat();
    let expected =
        ["SELECT 7", "set c 1", "SELECT 5", "set d 1", "MULTI", "set e 1", "SELECT 6", "EXEC"];
    let with_case: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(with_case, expected);
}
