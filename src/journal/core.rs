//! Writer and readers together: what is written becomes visible in the order in which it was
//! written, and not before it is as safe as the fsync policy asks.
//!
//! Two locks, taken in this order: the writer's (held while a record is written), then that of
//! what is visible (held for moments only, so that readers never wait for the disk).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::record::{Record, State};
use super::segment::{Join, Wanted};
use super::sync::Wishes;
use super::visible::Visible;
use super::writer::{Writer, Written};
use super::{Block, Head, JournalError, NotInJournal, PING, Reached};
use crate::clock::{Clock, Timestamp};
use crate::config::Fsync;
use crate::position::{Database, Position, ReplicationId};

#[derive(Debug)]
pub(super) struct Core {
    pub writer: Mutex<Writer>,
    pub visible: Mutex<Visible>,
    pub fsync: Fsync,
    pub max_size: u64,
    head: watch::Sender<Head>,
    /// Numbers up to this are visible; or why it will never go on.
    pub settled: watch::Sender<Result<u64, Arc<str>>>,
    pub wishes: Mutex<Wishes>,
    pub wished: Condvar,
    /// Forcing to disk has failed in this session: nothing more counts as on disk before it is
    /// written anew.
    pub lost: AtomicBool,
    clock: Arc<Clock>,
}

impl Core {
    pub(super) fn new(
        writer: Writer,
        visible: Visible,
        fsync: Fsync,
        max_size: u64,
        clock: Arc<Clock>,
    ) -> Self {
        let head = watch::Sender::new(visible.head());
        Self {
            writer: Mutex::new(writer),
            visible: Mutex::new(visible),
            fsync,
            max_size,
            head,
            settled: watch::Sender::new(Ok(0)),
            wishes: Mutex::default(),
            wished: Condvar::new(),
            lost: AtomicBool::new(false),
            clock,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    pub(super) fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    /// Writes what the stream brought. Its number, to be settled; the block stays with the caller
    /// on an error.
    pub(super) fn append(
        &self,
        block: &mut Option<Block>,
        reached: &Reached,
    ) -> Result<u64, JournalError> {
        let Reached { position, database, seen, floors } = reached;
        let mut writer = self.writer.lock();
        let state = &writer.state;
        if position.replid != state.position.replid {
            return Err(JournalError::Unfit("a block of another history".to_owned()));
        }
        let news = *state.seen != **seen;
        let risen = *state.floors != **floors;
        let block_is_none = block.is_none();
        let time = block_is_none.then(|| self.clock.take(1));
        let shared = block.take().map(|mut block| {
            block.first_timestamp = match block.first_timestamp {
                Timestamp(0) => self.clock.take(block.units.len() as u64),
                // It happened some time ago, but after what is here already.
                earlier => earlier.max(Timestamp(state.time.0 + 1)),
            };
            // And before what comes next, which may be in the same millisecond.
            self.clock.observe(block.timestamp(block.units.len().saturating_sub(1)));
            block.follower_start = state.follower;
            Arc::new(block)
        });
        let record = Record::Append {
            block: shared,
            offset: position.offset,
            database: Some(*database),
            seen: news.then(|| seen.clone()),
            floors: risen.then(|| floors.clone()),
            time,
        };
        if block_is_none {
            let written = writer.pass(record)?;
            return Ok(self.submit(&mut writer, written));
        }
        let written = writer.write(&record);
        if written.is_err()
            && let Record::Append { block: Some(shared), .. } = record
        {
            *block = Some(Arc::unwrap_or_clone(shared));
        }
        Ok(self.submit(&mut writer, written?))
    }

    pub(super) fn ping(&self) -> Result<u64, JournalError> {
        let mut writer = self.writer.lock();
        self.write_passed(&mut writer)?;
        let state = &writer.state;
        let at = state.position;
        let block = Block {
            replid: at.replid,
            start: at.offset,
            end: at.offset,
            follower_start: state.follower,
            first_timestamp: Timestamp(0),
            units: Vec::new(),
            seen: Vec::new(),
            payload: bytes::Bytes::from_static(PING),
        };
        let record = Record::Append {
            block: Some(Arc::new(block)),
            offset: at.offset,
            database: state.database,
            seen: None,
            time: None,
            floors: None,
        };
        let written = writer.write(&record)?;
        Ok(self.submit(&mut writer, written))
    }

    pub(super) fn rename(&self, replid: ReplicationId) -> Result<u64, JournalError> {
        let mut writer = self.writer.lock();
        if writer.state.position.replid == replid {
            return Ok(0);
        }
        self.write_passed(&mut writer)?;
        let written = writer.write(&Record::Rename(replid))?;
        Ok(self.submit(&mut writer, written))
    }

    pub(super) fn begin(
        &self,
        position: Position,
        database: Database,
        join: Join,
    ) -> Result<u64, JournalError> {
        let mut writer = self.writer.lock();
        // How far the stream had come counts for who stands at its end.
        self.write_passed(&mut writer)?;
        let state = writer.state.begun_anew(position, database);
        // Before anything came there was no history.
        let join = if writer.state.database.is_some() { join } else { Join::Anew };
        self.begin_segment(&mut writer, state, join)
    }

    pub(super) fn begin_segment(
        &self,
        writer: &mut Writer,
        state: State,
        join: Join,
    ) -> Result<u64, JournalError> {
        let written = writer.begin(state, join)?;
        Ok(self.submit(writer, written))
    }

    /// Writes how far the stream has come, where only readers were told so far.
    pub(super) fn write_passed(&self, writer: &mut Writer) -> Result<(), JournalError> {
        if let Some(written) = writer.write_passed()? {
            self.submit(writer, written);
        }
        Ok(())
    }

    fn submit(&self, writer: &mut Writer, written: Written) -> u64 {
        let number = written.number;
        if self.fsync == Fsync::Always {
            writer.waiting.push_back(written);
            self.wishes.lock().now = true;
            self.wished.notify_all();
        } else {
            self.show(writer, written);
        }
        number
    }

    /// Lets readers see what was written. The writer is locked, so the order is that of writing.
    pub(super) fn show(&self, writer: &mut Writer, written: Written) {
        let mut visible = self.visible.lock();
        visible.add(written);
        let kept = visible.oldest_sequence();
        writer.unsynced.retain(|file| file.sequence >= kept);
        if self.fsync == Fsync::No {
            writer.unsynced.clear();
        }
        self.head.send_replace(visible.head());
    }

    /// Waits until what has this number is visible.
    pub(super) async fn settle(&self, number: u64) -> Result<(), JournalError> {
        if self.fsync != Fsync::Always {
            return Ok(());
        }
        let mut settled = self.settled.subscribe();
        let done =
            settled.wait_for(|settled| settled.as_ref().map_or(true, |upto| *upto >= number)).await;
        match done.as_deref() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(reason)) => Err(JournalError::Sync(reason.clone())),
            Err(_) => Err(JournalError::Closed),
        }
    }

    pub(super) fn reader_at(&self, wanted: Wanted) -> Result<u64, NotInJournal> {
        let visible = self.visible.lock();
        visible.check_kept(wanted)?;
        Ok(visible.epoch)
    }
}
