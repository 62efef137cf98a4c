//! Two real servers and two real sidecars, measured against Redis itself in the same run.
//!
//! Prints; asserts only that what was written arrived. `./dev bench` runs it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a bench is a program for people to read; a panic is how it fails"
)]

#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
mod support;

use std::time::{Duration, Instant};

use redis::Connection;
use support::pair::Pair;
use support::redis_server::RedisServer;
use support::sidecar::Sidecar;

const WRITES: usize = 300_000;
const DEPTH: usize = 100;
const VALUE: [u8; 64] = [b'v'; 64];
const LIMIT: Duration = Duration::from_mins(2);

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and gets nothing to do.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!(
        "{WRITES} SET of {} bytes, {DEPTH} in a pipeline; 2000 single writes for latency",
        VALUE.len()
    );
    latency();
    let plain = plain_replication();
    one_way(plain);
    both_ways(plain);
    through_the_port();
    conflict_handling();
}

/// Writes `WRITES` keys in pipelines; the seconds it took.
fn write_all(client: &mut Connection, prefix: &str) -> f64 {
    let began = Instant::now();
    for start in (0..WRITES).step_by(DEPTH) {
        let mut pipeline = redis::pipe();
        for n in start..start + DEPTH {
            pipeline.cmd("SET").arg(format!("{prefix}:{n}")).arg(&VALUE).ignore();
        }
        pipeline.exec(client).unwrap();
    }
    began.elapsed().as_secs_f64()
}

fn wait_for(client: &mut Connection, key: &str) {
    let began = Instant::now();
    while !redis::cmd("EXISTS").arg(key).query::<bool>(client).unwrap() {
        assert!(began.elapsed() < LIMIT, "{key} did not arrive");
    }
}

fn last(prefix: &str) -> String {
    format!("{prefix}:{}", WRITES - 1)
}

fn rate(seconds: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let writes = WRITES as f64;
    writes / seconds
}

/// Until a write at one site can be read at the other, both idle.
fn latency() {
    let pair = Pair::start();
    for (name, from, to) in [("a to b", &pair.a, &pair.b), ("b to a", &pair.b, &pair.a)] {
        let (mut from, mut to) = (from.client(), to.client());
        let mut times: Vec<Duration> = (0..2000)
            .map(|n| {
                let key = format!("latency {name} {n}");
                let began = Instant::now();
                redis::cmd("SET").arg(&key).arg(1).exec(&mut from).unwrap();
                wait_for(&mut to, &key);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!(
            "write at one site, readable at the other, {name}: median {:?}, 99 % {:?}, worst {:?}",
            times[1000], times[1980], times[1999]
        );
    }
}

/// Redis's own replication: until the replica has all.
fn plain_replication() -> f64 {
    let master = RedisServer::start();
    let replica =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let (mut master, mut replica) = (master.client(), replica.client());
    redis::cmd("SET").arg("first").arg(1).exec(&mut master).unwrap();
    wait_for(&mut replica, "first");
    let began = Instant::now();
    let written = write_all(&mut master, "plain");
    wait_for(&mut replica, &last("plain"));
    let arrived = began.elapsed().as_secs_f64();
    println!(
        "plain Redis replication: written at {:.0}/s, all at the replica at {:.0}/s",
        rate(written),
        rate(arrived)
    );
    arrived
}

fn one_way(plain: f64) {
    let pair = Pair::start();
    let began = Instant::now();
    let written = write_all(&mut pair.a.client(), "one");
    wait_for(&mut pair.b.client(), &last("one"));
    let arrived = began.elapsed().as_secs_f64();
    println!(
        "one way: written at {:.0}/s, all at the other site at {:.0}/s: {:.2} of plain replication",
        rate(written),
        rate(arrived),
        plain / arrived
    );
}

fn both_ways(plain: f64) {
    let arrived = both_arrived(&Pair::start());
    println!(
        "both ways at once: 2 x {:.0}/s at the other site: {:.2} of one plain replication, each way",
        rate(arrived),
        plain / arrived
    );
}

/// What a syncer writes through the port, against the same straight into Redis.
fn through_the_port() {
    let pair = Pair::start();
    let straight = write_all(&mut pair.a.client(), "straight");
    let through = write_all(&mut pair.sidecar_a.client(), "through");
    println!(
        "into Redis {:.0}/s, through the port (marked) {:.0}/s: {:.2}",
        rate(straight),
        rate(through),
        straight / through
    );
}

/// Both sites write; until each has all of the other.
fn both_arrived(pair: &Pair) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (site, prefix) in [(&pair.a, "from a"), (&pair.b, "from b")] {
            let mut client = site.client();
            scope.spawn(move || write_all(&mut client, prefix));
        }
    });
    wait_for(&mut pair.b.client(), &last("from a"));
    wait_for(&mut pair.a.client(), &last("from b"));
    began.elapsed().as_secs_f64()
}

/// What conflict handling costs where there are no conflicts: with it and without, in turns. The
/// sidecars' own time tells more than the speed where everything shares the processors.
fn conflict_handling() {
    let run = |policy: &str| {
        let policy = format!("policy = \"{policy}\"");
        let pair = Pair::start_with(|_, _| {}, |builder| builder.setting("conflict", &policy));
        let before = processor_time(&pair);
        let took = both_arrived(&pair);
        (took, processor_time(&pair).saturating_sub(before))
    };
    let mut speeds = Vec::new();
    let mut times = Vec::new();
    for _ in 0..7 {
        let ((off, busy_off), (converge, busy)) = (run("off"), run("converge"));
        speeds.push(off / converge);
        times.push((busy_off, busy));
    }
    speeds.sort_by(f64::total_cmp);
    println!(
        "conflict handling, both ways, no conflicts: {:.2} of the speed without ({:.2} to {:.2})",
        speeds[3], speeds[0], speeds[6]
    );
    for (name, mut times) in [
        ("without", times.iter().map(|(off, _)| *off).collect::<Vec<_>>()),
        ("with", times.iter().map(|(_, converge)| *converge).collect()),
    ] {
        times.sort_unstable();
        println!(
            "both sidecars' processor time {name} it: {:?} ({:?} to {:?})",
            times[3], times[0], times[6]
        );
    }
}

/// What both sidecars have used of the processors, in steps of 10 ms.
fn processor_time(pair: &Pair) -> Duration {
    let of = |sidecar: &Sidecar| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.id())).unwrap();
        // Behind the name: the 12th and 13th are what it and the system did, in 1/100 s (proc(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    };
    of(&pair.sidecar_a) + of(&pair.sidecar_b)
}
