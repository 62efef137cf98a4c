//! Two sites in one thread: the real decisions, with a toy Redis and queues of any delay between.
//!
//! The order of what happens is random; the same seed gives the same run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::SmallVec;

use super::rules::{self, Rule};
use super::*;
use crate::resp::put_command;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    List(Vec<u64>),
    Hash(BTreeMap<u8, u64>),
    Set(BTreeSet<u8>),
}

#[derive(Debug, Clone, PartialEq)]
enum Op {
    Set(u64),
    Del,
    Incr,
    LPush(u64),
    RPop,
    HSet(u8, u64),
    HDel(u8),
    SAdd(u8),
    SRem(u8),
    /// The key becomes another one.
    Rename(u8),
    State(Option<Value>),
}

type Store = BTreeMap<u8, Value>;

#[derive(Debug, Clone)]
struct Command {
    key: u8,
    op: Op,
}

impl Command {
    fn bytes(&self) -> Bytes {
        let key = format!("k{}", self.key);
        let words = match &self.op {
            Op::Set(value) => vec!["SET".to_owned(), key, value.to_string()],
            Op::Del => vec!["DEL".to_owned(), key],
            Op::Incr => vec!["INCR".to_owned(), key],
            Op::LPush(value) => vec!["LPUSH".to_owned(), key, value.to_string()],
            Op::RPop => vec!["RPOP".to_owned(), key],
            Op::HSet(field, value) => {
                vec!["HSET".to_owned(), key, field.to_string(), value.to_string()]
            }
            Op::HDel(field) => vec!["HDEL".to_owned(), key, field.to_string()],
            Op::SAdd(member) => vec!["SADD".to_owned(), key, member.to_string()],
            Op::SRem(member) => vec!["SREM".to_owned(), key, member.to_string()],
            Op::Rename(to) => vec!["RENAME".to_owned(), key, format!("k{to}")],
            // What a state is written as matters to nobody here, its effect does.
            Op::State(_) => vec!["SET".to_owned(), key, "state".to_owned()],
        };
        let mut out = Vec::new();
        put_command(&mut out, &words);
        out.into()
    }
}

/// What Redis does; false if it has no effect or fails.
fn execute(store: &mut Store, command: &Command) -> bool {
    let key = command.key;
    let other = if let Op::Rename(to) = command.op { to } else { key };
    let look = |store: &Store| [key, other].map(|key| store.get(&key).cloned());
    let before = look(store);
    match &command.op {
        Op::Set(value) => drop(store.insert(key, Value::Number(*value))),
        Op::Del | Op::State(None) => drop(store.remove(&key)),
        Op::State(Some(value)) => drop(store.insert(key, value.clone())),
        Op::Rename(to) => {
            if let Some(value) = store.remove(&key) {
                store.insert(*to, value);
            }
        }
        Op::Incr => match store.entry(key).or_insert(Value::Number(0)) {
            Value::Number(number) => *number += 1,
            _ => return false,
        },
        Op::LPush(value) => match store.entry(key).or_insert(Value::List(Vec::new())) {
            Value::List(list) => list.insert(0, *value),
            _ => return false,
        },
        Op::RPop => {
            if let Some(Value::List(list)) = store.get_mut(&key) {
                list.pop();
            }
        }
        Op::HSet(field, value) => match store.entry(key).or_insert(Value::Hash(BTreeMap::new())) {
            Value::Hash(hash) => drop(hash.insert(*field, *value)),
            _ => return false,
        },
        Op::HDel(field) => {
            if let Some(Value::Hash(hash)) = store.get_mut(&key) {
                hash.remove(field);
            }
        }
        Op::SAdd(member) => match store.entry(key).or_insert(Value::Set(BTreeSet::new())) {
            Value::Set(set) => drop(set.insert(*member)),
            _ => return false,
        },
        Op::SRem(member) => {
            if let Some(Value::Set(set)) = store.get_mut(&key) {
                set.remove(member);
            }
        }
    }
    store.retain(|_, value| match value {
        Value::Number(_) => true,
        Value::List(list) => !list.is_empty(),
        Value::Hash(hash) => !hash.is_empty(),
        Value::Set(set) => !set.is_empty(),
    });
    look(store) != before
}

/// In the stream of a site's Redis.
enum Event {
    Local(Command),
    Mark(u64, Option<Arc<Unit>>),
    EntryMark(u64),
    SnapshotEnd(u64),
    Read(u64, u8, Option<Value>),
}

/// On its way into a site's Redis.
enum Order {
    Apply(Arc<Unit>, bool),
    Entry(u8, Value),
    SkipEntry,
    SnapshotEnd,
    Read(u8),
}

/// A local unit, in the journal and on the wire.
#[derive(Debug)]
struct Unit {
    end: u64,
    time: Timestamp,
    seen: Option<u64>,
    command: Command,
    bytes: Bytes,
}

enum Message {
    Unit(Arc<Unit>),
    Heartbeat(Option<u64>),
    Entry(u8, Value),
    SnapshotEnd,
}

struct Site {
    number: u64,
    store: Store,
    stream: VecDeque<Event>,
    orders: VecDeque<Order>,
    wire: VecDeque<Message>,
    replid: ReplicationId,
    journaled: Vec<Arc<Unit>>,
    end: u64,
    seen: Option<u64>,
    clock: u64,
    sequence: u64,
    increments: u64,
    conflicts: Arc<Conflicts>,
    keys: KeyTable,
}

fn key_of(number: u8) -> Key {
    Key { database: Database(0), name: format!("k{number}").into() }
}

fn number_of(key: &Key) -> u8 {
    key.name[1] - b'0'
}

impl Site {
    fn client(&mut self, command: Command) {
        if execute(&mut self.store, &command) {
            self.increments += u64::from(command.op == Op::Incr);
            self.stream.push_back(Event::Local(command));
        }
    }

    /// Sends the next order to Redis.
    fn redis_step(&mut self) {
        let Some(order) = self.orders.pop_front() else { return };
        self.sequence += 1;
        let tag = self.sequence;
        match order {
            Order::Apply(unit, left_out) => {
                self.conflicts.issued(tag);
                if !left_out {
                    execute(&mut self.store, &unit.command);
                }
                self.stream.push_back(Event::Mark(tag, Some(unit)));
            }
            Order::Entry(key, value) => {
                self.conflicts.issued(tag);
                // Written under WATCH: what was written meanwhile is looked at again.
                let is_local = |event: &Event| match event {
                    Event::Local(command) => command.key == key || command.op == Op::Rename(key),
                    _ => false,
                };
                let name = key_of(key).name;
                let newer = rules::follows(Rule::SkipEntries)
                    && (self.stream.iter().any(is_local)
                        || self.conflicts.contains(Database(0), &name));
                if newer {
                    self.conflicts.ask_repair([key_of(key)]);
                } else if !(self.number == 0 && self.store.contains_key(&key)) {
                    self.store.insert(key, value);
                }
                self.stream.push_back(Event::EntryMark(tag));
            }
            Order::SkipEntry => {
                self.conflicts.issued(tag);
                self.stream.push_back(Event::EntryMark(tag));
            }
            Order::SnapshotEnd => {
                self.conflicts.issued(tag);
                self.stream.push_back(Event::SnapshotEnd(tag));
            }
            Order::Read(key) => {
                let value = self.store.get(&key).cloned();
                self.stream.push_back(Event::Read(tag, key, value));
            }
        }
    }

    fn journal(&mut self, command: Command) {
        self.end += 1;
        let time = Timestamp(self.clock * 2 + self.number);
        let bytes = command.bytes();
        let end = Offset(self.end);
        let state = matches!(command.op, Op::State(_));
        self.conflicts.enter_unit(&self.keys, (&bytes, Database(0)), end, time, state);
        let unit = Arc::new(Unit { end: self.end, time, seen: self.seen, command, bytes });
        self.journaled.push(unit.clone());
        self.wire.push_back(Message::Unit(unit));
    }

    /// Reads the next of its Redis's stream.
    fn stream_step(&mut self, now: u64, states: &mut u32) {
        let Some(event) = self.stream.pop_front() else { return };
        self.clock = now.max(self.clock + 1);
        match event {
            Event::Local(command) => self.journal(command),
            Event::Mark(tag, unit) => {
                let units: Vec<_> = unit.iter().map(|unit| Arc::new(self.remote(unit))).collect();
                self.conflicts.came_back(Offset(self.end), tag, &units);
                if let Some(unit) = unit {
                    self.seen = self.seen.max(Some(unit.end));
                    self.clock = self.clock.max(unit.time.0 / 2);
                }
            }
            Event::EntryMark(tag) => self.conflicts.came_back(Offset(self.end), tag, &[]),
            Event::SnapshotEnd(tag) => {
                self.conflicts.came_back(Offset(self.end), tag, &[]);
                self.seen = self.seen.max(Some(0));
            }
            Event::Read(tag, key, value) => {
                self.conflicts.came_back(Offset(self.end), tag, &[]);
                self.conflicts.repairs.read(&[key_of(key)]);
                *states += 1;
                self.journal(Command { key, op: Op::State(value) });
            }
        }
        if let Some(Span { from: floor, .. }) = self.conflicts.all_wanted_now() {
            for unit in self.journaled.iter().filter(|unit| unit.end > floor.0) {
                let keys = self.remote(unit).touched.into_iter().map(|touched| touched.key);
                keys.for_each(|key| self.conflicts.repairs.ask(key, floor));
            }
            self.conflicts.all_asked();
        }
        for key in self.conflicts.repairs.take_now(100) {
            self.orders.push_back(Order::Read(number_of(&key)));
        }
    }

    fn remote(&self, unit: &Unit) -> RemoteUnit {
        let mut touched = SmallVec::new();
        each_command(&unit.bytes, |at, command| {
            if matches!(unit.command.op, Op::State(_)) {
                let touch = state_touch(Database(0), command);
                touched.push(Touched::new(at, touch, &unit.bytes));
                return;
            }
            touches(&self.keys, Database(0), command, |touch| {
                touched.push(Touched::new(at, touch, &unit.bytes));
            });
        });
        let replid = self.replid;
        let seen = unit.seen.map(|offset| Position { replid, offset: Offset(offset) });
        let state = matches!(unit.command.op, Op::State(_));
        RemoteUnit { time: unit.time, seen, state, wide: false, touched }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Unit(unit) => {
                let left_out = !self.conflicts.judge(&self.remote(&unit)).is_empty();
                self.orders.push_back(Order::Apply(unit, left_out));
            }
            Message::Heartbeat(seen) => {
                // Only when all before is applied.
                if let Some(offset) = seen.filter(|_| self.orders.is_empty()) {
                    let position = Position { replid: self.replid, offset: Offset(offset) };
                    self.conflicts.seen_in_order(position);
                }
            }
            Message::Entry(key, value) => {
                if self.conflicts.contains(Database(0), &key_of(key).name) {
                    self.conflicts.ask_repair([key_of(key)]);
                    self.orders.push_back(Order::SkipEntry);
                } else {
                    self.orders.push_back(Order::Entry(key, value));
                }
            }
            Message::SnapshotEnd => self.orders.push_back(Order::SnapshotEnd),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    ops: &'static [u8],
    keys: u8,
    writes: u32,
    /// Of 100 moves.
    rate: u32,
    lag: u32,
    preload: u32,
    max_keys: usize,
}

struct Run {
    rng: SmallRng,
    setting: Setting,
    serial: u64,
    sites: [Site; 2],
    states: u32,
}

impl Run {
    fn new(seed: u64, setting: Setting) -> Self {
        let replids = ["a", "b"].map(|digit| digit.repeat(40).parse::<ReplicationId>().unwrap());
        let site = |number: usize| {
            let conflicts = Conflicts::new(Policy::Converge, number == 0, setting.max_keys);
            let position = Position { replid: replids[number], offset: Offset(0) };
            conflicts.begin_history(position);
            conflicts.cut(position);
            Site {
                number: number as u64,
                store: Store::new(),
                stream: VecDeque::new(),
                orders: VecDeque::new(),
                wire: VecDeque::new(),
                replid: replids[number],
                journaled: Vec::new(),
                end: 0,
                seen: None,
                clock: 0,
                sequence: 0,
                increments: 0,
                conflicts,
                keys: KeyTable::of_rows(&[("lpush", 1, 1, 1), ("rename", 1, 2, 1)]),
            }
        };
        let rng = SmallRng::seed_from_u64(seed);
        Self { rng, setting, serial: 0, sites: [site(0), site(1)], states: 0 }
    }

    fn op(&mut self) -> Command {
        self.serial += 1;
        let serial = 1000 * self.serial;
        let key = self.rng.random_range(0..self.setting.keys);
        let part = self.rng.random_range(0..3);
        let op = match self.setting.ops[self.rng.random_range(0..self.setting.ops.len())] {
            b'S' => Op::Set(serial),
            b'D' => Op::Del,
            b'I' => Op::Incr,
            b'L' => Op::LPush(serial),
            b'R' => Op::RPop,
            b'H' => Op::HSet(part, serial),
            b'h' => Op::HDel(part),
            b'A' => Op::SAdd(part),
            b'a' => Op::SRem(part),
            _ => Op::Rename(self.rng.random_range(0..self.setting.keys)),
        };
        Command { key, op }
    }

    fn run(mut self) -> Self {
        for index in 0..2 {
            for _ in 0..self.setting.preload {
                let command = self.op();
                execute(&mut self.sites[index].store, &command);
            }
            let site = &mut self.sites[index];
            let entries: Vec<_> = site.store.clone().into_iter().collect();
            site.wire.extend(entries.into_iter().map(|(key, value)| Message::Entry(key, value)));
            site.wire.push_back(Message::SnapshotEnd);
        }
        let mut written = 0;
        for now in 1..1_000_000 {
            if written < self.setting.writes && self.rng.random_range(0..100) < self.setting.rate {
                let command = self.op();
                let site = self.rng.random_range(0..2);
                self.sites[site].client(command);
                written += 1;
            }
            let still = written >= self.setting.writes;
            if !still && self.rng.random_range(0..50) == 0 {
                // After a restart more is repaired than needs to be.
                let key = self.rng.random_range(0..self.setting.keys);
                self.sites[0].conflicts.ask_repair([key_of(key)]);
            }
            let mut moves = [0_u8; 10];
            let mut count = 0;
            let mut add = |what: u8, weight: usize| {
                for _ in 0..weight {
                    moves[count] = what;
                    count += 1;
                }
            };
            for index in 0..2_u8 {
                let site = &self.sites[usize::from(index)];
                add(index, if site.stream.is_empty() { 0 } else { 2 });
                add(2 + index, if site.orders.is_empty() { 0 } else { 2 });
                let passes = still || self.rng.random_range(0..100) >= self.setting.lag;
                add(4 + index, usize::from(!site.wire.is_empty() && passes));
            }
            if count == 0 {
                if still {
                    return self;
                }
                continue;
            }
            let what = moves[self.rng.random_range(0..count)];
            let index = usize::from(what % 2);
            match what / 2 {
                0 => self.sites[index].stream_step(now, &mut self.states),
                1 => self.sites[index].redis_step(),
                _ => self.deliver(index, still),
            }
        }
        panic!("does not come to rest");
    }

    fn deliver(&mut self, index: usize, still: bool) {
        let site = &mut self.sites[index];
        let Some(message) = site.wire.pop_front() else { return };
        let is_unit = matches!(message, Message::Unit(_));
        // A heartbeat says what the journal says when all before it was sent.
        if site.wire.is_empty() && is_unit && !still {
            let seen = site.seen;
            site.wire.push_back(Message::Heartbeat(seen));
        }
        self.sites[1 - index].receive(message);
    }

    fn differs(&self) -> bool {
        self.sites[0].store != self.sites[1].store
    }

    /// Whether increments were lost, or counted twice, where clients did nothing else.
    fn miscounted(&self) -> bool {
        let written: u64 = self.sites.iter().map(|site| site.increments).sum();
        let number = |value: &Value| if let Value::Number(number) = value { *number } else { 0 };
        let there: u64 = self.sites[0].store.values().map(number).sum();
        self.setting.ops == b"I" && self.setting.preload == 0 && there != written
    }
}

const EVERYTHING: &[u8] = b"SSDILRHhAaN";

/// As many settings as the model of the design has: kinds of operations, data at the start, load,
/// lag, length.
fn settings() -> Vec<Setting> {
    let mut all = Vec::new();
    let kinds: [&'static [u8]; 9] =
        [EVERYTHING, b"S", b"SD", b"SI", b"I", b"Hh", b"LR", b"Aa", b"SN"];
    for ops in kinds {
        for preload in [0, 6] {
            for rate in [10, 30, 60] {
                for lag in [0, 90] {
                    for (writes, keys, max_keys) in [(6, 1, 9), (12, 1, 9), (40, 3, 9), (30, 4, 1)]
                    {
                        all.push(Setting { ops, keys, writes, rate, lag, preload, max_keys });
                    }
                }
            }
        }
    }
    all
}

/// Runs that differ at the end, and how many runs there were.
fn diverged(seeds: std::ops::Range<u64>) -> (Vec<(u64, Setting)>, usize) {
    let (mut bad, mut count) = (Vec::new(), 0);
    for setting in settings() {
        for seed in seeds.clone() {
            count += 1;
            let run = Run::new(seed, setting).run();
            if run.differs() || run.miscounted() {
                bad.push((seed, setting));
            }
        }
    }
    (bad, count)
}

/// 432 settings; `./dev test conflicts --runs N` asks for more of each.
#[test]
fn both_sites_end_the_same() {
    let runs = std::env::var("REDIS_DUPLEX_CONFLICT_RUNS");
    let runs: u64 = runs.ok().and_then(|text| text.parse().ok()).unwrap_or(240);
    let half = runs / 2;
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| diverged(0..half));
        (diverged(half..runs), other.join().unwrap())
    });
    let count = first.1 + second.1;
    for (seed, setting) in first.0.iter().chain(&second.0) {
        println!("{seed} {} {setting:?}", String::from_utf8_lossy(setting.ops));
    }
    assert!(first.0.is_empty() && second.0.is_empty());
    println!("{count} runs, none diverged");
}

/// Each rule is needed: without it some runs diverge.
#[test]
fn without_any_rule_sites_diverge() {
    let rules = [
        Rule::FindConflicts,
        Rule::BlindConflicts,
        Rule::SkipEntries,
        Rule::Spread,
        Rule::SeenInOrder,
    ];
    for rule in rules {
        let (bad, count) = rules::without(Some(rule), || diverged(0..20));
        println!("without {rule:?}: {} of {count} runs diverged", bad.len());
        assert!(!bad.is_empty(), "{rule:?} is not needed, or not tested");
    }
}

/// Without this rule a local write would be undone until the primary has heard of it.
#[test]
fn the_primarys_word_does_not_undo_what_it_has_not_heard_of() {
    let setting =
        Setting { ops: b"S", keys: 1, writes: 0, rate: 0, lag: 0, preload: 0, max_keys: 9 };
    let after = |rule| {
        rules::without(rule, || {
            let mut run = Run::new(1, setting);
            run.sites.iter_mut().for_each(|site| site.seen = Some(0));
            let [primary, other] = &mut run.sites;
            other.client(Command { key: 0, op: Op::Set(7) });
            other.stream_step(10, &mut 0);
            primary.journal(Command { key: 0, op: Op::State(Some(Value::Number(6))) });
            other.receive(primary.wire.pop_front().unwrap());
            other.redis_step();
            other.store.get(&0).cloned()
        })
    };
    assert_eq!(after(None), Some(Value::Number(7)));
    assert_eq!(after(Some(Rule::SkipStates)), Some(Value::Number(6)));
}

/// What key 0 holds when the primary did `ours` after the other site had done `theirs`, neither
/// knowing of the other.
fn at_the_end(theirs: Op, ours: Op, rule: Option<Rule>) -> Option<Value> {
    let setting =
        Setting { ops: b"S", keys: 1, writes: 0, rate: 0, lag: 0, preload: 0, max_keys: 9 };
    rules::without(rule, || {
        let mut run = Run::new(1, setting);
        for site in &mut run.sites {
            site.seen = Some(0);
            site.store.insert(0, Value::Number(1));
        }
        let command = |op| Command { key: 0, op };
        run.sites[1].client(command(theirs));
        run.sites[1].stream_step(10, &mut 0);
        run.sites[0].client(command(ours));
        run.sites[0].stream_step(20, &mut 0);
        let run = run.run();
        assert!(!run.differs());
        run.sites[0].store.get(&0).cloned()
    })
}

/// These rules decide who wins; both sites end the same without them, too.
#[test]
fn newer_writes_win_and_writes_beat_deletes() {
    let (old, new) = (Value::Number(5), Value::Number(6));
    let newer = |rule| at_the_end(Op::Set(5), Op::Set(6), rule);
    assert_eq!(newer(None), Some(new));
    assert_eq!(newer(Some(Rule::NewerWins)), Some(old));
    let deleted = |rule| at_the_end(Op::Del, Op::Incr, rule);
    assert_eq!(deleted(None), Some(Value::Number(2)));
    assert_eq!(deleted(Some(Rule::WritesBeatDeletes)), None);
}
