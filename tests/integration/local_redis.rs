//! The local Redis restarts: with its data, without it, and under a new history.

use redis::cmd;

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

fn allow_restarts(pair: &mut Pair) {
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_breaks();
        sidecar.allow_log("the local Redis could not continue its stream");
    }
}

fn pair() -> Pair {
    let mut pair = Pair::start();
    allow_restarts(&mut pair);
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

/// Two sites whose Redis keeps all that it acknowledged; the relays are on the ways to a and to b.
fn pair_on_disk() -> (Pair, [Relay; 2]) {
    let disk = ["--appendonly", "yes", "--appendfsync", "always"];
    let (a, b) = (RedisServer::start_with(&disk), RedisServer::start_with(&disk));
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let (to_a, to_b) = (Relay::start(&for_a.addr()), Relay::start(&for_b.addr()));
    let mut sidecar_a = for_a.peer("b", &to_b.addr()).start_without_waiting();
    let sidecar_b = for_b.peer("a", &to_a.addr()).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    allow_restarts(&mut pair);
    pair.wait_streaming();
    (pair, [to_a, to_b])
}

/// Only b writes the key, and its Redis acknowledged that; then one of the two Redis is killed and
/// started again, with all its data.
fn an_unseen_write_survives_a_restart_of(killed: &str) {
    let (mut pair, [_to_a, to_b]) = pair_on_disk();
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

/// Both write while the links are down, then both Redis are killed and started again, with all
/// their data: what the journals hold of before arrives, what is written after it too.
#[test]
fn unseen_writes_survive_a_restart_of_both() {
    let (mut pair, [to_a, to_b]) = pair_on_disk();
    let write = |pair: &Pair| {
        for (server, name) in [(&pair.a, "a"), (&pair.b, "b")] {
            let mut client = server.client();
            cmd("RPUSH").arg(format!("list of {name}")).arg("x").exec(&mut client).unwrap();
            cmd("INCR").arg("count").exec(&mut client).unwrap();
            cmd("HINCRBY").arg("hash").arg(name).arg(1).exec(&mut client).unwrap();
        }
    };
    write(&pair);
    pair.wait_equal(PATIENCE);
    for relay in [&to_a, &to_b] {
        relay.refuse();
        relay.cut();
    }
    let units =
        |sidecar: &Sidecar| -> u64 { sidecar.info_duplex()["local_units"].parse().unwrap() };
    for _ in 0..2 {
        let before = [&pair.sidecar_a, &pair.sidecar_b].map(units);
        write(&pair);
        eventually("the writes to be journaled", PATIENCE, || {
            let now = [&pair.sidecar_a, &pair.sidecar_b].map(units);
            now[0] == before[0] + 3 && now[1] == before[1] + 3
        });
        for (server, sidecar) in [(&mut pair.a, &pair.sidecar_a), (&mut pair.b, &pair.sidecar_b)] {
            let attached = || sidecar.log().matches("attached to the local redis").count();
            let before = attached();
            server.kill();
            server.restart();
            eventually("the source to come back", PATIENCE, || attached() > before);
        }
    }
    write(&pair);
    for relay in [&to_a, &to_b] {
        relay.accept();
    }
    pair.wait_equal(PATIENCE * 2);
    for server in [&pair.a, &pair.b] {
        let mut client = server.client();
        let number = |name: &str, args: &[&str]| -> u64 {
            cmd(name).arg(args).query(&mut server.client()).unwrap()
        };
        assert_eq!((number("LLEN", &["list of a"]), number("LLEN", &["list of b"])), (4, 4));
        assert_eq!((number("HGET", &["hash", "a"]), number("HGET", &["hash", "b"])), (4, 4));
        assert_eq!(cmd("GET").arg("count").query::<u64>(&mut client).unwrap(), 8);
    }
}

/// Both Redis restart, and clients of both write before the sidecars read again: what is in no
/// stream may be lost where both have the key, but the sites end the same.
#[test]
fn both_sites_end_the_same_when_both_wrote_while_nobody_read() {
    let (mut pair, [to_a, to_b]) = pair_on_disk();
    let write = |server: &RedisServer, name: &str| {
        let mut client = server.client();
        for key in 0..20 {
            cmd("RPUSH").arg(format!("list:{name}:{key}")).arg(name).exec(&mut client).unwrap();
            cmd("INCR").arg(format!("count:{name}:{key}")).exec(&mut client).unwrap();
            cmd("SET").arg(format!("only:{name}")).arg(key).exec(&mut client).unwrap();
        }
    };
    write(&pair.a, "a");
    write(&pair.b, "b");
    pair.wait_equal(PATIENCE);
    for relay in [&to_a, &to_b] {
        relay.refuse();
        relay.cut();
    }
    for (server, sidecar, name) in
        [(&mut pair.a, &pair.sidecar_a, "a"), (&mut pair.b, &pair.sidecar_b, "b")]
    {
        let attached = || sidecar.log().matches("attached to the local redis").count();
        let before = attached();
        sidecar.pause();
        server.kill();
        server.restart();
        write(server, name);
        cmd("DEL").arg(format!("list:{name}:0")).exec(&mut server.client()).unwrap();
        sidecar.resume();
        eventually("the source to come back", PATIENCE, || attached() > before);
        write(server, name);
    }
    for relay in [&to_a, &to_b] {
        relay.accept();
    }
    for _ in 0..20 {
        write(&pair.a, "a");
        write(&pair.b, "b");
    }
    pair.wait_equal(PATIENCE * 2);
}

/// By default Redis lets a snapshot wait for 5 s. The source does not wait, and no snapshot is made.
#[test]
fn a_fresh_redis_is_attached_to_without_a_snapshot() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "5"]);
    if !server.version().is_seven_or_later() {
        eprintln!("skipped: before 7.0 the snapshot is made on disk, and at once");
        return;
    }
    let sidecar = Builder::new("a", &server).start();
    let info = sidecar.info_duplex();
    assert_eq!((&*info["source_attach_free"], &*info["source_attach_full"]), ("1", "0"));
    assert_eq!(server.info("persistence")["rdb_bgsave_in_progress"], "0");
    assert_eq!(server.info("stats")["total_forks"], "0");
    cmd("SET").arg("k").arg(1).exec(&mut server.client()).unwrap();
    eventually("the write to be journaled", PATIENCE, || {
        sidecar.info_duplex()["local_units"] == "1"
    });
}
