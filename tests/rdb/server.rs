//! Real servers, and what they hold.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, Value, cmd};
use redis_duplex::rdb::{Flavour, RdbVersion};

/// The servers to try, each with each: paths in `REDIS_SERVERS` with `:` between, else the one that
/// is installed.
pub fn binaries() -> Vec<String> {
    let list = std::env::var("REDIS_SERVERS").unwrap_or_else(|_| "redis-server".to_owned());
    list.split(':').map(str::to_owned).collect()
}

/// A server on a free port, with its own directory; killed when dropped.
pub struct Server {
    child: Child,
    directory: tempfile::TempDir,
    pub connection: Connection,
    pub version: RdbVersion,
    /// As `redis-7.0.15`.
    pub name: String,
}

impl Server {
    pub fn start(binary: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(binary)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        let mut connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < limit, "{binary} doesn't start: {error}"),
            }
            std::thread::yield_now();
        };
        let info: String = cmd("INFO").arg("server").query(&mut connection).unwrap();
        let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let is_valkey = of("valkey_version:").is_some();
        let release = of("valkey_version:").or_else(|| of("redis_version:")).unwrap().trim();
        let mut numbers = release.split('.').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        let version = RdbVersion::of_server(is_valkey, (next(), next(), next()));
        let name = format!("{}-{release}", if is_valkey { "valkey" } else { "redis" });
        Self { child, directory, connection, version, name }
    }

    /// Runs the lines of a file of commands that this server knows.
    pub fn run(&mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = words(line);
            if let Ok(since) = String::from_utf8_lossy(&words[0]).parse::<u16>() {
                let foreign = since > 12 && self.version.flavour == Flavour::Valkey;
                if foreign || self.version.number < since {
                    continue;
                }
                words.remove(0);
            }
            self.command(&words);
        }
    }

    pub fn command<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        let name = words.iter().take(3).map(|word| String::from_utf8_lossy(word.as_ref()));
        let name: Vec<_> = name.collect();
        command.query(&mut self.connection).unwrap_or_else(|error| panic!("{name:?}: {error}"))
    }

    /// Takes a snapshot.
    pub fn save(&mut self) -> Vec<u8> {
        self.command(&["SAVE"]);
        std::fs::read(Path::new(self.directory.path()).join("dump.rdb")).unwrap()
    }

    /// Everything it holds: by database, key and what of it, as text.
    pub fn state(&mut self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for db in 0..16 {
            self.command(&["SELECT", &db.to_string()]);
            let Value::Array(keys) = self.command(&["KEYS", "*"]) else { panic!("no keys") };
            for key in keys {
                let Value::BulkString(key) = key else { panic!("no key") };
                let mut facts = BTreeMap::new();
                self.key_state(&key, &mut facts);
                let key = key.escape_ascii();
                state.extend(
                    facts.into_iter().map(|(what, value)| (format!("{db}/{key}/{what}"), value)),
                );
            }
        }
        if self.version.number >= 10 {
            state.insert("functions".to_owned(), text(&self.command(&["FUNCTION", "LIST"])));
        }
        state
    }

    fn key_state(&mut self, key: &[u8], facts: &mut BTreeMap<String, String>) {
        let key_type = text(&self.command(&[b"TYPE" as &[u8], key]));
        // Without PEXPIRETIME (6.2) to the second.
        if self.version.number >= 10 {
            let expires = text(&self.command(&[b"PEXPIRETIME" as &[u8], key]));
            facts.insert("expires".to_owned(), expires);
        } else {
            let ttl = text(&self.command(&[b"TTL" as &[u8], key]));
            facts.insert("expires at all".to_owned(), ttl.starts_with(":-1").to_string());
        }
        let read: &[&[u8]] = match key_type.as_str() {
            "string" => &[b"GET", key],
            "list" => &[b"LRANGE", key, b"0", b"-1"],
            "set" => &[b"SMEMBERS", key],
            "zset" => &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
            "hash" => &[b"HGETALL", key],
            "stream" => return self.stream_state(key, facts),
            other => panic!("what is {other}?"),
        };
        let value = self.command(read);
        facts.insert("type".to_owned(), key_type.clone());
        let mut elements: Vec<_> = match &value {
            Value::Array(pairs) if key_type == "zset" => pairs.chunks(2).map(scored).collect(),
            Value::Array(pairs) if key_type == "hash" => pairs.chunks(2).map(texts).collect(),
            Value::Array(elements) => elements.iter().map(text).collect(),
            single => vec![text(single)],
        };
        if key_type == "hash" && (self.version.number >= 12) {
            let Value::Array(pairs) = &value else { panic!("no hash") };
            let fields: Vec<&[u8]> = pairs.iter().step_by(2).map(bytes).collect();
            let count = fields.len().to_string();
            let head = [b"HPEXPIRETIME" as &[u8], key, b"FIELDS", count.as_bytes()];
            let times = self.command(&[&head, &fields[..]].concat());
            let Value::Array(times) = times else { panic!("no times") };
            for (element, time) in elements.iter_mut().zip(times) {
                element.push_str(&text(&time).replace(":-1", ""));
            }
        }
        if matches!(key_type.as_str(), "set" | "hash") {
            elements.sort();
        }
        facts.insert("value".to_owned(), elements.join(" "));
    }

    fn stream_state(&mut self, key: &[u8], facts: &mut BTreeMap<String, String>) {
        let info = self.command(&[b"XINFO" as &[u8], b"STREAM", key, b"FULL", b"COUNT", b"0"]);
        named("", &info, facts);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Flattens what `XINFO STREAM .. FULL` says, without the shape of the tree that holds the entries.
fn named(path: &str, value: &Value, facts: &mut BTreeMap<String, String>) {
    let Value::Array(pairs) = value else { panic!("{path} has no names") };
    for pair in pairs.chunks(2) {
        let name = text(&pair[0]);
        let path = format!("{path}{name}");
        match (&pair[1], name.as_str()) {
            (Value::Array(each), "groups" | "consumers") => {
                for (index, one) in each.iter().enumerate() {
                    named(&format!("{path}/{index}/"), one, facts);
                }
            }
            (_, "radix-tree-keys" | "radix-tree-nodes") => {}
            (value, _) => {
                facts.insert(path, text(value));
            }
        }
    }
}

fn bytes(value: &Value) -> &[u8] {
    match value {
        Value::BulkString(bytes) => bytes,
        other => panic!("no text: {other:?}"),
    }
}

/// A member and its score. Releases write scores with more or fewer digits.
fn scored(pair: &[Value]) -> String {
    let score: f64 = text(&pair[1]).parse().unwrap();
    format!("{}={score:e}", text(&pair[0]))
}

fn texts(values: &[Value]) -> String {
    values.iter().map(text).collect::<Vec<_>>().join(",")
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => format!(":{number}"),
        Value::Array(values) => format!("[{}]", texts(values)),
        other => format!("{other:?}"),
    }
}

/// Splits a line as redis-cli does: quotes hold words together, `\n`, `\r`, `\xHH` and `\"` in them.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = line.bytes();
    let mut quoted = false;
    while let Some(byte) = bytes.next() {
        match (byte, quoted) {
            (b'"', _) => quoted = !quoted,
            (b' ', false) => words.push(Vec::new()),
            (b'\\', true) => {
                let escaped = match bytes.next().unwrap() {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    other => other,
                };
                words.last_mut().unwrap().push(escaped);
            }
            (byte, _) => words.last_mut().unwrap().push(byte),
        }
    }
    words
}
