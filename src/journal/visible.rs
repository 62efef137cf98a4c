//! What readers may see of the journal: segments, recent blocks in memory, and where it ends.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::warn;

use super::record::State;
use super::segment::{Join, Segment, SegmentFile, Wanted};
use super::writer::Written;
use super::{Block, Head, NotInJournal};
use crate::position::{FollowerOffset, Offset, Position};

/// Most histories that are kept when they broke: each takes a file.
const MAX_PASTS: usize = 16;

/// A history that broke: a peer that stands in it has its units still to come.
#[derive(Debug)]
pub(super) struct Past {
    /// At its end.
    pub state: State,
    /// While it was the present one.
    pub epoch: u64,
    /// Where it began, if that is known: its oldest segments may be gone.
    pub began: Option<Offset>,
    pub segments: VecDeque<Segment>,
}

#[derive(Debug)]
pub(super) struct Visible {
    pub state: State,
    pub epoch: u64,
    /// Where this history began, if that is known.
    began: Option<Offset>,
    /// Those before this history, oldest first.
    pub pasts: VecDeque<Past>,
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
        (began, segments): (Option<Offset>, VecDeque<Segment>),
        mut pasts: VecDeque<Past>,
        (max_cached, max_size, segment_size): (usize, u64, u64),
    ) -> Self {
        let mut epoch = 0;
        for past in &mut pasts {
            past.epoch = epoch;
            epoch += 1;
        }
        Self {
            began,
            pasts,
            cached_from: state.last_unit,
            cached_from_follower: state.follower,
            state,
            epoch,
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
        self.all_segments().map(|segment| segment.end).sum()
    }

    /// Those of the present history, and of those before.
    fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        self.pasts.iter().flat_map(|past| &past.segments).chain(&self.segments)
    }

    /// Of the oldest segment.
    pub(super) fn oldest_sequence(&self) -> u64 {
        self.all_segments().next().map_or(0, |oldest| oldest.file.sequence)
    }

    /// Takes in what was written.
    pub(super) fn add(&mut self, written: Written) {
        if written.join != Join::GoesOn {
            let segments = std::mem::take(&mut self.segments);
            let state = self.state.clone();
            let (epoch, began) = (self.epoch, self.began.replace(written.state.last_unit));
            self.pasts.push_back(Past { state, epoch, began, segments });
            let kept = if written.join == Join::Breaks { MAX_PASTS } else { 0 };
            while self.pasts.len() > kept {
                let past = self.pasts.pop_front();
                past.iter().flat_map(|past| &past.segments).for_each(|s| remove(&s.file));
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
        while self.size() + self.segment_size > self.max_size {
            let dropped = match self.pasts.front_mut() {
                Some(past) => past.segments.pop_front(),
                None if self.segments.len() > 1 => self.segments.pop_front(),
                None => return,
            };
            if let Some(segment) = dropped {
                remove(&segment.file);
            }
            if self.pasts.front().is_some_and(|past| past.segments.is_empty()) {
                self.pasts.pop_front();
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
        on_disk(&self.segments, wanted, cursor)
    }

    /// What comes next for a reader that began in this epoch; at the end of a history that broke,
    /// that is said.
    pub(super) fn find_in(
        &self,
        epoch: u64,
        wanted: Wanted,
        cursor: Option<Cursor>,
    ) -> Result<Found, NotInJournal> {
        if epoch == self.epoch {
            return self.find(wanted, cursor);
        }
        let past = self.pasts.iter().find(|past| past.epoch == epoch);
        match (wanted, past) {
            // What was still to be read of it went: that must not look as if it had been read.
            (Wanted::Units(asked), None) => Err(NotInJournal::dropped(asked, self.state.position)),
            (Wanted::Units(asked), Some(past)) if asked < past.state.last_unit => {
                past.check_kept(asked)?;
                on_disk(&past.segments, wanted, cursor)
            }
            _ => Err(NotInJournal::HistoryBroke),
        }
    }

    /// The epoch in which a position was of the present history, and that is over.
    pub(super) fn past_with(&self, position: Position) -> Option<u64> {
        let of = |past: &&Past| {
            past.state.had(position)
                && position.offset <= past.state.position.offset
                && past.check_kept(position.offset).is_ok()
        };
        self.pasts.iter().rev().find(of).map(|past| past.epoch)
    }

    /// Where the history behind this epoch began; its id and its epoch.
    pub(super) fn after(&self, epoch: u64) -> Option<(Position, u64)> {
        let begins = |state: &State, began: Option<Offset>, segments: &VecDeque<Segment>| {
            let offset =
                began.filter(|began| segments.front().is_some_and(|s| s.first == *began))?;
            Some(Position { replid: state.position.replid, offset })
        };
        let mut later = self.pasts.iter().filter(|past| past.epoch > epoch);
        match later.next() {
            Some(past) => Some((begins(&past.state, past.began, &past.segments)?, past.epoch)),
            None if epoch < self.epoch => {
                Some((begins(&self.state, self.began, &self.segments)?, self.epoch))
            }
            None => None,
        }
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
}

impl Past {
    fn check_kept(&self, asked: Offset) -> Result<(), NotInJournal> {
        match self.segments.front() {
            Some(oldest) if oldest.first <= asked => Ok(()),
            oldest => {
                let begins = oldest.map_or(self.state.position.offset, |oldest| oldest.first);
                Err(NotInJournal::dropped(asked, begins))
            }
        }
    }
}

/// What is wanted, in these files.
fn on_disk(
    segments: &VecDeque<Segment>,
    wanted: Wanted,
    cursor: Option<Cursor>,
) -> Result<Found, NotInJournal> {
    let (index, from) = place(segments, wanted, cursor);
    let found = segments.get(index).map(|segment| Found::OnDisk {
        file: segment.file.clone(),
        from,
        to: segment.end,
    });
    found.ok_or_else(|| NotInJournal::Unreadable("a block is missing".to_owned()))
}

/// The segment's index and the place in it.
fn place(segments: &VecDeque<Segment>, wanted: Wanted, cursor: Option<Cursor>) -> (usize, u64) {
    if let Some(cursor) = cursor {
        let same = segments.binary_search_by_key(&cursor.sequence, |s| s.file.sequence);
        if let Ok(index) = same {
            if cursor.at < segments[index].end {
                return (index, cursor.at);
            }
            return (index + 1, segments.get(index + 1).map_or(0, |next| next.records));
        }
    }
    let behind = segments.partition_point(|segment| segment.begins_before(wanted));
    let index = behind.saturating_sub(1);
    (index, segments.get(index).map_or(0, |segment| segment.seek(wanted)))
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
