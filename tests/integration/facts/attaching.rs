//! Facts 5, 9, 10 and 12: how a replica comes to its stream, and what it is to its master.

use std::time::Duration;

use redis::Value;

use super::{error_of, run};
use crate::support::redis_server::{RedisServer, info_fields};
use crate::support::replica::{Psync, Replica, Streamed};
use crate::support::{PATIENCE, eventually};

#[test]
fn fact_5_after_a_marked_snapshot_nothing_comes_before_an_ack() {
    let server = RedisServer::start_with(&["--repl-diskless-sync", "yes"]);
    let mut replica = Replica::shake_hands(&server.addr());
    replica.psync("?", -1);
    let snapshot = replica.read_snapshot();
    assert!(snapshot.by_mark, "a replica with capa eof gets a diskless snapshot by mark");
    run(&mut server.client(), "SET k v");
    assert!(replica.is_silent(Duration::from_millis(1500)));
    // An ACK is heard only once the master has put the replica online; so send more than one.
    eventually("the stream to begin", PATIENCE, || {
        replica.ack();
        replica.next(Duration::from_millis(100)).is_some()
    });
}

#[test]
fn fact_5_newlines_keep_the_connection_while_a_snapshot_is_prepared() {
    // The delay is in microseconds a key; the master sends a newline about each second.
    let server = RedisServer::start_with(&["--repl-diskless-sync", "no"]);
    let mut client = server.client();
    for n in 0..5 {
        run(&mut client, &format!("SET k{n} v"));
    }
    run(&mut client, "CONFIG SET rdb-key-save-delay 500000");
    let mut replica = Replica::connect(&server.addr());
    replica.psync("?", -1);
    let snapshot = replica.read_snapshot();
    assert!(snapshot.newlines > 0 && !snapshot.by_mark);
    assert!(snapshot.bytes.starts_with(b"REDIS") || snapshot.bytes.starts_with(b"VALKEY"));
}

#[test]
fn fact_9_rdb_only_gives_a_snapshot_at_a_known_offset() {
    let server = RedisServer::start();
    let mut first = Replica::full_sync(&server.addr());
    run(&mut server.client(), "SET k v");
    first.read_until("SET k v");
    let mut replica = Replica::connect(&server.addr());
    assert_eq!(replica.call(&["REPLCONF", "rdb-only", "1"]), "+OK");
    let before = master_position(&server);
    let Psync::Full { replid, offset } = replica.psync("?", -1) else {
        panic!("no full resync was begun")
    };
    let after = master_position(&server);
    assert_eq!(replid, before.0);
    assert!((before.1..=after.1).contains(&offset), "{before:?} {offset} {after:?}");
    let snapshot = replica.read_snapshot();
    assert!(!snapshot.bytes.is_empty());
    assert!(replica.is_closed(PATIENCE), "the master closes after the snapshot");
}

fn master_position(server: &RedisServer) -> (String, u64) {
    position_in(&server.info("replication"))
}

fn position_in(info: &std::collections::HashMap<String, String>) -> (String, u64) {
    (info["master_replid"].clone(), info["master_repl_offset"].parse().unwrap())
}

#[test]
fn fact_10_attaching_for_free_at_a_probe() {
    let server = RedisServer::start();
    let mut before = Replica::full_sync(&server.addr());
    // The stream stands in another database than the one of the probe.
    run(&mut server.client_db(7), "SET other 1");
    before.read_until("SET other 1");

    let mut client = server.client();
    run(&mut client, "MULTI");
    run(&mut client, "INFO replication");
    run(&mut client, "HSET redis-duplex-checkpoint probe 1");
    let Value::Array(replies) = run(&mut client, "EXEC") else { panic!("EXEC gives a list") };
    let info: String = redis::from_redis_value(replies[0].clone()).unwrap();
    let (replid, offset) = position_in(&info_fields(&info));
    run(&mut client, "SET after 1");

    let mut replica = Replica::shake_hands(&server.addr());
    let next_byte = i64::try_from(offset).unwrap() + 1;
    let answer = replica.psync(&replid, next_byte);
    assert_eq!(answer, Psync::Continue { replid: Some(replid) });
    replica.ack();
    let seen: Vec<String> = replica.read_until("SET after 1").iter().map(Streamed::text).collect();
    // Before the probe there may be its SELECT and, up to 6.2, its MULTI; nothing else.
    let probe =
        seen.iter().position(|line| line == "HSET redis-duplex-checkpoint probe 1").unwrap();
    let known = ["SELECT 0", "MULTI"];
    assert!(seen[..probe].iter().all(|line| known.contains(&line.as_str())), "{seen:?}");
    assert!(seen[..probe].iter().any(|line| line == "SELECT 0"), "{seen:?}");
    // Every byte of the stream was counted.
    eventually("the offsets to agree", PATIENCE, || {
        while replica.next(Duration::from_millis(20)).is_some() {}
        replica.offset() == master_position(&server).1
    });
}

#[test]
fn fact_10_without_a_backlog_the_answer_is_a_full_resync() {
    let server = RedisServer::start();
    let (replid, offset) = master_position(&server);
    let mut replica = Replica::shake_hands(&server.addr());
    let answer = replica.psync(&replid, i64::try_from(offset).unwrap() + 1);
    assert!(matches!(answer, Psync::Full { .. }), "{answer:?}");
}

#[test]
fn fact_10_without_capa_psync2_continue_is_bare() {
    let server = RedisServer::start();
    let mut first = Replica::full_sync(&server.addr());
    run(&mut server.client(), "SET k v");
    first.read_until("SET k v");
    let (replid, offset) = master_position(&server);
    let mut replica = Replica::connect(&server.addr());
    let answer = replica.psync(&replid, i64::try_from(offset).unwrap() + 1);
    assert_eq!(answer, Psync::Continue { replid: None });
}

#[test]
fn fact_12_a_replica_is_seen_with_its_port_and_counts() {
    let server = RedisServer::start();
    let mut client = server.client();
    run(&mut client, "CONFIG SET min-replicas-to-write 1");
    assert!(error_of(&mut client, "SET k v").starts_with("NOREPLICAS"));
    let mut replica = Replica::full_sync(&server.addr());
    eventually("the replica to be online", PATIENCE, || {
        replica.ack();
        let info = server.info("replication");
        info.get("slave0").is_some_and(|line| line.contains("state=online"))
    });
    assert!(server.info("replication")["slave0"].contains(",port=0,"));
    eventually("the replica to count as a good one", PATIENCE, || {
        replica.ack();
        server.info("replication").get("min_slaves_good_slaves").is_some_and(|n| n == "1")
    });
    run(&mut client, "SET k v");
    replica.read_until("SET k v");
    replica.ack();
    assert_eq!(run(&mut client, "WAIT 1 5000"), Value::Int(1));
}
