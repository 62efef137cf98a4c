//! Writes of many kinds, counted exactly: each step is one unit of the replication stream.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::batch::Batch;
use crate::redis::Connection;

/// Kinds of steps; see [`Writer::step`].
const KINDS: u64 = 18;
/// Keys of each kind; they are used again and again.
const KEYS: u64 = 50;
/// How often a batch is written.
const TICK: Duration = Duration::from_millis(20);

/// Writes on one side, on keys of its own.
#[derive(Debug)]
pub struct Writer {
    prefix: String,
    next: u64,
}

impl Writer {
    /// A writer whose keys begin with `live:<site>:`.
    pub fn new(site: &str) -> Self {
        Self { prefix: format!("live:{site}"), next: 0 }
    }

    /// Units written so far: commands that took effect, a transaction or script counting one.
    pub fn units(&self) -> u64 {
        self.next
    }

    /// The next `units` units, as commands.
    pub fn batch(&mut self, units: u64) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..units {
            self.step(&mut batch);
            self.next += 1;
        }
        batch
    }

    /// Commands of one unit. None of them can be without effect: what they change was made by an
    /// earlier step of the same round.
    fn step(&self, batch: &mut Batch) {
        let round = self.next / KINDS;
        let key = |kind: &str| format!("{}:{kind}:{}", self.prefix, round % KEYS);
        let n = round.to_string();
        match self.next % KINDS {
            0 => batch.add(&["SET", &key("text"), &n]),
            1 => batch.add(&["INCR", &key("counter")]),
            2 => batch.add(&["HSET", &key("hash"), &format!("f{}", round % 100), &n]),
            3 => batch.add(&["LPUSH", &key("list"), &n, "again"]),
            4 => batch.add(&["SADD", &key("set"), &n, &format!("also-{n}")]),
            5 => batch.add(&["ZADD", &key("zset"), &n, &n]),
            6 => batch.add(&["XADD", &key("stream"), "MAXLEN", "100", "*", "n", &n]),
            7 => batch.add(&["SET", &key("expiring"), &n, "EX", "3600"]),
            8 => batch.add(&["APPEND", &key("text"), "+"]),
            9 => batch.add(&["PEXPIRE", &key("counter"), &(3_600_000 + round % 1000).to_string()]),
            10 => batch.add(&["SET", &key("short"), &n]),
            11 => batch.add(&["DEL", &key("short")]),
            12 => batch.add(&["RPOP", &key("list")]),
            13 => batch.add(&["SPOP", &key("set")]),
            14 => batch.add(&["HINCRBYFLOAT", &key("hash"), "sum", "0.5"]),
            15 => {
                batch.add(&["MULTI"]);
                batch.add(&["SET", &key("pair1"), &n]);
                batch.add(&["SET", &key("pair2"), &n]);
                batch.add(&["EXEC"]);
            }
            16 => {
                let script = "redis.call('SET', KEYS[1], ARGV[1]); redis.call('INCR', KEYS[2])";
                batch.add(&["EVAL", script, "2", &key("script1"), &key("script2"), &n]);
            }
            _ => {
                batch.add(&["SELECT", "3"]);
                batch.add(&["SET", &key("text"), &n]);
                batch.add(&["SELECT", "0"]);
            }
        }
    }

    /// Writes at `rate` units a second until `end`, telling after each batch how many there are.
    pub async fn write_until(
        &mut self,
        connection: &mut Connection,
        rate: u32,
        end: Instant,
        written: impl Fn(u64),
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            ticks.tick().await;
            let due = start.elapsed().as_millis() * u128::from(rate) / 1000;
            let due = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.next);
            // A Redis that can't keep up gets less, not all that was missed at once.
            let due = due.min(u64::from(rate / 10).max(1));
            if due > 0 {
                self.batch(due).send(connection).await?;
                written(self.next);
            }
        }
        Ok(())
    }
}
