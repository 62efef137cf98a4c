//! Two one-way syncers between two sites without a link: what comes in through a port never goes
//! out through it, so that they make a two-way sync.

use std::thread;
use std::time::Duration;

use redis::cmd;

use crate::sources::set;
use crate::support::load::{Load, check_shared};
use crate::support::pair::wait_equal;
use crate::support::redis_server::{RedisServer, connect};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};
use crate::syncer::Syncer;
use crate::wire::{Wire, command};

struct Sites {
    to_b: Syncer,
    to_a: Syncer,
    sidecars: [Sidecar; 2],
    a: RedisServer,
    b: RedisServer,
}

impl Sites {
    fn start() -> Self {
        let (a, b) = (RedisServer::start(), RedisServer::start());
        let sidecars = [Builder::new("a", &a).start(), Builder::new("b", &b).primary("b").start()];
        let [of_a, of_b] = [sidecars[0].addr(), sidecars[1].addr()];
        let sites = Self {
            to_b: Syncer::start(&of_a, &of_b),
            to_a: Syncer::start(&of_b, &of_a),
            sidecars,
            a,
            b,
        };
        for syncer in [&sites.to_a, &sites.to_b] {
            eventually("both syncers read", PATIENCE, || syncer.done().snapshots == 1);
        }
        // The snapshots were of nothing, and each may still have been on its way: a write from
        // either side that arrived says that both streams go.
        set(&sites.a, 0, "first of a");
        set(&sites.b, 0, "first of b");
        wait_equal(&sites.a, &sites.b, PATIENCE);
        sites
    }

    /// Nothing that either syncer wrote was anything but the other side's own.
    #[track_caller]
    fn check(&self) {
        for (syncer, other) in [(&self.to_b, "b"), (&self.to_a, "a")] {
            let done = syncer.done();
            assert_eq!(done.errors, Vec::<String>::new());
            assert_eq!(done.snapshots, 1, "it could always go on");
            let looped: Vec<_> = done
                .keys
                .iter()
                .filter(|key| key.starts_with(&format!("{other}:")) || key.contains("checkpoint"))
                .collect();
            assert_eq!(looped, Vec::<&String>::new());
        }
    }
}

#[test]
fn under_load_on_both_sides() {
    let sites = Sites::start();
    let loads = [Load::start(&sites.a, "a"), Load::start(&sites.b, "b")];
    thread::sleep(Duration::from_secs(2));
    let [of_a, of_b] = loads.map(Load::stop);
    wait_equal(&sites.a, &sites.b, PATIENCE);
    for server in [&sites.a, &sites.b] {
        of_a.check(server);
        of_b.check(server);
        check_shared(server, &[&of_a, &of_b]);
    }
    sites.check();
    // Each unit went over once, and those who wrote the first keys wrote one more.
    for (syncer, written) in [(&sites.to_b, &of_a), (&sites.to_a, &of_b)] {
        let keys = syncer.done().keys;
        assert_eq!(keys.len() as u64, written.total().units + 1);
    }
}

#[test]
fn across_restarts_of_the_sidecars() {
    let mut sites = Sites::start();
    let loads = [Load::start(&sites.a, "a"), Load::start(&sites.b, "b")];
    for round in 0..6 {
        let sidecar = &mut sites.sidecars[round % 2];
        sidecar.allow_log("lost a client's connection");
        thread::sleep(Duration::from_millis(300));
        sidecar.stop();
        sidecar.restart();
    }
    let [of_a, of_b] = loads.map(Load::stop);
    wait_equal(&sites.a, &sites.b, PATIENCE);
    // A sidecar that is stopped answers what it has taken, so a syncer that counts replies is
    // exact to the command.
    for server in [&sites.a, &sites.b] {
        of_a.check(server);
        of_b.check(server);
        check_shared(server, &[&of_a, &of_b]);
    }
    sites.check();
    assert!(sites.to_a.done().breaks > 0 && sites.to_b.done().breaks > 0);
}

/// Killed, a sidecar can't say what it had done: the syncers write some of it again, which is why
/// the keys here bear that. Nothing goes round all the same.
#[test]
fn across_kills_of_the_sidecars() {
    let mut sites = Sites::start();
    for sidecar in &mut sites.sidecars {
        sidecar.allow_log("the journal's last record was not written to its end");
    }
    for round in 0..6 {
        let (server, side) = if round % 2 == 0 { (&sites.a, "a") } else { (&sites.b, "b") };
        let port = server.port();
        let writer = thread::spawn(move || {
            let mut client = connect(port, 0).unwrap();
            for n in 0..400 {
                cmd("HSET").arg(format!("{side}:{n}")).arg(round).arg(n).exec(&mut client).unwrap();
            }
        });
        thread::sleep(Duration::from_millis(20));
        for sidecar in &mut sites.sidecars {
            sidecar.kill();
        }
        for sidecar in &mut sites.sidecars {
            sidecar.restart();
        }
        writer.join().unwrap();
    }
    wait_equal(&sites.a, &sites.b, PATIENCE);
    sites.check();
}

/// `[listen] local_addr`: what is written there counts as local and comes back in the stream;
/// anything that blocks may; the stream can be read there too.
#[test]
fn the_local_port() {
    let redis = RedisServer::start();
    let port = crate::support::ports::Port::free();
    let local = format!("127.0.0.1:{}", port.number());
    let sidecar =
        Builder::new("a", &redis).setting("listen", &format!("local_addr = \"{local}\"")).start();
    let mut follower = Wire::connect(&local);
    crate::sources::full(&mut follower);
    follower.snapshot();
    let mut app = Wire::connect(&local);
    // redis-GunYu's delay key, ape-dts's heartbeat, an application's transaction.
    app.ask("SET redis-gunyu-delay 1", "+OK\r\n");
    app.write(&["MULTI", "INCR n", "SELECT 4", "INCR m", "EXEC", "GET m"].map(command).concat());
    let replies = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:1\r\n+OK\r\n:1\r\n$1\r\n1\r\n";
    app.expect(replies, "a transaction");
    app.ask("FLUSHDB", "+OK\r\n");
    app.ask("DEL redis-duplex-checkpoint", ":1\r\n");
    app.ask("SELECT 0", "+OK\r\n");
    // Through the other port: not in the stream.
    Wire::connect(&sidecar.addr()).ask("SET marked 1", "+OK\r\n");
    app.ask("SET last 1", "+OK\r\n");
    let stream = follower.until(&command("SET last 1"));
    let expected = [
        "SELECT 0",
        "SET redis-gunyu-delay 1",
        "MULTI",
        "INCR n",
        "SELECT 4",
        "INCR m",
        "EXEC",
        "FLUSHDB",
        "SELECT 0",
    ];
    let stream = String::from_utf8_lossy(&stream).into_owned();
    assert_eq!(stream, String::from_utf8_lossy(&expected.map(command).concat()));
    // It blocks, its writes are local, and it is not waited for when it goes.
    app.send("BLPOP queue 0");
    app.send("SET after 1");
    let blocked = || redis.info("clients")["blocked_clients"] != "0";
    eventually("it blocks", PATIENCE, blocked);
    Wire::connect(&sidecar.addr()).ask("RPUSH queue x", ":1\r\n");
    app.expect(b"*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n+OK\r\n", "BLPOP, then SET");
    app.send("BLPOP queue 0");
    eventually("it blocks again", PATIENCE, blocked);
    drop(app);
    eventually("it is gone", PATIENCE, || !blocked());
    Wire::connect(&sidecar.addr()).ask("RPUSH queue y", ":1\r\n");
    Wire::connect(&local).ask("LRANGE queue 0 -1", "*1\r\n$1\r\ny\r\n");
    let status = sidecar.info_duplex();
    assert_eq!(status["site"], "a", "{status:?}");
}
