//! Snapshot versions, and which server reads which.

use std::fmt;

use super::RdbError;

/// Length of a snapshot's header: a magic word, and the version as digits.
pub(super) const HEADER: usize = 9;

/// Whose numbering an RDB version belongs to.
///
/// Valkey 9 left Redis's numbering (its number 80 is no successor of Redis's 13) and uses some type
/// bytes and opcodes for other things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// `REDIS00NN`, written by Redis, and by Valkey up to 8.
    Redis,
    /// `VALKEYNNN`, written by Valkey from 9 on.
    Valkey,
}

/// The version of a snapshot, or the newest that a server loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RdbVersion {
    /// Whose number it is.
    pub flavour: Flavour,
    /// The number, as in the snapshot's header.
    pub number: u16,
}

impl RdbVersion {
    /// A version in Redis's numbering.
    pub const fn redis(number: u16) -> Self {
        Self { flavour: Flavour::Redis, number }
    }

    /// A version in Valkey's own numbering.
    pub const fn valkey(number: u16) -> Self {
        Self { flavour: Flavour::Valkey, number }
    }

    /// The version that a snapshot's header names, if it can be read here.
    pub(super) fn of_header(header: &[u8; HEADER]) -> Result<Self, RdbError> {
        let (flavour, digits) = match header {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (Flavour::Redis, digits as &[u8]),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (Flavour::Valkey, digits as &[u8]),
            _ => return Err(RdbError::Magic(*header)),
        };
        let mut number = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return Err(RdbError::Magic(*header));
            }
            number = number * 10 + u16::from(digit - b'0');
        }
        let version = Self { flavour, number };
        if version.is_known() { Ok(version) } else { Err(RdbError::Version(version)) }
    }

    /// What a server of this release writes, which is also the newest that it loads. Numbers are
    /// from the `RDB_VERSION` of the releases' sources; of a server newer than Redis 8.6 or
    /// Valkey 9 it is the newest that is known here, which that server still loads.
    pub fn of_server(is_valkey: bool, (major, minor, _patch): (u32, u32, u32)) -> Self {
        match (is_valkey, major, minor) {
            (true, 9.., _) => Self::valkey(80),
            // Valkey began as Redis 7.2.
            (true, _, _) | (false, 7, 2..=3) => Self::redis(11),
            (false, 0..=6, _) => Self::redis(9),
            (false, 7, 0..=1) => Self::redis(10),
            (false, 7, _) | (false, 8, 0..=3) => Self::redis(12),
            (false, _, _) => Self::redis(13),
        }
    }

    /// Whether snapshots of this version can be read here.
    fn is_known(self) -> bool {
        match self.flavour {
            Flavour::Redis => (9..=13).contains(&self.number),
            Flavour::Valkey => self.number == 80,
        }
    }

    /// Whether a server whose newest version is `self` has hashes whose fields expire.
    pub(super) fn has_field_expiry(self) -> bool {
        self.flavour == Flavour::Valkey || self.number >= 12
    }

    /// Whether a server whose newest version is `self` keeps the count of entries ever added to a
    /// stream and read by a group (Redis 7.0).
    pub(super) fn has_stream_counters(self) -> bool {
        self.flavour == Flavour::Valkey || self.number >= 10
    }
}

impl fmt::Display for RdbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavour {
            Flavour::Redis => write!(f, "REDIS {}", self.number),
            Flavour::Valkey => write!(f, "VALKEY {}", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_the_versions_they_write() {
        let redis = |major, minor| RdbVersion::of_server(false, (major, minor, 3)).number;
        assert_eq!([redis(6, 2), redis(7, 0), redis(7, 2), redis(7, 4)], [9, 10, 11, 12]);
        assert_eq!([redis(8, 0), redis(8, 2), redis(8, 4), redis(8, 6)], [12, 12, 13, 13]);
        assert_eq!(RdbVersion::of_server(true, (8, 1, 8)), RdbVersion::redis(11));
        assert_eq!(RdbVersion::of_server(true, (9, 1, 2)), RdbVersion::valkey(80));
    }
}
