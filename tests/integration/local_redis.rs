//! The local Redis restarts: with its data, without it, and under a new history.

use redis::cmd;

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
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
