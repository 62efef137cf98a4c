//! The journal's disk fails while both sites write: nothing is acknowledged that is not kept, and
//! when the disk is well again both are equal without a copy.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use redis::cmd;

use crate::support::disk::Disk;
use crate::support::load::Load;
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

/// Enough for some hundred units.
const A_WHILE: Duration = Duration::from_millis(400);

/// Site a has its journal there.
fn pair(journal: PathBuf, fsync: &str) -> Pair {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    for server in [&a, &b] {
        // All that is written while the disk fails waits there.
        let set = ["SET", "repl-backlog-size", "64mb"];
        cmd("CONFIG").arg(&set).exec(&mut server.client()).unwrap();
    }
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    let setting = format!("fsync = \"{fsync}\"\nmax_size = \"64MiB\"");
    let for_a = for_a.journal_dir(journal).setting("journal", &setting);
    let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    for text in [
        "the journal can't be written",
        "the journal can't be forced to disk",
        "lost the replication stream",
        "the source ends",
        "was not written to its end",
        "or the disk lost something: followers take a full sync",
        "the link broke",
        "a peer's link ends",
    ] {
        pair.sidecar_a.allow_log(text);
    }
    pair.sidecar_b.allow_log("the link broke");
    pair.sidecar_b.allow_log("a peer's link ends");
    pair.wait_streaming();
    pair
}

struct Loads([Load; 2]);

impl Loads {
    fn start(pair: &Pair) -> Self {
        Self([Load::start(&pair.a, "a"), Load::start(&pair.b, "b")])
    }

    fn stop_and_check(self, pair: &Pair) {
        let written = self.0.map(Load::stop);
        pair.wait_equal(PATIENCE * 2);
        for by in &written {
            by.check(&pair.a);
            by.check(&pair.b);
        }
    }
}

fn fill(pair: &Pair, bytes: usize) {
    let value = vec![b'x'; 100_000];
    for n in 0..bytes / value.len() {
        cmd("SET").arg(format!("fill:{}", n % 10)).arg(&value).exec(&mut pair.a.client()).unwrap();
    }
}

#[test]
fn it_is_full_for_a_while() {
    for fsync in ["always", "everysec", "no"] {
        let Some(disk) = Disk::small(24 << 20) else { return };
        let pair = pair(disk.journal(), fsync);
        let loads = Loads::start(&pair);
        thread::sleep(A_WHILE);
        disk.fill();
        fill(&pair, 2 << 20);
        eventually("the sidecar to say so", PATIENCE, || {
            let info = pair.sidecar_a.info_duplex();
            info["source_error"].contains("No space left") && info["ready"] == "0"
        });
        thread::sleep(A_WHILE);
        disk.make_room();
        pair.sidecar_a.wait_link("b", "streaming");
        loads.stop_and_check(&pair);
        assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1), "{fsync}");
        assert!(pair.sidecar_a.log().contains("the journal can be written again"));
    }
}

/// What the system failed to keep once it may tell as kept the next time: only a restart helps.
#[test]
fn what_it_was_to_keep_at_once_is_lost() {
    let Some(disk) = Disk::that_loses_writes(16 << 20) else { return };
    let mut pair = pair(disk.journal(), "always");
    let loads = Loads::start(&pair);
    thread::sleep(A_WHILE);
    disk.fill();
    fill(&pair, 4 << 20);
    eventually("the sidecar to say what to do", PATIENCE, || {
        pair.sidecar_a.log().contains("can't be forced to disk: restart the sidecar")
    });
    eventually("the site to be told as not ready", PATIENCE, || {
        pair.sidecar_a.info_duplex()["ready"] == "0"
    });
    let reason = pair.sidecar_a.info_duplex()["source_error"].clone();
    assert!(reason.contains("journal"), "{reason}");
    assert!(!disk.journal().join("intact").exists());
    thread::sleep(A_WHILE);
    disk.make_room();
    pair.sidecar_a.kill();
    pair.sidecar_a.restart();
    loads.stop_and_check(&pair);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (0, 1));
}

#[test]
fn what_it_was_to_keep_within_a_second_is_lost() {
    let Some(disk) = Disk::that_loses_writes(16 << 20) else { return };
    let mut pair = pair(disk.journal(), "everysec");
    let loads = Loads::start(&pair);
    thread::sleep(A_WHILE);
    disk.fill();
    fill(&pair, 4 << 20);
    eventually("the sidecar to say so", PATIENCE, || {
        pair.sidecar_a.log().contains("the journal can't be forced to disk, trying again")
    });
    disk.make_room();
    eventually("the disk to be well again", PATIENCE, || {
        pair.sidecar_a.log().contains("the journal can be forced to disk again")
    });
    loads.stop_and_check(&pair);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
    // What it has thrown away may be found missing only now.
    assert!(!disk.journal().join("intact").exists());
    let loads = Loads([Load::start(&pair.a, "again a"), Load::start(&pair.b, "again b")]);
    pair.sidecar_a.kill();
    pair.sidecar_a.restart();
    loads.stop_and_check(&pair);
    assert!(disk.journal().join("intact").exists());
}
