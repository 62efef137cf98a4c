//! The steps of an applier and of the Redis that it writes to.

use rand::Rng;

use super::{Checked, World};
use crate::position::Checkpoint;
use crate::simulation::{check, say, stored_checkpoints};

impl World<'_> {
    pub(super) async fn apply(&mut self, at: usize) {
        let parcels = self.random.random_range(0..4);
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return };
        let Some(session) = &mut sidecar.session else { return };
        if session.answered && session.intake.is_none() && session.is_done() {
            self.cut_apply(at);
            return;
        }
        for _ in 0..parcels {
            session.pipeline.pending.extend(session.queue.pop_front().into_iter().flatten());
        }
        // Some time has passed.
        session.pipeline.retry_at = None;
        session.pipeline.fill().await;
        let out = session.pipeline.out.split();
        if out.is_empty() {
            return;
        }
        site.server.send(session.connection, &out);
        say!(self.trace, "{at}: the applier sends {} bytes", out.len());
    }

    pub(super) fn execute(&mut self, at: usize) -> Checked {
        for _ in 0..self.random.random_range(1..8) {
            let nth = self.random.random_range(0..8);
            if let Some(batch) = self.sites[at].server.execute(nth) {
                let end = self.sites[at].server.history.end();
                let up_to = batch.mark.checkpoint;
                say!(
                    self.trace,
                    "{at}: redis executes {} with {} commands up to {up_to:?}; stream {end}",
                    batch.mark.tag.sequence,
                    batch.commands.len()
                );
                check::batch(self, at, &batch)?;
            }
        }
        if !self.begun {
            let synced = |at: usize| {
                let (here, there) = (&self.sites[at], &self.sites[1 - at]);
                let stored = stored_checkpoints(&here.server, &there.name);
                let journal = there.sidecar.as_ref().map(|sidecar| &sidecar.journal);
                let readable = |from: &Checkpoint| {
                    journal.is_some_and(|journal| journal.read_from(from.position).is_ok())
                };
                stored.len() == 1 && readable(&stored[0].1)
            };
            self.begun = synced(0) && synced(1);
            self.sites.iter_mut().for_each(|site| site.peers_epoch = site.journal_epoch);
        }
        Ok(())
    }

    pub(super) fn reply(&mut self, at: usize) {
        let limit = self.random.random_range(1..400);
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return };
        let Some(session) = &mut sidecar.session else { return };
        if !site.server.is_connected(session.connection) {
            self.cut_apply(at);
            return;
        }
        let replies = site.server.replies(session.connection, limit);
        session.pipeline.input.extend_from_slice(&replies);
        if let Err(error) = session.pipeline.take_replies() {
            say!(self.trace, "{at}: applying ends: {error}");
            self.cut_apply(at);
        }
    }
}
