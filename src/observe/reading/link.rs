//! Of a link, its conflicts, and the full sync that runs on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::{load, millis};
use crate::conflict::Conflicts;
use crate::observe::{LinkState, LinkStatus, Snapshot};

/// Of one link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkReading {
    /// The peer.
    pub site: String,
    /// Its sidecar.
    pub addr: String,
    /// `connecting`, `full_sync`, `streaming`, `waiting` or `stopped`.
    pub state: &'static str,
    /// Why it is not streaming; empty when there is nothing to say.
    pub reason: String,
    /// `<replid>:<offset>` up to where the peer's units are applied; empty before any.
    pub checkpoint: String,
    /// The offset in it.
    pub offset: Option<u64>,
    /// The peer's stream offset as told last.
    pub peer_offset: u64,
    /// How far behind the peer, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Units applied.
    pub units: u64,
    /// Commands applied.
    pub commands: u64,
    /// Bytes applied.
    pub bytes: u64,
    /// Batches applied.
    pub batches: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Commands refused for good.
    pub errors: u64,
    /// Sessions begun.
    pub connects: u64,
    /// Full syncs begun.
    pub full_syncs: u64,
    /// Bytes received and not applied.
    pub queued_bytes: u64,
    /// How many there may be; then the connection is not read on.
    pub queue_max_bytes: u64,
    /// How far the peer's clock is ahead of ours, in milliseconds.
    pub clock_skew_ms: i64,
    /// Keys that both sites wrote at once.
    pub conflicts: ConflictReading,
    /// The full sync that runs now.
    pub snapshot: Option<SnapshotReading>,
}

/// Of the conflicts with a peer.
#[derive(Debug, Clone, Serialize)]
pub struct ConflictReading {
    /// Found, each key of each unit.
    pub found: u64,
    /// The peer's write was older than a local one that leaves nothing of it.
    pub rejected_older: u64,
    /// The peer's delete met a local write.
    pub rejected_deletes: u64,
    /// The primary's word was outdated when it came.
    pub outdated: u64,
    /// Keys whose state was sent to the peer.
    pub repaired: u64,
    /// Their bytes.
    pub repaired_bytes: u64,
    /// Keys that wait to be read and sent.
    pub open: u64,
    /// Keys with writes that the peer has not seen.
    pub unseen_keys: u64,
    /// How many there may be.
    pub max_keys: u64,
}

/// Of a full sync that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotReading {
    /// Bytes read.
    pub bytes: u64,
    /// Keys read.
    pub keys: u64,
    /// Keys that the peer had when it began.
    pub expected_keys: u64,
    /// Keys read in a second, on average.
    pub keys_per_second: u64,
    /// Seconds to go at this speed; none before the first second.
    pub eta_seconds: Option<u64>,
}

impl LinkReading {
    pub(in crate::observe) fn of(link: &LinkStatus, both: &Conflicts) -> Self {
        let (state, reason) = match link.state() {
            LinkState::Connecting(reason) => ("connecting", reason),
            LinkState::FullSync => ("full_sync", String::new()),
            LinkState::Streaming => ("streaming", String::new()),
            LinkState::Waiting(reason) => ("waiting", reason),
            LinkState::Paused => ("paused", "until DUPLEX RESUME or a restart".to_owned()),
            LinkState::Stopped(reason) => ("stopped", reason),
        };
        let checkpoint = link.checkpoint();
        Self {
            site: link.site.to_string(),
            addr: link.addr.clone(),
            state,
            reason,
            checkpoint: checkpoint.map(|position| position.to_string()).unwrap_or_default(),
            offset: checkpoint.map(|position| position.offset.0),
            peer_offset: load(&link.peer_offset),
            lag_ms: link.lag_millis(),
            units: load(&link.units),
            commands: load(&link.commands),
            bytes: load(&link.bytes),
            batches: load(&link.batches),
            retries: load(&link.retries),
            errors: load(&link.errors),
            connects: load(&link.connects),
            full_syncs: load(&link.full_syncs),
            queued_bytes: load(&link.queued_bytes),
            queue_max_bytes: link.queue_max_bytes,
            clock_skew_ms: link.clock_skew_millis.load(Ordering::Relaxed),
            conflicts: ConflictReading::of(both),
            snapshot: link.snapshot().filter(|s| !s.done).map(|snapshot| {
                let took = snapshot.since.elapsed();
                SnapshotReading::of(&snapshot, took)
            }),
        }
    }
}

impl ConflictReading {
    fn of(both: &Conflicts) -> Self {
        let recent = &both.recent;
        Self {
            found: load(&recent.found),
            rejected_older: load(&recent.rejected_older),
            rejected_deletes: load(&recent.rejected_deletes),
            outdated: load(&recent.outdated),
            repaired: load(&recent.repaired),
            repaired_bytes: load(&recent.repaired_bytes),
            open: both.repairs.len() as u64,
            unseen_keys: both.unseen_keys() as u64,
            max_keys: both.max_keys as u64,
        }
    }
}

impl SnapshotReading {
    pub(in crate::observe) fn of(snapshot: &Snapshot, took: Duration) -> Self {
        let took = u128::from(millis(took).max(1));
        let speed = u64::try_from(u128::from(snapshot.keys) * 1000 / took).unwrap_or(u64::MAX);
        let missing = snapshot.expected_keys.saturating_sub(snapshot.keys);
        Self {
            bytes: snapshot.bytes,
            keys: snapshot.keys,
            expected_keys: snapshot.expected_keys,
            keys_per_second: speed,
            eta_seconds: if took < 1000 { None } else { missing.checked_div(speed) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_full_sync_tells_speed_and_time_to_go() {
        let mut snapshot = Snapshot {
            since: Instant::now(),
            bytes: 1,
            keys: 500,
            expected_keys: 2000,
            done: false,
        };
        let reading = SnapshotReading::of(&snapshot, Duration::from_secs(5));
        assert_eq!((reading.keys_per_second, reading.eta_seconds), (100, Some(15)));
        let early = SnapshotReading::of(&snapshot, Duration::from_millis(10));
        assert_eq!(early.eta_seconds, None);
        snapshot.keys = 0;
        let slow = SnapshotReading::of(&snapshot, Duration::from_secs(5));
        assert_eq!((slow.keys_per_second, slow.eta_seconds), (0, None));
    }
}
