//! Watches whether the backlog of the local Redis holds what is written within a minute: only so
//! long a break of our connection is without a full sync for sure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::observe::{Problems, SourceStatus};
use crate::position::Position;
use crate::redis::{
    Connection, InfoText, LEAST_COVER, RedisError, Target, advised_backlog_mib, info,
};

/// How often Redis is asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Asks the local Redis how much it writes and how much it keeps, until `stop`.
pub async fn watch_backlog(
    target: Target,
    status: Arc<SourceStatus>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    let mut minute = BusiestMinute::default();
    let mut alarm = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = ask(&target, &mut connection) => answer,
        };
        let Some((position, size)) = answer else { continue };
        minute.add(Instant::now(), position);
        status.backlog_bytes.store(size, Ordering::Relaxed);
        status.busiest_minute_bytes.store(minute.bytes, Ordering::Relaxed);
        if status.is_backlog_small() != alarm {
            alarm = !alarm;
            tell(alarm, size, minute.bytes, &problems);
        }
    }
}

fn tell(alarm: bool, size: u64, minute: u64, problems: &Problems) {
    if !alarm {
        info!(size, minute, "repl-backlog-size of the local redis is large enough now");
        return;
    }
    let advice = advised_backlog_mib(minute / LEAST_COVER.as_secs());
    let text = format!(
        "repl-backlog-size is too small: it holds {size} bytes, and {minute} were written within a \
         minute; after a short break both sites would take a full sync: \
         CONFIG SET repl-backlog-size {advice}mb"
    );
    warn!("{text}");
    problems.add("source", text);
}

/// Where the local Redis stands, and the size of its backlog; none if it does not say, and the
/// source tells of that.
async fn ask(target: &Target, connection: &mut Option<Connection>) -> Option<(Position, u64)> {
    let asked: Result<InfoText, RedisError> = async {
        let open = match connection.take() {
            Some(open) => open,
            None => Connection::open(target).await?,
        };
        info(connection.insert(open), "replication").await
    }
    .await;
    match asked {
        Ok(info) => Some((info.position()?, u64::try_from(info.number("repl_backlog_size")).ok()?)),
        Err(error) => {
            debug!(%error, "the backlog is not looked at");
            *connection = None;
            None
        }
    }
}

/// How much was written in the minute in which most was.
#[derive(Debug, Default)]
struct BusiestMinute {
    samples: VecDeque<(Instant, Position)>,
    bytes: u64,
}

impl BusiestMinute {
    fn add(&mut self, now: Instant, position: Position) {
        let other = |(_, last): &(Instant, Position)| {
            last.replid != position.replid || last.offset > position.offset
        };
        if self.samples.back().is_some_and(other) {
            self.samples.clear();
        }
        self.samples.push_back((now, position));
        while self.samples.front().is_some_and(|(at, _)| now - *at > LEAST_COVER) {
            self.samples.pop_front();
        }
        if let Some((_, first)) = self.samples.front() {
            self.bytes = self.bytes.max(position.offset.0 - first.offset.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Offset, ReplicationId};

    #[test]
    fn the_busiest_minute_counts() {
        let (one, other) = (ReplicationId::random(), ReplicationId::random());
        let began = Instant::now();
        let mut minute = BusiestMinute::default();
        let mut add = |seconds, replid, offset| {
            let position = Position { replid, offset: Offset(offset) };
            minute.add(began + Duration::from_secs(seconds), position);
            minute.bytes
        };
        // What was there before counts for nothing.
        assert_eq!(add(0, one, 1_000_000), 0);
        assert_eq!(add(30, one, 1_000_500), 500);
        assert_eq!(add(60, one, 1_000_900), 900);
        // The first has left the minute, and the one before was busier.
        assert_eq!(add(90, one, 1_001_000), 900);
        // Another history begins elsewhere.
        assert_eq!(add(100, other, 5_000_000), 900);
        assert_eq!(add(101, other, 5_002_000), 2000);
        assert_eq!(add(102, other, 4_000_000), 2000);
    }
}
