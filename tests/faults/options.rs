//! What `./dev test faults` passes on, by environment.

use std::env::var;

/// Which faults a round has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No Redis restarts, so no full sync may happen, and both sites may write the same counters.
    Resume,
    /// Redis restarts too, with its data but under a new history: full syncs follow.
    Restart,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Restart => "restart",
        }
    }
}

/// Rounds when nobody says how many: 20 to 30 s.
const ROUNDS: u64 = 5;

#[derive(Debug)]
pub struct Options {
    pub seed: u64,
    pub rounds: u64,
    /// The first round, so that one of many can be run alone.
    pub first: u64,
    /// All rounds of this kind; else the seed decides.
    pub kind: Option<Kind>,
    /// Also what a full sync is known to lose fails a round.
    pub strict: bool,
}

impl Options {
    pub fn from_environment() -> Self {
        let number = |name: &str| -> Option<u64> {
            let text = var(format!("REDIS_DUPLEX_FAULTS_{name}")).ok().filter(|t| !t.is_empty())?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
        };
        let kind = match var("REDIS_DUPLEX_FAULTS_KIND").unwrap_or_default().as_str() {
            "" => None,
            "resume" => Some(Kind::Resume),
            "restart" => Some(Kind::Restart),
            other => panic!("kind must be resume or restart, not {other:?}"),
        };
        Self {
            seed: number("SEED").unwrap_or_else(|| rand::random_range(0..1_000_000)),
            rounds: number("ROUNDS").unwrap_or(ROUNDS),
            first: number("FIRST").unwrap_or(0),
            kind,
            strict: var("REDIS_DUPLEX_FAULTS_STRICT").is_ok_and(|value| value == "1"),
        }
    }

    /// What repeats these rounds.
    pub fn command(&self, first: u64, rounds: u64) -> String {
        let kind = self.kind.map_or(String::new(), |kind| format!(" --kind {}", kind.name()));
        let strict = if self.strict { " --strict" } else { "" };
        let seed = self.seed;
        format!("./dev test faults --seed {seed} --first {first} --rounds {rounds}{kind}{strict}")
    }
}
