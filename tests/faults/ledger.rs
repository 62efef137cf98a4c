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

/// How a server differs from what the writers know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// So many acknowledged writes are not there; all that is there is right.
    Lost(usize, String),
    /// Something is there twice, in another order, or though nobody wrote it.
    Wrong(String),
}

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

    /// Where `server` holds something else than the writers know.
    pub fn violations(&self, server: &RedisServer) -> Vec<(&Cell, Violation)> {
        let mut found = Vec::new();
        let mut clients: BTreeMap<u32, Connection> = BTreeMap::new();
        for (cell, writes) in &self.0 {
            let client =
                clients.entry(cell.database).or_insert_with(|| server.client_db(cell.database));
            if let Err(violation) = cell.check(client, writes) {
                found.push((cell, violation));
            }
        }
        found
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "db {} {}", self.database, self.key)?;
        self.field.as_ref().map_or(Ok(()), |field| write!(f, " {field}"))
    }
}

impl Cell {
    fn check(&self, client: &mut Connection, writes: &Writes) -> Result<(), Violation> {
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

fn check_counter(value: u64, writes: &Writes) -> Result<(), Violation> {
    let sum = |fate| -> u64 {
        writes.iter().filter(|write| write.1 == fate).filter_map(|write| write.0).sum()
    };
    let (done, unknown) = (sum(Fate::Done), sum(Fate::Unknown));
    let text = || format!("counts {value}, acknowledged {done}, of unknown fate {unknown}");
    if value > done + unknown {
        return Err(Violation::Wrong(text()));
    }
    if value < done {
        // Increments are of 2 on average.
        let writes = usize::try_from((done - value).div_ceil(2)).unwrap();
        return Err(Violation::Lost(writes, text()));
    }
    Ok(())
}

fn check_register(value: Option<u64>, writes: &Writes) -> Result<(), Violation> {
    let written: Vec<_> = writes.iter().filter(|(_, fate)| *fate != Fate::Refused).collect();
    let last = written.iter().rposition(|(_, fate)| *fate == Fate::Done);
    let stands = written.iter().rposition(|(number, _)| *number == value);
    let text = || format!("holds {value:?}, the last acknowledged is {:?}", written[last.unwrap()]);
    match (stands, last) {
        (None, None) if value.is_none() => Ok(()),
        (None, Some(last)) if value.is_none() => Err(Violation::Lost(last + 1, text())),
        (None, _) => Err(Violation::Wrong(format!("holds {value:?}, which nobody wrote"))),
        (Some(stands), Some(last)) if stands < last => Err(Violation::Lost(last - stands, text())),
        (Some(_), _) => Ok(()),
    }
}

fn check_sequence(elements: &[u64], writes: &Writes) -> Result<(), Violation> {
    if !elements.is_sorted_by(|one, next| one < next) {
        return Err(Violation::Wrong(format!("out of order, or twice: {elements:?}")));
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
    if unexpected > 0 {
        return Err(Violation::Wrong(format!("{unexpected} elements should not be there")));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("{} of {} are missing: {missing:?}", missing.len(), writes.len());
    Err(Violation::Lost(missing.len(), text))
}

#[cfg(test)]
mod tests {
    use super::Fate::{Done, Refused, Unknown};
    use super::{Violation, Writes, check_counter, check_register, check_sequence};

    fn writes(list: &[(u64, super::Fate)]) -> Writes {
        list.iter().map(|(number, fate)| (Some(*number), *fate)).collect()
    }

    fn is_lost(result: &Result<(), Violation>, count: usize) -> bool {
        matches!(result, Err(Violation::Lost(lost, _)) if *lost == count)
    }

    #[test]
    fn a_write_of_unknown_fate_may_have_happened() {
        let list = writes(&[(0, Done), (1, Unknown), (2, Refused), (3, Done)]);
        assert!(check_sequence(&[0, 1, 3], &list).is_ok());
        assert!(check_sequence(&[0, 3], &list).is_ok());
        assert!(is_lost(&check_sequence(&[0, 1], &list), 1));
        assert!(is_lost(&check_sequence(&[], &list), 2));
        for wrong in [&[0, 2, 3][..], &[0, 3, 1], &[0, 0, 3], &[0, 3, 4]] {
            assert!(matches!(check_sequence(wrong, &list), Err(Violation::Wrong(_))), "{wrong:?}");
        }
        let counter = writes(&[(5, Done), (2, Unknown), (9, Refused)]);
        assert!((5..=7).all(|value| check_counter(value, &counter).is_ok()));
        assert!(is_lost(&check_counter(2, &counter), 2));
        assert!(matches!(check_counter(8, &counter), Err(Violation::Wrong(_))));
    }

    #[test]
    fn the_last_value_stands() {
        let mut list = writes(&[(1, Unknown), (2, Done), (3, Done)]);
        assert!(check_register(Some(3), &list).is_ok());
        list.extend([(None, Unknown), (Some(4), Refused)]);
        assert!(check_register(Some(3), &list).is_ok());
        assert!(check_register(None, &list).is_ok());
        assert!(is_lost(&check_register(Some(1), &list), 2));
        assert!(matches!(check_register(Some(4), &list), Err(Violation::Wrong(_))));
        let list = writes(&[(1, Unknown)]);
        assert!(check_register(None, &list).is_ok() && check_register(Some(1), &list).is_ok());
        assert!(is_lost(&check_register(None, &writes(&[(1, Done)])), 1));
    }
}
