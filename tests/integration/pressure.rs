//! The local Redis refuses everybody's writes for a while, with writers at both sites: links wait,
//! say why, and lose nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{cmd, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::{self, RedisServer};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::version::Version;
use crate::support::{PATIENCE, eventually};

/// Enough for some hundred units.
const A_WHILE: Duration = Duration::from_millis(400);

/// A writer that tries again what is refused. It must not lose its connection.
struct Steady {
    side: &'static str,
    stop: Arc<AtomicBool>,
    writer: JoinHandle<u64>,
}

impl Steady {
    fn start(server: &RedisServer, side: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, theirs) = (server.client(), stop.clone());
        let writer = thread::spawn(move || {
            let mut rounds = 0;
            while !theirs.load(Ordering::Relaxed) {
                let mut transaction = pipe();
                transaction.atomic().cmd("INCR").arg(format!("{side}:n")).ignore();
                transaction.cmd("RPUSH").arg(format!("{side}:list")).arg(rounds).ignore();
                // A counter of both sides: twice or never would show.
                transaction.cmd("INCR").arg("shared").ignore();
                match transaction.exec(&mut client) {
                    Ok(()) => rounds += 1,
                    Err(error) => assert!(!error.is_io_error(), "{side} lost its server: {error}"),
                }
                thread::sleep(Duration::from_millis(2));
            }
            rounds
        });
        Self { side, stop, writer }
    }

    /// Its side, and how often it was answered with success.
    fn stop(self) -> (&'static str, u64) {
        self.stop.store(true, Ordering::Relaxed);
        (self.side, self.writer.join().unwrap())
    }
}

fn check(server: &RedisServer, written: &[(&str, u64)]) {
    let mut client = server.client();
    for (side, rounds) in written {
        let list: Vec<u64> =
            cmd("LRANGE").arg(format!("{side}:list")).arg(0).arg(-1).query(&mut client).unwrap();
        assert!(list.into_iter().eq(0..*rounds), "units of {side} in their order, once");
        let counter: u64 = cmd("GET").arg(format!("{side}:n")).query(&mut client).unwrap();
        assert_eq!(counter, *rounds);
    }
    let all: u64 = cmd("GET").arg("shared").query(&mut client).unwrap();
    assert_eq!(all, written.iter().map(|(_, rounds)| rounds).sum::<u64>());
}

fn streaming_pair(settings: &[&str]) -> Pair {
    let (a, b) = (RedisServer::start(), RedisServer::start_with(settings));
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    pair.sidecar_b.allow_breaks();
    pair.sidecar_b.allow_log("the local redis refuses");
    pair.sidecar_a.allow_log("a peer's link ends");
    pair.wait_streaming();
    pair
}

/// Why site b does not do what it should, as it tells itself.
fn reasons(sidecar: &Sidecar) -> String {
    let info = sidecar.info_duplex();
    format!("{} {} {}", info["link_a_reason"], info["source_error"], info["not_ready"])
}

/// Both write; b refuses all, tells `reason`, then takes all again. A first full sync each, no more.
fn refuses(pair: &Pair, reason: &str, refuse: impl FnOnce(), allow: impl FnOnce()) {
    let writers = [Steady::start(&pair.a, "a"), Steady::start(&pair.b, "b")];
    thread::sleep(A_WHILE);
    refuse();
    let what = format!("site b to tell of {reason}");
    eventually(&what, PATIENCE, || reasons(&pair.sidecar_b).contains(reason));
    thread::sleep(A_WHILE * 2);
    assert_eq!(pair.sidecar_b.info_duplex()["ready"], "0");
    allow();
    pair.wait_streaming();
    thread::sleep(A_WHILE);
    let written = writers.map(Steady::stop);
    pair.wait_equal(PATIENCE);
    check(&pair.a, &written);
    check(&pair.b, &written);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        assert_eq!(sidecar.info_duplex()["write_off_pending"], "0");
    }
}

fn config(server: &RedisServer, name: &str, value: &str) {
    cmd("CONFIG").arg(&["SET", name, value]).exec(&mut server.client()).unwrap();
}

#[test]
fn out_of_memory_at_both_sides_writers() {
    let pair = streaming_pair(&[]);
    let set = |value| config(&pair.b, "maxmemory", value);
    refuses(&pair, "OOM", || set("1"), || set("0"));
}

#[test]
fn too_few_replicas_for_all_writers() {
    let pair = streaming_pair(&[]);
    let set = |value| config(&pair.b, "min-replicas-to-write", value);
    refuses(&pair, "NOREPLICAS", || set("3"), || set("0"));
}

#[test]
fn made_a_replica_and_a_master_again() {
    let pair = streaming_pair(&[]);
    // Nobody listens there: it keeps its data.
    let replica_of = |words: [&str; 2]| {
        cmd("REPLICAOF").arg(&words).exec(&mut pair.b.client()).unwrap();
    };
    refuses(&pair, "READONLY", || replica_of(["127.0.0.1", "1"]), || replica_of(["NO", "ONE"]));
}

#[test]
fn a_snapshot_that_fails() {
    let pair = streaming_pair(&["--stop-writes-on-bgsave-error", "yes", "--dbfilename", "taken"]);
    let refuse = || {
        // A snapshot can't take the place of a directory.
        let taken = pair.b.dir().join("taken");
        if taken.exists() {
            std::fs::remove_file(&taken).unwrap();
        }
        std::fs::create_dir(&taken).unwrap();
        config(&pair.b, "save", "3600 1");
        eventually("a snapshot to fail", PATIENCE, || {
            let _: redis::RedisResult<String> = cmd("BGSAVE").query(&mut pair.b.client());
            pair.b.info("persistence")["rdb_last_bgsave_status"] == "err"
        });
    };
    let allow = || config(&pair.b, "stop-writes-on-bgsave-error", "no");
    refuses(&pair, "MISCONF", refuse, allow);
}

#[test]
fn a_script_that_holds_everybody_up() {
    let pair = streaming_pair(&["--lua-time-limit", "20"]);
    let mut blocked = pair.b.client();
    let mut script = None;
    let refuse = || {
        script = Some(thread::spawn(move || {
            cmd("EVAL").arg("while true do end").arg(0).exec(&mut blocked).unwrap_err()
        }));
    };
    let allow = || cmd("SCRIPT").arg("KILL").exec(&mut pair.b.client()).unwrap();
    refuses(&pair, "BUSY", refuse, allow);
    script.unwrap().join().unwrap();
}

#[test]
fn clients_are_paused() {
    let pair = streaming_pair(&[]);
    let writers = [Steady::start(&pair.a, "a"), Steady::start(&pair.b, "b")];
    for mode in ["WRITE", "ALL"] {
        for server in [&pair.a, &pair.b] {
            thread::sleep(A_WHILE);
            cmd("CLIENT").arg(&["PAUSE", "1500", mode]).exec(&mut server.client()).unwrap();
        }
        thread::sleep(Duration::from_millis(1500));
    }
    let written = writers.map(Steady::stop);
    pair.wait_equal(PATIENCE);
    check(&pair.a, &written);
    check(&pair.b, &written);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
}

#[test]
fn it_loads_its_data_for_seconds() {
    if !Version::of_binary(&redis_server::binary()).is_seven_or_later() {
        eprintln!("skipped: before 7.0 a server says nothing while it loads so little");
        return;
    }
    // 5,000 keys at 400 us each: two seconds.
    let settings =
        ["--key-load-delay", "400", "--loading-process-events-interval-bytes", "1024", "--save"];
    let mut pair = streaming_pair(&[&settings[..], &["3600 1"]].concat());
    let mut client = pair.a.client();
    let mut fill = pipe();
    for n in 0..5000 {
        fill.cmd("SET").arg(format!("fill:{n}")).arg(n).ignore();
    }
    fill.exec(&mut client).unwrap();
    pair.wait_equal(PATIENCE);
    let writer = Steady::start(&pair.a, "a");
    thread::sleep(A_WHILE);
    pair.b.stop();
    let Pair { b, sidecar_b, .. } = &mut pair;
    thread::scope(|scope| {
        scope.spawn(|| b.restart());
        eventually("site b to tell of LOADING", PATIENCE, || {
            reasons(sidecar_b).contains("LOADING")
        });
    });
    let written = [writer.stop()];
    pair.wait_equal(PATIENCE);
    check(&pair.b, &written);
    // From 7.0 on a master that was stopped well goes on with its history.
    if pair.b.version().is_seven_or_later() {
        assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
    }
}
