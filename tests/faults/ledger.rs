//! What became of each write, and whether a server agrees.

use std::collections::BTreeMap;

use redis::{Connection, RedisResult, cmd, from_redis_value};

use crate::support::redis_server::RedisServer;

/// What a writer knows of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged.
    Done,
    /// Refused: it did not happen.
    Refused,
    /// The connection was lost before the reply: it happened once or not at all.
    Unknown,
}

/// How a cell is read, and what its writes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A string, or a field of a hash, that is counted up.
    Counter,
    /// A list that grows at its right end by 0, 1, 2, ..
    Right,
    /// A list that grows at its left end by the same.
    Left,
    /// A stream whose entries have the same in their field.
    Stream,
    /// A string that is set to some number, or deleted.
    Register,
}

/// What writes go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub database: u32,
    pub key: String,
    /// Of a hash.
    pub field: Option<String>,
    pub shape: Shape,
}

/// The writes of a cell, in their order: the number that is added, appended or set, or none if it
/// is deleted.
type Writes = Vec<(Option<u64>, Fate)>;

/// All writes of a writer, or of several.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<Cell, Writes>);

impl Ledger {
    pub fn enter(&mut self, cell: Cell, number: Option<u64>, fate: Fate) {
        self.0.entry(cell).or_default().push((number, fate));
    }

    /// Adds what another writer did. Only counters may be written by both.
    pub fn merge(&mut self, other: Self) {
        for (cell, writes) in other.0 {
            let shape = cell.shape;
            let all = self.0.entry(cell).or_default();
            assert!(all.is_empty() || shape == Shape::Counter, "two writers of a {shape:?}");
            all.extend(writes);
        }
    }

    /// How many writes have this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.0.values().flatten().filter(|(_, other)| *other == fate).count()
    }

    /// Where `server` holds something else than the writers know, a line each.
    pub fn violations(&self, server: &RedisServer) -> Vec<String> {
        let mut found = Vec::new();
        let mut clients: BTreeMap<u32, Connection> = BTreeMap::new();
        for (cell, writes) in &self.0 {
            let client =
                clients.entry(cell.database).or_insert_with(|| server.client_db(cell.database));
            if let Err(what) = cell.check(client, writes) {
                let field = cell.field.as_ref().map_or(String::new(), |name| format!(" {name}"));
                found.push(format!("db {} {}{field}: {what}", cell.database, cell.key));
            }
        }
        found
    }
}

impl Cell {
    fn check(&self, client: &mut Connection, writes: &Writes) -> Result<(), String> {
        match self.shape {
            Shape::Counter => check_counter(self.number(client).unwrap_or(0), writes),
            Shape::Register => check_register(self.number(client), writes),
            Shape::Right | Shape::Left | Shape::Stream => {
                check_sequence(&self.elements(client), writes)
            }
        }
    }

    fn number(&self, client: &mut Connection) -> Option<u64> {
        let query = match &self.field {
            Some(field) => cmd("HGET").arg(&self.key).arg(field).take(),
            None => cmd("GET").arg(&self.key).take(),
        };
        query.query(client).unwrap_or_else(|error| panic!("{}: {error}", self.key))
    }

    fn elements(&self, client: &mut Connection) -> Vec<u64> {
        let read: RedisResult<Vec<u64>> = if self.shape == Shape::Stream {
            let entries: Vec<(String, Vec<redis::Value>)> =
                cmd("XRANGE").arg(&self.key).arg("-").arg("+").query(client).unwrap();
            let value = |(_, fields): (String, Vec<redis::Value>)| fields.into_iter().nth(1);
            entries
                .into_iter()
                .filter_map(value)
                .map(|value| Ok(from_redis_value(value)?))
                .collect()
        } else {
            cmd("LRANGE").arg(&self.key).arg(0).arg(-1).query(client)
        };
        let mut elements = read.unwrap_or_else(|error| panic!("{}: {error}", self.key));
        if self.shape == Shape::Left {
            elements.reverse();
        }
        elements
    }
}

fn check_counter(value: u64, writes: &Writes) -> Result<(), String> {
    let sum = |fate| -> u64 {
        writes.iter().filter(|write| write.1 == fate).filter_map(|write| write.0).sum()
    };
    let (done, unknown) = (sum(Fate::Done), sum(Fate::Unknown));
    if (done..=done + unknown).contains(&value) {
        return Ok(());
    }
    Err(format!("counts {value}, acknowledged {done}, of unknown fate {unknown}"))
}

fn check_register(value: Option<u64>, writes: &Writes) -> Result<(), String> {
    let mut allowed = vec![None];
    for (number, fate) in writes {
        match fate {
            Fate::Done => allowed = vec![*number],
            Fate::Unknown => allowed.push(*number),
            Fate::Refused => {}
        }
    }
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(format!("holds {value:?}, should be one of {allowed:?}"))
}

/// What was acknowledged is there once, in order; what was refused is not.
fn check_sequence(elements: &[u64], writes: &Writes) -> Result<(), String> {
    if !elements.is_sorted_by(|one, next| one < next) {
        return Err(format!("out of order, or twice: {elements:?}"));
    }
    let mut missing = Vec::new();
    let mut unexpected = elements.len();
    for (number, fate) in writes {
        let number = number.expect("an element");
        match (elements.binary_search(&number).is_ok(), fate) {
            (true, Fate::Done | Fate::Unknown) => unexpected -= 1,
            (false, Fate::Done) => missing.push(number),
            (true, Fate::Refused) | (false, _) => {}
        }
    }
    if missing.is_empty() && unexpected == 0 {
        return Ok(());
    }
    Err(format!(
        "{} of {} acknowledged are missing ({missing:?}), {unexpected} should not be there",
        missing.len(),
        writes.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::Fate::{Done, Refused, Unknown};
    use super::{check_counter, check_register, check_sequence};

    #[test]
    fn a_write_of_unknown_fate_may_have_happened() {
        let writes = vec![(Some(0), Done), (Some(1), Unknown), (Some(2), Refused), (Some(3), Done)];
        assert!(check_sequence(&[0, 1, 3], &writes).is_ok());
        assert!(check_sequence(&[0, 3], &writes).is_ok());
        for wrong in [&[0, 1][..], &[0, 2, 3], &[0, 3, 1], &[0, 0, 3], &[0, 3, 4]] {
            assert!(check_sequence(wrong, &writes).is_err(), "{wrong:?}");
        }
        let writes = vec![(Some(5), Done), (Some(2), Unknown), (Some(9), Refused)];
        assert!((5..=7).all(|value| check_counter(value, &writes).is_ok()));
        assert!([4, 8, 14].iter().all(|value| check_counter(*value, &writes).is_err()));
    }

    #[test]
    fn the_last_value_stands() {
        let writes = vec![(Some(1), Unknown), (Some(2), Done), (None, Unknown), (Some(4), Refused)];
        assert!(check_register(Some(2), &writes).is_ok());
        assert!(check_register(None, &writes).is_ok());
        assert!(check_register(Some(1), &writes).is_err());
        assert!(check_register(Some(4), &writes).is_err());
    }
}
