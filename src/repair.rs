//! The primary's word on keys that both sites wrote: they are read in marked transactions, and what
//! was found is journaled where the mark stands in the stream.
//!
//! The mark makes it exact: what stands before it is in the state, what stands behind is not. The
//! source takes the reply when it comes to the mark (`source::receive_stream`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::conflict::{Conflicts, Key, KeyTable, Span, each_command, selected, touches};
use crate::journal::{Journal, NotInJournal, Read};
use crate::observe::Problems;
use crate::position::{Database, Offset, Position, SiteName};
use crate::redis::{Connection, RedisError, ServerInfo, Target};
use crate::resp;
use crate::write_off::{KeyRead, Mark, Origin, WriteOffSet};

/// Keys in one read: they become one transaction at the peer.
const KEYS: usize = 32;
/// Between two reads: what happens to a key meanwhile needs one read, not many.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes of states in a second, on average: other traffic must not wait for large keys.
const BYTES_PER_SECOND: usize = 64 << 20;

/// Reads keys for one peer.
#[derive(Debug)]
pub struct Repairer {
    /// This site.
    pub site: SiteName,
    /// The peer that gets what is read.
    pub peer: SiteName,
    /// The local Redis.
    pub target: Target,
    /// Where conflicts are found.
    pub conflicts: Arc<Conflicts>,
    /// Where tags are entered.
    pub write_off: Arc<WriteOffSet>,
    /// What the peer may not have seen.
    pub journal: Arc<Journal>,
    /// Where commands have their keys.
    pub keys: Arc<KeyTable>,
    /// Where problems are told.
    pub problems: Arc<Problems>,
}

/// A connection for reading, and what it can do.
struct Reader {
    connection: Connection,
    /// It has PEXPIRETIME (from 7.0).
    absolute_times: bool,
}

impl Repairer {
    /// Reads keys until `stop`, across all breaks of the connection.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::for_connections();
        let mut reader = None;
        loop {
            let keys = tokio::select! {
                () = stop.cancelled() => return,
                span = self.conflicts.all_wanted() => {
                    self.ask_all(span, &stop).await;
                    self.conflicts.all_asked();
                    continue;
                }
                keys = self.conflicts.repairs.take(KEYS) => keys,
            };
            let read = tokio::select! {
                () = stop.cancelled() => return,
                read = self.read(&mut reader, &keys) => read,
            };
            let pause = match read {
                Ok(bytes) => {
                    backoff.reset();
                    PAUSE + Duration::from_secs(1) * to_u32(bytes) / to_u32(BYTES_PER_SECOND)
                }
                Err(error) => {
                    reader = None;
                    self.conflicts.repairs.again(&keys);
                    self.tell(&error);
                    backoff.wait()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks for all keys that were written within the span.
    async fn ask_all(&self, Span { from, to }: Span, stop: &CancellationToken) {
        let mut head = self.journal.watch();
        let epoch = self.journal.head().epoch;
        let there = head.wait_for(|head| head.epoch != epoch || head.position.offset >= to);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = there => {}
        }
        if let Err(error) = self.ask_journaled(from).await {
            // Then the peer's link does not find it either, and both sites take a full sync.
            warn!(site = %self.peer, %error, "what the peer has not seen can't be read");
        }
    }

    async fn ask_journaled(&self, from: Offset) -> Result<(), NotInJournal> {
        let head = self.journal.head();
        let mut reader = self.journal.read_from(Position { offset: from, ..head.position })?;
        let mut count = 0_usize;
        while let Read::Block(block) = reader.read().await? {
            for unit in block.units.iter().filter(|unit| unit.end > from) {
                let mut database = unit.database;
                each_command(&block.payload[unit.from..unit.to], |_, command| {
                    if command.is("SELECT") {
                        database = selected(command).unwrap_or(database);
                        return;
                    }
                    touches(&self.keys, database, command, |touch| {
                        let name = Bytes::copy_from_slice(touch.key);
                        let key = Key { database: touch.database, name };
                        self.conflicts.repairs.ask(key, from);
                        count += 1;
                    });
                });
            }
            self.conflicts.repairs.room().await;
            if block.end >= head.position.offset {
                break;
            }
        }
        info!(site = %self.peer, writes = count, "the peer is sent all that it may have missed of conflicts");
        Ok(())
    }

    fn tell(&self, error: &RedisError) {
        let text = "keys that both sites wrote can't be read, trying again";
        if error.is_away() {
            info!(site = %self.peer, %error, "{text}");
            return;
        }
        warn!(site = %self.peer, %error, "{text}");
        self.problems.add(format!("link {}", self.peer), format!("{text}: {error}"));
    }

    /// Reads these keys; how many bytes they have.
    async fn read(&self, reader: &mut Option<Reader>, keys: &[Key]) -> Result<usize, RedisError> {
        let mut open = match reader.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let (found, commands) = watch::channel(None);
        let read = KeyRead { site: self.peer.clone(), keys: keys.to_vec(), commands };
        let tag = self.write_off.issue(Origin::Read(Arc::new(read))).await;
        let mark = Mark { site: self.site.clone(), tag, checkpoint: None };
        let result = open.read(&mark, keys).await;
        match result {
            Ok(Some(commands)) => {
                let bytes = commands.len();
                found.send_replace(Some(commands));
                *reader = Some(open);
                Ok(bytes)
            }
            Ok(None) => {
                self.write_off.give_up(tag);
                *reader = Some(open);
                Err(RedisError::Refused {
                    addr: self.target.addr.clone(),
                    command: "EXEC".to_owned(),
                    reply: "the transaction was refused".to_owned(),
                })
            }
            Err(error) => {
                // If it was executed all the same, its mark finds nothing, and the keys are asked
                // for again.
                self.write_off.abandon(tag);
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Reader, RedisError> {
        let mut connection = Connection::open(&self.target).await?;
        let server = ServerInfo::ask(&mut connection).await?;
        let name = format!("redis-duplex:{}:keys-for-{}", self.site, self.peer);
        connection.call(&["CLIENT", "SETNAME", &name]).await?;
        Ok(Reader { connection, absolute_times: server.version.is_7_or_later() })
    }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Reader {
    /// Reads the keys in a transaction with this mark; commands that bring about what was found.
    /// None if the transaction was refused.
    async fn read(&mut self, mark: &Mark, keys: &[Key]) -> Result<Option<Bytes>, RedisError> {
        let mut out = BytesMut::new();
        resp::put_command(&mut out, &["MULTI"]);
        mark.put(&mut out);
        resp::put_command(&mut out, &["TIME"]);
        let mut queued = 2;
        let mut database = None;
        for key in keys {
            if database != Some(key.database) {
                resp::put_command(&mut out, &["SELECT", &key.database.to_string()]);
                database = Some(key.database);
                queued += 1;
            }
            resp::put_command(&mut out, &[b"DUMP", &key.name[..]]);
            let time: &[u8] = if self.absolute_times { b"PEXPIRETIME" } else { b"PTTL" };
            resp::put_command(&mut out, &[time, &key.name[..]]);
            queued += 2;
        }
        resp::put_command(&mut out, &["EXEC"]);
        self.connection.write(&out).await?;
        for _ in 0..=queued {
            // A refused command makes EXEC refuse the whole.
            match self.connection.reply("a read of keys").await {
                Ok(_) | Err(RedisError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let replies = match self.connection.reply("EXEC").await {
            Ok(BytesFrame::Array(replies)) => replies,
            Ok(other) => return Err(self.connection.unexpected("EXEC", format!("{other:?}"))),
            Err(RedisError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let commands = self.commands(keys, &replies);
        commands.map(Some).ok_or_else(|| self.connection.unexpected("EXEC", "not what was asked"))
    }

    fn commands(&self, keys: &[Key], replies: &[BytesFrame]) -> Option<Bytes> {
        let mut replies = replies.iter().skip(1);
        let now = unix_millis(replies.next()?)?;
        let mut out = BytesMut::new();
        let mut database: Option<Database> = None;
        for key in keys {
            if database != Some(key.database) {
                replies.next()?;
                if database.is_some() {
                    resp::put_command(&mut out, &["SELECT", &key.database.to_string()]);
                }
                database = Some(key.database);
            }
            let (value, time) = (replies.next()?, replies.next()?);
            match value {
                BytesFrame::Null => resp::put_command(&mut out, &[b"DEL", &key.name[..]]),
                BytesFrame::BulkString(payload) => {
                    let BytesFrame::Integer(time) = time else { return None };
                    let expires = match u64::try_from(*time) {
                        Err(_) => 0,
                        Ok(time) if self.absolute_times => time.max(1),
                        Ok(left) => now + left,
                    };
                    let expires = expires.to_string();
                    let words = [&b"RESTORE"[..], &key.name, expires.as_bytes(), payload];
                    let options = [&b"REPLACE"[..], b"ABSTTL"];
                    resp::put_command(&mut out, &[&words[..], &options].concat());
                }
                _ => return None,
            }
        }
        Some(out.freeze())
    }
}

/// The answer to TIME: seconds and microseconds.
fn unix_millis(reply: &BytesFrame) -> Option<u64> {
    let BytesFrame::Array(parts) = reply else { return None };
    let number = |at: usize| match parts.get(at)? {
        BytesFrame::BulkString(text) => std::str::from_utf8(text).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    Some(number(0)? * 1000 + number(1)? / 1000)
}
