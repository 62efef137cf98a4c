//! The data of a simulated Redis, and the few commands that it knows.

use std::collections::BTreeMap;

use bytes::BytesMut;

use crate::resp;

/// Databases of each server.
pub(super) const DATABASES: u32 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// What a command did.
pub(super) struct Outcome {
    pub reply: BytesMut,
    /// Whether it changed something, and so goes into the replication stream.
    pub effect: bool,
}

/// All databases; an empty collection is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store(Vec<BTreeMap<Vec<u8>, Value>>);

impl Store {
    pub(super) fn new() -> Self {
        Self(vec![BTreeMap::new(); DATABASES as usize])
    }

    pub(super) fn database(&self, number: u32) -> &BTreeMap<Vec<u8>, Value> {
        &self.0[number as usize]
    }

    /// The same without this key in any database.
    pub(super) fn without(&self, key: &[u8]) -> Self {
        let mut others = self.clone();
        others.0.iter_mut().for_each(|database| drop(database.remove(key)));
        others
    }

    pub(super) fn execute(&mut self, database: u32, args: &[Vec<u8>]) -> Outcome {
        let keys = &mut self.0[database as usize];
        let done = match (&args[0][..], args.len()) {
            (b"SET", 3) => {
                keys.insert(args[1].clone(), Value::Text(args[2].clone()));
                Ok((1, true))
            }
            (b"INCR", 2) => increment(keys, &args[1]).map(|value| (value, true)),
            (b"RPUSH", 3..) => push(keys, &args[1], &args[2..]).map(|length| (length, true)),
            (b"DEL", 2..) => {
                let gone = args[1..].iter().filter(|key| keys.remove(*key).is_some()).count();
                Ok((gone, gone > 0))
            }
            (b"HSET", 4..) if args.len().is_multiple_of(2) => {
                set_fields(keys, &args[1], &args[2..]).map(|new| (new, true))
            }
            (b"HDEL", 3..) => delete_fields(keys, &args[1], &args[2..]).map(|n| (n, n > 0)),
            _ => Err("ERR unknown command"),
        };
        let mut reply = BytesMut::new();
        let effect = match done {
            Ok((number, effect)) => {
                resp::put_integer(&mut reply, i64::try_from(number).unwrap());
                effect
            }
            Err(error) => {
                resp::put_error(&mut reply, error);
                false
            }
        };
        Outcome { reply, effect }
    }
}

type Keys = BTreeMap<Vec<u8>, Value>;

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

fn increment(keys: &mut Keys, key: &[u8]) -> Result<usize, &'static str> {
    let value = keys.entry(key.to_vec()).or_insert_with(|| Value::Text(b"0".to_vec()));
    let Value::Text(text) = value else { return Err(WRONGTYPE) };
    let number: usize =
        str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or("ERR value")?;
    *text = (number + 1).to_string().into_bytes();
    Ok(number + 1)
}

fn push(keys: &mut Keys, key: &[u8], new: &[Vec<u8>]) -> Result<usize, &'static str> {
    let value = keys.entry(key.to_vec()).or_insert_with(|| Value::List(Vec::new()));
    let Value::List(list) = value else { return Err(WRONGTYPE) };
    list.extend_from_slice(new);
    Ok(list.len())
}

fn set_fields(keys: &mut Keys, key: &[u8], pairs: &[Vec<u8>]) -> Result<usize, &'static str> {
    let value = keys.entry(key.to_vec()).or_insert_with(|| Value::Hash(BTreeMap::new()));
    let Value::Hash(hash) = value else { return Err(WRONGTYPE) };
    let pairs = pairs.chunks(2);
    Ok(pairs.filter(|pair| hash.insert(pair[0].clone(), pair[1].clone()).is_none()).count())
}

fn delete_fields(keys: &mut Keys, key: &[u8], fields: &[Vec<u8>]) -> Result<usize, &'static str> {
    let Some(value) = keys.get_mut(key) else { return Ok(0) };
    let Value::Hash(hash) = value else { return Err(WRONGTYPE) };
    let gone = fields.iter().filter(|field| hash.remove(*field).is_some()).count();
    if hash.is_empty() {
        keys.remove(key);
    }
    Ok(gone)
}
