//! Memory stays flat: minutes of a user's writes, in fast motion, at both sites.

use std::thread;
use std::time::{Duration, Instant};

use redis::{cmd, pipe};

use crate::support::eventually;
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::Sidecar;

/// Commands in a pipeline.
const PIPELINE: usize = 500;
/// After so many writes each side waits for the other: a user's pauses, in fast motion. Their
/// bytes fit into the small journal many times.
const CHUNK: u64 = 10_000;
/// Keys that are written again and again; data itself does not grow.
const KEYS: u64 = 20_000;
/// A sidecar may take so many KiB more in the end than half-way: what an allocator keeps or gives
/// back, and no more than 7 bytes for each of 600,000 writes.
const GROWTH_KIB: u64 = 4096;
/// For a chunk of both sides, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// What a process has in memory, in KiB.
fn resident(sidecar: &Sidecar) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", sidecar.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Writes `CHUNK` commands of all kinds, in keys of this side.
fn write_chunk(server: &RedisServer, side: &str, chunk: u64) {
    let mut client = server.client();
    let value = format!("{side}{}", "v".repeat(100));
    for first in (chunk * CHUNK..(chunk + 1) * CHUNK).step_by(PIPELINE) {
        let mut pipeline = pipe();
        for n in first..first + PIPELINE as u64 {
            let key = format!("{side}:{}", n * 7919 % KEYS);
            match n % 10 {
                0 => pipeline.cmd("DEL").arg(key).ignore(),
                1 => pipeline
                    .cmd("HSET")
                    .arg(format!("{side}:hash"))
                    .arg(n % 100)
                    .arg(&value)
                    .ignore(),
                2 => pipeline.cmd("INCR").arg(format!("{side}:n:{}", n % 100)).ignore(),
                3 => pipeline.cmd("SET").arg(key).arg(n).arg("EX").arg(1000).ignore(),
                _ => pipeline.cmd("SET").arg(key).arg(&value).ignore(),
            };
        }
        pipeline.exec(&mut client).unwrap();
    }
    cmd("SET").arg(format!("{side}:chunk")).arg(chunk).exec(&mut client).unwrap();
}

fn has_chunk(server: &RedisServer, side: &str, chunk: u64) -> bool {
    let now: Option<u64> =
        cmd("GET").arg(format!("{side}:chunk")).query(&mut server.client()).unwrap();
    now == Some(chunk)
}

/// Writes this much at each of both sites, and watches what the sidecars take.
fn stays_flat(writes: u64) {
    let pair = Pair::start_with(
        |_, _| {},
        |builder| builder.setting("journal", "max_size = \"16MiB\"\ncache = \"1MiB\""),
    );
    pair.wait_streaming();
    let began = Instant::now();
    let chunks = writes / CHUNK;
    let mut samples = Vec::new();
    for chunk in 0..chunks {
        thread::scope(|scope| {
            scope.spawn(|| write_chunk(&pair.a, "a", chunk));
            scope.spawn(|| write_chunk(&pair.b, "b", chunk));
        });
        eventually("both sites to have a chunk of the other", LIMIT, || {
            has_chunk(&pair.b, "a", chunk) && has_chunk(&pair.a, "b", chunk)
        });
        samples.push([resident(&pair.sidecar_a), resident(&pair.sidecar_b)]);
    }
    let took = began.elapsed().as_secs_f64();
    eprintln!("{} writes in {took:.1} s; resident, in KiB: {samples:?}", 2 * writes);
    for side in 0..2 {
        let most =
            |from: usize, to: usize| samples[from..to].iter().map(|s| s[side]).max().unwrap();
        // The highest of a tenth, around half-way and at the end.
        let (all, tenth) = (samples.len(), samples.len().div_ceil(10));
        let (half, end) = (most(all / 2 - tenth, all / 2), most(all - tenth, all));
        assert!(end <= half + GROWTH_KIB, "side {side} grew from {half} to {end} KiB: {samples:?}");
    }
    pair.wait_equal(LIMIT);
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        assert_eq!(sidecar.full_syncs(), 1);
        let info = sidecar.info_duplex();
        let number = |name: &str| info[name].parse::<u64>().unwrap();
        assert!(number("journal_bytes") <= number("journal_max_bytes"));
        assert!(number("journal_cached_bytes") <= number("journal_cache_max_bytes"));
        assert_eq!(number("write_off_pending"), 0);
    }
}

#[test]
fn a_minute_of_writes() {
    stays_flat(200_000);
}

/// `./dev test memory`: 10 minutes of 2,000 writes a second at each site.
#[test]
#[ignore = "takes a minute; ./dev test memory runs it"]
fn ten_minutes_of_writes() {
    stays_flat(1_200_000);
}
