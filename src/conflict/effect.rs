//! What a write does to a key, as far as conflicts go: the one table of what commutes with what,
//! what erases what, and what only deletes. `docs/conflicts.md` tells it to users, and a test tries
//! every claim on real servers.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::KeyTable;
use crate::position::Database;
use crate::resp::Command;

/// What a command does to one key. Fields and members stand as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing of what was there stays: SET, MSET, RESTORE .. REPLACE.
    Replace,
    /// The key goes: DEL, UNLINK, and expiry and eviction, which arrive as these.
    Delete,
    /// An integer is added: INCR, DECR, INCRBY, DECRBY.
    Increment,
    /// SADD.
    AddMember,
    /// SREM.
    RemoveMember,
    /// A field gets a value: HSET, HMSET.
    SetField(u64),
    /// An integer is added to a field: HINCRBY.
    IncrementField(u64),
    /// HDEL.
    RemoveField(u64),
    /// A member gets a score: ZADD without options.
    SetScore(u64),
    /// Something is added to a member's score: ZINCRBY. Sums of floating-point numbers depend on
    /// their order.
    IncrementScore(u64),
    /// ZREM.
    RemoveScore(u64),
    /// Something goes by its place or value: LPOP, RPOP, LTRIM, LREM, XDEL, XTRIM, ZREMRANGEBY..
    Take,
    /// Anything else, and all that is not known.
    Change,
    /// The primary's word on the key. It replaces the key at the other site, but nobody wrote it: it
    /// wins over no write.
    State,
}

use Effect::{
    AddMember, Change, Delete, Increment, IncrementField, IncrementScore, RemoveField,
    RemoveMember, RemoveScore, Replace, SetField, SetScore, State, Take,
};

impl Effect {
    /// Whether both orders of the two leave the same value and time to live, whatever was there.
    pub fn commutes_with(self, other: Self) -> bool {
        match (self, other) {
            (Increment, Increment)
            | (AddMember, AddMember)
            | (RemoveMember, RemoveMember)
            | (RemoveField(_), RemoveField(_))
            | (RemoveScore(_), RemoveScore(_)) => true,
            (IncrementField(a), IncrementField(b)) if a == b => true,
            // What is added to different fields or members does not meet.
            (SetField(a) | IncrementField(a), SetField(b) | IncrementField(b))
            | (SetScore(a) | IncrementScore(a), SetScore(b) | IncrementScore(b)) => a != b,
            // Whatever else was taken away, the key is gone.
            (Delete, other) | (other, Delete) => other.only_deletes(),
            _ => false,
        }
    }

    /// Whether this, after `other`, leaves nothing of it.
    pub fn erases(self, other: Self) -> bool {
        match (self, other) {
            (Replace, _) => true,
            (SetField(a), SetField(b) | IncrementField(b) | RemoveField(b))
            | (SetScore(a), SetScore(b) | IncrementScore(b) | RemoveScore(b)) => a == b,
            _ => false,
        }
    }

    /// Whether it takes away and gives nothing.
    pub fn only_deletes(self) -> bool {
        matches!(self, Delete | RemoveMember | RemoveField(_) | RemoveScore(_) | Take)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Replace => "replace",
            Delete => "delete",
            Increment | IncrementField(_) | IncrementScore(_) => "increment",
            AddMember => "add",
            SetField(_) | SetScore(_) => "set",
            RemoveMember | RemoveField(_) | RemoveScore(_) | Take => "remove",
            Change => "change",
            State => "state",
        }
    }
}

/// Hashes are compared within the process only, and nobody outside can foresee them.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The hash of a key in a database.
pub(super) fn hash_key(database: Database, key: &[u8]) -> u64 {
    HASHER.hash_one((database.0, key))
}

fn hash(bytes: &[u8]) -> u64 {
    HASHER.hash_one(bytes)
}

/// One key that a command touches.
#[derive(Debug, Clone, Copy)]
pub struct Touch<'a> {
    /// Its database.
    pub database: Database,
    /// The key.
    pub key: &'a [u8],
    /// What happens to it.
    pub effect: Effect,
    /// What becomes of one of the command's keys may depend on the others: a conflict on one is one
    /// on all.
    pub together: bool,
}

/// Calls `use_it` with each key that the command touches, once for each effect.
pub fn touches<'a>(
    keys: &KeyTable,
    database: Database,
    command: Command<'a>,
    mut use_it: impl FnMut(Touch<'a>),
) {
    let mut single = |effect| {
        use_it(Touch { database, key: command.arg(1), effect, together: false });
    };
    let mut name = [0; 16];
    // A longer name is none of these.
    let given = Some(command.arg(0)).filter(|given| given.len() <= name.len()).unwrap_or_default();
    let length = given.len();
    name[..length].copy_from_slice(given);
    name[..length].make_ascii_uppercase();
    let rest = || command.args().skip(2);
    match &name[..length] {
        b"SET" => single(if replaces(command) { Replace } else { Change }),
        b"SETEX" | b"PSETEX" => single(Replace),
        b"RESTORE" => {
            let replace = command.args().skip(4).any(|arg| arg.eq_ignore_ascii_case(b"REPLACE"));
            single(if replace { Replace } else { Change });
        }
        b"INCR" | b"DECR" | b"INCRBY" | b"DECRBY" => single(Increment),
        b"SADD" => single(AddMember),
        b"SREM" => single(RemoveMember),
        b"HSET" | b"HMSET" => rest().step_by(2).for_each(|field| single(SetField(hash(field)))),
        b"HINCRBY" => single(IncrementField(hash(command.arg(2)))),
        b"HDEL" => rest().for_each(|field| single(RemoveField(hash(field)))),
        b"ZADD" if is_score(command.arg(2)) => {
            let members = command.args().skip(3).step_by(2);
            members.for_each(|member| single(SetScore(hash(member))));
        }
        b"ZINCRBY" => single(IncrementScore(hash(command.arg(3)))),
        b"ZREM" => rest().for_each(|member| single(RemoveScore(hash(member)))),
        b"LPOP" | b"RPOP" | b"LTRIM" | b"LREM" | b"XDEL" | b"XTRIM" | b"ZREMRANGEBYRANK"
        | b"ZREMRANGEBYLEX" | b"ZREMRANGEBYSCORE" => single(Take),
        b"DEL" | b"UNLINK" => {
            let all = command.args().skip(1);
            all.for_each(|key| {
                use_it(Touch { database, key, effect: Delete, together: false });
            });
        }
        b"MSET" => {
            let all = command.args().skip(1).step_by(2);
            all.for_each(|key| {
                use_it(Touch { database, key, effect: Replace, together: false });
            });
        }
        _ => {
            let other = other_database(command);
            let mut count = 0;
            keys.each_key(command, |_| count += 1);
            let together = count > 1 || other.is_some();
            keys.each_key(command, |key| {
                for database in std::iter::once(database).chain(other) {
                    use_it(Touch { database, key, effect: Change, together });
                }
            });
        }
    }
}

/// Whether SET does so whatever is there, and leaves no old time to live.
fn replaces(command: Command<'_>) -> bool {
    let conditions: [&[u8]; 4] = [b"NX", b"XX", b"KEEPTTL", b"GET"];
    !command
        .args()
        .skip(3)
        .any(|option| conditions.iter().any(|word| option.eq_ignore_ascii_case(word)))
}

/// Whether this is a number, not an option of ZADD.
fn is_score(word: &[u8]) -> bool {
    std::str::from_utf8(word).is_ok_and(|text| text.parse::<f64>().is_ok())
}

/// The target of `MOVE key db` and `COPY from to DB db`: written in another database.
fn other_database(command: Command<'_>) -> Option<Database> {
    let at = if command.is("MOVE") {
        2
    } else if command.is("COPY") {
        command.args().position(|arg| arg.eq_ignore_ascii_case(b"DB"))? + 1
    } else {
        return None;
    };
    std::str::from_utf8(command.arg(at)).ok()?.parse().ok().map(Database)
}

/// Whether the command is about whole databases: FLUSHALL, FLUSHDB, SWAPDB.
pub fn is_wide(command: Command<'_>) -> bool {
    command.is("FLUSHALL") || command.is("FLUSHDB") || command.is("SWAPDB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, Scanner, put_command};

    fn effects(line: &str) -> Vec<(u32, String, Effect, bool)> {
        let mut out = Vec::new();
        put_command(&mut out, &line.split(' ').collect::<Vec<_>>());
        let mut scanner = Scanner::new(Limits::STREAM);
        let command = scanner.scan(&out).unwrap().unwrap();
        let mut found = Vec::new();
        touches(&KeyTable::default(), Database(1), command, |touch| {
            let key = String::from_utf8_lossy(touch.key).into_owned();
            found.push((touch.database.0, key, touch.effect, touch.together));
        });
        found
    }

    fn of(line: &str) -> Vec<Effect> {
        effects(line).into_iter().map(|(_, _, effect, _)| effect).collect()
    }

    #[test]
    fn commands_have_their_effects() {
        assert_eq!(of("SET k v"), [Replace]);
        assert_eq!(of("set k v PXAT 99"), [Replace]);
        assert_eq!(of("SET k v KEEPTTL"), [Change]);
        assert_eq!(of("SET k v nx"), [Change]);
        assert_eq!(of("SETNX k v"), [Change, Change]);
        assert_eq!(of("RESTORE k 0 xx REPLACE"), [Replace]);
        assert_eq!(of("RESTORE k 0 xx"), [Change]);
        assert_eq!(of("HSET k f 1 g 2"), [SetField(hash(b"f")), SetField(hash(b"g"))]);
        assert_eq!(of("ZADD k 1.5 m"), [SetScore(hash(b"m"))]);
        assert!(of("ZADD k GT 1.5 m").iter().all(|effect| *effect == Change));
        assert_eq!(of("ZREMRANGEBYSCORE k 0 1"), [Take]);
        let keys: Vec<_> = effects("DEL a b").into_iter().map(|(_, key, ..)| key).collect();
        assert_eq!(keys, ["a", "b"]);
        assert!(effects("RENAME a b").iter().all(|(.., together)| *together));
        let moved = effects("MOVE k 5");
        assert!(moved.iter().any(|(database, key, ..)| (*database, key.as_str()) == (5, "k")));
    }

    #[test]
    fn commuting_has_no_direction_and_what_erases_does_not_commute() {
        let all = [
            Replace,
            Delete,
            Increment,
            AddMember,
            RemoveMember,
            SetField(1),
            SetField(2),
            IncrementField(1),
            IncrementField(2),
            RemoveField(1),
            RemoveField(2),
            SetScore(1),
            SetScore(2),
            IncrementScore(1),
            IncrementScore(2),
            RemoveScore(1),
            Take,
            Change,
        ];
        for a in all {
            for b in all {
                assert_eq!(a.commutes_with(b), b.commutes_with(a), "{a:?} {b:?}");
                assert!(!(a.erases(b) && a.commutes_with(b)), "{a:?} {b:?}");
            }
        }
        assert!(!Change.commutes_with(Change) && !Replace.commutes_with(Delete));
    }
}
