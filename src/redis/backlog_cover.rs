//! How long a replication backlog lasts: what a replica that is away may miss and still go on.

use std::time::Duration;

/// A backlog that covers less than this is told as too small: a restart of the sidecar or a cut of
/// some seconds must not end in a full sync at both sites.
pub const LEAST_COVER: Duration = Duration::from_mins(1);
/// What a backlog of the advised size covers.
const ADVISED_COVER: Duration = Duration::from_mins(5);
/// Advised sizes are whole multiples of this.
const STEP: u64 = 16 << 20;

/// How long a backlog of `size` bytes lasts at `rate` bytes a second; none when nothing is written.
pub fn backlog_cover(size: u64, rate: u64) -> Option<Duration> {
    Some(Duration::from_secs(size.checked_div(rate)?))
}

/// A size, in MiB, that covers minutes at `rate` bytes a second.
pub fn advised_backlog_mib(rate: u64) -> u64 {
    let bytes = rate.saturating_mul(ADVISED_COVER.as_secs()).max(STEP);
    bytes.div_ceil(STEP) * (STEP >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_sizes() {
        assert_eq!(backlog_cover(1 << 20, 0), None);
        assert_eq!(backlog_cover(1 << 20, 1 << 19), Some(Duration::from_secs(2)));
        assert_eq!(advised_backlog_mib(0), 16);
        assert_eq!(advised_backlog_mib(1 << 20), 304);
        assert!(backlog_cover(304 << 20, 1 << 20).is_some_and(|cover| cover >= ADVISED_COVER));
    }
}
