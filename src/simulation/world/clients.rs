//! What local clients do.

use rand::Rng;

use super::World;
use crate::simulation::server::{encoded, words};
use crate::simulation::store::DATABASES;
use crate::simulation::{Trace, say};

impl World<'_> {
    pub(super) fn client(&mut self, at: usize) {
        if !self.begun || self.sites[at].server.refusing {
            return;
        }
        let transaction = self.random.random_bool(0.35);
        let count = if transaction { self.random.random_range(1..5) } else { 1 };
        let mut database = self.random.random_range(0..DATABASES);
        if self.random.random_bool(0.5) {
            database = 0;
        }
        let mut commands = Vec::new();
        for _ in 0..count {
            commands.push((database, self.command(at)));
            if self.random.random_bool(0.3) {
                database = self.random.random_range(0..DATABASES);
            }
        }
        if let Trace::On(_) = self.trace {
            let text: Vec<_> = commands.iter().map(|(db, raw)| readable(*db, raw)).collect();
            let end = self.sites[at].server.history.end();
            say!(self.trace, "{at}: a client, at {end}: {}", text.join("; "));
        }
        self.sites[at].server.client(&commands, transaction);
    }

    pub(super) fn command(&mut self, at: usize) -> Vec<u8> {
        self.sites[at].serial += 1;
        let (serial, name) = (self.sites[at].serial, self.sites[at].name.clone());
        let own = |kind: &str, number: u32| format!("{name}:{kind}:{number}");
        let number = self.random.random_range(0..3);
        let (key, field) = (own("string", number), format!("f{number}"));
        let value = format!("{name}{serial}");
        match self.random.random_range(0..10) {
            0..3 => encoded(&["INCR", &format!("counter:{number}")]),
            3 => encoded(&["SET", &key, &value]),
            4 => encoded(&["DEL", &key]),
            5..8 => encoded(&["RPUSH", &own("list", 0), &value]),
            8 => encoded(&["HSET", &own("hash", 0), &field, &value]),
            _ => encoded(&["HDEL", &own("hash", 0), &field]),
        }
    }
}

fn readable(database: u32, raw: &[u8]) -> String {
    let words = words(raw);
    let text: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
    format!("{} in db {database}", text.join(" "))
}
