//! What rounds came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::options::Kind;
use crate::schedule::{Fault, Place, Schedule};

/// A round that went well.
#[derive(Debug)]
pub struct Outcome {
    /// Effects that were acknowledged.
    pub writes: usize,
    /// Effects of unknown fate.
    pub unknown: usize,
    /// Acknowledged writes that full syncs lost, where they are known to.
    pub lost: usize,
    /// Both sites', besides the first.
    pub full_syncs: usize,
    /// From the end of the last fault until both sites were found equal.
    pub equal_after: Duration,
    pub took: Duration,
}

impl Outcome {
    pub fn line(&self, round: u64, schedule: &Schedule) -> String {
        format!(
            "round {round:3}  {:7}  {:2} faults  {:5} writes, {:2} of unknown fate  equal after \
             {:5.2} s  {} full syncs  {:4} lost  {:.1} s",
            schedule.kind.name(),
            schedule.steps.len(),
            self.writes,
            self.unknown,
            self.equal_after.as_secs_f64(),
            self.full_syncs,
            self.lost,
            self.took.as_secs_f64()
        )
    }
}

/// Of all rounds so far.
#[derive(Debug, Default)]
pub struct Report {
    rounds: BTreeMap<&'static str, usize>,
    faults: BTreeMap<(Place, Fault), usize>,
    writes: usize,
    unknown: usize,
    lost: usize,
    full_syncs: usize,
    equal_after: Vec<Duration>,
}

impl Report {
    pub fn add(&mut self, schedule: &Schedule, outcome: &Outcome) {
        *self.rounds.entry(schedule.kind.name()).or_default() += 1;
        for step in &schedule.steps {
            *self.faults.entry((step.place, step.fault)).or_default() += 1;
        }
        self.writes += outcome.writes;
        self.unknown += outcome.unknown;
        self.lost += outcome.lost;
        self.full_syncs += outcome.full_syncs;
        self.equal_after.push(outcome.equal_after);
        self.equal_after.sort();
    }

    fn rounds(&self, kind: Kind) -> usize {
        self.rounds.get(kind.name()).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resume, restart) = (self.rounds(Kind::Resume), self.rounds(Kind::Restart));
        writeln!(f, "rounds              {resume} without, {restart} with restarts of Redis")?;
        writeln!(f, "faults              {}", self.faults.values().sum::<usize>())?;
        for ((place, fault), count) in &self.faults {
            writeln!(f, "    {:7} {:16} {count:4}", format!("{place:?}"), format!("{fault:?}"))?;
        }
        writeln!(f, "writes acknowledged {}, of unknown fate {}", self.writes, self.unknown)?;
        writeln!(f, "full syncs          {}, besides the first", self.full_syncs)?;
        writeln!(f, "lost by them        {} acknowledged writes of site b", self.lost)?;
        let seconds = |at: usize| self.equal_after.get(at).map_or(0.0, Duration::as_secs_f64);
        let last = self.equal_after.len().saturating_sub(1);
        let (median, most) = (seconds(last / 2), seconds(last));
        write!(f, "equal again after   median {median:.2} s, at most {most:.2} s")
    }
}
