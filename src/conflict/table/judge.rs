//! What a peer's unit conflicts with, and which of its commands are left out.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{Found, Table, Why};
use crate::conflict::effect::{Effect, hash_key};
use crate::conflict::rules::{Rule, follows};
use crate::conflict::unit::{Key, RemoteUnit, Touched};
use crate::conflict::writes::Write;
use crate::position::{Database, Offset};

impl Table {
    /// What a unit had seen; none if it conflicts with everything.
    pub(super) fn sight(&self, unit: &RemoteUnit) -> Option<Offset> {
        let blind = self.is_primary && self.cutting > 0;
        self.ours(unit.seen).filter(|seen| *seen >= self.blind_below && !blind)
    }

    /// The local writes on the key that neither the unit has seen nor commute with it.
    fn rivals(&self, touched: &Touched, seen: Option<Offset>) -> impl Iterator<Item = &Write> {
        let effect = touched.effect;
        self.unseen(touched.hash, seen).filter(move |write| !write.effect.commutes_with(effect))
    }

    /// The local writes on the key with this hash that the unit has not seen.
    fn unseen(&self, hash: u64, seen: Option<Offset>) -> impl Iterator<Item = &Write> {
        let seen = seen.max(self.floor);
        self.writes.of(hash).filter(move |write| Some(write.end) > seen)
    }

    /// Whether local clients wrote the key and the peer has not seen that, as far as is known.
    pub fn contains(&self, database: Database, key: &[u8]) -> bool {
        // A primary must not take what it may have deleted; it can send its word instead.
        follows(Rule::SkipEntries)
            && ((self.is_primary && self.overflown)
                || self.unseen(hash_key(database, key), None).next().is_some())
    }

    /// Which commands of a unit that is about to be applied are left out, and why.
    pub fn judge(&self, unit: &RemoteUnit) -> SmallVec<[(usize, Why); 4]> {
        let mut out = SmallVec::new();
        let seen = self.sight(unit);
        let mut rest = &unit.touched[..];
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|t| t.command == first.command).count();
            let (of_command, later) = rest.split_at(count);
            rest = later;
            if let Some(why) = self.judge_command(unit, of_command, seen) {
                out.push((first.command, why));
            }
        }
        out
    }

    /// A command is left out if that is right for all that it touches.
    fn judge_command(
        &self,
        unit: &RemoteUnit,
        touched: &[Touched],
        seen: Option<Offset>,
    ) -> Option<Why> {
        let mut why = None;
        for key in touched {
            let rivals = || self.rivals(key, seen);
            rivals().next()?;
            if !self.is_primary {
                let outdated = unit.state && follows(Rule::SkipStates);
                return outdated.then_some(Why::Outdated);
            }
            let newer = follows(Rule::NewerWins)
                && rivals().any(|w| w.time > unit.time && w.effect.erases(key.effect));
            let deletes = follows(Rule::WritesBeatDeletes)
                && key.effect.only_deletes()
                && rivals().any(|w| !w.effect.only_deletes() && w.effect != Effect::State);
            why = match (newer, deletes) {
                (true, _) => Some(Why::Older),
                (false, true) => Some(Why::Deletes),
                (false, false) => return None,
            };
        }
        why
    }

    /// A unit's mark came back in the stream: what of it conflicts with what stands before it there.
    /// `is_open` tells which keys are being repaired.
    pub fn came_back(&mut self, unit: &RemoteUnit, is_open: impl Fn(&Key) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        let seen = self.sight(unit);
        let blind = self.is_primary && seen.is_none() && follows(Rule::BlindConflicts);
        let mut left_out = SmallVec::new();
        let spreads = || unit.touched.iter().any(|touched| touched.together);
        if !self.writes.is_empty() || blind || spreads() {
            found = self.find(unit, seen, blind, is_open);
        }
        if !found.is_empty() {
            left_out = self.judge(unit);
        }
        for one in &mut found {
            let commands = unit.touched.iter().filter(|touched| touched.key == one.key);
            let why = left_out.iter().find(|(at, _)| commands.clone().any(|t| t.command == *at));
            one.rejected = why.map(|(_, why)| *why);
        }
        if let Some(position) = unit.seen {
            self.seen(position);
        }
        found
    }

    fn find(
        &self,
        unit: &RemoteUnit,
        seen: Option<Offset>,
        blind: bool,
        is_open: impl Fn(&Key) -> bool,
    ) -> Vec<Found> {
        let mut all = FoundKeys::new(self.ours(unit.seen).unwrap_or_default());
        let mut together: SmallVec<[usize; 4]> = SmallVec::new();
        for touched in &unit.touched {
            let mut rivals = self.rivals(touched, seen).filter(|_| follows(Rule::FindConflicts));
            let local = rivals.next().map(|rival| rival.effect);
            // What a key became that is being repaired goes on in the others of the command.
            let spreads = touched.together && is_open(&touched.key);
            if blind || local.is_some() || spreads {
                all.add(&touched.key, local, Some(touched.effect));
                if touched.together {
                    together.push(touched.command);
                }
            }
        }
        let dragged = unit.touched.iter().filter(|t| together.contains(&t.command));
        dragged.for_each(|touched| all.add(&touched.key, None, Some(touched.effect)));
        // What a local command made of one of these keys may have gone on in others.
        let mut at = 0;
        while let Some(one) = all.keys.get(at).filter(|_| follows(Rule::Spread)) {
            let Key { database, name } = one.key.clone();
            at += 1;
            let unseen = self.unseen(hash_key(database, &name), seen);
            for key in unseen.filter_map(|write| write.group.as_deref()).flatten() {
                all.add(key, Some(Effect::Change), None);
            }
            for (_, a, b) in &self.swaps {
                for (from, to) in [(a, b), (b, a)] {
                    if database == *from {
                        all.add(&Key { database: *to, name: name.clone() }, None, None);
                    }
                }
            }
        }
        all.keys
    }
}

/// What was found, each key once.
struct FoundKeys {
    keys: Vec<Found>,
    known: HashSet<Key, RandomState>,
    seen: Offset,
}

impl FoundKeys {
    fn new(seen: Offset) -> Self {
        Self { keys: Vec::new(), known: HashSet::default(), seen }
    }

    fn add(&mut self, key: &Key, local: Option<Effect>, remote: Option<Effect>) {
        if !self.known.contains(key) {
            self.known.insert(key.clone());
            let key = key.clone();
            self.keys.push(Found { key, local, remote, rejected: None, seen: self.seen });
        }
    }
}
