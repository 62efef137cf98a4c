//! What is done about conflicts and about a peer's flushes.

use std::time::Duration;

use serde::Deserialize;

use crate::position::SiteName;

/// Conflicts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conflict {
    /// The site whose order decides; the same at every site.
    pub primary: Option<SiteName>,
    /// What is done about them.
    pub policy: Policy,
    /// Keys written here and not yet seen by a peer that are remembered; with more, what the peer
    /// sends conflicts with everything.
    pub max_keys: usize,
    /// A peer's clock is believed to be ahead by this much at most.
    #[serde(with = "humantime_serde")]
    pub max_clock_drift: Duration,
}

impl Default for Conflict {
    fn default() -> Self {
        Self {
            primary: None,
            policy: Policy::default(),
            max_keys: 1_000_000,
            max_clock_drift: Duration::from_mins(1),
        }
    }
}

/// What happens to a peer's FLUSHALL or FLUSHDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// Done here too.
    Forward,
    /// Not done here.
    Drop,
    /// The link stops until a person decides.
    #[default]
    Stop,
}

/// What is done when both sites wrote the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Both sites end the same.
    #[default]
    Converge,
    /// It is found and told, nothing is done.
    Report,
    /// It is not looked for.
    Off,
}

/// What is not synchronized.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// FLUSHALL/FLUSHDB from a peer.
    pub flush: Flush,
}
