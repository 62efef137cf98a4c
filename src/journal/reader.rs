//! Reading the journal: recent blocks from memory, older ones from the files.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::error;

use super::core::Core;
use super::record::Record;
use super::segment::{Broken, Records, SegmentFile, Wanted};
use super::visible::{Cursor, Found};
use super::{Block, Head, NotInJournal};
use crate::position::{FollowerOffset, Offset};

/// So many bytes are read ahead from a file at once, so that small blocks share the hop to a thread
/// for blocking work.
const READ_AHEAD: u64 = 256 << 10;

/// What a link's reader gets next.
#[derive(Debug)]
pub enum Read {
    /// Units; those at or before the reader's position are to be passed over.
    Block(Arc<Block>),
    /// All blocks were read; the site stands here, with this seen.
    Idle(Head),
}

#[derive(Debug)]
struct Reader {
    core: Arc<Core>,
    epoch: u64,
    head: watch::Receiver<Head>,
    cursor: Option<Cursor>,
    ahead: VecDeque<Arc<Block>>,
}

impl Reader {
    fn new(core: Arc<Core>, epoch: u64) -> Self {
        let head = core.watch();
        Self { core, epoch, head, cursor: None, ahead: VecDeque::new() }
    }

    /// Cancel safe.
    async fn next(&mut self, wanted: Wanted) -> Result<Read, NotInJournal> {
        loop {
            self.head.mark_unchanged();
            let found = {
                let visible = self.core.visible.lock();
                while let Some(block) = self.ahead.pop_front() {
                    if !wanted.passes_over(&block) {
                        return Ok(Read::Block(block));
                    }
                }
                visible.find_in(self.epoch, wanted, self.cursor)?
            };
            let (file, from, to) = match found {
                Found::Block(block) => {
                    self.cursor = None;
                    return Ok(Read::Block(block));
                }
                Found::Idle(head) => return Ok(Read::Idle(head)),
                Found::OnDisk { file, from, to } => (file, from, to),
            };
            let sequence = file.sequence;
            let read = tokio::task::spawn_blocking(move || read_blocks(&file, from, to, wanted));
            let (blocks, at) = match read.await {
                Ok(read) => read?,
                Err(_) => return Err(NotInJournal::Unreadable("shutting down".to_owned())),
            };
            self.ahead.extend(blocks);
            self.cursor = Some(Cursor { sequence, at });
        }
    }

    async fn moved(&mut self) {
        // The sender lives in the core that we hold.
        let _ = self.head.changed().await;
    }
}

/// The wanted blocks of some records; and where the next record begins.
fn read_blocks(
    file: &SegmentFile,
    from: u64,
    to: u64,
    wanted: Wanted,
) -> Result<(Vec<Arc<Block>>, u64), NotInJournal> {
    let mut records = Records::new(from, to);
    let mut blocks = Vec::new();
    while records.at < from + READ_AHEAD {
        let at = records.at;
        let record = match records.next(&file.file) {
            Ok(None) => break,
            Ok(Some(body)) => Record::read(&body).map_err(Broken::from),
            Err(broken) => Err(broken),
        };
        let record = record.map_err(|broken| {
            error!(file = %file.path.display(), at, ?broken, "the journal can't be read");
            NotInJournal::Unreadable(format!("{} at byte {at}: {broken:?}", file.path.display()))
        })?;
        if let Record::Append { block: Some(block), .. } = record
            && !wanted.passes_over(&block)
        {
            blocks.push(block);
        }
    }
    Ok((blocks, records.at))
}

/// Reads units in order, for a link.
#[derive(Debug)]
pub struct UnitReader {
    reader: Reader,
    at: Offset,
}

impl UnitReader {
    pub(super) fn new(core: Arc<Core>, epoch: u64, at: Offset) -> Self {
        Self { reader: Reader::new(core, epoch), at }
    }

    /// In which history it reads.
    pub(super) fn epoch(&self) -> u64 {
        self.reader.epoch
    }

    /// What follows; at the end, where the site stands, or that the history broke. Waits for the disk only. Cancel safe.
    pub async fn read(&mut self) -> Result<Read, NotInJournal> {
        let read = self.reader.next(Wanted::Units(self.at)).await?;
        if let Read::Block(block) = &read {
            self.at = block.end;
        }
        Ok(read)
    }

    /// Waits until the journal has moved since the last read. Cancel safe.
    pub async fn moved(&mut self) {
        self.reader.moved().await;
    }
}

/// Reads bytes in order, for a follower.
#[derive(Debug)]
pub struct FollowerReader {
    reader: Reader,
    at: FollowerOffset,
}

impl FollowerReader {
    pub(super) fn new(core: Arc<Core>, epoch: u64, at: FollowerOffset) -> Self {
        Self { reader: Reader::new(core, epoch), at }
    }

    /// What follows, `None` at the end. Waits for the disk only. Cancel safe.
    pub async fn read(&mut self) -> Result<Option<Bytes>, NotInJournal> {
        let Read::Block(block) = self.reader.next(Wanted::Bytes(self.at)).await? else {
            return Ok(None);
        };
        let skip = self.at.0.checked_sub(block.follower_start.0);
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        let Some(skip) = skip.filter(|skip| *skip <= block.payload.len()) else {
            return Err(NotInJournal::Unreadable(format!("no byte {} is kept", self.at)));
        };
        self.at = block.follower_end();
        Ok(Some(block.payload.slice(skip..)))
    }

    /// Up to where it has read.
    pub fn at(&self) -> FollowerOffset {
        self.at
    }

    /// Waits until the journal has moved since the last read. Cancel safe.
    pub async fn moved(&mut self) {
        self.reader.moved().await;
    }
}
