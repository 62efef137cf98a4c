//! A first sync while clients already write: no newer write is undone by an older snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use redis::{Connection, pipe};

use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::{PATIENCE, eventually};

const KEYS: u64 = 40_000;

fn fill(server: &RedisServer, side: &str) {
    let mut client = server.client();
    for start in (0..KEYS).step_by(1000) {
        let mut pipeline = pipe();
        for n in start..start + 1000 {
            pipeline.cmd("SET").arg(format!("k{n}")).arg(format!("old of {side}")).ignore();
        }
        pipeline.exec(&mut client).unwrap();
    }
}

/// Writes and deletes every second key, beginning at `first`, until told to stop.
fn write(client: &mut Connection, first: u64, stop: &AtomicBool) -> u64 {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut pipeline = pipe();
        for n in 0..50 {
            let key = format!("k{}", (first + 2 * ((round * 50 + n) * 7919 % (KEYS / 2))) % KEYS);
            if n % 5 == 0 {
                pipeline.cmd("DEL").arg(key).ignore();
            } else {
                pipeline.cmd("SET").arg(key).arg(format!("new {first} {round}")).ignore();
            }
        }
        pipeline.exec(client).unwrap();
        round += 1;
    }
    round
}

#[test]
fn no_newer_write_is_undone_by_an_older_snapshot() {
    let stop = AtomicBool::new(false);
    let (mut a, mut b) = (None, None);
    let pair = Pair::start_with(
        |left, right| {
            fill(left, "a");
            fill(right, "b");
            (a, b) = (Some(left.client()), Some(right.client()));
        },
        |builder| builder,
    );
    thread::scope(|scope| {
        let threads = [(a, 0), (b, 1)].map(|(client, first)| {
            let (mut client, stop) = (client.unwrap(), &stop);
            scope.spawn(move || write(&mut client, first, stop))
        });
        eventually("both full syncs to end", PATIENCE, || {
            [(&pair.sidecar_a, "link_b_state"), (&pair.sidecar_b, "link_a_state")]
                .iter()
                .all(|(sidecar, field)| sidecar.info_duplex()[*field] == "streaming")
        });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().unwrap() > 10, "the load did not run");
        }
    });
    pair.wait_equal(PATIENCE * 2);
    for sidecar in [&pair.sidecar_a, &pair.sidecar_b] {
        assert_eq!(sidecar.info_duplex()["problems"], "0", "{}", sidecar.log());
    }
}
