//! Compares two servers key by key: what two synchronized sites must agree on.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Connection, Pipeline, Value, cmd, pipe};

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

/// Fields of `XINFO STREAM FULL` that depend on who looked when, or on the memory layout.
/// `entries-read` and `lag` are estimates that XREADGROUP does not replicate: a plain replica of
/// Redis too shows none where its master shows one.
const VOLATILE: [&str; 8] = [
    "seen-time",
    "active-time",
    "idle",
    "inactive",
    "radix-tree-keys",
    "radix-tree-nodes",
    "entries-read",
    "lag",
];

/// All that is known of a key.
#[derive(Debug, PartialEq)]
struct Entry {
    kind: String,
    value: Canonical,
    /// Unix time of expiry in milliseconds.
    expires: Option<i64>,
}

/// A value without order where its type has none.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Canonical {
    Text(String),
    List(Vec<Canonical>),
    Map(BTreeMap<String, Canonical>),
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

/// Drops fields that one side alone reports, as servers of different releases do in XINFO.
fn keep_common(a: &mut Canonical, b: &mut Canonical) {
    match (a, b) {
        (Canonical::Map(a), Canonical::Map(b)) => {
            a.retain(|name, _| b.contains_key(name));
            b.retain(|name, _| a.contains_key(name));
            a.values_mut().zip(b.values_mut()).for_each(|(a, b)| keep_common(a, b));
        }
        (Canonical::List(a), Canonical::List(b)) => {
            a.iter_mut().zip(b).for_each(|(a, b)| keep_common(a, b));
        }
        _ => {}
    }
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
                let expiry = std::mem::replace(&mut field_expiry[at], Canonical::List(vec![]));
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
        let Canonical::List(times) = canonical(answer) else { return Canonical::List(vec![]) };
        Canonical::Map(fields.zip(times).collect())
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

/// Names in a flat list or a map of names and values.
fn fields_of(value: &Value) -> Vec<Vec<u8>> {
    redis::from_redis_value::<Vec<(Vec<u8>, Vec<u8>)>>(value.clone())
        .unwrap_or_default()
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}

fn functions(connection: &mut Connection) -> Canonical {
    let list: Value =
        cmd("FUNCTION").arg("LIST").arg("WITHCODE").query(connection).expect("FUNCTION LIST");
    sorted(canonical(&list))
}

/// `XINFO STREAM FULL` as maps, without what is volatile, and without the entries, which were read
/// whole before.
fn stream_details(value: &Value) -> Canonical {
    let mut details = named(value);
    if let Canonical::Map(fields) = &mut details {
        fields.remove("entries");
    }
    details
}

/// Lists of names and values become maps, at any depth: in XINFO every list that begins with one
/// of its names is such a list.
fn named(value: &Value) -> Canonical {
    let Value::Array(items) = value else { return canonical(value) };
    let is_map =
        items.first().is_some_and(|first| matches!(text_of(first).as_str(), "length" | "name"));
    if !is_map {
        return Canonical::List(items.iter().map(named).collect());
    }
    let pairs = items.chunks_exact(2).map(|pair| (text_of(&pair[0]), named(&pair[1])));
    Canonical::Map(pairs.filter(|(name, _)| !VOLATILE.contains(&name.as_str())).collect())
}

fn map_of(value: &Value) -> Canonical {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value.clone()).unwrap_or_default();
    let text = |bytes: Vec<u8>| bytes.escape_ascii().to_string();
    let pairs = pairs.into_iter().map(|(name, value)| (text(name), Canonical::Text(text(value))));
    Canonical::Map(pairs.collect())
}

fn canonical(value: &Value) -> Canonical {
    match value {
        Value::Array(items) | Value::Set(items) => {
            Canonical::List(items.iter().map(canonical).collect())
        }
        Value::Map(pairs) => Canonical::Map(
            pairs.iter().map(|(name, value)| (text_of(name), canonical(value))).collect(),
        ),
        _ => Canonical::Text(text_of(value)),
    }
}

fn sorted(value: Canonical) -> Canonical {
    match value {
        Canonical::List(mut items) => {
            items.sort();
            Canonical::List(items)
        }
        other => other,
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}
