//! One snapshot for all followers that ask for one at the same time: read from the local Redis as
//! fast as it sends, into a file without a name beside the journal, and from there sent to each
//! follower as fast as that one takes it. A slow follower costs disk, and Redis nothing.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{debug, info};

use super::snapshot::{Snapshot, SnapshotError};
use crate::backoff::Backoff;
use crate::journal::Journal;
use crate::position::Position;
use crate::redis::{SnapshotPart, Target};

/// How old a snapshot may be to be given to one more follower, which then reads so much more of
/// the journal.
const FRESH: Duration = Duration::from_mins(1);
/// How long a local Redis that is away is waited for. Syncers expect an answer within 60 s.
const AWAY: Duration = Duration::from_secs(50);

/// Where followers get snapshots.
#[derive(Debug)]
pub struct Snapshots {
    target: Target,
    /// Where the files are.
    directory: PathBuf,
    last: Mutex<Weak<Spool>>,
    tasks: TaskTracker,
}

/// A snapshot, in its file or on its way there.
#[derive(Debug)]
pub(super) struct Spool {
    /// Where it was cut.
    pub(super) at: Position,
    since: Instant,
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    /// Reads on for as long as a follower wants it.
    _filling: AbortOnDropHandle<()>,
}

/// How much of it is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// The length, or the mark behind the last byte, once Redis said so.
    pub(super) head: Option<Result<u64, Bytes>>,
    /// Bytes in the file.
    pub(super) written: u64,
    /// It is over, or why there will be no more of it.
    pub(super) end: Option<Result<(), String>>,
}

impl Snapshots {
    /// Snapshots of `target`, with files in `directory`.
    pub fn new(target: Target, directory: PathBuf) -> Self {
        Self { target, directory, last: Mutex::default(), tasks: TaskTracker::new() }
    }

    /// A snapshot that the journal holds all that follows of. Waits for a local Redis that is away.
    pub(super) async fn get(&self, journal: &Journal) -> Result<Arc<Spool>, SnapshotError> {
        // Who asks meanwhile waits here, and then finds this one.
        let mut last = self.last.lock().await;
        if let Some(spool) = last.upgrade()
            && spool.is_of_use(journal)
        {
            info!(position = %spool.at, "a follower gets the snapshot that others are sent");
            return Ok(spool);
        }
        let spool = Arc::new(self.begin_patiently(journal).await?);
        *last = Arc::downgrade(&spool);
        Ok(spool)
    }

    async fn begin_patiently(&self, journal: &Journal) -> Result<Spool, SnapshotError> {
        let since = Instant::now();
        let mut backoff = Backoff::for_connections();
        loop {
            match self.begin(journal).await {
                Err(SnapshotError::Redis(error))
                    if error.is_passing() && since.elapsed() < AWAY =>
                {
                    debug!(%error, "no snapshot for a follower yet");
                    tokio::time::sleep(backoff.wait()).await;
                }
                other => return other,
            }
        }
    }

    async fn begin(&self, journal: &Journal) -> Result<Spool, SnapshotError> {
        let file = private_file(&self.directory)?;
        let expected = journal.expect_snapshot();
        let snapshot = Snapshot::begin(&self.target, true).await?;
        let at = snapshot.at;
        expected.cut(at.offset);
        snapshot.caught_up(journal).await?;
        let (sender, progress) = watch::channel(Progress::default());
        let writer = tokio::fs::File::from_std(file.try_clone()?);
        let filling = self.tasks.spawn(fill(snapshot, writer, sender));
        Ok(Spool {
            at,
            since: Instant::now(),
            file: Arc::new(file),
            progress,
            _filling: AbortOnDropHandle::new(filling),
        })
    }
}

impl Spool {
    fn is_of_use(&self, journal: &Journal) -> bool {
        let failed = matches!(self.progress.borrow().end, Some(Err(_)));
        let same_history = journal.head().position.replid == self.at.replid;
        !failed && same_history && self.since.elapsed() < FRESH
    }

    /// Follows how much is there.
    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Exactly these bytes, which must be there.
    pub(super) async fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)?;
            Ok(bytes)
        });
        read.await.map_err(io::Error::other)?
    }
}

/// A file without a name, for nobody else to read: where the system has such files, they are made as
/// the umask says.
fn private_file(directory: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

async fn fill(
    mut snapshot: Snapshot,
    mut file: tokio::fs::File,
    progress: watch::Sender<Progress>,
) {
    let end = loop {
        match snapshot.next().await {
            Ok(SnapshotPart::Head(head)) => progress.send_modify(|now| now.head = Some(head)),
            Ok(SnapshotPart::Bytes(bytes)) => {
                let written = async {
                    file.write_all(&bytes).await?;
                    // It is only in the file, for others to read, once this is done.
                    file.flush().await
                };
                if let Err(error) = written.await {
                    break Err(format!("it can't be written to disk: {error}"));
                }
                progress.send_modify(|now| now.written += bytes.len() as u64);
            }
            Ok(SnapshotPart::End) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    progress.send_modify(|now| now.end = Some(end));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let file = private_file(directory.path()).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
