//! One of the two servers that are compared.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::timeout;

use crate::position::Database;
use crate::redis::{Connection, Flavour, RedisError, ServerInfo, Target, Version};
use crate::resp;

/// How long one reply may take. Long: a DUMP of a huge value stops a server for seconds.
const REPLY_TIMEOUT: Duration = Duration::from_mins(1);

/// A connection that pipelines and knows its database.
#[derive(Debug)]
pub(super) struct Side {
    connection: Connection,
    version: Version,
    database: Database,
}

impl Side {
    pub(super) async fn open(target: &Target) -> Result<Self, RedisError> {
        let mut connection = Connection::open(target).await?;
        let version = ServerInfo::ask(&mut connection).await?.version;
        Ok(Self { connection, version, database: Database(0) })
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether fields of hashes can expire: Redis from 7.4, Valkey from 9.0.
    pub(super) fn has_field_expiry(&self) -> bool {
        match self.version.flavour {
            Flavour::Redis => self.version.number >= (7, 4, 0),
            Flavour::Valkey => self.version.number >= (9, 0, 0),
        }
    }

    pub(super) fn unexpected(&self, command: &str, what: impl Into<String>) -> RedisError {
        self.connection.unexpected(command, what)
    }

    pub(super) async fn select(&mut self, database: Database) -> Result<(), RedisError> {
        if self.database != database {
            self.connection.call(&["SELECT", &database.to_string()]).await?;
            self.database = database;
        }
        Ok(())
    }

    /// One command; an error reply is an `Err`.
    pub(super) async fn call(&mut self, args: &[&[u8]]) -> Result<BytesFrame, RedisError> {
        let name = String::from_utf8_lossy(args.first().copied().unwrap_or_default()).into_owned();
        let mut frames = self.pipeline(&name, &[args.to_vec()]).await?;
        match frames.pop() {
            Some(BytesFrame::Error(reply)) => Err(RedisError::Refused {
                addr: self.connection.addr().to_owned(),
                command: name,
                reply: reply.to_string(),
            }),
            Some(frame) => Ok(frame),
            None => Err(self.unexpected(&name, "nothing")),
        }
    }

    /// Many commands at once; the replies in order, errors among them.
    pub(super) async fn pipeline(
        &mut self,
        name: &str,
        commands: &[Vec<&[u8]>],
    ) -> Result<Vec<BytesFrame>, RedisError> {
        let mut out = BytesMut::new();
        for command in commands {
            resp::put_command(&mut out, command);
        }
        self.connection.write(&out).await?;
        let mut frames = Vec::with_capacity(commands.len());
        for _ in commands {
            let reply = timeout(REPLY_TIMEOUT, self.connection.reply(name)).await;
            let frame =
                reply.map_err(|_| self.connection.lost(std::io::ErrorKind::TimedOut.into()))??;
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The databases that hold keys, and how many keys there are in all.
    pub(super) async fn databases(&mut self) -> Result<(Vec<Database>, u64), RedisError> {
        let frame = self.call(&[b"INFO", b"keyspace"]).await?;
        let BytesFrame::BulkString(text) = frame else {
            return Err(self.unexpected("INFO", format!("{frame:?}")));
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let databases = text.lines().filter_map(|line| {
            let (number, _) = line.strip_prefix("db")?.split_once(':')?;
            number.parse().ok().map(Database)
        });
        let keys = crate::redis::InfoText::parse(&text).keys();
        Ok((databases.collect(), keys))
    }

    /// Some keys of the selected database, and the cursor of the next call; `0` ends.
    pub(super) async fn scan(
        &mut self,
        cursor: &[u8],
        count: usize,
    ) -> Result<(Bytes, Vec<Bytes>), RedisError> {
        let count = count.to_string();
        let frame = self.call(&[b"SCAN", cursor, b"COUNT", count.as_bytes()]).await?;
        let BytesFrame::Array(mut parts) = frame else {
            return Err(self.unexpected("SCAN", "no array"));
        };
        match (parts.pop(), parts.pop()) {
            (Some(BytesFrame::Array(keys)), Some(BytesFrame::BulkString(next))) => {
                // SCAN may give a key twice while its table is resized.
                let mut keys: Vec<_> = keys.into_iter().filter_map(bulk).collect();
                keys.sort_unstable();
                keys.dedup();
                Ok((next, keys))
            }
            _ => Err(self.unexpected("SCAN", "no cursor and keys")),
        }
    }

    /// For each key its DUMP (none if it is not there) and when it expires, in unix milliseconds.
    pub(super) async fn dump(&mut self, keys: &[Bytes]) -> Result<Vec<Dumped>, RedisError> {
        // PEXPIRETIME came with Redis 7.0. Before it, the moment is now plus what is left.
        let absolute = self.version.is_7_or_later();
        let mut commands: Vec<Vec<&[u8]>> = Vec::with_capacity(keys.len() * 3);
        for key in keys {
            commands.push(vec![b"DUMP", key]);
            if absolute {
                commands.push(vec![b"PEXPIRETIME", key]);
            } else {
                commands.push(vec![b"TIME"]);
                commands.push(vec![b"PTTL", key]);
            }
        }
        let mut frames = self.pipeline("DUMP", &commands).await?.into_iter();
        let mut dumped = Vec::with_capacity(keys.len());
        for _ in keys {
            let value = match frames.next() {
                Some(BytesFrame::BulkString(value)) => Some(value),
                Some(BytesFrame::Null) => None,
                other => return Err(self.unexpected("DUMP", format!("{other:?}"))),
            };
            let now = if absolute { Some(0) } else { frames.next().and_then(time_millis) };
            let expires = match (now, frames.next()) {
                (Some(_), Some(BytesFrame::Integer(-1 | -2))) => None,
                (Some(now), Some(BytesFrame::Integer(millis))) => Some(now + millis),
                other => return Err(self.unexpected("PEXPIRETIME", format!("{other:?}"))),
            };
            dumped.push(Dumped { value, expires });
        }
        Ok(dumped)
    }

    /// Which of the keys are there.
    pub(super) async fn exist(&mut self, keys: &[Bytes]) -> Result<Vec<bool>, RedisError> {
        let commands: Vec<Vec<&[u8]>> = keys.iter().map(|key| vec![&b"EXISTS"[..], key]).collect();
        let frames = self.pipeline("EXISTS", &commands).await?;
        frames
            .into_iter()
            .map(|frame| match frame {
                BytesFrame::Integer(count) => Ok(count > 0),
                other => Err(self.unexpected("EXISTS", format!("{other:?}"))),
            })
            .collect()
    }
}

/// A key's DUMP and expiry.
#[derive(Debug)]
pub(super) struct Dumped {
    /// The payload; none when there is no such key.
    pub(super) value: Option<Bytes>,
    /// Unix milliseconds.
    pub(super) expires: Option<i64>,
}

fn time_millis(frame: BytesFrame) -> Option<i64> {
    let BytesFrame::Array(parts) = frame else { return None };
    let mut numbers = parts.into_iter().map(|part| text(&part).parse::<i64>().ok());
    Some(numbers.next()?? * 1000 + numbers.next()?? / 1000)
}

/// The bytes of a bulk or simple string.
pub(super) fn bulk(frame: BytesFrame) -> Option<Bytes> {
    match frame {
        BytesFrame::BulkString(bytes) | BytesFrame::SimpleString(bytes) => Some(bytes),
        _ => None,
    }
}

/// A frame as text; for numbers, names and messages.
pub(super) fn text(frame: &BytesFrame) -> String {
    match frame {
        BytesFrame::BulkString(bytes) | BytesFrame::SimpleString(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        BytesFrame::Integer(number) => number.to_string(),
        BytesFrame::Error(error) => error.to_string(),
        BytesFrame::Null => "nil".to_owned(),
        BytesFrame::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
    }
}
