//! What a newcomer gets wrong: a clear line that says what to do, or patience.

use std::process::{Command, Output};

use redis::cmd;

use crate::support::ports::Port;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

fn run(config: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_redis-duplex"))
        .arg("run")
        .arg("-c")
        .arg(&path)
        .output()
        .unwrap()
}

fn config(redis: &str, more: &str) -> String {
    let port = Port::free();
    let dir = std::env::temp_dir().join(format!("duplex-{}", port.number()));
    format!(
        "site = \"a\"\n[redis]\naddr = \"{redis}\"\n{more}\n[listen]\naddr = \"127.0.0.1:{}\"\n\
         [journal]\ndir = \"{}\"\n",
        port.number(),
        dir.display()
    )
}

/// Must fail with one line on standard error that has all of `parts`.
fn fails(config: &str, parts: &[&str]) {
    let output = run(config);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    let error = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_wrong_password() {
    let redis = RedisServer::start();
    cmd("CONFIG").arg("SET").arg("requirepass").arg("right").exec(&mut redis.client()).unwrap();
    fails(&config(&redis.addr(), "password = \"wrong\""), &["WRONGPASS", "[redis]"]);
    fails(&config(&redis.addr(), ""), &["NOAUTH", "password_file"]);
    let open = RedisServer::start();
    fails(&config(&open.addr(), "password = \"none\""), &["AUTH", "remove [redis] password"]);
}

#[test]
fn a_redis_in_cluster_mode() {
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    fails(&config(&redis.addr(), ""), &["cluster mode", "cluster-enabled no"]);
}

#[test]
fn a_port_that_is_taken() {
    let redis = RedisServer::start();
    let text = config(&redis.addr(), "");
    let taken = text
        .lines()
        .map(|line| {
            let listen = line.starts_with("addr") && !line.contains(&redis.addr());
            if listen { format!("addr = \"{}\"\n", redis.addr()) } else { format!("{line}\n") }
        })
        .collect::<String>();
    fails(&taken, &["can't listen on", "[listen] addr"]);
}

#[test]
fn an_unknown_key_and_a_missing_file() {
    fails("site = \"a\"\nnosuch = 1\n", &["x.toml:2", "unknown field `nosuch`"]);
    let output = Command::new(env!("CARGO_BIN_EXE_redis-duplex"))
        .args(["run", "-c", "/nowhere/x.toml"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't read /nowhere/x.toml"));
}

#[test]
fn a_redis_that_is_not_up_yet_is_waited_for() {
    let mut redis = RedisServer::start();
    redis.stop();
    let mut sidecar = Builder::new("a", &redis).start_without_waiting();
    sidecar.allow_log("the local redis is not there");
    eventually("the sidecar to say what it waits for", PATIENCE, || {
        sidecar.log().contains("is Redis running there")
    });
    redis.restart();
    sidecar.wait_ready();
    let set: String = cmd("SET").arg("k").arg(1).query(&mut sidecar.client()).unwrap();
    assert_eq!(set, "OK");
}

/// Starts two sidecars that don't fit, and waits until the first says so.
fn does_not_link(left: Builder, right: Builder, text: &str) {
    let mut left = left.start_without_waiting();
    let mut right = right.start_without_waiting();
    for sidecar in [&mut left, &mut right] {
        sidecar.allow_log("the link broke");
        sidecar.allow_log("refused a link");
    }
    eventually("the reason", PATIENCE, || left.log().contains(text));
    let answers: String = cmd("PING").query(&mut left.client()).unwrap();
    assert_eq!(answers, "PONG", "the sidecar itself goes on");
    left.freeze();
    right.freeze();
}

#[test]
fn sites_that_do_not_fit() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    // Both think that they are a.
    let (left, right) = (Builder::new("a", &a), Builder::new("a", &b));
    let (left_addr, right_addr) = (left.addr(), right.addr());
    let text = "both sidecars are named";
    does_not_link(left.peer("b", &right_addr), right.peer("b", &left_addr), text);
    // The peer's name is another.
    let (left, right) = (Builder::new("a", &a), Builder::new("c", &b));
    let (left_addr, right_addr) = (left.addr(), right.addr());
    let text = "mend [[peer]] of site";
    does_not_link(left.peer("b", &right_addr), right.peer("a", &left_addr), text);
    // They don't agree on the primary.
    let (left, right) = (Builder::new("a", &a), Builder::new("b", &b));
    let (left_addr, right_addr) = (left.addr(), right.addr());
    let (left, right) = (left.peer("b", &right_addr), right.peer("a", &left_addr));
    does_not_link(left.primary("a"), right.primary("b"), "it must be the same");
}

#[test]
fn a_peer_that_is_this_very_sidecar() {
    let redis = RedisServer::start();
    let builder = Builder::new("a", &redis);
    let addr = builder.addr();
    let mut sidecar = builder.peer("b", &addr).start();
    sidecar.allow_log("the link broke");
    sidecar.allow_log("refused a link");
    eventually("the reason", PATIENCE, || sidecar.log().contains("both sidecars are named"));
}
