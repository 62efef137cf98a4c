//! A hybrid logical clock: wall time that never runs backwards and never falls behind a peer.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bits of a [`Timestamp`] below the milliseconds: room for 2^20 events in one millisecond.
const LOGICAL_BITS: u32 = 20;

/// A moment of the hybrid logical clock: unix milliseconds in the upper 44 bits, a counter below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The first moment of this millisecond since 1970.
    pub fn from_unix_millis(millis: u64) -> Self {
        Self(millis << LOGICAL_BITS)
    }

    /// The wall-clock part, in unix milliseconds.
    pub fn unix_millis(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unix_millis(), self.0 & ((1 << LOGICAL_BITS) - 1))
    }
}

/// Milliseconds since 1970 by the system's clock.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The site's clock, shared by the source (which stamps local units) and the links.
#[derive(Debug)]
pub struct Clock {
    last: AtomicU64,
    max_drift: Duration,
}

/// What a peer's clock is believed to be ahead at most, unless told otherwise.
const MAX_DRIFT: Duration = Duration::from_mins(1);

impl Default for Clock {
    fn default() -> Self {
        Self::new(MAX_DRIFT)
    }
}

impl Clock {
    /// A clock that follows others up to `max_drift` ahead of the system's clock.
    pub fn new(max_drift: Duration) -> Self {
        Self { last: AtomicU64::new(0), max_drift }
    }

    /// The latest moment that is believed.
    pub fn latest(&self) -> Timestamp {
        let drift = u64::try_from(self.max_drift.as_millis()).unwrap_or(u64::MAX >> LOGICAL_BITS);
        Timestamp::from_unix_millis(unix_millis().saturating_add(drift))
    }

    /// Whether a clock that differs by so many milliseconds is out of bounds.
    pub fn is_skewed(&self, millis: u64) -> bool {
        u128::from(millis) > self.max_drift.as_millis()
    }

    /// Takes `count` consecutive moments, all later than any given out or seen; the first of them.
    pub fn take(&self, count: u64) -> Timestamp {
        let now = unix_millis() << LOGICAL_BITS;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let first = now.max(last + 1);
            match self.last.compare_exchange_weak(
                last,
                first + count.max(1) - 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Timestamp(first),
                Err(newer) => last = newer,
            }
        }
    }

    /// Moves the clock past a peer's moment, so that what follows it here is later than it; but not
    /// farther ahead than is believed.
    pub fn observe(&self, seen: Timestamp) {
        self.last.fetch_max(seen.min(self.latest()).0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_only_grow_also_past_a_peer_that_is_ahead() {
        let clock = Clock::default();
        let first = clock.take(10);
        let second = clock.take(1);
        assert!(second.0 >= first.0 + 10);
        let ahead = Timestamp::from_unix_millis(unix_millis() + 50_000);
        clock.observe(ahead);
        assert!(clock.take(1) > ahead);
        // A clock that is minutes ahead does not carry others away.
        clock.observe(Timestamp::from_unix_millis(unix_millis() + 600_000));
        assert!(clock.take(1) < Timestamp::from_unix_millis(unix_millis() + 61_000));
    }
}
