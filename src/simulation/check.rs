//! What must hold.

use std::collections::BTreeMap;

use super::server::{Commands, MarkedBatch, words};
use super::store::{DATABASES, Value};
use super::world::{Checked, Site, World};
use crate::journal::{EXEC, MULTI, Read};
use crate::resp::{Limits, Scanner};
use crate::write_off::CHECKPOINT_KEY;

/// A batch was executed at site `to`: it must hold the units that come next, whole, each in its
/// database, and its checkpoint must tell of exactly these.
pub(super) fn batch(world: &mut World<'_>, to: usize, batch: &MarkedBatch) -> Checked {
    let peer = &world.sites[1 - to];
    if batch.mark.site != peer.name {
        return Err(format!("{to}: a batch of {}", batch.mark.site));
    }
    let (ids, local) = (&peer.server.ids, &peer.server.history.local);
    let next = |index: usize| local.get(index).filter(|unit| unit.epoch == peer.peers_epoch);
    let mut applied = world.sites[to].server.history.applied;
    let mut rest = &batch.commands[..];
    while !rest.is_empty() {
        let unit = next(applied);
        let Some(unit) = unit.filter(|unit| rest.starts_with(&unit.commands)) else {
            if peer.lost_from.is_some() {
                break;
            }
            let found: Vec<_> = rest.iter().map(|(db, raw)| (db, raw.escape_ascii())).collect();
            let found: Vec<_> = found.iter().map(|(db, raw)| format!("{raw} in {db}")).collect();
            return Err(format!("{to}: unit {applied} should come, not {}", found.join("; ")));
        };
        rest = &rest[unit.commands.len()..];
        applied += 1;
    }
    let Some(checkpoint) = batch.mark.checkpoint else {
        let whole = batch.commands.is_empty();
        return if whole { Ok(()) } else { Err(format!("{to}: units without a checkpoint")) };
    };
    let last = applied.checked_sub(1).and_then(|last| local.get(last)).map_or(0, |unit| unit.end);
    let next = next(applied).map_or(u64::MAX, |unit| unit.end);
    let offset = checkpoint.position.offset.0;
    let right = last <= offset && offset < next && ids.contains(&checkpoint.position.replid);
    if !right && peer.lost_from.is_none() {
        return Err(format!("{to}: checkpoint {checkpoint}, not in {last}..{next}"));
    }
    world.sites[to].server.history.applied = applied;
    Ok(())
}

/// The journal holds exactly the local units of its Redis.
pub(super) async fn journal(site: &Site<'_>) -> Checked {
    let Some(sidecar) = &site.sidecar else { return Ok(()) };
    let (first, head) = (sidecar.journal.status().first, sidecar.journal.head().position);
    let stands_before = site.journal_began.is_some_and(|began| !sidecar.journal.knows(began));
    if stands_before || site.ahead_of_redis || head.offset.0 == 0 {
        return Ok(());
    }
    let ends = first.offset.0 + 1..=head.offset.0;
    let local = site.server.history.local.iter();
    let mut expected =
        local.filter(|unit| unit.epoch == site.journal_epoch && ends.contains(&unit.end));
    let fail = |what: &str| Err(format!("{}: in the journal, {what}", site.name));
    let mut reader = sidecar.journal.read_from(first).map_err(|error| error.to_string())?;
    let mut moment = 0;
    while let Read::Block(block) = reader.read().await.map_err(|error| error.to_string())? {
        for (index, unit) in block.units.iter().enumerate() {
            let text = &block.payload[unit.from..unit.to];
            let Some(should) = expected.next() else {
                return fail(&format!("what no client wrote: {}", text.escape_ascii()));
            };
            if unit.end.0 != should.end {
                return fail(&format!("the end {} in place of {}", unit.end, should.end));
            }
            if commands(unit.database.0, text) != should.commands {
                return fail(&format!("at {}: {}", unit.end, text.escape_ascii()));
            }
            let after = should.commands.last().map(|(database, _)| *database);
            if Some(unit.database_after.0) != after {
                return fail(&format!("database {} after {}", unit.database_after, unit.end));
            }
            let peer = if site.name.as_str() == "a" { "b" } else { "a" };
            let seen = block.seen[unit.seen].of(&peer.parse().unwrap());
            // What came before the journal begins is not known.
            let known = should.seen.filter(|seen| seen.end > first.offset.0);
            if seen != known.map(|seen| seen.position) {
                return fail(&format!("at {}: seen {seen:?}, not {known:?}", unit.end));
            }
            if block.timestamp(index).0 <= moment {
                return fail("time goes back");
            }
            moment = block.timestamp(index).0;
        }
    }
    match expected.next() {
        Some(missing) => fail(&format!("there is nothing of the unit at {}", missing.end)),
        None => Ok(()),
    }
}

fn commands(mut database: u32, text: &[u8]) -> Commands {
    let text = text.strip_prefix(MULTI).and_then(|rest| rest.strip_suffix(EXEC)).unwrap_or(text);
    let (mut found, mut rest) = (Commands::new(), text);
    while !rest.is_empty() {
        let mut scanner = Scanner::new(Limits::STREAM);
        let command = scanner.scan(rest).unwrap().unwrap();
        let raw = command.raw();
        if command.is("SELECT") {
            database = str::from_utf8(command.arg(1)).unwrap().parse().unwrap();
        } else {
            found.push((database, raw.to_vec()));
        }
        rest = &rest[raw.len()..];
    }
    found
}

/// All that was written is everywhere, once.
pub(super) async fn at_rest(world: &World<'_>) -> Checked {
    for (at, site) in world.sites.iter().enumerate() {
        journal(site).await?;
        let Some(sidecar) = &site.sidecar else { continue };
        let pending = sidecar.source.write_off.status().pending;
        if pending > 0 {
            return Err(format!("{at}: {pending} tags were never written off"));
        }
        let problems = sidecar.source.problems.newest(usize::MAX);
        if let Some(problem) = problems.iter().find(|problem| !problem.text.contains("waiting")) {
            return Err(format!("{at}: {}: {}", problem.place, problem.text));
        }
    }
    let [a, b] = &world.sites;
    if [a, b].iter().any(|site| site.broke.is_some() || site.checkpoint_deleted) {
        return Ok(());
    }
    let here = a.server.history.store.without(CHECKPOINT_KEY);
    if here != b.server.history.store.without(CHECKPOINT_KEY) {
        return Err("the stores differ".to_owned());
    }
    let mut counters = BTreeMap::new();
    let mut lists: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
    for unit in a.server.history.local.iter().chain(&b.server.history.local) {
        for (database, raw) in &unit.commands {
            let words = words(raw);
            match &words[0][..] {
                b"INCR" => *counters.entry((*database, words[1].clone())).or_insert(0_u64) += 1,
                b"RPUSH" => lists
                    .entry((*database, words[1].clone()))
                    .or_default()
                    .extend_from_slice(&words[2..]),
                _ => {}
            }
        }
    }
    for number in 0..DATABASES {
        for (key, value) in here.database(number) {
            let place = (number, key.clone());
            let right = match value {
                Value::List(list) => lists.get(&place) == Some(list),
                Value::Text(text) if key.starts_with(b"counter") => {
                    counters.get(&place).map(|n| n.to_string().into_bytes()).as_ref() == Some(text)
                }
                _ => true,
            };
            if !right {
                return Err(format!("{} in {number} is {value:?}", key.escape_ascii()));
            }
        }
    }
    Ok(())
}
