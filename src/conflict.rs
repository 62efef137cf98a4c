//! Both sites wrote the same key: found exactly, and brought to the same end.
//!
//! The source enters what local clients write (`table`); the link asks which of the peer's commands
//! to leave out; and when the mark of a peer's batch comes back in the stream, what conflicts is
//! what stands before it there and the peer had not seen. The primary then sends whole keys anew
//! (`repairs`). All decisions are pure, in `table` and `effect`.

mod effect;
mod keys;
#[cfg(test)]
mod model;
mod recent;
mod repairs;
mod rules;
mod table;
mod unit;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

pub use effect::{Effect, Touch, is_wide, touches};
pub use keys::KeyTable;
pub use recent::{Conflict, Recent, Winner};
pub use repairs::Repairs;
pub use table::{Found, Table, Why, group};
pub use unit::{Key, RemoteUnit, Touched};

use crate::clock::Timestamp;
use crate::config::Policy;
use crate::position::{Database, Offset, Position, ReplicationId};
use crate::resp::{Command, Limits, Scanner};
use rules::Rule;

/// Conflicts with one peer; shared by the source, the link and the feed.
#[derive(Debug)]
pub struct Conflicts {
    policy: Policy,
    is_primary: bool,
    /// Most keys with writes that the peer has not seen.
    pub max_keys: usize,
    table: Mutex<Table>,
    marks: Mutex<Marks>,
    scanned: watch::Sender<Offset>,
    /// Keys to be read.
    pub repairs: Repairs,
    /// For people.
    pub recent: Recent,
    /// All keys that were written within this are to be repaired.
    all: watch::Sender<Option<Span>>,
    /// The beginning of what was taken of that and is not asked for yet.
    asking: Mutex<Option<Offset>>,
    overflow_told: Mutex<bool>,
    epoch: AtomicU64,
}

/// A part of this site's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Behind this..
    pub from: Offset,
    /// ..up to this.
    pub to: Offset,
}

/// Which of our batches came back: what the peer says to have seen counts when all before has.
#[derive(Debug, Default)]
struct Marks {
    issued: u64,
    settled: u64,
    /// The peer has seen this, once this mark came back.
    waiting: Option<(u64, Position)>,
}

impl Conflicts {
    /// With one peer. `max_keys` of the local writes that it has not seen are remembered.
    pub fn new(policy: Policy, is_primary: bool, max_keys: usize) -> Arc<Self> {
        Arc::new(Self {
            policy,
            is_primary,
            max_keys,
            table: Mutex::new(Table::new(is_primary, max_keys)),
            marks: Mutex::default(),
            scanned: watch::Sender::new(Offset(0)),
            repairs: Repairs::default(),
            recent: Recent::default(),
            all: watch::Sender::new(None),
            asking: Mutex::new(None),
            overflow_told: Mutex::new(false),
            epoch: AtomicU64::new(0),
        })
    }

    /// Whether this site sends the state of keys.
    pub fn repairs_keys(&self) -> bool {
        self.is_primary && self.policy == Policy::Converge
    }

    /// Whether the peer's units are to be looked at.
    pub fn looks(&self) -> bool {
        self.policy != Policy::Off
    }

    /// A history begins; positions of an earlier one mean nothing any more.
    pub fn begin_history(&self, position: Position) {
        let same = {
            let mut table = self.table.lock();
            let same = table.has_history(position.replid);
            table.begin_history(position);
            same
        };
        if !same {
            // A full sync follows.
            self.all.send_replace(None);
            *self.asking.lock() = None;
        }
        self.repairs.begin_again(Some(position.offset));
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.scanned.send_replace(position.offset);
    }

    /// The history goes on under another id.
    pub fn rename_history(&self, replid: ReplicationId) {
        let mut table = self.table.lock();
        if !table.has_history(replid) {
            self.repairs.begin_again(None);
        }
        table.rename_history(replid);
    }

    /// The history had this id before.
    pub fn had_id(&self, replid: ReplicationId) {
        self.table.lock().had_id(replid);
    }

    /// A command of a local unit that ends at or behind `end`.
    pub fn enter(
        &self,
        keys: &KeyTable,
        database: Database,
        command: Command<'_>,
        end: Offset,
        time: Timestamp,
    ) {
        let mut table = self.table.lock();
        if is_wide(command) {
            table.enter_wide(end, swapped(command));
            return;
        }
        let mut touched = smallvec::SmallVec::<[Touch<'_>; 4]>::new();
        touches(keys, database, command, |touch| touched.push(touch));
        let group = group(&touched);
        if let Some(keys) = group.iter().find(|keys| keys.iter().any(|k| self.repairs.is_open(k))) {
            // What a key became that is being repaired goes on in the others.
            let seen = table.floor().unwrap_or_default();
            keys.iter().for_each(|key| self.repairs.ask(key.clone(), seen));
        }
        for touch in touched {
            table.enter(touch, group.as_ref(), end, time);
        }
        if table.is_overflown() {
            drop(table);
            self.tell_overflow();
        }
    }

    fn tell_overflow(&self) {
        if !std::mem::replace(&mut *self.overflow_told.lock(), true) {
            warn!(
                "more keys were written than [conflict] max_keys while a peer has not seen them: \
                 its writes conflict with everything until it has caught up"
            );
        }
    }

    /// The commands of a unit in the journal, likewise; it ends at `end`.
    pub fn enter_unit(
        &self,
        keys: &KeyTable,
        (bytes, mut database): (&[u8], Database),
        end: Offset,
        time: Timestamp,
        state: bool,
    ) {
        each_command(bytes, |_, command| {
            if command.is("SELECT") {
                database = selected(command).unwrap_or(database);
            } else if state {
                let touch = state_touch(database, command);
                self.table.lock().enter(touch, None, end, time);
            } else {
                self.enter(keys, database, command, end, time);
            }
        });
    }

    /// The stream of the local Redis was read up to here.
    pub fn scanned(&self, to: Offset) {
        self.scanned.send_replace(to);
    }

    /// Waits until the stream of the local Redis was read up to `to`, in the history that Redis has
    /// now; whether it was in time, and before another history began.
    pub async fn caught_up(&self, to: Position, limit: Duration) -> bool {
        let mut scanned = self.scanned.subscribe();
        let epoch = self.epoch();
        let broke = || self.epoch() != epoch;
        let there =
            |scanned: &Offset| *scanned >= to.offset && self.table.lock().has_history(to.replid);
        let over = scanned.wait_for(|scanned| broke() || there(scanned));
        timeout(limit, over).await.is_ok() && !broke()
    }

    /// Which history this is: goes up when another begins, and what was known of writes is gone.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// A batch with this number is about to be sent.
    pub fn issued(&self, sequence: u64) {
        self.marks.lock().issued = sequence;
    }

    /// The peer has seen local units up to `position`. All that it sent before is applied, and
    /// counts when its marks have come back.
    pub fn seen_in_order(&self, position: Position) {
        let mut table = self.table.lock();
        let mut marks = self.marks.lock();
        if rules::follows(Rule::SeenInOrder) && marks.settled < marks.issued {
            marks.waiting = Some((marks.issued, position));
        } else {
            table.seen(position);
        }
    }

    /// A snapshot of the peer holds what it had seen up to `position`. All that it sent before must
    /// have come back.
    pub fn seen(&self, position: Position) {
        self.table.lock().seen(position);
    }

    /// A snapshot for the peer was cut here.
    pub fn cut(&self, position: Position) {
        self.table.lock().cut(position);
    }

    /// A snapshot for the peer is about to be cut: what the peer writes conflicts with everything
    /// until what is returned is dropped. To be called before it is looked what the peer's units
    /// had reached here by then.
    pub fn cutting(self: &Arc<Self>) -> Cutting {
        self.table.lock().cutting(true);
        Cutting(self.clone())
    }

    /// A snapshot for the peer was cut here; what is before reaches it as units too.
    pub fn cut_behind_units(&self, position: Position) {
        self.table.lock().cut_behind_units(position);
    }

    /// The id of the history that the local Redis has now; none before it is known.
    pub fn history(&self) -> Option<ReplicationId> {
        self.table.lock().history()
    }

    /// The mark of a batch came back at this place; these were its units.
    pub fn came_back(&self, at: Offset, sequence: u64, units: &[Arc<RemoteUnit>]) {
        let mut table = self.table.lock();
        for unit in units {
            if !self.looks() {
                unit.seen.into_iter().for_each(|seen| table.seen(seen));
                continue;
            }
            let beyond = table.is_beyond_knowledge(unit);
            for mut found in table.came_back(unit, |key| self.repairs.is_open(key)) {
                found.rejected = found.rejected.filter(|_| self.policy == Policy::Converge);
                self.recent.add(&found, self.is_primary);
                if self.repairs_keys() {
                    self.repairs.ask(found.key, found.seen);
                }
            }
            if beyond {
                self.want_all(table.floor(), at);
            }
        }
        let mut marks = self.marks.lock();
        marks.settled = marks.settled.max(sequence);
        if let Some((_, seen)) = marks.waiting.take_if(|(after, _)| *after <= sequence) {
            table.seen(seen);
        }
    }

    /// The mark of a batch of an earlier run came by: its units are not known, so all that the peer
    /// may not have seen is taken to conflict.
    pub fn earlier_came_back(&self, at: Offset) {
        self.want_all(self.table.lock().floor(), at);
    }

    /// What the peer had seen then counts: it is no less open when more was seen since.
    fn want_all(&self, floor: Option<Offset>, to: Offset) {
        let Some(from) = floor else { return };
        self.all.send_modify(|all| {
            let before = all.unwrap_or(Span { from, to });
            *all = Some(Span { from: from.min(before.from), to: to.max(before.to) });
        });
    }

    /// Waits until all keys that the peer may not have seen are to be repaired; which. Cancel safe.
    pub async fn all_wanted(&self) -> Span {
        let mut all = self.all.subscribe();
        loop {
            if let Some(span) = self.all_wanted_now() {
                return span;
            }
            // The sender lives as long as this.
            let _ = all.wait_for(Option::is_some).await;
        }
    }

    /// The same without waiting.
    pub fn all_wanted_now(&self) -> Option<Span> {
        let mut asking = self.asking.lock();
        let span = self.all.send_replace(None)?;
        *asking = Some(span.from);
        Some(span)
    }

    /// All of it was asked for.
    pub fn all_asked(&self) {
        *self.asking.lock() = None;
    }

    /// Which commands of a unit that is about to be applied are left out.
    pub fn judge(&self, unit: &RemoteUnit) -> Vec<usize> {
        if self.policy != Policy::Converge {
            return Vec::new();
        }
        self.table.lock().judge(unit).into_iter().map(|(command, _)| command).collect()
    }

    /// The keys of a unit whose command failed here, or of an entry that was left out: the primary
    /// sends what it has.
    pub fn ask_repair(&self, keys: impl IntoIterator<Item = Key>) {
        if self.repairs_keys() {
            let seen = self.table.lock().floor().unwrap_or_default();
            keys.into_iter().for_each(|key| self.repairs.ask(key, seen));
        }
    }

    /// Whether local clients wrote the key and the peer has not seen that.
    pub fn contains(&self, database: Database, key: &[u8]) -> bool {
        self.table.lock().contains(database, key)
    }

    /// From where on local units matter after a restart: what the peer has not seen, and what an
    /// open conflict is about. None before the peer has seen anything.
    pub fn floor(&self) -> Option<Offset> {
        let floor = self.table.lock().floor()?;
        let asking = self.asking.lock();
        let open = [self.repairs.since(), *asking, self.all.borrow().map(|span| span.from)];
        Some(open.into_iter().flatten().min().map_or(floor, |open| open.min(floor)))
    }

    /// The peer has seen local writes up to here; what it has not is known behind this.
    pub fn seen_up_to(&self) -> Option<Position> {
        self.table.lock().floor_position()
    }

    /// Keys with writes that the peer has not seen.
    pub fn unseen_keys(&self) -> usize {
        self.table.lock().len()
    }

    /// States of keys were put into the journal.
    pub fn repaired(&self, keys: &[Key], bytes: usize) {
        self.recent.repaired.fetch_add(keys.len() as u64, Ordering::Relaxed);
        self.recent.repaired_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Stands while a snapshot for a peer is about to be cut.
#[derive(Debug)]
pub struct Cutting(Arc<Conflicts>);

impl Drop for Cutting {
    fn drop(&mut self) {
        self.0.table.lock().cutting(false);
    }
}

/// Calls `use_it` with each command, up to the end or to what is none.
pub fn each_command<'a>(bytes: &'a [u8], mut use_it: impl FnMut(usize, Command<'_>)) {
    let mut scanner = Scanner::new(Limits::STREAM);
    let mut rest: &'a [u8] = bytes;
    let mut index = 0;
    while let Ok(Some(command)) = scanner.scan(rest) {
        let length = command.raw().len();
        use_it(index, command);
        rest = &rest[length..];
        index += 1;
    }
}

/// What a command of the primary's word on a key does: nothing else of it stays.
pub fn state_touch(database: Database, command: Command<'_>) -> Touch<'_> {
    Touch { database, key: command.arg(1), effect: Effect::State, together: false }
}

/// The database that a SELECT names.
pub fn selected(command: Command<'_>) -> Option<Database> {
    std::str::from_utf8(command.arg(1)).ok()?.parse().ok().map(Database)
}

fn swapped(command: Command<'_>) -> Option<(Database, Database)> {
    let number = |at| std::str::from_utf8(command.arg(at)).ok()?.parse().ok().map(Database);
    command.is("SWAPDB").then(|| Some((number(1)?, number(2)?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_stream_is_told_when_the_history_breaks() {
        let conflicts = Conflicts::new(Policy::Converge, true, 9);
        let at = |offset| Position { replid: ReplicationId::random(), offset: Offset(offset) };
        let here = at(5);
        conflicts.begin_history(here);
        let soon = Duration::from_secs(30);
        assert!(conflicts.caught_up(here, soon).await);
        let later = Position { offset: Offset(9), ..here };
        let breaks = async { conflicts.begin_history(at(100)) };
        let (in_time, ()) = tokio::join!(conflicts.caught_up(later, soon), breaks);
        assert!(!in_time);
    }

    /// A key was read, and the stream broke before the mark of that came by.
    #[test]
    fn a_key_whose_mark_never_comes_is_read_again_at_the_next_conflict() {
        let conflicts = Conflicts::new(Policy::Converge, true, 9);
        let at = |offset| Position { replid: ReplicationId::random(), offset: Offset(offset) };
        let key = || Key { database: Database(0), name: "k".into() };
        conflicts.begin_history(at(1000));
        conflicts.repairs.ask(key(), Offset(1000));
        assert_eq!(conflicts.repairs.take_now(9), [key()]);
        conflicts.begin_history(at(14));
        conflicts.repairs.ask(key(), Offset(20));
        assert_eq!(conflicts.repairs.take_now(9), [key()]);
    }
}
