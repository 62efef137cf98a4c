//! The decision what in the replication stream is an echo and what local clients did.
//!
//! Pure: one command in, one verdict out, no buffer. The mark comes first in each of our batches,
//! so that a unit's first command decides on the whole.

use bytes::Bytes;

use super::{CHECKPOINT_KEY, Mark, is_checkpoint_write};
use crate::position::Database;
use crate::resp::{self, Command};

/// What a command of the stream is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to forward: SELECT, PING, the rest of an echo, a write to the checkpoint hash.
    Skip,
    /// A whole local unit; in other words than the stream's if given.
    Unit(Option<Bytes>),
    /// The first command of a local transaction.
    Begin(Option<Bytes>),
    /// A further command of the open local transaction.
    More(Option<Bytes>),
    /// The EXEC of the open local transaction.
    End,
    /// The mark of a batch of ours; all up to its EXEC is skipped.
    Echo(Mark),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// After MULTI, before the first command that is not SELECT.
    Opened,
    /// In a transaction of local clients.
    Local,
    /// In a batch of ours.
    Echo,
}

/// The state that a stream is read with.
#[derive(Debug)]
pub struct Filter {
    database: Database,
    state: State,
    checkpoint_touched: bool,
}

impl Filter {
    /// A filter that begins between two units, with this database selected.
    pub fn new(database: Database) -> Self {
        Self { database, state: State::Outside, checkpoint_touched: false }
    }

    /// The database in force.
    pub fn database(&self) -> Database {
        self.database
    }

    /// Whether the stream stands between two units.
    pub fn is_between_units(&self) -> bool {
        self.state == State::Outside
    }

    /// Whether something that was not ours may have taken the checkpoint hash away since the last
    /// call: it must be written again.
    pub fn take_checkpoint_touched(&mut self) -> bool {
        std::mem::take(&mut self.checkpoint_touched)
    }

    /// Judges the next command.
    pub fn judge(&mut self, command: Command<'_>) -> Verdict {
        if command.is("SELECT") {
            return self.select(command);
        }
        match self.state {
            State::Outside => {
                if command.is("MULTI") {
                    self.state = State::Opened;
                    return Verdict::Skip;
                }
                if is_about_replication(command) {
                    return Verdict::Skip;
                }
                match Mark::parse(command) {
                    Some(mark) => Verdict::Echo(mark),
                    None => self.local(command).map_or(Verdict::Skip, Verdict::Unit),
                }
            }
            State::Opened => {
                if command.is("EXEC") {
                    self.state = State::Outside;
                    return Verdict::Skip;
                }
                if let Some(mark) = Mark::parse(command) {
                    self.state = State::Echo;
                    return Verdict::Echo(mark);
                }
                let Some(text) = self.local(command) else { return Verdict::Skip };
                self.state = State::Local;
                Verdict::Begin(text)
            }
            State::Local => {
                if command.is("EXEC") {
                    self.state = State::Outside;
                    return Verdict::End;
                }
                self.local(command).map_or(Verdict::Skip, Verdict::More)
            }
            State::Echo => {
                if command.is("EXEC") {
                    self.state = State::Outside;
                }
                Verdict::Skip
            }
        }
    }

    /// A SELECT is tracked wherever it stands. It is forwarded only within an open local
    /// transaction: the database in force at a unit's first command is the unit's own.
    fn select(&mut self, command: Command<'_>) -> Verdict {
        let number = std::str::from_utf8(command.arg(1)).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number {
            self.database = Database(number);
        }
        if self.state == State::Local { Verdict::More(None) } else { Verdict::Skip }
    }

    /// A command of local clients: `None` if nothing of it is to be forwarded, else the words to
    /// forward it with, if other than its own.
    fn local(&mut self, command: Command<'_>) -> Option<Option<Bytes>> {
        if command.is("FLUSHALL") || command.is("FLUSHDB") {
            self.checkpoint_touched = true;
            return Some(None);
        }
        let deletes = command.is("DEL") || command.is("UNLINK");
        if deletes && command.args().skip(1).any(|key| key == CHECKPOINT_KEY) {
            self.checkpoint_touched = true;
            let others: Vec<&[u8]> = command.args().filter(|arg| *arg != CHECKPOINT_KEY).collect();
            if others.len() < 2 {
                return None;
            }
            let mut text = Vec::new();
            resp::put_command(&mut text, &others);
            return Some(Some(text.into()));
        }
        if is_checkpoint_write(command) {
            self.checkpoint_touched |= !is_probe(command);
            return None;
        }
        Some(None)
    }
}

/// What a master says to its replicas on its own account.
fn is_about_replication(command: Command<'_>) -> bool {
    command.is("PING") || command.is("REPLCONF")
}

fn is_probe(command: Command<'_>) -> bool {
    command.is("HSET") && command.arg(2) == b"probe"
}
