//! Which server is under test: what the stream holds depends on it.

use std::process::Command;

/// Redis and Valkey number their releases apart since Valkey forked from Redis 7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Redis,
    Valkey,
}

/// A server's flavour and release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub flavour: Flavour,
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Asks a server binary by `--version`, which prints `Redis server v=7.0.15 sha=..`.
    pub fn of_binary(binary: &str) -> Self {
        let output = Command::new(binary)
            .arg("--version")
            .output()
            .unwrap_or_else(|error| panic!("cannot run {binary} (try ./dev setup): {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text).unwrap_or_else(|| panic!("no version in {text:?} of {binary}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let flavour = if text.starts_with("Valkey") { Flavour::Valkey } else { Flavour::Redis };
        let mut numbers = text.split("v=").nth(1)?.split(['.', ' ']);
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { flavour, major, minor })
    }

    /// Whether this is Redis 7.0 or later, or any Valkey, which all descend from 7.2.
    pub fn is_seven_or_later(self) -> bool {
        self.flavour == Flavour::Valkey || self.major >= 7
    }

    /// Whether this is Valkey of at least that major release.
    pub fn is_valkey_from(self, major: u32) -> bool {
        self.flavour == Flavour::Valkey && self.major >= major
    }
}
