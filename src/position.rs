//! Where things stand: replication ids, offsets, positions, databases, site names and clocks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Length of a replication id in characters, as Redis prints it.
const REPLICATION_ID_LENGTH: usize = 40;

/// What can be wrong with the text of one of these values.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not forty hexadecimal characters.
    #[error("a replication id is 40 hexadecimal characters, got {0:?}")]
    ReplicationId(String),
    /// Not `<replid>:<offset>`.
    #[error("a position is <replid>:<offset>, got {0:?}")]
    Position(String),
    /// A site name that is empty, too long or has other characters.
    #[error(
        "a site name has 1 to 32 characters out of a-z, A-Z, 0-9, '_' and '.', got {0:?}; \
         it becomes part of field names in Redis"
    )]
    SiteName(String),
}

/// The id of one replication history: 40 hexadecimal characters chosen by a Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicationId([u8; REPLICATION_ID_LENGTH]);

impl ReplicationId {
    /// A random id, for histories that the sidecar itself begins.
    pub fn random() -> Self {
        let mut id = [0; REPLICATION_ID_LENGTH];
        for digit in &mut id {
            *digit = b"0123456789abcdef"[rand::random_range(0..16)];
        }
        Self(id)
    }

    /// The id from its raw characters.
    pub fn from_bytes(text: &[u8]) -> Result<Self, ParseError> {
        match <[u8; REPLICATION_ID_LENGTH]>::try_from(text) {
            Ok(id) if id.iter().all(u8::is_ascii_hexdigit) => Ok(Self(id)),
            _ => Err(ParseError::ReplicationId(String::from_utf8_lossy(text).into_owned())),
        }
    }

    /// Its characters.
    pub fn as_bytes(&self) -> &[u8; REPLICATION_ID_LENGTH] {
        &self.0
    }

    /// Its characters as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReplicationId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::from_bytes(text.as_bytes())
    }
}

/// A count of bytes of one Redis's replication stream, as in `master_repl_offset`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A count of bytes of the journal as followers see it: local units, SELECTs and PINGs.
///
/// Never to be mixed with [`Offset`], which counts what the local Redis sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct FollowerOffset(pub u64);

impl fmt::Display for FollowerOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a unit ends in the replication stream of its own Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The history.
    pub replid: ReplicationId,
    /// The byte in it, counted as Redis counts.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replid, self.offset)
    }
}

impl FromStr for Position {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Position(text.to_owned());
        let (replid, offset) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { replid: replid.parse()?, offset: Offset(offset.parse().map_err(|_| wrong())?) })
    }
}

/// The number of a Redis database, as in `SELECT`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Database(pub u32);

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a site, from the configuration.
///
/// It never holds a `-`, since it stands before one in the fields of the checkpoint hash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SiteName {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'.';
        if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) {
            return Err(ParseError::SiteName(text));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for SiteName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Up to where a peer's units have been applied, with what is needed to read on from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Where.
    pub position: Position,
    /// The database in force there in the peer's stream.
    pub database: Database,
    /// The peer's time there, in unix milliseconds; 0 where it is not known.
    pub time: u64,
    /// What is still to come of a full sync.
    pub owed: Owed,
}

/// What is still to come at a checkpoint before units alone are enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Owed {
    /// Nothing.
    #[default]
    Nothing,
    /// Units behind it, then a snapshot: the peer's history broke before this, and what was written
    /// there while nobody read is in no unit.
    Snapshot,
    /// A snapshot alone: part of one was taken over already, with more than the checkpoint tells.
    Mirror,
}

impl Owed {
    /// Behind a checkpoint's other fields.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Snapshot => ":owed",
            Self::Mirror => ":mirror",
        }
    }

    /// Takes the suffix off.
    pub fn split(text: &str) -> (&str, Self) {
        let found = [Self::Snapshot, Self::Mirror].into_iter();
        let mut found = found.filter_map(|owed| Some((text.strip_suffix(owed.suffix())?, owed)));
        found.next().unwrap_or((text, Self::Nothing))
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owed = self.owed.suffix();
        write!(f, "{}:{}:{}{owed}", self.position, self.database, self.time)
    }
}

impl FromStr for Checkpoint {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Position(text.to_owned());
        let (text, owed) = Owed::split(text);
        let (rest, time) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (position, database) = rest.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self {
            position: position.parse()?,
            database: Database(database.parse().map_err(|_| wrong())?),
            time: time.parse().map_err(|_| wrong())?,
            owed,
        })
    }
}

/// From where on local units matter for conflicts with each other site. A site that is not in the
/// list has not seen anything of this one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Floors(pub Vec<(SiteName, Offset)>);

impl Floors {
    /// For `site`.
    pub fn of(&self, site: &SiteName) -> Option<Offset> {
        self.0.iter().find(|(name, _)| name == site).map(|(_, offset)| *offset)
    }
}

/// Names one session of a link, so that both sites know which full syncs belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSession(pub u64);

/// What a unit had seen of each other site: the last position of that site's stream whose mark
/// came earlier in this site's stream. A site that is not in the list has not been seen at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen(pub Vec<(SiteName, Position)>);

impl Seen {
    /// What was seen of `site`.
    pub fn of(&self, site: &SiteName) -> Option<Position> {
        self.0.iter().find(|(name, _)| name == site).map(|(_, position)| *position)
    }

    /// The same, with `site` seen up to `position`.
    #[must_use]
    pub fn with(&self, site: &SiteName, position: Position) -> Self {
        let mut sites = self.0.clone();
        match sites.iter_mut().find(|(name, _)| name == site) {
            Some(entry) => entry.1 = position,
            None => sites.push((site.clone(), position)),
        }
        Self(sites)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_names_round_trip_and_refuse_rubbish() {
        let id = ReplicationId::random();
        let position = Position { replid: id, offset: Offset(17) };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert!("abc:1".parse::<Position>().is_err());
        assert!(format!("{id}:x").parse::<Position>().is_err());
        assert!(format!("{id}").parse::<Position>().is_err());
        assert!("a-b".parse::<SiteName>().is_err());
        assert!("".parse::<SiteName>().is_err());
        assert_eq!("eu_1".parse::<SiteName>().map(|n| n.to_string()), Ok("eu_1".into()));
    }

    #[test]
    fn seen_keeps_one_entry_a_site() {
        let a: SiteName = "a".parse().unwrap();
        let first = Position { replid: ReplicationId::random(), offset: Offset(1) };
        let second = Position { offset: Offset(2), ..first };
        let seen = Seen::default().with(&a, first).with(&a, second);
        assert_eq!(seen.of(&a), Some(second));
        assert_eq!(seen.0.len(), 1);
    }
}
