//! What every topic needs: servers, sidecars, pairs of both, a relay with faults, a scripted
//! replica, certificates, and a comparison of two servers.

pub mod canonical;
pub mod certificates;
pub mod compare;
pub mod disk;
pub mod load;
pub mod network;
pub mod pair;
pub mod ports;
pub mod process;
pub mod redis_server;
pub mod relay;
pub mod replica;
pub mod sidecar;
pub mod version;

use std::thread;
use std::time::{Duration, Instant};

/// How long a start, a stop or a small change may take on a busy machine with two cores. Nothing
/// waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a condition: short against a test, long against a look.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds.
///
/// # Panics
/// When it does not hold within `limit`; `what` says in the message what was waited for.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, limit, || condition().then_some(()));
}

/// Polls `attempt` until it gives a value, and returns that value. Panics as [`eventually`] does.
#[track_caller]
pub fn eventually_some<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}
