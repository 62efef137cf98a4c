//! What both sidecars and both Redis say of themselves while the demo runs.

use std::time::Duration;

use anyhow::{Context, bail};
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::{Instant, sleep};

use super::stage::{LOOK, Side, Stage};
use crate::cli::status::duplex_info;
use crate::redis::{Connection, InfoText, RedisError, ServerInfo, Target};
use crate::write_off::CHECKPOINT_KEY;

/// How long the first synchronization may take.
const SYNC_LIMIT: Duration = Duration::from_mins(1);
/// How long the last writes may take to arrive.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// So many looks without a change are quiet.
const QUIET_LOOKS: u32 = 5;

/// One side's numbers at one moment, from `INFO duplex` of its sidecar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Local units.
    pub local_units: u64,
    /// Units of the other side applied here.
    pub applied: u64,
    /// Batches written off here.
    pub written_off: u64,
    /// Tags in flight here.
    pub pending: u64,
    /// How far this side is behind the other, in milliseconds.
    pub lag_ms: Option<u64>,
}

impl Sample {
    fn of(info: &InfoText, peer: &str) -> Self {
        let number = |name: &str| info.get(name).parse().ok();
        let count = |name: &str| number(name).unwrap_or(0);
        Self {
            local_units: count("local_units"),
            applied: count(&format!("link_{peer}_units")),
            written_off: count("write_off_settled"),
            pending: count("write_off_pending"),
            lag_ms: number(&format!("link_{peer}_lag_ms")),
        }
    }

    /// Without what changes by itself.
    fn work(self) -> Self {
        Self { lag_ms: None, ..self }
    }
}

/// Connections to both sidecars.
#[derive(Debug)]
pub struct Watch {
    connections: [Connection; 2],
    sites: [&'static str; 2],
}

impl Watch {
    /// Waits until both sidecars answer and both links stream. `tell` gets both sides' states.
    pub async fn until_in_sync(
        stage: &mut Stage,
        mut tell: impl FnMut([&str; 2]) -> std::io::Result<()>,
    ) -> anyhow::Result<Self> {
        let limit = Instant::now() + SYNC_LIMIT;
        let sides = stage.sides.clone();
        loop {
            stage.check()?;
            let [a, b] = [&sides[0], &sides[1]];
            let (at_a, at_b) = tokio::join!(link(a, b.site), link(b, a.site));
            let said = |told: &Result<_, RedisError>| match told {
                Ok((_, doing)) => String::clone(doing),
                Err(_) => "starting".to_owned(),
            };
            let states = [said(&at_a), said(&at_b)];
            tell([&states[0], &states[1]])?;
            if let (Ok((a, _)), Ok((b, _))) = (at_a, at_b)
                && states.iter().all(|state| state == "streaming")
            {
                return Ok(Self { connections: [a, b], sites: sides.map(|side| side.site) });
            }
            if Instant::now() > limit {
                let [a, b] = states;
                bail!("not in sync after {SYNC_LIMIT:?}: link at a: {a}, link at b: {b}");
            }
            sleep(LOOK).await;
        }
    }

    /// Both sides' numbers, now.
    pub async fn sample(&mut self) -> anyhow::Result<[Sample; 2]> {
        let [a, b] = &mut self.connections;
        let (at_a, at_b) = tokio::try_join!(duplex_info(a), duplex_info(b))
            .context("a sidecar stopped answering")?;
        Ok([Sample::of(&at_a, self.sites[1]), Sample::of(&at_b, self.sites[0])])
    }

    /// Waits until nothing is in flight and nothing changes, and `enough` holds; at most half a
    /// minute: whether it is right then is for the proof to say.
    pub async fn until_quiet(
        &mut self,
        enough: impl Fn(&[Sample; 2]) -> bool,
    ) -> anyhow::Result<[Sample; 2]> {
        let limit = Instant::now() + QUIET_LIMIT;
        let (mut last, mut looks) = (self.sample().await?, 0);
        while looks < QUIET_LOOKS && Instant::now() < limit {
            sleep(LOOK).await;
            let now = self.sample().await?;
            let same = now.map(Sample::work) == last.map(Sample::work);
            let calm = now.iter().all(|side| side.pending == 0) && enough(&now);
            looks = if same && calm { looks + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

/// A connection to a sidecar, and what its link to `peer` is doing.
async fn link(side: &Side, peer: &str) -> Result<(Connection, String), RedisError> {
    let mut connection = Connection::open(&Target::open(&side.sidecar)).await?;
    let info = duplex_info(&mut connection).await?;
    let field = |name: &str| info.get(&format!("link_{peer}_{name}")).to_owned();
    let doing = match field("reason") {
        reason if reason.is_empty() => field("state"),
        reason => format!("{}: {reason}", field("state")),
    };
    Ok((connection, doing))
}

/// Where a Redis's stream stands, in bytes.
pub async fn stream_offset(redis: &mut Connection) -> anyhow::Result<u64> {
    let info = ServerInfo::ask(redis).await?.info;
    Ok(info.position().context("INFO has no master_repl_offset")?.offset.0)
}

/// How many keys a Redis holds, but for the checkpoint.
pub async fn count_keys(redis: &mut Connection) -> anyhow::Result<u64> {
    let mut keys = ServerInfo::ask(redis).await?.info.keys();
    for database in super::fill::DATABASES {
        redis.call(&["SELECT", &database.to_string()]).await?;
        if let BytesFrame::Integer(1) = redis.call(&[b"EXISTS", CHECKPOINT_KEY]).await? {
            keys = keys.saturating_sub(1);
        }
    }
    redis.call(&["SELECT", "0"]).await?;
    Ok(keys)
}
