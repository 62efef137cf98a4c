//! A replica of the local Redis takes its place: the history goes on under another id (PSYNC2), and
//! nobody copies anything.

use std::thread;
use std::time::Duration;

use redis::cmd;

use crate::support::load::Load;
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

/// Enough for some hundred units.
const A_WHILE: Duration = Duration::from_millis(400);

/// Site a, whose sidecar reaches its Redis through a relay, as by a name or a virtual address.
struct Stage {
    pair: Pair,
    relay: Relay,
    replica: RedisServer,
}

impl Stage {
    fn start() -> Self {
        let (a, b, replica) = (RedisServer::start(), RedisServer::start(), RedisServer::start());
        let relay = Relay::start(&a.addr());
        let (for_a, for_b) =
            (Builder::new("a", &a).redis_addr(&relay.addr()), Builder::new("b", &b));
        let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
        let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
        let mut sidecar_b = for_b.peer("a", &addr_a).start();
        sidecar_a.wait_ready();
        for sidecar in [&mut sidecar_a, &mut sidecar_b] {
            sidecar.allow_breaks();
            sidecar.allow_log("the local redis refuses");
        }
        let pair = Pair { sidecar_a, sidecar_b, a, b };
        pair.wait_streaming();
        follow(&replica, &pair.a);
        Self { pair, relay, replica }
    }

    /// The replica becomes the master, and the master its replica.
    fn fail_over(&mut self) {
        let Self { pair, relay, replica } = self;
        let to = ["TO", "127.0.0.1", &replica.port().to_string()];
        cmd("FAILOVER").arg(&to).exec(&mut pair.a.client()).unwrap();
        let role = |server: &RedisServer| server.info("replication")["role"].clone();
        eventually("the failover", PATIENCE, || {
            role(replica) == "master" && role(&pair.a) == "slave"
        });
        std::mem::swap(&mut pair.a, replica);
        relay.retarget(&pair.a.addr());
    }

    /// Both directions work.
    fn write_and_compare(&self) {
        let loads = [Load::start(&self.pair.a, "a later"), Load::start(&self.pair.b, "b later")];
        thread::sleep(A_WHILE);
        let written = loads.map(Load::stop);
        self.pair.wait_equal(PATIENCE);
        for by in &written {
            by.check(&self.pair.a);
            by.check(&self.pair.b);
        }
    }
}

fn follow(replica: &RedisServer, master: &RedisServer) {
    let to = ["127.0.0.1", &master.port().to_string()];
    cmd("REPLICAOF").arg(&to).exec(&mut replica.client()).unwrap();
    eventually("the replica to be in sync", PATIENCE, || {
        replica.info("replication")["master_link_status"] == "up"
    });
}

fn full_syncs(pair: &Pair) -> (u64, u64) {
    (pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs())
}

#[test]
fn a_replica_takes_over_while_the_peer_writes() {
    let mut stage = Stage::start();
    let (by_a, by_b) = (Load::start(&stage.pair.a, "a"), Load::start(&stage.pair.b, "b"));
    thread::sleep(A_WHILE);
    let by_a = by_a.stop();
    for round in 1..=2 {
        let id = stage.pair.sidecar_a.info_duplex()["source_replid"].clone();
        stage.fail_over();
        eventually("the history to have another id", PATIENCE, || {
            stage.pair.sidecar_a.info_duplex()["source_replid"] != id
        });
        cmd("SET").arg("round").arg(round).exec(&mut stage.pair.a.client()).unwrap();
        thread::sleep(A_WHILE);
        // And back again.
    }
    let by_b = by_b.stop();
    stage.pair.wait_equal(PATIENCE);
    for by in [&by_a, &by_b] {
        by.check(&stage.pair.a);
        by.check(&stage.pair.b);
    }
    stage.write_and_compare();
    assert_eq!(full_syncs(&stage.pair), (1, 1));
    assert_eq!(stage.pair.sidecar_a.info_duplex()["source_attach_full"], "1");
}

/// The peer comes back with a checkpoint of the history's earlier id.
#[test]
fn the_peer_is_away_meanwhile() {
    let mut stage = Stage::start();
    let load = Load::start(&stage.pair.a, "a");
    thread::sleep(A_WHILE);
    stage.pair.sidecar_b.stop();
    thread::sleep(A_WHILE);
    let by_a = load.stop();
    stage.fail_over();
    stage.pair.sidecar_b.restart();
    stage.pair.wait_equal(PATIENCE);
    by_a.check(&stage.pair.b);
    stage.write_and_compare();
    // The counter of b begins at its last start.
    assert_eq!(full_syncs(&stage.pair), (1, 0));
}

/// Its journal ends under the earlier id.
#[test]
fn the_sidecar_is_away_meanwhile() {
    let mut stage = Stage::start();
    let load = Load::start(&stage.pair.a, "a");
    thread::sleep(A_WHILE);
    stage.pair.sidecar_a.kill();
    thread::sleep(A_WHILE);
    let by_a = load.stop();
    stage.fail_over();
    stage.pair.sidecar_a.restart();
    stage.pair.wait_equal(PATIENCE);
    by_a.check(&stage.pair.b);
    stage.write_and_compare();
    assert_eq!(full_syncs(&stage.pair), (0, 1));
}
