//! What networks do to packets: lost one way, lost by chance, late. The sockets are the sidecars'
//! own, in network namespaces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::network::Network;
use crate::support::pair::Pair;
use crate::support::relay::{Direction, Relay};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

/// Enough for some hundred units.
const A_WHILE: Duration = Duration::from_millis(400);
/// What `link.timeout` is set to where it matters.
const TIMEOUT: Duration = Duration::from_secs(1);
/// From the end of a time-out until it shows, on a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
/// After a cut the kernel itself waits longer and longer before it tries a connection again.
const COME_BACK: Duration = Duration::from_secs(40);

/// The two sites, each at a host; `peer_addr` says where each looks for the other.
fn sites(
    network: &Network,
    configure: impl Fn(Builder) -> Builder,
    peer_addr: impl FnOnce([String; 2]) -> [String; 2],
) -> Pair {
    let (a, b) = (network.redis_of(0), network.redis_of(1));
    let [for_a, for_b] = [("a", &a, 0), ("b", &b, 1)].map(|(site, redis, host)| {
        let builder = Builder::new(site, redis).at(&network.hosts[host]);
        configure(builder.redis_addr(&network.redis_addr(host, redis)))
    });
    let [a_seen_by_b, b_seen_by_a] = peer_addr([for_a.addr(), for_b.addr()]);
    let mut sidecar_a = for_a.peer("b", &b_seen_by_a).start_without_waiting();
    let sidecar_b = for_b.peer("a", &a_seen_by_b).start();
    sidecar_a.wait_ready();
    let mut pair = Pair { sidecar_a, sidecar_b, a, b };
    for sidecar in [&mut pair.sidecar_a, &mut pair.sidecar_b] {
        sidecar.allow_log("the link broke, trying again");
        sidecar.allow_log("a peer's link ends");
    }
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
        pair.wait_equal(COME_BACK);
        for by in &written {
            by.check(&pair.a);
            by.check(&pair.b);
        }
        assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), (1, 1));
    }
}

fn is_streaming(sidecar: &Sidecar, peer: &str) -> bool {
    sidecar.info_duplex()[&format!("link_{peer}_state")] == "streaming"
}

#[test]
fn nothing_arrives_at_one_or_both() {
    let Some(network) = Network::start() else { return };
    let impatient =
        |builder: Builder| builder.setting("link", "timeout = \"1s\"\nheartbeat = \"200ms\"");
    let pair = sites(&network, impatient, |addrs| addrs);
    let loads = Loads::start(&pair);
    let sides = [(&pair.sidecar_a, "b"), (&pair.sidecar_b, "a")];
    for cut in [vec![0], vec![1], vec![0, 1]] {
        thread::sleep(A_WHILE);
        let began = Instant::now();
        for host in &cut {
            network.cut_to(*host);
        }
        for host in &cut {
            let (sidecar, peer) = sides[*host];
            eventually("the link to be given up", PATIENCE, || !is_streaming(sidecar, peer));
            let took = began.elapsed();
            assert!(took < TIMEOUT + SLACK, "a black hole was seen after {took:?}");
        }
        thread::sleep(TIMEOUT);
        network.heal();
        for (sidecar, peer) in sides {
            eventually("the link to be back", COME_BACK, || is_streaming(sidecar, peer));
        }
    }
    loads.stop_and_check(&pair);
}

/// 20 to 40 ms each way, another delay every some milliseconds.
fn jitter(relays: &[Relay; 2], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for relay in relays {
            for direction in [Direction::ToTarget, Direction::ToClient] {
                relay.delay(direction, Duration::from_millis(rand::random_range(20..=40)));
            }
        }
        thread::sleep(Duration::from_millis(15));
    }
}

#[test]
fn packets_are_late_and_some_are_lost() {
    let Some(network) = Network::start() else { return };
    let mut relays = None;
    let pair = sites(
        &network,
        |builder| builder,
        |[a, b]| {
            // Each connects at home, and its relay goes over the wire.
            let (at_a, at_b) = (network.relay_at(0, &b), network.relay_at(1, &a));
            let addrs = [at_b.addr(), at_a.addr()];
            relays = Some([at_a, at_b]);
            addrs
        },
    );
    let relays = relays.unwrap();
    for host in 0..2 {
        network.lose_to(host, 0.01);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| jitter(&relays, &stop));
        let loads = Loads::start(&pair);
        thread::sleep(A_WHILE * 15);
        // Neither is a reason to give a link up.
        for (sidecar, peer) in [(&pair.sidecar_a, "b"), (&pair.sidecar_b, "a")] {
            let line = sidecar.info_duplex()[&format!("link_{peer}")].clone();
            assert!(line.contains("state=streaming") && line.contains("connects=1,"), "{line}");
        }
        loads.stop_and_check(&pair);
        stop.store(true, Ordering::Relaxed);
    });
}
