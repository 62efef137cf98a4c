//! Waiting between tries: longer each time, with jitter, up to a bound, for ever.

use std::time::Duration;

/// Doubles from a first to a longest wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Of these bounds.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// For connections: 100 ms to 5 s.
    pub fn for_connections() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// How long to wait before the next try: between half of the bound and the bound, so that
    /// many who lost the same server do not come back at the same moment.
    pub fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.longest);
        bound.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It worked: the next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::for_connections();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(100));
        assert!(waits[11] >= Duration::from_millis(2500) && waits[11] <= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(100));
    }
}
