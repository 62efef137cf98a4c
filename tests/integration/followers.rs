//! The port as a master: stock replicas and everything that counts bytes.

use std::process::Command;
use std::time::Duration;

use redis::{Connection, cmd, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::replica::{Psync, Replica, Streamed};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

/// One site without a peer.
fn site() -> (RedisServer, Sidecar) {
    let redis = RedisServer::start();
    let sidecar = Builder::new("a", &redis).start();
    (redis, sidecar)
}

fn set(server: &RedisServer, database: u32, key: &str) {
    cmd("SET").arg(key).arg(key).exec(&mut server.client_db(database)).unwrap();
}

fn has(client: &mut Connection, key: &str) -> bool {
    cmd("EXISTS").arg(key).query(client).unwrap()
}

fn texts(commands: &[Streamed]) -> Vec<String> {
    commands.iter().map(Streamed::text).collect()
}

#[test]
fn a_stock_replica_follows_through_cuts() {
    let (redis, sidecar) = site();
    for n in 0..500 {
        set(&redis, n % 4, &format!("before {n}"));
    }
    let relay = Relay::start(&sidecar.addr());
    let port = relay.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    eventually("the snapshot", PATIENCE, || has(&mut replica.client(), "before 0"));
    let mut client = redis.client();
    for round in 0..3 {
        pipe()
            .atomic()
            .cmd("SET")
            .arg(format!("whole {round}"))
            .arg(1)
            .ignore()
            .cmd("EXPIRE")
            .arg(format!("whole {round}"))
            .arg(1000)
            .ignore()
            .exec(&mut client)
            .unwrap();
        set(&redis, 3, &format!("other {round}"));
        relay.cut();
        set(&redis, 1, &format!("while away {round}"));
        let last = format!("last {round}");
        set(&redis, 0, &last);
        eventually("what was written meanwhile", PATIENCE, || has(&mut replica.client(), &last));
    }
    // The replica holds exactly what the site holds.
    for database in 0..4 {
        let keys = |server: &RedisServer| {
            let keys: Vec<String> =
                cmd("KEYS").arg("*").query(&mut server.client_db(database)).unwrap();
            let mut keys: Vec<_> =
                keys.into_iter().filter(|key| key != "redis-duplex-checkpoint").collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&redis), keys(&replica), "database {database}");
    }
    let ttl: i64 = cmd("TTL").arg("whole 2").query(&mut replica.client()).unwrap();
    assert!(ttl > 900, "{ttl}");
    let log = std::fs::read_to_string(replica.dir().join("log")).unwrap();
    assert_eq!(log.matches("Full resync from ").count(), 1, "{log}");
    assert!(log.contains("Successful partial resynchronization with "), "{log}");
}

#[test]
fn the_stream_is_the_sites_own_history() {
    let pair = Pair::start();
    pair.wait_first_sync_over();
    let mut follower = Replica::full_sync(&pair.sidecar_a.addr());
    set(&pair.b, 0, "from the peer");
    eventually("the peer's write", PATIENCE, || has(&mut pair.a.client(), "from the peer"));
    cmd("SET").arg("through the port").arg(1).exec(&mut pair.sidecar_a.client()).unwrap();
    set(&pair.a, 0, "local");
    set(&pair.a, 2, "local too");
    let mut found = texts(&follower.read_until("SET local too local too"));
    // The one that follows a snapshot may be said again.
    found.dedup();
    assert_eq!(found, ["SELECT 0", "SET local local", "SELECT 2"]);
}

#[test]
fn any_byte_of_the_past_can_be_asked_for() {
    let (redis, sidecar) = site();
    let addr = sidecar.addr();
    let mut first = Replica::shake_hands(&addr);
    let Psync::Full { replid, offset } = first.psync("?", -1) else { panic!("no snapshot") };
    assert!(offset >= 1 << 39, "{offset}: offsets begin high");
    // By its length if all of it was there before the first byte was sent.
    let by_mark = first.read_snapshot().by_mark;
    set(&redis, 5, "k");
    if by_mark {
        // Nothing follows a snapshot without a length before it is acknowledged.
        assert!(first.is_silent(Duration::from_millis(300)));
    }
    first.ack();
    let found = first.read_until("SET k k");
    assert!(found[0].text().starts_with("SELECT "), "{found:?}");
    let end = i64::try_from(first.offset()).unwrap();
    // In the middle of a command, its last byte, and nothing at all.
    for back in [10, 1] {
        let mut again = Replica::shake_hands(&addr);
        let answer = again.psync(&replid, end - back + 1);
        assert_eq!(answer, Psync::Continue { replid: Some(replid.clone()) });
    }
    let mut at_end = Replica::shake_hands(&addr);
    assert!(matches!(at_end.psync(&replid, end + 1), Psync::Continue { .. }));
    set(&redis, 5, "next");
    assert_eq!(texts(&at_end.read_until("SET next next")), Vec::<String>::new());
    // Of the future, and of another history.
    let mut ahead = Replica::shake_hands(&addr);
    let asked = i64::try_from(at_end.offset()).unwrap() + 1000;
    assert!(matches!(ahead.psync(&replid, asked), Psync::Full { .. }));
    let mut stranger = Replica::shake_hands(&addr);
    assert!(matches!(stranger.psync(&"f".repeat(40), end), Psync::Full { .. }));
}

#[test]
fn simple_syncers_get_simple_answers() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    // No capabilities: a length, and a bare +CONTINUE.
    let mut plain = Replica::connect(&sidecar.addr());
    assert_eq!(plain.call(&["REPLCONF", "listening-port", "7777"]), "+OK");
    let Psync::Full { replid, .. } = plain.psync("?", -1) else { panic!("no snapshot") };
    assert!(!plain.read_snapshot().by_mark);
    set(&redis, 0, "after");
    plain.read_until("SET after after");
    let next = i64::try_from(plain.offset()).unwrap() + 1;
    let mut again = Replica::connect(&sidecar.addr());
    assert_eq!(again.psync(&replid, next), Psync::Continue { replid: None });
    // SYNC: no line before the snapshot.
    let mut old = Replica::connect(&sidecar.addr());
    old.send(&["SYNC"]);
    assert!(!old.read_snapshot().bytes.is_empty());
    set(&redis, 0, "later");
    old.read_until("SET later later");
    // The snapshot alone.
    let mut alone = Replica::shake_hands(&sidecar.addr());
    assert_eq!(alone.call(&["REPLCONF", "rdb-only", "1"]), "+OK");
    assert!(matches!(alone.psync("?", -1), Psync::Full { .. }));
    alone.read_snapshot();
    assert!(alone.is_closed(PATIENCE));
}

#[test]
fn redis_cli_takes_a_snapshot() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.rdb");
    let port = sidecar.addr().rsplit_once(':').unwrap().1.to_owned();
    let output =
        Command::new("redis-cli").args(["-p", &port, "--rdb"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"REDIS") || bytes.starts_with(b"VALKEY"));
}

#[test]
fn info_and_role_are_a_masters() {
    let (redis, mut sidecar) = site();
    sidecar.allow_log("audit");
    let mut follower = Replica::full_sync(&sidecar.addr());
    set(&redis, 0, "k");
    follower.read_until("SET k k");
    let text: String = cmd("INFO").arg("replication").query(&mut sidecar.client()).unwrap();
    let info = crate::support::redis_server::info_fields(&text);
    assert_eq!(info["role"], "master");
    assert_eq!(info["master_repl_offset"], follower.offset().to_string());
    assert_eq!(info["connected_slaves"], "0");
    for command in ["REPLICAOF", "SLAVEOF"] {
        let refused = cmd(command).arg("127.0.0.1").arg(1).exec(&mut sidecar.client());
        assert!(refused.is_err(), "{command} was obeyed");
    }
    assert_eq!(redis.info("replication")["role"], "master");
}
