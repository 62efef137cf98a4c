//! Memory stays flat: minutes of a user's writes, in fast motion, at both sites; and large replies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use redis::{cmd, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

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
    status(sidecar, "VmRSS:")
}

/// A line of `/proc/<id>/status`, in KiB.
fn status(sidecar: &Sidecar, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", sidecar.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
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

/// A reply of any size passes through; what the sidecar holds of it is what the client has not
/// taken, up to 64 MiB.
#[test]
fn a_large_reply_passes_through() {
    const LENGTH: usize = 256 << 20;
    const HEAD: &[u8] = b"$268435456\r\n";
    let mut redis = RedisServer::start();
    let mut sidecar = Builder::new("a", &redis).start();
    cmd("SETRANGE").arg("k").arg(LENGTH - 1).arg("x").exec(&mut redis.client()).unwrap();
    let mut client = TcpStream::connect(sidecar.addr()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();

    client.write_all(b"GET k\r\nPING\r\n").unwrap();
    let mut reply = vec![0; HEAD.len() + LENGTH + 2 + b"+PONG\r\n".len()];
    client.read_exact(&mut reply).unwrap();
    assert!(reply.starts_with(HEAD) && reply.ends_with(b"\0x\r\n+PONG\r\n"));
    let most = status(&sidecar, "VmHWM:") >> 10;
    assert!(most < 200, "{most} MiB");

    // In the middle of one there is nothing to be said but that it ends.
    sidecar.allow_log("lost a client's connection to the local redis");
    sidecar.allow_log("lost the replication stream");
    sidecar.allow_log("the local redis is not there");
    client.write_all(b"GET k\r\n").unwrap();
    client.read_exact(&mut reply[..1 << 20]).unwrap();
    redis.kill();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < LENGTH && rest.iter().all(|byte| *byte == 0), "{}", rest.len());
}
