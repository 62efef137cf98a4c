//! A raw connection: every byte that is sent and received is the test's own business.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// A connection and what it received.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    pub fn connect(addr: &str) -> Self {
        let socket = TcpStream::connect(addr).expect("a connection is taken");
        socket.set_nodelay(true).expect("nodelay");
        Self { socket, received: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("bytes are taken");
    }

    /// Sends the words of a line as a RESP array.
    pub fn send(&mut self, line: &str) {
        self.write(&command(line));
    }

    /// Sends the words of a line; the very next bytes must be `answer`, all of them.
    #[track_caller]
    pub fn ask(&mut self, line: &str, answer: &str) {
        self.send(line);
        self.expect(answer.as_bytes(), line);
    }

    /// The very next bytes.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8], what: &str) {
        let got = self.take(bytes.len());
        assert_eq!(got.escape_ascii().to_string(), bytes.escape_ascii().to_string(), "{what}");
    }

    /// Exactly so many bytes.
    #[track_caller]
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.receive(PATIENCE), "closed after {}", self.received.escape_ascii());
        }
        self.received.drain(..length).collect()
    }

    /// The next line without its end, which must be CRLF.
    #[track_caller]
    pub fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.receive(PATIENCE), "closed after {}", self.received.escape_ascii());
        }
    }

    /// A bulk string.
    #[track_caller]
    pub fn bulk(&mut self) -> String {
        let head = self.line();
        let length: usize = head.strip_prefix('$').and_then(|n| n.parse().ok()).expect(&head);
        let text = self.take(length + 2);
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// Sends a command and reads a bulk string.
    #[track_caller]
    pub fn text(&mut self, line: &str) -> String {
        self.send(line);
        self.bulk()
    }

    /// The snapshot behind a `+FULLRESYNC` line, line feeds before it counted: its head line and
    /// its bytes. Panics if more or less than line feeds come before it.
    #[track_caller]
    pub fn snapshot(&mut self) -> (String, Vec<u8>) {
        loop {
            let byte = self.take(1);
            match byte[0] {
                b'\n' => {}
                b'$' => break,
                other => panic!("{} before a snapshot", other.escape_ascii()),
            }
        }
        let head = self.line();
        let bytes = match head.strip_prefix("EOF:") {
            Some(mark) => self.until(mark.as_bytes()),
            None => self.take(head.parse().expect("a length")),
        };
        let magic = bytes.starts_with(b"REDIS") || bytes.starts_with(b"VALKEY");
        assert!(magic, "a snapshot begins with {}", bytes[..9].escape_ascii());
        (head, bytes)
    }

    /// All bytes up to `mark`, which is taken off too.
    #[track_caller]
    pub fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        let mut searched = 0;
        loop {
            let rest = &self.received[searched..];
            if let Some(at) = rest.windows(mark.len()).position(|part| part == mark) {
                let at = searched + at;
                let all: Vec<u8> = self.received.drain(..at + mark.len()).collect();
                return all[..at].to_vec();
            }
            searched = (self.received.len() + 1).saturating_sub(mark.len());
            assert!(self.receive(PATIENCE), "closed after {}", self.received.escape_ascii());
        }
    }

    /// Whether nothing at all comes for so long, not even the end.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.received.is_empty() && Instant::now() < until {
            if !self.receive(until.saturating_duration_since(Instant::now())) {
                return false;
            }
        }
        self.received.is_empty()
    }

    /// Whether the end comes next, within the usual limit.
    pub fn is_closed(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while self.received.is_empty() && Instant::now() < until {
            if !self.receive(PATIENCE) {
                return true;
            }
        }
        false
    }

    /// Reads what comes within `limit`; false at the end.
    fn receive(&mut self, limit: Duration) -> bool {
        self.socket.set_read_timeout(Some(limit.max(Duration::from_millis(1)))).expect("timeout");
        let mut chunk = vec![0; 64 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(0) => false,
            Ok(length) => {
                self.received.extend_from_slice(&chunk[..length]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(limit < PATIENCE, "nothing came; have {}", self.received.escape_ascii());
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(_) => false,
        }
    }
}

/// The words of a line as a RESP array; `''` is an empty word.
pub fn command(line: &str) -> Vec<u8> {
    let words: Vec<&[u8]> =
        line.split(' ').map(|word| if word == "''" { &b""[..] } else { word.as_bytes() }).collect();
    array(&words)
}

/// Words as a RESP array.
pub fn array(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        write!(out, "${}\r\n", word.len()).expect("memory takes all");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
