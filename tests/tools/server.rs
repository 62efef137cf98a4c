//! Real servers.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis_duplex::redis::Target;

/// A server on a free port, killed when dropped.
pub struct Server {
    child: Child,
    pub directory: tempfile::TempDir,
    pub connection: redis::Connection,
    pub addr: String,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(directory.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        let connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < limit, "it doesn't start: {error}"),
            }
            std::thread::yield_now();
        };
        Self { child, directory, connection, addr: format!("127.0.0.1:{port}") }
    }

    /// Runs lines of commands; words have no blanks in them.
    pub fn run(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut command = redis::Cmd::new();
            for word in line.split(' ') {
                command.arg(word);
            }
            let reply: redis::RedisResult<redis::Value> = command.query(&mut self.connection);
            reply.unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    pub fn target(&self) -> Target {
        Target::open(&self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
