//! A scripted replica on a blocking socket: it does what a test says and nothing by itself, so
//! that a test sees every byte a master sends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// One command of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    /// Name and arguments, as they came.
    pub args: Vec<Vec<u8>>,
    /// Bytes of its encoding.
    pub length: u64,
    /// The stream offset of its last byte, which is what `REPLCONF ACK` and positions name.
    pub end: u64,
}

impl Streamed {
    /// Its words with blanks between; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let words: Vec<_> = self.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        words.join(" ")
    }
}

/// The answer to PSYNC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Psync {
    Full {
        replid: String,
        offset: u64,
    },
    /// The new replid, which a master without `capa psync2` does not name.
    Continue {
        replid: Option<String>,
    },
}

/// How a snapshot was framed, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub bytes: Vec<u8>,
    /// `$EOF:<mark>` rather than `$<length>`.
    pub by_mark: bool,
    /// Keepalive newlines before it.
    pub newlines: usize,
}

/// A connection to a master.
#[derive(Debug)]
pub struct Replica {
    socket: TcpStream,
    received: Vec<u8>,
    /// The stream offset up to which commands were read.
    offset: u64,
}

impl Replica {
    /// Connects, without a word.
    pub fn connect(addr: &str) -> Self {
        let socket = TcpStream::connect(addr).expect("the master takes a connection");
        socket.set_nodelay(true).expect("nodelay");
        Self { socket, received: Vec::new(), offset: 0 }
    }

    /// Connects and shakes hands as redis-duplex does: port 0, `capa eof`, `capa psync2`.
    pub fn shake_hands(addr: &str) -> Self {
        let mut replica = Self::connect(addr);
        assert_eq!(replica.call(&["PING"]), "+PONG");
        assert_eq!(replica.call(&["REPLCONF", "listening-port", "0"]), "+OK");
        assert_eq!(replica.call(&["REPLCONF", "capa", "eof", "capa", "psync2"]), "+OK");
        replica
    }

    /// Takes a full sync and acknowledges it: the stream follows.
    pub fn full_sync(addr: &str) -> Self {
        let mut replica = Self::shake_hands(addr);
        let answer = replica.psync("?", -1);
        assert!(matches!(answer, Psync::Full { .. }), "{answer:?}");
        replica.read_snapshot();
        replica.ack();
        replica
    }

    /// Sends `PSYNC` and reads its answer; `next_byte` is the offset of the first byte wanted.
    pub fn psync(&mut self, replid: &str, next_byte: i64) -> Psync {
        let line = self.call(&["PSYNC", replid, &next_byte.to_string()]);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["+FULLRESYNC", replid, offset] => {
                self.offset = offset.parse().expect("an offset");
                Psync::Full { replid: (*replid).to_string(), offset: self.offset }
            }
            ["+CONTINUE", rest @ ..] => {
                self.offset = u64::try_from(next_byte - 1).expect("a real offset was asked for");
                Psync::Continue { replid: rest.first().map(ToString::to_string) }
            }
            _ => panic!("the answer to PSYNC was {line:?}"),
        }
    }

    /// Reads a snapshot in either framing.
    pub fn read_snapshot(&mut self) -> Snapshot {
        let mut newlines = 0;
        let header = loop {
            match self.read_line() {
                line if line.is_empty() => newlines += 1,
                line => break line,
            }
        };
        if let Some(mark) = header.strip_prefix("$EOF:") {
            let mark = mark.as_bytes();
            let end = loop {
                if let Some(at) = self.received.windows(mark.len()).position(|part| part == mark) {
                    break at;
                }
                assert!(self.receive(PATIENCE), "the snapshot ended early");
            };
            let bytes = self.received.drain(..end + mark.len()).take(end).collect();
            return Snapshot { bytes, by_mark: true, newlines };
        }
        let length = header.strip_prefix('$').and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or_else(|| panic!("a snapshot began with {header:?}"));
        while self.received.len() < length {
            assert!(self.receive(PATIENCE), "the snapshot ended early");
        }
        Snapshot { bytes: self.received.drain(..length).collect(), by_mark: false, newlines }
    }

    /// The stream offset of the last byte read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Acknowledges all that was read.
    pub fn ack(&mut self) {
        self.send(&["REPLCONF", "ACK", &self.offset.to_string()]);
    }

    /// The next command of the stream, or nothing if none comes within `limit`. Panics when the
    /// master closes.
    pub fn next(&mut self, limit: Duration) -> Option<Streamed> {
        let until = Instant::now() + limit;
        loop {
            if let Some((args, length)) = parse_command(&self.received) {
                self.received.drain(..length);
                self.offset += length as u64;
                return Some(Streamed { args, length: length as u64, end: self.offset });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let before = self.received.len();
            let open = self.receive(left);
            assert!(open || self.received.len() > before, "the master closed the stream");
        }
    }

    /// All commands up to one whose text is `last`, that one not included. The master's own
    /// `PING` and `REPLCONF GETACK` are left out, and answered by an ACK as Redis expects.
    pub fn read_until(&mut self, last: &str) -> Vec<Streamed> {
        let mut seen = Vec::new();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.next(Duration::from_millis(500)) {
                Some(command) if command.text() == last => return seen,
                Some(command) if command.text() == "PING" => {}
                Some(command) if command.text().starts_with("REPLCONF GETACK") => self.ack(),
                Some(command) => seen.push(command),
                None => self.ack(),
            }
        }
        panic!("{last:?} did not come within {PATIENCE:?}; before it came {seen:?}");
    }

    /// Whether the master closes the connection within `limit`, and sends nothing before.
    pub fn is_closed(&mut self, limit: Duration) -> bool {
        self.received.is_empty() && !self.receive(limit) && self.received.is_empty()
    }

    /// Whether nothing at all, not even the end, comes for as long as `time`.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.received.is_empty() && self.receive(time) && self.received.is_empty()
    }

    /// Sends a command.
    pub fn send(&mut self, args: &[&str]) {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            write!(bytes, "${}\r\n{arg}\r\n", arg.len()).expect("memory takes all");
        }
        self.socket.write_all(&bytes).expect("the master takes a command");
    }

    /// Sends a command and reads the line of its answer, past keepalive newlines.
    pub fn call(&mut self, args: &[&str]) -> String {
        self.send(args);
        loop {
            let line = self.read_line();
            if !line.is_empty() {
                return line;
            }
        }
    }

    fn read_line(&mut self) -> String {
        loop {
            if let Some(at) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return String::from_utf8_lossy(&line).trim_end().to_string();
            }
            let before = self.received.len();
            let open = self.receive(PATIENCE);
            assert!(open && self.received.len() > before, "no line of the master within limits");
        }
    }

    /// Reads what comes within `limit`; false at the end of the stream.
    fn receive(&mut self, limit: Duration) -> bool {
        // A socket timeout of zero would mean none.
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).expect("read timeout");
        let mut chunk = vec![0; 64 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(0) => false,
            Ok(length) => {
                self.received.extend_from_slice(&chunk[..length]);
                true
            }
            // A signal, as when a child of the test ends, interrupts the wait.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("reading from the master: {error}"),
        }
    }
}

/// A whole command at the start of `bytes` and its length, or nothing if it is not all there.
fn parse_command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (count, mut at) = parse_header(bytes, 0, b'*')?;
    let mut args = Vec::new();
    for _ in 0..count {
        let (length, start) = parse_header(bytes, at, b'$')?;
        args.push(bytes.get(start..start + length)?.to_vec());
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some((args, at))
}

/// The number in a line such as `*3\r\n`, and where the next line begins.
fn parse_header(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let text = String::from_utf8_lossy(&rest[..end]);
    assert_eq!(rest[0], kind, "the stream holds {text:?}");
    Some((text[1..].parse().expect("a number"), at + end + 2))
}
