//! What breaks.

use rand::Rng;

use super::{Checked, STARTS, Step, Wire, World};
use crate::simulation::server::encoded;
use crate::simulation::store::DATABASES;
use crate::simulation::{check, say};

impl World<'_> {
    pub(super) async fn fault(&mut self, step: Step, at: usize) -> Checked {
        match step {
            Step::CutStream => self.cut_stream(at).await?,
            Step::CutLink => self.cut_link(at),
            Step::CutApply => self.cut_apply(at),
            Step::Crash => self.crash(at).await?,
            Step::CrashMachine => self.crash_machine(at).await?,
            Step::LoseRack => {
                self.crash_machine(at).await?;
                self.fail_over(at).await?;
            }
            Step::Lag if self.begun => {
                self.sites[at].server.let_replica_catch_up();
            }
            Step::FailOver => self.fail_over(at).await?,
            Step::Refuse => {
                let refusing = !self.sites[at].server.refusing;
                self.sites[at].server.refusing = refusing;
                say!(self.trace, "{at}: redis refuses writes: {refusing}");
            }
            Step::Restart => self.restart(at).await?,
            Step::LoseDisk => {
                self.crash(at).await?;
                if self.sites[at].sidecar.is_none() {
                    self.sites[at].disk.lose();
                    say!(self.trace, "{at}: the journal's directory is lost");
                    self.sites[at].reached = 0;
                    self.sites[at].excused = true;
                }
            }
            Step::DeleteCheckpoint if self.begun => {
                let other = self.random.random_range(0..DATABASES);
                let database = if self.random.random_bool(0.6) { 0 } else { other };
                say!(self.trace, "{at}: a client deletes the checkpoint in db {database}");
                let command = encoded(&["DEL", "redis-duplex-checkpoint"]);
                self.sites[at].server.client(&[(database, command)], false);
                self.sites[at].checkpoint_deleted = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn breaks(&mut self, at: usize, why: &'static str) {
        if self.begun {
            say!(self.trace, "{at}: its history broke: {why}");
            self.sites[at].broke.get_or_insert(why);
        }
    }

    pub(super) async fn crash(&mut self, at: usize) -> Checked {
        if self.sites[at].sidecar.is_none() || self.starts == STARTS {
            return Ok(());
        }
        check::journal(&self.sites[at]).await?;
        say!(self.trace, "{at}: the sidecar is killed");
        self.cut_apply(at);
        self.cut_link(at);
        self.cut_link(1 - at);
        let site = &mut self.sites[at];
        site.sidecar = None;
        // That only echoes came is not written at once.
        site.torn = site.torn.max(Some(site.reached));
        site.reached = 0;
        Ok(())
    }

    async fn crash_machine(&mut self, at: usize) -> Checked {
        self.crash(at).await?;
        if self.sites[at].sidecar.is_some() {
            return Ok(());
        }
        let kept = self.random.random_range(0.0..=1.0);
        let lost = self.sites[at].disk.crash_machine(kept);
        let site = &mut self.sites[at];
        site.excused |= lost > 0;
        site.lost_tail |= lost > 0;
        say!(self.trace, "{at}: the machine crashes, {lost} bytes of the journal are gone");
        Ok(())
    }

    pub(super) async fn fail_over(&mut self, at: usize) -> Checked {
        self.lose_redis(at).await?;
        let lagging = self.begun && self.random.random_bool(0.5);
        let site = &mut self.sites[at];
        site.server.fail_over(lagging, &mut self.random);
        site.failovers += 1;
        let (end, id) = (site.server.history.end(), site.server.replid);
        say!(self.trace, "{at}: redis fails over, to one that lags: {lagging}; {id} at {end}");
        if lagging {
            site.checkpoint = None;
            let sidecar = site.sidecar.as_ref();
            let head = sidecar.map_or(0, |sidecar| sidecar.journal.head().position.offset.0);
            if head.max(site.torn.unwrap_or(0)) > end {
                site.ahead_of_redis = true;
                site.excused = true;
                site.lost_from = Some(site.lost_from.map_or(end, |lost| lost.min(end)));
                self.breaks(at, "redis has lost what was journaled");
            }
        }
        Ok(())
    }

    pub(super) async fn restart(&mut self, at: usize) -> Checked {
        let well = self.random.random_bool(0.6);
        self.lose_redis(at).await?;
        self.sites[at].server.restart(well, &mut self.random);
        let epoch = self.sites[at].server.epoch;
        self.sites[at].excused = true;
        say!(self.trace, "{at}: redis restarts, well: {well}, epoch {epoch}");
        Ok(())
    }

    /// All connections to it break.
    pub(super) async fn lose_redis(&mut self, at: usize) -> Checked {
        self.cut_stream(at).await?;
        self.cut_apply(at);
        Ok(())
    }

    pub(super) fn cut_link(&mut self, to: usize) {
        let wire = &mut self.sites[to].wire;
        let all = wire.bytes.len();
        let arrive =
            if self.random.random_bool(0.4) { all } else { self.random.random_range(0..=all) };
        wire.bytes.truncate(arrive);
        wire.ended = true;
        if let Some(sidecar) = &mut self.sites[1 - to].sidecar {
            sidecar.feed = None;
        }
        say!(self.trace, "{to}: the link is cut, {arrive} bytes still come");
        let session = self.sites[to].sidecar.as_ref().and_then(|s| s.session.as_ref());
        if session.is_some_and(|session| !session.answered) {
            self.cut_apply(to);
        }
    }

    /// The link's session is over, what was under way is of unknown fate.
    pub(super) fn cut_apply(&mut self, at: usize) {
        let Some(sidecar) = &mut self.sites[at].sidecar else { return };
        let Some(session) = sidecar.session.take() else { return };
        session.pipeline.give_up();
        self.sites[at].server.abandon(session.connection, &mut self.random);
        self.sites[at].wire = Wire::default();
        if let Some(other) = &mut self.sites[1 - at].sidecar {
            other.feed = None;
        }
        say!(self.trace, "{at}: the link's session ends");
    }
}
