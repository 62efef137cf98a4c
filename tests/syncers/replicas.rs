//! Stock replicas and `redis-cli`: the real programs where they are at hand, else their words.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::sources::{full, set, site};
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, eventually};
use crate::wire::{Wire, command};

fn port(sidecar: &Sidecar) -> String {
    sidecar.addr().rsplit_once(':').unwrap().1.to_owned()
}

fn cli(sidecar: &Sidecar, words: &[&str]) -> Output {
    Command::new("redis-cli").args(["-p", &port(sidecar)]).args(words).output().unwrap()
}

/// What replicas of each kind say, in one go where they do so, and then a full sync.
#[test]
fn handshakes_of_stock_replicas() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    let table: [(&str, &[&str]); 4] = [
        ("redis 6 and 7", &["listening-port 6390", "capa eof capa psync2"]),
        (
            "redis 8",
            &[
                "listening-port 6390",
                "ip-address 10.0.0.7",
                "capa eof capa psync2 capa rdb-channel-repl",
            ],
        ),
        (
            "valkey 8, which offers a second connection for the snapshot",
            &["listening-port 6390", "capa eof capa psync2 capa dual-channel", "version 8.1.4"],
        ),
        (
            "valkey 9",
            &[
                "listening-port 6390",
                "capa eof capa psync2 capa dual-channel capa skip-rdb-checksum",
                "version 9.0.0",
            ],
        ),
    ];
    for (who, words) in table {
        let mut wire = Wire::connect(&sidecar.addr());
        wire.ask("PING", "+PONG\r\n");
        for words in words {
            wire.send(&format!("REPLCONF {words}"));
        }
        for words in words {
            let answer = wire.line();
            let fine = answer == "+OK" || (words.starts_with("version") && answer.starts_with('-'));
            assert!(fine, "{who}, {words}: {answer}");
        }
        let (id, offset) = full(&mut wire);
        wire.snapshot();
        wire.send(&format!("REPLCONF ACK {offset}"));
        set(&redis, 0, who);
        wire.until(who.as_bytes());
        let mut again = Wire::connect(&sidecar.addr());
        again.ask("REPLCONF capa eof capa psync2", "+OK\r\n");
        again.ask(&format!("PSYNC {id} {}", offset + 1), &format!("+CONTINUE {id}\r\n"));
    }
}

#[test]
fn redis_cli_rdb() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.rdb");
    let output = cli(&sidecar, &["--rdb", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let settings =
        ["--dir", dir.path().to_str().unwrap(), "--dbfilename", "dump.rdb", "--loglevel", "debug"];
    let loaded = RedisServer::start_with(&settings);
    let value: Option<String> = redis::cmd("GET").arg("k").query(&mut loaded.client()).unwrap();
    assert_eq!(value.as_deref(), Some("k"), "a server loads it");
}

#[test]
fn redis_cli_replica() {
    let (redis, sidecar) = site();
    set(&redis, 0, "k");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut child = Command::new("redis-cli")
        .args(["-p", &port(&sidecar), "--replica"])
        .stdout(std::fs::File::create(&path).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("redis-cli to be told of writes", PATIENCE, || {
        set(&redis, 0, "later");
        said().contains("\"SET\",\"later\",\"later\"")
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Some thousand commands as fast as they can be written, some of them wrong.
#[test]
fn redis_cli_pipe() {
    let (redis, sidecar) = site();
    let mut child = Command::new("redis-cli")
        .args(["-p", &port(&sidecar), "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = Vec::new();
    for n in 0..20_000 {
        input.extend(command(&format!("RPUSH list {n}")));
        if n % 4000 == 0 {
            input.extend(command("NOSUCH x"));
        }
    }
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("errors: 5, replies: 20005"), "{said}{output:?}");
    let list: Vec<u64> =
        redis::cmd("LRANGE").arg("list").arg(0).arg(-1).query(&mut redis.client()).unwrap();
    assert!(list.into_iter().eq(0..20_000));
}

#[test]
fn redis_cli_typed() {
    let (_redis, mut sidecar) = site();
    sidecar.allow_log("audit: refused");
    for (words, answer) in [
        (&["SET", "k", "v"][..], "OK"),
        (&["-3", "GET", "k"], "v"),
        (&["ROLE"], "master\n"),
        (&["--no-raw", "REPLICAOF", "NO", "ONE"], "(error) ERR this port belongs to redis-duplex"),
    ] {
        let output = cli(&sidecar, words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with(answer), "{words:?}: {said}{output:?}");
    }
    let scan = cli(&sidecar, &["--scan"]);
    assert!(String::from_utf8_lossy(&scan.stdout).lines().any(|key| key == "k"));
    let big = cli(&sidecar, &["--bigkeys"]);
    assert!(big.status.success(), "{big:?}");
    for how in ["--stat", "--latency"] {
        let mut some_time = Command::new("timeout");
        let said = output_of(some_time.args(["0.5", "redis-cli", "-p", &port(&sidecar), how]));
        assert!(!said.contains("ERR") && !said.contains("rror:"), "{how}: {said}");
    }
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
