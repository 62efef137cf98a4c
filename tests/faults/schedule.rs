//! Which faults a round has, and when: drawn from the seed alone.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::options::Kind;

/// During this time faults begin, in milliseconds.
const CHAOS_MS: u64 = 2_500;
/// Faults of a round.
const FAULTS: std::ops::RangeInclusive<usize> = 8..=14;

/// Sites by index.
pub const SITES: [&str; 2] = ["a", "b"];

/// Where a fault strikes. Faults at one place follow each other, those at different places overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The process of a site's Redis.
    Redis,
    /// The process of a site's sidecar.
    Sidecar,
    /// The network on which the peer pulls from this site.
    Link,
    /// The network between a site's sidecar and its Redis.
    Local,
    /// The clients of a site's Redis.
    Clients,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a start after a while.
    Kill,
    /// SIGTERM, a clean end, and a start after a while.
    Stop,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
    /// All connections are cut.
    Cut,
    /// Connections are cut and refused for a while.
    Refuse,
    /// All bytes from the client vanish for a while, then connections are cut.
    SwallowRequests,
    /// All bytes to the client vanish for a while, then connections are cut.
    SwallowReplies,
    /// Bytes vanish both ways for a while, then connections are cut.
    SwallowAll,
    /// Bytes take 40 to 80 ms each way, for a while.
    Delay,
    /// CLIENT KILL TYPE replica.
    KillReplicas,
    /// CLIENT KILL of all clients but the writers of the test.
    KillSidecars,
    /// CLIENT KILL of the writers: some of their writes are of unknown fate.
    KillWriters,
    /// CLIENT PAUSE of all commands.
    PauseAll,
    /// CLIENT PAUSE of writes.
    PauseWrites,
    /// DEBUG RELOAD.
    Reload,
}

const NETWORK: [Fault; 6] = [
    Fault::Cut,
    Fault::Refuse,
    Fault::SwallowRequests,
    Fault::SwallowReplies,
    Fault::SwallowAll,
    Fault::Delay,
];

impl Place {
    const ALL: [Self; 5] = [Self::Redis, Self::Sidecar, Self::Link, Self::Local, Self::Clients];

    fn faults(self, kind: Kind) -> &'static [Fault] {
        match (self, kind) {
            (Self::Redis, Kind::Resume) => &[Fault::Freeze],
            (Self::Redis, Kind::Restart) => &[Fault::Freeze, Fault::Kill, Fault::Kill, Fault::Stop],
            (Self::Sidecar, _) => &[Fault::Kill, Fault::Stop, Fault::Freeze],
            (Self::Link | Self::Local, _) => &NETWORK,
            (Self::Clients, _) => &[
                Fault::KillReplicas,
                Fault::KillSidecars,
                Fault::KillWriters,
                Fault::PauseAll,
                Fault::PauseWrites,
                Fault::Reload,
            ],
        }
    }
}

impl Fault {
    /// How long it may last, in milliseconds.
    fn lasts(self) -> std::ops::RangeInclusive<u64> {
        match self {
            // Longer and shorter than the links' timeout of 1 s.
            Self::Freeze => 50..=2_500,
            Self::Kill | Self::Stop => 0..=1_200,
            Self::Refuse | Self::SwallowRequests | Self::SwallowReplies | Self::SwallowAll => {
                100..=1_600
            }
            Self::Delay => 300..=2_000,
            Self::PauseAll | Self::PauseWrites => 50..=1_200,
            Self::Cut
            | Self::KillReplicas
            | Self::KillSidecars
            | Self::KillWriters
            | Self::Reload => 0..=0,
        }
    }
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Step {
    pub site: usize,
    pub place: Place,
    pub fault: Fault,
    /// Since the beginning of the round.
    pub at: Duration,
    pub lasts: Duration,
    /// For what it draws itself.
    pub seed: u64,
}

/// All faults of a round, by time.
#[derive(Debug)]
pub struct Schedule {
    pub kind: Kind,
    pub steps: Vec<Step>,
    /// For the writers.
    pub seed: u64,
}

impl Schedule {
    /// The schedule of a round.
    pub fn draw(seed: u64, round: u64, kind: Option<Kind>) -> Self {
        // Each round has its own stream of numbers, so that it can be run alone.
        let mut random = StdRng::seed_from_u64(seed.rotate_left(32) ^ round);
        let drawn = if random.random_ratio(1, 3) { Kind::Restart } else { Kind::Resume };
        let kind = kind.unwrap_or(drawn);
        let mut steps: Vec<Step> = Vec::new();
        if kind == Kind::Restart {
            let site = random.random_range(0..2);
            let fault = *[Fault::Kill, Fault::Kill, Fault::Stop].choose(&mut random).unwrap();
            add(&mut steps, &mut random, (site, Place::Redis, fault));
        }
        let count = random.random_range(FAULTS);
        while steps.len() < count {
            let site = random.random_range(0..2);
            let place = *Place::ALL.choose(&mut random).unwrap();
            let fault = *place.faults(kind).choose(&mut random).unwrap();
            add(&mut steps, &mut random, (site, place, fault));
            // Links break together more often than alone.
            if place == Place::Link && random.random() {
                let mut other = steps.last().unwrap().clone();
                other.site = 1 - site;
                if is_free(&steps, &other) {
                    steps.push(other);
                }
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { kind, steps, seed: random.random() }
    }

    /// Of one place, by time.
    pub fn at(&self, site: usize, place: Place) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| (step.site, step.place) == (site, place))
    }
}

/// Adds a fault where its place is free; sometimes there is none.
fn add(steps: &mut Vec<Step>, random: &mut StdRng, (site, place, fault): (usize, Place, Fault)) {
    let at = Duration::from_millis(random.random_range(0..CHAOS_MS));
    let lasts = Duration::from_millis(random.random_range(fault.lasts()));
    let step = Step { site, place, fault, at, lasts, seed: random.random() };
    if is_free(steps, &step) {
        steps.push(step);
    }
}

fn is_free(steps: &[Step], new: &Step) -> bool {
    steps.iter().all(|step| {
        (step.site, step.place) != (new.site, new.place)
            || step.at + step.lasts < new.at
            || new.at + new.lasts < step.at
    })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_millis(), self.lasts.as_millis());
        let (site, place, fault) = (SITES[self.site], self.place, self.fault);
        write!(f, "{at:5} ms  {place:?} {site}: {fault:?}")?;
        if lasts > 0 { write!(f, " for {lasts} ms") } else { Ok(()) }
    }
}
