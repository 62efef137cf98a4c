//! The local Redis refuses what a peer sends: what passes is waited for, what stays is told.

use redis::{cmd, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

const REFUSES: &str = "the local redis refuses";

fn state(sidecar: &Sidecar) -> String {
    sidecar.info_duplex()["link_a_state"].clone()
}

fn wait_state(sidecar: &Sidecar, expected: &str) {
    eventually(&format!("the link to be {expected}"), PATIENCE, || state(sidecar) == expected);
}

/// A pair whose site b is set by `CONFIG SET` so that it refuses writes, then back again.
fn refused_for_a_while(refuse: [&str; 2], allow: [&str; 2], reason: &str) {
    let mut pair = Pair::start();
    pair.sidecar_b.allow_log(REFUSES);
    wait_state(&pair.sidecar_b, "streaming");
    let config = |setting: [&str; 2]| {
        cmd("CONFIG").arg("SET").arg(&setting).exec(&mut pair.b.client()).unwrap();
    };
    config(refuse);
    let mut client = pair.a.client();
    for n in 0..400 {
        let mut pipeline = pipe();
        for _ in 0..5 {
            pipeline.cmd("INCR").arg("counter").ignore();
        }
        pipeline.cmd("LPUSH").arg("list").arg(n).ignore();
        pipeline.exec(&mut client).unwrap();
    }
    wait_state(&pair.sidecar_b, "waiting");
    let told = pair.sidecar_b.info_duplex()["link_a_reason"].clone();
    assert!(told.contains(reason), "{told}");
    config(allow);
    pair.wait_equal(PATIENCE);
    wait_state(&pair.sidecar_b, "streaming");
    let counter: u64 = cmd("GET").arg("counter").query(&mut pair.b.client()).unwrap();
    let list: Vec<u64> =
        cmd("LRANGE").arg("list").arg(0).arg(-1).query(&mut pair.b.client()).unwrap();
    assert_eq!(counter, 2000);
    assert!(list.iter().copied().eq((0..400).rev()), "units came in another order");
    assert_eq!(pair.sidecar_b.full_syncs(), 1, "nothing had to be copied again");
}

#[test]
fn out_of_memory() {
    refused_for_a_while(["maxmemory", "1"], ["maxmemory", "0"], "OOM");
}

#[test]
fn too_few_replicas() {
    // Our own connection is the only one that counts as a replica.
    refused_for_a_while(
        ["min-replicas-to-write", "3"],
        ["min-replicas-to-write", "0"],
        "NOREPLICAS",
    );
}

#[test]
fn a_command_that_can_never_be_done_is_told_and_the_rest_goes_on() {
    let mut pair = Pair::start();
    pair.sidecar_b.allow_log("the local redis refused a command");
    wait_state(&pair.sidecar_b, "streaming");
    // Behind the sidecar's back, through its own port: it is not sent to a.
    cmd("SET").arg("k").arg("text").exec(&mut pair.sidecar_b.client()).unwrap();
    let mut pipeline = pipe();
    pipeline.cmd("LPUSH").arg("before").arg(1).ignore();
    pipeline.cmd("LPUSH").arg("k").arg(1).ignore();
    pipeline.cmd("LPUSH").arg("after").arg(1).ignore();
    pipeline.exec(&mut pair.a.client()).unwrap();
    eventually("what comes after the error", PATIENCE, || {
        cmd("EXISTS").arg("after").query(&mut pair.b.client()).unwrap()
    });
    let info = pair.sidecar_b.info_duplex();
    assert_eq!(info["problems"], "1");
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut pair.sidecar_b.client()).unwrap();
    assert!(errors.contains("LPUSH k in database 0 was refused: WRONGTYPE"), "{errors}");
}

#[test]
fn too_few_databases_stop_the_link_with_the_remedy() {
    let mut pair = Pair::start();
    pair.sidecar_a.allow_log("the link stops");
    pair.sidecar_b.allow_log("the link stops");
    // A server with more databases takes the place of a.
    let many = RedisServer::start_with(&["--databases", "40"]);
    let for_many = Builder::new("a", &many);
    let addr = for_many.addr();
    let few = Builder::new("b", &pair.b);
    let mut sidecar_many = for_many.peer("b", &few.addr()).start_without_waiting();
    let mut sidecar_few = few.peer("a", &addr).start();
    sidecar_many.wait_ready();
    sidecar_few.allow_log("the link stops");
    wait_state(&sidecar_few, "streaming");
    cmd("SET").arg("k").arg(1).exec(&mut many.client_db(30)).unwrap();
    wait_state(&sidecar_few, "stopped");
    let reason = sidecar_few.info_duplex()["link_a_reason"].clone();
    assert!(reason.contains("database 30") && reason.contains("`databases`"), "{reason}");
    sidecar_many.freeze();
    sidecar_few.freeze();
}

/// A transaction that selects a database which the target lacks must not go on in the one before.
#[test]
fn too_few_databases_within_a_transaction() {
    let (many, few) = (RedisServer::start(), RedisServer::start_with(&["--databases", "4"]));
    let (for_many, for_few) = (Builder::new("a", &many), Builder::new("b", &few));
    let (to_many, to_few) = (for_many.addr(), for_few.addr());
    let mut sidecar_many = for_many.peer("b", &to_few).start_without_waiting();
    let mut sidecar_few = for_few.peer("a", &to_many).start();
    sidecar_many.wait_ready();
    sidecar_few.allow_log("the link stops");
    sidecar_many.allow_log("a peer's link ends");
    wait_state(&sidecar_few, "streaming");
    let mut pipeline = pipe();
    pipeline.cmd("SET").arg("before").arg(1);
    pipeline.cmd("MULTI").cmd("SET").arg("k").arg("of 0").cmd("SELECT").arg(9);
    pipeline.cmd("SET").arg("k").arg("of 9").cmd("SELECT").arg(0).cmd("EXEC");
    pipeline.exec(&mut many.client()).unwrap();
    wait_state(&sidecar_few, "stopped");
    let reason = sidecar_few.info_duplex()["link_a_reason"].clone();
    assert!(reason.contains("database 9"), "{reason}");
    let get =
        |key: &str| -> Option<String> { cmd("GET").arg(key).query(&mut few.client()).unwrap() };
    assert_eq!(get("before").as_deref(), Some("1"));
    assert_eq!(get("k"), None, "nothing of a unit that can't be done as a whole");
}
