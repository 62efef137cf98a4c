//! Forcing the journal to disk: on a thread of its own, since it takes milliseconds and more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, info};

use super::JournalError;
use super::core::Core;
use super::intact;
use super::record::Record;
use crate::config::Fsync;

/// How often `everysec` forces to disk.
const EVERY_SECOND: Duration = Duration::from_secs(1);

/// What the thread that forces to disk is to do.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub now: bool,
    pub stop: bool,
}

impl Core {
    /// Forces all that was written to disk, and lets readers see what waits for that.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        let (files, new_file, nothing, dir, number, sequence) = {
            let mut writer = self.writer.lock();
            let files = std::mem::take(&mut writer.unsynced);
            let new_file = std::mem::take(&mut writer.new_file);
            let nothing = files.is_empty() && !new_file && writer.waiting.is_empty();
            (files, new_file, nothing, writer.dir.clone(), writer.numbers, writer.file.sequence)
        };
        if nothing {
            return Ok(());
        }
        let mut done = files.iter().try_for_each(|file| file.file.sync_data());
        if new_file {
            // Else the file may be gone after a crash of the machine, whatever was forced into it.
            done = done.and_then(|()| std::fs::File::open(&dir)?.sync_all());
        }
        let mut writer = self.writer.lock();
        if let Err(error) = done {
            let mut files = files;
            files.append(&mut writer.unsynced);
            files.dedup_by_key(|file| file.sequence);
            writer.unsynced = files;
            writer.new_file |= new_file;
            if !self.lost.swap(true, Ordering::Relaxed)
                && let Err(error) = intact::unset(&dir)
            {
                error!(%error, dir = %dir.display(), "the journal can't be told as broken");
            }
            return Err(JournalError::Sync(format!("{}: {error}", dir.display()).into()));
        }
        if self.fsync != Fsync::No && !self.lost.load(Ordering::Relaxed) {
            writer.synced = writer.synced.max(sequence);
        }
        while writer.waiting.front().is_some_and(|written| written.number <= number) {
            if let Some(written) = writer.waiting.pop_front() {
                self.show(&mut writer, written);
            }
        }
        self.settled.send_modify(|settled| *settled = Ok(number));
        Ok(())
    }

    /// Forces to disk as the policy asks, until it is told to stop.
    pub(super) fn keep_syncing(&self) {
        let mut failing = false;
        while self.wait_for_wish() {
            match self.sync() {
                Ok(()) => {
                    if failing {
                        info!("the journal can be forced to disk again");
                    }
                    failing = false;
                }
                Err(failure) if self.fsync == Fsync::Always => {
                    // What the system failed to write once it may tell as written the next time.
                    error!(%failure, "the journal can't be forced to disk: restart the sidecar");
                    let JournalError::Sync(reason) = &failure else { return };
                    self.settled.send_modify(|settled| *settled = Err(reason.clone()));
                    self.writer.lock().ended = Some(failure);
                    return;
                }
                Err(failure) => {
                    if !failing {
                        error!(%failure, "the journal can't be forced to disk, trying again");
                    }
                    failing = true;
                }
            }
        }
    }

    /// Whether there is more to do.
    fn wait_for_wish(&self) -> bool {
        let mut wishes = self.wishes.lock();
        while !wishes.stop && !wishes.now {
            if self.fsync == Fsync::Always {
                self.wished.wait(&mut wishes);
            } else {
                wishes.now = self.wished.wait_for(&mut wishes, EVERY_SECOND).timed_out();
            }
        }
        wishes.now = false;
        !wishes.stop
    }

    pub(super) fn stop_syncing(&self) {
        self.wishes.lock().stop = true;
        self.wished.notify_all();
    }

    /// Marks the clean end of the session, on disk. No thread forces to disk any more.
    pub(super) fn close(&self) -> Result<(), JournalError> {
        let mut ended = None;
        {
            let mut writer = self.writer.lock();
            match &writer.ended {
                None => {}
                Some(JournalError::Closed) => return Ok(()),
                // What could not be forced to disk must not be marked as if it had been.
                Some(ended) => return Err(ended.again()),
            }
            if let Err(error) = self.write_passed(&mut writer) {
                ended = Some(error);
            }
            let all = self.visible.lock().segments.iter().map(|s| s.file.clone()).collect();
            if !self.lost.load(Ordering::Relaxed) {
                match writer.write(&Record::Close) {
                    Ok(written) => writer.waiting.push_back(written),
                    Err(error) => ended = Some(error),
                }
            }
            writer.ended = Some(JournalError::Closed);
            let unsynced = std::mem::replace(&mut writer.unsynced, all);
            writer.unsynced.extend(unsynced);
        }
        self.sync()?;
        ended.map_or(Ok(()), Err)
    }
}
