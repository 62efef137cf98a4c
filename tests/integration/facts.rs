//! What the replication stream really looks like: one test for each fact that the design relies
//! on (numbers as in section 3 of the design; 13 is a measurement, not a test). They run a real
//! server with a scripted replica and nothing of ours, so that a new release of Redis or Valkey
//! that breaks an assumption is seen here first.

mod attaching;
mod effects;
mod limits;
mod transactions;

use redis::{Connection, RedisResult, Value, cmd};

use crate::support::redis_server::RedisServer;
use crate::support::replica::{Replica, Streamed};

/// A server with a replica that has read its stream so far.
struct Observed {
    server: RedisServer,
    replica: Replica,
    client: Connection,
    rounds: usize,
}

impl Observed {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &[&str]) -> Self {
        let server = RedisServer::start_with(settings);
        let replica = Replica::full_sync(&server.addr());
        let client = server.client();
        let mut observed = Self { server, replica, client, rounds: 0 };
        // The first round takes the SELECT with which every stream begins.
        observed.drain();
        observed
    }

    /// What the stream holds after what was read before, a line a command.
    fn drain(&mut self) -> Vec<String> {
        self.rounds += 1;
        let last = format!("PUBLISH end {}", self.rounds);
        run(&mut self.client, &last);
        self.replica.read_until(&last).iter().map(Streamed::text).collect()
    }

    /// Runs commands and tells what the stream holds of them.
    fn effects_of(&mut self, commands: &[&str]) -> Vec<String> {
        for command in commands {
            run(&mut self.client, command);
        }
        self.drain()
    }
}

/// The command in `line`, its words split at blanks.
fn command(line: &str) -> redis::Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command
}

fn run(client: &mut Connection, line: &str) -> Value {
    attempt(client, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn attempt(client: &mut Connection, line: &str) -> RedisResult<Value> {
    command(line).query(client)
}

/// The error code with which a command fails.
fn error_of(client: &mut Connection, line: &str) -> String {
    match attempt(client, line) {
        Ok(value) => panic!("{line} did not fail but gave {value:?}"),
        Err(error) => {
            format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
        }
    }
}

/// Whether `line` is `pattern`, in which each `#` stands for any number.
fn matches(line: &str, pattern: &str) -> bool {
    let (mut words, mut wanted) = (line.split(' '), pattern.split(' '));
    loop {
        match (words.next(), wanted.next()) {
            (None, None) => return true,
            (Some(word), Some("#")) if word.parse::<f64>().is_ok() => {}
            (Some(word), Some("#-#"))
                if word.split('-').all(|part| part.parse::<u64>().is_ok()) => {}
            (Some(word), Some(other)) if word == other => {}
            _ => return false,
        }
    }
}

#[track_caller]
fn assert_stream(seen: &[String], wanted: &[&str]) {
    let same = seen.len() == wanted.len()
        && seen.iter().zip(wanted).all(|(line, pattern)| matches(line, pattern));
    assert!(same, "the stream held {seen:#?} and not {wanted:#?}");
}
