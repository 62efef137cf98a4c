//! Clients that write at both sites, through all faults, and keep a ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{Cmd, Connection, RedisResult, Value, cmd, pipe};

use crate::ledger::{Cell, Fate, Ledger, Shape};
use crate::options::Kind;
use crate::schedule::SITES;
use crate::support::redis_server::{RedisServer, connect};

/// Writers of a site.
const WRITERS: u32 = 3;
/// Between two pipelines of a writer: many batches are under way, and two sidecars and two servers
/// that fsync each write follow on two processors.
const PACE: Duration = Duration::from_millis(4);
/// Writes in a pipeline, at most.
const PIPELINE: usize = 5;
/// Between two tries to connect.
const RECONNECT: Duration = Duration::from_millis(10);
/// Counters that both sites write.
const SHARED: u64 = 4;
/// Tests that kill clients tell writers by this name.
pub const NAME: &str = "writer";

/// Writers at both sites.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Writers {
    pub fn start(servers: [&RedisServer; 2], kind: Kind, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (site, server) in servers.iter().enumerate() {
            for number in 0..WRITERS {
                let random = StdRng::seed_from_u64(seed ^ (u64::from(number) * 2 + site as u64));
                let mut writer = Writer {
                    port: server.port(),
                    prefix: format!("{}:{number}", SITES[site]),
                    home: number * 2,
                    kind,
                    random,
                    written: 0,
                    ledger: Ledger::default(),
                };
                let stop = stop.clone();
                threads.push(thread::spawn(move || {
                    writer.run(&stop);
                    writer.ledger
                }));
            }
        }
        Self { stop, threads }
    }

    /// Stops them; what all of them wrote.
    pub fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for thread in self.threads {
            all.merge(thread.join().expect("a writer"));
        }
        all
    }
}

/// Transactions that were taken apart: a key of theirs, and what is wrong.
pub fn torn_transactions(server: &RedisServer) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for number in 0..WRITERS {
        let mut home = server.client_db(number * 2);
        let mut away = server.client_db(number * 2 + 1);
        for site in SITES {
            let counter = format!("{site}:{number}:in");
            let within: Option<u64> = cmd("GET").arg(&counter).query(&mut home).unwrap();
            let list = format!("{site}:{number}:away");
            let beside: u64 = cmd("LLEN").arg(&list).query(&mut away).unwrap();
            if within.unwrap_or(0) != 2 * beside {
                let what = format!("it is {within:?} and {list} has {beside} elements");
                found.push((counter, what));
            }
        }
    }
    found
}

/// One unit: a command or a transaction, and what it does.
struct Write {
    commands: Vec<Cmd>,
    effects: Vec<(Cell, Option<u64>)>,
}

struct Writer {
    port: u16,
    prefix: String,
    /// The database it works in; transactions write in the next one too.
    home: u32,
    kind: Kind,
    random: StdRng,
    /// Writes so far: each has its number, so that elements of lists can be told apart.
    written: u64,
    ledger: Ledger,
}

impl Writer {
    fn run(&mut self, stop: &AtomicBool) {
        let mut connection: Option<Connection> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(client) = &mut connection else {
                connection = self.connect().ok();
                if connection.is_none() {
                    thread::sleep(RECONNECT);
                }
                continue;
            };
            let count = self.random.random_range(1..=PIPELINE);
            let writes: Vec<Write> = (0..count).map(|_| self.draw()).collect();
            if !self.send(client, writes) {
                connection = None;
            }
            thread::sleep(PACE);
        }
    }

    fn connect(&self) -> RedisResult<Connection> {
        let mut client = connect(self.port, self.home)?;
        cmd("CLIENT").arg("SETNAME").arg(NAME).exec(&mut client)?;
        Ok(client)
    }

    /// Sends writes and enters their fates; false if the connection is lost.
    fn send(&mut self, client: &mut Connection, writes: Vec<Write>) -> bool {
        let mut pipeline = pipe();
        for command in writes.iter().flat_map(|write| &write.commands) {
            pipeline.add_command(command.clone());
        }
        let replies: RedisResult<Vec<Value>> = pipeline.ignore_errors().query(client);
        let mut left = replies.as_deref().unwrap_or_default();
        for write in writes {
            let fate = match left.split_at_checked(write.commands.len()) {
                Some((replies, rest)) => {
                    left = rest;
                    fate_of(replies)
                }
                None => Fate::Unknown,
            };
            for (cell, number) in write.effects {
                self.ledger.enter(cell, number, fate);
            }
        }
        replies.is_ok()
    }

    fn draw(&mut self) -> Write {
        let number = self.written;
        self.written += 1;
        let by = self.random.random_range(1..4_u64);
        let resume = self.kind == Kind::Resume;
        match self.random.random_range(0..13) {
            0 => self.one("INCRBY", Shape::Counter, "count", Some(by), |c| c.arg(by)),
            1 => self.one("RPUSH", Shape::Right, "right", Some(number), |c| c.arg(number)),
            2 => self.one("LPUSH", Shape::Left, "left", Some(number), |c| c.arg(number)),
            3 => self.one("XADD", Shape::Stream, "stream", Some(number), |c| {
                c.arg("*").arg("n").arg(number)
            }),
            4 => self.one("XADD", Shape::Stream, "ids", Some(number), |c| {
                c.arg(format!("{}-1", number + 1)).arg("n").arg(number)
            }),
            5 => self.one("SET", Shape::Register, "last", Some(number), |c| c.arg(number)),
            6 => self.one("SET", Shape::Register, "expires", Some(number), |c| {
                c.arg(number).arg("EX").arg(10_000)
            }),
            // Deleted keys may come back with a full sync, as the README says.
            7 if resume => self.one("DEL", Shape::Register, "last", None, |c| c),
            8 | 9 if resume => self.shared(by),
            10 => self.hash(by),
            _ => self.transaction(number),
        }
    }

    fn cell(&self, shape: Shape, name: &str) -> Cell {
        let key = format!("{}:{name}", self.prefix);
        Cell { database: self.home, key, field: None, shape }
    }

    /// A single command on an own key.
    fn one(
        &self,
        command: &str,
        shape: Shape,
        name: &str,
        number: Option<u64>,
        arguments: impl FnOnce(&mut Cmd) -> &mut Cmd,
    ) -> Write {
        let cell = self.cell(shape, name);
        let mut cmd = cmd(command);
        arguments(cmd.arg(&cell.key));
        Write { commands: vec![cmd], effects: vec![(cell, number)] }
    }

    fn hash(&mut self, by: u64) -> Write {
        let field = format!("f{}", self.random.random_range(0..SHARED));
        let cell = self.cell(Shape::Counter, "hash");
        let command = cmd("HINCRBY").arg(&cell.key).arg(&field).arg(by).take();
        Write {
            commands: vec![command],
            effects: vec![(Cell { field: Some(field), ..cell }, Some(by))],
        }
    }

    /// A counter that both sites write, in database 0.
    fn shared(&mut self, by: u64) -> Write {
        let name = self.random.random_range(0..SHARED).to_string();
        let (key, field, command) = if self.random.random() {
            let key = "shared:hash".to_owned();
            let command = cmd("HINCRBY").arg(&key).arg(&name).arg(by).take();
            (key, Some(name), command)
        } else {
            let key = format!("shared:{name}");
            let command = cmd("INCRBY").arg(&key).arg(by).take();
            (key, None, command)
        };
        let cell = Cell { database: 0, key, field, shape: Shape::Counter };
        let commands = vec![select(0), command, select(self.home)];
        Write { commands, effects: vec![(cell, Some(by))] }
    }

    /// One unit in two databases.
    fn transaction(&self, number: u64) -> Write {
        let within = self.cell(Shape::Counter, "in");
        let away = Cell { database: self.home + 1, ..self.cell(Shape::Right, "away") };
        let commands = vec![
            cmd("MULTI"),
            cmd("INCR").arg(&within.key).take(),
            select(away.database),
            cmd("RPUSH").arg(&away.key).arg(number).take(),
            select(self.home),
            cmd("INCR").arg(&within.key).take(),
            cmd("EXEC"),
        ];
        Write { commands, effects: vec![(within, Some(2)), (away, Some(number))] }
    }
}

fn select(database: u32) -> Cmd {
    cmd("SELECT").arg(database).take()
}

/// What the replies to a write's commands say. A server that loads its data refuses.
fn fate_of(replies: &[Value]) -> Fate {
    let refusal = replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    });
    match refusal {
        None => Fate::Done,
        Some("LOADING" | "EXECABORT") => Fate::Refused,
        Some(other) => panic!("a write was refused: {other}, {replies:?}"),
    }
}
