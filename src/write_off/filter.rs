//! The decision what in the replication stream is an echo and what local clients did.
//!
//! Pure: one command in, one verdict out, no buffer. The mark comes first in each of our batches,
//! so that a unit's first command decides on the whole.

use bytes::Bytes;

use super::{CHECKPOINT_KEY, Mark, is_checkpoint_write};
use crate::position::Database;
use crate::resp::{self, Command};

/// The words to forward a command with.
#[derive(Debug, PartialEq, Eq)]
pub enum Words {
    /// Its own.
    Own,
    /// These instead.
    Other(Bytes),
}

impl Words {
    /// The bytes to forward; `own` are the command's.
    pub fn bytes<'a>(&'a self, own: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Own => own,
            Self::Other(other) => other,
        }
    }
}

/// What a command of the stream is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to forward: SELECT, PING, the rest of an echo, a write to the checkpoint hash.
    Skip,
    /// A whole local unit.
    Unit(Words),
    /// The first command of a local transaction.
    Begin(Words),
    /// A further command of the open local transaction.
    More(Words),
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
                let Some(words) = self.local(command) else { return Verdict::Skip };
                self.state = State::Local;
                Verdict::Begin(words)
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
        if self.state == State::Local { Verdict::More(Words::Own) } else { Verdict::Skip }
    }

    /// A command of local clients: `None` if nothing of it is to be forwarded, else the words to
    /// forward it with.
    fn local(&mut self, command: Command<'_>) -> Option<Words> {
        if command.is("FLUSHALL") || command.is("FLUSHDB") {
            self.checkpoint_touched = true;
            return Some(Words::Own);
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
            return Some(Words::Other(text.into()));
        }
        if is_checkpoint_write(command) {
            self.checkpoint_touched |= !is_probe(command);
            return None;
        }
        Some(Words::Own)
    }
}

/// What a master says to its replicas on its own account.
fn is_about_replication(command: Command<'_>) -> bool {
    command.is("PING") || command.is("REPLCONF")
}

fn is_probe(command: Command<'_>) -> bool {
    command.is("HSET") && command.arg(2) == b"probe"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::position::{Checkpoint, Offset, Position, ReplicationId};
    use crate::resp::{Limits, Scanner, put_command};
    use crate::write_off::Tag;

    /// How a server writes its stream.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Style {
        /// Every transaction keeps its MULTI; SELECT comes before it.
        Redis6,
        /// A transaction with one effect comes bare; SELECT comes before MULTI.
        Redis7,
        /// Likewise, with SELECT behind MULTI.
        Valkey9,
    }

    /// What happened at the server: commands with the database each ran in.
    #[derive(Debug, Clone)]
    enum Event {
        Local { transaction: bool, commands: Vec<(u32, u16)> },
        Ours { commands: Vec<(u32, u16)>, with_checkpoint: bool },
        Ping,
        Checkpoint(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        let commands = || prop::collection::vec((0u32..3, any::<u16>()), 0..5);
        let filled = || prop::collection::vec((0u32..3, any::<u16>()), 1..5);
        prop_oneof![
            4 => filled().prop_map(|mut commands| {
                commands.truncate(1);
                Event::Local { transaction: false, commands }
            }),
            3 => filled().prop_map(|commands| Event::Local { transaction: true, commands }),
            4 => (commands(), any::<bool>())
                .prop_map(|(commands, with_checkpoint)| Event::Ours { commands, with_checkpoint }),
            1 => Just(Event::Ping),
            1 => (0u8..3).prop_map(Event::Checkpoint),
        ]
    }

    /// A stream as a server would write it, and what of it is local.
    struct Server {
        style: Style,
        selected: Option<u32>,
        sequence: u64,
        stream: Vec<u8>,
        /// Each local unit, as (database, value) pairs.
        local: Vec<Vec<(u32, u16)>>,
        echoes: u64,
    }

    impl Server {
        fn select(&mut self, database: u32) {
            if self.selected != Some(database) {
                put_command(&mut self.stream, &["SELECT", &database.to_string()]);
                self.selected = Some(database);
            }
        }

        fn unit(&mut self, commands: &[(u32, Vec<u8>)], transaction: bool) {
            let multi = transaction && (commands.len() > 1 || self.style == Style::Redis6);
            if multi && self.style != Style::Valkey9 {
                self.select(commands[0].0);
            }
            if multi {
                put_command(&mut self.stream, &["MULTI"]);
            }
            for (database, command) in commands {
                self.select(*database);
                self.stream.extend(command);
            }
            if multi {
                put_command(&mut self.stream, &["EXEC"]);
            }
        }

        fn happen(&mut self, event: &Event) {
            let command = |(database, value): &(u32, u16)| {
                let mut out = Vec::new();
                put_command(&mut out, &["SET", &format!("k{database}"), &value.to_string()]);
                (*database, out)
            };
            match event {
                Event::Local { transaction, commands } => {
                    let words: Vec<_> = commands.iter().map(command).collect();
                    self.unit(&words, *transaction);
                    self.local.push(commands.clone());
                }
                Event::Ours { commands, with_checkpoint } => {
                    self.sequence += 1;
                    self.echoes += 1;
                    let tag = Tag { session: 7, sequence: self.sequence };
                    let position =
                        Position { replid: ReplicationId::random(), offset: Offset(self.sequence) };
                    let there = Checkpoint {
                        position,
                        database: Database(1),
                        time: 5,
                        owed: crate::position::Owed::Nothing,
                    };
                    let checkpoint = with_checkpoint.then_some(there);
                    let mut mark = Vec::new();
                    Mark { site: "b".parse().unwrap(), tag, checkpoint }.put(&mut mark);
                    // The mark is written wherever the batch begins.
                    let mut words = vec![(self.selected.unwrap_or(0), mark)];
                    words.extend(commands.iter().map(command));
                    self.unit(&words, true);
                }
                Event::Ping => put_command(&mut self.stream, &["PING"]),
                Event::Checkpoint(kind) => {
                    self.select(0);
                    let key = "redis-duplex-checkpoint";
                    match kind {
                        0 => put_command(&mut self.stream, &["HSET", key, "probe", "1"]),
                        1 => put_command(&mut self.stream, &["DEL", key]),
                        _ => put_command(&mut self.stream, &["HDEL", key, "b-tag"]),
                    }
                }
            }
        }
    }

    /// What the filter let through, in the same form as [`Server::local`].
    #[derive(Default)]
    struct Passed {
        units: Vec<Vec<(u32, u16)>>,
        echoes: u64,
        open: bool,
        within: u32,
    }

    impl Passed {
        fn take(&mut self, verdict: Verdict, database: Database, command: Command<'_>) {
            let value = || std::str::from_utf8(command.arg(2)).unwrap().parse().unwrap();
            match verdict {
                Verdict::Skip => {}
                Verdict::Unit(Words::Own) => self.units.push(vec![(database.0, value())]),
                Verdict::Begin(Words::Own) => {
                    assert!(!self.open);
                    self.open = true;
                    self.within = database.0;
                    self.units.push(vec![(database.0, value())]);
                }
                Verdict::More(Words::Own) if command.is("SELECT") => {
                    assert!(self.open);
                    self.within = std::str::from_utf8(command.arg(1)).unwrap().parse().unwrap();
                }
                Verdict::More(Words::Own) => {
                    assert!(self.open);
                    // A reader that only knows what was forwarded is in the right database.
                    assert_eq!(self.within, database.0);
                    self.units.last_mut().unwrap().push((self.within, value()));
                }
                Verdict::End => self.open = false,
                Verdict::Echo(_) => self.echoes += 1,
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(style: Style, events: &[Event], cut: usize) -> (Server, Passed, Filter) {
        let (local, stream) = (Vec::new(), Vec::new());
        let mut server = Server { style, selected: None, sequence: 0, stream, local, echoes: 0 };
        for event in events {
            server.happen(event);
        }
        let mut filter = Filter::new(Database(0));
        let mut scanner = Scanner::new(Limits::STREAM);
        let mut passed = Passed::default();
        let mut start = 0;
        for end in [cut.min(server.stream.len()), server.stream.len()] {
            while let Some(command) = scanner.scan(&server.stream[start..end]).unwrap() {
                let database = filter.database();
                passed.take(filter.judge(command), database, command);
                start += command.raw().len();
            }
        }
        (server, passed, filter)
    }

    fn check(style: Style, events: &[Event], cut: usize) {
        let (server, passed, filter) = run(style, events, cut);
        assert_eq!(passed.units, server.local);
        assert_eq!(passed.echoes, server.echoes);
        assert!(filter.is_between_units() && !passed.open);
    }

    fn style() -> impl Strategy<Value = Style> {
        prop_oneof![Just(Style::Redis6), Just(Style::Redis7), Just(Style::Valkey9)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn exactly_the_echoes_are_dropped_and_databases_stay_right(
            style in style(),
            events in prop::collection::vec(event(), 0..30),
            cut in any::<prop::sample::Index>(),
        ) {
            check(style, &events, cut.index(10_000));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn at_every_split_point(style in style(), events in prop::collection::vec(event(), 1..8)) {
            let length = run(style, &events, 0).0.stream.len();
            for cut in 0..=length {
                check(style, &events, cut);
            }
        }
    }

    fn judge(filter: &mut Filter, args: &[&str]) -> Verdict {
        let mut out = Vec::new();
        put_command(&mut out, args);
        filter.judge(Scanner::new(Limits::STREAM).scan(&out).unwrap().unwrap())
    }

    #[test]
    fn a_loss_of_the_checkpoint_is_noticed_and_not_forwarded() {
        let mut filter = Filter::new(Database(0));
        let key = "redis-duplex-checkpoint";
        assert_eq!(judge(&mut filter, &["HSET", key, "probe", "1"]), Verdict::Skip);
        assert!(!filter.take_checkpoint_touched());
        assert_eq!(judge(&mut filter, &["UNLINK", key]), Verdict::Skip);
        assert!(filter.take_checkpoint_touched());
        let mut without = Vec::new();
        put_command(&mut without, &["DEL", "a", "b"]);
        let verdict = judge(&mut filter, &["DEL", "a", key, "b"]);
        assert_eq!(verdict, Verdict::Unit(Words::Other(without.into())));
        assert!(filter.take_checkpoint_touched());
        assert_eq!(judge(&mut filter, &["FLUSHALL"]), Verdict::Unit(Words::Own));
        assert!(filter.take_checkpoint_touched());
        assert_eq!(judge(&mut filter, &["SET", "a", key]), Verdict::Unit(Words::Own));
        assert!(!filter.take_checkpoint_touched());
    }

    #[test]
    fn a_transaction_of_which_nothing_is_left_is_no_unit() {
        let mut filter = Filter::new(Database(0));
        assert_eq!(judge(&mut filter, &["MULTI"]), Verdict::Skip);
        assert_eq!(judge(&mut filter, &["DEL", "redis-duplex-checkpoint"]), Verdict::Skip);
        assert_eq!(judge(&mut filter, &["EXEC"]), Verdict::Skip);
        assert!(filter.is_between_units());
    }

    #[test]
    fn the_rest_of_an_echo_is_dropped_whatever_it_is() {
        let mut filter = Filter::new(Database(0));
        judge(&mut filter, &["MULTI"]);
        let tag = ["HSET", "redis-duplex-checkpoint", "b-tag", "00000000000000ff-1"];
        assert!(matches!(judge(&mut filter, &tag), Verdict::Echo(_)));
        // A key found expired inside of our transaction (6.2), a flush that a peer sent.
        for command in [&["DEL", "expired"][..], &["FLUSHALL"], &["SELECT", "5"]] {
            assert_eq!(judge(&mut filter, command), Verdict::Skip);
        }
        assert_eq!(judge(&mut filter, &["EXEC"]), Verdict::Skip);
        assert_eq!(filter.database(), Database(5));
    }
}
