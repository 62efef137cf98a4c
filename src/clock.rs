//! A hybrid logical clock: wall time that never runs backwards and never falls behind a peer.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// Takes `count` consecutive moments, all later than any given out or seen; the first of them.
    pub fn take(&self, count: u64) -> Timestamp {
        let now = unix_millis() << LOGICAL_BITS;
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let first = now.max(last + 1);
            match self.0.compare_exchange_weak(
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

    /// The present moment, given to nobody.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::from_unix_millis(unix_millis());
        now.max(Timestamp(self.0.load(Ordering::Relaxed)))
    }

    /// Moves the clock past a peer's moment, so that what follows it here is later than it.
    pub fn observe(&self, seen: Timestamp) {
        self.0.fetch_max(seen.0, Ordering::Relaxed);
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
        let ahead = Timestamp((unix_millis() + 60_000) << LOGICAL_BITS);
        clock.observe(ahead);
        assert!(clock.take(1) > ahead);
    }
}
