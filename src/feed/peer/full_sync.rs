//! Giving a peer all there is: the units that it has not got, where they can be had, then a
//! snapshot.
//!
//! Units first: then what clients wrote, at both sites, reaches the other as what it is, and the
//! snapshot only tells of what is in no unit: data from before the sidecars, and what was written
//! while nobody read.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{interval, timeout};
use tracing::info;

use super::request::{Begin, LinkRequest};
use super::{Feed, PeerEnd, newest, put_block};
use crate::apply::read_checkpoints;
use crate::feed::snapshot::{Snapshot, SnapshotError};
use crate::frame::Frame;
use crate::journal::{NotInJournal, Read, UnitReader};
use crate::net::{Stream, send};
use crate::position::{
    Checkpoint, Database, LinkSession, Offset, Owed, ReplicationId, Seen, SiteName,
};
use crate::redis::{Connection, ServerInfo, SnapshotPart};

/// How long a snapshot's beginning may take: a fork, and `repl-diskless-sync-delay`.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(2);

/// How long our own link may need to get the peer's units. Then the snapshot is cut without them:
/// the peer's port may be out of reach from here.
const UNITS_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const UNITS_PAUSE: Duration = Duration::from_millis(50);

impl Feed {
    /// Sends all that the peer lacks; then a reader of what follows it.
    pub(super) async fn full_sync(
        &self,
        stream: &mut Stream,
        request: &LinkRequest,
    ) -> Result<UnitReader, PeerEnd> {
        let site = &request.site;
        let applied = self.applied_of(site).await?;
        let mirrored = self.may_mirror(request, applied).await?;
        let mirror = mirrored.is_some();
        info!(%site, begin = ?request.begin, mirror, "a peer takes a full sync");
        let peer = self.peers.get(site).map(|peer| (peer, peer.cut(request.session)));
        let (mut pair, mut units) = (None, None);
        if let Some((pairing, _)) = peer.as_ref().filter(|_| !mirror) {
            let told = request.begin == Begin::Full;
            let paired = pairing.pair(request.session, told);
            pair = self.while_waiting(stream, "both links begin", paired).await?;
            units = self.send_units(stream, request).await?;
            let has_units = self.has_units_of(request);
            self.while_waiting(stream, "the other way's units come", has_units).await??;
        }
        let cutting = peer.as_ref().map(|(pairing, _)| pairing.conflicts.cutting());
        // Read before the snapshot is cut: what was seen later may not be in it.
        let mut seen = (*self.journal.head().seen).clone();
        if let Some(applied) = self.applied_of(site).await? {
            seen = seen.with(site, applied.position);
        }
        let begin = timeout(SNAPSHOT_TIMEOUT, Snapshot::begin(&self.target, true));
        let snapshot = self
            .while_waiting(stream, "the snapshot is being prepared", begin)
            .await?
            .map_err(|_| PeerEnd::Silent)??;
        if mirrored.is_some_and(|replid| replid != snapshot.at.replid) {
            // Redis restarted just now, maybe without its data: what was found does not hold.
            return Err(NotInJournal::HistoryBroke.into());
        }
        if let Some((pairing, cut)) = peer {
            match &units {
                Some(_) => pairing.conflicts.cut_behind_units(snapshot.at),
                None => pairing.conflicts.cut(snapshot.at),
            }
            cut.done();
        }
        drop(cutting);
        self.while_waiting(stream, "the source catches up", snapshot.caught_up(&self.journal))
            .await??;
        if let Some(units) = units {
            if !self.journal.is_present(&units) {
                // The peer asks again where it then stands.
                return Err(NotInJournal::HistoryBroke.into());
            }
            send_up_to(stream, units, snapshot.at.offset).await?;
        }
        self.send_snapshot(stream, snapshot, (pair, mirror, seen)).await
    }

    async fn send_snapshot(
        &self,
        stream: &mut Stream,
        mut snapshot: Snapshot,
        (pair, mirror, seen): (Option<LinkSession>, bool, Seen),
    ) -> Result<UnitReader, PeerEnd> {
        let mut out = BytesMut::new();
        let (at, keys) = (snapshot.at, snapshot.keys);
        Frame::Snapshot { at, keys, pair, mirror, seen }.put(&mut out);
        send(stream, &out).await?;
        loop {
            let next = snapshot.next();
            let part = self.while_waiting(stream, "the snapshot is being prepared", next).await??;
            out.clear();
            match part {
                SnapshotPart::Head(_) => continue,
                SnapshotPart::Bytes(bytes) => Frame::SnapshotBytes(bytes).put(&mut out),
                SnapshotPart::End => break,
            }
            send(stream, &out).await?;
        }
        Frame::SnapshotEnd.put(&mut out);
        send(stream, &out).await?;
        Ok(self.journal.read_from(snapshot.at)?)
    }

    /// Sends the units behind the peer's checkpoint up to now, also those of histories that broke
    /// since; then a reader of what follows. None if the journal does not reach back there.
    async fn send_units(
        &self,
        stream: &mut Stream,
        request: &LinkRequest,
    ) -> Result<Option<UnitReader>, PeerEnd> {
        let journal = &self.journal;
        let present = newest(&request.checkpoints, |at| journal.knows(at));
        let present = present.filter(|from| journal.knows(from.position));
        let newest = present.or_else(|| newest(&request.checkpoints, |at| journal.knew(at)));
        // Part of a snapshot holds more than the checkpoint tells: its units would count twice.
        let newest = newest.filter(|from| from.owed != Owed::Mirror);
        let Some(from) = newest.map(|from| Checkpoint { owed: Owed::Snapshot, ..from }) else {
            return Ok(None);
        };
        let present = journal.read_from(from.position).ok();
        let Some(mut reader) = present.or_else(|| journal.read_past(from.position)) else {
            return Ok(None);
        };
        info!(site = %request.site, from = %from.position, "units come before the snapshot");
        let mut out = BytesMut::new();
        Frame::Resume { from }.put(&mut out);
        loop {
            send(stream, &out).await?;
            out.clear();
            match reader.read().await {
                Ok(Read::Block(block)) => put_block(&block, &mut out),
                Ok(Read::Idle(_)) => return Ok(Some(reader)),
                Err(NotInJournal::HistoryBroke) => {
                    let Some((position, next)) = journal.read_next(&reader) else {
                        return Err(NotInJournal::HistoryBroke.into());
                    };
                    // A SELECT or our probe is what comes first in a history.
                    let (database, time) = (Database(0), 0);
                    let at = Checkpoint { position, database, time, owed: Owed::Snapshot };
                    Frame::Continue { at }.put(&mut out);
                    reader = next;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the units of the peer's earlier histories are applied here, if they come.
    async fn has_units_of(&self, request: &LinkRequest) -> Result<(), PeerEnd> {
        let pairing = self.peers.get(&request.site);
        let has = async {
            let mut ticks = interval(UNITS_PAUSE);
            loop {
                ticks.tick().await;
                let applied = self.applied_of(&request.site).await?;
                let history = applied.map(|applied| applied.position.replid);
                let none_come = pairing.is_none_or(|pairing| pairing.had_no_units());
                if history.is_none() || history == request.history || none_come {
                    return Ok(());
                }
            }
        };
        // Running out of patience is no error.
        timeout(UNITS_PATIENCE, has).await.unwrap_or(Ok(()))
    }

    /// Up to where the peer's units are applied here.
    async fn applied_of(&self, site: &SiteName) -> Result<Option<Checkpoint>, PeerEnd> {
        let mut connection = Connection::open(&self.target).await.map_err(SnapshotError::from)?;
        let found = read_checkpoints(&mut connection, site).await.map_err(SnapshotError::from)?;
        Ok(found.into_iter().map(|(_, checkpoint)| checkpoint).max_by_key(|c| c.position.offset))
    }

    /// Whether the peer is to become what this site is, but for its own writes that we lack. Then
    /// our own link goes on where it is, and nothing that the peer's clients wrote is lost. For that
    /// the peer must know these writes; and our data must not have gone back behind what the peer
    /// has of it, or it would lose with us what we lost. The history in which that holds.
    async fn may_mirror(
        &self,
        request: &LinkRequest,
        applied: Option<Checkpoint>,
    ) -> Result<Option<ReplicationId>, PeerEnd> {
        let applied = applied.filter(|applied| applied.owed == Owed::Nothing);
        let (Some(known), Some(applied)) = (request.known, applied) else { return Ok(None) };
        let theirs = request.checkpoints.iter().max_by_key(|c| c.position.offset);
        let resumes = request.begin == Begin::Resume;
        let Some(theirs) = theirs.filter(|theirs| resumes && theirs.owed != Owed::Snapshot) else {
            return Ok(None);
        };
        if applied.position.replid != known.replid || applied.position.offset < known.offset {
            return Ok(None);
        }
        let mut connection = Connection::open(&self.target).await.map_err(SnapshotError::from)?;
        let server = ServerInfo::ask(&mut connection).await.map_err(SnapshotError::from)?;
        let here = server.info.position().map(|here| here.replid);
        Ok(here.filter(|_| server.has_not_gone_back_behind(theirs.position)))
    }
}

/// Sends the units up to `end`, where a snapshot was cut; they are in the journal.
async fn send_up_to(
    stream: &mut Stream,
    mut reader: UnitReader,
    end: Offset,
) -> Result<(), PeerEnd> {
    let mut out = BytesMut::new();
    loop {
        match reader.read().await? {
            Read::Block(block) if block.start < end => {
                put_block(&block.up_to(end), &mut out);
                send(stream, &out).await?;
                out.clear();
                if block.end >= end {
                    return Ok(());
                }
            }
            Read::Block(_) | Read::Idle(_) => return Ok(()),
        }
    }
}
