//! A real Redis (or Valkey) server in a directory of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis::{Client, Connection, TlsCertificates};
use tempfile::TempDir;

use super::ports::Port;
use super::process::Process;
use super::version::Version;
use super::{PATIENCE, eventually};

/// How often another port is tried when a server cannot start.
const ATTEMPTS: usize = 5;

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    // The process is declared first, so that it ends before its directory goes.
    process: Process,
    program: String,
    port: Port,
    settings: Vec<String>,
    version: Version,
    dir: TempDir,
}

impl RedisServer {
    /// Starts a server with the settings of tests and returns when it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more settings, each a word as on the command line:
    /// `&["--maxmemory", "10mb"]`. They win over those of tests.
    pub fn start_with(extra: &[&str]) -> Self {
        Self::start_program(&binary(), extra)
    }

    /// Starts another program than the one under test, likewise.
    pub fn start_program(program: &str, extra: &[&str]) -> Self {
        let program = program.to_string();
        let settings: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let version = Version::of_binary(&program);
        let dir = TempDir::new().expect("temporary directory");
        for _ in 0..ATTEMPTS {
            let port = Port::free();
            let mut process = spawn(&program, &port, version, &settings, dir.path());
            if answers(&mut process, port.number()) {
                return Self { process, program, port, settings, version, dir };
            }
        }
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("the server did not start in {ATTEMPTS} attempts: {log}");
    }

    /// `127.0.0.1:<port>`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What is under test.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The server's directory, where its snapshots and its `log` are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new connection, database 0.
    pub fn client(&self) -> Connection {
        self.client_db(0)
    }

    /// A new connection with this database selected.
    pub fn client_db(&self, database: u32) -> Connection {
        connect(self.port(), database).expect("the server takes a connection")
    }

    /// The fields of an INFO section.
    pub fn info(&self, section: &str) -> HashMap<String, String> {
        let text: String =
            redis::cmd("INFO").arg(section).query(&mut self.client()).expect("INFO answers");
        info_fields(&text)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; returns when it has ended.
    pub fn stop(&mut self) {
        let status = self.process.stop();
        assert!(status.success(), "the server ended with {status}");
    }

    /// SIGSTOP: connections stay, nothing answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop) (kills it if it still
    /// runs), on the same port, in the same directory, with the same settings.
    pub fn restart(&mut self) {
        if self.process.ended().is_none() {
            self.process.kill();
        }
        self.process =
            spawn(&self.program, &self.port, self.version, &self.settings, self.dir.path());
        let port = self.port();
        assert!(answers(&mut self.process, port), "the server did not start again");
    }
}

/// The fields of an INFO answer by name.
pub fn info_fields(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.trim_end().split_once(':'))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// A connection to a RESP port of 127.0.0.1.
pub fn connect(port: u16, database: u32) -> redis::RedisResult<Connection> {
    connect_to(&format!("127.0.0.1:{port}/{database}"))
}

/// A connection to `[:password@]host:port[/database]`.
pub fn connect_to(place: &str) -> redis::RedisResult<Connection> {
    Client::open(format!("redis://{place}"))?.get_connection_with_timeout(PATIENCE)
}

/// A connection in TLS to a port of 127.0.0.1.
pub fn connect_tls(port: u16, tls: TlsCertificates) -> redis::RedisResult<Connection> {
    let client = Client::build_with_tls(format!("rediss://127.0.0.1:{port}/0"), tls)?;
    client.get_connection_with_timeout(PATIENCE)
}

/// The server under test.
pub fn binary() -> String {
    std::env::var("REDIS_DUPLEX_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_string())
}

fn spawn(program: &str, port: &Port, version: Version, settings: &[String], dir: &Path) -> Process {
    let number = port.number().to_string();
    let mut command = Command::new(program);
    command.current_dir(dir).args(["--port", &number, "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--databases", "16", "--repl-diskless-sync-delay", "0"]);
    // The default holds no minute of a test's writes, which sidecars tell as a problem.
    command.args(["--repl-backlog-size", "32mb"]);
    if version.is_seven_or_later() {
        // DEBUG is off by default from 7.0 on; servers before it refuse to start with this.
        command.args(["--enable-debug-command", "yes"]);
    }
    let log: PathBuf = dir.join("log");
    for setting in settings {
        // 6.2 takes several words in one argument as one word.
        let words = if setting.is_empty() { vec![""] } else { setting.split(' ').collect() };
        command.args(words);
    }
    Process::spawn(&mut command, &log)
}

/// Waits until this very process answers: another server may sit on the port by a race.
fn answers(process: &mut Process, port: u16) -> bool {
    let mut ours = false;
    eventually("a Redis server to answer or to end", PATIENCE, || {
        ours = process_id(port) == Some(process.id());
        ours || process.ended().is_some()
    });
    ours
}

fn process_id(port: u16) -> Option<u32> {
    let mut connection = connect(port, 0).ok()?;
    redis::cmd("PING").query::<String>(&mut connection).ok()?;
    let text: String = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
    info_fields(&text).get("process_id")?.parse().ok()
}
