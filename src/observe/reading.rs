//! One reading of all numbers of a site.

mod link;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use link::{LinkReading, SnapshotReading};
use serde::Serialize;

use super::{FollowerStatus, SourceState, SourceStatus};
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
