//! What peers may not have seen of what an earlier run of the sidecar journaled.

use tracing::warn;

use super::Source;
use crate::conflict::KeyTable;
use crate::journal::{NotInJournal, Read};
use crate::position::{Database, Offset};
use crate::resp::{Limits, Scanner};

impl Source {
    /// Enters the keys of all units in the journal: which of them a peer has seen is known when it
    /// tells, and until then its older writes must not pass for newer.
    pub(super) async fn remember_unseen(&self, keys: &KeyTable) {
        if self.unseen.is_empty() {
            return;
        }
        if let Err(error) = self.read_journal(keys).await {
            // Links find the same when they are read to, and say what to do.
            warn!(%error, "what peers have not seen yet is not known: their writes count as newer");
        }
        let offset = self.journal.head().position.offset;
        self.unseen.iter().for_each(|unseen| unseen.scanned(offset));
    }

    async fn read_journal(&self, keys: &KeyTable) -> Result<(), NotInJournal> {
        let status = self.journal.status();
        for unseen in &self.unseen {
            unseen.begin_history(status.first);
            status.earlier_ids.iter().for_each(|replid| unseen.rename_history(*replid));
        }
        let mut reader = self.journal.read_from(status.first)?;
        while let Read::Block(block) = reader.read().await? {
            for unit in &block.units {
                let bytes = &block.payload[unit.from..unit.to];
                self.enter_unit(keys, bytes, unit.database, unit.end);
            }
        }
        Ok(())
    }

    fn enter_unit(&self, keys: &KeyTable, bytes: &[u8], mut database: Database, end: Offset) {
        let mut scanner = Scanner::new(Limits::STREAM);
        let mut start = 0;
        while let Ok(Some(command)) = scanner.scan(&bytes[start..]) {
            start += command.raw().len();
            if command.is("SELECT") {
                let number = str::from_utf8(command.arg(1)).ok().and_then(|n| n.parse().ok());
                database = number.map_or(database, Database);
                continue;
            }
            for unseen in &self.unseen {
                unseen.enter(keys, database, command, end);
            }
        }
    }
}
