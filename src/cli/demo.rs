//! `redis-duplex demo`: the whole thing on one machine, with proof.

mod batch;
mod fill;
mod load;
mod proof;
mod stage;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Failure;
use super::screen::Screen;
use super::signals::Signals;
use crate::observe::text::{millis, number, table};
use crate::redis::{Connection, Target};
use crate::verify::{Options, verify};

pub use batch::Batch;
pub use fill::fill;
pub use load::Writer;
pub use proof::{Claim, Counted, Evidence, claims};
pub use stage::{Side, Stage, find_redis_server};
pub use watch::{Sample, Watch, count_keys, stream_offset};

/// How long both Redis must stand still.
const STILL: Duration = Duration::from_secs(2);

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How long to write on both sides
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many writes a second on each side
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The server to start, of Redis or Valkey [default: redis-server on the PATH]
    #[arg(long, value_name = "FILE")]
    redis_server: Option<PathBuf>,
}

impl Demo {
    pub(super) async fn execute(self) -> Result<ExitCode, Failure> {
        let mut signals = Signals::new()?;
        let server = find_redis_server(self.redis_server.as_deref())?;
        let ended = |signal| anyhow!("ended by {signal}; all is cleaned up");
        // A start that is given up takes with it what it had started.
        let mut stage = tokio::select! {
            stage = Stage::start(&server) => stage?,
            signal = signals.next() => return Err(ended(signal).into()),
        };
        let mut screen = Screen::stdout();
        let played = tokio::select! {
            played = self.play(&mut stage, &mut screen) => played,
            signal = signals.next() => Err(ended(signal)),
        };
        if !matches!(played, Ok(true)) {
            // Their logs go with the directory.
            for line in stage.complaints() {
                screen.text(&line).context("stdout")?;
            }
        }
        let stopped = stage.stop().await;
        let proven = played?;
        stopped?;
        if !proven {
            return Err(anyhow!("not everything was proven, see the lines with NO").into());
        }
        screen.text(NEXT).context("stdout")?;
        Ok(ExitCode::SUCCESS)
    }

    /// The whole play; whether everything was proven.
    async fn play(&self, stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<bool> {
        let sides = stage.sides.clone();
        let mut redis = open(&sides).await?;
        let [a, b] = &mut redis;
        tokio::try_join!(fill(a, sides[0].site), fill(b, sides[1].site))?;
        screen.text(&opening(&sides, [count_keys(a).await?, count_keys(b).await?]))?;

        let program = std::env::current_exe().context("can't find this program's own file")?;
        stage.start_sidecars(&program)?;
        let mut shown = [String::new(), String::new()];
        let mut watch = Watch::until_in_sync(stage, |states| {
            if shown.iter().zip(states).all(|(shown, state)| shown == state) {
                return Ok(());
            }
            shown = states.map(str::to_owned);
            screen.live(&[format!("  a's link: {}   b's link: {}", states[0], states[1])])
        })
        .await?;
        let before = watch.until_quiet(|_| true).await?;
        let keys = [count_keys(a).await?, count_keys(b).await?];
        screen.text(&format!(
            "In sync: a now has {} keys, b has {}.\n\nNow both sides write for {} s, {} writes a \
             second each, all kinds of commands.\n\"applied there\" is what the other side took over; \
             each such batch is written off there\nwhen it comes back in the stream, so nothing loops.\n",
            number(keys[0]),
            number(keys[1]),
            self.seconds,
            number(u64::from(self.rate))
        ))?;
        let written = self.write(&mut redis, &mut watch, before, screen).await?;

        screen.text("\nThe writers have stopped. Waiting until all is quiet, then comparing.\n")?;
        let evidence = gather(&sides, &mut redis, &mut watch, Ran { before, written }).await?;
        stage.check()?;
        let claims = claims(&evidence);
        screen.text(&proof::show(&claims))?;
        Ok(claims.iter().all(|claim| claim.holds))
    }

    /// Writes on both sides at once and shows what becomes of it; how many units were written.
    async fn write(
        &self,
        redis: &mut [Connection; 2],
        watch: &mut Watch,
        before: [Sample; 2],
        screen: &mut Screen,
    ) -> anyhow::Result<[u64; 2]> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let written = [AtomicU64::new(0), AtomicU64::new(0)];
        let [a, b] = redis;
        let (mut writer_a, mut writer_b) = (Writer::new("a"), Writer::new("b"));
        let tell = |side: usize| {
            let written = &written[side];
            move |units| written.store(units, Ordering::Relaxed)
        };
        let write = async {
            let a = writer_a.write_until(a, self.rate, end, tell(0));
            let b = writer_b.write_until(b, self.rate, end, tell(1));
            tokio::try_join!(a, b).map(|_| ())
        };
        let show = async {
            let mut ticks = interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let now = watch.sample().await?;
                let written = [0, 1].map(|side: usize| written[side].load(Ordering::Relaxed));
                screen.live(&progress(written, before, now))?;
            }
        };
        tokio::select! {
            done = write => done?,
            failed = show => return failed,
        }
        let units = [writer_a.units(), writer_b.units()];
        screen.live(&progress(units, before, watch.sample().await?))?;
        Ok(units)
    }
}

async fn open(sides: &[Side; 2]) -> anyhow::Result<[Connection; 2]> {
    let (a, b) = (Target::open(&sides[0].redis), Target::open(&sides[1].redis));
    let (a, b) = tokio::try_join!(Connection::open(&a), Connection::open(&b))?;
    Ok([a, b])
}

/// What was written, and the numbers before.
struct Ran {
    before: [Sample; 2],
    written: [u64; 2],
}

/// Waits for quiet and counts everything.
async fn gather(
    sides: &[Side; 2],
    redis: &mut [Connection; 2],
    watch: &mut Watch,
    ran: Ran,
) -> anyhow::Result<Evidence> {
    let Ran { before, written } = ran;
    let applied = |now: &[Sample; 2], by: usize| now[by].applied.saturating_sub(before[by].applied);
    let all = |now: &[Sample; 2]| applied(now, 1) >= written[0] && applied(now, 0) >= written[1];
    watch.until_quiet(all).await?;
    let [a, b] = redis;
    let offsets = [stream_offset(a).await?, stream_offset(b).await?];
    let still = Instant::now();
    let (at_a, at_b) = (Target::open(&sides[0].redis), Target::open(&sides[1].redis));
    let report = verify(&at_a, &at_b, &Options::default(), |_| {}).await?;
    // Waiting is the measurement: that nothing happens can only be seen over time.
    sleep(STILL.saturating_sub(still.elapsed())).await;
    let grown = [stream_offset(a).await? - offsets[0], stream_offset(b).await? - offsets[1]];
    let still_for = still.elapsed();
    let now = watch.sample().await?;
    let keys = [count_keys(a).await?, count_keys(b).await?];
    let counted = |side: usize| Counted {
        written: written[side],
        local_units: now[side].local_units.saturating_sub(before[side].local_units),
        applied_there: applied(&now, 1 - side),
        pending: now[side].pending,
        keys: keys[side],
        grown: grown[side],
    };
    Ok(Evidence {
        sides: [0, 1].map(|side: usize| (sides[side].site.to_owned(), counted(side))),
        still_for,
        verified: (report.compared, report.different + report.only_a + report.only_b),
    })
}

fn opening(sides: &[Side; 2], keys: [u64; 2]) -> String {
    let row = |side: &Side, keys| {
        vec![side.site.to_owned(), side.redis.clone(), side.sidecar.clone(), number(keys)]
    };
    let rows = [row(&sides[0], keys[0]), row(&sides[1], keys[1])];
    format!(
        "Two stock Redis, each with data of its own in databases 0 and 3, some keys in both:\n\n{}\n\
         Look yourself meanwhile: redis-duplex status -w {}\n\n\
         Each sidecar reads its Redis as a replica and takes over what the other has.\n\
         Where both have a key, the primary's value stays: a's.\n",
        table(&["site", "redis", "sidecar", "keys"], &rows),
        sides[0].sidecar
    )
}

/// One line a direction.
fn progress(written: [u64; 2], before: [Sample; 2], now: [Sample; 2]) -> Vec<String> {
    let line = |from: usize, name: &str| {
        let to = 1 - from;
        let applied = now[to].applied.saturating_sub(before[to].applied);
        let off = now[to].written_off.saturating_sub(before[to].written_off);
        format!(
            "  {name}  written here {:>9}   applied there {:>9}   written off {:>7}   lag {}",
            number(written[from]),
            number(applied),
            number(off),
            now[to].lag_ms.map_or_else(|| "?".to_owned(), millis)
        )
    };
    vec![line(0, "a -> b"), line(1, "b -> a")]
}

/// Where to go from here.
const NEXT: &str = "
All proven; both Redis, both sidecars and their files are gone again.
Next: README.md shows how to set it up between two Redis of your own;
conf/redis-duplex.toml is a configuration to begin with, `redis-duplex run -c FILE` runs it.
";
