//! What a comparison found.

use std::fmt;

use bytes::Bytes;

use crate::position::Database;

/// How two servers differ in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Database of the key; none for a function library.
    pub database: Option<Database>,
    /// The key or the library's name.
    pub key: Bytes,
    /// What differs.
    pub what: Mismatch,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// B does not have it.
    OnlyA,
    /// A does not have it.
    OnlyB,
    /// Both have it, but not the same; how, in words.
    Differs(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        match self.database {
            Some(database) => write!(f, "db {database} \"{key}\": ")?,
            None => write!(f, "function library \"{key}\": ")?,
        }
        match &self.what {
            Mismatch::OnlyA => f.write_str("only at A"),
            Mismatch::OnlyB => f.write_str("only at B"),
            Mismatch::Differs(how) => f.write_str(how),
        }
    }
}

/// The result. Function libraries count like keys.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All that was compared: the sum of the others.
    pub compared: u64,
    /// The same at both.
    pub equal: u64,
    /// At both, but not the same.
    pub different: u64,
    /// At A alone.
    pub only_a: u64,
    /// At B alone.
    pub only_b: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.different + self.only_a + self.only_b == 0
    }

    pub(super) fn count(&mut self, difference: Difference, keep: usize) {
        self.compared += 1;
        match difference.what {
            Mismatch::OnlyA => self.only_a += 1,
            Mismatch::OnlyB => self.only_b += 1,
            Mismatch::Differs(_) => self.different += 1,
        }
        if self.differences.len() < keep {
            self.differences.push(difference);
        }
    }

    pub(super) fn count_equal(&mut self, count: u64) {
        self.compared += count;
        self.equal += count;
    }
}
