//! The replication stream of the local Redis, read as the sidecar reads it.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use redis_duplex::position::Database;
use redis_duplex::resp::{Limits, Scanner};
use redis_duplex::write_off::{Filter, Tag, Verdict, WriteOffSet};

use crate::server::{LIMIT, Server, command};

/// A replica's connection.
pub struct Stream {
    socket: TcpStream,
    input: Vec<u8>,
    filter: Filter,
}

/// What the stream held.
#[derive(Default)]
pub struct Seen {
    /// Local units, word by word.
    pub local: Vec<String>,
    /// Tags of marks.
    pub tags: HashSet<Tag>,
}

impl Stream {
    /// Attaches, past the snapshot.
    pub fn attach(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&command("PSYNC ? -1")).unwrap();
        let mut line = Vec::new();
        let mut next_line = |stream: &mut TcpStream| {
            line.clear();
            let mut byte = [0];
            loop {
                stream.read_exact(&mut byte).unwrap();
                match byte[0] {
                    b'\n' if line.is_empty() => {}
                    b'\n' => return String::from_utf8_lossy(&line).trim_end().to_owned(),
                    byte => line.push(byte),
                }
            }
        };
        assert!(next_line(&mut stream).starts_with("+FULLRESYNC"));
        let length: usize = next_line(&mut stream)[1..].parse().unwrap();
        stream.read_exact(&mut vec![0; length]).unwrap();
        Self { socket: stream, input: Vec::new(), filter: Filter::new(Database(0)) }
    }

    /// Reads up to the command `SET end <word>`, and settles tags as the sidecar does.
    pub fn read_to(&mut self, word: &str, write_off: &WriteOffSet) -> Seen {
        let mut seen = Seen::default();
        loop {
            let mut scanner = Scanner::new(Limits::STREAM);
            let Some(command) = scanner.scan(&self.input).unwrap() else {
                let mut buf = [0; 16384];
                let length = self.socket.read(&mut buf).unwrap();
                assert!(length > 0, "the stream ended");
                self.input.extend_from_slice(&buf[..length]);
                continue;
            };
            let length = command.raw().len();
            let text: Vec<_> = command.args().map(|arg| arg.escape_ascii().to_string()).collect();
            let text = text.join(" ");
            let verdict = self.filter.judge(command);
            self.input.drain(..length);
            match verdict {
                Verdict::Echo(mark) => {
                    write_off.settle(mark.tag);
                    seen.tags.insert(mark.tag);
                }
                Verdict::Skip => {}
                _ if text.eq_ignore_ascii_case(&format!("SET end {word}")) => return seen,
                _ => seen.local.push(text),
            }
        }
    }
}
