//! Two sites: the setting of most tests.

use std::time::{Duration, Instant};

use super::compare::differences;
use super::redis_server::RedisServer;
use super::sidecar::{Builder, Sidecar};
use super::{PATIENCE, eventually};

/// Differences shown when two sites don't become equal.
const SHOWN: usize = 20;

/// Two servers with a sidecar each; sites `a` and `b`, primary `a`.
#[derive(Debug)]
pub struct Pair {
    // Sidecars go first, or they would log that their Redis is lost.
    pub sidecar_a: Sidecar,
    pub sidecar_b: Sidecar,
    pub a: RedisServer,
    pub b: RedisServer,
}

impl Pair {
    /// Two empty sites.
    pub fn start() -> Self {
        Self::start_with(|_, _| {}, |builder| builder)
    }

    /// Two sites; `preload` fills the servers before the sidecars start, `configure` is called for
    /// each sidecar.
    pub fn start_with(
        preload: impl FnOnce(&RedisServer, &RedisServer),
        configure: impl Fn(Builder) -> Builder,
    ) -> Self {
        let (a, b) = (RedisServer::start(), RedisServer::start());
        preload(&a, &b);
        let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
        let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
        // The first is not waited for: it may be ready only when it has reached its peer.
        let mut sidecar_a = configure(for_a.peer("b", &addr_b)).start_without_waiting();
        let sidecar_b = configure(for_b.peer("a", &addr_a)).start();
        sidecar_a.wait_ready();
        Self { sidecar_a, sidecar_b, a, b }
    }

    /// Waits until both links stream.
    #[track_caller]
    pub fn wait_streaming(&self) {
        for (sidecar, peer) in [(&self.sidecar_a, "b"), (&self.sidecar_b, "a")] {
            sidecar.wait_link(peer, "streaming");
        }
    }

    /// Waits until what site b writes does not count as written before it knew of a's data: until
    /// then it gets the primary's word on each key, which is a unit of a's.
    #[track_caller]
    pub fn wait_first_sync_over(&self) {
        self.wait_streaming();
        let conflicts = || self.sidecar_a.info_duplex()["link_b_conflicts"].clone();
        let mut round = 0;
        eventually("a write of b's that does not conflict", PATIENCE, || {
            let before = conflicts();
            round += 1;
            redis::cmd("SET").arg("round").arg(round).exec(&mut self.b.client()).unwrap();
            eventually("it to be written off at a", PATIENCE, || {
                let there: Option<u64> =
                    redis::cmd("GET").arg("round").query(&mut self.a.client()).unwrap();
                there == Some(round) && self.sidecar_a.info_duplex()["write_off_pending"] == "0"
            });
            conflicts() == before && before.contains(",open=0,")
        });
    }

    /// Waits until both servers hold the same, and panics with the first differences if that is
    /// not so within `limit`.
    #[track_caller]
    pub fn wait_equal(&self, limit: Duration) {
        wait_equal(&self.a, &self.b, limit);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Neither is to log that the other is gone.
        self.sidecar_a.freeze();
        self.sidecar_b.freeze();
    }
}

/// Waits until two servers hold the same, twice in a row: units of a burst that are still under
/// way would else be missed when both sides happen to agree.
#[track_caller]
pub fn wait_equal(a: &RedisServer, b: &RedisServer, limit: Duration) {
    let began = Instant::now();
    let mut equal = 0;
    loop {
        let found = differences(a, b);
        equal = if found.is_empty() { equal + 1 } else { 0 };
        if equal == 2 {
            return;
        }
        assert!(
            began.elapsed() < limit || found.is_empty(),
            "after {limit:?} the servers differ in {} places:\n{}",
            found.len(),
            found[..found.len().min(SHOWN)].join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
