//! Our real binary, in a directory of its own.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis::{Connection, TlsCertificates};
use tempfile::TempDir;

use super::certificates::{Authority, Issued};
use super::network::Host;
use super::ports::Port;
use super::process::Process;
use super::redis_server::{RedisServer, connect_tls, connect_to, info_fields};
use super::{PATIENCE, eventually};

/// Lines of the log shown when a test fails.
const LOG_TAIL: usize = 60;

/// Long loads overrun any backlog within a minute.
const SMALL_BACKLOG: &str = "repl-backlog-size is too small";

/// Of the user that sidecars on different hosts have.
const PASSWORD: &str = "secret";

/// What a sidecar is to be; [`start`](Self::start) makes it so.
#[derive(Debug)]
pub struct Builder {
    site: String,
    redis: String,
    primary: String,
    listen: Port,
    http: Port,
    peers: String,
    top: String,
    tables: String,
    journal: Option<PathBuf>,
    host: Option<Host>,
    tls: Option<TlsCertificates>,
}

impl Builder {
    /// A sidecar of site `site` beside `redis`, with no peer; the primary site is `a`.
    pub fn new(site: &str, redis: &RedisServer) -> Self {
        Self {
            site: site.to_string(),
            redis: redis.addr(),
            primary: "a".to_string(),
            listen: Port::free(),
            http: Port::free(),
            peers: String::new(),
            top: String::new(),
            tables: String::new(),
            journal: None,
            host: None,
            tls: None,
        }
    }

    /// Where it will listen for RESP; known before it starts, for the configuration of its peer.
    pub fn addr(&self) -> String {
        let host = self.host.as_ref().map_or("127.0.0.1", |host| host.address);
        format!("{host}:{}", self.listen.number())
    }

    /// Runs at a host of a network. It and its peers have a user then, since they are not on one
    /// machine; to be said before [`peer`](Self::peer).
    pub fn at(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        let user = format!("name = \"default\"\npassword = \"{PASSWORD}\"\nrole = \"admin\"");
        self.setting("[user]", &user)
    }

    /// Reaches its Redis at another address, such as a relay's.
    pub fn redis_addr(mut self, addr: &str) -> Self {
        self.redis = addr.to_string();
        self
    }

    /// Has its journal elsewhere than in its own directory.
    pub fn journal_dir(mut self, dir: PathBuf) -> Self {
        self.journal = Some(dir);
        self
    }

    /// Adds a peer, reached at `addr`.
    pub fn peer(mut self, site: &str, addr: &str) -> Self {
        write!(self.peers, "\n[[peer]]\nsite = \"{site}\"\naddr = \"{addr}\"\n").expect("a string");
        if self.host.is_some() {
            writeln!(self.peers, "password = \"{PASSWORD}\"").expect("a string");
        }
        self
    }

    /// Adds a peer with more lines in its table: `tls = true`.
    pub fn peer_with(mut self, site: &str, addr: &str, lines: &str) -> Self {
        self = self.peer(site, addr);
        writeln!(self.peers, "{lines}").expect("a string");
        self
    }

    /// Speaks TLS at its port, with this certificate; with `client_ca` clients need one of that
    /// authority. Clients of the test trust `authority` and show `shown`.
    pub fn tls(mut self, own: &Issued, authority: &Authority, shown: Option<&Issued>) -> Self {
        let mut lines = own.settings();
        if shown.is_some() {
            write!(lines, "\nclient_ca = \"{}\"", authority.file.display()).expect("a string");
        }
        self.tls = Some(authority.client(shown));
        self.setting("listen", &lines)
    }

    /// Names another primary site than `a`.
    pub fn primary(mut self, site: &str) -> Self {
        self.primary = site.to_string();
        self
    }

    /// Adds lines to a table of the configuration: `.setting("apply", "batch_commands = 1")`.
    /// `redis`, `listen`, `journal` and `conflict` have lines already and take more; a table
    /// named like `[user]` becomes an entry of a list.
    pub fn setting(mut self, table: &str, lines: &str) -> Self {
        writeln!(self.tables, "{table}\t{}", lines.replace('\n', "\t")).expect("a string");
        self
    }

    /// Adds lines before the first table.
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// Starts it and returns when its port answers PING.
    pub fn start(self) -> Sidecar {
        let mut sidecar = self.start_without_waiting();
        sidecar.wait_ready();
        sidecar
    }

    /// Starts it and returns at once, for a sidecar that can't be ready yet.
    pub fn start_without_waiting(self) -> Sidecar {
        let dir = TempDir::new().expect("temporary directory");
        let config = dir.path().join("config.toml");
        let journal = self.journal.clone().unwrap_or_else(|| dir.path().join("journal"));
        std::fs::write(&config, self.config(&journal)).expect("config written");
        let log = dir.path().join("log");
        let process = spawn(&config, &log, self.host.as_ref());
        let Self { listen, http, host, tls, .. } = self;
        Sidecar {
            process,
            listen,
            http,
            host,
            tls,
            config,
            log,
            allowed: vec![SMALL_BACKLOG.to_owned()],
            _dir: dir,
        }
    }

    /// The configuration file's text.
    fn config(&self, journal: &Path) -> String {
        let listen = match self.host {
            Some(_) => format!("0.0.0.0:{}", self.listen.number()),
            None => self.addr(),
        };
        let base = [
            ("redis", format!("addr = \"{}\"", self.redis)),
            ("listen", format!("addr = \"{listen}\"\thttp = \"127.0.0.1:{}\"", self.http.number())),
            ("journal", format!("dir = \"{}\"", journal.display())),
            ("conflict", format!("primary = \"{}\"", self.primary)),
        ];
        let extra = self.tables.lines().filter_map(|line| line.split_once('\t'));
        let mut tables: Vec<(&str, String)> = base.into_iter().collect();
        for (name, lines) in extra {
            match tables.iter_mut().find(|(other, _)| *other == name && !name.starts_with('[')) {
                Some((_, present)) => *present = format!("{present}\t{lines}"),
                None => tables.push((name, lines.to_string())),
            }
        }
        let mut text = format!("site = \"{}\"\n{}", self.site, self.top);
        for (name, lines) in tables {
            write!(text, "\n[{name}]\n{}\n", lines.replace('\t', "\n")).expect("a string");
        }
        text + &self.peers
    }
}

/// A running sidecar; killed when dropped, and then its log must hold no WARN and no ERROR but
/// those that the test declared.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    listen: Port,
    http: Port,
    config: PathBuf,
    log: PathBuf,
    allowed: Vec<String>,
    host: Option<Host>,
    tls: Option<TlsCertificates>,
    _dir: TempDir,
}

/// What a sidecar may say when its Redis or its peer goes away, and nothing else is wrong.
const BREAKS: [&str; 10] = [
    "the link broke, trying again",
    "a peer's link ends",
    "lost the replication stream of the local redis",
    "the local redis is not there, trying again",
    "the commands of the local redis can't be read, trying again",
    "lost a client's connection to the local redis",
    "no connection to the local redis for a client",
    "what a peer lacks can't be read from the local redis",
    "the local redis takes too long to send what a peer lacks",
    "keys that both sites wrote can't be read, trying again",
];

impl Sidecar {
    /// `127.0.0.1:<port>` of its RESP port.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.listen.number())
    }

    /// A new connection to its RESP port.
    pub fn client(&self) -> Connection {
        self.connect().expect("the sidecar takes a connection")
    }

    fn connect(&self) -> redis::RedisResult<Connection> {
        let port = self.listen.number();
        if let Some(tls) = &self.tls {
            return connect_tls(port, tls.clone());
        }
        match &self.host {
            Some(host) => connect_to(&format!(":{PASSWORD}@{}:{port}", host.from_outside)),
            None => connect_to(&format!("127.0.0.1:{port}")),
        }
    }

    /// Declares that its Redis, its peer and what lies between may go away.
    pub fn allow_breaks(&mut self) {
        self.allowed.extend(BREAKS.map(str::to_string));
    }

    /// Declares that the log may hold warnings and errors with this text in them.
    pub fn allow_log(&mut self, part: &str) {
        self.allowed.push(part.to_string());
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its journal is.
    pub fn journal_dir(&self) -> PathBuf {
        self.config.with_file_name("journal")
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The fields of `INFO duplex`.
    pub fn info_duplex(&self) -> HashMap<String, String> {
        let text: String = redis::cmd("INFO")
            .arg("duplex")
            .query(&mut self.client())
            .expect("INFO duplex answers");
        info_fields(&text)
    }

    /// Waits until the link to `peer` is in this state.
    #[track_caller]
    pub fn wait_link(&self, peer: &str, state: &str) {
        eventually(&format!("the link to {peer} to be {state}"), PATIENCE, || {
            self.info_duplex().get(&format!("link_{peer}_state")).is_some_and(|now| now == state)
        });
    }

    /// The status line and body of `GET path` on its HTTP port.
    pub fn http_get(&self, path: &str) -> (String, String) {
        let mut socket =
            TcpStream::connect(("127.0.0.1", self.http.number())).expect("HTTP port is open");
        socket.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .expect("request sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answer read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        (head.lines().next().unwrap_or_default().to_string(), body.to_string())
    }

    /// How many full syncs it took from its peer.
    pub fn full_syncs(&self) -> u64 {
        let info = self.info_duplex();
        let link = &info[&format!("link_{}", info["links"])];
        let field = link.split(',').find_map(|field| field.strip_prefix("full_syncs="));
        field.and_then(|count| count.parse().ok()).expect("a count of full syncs")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; it must end by itself, with exit code 0.
    pub fn stop(&mut self) {
        let status = self.process.stop();
        assert!(status.success(), "the sidecar ended with {status}: {}", self.tail());
    }

    /// SIGSTOP: connections stay, nothing answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGSTOP, if it still runs: what happens from now on is not in its log.
    pub fn freeze(&mut self) {
        if self.process.ended().is_none() {
            self.process.pause();
        }
    }

    /// SIGHUP: it reads its certificates again.
    pub fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Starts it again on the same ports, journal and configuration, after [`kill`](Self::kill) or
    /// [`stop`](Self::stop); kills it if it still runs. Returns when it is ready.
    pub fn restart(&mut self) {
        if self.process.ended().is_none() {
            self.process.kill();
        }
        self.process = spawn(&self.config, &self.log, self.host.as_ref());
        self.wait_ready();
    }

    /// Waits until its port answers PING.
    pub fn wait_ready(&mut self) {
        eventually("the sidecar to answer PING", PATIENCE, || {
            if let Some(status) = self.process.ended() {
                panic!("the sidecar ended with {status}: {}", self.tail());
            }
            let pong = self
                .connect()
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            pong.is_ok_and(|pong| pong == "PONG")
        });
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    fn undeclared(&self) -> Vec<String> {
        let log = self.log();
        let alarms = log.lines().filter(|line| is_alarm(line));
        let declared = |line: &str| self.allowed.iter().any(|part| line.contains(part));
        alarms.filter(|line| !declared(line)).map(ToString::to_string).collect()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.kill();
        }
        if std::thread::panicking() {
            eprintln!("the end of the log of {}:\n{}", self.addr(), self.tail());
            return;
        }
        let undeclared = self.undeclared();
        assert!(
            undeclared.is_empty(),
            "the log holds warnings or errors that the test did not declare by allow_log:\n{}",
            undeclared.join("\n")
        );
    }
}

/// Whether a line of the log, text or JSON, is a warning, an error or a panic.
pub fn is_alarm(line: &str) -> bool {
    let text =
        ["WARN", "ERROR"].iter().any(|level| line.split_whitespace().any(|word| word == *level));
    let json =
        ["\"level\":\"WARN\"", "\"level\":\"ERROR\""].iter().any(|level| line.contains(level));
    text || json || line.contains("panicked at")
}

fn spawn(config: &Path, log: &Path, host: Option<&Host>) -> Process {
    let program = env!("CARGO_BIN_EXE_redis-duplex");
    let mut command = Command::new(host.map_or(program, |_| "ip"));
    if let Some(host) = host {
        // It becomes the program, so that signals reach it.
        command.args(["netns", "exec", &host.name, program]);
    }
    // Colour codes around the level would hide it from the check of the log.
    command.arg("run").arg("-c").arg(config).env("NO_COLOR", "1");
    Process::spawn(&mut command, log)
}
