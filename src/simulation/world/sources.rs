//! The steps of a source: it starts, attaches, reads, and goes back for a peer.

use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::{Checked, STARTS, World};
use crate::clock::Timestamp;
use crate::position::{Checkpoint, Database, Offset};
use crate::simulation::sidecar::Sidecar;
use crate::simulation::{Mutation, say};
use crate::source::{How, Place, Resume};

impl World<'_> {
    pub(super) fn start(&mut self, at: usize) -> Checked {
        if self.sites[at].sidecar.is_some() || self.starts == STARTS {
            return Ok(());
        }
        let names = (self.sites[at].name.clone(), self.sites[1 - at].name.clone());
        let (slot, batch) = (&self.arena[self.starts], self.sites[at].batch);
        self.starts += 1;
        let started = Sidecar::start(&mut self.sites[at].disk, slot, names, batch);
        let sidecar = started.map_err(|error| format!("the journal can't be opened: {error}"))?;
        let head = sidecar.journal.head();
        say!(self.trace, "{at}: the sidecar starts, its journal ends at {}", head.position);
        self.sites[at].sidecar = Some(sidecar);
        Ok(())
    }

    pub(super) async fn attach(&mut self, at: usize) -> Checked {
        let mutation = self.mutation;
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return Ok(()) };
        if sidecar.stream.is_some() {
            return Ok(());
        }
        if let Some(resume) = &mut sidecar.resume {
            match (mutation, site.torn) {
                _ if !self.begun => {}
                (Mutation::DatabaseForgotten, _) => resume.database = Database(0),
                (Mutation::ResumesByAcknowledged, Some(torn)) if site.lost_tail => {
                    resume.position.offset = Offset(torn);
                }
                _ => {}
            }
        }
        let left_off = sidecar.resume;
        let start = left_off.or_else(|| {
            let position = site.server.probe()?;
            Some(Resume { position, database: Database(0), time: Timestamp::default() })
        });
        let answer = site.server.psync(start.map(|start| start.position));
        let info = site.server.info();
        let Some(place) = Place::of(answer, start, left_off.is_some(), &info) else {
            return Err("PSYNC has no place".to_owned());
        };
        say!(self.trace, "{at}: the source attaches {}, at {}", place.how.name(), place.position);
        let stop = CancellationToken::new();
        let begun = sidecar.source.begin(place, &stop).await;
        begun.map_err(|end| format!("the source can't begin: {end}"))?;
        sidecar.read_stream(&place);
        let renamed = left_off.is_some_and(|from| from.position.replid != place.position.replid);
        let excused = site.excused || site.failovers > 1;
        site.failovers = 0;
        if place.how == How::Again {
            // Redis knows all that is in the journal.
            site.ahead_of_redis = false;
            if renamed && site.torn.is_some() {
                // The old id is good beyond the journal's end, which Redis tells until the next
                // failover only.
                self.breaks(at, "it is not known up to where the old id is good");
            }
            return Ok(());
        }
        if self.begun && !excused {
            return Err(format!("{at}: redis could not go on from {left_off:?}, for no reason"));
        }
        site.journal_epoch = site.server.epoch;
        site.journal_began = Some(place.position);
        (site.reached, site.torn, site.ahead_of_redis) = (0, None, false);
        self.breaks(at, "the source could not go on");
        Ok(())
    }

    pub(super) async fn stream(&mut self, at: usize) -> Checked {
        let everything = self.random.random_bool(0.4);
        let limit = if everything { usize::MAX } else { self.random.random_range(1..200) };
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return Ok(()) };
        let Some(stream) = &mut sidecar.stream else { return Ok(()) };
        let new = site.server.stream_from(stream.at);
        let count = new.len().min(limit);
        if count == 0 {
            return Ok(());
        }
        stream.input.extend_from_slice(&new[..count]);
        stream.at += count as u64;
        sidecar.take().await?;
        let head = sidecar.journal.head();
        say!(
            self.trace,
            "{at}: the source takes {count} bytes; the journal ends at {}, with {} units",
            head.position.offset,
            head.units
        );
        Ok(())
    }

    pub(super) async fn cut_stream(&mut self, at: usize) -> Checked {
        // Some of what is on its way may still arrive.
        if self.random.random_bool(0.5) {
            self.stream(at).await?;
        }
        let forgets = self.does(Mutation::FilterForgotten);
        let Some(sidecar) = &mut self.sites[at].sidecar else { return Ok(()) };
        let Some(at_byte) = sidecar.stream.as_ref().map(|s| s.at - s.input.len() as u64) else {
            return Ok(());
        };
        sidecar.lose_stream();
        if forgets && let Some(resume) = &mut sidecar.resume {
            // As if the connection went on where it was, with a new filter.
            resume.position.offset.0 = at_byte;
        }
        say!(self.trace, "{at}: the stream is cut, {:?}", sidecar.resume);
        Ok(())
    }

    /// The journal of site `at` is to begin where the peer stands, if Redis still has all from there.
    pub(super) async fn go_back(&mut self, at: usize, from: Checkpoint) -> Checked<bool> {
        let site = &mut self.sites[at];
        let Some(sidecar) = &mut site.sidecar else { return Ok(false) };
        let info = site.server.info();
        if !info.backlog_holds(from.position) {
            say!(self.trace, "{at}: the backlog does not reach back to {from}");
            return Ok(false);
        }
        let Checkpoint { position, database, time, owed: _ } = from;
        let start = Resume { position, database, time: Timestamp::from_unix_millis(time) };
        let answer = site.server.psync(Some(position));
        let place = Place::of(answer, Some(start), true, &info);
        let Some(place) = place.filter(|place| place.how == How::Again) else {
            return Err(format!("{at}: the backlog was said to reach back to {from}"));
        };
        sidecar.lose_stream();
        let begun = sidecar.source.begin_earlier(from, place, &CancellationToken::new()).await;
        begun.map_err(|end| format!("the source can't begin: {end}"))?;
        sidecar.read_stream(&place);
        site.journal_epoch = site.server.epoch;
        site.journal_began = Some(from.position);
        (site.reached, site.torn, site.ahead_of_redis) = (0, None, false);
        say!(self.trace, "{at}: the source goes back to {from}");
        Ok(true)
    }
}
