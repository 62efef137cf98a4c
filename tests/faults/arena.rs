//! Two sites whose networks go through relays, a round on them, and what must hold after it.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use redis::cmd;

use crate::lanes;
use crate::ledger::{Fate, Ledger, Violation};
use crate::options::Kind;
use crate::report::Outcome;
use crate::schedule::{Place, SITES, Schedule};
use crate::support::eventually;
use crate::support::pair::Pair;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;
use crate::support::sidecar::{Builder, Sidecar};
use crate::writers::{Writers, torn_transactions};

/// What is acknowledged survives a kill; a sidecar that is away finds all it missed in the backlog;
/// and Redis's own PINGs don't move offsets that are to stand still.
const REDIS: [&str; 8] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--repl-backlog-size",
    "64mb",
    "--repl-ping-replica-period",
    "3600",
];

/// How long two sites may take to become equal after all is healed: the longest wait between two
/// tries is 5 s, and after a full sync there may be another one.
const CATCH_UP: Duration = Duration::from_secs(40);
/// How long the streams must stand still: many round trips of a loop.
const STILL: Duration = Duration::from_millis(400);
/// Within this time they must come to rest.
const COME_TO_REST: Duration = Duration::from_secs(10);

/// Where both sites have a key, a full sync leaves this site's value: so what the other site wrote
/// while nobody read is lost with it. `--strict` does not put up with that.
const PRIMARY: &str = SITES[0];

/// Keys begin with the site that writes them.
fn is_of_primary(key: &str) -> bool {
    key.split(':').next() == Some(PRIMARY)
}

#[derive(Debug)]
pub struct Arena {
    pair: Pair,
    /// On which the peer reaches each site's sidecar.
    links: [Relay; 2],
    /// On which each site's sidecar reaches its Redis.
    locals: [Relay; 2],
    strict: bool,
    // Goes last: the check of the logs, when sidecars go, can fail a round too.
    story: Story,
}

/// What is told when a round fails.
#[derive(Debug)]
struct Story {
    repeat: String,
    schedule: String,
}

impl Arena {
    /// Two sites that stream.
    pub fn start(schedule: &Schedule, repeat: String, strict: bool) -> Self {
        let (a, b) = (RedisServer::start_with(&REDIS), RedisServer::start_with(&REDIS));
        let locals = [Relay::start(&a.addr()), Relay::start(&b.addr())];
        let builder = |site: usize, server| {
            let builder = Builder::new(SITES[site], server).redis_addr(&locals[site].addr());
            builder.setting("link", "timeout = \"1s\"\nheartbeat = \"200ms\"")
        };
        let (for_a, for_b) = (builder(0, &a), builder(1, &b));
        let links = [Relay::start(&for_a.addr()), Relay::start(&for_b.addr())];
        let mut sidecar_a = for_a.peer("b", &links[1].addr()).start_without_waiting();
        let mut sidecar_b = for_b.peer("a", &links[0].addr()).start();
        sidecar_a.wait_ready();
        for sidecar in [&mut sidecar_a, &mut sidecar_b] {
            sidecar.allow_breaks();
            if schedule.kind == Kind::Restart {
                sidecar.allow_log("the local Redis could not continue its stream");
            }
        }
        let pair = Pair { sidecar_a, sidecar_b, a, b };
        let faults: Vec<String> = schedule.steps.iter().map(ToString::to_string).collect();
        let story = Story { repeat, schedule: faults.join("\n") };
        let arena = Self { pair, links, locals, strict, story };
        arena.pair.wait_streaming();
        arena
    }

    /// Writes, faults, healing, checks.
    pub fn run(mut self, schedule: &Schedule) -> Outcome {
        let syncs_before = self.full_syncs();
        let began = Instant::now();
        let writers = Writers::start([&self.pair.a, &self.pair.b], schedule.kind, schedule.seed);
        self.strike(schedule);
        let healed = Instant::now();
        let ledger = writers.stop();
        self.pair.wait_equal(CATCH_UP);
        let equal_after = healed.elapsed();
        self.pair.wait_streaming();
        self.check_ways();
        self.wait_still();
        self.pair.wait_equal(COME_TO_REST);
        let lost = self.check(&ledger, schedule.kind);
        let syncs = [0, 1].map(|site| self.full_syncs()[site] - syncs_before[site]);
        if schedule.kind == Kind::Resume {
            assert_eq!(syncs, [0, 0], "nothing broke that needs a full sync");
        }
        Outcome {
            writes: ledger.count(Fate::Done),
            unknown: ledger.count(Fate::Unknown),
            lost,
            full_syncs: syncs.iter().sum(),
            equal_after,
            took: began.elapsed(),
        }
    }

    /// Something that is written at either site arrives at the other.
    fn check_ways(&self) {
        let servers = [&self.pair.a, &self.pair.b];
        for (from, to) in [(0, 1), (1, 0)] {
            let key = format!("{}:probe", SITES[from]);
            cmd("SET").arg(&key).arg(1).exec(&mut servers[from].client()).unwrap();
            eventually("a write to arrive at the other site", COME_TO_REST, || {
                cmd("EXISTS").arg(&key).query(&mut servers[to].client()).unwrap()
            });
        }
    }

    /// Checks both servers, which agree, against the ledger; how many acknowledged writes were
    /// lost where that is known to happen.
    fn check(&self, ledger: &Ledger, kind: Kind) -> usize {
        let loses = kind == Kind::Restart && !self.strict;
        let mut lost = 0;
        let mut found = Vec::new();
        for (site, server) in SITES.iter().zip([&self.pair.a, &self.pair.b]) {
            for (cell, violation) in ledger.violations(server) {
                let known = loses && !is_of_primary(&cell.key);
                match violation {
                    Violation::Lost(count, _) if known && *site == PRIMARY => lost += count,
                    Violation::Lost(..) if known => {}
                    Violation::Lost(_, what) | Violation::Wrong(what) => {
                        found.push(format!("at {site}: {cell}: {what}"));
                    }
                }
            }
            let torn = torn_transactions(server);
            let new = torn.into_iter().filter(|(key, _)| !loses || is_of_primary(key));
            found.extend(new.map(|(key, what)| format!("at {site}: {key}: {what}")));
        }
        assert!(found.is_empty(), "the sites agree, but\n{}", found.join("\n"));
        lost
    }

    /// Carries out the whole schedule; at its end everything is up again.
    fn strike(&mut self, schedule: &Schedule) {
        let began = Instant::now();
        let kind = schedule.kind;
        let Pair { sidecar_a, sidecar_b, a, b } = &mut self.pair;
        let (links, locals) = (&self.links, &self.locals);
        let sites = [(sidecar_a, a), (sidecar_b, b)];
        thread::scope(|scope| {
            for (site, (sidecar, server)) in sites.into_iter().enumerate() {
                let at = move |place| schedule.at(site, place);
                let port = server.port();
                scope.spawn(move || {
                    lanes::walk(began, at(Place::Redis), |step| lanes::at_redis(server, step));
                });
                scope.spawn(move || {
                    lanes::walk(began, at(Place::Sidecar), |step| lanes::at_sidecar(sidecar, step));
                });
                for (place, relay) in [(Place::Link, &links[site]), (Place::Local, &locals[site])] {
                    scope.spawn(move || {
                        lanes::walk(began, at(place), |step| lanes::at_relay(relay, step));
                    });
                }
                scope.spawn(move || {
                    let clients = at(Place::Clients);
                    lanes::walk(began, clients, |step| lanes::at_clients(port, kind, step));
                });
            }
        });
    }

    /// Full syncs that each site has taken. INFO begins at 0 with each process, the log does not.
    fn full_syncs(&self) -> [usize; 2] {
        self.sidecars().map(|sidecar| sidecar.log().matches("a full sync begins").count())
    }

    fn sidecars(&self) -> [&Sidecar; 2] {
        [&self.pair.sidecar_a, &self.pair.sidecar_b]
    }

    /// Waits until neither stream moves any more: what a sidecar wrote does not come back.
    fn wait_still(&self) {
        let offsets = || {
            [&self.pair.a, &self.pair.b].map(|server| {
                server.info("replication")["master_repl_offset"].parse::<u64>().unwrap()
            })
        };
        eventually("both streams to stand still", COME_TO_REST, || {
            let (before, since) = (offsets(), Instant::now());
            while since.elapsed() < STILL {
                if offsets() != before {
                    return false;
                }
                thread::sleep(STILL / 8);
            }
            true
        });
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let name: String = self.story.repeat.chars().filter(char::is_ascii_digit).collect();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}"));
        eprintln!("all logs are in {}", dir.display());
        // A round that fails already must not fail once more here.
        std::fs::create_dir_all(&dir).ok();
        for (site, sidecar) in SITES.iter().zip(self.sidecars()) {
            std::fs::write(dir.join(format!("sidecar-{site}.log")), sidecar.log()).ok();
        }
        for (site, server) in SITES.iter().zip([&self.pair.a, &self.pair.b]) {
            std::fs::copy(server.dir().join("log"), dir.join(format!("redis-{site}.log"))).ok();
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self { repeat, schedule } = self;
            eprintln!(
                "the schedule of the round that failed:\n{schedule}\nrepeat it by\n    {repeat}"
            );
        }
    }
}
