//! Both sites write the same keys, of all types, at full speed, while links and sidecars break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redis::{Cmd, Connection, cmd, pipe};

use crate::support::compare::differences;
use crate::support::pair::Pair;
use crate::support::redis_server::{RedisServer, connect};
use crate::support::relay::Relay;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

/// Keys that anything happens to.
const HOT: u32 = 30;
/// Writers of a side.
const WRITERS: u64 = 2;
/// How long two sides may take to become equal after the last write.
const CATCH_UP: Duration = Duration::from_secs(40);

/// How long both sides write: `REDIS_DUPLEX_CONFLICT_SECONDS`, else some seconds.
fn seconds() -> u64 {
    let set = std::env::var("REDIS_DUPLEX_CONFLICT_SECONDS");
    set.ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// A command on hot keys; it may fail, as clients' do.
fn hot(rng: &mut SmallRng, serial: u64) -> Cmd {
    let mut key = || format!("hot:{}", rng.random_range(0..HOT));
    let (one, other) = (key(), key());
    let part = rng.random_range(0..4).to_string();
    let value = format!("v{serial}");
    let ttl = rng.random_range(50..100_000);
    let number = rng.random_range(-3..4);
    let build = |words: &[&str]| {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command
    };
    let (ttl, number) = (ttl.to_string(), number.to_string());
    match rng.random_range(0..44) {
        0..4 => build(&["SET", &one, &number]),
        4 => build(&["SET", &one, &value, "PX", &ttl]),
        5 => build(&["DEL", &one]),
        6..9 => build(&["INCRBY", &one, &number]),
        9 => build(&["APPEND", &one, &value]),
        10 => build(&["SETBIT", &one, "7", "1"]),
        11..13 => build(&["LPUSH", &one, &value]),
        13 => build(&["RPOP", &one]),
        14 => build(&["LTRIM", &one, "0", "5"]),
        15..17 => build(&["HSET", &one, &part, &value]),
        17 => build(&["HDEL", &one, &part]),
        18 => build(&["HINCRBY", &one, &part, &number]),
        19..21 => build(&["SADD", &one, &part]),
        21 => build(&["SREM", &one, &part]),
        22 => build(&["SMOVE", &one, &other, &part]),
        23..25 => build(&["ZADD", &one, &number, &part]),
        25 => build(&["ZINCRBY", &one, "0.1", &part]),
        26 => build(&["ZREM", &one, &part]),
        27 => build(&["ZREMRANGEBYRANK", &one, "0", "0"]),
        28 => build(&["PFADD", &one, &value]),
        29..31 => build(&["XADD", &one, "MAXLEN", "20", "*", "f", &value]),
        31 => build(&["XGROUP", "CREATE", &one, &part, "0", "MKSTREAM"]),
        32 => build(&["XREADGROUP", "GROUP", &part, "me", "COUNT", "1", "STREAMS", &one, ">"]),
        33 => build(&["RENAME", &one, &other]),
        34 => build(&["COPY", &one, &other, "REPLACE"]),
        35 => build(&["SUNIONSTORE", &one, &one, &other]),
        36 => build(&["EXPIRE", &one, "1000"]),
        37 => build(&["PEXPIRE", &one, &ttl]),
        38 => build(&["PERSIST", &one]),
        39 => build(&["GETDEL", &one]),
        40 => build(&["SPOP", &one]),
        41 => build(&["LMOVE", &one, &other, "LEFT", "RIGHT"]),
        42 => build(&["MSET", &one, &number, &other, &value]),
        _ => {
            let script = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[2])";
            build(&["EVAL", script, "2", &one, &other, &number])
        }
    }
}

/// A writer; what it added to keys that only take additions.
fn write(port: u16, side: &str, seed: u64, stop: &AtomicBool) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut client: Connection = connect(port, 0).expect("the server takes a writer");
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut all = pipe();
        for index in 0..8 {
            all.add_command(hot(&mut rng, rounds * 8 + index));
        }
        all.cmd("MULTI");
        all.add_command(hot(&mut rng, rounds)).add_command(hot(&mut rng, rounds));
        all.cmd("EXEC");
        all.cmd("INCR").arg("sum");
        all.cmd("HINCRBY").arg("sums").arg("of both").arg(2);
        all.cmd("SADD").arg("members").arg(format!("{side}:{seed}:{rounds}"));
        all.cmd("HSET").arg("fields").arg(format!("{side}:{seed}:{}", rounds % 50)).arg(rounds);
        // Some fail: WRONGTYPE and the like.
        all.ignore_errors();
        let replies: Vec<redis::RedisResult<redis::Value>> =
            all.query(&mut client).expect("a writer is answered");
        // What is added to the keys that are counted is taken.
        let counted = &replies[replies.len() - 4..];
        assert!(counted.iter().all(Result::is_ok), "{counted:?}");
        rounds += 1;
        thread::sleep(Duration::from_millis(rng.random_range(0..6)));
    }
    rounds
}

struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Writers {
    fn start(pair: &Pair) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
            for seed in 0..WRITERS {
                let (port, stop) = (server.port(), stop.clone());
                let seed = seed + if side == "a" { 0 } else { 100 };
                threads.push(thread::spawn(move || write(port, side, seed, &stop)));
            }
        }
        Self { stop, threads }
    }

    /// How many rounds there were.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a writer")).sum()
    }
}

fn pair(policy: &str) -> (Pair, [Relay; 2]) {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    for server in [&a, &b] {
        // Different data at the start, on the keys that are fought for.
        let mut rng = SmallRng::seed_from_u64(u64::from(server.port()));
        for serial in 0..300 {
            let _: redis::RedisResult<redis::Value> =
                hot(&mut rng, serial).query(&mut server.client());
        }
    }
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let relays = [Relay::start(&for_a.addr()), Relay::start(&for_b.addr())];
    let policy = format!("policy = \"{policy}\"");
    let set = |builder: Builder| builder.setting("conflict", &policy);
    let mut sidecar_a = set(for_a.peer("b", &relays[1].addr())).start_without_waiting();
    let sidecar_b = set(for_b.peer("a", &relays[0].addr())).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_breaks();
        sidecar.allow_log("the local redis refused a command");
        sidecar.allow_log("was not written to its end");
    }
    (pair, relays)
}

fn number(server: &RedisServer, command: &[&str]) -> u64 {
    let mut query = cmd(command[0]);
    query.arg(&command[1..]).query(&mut server.client()).unwrap()
}

/// Journaled units of both sites.
fn journaled(pair: &Pair) -> [u64; 2] {
    [&pair.sidecar_a, &pair.sidecar_b]
        .map(|sidecar| sidecar.info_duplex()["journal_units"].parse().unwrap())
}

#[test]
fn both_write_the_same_keys_and_end_the_same() {
    let (mut pair, relays) = pair("converge");
    pair.wait_streaming();
    let writers = Writers::start(&pair);
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds()));
    let mut rng = SmallRng::seed_from_u64(7);
    while began.elapsed() < limit {
        thread::sleep(Duration::from_millis(rng.random_range(200..700)));
        match rng.random_range(0..6) {
            0 => {
                pair.sidecar_a.kill();
                pair.sidecar_a.restart();
            }
            1 => {
                pair.sidecar_b.kill();
                pair.sidecar_b.restart();
            }
            2 => pair.sidecar_a.restart(),
            _ => relays[rng.random_range(0..2)].cut(),
        }
    }
    let rounds = writers.stop();
    pair.wait_streaming();
    pair.wait_equal(CATCH_UP);
    for server in [&pair.a, &pair.b] {
        let found = [["GET", "sum", ""], ["HGET", "sums", "of both"], ["SCARD", "members", ""]]
            .map(|words| number(server, &words[..words.iter().filter(|w| !w.is_empty()).count()]));
        assert_eq!(found, [rounds, 2 * rounds, rounds], "increments, of fields, members");
    }
    // And then it is quiet.
    let mut before = journaled(&pair);
    eventually("quiet", PATIENCE, || {
        thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, journaled(&pair)) == before
    });
    assert!(differences(&pair.a, &pair.b).is_empty());
    println!("{rounds} rounds in {limit:?}");
}

/// Different data at the start, on the keys that both write while the first sync runs.
#[test]
fn both_write_the_same_keys_during_the_first_sync() {
    let (pair, _relays) = pair("converge");
    let writers = Writers::start(&pair);
    pair.wait_streaming();
    thread::sleep(Duration::from_secs(1));
    writers.stop();
    pair.wait_equal(CATCH_UP);
}

/// The same without conflict handling: the test above can fail.
#[test]
fn without_conflict_handling_they_differ() {
    let (pair, _relays) = pair("off");
    // The first sync would make them equal.
    pair.wait_streaming();
    let differ_for_good = || {
        let writers = Writers::start(&pair);
        thread::sleep(Duration::from_secs(2));
        writers.stop();
        let begun = Instant::now();
        let mut differ = true;
        while differ && begun.elapsed() < Duration::from_secs(3) {
            differ = !differences(&pair.a, &pair.b).is_empty();
        }
        differ
    };
    // Some 40 keys may be equal by chance, where the machine has little time for the writers.
    assert!((0..4).any(|_| differ_for_good()), "they are the same without any conflict handling");
}

/// A key that expires at one site while the other, cut off, writes it anew stays; whichever the
/// primary is.
#[test]
fn a_key_that_is_written_anew_survives_its_expiry_at_the_other_site() {
    let (mut pair, relays) = pair("converge");
    pair.wait_streaming();
    pair.wait_equal(CATCH_UP);
    for (index, key) in ["written at a", "written at b"].into_iter().enumerate() {
        let (writer, other) = if index == 0 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        cmd("SET").arg(key).arg("old").arg("PX").arg(1500).exec(&mut other.client()).unwrap();
        eventually("the key at both", PATIENCE, || number(writer, &["EXISTS", key]) == 1);
        for relay in &relays {
            relay.refuse();
            relay.cut();
        }
        cmd("SET").arg(key).arg("new").arg("PX").arg(900_000).exec(&mut writer.client()).unwrap();
        eventually("the old one to expire", PATIENCE, || number(other, &["EXISTS", key]) == 0);
        relays.iter().for_each(Relay::accept);
        eventually("the new one at both", PATIENCE, || number(other, &["EXISTS", key]) == 1);
    }
    pair.wait_equal(CATCH_UP);
    for server in [&pair.a, &pair.b] {
        for key in ["written at a", "written at b"] {
            let value: String = cmd("GET").arg(key).query(&mut server.client()).unwrap();
            assert_eq!(value, "new", "{key}");
            assert!(number(server, &["PTTL", key]) > 800_000, "with its own time to live");
        }
    }
    let text: String = cmd("DUPLEX").arg("CONFLICTS").query(&mut pair.sidecar_a.client()).unwrap();
    assert!(text.contains("a write beats a delete"), "{text}");
    pair.sidecar_a.allow_log("the peer is not there yet");
}
