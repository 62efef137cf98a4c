//! The steps of a link, and of the feed at its other end.

use bytes::BytesMut;
use rand::Rng;

use super::{Checked, EMPTY_SNAPSHOT, Wire, World};
use crate::clock::unix_millis;
use crate::feed::newest;
use crate::frame::Frame;
use crate::journal::{NotInJournal, Read, UnitReader};
use crate::position::{Checkpoint, Offset, Position};
use crate::simulation::sidecar::Session;
use crate::simulation::{Mutation, say, stored_checkpoints};

impl World<'_> {
    pub(super) fn begin_session(&mut self, at: usize) {
        let take_over = !self.does(Mutation::NoTakeOver);
        let peer = self.sites[1 - at].name.clone();
        let site = &mut self.sites[at];
        let Some(sidecar) = site.sidecar.as_mut().filter(|s| s.attached && s.session.is_none())
        else {
            return;
        };
        let connection = site.server.connect();
        if take_over {
            site.server.kill_all_but(connection);
        }
        let checkpoints = stored_checkpoints(&site.server, &peer);
        say!(self.trace, "{at}: a session begins, checkpoints {checkpoints:?}");
        sidecar.session = Some(Session::new(sidecar.link, connection, checkpoints));
        site.wire = Wire::default();
    }

    /// The link asks the peer's feed, which answers.
    pub(super) async fn ask(&mut self, at: usize) -> Checked {
        let session = self.sites[at].sidecar.as_ref().and_then(|s| s.session.as_ref());
        let Some(session) = session.filter(|session| !session.answered) else { return Ok(()) };
        let checkpoints: Vec<_> = session.checkpoints.iter().map(|(_, from)| *from).collect();
        let Some((reader, bytes)) = self.answer(at, &checkpoints).await? else { return Ok(()) };
        if let Some(feeding) = &mut self.sites[1 - at].sidecar {
            feeding.feed = Some(reader);
        }
        let site = &mut self.sites[at];
        site.wire = Wire { bytes, ended: false };
        if let Some(sidecar) = &mut site.sidecar
            && let Some(session) = &mut sidecar.session
        {
            session.begin(sidecar.link, site.server.info());
        }
        Ok(())
    }

    pub(super) async fn answer(
        &mut self,
        at: usize,
        checkpoints: &[Checkpoint],
    ) -> Checked<Option<(UnitReader, BytesMut)>> {
        let there = &self.sites[1 - at];
        let Some(feeding) = there.sidecar.as_ref().filter(|s| s.attached) else { return Ok(None) };
        let journal = feeding.journal.clone();
        let mut newest = newest(checkpoints, |position| journal.knows(position));
        if self.does(Mutation::OlderCheckpoint) {
            newest = self.sites[at].older_checkpoint.or(newest);
        }
        let Some(from) = newest else { return self.full_sync(at, None) };
        let found = match journal.read_from(from.position) {
            // The source must catch up first.
            Err(NotInJournal::Ahead { .. }) if there.torn.is_some() => return Ok(None),
            Err(NotInJournal::Dropped { .. } | NotInJournal::OtherHistory(..)) => {
                if feeding.stream.is_none() {
                    return Ok(None);
                }
                if !self.go_back(1 - at, from).await? {
                    return self.full_sync(at, Some(from));
                }
                journal.read_from(from.position)
            }
            found => found,
        };
        let Ok(mut reader) = found else { return self.full_sync(at, Some(from)) };
        let first = journal.status().first;
        let mut told = from;
        if self.does(Mutation::ReaderTooEarly) && from.position.replid == first.replid {
            told.position = first;
            reader = journal.read_from(first).map_err(|error| error.to_string())?;
        }
        say!(self.trace, "{at}: the peer lets it resume from {from}");
        let there = &mut self.sites[1 - at];
        // Until the source comes back it does not know what Redis has lost.
        if !there.ahead_of_redis {
            if there.lost_from.is_some_and(|lost| lost < from.position.offset.0) {
                return Err(format!("{at}: it resumes from {from}, which redis has lost"));
            }
            (there.broke, there.lost_from) = (None, None);
        }
        let mut out = BytesMut::new();
        Frame::Resume { from: told }.put(&mut out);
        Ok(Some((reader, out)))
    }

    /// A snapshot, while there is nothing in it; else full syncs are not simulated.
    pub(super) fn full_sync(
        &mut self,
        at: usize,
        from: Option<Checkpoint>,
    ) -> Checked<Option<(UnitReader, BytesMut)>> {
        let (first, second) = self.sites.split_at_mut(1);
        let (here, there) =
            if at == 0 { (&first[0], &mut second[0]) } else { (&second[0], &mut first[0]) };
        let Some(feeding) = &there.sidecar else { return Ok(None) };
        let head = feeding.journal.head();
        if self.begun {
            if there.broke.is_none() && !here.checkpoint_deleted {
                let head = head.position;
                return Err(format!("{at}: a needless full sync, from {from:?}; {head}"));
            }
            return Ok(None);
        }
        let now =
            Position { replid: there.server.replid, offset: Offset(there.server.history.end()) };
        if head.position != now {
            return Ok(None);
        }
        there.server.psync(None);
        say!(self.trace, "{at}: the peer sends a snapshot of {now}");
        let mut out = BytesMut::new();
        let seen = (*head.seen).clone();
        Frame::Snapshot { at: now, keys: 0, pair: None, mirror: false, seen }.put(&mut out);
        Frame::SnapshotBytes(EMPTY_SNAPSHOT.into()).put(&mut out);
        Frame::SnapshotEnd.put(&mut out);
        let reader = feeding.journal.read_from(now).map_err(|error| error.to_string())?;
        Ok(Some((reader, out)))
    }

    pub(super) async fn feed(&mut self, from: usize) -> Checked {
        let wants_heartbeat = self.random.random_bool(0.3);
        let overtakes = wants_heartbeat && self.does(Mutation::HeartbeatOvertakes);
        let Some(sidecar) = &mut self.sites[from].sidecar else { return Ok(()) };
        let Some(reader) = &mut sidecar.feed else { return Ok(()) };
        let mut out = BytesMut::new();
        if overtakes {
            let (head, time) = (sidecar.journal.head(), sidecar.clock.take(1));
            let seen = (*head.seen).clone();
            let database = head.database.unwrap_or_default();
            Frame::Heartbeat { at: head.position, database, time, wall: unix_millis(), seen }
                .put(&mut out);
        }
        match reader.read().await {
            Ok(Read::Block(block)) => {
                let mut bytes = BytesMut::new();
                block.encode(&mut bytes);
                Frame::Block(bytes.freeze()).put(&mut out);
                say!(
                    self.trace,
                    "{from}: the feed sends the block {} to {}",
                    block.start,
                    block.end
                );
            }
            Ok(Read::Idle(head)) if wants_heartbeat => {
                let (time, seen) = (sidecar.clock.take(1), (*head.seen).clone());
                let database = head.database.unwrap_or_default();
                Frame::Heartbeat { at: head.position, database, time, wall: unix_millis(), seen }
                    .put(&mut out);
            }
            Ok(Read::Idle(_)) => {}
            Err(NotInJournal::HistoryBroke) => {
                say!(self.trace, "{from}: the feed ends, its history broke");
                self.cut_link(1 - from);
                return Ok(());
            }
            Err(error) => return Err(format!("the feed can't read the journal: {error}")),
        }
        let wire = &mut self.sites[1 - from].wire;
        if !wire.ended {
            wire.bytes.extend_from_slice(&out);
        }
        Ok(())
    }

    pub(super) async fn receive(&mut self, at: usize) -> Checked {
        let everything = self.random.random_bool(0.4);
        let limit = if everything { usize::MAX } else { self.random.random_range(1..300) };
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return Ok(()) };
        let Some(session) = &mut sidecar.session else { return Ok(()) };
        if session.intake.is_none() {
            return Ok(());
        }
        if session.touched.has_changed().unwrap() {
            session.touched.mark_unchanged();
            session.rewrite().await?;
        }
        let count = site.wire.bytes.len().min(limit);
        session.input.extend_from_slice(&site.wire.bytes.split_to(count));
        while let Some(frame) = Frame::take(&mut session.input).map_err(|e| e.to_string())? {
            session.take(frame).await?;
        }
        if site.wire.ended && site.wire.bytes.is_empty() {
            // The session goes on until what was received is applied.
            session.intake = None;
            session.input.clear();
        }
        Ok(())
    }
}
