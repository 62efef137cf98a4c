//! A simulated Redis: its connections, its replication stream byte by byte, PSYNC, and the ways it
//! goes down. As DESIGN tells of the real ones in "What the replication stream really looks like".

use std::collections::BTreeMap;

use bytes::{Buf, BytesMut};
use rand::Rng;
use rand::rngs::StdRng;

use super::store::{DATABASES, Store, Value};
use crate::position::{Checkpoint, Database, Offset, Position, ReplicationId};
use crate::redis::{InfoText, Psync, ServerInfo, Version};
use crate::resp::{self, Limits, Scanner};
use crate::write_off::{CHECKPOINT_KEY, Mark};

/// How a server writes its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Every transaction keeps its MULTI; SELECT comes before it.
    Redis6,
    /// A transaction with one effect comes bare; SELECT comes before MULTI.
    Redis7,
    /// Likewise, with SELECT behind MULTI.
    Valkey9,
}

/// Commands with the database that each ran in.
pub(super) type Commands = Vec<(u32, Vec<u8>)>;

/// What a local client changed at once.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub end: u64,
    pub commands: Commands,
    /// In the last mark before it.
    pub seen: Option<Seen>,
    /// How often the server had lost its history by then.
    pub epoch: u32,
}

/// The peer's position in a mark, and where the mark's batch ends in the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub position: Position,
    pub end: u64,
}

/// A batch with a mark that was executed.
#[derive(Debug)]
pub(super) struct MarkedBatch {
    pub mark: Mark,
    /// Without marks and other writes to the checkpoint hash.
    pub commands: Commands,
}

/// All that a failover to a replica that lags behind throws back.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub store: Store,
    /// Offset of the first byte of `stream`.
    first: u64,
    stream: Vec<u8>,
    pub local: Vec<Unit>,
    /// How many of the peer's units were applied here.
    pub applied: usize,
    pub seen: Option<Seen>,
}

impl History {
    pub(super) fn end(&self) -> u64 {
        self.first + self.stream.len() as u64
    }
}

/// A client's connection on which batches come. Its client may be gone: what it sent and has
/// arrived is executed all the same.
#[derive(Debug)]
struct Connection {
    database: u32,
    sent: BytesMut,
    queued: Option<Vec<Vec<Vec<u8>>>>,
    refused: bool,
    replies: BytesMut,
    /// Of the mutation.
    behind: Option<(u32, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Server {
    pub style: Style,
    pub replid: ReplicationId,
    second: Option<(ReplicationId, u64)>,
    pub history: History,
    /// A replica that took all up to then.
    lagging: Option<History>,
    pub epoch: u32,
    backlog_size: u64,
    /// None before there was a replica.
    backlog_first: Option<u64>,
    selected: Option<u32>,
    connections: BTreeMap<u64, Connection>,
    connected: u64,
    /// Out of memory.
    pub refusing: bool,
    /// A mutation: the checkpoint is written behind its batch, if the client is still there.
    pub checkpoint_apart: bool,
    /// All ids that it had.
    pub ids: Vec<ReplicationId>,
}

impl Server {
    pub(super) fn new(style: Style, backlog_size: u64, random: &mut StdRng) -> Self {
        let first = random.random_range(0..5000);
        let replid = replication_id(random);
        Self {
            style,
            ids: vec![replid],
            replid,
            second: None,
            history: History {
                store: Store::new(),
                first,
                stream: Vec::new(),
                local: Vec::new(),
                applied: 0,
                seen: None,
            },
            lagging: None,
            epoch: 0,
            backlog_size,
            backlog_first: random.random_bool(0.5).then_some(first),
            selected: None,
            connections: BTreeMap::new(),
            connected: 0,
            refusing: false,
            checkpoint_apart: false,
        }
    }

    fn position(&self) -> Position {
        Position { replid: self.replid, offset: Offset(self.history.end()) }
    }

    /// INFO.
    pub(super) fn info(&self) -> ServerInfo {
        let end = self.history.end();
        let first =
            self.backlog_first.map(|first| first.max(end.saturating_sub(self.backlog_size)));
        let (second, to) = self.second.map_or(("0".repeat(40), -1), |(id, to)| {
            (id.to_string(), i64::try_from(to + 1).unwrap())
        });
        let text = format!(
            "master_replid:{}\nmaster_replid2:{second}\nmaster_repl_offset:{end}\n\
             second_repl_offset:{to}\nrepl_backlog_active:{}\n\
             repl_backlog_first_byte_offset:{}\n",
            self.replid,
            u8::from(first.is_some()),
            first.map_or(0, |first| first + 1),
        );
        let version = Version::parse("redis 7.0.15").unwrap();
        ServerInfo { version, run_id: String::new(), info: InfoText::parse(&text) }
    }

    /// PSYNC; `None` asks for a full resync.
    pub(super) fn psync(&mut self, from: Option<Position>) -> Psync {
        if let (Some(from), Some(first)) = (from, self.backlog_first) {
            let (end, offset) = (self.history.end(), from.offset.0);
            let known = from.replid == self.replid
                || self.second.is_some_and(|(id, to)| id == from.replid && offset <= to);
            let first = first.max(end.saturating_sub(self.backlog_size));
            if known && (first..=end).contains(&offset) {
                return Psync::Continue(Some(self.replid));
            }
        }
        self.backlog_first.get_or_insert(self.history.end());
        self.selected = None;
        Psync::FullResync(self.position())
    }

    /// `MULTI, INFO replication, HSET <checkpoint> probe 1, EXEC`: the offset that INFO tells,
    /// `None` without a backlog.
    pub(super) fn probe(&mut self) -> Option<Position> {
        let before = self.position();
        let mut command = BytesMut::new();
        crate::write_off::put_probe(&mut command);
        self.run(&[(0, command.to_vec())], true);
        self.backlog_first.map(|_| before)
    }

    /// The stream from an offset on.
    pub(super) fn stream_from(&self, offset: u64) -> &[u8] {
        &self.history.stream[usize::try_from(offset - self.history.first).unwrap()..]
    }

    /// What a local client does; its effects are a unit.
    pub(super) fn client(&mut self, commands: &[(u32, Vec<u8>)], transaction: bool) {
        let (_, mut effects) = self.run(commands, transaction);
        effects.retain(|(_, raw)| !is_about_checkpoint(raw));
        if !effects.is_empty() {
            let (end, seen, epoch) = (self.history.end(), self.history.seen, self.epoch);
            self.history.local.push(Unit { end, commands: effects, seen, epoch });
        }
    }

    pub(super) fn ping(&mut self, acknowledge: bool) {
        let words: &[&str] = if acknowledge { &["REPLCONF", "GETACK", "*"] } else { &["PING"] };
        resp::put_command(&mut self.history.stream, words);
    }

    /// Executes at once, and puts the effects into the stream. Replies, and what had effect.
    fn run(&mut self, commands: &[(u32, Vec<u8>)], transaction: bool) -> (Vec<BytesMut>, Commands) {
        let (mut replies, mut effects) = (Vec::new(), Vec::new());
        for (database, raw) in commands {
            let outcome = self.history.store.execute(*database, &words(raw));
            replies.push(outcome.reply);
            if outcome.effect {
                effects.push((*database, raw.clone()));
            }
        }
        let multi = transaction && (effects.len() > 1 || self.style == Style::Redis6);
        let Some((first, _)) = effects.first() else { return (replies, effects) };
        if multi && self.style != Style::Valkey9 {
            self.select(*first);
        }
        if multi {
            self.history.stream.extend_from_slice(crate::journal::MULTI);
        }
        for (database, raw) in &effects {
            self.select(*database);
            self.history.stream.extend_from_slice(raw);
        }
        if multi {
            self.history.stream.extend_from_slice(crate::journal::EXEC);
        }
        (replies, effects)
    }

    fn select(&mut self, database: u32) {
        if self.selected != Some(database) {
            let words = ["SELECT", &database.to_string()];
            resp::put_command(&mut self.history.stream, &words);
            self.selected = Some(database);
        }
    }

    /// A new client.
    pub(super) fn connect(&mut self) -> u64 {
        self.connected += 1;
        let connection = Connection {
            database: 0,
            sent: BytesMut::new(),
            queued: None,
            refused: false,
            replies: BytesMut::new(),
            behind: None,
        };
        self.connections.insert(self.connected, connection);
        self.connected
    }

    /// CLIENT KILL of all others.
    pub(super) fn kill_all_but(&mut self, id: u64) {
        self.connections.retain(|other, _| *other == id);
    }

    pub(super) fn send(&mut self, id: u64, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent.extend_from_slice(bytes);
        }
    }

    /// The client is gone; only so many of the bytes that are on their way will arrive.
    pub(super) fn abandon(&mut self, id: u64, random: &mut StdRng) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let all = connection.sent.len();
            let arrive = if random.random_bool(0.5) { all } else { random.random_range(0..=all) };
            connection.sent.truncate(arrive);
            connection.behind = None;
        }
    }

    pub(super) fn is_connected(&self, id: u64) -> bool {
        self.connections.contains_key(&id)
    }

    /// Takes up to `limit` bytes of replies.
    pub(super) fn replies(&mut self, id: u64, limit: usize) -> BytesMut {
        self.connections.get_mut(&id).map_or_else(BytesMut::new, |connection| {
            let length = connection.replies.len().min(limit);
            connection.replies.split_to(length)
        })
    }

    /// Executes the next command of a connection, if it is there.
    pub(super) fn execute(&mut self, nth: usize) -> Option<MarkedBatch> {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        let id = *ids.get(nth % ids.len().max(1))?;
        let mut connection = self.connections.remove(&id)?;
        let executed = self.execute_next(&mut connection);
        self.connections.insert(id, connection);
        executed
    }

    fn execute_next(&mut self, connection: &mut Connection) -> Option<MarkedBatch> {
        if let Some(write) = connection.behind.take() {
            self.run(&[write], true);
        }
        let mut scanner = Scanner::new(Limits::STREAM);
        let args: Vec<Vec<u8>> = {
            let command = scanner.scan(&connection.sent).unwrap()?;
            command.args().map(<[u8]>::to_vec).collect()
        };
        let length = encoded(&args).len();
        connection.sent.advance(length);
        let out = &mut connection.replies;
        match &args[0][..] {
            b"MULTI" => {
                connection.queued = Some(Vec::new());
                resp::put_simple(out, "OK");
            }
            b"DISCARD" => {
                (connection.queued, connection.refused) = (None, false);
                resp::put_simple(out, "OK");
            }
            b"EXEC" => return self.exec(connection),
            name => {
                let needs_memory = [&b"SET"[..], b"HSET", b"INCR", b"RPUSH"].contains(&name);
                if self.refusing && needs_memory {
                    connection.refused = true;
                    resp::put_error(out, "OOM command not allowed");
                } else if let Some(queued) = &mut connection.queued {
                    queued.push(args);
                    resp::put_simple(out, "QUEUED");
                } else if name == b"SELECT" {
                    connection.database = number(&args[1]);
                    assert!(connection.database < DATABASES);
                    resp::put_simple(out, "OK");
                } else {
                    let (replies, _) = self.run(&[(connection.database, encoded(&args))], false);
                    connection.replies.extend_from_slice(&replies[0]);
                }
            }
        }
        None
    }

    fn exec(&mut self, connection: &mut Connection) -> Option<MarkedBatch> {
        let queued = connection.queued.take();
        let refused = std::mem::take(&mut connection.refused);
        let out = &mut connection.replies;
        let Some(queued) = queued else {
            resp::put_error(out, "ERR EXEC without MULTI");
            return None;
        };
        if refused {
            let why = "EXECABORT Transaction discarded because of previous errors.";
            resp::put_error(out, why);
            return None;
        }
        if self.refusing {
            resp::put_error(out, "EXECABORT Transaction discarded because of: OOM command");
            return None;
        }
        let (mut commands, mut selects) = (Vec::new(), Vec::new());
        for (place, args) in queued.iter().enumerate() {
            if args[0] == b"SELECT" {
                connection.database = number(&args[1]);
                selects.push(place);
            } else {
                commands.push((connection.database, encoded(args)));
            }
        }
        let mark = commands.iter().find_map(|(_, raw)| mark_of(raw));
        if self.checkpoint_apart
            && let Some(mark) = &mark
        {
            let mut without = Vec::new();
            Mark { checkpoint: None, ..mark.clone() }.put(&mut without);
            let database = commands[0].0;
            connection.behind = Some(std::mem::replace(&mut commands[0], (database, without)));
        }
        let (replies, _) = self.run(&commands, true);
        resp::put_array(out, queued.len());
        let mut replies = replies.into_iter();
        for place in 0..queued.len() {
            if selects.contains(&place) {
                resp::put_simple(out, "OK");
            } else {
                out.extend_from_slice(&replies.next().unwrap());
            }
        }
        let mark = mark?;
        commands.retain(|(_, raw)| !is_about_checkpoint(raw));
        if let Some(Checkpoint { position, .. }) = mark.checkpoint {
            self.history.seen = Some(Seen { position, end: self.history.end() });
        }
        Some(MarkedBatch { mark, commands })
    }

    /// The values of some fields of the checkpoint hash, in each database.
    pub(super) fn checkpoint_fields(&self, names: &[String]) -> Vec<(Database, Vec<Vec<u8>>)> {
        let mut found = Vec::new();
        for number in 0..DATABASES {
            let keys = self.history.store.database(number);
            if let Some(Value::Hash(hash)) = keys.get(CHECKPOINT_KEY) {
                let values = names.iter().filter_map(|name| hash.get(name.as_bytes()).cloned());
                found.push((Database(number), values.collect()));
            }
        }
        found
    }

    /// The replica has taken all up to now.
    pub(super) fn let_replica_catch_up(&mut self) {
        self.lagging = Some(self.history.clone());
    }

    /// A replica is promoted: one that has all, or the one that lags.
    pub(super) fn fail_over(&mut self, lagging: bool, random: &mut StdRng) {
        if lagging && let Some(history) = self.lagging.take() {
            self.history = history;
        }
        self.second = Some((self.replid, self.history.end()));
        self.begin(random);
    }

    /// It ends and comes back with its data. From 7.0 on, what ended well knows where it was, but
    /// has no backlog.
    pub(super) fn restart(&mut self, well: bool, random: &mut StdRng) {
        if well && self.style != Style::Redis6 {
            self.second = Some((self.replid, self.history.end()));
            self.backlog_first = Some(self.history.end());
        } else {
            self.second = None;
            self.backlog_first = None;
            self.history.first = 0;
            self.history.stream.clear();
            self.history.seen = None;
            self.epoch += 1;
        }
        self.begin(random);
    }

    fn begin(&mut self, random: &mut StdRng) {
        self.replid = replication_id(random);
        self.ids.push(self.replid);
        self.selected = None;
        self.connections.clear();
        self.lagging = None;
        self.refusing = false;
    }
}

fn replication_id(random: &mut StdRng) -> ReplicationId {
    let digits: Vec<u8> =
        (0..40).map(|_| b"0123456789abcdef"[random.random_range(0..16)]).collect();
    ReplicationId::from_bytes(&digits).unwrap()
}

pub(super) fn encoded<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = Vec::new();
    resp::put_command(&mut out, args);
    out
}

pub(super) fn words(raw: &[u8]) -> Vec<Vec<u8>> {
    let mut scanner = Scanner::new(Limits::STREAM);
    let command = scanner.scan(raw).unwrap().unwrap();
    command.args().map(<[u8]>::to_vec).collect()
}

fn number(text: &[u8]) -> u32 {
    str::from_utf8(text).unwrap().parse().unwrap()
}

fn mark_of(raw: &[u8]) -> Option<Mark> {
    Mark::parse(Scanner::new(Limits::STREAM).scan(raw).unwrap().unwrap())
}

fn is_about_checkpoint(raw: &[u8]) -> bool {
    words(raw).get(1).is_some_and(|key| key == CHECKPOINT_KEY)
}
