//! Values in a form that does not depend on how a server stores them.
//!
//! Two servers may hold the same set in another order or encoding, so DUMP payloads differ although
//! the values are equal. Here each type has one canonical form, and a difference gets words.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::side::{Side, bulk, text};
use crate::redis::RedisError;

/// Fields of `XINFO STREAM .. FULL` that tell of the server, not of the stream: how it is stored,
/// what was read lately, and what follows from other fields.
const NOT_OF_THE_STREAM: [&str; 7] =
    ["radix-tree-keys", "radix-tree-nodes", "seen-time", "active-time", "lag", "idle", "inactive"];

type Fields = BTreeMap<String, BytesFrame>;

/// A value in canonical form.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Missing,
    Text(Bytes),
    List(Vec<Bytes>),
    /// Set members, hash fields with values and expiry, zset members with scores.
    Members(&'static str, BTreeMap<Bytes, Vec<Bytes>>),
    Stream(Stream),
    /// A type that only DUMP knows, by its name.
    Other(String),
}

#[derive(Debug, PartialEq)]
pub(super) struct Stream {
    entries: Vec<BytesFrame>,
    fields: Fields,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, PartialEq, Default)]
struct Group {
    fields: Fields,
    consumers: BTreeMap<String, Fields>,
}

/// Reads a key's value. What was of another type a moment ago may come back as an error.
pub(super) async fn read(side: &mut Side, key: &Bytes) -> Result<Value, RedisError> {
    let kind = text(&side.call(&[b"TYPE", key]).await?);
    Ok(match kind.as_str() {
        "none" => Value::Missing,
        "string" => match bulk(side.call(&[b"GET", key]).await?) {
            Some(value) => Value::Text(value),
            None => Value::Missing,
        },
        "list" => Value::List(items(side.call(&[b"LRANGE", key, b"0", b"-1"]).await?)),
        "set" => {
            let members = items(side.call(&[b"SMEMBERS", key]).await?);
            Value::Members("set", members.into_iter().map(|m| (m, Vec::new())).collect())
        }
        "hash" => Value::Members("hash", hash(side, key).await?),
        "zset" => {
            let reply = side.call(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]).await?;
            let scored = pairs(items(reply)).map(|(m, score)| (m, vec![normal_score(score)]));
            Value::Members("zset", scored.collect())
        }
        "stream" => Value::Stream(stream(side, key).await?),
        other => Value::Other(other.to_owned()),
    })
}

fn items(frame: BytesFrame) -> Vec<Bytes> {
    match frame {
        BytesFrame::Array(items) => items.into_iter().filter_map(bulk).collect(),
        _ => Vec::new(),
    }
}

fn pairs(items: Vec<Bytes>) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || Some((items.next()?, items.next()?)))
}

/// Servers print the same double in different ways (`1e5`, `100000`).
fn normal_score(score: Bytes) -> Bytes {
    match std::str::from_utf8(&score).ok().and_then(|text| text.parse::<f64>().ok()) {
        // Without the sign of zero: it changes neither order nor arithmetic.
        Some(number) => Bytes::from((number + 0.0).to_string()),
        None => score,
    }
}

async fn hash(side: &mut Side, key: &Bytes) -> Result<BTreeMap<Bytes, Vec<Bytes>>, RedisError> {
    let fields: Vec<_> = pairs(items(side.call(&[b"HGETALL", key]).await?)).collect();
    let mut expiries = Vec::new();
    if side.has_field_expiry() && !fields.is_empty() {
        let count = fields.len().to_string();
        let mut command: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        command.extend(fields.iter().map(|(field, _)| field.as_ref()));
        if let BytesFrame::Array(times) = side.call(&command).await? {
            expiries = times.iter().map(text).collect();
        }
    }
    let mut expiries = expiries.into_iter();
    // -1: no expiry, as on servers whose fields can't expire.
    let mut expiry = || expiries.next().unwrap_or_else(|| "-1".to_owned());
    Ok(fields.into_iter().map(|(field, v)| (field, vec![v, Bytes::from(expiry())])).collect())
}

async fn stream(side: &mut Side, key: &Bytes) -> Result<Stream, RedisError> {
    let BytesFrame::Array(entries) = side.call(&[b"XRANGE", key, b"-", b"+"]).await? else {
        return Err(side.unexpected("XRANGE", "no array"));
    };
    let about = side.call(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]).await?;
    let mut fields = named(about);
    // The same as XRANGE's.
    fields.remove("entries");
    let groups = match fields.remove("groups") {
        Some(BytesFrame::Array(groups)) => groups.into_iter().map(group).collect(),
        _ => BTreeMap::new(),
    };
    Ok(Stream { entries, fields, groups })
}

fn group(frame: BytesFrame) -> (String, Group) {
    let mut fields = named(frame);
    let consumers = match fields.remove("consumers") {
        Some(BytesFrame::Array(consumers)) => consumers.into_iter().map(consumer).collect(),
        _ => BTreeMap::new(),
    };
    (name_of(&mut fields), Group { fields, consumers })
}

fn consumer(frame: BytesFrame) -> (String, Fields) {
    let mut fields = named(frame);
    (name_of(&mut fields), fields)
}

fn name_of(fields: &mut Fields) -> String {
    fields.remove("name").map(|name| text(&name)).unwrap_or_default()
}

fn named(frame: BytesFrame) -> Fields {
    let BytesFrame::Array(items) = frame else { return Fields::new() };
    let mut items = items.into_iter();
    let pairs = std::iter::from_fn(|| Some((text(&items.next()?), items.next()?)));
    pairs.filter(|(name, _)| !NOT_OF_THE_STREAM.contains(&name.as_str())).collect()
}

/// What differs, in words; none when the values are equal.
pub(super) fn difference(a: &Value, b: &Value) -> Option<String> {
    if a == b && !matches!(a, Value::Other(_)) {
        return None;
    }
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            let from = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            let (a, b) = (a.len(), b.len());
            Some(format!("strings of {a} and {b} bytes differ from byte {from} on"))
        }
        (Value::List(a), Value::List(b)) => {
            let from = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            let (a, b) = (a.len(), b.len());
            Some(format!("lists of {a} and {b} elements differ from element {from} on"))
        }
        (Value::Members(kind, a), Value::Members(other, b)) if kind == other => {
            let only = |x: &BTreeMap<_, _>, y: &BTreeMap<_, _>| {
                x.keys().filter(|member| !y.contains_key(*member)).count()
            };
            let changed = a.iter().filter(|(m, v)| b.get(*m).is_some_and(|w| w != *v)).count();
            let (in_a, in_b) = (only(a, b), only(b, a));
            Some(format!("{kind}: {in_a} members only at A, {in_b} only at B, {changed} differ"))
        }
        (Value::Stream(a), Value::Stream(b)) => stream_difference(a, b),
        (Value::Other(a), Value::Other(b)) if a == b => {
            Some(format!("the payloads of type {a} differ"))
        }
        (a, b) => Some(format!("{} at A, {} at B", kind(a), kind(b))),
    }
}

pub(super) fn kind(value: &Value) -> &str {
    match value {
        Value::Missing => "nothing",
        Value::Text(_) => "string",
        Value::List(_) => "list",
        Value::Members(kind, _) => kind,
        Value::Stream(_) => "stream",
        Value::Other(kind) => kind,
    }
}

fn stream_difference(a: &Stream, b: &Stream) -> Option<String> {
    if a.entries != b.entries {
        let from = a.entries.iter().zip(&b.entries).take_while(|(a, b)| a == b).count();
        let (a, b) = (a.entries.len(), b.entries.len());
        return Some(format!("streams of {a} and {b} entries differ from entry {from} on"));
    }
    if let Some(field) = field_difference(&a.fields, &b.fields) {
        return Some(format!("stream: {field}"));
    }
    if !a.groups.keys().eq(b.groups.keys()) {
        let names = |stream: &Stream| stream.groups.keys().cloned().collect::<Vec<_>>().join(" ");
        return Some(format!("stream: groups [{}] at A, [{}] at B", names(a), names(b)));
    }
    a.groups.iter().zip(b.groups.values()).find_map(|((name, a), b)| {
        group_difference(a, b).map(|what| format!("stream: group {name:?}: {what}"))
    })
}

fn group_difference(a: &Group, b: &Group) -> Option<String> {
    if let Some(field) = field_difference(&a.fields, &b.fields) {
        return Some(field);
    }
    if !a.consumers.keys().eq(b.consumers.keys()) {
        let (a, b) = (a.consumers.len(), b.consumers.len());
        return Some(format!("other consumers ({a} at A, {b} at B)"));
    }
    a.consumers.iter().zip(b.consumers.values()).find_map(|((name, a), b)| {
        field_difference(a, b).map(|what| format!("consumer {name:?}: {what}"))
    })
}

/// Compares the fields that both servers know; an older one knows fewer.
fn field_difference(a: &Fields, b: &Fields) -> Option<String> {
    let (name, a, b) = a
        .iter()
        .filter_map(|(name, a)| b.get(name).map(|b| (name, a, b)))
        .find(|(_, a, b)| a != b)?;
    match (a, b) {
        (BytesFrame::Array(a), BytesFrame::Array(b)) => {
            Some(format!("{name} differs ({} at A, {} at B)", a.len(), b.len()))
        }
        _ => Some(format!("{name} is {} at A, {} at B", text(a), text(b))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(&'static str, &'static str)]) -> Value {
        let members = list.iter().map(|(m, v)| (Bytes::from(*m), vec![Bytes::from(*v)]));
        Value::Members("hash", members.collect())
    }

    #[test]
    fn order_does_not_matter_and_words_count_members() {
        let a = members(&[("x", "1"), ("y", "2")]);
        assert_eq!(difference(&a, &members(&[("y", "2"), ("x", "1")])), None);
        let words = difference(&a, &members(&[("y", "3"), ("z", "1"), ("w", "1")])).unwrap();
        assert_eq!(words, "hash: 1 members only at A, 2 only at B, 1 differ");
        let words = difference(&a, &Value::Text(Bytes::new())).unwrap();
        assert_eq!(words, "hash at A, string at B");
    }

    #[test]
    fn scores_are_equal_however_they_are_printed() {
        assert_eq!(normal_score("1e5".into()), normal_score("100000".into()));
        assert_eq!(normal_score("-0".into()), normal_score("0".into()));
        assert_ne!(normal_score("0.1".into()), normal_score("0.10000000000000001e1".into()));
        assert_eq!(normal_score("inf".into()), normal_score("inf".into()));
    }
}
