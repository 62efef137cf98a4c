//! Nothing that a sidecar writes travels back: counted, under a load of both sides at once.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{Connection, cmd, pipe};

use crate::support::load::{Load, check_shared};
use crate::support::pair::Pair;
use crate::support::redis_server::{RedisServer, info_fields};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, eventually};

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

/// Pipelines that each side writes.
const PIPELINES: u64 = 150;

/// Writes a random load on keys of one side, in several databases; the number of units that have
/// an effect, each counted as the server replicates it.
fn load(client: &mut Connection, side: &str, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut units = 0;
    cmd("SET").arg(format!("{side}:there")).arg(0).exec(client).unwrap();
    units += 1;
    for round in 0..PIPELINES {
        let database: u32 = random.random_range(0..4);
        let mut pipeline = pipe();
        pipeline.cmd("SELECT").arg(database).ignore();
        for n in 0..random.random_range(1..40) {
            let key = format!("{side}:{round}:{n}");
            match random.random_range(0..8) {
                0 => pipeline.cmd("INCR").arg(format!("{side}:counter")).ignore(),
                1 => pipeline.cmd("LPUSH").arg(format!("{side}:list")).arg(&key).ignore(),
                2 => pipeline.cmd("SET").arg(&key).arg(n).arg("EX").arg(10_000).ignore(),
                3 => pipeline.cmd("HSET").arg(format!("{side}:hash")).arg(&key).arg(n).ignore(),
                // Two effects in one unit.
                4 => pipeline
                    .cmd("MULTI")
                    .ignore()
                    .cmd("SET")
                    .arg(&key)
                    .arg(1)
                    .ignore()
                    .cmd("INCR")
                    .arg(&key)
                    .ignore()
                    .cmd("EXEC")
                    .ignore(),
                // A transaction with a single effect.
                5 => pipeline
                    .cmd("MULTI")
                    .ignore()
                    .cmd("SADD")
                    .arg(&key)
                    .arg("x")
                    .ignore()
                    .cmd("DEL")
                    .arg(format!("{side}:nokey"))
                    .ignore()
                    .cmd("EXEC")
                    .ignore(),
                // No effect at all.
                6 => {
                    pipeline.cmd("DEL").arg(format!("{side}:nokey")).ignore();
                    units -= 1;
                    &mut pipeline
                }
                _ => pipeline
                    .cmd("EVAL")
                    .arg("redis.call('set', KEYS[1], 1) redis.call('incr', KEYS[1])")
                    .arg(1)
                    .arg(&key)
                    .ignore(),
            };
            units += 1;
        }
        pipeline.exec(client).unwrap();
    }
    units
}

/// How often each command that writes was called at a server, by whomever.
fn writes(server: &RedisServer) -> HashMap<String, String> {
    let text: String = cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
    let calls = |(name, value): (String, String)| {
        let name = name.strip_prefix("cmdstat_")?.to_owned();
        let reads = ["info", "ping", "psync", "replconf", "select", "client", "auth", "hello"];
        let calls = value.split(',').next()?.to_owned();
        (!reads.contains(&name.as_str()) && !name.starts_with("client|")).then_some((name, calls))
    };
    info_fields(&text).into_iter().filter_map(calls).collect()
}

fn number(sidecar: &Sidecar, field: &str) -> u64 {
    sidecar.info_duplex()[field].parse().unwrap()
}

#[test]
fn each_journal_takes_exactly_the_local_writes_and_then_all_is_quiet() {
    let pair = Pair::start();
    pair.wait_first_sync_over();
    let before = [&pair.sidecar_a, &pair.sidecar_b].map(|sidecar| number(sidecar, "local_units"));
    let written = thread::scope(|scope| {
        let sides = [(&pair.a, "a", 1), (&pair.b, "b", 2)];
        let threads = sides.map(|(server, side, seed)| {
            let mut client = server.client();
            scope.spawn(move || load(&mut client, side, seed))
        });
        threads.map(|thread| thread.join().unwrap())
    });
    pair.wait_equal(PATIENCE);
    for (at, sidecar) in [&pair.sidecar_a, &pair.sidecar_b].into_iter().enumerate() {
        eventually("all batches to be written off", PATIENCE, || {
            number(sidecar, "write_off_pending") == 0
        });
        assert_eq!(number(sidecar, "local_units") - before[at], written[at], "side {at}");
        assert_eq!(number(sidecar, "write_off_earlier"), 0);
        assert_eq!(number(sidecar, "problems"), 0, "{}", sidecar.log());
    }
    // Each side applied what the other wrote, each unit once.
    let applied = number(&pair.sidecar_a, "link_b_units");
    assert_eq!(applied, written[1] + before[1]);
    let first = [writes(&pair.a), writes(&pair.b)];
    thread::sleep(Duration::from_secs(2));
    assert_eq!([writes(&pair.a), writes(&pair.b)], first, "somebody still writes");
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
