//! A one-way syncer as simple as they come: it asks one port for the stream, writes what comes to
//! another one, and goes on at its offset when something breaks. It knows nothing of marks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis_duplex::resp::{Limits, ReplyScanner, Scanner};

use crate::wire::command;

/// How long a read waits before it is asked whether to stop.
const TICK: Duration = Duration::from_millis(20);

/// What a syncer did.
#[derive(Debug, Default, Clone)]
pub struct Done {
    /// Times it was given a snapshot; it reads over it.
    pub snapshots: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// First keys of the commands that it wrote.
    pub keys: Vec<String>,
    /// Replies that were errors.
    pub errors: Vec<String>,
}

/// A running syncer; ends when dropped.
#[derive(Debug)]
pub struct Syncer {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    pub fn start(from: &str, to: &str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let state = State {
            from: from.into(),
            to: to.into(),
            place: None,
            stop: stop.clone(),
            done: Arc::clone(&done),
        };
        Self { stop, done, thread: Some(thread::spawn(move || state.run())) }
    }

    pub fn done(&self) -> Done {
        self.done.lock().unwrap().clone()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

struct State {
    from: String,
    to: String,
    /// Up to where all is written: id, offset, and the database in force there.
    place: Option<(String, u64, String)>,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Done>>,
}

/// Commands that belong together, and the place behind them.
struct Unit {
    bytes: Vec<u8>,
    commands: usize,
    key: Option<String>,
    end: u64,
    database: String,
}

impl State {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.session().is_err() {
                self.done.lock().unwrap().breaks += 1;
                thread::sleep(TICK);
            }
        }
    }

    fn session(&mut self) -> io::Result<()> {
        let (mut source, mut target) = (Pipe::open(&self.from)?, Pipe::open(&self.to)?);
        self.attach(&mut source)?;
        let Some((_, _, database)) = &self.place else { return Err(io::ErrorKind::Other.into()) };
        target.write(&command(&format!("SELECT {database}")))?;
        self.replies(&mut target, 1)?;
        while !self.stop.load(Ordering::Relaxed) {
            let units = self.units(&mut source);
            if units.is_empty() {
                if !source.read()? {
                    continue;
                }
                source.write(&command(&format!("REPLCONF ACK {}", self.offset())))?;
                continue;
            }
            target.write(&units.iter().flat_map(|unit| unit.bytes.clone()).collect::<Vec<_>>())?;
            for unit in units {
                self.replies(&mut target, unit.commands)?;
                self.done.lock().unwrap().keys.extend(unit.key);
                if let Some((_, offset, database)) = &mut self.place {
                    (*offset, *database) = (unit.end, unit.database);
                }
            }
        }
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.place.as_ref().map_or(0, |(_, offset, _)| *offset)
    }

    fn attach(&mut self, source: &mut Pipe) -> io::Result<()> {
        let ask = match &self.place {
            Some((id, offset, _)) => format!("PSYNC {id} {}", offset + 1),
            None => "PSYNC ? -1".to_owned(),
        };
        source.write(&command(&ask))?;
        let line = source.line()?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["+CONTINUE"] => Ok(()),
            ["+FULLRESYNC", id, offset] => {
                let offset = offset.parse().map_err(io::Error::other)?;
                self.done.lock().unwrap().snapshots += 1;
                let mut head = String::new();
                while head.is_empty() {
                    head = source.line()?;
                }
                let length = head.trim_start_matches('$').parse().map_err(io::Error::other)?;
                while source.input.len() < length {
                    source.read()?;
                }
                source.input.drain(..length);
                self.place = Some((id.to_owned(), offset, "0".to_owned()));
                Ok(())
            }
            _ => Err(io::Error::other(line)),
        }
    }

    /// The whole units that are there.
    fn units(&self, source: &mut Pipe) -> Vec<Unit> {
        let Some((_, mut offset, mut database)) = self.place.clone() else { return Vec::new() };
        let mut units = Vec::new();
        let mut open: Option<Unit> = None;
        let mut whole = 0;
        let mut at = 0;
        loop {
            let mut scanner = Scanner::new(Limits::STREAM);
            let Some(command) = scanner.scan(&source.input[at..]).expect("a stream of commands")
            else {
                break;
            };
            at += command.raw().len();
            offset += command.raw().len() as u64;
            if command.is("SELECT") {
                database = String::from_utf8_lossy(command.arg(1)).into_owned();
            }
            let mut unit = open.take().unwrap_or_else(|| Unit {
                bytes: Vec::new(),
                commands: 0,
                key: None,
                end: 0,
                database: String::new(),
            });
            if !command.is("PING") {
                unit.bytes.extend_from_slice(command.raw());
                unit.commands += 1;
            }
            if !["PING", "SELECT", "MULTI", "EXEC"].iter().any(|word| command.is(word)) {
                let key = String::from_utf8_lossy(command.arg(1)).into_owned();
                unit.key.get_or_insert(key);
            }
            let inside = unit.bytes.starts_with(b"*1\r\n$5\r\nMULTI") && !command.is("EXEC");
            if inside {
                open = Some(unit);
            } else {
                (unit.end, unit.database) = (offset, database.clone());
                units.push(unit);
                whole = at;
            }
        }
        source.input.drain(..whole);
        units
    }

    fn replies(&self, target: &mut Pipe, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let reply = target.reply()?;
            if reply.starts_with(b"-") {
                let text = String::from_utf8_lossy(&reply).into_owned();
                self.done.lock().unwrap().errors.push(text);
            }
        }
        Ok(())
    }
}

/// A connection that may break.
struct Pipe {
    socket: TcpStream,
    input: Vec<u8>,
}

impl Pipe {
    fn open(addr: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self { socket, input: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Reads what has come; whether something has.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.input.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.read()?;
        }
    }

    fn reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let found = ReplyScanner::default().scan(&self.input).map_err(io::Error::other)?;
            if let Some(length) = found {
                return Ok(self.input.drain(..length).collect());
            }
            self.read()?;
        }
    }
}
