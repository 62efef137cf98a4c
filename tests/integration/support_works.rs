//! The support itself: a test that can't fail would prove nothing.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redis::{Connection, cmd};

use crate::support::compare::differences;
use crate::support::pair::wait_equal;
use crate::support::redis_server::{RedisServer, connect};
use crate::support::relay::{Direction, Relay};
use crate::support::{PATIENCE, eventually};

fn run(connection: &mut Connection, line: &str) {
    run_words(connection, &line.split(' ').collect::<Vec<_>>());
}

fn run_words(connection: &mut Connection, words: &[&str]) {
    cmd(words[0]).arg(&words[1..]).exec(connection).unwrap_or_else(|e| panic!("{words:?}: {e}"));
}

fn ping(connection: &mut Connection) -> bool {
    cmd("PING").query::<String>(connection).is_ok()
}

#[test]
fn a_server_keeps_its_port_and_directory_over_restarts() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let port = server.port();
    run(&mut server.client(), "SET k v");
    server.kill();
    assert!(connect(port, 0).is_err());
    server.restart();
    let value: String = cmd("GET").arg("k").query(&mut server.client()).unwrap();
    assert_eq!((server.port(), value.as_str()), (port, "v"));
    server.stop();
    server.restart();
    assert_eq!(server.info("keyspace")["db0"].split(',').next(), Some("keys=1"));
    assert!(server.dir().join("log").exists());
}

#[test]
fn a_paused_server_answers_when_resumed() {
    let server = RedisServer::start();
    let mut client = server.client();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    server.pause();
    assert!(!ping(&mut client));
    server.resume();
    assert!(ping(&mut server.client()));
}

#[test]
fn equal_servers_have_no_differences() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let modern = a.version().is_seven_or_later();
    for (server, members) in [(&a, ["1", "x", "2"]), (&b, ["2", "1", "x"])] {
        let client = &mut server.client_db(3);
        run(client, "SET s v PX 100000000");
        // An absolute time, so that both have the same.
        run(client, "PEXPIREAT s 4000000000000");
        run(client, "RPUSH l 1 2 3");
        for member in members {
            run(client, &format!("SADD set {member}"));
            run(client, &format!("HSET h {member} v"));
        }
        run(client, "ZADD z 1.5 m -inf n");
        run(client, "XADD st 1-1 f v");
        run(client, "XADD st 1-2 f v");
        run(client, "XGROUP CREATE st g 0");
        run(client, "XREADGROUP GROUP g c COUNT 1 STREAMS st >");
        run(client, "XACK st g 1-1");
        run(client, "HSET redis-duplex-checkpoint site a");
        if modern {
            let code = "#!lua name=l\nredis.register_function('f', function() return 1 end)";
            run_words(client, &["FUNCTION", "LOAD", code]);
        }
        if server.version().is_valkey_from(9) {
            run(client, "HPEXPIREAT h 4000000000000 FIELDS 1 x");
        }
    }
    run(&mut a.client(), "HSET redis-duplex-checkpoint a-tag 1");
    assert_eq!(differences(&a, &b), Vec::<String>::new());
    wait_equal(&a, &b, PATIENCE);
}

#[test]
fn every_kind_of_difference_is_found() {
    let mut cases = vec![
        ("SET k 1", "SET k 2", "string"),
        ("SET k 1", "PING", "b nothing"),
        ("PING", "SET k 1", "a holds nothing"),
        ("SET k 1", "RPUSH k 1", "type"),
        ("RPUSH k 1 2", "RPUSH k 2 1", "list"),
        ("SADD k 1", "SADD k 2", "set"),
        ("HSET k f 1", "HSET k f 2", "hash"),
        ("HSET k f 1", "HSET k f 1 g 1", "hash"),
        ("ZADD k 1 m", "ZADD k 2 m", "zset"),
        ("XADD k 1-1 f 1", "XADD k 1-1 f 2", "stream"),
        ("XGROUP CREATE k g 0 MKSTREAM", "XGROUP CREATE k h 0 MKSTREAM", "stream"),
        ("SET k 1", "SET k 1 EX 100000", "expiry"),
        ("SET k 1 EX 100", "SET k 1 EX 100000", "expiry"),
    ];
    let (a, b) = (RedisServer::start(), RedisServer::start());
    if a.version().is_valkey_from(9) {
        cases.push(("HSETEX k EX 1000 FIELDS 1 f 1", "HSET k f 1", "hash"));
    }
    for (on_a, on_b, what) in cases {
        for server in [&a, &b] {
            run(&mut server.client(), "FLUSHALL");
        }
        run(&mut a.client_db(2), on_a);
        run(&mut b.client_db(2), on_b);
        let found = differences(&a, &b);
        assert!(found.len() == 1 && found[0].contains(what), "{on_a} / {on_b}: {found:?}");
        assert!(found[0].starts_with("database 2 key \"k\""), "{found:?}");
    }
}

#[test]
#[should_panic(expected = "the servers differ in 1 places")]
fn waiting_for_equal_servers_ends() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    run(&mut a.client(), "SET k 1");
    wait_equal(&a, &b, Duration::from_millis(100));
}

#[test]
#[should_panic(expected = "in vain for: the impossible")]
fn waiting_for_a_condition_ends() {
    eventually("the impossible", Duration::from_millis(50), || false);
}

#[test]
fn a_relay_cuts_refuses_and_accepts() {
    let server = RedisServer::start();
    let relay = Relay::start(&server.addr());
    let mut client = connect(relay.port(), 0).unwrap();
    assert!(ping(&mut client) && relay.connections() == 1);
    relay.refuse();
    assert_eq!(TcpStream::connect(relay.addr()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(ping(&mut client), "a connection outlives a closed port");
    relay.cut();
    assert!(!ping(&mut client));
    relay.accept();
    assert!(ping(&mut connect(relay.port(), 0).unwrap()));
}

#[test]
fn a_relay_delays_without_slowing() {
    let server = RedisServer::start();
    let relay = Relay::start(&server.addr());
    let mut client = connect(relay.port(), 0).unwrap();
    relay.delay(Direction::ToTarget, Duration::from_millis(60));
    relay.delay(Direction::ToClient, Duration::from_millis(40));
    let began = Instant::now();
    assert!(ping(&mut client));
    assert!(began.elapsed() >= Duration::from_millis(100));
    let mut pipeline = redis::pipe();
    let value = vec![b'x'; 10_000];
    for n in 0..1000 {
        pipeline.cmd("SET").arg(n).arg(&value).ignore();
    }
    let began = Instant::now();
    pipeline.exec(&mut client).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    relay.pass();
}

#[test]
fn a_relay_swallows_replies_then_cuts() {
    let server = RedisServer::start();
    let relay = Relay::start(&server.addr());
    let mut client = connect(relay.port(), 0).unwrap();
    relay.swallow_replies_then_cut(|| {
        client.send_packed_command(&cmd("SET").arg("k").arg("v").get_packed_command()).unwrap();
        eventually("the write to arrive", PATIENCE, || {
            cmd("EXISTS").arg("k").query(&mut server.client()).unwrap()
        });
        eventually("its reply to be swallowed", PATIENCE, || {
            relay.swallowed(Direction::ToClient) == "+OK\r\n".len() as u64
        });
    });
    assert!(client.recv_response().is_err());
    assert!(ping(&mut connect(relay.port(), 0).unwrap()));
}

#[test]
fn a_black_hole_takes_all_and_has_no_end() {
    let mut server = RedisServer::start();
    let relay = Relay::start(&server.addr());
    let mut client = connect(relay.port(), 0).unwrap();
    assert!(ping(&mut client));
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    relay.swallow(Direction::ToTarget);
    relay.swallow(Direction::ToClient);
    client.send_packed_command(&cmd("SET").arg("k").arg("v").get_packed_command()).unwrap();
    eventually("the write to be swallowed", PATIENCE, || relay.swallowed(Direction::ToTarget) > 0);
    let exists: bool = cmd("EXISTS").arg("k").query(&mut server.client()).unwrap();
    assert!(!exists);
    server.kill();
    let error = client.recv_response().unwrap_err();
    assert!(error.is_timeout(), "the end of the target must not be seen: {error}");
    relay.cut();
}
