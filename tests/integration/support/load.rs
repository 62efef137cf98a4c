//! Writers that know exactly what they wrote.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Cmd, Connection, Pipeline, cmd, pipe};

use super::redis_server::{RedisServer, connect};

/// Writers of a side.
const WRITERS: u32 = 3;

/// Between two pipelines of a writer: enough load to have many batches under way, little enough
/// that two sidecars without optimization follow on one core.
const PACE: Duration = Duration::from_millis(8);

/// A counter that all writers of both sides increment, so that a unit that is lost or applied twice
/// shows even where a later one hides it.
pub const SHARED: &str = "shared";

/// What writers did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Pipelines sent and answered.
    pub rounds: u64,
    /// Commands and transactions with an effect: local units.
    pub units: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.units += other.units;
    }
}

/// Writers at one server, until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Load {
    side: String,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts the writers of `side`; its name is in all their keys.
    pub fn start(server: &RedisServer, side: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |number: u32| {
            let (port, side, stop) = (server.port(), side.to_owned(), stop.clone());
            thread::spawn(move || {
                let mut writer = Writer::new(port, &side, number);
                while !stop.load(Ordering::Relaxed) {
                    writer.round();
                    thread::sleep(PACE);
                }
                writer.tally
            })
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { side: side.to_owned(), stop, writers }
    }

    /// Stops the writers and tells what each did.
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let writers = self.writers.into_iter().map(|writer| writer.join().expect("a writer"));
        Written { side: self.side, writers: writers.collect() }
    }
}

/// What the writers of a side wrote.
#[derive(Debug)]
pub struct Written {
    side: String,
    writers: Vec<Tally>,
}

impl Written {
    /// Of all writers.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.writers.iter().for_each(|tally| total += *tally);
        total
    }

    /// Checks that `server` holds exactly what was written here.
    #[track_caller]
    pub fn check(&self, server: &RedisServer) {
        for (number, tally) in (0..).zip(&self.writers) {
            let home = home(number);
            let mut client = server.client_db(home);
            let key = |name: &str| format!("{}:{number}:{name}", self.side);
            let count = |client: &mut Connection, command: &str, name: &str| -> u64 {
                // Not there if the writer was stopped before its first round.
                cmd(command)
                    .arg(key(name))
                    .query::<Option<u64>>(client)
                    .unwrap()
                    .unwrap_or_default()
            };
            let rounds = tally.rounds;
            let side = &self.side;
            assert_eq!(count(&mut client, "GET", "n"), rounds, "counter of {side}:{number}");
            assert_eq!(count(&mut client, "GET", "in"), 2 * rounds, "in MULTI, {side}:{number}");
            assert_eq!(count(&mut client, "GET", "other"), rounds, "another, {side}:{number}");
            let list: Vec<u64> =
                cmd("LRANGE").arg(key("list")).arg(0).arg(-1).query(&mut client).unwrap();
            assert!(list.iter().copied().eq(0..rounds), "list of {side}:{number}: {list:?}");
            let away = count(&mut server.client_db(home + 1), "GET", "away");
            assert_eq!(away, rounds, "another database, {side}:{number}");
        }
    }
}

/// Checks the counter that the writers of several sides share.
#[track_caller]
pub fn check_shared(server: &RedisServer, written: &[&Written]) {
    let rounds: u64 = written.iter().map(|side| side.total().rounds).sum();
    let value: u64 = cmd("GET").arg(SHARED).query(&mut server.client()).unwrap();
    assert_eq!(value, rounds, "the counter that both sides increment");
}

/// The database a writer works in; it also writes in the next one.
fn home(number: u32) -> u32 {
    number * 2
}

struct Writer {
    client: Connection,
    home: u32,
    prefix: String,
    tally: Tally,
}

impl Writer {
    fn new(port: u16, side: &str, number: u32) -> Self {
        let home = home(number);
        let mut client = connect(port, home).expect("the server takes a writer");
        // Tests that kill clients spare these.
        cmd("CLIENT").arg("SETNAME").arg("writer").exec(&mut client).expect("it gets a name");
        Self { client, home, prefix: format!("{side}:{number}"), tally: Tally::default() }
    }

    fn command(&self, name: &str, key: &str) -> Cmd {
        cmd(name).arg(format!("{}:{key}", self.prefix)).take()
    }

    /// One pipeline; nothing of it fails, and all of it is answered.
    fn round(&mut self) {
        let round = self.tally.rounds;
        let mut all = pipe();
        // A unit each.
        all.add_command(self.command("INCR", "n"));
        all.add_command(self.command("RPUSH", "list").arg(round).take());
        all.add_command(self.command("SET", "string").arg(round).arg("EX").arg(10_000).take());
        let mut units = 3;
        // One unit, in two databases.
        self.transaction(&mut all, |all, this| {
            all.add_command(this.command("INCR", "in"));
            all.cmd("SELECT").arg(this.home + 1);
            all.add_command(this.command("INCR", "away"));
            all.cmd("SELECT").arg(this.home);
            all.add_command(this.command("INCR", "in"));
        });
        // One unit of a single effect, which comes bare from 7.0 on.
        self.transaction(&mut all, |all, this| {
            all.add_command(this.command("DEL", "no such key"));
            all.add_command(this.command("INCR", "other"));
        });
        units += 2;
        // No effect, no unit.
        self.transaction(&mut all, |all, this| {
            all.add_command(this.command("DEL", "no such key"));
        });
        all.add_command(self.command("SADD", "set").arg("member").take());
        all.add_command(self.command("SET", "n").arg(0).arg("NX").take());
        all.add_command(self.command("HDEL", "no such key").arg("field").take());
        if round == 0 {
            // The first SADD does have an effect.
            units += 1;
        }
        all.cmd("SELECT").arg(0).cmd("INCR").arg(SHARED).cmd("SELECT").arg(self.home);
        units += 1;
        all.exec(&mut self.client).expect("a writer is answered");
        self.tally += Tally { rounds: 1, units };
    }

    fn transaction(&self, all: &mut Pipeline, fill: impl FnOnce(&mut Pipeline, &Self)) {
        all.cmd("MULTI");
        fill(all, self);
        all.cmd("EXEC");
    }
}
