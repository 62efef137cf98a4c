//! What peers may not have seen of what an earlier run of the sidecar journaled.

use tracing::warn;

use super::Source;
use crate::conflict::{Conflicts, KeyTable};
use crate::journal::{NotInJournal, Read};
use crate::position::{Offset, Position};

impl Source {
    /// Enters the local writes that a peer may not have seen, as the journal tells. An open conflict
    /// of the earlier run is about one of them.
    pub(super) async fn remember_unseen(&self, keys: &KeyTable) {
        let head = self.journal.head();
        for peer in &self.peers {
            let conflicts = &peer.conflicts;
            let floor = head.floors.of(&peer.site);
            if let Err(error) = self.read_journal(conflicts, keys, floor).await {
                warn!(site = %peer.site, %error, "what the peer has not seen is not known, both sites take a full sync");
                peer.begin_anew();
            }
            conflicts.scanned(head.position.offset);
            conflicts.earlier_came_back(head.position.offset);
        }
    }

    async fn read_journal(
        &self,
        conflicts: &Conflicts,
        keys: &KeyTable,
        floor: Option<Offset>,
    ) -> Result<(), NotInJournal> {
        let status = self.journal.status();
        conflicts.begin_history(status.first);
        status.earlier_ids.iter().for_each(|replid| conflicts.had_id(*replid));
        let from = Position { offset: floor.unwrap_or(status.first.offset), ..status.first };
        if floor.is_some() {
            conflicts.seen(from);
        } else {
            // It has seen nothing yet: what it wrote before it does conflicts with everything.
            conflicts.cut(from);
        }
        let mut reader = self.journal.read_from(from)?;
        while let Read::Block(block) = reader.read().await? {
            for (index, unit) in block.units.iter().enumerate() {
                let bytes = &block.payload[unit.from..unit.to];
                let place = (bytes, unit.database);
                conflicts.enter_unit(keys, place, unit.end, block.timestamp(index), unit.state);
            }
        }
        Ok(())
    }
}
