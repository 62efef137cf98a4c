//! Taking over a peer's snapshot: read as it comes, applied entry by entry.
//!
//! The primary's entries replace what is here; what comes to the primary is only added.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tracing::info;

use super::LinkError;
use super::extra::KeySet;
use crate::apply::{Item, Kind};
use crate::observe::{LinkStatus, Snapshot};
use crate::position::{Checkpoint, Database, Position, SiteName};
use crate::rdb::{self, CommandLimits, Decoder, Entry, Limits, RdbVersion};
use crate::redis::{Flavour, ServerInfo};
use crate::resp;
use crate::write_off::{CHECKPOINT_KEY, checkpoint_fields};

/// How often progress goes to the log.
const PROGRESS: Duration = Duration::from_secs(10);
/// Elements and bytes in one native command, where an entry can't be restored as it is.
pub(super) const COMMAND_LIMITS: CommandLimits = CommandLimits { elements: 512, bytes: 1 << 20 };

/// What becomes of what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It stays: this site is the primary.
    Add,
    /// It stays where the peer has nothing.
    Replace,
    /// It goes, but for local writes that the peer has not seen.
    Mirror,
}

/// The state of one full sync.
pub(super) struct FullSync {
    at: Position,
    mode: Mode,
    /// All keys of the snapshot, as hashes, if others are to go.
    kept: Option<KeySet>,
    target: RdbVersion,
    decoder: Decoder,
    buffer: BytesMut,
    ended: bool,
    status: Arc<LinkStatus>,
    progress: Snapshot,
    told: Instant,
}

impl FullSync {
    pub(super) fn new(
        at: Position,
        keys: u64,
        mode: Mode,
        server: &ServerInfo,
        status: Arc<LinkStatus>,
    ) -> Self {
        let is_valkey = server.version.flavour == Flavour::Valkey;
        let now = Instant::now();
        let progress = Snapshot { since: now, bytes: 0, keys: 0, expected_keys: keys, done: false };
        status.update_snapshot(|shown| *shown = Some(progress.clone()));
        Self {
            at,
            mode,
            kept: (mode == Mode::Mirror).then(KeySet::default),
            target: RdbVersion::of_server(is_valkey, server.version.number),
            decoder: Decoder::new(Limits::default()),
            buffer: BytesMut::new(),
            ended: false,
            status,
            progress,
            told: now,
        }
    }

    /// What takes the old checkpoints of `site` away: until the snapshot is whole, there is none.
    pub(super) fn forget(site: &SiteName, checkpoints: &[(Database, Checkpoint)]) -> Vec<Item> {
        let mut out = BytesMut::new();
        let fields = checkpoint_fields(site);
        let mut words = vec![b"HDEL", CHECKPOINT_KEY];
        words.extend(fields.iter().map(String::as_bytes));
        resp::put_command(&mut out, &words);
        let command = out.freeze();
        let items = checkpoints.iter();
        items.map(|(database, _)| Item::new(*database, command.clone(), 1, Kind::Unit)).collect()
    }

    /// The entries that are whole with these bytes.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<Vec<Item>, LinkError> {
        self.buffer.extend_from_slice(bytes);
        self.progress.bytes += bytes.len() as u64;
        let mut items = Vec::new();
        while let Some(found) = self.decoder.decode(&mut self.buffer)? {
            match found {
                rdb::Item::Entry(entry) if &entry.key[..] == CHECKPOINT_KEY => {}
                rdb::Item::Entry(entry) => {
                    self.progress.keys += 1;
                    if let Some(kept) = &mut self.kept {
                        kept.add(Database(entry.db), &entry.key);
                    }
                    items.push(self.entry(&entry)?);
                }
                rdb::Item::Function { code } => items.push(self.function(&code)),
                rdb::Item::End => self.ended = true,
                rdb::Item::Header { .. } | rdb::Item::Aux { .. } | rdb::Item::ResizeDb { .. } => {}
            }
        }
        self.show();
        Ok(items)
    }

    /// The keys of the snapshot, once it is over, if others are to go.
    pub(super) fn take_kept(&mut self) -> Option<KeySet> {
        self.kept.take()
    }

    /// The snapshot is over; where it was taken.
    pub(super) fn finish(mut self) -> Result<Position, LinkError> {
        if !self.ended {
            return Err(LinkError::Broken("the snapshot ends in the middle".to_owned()));
        }
        self.progress.done = true;
        self.show();
        let seconds = self.progress.since.elapsed().as_secs_f64();
        let (keys, bytes) = (self.progress.keys, self.progress.bytes);
        info!(site = %self.status.site, keys, bytes, seconds, "the snapshot is received");
        Ok(self.at)
    }

    fn kind(&self) -> Kind {
        if self.mode == Mode::Add { Kind::EntryIfMissing } else { Kind::Entry }
    }

    fn entry(&self, entry: &Entry) -> Result<Item, LinkError> {
        let database = Database(entry.db);
        let mut out = BytesMut::new();
        let Some(payload) = entry.restore_payload(self.target) else {
            return self.native(entry);
        };
        let expires = entry.expires_at.unwrap_or(0).to_string();
        let idle = entry.idle.map(|seconds| seconds.to_string());
        let frequency = entry.frequency.map(|frequency| frequency.to_string());
        let mut words: Vec<&[u8]> =
            vec![b"RESTORE", &entry.key, expires.as_bytes(), &payload, b"ABSTTL"];
        if self.mode != Mode::Add {
            words.push(b"REPLACE");
        }
        if let Some(idle) = &idle {
            words.extend([&b"IDLETIME"[..], idle.as_bytes()]);
        } else if let Some(frequency) = &frequency {
            words.extend([&b"FREQ"[..], frequency.as_bytes()]);
        }
        resp::put_command(&mut out, &words);
        let key = Some(entry.key.clone());
        Ok(Item { key, ..Item::new(database, out.freeze(), 1, self.kind()) })
    }

    /// An entry that this server can't load as it is. All of it in one transaction; where entries
    /// are only added, it is built beside the key and takes its place if that is free.
    fn native(&self, entry: &Entry) -> Result<Item, LinkError> {
        let beside = [b"redis-duplex-incoming:", &entry.key[..]].concat();
        let mut built = entry.clone();
        if self.mode == Mode::Add {
            built.key = beside.clone().into();
        }
        let mut out = BytesMut::new();
        resp::put_command(&mut out, &[b"DEL", &built.key[..]]);
        let mut count = 1;
        built.to_commands(self.target, COMMAND_LIMITS, &mut |command: Vec<Bytes>| {
            resp::put_command(&mut out, &command);
            count += 1;
        })?;
        if self.mode == Mode::Add {
            resp::put_command(&mut out, &[b"RENAMENX", &beside[..], &entry.key[..]]);
            resp::put_command(&mut out, &[b"DEL", &beside[..]]);
            count += 2;
        }
        let key = Some(entry.key.clone());
        Ok(Item { key, ..Item::new(Database(entry.db), out.freeze(), count, self.kind()) })
    }

    fn function(&self, code: &Bytes) -> Item {
        let mut words: Vec<&[u8]> = vec![b"FUNCTION", b"LOAD"];
        if self.mode != Mode::Add {
            words.push(b"REPLACE");
        }
        words.push(code);
        let mut out = BytesMut::new();
        resp::put_command(&mut out, &words);
        Item::new(Database(0), out.freeze(), 1, self.kind())
    }

    fn show(&mut self) {
        let progress = self.progress.clone();
        self.status.update_snapshot(|shown| *shown = Some(progress));
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            let (keys, bytes) = (self.progress.keys, self.progress.bytes);
            let expected = self.progress.expected_keys;
            info!(site = %self.status.site, keys, expected, bytes, "a full sync goes on");
        }
    }
}
