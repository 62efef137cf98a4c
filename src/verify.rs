//! Comparing two servers key by key: type, value, expiry, and the function libraries.
//!
//! Keys are walked by SCAN, first those at A (each compared with B), then those at B (which of them
//! are not at A). Equal DUMP payloads are equal; others are compared in canonical form. What
//! differs is looked at again after a pause, since data moves. In memory are one batch of keys with
//! their payloads, and a bounded list of keys to look at again.

mod functions;
mod side;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::position::Database;
use crate::redis::{RedisError, Target};
use crate::write_off::CHECKPOINT_KEY;
use side::{Dumped, Side};

/// Keys that wait for another look. More than these are looked at in between.
const MAX_SUSPECTS: usize = 16 * 1024;
/// How much two expiry times may differ, in milliseconds.
const EXPIRY_TOLERANCE: i64 = 1;
/// The same where a server before 7.0 only tells what is left and not the moment: its clock is
/// read just before, in another command.
const RELATIVE_EXPIRY_TOLERANCE: i64 = 10;

/// How to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often a key that differs is looked at again before it counts.
    pub rounds: u32,
    /// How long to wait before each further look.
    pub pause: Duration,
    /// Most differences that are told in words; all are counted.
    pub max_differences: usize,
    /// Keys in one batch.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 3, pause: Duration::from_millis(500), max_differences: 20, batch: 256 }
    }
}

/// How two servers differ in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Database of the key; none for a function library.
    pub database: Option<Database>,
    /// The key or the library's name.
    pub key: Bytes,
    /// What differs.
    pub what: Mismatch,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// B does not have it.
    OnlyA,
    /// A does not have it.
    OnlyB,
    /// Both have it, but not the same; how, in words.
    Differs(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        match self.database {
            Some(database) => write!(f, "db {database} \"{key}\": ")?,
            None => write!(f, "function library \"{key}\": ")?,
        }
        match &self.what {
            Mismatch::OnlyA => f.write_str("only at A"),
            Mismatch::OnlyB => f.write_str("only at B"),
            Mismatch::Differs(how) => f.write_str(how),
        }
    }
}

/// The result. Function libraries count like keys.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All that was compared: the sum of the others.
    pub compared: u64,
    /// The same at both.
    pub equal: u64,
    /// At both, but not the same.
    pub different: u64,
    /// At A alone.
    pub only_a: u64,
    /// At B alone.
    pub only_b: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.different + self.only_a + self.only_b == 0
    }

    fn count(&mut self, difference: Difference, keep: usize) {
        self.compared += 1;
        match difference.what {
            Mismatch::OnlyA => self.only_a += 1,
            Mismatch::OnlyB => self.only_b += 1,
            Mismatch::Differs(_) => self.different += 1,
        }
        if self.differences.len() < keep {
            self.differences.push(difference);
        }
    }

    fn count_equal(&mut self, count: u64) {
        self.compared += count;
        self.equal += count;
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Keys scanned at both servers.
    pub scanned: u64,
    /// Keys that both servers had at the beginning.
    pub expected: u64,
    /// Keys that wait for another look.
    pub suspects: usize,
}

/// Compares two servers. `progress` is called after each batch.
pub async fn verify(
    a: &Target,
    b: &Target,
    options: &Options,
    progress: impl FnMut(Progress),
) -> Result<Report, RedisError> {
    let (a, b) = tokio::try_join!(Side::open(a), Side::open(b))?;
    let seen = Progress { scanned: 0, expected: 0, suspects: 0 };
    let comparison = Comparison {
        a,
        b,
        options,
        suspects: BTreeSet::new(),
        report: Report::default(),
        seen,
        progress,
    };
    comparison.run().await
}

struct Comparison<'a, P> {
    a: Side,
    b: Side,
    options: &'a Options,
    /// In order of databases, so that a second look selects each once.
    suspects: BTreeSet<(Database, Bytes)>,
    report: Report,
    seen: Progress,
    progress: P,
}

impl<P: FnMut(Progress)> Comparison<'_, P> {
    async fn run(mut self) -> Result<Report, RedisError> {
        let ((in_a, keys_a), (in_b, keys_b)) =
            tokio::try_join!(self.a.databases(), self.b.databases())?;
        self.seen.expected = keys_a + keys_b;
        for database in &in_a {
            self.walk_a(*database).await?;
        }
        for database in &in_b {
            self.walk_b(*database).await?;
        }
        self.look_again().await?;
        let (equal, differences) = functions::compare(&mut self.a, &mut self.b).await?;
        self.report.count_equal(equal);
        for difference in differences {
            self.report.count(difference, self.options.max_differences);
        }
        Ok(self.report)
    }

    async fn select(&mut self, database: Database) -> Result<(), RedisError> {
        tokio::try_join!(self.a.select(database), self.b.select(database))?;
        Ok(())
    }

    async fn walk_a(&mut self, database: Database) -> Result<(), RedisError> {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            self.select(database).await?;
            let (next, mut keys) = self.a.scan(&cursor, self.options.batch).await?;
            let scanned = keys.len();
            keys.retain(|key| key != CHECKPOINT_KEY);
            for (key, outcome) in keys.iter().zip(self.compare(&keys).await?) {
                match outcome {
                    Outcome::Gone => {}
                    Outcome::Equal => self.report.count_equal(1),
                    Outcome::Not(_) => {
                        self.suspects.insert((database, key.clone()));
                    }
                }
            }
            self.went_on(scanned).await?;
            cursor = next;
            if cursor.as_ref() == b"0" {
                return Ok(());
            }
        }
    }

    async fn walk_b(&mut self, database: Database) -> Result<(), RedisError> {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            self.select(database).await?;
            let (next, mut keys) = self.b.scan(&cursor, self.options.batch).await?;
            let scanned = keys.len();
            keys.retain(|key| key != CHECKPOINT_KEY);
            for (key, there) in keys.iter().zip(self.a.exist(&keys).await?) {
                if !there {
                    self.suspects.insert((database, key.clone()));
                }
            }
            self.went_on(scanned).await?;
            cursor = next;
            if cursor.as_ref() == b"0" {
                return Ok(());
            }
        }
    }

    async fn went_on(&mut self, scanned: usize) -> Result<(), RedisError> {
        self.seen.scanned += scanned as u64;
        self.seen.suspects = self.suspects.len();
        (self.progress)(self.seen);
        if self.suspects.len() >= MAX_SUSPECTS {
            self.look_again().await?;
        }
        Ok(())
    }

    /// Looks at all suspects until they are equal or the rounds are over; counts them then.
    async fn look_again(&mut self) -> Result<(), RedisError> {
        let mut suspects = std::mem::take(&mut self.suspects);
        for round in 0..self.options.rounds.max(1) {
            if suspects.is_empty() {
                break;
            }
            if self.options.rounds > 0 {
                tokio::time::sleep(self.options.pause).await;
            }
            let last = round + 1 >= self.options.rounds;
            suspects = self.look(suspects, last).await?;
            self.seen.suspects = suspects.len();
            (self.progress)(self.seen);
        }
        Ok(())
    }

    /// One look at `suspects`; gives those that still differ, unless it is the last.
    async fn look(
        &mut self,
        suspects: BTreeSet<(Database, Bytes)>,
        last: bool,
    ) -> Result<BTreeSet<(Database, Bytes)>, RedisError> {
        let mut still = BTreeSet::new();
        let mut suspects = suspects.into_iter().peekable();
        while let Some((database, first)) = suspects.next() {
            let mut keys = vec![first];
            while keys.len() < self.options.batch
                && let Some((_, key)) = suspects.next_if(|(next, _)| *next == database)
            {
                keys.push(key);
            }
            self.select(database).await?;
            let outcomes = self.compare(&keys).await?;
            for (key, outcome) in keys.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Gone => {}
                    Outcome::Equal => self.report.count_equal(1),
                    Outcome::Not(what) if last => {
                        let difference = Difference { database: Some(database), key, what };
                        self.report.count(difference, self.options.max_differences);
                    }
                    Outcome::Not(_) => {
                        still.insert((database, key));
                    }
                }
            }
        }
        Ok(still)
    }

    /// Compares keys of the selected database.
    async fn compare(&mut self, keys: &[Bytes]) -> Result<Vec<Outcome>, RedisError> {
        let (in_a, in_b) = tokio::try_join!(self.a.dump(keys), self.b.dump(keys))?;
        let mut outcomes = Vec::with_capacity(keys.len());
        for (key, (a, b)) in keys.iter().zip(in_a.into_iter().zip(in_b)) {
            outcomes.push(match (&a.value, &b.value) {
                (None, None) => Outcome::Gone,
                (Some(_), None) => Outcome::Not(Mismatch::OnlyA),
                (None, Some(_)) => Outcome::Not(Mismatch::OnlyB),
                (Some(x), Some(y)) if x == y => self.expiry(&a, &b),
                (Some(_), Some(_)) => match self.values(key).await? {
                    None => self.expiry(&a, &b),
                    Some(how) => Outcome::Not(Mismatch::Differs(how)),
                },
            });
        }
        Ok(outcomes)
    }

    async fn values(&mut self, key: &Bytes) -> Result<Option<String>, RedisError> {
        let read = tokio::join!(value::read(&mut self.a, key), value::read(&mut self.b, key));
        match read {
            (Ok(a), Ok(b)) => Ok(value::difference(&a, &b)),
            (Err(error), _) | (_, Err(error)) => match error.reply() {
                // It became another type between two requests: it moves, so look again.
                Some(reply) if reply.starts_with("WRONGTYPE") || reply.contains("no such key") => {
                    Ok(Some(format!("can't be read: {reply}")))
                }
                _ => Err(error),
            },
        }
    }

    fn expiry(&self, a: &Dumped, b: &Dumped) -> Outcome {
        let absolute = self.a.version().is_7_or_later() && self.b.version().is_7_or_later();
        let tolerance = if absolute { EXPIRY_TOLERANCE } else { RELATIVE_EXPIRY_TOLERANCE };
        let how = match (a.expires, b.expires) {
            (None, None) => return Outcome::Equal,
            (Some(a), Some(b)) if (a - b).abs() <= tolerance => return Outcome::Equal,
            (Some(a), Some(b)) => format!("expires {} ms {} at B", (a - b).abs(), later(b > a)),
            (Some(_), None) => "expires at A, never at B".to_owned(),
            (None, Some(_)) => "expires at B, never at A".to_owned(),
        };
        Outcome::Not(Mismatch::Differs(how))
    }
}

fn later(yes: bool) -> &'static str {
    if yes { "later" } else { "earlier" }
}

enum Outcome {
    /// At neither any more.
    Gone,
    Equal,
    Not(Mismatch),
}
