//! The local Redis restarts: with its data, without it, and under a new history.

use redis::cmd;

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

const EXPECTED: [&str; 5] = [
    "the link broke",
    "lost the replication stream",
    "the local redis is not there",
    "the local Redis could not continue its stream",
    "a peer's link ends",
];

fn pair() -> Pair {
    let mut pair = Pair::start();
    for text in EXPECTED {
        pair.sidecar_a.allow_log(text);
        pair.sidecar_b.allow_log(text);
    }
    for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
        for n in 0..200 {
            cmd("SET").arg(format!("{side}:{n}")).arg(n).exec(&mut server.client()).unwrap();
        }
    }
    pair.wait_equal(PATIENCE);
    pair
}

fn keys(server: &RedisServer) -> usize {
    cmd("DBSIZE").query(&mut server.client()).unwrap()
}

fn write_and_compare(pair: &Pair) {
    for (server, side) in [(&pair.a, "a"), (&pair.b, "b")] {
        cmd("SET").arg(format!("{side}:after")).arg(1).exec(&mut server.client()).unwrap();
    }
    eventually("what was written after the restart", PATIENCE * 2, || {
        let there = |server: &RedisServer, key: &str| -> bool {
            cmd("EXISTS").arg(key).query(&mut server.client()).unwrap_or(false)
        };
        there(&pair.a, "b:after") && there(&pair.b, "a:after")
    });
    pair.wait_equal(PATIENCE * 2);
    assert!(keys(&pair.a) >= 400, "data was lost");
}

#[test]
fn restarted_empty_it_gets_everything_back_from_the_peer() {
    for primary in [true, false] {
        let mut pair = pair();
        let server = if primary { &mut pair.a } else { &mut pair.b };
        server.kill();
        server.restart();
        write_and_compare(&pair);
    }
}

#[test]
fn restarted_from_an_older_snapshot() {
    for primary in [true, false] {
        let mut pair = pair();
        let server = if primary { &mut pair.a } else { &mut pair.b };
        cmd("SAVE").exec(&mut server.client()).unwrap();
        for n in 0..100 {
            cmd("SET").arg(format!("new:{n}")).arg(n).exec(&mut server.client()).unwrap();
        }
        pair.wait_equal(PATIENCE);
        let server = if primary { &mut pair.a } else { &mut pair.b };
        server.kill();
        server.restart();
        write_and_compare(&pair);
        assert!(keys(&pair.a) >= 500, "the peer had what the snapshot lacked");
    }
}

#[test]
fn reloaded_in_place_nobody_copies_anything() {
    let pair = pair();
    cmd("DEBUG").arg("RELOAD").exec(&mut pair.b.client()).unwrap();
    write_and_compare(&pair);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
}

/// Only b writes the key, and its Redis acknowledged that; then one of the two Redis is killed and
/// started again, with all its data.
fn an_unseen_write_survives_a_restart_of(killed: &str) {
    let disk = ["--appendonly", "yes", "--appendfsync", "always"];
    let (a, b) = (RedisServer::start_with(&disk), RedisServer::start_with(&disk));
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    // On which a pulls from b.
    let (to_b, addr_a) = (Relay::start(&for_b.addr()), for_a.addr());
    let mut sidecar_a = for_a.peer("b", &to_b.addr()).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    for text in EXPECTED {
        pair.sidecar_a.allow_log(text);
        pair.sidecar_b.allow_log(text);
    }
    pair.wait_streaming();
    cmd("SET").arg("of b").arg("old").exec(&mut pair.b.client()).unwrap();
    pair.wait_equal(PATIENCE);
    to_b.refuse();
    to_b.cut();
    cmd("SET").arg("of b").arg("new").exec(&mut pair.b.client()).unwrap();
    let (server, asked) = match killed {
        "a" => (&mut pair.a, &pair.sidecar_a),
        _ => (&mut pair.b, &pair.sidecar_b),
    };
    server.kill();
    server.restart();
    if killed == "a" {
        // Else a could resume, and have the write, before it is told to take a full sync.
        eventually("b to ask a for a full sync", PATIENCE, || {
            asked.log().matches("a peer takes a full sync").count() == 2
        });
    }
    to_b.accept();
    write_and_compare_values(&pair);
    let values = [&pair.a, &pair.b]
        .map(|server| -> String { cmd("GET").arg("of b").query(&mut server.client()).unwrap() });
    assert_eq!(values, ["new", "new"], "at a, at b");
}

fn write_and_compare_values(pair: &Pair) {
    for server in [&pair.a, &pair.b] {
        let key = format!("after:{}", server.port());
        cmd("SET").arg(&key).arg(1).exec(&mut server.client()).unwrap();
        eventually("what was written after the restart", PATIENCE * 2, || {
            let there = |server: &RedisServer| -> bool {
                cmd("EXISTS").arg(&key).query(&mut server.client()).unwrap_or(false)
            };
            there(&pair.a) && there(&pair.b)
        });
    }
    pair.wait_equal(PATIENCE);
}

#[test]
fn a_write_at_b_survives_a_restart_of_the_primary() {
    an_unseen_write_survives_a_restart_of("a");
}

#[test]
fn a_write_at_b_survives_a_restart_of_b() {
    an_unseen_write_survives_a_restart_of("b");
}
