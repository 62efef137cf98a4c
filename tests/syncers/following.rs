//! Followers for long and in numbers: a stock replica through restarts of everything, many at
//! once, slow ones.
//!
//! `REDIS_DUPLEX_TEST_REPLICA` names another server to be the replica, such as a Valkey.

use std::process::Command;
use std::thread;
use std::time::Duration;

use redis::{cmd, pipe};

use crate::sources::{full, set};
use crate::support::load::Load;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};
use crate::wire::{Wire, command};

const RESTARTS: usize = 20;

/// Fills a server with so many keys of so many bytes.
fn fill(server: &RedisServer, keys: usize, bytes: usize) {
    let mut client = server.client();
    for start in (0..keys).step_by(500) {
        let mut pipeline = pipe();
        for n in start..(start + 500).min(keys) {
            // Not to be compressed to nothing.
            let value: Vec<u8> = (0..bytes)
                .map(|at| u8::try_from((at * 7919 + n * 104_729) % 251).unwrap())
                .collect();
            pipeline.cmd("SET").arg(format!("fill:{n}")).arg(value).ignore();
        }
        pipeline.exec(&mut client).unwrap();
    }
}

fn replica_of(sidecar: &Sidecar) -> RedisServer {
    let port = sidecar.addr().rsplit_once(':').unwrap().1.to_owned();
    let settings = ["--replicaof", "127.0.0.1", &port, "--repl-timeout", "60"];
    match std::env::var("REDIS_DUPLEX_TEST_REPLICA") {
        Ok(program) => RedisServer::start_program(&program, &settings),
        Err(_) => RedisServer::start_with(&settings),
    }
}

fn log(server: &RedisServer) -> String {
    std::fs::read_to_string(server.dir().join("log")).unwrap()
}

fn is_up(replica: &RedisServer) -> bool {
    replica.info("replication")["master_link_status"] == "up"
}

/// The digests of all values, by database and key: a comparison that also takes a gigabyte.
fn digests(server: &RedisServer) -> Vec<(u32, String, String)> {
    let mut all = Vec::new();
    for database in 0..6 {
        let mut client = server.client_db(database);
        let mut keys: Vec<String> = cmd("KEYS").arg("*").query(&mut client).unwrap();
        keys.retain(|key| key != "redis-duplex-checkpoint");
        keys.sort_unstable();
        for keys in keys.chunks(1000) {
            let found: Vec<String> =
                cmd("DEBUG").arg("DIGEST-VALUE").arg(keys).query(&mut client).unwrap();
            all.extend(keys.iter().zip(found).map(|(key, found)| (database, key.clone(), found)));
        }
    }
    all
}

fn wait_same(redis: &RedisServer, replica: &RedisServer, limit: Duration) {
    eventually("the replica holds the same", limit, || {
        is_up(replica) && digests(redis) == digests(replica)
    });
}

/// A full sync, 20 restarts of the sidecar, a restart of the local Redis with its data, all under
/// load: one full sync, and equal at the end. Then the local Redis loses its history.
fn a_replica_through_everything(keys: usize, bytes: usize, patience: Duration) {
    // It saves when it is stopped, and goes on with its history.
    let mut redis = RedisServer::start_with(&["--save", "3600 1"]);
    fill(&redis, keys, bytes);
    let mut sidecar = Builder::new("a", &redis).start();
    sidecar.allow_log("lost the replication stream");
    sidecar.allow_log("the local redis is not there");
    sidecar.allow_log("the journal's last record was not written to its end");
    let replica = replica_of(&sidecar);
    eventually("the full sync", patience, || is_up(&replica));
    let load = Load::start(&redis, "a");
    for round in 0..RESTARTS {
        thread::sleep(Duration::from_millis(100));
        if round % 2 == 0 {
            sidecar.stop();
        } else {
            sidecar.kill();
        }
        sidecar.restart();
        eventually("the replica is back", PATIENCE, || is_up(&replica));
    }
    let written = load.stop();
    wait_same(&redis, &replica, patience);
    written.check(&replica);
    assert_eq!(log(&replica).matches("Full resync from ").count(), 1, "{}", log(&replica));
    // Before 7.0 a server never goes on with the history that it had before a restart.
    if redis.version().is_seven_or_later() {
        let lost = log(&replica).matches("Connection with ").count();
        redis.stop();
        redis.restart();
        set(&redis, 0, "after the restart");
        wait_same(&redis, &replica, patience);
        assert!(is_up(&replica));
        assert_eq!(log(&replica).matches("Connection with ").count(), lost, "it did not notice");
    }
    // Without its history there is no way but another full sync.
    sidecar.allow_log("the local Redis could not continue its stream");
    sidecar.allow_log("a follower could not be served on");
    redis.kill();
    redis.restart();
    set(&redis, 0, "of a new history");
    let there =
        || cmd("EXISTS").arg("of a new history").query(&mut replica.client()).unwrap_or(false);
    eventually("the second full sync", patience, there);
    wait_same(&redis, &replica, patience);
    assert_eq!(log(&replica).matches("Full resync from ").count(), 2);
}

#[test]
fn a_replica_through_restarts() {
    a_replica_through_everything(20_000, 500, PATIENCE * 2);
}

/// By hand, `./dev followers`: about 1 GB.
#[test]
#[ignore = "needs 3 GB of memory and some minutes"]
fn a_large_replica_through_restarts() {
    a_replica_through_everything(250_000, 4_000, Duration::from_mins(5));
}

/// Whoever asks while a snapshot is on its way gets that one.
#[test]
fn one_snapshot_for_all_who_ask() {
    let redis = RedisServer::start();
    fill(&redis, 1000, 100);
    let sidecar = Builder::new("a", &redis).start();
    let full_syncs = || -> u64 { redis.info("stats")["sync_full"].parse().unwrap() };
    let before = full_syncs();
    // A millisecond a key.
    let delay = |micros| {
        cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(micros).exec(&mut redis.client())
    };
    delay(1000).unwrap();
    let addr = sidecar.addr();
    let ask = |capa: bool| {
        let mut wire = Wire::connect(&addr);
        if capa {
            wire.ask("REPLCONF capa eof capa psync2", "+OK\r\n");
        }
        let place = full(&mut wire);
        let (head, bytes) = wire.snapshot();
        if head.starts_with("EOF") {
            wire.send("REPLCONF ACK 0");
        }
        (place, bytes, wire)
    };
    let mut got: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || ask(n % 2 == 0))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    set(&redis, 3, "k");
    let (first_place, first_bytes, _) = &got[0];
    for (place, bytes, _) in &got[1..] {
        assert_eq!(place, first_place);
        assert!(bytes == first_bytes, "it is another snapshot");
    }
    for (_, _, wire) in &mut got {
        wire.expect(&[command("SELECT 3"), command("SET k k")].concat(), "the stream");
    }
    assert_eq!(full_syncs() - before, 1);
}

fn resident_kib(id: u32) -> u64 {
    let output = Command::new("ps").args(["-o", "rss=", "-p", &id.to_string()]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

/// One that does not read: neither Redis nor our memory holds anything for it, and it misses
/// nothing.
#[test]
fn a_slow_follower_costs_disk() {
    const BYTES: usize = 64 * 1024 * 1024;
    let redis = RedisServer::start();
    fill(&redis, 16_000, 4000);
    let sidecar = Builder::new("a", &redis).setting("journal", "cache = \"1MiB\"").start();
    let mut slow = Wire::connect(&sidecar.addr());
    let (_, _) = full(&mut slow);
    let snapshot_taken = || redis.info("replication")["connected_slaves"] == "1";
    eventually("Redis has sent all of the snapshot", PATIENCE, snapshot_taken);
    let before = resident_kib(sidecar.id());
    let value = vec![b'v'; 64 * 1024];
    let mut client = redis.client();
    for n in 0..BYTES / value.len() {
        cmd("SET").arg(format!("k{n}")).arg(&value).exec(&mut client).unwrap();
    }
    set(&redis, 0, "last");
    let mut other = Wire::connect(&sidecar.addr());
    let (_, end) = full(&mut other);
    assert!(end > 1 << 40);
    let after = resident_kib(sidecar.id());
    assert!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    slow.snapshot();
    let stream = slow.until(&command("SET last last"));
    assert!(stream.len() > BYTES, "{}", stream.len());
}

/// A big argument passes without being held twice, up to what the local Redis takes.
#[test]
fn big_arguments() {
    let redis = RedisServer::start_with(&["--proto-max-bulk-len", "300mb"]);
    let sidecar = Builder::new("a", &redis).start();
    let mut wire = Wire::connect(&sidecar.addr());
    let mut largest = |length: usize| {
        let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n");
        wire.write(head.as_bytes());
        let chunk = vec![b'x'; 1024 * 1024];
        let mut resident = 0;
        for _ in 0..length / chunk.len() {
            wire.write(&chunk);
            resident = resident.max(resident_kib(sidecar.id()));
        }
        wire.write(b"\r\n");
        wire.expect(b"+OK\r\n", "a large value");
        resident.max(resident_kib(sidecar.id())) / 1024
    };
    let resident = largest(200 * 1024 * 1024);
    assert!(resident < 200 + 100, "{resident} MiB: held more than once");
    let length: usize = cmd("STRLEN").arg("k").query(&mut redis.client()).unwrap();
    assert_eq!(length, 200 * 1024 * 1024);
    wire.write(b"*2\r\n$3\r\nGET\r\n$314572801\r\n");
    wire.expect(b"-ERR Protocol error: invalid bulk length\r\n", "longer than it takes");
}
