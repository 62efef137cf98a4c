//! What is written comes to the other side once, and never back.

use std::thread;
use std::time::{Duration, Instant};

use redis::cmd;

use crate::support::PATIENCE;
use crate::support::load::{Load, check_shared};
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;

/// How long both sides write.
const LOAD: Duration = Duration::from_secs(3);
/// How long the streams are watched after that: many round trips of a loop.
const STILL: Duration = Duration::from_secs(2);

/// Redis's own PINGs would move the offsets that are to stand still.
fn without_pings(server: &RedisServer) {
    cmd("CONFIG")
        .arg(&["SET", "repl-ping-replica-period", "3600"])
        .exec(&mut server.client())
        .unwrap();
}

fn offset(server: &RedisServer) -> u64 {
    server.info("replication")["master_repl_offset"].parse().unwrap()
}

/// Calls of commands that write, from `INFO commandstats`.
fn writes(server: &RedisServer) -> u64 {
    let names = ["incr", "rpush", "set", "sadd", "hset", "del", "exec"];
    let stats = server.info("commandstats");
    let calls = |name: &&str| -> u64 {
        let stat = stats.get(&format!("cmdstat_{name}"));
        let calls = stat.and_then(|stat| stat.strip_prefix("calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    names.iter().map(calls).sum()
}

#[test]
fn under_load_nothing_comes_back() {
    let pair = Pair::start_with(
        |a, b| {
            without_pings(a);
            without_pings(b);
        },
        |builder| builder,
    );
    pair.wait_streaming();
    let loads = [Load::start(&pair.a, "a"), Load::start(&pair.b, "b")];
    thread::sleep(LOAD);
    let [by_a, by_b] = loads.map(Load::stop);
    pair.wait_equal(PATIENCE);
    for server in [&pair.a, &pair.b] {
        by_a.check(server);
        by_b.check(server);
        check_shared(server, &[&by_a, &by_b]);
    }

    let before = [&pair.a, &pair.b].map(|server| (offset(server), writes(server)));
    let began = Instant::now();
    while began.elapsed() < STILL {
        let now = [&pair.a, &pair.b].map(|server| (offset(server), writes(server)));
        assert_eq!(before, now, "something still goes round");
        thread::sleep(Duration::from_millis(100));
    }

    for (sidecar, written, other) in
        [(&pair.sidecar_a, &by_a, &by_b), (&pair.sidecar_b, &by_b, &by_a)]
    {
        let info = sidecar.info_duplex();
        let number = |name: &str| info[name].parse::<u64>().unwrap();
        assert_eq!(number("local_units"), written.total().units, "units journaled as local");
        let link = info.keys().find(|name| name.ends_with("_units") && name.starts_with("link_"));
        assert_eq!(number(link.unwrap()), other.total().units, "units applied");
        assert_eq!(number("write_off_pending"), 0);
        assert_eq!(number("write_off_earlier"), 0);
        assert_eq!(number("write_off_given_up"), 0);
        assert_eq!(number("echoes"), number("write_off_issued"));
        assert_eq!(number("problems"), 0);
    }
}

#[test]
fn writes_without_effect_swallow_nobody_elses() {
    let pair = Pair::start();
    pair.wait_streaming();
    // Written off by content, the entry of a write without effect would stay for ever and then
    // take the user's own write away.
    for round in 0..20 {
        cmd("SET").arg("k").arg(round).exec(&mut pair.a.client()).unwrap();
        pair.wait_equal(PATIENCE);
        cmd("DEL").arg("k").exec(&mut pair.a.client()).unwrap();
        cmd("DEL").arg("k").exec(&mut pair.b.client()).unwrap();
        pair.wait_equal(PATIENCE);
        cmd("SET").arg("k").arg(round).exec(&mut pair.b.client()).unwrap();
        pair.wait_equal(PATIENCE);
        let value: Option<u64> = cmd("GET").arg("k").query(&mut pair.a.client()).unwrap();
        assert_eq!(value, Some(round));
        cmd("DEL").arg("k").exec(&mut pair.b.client()).unwrap();
        pair.wait_equal(PATIENCE);
    }
}
