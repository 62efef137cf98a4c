//! Processes end, connections break, checkpoints vanish: nothing is lost, nothing is done twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::cmd;

use crate::support::load::{Load, check_shared};
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::{Direction, Relay};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

/// How long both sides write before, between and after faults.
const A_WHILE: Duration = Duration::from_millis(400);

const CHECKPOINT: &str = "redis-duplex-checkpoint";

/// How long two sides may take to become equal after faults: waits between tries included.
const CATCH_UP: Duration = Duration::from_secs(40);

/// Writers on both sides.
struct Loads([Load; 2]);

impl Loads {
    fn start(pair: &Pair) -> Self {
        Self([Load::start(&pair.a, "a"), Load::start(&pair.b, "b")])
    }

    /// Stops them and checks that both servers hold exactly what was written.
    #[track_caller]
    fn stop_and_check(self, pair: &Pair) {
        let [by_a, by_b] = self.0.map(Load::stop);
        pair.wait_equal(CATCH_UP);
        for server in [&pair.a, &pair.b] {
            by_a.check(server);
            by_b.check(server);
            check_shared(server, &[&by_a, &by_b]);
        }
    }
}

fn number(sidecar: &Sidecar, field: &str) -> u64 {
    let info = sidecar.info_duplex();
    info.get(field).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{field}"))
}

/// A number from the line of a link.
fn of_link(sidecar: &Sidecar, peer: &str, name: &str) -> u64 {
    let info = sidecar.info_duplex();
    let line = &info[&format!("link_{peer}")];
    let value = line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().parse().unwrap()
}

/// Faults are made here on purpose.
fn allow_breaks(pair: &mut Pair) {
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_breaks();
    }
}

/// Each link has taken one full sync, at the start: none was needed since.
#[track_caller]
fn no_full_sync_since_the_start(pair: &Pair) {
    assert_eq!(pair.sidecar_a.full_syncs(), 1, "at a: {}", pair.sidecar_a.log());
    assert_eq!(pair.sidecar_b.full_syncs(), 1, "at b: {}", pair.sidecar_b.log());
}

/// Two sites whose links go through relays: to `a`, to `b`.
fn pair_with_relays() -> (Pair, [Relay; 2]) {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let relays = [Relay::start(&for_a.addr()), Relay::start(&for_b.addr())];
    let impatient =
        |builder: Builder| builder.setting("link", "timeout = \"1s\"\nheartbeat = \"200ms\"");
    let mut sidecar_a = impatient(for_a.peer("b", &relays[1].addr())).start_without_waiting();
    let sidecar_b = impatient(for_b.peer("a", &relays[0].addr())).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    allow_breaks(&mut pair);
    pair.wait_streaming();
    (pair, relays)
}

fn streaming_pair() -> Pair {
    let mut pair = Pair::start();
    allow_breaks(&mut pair);
    pair.wait_streaming();
    pair
}

#[test]
fn a_sidecar_is_killed_while_both_write() {
    let mut pair = streaming_pair();
    let loads = Loads::start(&pair);
    for _ in 0..3 {
        thread::sleep(A_WHILE);
        pair.sidecar_b.kill();
        thread::sleep(A_WHILE);
        pair.sidecar_b.restart();
        thread::sleep(A_WHILE);
        pair.sidecar_a.kill();
        pair.sidecar_a.restart();
    }
    loads.stop_and_check(&pair);
}

#[test]
fn a_sidecar_is_stopped_while_both_write() {
    let mut pair = streaming_pair();
    let loads = Loads::start(&pair);
    for _ in 0..2 {
        thread::sleep(A_WHILE);
        pair.sidecar_b.stop();
        thread::sleep(A_WHILE);
        pair.sidecar_b.restart();
        pair.sidecar_a.stop();
        pair.sidecar_a.restart();
    }
    loads.stop_and_check(&pair);
}

#[test]
fn a_sidecar_whose_disk_was_wiped_goes_on_from_the_backlog() {
    let mut pair = streaming_pair();
    let loads = Loads::start(&pair);
    for _ in 0..2 {
        for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
            thread::sleep(A_WHILE);
            sidecar.kill();
            std::fs::remove_dir_all(sidecar.journal_dir()).unwrap();
            thread::sleep(A_WHILE);
            sidecar.restart();
        }
        pair.wait_streaming();
    }
    thread::sleep(A_WHILE);
    loads.stop_and_check(&pair);
    // b has run since a was wiped for the second time.
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (0, 0));
    let log = [pair.sidecar_a.log(), pair.sidecar_b.log()].concat();
    assert_eq!(log.matches("the journal begins anew where a peer stands").count(), 4, "{log}");
    assert_eq!(log.matches("a full sync begins").count(), 2, "{log}");
}

#[test]
fn a_sidecar_whose_disk_was_wiped_takes_a_full_sync_when_the_backlog_is_too_small() {
    let mut pair = streaming_pair();
    let set = ["SET", "repl-backlog-size", "1mb"];
    cmd("CONFIG").arg(&set).exec(&mut pair.a.client()).unwrap();
    let load = Load::start(&pair.a, "a");
    pair.sidecar_a.kill();
    std::fs::remove_dir_all(pair.sidecar_a.journal_dir()).unwrap();
    let big = "x".repeat(400_000);
    for n in 0..8 {
        cmd("SET").arg(format!("big:{n}")).arg(&big).exec(&mut pair.a.client()).unwrap();
    }
    pair.sidecar_a.restart();
    pair.wait_streaming();
    let by_a = load.stop();
    pair.wait_equal(CATCH_UP);
    by_a.check(&pair.b);
    assert!(pair.sidecar_a.log().contains("does not reach back to where a peer stands"));
    // Only b: what b did reaches a as units.
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (0, 2));
}

/// A crash of the machine can take the end of the journal, when it is not forced to disk at once.
#[test]
fn a_journal_that_lost_its_end_reads_it_again() {
    let mut pair = streaming_pair();
    let loads = Loads::start(&pair);
    thread::sleep(A_WHILE);
    let (dir, saved) = (pair.sidecar_a.journal_dir(), pair.sidecar_a.journal_dir().join("saved"));
    pair.sidecar_a.kill();
    std::fs::create_dir(&saved).unwrap();
    let segments = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    for path in segments().filter(|path| path.is_file()) {
        std::fs::copy(&path, saved.join(path.file_name().unwrap())).unwrap();
    }
    pair.sidecar_a.restart();
    thread::sleep(3 * A_WHILE);
    pair.sidecar_a.kill();
    for path in segments().filter(|path| path.is_file()) {
        std::fs::remove_file(&path).unwrap();
    }
    for entry in std::fs::read_dir(&saved).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    pair.sidecar_a.restart();
    pair.wait_streaming();
    loads.stop_and_check(&pair);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (0, 1));
}

/// What a killed sidecar has sent may still be on its way when the next one reads the checkpoint.
/// It must not be executed after that.
#[test]
fn what_a_killed_sidecar_has_sent_is_not_applied_twice() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let to_redis = Relay::start(&b.addr());
    let (for_a, for_b) =
        (Builder::new("a", &a), Builder::new("b", &b).redis_addr(&to_redis.addr()));
    // Only a is written to, and it does not pull: else it would want a full sync from each new b.
    let (nowhere, addr_a) = (Relay::start("127.0.0.1:1"), for_a.addr());
    nowhere.refuse();
    let mut sidecar_a = for_a.peer("b", &nowhere.addr()).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    allow_breaks(&mut pair);
    pair.sidecar_b.wait_link("a", "streaming");
    let load = Load::start(&pair.a, "a");
    for _ in 0..3 {
        thread::sleep(A_WHILE);
        to_redis.delay(Direction::ToTarget, 3 * A_WHILE);
        thread::sleep(A_WHILE);
        pair.sidecar_b.kill();
        // What was sent before stays delayed.
        to_redis.pass();
        pair.sidecar_b.restart();
        pair.sidecar_b.wait_link("a", "streaming");
        thread::sleep(3 * A_WHILE);
        assert_eq!(pair.sidecar_b.full_syncs(), 0);
    }
    let by_a = load.stop();
    pair.wait_equal(CATCH_UP);
    by_a.check(&pair.b);
    let list: String = cmd("CLIENT").arg("LIST").query(&mut pair.b.client()).unwrap();
    assert_eq!(list.matches("name=redis-duplex:b<-a ").count(), 1, "{list}");
}

#[test]
fn a_stopped_sidecar_has_drained() {
    let mut pair = streaming_pair();
    let load = Load::start(&pair.a, "a");
    thread::sleep(A_WHILE);
    pair.sidecar_b.stop();
    let log = pair.sidecar_b.log();
    assert!(log.contains("draining") && log.contains("stopped"), "{log}");
    pair.sidecar_b.restart();
    let by_a = load.stop();
    pair.wait_equal(CATCH_UP);
    by_a.check(&pair.b);
}

/// Ends all connections of ordinary clients that are not writers of the test.
fn kill_the_sidecars(server: &RedisServer) {
    let mut client = server.client();
    let list: String = cmd("CLIENT").arg(&["LIST", "TYPE", "normal"]).query(&mut client).unwrap();
    let own: u64 = cmd("CLIENT").arg("ID").query(&mut client).unwrap();
    for line in list.lines() {
        let field = |name: &str| {
            line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default()
        };
        if field("name=") != "writer" && field("id=") != own.to_string() {
            // It may have gone meanwhile.
            cmd("CLIENT").arg(&["KILL", "ID", field("id=")]).exec(&mut client).unwrap();
        }
    }
}

#[test]
fn a_sidecar_starts_while_its_connections_are_killed() {
    let redis = RedisServer::start();
    let mut sidecar = Builder::new("a", &redis).start();
    sidecar.allow_breaks();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                kill_the_sidecars(&redis);
                thread::sleep(Duration::from_millis(7));
            }
        });
        // Also if this thread panics: the scope waits for the other one.
        let _over = Ends(&over);
        let began = Instant::now();
        while began.elapsed() < 6 * A_WHILE {
            sidecar.restart();
        }
    });
}

/// Tells another thread to end, when dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_applying_connection_is_killed_under_load() {
    let pair = streaming_pair();
    let loads = Loads::start(&pair);
    for _ in 0..8 {
        thread::sleep(A_WHILE / 2);
        kill_the_sidecars(&pair.b);
        kill_the_sidecars(&pair.a);
    }
    loads.stop_and_check(&pair);
    assert!(of_link(&pair.sidecar_b, "a", "connects") > 3);
    no_full_sync_since_the_start(&pair);
}

#[test]
fn the_source_resumes_when_its_connection_is_killed_under_load() {
    let pair = streaming_pair();
    let loads = Loads::start(&pair);
    for _ in 0..8 {
        thread::sleep(A_WHILE / 2);
        for server in [&pair.a, &pair.b] {
            let kill = ["KILL", "TYPE", "replica"];
            cmd("CLIENT").arg(&kill).exec(&mut server.client()).unwrap();
        }
    }
    loads.stop_and_check(&pair);
    no_full_sync_since_the_start(&pair);
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        assert!(number(sidecar, "source_attach_again") >= 4);
        assert_eq!(
            number(sidecar, "source_attach_free") + number(sidecar, "source_attach_full"),
            1
        );
    }
}

#[test]
fn links_are_cut_under_load() {
    let (pair, relays) = pair_with_relays();
    let loads = Loads::start(&pair);
    for round in 0..10 {
        thread::sleep(A_WHILE / 2);
        relays[round % 2].cut();
        if round % 3 == 0 {
            relays[1 - round % 2].cut();
        }
    }
    loads.stop_and_check(&pair);
    no_full_sync_since_the_start(&pair);
}

#[test]
fn links_are_black_holes_under_load() {
    let (pair, relays) = pair_with_relays();
    let loads = Loads::start(&pair);
    thread::sleep(A_WHILE);
    for direction in [Direction::ToClient, Direction::ToTarget] {
        for relay in &relays {
            relay.swallow(direction);
        }
        eventually("the link to be given up", PATIENCE, || {
            let info = pair.sidecar_b.info_duplex();
            info["link_a_state"] == "connecting"
        });
        for relay in &relays {
            relay.pass();
            // What was swallowed is missing in the middle: these connections are worth nothing.
            relay.cut();
        }
        pair.wait_streaming();
        thread::sleep(A_WHILE);
    }
    loads.stop_and_check(&pair);
    no_full_sync_since_the_start(&pair);
}

#[test]
fn links_are_refused_for_seconds_under_load() {
    let (pair, relays) = pair_with_relays();
    let loads = Loads::start(&pair);
    thread::sleep(A_WHILE);
    for relay in &relays {
        relay.refuse();
        relay.cut();
    }
    thread::sleep(Duration::from_secs(2));
    for relay in &relays {
        relay.accept();
    }
    pair.wait_streaming();
    loads.stop_and_check(&pair);
    no_full_sync_since_the_start(&pair);
}

/// Redis took the batch, but its reply is lost: the checkpoint tells.
#[test]
fn replies_of_the_local_redis_are_lost_under_load() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let relay = Relay::start(&b.addr());
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b).redis_addr(&relay.addr()));
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    allow_breaks(&mut pair);
    pair.wait_streaming();
    let loads = Loads::start(&pair);
    for _ in 0..6 {
        thread::sleep(A_WHILE / 2);
        relay.swallow_replies_then_cut(|| {
            eventually("replies to be lost", PATIENCE, || relay.swallowed(Direction::ToClient) > 0);
            thread::sleep(A_WHILE / 8);
        });
    }
    loads.stop_and_check(&pair);
    no_full_sync_since_the_start(&pair);
}

/// Whether all of this peer's fields of the checkpoint stand in some database.
fn has_checkpoint(server: &RedisServer, peer: &str) -> bool {
    (0..16).any(|database| {
        let mut query = cmd("HEXISTS");
        query.arg(CHECKPOINT).arg(format!("{peer}-offset"));
        query.query(&mut server.client_db(database)).unwrap()
    })
}

fn delete_checkpoint(server: &RedisServer) {
    for database in 0..16 {
        cmd("DEL").arg(CHECKPOINT).exec(&mut server.client_db(database)).unwrap();
    }
}

#[test]
fn a_deleted_checkpoint_is_written_again() {
    let (pair, relays) = pair_with_relays();
    let loads = Loads::start(&pair);
    for _ in 0..5 {
        thread::sleep(A_WHILE / 2);
        delete_checkpoint(&pair.b);
        eventually("the checkpoint at b", PATIENCE, || has_checkpoint(&pair.b, "a"));
    }
    loads.stop_and_check(&pair);
    // Also when nothing else is written, and what is written then is good to resume from.
    delete_checkpoint(&pair.a);
    delete_checkpoint(&pair.b);
    eventually("the checkpoint at a", PATIENCE, || has_checkpoint(&pair.a, "b"));
    eventually("the checkpoint at b", PATIENCE, || has_checkpoint(&pair.b, "a"));
    relays.iter().for_each(Relay::cut);
    eventually("new sessions", PATIENCE, || {
        of_link(&pair.sidecar_a, "b", "connects") >= 2
            && of_link(&pair.sidecar_b, "a", "connects") >= 2
    });
    cmd("SET").arg("last").arg(1).exec(&mut pair.a.client()).unwrap();
    pair.wait_equal(PATIENCE);
    no_full_sync_since_the_start(&pair);
}

/// Then marks can't be written, and what is applied comes back as if clients had written it.
#[test]
fn a_checkpoint_that_somebody_overwrote_is_told_and_both_sites_end_the_same() {
    let mut pair = streaming_pair();
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_breaks();
        sidecar.allow_log("the key of the checkpoints was no hash");
    }
    cmd("INCR").arg("n").exec(&mut pair.b.client()).unwrap();
    pair.wait_equal(PATIENCE);
    cmd("SET").arg(CHECKPOINT).arg("mine").exec(&mut pair.a.client()).unwrap();
    for _ in 0..20 {
        cmd("INCR").arg("n").exec(&mut pair.b.client()).unwrap();
    }
    eventually("the checkpoint to be there again", PATIENCE, || {
        let kind: String = cmd("TYPE").arg(CHECKPOINT).query(&mut pair.a.client()).unwrap();
        kind == "hash"
    });
    pair.wait_streaming();
    pair.wait_equal(CATCH_UP);
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut pair.sidecar_a.client()).unwrap();
    assert!(errors.contains("somebody wrote the key redis-duplex-checkpoint"), "{errors}");
}

fn pair_with_flush(policy: &str) -> Pair {
    let preload = |a: &RedisServer, b: &RedisServer| {
        for database in [0, 3] {
            for server in [a, b] {
                cmd("SET").arg("old").arg(1).exec(&mut server.client_db(database)).unwrap();
            }
        }
    };
    let setting = format!("flush = \"{policy}\"");
    let pair = Pair::start_with(preload, |builder| builder.setting("filter", &setting));
    pair.wait_streaming();
    pair.wait_equal(PATIENCE);
    pair
}

fn keys(server: &RedisServer, database: u32) -> Vec<String> {
    let mut keys: Vec<String> =
        cmd("KEYS").arg("*").query(&mut server.client_db(database)).unwrap();
    keys.retain(|key| key != CHECKPOINT);
    keys.sort();
    keys
}

#[test]
fn a_flush_is_forwarded() {
    let pair = pair_with_flush("forward");
    cmd("FLUSHDB").exec(&mut pair.a.client_db(3)).unwrap();
    pair.wait_equal(PATIENCE);
    assert_eq!((keys(&pair.b, 0).len(), keys(&pair.b, 3).len()), (1, 0));
    // Units before, in and after it stay in order.
    let load = Load::start(&pair.b, "b");
    thread::sleep(A_WHILE);
    redis::pipe()
        .cmd("SET")
        .arg("before")
        .arg(1)
        .cmd("MULTI")
        .cmd("FLUSHALL")
        .cmd("SET")
        .arg("within")
        .arg(1)
        .cmd("EXEC")
        .cmd("SET")
        .arg("after")
        .arg(1)
        .exec(&mut pair.b.client())
        .unwrap();
    thread::sleep(A_WHILE);
    load.stop();
    pair.wait_equal(PATIENCE);
    assert!(keys(&pair.a, 0).contains(&"within".to_owned()));
    assert!(keys(&pair.a, 0).contains(&"after".to_owned()));
    assert!(!keys(&pair.a, 0).contains(&"before".to_owned()));
    // At both sides a checkpoint stands again.
    cmd("FLUSHALL").exec(&mut pair.a.client()).unwrap();
    pair.wait_equal(PATIENCE);
    assert_eq!(keys(&pair.b, 0), Vec::<String>::new());
    eventually("the checkpoint at a", PATIENCE, || has_checkpoint(&pair.a, "b"));
    eventually("the checkpoint at b", PATIENCE, || has_checkpoint(&pair.b, "a"));
    no_full_sync_since_the_start(&pair);
}

#[test]
fn a_flush_is_dropped() {
    let pair = pair_with_flush("drop");
    redis::pipe()
        .cmd("MULTI")
        .cmd("SET")
        .arg("before")
        .arg(1)
        .cmd("FLUSHALL")
        .cmd("SET")
        .arg("after")
        .arg(1)
        .cmd("EXEC")
        .exec(&mut pair.a.client())
        .unwrap();
    eventually("what follows the flush", PATIENCE, || keys(&pair.b, 0).contains(&"after".into()));
    assert_eq!(keys(&pair.a, 0), ["after"]);
    assert_eq!(keys(&pair.b, 0), ["after", "before", "old"]);
    assert_eq!(keys(&pair.b, 3), ["old"]);
    eventually("the checkpoint at a", PATIENCE, || has_checkpoint(&pair.a, "b"));
    cmd("SET").arg("from b").arg(1).exec(&mut pair.b.client()).unwrap();
    eventually("the other direction", PATIENCE, || keys(&pair.a, 0).contains(&"from b".into()));
    no_full_sync_since_the_start(&pair);
}

#[test]
fn a_flush_stops_the_link() {
    let mut pair = pair_with_flush("stop");
    pair.sidecar_b.allow_log("the link stops");
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_log("a peer's link ends");
    }
    redis::pipe()
        .cmd("SET")
        .arg("before")
        .arg(1)
        .cmd("FLUSHALL")
        .cmd("SET")
        .arg("after")
        .arg(1)
        .exec(&mut pair.a.client())
        .unwrap();
    pair.sidecar_b.wait_link("a", "stopped");
    let reason = pair.sidecar_b.info_duplex()["link_a_reason"].clone();
    assert!(reason.contains("FLUSHALL") && reason.contains("[filter] flush"), "{reason}");
    // All before it is here, nothing behind it.
    assert_eq!(keys(&pair.b, 0), ["before", "old"]);
    assert_eq!(keys(&pair.b, 3), ["old"]);
    // The other direction is not concerned.
    cmd("SET").arg("from b").arg(1).exec(&mut pair.b.client()).unwrap();
    eventually("the other direction", PATIENCE, || keys(&pair.a, 0).contains(&"from b".into()));
    let began = Instant::now();
    while began.elapsed() < A_WHILE {
        assert_eq!(keys(&pair.b, 0), ["before", "from b", "old"]);
    }
}

#[test]
fn a_peer_that_is_stopped_in_good_order_is_no_warning() {
    let mut pair = Pair::start();
    pair.wait_streaming();
    let loads = Loads::start(&pair);
    for _ in 0..3 {
        thread::sleep(A_WHILE);
        pair.sidecar_b.stop();
        eventually("the link to say why", PATIENCE, || {
            let reason = pair.sidecar_a.info_duplex()["link_b_reason"].clone();
            reason.contains("can't connect") || reason.contains("shutting down")
        });
        pair.sidecar_b.restart();
        pair.sidecar_a.wait_link("b", "streaming");
    }
    loads.stop_and_check(&pair);
    // The counter of b begins at its last start.
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 0));
    let mut client = pair.sidecar_a.client();
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut client).unwrap();
    assert!(!errors.contains("link"), "{errors}");
    assert!(pair.sidecar_a.log().contains("the peer is shutting down"));
}
