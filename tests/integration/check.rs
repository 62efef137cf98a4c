//! `redis-duplex check`: each thing that is wrong has its line, and says what to do.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use redis::cmd;

use crate::support::PATIENCE;
use crate::support::load::Load;
use crate::support::pair::Pair;
use crate::support::ports::Port;
use crate::support::redis_server::RedisServer;

/// Exit code and output.
fn check(config: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-duplex"));
    let output = command.arg("check").arg("-c").arg(config).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text + &String::from_utf8_lossy(&output.stderr))
}

/// The line about `subject` at `place`, without its level, which must be this.
#[track_caller]
fn line(text: &str, level: &str, place: &str, subject: &str) -> String {
    let found = text.lines().find_map(|line| {
        let rest = line.strip_prefix(level)?.trim_start().strip_prefix(place)?;
        Some(rest.trim_start().strip_prefix(subject)?.trim_start().to_owned())
    });
    found.unwrap_or_else(|| panic!("no {level} {place} {subject} in\n{text}"))
}

struct Site {
    dir: tempfile::TempDir,
    port: Port,
}

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), port: Port::free() }
    }

    fn check(&self, redis: &str, more: &str) -> (i32, String) {
        let path = self.dir.path().join("a.toml");
        let text = format!(
            "site = \"a\"\n[redis]\naddr = \"{redis}\"\n{more}\n[listen]\naddr = \"127.0.0.1:{}\"\n\
             [journal]\ndir = \"{}\"\n",
            self.port.number(),
            self.dir.path().join("new/journal").display()
        );
        std::fs::write(&path, text).unwrap();
        check(&path)
    }
}

#[test]
fn beside_two_sidecars_that_work() {
    let pair = Pair::start();
    pair.wait_streaming();
    let set = ["SET", "repl-backlog-size", "100kb"];
    cmd("CONFIG").arg(&set).exec(&mut pair.a.client()).unwrap();
    let load = Load::start(&pair.a, "a");
    let (code, text) = check(pair.sidecar_a.config());
    load.stop();
    assert_eq!(code, 0, "{text}");
    line(&text, "ok", "redis", "permissions");
    line(&text, "warn", "redis", "persistence");
    let backlog = line(&text, "warn", "redis", "repl-backlog-size");
    assert!(backlog.contains("covers") && backlog.contains("CONFIG SET"), "{backlog}");
    let listen = line(&text, "ok", "sidecar", "listen.addr");
    assert!(listen.contains("this site's sidecar runs there"), "{listen}");
    for subject in ["reachable", "site", "protocol", "primary", "round trip", "clocks"] {
        line(&text, "ok", "peer b", subject);
    }
    assert!(!text.contains("FAIL"), "{text}");
    pair.wait_equal(PATIENCE);
}

#[test]
fn a_redis_that_is_not_there_fails_at_once() {
    let began = Instant::now();
    let nobody = Port::free();
    let (code, text) = Site::new().check(&format!("127.0.0.1:{}", nobody.number()), "");
    assert_eq!(code, 1, "{text}");
    let told = line(&text, "FAIL", "redis", "reachable");
    assert!(told.contains("is Redis running there"), "{told}");
    line(&text, "ok", "sidecar", "journal.dir");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_user_who_may_not_do_all() {
    let redis = RedisServer::start();
    let user = |rules: &[&str]| {
        let mut setuser = cmd("ACL");
        setuser.arg("SETUSER").arg("duplex").arg(&["reset", "on", ">secret"]).arg(rules);
        setuser.exec(&mut redis.client()).unwrap();
    };
    let check = || {
        let site = Site::new();
        site.check(&redis.addr(), "username = \"duplex\"\npassword = \"secret\"")
    };
    user(&["~*", "&*", "+@all"]);
    let (code, text) = check();
    assert_eq!(code, 0, "{text}");
    line(&text, "ok", "redis", "permissions");
    // With and without the right to ask what one may.
    for ask in ["+acl", "-acl"] {
        user(&["~*", "&*", "+@all", "-xadd", "-client", ask]);
        let (code, text) = check();
        assert_eq!(code, 1, "{text}");
        let told = line(&text, "FAIL", "redis", "permissions");
        assert!(told.contains("xadd") && told.contains("client"), "{told}");
        assert!(told.contains("ACL SETUSER duplex"), "{told}");
        user(&["~app:*", "+@all", ask]);
        let told = line(&check().1, "FAIL", "redis", "permissions");
        assert!(told.contains("restore") && told.contains("more"), "{told}");
    }
}

#[test]
fn settings_that_hurt_later() {
    let master = RedisServer::start();
    let settings = ["--min-replicas-to-write", "1", "--maxmemory", "1gb", "--maxmemory-policy"];
    let redis = RedisServer::start_with(
        &[
            &settings[..],
            &[
                "allkeys-lru",
                "--repl-backlog-ttl",
                "10",
                "--repl-backlog-size",
                "1mb",
                "--save",
                "60 1",
            ],
        ]
        .concat(),
    );
    let site = Site::new();
    let (code, text) = site.check(&redis.addr(), "");
    assert_eq!(code, 0, "{text}");
    for subject in ["eviction", "min-replicas-to-write", "repl-backlog-ttl", "repl-backlog-size"] {
        let told = line(&text, "warn", "redis", subject);
        assert!(told.contains(" -> "), "{told}");
    }
    line(&text, "ok", "redis", "persistence");
    cmd("REPLICAOF").arg("127.0.0.1").arg(master.port()).exec(&mut redis.client()).unwrap();
    let (code, text) = site.check(&redis.addr(), "");
    assert_eq!(code, 1, "{text}");
    line(&text, "FAIL", "redis", "role");
}

#[test]
fn peers_that_do_not_fit() {
    let pair = Pair::start();
    pair.wait_streaming();
    let peer = |site: &str, addr: &str, primary: &str| {
        let more = format!(
            "[[peer]]\nsite = \"{site}\"\naddr = \"{addr}\"\n[conflict]\nprimary = \"{primary}\""
        );
        let (code, text) = Site::new().check(&pair.a.addr(), &more);
        assert_eq!(code, 1, "{text}");
        text
    };
    let (a, b) = (pair.sidecar_a.addr(), pair.sidecar_b.addr());
    line(&peer("b", &pair.b.addr(), "a"), "FAIL", "peer b", "reachable");
    line(&peer("b", &a, "a"), "FAIL", "peer b", "site");
    line(&peer("c", &b, "a"), "FAIL", "peer c", "site");
    line(&peer("b", &b, "b"), "FAIL", "peer b", "primary");
    // Not started yet: a warning.
    let nobody = Port::free();
    let more = format!(
        "[[peer]]\nsite = \"b\"\naddr = \"127.0.0.1:{}\"\n[conflict]\nprimary = \"a\"",
        nobody.number()
    );
    let (code, text) = Site::new().check(&pair.a.addr(), &more);
    assert_eq!(code, 0, "{text}");
    line(&text, "warn", "peer b", "reachable");
}
