//! What `INFO` tells.

use std::collections::HashMap;
use std::fmt;

use redis_protocol::resp2::types::BytesFrame;

use super::{Connection, RedisError};
use crate::position::{Database, Offset, Position, ReplicationId};

/// The fields of an `INFO` reply.
#[derive(Debug, Clone, Default)]
pub struct InfoText(HashMap<String, String>);

impl InfoText {
    /// The fields in `text`.
    pub fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Takes the fields of another answer, too.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A field's text; empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A field's number; 0 when it is not there.
    pub fn number(&self, name: &str) -> i64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// Where the server's history stands: `master_replid` and `master_repl_offset`.
    pub fn position(&self) -> Option<Position> {
        let replid: ReplicationId = self.get("master_replid").parse().ok()?;
        let offset = Offset(self.get("master_repl_offset").parse().ok()?);
        Some(Position { replid, offset })
    }

    /// The databases that hold keys, from the keyspace section.
    pub fn databases(&self) -> Vec<Database> {
        let numbers = self.0.keys().filter_map(|name| name.strip_prefix("db")?.parse().ok());
        let mut databases: Vec<Database> = numbers.map(Database).collect();
        databases.sort_unstable();
        databases
    }

    /// Number of keys over all databases, from the keyspace section.
    pub fn keys(&self) -> u64 {
        let keys = |value: &String| {
            let count = value.strip_prefix("keys=")?.split(',').next()?;
            count.parse::<u64>().ok()
        };
        let databases = self.0.iter().filter(|(name, _)| name.starts_with("db"));
        databases.filter_map(|(_, value)| keys(value)).sum()
    }
}

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// A server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Whose.
    pub flavour: Flavour,
    /// Major, minor, patch; Valkey's own numbers for Valkey.
    pub number: (u32, u32, u32),
}

impl Version {
    /// Whether this is a server we work with: Redis from 6.2, Valkey from 8.
    pub fn is_supported(self) -> bool {
        match self.flavour {
            Flavour::Redis => self.number >= (6, 2, 0),
            Flavour::Valkey => self.number >= (8, 0, 0),
        }
    }

    /// Its number, if it is a Valkey.
    pub fn valkey(self) -> Option<(u32, u32, u32)> {
        (self.flavour == Flavour::Valkey).then_some(self.number)
    }

    /// Whether it has what came with Redis 7.0: functions, `rdb-filter-only`, bare single effects.
    pub fn is_7_or_later(self) -> bool {
        self.flavour == Flavour::Valkey || self.number.0 >= 7
    }

    /// From its text, `redis 7.0.15`; the reverse of `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        let (flavour, number) = text.split_once(' ')?;
        let flavour = match flavour {
            "redis" => Flavour::Redis,
            "valkey" => Flavour::Valkey,
            _ => return None,
        };
        let mut parts = number.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Some(Self { flavour, number: (next(), next(), next()) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.flavour {
            Flavour::Redis => "redis",
            Flavour::Valkey => "valkey",
        };
        let (major, minor, patch) = self.number;
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

/// The facts about a server that decide how we deal with it.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Its version.
    pub version: Version,
    /// Changes at each start of the process.
    pub run_id: String,
    /// All fields.
    pub info: InfoText,
}

impl ServerInfo {
    /// Asks a server.
    pub async fn ask(connection: &mut Connection) -> Result<Self, RedisError> {
        let info = info(connection, "all").await?;
        let (flavour, number) = match info.get("valkey_version") {
            "" => ("redis", info.get("redis_version")),
            number => ("valkey", number),
        };
        let version = Version::parse(&format!("{flavour} {number}"))
            .filter(|_| !number.is_empty())
            .ok_or_else(|| connection.unexpected("INFO", "no redis_version in it"))?;
        Ok(Self { version, run_id: info.get("run_id").to_owned(), info })
    }

    /// Whether the backlog holds all that follows `position`, under the present id or the one before.
    pub fn backlog_holds(&self, position: Position) -> bool {
        let number = |name: &str| u64::try_from(self.info.number(name)).unwrap_or(0);
        let next = position.offset.0 + 1;
        let replid = position.replid.as_str();
        let ours = self.info.get("master_replid") == replid
            || (self.info.get("master_replid2") == replid
                && self.info.number("second_repl_offset") > 0
                && next <= number("second_repl_offset"));
        // Redis takes what follows the last byte, too.
        ours && self.info.number("repl_backlog_active") == 1
            && next >= number("repl_backlog_first_byte_offset")
            && position.offset.0 <= number("master_repl_offset")
    }

    /// Whether the data are certainly not older than at `position`: the history is the same, or the
    /// server knows to have continued it, or it restarted from an append-only file.
    pub fn has_not_gone_back_behind(&self, position: Position) -> bool {
        let (replid, number) =
            (position.replid.as_str(), |name| u64::try_from(self.info.number(name)).unwrap_or(0));
        if self.info.get("master_replid") == replid {
            return position.offset.0 <= number("master_repl_offset");
        }
        if self.info.get("master_replid2") == replid {
            return position.offset.0 < number("second_repl_offset");
        }
        self.info.number("aof_enabled") == 1
    }

    /// Why this server can't be a site's local Redis; with what to do.
    pub fn unfit(&self) -> Option<String> {
        if !self.version.is_supported() {
            return Some(format!(
                "it is {}: redis-duplex needs Redis 6.2 or later, or Valkey 8 or later; upgrade it",
                self.version
            ));
        }
        if self.info.number("cluster_enabled") == 1 {
            return Some(
                "it runs in cluster mode, which redis-duplex does not support; use a server with \
                 `cluster-enabled no`"
                    .to_owned(),
            );
        }
        None
    }
}

/// One section of a server's `INFO`.
pub async fn info(connection: &mut Connection, section: &str) -> Result<InfoText, RedisError> {
    match connection.call(&["INFO", section]).await? {
        BytesFrame::BulkString(text) => Ok(InfoText::parse(&String::from_utf8_lossy(&text))),
        other => Err(connection.unexpected("INFO", format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_and_round_trip() {
        let redis = Version::parse("redis 7.0.15").unwrap();
        assert_eq!(redis.to_string(), "redis 7.0.15");
        assert!(redis.is_supported() && redis.is_7_or_later());
        let old = Version::parse("redis 6.0.16").unwrap();
        assert!(!old.is_supported() && !old.is_7_or_later());
        assert!(Version::parse("redis 6.2.5").unwrap().is_supported());
        assert!(Version::parse("valkey 9.1.2-rc1").unwrap().is_7_or_later());
        assert!(Version::parse("keydb 6").is_none());
    }

    #[test]
    fn the_backlog_holds_what_it_says() {
        let (old, new) = ("a".repeat(40), "b".repeat(40));
        let info = InfoText::parse(&format!(
            "master_replid:{new}\nmaster_replid2:{old}\nsecond_repl_offset:501\n\
             master_repl_offset:900\nrepl_backlog_active:1\nrepl_backlog_first_byte_offset:401\n"
        ));
        let version = Version::parse("redis 7.0.15").unwrap();
        let server = ServerInfo { version, run_id: String::new(), info };
        let holds = |replid: &str, offset| {
            let position = Position { replid: replid.parse().unwrap(), offset: Offset(offset) };
            server.backlog_holds(position)
        };
        assert!(holds(&new, 400) && holds(&new, 900) && holds(&old, 500));
        assert!(!holds(&new, 399) && !holds(&new, 901) && !holds(&old, 501));
        assert!(!holds(&"c".repeat(40), 600));
        let not_back = |replid: &str, offset, aof: &str| {
            let position = Position { replid: replid.parse().unwrap(), offset: Offset(offset) };
            let text = format!(
                "master_replid:{new}\nmaster_replid2:{old}\nsecond_repl_offset:501\n\
                 master_repl_offset:900\naof_enabled:{aof}\n"
            );
            let info = InfoText::parse(&text);
            ServerInfo { info, ..server.clone() }.has_not_gone_back_behind(position)
        };
        assert!(not_back(&new, 900, "0") && not_back(&old, 500, "0"));
        assert!(!not_back(&new, 901, "1") && !not_back(&old, 501, "1"));
        assert!(not_back(&"c".repeat(40), 5, "1") && !not_back(&"c".repeat(40), 5, "0"));
    }

    #[test]
    fn fields_are_read_from_crlf_text() {
        let id = "a".repeat(40);
        let info = InfoText::parse(&format!(
            "# Replication\r\nmaster_replid:{id}\r\nmaster_repl_offset:12\r\n\
             # Keyspace\r\ndb0:keys=3,expires=0\r\ndb9:keys=4,expires=1\r\n"
        ));
        assert_eq!(info.position().unwrap().offset, Offset(12));
        assert_eq!(info.keys(), 7);
        assert_eq!(info.databases(), [Database(0), Database(9)]);
        assert_eq!(info.number("nosuch"), 0);
    }
}
