//! One reading of all numbers of a site.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::{FollowerStatus, LinkState, LinkStatus, Snapshot, SourceState, SourceStatus};
use crate::conflict::Conflicts;
use crate::endpoint::PortStatus;
use crate::journal::JournalStatus;
use crate::write_off::WriteOffSet;

/// One reading of a [`Board`](super::Board). What inspection commands, metrics and HTTP show comes from here, so
/// that they agree.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    /// Version of redis-duplex.
    pub version: &'static str,
    /// What it speaks on links.
    pub link_protocol: u32,
    /// This site.
    pub site: String,
    /// The site whose data wins; empty without peers.
    pub primary: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The source.
    pub source: SourceReading,
    /// The write-off set.
    pub write_off: WriteOffReading,
    /// The journal.
    pub journal: JournalReading,
    /// The links.
    pub links: Vec<LinkReading>,
    /// Who reads from us.
    pub followers: Vec<FollowerReading>,
    /// Problems since the start.
    pub problems: u64,
    /// Who is at the port.
    pub port: PortReading,
}

/// Of the port, and of `[listen] local_addr` with it.
#[derive(Debug, Clone, Serialize)]
pub struct PortReading {
    /// Connections that are served now, replicas and links among them.
    pub clients: u64,
    /// How many there may be.
    pub max_clients: u64,
    /// Connections turned away since the start.
    pub turned_away: u64,
    /// Wrong users and passwords since the start.
    pub login_failures: u64,
}

/// Of the source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceReading {
    /// `connecting`, `resyncing` or `online`.
    pub state: &'static str,
    /// Why it is not there; empty when nothing failed.
    pub error: String,
    /// Attached without a snapshot, from the end of the stream.
    pub attached_free: u64,
    /// Attached where it had left off.
    pub attached_again: u64,
    /// Attached by a full resync.
    pub attached_full: u64,
    /// Bytes of the stream read.
    pub stream_bytes: u64,
    /// Local units taken.
    pub local_units: u64,
    /// Their bytes.
    pub local_bytes: u64,
    /// Echoes dropped.
    pub echoes: u64,
    /// Size of the local Redis's backlog; 0 before it is known.
    pub backlog_bytes: u64,
    /// Bytes written to its stream in the busiest minute.
    pub busiest_minute_bytes: u64,
    /// Whether that is more than the backlog holds.
    pub backlog_alarm: bool,
}

/// Of the write-off set.
#[derive(Debug, Clone, Serialize)]
pub struct WriteOffReading {
    /// Tags in flight.
    pub pending: u64,
    /// How many there may be; then writers wait.
    pub max_pending: u64,
    /// Age of the oldest, in milliseconds.
    pub oldest_ms: u64,
    /// Whether that is an alarm.
    pub alarm: bool,
    /// Tags given out.
    pub issued: u64,
    /// Batches written off.
    pub settled: u64,
    /// Marks of an earlier session.
    pub earlier: u64,
    /// Tags taken out without their mark.
    pub given_up: u64,
}

/// Of the journal.
#[derive(Debug, Clone, Serialize)]
pub struct JournalReading {
    /// Id of the local Redis's history.
    pub replid: String,
    /// The stream up to here is in the journal, in bytes of the local Redis.
    pub offset: u64,
    /// Where the oldest unit begins, likewise.
    pub first_offset: u64,
    /// Units taken since the start.
    pub units: u64,
    /// Blocks kept.
    pub blocks: u64,
    /// Bytes kept.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub max_bytes: u64,
    /// Bytes of recent blocks that are in memory too.
    pub cached_bytes: u64,
    /// Bytes that they may take.
    pub cache_max_bytes: u64,
    /// The id that followers know the history by.
    pub follower_id: String,
    /// Where followers' bytes end.
    pub follower_offset: u64,
    /// Where followers' bytes begin.
    pub follower_first_offset: u64,
}

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

/// Of one connection that reads from us.
#[derive(Debug, Clone, Serialize)]
pub struct FollowerReading {
    /// Its address.
    pub addr: String,
    /// `replica` or `link <site>`.
    pub kind: String,
    /// Up to where it was sent bytes.
    pub sent: u64,
    /// What it acknowledged.
    pub acknowledged: u64,
}

impl Reading {
    /// Why the site can't be called in sync with all peers; none when it can.
    pub fn not_ready(&self) -> Option<String> {
        if self.source.state != "online" {
            return Some(format!("source is {}{}", self.source.state, tail(&self.source.error)));
        }
        let link = self.links.iter().find(|link| link.state != "streaming")?;
        Some(format!("link {} is {}{}", link.site, link.state, tail(&link.reason)))
    }
}

impl Reading {
    /// How far the slowest follower is behind the end of the journal, in its bytes; links tell
    /// their own lag.
    pub fn followers_behind(&self) -> u64 {
        let followers = self.followers.iter().filter(|other| !other.kind.starts_with("link "));
        let behind = followers.map(|other| self.journal.follower_offset.saturating_sub(other.sent));
        behind.max().unwrap_or(0)
    }
}

fn tail(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl SourceReading {
    pub(super) fn of(source: &SourceStatus) -> Self {
        let (state, error) = match source.state() {
            SourceState::Connecting(error) => ("connecting", error),
            SourceState::Resyncing => ("resyncing", String::new()),
            SourceState::Online => ("online", String::new()),
        };
        Self {
            state,
            error,
            attached_free: load(&source.attached_free),
            attached_again: load(&source.attached_again),
            attached_full: load(&source.attached_full),
            stream_bytes: load(&source.stream_bytes),
            local_units: load(&source.local_units),
            local_bytes: load(&source.local_bytes),
            echoes: load(&source.echoes),
            backlog_bytes: load(&source.backlog_bytes),
            busiest_minute_bytes: load(&source.busiest_minute_bytes),
            backlog_alarm: source.is_backlog_small(),
        }
    }
}

impl WriteOffReading {
    pub(super) fn of(set: &WriteOffSet) -> Self {
        let status = set.status();
        Self {
            pending: status.pending as u64,
            max_pending: status.max_pending as u64,
            oldest_ms: millis(status.oldest),
            alarm: status.alarm,
            issued: status.issued,
            settled: status.settled,
            earlier: status.earlier,
            given_up: status.given_up,
        }
    }
}

impl JournalReading {
    pub(super) fn of(status: &JournalStatus) -> Self {
        Self {
            replid: status.head.position.replid.to_string(),
            offset: status.head.position.offset.0,
            first_offset: status.first.offset.0,
            units: status.head.units,
            blocks: status.cached_blocks as u64,
            bytes: status.bytes,
            max_bytes: status.max_bytes,
            cached_bytes: status.cached_bytes as u64,
            cache_max_bytes: status.max_cached_bytes as u64,
            follower_id: status.follower_id.to_string(),
            follower_offset: status.head.follower.0,
            follower_first_offset: status.first_follower.0,
        }
    }
}

impl LinkReading {
    pub(super) fn of(link: &LinkStatus, both: &Conflicts) -> Self {
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

impl PortReading {
    pub(super) fn of(status: &PortStatus, max_clients: u64) -> Self {
        Self {
            clients: load(&status.clients),
            max_clients,
            turned_away: load(&status.turned_away),
            login_failures: load(&status.login_failures),
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
    pub(super) fn of(snapshot: &Snapshot, took: Duration) -> Self {
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

impl FollowerReading {
    pub(super) fn of(follower: &FollowerStatus) -> Self {
        Self {
            addr: follower.addr.clone(),
            kind: follower.kind.clone(),
            sent: load(&follower.sent),
            acknowledged: load(&follower.acknowledged),
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
