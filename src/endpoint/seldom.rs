//! Telling of what anyone can make happen as often as they like.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often it is told at most.
const TOLD_EACH: Duration = Duration::from_secs(1);

/// Counts events of a kind, so that one line a second tells of all.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Told>);

#[derive(Default)]
struct Told {
    last: Option<Instant>,
    /// How many were not told of since then.
    untold: u64,
}

impl Seldom {
    /// Counts one; if it is to be told of, how many before it were not.
    pub(super) fn counted(&self) -> Option<u64> {
        self.0.lock().counted(Instant::now())
    }
}

impl Told {
    fn counted(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < TOLD_EACH) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_all() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert_eq!(told.counted(now), Some(0));
        assert_eq!(told.counted(now), None);
        assert_eq!(told.counted(now + TOLD_EACH / 2), None);
        assert_eq!(told.counted(now + TOLD_EACH), Some(2));
        assert_eq!(told.counted(now + TOLD_EACH), None);
    }
}
