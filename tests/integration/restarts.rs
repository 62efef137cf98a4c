//! Whatever breaks under load: both sides end equal, and every counter says what was written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redis::{Connection, cmd, pipe};

use crate::support::pair::{Pair, wait_equal};
use crate::support::redis_server::RedisServer;
use crate::support::relay::{Direction, Relay};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

/// What sidecars may say about faults that a test makes.
const EXPECTED: [&str; 4] = [
    "the link broke",
    "lost the replication stream",
    "the local redis is not there",
    "a peer's link ends",
];

/// What one side wrote.
#[derive(Default)]
struct Written {
    rounds: u64,
}

/// Writes on keys of one side until told to stop.
fn write(client: &mut Connection, side: &str, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    while !stop.load(Ordering::Relaxed) {
        let mut pipeline = pipe();
        pipeline
            .cmd("INCR")
            .arg(format!("{side}:counter"))
            .ignore()
            .cmd("LPUSH")
            .arg(format!("{side}:list"))
            .arg(written.rounds)
            .ignore()
            .cmd("HINCRBY")
            .arg(format!("{side}:hash"))
            .arg(written.rounds % 50)
            .arg(1)
            .ignore()
            .cmd("SELECT")
            .arg(2)
            .ignore()
            .cmd("MULTI")
            .ignore()
            .cmd("INCR")
            .arg(format!("{side}:first"))
            .ignore()
            .cmd("INCR")
            .arg(format!("{side}:second"))
            .ignore()
            .cmd("EXEC")
            .ignore()
            .cmd("SELECT")
            .arg(0)
            .ignore();
        pipeline.exec(client).unwrap();
        written.rounds += 1;
        // A few thousand writes a second, so that a restart meets them in every state.
        thread::sleep(Duration::from_micros(500));
    }
    written
}

/// Runs `faults` while both sides write; then both must be equal and exact.
fn under_load(a: &RedisServer, b: &RedisServer, faults: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let threads = [(a, "a"), (b, "b")].map(|(server, side)| {
            let mut client = server.client();
            let stop = &stop;
            scope.spawn(move || write(&mut client, side, stop))
        });
        faults();
        stop.store(true, Ordering::Relaxed);
        threads.map(|thread| thread.join().unwrap())
    });
    wait_equal(a, b, PATIENCE * 2);
    for (side, written) in ["a", "b"].into_iter().zip(&written) {
        assert!(written.rounds > 20, "the load of {side} did not run");
        for server in [a, b] {
            let mut client = server.client();
            let counter: u64 =
                cmd("GET").arg(format!("{side}:counter")).query(&mut client).unwrap();
            let list: u64 = cmd("LLEN").arg(format!("{side}:list")).query(&mut client).unwrap();
            assert_eq!((counter, list), (written.rounds, written.rounds), "side {side}");
            let second = cmd("GET")
                .arg(format!("{side}:second"))
                .query::<u64>(&mut server.client_db(2))
                .unwrap();
            assert_eq!(second, written.rounds, "side {side}");
        }
    }
}

fn number(sidecar: &Sidecar, field: &str) -> u64 {
    sidecar.info_duplex()[field].parse().unwrap()
}

fn streaming(sidecar: &Sidecar, peer: &str) -> bool {
    sidecar.info_duplex()[&format!("link_{peer}_state")] == "streaming"
}

fn wait_streaming(pair: &Pair) {
    eventually("both links to stream", PATIENCE, || {
        streaming(&pair.sidecar_a, "b") && streaming(&pair.sidecar_b, "a")
    });
}

fn allow(sidecars: [&mut Sidecar; 2]) {
    for sidecar in sidecars {
        for text in EXPECTED {
            sidecar.allow_log(text);
        }
    }
}

fn pair() -> Pair {
    let mut pair = Pair::start();
    allow([&mut pair.sidecar_a, &mut pair.sidecar_b]);
    wait_streaming(&pair);
    pair
}

#[test]
fn connections_to_the_local_redis_are_cut() {
    let pair = pair();
    under_load(&pair.a, &pair.b, || {
        for round in 0..6 {
            let kind = if round % 2 == 0 { "replica" } else { "normal" };
            let mut client = pair.b.client();
            // The connections that apply; those of the load and of this test stay.
            let list: String = cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
            for line in list.lines() {
                let field = |name: &str| {
                    line.split(' ').find_map(|f| f.strip_prefix(name)).unwrap_or_default()
                };
                let ours = field("cmd=") == "exec" && field("db=") != "2" || kind == "replica";
                if ours && (kind != "replica" || field("flags=").contains('S')) {
                    // It may be gone by itself.
                    let _: redis::RedisResult<()> =
                        cmd("CLIENT").arg("KILL").arg("ID").arg(field("id=")).query(&mut client);
                }
            }
            wait_streaming(&pair);
            thread::sleep(Duration::from_millis(200));
        }
    });
    assert!(number(&pair.sidecar_b, "source_attach_again") >= 3, "the stream was not resumed");
    assert_eq!(pair.sidecar_a.full_syncs(), 1, "{}", pair.sidecar_a.log());
    assert_eq!(pair.sidecar_b.full_syncs(), 1, "{}", pair.sidecar_b.log());
}

#[test]
fn the_link_is_cut_refused_and_swallowed() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let (to_a, to_b) = (Relay::start(&for_a.addr()), Relay::start(&for_b.addr()));
    let quick =
        |builder: Builder| builder.setting("link", "timeout = \"2s\"\nheartbeat = \"200ms\"");
    let mut sidecar_a = quick(for_a.peer("b", &to_b.addr())).start_without_waiting();
    let mut sidecar_b = quick(for_b.peer("a", &to_a.addr())).start();
    sidecar_a.wait_ready();
    allow([&mut sidecar_a, &mut sidecar_b]);
    let wait = || {
        eventually("both links to stream", PATIENCE, || {
            streaming(&sidecar_a, "b") && streaming(&sidecar_b, "a")
        });
    };
    wait();
    under_load(&a, &b, || {
        for _ in 0..4 {
            to_a.cut();
            to_b.cut();
            thread::sleep(Duration::from_millis(150));
            wait();
        }
        to_a.refuse();
        to_a.cut();
        thread::sleep(Duration::from_secs(1));
        to_a.accept();
        // A black hole is noticed by the heartbeats that are missing.
        to_b.swallow(Direction::ToClient);
        eventually("the black hole to be noticed", PATIENCE, || !streaming(&sidecar_a, "b"));
        to_b.pass();
        to_b.cut();
        wait();
    });
    for sidecar in [&sidecar_a, &sidecar_b] {
        assert_eq!(sidecar.full_syncs(), 1, "{}", sidecar.log());
    }
    sidecar_a.freeze();
    sidecar_b.freeze();
}

#[test]
fn a_sidecar_is_killed_stopped_and_started_again() {
    let mut pair = pair();
    let (a, b) = (&pair.a, &pair.b);
    let sidecar = &mut pair.sidecar_b;
    under_load(a, b, || {
        sidecar.kill();
        thread::sleep(Duration::from_millis(200));
        sidecar.restart();
        eventually("the link to stream", PATIENCE, || streaming(sidecar, "a"));
        sidecar.stop();
        sidecar.restart();
        eventually("the link to stream", PATIENCE, || streaming(sidecar, "a"));
    });
}

#[test]
fn the_checkpoint_is_written_again_when_a_user_takes_it_away() {
    let pair = pair();
    cmd("SET").arg("k").arg(1).exec(&mut pair.a.client()).unwrap();
    pair.wait_equal(PATIENCE);
    let there = || -> bool {
        let fields = ["a-runid", "a-offset"];
        let key = "redis-duplex-checkpoint";
        let values: Vec<Option<String>> =
            cmd("HMGET").arg(key).arg(&fields).query(&mut pair.b.client()).unwrap();
        values.iter().all(Option::is_some)
    };
    assert!(there());
    cmd("DEL").arg("redis-duplex-checkpoint").exec(&mut pair.b.client()).unwrap();
    eventually("the checkpoint to be written again", PATIENCE, there);
    assert!(number(&pair.sidecar_b, "local_units") == 0, "the deletion was taken for a user's");
}

/// A pair with a policy, some data, and a FLUSHALL at a.
fn flushed(policy: &str) -> Pair {
    let filter = format!("flush = \"{policy}\"");
    let mut pair = Pair::start_with(|_, _| {}, |builder| builder.setting("filter", &filter));
    allow([&mut pair.sidecar_a, &mut pair.sidecar_b]);
    wait_streaming(&pair);
    for (server, key) in [(&pair.a, "of a"), (&pair.b, "of b")] {
        cmd("SET").arg(key).arg(1).exec(&mut server.client()).unwrap();
    }
    pair.wait_equal(PATIENCE);
    pair.sidecar_b.allow_log("the link stops");
    cmd("FLUSHALL").exec(&mut pair.a.client()).unwrap();
    pair
}

#[test]
fn a_flush_is_forwarded() {
    let pair = flushed("forward");
    pair.wait_equal(PATIENCE);
    let keys: usize = cmd("DBSIZE").query(&mut pair.b.client()).unwrap();
    assert!(keys <= 1, "the flush did not arrive");
    under_load(&pair.a, &pair.b, || thread::sleep(Duration::from_millis(300)));
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        assert_eq!(sidecar.info_duplex()["write_off_earlier"], "0");
    }
}

#[test]
fn a_flush_is_dropped() {
    let pair = flushed("drop");
    cmd("SET").arg("later").arg(1).exec(&mut pair.a.client()).unwrap();
    let exists =
        |key: &str| -> bool { cmd("EXISTS").arg(key).query(&mut pair.b.client()).unwrap() };
    eventually("what came later", PATIENCE, || exists("later"));
    assert!(exists("of a") && exists("of b"));
}

#[test]
fn a_flush_stops_the_link() {
    let pair = flushed("stop");
    let state = || pair.sidecar_b.info_duplex()["link_a_state"].clone();
    eventually("the link to stop", PATIENCE, || state() == "stopped");
    let reason = pair.sidecar_b.info_duplex()["link_a_reason"].clone();
    assert!(reason.contains("[filter] flush"), "{reason}");
    let kept: bool = cmd("EXISTS").arg("of a").query(&mut pair.b.client()).unwrap();
    assert!(kept);
    // The other direction goes on.
    cmd("SET").arg("from b").arg(1).exec(&mut pair.b.client()).unwrap();
    eventually("the other direction", PATIENCE, || {
        cmd("EXISTS").arg("from b").query(&mut pair.a.client()).unwrap()
    });
}
