//! When something happened that was written while nobody read the stream.

use super::attach::Resume;
use crate::clock::Timestamp;
use crate::position::Offset;
use crate::redis::ServerInfo;

/// The part of the stream that was there before we were, and between which moments it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    from: Offset,
    to: Offset,
    /// The moment where it begins; 0 if nothing is known of it.
    pub since: Timestamp,
}

impl Gap {
    /// What the server had written behind `start` when it was asked.
    pub(super) fn new(server: &ServerInfo, start: Resume) -> Self {
        let to = server.info.position().map_or(start.position.offset, |now| now.offset);
        Self { from: start.position.offset, to, since: start.time }
    }

    /// Nothing was missed.
    pub(super) fn none(at: Offset) -> Self {
        Self { from: at, to: at, since: Timestamp::default() }
    }

    /// When what ends at `end` was written, as if all of it had come evenly until `now`; `None`
    /// behind the gap, and if nothing is known.
    pub(super) fn moment(&self, end: Offset, now: Timestamp) -> Option<Timestamp> {
        if end > self.to || self.since == Timestamp::default() || now <= self.since {
            return None;
        }
        let (passed, all) = (end.0.saturating_sub(self.from.0), self.to.0 - self.from.0);
        let time = u128::from(now.0 - self.since.0) * u128::from(passed) / u128::from(all.max(1));
        Some(Timestamp(self.since.0 + u64::try_from(time).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_evenly_between_the_last_time_and_now() {
        let at = Timestamp::from_unix_millis;
        let gap = Gap { from: Offset(100), to: Offset(300), since: at(1000) };
        assert_eq!(gap.moment(Offset(100), at(2000)), Some(at(1000)));
        assert_eq!(gap.moment(Offset(200), at(2000)), Some(at(1500)));
        assert_eq!(gap.moment(Offset(300), at(2000)), Some(at(2000)));
        assert_eq!(gap.moment(Offset(301), at(2000)), None);
        // A clock that went back tells nothing.
        assert_eq!(gap.moment(Offset(200), at(900)), None);
        assert_eq!(Gap { since: Timestamp::default(), ..gap }.moment(Offset(200), at(5)), None);
        assert_eq!(Gap::none(Offset(100)).moment(Offset(101), at(5)), None);
    }
}
