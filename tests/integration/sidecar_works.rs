//! The support for sidecars, tried on the real binary.

use crate::support::PATIENCE;
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, is_alarm};

#[test]
fn a_pair_becomes_equal() {
    let preload = |a: &RedisServer, _: &RedisServer| {
        redis::cmd("SET").arg("old").arg(1).exec(&mut a.client()).unwrap();
    };
    let pair = Pair::start_with(preload, |builder| builder.setting("apply", "batch_commands = 10"));
    redis::cmd("SET").arg("from a").arg(1).exec(&mut pair.a.client()).unwrap();
    redis::cmd("SET").arg("from b").arg(1).exec(&mut pair.b.client()).unwrap();
    pair.wait_equal(PATIENCE);
    let keys: i64 =
        redis::cmd("EXISTS").arg(&["old", "from a", "from b"]).query(&mut pair.b.client()).unwrap();
    assert_eq!(keys, 3);
}

#[test]
fn a_pair_without_data_is_equal() {
    Pair::start().wait_equal(PATIENCE);
}

#[test]
fn a_sidecar_starts_stops_and_starts_again() {
    let redis = RedisServer::start();
    let builder = Builder::new("b", &redis)
        .primary("b")
        .redis_addr(&redis.addr())
        .top("# a comment")
        .setting("journal", "fsync = \"no\"");
    let addr = builder.addr();
    let mut sidecar = builder.start();
    assert_eq!(sidecar.addr(), addr);
    assert!(!sidecar.info_duplex().is_empty());
    let (status, _) = sidecar.http_get("/healthz");
    assert!(status.contains("200"), "{status}");
    let before = sidecar.id();
    sidecar.pause();
    sidecar.resume();
    sidecar.stop();
    sidecar.restart();
    assert_ne!(sidecar.id(), before);
    sidecar.kill();
    sidecar.restart();
    redis::cmd("PING").exec(&mut sidecar.client()).unwrap();
    sidecar.allow_log("an example");
}

#[test]
fn alarms_are_found_in_logs() {
    assert!(is_alarm("2026-01-01T00:00:00Z  WARN redis_duplex::link: peer lost"));
    assert!(is_alarm("{\"level\":\"ERROR\",\"message\":\"x\"}"));
    assert!(is_alarm("thread 'main' panicked at src/main.rs:1:1"));
    assert!(!is_alarm("2026-01-01T00:00:00Z  INFO redis_duplex: a state changed kind=WARNING"));
}
