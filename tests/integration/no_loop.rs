//! Nothing that a sidecar writes travels back: counted, under a load of both sides at once.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{Connection, cmd, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::{RedisServer, info_fields};
use crate::support::sidecar::Sidecar;
use crate::support::{PATIENCE, eventually};

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
    pair.wait_equal(PATIENCE);
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
