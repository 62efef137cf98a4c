//! What a request is to us. Pure: the session acts on it.

use super::command_table::{CommandTable, Kind, lower};
use super::replies;
use crate::resp::Request;
use crate::write_off::CHECKPOINT_KEY;

/// What a request is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Class {
    /// May stand in one of our batches; whether it may write.
    Batch {
        writes: bool,
    },
    /// Goes to the local Redis alone.
    Pass,
    /// A delete that names the checkpoint hash among other keys: this without it.
    Instead(Vec<Vec<u8>>),
    /// Would write the checkpoint hash: not done, answered with this.
    Checkpoint(&'static [u8]),
    /// FLUSHALL, FLUSHDB, SWAPDB: as the policy says.
    Flush,
    /// `SELECT`, with the number if it is one.
    Select(Option<u32>),
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Subscribe,
    Unsubscribe,
    Monitor,
    Auth,
    Hello,
    Reset,
    Quit,
    Ping,
    /// `CLIENT REPLY`.
    ClientReply,
    /// What every client library says of itself.
    ClientIntroduction,
    Replconf,
    Psync,
    Info,
    Role,
    Duplex,
    /// `DUPLEX LINK`.
    Link,
    /// `DUPLEX PAUSE`, `RESUME`, `RESYNC`.
    Control,
    /// `POST` or `Host:`: a browser was made to speak to us.
    CrossProtocol,
    /// Would block the connection; harmless inside a transaction.
    Blocking,
    /// `MIGRATE`: half of it can't be taken back.
    Migrate,
    /// Never possible here, and why.
    Refused(&'static str),
}

/// What `request` is.
pub(super) fn classify(table: &CommandTable, request: &Request) -> Class {
    let name = lower(request.arg(0));
    if let Some(class) = by_name(&name, request) {
        return class;
    }
    let kind = table.kind(&name, request);
    if kind == Kind::Write
        && let Some(class) = of_checkpoint(&name, request)
    {
        return class;
    }
    match kind {
        Kind::Write => Class::Batch { writes: true },
        Kind::Read => Class::Batch { writes: false },
        Kind::Other => Class::Pass,
    }
}

fn by_name(name: &[u8], request: &Request) -> Option<Class> {
    let alone = request.len() == 1;
    let class = match name {
        b"multi" if alone => Class::Multi,
        b"exec" if alone => Class::Exec,
        b"discard" if alone => Class::Discard,
        b"multi" | b"exec" | b"discard" => Class::Pass,
        b"watch" => Class::Watch,
        b"unwatch" => Class::Unwatch,
        b"select" => Class::Select(number(request.arg(1)).filter(|_| request.len() == 2)),
        b"flushall" | b"flushdb" | b"swapdb" => Class::Flush,
        b"subscribe" | b"psubscribe" | b"ssubscribe" => Class::Subscribe,
        b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => Class::Unsubscribe,
        b"monitor" => Class::Monitor,
        b"auth" => Class::Auth,
        b"hello" => Class::Hello,
        b"reset" => Class::Reset,
        b"quit" => Class::Quit,
        b"ping" if request.len() <= 2 => Class::Ping,
        b"echo" | b"time" => Class::Batch { writes: false },
        b"client" if request.arg_is(1, "reply") => Class::ClientReply,
        b"client" if request.arg_is(1, "setname") || request.arg_is(1, "setinfo") => {
            Class::ClientIntroduction
        }
        b"replconf" => Class::Replconf,
        b"psync" | b"sync" => Class::Psync,
        b"info" => Class::Info,
        b"role" if alone => Class::Role,
        b"duplex" if request.arg_is(1, "link") => Class::Link,
        b"duplex" if ["pause", "resume", "resync"].iter().any(|w| request.arg_is(1, w)) => {
            Class::Control
        }
        b"duplex" => Class::Duplex,
        b"post" | b"host:" => Class::CrossProtocol,
        b"replicaof" | b"slaveof" => Class::Refused(replies::NO_REPLICAOF),
        b"migrate" => Class::Migrate,
        b"blpop" | b"brpop" | b"blmove" | b"brpoplpush" | b"blmpop" | b"bzpopmin" | b"bzpopmax"
        | b"bzmpop" => Class::Blocking,
        b"xread" | b"xreadgroup" if blocks(request) => Class::Blocking,
        _ => return None,
    };
    Some(class)
}

/// Whether an XREAD or XREADGROUP has a BLOCK among its options.
fn blocks(request: &Request) -> bool {
    // GROUP takes two words, which may be anything; COUNT's and BLOCK's own are numbers.
    let mut at = if request.arg_is(1, "group") { 4 } else { 1 };
    while at < request.len() && !request.arg_is(at, "streams") {
        if request.arg_is(at, "block") {
            return true;
        }
        at += 1;
    }
    false
}

fn of_checkpoint(name: &[u8], request: &Request) -> Option<Class> {
    if matches!(name, b"del" | b"unlink") {
        if !request.args().skip(1).any(|key| key == CHECKPOINT_KEY) {
            return None;
        }
        let others: Vec<Vec<u8>> =
            request.args().filter(|arg| *arg != CHECKPOINT_KEY).map(<[u8]>::to_vec).collect();
        let alone = others.len() < 2;
        return Some(if alone { Class::Checkpoint(replies::ONE) } else { Class::Instead(others) });
    }
    if is_among_others(name, request) {
        return Some(Class::Refused(replies::OWN_KEY));
    }
    let renamed = matches!(name, b"rename" | b"renamenx" | b"copy");
    if request.arg(1) != CHECKPOINT_KEY && !(renamed && request.arg(2) == CHECKPOINT_KEY) {
        return None;
    }
    Some(Class::Checkpoint(match name {
        b"set" | b"setex" | b"psetex" | b"mset" | b"restore" | b"restore-asking" | b"hmset"
        | b"rename" | b"ltrim" | b"lset" | b"xgroup" | b"xsetid" | b"pfmerge" => replies::OK,
        _ => replies::ONE,
    }))
}

/// Whether it would write the checkpoint hash as one of several keys.
fn is_among_others(name: &[u8], request: &Request) -> bool {
    let is_own = |at: usize| request.arg(at) == CHECKPOINT_KEY;
    match name {
        b"mset" | b"msetnx" => (1..request.len()).step_by(2).any(is_own) && request.len() > 3,
        b"smove" | b"lmove" | b"rpoplpush" | b"bitop" | b"xgroup" => is_own(2),
        b"sort" | b"georadius" | b"georadiusbymember" | b"eval" | b"evalsha" | b"fcall" => {
            (2..request.len()).any(is_own)
        }
        _ => false,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(words: &str) -> Class {
        let words: Vec<&str> = words.split(' ').collect();
        let table = CommandTable::of(&[
            ("get", Kind::Read),
            ("hgetall", Kind::Read),
            ("xread", Kind::Read),
            ("xreadgroup", Kind::Write),
            ("config", Kind::Other),
            ("wait", Kind::Other),
            ("set", Kind::Write),
            ("hset", Kind::Write),
            ("del", Kind::Write),
            ("rename", Kind::Write),
            ("client", Kind::Other),
        ]);
        classify(&table, &Request::of(&words))
    }

    #[test]
    fn by_flags_and_names() {
        assert_eq!(class("SET k v"), Class::Batch { writes: true });
        assert_eq!(class("gEt k"), Class::Batch { writes: false });
        assert_eq!(class("CONFIG GET x"), Class::Pass);
        assert_eq!(class("WAIT 0 0"), Class::Pass);
        assert_eq!(class("WHAT"), Class::Batch { writes: true });
        assert_eq!(class("MULTI"), Class::Multi);
        assert_eq!(class("MULTI x"), Class::Pass);
        assert_eq!(class("SELECT 3"), Class::Select(Some(3)));
        assert_eq!(class("SELECT x"), Class::Select(None));
        assert_eq!(class("SELECT"), Class::Select(None));
        assert_eq!(class("CLIENT REPLY OFF"), Class::ClientReply);
        assert_eq!(class("CLIENT LIST"), Class::Pass);
        assert_eq!(class("duplex link a"), Class::Link);
        assert_eq!(class("DUPLEX Pause a"), Class::Control);
        assert_eq!(class("DUPLEX"), Class::Duplex);
        assert!(matches!(class("REPLICAOF no one"), Class::Refused(_)));
    }

    #[test]
    fn only_what_blocks_is_blocking() {
        assert_eq!(class("BLPOP k 0"), Class::Blocking);
        assert_eq!(class("XREAD COUNT 1 BLOCK 0 STREAMS k $"), Class::Blocking);
        assert_eq!(class("XREAD COUNT 1 STREAMS block 0"), Class::Batch { writes: false });
        let group = class("XREADGROUP GROUP block block STREAMS k >");
        assert_eq!(group, Class::Batch { writes: true });
        assert_eq!(class("XREADGROUP GROUP g c block 1 STREAMS k >"), Class::Blocking);
    }

    #[test]
    fn the_checkpoint_is_not_for_clients_to_write() {
        let key = "redis-duplex-checkpoint";
        assert_eq!(class(&format!("HSET {key} a b")), Class::Checkpoint(replies::ONE));
        assert_eq!(class(&format!("SET {key} a")), Class::Checkpoint(replies::OK));
        assert_eq!(class(&format!("RENAME a {key}")), Class::Checkpoint(replies::OK));
        assert_eq!(class(&format!("HGETALL {key}")), Class::Batch { writes: false });
        assert_eq!(class(&format!("DEL {key}")), Class::Checkpoint(replies::ONE));
        let rest = ["DEL", "a"].map(|word| word.as_bytes().to_vec()).to_vec();
        assert_eq!(class(&format!("DEL {key} a")), Class::Instead(rest));
        assert_eq!(class(&format!("SET a {key}")), Class::Batch { writes: true });
        for words in
            ["MSET a 1 KEY x", "SMOVE a KEY m", "SORT a STORE KEY", "XGROUP CREATE KEY g $"]
        {
            let words = words.replace("KEY", key);
            assert_eq!(class(&words), Class::Refused(replies::OWN_KEY), "{words}");
        }
        assert_eq!(class(&format!("MSET a {key}")), Class::Batch { writes: true });
    }
}
