//! A real Redis, the port in front of it, and raw connections to both.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis_duplex::config::Config;
use redis_duplex::endpoint::{CommandTable, Endpoint, Inspect, PortStatus, SessionEnd, serve};
use redis_duplex::redis::{Connection, Target};
use redis_duplex::resp::{ReplyScanner, Request, put_command};
use redis_duplex::write_off::WriteOffSet;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A server on a free port; killed when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let program = program();
        // DEBUG is off by default from 7.0 on; servers before it refuse to start with this.
        let is_old = Command::new(&program)
            .arg("--version")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("v=6."));
        let debug: &[&str] = if is_old { &[] } else { &["--enable-debug-command", "yes"] };
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(debug)
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port, _directory: directory };
        let limit = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "redis-server doesn't start");
            std::thread::yield_now();
        }
        server
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server under test, as in the integration tests.
fn program() -> String {
    std::env::var("REDIS_DUPLEX_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// What the site would say.
struct Told;

impl Inspect for Told {
    fn replication_section(&self) -> String {
        "role:master\nconnected_slaves:0\n".to_owned()
    }
    fn duplex_section(&self) -> String {
        "site:a\n".to_owned()
    }
    fn duplex(&self, request: &Request) -> Result<String, String> {
        if request.arg_is(1, "status") { Ok("fine".to_owned()) } else { Err("what?".to_owned()) }
    }
    fn role(&self) -> u64 {
        1 << 40
    }
}

/// The port in front of a server.
pub struct Port {
    pub server: Server,
    pub number: u16,
    pub write_off: Arc<WriteOffSet>,
    /// What was handed over.
    pub handed: Arc<Mutex<Vec<SessionEnd>>>,
    pub status: Arc<PortStatus>,
    token: CancellationToken,
    _runtime: Runtime,
}

impl Port {
    /// With these lines added to the configuration.
    pub fn start(more: &str) -> Self {
        let server = Server::start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let addr = format!("127.0.0.1:{}", server.port);
        let listen = if more.contains("[listen]") { "" } else { "[listen]\naddr = \"x\"\n" };
        let text = format!("site = \"a\"\n[redis]\naddr = \"{addr}\"\n{listen}{more}");
        let config: Config = toml::from_str(&text).unwrap();
        let write_off = WriteOffSet::new();
        let status = Arc::<PortStatus>::default();
        let token = CancellationToken::new();
        let handed = Arc::new(Mutex::new(Vec::new()));
        let listener = runtime.block_on(async {
            let mut connection = Connection::open(&Target::open(addr)).await.unwrap();
            let table = CommandTable::load(&mut connection).await.unwrap();
            let (set, status) = (Arc::clone(&write_off), Arc::clone(&status));
            let endpoint = Endpoint::new(&config, table, set, Arc::new(Told), status);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener, endpoint)
        });
        let (listener, endpoint) = listener;
        let number = listener.local_addr().unwrap().port();
        let kept = Arc::clone(&handed);
        let hand_over = move |end| {
            let kept = Arc::clone(&kept);
            async move { kept.lock().unwrap().push(end) }
        };
        let _service = runtime.handle().spawn(serve(listener, endpoint, hand_over, token.clone()));
        Self { server, number, write_off, handed, status, token, _runtime: runtime }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.number)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// A raw connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { stream, input: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// As [`write`](Self::write), to who may have closed.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes this again and again, and reads nothing, until the connection is closed. For
    /// [`LIMIT`] at most, and for that long if it is not.
    pub fn write_until_closed(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(LIMIT)).unwrap();
        let limit = Instant::now() + LIMIT;
        while Instant::now() < limit && self.stream.write(bytes).is_ok() {}
    }

    /// Whether it is not closed within this time; what comes meanwhile is dropped.
    pub fn is_open(&mut self, within: Duration) -> bool {
        self.stream.set_read_timeout(Some(within)).unwrap();
        let read = self.stream.read(&mut [0; 4096]);
        self.stream.set_read_timeout(Some(LIMIT)).unwrap();
        match read {
            Ok(length) => length > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Nothing more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The next reply; empty when the connection is closed.
    pub fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(length) = ReplyScanner::default().scan(&self.input).unwrap() {
                return self.input.drain(..length).collect();
            }
            let mut buf = [0; 16384];
            match self.stream.read(&mut buf) {
                Ok(0) => return Vec::new(),
                Ok(length) => self.input.extend_from_slice(&buf[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Vec::new();
                }
                Err(error) => panic!("no reply: {error}; have {}", self.input.escape_ascii()),
            }
        }
    }

    /// Sends the words of a line, and reads its reply as text.
    pub fn say(&mut self, line: &str) -> String {
        self.write(&command(line));
        self.text()
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.reply()).replace("\r\n", " ").trim_end().to_owned()
    }
}

/// The words of a line as a command; `''` is an empty word.
pub fn command(line: &str) -> Vec<u8> {
    let words: Vec<&str> =
        line.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
    let mut out = Vec::new();
    put_command(&mut out, &words);
    out
}

/// Waits until `done`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < limit, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
