//! A peer that talks nonsense harms nobody: it is told, and the sidecar lives on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use redis::cmd;

use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

fn lives_on(redis: &RedisServer, sidecar: &Sidecar) {
    let pong: String = cmd("PING").query(&mut sidecar.client()).unwrap();
    assert_eq!(pong, "PONG");
    cmd("SET").arg("still").arg("here").exec(&mut redis.client()).unwrap();
    eventually("the source to read on", PATIENCE, || sidecar.info_duplex()["local_units"] != "0");
    assert!(!sidecar.log().contains("panicked"));
}

/// A peer that answers each link with these bytes.
fn fake_peer(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Ends with the test's process.
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
            let _ = stream.read(&mut request);
        }
    });
    addr
}

#[test]
fn a_peer_that_answers_nonsense() {
    for (answer, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "unexpected answer"),
        (b"+OK\r\n", "the peer said"),
        (b"-ERR unknown command 'DUPLEX'\r\n", "unknown command 'DUPLEX'"),
        (b"+LINK\r\nHTTP/1.1 200 OK and so on", "unknown frame kind"),
        (b"+LINK\r\n\x04\x00\x00\x00\x05junk", "not a block"),
        (b"+LINK\r\n\xff\xff\xff\xff\x05", "longer than allowed"),
        (b"+LINK\r\n\x00\x00\x00\x00\x04", "not announced"),
    ] {
        let redis = RedisServer::start();
        let builder = Builder::new("a", &redis).peer("b", &fake_peer(answer));
        let mut sidecar = builder.start();
        sidecar.allow_log("the link broke");
        let reason = || sidecar.info_duplex()["link_b_reason"].clone();
        eventually(expected, PATIENCE, || {
            sidecar.log().contains(expected) || reason().contains(expected)
        });
        lives_on(&redis, &sidecar);
    }
}

#[test]
fn strangers_at_the_port() {
    let redis = RedisServer::start();
    let mut sidecar = Builder::new("a", &redis).start();
    sidecar.allow_log("refused a link");
    sidecar.allow_log("sends POST or Host: to the port");
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"*1\r\n$-5\r\n",
        b"*99999999\r\n",
        b"DUPLEX LINK\r\n",
        b"DUPLEX LINK 1 b a a 1 new -\r\n",
        b"DUPLEX LINK 99 b a a 1 new -\r\n",
        b"PSYNC ? x y z\r\n",
        b"\x00\x01\x02\xff\xfe\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n",
    ] {
        let mut stream = TcpStream::connect(sidecar.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).unwrap_or(0);
        assert!(length == 0 || answer[0] == b'-', "{}", answer[..length].escape_ascii());
    }
    lives_on(&redis, &sidecar);
}
