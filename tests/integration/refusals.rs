//! The local Redis refuses what a peer sends: what passes is waited for, what stays is told.

use std::thread;
use std::time::Duration;

use redis::{cmd, pipe};

use crate::support::load::Load;
use crate::support::pair::{Pair, wait_equal};
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
    let (many, few) = (RedisServer::start_with(&["--databases", "40"]), RedisServer::start());
    let (for_many, for_few) = (Builder::new("a", &many), Builder::new("b", &few));
    let (to_many, to_few) = (for_many.addr(), for_few.addr());
    let mut sidecar_many = for_many.peer("b", &to_few).start_without_waiting();
    let mut sidecar_few = for_few.peer("a", &to_many).start();
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
    sidecar_many.freeze();
    sidecar_few.freeze();
}

/// Site a with a stock server and site b with these settings; only a is written to.
fn one_way(settings: &[&str]) -> Pair {
    let (a, b) = (RedisServer::start(), RedisServer::start_with(settings));
    let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    let mut sidecar_a = for_a.peer("b", &addr_b).start_without_waiting();
    let sidecar_b = for_b.peer("a", &addr_a).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    pair.sidecar_b.allow_log("the local redis refuse");
    pair.wait_streaming();
    pair
}

/// Batches that are sent again without a command, while others are under way behind them.
#[test]
fn commands_left_out_under_load_change_no_order() {
    let pair = one_way(&["--rename-command", "PFADD", ""]);
    let load = Load::start(&pair.a, "a");
    let mut client = pair.a.client();
    let mut refused = 0;
    for round in 0..300 {
        // Two in a transaction, with a command between them that is good.
        let mut pipeline = pipe();
        pipeline.cmd("MULTI").cmd("PFADD").arg("refused").arg(round);
        pipeline.cmd("RPUSH").arg("kept").arg(round).cmd("SELECT").arg(5);
        pipeline.cmd("PFADD").arg("refused").arg(round).cmd("RPUSH").arg("kept").arg(round);
        pipeline.cmd("SELECT").arg(0).cmd("EXEC");
        // Each counts if it changes the estimate, which is told.
        let replies: Vec<redis::Value> = pipeline.query(&mut client).unwrap();
        let Some(redis::Value::Array(replies)) = replies.last() else { panic!("{replies:?}") };
        let effects = [&replies[0], &replies[3]];
        refused += effects.iter().filter(|reply| ***reply == redis::Value::Int(1)).count();
        thread::sleep(Duration::from_millis(3));
    }
    let by_a = load.stop();
    let kept = |server: &RedisServer, database: u32| -> Vec<u64> {
        let mut client = server.client_db(database);
        cmd("LRANGE").arg("kept").arg(0).arg(-1).query(&mut client).unwrap()
    };
    eventually("all that is good to arrive", PATIENCE, || kept(&pair.b, 5).len() == 300);
    for database in [0, 5] {
        assert!(kept(&pair.b, database).into_iter().eq(0..300), "database {database}");
        cmd("DEL").arg("refused").exec(&mut pair.a.client_db(database)).unwrap();
    }
    pair.wait_equal(PATIENCE);
    by_a.check(&pair.b);
    let info = pair.sidecar_b.info_duplex();
    let errors = format!("errors={refused},");
    assert!(info["link_a"].contains(&errors), "{errors} {}", info["link_a"]);
    assert_eq!(info["write_off_pending"], "0");
}

/// Refusals that pass meet batches at every stage, and connections break meanwhile.
#[test]
fn memory_comes_and_goes_under_load() {
    let mut pair = one_way(&[]);
    pair.sidecar_b.allow_log("the link broke, trying again");
    let load = Load::start(&pair.a, "a");
    let mut client = pair.b.client();
    for round in 0..40 {
        cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec(&mut client).unwrap();
        thread::sleep(Duration::from_millis(30));
        if round % 8 == 0 {
            let kill = ["KILL", "TYPE", "normal"];
            cmd("CLIENT").arg(&kill).exec(&mut client).unwrap();
        }
        cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).exec(&mut client).unwrap();
        thread::sleep(Duration::from_millis(30));
    }
    let by_a = load.stop();
    pair.wait_equal(PATIENCE);
    by_a.check(&pair.b);
    pair.sidecar_b.wait_link("a", "streaming");
    assert_eq!(pair.sidecar_b.full_syncs(), 1);
    let info = pair.sidecar_b.info_duplex();
    assert!(!info["link_a"].contains("retries=0,"), "{}", info["link_a"]);
    assert!(info["link_a"].contains("errors=0,"), "{}", info["link_a"]);
    assert_eq!(info["write_off_pending"], "0");
}

#[test]
fn a_script_that_blocks_the_target() {
    let pair = one_way(&["--lua-time-limit", "20"]);
    let load = Load::start(&pair.a, "a");
    thread::scope(|scope| {
        let mut blocked = pair.b.client();
        let script = scope.spawn(move || {
            cmd("EVAL").arg("while true do end").arg(0).exec(&mut blocked).unwrap_err()
        });
        eventually("the script to block", PATIENCE, || {
            let ping: redis::RedisResult<String> = cmd("PING").query(&mut pair.b.client());
            ping.is_err()
        });
        thread::sleep(Duration::from_millis(500));
        cmd("SCRIPT").arg("KILL").exec(&mut pair.b.client()).unwrap();
        script.join().unwrap();
    });
    let by_a = load.stop();
    wait_equal(&pair.a, &pair.b, PATIENCE);
    by_a.check(&pair.b);
    assert_eq!(pair.sidecar_b.full_syncs(), 1);
}

#[test]
fn a_target_that_cannot_save() {
    let settings = ["--stop-writes-on-bgsave-error", "yes", "--dbfilename", "taken"];
    let pair = one_way(&settings);
    let mut client = pair.b.client();
    // A snapshot can't take the place of a directory.
    let taken = pair.b.dir().join("taken");
    if taken.exists() {
        // 6.2 made one for the sidecar.
        std::fs::remove_file(&taken).unwrap();
    }
    std::fs::create_dir(&taken).unwrap();
    cmd("CONFIG").arg(&["SET", "save", "3600 1"]).exec(&mut client).unwrap();
    eventually("a snapshot to fail", PATIENCE, || {
        // Refused while one for the peer is under way.
        let _: redis::RedisResult<String> = cmd("BGSAVE").query(&mut client);
        pair.b.info("persistence")["rdb_last_bgsave_status"] == "err"
    });
    let load = Load::start(&pair.a, "a");
    pair.sidecar_b.wait_link("a", "waiting");
    let reason = pair.sidecar_b.info_duplex()["link_a_reason"].clone();
    assert!(reason.contains("MISCONF"), "{reason}");
    cmd("CONFIG").arg(&["SET", "stop-writes-on-bgsave-error", "no"]).exec(&mut client).unwrap();
    let by_a = load.stop();
    pair.wait_equal(PATIENCE);
    by_a.check(&pair.b);
}
