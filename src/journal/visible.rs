//! What readers may see of the journal: segments, recent blocks in memory, and where it ends.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::warn;

use super::record::State;
use super::segment::{Segment, SegmentFile, Wanted};
use super::writer::Written;
use super::{Block, Head, NotInJournal};
use crate::position::{FollowerOffset, Offset};

#[derive(Debug)]
pub(super) struct Visible {
    pub state: State,
    pub epoch: u64,
    /// The recent blocks.
    pub blocks: VecDeque<Arc<Block>>,
    /// Bytes that they take.
    pub cached: usize,
    pub max_cached: usize,
    max_size: u64,
    segment_size: u64,
    /// Units that end at or before this are on disk only.
    cached_from: Offset,
    cached_from_follower: FollowerOffset,
    pub segments: VecDeque<Segment>,
}

/// Where a reader goes on reading files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub sequence: u64,
    pub at: u64,
}

/// What a reader finds.
pub(super) enum Found {
    Block(Arc<Block>),
    /// All was read.
    Idle(Head),
    /// It is on disk, from here on, up to an end.
    OnDisk {
        file: Arc<SegmentFile>,
        from: u64,
        to: u64,
    },
}

impl Visible {
    pub(super) fn new(
        state: State,
        segments: VecDeque<Segment>,
        max_cached: usize,
        (max_size, segment_size): (u64, u64),
    ) -> Self {
        Self {
            cached_from: state.last_unit,
            cached_from_follower: state.follower,
            state,
            epoch: 0,
            blocks: VecDeque::new(),
            cached: 0,
            max_cached,
            max_size,
            segment_size,
            segments,
        }
    }

    pub(super) fn head(&self) -> Head {
        Head {
            position: self.state.position,
            database: self.state.database,
            follower: self.state.follower,
            follower_database: self.state.follower_database,
            seen: self.state.seen.clone(),
            floors: self.state.floors.clone(),
            time: self.state.time,
            epoch: self.epoch,
            units: self.state.units,
        }
    }

    /// Units that end at or before this are dropped or were never here; likewise for followers.
    pub(super) fn first(&self) -> (Offset, FollowerOffset) {
        self.segments.front().map_or((self.cached_from, self.cached_from_follower), |segment| {
            (segment.first, segment.first_follower)
        })
    }

    /// Bytes on disk.
    pub(super) fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    /// Takes in what was written.
    pub(super) fn add(&mut self, written: Written) {
        if written.fresh {
            while let Some(segment) = self.segments.pop_front() {
                remove(&segment.file);
            }
            self.blocks.clear();
            self.cached = 0;
            self.cached_from = written.state.last_unit;
            self.cached_from_follower = written.state.follower;
            self.epoch += 1;
        }
        if let Some(segment) = written.segment {
            self.segments.push_back(segment);
            self.drop_oldest();
        }
        if written.end > written.at
            && let Some(segment) = self.segments.back_mut()
        {
            segment.add(written.at, written.end, self.state.last_unit, self.state.follower);
        }
        if let Some(block) = written.block {
            self.keep(block);
        }
        self.state = written.state;
    }

    /// Room is made for the whole of the segment that was begun.
    fn drop_oldest(&mut self) {
        while self.segments.len() > 1 && self.size() + self.segment_size > self.max_size {
            if let Some(segment) = self.segments.pop_front() {
                remove(&segment.file);
            }
        }
    }

    fn keep(&mut self, block: Arc<Block>) {
        self.cached += block.memory();
        self.blocks.push_back(block);
        while self.cached > self.max_cached {
            let Some(oldest) = self.blocks.pop_front() else { break };
            self.cached -= oldest.memory();
            self.cached_from_follower = oldest.follower_end();
            if let Some(last) = oldest.units.last() {
                self.cached_from = last.end;
            }
        }
    }

    /// What comes next for a reader; `cursor` is where it stands in the files, if it does.
    pub(super) fn find(
        &self,
        wanted: Wanted,
        cursor: Option<Cursor>,
    ) -> Result<Found, NotInJournal> {
        self.check_kept(wanted)?;
        let in_memory = match wanted {
            Wanted::Units(offset) => offset >= self.cached_from,
            Wanted::Bytes(offset) => offset >= self.cached_from_follower,
        };
        if in_memory {
            let next = self.blocks.partition_point(|block| match wanted {
                Wanted::Units(offset) => block.end <= offset,
                Wanted::Bytes(offset) => block.follower_end() <= offset,
            });
            let found = self.blocks.range(next..).find(|block| !wanted.passes_over(block));
            return Ok(
                found.map_or_else(|| Found::Idle(self.head()), |block| Found::Block(block.clone()))
            );
        }
        let (index, from) = self.place(wanted, cursor);
        let on_disk = self.segments.get(index).map(|segment| Found::OnDisk {
            file: segment.file.clone(),
            from,
            to: segment.end,
        });
        on_disk.ok_or_else(|| NotInJournal::Unreadable("a block is missing".to_owned()))
    }

    pub(super) fn check_kept(&self, wanted: Wanted) -> Result<(), NotInJournal> {
        let (first, first_follower) = self.first();
        match wanted {
            Wanted::Units(asked) if asked < first => Err(NotInJournal::dropped(asked, first)),
            Wanted::Bytes(asked) if asked < first_follower => {
                Err(NotInJournal::dropped(asked, first_follower))
            }
            _ => Ok(()),
        }
    }

    /// The segment's index and the place in it.
    fn place(&self, wanted: Wanted, cursor: Option<Cursor>) -> (usize, u64) {
        if let Some(cursor) = cursor {
            let same = self.segments.binary_search_by_key(&cursor.sequence, |s| s.file.sequence);
            if let Ok(index) = same {
                if cursor.at < self.segments[index].end {
                    return (index, cursor.at);
                }
                return (index + 1, self.segments.get(index + 1).map_or(0, |next| next.records));
            }
        }
        let behind = self.segments.partition_point(|segment| segment.begins_before(wanted));
        let index = behind.saturating_sub(1);
        (index, self.segments.get(index).map_or(0, |segment| segment.seek(wanted)))
    }
}

impl Wanted {
    /// Whether there is nothing wanted in this block.
    pub(super) fn passes_over(self, block: &Block) -> bool {
        match self {
            Self::Units(offset) => block.units.is_empty() || block.end <= offset,
            Self::Bytes(offset) => block.follower_end() <= offset,
        }
    }
}

fn remove(file: &SegmentFile) {
    if let Err(error) = std::fs::remove_file(&file.path) {
        warn!(%error, file = %file.path.display(), "can't remove a segment of the journal");
    }
}
