//! Carries out the faults of one place, one after the other.

use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{RedisResult, cmd};

use crate::options::Kind;
use crate::schedule::{Fault, Step};
use crate::support::redis_server::{RedisServer, connect};
use crate::support::relay::{Direction, Relay};
use crate::support::sidecar::Sidecar;
use crate::writers;

/// How often a delay changes.
const JITTER: Duration = Duration::from_millis(15);

/// Waits for each step's time, then does it. The time is part of the schedule, no condition.
pub fn walk<'a>(
    began: Instant,
    steps: impl Iterator<Item = &'a Step>,
    mut perform: impl FnMut(&Step),
) {
    for step in steps {
        thread::sleep((began + step.at).saturating_duration_since(Instant::now()));
        perform(step);
    }
}

pub fn at_redis(server: &mut RedisServer, step: &Step) {
    match step.fault {
        Fault::Freeze => {
            server.pause();
            thread::sleep(step.lasts);
            server.resume();
        }
        Fault::Kill | Fault::Stop => {
            match step.fault {
                Fault::Kill => server.kill(),
                _ => server.stop(),
            }
            thread::sleep(step.lasts);
            server.restart();
        }
        other => unreachable!("{other:?} at a Redis"),
    }
}

pub fn at_sidecar(sidecar: &mut Sidecar, step: &Step) {
    match step.fault {
        Fault::Freeze => {
            sidecar.pause();
            thread::sleep(step.lasts);
            sidecar.resume();
        }
        Fault::Kill | Fault::Stop => {
            match step.fault {
                Fault::Kill => sidecar.kill(),
                _ => sidecar.stop(),
            }
            thread::sleep(step.lasts);
            sidecar.restart();
        }
        other => unreachable!("{other:?} at a sidecar"),
    }
}

pub fn at_relay(relay: &Relay, step: &Step) {
    match step.fault {
        Fault::Cut => relay.cut(),
        Fault::Refuse => {
            relay.refuse();
            relay.cut();
            thread::sleep(step.lasts);
            relay.accept();
        }
        Fault::SwallowRequests => swallow(relay, &[Direction::ToTarget], step.lasts),
        Fault::SwallowReplies => swallow(relay, &[Direction::ToClient], step.lasts),
        Fault::SwallowAll => {
            swallow(relay, &[Direction::ToTarget, Direction::ToClient], step.lasts);
        }
        Fault::Delay => delay(relay, step),
        other => unreachable!("{other:?} at a network"),
    }
}

fn swallow(relay: &Relay, directions: &[Direction], lasts: Duration) {
    for direction in directions {
        relay.swallow(*direction);
    }
    thread::sleep(lasts);
    relay.pass();
    relay.cut();
}

fn delay(relay: &Relay, step: &Step) {
    let mut random = StdRng::seed_from_u64(step.seed);
    let end = Instant::now() + step.lasts;
    while Instant::now() < end {
        for direction in [Direction::ToTarget, Direction::ToClient] {
            relay.delay(direction, Duration::from_millis(random.random_range(40..=80)));
        }
        thread::sleep(JITTER);
    }
    relay.pass();
}

/// `port` is that of a Redis, which may be down where Redis restarts are among the faults.
pub fn at_clients(port: u16, kind: Kind, step: &Step) {
    let done = disturb(port, step);
    assert!(kind == Kind::Restart || done.is_ok(), "{step}: {done:?}");
}

fn disturb(port: u16, step: &Step) -> RedisResult<()> {
    let mut client = connect(port, 0)?;
    match step.fault {
        Fault::KillReplicas => cmd("CLIENT").arg(&["KILL", "TYPE", "replica"]).exec(&mut client),
        Fault::KillSidecars => kill_clients(&mut client, |is_writer| !is_writer),
        Fault::KillWriters => kill_clients(&mut client, |is_writer| is_writer),
        Fault::PauseAll | Fault::PauseWrites => {
            let mode = if step.fault == Fault::PauseAll { "ALL" } else { "WRITE" };
            let lasts = step.lasts.as_millis().to_string();
            cmd("CLIENT").arg(&["PAUSE", &lasts, mode]).exec(&mut client)?;
            thread::sleep(step.lasts);
            Ok(())
        }
        Fault::Reload => cmd("DEBUG").arg("RELOAD").exec(&mut client),
        other => unreachable!("{other:?} at clients"),
    }
}

/// Ends connections of ordinary clients.
fn kill_clients(client: &mut redis::Connection, chosen: impl Fn(bool) -> bool) -> RedisResult<()> {
    let list: String = cmd("CLIENT").arg(&["LIST", "TYPE", "normal"]).query(client)?;
    let own: u64 = cmd("CLIENT").arg("ID").query(client)?;
    for line in list.lines() {
        let field =
            |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or("");
        if field("id=") != own.to_string() && chosen(field("name=") == writers::NAME) {
            // It may have gone meanwhile, and then nothing is killed.
            let kill = ["KILL", "ID", field("id="), "SKIPME", "yes"];
            cmd("CLIENT").arg(&kill).exec(client)?;
        }
    }
    Ok(())
}
