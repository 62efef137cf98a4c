//! The backlog of the local Redis: told when it is too small, and what happens when it is overrun.

use redis::cmd;

use crate::support::load::{Load, check_shared};
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

fn set_backlog(redis: &RedisServer, size: &str) {
    cmd("CONFIG").arg(&["SET", "repl-backlog-size", size]).exec(&mut redis.client()).unwrap();
}

#[test]
fn a_backlog_that_holds_no_minute_is_told_until_it_is_raised() {
    let redis = RedisServer::start();
    set_backlog(&redis, "1mb");
    let sidecar = Builder::new("a", &redis).start();
    let alarm = |expected: &str| {
        let what = format!("the alarm to be {expected}");
        eventually(&what, PATIENCE, || sidecar.info_duplex()["source_backlog_alarm"] == expected);
    };
    eventually("the size to be known", PATIENCE, || {
        sidecar.info_duplex()["source_backlog_bytes"] == "1048576"
    });
    alarm("0");
    let value = vec![b'x'; 1 << 20];
    cmd("SET").arg("k").arg(&value).exec(&mut redis.client()).unwrap();
    cmd("SET").arg("k").arg(&value).exec(&mut redis.client()).unwrap();
    alarm("1");
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut sidecar.client()).unwrap();
    assert!(errors.contains("CONFIG SET repl-backlog-size 16mb"), "{errors}");
    let metrics = sidecar.http_get("/metrics").1;
    assert!(metrics.contains("redis_duplex_source_backlog_alarm 1"), "{metrics}");
    set_backlog(&redis, "16mb");
    alarm("0");
    assert_eq!(sidecar.log().matches("repl-backlog-size is too small").count(), 1);
    assert!(sidecar.log().contains("large enough now"));
}

/// Waits until b has taken a second full sync; a, which lacks nothing, goes on.
fn b_is_told(pair: &Pair) {
    eventually("b to take a full sync", PATIENCE, || {
        (pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()) == (1, 2)
    });
    pair.wait_streaming();
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut pair.sidecar_a.client()).unwrap();
    assert!(errors.contains("was repl-backlog-size too small?"), "{errors}");
    assert!(pair.sidecar_a.log().contains("WARN"), "it is told loudly");
}

fn allow(pair: &mut Pair) {
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_log("lost the replication stream");
        sidecar.allow_log("the local Redis could not continue its stream");
        sidecar.allow_log("the local redis is not there");
        sidecar.allow_log("the link broke");
        sidecar.allow_log("a peer's link ends");
    }
}

fn write_much(server: &RedisServer) {
    let mut client = server.client();
    for n in 0..40 {
        let value = vec![b'x'; 10_000];
        cmd("SET").arg(format!("much:{n}")).arg(value).exec(&mut client).unwrap();
    }
}

#[test]
fn cut_off_for_too_long() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    set_backlog(&a, "100kb");
    let relay = Relay::start(&a.addr());
    let (for_a, for_b) = (Builder::new("a", &a).redis_addr(&relay.addr()), Builder::new("b", &b));
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    allow(&mut pair);
    pair.wait_streaming();
    let loads = [Load::start(&pair.a, "a"), Load::start(&pair.b, "b")];
    relay.refuse();
    relay.cut();
    write_much(&pair.a);
    relay.accept();
    b_is_told(&pair);
    let [by_a, by_b] = loads.map(Load::stop);
    pair.wait_equal(PATIENCE);
    for server in [&pair.a, &pair.b] {
        by_a.check(server);
        by_b.check(server);
        check_shared(server, &[&by_a, &by_b]);
    }
}

#[test]
fn a_sidecar_that_stood_still_for_too_long() {
    let mut pair = Pair::start();
    set_backlog(&pair.a, "100kb");
    let limit = ["SET", "client-output-buffer-limit", "replica 200kb 200kb 1"];
    cmd("CONFIG").arg(&limit).exec(&mut pair.a.client()).unwrap();
    allow(&mut pair);
    pair.wait_streaming();
    pair.sidecar_a.pause();
    // More than the sockets between hold.
    eventually("redis to give the sidecar up", PATIENCE, || {
        for _ in 0..20 {
            write_much(&pair.a);
        }
        pair.a.info("replication")["connected_slaves"] == "0"
    });
    write_much(&pair.a);
    pair.sidecar_a.resume();
    b_is_told(&pair);
    pair.wait_equal(PATIENCE);
}
