//! Opening a journal: the lock on its directory, what is there, and where the new session begins.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::core::Core;
use super::record::{Record, Session, State};
use super::recover::{Recovered, recover};
use super::segment::{Head, Join, PRIVATE, Segment, SegmentFile};
use super::visible::Visible;
use super::writer::Writer;
use super::{FIRST_FOLLOWER_OFFSET, JournalError, intact};
use crate::clock::Clock;
use crate::config::{self, Fsync};
use crate::position::ReplicationId;

/// The file that is locked.
const LOCK: &str = "lock";
/// A journal has about so many segments, so that dropping one drops little of it.
const SEGMENTS: u64 = 16;
/// A segment is not made smaller than this..
const MIN_SEGMENT: u64 = 1 << 20;
/// ..and not larger: the writer removes the oldest itself.
const MAX_SEGMENT: u64 = 64 << 20;
/// Another text at each boot of the machine (Linux, random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The lock on a journal's directory.
#[derive(Debug)]
pub(super) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough while a process that was forked just now still has the file.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            warn!(%error, "can't unlock the journal's directory");
        }
    }
}

/// This boot of the machine. One that can't be told is like no other: then a crash of the machine
/// is assumed.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID)
        .map_or_else(|_| ReplicationId::random().to_string(), |text| text.trim().to_owned())
}

/// Opens the journal in its directory, which stays locked as long as the lock lives.
pub(super) fn open(
    config: &config::Journal,
    clock: Arc<Clock>,
    boot: &str,
) -> Result<(Core, DirectoryLock), JournalError> {
    let dir = &config.dir;
    let lock = lock(dir)?;
    let max_size = config.max_size.as_u64();
    let size = (max_size / SEGMENTS).clamp(MIN_SEGMENT, MAX_SEGMENT);
    let cache = usize::try_from(config.cache.as_u64()).unwrap_or(usize::MAX);
    let session = Session { boot: boot.to_owned(), always: config.fsync == Fsync::Always };
    let failed = |source| JournalError::Open { path: dir.clone(), source };
    // What a disk lost is as after a crash of the machine: no boot is the one that is known.
    let known = if intact::is(dir).map_err(failed)? {
        boot
    } else {
        intact::write_anew(dir).map_err(failed)?;
        ""
    };
    let (found, known) = match recover(dir, known)? {
        Some(recovered) => (recovered, known),
        None => (first_segment(dir, &session)?, boot),
    };
    clock.observe(found.state.time);
    let (Some(last), state) = (found.segments.back(), found.state.clone()) else {
        return Err(JournalError::Unfit("no segment".to_owned()));
    };
    let place = (last.records, last.end);
    let mut writer =
        Writer::new(dir.clone(), session.clone(), state.clone(), last.file.clone(), place);
    writer.segment_size = size;
    writer.synced = found.synced;
    if config.fsync != Fsync::No {
        let all = found.pasts.iter().flat_map(|past| &past.segments).chain(&found.segments);
        let unsynced = all.filter(|s| s.file.sequence >= found.synced);
        writer.unsynced = unsynced.map(|segment| segment.file.clone()).collect();
    }
    let written = if found_other_boot(&found, known) {
        // Its head says that all before was read and is on disk.
        writer.synced = last.file.sequence + 1;
        let follower_id = follower_id(&found, known);
        writer.begin(State { follower_id, ..state.clone() }, Join::GoesOn)?
    } else {
        writer.write(&Record::Open(session))?
    };
    info!(
        dir = %dir.display(), position = %state.position, units = state.units,
        "the journal is open"
    );
    let visible =
        Visible::new(state, (found.began, found.segments), found.pasts, (cache, max_size, size));
    let core = Core::new(writer, visible, config.fsync, max_size, clock);
    {
        let mut writer = core.writer.lock();
        core.show(&mut writer, written);
        let file = writer.file.clone();
        writer.unsynced.push(file);
    }
    // A session that is not on disk could not be told from a clean end after a crash.
    core.sync()?;
    intact::set(dir).map_err(failed)?;
    Ok((core, lock))
}

fn found_other_boot(found: &Recovered, boot: &str) -> bool {
    found.session.boot != boot
}

/// Followers may have been sent what a crash of the machine took: then they must not go on.
fn follower_id(found: &Recovered, boot: &str) -> ReplicationId {
    if found.machine_crashed(boot) && (found.cut || !found.session.always) {
        warn!(
            "the machine went down without a clean end, or the disk lost something: followers take \
             a full sync"
        );
        return ReplicationId::random();
    }
    found.state.follower_id
}

fn first_segment(dir: &Path, session: &Session) -> Result<Recovered, JournalError> {
    let state = State::nowhere(FIRST_FOLLOWER_OFFSET);
    let head = Head { join: Join::Anew, synced: 0, session: session.clone(), state: state.clone() };
    let (file, records) = SegmentFile::create(dir, 1, &head)
        .map_err(|source| JournalError::Open { path: dir.to_owned(), source })?;
    let segment = Segment::new(Arc::new(file), records, &state);
    Ok(Recovered::first(segment, state, session.clone()))
}

fn lock(dir: &Path) -> Result<DirectoryLock, JournalError> {
    let failed = |source| JournalError::Open { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(dir.join(LOCK))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse { dir: dir.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}
