//! A sidecar without sockets: the real source, journal, feed, link and applier, and the bytes
//! between them held here.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use bytesize::ByteSize;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::{ApplySetup, Item, Pipeline};
use crate::clock::Clock;
use crate::config::Policy;
use crate::config::{self, Flush, Fsync};
use crate::conflict::{Conflicts, KeyTable};
use crate::frame::Frame;
use crate::journal::{Journal, JournalError, UnitReader};
use crate::link::{Control, Intake, Link};
use crate::observe::{LinkStatus, Problems, SourceStatus};
use crate::pairing::Pairing;
use crate::position::{Checkpoint, Database, SiteName};
use crate::redis::{ServerInfo, Target};
use crate::source::{Place, Resume, Source, StreamReceiver};
use crate::write_off::WriteOffSet;

/// Links of sidecars that were, one for each start: what is under way borrows them.
pub(super) type Arena = Vec<OnceCell<Link>>;

static KEYS: LazyLock<KeyTable> = LazyLock::new(KeyTable::default);

/// What stays when a sidecar is killed.
pub(super) struct Disk {
    _dir: TempDir,
    pub config: config::Journal,
    boots: u32,
    /// Up to where the newest file is safe from a crash of the machine.
    synced: (PathBuf, u64),
}

impl Disk {
    pub(super) fn new(fsync: Fsync, cache: u64) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        // Where there is a file system in memory, forcing to disk costs nothing.
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let mut config = config::Journal { fsync, ..config::Journal::default() };
        config.cache = ByteSize::b(cache);
        config.dir = dir.path().join("journal");
        Self { _dir: dir, config, boots: 0, synced: (PathBuf::new(), 0) }
    }

    fn newest(&self) -> Option<(PathBuf, u64)> {
        let files = std::fs::read_dir(&self.config.dir).ok()?.map(|entry| entry.unwrap().path());
        let segments = files.filter(|path| path.extension().is_some_and(|e| e == "segment"));
        let newest = segments.max()?;
        let length = newest.metadata().unwrap().len();
        Some((newest, length))
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.newest().unwrap_or_default();
    }

    /// The machine crashes: of what was not forced to disk only a part is there.
    pub(super) fn crash_machine(&mut self, kept: f64) -> u64 {
        self.boots += 1;
        let Some((path, length)) = self.newest() else { return 0 };
        let safe = if path == self.synced.0 { self.synced.1 } else { 0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a file's size"
        )]
        #[expect(clippy::cast_precision_loss, reason = "any place will do")]
        let to = safe + ((length - safe) as f64 * kept) as u64;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(to).unwrap();
        length - to
    }

    pub(super) fn lose(&mut self) {
        if self.config.dir.is_dir() {
            std::fs::remove_dir_all(&self.config.dir).unwrap();
        }
    }

    fn open(&mut self, clock: Arc<Clock>) -> Result<Arc<Journal>, JournalError> {
        let journal = Journal::open_at_boot(&self.config, clock, &self.boots.to_string())?;
        self.sync();
        Ok(journal)
    }
}

/// The connection of the stream.
pub(super) struct Stream {
    pub receiver: StreamReceiver<'static>,
    pub input: BytesMut,
    /// Up to where bytes were delivered.
    pub at: u64,
}

/// A session of the link.
pub(super) struct Session<'a> {
    /// The connection to the local Redis.
    pub connection: u64,
    pub checkpoints: Vec<(Database, Checkpoint)>,
    /// None before the peer has answered, and again when there is no more to receive.
    pub intake: Option<Intake<'a>>,
    pub answered: bool,
    pub touched: watch::Receiver<u64>,
    sender: Option<mpsc::Sender<Vec<Item>>>,
    parcels: mpsc::Receiver<Vec<Item>>,
    pub queue: VecDeque<Vec<Item>>,
    pub input: BytesMut,
    pub pipeline: Pipeline,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        link: &'a Link,
        connection: u64,
        checkpoints: Vec<(Database, Checkpoint)>,
    ) -> Self {
        let (sender, parcels) = mpsc::channel(64);
        let pipeline = Pipeline::new(link.apply.clone(), "simulated".to_owned(), BytesMut::new());
        Self {
            connection,
            checkpoints,
            intake: None,
            answered: false,
            touched: link.checkpoint_touched.clone(),
            sender: Some(sender),
            parcels,
            queue: VecDeque::new(),
            input: BytesMut::new(),
            pipeline,
        }
    }

    /// The peer has answered.
    pub(super) fn begin(&mut self, link: &'a Link, server: ServerInfo) {
        let Some(sender) = self.sender.take() else { return };
        self.touched.mark_unchanged();
        self.answered = true;
        self.intake = Some(Intake::new(link, server, self.checkpoints.clone(), sender));
    }

    pub(super) async fn take(&mut self, frame: Frame) -> Result<(), String> {
        if let Some(intake) = &mut self.intake {
            intake.take(frame).await.map_err(|error| error.to_string())?;
        }
        self.empty_channel();
        Ok(())
    }

    /// Something may have taken the checkpoint away.
    pub(super) async fn rewrite(&mut self) -> Result<(), String> {
        if let Some(intake) = &mut self.intake {
            intake.write_checkpoint().await.map_err(|error| error.to_string())?;
        }
        self.empty_channel();
        Ok(())
    }

    /// Items go from the channel, which is bounded, to a queue, which is not.
    fn empty_channel(&mut self) {
        while let Ok(parcel) = self.parcels.try_recv() {
            self.queue.push_back(parcel);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.pipeline.pending.is_empty() && self.pipeline.is_idle()
    }
}

/// What is on its way from a feed to a link.
#[derive(Default)]
pub(super) struct Wire {
    pub bytes: BytesMut,
    /// Nothing more comes behind these bytes.
    pub ended: bool,
}

/// The running process.
pub(super) struct Sidecar<'a> {
    pub source: Source,
    pub journal: Arc<Journal>,
    pub clock: Arc<Clock>,
    pub link: &'a Link,
    /// It has been on the stream, so the port is served.
    pub attached: bool,
    pub stream: Option<Stream>,
    pub resume: Option<Resume>,
    pub session: Option<Session<'a>>,
    /// Reads for the peer's link.
    pub feed: Option<UnitReader>,
}

impl<'a> Sidecar<'a> {
    pub(super) fn start(
        disk: &mut Disk,
        slot: &'a OnceCell<Link>,
        (site, peer): (SiteName, SiteName),
        batch: (usize, usize),
    ) -> Result<Self, JournalError> {
        let clock = Arc::new(Clock::default());
        let journal = disk.open(clock.clone())?;
        let (write_off, problems) = (WriteOffSet::new(), Arc::<Problems>::default());
        let status = Arc::new(LinkStatus::new(peer.clone(), "simulated".to_owned(), 16 << 20));
        let touched = Arc::new(watch::Sender::new(0));
        let nowhere = Target::open("simulated");
        // What both sites may have written at once has a model of its own (`conflict::model`).
        let pairing = Pairing::new(peer.clone(), Conflicts::new(Policy::Off, false, 1 << 20));
        let apply = ApplySetup {
            site: peer.clone(),
            write_off: write_off.clone(),
            conflicts: pairing.conflicts.clone(),
            status: status.clone(),
            problems: problems.clone(),
            batch_commands: batch.0,
            batch_bytes: batch.1,
        };
        let link = Link {
            site,
            primary: None,
            peer: nowhere.clone(),
            target: nowhere.clone(),
            apply,
            status,
            pairing: pairing.clone(),
            control: Control::default(),
            keys: Arc::default(),
            clock: clock.clone(),
            problems: problems.clone(),
            flush: Flush::Stop,
            heartbeat: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            queue_bytes: 16 << 20,
            checkpoint_touched: touched.subscribe(),
        };
        let source = Source {
            target: nowhere,
            clock: clock.clone(),
            journal: journal.clone(),
            write_off,
            status: Arc::<SourceStatus>::default(),
            problems,
            peers: vec![pairing],
            checkpoint_touched: touched,
        };
        Ok(Self {
            resume: source.earlier_run(),
            source,
            journal,
            clock,
            link: slot.get_or_init(|| link),
            attached: false,
            stream: None,
            session: None,
            feed: None,
        })
    }

    /// Attached: what comes next is read with this.
    pub(super) fn read_stream(&mut self, place: &Place) {
        let receiver = self.source.receiver(place, &KEYS);
        let at = place.position.offset.0;
        self.stream = Some(Stream { receiver, input: BytesMut::new(), at });
        self.attached = true;
    }

    /// Takes what the stream has brought.
    pub(super) async fn take(&mut self) -> Result<(), String> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let stop = CancellationToken::new();
        let taken = stream.receiver.take(&mut stream.input, &self.source, &stop).await;
        taken.map(drop).map_err(|end| format!("the stream can't be read: {end}"))
    }

    /// The connection of the stream broke.
    pub(super) fn lose_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.resume = Some(self.source.left_off(&stream.receiver));
        }
    }
}
