//! Two sites without sockets, to try the order of things that no test with real servers meets.
//!
//! What decides is the real code: scanner, filter, blocks, journal, frames, intake, pipeline. What
//! is simulated is outside of it: two servers (`server`, `store`), what is on its way between them,
//! and when each of all these does its next step (`world`). After every step and at the end it is
//! looked at what must hold (`check`): each unit of a local client is journaled once, applied at the
//! other site once, in order and in its database, and nothing else is.
//!
//! One seed is one run, the same each time. What is not simulated is a full sync with data in it:
//! where a history breaks it is checked that the code says so.

mod check;
mod server;
mod sidecar;
mod store;
mod world;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

use crate::position::{Checkpoint, Database, SiteName};
use crate::write_off::{checkpoint_fields, checkpoint_of};
use server::Server;
use world::World;

/// Runs of `cargo test`; `./dev test simulation --seeds N` makes more.
const SEEDS: u64 = 3000;

/// What is done wrong on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// The checkpoint is written in a transaction of its own, behind the batch.
    CheckpointApart,
    /// The link resumes from a checkpoint that was written before the last.
    OlderCheckpoint,
    /// The source goes on where its connection broke, with a new filter, not where the journal ends.
    FilterForgotten,
    /// The database in force at the journal's end is not known any more.
    DatabaseForgotten,
    /// The feed reads from the journal's beginning.
    ReaderTooEarly,
    /// Writers of an earlier session are not ended before the checkpoint is read.
    NoTakeOver,
    /// After a crash of the machine the source goes on at what it had acknowledged.
    ResumesByAcknowledged,
    /// Heartbeats tell of units that are still to be sent.
    HeartbeatOvertakes,
}

/// What happened, if somebody wants to know.
enum Trace {
    Off,
    On(RefCell<Vec<String>>),
}

macro_rules! say {
    ($trace:expr, $($text:tt)*) => {
        if let crate::simulation::Trace::On(lines) = $trace {
            lines.borrow_mut().push(format!($($text)*));
        }
    };
}
use say;

/// The checkpoints of `site` in the server, as the link reads them.
fn stored_checkpoints(server: &Server, site: &SiteName) -> Vec<(Database, Checkpoint)> {
    let found = server.checkpoint_fields(&checkpoint_fields(site)).into_iter();
    let checkpoint = |values: &[Vec<u8>]| {
        let [runid, offset, place] = values else { return None };
        checkpoint_of(runid, offset, place)
    };
    found.filter_map(|(database, values)| Some((database, checkpoint(&values)?))).collect()
}

/// One run; why it failed, if it did.
fn run(seed: u64, mutation: Mutation, trace: &Trace) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let arena = world::arena();
    let mut world = World::new(seed, mutation, &arena, trace);
    let done = AssertUnwindSafe(|| runtime.block_on(world.run()));
    std::panic::catch_unwind(done).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs again a seed that failed, and tells all of it.
fn tell(seed: u64, why: &str) -> String {
    let trace = Trace::On(RefCell::default());
    let again = run(seed, Mutation::None, &trace);
    let Trace::On(lines) = trace else { return String::new() };
    let lines = lines.into_inner().join("\n");
    format!(
        "{lines}\n\nseed {seed}: {why}\nagain: {again:?}\n\
         repeat it with: ./dev test simulation --seed {seed}\n"
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The first seed out of these that fails, and why; they are shared among the processor's cores.
fn first_failure(seeds: std::ops::Range<u64>, mutation: Mutation) -> Option<(u64, String)> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = parking_lot::Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end || failed.lock().is_some() {
                        return;
                    }
                    if let Err(why) = run(seed, mutation, &Trace::Off) {
                        failed.lock().get_or_insert((seed, why));
                    }
                }
            });
        }
    });
    failed.into_inner()
}

#[test]
fn every_write_arrives_once_whatever_breaks() {
    let only = number("REDIS_DUPLEX_SIMULATION_SEED");
    let seeds = number("REDIS_DUPLEX_SIMULATION_SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = only {
        let trace = Trace::On(RefCell::default());
        let done = run(seed, Mutation::None, &trace);
        let Trace::On(lines) = trace else { return };
        println!("{}", lines.into_inner().join("\n"));
        assert_eq!(done, Ok(()), "seed {seed}");
        return;
    }
    if let Some((seed, why)) = first_failure(1..seeds + 1, Mutation::None) {
        panic!("{}", tell(seed, &why));
    }
}

#[test]
fn what_is_done_wrong_is_found() {
    for mutation in [
        Mutation::CheckpointApart,
        Mutation::OlderCheckpoint,
        Mutation::FilterForgotten,
        Mutation::DatabaseForgotten,
        Mutation::ReaderTooEarly,
        Mutation::NoTakeOver,
        Mutation::ResumesByAcknowledged,
        Mutation::HeartbeatOvertakes,
    ] {
        let found = first_failure(1..1000, mutation);
        assert!(found.is_some(), "{mutation:?} is not found");
        println!("{mutation:?}: {found:?}");
    }
}
