//! The end of the journal that is written to.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tracing::{error, info};

use super::record::{Record, Session, State, put_frame};
use super::segment::{Head, Join, Segment, SegmentFile};
use super::{Block, JournalError};

/// How often it is written how far the stream has come without a unit. Under a peer's load it comes
/// with each read, and would take room from units.
const PASSED_INTERVAL: Duration = Duration::from_secs(1);
/// A buffer that grew larger than this is given back: a unit may be as large as 512 MiB.
const KEPT_BUFFER: usize = 1 << 20;

/// What was written, for readers.
#[derive(Debug)]
pub(super) struct Written {
    /// Counts what was written in this session.
    pub number: u64,
    /// All up to here.
    pub state: State,
    pub block: Option<Arc<Block>>,
    /// Where its record begins and ends.
    pub at: u64,
    pub end: u64,
    /// The segment that was begun for it.
    pub segment: Option<Segment>,
    /// How it follows what was before.
    pub join: Join,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub dir: PathBuf,
    pub session: Session,
    /// A segment is not made larger than this, but for a record that is larger itself.
    pub segment_size: u64,
    /// All that was written.
    pub state: State,
    pub file: Arc<SegmentFile>,
    /// Where the next record goes.
    pub end: u64,
    /// Where the segment's first record stands.
    pub records: u64,
    /// Segments of a lower sequence are on disk.
    pub synced: u64,
    /// Written to since the last time all was forced to disk.
    pub unsynced: Vec<Arc<SegmentFile>>,
    /// A file was made since then.
    pub new_file: bool,
    /// Written, and not yet on disk where it must be before anyone may see it.
    pub waiting: VecDeque<Written>,
    pub numbers: u64,
    /// Why nothing can be written any more.
    pub ended: Option<JournalError>,
    /// How far the stream has come without a unit, since the last record: nothing needs to be
    /// written for that at once, the same is read again after a crash.
    passed: Option<Record>,
    passed_written: Instant,
    failing: bool,
    /// Part of a record may stand behind the end.
    ragged: bool,
    begun: Option<Segment>,
    buffer: BytesMut,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        session: Session,
        state: State,
        file: Arc<SegmentFile>,
        (records, end): (u64, u64),
    ) -> Self {
        Self {
            dir,
            session,
            segment_size: u64::MAX,
            state,
            synced: 0,
            unsynced: vec![file.clone()],
            file,
            end,
            records,
            new_file: true,
            waiting: VecDeque::new(),
            numbers: 0,
            ended: None,
            passed: None,
            passed_written: Instant::now(),
            failing: false,
            ragged: false,
            begun: None,
            buffer: BytesMut::new(),
        }
    }

    /// Writes a record, in a new segment if it has no room. On an error nothing has changed.
    pub(super) fn write(&mut self, record: &Record) -> Result<Written, JournalError> {
        let done = self.try_write(record);
        self.tell(&done);
        done
    }

    /// The stream went on without a unit: readers are told, and now and then it is written.
    pub(super) fn pass(&mut self, record: Record) -> Result<Written, JournalError> {
        // A peer that has seen nothing before has now: without that it would have to begin anew.
        let first_seen = match &record {
            Record::Append { floors: Some(floors), .. } => {
                floors.0.len() > self.state.floors.0.len()
            }
            _ => false,
        };
        if first_seen || self.passed_written.elapsed() >= PASSED_INTERVAL {
            self.passed_written = Instant::now();
            return self.write(&record);
        }
        self.usable()?;
        let mut state = self.state.clone();
        state.add(&record).map_err(|error| JournalError::Unfit(error.to_string()))?;
        self.passed = Some(record);
        Ok(Written { state, ..self.written(None, self.end, Join::GoesOn) })
    }

    /// Writes what was passed and is not written yet.
    pub(super) fn write_passed(&mut self) -> Result<Option<Written>, JournalError> {
        let Some(record) = self.passed.take() else { return Ok(None) };
        let written = self.write(&record);
        if written.is_err() {
            self.passed = Some(record);
        }
        written.map(Some)
    }

    /// Begins a new segment that stands for a state of its own: another history, another session.
    pub(super) fn begin(&mut self, state: State, join: Join) -> Result<Written, JournalError> {
        let done = self.usable().and_then(|()| self.roll(state, join));
        self.tell(&done);
        done?;
        Ok(self.written(None, self.end, join))
    }

    fn try_write(&mut self, record: &Record) -> Result<Written, JournalError> {
        self.usable()?;
        let mut state = self.state.clone();
        state.add(record).map_err(|error| JournalError::Unfit(error.to_string()))?;
        self.buffer.clear();
        put_frame(&mut self.buffer, |out| record.put(out))
            .map_err(|error| JournalError::Unfit(error.to_string()))?;
        let size = self.buffer.len() as u64;
        if self.end + size > self.segment_size && self.end > self.records {
            self.roll(self.state.clone(), Join::GoesOn)?;
        }
        let at = self.end;
        // Now anything up to the whole of it may stand there.
        self.ragged = true;
        if let Err(source) = self.file.file.write_all_at(&self.buffer, at) {
            // At the latest before the next write it must go.
            self.ragged = self.file.file.set_len(at).is_err();
            return Err(JournalError::Write { path: self.file.path.clone(), source });
        }
        self.ragged = false;
        self.end += size;
        self.state = state;
        // It tells more than what was passed before it.
        self.passed = None;
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = BytesMut::new();
        }
        if self.unsynced.last().is_none_or(|last| last.sequence != self.file.sequence) {
            self.unsynced.push(self.file.clone());
        }
        let block = match record {
            Record::Append { block, .. } => block.clone(),
            _ => None,
        };
        Ok(self.written(block, at, Join::GoesOn))
    }

    fn written(&mut self, block: Option<Arc<Block>>, at: u64, join: Join) -> Written {
        self.numbers += 1;
        Written {
            number: self.numbers,
            state: self.state.clone(),
            block,
            at,
            end: self.end,
            segment: self.begun.take(),
            join,
        }
    }

    fn usable(&mut self) -> Result<(), JournalError> {
        if let Some(ended) = &self.ended {
            return Err(ended.again());
        }
        if self.ragged {
            self.file
                .file
                .set_len(self.end)
                .map_err(|source| JournalError::Write { path: self.file.path.clone(), source })?;
            self.ragged = false;
        }
        Ok(())
    }

    fn roll(&mut self, state: State, join: Join) -> Result<(), JournalError> {
        let sequence = self.file.sequence + 1;
        let head = Head { join, synced: self.synced, session: self.session.clone(), state };
        let (file, records) =
            SegmentFile::create(&self.dir, sequence, &head).map_err(|source| {
                JournalError::Write { path: SegmentFile::path(&self.dir, sequence), source }
            })?;
        self.file = Arc::new(file);
        self.begun = Some(Segment::new(self.file.clone(), records, &head.state));
        self.state = head.state;
        self.passed = self.passed.take().filter(|_| head.join == Join::GoesOn);
        (self.records, self.end) = (records, records);
        self.unsynced.push(self.file.clone());
        self.new_file = true;
        Ok(())
    }

    /// Says once that the journal can't be written, and once that it can again.
    fn tell<T>(&mut self, done: &Result<T, JournalError>) {
        match done {
            Err(failure @ JournalError::Write { .. }) if !self.failing => {
                error!(%failure, "the journal can't be written: local writes wait in redis until it can");
                self.failing = true;
            }
            Ok(_) if self.failing => {
                info!("the journal can be written again");
                self.failing = false;
            }
            _ => {}
        }
    }

    /// Whether the last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing || self.ended.is_some()
    }
}
