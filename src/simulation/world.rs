//! Two sites, and the one who decides what happens next.

mod applying;
mod clients;
mod faults;
mod links;
mod sources;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::server::{Server, Style};
use super::sidecar::{Arena, Disk, Sidecar, Wire};
use super::{Mutation, Trace, check, say};
use crate::config::Fsync;
use crate::position::{Checkpoint, Offset, Position, SiteName};

/// Steps of a run until both links have begun, at most, and then until all is let come to rest.
const STEPS: usize = 400;
/// More than any run needs to come to rest.
const ROUNDS_TO_REST: usize = 3000;
/// What should not come any more has so much time to come.
const ROUNDS_AT_REST: usize = 20;
/// Starts of sidecars in a run.
const STARTS: usize = 80;

/// A snapshot without a key: version 9, the end, no checksum.
const EMPTY_SNAPSHOT: &[u8] = b"REDIS0009\xff\0\0\0\0\0\0\0\0";

pub(super) type Checked<T = ()> = Result<T, String>;

/// One site.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Site<'a> {
    pub name: SiteName,
    pub server: Server,
    pub disk: Disk,
    pub sidecar: Option<Sidecar<'a>>,
    /// What comes to this site's link.
    wire: Wire,
    /// Its history broke: the peer must take a full sync, which is not simulated.
    pub broke: Option<&'static str>,
    /// A local client took the checkpoint away.
    pub checkpoint_deleted: bool,
    /// The epoch of the server in which the journal began.
    pub journal_epoch: u32,
    /// Where it began; a crash of the machine may take the beginning, and then it stands in the
    /// history before.
    pub journal_began: Option<Position>,
    /// The one whose units the peer may be sent.
    pub peers_epoch: u32,
    /// Where the journal ends, as far as is known.
    reached: u64,
    /// Where a crash of the machine took the end of the journal, and it was not read again yet.
    torn: Option<u64>,
    lost_tail: bool,
    /// The journal holds what Redis has lost.
    pub ahead_of_redis: bool,
    /// The peer may have been sent what Redis has lost: all behind this.
    pub lost_from: Option<u64>,
    /// The newest checkpoint that was found, and the one before it.
    checkpoint: Option<Checkpoint>,
    older_checkpoint: Option<Checkpoint>,
    failovers: u32,
    /// Why Redis may refuse to go on with its stream.
    excused: bool,
    batch: (usize, usize),
    serial: u64,
}

pub(super) struct World<'a> {
    pub sites: [Site<'a>; 2],
    random: StdRng,
    arena: &'a Arena,
    starts: usize,
    steps: Vec<(Step, u32)>,
    mutation: Mutation,
    trace: &'a Trace,
    /// Both directions have begun, clients may write.
    begun: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Client,
    Ping,
    Start,
    Attach,
    Stream,
    Begin,
    Ask,
    Feed,
    Receive,
    Apply,
    Execute,
    Reply,
    Sync,
    PingFollowers,
    CutStream,
    CutLink,
    CutApply,
    Crash,
    CrashMachine,
    LoseRack,
    Lag,
    FailOver,
    Refuse,
    Restart,
    LoseDisk,
    DeleteCheckpoint,
}

const USUAL: [(Step, u32); 14] = [
    (Step::Client, 14),
    (Step::Ping, 2),
    (Step::Start, 6),
    (Step::Attach, 8),
    (Step::Stream, 16),
    (Step::Begin, 8),
    (Step::Ask, 8),
    (Step::Feed, 14),
    (Step::Receive, 14),
    (Step::Apply, 14),
    (Step::Execute, 18),
    (Step::Reply, 14),
    (Step::Sync, 2),
    (Step::PingFollowers, 1),
];

/// What may go wrong in a run, and in how many runs it does.
const FAULTS: [(f64, &[(Step, u32)]); 8] = [
    (0.9, &[(Step::CutStream, 2), (Step::CutLink, 2), (Step::CutApply, 2), (Step::Crash, 2)]),
    (0.4, &[(Step::CrashMachine, 2)]),
    (0.4, &[(Step::FailOver, 2), (Step::Lag, 4)]),
    (0.3, &[(Step::Refuse, 5)]),
    (0.15, &[(Step::Restart, 1)]),
    (0.2, &[(Step::LoseRack, 2), (Step::Lag, 4)]),
    (0.1, &[(Step::LoseDisk, 1)]),
    (0.15, &[(Step::DeleteCheckpoint, 1)]),
];

pub(super) fn arena() -> Arena {
    (0..STARTS).map(|_| std::cell::OnceCell::new()).collect()
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, mutation: Mutation, arena: &'a Arena, trace: &'a Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut steps = USUAL.to_vec();
        for (probability, faults) in FAULTS {
            if random.random_bool(probability) {
                steps.extend_from_slice(faults);
            }
        }
        say!(trace, "{:?}", &steps[USUAL.len()..]);
        let styles = [Style::Redis6, Style::Redis7, Style::Valkey9];
        let small_backlog = random.random_bool(0.15);
        let mut site = |name: &str| {
            let style = *styles.choose(&mut random).unwrap();
            let backlog = if small_backlog { random.random_range(300..4000) } else { 1 << 20 };
            let mut server = Server::new(style, backlog, &mut random);
            server.checkpoint_apart = mutation == Mutation::CheckpointApart;
            let fsync = if random.random_bool(0.1) { Fsync::Everysec } else { Fsync::No };
            let cache = if random.random_bool(0.1) { 0 } else { 1 << 20 };
            let batch = (random.random_range(1..12), random.random_range(50..2000));
            say!(trace, "site {name}: {style:?}, backlog {backlog}, batches up to {batch:?}");
            Site {
                name: name.parse().unwrap(),
                server,
                disk: Disk::new(fsync, cache),
                sidecar: None,
                wire: Wire::default(),
                broke: None,
                checkpoint_deleted: false,
                journal_epoch: 0,
                journal_began: None,
                peers_epoch: 0,
                reached: 0,
                torn: None,
                lost_tail: false,
                ahead_of_redis: false,
                lost_from: None,
                checkpoint: None,
                older_checkpoint: None,
                failovers: 0,
                excused: small_backlog,
                batch,
                serial: 0,
            }
        };
        let sites = [site("a"), site("b")];
        Self { sites, random, arena, starts: 0, steps, mutation, trace, begun: false }
    }

    /// Whether this is done wrong; all begins right.
    fn does(&self, mutation: Mutation) -> bool {
        self.begun && self.mutation == mutation
    }

    /// The whole run.
    pub(super) async fn run(&mut self) -> Checked {
        let steps = self.steps.clone();
        let (mut before, mut after) = (0, 0);
        while before < STEPS && after < STEPS {
            let (step, _) = *steps.choose_weighted(&mut self.random, |step| step.1).unwrap();
            let site = self.random.random_range(0..2);
            let is_usual = USUAL.iter().any(|usual| usual.0 == step);
            // The beginning is not to be broken off again and again.
            if self.begun || is_usual || self.random.random_bool(0.1) {
                self.step(step, site).await?;
            }
            *(if self.begun { &mut after } else { &mut before }) += 1;
        }
        self.come_to_rest().await?;
        check::at_rest(self).await
    }

    async fn come_to_rest(&mut self) -> Checked {
        say!(self.trace, "-- nothing new happens any more");
        for site in &mut self.sites {
            site.server.refusing = false;
        }
        let mut rounds_at_rest = 0;
        for _ in 0..ROUNDS_TO_REST {
            for (step, _) in &USUAL[2..12] {
                self.step(*step, 0).await?;
                self.step(*step, 1).await?;
            }
            rounds_at_rest = if self.is_at_rest() { rounds_at_rest + 1 } else { 0 };
            if rounds_at_rest == ROUNDS_AT_REST {
                return Ok(());
            }
        }
        Err(format!("it does not come to rest: {}", self.stands()))
    }

    fn stands(&self) -> String {
        let of = |at: usize| {
            let (here, from) = (&self.sites[at], &self.sites[1 - at]);
            format!(
                "{}: {} of {} units of {} applied; ",
                here.name,
                here.server.history.applied,
                from.server.history.local.len(),
                from.name
            )
        };
        of(0) + &of(1)
    }

    /// Everything that was written has gone as far as it can.
    fn is_at_rest(&self) -> bool {
        (0..2).all(|at| {
            let (here, there) = (&self.sites[at], &self.sites[1 - at]);
            let Some(sidecar) = &here.sidecar else { return false };
            let Some(stream) = &sidecar.stream else { return false };
            let given_up = there.broke.is_some() || here.checkpoint_deleted;
            let all = here.server.history.applied == there.server.history.local.len();
            let session = sidecar.session.as_ref();
            let idle = session.is_some_and(|session| session.is_done() && session.answered);
            stream.at == here.server.history.end() && (given_up || (all && idle))
        })
    }

    async fn step(&mut self, step: Step, at: usize) -> Checked {
        match step {
            Step::Client => self.client(at),
            Step::Ping => {
                let acknowledge = self.random.random_bool(0.2);
                self.sites[at].server.ping(acknowledge);
            }
            Step::Start => self.start(at)?,
            Step::Attach => self.attach(at).await?,
            Step::Stream => self.stream(at).await?,
            Step::Begin => self.begin_session(at),
            Step::Ask => self.ask(at).await?,
            Step::Feed => self.feed(at).await?,
            Step::Receive => self.receive(at).await?,
            Step::Apply => self.apply(at).await,
            Step::Execute => self.execute(at)?,
            Step::Reply => self.reply(at),
            Step::Sync => {
                if self.sites[at].sidecar.is_some() {
                    self.sites[at].disk.sync();
                }
            }
            Step::PingFollowers => {
                if let Some(sidecar) = &self.sites[at].sidecar {
                    sidecar.journal.ping().await.map_err(|error| error.to_string())?;
                }
            }
            _ => self.fault(step, at).await?,
        }
        self.grown(at)
    }

    /// Positions only grow.
    fn grown(&mut self, at: usize) -> Checked {
        let peer = self.sites[1 - at].name.clone();
        let site = &mut self.sites[at];
        if let Some(sidecar) = &site.sidecar {
            let head = sidecar.journal.head().position.offset.0;
            if head < site.reached {
                return Err(format!("{at}: the journal went back from {} to {head}", site.reached));
            }
            site.reached = head;
            if site.torn.is_some_and(|torn| torn <= head) {
                site.torn = None;
                site.lost_tail = false;
            }
        }
        let found = super::stored_checkpoints(&site.server, &peer);
        let newest = found.iter().map(|(_, from)| *from).max_by_key(|from| from.position.offset);
        let offset = |from: Option<Checkpoint>| from.map_or(Offset(0), |from| from.position.offset);
        if self.begun && !site.checkpoint_deleted && offset(newest) < offset(site.checkpoint) {
            return Err(format!("{at}: the checkpoint went back from {:?}", site.checkpoint));
        }
        if offset(newest) > offset(site.checkpoint) {
            site.older_checkpoint = site.checkpoint;
        }
        site.checkpoint = newest;
        Ok(())
    }
}
