//! Compares two servers key by key: what two synchronized sites must agree on.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Connection, Pipeline, Value, cmd, pipe};

use super::canonical::{
    Canonical, canonical, fields_of, keep_common, map_of, sorted, stream_details, text_of,
};
use super::redis_server::{RedisServer, info_fields};

/// The sidecar's own key, which differs by nature.
const CHECKPOINT: &[u8] = b"redis-duplex-checkpoint";

/// Keys asked for in one pipeline.
const BATCH: usize = 500;

/// How far two times of expiry may be apart when a server tells only the time left, in
/// milliseconds: before 7.0 the replication stream itself carries relative times, so each hop adds
/// its own delay. Times that servers tell exactly must be equal.
const TTL_TOLERANCE_MS: i64 = 2_000;

/// Characters of a value shown in a difference.
const SHOWN: usize = 160;

/// No field of a hash has a time of expiry.
const NO_TIMES: BTreeMap<String, Canonical> = BTreeMap::new();

/// All that is known of a key.
#[derive(Debug, PartialEq)]
struct Entry {
    kind: String,
    value: Canonical,
    /// Unix time of expiry in milliseconds.
    expires: Option<i64>,
}

/// What differs between two servers, a line each; empty when they are equal. Databases that hold
/// millions of keys fit in memory here; it is made for tests.
pub fn differences(a: &RedisServer, b: &RedisServer) -> Vec<String> {
    let mut found = Vec::new();
    let exact = a.version().is_seven_or_later() && b.version().is_seven_or_later();
    let tolerance = if exact { 0 } else { TTL_TOLERANCE_MS };
    let databases: BTreeSet<u32> = databases(a).into_iter().chain(databases(b)).collect();
    for database in databases {
        let (mut left, mut right) = (a.client_db(database), b.client_db(database));
        let keys: BTreeSet<_> = keys(&mut left).into_iter().chain(keys(&mut right)).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        for batch in keys.chunks(BATCH) {
            let entries =
                entries(&mut left, batch, exact).into_iter().zip(entries(&mut right, batch, exact));
            for (key, (mut left, mut right)) in batch.iter().zip(entries) {
                if let Some(what) = difference(&mut left, &mut right, tolerance) {
                    let key = key.escape_ascii();
                    found.push(format!("database {database} key \"{key}\": {what}"));
                }
            }
        }
    }
    if exact {
        let (left, right) = (functions(&mut a.client()), functions(&mut b.client()));
        if left != right {
            found.push(format!("functions: {}", sides(&left, &right)));
        }
    }
    found
}

fn difference(
    left: &mut Option<Entry>,
    right: &mut Option<Entry>,
    tolerance: i64,
) -> Option<String> {
    let (Some(a), Some(b)) = (&mut *left, &mut *right) else {
        return match (left, right) {
            (None, None) => None,
            (Some(a), _) => Some(format!("a holds {}, b nothing", shown(a))),
            (_, Some(b)) => Some(format!("a holds nothing, b {}", shown(b))),
        };
    };
    if a.kind != b.kind {
        return Some(format!("type: {}", sides(&a.kind, &b.kind)));
    }
    if a.kind == "stream" {
        keep_common(&mut a.value, &mut b.value);
    }
    if a.value != b.value {
        return Some(format!("{}: {}", a.kind, sides(&a.value, &b.value)));
    }
    let expiry_agrees = match (a.expires, b.expires) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance,
        (a, b) => a == b,
    };
    (!expiry_agrees).then(|| format!("time of expiry: {}", sides(&a.expires, &b.expires)))
}

fn sides(a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) -> String {
    format!("a has {}, b has {}", shown(a), shown(b))
}

fn shown(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}.. ({} characters)", &text[..at], text.len()),
        None => text,
    }
}

/// Databases that hold keys.
fn databases(server: &RedisServer) -> Vec<u32> {
    let text: String = cmd("INFO").arg("keyspace").query(&mut server.client()).expect("INFO");
    info_fields(&text).keys().filter_map(|name| name.strip_prefix("db")?.parse().ok()).collect()
}

fn keys(connection: &mut Connection) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query(connection).expect("SCAN answers");
        found.extend(keys.into_iter().filter(|key| key != CHECKPOINT));
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

/// The entries of `keys` in their order; nothing for a key that is not there. A key that changes
/// between the questions may look odd: whoever compares moving servers asks again.
fn entries(connection: &mut Connection, keys: &[Vec<u8>], exact: bool) -> Vec<Option<Entry>> {
    let kinds = ask(connection, keys.iter().map(|key| cmd("TYPE").arg(key).take()));
    let kinds: Vec<String> = kinds.iter().map(text_of).collect();
    let with_kind = || keys.iter().zip(&kinds);
    let values = ask(connection, with_kind().map(|(key, kind)| read_command(key, kind)));
    let details = ask(connection, with_kind().map(|(key, kind)| detail_command(key, kind)));
    let mut field_expiry = field_expiry(connection, keys, &kinds, &values);
    let expires = expires(connection, keys, exact);
    let mut entries = Vec::with_capacity(keys.len());
    for (at, kind) in kinds.into_iter().enumerate() {
        let value = match kind.as_str() {
            "none" => {
                entries.push(None);
                continue;
            }
            "set" => sorted(canonical(&values[at])),
            "hash" => {
                let expiry = std::mem::replace(&mut field_expiry[at], Canonical::Map(NO_TIMES));
                Canonical::List(vec![map_of(&values[at]), expiry])
            }
            "stream" => Canonical::List(vec![canonical(&values[at]), stream_details(&details[at])]),
            _ => canonical(&values[at]),
        };
        entries.push(Some(Entry { kind, value, expires: expires[at] }));
    }
    entries
}

fn ask(connection: &mut Connection, commands: impl Iterator<Item = Cmd>) -> Vec<Value> {
    let mut pipeline: Pipeline = pipe();
    commands.for_each(|command| {
        pipeline.add_command(command);
    });
    // Errors of single commands, as when a key has changed its type meanwhile, are values too.
    pipeline.ignore_errors().query(connection).expect("a pipeline is answered")
}

fn read_command(key: &[u8], kind: &str) -> Cmd {
    match kind {
        "string" => cmd("GET").arg(key).take(),
        "list" => cmd("LRANGE").arg(key).arg(0).arg(-1).take(),
        "set" => cmd("SMEMBERS").arg(key).take(),
        "zset" => cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES").take(),
        "hash" => cmd("HGETALL").arg(key).take(),
        "stream" => cmd("XRANGE").arg(key).arg("-").arg("+").take(),
        // Types of modules; they have no common way of reading.
        _ => cmd("DUMP").arg(key).take(),
    }
}

fn detail_command(key: &[u8], kind: &str) -> Cmd {
    match kind {
        "stream" => cmd("XINFO").arg("STREAM").arg(key).arg("FULL").arg("COUNT").arg(0).take(),
        _ => cmd("PING"),
    }
}

/// For hashes the times at which their fields expire, where the server knows such times.
fn field_expiry(
    connection: &mut Connection,
    keys: &[Vec<u8>],
    kinds: &[String],
    values: &[Value],
) -> Vec<Canonical> {
    let known: Vec<Value> =
        cmd("COMMAND").arg("INFO").arg("HPEXPIRETIME").query(connection).expect("COMMAND INFO");
    let known = known.iter().any(|answer| *answer != Value::Nil);
    let questions = keys.iter().zip(kinds).zip(values).map(|((key, kind), value)| {
        if !known || kind != "hash" {
            return cmd("PING");
        }
        let fields: Vec<Vec<u8>> = fields_of(value);
        cmd("HPEXPIRETIME").arg(key).arg("FIELDS").arg(fields.len()).arg(fields).take()
    });
    let answers = ask(connection, questions);
    let pair = |(value, answer)| {
        let fields = fields_of(value).into_iter().map(|field| field.escape_ascii().to_string());
        let Canonical::List(times) = canonical(answer) else { return Canonical::Map(NO_TIMES) };
        // Fields that stay are left out: then a server that knows no such times agrees.
        let stays = Canonical::Text("-1".to_string());
        Canonical::Map(fields.zip(times).filter(|(_, time)| *time != stays).collect())
    };
    values.iter().zip(&answers).map(pair).collect()
}

/// The times of expiry; from `PEXPIRETIME` if `exact`, else from the time left.
fn expires(connection: &mut Connection, keys: &[Vec<u8>], exact: bool) -> Vec<Option<i64>> {
    let question = if exact { "PEXPIRETIME" } else { "PTTL" };
    let answers = ask(connection, keys.iter().map(|key| cmd(question).arg(key).take()));
    let (seconds, micros): (i64, i64) = cmd("TIME").query(connection).expect("TIME answers");
    let base = if exact { 0 } else { seconds * 1000 + micros / 1000 };
    let absolute = |answer: &Value| match answer {
        Value::Int(time @ 0..) => Some(base + time),
        _ => None,
    };
    answers.iter().map(absolute).collect()
}

fn functions(connection: &mut Connection) -> Canonical {
    let list: Value =
        cmd("FUNCTION").arg("LIST").arg("WITHCODE").query(connection).expect("FUNCTION LIST");
    sorted(canonical(&list))
}
