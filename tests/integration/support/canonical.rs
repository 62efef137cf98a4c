//! Values in a form that is equal when they mean the same.

use std::collections::BTreeMap;

use redis::Value;

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

/// A value without order where its type has none.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Canonical {
    Text(String),
    List(Vec<Canonical>),
    Map(BTreeMap<String, Canonical>),
}

/// Drops fields that one side alone reports, as servers of different releases do in XINFO.
pub fn keep_common(a: &mut Canonical, b: &mut Canonical) {
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

/// `XINFO STREAM FULL` as maps, without what is volatile, and without the entries, which were read
/// whole before.
pub fn stream_details(value: &Value) -> Canonical {
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

/// Names and values, in a list or a map, as a map.
pub fn map_of(value: &Value) -> Canonical {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value.clone()).unwrap_or_default();
    let text = |bytes: Vec<u8>| bytes.escape_ascii().to_string();
    let pairs = pairs.into_iter().map(|(name, value)| (text(name), Canonical::Text(text(value))));
    Canonical::Map(pairs.collect())
}

/// The value as it is; binary strings are escaped.
pub fn canonical(value: &Value) -> Canonical {
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

/// A list without order.
pub fn sorted(value: Canonical) -> Canonical {
    match value {
        Canonical::List(mut items) => {
            items.sort();
            Canonical::List(items)
        }
        other => other,
    }
}

/// A simple value as text.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// Names in a flat list or a map of names and values.
pub fn fields_of(value: &Value) -> Vec<Vec<u8>> {
    redis::from_redis_value::<Vec<(Vec<u8>, Vec<u8>)>>(value.clone())
        .unwrap_or_default()
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}
